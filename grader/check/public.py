"""Runs the public tests of all modules, on references and on stubs, in one process that loads torch once and forks for each run.

`python -P -m grader.check.public FOLDER` reads runs as JSON from standard input, in the course's root, and writes a JUnit report of each
into FOLDER. Public tests are the course's own, so nothing confines them.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from grader.course.manifest import Course, Module
from grader.practice.pytest_plugin import owner_of

__all__ = ["public_problems"]

_ON = {"solutions": "the reference", "exercises": "the stub"}


def public_problems(course: Course, modules: Iterable[Module]) -> list[str]:
    """The public tests pass on the reference, fail on the stub, and leave no task out."""
    problems: list[str] = []
    modules = list(modules)
    outcomes = run_public(course, modules)
    for module in modules:
        suite = f"tests/public/test_{module.name}.py"
        tasks = [task.name for task in course.module(module.name).tasks]
        checked = [task.name for task in module.tasks]
        passed, failed, skipped = outcomes[module.name, "solutions"]
        problems += [f"{suite}: {name} fails on the reference" for name in failed if owner_of(name, tasks) in (*checked, None)]
        owners = {owner_of(name, tasks) for name in passed + failed + skipped}
        problems += [f"{suite} has no test called test_{task}…" for task in checked if task not in owners]
        passed, _, _ = outcomes[module.name, "exercises"]
        problems += [f"{suite}: {name} passes on the stub" for name in passed if owner_of(name, tasks) in (*checked, None)]
    return problems


def run_public(course: Course, modules: Iterable[Module]) -> dict[tuple[str, str], tuple[list[str], list[str], list[str]]]:
    """Names of the public tests that pass, fail and are skipped, by module and by the folder whose modules are tested."""
    runs = [(module.name, code) for module in modules for code in _ON]
    with tempfile.TemporaryDirectory(prefix="grader-public-") as folder:
        command = [sys.executable, "-P", "-m", "grader.check.public", folder]
        # Whose shell it is must not decide which tests run.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        subprocess.run(command, input=msgspec.json.encode(runs), cwd=course.root, env=env, capture_output=True, check=False)
        return {run: _read(Path(folder, f"{'.'.join(run)}.xml")) for run in runs}


def _read(report: Path) -> tuple[list[str], list[str], list[str]]:
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return [], [], []  # no test ran, so each task is reported to have none
    bad = {case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None}
    skipped = {case.get("name", "") for case in cases if case.find("skipped") is not None}
    return sorted({case.get("name", "") for case in cases} - bad - skipped), sorted(bad), sorted(skipped)


def _main() -> None:
    runs = msgspec.json.decode(sys.stdin.buffer.read(), type=list[tuple[str, str]])
    course = Course.read(Path.cwd())
    import pytest  # with torch, loaded once for all runs
    import torch

    from grader.base.torchvision_compat import import_torchvision

    torch.set_num_threads(1)  # a warm pool of threads hangs in a fork
    torch.testing.assert_close(torch.zeros(1), torch.zeros(1))  # loads what every fork would load again
    if any("torchvision" in text for text in _texts(course, runs)):
        import_torchvision()
    for module, code in runs:
        process = os.fork()
        if process == 0:
            report = Path(sys.argv[1], f"{module}.{code}.xml")
            options = ["-q", "-p", "no:cacheprovider", "-p", "grader.practice.pytest_plugin", "--code", code, f"--junitxml={report}"]
            place = ["--rootdir", str(course.root), "-c", str(course.root / "pyproject.toml")]
            os._exit(int(pytest.main([str(course.public_suite(module)), *options, *place])))
        os.waitpid(process, 0)


def _texts(course: Course, runs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for module in {module for module, _ in runs}:
        for path in (course.public_suite(module), course.solution(module)):
            yield path.read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    _main()
