"""The reference for a task, where the course's author released it."""

from grader.course.manifest import Course, Module, Task
from grader.course.released import cut_to

__all__ = ["NotReleased", "solution_of"]


class NotReleased(Exception):
    """The reference may not be shown, or is not here; the text says which."""


def solution_of(course: Course, module: Module, task: Task) -> str:
    """The task's definition in the reference, with the helpers that it uses. Raises: NotReleased."""
    if not task.released:
        author = course.hidden_suite(module.name).is_file()  # which a student does not have
        how = " (Authors: `released = true` in course.toml does that.)" if author else ""
        raise NotReleased(f"The solution of {task.name} is not released.{how}")
    try:
        source = course.solution(module.name).read_text(encoding="utf-8")
    except OSError:
        raise NotReleased(f"The solution of {task.name} is not here: update your repository from where you got it.") from None
    return cut_to(source, [task.name], imports=False)
