"""What the tests of the grader share: a course in miniature, one zygote, and ways to grade."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grader.course.manifest import Course
from grader.grading.engine import Engine
from grader.runner.job import grade
from grader.runner.results import ModuleResult, TaskResult
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.submissions.sources import Source
from tests.grader import warm

if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # tests that look for what is left behind must not find their neighbours' files
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix=f"{worker}-")
    os.chmod(tempfile.tempdir, 0o755)  # some tests give up root's rights
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)

MANIFEST = """\
title = "A course in miniature"

[limits]
test_seconds = 4
test_cpu_seconds = 1
task_seconds = 6
import_seconds = 2
memory_mib = 512
reply_mib = 8
output_kib = 64
threads = 4

[[modules]]
name = "mini"
title = "Miniature"
story = "Two tasks, a function and a class."

[[modules.tasks]]
name = "double"
points = 2
minutes = 1
bans = ["torch.softmax", "torch.nn.Linear"]
hints = ["What is twice a number?", "A product has two factors.", "One factor is the argument."]

[[modules.tasks]]
name = "Counter"
points = 3
minutes = 2
hints = ["Who remembers?", "An attribute of self.", "Begin with the start, then sum up."]
"""

SOLUTION = '''\
"""A module in miniature."""

import torch
from torch import Tensor

_TWO = 2


def double(x: Tensor) -> Tensor:
    """Return twice x.

    Args:
        x: (N,), float32.

    Returns: (N,).
    Raises: ValueError if x has no elements.
    Not allowed: torch.softmax, torch.nn.Linear.
    """
    if not x.numel():
        raise ValueError("x is empty")
    return torch.mul(x, _TWO)


class Counter:
    """Sums up what it is given."""

    def __init__(self, start: int = 10) -> None:
        """Begin with start."""
        self.total = start

    def add(self, n: int) -> int:
        """Add n; return the total."""
        self.total += n
        return self.total
'''

DOUBLE = "def double(x):\n    if not x.numel():\n        raise ValueError\n    return x + x\n"
COUNTER = (
    "class Counter:\n    def __init__(self, start=10):\n        self.n = start\n\n"
    "    def add(self, n):\n        self.n += n\n        return self.n\n"
)
RIGHT = f"import torch\n\n\n{DOUBLE}\n\n{COUNTER}"

HIDDEN = '''\
"""The graded suite."""

import pytest
import torch

from grader.testing import raised, task


@task("double", weight=2)
def test_doubles(agree, draw):
    """Every element is doubled."""
    x = draw.normal(5)
    agree(lambda m: m.double(x), rtol=0, atol=0)


@task("double")
def test_refuses_nothing(agree, draw):
    """No elements raise a ValueError, one does not."""
    x = draw.normal(1)
    agree(lambda m: [raised(ValueError, lambda: m.double(torch.zeros(0))), m.double(x)], rtol=0, atol=0)


@task("double")
def test_sum_is_doubled(student, draw):
    """The sum is twice the sum."""
    x = draw.integers(1, 9, 5).float()
    assert student(lambda m: m.double(x)).sum().item() == 2 * x.sum().item(), "the sum is not doubled"


@task("Counter")
class TestCounter:
    def test_begins_with_the_start(self, agree, draw):
        """The start counts, and is 10 where it is not given."""
        n = draw.integer(1, 10**6)
        agree(lambda m: [m.Counter(5).add(n), m.Counter().add(n)], rtol=0, atol=0)

    def test_remembers(self, agree, draw):
        """Each call adds to the last; counters are apart."""
        n = draw.integer(1, 10**6)

        def probe(m):
            first, second = m.Counter(), m.Counter(1)
            return [first.add(n), first.add(n), second.add(2 * n)]

        agree(probe, rtol=0, atol=0)
'''

PUBLIC = '''\
"""Examples."""

import torch
from mini import Counter, double


def test_double_of_three():
    """3 + 3 is 6."""
    assert double(torch.tensor([3.0])).item() == 6


def test_Counter_sums_up():
    """1 + 2 is 3."""
    assert Counter(1).add(2) == 3
'''

MISCONCEPTIONS = '''\
"""Wrong answers."""

from grader.testing import misconception


@misconception("double", "Squares.")
def squares(x):
    return x * x


@misconception("double", "Halves.")
def halves(x):
    return x / 2


@misconception("double", "Forgets to refuse nothing.")
def takes_nothing(x):
    return x * 2


@misconception("Counter", "Forgets.")
class Forgets:
    def __init__(self, start=10):
        self.start = start

    def add(self, n):
        return self.start + n


@misconception("Counter", "Begins at 0.")
class BeginsAtZero:
    def __init__(self, start=10):
        self.total = 0

    def add(self, n):
        self.total += n
        return self.total


@misconception("Counter", "Keeps its total in the class.")
class Shared:
    total = 0

    def __init__(self, start=10):
        Shared.total += start

    def add(self, n):
        Shared.total += n
        return Shared.total
'''

ALTERNATIVES = '''\
"""Right answers in another style."""

from grader.testing import alternative


@alternative("double")
def adds(x):
    if len(x) == 0:
        raise ValueError
    return x + x


@alternative("double")
def divides(x):
    if len(x) == 0:
        raise ValueError
    return x / 0.5


@alternative("Counter")
class Lists:
    def __init__(self, start=10):
        self.numbers = [start]

    def add(self, n):
        self.numbers.append(n)
        return sum(self.numbers)


@alternative("Counter")
class Subtracts:
    def __init__(self, start=10):
        self.total = -start

    def add(self, n):
        self.total -= n
        return -self.total
'''


def mini_course(folder: Path) -> Path:
    """Write the course in miniature; `grader check` is content with it. Returns its folder."""
    from grader.course.stubs import make_stub

    files = {
        "course.toml": MANIFEST,
        "pyproject.toml": "[tool.pytest.ini_options]\n"
        'addopts = "-p grader.practice.pytest_plugin --import-mode=importlib --strict-markers"\ntimeout = 60\n',
        "solutions/mini.py": SOLUTION,
        "exercises/mini.py": make_stub(SOLUTION, ["double", "Counter"]),
        "tests/public/test_mini.py": PUBLIC,
        "tests/hidden/conftest.py": 'pytest_plugins = ["grader.grading.plugin"]\n',
        "tests/hidden/test_mini.py": HIDDEN,
        "tests/misconceptions/mini.py": MISCONCEPTIONS,
        "tests/alternatives/mini.py": ALTERNATIVES,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """The course in miniature, to be read only."""
    return Course.read(mini_course(tmp_path_factory.mktemp("course")))


@pytest.fixture(scope="session")
def zygote() -> Iterator[ZygoteHandle]:
    """One zygote for all tests that grade in this process; confined where the machine can."""
    with ZygoteHandle(machine_layers()) as zygote:
        yield zygote


Grade = Callable[..., ModuleResult]


@pytest.fixture(scope="session")
def grade_source(course: Course, zygote: ZygoteHandle) -> Grade:
    """`grade_source(text, root=…, seed=…, source=…)`: the result of the module `mini` with this source."""

    def run(text: str, *, root: Path | None = None, seed: int = 1, source: Source | None = None) -> ModuleResult:
        here = Course.read(root) if root else course
        unit = Unit("someone", here.modules[0], source or Source(text), seed)
        saved = dict(os.environ)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        try:
            return grade(unit, Engine(here, zygote)).result
        finally:
            os.environ.clear()
            os.environ.update(saved)
            forget_suites()

    return run


def forget_suites() -> None:
    """Take collected suites out of this process, so that another course's can be collected under the same names."""
    for name in [name for name in sys.modules if name.startswith("tests.hidden")]:
        del sys.modules[name]


def tasks_of(result: ModuleResult) -> dict[str, TaskResult]:
    """The tasks by name."""
    return {task.name: task for task in result.tasks}


def grader(
    *arguments: object, cwd: Path, timeout: float = 300, alone: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command `grader`: in a fork of this process with a warm job server or, with an environment of its own, `alone`."""
    words = list(map(str, arguments))
    if not alone and environment.keys() <= {"COLUMNS"} and hasattr(os, "pidfd_open"):
        return warm.run(words, cwd, timeout, {"COLUMNS": "200", **environment})
    return subprocess.run(
        [sys.executable, "-m", "grader", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "200", **environment},
        check=False,
    )
