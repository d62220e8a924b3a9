"""What a student is told about a task."""

from grader.base.outcome import Status
from grader.reports.feedback import explain
from grader.runner.results import TaskResult, TestResult


def a_task(*tests: tuple[Status, str]) -> TaskResult:
    """A task of 2 points with these tests."""
    results = [TestResult(f"test_{number}", status, 1.0, message) for number, (status, message) in enumerate(tests)]
    counted = [result for result in results if result.status is not Status.SKIPPED]
    status = next((result.status for result in counted if result.status is not Status.PASSED), Status.PASSED)
    return TaskResult("double", 0.125, 2.0 if counted else 0.0, status if counted else Status.SKIPPED, results)


def test_the_score_comes_first_and_a_message_once():
    """Skipped tests do not count, and a message that several tests share is not repeated."""
    text = explain(a_task((Status.PASSED, ""), (Status.FAILED, "value: …"), (Status.FAILED, "value: …"), (Status.SKIPPED, "no GPU")))
    assert text == "double: 0.13 of 2 points, failed; 1 of 3 tests passed.\n\nvalue: …"


def test_the_message_that_gave_the_status_is_the_first():
    """A ban that comes up late is what the student has to know."""
    task = a_task((Status.FAILED, "wrong"), (Status.BANNED, "uses torch.softmax"))
    text = explain(TaskResult(task.name, 0.0, 2.0, Status.BANNED, task.tests))
    assert text.split("\n\n")[1:] == ["uses torch.softmax", "wrong"]


def test_three_messages_are_enough():
    """The others are counted."""
    text = explain(a_task(*((Status.FAILED, f"value {number}") for number in range(5))))
    assert text.split("\n\n")[1:] == ["value 0", "value 1", "value 2", "There are 2 more of this kind: mend these first."]


def test_a_task_that_does_not_count_says_why():
    """Nothing of it could be tried here."""
    assert explain(a_task((Status.SKIPPED, "needs CUDA"))) == "double: not counted. needs CUDA"
