"""Marks by the course's rules, and gradebooks of Canvas and Moodle that are filled in for import."""

import csv
import io
from fractions import Fraction

import msgspec
import pytest

from grader.base.outcome import Status
from grader.course.manifest import Rules
from grader.exports.gradebooks import Sheet, days_late, filled
from grader.reports.rules import Mark, mark
from grader.runner.results import Problem
from grader.submissions.roster import Roster
from grader.submissions.sources import BadInput
from tests.grader.conftest import grader, mini_course
from tests.grader.exports.samples import outcome, results, submission

P, F = Status.PASSED, Status.FAILED
TASKS = {"a": (4.0, [outcome(P)]), "b": (4.0, [outcome(P), outcome(F)]), "c": (2.0, [outcome(F)]), "d": (2.0, [outcome(P)])}
"""In two modules: 6 of 8, and 2 of 4."""

RULES = {
    "none": (Rules(), 0, 8, 12, []),
    "a day late": (Rules(late_per_day=0.1), 0.2, Fraction(36, 5), 12, ["1 day late: 10 % less"]),
    "many days late": (Rules(late_per_day=0.1, late_most=0.5), 9, 4, 12, ["9 days late: 50 % less"]),
    "in time": (Rules(late_per_day=0.1), 0, 8, 12, []),
    "the lowest module": (Rules(drop_lowest=1), 0, 6, 8, ["dropped: module1"]),
    "more than there are": (Rules(drop_lowest=9), 0, 6, 8, ["dropped: module1"]),
    "an extra task": (Rules(extra=("d",)), 0, 8, 10, ["beyond the maximum: d"]),
    "a cap": (Rules(extra=("a", "d"), cap=1.0), 0, 6, 6, ["beyond the maximum: a, d", "capped at 100 % of the maximum"]),
    "all": (  # 6 points, 4 of them beyond the maximum of 4; a quarter less is 4.5, and the cap leaves 4
        Rules(late_per_day=0.25, drop_lowest=1, extra=("a",), cap=1.0),
        1,
        4,
        4,
        ["beyond the maximum: a", "dropped: module1", "1 day late: 25 % less", "capped at 100 % of the maximum"],
    ),
}


@pytest.mark.parametrize("what", RULES)
def test_a_mark_by_the_rules(what):
    """Exact, with a sentence for each rule that changed something. The score stays as it is."""
    rules, days, score, most, why = RULES[what]
    graded = submission(TASKS, modules=2)
    made = mark(graded, rules, {"anna": days})
    assert (made.score, made.max_score, made.why) == (score, most, why)
    assert graded.score == 8


CANVAS = (
    "Student,ID,SIS User ID,SIS Login ID,Section,Essay (11),Warmup (4711)\r\n"
    "Points Possible,,,,,20,10\r\n"
    '"Lee, Anna",101,u1,alee,A,17,\r\n'
    '"Ott, Ben",102,u2,bott,A,,3\r\n'
    '"=Poe, Cy",103,u3,cpoe,A,5,1\r\n'
    '"Student, Test",104,,,A,,\r\n'
)
MOODLE = (
    "Identifier,Full name,Email address,Status,Grade,Maximum grade,Feedback comments\r\n"
    "Participant 1,Anna Lee,alee@example.org,Submitted,,10.00,\r\n"
    "Participant 2,Ben Ott,bott@example.org,Submitted,2,10.00,- good; =2\r\n"
)
MARKS = {"alee": Mark(Fraction(25, 3), Fraction(12), []), "Ben Ott": Mark(Fraction(6), Fraction(12), [])}


def table(text: str) -> list[list[str]]:
    """A CSV text, read again."""
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))


def sheet(path, text: str) -> Sheet:
    """The text as a file, read."""
    path.write_text(text)
    return Sheet.read(path)


def test_a_gradebook_of_canvas(tmp_path):
    """The columns that say who a row is, and the assignment's; no other assignment; who has no result keeps the cell."""
    done = filled(sheet(tmp_path / "canvas.csv", CANVAS), "Warmup", MARKS, Fraction(10), Roster())
    rows = table(done.text)
    assert rows[0] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Warmup (4711)"]
    assert [row[-1] for row in rows[1:]] == ["10", "6.94", "5.00", "1", ""]
    assert rows[4][0] == "'=Poe, Cy"
    assert (done.without_row, done.without_result) == ([], ["=Poe, Cy"])
    for column in ("Exam", "", "Essay (12)"):
        with pytest.raises(BadInput, match=r"its assignments are Essay \(11\), Warmup \(4711\)"):
            filled(sheet(tmp_path / "canvas.csv", CANVAS), column, MARKS, None, Roster())


def test_a_worksheet_of_moodle(tmp_path):
    """All columns stay; a class list says whose an address is."""
    (tmp_path / "roster.csv").write_text("id,email\nalee,alee@example.org\n")
    done = filled(sheet(tmp_path / "moodle.csv", MOODLE), "", MARKS, None, Roster.read(tmp_path / "roster.csv"))
    rows = table(done.text)
    assert rows[0] == MOODLE.split("\r\n")[0].split(",")
    assert [row[4] for row in rows[1:]] == ["8.33", "6.00"]
    assert rows[2][6] == "- good; =2"
    unknown = filled(sheet(tmp_path / "moodle.csv", MOODLE), "", {"zed": MARKS["alee"]}, None, Roster())
    assert (unknown.without_row, unknown.without_result) == (["zed"], ["Participant 1", "Participant 2"])


def test_two_rows_of_one_student_are_nobodys(tmp_path):
    """Whose the mark is can't be told, so it is entered nowhere, and that is said."""
    done = filled(sheet(tmp_path / "x.csv", CANVAS.replace("bott", "alee")), "Warmup", {"alee": MARKS["alee"]}, None, Roster())
    assert [row[-1] for row in table(done.text)[1:]] == ["10", "", "3", "1", ""]
    assert done.without_row == ["alee"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "Grade,Name\n1,a\n", "\x00", '"'])
def test_a_sheet_that_is_none(tmp_path, text):
    """A sentence that says what to export."""
    with pytest.raises(BadInput, match=r"x\.csv"):
        sheet(tmp_path / "x.csv", text)


@pytest.mark.parametrize(
    "text", ["", "id\na\n", "id,days\na,x\n", "id,days\na,nan\n", "id,days\na,inf\n", "id,days\na,-1\n", "id,days\na\n"]
)
def test_a_list_of_late_days_that_is_none(tmp_path, text):
    """Only an empty list is none."""
    (tmp_path / "late.csv").write_text(text)
    if not text:
        assert days_late(tmp_path / "late.csv") == {}
        return
    with pytest.raises(BadInput, match="correct it"):
        days_late(tmp_path / "late.csv")


def test_the_command(tmp_path):
    """A table with score and mark side by side; a gradebook that leaves out who has no full verdict, and says so."""
    root = mini_course(tmp_path / "course")
    manifest = root / "course.toml"
    manifest.write_text(manifest.read_text().replace("[[modules]]", "[rules]\nlate_per_day = 0.5\n\n[[modules]]", 1))
    graded = results(submission(TASKS, "alee"), submission(TASKS, "bott"))
    graded = msgspec.structs.replace(
        graded, problems=[Problem("bott", ["module0"], "It can't be read."), Problem("zoe", [], "Nothing was handed in.")]
    )
    (root / "results.json").write_bytes(msgspec.json.encode(graded))
    (root / "late.csv").write_text("id,days\nalee,1\nzed,2\n")
    (root / "canvas.csv").write_text(CANVAS)
    done = grader("export", "marks", "results.json", "--late", "late.csv", cwd=root)
    assert done.returncode == 0, done.stderr
    assert "Late, but without a result: zed." in done.stderr
    assert table((root / "marks.csv").read_text())[1:] == [
        ["alee", "8.00", "12", "4.00", "12", "1 day late: 50 % less"],
        ["bott", "8.00", "12", "", "12", "no full verdict: It can't be read."],
        ["zoe", "", "", "", "", "Nothing was handed in."],
    ]
    options = ("--sheet", "canvas.csv", "--column", "Warmup", "--out", "filled.csv")
    done = grader("export", "marks", "results.json", *options, cwd=root)
    assert "Without a full verdict, so without a mark (problems.csv says why): bott, zoe." in done.stderr
    assert [row[-1] for row in table((root / "filled.csv").read_text())[1:]] == ["10", "8.00", "3", "1", ""]
    assert grader("export", "marks", "results.json", *options, "--incomplete", "--force", cwd=root).returncode == 0
    assert [row[-1] for row in table((root / "filled.csv").read_text())[1:]] == ["10", "8.00", "8.00", "1", ""]
    manifest.write_text(manifest.read_text().replace("late_per_day = 0.5", ""))
    refused = grader("export", "marks", "results.json", "--late", "late.csv", "--force", cwd=root)
    assert (refused.returncode, "has no rule about lateness" in refused.stderr) == (2, True)
    refused = grader("export", "marks", "results.json", "--sheet", "late.csv", cwd=root)
    assert (refused.returncode, "is no gradebook of Canvas" in refused.stderr) == (2, True)
