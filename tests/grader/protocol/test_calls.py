"""How a call is described: names, shapes and dtypes, never entries."""

import sys

import pytest
import torch
from torch import nn

from grader.protocol.calls import described, traced

SOURCE = """
import sys
import torch


def scale(x, factor=2, *rest, keep=False, **more):
    seen.append(sys._getframe())
    return inner(x)


def inner(x):
    return x


class Layer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return scale(x)


def fails(x):
    raise ValueError("no")


def numbers():
    yield from range(3)


def _own(x):
    return x


class _Hidden:
    def step(self, x):
        return x
"""


@pytest.fixture
def module():
    """A student's module, as a worker would have it."""
    names: dict = {"seen": []}
    exec(compile(SOURCE, "student.py", "exec"), names)
    return names


@pytest.mark.parametrize(
    ("arguments", "keywords", "text"),
    [
        ((torch.zeros(2, 3),), {}, "scale(x=float32 (2, 3), factor=2, keep=False, rest=(), more={})"),
        (
            (torch.zeros(3, 2, dtype=torch.int64).T, 0.5),
            {"keep": None},
            "scale(x=int64 (2, 3) non-contiguous, factor=0.5, keep=None, rest=(), more={})",
        ),
        (
            (torch.zeros(2, device="meta"), "a" * 100),
            {},
            f"scale(x=float32 (2,) on meta, factor='{'a' * 38}…, keep=False, rest=(), more={{}})",
        ),
        (([torch.zeros(1), 7],), {"a": {"b": 1}}, "scale(x=[float32 (1,), 7], factor=2, keep=False, rest=(), more={'a': {'b': 1}})"),
        ((list(range(9)),), {}, "scale(x=[0, 1, 2, 3, … 9 in all], factor=2, keep=False, rest=(), more={})"),
        ((nn.Linear(2, 3), nn.Linear), {}, "scale(x=a Linear, factor=Linear, keep=False, rest=(), more={})"),
    ],
)
def test_a_call_in_words(module, arguments, keywords, text):
    """Tensors by dtype and shape, plain values as they are, long ones cut, objects by their kind."""
    module["scale"](*arguments, **keywords)
    assert described(module["seen"][-1]) == text


def test_calls_from_outside_are_listed_once(module):
    """A method is named with its class; what the file calls of itself is left out; an exception ends the list."""

    def run():
        for _ in range(3):
            layer = module["Layer"](5)
            layer(torch.zeros(2))
        list(module["numbers"]())
        module["fails"](1)
        module["fails"](2)

    assert traced(run, "student.py") == ["Layer(width=5)", "Layer.forward(x=float32 (2,))", "fails(x=1)"]


def test_a_run_with_many_calls_is_cut_short(module):
    """The first twenty are enough, and the profile function that was set stays."""
    ended = []

    def run():
        for number in range(10**6):
            module["inner"](number)
            ended.append(number)

    before = sys.getprofile()
    assert len(traced(run, "student.py")) == 20
    assert len(ended) < 25
    assert sys.getprofile() is before


def test_helpers_of_the_references_own_are_left_out(module):
    """A student does not know them."""

    def run():
        module["_own"](1)
        module["_Hidden"]().step(2)
        module["inner"](3)

    assert traced(run, "student.py") == ["inner(x=3)"]
