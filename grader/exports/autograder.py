"""An autograder for Classroom 50. It runs its own copy of the public tests on the student's files, and writes result.json.

`grader export classroom50-autograder` ships this file as CLASSROOM/autograders/ASSIGNMENT/autograder.py. Everybody can
read these files, so they hold no hidden tests. The scores are advice: student code runs in the same process as the tests and can forge
their outcome. Only the modules' files are taken from the student's repository (no conftest.py, no settings, no tests). They run in a
process of their own with a fresh environment. If the machine can confine that process, it may write to a scratch folder only.

Scores are hundredths of a point. Uses the standard library and the files that are shipped with it.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

from grader.exports.apportion import apportion
from grader.exports.classroom50_result import BadIdentity, Identity, TestRow, result
from grader.exports.escape import log_line, markdown_text
from grader.sandbox.worker.confine import supported

__all__ = ["main"]

MAX_SOURCE_BYTES = 256 << 10
MAX_REPORT_BYTES = 4 << 20
MAX_LOG_BYTES = 1 << 20
MAX_LOG_LINES = 300
SECONDS = 300
"""For one module. The public tests of the largest module take a few seconds."""


@dataclass(frozen=True)
class Task:
    """One task of assignment.json."""

    name: str
    module: str
    points: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a test function, and the message of the first case that failed."""

    passed: bool
    message: str


def main(bundle: Path, checkout: Path, environment: Mapping[str, str]) -> int:
    """Grade the checkout. Returns: 0 if grading worked, whatever the score; otherwise 1."""
    try:
        identity = Identity.from_environment(environment, _committed(checkout, environment.get("GITHUB_SHA", "HEAD")))
    except BadIdentity as error:
        print(f"This autograder is run by Classroom 50's runner, which sets what is missing here: {log_line(str(error))}")
        return 1
    tasks = [Task(**{**task, "tests": tuple(task["tests"])}) for task in json.loads((bundle / "assignment.json").read_bytes())["tasks"]]
    if not _packages(bundle):
        return 1
    outcomes: dict[str, dict[str, Outcome]] = {}
    for module in dict.fromkeys(task.module for task in tasks):
        outcomes[module] = run_public_tests(bundle, checkout, module)
    rows = score(tasks, outcomes)
    record = result(identity, rows, datetime.now(UTC))
    summary = f"Advisory, from the public tests: {_points(record['score'])} of {_points(record['max-score'])} points"
    _put(checkout / "result.json", json.dumps(record, indent=2) + "\n")
    _put(checkout / "release-body.md", release_body(tasks, rows, outcomes, summary))
    if path := environment.get("GITHUB_OUTPUT"):
        status = "success" if all(row.passed for row in rows) else "failure"
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"status={status}\nsummary={log_line(summary)}\n")
    print(summary)
    return 0


def _committed(checkout: Path, commit: str) -> datetime | None:
    """The time of the commit, or None if git can't tell."""
    command = ["git", "-c", "safe.directory=*", "-C", str(checkout), "show", "--no-patch", "--format=%ct", "--end-of-options", commit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return datetime.fromtimestamp(int(done.stdout), UTC)
    except (OSError, subprocess.SubprocessError, ValueError, OverflowError):
        return None


def _packages(bundle: Path) -> bool:
    """Install the packages that the tests need, if any is missing. Returns: whether all are there now."""
    if all(importlib.util.find_spec(name) for name in ("torch", "torchvision", "pytest")):
        return True
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(bundle / "requirements.txt")]
    if subprocess.run(command, check=False).returncode == 0:
        return True
    print("The packages of requirements.txt could not be installed.")
    return False


# ---- running


def run_public_tests(bundle: Path, checkout: Path, module: str) -> dict[str, Outcome]:
    """Run a module's public tests. Returns: outcomes by test function; the one under "" says why tests are missing."""
    suite = bundle / "tests" / "public" / f"test_{module}.py"
    with tempfile.TemporaryDirectory(prefix="autograder-") as name, tempfile.TemporaryFile() as report, tempfile.TemporaryFile() as log:
        scratch = Path(name).resolve()
        (scratch / "code").mkdir()
        source = _source(checkout, f"{module}.py")
        if source is None:
            return {"": Outcome(False, f"{module}.py is missing, too large, or no regular file.")}
        (scratch / "code" / f"{module}.py").write_bytes(source)
        program = bundle / "grader" / "exports" / "public_tests.py"
        command = [sys.executable, "-P", "-E", "-B", program, bundle, suite, scratch, report.fileno()]
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"HOME": str(scratch), "TMPDIR": str(scratch), "LANG": "C.UTF-8", "PATH": os.defpath, **one_thread},
            pass_fds=[report.fileno()],
            start_new_session=True,
        )
        try:
            why = f"it did not run: the tests of {module} ended with status {process.wait(SECONDS)}"
        except subprocess.TimeoutExpired:
            why = f"the tests of {module} took longer than {SECONDS} seconds"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _print_log(module, log)
        report.seek(0)
        found = read_report(report.read(MAX_REPORT_BYTES))
    found.setdefault("", Outcome(False, why))
    return found


def _source(checkout: Path, name: str) -> bytes | None:
    """Read the student's file, from exercises/ or the top folder. It must be a regular file of limited size, and no link."""
    for folder in (checkout / "exercises", checkout):
        path = folder / name
        if folder.is_symlink() or not os.path.lexists(path):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            data = file.read(MAX_SOURCE_BYTES + 1)
        return data if len(data) <= MAX_SOURCE_BYTES else None
    return None


def _print_log(module: str, log: Any) -> None:
    """Show what the tests printed. Lines are escaped so that GitHub's runner takes none for a command."""
    print(f"Public tests of {module}:")
    log.seek(0)
    for line in log.read(MAX_LOG_BYTES).decode(errors="replace").splitlines()[-MAX_LOG_LINES:]:
        print(f"  {log_line(line)}")


def read_report(data: bytes) -> dict[str, Outcome]:
    """Read the outcomes that the tests' process wrote. Malformed lines are left out."""
    outcomes: dict[str, Outcome] = {}
    for line in data.splitlines():
        try:
            told = json.loads(line)
            name, passed, message = told["name"], told["outcome"] == "passed", told["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(name, str) and isinstance(message, str) and (name not in outcomes or outcomes[name].passed):
            outcomes[name] = Outcome(passed, message)
    return outcomes


# ---- scores


def score(tasks: Sequence[Task], outcomes: Mapping[str, Mapping[str, Outcome]]) -> list[TestRow]:
    """Score each task: its points times the share of its public tests that passed. Hundredths add up to the rounded sum."""
    passed = [sum(_outcome(outcomes[task.module], name).passed for name in task.tests) for task in tasks]
    maxima = [int(100 * Fraction(task.points)) for task in tasks]
    exact = [Fraction(most * count, len(task.tests)) for most, count, task in zip(maxima, passed, tasks, strict=True)]
    shares = apportion(exact, floor(sum(exact) + Fraction(1, 2)))
    return [
        TestRow(f"{task.name} (advisory: public tests)", count == len(task.tests), share, most)
        for task, count, share, most in zip(tasks, passed, shares, maxima, strict=True)
    ]


def _outcome(outcomes: Mapping[str, Outcome], name: str) -> Outcome:
    return outcomes.get(name) or Outcome(False, outcomes[""].message)


def release_body(tasks: Sequence[Task], rows: Sequence[TestRow], outcomes: Mapping[str, Mapping[str, Outcome]], summary: str) -> str:
    """Markdown with the total and a row for each task, with the first message of its failed tests."""
    reason = supported()
    lines = [
        f"### {summary}",
        "",
        "This is advice. The official score comes from hidden tests, which are not run here."
        + (f" Your code ran without confinement: {markdown_text(reason)}." if reason else ""),
        "",
        "| task | points | public tests | first message |",
        "| --- | --- | --- | --- |",
    ]
    for task, row in zip(tasks, rows, strict=True):
        found = [_outcome(outcomes[task.module], name) for name in task.tests]
        message = next((outcome.message for outcome in found if not outcome.passed), "")
        tests = f"{sum(outcome.passed for outcome in found)} of {len(found)}"
        points = f"{_points(row.score)} / {_points(row.max_score)}"
        lines.append(f"| {markdown_text(task.name)} | {points} | {tests} | {markdown_text(message, 200)} |")
    return "\n".join(lines) + "\n"


def _points(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _put(path: Path, text: str) -> None:
    """Write a file, and replace whatever the student's repository has there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent, Path.cwd(), os.environ))
