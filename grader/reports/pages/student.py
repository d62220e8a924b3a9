"""What a student's page says. Built from one student's results alone, cut to the course's setting, so nobody else is on it.

A sentence about what was handed in is repeated only where it is the student's own matter: some name files, and so perhaps other people.
What the grader itself failed at is said without the reason, which is for the staff.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date

import msgspec

from grader.base.outcome import Status
from grader.base.text import clean, one_line
from grader.reports.detail import detail_on, for_students
from grader.reports.feedback import first_messages, tally, words
from grader.reports.items import known_mistake
from grader.runner.results import Problem, Results, SubmissionResult, TaskResult, TestResult, rounded
from grader.submissions.sources import says_missing

__all__ = ["FAULT", "HANDED_IN", "ModuleView", "Note", "Step", "StudentView", "TaskView", "student_view"]

FAULT = "The grader itself failed here. That is not your fault, and it is not your score: the course's staff can see why."
HANDED_IN = "What you handed in could not be graded as it is. The course's staff can see why: ask them."
_PLAIN = ("None of the modules that are graded was handed in. ", "The code imports ")
_MOST_STEPS = 3
_LONGEST = 4000


@dataclass(frozen=True)
class TaskView:
    """A task. `anchor` is its place on the page, `percent` the share of the points that was earned, `tally` how many tests passed."""

    module: str
    name: str
    status: str
    words: str
    score: str
    most: str
    percent: int
    tally: str
    messages: tuple[str, ...]
    anchor: str

    @property
    def plain(self) -> bool:
        """Whether there is nothing to explain: it passed, is missing, or does not count."""
        return self.status in (Status.PASSED, Status.NOT_IMPLEMENTED, Status.SKIPPED)


@dataclass(frozen=True)
class ModuleView:
    """A module's sums. `judged` is False where it has no full verdict."""

    name: str
    score: str
    most: str
    percent: int
    passed: int
    tasks: int
    judged: bool


@dataclass(frozen=True)
class Step:
    """Something to look at next: a task or a module's file."""

    name: str
    why: str
    anchor: str


@dataclass(frozen=True)
class Note:
    """Why modules have no verdict, as far as it is the student's own matter. No modules means all."""

    modules: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class StudentView:
    """A student's page."""

    name: str
    score: str
    most: str
    percent: int
    modules: tuple[ModuleView, ...]
    tasks: tuple[TaskView, ...]
    notes: tuple[Note, ...]
    """Why there is no full verdict."""
    steps: tuple[Step, ...]
    confined: bool
    detail: str

    @property
    def wrong(self) -> list[list[TaskView]]:
        """The tasks that have something to explain; those of a module that say the same are together."""
        groups: dict[tuple[str, str, tuple[str, ...] | str], list[TaskView]] = {}
        for one in self.tasks:
            if not one.plain:
                groups.setdefault((one.module, one.status, one.messages or one.name), []).append(one)
        return list(groups.values())


def student_view(results: Results, submission: SubmissionResult, ids: Collection[str], day: date) -> StudentView:
    """Choose what a student may see on a day. `ids` are those of the whole class, in lower case: no sentence that names one is repeated."""
    problems = [one for one in results.problems if one.submission == submission.id]
    others = [id for id in ids if id != submission.id.lower()] if problems else []
    hidden = {one.sentence for one in problems if not _is_own(one.sentence, submission, others)}
    alone = msgspec.structs.replace(results, submissions=[submission], problems=[])
    (told,) = for_students(alone, day).submissions
    told = _without(told, submission, hidden)
    tasks = tuple(
        _task(module.name, task, f"task-{number}-{index}")
        for number, module in enumerate(told.modules)
        for index, task in enumerate(module.tasks)
    )
    unjudged = {name for one in problems for name in one.modules}
    modules = tuple(
        ModuleView(
            one_line(module.name),
            str(rounded(module.score)),
            f"{module.max_score:g}",
            _percent(module.score, module.max_score),
            sum(task.status is Status.PASSED for task in module.tasks),
            len(module.tasks),
            module.name not in unjudged,
        )
        for module in told.modules
    )
    return StudentView(
        one_line(submission.id) or "?",
        str(rounded(submission.score)),
        f"{submission.max_score:g}",
        _percent(submission.score, submission.max_score),
        modules,
        tasks,
        tuple(Note(tuple(map(one_line, one.modules)), _note(one, hidden)) for one in problems),
        _steps(told, tasks),
        results.isolation.confined,
        detail_on(results.feedback, day),
    )


def _is_own(sentence: str, submission: SubmissionResult, others: Sequence[str]) -> bool:
    """Whether a sentence about a hand-in is the student's own matter, and names nobody else."""
    names = [module.name for module in submission.modules]
    own = sentence.startswith(_PLAIN) or any(says_missing(sentence, name) or _is_broken(sentence, name) for name in names)
    lower = sentence.lower()
    return own and not any(id in lower and re.search(rf"(?<!\w){re.escape(id)}(?!\w)", lower) for id in others)


def _is_broken(sentence: str, module: str) -> bool:
    return sentence.startswith(f"{module}.py does not run: ")


def _note(problem: Problem, hidden: Collection[str]) -> str:
    """What a student is told of a problem. Of a file that does not run, the tasks say as much as the setting allows."""
    if problem.sentence.startswith("The grader itself failed"):
        return FAULT
    if any(_is_broken(problem.sentence, name) for name in problem.modules):
        return "The file does not run, so none of its tasks can earn anything."
    return HANDED_IN if problem.sentence in hidden else clean(problem.sentence, _LONGEST)


def _without(told: SubmissionResult, whole: SubmissionResult, hidden: Collection[str]) -> SubmissionResult:
    """The results with a general sentence in place of each hidden one, and of each reason for which the grader failed."""

    def cut(task: TaskResult, before: TaskResult) -> TaskResult:
        tests = [_cut(test, was.message in hidden) for test, was in zip(task.tests, before.tests, strict=True)]
        return msgspec.structs.replace(task, tests=tests)

    modules = [
        msgspec.structs.replace(module, tasks=[cut(task, was) for task, was in zip(module.tasks, before.tasks, strict=True)])
        for module, before in zip(told.modules, whole.modules, strict=True)
    ]
    return msgspec.structs.replace(told, modules=modules)


def _cut(test: TestResult, hide: bool) -> TestResult:
    message = FAULT if test.status is Status.GRADER_ERROR else HANDED_IN if hide else test.message
    return test if message is test.message else msgspec.structs.replace(test, message=message)


def _task(module: str, task: TaskResult, anchor: str) -> TaskView:
    counted = bool(task.max_score)
    messages = [] if task.status in (Status.PASSED, Status.NOT_IMPLEMENTED) else first_messages(task)
    if not counted:
        messages = [test.message for test in task.tests[:1]]
    return TaskView(
        one_line(module),
        one_line(task.name),
        task.status.value,
        words(task.status) if counted else "not counted",
        str(rounded(task.score)),
        f"{task.max_score:g}",
        _percent(task.score, task.max_score),
        tally(task).partition("; ")[2] if counted else "",
        tuple(text for message in messages if (text := clean(message, _LONGEST).strip())),
        anchor,
    )


def _percent(score: float, most: float) -> int:
    """A share in percent, rounded down: 100 only where everything was earned."""
    return int(100 * score / most + 1e-9) if most else 0


def _steps(submission: SubmissionResult, views: Sequence[TaskView]) -> tuple[Step, ...]:
    """What to look at next: files that don't run, known mistakes, what is nearly right, and then the first task that is not begun."""
    tasks = [(module.name, task) for module in submission.modules for task in module.tasks]
    broken = {
        module.name: f"task-{number}-0"
        for number, module in enumerate(submission.modules)
        if module.tasks and all(_is_broken(test.message, module.name) for task in module.tasks for test in task.tests)
    }
    steps = [
        Step(one_line(f"{name}.py"), "The file does not run, so none of its tasks can earn anything.", anchor)
        for name, anchor in broken.items()
    ]
    begun = [
        (view, task)
        for view, (module, task) in zip(views, tasks, strict=True)
        if module not in broken and task.max_score and task.status in _OWN and not any(test.message == HANDED_IN for test in task.tests)
    ]
    begun.sort(key=lambda pair: (not known_mistake(pair[1]), -pair[1].score / pair[1].max_score))
    steps += [Step(view.name, _why(view, task), view.anchor) for view, task in begun]
    idle = next((view for view in views if view.status == Status.NOT_IMPLEMENTED), None)
    steps += [Step(idle.name, "It is the first task that is not begun.", idle.anchor)] if idle else []
    return tuple(steps[:_MOST_STEPS])


_OWN = (Status.FAILED, Status.ERROR, Status.TIMED_OUT, Status.OUT_OF_MEMORY, Status.BANNED)
"""The statuses about which a student can do something at once."""


def _why(view: TaskView, task: TaskResult) -> str:
    if mistake := known_mistake(task):
        return f"It looks like this: {one_line(mistake, 400)}"
    match task.status:
        case Status.BANNED:
            return "It uses what the task forbids, so it earns nothing."
        case Status.ERROR:
            return "Your code raised an error, or ended before its time."
        case Status.TIMED_OUT:
            return "Your code takes too long."
        case Status.OUT_OF_MEMORY:
            return "Your code needs too much memory."
        case _:
            return view.tally if view.percent else "No hidden test of it passed yet."
