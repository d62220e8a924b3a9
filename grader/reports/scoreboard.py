"""The terminal's scoreboard."""

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grader.base.outcome import Status
from grader.base.text import without_commands
from grader.reports.feedback import words
from grader.runner.results import ModuleResult, Results, SubmissionResult, TaskResult, rounded

__all__ = ["problem_table", "scoreboard"]

_STYLES = {Status.PASSED: "green", Status.SKIPPED: "dim", Status.NOT_IMPLEMENTED: "dim", Status.GRADER_ERROR: "bold magenta"}


def scoreboard(results: Results) -> RenderableType:
    """One row for each submission. If there is only one, also a row for each of its tasks, with the message that decided its status."""
    modules = list(dict.fromkeys(module.name for submission in results.submissions for module in submission.modules))
    wide = len(modules) <= _MOST_COLUMNS
    table = Table("submission", *(modules if wide else ["modules begun"]), "total", "tasks")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for submission in results.submissions:
        scores = {module.name: f"{rounded(module.score)} / {module.max_score:g}" for module in submission.modules}
        total = f"{rounded(submission.score)} / {submission.max_score:g}"
        begun = "\n".join(f"{module.name} {scores[module.name]}" for module in submission.modules if _begun(module))
        table.add_row(
            Text(without_commands(submission.id, wrapped=True)),
            *([scores.get(name, "") for name in modules] if wide else [begun]),
            total,
            _tally(submission),
        )
    if len(results.submissions) == 1:
        return Group(*(_details(module.name, module.tasks) for module in results.submissions[0].modules), table)
    return table


def problem_table(results: Results) -> RenderableType:
    """The students without a full verdict: who, for which modules, and why and what to do."""
    table = Table("submission", "modules", "why, and what to do", title="Without a full verdict", title_justify="left")
    for one in results.problems:
        modules = "all" if len(one.modules) > _MOST_COLUMNS else ", ".join(one.modules)
        table.add_row(Text(without_commands(one.submission, wrapped=True)), modules, Text(without_commands(one.sentence, wrapped=True)))
    return table


_MOST_COLUMNS = 3
"""With more columns, the table would not fit a terminal of 80 characters."""


def _begun(module: ModuleResult) -> bool:
    return any(task.status is not Status.NOT_IMPLEMENTED for task in module.tasks)


def _tally(submission: SubmissionResult) -> Text:
    counts = Counter(task.status for module in submission.modules for task in module.tasks)
    parts = [Text(f"{counts[status]} {words(status)}", _STYLES.get(status, "red")) for status in Status if counts[status]]
    return Text(", ").join(parts)


def _details(name: str, tasks: list[TaskResult]) -> Table:
    table = Table(name, "score", "status", "why")
    table.columns[1].justify = "right"
    for task in tasks:
        message = next((test.message for test in task.tests if test.status is task.status and test.message), "")
        status = Text(words(task.status), _STYLES.get(task.status, "red"))
        table.add_row(
            Text(task.name),
            f"{rounded(task.score)} / {task.max_score:g}",
            status,
            Text(without_commands(message, wrapped=True)),
        )
    return table
