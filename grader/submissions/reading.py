"""Reads one file of a submission: a module's text, or a sentence for the student that says why there is none."""

import codecs
import io
import tokenize
from collections.abc import Callable

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.names import meant, without_platform
from grader.submissions.notebooks import notebook_source
from grader.submissions.sources import MAX_NOTEBOOK_BYTES, MAX_SOURCE_BYTES, TOO_LONG, Source, Unreadable

__all__ = ["METADATA", "is_notebook", "is_read", "read_source"]

METADATA = "submission_metadata.yml"
"""Where Gradescope says whose each folder of its export is."""
_MAX_METADATA_BYTES = 8 << 20
_POINTER = b"version https://git-lfs.github.com/spec/"


def is_read(name: str, course: Course) -> bool:
    """Whether a file of this name is read at all: its name means a module, or it says whose the others are."""
    return name == METADATA or meant(without_platform(name), course) is not None


def is_notebook(name: str) -> bool:
    """Whether a file of this name holds a notebook."""
    return ".ipynb" in name.lower()


def read_source(name: str, read: Callable[[int], bytes]) -> Source:
    """Read a module's file, or Gradescope's list.

    Args:
        name: its name, which says what it is.
        read: gives at most so many bytes of it, or raises Unreadable.
    """
    name = one_line(name)
    limit = MAX_NOTEBOOK_BYTES if is_notebook(name) else _MAX_METADATA_BYTES if name == METADATA else MAX_SOURCE_BYTES
    try:
        data = read(limit + 1)
        if len(data) > limit:
            raise Unreadable(f"it is larger than {limit >> 10} KiB.")
        if data.startswith(_POINTER):
            raise Unreadable("it is a pointer of Git LFS, not the file. Run `git lfs pull`, or hand in the file itself.")
        if not data:
            return Source(problem=f"{name} is empty (0 bytes). Was it saved before it was handed in?", missing=True)
        if is_notebook(name):
            return notebook_source(data, name)
        text = _text(data)
        if len(text) > MAX_SOURCE_BYTES and name != METADATA:
            raise Unreadable(TOO_LONG)
    except Unreadable as error:
        return Source(problem=f"{name} can't be read: {error}")
    return Source(text)


_ENCODINGS = ("utf-8", "ascii", "iso8859", "cp", "koi8", "mac", "big5", "gb", "euc", "shift_jis", "iso2022", "tis")
"""The codecs that a source may name. Others take quadratic time (punycode, idna) or do not encode text."""


def _text(data: bytes) -> str:
    """Decode source as Python does: as UTF-8, unless its first two lines name another encoding. Raises: Unreadable."""
    encoding = "utf-8"
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if not codecs.lookup(encoding).name.startswith(_ENCODINGS):
            raise LookupError
        text = data.decode(encoding)
    except (SyntaxError, UnicodeError, LookupError):
        raise Unreadable(f"it is not Python text in UTF-8. {_advice(data)}") from None
    if "\0" in text:
        raise Unreadable("it is not Python text: it holds null bytes.")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _advice(data: bytes) -> str:
    """What to do about a file that is not UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "It is UTF-16: save it as UTF-8."
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if not any(byte < 9 or 13 < byte < 32 for byte in data[:4096]):
            return f"Line {line} holds a sign of another encoding, such as Windows-1252: save the file as UTF-8."
    return "Hand in the .py or .ipynb file itself."
