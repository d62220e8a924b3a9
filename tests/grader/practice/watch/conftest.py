"""What the tests of `grader watch` share: the course in miniature, practised, and answers to its tasks."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grader.course.manifest import Course
from grader.practice.outcome import PublicTest, Request, TaskRun, TestStatus
from grader.practice.session import Session
from tests.grader.conftest import mini_course

HEAD = "import torch\nfrom torch import Tensor\n\n\n"
DOUBLE = "def double(x):\n    return x + x\n"
WRONG = "def double(x):\n    return x * x\n"
COUNTER = """

class Counter:
    def __init__(self, start=10):
        self.n = start

    def add(self, n):
        self.n += n
        return self.n
"""
NO_COUNTER = "\n\nclass Counter:\n    def __init__(self, start=10):\n        raise NotImplementedError\n"
LONGEST = 60.0
"""Seconds after which something that is waited for counts as never happening. No test depends on how soon it does."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the course in miniature, untouched."""
    root = mini_course(tmp_path)
    (root / "tests" / "public" / "conftest.py").unlink(missing_ok=True)  # the plugin has its option
    return root


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    """Practice in that folder."""
    with Session(Course.read(folder)) as session:
        yield session


class QuickProcess:
    """Takes the place of the practice process: it looks at a module of the course in miniature, in this process, without pytest.

    `held` keeps runs from ending until it is set; `cancel` ends them.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.ready = root, True
        self.requests: list[str] = []
        self.held = threading.Event()
        self.held.set()

    def warm_up(self) -> None:
        """Nothing has to be loaded."""

    def close(self) -> None:
        """Let go of a run."""
        self.held.set()

    cancel = close

    def run(self, request: Request) -> TaskRun:
        """Run the answer once."""
        self.requests.append(request.task)
        self.held.wait(LONGEST)
        return TaskRun(request.module, request.task, [self._test(request)], seconds=0.01)

    def _test(self, request: Request) -> PublicTest:
        names: dict[str, Any] = {}
        status, message = TestStatus.PASSED, ""
        try:
            exec(compile((self.root / "exercises" / f"{request.module}.py").read_text(), "mini.py", "exec"), names)
            if request.task == "double":
                import torch

                assert names["double"](torch.tensor([3.0])).item() == 6, "expected 6"
            else:
                assert names["Counter"](1).add(2) == 3, "expected 3"
        except NotImplementedError:
            status = TestStatus.NOT_IMPLEMENTED
        except Exception as error:
            status, message = TestStatus.FAILED, f"{type(error).__name__}: {error}"
        return PublicTest("test", "It is right.", status, message)


@pytest.fixture
def quick(session: Session, folder: Path) -> QuickProcess:
    """The session of the test runs answers in a quick process."""
    process = QuickProcess(folder)
    session.process = process  # type: ignore[assignment]
    return process


def save(folder: Path, text: str, *, name: str = "mini") -> None:
    """Save a module as many editors do: write a new file, and put it in the old one's place."""
    new = folder / "exercises" / f".{name}.new"
    new.write_text(text)
    os.replace(new, folder / "exercises" / f"{name}.py")


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is so. Raises: AssertionError if it never is."""
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def threads() -> set[str]:
    """The names of the threads that live."""
    return {thread.name for thread in threading.enumerate()}
