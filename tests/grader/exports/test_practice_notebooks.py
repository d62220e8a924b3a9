"""The notebook in which a student practises a module."""

import json

from grader.course.manifest import Course
from grader.course.stubs import make_stub, solution_lines
from grader.exports.practice_notebooks import practice_notebook
from grader.submissions.notebooks import notebook_source
from tests.grader.conftest import SOLUTION, mini_course


def cells_of(course: Course) -> list[dict]:
    """The notebook's cells, their sources joined."""
    book = json.loads(practice_notebook(course, course.modules[0]))
    return [{**cell, "source": "".join(cell["source"])} for cell in book["cells"]]


def test_a_cell_for_each_task(course):
    """In the manifest's order: a heading with points and minutes, and the stub below its magic."""
    cells = cells_of(course)
    assert [cell["id"] for cell in cells] == ["about", "setup", "imports", "about-double", "task-double", "about-Counter", "task-Counter"]
    sources = {cell["id"]: cell["source"] for cell in cells}
    stub = make_stub(SOLUTION, ["double", "Counter"])
    assert sources["imports"] == "import torch\nfrom torch import Tensor"
    for task in ("double", "Counter"):
        first, _, text = sources[f"task-{task}"].partition("\n")
        assert first == f"%%task {task}"
        assert text in stub
        assert "raise NotImplementedError" in text
    assert sources["about-double"] == "## double\n\n2 points, about 1 minute."
    assert sources["about"].startswith("# Miniature\n\nTwo tasks, a function and a class.\n\nA module in miniature.")


def test_it_holds_no_answer(course):
    """No line of the reference, and no private name."""
    text = practice_notebook(course, course.modules[0]).decode()
    assert not [line for task in ("double", "Counter") for line in solution_lines(SOLUTION, task) if json.dumps(line)[1:-1] in text]
    assert "_TWO" not in text


def test_it_is_a_valid_notebook_with_the_same_bytes_each_time(course):
    """Equal courses give equal files."""
    import nbformat

    data = practice_notebook(course, course.modules[0])
    nbformat.validate(json.loads(data))
    assert data == practice_notebook(course, course.modules[0])


def test_untouched_it_is_graded_as_the_stub(course):
    """The first cell and the magics are no part of what is handed in."""
    source = notebook_source(practice_notebook(course, course.modules[0]), "mini.ipynb")
    assert source.problem == ""
    compile(source.text, "mini.py", "exec")
    assert "load_ext" not in source.text
    assert "REPOSITORY" not in source.text
    assert source.text.count("raise NotImplementedError") == 3


def test_its_first_cell_is_python(course, tmp_path):
    """Its magics are such that IPython can make Python of it. It helps torchvision where the module imports that."""
    from IPython.core.inputtransformer2 import TransformerManager

    assert "torchvision" not in practice_notebook(course, course.modules[0]).decode()
    course = Course.read(mini_course(tmp_path))
    course.solution("mini").write_text(SOLUTION.replace("import torch\n", "import torch\nimport torchvision\n"))
    (setup,) = [cell["source"] for cell in cells_of(course) if cell["id"] == "setup"]
    compile(TransformerManager().transform_cell(setup), "setup", "exec")
    assert setup.endswith("import_torchvision()  # beside a CPU build of torch it needs a hand")
