"""`grader watch` in lines, for a terminal that can't show more, and for output that goes into a file or another program."""

import contextlib
import queue
import sys
import threading
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.text import Text

from grader.practice.describe import describe
from grader.practice.outcome import TaskRun
from grader.practice.session import Place, Session
from grader.practice.watch import words
from grader.practice.watch.loop import Event, Loop, Missing
from grader.practice.watch.runner import Broke, Finished, Started

__all__ = ["watch_plainly"]

_KEYS = "Keys, each with Enter: n next, p previous, h hint, t test again, a run all, q quit. Ctrl-C quits, too."


def watch_plainly(session: Session, *, move_on: bool = False, console: Console | None = None, typed: Iterable[str] = sys.stdin) -> int:
    """Watch, and print what comes of each save, until the student quits. Returns: the exit status.

    Args:
        session: whose current task comes first.
        move_on: whether to go to the next task by itself when one passes.
        console: where to print.
        typed: lines with keys. When they end, as those of an empty input do, watching goes on.
    """
    happened: queue.Queue[Event | str] = queue.Queue()
    face = _Face(session, Loop(session, happened.put), console or Console(), move_on)

    def read() -> None:
        for line in typed:
            happened.put(line.strip().lower())

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        face.begin()
        while (event := happened.get()) != "q":
            face.take(event)
    face.loop.close()
    return 0


class _Face:
    """Prints what happens, and does what keys say."""

    def __init__(self, session: Session, loop: Loop, console: Console, move_on: bool) -> None:
        self.loop = loop
        self._session, self._console, self._move_on = session, console, move_on
        self._runs: list[TaskRun] = []

    def begin(self) -> None:
        """Show the task at hand, and begin to watch."""
        self._print(Text(_KEYS, "dim"))
        self._show_task()
        self.loop.start()

    def take(self, event: Event | str) -> None:
        """Show what happened, or do what a key says."""
        match event:
            case Started(_, number, _):
                if not self._session.process.ready and number == 1:
                    self._print(Text("Loading torch …", "dim"))
                self._runs = [] if number == 1 else self._runs
            case Finished(_, run, mistake, _, of) if of == 1:
                self._answer(run, mistake)
            case Finished(_, run, _, number, of):
                self._runs.append(run)
                if number == of:
                    self._print(words.all_runs(self._session, self._runs))
            case Missing(place):
                self._print(words.missing(self._session, place))
            case Broke(error):
                raise error
            case "n":
                self._go_on()
            case "p":
                self._go_to(self.loop.previous())
            case "h":
                self._print(words.hints(self._session.hints(self.loop.place, 1), len(self.loop.place.task.hints)))
            case "t":
                self.loop.run()
            case "a":
                self.loop.run_all()
            case str(key) if key:
                self._print(Text(_KEYS, "dim"))

    def _answer(self, run: TaskRun, mistake: str) -> None:
        self._print(describe(run, mistake))
        if run.passed:
            following = self.loop.next()
            if self._move_on and following:
                self._go_to(following)
            else:
                self._print(words.what_next(self._session, self.loop.place, following, "n and Enter"))
        self._print(words.standing(self._session.in_all()))

    def _go_on(self) -> None:
        following = self.loop.next()
        if following:
            self._go_to(following)
        else:
            self._print(Text("There is no other task that is not passed."))

    def _go_to(self, place: Place) -> None:
        self.loop.go_to(place)
        self._show_task()

    def _show_task(self) -> None:
        place = self.loop.place
        self._print(Text())
        self._print(words.title(self._session, place))
        self._print(words.statement_or_reason(self._session, place))
        if self._session.mark(place) == "passed":
            self._print(words.begun(self._session, place))

    def _print(self, what: RenderableType) -> None:
        self._console.print(what, soft_wrap=not self._console.is_terminal and isinstance(what, Text))
