"""Units of work: in which order jobs take them, when they end, and how their questions travel."""

import importlib.util

import cloudpickle
import torch.nn.utils.rnn

from grader.base.outcome import Status
from grader.grading.engine import Engine
from grader.protocol.probes import _imported_submodules
from grader.runner.units import Unit, take
from grader.submissions.sources import Source
from tests.grader.conftest import RIGHT


def test_a_job_stays_with_its_seed(course):
    """It takes the next unit with the seed that it had last, whose answers it keeps; where there is none, the next of all."""
    pending = [Unit(name, course.modules[0], Source(RIGHT), seed) for name, seed in [("d", 1), ("c", 2), ("b", 1), ("a", 2)]]
    order, last = "", None
    while pending:
        last = take(pending, last)
        order += last.submission
    assert order == "acbd"


def test_a_unit_can_end_with_its_first_failure(course, zygote):
    """The tests before the failure, the failure, and none behind it."""
    from grader.runner.job import grade

    wrong = RIGHT.replace("x + x", "x * 3")
    units = [Unit("someone", course.modules[0], Source(wrong), 1, until_failure=until_failure) for until_failure in (False, True)]
    whole, part = ([test for task in grade(unit, Engine(course, zygote)).result.tasks[:1] for test in task.tests] for unit in units)
    first = [test.status for test in whole].index(Status.FAILED)
    assert part == whole[: first + 1]
    assert len(part) < len(whole)


def test_submodules_are_found_as_by_cloudpickle():
    """Those that a function reaches by attribute, at any depth, where they are imported."""

    def function(x):
        return torch.nn.utils.rnn.pad_sequence(torch.nn.functional.relu(x)), torch.nothing.of.the.kind

    spec = importlib.util.find_spec("cloudpickle.cloudpickle")
    untouched = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(untouched)
    arguments = function.__code__, [torch, cloudpickle, 3]
    found, expected = _imported_submodules(*arguments), untouched._find_imported_submodules(*arguments)
    assert {module.__name__ for module in found} == {module.__name__ for module in expected} > {"torch.nn.utils.rnn"}
    assert cloudpickle.cloudpickle._find_imported_submodules is _imported_submodules  # or else every probe takes a millisecond more
