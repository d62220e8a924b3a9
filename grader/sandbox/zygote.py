"""The zygote: a separate interpreter with torch loaded that forks one confined worker a request.

Run as `python -s -P -m grader.sandbox.zygote DESCRIPTOR`. It may not import solutions, tests or the manifest, is given no secret, and
runs no parallel region (a warm OpenMP pool hangs in a fork). It alone reaps its workers, and when it dies they die.
"""

import array
import ctypes
import fcntl
import gc
import os
import signal
import socket
import sys
import tempfile

import msgspec
import torch
import torch._dynamo  # torch.optim and torch.utils import these lazily, hundreds of files each
import torch.distributed.tensor
import torch.optim
from msgspec import Struct

from grader.sandbox import worker
from grader.sandbox.confine import ConfinementError, Permissions, confine

__all__ = ["Fork", "Forked", "Reap", "Reaped"]

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


class Fork(Struct, frozen=True, tag="fork"):
    """Fork a worker; its channel and its output come along as descriptors. Unconfined where `permissions` is None."""

    scratch: str
    permissions: Permissions | None


class Reap(Struct, frozen=True, tag="reap"):
    """Wait for a worker that has been killed or has ended."""

    pid: int


class Forked(Struct, frozen=True, tag="forked"):
    """The worker's process."""

    pid: int


class Reaped(Struct, frozen=True, tag="reaped"):
    """How a worker ended, as waitpid tells, with its CPU seconds and peak memory in KiB."""

    status: int
    cpu_seconds: float
    peak_kib: int


def main() -> None:
    """Serve until the trusted process closes the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.setsid()  # a Ctrl-C in the terminal is the trusted process's to handle
    _die_with_parent()
    torch.set_num_threads(1)
    decoder = msgspec.json.Decoder(Fork | Reap)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page it touches
    control.send(b"ready")
    while True:
        message, ancillary, _, _ = control.recvmsg(1 << 16, socket.CMSG_SPACE(2 * 4))
        if not message:
            return
        request = decoder.decode(message)
        if isinstance(request, Reap):
            _, status, usage = os.wait4(request.pid, 0)
            control.send(msgspec.json.encode(Reaped(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)))
            continue
        descriptors = array.array("i", ancillary[0][2])
        pid = os.fork()
        if pid == 0:
            _become_worker(request, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(msgspec.json.encode(Forked(pid)))


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _become_worker(fork: Fork, channel: int, output: int) -> None:
    """Never returns."""
    try:
        parent = os.getppid()
        os.setsid()
        _die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        clear = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (null, output, output, channel)]
        for number, descriptor in enumerate(clear):  # standard input, output, error, and the channel
            os.dup2(descriptor, number)
        os.closerange(worker.CHANNEL + 1, 4096)
        os.chdir(fork.scratch)
        os.environ.clear()
        os.environ.update(HOME=fork.scratch, TMPDIR=fork.scratch, LANG="C.UTF-8")
        tempfile.tempdir = None  # asked again, now that TMPDIR is the scratch folder
        if fork.permissions is not None:
            confine(fork.permissions)
        worker.serve()
    except ConfinementError as error:
        os.write(2, f"confinement failed: {error}".encode())
        os._exit(UNCONFINED)
    except BaseException as error:
        os.write(2, f"worker failed: {error!r}"[:500].encode())
    os._exit(1)


UNCONFINED = 86
"""Exit status of a worker that could not be confined and therefore ran nothing."""

if __name__ == "__main__":
    main()
