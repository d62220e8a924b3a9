"""The hints that a student asks for."""

from grader.course.manifest import Task

__all__ = ["hints_of"]


def hints_of(task: Task, more: int) -> tuple[str, ...]:
    """The task's first hint, and `more` further ones. They are in order: a nudge, the idea, the shape of the answer."""
    return task.hints[: more + 1]
