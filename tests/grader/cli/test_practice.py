"""The students' commands, called in this process: which task a name means, and what is said."""

import shutil

import pytest
from typer.testing import CliRunner

from grader.cli.app import app
from grader.course.manifest import Course
from grader.practice.session import Session
from tests.grader.conftest import RIGHT, mini_course


@pytest.fixture
def root(tmp_path):
    """A folder with the course in miniature."""
    return mini_course(tmp_path)


@pytest.fixture
def grader(root):
    """`grader(arguments…)`: the exit status and what the command printed."""

    def run(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--course", str(root)], env={"COLUMNS": "200"})
        return done.exit_code, " ".join(done.output.split())

    return run


NAMES = [("double.py", "double"), ("mini.py", "mini"), ("exercises/mini.py", "mini"), ("double", "double")]


@pytest.mark.parametrize(("name", "meant"), NAMES)
def test_reset_takes_names_as_run_does(grader, root, name, meant):
    """What is said is done: with the end of a file, too, the stub is back."""
    path = root / "exercises" / "mini.py"
    stubs = path.read_text()
    path.write_text(RIGHT)
    status, said = grader("reset", name)
    assert (status, said.split(" Your")[0]) == (0, f"{meant} is as it was at first.")
    assert path.read_text().count("raise NotImplementedError") == (1 if meant == "double" else stubs.count("raise NotImplementedError"))


def test_hints_by_a_files_name_and_for_the_task_at_hand(grader, root):
    """Without a name the task at hand is meant, as for `grader run`."""
    assert "What is twice a number?" in grader("hint", "double.py")[1]
    path = root / "course.toml"
    path.write_text(path.read_text().replace("minutes = 1\n", 'minutes = 1\nshow = { kind = "lines", call = "double(torch.ones(2))" }\n'))
    with Session(Course.read(root)) as session:
        session.go_to(session.places[1])
    assert "Who remembers? One more: grader hint Counter --more" in grader("hint")[1]
    assert grader("show")[1].startswith("Counter has no picture. These have: double.")
    assert grader("hint", "mini.py") == (2, "mini is a module: name one task.")


@pytest.mark.parametrize(("name", "meant"), [("DOUBLE", "double"), ("counter", "Counter"), ("MINI", "mini"), ("doubel", "double")])
def test_a_name_in_other_capitals_is_suggested(grader, name, meant):
    """Before those that are merely close."""
    assert grader("run", name) == (2, f"There is no task or module '{name}'. Do you mean {meant}?")


def test_only_authors_are_told_how_to_release(grader, root):
    """A student's folder has no hidden tests."""
    assert "Authors: `released = true`" in grader("solution", "double")[1]
    (root / "tests" / "hidden" / "test_mini.py").unlink()
    assert grader("solution", "double") == (2, "The solution of double is not released.")


def test_a_manifest_with_a_byte_order_mark(grader, root):
    """Some editors of Windows write one."""
    path = root / "course.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert grader("hint", "double")[0] == 0
    path.write_bytes(path.read_bytes().replace(b"points = 2", b"points = 'x'"))
    assert "task 'double'" in grader("hint", "double")[1]


def test_a_file_that_is_missing(grader, root):
    """What comes next says how to make it, and reset makes it."""
    shutil.rmtree(root / "exercises")
    assert "exercises/mini.py is missing: `grader reset mini` makes it, with the stubs." in grader("next")[1]
    assert grader("reset", "mini") == (0, "mini is as it was at first.")
    assert "is missing" not in grader("next")[1]


def test_signs_that_a_terminal_lacks_stay_apart():
    """What passed and what failed can be told from each other in ASCII, too."""
    assert "✓ a, ✗ b … é".encode("ascii", "grader.plain") == b"ok a, x b ... ?"
