"""Bans in the source: finds the first use of a forbidden name in a task, or in what the task uses of its module.

The trusted process reads the source; the worker watches what runs (`grader.protocol.watch`). A determined evader can pass both (see
SECURITY.md).
"""

import ast
import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from grader.course.definitions import defined_by, needed_for
from grader.protocol.ban_names import leaf
from grader.protocol.cells import cells_of, parse_cell, place_of

__all__ = ["uses_in"]


def uses_in(source: str, bans: Mapping[str, Sequence[str]], cells: Sequence[int] = ()) -> dict[str, str]:
    """Find the first use of a banned name in each task, or in what the task uses of its module.

    Args:
        source: the module.
        bans: by task.
        cells: the lines at which a notebook's cells begin.

    Returns: {"double": "torch.softmax, line 12"}, without the tasks that use none. A source that does not parse has no uses, and loading
    it fails anyway. In a notebook, this holds for each cell.
    Raises: RecursionError or MemoryError if the source is nested too deep to be read, or takes too much memory.
    """
    scan = _scan(source, cells)
    found = {task: _first_use(scan, task, some, cells) for task, some in bans.items() if some}
    return {task: use for task, use in found.items() if use}


@dataclass(frozen=True)
class _Scan:
    """A module's statements; what each of them binds and uses, by the names in it and by the dotted names with their lines."""

    statements: list[ast.stmt]
    binds: dict[ast.stmt, list[str]]
    names: dict[ast.stmt, set[str]]
    uses: dict[ast.stmt, list[tuple[str, int]]]


def _scan(source: str, cells: Sequence[int]) -> _Scan:
    """Read a module once for all of its tasks."""
    statements: list[ast.stmt] = []
    for first, text in cells_of(source, cells):
        with contextlib.suppress(SyntaxError, ValueError):
            statements += parse_cell(text, first, "student").body
    parts = {node: [part for part in _walk(node) if isinstance(part, _INTERESTING)] for node in statements}
    aliases = _aliases(part for some in parts.values() for part in some)
    binds = {node: defined_by(node) for node in statements}
    names = {node: {part.id for part in some if isinstance(part, ast.Name)} for node, some in parts.items()}
    uses = {node: [(name, part.lineno) for part in some if (name := _dotted(part, aliases))] for node, some in parts.items()}
    return _Scan(statements, binds, names, uses)


def _first_use(scan: _Scan, task: str, bans: Iterable[str], cells: Sequence[int]) -> str | None:
    wanted = {leaf(ban): ban for ban in bans}
    for node in needed_for([task], scan.statements, scan.names.__getitem__, scan.binds.__getitem__):
        for name, line in scan.uses[node]:
            if leaf(name) in wanted and name.split(".")[0] == "torch":
                return f"{wanted[leaf(name)]}, {place_of(line, cells)}"
            if name.startswith(_PRIVATE) or name in _HUNTS:
                return f"{name}, {place_of(line, cells)}"
    for node in scan.statements:
        if not isinstance(node, _DEFINITIONS):  # it runs when the module is loaded, whoever uses what it binds
            for name, line in scan.uses[node]:
                if name in _HUNTS:
                    return f"{name}, {place_of(line, cells)}"
    return None


_INTERESTING = (ast.Name, ast.Attribute, ast.Call, ast.Import, ast.ImportFrom)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, in the order of `ast.walk` and in half of its time."""
    pending = deque([node])
    while pending:
        node = pending.popleft()
        for field, value in node.__dict__.items():
            if isinstance(value, list):
                pending.extend(item for item in value if isinstance(item, ast.AST))
            elif isinstance(value, ast.AST) and field != "ctx":
                pending.append(value)
        yield node


def _aliases(parts: Iterable[ast.AST]) -> dict[str, str]:
    """What imported names stand for, anywhere in the module: {"F": "torch.nn.functional"}."""
    found: dict[str, str] = {}
    for node in parts:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


_PRIVATE = (
    *("torch._refs", "torch._decomp", "torch._prims", "torch._C", "torch.library"),
    *("sys.modules", "grader."),
)
"""Where torch keeps second copies of its operators, and ways to the harness. No honest answer to a task with bans needs them."""
_INNARDS = frozenset(("__closure__", "cell_contents", "tb_frame", "f_back", "f_locals", "f_globals", "gi_frame", "cr_frame"))
"""Attributes that lead from any function or error to the harness."""
_HUNTS = _INNARDS | {
    *("sys._getframe", "sys._current_frames", "gc.get_objects", "gc.get_referrers", "gc.get_referents"),
    *("inspect.stack", "inspect.currentframe", "inspect.trace", "inspect.getclosurevars"),
}
"""What finds the harness in memory."""
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
_LONGEST_NAME = 12


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """The full name that an expression spells, including `getattr` with a literal; None if it can't be a name of torch's."""
    if isinstance(node, ast.Attribute) and node.attr in _INNARDS:
        return node.attr
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
