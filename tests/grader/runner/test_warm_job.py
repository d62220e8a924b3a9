"""A grading process that is kept for one unit after another."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grader.base.outcome import Status
from grader.course.manifest import Course
from grader.runner.jobs import Died, JobServer, Refused, WarmJob, grade_units
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.submissions.sources import Source
from tests.grader import warm
from tests.grader.conftest import HIDDEN, RIGHT, mini_course


@pytest.fixture
def server(course):
    """A server of jobs for the course in miniature."""
    with JobServer(course, machine_layers()) as server:
        yield server


def children(process: int) -> list[int]:
    """The processes that a process has started and not reaped."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ours() -> list[int]:
    """Those of this process that are servers of jobs, without the one that commands of tests share."""
    servers = [pid for pid in children(os.getpid()) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [pid for pid in servers if pid != warm.process()]


def test_one_process_grades_many_and_is_replaced_when_it_has_died(course, server):
    """The same process grades on; one that was killed meanwhile is replaced, unnoticed; closing ends it."""
    unit = Unit("someone", course.modules[0], Source(RIGHT), 1)
    with WarmJob(server) as job:
        assert job.grade(unit).result.score == 5
        before = children(server._process.pid)
        assert job.grade(unit).result.score == 5
        assert children(server._process.pid) == before
        zygote, first = before
        os.kill(first, signal.SIGKILL)
        assert job._job.connection.poll(5)
        assert job.grade(unit).result.score == 5
        assert len(children(server._process.pid)) == 2
        assert first not in children(server._process.pid)
    assert children(server._process.pid) == [zygote]


def test_a_process_with_a_fault_is_not_used_again(course, server):
    """A suite that can't be run is a fault of the grader's, and the next unit gets a new process."""
    module = course.modules[0]
    unit = Unit("someone", module, Source(RIGHT), 1)
    with WarmJob(server) as job:
        broken = Unit("someone", type(module)("absent", module.title, module.story, module.tasks), Source(RIGHT), 1)
        assert {task.status for task in job.grade(broken).result.tasks} == {Status.GRADER_ERROR}
        assert len(children(server._process.pid)) == 1
        assert job.grade(unit).result.score == 5


def test_a_server_that_has_died_is_replaced(course, server):
    """The next unit is graded by a new one."""
    unit = Unit("someone", course.modules[0], Source(RIGHT), 1)
    with WarmJob(server) as job:
        assert job.grade(unit).result.score == 5
        (process,) = children(server._process.pid)[1:]
        os.kill(server._process.pid, signal.SIGKILL)
        os.kill(process, signal.SIGKILL)
        server._process.join()
        assert job._job.connection.poll(5)
        assert job.grade(unit).result.score == 5


def test_a_job_that_dies_takes_its_workers_along(course, server):
    """Nobody would hold the limits of a worker whose job is gone: the zygote ends it, and serves other jobs on."""
    endless = RIGHT.replace("return x + x", "exec('while True: pass')")
    job, other = server.start(), server.start()
    job.send(Unit("someone", course.modules[0], Source(endless), 1))
    zygote = _until(lambda: children(server._process.pid)[:1])[0]
    (worker,) = _until(lambda: children(zygote))
    first = _until(lambda: children(server._process.pid)[1:2])[0]
    os.kill(first, signal.SIGKILL)
    with pytest.raises(Died):
        job.receive()
    _until(lambda: worker not in children(zygote))
    other.send(Unit("someone", course.modules[0], Source(RIGHT), 1))
    assert other.receive().result.score == 5
    other.stop()


def test_a_worker_that_is_killed_is_nobodys_wrong_answer(course, server):
    """The question is put again to another worker, and the result is as if nothing had been."""
    slow = RIGHT.replace("return x + x", "__import__('time').sleep(0.7)\n    return x + x")
    job = server.start()
    job.send(Unit("someone", course.modules[0], Source(RIGHT), 1))
    assert job.receive().result.score == 5
    zygote = children(server._process.pid)[0]
    job.send(Unit("someone", course.modules[0], Source(slow), 1))
    (worker,) = _until(lambda: children(zygote))
    time.sleep(0.3)
    os.kill(worker, signal.SIGKILL)
    result = job.receive().result
    job.stop()
    assert {test.status for task in result.tasks for test in task.tests} == {Status.PASSED}


def _until(look):
    """What `look` gives as soon as it is something; fails after a while."""
    until = time.monotonic() + 120  # a machine that runs other tests beside this one is slow
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.005)
    raise AssertionError("it did not come about")


def test_two_jobs_share_what_is_loaded(course):
    """Two jobs and one zygote, all of one server; nothing is left of them."""
    seen = set()

    def look(unit, entry):
        (server,) = ours()
        seen.add(len(children(server)))
        assert entry.result.score == 5

    grade_units(
        [Unit(f"student {number}", course.modules[0], Source(RIGHT), 1) for number in range(6)],
        course,
        jobs=2,
        layers=machine_layers(),
        on_done=look,
    )
    assert max(seen) == 3
    assert ours() == []


def test_a_refusal_reaches_who_asked(course, monkeypatch):
    """Where a protection does not hold, no unit is graded."""
    layers = machine_layers()
    if layers is None:
        pytest.skip("nothing confines here")
    weak = type(layers)(layers.landlock_abi, seccomp=False)
    with pytest.raises(Refused, match="student code could"):
        grade_units([Unit("someone", course.modules[0], Source(RIGHT), 1)], course, jobs=1, layers=weak, on_done=lambda unit, entry: None)


def test_an_interrupt_leaves_no_process(course, server, monkeypatch):
    """Its answer would be taken for that of the next unit."""
    job = WarmJob(server)
    monkeypatch.setattr("grader.runner.jobs.Job.receive", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        job.grade(Unit("someone", course.modules[0], Source(RIGHT), 1))
    assert len(children(server._process.pid)) == 1


def test_a_zygote_that_dies_costs_no_unit(course, server):
    """Server, zygote and jobs are started again, and the unit with them."""
    unit = Unit("someone", course.modules[0], Source(RIGHT), 1)
    with WarmJob(server) as job:
        assert job.grade(unit).result.score == 5
        for _ in range(2):
            zygote, _ = children(server._process.pid)
            os.kill(zygote, signal.SIGKILL)
            assert job.grade(unit).result.score == 5


@pytest.mark.parametrize("which", ["server", "zygote"])
def test_what_dies_in_a_run_costs_no_unit(course, which):
    """Whichever process dies in the middle of a run, every unit is graded once."""
    done = []

    def look(unit, entry):
        done.append((unit.submission, entry.result.score))
        if len(done) == 2:
            (server,) = ours()
            os.kill(server if which == "server" else children(server)[0], signal.SIGKILL)

    units = [Unit(f"student {number}", course.modules[0], Source(RIGHT), 1) for number in range(6)]
    grade_units(units, course, jobs=2, layers=machine_layers(), on_done=look)
    assert sorted(done) == [(unit.submission, 5) for unit in units]
    assert ours() == []


def test_a_unit_that_ends_the_server_each_time_is_given_up(course, monkeypatch):
    """Otherwise it would be tried for ever."""
    tries = []
    monkeypatch.setattr("grader.runner.jobs.JobServer.end", lambda self, process, number: tries.append(number))
    monkeypatch.setattr("grader.runner.jobs.Job.send", lambda self, unit: (setattr(self, "unit", unit), self.connection.close()))
    monkeypatch.setattr("grader.runner.jobs.wait", list)
    done, units = [], [Unit("someone", course.modules[0], Source(RIGHT), 1)]
    grade_units(units, course, jobs=1, layers=machine_layers(), on_done=lambda *seen: done.append(seen))
    ((_, entry),) = done
    assert {task.status for task in entry.result.tasks} == {Status.GRADER_ERROR}
    assert len(set(tries)) == 3


def test_a_killed_command_leaves_nothing(course, tmp_path):
    """Server, zygote, jobs and their folder go, too."""
    program = f"""
import sys
from pathlib import Path
from grader.course.manifest import Course
from grader.runner.jobs import JobServer
from grader.sandbox.supervisor.isolation import machine_layers
server = JobServer(Course.read(Path({str(course.root)!r})), machine_layers())
job = server.start()
print(server._process.pid, flush=True)
sys.stdin.read()
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as command:
        server = int(command.stdout.readline())
        _until(lambda: len(children(server)) == 2)
        command.kill()
    _until(lambda: list(tmp_path.iterdir()) == [])
    _until(lambda: not Path(f"/proc/{server}").exists())


GREEDY = '''

@task("double")
def test_counts(student, draw):
    """There are not many."""
    x = draw.integers(1, 9, 5)
    assert len(student(lambda m: m.double(x)).bincount()) < 99, "too many"
'''
KILLING = '''

@task("double")
def test_kills(student, draw):
    """A value of 666 ends the process."""
    x = draw.integers(1, 9, 5)
    if (student(lambda m: m.double(x)) == 666).any():
        os.kill(os.getpid(), 9)
'''
HUGE = RIGHT.replace("return x + x", "return (x + x) if x.is_floating_point() else torch.full_like(x, VALUE)")


def run_on(root: Path, suite: str, text: str) -> dict[str, list]:
    """Grade a wrong submission between two right ones with this hidden suite; the tasks' statuses and scores."""
    (root / "tests/hidden/test_mini.py").write_text(f"{HIDDEN}{suite}".replace("import pytest", "import os\n\nimport pytest"))
    course = Course.read(root)
    texts = {"anna": RIGHT, "ben": text, "carl": RIGHT}
    units = [Unit(name, course.modules[0], Source(one), 1) for name, one in texts.items()]
    seen = {}
    grade_units(units, course, jobs=1, layers=machine_layers(), on_done=lambda unit, entry: seen.update({unit.submission: entry.result}))
    return {
        name: [(task.status, task.score, [test.message for test in task.tests]) for task in result.tasks] for name, result in seen.items()
    }


def test_a_value_may_not_take_the_trusted_process_memory(tmp_path):
    """One index of 2 ** 30 makes bincount ask for 8 GiB. That is the test's failure, and costs nobody else anything."""
    seen = run_on(mini_course(tmp_path), GREEDY, HUGE.replace("VALUE", "2**30"))
    double, counter = seen["ben"]
    assert double[0] == Status.FAILED
    assert "can't be checked (RuntimeError" in " ".join(double[2])
    assert counter[:2] == (Status.PASSED, 3)
    assert [task[:2] for task in seen["anna"] + seen["carl"]] == 2 * [(Status.PASSED, 2), (Status.PASSED, 3)]


def test_a_job_that_dies_over_an_answer_costs_that_task(tmp_path):
    """It is the student's error; the other task keeps its points, and so do the neighbours."""
    seen = run_on(mini_course(tmp_path), KILLING, HUGE.replace("VALUE", "666"))
    double, counter = seen["ben"]
    assert double[:2] == (Status.ERROR, 0)
    (message,) = double[2]
    assert message.startswith("what came back can't be judged: the grading process ended with status -9 over it. Return values of")
    assert counter[:2] == (Status.PASSED, 3)
    assert [task[:2] for task in seen["anna"] + seen["carl"]] == 2 * [(Status.PASSED, 2), (Status.PASSED, 3)]


def test_a_job_that_dies_over_the_reference_too_is_the_graders_fault(tmp_path):
    """Then a test is to blame."""
    seen = run_on(mini_course(tmp_path), KILLING.replace("== 666", "!= 666"), RIGHT)
    for tasks in seen.values():
        assert [task[0] for task in tasks] == [Status.GRADER_ERROR, Status.PASSED]
