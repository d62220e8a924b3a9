"""Names the known mistake behind a task's failed tests.

A mistake is named only where it behaves like the student's answer on every test of the task that was tried. One test alone proves little:
many mistakes give the same wrong value for one probe.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from grader.base.outcome import Outcome, Status
from grader.base.text import one_line
from grader.course.banks import BankEntry
from grader.grading.compare import difference
from grader.grading.sides import TrustedModule
from grader.protocol.traces import Answer, unexpected
from grader.sandbox.supervisor.worker_handle import Ended

__all__ = ["Behaviour", "Comparison", "Mistake", "alike", "can_be_named", "kept", "with_name"]

_MOST_ENTRIES = 1 << 18
"""Of an answer that is kept: a hostile one must not fill the memory."""


@dataclass(frozen=True)
class Comparison:
    """One call of `agree`: the pickled probe, the seed of its process state, and the tolerances.

    Which call of which test it is follows from the seed. Two pickles of one probe may differ: cloudpickle's bytes depend on which strings
    are the same object.
    """

    probe: bytes = field(compare=False)
    seed: int
    rtol: float
    atol: float
    after: bytes = b""
    """The probe, where the test had seen a value of the student's, on which it may depend."""


@dataclass(frozen=True)
class Behaviour:
    """How an answer did on one test."""

    outcome: Outcome
    comparison: Comparison | None = None
    """The comparison that failed, if one did."""
    answer: Answer | None = None
    """What was answered there, unless it is large."""


class Mistake:
    """A known wrong answer. It answers as a student's module would, in the trusted process: the course's authors wrote it."""

    def __init__(self, entry: BankEntry, module: TrustedModule) -> None:
        self.entry, self._module = entry, module
        self.behaviours: dict[str, Behaviour] = {}
        """What it did on each test so far, by the test's id."""

    def call(self, task: str, probe: bytes, seed: int) -> Answer:
        """What comes of the probe. Raises: Ended."""
        try:
            return self._module.call(probe, seed)
        except Exception as error:  # cut as the worker's side cuts a student's error, or long ones would differ
            raise Ended(Outcome(Status.ERROR, f"{one_line(type(error).__name__, 60)}: {one_line(str(error), 300)}")) from None

    def forget(self) -> None:
        """Drop what was kept for one seed."""
        self.behaviours.clear()
        self._module.forget()


def can_be_named(behaviours: Sequence[Behaviour]) -> bool:
    """True if a task's tests found something wrong, and all of them could be tried."""
    statuses = {behaviour.outcome.status for behaviour in behaviours}
    return bool(statuses & {Status.FAILED, Status.ERROR}) and statuses <= {Status.PASSED, Status.FAILED, Status.ERROR}


def alike(one: Behaviour, other: Behaviour) -> bool:
    """True if two answers can't be told apart by this test."""
    status = one.outcome.status
    if status is not other.outcome.status:
        return False
    if status is Status.PASSED:
        return True
    if one.comparison is None or other.comparison is None:
        return one.comparison is other.comparison and _complaint(one.outcome) == _complaint(other.outcome)
    if one.answer is None or other.answer is None or one.comparison != other.comparison:
        return False
    try:
        same = difference(one.answer.value, other.answer.value, rtol=one.comparison.rtol, atol=one.comparison.atol) is None
    except TypeError:  # the mistake returns something that no answer is compared with, such as the module itself
        return False
    return same and unexpected(one.answer.left, other.answer.left) == unexpected(other.answer.left, one.answer.left)


def with_name(outcome: Outcome, why: str) -> Outcome:
    """The outcome with the sentence that explains the mistake after its own first sentence."""
    first, *rest = outcome.message.split("\n")
    return Outcome(outcome.status, "\n".join([first, f"It looks like this: {why}", *rest]))


def kept(answer: Answer) -> Answer | None:
    """The answer, unless it is too large to keep."""
    return answer if _entries(answer.value) <= _MOST_ENTRIES else None


def _entries(value: Any) -> int:
    match value:
        case torch.Tensor():
            return value.numel()
        case dict():
            return sum(map(_entries, value.values())) + 1
        case list() | tuple():
            return sum(map(_entries, value)) + 1
        case _:
            return len(value) if isinstance(value, str | bytes) else 1


def _complaint(outcome: Outcome) -> str:
    """What is the same for two answers with one fault: all but the numbers and the place. The type of an exception says too little."""
    sentence = re.sub(r" \(line \d+[^()]*\)$", "", outcome.message.split("\n")[0])
    return re.sub(r"\d[\d.e+-]*", "#", sentence)
