"""The reference for a task, where the course's author released it."""

import ast

from grader.course.definitions import needed_for
from grader.course.manifest import Course, Module, Task

__all__ = ["NotReleased", "solution_of"]


class NotReleased(Exception):
    """The reference may not be shown, or is not here; the text says which."""


def solution_of(course: Course, module: Module, task: Task) -> str:
    """The task's definition in the reference, with the helpers that it uses. Raises: NotReleased."""
    if not task.released:
        raise NotReleased(f"The solution of {task.name} is not released. (Authors: `released = true` in course.toml does that.)")
    try:
        source = course.solution(module.name).read_text(encoding="utf-8")
    except OSError:
        raise NotReleased(f"The solution of {task.name} is not here: update your repository from where you got it.") from None
    tree = ast.parse(source)
    needed = needed_for([task.name], tree.body)
    parts = [ast.get_source_segment(source, node) or "" for node in tree.body if node in needed]
    return "\n\n\n".join(parts)
