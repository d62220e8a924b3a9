"""What the class page says. It is for the staff: it names everybody, says what the grader failed at, and shows no message of a test."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from grader.base.outcome import Status
from grader.base.text import clean, one_line
from grader.reports.items import known_mistake
from grader.reports.pages.statistics import Distribution, TaskStatistics, distribution, task_statistics
from grader.runner.results import Results, SubmissionResult, rounded

__all__ = ["ClassView", "Fault", "Mistake", "Row", "Trouble", "class_view"]


@dataclass(frozen=True)
class Fault:
    """What the grader itself failed at: a reason, where, and whom it hit."""

    sentence: str
    tasks: tuple[str, ...]
    students: tuple[str, ...]


@dataclass(frozen=True)
class Trouble:
    """Why a student has no full verdict. No modules means all."""

    student: str
    modules: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Mistake:
    """A known mistake, and the places in `ClassView.rows` of those who made it."""

    module: str
    task: str
    sentence: str
    students: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A student."""

    name: str
    file: str
    score: str
    most: str
    percent: int
    statuses: Mapping[str, int]
    judged: bool


@dataclass(frozen=True)
class ClassView:
    """The class page."""

    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]
    troubles: tuple[Trouble, ...]
    spread: Distribution
    tasks: tuple[TaskStatistics, ...]
    statuses: tuple[str, ...]
    """Those that occur, in their usual order."""
    by_module: Mapping[str, Mapping[str, int]]
    mistakes: tuple[Mistake, ...]
    cells: tuple[tuple[tuple[str, int] | None, ...], ...]
    """For each row and each of `tasks` the status and the share of the points in percent. None where there is no result."""
    confined: bool
    seed: int
    made_by: str


def class_view(results: Results, files: Mapping[str, str]) -> ClassView:
    """Choose what the class page says. `files` has the name of each student's page."""
    without = {one.submission for one in results.problems}
    tasks = task_statistics(results)
    by_module: dict[str, Counter[str]] = {}
    for submission in results.submissions:
        for module in submission.modules:
            by_module.setdefault(one_line(module.name), Counter()).update(task.status.value for task in module.tasks)
    seen = set().union(*by_module.values()) if by_module else set()
    names = [(one.module, one.task) for one in tasks]
    return ClassView(
        tuple(_row(one, files[one.id], one.id not in without) for one in results.submissions),
        _faults(results),
        tuple(Trouble(one_line(one.submission), tuple(map(one_line, one.modules)), clean(one.sentence, 1000)) for one in results.problems),
        distribution(results),
        tuple(tasks),
        tuple(status.value for status in Status if status in seen),
        by_module,
        _mistakes(results),
        tuple(_cells(one, names) for one in results.submissions),
        results.isolation.confined,
        results.seed,
        results.environment.grader,
    )


def _row(submission: SubmissionResult, file: str, judged: bool) -> Row:
    statuses = Counter(task.status.value for module in submission.modules for task in module.tasks)
    percent = int(100 * submission.score / submission.max_score + 1e-9) if submission.max_score else 0
    score, most = str(rounded(submission.score)), f"{submission.max_score:g}"
    return Row(one_line(submission.id) or "?", file, score, most, percent, statuses, judged and not statuses[Status.GRADER_ERROR])


def _faults(results: Results) -> tuple[Fault, ...]:
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for submission in results.submissions:
        for module in submission.modules:
            for task in module.tasks:
                for test in task.tests:
                    if test.status is Status.GRADER_ERROR:
                        tasks, students = found.setdefault(clean(test.message, 1000), ({}, {}))
                        tasks[one_line(f"{module.name}.{task.name}")] = None
                        students[one_line(submission.id)] = None
    faults = [Fault(sentence, tuple(tasks), tuple(students)) for sentence, (tasks, students) in found.items()]
    return tuple(sorted(faults, key=lambda fault: -len(fault.students)))


def _mistakes(results: Results) -> tuple[Mistake, ...]:
    """The known mistakes, the most common first."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for number, submission in enumerate(results.submissions):
        for module in submission.modules:
            for task in module.tasks:
                if task.status is not Status.PASSED and (sentence := known_mistake(task)):
                    found.setdefault((one_line(module.name), one_line(task.name), one_line(sentence, 400)), []).append(number)
    mistakes = [Mistake(*key, tuple(students)) for key, students in found.items()]
    return tuple(sorted(mistakes, key=lambda mistake: -len(mistake.students)))


def _cells(submission: SubmissionResult, names: list[tuple[str, str]]) -> tuple[tuple[str, int] | None, ...]:
    own = {
        (module.name, task.name): (task.status.value, int(100 * task.score / task.max_score + 1e-9) if task.max_score else 0)
        for module in submission.modules
        for task in module.tasks
    }
    return tuple(own.get(name) for name in names)
