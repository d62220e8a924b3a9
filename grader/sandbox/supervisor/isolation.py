"""Whether students' code is confined on this machine, and what results.json says of it."""

import os
import platform
import secrets
import sys

from msgspec import Struct

from grader.protocol.confinement import Layers
from grader.sandbox.worker.confine import landlock_abi, supported
from grader.sandbox.worker.enclose import can_enclose

__all__ = ["Isolation", "NotConfined", "choose_layers", "describe_machine", "draw_seed", "isolation", "machine_layers"]


class NotConfined(Exception):
    """Students' code can't be confined here; the text says why and what to do."""


class Isolation(Struct, frozen=True):
    """What results.json records of how students' code was run."""

    confined: bool
    landlock_abi: int
    seccomp: bool
    namespaces: bool


def machine_layers() -> Layers | None:
    """All the layers that this machine has; None where it can't confine."""
    return Layers(landlock_abi(), namespaces=can_enclose()) if supported() is None else None


def choose_layers(*, allow_unconfined: bool, trusted: bool = False) -> Layers | None:
    """What confines students' code on this machine. None for trusted code, and where nothing can, if allowed. Raises: NotConfined."""
    if sys.platform == "win32":
        raise NotConfined("the grader needs processes that fork, which Windows lacks: use WSL, or run the public tests with `pytest`")
    if trusted:
        return None
    reason = supported()
    if reason is None or allow_unconfined:
        return machine_layers()
    raise NotConfined(
        f"{reason}. Scores of code that isn't confined can't be trusted. For practice, add --allow-unconfined: "
        "the results will say so. For official grading, use a Linux machine that `grader doctor` is content with."
    )


def isolation(layers: Layers | None) -> Isolation:
    """The record for results.json."""
    if layers is None:
        return Isolation(False, 0, False, False)
    return Isolation(True, layers.landlock_abi, layers.seccomp, layers.namespaces)


def describe_machine() -> str:
    """The system, for `grader doctor`."""
    user = "root" if getattr(os, "geteuid", lambda: 1)() == 0 else "ordinary user"
    return f"{platform.system()} {platform.release()} {platform.machine()}, {user}"


def draw_seed() -> int:
    """A fresh secret seed for a run."""
    return secrets.randbits(48)
