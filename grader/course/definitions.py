"""Finds the statements of a module that a name depends on, as far as the source shows. Nothing here is executed."""

import ast
from collections.abc import Callable, Iterable

__all__ = ["defined_by", "names_in", "needed_for"]


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
    defined_by: Callable[[ast.stmt], list[str]] = defined_by,
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
