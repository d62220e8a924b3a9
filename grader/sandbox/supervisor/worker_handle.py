"""The trusted process's handle on a worker: sends, receives strictly, keeps every limit from outside.

A worker may do anything at any time: close its channel, stop itself, announce ten gigabytes, send one byte a second. So nothing here
waits for end-of-file or longer than a deadline, sizes are checked before they are read, and a worker ends by SIGKILL and a reap.
"""

import contextlib
import errno
import math
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from grader.base.outcome import Outcome, Status
from grader.base.text import clean, one_line
from grader.course.manifest import Limits
from grader.protocol.messages import HEADER, MAX_STRUCTURE, Call, Load, Loaded, Raised, Reply, Request, pack, parse_reply
from grader.protocol.traces import Answer
from grader.protocol.values import Malformed, decode
from grader.sandbox.supervisor.zygote_handle import Usage, ZygoteHandle
from grader.sandbox.worker.enclose import MAX_FILES

__all__ = ["Ended", "WorkerHandle"]

_TICK_SECONDS = 0.05
_SHORT_TICK_SECONDS = 0.01
"""Where the kernel does not limit a worker's files: a disk takes a hundred MiB in a long tick."""
_MIB, _KIB = 1 << 20, 1 << 10
_MAX_DEPTH = 16


class Ended(Exception):
    """A module or probe ended without returning. Carries the outcome for the student."""

    def __init__(self, outcome: Outcome, *, died: bool = False, call: str = "") -> None:
        """`call` says how the student's code had been called."""
        super().__init__(outcome.message)
        self.outcome = outcome
        self.died = died
        self.call = call
        self.in_probe = False
        """Whether the student's code had been asked something."""
        self.killed = False
        """Whether somebody killed the process: the system for want of memory, a person, or the code itself."""


class WorkerHandle:
    """One student's module in one confined process. Use as a context manager."""

    def __init__(self, zygote: ZygoteHandle, limits: Limits, packages: Sequence[str] = ()) -> None:
        """`packages` are those that student code may use, for the sentence about one that is missing."""
        self._zygote = zygote
        self._packages = packages
        self._limits = limits
        self._own_file_system = zygote.layers is not None and zygote.layers.namespaces
        self._scratch = tempfile.mkdtemp(prefix="worker-", dir=zygote.home)
        self.usage = Usage()
        self.printed = b""
        self._exit: int | None = None
        self._closed = False
        self._channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._output, output = os.pipe()
        try:
            self._pid = zygote.fork(self._scratch, limits, channel.fileno(), output)
        except BaseException:
            self._channel.close()
            os.close(self._output)
            _remove(self._scratch)
            raise
        finally:
            channel.close()
            os.close(output)
        self._channel.setblocking(False)
        os.set_blocking(self._output, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._closed:
            return
        self._closed = True
        self._channel.close()
        os.close(self._output)
        try:
            self._end()
        finally:
            _remove(self._scratch)

    def load(self, module: str, source: str, tasks: list[str], bans: list[str], cells: Sequence[int] = ()) -> dict[str, str]:
        """Run the student's module; returns what each task's name is bound to. Raises: Ended, ZygoteError."""
        limits = msgspec.structs.replace(
            self._limits, test_seconds=self._limits.import_seconds, test_cpu_seconds=self._limits.import_seconds
        )
        reply, _ = self._exchange(
            Load(module, source, list(cells), tasks, bans, limits.test_seconds), b"", limits, f"the import of {module}.py"
        )
        match reply:
            case Loaded(kinds):
                return {task: one_line(kinds.get(task, "missing"), 60) for task in tasks}
            case Raised():
                raise Ended(self._raised(reply, f"{module}.py does not run: "))
        raise self._malformed()

    def call(self, probe: bytes, seed: int, bans: tuple[str, ...], limits: Limits) -> Answer:
        """Run a pickled probe on the module. Raises: Ended, ZygoteError."""
        nonce = secrets.token_hex(8)  # ties the answer to the question, so that a stale or early frame does not count
        reply, block = self._exchange(Call(nonce, seed, list(bans)), probe, limits, "the test")
        if isinstance(reply, Loaded) or reply.nonce != nonce:
            raise self._malformed()
        if reply.banned:
            raise Ended(Outcome(Status.BANNED, f"{one_line(reply.banned[0], 100)} is not allowed in this task."))
        if isinstance(reply, Raised):
            raise Ended(self._raised(reply), call=one_line(reply.call, 300))
        try:
            return Answer(decode(reply.value, block), tuple(reply.left))
        except Malformed:
            raise self._malformed() from None

    # ---- one exchange, within limits

    def _exchange(self, request: Request, block: bytes, limits: Limits, doing: str) -> tuple[Reply, bytes]:
        """Let the worker run until it has answered. Between exchanges it stands still: nobody would look at it."""
        self._signal(signal.SIGCONT)
        answer = self._converse(request, block, limits, doing)
        self._signal(signal.SIGSTOP)
        self._look_at_threads(limits)  # an answer within a tick has been looked at by nobody
        self._look_at_files(limits)
        return answer

    def _converse(self, request: Request, block: bytes, limits: Limits, doing: str) -> tuple[Reply, bytes]:
        tick = _TICK_SECONDS if self._own_file_system else _SHORT_TICK_SECONDS
        clock = _Clock(self._pid, limits.test_seconds, limits.test_cpu_seconds, tick)
        outgoing, incoming = memoryview(pack(request, block)), bytearray()
        size: tuple[int, int] | None = None
        printed = 0
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        while True:
            poll.register(self._channel, select.POLLIN | (select.POLLOUT if outgoing else 0))
            events = dict(poll.poll(1000 * clock.next_tick()))
            if self._output in events:
                printed += self._drain(poll)
                if printed > limits.output_kib * _KIB:
                    message = f"printed more than {limits.output_kib} KiB while {doing} ran: take out the print calls."
                    raise self._killed(Outcome(Status.ERROR, message))
            ready = events.get(self._channel.fileno(), 0)
            if ready & select.POLLOUT:
                with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                    outgoing = outgoing[self._channel.send(outgoing) :]
            if ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
                if not self._receive(incoming):
                    raise self._died(doing)
                if size is None and len(incoming) >= HEADER.size:
                    size = HEADER.unpack_from(incoming)
                    if size[0] > MAX_STRUCTURE or size[1] > limits.reply_mib * _MIB:
                        message = (
                            f"returned too much: more than {limits.reply_mib} MiB of tensors or {MAX_STRUCTURE // _MIB} MiB of structure."
                        )
                        raise self._killed(Outcome(Status.ERROR, message))
                if size is not None and len(incoming) >= HEADER.size + sum(size):
                    body = bytes(incoming[HEADER.size : HEADER.size + size[0]])
                    tensors = bytes(incoming[HEADER.size + size[0] :])
                    if outgoing or len(tensors) != size[1]:
                        raise self._malformed()
                    try:
                        return parse_reply(body), tensors
                    except Malformed:
                        raise self._malformed() from None
            if clock.tick():
                self._enforce(clock, limits, doing)

    def _receive(self, incoming: bytearray) -> bool:
        """Take what has arrived. False if the worker closed its end."""
        try:
            chunk = self._channel.recv(1 << 20)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        incoming += chunk
        return bool(chunk)

    def _drain(self, poll: select.poll) -> int:
        """Take what was printed, and keep the first of it."""
        try:
            chunk = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return 0
        if not chunk:  # the student closed both standard streams
            poll.unregister(self._output)
        if len(self.printed) < 4 * _KIB:
            self.printed += chunk
        return len(chunk)

    def _enforce(self, clock: "_Clock", limits: Limits, doing: str) -> None:
        """Enforce the limits that can only be checked from outside. Raises: Ended."""
        if reason := clock.exceeded():
            raise self._killed(Outcome(Status.TIMED_OUT, f"ran out of time: {doing} took more than {reason}."))
        self._look_at_threads(limits)
        self._look_at_files(limits)

    def _look_at_threads(self, limits: Limits) -> None:
        if _threads(self._pid) > limits.threads:
            raise self._killed(Outcome(Status.ERROR, f"started more than {limits.threads} threads."))

    def _look_at_files(self, limits: Limits) -> None:
        """Where the kernel does not limit them. Raises: Ended."""
        if self._own_file_system:
            return
        if _scratch_bytes(self._scratch) + _nameless_bytes(self._pid) > limits.scratch_mib * _MIB:
            raise self._killed(Outcome(Status.ERROR, _too_many_files(limits)))

    # ---- ends

    def _raised(self, reply: Raised, prefix: str = "") -> Outcome:
        error, message = one_line(reply.error, 60), one_line(reply.message.replace(self._scratch, "."), 300)
        place = f" ({one_line(reply.place, 80)})" if reply.place else ""
        if reply.in_torch:
            error += " in torch"
        elif error == "NotImplementedError":
            return Outcome(Status.NOT_IMPLEMENTED, f"{prefix}not implemented yet.")
        if error == "MemoryError" or "DefaultCPUAllocator" in message:
            return Outcome(Status.OUT_OF_MEMORY, f"{prefix}asked for more memory than a test may have{place}.")
        if error in ("SystemExit", "KeyboardInterrupt"):
            return Outcome(Status.ERROR, f"{prefix}called exit{place}: take it out.")
        if error == "OSError" and message.startswith(f"[Errno {errno.ENOSPC}]"):
            return Outcome(Status.ERROR, f"{prefix}{_too_many_files(self._limits)}")
        advice = one_line(reply.advice, 200)
        if error == "ModuleNotFoundError":
            here = " and ".join(filter(None, [", ".join(["Python's standard library", *self._packages[:-1]]), *self._packages[-1:]]))
            advice = f"Here are {here}; a file beside the module can't be imported"
        return Outcome(Status.ERROR, clean(f"{prefix}{error}: {message}{place}{f'. {advice}.' if advice else ''}", 600))

    def _killed(self, outcome: Outcome) -> Ended:
        self._end()
        return Ended(outcome, died=True)

    def _malformed(self) -> Ended:
        return self._killed(
            Outcome(Status.ERROR, "the reply was not well-formed: return plain values and tensors, and leave the grader's files alone.")
        )

    def _died(self, doing: str) -> Ended:
        if not self._end(grace_seconds=1.0):
            return self._malformed()  # it closed its channel and lived on
        code = self._exit or 0
        if code == -signal.SIGKILL:
            end = Ended(Outcome(Status.OUT_OF_MEMORY, f"was killed while {doing} ran: out of memory, most likely."), died=True)
            end.killed = True
            return end
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return Ended(Outcome(Status.ERROR, f"crashed the process ({name}) while {doing} ran."), died=True)
        return Ended(Outcome(Status.ERROR, f"ended the process (exit status {code}): take out exit calls."), died=True)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)  # the zygote has not reaped it, so the process can't be another

    def _end(self, grace_seconds: float = 0.0) -> bool:
        """Kill and reap, once. True if the process had ended by itself within the grace, so that its exit status is its own."""
        if self._exit is not None:
            return False
        deadline = time.monotonic() + grace_seconds
        while not (ended := _state(self._pid) in ("Z", "")) and time.monotonic() < deadline:
            time.sleep(0.002)
        self._signal(signal.SIGKILL)
        self._exit, self.usage = self._zygote.reap(self._pid)
        return ended


class _Clock:
    """Wall clock and CPU time of one exchange, read from outside the worker."""

    def __init__(self, pid: int, seconds: float, cpu_seconds: float, tick: float) -> None:
        self._cpu_clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of a process, clock_getcpuclockid(3)
        self._seconds, self._cpu_limit, self._tick = seconds, cpu_seconds, tick
        self._start = self._last = time.monotonic()
        self._cpu_start = self._cpu()

    def tick(self) -> bool:
        """True at most once a tick, so that a worker that sends often does not make the checks expensive."""
        now = time.monotonic()
        due = now - self._last >= self._tick
        if due:
            self._last = now
        return due

    def next_tick(self) -> float:
        """Seconds until the next look is due."""
        return max(0.0, min(self._last + self._tick, self._start + self._seconds) - time.monotonic())

    def exceeded(self) -> str | None:
        if time.monotonic() - self._start > self._seconds:
            return f"{self._seconds:g} s"
        if self._cpu() - self._cpu_start > self._cpu_limit:
            return f"{self._cpu_limit:g} s of CPU time"
        return None

    def _cpu(self) -> float:
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:  # it has ended, or the system has no such clock
            return 0.0


def _threads(pid: int) -> int:
    return int(_proc_stat(pid, 17) or 1)


def _state(pid: int) -> str:
    return _proc_stat(pid, 0)


def _proc_stat(pid: int, field: int) -> str:
    """A field of /proc/PID/stat, counted from the state on, which follows the name in parentheses; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[field]
    except (OSError, IndexError):
        return ""


def _scratch_bytes(folder: str) -> float:
    """Bytes below a folder that its owner may be changing. Infinite if there are too many entries, or too deep ones."""
    total, entries, pending = 0, 0, [(folder, 0)]
    while pending:
        place, depth = pending.pop()
        try:
            with os.scandir(place) as listing:
                for entry in listing:
                    entries += 1
                    if entries > MAX_FILES or depth > _MAX_DEPTH:
                        return math.inf
                    with contextlib.suppress(FileNotFoundError):
                        total += _bytes_on_disk(entry.stat(follow_symlinks=False))
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((entry.path, depth + 1))
        except FileNotFoundError:
            continue
        except OSError:  # a path that is too long, or a folder that was made unreadable
            return math.inf
    return total


def _nameless_bytes(pid: int) -> int:
    """Bytes in files that a worker keeps open after deleting them."""
    total = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{name}")
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    total += _bytes_on_disk(status)
    return total


def _bytes_on_disk(status: os.stat_result) -> int:
    return max(status.st_size, 512 * status.st_blocks) if stat.S_ISREG(status.st_mode) else 0


def _remove(folder: str) -> None:
    """Remove a scratch folder, whatever its owner made of it."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):  # a folder that may not be read, or one nested too deep for Python
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, "--", folder], check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _too_many_files(limits: Limits) -> str:
    return f"wrote more than {limits.scratch_mib} MiB of files, or more than {MAX_FILES} of them."
