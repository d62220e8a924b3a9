"""Runs the public tests of a module in a student's own repository, and reports them in the format of GitHub Classroom's reporter.

The workflow of `grader export student` calls it. Its scores are advice: a student can edit the tests, and the workflow.

Every public test is worth one point. The points in course.toml are for hidden tests only.

    python -m grader.exports.advisory tensor_ops             run the tests, set the step's output `result`
    python -m grader.exports.advisory --total tensor_ops …   add up TENSOR_OPS_RESULTS and the others, as the reporter does
"""

import argparse
import ast
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from grader.exports.escape import github_output, log_line
from grader.exports.runner_json import Check, encode, runner_json

__all__ = ["add_up", "main", "report", "results_name"]

_SECONDS = 600
"""For all public tests of a module together. They take a few seconds; pytest-timeout ends a single slow test earlier."""
_MOST_OUTPUT = 1 << 20
_MOST_LINES = 2_000
_OURS = ("GITHUB_", "RUNNER_", "ACTIONS_", "INPUT_")
"""Variables that begin like this tell a program how to talk to GitHub's runner. Tests don't get them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns: 0 if tests ran, even if they failed. With --total: 0 if all passed, otherwise 1."""
    parser = argparse.ArgumentParser(description="Report the public tests of modules. The scores are advice.")
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--total", action="store_true", help="add up what earlier steps have found")
    options = parser.parse_args(arguments)
    if options.total:
        return _print_total({name: os.environ.get(results_name(name), "") for name in options.modules})
    for name in options.modules:
        suite = Path("tests", "public", f"test_{name}.py")
        checks = report(suite, *_run(suite))
        print(f"{name}: {sum(check.status == 'pass' for check in checks)} of {len(checks)} public tests passed (advisory).")
        if path := os.environ.get("GITHUB_OUTPUT"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(github_output("result", encode(runner_json(len(checks), checks))))
    return 0


def results_name(module: str) -> str:
    """The environment variable that holds the result of this module's step. The reporter looks for this name."""
    return f"{module.upper()}_RESULTS"


# ---- running tests


def _run(suite: Path) -> tuple[str, str]:
    """Run pytest on a suite and show its output. Returns: the JUnit report, or an empty string; the reason if there is no report."""
    with tempfile.TemporaryDirectory() as folder:
        junit, output = Path(folder, "junit.xml"), Path(folder, "output.txt")
        command = [sys.executable, "-m", "pytest", str(suite), "-q", "--color=no", "-p", "no:cacheprovider", f"--junitxml={junit}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        reason = "the tests could not be run: see the log"
        with output.open("wb") as file:  # not a pipe, which a process that is left behind could keep open
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True)
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                reason = f"the tests did not end within {_SECONDS} seconds"
            finally:
                _end(process)
        with output.open("rb") as file:
            text = file.read(_MOST_OUTPUT).decode(errors="replace")
        for line in text.splitlines()[:_MOST_LINES]:
            indent = min(len(line) - len(line.lstrip(" ")), 40)
            print(" " * (2 + indent) + log_line(line))
        return (junit.read_text(encoding="utf-8", errors="replace") if junit.is_file() else ""), reason


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


# ---- reporting


def report(suite: Path, junit: str, reason: str) -> list[Check]:
    """One check for each test function. It passes if all its cases pass, and is left out if all were skipped."""
    found = _cases(junit)
    checks = []
    for name in _functions(suite):
        cases = found.get(name) or [("error", reason)]
        if all(kind == "skipped" for kind, _ in cases):
            continue
        kind, message = next((case for case in cases if case[0] in ("failure", "error")), ("passed", ""))
        checks.append(Check(name, _STATUSES[kind], message))
    return checks


_STATUSES: dict[str, Literal["pass", "fail", "error"]] = {"passed": "pass", "failure": "fail", "error": "error"}


def _functions(suite: Path) -> list[str]:
    """The names of a suite's test functions. They are read from the source, so they are known even if the module can't be imported."""
    try:
        nodes = ast.parse(suite.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]


def _cases(junit: str) -> dict[str, list[tuple[str, str]]]:
    """The outcome and the message of each case, by the name of the test function."""
    cases: dict[str, list[tuple[str, str]]] = {}
    try:
        root = ElementTree.fromstring(junit)
    except ElementTree.ParseError:
        return cases
    for case in root.iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        what = ("passed", "") if bad is None else (bad.tag, bad.get("message", ""))
        cases.setdefault(case.get("name", "").partition("[")[0], []).append(what)
    return cases


# ---- adding up


def add_up(results: Mapping[str, str]) -> tuple[float, float, list[str]]:
    """Add up encoded results. Returns: points, maximum, and the modules whose result is missing or unreadable."""
    points, maximum, missing = 0.0, 0.0, []
    for name, encoded in results.items():
        try:
            result = json.loads(base64.b64decode(encoded, validate=True))
            if result["max_score"]:
                points, maximum = points + sum(test["score"] for test in result["tests"]), maximum + result["max_score"]
        except (ValueError, KeyError, TypeError, ArithmeticError):  # binascii.Error is a ValueError
            missing.append(name)
    return points, maximum, missing


def _print_total(results: Mapping[str, str]) -> int:
    points, maximum, missing = add_up(results)
    for name in missing:
        print(f"{name}: no result; see its step.")
    if maximum:  # GitHub's programs read the score from these two annotations
        print(f"::notice title=Autograding complete::Points {points:g}/{maximum:g}")
        print(f'::notice title=Autograding report::{{"totalPoints":{points:g},"maxPoints":{maximum:g}}}')
    print(f"{points:g} of {maximum:g} public tests passed. This is advice: the official score comes from your instructor's hidden tests.")
    return 0 if points == maximum and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
