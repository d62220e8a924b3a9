"""The commands of the student's loop: run, next, hint, reset, progress, solution, watch."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_PROBLEMS
from grader.cli.terminal import CourseOption, JsonOption, console, load, print_json, stop

if TYPE_CHECKING:
    from grader.course.manifest import Course
    from grader.practice.session import Place

__all__ = ["hint", "next_task", "progress", "reset", "run", "solution", "watch"]

TaskArgument = Annotated[str, typer.Argument(help="The task's name.")]
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[TASK|MODULE]…", help="Tasks and modules; none means all.")]


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
    if json:
        print_json(runs)
    else:
        for sentence in unseen(loaded.root, "exercises", [module.name for module in loaded.modules]):
            console.print(Text(sentence, "yellow"), soft_wrap=True)
        if len(chosen) > 1:
            out.print(f"{len(chosen) - failed} of {len(chosen)} tasks pass their public tests.")
    if failed:
        raise typer.Exit(EXIT_PROBLEMS)


def next_task(course: CourseOption = None) -> None:
    """Show the next task that is not passed: what to write, and in which file."""
    from grader.practice.session import Session

    with Session(load(course)) as session:
        place = session.next_open()
        if place is None:
            Console().print(Text("All tasks pass their public tests.", "green"))
            return
        session.go_to(place)
        _show_statement(session.course, place)


def hint(
    task: TaskArgument,
    more: Annotated[int, typer.Option("--more", "-m", count=True, help="One more hint; can be given twice.")] = 0,
    course: CourseOption = None,
) -> None:
    """Give a nudge; with --more the idea; with --more --more the shape of the answer."""
    from grader.practice.session import Session

    loaded = load(course)
    (place,) = _places(loaded, [task], only_task=True)
    with Session(loaded) as session:
        shown = len(session.hints(place))
        hints = session.hints(place, max(1 + more - shown, 0))
        for text in hints[: 1 + more]:
            Console().print(Text(text))
        if 1 + more < len(place.task.hints):
            console.print(Text(f"{len(place.task.hints) - 1 - more} more with --more.", "dim"))


def reset(name: Annotated[str, typer.Argument(metavar="TASK|MODULE", help="The task or the module.")], course: CourseOption = None) -> None:
    """Put the stub of a task or a module back. A copy of your file is kept."""
    from grader.practice.reset import CannotReset, reset_module, reset_task

    loaded = load(course)
    places = _places(loaded, [name])
    module = places[0].module
    try:
        kept = reset_task(loaded, module, name) if name != module.name else reset_module(loaded, module)
    except (CannotReset, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    if kept:
        Console().print(Text(f"{name} is as it was at first. Your file is kept as {kept.relative_to(loaded.root)}."), soft_wrap=True)
    else:
        Console().print(Text(f"{name} is as it was at first."))


def progress(json: JsonOption = False, course: CourseOption = None) -> None:
    """Show how far you are, by module."""
    from grader.practice.session import Session
    from grader.practice.statement import place_of

    with Session(load(course)) as session:
        rows = []
        for module in session.course.modules:
            places = [place for place in session.places if place.module is module]
            passed = [place for place in places if session.mark(place) == "passed"]
            minutes = sum(place.task.minutes for place in places if place not in passed)
            rows.append((module.name, len(passed), len(places), sum(place.task.points for place in passed), module.points, minutes))
        if json:
            keys = ("module", "passed", "tasks", "points", "max_points", "minutes_left")
            print_json([dict(zip(keys, row, strict=True)) for row in rows])
            return
        table = Table("module", "", "tasks passed", "points in reach", "minutes left")
        for name, done, tasks, points, most, minutes in rows:
            table.add_row(name, ProgressBar(tasks, done, width=20), f"{done} of {tasks}", f"{points:g} of {most:g}", f"{minutes}")
        Console().print(table)
        at = session.next_open()
        Console().print(
            Text(
                f"Next: {at.task.name} in {place_of(session.course, at.module, at.task.name)}"
                if at
                else "All tasks pass their public tests."
            )
        )
        Console().print(Text("Public tests are examples. Points are given by the hidden tests, which check more.", "dim"), soft_wrap=True)


def solution(
    task: TaskArgument,
    anyway: Annotated[bool, typer.Option("--anyway", help="Show it before your own answer passes.")] = False,
    course: CourseOption = None,
) -> None:
    """Show the reference for a task that you have passed, where the course's author released it."""
    from grader.practice.session import Session
    from grader.practice.solution import NotReleased, solution_of

    loaded = load(course)
    (place,) = _places(loaded, [task], only_task=True)
    try:
        text = solution_of(loaded, place.module, place.task)
    except NotReleased as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    with Session(loaded) as session:
        if session.mark(place) == "open" and not anyway:
            raise stop(f"Solve {task} first: then compare. --anyway shows it now.", EXIT_BAD_INPUT)
    Console().print(Syntax(text, "python", theme="ansi_dark", background_color="default", word_wrap=True))


def watch(
    task: Annotated[str | None, typer.Argument(help="The task to begin with (default: where you left off).")] = None,
    move_on: Annotated[bool, typer.Option("--move-on", help="Go to the next task by itself when one passes.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of filling the screen.")] = False,
    course: CourseOption = None,
) -> None:
    """Run the task at hand every time you save it, and show what failed and why."""
    from grader.practice.session import Session
    from grader.practice.watch import watch as start

    loaded = load(course)
    places = _places(loaded, [task], only_task=True) if task else []
    with Session(loaded) as session:
        if places:
            session.go_to(places[0])
        raise typer.Exit(start(session, move_on=move_on, plain=plain))


def _places(course: "Course", names: list[str] | None, *, only_task: bool = False) -> "list[Place]":
    """The tasks that names stand for. Raises: typer.Exit."""
    from grader.practice.session import UnknownName, find_places

    try:
        places = find_places(course, names or [])
    except UnknownName as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    if only_task and len(places) != 1:
        raise stop(f"{(names or [''])[0]} is a module: name one task.", EXIT_BAD_INPUT)
    return places


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
