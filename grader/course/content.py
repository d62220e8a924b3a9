"""The exercises as source text: stubs made from references, and modules in which some tasks are answered by entries of a bank.

Reads and writes text only; nothing here is executed.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from grader.course.definitions import defined_by, needed_for

__all__ = [
    "Bank",
    "BankEntry",
    "ModuleParts",
    "answer_only",
    "answer_with",
    "cut_up",
    "docstrings",
    "make_stub",
    "read_bank",
    "solution_lines",
    "trivial_answers",
]

_Definition = ast.FunctionDef | ast.ClassDef


# ---- stubs


def make_stub(solution: str, tasks: Iterable[str]) -> str:
    """The module as a student gets it: docstrings and signatures of the tasks, with a TODO in place of every body.

    Private helpers and constants (leading underscore) are left out; imports and other public definitions stay.
    """
    lines = solution.splitlines()
    wanted = set(tasks)
    text, previous = "", None
    tree = ast.parse(solution)
    helpers = _helpers(tree)
    for node in tree.body:
        if _private(node):
            continue
        if isinstance(node, _Definition) and node.name in wanted:
            part = _stub_of(node, lines, node.name, helpers)
        else:
            part = _text(lines, _first_line(node), node.end_lineno or node.lineno)
        text += _gap(previous, node, lines) + part
        previous = node
    return text + "\n"


def _helpers(tree: ast.Module) -> dict[str, _Definition]:
    """The private definitions, of the module and of its classes."""
    return {node.name: node for node in ast.walk(tree) if isinstance(node, _Definition) and _private(node)}


def _gap(previous: ast.stmt | None, node: ast.stmt, lines: list[str]) -> str:
    """The blank lines between two statements: two around definitions, elsewhere as in the reference."""
    if previous is None:
        return ""
    if isinstance(previous, _Definition) or isinstance(node, _Definition):
        return "\n\n\n"
    between = lines[previous.end_lineno or previous.lineno : _first_line(node) - 1]
    return "\n\n" if any(not line.strip() for line in between) else "\n"


def _stub_of(node: _Definition, lines: list[str], name: str, helpers: dict[str, _Definition]) -> str:
    if isinstance(node, ast.FunctionDef):
        return _function_stub(node, lines, name, helpers)
    parts = [_head(node, lines)]
    for item in node.body[1 if ast.get_docstring(node) else 0 :]:
        if isinstance(item, ast.FunctionDef) and not _private(item):
            parts.append("\n" + _function_stub(item, lines, f"{name}.{item.name}", helpers))
        elif isinstance(item, ast.Assign | ast.AnnAssign) and not _private(item):
            parts.append("\n" + _text(lines, item.lineno, item.end_lineno or item.lineno))
    return "\n".join(parts)


def _function_stub(node: ast.FunctionDef, lines: list[str], name: str, helpers: dict[str, _Definition]) -> str:
    indent = " " * (node.col_offset + 4)
    return f'{_head(node, lines)}\n{indent}{_todo(node, lines, helpers)}\n{indent}raise NotImplementedError("{name}")'


def _todo(node: ast.FunctionDef, lines: list[str], helpers: dict[str, _Definition]) -> str:
    count, more = len(_body_lines(node, lines)), _lines_of_helpers(node, lines, helpers)
    return f"# TODO: about {count} line{'s' if count != 1 else ''}{f', and {more} in helpers of your own' if more else ''}."


def _lines_of_helpers(node: ast.AST, lines: list[str], helpers: dict[str, _Definition]) -> int:
    """Lines of the private definitions that a body uses, and that those use."""
    found: dict[str, _Definition] = {}
    pending: list[ast.AST] = [node]
    while pending:
        for part in ast.walk(pending.pop()):
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if name in helpers and name not in found:
                found[name] = helpers[name]
                pending.append(helpers[name])
    outermost = [
        helper for helper in found.values() if not any(helper in ast.walk(other) for other in found.values() if other is not helper)
    ]
    return sum(1 + len(_body_lines(helper, lines)) for helper in outermost)


def _head(node: _Definition, lines: list[str]) -> str:
    """Decorators, signature and docstring."""
    last = node.body[0].end_lineno if ast.get_docstring(node) else _first_line(node.body[0]) - 1
    head = lines[_first_line(node) - 1 : last]
    while not head[-1].strip() or head[-1].lstrip().startswith("#"):  # a comment on the body may give it away
        head.pop()
    return "\n".join(head)


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return int(min([node.lineno, *(decorator.lineno for decorator in decorators)]))


def _text(lines: list[str], first: int, last: int) -> str:
    return "\n".join(lines[first - 1 : last])


def _body_lines(node: _Definition, lines: list[str]) -> list[str]:
    """The lines of a body that are code: no docstring, blanks or comments."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return []
    text = (line.strip() for line in lines[body[0].lineno - 1 : node.end_lineno])
    return [line for line in text if line and not line.startswith("#")]


def _private(node: ast.stmt) -> bool:
    name = _bound(node)
    return name.startswith("_") and not name.endswith("__")


def solution_lines(solution: str, task: str) -> list[str]:
    """The lines of code of a task's reference, for finding them where they should not be."""
    lines = solution.splitlines()
    found: list[str] = []
    for node in ast.parse(solution).body:
        if isinstance(node, _Definition) and node.name == task:
            functions = [node] if isinstance(node, ast.FunctionDef) else [item for item in node.body if isinstance(item, ast.FunctionDef)]
            found += [line for function in functions for line in _body_lines(function, lines)]
    return found


def docstrings(source: str, tasks: Iterable[str]) -> dict[str, str | None]:
    """The docstrings of the tasks and of their methods that are not private, by dotted name."""
    found: dict[str, str | None] = {}
    for node in ast.parse(source).body:
        if isinstance(node, _Definition) and node.name in set(tasks):
            found[node.name] = ast.get_docstring(node)
            for item in node.body:
                if isinstance(node, ast.ClassDef) and isinstance(item, ast.FunctionDef) and not _private(item):
                    found[f"{node.name}.{item.name}"] = ast.get_docstring(item)
    return found


# ---- notebooks


@dataclass(frozen=True)
class ModuleParts:
    """A reference in parts, for a notebook: its docstring, what stands beside the tasks, and each task with its answer between marks."""

    docstring: str
    preamble: str
    tasks: dict[str, str]


BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
"""nbgrader's marks: what stands between them, a line that raises takes the place of."""


def cut_up(solution: str, tasks: Iterable[str]) -> ModuleParts:
    """Cut a reference into its parts. Between the marks stands all that the stub lacks: bodies, and the private helpers of each task.

    A helper that several tasks use goes with the first of them. Raises: ValueError where a class can't be marked.
    """
    lines = solution.splitlines()
    tree = ast.parse(solution)
    wanted = list(tasks)
    nodes = {node.name: node for node in tree.body if isinstance(node, _Definition) and node.name in wanted}
    private = [node for node in tree.body if _private(node)]
    owners = _owners([nodes[name] for name in wanted], private)
    docstring = ast.get_docstring(tree) or ""
    preamble, previous = "", None
    for node in tree.body[1 if docstring else 0 :]:
        if node not in nodes.values() and node not in private:
            preamble += _gap(previous, node, lines) + _text(lines, _first_line(node), node.end_lineno or node.lineno)
            previous = node
    cells = {}
    for name in wanted:
        own = [node for node in private if owners[node] is nodes[name]]
        answer = _marked(nodes[name], lines, _helpers(tree))
        helpers = "".join(f"\n\n\n{_text(lines, _first_line(node), node.end_lineno or node.lineno)}" for node in own)
        if helpers and not answer.endswith(END):
            raise ValueError(f"{name}: its helpers can't be hidden behind a class that does not end in a method: put its methods last")
        cells[name] = f"{answer.removesuffix(END).rstrip()}{helpers}\n{END}" if helpers else answer
    return ModuleParts(docstring, preamble, cells)


def _owners(tasks: list[_Definition], private: list[ast.stmt]) -> dict[ast.stmt, _Definition]:
    """For each private statement of a module, the first task that needs it, itself or through others."""
    names = {_bound(node): node for node in private}
    owners: dict[ast.stmt, _Definition] = {}
    for task in tasks:
        pending: list[ast.stmt] = [task]
        while pending:
            for part in ast.walk(pending.pop()):
                node = names.get(part.id) if isinstance(part, ast.Name) else None
                if node is not None and node not in owners:
                    owners[node] = task
                    pending.append(node)
    return {node: owners.get(node, tasks[0]) for node in private}


def _marked(node: _Definition, lines: list[str], helpers: dict[str, _Definition]) -> str:
    """A task with its bodies between marks, and the private parts of a class behind the method that they follow."""
    if isinstance(node, ast.FunctionDef):
        return f"{_open(node, lines, helpers)}\n{' ' * (node.col_offset + 4)}{END}"
    items = node.body[1 if ast.get_docstring(node) else 0 :]
    parts, hidden, within = [_head(node, lines)], "", False
    for item in items:
        text = _text(lines, _first_line(item), item.end_lineno or item.lineno)
        if _private(item) and not within:
            hidden += f"\n\n{text}"
        elif _private(item):
            parts[-1] += f"\n\n{text}"
        else:
            if within:
                parts[-1] += f"\n{' ' * 8}{END}"
            within = isinstance(item, ast.FunctionDef)
            parts.append(f"\n{_open(item, lines, helpers)}{hidden}" if isinstance(item, ast.FunctionDef) else f"\n{text}")
            hidden = "" if within else hidden
    if hidden:
        raise ValueError(f"{node.name}: its private parts can't be hidden behind a method, since it has none: add one")
    return "\n".join(parts) + (f"\n{' ' * 8}{END}" if within else "")


def _open(node: ast.FunctionDef, lines: list[str], helpers: dict[str, _Definition]) -> str:
    """A function whose body begins with a mark, which is still to be closed."""
    indent, head = " " * (node.col_offset + 4), _head(node, lines)
    body = lines[_first_line(node) + head.count("\n") : node.end_lineno]
    return "\n".join([head, f"{indent}{_todo(node, lines, helpers)}", f"{indent}{BEGIN}", *body])


def _bound(node: ast.stmt) -> str:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case _:
            return ""


# ---- banks


@dataclass(frozen=True)
class BankEntry:
    """A named answer to a task: a misconception with the sentence that explains it, or an alternative."""

    name: str
    task: str
    why: str


@dataclass(frozen=True)
class Bank:
    """A file of named answers: its entries, and its statements without what only the bank needs."""

    entries: tuple[BankEntry, ...]
    statements: tuple[ast.stmt, ...]


def read_bank(source: str, decorator: str) -> Bank:
    """Read a file of entries that are marked by `@misconception(task, why)` or `@alternative(task)`.

    Imports from grader are dropped; `from solutions.m import f as g` becomes `g = f`, since the text is put behind the reference.
    """
    entries: list[BankEntry] = []
    kept: list[ast.stmt] = []
    for node in ast.parse(source).body:
        if isinstance(node, _Definition) and (mark := _mark(node, decorator)):
            task, *why = [argument.value for argument in mark.args if isinstance(argument, ast.Constant)]
            entries.append(BankEntry(node.name, str(task), str(why[0]) if why else ""))
            node.decorator_list.remove(mark)
            kept.append(node)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "solutions":
            kept += ast.parse("\n".join(f"{alias.asname} = {alias.name}" for alias in node.names if alias.asname)).body
        elif not (isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("grader", "__future__")):
            kept.append(node)
    return Bank(tuple(entries), tuple(kept))


def _mark(node: _Definition, name: str) -> ast.Call | None:
    """The node's decorator of this name."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == name:
            return decorator
    return None


def answer_with(solution: str, bank: Bank, entries: Iterable[BankEntry]) -> str:
    """The reference module with these entries in their tasks' places, and of the bank only what they need."""
    entries = list(entries)
    needed = needed_for([entry.name for entry in entries], bank.statements)
    text = "\n\n".join(ast.unparse(node) for node in bank.statements if node in needed or not defined_by(node))
    bindings = "\n".join(f"{entry.task} = {entry.name}" for entry in entries)
    return f"{solution}\n\n{text}\n\n{bindings}\n"


def answer_only(solution: str, task: str, others: Iterable[str]) -> str:
    """The reference module with every other task replaced by one that fails, so that a test that needs a second task shows."""
    poison = f"def _not_for_{task}(*args, **kwargs):\n    raise RuntimeError('the tests of {task} use another task')"
    bindings = "\n".join(f"{other} = _not_for_{task}" for other in others)
    return f"{solution}\n\n{poison}\n\n\n{bindings}\n"


# ---- trivial answers


def trivial_answers(solution: str, tasks: Iterable[str]) -> dict[str, str]:
    """Modules in which every task is answered without thought, by a name that says how: each must score exactly 0."""
    wanted = set(tasks)
    nodes = [node for node in ast.parse(solution).body if isinstance(node, _Definition) and node.name in wanted]
    documented = "\n".join(text or "" for text in docstrings(solution, wanted).values())
    errors = sorted({word.strip(":,.`") for word in documented.split() if word.strip(":,.`").endswith("Error")} - {"NotImplementedError"})
    bodies = {
        "returns None": "return None",
        "returns its first argument": "return args[0] if args else None",
        "returns zeros": "return zeros(args[0]) if args else None",
        **{f"always raises {error}": f"raise {error}('always')" for error in errors},
    }
    return {name: "\n\n\n".join([_TRIVIAL_HEAD, *(_trivial(node, body) for node in nodes)]) + "\n" for name, body in bodies.items()}


_TRIVIAL_HEAD = '''"""Answers without thought."""

import torch


def zeros(value):
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    return type(value)() if isinstance(value, int | float | str | list | tuple | dict) else None'''


def _trivial(node: _Definition, body: str) -> str:
    if isinstance(node, ast.FunctionDef):
        return f"def {node.name}(*args, **kwargs):\n    {body}"
    bases = ", ".join(ast.unparse(base) for base in node.bases if ast.unparse(base) not in ("nn.Module", "torch.nn.Module"))
    return (
        f"class {node.name}{f'({bases})' if bases else ''}:\n"
        f"    def __init__(self, *args, **kwargs):\n        pass\n\n"
        f"    def __getattr__(self, name):\n"
        f"        if name.startswith('__'):\n            raise AttributeError(name)\n\n"
        f"        def method(*args, **kwargs):\n            {body}\n\n        return method\n\n"
        f"    def __call__(self, *args, **kwargs):\n        {body}"
    )
