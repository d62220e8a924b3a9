"""The comparison: what counts as equal, in which order differences are found, and how they are said."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from grader.grading.compare import describe, difference
from grader.protocol.values import Ending, Opaque

NAN, INF = math.nan, math.inf


def _differ(got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> str | None:
    return difference(got, expected, rtol=rtol, atol=atol)


# ---- the order and the text of the messages


@pytest.mark.parametrize(
    ("got", "expected", "message"),
    [
        (None, tensor([1.0, 2.0]), "type: expected a tensor of shape (2,), got None"),
        (1.0, tensor(1.0), "type: expected a tensor of shape (), got the float 1"),
        (tensor(1.0), 1.0, "type: expected the float 1, got a tensor of shape ()"),
        ("mean", None, "type: expected None, got the string 'mean'"),
        ([1, 2], (1, 2), "type: expected the tuple (1, 2), got a list of 2 items"),
        (Opaque("an object of class A"), tensor([1.0]), "type: expected a tensor of shape (1,), got an object of class A"),
        ([1], [1, 2], "structure: expected 2 items, got 1"),
        ({"a": 1}, {"a": 1, "b": 2}, "structure: expected the keys {'a', 'b'}, got {'a'}"),
        (torch.zeros(1, 2).int(), torch.zeros(2), "shape: expected (2,), got (1, 2)"),
        (torch.full((2,), NAN, dtype=torch.float64), torch.zeros(2), "dtype: expected torch.float32, got torch.float64"),
        (torch.zeros(2, device="meta"), torch.zeros(2), "device: expected cpu, got meta"),
        (tensor([5.0, NAN]), tensor([1.0, 2.0]), "NaN: 1 of 2 are wrong; the first at [1]: expected 2, got nan"),
        (tensor([5.0, INF]), tensor([1.0, 2.0]), "inf: 1 of 2 are wrong; the first at [1]: expected 2, got inf"),
        (tensor([INF, NAN]), tensor([1.0, 2.0]), "NaN: 1 of 2 are wrong; the first at [1]: expected 2, got nan"),
        (tensor([1.0, 2.5, 9]), tensor([1.0, 2.0, 3]), "values: 2 of 3 are wrong (largest error 6); the first at [1]: expected 2, got 2.5"),
        (tensor(2.5), tensor(2.0), "values: wrong (largest error 0.5): expected 2, got 2.5"),
        (tensor([1, 7]), tensor([1, 2]), "values: 1 of 2 are wrong (largest error 5); the first at [1]: expected 2, got 7"),
        (tensor([True]), tensor([False]), "values: 1 of 1 are wrong; the first at [0]: expected False, got True"),
        (2.5, 2.0, "value: expected 2, got 2.5"),
        (3, 4, "value: expected the int 4, got the int 3"),
        (Ending(), Ending("KeyError"), "value: expected a call that raises KeyError, got one that returns normally"),
        ("returns normally", Ending(), "type: expected a call that returns normally, got the string 'returns normally'"),
        ("sum", "mean", "value: expected the string 'mean', got the string 'sum'"),
        (torch.float64, torch.float32, "value: expected torch.float32, got torch.float64"),
    ],
)
def test_the_first_difference_is_said(got: Any, expected: Any, message: str) -> None:
    """Type comes before structure, shape, dtype, device, NaN, inf and values, each in a sentence of its own."""
    assert _differ(got, expected) == message


def test_the_place_is_said() -> None:
    """A difference deep in a tree says where it is."""
    got = {"w": [tensor([1.0]), (tensor([2.0]), 3)], "b": None}
    expected = {"w": [tensor([1.0]), (tensor([2.0]), 4)], "b": None}
    assert _differ(got, expected) == "value: expected the int 4, got the int 3 in ['w'][1][1]"


def test_the_first_of_several_places_is_said() -> None:
    """Of two differences in a list, the earlier one is reported."""
    assert _differ([1, 9, 9], [1, 2, 3]) == "value: expected the int 2, got the int 9 in [1]"


def test_messages_are_short() -> None:
    """Neither large tensors nor long strings, keys or numbers make a long message."""
    wide = {f"key{i}" * 30: i for i in range(1000)}
    for got, expected in [
        (torch.zeros(1000, 1000), torch.ones(1000, 1000)),
        ("x" * 10**6, "y"),
        (wide, {}),
        (16**500, 1),
        (tuple(range(1000)), ()),
        (list(range(1000)), None),
    ]:
        message = _differ(got, expected)
        assert message is not None
        assert len(message) < 1000


@pytest.mark.parametrize(
    ("got", "expected", "text"),
    [
        (0.603262, 0.60326, "expected 0.60326, got 0.603262"),
        (torch.tensor(0.603261, dtype=torch.float64), torch.tensor(0.60326, dtype=torch.float64), "expected 0.60326, got 0.603261"),
        (1 + 2e-16, 1.0, "expected 1, got 1.0000000000000002"),
        (10**70, 10**70 + 1, "expected a huge int, got a huge int, which is smaller"),
        (2**60 + 1, 2**60, f"expected the int {2**60}, got the int {2**60 + 1}"),
        (torch.tensor([2**60 + 1]), torch.tensor([2**60]), f"expected {2**60}, got {2**60 + 1}"),
    ],
)
def test_numbers_have_the_digits_that_differ(got, expected, text):
    """Two numbers that differ never look the same."""
    message = difference(got, expected, rtol=0, atol=0)
    assert message is not None
    assert text in message


X = torch.linspace(-3, 5, 11, dtype=torch.float64)


@pytest.mark.parametrize(
    ("got", "expected", "hinted"),
    [
        ((X.float() / 3).double(), X / 3, True),
        (float((X.float() / 3).double().sum()), float((X / 3).sum()), True),
        (X / 3 * 1.01, X / 3, False),
        (X / 3 + 1e-13, X / 3, False),
        ((X.float() / 3) * (1 + 1e-6), X.float() / 3, False),
        (X / torch.zeros(()), X, False),
    ],
)
def test_float32_inside_float64_gets_a_hint(got, expected, hinted):
    """Where the error has the size of float32's rounding, and only there."""
    message = difference(got, expected, rtol=0, atol=1e-15)
    assert message is not None
    assert ("something inside is not float64" in message) is hinted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (7, "the int 7"),
        (10**30, "the int 1000000000000000000000000000000"),
        (10**80, "a huge int"),
        (0.1, "the float 0.1"),
        ("a", "the string 'a'"),
        ((2, 3), "the tuple (2, 3)"),
        ((1.0, 2), "a tuple of 2 items"),
        ([1], "a list of 1 items"),
        ({"a": 1}, "a dict of 1 items"),
        (torch.zeros(2, 3), "a tensor of shape (2, 3)"),
        (torch.float32, "torch.float32"),
        (Opaque("a sparse tensor"), "a sparse tensor"),
    ],
)
def test_values_are_described(value: Any, text: str) -> None:
    """Every kind of value has a brief name."""
    assert describe(value) == text


# ---- what counts as equal


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (tensor([1.0, 2.0]), tensor([1.0, 2.0])),
        (tensor([1.0 + 9e-6]), tensor([1.0])),
        (tensor([9e-7]), tensor([0.0])),
        (tensor([NAN, INF, -INF]), tensor([NAN, INF, -INF])),
        (tensor([-0.0]), tensor([0.0])),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (torch.zeros(5, 3).T, torch.zeros(3, 5)),
        (torch.zeros(2, device="meta"), torch.ones(2, device="meta")),
        (tensor([2**60 + 1]), tensor([2**60 + 1])),
        (tensor([True, False]), tensor([True, False])),
        (tensor([complex(1, NAN)]), tensor([complex(1, NAN)])),
        (NAN, NAN),
        (INF, INF),
        (-0.0, 0.0),
        (1, 1.0),
        (1.0 + 1e-9, 1.0),
        ({"a": 1, "b": [None, "x"]}, {"b": [None, "x"], "a": 1}),
        ((), ()),
        (2**100, 2**100),
    ],
)
def test_equal_values_agree(got: Any, expected: Any) -> None:
    """Tolerances hold at their bounds; equal NaN and infinities, empty tensors, strides and the order of keys are no difference."""
    assert _differ(got, expected) is None


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (tensor([1.0 + 2e-5]), tensor([1.0])),
        (tensor([3e-6]), tensor([0.0])),
        (tensor(0.0), torch.zeros(3)),
        (torch.zeros(1), torch.zeros(3)),
        (torch.zeros(1, 3), torch.zeros(3)),
        (torch.zeros(0), torch.zeros(3)),
        (torch.zeros(0, 3), torch.zeros(0, 5)),
        (torch.zeros(0), torch.zeros(0, dtype=torch.int64)),
        (tensor([NAN]), tensor([0.0])),
        (tensor([0.0]), tensor([NAN])),
        (tensor([INF]), tensor([3e38])),
        (tensor([1e38]), tensor([INF])),
        (tensor([1]), tensor([1.0])),
        (tensor([1]), tensor([True])),
        (tensor([1], dtype=torch.int32), tensor([1])),
        (tensor([2**60 + 1]), tensor([2**60])),
        (torch.zeros(2, device="meta"), torch.zeros(3, device="meta")),
        (torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.float64, device="meta")),
        (True, 1),
        (1, True),
        (1.0, 1),
        (True, 1.0),
        (2**53, float(2**53)),
        (2**100 + 1, 2**100),
        (NAN, 0.0),
        (0.0, NAN),
        (INF, 1e308),
        ("1", 1),
        ([], ()),
        ({1: 0}, {"1": 0}),
        (None, False),
        (tensor([complex(1, 1)]), tensor([complex(1, 2)])),
    ],
)
def test_other_values_differ(got: Any, expected: Any) -> None:
    """Nothing broadcasts, no type or dtype is taken for another, integers are exact, and NaN is near to nothing."""
    assert _differ(got, expected) is not None


def test_integers_ignore_tolerances() -> None:
    """An integer, a boolean and a string are equal or not."""
    assert difference(tensor([100]), tensor([101]), rtol=1.0, atol=10.0)
    assert difference(100, 101, rtol=1.0, atol=10.0)
    assert difference(tensor([True]), tensor([False]), rtol=1.0, atol=10.0)


@pytest.mark.parametrize("rtol", [0.0, 1e-5])
@pytest.mark.parametrize("make", [lambda x: tensor([x]), lambda x: tensor(x).double(), lambda x: x], ids=["vector", "number", "float"])
def test_infinities_have_signs(make: Any, rtol: float) -> None:
    """No tolerance turns -inf into +inf."""
    assert _differ(make(INF), make(-INF), rtol=rtol) is not None
    assert _differ(make(-INF), make(INF), rtol=rtol) is not None


def test_complex_infinities_have_signs() -> None:
    """The parts of a complex number count on their own."""
    assert _differ(tensor([complex(INF, 1)]), tensor([complex(-INF, 1)])) is not None


def test_the_tolerance_is_of_the_expected_value() -> None:
    """Relative tolerance is measured on the reference, so that a large answer does not buy itself room."""
    assert difference(tensor([1e6]), tensor([1.0]), rtol=0.9, atol=0.0)
    assert difference(tensor([1.0]), tensor([1.5]), rtol=0.5, atol=0.0) is None


def test_the_error_of_large_integers_is_not_zero() -> None:
    """Beyond 2**53, where float64 no longer tells neighbours apart, a wrong integer is not said to be 0 off."""
    message = _differ(tensor([2**60 + 1]), tensor([2**60]))
    assert message is not None
    assert "largest error 0)" not in message


def test_a_reference_that_does_not_travel_is_the_tests_fault():
    """What stands for an unknown object equals nothing, itself included: the test has to return something else."""
    with pytest.raises(TypeError, match="can't be compared"):
        _differ(Opaque("an object of class A"), Opaque("an object of class A"))


@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"])
def test_every_integer_dtype_compares(name: str) -> None:
    """Every dtype of whole numbers has equal and different values."""
    dtype = getattr(torch, name)
    assert _differ(tensor([1, 2]).to(dtype), tensor([1, 2]).to(dtype)) is None
    assert _differ(tensor([1, 3]).to(dtype), tensor([1, 2]).to(dtype)) is not None


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "complex64"])
def test_every_floating_dtype_compares(name: str) -> None:
    """Every floating dtype is compared in float64, so that small formats do not overflow on the way."""
    dtype = getattr(torch, name)
    assert _differ(tensor([1.0, 2.0]).to(dtype), tensor([1.0, 2.0]).to(dtype)) is None
    assert _differ(tensor([1.0, 3.0]).to(dtype), tensor([1.0, 2.0]).to(dtype)) is not None


def test_differences_that_overflow_are_found() -> None:
    """The distance between the largest and the smallest number is infinite, and still a difference."""
    largest = torch.finfo(torch.float64).max
    assert _differ(tensor([-largest], dtype=torch.float64), tensor([largest], dtype=torch.float64)) is not None


def test_inputs_are_left_alone() -> None:
    """Comparing changes nothing: the reference's answers are kept for the next student."""
    values: list[Tensor] = [tensor([1.0, NAN]), tensor([2.0, INF])]
    copies = [value.clone() for value in values]
    _differ(*values)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(values, copies, strict=True))
