"""The commands `grader new course`, `grader new module` and `grader new task`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT
from grader.base.files import file_problem
from grader.cli.course import write_stubs
from grader.cli.terminal import CourseOption, load, stop
from grader.course.manifest import Course, ManifestError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write a new course, module or task: an example that works, to be replaced.")


@app.command()
def course(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    title: Annotated[str, typer.Option(help="What the course is called.")] = "Our exercises",
) -> None:
    """Write a course of one module, with a README that says how to go on."""
    from grader.course.scaffold import new_course

    _say(folder, lambda: new_course(folder, title))
    write_stubs(Course.read(folder))
    where = os.path.relpath(folder)
    Console().print(Text(f"Next: cd {where} && grader check, and read README.md there."), soft_wrap=True)


@app.command()
def module(name: Annotated[str, typer.Argument(help="Small letters, digits and _.")], course: CourseOption = None) -> None:
    """Write a module of one task, last in the course."""
    from grader.course.scaffold import new_module

    loaded = load(course)
    _say(loaded.root, lambda: new_module(loaded, name))
    write_stubs(Course.read(loaded.root))
    Console().print(
        Text(f"Next: replace title and story in course.toml, and the example; then `grader check --module {name}`."), soft_wrap=True
    )


@app.command()
def task(
    module: Annotated[str, typer.Argument(help="The module that it goes into.")],
    name: Annotated[str, typer.Argument(help="The function or class that students write.")],
    course: CourseOption = None,
) -> None:
    """Write a task, last in its module."""
    from grader.course.scaffold import new_task

    loaded = load(course)
    _say(loaded.root, lambda: new_task(loaded, module, name))
    write_stubs(Course.read(loaded.root))
    steps = "hints in course.toml, statement and reference in solutions/, tests in tests/public and tests/hidden, and the two banks"
    Console().print(
        Text(f"Next: replace the example of {name}: {steps}. Then `grader stubs` and `grader check --task {name}`."), soft_wrap=True
    )


def _say(root: Path, write: Callable[[], list[Path]]) -> None:
    try:
        written = write()
    except ManifestError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except OSError as error:
        raise stop(file_problem(error, root), EXIT_BAD_INPUT) from None
    for path in written:
        Console().print(Text(f"wrote {os.path.relpath(path)}"))
