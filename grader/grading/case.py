"""One hidden test while it runs: its fixtures, and what its end means for the student."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import pytest

from grader.base.outcome import Outcome, Status
from grader.base.text import clean, one_line
from grader.course.digits import Digits
from grader.grading.compare import difference, outside, unlike
from grader.grading.diagnosis import Comparison, kept
from grader.grading.draw import Draw
from grader.grading.seeds import derive_seed
from grader.grading.sides import ReferenceSide
from grader.protocol.probes import freeze
from grader.protocol.traces import Answer, unexpected
from grader.sandbox.supervisor.worker_handle import Ended
from grader.sandbox.supervisor.zygote_handle import ZygoteError

__all__ = ["FIXTURES", "Agree", "Answers", "Case", "Probe", "Run", "Student", "judge"]

Probe = Callable[[Any], Any]
Run = Callable[[Probe], Any]


REFERENCES = object()
"""Stands for the reference's own answer to a probe."""


class Student(Protocol):
    """The fixture `student`."""

    def __call__(self, probe: Probe, *, like: Any = REFERENCES, within: tuple[int, int] | None = None) -> Any:
        """The values that the student's module gives, after a check of their form.

        A test computes with them in the trusted process, where a value of another shape or a number of another size may cost any
        amount of memory. So they have the types, structure, shapes and dtypes of `like`: the reference's answer, where nothing else
        is given. None leaves this check to the test, which then has to make it before anything else.

        Args:
            probe: what is asked.
            like: a value of the form that is due.
            within: the bounds of every whole number, wherever the test takes them for indices or counts them.
        """


class Answers(Protocol):
    """Whoever answers as the student: a worker (`StudentSide`), or a stand-in for one."""

    def call(self, task: str, probe: bytes, seed: int) -> Answer:
        """What comes of the probe. Raises: Ended."""


class Agree(Protocol):
    """The fixture `agree`."""

    def __call__(self, probe: Probe, *, rtol: float, atol: float) -> None:
        """Fail with a sentence for the student where the two sides return different values."""


class Case:
    """One test on one submission: its draws and its two sides."""

    def __init__(
        self,
        reference: ReferenceSide,
        student: Answers,
        *,
        task: str,
        id: str,
        seed: int,
        digits: Callable[[], Digits],
    ) -> None:
        """`seed` is the run's."""
        self._reference, self._student, self._digits = reference, student, digits
        self._task, self._id, self._seed = task, id, seed
        self._calls = 0
        self._reference_poses_as_student = False
        self._last: tuple[bytes, int] | None = None
        self.failed: tuple[Comparison, Answer | None] | None = None
        """The comparison that failed, and what the student's code answered there, unless it is large."""
        self.comparisons: list[Comparison] | None = []
        """All comparisons so far. None once the test has seen a value of the student's, because its next steps may depend on that."""
        self.draw = Draw(derive_seed(seed, id, "draw"))

    def restart_with_reference(self) -> None:
        """Begin again with the same draws. From now on, the reference answers in the student's place."""
        self._calls = 0
        self._reference_poses_as_student = True
        self.draw.restart()

    def student(self, probe: Probe, *, like: Any = REFERENCES, within: tuple[int, int] | None = None) -> Any:
        """What the probe returns for the student's module, checked as `Student` says. Raises: Ended."""
        self.comparisons = None
        frozen, seed = freeze(probe), self._next_seed()
        answer = self._ask_student(frozen, seed)
        expected = self._reference.call(frozen, seed)
        got, due = answer.value, expected.value if like is REFERENCES else like
        message = (unlike(got, due) if due is not None else None) or (outside(got, *within) if within else None)
        if message := message or _left_behind(answer, expected):
            raise Ended(Outcome(Status.FAILED, f"{clean(message)}."))
        return got

    def reference(self, probe: Probe) -> Any:
        """What the probe returns for the reference: a copy, since the answer itself is kept for other students."""
        return copy.deepcopy(self._reference.call(freeze(probe), self._next_seed()).value)

    def agree(self, probe: Probe, *, rtol: float, atol: float) -> None:
        """Compare the two. Raises: Ended."""
        frozen = freeze(probe)
        comparison = Comparison(frozen, self._next_seed(), rtol, atol, b"" if self.comparisons is not None else frozen)
        if self.comparisons is not None:
            self.comparisons.append(comparison)
        try:
            self.compare(comparison)
        except Ended:
            self.comparisons = None  # a test that goes on from here has seen something of the student's
            raise

    def compare(self, comparison: Comparison) -> None:
        """Ask both sides, and compare what they return. Raises: Ended."""
        probe, seed = comparison.probe, comparison.seed
        expected = self._reference.call(probe, seed)
        got = self._ask_student(probe, seed)
        message = difference(got.value, expected.value, rtol=comparison.rtol, atol=comparison.atol)
        left = _left_behind(got, expected)
        if message or left:
            message = f"{message}. It also {left}" if message and left else message or left or ""
            self.failed = comparison, kept(got)
            raise Ended(Outcome(Status.FAILED, f"{clean(message)}."))

    def compare_all(self, comparisons: Iterable[Comparison]) -> None:
        """Repeat a test that consists of comparisons only. Raises: Ended."""
        for comparison in comparisons:
            self.compare(comparison)

    @property
    def asked_student(self) -> bool:
        """Whether the test has asked the student's code anything."""
        return self._last is not None

    def calls(self) -> list[str]:
        """How the student's code was called last, in words."""
        return self._reference.calls(*self._last) if self._last else []

    def digits(self) -> Digits:
        """The course's digits."""
        return self._digits()

    def _ask_student(self, probe: bytes, seed: int) -> Answer:
        self._last = probe, seed
        if self._reference_poses_as_student:
            return copy.deepcopy(self._reference.call(probe, seed))
        return self._student.call(self._task, probe, seed)

    def _next_seed(self) -> int:
        self._calls += 1
        return derive_seed(self._seed, self._id, self._calls)


def _left_behind(got: Answer, expected: Answer) -> str | None:
    """Say what a student's code changes and should not; None where there is nothing."""
    place = unexpected(got.left, expected.left)
    return place and f"changes {one_line(place, 100)}: arguments, modes and generators are left as they were found"


def _agree(case: Case) -> Agree:
    """`agree(probe, rtol=…, atol=…)`: run the probe on both sides and compare what they return."""
    return case.agree


def _student(case: Case) -> Student:
    """`student(probe, like=…, within=…)`: the values that the student's module gives, for checks other than a comparison."""
    return case.student


def _reference(case: Case) -> Run:
    """`reference(probe)`: the values that the reference gives."""
    return case.reference


def _draw(case: Case) -> Draw:
    """Fresh random inputs, seeded from the run's seed and the test's name."""
    return case.draw


def _digits(case: Case) -> Digits:
    """Handwritten digits: `images, labels, new_images, new_labels = digits.split(draw)`, the last two held out."""
    return case.digits()


FIXTURES: Mapping[str, Callable[[Case], object]] = {
    "agree": _agree,
    "student": _student,
    "reference": _reference,
    "draw": _draw,
    "digits": _digits,
}
"""What a hidden test may ask for, beside its parameters."""


def judge(case: Case, run: Callable[[], object], checked: str) -> Outcome:
    """Run a test, and say what its end means for the student.

    Args:
        case: the test's two sides.
        run: the test itself, with its arguments. It runs a second time, on the reference, where its own code fails on a student's value.
        checked: the sentence that says what the test checks.

    Raises: whatever the test raised, where it is the grader's or the author's fault.
    """
    called = ""
    try:
        run()
    except (pytest.skip.Exception, pytest.fail.Exception, ZygoteError):
        raise
    except Ended as end:
        outcome, called = end.outcome, end.call
        if outcome.status is not Status.FAILED and not end.in_probe:
            return outcome  # the module itself, or its task, can't be tried
    except Exception as error:
        if not case.asked_student:
            raise
        if isinstance(error, AssertionError):  # the first line is the author's; pytest may append an explanation
            outcome = Outcome(Status.FAILED, clean(str(error).split("\n")[0]))
        else:
            case.restart_with_reference()
            run()  # the test's own fault comes up with the reference's values as well
            what = f"{one_line(type(error).__name__)}: {one_line(str(error))}"
            outcome = Outcome(Status.FAILED, f"what came back can't be checked ({what}).")
    else:
        return Outcome(Status.PASSED)
    if outcome.status in _TRIED:
        call = called or _shown(case.calls())
        outcome = Outcome(outcome.status, outcome.message + (f"\nCalled: {call}" if call else "") + f"\nChecked: {checked}")
    return outcome


_TRIED = {Status.FAILED, Status.ERROR, Status.TIMED_OUT, Status.OUT_OF_MEMORY}


def _shown(calls: Sequence[str]) -> str:
    """The first calls, cut to what a student reads."""
    few = [one_line(call, 200) for call in calls[:2]]
    return "; ".join(few) + (f"; and {len(calls) - 2} more" if len(calls) > 2 else "")
