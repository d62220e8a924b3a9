"""What a filter must not break: ordinary things that right answers do, each in a small submission that has to be accepted."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from grader.base.outcome import Status
from grader.course.manifest import Course
from grader.grading.engine import Engine
from grader.runner.job import grade
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.sandbox.worker.confine import supported
from grader.submissions.sources import Source

pytestmark = pytest.mark.skipif(supported() is not None, reason=str(supported()))

ROOT = Path(__file__).parents[3]

ANSWER = """

def batched_gather(x, index):
    # Much of this work draws random numbers, and a task leaves generators as they were.
    import random

    import numpy

    before = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        work()
    random.setstate(before[0])
    numpy.random.set_state(before[1])
    return torch.stack([rows[picks] for rows, picks in zip(x, index)])
"""

SUBMISSIONS = {
    "threads": """
import threading, torch
def work():
    seen = []
    threads = [threading.Thread(target=seen.append, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(5))
""",
    "thread_pool": """
import torch
from concurrent.futures import ThreadPoolExecutor
def work():
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(abs, [-1, 2, -3])) == [1, 2, 3]
""",
    "a_large_tensor": """
import torch
def work():
    assert torch.ones(25_000_000).numel() * 4 == 100_000_000
""",
    "data_loader": """
import torch
from torch.utils.data import DataLoader, TensorDataset
def work():
    data = TensorDataset(torch.arange(10.0), torch.arange(10))
    batches = list(DataLoader(data, batch_size=4, shuffle=True, num_workers=0))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
""",
    "temporary_files": """
import os, tempfile, torch
def work():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "notes.txt")
        with open(path, "w") as file:
            file.write("text")
        os.rename(path, path + ".old")
        assert os.listdir(folder) == ["notes.txt.old"]
    with tempfile.TemporaryFile() as file:
        file.write(b"bytes")
        file.seek(0)
        assert file.read() == b"bytes"
""",
    "warnings": """
import warnings, torch
def work():
    warnings.warn("careful")
    warnings.warn("old", DeprecationWarning)
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
""",
    "prints": """
import sys, torch
print("imported")
def work():
    print("working", torch.ones(3))
    print("on both", file=sys.stderr)
""",
    "logging": """
import logging, torch
logging.basicConfig(level=logging.INFO)
def work():
    logging.getLogger(__name__).info("working")
""",
    "numpy": """
import numpy as np, torch
def work():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((50, 50))
    assert np.allclose(np.linalg.inv(x) @ x, np.eye(50), atol=1e-6)
    assert torch.from_numpy(x).numpy() is not None
""",
    "optimizers": """
import torch
def work():
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.LBFGS):
        w = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        optimizer = kind([w], lr=0.01)
        def closure():
            optimizer.zero_grad()
            loss = w.square().sum()
            loss.backward()
            return loss
        before = closure().item()
        for _ in range(3):
            optimizer.step(closure)
        assert closure().item() < before
""",
    "schedulers": """
import torch
def work():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr()[0] < 1
""",
    "modules": """
import torch
from torch import nn
def work():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.Dropout(0.5))
    model(torch.randn(2, 1, 7, 7)).sum().backward()
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    assert layer(torch.randn(2, 3, 8)).shape == (2, 3, 8)
    assert nn.LSTM(3, 4)(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)
""",
    "autocast": """
import torch
def work():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(3, 3) @ torch.ones(3, 3)).dtype == torch.bfloat16
""",
    "generators": """
import random, torch
def work():
    a, b = (torch.randn(5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    torch.manual_seed(0)
    random.seed(0)
    assert torch.seed() != torch.seed()
""",
    "save_and_load": """
import io, torch
def work():
    state = {"w": torch.arange(3.0), "step": 7}
    torch.save(state, "checkpoint.pt")
    assert torch.equal(torch.load("checkpoint.pt")["w"], state["w"])
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 3).state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)["weight"].shape == (3, 2)
""",
    "pickles_and_copies": """
import copy, pickle, torch
def work():
    model = torch.nn.Linear(2, 3)
    assert torch.equal(pickle.loads(pickle.dumps(model)).weight, copy.deepcopy(model).weight)
""",
    "dataclasses": """
from __future__ import annotations
import enum, torch
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
@dataclass(frozen=True, slots=True)
class Config:
    width: int = 3
    names: list[str] = field(default_factory=list)
class Pair(NamedTuple):
    a: int
    b: int
class Mode(enum.Enum):
    MEAN = "mean"
class Callable(Protocol):
    def __call__(self) -> int: ...
def work():
    assert Config(5) == Config(width=5) and Pair(1, 2).b == 2 and Mode("mean") is Mode.MEAN
""",
    "lru_cache": """
import functools, torch
@functools.lru_cache(maxsize=None)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
def work():
    assert fibonacci(90) == 2880067194370816120
""",
    "deep_recursion": """
import torch
def down(n):
    return 0 if n == 0 else 1 + down(n - 1)
def work():
    assert down(500) == 500
""",
    "slots": """
import torch
class Node:
    __slots__ = ("value", "grad")
    def __init__(self, value):
        self.value, self.grad = value, 0.0
def work():
    node = Node(3.0)
    node.grad += 1.0
    assert not hasattr(node, "__dict__")
""",
    "standard_library": """
import collections, fractions, heapq, itertools, json, math, operator, pathlib, statistics, string
import bisect, contextlib, datetime, decimal, hashlib, time
import torch
def work():
    start = time.perf_counter()
    counts = collections.Counter(itertools.chain("abca", string.digits))
    assert math.comb(5, 2) == 10 and heapq.nlargest(1, counts.values()) == [2]
    assert json.loads(json.dumps({"a": [1, 2]})) == {"a": [1, 2]} and fractions.Fraction(1, 3) + fractions.Fraction(2, 3) == 1
    assert not pathlib.Path("missing").exists() and time.perf_counter() >= start
    time.sleep(0.001)
    datetime.datetime.now()
""",
    "custom_autograd": """
import torch
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    def backward(ctx, grad):
        return 2 * grad
def work():
    x = torch.ones(3, requires_grad=True)
    Double.apply(x).sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    assert torch.func.vmap(torch.func.grad(lambda t: t.square()))(torch.ones(2)).tolist() == [2.0, 2.0]
""",
    "linear_algebra": """
import torch
def work():
    x = torch.randn(40, 40, dtype=torch.float64)
    ones = torch.ones(40, 1, dtype=torch.float64)
    assert torch.allclose(torch.linalg.solve(x, x @ ones), ones, atol=1e-6)
    torch.linalg.svd(x), torch.fft.fft(x), torch.linalg.qr(x), torch.linalg.eigh(x @ x.T)
""",
    "more_threads_of_torch": """
import torch
torch.set_num_threads(4)
def work():
    assert (torch.ones(600, 600) @ torch.ones(600, 600))[0, 0] == 600
    torch.ones(10**6).sum()
""",
    "state_of_its_own": """
import torch
torch.set_default_dtype(torch.float64)
torch.manual_seed(3)
CACHE = {}
def work():
    CACHE.setdefault("calls", []).append(1)
""",
    "signals_and_exit_hooks": """
import atexit, gc, signal, sys, torch
atexit.register(print, "bye")
def work():
    gc.collect()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(2000)
    sys.setrecursionlimit(before)
    try:
        sys.exit(1)
    except SystemExit:
        pass
""",
    "main_guard": """
import argparse, torch
def work():
    assert __name__ == "tensor_ops" and __file__
if __name__ == "__main__":
    raise SystemExit(argparse.ArgumentParser().parse_args())
""",
    "transforms": """
import torch
from torchvision import transforms
def work():
    steps = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.CenterCrop(4), transforms.Normalize([0.5], [0.5])])
    assert steps(torch.rand(1, 8, 8)).shape == (1, 4, 4)
""",
    "checkpoints_in_temporary_files": """
import os, pathlib, tempfile, torch
def work():
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save({"w": torch.ones(3)}, file.name)
        assert torch.load(file.name)["w"].sum() == 3
    path = pathlib.Path(tempfile.mkdtemp()) / "model.pt"
    torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    torch.nn.Linear(2, 3).load_state_dict(torch.load(path, weights_only=True, mmap=True))
    assert os.path.getsize(path) > 0
""",
    "context_variables": """
import contextlib, contextvars, torch
DEPTH = contextvars.ContextVar("depth", default=0)
@contextlib.contextmanager
def deeper():
    token = DEPTH.set(DEPTH.get() + 1)
    try:
        yield
    finally:
        DEPTH.reset(token)
def work():
    with deeper(), deeper():
        assert contextvars.copy_context().run(DEPTH.get) == 2
    assert DEPTH.get() == 0
""",
    "typing": """
from collections.abc import Callable, Iterator
from typing import Generic, Literal, TypedDict, TypeVar, cast, get_type_hints, overload
import torch
from torch import Tensor
T = TypeVar("T")
class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value
class Options(TypedDict, total=False):
    mode: Literal["mean", "sum"]
def apply(f: Callable[[Tensor], Tensor], x: Tensor | None = None) -> Iterator[Tensor]:
    yield f(cast(Tensor, x))
def work():
    assert Box[int](3).value == 3 and Options(mode="sum")["mode"] == "sum"
    assert get_type_hints(apply)["x"] == Tensor | None
    assert next(apply(torch.neg, torch.ones(1))).item() == -1
""",
    "the_process": """
import os, platform, sys, threading, time, timeit, torch
def work():
    assert os.getpid() > 0 and os.getppid() > 0 and os.cpu_count() > 0 and threading.get_native_id() == os.getpid()
    start = time.monotonic(), time.process_time(), time.time_ns()
    time.sleep(0.01)
    assert time.monotonic() - start[0] >= 0.01
    assert timeit.timeit("1 + 1", number=10) >= 0 and platform.python_version() and sys.version_info >= (3, 11)
    assert os.path.isdir(os.path.expanduser("~")) and os.environ.get("HOME")
""",
    "a_signal_handler": """
import os, signal, torch
SEEN = []
signal.signal(signal.SIGUSR1, lambda number, frame: SEEN.append(number))
def work():
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert len(SEEN) >= 2
""",
    "garbage": """
import gc, sys, torch, weakref
class Node:
    pass
def work():
    node = Node()
    node.itself, reference, ended = node, weakref.ref(node), []
    weakref.finalize(node, ended.append, 1)
    del node
    gc.collect()
    assert reference() is None and ended == [1]
    cache = weakref.WeakValueDictionary()
    kept = cache["x"] = torch.ones(3)
    assert cache["x"] is kept and sys.getrefcount(kept) > 1
    gc.disable()
    gc.enable()
""",
    "caches": """
import functools, torch
@functools.cache
def positions(n):
    return torch.arange(n)
class Table:
    @functools.cached_property
    def rows(self):
        return torch.eye(3)
def work():
    assert positions(7) is positions(7)
    table = Table()
    assert table.rows is table.rows
    assert functools.reduce(torch.add, [torch.ones(1)] * 3).item() == 3 and functools.partial(torch.add, 1)(torch.ones(1)).item() == 2
""",
    "backward_in_threads": """
import threading, torch
def work():
    w = torch.nn.Parameter(torch.ones(50, 50))
    def run(gradients):
        loss = (w @ torch.ones(50, 1)).square().sum()
        gradients.append(torch.autograd.grad(loss, w)[0])
    gradients = []
    threads = [threading.Thread(target=run, args=(gradients,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gradients) == 4 and all(torch.equal(g, gradients[0]) for g in gradients)
""",
    "tools_for_training": """
import torch
from torch.nn.utils import clip_grad_norm_, parameters_to_vector
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, DataLoader, Subset, random_split
class Squares(Dataset):
    def __len__(self):
        return 10
    def __getitem__(self, i):
        return torch.tensor(float(i)), i * i
def work():
    first, second = random_split(Squares(), [7, 3], generator=torch.Generator().manual_seed(0))
    assert len(first) == 7 and len(list(DataLoader(Subset(second, [0, 1])))) == 2
    model = torch.nn.Linear(3, 3)
    checkpoint(model, torch.ones(2, 3), use_reentrant=False).sum().backward()
    clip_grad_norm_(model.parameters(), 1.0)
    assert parameters_to_vector(model.parameters()).numel() == 12
    assert len(torch.fx.symbolic_trace(model).graph.nodes) > 1
""",
    "reading_its_own_code": """
import inspect, traceback, torch
def work():
    assert "def work" in inspect.getsource(work) and list(inspect.signature(batched_gather).parameters) == ["x", "index"]
    try:
        1 / 0
    except ZeroDivisionError:
        assert "1 / 0" in traceback.format_exc()
""",
}


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteHandle]:
    """One zygote for all submissions."""
    with pytest.MonkeyPatch.context() as patch, ZygoteHandle(machine_layers()) as zygote:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
        yield zygote


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_ordinary_code_is_accepted(zygote: ZygoteHandle, name: str) -> None:
    """A right answer that also does this keeps all of its points."""
    course = Course.read(ROOT)
    course = msgspec.structs.replace(course, limits=msgspec.structs.replace(course.limits, memory_mib=1024))
    (module,) = course.select(["tensor_ops"], ["batched_gather"])
    engine = Engine(course, zygote)
    result = grade(Unit("alice", module, Source(SUBMISSIONS[name] + ANSWER), seed=11), engine).result
    messages = {test.message for test in result.tasks[0].tests}
    assert (result.tasks[0].status, messages) == (Status.PASSED, {""})
    assert result.score == result.max_score > 0
    assert not [folder for folder in os.listdir(tempfile.gettempdir()) if folder.startswith("grader-")]


def test_a_failing_check_is_seen(zygote: ZygoteHandle) -> None:
    """The work of these submissions is run: one that fails its own check is not accepted."""
    course = Course.read(ROOT)
    (module,) = course.select(["tensor_ops"], ["batched_gather"])
    source = "import torch\ndef work():\n    assert 1 == 2, 'sums'\n" + ANSWER
    result = grade(Unit("bob", module, Source(source), seed=11), Engine(course, zygote)).result
    assert (result.tasks[0].status, result.score) == (Status.ERROR, 0)
    assert all("AssertionError: sums" in test.message for test in result.tasks[0].tests)
