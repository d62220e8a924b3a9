"""The pytest plugin for `pytest tests/hidden --submission PATH`. It runs the same tests as the engine, with the same outcomes.

tests/hidden/conftest.py loads it. `grader grade` uses the engine instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from grader.base.outcome import Status
from grader.course.digits import Digits
from grader.course.manifest import Course, ManifestError, Module
from grader.grading.case import FIXTURES, Case, judge
from grader.grading.engine import Engine
from grader.grading.sides import StudentSide
from grader.grading.suite import Collector, HiddenTest, SuiteError, describe, why_skipped
from grader.sandbox.supervisor.isolation import NotConfined, choose_layers, draw_seed
from grader.sandbox.supervisor.zygote_handle import ZygoteHandle
from grader.submissions.find import read_submission
from grader.submissions.sources import BadInput, Source

_CASE = pytest.StashKey[Case]()
_TEST = pytest.StashKey[HiddenTest]()


@dataclass
class _Session:
    """One submission under the hidden suites."""

    course: Course
    sources: dict[str, Source]
    seed: int
    zygote: ZygoteHandle
    sides: dict[str, StudentSide] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = Engine(self.course, self.zygote)

    def module_of(self, path: Path) -> Module | None:
        """The module that a suite's file belongs to."""
        return next((module for module in self.course.modules if path == self.course.hidden_suite(module.name)), None)

    def case(self, module: Module, test: HiddenTest) -> Case:
        """A test on the submission."""
        reference = self.engine.reference(module.name)
        if module.name not in self.sides:
            source = self.sources.get(module.name) or Source.not_handed_in(module.name)
            self.sides[module.name] = StudentSide(self.zygote, self.course, module, source, reference)
        student = self.sides[module.name]
        return Case(reference, student, task=test.task, id=test.id, seed=self.seed, digits=lambda: Digits.read(self.course.data))

    def close(self) -> None:
        """Kill the workers and the zygote."""
        for side in self.sides.values():
            side.close()
        self.zygote.__exit__()


class _Fixtures:
    """The fixtures of hidden tests, for pytest."""

    @pytest.fixture
    def _case(self, request: pytest.FixtureRequest) -> Case:
        case: Case = request.node.stash[_CASE]
        return case


def _fixture(name: str, provide: Callable[[Case], object]) -> object:
    def provided(self: object, _case: Case) -> object:
        return provide(_case)

    provided.__doc__ = provide.__doc__
    return pytest.fixture(name=name)(provided)


for _name, _provide in FIXTURES.items():
    setattr(_Fixtures, _name, _fixture(_name, _provide))


class _Grading:
    """The hooks that run a test."""

    def __init__(self, session: _Session) -> None:
        self.session = session

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Let `-k` find a test by its task's name."""
        if marker := item.get_closest_marker("task"):
            item.extra_keyword_matches.add(marker.args[0])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Tie every test to its task."""
        for item in items:
            try:
                item.stash[_TEST] = describe(item)
            except SuiteError as error:
                raise pytest.UsageError(str(error)) from None

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip what this machine lacks something for; set up the test's two sides."""
        test, module = item.stash[_TEST], self.session.module_of(item.path)
        if reason := why_skipped(test, confined=self.session.zygote.layers is not None):
            pytest.skip(reason)
        if test.problem:
            pytest.fail(f"{Status.GRADER_ERROR}: {test.id} {test.problem}", pytrace=False)
        assert module is not None
        item.stash[_CASE] = self.session.case(module, test)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool:
        """Judge the test here, so that a failure shows the student's sentence and nothing of the test."""
        case, test = pyfuncitem.stash[_CASE], pyfuncitem.stash[_TEST]
        outcome = judge(case, test.bind(case), test.checked)
        if outcome.status is not Status.PASSED:
            pytest.fail(f"{outcome.status}: {outcome.message}", pytrace=False)
        return True


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --submission and what goes with it."""
    group = parser.getgroup("grader")
    group.addoption("--submission", metavar="PATH", help="the submission to run the hidden suites on: folder, file, archive or notebook")
    group.addoption("--seed", type=int, metavar="N", help="the run's seed (default: drawn afresh)")
    group.addoption("--data", metavar="DIR", help="the digits: a folder that torchvision.datasets.MNIST reads (default: data/)")
    group.addoption("--allow-unconfined", action="store_true", help="run students' code even where it can't be confined")
    group.addoption("--trusted", action="store_true", help="the code is ours: don't confine it, so that it can use a GPU")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and start on the submission."""
    config.addinivalue_line("markers", "task(name, weight=1): the task of course.toml that a hidden test belongs to")
    config.addinivalue_line("markers", "measured(what): rests on what the student's process says about itself")
    config.addinivalue_line("markers", "gpu: needs a CUDA device, and is skipped where there is none")
    config.addinivalue_line("markers", "needs(package, …): needs packages of an extra, and is skipped where one is missing")
    if any(isinstance(plugin, Collector) for plugin in config.pluginmanager.get_plugins()):  # the engine collects the suite
        return
    if config.option.submission is None:
        raise pytest.UsageError(
            "the hidden suites run on a submission: add --submission PATH (solutions, exercises, a student's folder, …)"
        )
    config.pluginmanager.register(_Fixtures())
    config.pluginmanager.register(_Grading(_start(config)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Kill what this session started."""
    grading = _grading(config)
    if grading is not None:
        grading.session.close()


def pytest_report_header(config: pytest.Config) -> str:
    """Say the seed, so that a run can be repeated."""
    grading = _grading(config)
    return f"seed: {grading.session.seed}" if grading else ""


def _grading(config: pytest.Config) -> _Grading | None:
    return next((plugin for plugin in config.pluginmanager.get_plugins() if isinstance(plugin, _Grading)), None)


def _start(config: pytest.Config) -> _Session:
    try:
        course = Course.read(config.rootpath)
        if config.option.data is not None:
            course = course.with_data(Path(config.invocation_params.dir, config.option.data))
        submission = read_submission(Path(config.invocation_params.dir, config.option.submission), course)
        layers = choose_layers(allow_unconfined=config.option.allow_unconfined, trusted=config.option.trusted)
    except (BadInput, ManifestError, NotConfined) as error:
        raise pytest.UsageError(str(error)) from None
    seed = draw_seed() if config.option.seed is None else config.option.seed
    return _Session(course, submission.sources, seed, ZygoteHandle(layers, course.bans))
