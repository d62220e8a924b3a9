"""Job processes for a program such as nbgrader, which asks for one unit at a time and knows the next ones.

The next units are graded ahead, while the program does its own work. The processes are kept for the same course, and end when idle.
"""

import atexit
import queue
import threading
from concurrent.futures import Future
from typing import Any

from grader.course.manifest import Course, Module
from grader.protocol.confinement import Layers
from grader.runner.jobs import JobServer, Refused, WarmJob
from grader.runner.references import reference_unit, refusal
from grader.runner.store import Entry
from grader.runner.units import Unit

__all__ = ["Graders", "graders_for"]

_IDLE_SECONDS = 60.0
"""How long processes wait for the next unit. It is enough for a batch, and does not burden a server for hours."""


class Graders:
    """A number of job processes. Each is started when it is first needed."""

    def __init__(self, course: Course, layers: Layers | None, jobs: int) -> None:
        self.jobs = jobs
        self._free: queue.LifoQueue[WarmJob] = queue.LifoQueue()  # takes the one used last, which is warm
        self._server = JobServer(course, layers)
        self._all = [WarmJob(self._server) for _ in range(jobs)]
        for job in self._all:
            self._free.put(job)
        self._ahead: dict[Unit, Future[Entry]] = {}
        self._course = course
        self._passed: set[Module] = set()
        """Modules whose reference has passed."""
        self._passing = threading.Lock()

    def begin(self, unit: Unit) -> None:
        """Start to grade a unit that will probably be asked for."""
        if len(self._ahead) < self.jobs and not any(_same(unit, other) for other in self._ahead):
            self._ahead[unit] = self._start(unit)

    def grade(self, unit: Unit) -> tuple[int, Entry]:
        """Grade a unit, or take the result of an equal one that was begun. Returns: its seed and its result. Raises: Refused."""
        begun = next((other for other in self._ahead if _same(unit, other)), None)
        for other in [other for other in self._ahead if other is not begun and other.submission == unit.submission]:
            del self._ahead[other]  # begun for another version of this submission
        if begun is None:
            return unit.seed, self._start(unit).result()
        return begun.seed, self._ahead.pop(begun).result()

    def close(self) -> None:
        """End the processes, and drop the units that were begun."""
        self._ahead.clear()
        for job in self._all:
            job.close()
        self._server.close()

    @property
    def busy(self) -> bool:
        """True while a unit is being graded."""
        return self._free.qsize() < self.jobs

    def _start(self, unit: Unit) -> Future[Entry]:
        future: Future[Entry] = Future()
        threading.Thread(target=self._run, args=(unit, future), daemon=True).start()  # so that an interrupted program need not wait
        return future

    def _run(self, unit: Unit, future: Future[Entry]) -> None:
        job = self._free.get()
        try:
            self._try_reference(job, unit)
            future.set_result(job.grade(unit))
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._free.put(job)

    def _try_reference(self, job: WarmJob, unit: Unit) -> None:
        """Refuse to grade a module whose reference does not pass here. Raises: Refused."""
        with self._passing:
            if unit.module in self._passed:
                return
            reference = reference_unit(unit.module, self._course, unit.seed)
            if reference and (sentence := refusal(job.grade(reference))):
                raise Refused(sentence)
            self._passed.add(unit.module)


def _same(one: Unit, other: Unit) -> bool:
    """Whether two units are equal but for their seeds."""
    return (one.submission, one.module, one.source) == (other.submission, other.module, other.source)


class _Kept:
    """The graders that this program used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: tuple[Any, ...] = ()
        self._graders: Graders | None = None
        self._timer: threading.Timer | None = None

    def get(self, course: Course, layers: Layers | None, jobs: int) -> Graders:
        with self._lock:
            self._wait()
            wanted = (course, layers, jobs, _state(course))
            if self._graders is None or self._wanted != wanted:
                if self._graders:
                    self._graders.close()
                self._wanted, self._graders = wanted, Graders(course, layers, jobs)
            return self._graders

    def close(self) -> None:
        with self._lock:
            if self._graders:
                self._graders.close()
            self._wanted, self._graders = (), None

    def _wait(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = threading.Timer(_IDLE_SECONDS, self._close_if_idle)
        self._timer.daemon = True
        self._timer.start()

    def _close_if_idle(self) -> None:
        if self._graders and self._graders.busy:
            self._wait()
        else:
            self.close()


def _state(course: Course) -> list[tuple[str, int, int]]:
    """The times and sizes of the files that a job process reads. It reads them only once, so a change needs new processes."""
    folders = (course.root / name for name in ("solutions", "tests/hidden", "tests/misconceptions"))
    paths = sorted(path for folder in folders for path in folder.glob("*.py"))
    return [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths]


_kept = _Kept()
graders_for = _kept.get
"""The graders for a course. They are those of the last call if nothing has changed since."""
atexit.register(_kept.close)
