"""The commands `grader export …`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from grader.manifest import ManifestError
from grader.terminal import EXIT_BAD_INPUT, CourseOption, ModuleOption, console, load, stop

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write what other programs read: nbgrader, GitHub, Classroom 50, Gradescope.")


@app.callback()
def export() -> None:
    """Write what other programs read: nbgrader, GitHub, Classroom 50, Gradescope."""


@app.command()
def nbgrader(
    folder: Annotated[Path, typer.Argument(metavar="COURSE_DIR", help="The folder of nbgrader's course; made where there is none.")],
    module: ModuleOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite notebooks and files that differ.")] = False,
    course: CourseOption = None,
) -> None:
    """Write a course that nbgrader's own commands run: notebooks, public tests, and a configuration that grades in our workers."""
    from grader.exports.nbgrader_course import ExportError, write_course

    loaded = load(course)
    try:
        modules = loaded.select(module or [], [])
        located = str(course) if course and course.is_absolute() else None
        written = write_course(loaded, modules, folder, located=located, force=force)
    except (ExportError, ManifestError, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for sentence in written.kept:
        console.print(Text(sentence, "yellow"), soft_wrap=True)
    Console().print(f"wrote {len(written.files)} files to {folder}", soft_wrap=True)
    Console().print(f"next: cd {folder} && nbgrader generate_assignment {modules[0].name}", soft_wrap=True)
