"""Messages between the trusted process and the zygote. Each is one packet of JSON on their control socket.

The zygote's parent sends `Start` once and gets `Ready`. `Share` gives another process a control socket of its own. Each of them sends
`Fork` and `Reap`, and gets `Forked` and `Reaped`.
"""

import msgspec
from msgspec import Struct

from grader.protocol.confinement import Layers, Permissions

__all__ = [
    "MAX_PACKET",
    "Answer",
    "Enclosure",
    "Fork",
    "Forked",
    "Order",
    "Ready",
    "Reap",
    "Reaped",
    "Share",
    "Start",
    "pack",
    "parse_answer",
    "parse_order",
]

MAX_PACKET = 1 << 16
"""Largest message in bytes."""


class Enclosure(Struct, frozen=True):
    """What the zygote still sees of the file system once it is in namespaces of its own."""

    visible: tuple[str, ...]
    home: str


class Start(Struct, frozen=True, tag="start"):
    """Load torch and what the bans name; then move into the enclosure, if there is one."""

    enclosure: Enclosure | None
    bans: tuple[str, ...]


class Ready(Struct, frozen=True, tag="ready"):
    """The zygote can fork. `package` is the folder of the grader's code that it runs."""

    package: str


class Share(Struct, frozen=True, tag="share"):
    """Take orders from another process as well; its end of a control socket comes along as a descriptor."""


class Fork(Struct, frozen=True, tag="fork"):
    """Fork a worker; its channel and its output come along as descriptors. Unconfined where `layers` is None.

    `permissions.memory_bytes` counts from what the zygote has.
    """

    permissions: Permissions
    layers: Layers | None


class Forked(Struct, frozen=True, tag="forked"):
    """The worker's process, and why it could not be confined and therefore runs nothing (empty where it could)."""

    pid: int
    problem: str


class Reap(Struct, frozen=True, tag="reap"):
    """Wait for a worker that has been killed or has ended."""

    pid: int


class Reaped(Struct, frozen=True, tag="reaped"):
    """How a worker ended, as waitpid tells, with its CPU seconds and peak memory in KiB."""

    status: int
    cpu_seconds: float
    peak_kib: int


Order = Start | Share | Fork | Reap
Answer = Ready | Forked | Reaped

_ENCODER = msgspec.json.Encoder()
_ORDER = msgspec.json.Decoder(Order)
_ANSWER = msgspec.json.Decoder(Answer)


def pack(message: Order | Answer) -> bytes:
    """One packet."""
    return _ENCODER.encode(message)


def parse_order(packet: bytes) -> Order:
    """For the zygote."""
    order: Order = _ORDER.decode(packet)
    return order


def parse_answer(packet: bytes) -> Answer:
    """For the trusted process. Raises: msgspec.DecodeError."""
    answer: Answer = _ANSWER.decode(packet)
    return answer
