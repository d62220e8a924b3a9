"""Event files of TensorBoard's: what its writer writes is read, and hostile bytes give a sentence."""

import contextlib
import math
import random
import struct

import pytest
import torch

from grader.grading.event_files import MAX_BYTES, NotEvents, Scalar, _masked_crc, read_scalars


def record(data: bytes) -> bytes:
    """The data as a record with right checksums."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data))


def field(number: int, data: bytes) -> bytes:
    """A field of bytes."""
    return bytes([number << 3 | 2, len(data)]) + data


def event(tag: bytes, value: float, step: bytes = b"\x07") -> bytes:
    """An event with a scalar."""
    return b"\x10" + step + field(5, field(1, field(1, tag) + b"\x15" + struct.pack("<f", value)))


def test_what_the_writer_writes_is_read(tmp_path):
    """Scalars in both ways of writing them, with large steps; histograms and texts are passed over."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("a", 0.5, 0)
        writer.add_text("words", "some", 1)
        writer.add_histogram("many", torch.tensor([1.0, 2.0]), 1)
        writer.add_scalar("b/ü", math.inf, 10**15, new_style=True)
        writer.add_scalar("a", -1.25, -3)
    (path,) = tmp_path.iterdir()
    assert read_scalars(path.read_bytes()) == [("a", 0, 0.5), ("b/ü", 10**15, math.inf), ("a", -3, -1.25)]


def test_records():
    """An event in protobuf's wire format, unknown fields among it; and no records at all."""
    unknown = b"\x09" + bytes(8) + field(3, b"brain.Event:2") + b"\x78\x05"
    assert read_scalars(record(unknown) + record(event(b"loss", 2.5) + unknown)) == [Scalar("loss", 7, 2.5)]
    assert read_scalars(b"") == []


WHOLE = record(event(b"loss", 2.5))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (WHOLE[:-1], "ends within a record"),
        (WHOLE + b"\0", "ends within a record"),
        (b"\xff" * 40, "the checksum of a record's length is wrong"),
        (WHOLE[:20] + b"\xff" + WHOLE[21:], "the checksum of a record is wrong"),
        (struct.pack("<Q", 2**63) + struct.pack("<I", _masked_crc(struct.pack("<Q", 2**63))) + bytes(99), "ends within a record"),
        (bytes(MAX_BYTES + 1), "larger than 1 MiB"),
        (record(event(b"\xff\xfe", 1.0)), "no text"),
        (record(b"\x10" + b"\xff" * 30), "a number does not end"),
        (record(b"\x2a\x7f\x00"), "longer than the whole"),
        (record(b"\x2a" + b"\xff" * 9 + b"\x01"), "longer than the whole"),
        (record(b"\x15\x00"), "longer than the whole"),
        (record(b"\x13"), "is no event"),
        (record(b"\x14"), "is no event"),
        (record(b"\x17"), "is no event"),
    ],
)
def test_hostile_bytes_give_a_sentence(data, sentence):
    """Whatever is wrong is said, and nothing else is raised."""
    with pytest.raises(NotEvents, match=sentence):
        read_scalars(data)


def test_any_bytes_are_scalars_or_a_sentence():
    """Also where checksums are right, so that the events themselves are read."""
    chance = random.Random(7)
    seed = event(b"loss", 2.5) + field(5, field(1, field(8, field(5, bytes(4)))))
    for _ in range(3000):
        data = bytearray(seed)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        with contextlib.suppress(NotEvents):
            assert all(isinstance(scalar, Scalar) for scalar in read_scalars(record(bytes(data))))
