"""What a submission is reduced to: the source text of its modules, and nothing else. Holds the caps on size that all readers share.

Readers treat a submission as data. They extract no archive, follow no link and import nothing, and they check sizes before they read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from grader.base.text import one_line
from grader.course.manifest import Course

__all__ = [
    "MAX_MATCHED_BYTES",
    "MAX_MATCHES",
    "MAX_MEMBERS",
    "MAX_NOTEBOOK_BYTES",
    "MAX_SOURCE_BYTES",
    "TOO_LONG",
    "BadInput",
    "Entry",
    "Source",
    "Submission",
    "Unreadable",
    "file_names",
    "module_of",
    "shown",
]

MAX_SOURCE_BYTES = 256 << 10
MAX_NOTEBOOK_BYTES = 32 << 20  # pictures in outputs are large, but only the code is kept
MAX_MEMBERS = 20_000
MAX_MATCHES = 64
MAX_MATCHED_BYTES = 128 << 20
TOO_LONG = f"its code is larger than {MAX_SOURCE_BYTES >> 10} KiB."


class BadInput(Exception):
    """A path that can't be graded. The text says why, and what to do."""


@dataclass(frozen=True)
class Source:
    """A student's module: its text, or a sentence that says why it has none."""

    text: str = ""
    problem: str = ""
    missing: bool = False
    cells: tuple[int, ...] = ()
    """The lines at which a notebook's cells begin, counted from 1. A cell runs even if another one fails. Empty for an ordinary module."""

    @classmethod
    def not_handed_in(cls, module: str) -> Self:
        """The source of a module that a submission does not hold."""
        return cls(problem=f"{module}.py was not handed in.", missing=True)


@dataclass(frozen=True)
class Submission:
    """One student's modules."""

    id: str
    sources: dict[str, Source]
    only: tuple[str, ...] = ()
    """The modules to grade. A single file names the one that it holds; empty means all modules of the course."""


@dataclass(frozen=True)
class Entry:
    """A regular file of a submission: its path, and a function that reads at most so many bytes of it."""

    path: PurePosixPath
    read: Callable[[int], bytes]


class Unreadable(Exception):
    """A file that can't be read. The text is for the student."""


def shown(path: Path) -> str:
    """A path, made safe to show."""
    return one_line(str(path), 400)


def file_names(course: Course) -> list[str]:
    """The file names of the course's modules."""
    return [f"{module.name}.py" for module in course.modules]


def module_of(name: str, course: Course) -> str | None:
    """The module that a file of this name holds, or None."""
    names = {f"{module.name}{suffix}": module.name for module in course.modules for suffix in (".py", ".ipynb")}
    return names.get(name)
