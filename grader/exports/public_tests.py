"""Runs the public tests of one module on a student's file, confined where the machine can, in a process of its own.

Shipped with the autograder of Classroom 50 and run as a program: needs pytest, `grader.sandbox.worker.confine` and Python's own library.

    python -P -E public_tests.py BUNDLE SUITE SCRATCH DESCRIPTOR

SCRATCH holds the student's file, under `code`, and is all that this process may write. What came of each test goes to DESCRIPTOR as lines
of JSON. Student code and tests share this process, so student code that means to can forge those lines: hence the scores are advice.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_MEMORY, _FILE = 8 << 30, 8 << 20


class _Lines:
    """Tells what came of each test."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "") or ""
            self._tell(report.nodeid.rpartition("::")[2].partition("[")[0], report.outcome, str(message))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._tell("", "failed", str(report.longrepr).strip().rpartition("\n")[2])

    def _tell(self, name: str, outcome: str, message: str) -> None:
        line = json.dumps({"name": name, "outcome": outcome, "message": message[:400]}) + "\n"
        os.write(self._descriptor, line.encode())


def main(arguments: list[str]) -> int:
    """Returns: pytest's exit status."""
    bundle, suite, scratch, descriptor = arguments
    sys.path.insert(0, bundle)
    os.chdir(scratch)
    from grader.protocol.confinement import Layers, Permissions
    from grader.sandbox.worker.confine import confine, landlock_abi, readable_paths, supported

    if supported() is None:
        readable = (*readable_paths(), *_packages(), bundle)
        confine(Permissions(readable, scratch, _MEMORY, _FILE), Layers(landlock_abi()))
    import pytest

    options = ["-q", "--tb=short", "--color=no", "--import-mode=importlib", "-p", "no:logging", "-p", "no:cacheprovider"]
    place = ["--rootdir", bundle, "-c", f"{bundle}/pytest.ini", "--code", f"{scratch}/code"]
    return int(pytest.main([suite, *options, *place], plugins=[_Lines(int(descriptor))]))


def _packages() -> set[str]:
    """The folders from which Python imports, besides its own: where pip has put pytest and torch."""
    return {path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and Path(path).is_dir()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
