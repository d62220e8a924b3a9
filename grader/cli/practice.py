"""The commands of the student's loop: run, next, hint, reset, progress, solution, show, watch, tutor."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_PROBLEMS
from grader.cli.terminal import CourseOption, JsonOption, PathOption, console, load, print_json, stop

if TYPE_CHECKING:
    from grader.course.manifest import Course
    from grader.practice.session import Place, Session

__all__ = ["hint", "next_task", "progress", "reset", "run", "show", "solution", "tutor", "watch"]

TaskArgument = Annotated[str, typer.Argument(help="The task's name.")]
TaskOrCurrent = Annotated[str | None, typer.Argument(help="The task's name (default: the task at hand).")]
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[TASK|MODULE]…", help="Tasks and modules (default: the task at hand).")]


def run(
    names: NamesArgument = None,
    all_failures: Annotated[bool, typer.Option("--all", "-a", help="Show every failure, not only the first one of a task.")] = False,
    json: JsonOption = False,
    course: CourseOption = None,
) -> None:
    """Run public tests: of the tasks and modules that are named, else of the task at hand."""
    from grader.practice.describe import describe
    from grader.practice.session import Session
    from grader.practice.unseen import unseen

    loaded = load(course)
    places = _places(loaded, names) if names else None
    out, failed, runs = Console(), 0, []
    with Session(loaded) as session:
        chosen = places or [session.current()]
        try:
            for place in chosen:
                outcome, mistake = session.run(place)
                failed += not outcome.passed
                runs.append(outcome)
                if not json:
                    out.print(describe(outcome, mistake, failures=99 if all_failures else 1), soft_wrap=True)
            if len(chosen) == 1:
                session.go_to(chosen[0])
        except KeyboardInterrupt:
            raise stop("Interrupted.", EXIT_INTERRUPTED) from None
    _say_problem(session)
    if json:
        print_json(runs)
    else:
        for sentence in unseen(loaded.root, "exercises", [module.name for module in loaded.modules]):
            console.print(Text(sentence, "yellow"), soft_wrap=True)
        if len(chosen) > 1:
            out.print(f"{len(chosen) - failed} of {len(chosen)} tasks pass their public tests.")
    if failed:
        raise typer.Exit(EXIT_PROBLEMS)


def next_task(path: PathOption = None, course: CourseOption = None) -> None:
    """Show the next task that is not passed: what to write, and in which file."""
    from grader.practice.session import Session

    with Session(load(course, path)) as session:
        place = session.next_open()
        if place is None:
            Console().print(Text("All tasks pass their public tests.", "green"))
            return
        session.go_to(place)
        _show_statement(session.course, place)
        if not session.file(place).is_file():
            sentence = f"exercises/{place.module.name}.py is missing: `grader reset {place.module.name}` makes it, with the stubs."
            console.print(Text(sentence, "yellow"), soft_wrap=True)
        _say_problem(session)


def hint(
    task: TaskOrCurrent = None,
    more: Annotated[int, typer.Option("--more", "-m", count=True, help="One more hint; can be given twice.")] = 0,
    course: CourseOption = None,
) -> None:
    """Give a nudge; with --more the idea; with --more --more the shape of the answer."""
    from grader.practice.session import Session

    with Session(load(course)) as session:
        place = _place(session.course, task) if task else session.current()
        shown = len(session.hints(place))
        hints = session.hints(place, max(1 + more - shown, 0))
        for text in hints[: 1 + more]:
            Console().print(Text(text))
        if 1 + more < len(place.task.hints):
            console.print(Text(f"One more: grader hint {place.task.name}{' --more' * (more + 1)}", "dim"), soft_wrap=True)
        _say_problem(session)


def reset(name: Annotated[str, typer.Argument(metavar="TASK|MODULE", help="The task or the module.")], course: CourseOption = None) -> None:
    """Put the stub of a task or a module back. A copy of your file is kept."""
    from grader.practice.reset import CannotReset, reset_module, reset_task
    from grader.practice.session import Place, UnknownName, find

    loaded = load(course)
    try:
        found = find(loaded, name)
        if isinstance(found, Place):
            name, kept = found.task.name, reset_task(loaded, found.module, found.task.name)
        else:
            name, kept = found.name, reset_module(loaded, found)
    except (CannotReset, UnknownName) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    if kept:
        Console().print(Text(f"{name} is as it was at first. Your file is kept as {kept.relative_to(loaded.root)}."), soft_wrap=True)
    else:
        Console().print(Text(f"{name} is as it was at first."))


def progress(path: PathOption = None, json: JsonOption = False, course: CourseOption = None) -> None:
    """Show how far you are, by module."""
    from grader.practice.describe import CAVEAT, changed_since, progress_table
    from grader.practice.session import Session
    from grader.practice.statement import place_of

    with Session(load(course, path)) as session:
        if json:
            print_json(session.by_module())
            return
        Console().print(progress_table(session.by_module()))
        if changed := changed_since([place.task.name for place in session.places if session.mark(place) == "changed"]):
            Console().print(Text(changed, "yellow"), soft_wrap=True)
        at = session.next_open()
        Console().print(
            Text(
                f"Next: {at.task.name} in {place_of(session.course, at.module, at.task.name)}"
                if at
                else "All tasks pass their public tests."
            )
        )
        Console().print(CAVEAT, soft_wrap=True)


def solution(
    task: TaskArgument,
    anyway: Annotated[bool, typer.Option("--anyway", help="Show it before your own answer passes.")] = False,
    course: CourseOption = None,
) -> None:
    """Show the reference for a task that you have passed, where the course's author released it."""
    from grader.practice.session import Session
    from grader.practice.solution import NotReleased, solution_of

    loaded = load(course)
    place = _place(loaded, task)
    try:
        text = solution_of(loaded, place.module, place.task)
    except NotReleased as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    with Session(loaded) as session:
        if session.mark(place) == "open" and not anyway:
            raise stop(f"Solve {place.task.name} first: then compare. --anyway shows it now.", EXIT_BAD_INPUT)
    Console().print(Syntax(text, "python", theme="ansi_dark", background_color="default", word_wrap=True))


def show(
    task: TaskOrCurrent = None,
    save: Annotated[Path | None, typer.Option("--save", metavar="FILE.png|FILE.svg", help="Write the picture to a file.")] = None,
    course: CourseOption = None,
) -> None:
    """Draw what your answer gives, such as a mask or a curve, beside what is expected."""
    from grader.practice.figures import CannotSave, check_destination, save_figure
    from grader.practice.outcome import DrawRequest
    from grader.practice.pictures import Style, read_pictures, render, verdict
    from grader.practice.process_handle import PracticeProcess
    from grader.practice.session import Session

    loaded = load(course)
    place = _place(loaded, task) if task else Session(loaded).current()
    if place.task.show is None:
        others = ", ".join(other.name for module in loaded.modules for other in module.tasks if other.show)
        raise stop(
            f"{place.task.name} has no picture. These have: {others}." if others else "No task of this course has a picture.",
            EXIT_BAD_INPUT,
        )
    try:
        if save:
            check_destination(save)
        with PracticeProcess(loaded.root) as process:
            drawing = process.draw(DrawRequest(place.module.name, place.task.name, place.task.show))
        expected = read_pictures(loaded).get(place.task.name)
        if save:
            save_figure(save, place.task, drawing, expected)
            Console().print(Text(f"{verdict(place.task, drawing, expected)} The picture is in {save}."), soft_wrap=True)
            return
    except CannotSave as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except KeyboardInterrupt:
        raise stop("Interrupted.", EXIT_INTERRUPTED) from None
    out = Console()
    style = Style(out.width, ascii=not out.encoding.startswith("utf"), colour=out.color_system is not None and not out.no_color)
    out.print(render(place.task, drawing, expected, style), soft_wrap=True)


def watch(
    task: Annotated[str | None, typer.Argument(help="The task to begin with (default: where you left off).")] = None,
    move_on: Annotated[bool, typer.Option("--move-on", help="Go to the next task by itself when one passes.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of filling the screen.")] = False,
    path: PathOption = None,
    course: CourseOption = None,
) -> None:
    """Run the task at hand every time you save it, and show what failed and why."""
    from grader.practice.session import Session
    from grader.practice.watch import watch as start

    loaded = load(course, path)
    place = _place(loaded, task) if task else None
    with Session(loaded) as session:
        if place:
            session.go_to(place)
        raise typer.Exit(start(session, move_on=move_on, plain=plain))


def tutor(
    config: Annotated[bool, typer.Option("--config", help="Print what an assistant's configuration has to hold, and end.")] = False,
    course: CourseOption = None,
) -> None:
    """Let an assistant of yours see tasks, tests and hints, one at a time, over the Model Context Protocol. It holds no solution."""
    loaded = load(course)
    if find_spec("mcp") is None:
        raise stop('mcp is not installed: pip install "pytorch-exercises[tutor]"', EXIT_BAD_INPUT)
    from grader.practice.tutor import client_config, serve

    if config or sys.stdin.isatty():
        print_json(client_config(sys.executable, loaded))
        console.print(Text("An assistant starts the tutor itself: put this into its configuration for MCP servers.", "dim"), soft_wrap=True)
        return
    serve(loaded)


def _say_problem(session: "Session") -> None:
    if session.problem:
        console.print(Text(session.problem, "yellow"), soft_wrap=True)


def _places(course: "Course", names: list[str]) -> "list[Place]":
    """The tasks that names of tasks and modules stand for. Raises: typer.Exit."""
    from grader.practice.session import UnknownName, find_places

    try:
        return find_places(course, names)
    except UnknownName as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None


def _place(course: "Course", name: str) -> "Place":
    """The task of this name. Raises: typer.Exit."""
    from grader.practice.session import UnknownName, find_place

    try:
        return find_place(course, name)
    except UnknownName as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None


def _show_statement(course: "Course", place: "Place") -> None:
    from grader.practice.reset import CannotReset
    from grader.practice.statement import place_of, statement

    where = place_of(course, place.module, place.task.name)
    out = Console()
    out.print(Text.assemble((place.task.name, "bold"), f" in {where}: {place.task.points:g} points, about {place.task.minutes} minutes"))
    try:
        out.print(statement(course, place.module, place.task.name))
    except CannotReset as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    out.print(Text(f"Run its tests with `grader run {place.task.name}`, or on every save with `grader watch`.", "dim"), soft_wrap=True)
