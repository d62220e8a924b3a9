"""The zygote: whose code it runs, and who may give it orders."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import grader
from grader.course.manifest import Limits
from grader.protocol.confinement import Permissions
from grader.protocol.control import MAX_PACKET, Fork, Forked, parse_answer
from grader.sandbox.supervisor import zygote_handle
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.worker_handle import WorkerHandle
from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteGone, ZygoteHandle
from grader.sandbox.worker.zygote import _Desk

START = (
    "from grader.sandbox.supervisor.zygote_handle import ZygoteHandle\nwith ZygoteHandle(None) as zygote:\n    zygote.wait_until_ready()\n"
)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A second checkout of the grader's code, which is not the installed one."""
    shutil.copytree(Path(grader.__file__).parent, tmp_path / "grader", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def start_in(folder: Path) -> subprocess.CompletedProcess[str]:
    """Start a zygote from the code in a folder."""
    program = f"import sys\nsys.path.insert(0, {str(folder)!r})\n{START}"
    return subprocess.run([sys.executable, "-P", "-c", program], cwd="/", capture_output=True, text=True, timeout=120, check=False)


def test_workers_run_the_code_of_the_checkout_that_started_them(second: Path) -> None:
    """A worker that is broken in this checkout is noticed, although another one is installed."""
    assert start_in(second).returncode == 0
    worker = second / "grader/sandbox/worker/worker.py"
    worker.write_text("raise RuntimeError('this checkout is broken')\n" + worker.read_text().split('"""', 2)[2])
    done = start_in(second)
    assert done.returncode != 0
    assert "this checkout is broken" in done.stderr


def test_other_code_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the zygote ends up with another checkout's code, it grades nothing."""
    with ZygoteHandle(None) as zygote:
        monkeypatch.setattr(zygote_handle, "_PACKAGE", tmp_path / "grader")
        with pytest.raises(ZygoteError, match="install the grader from one folder only"):
            zygote.wait_until_ready()


def test_a_shared_handle_leaves_the_zygote_alone(zygote: ZygoteHandle) -> None:
    """Both handles fork and reap, and closing the second one ends neither the zygote nor the first one's workers."""
    layers, limits = machine_layers(), Limits()
    assert zygote.layers == layers
    with WorkerHandle(zygote, limits) as first:
        with zygote.share() as shared, WorkerHandle(shared, limits) as second:
            assert second.load("a", "X = 1", ["X"], []) == {"X": "int"}
        assert first.load("a", "X = 'x'", ["X"], []) == {"X": "str"}
    with WorkerHandle(zygote, limits) as third:
        assert third.load("a", "", ["X"], []) == {"X": "missing"}


def test_a_process_that_dies_with_an_answer_unread_costs_nobody_else(zygote: ZygoteHandle) -> None:
    """The zygote's next look at its socket is an error, and not the zygote's end."""
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            shared = zygote.share()
            _ours, theirs = socket.socketpair()
            output = os.pipe()[1]
            shared._order(Fork(Permissions((), zygote.home, 1 << 30, 1 << 20), None), theirs.fileno(), output)
            select.select([shared._control], [], [], 10)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    with WorkerHandle(zygote, Limits()) as worker:
        assert worker.load("a", "X = 1", ["X"], []) == {"X": "int"}


def test_nothing_is_left_where_no_worker_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder nor a descriptor."""
    with ZygoteHandle(machine_layers()) as zygote:
        zygote.wait_until_ready()
        descriptors = os.listdir("/proc/self/fd")
        zygote._process.kill()
        with pytest.raises(ZygoteGone):
            WorkerHandle(zygote, Limits())
        assert not list(Path(zygote.home).glob("worker-*"))
        assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def test_a_shared_handle_says_that_the_zygote_is_gone() -> None:
    """Only the zygote's parent may end it and read what it said; another process must not wait for that."""
    with ZygoteHandle(machine_layers()) as zygote, zygote.share() as shared:
        zygote._process.send_signal(signal.SIGSTOP)
        shared._control.settimeout(0.1)
        with pytest.raises(ZygoteGone, match="does not answer"):
            WorkerHandle(shared, Limits())
        assert zygote._process.poll() is None


def test_a_fork_that_fails_costs_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many processes are no reason for the zygote to end: whoever asked is told."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(BlockingIOError(11, "Resource temporarily unavailable")))
    with ours, theirs:
        order = Fork(Permissions((), "/", 1 << 30, 1 << 20), None)
        _Desk()._fork(order, os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY), control=theirs)
        answer = parse_answer(ours.recv(MAX_PACKET))
    assert answer == Forked(0, "no process for it: Resource temporarily unavailable")
