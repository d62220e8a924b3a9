"""A reference and its stub, which several tests share."""

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
