"""The grader withstands hostile submissions: each file in programs/ is graded as a student's, between things that it must not touch.

A program's docstring says what it tries and what must come of it. `Attacks` is the task that holds the attack and must earn nothing;
`Status` is what that task's status may be; `Honest` is the task that is answered well and must keep its points ("none" where the attack
takes the whole module along); `Says`, where there is one, is a part of what the student is told, which shows that the defence in
question was at work.
"""

import contextlib
import os
import re
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch

from grader.ingest import Source
from grader.isolation import machine_layers
from grader.job import grade
from grader.manifest import Course
from grader.outcome import Status
from grader.results import ModuleResult, TaskResult
from grader.run import Unit
from grader.sandbox.confine import supported
from grader.sandbox.launcher import Zygote
from grader.sides import ReferenceSide

pytestmark = pytest.mark.skipif(supported() is not None, reason=str(supported()))

ROOT = Path(__file__).parents[3]
PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
VARIABLE = "GRADER_REDTEAM_CANARY"
PACKAGES = Path(torch.__file__).parent.parent
LIMITS = {
    "test_seconds": 2.0,
    "test_cpu_seconds": 1.0,
    "task_seconds": 3.0,
    "import_seconds": 2.0,
    "memory_mib": 1024,
    "scratch_mib": 16,
    "reply_mib": 8,
    "output_kib": 256,
    "threads": 16,
}


@dataclass
class Claims:
    """What a program's docstring says of it."""

    attacks: str
    statuses: set[str]
    honest: str | None
    says: str

    @classmethod
    def of(cls, text: str) -> "Claims":
        """Read the lines `Key: value`."""
        lines = dict(re.findall(r"^(Attacks|Status|Honest|Says): (.+)$", text, re.MULTILINE))
        honest = None if lines["Honest"] == "none" else lines["Honest"]
        return cls(lines["Attacks"], set(lines["Status"].split(" or ")), honest, lines.get("Says", ""))


class Canaries:
    """Things of the grader's surroundings, each with a secret or a state that a program could disturb."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.secret, self.name = secrets.token_hex(16), secrets.token_hex(16)
        self.folder = folder
        (folder / self.name).touch()
        self.file = folder / "canary"
        self.file.write_text(self.secret)
        self._file_state = self._state_of_file()
        self._descriptor = os.open(self.file, os.O_RDONLY)
        stack.callback(os.close, self._descriptor)
        os.set_inheritable(self._descriptor, True)
        os.environ[VARIABLE] = self.secret
        stack.callback(os.environ.pop, VARIABLE)
        self.abstract = f"grader-{secrets.token_hex(8)}"
        self.tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._udp.bind(self.tcp.getsockname())
        self._unix, self._abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        self._unix.bind(str(folder / "socket"))
        self._abstract.bind(f"\0{self.abstract}")
        for server in (self._unix, self._abstract):
            server.listen()
        for server in (self.tcp, self._udp, self._unix, self._abstract):
            server.setblocking(False)
        self.sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        stack.callback(self.sibling.wait)
        stack.callback(self.sibling.kill)
        self._sibling_limits = resource.prlimit(self.sibling.pid, resource.RLIMIT_NOFILE)
        self._names = sorted(os.listdir(folder))

    def fill_in(self, text: str) -> str:
        """Put what there is to attack in the place of the names for it."""
        names = {
            "CANARY": str(self.file),
            "SOCKET": str(self.folder / "socket"),
            "ABSTRACT": self.abstract,
            "PORT": str(self.tcp.getsockname()[1]),
            "PID": str(os.getpid()),
            "SIBLING": str(self.sibling.pid),
            "VARIABLE": VARIABLE,
        }
        return re.sub(r"@([A-Z]+)@", lambda match: names[match[1]], text)

    def disturbed(self) -> list[str]:
        """Name what is not as it was."""
        found = []
        if self._state_of_file() != self._file_state or sorted(os.listdir(self.folder)) != self._names:
            found.append("the file was changed")
        for name, server in (("TCP", self.tcp), ("unix", self._unix), ("abstract", self._abstract)):
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                found.append(f"the {name} socket was connected to")
        with contextlib.suppress(BlockingIOError):
            self._udp.recv(100)
            found.append("a datagram arrived")
        state = Path(f"/proc/{self.sibling.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if self.sibling.poll() is not None or state not in "RSD":
            found.append("the other process was stopped or killed")
        elif resource.prlimit(self.sibling.pid, resource.RLIMIT_NOFILE) != self._sibling_limits:
            found.append("the other process's limits were changed")
        for place in (Path(), PACKAGES, PACKAGES / "torch"):
            if (place / "redteam_planted.pth").exists():
                found.append(f"a file was planted in {place.name}")
        return found

    def _state_of_file(self) -> tuple[str, int, int] | None:
        if not self.file.exists():
            return None
        stat = self.file.stat()
        return self.file.read_text(), stat.st_mode, stat.st_mtime_ns


class Arena:
    """One zygote for all programs, as a job has, between canaries."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        course = Course.read(ROOT)
        self.course = msgspec.structs.replace(course, limits=msgspec.structs.replace(course.limits, **LIMITS))
        (folder / "canaries").mkdir()
        self.canaries = Canaries(folder / "canaries", stack)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.zygote = stack.enter_context(Zygote(machine_layers()))
        self.zygote.wait_until_ready()
        self._references: dict[str, ReferenceSide] = {}
        self.good = course.solution("tensor_ops").read_text()
        self.before = self.grade(self.good, ["one_hot", "block_diagonal"])

    def grade(self, text: str, tasks: list[str]) -> ModuleResult:
        """Grade a tensor_ops.py for some of its tasks."""
        (module,) = self.course.select(["tensor_ops"], tasks)
        return grade(Unit("mallory", module, Source(text), seed=7), self.course, self.zygote, self._references).result

    def leftovers(self) -> tuple[int, list[str], str]:
        """Open descriptors of this process, scratch folders, and processes that the zygote has not reaped."""
        zygote = self.zygote._process.pid
        children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text()
        return len(os.listdir("/proc/self/fd")), os.listdir(self.scratch), children


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The grader, ready to grade, with a scratch folder that can be looked into."""
    folder = tmp_path_factory.mktemp("redteam")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setattr(tempfile, "tempdir", str(folder / "scratch"))
        yield Arena(folder, stack)
        subprocess.run(["rm", "-rf", folder / "scratch"], check=True)  # what a program left too deep for pytest to take away


def _task(result: ModuleResult, name: str) -> TaskResult:
    return next(task for task in result.tasks if task.name == name)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_hostile_program_gains_nothing(arena: Arena, path: Path) -> None:
    """The attacked task earns nothing, the honest one all, nothing outside is touched, and the next submission is graded as ever."""
    text = path.read_text()
    claims = Claims.of(text)
    before = arena.leftovers()
    result = arena.grade(arena.canaries.fill_in(text), [name for name in (claims.attacks, claims.honest) if name])
    attacked = _task(result, claims.attacks)
    messages = "\n".join(test.message for task in result.tasks for test in task.tests)
    assert arena.canaries.disturbed() == []
    assert arena.canaries.secret not in messages
    assert arena.canaries.name not in messages
    assert "\x1b" not in messages
    assert attacked.status in claims.statuses, messages
    assert claims.says in messages
    assert attacked.score == 0, [(test.id, test.status) for test in attacked.tests]
    if claims.honest:
        honest = _task(result, claims.honest)
        assert (honest.status, honest.score) == (Status.PASSED, honest.max_score), messages
    assert arena.leftovers() == before
    assert arena.grade(arena.good, ["one_hot", "block_diagonal"]) == arena.before


def test_the_reference_earns_everything(arena: Arena) -> None:
    """The small limits leave room enough for right answers."""
    assert arena.before.score == arena.before.max_score > 0


def test_every_program_says_what_it_tries() -> None:
    """A program names a task to attack, another one to answer, and statuses that there are."""
    tasks = {task.name for task in Course.read(ROOT).module("tensor_ops").tasks}
    for path in PROGRAMS:
        claims = Claims.of(path.read_text())
        assert claims.attacks in tasks
        assert claims.honest is None or claims.honest in tasks - {claims.attacks}
        assert claims.statuses <= set(Status) - {Status.PASSED, Status.GRADER_ERROR}, path.stem
