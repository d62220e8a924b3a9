"""Values between worker and trusted process: what travels arrives as it was, and what is not well-formed is `Malformed`, nothing else."""

import json
import math
import struct
from collections import OrderedDict
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grader.protocol.messages import HEADER, Loaded, Returned, pack, parse_reply
from grader.protocol.values import Ending, Malformed, Opaque, decode, encode

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
INTEGERS = [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES = [*FLOATS, *INTEGERS, torch.bool, torch.complex64]
FEW = settings(derandomize=True, max_examples=300, deadline=None, database=None)


def _travel(value: Any) -> Any:
    """Take a value the whole way: encode, frame, parse, decode."""
    node, block = encode(value)
    frame = pack(Returned("nonce", node, [], []), block)
    body, size = HEADER.unpack_from(frame)
    reply = parse_reply(frame[HEADER.size : HEADER.size + body])
    assert isinstance(reply, Returned)
    assert len(frame) == HEADER.size + body + size
    return decode(reply.value, frame[HEADER.size + body :])


def _bytes(tensor: Tensor) -> bytes:
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _same(a: Any, b: Any) -> bool:
    """Equal in type, structure and bits."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(_same, a.values(), b.values()))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


@st.composite
def _tensors(draw: st.DrawFn) -> Tensor:
    """Tensors of any dtype and up to three dimensions, of any bits, some of them strided."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    count = math.prod(shape) * dtype.itemsize
    data = draw(st.binary(min_size=count, max_size=count))
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
    tensor = (raw % 2 == 1).reshape(shape) if dtype is torch.bool else raw.view(dtype).reshape(shape)
    match draw(st.sampled_from(["plain", "transposed", "strided", "expanded"])):
        case "transposed":
            return tensor.permute(tuple(reversed(range(tensor.dim()))))
        case "strided" if tensor.dim():
            return tensor[..., ::2]
        case "expanded":
            return tensor.expand(3, *tensor.shape)
    return tensor


_KEYS = st.text(max_size=5) | st.integers(-(2**63), 2**63)
_LEAVES = st.none() | st.booleans() | st.integers() | st.integers(-(2**2000), 2**2000) | st.floats() | st.text() | _tensors()
_LEAVES |= st.sampled_from([torch.float32, torch.bool, torch.device("cpu"), torch.device("cuda:1")])
TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


# ---- what travels


@FEW
@given(TREES)
def test_trees_arrive_as_they_were(value: Any) -> None:
    """Numbers, strings, tensors and what holds them keep type, order and every bit."""
    assert _same(_travel(value), value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 5), (2, 3, 5)], ids=str)
def test_every_dtype_arrives(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every dtype that has a name in safetensors, without dimensions, empty and full."""
    value = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    assert _same(_travel(value), value)


@pytest.mark.parametrize("ending", [Ending(), Ending("ValueError")], ids=str)
def test_endings_arrive(ending: Ending) -> None:
    """How a call ended arrives as that, and is no string; one with another kind of name is only described."""
    assert _travel([ending]) == [ending]
    assert _travel([ending]) != [str(ending)]
    assert _travel(Ending(3)) == Opaque("an object of class Ending")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 5])
def test_a_tensor_without_memory_is_named(size: int) -> None:
    """Whoever frees a tensor's storage and returns it is told so; reading it would crash the worker, or read other memory."""
    tensor = torch.ones(2, 3)
    tensor.untyped_storage().resize_(size)
    assert _travel([tensor, torch.ones(1)])[0] == Opaque("a tensor whose memory was freed")


def test_an_empty_view_into_memory_is_a_tensor_like_any_other() -> None:
    """It may begin behind the end of its memory, since it reads nothing there."""
    view = torch.ones(3, 4)[3:, 2:]
    assert view.storage_offset() > 0
    assert _travel(view).shape == (0, 2)


def _every_dtype() -> list[torch.dtype]:
    return sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)


@pytest.mark.parametrize("dtype", _every_dtype(), ids=str)
def test_other_dtypes_are_named(dtype: torch.dtype) -> None:
    """A tensor of any dtype of torch's arrives, or is named in its place; encoding never fails."""
    try:
        value = torch.empty(2, dtype=dtype)
    except RuntimeError:
        pytest.skip("torch makes no such tensor")
    arrived = _travel(value)
    assert isinstance(arrived, Opaque) or (arrived.dtype, arrived.shape) == (dtype, (2,))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64], ids=str)
def test_nan_infinity_and_signed_zero_arrive(dtype: torch.dtype) -> None:
    """Special values keep their bits."""
    value = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0]).to(dtype)
    assert _same(_travel(value), value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 2**2000, -(2**63) - 1, True])
def test_numbers_arrive_bit_for_bit(number: float) -> None:
    """Floats are not rounded, integers not capped at 64 bits, and True stays a bool."""
    assert _same(_travel(number), number)


def test_views_arrive_without_what_is_around_them() -> None:
    """Of a view, the values travel, and nothing else of its storage."""
    base = torch.arange(1000.0)
    _, block = encode(base[3:5])
    assert len(block) < 200
    assert _same(_travel(base[::100]), base[::100])


def test_lazy_bits_are_resolved() -> None:
    """Conjugates and negatives arrive as values."""
    value = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    assert _same(_travel(value.conj()), value.conj().resolve_conj())
    assert _same(_travel(value.conj().imag), torch.tensor([-2.0, 4.0]))


def test_parameters_and_gradients_are_plain_tensors() -> None:
    """Parameters, leaves and results arrive without a graph."""
    weight = torch.nn.Parameter(torch.ones(3))
    arrived = _travel([weight, weight * 2])
    assert [type(value) for value in arrived] == [Tensor, Tensor]
    assert not any(value.requires_grad for value in arrived)


def test_a_tensor_twice_arrives_twice() -> None:
    """Two places for one tensor arrive as two tensors, which share nothing."""
    value = torch.ones(3)
    a, b = _travel([value, value])
    a.zero_()
    assert b.tolist() == [1.0] * 3


def test_meta_tensors_arrive() -> None:
    """A tensor on `meta` keeps shape, dtype and device."""
    arrived = _travel(torch.empty(2, 0, 3, dtype=torch.int16, device="meta"))
    assert (tuple(arrived.shape), arrived.dtype, arrived.device.type) == ((2, 0, 3), torch.int16, "meta")


def test_shapes_and_numpy_floats_are_plain() -> None:
    """torch.Size arrives as a tuple, numpy.float64 as a float, OrderedDict as a dict."""
    assert _same(_travel(torch.Size([2, 3])), (2, 3))
    assert _same(_travel(numpy.float64(0.1)), 0.1)
    assert _same(_travel(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})


class _Float(float):
    """A float that claims to be equal to everything."""

    __eq__ = lambda self, other: True  # noqa: E731
    __hash__ = float.__hash__


class _Liar(Tensor):
    """A tensor that answers True to everything."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return True


@pytest.mark.parametrize(
    "value",
    [
        object(),
        _Float(1.0),
        torch.zeros(2).as_subclass(_Liar),
        torch.zeros(2, 2).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
        {1.5: 0},
        {(1, 2): 0},
        {True: 0},
        {1, 2},
        b"bytes",
        1j,
        2**3000,
        numpy.zeros(2),
        lambda: None,
        iter([]),
        Opaque("a number"),
        torch.zeros(2, dtype=torch.complex128),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_named(value: Any) -> None:
    """What does not travel arrives as its description, by exact type."""
    assert type(_travel(value)) is Opaque


def test_deep_nesting_is_cut() -> None:
    """A list in a list in a list ends at some depth, and a list that holds itself does too."""
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    itself: list[Any] = []
    itself.append(itself)
    for value in (deep, itself):
        arrived, depth = _travel(value), 0
        while isinstance(arrived, list):
            (arrived,), depth = arrived, depth + 1
        assert isinstance(arrived, Opaque)
        assert depth < 100


@pytest.mark.parametrize("text", ["", "\0", "\n\x1b[2J", "ü\U0001f600", "a" * 10**5])
def test_strings_arrive(text: str) -> None:
    """Strings of any characters arrive as they are; they are made harmless where they are shown."""
    assert _travel({text: text}) == {text: text}


def test_lone_surrogates_do_not_stop_the_worker() -> None:
    """A string that UTF-8 can't hold arrives in some form, since the reply has to be sent."""
    _travel(["\ud800", {"\udfff": 1}])


# ---- what is malformed

GOOD, BLOCK = encode([torch.arange(3.0), {"a": torch.ones(2, 2, dtype=torch.bool)}, 1.5, "text"])


def _parse(structure: Any, block: bytes = b"") -> Any:
    """Decode a reply whose value has this JSON."""
    body = json.dumps({"type": "returned", "nonce": "n", "value": structure, "banned": []}).encode()
    reply = parse_reply(body)
    assert isinstance(reply, Returned)
    return decode(reply.value, block)


def _malformed_or_value(body: bytes, block: bytes) -> None:
    """Pass where the bytes decode or are `Malformed`; any other exception comes through."""
    try:
        reply = parse_reply(body)
        if isinstance(reply, Returned):
            decode(reply.value, block)
    except Malformed:
        pass


@FEW
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_random_bytes_are_malformed(body: bytes, block: bytes) -> None:
    """Bytes without any form are `Malformed`."""
    with pytest.raises(Malformed):
        parse_reply(body)
    if block:
        with pytest.raises(Malformed):
            decode(GOOD, block)


@FEW
@given(st.data())
def test_damaged_frames_are_malformed_or_values(data: st.DataObject) -> None:
    """A good frame with some bytes changed is a value or `Malformed`, never another error."""
    body, block = bytearray(pack(Returned("nonce", GOOD, [], []))[HEADER.size :]), bytearray(BLOCK)
    for part in (body, block):
        for place in data.draw(st.lists(st.integers(0, len(part) - 1), max_size=4)):
            part[place] = data.draw(st.integers(0, 255))
    _malformed_or_value(bytes(body), bytes(block))


@FEW
@given(st.integers(0, len(BLOCK) - 1), st.integers(0, 60))
def test_truncated_frames_are_malformed(length: int, cut: int) -> None:
    """Structure or tensors that end too early are `Malformed`."""
    with pytest.raises(Malformed):
        decode(GOOD, BLOCK[:length])
    body = pack(Loaded({"f": "function"}))[HEADER.size :]
    with pytest.raises(Malformed):
        parse_reply(body[: min(cut, len(body) - 1)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "kind", "text", "index", "items", "keys", "values", "shape", "x"]), inner, max_size=5)
    ),
    max_leaves=10,
)
NODES = st.recursive(
    st.none()
    | st.builds(lambda k, t: {"type": "number", "kind": k, "text": t}, st.sampled_from(["bool", "int", "float"]), st.text(max_size=20))
    | st.builds(lambda k, t: {"type": "text", "kind": k, "text": t}, st.sampled_from(["str", "dtype", "device"]), st.text(max_size=20))
    | st.builds(lambda t: {"type": "text", "kind": "dtype", "text": f"torch.{t}"}, st.sampled_from([n for n in dir(torch) if "_" not in n]))
    | st.builds(lambda i: {"type": "tensor", "index": i}, st.integers(-1, 3))
    | st.builds(
        lambda s, d: {"type": "meta", "shape": s, "dtype": d},
        st.lists(st.integers(-1, 2**70), max_size=4),
        st.sampled_from(["torch.float32", "float32", "torch.quint8", "torch.bits8", "torch.float4_e2m1fn_x2", "torch.nn", ""]),
    )
    | st.builds(lambda t: {"type": "other", "description": t}, st.text(max_size=20)),
    lambda inner: (
        st.builds(lambda k, i: {"type": "sequence", "kind": k, "items": i}, st.sampled_from(["list", "tuple"]), st.lists(inner, max_size=3))
        | st.builds(
            lambda k, v: {"type": "mapping", "keys": k, "values": v},
            st.lists(st.text(max_size=3) | st.integers(), max_size=3),
            st.lists(inner, max_size=3),
        )
    ),
    max_leaves=8,
)


@FEW
@given(JSON | NODES)
def test_any_json_is_a_value_or_malformed(structure: Any) -> None:
    """JSON that looks like a tree, more or less, raises nothing but `Malformed`."""
    body = json.dumps({"type": "returned", "nonce": "n", "value": structure, "banned": []}).encode()
    _malformed_or_value(body, b"")
    _malformed_or_value(body, BLOCK)


NUMBER = {"type": "number", "kind": "int", "text": "0x1"}


@pytest.mark.parametrize(
    "structure",
    [
        {"type": "pickle", "data": "gASV"},
        {"type": "number", "kind": "complex", "text": "1"},
        {"type": "number", "kind": "int", "text": "one"},
        {"type": "number", "kind": "int", "text": "f" * 10_000},
        {"type": "number", "kind": "int", "text": 1},
        {"type": "number", "kind": "float", "text": "0x1p99999"},
        {"type": "number", "kind": "bool", "text": "2"},
        {"type": "number", "kind": "int"},
        {**NUMBER, "extra": 1},
        {"type": "text", "kind": "bytes", "text": "x"},
        {"type": "text", "kind": "dtype", "text": "torch.nn"},
        {"type": "text", "kind": "dtype", "text": "torch._inductor"},
        {"type": "text", "kind": "dtype", "text": "__class__"},
        {"type": "text", "kind": "device", "text": "moon"},
        {"type": "tensor", "index": -1},
        {"type": "tensor", "index": 0},
        {"type": "tensor", "index": "0"},
        {"type": "tensor", "index": 1e3},
        {"type": "meta", "shape": [-1], "dtype": "torch.float32"},
        {"type": "meta", "shape": [2**62, 2**62], "dtype": "torch.float32"},
        {"type": "meta", "shape": [2**80], "dtype": "torch.float32"},
        {"type": "meta", "shape": [2], "dtype": "torch.Tensor"},
        {"type": "sequence", "kind": "set", "items": []},
        {"type": "sequence", "kind": "list", "items": [1]},
        {"type": "mapping", "keys": ["a"], "values": []},
        {"type": "mapping", "keys": ["a", "a"], "values": [None, None]},
        {"type": "mapping", "keys": [1.5], "values": [None]},
        {"type": "mapping", "keys": [True], "values": [None]},
        7,
        "text",
        [],
    ],
    ids=lambda structure: json.dumps(structure)[:60],
)
def test_bad_structures_are_malformed(structure: Any) -> None:
    """Unknown kinds and keys, wrong types, indices that lead nowhere, sizes that can't be, and keys that occur twice."""
    with pytest.raises(Malformed):
        _parse(structure)


@pytest.mark.parametrize("indices", [[0], [1], [0, 2], [0, 1, 2], [0, 0], [0, 1, 1], []], ids=str)
def test_every_tensor_is_used_once(indices: list[int]) -> None:
    """Tensors that the structure does not name, or names twice, or that are not there, are `Malformed`."""
    _, block = encode([torch.zeros(2), torch.ones(2)])
    with pytest.raises(Malformed):
        _parse({"type": "sequence", "kind": "list", "items": [{"type": "tensor", "index": index} for index in indices]}, block)


@pytest.mark.parametrize(
    "header",
    [
        {"0": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}},
        {"0": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
        {"0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"0": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"0": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"0": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}},
        {"0": {"dtype": "F32", "shape": [1]}},
        {"00": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"0": [], "1": None},
        [],
    ],
    ids=lambda header: json.dumps(header)[:60],
)
def test_bad_tensor_headers_are_malformed(header: Any) -> None:
    """Announced sizes, offsets, dtypes and names have to fit the bytes that are there."""
    text = json.dumps(header).encode()
    block = struct.pack("<Q", len(text)) + text + bytes(4)
    with pytest.raises(Malformed):
        _parse({"type": "tensor", "index": 0}, block)


@pytest.mark.parametrize("length", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_announced_headers_need_their_bytes(length: int) -> None:
    """A block that announces a header which is not there is `Malformed`, and nothing is allocated for it."""
    with pytest.raises(Malformed):
        _parse({"type": "tensor", "index": 0}, struct.pack("<Q", length))


@pytest.mark.parametrize("opening", [b'{"type":"sequence","kind":"list","items":[', b"[", b'{"a":'], ids=str)
def test_deep_structures_are_malformed(opening: bytes) -> None:
    """A hundred thousand levels end in `Malformed`, not in a crash."""
    body = b'{"type":"returned","nonce":"n","banned":[],"value":' + opening * 100_000
    with pytest.raises(Malformed):
        parse_reply(body)


def test_deep_trees_that_parse_are_values_or_malformed() -> None:
    """Structures around the limits of recursion raise nothing but `Malformed`."""
    for depth in (40, 100, 300, 500, 900, 990, 1000, 1100, 5000):
        value = b"null"
        for _ in range(depth):
            value = b'{"type":"sequence","kind":"list","items":[' + value + b"]}"
        _malformed_or_value(b'{"type":"returned","nonce":"n","banned":[],"value":' + value + b"}", b"")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"type": "load", "module": "m", "source": "", "tasks": [], "bans": []}',
        b'{"type": "passed"}',
        b'{"type": "returned", "nonce": "n", "value": null}',
        b'{"type": "returned", "nonce": 1, "value": null, "banned": []}',
        b'{"type": "returned", "nonce": "n", "value": null, "banned": [], "status": "passed"}',
        b'{"type": "returned", "nonce": "n", "value": null, "banned": []} {}',
        b'{"type": "loaded", "kinds": {"f": 1}}',
        b"\x80\x04N.",
        b"\xff\xfe",
        b'{"type": "returned", "nonce": "\xff", "value": null, "banned": []}',
    ],
    ids=repr,
)
def test_bad_replies_are_malformed(body: bytes) -> None:
    """Requests, verdicts, pickles, extra keys and missing ones are no replies."""
    with pytest.raises(Malformed):
        parse_reply(body)


# ---- values that no worker of ours sends


def _block(header: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors block with this header."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def _tensor_of(dtype: str, shape: list[int], data: bytes) -> bytes:
    return _block({"0": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}, data)


def _nested(depth: int) -> dict[str, Any] | None:
    node = None
    for _ in range(depth):
        node = {"type": "sequence", "kind": "list", "items": [node]}
    return node


MANY = 4001
TENSOR = {"type": "tensor", "index": 0}
EMPTY = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
UNSENT = {
    "an int in another spelling": ({"type": "number", "kind": "int", "text": "0x0f"}, b""),
    "an int of 2,400 bits": ({"type": "number", "kind": "int", "text": "0x" + "f" * 598}, b""),
    "a float in another spelling": ({"type": "number", "kind": "float", "text": "1.5"}, b""),
    "a device that torch reads as another": ({"type": "text", "kind": "device", "text": "cuda:200"}, b""),
    "a quantized meta tensor": ({"type": "meta", "shape": [2], "dtype": "torch.quint8"}, b""),
    "a meta tensor of many dimensions": ({"type": "meta", "shape": [1] * 65, "dtype": "torch.int8"}, b""),
    "keys of one hash": ({"type": "mapping", "keys": [n * (2**61 - 1) for n in range(20, 25)], "values": [None] * 5}, b""),
    "deep nesting": (_nested(52), b""),
    "a bool that is neither": (TENSOR, _tensor_of("BOOL", [2], b"\1\2")),
    "a dtype that is not sent": (TENSOR, _tensor_of("F8_E4M3FNUZ", [2], b"\1\2")),
    "a tensor of many dimensions": (TENSOR, _tensor_of("U8", [1] * 65, b"\1")),
    "very many tensors": (
        {"type": "sequence", "kind": "list", "items": [{"type": "tensor", "index": index} for index in range(MANY)]},
        _block({str(index): EMPTY for index in range(MANY)}),
    ),
    "a very long header": (TENSOR, _block({"__metadata__": {"x": "y" * (512 << 10)}, "0": EMPTY})),
}


@pytest.mark.parametrize("what", UNSENT)
def test_what_encode_does_not_send_is_malformed(what: str) -> None:
    """A value has one form; what could be costly to take, or means different things to different readers, is no value."""
    with pytest.raises(Malformed):
        _parse(*UNSENT[what])


def test_what_is_beyond_the_caps_is_named() -> None:
    """Too many tensors, too many dimensions, too long a key: the worker's side says so, and the rest arrives."""
    *some, last = _travel([torch.zeros(0)] * MANY)
    assert all(type(value) is Tensor for value in some)
    assert type(last) is Opaque
    assert type(_travel(torch.zeros([1] * 65))) is Opaque
    assert type(_travel({2**64: 1})) is Opaque
    assert _travel({2**64 - 1: 1, -(2**63): 2}) == {2**64 - 1: 1, -(2**63): 2}


def test_bools_that_were_never_written_arrive_as_bools() -> None:
    """Memory may hold bytes other than 0 and 1, which count as true."""
    value = torch.frombuffer(bytearray(b"\0\1\2\xff"), dtype=torch.bool)
    assert _bytes(_travel(value)) == b"\0\1\1\1"
