"""What both faces of `grader watch` share: the task at hand, which runs whenever its file changes."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grader.practice.reset import reset_task
from grader.practice.session import Place, Session
from grader.practice.watch.files import watch_folder
from grader.practice.watch.runner import Broke, Finished, Runner, Started

__all__ = ["Event", "Loop", "Missing"]


@dataclass(frozen=True)
class Missing:
    """The student's file of the task at hand is not there."""

    place: Place


Event = Started | Finished | Missing | Broke


class Loop:
    """Runs the task at hand on every save. `tell` is called in other threads: it has to return at once, and may not call the loop."""

    def __init__(self, session: Session, tell: Callable[[Event], None]) -> None:
        self.session, self._tell = session, tell
        self.place = session.current()
        self._seen: bytes | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._runner = Runner(session, tell)
        folder = session.course.root / "exercises"
        self._files = threading.Thread(target=watch_folder, args=(folder, self._look, self._stop), name="files", daemon=True)

    def start(self) -> None:
        """Begin with the task where the student left off."""
        self.go_to(self.place)
        self._files.start()

    def close(self) -> None:
        """End both threads, and what runs."""
        self._stop.set()
        self._runner.close()
        if self._files.is_alive():
            self._files.join(timeout=5)

    def go_to(self, place: Place) -> None:
        """Make this the task at hand, and run it unless it passed and was not changed since."""
        with self._lock:
            self.place = place
            with contextlib.suppress(OSError):  # a run says it, too
                self.session.go_to(place)
            self._seen = _content(self.session.file(place))
            if self._seen is None:
                self._miss()
            else:
                self._runner.ask([] if self.session.mark(place) == "passed" else [place])

    def next(self) -> Place | None:
        """The next task that is not passed, None if there is no other."""
        place = self.session.next_open(self.place)
        return None if place is self.place else place

    def previous(self) -> Place:
        """The task before this one, the last before the first."""
        return self.session.places[self.session.places.index(self.place) - 1]

    def run(self) -> None:
        """Run the task at hand once more."""
        self._runner.ask([self.place])

    def run_all(self) -> None:
        """Run every task once. A save ends that, and runs the task at hand."""
        self._runner.ask(self.session.places)

    def reset(self) -> Path | None:
        """Put the stub of the task back, which then runs. Returns: where the file is kept. Raises: CannotReset."""
        return reset_task(self.session.course, self.place.module, self.place.task.name)

    def _look(self) -> None:
        """Run the task at hand if its file is another than before."""
        with self._lock:
            content = _content(self.session.file(self.place))
            if content != self._seen:
                self._seen = content
                if content is None:
                    self._miss()
                else:
                    self._runner.ask([self.place])

    def _miss(self) -> None:
        self._runner.ask([])
        self._tell(Missing(self.place))


def _content(path: Path) -> bytes | None:
    """The bytes of a file, None if it can't be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return None
