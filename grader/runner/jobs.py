"""Grade submissions: one unit of work is one module of one submission, graded by pytest in a job process with its own zygote.

The calling process imports no torch and runs nobody's code; a job process that dies costs its unit a `grader_error` and nothing else.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Self

from grader.base.outcome import Status
from grader.course.manifest import Course, Module
from grader.protocol.confinement import Layers
from grader.runner.results import ModuleTiming, module_fault
from grader.runner.store import Entry
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.submissions.ingest import Source, Submission

__all__ = ["Refused", "Unit", "WarmJob", "grade_units", "grading_fault", "units_of"]


class Refused(Exception):
    """The job would not grade: a protection does not hold on this machine."""


@dataclass(frozen=True)
class Unit:
    """One module of one submission."""

    submission: str
    module: Module
    source: Source
    seed: int
    shuffled: bool = False
    until_failure: bool = False
    """End with the first test that does not pass: one is enough to reject."""


def units_of(submissions: Iterable[Submission], modules: Iterable[Module], seed: int) -> list[Unit]:
    """What there is to grade, in order."""
    modules = list(modules)
    return [
        Unit(submission.id, module, submission.sources.get(module.name) or Source.not_handed_in(module.name), seed)
        for submission in submissions
        for module in modules
        if not submission.only or module.name in submission.only
    ]


def grade_units(units: list[Unit], course: Course, *, jobs: int, layers: Layers | None, on_done: Callable[[Unit, Entry], None]) -> None:
    """Grade every unit, calling `on_done` as each is finished, in whatever order. Raises: Refused."""
    pending = list(reversed(units))
    scratch = tempfile.mkdtemp(prefix="grader-run-")
    running: dict[Connection, _Job] = {}
    try:
        while pending or running:
            while pending and len(running) < jobs:
                job = _Job(course, layers, scratch)
                running[job.connection] = job
                job.send(_take(pending, None))
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                job = running[connection]
                entry = job.receive()
                on_done(job.unit, entry)
                if job.ended or not pending:
                    running.pop(connection).stop()
                else:
                    job.send(_take(pending, job.unit.seed))
    finally:
        for job in running.values():
            job.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def _take(pending: list[Unit], seed: int | None) -> Unit:
    """The next unit, rather one with this seed: a job keeps the reference's answers, and the questions come of the seed."""
    return pending.pop(next((index for index in reversed(range(len(pending))) if pending[index].seed == seed), -1))


class WarmJob:
    """A job process for units that come one at a time: started for the first, replaced after a fault. Use as a context manager."""

    def __init__(self, course: Course, layers: Layers | None) -> None:
        self._course, self._layers = course, layers
        self._scratch = ""
        self._job: _Job | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grade(self, unit: Unit) -> Entry:
        """The unit's result; a fault where the process died of it. Raises: Refused."""
        if self._job is None or not self._job.alive:
            self.close()
            self._scratch = tempfile.mkdtemp(prefix="grader-run-")
            self._job = _Job(self._course, self._layers, self._scratch)
        try:
            self._job.send(unit)
            entry = self._job.receive()
        except BaseException:  # an interrupt too: the answer would be taken for the next unit's
            self.close()
            raise
        if self._job.ended:
            self.close()
        return entry

    def close(self) -> None:
        """End the process, if there is one. It is started again for a further unit."""
        job, self._job = self._job, None
        if job is not None:
            job.stop()
            shutil.rmtree(self._scratch, ignore_errors=True)


class _Job:
    """The calling process's handle on one job process."""

    def __init__(self, course: Course, layers: Layers | None, scratch: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs, course, layers, scratch), daemon=True)
        with _STARTING, _bare():
            self._process.start()
        theirs.close()
        self.unit: Unit
        self.ended = False

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._process.is_alive()

    def send(self, unit: Unit) -> None:
        self.unit = unit
        with contextlib.suppress(OSError):  # a job that has died meanwhile is noticed when its answer is awaited
            self.connection.send(unit)

    def receive(self) -> Entry:
        """The unit's result; a fault where the process died of it. Raises: Refused."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            answer = grading_fault(self.unit.module, f"the grading process ended with status {self._process.exitcode}")
        if isinstance(answer, str):
            raise Refused(answer)
        assert isinstance(answer, Entry)
        # A job that had a fault of its own may be in a bad state: the next unit gets a new one.
        self.ended = any(task.status is Status.GRADER_ERROR for task in answer.result.tasks)
        return answer

    def stop(self) -> None:
        self.connection.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


_STARTING = threading.Lock()
"""Held while a process is started: what `_bare` changes belongs to all threads."""


@contextlib.contextmanager
def _bare() -> Iterator[None]:
    """Let a new interpreter neither look for modules in the current folder nor run the program that this process was started with."""
    saved, main = os.environ.get("PYTHONSAFEPATH"), sys.modules["__main__"]
    os.environ["PYTHONSAFEPATH"] = "1"
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if saved is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = saved


def grading_fault(module: Module, reason: str) -> Entry:
    """The result of a unit on which the grader itself failed."""
    return Entry(module_fault(module, reason), ModuleTiming(0.0, 0.0, 0, {}))


def _serve(connection: Connection, course: Course, layers: Layers | None, scratch: str) -> None:
    """The job process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process decides what an interrupt means
    tempfile.tempdir = scratch
    with ZygoteHandle(layers, course.bans) as zygote:
        from grader.runner.job import serve  # torch is loaded here while the zygote loads its own

        serve(connection, course, zygote)
