"""A submission reduced to source text, and what its parts are called. Nothing else of a submission survives.

Data only: no archive is extracted, no link is followed, nothing is imported, sizes and counts are capped before anything is read.
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
MAX_NOTEBOOK_BYTES = 32 << 20  # outputs with pictures are large; only the code is kept
MAX_MEMBERS = 20_000
MAX_MATCHES = 64
MAX_MATCHED_BYTES = 128 << 20
TOO_LONG = f"its code is larger than {MAX_SOURCE_BYTES >> 10} KiB."


class BadInput(Exception):
    """A path that can't be graded; the text says why and what to do."""


@dataclass(frozen=True)
class Source:
    """A student's module: its text, or the sentence that says why there is none."""

    text: str = ""
    problem: str = ""
    missing: bool = False
    cells: tuple[int, ...] = ()
    """The lines at which a notebook's cells begin, counted from 1: each runs although another fails. Empty for an ordinary module."""

    @classmethod
    def not_handed_in(cls, module: str) -> Self:
        """Stands for a module that a submission does not hold."""
        return cls(problem=f"{module}.py was not handed in.", missing=True)


@dataclass(frozen=True)
class Submission:
    """One student's modules."""

    id: str
    sources: dict[str, Source]
    only: tuple[str, ...] = ()
    """The modules to grade, where the submission is a single file that names one; all of the course's where empty."""


@dataclass(frozen=True)
class Entry:
    """A regular file of a submission: where it is, and how to read at most so many bytes of it."""

    path: PurePosixPath
    read: Callable[[int], bytes]


class Unreadable(Exception):
    """One file that can't be taken; the text is for the student."""


def shown(path: Path) -> str:
    """A path as it is shown to people."""
    return one_line(str(path), 400)


def file_names(course: Course) -> list[str]:
    """The file names of the course's modules."""
    return [f"{module.name}.py" for module in course.modules]


def module_of(name: str, course: Course) -> str | None:
    """The module that a file of this name holds."""
    names = {f"{module.name}{suffix}": module.name for module in course.modules for suffix in (".py", ".ipynb")}
    return names.get(name)
