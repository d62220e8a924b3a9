"""Notebooks: which cells are the student's, magics, broken files, and files that are costly to read."""

import json

import pytest

from grader.protocol.cells import cells_of
from grader.submissions.find import read_submission
from grader.submissions.notebooks import notebook_source
from tests.grader.submissions.samples import notebook, problem_of

CELLS = {
    "a magic": ("%matplotlib inline\nx = 1", {"x": 1}),
    "a shell line": ("!pip install torch\nx = 1", {"x": 1}),
    "help": ("?print\nx = 1", {"x": 1}),
    "help behind": ("print?\nx = 1\nprint??", {"x": 1}),
    "in a block": ("if True:\n    %time 1\nx = 1", {"x": 1}),
    "a magic's value": ("files = !ls\nwhere = %pwd\nx = 1", {"x": 1}),
    "a whole cell of another language": ("%%bash\nrm -rf /", {}),
    "a timed cell": ("%%time\nx = 1", {"x": 1}),
    "a captured cell": ("\n%%capture out\nx = 1", {"x": 1}),
    "a task's cell": ("%%task double\n%%time\nx = 1\n%hint double\n%progress", {"x": 1}),
    "a remainder on a line of its own": ("x = (7\n  % 4)", {"x": 3}),
    "a percent in a text": ('x = """\n%d\n!no\n"""', {"x": "\n%d\n!no\n"}),
    "a remainder beside a magic": ("%load_ext autoreload\nx = (7\n     % 4)\ny = '''\n%s'''", {"x": 3, "y": "\n%s"}),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_notebooks_code_runs_without_jupyter(tmp_path, course, what):
    """Magics and shell lines do nothing; everything that is Python stays."""
    cell, expected = CELLS[what]
    path = tmp_path / "mini.ipynb"
    path.write_text(notebook(cell, "done = True"))
    values: dict[str, object] = {}
    exec(read_submission(path, course).sources["mini"].text, values)
    assert values["done"]
    assert {name: values.get(name) for name in expected} == expected


def test_only_code_cells_count(tmp_path, course):
    """Markdown and raw cells are left out."""
    path = tmp_path / "mini.ipynb"
    path.write_text(notebook("# Title\nx =", kind="markdown"))
    assert read_submission(path, course).sources["mini"].text.strip() == ""


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"cells": 3}', b'{"cells": [{"source": 4}]}', b"\xff", b"null", b"[" * 100_000])
def test_a_notebook_that_is_none(tmp_path, course, data):
    """Whatever the bytes, the sentence is the same."""
    path = tmp_path / "mini.ipynb"
    path.write_bytes(data)
    assert problem_of(path, course) == "mini.ipynb can't be read: it is not a Jupyter notebook."


MARKS = {
    "a locked cell": ({"nbgrader": {"locked": True, "grade": False, "solution": False}}, False),
    "a graded cell": ({"nbgrader": {"locked": True, "grade": True, "solution": False}}, False),
    "a solution cell": ({"nbgrader": {"locked": False, "grade": False, "solution": True}}, True),
    "a cell that is both": ({"nbgrader": {"locked": False, "grade": True, "solution": True}}, True),
    "a cell of their own": ({}, True),
    "a practice notebook's first cell": ({"grader": "setup"}, False),
    "a copy": ({"nbgrader": {}}, True),
    "no mark": ({"nbgrader": 3}, True),
    "no metadata": ([], True),
}


@pytest.mark.parametrize("what", MARKS)
def test_cells_that_nbgrader_locks_are_not_the_students(what):
    """What was handed out locked is left out, whatever stands in it; everything else stays."""
    metadata, stays = MARKS[what]
    cell = {"cell_type": "code", "metadata": metadata, "source": "import public_tests"}
    source = notebook_source(json.dumps({"cells": [cell]}).encode(), "mini.ipynb")
    assert source.problem == ""
    assert (source.text.strip() == "import public_tests") is stays


def test_the_lines_at_which_cells_begin():
    """Every cell is found again at its lines, however its lines end; a notebook without code has none."""
    sources = ["a = 1", "", "b = 2\nc = 3\n", "%%bash\nls", "d = 4\r\ne = 5\rf = 6", "g = 7"]
    source = notebook_source(notebook(*sources).encode(), "mini.ipynb")
    assert [text.strip() for _, text in cells_of(source.text, source.cells)] == [
        "a = 1",
        "",
        "b = 2\nc = 3",
        "",
        "d = 4\ne = 5\nf = 6",
        "g = 7",
    ]
    lines = source.text.split("\n")
    assert [lines[first - 1] for first, _ in cells_of(source.text, source.cells)] == ["a = 1", "", "b = 2", "", "d = 4", "g = 7"]
    assert notebook_source(notebook().encode(), "mini.ipynb").cells == (1,)


# ---- what is small to hand in and costly to read


@pytest.mark.parametrize("cell", [" " * 200_000, "a " * 100_000, "a." * 100_000, "\t" * 200_000])
def test_a_long_line_is_read_once(tmp_path, course, cell):
    """A line that could be a magic to its end is no quadratic time."""
    (tmp_path / "mini.ipynb").write_text(notebook(cell))
    assert read_submission(tmp_path / "mini.ipynb", course).sources["mini"].text.strip() == cell.strip()


@pytest.mark.parametrize("cells", [["(" * 300_000], ["x = 1\n" * 20_000] * 3])
def test_code_beyond_the_cap_is_not_read_through(tmp_path, course, cells):
    """One cell or all cells together."""
    (tmp_path / "mini.ipynb").write_text(notebook(*cells))
    assert "its code is larger than 256 KiB" in problem_of(tmp_path / "mini.ipynb", course)
