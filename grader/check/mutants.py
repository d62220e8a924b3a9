"""Judges mutants of the references: each is graded as a student's answer would be, and a suite is worth what it rejects."""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from grader.base.outcome import Status
from grader.check.mutate import Mutant, mutants_of
from grader.course.manifest import Course, Module
from grader.protocol.confinement import Layers
from grader.runner.jobs import grade_units
from grader.runner.results import ModuleResult
from grader.runner.store import Entry
from grader.runner.units import Unit
from grader.submissions.sources import Source

__all__ = ["LEAST_KILLED", "MutantReport", "Survivor", "equivalents_problems", "judge_mutants"]

LEAST_KILLED = 0.97
"""What share of the mutants that are not equivalent a suite has to kill."""
_Verdict = Literal["killed", "unjudged", "skipped", "passed"]
"""What the tests said of a mutant: one failed; all were skipped; none failed, and some were skipped; all passed."""
_CPU_SECONDS, _WALL_SECONDS = 3.0, 60.0
"""A mutant that loops for ever is killed by the first; the references' tests take less. A busy machine kills none by the second."""


class Equivalent(Struct, frozen=True, forbid_unknown_fields=True):
    """A mutant that no test can kill: it answers everything as the reference does, at least on a machine without a GPU."""

    task: str
    line: str
    """The changed line of the reference, on one line."""
    becomes: str
    """The same after the change."""
    why: str
    needs_gpu: bool = False
    """Whether a test that needs a GPU kills it. Where such tests are skipped, it is not counted."""


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    equivalent: tuple[Equivalent, ...] = ()


class Survivor(Struct, frozen=True):
    """A mutant that passes all tests of its task."""

    module: str
    task: str
    line: int
    what: str
    before: str
    after: str


class ModuleMutants(Struct, frozen=True):
    """What became of a module's mutants. `needs_gpu` and `unjudged` count those that can't be judged here, and no other number does."""

    module: str
    mutants: int
    killed: int
    equivalent: int
    needs_gpu: int
    unjudged: int

    @property
    def share(self) -> float:
        """The killed ones' share of those that are not equivalent."""
        return _share(self.mutants, self.killed, self.equivalent)


class MutantReport(Struct):
    """What became of the mutants, in all and by module. `equivalent` counts those listed as such that were judged."""

    mutants: int = 0
    killed: int = 0
    equivalent: int = 0
    needs_gpu: int = 0
    unjudged: int = 0
    """Those of which nothing is known, because this machine skips all tests of their task."""
    survived: list[Survivor] = []
    problems: list[str] = []
    modules: list[ModuleMutants] = []

    @property
    def share(self) -> float:
        """The killed ones' share of those that are not equivalent."""
        return _share(self.mutants, self.killed, self.equivalent)


def judge_mutants(
    course: Course,
    modules: Sequence[Module],
    *,
    seed: int,
    sample: int | None,
    jobs: int,
    layers: Layers | None,
    on_progress: Callable[[int, int, str], None],
) -> MutantReport:
    """Make mutants of the modules' tasks and grade each until a test fails.

    Args:
        course: the course.
        modules: the modules, with the tasks that are meant.
        seed: the seed of the grading.
        sample: judge so many of all mutants; which ones depends on the course's files alone. None judges all.
        jobs: how many grading processes run at once.
        layers: how their workers are confined.
        on_progress: is told how many mutants are done, how many there are, and what the last one was.

    Raises: Refused.
    """
    report = MutantReport()
    chosen: dict[str, tuple[Module, Mutant, Equivalent | None]] = {}
    for module in modules:
        mutants = _mutants(course, module)
        listed, problems = _listed(course, module, mutants)
        report.problems += problems
        for mutant in mutants:
            chosen[f"{module.name}.{mutant.tasks[0]}, mutant {len(chosen)}"] = module, mutant, listed.get(mutant)
    if sample is not None:
        salt = _digest(path.read_bytes() for module in modules for path in (course.solution(module.name), course.hidden_suite(module.name)))
        ranked = sorted(chosen, key=lambda name: _digest([salt, chosen[name][1].text.encode()]))
        chosen = {name: chosen[name] for name in ranked[:sample]}
    judged: dict[str, _Verdict] = {}

    def on_done(unit: Unit, entry: Entry) -> None:
        module, mutant, _ = chosen[unit.submission]
        if fault := _fault(entry.result):
            report.problems.append(f"{module.name}: {mutant.tasks[0]}, line {mutant.line}, {mutant.what}: {fault}")
        judged[unit.submission] = _verdict(entry.result)
        on_progress(len(judged), len(chosen), unit.submission)

    units = [
        Unit(name, _limited(module, mutant), Source(mutant.text), seed, until_failure=True, explain=False)
        for name, (module, mutant, _) in chosen.items()
    ]
    grade_units(units, course, jobs=jobs, layers=layers, on_done=on_done)
    counts = {module.name: Counter[str]() for module in modules}
    for name, (module, mutant, listed_as) in chosen.items():
        if judged[name] == "unjudged":
            became = "unjudged"
        elif judged[name] == "killed":
            became = "killed"
            if listed_as and not listed_as.needs_gpu:
                report.problems.append(
                    f"{_place(course, module)}: a test kills {mutant.after!r} ({mutant.tasks[0]}): take it out of the list"
                )
        elif listed_as and listed_as.needs_gpu and judged[name] == "skipped":
            became = "needs_gpu"
        elif listed_as and not listed_as.needs_gpu:
            became = "equivalent"
        else:
            became = "survived"
            report.survived.append(Survivor(module.name, mutant.tasks[0], mutant.line, mutant.what, mutant.before, mutant.after))
        counts[module.name][became] += 1
    for name, count in counts.items():
        unknown = count["needs_gpu"], count["unjudged"]
        report.modules.append(ModuleMutants(name, count.total() - sum(unknown), count["killed"], count["equivalent"], *unknown))
    for column in ("mutants", "killed", "equivalent", "needs_gpu", "unjudged"):
        setattr(report, column, sum(getattr(row, column) for row in report.modules))
    return report


def equivalents_problems(course: Course, module: Module) -> list[str]:
    """Mutants that are listed as equivalent and no longer exist."""
    return _listed(course, module, _mutants(course, module))[1]


def _verdict(result: ModuleResult) -> _Verdict:
    if result.all_skipped:
        return "unjudged"
    statuses = {test.status for task in result.tasks for test in task.tests}
    if statuses - {Status.PASSED, Status.SKIPPED}:
        return "killed"
    return "skipped" if Status.SKIPPED in statuses else "passed"


def _share(mutants: int, killed: int, equivalent: int) -> float:
    return killed / (mutants - equivalent) if mutants > equivalent else 1.0


def _mutants(course: Course, module: Module) -> list[Mutant]:
    return mutants_of(course.solution(module.name).read_text(), [task.name for task in module.tasks])


def _listed(course: Course, module: Module, mutants: Sequence[Mutant]) -> tuple[dict[Mutant, Equivalent], list[str]]:
    """The mutants that are listed as equivalent, with their entries, and what is wrong with the list."""
    path = course.equivalents(module.name)
    if not path.is_file():
        return {}, []
    place = _place(course, module)
    try:
        entries = msgspec.convert(tomllib.loads(path.read_text()), _File).equivalent
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        return {}, [f"{place} can't be read: {error}"]
    found: dict[Mutant, Equivalent] = {}
    problems = []
    tasks = {task.name for task in module.tasks}
    for entry in entries:
        matching = [
            mutant for mutant in mutants if entry.task in mutant.tasks and (mutant.before, mutant.after) == (entry.line, entry.becomes)
        ]
        if not entry.why.strip():
            problems.append(f"{place}: {entry.becomes!r} ({entry.task}) has no reason: say why no test can tell it from the reference")
        if not matching and (entry.task in tasks or entry.task not in {task.name for task in course.module(module.name).tasks}):
            problems.append(
                f"{place}: there is no mutant {entry.becomes!r} of {entry.line!r} in {entry.task} any more: take it out of the list"
            )
        found.update(dict.fromkeys(matching, entry))
    return found, problems


def _limited(module: Module, mutant: Mutant) -> Module:
    tasks = tuple(
        msgspec.structs.replace(
            task, limits=msgspec.structs.replace(task.limits, test_cpu_seconds=_CPU_SECONDS, test_seconds=_WALL_SECONDS)
        )
        for task in module.tasks
        if task.name in mutant.tasks
    )
    return msgspec.structs.replace(module, tasks=tasks)


def _fault(result: ModuleResult) -> str | None:
    """Why the mutant could not be judged."""
    return next((test.message for task in result.tasks for test in task.tests if test.status is Status.GRADER_ERROR), None)


def _place(course: Course, module: Module) -> Path:
    return course.equivalents(module.name).relative_to(course.root)


def _digest(parts: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).digest()
