"""The trusted process's handle on the zygote. Imports no torch, so that the zygote can load its own at the same time."""

import array
import contextlib
import copy
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import grader
from grader.base.text import one_line
from grader.base.time_limit import ONE_THREAD
from grader.course.manifest import Limits
from grader.protocol.confinement import Layers, Permissions
from grader.protocol.control import (
    MAX_PACKET,
    Answer,
    Enclosure,
    Fork,
    Forked,
    Order,
    Ready,
    Reap,
    Reaped,
    Share,
    Start,
    pack,
    parse_answer,
)
from grader.sandbox.worker.confine import readable_paths

__all__ = ["SETTINGS", "Usage", "ZygoteError", "ZygoteGone", "ZygoteHandle"]

_MIB = 1 << 20
_PACKAGE = Path(grader.__file__).resolve().parent

SETTINGS = {
    **ONE_THREAD,
    # Keep freed memory. Giving it back and fetching it again for each large tensor takes a tenth of the time.
    "MALLOC_MMAP_THRESHOLD_": str(32 * _MIB),
    "MALLOC_TRIM_THRESHOLD_": str(256 * _MIB),
    "MALLOC_TOP_PAD_": str(4 * _MIB),
}
"""Environment variables for processes that compute: workers, and the job processes that check them."""
_PROGRAM = """
import gc, sys
gc.disable()
folder, descriptor = sys.argv[1:]
sys.path.insert(0, folder)
import grader.sandbox.worker.zygote
sys.path.remove(folder)
grader.sandbox.worker.zygote.main(int(descriptor))
"""
"""Runs this code, and not that of another checkout that happens to be installed. Imports make hardly any garbage, so none is looked for."""

A = TypeVar("A", bound=Answer)


class ZygoteError(Exception):
    """The zygote does not answer, or can't confine: the grader's own fault, never the student's."""


class ZygoteGone(ZygoteError):
    """It has ended, or does not answer any more."""


@dataclass(frozen=True)
class Usage:
    """What a worker used: for timings, never for scores."""

    cpu_seconds: float = 0.0
    peak_kib: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.cpu_seconds + other.cpu_seconds, max(self.peak_kib, other.peak_kib))


class ZygoteHandle:
    """The exec'd interpreter that forks workers. Use as a context manager, in the thread that outlives it."""

    def __init__(self, layers: Layers | None, bans: Iterable[str] = ()) -> None:
        """Start it. `layers` confine its workers; None means that nothing does.

        What `bans` name is loaded before the first fork, so that no worker has to load it.
        """
        self.layers = layers
        self._readable = readable_paths() if layers else ()
        self.home = tempfile.mkdtemp(prefix="grader-")
        """Where the workers' scratch folders are."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-c", _PROGRAM, str(_PACKAGE.parent), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**SETTINGS, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self._control = ours
        self._ready, self._shared = False, False
        self.killed = False
        """Whether its end, as far as it is known here, was that somebody killed it."""
        enclosure = Enclosure(self._readable, self.home) if layers and layers.namespaces else None
        with contextlib.suppress(OSError):  # if it has died, waiting for its answer will tell
            self._control.send(pack(Start(enclosure, tuple(bans))))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        if self._shared:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def share(self) -> Self:
        """A handle on the same zygote, for a process forked from this one. Closing it does not end the zygote. Raises: ZygoteError."""
        self.wait_until_ready()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._order(Share(), theirs.fileno())
        ours.settimeout(self._control.gettimeout())
        other = copy.copy(self)
        other._control, other._shared = ours, True
        return other

    @property
    def cpu_seconds(self) -> float:
        """What the zygote itself has used, forking included."""
        return time.clock_gettime((~self._process.pid << 3) | 2)  # clock_getcpuclockid(3)

    def wait_until_ready(self) -> None:
        """Wait for torch to be loaded there. Raises: ZygoteError."""
        if not self._ready:
            self._control.settimeout(120)
            package = self._answer(Ready).package
            if package != str(_PACKAGE):
                raise ZygoteError(
                    f"workers would run the code in {package}, not that in {_PACKAGE}: install the grader from one folder only"
                )
            self._ready = True
            self._control.settimeout(30)

    def fork(self, scratch: str, limits: Limits, channel: int, output: int) -> int:
        """Fork a worker that owns these descriptors; returns its pid. Raises: ZygoteError."""
        self.wait_until_ready()
        permissions = Permissions(self._readable, scratch, limits.memory_mib * _MIB, limits.scratch_mib * _MIB)
        self._order(Fork(permissions, self.layers), channel, output)
        answer = self._answer(Forked)
        if answer.problem:
            if answer.pid:
                self.reap(answer.pid)
            raise ZygoteError(f"a worker could not be confined: {one_line(answer.problem, 300)}")
        return answer.pid

    def reap(self, pid: int) -> tuple[int, Usage]:
        """Collect a killed or ended worker: its exit code (minus the signal's number) and what it used. Raises: ZygoteError."""
        self._order(Reap(pid))
        answer = self._answer(Reaped)
        return os.waitstatus_to_exitcode(answer.status), Usage(answer.cpu_seconds, answer.peak_kib)

    def _order(self, order: Order, *descriptors: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._control.sendmsg([pack(order)], rights)
        except OSError as error:
            raise ZygoteGone(f"the zygote is gone: {error}") from None

    def _last_words(self) -> str:
        """What it wrote to standard error; only its parent can end it and wait for that."""
        if self._shared or self._process.stderr is None:
            return "no more is known in this process"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.killed = self._process.wait(1) == -signal.SIGKILL
        self._process.kill()
        return one_line(self._process.stderr.read().decode(errors="replace")[-400:], 400)

    def _answer(self, kind: type[A]) -> A:
        try:
            packet = self._control.recv(MAX_PACKET)
        except OSError as error:
            packet, reason = b"", str(error)
        else:
            reason = "it ended"
        if not packet:
            raise ZygoteGone(f"the zygote does not answer ({reason}): {self._last_words()}")
        answer = parse_answer(packet)
        if not isinstance(answer, kind):
            raise ZygoteError(f"the zygote answered {type(answer).__name__} where {kind.__name__} was due")
        return answer
