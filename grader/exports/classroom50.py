"""Classroom 50: the files of an autograder, made from the course, and a submission's official result.json, made from results.json."""

import ast
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

import msgspec

from grader.base.text import one_line
from grader.course.manifest import Course, ManifestError, Module
from grader.exports.classroom50_result import Identity, TestRow, result
from grader.exports.totals import total
from grader.runner.results import SubmissionResult, decimal_fraction

__all__ = ["autograder_files", "official_result", "public_tests_of"]

_SUPPORT = (
    "__init__.py",
    "base/__init__.py",
    "base/text.py",
    "base/time_limit.py",
    "base/torchvision_compat.py",
    "protocol/__init__.py",
    "protocol/confinement.py",
    "sandbox/__init__.py",
    "sandbox/worker/__init__.py",
    "sandbox/worker/confine.py",
    "exports/__init__.py",
    "exports/apportion.py",
    "exports/classroom50_result.py",
    "exports/escape.py",
    "exports/public_tests.py",
    "practice/__init__.py",
    "practice/pytest_plugin.py",
    "practice/unseen.py",
)
"""The files of this package that the autograder needs. They are shipped unchanged, and none is secret."""
_ENTRY = "exports/autograder.py"
_REQUIREMENTS = """\
# What the public tests need. The autograder installs it if it is missing; a container that has it saves this time.
--extra-index-url https://download.pytorch.org/whl/cpu
{pins}
numpy
pytest>=9.0
"""


def official_result(submission: SubmissionResult, identity: Identity, graded_at: datetime) -> dict[str, Any]:
    """The content of result.json for a graded submission: one test for each task, in hundredths of a point. Raises: ResultsError."""
    whole = total(submission)
    rows = [TestRow(part.task.name, part.task.status == "passed", part.score, part.max_score) for part in whole.parts if part.max_score]
    return result(identity, rows, graded_at)


def autograder_files(course: Course, modules: Sequence[Module]) -> dict[str, bytes]:
    """The autograder's files by path, for CLASSROOM/autograders/ASSIGNMENT. Raises: ManifestError if a file of the course is missing."""
    try:
        return dict(_bundle(course, modules))
    except OSError as error:
        raise ManifestError(f"{error.filename} can't be read: {error.strerror}: `grader check` says what a course needs") from None


def _bundle(course: Course, modules: Sequence[Module]) -> Iterator[tuple[str, bytes]]:
    package = resources.files("grader")
    yield "autograder.py", package.joinpath(_ENTRY).read_bytes()
    for path in _SUPPORT:
        yield f"grader/{path}", package.joinpath(path).read_bytes()
    pins = [line for line in (course.root / "constraints.txt").read_text().splitlines() if line.strip() and not line.startswith("#")]
    yield "requirements.txt", _REQUIREMENTS.format(pins="\n".join([*pins, *course.unpinned(pins)])).encode()
    yield "pytest.ini", b"[pytest]\n"
    tasks = []
    for module in modules:
        suite = course.public_suite(module.name).read_bytes()
        yield f"tests/public/test_{module.name}.py", suite
        for task, tests in public_tests_of(module, suite).items():
            points = str(_decimal(module.task(task).points))
            tasks.append({"name": task, "module": module.name, "points": points, "tests": tests})
        if b"MNIST" in suite:
            for digits in sorted((course.root / "data" / "MNIST" / "raw").glob("*-ubyte")):
                yield f"data/MNIST/raw/{digits.name}", digits.read_bytes()
    yield "assignment.json", msgspec.json.format(msgspec.json.encode({"tasks": tasks}), indent=1) + b"\n"


def _decimal(points: float) -> str:
    if (100 * decimal_fraction(points)).denominator != 1:
        raise ManifestError(f"a task has {points!r} points: exports count in hundredths of a point, give it fewer digits in course.toml")
    return repr(points)


def public_tests_of(module: Module, suite: bytes) -> dict[str, list[str]]:
    """The public test functions of each task, found by their names. Raises: ManifestError if a task has none."""
    try:
        functions = [node.name for node in ast.parse(suite).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    except (SyntaxError, ValueError) as error:
        raise ManifestError(f"tests/public/test_{module.name}.py can't be read: {one_line(str(error))}: mend it") from None
    tests: dict[str, list[str]] = {task.name: [] for task in module.tasks}
    for function in functions:
        named = [name for name in tests if function.startswith(f"test_{name}")]
        if named:
            tests[max(named, key=len)].append(function)
    for name, own in tests.items():
        if not own:
            raise ManifestError(f"tests/public/test_{module.name}.py has no test called test_{name}…: add one")
    return tests
