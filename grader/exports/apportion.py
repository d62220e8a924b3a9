"""Round numbers so that they add up to a given total, by the method of largest remainders. Uses the standard library only."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor

__all__ = ["apportion"]


def apportion(exact: Sequence[Fraction], total: int) -> list[int]:
    """Round exact numbers to whole ones that add up to `total`: round each down, then add one to those with the largest remainders.

    Raises: ValueError if `total` is not the exact sum rounded up or down.
    """
    parts = [floor(part) for part in exact]
    missing = total - sum(parts)
    by_remainder = sorted((index for index in range(len(exact)) if exact[index] != parts[index]), key=lambda i: parts[i] - exact[i])
    if not 0 <= missing <= len(by_remainder):
        raise ValueError(f"{total} is not a rounding of {float(sum(exact))}")
    for index in by_remainder[:missing]:
        parts[index] += 1
    return parts
