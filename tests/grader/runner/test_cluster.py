"""A run on a Dask cluster: the same results, whatever becomes of its machines."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from distributed import Client, LocalCluster

from grader.base.outcome import Status
from grader.runner import station
from grader.runner.cluster import grade_on_cluster
from grader.runner.flow import run
from grader.runner.jobs import Refused
from grader.runner.references import reference_units
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import machine_layers
from grader.submissions.sources import Source, Submission
from tests.grader.conftest import COUNTER, DOUBLE, RIGHT

TEXTS = {
    "anna": RIGHT,
    "ben": COUNTER,
    "carla": RIGHT.replace("return x + x", "return x * x"),
    "dan": RIGHT.replace("return x + x", "__import__('time').sleep(0.3)\n    return x + x"),
    "eva": f"{DOUBLE}\n\nraise SystemExit\n",
    "finn": f"{RIGHT}\n# a mark that nobody else has: 5a7be1\n",
}


def submissions(copies=1):
    """Hand-ins of several students."""
    return [
        Submission(f"{name} {number}", {"mini": Source(f"{text}\n# {number}\n")})
        for number in range(copies)
        for name, text in TEXTS.items()
    ]


def graded(course, hand_ins, out, **more):
    """The results as bytes."""
    out.mkdir()
    finished = run(course, course.modules, hand_ins, out, seed=5, jobs=2, layers=machine_layers(), on_progress=lambda now: None, **more)
    return msgspec.json.encode(finished.results)


@pytest.fixture(scope="module")
def cluster():
    """Two processes of one thread each."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster


def test_results_are_the_same_though_a_machine_is_lost(course, cluster, tmp_path):
    """One of two processes is killed in the middle; what it had is graded by another, and nothing of what was handed in stays there."""
    hand_ins = submissions(copies=4)
    expected = graded(course, hand_ins, tmp_path / "here")
    killed = []

    def elsewhere(units, course, *, on_done, **common):
        def look(unit, entry):
            on_done(unit, entry)
            if not killed:
                killed.append(next(iter(cluster.workers.values())).process.pid)
                os.kill(killed[0], signal.SIGKILL)

        grade_on_cluster(cluster.scheduler_address, units, course, on_done=look, **common)

    assert graded(course, hand_ins, tmp_path / "there", elsewhere=elsewhere) == expected
    assert killed
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        kept = client.run(lambda dask_worker: [*dask_worker.state.tasks, *sys.modules["grader.runner.station"]._STATIONS])
        assert kept
        assert not any(kept.values())
    texts = [path.read_bytes() for path in Path(tempfile.gettempdir()).glob("grader-station-*/**/*") if path.is_file()]
    assert not any(b"5a7be1" in text for text in texts)


def test_a_machine_that_loses_its_units_again_and_again(course, cluster):
    """Such a unit is the grader's fault, and never the student's zero."""
    hand_in = Unit("anna", course.modules[0], Source(RIGHT), 5)
    seen = []
    terms = station.terms_for(course, machine_layers(), [])
    from grader.runner import cluster as module

    class Deaf(module._Run):
        def _ask(self, address, machine, unit):
            if unit is None:
                super()._ask(address, machine, unit)
            else:
                future = self._client.submit(os.kill, 0, "no", workers=[address], pure=False)
                machine.errands[future] = unit
                future.add_done_callback(lambda done: self._answers.put((address, done)))

    with Client(cluster, set_as_default=False) as client:
        deaf = Deaf(client, terms, lambda unit, entry: seen.append(entry), lambda sentence: None, 30)
        deaf.grade([hand_in])
        deaf.close()
    (entry,) = seen
    assert {task.status for task in entry.result.tasks} == {Status.GRADER_ERROR}
    assert "machines of the cluster" in entry.result.tasks[0].tests[0].message


def test_a_machine_without_the_grader_is_left_out(course, cluster, monkeypatch):
    """Where none is left, nobody is graded, and each machine's reason is told."""
    told = []
    monkeypatch.setattr("grader.runner.station.package_digest", lambda: "another")
    with pytest.raises(Refused, match=r"No machine of the cluster can grade: .*another version"):
        grade_on_cluster(
            cluster.scheduler_address,
            [Unit("anna", course.modules[0], Source(RIGHT), 5)],
            course,
            layers=machine_layers(),
            on_done=lambda unit, entry: None,
            on_refusal=told.append,
        )
    assert len(told) == 2


def test_no_scheduler(course):
    """A sentence, and nobody is graded."""
    with pytest.raises(Refused, match="No Dask scheduler answers at"):
        grade_on_cluster(
            "tcp://127.0.0.1:1",
            [Unit("anna", course.modules[0], Source(RIGHT), 5)],
            course,
            layers=None,
            on_done=lambda unit, entry: None,
        )


class TestStation:
    """What a machine does, without Dask."""

    def test_refusals(self, course):
        """Other code, another environment, another confinement, and a reference that does not pass: each has its sentence."""
        units = [Unit("anna", course.modules[0], Source(RIGHT), 5)]
        good = station.terms_for(course, machine_layers(), reference_units(units, course))
        here = good.environment
        other = msgspec.structs.replace(here, torch="1.0", packages={**here.packages, "numpy": "0.1"})
        assert "another version" in station.open_station(dataclasses.replace(good, package="other"))
        sentence = station.open_station(dataclasses.replace(good, environment=other))
        assert f"torch ({here.torch} instead of 1.0)" in sentence
        assert f"numpy ({here.packages['numpy']} instead of 0.1)" in sentence
        if good.layers is not None:
            weaker = type(good.layers)(good.layers.landlock_abi - 1, namespaces=good.layers.namespaces)
            assert "landlock_abi" in station.open_station(dataclasses.replace(good, layers=weaker))
        fails_there = Unit("the reference", course.modules[0], Source(COUNTER), 5, sample=True)
        sentence = station.open_station(station.terms_for(course, machine_layers(), [fails_there]))
        assert "the reference of mini does not pass" in sentence
        assert station._STATIONS == {}

    def test_it_grades_until_it_is_closed(self, course):
        """Afterwards it is gone, and so is its copy of the course."""
        unit = Unit("anna", course.modules[0], Source(RIGHT), 5)
        terms = station.terms_for(course, machine_layers(), [])
        assert station.open_station(terms) == ""
        folder = Path(station._STATIONS[terms.key]._folder.name)
        try:
            assert station.grade_at_station(terms.key, unit).result.score == 5
            assert (folder / "solutions" / "mini.py").exists()
        finally:
            station.close_station(terms.key)
        assert not folder.exists()
        with pytest.raises(station.StationGone):
            station.grade_at_station(terms.key, unit)

    def test_folders_of_killed_stations_go(self, course, tmp_path, monkeypatch):
        """The next station here takes them away, and leaves those of living processes."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        dead, alive = tmp_path / "grader-station-999999999-x", tmp_path / f"grader-station-{os.getpid()}-x"
        for folder in (dead, alive):
            folder.mkdir()
        station._clear_up()
        assert [dead.exists(), alive.exists()] == [False, True]

    def test_the_same_files_give_the_same_key(self, course):
        """So two runs of one course find one station, and a changed file another."""
        first, second = (station.terms_for(course, machine_layers(), []) for _ in range(2))
        assert first.key == second.key
        assert dataclasses.replace(first, course=first.course + b" ").key != first.key


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the command ip")
def test_two_hosts(course, tmp_path):
    """Scheduler and command in one network namespace, the machine that grades in another: the same results."""
    names = [f"grader-{os.getpid()}-{side}" for side in "ab"]
    processes = []
    try:
        if subprocess.run(["ip", "netns", "add", names[0]], capture_output=True).returncode:
            pytest.skip("this machine makes no network namespaces")
        _ip("netns", "add", names[1])
        _ip("link", "add", "va", "netns", names[0], "type", "veth", "peer", "name", "vb", "netns", names[1])
        for name, device, address in ((names[0], "va", "10.77.0.1/24"), (names[1], "vb", "10.77.0.2/24")):
            _ip("-n", name, "addr", "add", address, "dev", device)
            _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        dask = [sys.executable, "-m", "dask"]
        processes.append(_in(names[0], [*dask, "scheduler", "--host", "10.77.0.1", "--port", "8786", "--no-dashboard"], tmp_path))
        worker = [*dask, "worker", "tcp://10.77.0.1:8786", "--nthreads", "2", "--no-dashboard", "--local-directory", str(tmp_path / "w")]
        processes.append(_in(names[1], worker, tmp_path))
        for name, text in TEXTS.items():
            (tmp_path / "hand-in" / name).mkdir(parents=True)
            (tmp_path / "hand-in" / name / "mini.py").write_text(text)
        grade = [sys.executable, "-m", "grader", "grade", "hand-in", "--seed", "5", "--course", str(course.root)]
        here = subprocess.run([*grade, "--out", "here"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        there = [*grade, "--out", "there", "--cluster", "tcp://10.77.0.1:8786"]
        done = subprocess.run(["ip", "netns", "exec", names[0], *there], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert (here.returncode, done.returncode) == (0, 0), here.stderr + done.stderr
        assert "use TLS" in done.stderr
        assert (tmp_path / "here/results.json").read_bytes() == (tmp_path / "there/results.json").read_bytes()
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=60)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _in(name, command, folder):
    with open(folder / f"{command[3]}.log", "wb") as log:
        process = subprocess.Popen(["ip", "netns", "exec", name, *command], cwd=folder, stdout=log, stderr=log)
    time.sleep(1)
    return process
