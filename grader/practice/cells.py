"""Puts a notebook's cell into a module, in the place of the task that the cell defines. Text only; nothing here is executed."""

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from grader.course.source import bound_name, first_line
from grader.submissions.notebooks import python_of
from grader.submissions.sources import Unreadable

__all__ = ["CannotUseCell", "Merged", "borrowed", "merge"]


class CannotUseCell(Exception):
    """The cell is no answer to the task. The text says why and what to do."""


@dataclass(frozen=True)
class Merged:
    """A module with a cell in it. Statements stand as text without comments and layout."""

    source: str
    written: frozenset[str]
    """The cell's statements."""
    lost: frozenset[str]
    """Statements that were in the module and are no more."""


def merge(module: str, cell: str, task: str, others: Iterable[str], file: str) -> Merged:
    """Put the cell's definitions into a module, in the place of those that it had of these names.

    Lines of the cell that only call something, such as `print(one_hot(x, 3))`, are for the notebook and left out, as are imports that the
    module has. Everything else goes with the task: helpers, constants, imports.

    Args:
        module: the source of the module.
        cell: the cell, with its magics.
        task: the task that it should define.
        others: the module's other tasks, which it should not define.
        file: what to call the module's file.

    Raises: CannotUseCell.
    """
    text, statements = _cell(cell)
    try:
        body = ast.parse(module).body
    except (SyntaxError, ValueError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise CannotUseCell(f"{file} has a syntax error{line}, so the cell can't be put into it: mend that first.") from None
    present = {ast.dump(node) for node in body if isinstance(node, _IMPORT)}
    kept = [node for node in statements if not isinstance(node, ast.Expr | ast.Pass) and ast.dump(node) not in present]
    names = {name for node in kept if (name := bound_name(node))}
    if task not in names:
        found = f" It defines {', '.join(sorted(names))}." if names else ""
        raise CannotUseCell(f"This cell does not define {task}, so its tests did not run.{found}")
    if both := sorted(names & set(others)):
        raise CannotUseCell(f"This cell also defines {both[0]}, a task of its own: give it a cell of its own.")
    replaced = [node for node in body if bound_name(node) in names]
    at = next((first_line(node) - 1 for node in replaced if bound_name(node) == task), len(module))
    lines = module.split("\n")  # as ast counts them, unlike splitlines
    gone = set(_lines_of(replaced))
    for number in sorted(gone):  # with the blank lines above
        while number > 1 and number - 1 not in gone and not lines[number - 2].strip():
            number -= 1
            gone.add(number)
    before, after = (
        "\n".join(line for number, line in enumerate(lines, 1) if number not in gone and (number <= at) is first) for first in (True, False)
    )
    parts = before.rstrip(), _without(text, statements, kept), after.strip("\n").rstrip()
    return Merged("\n\n\n".join(part for part in parts if part) + "\n", _dumps(kept), _dumps(replaced) - _dumps(kept))


def borrowed(cell: str, module: str, available: Iterable[str]) -> list[str]:
    """The names that a cell uses and its module lacks, but that the notebook has from other cells. Both texts must be Python."""
    used = set(_globals_used(symtable.symtable(python_of(cell), "cell", "exec")))
    top = symtable.symtable(module, "module", "exec").get_symbols()
    own = {symbol.get_name() for symbol in top if symbol.is_assigned() or symbol.is_imported()}
    return sorted(used & set(available) - own - set(dir(builtins)))


_IMPORT = ast.Import | ast.ImportFrom


def _cell(cell: str) -> tuple[str, list[ast.stmt]]:
    try:
        text = python_of(cell)
        return text, ast.parse(text).body
    except (SyntaxError, ValueError, Unreadable) as error:
        raise CannotUseCell(f"This cell can't be put into the module, since it is not plain Python: {error}") from None


def _without(text: str, statements: list[ast.stmt], kept: list[ast.stmt]) -> str:
    """The cell without the lines that belong only to statements that are left out."""
    needed = set(_lines_of(kept))
    left_out = set(_lines_of(node for node in statements if node not in kept)) - needed
    return "\n".join(line for number, line in enumerate(text.split("\n"), 1) if number not in left_out).strip("\n").rstrip()


def _lines_of(nodes: Iterable[ast.stmt]) -> Iterator[int]:
    for node in nodes:
        yield from range(first_line(node), (node.end_lineno or node.lineno) + 1)


def _dumps(nodes: Iterable[ast.stmt]) -> frozenset[str]:
    return frozenset(ast.dump(node) for node in nodes)


def _globals_used(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals_used(child)
