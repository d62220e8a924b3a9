"""A grading process that is kept for one unit after another."""

import os
import signal
from multiprocessing import active_children

import pytest

from grader.base.outcome import Status
from grader.runner.jobs import Unit, WarmJob
from grader.sandbox.supervisor.isolation import machine_layers
from grader.submissions.ingest import Source
from tests.grader.conftest import RIGHT


def test_one_process_grades_many_and_is_replaced_when_it_has_died(course):
    """The same process grades on; one that was killed meanwhile is replaced, unnoticed; closing ends it."""
    unit = Unit("someone", course.modules[0], Source(RIGHT), 1)
    before = set(active_children())
    with WarmJob(course, machine_layers()) as job:
        assert job.grade(unit).result.score == 5
        (first,) = set(active_children()) - before
        assert job.grade(unit).result.score == 5
        assert set(active_children()) - before == {first}
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        assert job.grade(unit).result.score == 5
        (second,) = set(active_children()) - before
        assert second.pid != first.pid
    assert set(active_children()) == before


def test_a_process_with_a_fault_is_not_used_again(course):
    """A suite that can't be run is a fault of the grader's, and the next unit gets a new process."""
    module = course.modules[0]
    unit = Unit("someone", module, Source(RIGHT), 1)
    before = set(active_children())
    with WarmJob(course, machine_layers()) as job:
        other = course.module("mini")
        broken = Unit("someone", type(other)("absent", other.title, other.story, other.tasks), Source(RIGHT), 1)
        assert {task.status for task in job.grade(broken).result.tasks} == {Status.GRADER_ERROR}
        assert set(active_children()) == before
        assert job.grade(unit).result.score == 5


def test_an_interrupt_leaves_no_process(course, monkeypatch):
    """Its answer would be taken for that of the next unit."""
    job = WarmJob(course, machine_layers())
    monkeypatch.setattr("grader.runner.jobs._Job.receive", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    before = set(active_children())
    with pytest.raises(KeyboardInterrupt):
        job.grade(Unit("someone", course.modules[0], Source(RIGHT), 1))
    assert set(active_children()) == before
