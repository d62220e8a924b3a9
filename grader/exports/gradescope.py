"""Gradescope: the zip of an autograder, made from the course, and a submission's results, made from results.json."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

import msgspec

from grader.base.text import clean, one_line
from grader.course.manifest import MANIFEST, Course, ManifestError, Module
from grader.exports.totals import Part, total
from grader.reports.feedback import explain
from grader.runner.results import Results, SubmissionResult, rounded

__all__ = ["EXECUTABLE", "Settings", "Visibility", "autograder_files", "gradescope_results", "refusal", "zipped"]

Visibility = Literal["visible", "hidden", "after_due_date", "after_published"]
EXECUTABLE = ("setup.sh", "run_autograder")

_PRACTICE = "Practice mode: student code was not confined here, so this score can't be trusted."
_MOST_OUTPUT = 4_000


class Settings(msgspec.Struct, frozen=True):
    """What the instructor chose when the zip was made."""

    modules: list[str]
    visibility: Visibility
    practice: bool


def gradescope_results(submission: SubmissionResult, results: Results, visibility: Visibility) -> dict[str, Any]:
    """The content of Gradescope's results.json for one submission, with one test for each task. Output of student code is not shown.

    Points have two decimals, and the tests' points add up to the score. Raises: ResultsError.
    """
    whole = total(submission)
    notes = [f"{rounded(submission.score)} of {rounded(submission.max_score)} points."]
    if not results.isolation.confined:
        notes.append(_PRACTICE)
    return {
        "score": whole.score / 100,
        "output": "\n\n".join(notes),
        "output_format": "text",
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "extra_data": {"schema": results.schema, "grader": results.environment.grader, "confined": results.isolation.confined},
        "tests": [_test(number, part, visibility) for number, part in enumerate(whole.parts, 1)],
    }


def _test(number: int, part: Part, visibility: Visibility) -> dict[str, Any]:
    passed = part.task.status in ("passed", "skipped")
    return {
        "number": str(number),
        "name": f"{one_line(part.module)}: {one_line(part.task.name)}",
        "name_format": "text",
        "score": part.score / 100,
        "max_score": part.max_score / 100,
        "status": "passed" if passed else "failed",
        "output": clean(explain(part.task), _MOST_OUTPUT),
        "output_format": "text",
        "tags": [one_line(part.module)],
        "visibility": visibility,
    }


def refusal(sentence: str) -> dict[str, Any]:
    """The results for a submission that can't be graded because of its files: no points, and the reason for the student."""
    return {
        "score": 0,
        "output": clean(sentence, _MOST_OUTPUT),
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [],
    }


# ---- the zip


def autograder_files(course: Course, modules: Sequence[Module], settings: Settings) -> dict[str, bytes]:
    """The zip's files by path: the grader, and the course's files for grading these modules, with the hidden suites.

    Raises: ManifestError if a file of the course is missing.
    """
    try:
        return dict(_files(course, modules)) | {"settings.json": msgspec.json.encode(settings) + b"\n"}
    except OSError as error:
        raise ManifestError(f"{error.filename} can't be read: {error.strerror}: `grader check` says what a course needs") from None


def _files(course: Course, modules: Sequence[Module]) -> Iterator[tuple[str, bytes]]:
    package = resources.files("grader")
    for name in EXECUTABLE:
        yield name, package.joinpath("exports", "templates", "gradescope", name).read_bytes()
    yield "pyproject.toml", _pyproject(course).encode()
    yield from _package("grader", package)
    paths = [course.root / MANIFEST, course.root / "constraints.txt", course.hidden_suite("x").with_name("conftest.py")]
    for module in modules:
        paths += [course.hidden_suite(module.name), course.solution(module.name), course.misconceptions(module.name)]
    paths += sorted(course.data.glob("MNIST/raw/*-ubyte"))
    for path in paths:
        yield f"course/{path.relative_to(course.root).as_posix()}", path.read_bytes()


def _package(name: str, folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for child in sorted(folder.iterdir(), key=lambda child: child.name):
        if child.is_dir() and child.name != "__pycache__":
            yield from _package(f"{name}/{child.name}", child)
        elif child.is_file() and not child.name.endswith(".pyc"):
            yield f"{name}/{child.name}", child.read_bytes()


def _pyproject(course: Course) -> str:
    """A pyproject.toml for the grader's package alone. Version and dependencies are those of this installation."""
    about = metadata.metadata("pytorch-exercises")
    needs = [need for need in metadata.requires("pytorch-exercises") or [] if not re.search(r"\bextra\s*==", need)]
    needs += course.unpinned(needs)
    version, python = about["Version"], about["Requires-Python"]
    return _PYPROJECT.format(version=json.dumps(version), python=json.dumps(python), needs=json.dumps(needs))  # JSON's strings are TOML's


_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "pytorch-exercises"
version = {version}
requires-python = {python}
dependencies = {needs}

[project.scripts]
grader = "grader.cli.app:app"

[tool.hatch.build.targets.wheel]
packages = ["grader"]
"""


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files, with the same bytes each time. The two scripts are executable."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name)  # dated 1980, so that the bytes are the same in every run
            member.external_attr = (0o100755 if name in EXECUTABLE else 0o100644) << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, files[name])
    return buffer.getvalue()
