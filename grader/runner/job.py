"""The job process: grades one unit after another with one zygote and one engine."""

import os
import time
import warnings
from multiprocessing.connection import Connection

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.grading.engine import Engine
from grader.grading.suite import SuiteError
from grader.runner.jobs import Unit, grading_fault
from grader.runner.results import ModuleTiming, TestResult, score_module
from grader.runner.store import Entry
from grader.sandbox.supervisor.isolation import NotConfined
from grader.sandbox.supervisor.self_test import ensure_confined
from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteHandle

__all__ = ["grade", "serve"]


def serve(connection: Connection, course: Course, zygote: ZygoteHandle) -> None:
    """Grade units until the connection closes; a string in answer is a refusal to grade at all."""
    warnings.simplefilter("ignore")  # what references and known mistakes warn of is no news to an instructor
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)  # grading does not depend on whose shell it is
    try:
        if zygote.layers is not None:
            ensure_confined(zygote)
    except (NotConfined, ZygoteError) as error:
        connection.send(str(error))
        return
    engine = Engine(course, zygote)
    while True:
        try:
            unit = connection.recv()
        except EOFError:
            return
        try:
            entry = grade(unit, engine)
        except Exception as error:
            entry = grading_fault(unit.module, f"{type(error).__name__}: {one_line(str(error), 400)}")
        connection.send(entry)


def grade(unit: Unit, engine: Engine) -> Entry:
    """Run the module's hidden suite on the unit's source. A suite that can't be used is a `grader_error` of every task."""
    start = time.monotonic()
    module = unit.module
    try:
        graded = engine.grade(module, unit.source, unit.seed, shuffled=unit.shuffled, until_failure=unit.until_failure)
    except SuiteError as error:
        return grading_fault(module, str(error))
    tests: dict[str, list[TestResult]] = {}
    for record in graded.records:
        result = TestResult(record.test.id, record.outcome.status, record.test.weight, record.outcome.message)
        tests.setdefault(record.test.task, []).append(result)
    seconds = {record.test.id: round(record.seconds, 6) for record in graded.records}
    usage = graded.usage
    timing = ModuleTiming(round(time.monotonic() - start, 6), round(usage.cpu_seconds, 6), usage.peak_kib, seconds)
    return Entry(score_module(module, tests), timing)
