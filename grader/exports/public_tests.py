"""Run the public tests of one module on a student's file, in a process of its own, which is confined if the machine can do that.

Shipped with the autograder of Classroom 50 and run as a program. It uses pytest, `grader.sandbox.worker.confine` and the standard library.

    python -P -E public_tests.py BUNDLE SUITE SCRATCH DESCRIPTOR

SCRATCH holds the student's file, under `code`. This process may write nowhere else. It writes the outcome of each test to DESCRIPTOR, as
lines of JSON. Student code runs in the same process and can forge those lines, so the scores are only advice.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

_MEMORY, _FILE = 8 << 30, 8 << 20


class _Lines:
    """A plugin of pytest that writes the outcome of each test."""

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
    """Run the tests. Returns: pytest's exit status."""
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
    options += ["-p", "grader.practice.pytest_plugin"]
    place = ["--rootdir", bundle, "-c", f"{bundle}/pytest.ini", "--code", f"{scratch}/code"]
    return int(pytest.main([suite, *options, *place], plugins=[_Lines(int(descriptor))]))


def _packages() -> set[str]:
    """The folders where pip has put pytest and torch."""
    return {path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and Path(path).is_dir()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
