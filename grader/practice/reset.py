"""Puts a task's stub back into the student's file, and keeps what was there."""

import ast
import contextlib
import symtable
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from grader.base.files import file_problem
from grader.course.definitions import names_in
from grader.course.manifest import Course, Module
from grader.course.source import first_line
from grader.course.stubs import handed_out
from grader.practice.source_file import SourceFile

__all__ = ["CannotReset", "keep_copy", "reset_module", "reset_task", "statement_of", "stub_text"]

BACKUPS = ".grader/backups"
"""Relative to the course's folder."""


class CannotReset(Exception):
    """The stub can't be put back; the text says why and what to do."""


def stub_text(course: Course, module: Module) -> str:
    """The module as it was handed out. Raises: CannotReset if neither the reference nor a copy of the stub is here."""
    text = handed_out(course, module.name)
    if text is None:
        copy = course.untouched_stub(module.name)
        raise CannotReset(f"{copy.relative_to(course.root)} is missing: fetch it from where you got the exercises")
    return text


def statement_of(course: Course, module: Module, task: str) -> str:
    """The text of a task's stub: its signature and docstring. Raises: CannotReset."""
    return _cut(stub_text(course, module), task)[1]


def reset_task(course: Course, module: Module, task: str) -> Path | None:
    """Put one task back. Returns: where the file as it was is kept, None if the task is untouched. Raises: CannotReset."""
    path = course.stub(module.name)
    whole = stub_text(course, module)
    stub = _cut(whole, task)[1]
    with _in_words(course.root):
        if not path.is_file():
            return reset_module(course, module)
        try:
            file = SourceFile.read(path)
            before, now, after = _cut(file.text, task)
        except UnicodeDecodeError:
            raise CannotReset(f"{path.name} is not in UTF-8: save it so, or reset all of it with `grader reset {module.name}`") from None
        except (SyntaxError, ValueError):
            raise CannotReset(
                f"{path.name} has a syntax error, so {task} can't be found in it: mend that, or reset all with `grader reset {module.name}`"
            ) from None
        if all(isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) for node in ast.parse(file.text).body):
            return reset_module(course, module)  # nothing is left of it
        changed = _with_imports(before + stub + after if now else f"{file.text.rstrip()}\n\n\n{stub}\n", whole, stub)
        if changed == file.text:
            return None
        kept = keep_copy(course, path)
        file.write(path, changed)
        return kept


def reset_module(course: Course, module: Module) -> Path | None:
    """Put a whole module back. Returns: where the file as it was is kept, None if there was none. Raises: CannotReset."""
    path, stub = course.stub(module.name), stub_text(course, module)
    with _in_words(course.root):
        if path.is_file() and path.read_bytes() == stub.encode():
            return None
        kept = keep_copy(course, path) if path.is_file() else None
        path.parent.mkdir(exist_ok=True)
        SourceFile(stub).write(path, stub)
        return kept


@contextlib.contextmanager
def _in_words(root: Path) -> Iterator[None]:
    """Raises: CannotReset, for an OSError."""
    try:
        yield
    except OSError as error:
        raise CannotReset(file_problem(error, root)) from None


def _with_imports(source: str, whole: str, stub: str) -> str:
    """A module with those imports of the handed out one that a stub uses and the module lacks."""
    table = symtable.symtable(source, "module", "exec")
    present = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_imported() or symbol.is_assigned()}
    lacking = {name for node in ast.parse(stub).body for name in names_in(node)} - present
    imports = [node for node in ast.parse(whole).body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in imports:
        node.names = [alias for alias in node.names if (alias.asname or alias.name).partition(".")[0] in lacking]
    lines = [ast.unparse(node) for node in imports if node.names]
    if not lines:
        return source
    following = next(node for node in ast.parse(source).body if not _leads(node))
    rest, at = source.split("\n"), first_line(following) - 1
    between = [] if isinstance(following, ast.Import | ast.ImportFrom) else ["", ""]
    return "\n".join([*rest[:at], *lines, *between, *rest[at:]])


def _leads(node: ast.stmt) -> bool:
    """Whether a statement has to stand at the top of a file, before imports: a docstring, or an import from __future__."""
    return isinstance(node, ast.Expr) or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


def _cut(source: str, task: str) -> tuple[str, str, str]:
    """What stands before the task's definition, the definition, and what follows. All is before if there is none. Raises: SyntaxError."""
    lines = [f"{line}\n" for line in source.split("\n")]  # as ast counts them, unlike splitlines
    for node in reversed(ast.parse(source).body):  # of two definitions, the last one counts
        if getattr(node, "name", None) == task:
            start, end = first_line(node) - 1, node.end_lineno or node.lineno
            own = "".join(lines[start:end])
            return "".join(lines[:start]), own.removesuffix("\n"), "\n" + "".join(lines[end:]).removesuffix("\n")
    return source, "", ""


def keep_copy(course: Course, path: Path) -> Path:
    """Copy a file to the backups. Several copies in one second get numbers. Raises: CannotReset, OSError."""
    folder = course.root / BACKUPS
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{path.stem}.{datetime.now():%Y-%m-%d.%H-%M-%S}"
    for number in range(1000):
        kept = folder / f"{stem}{f'.{number}' if number else ''}.py"
        try:
            with kept.open("xb") as file:
                file.write(path.read_bytes())
        except FileExistsError:
            continue
        return kept
    raise CannotReset(f"{folder} is full: remove old backups")
