"""The commands `grader export …`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from grader.manifest import MANIFEST, ManifestError
from grader.results import ResultsError, read_results
from grader.terminal import EXIT_BAD_INPUT, EXIT_GRADER_FAILED, CourseOption, ModuleOption, console, load, stop

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


@app.command()
def gradebook(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The results.json that `grader grade` wrote.")],
    course: Annotated[
        Path | None, typer.Option(help="nbgrader's course folder, or the exercises' (the one that holds course.toml).")
    ] = None,
    course_dir: Annotated[Path | None, typer.Option(help="nbgrader's course folder, where --course names the exercises'.")] = None,
    replace: Annotated[bool, typer.Option(help="Write over what nbgrader's autograding of notebooks gave.")] = False,
) -> None:
    """Write the scores of files that were handed in into nbgrader's gradebook. Running it again changes nothing; manual scores stay."""
    if course is not None and course_dir is None and not (course / MANIFEST).is_file():
        course, course_dir = None, course  # nbgrader's users call that folder the course
    if course_dir is None:
        raise stop("name nbgrader's course folder with --course-dir (it may be empty)", EXIT_BAD_INPUT)
    if not course_dir.is_dir():
        raise stop(f"{course_dir} is no folder: make it first, or name nbgrader's course folder", EXIT_BAD_INPUT)
    from grader.exports.nbgrader_course import ExportError, needs_nbgrader

    try:
        needs_nbgrader()
    except ExportError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    from grader.exports.gradebook import GradebookError, export_gradebook

    try:
        exported = export_gradebook(read_results(results), load(course), course_dir, replace=replace)
    except (GradebookError, ResultsError, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for sentence in exported.skipped:
        console.print(Text(sentence, "yellow"), soft_wrap=True)
    for sentence in exported.faults:
        console.print(Text(sentence, "red"), soft_wrap=True)
    Console().print(f"grades in {course_dir}: {exported.written}, of them new or changed: {exported.changed}", soft_wrap=True)
    if exported.faults:
        raise typer.Exit(EXIT_GRADER_FAILED)
