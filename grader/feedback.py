"""What a task's result says to the student, as plain text. Each medium escapes it for itself."""

from grader.outcome import Status
from grader.results import TaskResult, rounded

__all__ = ["explain", "words"]

_MOST_MESSAGES = 3
"""More at a time help nobody: the first mismatch is often the cause of the others."""


def words(status: Status) -> str:
    """A status as one would say it: "not implemented"."""
    return status.replace("_", " ")


def explain(task: TaskResult) -> str:
    """The score, how many tests passed, and the first messages that differ, a paragraph each."""
    if not task.max_score:
        return f"{task.name}: not counted. {task.tests[0].message}"
    counted = [test for test in task.tests if test.status is not Status.SKIPPED]
    passed = sum(test.status is Status.PASSED for test in counted)
    head = (
        f"{task.name}: {rounded(task.score)} of {task.max_score:g} points, {words(task.status)}; {passed} of {len(counted)} tests passed."
    )
    messages = list(dict.fromkeys(test.message for test in counted if test.status is not Status.PASSED and test.message))
    messages.sort(key=lambda message: message != _first_message(task))  # what gave the task its status comes first
    more = len(messages) - _MOST_MESSAGES
    rest = [f"There {'is' if more == 1 else 'are'} {more} more of this kind: mend these first."] if more > 0 else []
    return "\n\n".join([head, *messages[:_MOST_MESSAGES], *rest])


def _first_message(task: TaskResult) -> str:
    return next((test.message for test in task.tests if test.status is task.status and test.message), "")
