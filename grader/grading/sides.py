"""The two sides of a hidden test: the student's module in a confined worker, and the reference in the trusted process.

Both get the same pickled probe, so neither side sees what the other does to its inputs.
"""

import linecache
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from types import ModuleType

import msgspec
import torch

from grader.base.outcome import Outcome, Status
from grader.base.torchvision_compat import import_torchvision
from grader.course.definitions import task_digest
from grader.course.manifest import Course, Limits, Module
from grader.course.stubs import bodies_to_mend, module_stub
from grader.grading.source_reading import NotReadable, ReadingLimits, read_uses
from grader.protocol.calls import traced
from grader.protocol.probes import thaw
from grader.protocol.state import reset_state
from grader.protocol.traces import Answer, Traces
from grader.protocol.values import decode, encode
from grader.sandbox.supervisor.worker_handle import Ended, WorkerHandle
from grader.sandbox.supervisor.zygote_handle import Usage, ZygoteHandle
from grader.submissions.sources import Source

__all__ = ["ReferenceSide", "StudentSide", "TrustedModule"]


class TrustedModule:
    """A module of the course's own, run in this process. Its answers are kept, because a batch asks every student the same questions."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._module: ModuleType | None = None
        self._kept: dict[tuple[bytes, int], Answer] = {}
        self._calls: dict[tuple[bytes, int], list[str]] = {}

    @property
    def module(self) -> ModuleType:
        """The module itself, run at its first use."""
        if self._module is None:
            torch.set_num_threads(1)  # as in the workers, so that sums are taken in the same order
            if "torchvision" in self._text:
                import_torchvision()  # its import needs help on a machine without CUDA
            self._module = sys.modules[self._name] = ModuleType(self._name)
            file = self._module.__file__ = f"{self._name}.py"
            linecache.cache[file] = (len(self._text), None, self._text.splitlines(keepends=True), file)  # torch.jit reads the source
            exec(compile(self._text, file, "exec"), self._module.__dict__)
        return self._module

    def call(self, probe: bytes, seed: int) -> Answer:
        """What comes of the probe for this module. Not to be modified."""
        key = (probe, seed)
        if key not in self._kept:
            module = self.module
            reset_state(seed)
            try:
                run = thaw(probe)
                traces = Traces(run)
                value = run(module)
                left = traces.left()
                self._kept[key] = Answer(decode(*encode(value)), tuple(left))
            finally:
                reset_state(seed)  # the tests' own code must not see what a probe leaves behind, such as a default dtype
        return self._kept[key]

    def calls(self, probe: bytes, seed: int) -> list[str]:
        """The calls that the probe makes of this module, in words."""
        key = (probe, seed)
        if key not in self._calls:
            module = self.module
            reset_state(seed)
            try:
                self._calls[key] = traced(lambda: thaw(probe)(module), f"{self._name}.py")
            finally:
                reset_state(seed)
        return self._calls[key]

    def forget(self) -> None:
        """Drop the answers that are kept."""
        self._calls.clear()
        self._kept.clear()


class ReferenceSide(TrustedModule):
    """The reference of a module."""

    def __init__(self, course: Course, module: str) -> None:
        super().__init__(f"solutions.{module}", course.solution(module).read_text())
        self._of, self._course = course.module(module), course

    @cached_property
    def shown(self) -> dict[str, str]:
        """The digests of the code that stubs show for mending, by task."""
        names = {name.partition(".")[0] for name in bodies_to_mend(self._course, self._of.name)}
        stub = module_stub(self._course, self._of.name) if names else ""
        return {name: task_digest(stub, name) for name in names}

    def kind(self, task: str) -> str:
        """What the task is: a "class" or a "function"."""
        return "class" if isinstance(getattr(self.module, task), type) else "function"


_READING = ReadingLimits()


class StudentSide:
    """One student's module, in a worker that is replaced when it dies. Use `close` when the module is done."""

    def __init__(self, zygote: ZygoteHandle, course: Course, module: Module, source: Source, reference: ReferenceSide) -> None:
        self._zygote = zygote
        self._limits = course.limits
        self._packages = course.packages
        self._module = module
        # Those of tasks that are not graded too: what a worker replaces does not depend on the selection.
        self._all = course.module(module.name)
        self._bans = sorted({ban for task in self._all.tasks for ban in task.bans})
        self._source = source
        self._reference = reference
        self._places: dict[tuple[float, int, int], _Workplace] = {}
        self._closed_tasks: dict[str, Outcome] = {}  # these tasks are not tried again
        self._task_seconds: dict[str, float] = {}
        self._killed: set[str] = set()
        self._uses: dict[str, str] | None = None

    def call(self, task: str, probe: bytes, seed: int) -> Answer:
        """What comes of the probe for the student's module. Raises: Ended, ZygoteError."""
        try:
            return self._ask(task, probe, seed)
        except Ended as end:
            if not end.killed or task in self._killed:
                raise
            self._killed.add(task)  # what kills is mostly not the student: once for each task, the question is put again
        return self._ask(task, probe, seed)

    def _ask(self, task: str, probe: bytes, seed: int) -> Answer:
        self._check_open(task)
        chosen = self._module.task(task)
        limits = chosen.limits_within(self._limits)
        place = self._place(limits)
        place.try_import()
        start, left = time.monotonic(), limits.task_seconds - self._task_seconds[task]
        asked = False
        try:
            worker = place.worker(left)  # after a crash, the import counts for the task that needs it
            self._check_kind(task, place.kinds[task])
            left -= time.monotonic() - start
            asked = True
            return worker.call(probe, seed, chosen.bans, msgspec.structs.replace(limits, test_seconds=min(limits.test_seconds, left)))
        except Ended as end:
            end.in_probe = asked
            if end.died:
                place.close()
            if end.outcome.status is Status.TIMED_OUT:
                self._closed_tasks[task] = _not_tried("an earlier test of this task ran out of time.")
                if self._task_seconds[task] + time.monotonic() - start >= limits.task_seconds:
                    raise Ended(Outcome(Status.TIMED_OUT, _all_together(limits))) from None
            raise
        finally:
            self._charge(task, time.monotonic() - start, limits)

    def close(self) -> None:
        """Kill the workers."""
        for place in self._places.values():
            place.close()

    @property
    def usage(self) -> Usage:
        """What the workers that have ended used."""
        return sum((place.usage for place in self._places.values()), Usage())

    def _place(self, limits: Limits) -> "_Workplace":
        """The worker for tasks with these limits on import, memory and files. These limits hold for a whole worker."""
        key = limits.import_seconds, limits.memory_mib, limits.scratch_mib
        if key not in self._places:
            self._places[key] = _Workplace(self._zygote, limits, self._module, self._bans, self._source, self._packages)
        return self._places[key]

    def _check_open(self, task: str) -> None:
        if self._source.problem:
            raise Ended(Outcome(Status.NOT_IMPLEMENTED if self._source.missing else Status.ERROR, self._source.problem))
        if task not in self._task_seconds:  # its first test
            self._task_seconds[task] = 0.0
            if use := self._forbidden().get(task):
                self._closed_tasks[task] = Outcome(Status.BANNED, f"uses {use}, which is not allowed in this task.")
            elif self._is_unchanged(task):
                self._closed_tasks[task] = Outcome(Status.NOT_IMPLEMENTED, f"{task} is as it was handed out: find its mistake and mend it.")
        if task in self._closed_tasks:
            raise Ended(self._closed_tasks[task])

    def _forbidden(self) -> dict[str, str]:
        """What the source uses against a task's bans, by task. It is read once. Raises: Ended if it can't be read."""
        bans = {task.name: task.bans for task in self._module.tasks if task.bans}
        if self._uses is None:
            try:
                self._uses = read_uses(self._source.text, bans, self._source.cells, _READING) if bans else {}
            except NotReadable as error:
                self._source = Source(problem=f"{self._module.name}.py {error}")  # which holds for all of its tasks
                raise Ended(Outcome(Status.ERROR, self._source.problem)) from None
        return self._uses

    def _is_unchanged(self, task: str) -> bool:
        """Whether code that was handed out for mending is still the same."""
        short = len(self._source.text) <= _READING.short  # what a long text costs to parse is not worth it
        return short and task in self._reference.shown and task_digest(self._source.text, task) == self._reference.shown[task]

    def _check_kind(self, task: str, kind: str) -> None:
        due = self._reference.kind(task)
        if kind == "missing":
            raise Ended(Outcome(Status.NOT_IMPLEMENTED, f"{self._module.name}.py has no {due} called {task}: keep the stub's name."))
        if kind != due:
            raise Ended(Outcome(Status.ERROR, f"{task} has to be a {due}, but it is a {kind}."))

    def _charge(self, task: str, seconds: float, limits: Limits) -> None:
        self._task_seconds[task] += seconds
        if self._task_seconds[task] > limits.task_seconds and task not in self._closed_tasks:
            self._closed_tasks[task] = _not_tried(_all_together(limits))


class _Workplace:
    """A worker with the student's module loaded. It is replaced after it has died."""

    def __init__(
        self, zygote: ZygoteHandle, limits: Limits, module: Module, bans: list[str], source: Source, packages: Sequence[str]
    ) -> None:
        self._zygote, self._limits, self._module, self._bans, self._source = zygote, limits, module, bans, source
        self._packages = packages
        self._worker: WorkerHandle | None = None
        self._tried = False
        self._killed = False
        """Whether a worker was killed during the import, after which it is tried once more."""
        self._fatal: Outcome | None = None  # set when nothing more can be tried here
        self.kinds: dict[str, str] = {}
        self.usage = Usage()

    def try_import(self) -> None:
        """Load the module for the first time, if it hasn't been loaded. Raises: Ended, ZygoteError."""
        if not self._tried:
            self._tried = True
            self.worker(self._limits.import_seconds)

    def worker(self, seconds: float) -> WorkerHandle:
        """The worker. If it has died, another is made and loaded, in this time at most. Raises: Ended, ZygoteError."""
        if self._fatal is not None:
            raise Ended(self._fatal)
        if self._worker is None:
            limits = msgspec.structs.replace(self._limits, import_seconds=min(seconds, self._limits.import_seconds))
            self._worker = WorkerHandle(self._zygote, limits, self._packages)
            try:
                tasks = [task.name for task in self._module.tasks]
                self.kinds = self._worker.load(self._module.name, self._source.text, tasks, self._bans, self._source.cells)
            except Ended as end:
                self.close()
                if end.killed and not self._killed:
                    self._killed = True
                    return self.worker(seconds)
                if seconds >= self._limits.import_seconds:  # otherwise only the task that had no more time is done
                    self._fatal = end.outcome
                raise
        return self._worker

    def close(self) -> None:
        """Kill the worker, if there is one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.__exit__()
            self.usage += worker.usage


def _all_together(limits: Limits) -> str:
    return f"the tests of this task took more than {limits.task_seconds:g} s together."


def _not_tried(reason: str) -> Outcome:
    return Outcome(Status.TIMED_OUT, f"not tried: {reason}")
