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
    cell = f"import math\n\n_TWO = 2\n\n\ndef _half(x):\n    return x / _TWO\n\n\n{DOUBLE}"
    once = put(cell, put(cell))
    assert put(cell, once) == once
    assert once.count("import math") == once.count("_TWO = 2") == once.count("def _half") == once.count("def double") == 1
    changed = put(cell.replace("x / _TWO", "x * 0.5 * _TWO"), once)
    assert changed.count("def _half") == 1
    assert "x * 0.5" in changed
    assert "x / _TWO" not in changed


def test_lines_for_the_notebook_stay_there():
    """Calls and magics are left out, as are imports that the module has; comments stay."""
    source = put(f"%timeit 1\nimport torch\nimport math\n# Twice.\n{DOUBLE}\nprint(double(3)); double(4)\n%time double(5)\n")
    assert f"import math\n# Twice.\n{DOUBLE}\n\n\nclass" in source
    assert source.count("import torch\n") == 1
    assert not any(word in source for word in ("print", "double(4)", "time"))


TRIALS = """
out = double(torch.tensor([0.0, 5.0]))
assert out[1] == 10
for n in range(3):
    print(double(n))
with torch.no_grad():
    other = double(out)
if out.sum() > 3:
    label = "large"
count = 0
count += 1
try:
    double(None)
except TypeError as error:
    print(error)
while count < 3:
    count += 1
"""


def test_trials_stay_in_the_notebook():
    """They would run with every import of the module, and one that raises would take all tasks with it."""
    answer = "_TABLE = [1]\n_TABLE += [2]\n\n\ndef double(x):\n    out = label = _TABLE[1] * x  # names of its own\n    return out"
    source = put(f"{answer}\n{TRIALS}")
    assert source == put(answer)
    assert put(f"{answer}\n{TRIALS}", source) == source
    assert answer in source


def test_what_the_answer_uses_goes_along():
    """Whatever binds a name that a definition uses, also as a default."""
    answer = (
        "try:\n    from math import nothing_like_it\nexcept ImportError:\n    nothing_like_it = 2\n\na, b = 1, 2\nc: int = a\n\n\n"
        "def _help(x=c):\n    return x\n\n\ndef double(x):\n    return nothing_like_it * x"
    )
    source = put(answer)
    assert answer in source
    assert put(answer, source) == source


def test_comments_come_once():
    """Those above, between and below what the cell defines."""
    cell = f"# Above.\n\n# Here.\n{DOUBLE}\n\n\n# Between.\ndef _half(x):\n    return x\n\n\n# print(double(3))"
    once = put(cell)
    assert all(word in once for word in ("# Above.", "# Here.", "# Between.", "# print(double(3))"))
    assert put(cell, once) == once
    assert put(cell, f"{once}# mine\n").count("# mine") == 1


def test_what_a_cell_no_longer_holds_is_dropped():
    """Unless something else uses it. Another cell's statements and the student's own stay."""
    first = merge(
        STUB, f"import math\nimport torch\n\n\ndef _a(x):\n    return _b(x)\n\n\ndef _b(x):\n    return x\n\n\n{DOUBLE}", "double", [], ""
    )
    again = merge(first.source, f"import math\n{DOUBLE}", "double", [], "", first.written)
    assert not any(word in again.source for word in ("_a", "_b"))
    last = merge(again.source, DOUBLE, "double", [], "", again.written)
    assert last.source == put(DOUBLE)
    used = f"{first.source}\n\nmine = _a(math.pi)\n"
    assert all(word in merge(used, DOUBLE, "double", [], "", first.written).source for word in ("import math", "def _a", "def _b"))


def test_a_helper_of_another_answer_is_not_replaced():
    """Else the other task would change unseen. The cell that brought it may change it, and a helper that nobody else uses."""
    helper = "def check(x):\n    return x"
    counter = f"class Counter:\n    def add(self, n):\n        return check(n)\n\n\n{helper}"
    module = merge(STUB, counter, "Counter", ["double"], "").source
    cell = "def check(x):\n    return 2 * x\n\n\ndef double(x):\n    return check(x)"
    with pytest.raises(CannotUseCell, match="check is also used by Counter: give this one another name"):
        put(cell, module)
    assert "return 2 * x" in put(cell, module.replace("check(n)", "n"))
    assert put(f"{helper}\n\n\ndef double(x):\n    return check(x)", module).count("def check") == 1
    changed = counter.replace("return x", "return +x")
    written = merge(STUB, counter, "Counter", ["double"], "").written
    assert "return +x" in merge(module, changed, "Counter", ["double"], "", written).source


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_other_ends_of_lines(end):
    """Python sees an end of a line in a carriage return, too."""
    assert put(DOUBLE.replace("\n", end), STUB.replace("\n", end)) == put(DOUBLE)


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
    cell = "def double(x):\n    y = helper(x)\n    return math.floor(y) + torch.add(x, len(y))\n\n\nprint(double(tried))"
    available = {"helper", "math", "torch", "x", "y", "len", "other", "tried"}
    assert borrowed(cell, "double", put(cell), available) == ["helper", "math"]
