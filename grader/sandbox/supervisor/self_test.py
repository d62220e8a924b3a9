"""Finds out which protections are in force on this machine, by trying to break them from inside a worker.

The hostile module below is loaded like a student's. It runs once before official grading. If a protection does not hold, nothing is
graded, unless unconfined grading was asked for explicitly.
"""

import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from grader.course.manifest import Limits
from grader.protocol.probes import freeze
from grader.sandbox.supervisor.isolation import NotConfined
from grader.sandbox.supervisor.worker_handle import Ended, WorkerHandle
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle

__all__ = ["Protection", "ensure_confined", "inspect_protections"]


class Protection(Struct, frozen=True):
    """One thing that student code must not be able to do, and what happened when it was tried."""

    name: str
    holds: bool
    detail: str
    required: bool = True
    """Official grading needs it. Others come with a layer that not every machine has."""


_ATTEMPTS = {
    "read a file outside": "open(m.CANARY).read()",
    "change a file outside": "open(m.CANARY, 'a').write('x')",
    "create a file outside": "open(m.CANARY + '.new', 'w').close()",
    "list the home folder": "os.listdir(os.path.dirname(m.CANARY))",
    "read another worker's files": "open(m.SIBLING).read()",
    "write among another worker's files": "open(m.SIBLING, 'a').write('x')",
    "change a file's mode": "os.chmod(m.CANARY, 0o777)",
    "open a TCP socket": "socket.create_connection(('127.0.0.1', m.PORT), 1)",
    "open a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "open a unix socket": "socket.socket(socket.AF_UNIX)",
    "start a process": "os.fork() or os._exit(0)",
    "run a program": "os.execv('/bin/true', ['true'])",
    "signal the grader": "os.kill(m.GRADER, 0)",
    "read the grader's environment": "open(f'/proc/{m.GRADER}/environ').read()",
    "read the grader's memory": "open(f'/proc/{m.GRADER}/mem', 'rb')",
    "change the grader's limits": "resource.prlimit(m.GRADER, resource.RLIMIT_NOFILE)",
    "trace the grader": "m.refused(101, 0x4206, m.GRADER, 0, 0)",
    "read memory across processes": "m.refused(310, m.GRADER, 0, 0, 0, 0, 0)",
    "make a memory file": "os.memfd_create('x')",
    "reserve disk space": "os.posix_fallocate(os.open('space', os.O_CREAT | os.O_RDWR), 0, 4096)",
    "lock a file that others read": "m.refused(73, os.open(os.__file__, os.O_RDONLY), 1)",
    "lock a part of such a file": "m.lock(os.open(os.__file__, os.O_RDONLY))",
    "see the grader's session": "os.getsid(m.GRADER)",
    "see the grader's priority": "os.getpriority(os.PRIO_PROCESS, m.GRADER)",
    "see the grader's processors": "os.sched_getaffinity(m.GRADER)",
    "make a device": "m.whiteout()",
    "make a link": "os.symlink(m.CANARY, 'link')",
    "write beside Python's modules": "open(os.path.join(os.path.dirname(os.__file__), 'planted.pth'), 'w').close()",
    "make namespaces": "m.refused(272, 0x10000000)",
    "set up io_uring": "m.refused(425, 1, 0)",
    "use the keyring": "m.refused(250, 0, -3, 0)",
    "share System V memory": "m.refused(29, 0, 4096, 0o1600)",
    "keep a capability": "m.capability()",
    "see the grader's variables": "os.environ[m.SECRET]",
}

_NAMES = "see which files exist outside"
_ATTEMPTS[_NAMES] = "os.stat(m.CANARY)"
_NOT_REQUIRED = {_NAMES}  # names and sizes of files say nothing about answers, so scores stay right

_HOSTILE = """
import ctypes, os, socket, resource
CANARY, SIBLING, PORT, GRADER, SECRET = {canary!r}, {sibling!r}, {port}, {grader}, {secret!r}
LIBC = ctypes.CDLL(None, use_errno=True)
def refused(*numbers):
    if LIBC.syscall(*map(ctypes.c_long, numbers)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def lock(descriptor):
    import fcntl
    fcntl.lockf(descriptor, fcntl.LOCK_SH)
def whiteout():
    open("old", "w").close()
    place = ctypes.c_long(os.open(".", os.O_RDONLY))
    if LIBC.syscall(ctypes.c_long(316), place, b"old", place, b"new", ctypes.c_long(4)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def capability():
    header, data = ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20" + bytes(4), 8), ctypes.create_string_buffer(24)
    LIBC.syscall(125, header, data)
    if not any(data.raw[:16]):
        raise OSError(1, "all dropped")
def attempt(code):
    import sys
    try:
        exec(compile(code, "attempt", "exec"), {{"os": os, "socket": socket, "resource": resource, "m": sys.modules[__name__]}})
    except OSError as error:
        return error.strerror
    except KeyError:
        return "not there"
    return None
"""


def inspect_protections(zygote: ZygoteHandle) -> list[Protection]:
    """Try each forbidden thing from inside a worker. Raises: ZygoteError."""
    protections: list[Protection] = []
    with tempfile.TemporaryDirectory(prefix="grader-canary-") as folder, socket.create_server(("127.0.0.1", 0)) as server:
        canary, sibling, text = Path(folder) / "canary", Path(zygote.home) / "canary", secrets.token_hex(16)
        canary.write_text(text)
        sibling.write_text(text)  # where the namespaces hide the machine's files, only Landlock hides this one
        secret = f"GRADER_CANARY_{secrets.token_hex(4)}"
        os.environ[secret] = text
        source = _HOSTILE.format(canary=str(canary), sibling=str(sibling), port=server.getsockname()[1], grader=os.getpid(), secret=secret)
        try:
            while len(protections) < len(_ATTEMPTS):
                protections += _try(zygote, source, list(_ATTEMPTS)[len(protections) :])
        finally:
            del os.environ[secret]
        intact = (
            canary.read_text() == sibling.read_text() == text
            and os.listdir(folder) == ["canary"]
            and canary.stat().st_mode & 0o777 != 0o777
        )
        sibling.unlink()
        protections.append(Protection("leave a trace on the canary", intact, "unchanged" if intact else "it was changed"))
    return protections


def _try(zygote: ZygoteHandle, source: str, names: list[str], *, again: bool = False) -> Iterator[Protection]:
    """Try these in one worker, until one of them takes the worker along. One that was killed is tried again."""
    limits = Limits(test_seconds=5, test_cpu_seconds=5)
    with WorkerHandle(zygote, limits) as worker:
        name = names[0]
        try:
            worker.load("hostile", source, [], [])
            for name in names:
                refusal = worker.call(_attempt(_ATTEMPTS[name]), 0, (), limits).value
                yield Protection(name, refusal is not None, str(refusal or "it worked"), name not in _NOT_REQUIRED)
        except Ended as end:
            if end.killed and not again:  # not by an attempt
                yield from _try(zygote, source, [name], again=True)
            else:
                yield Protection(name, False, f"the worker did not come back: {end.outcome.message}")


def _attempt(code: str) -> bytes:
    return freeze(lambda m: m.attempt(code))


def ensure_confined(zygote: ZygoteHandle) -> None:
    """Refuse to grade when a protection does not hold. Raises: NotConfined, ZygoteError."""
    through = [protection.name for protection in inspect_protections(zygote) if protection.required and not protection.holds]
    if through:
        raise NotConfined(f"student code could {' and '.join(through)} here, so scores can't be trusted: run `grader doctor` for details")
