"""The zygote: a separate interpreter with torch loaded that forks one confined worker a request.

It may not import solutions, tests or the manifest, is given no secret, and runs no parallel region (a warm OpenMP pool hangs in a fork).
It alone reaps its workers, and when it dies they die.
"""

import array
import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # torch.optim and torch.utils import these lazily, hundreds of files each
import torch.distributed.tensor
import torch.optim

import grader
import grader.protocol.ranks_group  # a worker sees no file of the grader's
from grader.base.processes import die_with_parent
from grader.base.torchvision_compat import import_torchvision
from grader.protocol.control import MAX_PACKET, Answer, Fork, Forked, Ready, Reap, Reaped, Share, Start, pack, parse_order
from grader.protocol.watch import prepare
from grader.sandbox.worker import worker
from grader.sandbox.worker.confine import confine
from grader.sandbox.worker.enclose import enclose, limit_scratch

_PR_SET_DUMPABLE = 4


_size = -1
"""/proc/self/statm of the zygote, opened while there is a /proc to be seen."""


def main(descriptor: int) -> None:
    """Serve until the trusted process closes the control socket, which this descriptor is."""
    control = socket.socket(fileno=descriptor)
    os.setsid()  # a Ctrl-C in the terminal is the trusted process's to handle
    _die_with_parent()
    torch.set_num_threads(1)
    import_torchvision()
    importlib.import_module("torchvision.transforms.v2")
    start = parse_order(control.recv(MAX_PACKET))
    assert isinstance(start, Start)
    prepare(start.bans)
    global _size
    if sys.platform.startswith("linux"):
        _size = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    package = str(Path(grader.__file__).resolve().parent)
    if start.enclosure:
        _let_parent_look()  # or else an ordinary user may not write the maps of users and groups
        enclose(start.enclosure.visible, start.enclosure.home)
        _die_with_parent()  # once more: new credentials took it away
    gc.freeze()  # a collection in a fork would copy every page it touches
    gc.enable()
    control.send(pack(Ready(package)))
    _Desk().serve(control)


class _Desk:
    """Takes orders from several processes. Nobody's order waits for another's worker."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._waiting: dict[int, Callable[[], None]] = {}
        """What to do when there is something to read from a descriptor."""
        self._owners: dict[int, socket.socket] = {}
        """Who asked for a worker, by the worker's process, until it is to be reaped."""

    def serve(self, parent: socket.socket) -> None:
        """Obey until the parent closes its end."""
        self._take_orders_from(parent)
        while parent.fileno() in self._waiting:
            for descriptor, _ in self._poll.poll():
                if act := self._waiting.get(descriptor):
                    act()

    def _when_readable(self, descriptor: int, act: Callable[[], None]) -> None:
        self._waiting[descriptor] = act
        self._poll.register(descriptor, select.POLLIN)

    def _forget(self, descriptor: int) -> None:
        del self._waiting[descriptor]
        self._poll.unregister(descriptor)

    def _take_orders_from(self, control: socket.socket) -> None:
        self._when_readable(control.fileno(), lambda: self._obey(control))

    def _obey(self, control: socket.socket) -> None:
        try:
            packet, ancillary, _, _ = control.recvmsg(MAX_PACKET, socket.CMSG_SPACE(2 * 4))
        except OSError:  # its process died with an answer unread
            packet, ancillary = b"", []
        if not packet:
            self._dismiss(control)
            return
        descriptors = array.array("i", ancillary[0][2] if ancillary else b"")
        match parse_order(packet):
            case Share():
                self._take_orders_from(socket.socket(fileno=descriptors[0]))
            case Fork() as order:
                self._fork(order, *descriptors, control=control)
            case Reap(pid):
                self._reap_when_ended(pid, control)

    def _fork(self, order: Fork, channel: int, output: int, *, control: socket.socket) -> None:
        report, theirs = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes or too little memory: one worker's trouble, not everybody's
            for descriptor in (channel, output, report, theirs):
                os.close(descriptor)
            _answer(control, Forked(0, f"no process for it: {error.strerror}"))
            return
        if pid == 0:
            _become_worker(order, channel, output, theirs)
        for descriptor in (channel, output, theirs):
            os.close(descriptor)
        self._owners[pid] = control
        self._when_readable(report, lambda: self._tell_forked(report, pid, control))

    def _tell_forked(self, report: int, pid: int, control: socket.socket) -> None:
        """The worker has closed its end, or said why it can't. It does so before it reads any of the student's code."""
        problem = os.read(report, 1000)
        self._forget(report)
        os.close(report)
        _answer(control, Forked(pid, problem.decode(errors="replace")))

    def _reap_when_ended(self, pid: int, control: socket.socket) -> None:
        del self._owners[pid]
        try:
            ended = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not on Linux: it has been killed, so this does not take long
            self._reap(pid, control)
        else:
            self._when_readable(ended, lambda: self._reap(pid, control, ended))

    def _reap(self, pid: int, control: socket.socket, ended: int | None = None) -> None:
        if ended is not None:
            self._forget(ended)
            os.close(ended)
        _, status, usage = os.wait4(pid, 0)
        _answer(control, Reaped(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss))

    def _dismiss(self, control: socket.socket) -> None:
        """End the workers of a process that is gone: nobody else holds their limits."""
        self._forget(control.fileno())
        for pid in [pid for pid, owner in self._owners.items() if owner is control]:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number can't be another's
            self._reap_when_ended(pid, control)
        control.close()


def _answer(control: socket.socket, answer: Answer) -> None:
    with contextlib.suppress(OSError):  # who asked may be gone
        control.send(pack(answer))


def _die_with_parent() -> None:
    die_with_parent()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _let_parent_look() -> None:
    """Let processes of this user look into this one. The trusted process looks at a worker's open files, to limit them."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _address_space() -> int:
    """Bytes that the zygote takes, and so a fresh fork of it."""
    return int(os.pread(_size, 100, 0).split()[0]) * os.sysconf("SC_PAGESIZE") if _size >= 0 else 0


def _become_worker(fork: Fork, channel: int, output: int, report: int) -> None:
    """Never returns. Whatever fails before the confinement is complete is written to `report`."""
    try:
        parent = os.getppid()
        space = _address_space()
        os.setsid()
        _die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        clear = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (null, output, output, channel, report)]
        for number, descriptor in enumerate(clear):  # standard input, output, error, the channel, and the report
            os.dup2(descriptor, number)
        report = worker.CHANNEL + 1
        os.closerange(report + 1, 4096)
        if fork.layers is not None and fork.layers.namespaces:
            limit_scratch(fork.permissions.scratch, fork.permissions.scratch_bytes)
        os.chdir(fork.permissions.scratch)
        os.environ.clear()
        scratch = fork.permissions.scratch
        os.environ.update(HOME=scratch, TMPDIR=scratch, LANG="C.UTF-8")
        # torch.compile asks for the user's name, even where its folder is given; in a worker, the system may know none.
        os.environ.update(LOGNAME="student", TORCHINDUCTOR_CACHE_DIR=os.path.join(scratch, ".torchinductor"))
        tempfile.tempdir = None  # asked again, now that TMPDIR is the scratch folder
        _let_parent_look()
        if fork.layers is not None:
            confine(replace(fork.permissions, memory_bytes=fork.permissions.memory_bytes + space), fork.layers)
    except BaseException as error:
        os.write(report, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(report)
    with contextlib.suppress(BaseException):
        worker.serve()
    os._exit(1)
