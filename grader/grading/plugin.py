"""The pytest plugin behind the hidden suites: the fixtures, the `task` marker, and the outcome of every test.

pytest runs in the trusted process. tests/hidden/conftest.py loads it: `pytest tests/hidden --submission PATH` reads the submission itself;
`grader grade` hands it a `Grading` that outlives the session, so that a batch shares one zygote and the reference's answers.
"""

import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import pytest
import torch

import grader.testing
from grader.base.outcome import Outcome, Status
from grader.base.text import clean, one_line
from grader.course.digits import Digits
from grader.course.manifest import Course, ManifestError, Module
from grader.grading.compare import difference
from grader.grading.draw import Draw, derive_seed
from grader.grading.sides import ReferenceSide, StudentSide
from grader.protocol.probes import freeze
from grader.sandbox.supervisor.isolation import NotConfined, choose_layers, draw_seed
from grader.sandbox.supervisor.worker_handle import Ended
from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteHandle
from grader.submissions.ingest import BadInput, Source, read_submission

__all__ = ["Agree", "Grading", "GradingPlugin", "Probe", "Record", "Run"]

Probe = Callable[[Any], Any]
Run = Callable[[Probe], Any]


class Agree(Protocol):
    """The fixture `agree`."""

    def __call__(self, probe: Probe, *, rtol: float, atol: float) -> None:
        """Fail with a sentence for the student where the two sides return different values."""


@dataclass
class Record:
    """What became of one hidden test."""

    id: str
    task: str
    weight: float
    outcome: Outcome
    seconds: float = 0.0

    @property
    def has_run(self) -> bool:
        """False for as long as the test has come to no outcome."""
        return self.outcome is not _UNSETTLED


@dataclass
class Grading:
    """One submission under the hidden suites of some modules."""

    course: Course
    modules: tuple[Module, ...]
    sources: dict[str, Source]
    seed: int
    zygote: ZygoteHandle
    references: dict[str, ReferenceSide]
    shuffled: bool = False
    records: dict[str, Record] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    sides: dict[str, StudentSide] = field(default_factory=dict)

    def module_of(self, path: Path) -> Module | None:
        """The module that a suite's file belongs to, where it is being graded."""
        return next((module for module in self.modules if path == self.course.hidden_suite(module.name)), None)

    def reference(self, module: str) -> ReferenceSide:
        """The trusted side of a module."""
        if module not in self.references:
            self.references[module] = ReferenceSide(self.course, module)
        return self.references[module]

    def student(self, module: Module) -> StudentSide:
        """The confined side of a module."""
        if module.name not in self.sides:
            source = self.sources.get(module.name) or Source.not_handed_in(module.name)
            self.sides[module.name] = StudentSide(self.zygote, self.course, module, source, self.reference(module.name))
        return self.sides[module.name]

    def close(self) -> None:
        """Kill the workers."""
        for side in self.sides.values():
            side.close()


class _Case:
    """One running test: its draws and its two sides."""

    def __init__(self, grading: Grading, module: Module, task: str, id: str) -> None:
        self._reference = grading.reference(module.name)
        self._student = grading.student(module)
        self._task, self._id, self._seed = task, id, grading.seed
        self._calls = 0
        self._reference_poses_as_student = False
        self.asked_student = False
        self.draw = Draw(derive_seed(grading.seed, id, "draw"))

    def restart_with_reference(self) -> None:
        """Begin again with the same draws, the reference answering in the student's place."""
        self._calls = 0
        self._reference_poses_as_student = True
        self.draw.restart()

    def student(self, probe: Probe) -> Any:
        """The student's values. Raises: Ended."""
        return self._ask_student(freeze(probe), self._next_seed())

    def reference(self, probe: Probe) -> Any:
        """The reference's values."""
        return self._reference.call(freeze(probe), self._next_seed())

    def agree(self, probe: Probe, *, rtol: float, atol: float) -> None:
        """Compare the two. Raises: Ended."""
        frozen, seed = freeze(probe), self._next_seed()
        expected = self._reference.call(frozen, seed)
        got = self._ask_student(frozen, seed)
        message = difference(got, expected, rtol=rtol, atol=atol)
        if message:
            why = self._reference.explain(self._task, frozen, seed, lambda wrong: difference(got, wrong, rtol=rtol, atol=atol) is None)
            raise Ended(Outcome(Status.FAILED, f"{clean(message)}." + (f"\nIt looks like this: {why}" if why else "")))

    def _ask_student(self, probe: bytes, seed: int) -> Any:
        self.asked_student = True
        if self._reference_poses_as_student:
            return self._reference.call(probe, seed)
        return self._student.call(self._task, probe, seed)

    def _next_seed(self) -> int:
        self._calls += 1
        return derive_seed(self._seed, self._id, self._calls)


_CASE = pytest.StashKey[_Case]()
_RECORD = pytest.StashKey[Record]()


class GradingPlugin:
    """The hooks and fixtures, for one Grading."""

    def __init__(self, grading: Grading) -> None:
        self.grading = grading

    # ---- fixtures

    @pytest.fixture
    def _case(self, request: pytest.FixtureRequest) -> _Case:
        case: _Case = request.node.stash[_CASE]
        return case

    @pytest.fixture
    def agree(self, _case: _Case) -> Agree:
        """`agree(probe, rtol=…, atol=…)`: run the probe on both sides and compare what they return."""
        return _case.agree

    @pytest.fixture
    def student(self, _case: _Case) -> Run:
        """`student(probe)`: the values that the student's module gives, for checks that are no comparison."""
        return _case.student

    @pytest.fixture
    def reference(self, _case: _Case) -> Run:
        """`reference(probe)`: the values that the reference gives."""
        return _case.reference

    @pytest.fixture
    def draw(self, _case: _Case) -> Draw:
        """Fresh random inputs, seeded from the run's seed and the test's name."""
        return _case.draw

    @pytest.fixture
    def digits(self) -> Digits:
        """Handwritten digits: `images, labels, new_images, new_labels = digits.split(draw)`, the last two held out."""
        return Digits.read(self.grading.course.data)

    # ---- collecting

    def pytest_pycollect_makeitem(self, collector: pytest.Module | pytest.Class, obj: object) -> list[pytest.Item] | None:
        """Pass over the tests of tasks that are not being graded, before an item is made of them: `grader check` grades single tasks."""
        module = self.grading.module_of(collector.path)
        marks = getattr(obj, "pytestmark", [])
        named = [mark.args[0] for mark in marks if isinstance(mark, pytest.Mark) and mark.name == "task"]
        passed_over = module is not None and bool(named) and named[0] not in {task.name for task in module.tasks}
        return [] if passed_over else None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Tie every test to its task; leave out those of tasks that are not being graded."""
        kept, left_out = [], []
        for item in items:
            module = self.grading.module_of(item.path)
            marker = item.get_closest_marker("task")
            if marker is None:
                raise pytest.UsageError(f'{item.nodeid} has no task: decorate it with @task("name")')
            name = marker.args[0]
            if module is None or name not in {task.name for task in module.tasks}:
                left_out.append(item)
                continue
            cloudpickle.register_pickle_by_value(inspect.getmodule(item.function))  # type: ignore[attr-defined]
            id = item.nodeid.split("::", 1)[1]
            record = Record(id, name, float(marker.kwargs.get("weight", 1.0)), _UNSETTLED)
            self.grading.records[f"{module.name}::{id}"] = record
            item.stash[_RECORD] = record
            kept.append(item)
        cloudpickle.register_pickle_by_value(grader.testing)
        if self.grading.shuffled:
            order = Draw(derive_seed(self.grading.seed, "order")).permutation(len(kept)).tolist()
            kept = [kept[index] for index in order]
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A suite that can't be collected is the grader's fault."""
        if report.failed:
            self.grading.problems.append(f"{report.nodeid} can't be collected: {one_line(str(report.longrepr)[-600:], 600)}")

    # ---- running

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what needs a GPU where there is none; set up the test's two sides."""
        if item.get_closest_marker("gpu"):
            if not torch.cuda.is_available():
                pytest.skip("needs a CUDA device")
            if self.grading.zygote.layers is not None:
                pytest.skip("needs a CUDA device, which a confined worker can't open: run code of your own with --trusted")
        module = self.grading.module_of(item.path)
        assert module is not None
        record = item.stash[_RECORD]
        item.stash[_CASE] = _Case(self.grading, module, record.task, record.id)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Turn what a test raises because of the student into its outcome, which is all that pytest then shows."""
        case, record = pyfuncitem.stash[_CASE], pyfuncitem.stash[_RECORD]
        try:
            result = yield
        except (pytest.skip.Exception, pytest.fail.Exception, ZygoteError):
            raise
        except Ended as end:
            record.outcome = end.outcome
        except Exception as error:
            if not case.asked_student:
                raise
            if isinstance(error, AssertionError):  # the first line is the author's; pytest may append an explanation
                record.outcome = Outcome(Status.FAILED, clean(str(error).split("\n")[0]))
            else:
                self._raise_if_the_reference_fails_too(pyfuncitem)
                what = f"{one_line(type(error).__name__)}: {one_line(str(error))}"
                record.outcome = Outcome(Status.FAILED, f"what came back can't be checked ({what}).")
        else:
            record.outcome = Outcome(Status.PASSED)
            return result
        if record.outcome.status is Status.FAILED:
            checked = one_line((inspect.getdoc(pyfuncitem.function) or "").split("\n\n")[0], 300)
            record.outcome = Outcome(Status.FAILED, f"{record.outcome.message}\nChecked: {checked}")
        pytest.fail(f"{record.outcome.status}: {record.outcome.message}", pytrace=False)

    def _raise_if_the_reference_fails_too(self, item: pytest.Function) -> None:
        """Tell a test's own fault from a student's malformed value: the test's fault comes up with the reference's values as well."""
        item.stash[_CASE].restart_with_reference()
        item.obj(**{name: item.funcargs[name] for name in inspect.signature(item.obj).parameters})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Record skips and the grader's own faults, and the time."""
        report = yield
        record = item.stash[_RECORD]
        record.seconds += call.duration
        if report.skipped and call.excinfo is not None:
            record.outcome = Outcome(Status.SKIPPED, one_line(str(call.excinfo.value)))
        elif report.failed and call.excinfo is not None and not _is_settled(record):
            error = call.excinfo.value
            record.outcome = Outcome(Status.GRADER_ERROR, f"{type(error).__name__}: {one_line(str(error), 400)}")
        return report


_UNSETTLED = Outcome(Status.GRADER_ERROR, "The test did not run.")


def _is_settled(record: Record) -> bool:
    """True once the test has come to an outcome of the student's."""
    return record.outcome.status not in (Status.GRADER_ERROR, Status.PASSED)


# ---- loaded by itself: `pytest tests/hidden --submission PATH`


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --submission and what goes with it."""
    group = parser.getgroup("grader")
    group.addoption("--submission", metavar="PATH", help="the submission to run the hidden suites on: folder, file, archive or notebook")
    group.addoption("--seed", type=int, metavar="N", help="the run's seed (default: drawn afresh)")
    group.addoption("--data", metavar="DIR", help="the digits: a folder that torchvision.datasets.MNIST reads (default: data/)")
    group.addoption("--allow-unconfined", action="store_true", help="run students' code even where it can't be confined")
    group.addoption("--trusted", action="store_true", help="the code is ours: don't confine it, so that it can use a GPU")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the plugin where `grader grade` has not brought one."""
    config.addinivalue_line("markers", "task(name, weight=1): the task of course.toml that a hidden test belongs to")
    config.addinivalue_line("markers", "gpu: needs a CUDA device, and is skipped where there is none")
    if _plugin(config) is not None:
        return
    if config.option.submission is None:
        raise pytest.UsageError(
            "the hidden suites run on a submission: add --submission PATH (solutions, exercises, a student's folder, …)"
        )
    config.pluginmanager.register(GradingPlugin(_grading_from(config)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Kill what this session started."""
    plugin = _plugin(config)
    if plugin is not None and config.option.submission is not None:
        plugin.grading.close()
        plugin.grading.zygote.__exit__()


def pytest_report_header(config: pytest.Config) -> str:
    """Say the seed, so that a run can be repeated."""
    plugin = _plugin(config)
    return f"seed: {plugin.grading.seed}" if plugin else ""


def _plugin(config: pytest.Config) -> GradingPlugin | None:
    return next((plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, GradingPlugin)), None)


def _grading_from(config: pytest.Config) -> Grading:
    try:
        course = Course.read(config.rootpath)
        if config.option.data is not None:
            course = course.with_data(Path(config.invocation_params.dir, config.option.data))
        submission = read_submission(Path(config.invocation_params.dir, config.option.submission), course)
        layers = choose_layers(allow_unconfined=config.option.allow_unconfined, trusted=config.option.trusted)
    except (BadInput, ManifestError, NotConfined) as error:
        raise pytest.UsageError(str(error)) from None
    seed = draw_seed() if config.option.seed is None else config.option.seed
    zygote = ZygoteHandle(layers)
    return Grading(course, course.modules, submission.sources, seed, zygote, {})
