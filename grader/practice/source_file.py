"""Reads a student's file as Python does, and writes it in the form that it had: with its byte order mark and Windows' line ends."""

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from grader.base.files import write_atomically

__all__ = ["SourceFile", "with_plain_ends"]


@dataclass(frozen=True)
class SourceFile:
    """The text of a file, with plain ends of lines, and the form that the file had."""

    text: str
    bom: bool = False
    windows: bool = False
    """Whether lines end as Windows ends them."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises: OSError, UnicodeDecodeError if it is not in UTF-8."""
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
        return cls(with_plain_ends(text), data.startswith(codecs.BOM_UTF8), "\r\n" in text)

    def write(self, path: Path, text: str) -> None:
        """Write another text in this form. A link stays one. Raises: OSError."""
        text = text.replace("\n", "\r\n") if self.windows else text
        write_atomically(path.resolve(), text.encode("utf-8-sig" if self.bom else "utf-8"))


def with_plain_ends(text: str) -> str:
    """The text with line feeds as the ends of lines. Python also sees an end in a carriage return, with a line feed or alone."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
