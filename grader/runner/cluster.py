"""Grades on the machines of a Dask cluster what `grader.runner.jobs` grades on this one, with the same results.

Each of the cluster's processes becomes a station (`grader.runner.station`), which is refused if it could come to other verdicts. This
side hands a station as many units as it has threads, and no more: what a lost machine had is handed to another. Dask moves the calls; which
machine gets what, and what counts as lost, is decided here, so that a machine's end is never held against a student.
"""

import contextlib
import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grader.course.manifest import Course
from grader.protocol.confinement import Layers
from grader.runner.jobs import Refused
from grader.runner.station import StationGone, Terms, close_station, grade_at_station, open_station, terms_for
from grader.runner.store import Entry
from grader.runner.units import Unit, grading_fault

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["grade_on_cluster"]

_ATTEMPTS = 3
"""How many machines are lost over a unit before it is given up."""
_LOOK_SECONDS = 0.5
"""How often is looked which machines are there."""
_PATIENCE_SECONDS = 300.0
"""How long a run goes on without a machine: a batch system may take its time."""


def grade_on_cluster(
    address: str,
    units: list[Unit],
    course: Course,
    *,
    layers: Layers | None,
    on_done: Callable[[Unit, Entry], None],
    references: Sequence[Unit] = (),
    on_refusal: Callable[[str], None] = lambda sentence: None,
    patience: float = _PATIENCE_SECONDS,
) -> None:
    """Grade every unit on the cluster whose scheduler is at `address`, calling `on_done` as each is finished, in whatever order.

    All `references` have to pass on a machine before it grades. `on_refusal` is told which machines are left out, and why. Raises: Refused.
    """
    if not units:
        return
    with _client(address) as client:
        run = _Run(client, terms_for(course, layers, references), on_done, on_refusal, patience)
        try:
            run.grade(units)
        finally:
            run.close()


@contextlib.contextmanager
def _client(address: str) -> Iterator["Client"]:
    try:
        from distributed import Client
    except ImportError:
        raise Refused("--cluster needs Dask: `python -m pip install 'pytorch-exercises[cluster]'`.") from None
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what a lost machine means is said here
    try:
        client = Client(address, set_as_default=False, timeout="20s")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        logger.setLevel(level)
        raise Refused(
            f"No Dask scheduler answers at {address}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    try:
        yield client
    finally:
        client.close(timeout=5)
        logger.setLevel(level)


@dataclass
class _Machine:
    """One of the cluster's processes."""

    threads: int
    ready: bool = False
    refused: bool = False
    errands: dict["Future[Any]", Unit | None] = field(default_factory=dict)
    """What it was asked and has not answered: a unit, or None for getting ready."""


class _Run:
    """The units that are left, and who has which."""

    def __init__(
        self, client: "Client", terms: Terms, on_done: Callable[[Unit, Entry], None], on_refusal: Callable[[str], None], patience: float
    ) -> None:
        self._client, self._terms, self._key = client, terms, terms.key
        self._on_done, self._on_refusal, self._patience = on_done, on_refusal, patience
        self._machines: dict[str, _Machine] = {}
        self._answers = queue.SimpleQueue["tuple[str, Future[Any]]"]()
        self._pending: list[Unit] = []
        self._lost: Counter[Unit] = Counter()
        self._refusals: dict[str, str] = {}
        self._seen = self._looked = time.monotonic()

    def grade(self, units: Sequence[Unit]) -> None:
        """Grade them. Raises: Refused."""
        self._pending = list(reversed(units))
        left, look = len(units), True
        while left:
            if look or time.monotonic() - self._looked > _LOOK_SECONDS:
                left -= self._look()
            self._hand_out()
            try:
                address, future = self._answers.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                look = True
                continue
            machine = self._machines.get(address)
            if machine is None or future not in machine.errands:
                continue  # it was given up
            unit = machine.errands.pop(future)
            look = future.status != "finished"
            if unit is None:
                self._settle(address, machine, future)
            elif future.status == "finished":
                self._on_done(unit, future.result())
                left -= 1
            else:
                left -= self._give_back(unit, counts=not isinstance(_error(future), StationGone))
                machine.ready = False
            future.release()

    def close(self) -> None:
        """Take back what was handed out, and close the stations."""
        for machine in self._machines.values():
            for future in machine.errands:
                future.cancel()
        with contextlib.suppress(Exception):  # the scheduler may be gone; stations close by themselves after a while
            ready = [address for address, machine in self._machines.items() if machine.ready]
            closing = [self._client.submit(close_station, self._key, workers=[address], pure=False) for address in ready]
            for future in closing:
                future.result(timeout=10)

    def _look(self) -> int:
        """See which machines are there. Returns: how many units were given up. Raises: Refused."""
        self._looked = time.monotonic()
        if self._client.status != "running":
            raise Refused("The cluster's scheduler is gone. What is finished is kept; the same command goes on from there.")
        try:
            here = self._client.scheduler_info()["workers"]
        except (OSError, TimeoutError):
            raise Refused(
                "The cluster's scheduler does not answer. What is finished is kept; the same command goes on from there."
            ) from None
        given_up = 0
        for address in [address for address in self._machines if address not in here]:
            for unit in self._machines.pop(address).errands.values():
                given_up += self._give_back(unit, counts=True) if unit is not None else 0
        for address, told in here.items():
            machine = self._machines.setdefault(address, _Machine(threads=max(1, told["nthreads"])))
            if not machine.ready and not machine.refused and not machine.errands:
                self._ask(address, machine, None)
        if any(not machine.refused for machine in self._machines.values()):
            self._seen = self._looked
        elif self._machines:
            raise Refused(f"No machine of the cluster can grade: {'; '.join(f'{who}: {why}' for who, why in self._refusals.items())}")
        elif self._looked - self._seen > self._patience:
            raise Refused(f"The cluster has had no machine for {self._patience:g} s. What is finished is kept.")
        return given_up

    def _hand_out(self) -> None:
        for address, machine in self._machines.items():
            while self._pending and machine.ready and len(machine.errands) < machine.threads:
                self._ask(address, machine, self._pending.pop())

    def _ask(self, address: str, machine: _Machine, unit: Unit | None) -> None:
        """Ask a machine to get ready, or to grade a unit. It has to do it itself, since another one may not be ready."""
        call = (open_station, self._terms) if unit is None else (grade_at_station, self._key, unit)
        future = self._client.submit(*call, workers=[address], allow_other_workers=False, pure=False, retries=0)
        machine.errands[future] = unit
        future.add_done_callback(lambda done: self._answers.put((address, done)))

    def _settle(self, address: str, machine: _Machine, future: "Future[Any]") -> None:
        """Take in whether a machine is ready."""
        why = future.result() if future.status == "finished" else f"the grader does not run there ({_error(future)!r})"
        machine.ready, machine.refused = not why, bool(why)
        if why:
            self._refusals[address] = why
            self._on_refusal(f"{address} is left out: {why}.")

    def _give_back(self, unit: Unit, *, counts: bool) -> int:
        """Have another machine grade it. Returns: 1 if it is given up instead, else 0."""
        self._lost[unit] += counts
        if self._lost[unit] < _ATTEMPTS:
            self._pending.append(unit)
            return 0
        self._on_done(unit, grading_fault(unit.module, f"{_ATTEMPTS} machines of the cluster were lost while they graded this"))
        return 1


def _error(future: "Future[Any]") -> BaseException | None:
    """Why there is no answer. None if the machine is gone."""
    if future.status != "error":
        return None
    error: BaseException | None = future.exception(timeout=10)
    return error
