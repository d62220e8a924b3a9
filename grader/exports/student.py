"""The repository for students: stubs, public tests, first hints and a workflow. It holds nothing that gives an answer away."""

import re
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from grader.base.text import one_line
from grader.course.manifest import Course, Module
from grader.exports.files import write_files
from grader.exports.leaks import find_leaks
from grader.exports.templating import fill_in

__all__ = ["CannotExport", "export_student", "pins", "student_files"]

_SUPPORT = (
    "__init__.py",
    "base/__init__.py",
    "base/text.py",
    "base/torchvision_compat.py",
    "exports/__init__.py",
    "exports/advisory.py",
    "exports/escape.py",
    "exports/runner_json.py",
)
"""The files of this package that the public tests and the workflow need. They are shipped unchanged."""
_DIGITS = "MNIST"
"""Public tests that contain this word read the digits."""


class CannotExport(Exception):
    """The repository can't be written; the text says why and what to do."""


def export_student(
    course: Course, modules: tuple[Module, ...], folder: Path, *, update: bool = False, reporter: str | None = None
) -> list[Path]:
    """Write the repository for these modules into an empty folder or, with `update`, into the folder of an earlier export.

    Existing files in exercises/ are kept. Returns: the kept files. Raises: CannotExport.
    """
    if reporter is not None and not re.fullmatch(r"[0-9a-f]{40}", reporter):
        raise CannotExport(f"{one_line(reporter)!r} is no commit: give the 40 hexadecimal digits of one, since a tag can be moved")
    if folder.exists() and not folder.is_dir():
        raise CannotExport(f"{folder} is a file: name a folder")
    if not update and folder.is_dir() and any(child.name != ".git" for child in folder.iterdir()):
        raise CannotExport(f"{folder} is not empty: name a new folder, or add --update to renew all but its exercises")
    files = student_files(course, modules, reporter=reporter)
    with tempfile.TemporaryDirectory(prefix="grader-export-") as name:
        trial = Path(name)
        _write(files, trial)
        if leaks := find_leaks(trial, course):
            more = f" (and {len(leaks) - 1} more files)" if len(leaks) > 1 else ""
            raise CannotExport(f"nothing was written, since {leaks[0]}{more}. Take it out of the course's file, or run `grader stubs`.")
    kept = [Path(path) for path in files if path.startswith("exercises/") and (folder / path).exists()]
    _write({path: data for path, data in files.items() if Path(path) not in kept}, folder)
    return kept


def _write(files: dict[str, bytes], folder: Path) -> None:
    try:
        write_files(folder, files, replace=True)
    except OSError as error:
        raise CannotExport(f"{error.filename or folder} can't be written: {error.strerror}") from None


def student_files(course: Course, modules: tuple[Module, ...], *, reporter: str | None = None) -> dict[str, bytes]:
    """The repository's files by path. Raises: CannotExport."""
    versions = pins(course)
    texts = {
        name: fill_in(
            f"student/{template}.jinja",
            title=course.title,
            modules=modules,
            pins=versions,
            example=modules[0].tasks[0].name,
            reporter=reporter,
        )
        for name, template in (
            ("README.md", "README.md"),
            ("HINTS.md", "HINTS.md"),
            ("pyproject.toml", "pyproject.toml"),
            (".gitignore", "gitignore"),
            (".github/workflows/classroom.yml", "classroom.yml"),
        )
    }
    files = {name: text.encode() for name, text in texts.items()}
    package = resources.files("grader")
    files |= {f"tests/support/grader/{path}": package.joinpath(path).read_bytes() for path in _SUPPORT}
    return files | dict(_course_files(course, modules))


def _course_files(course: Course, modules: tuple[Module, ...]) -> Iterator[tuple[str, bytes]]:
    paths = [course.root / "tests" / "public" / "conftest.py"]
    for module in modules:
        paths += [course.stub(module.name), course.public_suite(module.name)]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing:
        raise CannotExport(f"{missing.relative_to(course.root)} is missing: `grader check` says what a course needs")
    if any(_DIGITS in course.public_suite(module.name).read_text() for module in modules):
        paths += [course.root / "data" / "README.md", *sorted((course.root / "data" / "MNIST" / "raw").glob("*-ubyte"))]
    for path in paths:
        if path.is_file():
            yield path.relative_to(course.root).as_posix(), path.read_bytes()


def pins(course: Course) -> list[str]:
    """The versions that scores depend on, from constraints.txt. Raises: CannotExport."""
    try:
        text = (course.root / "constraints.txt").read_text()
    except OSError:
        raise CannotExport("constraints.txt is missing: write one that pins torch, such as torch==2.13.0") from None
    found = re.findall(r"^([A-Za-z0-9._-]+==[A-Za-z0-9.+!]+)\s*(?:#.*)?$", text, re.MULTILINE)
    if not any(pin.startswith("torch==") for pin in found):
        raise CannotExport("constraints.txt does not pin torch: add a line such as torch==2.13.0")
    return found
