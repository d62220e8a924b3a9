"""What a submission is reduced to: the source text of its modules, and nothing else. Holds the caps on size that all readers share.

Readers treat a submission as data. They extract no archive, follow no link and import nothing, and they check sizes before they read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from grader.base.text import one_line

__all__ = [
    "MAX_MEMBERS",
    "MAX_NOTEBOOK_BYTES",
    "MAX_SOURCE_BYTES",
    "TOO_LONG",
    "BadInput",
    "Entry",
    "Source",
    "Submission",
    "Unreadable",
    "says_missing",
    "shown",
]

MAX_SOURCE_BYTES = 256 << 10
MAX_NOTEBOOK_BYTES = 32 << 20  # pictures in outputs are large, but only the code is kept
MAX_MEMBERS = 20_000
TOO_LONG = f"its code is larger than {MAX_SOURCE_BYTES >> 10} KiB."


_NOTHING = "No module was found."


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
    file: str = ""
    """Where in the submission the module was found."""
    note: str = ""
    """What to tell the student about the file's name or place, although it was taken."""

    @classmethod
    def nothing(cls, instead: str) -> Self:
        """The source of each module of a submission in which no module was found. `instead` says what there is."""
        return cls(problem=f"{_NOTHING} {instead}", missing=True)

    @classmethod
    def not_handed_in(cls, module: str) -> Self:
        """The source of a module that a submission does not hold."""
        return cls(problem=f"{module}.py was not handed in.", missing=True)


def says_missing(message: str, module: str) -> bool:
    """Whether a message is the problem of a module that was not handed in."""
    return message.startswith((_NOTHING, Source.not_handed_in(module).problem))


@dataclass(frozen=True)
class Submission:
    """One student's modules."""

    id: str
    sources: dict[str, Source]
    only: tuple[str, ...] = ()
    """The modules to grade. A single file names the one that it holds; empty means all modules of the course."""


@dataclass(frozen=True)
class Entry:
    """A regular file of a submission: its path, and a function that reads it where its name means a module."""

    path: PurePosixPath
    load: Callable[[], Source] | None = None

    @classmethod
    def holding(cls, path: PurePosixPath, source: Source) -> Self:
        """A file that was read already, or a problem that stands in its place."""
        return cls(path, lambda: source)


class Unreadable(Exception):
    """A file that can't be read. The text is for the student."""


def shown(path: Path) -> str:
    """A path, made safe to show."""
    return one_line(str(path), 400)
