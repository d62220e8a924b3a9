"""Tries references in workers before anybody is graded, so that what a machine lacks is not taken for the students' fault.

A worker sees less than the trusted process, for example no package that comes by PYTHONPATH or a `.pth` file. What fails there for the
reference fails for every student.
"""

from collections.abc import Iterable

from grader.base.outcome import Status
from grader.course.manifest import Course, Module
from grader.runner.store import Entry
from grader.runner.units import Unit
from grader.submissions.sources import Source

__all__ = ["reference_unit", "reference_units", "refusal"]

_NOT_THE_WORKERS = (Status.PASSED, Status.SKIPPED, Status.GRADER_ERROR)
"""A fault of the suite's is no reason to refuse: every student's result will say so itself."""


def reference_units(units: Iterable[Unit], course: Course) -> list[Unit]:
    """A unit for the reference of each module that was handed in. Jobs keep its answers for the students' units."""
    modules = {unit.module: unit.seed for unit in units if not unit.source.problem}
    tried = [reference_unit(module, course, seed) for module, seed in modules.items()]
    return [unit for unit in tried if unit is not None]


def reference_unit(module: Module, course: Course, seed: int) -> Unit | None:
    """The module's reference, handed in as a student's, with the first test of each task. None if there is no reference to read."""
    try:
        text = course.solution(module.name).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return Unit("the reference", module, Source(text), seed, explain=False, sample=True)


def refusal(entry: Entry) -> str:
    """Why nobody may be graded, after a reference's result; empty if it passed."""
    module = entry.result
    for task in module.tasks:
        for test in task.tests:
            if test.status not in _NOT_THE_WORKERS:
                return (
                    f"the reference of {module.name} does not pass in a worker on this machine, so nobody was graded: {task.name} is "
                    f"{test.status}: {test.message.rstrip('.')}. A package that it needs has to be installed in the environment of "
                    "this Python, because workers see nothing that comes by PYTHONPATH or a .pth file. "
                    f"`grader check --module {module.name}` tells more."
                )
    return ""
