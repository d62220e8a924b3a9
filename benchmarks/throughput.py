"""How many submissions a machine grades: our grader beside bare probes, a cold pytest and stock nbgrader, in one run.

The class hands in modules in which each student has left out another fifth of the tasks. Measured are
- class: `grade_units` with confined workers and two jobs, as in `grader grade`, from the start of the job server on;
- bare: the probes that grading asks, run on the same modules in this one process, one after another: no sandbox, no comparison;
- pytest: a fresh process of `pytest tests/hidden --submission` for each submission, two at a time;
- nbgrader: stock nbgrader on the same answers in notebooks (see autograde.py), whose cells hold the few public tests.
The last two are measured on `--sample` submissions and multiplied, since each submission costs the same.
How it grows: seconds a submission and memory for growing classes (see scale.py).

Usage: python benchmarks/throughput.py [--module M | --all] [--submissions N] [--sample N] [--growth N ...] [--json]
Needs the extra `nbgrader`.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from autograde import _run, _stock_course, _submit
from nbgrader.apps import AutogradeApp
from overhead import _record_probes
from scale import _measure as growth_of

from grader.course.manifest import Course, Module, load_course
from grader.grading.engine import Engine
from grader.grading.sides import TrustedModule
from grader.protocol.probes import thaw
from grader.protocol.state import reset_state
from grader.runner.jobs import grade_units
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.submissions.sources import Source

CORE = ("tensor_ops", "autograd", "modules", "training", "cnn", "attention", "devices", "quantization")
JOBS = 2
SEED = 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--module", default="tensor_ops")
    which.add_argument("--all", action="store_true", help="all core modules, without nbgrader")
    parser.add_argument("--submissions", type=int, help="default: 40 of one module, 20 of all")
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--growth", type=int, nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    course = load_course()
    modules = [course.module(name) for name in (CORE if options.all else [options.module])]
    count = options.submissions or (20 if options.all else 40)
    units = [unit for number in range(count) for unit in _hand_in(course, modules, number)]
    sample = min(options.sample, count)
    measured: dict[str, float | None] = {
        "class_s": _timed(lambda: grade_units(units, course, jobs=JOBS, layers=machine_layers(), on_done=lambda unit, entry: None)),
        "bare_s": _bare(course, units),
        "pytest_s": _pytest(course, units[: sample * len(modules)]) * count / sample,
        "nbgrader_s": None if options.all else _nbgrader(course, modules[0], sample) * count / sample,
    }
    growth = []
    for number in options.growth:
        _, each, memory = growth_of(course, modules[0], number, JOBS)
        growth.append({"submissions": number, "s": each, "mib": sum(memory) / 1024})
    if options.json:
        print(json.dumps({**measured, "growth": growth}))
        return
    print(f"{count} submissions of {', '.join(module.name for module in modules)}; {JOBS} jobs")
    ours, bare = measured["class_s"], measured["bare_s"]
    assert ours and bare
    for name, seconds in measured.items():
        if seconds is not None:
            print(f"{name:11s} {seconds:8.1f} s, {seconds / count:7.3f} s a submission, {seconds / ours:6.2f} times ours")
    print(f"ours, in processor seconds, {JOBS * ours / bare:.2f} times the bare probes")
    for row in growth:
        print(f"{row['submissions']:6d} submissions: {row['s']:.3f} s each, {row['mib']:.0f} MiB")


def _hand_in(course: Course, modules: Sequence[Module], number: int) -> list[Unit]:
    """What a student hands in: the reference without some of its tasks."""
    units = []
    for module in modules:
        text = course.solution(module.name).read_text()
        names = [task.name for task in module.tasks]
        left_out = {name for position, name in enumerate(names) if not (position * 7 + number) % 5}
        for name in left_out:
            text += f"\n\ndef {name}(*args, **kwargs):\n    raise NotImplementedError\n"
        units.append(Unit(f"student {number:03d}", module, Source(f"{text}\n# {number}\n"), SEED))
    return units


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _bare(course: Course, units: Sequence[Unit]) -> float:
    """Seconds of all probes in this process, on the same modules. What is not implemented raises, as it does there."""
    total = 0.0
    with ZygoteHandle(machine_layers(), course.bans) as zygote:
        engine = Engine(course, zygote)
        for number, unit in enumerate(units):
            probes = _record_probes(partial(engine.grade, unit.module, unit.source, unit.seed, explain=False))
            module = TrustedModule(f"bare_{number}", unit.source.text).module
            thawed = [(thaw(probe), seed) for probe, seed in probes]
            start = time.perf_counter()
            for probe, seed in thawed:
                reset_state(seed)
                with contextlib.suppress(Exception):
                    probe(module)
            total += time.perf_counter() - start
    return total


def _pytest(course: Course, units: Sequence[Unit]) -> float:
    """Seconds for a cold pytest of each submission."""
    with tempfile.TemporaryDirectory() as scratch:
        commands = []
        for unit in units:
            folder = Path(scratch, unit.submission)
            folder.mkdir(exist_ok=True)
            (folder / f"{unit.module.name}.py").write_text(unit.source.text)
            suite = str(course.hidden_suite(unit.module.name))
            commands.append([sys.executable, "-m", "pytest", "-q", suite, "--submission", str(folder), "-p", "no:cacheprovider"])
        return _all(commands, course.root)


def _nbgrader(course: Course, module: Module, count: int) -> float:
    """Seconds of stock nbgrader's autograde."""
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # nbgrader calls alembic
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _stock_course(course, module, folder)
        _submit(course, module, folder, count)
        return _timed(lambda: _run(AutogradeApp, module, folder))


def _all(commands: Sequence[list[str]], folder: Path) -> float:
    """Seconds for these commands, as many at a time as we have jobs."""

    def run(command: list[str]) -> int:
        return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode

    with ThreadPoolExecutor(JOBS) as pool:
        return _timed(lambda: list(pool.map(run, commands)))


if __name__ == "__main__":
    main()
