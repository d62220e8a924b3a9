"""Banks of answers: misconceptions, alternatives and trivial answers, and modules that are made of them.

Text only; nothing here is executed.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from grader.course.definitions import defined_by, needed_for
from grader.course.source import Definition
from grader.course.stubs import docstrings, stub_task

__all__ = ["Bank", "BankEntry", "answer_only", "answer_with", "read_bank", "trivial_answers"]


@dataclass(frozen=True)
class BankEntry:
    """A named answer to a task: a misconception with the sentence that explains it, or an alternative."""

    name: str
    task: str
    why: str
    stub: bool = False
    """Whether the stub shows its code, to be mended."""


@dataclass(frozen=True)
class Bank:
    """A file of named answers: its entries, and those of its statements that an answer may need."""

    entries: tuple[BankEntry, ...]
    statements: tuple[ast.stmt, ...]


def read_bank(source: str, decorator: str) -> Bank:
    """Read a file whose entries are marked by `@misconception(task, why)` or `@alternative(task)`.

    Imports from grader are dropped. `from solutions.m import f as g` becomes `g = f`, because the text is appended to the reference.
    """
    entries: list[BankEntry] = []
    kept: list[ast.stmt] = []
    for node in ast.parse(source).body:
        if isinstance(node, Definition) and (mark := _mark(node, decorator)):
            task, *why = [argument.value for argument in mark.args if isinstance(argument, ast.Constant)]
            entries.append(BankEntry(node.name, str(task), str(why[0]) if why else "", bool(stub_task(node))))
            node.decorator_list.remove(mark)
            kept.append(node)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "solutions":
            kept += ast.parse("\n".join(f"{alias.asname} = {alias.name}" for alias in node.names if alias.asname)).body
        elif not (isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("grader", "__future__")):
            kept.append(node)
    return Bank(tuple(entries), tuple(kept))


def _mark(node: Definition, name: str) -> ast.Call | None:
    """The node's decorator of this name."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == name:
            return decorator
    return None


def answer_with(solution: str, bank: Bank, entries: Iterable[BankEntry]) -> str:
    """The reference module, with each entry in place of its task. Only what the entries need is taken from the bank."""
    entries = list(entries)
    needed = needed_for([entry.name for entry in entries], bank.statements)
    text = "\n\n".join(ast.unparse(node) for node in bank.statements if node in needed or not defined_by(node))
    bindings = "\n".join(f"{entry.task} = {entry.name}" for entry in entries)
    return f"{solution}\n\n{text}\n\n{bindings}\n"


def answer_only(solution: str, task: str, others: Iterable[str]) -> str:
    """The reference module, with every other task replaced by one that raises. A test that needs a second task then fails."""
    poison = f"def _not_for_{task}(*args, **kwargs):\n    raise RuntimeError('the tests of {task} use another task')"
    bindings = "\n".join(f"{other} = _not_for_{task}" for other in others)
    return f"{solution}\n\n{poison}\n\n\n{bindings}\n"


# ---- trivial answers


def trivial_answers(solution: str, tasks: Iterable[str]) -> dict[str, str]:
    """Modules that answer every task without thought, by a name that says how. Each must score exactly 0."""
    wanted = set(tasks)
    nodes = [node for node in ast.parse(solution).body if isinstance(node, Definition) and node.name in wanted]
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


def _trivial(node: Definition, body: str) -> str:
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
