"""Grades modules of submissions, one after another, with one zygote: collects each suite once and asks each question once.

The verdict is made here, in the trusted process. The reference's answers are kept until the seed changes, because they are the same for
every submission. For tests that only compare, so are their draws and pickled probes.
"""

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from grader.base.outcome import Outcome, Status
from grader.base.text import one_line
from grader.course.banks import Bank, answer_with, read_bank
from grader.course.digits import Digits
from grader.course.manifest import Course, Module
from grader.grading.case import Answers, Case, judge
from grader.grading.diagnosis import Behaviour, Comparison, Mistake, alike, can_be_named, with_name
from grader.grading.draw import Draw
from grader.grading.seeds import derive_seed
from grader.grading.sides import ReferenceSide, StudentSide, TrustedModule
from grader.grading.suite import HiddenTest, Suite, collect, why_skipped
from grader.sandbox.supervisor.zygote_handle import Usage, ZygoteGone, ZygoteHandle
from grader.submissions.sources import Source

__all__ = ["TRUSTED_SECONDS", "Engine", "Graded", "Record", "TrustedSideHangs", "at_most"]

_WRONG = (Status.FAILED, Status.ERROR)
TRUSTED_SECONDS = 300.0
"""A backstop for a hidden test that hangs on the trusted side. The worker's limits are kept elsewhere."""


@dataclass(frozen=True)
class Record:
    """What became of one hidden test."""

    test: HiddenTest
    behaviour: Behaviour
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """What its end means for the student."""
        return self.behaviour.outcome


@dataclass(frozen=True)
class Graded:
    """What became of a module's tests, in the order in which they ran, and what the workers used."""

    records: tuple[Record, ...]
    usage: Usage
    alike: Mapping[str, tuple[str, ...]]
    """The known mistakes that behave like the answer, by task: their names. Tasks without such mistakes are left out."""


class TrustedSideHangs(BaseException):
    """A hidden test did not end on the trusted side: its author's fault. No `except Exception` on the way may take it for a student's."""


@dataclass
class _Kept:
    """What is kept for one seed: the comparisons of each test, by module and test."""

    seed: int
    scripts: dict[tuple[str, str], tuple[Comparison, ...]] = field(default_factory=dict)


class Engine:
    """Suites and references of a course, loaded at their first use."""

    def __init__(self, course: Course, zygote: ZygoteHandle) -> None:
        self._course, self._zygote = course, zygote
        self._suites: dict[str, Suite] = {}
        self._references: dict[str, ReferenceSide] = {}
        self._mistakes: dict[str, dict[str, list[Mistake]]] = {}
        self._kept = _Kept(-1)

    def reference(self, module: str) -> ReferenceSide:
        """The trusted side of a module."""
        if module not in self._references:
            self._references[module] = ReferenceSide(self._course, module)
        return self._references[module]

    def suite(self, module: str) -> Suite:
        """A module's hidden suite. Raises: SuiteError."""
        if module not in self._suites:
            self._suites[module] = collect(self._course, module)
        return self._suites[module]

    def grade(
        self,
        module: Module,
        source: Source,
        seed: int,
        *,
        shuffled: bool = False,
        until_failure: bool = False,
        explain: bool = True,
        sample: bool = False,
    ) -> Graded:
        """Run the tests of the module's tasks on a source.

        Args:
            module: the module, with the tasks that are graded.
            source: the student's.
            seed: the run's.
            shuffled: run the tests in an order that is drawn from the seed.
            until_failure: end with the first test that does not pass.
            explain: look for the known mistake behind failed tests.
            sample: run only the first test of each task.

        Raises: SuiteError, ZygoteGone.
        """
        if self._kept.seed != seed:
            self._forget(seed)
        tasks = {task.name for task in module.tasks}
        tests = [test for test in self.suite(module.name).tests if test.task in tasks]
        if sample:
            tests = _first_of_each_task(tests)
        if shuffled:
            tests = [tests[index] for index in Draw(derive_seed(seed, "order")).permutation(len(tests)).tolist()]
        student = StudentSide(self._zygote, self._course, module, source, self.reference(module.name))
        records = []
        try:
            for test in tests:
                start = time.monotonic()
                records.append(Record(test, self._behaviour(module.name, test, student, seed), time.monotonic() - start))
                if until_failure and records[-1].outcome.status not in (Status.PASSED, Status.SKIPPED):
                    break
        finally:
            student.close()
        found: dict[str, tuple[str, ...]] = {}
        for task in sorted(tasks) if explain else ():
            same = self._alike(module.name, [record for record in records if record.test.task == task], seed)
            if same:
                found[task] = tuple(mistake.entry.name for mistake in same)
            if len(same) == 1:
                first = next(i for i, record in enumerate(records) if record.test.task == task and record.outcome.status in _WRONG)
                named = with_name(records[first].outcome, same[0].entry.why)
                records[first] = replace(records[first], behaviour=replace(records[first].behaviour, outcome=named))
        return Graded(tuple(records), student.usage, found)

    def _alike(self, module: str, records: Sequence[Record], seed: int) -> list[Mistake]:
        """The known mistakes of a task that behave like an answer on every test that was tried."""
        tried = [record for record in records if record.outcome.status is not Status.SKIPPED]
        if not can_be_named([record.behaviour for record in tried]):
            return []
        tried.sort(key=lambda record: record.outcome.status is Status.PASSED)  # failures tell most mistakes apart
        mistakes = self._known(module).get(tried[0].test.task, [])
        return [mistake for mistake in mistakes if all(alike(r.behaviour, self._mistaken(mistake, module, r.test, seed)) for r in tried)]

    def _mistaken(self, mistake: Mistake, module: str, test: HiddenTest, seed: int) -> Behaviour:
        """How a known mistake does on a test. It is tried once for a seed."""
        if test.id not in mistake.behaviours:
            mistake.behaviours[test.id] = self._behaviour(module, test, mistake, seed)
        return mistake.behaviours[test.id]

    def _known(self, module: str) -> dict[str, list[Mistake]]:
        """The mistakes of a module's bank, by task."""
        if module not in self._mistakes:
            self._mistakes[module] = {}
            path, solution = self._course.misconceptions(module), self._course.solution(module).read_text()
            bank = read_bank(path.read_text(), "misconception") if path.exists() else Bank((), ())
            for entry in bank.entries:
                trusted = TrustedModule(f"misconceptions.{entry.name}", answer_with(solution, bank, [entry]))
                self._mistakes[module].setdefault(entry.task, []).append(Mistake(entry, trusted))
        return self._mistakes[module]

    def _behaviour(self, module: str, test: HiddenTest, student: Answers, seed: int) -> Behaviour:
        """Run one test. A fault of the grader's or of the test's author is an outcome too."""
        if reason := why_skipped(test, confined=self._zygote.layers is not None):
            return Behaviour(Outcome(Status.SKIPPED, reason))
        if test.problem:
            return Behaviour(Outcome(Status.GRADER_ERROR, f"{test.id} {test.problem}"))
        try:
            case = Case(
                self.reference(module),
                student,
                task=test.task,
                id=test.id,
                seed=seed,
                digits=lambda: Digits.read(self._course.data),
            )
            script = self._kept.scripts.get((module, test.id))
            with at_most(TRUSTED_SECONDS):
                if script is not None:
                    outcome = judge(case, lambda: case.compare_all(script), test.checked)
                    return Behaviour(outcome, *(case.failed or ()))
                outcome = judge(case, test.bind(case), test.checked)
        except ZygoteGone:
            raise
        except pytest.skip.Exception as reason:
            return Behaviour(Outcome(Status.SKIPPED, one_line(str(reason))))
        except (Exception, pytest.fail.Exception, TrustedSideHangs) as error:
            return Behaviour(Outcome(Status.GRADER_ERROR, f"{type(error).__name__}: {one_line(str(error), 400)}"))
        if outcome.status is Status.PASSED and case.comparisons is not None:
            self._kept.scripts[module, test.id] = tuple(case.comparisons)
        return Behaviour(outcome, *(case.failed or ()))

    def _forget(self, seed: int) -> None:
        self._kept = _Kept(seed)
        for reference in self._references.values():
            reference.forget()
        for mistakes in self._mistakes.values():
            for mistake in (mistake for several in mistakes.values() for mistake in several):
                mistake.forget()


def _first_of_each_task(tests: Sequence[HiddenTest]) -> list[HiddenTest]:
    """The first test of each task, which is one without a GPU where there is one."""
    first: dict[str, HiddenTest] = {}
    for test in sorted(tests, key=lambda test: test.gpu):
        first.setdefault(test.task, test)
    return [test for test in tests if first[test.task] is test]


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End a block that takes longer. Raises: TrustedSideHangs."""

    def stop(*_: object) -> None:
        raise TrustedSideHangs(f"the test took more than {seconds:g} s outside of the student's code")

    handler = signal.signal(signal.SIGALRM, stop)
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again and again, where a test goes on after it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, others)
        signal.signal(signal.SIGALRM, handler)
