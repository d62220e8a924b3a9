"""The commands that show or make parts of the course: list, stubs, schema."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_PROBLEMS
from grader.base.files import write_atomically
from grader.cli.terminal import CourseOption, JsonOption, console, load, print_json, stop
from grader.course.manifest import Course, Module
from grader.course.stubs import make_stub

if TYPE_CHECKING:
    from grader.practice.session import Mark

__all__ = ["list_tasks", "schema", "stubs"]


def list_tasks(course: CourseOption = None, json: JsonOption = False) -> None:
    """Show the modules and tasks, with points and minutes. A ✓ marks what passes its public tests."""
    from grader.practice.session import Session

    loaded = load(course)
    with Session(loaded) as session:
        marks = {place.task.name: session.mark(place) for place in session.places}
    if json:
        print_json({"title": loaded.title, "modules": [_plain(module, marks) for module in loaded.modules]})
        return
    for module in loaded.modules:
        Console().print(Text(f"{module.title}: {module.story}"))
        table = Table("", module.name, "points", "minutes")
        for task in module.tasks:
            sign = {"passed": Text("✓", "green"), "changed": Text("?", "yellow"), "open": Text()}[marks[task.name]]
            table.add_row(sign, Text(task.name), f"{task.points:g}", str(task.minutes))
        table.add_section()
        table.add_row("", "all", f"{module.points:g}", str(module.minutes))
        Console().print(table)
    if "changed" in marks.values():
        Console().print(Text("? passed, and was changed since: `grader run` tests it again.", "dim"))


def _plain(module: Module, marks: "dict[str, Mark]") -> dict[str, Any]:
    tasks = [{"name": task.name, "points": task.points, "minutes": task.minutes, "mark": marks[task.name]} for task in module.tasks]
    return {"name": module.name, "title": module.title, "points": module.points, "minutes": module.minutes, "tasks": tasks}


def stubs(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; only say what is out of date.")] = False,
    course: CourseOption = None,
) -> None:
    """Write what is made from the references in solutions/: the stubs in exercises/, and what `grader show` expects."""
    loaded = load(course)
    outdated = 0
    for module in loaded.modules:
        path = loaded.stub(module.name)
        try:
            text = make_stub(loaded.solution(module.name).read_text(), [task.name for task in module.tasks])
        except (OSError, SyntaxError) as error:
            raise stop(f"solutions/{module.name}.py can't be read: {error}", EXIT_BAD_INPUT) from None
        if path.is_file() and path.read_text() == text:
            continue
        outdated += 1
        if check:
            console.print(Text(f"{path.relative_to(loaded.root)} is out of date: run `grader stubs`", "red"))
        else:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, text.encode())
            Console().print(f"wrote {path.relative_to(loaded.root)}")
    outdated += _pictures(loaded, check=check)
    if check and outdated:
        raise typer.Exit(EXIT_PROBLEMS)


def _pictures(course: Course, *, check: bool) -> int:
    """Write the expected pictures, or say which are out of date. Returns: how many are or were. Raises: typer.Exit."""
    from grader.check.pictures import CannotDraw, outdated_pictures, pictures_text
    from grader.practice.pictures import PICTURES

    outdated = outdated_pictures(course)
    if not outdated:
        return 0
    if check:
        console.print(Text(f"{PICTURES} is out of date for {', '.join(outdated)}: run `grader stubs`", "red"))
        return len(outdated)
    try:
        text = pictures_text(course)
    except CannotDraw as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    write_atomically(course.root / PICTURES, text.encode())
    Console().print(f"wrote {PICTURES}")
    return len(outdated)


def schema() -> None:
    """Print the JSON Schema of results.json."""
    from grader.runner.results import json_schema

    print_json(json_schema())
