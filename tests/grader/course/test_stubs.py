"""Stubs that are made from references, and what is read from both."""

import ast

from grader.course.stubs import broken_bodies, docstrings, make_stub, solution_lines
from tests.grader.course.samples import SOLUTION, STUB, TASKS


def test_a_stub_keeps_what_a_student_needs():
    """Signatures, decorators, docstrings and public names stay; bodies and private names go."""
    assert make_stub(SOLUTION, TASKS) == STUB


def test_a_stub_of_a_stub_is_itself():
    """Making it again changes nothing but the counts in the TODOs, since a stub's body has one line."""
    assert make_stub(STUB, TASKS) == STUB.replace("about 2 lines, and 2 in helpers of your own.", "about 1 line.")


def test_comments_on_a_body_do_not_get_into_the_stub():
    """Not even where there is no docstring between the signature and the comment."""
    source = "def f(x):\n    # double it\n\n    return 2 * x\n\n\n"
    source += "class C:\n    # keep x\n    def g(self):\n        # x again\n        return 3\n"
    stub = make_stub(source, ["f", "C"])
    ast.parse(stub)
    assert "double it" not in stub
    assert "again" not in stub
    assert "keep" not in stub


def test_docstrings_and_lines():
    """By dotted name, private methods left out; lines of code without comments and docstrings."""
    assert docstrings(SOLUTION, TASKS) == docstrings(STUB, TASKS)
    assert set(docstrings(SOLUTION, TASKS)) == {"first", "bare", "Thing", "Thing.__init__", "Thing.double", "Thing.__len__"}
    assert solution_lines(SOLUTION, "first") == ["z = _helper(x)", "return z + y"]
    assert "return 1" in solution_lines(SOLUTION, "Thing")
    assert solution_lines(SOLUTION, "absent") == []


BANK = """
import math


@misconception("other", "Not shown.")
def not_shown(x):
    return math.pi


@misconception("f", "Forgets to double.", stub=True)
def forgets(x):
    # a comment of the broken code
    y = x

    return y


@misconception("C", "Starts at one.", stub=True)
class StartsAtOne:
    def __init__(self):
        self.n = 1
"""


def test_a_stub_shows_code_to_mend():
    """A misconception that is marked for it gives bodies, with their comments; the rest of the stub is as ever."""
    source = 'def f(x):\n    """Double."""\n    return 2 * x\n\n\nclass C:\n    def __init__(self):\n        self.n = 0\n\n'
    source += "    def up(self):\n        self.n += 1\n"
    stub = make_stub(source, ["f", "C"], broken_bodies(BANK))
    mend = "# TODO: this code has a mistake. Find it and mend it."
    assert f'"""Double."""\n    {mend}\n    # a comment of the broken code\n    y = x\n\n    return y\n' in stub
    assert f"def __init__(self):\n        {mend}\n        self.n = 1\n" in stub
    assert 'raise NotImplementedError("C.up")' in stub
    assert "pi" not in stub and "2 * x" not in stub
    values: dict[str, object] = {}
    exec(stub, values)
    assert values["f"](3) == 3 and values["C"]().n == 1
