"""A known mistake is named only where it behaves like the answer on every test of its task."""

import pytest
import torch

from grader.base.outcome import Outcome, Status
from grader.grading.diagnosis import Behaviour, Comparison, alike, can_be_named, kept, with_name
from grader.protocol.traces import Answer
from grader.protocol.values import Opaque
from tests.grader.conftest import COUNTER, mini_course, tasks_of

PASSED, ERROR = Outcome(Status.PASSED), Outcome(Status.ERROR, "ValueError: full (line 3, in f)\nChecked: x.")
QUESTION = Comparison(b"probe", 1, 1e-6, 1e-6)


def _failed(message: str = "values: 3 of 5 are wrong.") -> Outcome:
    return Outcome(Status.FAILED, message)


def _answered(value, left=(), comparison=QUESTION) -> Behaviour:
    return Behaviour(_failed(), comparison, Answer(value, tuple(left)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Behaviour(PASSED), Behaviour(PASSED), True),
        (Behaviour(PASSED), Behaviour(_failed()), False),
        (_answered(torch.ones(3)), _answered(torch.ones(3) + 1e-9), True),
        (_answered(torch.ones(3)), _answered(torch.ones(3) + 1e-3), False),
        (_answered(torch.ones(3)), _answered(torch.ones(3), comparison=Comparison(b"probe", 2, 1e-6, 1e-6)), False),
        (_answered(1.0), _answered(1.0, comparison=Comparison(b"the same, pickled again", 1, 1e-6, 1e-6)), True),
        (_answered(1.0), _answered(1.0, comparison=Comparison(b"probe", 1, 1e-6, 1e-6, b"holds what was seen")), False),
        (_answered(1.0), _answered(1.0, left=["x"]), False),
        (_answered(1.0, left=["x"]), _answered(1.0, left=["x"]), True),
        (_answered(1.0), Behaviour(_failed()), False),
        (Behaviour(_failed(), QUESTION, None), _answered(1.0), False),
        (Behaviour(_failed("3 of 5 images")), Behaviour(_failed("4 of 5 images")), True),
        (Behaviour(_failed("3 of 5 images")), Behaviour(_failed("3 of 5 labels")), False),
        (Behaviour(ERROR), Behaviour(Outcome(Status.ERROR, "ValueError: full (line 8, in g)")), True),
        (Behaviour(ERROR), Behaviour(Outcome(Status.ERROR, "ValueError: empty")), False),
        (_answered(Opaque("a Net")), _answered(Opaque("a Net")), False),
        (Behaviour(ERROR), Behaviour(Outcome(Status.ERROR, "KeyError: 'full'")), False),
    ],
)
def test_what_is_alike(one, other, same):
    """Equal outcomes with equal values, traces or complaints; an exception's type alone says too little."""
    assert alike(one, other) is same
    assert alike(other, one) is same


@pytest.mark.parametrize(
    ("statuses", "may"),
    [
        ([Status.FAILED, Status.PASSED], True),
        ([Status.ERROR], True),
        ([Status.PASSED], False),
        ([Status.FAILED, Status.TIMED_OUT], False),
        ([Status.FAILED, Status.GRADER_ERROR], False),
        ([Status.NOT_IMPLEMENTED], False),
    ],
)
def test_when_a_mistake_can_be_named(statuses, may):
    """Only where something is wrong and everything could be tried."""
    assert can_be_named([Behaviour(Outcome(status)) for status in statuses]) is may


def test_a_large_answer_is_not_kept():
    """What a student returns must not fill the memory of the process that grades."""
    assert kept(Answer([torch.zeros(1000)])) is not None
    assert kept(Answer([torch.zeros(1 << 19)])) is None
    assert kept(Answer({"a": "x" * (1 << 19)})) is None


def test_the_sentence_follows_what_is_wrong():
    """And stands before what was called and checked."""
    named = with_name(_failed("wrong.\nCalled: f()\nChecked: f."), "Halves.")
    assert named == _failed("wrong.\nIt looks like this: Halves.\nCalled: f()\nChecked: f.")


BANK = """

@misconception("double", "Takes the size of x for its sign.")
def loses_the_sign(x):
    return abs(x + x)
"""


@pytest.mark.parametrize(
    ("body", "named"), [("abs(x + x)", True), ("abs(x) * 2 + 0.0", True), ("x * 5 if len(x) == 1 else abs(x + x)", False), ("x * 3", False)]
)
def test_one_test_is_not_enough(tmp_path, grade_source, body, named):
    """An answer that has a mistake's value in one test and not in another is not taken for it."""
    root = mini_course(tmp_path)
    bank = root / "tests/misconceptions/mini.py"
    bank.write_text(bank.read_text() + BANK)
    task = tasks_of(grade_source(f"def double(x):\n    return {body}\n\n\n{COUNTER}", root=root))["double"]
    messages = [test.message for test in task.tests if test.status is Status.FAILED]
    assert ["looks like this: Takes the size of x for its sign." in message for message in messages] == [named] + [False] * (
        len(messages) - 1
    )
