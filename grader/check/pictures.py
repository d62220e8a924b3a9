"""Makes tests/public/pictures.json: what `grader show` expects of each task that has a picture, computed from the references."""

import hashlib

import msgspec

from grader.course.manifest import Course, Module, Task
from grader.course.source import without_docstrings
from grader.practice.outcome import DrawRequest
from grader.practice.pictures import Picture, read_pictures
from grader.practice.process_handle import PracticeProcess

__all__ = ["CannotDraw", "outdated_pictures", "pictures_text"]


class CannotDraw(Exception):
    """The reference gives no picture; the text names the task and says why."""


def outdated_pictures(course: Course) -> list[str]:
    """The tasks whose expected picture is missing, not wanted any more, or made from another reference or another `show`. Runs nothing."""
    known = read_pictures(course)
    wanted = {task.name: _made_from(course, module, task) for module, task in _with_picture(course)}
    stale = [name for name, made_from in wanted.items() if name not in known or known[name].made_from != made_from]
    return stale + [name for name in known if name not in wanted]


def pictures_text(course: Course) -> str:
    """The whole file; a task a line, so that a change is easy to see. Pictures that are up to date stay as they are.

    Raises: CannotDraw.
    """
    known, stale = read_pictures(course), outdated_pictures(course)
    lines = []
    with PracticeProcess(course.root) as process:
        for module, task in _with_picture(course):
            picture = known[task.name] if task.name not in stale else _computed(course, module, task, process)
            lines.append(f'"{task.name}": {msgspec.json.encode(picture).decode()}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _computed(course: Course, module: Module, task: Task, process: PracticeProcess) -> Picture:
    assert task.show
    drawing = process.draw(DrawRequest(module.name, task.name, task.show, course.solution(module.name).parent.name))
    if drawing.problem:
        raise CannotDraw(f"course.toml: task {task.name!r}, show: the reference gives no picture. {drawing.problem}")
    count = len(drawing.rows[0])
    if task.show.over and len(drawing.over) != count:
        raise CannotDraw(f"course.toml: task {task.name!r}, show: `over` gives {len(drawing.over)} places for {count} numbers")
    return Picture(_made_from(course, module, task), drawing.rows, drawing.over)


def _with_picture(course: Course) -> list[tuple[Module, Task]]:
    return [(module, task) for module in course.modules for task in module.tasks if task.show]


def _made_from(course: Course, module: Module, task: Task) -> str:
    """Stands for everything that a picture's numbers depend on. Raises: OSError."""
    assert task.show
    code = [task.show.kind, task.show.setup, task.show.call, task.show.over]
    parts = [without_docstrings(course.solution(module.name).read_text()).encode(), msgspec.json.encode(code)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
