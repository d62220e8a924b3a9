"""Grade many submissions in one run, a tenth of them hostile, and look for what a long batch would leave behind or wear out.

The path is that of `grader grade`: `grade_units` with its job processes, their zygotes and workers, confined. The course is the
repository's with small limits and two quick tasks of `tensor_ops`; hostile submissions are the red-team programs that attack one of the
two. Ends with status 1 where something leaked (a process, a descriptor, a file in the temporary folder, memory beyond the bound), an
honest submission's result is not byte for byte the first one's, or a hostile one earned something. Times are shown, never judged.

Memory is the anonymous resident memory of a process (RssAnon), and each figure the smallest of a window of results, because a sample
taken in the middle of a test shows that test.

Usage: python benchmarks/soak.py [--submissions N] [--jobs N] [--seed N]
"""

import argparse
import contextlib
import ctypes
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from grader.base.outcome import Status
from grader.course.manifest import Course, Module, load_course
from grader.runner.jobs import grade_units
from grader.runner.store import Entry
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.submissions.sources import Source

PROGRAMS = Path("tests", "grader", "redteam", "programs")
ATTACKED, HONEST = "batched_gather", "one_hot"
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
"""Those of the red-team suite."""
STAGES = (0.1, 0.5, 1.0)
"""Shares of the run at which memory and descriptors are compared."""
WINDOW = 0.05
"""Share of the run over which the smallest sample counts."""
GROWTH_KIB = 8 << 10
"""Most that a process may have grown by in the second half: what an allocator's fragments come to, and no more.

The first half still warms up: a job grows whenever it sees another hostile program first.
"""
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Sample:
    """A process at one moment."""

    role: str
    memory_kib: int
    descriptors: int


@dataclass
class Ledger:
    """What the run has shown so far."""

    total: int
    attacks: dict[str, bool]
    """Each hostile submission, and whether its other task is answered well."""
    scratch: Path
    first: bytes = b""
    """The first honest result; of the others only the names of those that differ are kept."""
    differing: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    samples: dict[float, dict[int, list[Sample]]] = field(default_factory=lambda: {stage: {} for stage in STAGES})
    folders: dict[float, list[int]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    done: int = 0

    def add(self, unit: Unit, entry: Entry) -> None:
        """Take one result, and look at the processes where that is due."""
        self.done += 1
        if unit.submission in self.attacks:
            self._add_hostile(unit.submission, entry)
        else:
            self.seconds.append(entry.timing.seconds)
            result = msgspec.json.encode(entry.result)
            self.first = self.first or result
            if result != self.first:
                self.differing.append(unit.submission)
        for stage in STAGES:
            if stage - WINDOW < self.done / self.total <= stage:
                for pid, sample in look().items():
                    self.samples[stage].setdefault(pid, []).append(sample)
                self.folders[stage].append(sum(len(list(run.iterdir())) for run in self.scratch.glob("grader-run-*")))

    def _add_hostile(self, name: str, entry: Entry) -> None:
        tasks = {task.name: task for task in entry.result.tasks}
        attacked, honest = tasks[ATTACKED], tasks[HONEST]
        self.statuses[attacked.status] += 1
        if attacked.score or attacked.status in (Status.PASSED, Status.GRADER_ERROR, Status.SKIPPED):
            self.faults.append(f"{name}: {attacked.status} with {attacked.score:g} points: {attacked.tests[0].message[:200]}")
        if self.attacks[name] and honest.score != honest.max_score:
            self.faults.append(f"{name}: its honest task is {honest.status}: {honest.tests[0].message[:200]}")


# ---- looking at processes


def look() -> dict[int, Sample]:
    """This process, its job processes and their zygotes, by their number."""
    found = {os.getpid(): "calling process"}
    for job in _children(os.getpid()):
        if "multiprocessing.spawn" in _command(job):
            found[job] = "job"
            found |= {child: "zygote" for child in _children(job) if "grader.sandbox.worker.zygote" in _command(child)}
    samples = {}
    for pid, role in found.items():
        with contextlib.suppress(OSError, TypeError):
            memory = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            samples[pid] = Sample(role, int(memory[1]), len(os.listdir(f"/proc/{pid}/fd")))  # type: ignore[index]
    return samples


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _descendants(pid: int) -> set[int]:
    """Living processes below this one; orphans count, since this process adopts them."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    below = set(_children(pid))
    return below.union(*map(_descendants_of_other, below))


def _descendants_of_other(pid: int) -> set[int]:
    below = set(_children(pid))
    return below.union(*map(_descendants_of_other, below))


def _leaked_processes(before: set[int]) -> list[str]:
    """What still lives after some seconds for killed processes to vanish in."""
    deadline = time.monotonic() + 10
    while (left := _descendants(os.getpid()) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"{pid} {_command(pid)}" for pid in left]


# ---- the submissions


def hostile_programs(folder: Path) -> list[tuple[str, str, bool]]:
    """Name, text, and whether the other task is answered well, of the programs that attack the one task and need no canary to attack."""
    programs = []
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        claims = dict(re.findall(r"^(Attacks|Honest): (.+)$", text, re.MULTILINE))
        if claims["Attacks"] == ATTACKED and claims["Honest"] in (HONEST, "none") and not re.search(r"@[A-Z]+@", text):
            programs.append((path.stem, text, claims["Honest"] == HONEST))
    return programs


def submissions(total: int, course: Course, module: Module, seed: int) -> tuple[list[Unit], dict[str, bool]]:
    """Units in a random order, a tenth of them hostile and every hostile program about as often; and the hostile ones' claims."""
    rng = random.Random(seed)
    programs = hostile_programs(course.root / PROGRAMS)
    rng.shuffle(programs)
    # ASCII, because pickling a text with other characters keeps its UTF-8 beside it for as long as the text lives.
    good = course.solution(module.name).read_text().encode("ascii", "replace").decode()
    chosen = [programs[index % len(programs)] for index in range(total // 10)]
    texts = [(f"hostile {index:04} {name}", text) for index, (name, text, _) in enumerate(chosen)]
    attacks = {name: honest for (name, _), (_, _, honest) in zip(texts, chosen, strict=True)}
    texts += [(f"honest {index:04}", f"{good}\n# handed in by {index}\n") for index in range(total - len(texts))]
    rng.shuffle(texts)
    return [Unit(name, module, Source(text), seed) for name, text in texts], attacks


def main() -> int:
    """Run, print a table, and return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    course = load_course()
    course = msgspec.structs.replace(course, limits=msgspec.structs.replace(course.limits, **LIMITS))
    (module,) = course.select(["tensor_ops"], [ATTACKED, HONEST])
    units, attacks = submissions(options.submissions, course, module, options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        warm_up = [unit for unit in units if unit.submission not in attacks][: options.jobs]
        grade_units(warm_up, course, jobs=options.jobs, layers=machine_layers(), on_done=lambda unit, entry: None)
        _leaked_processes(set())  # what multiprocessing keeps for itself is there from now on
        processes, descriptors = _descendants(os.getpid()), len(os.listdir("/proc/self/fd"))
        ledger = Ledger(len(units), attacks, Path(folder))
        start = time.monotonic()
        grade_units(units, course, jobs=options.jobs, layers=machine_layers(), on_done=ledger.add)
        elapsed = time.monotonic() - start
        problems = [f"a process is left: {line}" for line in _leaked_processes(processes)]
        problems += [f"a file is left: {name}" for name in os.listdir(folder)]
        if (now := len(os.listdir("/proc/self/fd"))) != descriptors:
            problems.append(f"the calling process has {now} descriptors, after {descriptors} before")
        tempfile.tempdir = None
    problems += ledger.faults + _growth(ledger) + _differing(ledger)
    _report(ledger, elapsed, options.jobs)
    print("\n".join(["", *problems]) if problems else "\nnothing leaked, every result as it must be")
    return 1 if problems else 0


def _differing(ledger: Ledger) -> list[str]:
    """Honest submissions whose results are not the first one's."""
    problems = [f"{name}: its result differs from the first one's" for name in ledger.differing]
    if ledger.done != ledger.total:
        problems.append(f"{ledger.total - ledger.done} submissions have no result")
    first = msgspec.json.decode(ledger.first) if ledger.first else {"score": 0, "max_score": 1}
    return problems if first["score"] == first["max_score"] else [*problems, "the honest answer does not earn all points"]


def _rows(ledger: Ledger) -> Iterable[tuple[str, int, list[Sample]]]:
    """For each process that was there at every stage, its smallest samples, one a stage."""
    for pid in ledger.samples[STAGES[0]]:
        windows = [ledger.samples[stage].get(pid, []) for stage in STAGES]
        if all(windows):
            smallest = [Sample(window[0].role, min(s.memory_kib for s in window), min(s.descriptors for s in window)) for window in windows]
            yield smallest[0].role, pid, smallest


def _growth(ledger: Ledger) -> list[str]:
    """Processes that hold more at the end than early on, and folders that stay."""
    problems = []
    roles = Counter(role for role, _, _ in _rows(ledger))
    if roles["job"] != roles["zygote"] or not roles["job"]:
        problems.append(f"of the processes only these lived through the run: {dict(roles)}")
    for role, pid, (first, middle, last) in _rows(ledger):
        if last.memory_kib - middle.memory_kib > GROWTH_KIB:
            problems.append(f"{role} {pid} grew by {last.memory_kib - middle.memory_kib} KiB in the second half, more than {GROWTH_KIB}")
        if last.descriptors > first.descriptors:
            problems.append(f"{role} {pid} has {last.descriptors} descriptors, after {first.descriptors} early on")
    if min(ledger.folders[STAGES[-1]]) > min(ledger.folders[STAGES[0]]):
        problems.append(f"scratch folders stay: {min(ledger.folders[STAGES[-1]])}")
    return problems


def _report(ledger: Ledger, elapsed: float, jobs: int) -> None:
    honest = len(ledger.seconds)
    print(f"{ledger.total} submissions ({honest} honest, {len(ledger.attacks)} hostile) in {elapsed:.0f} s with {jobs} jobs")
    print("hostile: " + ", ".join(f"{count} {status}" for status, count in sorted(ledger.statuses.items())))
    shares = "".join(f"{f'{stage:.0%}':>10}" for stage in STAGES)
    print(f"\n{'memory in KiB at':24}{shares}{'2nd half':>10}{'a submission':>16}   descriptors")
    between = (STAGES[-1] - STAGES[-2]) * ledger.total
    for role, pid, samples in _rows(ledger):
        memory = [sample.memory_kib for sample in samples]
        growth = memory[-1] - memory[-2]
        columns = "".join(f"{kib:>10}" for kib in memory)
        open_files = " ".join(str(sample.descriptors) for sample in samples)
        print(f"{f'{role} {pid}':24}{columns}{growth:>10}{1024 * growth / between:>14.0f} B   {open_files}")
    fifth = max(1, honest // 5)
    middle = (honest - fifth) // 2
    parts = [ledger.seconds[:fifth], ledger.seconds[middle : middle + fifth], ledger.seconds[-fifth:]]
    first, *others = map(statistics.median, parts)
    ratios = ", ".join(f"{other / first:.2f}" for other in others)
    print(f"\nhonest submission: median {first:.3f} s in the first fifth; middle and last fifth ÷ first: {ratios}")


if __name__ == "__main__":
    sys.exit(main())
