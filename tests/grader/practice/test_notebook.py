"""Practice in a notebook, in a real kernel."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grader.check.mistakes import make_mistakes
from grader.course.manifest import Course
from grader.exports.practice_notebooks import practice_notebook
from grader.practice.outcome import TaskRun
from grader.practice.session import Session
from grader.submissions.find import read_submission
from tests.grader.conftest import COUNTER, DOUBLE, grader, mini_course

pytest.importorskip("nbclient", reason="nbclient and ipykernel are not installed")

import msgspec
import nbformat
from IPython.core.error import UsageError
from nbclient import NotebookClient

from grader.practice.notebook import PracticeMagics, load

CELLS = {
    "another": "import math\n\n\ndef helper(x):\n    return x * 2",
    "wrong": "%%task double\ndef double(x):\n    print('a trace')\n    return x * x\n\n\ndouble(torch.tensor([4.0]))",
    "borrows": "%%task double\ndef double(x):\n    return helper(x)",
    "hint 1": "%hint",
    "hint 2": "%hint double",
    "hint 3": "%hint",
    "no more": "%hint",
    "right": f"%%task double\n{DOUBLE}",
    "progress": "%progress",
    "stub again": "",  # filled in below
    "raises": "%%task double\ndef double(x):\n    return 1 / 0\n\n\ndouble(2)",
    "misspelt": "%%task doubel\nx = 1",
    "a module": "%%task mini\nx = 1",
    "no name": "%%task\nx = 1",
    "another definition": "%%task double\ndef twice(x):\n    return 2 * x",
    "second task": f"%%task Counter\n{COUNTER}",
    "done": "%progress",
    "edited": "path = '../exercises/mini.py'\ntext = open(path).read().replace('x + x', 'x * 2')\nprint(open(path, 'w').write(text) > 0)",
    "over an edit": f"%%task double\n{DOUBLE}",
}


OTHER = """
[[modules]]
name = "other"
title = "Another module"
story = "A file beside that of the notebook."

[[modules.tasks]]
name = "more"
points = 1
minutes = 1
hints = ["a", "b", "c"]
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course whose notebook was worked through."""
    root = mini_course(tmp_path_factory.mktemp("notebook"))
    with (root / "course.toml").open("a") as manifest:
        manifest.write(OTHER)
    (root / "exercises" / "other.py").write_text("def more():\n    raise NotImplementedError\n")
    course = Course.read(root)
    mistakes, _ = make_mistakes(course, course.modules[:1], jobs=1, on_progress=lambda *_: None)
    course.mistakes.write_bytes(msgspec.json.encode(mistakes))
    book = nbformat.reads(practice_notebook(course, course.modules[0]).decode(), as_version=4)
    stub = next(cell.source for cell in book.cells if cell.id == "task-double")
    for name, source in CELLS.items():
        book.cells.append(nbformat.v4.new_code_cell(source or stub, id=name.replace(" ", "-")))
    (root / "notebooks").mkdir()
    run(book, root / "notebooks")
    (root / "notebooks" / "mini.ipynb").write_text(nbformat.writes(book))
    return root


def run(book: Any, folder: Path) -> None:
    """Execute a notebook in a kernel."""
    NotebookClient(book, timeout=120, allow_errors=True, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()


@pytest.fixture(scope="module")
def shown(root: Path) -> dict[str, str]:
    """What each code cell showed, without colours."""
    book = json.loads((root / "notebooks" / "mini.ipynb").read_text())
    return {cell["id"]: texts(cell["outputs"]) for cell in book["cells"] if cell["cell_type"] == "code"}


def texts(outputs: list[Any]) -> str:
    """The text of a cell's outputs."""
    parts = ["".join(output.get("text") or output.get("data", {}).get("text/plain") or output.get("evalue", "")) for output in outputs]
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(parts))


def test_the_first_cells_are_silent(shown):
    """On a computer that has everything they show nothing."""
    assert [shown[name] for name in ("setup", "imports")] == ["", ""]


def test_a_stub_is_not_written_yet(shown):
    """The cell as it was handed out."""
    assert shown["task-double"].strip() == "double: not written yet"
    assert shown["task-Counter"].strip() == "Counter: not written yet"


def test_a_wrong_answer_shows_its_value_the_test_and_the_mistake(shown):
    """The cell runs as usual first; then come the test that failed, and which known mistake it is."""
    text = shown["wrong"]
    assert text.index("tensor([16.])") < text.index("double: 0 of 1 public tests passed")
    assert "assert double(torch.tensor([3.0])).item() == 6" in text
    assert "It looks like this: Squares." in text
    assert "Your code printed:\n  a trace" in text


def test_a_helper_of_another_cell(shown):
    """The test fails as the grading would, and the sentence says what to do."""
    assert "NameError: name 'helper' is not defined" in shown["borrows"]
    assert "helper is defined in another cell, which is no part of the answer: put it into this one." in shown["borrows"]


def test_one_more_hint_each_time(shown):
    """The task at hand is meant where none is named."""
    assert [shown[f"hint-{number}"].strip() for number in (1, 2, 3)] == [
        "Hint 1 of 3 for double: What is twice a number?",
        "Hint 2 of 3 for double: A product has two factors.",
        "Hint 3 of 3 for double: One factor is the argument.",
    ]
    assert shown["no-more"].strip().endswith("There are no more hints.")


def test_a_right_answer_and_progress(shown):
    """The mark is seen at once."""
    assert shown["right"].strip() == "double: all public tests passed (1 of 1)\n✓ 3 + 3 is 6."
    assert re.search(r"mini .* 1 of 2 .* 2 of 5 .* 2 ", shown["progress"])
    assert "Next: Counter in mini" in shown["progress"]
    assert "2 of 2" in shown["done"]
    assert "Next: more in other" in shown["done"]


def test_running_the_stubs_cell_again_keeps_the_answer(shown):
    """As "Run all" does."""
    assert "This cell still holds the stub. exercises/mini.py holds an answer, which was kept and tested." in shown["stub-again"]
    assert "all public tests passed" in shown["stub-again"]


def test_a_cell_that_raises_is_not_tested(shown, root):
    """Its error is shown as usual, and the file stays as it was."""
    assert "division by zero" in shown["raises"]
    assert "public tests" not in shown["raises"]


SENTENCES = {
    "misspelt": "There is no task or module 'doubel'. Do you mean double?",
    "a-module": "mini is a module: name one task.",
    "no-name": "Name the task, such as %%task double.",
    "another-definition": "This cell does not define double, so its tests did not run. It defines twice.",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_bad_input_gets_a_sentence(shown, name):
    """One line, and no traceback."""
    assert shown[name].strip() == f"UsageError: {SENTENCES[name]}"


def test_an_edited_file_is_kept_before_it_is_replaced(shown, root):
    """An answer that this notebook did not write is copied, and the sentence says where."""
    (copy,) = (root / ".grader" / "backups").glob("mini.*.py")
    assert f"exercises/mini.py held another answer. It is kept as .grader/backups/{copy.name}." in shown["over-an-edit"]
    assert "x * 2" in copy.read_text()


def test_the_file_holds_the_answer(root):
    """What the notebook tested is what everything else sees: the command agrees, and there is no second answer."""
    source = (root / "exercises" / "mini.py").read_text()
    assert DOUBLE.strip() in source
    assert COUNTER.strip() in source
    assert "helper" not in source
    assert grader("run", "mini", cwd=root).stdout.strip().endswith("2 of 2 tasks pass their public tests.")
    assert grader("list", cwd=root).stdout.count("✓") == 2


def test_the_notebook_itself_can_be_handed_in(root):
    """As the file mini.ipynb: %%task cells are code, the first cell is not the student's."""
    source = read_submission(root / "notebooks" / "mini.ipynb", Course.read(root)).sources["mini"]
    assert source.problem == ""
    assert "REPOSITORY" not in source.text
    for cell in (CELLS["second task"], CELLS["right"]):
        assert cell.partition("\n")[2].strip() in source.text


def test_outside_of_a_course(tmp_path):
    """Loading says what to do."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%load_ext grader.practice")])
    run(book, tmp_path)
    text = texts(book.cells[0].outputs)
    assert text.strip().startswith("UsageError: This notebook is not in a course's folder: open it from there")


def test_a_notebook_in_exercises_would_be_a_second_answer(tmp_path):
    """The magic writes nothing, and says where the notebook belongs."""
    root = mini_course(tmp_path / "course")
    before = (root / "exercises" / "mini.py").read_text()
    (root / "exercises" / "mini.ipynb").write_text("{}")
    cells = ["%load_ext grader.practice", f"%%task double\n{DOUBLE}"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    run(book, root / "exercises")
    assert "would be a second answer: move the notebook to notebooks/" in texts(book.cells[1].outputs)
    assert (root / "exercises" / "mini.py").read_text() == before


def test_the_practice_process_ends_with_the_kernel(root):
    """No process of a notebook is left."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listing.splitlines() if "grader.practice.process" in line and str(root) in line]


class Shell:
    """Stands for a notebook's shell: every cell succeeds, and nothing is run."""

    def __init__(self):
        self.configurables, self.user_ns = [], {}

    def run_cell(self, _):
        """Succeed."""
        return SimpleNamespace(success=True)


@pytest.fixture
def magics(tmp_path, monkeypatch):
    """The magics in the course in miniature, whose tests all pass at once; and the student's file."""
    with Session(Course.read(mini_course(tmp_path))) as session:
        monkeypatch.setattr(session.process, "run", lambda request, *_: TaskRun(request.module, request.task))
        yield PracticeMagics(Shell(), session), tmp_path / "exercises" / "mini.py"


def test_each_cell_may_replace_what_it_wrote(magics, capsys):
    """A helper that was renamed goes, and is kept nowhere; another cell's helper of the same name is no cell's to change."""
    magic, path = magics
    magic.task("double", "def _a(x):\n    return x + x\n\n\ndef double(x):\n    return _a(x)\n\n\nout = double(1)\n")
    magic.task("double", "def _b(x):\n    return x + x\n\n\ndef double(x):\n    return _b(x)\n")
    assert not re.search("_a|out = ", path.read_text())
    with pytest.raises(UsageError, match="_b is also used by double: give this one another name"):
        magic.task("Counter", f"def _b():\n    return 1\n\n\n{COUNTER}")
    magic.task("Counter", f"def _b(x):\n    return x + x\n\n\n{COUNTER}")
    magic.task("Counter", COUNTER)
    assert "def _b" in path.read_text()
    assert not (path.parents[1] / ".grader" / "backups").exists()


@pytest.mark.parametrize("form", ["utf-8", "utf-8-sig"])
def test_the_files_form_stays(magics, form, capsys):
    """A byte order mark, which some editors of Windows write, and its ends of lines."""
    magic, path = magics
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(form))
    magic.task("double", DOUBLE)
    assert path.read_bytes().decode(form).count("\r\n") == path.read_text(form).count("\n")
    assert DOUBLE.strip() in path.read_text(form)


def test_a_damaged_manifest(tmp_path, monkeypatch):
    """The notebook is in a course's folder: what is wrong with it is said."""
    root = mini_course(tmp_path)
    (root / "course.toml").write_text("title =")
    monkeypatch.chdir(root)
    with pytest.raises(UsageError, match=r"course\.toml is not valid TOML"):
        load(Shell())
