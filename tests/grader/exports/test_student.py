"""`grader export student`: the repository is complete, works at once, and gives nothing away."""

import random
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import grader as package
from grader.course.manifest import Course
from grader.exports.classroom50 import autograder_files
from grader.exports.files import write_files
from grader.exports.leaks import find_leaks, secrets_of
from grader.exports.student import CannotExport, export_student
from tests.grader.conftest import RIGHT, grader, mini_course

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path):
    """The course in miniature, with pinned versions."""
    root = mini_course(tmp_path / "course")
    (root / "constraints.txt").write_text("# together\ntorch==2.13.0\ntorchvision==0.28.0  # belongs to it\n")
    return root


def run_pytest(folder: Path, *arguments: str) -> str:
    """The last line of pytest in a student's repository, where this package is not on the path."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False).stdout.strip().splitlines()[-1]


def files_of(folder: Path) -> list[str]:
    """The files of a folder, .git aside."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.parts[0] != ".git" and "__pycache__" not in path.parts)


def test_what_is_in_it(root, tmp_path):
    """Stubs, public tests, first hints, pinned versions, the workflow and what they need; no other file."""
    done = grader("export", "student", tmp_path / "out", cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(tmp_path / "out") == [
        ".github/workflows/classroom.yml",
        ".gitignore",
        "HINTS.md",
        "README.md",
        "exercises/mini.py",
        "pyproject.toml",
        "tests/public/conftest.py",
        "tests/public/test_mini.py",
        "tests/support/grader/__init__.py",
        "tests/support/grader/base/__init__.py",
        "tests/support/grader/base/text.py",
        "tests/support/grader/base/torchvision_compat.py",
        "tests/support/grader/exports/__init__.py",
        "tests/support/grader/exports/advisory.py",
        "tests/support/grader/exports/escape.py",
        "tests/support/grader/exports/runner_json.py",
    ]
    project = tomllib.loads((tmp_path / "out" / "pyproject.toml").read_text())["project"]
    assert project["dependencies"][:2] == ["torch==2.13.0", "torchvision==0.28.0"]
    hints = (tmp_path / "out" / "HINTS.md").read_text()
    assert "What is twice a number?" in hints
    assert "A product has two factors." not in hints
    for name in ("base/text.py", "exports/advisory.py", "exports/runner_json.py"):
        own, shipped = Path(package.__file__).parent / name, tmp_path / "out" / "tests" / "support" / "grader" / name
        assert own.read_bytes() == shipped.read_bytes()


def test_its_tests_run_at_once(root, tmp_path):
    """`pytest` needs no option: stubs fail every test, an answer passes all."""
    export_student(Course.read(root), Course.read(root).modules, tmp_path / "out")
    assert run_pytest(tmp_path / "out").startswith("2 failed in ")
    (tmp_path / "out" / "exercises" / "mini.py").write_text(RIGHT)
    assert run_pytest(tmp_path / "out").startswith("2 passed in ")


def test_the_real_course(tmp_path):
    """All modules: no leak, the references pass every public test in it, and only stubs of modules that were asked for are there."""
    course = Course.read(ROOT)
    export_student(course, course.modules, tmp_path / "all")
    for module in course.modules:
        shutil.copy(course.solution(module.name), tmp_path / "all" / "exercises")
    assert " passed in " in (last := run_pytest(tmp_path / "all")), last
    assert "failed" not in last
    export_student(course, course.select(["devices"], []), tmp_path / "one")
    assert [name for name in files_of(tmp_path / "one") if name.startswith(("exercises/", "data/"))] == ["exercises/devices.py"]


def test_secrets_of_the_real_course_are_found(tmp_path):
    """The check knows secrets of every kind and module, and finds whichever is planted, reformatted as it may be."""
    course = Course.read(ROOT)
    secrets = secrets_of(course)
    sources = {source for _, source in secrets.values()}
    for module in course.modules:
        for path in (course.solution, course.hidden_suite, course.misconceptions, course.alternatives):
            assert path(module.name).relative_to(course.root).as_posix() in sources
        for task in module.tasks:
            assert f"the later hints of {task.name}" in sources
    drawn = random.Random(1).sample(sorted(secrets), 40)
    for number, secret in enumerate(drawn):
        spread_out = secrets[secret][0].replace(" ", "\n    ")
        (tmp_path / f"{number}.md").write_text(f"Look:\n\n  # {spread_out} and so on\n")
    assert len(find_leaks(tmp_path, course)) == len(drawn)


def test_the_bundle_for_classroom50_leaks_nothing(tmp_path):
    """That bundle can be read publicly, so the same check holds for it."""
    course = Course.read(ROOT)
    write_files(tmp_path, autograder_files(course, course.modules))
    assert find_leaks(tmp_path, course) == []


LEAKS = {
    "a solution's line": "    return torch.mul(x, _TWO)\n",
    "a hidden test's docstring": "# Every element is doubled.\n",
    "a hidden test's message": "# remember: the sum is not doubled\n",
    "a known mistake's explanation": "# beware: Keeps its total in the class.\n",
    "a known mistake's line": "        Shared.total += start\n",
    "another right answer's line": "        return sum(self.numbers)\n",
    "a later hint": "# One factor is the argument.\n",
}


@pytest.mark.parametrize("what", LEAKS)
def test_a_stub_that_leaks_stops_the_export(root, tmp_path, what):
    """Each kind of secret in a stub ends the command with a sentence, and nothing is written."""
    with (root / "exercises" / "mini.py").open("a") as file:
        file.write("\n\n" + LEAKS[what])
    done = grader("export", "student", tmp_path / "out", cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing was written, since exercises/mini.py holds a line of " in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_students_have_is_never_written_over(root, tmp_path):
    """A folder with something in it is refused; --update renews all but exercises, and says so; a fresh clone counts as empty."""
    out = tmp_path / "out"
    (out / ".git").mkdir(parents=True)
    assert grader("export", "student", out, cwd=root).returncode == 0
    (out / "exercises" / "mini.py").write_text(RIGHT)
    (out / "README.md").write_text("old")
    refused = grader("export", "student", out, cwd=root)
    assert refused.returncode == 2
    assert "is not empty: name a new folder, or add --update" in refused.stderr
    assert (out / "README.md").read_text() == "old"
    renewed = grader("export", "student", out, "--update", cwd=root)
    assert (renewed.returncode, renewed.stderr) == (0, "Kept exercises/mini.py as it was.\n")
    assert (out / "exercises" / "mini.py").read_text() == RIGHT
    assert (out / "README.md").read_text() != "old"


BAD = {
    "a file in the way": (["course.toml"], "is a file: name a folder"),
    "an unknown module": (["../out", "--module", "maxi"], "no module 'maxi'"),
    "a tag for a commit": (["../out", "--reporter", "v1"], "'v1' is no commit: give the 40 hexadecimal digits"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_2_and_a_sentence(root, tmp_path, what):
    """Status 2, one sentence, nothing written."""
    arguments, sentence = BAD[what]
    done = grader("export", "student", *arguments, cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "sentence"), [(None, "constraints.txt is missing"), ("numpy==2.0\n", "does not pin torch")])
def test_versions_have_to_be_pinned(root, tmp_path, text, sentence):
    """Without a version of torch there is no repository, since scores depend on it."""
    (root / "constraints.txt").unlink()
    if text:
        (root / "constraints.txt").write_text(text)
    course = Course.read(root)
    with pytest.raises(CannotExport, match=sentence):
        export_student(course, course.modules, tmp_path / "out")
