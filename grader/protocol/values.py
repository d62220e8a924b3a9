"""Values that cross between a student's worker and the trusted process: a tree of plain Python values and tensors.

The worker encodes, the trusted process decodes. Decoding accepts exact types only and never runs code of the sender's: the
structure is typed JSON, the tensors are one safetensors block, and what is neither arrives as an `Opaque` that says what it was.
This module knows nothing of tests or references, because the zygote imports it.
"""

import ctypes
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import safetensors
import safetensors.torch
import torch
from msgspec import Meta, Struct

__all__ = ["Ending", "Malformed", "Node", "Opaque", "decode", "encode"]

_NATIVE = (torch.Tensor, torch.nn.Parameter)
_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_MAX_DEPTH = 50
_MAX_DIMENSIONS = 64
_MAX_TENSORS = 4000
_MAX_HEADER = 512 << 10
"""Bytes of the safetensors block that name its tensors: each costs the receiver some 0.1 ms and 4 KiB, whatever its size."""


class Malformed(Exception):
    """What came from a worker is not well-formed."""


@dataclass(frozen=True)
class Opaque:
    """Stands for a value that does not travel, such as an object of the student's own class."""

    description: str


@dataclass(frozen=True)
class Ending:
    """How a call ended, for probes that compare endings: `grader.testing.raised` makes them."""

    error: str = ""
    """The class of what was raised; empty where the call returned."""

    def __str__(self) -> str:
        return f"raises {self.error}" if self.error else "returns normally"


class Number(Struct, frozen=True, forbid_unknown_fields=True, tag="number"):
    """A bool, an int (hexadecimal) or a float (`float.hex`, so that it arrives bit for bit)."""

    kind: Literal["bool", "int", "float"]
    text: Annotated[str, Meta(max_length=600)]


class Text(Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """A string, or the name of a dtype or device."""

    kind: Literal["str", "dtype", "device"]
    text: str


class Block(Struct, frozen=True, forbid_unknown_fields=True, tag="tensor"):
    """The tensor with this index in the safetensors block."""

    index: Annotated[int, Meta(ge=0)]


class MetaTensor(Struct, frozen=True, forbid_unknown_fields=True, tag="meta"):
    """A tensor on the `meta` device: a shape and a dtype, no values."""

    shape: list[Annotated[int, Meta(ge=0)]]
    dtype: str


class Sequence(Struct, frozen=True, forbid_unknown_fields=True, tag="sequence"):
    """A list or a tuple (torch.Size travels as a tuple)."""

    kind: Literal["list", "tuple"]
    items: list["Node"]


class Mapping(Struct, frozen=True, forbid_unknown_fields=True, tag="mapping"):
    """A dict with str or int keys, in order."""

    keys: list[str | int]
    values: list["Node"]


class Ended(Struct, frozen=True, forbid_unknown_fields=True, tag="ended"):
    """An `Ending`."""

    error: str


class Other(Struct, frozen=True, forbid_unknown_fields=True, tag="other"):
    """A value that does not travel."""

    description: str


Node = Number | Text | Block | MetaTensor | Sequence | Mapping | Ended | Other | None


def encode(value: Any) -> tuple[Node, bytes]:
    """Turn a value into its structure and the safetensors block of its tensors.

    Types are compared exactly, never with isinstance: an object of the student's class that poses as a tensor or a number becomes `Other`.
    Tensors are detached, resolved (conjugate and negative bits) and copied to the CPU.
    """
    tensors: list[torch.Tensor] = []
    node = _encode(value, tensors, depth=0)
    return node, _pack(tensors) if tensors else b""


def _encode(value: Any, tensors: list[torch.Tensor], depth: int) -> Node:
    kind = type(value)
    if depth > _MAX_DEPTH:
        return Other(f"something nested more than {_MAX_DEPTH} levels deep")
    if value is None:
        return None
    if kind is bool:
        return Number("bool", "1" if value else "0")
    if kind is int and abs(value).bit_length() < 2048:
        return Number("int", hex(value))
    if kind is float or (kind.__module__ == "numpy" and kind.__name__ == "float64"):
        return Number("float", float(value).hex())
    if kind is str:
        return Text("str", value) if _is_unicode(value) else Other("a string with lone surrogates")
    if kind is torch.dtype:
        return Text("dtype", str(value))
    if kind is torch.device:
        return Text("device", str(value))
    if kind is Ending and type(value.error) is str and _is_unicode(value.error):
        return Ended(value.error)
    if kind in _NATIVE:
        return _encode_tensor(value, tensors)
    if kind is list or kind is tuple or kind is torch.Size:
        items = [_encode(item, tensors, depth + 1) for item in value]
        return Sequence("list" if kind is list else "tuple", items)
    if kind is dict or kind is OrderedDict:
        if all(_is_short(key) if type(key) is int else type(key) is str and _is_unicode(key) for key in value):
            return Mapping(list(value), [_encode(item, tensors, depth + 1) for item in value.values()])
        return Other("a dict whose keys are not all strings or whole numbers of 64 bits")
    return Other(f"an object of class {kind.__name__}" if _is_unicode(kind.__name__) else "an object")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_short(number: int) -> bool:
    """True for 64 bits: JSON's numbers end there, and longer keys could be chosen so that all fall into one slot of a dict."""
    return -(2**63) <= number < 2**64


def _encode_tensor(tensor: torch.Tensor, tensors: list[torch.Tensor]) -> Node:
    if tensor.layout is not torch.strided:
        return Other(f"a sparse tensor ({tensor.layout})")
    if tensor.is_quantized:
        return Other("a quantized tensor")
    if tensor.dtype not in _SPELLINGS:
        return Other(f"a tensor of dtype {tensor.dtype}")
    if tensor.dim() > _MAX_DIMENSIONS:
        return Other(f"a tensor of more than {_MAX_DIMENSIONS} dimensions")
    if tensor.device.type == "meta":
        return MetaTensor(list(tensor.shape), str(tensor.dtype))
    if len(tensors) >= _MAX_TENSORS:
        return Other(f"a tensor beyond the first {_MAX_TENSORS}")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    if plain.numel() and (plain.storage_offset() + plain.numel()) * plain.element_size() > plain.untyped_storage().nbytes():
        return Other("a tensor whose memory was freed")
    if plain.dtype is torch.bool:
        plain = plain.view(torch.uint8) != 0  # memory that was never written may hold a bool that is neither
    tensors.append(plain)
    return Block(len(tensors) - 1)


def _pack(tensors: list[torch.Tensor]) -> bytes:
    """The safetensors block of contiguous CPU tensors, named by number. With safetensors' own `save`, encoding took four times as long."""
    header: dict[str, _Entry] = {}
    data, at = [], 0
    for number, tensor in enumerate(tensors):
        data.append(ctypes.string_at(tensor.data_ptr(), tensor.nbytes) if tensor.numel() else b"")
        header[str(number)] = _Entry(_SPELLINGS[tensor.dtype], list(tensor.shape), (at, at + tensor.nbytes))
        at += tensor.nbytes
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight
    return b"".join([len(text).to_bytes(8, "little"), text, *data])


class _Entry(Struct):
    """A tensor in the header of a safetensors block."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_SPELLINGS = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
}
"""safetensors' names of the types that travel."""


def decode(node: Node, block: bytes) -> Any:
    """Turn structure and safetensors block back into a value.

    Raises: Malformed where the two are not well-formed or do not fit each other.
    """
    try:
        if int.from_bytes(block[:8], "little") > _MAX_HEADER:  # before anything is made of it
            raise ValueError("too long a list of tensors")
        tensors = safetensors.torch.load(block) if block else {}
        if len(tensors) > _MAX_TENSORS:
            raise ValueError("too many tensors")
        used: set[str] = set()
        value = _decode(node, tensors, used, depth=0)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError, RecursionError, OverflowError) as error:
        raise Malformed(f"{type(error).__name__} while decoding") from error
    if used != tensors.keys():
        raise Malformed("tensors and structure do not fit each other")
    return value


def _decode(node: Node, tensors: dict[str, torch.Tensor], used: set[str], depth: int) -> Any:
    """Take what `encode` could have made, and nothing else: a value has one form."""
    if depth > _MAX_DEPTH and not isinstance(node, Other):
        raise ValueError("nested too deep")
    match node:
        case None:
            return None
        case Number("bool", text):
            return {"0": False, "1": True}[text]
        case Number("int", text):
            return _checked(int(text, 16), text, hex)
        case Number("float", text):
            return _checked(float.fromhex(text), text, float.hex)
        case Text("str", text):
            return text
        case Text("dtype", text):
            return _DTYPES[text]
        case Text("device", text):
            return _checked(torch.device(text), text, str)  # torch takes the index 200 for another one
        case Block(index):
            if str(index) in used:
                raise ValueError("a tensor is named twice")
            used.add(str(index))
            return _checked_tensor(tensors[str(index)])
        case MetaTensor(shape, dtype):
            if _DTYPES[dtype] not in _SPELLINGS or len(shape) > _MAX_DIMENSIONS:
                raise ValueError("a meta tensor of a kind that does not travel")
            return torch.empty(shape, dtype=_DTYPES[dtype], device="meta")
        case Sequence(kind, items):
            values = [_decode(item, tensors, used, depth + 1) for item in items]
            return values if kind == "list" else tuple(values)
        case Mapping(keys, items):
            if not all(isinstance(key, str) or _is_short(key) for key in keys):
                raise ValueError("a key of more than 64 bits")
            if len(set(keys)) != len(keys):
                raise ValueError("a key stands twice")
            return dict(zip(keys, (_decode(item, tensors, used, depth + 1) for item in items), strict=True))
        case Ended(error):
            return Ending(error)
        case Other(description):
            return Opaque(description)
    raise Malformed(f"unknown node {type(node).__name__}")


def _checked(value: Any, text: str, spell: Callable[[Any], str]) -> Any:
    """The value, where this text is how `encode` spells it."""
    if spell(value) != text or (type(value) is int and value.bit_length() >= 2048):
        raise ValueError("another spelling")
    return value


def _checked_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, where `encode` could have sent it. What torch makes of a bool whose byte is neither 0 nor 1 is nowhere promised."""
    if tensor.dtype not in _SPELLINGS or tensor.dim() > _MAX_DIMENSIONS:
        raise ValueError("a tensor of a kind that does not travel")
    if tensor.dtype is torch.bool and (tensor.view(torch.uint8) > 1).any():
        raise ValueError("a bool that is neither true nor false")
    return tensor
