"""The marks of a student: what counts as passed, and what a damaged file costs."""

import pytest

from grader.course.definitions import task_digest
from grader.course.manifest import Course
from grader.practice.outcome import PublicTest, TaskRun, TestStatus
from grader.practice.progress import FILE, Progress, read_progress, write_progress
from grader.practice.session import Session
from tests.grader.conftest import COUNTER, RIGHT, grader, mini_course


def test_marks(tmp_path):
    """Passed, changed since, open; a change of another task changes nothing."""
    course = Course.read(mini_course(tmp_path))
    path = course.stub("mini")
    path.write_text(RIGHT)
    with Session(course) as session:
        double, counter = session.places
        for place in (double, counter):
            assert session.mark(place) == "open"
            assert session.run(place)[0].passed
            assert session.mark(place) == "passed"
        assert session.next_open() is None
        path.write_text(RIGHT.replace("def double", "# a comment\ndef double") + "\n\n# another\n")
        assert [session.mark(place) for place in session.places] == ["passed", "passed"]
        path.write_text(RIGHT.replace("self.n += n", "self.n = self.n + n"))
        assert [session.mark(place) for place in session.places] == ["passed", "changed"]
        assert session.next_open() == counter
        path.write_text(f"import math\n{RIGHT.replace('import torch', 'import torch, os')}\n\nscale = 2\n\n\ndef helper():\n    pass\n")
        assert [session.mark(place) for place in session.places] == ["passed", "passed"]
    assert task_digest("def f(:", "double") == task_digest("def f(:", "Counter")


NEEDS = """\
from math import floor, pi

K = 1


def helper():
    return floor(K)


def double(x):
    return Counter().add(helper())


"""
CHANGES = {
    "the answer": ("Counter()", "Counter(1)"),
    "a helper": ("floor(K)", "floor(2 * K)"),
    "a constant of a helper": ("K = 1", "K = 2"),
    "what a constant holds": ("K = 1", "K = {}\nK[0] = 1"),
    "a task that it calls": ("self.n += n", "self.n = n"),
    "an attribute of that task": (COUNTER, f"{COUNTER}\n\nCounter.add = helper\n"),
    "an import that a helper uses": ("from math import floor", "from torch import floor"),
    "an import from everywhere": ("\nK = 1", "from torch import *\n\nK = 1"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_mark_goes_with_whatever_the_task_needs(what):
    """Of the file's other code, nothing counts."""
    before, after = CHANGES[what]
    source = NEEDS + COUNTER
    assert before in source
    assert task_digest(source, "double") != task_digest(source.replace(before, after), "double")
    for other in ("import os\n", "unused = 1\n", "print(double(1))\n", "def other():\n    pass\n"):
        assert task_digest(source, "double") == task_digest(source.replace("\nK", f"\n{other}\nK", 1), "double")
    assert task_digest(source, "double") == task_digest(source.replace("floor, pi", "floor, e"), "double")


def test_a_byte_order_mark_changes_nothing(tmp_path, monkeypatch):
    """With one, too, a mark depends on the task's own code, and a syntax error is one only where Python sees it."""
    course = Course.read(mini_course(tmp_path))
    path = course.stub("mini")
    path.write_text(RIGHT, "utf-8-sig")
    with Session(course) as session:
        passes = [PublicTest("test", "", TestStatus.PASSED)]
        monkeypatch.setattr(session.process, "run", lambda request: TaskRun(request.module, request.task, passes))
        for place in session.places:
            session.run(place)
        path.write_text(RIGHT.replace("self.n += n", "self.n = self.n + n"), "utf-8-sig")
        assert [session.mark(place) for place in session.places] == ["passed", "changed"]


def test_a_lost_or_damaged_file_is_no_progress(tmp_path):
    """It loses the marks and nothing else; what is written can be read, and git does not see it."""
    course = Course.read(mini_course(tmp_path))
    write_progress(course, Progress({"double": "0123"}, "double", {"double": 2}))
    assert read_progress(course) == Progress({"double": "0123"}, "double", {"double": 2})
    assert (course.root / FILE).with_name(".gitignore").read_text() == "*\n"
    for text in ("", "{", '{"passed": 3}', "[]"):
        (course.root / FILE).write_text(text)
        assert read_progress(course) == Progress()
    (course.root / FILE).unlink()
    assert read_progress(course) == Progress()


def test_a_file_that_cannot_be_written_loses_no_run(tmp_path):
    """The answer stands there, and a sentence says that the mark can't be kept."""
    root = mini_course(tmp_path)
    (root / ".grader").write_text("in the way")
    (root / "exercises" / "mini.py").write_text(RIGHT)
    done = grader("run", "double", cwd=root)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "double: all public tests passed (1 of 1)")
    assert "Your progress can't be kept in .grader/progress.json. .grader can't be read or written." in done.stderr
    assert "A file stands in the place of a folder: move that away." in done.stderr
    assert "Traceback" not in done.stderr


def test_an_answer_with_something_forbidden_is_not_passed(tmp_path):
    """Public tests that pass count for nothing where the official grading would give no points; another task's bans don't matter."""
    root = mini_course(tmp_path)
    path = root / "exercises" / "mini.py"
    path.write_text(RIGHT.replace("return x + x", "torch.nn.functional.softmax(x, 0)\n    return x + x"))
    done = grader("run", "double", "Counter", cwd=root)
    assert "double: uses torch.softmax, line 7, which this task forbids: it would get no points" in done.stdout
    assert "Counter: all public tests passed" in done.stdout
    assert (done.returncode, "1 of 2 tasks pass" in done.stdout) == (1, True)
    assert list(read_progress(Course.read(root)).passed) == ["Counter"]


def test_progress_names_what_was_changed(tmp_path):
    """A mark that no longer counts is said, with the command that gives it back. A module's file stands for the module."""
    root = mini_course(tmp_path)
    path = root / "exercises" / "mini.py"
    path.write_text(RIGHT)
    assert "2 of 2 tasks pass" in grader("run", "exercises/mini.py", cwd=root).stdout
    assert "other code" not in grader("progress", cwd=root).stdout
    path.write_text(RIGHT.replace("x + x", "2 * x").replace("self.n = start", "self.n = +start"))
    said = grader("progress", cwd=root).stdout
    assert "2 tasks have other code than when the public tests passed. To count again: grader run double Counter\n" in said
