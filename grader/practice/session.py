"""One student's practice: runs tasks, keeps the marks, knows what comes next. The commands, notebooks and the tutor share it."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import msgspec

from grader.base.files import file_problem
from grader.base.text import look_alikes
from grader.course.definitions import task_digest
from grader.course.manifest import Course, Module, Task
from grader.practice.diagnosis import known_mistake
from grader.practice.outcome import Request, TaskRun
from grader.practice.process_handle import PracticeProcess
from grader.practice.progress import FILE, Progress, read_progress, write_progress

__all__ = ["Mark", "Place", "Session", "Standing", "UnknownName", "find", "find_place", "find_places"]

Mark = Literal["passed", "changed", "open"]
"""Passed its public tests; did so before its code was changed; has not."""


class UnknownName(Exception):
    """No task or module has this name. The text names those that look like it."""


@dataclass(frozen=True)
class Place:
    """A task, and the module that it stands in."""

    module: Module
    task: Task


@dataclass(frozen=True)
class Standing:
    """How far the student is, in a module or in all: tasks passed and all, points in reach and all."""

    module: str
    passed: int
    tasks: int
    points: float
    max_points: float
    minutes_left: int


def find_places(course: Course, names: Sequence[str]) -> list[Place]:
    """The tasks that these names of tasks and modules stand for, each once, in the course's order. No names stand for all.

    A module's file, such as exercises/cnn.py, stands for the module.

    Raises: UnknownName.
    """
    everything = [Place(module, task) for module in course.modules for task in module.tasks]
    wanted = [find(course, name) for name in names]
    return [place for place in everything if not names or place in wanted or place.module in wanted]


def find_place(course: Course, name: str) -> Place:
    """The one task of this name. Raises: UnknownName, for a module too."""
    found = find(course, name)
    if isinstance(found, Module):
        raise UnknownName(f"{found.name} is a module: name one task.")
    return found


def find(course: Course, name: str) -> Place | Module:
    """The task or the module of this name, also with the end of a file, as in exercises/cnn.py. Raises: UnknownName."""
    if name.endswith((".py", ".ipynb")):
        name = Path(name).stem
    known: dict[str, Place | Module] = {module.name: module for module in course.modules}
    known |= {task.name: Place(module, task) for module in course.modules for task in module.tasks}
    if name not in known:
        close = look_alikes(name, known, 3, 0.5)
        hint = f"Do you mean {' or '.join(close)}?" if close else "`grader list` shows them."
        raise UnknownName(f"There is no task or module {name!r}. {hint}")
    return known[name]


class Session:
    """Practice in one course's folder. Progress is written after every change. One thread runs tasks; others may do all else.

    Several programs may practise in one folder, such as a notebook and a terminal: a change is made to what the file holds then.
    """

    def __init__(self, course: Course) -> None:
        self.course = course
        self.places = find_places(course, [])
        self.process = PracticeProcess(course.root)
        self._progress = read_progress(course)
        self.problem = ""
        """Why the last change of the progress could not be written; empty if it was."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.close()

    def refresh(self) -> None:
        """Read the marks again. A program that lives long does so before it looks at them, since others may have changed them."""
        self._progress = read_progress(self.course)

    def file(self, place: Place) -> Path:
        """The student's file for a task."""
        return self.course.stub(place.module.name)

    def run(self, place: Place) -> tuple[TaskRun, str]:
        """Run a task's public tests and mark it, unless its code was changed meanwhile.

        Returns: what they gave, and the known mistake that it behaves like, if any.
        Raises: Cancelled.
        """
        digest = self._digest(place)
        run = self.process.run(Request(place.module.name, place.task.name))
        if run.passed:
            run = msgspec.structs.replace(run, banned=self._banned(place))
        if digest == self._digest(place):
            self._change(lambda progress: progress.with_run(place.task.name, digest, passed=run.passed))
        return run, known_mistake(self.course, run)

    def mark(self, place: Place) -> Mark:
        """How a task stands, by the marks."""
        passed = self._progress.passed.get(place.task.name)
        return "open" if passed is None else "passed" if passed == self._digest(place) else "changed"

    def current(self) -> Place:
        """The task at hand: where the student left off, or the first that is not passed."""
        at = next((place for place in self.places if place.task.name == self._progress.current), None)
        return at or self.next_open() or self.places[0]

    def next_open(self, after: Place | None = None) -> Place | None:
        """The next task that is not passed, from the beginning again after the last one. None if all are."""
        start = self.places.index(after) + 1 if after else 0
        return next((place for place in self.places[start:] + self.places[:start] if self.mark(place) != "passed"), None)

    def go_to(self, place: Place) -> None:
        """Make this the task at hand."""
        self._change(lambda progress: progress.at(place.task.name))

    def hints(self, place: Place, more: int = 0) -> tuple[str, ...]:
        """The hints that were shown so far, and so many more."""
        count = min(self._progress.hints.get(place.task.name, 0) + more, len(place.task.hints))
        if more:
            self._change(lambda progress: progress.with_hint(place.task.name, count))
        return place.task.hints[:count]

    def next_hint(self, place: Place) -> str:
        """One more hint than was shown before. All of them again when there are no more."""
        shown = len(self.hints(place))
        hints = self.hints(place, 1)
        texts = [f"Hint {number} of {len(place.task.hints)} for {place.task.name}: {text}" for number, text in enumerate(hints, 1)]
        return texts[-1] if len(hints) > shown else "\n".join([*texts, "There are no more hints."])

    def by_module(self) -> list[Standing]:
        """How far the student is in each module."""
        passed = {place.task.name for place in self.places if self.mark(place) == "passed"}
        rows = []
        for module in self.course.modules:
            done = [task for task in module.tasks if task.name in passed]
            points, minutes = sum(task.points for task in done), sum(task.minutes for task in done)
            rows.append(Standing(module.name, len(done), len(module.tasks), points, module.points, module.minutes - minutes))
        return rows

    def in_all(self) -> Standing:
        """How far the student is in the whole course."""
        rows = self.by_module()
        columns = ("passed", "tasks", "points", "max_points", "minutes_left")
        return Standing("all", *(sum(getattr(row, column) for row in rows) for column in columns))

    def _source(self, place: Place) -> str:
        try:
            return self.file(place).read_text(encoding="utf-8-sig", errors="replace")
        except OSError:
            return ""

    def _digest(self, place: Place) -> str:
        return task_digest(self._source(place), place.task.name)

    def _banned(self, place: Place) -> str:
        """What a task's source names although the task forbids it. The official grading also sees what is called by other names."""
        from grader.grading.source_bans import uses_in  # `grader hint` and the like need none of it, and start sooner

        with contextlib.suppress(RecursionError, MemoryError):
            return uses_in(self._source(place), {place.task.name: place.task.bans}).get(place.task.name, "")
        return ""

    def _change(self, change: Callable[[Progress], Progress]) -> None:
        with self._lock:
            before = read_progress(self.course)
            self._progress = change(before)
            if self._progress != before:
                try:
                    write_progress(self.course, self._progress)
                except OSError as error:
                    self.problem = f"Your progress can't be kept in {FILE}. {file_problem(error, self.course.root)}"
