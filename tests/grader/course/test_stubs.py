"""Stubs, banks and trivial answers, as texts."""

import ast
import re
from pathlib import Path

import pytest

from grader.course.banks import answer_only, answer_with, read_bank, trivial_answers
from grader.course.manifest import Course
from grader.course.parts import cut_up
from grader.course.stubs import docstrings, make_stub, solution_lines

SOLUTION = '''\
"""A module."""

from __future__ import annotations

import functools
import math

_SECRET = 42
_TYPED: int = 43
LIMIT = 7


def _helper(x):
    return x + _SECRET


def public_helper(x):
    """Stays whole."""
    return x


@functools.cache
def first(
    x: int,
    *,
    y: int = 2,
) -> int:
    """Do the first thing.

    Returns: a number.
    """
    # how

    z = _helper(x)
    return z + y


def bare(x):
    return x


class Thing:
    """A thing."""

    kind: str = "thing"
    _hidden = 3

    def __init__(self, size: int) -> None:
        """Make it."""
        self.size = size

    @property
    def double(self) -> int:
        """Twice the size."""
        return 2 * self.size

    def _private(self) -> int:
        return 1

    def __len__(self) -> int:
        """The size."""
        return self.size
'''

STUB = '''\
"""A module."""

from __future__ import annotations

import functools
import math

LIMIT = 7


def public_helper(x):
    """Stays whole."""
    return x


@functools.cache
def first(
    x: int,
    *,
    y: int = 2,
) -> int:
    """Do the first thing.

    Returns: a number.
    """
    # TODO: about 2 lines, and 2 in helpers of your own.
    raise NotImplementedError("first")


def bare(x):
    # TODO: about 1 line.
    raise NotImplementedError("bare")


class Thing:
    """A thing."""

    kind: str = "thing"

    def __init__(self, size: int) -> None:
        """Make it."""
        # TODO: about 1 line.
        raise NotImplementedError("Thing.__init__")

    @property
    def double(self) -> int:
        """Twice the size."""
        # TODO: about 1 line.
        raise NotImplementedError("Thing.double")

    def __len__(self) -> int:
        """The size."""
        # TODO: about 1 line.
        raise NotImplementedError("Thing.__len__")
'''
TASKS = ["first", "bare", "Thing"]


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


BANK = '''\
"""A bank."""

from __future__ import annotations

import math

from grader.testing import misconception
from solutions.m import first as right

math.floor(1.5)


def helper(x):
    return math.floor(x)


@misconception("first", "Because.")
@staticmethod
def wrong(x):
    return helper(right(x))


@misconception("Thing", "Why " "not.")
class Wrong:
    pass


def misconception_free(x):
    return x
'''


def test_a_bank_is_read_without_being_run():
    """Entries by name, task and reason."""
    bank = read_bank(BANK, "misconception")
    assert [(entry.name, entry.task, entry.why) for entry in bank.entries] == [
        ("wrong", "first", "Because."),
        ("Wrong", "Thing", "Why not."),
    ]
    assert read_bank(BANK, "alternative").entries == ()


def test_an_answer_from_a_bank_takes_the_tasks_place():
    """The module runs; the named entries answer, and the rest is the reference."""
    bank = read_bank(BANK, "misconception")
    values: dict = {"__name__": "m"}
    exec(compile(answer_with(SOLUTION, bank, bank.entries[1:]), "m.py", "exec"), values)
    assert values["Thing"] is values["Wrong"]
    assert values["first"](1) == 45
    exec(compile(answer_with(SOLUTION, bank, bank.entries[:1]), "m.py", "exec"), values)
    assert values["first"] is values["wrong"]
    assert values["right"](1) == 45


def test_an_answer_brings_what_it_needs_of_the_bank():
    """Helpers, other decorators, imports and what binds no name stay; what only the bank needs, and other entries, do not."""
    bank = read_bank(BANK, "misconception")
    text = answer_with(SOLUTION, bank, bank.entries[:1]).removeprefix(SOLUTION)
    assert all(part in text for part in ("import math", "right = first", "def helper", "@staticmethod", "math.floor(1.5)"))
    assert not any(part in text for part in ("grader", "@misconception", "class Wrong", "misconception_free"))


def test_the_others_fail_where_one_task_is_alone():
    """Every other task raises."""
    values: dict = {"__name__": "m"}
    exec(compile(answer_only(SOLUTION, "first", ["bare", "Thing"]), "m.py", "exec"), values)
    assert values["first"](1) == 45
    for other in ("bare", "Thing"):
        with pytest.raises(RuntimeError, match="the tests of first use another task"):
            values[other](1)


def test_trivial_answers_run_and_are_trivial():
    """Every documented error has its answer; functions and classes answer alike."""
    text = SOLUTION.replace("Returns: a number.", "Raises: ValueError if x is odd; `KeyError`, NotImplementedError.")
    answers = trivial_answers(text, TASKS)
    assert set(answers) == {
        "returns None",
        "returns its first argument",
        "returns zeros",
        "always raises ValueError",
        "always raises KeyError",
    }
    for name, source in answers.items():
        values: dict = {"__name__": "m"}
        exec(compile(source, "m.py", "exec"), values)
        calls = (lambda v=values: v["first"](3), lambda v=values: v["Thing"](1).anything(3), lambda v=values: v["Thing"](1)(3))
        for call in calls:
            if name.startswith("always"):
                with pytest.raises((ValueError, KeyError), match="always"):
                    call()
            else:
                assert call() == {"returns None": None, "returns its first argument": 3, "returns zeros": 0}[name]


# ---- parts for a notebook


def cleared(cell: str) -> str:
    """What nbgrader makes of a cell for students, with the words that make_stub uses."""
    return re.sub(r"( *)### BEGIN SOLUTION.*?### END SOLUTION", r"\1raise NotImplementedError()", cell, flags=re.DOTALL)


@pytest.mark.parametrize("module", Course.read(Path(__file__).resolve().parents[3]).modules, ids=lambda module: module.name)
def test_parts_are_the_reference_and_without_their_answers_the_stub(module):
    """Every module's parts hold each line of the reference once, and what nbgrader leaves of a task is what exercises/ has."""
    text = Course.read(Path(__file__).resolve().parents[3]).solution(module.name).read_text()
    names = [task.name for task in module.tasks]
    parts = cut_up(text, names)
    stub = re.sub(r"raise NotImplementedError\(.*\)", "raise NotImplementedError()", make_stub(text, names))
    for name, cell in parts.tasks.items():
        assert f"\n{cleared(cell)}\n" in stub, name
    together = "\n".join([parts.preamble, *parts.tasks.values()])
    code = [line for line in together.splitlines() if line.strip() and line.strip()[0] != "#"]
    body = text.partition('"""')[2].partition('"""')[2]
    assert sorted(code) == sorted(line for line in body.splitlines() if line.strip() and line.strip()[0] != "#")


HELPERS = '''\
"""About it."""

import math

_SHARED = 2
_SQUARES = [i * i for i in range(3)]
LIMIT = 7


def first(x: int) -> int:
    """Double."""
    i = x
    return _also(i)


def _also(x):
    return _SHARED * x


class Second:
    """Remembers."""

    _hidden = 1
    shown = 2

    def __init__(self):
        """Begin."""
        self.n = _SHARED + _SQUARES[0]

    def _step(self):
        return self._hidden

    def go(self) -> int:
        """Go on."""
        return self._step()
'''


def test_private_parts_stand_behind_the_marks():
    """Helpers go with the first task that needs them, a class's own behind one of its methods; the cells together run."""
    parts = cut_up(HELPERS, ["first", "Second"])
    assert parts.docstring == "About it."
    assert parts.preamble == "import math\n\nLIMIT = 7"
    assert "_SQUARES = " in parts.tasks["Second"]
    assert "_SHARED = 2" in parts.tasks["first"] and "def _also" in parts.tasks["first"]
    left = cleared("\n".join(parts.tasks.values()))
    assert not any(name in left for name in ("_SHARED", "_also", "_hidden", "_step"))
    assert left.count("raise NotImplementedError()") == 3 and "shown = 2" in left
    values: dict[str, object] = {}
    exec("\n".join([parts.preamble, *parts.tasks.values()]), values)
    assert values["first"](3) == 6 and values["Second"]().go() == 1 and values["Second"]().n == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("class T:\n    _secret = 1\n", "add one"),
        ("class T:\n    def go(self):\n        return _two\n\n    shown = 2\n\n\n_two = 2\n", "put its methods last"),
    ],
)
def test_what_can_not_be_hidden(text, sentence):
    """The sentence says what to change in the reference."""
    with pytest.raises(ValueError, match=sentence):
        cut_up(text, ["T"])
