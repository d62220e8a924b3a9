"""`pytest tests/hidden --submission PATH`, with pytest's own options."""

import os
import subprocess
import sys

import pytest

from tests.grader.conftest import COUNTER, RIGHT, mini_course


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A course, with a right and a wrong submission in it."""
    root = mini_course(tmp_path_factory.mktemp("plugin"))
    for name, text in {"right": RIGHT, "wrong": f"def double(x):\n    print('noise')\n    return x * 3\n\n\n{COUNTER}"}.items():
        (root / name).mkdir()
        (root / name / "mini.py").write_text(text)
    return root


def run(root, *arguments: str):
    """Run pytest in the course."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "160"}, check=False)


def test_a_right_submission_passes(root):
    """A folder, the reference, and a single file, with -k and -q; the seed is in the header."""
    done = run(root, "tests/hidden", "--submission", "right", "--seed", "3")
    assert (done.returncode, "5 passed" in done.stdout, "seed: 3" in done.stdout) == (0, True, True), done.stdout
    done = run(root, "tests/hidden", "--submission", "solutions/mini.py", "-q", "-k", "doubles")
    assert (done.returncode, "1 passed, 4 deselected" in done.stdout) == (0, True), done.stdout


def test_a_test_is_found_by_its_tasks_name(root):
    """`-k TASK` selects the task's tests, whatever they are called."""
    done = run(root, "tests/hidden", "--submission", "right", "-q", "-k", "double and refuses")
    assert (done.returncode, "1 passed, 4 deselected" in done.stdout) == (0, True), done.stdout


def test_a_failure_shows_the_students_sentence_only(root):
    """Neither the hidden test's code nor its values are printed; -x stops at the first."""
    done = run(root, "tests/hidden", "--submission", "wrong", "-x")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "failed: values: 5 of 5 are wrong" in done.stdout
    assert "Checked: Every element is doubled." in done.stdout
    for secret in ("draw.normal", "agree(", "lambda", "Traceback", "grader/grading/plugin.py"):
        assert secret not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "add --submission PATH"),
        (("--submission", "nowhere"), "does not exist: give a folder"),
        (("--submission", "tests/public"), "holds no mini.py"),
        (("--submission", "course.toml"), "expected a file called mini.py"),
    ],
)
def test_usage_errors_are_sentences(root, arguments, sentence):
    """Status 4, and what to do."""
    done = run(root, "tests/hidden", *arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_test_without_a_task_is_an_error(tmp_path):
    """It would count for nobody."""
    root = mini_course(tmp_path)
    suite = root / "tests/hidden/test_mini.py"
    suite.write_text(suite.read_text() + "\n\ndef test_nobodys():\n    pass\n")
    done = run(root, "tests/hidden", "--submission", "solutions")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert 'test_nobodys has no task: decorate it with @task("name")' in done.stderr


def test_a_test_that_the_engine_refuses_fails_here_too(tmp_path):
    """Its author is told so wherever it runs."""
    root = mini_course(tmp_path)
    suite = root / "tests/hidden/test_mini.py"
    suite.write_text(suite.read_text().replace("def test_doubles(agree, draw)", "def test_doubles(agree, draw, tmp_path)"))
    done = run(root, "tests/hidden", "--submission", "solutions", "-k", "doubles")
    assert done.returncode == 1
    assert "grader_error: test_doubles asks for the fixture 'tmp_path'" in done.stdout
