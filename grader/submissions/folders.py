"""Reads the files of a folder as data. Links are not followed, and only regular files are read.

A folder that may not be read raises Unreadable: it is not the same as an empty one.
"""

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.archives import ARCHIVES, archived_files
from grader.submissions.reading import is_read, read_source
from grader.submissions.sources import MAX_MEMBERS, Entry, Source, Unreadable

__all__ = ["MAX_DEPTH", "expanded", "folder_files", "reader", "top_files"]

MAX_DEPTH = 6
"""How many folders deep a module is looked for."""
_PASSED_OVER = ("__MACOSX", "__pycache__", "node_modules", "venv", "site-packages")
"""Folders that hold nothing of a student's, besides those whose names begin with a point."""


def reader(path: Path) -> Callable[[int], bytes]:
    """Return a function that reads at most so many bytes of a regular file, or raises Unreadable."""

    def read(limit: int) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Unreadable(f"{error.strerror}.") from None
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable("it is not a regular file.")
            return file.read(limit)

    return read


def top_files(root: Path, course: Course) -> list[Entry]:
    """The regular files at the top of a folder and in its exercises/. Raises: Unreadable."""
    return [entry for folder in (root, root / "exercises") for entry in _scan(root, folder, course)[0]]


def folder_files(root: Path, course: Course) -> list[Entry]:
    """The regular files of a folder, the nearest first. Links are not followed.

    Raises: Unreadable if the folder or its exercises/ can't be read, or another folder in it, or it holds too many files, and no module is
    found elsewhere.
    """
    entries: list[Entry] = []
    closed: Unreadable | None = None
    level = [root]
    for _ in range(MAX_DEPTH):
        below: list[Path] = []
        for folder in level:
            try:
                files, folders = _scan(root, folder, course)
            except Unreadable as error:
                if folder in (root, root / "exercises"):
                    raise
                closed = closed or error
                continue
            entries += files
            below += folders
            if len(entries) + len(below) > MAX_MEMBERS:
                if not any(entry.load for entry in entries):
                    raise Unreadable(f"it holds more than {MAX_MEMBERS:,} files, and none of the first is a module. Hand in modules only.")
                return entries
        level = below
    if closed and not any(entry.load for entry in entries):
        raise closed
    return entries


def expanded(root: Path, entries: list[Entry], course: Course) -> list[Entry]:
    """The entries of a folder, those of its archives among them, as if in folders of the archives' names."""
    found = []
    for entry in entries:
        if entry.path.name.lower().endswith(ARCHIVES):
            try:
                found += [Entry(entry.path / inner.path, inner.load) for inner in archived_files(root / entry.path, course)]
            except Unreadable as error:
                problem = Source(problem=f"{one_line(entry.path.name)} can't be read: {error}")
                found.append(Entry.holding(entry.path, problem))
        else:
            found.append(entry)
    return found


def _scan(root: Path, folder: Path, course: Course) -> tuple[list[Entry], list[Path]]:
    """The files and the folders in a folder. A folder that is missing, or is none, holds nothing. Raises: Unreadable."""
    if folder.is_symlink() and folder != root:
        return [], []
    try:
        with os.scandir(folder) as children:
            listed = sorted(children, key=lambda child: (not is_read(child.name, course), child.name))[: MAX_MEMBERS + 1]
        files, folders = [], []
        for child in listed:
            if child.is_file(follow_symlinks=False):
                path = Path(child.path)
                load = partial(read_source, path.name, reader(path)) if is_read(path.name, course) else None
                files.append(Entry(PurePosixPath(path.relative_to(root).as_posix()), load))
            elif child.is_dir(follow_symlinks=False) and not child.name.startswith(".") and child.name not in _PASSED_OVER:
                folders.append(Path(child.path))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise _closed(folder, error) from None
    return files, folders


def _closed(folder: Path, error: OSError) -> Unreadable:
    """The sentence for a folder that can't be read."""
    return Unreadable(
        f"the folder {one_line(folder.name, 80)}: {error.strerror}. Give the grader the right to read it, as `chmod -R u+rX` does."
    )
