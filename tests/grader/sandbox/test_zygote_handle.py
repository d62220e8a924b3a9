"""The zygote: whose code it runs, and who may give it orders."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import grader
from grader.course.manifest import Limits
from grader.sandbox.supervisor import zygote_handle
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.worker_handle import WorkerHandle
from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteHandle

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
