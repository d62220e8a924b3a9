"""The command `grader`: its commands, in the order in which `grader --help` shows them.

Students call `grader` often, so it has to start quickly: commands import what they need when they are called, and the exports' file is
imported only for `grader export`.
"""

from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from grader.cli.check import check
from grader.cli.collect import collect_repositories
from grader.cli.course import list_tasks, schema, stubs
from grader.cli.doctor import doctor
from grader.cli.grade import grade, regrade
from grader.cli.new import app as new
from grader.cli.practice import hint, next_task, progress, reset, run, show, solution, tutor, watch
from grader.cli.report import report
from grader.cli.results import compare, items
from grader.cli.similar import similar

__all__ = ["app"]


class _Exports(TyperGroup):
    """The commands of `grader export`. Their file is imported when the group is used."""

    @property
    def commands(self) -> Any:
        """The commands by name."""
        from grader.cli.exports import app as exports

        return get_group(exports).commands

    @commands.setter
    def commands(self, _: Any) -> None:
        """Ignore the empty table that the constructor sets."""


app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Exercises in PyTorch, and their grader."
)
_PRACTICE, _COURSE = "Practise", "Teach"
for name, command in (
    ("watch", watch),
    ("run", run),
    ("list", list_tasks),
    ("next", next_task),
    ("hint", hint),
    ("reset", reset),
    ("progress", progress),
    ("solution", solution),
    ("show", show),
    ("tutor", tutor),
):
    app.command(name, rich_help_panel=_PRACTICE)(command)
app.command(rich_help_panel=_PRACTICE)(doctor)
app.command(rich_help_panel=_COURSE)(grade)
app.command("collect", rich_help_panel=_COURSE)(collect_repositories)
app.command(rich_help_panel=_COURSE)(regrade)
app.command(rich_help_panel=_COURSE)(report)
app.command(rich_help_panel=_COURSE)(compare)
app.command(rich_help_panel=_COURSE)(items)
app.command(rich_help_panel=_COURSE)(similar)
app.command(rich_help_panel=_COURSE)(check)
app.command(rich_help_panel=_COURSE)(stubs)
app.command(rich_help_panel=_COURSE)(schema)
app.add_typer(new, name="new", rich_help_panel=_COURSE)
app.add_typer(
    typer.Typer(
        cls=_Exports, no_args_is_help=True, help="Write files that other programs read: nbgrader, GitHub, Classroom 50, Gradescope."
    ),
    name="export",
    rich_help_panel=_COURSE,
)
