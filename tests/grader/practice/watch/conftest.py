"""What the tests of `grader watch` share: the course in miniature, practised, and answers to its tasks."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grader.course.manifest import Course
from grader.practice.session import Session
from tests.grader.conftest import mini_course

HEAD = "import torch\n\n\n"
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
