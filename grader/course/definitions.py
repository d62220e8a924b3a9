"""Finds the statements of a module that a name depends on, as far as the source shows. Nothing here is executed."""

import ast
import functools
import hashlib
from collections.abc import Callable, Iterable

from grader.course.manifest import Module

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


def task_digest(source: str, module: Module, task: str) -> str:
    """Stands for a task's code: its own definition, and whatever of the file belongs to no other task. Comments and texts don't count."""
    names = {other.name for other in module.tasks} - {task}
    return _hash("\n".join(digest for name, digest in _definitions(source) if name not in names))


@functools.lru_cache(maxsize=64)
def _definitions(source: str) -> list[tuple[str, str]]:
    """The name and a digest of each statement of a file. Each of its tasks needs them, so the last files are remembered."""
    try:
        return [(getattr(node, "name", ""), _hash(ast.dump(node))) for node in ast.parse(source).body if not _is_text(node)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [("", _hash(source))]


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is the docstring of a module, or another text that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
