"""Says in words how a task's public tests went. The same text stands in a terminal, in a notebook and before a tutor."""

from collections.abc import Iterable, Iterator, Sequence

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grader.base.text import clean
from grader.practice.outcome import PublicTest, TaskRun, TestStatus
from grader.practice.session import Standing

__all__ = ["CAVEAT", "changed_since", "describe", "progress_table", "summary"]

CAVEAT = Text("Public tests are examples. Points are given by the hidden tests, which check more.", "dim")
_MOST_PRINTED, _MOST_NAMED = 20, 8
_SIGNS = {TestStatus.PASSED: ("✓", "green"), TestStatus.SKIPPED: ("–", "dim")}


def summary(run: TaskRun) -> Text:
    """One line: the task, and how many of its public tests passed."""
    tests = [test for test in run.tests if test.status is not TestStatus.SKIPPED]
    count = f"{sum(test.status is TestStatus.PASSED for test in tests)} of {len(tests)}"
    if run.passed:
        return Text.assemble((run.task, "bold"), (": all public tests passed", "green"), (f" ({count})", "green"))
    if run.banned:
        return Text.assemble((run.task, "bold"), (f": uses {run.banned}, which this task forbids: it would get no points", "red"))
    if run.untouched:
        return Text.assemble((run.task, "bold"), (": not written yet", "yellow"))
    if run.problem:
        return Text.assemble((run.task, "bold"), (": could not be tested", "red"))
    if any(test.status is TestStatus.TIMED_OUT for test in tests):
        return Text.assemble((run.task, "bold"), (": stopped after the first public test that ran out of time", "red"))
    return Text.assemble((run.task, "bold"), (f": {count} public tests passed", "red"))


def describe(run: TaskRun, mistake: str = "", *, failures: int = 1) -> Text:
    """The summary, and what failed and why: at most so many failures, since the first is the one to mend."""
    lines: list[Text] = [summary(run)]
    if run.problem:
        lines.append(Text(clean(run.problem, 2_000), "red"))
    elif not run.untouched:
        lines += _tests(run, mistake, failures)
    if run.printed.strip():
        printed = clean(run.printed, 4_000).strip().splitlines()
        lines.append(Text("Your code printed:", "bold"))
        lines += [Text(f"  {line}") for line in printed[:_MOST_PRINTED]]
        if len(printed) > _MOST_PRINTED:
            lines.append(Text(f"  … and {len(printed) - _MOST_PRINTED} more lines", "dim"))
    return Text("\n").join(lines)


def progress_table(modules: Iterable[Standing]) -> Table:
    """How far the student is, a row for each module."""
    table = Table("module", "", "tasks passed", "points in reach", "minutes left")
    for row in modules:
        bar = ProgressBar(row.tasks, row.passed, width=20)
        table.add_row(row.module, bar, f"{row.passed} of {row.tasks}", f"{row.points:g} of {row.max_points:g}", f"{row.minutes_left}")
    return table


def changed_since(tasks: Sequence[str]) -> str:
    """What to do about tasks whose code was changed since they passed. Empty if there are none."""
    if not tasks:
        return ""
    count = "1 task has" if len(tasks) == 1 else f"{len(tasks)} tasks have"
    return f"{count} other code than when the public tests passed. To count again: grader run {' '.join(tasks[:_MOST_NAMED])}" + " …" * (
        len(tasks) > _MOST_NAMED
    )


def _tests(run: TaskRun, mistake: str, failures: int) -> Iterator[Text]:
    failed = [test for test in run.tests if test.status not in _SIGNS]
    shared = failed[0] if len({(test.message, test.place) for test in failed}) == 1 and failed else None
    if shared and shared.place and len(failed) > 1:  # such as a syntax error: say it once
        yield from _failure(shared, mistake)
        return
    for test in run.tests:
        if test.status in _SIGNS:
            sign, style = _SIGNS[test.status]
            yield Text(f"{sign} {_title(test)}", style)
    for index, test in enumerate(failed[:failures]):
        yield from _failure(test, mistake if index == 0 else "")
    for test in failed[failures:]:
        yield Text(f"✗ {_title(test)}", "red")


def _title(test: PublicTest) -> str:
    return clean(test.checks.split("\n\n")[0].replace("\n", " "), 300) or test.name


def _failure(test: PublicTest, mistake: str) -> Iterator[Text]:
    yield Text(f"✗ {_title(test)}", "bold red")
    if test.statement:
        yield from _indented(f"{test.test_place}", "dim")
        yield from _indented(clean(test.statement, 600), "cyan", 4)
    yield from _indented(clean(test.message, 2_000), "")
    if test.place:
        yield from _indented(test.place, "dim")
        yield from _indented(clean(test.source, 300), "cyan", 4)
    if mistake:
        yield Text.assemble("  ", ("It looks like this: ", "bold yellow"), (clean(mistake), "yellow"))
    if test.call:
        yield Text.assemble("  ", ("Called: ", "bold"), clean(test.call, 600))


def _indented(text: str, style: str, spaces: int = 2) -> Iterator[Text]:
    for line in text.splitlines():
        yield Text(" " * spaces + line, style)
