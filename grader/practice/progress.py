"""The student's progress: one small file. Losing it loses marks that a run restores, and nothing else."""

import contextlib

import msgspec
from msgspec import Struct

from grader.base.files import write_atomically
from grader.course.manifest import Course

__all__ = ["FILE", "Progress", "read_progress", "write_progress"]

FILE = ".grader/progress.json"
"""Relative to the course's folder."""


class Progress(Struct, frozen=True):
    """What is passed, where the student is, and how many hints were asked for."""

    passed: dict[str, str] = {}
    """For each task that passed its public tests, the digest of the code that did."""
    current: str = ""
    """The task at hand."""
    hints: dict[str, int] = {}
    """How many hints of a task were shown."""

    def with_run(self, task: str, digest: str, *, passed: bool) -> "Progress":
        """The progress after a run of a task."""
        others = {name: value for name, value in self.passed.items() if name != task}
        return msgspec.structs.replace(self, passed={**others, task: digest} if passed else others)

    def at(self, task: str) -> "Progress":
        """The progress with this task at hand."""
        return msgspec.structs.replace(self, current=task)

    def with_hint(self, task: str, count: int) -> "Progress":
        """The progress after so many hints of a task."""
        return msgspec.structs.replace(self, hints={**self.hints, task: max(count, self.hints.get(task, 0))})


def read_progress(course: Course) -> Progress:
    """Read the file. A missing or damaged one is no progress; a run restores the marks."""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode((course.root / FILE).read_bytes(), type=Progress)
    return Progress()


def write_progress(course: Course, progress: Progress) -> None:
    """Write the file whole. Raises: OSError."""
    path = course.root / FILE
    path.parent.mkdir(exist_ok=True)
    ignore = path.with_name(".gitignore")
    if not ignore.exists():
        ignore.write_text("*\n")  # marks are for one person on one machine
    write_atomically(path, msgspec.json.format(msgspec.json.encode(progress), indent=1) + b"\n")
