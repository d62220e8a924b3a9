"""Messages between the trusted process and a worker: length-prefixed JSON of typed structs, each with one block of bytes.

Both sides import this module, so it knows nothing of tests or references. Requests carry a pickled probe in their block, which only
the worker opens; replies carry safetensors in theirs, which the trusted process decodes strictly.
"""

import struct

import msgspec
from msgspec import Struct

from grader.protocol.values import Malformed, Node

__all__ = [
    "HEADER",
    "MAX_STRUCTURE",
    "Call",
    "Load",
    "Loaded",
    "Raised",
    "Reply",
    "Request",
    "Returned",
    "pack",
    "parse_reply",
    "parse_request",
]

HEADER = struct.Struct("=IQ")
"""Sizes in bytes of the JSON and of the block that follow."""
MAX_STRUCTURE = 1 << 20
"""Largest JSON that is accepted from a worker."""


class Load(Struct, frozen=True, tag="load"):
    """Compile and run the student's module within so many seconds, cell by cell where it is a notebook: they begin at the lines `cells`."""

    module: str
    source: str
    cells: list[int]
    tasks: list[str]
    bans: list[str]
    seconds: float


class Call(Struct, frozen=True, tag="call"):
    """Run the probe in the block on the student's module, from this random seed, watching for these bans."""

    nonce: str
    seed: int
    bans: list[str]


class Loaded(Struct, frozen=True, forbid_unknown_fields=True, tag="loaded"):
    """The module ran; what each task's name is bound to: "function", "class", "missing", or another type's name."""

    kinds: dict[str, str]


class Returned(Struct, frozen=True, forbid_unknown_fields=True, tag="returned"):
    """The probe returned. `left` is what it left behind otherwise than it found it."""

    nonce: str
    value: Node
    banned: list[str]
    left: list[str]


class Raised(Struct, frozen=True, forbid_unknown_fields=True, tag="raised"):
    """The module or the probe raised. `place` is where in the student's file, and `call` how that file was entered.

    `in_torch` marks a NotImplementedError of torch's own, for copies of meta tensors and the like, which is no stub's. `advice` says
    what to do about what works elsewhere and not in a worker.
    """

    nonce: str
    error: str
    in_torch: bool
    message: str
    place: str
    call: str
    banned: list[str]
    advice: str = ""


Request = Load | Call
Reply = Loaded | Returned | Raised

_ENCODER = msgspec.json.Encoder()
_REQUEST = msgspec.json.Decoder(Request)
_REPLY = msgspec.json.Decoder(Reply)


def pack(message: Request | Reply, block: bytes = b"") -> bytes:
    """One frame."""
    body = _ENCODER.encode(message)
    return HEADER.pack(len(body), len(block)) + body + block


def parse_request(body: bytes) -> Request:
    """For the worker, which trusts its sender."""
    request: Request = _REQUEST.decode(body)
    return request


def parse_reply(body: bytes) -> Reply:
    """For the trusted process. Raises: Malformed."""
    try:
        reply: Reply = _REPLY.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed("the reply's structure is not well-formed") from error
    return reply
