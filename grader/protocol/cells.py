"""A notebook's code as one text with the lines at which its cells begin, so that every cell is compiled for itself at its place.

The trusted process and the worker share this module; it knows nothing of either.
"""

import ast
from bisect import bisect_right
from collections.abc import Iterator, Sequence

__all__ = ["cells_of", "parse_cell", "place_of"]


def cells_of(source: str, starts: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Each cell with its first line, counted from 1. Without starts, the whole source is one cell."""
    lines = source.split("\n")
    for first, following in zip(starts or [1], [*starts[1:], len(lines) + 1], strict=True):
        yield first, "\n".join(lines[first - 1 : following - 1])


def place_of(line: int, starts: Sequence[int]) -> str:
    """A line as a student would look for it: "line 12", or "line 3 of its cell" in a notebook."""
    return f"line {line - starts[bisect_right(starts, line) - 1] + 1} of its cell" if starts and line else f"line {line}"


def parse_cell(text: str, first: int, filename: str) -> ast.Module:
    """Parse a cell whose first line is the file's line `first`. Raises: SyntaxError, at the file's line; ValueError."""
    try:
        tree = ast.parse(text, filename)
    except SyntaxError as error:
        error.lineno = (error.lineno or 1) + first - 1
        raise
    if first > 1:  # a whole file's lines are right as they are
        ast.increment_lineno(tree, first - 1)
    return tree
