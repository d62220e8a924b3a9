"""Puts a task's stub back into the student's file, and keeps what was there."""

import ast
from datetime import datetime
from pathlib import Path

from grader.base.files import write_atomically
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
    """Put one task back. Returns: where the file as it was is kept, None if the task is untouched. Raises: CannotReset, OSError."""
    path = course.stub(module.name)
    stub = _cut(stub_text(course, module), task)[1]
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
    if now == stub:
        return None
    kept = keep_copy(course, path)
    file.write(path, before + stub + after if now else f"{file.text.rstrip()}\n\n\n{stub}\n")
    return kept


def reset_module(course: Course, module: Module) -> Path | None:
    """Put a whole module back. Returns: where the file as it was is kept, None if there was none. Raises: CannotReset, OSError."""
    path, stub = course.stub(module.name), stub_text(course, module)
    if path.is_file() and path.read_bytes() == stub.encode():
        return None
    kept = keep_copy(course, path) if path.is_file() else None
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, stub.encode())
    return kept


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
