"""The server process and its jobs: a job grades one unit after another with an engine of its own.

Jobs are forked from the server when it has loaded torch and tried the confinement, and share the server's zygote.
"""

import gc
import os
import signal
import sys
import time
import traceback
import warnings
from multiprocessing import reduction
from multiprocessing.connection import Connection

from grader.base.processes import die_with_parent, limit_memory
from grader.base.text import one_line
from grader.course.manifest import Course
from grader.grading.engine import Engine
from grader.grading.suite import SuiteError
from grader.runner.results import ModuleTiming, TestResult, score_module
from grader.runner.store import Entry
from grader.runner.units import ZYGOTE_GONE, Unit, grading_fault
from grader.sandbox.supervisor.isolation import NotConfined
from grader.sandbox.supervisor.self_test import ensure_confined
from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteGone, ZygoteHandle

__all__ = ["grade", "serve"]

_MEMORY_BYTES = 4 << 30
"""Address space that a job may take beyond what the server has loaded. What a student returns must not take the machine's memory."""
_GRACE_SECONDS = 0.2
"""How long a job may take to notice that its connection is closed."""


def serve(control: Connection, zygote: ZygoteHandle) -> None:
    """Fork jobs and end them, as they are asked for, until the control connection closes or the zygote is gone."""
    warnings.simplefilter("ignore")  # what references and known mistakes warn of is no news to an instructor
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)  # grading does not depend on whose shell it is
    try:
        zygote.wait_until_ready()
        if zygote.layers is not None:
            ensure_confined(zygote)
        refusal = ""
    except (NotConfined, ZygoteError) as error:
        if zygote.killed:
            return  # whoever asked for a job starts another server
        refusal = str(error)
    gc.freeze()  # a collection in a job would copy every page it touches
    gc.enable()
    jobs: dict[int, int] = {}
    while True:
        try:
            order, number, course = control.recv()
        except EOFError:
            break
        if order == "start":
            with Connection(reduction.recv_handle(control)) as connection:
                if refusal:
                    connection.send(refusal)
                    continue
                try:
                    jobs[number] = _fork(control, connection, course, zygote)
                except ZygoteGone:
                    break
        else:
            status = _end(jobs.pop(number)) if number in jobs else 0
            control.send(status)
            if status == ZYGOTE_GONE:
                break
    for process in jobs.values():
        _end(process)


def _fork(control: Connection, connection: Connection, course: Course, zygote: ZygoteHandle) -> int:
    shared = zygote.share()
    process = os.fork()
    if process:
        shared.__exit__()
        return process
    status = 1
    try:
        die_with_parent()
        limit_memory(_MEMORY_BYTES)
        control.close()
        _grade_all(connection, Engine(course, shared))
        status = 0
    except ZygoteGone:
        status = ZYGOTE_GONE
    except Exception:
        traceback.print_exc()  # the command only learns the status
    finally:
        sys.stderr.flush()
        os._exit(status)


def _end(process: int) -> int:
    """Reap a job, and kill it where it does not end by itself; its exit status, minus the signal's number where it was killed."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _grade_all(connection: Connection, engine: Engine) -> None:
    """Grade units until the connection closes, or breaks."""
    while True:
        try:
            unit = connection.recv()
        except EOFError:
            return
        try:
            entry = grade(unit, engine)
        except ZygoteGone:
            raise
        except Exception as error:
            entry = grading_fault(unit.module, f"{type(error).__name__}: {one_line(str(error), 400)}")
        try:
            connection.send(entry)
        except OSError:  # the command is gone
            return


def grade(unit: Unit, engine: Engine) -> Entry:
    """Run the module's hidden suite on the unit's source. A suite that can't be used is a `grader_error` of every task."""
    start = time.monotonic()
    module = unit.module
    try:
        graded = engine.grade(
            module,
            unit.source,
            unit.seed,
            shuffled=unit.shuffled,
            until_failure=unit.until_failure,
            explain=unit.explain,
            sample=unit.sample,
        )
    except SuiteError as error:
        return grading_fault(module, str(error))
    tests: dict[str, list[TestResult]] = {}
    for record in graded.records:
        result = TestResult(record.test.id, record.outcome.status, record.test.weight, record.outcome.message)
        tests.setdefault(record.test.task, []).append(result)
    seconds = {record.test.id: round(record.seconds, 6) for record in graded.records}
    usage = graded.usage
    timing = ModuleTiming(round(time.monotonic() - start, 6), round(usage.cpu_seconds, 6), usage.peak_kib, seconds)
    return Entry(score_module(module, tests), timing, {task: list(names) for task, names in graded.alike.items()})
