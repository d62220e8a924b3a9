"""The student's loop. May not know solutions, hidden tests or the sandbox. `%load_ext grader.practice` brings it into a notebook."""

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Give a notebook %%task, %hint and %progress. IPython calls this for `%load_ext grader.practice`."""
    from grader.practice.notebook import load

    load(shell)


def unload_ipython_extension(_: Any) -> None:
    """End the practice process. IPython calls this for `%unload_ext` and `%reload_ext`."""
    from grader.practice.notebook import unload

    unload()
