"""Finds the statements of a module that a name depends on, as far as the source shows. Nothing here is executed."""

import ast
import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["defined_by", "names_in", "needed_for", "task_digest"]


def defined_by(node: ast.stmt) -> list[str]:
    """The names that a statement of a module binds. Imports don't count."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return []
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


def names_in(node: ast.stmt) -> set[str]:
    """The names that a statement uses or binds."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def needed_for(
    names: Iterable[str],
    statements: Iterable[ast.stmt],
    names_in: Callable[[ast.stmt], set[str]] = names_in,
    defined_by: Callable[[ast.stmt], Iterable[str]] = defined_by,
) -> list[ast.stmt]:
    """The statements that define the names, those that define what these statements use, and so on. Imports don't count.

    `names_in` says which names a statement uses, `defined_by` which it binds. A caller that has worked them out already can pass functions
    of its own.
    """
    definitions: dict[str, list[ast.stmt]] = {}
    for node in statements:
        for name in defined_by(node):
            definitions.setdefault(name, []).append(node)
    pending, needed = list(names), []
    seen = set(pending)
    walked: set[ast.stmt] = set()  # one statement can bind thousands of names: visit it once
    while pending:
        for node in definitions.get(pending.pop(), []):
            if node in walked:
                continue
            walked.add(node)
            needed.append(node)
            used = names_in(node)
            pending.extend(used - seen)
            seen |= used
    return needed


def task_digest(source: str, task: str) -> str:
    """Stands for a task's code: its definition, what that needs of the file, and the imports that they use.

    Comments, and whatever else is in the file, don't count.
    """
    file = _parsed(source)
    if file is None:
        return _hash(source)
    needed = set(needed_for([task], file.statements, file.names.__getitem__, file.changes.__getitem__))
    used = {name for node in needed for name in file.names[node]}
    imported = [digest for name, digest in file.imports if name in used or name == "*"]
    return _hash("\n".join([*imported, *(digest for node, digest in file.statements.items() if node in needed)]))


@dataclass(frozen=True)
class _File:
    statements: dict[ast.stmt, str]
    """The statements that import nothing, with a digest of each."""
    names: dict[ast.stmt, set[str]]
    """The names that each uses."""
    changes: dict[ast.stmt, list[str]]
    """The names that each binds or changes."""
    imports: list[tuple[str, str]]
    """Each name that is imported, and from where."""


@functools.lru_cache(maxsize=64)
def _parsed(source: str) -> _File | None:
    """A file, None if it is no Python. Each of its tasks needs it, so the last files are remembered."""
    try:
        body = ast.parse(source).body
        statements = {node: _hash(ast.dump(node)) for node in body if not isinstance(node, ast.Import | ast.ImportFrom)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    imports = [entry for node in body if isinstance(node, ast.Import | ast.ImportFrom) for entry in _imported(node)]
    return _File(statements, {node: names_in(node) for node in statements}, {node: _changed_by(node) for node in statements}, imports)


def _imported(node: ast.Import | ast.ImportFrom) -> list[tuple[str, str]]:
    """The names that an import binds, and where each comes from."""
    origin = f"{'.' * node.level}{node.module} " if isinstance(node, ast.ImportFrom) else ""
    return [((alias.asname or alias.name).partition(".")[0], f"{origin}{alias.name} {alias.asname}") for alias in node.names]


def _changed_by(node: ast.stmt) -> list[str]:
    """The names that a statement binds, also by an import within it, and those of things in which it stores: f for `f.cache = {}`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    parts = list(ast.walk(node))
    imported = [(part.asname or part.name).partition(".")[0] for part in parts if isinstance(part, ast.alias)]
    stored = [_root(part) for part in parts if isinstance(part, ast.Attribute | ast.Subscript) and not isinstance(part.ctx, ast.Load)]
    return [*defined_by(node), *imported, *filter(None, stored)]


def _root(node: ast.expr) -> str:
    """The name at the beginning of an expression such as a.b[c]; empty if it begins with something else."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
