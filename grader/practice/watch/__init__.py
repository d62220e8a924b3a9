"""`grader watch`: runs the task at hand on every save. On a screen where the terminal can show one, else in lines."""

import os
import sys
from collections.abc import Mapping

from grader.practice.session import Session

__all__ = ["fills_screen", "watch"]


def watch(session: Session, *, move_on: bool = False, plain: bool = False) -> int:
    """Watch until the student quits. Returns: the exit status.

    Args:
        session: whose current task comes first.
        move_on: whether to go to the next task by itself when one passes.
        plain: whether to print lines, whatever the terminal can.
    """
    session.process.warm_up()  # torch loads while the screen is built
    if plain or not fills_screen(os.environ, sys.stdin.isatty() and sys.stdout.isatty()):
        from grader.practice.watch.plain import watch_plainly

        return watch_plainly(session, move_on=move_on)
    from grader.practice.watch.app import WatchApp

    app = WatchApp(session, move_on=move_on)
    app.run(mouse=False)  # so that the terminal's own selection and links work
    return app.return_code or 0


def fills_screen(environment: Mapping[str, str], terminal: bool) -> bool:
    """Whether a terminal can show more than lines."""
    return terminal and environment.get("TERM", "") not in (("dumb", "unknown") if sys.platform == "win32" else ("", "dumb", "unknown"))
