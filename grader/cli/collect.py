"""The command `grader collect`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_PROBLEMS
from grader.cli.terminal import CourseOption, console, load, progress_bar, stop

__all__ = ["collect_repositories"]


def collect_repositories(
    list_: Annotated[
        Path, typer.Argument(metavar="LIST", help="A CSV file with the columns repository,commit[,student], or the same as JSON.")
    ],
    out: Annotated[Path, typer.Option(help="A new or empty folder, which the submissions are written to.")] = Path("submissions"),
    server: Annotated[str, typer.Option(help="The server that has OWNER/NAME.git.")] = "https://github.com",
    course: CourseOption = None,
) -> None:
    """Fetch students' repositories at given commits. Nothing in them is run. For private repositories, set GRADER_GIT_TOKEN."""
    from grader.exports.escape import log_line
    from grader.submissions.collect import RECORD, collect, read_list
    from grader.submissions.sources import BadInput

    loaded = load(course)
    try:
        rows = read_list(list_)
        with progress_bar() as progress:
            bar = progress.add_task("collecting", total=len(rows))
            record = collect(
                rows,
                loaded,
                out,
                server=server,
                token=os.environ.get("GRADER_GIT_TOKEN", ""),
                on_done=lambda _: progress.update(bar, advance=1),
            )
    except BadInput as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    failed = [entry for entry in record if entry.problem]
    for entry in failed:
        console.print(Text(log_line(f"{entry.student} ({entry.repository}): {entry.problem}"), "red"), soft_wrap=True)
    Console().print(
        Text(f"{len(record) - len(failed)} of {len(record)} submissions are in {out}; {RECORD} there says where they came from.")
    )
    if failed:
        raise typer.Exit(EXIT_PROBLEMS)
