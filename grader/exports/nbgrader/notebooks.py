"""Notebooks for nbgrader, one for each module, made from solutions/ and course.toml.

A task has four cells: its heading, a solution cell, a locked cell that runs its public tests, and a locked graded cell with its points.
Grading never executes the graded cell; `grader.exports.nbgrader.preprocessor` writes its output.
"""

import html
import re
from typing import Any

from grader.course.manifest import Course, Module, Task
from grader.course.parts import cut_up
from grader.course.stubs import bodies_to_mend
from grader.exports.notebook_text import about_module, about_task, points_in_words

__all__ = ["SCHEMA_VERSION", "graded_cell", "graded_id", "make_notebook", "solution_id"]

SCHEMA_VERSION = 3
"""The version of nbgrader's metadata."""


def graded_id(task: str) -> str:
    """The name of the cell that holds a task's points, in the notebook and in nbgrader's gradebook."""
    return f"grade-{task}"


def solution_id(task: str) -> str:
    """The name of the cell that a student fills in."""
    return f"solve-{task}"


def make_notebook(course: Course, module: Module) -> Any:
    """The instructor's notebook of a module. nbgrader makes the students' notebook from it, by removing everything between the marks.

    Raises: ImportError without nbformat; ValueError or OSError if the reference can't be used.
    """
    from nbformat import v4

    tasks = [task.name for task in module.tasks]
    parts = cut_up(course.solution(module.name).read_text(), tasks, bodies_to_mend(course, module.name))
    cells = [
        _markdown("about", about_module(module, parts.docstring, _HOW)),
        _code("setup", _SETUP, locked=True),
        v4.new_code_cell(parts.preamble, id="imports"),
    ]
    for task in module.tasks:
        cells += [
            _markdown(f"about-{task.name}", _heading(task)),
            _code(solution_id(task.name), parts.tasks[task.name], solution=True),
            _code(f"tests-{task.name}", _TESTS.format(task=task.name, module=module.name), locked=True),
            graded_cell(task),
        ]
    return v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )


_SETUP = """\
# Run this cell first: it finds the public tests, which are in tests/public/ beside this notebook.
import public_tests"""

_TESTS = """\
# The public tests of {task}, from tests/public/test_{module}.py. Run this cell as often as you like.
public_tests.run("{task}")"""

_GRADED = """\
# {task} is graded when you hand in: {points}, by hidden tests of what its docstring says. They do not run here.
# This cell only reminds you of the public tests: it fails until the cell above has passed.
public_tests.require("{task}")"""


def graded_cell(task: Task) -> Any:
    """The locked cell that holds a task's points."""
    return _code(
        graded_id(task.name),
        _GRADED.format(task=task.name, points=points_in_words(task.points)),
        grade=True,
        locked=True,
        points=task.points,
    )


_HOW = (
    "Fill in the cells that raise `NotImplementedError`, and run the cell below each. Cells of your own are welcome, for helpers and "
    "for trying things out: when you hand in, all your cells count, in their order; magics and shell lines are left out."
)


def _heading(task: Task) -> str:
    return f"{about_task(task)}\n\n<details><summary>A hint</summary>\n\n{_plain(task.hints[0])}\n\n</details>"


def _plain(text: str) -> str:
    """Escape text so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*_{}\[\]#|$~])", r"\\\1", html.escape(text, quote=False))


def _markdown(name: str, text: str) -> Any:
    """A cell for reading. It is locked, because nbgrader restores only locked cells when the notebook comes back."""
    from nbformat import v4

    return v4.new_markdown_cell(text, id=name[:_LONGEST_ID], metadata={"nbgrader": _mark(name, locked=True)})


_LONGEST_ID = 64
"""The longest id of a cell that nbformat allows. nbgrader's own names of cells have no such limit."""


def _code(name: str, text: str, **marks: Any) -> Any:
    from nbformat import v4

    return v4.new_code_cell(text, id=name[:_LONGEST_ID], metadata={"nbgrader": _mark(name, **marks)})


def _mark(name: str, **marks: Any) -> dict[str, Any]:
    """The metadata that makes a cell one of nbgrader's: `grade` with its `points`, `solution` or `locked`."""
    mark = {"grade": False, "grade_id": name, "locked": False, "schema_version": SCHEMA_VERSION, "solution": False, "task": False}
    return mark | marks
