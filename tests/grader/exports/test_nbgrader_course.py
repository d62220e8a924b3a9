"""A course for nbgrader: what is written, and what nbgrader's own commands make of it and of students' notebooks."""

import ast
import codecs
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from grader.course.manifest import Course, Module, Task
from grader.course.parts import cut_up
from grader.course.stubs import solution_lines
from grader.runner.results import read_results
from grader.sandbox.supervisor.isolation import machine_layers
from tests.grader.conftest import COUNTER, DOUBLE, HIDDEN, PUBLIC, SOLUTION, grader, mini_course

pytest.importorskip("nbgrader", reason="the extra nbgrader is not installed")

import nbformat
from nbgrader import apps
from nbgrader.api import Gradebook
from nbgrader.nbgraderformat.v3 import MetadataValidatorV3
from nbgrader.utils import capture_log

from grader.exports.nbgrader.ahead import Graders
from grader.exports.nbgrader.course import ExportError, write_course
from grader.exports.nbgrader.notebooks import make_notebook
from grader.exports.nbgrader.public_tests import task_of

pytestmark = pytest.mark.skipif(machine_layers() is None, reason="submissions are graded in confined workers, which this machine lacks")

ROOT = Path(__file__).resolve().parents[3]

SETTINGS = """
from nbgrader.plugins import LateSubmissionPlugin


class OnePoint(LateSubmissionPlugin):
    def late_submission_penalty(self, student_id, score, total_seconds_late):
        return 1.0


c.AssignLatePenalties.plugin_class = OnePoint
c.Exchange.root = {exchange!r}
"""
"""What the instructor of these tests adds to the configuration."""


def nbgrader(command: str, *arguments: str, cwd: Path, succeeds: bool = True) -> str:
    """Run a command of nbgrader's in this process, as importing it takes long; returns what it says."""
    app = _APPS[command]()
    said = io.StringIO()
    here, saved = Path.cwd(), dict(os.environ)
    os.chdir(cwd)
    os.environ.update(settings(cwd))
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy's, of nbgrader's own queries
            app.initialize(list(arguments))
            done = capture_log(app)
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(saved)
    text = said.getvalue() + done.get("log", "") + done.get("error", "")
    assert done["success"] is succeeds, text
    return text


def settings(cwd: Path) -> dict[str, str]:
    """The environment in which nbgrader finds its own programs and none of the user's configuration."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "JUPYTER_CONFIG_DIR": str(cwd.parent / ".jupyter")}


_APPS = {
    "autograde": apps.AutogradeApp,
    "collect": apps.CollectApp,
    "fetch_assignment": apps.FetchAssignmentApp,
    "generate_assignment": apps.GenerateAssignmentApp,
    "generate_feedback": apps.GenerateFeedbackApp,
    "release_assignment": apps.ReleaseAssignmentApp,
    "submit": apps.SubmitApp,
}


def validate(notebook: Path) -> str:
    """What `nbgrader validate` says, which it prints to the standard output of its beginning."""
    command = [sys.executable, "-m", "nbgrader", "validate", notebook.name]
    environment = {**os.environ, **settings(notebook.parent)}
    return subprocess.run(command, cwd=notebook.parent, capture_output=True, text=True, timeout=120, env=environment, check=True).stdout


# ---- students

Notebook = Any
Change = Callable[[Notebook], None]


def cell_of(notebook: Notebook, name: str) -> Any:
    """The cell that nbgrader knows by this name."""
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == name)


def solve(**answers: str) -> Change:
    """Fill in solution cells."""

    def change(notebook: Notebook) -> None:
        for task, text in answers.items():
            cell_of(notebook, f"solve-{task}").source = text

    return change


def cells(*sources: str) -> Change:
    """Put code cells of the student's own in front of the first task."""

    def change(notebook: Notebook) -> None:
        at = notebook.cells.index(cell_of(notebook, "solve-double"))
        notebook.cells[at:at] = [nbformat.v4.new_code_cell(source) for source in sources]

    return change


def first_cells(*sources: str) -> Change:
    """Put code cells of the student's own in front of everything."""

    def change(notebook: Notebook) -> None:
        notebook.cells[:0] = [nbformat.v4.new_code_cell(source) for source in sources]

    return change


def without(name: str) -> Change:
    """Delete a cell."""
    return lambda notebook: notebook.cells.remove(cell_of(notebook, name))


def twice(name: str) -> Change:
    """Copy a cell as Jupyter does, with its metadata; the upper one is then changed to raise."""

    def change(notebook: Notebook) -> None:
        cell = cell_of(notebook, name)
        copy = nbformat.v4.new_code_cell("raise ValueError('the upper one')", metadata=cell.metadata)
        notebook.cells.insert(notebook.cells.index(cell), copy)

    return change


def unmark(notebook: Notebook) -> None:
    """Take the mark of a graded cell away, and its points."""
    cell_of(notebook, "grade-double").metadata["nbgrader"]["grade"] = False


def mark(name: str, **values: object) -> Change:
    """Change the mark of a cell."""
    return lambda notebook: cell_of(notebook, name).metadata["nbgrader"].update(values)


def all_marks(**values: object) -> Change:
    """Change the marks of all cells."""

    def change(notebook: Notebook) -> None:
        for cell in notebook.cells:
            if "nbgrader" in cell.metadata:
                cell.metadata["nbgrader"].update(values)

    return change


def pasted(notebook: Notebook) -> None:
    """Paste marked cells of another notebook, one of them with a mark that holds nothing of use."""
    for name, extra in (
        ("solve-other", {"solution": True, "grade": False, "locked": False}),
        ("grade-other", {"grade": True, "points": 9}),
    ):
        mark = {"grade_id": name, "schema_version": 3, **extra}
        notebook.cells.insert(1, nbformat.v4.new_code_cell("other = 1", metadata={"nbgrader": mark}))


def texts(notebook: Notebook) -> None:
    """Text of the student's own, with what a browser would run, and a changed statement."""
    notebook.cells += [nbformat.v4.new_markdown_cell(ACTIVE), nbformat.v4.new_raw_cell(ACTIVE)]
    cell_of(notebook, "about-double").source = ACTIVE


ACTIVE = """\
<script>alert(1)</script> <img src=x onerror=alert(1)> a<b and a & b &lt; 3

[one](javascript:alert(1)) [two](java&#115;cript:alert(1)) [three](JavaScript\\\\:alert(1)) [four](javascript&colon;alert(1))
"""
HALF = "def double(x):\n    return x + x\n"  # never refuses
FAILS = "def double(x):\n    return 3 * x\n"
RIGHT = solve(double=DOUBLE, Counter=COUNTER)
SECRET = "raise RuntimeError(open('{source}').read())"

STUDENTS: dict[str, tuple[Change, ...]] = {
    "perfect": (RIGHT,),
    "partial": (solve(double=HALF),),
    "wrong": (solve(double=FAILS, Counter=COUNTER),),
    "untouched": (),
    "late": (RIGHT,),
    "noisy": (RIGHT, solve(double="import sys\n" + DOUBLE.replace("    return", "    print('careful', file=sys.stderr)\n    return"))),
    "ungraded": (RIGHT, without("grade-double")),
    "unsolved": (RIGHT, without("solve-double")),
    "copied": (RIGHT, twice("grade-double"), twice("solve-Counter")),
    "magic": (RIGHT, cells("%matplotlib inline\n!echo hello\nfiles = !ls", "%%bash\nrm -rf /", "print?")),
    "helped": (solve(double="def double(x):\n    return twice(x)", Counter=COUNTER), cells(DOUBLE.replace("double", "twice"))),
    "unparsable": (RIGHT, solve(double="def double(x)\n    return 2 * x")),
    "outdented": (RIGHT, solve(double="def double(x):\n    y = 2 * x\nreturn y")),
    "raising": (RIGHT, cells("import a_package_that_nobody_has\nx = 1", "print(x)", "import sys\nsys.exit()")),
    "endless": (RIGHT, cells("import torch\nwhile True:\n    torch.ones(9) + 1", "def Counter(x):\n    pass", "while True:\n    pass")),
    "undefined": (RIGHT, solve(Counter="class Counter(Modul):\n    pass")),
    "scripted": (texts, solve(Counter=COUNTER, double="def double(x):\n    raise ValueError('<script>alert(1)</script>\\x1b[31mred')")),
    "pasted": (RIGHT, pasted),
    "renamed": (RIGHT, mark("solve-double", grade_id="mine")),
    "old": (RIGHT, all_marks(schema_version=2)),
    "remarked": (RIGHT, mark("solve-double", schema_version=1)),
    "printing": (RIGHT, cells("print('x' * 60_000_000)", "import asyncio\nawait asyncio.sleep(0)\ndisplay(1)")),
    "future": (RIGHT, solve(double="from __future__ import annotations\n" + DOUBLE.replace("(x)", "(x: Nothing)"))),
}
EXPECTED = {
    "perfect": (2, 3),
    "partial": (1.5, 0),
    "wrong": (0, 3),
    "untouched": (0, 0),
    "late": (2, 3),
    "noisy": (2, 3),
    "ungraded": (2, 3),
    "unsolved": (0, 3),
    "copied": (2, 3),
    "magic": (2, 3),
    "helped": (2, 3),
    "unparsable": (0, 3),
    "outdented": (0, 3),
    "raising": (2, 3),
    "endless": (2, 3),
    "undefined": (2, 0),
    "scripted": (0, 3),
    "pasted": (2, 3),
    "renamed": (2, 3),
    "old": (2, 3),
    "remarked": (2, 3),
    "printing": (2, 3),
    "future": (2, 3),
}
"""Points of `double` and of `Counter`."""
OTHERS = (
    "unaware",
    "next0",
    "next1",
    "next2",
    "next3",
    "broken",
    "newer",
    "bom",
    "misnamed",
    "plain",
    "unmarked",
    "unlucky",
    "gpuless",
    "mallory",
    "quitter",
)


def hand_in(course: Path, student: str, *changes: Change, assignment: str = "mini", when: str = "2026-01-01 00:00:00 UTC") -> Path:
    """Put a changed copy of the released notebook where `nbgrader collect` puts it."""
    notebook = nbformat.read(course / "release" / assignment / f"{assignment}.ipynb", as_version=4)
    for change in changes:
        change(notebook)
    path = course / "submitted" / student / assignment / f"{assignment}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    (path.parent / "timestamp.txt").write_text(when)
    return path


def scores(course: Path, student: str) -> dict[str, tuple[float | None, float | None, bool]]:
    """What the gradebook holds of a submission's graded cells: automatic and manual score, and whether it asks for a manual one."""
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        (notebook,) = gradebook.find_submission("mini", student).notebooks
        return {grade.name: (grade.auto_score, grade.manual_score, grade.needs_manual_grade) for grade in notebook.grades}


def feedback_of(course: Path, student: str) -> str:
    """The page that a student gets."""
    return (course / "feedback" / student / "mini" / "mini.html").read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course in miniature, exported and released."""
    folder = tmp_path_factory.mktemp("nbgrader")
    mini_course(folder / "ours")
    done = grader("export", "nbgrader", "school", "--course", "ours", cwd=folder)
    assert done.returncode == 0, done.stderr
    school = folder / "school"
    (folder / "exchange").mkdir()
    (folder / "exchange").chmod(0o777)
    with (school / "nbgrader_config.py").open("a") as config:
        config.write(SETTINGS.format(exchange=str(folder / "exchange")))
    nbgrader("generate_assignment", "mini", cwd=school)
    return school


@pytest.fixture(scope="module")
def graded(written: Path) -> Path:
    """The same with all students' submissions autograded in one run, one of them no notebook at all."""
    for student, changes in STUDENTS.items():
        hand_in(written, student, *changes)
    hand_in(written, "broken").write_text("no notebook")
    hand_in(written, "newer", RIGHT, mark("solve-double", schema_version=4))
    bom = hand_in(written, "bom", RIGHT)
    bom.write_bytes(codecs.BOM_UTF8 + bom.read_bytes())
    copy = hand_in(written, "misnamed", RIGHT)
    copy.rename(copy.with_name("mini (1).ipynb"))
    (written / "submitted" / "plain" / "mini").mkdir(parents=True)
    (written / "submitted" / "plain" / "mini" / "mini.py").write_text(DOUBLE)
    hand_in(written, "unmarked", RIGHT, unmark)
    with Gradebook(f"sqlite:///{written}/gradebook.db") as gradebook:
        gradebook.update_or_create_assignment("mini", duedate=datetime(2026, 6, 1))
    (written / "submitted" / "late" / "mini" / "timestamp.txt").write_text("2026-06-02 00:00:00 UTC")
    command = [sys.executable, "-m", "nbgrader", "autograde", "mini"]  # in a process of its own, as an instructor runs it
    done = subprocess.run(
        command, cwd=written, capture_output=True, text=True, timeout=200, env={**os.environ, **settings(written)}, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert re.findall(r"processing assignment 'mini' for student '(\w+)'", said) == ["broken", "misnamed", "newer", "unmarked"], said
    assert "put `schema_version` back to 3" in said
    assert "misnamed handed in mini (1).ipynb, which nbgrader does not read: call it mini.ipynb, and run this again." in said
    assert "plain handed in mini.py, which nbgrader does not read: grade it with `grader grade`" in said
    nbgrader("generate_feedback", "mini", cwd=written)
    return written


# ---- what is written


def test_notebooks_are_valid(course):
    """Nbgrader's validator and nbformat's accept a generated notebook, and it is the same every time."""
    notebook = make_notebook(course, course.modules[0])
    MetadataValidatorV3().validate_nb(notebook)
    nbformat.validate(notebook)
    assert nbformat.writes(notebook) == nbformat.writes(make_notebook(course, course.modules[0]))


def test_every_module_of_the_course_makes_a_valid_notebook():
    """The cells of all modules put together are Python, hold every task once, and carry the points."""
    course = Course.read(ROOT)
    for module in course.modules:
        notebook = make_notebook(course, module)
        MetadataValidatorV3().validate_nb(notebook)
        nbformat.validate(notebook)
        marks = [cell.metadata["nbgrader"] for cell in notebook.cells if "nbgrader" in cell.metadata]
        assert {mark["grade_id"]: mark["points"] for mark in marks if mark["grade"]} == {f"grade-{t.name}": t.points for t in module.tasks}
        assert [mark["grade_id"] for mark in marks if mark["solution"]] == [f"solve-{task.name}" for task in module.tasks]
        compile("\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code"), module.name, "exec")


def test_a_release_holds_no_answers(written):
    """Students get statements, public tests and the first hint; no line of a reference, no private helper, no hidden test."""
    text = "\n".join(path.read_text() for path in sorted((written / "release").rglob("*")) if path.is_file())
    notebook = nbformat.read(written / "release" / "mini" / "mini.ipynb", as_version=4)
    assert cell_of(notebook, "solve-double").source.endswith("    # TODO: about 3 lines.\n    raise NotImplementedError()")
    assert "Return twice x." in text and "What is twice a number?" in text and "test_double_of_three" in text
    for secret in ["_TWO", "One factor is the argument.", "A product has two factors.", *secrets_of()]:
        assert secret not in text


def secrets_of() -> list[str]:
    """Lines of the references and of the hidden suite that stand nowhere else."""
    lines = [*solution_lines(SOLUTION, "double"), *solution_lines(SOLUTION, "Counter"), *HIDDEN.splitlines()]
    return [line.strip() for line in lines if len(line.strip()) > 12 and line.strip() not in PUBLIC and not line.startswith("import")]


def test_nothing_is_overwritten(tmp_path):
    """A second export changes nothing; a changed notebook stops it before anything is written; a changed configuration stays."""
    mini_course(tmp_path / "ours")
    export = ("export", "nbgrader", "school", "--course", "ours")
    grader(*export, cwd=tmp_path)
    notebook, config = tmp_path / "school/source/mini/mini.ipynb", tmp_path / "school/nbgrader_config.py"
    config.write_text(config.read_text() + "\n# mine\n")
    again = grader(*export, cwd=tmp_path)
    assert again.returncode == 0 and "wrote 0 files" in again.stdout and "was not changed" in again.stderr
    notebook.write_text("mine")
    (tmp_path / "school/source/mini/public_tests.py").unlink()
    stopped = grader(*export, cwd=tmp_path)
    assert stopped.returncode == 2 and "source/mini/mini.ipynb" in stopped.stderr and "--force" in stopped.stderr
    assert notebook.read_text() == "mine" and not (tmp_path / "school/source/mini/public_tests.py").exists()
    assert grader(*export, "--force", cwd=tmp_path).returncode == 0
    assert notebook.read_text() != "mine" and config.read_text().endswith("# mine\n")


def test_a_foreign_configuration_stays(tmp_path):
    """A configuration that does not name our preprocessors is not overwritten in silence."""
    mini_course(tmp_path / "ours")
    (tmp_path / "school").mkdir()
    (tmp_path / "school/nbgrader_config.py").write_text("c = get_config()\n")
    stopped = grader("export", "nbgrader", "school", "--course", "ours", cwd=tmp_path)
    assert stopped.returncode == 2 and "nbgrader_config.py" in stopped.stderr
    assert list((tmp_path / "school").iterdir()) == [tmp_path / "school/nbgrader_config.py"]


def test_without_nbgrader(course, tmp_path, monkeypatch):
    """The sentence names the extra, and nothing is written."""
    monkeypatch.setattr("grader.exports.nbgrader.course.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install \"pytorch-exercises\[nbgrader\]\""):
        write_course(course, course.modules, tmp_path / "school")
    assert not (tmp_path / "school").exists()


def test_an_unknown_module(tmp_path):
    """The sentence lists the modules there are."""
    mini_course(tmp_path / "ours")
    stopped = grader("export", "nbgrader", "school", "--course", "ours", "--module", "maxi", cwd=tmp_path)
    assert stopped.returncode == 2 and "it has mini" in stopped.stderr


# ---- students' own kernels


def test_the_answers_pass_and_stubs_fail_validation(written, tmp_path):
    """`nbgrader validate` is content with the instructor's notebook, and names the public tests that fail on the student's."""
    for kind in ("source", "release"):
        shutil.copytree(written / kind / "mini", tmp_path / kind)
    assert "Success! Your notebook passes all the tests." in validate(tmp_path / "source/mini.ipynb")
    said = validate(tmp_path / "release/mini.ipynb")
    assert "VALIDATION FAILED ON 2 CELL(S)" in said
    assert "double: 1 of 1 public tests failed: test_double_of_three" in said
    assert sorted(path.name for path in (tmp_path / "release").rglob("*") if "__pycache__" not in str(path) and path.is_file()) == [
        "mini.ipynb",
        "public_tests.py",
        "test_mini.py",
    ]


def test_every_public_test_belongs_to_one_task():
    """By their names, all tests of all modules are found from their tasks' cells, and every task has some."""
    for module in Course.read(ROOT).modules:
        suite = ast.parse(Course.read(ROOT).public_suite(module.name).read_text())
        tests = [node.name for node in suite.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        names = [task.name for task in module.tasks]
        assert {task_of(test, names) for test in tests} == set(names), module.name
        assert all(test.startswith(f"test_{task_of(test, names)}") for test in tests)
    assert task_of("test_quantize_per_channel_of_zeros", ["quantize", "quantize_per_channel"]) == "quantize_per_channel"
    assert task_of("test_quantized", ["quantize"]) == ""


def test_a_notebook_of_the_course_runs_from_top_to_bottom(tmp_path):
    """With the answers filled in, no cell of a module that needs torchvision fails in an ordinary kernel."""
    nbclient = pytest.importorskip("nbclient")
    assert grader("export", "nbgrader", tmp_path, "--module", "cnn", cwd=ROOT).returncode == 0
    notebook = nbformat.read(tmp_path / "source/cnn/cnn.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path / "source/cnn")}}).execute()
    said = "".join(output.text for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert said.count("passed: ") >= len(Course.read(ROOT).module("cnn").tasks) and "failed" not in said


def test_cells_are_run_again_after_a_change(written, tmp_path):
    """In one kernel: the test cell fails on the stub, passes on the answer, and fails again on a worse one."""
    nbclient = pytest.importorskip("nbclient")
    shutil.copytree(written / "release" / "mini", tmp_path / "mini")
    notebook = nbformat.read(tmp_path / "mini/mini.ipynb", as_version=4)
    test, solution = cell_of(notebook, "tests-double"), cell_of(notebook, "solve-double")
    start = notebook.cells[: notebook.cells.index(solution)]
    answers = [nbformat.v4.new_code_cell(source) for source in (DOUBLE, FAILS)]
    runs = [nbformat.v4.new_code_cell(test.source) for _ in range(4)]
    notebook.cells = [*start, runs[0], solution, runs[1], answers[0], runs[2], answers[1], runs[3]]
    nbclient.NotebookClient(notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(tmp_path / "mini")}}).execute()
    said = [json.dumps(cell.outputs) for cell in runs]
    assert "double is not defined in this notebook: run its cell first" in said[0]
    assert "NotImplementedError" in said[1] and "1 of 1 public tests failed" in said[1]
    assert "passed: test_double_of_three" in said[2] and "failed" not in said[2]
    assert "assert 9.0 == 6" in said[3]


# ---- autograding


@pytest.mark.parametrize("student", STUDENTS)
def test_scores(graded, student):
    """Each submission ends with the points that its code earns, all of them automatic."""
    double, counter = EXPECTED[student]
    assert scores(graded, student) == {"grade-double": (double, None, False), "grade-Counter": (counter, None, False)}


def test_scores_are_those_of_grade(graded, tmp_path):
    """`grader grade` on the same notebooks gives the same points for every task, to the last bit."""
    for student in STUDENTS:
        (tmp_path / "all" / student).mkdir(parents=True)
        shutil.copy(graded / "submitted" / student / "mini/mini.ipynb", tmp_path / "all" / student)
    grader("grade", "all", "--course", graded.parent / "ours", "--out", "out", cwd=tmp_path)
    for submission in read_results(tmp_path / "out/results.json").submissions:
        points = {f"grade-{task.name}": (task.score, None, False) for task in submission.modules[0].tasks}
        assert points == scores(graded, submission.id)
    assert len(read_results(tmp_path / "out/results.json").submissions) == len(STUDENTS)


@pytest.mark.parametrize("student", ["broken", "newer", "unmarked"])
def test_a_submission_that_fails(graded, student):
    """No notebook, or one with changed marks, fails as nbgrader's do: no score, no autograded copy, and what was handed in stays."""
    assert not (graded / "autograded" / student / "mini").exists()
    assert (graded / "submitted" / student / "mini/mini.ipynb").stat().st_size
    assert all(automatic is None for automatic, _, _ in scores(graded, student).values())


def test_a_byte_order_mark_costs_nothing(graded):
    """Some editors write one."""
    assert scores(graded, "bom") == {"grade-double": (2, None, False), "grade-Counter": (3, None, False)}


def test_feedback_names_tasks_and_shows_how_each_ended(graded):
    """The list of contents has the tasks' names, and a word and a colour for each; so has the cell of each task."""
    page = feedback_of(graded, "partial")
    assert '<a href="#grade-double">double</a> (Score: 1.5 / 2.0) <strong style="color: #9a6700">in part</strong>' in page
    assert '<a href="#grade-Counter">Counter</a> (Score: 0.0 / 3.0) <strong style="color: #b3261e">failed</strong>' in page
    assert "Test cell</a>" not in page
    assert re.search(r'<span class="ansi-red[^>]*>NOT IMPLEMENTED</span>', page)
    assert re.search(r'<span class="ansi-green[^>]*>PASSED</span>', feedback_of(graded, "perfect"))


def test_late_submissions_lose_their_penalty(graded):
    """The plugin's penalty is taken from a late submission's sum, and from no other's."""
    with Gradebook(f"sqlite:///{graded}/gradebook.db") as gradebook:
        late, perfect = (gradebook.find_submission("mini", student) for student in ("late", "perfect"))
        assert (late.score, late.late_submission_penalty) == (5, 1)
        assert (perfect.score, perfect.late_submission_penalty) == (5, 0)


def test_the_untouched_are_told_that_there_was_no_response(graded):
    """Nbgrader's own comment stands at solution cells that nobody has changed, and nowhere else."""
    with Gradebook(f"sqlite:///{graded}/gradebook.db") as gradebook:
        for student, comment in (("untouched", "No response."), ("perfect", None)):
            (notebook,) = gradebook.find_submission("mini", student).notebooks
            assert {entry.auto_comment for entry in notebook.comments} == {comment}


def test_a_cell_that_was_missing_is_put_back(graded):
    """The points have a place again, which says where it comes from."""
    notebook = nbformat.read(graded / "autograded/ungraded/mini/mini.ipynb", as_version=4)
    assert "This cell was missing" in cell_of(notebook, "grade-double").source
    MetadataValidatorV3().validate_nb(notebook)


def test_the_seed_is_kept(graded):
    """The autograded notebook says with which seed its score can be repeated; a run has one for all."""
    records = [nbformat.read(path, as_version=4).metadata["pytorch_exercises"] for path in graded.glob("autograded/*/mini/mini.ipynb")]
    assert len({record["seed"] for record in records}) == 1
    assert all(record["confined"] for record in records)


# ---- feedback


def test_feedback_names_the_first_mismatch(graded):
    """What differs is said at the graded cell, with the points."""
    page = feedback_of(graded, "wrong")
    assert "double: 0.00 of 2 points, failed; 0 of 3 tests passed." in page
    assert "value: " in page and "expected" in page
    assert "double: 1.50 of 2 points" in feedback_of(graded, "partial")
    assert "Counter: 0.00 of 3 points, not implemented" in feedback_of(graded, "partial")


@pytest.mark.parametrize("student", ["wrong", "partial", "untouched", "unparsable", "undefined", "scripted"])
def test_feedback_holds_no_hidden_test_and_no_reference(graded, student):
    """No line of the suite or of the reference stands in the page, but for what the student wrote."""
    page = feedback_of(graded, student)
    for secret in secrets_of():
        assert secret not in page or secret in COUNTER + DOUBLE, secret


def test_feedback_on_broken_cells(graded):
    """A cell that does not parse, or fails, explains the zero of its own task."""
    assert "SyntaxError" in feedback_of(graded, "unparsable")
    assert "SyntaxError: 'return' outside function (line 3 of its cell)" in feedback_of(graded, "outdented")
    assert "NameError: name 'Modul' is not defined (line 1 of its cell" in feedback_of(graded, "undefined")


def test_a_students_text_is_only_text(graded):
    """Markup and escape sequences in a student's error do nothing in the page."""
    page = feedback_of(graded, "scripted")
    outputs = "".join(re.findall(r'<div class="output_subarea.*?</div>', page, re.DOTALL))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in outputs
    assert "<script>alert(1)" not in page and "<img src=x" not in page and not re.search(r'href="\s*javascript:', page, re.IGNORECASE)
    assert "a< b and a & b" in page.replace("&lt;", "<").replace("&amp;", "&") and "What is twice a number?" in page
    assert "\x1b" not in page
    assert set(re.findall(r'class="ansi-[^"]*">([^<]*)<', outputs)) <= {"ERROR", "PASSED"}  # colours are ours, not the student's


# ---- what instructors do besides


def test_manual_scores_and_comments_stay(graded):
    """Autograding again keeps what an instructor has entered, and asks for another look, as nbgrader does."""
    with Gradebook(f"sqlite:///{graded}/gradebook.db") as gradebook:
        gradebook.find_grade("grade-double", "mini", "mini", "wrong").manual_score = 1.25
        gradebook.find_comment("solve-double", "mini", "mini", "wrong").manual_comment = "Nearly."
        gradebook.db.commit()
    nbgrader("autograde", "mini", "--student", "wrong", "--force", cwd=graded)
    with Gradebook(f"sqlite:///{graded}/gradebook.db") as gradebook:
        grade = gradebook.find_grade("grade-double", "mini", "mini", "wrong")
        assert (grade.auto_score, grade.manual_score, grade.score, grade.needs_manual_grade) == (0, 1.25, 1.25, True)
        assert gradebook.find_comment("solve-double", "mini", "mini", "wrong").comment == "Nearly."
        assert gradebook.find_submission("mini", "wrong").score == 4.25
        gradebook.find_grade("grade-double", "mini", "mini", "wrong").manual_score = None
        gradebook.db.commit()


def test_a_fault_of_the_graders_is_no_zero(written):
    """A suite that fails stops the submission with an error: no score and no autograded copy; the next run grades it."""
    suite = written.parent / "ours/tests/hidden/test_mini.py"
    hand_in(written, "unlucky", RIGHT)
    suite.write_text("import nothing_that_exists\n" + HIDDEN)
    try:
        said = nbgrader("autograde", "mini", "--student", "unlucky", cwd=written, succeeds=False)
    finally:
        suite.write_text(HIDDEN)
    assert "The grader itself failed, and gives no score: " in said and "nothing_that_exists" in said
    assert not (written / "autograded/unlucky/mini").exists()
    assert scores(written, "unlucky")["grade-double"][0] is None
    nbgrader("autograde", "mini", "--student", "unlucky", cwd=written)
    assert scores(written, "unlucky")["grade-double"][0] == 2


def test_students_are_told_what_the_course_says(written):
    """With points alone, the autograded notebook says that a task failed, and not why."""
    manifest = written.parent / "ours/course.toml"
    before = manifest.read_text()
    hand_in(written, "unaware", solve(double=FAILS, Counter=COUNTER))
    manifest.write_text(before.replace("[[modules]]", '[feedback]\ndetail = "points"\n\n[[modules]]', 1))
    try:
        nbgrader("autograde", "mini", "--student", "unaware", cwd=written)
    finally:
        manifest.write_text(before)
    said = (written / "autograded/unaware/mini/mini.ipynb").read_text()
    assert "FAILED" in said
    assert "Checked:" not in said and "expected" not in said


def test_a_task_that_could_not_be_tried_asks_for_a_manual_grade(written):
    """All of its tests are skipped: it gets no automatic score, neither zero nor full, and the instructor is asked."""
    suite = written.parent / "ours/tests/hidden/test_mini.py"
    hand_in(written, "gpuless", RIGHT)
    suite.write_text(
        HIDDEN.replace('@task("double"', '@pytest.mark.gpu\n@task("double"').replace("import torch", "import pytest\nimport torch")
    )
    try:
        nbgrader("autograde", "mini", "--student", "gpuless", cwd=written)
    finally:
        suite.write_text(HIDDEN)
    assert scores(written, "gpuless") == {"grade-double": (None, None, True), "grade-Counter": (3, None, False)}


def test_release_fetch_submit_collect(written, tmp_path):
    """A notebook goes through nbgrader's exchange with everything that its public tests need."""
    nbgrader("release_assignment", "mini", cwd=written)
    student = tmp_path / "student"
    student.mkdir()
    exchange = str(written.parent / "exchange")
    (student / "nbgrader_config.py").write_text(
        f"c = get_config()\nc.Exchange.root = {exchange!r}\nc.CourseDirectory.course_id = 'a_course_in_miniature'\n"
    )
    nbgrader("fetch_assignment", "mini", cwd=student)
    assert (student / "mini/tests/public/test_mini.py").is_file() and (student / "mini/public_tests.py").is_file()
    nbgrader("submit", "mini", cwd=student)
    nbgrader("collect", "mini", cwd=written)
    (collected,) = [path for path in written.glob("submitted/*/mini/mini.ipynb") if path.parts[-3] not in (*STUDENTS, *OTHERS)]
    assert (collected.parent / "timestamp.txt").is_file()


def test_the_next_submission_is_begun_ahead(written, monkeypatch):
    """While nbgrader writes one submission, the next is being graded; one that has been autograded is not graded again."""
    asked: list[tuple[str, str]] = []
    begin, grade = Graders.begin, Graders.grade
    monkeypatch.setattr(Graders, "begin", lambda self, unit: asked.append(("begin", unit.submission)) or begin(self, unit))
    monkeypatch.setattr(Graders, "grade", lambda self, unit: asked.append(("grade", unit.submission)) or grade(self, unit))
    hand_in(written, "next1", RIGHT)
    hand_in(written, "next3", RIGHT)
    nbgrader("autograde", "mini", "--student", "next?", cwd=written)
    assert asked.index(("begin", "next3")) < asked.index(("grade", "next3"))
    asked.clear()
    hand_in(written, "next0", RIGHT)
    hand_in(written, "next2", RIGHT)
    nbgrader("autograde", "mini", "--student", "next?", cwd=written)
    assert {student for _, student in asked} == {"next0", "next2"}
    assert all(scores(written, f"next{i}")["grade-double"][0] == 2 for i in range(4))


# ---- hostile notebooks


def snapshot(course: Path) -> tuple[str, dict[str, Any]]:
    """The bytes of source/ and of our course as one hash, and the scores of all who were graded before."""
    digest = hashlib.blake2b()
    for path in sorted([*course.glob("source/**/*"), *(course.parent / "ours").rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest(), {student: scores(course, student) for student in STUDENTS}


def test_a_hostile_notebook_gains_and_changes_nothing(graded):
    """It writes the gradebook, overrides ==, rewrites later cells, reads the answers, marks its cells as graded; then it exits."""
    database, answers = graded / "gradebook.db", graded / "source/mini/mini.ipynb"
    before = snapshot(graded)
    attacks = (
        f"import sqlite3\ndb = sqlite3.connect({str(database)!r})\ndb.execute('update grade set auto_score = 99')\ndb.commit()",
        "class Equal:\n    def __eq__(self, other): return True\n    def __float__(self): return 2.0\n"
        "import builtins\nbuiltins.float = lambda *_: 2.0",
        "get_ipython().input_transformers_cleanup.append(lambda lines: ['2.0'])",
        f"stolen = open({str(answers)!r}).read()",
        f"import glob\nstolen = ''.join(open(path).read() for path in glob.glob({str(graded.parent)!r} + '/**', recursive=True))",
        f"import shutil\nshutil.rmtree({str(graded)!r}, ignore_errors=True)",
        "2.0",
    )
    double = "def double(x):\n    try:\n        exec(stolen)\n    except NameError:\n        return Equal()"
    mallory = hand_in(graded, "mallory", cells(*attacks), solve(double=double, Counter=COUNTER))
    notebook = nbformat.read(mallory, as_version=4)
    forged = cell_of(notebook, "grade-double")
    forged.metadata["nbgrader"]["points"] = 100
    forged.source = "100.0"
    forged.outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": "100.0"})]
    nbformat.write(notebook, mallory)
    hand_in(graded, "quitter", RIGHT, cells("import os\nos._exit(0)"))
    said = nbgrader("autograde", "mini", "--student", "mallory", cwd=graded)
    said += nbgrader("autograde", "mini", "--student", "quitter", cwd=graded)
    assert scores(graded, "mallory") == {"grade-double": (0, None, False), "grade-Counter": (3, None, False)}, said
    assert scores(graded, "quitter") == {"grade-double": (0, None, False), "grade-Counter": (0, None, False)}, said
    assert snapshot(graded) == before


# ---- the real course


def half(module: Module) -> tuple[Task, ...]:
    """The first tasks: a helper that several tasks use stands in the cell of the first."""
    return module.tasks[: len(module.tasks) // 2]


def answers_of(module: Module, source: str) -> dict[str, str]:
    """The solution cells of a module's text."""
    return dict(cut_up(source, [task.name for task in module.tasks]).tasks)


def test_two_modules_of_the_course(tmp_path):
    """Six students on two modules: the gradebook holds what `grader grade` gives for the same notebooks, to the last bit."""
    course, school, again = Course.read(ROOT), tmp_path / "school", tmp_path / "again"
    modules = [module for module in course.modules if module.name in ("tensor_ops", "devices")]
    assert grader("export", "nbgrader", school, cwd=ROOT).returncode == 0
    with (school / "nbgrader_config.py").open("a") as config:
        config.write("c.GradeInWorkers.seed = 7\n")
    attack = (
        f"import sqlite3\nsqlite3.connect({str(school / 'gradebook.db')!r}).execute('update grade set auto_score = 99')",
        "class Equal:\n    def __eq__(self, other): return True\n    def __float__(self): return 99.0",
    )
    for module in modules:
        nbgrader("generate_assignment", module.name, cwd=school)
        right = answers_of(module, course.solution(module.name).read_text())
        some = {task.name: right[task.name] for task in half(module)}
        example = ROOT / "examples" / "partial" / f"{module.name}.py"
        if module.name == "tensor_ops":
            some = answers_of(module, example.read_text())
        forged = {module.tasks[0].name: f"{module.tasks[0].name} = lambda *_, **__: Equal()"}
        hand_in(school, "perfect", solve(**right), assignment=module.name)
        hand_in(school, "partial", solve(**some), assignment=module.name)
        hand_in(school, "untouched", assignment=module.name)
        hand_in(school, "hostile", solve(**forged), first_cells(*attack), assignment=module.name)
    first = modules[0].name
    right = answers_of(modules[0], course.solution(first).read_text())
    hand_in(school, "late", solve(**right), assignment=first, when="2026-02-01 00:00:00 UTC")
    hand_in(school, "broken", assignment=first).write_text("no notebook")
    with Gradebook(f"sqlite:///{school}/gradebook.db") as gradebook:
        gradebook.update_or_create_assignment(first, duedate="2026-01-15 00:00:00 UTC")
    for module in modules:
        nbgrader("autograde", module.name, cwd=school, succeeds=module.name != first)

    for path in school.glob("submitted/*/*/*.ipynb"):
        (again / path.parts[-3]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, again / path.parts[-3])
    only = [part for module in modules for part in ("--module", module.name)]
    grader("grade", again, *only, "--seed", 7, "--out", tmp_path / "out", cwd=ROOT)
    graded = {submission.id: submission for submission in read_results(tmp_path / "out/results.json").submissions}
    with Gradebook(f"sqlite:///{school}/gradebook.db") as gradebook:
        for student in ("perfect", "partial", "untouched", "hostile", "late"):
            for module in graded[student].modules:
                if student == "late" and module.name != first:
                    continue
                (notebook,) = gradebook.find_submission(module.name, student).notebooks
                points = {grade.name: grade.auto_score for grade in notebook.grades}
                assert points == {f"grade-{task.name}": task.score for task in module.tasks}, (student, module.name)
        assert gradebook.find_submission(first, "late").total_seconds_late > 0
        (broken,) = gradebook.find_submission(first, "broken").notebooks
        assert all(grade.auto_score is None for grade in broken.grades)
    assert graded["perfect"].score == graded["perfect"].max_score == sum(module.points for module in modules)
    assert graded["hostile"].score == graded["untouched"].score == 0
    assert graded["late"].score == modules[0].points
    fractions = [task.score for module in graded["partial"].modules for task in module.tasks if task.score != round(task.score, 2)]
    assert fractions, "partial credit that is no whole hundredth is what may get lost on the way"
