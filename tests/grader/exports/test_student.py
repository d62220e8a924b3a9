"""`grader export student`: the repository is complete, works at once, and gives nothing away."""

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import grader as package
from grader.course.manifest import Course, Overrides
from grader.exports.classroom50 import autograder_files
from grader.exports.files import write_files
from grader.exports.leaks import find_leaks, secrets_of
from grader.exports.student import CannotExport, export_student
from grader.exports.wheel import build_wheel
from tests.grader.conftest import RIGHT, grader, mini_course

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path):
    """The course in miniature, with pinned versions."""
    root = mini_course(tmp_path / "course")
    (root / "constraints.txt").write_text("# together\ntorch==2.13.0\ntorchvision==0.28.0  # belongs to it\n")
    return root


def run_pytest(folder: Path, *arguments: str) -> str:
    """The last line of pytest in a student's repository."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False).stdout.strip().splitlines()[-1]


def files_of(folder: Path) -> list[str]:
    """The files of a folder, .git aside."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if path.parts[0] != ".git" and "__pycache__" not in path.parts)


def test_what_is_in_it(root, tmp_path):
    """Stubs, public tests, hints, pinned versions, the tool, the workflow and what they need; no other file."""
    done = grader("export", "student", tmp_path / "out", cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    wheel, content = build_wheel()
    assert files_of(tmp_path / "out") == [
        ".devcontainer/devcontainer.json",
        ".github/workflows/classroom.yml",
        ".gitignore",
        "README.md",
        "course.toml",
        "exercises/mini.py",
        "notebooks/mini.ipynb",
        "pyproject.toml",
        "requirements.txt",
        "tests/public/test_mini.py",
        f"tools/{wheel}",
        "tools/stubs/mini.py",
    ]
    requirements = (tmp_path / "out" / "requirements.txt").read_text().splitlines()
    assert requirements[1:] == ["torch==2.13.0", "torchvision==0.28.0", f"./tools/{wheel}"]
    assert (tmp_path / "out" / "tools" / wheel).read_bytes() == content
    json.loads((tmp_path / "out" / ".devcontainer" / "devcontainer.json").read_text())


def test_the_manifest_for_students(root, tmp_path):
    """It can be read as a course, has all hints and bans, and no limits, which only grading uses."""
    assert grader("export", "student", tmp_path / "out", cwd=root).returncode == 0
    theirs, ours = Course.read(tmp_path / "out"), Course.read(root)
    for mine, task in zip(ours.modules[0].tasks, theirs.modules[0].tasks, strict=True):
        assert (task.name, task.points, task.minutes, task.hints) == (mine.name, mine.points, mine.minutes, mine.hints)
        assert (task.bans, task.limits) == (mine.bans, Overrides())
    done = grader("hint", "double", "--more", cwd=tmp_path / "out")
    assert done.stdout == "\n".join(ours.modules[0].tasks[0].hints[:2]) + "\n"


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    """Every file is one of this package, with the digest that RECORD gives; the same package gives the same bytes."""
    name, data = build_wheel()
    assert build_wheel() == (name, data)
    (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / name) as archive:
        names = archive.namelist()
        record = next(name for name in names if name.endswith("/RECORD"))
        for line in archive.read(record).decode().splitlines()[:-1]:
            file, digest, size = line.rsplit(",", 2)
            content = archive.read(file)
            assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert int(size) == len(content)
        for file in names:
            if ".dist-info/" not in file:
                assert (Path(package.__file__).parents[1] / file).read_bytes() == archive.read(file)
    assert "grader/practice/process.py" in names
    assert "grader/exports/templates/student/README.md.jinja" in names
    assert not [file for file in names if "__pycache__" in file]


def test_a_wheel_that_leaks_is_found(root, tmp_path):
    """The leak check looks into wheels."""
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("grader/extra.py", "# return torch.mul(x, _TWO)\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "x.whl").rename(tmp_path / "out" / "x.whl")
    assert [str(leak.file) for leak in find_leaks(tmp_path / "out", Course.read(root))] == ["x.whl/grader/extra.py"]


def test_released_solutions_are_in_it(root, tmp_path):
    """Where a task is released, its reference is there, and no other task's; `grader solution` shows it once the task is passed."""
    manifest = root / "course.toml"
    manifest.write_text(manifest.read_text().replace('name = "double"\n', 'name = "double"\nreleased = true\n'))
    out = tmp_path / "out"
    assert grader("export", "student", out, cwd=root).returncode == 0
    text = (out / "solutions" / "mini.py").read_text()
    assert "return torch.mul(x, _TWO)" in text
    assert "class Counter" not in text
    early = grader("solution", "double", cwd=out)
    assert (early.returncode, early.stdout) == (2, "")
    assert "Solve double first" in early.stderr
    assert "return torch.mul(x, _TWO)" in grader("solution", "double", "--anyway", cwd=out).stdout
    other = grader("solution", "Counter", "--anyway", cwd=out)
    assert (other.returncode, other.stdout) == (2, "")
    assert "is not released" in other.stderr


def test_a_student_finds_the_way(root, tmp_path):
    """next, run, reset and progress work in the exported repository."""
    out = tmp_path / "out"
    assert grader("export", "student", out, cwd=root).returncode == 0
    assert grader("next", cwd=out).stdout.startswith("double in exercises/mini.py")
    assert grader("run", cwd=out).stdout == "double: not written yet\n"
    (out / "exercises" / "mini.py").write_text(RIGHT)
    assert grader("run", "mini", cwd=out).returncode == 0
    assert grader("next", cwd=out).stdout == "All tasks pass their public tests.\n"
    done = grader("reset", "double", cwd=out)
    kept = out / done.stdout.rpartition(" ")[2].strip().removesuffix(".")
    assert kept.read_text() == RIGHT
    assert "NotImplementedError" in (out / "exercises" / "mini.py").read_text()
    assert json.loads(grader("progress", "--json", cwd=out).stdout)[0]["passed"] == 1


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
    assert re.fullmatch(r"\d+ passed(, \d+ (skipped|warnings?))* in .*", last := run_pytest(tmp_path / "all")), last
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
