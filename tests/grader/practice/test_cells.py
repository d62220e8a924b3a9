"""Putting a notebook's cell into a module."""

import pytest

from grader.course.stubs import make_stub
from grader.practice.cells import CannotUseCell, borrowed, merge
from tests.grader.conftest import COUNTER, SOLUTION

STUB = make_stub(SOLUTION, ["double", "Counter"])
DOUBLE = "def double(x):\n    return x + x"


def put(cell: str, module: str = STUB) -> str:
    """The module with a cell for `double` in it."""
    return merge(module, cell, "double", ["Counter"], "exercises/mini.py").source


def test_the_answer_takes_the_stubs_place():
    """Everything around the task stays as it was."""
    before, rest = STUB.split("def double")
    assert put(DOUBLE) == f"{before}{DOUBLE}\n\n\nclass Counter{rest.split('class Counter')[1]}"


def test_a_cell_put_in_twice_is_there_once():
    """Helpers, constants and imports replace those of the run before."""
    cell = f"import math\n\n_TWO = 2\n\n\ndef _half(x):\n    return x / 2\n\n\n{DOUBLE}"
    once = put(cell, put(cell))
    assert put(cell, once) == once
    assert once.count("import math") == once.count("_TWO = 2") == once.count("def _half") == once.count("def double") == 1
    changed = put(cell.replace("x / 2", "x * 0.5"), once)
    assert changed.count("def _half") == 1
    assert "x * 0.5" in changed
    assert "x / 2" not in changed


def test_lines_for_the_notebook_stay_there():
    """Calls and magics are left out, as are imports that the module has; comments stay."""
    source = put(f"%timeit 1\nimport torch\nimport math\n# Twice.\n{DOUBLE}\nprint(double(3)); double(4)\n%time double(5)\n")
    assert f"import math\n# Twice.\n{DOUBLE}\n\n\nclass" in source
    assert source.count("import torch\n") == 1
    assert not any(word in source for word in ("print", "double(4)", "time"))


def test_decorators_belong_to_the_definition():
    """A decorated answer is replaced with its decorator."""
    decorated = f"import functools\n\n\n@functools.cache\n{DOUBLE}"
    source = put(DOUBLE, put(decorated))
    assert "@functools" not in source
    assert source.count("def double") == 1


def test_a_task_that_the_module_lacks_goes_to_its_end():
    """So a deleted stub loses nothing."""
    assert put(DOUBLE, f"import torch\n\n\n{COUNTER}") == f"import torch\n\n\n{COUNTER.rstrip()}\n\n\n{DOUBLE}\n"


REFUSED = {
    "another name": ("def doubel(x):\n    return 2 * x", "This cell does not define double, so its tests did not run. It defines doubel."),
    "nothing": ("1 + 1", "This cell does not define double, so its tests did not run."),
    "a method": (
        "class A:\n    def double(self):\n        pass",
        "This cell does not define double, so its tests did not run. It defines A.",
    ),
    "two tasks": (f"{DOUBLE}\n\n\n{COUNTER}", "This cell also defines Counter, a task of its own: give it a cell of its own."),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_cell_that_is_no_answer(what):
    """The sentence says what is missing."""
    cell, sentence = REFUSED[what]
    with pytest.raises(CannotUseCell) as caught:
        put(cell)
    assert str(caught.value) == sentence


def test_a_module_with_a_syntax_error_is_left_alone():
    """The sentence names the file and the line."""
    with pytest.raises(CannotUseCell, match=r"exercises/mini.py has a syntax error in line 2.*mend that first"):
        put(DOUBLE, "x = 1\ndef (:\n")


def test_what_is_lost_is_said():
    """Another answer is lost; the same one, differently laid out, is not."""
    answered = put(DOUBLE)
    assert merge(answered, "def double(x):\n    return 2 * x", "double", [], "").lost
    assert not merge(answered, "def double(x):  # twice\n    return (x + x)", "double", [], "").lost


def test_names_that_other_cells_define():
    """Of the names in the notebook, only those that the answer uses and the module lacks."""
    cell = "def double(x):\n    y = helper(x)\n    return math.floor(y) + torch.add(x, len(y))"
    available = {"helper", "math", "torch", "x", "y", "len", "other"}
    assert borrowed(cell, put(cell), available) == ["helper", "math"]
