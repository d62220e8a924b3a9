"""Bans in the source: the first use of a forbidden name in a task, or in what the task uses of its module.

The trusted process reads the source; the worker watches what runs (`grader.protocol.watch`). A determined evader can pass both (see
SECURITY.md).
"""

import ast
import contextlib
import functools
from collections.abc import Iterable

from grader.course.definitions import needed_for
from grader.protocol.cells import cells_of, parse_cell, place_of
from grader.protocol.watch import leaf

__all__ = ["in_source"]


def in_source(source: str, task: str, bans: Iterable[str], cells: tuple[int, ...] = ()) -> str | None:
    """Find the first use of a banned name in a task or in what it uses of its module.

    Returns: "torch.softmax, line 12", or None. A source that does not parse has no uses: loading it fails anyway. Of a notebook, whose
    cells begin at the lines `cells`, this holds for each cell.
    """
    wanted = {leaf(ban): ban for ban in bans}
    if not wanted:
        return None
    try:
        tree, aliases = _parse(source, cells)
    except (RecursionError, MemoryError):
        return None
    for node in needed_for([task], tree.body):
        for part in ast.walk(node):
            name = _dotted(part, aliases)
            if name and name.split(".")[0] == "torch" and leaf(name) in wanted:
                return f"{wanted[leaf(name)]}, {place_of(part.lineno, cells)}"  # type: ignore[attr-defined]
            if name and name.startswith(_PRIVATE):
                return f"{name}, {place_of(part.lineno, cells)}"  # type: ignore[attr-defined]
    return None


@functools.lru_cache(maxsize=4)
def _parse(source: str, cells: tuple[int, ...]) -> tuple[ast.Module, dict[str, str]]:
    tree = ast.Module([], [])
    for first, text in cells_of(source, cells):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            tree.body += parse_cell(text, first, "student").body
    return tree, _aliases(tree)


def _aliases(tree: ast.AST) -> dict[str, str]:
    """What imported names stand for, anywhere in the module: {"F": "torch.nn.functional"}."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


_PRIVATE = ("torch._refs", "torch._decomp", "torch._prims", "torch._C")
"""Where torch keeps second copies of its operators: no honest answer to a task with bans needs them."""
_LONGEST_NAME = 12


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """The full name that an expression spells, `getattr` with a literal included; None for what can't be a name of torch's."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < _LONGEST_NAME:
        parts.append(node.attr)
        node = node.value
    base = aliases.get(node.id) if isinstance(node, ast.Name) else _from_getattr(node, aliases)
    return base and ".".join([base, *reversed(parts)])


def _from_getattr(node: ast.AST, aliases: dict[str, str]) -> str | None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) >= 2:
        holder, name = node.args[0], node.args[1]
        base = aliases.get(holder.id) if isinstance(holder, ast.Name) else None
        if base and isinstance(name, ast.Constant) and isinstance(name.value, str):
            return f"{base}.{name.value}"
    return None
