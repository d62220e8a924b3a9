"""Puts a notebook's cell into a module, in the place of the task that the cell defines. Text only; nothing here is executed."""

import ast
import builtins
import functools
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from grader.course.definitions import needed_for
from grader.course.source import first_line
from grader.practice.source_file import with_plain_ends
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
    """The cell's statements, but for imports that the module had of its own."""
    lost: frozenset[str]
    """Statements that were in the module and are no more."""


def merge(module: str, cell: str, task: str, others: Iterable[str], file: str, earlier: frozenset[str] = frozenset()) -> Merged:
    """Put the cell's definitions into a module, in the place of those that it had of these names.

    Imports, functions and classes go with the task, and whatever else they use, such as constants. The rest is for the notebook, such as
    `print(one_hot(x, 3))`, `out = one_hot(x, 3)`, or a loop that tries several: it would run whenever the module is imported.

    Args:
        module: the source of the module.
        cell: the cell, with its magics.
        task: the task that it should define.
        others: the module's other tasks, which it should not define.
        file: what to call the module's file.
        earlier: what this task's cell, and no other, wrote before. What the cell no longer holds and nothing else uses is dropped.

    Raises: CannotUseCell.
    """
    others = list(others)
    text, statements = _cell(cell)
    module, body = _body(module, file)
    wanted = _part_of_answer(statements, task)
    present = _dumps(node for node in body if isinstance(node, _IMPORT))
    kept = [node for node in wanted if ast.dump(node) not in present]
    names = {name for node in kept if not isinstance(node, _IMPORT) for name in _bound(node)}
    if task not in names:
        found = sorted({name for node in statements if not isinstance(node, _IMPORT) for name in _bound(node)})
        defines = f" It defines {', '.join(found)}." if found else ""
        raise CannotUseCell(f"This cell does not define {task}, so its tests did not run.{defines}")
    if both := sorted(names & set(others)):
        raise CannotUseCell(f"This cell also defines {both[0]}, a task of its own: give it a cell of its own.")
    replaced = [node for node in body if not isinstance(node, _IMPORT) and _bound(node) and _bound(node) <= names]
    _check_shared([node for node in replaced if ast.dump(node) not in _dumps(kept) | earlier], body, task, others)
    stale = [node for node in body if ast.dump(node) in earlier - _dumps(wanted) and node not in replaced]
    used = {name for node in [*body, *kept] if node not in replaced and node not in stale for name in _used(node)}
    still_used = needed_for(used, stale, _used, _bound)
    gone = [node for node in body if node in replaced or (node in stale and node not in still_used)]
    at = next((first_line(node) - 1 for node in replaced if task in _bound(node)), len(module))
    lines = module.split("\n")
    without = set(_lines_with_comments(gone, lines, text))
    before, after = (
        "\n".join(line for number, line in enumerate(lines, 1) if number not in without and (number <= at) is first)
        for first in (True, False)
    )
    parts = before.rstrip(), _without(text, statements, kept), after.strip("\n").rstrip()
    source = "\n\n\n".join(part for part in parts if part) + "\n"
    return Merged(source, _dumps(kept) | (earlier & _dumps(wanted)), _dumps(gone) - _dumps(kept))


def borrowed(cell: str, task: str, module: str, available: Iterable[str]) -> list[str]:
    """The names that a cell's answer uses and its module lacks, but that the notebook has from other cells. Both texts must be Python."""
    used = {name for node in _part_of_answer(_cell(cell)[1], task) for name in _used(node)}
    top = symtable.symtable(module, "module", "exec").get_symbols()
    own = {symbol.get_name() for symbol in top if symbol.is_assigned() or symbol.is_imported()}
    return sorted(used & set(available) - own - set(dir(builtins)))


_IMPORT = ast.Import | ast.ImportFrom
_DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _cell(cell: str) -> tuple[str, list[ast.stmt]]:
    try:
        text = python_of(with_plain_ends(cell))
        return text, ast.parse(text).body
    except (SyntaxError, ValueError, Unreadable) as error:
        raise CannotUseCell(f"This cell can't be put into the module, since it is not plain Python: {error}") from None


def _body(module: str, file: str) -> tuple[str, list[ast.stmt]]:
    try:
        module = with_plain_ends(module)
        symtable.symtable(module, file, "exec")  # sees more errors than the parser
        return module, ast.parse(module).body
    except (SyntaxError, ValueError) as error:
        line = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise CannotUseCell(f"{file} has a syntax error{line}, so the cell can't be put into it: mend that first.") from None


def _part_of_answer(statements: list[ast.stmt], task: str) -> list[ast.stmt]:
    """The imports and definitions of a cell, and what they use."""
    defined = {node.name for node in statements if isinstance(node, _DEFINITION)}
    needed = needed_for({task} | defined, [node for node in statements if not isinstance(node, _IMPORT)], _used, _bound)
    return [node for node in statements if isinstance(node, _IMPORT) or node in needed]


def _check_shared(replaced: list[ast.stmt], body: list[ast.stmt], task: str, others: list[str]) -> None:
    """A cell may not change a helper that another task's answer brought along. Raises: CannotUseCell."""
    for other in others if replaced else ():
        shared = [node for node in needed_for([other], body, _used, _bound) if node in replaced and task not in _bound(node)]
        if shared:
            raise CannotUseCell(f"{min(_bound(shared[0]))} is also used by {other}: give this one another name.")


def _without(text: str, statements: list[ast.stmt], kept: list[ast.stmt]) -> str:
    """The cell without the lines that belong only to statements that are left out."""
    needed = set(_lines_of(kept))
    left_out = set(_lines_of(node for node in statements if node not in kept)) - needed
    return "\n".join(line for number, line in enumerate(text.split("\n"), 1) if number not in left_out).strip("\n").rstrip()


def _lines_of(nodes: Iterable[ast.stmt]) -> Iterator[int]:
    for node in nodes:
        yield from range(first_line(node), (node.end_lineno or node.lineno) + 1)


def _lines_with_comments(nodes: Iterable[ast.stmt], lines: list[str], cell: str) -> Iterator[int]:
    """The lines of statements, with the blank ones above, and with the comments around them that come again with the cell."""
    comments = {line for line in cell.split("\n") if line.startswith("#")}
    for node in nodes:
        first, last = first_line(node), node.end_lineno or node.lineno
        while first > 1 and (not lines[first - 2].strip() or lines[first - 2] in comments):
            first -= 1
        below = last
        while below < len(lines) and (not lines[below].strip() or lines[below] in comments):
            below += 1
            last = below if lines[below - 1] in comments else last
        yield from range(first, last + 1)


def _dumps(nodes: Iterable[ast.stmt]) -> frozenset[str]:
    return frozenset(ast.dump(node) for node in nodes)


@functools.lru_cache(maxsize=1024)
def _table(node: ast.stmt) -> symtable.SymbolTable:
    return symtable.symtable(ast.unparse(node), "statement", "exec")


def _bound(node: ast.stmt) -> set[str]:
    """The names of the module that a statement binds."""
    return {symbol.get_name() for symbol in _table(node).get_symbols() if symbol.is_assigned() or symbol.is_imported()}


def _used(node: ast.stmt) -> set[str]:
    """The names of the module that a statement uses. A function's own names, such as its arguments, don't count."""
    return set(_globals_used(_table(node)))


def _globals_used(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _globals_used(child)
