"""Makes stubs from references, and reads what both must share. Text only; nothing here is executed."""

import ast
from collections.abc import Iterable

from grader.course.source import Definition, body_lines, first_line, gap, head, helpers_of, is_private, text_of, todo

__all__ = ["docstrings", "make_stub", "solution_lines"]


def make_stub(solution: str, tasks: Iterable[str]) -> str:
    """The module as a student gets it: the tasks' signatures and docstrings, with a TODO in place of every body.

    Private helpers and constants (leading underscore) are left out. Imports and other public definitions stay.
    """
    lines = solution.splitlines()
    wanted = set(tasks)
    text, previous = "", None
    tree = ast.parse(solution)
    helpers = helpers_of(tree)
    for node in tree.body:
        if is_private(node):
            continue
        if isinstance(node, Definition) and node.name in wanted:
            part = _stub_of(node, lines, node.name, helpers)
        else:
            part = text_of(lines, first_line(node), node.end_lineno or node.lineno)
        text += gap(previous, node, lines) + part
        previous = node
    return text + "\n"


def _stub_of(node: Definition, lines: list[str], name: str, helpers: dict[str, Definition]) -> str:
    if isinstance(node, ast.FunctionDef):
        return _function_stub(node, lines, name, helpers)
    parts = [head(node, lines)]
    for item in node.body[1 if ast.get_docstring(node) else 0 :]:
        if isinstance(item, ast.FunctionDef) and not is_private(item):
            parts.append("\n" + _function_stub(item, lines, f"{name}.{item.name}", helpers))
        elif isinstance(item, ast.Assign | ast.AnnAssign) and not is_private(item):
            parts.append("\n" + text_of(lines, item.lineno, item.end_lineno or item.lineno))
    return "\n".join(parts)


def _function_stub(node: ast.FunctionDef, lines: list[str], name: str, helpers: dict[str, Definition]) -> str:
    indent = " " * (node.col_offset + 4)
    return f'{head(node, lines)}\n{indent}{todo(node, lines, helpers)}\n{indent}raise NotImplementedError("{name}")'


def solution_lines(solution: str, task: str) -> list[str]:
    """The lines of code of a task's reference. A caller can search for them in files that may not hold them."""
    lines = solution.splitlines()
    found: list[str] = []
    for node in ast.parse(solution).body:
        if isinstance(node, Definition) and node.name == task:
            functions = [node] if isinstance(node, ast.FunctionDef) else [item for item in node.body if isinstance(item, ast.FunctionDef)]
            found += [line for function in functions for line in body_lines(function, lines)]
    return found


def docstrings(source: str, tasks: Iterable[str]) -> dict[str, str | None]:
    """The docstrings of the tasks and of their public methods, by dotted name."""
    found: dict[str, str | None] = {}
    for node in ast.parse(source).body:
        if isinstance(node, Definition) and node.name in set(tasks):
            found[node.name] = ast.get_docstring(node)
            for item in node.body:
                if isinstance(node, ast.ClassDef) and isinstance(item, ast.FunctionDef) and not is_private(item):
                    found[f"{node.name}.{item.name}"] = ast.get_docstring(item)
    return found
