"""What the practice process is asked for, and what it answers. Plain data, which crosses as JSON."""

from enum import StrEnum

from msgspec import Struct

from grader.course.manifest import Show

__all__ = ["ALIVE", "DrawRequest", "Drawing", "PublicTest", "Request", "TaskRun", "TestStatus"]


ALIVE = b'{"alive":true}\n'
"""What the practice process writes after each test, before its answer: it has not hung."""


class TestStatus(StrEnum):
    """The outcome of one public test."""

    __test__ = False
    PASSED = "passed"
    FAILED = "failed"
    NOT_IMPLEMENTED = "not_implemented"
    ERROR = "error"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"


class PublicTest(Struct, frozen=True):
    """One test: what it checks, and what went wrong.

    `message` says what was expected and what came; it is empty where the test passed. `call` is the call that went wrong, with shapes and
    dtypes. `place` is "exercises/cnn.py:12" where the student's code raised. `statement` is the line of the test that failed.
    """

    name: str
    checks: str
    status: TestStatus
    message: str = ""
    call: str = ""
    place: str = ""
    source: str = ""
    """The line of code at `place`."""
    test_place: str = ""
    statement: str = ""


class TaskRun(Struct, frozen=True):
    """The public tests of one task.

    `problem` says why there are none: the module can't be imported, or the process died or did not end. `seconds` is the time of the
    tests themselves. `printed` is what the student's code printed. `fingerprint` stands for how a wrong answer behaves. `banned` is what
    the answer uses although the task forbids it, such as "torch.softmax, line 12".
    """

    module: str
    task: str
    tests: list[PublicTest] = []
    problem: str = ""
    seconds: float = 0.0
    printed: str = ""
    fingerprint: str = ""
    banned: str = ""

    @property
    def passed(self) -> bool:
        """Whether every test that was not skipped passed, and one did, with nothing that the task forbids."""
        statuses = {test.status for test in self.tests} - {TestStatus.SKIPPED}
        return not self.problem and not self.banned and statuses == {TestStatus.PASSED}

    @property
    def untouched(self) -> bool:
        """Whether the stub has not been filled in yet."""
        statuses = {test.status for test in self.tests} - {TestStatus.SKIPPED}
        return not self.problem and statuses == {TestStatus.NOT_IMPLEMENTED}


class Request(Struct, frozen=True, tag="run"):
    """Asks the practice process for a task's tests, on the modules of a folder."""

    module: str
    task: str
    code: str = "exercises"


class Drawing(Struct, frozen=True):
    """The numbers that a task's picture shows, rounded to what a picture can show. JSON has no infinity: it stands there as "inf".

    `problem` says why there are none: the task is not written, or its code raised.
    """

    rows: list[list[float | str]] = []
    over: list[float] = []
    """The places along the horizontal axis; empty for 0, 1, 2, …"""
    problem: str = ""


class DrawRequest(Struct, frozen=True, tag="draw"):
    """Asks the practice process for the numbers of a task's picture, on the modules of a folder."""

    module: str
    task: str
    show: Show
    code: str = "exercises"
