"""Preprocessors for nbgrader that grade in our workers. The generated nbgrader_config.py uses them instead of nbgrader's Execute.

The notebook's code is read as text and graded in a confined worker. No kernel is started, and torch is not imported here. The results
become the outputs of the graded cells, and nbgrader's own preprocessors copy them from there to the gradebook.
"""

import contextlib
import itertools
import os
import re
from datetime import date
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import nbformat
from nbformat import v4
from nbgrader.api import Gradebook
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import compute_checksum
from traitlets import Bool, Integer, Unicode

from grader.base.outcome import Status
from grader.base.text import clean
from grader.course.manifest import Course, ManifestError, Module
from grader.exports.nbgrader.ahead import Graders, graders_for
from grader.exports.nbgrader.notebooks import SCHEMA_VERSION, graded_cell, graded_id
from grader.reports.detail import detail_on, limited
from grader.reports.feedback import explain, words
from grader.runner.jobs import Refused
from grader.runner.results import ModuleResult, TaskResult
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import NotConfined, choose_layers, draw_seed, isolation
from grader.submissions.notebooks import notebook_source
from grader.submissions.sources import MAX_NOTEBOOK_BYTES, Source

__all__ = ["AskForManualGrades", "Disarm", "GradeInWorkers", "GradingFailed", "MendMarks", "SubmissionFailed", "score_outputs"]

_LONGEST_EXPLANATION = 20_000
_NOT_COUNTED = "pytorch_exercises_not_counted"
_RECORD = "pytorch_exercises"


_SEEDS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""The seed of each run of `nbgrader autograde` in this process."""


class GradingFailed(Exception):
    """The grader failed, not the student. nbgrader stops this submission with an error and keeps no score of it."""


class SubmissionFailed(Exception):
    """The submission can't be graded as it is; the text says what to do."""


class MendMarks(NbGraderPreprocessor):  # type: ignore[misc]
    """Keep one student's broken marks on cells from stopping the whole batch. Comes after DeduplicateIds.

    nbgrader stops the whole run, not only the submission, if a mark has a wrong schema version or none. DeduplicateIds itself makes such
    marks: it leaves an empty one on every copy of a cell but the last. A mark that this notebook was not handed out with, because its cell
    was pasted from elsewhere or the mark was renamed, makes nbgrader refuse the submission.
    """

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Remove marks that are not this notebook's, so that their cells are the student's own, and upgrade old ones.

        Raises: SubmissionFailed if a mark is of a newer nbgrader.
        """
        known = _handed_out(resources["nbgrader"])
        for cell in nb.cells:
            mark = cell.metadata.get("nbgrader")
            if mark is None:
                continue
            if not isinstance(mark, dict) or mark.get("grade_id") not in known:
                del cell.metadata["nbgrader"]
            elif mark.get("schema_version") != SCHEMA_VERSION:
                MetadataValidator().upgrade_cell_metadata(cell)
            if cell.metadata.get("nbgrader", {}).get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
                name = clean(str(mark.get("grade_id")), 80)
                raise SubmissionFailed(
                    f"nbgrader's mark on the cell {name!r} was changed: put `schema_version` back to {SCHEMA_VERSION} in its metadata"
                )
        return nb, resources


def _handed_out(ours: Any) -> set[str]:
    """The names of the marked cells that a notebook was handed out with, by the gradebook."""
    with Gradebook(ours["db_url"]) as gradebook:
        return {cell.name for cell in gradebook.find_notebook(ours["notebook"], ours["assignment"]).source_cells}


class Disarm(NbGraderPreprocessor):  # type: ignore[misc]
    """Keep students' text from running scripts in the browser of whoever reads it. Comes after OverwriteCells.

    The form grader and the feedback pages show HTML in Markdown and raw cells unchanged, with its scripts. A blank makes tags, entities and
    links that run code harmless. Cells that the student has not changed stay as they are. Outputs, which only `--no-execute` keeps, are
    reduced to their plain text.
    """

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Insert the blanks."""
        if cell.cell_type != "code" and not _as_handed_out(cell):
            cell.source = _ACTIVE.sub(r"\g<0> ", cell.source)
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data = {kind: data for kind, data in output.data.items() if kind == "text/plain"}
        return cell, resources


_ACTIVE = re.compile(r"<(?=[a-z/!?])|&(?=#?\w+;)|script(?=\\*:)", re.IGNORECASE)


def _as_handed_out(cell: Any) -> bool:
    """Whether a cell is nbgrader's and unchanged: its text has the checksum that OverwriteCells has restored."""
    mark = cell.metadata.get("nbgrader", {})
    return bool(mark.get("grade_id") and mark.get("checksum")) and mark["checksum"] == compute_checksum(cell)


class GradeInWorkers(NbGraderPreprocessor):  # type: ignore[misc]
    """Grade a submitted notebook with its module's hidden suite, and write the results into the graded cells."""

    course = Unicode("", help="The folder with course.toml, solutions/ and tests/hidden/.").tag(config=True)
    data = Unicode("", help="Another folder that holds MNIST/raw, as for `grader grade --data`.").tag(config=True)
    seed = Integer(None, allow_none=True, help="The seed of the inputs. None draws a new seed for every run.").tag(config=True)
    jobs = Integer(
        max(1, min(4, (os.cpu_count() or 1) - 1)), min=1, help="How many grading processes run at once. nbgrader itself needs a core too."
    ).tag(config=True)
    allow_unconfined = Bool(False, help="Grade even if this machine can't confine students' code.").tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Grade the notebook. Raises: GradingFailed, on which nbgrader skips this submission and goes on with the next."""
        name, student = resources["nbgrader"]["notebook"], resources["nbgrader"]["student"]
        try:
            course = Course.read(Path(self.course).resolve())
            course = course.with_data(Path(self.data)) if self.data else course
            module = course.module(name)
            layers = choose_layers(allow_unconfined=self.allow_unconfined)
            graders = graders_for(course, layers, self.jobs)
            source = notebook_source(nbformat.writes(nb).encode(), f"{name}.ipynb")
            unit = self._unit(student, module, source)
            graders.begin(unit)
            self._begin(graders, course, resources["nbgrader"])
            seed, entry = graders.grade(unit)
            self._begin(graders, course, resources["nbgrader"])
        except ManifestError as error:
            raise GradingFailed(f"{error}. c.GradeInWorkers.course in nbgrader_config.py names the course.") from None
        except (NotConfined, Refused) as error:
            raise GradingFailed(str(error)) from None
        fault = _fault(entry.result)
        if fault:
            raise GradingFailed(f"The grader itself failed, and gives no score: {fault}")
        self.log.info("Graded %s of %s with seed %s: %s of %s points", name, student, seed, entry.result.score, entry.result.max_score)
        nb.metadata[_RECORD] = {"seed": seed, "confined": isolation(layers).confined}
        _restore(nb, course, name)
        detail = detail_on(course.feedback, date.today())
        tasks = {graded_id(task.name): limited(task, detail) for task in entry.result.tasks}
        for cell in nb.cells:
            mark = cell.metadata.get("nbgrader", {})
            if mark.get("grade") and mark.get("grade_id") in tasks:
                cell.execution_count, cell.outputs = None, score_outputs(tasks[mark["grade_id"]])
        resources["nbgrader"][_NOT_COUNTED] = [cell for cell, task in tasks.items() if not task.max_score]
        return nb, resources

    def _unit(self, student: str, module: Module, source: Source) -> Unit:
        return Unit(student, module, source, self._seed())

    def _seed(self) -> int:
        """The seed, which is the same for all notebooks of a run. That is fair, and reference answers are computed only once."""
        if self.seed is not None:
            return int(self.seed)
        return _SEEDS.setdefault(self._converter, draw_seed()) if self._converter else draw_seed()

    @property
    def _converter(self) -> Any:
        """The loop of nbgrader over the submissions, or None if the preprocessor is used by itself."""
        return getattr(self.parent, "parent", None)

    def _begin(self, graders: Graders, course: Course, current: Any) -> None:
        """Start to grade the submissions that nbgrader will convert next, while it writes the results of this one.

        Errors are ignored here, because they come up again when it is the submission's turn.
        """
        converter = self._converter
        pending = [Path(path) for _, paths in sorted(getattr(converter, "assignments", {}).items()) for path in sorted(paths)]
        behind = itertools.dropwhile(lambda path: (path.parts[-3], path.stem) != (current["student"], current["notebook"]), pending)
        for path in itertools.islice(behind, 1, 1 + graders.jobs):
            done = path.parents[3] / converter.coursedir.autograded_directory / Path(*path.parts[-3:])
            with contextlib.suppress(OSError, ManifestError):
                if (converter.force or not done.exists()) and path.stat().st_size <= MAX_NOTEBOOK_BYTES:
                    source = notebook_source(path.read_bytes(), path.name)
                    graders.begin(self._unit(path.parts[-3], course.module(path.stem), source))


class AskForManualGrades(NbGraderPreprocessor):  # type: ignore[misc]
    """Leave tasks to the instructor that could not be tested on this machine. Comes after SaveAutoGrades.

    In nbgrader a cell's points are fixed, so a task that is not counted must neither earn nor lose them.
    """

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Remove the automatic score of such cells, and mark them for manual grading."""
        ours = resources["nbgrader"]
        if not ours.get(_NOT_COUNTED):
            return nb, resources
        with Gradebook(ours["db_url"]) as gradebook:
            for cell in ours[_NOT_COUNTED]:
                grade = gradebook.find_grade(cell, ours["notebook"], ours["assignment"], ours["student"])
                grade.auto_score, grade.needs_manual_grade = None, True
            gradebook.db.commit()
        return nb, resources


def _fault(result: ModuleResult) -> str:
    messages = [test.message for task in result.tasks for test in task.tests if test.status is Status.GRADER_ERROR]
    return messages[0] if messages else ""


def _restore(nb: Any, course: Course, module: str) -> None:
    """Restore graded cells that were deleted or have lost their marks, so that nbgrader can record their points."""
    for task in course.module(module).tasks:
        due = graded_cell(task)
        found = [cell for cell in nb.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == graded_id(task.name)]
        if not found:
            due.id = v4.new_code_cell().id  # one of the student's cells may already have this id
            due.source = f"# This cell was missing from the submission. It was put back by the grader.\n{due.source}"
            nb.cells.append(due)


def score_outputs(task: TaskResult) -> list[Any]:
    """The outputs of a graded cell: the explanation for the student, and then the score, which nbgrader reads."""
    word = words(task.status)
    colour = "32" if task.status is Status.PASSED else "31"  # what these codes of terminals stand for, pages show in colour
    explained = clean(explain(task), _LONGEST_EXPLANATION)
    said = v4.new_output("stream", name="stdout", text=f"\x1b[1;{colour}m{word.upper()}\x1b[0m\n{explained}\n")
    score = min(task.score, task.max_score)  # nbgrader refuses a score above the points, and rounding up can lead there
    return [said, v4.new_output("execute_result", data={"text/plain": repr(score)}, metadata={}, execution_count=None)]
