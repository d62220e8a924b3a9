"""Write a whole course for nbgrader: the notebooks in source/ with the files that students need, and nbgrader_config.py.

Existing files are overwritten only with `force`. A configuration that names our preprocessors is kept even then.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import grader
from grader.base.files import write_atomically
from grader.course.manifest import Course, Module
from grader.exports.nbgrader.notebooks import make_notebook

__all__ = ["ExportError", "Written", "needs_nbgrader", "write_course"]

_CONFIG = "nbgrader_config.py"
_PREPROCESSORS = "grader.exports.nbgrader.preprocessor"


class ExportError(Exception):
    """The course can't be written; the text says why and what to do."""


def needs_nbgrader() -> None:
    """Check that nbgrader is installed. Raises: ExportError."""
    missing = [name for name in ("nbgrader", "nbformat") if find_spec(name) is None]
    if missing:
        raise ExportError(f'{" and ".join(missing)} is not installed: pip install "pytorch-exercises[nbgrader]"')


class Written:
    """What `write_course` did: the files that it wrote, and a sentence for each file that it left unchanged."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.kept: list[str] = []


def write_course(course: Course, modules: tuple[Module, ...], folder: Path, *, located: str | None = None, force: bool = False) -> Written:
    """Write a course for nbgrader. `located` is the path of our course in the configuration (default: relative to the folder).

    Raises: ExportError, before anything is written.
    """
    needs_nbgrader()
    folder = folder.resolve()
    files: dict[Path, bytes] = {}
    for module in modules:
        try:
            files |= {folder / "source" / module.name / name: data for name, data in _assignment(course, module).items()}
        except (OSError, SyntaxError, ValueError) as error:
            raise ExportError(f"{module.name}: {error}") from None
    written = Written()
    config = folder / _CONFIG
    if config.exists() and _PREPROCESSORS in config.read_text(errors="replace"):
        written.kept.append(f"{_CONFIG} exists already and names our preprocessors: it was not changed")
    else:
        files[config] = _config(course, located or os.path.relpath(course.root, folder)).encode()
    changed = {path: data for path, data in files.items() if not path.is_file() or path.read_bytes() != data}
    present = [str(path.relative_to(folder)) for path in changed if path.exists()]
    if present and not force:
        more = f" and {len(present) - 3} more" if len(present) > 3 else ""
        raise ExportError(
            f"{', '.join(present[:3])}{more} in {folder} differ from what would be written: "
            "move them away, choose another folder, or add --force to overwrite them"
        )
    for path, data in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        written.files.append(path)
    return written


def _assignment(course: Course, module: Module) -> dict[str, bytes]:
    """The files of one assignment, by their path in its folder."""
    import nbformat

    suite = course.public_suite(module.name).read_bytes()
    files = {
        f"{module.name}.ipynb": (nbformat.writes(make_notebook(course, module)) + "\n").encode(),
        "public_tests.py": Path(__file__).with_name("public_tests.py").read_bytes(),
        f"tests/public/test_{module.name}.py": suite,
    }
    if b"torchvision" in suite + course.solution(module.name).read_bytes():
        files["torchvision_compat.py"] = Path(grader.__file__).with_name("base").joinpath("torchvision_compat.py").read_bytes()
    if b"MNIST" in suite:  # the suite looks for them two folders up
        files |= {f"data/MNIST/raw/{path.name}": path.read_bytes() for path in sorted((course.data / "MNIST" / "raw").glob("*-ubyte"))}
    return files


def _config(course: Course, located: str) -> str:
    return f'''\
"""The configuration of nbgrader for the course {course.title!r}. Written by `grader export nbgrader`. You may change it."""

from pathlib import Path

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = {_identify(course.title)!r}
c.CourseDirectory.root = str(Path(__file__).resolve().parent)

# nbgrader's list with two of our preprocessors. Without MendMarks, one copied cell stops the whole batch. Without Disarm, a student's
# Markdown could run scripts in the form grader.
c.Autograde.sanitize_preprocessors = [
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    "{_PREPROCESSORS}.MendMarks",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "{_PREPROCESSORS}.Disarm",
    "nbgrader.preprocessors.CheckCellMetadata",
]
# It also reads a notebook with a byte order mark, and names in the log what nbgrader passes over.
c.Autograde.exporter_class = "grader.exports.nbgrader.submitted.SubmittedNotebooks"
# The pages of feedback name the tasks, where nbgrader says "Test cell" for each.
c.GenerateFeedback.exporter_class = "grader.exports.nbgrader.feedback_pages.FeedbackByTask"
# GradeInWorkers takes the place of nbgrader's Execute: hidden tests grade submissions in confined worker processes, without a kernel.
c.Autograde.autograde_preprocessors = [
    "{_PREPROCESSORS}.GradeInWorkers",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "{_PREPROCESSORS}.AskForManualGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
# The folder with course.toml, solutions/ and the hidden tests. A relative path starts from this file's folder.
c.GradeInWorkers.course = str(Path(__file__).resolve().parent / {located!r})
# Every run of autograde draws new inputs, and keeps its seed in the autograded notebook. Put a seed here to get the same inputs again.
c.GradeInWorkers.seed = None

# What students see in place of a solution.
c.ClearSolutions.code_stub = {{"python": "raise NotImplementedError()"}}
'''


def _identify(title: str) -> str:
    """The course's title as an id that can also name a folder."""
    return "_".join("".join(char if char.isascii() and char.isalnum() else " " for char in title).split()).lower() or "course"
