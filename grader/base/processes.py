"""What a process asks of the kernel for itself: an end with its parent, and a limit on memory."""

import ctypes
import os
import signal
import sys
from pathlib import Path

__all__ = ["die_with_parent", "limit_memory"]

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit_memory(more: int) -> None:
    """Give this process no more address space than so many bytes beyond what it has (Linux only)."""
    if sys.platform.startswith("linux"):
        import resource  # Windows has none

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = taken + more if hard == resource.RLIM_INFINITY else min(taken + more, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
