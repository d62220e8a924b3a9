"""Makes a task's statement readable at any width: paragraphs are filled anew, formulas stay as they are, entries hang."""

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.syntax import Syntax
from rich.text import Text

from grader.course.manifest import Course, Module
from grader.course.source import first_line
from grader.practice.reset import statement_of

__all__ = ["Statement", "place_of", "statement"]

_HEADER = re.compile(r"(?:Args|Args of the constructor|Attributes|Returns|Raises|Yields|Not allowed|See)\b[^:]*:(?= |$)")
_ITEM = re.compile(r"(?:\d+\.|[-*•]) ")
_NAMES = re.compile(r"[^:]+:(?= |$)")
_NARROWEST = 30
_STEP = 4


def statement(course: Course, module: Module, task: str) -> "Statement":
    """A task's statement, to be printed or shown. Raises: CannotReset if no stub is here."""
    return Statement(statement_of(course, module, task))


def place_of(course: Course, module: Module, task: str) -> str:
    """Where a task's definition stands in the student's file, as "exercises/cnn.py:12", which editors and terminals open by a click."""
    path = course.stub(module.name)
    return f"{path.relative_to(course.root).as_posix()}:{_line_of(path, task)}"


def _line_of(path: Path, task: str) -> int:
    """The line of a definition; 1 if it can't be found. The file need not be valid Python."""
    try:
        source = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 1
    found = re.search(rf"^(?:class|def|async\s+def)\s+{task}\b", source, re.MULTILINE)
    return source.count("\n", 0, found.start()) + 1 if found else 1


class Statement:
    """The signature and the docstring of a stub; of a class, also those of its methods."""

    def __init__(self, stub: str) -> None:
        self._stub = stub

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Print it at the width that there is."""
        yield self.text(options.max_width)

    def text(self, width: int) -> Text:
        """The statement in lines of at most `width` characters."""
        lines, nodes = self._stub.splitlines(), ast.parse(self._stub).body
        return Text("\n").join(text for node in nodes for text in _definition(node, lines, max(width, _NARROWEST), 0))


def _definition(node: ast.stmt, lines: list[str], width: int, indent: int) -> Iterator[Text]:
    """A function with its docstring, or a class with its methods."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield from _code(lines[first_line(node) - 1 : node.end_lineno], width)
        return
    yield from _code(lines[first_line(node) - 1 : first_line(node.body[0]) - 1] or lines[node.lineno - 1 : node.lineno], width)
    inner, docstring = " " * (indent + _STEP), ast.get_docstring(node)
    for text in _docstring(docstring or "", width - len(inner)):
        yield Text(inner) + text if text else text
    if isinstance(node, ast.ClassDef):
        for member in node.body[1:] if docstring else node.body:
            yield Text()
            yield from _definition(member, lines, width, indent + _STEP)
    else:
        comments = (line.strip() for line in lines[node.lineno : node.end_lineno])
        for todo in (line for line in comments if line.startswith("# TODO")):
            parts = textwrap.wrap(todo, width, initial_indent=inner, subsequent_indent=inner + " " * _STEP, break_on_hyphens=False)
            yield from (Text(part, "dim") for part in parts)


def _code(lines: list[str], width: int) -> Iterator[Text]:
    """Code in colours. A line that is too long goes on further to the right."""
    for line in lines:
        if not line.lstrip().startswith("#"):
            deeper = line[: len(line) - len(line.lstrip())] + " " * 2 * _STEP
            for part in textwrap.wrap(line, width, subsequent_indent=deeper, break_on_hyphens=False):
                yield _highlighted(part)[: len(part)]


def _highlighted(code: str) -> Text:
    return Syntax("", "python", theme="ansi_dark").highlight(code)


# ---- docstrings


@dataclass
class _Block:
    """Some lines of a docstring that belong together: a paragraph, an item, an entry, a line of a formula, or a blank line."""

    text: str = ""
    indent: int = 0
    hanging: int = 0
    """How much further to the right the second line begins."""
    strong: int = 0
    """How many characters at the beginning are emphasised."""
    formula: bool = False


def _docstring(docstring: str, width: int) -> Iterator[Text]:
    """The lines of a docstring at another width."""
    for block in _blocks(docstring.splitlines()):
        indent = block.indent
        if block.formula:  # rather further to the left than broken
            indent = max(min(indent, width - len(block.text)), _STEP)
        first, rest = " " * indent, " " * (indent + block.hanging)
        for number, line in enumerate(
            textwrap.wrap(block.text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [""]
        ):
            text = Text(line, "cyan" if block.formula else "")
            if number == 0:
                text.stylize("bold", indent, indent + block.strong)
            yield text


def _blocks(lines: list[str]) -> list[_Block]:
    """What the lines of a docstring are. An indented line goes on with an entry or item; after a blank line it is a formula."""
    blocks: list[_Block] = []
    entries = False  # whether indented lines are entries, as below "Args:"
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        last = blocks[-1] if blocks and blocks[-1].text else None
        if not text:
            blocks.append(_Block())
            entries = False
        elif indent == 0 and (header := _HEADER.match(text)):
            blocks.append(_Block(text, hanging=_STEP, strong=header.end()))
            entries = text == header[0]
        elif indent == 0 and (item := _ITEM.match(text)):
            blocks.append(_Block(text, hanging=item.end()))
        elif indent == 0 and last and not last.indent:
            last.text += f" {text}"
        elif indent == 0:
            blocks.append(_Block(text))
        elif last is None or last.formula:
            blocks.append(_Block(text, indent, _STEP, formula=True))
        elif (entries and indent <= _STEP) or (last.text.endswith(":") and not last.indent):
            entries = True
            names = _NAMES.match(text)
            blocks.append(_Block(text, _STEP, _STEP, strong=names.end() if names else 0))
        else:
            last.text += f" {text}"
    return blocks
