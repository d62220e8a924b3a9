"""Grading ahead: what comes next is begun, used if it is asked for, and dropped if not."""

import os
import threading
from typing import ClassVar

import pytest

from grader.base.outcome import Status
from grader.course.manifest import Course
from grader.exports.nbgrader import ahead
from grader.exports.nbgrader.ahead import Graders, graders_for
from grader.runner.jobs import Refused
from grader.runner.results import ModuleTiming, TestResult, score_module
from grader.runner.store import Entry
from grader.runner.units import Unit
from grader.submissions.sources import Source
from tests.grader.conftest import mini_course


class Fake:
    """In the place of a job process: answers with the unit, and counts."""

    made: ClassVar[list["Fake"]] = []
    gate = threading.Event()
    lacking = False

    def __init__(self, *_: object) -> None:
        self.units: list[Unit] = []
        self.references: list[Unit] = []
        self.closed = False
        Fake.made.append(self)

    def grade(self, unit: Unit) -> Unit | Entry:
        """Wait for the gate where the source says so. References pass unless told otherwise."""
        if unit.sample:
            self.references.append(unit)
            status = Status.ERROR if Fake.lacking else Status.PASSED
            tests = {task.name: [TestResult("t", status, 1.0, "No module named 'x'")] for task in unit.module.tasks}
            return Entry(score_module(unit.module, tests), ModuleTiming(0, 0, 0, {}))
        if "wait" in unit.source.text:
            assert Fake.gate.wait(20)
        if "refuse" in unit.source.text:
            raise Refused("not here")
        self.units.append(unit)
        return unit

    def close(self) -> None:
        """Note it."""
        self.closed = True


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """No processes."""
    monkeypatch.setattr(ahead, "WarmJob", Fake)
    Fake.made, Fake.gate, Fake.lacking = [], threading.Event(), False


@pytest.fixture
def unit(course):
    """`unit(student, text, seed)`."""
    return lambda student, text="x", seed=1: Unit(student, course.modules[0], Source(text), seed)


def test_what_was_begun_is_used_with_its_own_seed(course, unit):
    """The unit that is asked for is graded once, whatever seed the question has."""
    graders = Graders(course, None, 1)
    graders.begin(unit("alice", seed=7))
    graders.begin(unit("alice", seed=8))
    assert graders.grade(unit("alice", seed=9)) == (7, unit("alice", seed=7))
    assert graders.grade(unit("alice", seed=9)) == (9, unit("alice", seed=9))
    assert len(Fake.made[0].units) == 2


def test_what_was_begun_from_another_source_is_dropped(course, unit):
    """A notebook that nbgrader has changed on the way is graded as it is now, and there is room again for another to be begun."""
    graders = Graders(course, None, 1)
    graders.begin(unit("alice", "old", 7))
    assert graders.grade(unit("alice", "new", 9)) == (9, unit("alice", "new", 9))
    graders.begin(unit("bob", seed=3))
    assert graders.grade(unit("bob", seed=4))[0] == 3


def test_no_more_is_begun_than_there_are_processes(course, unit):
    """With two of them, a third unit waits until it is asked for; all are graded."""
    graders = Graders(course, None, 2)
    for student in ("alice", "bob", "carol"):
        graders.begin(unit(student, "wait", 7))
    assert graders.busy
    Fake.gate.set()
    assert [graders.grade(unit(student, "wait", 9))[0] for student in ("alice", "bob", "carol")] == [7, 7, 9]
    assert sum(len(job.units) for job in Fake.made) == 3


def test_a_refusal_is_met_when_it_is_its_turn(course, unit):
    """What goes wrong ahead is raised where the unit is asked for, and the process can be used again."""
    graders = Graders(course, None, 1)
    graders.begin(unit("alice", "refuse"))
    assert graders.grade(unit("bob"))[1] == unit("bob")
    with pytest.raises(Refused):
        graders.grade(unit("alice", "refuse"))


def test_a_reference_has_to_pass_before_its_module_is_graded(course, unit):
    """It is tried once for a module; while it does not pass, nobody is graded."""
    graders = Graders(course, None, 2)
    Fake.lacking = True
    with pytest.raises(Refused, match=r"the reference of mini does not pass .* No module named 'x'"):
        graders.grade(unit("alice"))
    Fake.lacking = False
    for student in ("alice", "bob", "carol"):
        graders.grade(unit(student))
    assert sum(len(job.references) for job in Fake.made) == 2
    assert sum(len(job.units) for job in Fake.made) == 3


def test_processes_are_kept_until_the_course_changes(tmp_path):
    """The same course has the same processes; a changed suite, reference or manifest gets new ones, and the old ones end."""
    course = Course.read(mini_course(tmp_path))
    first = graders_for(course, None, 1)
    assert graders_for(Course.read(tmp_path), None, 1) is first
    suite = course.hidden_suite("mini")
    os.utime(suite, ns=(1, 1))
    assert graders_for(course, None, 1) is not first
    assert [job.closed for job in Fake.made] == [True, False]
    ahead._kept.close()
    assert [job.closed for job in Fake.made] == [True, True]
