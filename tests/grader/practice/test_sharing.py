"""Several programs practise in one folder: a notebook, a terminal, the tutor. None loses what another one noted."""

import pytest

from grader.course.manifest import Course
from grader.practice.session import Session, find_places
from tests.grader.conftest import DOUBLE, mini_course


def test_marks_and_hints_of_others_stay(tmp_path):
    """A session that was opened earlier changes what the file holds now; it sees the others' marks when it looks anew."""
    course = Course.read(mini_course(tmp_path))
    double, counter = find_places(course, [])
    with Session(course) as early, Session(course) as late:
        course.stub("mini").write_text(f"import torch\n\n\n{DOUBLE}")
        run, _ = late.run(double)
        assert run.passed
        early.hints(counter, 1)
        early.go_to(counter)
        late.refresh()
        for session in (early, late):
            assert session.mark(double) == "passed"
            assert len(session.hints(counter)) == 1
            assert session.current() == counter


def test_an_interrupted_run_gives_its_answer_to_nobody(tmp_path, monkeypatch):
    """As when somebody presses stop in a notebook: the next run is answered for itself."""
    course = Course.read(mini_course(tmp_path))
    double, counter = find_places(course, [])
    with Session(course) as session:
        assert session.run(double)[0].untouched  # so that the process is ready
        with monkeypatch.context() as patch:

            def interrupt(_seconds: float) -> None:
                raise KeyboardInterrupt

            patch.setattr(session.process, "_next", interrupt)
            with pytest.raises(KeyboardInterrupt):
                session.run(double)
        assert session.run(counter)[0].task == "Counter"
