"""Cuts a reference into the parts of a notebook, with each answer between nbgrader's marks. Text only; nothing here is executed."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grader.course.source import Definition, bound_name, first_line, gap, head, helpers_of, is_private, text_of, todo

__all__ = ["ModuleParts", "cut_up", "parts_of_stub"]


@dataclass(frozen=True)
class ModuleParts:
    """The parts of a module: its docstring, the public code outside of the tasks, and each task, a reference's between marks."""

    docstring: str
    preamble: str
    tasks: dict[str, str]


BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
"""nbgrader replaces everything between these marks with a line that raises."""
_TO_MEND = "# TODO: this code has a mistake. Delete the next line, then find the mistake and mend it."


def cut_up(solution: str, tasks: Iterable[str], broken: Mapping[str, str] | None = None) -> ModuleParts:
    """Cut a reference into its parts. Everything that the stub lacks goes between marks: bodies, and each task's private helpers.

    A helper that several tasks use goes with the first of them. A body that students mend (`broken_bodies`) stands behind the reference's,
    where nothing reaches it before nbgrader removes what is between the marks. Raises: ValueError if a class can't be marked.
    """
    lines = solution.splitlines()
    tree = ast.parse(solution)
    wanted = list(tasks)
    nodes = {node.name: node for node in tree.body if isinstance(node, Definition) and node.name in wanted}
    private = [node for node in tree.body if is_private(node)]
    owners = _owners([nodes[name] for name in wanted], private)
    cells = {}
    for name in wanted:
        own = [node for node in private if owners[node] is nodes[name]]
        answer = _marked(nodes[name], lines, helpers_of(tree), broken or {})
        helpers = "".join(f"\n\n\n{text_of(lines, first_line(node), node.end_lineno or node.lineno)}" for node in own)
        if helpers and not answer.endswith(END):
            raise ValueError(f"{name}: its helpers can't be hidden behind a class that does not end in a method: put its methods last")
        cells[name] = f"{answer.removesuffix(END).rstrip()}{helpers}\n{END}" if helpers else answer
    return ModuleParts(ast.get_docstring(tree) or "", _preamble(tree, lines, [*nodes.values(), *private]), cells)


def parts_of_stub(stub: str, tasks: Iterable[str]) -> ModuleParts:
    """Cut a stub into its parts, as students get them."""
    lines, tree, wanted = stub.splitlines(), ast.parse(stub), list(tasks)
    nodes = {node.name: node for node in tree.body if isinstance(node, Definition) and node.name in wanted}
    cells = {name: text_of(lines, first_line(nodes[name]), nodes[name].end_lineno or nodes[name].lineno) for name in wanted}
    return ModuleParts(ast.get_docstring(tree) or "", _preamble(tree, lines, list(nodes.values())), cells)


def _preamble(tree: ast.Module, lines: list[str], others: list[ast.stmt]) -> str:
    """The statements of a module but for its docstring and others."""
    preamble, previous = "", None
    for node in tree.body[1 if ast.get_docstring(tree) else 0 :]:
        if node not in others:
            preamble += gap(previous, node, lines) + text_of(lines, first_line(node), node.end_lineno or node.lineno)
            previous = node
    return preamble


def _owners(tasks: list[Definition], private: list[ast.stmt]) -> dict[ast.stmt, Definition]:
    """For each private statement of a module, the first task that needs it, directly or through other private statements."""
    names = {bound_name(node): node for node in private}
    owners: dict[ast.stmt, Definition] = {}
    for task in tasks:
        pending: list[ast.stmt] = [task]
        while pending:
            for part in ast.walk(pending.pop()):
                node = names.get(part.id) if isinstance(part, ast.Name) else None
                if node is not None and node not in owners:
                    owners[node] = task
                    pending.append(node)
    return {node: owners.get(node, tasks[0]) for node in private}


def _marked(node: Definition, lines: list[str], helpers: dict[str, Definition], broken: Mapping[str, str]) -> str:
    """A task with its bodies between marks. A class's private parts go between the marks of the method before them, or else of the next."""
    if isinstance(node, ast.FunctionDef):
        return _open(node, lines, helpers, broken.get(node.name)) + _close(node, broken.get(node.name))
    items = node.body[1 if ast.get_docstring(node) else 0 :]
    parts, hidden = [head(node, lines)], ""
    within: ast.FunctionDef | None = None  # the method whose marks are open
    for item in items:
        text = text_of(lines, first_line(item), item.end_lineno or item.lineno)
        if is_private(item) and within is None:
            hidden += f"\n\n{text}"
        elif is_private(item):
            parts[-1] += f"\n\n{text}"
        else:
            if within is not None:
                parts[-1] += _close(within, broken.get(f"{node.name}.{within.name}"))
            if isinstance(item, ast.FunctionDef):
                parts.append(f"\n{_open(item, lines, helpers, broken.get(f'{node.name}.{item.name}'))}{hidden}")
                within, hidden = item, ""
            else:
                parts.append(f"\n{text}")
                within = None
    if hidden:
        raise ValueError(f"{node.name}: its private parts have no method to be hidden behind: add one at the end of the class")
    return "\n".join(parts) + (_close(within, broken.get(f"{node.name}.{within.name}")) if within is not None else "")


def _open(node: ast.FunctionDef, lines: list[str], helpers: dict[str, Definition], broken: str | None) -> str:
    """A function whose body begins with a mark."""
    indent, beginning = " " * (node.col_offset + 4), head(node, lines)
    body = lines[first_line(node) + beginning.count("\n") : node.end_lineno]
    what = _TO_MEND if broken else todo(node, lines, helpers)
    return "\n".join([beginning, f"{indent}{what}", f"{indent}{BEGIN}", *body])


def _close(node: ast.FunctionDef, broken: str | None) -> str:
    """The mark that ends a function's answer; behind it, the body that a student mends."""
    return f"\n{' ' * (node.col_offset + 4)}{END}" + (f"\n{broken}" if broken else "")
