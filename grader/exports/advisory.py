"""Runs the public tests of a module in a student's own repository, and reports them in the format of GitHub Classroom's reporter.

`grader export student` ships this file as it is, so it needs Python's own library, pytest, and `grader.exports.escape` only. What it
says is advice: a student can edit it, the tests and the workflow that calls it.

One public test is one point, whatever its task: these are examples, and the course's points are for hidden tests. Then the points
that the reporter records (the sum of the tests' scores) and those that it displays (passed ÷ tests × maximum) are the same.

    python -m grader.exports.advisory tensor_ops             run the tests, set the step's output `result`
    python -m grader.exports.advisory --total tensor_ops …   add up TENSOR_OPS_RESULTS and the others, as the reporter does
"""

import argparse
import ast
import base64
import binascii
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from grader.exports.escape import github_output, log_line

__all__ = ["add_up", "encode", "main", "report", "results_name"]

_SECONDS = 600
"""For all public tests of a module, which take seconds; pytest-timeout ends a single one earlier."""
_MOST_BYTES = 98_000
"""Of an encoded report: an environment variable of 131,072 bytes would keep the next step from starting."""
_MOST_OUTPUT = 1 << 20
_MOST_LINES = 2_000
_OURS = ("GITHUB_", "RUNNER_", "ACTIONS_", "INPUT_")
"""Beginnings of the names of variables that tell a program how to talk to the runner."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns: 0 where tests ran, whatever came of them; with --total, 1 unless all passed."""
    parser = argparse.ArgumentParser(description="Report the public tests of modules. The scores are advice.")
    parser.add_argument("modules", nargs="+", metavar="MODULE")
    parser.add_argument("--total", action="store_true", help="add up what earlier steps have found")
    options = parser.parse_args(arguments)
    if options.total:
        return _print_total({name: os.environ.get(results_name(name), "") for name in options.modules})
    for name in options.modules:
        suite = Path("tests", "public", f"test_{name}.py")
        result = report(suite, *_run(suite))
        print(f"{name}: {_passed(result)} of {result['max_score']} public tests passed (advisory).")
        if path := os.environ.get("GITHUB_OUTPUT"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(github_output("result", encode(result)))
    return 0


def results_name(module: str) -> str:
    """The environment variable in which the reporter looks for the result of the step of this name."""
    return f"{module.upper()}_RESULTS"


# ---- running tests


def _run(suite: Path) -> tuple[str, str]:
    """Run pytest on a suite and show what it printed. Returns: its JUnit report, empty where there is none; why there may be none."""
    with tempfile.TemporaryDirectory() as folder:
        junit, output = Path(folder, "junit.xml"), Path(folder, "output.txt")
        command = [sys.executable, "-m", "pytest", str(suite), "-q", "--color=no", "-p", "no:cacheprovider", f"--junitxml={junit}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        reason = "the tests could not be run: see the log"
        with output.open("wb") as file:  # no pipe, which a process that is left behind could keep open
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
    """End the process and what it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


# ---- reporting


def report(suite: Path, junit: str, reason: str) -> dict[str, Any]:
    """The reporter's object for a suite: one test a test function, passed where all its cases passed, left out where all were skipped."""
    found = _cases(junit)
    tests = []
    for name in _functions(suite):
        cases = found.get(name)
        if cases is not None and all(kind == "skipped" for kind, _ in cases):
            continue
        bad = [(kind, message) for kind, message in cases or [("error", reason)] if kind in ("failure", "error")]
        status = "pass" if not bad else "fail" if bad[0][0] == "failure" else "error"
        tests.append(_test(suite, name, status, int(not bad), bad[0][1] if bad else ""))
    if not tests:  # the reporter divides by their number
        return {"version": 1, "status": "pass", "max_score": 0, "tests": [_test(suite, suite.stem, "pass", 0, "no test was counted")]}
    statuses = [test["status"] for test in tests]
    worst = next((status for status in ("error", "fail") if status in statuses), "pass")
    return {"version": 1, "status": worst, "max_score": len(tests), "tests": tests}


def _test(suite: Path, name: str, status: str, score: int, message: str) -> dict[str, Any]:
    place = {"test_code": "", "filename": suite.as_posix(), "line_no": 0}
    return {"name": name, "status": status, "score": score, "message": log_line(message, 200), **place, "duration": 0}


def _functions(suite: Path) -> list[str]:
    """The names of a suite's test functions, known without running it, so that a module that can't be imported counts as well."""
    try:
        nodes = ast.parse(suite.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]


def _cases(junit: str) -> dict[str, list[tuple[str, str]]]:
    """What came of each case, and its message, by the name of the function."""
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


def encode(result: dict[str, Any]) -> str:
    """Base64 of the JSON, without messages where it would be too long."""
    for kept in (result, {**result, "tests": [{**test, "message": ""} for test in result["tests"]]}):
        encoded = base64.b64encode(json.dumps(kept, ensure_ascii=False).encode()).decode()
        if len(encoded) < _MOST_BYTES:
            break
    return encoded


# ---- adding up


def add_up(results: Mapping[str, str]) -> tuple[int, int, list[str]]:
    """The points of all encoded results and their maximum; the modules whose result is missing or unreadable."""
    points, maximum, missing = 0, 0, []
    for name, encoded in results.items():
        try:
            result = json.loads(base64.b64decode(encoded, validate=True))
            if result["max_score"]:
                points, maximum = points + sum(test["score"] for test in result["tests"]), maximum + result["max_score"]
        except (binascii.Error, ValueError, KeyError, TypeError):
            missing.append(name)
    return points, maximum, missing


def _print_total(results: Mapping[str, str]) -> int:
    points, maximum, missing = add_up(results)
    for name in missing:
        print(f"{name}: no result; see its step.")
    if maximum:  # the two annotations by which the reporter tells GitHub's programs the score
        print(f"::notice title=Autograding complete::Points {points}/{maximum}")
        print(f"::notice title=Autograding report::{json.dumps({'totalPoints': points, 'maxPoints': maximum}, separators=(',', ':'))}")
    print(f"{points} of {maximum} public tests passed. This is advice: the official score comes from your instructor's hidden tests.")
    return 0 if points == maximum and not missing else 1


def _passed(result: dict[str, Any]) -> int:
    return sum(test["score"] for test in result["tests"])


if __name__ == "__main__":
    sys.exit(main())
