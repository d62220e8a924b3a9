"""What the author of a task imports: markers for the suites, the banks' decorators, and helpers for probes.

Everything here is shipped to the student's worker by value when a probe uses it, so helpers import what they need
inside themselves and never hold an expected value.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from grader.grading.event_files import NotEvents, read_scalars
from grader.protocol.ranks import on_group, on_ranks
from grader.protocol.values import Ending

__all__ = [
    "LAYOUTS",
    "Ending",
    "NotEvents",
    "alternative",
    "measured",
    "misconception",
    "on_group",
    "on_ranks",
    "raised",
    "read_scalars",
    "task",
    "with_ones",
]

T = TypeVar("T")

LAYOUTS = ("transposed", "sliced", "expanded")
"""Layouts other than the usual one, for `@pytest.mark.parametrize("layout", LAYOUTS)` and `draw.normal(…, layout=layout)`."""


def task(name: str, *, weight: float = 1.0) -> pytest.MarkDecorator:
    """Mark a hidden test, or a class of them, as belonging to a task of course.toml.

    Args:
        name: the task, spelled as in course.toml.
        weight: what the test counts within its task, in proportion to the task's other tests.
    """
    if not 0 < weight < float("inf"):
        raise ValueError(f"a test of {name} has weight {weight}: give it one above 0")
    return pytest.mark.task(name, weight=weight)


def measured(what: str) -> pytest.MarkDecorator:
    """Mark a hidden test whose verdict rests on what the student's process says about itself: who changes that process can forge it.

    Args:
        what: what is measured, in a few words: memory, views, object identity, flags, hooks, calls.
    """
    if not what.strip():
        raise ValueError('@measured needs to say what is measured, as in @measured("memory")')
    return pytest.mark.measured(what)


def with_ones(*shape: int) -> list[tuple[int, ...]]:
    """The shape, and those that have a 1 in the place of each size in turn, for `@pytest.mark.parametrize("shape", with_ones(2, 3))`."""
    return [shape] + [(*shape[:axis], 1, *shape[axis + 1 :]) for axis in range(len(shape))]


def misconception(task: str, why: str, *, stub: bool = False) -> Callable[[T], T]:
    """Mark a function or class as a named wrong answer to `task`.

    Args:
        task: the task that it answers.
        why: one sentence for the student who made this mistake.
        stub: whether the stub shows this code, which the student has to mend. At most one of a task's misconceptions.
    """
    return lambda wrong: wrong


def alternative(task: str) -> Callable[[T], T]:
    """Mark a function or class as a correct answer to `task`, in another style than the reference's."""
    return lambda right: right


def raised(expected: type[BaseException], call: Callable[[], Any]) -> Ending:
    """Say how `call` ended, as an `Ending` that a probe can return and `agree` can compare.

    Returns: Ending("ValueError") where `expected` is ValueError and was raised, or a subclass of it; Ending("KeyError") for another error;
    Ending() where the call returned. NotImplementedError passes through, so that a stub stays a stub.
    """
    from grader.protocol.values import Ending

    try:
        call()
    except expected:
        return Ending(expected.__name__)
    except NotImplementedError:
        raise
    except Exception as error:
        return Ending(type(error).__name__)
    return Ending()
