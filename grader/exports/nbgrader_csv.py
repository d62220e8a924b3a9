"""nbgrader's gradebook as CSV: `nbgrader export --exporter grader.exports.nbgrader_csv.SafeCsvExporter`.

The columns are those of nbgrader's own exporter, which joins them with commas as they are: a comma in a name shifts the rest of the row,
and a name that begins with `=` is a formula.
"""

from pathlib import Path

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.plugins import ExportPlugin

from grader.reports import csv_cell, csv_text
from grader.results import rounded, write_atomically

__all__ = ["SafeCsvExporter"]

_COLUMNS = (
    "assignment",
    "duedate",
    "timestamp",
    "student_id",
    "last_name",
    "first_name",
    "email",
    "raw_score",
    "late_submission_penalty",
    "score",
    "max_score",
)


class SafeCsvExporter(ExportPlugin):  # type: ignore[misc]
    """A row for each assignment and student, for spreadsheets; the options --to, --assignment and --student are nbgrader's."""

    def export(self, gradebook: Gradebook) -> None:
        """Write the grades to `--to` (default: grades.csv)."""
        path = Path(self.to or "grades.csv")
        if not path.parent.is_dir():
            raise SystemExit(f"{path.parent} is no folder: make it first, or name another file with --to")
        rows = _rows(gradebook, {str(name) for name in self.assignment}, {str(name) for name in self.student})
        write_atomically(path, csv_text([_COLUMNS, *rows]).encode())
        self.log.info("%d grades written to %s", len(rows), path)


def _rows(gradebook: Gradebook, assignments: set[str], students: set[str]) -> list[list[str]]:
    """A row for each pair; all of them where a set is empty."""
    rows = []
    for assignment in gradebook.assignments:
        if assignments and assignment.name not in assignments:
            continue
        for student in gradebook.students:
            if students and student.id not in students:
                continue
            try:
                submission = gradebook.find_submission(assignment.name, student.id)
                timestamp, score, penalty = submission.timestamp, submission.score, submission.late_submission_penalty
            except MissingEntry:  # nothing was handed in
                timestamp, score, penalty = None, 0.0, 0.0
            texts = [assignment.name, assignment.duedate, timestamp, student.id, student.last_name, student.first_name, student.email]
            numbers = [rounded(score), rounded(penalty), rounded(max(0.0, score - penalty)), rounded(assignment.max_score)]
            rows.append([csv_cell("" if text is None else str(text)) for text in texts] + [str(number) for number in numbers])
    return rows
