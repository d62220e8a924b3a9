"""Results as CSV, with every string of a student's escaped for spreadsheets."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from grader.base.outcome import Status
from grader.runner.results import Results, rounded

__all__ = ["csv_cell", "csv_report", "csv_text"]


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
