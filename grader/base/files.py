"""Writes files whole or not at all, and says in words why a file can't be used."""

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["file_problem", "write_atomically"]

_ADVICE = {
    errno.EACCES: "You have no right to: give it to yourself.",
    errno.EPERM: "You have no right to: give it to yourself.",
    errno.EROFS: "The disk can only be read: copy the folder elsewhere.",
    errno.EISDIR: "A folder stands in its place: move that away.",
    errno.ENOTDIR: "A file stands in the place of a folder: move that away.",
    errno.EEXIST: "A file stands in the place of a folder: move that away.",
    errno.ENOENT: "Its folder is missing: make it.",
    errno.ENOSPC: "The disk is full: make room.",
    getattr(errno, "EDQUOT", -1): "Your share of the disk is full: make room.",
}


def file_problem(error: OSError, root: Path) -> str:
    """Which file, relative to `root`, can't be used, and what to do."""
    path = Path(os.fsdecode(error.filename)) if error.filename else root
    name = path.relative_to(root).as_posix() if path != root and path.is_relative_to(root) else str(path)
    return f"{name} can't be read or written. {_ADVICE.get(error.errno or 0, f'{error.strerror or error}.')}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. If writing is interrupted, the old file stays. Its mode stays, too.

    Raises: OSError, which names the file.
    """
    try:
        _write(path, data)
    except OSError as error:
        raise (OSError(error.errno, error.strerror, str(path)) if error.errno else error) from None  # rather than the temporary file


def _write(path: Path, data: bytes) -> None:
    mode = 0o644
    with contextlib.suppress(OSError):
        before = path.lstat().st_mode
        mode = stat.S_IMODE(before) if stat.S_ISREG(before) else mode
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
