"""What a machine of a cluster does: it makes sure that it grades as the command's machine would, and then grades one unit after another.

`grader.runner.cluster` calls these functions in the cluster's processes. Nothing here knows what moves the calls.
"""

import hashlib
import io
import multiprocessing
import os
import queue
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from grader.course.manifest import MANIFEST, Course, ManifestError
from grader.protocol.confinement import Layers
from grader.runner.jobs import JobServer, Refused, WarmJob
from grader.runner.references import refusal
from grader.runner.results import Environment, environment
from grader.runner.store import Entry, package_digest
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import isolation, machine_layers

__all__ = ["StationGone", "Terms", "close_station", "grade_at_station", "open_station", "terms_for"]

_PREFIX = "grader-station-"
_IDLE_SECONDS = 900.0
"""After so long without a unit, a station closes by itself: the command that opened it may have been killed."""


class StationGone(Exception):
    """There is no such station here: it was closed, or its process was started anew."""


@dataclass(frozen=True)
class Terms:
    """What a station has to agree with, so that its verdicts are those of the command's machine."""

    package: str
    """A digest of the grader's own code."""
    environment: Environment
    layers: Layers | None
    course: bytes
    """The course's files that grading reads, as a zip."""
    references: tuple[Unit, ...]
    """What has to pass there first."""

    @property
    def key(self) -> str:
        """The station's name."""
        parts = (self.package.encode(), msgspec.json.encode((self.environment, isolation(self.layers))), self.course)
        return hashlib.blake2b(b"\n".join(parts), digest_size=16).hexdigest()


def terms_for(course: Course, layers: Layers | None, references: Iterable[Unit]) -> Terms:
    """What stations for this run have to agree with."""
    return Terms(package_digest(), environment(), layers, _packed(course), tuple(references))


def open_station(terms: Terms) -> str:
    """Get ready to grade on these terms. Returns: why this machine is refused, or nothing."""
    if package_digest() != terms.package:
        return "its grader is another version: install the same one"
    if differences := _differences(environment(), terms.environment):
        return f"it differs from this machine in {differences}"
    here = isolation(machine_layers())
    if terms.layers is not None and (due := isolation(terms.layers)) != here:
        return f"it does not confine student code as this machine does ({_differences(here, due)})"
    with _OPENING:
        if terms.key in _STATIONS:
            return ""
        try:
            station = _Station(terms)
        except (ManifestError, OSError) as error:
            return f"the course can't be unpacked there: {error}"
        try:
            for unit in terms.references:
                if sentence := refusal(station.grade(unit)):
                    return sentence
        except Refused as error:
            return str(error)
        else:
            _STATIONS[terms.key] = station
            return ""
        finally:
            if terms.key not in _STATIONS:
                station.close()


def grade_at_station(key: str, unit: Unit) -> Entry:
    """The unit's result. Raises: StationGone."""
    station = _STATIONS.get(key)
    if station is None:
        raise StationGone(key)
    return station.grade(unit)


def close_station(key: str) -> None:
    """End the station's processes, and take the course away. It does not have to be there."""
    station = _STATIONS.pop(key, None)
    if station is not None:
        station.close()


class _Station:
    """The course, unpacked, and a server of jobs for it, of which each thread that grades uses one."""

    def __init__(self, terms: Terms) -> None:
        self._key = terms.key
        _clear_up()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-")
        try:
            root = Path(self._folder.name)
            with zipfile.ZipFile(io.BytesIO(terms.course)) as archive:
                archive.extractall(root)
            _let_have_children()
            self._server = JobServer(Course.read(root), terms.layers)
        except BaseException:
            self._folder.cleanup()
            raise
        self._idle = queue.SimpleQueue[WarmJob]()
        self._watch = self._watched()

    def grade(self, unit: Unit) -> Entry:
        """The unit's result. Raises: Refused."""
        self._watch.cancel()
        try:
            job = self._idle.get_nowait()
        except queue.Empty:
            job = WarmJob(self._server)
        try:
            return job.grade(unit)
        finally:
            self._idle.put(job)
            self._watch.cancel()
            self._watch = self._watched()

    def close(self) -> None:
        """End everything."""
        self._watch.cancel()
        self._server.close()
        self._folder.cleanup()

    def _watched(self) -> threading.Timer:
        timer = threading.Timer(_IDLE_SECONDS, close_station, [self._key])
        timer.daemon = True
        timer.start()
        return timer


_STATIONS: dict[str, _Station] = {}
_OPENING = threading.Lock()


def _clear_up() -> None:
    """Take away the folders of stations whose processes were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(folder, ignore_errors=True)  # nobody else's: they can't be removed


def _let_have_children() -> None:
    """Dask marks its processes as daemons, which multiprocessing allows no children. A station's end when their pipe closes."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


def _packed(course: Course) -> bytes:
    """The files that grading reads, as a zip that is the same for the same files."""
    files = {MANIFEST: course.root / MANIFEST}
    for module in course.modules:
        for path in (course.solution(module.name), course.stub(module.name), course.misconceptions(module.name)):
            files[path.relative_to(course.root).as_posix()] = path
    for path in course.hidden_suite("x").parent.glob("*.py"):
        files[path.relative_to(course.root).as_posix()] = path
    for path in course.data.glob("MNIST/raw/*-ubyte"):
        files[f"data/MNIST/raw/{path.name}"] = path
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            if files[name].is_file():
                archive.writestr(zipfile.ZipInfo(name), files[name].read_bytes(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _differences(here: msgspec.Struct, due: msgspec.Struct) -> str:
    """The fields in which two records differ, with both values."""
    found = []
    for name in here.__struct_fields__:
        mine, other = getattr(here, name), getattr(due, name)
        if isinstance(mine, dict):
            found += [
                f"{key} ({mine.get(key, 'none')} instead of {other.get(key, 'none')})"
                for key in sorted({*mine, *other})
                if mine.get(key) != other.get(key)
            ]
        elif mine != other:
            found.append(f"{name} ({mine} instead of {other})")
    return ", ".join(found)
