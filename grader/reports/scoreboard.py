"""Reports made from results: the terminal's scoreboard, JUnit XML, CSV. Every string of a student's is escaped for its medium."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from grader.base.outcome import Status
from grader.base.text import without_commands
from grader.reports.feedback import words
from grader.runner.results import ModuleResult, Results, SubmissionResult, TaskResult, rounded

__all__ = ["csv_cell", "csv_report", "csv_text", "junit_report", "scoreboard"]

_STYLES = {Status.PASSED: "green", Status.SKIPPED: "dim", Status.NOT_IMPLEMENTED: "dim", Status.GRADER_ERROR: "bold magenta"}


def scoreboard(results: Results) -> RenderableType:
    """One row a submission; for a single submission also one row a task, with the first message."""
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
            Text(without_commands(submission.id)),
            *([scores.get(name, "") for name in modules] if wide else [begun]),
            total,
            _tally(submission),
        )
    if len(results.submissions) == 1:
        return Group(*(_details(module.name, module.tasks) for module in results.submissions[0].modules), table)
    return table


_MOST_COLUMNS = 3
"""More modules side by side would not be legible in a terminal of 80 characters."""


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
            Text(task.name), f"{rounded(task.score)} / {task.max_score:g}", status, Text(without_commands(message.replace("\n", " ")))
        )
    return table


def csv_report(results: Results) -> str:
    """One row a submission and task, with the first message."""
    rows = [["submission", "module", "task", "score", "max_score", "status", "tests_passed", "tests", "message"]]
    for submission in results.submissions:
        for module in submission.modules:
            for task in module.tasks:
                message = next((test.message for test in task.tests if test.message), "").replace("\n", " ")
                passed = sum(test.status is Status.PASSED for test in task.tests)
                row = [submission.id, module.name, task.name, str(rounded(task.score)), f"{task.max_score:g}"]
                rows.append([csv_cell(value) for value in [*row, task.status, str(passed), str(len(task.tests)), message]])
    return csv_text(rows)


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """RFC 4180 with a byte order mark, so that spreadsheets read it. Cells that hold a string of a user's go through `csv_cell` first."""
    out = io.StringIO()
    out.write("\ufeff")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def csv_cell(value: str) -> str:
    """A string that no spreadsheet takes for a formula."""
    value = re.sub(r"([;\t]\s*)(?=[=+\-@])", r"\1'", value)  # where a spreadsheet splits at other separators
    return f"'{value}" if value.lstrip().startswith(("=", "+", "-", "@")) else value


def junit_report(results: Results) -> bytes:
    """One testsuite a submission and module, points in its properties (pytest's dialect allows none on a test)."""
    root = ElementTree.Element("testsuites")
    for submission in results.submissions:
        for module in submission.modules:
            tests = [(task, test) for task in module.tasks for test in task.tests]
            counts = Counter(_junit_kind(test.status) for _, test in tests)
            suite = ElementTree.SubElement(root, "testsuite", name=f"{submission.id}.{module.name}", tests=str(len(tests)))
            for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
                suite.set(attribute, str(counts[kind]))
            properties = ElementTree.SubElement(suite, "properties")
            for name, value in (("score", module.score), ("max_score", module.max_score), ("seed", results.seed)):
                ElementTree.SubElement(properties, "property", name=name, value=str(value))
            for task, test in tests:
                case = ElementTree.SubElement(suite, "testcase", classname=f"{module.name}.{task.name}", name=test.id)
                if kind := _junit_kind(test.status):
                    ElementTree.SubElement(case, kind, message=f"{test.status}: {test.message}")
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _junit_kind(status: Status) -> str:
    match status:
        case Status.PASSED:
            return ""
        case Status.SKIPPED:
            return "skipped"
        case Status.FAILED | Status.NOT_IMPLEMENTED | Status.BANNED:
            return "failure"
        case _:
            return "error"
