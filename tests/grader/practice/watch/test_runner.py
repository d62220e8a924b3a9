"""The runner: what was asked for last runs, and nobody waits for it."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from grader.practice.outcome import TaskRun
from grader.practice.process_handle import Cancelled
from grader.practice.session import Session, find_places
from grader.practice.watch import runner as runner_module
from grader.practice.watch.runner import Broke, Finished, Runner, Started
from tests.grader.practice.watch.conftest import threads, wait_for


class FakeProcess:
    """Stands for a process that is told to end a run."""

    def __init__(self) -> None:
        self.ready, self.ended = True, threading.Event()

    def cancel(self) -> None:
        """Note it."""
        self.ended.set()


class FakeSession:
    """Runs what the test says: `runs[name]()`, where `name` stands for a place, too."""

    def __init__(self, **runs: Callable[[], object]) -> None:
        self.process, self.runs, self.ran = FakeProcess(), dict[Any, Callable[[], object]](runs), list[Any]()

    def run(self, place: Any) -> tuple[TaskRun, str]:
        """Do what the test says."""
        self.ran.append(place)
        self.process.ended.clear()
        self.runs.get(place, lambda: None)()
        if self.process.ended.is_set():
            raise Cancelled
        return TaskRun("m", "t"), ""


class Told:
    """Keeps what the runner tells."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, event: Any) -> None:
        """Keep an event."""
        self.events.append(event)

    def finished(self) -> list[Any]:
        """The places whose runs were told of."""
        return [event.place for event in self.events if isinstance(event, Finished)]


def begin(session: FakeSession) -> tuple[Any, Told]:
    """A runner, and what it tells."""
    told = Told()
    return Runner(cast(Session, session), told), told


def test_runs_one_after_another():
    """Each run of a request begins and ends with its number."""
    runner, told = begin(FakeSession())
    runner.ask(["a", "b"])
    wait_for(lambda: len(told.events) == 4)
    assert [(type(event), event.place, event.number, event.of) for event in told.events] == [
        (Started, "a", 1, 2),
        (Finished, "a", 1, 2),
        (Started, "b", 2, 2),
        (Finished, "b", 2, 2),
    ]
    runner.close()


def test_a_run_that_is_not_wanted_any_more_is_ended(monkeypatch):
    """A run that does not end by itself is ended once another is asked for, and not told of; the rest of its request is dropped."""
    monkeypatch.setattr(runner_module, "PATIENCE", 0.01)
    session = FakeSession()
    session.runs = {"loops": lambda: session.process.ended.wait(60)}
    runner, told = begin(session)
    runner.ask(["loops", "never"])
    wait_for(lambda: session.ran == ["loops"])
    runner.ask(["b"])
    wait_for(lambda: told.finished() == ["b"])
    assert session.ran == ["loops", "b"]
    runner.close()


def test_a_short_run_is_not_ended_but_not_told_of_either(monkeypatch):
    """Ending a process costs loading torch again, so a run that ends soon is left alone. What it gave is of an old file."""
    monkeypatch.setattr(runner_module, "PATIENCE", 60)
    session, go = FakeSession(), threading.Event()
    session.runs = {"old": lambda: go.wait(60)}
    runner, told = begin(session)
    runner.ask(["old"])
    wait_for(lambda: session.ran == ["old"])
    runner.ask(["new"])
    go.set()
    wait_for(lambda: told.finished())
    assert told.finished() == ["new"]
    assert not session.process.ended.is_set()
    runner.close()


def test_loading_torch_is_not_ended(monkeypatch):
    """While the process loads torch it has not read the file yet. Ended at every save, it would never be ready."""
    monkeypatch.setattr(runner_module, "PATIENCE", 0.01)
    session, go = FakeSession(), threading.Event()
    session.process.ready = False
    session.runs = {"first": lambda: go.wait(60)}
    runner, told = begin(session)
    runner.ask(["first"])
    wait_for(lambda: session.ran == ["first"])
    runner.ask(["second"])
    go.wait(0.2)
    assert not session.process.ended.is_set()
    go.set()
    wait_for(lambda: told.finished() == ["second"])
    runner.close()


def test_no_tasks_stop_what_runs(monkeypatch):
    """Nothing is told of a run after nothing was asked for."""
    monkeypatch.setattr(runner_module, "PATIENCE", 0.01)
    session = FakeSession()
    session.runs = {"loops": lambda: session.process.ended.wait(60)}
    runner, told = begin(session)
    runner.ask(["loops"])
    wait_for(lambda: session.ran)
    runner.ask([])
    wait_for(session.process.ended.is_set)
    runner.ask(["after"])
    wait_for(lambda: told.finished() == ["after"])
    runner.close()


def test_closing_ends_a_run_and_the_thread():
    """Quitting does not wait for an endless loop."""
    session = FakeSession()
    session.runs = {"loops": lambda: session.process.ended.wait(60)}
    runner, told = begin(session)
    runner.ask(["loops"])
    wait_for(lambda: session.ran)
    runner.close()
    assert session.process.ended.is_set()
    assert told.finished() == []
    assert "runner" not in threads()


def test_a_full_disk_is_a_sentence(course):
    """If the marks can't be written, the answer says so, and watching goes on."""

    def full() -> None:
        raise OSError(28, "No space left on device")

    first, second = find_places(course, [])
    session = FakeSession()
    session.runs = {first: full}
    runner, told = begin(session)
    runner.ask([first, second])
    wait_for(lambda: told.finished() == [first, second])
    assert "No space left on device" in told.events[1].run.problem
    runner.close()


def test_an_error_of_our_own_is_not_silent():
    """The thread tells of an error before it ends, so that nobody waits for it forever."""
    runner, told = begin(FakeSession(bad=lambda: 1 / 0))
    runner.ask(["bad"])
    wait_for(lambda: told.events and isinstance(told.events[-1], Broke))
    runner.close()


@pytest.mark.parametrize("asks", [200])
def test_many_saves_end_with_the_last(monkeypatch, asks):
    """However requests and runs meet, the last request is answered, and it is the last that is told of."""
    monkeypatch.setattr(runner_module, "PATIENCE", 0.001)
    session = FakeSession()
    for number in range(0, asks, 3):  # every third never ends by itself
        session.runs[str(number)] = lambda: session.process.ended.wait(60)
    session.runs[str(asks - 1)] = lambda: None
    runner, told = begin(session)
    for number in range(asks):
        runner.ask([str(number)])
        if number % 7 == 0:
            threading.Event().wait(0.003)
    wait_for(lambda: told.finished() and told.finished()[-1] == str(asks - 1))
    runner.close()
