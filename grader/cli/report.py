"""The command `grader report`, and the same for `grader grade --report`."""

from collections import Counter
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT
from grader.base.text import without_commands
from grader.cli.results import read_from
from grader.cli.terminal import console, stop

if TYPE_CHECKING:
    from grader.runner.results import Results

__all__ = ["FOLDER", "report", "require_charts", "write_report"]

FOLDER = "report"
_CLASS, _STUDENTS = "class.html", "students"


def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A results.json that `grader grade` wrote, or its folder.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where pages are written (default: report/ beside results.json).")] = None,
) -> None:
    """Write a page for each student and one for the class, which are read in a browser. Needs the extra `report`."""
    read = read_from(results)
    write_report(read, out or (results if results.is_dir() else results.parent) / FOLDER)


def require_charts() -> None:
    """Say at once that pages can't be made here, rather than after a long run. Raises: typer.Exit."""
    from importlib.util import find_spec

    from grader.reports.pages.charts import MISSING

    if not find_spec("pygal"):
        raise stop(MISSING, EXIT_BAD_INPUT)


def write_report(results: "Results", out: Path) -> None:
    """Write the pages, one after the other, and say where. Raises: typer.Exit."""
    from grader.base.files import file_problem, write_atomically
    from grader.exports.escape import file_name
    from grader.reports.pages.charts import ChartsMissing
    from grader.reports.pages.render import class_page, student_pages

    if twice := [id for id, count in Counter(one.id for one in results.submissions).items() if count > 1]:
        raise stop(f"results.json has two submissions {twice[0]!r}: grade again.", EXIT_BAD_INPUT)
    files = {one.id: f"{file_name(one.id)}.html" for one in results.submissions}
    folder = out / _STUDENTS
    try:
        page = class_page(results, {id: f"{_STUDENTS}/{name}" for id, name in files.items()})
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(out / _CLASS, page.encode())
        for id, text in student_pages(results, date.today()):
            write_atomically(folder / files[id], text.encode())
        old = sorted(path.name for path in folder.glob("*.html") if path.name not in files.values())
    except ChartsMissing as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except OSError as error:
        raise stop(file_problem(error, out), EXIT_BAD_INPUT) from None
    console.print(Text(f"For the staff: {out / _CLASS}. A page for each student: {folder} ({len(files)})."), soft_wrap=True)
    if old:
        some = ", ".join(old[:3]) + (" …" if len(old) > 3 else "")
        sentence = f"In {folder} are pages of students who are not in these results: {some}. Delete them before you hand pages out."
        console.print(Text(without_commands(sentence), "yellow"), soft_wrap=True)
