"""Scores as gradebooks of learning platforms import them: a platform's own export comes in, and goes out with one column filled in.

Rows stay as they are, those of students without a result too: an empty cell is no zero.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

from grader.base.text import one_line
from grader.reports.csv_report import csv_cell, csv_text
from grader.reports.rules import Mark
from grader.submissions.roster import Roster
from grader.submissions.sources import BadInput

__all__ = ["Filled", "Sheet", "days_late", "filled", "plain_sheet"]

_CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
_MOODLE = "Grade"
_BY_WHICH = ("sis login id", "sis user id", "id", "email address", "identifier", "username", "id number", "full name", "student")
"""The columns that say who a row is, the surest first."""


@dataclass(frozen=True)
class Sheet:
    """A gradebook as a platform exports it."""

    platform: str
    header: list[str]
    rows: list[list[str]]

    @classmethod
    def read(cls, path: Path) -> "Sheet":
        """Read a CSV file of Canvas or Moodle. Raises: BadInput."""
        try:
            table = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
        except (OSError, UnicodeError, csv.Error) as error:
            raise BadInput(f"{path} can't be read ({one_line(str(error))}): give the CSV file that the platform exports") from None
        header, rows = (table[0], table[1:]) if table else ([], [])
        names = [name.strip() for name in header]
        if {"Student", "ID"} <= set(names):
            return cls("Canvas", names, [row for row in rows if any(row)])
        if _MOODLE in names and {"Identifier", "Email address", "Full name", "ID number"} & set(names):
            return cls("Moodle", names, [row for row in rows if any(row)])
        raise BadInput(
            f"{path} is no gradebook of Canvas (with the columns Student and ID) and no grading worksheet of Moodle (with Identifier and "
            "Grade): export it there, and give it as it is"
        )


@dataclass(frozen=True)
class Filled:
    """A sheet to import, and who could not be entered: submissions without a row, and rows without a submission."""

    text: str
    without_row: list[str]
    without_result: list[str]


def days_late(path: Path) -> dict[str, float]:
    """The days by submission, from a CSV file with the columns id and days. Raises: BadInput."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
        days = {row["id"].strip(): float(row["days"]) for row in rows}
        if not all(0 <= number < 100_000 for number in days.values()):
            raise ValueError
        return days
    except (OSError, UnicodeError, csv.Error) as error:
        raise BadInput(f"{path} can't be read ({one_line(str(error))}): give a CSV file with the columns id and days") from None
    except (KeyError, ValueError, TypeError, AttributeError):
        raise BadInput(f"{path} has no columns id and days, or a row in which days is no number from 0 on: correct it") from None


def filled(sheet: Sheet, column: str, marks: Mapping[str, Mark], out_of: Fraction | None, roster: Roster) -> Filled:
    """Enter each submission's mark into the row of its student.

    Args:
        sheet: the platform's.
        column: the assignment's column in Canvas, such as "Warmup (4711)"; in Moodle it is always Grade.
        marks: by submission.
        out_of: what the platform takes for full points; None enters points as they are.
        roster: tells which id belongs to what the platform calls a student.

    Raises: BadInput if there is no such column.
    """
    name = _MOODLE if sheet.platform == "Moodle" else _column(sheet, column)
    place = sheet.header.index(name)
    owners = _owners(sheet, list(marks), roster)
    rows, entered = [], set[str]()
    for row, owner in zip(sheet.rows, owners, strict=True):
        cells = [*row, *[""] * (len(sheet.header) - len(row))]
        if owner:
            entered.add(owner)
            cells[place] = str(_points(marks[owner], out_of))
        rows.append(cells)
    if sheet.platform == "Moodle":  # which imports the other columns, too
        table = [sheet.header, *rows]
    else:
        kept = [index for index, title in enumerate(sheet.header) if title in (*_CANVAS, name)]
        table = [[csv_cell(row[index]) for index in kept] for row in (sheet.header, *rows)]
    missing = [row[0] for row, owner in zip(sheet.rows, owners, strict=True) if not owner and _is_student(row)]
    return Filled(csv_text(table), [id for id in marks if id not in entered], missing)


def plain_sheet(marks: Mapping[str, Mark], scores: Mapping[str, tuple[Decimal, float]], problems: Mapping[str, str]) -> str:
    """One row a submission: the canonical score, and beside it the mark by the course's rules. Problems come without a mark."""
    rows = [["submission", "score", "max_score", "mark", "max_mark", "why"]]
    for id, (score, most) in scores.items():
        one, problem = marks[id], problems.get(id, "")
        mark = "" if problem else str(_points(one, None))
        why = [f"no full verdict: {problem}"] if problem else one.why
        rows.append([csv_cell(id), str(score), f"{most:g}", mark, f"{float(one.max_score):g}", csv_cell("; ".join(why))])
    rows += [[csv_cell(id), "", "", "", "", csv_cell(problem)] for id, problem in problems.items() if id not in scores]
    return csv_text(rows)


def _points(mark: Mark, out_of: Fraction | None) -> Decimal:
    score = mark.score if out_of is None else mark.score / mark.max_score * out_of if mark.max_score else Fraction(0)
    return (Decimal(score.numerator) / Decimal(score.denominator)).quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)


def _column(sheet: Sheet, column: str) -> str:
    found = [name for name in sheet.header if name == column] or [name for name in sheet.header if name.startswith(f"{column} (")]
    if len(found) != 1:
        known = [one_line(name, 60) for name in sheet.header if name.endswith(")")]
        raise BadInput(f"the gradebook has no column {one_line(column)!r}; its assignments are {', '.join(known) or 'none'}: name one")
    return found[0]


def _owners(sheet: Sheet, ids: Sequence[str], roster: Roster) -> list[str]:
    """Whose each row is, by the surest column that names one of the submissions. Empty for rows of nobody. No submission has two rows."""
    order = [index for name in _BY_WHICH for index, title in enumerate(sheet.header) if title.lower() == name]
    known = Roster.of(ids)

    def owner_of(row: Sequence[str]) -> str:
        cells = [row[index] for index in order if index < len(row) and row[index]]
        found = [known.id_of(cell) or roster.id_of(cell) for cell in cells]
        return next((id for id in found if id in ids), "")

    owners = [owner_of(row) for row in sheet.rows]
    return [owner if owners.count(owner) == 1 else "" for owner in owners]


def _is_student(row: Sequence[str]) -> bool:
    """Not Canvas's rows about the assignments, nor its test student."""
    return row[0].strip() not in ("", "Points Possible", "Student, Test") and not row[0].strip().startswith("Manual Posting")
