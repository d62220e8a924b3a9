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
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # torch.optim and torch.utils import these lazily, hundreds of files each
import torch.distributed.tensor
import torch.optim

import grader
from grader.base.torchvision_compat import import_torchvision
from grader.protocol.control import MAX_PACKET, Fork, Forked, Order, Ready, Reap, Reaped, Share, Start, pack, parse_order
from grader.protocol.watch import prepare
from grader.sandbox.worker import worker
from grader.sandbox.worker.confine import confine
from grader.sandbox.worker.enclose import enclose

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


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
    controls = {control.fileno(): control}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            packet, ancillary, _, _ = controls[ready].recvmsg(MAX_PACKET, socket.CMSG_SPACE(2 * 4))
            if packet:
                _obey(parse_order(packet), array.array("i", ancillary[0][2] if ancillary else b""), controls[ready], controls, poll)
            elif controls[ready] is control:
                return
            else:
                poll.unregister(ready)
                controls.pop(ready).close()


def _obey(
    order: Order, descriptors: "array.array[int]", control: socket.socket, controls: dict[int, socket.socket], poll: select.poll
) -> None:
    match order:
        case Share():
            (descriptor,) = descriptors
            controls[descriptor] = socket.socket(fileno=descriptor)
            poll.register(descriptor, select.POLLIN)
        case Reap(pid):
            _, status, usage = os.wait4(pid, 0)
            control.send(pack(Reaped(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)))
        case Fork():
            channel, output = descriptors
            report, theirs = os.pipe()
            pid = os.fork()
            if pid == 0:
                _become_worker(order, channel, output, theirs)
            for descriptor in (channel, output, theirs):
                os.close(descriptor)
            with open(report, "rb") as file:
                problem = file.read(1000)  # ends when the worker closes its end, before it reads any of the student's code
            control.send(pack(Forked(pid, problem.decode(errors="replace"))))


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


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
        os.chdir(fork.permissions.scratch)
        os.environ.clear()
        os.environ.update(HOME=fork.permissions.scratch, TMPDIR=fork.permissions.scratch, LANG="C.UTF-8")
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
