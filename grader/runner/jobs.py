"""Job processes, and how units are handed to them.

The calling process imports no torch and runs nobody's code. It starts one server process, which loads torch, the zygote and the
course once, and forks a job for each processor. Where a job dies, its unit's tasks are graded one by one: the task whose answer ends a
job again is the student's error. Where the server or the zygote dies, new ones are started, and what was being graded is graded again.
"""

import contextlib
import gc
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Self

from grader.base.outcome import Status
from grader.course.manifest import Course
from grader.protocol.confinement import Layers
from grader.runner.references import refusal
from grader.runner.store import Entry
from grader.runner.units import ZYGOTE_GONE, Unit, apart, grading_fault, take, together
from grader.sandbox.supervisor.zygote_handle import SETTINGS, ZygoteHandle
from grader.submissions.sources import Source

__all__ = ["Job", "JobServer", "Refused", "WarmJob", "grade_units"]


_ATTEMPTS = 3
"""How often a unit is tried before the server's end counts as the unit's doing."""


class Refused(Exception):
    """Nobody is graded: on this machine a protection does not hold, or a reference does not pass."""


class Died(Exception):
    """A job ended over its unit, and its server goes on."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the grading process ended with status {status}")
        self.killed = status == -signal.SIGKILL
        """Whether somebody killed it: the system for want of memory, or a person. Its own limits end it in other ways."""


class Lost(Exception):
    """The server or the zygote ended, and the unit with it."""


def grade_units(
    units: list[Unit],
    course: Course,
    *,
    jobs: int,
    layers: Layers | None,
    on_done: Callable[[Unit, Entry], None],
    references: Sequence[Unit] = (),
) -> None:
    """Grade every unit, calling `on_done` as each is finished, in whatever order. All `references` have to pass before. Raises: Refused."""

    def require(unit: Unit, entry: Entry) -> None:
        if sentence := refusal(entry):
            raise Refused(sentence)

    with JobServer(course, layers) as server, _Crew(server, jobs) as crew:
        crew.grade(references, require)
        crew.grade(units, on_done)


class _Crew:
    """A number of jobs that grade lists of units, one list after another. Use as a context manager."""

    def __init__(self, server: "JobServer", jobs: int) -> None:
        self._server, self._jobs = server, jobs
        self._idle: list[Job] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._idle:
            job.stop()

    def grade(self, units: Sequence[Unit], on_done: Callable[[Unit, Entry], None]) -> None:
        """Grade every unit. Raises: Refused."""
        pending, lost = list(reversed(units)), list[Unit]()
        running: dict[Connection, Job] = {}
        while pending or running:
            while pending and len(running) < self._jobs:
                job = self._idle.pop() if self._idle else self._server.start()
                running[job.connection] = job
                job.send(take(pending, None))
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                job = running[connection]
                try:
                    entry = _received(self._server, job)
                except Lost as loss:
                    running.pop(connection).stop()
                    lost.append(job.unit)
                    if lost.count(job.unit) < _ATTEMPTS:
                        pending.append(job.unit)
                    else:
                        on_done(job.unit, grading_fault(job.unit.module, str(loss)))
                    continue
                on_done(job.unit, entry)
                if not job.ended and pending:
                    job.send(take(pending, job.unit))
                    continue
                del running[connection]
                if job.ended:
                    job.stop()
                else:
                    self._idle.append(job)


def _received(server: "JobServer", job: "Job") -> Entry:
    """A job's result. If it has died, the unit's tasks are graded one by one. Raises: Refused, Lost."""
    try:
        return job.receive()
    except Died:
        return together([_alone(server, part) for part in apart(job.unit)])


def _alone(server: "JobServer", unit: Unit) -> Entry:
    """The result of a task. If a job dies over it, and none over the reference, it is the student's error: if killed, time after time."""
    for _ in range(_ATTEMPTS):
        try:
            return _once(server, unit)
        except Died as death:
            last = death
            if not death.killed:
                break
    return _who_ended_it(server, unit, last)


def _who_ended_it(server: "JobServer", unit: Unit, death: Died) -> Entry:
    """The grader's fault where the reference ends a job too, else the student's."""
    try:
        _once(server, replace(unit, source=Source(server.course.solution(unit.module.name).read_text())))
    except Died:
        return grading_fault(unit.module, str(death))
    sentence = f"what came back can't be judged: {death} over it. Return values of the stated shape, size and range."
    return grading_fault(unit.module, sentence, Status.ERROR)


def _once(server: "JobServer", unit: Unit) -> Entry:
    job = server.start()
    try:
        job.send(unit)
        return job.receive()
    finally:
        job.stop()


class JobServer:
    """The process that forks jobs: started for the first, replaced when it has died. Use as a context manager; threads may share it."""

    def __init__(self, course: Course, layers: Layers | None) -> None:
        self.course, self._layers = course, layers
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._scratch = ""
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> "Job":
        """A new job. It takes units at once; its first answer comes when torch is loaded."""
        with self._lock:
            if self._process is None or not self._process.is_alive():
                self._stop()
                self._launch()
            ours, theirs = multiprocessing.Pipe()
            self._started += 1
            assert self._process is not None and self._process.pid is not None
            with contextlib.suppress(OSError):  # a server that has died meanwhile is noticed when the job's answer is awaited
                self._control.send(("start", self._started, self.course))
                reduction.send_handle(self._control, theirs.fileno(), self._process.pid)
            theirs.close()
            return Job(self, self._process.pid, self._started, ours)

    def end(self, process: int, number: int) -> int | None:
        """End a job of this server process whose connection is closed; its exit status, None where server or zygote are gone too."""
        with self._lock:
            if self._process is None or self._process.pid != process:
                return None
            try:
                self._control.send(("end", number, None))
                status: int = self._control.recv()
            except (EOFError, OSError):
                status = ZYGOTE_GONE
            if status == ZYGOTE_GONE:
                self._stop()
                return None
            return status

    def close(self) -> None:
        """End the server and its jobs, if there are any. It is started again for a further job."""
        with self._lock:
            self._stop()

    def _launch(self) -> None:
        self._scratch = tempfile.mkdtemp(prefix="grader-run-")
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self.course.bans, self._layers, self._scratch), daemon=True)
        with _STARTING, _bare():
            self._process.start()
        theirs.close()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._control.close()
        process.join(1)
        if process.is_alive():
            process.kill()
            process.join()
        shutil.rmtree(self._scratch, ignore_errors=True)


class Job:
    """The calling process's handle on one job process."""

    def __init__(self, server: JobServer, process: int, number: int, connection: Connection) -> None:
        self._server, self._process, self._number = server, process, number
        self.connection = connection
        self.unit: Unit
        self.ended = False
        """True once it should not be used again: it has died, or had a fault of its own and may be in a bad state."""

    def send(self, unit: Unit) -> None:
        """Hand it a unit."""
        self.unit = unit
        with contextlib.suppress(OSError):  # a job that has died meanwhile is noticed when its answer is awaited
            self.connection.send(unit)

    def receive(self) -> Entry:
        """The unit's result. Raises: Refused, Died, Lost."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            status = self._server.end(self._process, self._number)
            if status is None:
                raise Lost("the server of the grading processes ended again and again") from None
            self.ended = True
            raise Died(status) from None
        if isinstance(answer, str):
            raise Refused(answer)
        assert isinstance(answer, Entry)
        self.ended = any(task.status is Status.GRADER_ERROR for task in answer.result.tasks)
        return answer

    def stop(self) -> None:
        """End it."""
        self.connection.close()
        self._server.end(self._process, self._number)


class WarmJob:
    """A job for units that come one at a time: started for the first, replaced after a fault. Use as a context manager."""

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self._job: Job | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grade(self, unit: Unit) -> Entry:
        """The unit's result. Raises: Refused."""
        for _ in range(_ATTEMPTS):
            try:
                return self._try(unit)
            except Lost as loss:
                reason = str(loss)
        return grading_fault(unit.module, reason)

    def _try(self, unit: Unit) -> Entry:
        if self._job is not None and self._job.connection.poll():  # it says something unasked, so it has died
            self.close()
        if self._job is None:
            self._job = self._server.start()
        try:
            self._job.send(unit)
            entry = _received(self._server, self._job)
        except BaseException:  # also after an interrupt: the answer would be taken for the next unit's
            self.close()
            raise
        if self._job.ended:
            self.close()
        else:
            del self._job.unit  # a student's text is not kept
        return entry

    def close(self) -> None:
        """End the process, if there is one. It is started again for a further unit."""
        job, self._job = self._job, None
        if job is not None:
            job.stop()


_STARTING = threading.Lock()
"""Held while a process is started, because `_bare` changes what belongs to all threads."""


@contextlib.contextmanager
def _bare() -> Iterator[None]:
    """Let a new interpreter neither look for modules in the current folder nor run the program that this process was started with."""
    settings = {**SETTINGS, "PYTHONSAFEPATH": "1"}
    saved, main = {name: os.environ.get(name) for name in settings}, sys.modules["__main__"]
    os.environ.update(settings)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(control: Connection, bans: Sequence[str], layers: Layers | None, scratch: str) -> None:
    """The server process. It starts the zygote before it loads torch itself, so that both load at the same time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process decides what an interrupt means
    tempfile.tempdir = scratch
    gc.disable()  # until all is imported: imports make hardly any garbage, and looking for it takes a fifth of their time
    try:
        with ZygoteHandle(layers, bans) as zygote:
            from grader.runner.job import serve

            serve(control, zygote)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # the calling process may have been killed
