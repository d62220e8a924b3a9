"""Makes stubs from references, and reads what both must share. Text only; nothing here is executed.

A stub's bodies raise NotImplementedError. Where the task is to mend code, the bank of misconceptions has an entry that is marked
`stub=True`, and its bodies take their place.
"""

import ast
from collections.abc import Iterable, Mapping

from grader.course.manifest import Course
from grader.course.source import Definition, body_lines, first_line, gap, head, helpers_of, is_private, text_of, todo

__all__ = [
    *("TO_MEND", "bodies_to_mend", "broken_bodies", "docstrings", "handed_out", "make_stub", "module_stub"),
    *("solution_lines", "stub_task"),
]

TO_MEND = "# TODO: this code has a mistake. Find it and mend it."


def module_stub(course: Course, module: str) -> str:
    """A module as a student gets it. Raises: OSError, SyntaxError."""
    tasks = [task.name for task in course.module(module).tasks]
    return make_stub(course.solution(module).read_text(encoding="utf-8"), tasks, bodies_to_mend(course, module))


def handed_out(course: Course, module: str) -> str | None:
    """The same, or the copy of it that a repository for students has. None where there is neither. Raises: OSError, SyntaxError."""
    copy = course.untouched_stub(module)
    if copy.is_file():
        return copy.read_text(encoding="utf-8")
    return module_stub(course, module) if course.solution(module).is_file() else None


def bodies_to_mend(course: Course, module: str) -> dict[str, str]:
    """What `broken_bodies` finds in a module's bank. Raises: OSError, SyntaxError."""
    bank = course.misconceptions(module)
    return broken_bodies(bank.read_text(encoding="utf-8")) if bank.is_file() else {}


def broken_bodies(bank: str) -> dict[str, str]:
    """The bodies of the misconceptions that stubs show, by the dotted name of the function that each takes the place of."""
    if "stub=" not in bank:  # as in most modules, whose long banks need not be parsed for every verdict
        return {}
    lines = bank.splitlines()
    found = {}
    for node in ast.parse(bank).body:
        task = stub_task(node)
        if task and isinstance(node, ast.FunctionDef):
            found[task] = _body(node, lines)
        elif task and isinstance(node, ast.ClassDef):
            found |= {f"{task}.{item.name}": _body(item, lines) for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


def stub_task(node: ast.stmt) -> str:
    """The task whose stub shows an entry of the bank: one with `@misconception(task, why, stub=True)`. Empty for other statements."""
    for decorator in getattr(node, "decorator_list", []):
        match decorator:
            case ast.Call(func=ast.Name(id="misconception"), args=[ast.Constant(value=str(task)), *_], keywords=keywords) if any(
                keyword.arg == "stub" and isinstance(keyword.value, ast.Constant) and keyword.value.value for keyword in keywords
            ):
                return task
    return ""


def _body(node: ast.FunctionDef, lines: list[str]) -> str:
    """A function's lines behind its signature and docstring, with comments."""
    return text_of(lines, first_line(node) + head(node, lines).count("\n") + 1, node.end_lineno or node.lineno)


def make_stub(solution: str, tasks: Iterable[str], broken: Mapping[str, str] | None = None) -> str:
    """The module as a student gets it: the tasks' signatures and docstrings, with a TODO in place of every body.

    Private helpers and constants (leading underscore) are left out. Imports and other public definitions stay.

    Args:
        broken: bodies for the functions that a student has to mend, as `broken_bodies` gives them.
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
            part = _stub_of(node, lines, helpers, broken or {})
        else:
            part = text_of(lines, first_line(node), node.end_lineno or node.lineno)
        text += gap(previous, node, lines) + part
        previous = node
    return text + "\n"


def _stub_of(node: Definition, lines: list[str], helpers: dict[str, Definition], broken: Mapping[str, str]) -> str:
    if isinstance(node, ast.FunctionDef):
        return _function_stub(node, lines, node.name, helpers, broken)
    parts = [head(node, lines)]
    for item in node.body[1 if ast.get_docstring(node) else 0 :]:
        if isinstance(item, ast.FunctionDef) and not is_private(item):
            parts.append("\n" + _function_stub(item, lines, f"{node.name}.{item.name}", helpers, broken))
        elif isinstance(item, ast.Assign | ast.AnnAssign) and not is_private(item):
            parts.append("\n" + text_of(lines, item.lineno, item.end_lineno or item.lineno))
    return "\n".join(parts)


def _function_stub(node: ast.FunctionDef, lines: list[str], name: str, helpers: dict[str, Definition], broken: Mapping[str, str]) -> str:
    indent = " " * (node.col_offset + 4)
    if name in broken:
        return f"{head(node, lines)}\n{indent}{TO_MEND}\n{broken[name]}"
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
