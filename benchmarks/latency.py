"""How soon a save is answered: seconds from the moment a file is replaced until `grader watch` has the verdict on its screen.

The app runs without a terminal, on a copy of the course, with its own watcher, warm process and marks. Wrong and right answers to one_hot
take turns. Beside it stand the task's own compute (the seconds of the tests themselves, in the same runs) and a cold `pytest -q --task
one_hot`, which is what one waits for without a warm process. All are medians.

Usage: python benchmarks/latency.py [--saves N] [--cold N] [--json]
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grader.course.manifest import Course
from grader.practice.outcome import TaskRun
from grader.practice.session import Session, find_places
from grader.practice.watch.app import WatchApp

ROOT = Path(__file__).resolve().parents[1]
TASK, MODULE = "one_hot", "tensor_ops"
TODO = '    # TODO: about 4 lines.\n    raise NotImplementedError("one_hot")\n'
WRONG = "    return (labels.unsqueeze(-1) == torch.arange(num_classes)).to(dtype)\n"
RIGHT = f"    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:\n        raise ValueError\n{WRONG}"
LONGEST = 120.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=30)
    parser.add_argument("--cold", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = copy_course(Path(name))
        watch, compute = asyncio.run(_watch(folder, options.saves))
        cold = [_cold(folder) for _ in range(options.cold)]
    measured = {
        "watch_s": round(statistics.median(watch), 4),
        "compute_s": round(statistics.median(compute), 4),
        "cold_pytest_s": round(statistics.median(cold), 4),
    }
    if options.json:
        print(json.dumps(measured))
    else:
        over = sorted(a - b for a, b in zip(watch, compute, strict=True))
        print(f"{TASK}, {options.saves} saves: answered after {measured['watch_s']:.3f} s; its tests took {measured['compute_s']:.3f} s")
        print(f"beyond the tests: median {statistics.median(over):.3f} s, longest {over[-1]:.3f} s")
        print(f"cold pytest: {measured['cold_pytest_s']:.2f} s")


def copy_course(folder: Path) -> Path:
    """Copy what practice needs into a folder. Returns: the folder."""
    for name in ("course.toml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("exercises", "solutions", "tests/public"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class _Timed(WatchApp):
    """Notes when a verdict is on the screen."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.seen: asyncio.Queue[tuple[float, TaskRun]] = asyncio.Queue()

    def _answer(self, run: TaskRun, mistake: str) -> None:
        super()._answer(run, mistake)
        self.call_after_refresh(lambda: self.seen.put_nowait((time.perf_counter(), run)))


async def _watch(folder: Path, saves: int) -> tuple[list[float], list[float]]:
    """The seconds until the answer, and those of the tests themselves."""
    watch, compute = list[float](), list[float]()
    with Session(Course.read(folder)) as session:
        place = find_places(session.course, [TASK])[0]
        session.go_to(place)
        path = session.file(place)
        stub = path.read_text()
        app = _Timed(session)
        async with app.run_test(size=(100, 40)):
            await asyncio.wait_for(app.seen.get(), LONGEST)  # the stub: torch is loaded now
            for number in range(-2, saves):  # the first two are not counted
                new = path.with_suffix(".new")
                new.write_text(stub.replace(TODO, f"    # {number}\n{RIGHT if number % 2 else WRONG}"))
                begin = time.perf_counter()
                os.replace(new, path)
                end, run = await asyncio.wait_for(app.seen.get(), LONGEST)
                assert run.passed == bool(number % 2) and not run.problem, run
                if number >= 0:
                    watch.append(end - begin)
                    compute.append(run.seconds)
                await asyncio.sleep(0.2)  # as if somebody read it
    return watch, compute


def _cold(folder: Path) -> float:
    """The seconds of pytest on the same task."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--task", TASK],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
