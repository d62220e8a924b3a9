"""nbgrader's gradebook: scores of files get into it, what is there stays, the form grader shows them, spreadsheets get them out."""

import csv
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from grader.base.outcome import Status
from grader.cli.app import app as command
from grader.course.manifest import Course, Feedback
from grader.reports.feedback import explain
from grader.runner.results import SCHEMA, ModuleResult, Results, SubmissionResult, TestResult, environment, score_module, submission_result
from grader.sandbox.supervisor.isolation import Isolation
from grader.submissions.sources import Source
from tests.grader.conftest import COUNTER, RIGHT, grader, mini_course

pytest.importorskip("nbgrader", reason="needs the extra nbgrader")

from nbgrader.api import Gradebook

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # of nbgrader's own making

ALL = Feedback()
GOOD = TestResult("t", Status.PASSED, 1.0, "")
HOSTILE = "<script>alert(1)</script> **bold** ![](http://127.0.0.1:9/x.png) $$<b>x</b>$$"


def bad(message: str = "expected 6, got 9", status: Status = Status.FAILED) -> TestResult:
    """A test that did not pass."""
    return TestResult("b", status, 1.0, message)


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path, monkeypatch):
    """Whoever runs the tests may have nbgrader configured."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / "jupyter" / name))


@pytest.fixture(scope="session")
def new_gradebook(tmp_path_factory) -> Path:
    """A gradebook without anything in it: making one takes nbgrader seconds."""
    folder = tmp_path_factory.mktemp("new-gradebook")
    nbgrader(folder, "db", "student", "list")
    return folder / "gradebook.db"


@pytest.fixture
def folder(tmp_path, new_gradebook) -> Path:
    """The course folder of nbgrader, with an empty gradebook."""
    (tmp_path / "gradebook").mkdir()
    shutil.copy(new_gradebook, tmp_path / "gradebook")
    return tmp_path / "gradebook"


def graded(course: Course, double: list[TestResult], counter: list[TestResult]) -> ModuleResult:
    """A result of the module mini."""
    return score_module(course.modules[0], {"double": double, "Counter": counter})


def export(course: Course, folder: Path, students: dict[str, ModuleResult], *options: str, code: int = 0) -> Result:
    """Run `grader export gradebook` in this process."""
    submissions = [submission_result(id, [module]) for id, module in students.items()]
    return export_submissions(course, folder, submissions, *options, code=code)


def export_submissions(
    course: Course, folder: Path, submissions: list[SubmissionResult], *options: str, code: int = 0, feedback: Feedback = ALL
) -> Result:
    """The same, of whole submissions."""
    results = folder.parent / "results.json"
    whole = Results(SCHEMA, 1, environment(), Isolation(True, 6, True, True), submissions, feedback=feedback)
    results.write_bytes(msgspec.json.encode(whole))
    arguments = ["export", "gradebook", str(results), "--course", str(course.root), "--course-dir", str(folder), *options]
    done = CliRunner().invoke(command, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    assert not done.exception or isinstance(done.exception, SystemExit), done.exc_info
    return done


def opened(folder: Path) -> Gradebook:
    """The gradebook, through nbgrader's API."""
    return Gradebook(f"sqlite:///{folder}/gradebook.db")


def scores(folder: Path, module: str = "mini") -> dict[str, dict[str, tuple[float | None, float, bool]]]:
    """By student and cell: the automatic score, the score that counts, whether a person has to look at it."""
    with opened(folder) as gradebook:
        return {
            submission.student.id: {
                grade.name: (grade.auto_score, grade.score, grade.needs_manual_grade)
                for notebook in submission.notebooks
                for grade in notebook.grades
            }
            for submission in gradebook.assignment_submissions(module)
        }


def everything(folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """The rows of the database, and every other file."""
    with sqlite3.connect(folder / "gradebook.db") as database:
        rows = list(database.iterdump())
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop("gradebook.db")
    return rows, files


def test_scores_arrive_unrounded_with_explanations(course, folder):
    """A folder with nothing in it: points and scores as in results.json, the explanation as a comment, nobody asked to look at it."""
    (folder / "gradebook.db").unlink()
    partial = graded(course, [GOOD, GOOD, bad()], [GOOD])
    done = export(course, folder, {"anna": graded(course, [GOOD], [GOOD]), "ben": partial})
    assert ": 2, of them new or changed: 2\n" in done.output
    assert scores(folder) == {
        "anna": {"grade-double": (2.0, 2.0, False), "grade-Counter": (3.0, 3.0, False)},
        "ben": {"grade-double": (2 * 2 / 3, 2 * 2 / 3, False), "grade-Counter": (3.0, 3.0, False)},
    }
    with opened(folder) as gradebook:
        submission = gradebook.find_submission("mini", "ben")
        assert (submission.score, submission.max_score) == (partial.score, 5.0)
        comment = gradebook.find_comment("solve-double", "mini", "mini", "ben").comment
    assert [line.strip() for line in comment.splitlines()] == explain(partial.tasks[0]).splitlines()


def test_students_are_told_what_the_course_says(course, folder):
    """With points alone, neither the comment nor the sheet says what failed."""
    wrong = submission_result("ben", [graded(course, [bad("SECRET")], [GOOD])])
    export_submissions(course, folder, [wrong], feedback=Feedback("points"))
    with opened(folder) as gradebook:
        comment = gradebook.find_comment("solve-double", "mini", "mini", "ben").comment
    assert "0.00 of 2 points" in comment
    assert not any(b"SECRET" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_again_changes_nothing(course, folder):
    """The second run leaves every row and every file as it is."""
    students = {"anna": graded(course, [GOOD, bad()], [GOOD]), "ben": graded(course, [bad(HOSTILE)], [GOOD])}
    export(course, folder, students)
    before = everything(folder)
    done = export(course, folder, students)
    assert ": 2, of them new or changed: 0\n" in done.output
    assert everything(folder) == before


def test_what_a_person_entered_stays(course, folder):
    """Manual score, extra credit and comment stay; a person is asked to look again where the automatic score changed, and only there."""
    export(course, folder, {"anna": graded(course, [bad()], [bad()])})
    with opened(folder) as gradebook:
        for cell, score in (("double", 1.5), ("Counter", 0.5)):
            grade = gradebook.find_grade(f"grade-{cell}", "mini", "mini", "anna")
            grade.manual_score, grade.extra_credit, grade.needs_manual_grade = score, 0.25, False
            gradebook.find_comment(f"solve-{cell}", "mini", "mini", "anna").manual_comment = "Well tried."
        gradebook.db.commit()
    export(course, folder, {"anna": graded(course, [GOOD], [bad()])})
    assert scores(folder)["anna"] == {"grade-double": (2.0, 1.75, True), "grade-Counter": (0.0, 0.75, False)}
    with opened(folder) as gradebook:
        assert gradebook.find_comment("solve-double", "mini", "mini", "anna").comment == "Well tried."


def test_a_module_that_was_not_handed_in_is_no_submission(course, folder):
    """The gradebook hears of a student's module once it is handed in; an untouched stub is a submission."""
    missing = [bad(Source.not_handed_in("mini").problem, Status.NOT_IMPLEMENTED)]
    stub = [bad("double is not implemented yet.", Status.NOT_IMPLEMENTED)]
    export(course, folder, {"anna": graded(course, missing, missing), "ben": graded(course, stub, stub)})
    assert set(scores(folder)) == {"ben"}
    export(course, folder, {"ben": graded(course, missing, missing)})
    with opened(folder) as gradebook:
        assert "was not handed in" in gradebook.find_comment("solve-double", "mini", "mini", "ben").comment


def test_a_task_of_which_nothing_counted_is_left_to_a_person(course, folder):
    """All tests skipped: no automatic score, and the form grader asks for one."""
    skipped = [bad("needs a GPU", Status.SKIPPED)]
    export(course, folder, {"anna": graded(course, skipped, [GOOD])})
    assert scores(folder)["anna"] == {"grade-double": (None, 0.0, True), "grade-Counter": (3.0, 3.0, False)}


def test_some_tasks_leave_the_others_alone(course, folder):
    """Results of one task write one cell, in whatever order they come."""
    module = graded(course, [bad()], [GOOD])
    export(course, folder, {"anna": msgspec.structs.replace(module, tasks=module.tasks[:1])})
    assert scores(folder)["anna"] == {"grade-double": (0.0, 0.0, False), "grade-Counter": (None, 0.0, True)}
    export(course, folder, {"anna": msgspec.structs.replace(module, tasks=module.tasks[1:])})
    assert scores(folder)["anna"] == {"grade-double": (0.0, 0.0, False), "grade-Counter": (3.0, 3.0, False)}


def test_a_fault_of_the_grader_stops_that_submission(course, folder):
    """Nothing is written of it, the old score stays, the others are written, status 3."""
    export(course, folder, {"anna": graded(course, [GOOD], [GOOD])})
    broken = graded(course, [bad("the suite broke", Status.GRADER_ERROR)], [GOOD])
    done = export(course, folder, {"anna": broken, "ben": graded(course, [GOOD], [GOOD]), "cleo": broken}, code=3)
    assert "anna, mini: nothing was written, since the grader itself failed: the suite broke" in done.stderr
    assert {student: grades["grade-double"][0] for student, grades in scores(folder).items()} == {"anna": 2.0, "ben": 2.0}
    assert not (folder / "autograded" / "cleo").exists()


def autograded_notebook(course: Course, folder: Path, student: str) -> None:
    """What nbgrader's autograding of a notebook leaves in the gradebook."""
    export(course, folder, {"somebody": graded(course, [GOOD], [GOOD])})
    with opened(folder) as gradebook:
        gradebook.update_or_create_student(student)
        gradebook.update_or_create_submission("mini", student)
        for cell in ("double", "Counter"):
            grade = gradebook.find_grade(f"grade-{cell}", "mini", "mini", student)
            grade.auto_score, grade.needs_manual_grade = 1.0, False
            gradebook.find_comment(f"solve-{cell}", "mini", "mini", student).auto_comment = "No response."
        gradebook.db.commit()


def test_what_was_graded_as_a_notebook_stays_unless_told(course, folder):
    """The score is left with a sentence that says why; --replace writes, also again; then the score is ours."""
    autograded_notebook(course, folder, "anna")
    ours = {"anna": graded(course, [GOOD], [GOOD])}
    before = everything(folder)
    done = export(course, folder, ours)
    assert "anna, mini: not changed, because nbgrader autograded a notebook of this student; --replace writes" in done.stderr
    assert everything(folder) == before
    export(course, folder, ours, "--replace")
    assert scores(folder)["anna"]["grade-double"] == (2.0, 2.0, False)
    before = everything(folder)
    assert not export(course, folder, ours).stderr
    assert everything(folder) == before


def test_a_notebook_graded_after_the_file_stays(course, folder):
    """Autograding leaves the file's explanation at a solution cell that the notebook lacks: the score is the notebook's all the same."""
    ours = {"anna": graded(course, [GOOD], [GOOD])}
    export(course, folder, ours)
    with opened(folder) as gradebook:
        gradebook.find_grade("grade-double", "mini", "mini", "anna").auto_score = 1.0
        gradebook.find_comment("solve-double", "mini", "mini", "anna").auto_comment = None
        gradebook.db.commit()
    assert "nbgrader autograded a notebook of this student" in export(course, folder, ours).stderr
    assert scores(folder)["anna"]["grade-double"][0] == 1.0


def test_a_notebook_that_waits_goes_first(course, folder):
    """A submitted notebook that is not graded yet: nothing is written without --replace, and it stays where it is."""
    submitted = folder / "submitted" / "anna" / "mini" / "mini.ipynb"
    submitted.parent.mkdir(parents=True)
    submitted.write_text("{}")
    ours = {"anna": graded(course, [GOOD], [GOOD])}
    done = export(course, folder, ours)
    assert "because a notebook of this student waits for `nbgrader autograde`" in done.stderr
    assert scores(folder) == {}
    export(course, folder, ours, "--replace")
    assert (scores(folder)["anna"]["grade-double"][0], submitted.read_text()) == (2.0, "{}")


@pytest.mark.parametrize("id", ["a/b", "a+b", "*", "a?", "[a]", "..", ".a", "-a", "a ", "", "a" * 129, 'a"b', "<b>", "a#1", "50%", "a\nb"])
def test_a_name_that_nbgrader_cant_take(course, folder, id):
    """A sentence that says which and what to do, and nothing written of anybody."""
    good = graded(course, [GOOD], [GOOD])
    done = export(course, folder, {"anna": good, id: good}, code=2)
    assert "as a student's id: rename the submission" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["gradebook.db"]


def test_other_names_are_fine(course, folder):
    """What names of folders look like."""
    names = ["Doe, Jane", "jane.doe@example.org", "Zoë_Müller-2", "1234", "李雷"]
    export(course, folder, dict.fromkeys(names, graded(course, [GOOD], [GOOD])))
    assert set(scores(folder)) == set(names)


def write_source(course: Course, folder: Path) -> Path:
    """The instructor's notebook, in source/."""
    from grader.exports.nbgrader.course import write_course

    write_course(course, course.modules, folder)
    (folder / "nbgrader_config.py").unlink()  # its name of the course would be a new row in the gradebook
    return folder / "source" / "mini" / "mini.ipynb"


def wrong(change: str, course: Course, folder: Path, tmp_path: Path) -> tuple[Course, str]:
    """Make something wrong. Returns the course to export with, and the sentence that is due."""
    root = tmp_path / "changed"
    match change:
        case "points":
            mini_course(root)
            manifest = root / "course.toml"
            manifest.write_text(manifest.read_text().replace("points = 3", "points = 4"))
            return Course.read(root), "in the gradebook, Counter is worth 3 points, in course.toml 4"
        case "cell":
            with opened(folder) as gradebook:
                gradebook.remove_assignment("mini")
                gradebook.update_or_create_assignment("mini")
                gradebook.update_or_create_notebook("mini", "mini")
            return course, "the gradebook has no cell 'grade-double' for 'mini'"
        case "notebook":
            with opened(folder) as gradebook:
                gradebook.remove_assignment("mini")
                gradebook.update_or_create_assignment("mini")
                gradebook.update_or_create_student("anna")
                gradebook.update_or_create_submission("mini", "anna")
            return course, "the gradebook's assignment 'mini' has submissions, but not our notebook"
        case "source":
            with opened(folder) as gradebook:
                gradebook.remove_assignment("mini")
            notebook = write_source(course, folder)
            notebook.write_text(notebook.read_text().replace("grade-Counter", "grade-Meter"))
            return course, "source/mini/mini.ipynb has no cell 'grade-Counter' for 'mini'"
        case "broken source":
            write_source(course, folder).write_text("no notebook")
            return course, "mini.ipynb can't be used: Notebook does not appear to be JSON"
        case "database":
            (folder / "gradebook.db").write_bytes(b"no database" * 1000)
            return course, "can't be used (file is not a database)"
        case "time":
            stamp = folder / "submitted" / "anna" / "mini" / "timestamp.txt"
            stamp.parent.mkdir(parents=True)
            stamp.write_text("yesterday or so")
            return course, "timestamp.txt holds no time: write one such as 2026-11-21 09:30:00 UTC, or remove the file"
        case _:
            raise AssertionError(change)


@pytest.mark.parametrize("change", ["points", "cell", "notebook", "source", "broken source", "database", "time"])
def test_what_does_not_fit_is_2_and_a_sentence(course, folder, tmp_path, change):
    """Status 2, what is wrong and what to do, and everything as before."""
    export(course, folder, {"anna": graded(course, [bad()], [bad()])})
    changed, sentence = wrong(change, course, folder, tmp_path)
    before = (folder / "gradebook.db").read_bytes(), sorted(folder.rglob("*"))
    students = {"anna": score_module(changed.modules[0], {"double": [GOOD], "Counter": [GOOD]})}
    done = export(changed, folder, students, code=2)
    assert sentence in done.stderr
    assert "Traceback" not in done.output
    assert ((folder / "gradebook.db").read_bytes(), sorted(folder.rglob("*"))) == before


def test_results_of_another_course_are_2(course, folder):
    """A module or a task that course.toml lacks."""
    module = graded(course, [GOOD], [GOOD])
    done = export(course, folder, {"anna": msgspec.structs.replace(module, name="maxi")}, code=2)
    assert "the results hold the module 'maxi', which" in done.stderr
    task = msgspec.structs.replace(module.tasks[0], name="triple")
    done = export(course, folder, {"anna": msgspec.structs.replace(module, tasks=[task])}, code=2)
    assert "the results hold the task 'triple', which" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["gradebook.db"]


def test_folders_that_are_not_there_are_2(course, folder, monkeypatch):
    """No folder named, none there; --course alone may be nbgrader's, as its users say."""
    results = folder.parent / "results.json"
    export(course, folder, {"anna": graded(course, [GOOD], [GOOD])})
    monkeypatch.chdir(course.root)
    for options, sentence in (
        ([], "name nbgrader's course folder with --course-dir"),
        (["--course", str(course.root)], "name nbgrader's course folder with --course-dir"),
        (["--course", str(folder / "nowhere")], "nowhere is not a folder: make it first"),
    ):
        done = CliRunner().invoke(command, ["export", "gradebook", str(results), *options])
        assert (done.exit_code, sentence in done.stderr) == (2, True), done.output
    done = CliRunner().invoke(command, ["export", "gradebook", str(results), "--course", str(folder)])
    assert (done.exit_code, "of them new or changed: 0\n" in done.stdout) == (0, True), done.output


def test_late_submissions_cost_what_nbgraders_configuration_says(course, folder):
    """timestamp.txt and the assignment's due date, with nbgrader's own penalty; in time, the penalty goes again."""
    (folder / "nbgrader_config.py").write_text("c = get_config()\nc.LateSubmissionPlugin.penalty_method = 'zero'\n")
    students = {"anna": graded(course, [GOOD], [GOOD]), "ben": graded(course, [GOOD], [GOOD])}
    stamp = folder / "submitted" / "anna" / "mini" / "timestamp.txt"
    stamp.parent.mkdir(parents=True)
    stamp.write_text("2026-11-21 09:30:00 UTC")
    export(course, folder, students)
    with opened(folder) as gradebook:
        assert gradebook.find_submission("mini", "anna").timestamp == datetime(2026, 11, 21, 9, 30)
        gradebook.update_or_create_assignment("mini", duedate="2026-11-21 09:00:00")
    export(course, folder, students)
    assert penalties(folder) == {"anna": 5.0, "ben": 0.0}
    before = everything(folder)
    export(course, folder, students)
    assert everything(folder) == before
    stamp.write_text("2026-11-21 08:30:00 UTC")
    export(course, folder, students)
    assert penalties(folder) == {"anna": 0.0, "ben": 0.0}


def penalties(folder: Path) -> dict[str, float]:
    """By student."""
    with opened(folder) as gradebook:
        return {s.student.id: s.late_submission_penalty for s in gradebook.assignment_submissions("mini")}


def nbgrader(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run nbgrader's command in its course's folder."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_feedback_shows_hostile_text_as_it_is(course, folder):
    """Comments are taken for Markdown with HTML in it: what a student's program said must not become any."""
    export(course, folder, {"anna": graded(course, [bad(HOSTILE)], [GOOD])})
    nbgrader(folder, "generate_feedback", "mini")
    page = (folder / "feedback" / "anna" / "mini" / "mini.html").read_text()
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; **bold** ![](http://127.0.0.1:9/x.png) $$&lt;b&gt;x&lt;/b&gt;$$") == 2
    assert "alert(1)" not in page.replace("&lt;script&gt;alert(1)", "")
    assert "Score: 0.0 / 2.0" in page


def test_feedback_is_released_for_everybody(course, folder):
    """Files have no time and no secret of their own, without which nbgrader would release nobody's feedback."""
    (folder / "nbgrader_config.py").write_text("c = get_config()\nc.Exchange.root = 'exchange'\nc.CourseDirectory.course_id = 'mini'\n")
    (folder / "exchange").mkdir()
    export(course, folder, dict.fromkeys(("anna", "ben"), graded(course, [GOOD], [GOOD])))
    nbgrader(folder, "generate_feedback", "mini")
    nbgrader(folder, "release_feedback", "mini")
    assert len(list((folder / "exchange" / "mini" / "feedback").glob("*.html"))) == 2


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        '<a title="\n\n<img src=x onerror=alert(1)>\n\n">',
        "\n\n\n<script>alert(1)</script>",
        "[x](javascript:alert(1))\n\n[y]: javascript:alert(1)\n\n[y]",
        "```\n</code></pre><b>x</b>\n```\r<b>x</b>\x0b<b>x</b>\x0c<b>x</b>\u2028<b>x</b>",
        "\t<b>x</b>\n- <b>x</b>\n  1. <b>x</b>\n> <b>x</b>\n|<b>x</b>|\n|-|\n<div>\n\n<b>x</b>",
        "\\[<b>x</b>\\] \\begin{x}<b>x</b>\\end{x}\n\n$$\n<b>x</b>\n\n<b>x</b>\n$$",
    ],
)
def test_verbatim_text_means_nothing_in_markdown(text):
    """What nbgrader makes of it is one block, with every character of the text in its place."""
    import html

    from nbconvert.filters.markdown import markdown2html

    from grader.exports.nbgrader.gradebook import verbatim

    page = markdown2html(verbatim(text))
    block = re.fullmatch(r"<pre><code>([^<]*)</code></pre>\n", page)
    assert block, page
    shown = [line.strip() for line in html.unescape(block[1]).splitlines()]
    assert shown == [line.strip() for line in text.strip().splitlines()]


# ---- CSV


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))


def test_csv_keeps_every_cell_to_itself(course, folder):
    """RFC 4180, no formula, rounded scores less the penalty, 0 for who handed in nothing, no score where none was given."""
    export(course, folder, {"anna": graded(course, [GOOD, GOOD, bad()], [GOOD])})
    with opened(folder) as gradebook:
        gradebook.update_or_create_student("anna", last_name='=HYPERLINK("http://evil")', first_name='Anna, "Ann"\nMarie', email="+1")
        gradebook.update_or_create_student("ben", last_name="Müller", first_name="-1+1", email="@x")
        gradebook.find_submission_notebook("mini", "mini", "anna").late_submission_penalty = 0.5
        gradebook.update_or_create_student("cleo")
        gradebook.update_or_create_submission("mini", "cleo")  # as autograding leaves it where it fails
        gradebook.db.commit()
    nbgrader(folder, "export", "--exporter", "grader.exports.nbgrader.csv_exporter.SafeCsvExporter", "--to", "out.csv")
    text = (folder / "out.csv").read_bytes().decode()
    anna, ben, cleo = sorted(rows_of(text), key=lambda row: row["student_id"])
    assert anna == {
        "assignment": "mini",
        "duedate": "",
        "timestamp": "",
        "student_id": "anna",
        "last_name": '\'=HYPERLINK("http://evil")',
        "first_name": 'Anna, "Ann"\nMarie',
        "email": "'+1",
        "raw_score": "4.33",
        "late_submission_penalty": "0.50",
        "score": "3.83",
        "max_score": "5.00",
        "cells_to_grade": "0",
    }
    assert (cleo["raw_score"], cleo["score"], cleo["max_score"], cleo["cells_to_grade"]) == ("", "", "5.00", "2")
    assert (ben["last_name"], ben["first_name"], ben["email"], ben["score"]) == ("Müller", "'-1+1", "'@x", "0.00")


def test_csv_of_some(course, folder, tmp_path):
    """--assignment and --student choose, as in nbgrader's own exporter; a folder that is not there is a sentence."""
    from grader.exports.nbgrader.csv_exporter import SafeCsvExporter

    export(course, folder, dict.fromkeys(("anna", "ben", "1234"), graded(course, [GOOD], [GOOD])))
    with opened(folder) as gradebook:
        gradebook.update_or_create_assignment("other")
        SafeCsvExporter(to=str(tmp_path / "some.csv"), assignment=["mini"], student=["ben", 1234]).export(gradebook)
        rows = rows_of((tmp_path / "some.csv").read_bytes().decode())
        assert {(row["assignment"], row["student_id"]) for row in rows} == {("mini", "ben"), ("mini", "1234")}
        with pytest.raises(SystemExit, match="nowhere is not a folder"):
            SafeCsvExporter(to=str(tmp_path / "nowhere" / "some.csv")).export(gradebook)


# ---- the form grader


@pytest.fixture
def form_grader(folder) -> Iterator[str]:
    """The address of a Jupyter server in the course's folder, with its form grader."""
    options = ["--allow-root", "--no-browser", "--ServerApp.port=0", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=sesame"]
    arguments = [sys.executable, "-m", "jupyter_server", *options, f"--ServerApp.root_dir={folder}"]
    with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = []
            for line in server.stderr:
                said.append(line)
                if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                pytest.fail("no server: " + "".join(said))
            threading.Thread(target=server.stderr.read, daemon=True).start()  # or the pipe would fill up
            yield address[0]
        finally:
            server.terminate()


@pytest.fixture
def browser() -> Iterator[object]:
    """Headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


def hand_in_scripts(folder: Path, student: str) -> None:
    """A notebook as it was released, with scripts wherever a student can write text, also where it passes for ours."""
    import nbformat

    submitted = folder / "submitted" / student / "mini"
    shutil.copytree(folder / "release" / "mini", submitted)
    notebook = nbformat.read(submitted / "mini.ipynb", as_version=4)
    script = "<img src=x onerror='window.scriptsRan = 1'><script>window.scriptsRan = 2</script>"
    about = notebook.cells[0]
    about.source += script  # locked: put back
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell(script, metadata=about.metadata))  # a copy: loses its mark
    notebook.cells.append(nbformat.v4.new_markdown_cell(script))
    shown = nbformat.v4.new_output("display_data", data={"text/html": script, "image/png": f"'>{script}", "text/plain": script})
    notebook.cells.append(nbformat.v4.new_code_cell("", outputs=[shown]))
    notebook.cells.append(nbformat.v4.new_raw_cell(script, metadata={"raw_mimetype": "text/html"}))
    nbformat.write(notebook, submitted / "mini.ipynb")


def test_the_form_grader_shows_scores_and_explanations(course, folder, tmp_path, request):
    """From files to the browser: the same scores as `grader grade`, with explanations; a notebook beside them, whose scripts don't run."""
    browser = request.getfixturevalue("browser")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    for name, text in {"anna": RIGHT, "ben": RIGHT.replace("x + x", "x * 3"), "cleo": COUNTER}.items():
        (tmp_path / "hand-in" / name).mkdir(parents=True)
        (tmp_path / "hand-in" / name / "mini.py").write_text(text)
    out = tmp_path / "results"
    assert grader("grade", tmp_path / "hand-in", "--out", out, "--seed", 1, cwd=course.root).returncode == 0
    assert grader("export", "nbgrader", folder, cwd=course.root).returncode == 0
    nbgrader(folder, "generate_assignment", "mini")
    hand_in_scripts(folder, "dora")
    nbgrader(folder, "autograde", "mini", "--no-execute")  # so that outputs stay
    assert grader("export", "gradebook", out / "results.json", "--course", folder, cwd=course.root).returncode == 0
    plain = {s["id"]: s for s in json.loads((out / "results.json").read_text())["submissions"]}
    wanted = {id: f"{submission['score']:g} / {submission['max_score']:g}" for id, submission in plain.items()}
    assert wanted == {"anna": "5 / 5", "ben": "3 / 5", "cleo": "3 / 5"}
    mismatch = plain["ben"]["modules"][0]["tasks"][0]["tests"][0]["message"]

    address = request.getfixturevalue("form_grader")
    wait = WebDriverWait(browser, 60)

    def rows(columns: tuple[str, ...]) -> list[tuple[str, ...]]:
        found = [row for row in browser.find_elements(By.CSS_SELECTOR, "tbody tr") if row.find_elements(By.CSS_SELECTOR, columns[0])]
        return [tuple(row.find_element(By.CSS_SELECTOR, column).text for column in columns) for row in found]

    browser.get(f"{address}/tree?token=sesame")
    browser.get(f"{address}/formgrader/manage_submissions/mini")
    listed = wait.until(lambda _: rows((".student-id", ".score", ".status")))
    assert {id: score for id, score, _ in listed} == {**wanted, "dora": "0 / 5"}
    assert {status for _, _, status in listed} == {"graded"}

    def open_submission(student: str, scores: list[str]) -> str:
        browser.get(f"{address}/formgrader/manage_students/{student}/mini")
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "tbody a"))[-1].click()
        wait.until(lambda _: [box.get_attribute("placeholder") for box in browser.find_elements(By.CSS_SELECTOR, "input.score")] == scores)
        return browser.find_element(By.TAG_NAME, "body").text

    page = open_submission("dora", ["0", "0"])
    assert "What is twice a number?" in browser.page_source  # ours may hold HTML
    assert (page.count("< img src=x"), page.count("<img src=x")) == (3, 1)  # disarmed, and as an output's text
    assert [browser.execute_script("return window.scriptsRan"), browser.find_elements(By.CSS_SELECTOR, "img[src=x]")] == [None, []]

    page = open_submission("ben", ["0", "3"])
    assert " ".join(mismatch.split()) in " ".join(page.split())
    comments = [box.get_attribute("placeholder") for box in browser.find_elements(By.CSS_SELECTOR, "textarea.comment")]
    assert comments[0].strip().startswith("double: 0.00 of 2 points, failed")
