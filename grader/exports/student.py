"""The repository for students: stubs, public tests, hints, the tool itself and a workflow. It holds no answer that is not released."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from grader.base.text import one_line
from grader.course.manifest import MANIFEST, Course, Module
from grader.course.released import cut_to
from grader.exports.files import write_files
from grader.exports.leaks import find_leaks
from grader.exports.practice_notebooks import practice_notebook
from grader.exports.templating import fill_in
from grader.exports.wheel import build_wheel

__all__ = ["CannotExport", "export_student", "pins", "student_files"]

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
    wheel, data = build_wheel()
    values = {
        "title": course.title,
        "modules": modules,
        "pins": pins(course),
        "example": modules[0].tasks[0].name,
        "reporter": reporter,
        "wheel": wheel,
    }
    texts = {
        "README.md": "README.md",
        "requirements.txt": "requirements.txt",
        "pyproject.toml": "pyproject.toml",
        ".gitignore": "gitignore",
        ".github/workflows/classroom.yml": "classroom.yml",
        ".devcontainer/devcontainer.json": "devcontainer.json",
    }
    files = {name: fill_in(f"student/{template}.jinja", **values).encode() for name, template in texts.items()}
    files |= {MANIFEST: _manifest(course, modules), f"tools/{wheel}": data}
    return files | dict(_course_files(course, modules))


def _manifest(course: Course, modules: tuple[Module, ...]) -> bytes:
    """The course as students need it: without the limits, which only grading uses."""
    plain = msgspec.to_builtins({"title": course.title, "modules": modules})
    names = {module.name for module in modules}
    if paths := [path for path in course.paths if names.issuperset(path.modules)]:
        plain["paths"] = msgspec.to_builtins(paths)
    if course.own_packages:
        plain["environment"] = {"packages": list(course.own_packages)}
    for module in plain["modules"]:
        module["tasks"] = [{key: value for key, value in task.items() if key != "limits" and value is not None} for task in module["tasks"]]
    return msgspec.toml.encode(plain)


def _course_files(course: Course, modules: tuple[Module, ...]) -> Iterator[tuple[str, bytes]]:
    paths = []
    for module in modules:
        paths += [course.stub(module.name), course.public_suite(module.name)]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing:
        raise CannotExport(f"{missing.relative_to(course.root)} is missing: `grader check` says what a course needs")
    if any(_DIGITS in course.public_suite(module.name).read_text() for module in modules):
        paths += [course.root / "data" / "README.md", *sorted((course.root / "data" / "MNIST" / "raw").glob("*-ubyte"))]
    for path in (*paths, course.mistakes, course.pictures):
        if path.is_file():
            yield path.relative_to(course.root).as_posix(), path.read_bytes()
    for module in modules:
        yield course.untouched_stub(module.name).relative_to(course.root).as_posix(), course.stub(module.name).read_bytes()
        yield f"notebooks/{module.name}.ipynb", practice_notebook(course, module)
        if released := [task for task in module.tasks if task.released]:
            text = cut_to(course.solution(module.name).read_text(), [task.name for task in released])
            yield course.solution(module.name).relative_to(course.root).as_posix(), text.encode()


def pins(course: Course) -> list[str]:
    """The versions that scores depend on, from constraints.txt, and the course's own packages. Raises: CannotExport."""
    try:
        text = (course.root / "constraints.txt").read_text()
    except OSError:
        raise CannotExport("constraints.txt is missing: write one that pins torch, such as torch==2.13.0") from None
    found = re.findall(r"^([A-Za-z0-9._-]+==[A-Za-z0-9.+!]+)\s*(?:#.*)?$", text, re.MULTILINE)
    if not any(pin.startswith("torch==") for pin in found):
        raise CannotExport("constraints.txt does not pin torch: add a line such as torch==2.13.0")
    return [*found, *course.unpinned(found)]
