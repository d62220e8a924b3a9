"""The commands `grader export …`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from grader.exports.folders import NotEmpty, fresh_folder
from grader.ingest import BadInput
from grader.manifest import ManifestError
from grader.results import ResultsError, read_results, write_atomically
from grader.terminal import EXIT_BAD_INPUT, CourseOption, ModuleOption, console, load, stop

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write what other programs read: nbgrader, GitHub, Classroom 50, Gradescope.")

ResultsArgument = Annotated[Path, typer.Argument(metavar="RESULTS", help="The results.json that `grader grade` wrote.")]


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


@app.command()
def official(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The private repository of the course.")] = Path(),
    module: ModuleOption = None,
    course: CourseOption = None,
) -> None:
    """Write the workflow with which the course's own, private repository grades students' repositories."""
    from grader.exports.official import WORKFLOW, official_workflow
    from grader.exports.student import CannotExport

    loaded = load(course)
    path = folder / WORKFLOW
    try:
        text = official_workflow(loaded, [name.name for name in loaded.select(module, [])] if module else []).encode()
        if path.is_file() and path.read_bytes() == text:
            return
        if path.exists():
            raise stop(f"{path} exists and differs: compare them, and take the old one away first", EXIT_BAD_INPUT)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except (ManifestError, CannotExport) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except OSError as error:
        raise stop(f"{path} can't be written: {error.strerror}", EXIT_BAD_INPUT) from None
    Console().print(Text(f"Written to {path}"), soft_wrap=True)


@app.command()
def feedback(
    results: ResultsArgument,
    out: Annotated[Path, typer.Option(help="A new or empty folder.")] = Path("feedback"),
) -> None:
    """Write one Markdown file a student: the score, and for each task what differs from what was expected."""
    from grader.exports.markdown import feedback_page, page_names

    try:
        read = read_results(results)
        fresh_folder(out)
        names = page_names([submission.id for submission in read.submissions])
        for submission in read.submissions:
            write_atomically(out / names[submission.id], feedback_page(submission, read).encode())
    except (ResultsError, NotEmpty) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    Console().print(Text(f"{len(read.submissions)} files written to {out}"), soft_wrap=True)


@app.command()
def checks(
    results: ResultsArgument,
    collected: Annotated[Path, typer.Option(help="The collected.json of `grader collect`: which commit is whose.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")] = Path("checks"),
) -> None:
    """Write what GitHub's API takes to show each score beside its commit (nothing is posted)."""
    from grader.collect import read_record
    from grader.exports.checks import check_files

    try:
        files, unknown = check_files(read_results(results), read_record(collected))
        fresh_folder(out)
        for name, data in files.items():
            write_atomically(out / name, data)
    except (ResultsError, NotEmpty, BadInput) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for id in unknown:
        console.print(Text(f"{id} is not in {collected}: no check was written for it.", "yellow"), soft_wrap=True)
    Console().print(Text(f"{len(files) - 1} checks written to {out}"), soft_wrap=True)
