"""Gradescope: results and visibilities, the zip, and `run_autograder` run as Gradescope does, in another folder than /autograder."""

import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from grader.base.outcome import Status
from grader.course.manifest import Course, ManifestError
from grader.exports.gradescope import Settings, Visibility, autograder_files, gradescope_results, zipped
from grader.sandbox.worker.confine import supported
from tests.grader.conftest import COUNTER, RIGHT, grader, mini_course
from tests.grader.exports.samples import HOSTILE, hostile_submission, outcome, results, submission

KEYS = {"number", "name", "name_format", "score", "max_score", "status", "output", "output_format", "tags", "visibility"}


@pytest.mark.parametrize("visibility", get_args(Visibility))
def test_visibilities(visibility):
    """Of the whole and of each test as chosen; what a student's code printed, hidden."""
    plain = gradescope_results(hostile_submission(), results(hostile_submission()), visibility)
    assert (plain["visibility"], plain["stdout_visibility"]) == (visibility, "hidden")
    assert {test["visibility"] for test in plain["tests"]} == {visibility}


def test_hostile_strings_stay_strings():
    """Every key is ours, every text is shown as text, without controls."""
    plain = json.loads(
        msgspec.json.encode(gradescope_results(hostile_submission(HOSTILE), results(hostile_submission(HOSTILE)), "visible"))
    )
    assert set(plain) == {"score", "output", "output_format", "visibility", "stdout_visibility", "extra_data", "tests"}
    assert len(plain["tests"]) == 3
    for test in plain["tests"]:
        assert set(test) == KEYS
        assert (test["output_format"], test["name_format"], test["name"].isprintable()) == ("text", "text", True)
        assert test["output"].replace("\n", "").isprintable()
        assert test["status"] in ("passed", "failed")


def test_what_was_not_counted_says_so():
    """A skipped task is worth nothing and no failure; practice mode is named."""
    graded = submission({"a": (2.0, [outcome(Status.SKIPPED, message="needs CUDA")]), "b": (1.0, [outcome(Status.PASSED)])})
    whole = results(graded)
    first = gradescope_results(graded, whole, "visible")["tests"][0]
    assert (first["score"], first["max_score"], first["status"], first["output"]) == (0, 0, "passed", "a: not counted. needs CUDA")
    practice = msgspec.structs.replace(whole, isolation=msgspec.structs.replace(whole.isolation, confined=False))
    assert "can't be trusted" in gradescope_results(graded, practice, "visible")["output"]


def test_the_command(tmp_path):
    """A folder a submission; a wrong visibility is bad input."""
    path = tmp_path / "results.json"
    path.write_bytes(msgspec.json.encode(results(submission({"a": (2.0, [outcome(Status.PASSED)])}), hostile_submission("../m"))))
    done = grader("export", "gradescope", "results.json", "--visibility", "hidden", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = sorted((tmp_path / "gradescope").glob("*/results.json"))
    assert first.parent.name.startswith("_") and second.parent.name == "anna"
    assert json.loads(second.read_text())["visibility"] == "hidden"
    assert grader("export", "gradescope", "results.json", "--visibility", "never", cwd=tmp_path).returncode == 2


def test_what_makes_scores_doubtful_is_said(tmp_path):
    """Practice mode and the grader's own faults, at every export, on one line each."""
    whole = results(hostile_submission("::error::mallory"))
    path = tmp_path / "results.json"
    path.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(whole, isolation=msgspec.structs.replace(whole.isolation, confined=False)))
    )
    said = grader("export", "gradescope", "results.json", cwd=tmp_path).stderr.splitlines()
    assert said[0].startswith("Practice mode")
    assert said[1] == ": :error::mallory: the grader itself failed on double. These points are missing: grade again."


# ---- the zip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The course in miniature."""
    root = mini_course(tmp_path_factory.mktemp("course"))
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    return root


@pytest.fixture
def autograder(root, tmp_path):
    """A folder as Gradescope makes /autograder from the zip."""
    out = tmp_path / "autograder.zip"
    done = grader("export", "gradescope-autograder", "--out", out, "--visibility", "visible", cwd=root)
    assert done.returncode == 0, done.stderr
    unpack(out.read_bytes(), tmp_path / "autograder")
    return tmp_path / "autograder"


def unpack(data: bytes, folder: Path) -> None:
    """As Gradescope: the zip's content in source/, an empty submission/, run_autograder at the top."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder / "source")
        modes = {member.filename: member.external_attr >> 16 & 0o777 for member in archive.infolist()}
    assert (modes["setup.sh"], modes["run_autograder"], modes["settings.json"]) == (0o755, 0o755, 0o644)
    (folder / "submission").mkdir()
    (folder / "source" / "run_autograder").rename(folder / "run_autograder")
    (folder / "run_autograder").chmod(0o755)


def run(autograder: Path, **environment: str) -> tuple[int, dict | None, str]:
    """Run it. Returns: the exit status, results.json if there is one, the log."""
    places = {"AUTOGRADER_ROOT": str(autograder), "AUTOGRADER_PYTHON": sys.executable}
    done = subprocess.run(
        [str(autograder / "run_autograder")], cwd=autograder, env={**os.environ, **places, **environment}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    path = autograder / "results" / "results.json"
    return done.returncode, json.loads(path.read_text()) if path.exists() else None, done.stdout + done.stderr


@pytest.mark.skipif(bool(supported()), reason="needs confinement")
def test_students_are_told_what_the_course_says(autograder):
    """The course's setting goes along in the zip, and holds there."""
    manifest = autograder / "source" / "course" / "course.toml"
    manifest.write_text(manifest.read_text().replace("[[modules]]", '[feedback]\ndetail = "points"\n\n[[modules]]', 1))
    (autograder / "submission" / "mini.py").write_text("def double(x):\n    return 3 * x\n")
    status, plain, log = run(autograder)
    assert status == 0, log
    assert plain["tests"][0]["output"] == "double: 0.00 of 2 points, failed; 0 of 3 tests passed."


@pytest.mark.skipif(bool(supported()), reason="needs confinement")
def test_run_autograder(autograder):
    """A wrapped, partly right submission: the hidden suite's score, a test a task."""
    (autograder / "submission" / "my-work").mkdir()
    (autograder / "submission" / "my-work" / "mini.py").write_text(f"def double(x):\n    return 2 * x\n\n\n{COUNTER}")
    status, plain, log = run(autograder)
    assert status == 0, log
    assert (plain["score"], plain["visibility"]) == (4.5, "visible")
    assert [(test["name"], test["score"], test["status"]) for test in plain["tests"]] == [
        ("mini: double", 1.5, "failed"),
        ("mini: Counter", 3.0, "passed"),
    ]
    assert "Forgets to refuse nothing." in plain["tests"][0]["output"]


@pytest.mark.skipif(bool(supported()), reason="needs confinement")
def test_a_hostile_submission(autograder):
    """It prints forged results, writes results.json, reads the suite, brings settings of its own, and exits: it earns nothing."""
    code = f"""
import os
print('{{"score": 100}}')
for path in ("results/results.json", "source/settings.json", "run_autograder"):
    try:
        os.makedirs({str(autograder / "results")!r}, exist_ok=True)
        open({str(autograder)!r} + "/" + path, "w").write('{{"score": 100}}')
    except OSError:
        pass
try:
    print(open({str(autograder / "source/course/solutions/mini.py")!r}).read())
except OSError:
    print("refused")
os._exit(0)
"""
    for name, text in {
        "mini.py": code,
        "conftest.py": "raise SystemExit(0)\n",
        "settings.json": "{}",
        "course.toml": "",
        "grader.py": "1 / 0",
    }.items():
        (autograder / "submission" / name).write_text(text)
    status, plain, log = run(autograder)
    assert (status, plain["score"], len(plain["tests"])) == (0, 0, 2)
    assert "_TWO" not in log + json.dumps(plain)
    assert json.loads((autograder / "source/settings.json").read_text())["modules"] == ["mini"]


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_what_cant_be_graded_is_zero_with_a_reason(autograder, names):
    """Nothing, or something else: the student is told."""
    for name in names:
        (autograder / "submission" / name).parent.mkdir(exist_ok=True)
        (autograder / "submission" / name).write_text(RIGHT)
    status, plain, _ = run(autograder)
    assert (status, plain["score"], plain["tests"]) == (0, 0, [])
    assert plain["output"].startswith("Nothing was graded: ")


def test_two_files_of_a_module_are_one_students(autograder):
    """Whatever is uploaded is one student's. Two different answers earn nothing, and the student reads why."""
    for name, text in {"a/mini.py": RIGHT, "b/mini.py": RIGHT.replace("x + x", "x")}.items():
        (autograder / "submission" / name).parent.mkdir(exist_ok=True)
        (autograder / "submission" / name).write_text(text)
    status, plain, _ = run(autograder)
    assert (status, plain["score"]) == (0, 0)
    assert "a/mini.py and b/mini.py both hold the module mini, with different answers: keep one." in json.dumps(plain)


def test_a_fault_of_the_graders_gives_no_score(autograder):
    """A broken suite or course ends without results.json, so that Gradescope reports the autograder and not the student."""
    (autograder / "submission" / "mini.py").write_text(RIGHT)
    (autograder / "source/course/tests/hidden/test_mini.py").write_text("def broken(:\n")
    status, plain, log = run(autograder)
    assert (status != 0, plain) == (True, None)
    assert "No score was given" in log
    (autograder / "source/course/course.toml").write_text("")
    status, plain, _ = run(autograder)
    assert (status != 0, plain) == (True, None)


def test_without_confinement_there_is_no_score_unless_chosen(autograder, monkeypatch, tmp_path):
    """A container that can't confine: refused with a sentence, or practice that says so."""
    (autograder / "submission" / "mini.py").write_text(RIGHT)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import platform\nplatform.machine = lambda: 'unknown'\n")
    status, plain, log = run(autograder, PYTHONPATH=str(tmp_path / "site"))
    assert (status != 0, plain) == (True, None)
    assert "No score was given" in log
    settings_file = autograder / "source/settings.json"
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "practice": True}))
    status, plain, log = run(autograder, PYTHONPATH=str(tmp_path / "site"))
    assert (status, plain["score"]) == (0, 5), log
    assert "Practice mode" in plain["output"]


def test_the_zip_of_the_real_course():
    """The same bytes each time; of the modules that were chosen, and what grading takes; a project file that pip understands."""
    course = Course.read(Path(__file__).parents[3])
    modules = (course.module("cnn"),)
    files = autograder_files(course, modules, Settings(["cnn"], "visible", False))
    assert zipped(files) == zipped(dict(reversed(files.items())))
    assert {name for name in files if name.startswith(("course/tests", "course/solutions"))} == {
        "course/tests/hidden/conftest.py",
        "course/tests/hidden/test_cnn.py",
        "course/tests/misconceptions/cnn.py",
        "course/solutions/cnn.py",
    }
    project = tomllib.loads(files["pyproject.toml"].decode())["project"]
    assert any(need.startswith("torch>") for need in project["dependencies"])
    assert not any("extra" in need for need in project["dependencies"])
    assert "grader/sandbox/worker/confine.py" in files
    assert not [name for name in files if name.endswith(".pyc")]


@pytest.mark.parametrize("script", ["setup.sh", "run_autograder"])
def test_the_scripts_are_bash(script, root):
    """Bash reads them."""
    text = autograder_files(Course.read(root), Course.read(root).modules, Settings([], "visible", False))[script]
    assert subprocess.run(["bash", "-n"], input=text, timeout=20, check=False).returncode == 0
    assert text.startswith(b"#!/usr/bin/env bash\n")


def test_a_course_without_its_files_is_refused(tmp_path):
    """With the name of what is missing."""
    root = mini_course(tmp_path)
    with pytest.raises(ManifestError, match=r"constraints\.txt can't be read"):
        autograder_files(Course.read(root), Course.read(root).modules, Settings([], "visible", False))
