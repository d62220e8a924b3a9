"""nbgrader's gradebook as CSV: `nbgrader export --exporter grader.exports.nbgrader.csv_exporter.SafeCsvExporter`.

nbgrader's own exporter joins its columns without quoting: a comma in a name shifts the rest of the row, and a name that begins with `=`
is a formula. This one has the same columns, quoted. A further column says how many graded cells of a submission still wait for a score.
If all of them wait, as after a fault, the score is empty and not zero.
"""

from contextlib import suppress
from pathlib import Path

from nbgrader.api import Gradebook, MissingEntry, SubmittedAssignment
from nbgrader.plugins import ExportPlugin

from grader.base.files import write_atomically
from grader.reports.csv_report import csv_cell, csv_text
from grader.runner.results import rounded

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
    "cells_to_grade",
)


class SafeCsvExporter(ExportPlugin):  # type: ignore[misc]
    """A row for each assignment and student, for spreadsheets. It takes nbgrader's options --to, --assignment and --student."""

    def export(self, gradebook: Gradebook) -> None:
        """Write the grades to `--to` (default: grades.csv)."""
        path = Path(self.to or "grades.csv")
        if not path.parent.is_dir():
            raise SystemExit(f"{path.parent} is not a folder: make it first, or name another file with --to")
        rows = _rows(gradebook, {str(name) for name in self.assignment}, {str(name) for name in self.student})
        write_atomically(path, csv_text([_COLUMNS, *rows]).encode())
        self.log.info("%d grades written to %s", len(rows), path)


def _rows(gradebook: Gradebook, assignments: set[str], students: set[str]) -> list[list[str]]:
    """A row for each assignment and student. An empty set chooses all of them."""
    rows = []
    for assignment in gradebook.assignments:
        if assignments and assignment.name not in assignments:
            continue
        for student in gradebook.students:
            if students and student.id not in students:
                continue
            texts = [assignment.name, assignment.duedate, None, student.id, student.last_name, student.first_name, student.email]
            numbers: list[float | None] = [0.0, 0.0, 0.0, assignment.max_score]
            waiting = 0
            with suppress(MissingEntry):  # raised if nothing was handed in, which is worth 0 points
                submission = gradebook.find_submission(assignment.name, student.id)
                texts[2] = submission.timestamp
                waiting, scored = _count(submission)
                score, penalty = submission.score, submission.late_submission_penalty
                numbers[:3] = [score, penalty, max(0.0, score - penalty)] if scored else [None] * 3
            row = [csv_cell("" if text is None else str(text)) for text in texts]
            rows.append([*row, *("" if number is None else str(rounded(number)) for number in numbers), str(waiting)])
    return rows


def _count(submission: SubmittedAssignment) -> tuple[int, int]:
    """How many graded cells still wait for a score, and how many have one."""
    grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
    scored = [grade for grade in grades if grade.auto_score is not None or grade.manual_score is not None]
    return sum(grade.needs_manual_grade for grade in grades), len(scored)
