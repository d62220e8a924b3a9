"""Runs that are ended from outside, and what a session keeps of them."""

import subprocess
import sys
import threading

import pytest

from grader.course.manifest import Course
from grader.practice.outcome import PublicTest, Request, TaskRun, TestStatus
from grader.practice.process_handle import Cancelled, PracticeProcess
from grader.practice.progress import read_progress
from grader.practice.session import Session
from tests.grader.conftest import RIGHT, mini_course

LOOP = "def double(x):\n    while True:\n        pass\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with the course in miniature."""
    root = mini_course(tmp_path)
    (root / "tests" / "public" / "conftest.py").unlink(missing_ok=True)  # the plugin has its option
    return root


def test_cancel_ends_an_endless_loop_and_the_next_run_works(folder):
    """Whatever the process is at: the run raises Cancelled, and a new process answers."""
    module = folder / "exercises" / "mini.py"
    with PracticeProcess(folder) as process:
        module.write_text(RIGHT)
        assert process.run(Request("mini", "double")).passed
        assert process.ready
        module.write_text(f"{LOOP}\n\nopen('begun', 'w').close()\n")
        ended: list[BaseException] = []

        def run() -> None:
            try:
                process.run(Request("mini", "double"))
            except Cancelled as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while not (folder / "begun").exists():
            thread.join(0.01)
        process.cancel()
        thread.join(60)
        assert ended
        module.write_text(RIGHT)
        assert process.run(Request("mini", "double")).passed


def test_an_endless_loop_costs_its_time_once(folder):
    """After a test that ran out of time the task's other tests are not begun."""
    (folder / "exercises" / "mini.py").write_text(LOOP)
    suite = folder / "tests" / "public" / "test_mini.py"
    suite.write_text(f"{suite.read_text()}\n\ndef test_double_again():\n    assert double(torch.tensor([3.0])).item() == 6\n")
    program = (
        "import sys, pathlib\n"
        "import grader.practice.pytest_plugin as plugin\n"
        "limit = plugin.time_limit\n"
        "plugin.time_limit = lambda seconds: limit(0.2)\n"
        "from grader.practice.outcome import Request\n"
        "from grader.practice.process import run_task\n"
        "print([test.status.value for test in run_task(pathlib.Path(sys.argv[1]), Request('mini', 'double')).tests])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "['timed_out']"


class _Process:
    """Stands for the practice process: changes the file while it runs, or is cancelled."""

    def __init__(self, during):
        self._during = during

    def run(self, request):
        """Do it, and pass."""
        self._during()
        return TaskRun(request.module, request.task, [PublicTest("t", "", TestStatus.PASSED)])

    def close(self):
        """Nothing is open."""


def test_a_run_of_code_that_was_changed_meanwhile_is_not_marked(folder):
    """It is not known which code passed. Without a change it is marked."""
    path = folder / "exercises" / "mini.py"
    with Session(Course.read(folder)) as session:
        place = session.places[0]
        session.process = _Process(lambda: path.write_text("def double(x):\n    return 1\n"))
        session.run(place)
        assert session.mark(place) == "open"
        session.process = _Process(lambda: None)
        session.run(place)
        assert session.mark(place) == "passed"


def test_a_cancelled_run_takes_no_mark_away(folder):
    """A task that passed still does, if its next run was ended by going on."""

    def cancelled():
        raise Cancelled

    with Session(Course.read(folder)) as session:
        place = session.places[0]
        session.process = _Process(lambda: None)
        session.run(place)
        session.process = _Process(cancelled)
        with pytest.raises(Cancelled):
            session.run(place)
        assert session.mark(place) == "passed"


def test_two_sessions_lose_nothing_of_each_other(folder):
    """As `grader watch` and `grader run` beside it: what one writes, the other keeps."""
    with Session(Course.read(folder)) as first, Session(Course.read(folder)) as second:
        first.process = second.process = _Process(lambda: None)
        first.run(first.places[0])
        second.run(second.places[1])
        second.hints(second.places[0], 2)
        first.go_to(first.places[1])
    progress = read_progress(Course.read(folder))
    assert set(progress.passed) == {"double", "Counter"}
    assert progress.hints == {"double": 2}
    assert progress.current == "Counter"
