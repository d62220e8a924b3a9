"""The trusted grading process: pytest on the hidden suite of one module for one submission after another, with one zygote."""

import os
import time
import warnings
from multiprocessing.connection import Connection

import pytest
import pytest_timeout

import grader.grading.plugin
from grader.base.text import one_line
from grader.course.manifest import Course
from grader.grading.plugin import Grading, GradingPlugin
from grader.grading.sides import ReferenceSide
from grader.runner.jobs import Unit, grading_fault
from grader.runner.results import ModuleTiming, TestResult, score_module
from grader.runner.store import Entry
from grader.sandbox.supervisor.isolation import NotConfined
from grader.sandbox.supervisor.self_test import ensure_confined
from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteHandle

__all__ = ["grade", "serve"]

_TRUSTED_SECONDS = 300
"""A backstop for a hidden test that hangs on the trusted side; the worker's limits are kept elsewhere."""
_PLUGINS = (pytest_timeout, grader.grading.plugin)
"""By name, pytest would look through all that is installed for them, for each unit."""
_UNUSED_PLUGINS = ("terminal", "cacheprovider", "logging", "capture", "junitxml", "unraisableexception", "threadexception", "warnings")


def serve(connection: Connection, course: Course, zygote: ZygoteHandle) -> None:
    """Grade units until the connection closes; a string in answer is a refusal to grade at all."""
    warnings.simplefilter("ignore")  # what references and known mistakes warn of is no news to an instructor
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)  # grading does not depend on whose shell it is
    references: dict[str, ReferenceSide] = {}
    try:
        if zygote.layers is not None:
            ensure_confined(zygote)
    except (NotConfined, ZygoteError) as error:
        connection.send(str(error))
        return
    while True:
        try:
            unit = connection.recv()
        except EOFError:
            return
        try:
            entry = grade(unit, course, zygote, references)
        except Exception as error:
            entry = grading_fault(unit.module, f"{type(error).__name__}: {one_line(str(error), 400)}")
        connection.send(entry)


def grade(unit: Unit, course: Course, zygote: ZygoteHandle, references: dict[str, ReferenceSide]) -> Entry:
    """Run the module's hidden suite on the unit's source. A fault of pytest's or the suite's is a `grader_error` of every task."""
    start = time.monotonic()
    module = unit.module
    grading = Grading(course, (module,), {module.name: unit.source}, unit.seed, zygote, references, unit.shuffled)
    options = ["-c", os.devnull, "--rootdir", str(course.root), "--import-mode=importlib", "--assert=plain"]
    options += ["--disable-plugin-autoload", f"--timeout={_TRUSTED_SECONDS}"]
    for name in _UNUSED_PLUGINS:
        options += ["-p", f"no:{name}"]
    if unit.until_failure:
        options.append("--exitfirst")
    try:
        code = pytest.main([str(course.hidden_suite(module.name)), *options], plugins=[GradingPlugin(grading), *_PLUGINS])
    finally:
        grading.close()
    if grading.problems or code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        reason = "; ".join(grading.problems) or f"pytest ended with status {int(code)}"
        return grading_fault(module, reason)
    records = [record for record in grading.records.values() if record.has_run or not unit.until_failure]
    tests: dict[str, list[TestResult]] = {}
    for record in records:
        tests.setdefault(record.task, []).append(TestResult(record.id, record.outcome.status, record.weight, record.outcome.message))
    usage = grading.student(module).usage
    seconds = {record.id: round(record.seconds, 6) for record in records}
    timing = ModuleTiming(round(time.monotonic() - start, 6), round(usage.cpu_seconds, 6), usage.peak_kib, seconds)
    return Entry(score_module(module, tests), timing)
