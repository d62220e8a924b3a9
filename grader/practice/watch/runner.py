"""Runs tasks in a thread, so that whoever asks never waits."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grader.practice.outcome import TaskRun
from grader.practice.process_handle import Cancelled
from grader.practice.session import Place, Session

__all__ = ["Broke", "Finished", "Runner", "Started"]

PATIENCE = 2.0
"""Seconds that a run may go on once it is not wanted any more. Most end by then; ending one costs loading torch again, and an editor that
saves by itself would never get an answer.
"""


@dataclass(frozen=True)
class Started:
    """A run begins: the first of so many, the second of so many, …"""

    place: Place
    number: int
    of: int


@dataclass(frozen=True)
class Finished:
    """A run ended. `mistake` names what the wrong answer looks like, if that is known."""

    place: Place
    run: TaskRun
    mistake: str
    number: int
    of: int


@dataclass(frozen=True)
class Broke:
    """The thread ended by an error that nobody foresaw."""

    error: Exception


class Runner:
    """Runs what it was asked for last.

    `tell` is called in the runner's thread, about runs that are still wanted only. It has to return at once, and may not call the runner.
    """

    def __init__(self, session: Session, tell: Callable[[Started | Finished | Broke], None]) -> None:
        self._session, self._tell = session, tell
        self._changed = threading.Condition()
        self._wanted: list[Place] = []
        self._of = 0
        self._asked = 0  # counts requests: a run whose number is older is not wanted any more
        self._runs = 0  # counts runs
        self._running = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self._thread.start()

    def ask(self, places: Sequence[Place]) -> None:
        """Run these tasks, one after another, in place of all that was asked for before. No tasks only stop what runs."""
        with self._changed:
            self._wanted, self._of = list(places), len(places)
            self._asked += 1
            if self._running:
                self._end_later(self._runs)
            self._changed.notify_all()

    def close(self) -> None:
        """End what runs, and the thread."""
        with self._changed:
            self._closed, self._wanted = True, []
            self._asked += 1
            if self._running:
                self._session.process.cancel()
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _end_later(self, run: int) -> None:
        timer = threading.Timer(PATIENCE, self._end, [run])
        timer.daemon = True
        timer.start()

    def _end(self, run: int) -> None:
        """End a run that goes on. While torch is being loaded, it has not read the student's file yet: let it."""
        with self._changed:
            if self._running and self._runs == run and not self._closed:
                if self._session.process.ready:
                    self._session.process.cancel()
                self._end_later(run)  # again, should the process have been between two requests

    def _work(self) -> None:
        try:
            while self._next():
                pass
        except Exception as error:
            self._tell(Broke(error))

    def _next(self) -> bool:
        """Wait for a task and run it. Returns: whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed)
            if self._closed:
                return False
            place, asked, of = self._wanted.pop(0), self._asked, self._of
            number = of - len(self._wanted)
            self._runs += 1
            self._running = True
            self._tell(Started(place, number, of))
        event = None
        try:
            run, mistake = self._session.run(place)
            event = Finished(place, run, mistake, number, of)
        except Cancelled:
            pass
        except OSError as error:
            problem = f"The tests can't be started, or their outcome can't be kept: {error}"
            event = Finished(place, TaskRun(place.module.name, place.task.name, problem=problem), "", number, of)
        with self._changed:
            self._running = False
            if event and asked == self._asked and not self._closed:
                self._tell(event)
        return True
