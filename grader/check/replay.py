"""Replays the reference's answers of one seed under another: what passes so is earned by anybody who has seen an answer once.

This is the worst that a submission without any work can do. Nobody's code but the course's own runs, so no worker is needed: a stand-in
gives the answers in the student's place. `python -P -m grader.check.replay FILE` reads a request as JSON from standard input, in the
course's root, and writes the evidence of each module into FILE.
"""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from grader.base.outcome import Outcome, Status
from grader.check.evidence import ModuleEvidence, TestEvidence
from grader.check.replay_process import Request
from grader.course.digits import Digits
from grader.course.manifest import Course, Module
from grader.grading.case import Answers, Case, judge
from grader.grading.compare import difference
from grader.grading.engine import TRUSTED_SECONDS, TrustedSideHangs, at_most
from grader.grading.seeds import derive_seed
from grader.grading.sides import ReferenceSide
from grader.grading.suite import HiddenTest, SuiteError, collect, why_skipped
from grader.protocol.traces import Answer
from grader.runner.results import TestResult, points_of_tests
from grader.sandbox.supervisor.worker_handle import Ended

__all__ = ["replay_module", "replay_modules"]

PAIRS = 4
"""A test earns if it passes in all pairs of seeds. An answer that takes one of eight values repeats by luck in one pair of eight, and in
all four once in 4,096 times. Only what has passed so far is tried again, so further pairs cost next to nothing."""


def replay_modules(course: Course, modules: tuple[Module, ...], seed: int) -> Iterator[ModuleEvidence]:
    """Replay each module. One whose suite can't be collected is left out: the gate's trials say why."""
    for module in modules:
        try:
            tests = collect(course, module.name).tests
        except SuiteError:
            continue
        yield replay_module(course, module, tests, [derive_seed(seed, "replay", number) for number in range(PAIRS + 1)])


def replay_module(course: Course, module: Module, tests: tuple[HiddenTest, ...], seeds: list[int]) -> ModuleEvidence:
    """Replay the tests of a module's tasks, under each seed the answers of the seed before."""
    reference = ReferenceSide(course, module.name)
    found: list[TestEvidence] = []
    for task in module.tasks:
        own = [test for test in tests if test.task == task.name]
        tried = [(test, _Replay(course, reference, test)) for test in own]
        results = [TestResult(test.id, replay.begin(seeds), test.weight, "") for test, replay in tried]
        for (test, replay), result, points in zip(tried, results, points_of_tests(task.points, results), strict=True):
            if result.status is not Status.SKIPPED:
                earned = (replay.once, replay.always, replay.constant)
                found.append(TestEvidence(test.id, task.name, float(points), test.measured, *earned))
        reference.forget()
    return ModuleEvidence(module.name, found)


class _Replay:
    """One test under one seed after another."""

    def __init__(self, course: Course, reference: ReferenceSide, test: HiddenTest) -> None:
        self._course, self._reference, self._test = course, reference, test
        self.once = self.always = self.constant = False

    def begin(self, seeds: list[int]) -> Status:
        """Replay until a pair of seeds fails. Returns: whether the reference passes, fails, or skips the test under the first seed."""
        status, before = self._record(seeds[0])
        if status is not Status.PASSED:
            return status
        all_equal = True
        for seed in seeds[1:]:
            if self._run(seed, _Replayer(before)) is not Status.PASSED:
                return status
            self.once = True
            _, now = self._record(seed)
            all_equal = all_equal and difference(now, before, rtol=0, atol=0) is None
            before = now
        self.always, self.constant = True, all_equal
        return status

    def _record(self, seed: int) -> tuple[Status, list[Any]]:
        recorder = _Recorder(self._reference)
        return self._run(seed, recorder), recorder.answers

    def _run(self, seed: int, student: Answers) -> Status:
        """Run the test. A fault of its author's is none of this check's: the gate's trials find it."""
        test = self._test
        if test.gpu or why_skipped(test, confined=True):  # counted as on a machine without a GPU
            return Status.SKIPPED
        if test.problem:
            return Status.GRADER_ERROR
        digits = self._course.data
        try:
            case = Case(self._reference, student, task=test.task, id=test.id, seed=seed, digits=lambda: Digits.read(digits))
            with at_most(TRUSTED_SECONDS):
                return judge(case, test.bind(case), test.checked).status
        except pytest.skip.Exception:
            return Status.SKIPPED
        except (Exception, pytest.fail.Exception, TrustedSideHangs):
            return Status.GRADER_ERROR


class _Recorder:
    """Answers as the reference, and keeps the answers."""

    def __init__(self, reference: ReferenceSide) -> None:
        self._reference = reference
        self.answers: list[Any] = []

    def call(self, task: str, probe: bytes, seed: int) -> Answer:
        """What the reference answers: a copy, because the test may change it."""
        answer = self._reference.call(probe, seed)
        self.answers.append(answer.value)
        return copy.deepcopy(answer)


class _Replayer:
    """Gives kept answers, one after another, whatever it is asked."""

    def __init__(self, answers: list[Any]) -> None:
        self._left = iter(answers)

    def call(self, task: str, probe: bytes, seed: int) -> Answer:
        """The next answer. Raises: Ended where there is none, because the test now asks more often."""
        try:
            return Answer(copy.deepcopy(next(self._left)))
        except StopIteration:
            raise Ended(Outcome(Status.FAILED, "no answer was recorded for this call.")) from None


def _main() -> None:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    course = Course.read(Path.cwd())
    modules = tuple(part for name, tasks in request.modules.items() for part in course.select([name], tasks))
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(list(replay_modules(course, modules, request.seed))))


if __name__ == "__main__":
    _main()
