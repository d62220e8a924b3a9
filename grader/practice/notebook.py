"""Practice in a notebook: what `%load_ext grader.practice` gives. The only file that imports IPython.

`%%task NAME` runs a cell, puts its definitions into exercises/MODULE.py in the place of the task's, and runs the task's public tests on
that file. So the notebook makes no second answer: what it tests is what `grader run`, the tutor and the official grading see.
"""

import atexit
import contextlib
from collections.abc import Iterable
from pathlib import Path

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from rich.console import Console, RenderableType
from rich.text import Text

from grader.base.files import file_problem
from grader.course.manifest import Course, ManifestError, find_root
from grader.practice.cells import CannotUseCell, Merged, borrowed, merge
from grader.practice.describe import CAVEAT, describe, progress_table
from grader.practice.reset import CannotReset, keep_copy, statement_of, stub_text
from grader.practice.session import Place, Session, UnknownName, find_place
from grader.practice.source_file import SourceFile
from grader.practice.unseen import unseen

__all__ = ["load", "unload"]

_sessions: list[Session] = []
"""Open sessions: at most one in a kernel."""


def load(shell: InteractiveShell) -> None:
    """Register the magics for the course around the notebook, and start the practice process. Raises: UsageError."""
    try:
        root = find_root(Path.cwd())
    except ManifestError:
        raise UsageError(
            "This notebook is not in a course's folder: open it from there, such as from notebooks/, so that course.toml lies above it. "
            "In a hosted notebook, fetch your repository first, and change into it with %cd."
        ) from None
    try:
        course = Course.read(root)
    except ManifestError as error:
        raise UsageError(str(error)) from None
    unload()
    session = Session(course)
    session.process.warm_up()
    _sessions.append(session)
    shell.register_magics(PracticeMagics(shell, session))


def unload() -> None:
    """End the practice process."""
    while _sessions:
        _sessions.pop().process.close()


atexit.register(unload)


@magics_class
class PracticeMagics(Magics):
    """The magics of one notebook, in one course."""

    def __init__(self, shell: InteractiveShell, session: Session) -> None:
        super().__init__(shell)
        self._shell, self._session = shell, session
        self._written: dict[str, frozenset[str]] = {}
        """The statements that each task's cell put into the student's file, and may replace without keeping a copy."""

    @cell_magic
    def task(self, line: str, cell: str) -> None:
        """Run the cell, write its answer into the module's file, and run the task's public tests: %%task one_hot."""
        place = self._place(line, "%%task")
        if not self._shell.run_cell(cell).success:
            return  # the cell's own error has been shown
        notes = self._write(place, cell)
        self._session.refresh()
        run, mistake = self._session.run(place)
        self._session.go_to(place)
        _print(describe(run, mistake))
        if not run.passed:
            notes += self._borrowed(place, cell)
        course = self._session.course
        notes += unseen(course.root, "exercises", [module.name for module in course.modules])
        _print(*(Text(note, "yellow") for note in notes))

    @line_magic
    def hint(self, line: str) -> None:
        """Show one more hint, for a task or for the one at hand: %hint one_hot."""
        self._session.refresh()
        place = self._place(line, "%hint") if line.strip() else self._session.current()
        _print(Text(self._session.next_hint(place)))

    @line_magic
    def progress(self, _: str) -> None:
        """Show how far you are, by module."""
        self._session.refresh()
        at = self._session.next_open()
        _print(
            progress_table(self._session.by_module()),
            Text(f"Next: {at.task.name} in {at.module.name}" if at else "All tasks pass their public tests."),
            CAVEAT,
        )

    def _place(self, line: str, magic: str) -> Place:
        """The task that a line names. Raises: UsageError."""
        name = line.strip()
        if not name:
            raise UsageError(f"Name the task, such as {magic} {self._session.current().task.name}.")
        try:
            return find_place(self._session.course, name)
        except UnknownName as error:
            raise UsageError(str(error).replace("`grader list`", "`!grader list`")) from None

    def _write(self, place: Place, cell: str) -> list[str]:
        """Put the cell into the module's file. Returns: what the student should know. Raises: UsageError."""
        course, file = self._session.course, f"exercises/{place.module.name}.py"
        path, task = self._session.file(place), place.task.name
        if path.with_suffix(".ipynb").exists():
            raise UsageError(
                f"exercises/ holds {place.module.name}.ipynb, and {file} would be a second answer: move the notebook to notebooks/. "
                f"%%task writes your answer into {file}, which is what is graded."
            )
        others = [task.name for task in place.module.tasks if task is not place.task]
        try:
            before = SourceFile.read(path) if path.is_file() else SourceFile(stub_text(course, place.module))
            source, own = before.text, self._written.get(task, frozenset())
            merged = merge(source, cell, task, others, file, own.difference(*(self._written.get(other, ()) for other in others)))
            stubs = self._stubs(place, source, others)
            if merged.lost and stubs and merged.written <= stubs.written:
                return [f"This cell still holds the stub. {file} holds an answer, which was kept and tested."]
            kept = keep_copy(course, path) if merged.lost - own - (stubs.written if stubs else set()) else None
            if merged.source != source or not path.is_file():
                path.parent.mkdir(exist_ok=True)
                before.write(path, merged.source)
        except UnicodeDecodeError:
            raise UsageError(f"{file} is not text in UTF-8: `grader reset {place.module.name}` puts the stubs back.") from None
        except (CannotUseCell, CannotReset) as error:
            raise UsageError(str(error)) from None
        except OSError as error:
            raise UsageError(file_problem(error, course.root)) from None
        self._written[task] = merged.written
        return [f"{file} held another answer. It is kept as {kept.relative_to(course.root).as_posix()}."] if kept else []

    def _stubs(self, place: Place, source: str, others: Iterable[str]) -> Merged | None:
        """What the task's untouched cell would write; None if the stub is not here."""
        with contextlib.suppress(CannotReset, CannotUseCell):
            return merge(source, statement_of(self._session.course, place.module, place.task.name), place.task.name, others, "")
        return None

    def _borrowed(self, place: Place, cell: str) -> list[str]:
        """Says which names of other cells the answer lacks."""
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            source = SourceFile.read(self._session.file(place)).text
            if names := borrowed(cell, place.task.name, source, self._shell.user_ns):
                several = len(names) > 1
                return [
                    f"{', '.join(names)} {'are' if several else 'is'} defined in another cell, which is no part of the answer: "
                    f"put {'them' if several else 'it'} into this one."
                ]
        return []


def _print(*parts: RenderableType) -> None:
    """Print with ANSI colours, which Jupyter, VS Code and Colab show in the colours of their theme."""
    console = Console(force_terminal=True, force_jupyter=False, color_system="standard", width=100, legacy_windows=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))
