"""Judges how known mistakes are named: every answer of the banks is graded like a student's, and what it is taken for is counted."""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from grader.course.banks import BankEntry, answer_with, read_bank
from grader.course.manifest import Course, Module
from grader.protocol.confinement import Layers
from grader.runner.jobs import grade_units
from grader.runner.store import Entry
from grader.runner.units import Unit
from grader.submissions.sources import Source

__all__ = ["LEAST_NAMED", "ModuleNaming", "NamingReport", "judge_naming"]

LEAST_NAMED = 0.9
"""What share of the known mistakes has to be named."""


class ModuleNaming(Struct):
    """What the mistakes of a module's bank were taken for."""

    module: str
    mistakes: int = 0
    named: int = 0
    """Taken for what they are, and for nothing else."""
    alike: int = 0
    """Not named, because another known mistake behaves the same on every test."""
    unknown: int = 0
    """Not named: their behaviour differs from run to run."""
    wrong: int = 0
    """Taken for another mistake."""
    as_another: int = 0
    """Would be taken for another mistake if they were not in the bank."""


class NamingReport(Struct):
    """What known mistakes and right answers were taken for. Lists hold "module.task.name: what it was taken for"."""

    modules: list[ModuleNaming] = []
    alike: list[str] = []
    unknown: list[str] = []
    wrong: list[str] = []
    as_another: list[str] = []
    alternatives: int = 0
    alternatives_named: list[str] = []

    @property
    def mistakes(self) -> int:
        """How many mistakes there are."""
        return sum(row.mistakes for row in self.modules)

    @property
    def named(self) -> int:
        """How many were taken for what they are."""
        return sum(row.named for row in self.modules)

    @property
    def share(self) -> float:
        """The share of the named ones."""
        return self.named / self.mistakes if self.mistakes else 1.0


def judge_naming(
    course: Course,
    modules: Sequence[Module],
    *,
    seed: int,
    jobs: int,
    layers: Layers | None,
    on_progress: Callable[[int, int, str], None],
) -> NamingReport:
    """Grade every misconception and every alternative of the modules' tasks, and see what they are taken for. Raises: Refused."""
    report = NamingReport()
    rows: dict[str, ModuleNaming] = {}
    chosen: dict[str, tuple[str, BankEntry, bool]] = {}
    units = []
    for module in modules:
        rows[module.name] = ModuleNaming(module.name)
        solution = course.solution(module.name).read_text()
        for path, kind in ((course.misconceptions(module.name), "misconception"), (course.alternatives(module.name), "alternative")):
            bank = read_bank(path.read_text(), kind)
            for entry in bank.entries:
                if entry.task in {task.name for task in module.tasks}:
                    name = f"{module.name}.{entry.task}.{entry.name}"
                    only = msgspec.structs.replace(module, tasks=(module.task(entry.task),))
                    chosen[f"{kind} {name}"] = name, entry, kind == "misconception"
                    units.append(Unit(f"{kind} {name}", only, Source(answer_with(solution, bank, [entry])), seed))
    done = 0

    def on_done(unit: Unit, graded: Entry) -> None:
        nonlocal done
        done += 1
        name, entry, is_mistake = chosen[unit.submission]
        _count(report, rows[unit.module.name], name, entry, is_mistake, graded)
        on_progress(done, len(units), name)

    grade_units(units, course, jobs=jobs, layers=layers, on_done=on_done)
    report.modules = list(rows.values())
    for found in (report.alike, report.unknown, report.wrong, report.as_another, report.alternatives_named):
        found.sort()
    return report


def _count(report: NamingReport, row: ModuleNaming, name: str, entry: BankEntry, is_mistake: bool, graded: Entry) -> None:
    """Enter what one answer was taken for."""
    if graded.result.all_skipped:
        return  # nothing is known of it on this machine
    taken_for = graded.alike.get(entry.task, [])
    others = [other for other in taken_for if other != entry.name]
    if not is_mistake:
        report.alternatives += 1
        report.alternatives_named += [f"{name}: {other}" for other in taken_for]
        return
    row.mistakes += 1
    if entry.name not in taken_for:
        if len(taken_for) == 1:
            row.wrong += 1
            report.wrong.append(f"{name}: {taken_for[0]}")
        else:
            row.unknown += 1
            report.unknown.append(name)
    elif others:
        row.alike += 1
        report.alike.append(f"{name}: {', '.join(others)}")
    else:
        row.named += 1
    if len(others) == 1:
        row.as_another += 1
        report.as_another.append(f"{name}: {others[0]}")
