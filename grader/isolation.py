"""Whether students' code is confined on this machine, and what results.json says of it."""

import os
import platform
import secrets
import sys

from msgspec import Struct

from grader.sandbox.confine import landlock_abi, supported

__all__ = ["Isolation", "NotConfined", "choose_confinement", "describe_machine", "draw_seed", "isolation"]


class NotConfined(Exception):
    """Students' code can't be confined here; the text says why and what to do."""


class Isolation(Struct, frozen=True):
    """What results.json records of how students' code was run."""

    confined: bool
    landlock_abi: int
    seccomp: bool


def choose_confinement(*, allow_unconfined: bool) -> bool:
    """True where this machine can confine; False where it can't and that is allowed. Raises: NotConfined."""
    if sys.platform == "win32":
        raise NotConfined("the grader needs processes that fork, which Windows lacks: use WSL, or run the public tests with `pytest`")
    reason = supported()
    if reason is None:
        return True
    if allow_unconfined:
        return False
    raise NotConfined(
        f"{reason}. Scores of code that isn't confined can't be trusted. For practice, add --allow-unconfined: "
        "the results will say so. For official grading, use a Linux machine that `grader doctor` is content with."
    )


def isolation(confined: bool) -> Isolation:
    """The record for results.json."""
    return Isolation(confined, landlock_abi() if confined else 0, confined)


def describe_machine() -> str:
    """The system, for `grader doctor`."""
    user = "root" if getattr(os, "geteuid", lambda: 1)() == 0 else "ordinary user"
    return f"{platform.system()} {platform.release()} {platform.machine()}, {user}"


def draw_seed() -> int:
    """A fresh secret seed for a run."""
    return secrets.randbits(48)
