"""Reads students' sources for bans within bounds, so that none can cost the trusted process much time or memory.

Python's parser takes time and memory out of proportion for some sources: 5 s and 180 MiB for 256 KiB of an f-string's fields. Nothing ends
it from inside. So a long source, which no task needs, is read in a process of its own that the kernel ends. What a short one can cost is
bounded by its length: 0.7 s and 60 MiB (benchmarks/parsing.py).
"""

import os
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from grader.base.processes import die_with_parent, limit_memory
from grader.grading.source_bans import uses_in

__all__ = ["NotReadable", "ReadingLimits", "read_uses"]


@dataclass(frozen=True)
class ReadingLimits:
    """What reading one source may take."""

    short: int = 64 << 10
    """A source of at most so many characters is read in this process. The course's longest reference has 29,000."""
    cpu_seconds: float = 2.0
    memory_mib: int = 512
    """What it may take beyond what this process has. Ordinary code of 190 KiB takes 10 MiB and 0.15 s."""


class NotReadable(Exception):
    """A source that is too hard to read: the student's fault. The text goes on from the file's name."""


_TOO_COMPLEX = "is nested too deep, or takes too much memory to read: hand in shorter and simpler code."
_TOO_SLOW = "takes too long to read: hand in shorter and simpler code."
_ENDS = {signal.SIGPROF: _TOO_SLOW, signal.SIGSEGV: _TOO_COMPLEX, signal.SIGABRT: _TOO_COMPLEX}
"""What it means if the reading process ends by a signal. No other comes of the source."""


class _Answer(msgspec.Struct, frozen=True):
    """What the reading process found."""

    uses: dict[str, str] = {}
    problem: str = ""


def read_uses(source: str, bans: Mapping[str, Sequence[str]], cells: Sequence[int], limits: ReadingLimits) -> dict[str, str]:
    """Find the first use of a banned name in each task, as `uses_in` does, within limits. Raises: NotReadable."""
    answer = _answer(source, bans, cells) if len(source) <= limits.short else _answer_apart(source, bans, cells, limits)
    if answer.problem:
        raise NotReadable(answer.problem)
    return answer.uses


def _answer(source: str, bans: Mapping[str, Sequence[str]], cells: Sequence[int]) -> _Answer:
    try:
        return _Answer(uses_in(source, bans, cells))
    except (RecursionError, MemoryError):  # the parser says MemoryError for both
        return _Answer(problem=_TOO_COMPLEX)


def _answer_apart(source: str, bans: Mapping[str, Sequence[str]], cells: Sequence[int], limits: ReadingLimits) -> _Answer:
    """Read it in a fork of this process. Raises: RuntimeError if that ends for a reason that is not in the source."""
    receiver, sender = os.pipe()
    process = os.fork()
    if not process:
        _read_and_end(sender, source, bans, cells, limits)
    os.close(sender)
    data, status = bytearray(), None
    try:
        with open(receiver, "rb", buffering=0) as pipe:
            while chunk := pipe.read(1 << 16):
                data += chunk
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    finally:
        if status is None:  # after an interrupt
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    if status == 0:
        return msgspec.json.decode(data, type=_Answer)
    if -status in _ENDS:
        return _Answer(problem=_ENDS[signal.Signals(-status)])
    raise RuntimeError(f"the process that reads a source for bans ended with status {status}")


def _read_and_end(sender: int, source: str, bans: Mapping[str, Sequence[str]], cells: Sequence[int], limits: ReadingLimits) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        _limit(limits)
        with open(sender, "wb") as pipe:
            pipe.write(msgspec.json.encode(_answer(source, bans, cells)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _limit(limits: ReadingLimits) -> None:
    """Have the kernel end this process when it has used its time, and give it no memory beyond the limit."""
    import resource  # Windows has none

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in _ENDS:
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
    limit_memory(limits.memory_mib << 20)
