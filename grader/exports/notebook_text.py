"""What a notebook says about its module and each task, in Markdown."""

from grader.course.manifest import Module, Task

__all__ = ["about_module", "about_task", "points_in_words"]


def about_module(module: Module, docstring: str, how: str) -> str:
    """The first cell: title, story, how to work with this kind of notebook, and the table of tasks."""
    rows = [f"| `{task.name}` | {task.points:g} | {task.minutes} |" for task in module.tasks]
    table = ["| task | points | minutes |", "| --- | --- | --- |", *rows, f"| all | {module.points:g} | {module.minutes} |"]
    return "\n\n".join(part for part in [f"# {module.title}", module.story, docstring, how, "\n".join(table)] if part)


def about_task(task: Task) -> str:
    """The cell above a task: its heading, points and minutes."""
    return f"## {task.name}\n\n{points_in_words(task.points)}, about {task.minutes} minute{'s' * (task.minutes != 1)}."


def points_in_words(points: float) -> str:
    """Such as "1 point" and "2.5 points"."""
    return f"{points:g} point{'s' * (points != 1)}"
