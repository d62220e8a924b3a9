"""The text that a student gets about a task. It is plain text: whoever puts it into HTML or Markdown has to escape it."""

from grader.base.outcome import Status
from grader.runner.results import TaskResult, TestResult, rounded

__all__ = ["explain", "first_messages", "tally", "words"]

_MOST_MESSAGES = 3
"""The first mismatch is often the cause of the others, so a longer list would not help."""


def words(status: Status) -> str:
    """A status in words, such as "not implemented"."""
    return status.replace("_", " ")


def explain(task: TaskResult) -> str:
    """The score, the number of passed tests, and the first few different messages, one paragraph each."""
    if not task.max_score:
        return f"{task.name}: not counted. {task.tests[0].message}"
    points = f"{rounded(task.score)} of {task.max_score:g} points"
    return "\n\n".join([f"{task.name}: {points}, {tally(task)}", *first_messages(task)])


def tally(task: TaskResult) -> str:
    """The status, and how many of the counted tests passed."""
    counted = _counted(task)
    return f"{words(task.status)}; {sum(test.status is Status.PASSED for test in counted)} of {len(counted)} tests passed."


def first_messages(task: TaskResult) -> list[str]:
    """The first few different messages. The one that decided the status comes first, and a last sentence says how many were left out."""
    messages = list(dict.fromkeys(test.message for test in _counted(task) if test.status is not Status.PASSED and test.message))
    decisive = next((test.message for test in task.tests if test.status is task.status and test.message), "")
    messages.sort(key=lambda message: message != decisive)
    more = len(messages) - _MOST_MESSAGES
    rest = [f"There {'is' if more == 1 else 'are'} {more} more of this kind: mend these first."] if more > 0 else []
    return messages[:_MOST_MESSAGES] + rest


def _counted(task: TaskResult) -> list[TestResult]:
    return [test for test in task.tests if test.status is not Status.SKIPPED]
