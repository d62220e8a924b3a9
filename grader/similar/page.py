"""The page that shows pairs side by side. It loads nothing from elsewhere, runs no script, and everything in it is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from grader.base.text import clean
from grader.similar.pairs import Pair, Text

__all__ = ["page"]

_MOST_PAIRS = 100
_LONGEST_LINE = 500


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    shared: bool


@dataclass(frozen=True)
class _Side:
    student: str
    lines: list[_Line]


def page(pairs: Sequence[Pair], looked_at: int, least: float) -> str:
    """The page about these pairs, of which the first hundred are shown side by side."""
    environment = Environment(loader=PackageLoader("grader.similar"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    shown = [(pair, [_side(pair.one, pair.lines[0]), _side(pair.other, pair.lines[1])]) for pair in pairs[:_MOST_PAIRS]]
    values = {"shown": shown, "more": max(0, len(pairs) - _MOST_PAIRS), "looked_at": looked_at, "least": least}
    return environment.get_template("similar.html").render(values)


def _side(text: Text, shared: frozenset[int]) -> _Side:
    lines = text.source.splitlines()
    return _Side(text.student, [_Line(number, clean(line, _LONGEST_LINE), number in shared) for number, line in enumerate(lines, 1)])
