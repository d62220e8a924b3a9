"""The commands that show or make parts of the course: list, stubs, schema."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_PROBLEMS
from grader.base.files import write_atomically
from grader.cli.terminal import CourseOption, JsonOption, PathOption, console, load, print_json, progress_bar, stop
from grader.course.manifest import Course, Module
from grader.course.readme import with_table
from grader.course.stubs import module_stub

if TYPE_CHECKING:
    from grader.check.mistakes import HomeNaming
    from grader.practice.session import Mark

__all__ = ["list_tasks", "schema", "stubs", "write_stubs"]


def list_tasks(path: PathOption = None, course: CourseOption = None, json: JsonOption = False) -> None:
    """Show the modules and tasks, with points and minutes, and the paths through them. A ✓ marks what passes its public tests."""
    from grader.practice.session import Session

    loaded = load(course, path)
    with Session(loaded) as session:
        marks = {place.task.name: session.mark(place) for place in session.places}
    if json:
        modules = [_plain(module, marks) for module in loaded.modules]
        print_json({"title": loaded.title, "modules": modules, "paths": loaded.paths})
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
    Console().print(Text(f"{sum(len(module.tasks) for module in loaded.modules)} tasks, about {_hours(loaded)} hours in all."))
    for one in () if path else loaded.paths:
        Console().print(Text(f"--path {one.name}: {one.title}, about {_hours(loaded.along(one.name))} hours: {', '.join(one.modules)}."))
    if "changed" in marks.values():
        Console().print(Text("? passed, and was changed since: `grader run` tests it again.", "dim"))


def _hours(course: Course) -> str:
    return f"{sum(module.minutes for module in course.modules) / 60:.0f}"


def _plain(module: Module, marks: "dict[str, Mark]") -> dict[str, Any]:
    tasks = [{"name": task.name, "points": task.points, "minutes": task.minutes, "mark": marks[task.name]} for task in module.tasks]
    return {"name": module.name, "title": module.title, "points": module.points, "minutes": module.minutes, "tasks": tasks}


def stubs(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; only say what is out of date.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="How many processes run known mistakes at once.")] = min(4, os.cpu_count() or 1),
    course: CourseOption = None,
) -> None:
    """Write what is made of solutions/ and the banks: stubs, the README's table, pictures of `grader show`, and known mistakes, locked."""
    loaded = load(course)
    try:
        outdated = [_stubs(loaded, check=check), _readme(loaded, check=check), _pictures(loaded, check=check)]
        outdated.append(_mistakes(loaded, jobs, check=check))
    except (OSError, SyntaxError) as error:
        what = f"{error.filename} is missing." if isinstance(error, FileNotFoundError) else f"{error}."
        raise stop(f"{what} `grader check` says what a course needs.", EXIT_BAD_INPUT) from None
    if check and any(outdated):
        raise typer.Exit(EXIT_PROBLEMS)


def write_stubs(course: Course) -> None:
    """Write the stubs and the README's table. Raises: typer.Exit."""
    _stubs(course, check=False)
    _readme(course, check=False)


def _stubs(course: Course, *, check: bool) -> bool:
    """Write the stubs in exercises/, or say which are out of date. Returns: whether one is or was. Raises: typer.Exit."""
    outdated = False
    for module in course.modules:
        path = course.stub(module.name)
        try:
            text = module_stub(course, module.name)
        except (OSError, SyntaxError) as error:
            raise stop(f"The stub of {module.name} can't be made: {error}", EXIT_BAD_INPUT) from None
        if path.is_file() and path.read_text() == text:
            continue
        outdated = True
        if check:
            console.print(Text(f"{path.relative_to(course.root)} is out of date: run `grader stubs`", "red"))
        else:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, text.encode())
            Console().print(f"wrote {path.relative_to(course.root)}")
    return outdated


def _readme(course: Course, *, check: bool) -> bool:
    """Write the README's table of modules, or say that it is out of date. Returns: whether it is or was."""
    path = course.root / "README.md"
    text = path.read_text() if path.is_file() else ""
    new = with_table(text, course)
    if new != text and check:
        console.print(Text("README.md: the table of modules is out of date: run `grader stubs`", "red"))
    elif new != text:
        write_atomically(path, new.encode())
        Console().print("wrote README.md")
    return new != text


def _pictures(course: Course, *, check: bool) -> bool:
    """Write the expected pictures, or say which are out of date. Returns: whether one is or was. Raises: typer.Exit."""
    from grader.check.pictures import CannotDraw, outdated_pictures, pictures_text

    outdated = outdated_pictures(course)
    place = course.pictures.relative_to(course.root)
    if outdated and check:
        console.print(Text(f"{place} is out of date for {', '.join(outdated)}: run `grader stubs`", "red"), soft_wrap=True)
    elif outdated:
        try:
            text = pictures_text(course)
        except CannotDraw as error:
            raise stop(str(error), EXIT_BAD_INPUT) from None
        write_atomically(course.pictures, text.encode())
        Console().print(f"wrote {place}")
    return bool(outdated)


def _mistakes(course: Course, jobs: int, *, check: bool) -> bool:
    """Write the known mistakes, or say for which modules they are out of date. Returns: whether some are or were."""
    from grader.check.mistakes import make_mistakes, outdated_mistakes

    outdated = outdated_mistakes(course)
    place = course.mistakes.relative_to(course.root)
    if outdated and check:
        console.print(Text(f"{place} is out of date for {', '.join(outdated)}: run `grader stubs`", "red"), soft_wrap=True)
    elif outdated:
        with progress_bar() as progress:
            bar = progress.add_task("mistakes", total=None)
            mistakes, figures = make_mistakes(
                course,
                course.select(outdated, []),
                jobs=jobs,
                on_progress=lambda done, total, what: progress.update(bar, completed=done, total=total, description=what[:60]),
            )
        course.mistakes.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(course.mistakes, msgspec.json.format(msgspec.json.encode(mistakes), indent=1) + b"\n")
        Console().print(f"wrote {place}")
        Console().print(_mistakes_table(figures))
    return bool(outdated)


def _mistakes_table(figures: "list[HomeNaming]") -> Table:
    """What becomes of known mistakes where a student has the public tests alone."""
    columns = ("mistakes", "pass public tests", "named", "one of two", "like several", "unsteady")
    table = Table("module", *(Column(name, justify="right") for name in columns))
    for row in figures:
        table.add_row(row.module, *map(str, (row.mistakes, row.unseen, row.named, row.one_of_two, row.alike, row.unsteady)))
    return table


def schema() -> None:
    """Print the JSON Schema of results.json."""
    from grader.runner.results import json_schema

    print_json(json_schema())
