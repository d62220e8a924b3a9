"""What grading costs beyond the exercises' own compute: one `tensor_ops` submission in a warm batch against its bare probes.

Bare means the same probes on the same module in this process, one after another: no pytest, no sandbox, no comparison. Both are taken
in turn in one run, since the machine's speed drifts. Prints medians, and where the overhead goes.

Usage: python benchmarks/overhead.py [--module M] [--rounds N]
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import grader.grading.plugin
from grader.course.manifest import load_course
from grader.grading.sides import ReferenceSide, StudentSide
from grader.protocol.probes import thaw
from grader.protocol.state import reset_state
from grader.runner.job import grade
from grader.runner.jobs import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.sandbox.supervisor.worker_handle import WorkerHandle
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.submissions.ingest import Source


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="tensor_ops")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    course = load_course()
    module = course.module(options.module)
    unit = Unit("benchmark", module, Source(course.solution(module.name).read_text()), seed=1)
    references: dict[str, ReferenceSide] = {}
    graded, bare, parts = [], [], defaultdict(list)
    with ZygoteHandle(machine_layers()) as zygote:
        probes = _record_probes(lambda: grade(unit, course, zygote, references))
        reference = references[module.name].module
        for _ in range(options.rounds):
            with _Stopwatch() as watch:
                start = time.perf_counter()
                entry = grade(unit, course, zygote, references)
                graded.append(time.perf_counter() - start)
            for name, seconds in watch.seconds.items():
                parts[name].append(seconds)
            bare.append(_run_bare(probes, reference))
    assert entry.result.score == entry.result.max_score
    total, own = statistics.median(graded), statistics.median(bare)
    rest = total - sum(statistics.median(seconds) for seconds in parts.values())
    print(f"{module.name}: {len(entry.timing.tests)} tests, {len(probes)} probes, median of {options.rounds} rounds")
    print(f"graded in a warm batch   {total:7.3f} s")
    print(f"bare probes              {own:7.3f} s")
    print(f"overhead                 {total - own:7.3f} s   (graded ÷ bare: {total / own:.1f})")
    print("where the graded time goes:")
    for name, seconds in parts.items():
        print(f"  {name:22s} {statistics.median(seconds):7.3f} s")
    print(f"  {'pytest and the rest':22s} {rest:7.3f} s")


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
    start = time.perf_counter()
    for probe, seed in thawed:
        reset_state(seed)
        probe(module)
    return time.perf_counter() - start


class _Stopwatch:
    """Adds up the time spent in the parts of a grading."""

    _PARTS = (
        ("fork and confine", WorkerHandle, "__init__"),
        ("load the module", WorkerHandle, "load"),
        ("ask the worker", WorkerHandle, "call"),
        ("kill and clean up", WorkerHandle, "__exit__"),
        ("pickle probes", grader.grading.plugin, "freeze"),
        ("compare", grader.grading.plugin, "difference"),
    )

    def __enter__(self) -> "_Stopwatch":
        self.seconds: dict[str, float] = defaultdict(float)
        self._originals = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in self._PARTS]
        for name, owner, attribute in self._PARTS:
            setattr(owner, attribute, self._timed(name, getattr(owner, attribute)))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, attribute, original in self._originals:
            setattr(owner, attribute, original)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return timed


if __name__ == "__main__":
    main()
