"""Whole numbers that add up to a given total, by the method of the largest remainders. Python's own library only."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor

__all__ = ["apportion"]


def apportion(exact: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers beside exact ones that add up to `total`: each rounded down, then one more for the largest remainders.

    Raises: ValueError where `total` is not one of the two whole numbers around the exact sum.
    """
    parts = [floor(part) for part in exact]
    missing = total - sum(parts)
    by_remainder = sorted((index for index in range(len(exact)) if exact[index] != parts[index]), key=lambda i: parts[i] - exact[i])
    if not 0 <= missing <= len(by_remainder):
        raise ValueError(f"{total} is not a rounding of {float(sum(exact))}")
    for index in by_remainder[:missing]:
        parts[index] += 1
    return parts
