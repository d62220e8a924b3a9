"""The commands `grader export …`."""

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write what other programs read: nbgrader, GitHub, Classroom 50, Gradescope.")


@app.callback()
def export() -> None:
    """Write what other programs read: nbgrader, GitHub, Classroom 50, Gradescope."""
