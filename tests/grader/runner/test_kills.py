"""Whatever is killed and whenever: the next run completes what is missing, with the same results, byte for byte."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from grader.base.exit_codes import EXIT_GRADER_FAILED
from tests.grader.conftest import COUNTER, DOUBLE, RIGHT, mini_course

KILLS = 50
SLOW = RIGHT.replace("return x + x", "__import__('time').sleep(0.3)\n    return x + x")
HANDED_IN = {
    "anna": RIGHT,
    "ben": COUNTER,
    "carla": RIGHT.replace("return x + x", "return x * x"),
    "dan": SLOW,
    "eva": f"{DOUBLE}\n\nprint('x' * 1000)\n",
    "finn": RIGHT.replace("return x + x", "raise SystemExit"),
    "gina": SLOW.replace("self.n += n", "self.n = n"),
    "hugo": SLOW.replace("raise ValueError", "return x"),
}


def test_fifty_kills(tmp_path):
    """The command, its server, a job, the zygote or a worker is killed at a random moment, fifty times in all."""
    root = mini_course(tmp_path / "course")
    for name, text in HANDED_IN.items():
        (tmp_path / "hand-in" / name).mkdir(parents=True)
        (tmp_path / "hand-in" / name / "mini.py").write_text(text)
    start = time.monotonic()
    undisturbed, _ = run(root, tmp_path / "undisturbed", random.Random(0), kills=0, within=0)
    whole = time.monotonic() - start
    assert undisturbed == 0
    expected = (tmp_path / "undisturbed" / "results.json").read_text().splitlines()
    seed = random.SystemRandom().getrandbits(32)
    rng, left, attempts, completed = random.Random(seed), KILLS, 0, 0
    out = tmp_path / "disturbed 0"
    while left:
        status, killed = run(root, out, rng, kills=min(left, rng.randint(1, 6)), within=whole)
        left -= killed
        attempts += 1
        if status == 0:
            assert (out / "results.json").read_text().splitlines() == expected, f"seed {seed}, run {attempts}"
            completed += 1
            out = tmp_path / f"disturbed {attempts}"
        else:
            assert status in (-signal.SIGKILL, EXIT_GRADER_FAILED), f"seed {seed}, run {attempts}"
            assert not (out / "results.json").exists()
    assert run(root, out, rng, kills=0, within=0) == (0, 0)
    assert (out / "results.json").read_text().splitlines() == expected, f"seed {seed}, the last run"
    assert completed < attempts, "nothing that was killed ended a run"


def run(root: Path, out: Path, rng: random.Random, *, kills: int, within: float) -> tuple[int, int]:
    """Grade, and kill a process now and then. Returns: the command's exit status, and how often something was killed."""
    command = [sys.executable, "-m", "grader", "grade", "../hand-in", "--jobs", "2", "--seed", "7", "--out", str(out)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        killed = 0
        for moment in sorted(rng.uniform(0, 1.2 * within) for _ in range(kills)):
            until = time.monotonic() + moment / kills
            while process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
            if process.poll() is not None:
                break
            victim = rng.choice([process.pid, *family(process.pid)])
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(victim, signal.SIGKILL)
                killed += 1
        errors = process.communicate(timeout=300)[1]
    assert "Traceback" not in errors, errors
    if process.returncode not in (0, -signal.SIGKILL):
        assert "kept" in errors or "killed" in errors, errors  # it says what happened
    return process.returncode, killed


def family(process: int) -> Iterator[int]:
    """The processes that come from a process."""
    with contextlib.suppress(OSError):  # it has just ended
        for child in map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()):
            yield child
            yield from family(child)
