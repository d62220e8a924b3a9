"""Reads the scalars of TensorBoard's event files. Such a file may come from a student's worker: bytes that can be anything.

A file is a row of records: the length of the data (8 bytes, little-endian), a checksum of these (4), the data, and their checksum (4). The
data are an `Event` in protobuf's wire format (tensorboard/compat/proto/event.proto). Nothing is unpickled and no code of tensorboard's
runs. What is not well-formed raises `NotEvents`.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["MAX_BYTES", "NotEvents", "Scalar", "read_scalars"]

MAX_BYTES = 1 << 20
"""The largest file that is read."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""How protobuf writes a field."""


class NotEvents(ValueError):
    """The bytes are no event file. The text is a sentence for the student."""


class Scalar(NamedTuple):
    """One point of a curve."""

    tag: str
    step: int
    value: float


def read_scalars(data: bytes) -> list[Scalar]:
    """The scalars of an event file, in the order in which they were written. Other kinds of summaries are passed over.

    Raises: NotEvents.
    """
    if len(data) > MAX_BYTES:
        raise NotEvents(f"the event file is larger than {MAX_BYTES >> 20} MiB")
    return [scalar for record in _records(data) for scalar in _scalars(record)]


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        if len(data) - at < 12:
            raise NotEvents("the event file ends within a record: is the writer closed?")
        length, checksum = struct.unpack_from("<QI", data, at)
        if checksum != _masked_crc(data[at : at + 8]):
            raise NotEvents("the event file is damaged: the checksum of a record's length is wrong")
        start, end = at + 12, at + 12 + length
        if end + 4 > len(data):
            raise NotEvents("the event file ends within a record: is the writer closed?")
        record = data[start:end]
        if struct.unpack_from("<I", data, end)[0] != _masked_crc(record):
            raise NotEvents("the event file is damaged: the checksum of a record is wrong")
        yield record
        at = end + 4


def _scalars(event: bytes) -> Iterator[Scalar]:
    step, summaries = 0, []
    for number, kind, value in _fields(event):
        if (number, kind) == (2, _VARINT):
            step = value - (1 << 64) if value >> 63 else value
        elif (number, kind) == (5, _BYTES):
            summaries.append(value)
    for summary in summaries:
        for number, kind, value in _fields(summary):
            if (number, kind) == (1, _BYTES):
                tag, scalar = _value(value)
                if scalar is not None:
                    yield Scalar(tag, step, scalar)


def _value(message: bytes) -> tuple[str, float | None]:
    """A `Summary.Value`: its tag, and its number where it is a scalar, written in the old way or as a tensor of one float."""
    tag, scalar = "", None
    for number, kind, value in _fields(message):
        if (number, kind) == (1, _BYTES):
            try:
                tag = value.decode()
            except UnicodeDecodeError:
                raise NotEvents("a tag of the event file is no text") from None
        elif (number, kind) == (2, _FIXED32):
            (scalar,) = struct.unpack("<f", value)
        elif (number, kind) == (8, _BYTES):
            scalar = _only_float(value)
    return tag, scalar


def _only_float(tensor: bytes) -> float | None:
    floats = b"".join(value for number, kind, value in _fields(tensor) if number == 5 and kind in (_BYTES, _FIXED32))
    number: float | None = struct.unpack("<f", floats)[0] if len(floats) == 4 else None
    return number


def _fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """The fields of a message: number, kind, and the value, an int for a varint and else bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, kind, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise NotEvents("a record of the event file is no event")
        if size > len(message) - at:
            raise NotEvents("a record of the event file is no event: a part of it is longer than the whole")
        yield number, kind, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for place, byte in enumerate(message[at : at + 10]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number & ((1 << 64) - 1), at + place + 1
    raise NotEvents("a record of the event file is no event: a number does not end")


def _table() -> tuple[int, ...]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


_TABLE = _table()
"""For CRC-32C (Castagnoli), a byte at a time."""


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
