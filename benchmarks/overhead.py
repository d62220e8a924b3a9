"""What grading costs beyond the exercises' own compute: a perfect submission in a warm batch against its bare probes, in CPU seconds.

Bare means the same probes on the same module in this process, one after another: no sandbox, no comparison. Graded means everything that
the trusted process, the zygote and the worker use for the submission. Both are taken in turn in one run, because the machine's speed
drifts. Prints medians, and how the graded time is shared.

Usage: python benchmarks/overhead.py [--module M | --all] [--rounds N] [--json]
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grader.grading.case
from grader.course.manifest import Module, load_course
from grader.grading.engine import Engine
from grader.grading.sides import StudentSide
from grader.protocol.probes import thaw
from grader.protocol.state import reset_state
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.worker_handle import WorkerHandle
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.submissions.sources import Source


@dataclass
class Measured:
    """CPU seconds of one module, a number a round."""

    tests: int = 0
    probes: int = 0
    bare: list[float] = field(default_factory=list)
    trusted: list[float] = field(default_factory=list)
    zygote: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def graded(self) -> float:
        """What one grading costs in all processes."""
        return statistics.median(map(sum, zip(self.trusted, self.zygote, self.worker, strict=True)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--module", default="tensor_ops")
    which.add_argument("--all", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    course = load_course()
    modules = course.modules if options.all else [course.module(options.module)]
    with ZygoteHandle(machine_layers(), course.bans) as zygote:
        engine = Engine(course, zygote)
        measured = {
            module.name: _measure(engine, zygote, module, course.solution(module.name).read_text(), options.rounds) for module in modules
        }
    if options.json:
        print(json.dumps(_summary(measured), indent=2))
    else:
        _print(measured)


def _summary(measured: dict[str, Measured]) -> dict[str, Any]:
    modules = {
        name: {"graded_cpu": one.graded, "bare_cpu": statistics.median(one.bare), "tests": one.tests} for name, one in measured.items()
    }
    graded, bare = (sum(one[key] for one in modules.values()) for key in ("graded_cpu", "bare_cpu"))
    return {"modules": modules, "graded_cpu": graded, "bare_cpu": bare, "ratio": graded / bare}


def _print(measured: dict[str, Measured]) -> None:
    summary = _summary(measured)
    print(f"{'module':14s} tests probes    bare  graded  ratio  trusted  zygote  worker   (CPU seconds)")
    for name, one in measured.items():
        bare = statistics.median(one.bare)
        shares = "".join(f"{statistics.median(share):8.3f}" for share in (one.trusted, one.zygote, one.worker))
        print(f"{name:14s} {one.tests:5d} {one.probes:6d} {bare:7.3f} {one.graded:7.3f} {one.graded / bare:6.2f} {shares}")
    print(f"{'all':26s} {summary['bare_cpu']:7.3f} {summary['graded_cpu']:7.3f} {summary['ratio']:6.2f}")
    print("of the trusted process's time:")
    names = next(iter(measured.values())).parts
    for name in names:
        print(f"  {name:22s} {sum(statistics.median(one.parts[name]) for one in measured.values()):7.3f}")


def _measure(engine: Engine, zygote: ZygoteHandle, module: Module, text: str, rounds: int) -> Measured:
    source, seed = Source(text), 1
    probes = _record_probes(lambda: engine.grade(module, source, seed))
    reference = engine.reference(module.name).module
    measured = Measured(probes=len(probes))
    for _ in range(rounds):
        with _Stopwatch() as watch:
            own, forks = time.process_time(), zygote.cpu_seconds
            graded = engine.grade(module, source, seed)
            measured.trusted.append(time.process_time() - own)
            measured.zygote.append(zygote.cpu_seconds - forks)
            measured.worker.append(graded.usage.cpu_seconds)
        for name in watch.seconds:
            measured.parts[name].append(watch.seconds[name])
        measured.bare.append(_run_bare(probes, reference))
    measured.tests = len(graded.records)
    bad = [record for record in graded.records if record.outcome.status not in ("passed", "skipped")]
    assert not bad, bad
    return measured


def _record_probes(run: Callable[[], Any]) -> list[tuple[bytes, int]]:
    """The probes that a grading asks, in order."""
    recorded = []
    original = StudentSide.call

    def call(self: StudentSide, task: str, probe: bytes, seed: int) -> Any:
        recorded.append((probe, seed))
        return original(self, task, probe, seed)

    StudentSide.call = call  # type: ignore[method-assign]
    try:
        run()
    finally:
        StudentSide.call = original  # type: ignore[method-assign]
    return recorded


def _run_bare(probes: list[tuple[bytes, int]], module: object) -> float:
    thawed = [(thaw(probe), seed) for probe, seed in probes]
    start = time.process_time()
    for probe, seed in thawed:
        reset_state(seed)
        probe(module)
    return time.process_time() - start


class _Stopwatch:
    """Adds up the CPU time that this process spends in the parts of a grading."""

    _PARTS = (
        ("fork and confine", WorkerHandle, "__init__"),
        ("load the module", WorkerHandle, "load"),
        ("ask the worker", WorkerHandle, "call"),
        ("kill and clean up", WorkerHandle, "__exit__"),
        ("pickle probes", grader.grading.case, "freeze"),
        ("compare", grader.grading.case, "difference"),
    )

    def __enter__(self) -> "_Stopwatch":
        self.seconds: dict[str, float] = {name: 0.0 for name, _, _ in self._PARTS}
        self._originals = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in self._PARTS]
        for name, owner, attribute in self._PARTS:
            setattr(owner, attribute, self._timed(name, getattr(owner, attribute)))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, attribute, original in self._originals:
            setattr(owner, attribute, original)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.process_time() - start

        return timed


if __name__ == "__main__":
    main()
