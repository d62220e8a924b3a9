"""`grader watch` in lines."""

import io
import os
import queue
import threading

import pytest
from rich.console import Console

from grader.practice.watch import fills_screen
from grader.practice.watch.plain import watch_plainly
from tests.grader.practice.watch.conftest import COUNTER, DOUBLE, HEAD, NO_COUNTER, WRONG, save, wait_for


class Lines:
    """Watches in a thread: what it printed, and a way to type."""

    def __init__(self, session, **options):
        self._out, self._typed = io.StringIO(), queue.Queue[str]()
        console = Console(file=self._out, width=80)
        self._thread = threading.Thread(
            target=watch_plainly,
            args=(session,),
            kwargs={"console": console, "typed": iter(self._typed.get, "end"), **options},
            daemon=True,
        )
        self._thread.start()

    def see(self, *words):
        """Wait until all words were printed since the last time."""
        wait_for(lambda: all(word in self._out.getvalue() for word in words))
        self._out.seek(0)
        self._out.truncate()

    def type(self, key):
        """Type a line."""
        self._typed.put(key + "\n")

    def quit(self):
        """End by the key."""
        self.type("q")
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_prints_what_each_save_gives(session, quick, folder):
    """The statement, the verdict of each save, what is missing, and what comes next."""
    lines = Lines(session)
    lines.see("double in exercises/mini.py:7", "Return twice x.", "double: not written yet", "0/2 tasks, 0/5 points, 3 minutes left")
    save(folder, HEAD + WRONG + NO_COUNTER)
    lines.see("double: 0 of 1 public tests passed", "expected 6")
    (folder / "exercises" / "mini.py").unlink()
    lines.see("exercises/mini.py is missing")
    save(folder, HEAD + DOUBLE + NO_COUNTER)
    lines.see("double: all public tests passed", "n and Enter goes on to Counter in exercises/mini.py:9.", "1/2 tasks")
    lines.type("n")
    lines.see("Counter in exercises/mini.py:9", "Counter: not written yet")
    lines.quit()


def test_keys_work_with_enter(session, quick, folder):
    """Hints one at a time, previous, all, and the keys for what is no key."""
    save(folder, HEAD + DOUBLE + NO_COUNTER)
    lines = Lines(session)
    lines.see("double: all public tests passed")
    lines.type("H")
    lines.see("Hint 1 of 3: What is twice a number?")
    lines.type("p")
    lines.see("Counter: not written yet")
    lines.type("a")
    lines.see("1 of 2 tasks pass their public tests.")
    lines.type("p")
    lines.see("double: passed its public tests, and was not changed since. t tests it again.")
    lines.type("t")
    lines.see("double: all public tests passed")
    lines.type("what?")
    lines.see("h hint, t test again, a run all, q quit")
    lines.quit()


def test_moves_on_by_itself_where_that_is_set(session, quick, folder):
    """A pass leads to the next task; the last one stays."""
    save(folder, HEAD + DOUBLE + COUNTER)
    lines = Lines(session, move_on=True)
    lines.see("double: all public tests passed", "Counter: all public tests passed", "All tasks pass their public tests.")
    lines.quit()


@pytest.mark.parametrize(
    ("term", "terminal", "expected"),
    [("xterm-256color", True, True), ("xterm-256color", False, False), ("dumb", True, False), ("unknown", True, False)],
)
def test_a_terminal_that_can_is_filled(term, terminal, expected):
    """No screen is drawn into a file, or on a terminal that can't."""
    assert fills_screen({"TERM": term}, terminal) is expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no TERM")
def test_no_term_is_no_screen():
    """As under cron, or ssh without a terminal."""
    assert not fills_screen({}, True)
