"""What the commands share: options, loading the course, printing, and ending with an error."""

import codecs
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT
from grader.base.text import without_commands
from grader.course.manifest import Course, ManifestError, load_course

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = [
    "CourseOption",
    "JsonOption",
    "ModuleOption",
    "PathOption",
    "RosterOption",
    "TaskOption",
    "TrustedOption",
    "UnconfinedOption",
    "console",
    "load",
    "print_json",
    "progress_bar",
    "stop",
]

CourseOption = Annotated[
    Path | None,
    typer.Option("--course", help="The course's folder (default: the current folder or the nearest one above it that holds course.toml)."),
]
ModuleOption = Annotated[list[str] | None, typer.Option("--module", "-m", help="Only this module; can be given again.")]
PathOption = Annotated[
    str | None, typer.Option("--path", metavar="NAME", help="Only the modules of this path, in its order; `grader list` shows the paths.")
]
RosterOption = Annotated[
    Path | None, typer.Option(help="A class list as CSV: the column `id`, and names, numbers, addresses or files in the others.")
]
TaskOption = Annotated[list[str] | None, typer.Option("--task", "-t", help="Only this task; can be given again.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TrustedOption = Annotated[
    bool, typer.Option(help="Don't confine the code, because it is our own and needs a GPU. The results record this.")
]
UnconfinedOption = Annotated[bool, typer.Option(help="Grade even if this machine can't confine students' code. The results record this.")]

_PLAIN = {"✓": "ok", "✗": "x", "–": "-", "…": "...", "→": "->", "━": "=", "┄": "-"}


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What a terminal shows that lacks a character, as some of Windows do."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error("grader.plain", _plainly)
for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):
        _stream.reconfigure(errors="grader.plain")
console = Console(stderr=True)


def load(folder: Path | None, path: str | None = None) -> Course:
    """Read the course; with a path, only its modules, in its order. Raises: typer.Exit."""
    try:
        course = load_course(folder)
        return course.along(path) if path else course
    except ManifestError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None


def stop(sentence: str, code: int) -> typer.Exit:
    """Print why the command ends. Returns: the exception to raise."""
    console.print(Text(without_commands(sentence), "red"), soft_wrap=True)
    return typer.Exit(code)


def print_json(value: Any) -> None:
    """Print a value to standard output, as JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def progress_bar() -> "Progress":
    """A progress bar on standard error, which shows only in a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
