"""Turns the student's code in a notebook into Python, without outputs, magics and the cells that were handed out."""

import codecs
import re
from itertools import accumulate
from typing import Any

import msgspec

from grader.submissions.sources import MAX_SOURCE_BYTES, TOO_LONG, Source, Unreadable

__all__ = ["notebook_source", "python_of"]


def notebook_source(data: bytes, name: str) -> Source:
    """The student's code cells of a notebook as Python, in order. Cells that were handed out complete are not the student's."""
    try:
        cells = _notebook_cells(data)
        text = "\n\n".join(cells) + "\n"
        if len(text) > MAX_SOURCE_BYTES:
            raise Unreadable(TOO_LONG)
        if "\0" in text:
            raise Unreadable("its code holds null bytes.")
    except Unreadable as error:
        return Source(problem=f"{name} can't be read: {error}")
    starts = accumulate((cell.count("\n") + 2 for cell in cells[:-1]), initial=1)
    return Source(text, cells=tuple(starts))


class _Cell(msgspec.Struct):
    cell_type: str = ""
    source: str | list[str] = ""
    metadata: Any = None

    @property
    def handed_out(self) -> bool:
        """True for a cell that nbgrader locks, with tests or a place for points, and for one of ours that only prepares the notebook."""
        metadata = self.metadata if isinstance(self.metadata, dict) else {}
        mark = metadata.get("nbgrader")
        locked = isinstance(mark, dict) and mark.get("solution") is not True and True in (mark.get("locked"), mark.get("grade"))
        return locked or metadata.get("grader") == "setup"


class _Notebook(msgspec.Struct):
    cells: list[_Cell] | None = None
    worksheets: Any = None
    """What notebooks had instead of cells until 2014."""


def _notebook_cells(data: bytes) -> list[str]:
    """The student's code cells as Python, in order. Raises: Unreadable."""
    try:
        notebook = msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8), type=_Notebook)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Unreadable("it is not a Jupyter notebook.") from None
    if notebook.cells is None:
        old = notebook.worksheets is not None
        raise Unreadable("it is a notebook of an old format: open it in Jupyter, and save it." if old else "it is not a Jupyter notebook.")
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.handed_out]
    sources = [source if isinstance(source, str) else "".join(source) for source in code]
    if sum(map(len, sources)) > MAX_SOURCE_BYTES:
        raise Unreadable(TOO_LONG)
    return [python_of(source.replace("\r\n", "\n").replace("\r", "\n")) for source in sources]


_CELL_MAGIC = re.compile(r"\s*%%(\w*)[^\n]*")
_TRANSPARENT = ("time", "timeit", "capture", "prun", "task")
"""Magics of a whole cell that still run it as Python."""
_MAGIC = re.compile(r"(?P<indent>[ \t]*+)(?:(?P<target>[\w.,\[\] ]++)=[ \t]*+[%!]|[%!?]|[\w.]++\?\??[ \t]*+$)[^\n]*", re.MULTILINE)
"""The quantifiers are possessive (`*+`), because a long line of blanks would take quadratic time otherwise."""
_LEXEME = re.compile(
    r"""\#[^\n]* | (?P<quote>\'{3}|"{3})(?:\\.|(?!(?P=quote)).)*(?:(?P=quote)|\Z) | "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'?
    | (?P<open>[(\[{]) | (?P<close>[)\]}]) | \\. | [^\#"'()\[\]{}\\\n]+ | .""",
    re.DOTALL | re.VERBOSE,
)


def python_of(cell: str) -> str:
    """A cell's code, in which magics, shell lines and questions become comments, but only where a statement can begin.

    If a magic applies to the whole cell, the cell is left out, unless the magic runs it as Python. Raises: Unreadable if it is too long.
    """
    if start := _CELL_MAGIC.match(cell):
        if start[1] not in _TRANSPARENT:
            return ""
        cell = cell[start.end() :]
    if len(cell) > MAX_SOURCE_BYTES:
        raise Unreadable(TOO_LONG)
    parts, at, depth, fresh = [], 0, 0, True
    while at < len(cell):
        magic = _MAGIC.match(cell, at) if fresh and not depth else None
        if magic:
            action = f"{magic['target'].strip()} = None" if magic["target"] else "pass"
            parts.append(f"{magic['indent']}{action}  # {magic[0].strip()}")
            at = magic.end()
        elif lexeme := _LEXEME.match(cell, at):
            depth = max(0, depth + bool(lexeme["open"]) - bool(lexeme["close"]))
            parts.append(lexeme[0])
            at = lexeme.end()
        fresh = parts[-1] == "\n"
    return "".join(parts)
