"""`grader new`: what it writes passes the gate at once, and it breaks nothing that is there."""

import pytest

from grader.course.manifest import Course
from tests.grader.conftest import grader, mini_course


def test_a_course_from_nothing(tmp_path):
    """A course, further tasks and a further module, outside of any repository: the gate is content, and students can be graded."""
    assert grader("new", "course", "mine", "--title", 'The "first" course', cwd=tmp_path).returncode == 0
    root = tmp_path / "mine"
    for arguments in (("task", "warmup", "RowMeans"), ("module", "attention"), ("task", "warmup", "third")):
        done = grader("new", *arguments, cwd=root)
        assert done.returncode == 0, done.stderr
    course = Course.read(root)
    assert [task.name for task in course.modules[0].tasks] == ["first_of_warmup", "RowMeans", "third"]
    assert course.title == 'The "first" course'
    assert "| `warmup` | Warmup: What one learns here, in one sentence. | 3 | 3 | 15 |" in (root / "README.md").read_text()
    done = grader("check", "--seeds", 1, "--jobs", 1, "--allow-unconfined", cwd=root, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 misconceptions rejected, 8 alternatives" in done.stdout
    assert grader("run", "third", cwd=root).returncode == 1
    graded = grader("grade", "solutions", "--allow-unconfined", cwd=root, timeout=300)
    assert "4.00 / 4" in graded.stdout, graded.stdout + graded.stderr
    assert grader("stubs", cwd=root, timeout=300).returncode == 0
    assert grader("stubs", "--check", cwd=root, timeout=300).returncode == 0


REFUSED = {
    "a folder that holds something": (("course", "."), "is not empty: name a new folder"),
    "a module that is there": (("module", "mini"), "there is a module mini already: `grader new task mini TASK`"),
    "a name that is none": (("module", "Tensor-Ops"), "can't name a module: use small letters"),
    "a word of Python's": (("module", "class"), "can't name a module"),
    "a task that is there": (("task", "mini", "double"), "there is a task double already"),
    "a library": (("module", "json"), "is the name of a library"),
    "a task of the same look": (("task", "mini", "Double"), "can be taken for the task double"),
    "a task that is none": (("task", "mini", "two words"), "can't name a task"),
    "a module that is not there": (("task", "other", "x"), "no module 'other'"),
    "files that nobody knows": (("module", "stray"), "exists, and belongs to no module"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(tmp_path, what):
    """A sentence, status 2, and nothing is written."""
    arguments, sentence = REFUSED[what]
    root = mini_course(tmp_path / "course")
    (root / "solutions" / "stray.py").write_text("")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    done = grader("new", *arguments, cwd=root)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_manifest_of_another_style(tmp_path):
    """Where a task can't be put in by text, the command says how the manifest must be written."""
    root = mini_course(tmp_path / "course")
    manifest = root / "course.toml"
    manifest.write_text(manifest.read_text().replace('name = "mini"\ntitle = "Miniature"', 'title = "Miniature"\nname = "mini"'))
    done = grader("new", "task", "mini", "other", cwd=root)
    assert (done.returncode, "must begin with the lines [[modules]] and name = …" in done.stderr) == (2, True), done.stderr


def test_smaller_banks_are_a_warning(tmp_path):
    """A course may ask for less, and is told what that means."""
    root = mini_course(tmp_path / "course")
    manifest = root / "course.toml"
    manifest.write_text(manifest.read_text().replace("[[modules]]", "[gate]\nmisconceptions = 1\nalternatives = 1\n\n[[modules]]", 1))
    done = grader("check", "--seeds", 1, "--jobs", 1, "--task", "Counter", "--allow-unconfined", cwd=root, timeout=300)
    assert "warning: course.toml, [gate]: misconceptions = 1 is fewer than the usual 3." in done.stderr, done.stderr
