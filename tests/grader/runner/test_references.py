"""Before anybody is graded, the reference of each module passes in a worker on this machine."""

import dataclasses
import os

import pytest

from grader.base.outcome import Status
from grader.grading.engine import Engine, _first_of_each_task
from grader.runner.job import grade
from grader.runner.jobs import Refused, grade_units
from grader.runner.references import reference_unit, reference_units, refusal
from grader.runner.results import TestResult, module_fault, score_module
from grader.runner.store import Entry
from grader.runner.units import Unit, grading_fault
from grader.sandbox.supervisor.isolation import machine_layers
from grader.submissions.sources import Source
from tests.grader.conftest import RIGHT, SOLUTION, grader, mini_course


@pytest.fixture
def root(tmp_path):
    """A course whose `Counter` needs a package, one right submission, and the package where only the trusted side sees it."""
    folder = mini_course(tmp_path / "course")
    (folder / "solutions/mini.py").write_text(
        SOLUTION.replace("        self.total += n\n", "        import beside\n\n        self.total += n\n")
    )
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna/mini.py").write_text(RIGHT)
    (tmp_path / "packages/beside").mkdir(parents=True)
    (tmp_path / "packages/beside/__init__.py").touch()
    return folder


def grader_beside(root, *arguments):
    """The command, in a process that finds the package."""
    path = os.pathsep.join([str(root.parent / "packages"), os.environ.get("PYTHONPATH", "")])
    return grader(*arguments, cwd=root, PYTHONPATH=path)


def test_a_reference_that_lacks_a_package_in_a_worker_is_3_and_a_sentence(root):
    """The sentence names module, task and package, and there is neither a result nor a stored zero."""
    done = grader_beside(root, "grade", "../anna")
    said = " ".join(done.stderr.split())
    assert done.returncode == 3, done.stderr
    assert "the reference of mini does not pass in a worker on this machine, so nobody was graded: Counter is error: " in said
    assert "No module named 'beside'" in said
    assert "`grader check --module mini` tells more" in said
    assert list((root / "results").iterdir()) == []


def test_only_what_is_graded_is_tried(root):
    """A task that is not graded may lack its package."""
    assert grader_beside(root, "grade", "../anna", "--task", "double").returncode == 0


def test_the_gate_tries_references_itself(root):
    """It names the problem among others, with its own status."""
    done = grader_beside(root, "check", "--seeds", 1, "--jobs", 1, "--task", "Counter")
    assert (done.returncode, "nobody was graded" in done.stderr) == (1, False)
    assert "the reference, seed" in done.stderr


def test_what_is_tried(course, tmp_path):
    """A module once, if somebody handed it in and its reference can be read."""
    module = course.modules[0]
    handed_in = [Unit(name, module, Source(RIGHT), 7) for name in "ab"]
    (tried,) = reference_units(handed_in, course)
    assert (tried.module, tried.seed, tried.source.text) == (module, 7, SOLUTION)
    assert reference_units([], course) == reference_units([Unit("c", module, Source.not_handed_in("mini"), 7)], course) == []
    absent = type(course).read(mini_course(tmp_path))
    absent.solution("mini").unlink()
    assert reference_unit(module, absent, 1) is None


def test_a_sample_is_the_first_test_of_each_task(course, zygote):
    """That is enough to see that a module runs here."""
    result = grade(reference_unit(course.modules[0], course, 1), Engine(course, zygote)).result
    assert [[test.id for test in task.tests] for task in result.tasks] == [["test_doubles"], ["TestCounter::test_begins_with_the_start"]]
    assert result.score == 5


def test_a_sample_needs_no_gpu_where_it_can(course, zygote):
    """A worker can't open one, so such a test would show nothing."""
    first, second, *_ = Engine(course, zygote).suite("mini").tests
    on_gpu = dataclasses.replace(first, gpu=True)
    assert _first_of_each_task([on_gpu, second]) == [second]
    assert _first_of_each_task([on_gpu]) == [on_gpu]


def test_nobody_is_graded_after_a_refusal(course):
    """References come first, whatever the number of jobs."""
    module, done = course.modules[0], []
    units = [Unit(name, module, Source(RIGHT), 1) for name in "abc"]
    bad = Unit("the reference", module, Source(RIGHT.replace("x + x", "x")), 1, sample=True)
    with pytest.raises(Refused, match="double is failed: "):
        grade_units(units, course, jobs=2, layers=machine_layers(), on_done=lambda *seen: done.append(seen), references=[bad])
    assert done == []


def test_what_is_a_reason_to_refuse(course):
    """A student's status is; a pass, a skipped test and the grader's own fault, which results tell of, are not."""
    module = course.modules[0]

    def entry(status: Status) -> Entry:
        tests = {task.name: [TestResult("t", status, 1.0, "because.")] for task in module.tasks}
        return Entry(score_module(module, tests), grading_fault(module, "").timing)

    refused = {status for status in Status if refusal(entry(status))}
    assert refused == set(Status) - {Status.PASSED, Status.SKIPPED, Status.GRADER_ERROR}
    assert "double is timed_out: because. A package" in refusal(entry(Status.TIMED_OUT))
    assert refusal(Entry(module_fault(module, "broken"), entry(Status.PASSED).timing)) == ""
