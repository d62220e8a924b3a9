"""Whether grading many submissions costs more for each than grading few: seconds and memory for 10, 100 and 1,000 of one module.

The path is that of `grader grade`, from the job server on: `grade_units` with confined workers. Each submission is the reference with a
line of its own, so none is taken from a store. Memory is the anonymous resident memory of the processes that live as long as the run.

Usage: python benchmarks/scale.py [--module M] [--submissions N ...] [--jobs N]
"""

import argparse
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from grader.course.manifest import Course, Module, load_course
from grader.runner.jobs import grade_units
from grader.runner.store import Entry
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.submissions.sources import Source


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="tensor_ops")
    parser.add_argument("--submissions", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    course = load_course()
    module = course.module(options.module)
    print(f"{module.name}, {options.jobs} jobs")
    print("submissions  first verdict  seconds each, after it  memory of command, server, jobs")
    for count in options.submissions:
        first, each, memory = _measure(course, module, count, options.jobs)
        print(f"{count:11d} {first:13.2f} s {each:20.3f} s  {', '.join(f'{kib / 1024:.0f} MiB' for kib in memory)}")


def _measure(course: Course, module: Module, count: int, jobs: int) -> tuple[float, float, list[int]]:
    text = course.solution(module.name).read_text()
    units = [Unit(f"student {number}", module, Source(f"{text}\n# {number}\n"), seed=1) for number in range(count)]
    finished: list[float] = []
    memory: list[int] = []

    def on_done(unit: Unit, entry: Entry) -> None:
        assert entry.result.score == entry.result.max_score, unit.submission
        finished.append(time.perf_counter())
        if len(finished) == count - jobs:  # the last moment at which all jobs are there
            memory.extend(_anonymous_kib(pid) for pid in _family())

    start = time.perf_counter()
    grade_units(units, course, jobs=jobs, layers=machine_layers(), on_done=on_done)
    return finished[0] - start, (finished[-1] - finished[0]) / (count - 1), memory


def _family() -> Iterator[int]:
    """This process, the server of its jobs, and the jobs."""
    yield os.getpid()
    for server in _children(os.getpid()):
        if b"spawn_main" in Path(f"/proc/{server}/cmdline").read_bytes():
            yield server
            yield from (child for child in _children(server) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())


def _children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _anonymous_kib(process: int) -> int:
    match = re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    main()
