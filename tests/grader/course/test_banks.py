"""Banks and trivial answers: read as text, and put in place of tasks."""

import pytest

from grader.course.banks import answer_only, answer_with, read_bank, trivial_answers
from tests.grader.course.samples import SOLUTION, TASKS

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
