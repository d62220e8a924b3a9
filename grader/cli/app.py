"""The command `grader`: its commands, in the order in which `grader --help` shows them."""

import typer

from grader.cli.check import check
from grader.cli.collect import collect_
from grader.cli.course import hint, list_, schema, stubs
from grader.cli.doctor import doctor
from grader.cli.exports import app as exports
from grader.cli.grade import grade

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Exercises in PyTorch, and their grader."
)
app.command("list")(list_)
app.command()(grade)
app.command("collect")(collect_)
app.command()(check)
app.command()(stubs)
app.command()(hint)
app.command()(schema)
app.command()(doctor)
app.add_typer(exports, name="export")
