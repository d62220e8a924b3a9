"""One run of `grader grade`: settle the seed, grade what is not in the store yet, and put the results together."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct

from grader.base.files import write_atomically
from grader.base.outcome import Status
from grader.course.manifest import Course, Module
from grader.protocol.confinement import Layers
from grader.runner.jobs import Refused, grade_units
from grader.runner.packages import missing_packages
from grader.runner.problems import problems
from grader.runner.references import reference_units
from grader.runner.results import SCHEMA, ModuleTiming, Results, environment, submission_result
from grader.runner.store import Entry, Store
from grader.runner.units import Unit, units_of
from grader.sandbox.supervisor.isolation import draw_seed, isolation
from grader.submissions.sources import Submission

__all__ = ["Finished", "Interrupted", "Progress", "Timings", "discard", "faults", "run", "write"]

_UNFINISHED = ".unfinished.json"
"""The seed of a run that has not written its results yet, so that the next run can go on with it."""


class Interrupted(Exception):
    """The run was interrupted. What is done is kept; the text says how much that is."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    total: int
    what: str
    """The unit that was finished last; empty at the beginning."""


class Timings(Struct, frozen=True):
    """timings.json: what differs from run to run."""

    host: str
    started: str
    """ISO 8601, in UTC."""
    seconds: float
    submissions: dict[str, dict[str, ModuleTiming]]
    """By submission and module."""


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end."""

    results: Results
    timings: Timings


def run(
    course: Course,
    modules: Sequence[Module],
    submissions: Sequence[Submission],
    out: Path,
    *,
    seed: int | None,
    jobs: int,
    layers: Layers | None,
    on_progress: Callable[[Progress], None],
    absent: Mapping[str, str] = MappingProxyType({}),
    elsewhere: Callable[..., None] | None = None,
) -> Finished:
    """Grade the submissions.

    Args:
        course: the course.
        modules: what is graded of it.
        submissions: the students' modules.
        out: an existing folder, where finished work is kept.
        seed: the run's; None takes that of an unfinished run in `out`, or else draws one.
        jobs: how many processes grade.
        layers: what confines students' code.
        on_progress: called at the beginning, and when a unit is finished.
        absent: why there is nothing of these students.
        elsewhere: what grades in place of `grade_units` on this machine; `grade_on_cluster` with its address.

    Raises: Refused, Interrupted.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    if missing := missing_packages(course):
        names = " ".join(missing)
        raise Refused(
            f"course.toml names packages that are not installed where student code runs: `python -m pip install {names}`, or strike them."
        )
    seed = _settle_seed(out, seed)
    record, here = isolation(layers), environment()
    store = Store(out / ".store", course, here, record, seed)
    units = units_of(submissions, modules, seed)
    kept = {unit: store.get(store.key(unit.module, unit.source)) for unit in units}
    entries = {(unit.submission, unit.module.name): entry for unit, entry in kept.items() if entry is not None}
    todo = [unit for unit, entry in kept.items() if entry is None]
    on_progress(Progress(len(entries), len(units), ""))

    def on_done(unit: Unit, entry: Entry) -> None:
        entries[unit.submission, unit.module.name] = entry
        if not any(task.status is Status.GRADER_ERROR for task in entry.result.tasks):
            store.put(store.key(unit.module, unit.source), entry)
        on_progress(Progress(len(entries), len(units), f"{unit.submission}: {unit.module.name}"))

    try:
        references = reference_units(todo, course)
        grade = elsewhere or partial(grade_units, jobs=min(jobs, max(1, len(todo))))
        grade(todo, course, layers=layers, on_done=on_done, references=references)
    except Refused:
        if not entries:  # a reference that fails under one seed may pass under another
            (out / _UNFINISHED).unlink(missing_ok=True)
        raise
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted: {len(entries)} of {len(units)} are done and kept. The same command goes on from here.") from None

    own: dict[str, dict[str, Entry]] = {submission.id: {} for submission in submissions}
    for unit in units:
        own[unit.submission][unit.module.name] = entries[unit.submission, unit.module.name]
    graded = []
    for submission in submissions:
        mine = own[submission.id]
        files = {name: source.file for name, source in submission.sources.items() if source.file and name in mine}
        graded.append(submission_result(submission.id, [entry.result for entry in mine.values()], files))
    timings = Timings(
        host=platform.node(),
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - clock, 3),
        submissions={id: {name: entry.timing for name, entry in modules.items()} for id, modules in own.items()},
    )
    return Finished(Results(SCHEMA, seed, here, record, graded, problems(submissions, graded, absent), course.feedback), timings)


def write(finished: Finished, out: Path) -> None:
    """Write results.json and timings.json."""
    for name, value in (("results.json", finished.results), ("timings.json", finished.timings)):
        write_atomically(out / name, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
    discard(out)


def discard(out: Path) -> None:
    """Leave the results in a folder as they are: a run is over, and the next one draws its own seed."""
    (out / _UNFINISHED).unlink(missing_ok=True)


def faults(results: Results) -> list[str]:
    """What the grader itself failed at, one sentence each."""
    return [
        f"{submission.id}, {task.name}: {test.message}"
        for submission in results.submissions
        for module in submission.modules
        for task in module.tasks
        for test in task.tests
        if test.status is Status.GRADER_ERROR
    ]


def _settle_seed(out: Path, seed: int | None) -> int:
    """The given seed, or that of an unfinished run here, or a fresh one. It is noted until the results are written."""
    note = out / _UNFINISHED
    if seed is None:
        try:
            seed = msgspec.json.decode(note.read_bytes(), type=int)
        except (OSError, msgspec.DecodeError):
            seed = draw_seed()
    write_atomically(note, msgspec.json.encode(seed))
    return seed
