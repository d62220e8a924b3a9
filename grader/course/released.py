"""Cuts a reference down to the tasks that its author released. Text only; nothing here is executed."""

import ast
from collections.abc import Iterable

from grader.course.definitions import defined_by, needed_for
from grader.course.source import first_line, gap, text_of

__all__ = ["cut_to"]


def cut_to(solution: str, tasks: Iterable[str], *, imports: bool = True) -> str:
    """The definitions of these tasks with the helpers that they use, and the module's imports. Other tasks leave no trace."""
    lines, tree = solution.splitlines(), ast.parse(solution)
    needed = needed_for(tasks, [node for node in tree.body if defined_by(node)])
    text, previous = "", None
    for node in tree.body:
        if node in needed or (imports and isinstance(node, ast.Import | ast.ImportFrom)):
            text += gap(previous, node, lines) + text_of(lines, first_line(node), node.end_lineno or node.lineno)
            previous = node
    return text + "\n"
