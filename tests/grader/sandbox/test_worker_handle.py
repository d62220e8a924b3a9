"""A worker's files: how much it may write, what is seen of them, and what is left; and that it stands still between exchanges."""

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grader.course.manifest import Limits
from grader.protocol.confinement import Layers
from grader.protocol.probes import freeze
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.worker_handle import Ended, WorkerHandle, _remove, _scratch_bytes, _state
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle

LIMITS = Limits(scratch_mib=8)
KINDS = {"namespaces": True, "no namespaces": False}


@pytest.fixture(params=KINDS, scope="module")
def a_zygote(request: pytest.FixtureRequest) -> Iterator[ZygoteHandle]:
    """One with namespaces, where the machine has them, and one without."""
    layers = machine_layers()
    if layers is None or (KINDS[request.param] and not layers.namespaces):
        pytest.skip("this machine has no such layer")
    assert isinstance(layers, Layers)
    with ZygoteHandle(replace(layers, namespaces=KINDS[request.param])) as zygote:
        yield zygote


HOSTILE = """
import mmap, os, threading, time

def written():
    total = 0
    for folder, _, names in os.walk("."):
        for name in names:
            total += 512 * os.stat(os.path.join(folder, name)).st_blocks
    return total

def until_refused(step):
    try:
        for number in range(1000):
            step(number)
    except OSError as error:
        return error.strerror, written()
    return "", written()

def reserve(number):
    with open(str(number), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)

def map_holes(number):
    with open(str(number), "w+b") as file:
        file.truncate(1 << 20)
        with mmap.mmap(file.fileno(), 1 << 20) as view:
            for page in range(0, 1 << 20, 4096):
                view[page] = 1

def write(number):
    with open(str(number), "wb") as file:
        file.write(bytes(1 << 20))

COUNT = 0
def count():
    global COUNT
    while True:
        COUNT += 1

def begin():
    threading.Thread(target=count, daemon=True).start()
    return COUNT

def hide():
    os.umask(0)
    os.mkdir("d", 0o300)
    os.mkdir("d/e", 0)
"""


@pytest.mark.parametrize("how", ["reserve", "write"])
def test_no_more_is_written_than_may_be(a_zygote: ZygoteHandle, how: str) -> None:
    """However files are filled, they never hold more than the limit, or the worker is ended at the next look."""
    with WorkerHandle(a_zygote, LIMITS) as worker:
        worker.load("hostile", HOSTILE, [], [])
        if how == "write" and not a_zygote.layers.namespaces:
            with pytest.raises(Ended, match="wrote more than 8 MiB of files"):
                worker.call(freeze(lambda m: m.until_refused(m.write)), 0, (), LIMITS)
            return
        error, written = worker.call(freeze(lambda m: m.until_refused(getattr(m, how))), 0, (), LIMITS).value
        assert error in ("No space left on device", "Operation not permitted")
        assert written <= 8 << 20


def test_holes_in_mapped_files_fill_no_more(a_zygote: ZygoteHandle) -> None:
    """Pages that the kernel fills later count like written ones: where there is none left, the process ends."""
    with WorkerHandle(a_zygote, LIMITS) as worker:
        worker.load("hostile", HOSTILE, [], [])
        with pytest.raises(Ended, match=r"wrote more than 8 MiB|SIGBUS"):
            worker.call(freeze(lambda m: m.until_refused(m.map_holes)), 0, (), LIMITS)


def test_a_full_scratch_folder_is_said(a_zygote: ZygoteHandle) -> None:
    """In the same words, whoever notices it."""
    with WorkerHandle(a_zygote, LIMITS) as worker:
        worker.load("hostile", HOSTILE, [], [])
        with pytest.raises(Ended, match="wrote more than 8 MiB of files, or more than 10000 of them"):
            worker.call(freeze(lambda m: [m.write(number) for number in range(100)]), 0, (), LIMITS)


def test_a_worker_does_not_know_the_machines_name(a_zygote: ZygoteHandle) -> None:
    """Where namespaces allow, it has a name of its own."""
    with WorkerHandle(a_zygote, LIMITS) as worker:
        worker.load("hostile", HOSTILE, [], [])
        name = worker.call(freeze(lambda m: m.os.uname().nodename), 0, (), LIMITS).value
    assert name == ("worker" if a_zygote.layers.namespaces else os.uname().nodename)


COMPILES = """
import os, pwd

import torch

def nameless(number):
    raise RuntimeError("nobody has a name here")

pwd.getpwuid = nameless

def compiled(x):
    values = torch.compile(lambda x: 2 * x + 1, backend="eager", fullgraph=True)(x).tolist()
    return values, os.environ["TORCHINDUCTOR_CACHE_DIR"], os.getcwd()
"""


def test_torch_compile_asks_for_no_name(a_zygote: ZygoteHandle) -> None:
    """Its cache is in the scratch folder, so a worker whose user has no name compiles as any other."""
    limits = Limits()
    with WorkerHandle(a_zygote, limits) as worker:
        worker.load("compiles", COMPILES, [], [])
        x = torch.tensor([3.0])
        values, cache, scratch = worker.call(freeze(lambda m: m.compiled(x)), 0, (), limits).value
    assert values == [7.0]
    assert Path(cache).parent == Path(scratch)


def stands_still(worker: WorkerHandle) -> bool:
    """It was told to; the kernel sees to it soon."""
    for _ in range(1000):
        if _state(worker._pid) == "T":
            return True
        time.sleep(0.005)
    return False


def test_a_worker_stands_still_between_exchanges(a_zygote: ZygoteHandle) -> None:
    """A thread that it leaves behind neither computes nor writes while nobody looks, and goes on in the next exchange."""
    with WorkerHandle(a_zygote, LIMITS) as worker:
        worker.load("hostile", HOSTILE, [], [])
        assert stands_still(worker)
        first = worker.call(freeze(lambda m: m.begin()), 0, (), LIMITS).value
        assert stands_still(worker)
        assert worker.call(freeze(lambda m: (m.time.sleep(0.05), m.COUNT)[1]), 0, (), LIMITS).value > first


def test_hidden_folders_are_removed(a_zygote: ZygoteHandle) -> None:
    """Also those that may not be read, written or entered."""
    with WorkerHandle(a_zygote, LIMITS) as worker:
        worker.load("hostile", HOSTILE, [], [])
        with contextlib.suppress(Ended):  # where the grader counts files itself, as an ordinary user, it can't look inside
            worker.call(freeze(lambda m: m.hide()), 0, (), LIMITS)
    assert not list(Path(a_zygote.home).glob("worker-*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_an_ordinary_user_removes_them_too() -> None:
    """Root may enter any folder, so this is tried as nobody."""
    folder = tempfile.mkdtemp()
    os.chown(folder, 65534, 65534)
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.chdir(folder)
            os.mkdir("a")
            os.mkdir("a/d", 0o300)
            os.mkdir("a/d/e", 0)
            _remove("a")
        os._exit(0)
    os.waitpid(process, 0)
    assert os.listdir(folder) == []
    os.rmdir(folder)


def test_entries_are_counted_over_all_folders(tmp_path: Path):
    """Many folders with some files each are as many files as one folder with all of them."""
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in range(3_400):
            (folder / str(name)).touch()
    assert _scratch_bytes(str(tmp_path / "0")) == 0
    assert _scratch_bytes(str(tmp_path)) == math.inf


def test_bytes_are_counted_below_folders(tmp_path: Path):
    """A file counts wherever it lies; a folder that is gone counts for nothing."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(bytes(100_000))
    assert 100_000 <= _scratch_bytes(str(tmp_path)) < 200_000
    assert _scratch_bytes(str(tmp_path / "gone")) == 0
