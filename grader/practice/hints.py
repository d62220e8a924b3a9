"""Hints, one after another."""

from grader.course.manifest import Task

__all__ = ["hints_of"]


def hints_of(task: Task, more: int) -> tuple[str, ...]:
    """The task's first hint and so many more of them: a nudge, the idea, the shape of the answer."""
    return task.hints[: more + 1]
