"""The commands that read results.json again: compare, items."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_PROBLEMS
from grader.base.text import without_commands
from grader.cli.terminal import JsonOption, print_json, stop

if TYPE_CHECKING:
    from grader.reports.compare import Difference
    from grader.reports.items import Item
    from grader.runner.results import Results

__all__ = ["compare", "items", "print_difference", "read_from"]

_Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results.json that `grader grade` wrote, or its folder.")]


def compare(before: _Results, after: _Results, json: JsonOption = False) -> None:
    """Say whose scores differ between two runs, in which tasks, and why. The exit status is 1 if any do."""
    from grader.reports.compare import compared

    difference = compared(read_from(before), read_from(after))
    if json:
        print_json(difference)
    else:
        print_difference(difference)
    if difference.any:
        raise typer.Exit(EXIT_PROBLEMS)


def items(results: _Results, json: JsonOption = False) -> None:
    """Say for each task how many fail which tests, with which known mistakes, and how else. It names no student."""
    from grader.reports.items import items as items_of

    found = items_of(read_from(results))
    if json:
        print_json(found)
        return
    for item in found:
        if item.tried:
            _print_item(item)
    idle = [item.task for item in found if not item.tried]
    if idle:
        Console().print(Text(f"Tried by nobody: {', '.join(idle)}."), soft_wrap=True)


def read_from(path: Path) -> "Results":
    """Read results.json, or the one in a folder. Raises: typer.Exit."""
    from grader.runner.results import ResultsError, read_results

    try:
        return read_results(path / "results.json" if path.is_dir() else path)
    except ResultsError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None


def print_difference(difference: "Difference") -> None:
    """Print a table of the changes, and a sentence that counts them."""
    from grader.runner.results import rounded

    out = Console()
    if difference.changes:
        table = Table("submission", "total", "task", "score", "why")
        for change in difference.changes:
            total = " → ".join(str(rounded(score)) for score in difference.totals[change.submission])
            scores = ("–" if score is None else str(rounded(score)) for score in (change.before, change.after))
            cells = (change.submission, total, f"{change.module}.{change.task}", " → ".join(scores), change.why)
            table.add_row(*(Text(without_commands(cell, wrapped=True)) for cell in cells))
        out.print(table)
    for what, ids in (("the first", difference.only_before), ("the second", difference.only_after)):
        if ids:
            out.print(Text(without_commands(f"Only in {what}: {', '.join(ids)}.")), soft_wrap=True)
    for note in difference.notes:
        out.print(Text(note, "dim"), soft_wrap=True)
    gains = sum(after > before for before, after in difference.totals.values())
    losses = sum(after < before for before, after in difference.totals.values())
    out.print(
        f"Totals that differ: {len(difference.totals)} ({gains} higher, {losses} lower)." if difference.any else "The results are equal."
    )


def _print_item(item: "Item") -> None:
    out = Console()
    out.print(Text(f"{item.module}.{item.task}: {item.passed} of {item.tried} passed", "bold"), soft_wrap=True)
    for sentence, count in item.mistakes.items():
        out.print(Text(without_commands(f"  {count} made a known mistake: {sentence}")), soft_wrap=True)
    for group in item.unexplained:
        out.print(Text(without_commands(f"  {group.students} not explained: {group.test}: {group.what}")), soft_wrap=True)
    for test, count in list(item.failed_tests.items())[:5]:
        out.print(Text(f"  {count} failed {test}", "dim"), soft_wrap=True)
