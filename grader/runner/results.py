"""The canonical results of a run: its types, its scores, and the file that every report and export is made from.

results.json is byte-identical for the same submissions, suites, environment and seed. What differs from run to run (clock times,
memory, host) goes into timings.json beside it.
"""

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from platform import machine, python_version, system
from typing import Any

import msgspec
from msgspec import Struct

from grader.base.outcome import Status
from grader.course.manifest import Feedback, Module
from grader.runner.packages import importable_packages
from grader.sandbox.supervisor.isolation import Isolation

__all__ = [
    "Environment",
    "ModuleResult",
    "ModuleTiming",
    "Problem",
    "Results",
    "ResultsError",
    "SubmissionResult",
    "TaskResult",
    "TestResult",
    "decimal_fraction",
    "environment",
    "exact_score",
    "json_schema",
    "module_fault",
    "points_of_tests",
    "read_results",
    "rounded",
    "score_module",
    "submission_result",
]

SCHEMA = "pytorch-exercises/results/v1"


class TestResult(Struct, frozen=True):
    """One hidden test. `message` is for the student, and empty where the test passed."""

    __test__ = False  # not a test, whatever pytest makes of its name

    id: str
    status: Status
    weight: float
    message: str


class TaskResult(Struct, frozen=True):
    """One task. It earns its points times the passed share of its counted weight, and nothing if one of its tests ran into a ban."""

    name: str
    score: float
    max_score: float
    status: Status
    tests: list[TestResult]


class ModuleResult(Struct, frozen=True):
    """One module: the sums of its tasks."""

    name: str
    score: float
    max_score: float
    tasks: list[TaskResult]

    @property
    def all_skipped(self) -> bool:
        """Whether there are tests, and this machine lacks what each of them needs: a package, or a GPU."""
        return {test.status for task in self.tasks for test in task.tests} == {Status.SKIPPED}


class SubmissionResult(Struct, frozen=True):
    """One submission: the sums of its modules."""

    id: str
    score: float
    max_score: float
    modules: list[ModuleResult]
    files: dict[str, str] = {}
    """Where each module was found in what was handed in."""


class Problem(Struct, frozen=True):
    """Why a student has no full verdict, and what to do."""

    submission: str
    modules: list[str]
    """Those that it is about. Empty if nothing was handed in."""
    sentence: str


class Environment(Struct, frozen=True):
    """What scores could depend on."""

    python: str
    torch: str
    numpy: str
    grader: str
    system: str
    cpu: str
    packages: dict[str, str] = {}
    """What a student's code can import in a worker, with versions. Empty in files of version 0.1.0, which did not record it."""


class Results(Struct, frozen=True):
    """results.json."""

    schema: str
    seed: int
    environment: Environment
    isolation: Isolation
    submissions: list[SubmissionResult]
    problems: list[Problem] = []
    """The students without a full verdict, those of whom nothing was found last."""
    feedback: Feedback = Feedback()
    """How much students may be told. The messages here are whole."""


class ResultsError(Exception):
    """results.json can't be used; the text says why and what to do."""


class ModuleTiming(Struct, frozen=True):
    """What grading one module of one submission took: wall seconds, the workers' CPU seconds and peak memory, seconds by test."""

    seconds: float
    cpu_seconds: float
    peak_kib: int
    tests: dict[str, float]


def score_module(module: Module, tests: dict[str, list[TestResult]]) -> ModuleResult:
    """Add up a module from its tasks' tests. A task without any test is the grader's fault."""
    tasks = []
    for task in module.tasks:
        outcomes = tests.get(task.name) or [_fault_test("no hidden test of this task ran")]
        tasks.append(_score_task(task.name, task.points, outcomes))
    return ModuleResult(module.name, *_sums(tasks), tasks)


def module_fault(module: Module, reason: str, status: Status = Status.GRADER_ERROR) -> ModuleResult:
    """A module that could not be graded: nothing earned, and every task has this status and says why."""
    return score_module(module, {task.name: [_fault_test(reason, status)] for task in module.tasks})


def joined(results: Sequence[ModuleResult]) -> ModuleResult:
    """One module, of which each result has some tasks."""
    tasks = [task for result in results for task in result.tasks]
    return ModuleResult(results[0].name, *_sums(tasks), tasks)


def submission_result(id: str, modules: Sequence[ModuleResult], files: dict[str, str] | None = None) -> SubmissionResult:
    """Add up a submission. `files` says where each module was found."""
    return SubmissionResult(id, *_sums([task for module in modules for task in module.tasks]), list(modules), files or {})


def _sums(tasks: Sequence[TaskResult]) -> tuple[float, float]:
    """Score and maximum, added up exactly and rounded once, so that no sum depends on the order of its parts."""
    return float(sum(map(exact_score, tasks))), float(sum(decimal_fraction(task.max_score) for task in tasks))


def exact_score(task: TaskResult) -> Fraction:
    """A task's score from its tests, without rounding: points times passed weight over counted weight, and nothing after a ban."""
    return _exact_score(task.max_score, task.tests)


def _exact_score(points: float, tests: Sequence[TestResult]) -> Fraction:
    if any(test.status is Status.BANNED for test in tests):
        return Fraction(0)
    shares = points_of_tests(points, tests)
    return sum((share for test, share in zip(tests, shares, strict=True) if test.status is Status.PASSED), Fraction(0))


def points_of_tests(points: float, tests: Sequence[TestResult]) -> list[Fraction]:
    """What each test of a task is worth: its share of the task's points by weight, and nothing where it was skipped."""
    weights = [Fraction(0) if test.status is Status.SKIPPED else decimal_fraction(test.weight) for test in tests]
    whole = sum(weights, Fraction(0)) or Fraction(1)
    return [decimal_fraction(points) * weight / whole for weight in weights]


def decimal_fraction(number: float) -> Fraction:
    """A number of the manifest or of results.json exactly as it is written: 0.1 is a tenth."""
    return Fraction(repr(number))


def read_results(path: Path) -> Results:
    """Read a results.json. Raises: ResultsError."""
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise ResultsError(f"{path} can't be read: {error.strerror}: give the results.json that `grader grade` wrote") from None
    except msgspec.DecodeError as error:
        raise ResultsError(f"{path} is no results.json of this grader ({error}): grade again, or give another file") from None
    if results.schema != SCHEMA:
        raise ResultsError(f"{path} has the schema {results.schema!r}, and this grader reads {SCHEMA!r}: grade again")
    return results


def _fault_test(reason: str, status: Status = Status.GRADER_ERROR) -> TestResult:
    return TestResult("grader", status, 1.0, reason)


def _score_task(name: str, points: float, tests: list[TestResult]) -> TaskResult:
    counted = [test for test in tests if test.status is not Status.SKIPPED]
    if not counted:
        return TaskResult(name, 0.0, 0.0, Status.SKIPPED, tests)
    statuses = [test.status for test in counted]
    decisive = [status for status in (Status.GRADER_ERROR, Status.BANNED) if status in statuses]
    status = next((s for s in decisive + statuses if s is not Status.PASSED), Status.PASSED)
    return TaskResult(name, float(_exact_score(points, tests)), points, status, tests)


def rounded(score: float) -> Decimal:
    """A score for display: two decimals, half up."""
    return Decimal(repr(score)).quantize(Decimal("0.01"), rounding=ROUND_HALF_UP)


def environment() -> Environment:
    """This machine's."""
    return Environment(
        python=python_version(),
        torch=version("torch"),
        numpy=version("numpy"),
        grader=version("pytorch-exercises"),
        system=f"{system()} {machine()}",
        cpu=_vector_extension(),
        packages=importable_packages(),
    )


def _vector_extension() -> str:
    """The widest vector instructions. torch chooses its kernels by them, and kernels differ in the last bits of a sum."""
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return "unknown"
    return next((name for name in ("avx512f", "avx2") if name in flags), "baseline")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of results.json."""
    schema = msgspec.json.schema(Results)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA, **schema}
