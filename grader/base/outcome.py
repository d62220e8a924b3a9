"""What a hidden test can come to, and how an outcome is said to the student."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Outcome", "Status"]


class Status(StrEnum):
    """The outcomes of a test and, summed up, of a task."""

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
    """A status with a clear sentence for the student (empty where the test passed)."""

    status: Status
    message: str = ""
