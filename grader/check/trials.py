"""What the gate grades (stubs, references, banks, trivial answers), and what it expects of each result."""

from collections.abc import Callable, Iterable
from itertools import zip_longest

import msgspec

from grader.base.outcome import Status
from grader.check.report import Report
from grader.course.banks import Bank, BankEntry, answer_only, answer_with, read_bank, trivial_answers
from grader.course.manifest import Course, Module
from grader.grading.seeds import derive_seed
from grader.runner.results import ModuleResult, TaskResult
from grader.runner.units import Unit
from grader.submissions.sources import Source

__all__ = ["Trial", "trials_of"]

_Judge = Callable[[ModuleResult], None]


class Trial:
    """One source to grade, and what is expected of its result."""

    def __init__(
        self, module: Module, name: str, text: str, seed: int, judge: _Judge, *, shuffled: bool = False, until_failure: bool = False
    ) -> None:
        self.unit = Unit(name, module, Source(text), seed, shuffled, until_failure, explain=False)
        self.judge = judge


def trials_of(course: Course, module: Module, report: Report, seed: int, seeds: int) -> Iterable[Trial]:
    """All that is graded of a module. Counts go into the report now, findings when the results are judged."""
    solution = course.solution(module.name).read_text()
    fresh = [derive_seed(seed, number) for number in range(seeds)]
    tasks = [task.name for task in module.tasks]
    wrong = _for(tasks, read_bank(course.misconceptions(module.name).read_text(), "misconception"))
    right = _for(tasks, read_bank(course.alternatives(module.name).read_text(), "alternative"))
    report.misconceptions += len(wrong.entries)
    report.alternatives += len(right.entries)

    def count_tests(result: ModuleResult) -> None:
        report.tests += sum(len(task.tests) for task in result.tasks)

    yield Trial(module, "the stub", course.stub(module.name).read_text(), seed, _expect_unimplemented(module, report))
    yield Trial(module, "the reference, in order", solution, seed, count_tests)
    for number in fresh:
        name = f"the reference, seed {number}"
        yield Trial(module, name, solution, number, _expect_full(module, name, report), shuffled=True)
    for column in _columns(module, right):
        text = answer_with(solution, right, column)
        answered = _only(module, [entry.task for entry in column])
        for number in fresh:
            name = f"alternatives {', '.join(entry.name for entry in column)}, seed {number}"
            names = {entry.task: f"alternative {entry.name}, seed {number}" for entry in column}
            yield Trial(answered, name, text, number, _expect_full(module, name, report, names))
    for task in module.tasks:  # only its own tests: the trial "on its own" shows that no other task's tests use it
        only = _only(module, [task.name])
        text = answer_only(solution, task.name, [other.name for other in course.module(module.name).tasks if other.name != task.name])
        name = f"{task.name} on its own"
        yield Trial(only, name, text, seed, _expect_full(module, name, report))
        for entry in (entry for entry in wrong.entries if entry.task == task.name):
            text = answer_with(solution, wrong, [entry])
            expect = _expect_rejection(module, entry, report)
            yield Trial(only, f"misconception {entry.name}", text, seed, expect, until_failure=not entry.stub)
    for name, text in trivial_answers(solution, tasks).items():
        yield Trial(module, f"trivial: {name}", text, seed, _expect_nothing(module, name, report))


def _only(module: Module, tasks: list[str]) -> Module:
    return msgspec.structs.replace(module, tasks=tuple(task for task in module.tasks if task.name in tasks))


def _for(tasks: list[str], bank: Bank) -> Bank:
    """The bank with the entries for these tasks only."""
    return Bank(tuple(entry for entry in bank.entries if entry.task in tasks), bank.statements)


def _columns(module: Module, bank: Bank) -> list[list[BankEntry]]:
    """The first alternatives of all tasks, the second ones, and so on: each list is one submission."""
    rows = [[entry for entry in bank.entries if entry.task == task.name] for task in module.tasks]
    return [[entry for entry in column if entry is not None] for column in zip_longest(*rows)]


def _expect_full(module: Module, name: str, report: Report, by_task: dict[str, str] | None = None) -> _Judge:
    def judge(result: ModuleResult) -> None:
        for task in result.tasks:
            if bad := _first_bad(task):
                who = by_task[task.name] if by_task else name
                report.problems.append(f"{module.name}: {who}: {task.name} is not accepted: {bad}")

    return judge


def _first_bad(task: TaskResult) -> str | None:
    return next((f"{t.id}: {t.status}: {t.message}" for t in task.tests if t.status not in (Status.PASSED, Status.SKIPPED)), None)


def _expect_unimplemented(module: Module, report: Report) -> _Judge:
    def judge(result: ModuleResult) -> None:
        for task in result.tasks:
            for test in task.tests:
                if test.status not in (Status.NOT_IMPLEMENTED, Status.SKIPPED):
                    problem = f"{module.name}: the stub of {task.name} is {test.status}, not not_implemented, in {test.id}: {test.message}"
                    report.problems.append(problem.removesuffix(": "))

    return judge


def _expect_rejection(module: Module, entry: BankEntry, report: Report) -> _Judge:
    name = f"{module.name}.{entry.task}.{entry.name}"

    def judge(result: ModuleResult) -> None:
        if result.all_skipped:
            report.unjudged.append(name)
            return
        rejecting = 0
        for task in result.tasks:
            for test in task.tests:
                if entry.stub and test.status is Status.PASSED:
                    report.problems.append(f"{name}, which the stub shows, passes {test.id}: it must not earn points")
                if test.status in (Status.FAILED, Status.ERROR, Status.OUT_OF_MEMORY):
                    rejecting += 1
                elif test.status not in (Status.PASSED, Status.SKIPPED):
                    report.problems.append(f"{name} is {test.status} in {test.id}, which is no verdict on the mistake: {test.message}")
        (report.rejected if rejecting else report.survived).append(name)

    return judge


def _expect_nothing(module: Module, name: str, report: Report) -> _Judge:
    def judge(result: ModuleResult) -> None:
        for task in result.tasks:
            passed = [test.id for test in task.tests if test.status is Status.PASSED]
            if passed:
                report.problems.append(f"{module.name}: an answer that {name} passes {passed[0]}")
            if any(test.status is Status.GRADER_ERROR for test in task.tests):
                report.problems.append(f"{module.name}: an answer that {name} is a grader_error in {task.name}: {_first_bad(task)}")

    return judge
