"""Says what an exception of a public test means: whether it comes from a stub, and in words what a student can do about it."""

import ast
import contextlib
import dis
import linecache
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import pytest

from grader.base.time_limit import OutOfTime
from grader.practice.outcome import TestStatus
from grader.practice.pytest_plugin import INPUT, CannotUse, asks_for_input

__all__ = ["Stub", "message_of", "returned_nothing", "status_of", "stub_in"]


@dataclass(frozen=True)
class Stub:
    """A function of the student's file that raises NotImplementedError, as a stub does."""

    name: str
    """With the class, such as "Counter.add"."""
    line: int
    begun: bool
    """Whether it holds other code, too."""

    @property
    def task(self) -> str:
        """The task that it belongs to, or the student's own function."""
        return self.name.partition(".")[0]

    def problem(self, task: str) -> str:
        """What keeps a task from being tested; empty if its stub is as it was handed out."""
        if self.task != task:
            return f"This calls {self.task}, which is not written yet: write that first."
        return f"Line {self.line} still raises NotImplementedError: delete it." if self.begun else ""


def stub_in(error: BaseException, file: str) -> Stub | None:
    """The stub that raised, None if it was other code: torch raises NotImplementedError, too, and so may a student."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not isinstance(error, NotImplementedError) or not frames:
        return None
    frame, line = frames[-1]
    name = frame.f_code.co_qualname
    own = frame.f_code.co_filename == file and "NotImplementedError" in linecache.getline(file, line)
    return Stub(name, line, _is_begun(file, line)) if own and str(error) in ("", name) else None


def _is_begun(file: str, line: int) -> bool:
    """Whether the function around a line has more than its docstring and one statement."""
    function = _function(file, line)
    return function is not None and len(function.body) - (ast.get_docstring(function) is not None) > 1


def _function(file: str, line: int) -> ast.FunctionDef | None:
    """The innermost function around a line of a file."""
    with contextlib.suppress(SyntaxError, ValueError):
        nodes = ast.walk(ast.parse("".join(linecache.getlines(file))))
        around = (node for node in nodes if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0))
        return max(around, key=lambda node: node.lineno, default=None)
    return None


def status_of(error: BaseException, task: str, stub: Stub | None, *, in_student: bool) -> TestStatus:
    """What a test that raised comes to."""
    if isinstance(error, OutOfTime):
        return TestStatus.TIMED_OUT
    if stub and not stub.problem(task):
        return TestStatus.NOT_IMPLEMENTED
    if not in_student and isinstance(error, AssertionError | pytest.fail.Exception):
        return TestStatus.FAILED
    return TestStatus.ERROR


def message_of(error: BaseException, task: str, stub: Stub | None) -> str:
    """What went wrong, in the words of the exception where they say it. The name of an AssertionError says nothing more."""
    text = str(error).strip()
    if stub and stub.problem(task):
        return stub.problem(task)
    if isinstance(error, SystemExit):
        return "Your code calls exit(), which ends Python: use `return`."
    if asks_for_input(error):
        return f"Your code {INPUT}."
    if isinstance(error, AssertionError | pytest.fail.Exception | CannotUse | OutOfTime):
        return _own_words(text) or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _own_words(text: str) -> str:
    """The message that an assert was given, without the expression that pytest adds below it."""
    own, _, expression = text.partition("\nassert ")
    return own if expression and not own.startswith("assert ") else text


def returned_nothing(run: Callable[[], object], file: str) -> bool:
    """Whether the last call from outside into a file returned None although nothing says that it should. `run` has to end by itself."""
    depth, nothing = 0, False

    def note(frame: FrameType, event: str, value: object) -> None:
        nonlocal depth, nothing
        if frame.f_code.co_filename != file or event not in ("call", "return"):
            return
        depth += 1 if event == "call" else -1
        if event == "return" and depth == 0:
            nothing = value is None and _returns(frame) and _may_return_more(file, frame)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return nothing


def _returns(frame: FrameType) -> bool:
    """Whether a frame ends by returning: one that ends by an exception looks like one that returns None."""
    return frame.f_lasti >= 0 and dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("RETURN_VALUE", "RETURN_CONST")


def _may_return_more(file: str, frame: FrameType) -> bool:
    """Whether a function is meant to return something: it is neither declared to return None nor a constructor."""
    function = _function(file, frame.f_lineno)
    if function is None or function.name == "__init__":
        return False
    return not (isinstance(function.returns, ast.Constant) and function.returns.value is None)
