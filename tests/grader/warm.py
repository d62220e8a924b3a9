"""Runs the command `grader` in a fork of the test process, with a job server that has loaded torch already.

A command on its own takes seconds, most of them to load torch in two processes. In a fork it does the same, but for three things: the
environment of a test does not reach the server, the current folder is not on Python's path, and the server outlives the command. Tests
about any of these, about signals, and about what a command leaves behind start it on its own.
"""

import atexit
import io
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from grader.course.manifest import Course
from grader.runner import jobs
from grader.sandbox.supervisor.isolation import machine_layers

__all__ = ["process", "run"]

ROOT = Path(__file__).resolve().parents[2]


def run(arguments: Sequence[str], cwd: Path, timeout: float, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command with these arguments. Raises: subprocess.TimeoutExpired."""
    server = _server()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            _be_the_command(arguments, cwd, environment, (out, errors), server)
        status = _wait(child, timeout, arguments)
        return subprocess.CompletedProcess(["grader", *arguments], status, _text(out), _text(errors))


def process() -> int | None:
    """The server's process. None if no command was run yet."""
    return _server()._process.pid if _server.cache_info().currsize else None


@cache
def _server() -> jobs.JobServer:
    """The server of this test process. It is started with the first command, and ends with the process."""
    server = jobs.JobServer(Course.read(ROOT), machine_layers())
    server.start().stop()
    atexit.register(server.close)
    return server


def _wait(child: int, timeout: float, arguments: Sequence[str]) -> int:
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], timeout)[0]:
            os.kill(child, signal.SIGKILL)
            raise subprocess.TimeoutExpired(["grader", *arguments], timeout)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(descriptor)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


# ---- in the fork


def _be_the_command(
    arguments: Sequence[str], cwd: Path, environment: dict[str, str], outputs: tuple[IO[bytes], IO[bytes]], server: jobs.JobServer
) -> None:
    """Run `python -m grader` here, and end."""
    status: Any = 1
    try:
        os.chdir(cwd)
        os.environ.update(environment)
        for descriptor, file in enumerate(outputs, 1):
            os.dup2(file.fileno(), descriptor)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "wb", False)), "utf-8") for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["grader", *arguments]
        for name in [name for name in sys.modules if name.startswith("grader.cli")]:
            del sys.modules[name]  # they look at the terminal when they are imported
        _borrow(server)
        runpy.run_module("grader", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _borrow(warm: jobs.JobServer) -> None:
    """Let every server that the command starts be the warm one, where it confines in the same way."""
    launch = jobs.JobServer._launch
    count = 0

    def borrow(self: jobs.JobServer) -> None:
        nonlocal count
        if self._layers != warm._layers:
            launch(self)
            return
        count += 1
        self._process = _Borrowed(warm._process.pid)
        self._control = Connection(os.dup(warm._control.fileno()))
        self._scratch = tempfile.mkdtemp(prefix="grader-run-")
        self._started = 1_000 * (1_000 * os.getpid() + count)  # no other command's jobs have these numbers

    jobs.JobServer._launch = borrow


class _Borrowed:
    """Stands for the warm server's process, which is the parent's child. It is alive until it is given back."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._alive = True

    def is_alive(self) -> bool:
        """Whether it may be used."""
        return self._alive

    def join(self, _: float | None = None) -> None:
        """Give it back."""
        self._alive = False

    kill = join
