"""Reads the files of a folder as data. Links are not followed, and only regular files are read.

A folder that may not be read raises Unreadable: it is not the same as an empty one.
"""

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from grader.base.text import one_line
from grader.submissions.sources import MAX_MEMBERS, Entry, Unreadable

__all__ = ["folder_files", "reader", "wrapped_folder_files"]


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


def folder_files(root: Path) -> list[Entry]:
    """The regular files at the top of a folder and in its exercises/. Links are not followed. Raises: Unreadable."""
    return _files(root, (root, root / "exercises"))


def wrapped_folder_files(root: Path) -> list[Entry]:
    """Like `folder_files`. If there is only one folder inside, as in GitHub's archives, that one is read instead. Raises: Unreadable."""
    try:
        inner = [child for child in root.iterdir() if not child.name.startswith((".", "__MACOSX"))]
        wrapped = len(inner) == 1 and inner[0].name != "exercises" and not inner[0].is_symlink() and inner[0].is_dir()
    except OSError as error:
        raise _closed(root, error) from None
    return _files(root, (inner[0], inner[0] / "exercises")) if wrapped else folder_files(root)


def _closed(folder: Path, error: OSError) -> Unreadable:
    """The sentence for a folder that can't be read."""
    return Unreadable(
        f"the folder {one_line(folder.name, 80)}: {error.strerror}. Give the grader the right to read it, as `chmod -R u+rX` does."
    )


def _files(root: Path, folders: Iterable[Path]) -> list[Entry]:
    entries = []
    for folder in folders:
        try:
            if folder.is_symlink() and folder != root:
                continue
            children = sorted(os.scandir(folder), key=lambda item: item.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _closed(folder, error) from None
        for child in children[:MAX_MEMBERS]:
            if child.is_file(follow_symlinks=False):
                path = Path(child.path)
                entries.append(Entry(PurePosixPath(path.relative_to(root).as_posix()), reader(path)))
    return entries
