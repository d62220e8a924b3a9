"""The command's side of the replay: starts the process that replays, and reads what it found. Imports no torch."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from grader.check.evidence import ModuleEvidence
from grader.course.manifest import Course, Module

__all__ = ["Request", "evidence_of"]


class Request(Struct, frozen=True):
    """What to replay: tasks by module, and the number that the seeds are made from."""

    modules: dict[str, list[str]]
    seed: int


def evidence_of(course: Course, modules: tuple[Module, ...], seed: int) -> tuple[list[ModuleEvidence], list[str]]:
    """The evidence of these modules, found in a process of its own, and what kept it from being found."""
    request = Request({module.name: [task.name for task in module.tasks] for module in modules}, seed)
    with tempfile.TemporaryDirectory(prefix="grader-replay-") as folder:
        path = Path(folder, "evidence.json")
        command = [sys.executable, "-P", "-m", "grader.check.replay", str(path)]
        # Whose shell it is must not decide which tests are collected.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(command, input=msgspec.json.encode(request), cwd=course.root, env=env, capture_output=True, check=False)
        if done.returncode:
            last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"])[-1]
            return [], [f"the replay of answers did not come to its end: {last}"]
        return msgspec.json.decode(path.read_bytes(), type=list[ModuleEvidence]), []
