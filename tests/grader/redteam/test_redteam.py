"""The grader withstands hostile submissions: each file in programs/ is graded as a student's, between things that it must not touch.

A program's docstring says what it tries and what must come of it. `Attacks` is the task that holds the attack and must earn nothing;
`Status` is what that task's status may be; `Honest` is the task that is answered well and must keep its points ("none" where the attack
takes the whole module along); `Says`, where there is one, is a part of what the student is told, which shows that the defence in
question was at work (one or the other: with namespaces, what may not be opened isn't there).
"""

import ast
import contextlib
import ctypes
import os
import re
import resource
import secrets
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch

import grader
from grader.base.outcome import Status
from grader.course.manifest import Course
from grader.grading.engine import Engine
from grader.protocol.confinement import Layers
from grader.runner.job import grade
from grader.runner.results import ModuleResult, TaskResult
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import draw_seed, machine_layers
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.sandbox.worker.confine import MINIMUM_ABI, supported
from grader.submissions.sources import Source
from tests.grader.redteam import table

pytestmark = pytest.mark.skipif(supported() is not None, reason=str(supported()))

ROOT = Path(__file__).parents[3]
PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
VARIABLE = "GRADER_REDTEAM_CANARY"
SEED = 3_141_592_653_589_793
"""As large as a fresh one, so that no program finds it by trying."""
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
    says: list[str]

    @classmethod
    def of(cls, text: str) -> "Claims":
        """Read the lines `Key: value`."""
        lines = dict(re.findall(r"^(Attacks|Status|Honest|Says): (.+)$", text, re.MULTILINE))
        honest = None if lines["Honest"] == "none" else lines["Honest"]
        return cls(lines["Attacks"], set(lines["Status"].split(" or ")), honest, lines.get("Says", "").split(" or "))


class Watcher:
    """Notices whoever opens, reads or changes files, by inotify(7): a refused attempt leaves no event."""

    _EVENTS = 0x00000001 | 0x00000002 | 0x00000004 | 0x00000020 | 0x00000040 | 0x00000080 | 0x00000100 | 0x00000200 | 0x00000C00
    """IN_ACCESS, MODIFY, ATTRIB, OPEN, MOVED_FROM, MOVED_TO, CREATE, DELETE, and those of the watched thing itself."""

    def __init__(self, folders: list[Path], stack: contextlib.ExitStack) -> None:
        libc = ctypes.CDLL(None)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        stack.callback(os.close, self._descriptor)
        for folder in folders:
            assert libc.inotify_add_watch(self._descriptor, os.fsencode(folder), self._EVENTS) >= 0

    def events(self) -> int:
        """How many bytes of events there were since the last look."""
        total = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                total += len(os.read(self._descriptor, 1 << 16))
        return total


class Canaries:
    """Things of the grader's surroundings, each with a secret or a state that a program could read or disturb."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.secret, self.name = secrets.token_hex(16), secrets.token_hex(16)
        self.folder, self.results = folder, folder / "results"
        self.file = folder / "canary"
        self._write_files()
        self._descriptor = os.open(self.file, os.O_RDONLY)
        stack.callback(os.close, self._descriptor)
        os.set_inheritable(self._descriptor, True)
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(VARIABLE, self.secret)
        self.abstract = f"grader-{secrets.token_hex(8)}"
        self.tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._udp.bind(self.tcp.getsockname())
        self._unix, self._abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        self._unix.bind(str(folder / "socket"))
        self._abstract.bind(f"\0{self.abstract}")
        for server in (self._unix, self._abstract):
            server.listen()
        self._pair = [stack.enter_context(end) for end in socket.socketpair()]
        os.set_inheritable(self._pair[1].fileno(), True)
        for server in (self.tcp, self._udp, self._unix, self._abstract, self._pair[0]):
            server.setblocking(False)
        self.sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        stack.callback(self.sibling.wait)
        stack.callback(self.sibling.kill)
        self._processes = [self._state_of_process(process) for process in (self.sibling.pid, os.getpid())]
        self._watcher = Watcher([folder, self.results, self.results / "alice", self.results / ".store"], stack)
        self._files = self._state_of_files()

    def _write_files(self) -> None:
        """A file, a name that is a secret, and the submissions and results of others."""
        self.file.write_text(self.secret)
        (self.folder / self.name).touch()
        for name in ("alice/tensor_ops.py", ".store/alice.json", "results.json", "results.csv", "junit.xml"):
            (self.results / name).parent.mkdir(parents=True, exist_ok=True)
            (self.results / name).write_text(self.secret)
        with contextlib.closing(sqlite3.connect(self.results / "gradebook.db")) as database:
            database.execute("CREATE TABLE grade (id TEXT, auto_score REAL, max_score REAL)")
            database.execute("INSERT INTO grade VALUES (?, 0, 100)", (self.secret,))
            database.commit()

    def fill_in(self, text: str) -> str:
        """Put what there is to attack in the place of the names for it."""
        names = {
            "CANARY": str(self.file),
            "RESULTS": str(self.results),
            "ROOT": str(ROOT),
            "SOCKET": str(self.folder / "socket"),
            "ABSTRACT": self.abstract,
            "PORT": str(self.tcp.getsockname()[1]),
            "PID": str(os.getpid()),
            "SIBLING": str(self.sibling.pid),
            "VARIABLE": VARIABLE,
        }
        return re.sub(r"@([A-Z]+)@", lambda match: names[match[1]], text)

    def disturbed(self) -> list[str]:
        """Name what is not as it was, or was looked at."""
        found = []
        if self._watcher.events():
            found.append("a file was opened, read or changed")
        if self._state_of_files() != self._files:
            found.append("the files were changed")
        if os.lseek(self._descriptor, 0, os.SEEK_CUR):
            found.append("the descriptor was read from")
        for name, server in (("TCP", self.tcp), ("unix", self._unix), ("abstract", self._abstract)):
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                found.append(f"the {name} socket was connected to")
        for name, end in (("a datagram", self._udp), ("a message through a descriptor", self._pair[0])):
            with contextlib.suppress(BlockingIOError):
                end.recv(100)
                found.append(f"{name} arrived")
        if self.sibling.poll() is not None:
            return [*found, "the other process was killed"]
        for process, state in zip((self.sibling.pid, os.getpid()), self._processes, strict=True):
            if self._state_of_process(process) != state:
                found.append(f"process {process} was stopped, traced, limited or slowed down")
        for place in (Path(), PACKAGES, PACKAGES / "torch"):
            if list(place.glob("redteam_planted*")):
                found.append(f"a file was planted in {place.name}")
        return found

    def _state_of_files(self) -> dict[str, tuple[object, ...]]:
        """Content, mode and times of the canaries; size and times of the grader's modules, the suites and the solutions."""
        own = [path for path in self.folder.rglob("*") if not path.is_socket()]
        course = [path for name in ("tests/hidden", "solutions") for path in (ROOT / name).glob("*.py")]
        states: dict[str, tuple[object, ...]] = {}
        for path in (*own, *course, *Path(grader.__file__).parent.rglob("*.py")):
            stat = path.stat()
            content = path.read_bytes() if path in own and path.is_file() else stat.st_size
            states[str(path)] = content, stat.st_mode, stat.st_uid, stat.st_nlink, stat.st_mtime_ns
        self._watcher.events()  # those of reading here
        return states

    def _state_of_process(self, process: int) -> tuple[object, ...]:
        """Whether it is stopped, its tracer, limits, priority and processors."""
        lines = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
        stopped = lines["State"][0] not in "RSD"
        limits = [resource.prlimit(process, kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_CPU)]
        priority = os.getpriority(os.PRIO_PROCESS, process), os.sched_getaffinity(process), os.sched_getscheduler(process)
        return stopped, lines["TracerPid"], limits, priority


class Arena:
    """One zygote for all programs, as a job has, between canaries."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, layers: Layers | None) -> None:
        course = Course.read(ROOT)
        self.course = msgspec.structs.replace(course, limits=msgspec.structs.replace(course.limits, **LIMITS))
        (folder / "canaries").mkdir()
        self.canaries = Canaries(folder / "canaries", stack)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.zygote = stack.enter_context(ZygoteHandle(layers))
        self.zygote.wait_until_ready()
        self.engine = Engine(self.course, self.zygote)
        self.good = course.solution("tensor_ops").read_text()
        self.alone = self.grade_next()

    def grade(self, text: str, tasks: list[str], seed: int = SEED) -> ModuleResult:
        """Grade a tensor_ops.py for some of its tasks."""
        (module,) = self.course.select(["tensor_ops"], tasks)
        return grade(Unit("mallory", module, Source(text), seed), self.engine).result

    def grade_next(self) -> bytes:
        """The encoded result of an honest submission, tasks with and without bans."""
        return msgspec.json.encode(self.grade(self.good, ["stable_softmax", "batched_gather"]))

    def leftovers(self) -> tuple[int, list[str], str]:
        """Open descriptors of this process, scratch folders, and processes that the zygote has not reaped."""
        zygote = self.zygote._process.pid
        children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text()
        scratch = sorted(str(path) for path in self.scratch.rglob("*"))
        return len(os.listdir("/proc/self/fd")), scratch, children


LAYERS = {"all layers": machine_layers(), "the least": Layers(MINIMUM_ABI)}
"""What confines: everything that this machine has, and what every machine must have (an older Landlock, no namespaces)."""


@pytest.fixture(scope="module")
def arena(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The grader, ready to grade, with a scratch folder that can be looked into."""
    folder = tmp_path_factory.mktemp("redteam")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setattr(tempfile, "tempdir", str(folder / "scratch"))
        yield Arena(folder, stack, LAYERS[request.param])
        subprocess.run(["rm", "-rf", folder / "scratch"], check=True)  # what a program left too deep for pytest to take away


def _task(result: ModuleResult, name: str) -> TaskResult:
    return next(task for task in result.tasks if task.name == name)


# An arena's parameter comes in a mark of its own: beside another argument in one mark, each test would get a new arena.
with_all_layers = pytest.mark.parametrize("arena", ["all layers"], indirect=True)
with_the_least = pytest.mark.parametrize("arena", ["the least"], indirect=True)
STOPPED_BY_CONFINEMENT = [path for path in PROGRAMS if "D5" in table.Program.read(path).defences]


@with_all_layers
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_hostile_program_gains_nothing(arena: Arena, path: Path) -> None:
    """It earns what its honest part does, reads and touches no canary, and the next submission's result is that of one graded alone."""
    attack(arena, path)


@with_the_least
@pytest.mark.parametrize("path", STOPPED_BY_CONFINEMENT, ids=lambda path: path.stem)
def test_hostile_program_gains_nothing_with_the_least(arena: Arena, path: Path) -> None:
    """The same where there is only what every machine must have."""
    attack(arena, path)


def attack(arena: Arena, path: Path) -> None:
    """Grade the program, look at everything, and grade the next submission."""
    text = path.read_text()
    claims = Claims.of(text)
    before = arena.leftovers()
    result = arena.grade(arena.canaries.fill_in(text), [name for name in (claims.attacks, claims.honest) if name])
    attacked = _task(result, claims.attacks)
    messages = "\n".join(test.message for task in result.tasks for test in task.tests)
    assert arena.canaries.disturbed() == []
    told = msgspec.json.encode(result).decode()
    assert arena.canaries.secret not in told
    assert arena.canaries.name not in told
    assert "\x1b" not in messages
    assert len(messages) < 1000 * sum(len(task.tests) for task in result.tasks)
    assert attacked.status in claims.statuses, messages
    assert any(part in messages for part in claims.says), messages
    assert attacked.score == 0, [(test.id, test.status) for test in attacked.tests]
    assert Status.PASSED not in {test.status for test in attacked.tests if attacked.status is not Status.BANNED}
    if claims.honest:
        honest = _task(result, claims.honest)
        assert (honest.status, honest.score) == (Status.PASSED, honest.max_score), messages
    assert result.score == (honest.max_score if claims.honest else 0)
    assert arena.leftovers() == before
    assert arena.grade_next() == arena.alone


@with_all_layers
def test_the_reference_earns_everything(arena: Arena) -> None:
    """The small limits leave room enough for right answers."""
    alone = msgspec.json.decode(arena.alone, type=ModuleResult)
    assert alone.score == alone.max_score > 0


@with_all_layers
def test_fresh_seeds_give_fresh_inputs(arena: Arena) -> None:
    """What a submission tells of its inputs is the same for the same seed, and says nothing of the next run's."""
    text = "def batched_gather(x, index):\n    raise ValueError(str(x.flatten()[:9].tolist()))\n"
    told = [[test.message for test in _task(arena.grade(text, ["batched_gather"], seed), "batched_gather").tests] for seed in (1, 1, 2)]
    assert told[0] == told[1]
    assert all(first != other for first, other in zip(told[0], told[2], strict=True))


@with_all_layers
def test_a_public_seed_would_be_found(arena: Arena) -> None:
    """The program that draws what small seeds give would gain points under such a seed: a run's seed has to be fresh and large."""
    text = next(path for path in PROGRAMS if path.stem == "e68_public_seed").read_text()
    assert _task(arena.grade(text, ["batched_gather"], seed=7), "batched_gather").score > 0
    assert max(draw_seed() for _ in range(100)) > 2**32


def test_replies_are_never_unpickled() -> None:
    """No module of the grader calls a loader that runs code, but for probes.py, whose bytes are the trusted process's own."""
    loaders = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch", "numpy", "np", "yaml"}
    found = set()
    for path in Path(grader.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith(("load", "Unpickl")) and isinstance(node.value, ast.Name):
                found |= {(path.name, f"{node.value.id}.{node.attr}")} if node.value.id in loaders else set()
            if isinstance(node, ast.ImportFrom) and node.module in loaders:
                found |= {(path.name, alias.name) for alias in node.names if alias.name.startswith(("load", "Unpickl"))}
    assert found == {("probes.py", "cloudpickle.loads"), ("layouts.py", "yaml.load")}  # the latter with a SafeLoader
    assert "class _AnyTag(yaml.SafeLoader)" in Path(grader.__file__).with_name("submissions").joinpath("layouts.py").read_text()


def test_the_canaries_sing(tmp_path: Path) -> None:
    """Each of the disturbances that are looked for is seen."""
    with contextlib.ExitStack() as stack:
        canaries = Canaries(tmp_path, stack)
        assert canaries.disturbed() == []
        disturbances = [
            ("opened", lambda: canaries.file.read_text()),
            ("opened", lambda: os.listdir(tmp_path)),
            ("opened", lambda: (canaries.results / "results.json").read_text()),
            ("files were changed", lambda: canaries.file.chmod(0o600)),
            ("files were changed", lambda: (canaries.results / "alice" / "tensor_ops.py").write_text("")),
            ("files were changed", lambda: (tmp_path / "new").touch()),
            ("read from", lambda: os.read(canaries._descriptor, 1)),
            ("TCP", lambda: socket.create_connection(canaries.tcp.getsockname()).close()),
            ("message", lambda: canaries._pair[1].send(b"x")),
            ("stopped", lambda: os.setpriority(os.PRIO_PROCESS, canaries.sibling.pid, 5)),
            ("killed", lambda: canaries.sibling.kill() or canaries.sibling.wait()),
        ]
        for what, disturb in disturbances:
            disturb()
            assert any(what in found for found in canaries.disturbed()), what
            canaries._files = canaries._state_of_files()
            os.lseek(canaries._descriptor, 0, os.SEEK_SET)


def test_every_program_says_what_it_tries() -> None:
    """A program names a task to attack, another one to answer, statuses that there are, and defences of the list."""
    tasks = {task.name for task in Course.read(ROOT).module("tensor_ops").tasks}
    for path, program in zip(PROGRAMS, table.programs(), strict=True):
        claims = Claims.of(path.read_text())
        assert claims.attacks in tasks
        assert claims.honest is None or claims.honest in tasks - {claims.attacks}
        assert claims.statuses <= set(Status) - {Status.PASSED, Status.GRADER_ERROR}, path.stem
        assert set(program.defences) <= set(table.DEFENCES), path.stem
        group, number = program.numbers[0]
        assert path.stem.startswith(f"{group.lower()}{number:02}_"), path.stem


def test_the_catalogue_is_complete() -> None:
    """Its numbers are 1 to 123; each has a program, a test that exists, or a reason; no program has a number of its own."""
    catalogue = table.attacks()
    tried = {number for program in table.programs() for number in program.numbers}
    assert [attack.number for attack in catalogue] == list(range(1, 124))
    assert "".join(attack.group for attack in catalogue) == "".join(sorted(attack.group for attack in catalogue))
    assert tried <= {(attack.group, attack.number) for attack in catalogue}
    for attack in catalogue:
        ways = [(attack.group, attack.number) in tried, bool(attack.test), bool(attack.because)]
        assert sum(ways) == 1, attack
        assert bool(attack.defence) != ways[0], attack
        assert set(filter(None, attack.defence.split(", "))) <= set(table.DEFENCES), attack
    assert table.missing_tests(catalogue) == []


def test_the_table_is_up_to_date() -> None:
    """docs/security.md shows the catalogue and the programs of today; `python tests/grader/redteam/table.py` makes the table."""
    assert not table.stale()


def test_a_missing_test_is_noticed() -> None:
    """A test that the catalogue names has to be there."""
    named = [
        "tests/grader/grading/test_compare.py::test_messages_are_short",
        "tests/grader/grading/test_compare.py::test_no",
        "tests/no.py::test_x",
    ]
    assert table.missing_tests([table.Attack("A", 1, "", test=test) for test in named]) == named[1:]
