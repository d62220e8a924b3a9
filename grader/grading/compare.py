"""Compare a student's values with the reference's strictly, and say in words for the student how they differ.

Runs in the trusted process on decoded values only, so no code of the student's can take part. The most useful difference is reported
first: type, structure, shape, dtype, device, NaN and inf, values. Never broadcasts; never shows whole tensors.
"""

from collections.abc import Callable
from typing import Any

import torch

from grader.protocol.values import Ending, Opaque

__all__ = ["describe", "difference", "outside", "unlike"]

_MOST_DIGITS = 60
"""Of a whole number that is shown."""


def difference(got: Any, expected: Any, *, rtol: float, atol: float, at: str = "") -> str | None:
    """Say in one sentence how `got` differs from `expected`; None where it does not.

    Args:
        got: the student's value: a tree of plain values and tensors.
        expected: the reference's.
        rtol: relative tolerance, of the expected value's size. Integers, booleans and strings are compared exactly.
        atol: absolute tolerance.
        at: where in the tree we are, for the message.

    Raises: TypeError where the expected value is one that does not travel.
    """
    return _walk(got, expected, at, lambda ours, due: _value_difference(ours, due, rtol, atol))


def unlike(got: Any, expected: Any) -> str | None:
    """Say in one sentence how `got` differs from `expected` in type, structure, shape, dtype or device; None where it does not.

    Raises: TypeError where the expected value is one that does not travel.
    """
    return _walk(got, expected, "", _form_difference)


def outside(got: Any, lowest: int, highest: int, at: str = "") -> str | None:
    """Say in one sentence which whole number in `got` is not within these bounds; None where all are."""
    match got:
        case dict():
            pairs = [(value, f"{at}[{key!r}]") for key, value in got.items()]
        case list() | tuple():
            pairs = [(value, f"{at}[{i}]") for i, value in enumerate(got)]
        case torch.Tensor() if got.numel() and not (got.is_floating_point() or got.is_complex() or got.dtype is torch.bool):
            pairs = []
            numbers = got.to(torch.int64)  # torch has no smallest of unsigned ones; too large a one comes out negative
            least, most = numbers.min().item(), numbers.max().item()
            if least < lowest or most > highest:
                return f"values: {least if least < lowest else most} is not within {lowest} to {highest}" + (f" in {at}" if at else "")
        case int() if not isinstance(got, bool) and not lowest <= got <= highest:
            return f"value: {describe(got)} is not within {lowest} to {highest}" + (f" in {at}" if at else "")
        case _:
            pairs = []
    return next(filter(None, (outside(value, lowest, highest, place) for value, place in pairs)), None)


def _walk(got: Any, expected: Any, at: str, compare: Callable[[Any, Any], str | None]) -> str | None:
    """The first difference in type or structure, or of the leaves by `compare`."""
    where = f" in {at}" if at else ""
    if isinstance(expected, Opaque):
        raise TypeError(f"the reference returns {expected.description}, which can't be compared: let the probe return plain values")
    if isinstance(expected, torch.Tensor) and isinstance(got, torch.Tensor):
        message = compare(got, expected)
        return message and message + where
    whole = type(got) is int and type(expected) is float and abs(got) < 2**53  # an int is welcome where a float is due
    if _kind(got) != _kind(expected) and not whole:
        return f"type: expected {describe(expected)}, got {describe(got)}{where}"
    match expected:
        case dict():
            if got.keys() != expected.keys():
                return f"structure: expected the keys {_keys(expected)}, got {_keys(got)}{where}"
            pairs = [(got[key], value, f"{at}[{key!r}]") for key, value in expected.items()]
        case list() | tuple():
            if len(got) != len(expected):
                return f"structure: expected {len(expected)} items, got {len(got)}{where}"
            pairs = [(ours, value, f"{at}[{i}]") for i, (ours, value) in enumerate(zip(got, expected, strict=True))]
        case _:
            message = compare(got, expected)
            return message and message + where
    return next(filter(None, (_walk(ours, due, place, compare) for ours, due, place in pairs)), None)


def _value_difference(got: Any, expected: Any, rtol: float, atol: float) -> str | None:
    match expected:
        case torch.Tensor():
            return _tensor_difference(got, expected, rtol, atol)
        case float():
            close = got == expected or _tensor_difference(_double(got), _double(expected), rtol, atol) is None
            return None if close else f"value: {_both(expected, got)}" + _hint(_double(got), _double(expected))
        case Ending():
            return None if got == expected else f"value: expected a call that {expected}, got one that {str(got)[:60]}"
        case _:
            return None if got == expected else f"value: {_both_described(expected, got)}"


def _form_difference(got: Any, expected: Any) -> str | None:
    """Tensors only: the kinds of other leaves are equal already."""
    if not isinstance(expected, torch.Tensor):
        return None
    if got.shape != expected.shape:
        return f"shape: expected {tuple(expected.shape)}, got {tuple(got.shape)}"
    if got.dtype != expected.dtype:
        return f"dtype: expected {expected.dtype}, got {got.dtype}"
    if got.device != expected.device:
        return f"device: expected {expected.device}, got {got.device}"
    return None


def describe(value: Any) -> str:
    """Name a value briefly: "a tensor of shape (2, 3)", "None", "the string 'mean'"."""
    match value:
        case torch.Tensor():
            return f"a tensor of shape {tuple(value.shape)}"
        case str():
            return f"the string {value[:60]!r}"
        case list() | tuple() | dict():
            simple = isinstance(value, tuple) and len(value) <= 6 and all(type(item) is int for item in value)
            return f"the tuple {value}" if simple else f"a {type(value).__name__} of {len(value)} items"
        case float():
            return f"the float {value:.6g}"
        case int() if not isinstance(value, bool):
            return f"the int {value}" if abs(value) < 10**_MOST_DIGITS else "a huge int"
        case Opaque(description):
            return description
        case Ending():
            return f"a call that {value}"[:80]
        case _:
            return str(value)


def _both(expected: float | complex, got: float | complex) -> str:
    """Both numbers, with as many digits as it takes to see that they differ."""
    for digits in range(5, 18):
        due, ours = f"{expected:.{digits}g}", f"{got:.{digits}g}"
        if due != ours:
            break
    return f"expected {due}, got {ours}"


def _both_described(expected: Any, got: Any) -> str:
    due, ours = describe(expected), describe(got)
    if due == ours and isinstance(got, int):
        ours += ", which is larger" if got > expected else ", which is smaller"
    return f"expected {due}, got {ours}"


def _hint(got: torch.Tensor, expected: torch.Tensor) -> str:
    """A sentence for float64 results that are off by what float32 loses; empty for others.

    The error is taken relative to the largest entry: a sum of large numbers that comes to a small one loses as much.
    """
    finite = torch.isfinite(got) & torch.isfinite(expected)
    if not finite.any():
        return ""
    largest = expected[finite].abs().max().item()
    error = (got - expected)[finite].abs().max().item()
    like_float32 = largest and 1e-9 < error / largest < 1e-5
    return ". Errors of this size often come of computing in float32: look whether something inside is not float64" if like_float32 else ""


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, torch.Tensor) else type(value).__name__


def _keys(mapping: dict[str | int, Any]) -> str:
    names = [repr(key)[:30] for key in list(mapping)[:8]]
    return "{" + ", ".join(names) + (", …" if len(mapping) > 8 else "") + "}"


def _double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _tensor_difference(got: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float) -> str | None:
    if message := _form_difference(got, expected):
        return message
    if expected.device.type == "meta":
        return None
    if not (expected.is_floating_point() or expected.is_complex()):
        wrong = got != expected
        error = 0.0 if expected.dtype is torch.bool or not wrong.any() else (got.double() - expected.double()).abs().max().item()
        return _count(wrong, got, expected, f" (largest error {error:.6g})" if error else "")  # float64 may not tell huge ones apart
    wide = torch.complex128 if expected.is_complex() else torch.float64
    a, b = got.to(wide), expected.to(wide)
    if torch.equal(a, b):  # as most right answers are
        return None
    for name, test in (("NaN", torch.isnan), ("inf", torch.isinf)):
        wrong = test(a) != test(b)
        if wrong.any():
            return f"{name}: " + str(_count(wrong, got, expected, "", values=False))
    same = (a == b) | (torch.isnan(a) & torch.isnan(b))  # equal infinities differ by NaN, so they are settled here
    error_at = (a - b).abs()
    wrong = ~same & ~((error_at <= atol + rtol * b.abs()) & torch.isfinite(error_at))  # inf is within rtol of -inf otherwise
    largest = error_at[wrong & torch.isfinite(error_at)]
    message = _count(wrong, got, expected, f" (largest error {largest.max().item():.3g})" if largest.numel() else "")
    return message + _hint(a, b) if message and expected.dtype in (torch.float64, torch.complex128) else message


def _count(wrong: torch.Tensor, got: torch.Tensor, expected: torch.Tensor, error: str, values: bool = True) -> str | None:
    if not wrong.any():
        return None
    first = tuple(torch.nonzero(wrong)[0].tolist())
    share = f"{int(wrong.sum())} of {wrong.numel()} are wrong{error}" if wrong.dim() else f"wrong{error}"
    place = f"; the first at {list(first)}" if first else ""
    return f"{'values: ' if values else ''}{share}{place}: {_both_entries(expected[first], got[first])}"


def _both_entries(expected: torch.Tensor, got: torch.Tensor) -> str:
    due, ours = expected.item(), got.item()
    return _both(due, ours) if isinstance(due, float | complex) else f"expected {due}, got {ours}"
