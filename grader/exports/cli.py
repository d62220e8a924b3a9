"""The commands `grader export …`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from grader.exports import reporter
from grader.exports.files import WouldOverwrite, write_files
from grader.results import Results, ResultsError, read_results
from grader.terminal import EXIT_BAD_INPUT, console, stop

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write what other programs read: nbgrader, GitHub, Classroom 50, Gradescope.")

ResultsArgument = Annotated[Path, typer.Argument(metavar="RESULTS.JSON", help="What `grader grade` wrote.")]
OutOption = Annotated[Path, typer.Option(help="The folder that is written.")]
SubmissionOption = Annotated[list[str] | None, typer.Option("--submission", "-s", help="Only this submission; can be given again.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]


@app.callback()
def export() -> None:
    """Write what other programs read: nbgrader, GitHub, Classroom 50, Gradescope."""


@app.command("github-classroom")
def github_classroom(
    results: ResultsArgument, out: OutOption = Path("github-classroom"), submission: SubmissionOption = None, force: ForceOption = False
) -> None:
    """Write the JSON of GitHub Classroom's reporter, for each submission and module."""
    try:
        files = reporter.reporter_files(_read(results), submission or ())
    except ResultsError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(out, files, force)


def _read(path: Path) -> Results:
    """Read results.json. Raises: typer.Exit."""
    try:
        return read_results(path)
    except ResultsError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None


def _write(out: Path, files: Mapping[str, bytes], force: bool, executable: tuple[str, ...] = ()) -> None:
    """Write the files and say so. Raises: typer.Exit."""
    try:
        write_files(out, files, replace=force, executable=executable)
    except (WouldOverwrite, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    console.print(Text(f"Written to {out}: {len(files)} file{'s' * (len(files) != 1)}."), soft_wrap=True)
