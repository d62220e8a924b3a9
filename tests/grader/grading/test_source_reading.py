"""Sources that are hard to parse cost their own module an error, and nobody else anything."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grader.base.outcome import Status
from grader.grading import source_reading
from grader.grading.engine import Engine
from grader.grading.source_reading import NotReadable, ReadingLimits, read_uses
from grader.runner.job import grade
from grader.runner.units import Unit
from grader.submissions.sources import MAX_SOURCE_BYTES, Source
from tests.grader.conftest import RIGHT, forget_suites

ROOM = MAX_SOURCE_BYTES - len(RIGHT) - 10
FIELDS = f'x = f"{"{a}" * (ROOM // 3 - 5)}"'
BANS = {"double": ("torch.softmax",)}

SLOW = ReadingLimits(cpu_seconds=0.02)
TOO_LONG, TOO_COMPLEX, DOES_NOT_RUN = "takes too long to read", "nested too deep, or takes too much memory", "does not run: SyntaxError"
HOSTILE = {
    "fields of an f-string": (FIELDS, SLOW, TOO_LONG),
    "f-strings in f-strings": ("x = 1\n" + """f'''{f"{f'{1}'}"}'''\n""" * (ROOM // 21), SLOW, TOO_LONG),
    "lambdas in lambdas": (f"x = {'lambda:' * (ROOM // 7)}1", ReadingLimits(), TOO_COMPLEX),
    "minus": (f"x = {'-' * (ROOM - 5)}1", ReadingLimits(), TOO_COMPLEX),
    "not": (f"x = {'not ' * (ROOM // 4 - 5)}1", ReadingLimits(), TOO_COMPLEX),
    "a long sum": (f"x = 1{' + 1' * (ROOM // 4 - 5)}", ReadingLimits(), TOO_COMPLEX),
    "a short sum": (f"x = 1{' + 1' * 15_000}", ReadingLimits(), TOO_COMPLEX),
    "a short chain of minus": (f"x = {'-' * 50_000}1", ReadingLimits(), TOO_COMPLEX),
    "deep parentheses": ("(" * (ROOM // 2) + ")" * (ROOM // 2), ReadingLimits(), DOES_NOT_RUN),
    "a long number": (f"x = {'9' * (ROOM - 5)}", ReadingLimits(), DOES_NOT_RUN),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_source_costs_its_module_an_error(course, zygote, monkeypatch, what):
    """All tasks of the module are an error with a sentence, and the next student's are graded in the same process."""
    text, limits, said = HOSTILE[what]
    monkeypatch.setattr("grader.grading.sides._READING", limits)
    engine, module = Engine(course, zygote), course.modules[0]
    try:
        hostile, honest = (grade(Unit(id, module, Source(source), 1), engine) for id, source in [("a", f"{text}\n{RIGHT}"), ("b", RIGHT)])
    finally:
        forget_suites()
    tests = [test for task in hostile.result.tasks for test in task.tests]
    assert {test.status for test in tests} == {Status.ERROR}
    assert all(said in test.message for test in tests), tests[0].message
    assert (hostile.result.score, honest.result.score) == (0, 5)


@pytest.mark.parametrize("limits", [ReadingLimits(), ReadingLimits(short=0)], ids=["here", "apart"])
def test_a_long_source_is_read_like_a_short_one(limits):
    """In a process of its own, the same uses are found, in notebooks too, and none where there are none."""
    source = "import torch\n\ndef double(x):\n    return torch.softmax(x, 0)\n"
    assert read_uses(source, BANS, (), limits) == {"double": "torch.softmax, line 4"}
    assert read_uses(source, BANS, (1, 3), limits) == {"double": "torch.softmax, line 2 of its cell"}
    assert read_uses(RIGHT, BANS, (), limits) == read_uses("def double(:", BANS, (), limits) == {}


def test_ordinary_code_of_the_largest_size_is_read():
    """A quarter of a megabyte of ordinary code is within the limits, and no process is left of it."""
    before = _children()
    source = (RIGHT * (MAX_SOURCE_BYTES // len(RIGHT))) + "\ndef triple(x):\n    return torch.softmax(x, 0)\n"
    assert read_uses(source, {"triple": ("torch.softmax",)}, (), ReadingLimits())["triple"].startswith("torch.softmax, line ")
    assert _children() == before


LARGE = {"names": "a;" * (ROOM // 2), "lambdas beside one another": f"x = [{'lambda:0,' * (ROOM // 9)}]"}


@pytest.mark.parametrize("what", LARGE)
def test_a_source_that_takes_much_memory_is_an_error(tmp_path, what):
    """In a fresh process: one that has run for long has memory to give that counts for nobody."""
    (tmp_path / "source.txt").write_text(LARGE[what])
    program = f"""
import sys
from grader.grading.source_reading import NotReadable, ReadingLimits, read_uses
source = open({str(tmp_path / "source.txt")!r}).read()
try:
    print(read_uses(source, {BANS!r}, (), ReadingLimits(memory_mib=16)))
except NotReadable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert TOO_COMPLEX in done.stdout


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_a_reading_process_that_is_killed_is_not_the_students_fault(monkeypatch):
    """Whoever kills it, such as a machine without memory, is no reason for a zero."""
    monkeypatch.setattr(source_reading, "_limit", lambda limits: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="status -9"):
        read_uses(RIGHT, BANS, (), ReadingLimits(short=0))


def test_an_interrupt_leaves_no_reading_process(monkeypatch):
    """The backstop of a hidden test's time, or Ctrl-C, ends the reading process too."""
    before = _children()
    monkeypatch.setattr(source_reading, "_answer", lambda *_: time.sleep(60))
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            read_uses(RIGHT, BANS, (), ReadingLimits(short=0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert _children() == before


def test_the_sentence_goes_on_from_the_files_name():
    """It says what to do."""
    with pytest.raises(NotReadable, match="shorter and simpler"):
        read_uses(FIELDS, BANS, (), SLOW)
