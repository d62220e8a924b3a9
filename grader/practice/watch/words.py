"""What both faces of `grader watch` say."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from grader.practice.describe import summary
from grader.practice.outcome import TaskRun
from grader.practice.reset import CannotReset
from grader.practice.session import Place, Session, Standing
from grader.practice.statement import place_of, statement

__all__ = ["Bar", "all_runs", "begun", "hints", "missing", "path", "standing", "statement_or_reason", "title", "what_next"]


def path(session: Session, place: Place) -> str:
    """Where a task's definition stands."""
    return place_of(session.course, place.module, place.task.name)


def title(session: Session, place: Place) -> Text:
    """A task, where it is, and what it is worth."""
    return Text.assemble(
        (place.task.name, "bold"),
        f" in {path(session, place)}",
        (f" ({_count(place.task.points, 'point')}, {place.task.minutes} min)", "dim"),
    )


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def standing(now: Standing) -> Text:
    """How far one is, in words."""
    return Text(f"{now.passed}/{now.tasks} tasks, {now.points:g}/{now.max_points:g} points, {now.minutes_left} minutes left")


class Bar:
    """How far one is, as a bar as wide as there is room. Its parts differ in more than their colour."""

    def __init__(self, now: Standing) -> None:
        self._now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Print it."""
        done = -(-self._now.passed * options.max_width // self._now.tasks)
        yield Text.assemble(("━" * done, "green"), ("┄" * (options.max_width - done), "dim"))


def statement_or_reason(session: Session, place: Place) -> RenderableType:
    """The statement of a task, or why it can't be shown."""
    try:
        return statement(session.course, place.module, place.task.name)
    except (CannotReset, SyntaxError) as error:
        return Text(f"The statement can't be shown: {error}", "yellow")


def begun(session: Session, place: Place) -> Text:
    """What stands in the answer's place while nothing was run."""
    if session.mark(place) == "passed":
        return Text.assemble(
            (place.task.name, "bold"), (": passed its public tests, and was not changed since", "green"), ". t tests it again."
        )
    return Text.assemble((place.task.name, "bold"), (": not run yet", "dim"))


def missing(session: Session, place: Place) -> Text:
    """The file of a task is not there."""
    name = session.file(place).relative_to(session.course.root).as_posix()
    return Text(f"{name} is missing or can't be read. Put it back, or reset the task: then you get the stub again.", "red")


def hints(shown: tuple[str, ...], of: int) -> Group:
    """The hints so far."""
    texts = [Text.assemble((f"Hint {number} of {of}: ", "bold magenta"), text) for number, text in enumerate(shown, 1)]
    return Group(*texts)


def what_next(session: Session, place: Place, following: Place | None, key: str) -> Text:
    """What to do once a task passes. The public tests are not all there is."""
    solution = f" `grader solution {place.task.name}` shows the reference." if place.task.released else ""
    if following is None:
        return Text(f"All tasks pass their public tests. The hidden tests check more.{solution}", "green")
    return Text.assemble((f"{key}", "bold"), f" goes on to {following.task.name} in {path(session, following)}.", (solution, "dim"))


def all_runs(session: Session, runs: Sequence[TaskRun]) -> Text:
    """What running all tasks gave: how many pass, and those that were begun and do not."""
    begun = [run for run in runs if not run.passed and not run.untouched]
    places = {place.task.name: place for place in session.places}
    lines = [Text(f"{sum(run.passed for run in runs)} of {len(runs)} tasks pass their public tests.", "bold")]
    lines += [Text.assemble(summary(run), (f"  {path(session, places[run.task])}", "dim")) for run in begun]
    return Text("\n").join(lines)
