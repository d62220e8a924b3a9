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
def student(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder, or a clone of an empty repository.")],
    module: ModuleOption = None,
    update: Annotated[bool, typer.Option("--update", help="Renew an earlier export; exercises that exist are kept.")] = False,
    reporter: Annotated[
        str | None,
        typer.Option(
            metavar="COMMIT",
            help="Let the workflow end in this commit of classroom-resources/autograding-grading-reporter, not in our own total.",
        ),
    ] = None,
    course: CourseOption = None,
) -> None:
    """Write the repository that students get: stubs, public tests, first hints, a workflow, and no answer."""
    from grader.exports.student import CannotExport, export_student

    loaded = load(course)
    try:
        modules = loaded.select(module or [], [])
        kept = export_student(loaded, modules, folder, update=update, reporter=reporter)
    except (ManifestError, CannotExport) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for path in kept:
        console.print(Text(f"Kept {path} as it was.", "yellow"), soft_wrap=True)
    Console().print(Text(f"Written to {folder}: {', '.join(module.name for module in modules)}"), soft_wrap=True)
