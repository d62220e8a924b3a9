"""Notebooks for practice, one for each module, made from solutions/ and course.toml.

A first cell loads `grader.practice`, and installs what a hosted notebook lacks. A task has two cells: its heading, and the stub below
`%%task NAME`, which runs the task's public tests (grader.practice.notebook). docs/notebooks.md says how such a notebook is handed in.
"""

import json
from typing import Any

from grader.course.manifest import Course, Module
from grader.course.parts import parts_of_stub
from grader.course.stubs import module_stub
from grader.exports.notebook_text import about_module, about_task

__all__ = ["practice_notebook"]

_LONGEST_ID = 64
"""The longest id of a cell that the notebooks' format allows."""

_HOW = (
    "Run the first cell. Then fill in the cells that raise `NotImplementedError`, and run them: `%%task` writes your answer into "
    "`exercises/{module}.py` and runs its public tests on that file. An answer is all in its cell: put helpers and imports of your own "
    "there, too. `%hint` gives a hint for the task at hand, and one more each time; `%progress` shows how far you are."
)

_SETUP = """\
# Run this cell first. On your own computer it only loads %%task, %hint and %progress. A hosted notebook, such as Colab, begins without
# your repository and the grader: write your repository's address here, and the cell fetches both.
REPOSITORY = ""  # such as "https://github.com/you/exercises"

from importlib.util import find_spec
from pathlib import Path


def root():
    return next((folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "course.toml").is_file()), None)


if not root() and REPOSITORY:
    if not Path("my-exercises").is_dir():
        !git clone --quiet {REPOSITORY} my-exercises
    %cd -q my-exercises
if root() and not find_spec("grader"):
    wheels = " ".join(f'"{path}"' for path in (root() / "tools").glob("*.whl"))
    %pip install --quiet {wheels}
%load_ext grader.practice"""

_TORCHVISION = """

from grader.base.torchvision_compat import import_torchvision

import_torchvision()  # beside a CPU build of torch it needs a hand"""


def practice_notebook(course: Course, module: Module) -> bytes:
    """The notebook in which a student practises a module. Equal courses give equal bytes.

    Raises: OSError or SyntaxError if the reference can't be read.
    """
    names = [task.name for task in module.tasks]
    parts = parts_of_stub(module_stub(course, module.name), names)
    cells = [
        _cell("about", "markdown", about_module(module, parts.docstring, _HOW.format(module=module.name))),
        _cell(
            "setup", "code", _SETUP + _TORCHVISION * ("torchvision" in parts.preamble), grader="setup"
        ),  # this mark keeps the cell out of what is graded
    ]
    if parts.preamble:
        cells.append(_cell("imports", "code", parts.preamble))
    for task in module.tasks:
        cells.append(_cell(f"about-{task.name}", "markdown", about_task(task)))
        cells.append(_cell(f"task-{task.name}", "code", f"%%task {task.name}\n{parts.tasks[task.name]}"))
    notebook = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return (json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _cell(name: str, kind: str, text: str, **metadata: str) -> dict[str, Any]:
    code: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": name[:_LONGEST_ID], "metadata": metadata, "source": text.splitlines(keepends=True), **code}
