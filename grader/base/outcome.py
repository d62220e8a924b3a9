"""The outcomes that a hidden test can have, each with a sentence for the student."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Outcome", "Status"]


class Status(StrEnum):
    """The possible outcomes of a test. A task has one of them too, summed up from its tests."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_IMPLEMENTED = "not_implemented"
    ERROR = "error"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    BANNED = "banned"
    SKIPPED = "skipped"
    GRADER_ERROR = "grader_error"


@dataclass(frozen=True)
class Outcome:
    """A status with a clear sentence for the student. The sentence is empty if the test passed."""

    status: Status
    message: str = ""
