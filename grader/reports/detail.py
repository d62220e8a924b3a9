"""How much students are told of a hidden test that they failed: the course's setting, kept by everything that students get to see."""

import re
from datetime import date

import msgspec

from grader.base.outcome import Status
from grader.course.manifest import Detail, Feedback
from grader.runner.results import ModuleResult, Results, SubmissionResult, TaskResult, TestResult

__all__ = ["detail_on", "for_students", "limited"]

_ABOUT_INPUTS = (Status.FAILED, Status.ERROR, Status.TIMED_OUT, Status.OUT_OF_MEMORY)
"""The statuses whose messages may show what a hidden test does. The others say what is missing, forbidden or not counted."""
_GENERAL = ("It looks like this: ", "Checked: ")
"""The lines that say what was expected or known, and nothing of inputs and values."""


def detail_on(feedback: Feedback, day: date) -> Detail:
    """The setting that holds on a day."""
    return feedback.detail_after if feedback.after and day > feedback.after else feedback.detail


def for_students(results: Results, day: date) -> Results:
    """The results as students may see them on a day."""
    detail = detail_on(results.feedback, day)
    if detail == "full":
        return results
    return msgspec.structs.replace(results, submissions=[_submission(one, detail) for one in results.submissions])


def limited(task: TaskResult, detail: Detail) -> TaskResult:
    """A task with as much of its messages as students may see. Scores and statuses stay."""
    if detail == "full":
        return task
    tests = [_test(test, number, detail) for number, test in enumerate(task.tests, 1)]
    return msgspec.structs.replace(task, tests=tests)


def _submission(submission: SubmissionResult, detail: Detail) -> SubmissionResult:
    return msgspec.structs.replace(submission, modules=[_module(module, detail) for module in submission.modules])


def _module(module: ModuleResult, detail: Detail) -> ModuleResult:
    return msgspec.structs.replace(module, tasks=[limited(task, detail) for task in module.tasks])


def _test(test: TestResult, number: int, detail: Detail) -> TestResult:
    message = test.message
    if test.status in _ABOUT_INPUTS:
        message = "" if detail == "points" else _without_values(test)
    return msgspec.structs.replace(test, message=message, id=test.id if detail == "sentence" else f"hidden test {number}")


def _without_values(test: TestResult) -> str:
    """The lines that say what was expected, and for an error its type and its place: its text may repeat an input."""
    lines = test.message.split("\n")
    error = re.match(r"([A-Za-z_.]{1,60})(?=:)", lines[0]) if test.status is Status.ERROR else None
    place = re.search(r" \(line \d+[^()]*\)", lines[0]) if error else None
    first = [f"{error[0]}{place[0] if place else ''}"] if error else []
    return "\n".join(first + [line for line in lines if line.startswith(_GENERAL)])
