"""The handle on the practice process: starts it, asks it for a task's tests, ends it when it hangs, and starts the next one."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import msgspec

from grader.base.time_limit import ONE_THREAD, TEST_SECONDS
from grader.practice.outcome import ALIVE, Drawing, DrawRequest, Request, TaskRun

__all__ = ["Cancelled", "PracticeProcess"]

_GRACE = 5.0
"""Seconds beyond those that the tests have, for what no limit inside the process can end."""
_STEPS = 2
"""Limits of `TEST_SECONDS` that can pass between two signs of life: the import of the module and its first test."""
_STARTUP = 120.0
"""Seconds that importing torch may take on a slow disk."""


class Cancelled(Exception):
    """Another thread called `cancel` while this run was under way."""


class PracticeProcess:
    """Runs public tests in a process of its own, which loads torch once. One thread runs; others may call `cancel`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._ready = self._cancelled = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ready(self) -> bool:
        """Whether torch is loaded, as far as a run has seen."""
        return self._ready

    def warm_up(self) -> None:
        """Start the process, if there is none, without waiting for it."""
        if self._process is None or self._process.poll() is not None:
            self._answers = queue.Queue()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "grader.practice.process", str(self._root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **ONE_THREAD, "PYTHONUTF8": "1"},
            )
            self._ready = False
            threading.Thread(target=_pump, args=(self._process, self._answers), daemon=True).start()

    def run(self, request: Request) -> TaskRun:
        """Run a task's tests.

        Returns: what they gave. If the process died or hung, its `problem` says so, and a new process is started.
        Raises: Cancelled.
        """
        answer, problem = self._ask(request)
        return TaskRun(request.module, request.task, problem=problem) if problem else msgspec.json.decode(answer, type=TaskRun)

    def draw(self, request: DrawRequest) -> Drawing:
        """The numbers of a task's picture. If there are none, `problem` says why. Raises: Cancelled."""
        answer, problem = self._ask(request)
        return Drawing(problem=problem) if problem else msgspec.json.decode(answer, type=Drawing)

    def _ask(self, request: Request | DrawRequest) -> tuple[bytes, str]:
        """Send a request. Returns: the answer, or why there is none. Raises: Cancelled."""
        with self._lock:
            self._cancelled = False
            self.warm_up()
        try:
            if not self._ready:
                self._ready = self._next(_STARTUP) is not None
                if not self._ready and not self._cancelled:
                    return self._failed("Python ended while it loaded torch. `grader doctor` says what is wrong.")
            process = self._process
            assert process and process.stdin
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()
            while (answer := self._next(_STEPS * TEST_SECONDS + _GRACE)) == ALIVE:
                pass
        except TimeoutError:
            return self._failed(f"Your code did not end within {TEST_SECONDS:g} seconds. Is there an endless loop, or is the machine busy?")
        except OSError:
            answer = None
        except KeyboardInterrupt:
            self.cancel()  # else the next run would get this one's answer
            raise
        if answer is None and self._cancelled:
            raise Cancelled
        if answer is None:
            return self._failed(f"Your code ended Python itself ({self._status()}), as sys.exit, os._exit or a crash of C code does.")
        return answer, ""

    def cancel(self) -> None:
        """End what runs now. `run`, in another thread, then raises Cancelled. The next run starts a new process."""
        with self._lock:
            self._cancelled = True
            self.close()
            self._answers.put(None)  # a child of the student's may hold the pipe open, which else would say it

    def close(self) -> None:
        """End the process."""
        if self._process:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._process.wait()

    def _next(self, seconds: float) -> bytes | None:
        """The next line, None at the end. Raises: TimeoutError."""
        try:
            return self._answers.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None

    def _status(self) -> str:
        status = self._process.wait() if self._process else 0
        return f"signal {-status}" if status < 0 else f"status {status}"

    def _failed(self, problem: str) -> tuple[bytes, str]:
        with self._lock:
            self.close()
            if not self._cancelled:
                self.warm_up()
        return b"", problem


def _pump(process: subprocess.Popen[bytes], answers: "queue.Queue[bytes | None]") -> None:
    """Pass on lines as they come: a pipe can't be waited for with a time limit on every platform, a queue can."""
    assert process.stdout
    for line in process.stdout:
        answers.put(line)
    answers.put(None)
