"""Write the scores of results.json into nbgrader's gradebook, so that it holds work handed in as files as well as notebooks.

Each module is an assignment. Its notebook and cells are those that `nbgrader generate_assignment` makes, so both ways of handing in share
one gradebook. Everything is written through nbgrader's API. Manual scores, comments and extra credit are never changed.
"""

import copy
import datetime
import logging
import os
import re
import secrets
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbgrader.api import Gradebook, MissingEntry, SubmittedNotebook
from nbgrader.apps import NbGrader
from nbgrader.preprocessors import AssignLatePenalties, ClearOutput, ClearSolutions, ComputeChecksums, LockCells, SaveCells
from nbgrader.utils import parse_utc
from sqlalchemy.exc import DBAPIError, SAWarning

from grader.base.files import write_atomically
from grader.base.outcome import Status
from grader.base.text import one_line
from grader.course.manifest import Course, Module
from grader.exports.nbgrader.notebooks import graded_id, make_notebook, solution_id
from grader.exports.nbgrader.preprocessor import score_outputs
from grader.reports.feedback import explain
from grader.runner.results import ModuleResult, Results
from grader.submissions.sources import says_missing

__all__ = ["Exported", "GradebookError", "export_gradebook", "verbatim"]


class GradebookError(Exception):
    """The scores can't be written; the text says why and what to do."""


@dataclass
class Exported:
    """The outcome of an export. A grade is one student's module."""

    written: int = 0
    changed: int = 0
    skipped: list[str] = field(default_factory=list)
    """A sentence for each grade that was not changed."""
    faults: list[str] = field(default_factory=list)
    """A sentence for each grade that the grader itself failed on."""


def export_gradebook(results: Results, course: Course, folder: Path, *, replace: bool = False) -> Exported:
    """Write the scores into the gradebook of nbgrader's course in `folder`. Scores that are already there are not changed.

    Args:
        results: what `grader grade` wrote.
        course: the exercises that were graded.
        folder: nbgrader's course folder; it may be empty.
        replace: also replace scores that nbgrader's autograding gave, and grade students whose notebook still waits for it.

    Raises: GradebookError, before anything is written if that can be foreseen.
    """
    _check_students(submission.id for submission in results.submissions)
    modules = _modules(results, course)
    app = _open(folder)
    exported = Exported()
    with _gradebook(app) as gradebook:
        notebooks = {module.name: _released(app, course, module) for module in modules}
        for module in modules:
            _check_cells(gradebook, module, notebooks[module.name])
        for module in modules:
            _make_cells(app, gradebook, module.name, notebooks[module.name])
        for submission in results.submissions:
            for result in submission.modules:
                _write(app, gradebook, notebooks[result.name], submission.id, result, replace, exported)
    return exported


_REFUSED = re.compile(r"""[/\\+*?\[\]{}#%&<>"'`\x00-\x1f\x7f]|^[.\s-]|\s$""")
"""nbgrader splits file names at these characters, reads them as patterns, or puts them into pages and addresses unescaped."""


def _check_students(ids: Iterable[str]) -> None:
    """Check that nbgrader can take these ids. Raises: GradebookError."""
    for id in ids:
        if not id or len(id) > 128 or _REFUSED.search(id):
            raise GradebookError(
                f"nbgrader can't take {one_line(id)!r} as a student's id: rename the submission (at most 128 characters, none of "
                "/ \\ + * ? [ ] { } # % & < > \" ' `, no dot, hyphen or blank in front) and grade again"
            )


def _modules(results: Results, course: Course) -> list[Module]:
    """The modules of the results, in the course's order. Raises: GradebookError if the course lacks one of them."""
    known = {module.name: {task.name for task in module.tasks} for module in course.modules}
    for submission in results.submissions:
        for module in submission.modules:
            strange = {task.name for task in module.tasks} - known.get(module.name, set())
            if module.name not in known or strange:
                what = f"the task {min(strange)!r}" if module.name in known else f"the module {module.name!r}"
                raise GradebookError(f"the results hold {what}, which {course.root / 'course.toml'} lacks: grade again with this course")
    used = {module.name for submission in results.submissions for module in submission.modules}
    return [module for module in course.modules if module.name in used]


# ---- nbgrader


class _App(NbGrader):  # type: ignore[misc]
    """nbgrader as if it were started in its course's folder. It takes nothing from the current folder."""

    load_cwd_config = False

    def init_syspath(self) -> None:
        """Leave sys.path alone."""


def _open(folder: Path) -> NbGrader:
    root = str(folder.resolve())
    sys.path.append(root)  # a course's configuration may name plugins beside it
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])  # nbgrader calls alembic
    app = _App(log_level=logging.ERROR)
    app.initialize([], root=root)
    return app


@contextmanager
def _gradebook(app: NbGrader) -> Iterator[Gradebook]:
    """Open the gradebook. Raises: GradebookError if the database can't be used."""
    url = app.coursedir.db_url
    try:
        with warnings.catch_warnings(category=SAWarning, action="ignore"), Gradebook(url, app.coursedir.course_id) as gradebook:
            yield gradebook
    except DBAPIError as error:
        raise GradebookError(
            f"the gradebook {url} can't be used ({error.orig}): close what writes to it; if it is of an older nbgrader, make a copy "
            "and run `nbgrader db upgrade`; then run this command again"
        ) from None


def _resources(app: NbGrader, module: str, student: str = "") -> dict[str, dict[str, str]]:
    """The resources that nbgrader's converters give to preprocessors."""
    return {"nbgrader": {"notebook": module, "assignment": module, "student": student, "db_url": app.coursedir.db_url}}


# ---- cells


def _released(app: NbGrader, course: Course, module: Module) -> Any:
    """The module's notebook without solutions, as `nbgrader generate_assignment` makes it. It comes from source/ or else from our export.

    Raises: GradebookError if the file in source/ can't be used.
    """
    source = Path(app.coursedir.format_path(app.coursedir.source_directory, ".", module.name)) / f"{module.name}.ipynb"
    try:
        notebook = nbformat.read(source, as_version=4) if source.is_file() else make_notebook(course, module)
        for preprocessor in (LockCells, ClearSolutions, ClearOutput, ComputeChecksums):
            notebook, _ = preprocessor(parent=app).preprocess(notebook, _resources(app, module.name))
    except (OSError, ValueError, RuntimeError, SyntaxError) as error:
        where = source if source.is_file() else course.solution(module.name)
        raise GradebookError(f"{where} can't be used: {one_line(str(error))}: see that `nbgrader generate_assignment` takes it") from None
    return notebook


def _check_cells(gradebook: Gradebook, module: Module, sheet: Any) -> None:
    """Check the module's cells in the gradebook or, if it has none yet, in the sheet that will go there. Raises: GradebookError."""
    where, points = f"source/{module.name}/{module.name}.ipynb", _graded_cells(sheet)
    try:
        assignment = gradebook.find_assignment(module.name)
        known = {notebook.name: notebook for notebook in assignment.notebooks}
        if module.name in known:
            where, points = "the gradebook", {cell.name: cell.max_score for cell in known[module.name].grade_cells}
        elif assignment.submissions:
            raise GradebookError(f"the gradebook's assignment {module.name!r} has submissions, but not our notebook: {_OTHERWISE}")
    except MissingEntry:
        pass
    for task in module.tasks:
        has = points.get(graded_id(task.name))
        if has is None:
            raise GradebookError(f"{where} has no cell {graded_id(task.name)!r} for {module.name!r}: {_OTHERWISE}")
        if has != task.points:
            raise GradebookError(f"in {where}, {task.name} is worth {has:g} points, in course.toml {task.points:g}: {_OTHERWISE}")


_OTHERWISE = "undo the change, or start a new course folder with `grader export nbgrader`"


def _graded_cells(sheet: Any) -> dict[str, float]:
    """The points of each graded cell by its name."""
    marks = [cell.metadata.get("nbgrader", {}) for cell in sheet.cells]
    return {mark["grade_id"]: float(mark["points"]) for mark in marks if mark.get("grade")}


def _make_cells(app: NbGrader, gradebook: Gradebook, module: str, notebook: Any) -> None:
    """Enter the module's assignment, notebook and cells, unless the gradebook has them."""
    try:
        gradebook.find_notebook(module, module)
    except MissingEntry:
        gradebook.update_or_create_assignment(module)
        SaveCells(parent=app).preprocess(notebook.copy(), _resources(app, module))


# ---- one student's module


def _write(app: NbGrader, gradebook: Gradebook, sheet: Any, student: str, result: ModuleResult, replace: bool, exported: Exported) -> None:
    """Write a student's module, or note why not."""
    where = f"{student}, {result.name}"
    fault = next((test for task in result.tasks for test in task.tests if test.status is Status.GRADER_ERROR), None)
    if fault:
        exported.faults.append(f"{where}: nothing was written, since the grader itself failed: {fault.message}")
        return
    known = _find(gradebook, result.name, student)
    if known is None and _not_handed_in(result):
        return
    if not replace and (reason := _reason_to_keep(app, known, result, student)):
        exported.skipped.append(f"{where}: not changed, because {reason}; --replace writes the score of results.json instead")
        return
    changed = _write_scores(app, gradebook, student, result)
    changed |= _write_notebook(app, sheet, student, result)
    exported.written += 1
    exported.changed += changed


def _find(gradebook: Gradebook, module: str, student: str) -> SubmittedNotebook | None:
    try:
        return gradebook.find_submission_notebook(module, module, student)
    except MissingEntry:
        return None


def _not_handed_in(result: ModuleResult) -> bool:
    """Whether the student handed in no file for this module. Then nbgrader gets no submission."""
    tests = [test for task in result.tasks for test in task.tests if test.status is not Status.SKIPPED]
    return all(test.status is Status.NOT_IMPLEMENTED and says_missing(test.message, result.name) for test in tests)


def _reason_to_keep(app: NbGrader, known: SubmittedNotebook | None, result: ModuleResult, student: str) -> str:
    """Why the score of a notebook has to stay; empty if ours may be written."""
    scored = {grade.name for grade in known.grades if grade.auto_score is not None} if known is not None else set()
    if known is not None and scored:
        # Our comments begin with the task's name; those of nbgrader's autograding don't.
        prefix = len(solution_id(""))
        ours = {comment.name[prefix:] for comment in known.comments if _is_comment(comment.auto_comment, comment.name[prefix:])}
        return "" if scored <= set(map(graded_id, ours)) else "nbgrader autograded a notebook of this student"
    if (_folder(app, app.coursedir.submitted_directory, result.name, student) / f"{result.name}.ipynb").exists():
        return "a notebook of this student waits for `nbgrader autograde`"
    return ""


def verbatim(text: str) -> str:
    """Markdown that shows a text unchanged, because nbgrader's feedback renders comments as Markdown: an indented block without HTML."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _is_comment(text: str | None, task: str) -> bool:
    """Whether `_write_scores` made this comment for the task."""
    return (text or "").startswith(verbatim(f"{task}: "))


def _write_scores(app: NbGrader, gradebook: Gradebook, student: str, result: ModuleResult) -> bool:
    """Enter scores and explanations, as autograding does. Returns: whether anything changed."""
    handed_in = _handed_in_at(app, result.name, student)
    gradebook.update_or_create_student(student)
    submission = gradebook.update_or_create_submission(result.name, student)
    notebook = gradebook.find_submission_notebook(result.name, result.name, student)
    if handed_in and submission.timestamp != handed_in:
        submission.timestamp = handed_in
    grades = {grade.name: grade for grade in notebook.grades}
    comments = {comment.name: comment for comment in notebook.comments}
    for task in result.tasks:
        grade, comment = grades[graded_id(task.name)], comments.get(solution_id(task.name))
        # If nothing was counted, a person decides. Rounding up can lead to a score above the points, which nbgrader refuses.
        score = min(task.score, task.max_score) if task.max_score else None
        if grade.auto_score != score:
            grade.auto_score = score
            grade.needs_manual_grade = score is None or grade.manual_score is not None
        text = verbatim(explain(task))
        if comment is not None and comment.auto_comment != text:
            comment.auto_comment = text
    changed = bool(gradebook.db.dirty)
    gradebook.db.commit()
    if notebook.late_submission_penalty is not None or (submission.assignment.duedate and submission.total_seconds_late):
        AssignLatePenalties(parent=app).preprocess(nbformat.v4.new_notebook(), _resources(app, result.name, student))
    return changed


def _handed_in_at(app: NbGrader, module: str, student: str) -> datetime.datetime | None:
    """The time in submitted/STUDENT/MODULE/timestamp.txt, where nbgrader and its users put it. Raises: GradebookError."""
    path = _folder(app, app.coursedir.submitted_directory, module, student) / "timestamp.txt"
    try:
        return parse_utc(path.read_text().strip()) if path.is_file() else None
    except (ValueError, OverflowError):
        raise GradebookError(f"{path} holds no time: write one such as 2026-11-21 09:30:00 UTC, or remove the file") from None


def _write_notebook(app: NbGrader, sheet: Any, student: str, result: ModuleResult) -> bool:
    """Write the sheet with this student's results to where the form grader and feedback look for it. Returns: whether it changed."""
    notebook = copy.deepcopy(sheet)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell(_HANDED_IN_AS_A_FILE.format(module=result.name), id="handed-in-as-a-file"))
    cells = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in notebook.cells}
    for task in result.tasks:
        if cell := cells.get(graded_id(task.name)):
            cell.outputs = score_outputs(task)
    files = {f"{result.name}.ipynb": nbformat.writes(notebook).encode()}
    folder = _folder(app, app.coursedir.autograded_directory, result.name, student)
    # If one of these is missing, nbgrader can't release anybody's feedback. It copies them from what was handed in.
    beside = {"timestamp.txt": b"", "submission_secret.txt": secrets.token_hex(32).encode()}
    files |= {name: data for name, data in beside.items() if not (folder / name).exists()}
    files = {name: data for name, data in files.items() if not (folder / name).is_file() or (folder / name).read_bytes() != data}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data)
    return bool(files)


_HANDED_IN_AS_A_FILE = """\
*This student handed in the file {module}.py, which is not shown here. The cells below are those that everybody got. Each graded cell shows
the result of its task in that file.*"""


def _folder(app: NbGrader, step: str, module: str, student: str) -> Path:
    return Path(app.coursedir.format_path(step, student, module))
