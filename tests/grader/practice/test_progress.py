"""The marks of a student: what counts as passed, and what a damaged file costs."""

from grader.course.manifest import Course
from grader.practice.progress import FILE, Progress, read_progress, task_digest, write_progress
from grader.practice.session import Session
from tests.grader.conftest import RIGHT, grader, mini_course


def test_marks(tmp_path):
    """Passed, changed since, open; a change of another task changes nothing."""
    course = Course.read(mini_course(tmp_path))
    path, module = course.stub("mini"), course.module("mini")
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
        path.write_text(f"{RIGHT}\n\nscale = 2\n")
        assert [session.mark(place) for place in session.places] == ["changed", "changed"]
    assert task_digest("def f(:", module, "double") == task_digest("def f(:", module, "Counter")


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
    assert "Your progress can't be kept in .grader/progress.json" in done.stderr
    assert "Traceback" not in done.stderr
