"""Statements at the width of the terminal."""

import ast
import io
import re
from pathlib import Path

from rich.console import Console

from grader.course.manifest import Course
from grader.course.stubs import TO_MEND
from grader.practice.reset import stub_text
from grader.practice.statement import Statement, place_of

STUB = '''\
@torch.no_grad()
def scale(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each vector to unit root mean square,
    in one step.

        y = x / sqrt(mean(x²) + eps)
        z =   y · weight

    1. Square what is given, and take the mean of the squares of each vector.
       Then its root.
    2. Divide.

    Args:
        x: (..., d), any floating dtype, which may be of
            any strides.
        weight: (d,).

    Returns: (..., d), dtype of x, on the device
        of x.
    Raises: ValueError if weight is not (d,).
    """
    # TODO: about 3 lines.
    raise NotImplementedError("scale")
'''


def test_fills_paragraphs_and_lets_entries_hang():
    """Paragraphs are filled anew; formulas keep their lines; items, entries and sections hang."""
    assert Statement(STUB).text(52).plain.split("\n") == [
        "@torch.no_grad()",
        "def scale(x: Tensor, weight: Tensor, eps: float =",
        "        1e-6) -> Tensor:",
        "    Scale each vector to unit root mean square, in",
        "    one step.",
        "",
        "        y = x / sqrt(mean(x²) + eps)",
        "        z =   y · weight",
        "",
        "    1. Square what is given, and take the mean of",
        "       the squares of each vector. Then its root.",
        "    2. Divide.",
        "",
        "    Args:",
        "        x: (..., d), any floating dtype, which may",
        "            be of any strides.",
        "        weight: (d,).",
        "",
        "    Returns: (..., d), dtype of x, on the device of",
        "        x.",
        "    Raises: ValueError if weight is not (d,).",
        "    # TODO: about 3 lines.",
    ]


def test_a_class_shows_its_methods():
    """Each method has its signature and docstring; what raises in a stub is not shown."""
    text = Statement(
        'class A:\n    """Sums."""\n\n    start = 1\n\n    def add(self, n):\n        """Add n."""\n        raise NotImplementedError\n'
    )
    assert text.text(80).plain.split("\n") == [
        "class A:",
        "    Sums.",
        "",
        "    start = 1",
        "",
        "    def add(self, n):",
        "        Add n.",
    ]


def test_no_statement_of_the_course_is_wider_than_the_terminal_or_loses_a_word():
    """All words of every stub but its quotes and its code (what raises, or is to be mended) are there, in order, in lines that fit."""
    course = Course.read(Path(__file__).resolve().parents[3])
    for module in course.modules:
        source = stub_text(course, module)
        for node in ast.parse(source).body:
            if getattr(node, "name", None) in {task.name for task in module.tasks}:
                stub = ast.get_source_segment(source, node)
                before, todo, _ = stub.partition(TO_MEND)
                words = re.sub(r'"""|raise NotImplementedError\(.*\)', " ", before + todo).split()
                for width in (60, 140):
                    text = Statement(stub).text(width).plain
                    assert max(map(len, text.split("\n"))) <= width, node.name
                    assert text.split() == words, node.name


def test_prints_at_the_width_of_the_console():
    """The width comes from rich, so that a resize or another terminal needs nothing more."""
    console = Console(width=40, record=True, force_terminal=False, file=io.StringIO())
    console.print(Statement(STUB))
    assert max(map(len, console.export_text().split("\n"))) <= 40


def test_the_place_of_a_task_is_its_line(course, tmp_path):
    """Also in a file with a syntax error; the first line where the task or the file is missing."""
    module = course.modules[0]
    here = Course(tmp_path, course.title, course.limits, course.modules, tmp_path)
    assert place_of(here, module, "double") == "exercises/mini.py:1"
    (tmp_path / "exercises").mkdir()
    path = tmp_path / "exercises" / "mini.py"
    path.write_text("x = (\n\n# def double\ndef doubled():\n    pass\n\ndef double(x):\n    return x\n\nclass Counter:\n")
    assert place_of(here, module, "double") == "exercises/mini.py:7"
    assert place_of(here, module, "Counter") == "exercises/mini.py:10"
