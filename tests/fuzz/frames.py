"""Fuzz of what the trusted process does with a worker's bytes: sizes, structure, values.

The property: a frame is refused, by its sizes or as `Malformed`, or it gives a well-formed value: exact types only, and a value that
encodes and decodes to itself. No other exception, no second of CPU time for one frame, no memory beyond a cap.

Usage: python -m tests.fuzz.frames [--frames N] [--engine mutator|hypothesis|atheris|both|all] [--seed N] [--replay FILE]
"""

import contextlib
import json
import math
import random
import struct
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from grader.base.text import one_line
from grader.course.manifest import Limits
from grader.protocol.messages import HEADER, MAX_STRUCTURE, Loaded, Raised, Reply, Returned, pack, parse_reply
from grader.protocol.values import Malformed, Opaque, decode, encode
from tests.fuzz.engines import Target, Violation, command

__all__ = ["TARGET", "check", "receive"]

_MAX_BLOCK = Limits().reply_mib << 20


class Refused(Exception):
    """The frame's sizes are beyond the caps, or not those of what follows."""


def receive(frame: bytes) -> tuple[Reply, Any]:
    """The reply in a frame, and its value where it returned one, as the worker's handle reads them. Raises: Refused, Malformed."""
    if len(frame) < HEADER.size:
        raise Refused("length")
    sizes = HEADER.unpack_from(frame)
    if sizes[0] > MAX_STRUCTURE or sizes[1] > _MAX_BLOCK:
        raise Refused("size")
    if len(frame) != HEADER.size + sum(sizes):
        raise Refused("length")
    reply = parse_reply(frame[HEADER.size : HEADER.size + sizes[0]])
    return reply, decode(reply.value, frame[HEADER.size + sizes[0] :]) if isinstance(reply, Returned) else None


def check(frame: bytes) -> str:
    """Name what becomes of a frame. Raises: Violation."""
    try:
        reply, value = receive(frame)
    except Refused as refusal:
        return f"refused: {refusal}"
    except Malformed as error:
        return f"refused: {'structure' if 'structure is not' in str(error) else 'values'}"
    for text in _texts_of(reply):
        shown = one_line(text)
        if len(shown) > 200 or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in shown):
            raise Violation(f"{shown!r} would be shown")
    if not isinstance(reply, Returned):
        return f"accepted: {type(reply).__name__.lower()}"
    if flaw := _flaw(value, set()):
        raise Violation(f"the value is not well-formed: {flaw}")
    node, block = encode(value)
    _, again = receive(pack(Returned(reply.nonce, node, reply.banned, reply.left), block))
    if not _same(value, again):
        raise Violation(f"the value {str(value)[:200]} comes back as {str(again)[:200]}")
    return "accepted: returned"


def _texts_of(reply: Reply) -> list[str]:
    """The strings that a student may get to see."""
    match reply:
        case Raised(error=error, message=message, place=place, call=call, banned=banned):
            return [error, message, place, call, *banned]
        case Returned(_, _, banned, left):
            return [*banned, *left]
        case Loaded(kinds):
            return list(kinds.values())


def _flaw(value: Any, storages: set[int], depth: int = 0) -> str:
    """Why a value is not one that decoding may give; empty where it is."""
    kind = type(value)
    if kind is Tensor:
        return _tensor_flaw(value, storages)
    if kind in (list, tuple, dict):
        if depth > 50:
            return "nested too deep"
        if kind is dict and not all(type(key) in (str, int) for key in value):
            return "a key of another type"
        keys = [key for key in value if type(key) is str] if kind is dict else []
        inner = [_flaw(item, storages, depth + 1) for item in (value.values() if kind is dict else value)]
        return next(filter(None, [_text_flaw(key) for key in keys] + inner), "")
    if kind is str:
        return _text_flaw(value)
    if kind is Opaque:
        return _text_flaw(value.description)
    return "" if value is None or kind in (bool, int, float, torch.dtype, torch.device) else f"an object of {kind}"


def _text_flaw(text: str) -> str:
    return "a lone surrogate" if type(text) is not str or any("\ud800" <= character <= "\udfff" for character in text) else ""


def _tensor_flaw(tensor: Tensor, storages: set[int]) -> str:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.requires_grad or not tensor.is_contiguous():
        return "a tensor that is not plain"
    if tensor.device.type == "meta":
        return ""
    storage = tensor.untyped_storage()
    if tensor.device.type != "cpu" or storage.nbytes() != tensor.nbytes:
        return "a tensor with more storage than values"
    if tensor.numel() and tensor.data_ptr() in storages:
        return "two tensors that share their values"
    storages.add(tensor.data_ptr())
    if tensor.dtype is torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        return "a bool that is neither true nor false"
    return ""


def _same(a: Any, b: Any) -> bool:
    """Equal in type, structure and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape and a.device == b.device
        return alike and (a.device.type == "meta" or _bytes(a) == _bytes(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(_same, a.values(), b.values()))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return isinstance(a, Opaque) or bool(a == b)  # what does not travel is not described again


def _bytes(tensor: Tensor) -> bytes:
    return tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


# ---- a corpus of valid frames

_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
_DTYPES += [torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64]


def corpus() -> list[bytes]:
    """A valid frame of every kind of reply, node and dtype."""
    deep: Any = 1
    for _ in range(49):
        deep = [deep]
    values = [None, True, 0, -1, 2**63, -(2**2000), 0.1, math.nan, -math.inf, -0.0, "", "text ü\n\x1b[2J\U0001f600", torch.float32, deep]
    values += [torch.device("cpu"), torch.device("cuda:1"), [], (), {}, object(), [1, (2, {"a": None, 3: [4.5]})], torch.zeros(())]
    values += [torch.arange(6).reshape(2, 3).to(dtype) for dtype in _DTYPES] + [torch.zeros(2, 0, 3), torch.empty(3, 5, device="meta")]
    values += [[torch.ones(2), {"w": torch.zeros(3, 4), "b": torch.ones(4) > 0}, 1.5, "x"], [torch.full((1,), float(i)) for i in range(20)]]
    frames = [_returned(value) for value in values]
    frames += [pack(Loaded({"f": "function", "C": "class", "g": "missing"})), pack(Loaded({}))]
    frames += [
        pack(Raised("0123456789abcdef", "ValueError", False, "no \x1b[31m good", "line 3, in f", "f(x=float32 (3,))", [])),
        pack(Raised("", "E", True, "", "", "", ["x"])),
    ]
    return frames


def _returned(value: Any, nonce: str = "0123456789abcdef") -> bytes:
    node, block = encode(value)
    return pack(Returned(nonce, node, [], ["x"]), block)


# ---- changing a frame

_NAMES, _WORDS = (
    line.split()
    for line in (
        "type kind text index shape dtype items keys values description nonce banned value error data_offsets __metadata__",
        "number text tensor meta sequence mapping other returned raised loaded list tuple int float bool str dtype device "
        "torch.float32 torch.float torch.quint8 torch.bits8 torch.complex128 torch.int4 torch.nn cpu mkldnn cuda:0 cuda:200 "
        "0 1 0x1 -0x0 0X_f nan -nan inf 0x1p-1074 0x1p9999 1e5 "
        "F32 F64 F16 BF16 I64 U8 U16 BOOL C64 F4 F6_E2M3 F8_E4M3 F8_E8M0 F8_E4M3FNUZ",
    )
)
_WORDS += ["", "\0", "\ud800", "\u202e", "\x1b]0;x\x07", "٣", "f" * 600, "privateuseone:3"]
_INTEGERS = [0, 1, 2, 3, 4, 7, 8, 63, 64, 65, 255, 2**31, 2**32, 2**53, 2**61 - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -(2**63), 10**40]
_ODD = [None, True, False, 0.0, -1.5, 1e308, 1e400, [], {}, [None], {"": None}, [[]]]


def mutate(rng: random.Random, frame: bytes, frames: list[bytes]) -> bytes:
    """Another frame: a fresh valid one, one with changed structure, tensors or bytes, or (rarely) a large one."""
    choice = rng.random()
    if choice < 0.0005:
        return rng.choice(_LARGE)(rng)
    if choice < 0.1:
        return _returned(_random_value(rng, 0))
    if choice < 0.13:
        return rng.randbytes(rng.randrange(200))
    if choice < 0.33:
        return _mutate_bytes(rng, frame, frames)
    parts = _split(frame) or _split(rng.choice(frames))
    assert parts is not None
    body, header, data = parts
    change_body = rng.random() < 0.7 or not isinstance(header, dict)
    with contextlib.suppress(RecursionError):  # Python's own JSON gives up on deep trees
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if change_body:
                body = _mutate_json(rng, body, frames)
            else:
                header = _mutate_json(rng, header, frames)
        if rng.random() < 0.2:
            data = _mutate_bytes(rng, data, frames)
        return _join(rng, body, header, data)
    return _deep(rng)


def _split(frame: bytes) -> tuple[Any, Any, bytes] | None:
    """Structure, the tensors' header (None where there are no tensors) and the tensors' bytes, of a frame that has them."""
    try:
        size, _ = HEADER.unpack_from(frame)
        body, block = json.loads(frame[HEADER.size : HEADER.size + size]), frame[HEADER.size + size :]
        if not block:
            return body, None, b""
        length = int.from_bytes(block[:8], "little")
        return body, json.loads(block[8 : 8 + length]), block[8 + length :]
    except (struct.error, ValueError, RecursionError):
        return None


def _join(rng: random.Random, body: Any, header: Any, data: bytes) -> bytes:
    text = json.dumps(body, ensure_ascii=rng.random() < 0.5, separators=(",", ":")).encode(errors="surrogatepass")
    if rng.random() < 0.03:
        text = text.replace(b"{", b'{"type":"text",', 1)  # a key twice
    return _framed(text, _block(header, data) if header is not None else b"")


def _framed(body: bytes, block: bytes) -> bytes:
    return HEADER.pack(len(body), len(block)) + body + block


def _block(header: Any, data: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def _mutate_json(rng: random.Random, root: Any, frames: list[bytes]) -> Any:
    """Change one place of a JSON tree."""
    root = json.loads(json.dumps(root))
    places: list[tuple[Any, Any]] = []
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            places += [(node, key) for key in keys]
            pending += [node[key] for key in keys]
    if not places:
        return _random_json(rng, frames)
    node, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[rng.choice(_NAMES + _WORDS)] = node.pop(key)
        case 1:
            node.insert(key, node[key])
        case 2:
            other, place = rng.choice(places)
            node[key] = json.loads(json.dumps(other[place]))
        case 3:
            for _ in range(rng.choice((1, 1, 2, 60, 300))):
                node[key] = {"type": "sequence", "kind": rng.choice(["list", "tuple"]), "items": [node[key]]}
        case 4 if isinstance(node[key], int | float):
            node[key] += rng.choice((-1, 1, 4, 8, 0.5, 2**32))
        case 5:
            node[key] = rng.choice(_WORDS)
        case 6:
            node[key] = rng.choice(_INTEGERS)
        case _:
            node[key] = _random_json(rng, frames)
    return root


def _random_json(rng: random.Random, frames: list[bytes]) -> Any:
    match rng.randrange(4):
        case 0:
            return rng.choice(_ODD)
        case 1:
            return [rng.choice(_INTEGERS) for _ in range(rng.randrange(5))]
        case 2:
            return {name: rng.choice(_WORDS) for name in rng.sample(_NAMES, rng.randrange(4))}
        case _:
            parts = _split(rng.choice(frames))
            return parts[0].get("value") if parts and isinstance(parts[0], dict) else None


def _mutate_bytes(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Flip, cut, repeat, insert or splice bytes; of a frame the sizes are put right half of the time."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 | 1 if at < len(changed):
                changed[at] = rng.choice((changed[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255, 34, 44, 91, 123))
            case 2:
                del changed[at : at + rng.choice((1, 2, 8, 50))]
            case 3:
                changed[at:at] = changed[at : at + rng.choice((1, 4, 30))]
            case 4:
                changed[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
            case _:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                changed[at:] = other[start:]
    if rng.random() < 0.5 and len(changed) >= HEADER.size:
        body = min(HEADER.unpack_from(data)[0], len(changed) - HEADER.size) if len(data) >= HEADER.size else 0
        HEADER.pack_into(changed, 0, body, len(changed) - HEADER.size - body)
    return bytes(changed)


def _random_value(rng: random.Random, depth: int) -> Any:
    """A value that travels."""
    match rng.randrange(9 if depth < 4 else 6):
        case 0:
            return rng.choice([None, True, False, "", "text", torch.bool, torch.device("cuda:7")])
        case 1:
            return rng.choice([rng.randrange(-(2**70), 2**70), rng.choice(_INTEGERS), rng.getrandbits(2000)])
        case 2:
            return rng.choice([struct.unpack("d", rng.randbytes(8))[0], rng.random(), math.inf])
        case 3:
            return "".join(chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000), rng.randrange(128)))) for _ in range(5))
        case 4 | 5:
            shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
            dtype = rng.choice(_DTYPES)
            data = rng.randbytes(math.prod(shape) * dtype.itemsize)
            raw = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
            return raw.view(dtype).reshape(shape)
        case 6:
            return [_random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 7:
            return tuple(_random_value(rng, depth + 1) for _ in range(rng.randrange(4)))
        case _:
            keys = [rng.choice(["a", "b", rng.randrange(-5, 5), 2**64 - 1]) for _ in range(rng.randrange(4))]
            return {key: _random_value(rng, depth + 1) for key in keys}


# ---- large frames: what is small to send and could be large to take


def _reply(value: Any) -> bytes:
    return json.dumps({"type": "returned", "nonce": "", "value": value, "banned": []}, separators=(",", ":")).encode()


def _many_keys(rng: random.Random) -> bytes:
    """A dict whose keys all have the same hash, or the same lowest bits."""
    step = rng.choice((2**61 - 1, 2**40, 2**44, 1))
    count = rng.randrange(1000, 20_000)
    return _framed(_reply({"type": "mapping", "keys": [step * number for number in range(count)], "values": [None] * count}), b"")


def _many_tensors(rng: random.Random) -> bytes:
    count = rng.choice((3000, 4000, 7000, 12_000, 100_000))
    size = rng.randrange(2)
    header = {str(i): {"dtype": "BOOL", "shape": [size], "data_offsets": [i * size, i * size + size]} for i in range(count)}
    items = [{"type": "tensor", "index": index} for index in range(min(count, 30_000))]
    return _framed(_reply({"type": "sequence", "kind": "list", "items": items}), _block(header, bytes(count * size)))


def _many_dimensions(rng: random.Random) -> bytes:
    count = rng.choice((64, 65, 1000, 100_000, 250_000, 1_000_000))
    size = rng.randrange(2)
    header = {"0": {"dtype": "U8", "shape": [size] * count, "data_offsets": [0, size]}}
    value = rng.choice([{"type": "tensor", "index": 0}, {"type": "meta", "shape": [size] * min(count, 500_000), "dtype": "torch.int8"}])
    return _framed(_reply(value), _block(header, bytes(size)) if value["type"] == "tensor" else b"")


def _deep(rng: random.Random) -> bytes:
    count = rng.choice((51, 52, 200, 900, 20_000, 250_000))
    start, end = rng.choice([(b"[", b"]"), (b'{"type":"sequence","kind":"list","items":[', b"]}"), (b'{"a":', b"}")])
    count = min(count, (MAX_STRUCTURE - 100) // (len(start) + len(end)))
    nested = start * count + b"null" + end * (count if rng.random() < 0.8 else 0)
    return _framed(b'{"type":"returned","nonce":"","value":' + nested + b',"banned":[]}', b"")


def _long_number(rng: random.Random) -> bytes:
    digits = b"9" * rng.choice((500, 4400, 100_000, 1_000_000))
    text = rng.choice([digits, b"0." + digits, digits + b"e" + digits[:5], b"1e-" + digits, b'{"type":"tensor","index":' + digits + b"}"])
    place = rng.choice([b"%s", b'{"type":"mapping","keys":[%s],"values":[null]}', b'{"type":"meta","shape":[%s],"dtype":"torch.int8"}'])
    return _framed(b'{"type":"returned","nonce":"","value":' + place % text + b',"banned":[]}', b"")


def _long_text(rng: random.Random) -> bytes:
    text = rng.choice(["\x1b", "\x1b[", "\r\n", " ", "\u202e", "a", "0x" + "f", "<!--", "\\"]) * rng.choice((1000, 100_000))
    replies = [{"type": "raised", "nonce": text, "error": text, "message": text, "place": text, "banned": [text]}]
    replies += [{"type": "loaded", "kinds": {"f": text, text: "f"}}, {"type": "returned", "nonce": "", "value": None, "banned": [text]}]
    return _framed(json.dumps(rng.choice(replies), ensure_ascii=False).encode(), b"")


def _wide(rng: random.Random) -> bytes:
    node = rng.choice([None, {"type": "text", "kind": "device", "text": "cuda:1"}, {"type": "meta", "shape": [2], "dtype": "torch.int8"}])
    count = 1_000_000 // len(json.dumps(node, separators=(",", ":")) + ",")
    return _framed(_reply({"type": "sequence", "kind": "tuple", "items": [node] * count}), b"")


def _wide_metadata(rng: random.Random) -> bytes:
    header = {"__metadata__": {str(number): "x" for number in range(rng.choice((1000, 30_000)))}}
    header |= {"0": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    return _framed(_reply({"type": "tensor", "index": 0}), _block(header, b"\1"))


_LARGE: list[Callable[[random.Random], bytes]] = [_many_keys, _many_tensors, _many_dimensions, _deep]
_LARGE += [_long_number, _long_text, _wide, _wide_metadata]


# ---- strategies


def strategy() -> st.SearchStrategy[bytes]:
    """Frames built node by node, most of them nearly valid, some with bytes changed afterwards."""
    words, integers = st.sampled_from([word for word in _WORDS if word != "\ud800"]) | st.text(max_size=8), st.sampled_from(_INTEGERS)
    integers |= st.integers(-2, 10)
    shapes = st.lists(integers, max_size=4)

    def struct_of(tag: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.fixed_dictionaries({"type": st.just(tag), **fields})

    leaves = st.none() | struct_of("number", kind=st.sampled_from(["bool", "int", "float"]), text=words | st.integers().map(hex))
    leaves |= struct_of("number", kind=st.just("float"), text=st.floats().map(float.hex))
    leaves |= struct_of("text", kind=st.sampled_from(["str", "dtype", "device"]), text=words)
    leaves |= struct_of("tensor", index=st.integers(0, 2)) | struct_of("tensor", index=integers)
    leaves |= struct_of("meta", shape=shapes, dtype=words) | struct_of("other", description=words)
    leaves |= st.sampled_from(_ODD)
    nodes = st.recursive(
        leaves,
        lambda inner: (
            struct_of("sequence", kind=st.sampled_from(["list", "tuple"]), items=st.lists(inner, max_size=4))
            | struct_of("mapping", keys=st.lists(words | integers, max_size=3), values=st.lists(inner, max_size=3))
        ),
        max_leaves=8,
    )
    texts = st.lists(words, max_size=2)
    replies = struct_of("returned", nonce=words, value=nodes, banned=texts)
    replies |= struct_of("raised", nonce=words, error=words, message=words, place=words, banned=texts)
    replies |= struct_of("loaded", kinds=st.dictionaries(words, words, max_size=3))
    changes = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3)

    @st.composite
    def frames(draw: st.DrawFn) -> bytes:
        if draw(st.integers(0, 19)) == 0:
            return draw(st.binary(max_size=200))
        body = json.dumps(draw(replies), separators=(",", ":")).encode()
        frame = bytearray(_framed(body, draw(blocks())))
        for place, value in draw(changes) if draw(st.booleans()) else []:
            frame[place % len(frame)] = value
        return bytes(frame)

    @st.composite
    def blocks(draw: st.DrawFn) -> bytes:
        """Tensors called 0, 1, …, with offsets that fit unless chance has it otherwise."""
        sizes = {"F32": 4, "BOOL": 1, "I64": 8, "F8_E4M3": 1, "C64": 8, "BF16": 2, "F8_E4M3FNUZ": 1}
        header, data = {}, b""
        for number in range(draw(st.integers(0, 3))):
            dtype, shape = draw(st.sampled_from(sorted(sizes))), draw(st.lists(st.integers(0, 3), max_size=3))
            size = math.prod(shape) * sizes[dtype]
            header[str(number)] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
            data += draw(st.binary(min_size=size, max_size=size)) if dtype != "BOOL" else bytes(size)
        return _block(header, data) if header else b""

    return frames()


TARGET = Target(
    name="frames",
    check=check,
    corpus=corpus,
    mutate=mutate,
    strategy=strategy,
    instrumented=("grader.protocol.values", "grader.protocol.messages", "safetensors.torch"),
    cpu_seconds=1.0,
    memory_mib=512,
)


if __name__ == "__main__":
    sys.exit(command(TARGET))
