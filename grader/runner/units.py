"""Units of work: one module of one submission each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from grader.base.outcome import Status
from grader.course.manifest import Module
from grader.runner.results import ModuleTiming, joined, module_fault
from grader.runner.store import Entry
from grader.submissions.sources import Source, Submission

__all__ = ["ZYGOTE_GONE", "Unit", "apart", "grading_fault", "take", "together", "units_of"]

ZYGOTE_GONE = 70
"""The exit status of a job whose zygote is gone. Its server ends then too, and the unit is tried again."""


@dataclass(frozen=True)
class Unit:
    """One module of one submission."""

    submission: str
    module: Module
    source: Source
    seed: int
    shuffled: bool = False
    until_failure: bool = False
    """End with the first test that does not pass: one is enough to reject."""
    explain: bool = True
    """Look for the known mistake behind a failed comparison."""
    sample: bool = False
    """Run only the first test of each task."""


def units_of(submissions: Iterable[Submission], modules: Iterable[Module], seed: int) -> list[Unit]:
    """What there is to grade, in order."""
    modules = list(modules)
    return [
        Unit(submission.id, module, submission.sources.get(module.name) or Source.not_handed_in(module.name), seed)
        for submission in submissions
        for module in modules
        if not submission.only or module.name in submission.only
    ]


def take(pending: list[Unit], last: Unit | None) -> Unit:
    """Take the next unit from the end of the list. Prefer one with the last unit's seed, because a job keeps reference answers per seed."""
    matches = (index for index in reversed(range(len(pending))) if last is not None and pending[index].seed == last.seed)
    return pending.pop(next(matches, -1))


def apart(unit: Unit) -> list[Unit]:
    """The unit's tasks, each as a unit of its own."""
    return [replace(unit, module=msgspec.structs.replace(unit.module, tasks=(task,))) for task in unit.module.tasks]


def together(entries: Sequence[Entry]) -> Entry:
    """One entry from those of a unit's tasks."""
    timings = [entry.timing for entry in entries]
    timing = ModuleTiming(
        seconds=sum(timing.seconds for timing in timings),
        cpu_seconds=sum(timing.cpu_seconds for timing in timings),
        peak_kib=max(timing.peak_kib for timing in timings),
        tests={test: seconds for timing in timings for test, seconds in timing.tests.items()},
    )
    return Entry(joined([entry.result for entry in entries]), timing)


def grading_fault(module: Module, reason: str, status: Status = Status.GRADER_ERROR) -> Entry:
    """The result of a unit that could not be graded: the grader's fault, or with `Status.ERROR` that of what came back."""
    return Entry(module_fault(module, reason, status), ModuleTiming(0.0, 0.0, 0, {}))
