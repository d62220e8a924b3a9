"""Results as CSV. Every string that may come from a student is escaped for spreadsheets."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from grader.base.outcome import Status
from grader.runner.results import Results, rounded

__all__ = ["csv_cell", "csv_problems", "csv_report", "csv_text"]

_SIGNS = "=+@＝＋＠﹦﹢﹫－﹣−-"
"""The signs that begin a formula, in every width: spreadsheets in Chinese and Japanese read the wide ones like the others."""


def csv_report(results: Results) -> str:
    """One row for each task of each submission, with its first message."""
    rows = [["submission", "module", "task", "score", "max_score", "status", "tests_passed", "tests", "message"]]
    for submission in results.submissions:
        for module in submission.modules:
            for task in module.tasks:
                message = next((test.message for test in task.tests if test.message), "").replace("\n", " ")
                passed = sum(test.status is Status.PASSED for test in task.tests)
                row = [submission.id, module.name, task.name, str(rounded(task.score)), f"{task.max_score:g}"]
                rows.append([csv_cell(value) for value in [*row, task.status, str(passed), str(len(task.tests)), message]])
    return csv_text(rows)


def csv_problems(results: Results) -> str:
    """One row for each problem of a student without a full verdict."""
    rows = [[csv_cell(value) for value in (one.submission, " ".join(one.modules), one.sentence)] for one in results.problems]
    return csv_text([["submission", "modules", "problem"], *rows])


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """CSV after RFC 4180, with a byte order mark for spreadsheets. Pass strings that may come from users through `csv_cell` first."""
    out = io.StringIO()
    out.write("\ufeff")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def csv_cell(value: str) -> str:
    """Escape a string so that no spreadsheet takes it for a formula."""
    value = re.sub(rf"([;\t]\s*)(?=[{_SIGNS}])", r"\1'", value)  # some spreadsheets split cells at ; or tab
    return f"'{value}" if re.match(rf"[\s\x00-\x1f\ufeff]*[{_SIGNS}]", value) else value
