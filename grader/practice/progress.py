"""The student's progress: one small file. Losing it loses marks that a run restores, and nothing else."""

import ast
import contextlib
import functools
import hashlib

import msgspec
from msgspec import Struct

from grader.base.files import write_atomically
from grader.course.manifest import Course, Module

__all__ = ["FILE", "Progress", "read_progress", "task_digest", "write_progress"]

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


def task_digest(source: str, module: Module, task: str) -> str:
    """Stands for a task's code: its own definition, and whatever of the file belongs to no other task."""
    names = {other.name for other in module.tasks} - {task}
    return _hash("\n".join(digest for name, digest in _definitions(source) if name not in names))


@functools.lru_cache(maxsize=64)
def _definitions(source: str) -> list[tuple[str, str]]:
    """The name and a digest of each statement of a file. Each of its tasks needs them, so the last files are remembered."""
    try:
        return [(getattr(node, "name", ""), _hash(ast.dump(node))) for node in ast.parse(source).body]
    except (SyntaxError, ValueError, RecursionError):
        return [("", _hash(source))]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
