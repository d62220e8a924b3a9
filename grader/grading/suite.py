"""A hidden suite as plain functions. pytest collects it once in a process; the engine calls them for each submission."""

import contextlib
import copy
import importlib.util
import inspect
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest
import torch

import grader.testing
from grader.base.text import one_line
from grader.course.manifest import Course
from grader.grading.case import FIXTURES, Case

__all__ = ["Collector", "HiddenTest", "Suite", "SuiteError", "collect", "describe", "why_skipped"]

_KNOWN_MARKS = {"task", "parametrize", "gpu", "measured", "needs"}
_UNUSED_PLUGINS = ("terminal", "cacheprovider", "logging", "capture", "junitxml", "unraisableexception", "threadexception", "warnings")


class SuiteError(Exception):
    """A suite that can't be graded with; the text says which test is wrong, and what to do."""


@dataclass(frozen=True)
class HiddenTest:
    """One hidden test: a function with its parameters, and what its marks and its docstring say."""

    id: str
    """As in pytest, without the file: "TestCounter::test_remembers[2]"."""
    task: str
    weight: float
    gpu: bool
    checked: str
    """The first paragraph of the docstring, on one line."""
    function: Callable[..., object]
    parameters: Mapping[str, Any]
    fixtures: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """The packages of an extra that the test can't do without."""
    measured: str = ""
    """What the student's process says about itself, and the verdict rests on; empty where it rests on nothing of the kind."""
    problem: str = ""
    """Why the engine can't run it as pytest would: the author's fault."""

    def bind(self, case: Case) -> Callable[[], object]:
        """The test with its arguments, ready to run."""
        arguments = {name: FIXTURES[name](case) for name in self.fixtures} | copy.deepcopy(dict(self.parameters))
        return lambda: self.function(**arguments)


@dataclass(frozen=True)
class Suite:
    """The hidden tests of a module, in their order."""

    tests: tuple[HiddenTest, ...]


def collect(course: Course, module: str) -> Suite:
    """Let pytest collect a module's suite. Raises: SuiteError."""
    collector = Collector()
    options = ["-c", os.devnull, "--rootdir", str(course.root), "--import-mode=importlib", "--assert=plain", "--disable-plugin-autoload"]
    for name in _UNUSED_PLUGINS:
        options += ["-p", f"no:{name}"]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = pytest.main([str(course.hidden_suite(module)), *options], plugins=[collector])
    if collector.problems or code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        reason = next((line for line in reversed(said.getvalue().splitlines()) if line.strip()), f"pytest ended with status {int(code)}")
        raise SuiteError("; ".join(collector.problems) or one_line(f"pytest can't collect the hidden tests: {reason}", 400))
    return Suite(tuple(collector.tests))


class Collector:
    """A pytest plugin that takes the collected tests, and lets pytest run none of them."""

    def __init__(self) -> None:
        self.tests: list[HiddenTest] = []
        self.problems: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that can't be collected."""
        if report.failed:
            self.problems.append(f"{report.nodeid} can't be collected: {one_line(str(report.longrepr)[-600:], 600)}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Keep the tests, and take them away from pytest."""
        for item in session.items:
            try:
                self.tests.append(describe(item))
            except SuiteError as error:
                self.problems.append(str(error))
        session.items[:] = []


def describe(item: pytest.Item) -> HiddenTest:
    """What the engine has to know of a collected test. Raises: SuiteError if it belongs to no task."""
    marker = item.get_closest_marker("task")
    if marker is None:
        raise SuiteError(f'{item.nodeid} has no task: decorate it with @task("name")')
    if not isinstance(item, pytest.Function):
        raise SuiteError(f"{item.nodeid} is not a function: write it as one, or as a method of a class")
    parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    wanted = inspect.signature(item.function).parameters
    fixtures = tuple(name for name in wanted if name in FIXTURES and name not in parameters)
    cloudpickle.register_pickle_by_value(inspect.getmodule(item.function))
    cloudpickle.register_pickle_by_value(grader.testing)
    return HiddenTest(
        id=item.nodeid.split("::", 1)[1],
        task=marker.args[0],
        weight=float(marker.kwargs.get("weight", 1.0)),
        gpu=item.get_closest_marker("gpu") is not None,
        checked=one_line((inspect.getdoc(item.function) or "").split("\n\n")[0], 300),
        function=_on_a_fresh_instance(item),
        parameters=parameters,
        fixtures=fixtures,
        needs=tuple(dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args)),
        measured=", ".join(dict.fromkeys(mark.args[0] for mark in item.iter_markers("measured"))),
        problem=next(_unknown(item, parameters), ""),
    )


def _unknown(item: pytest.Function, parameters: Mapping[str, Any]) -> Iterator[str]:
    """What of pytest's a test asks for that the engine does not have."""
    info = item._fixtureinfo
    for name in info.argnames:
        if name not in FIXTURES and name not in parameters:
            yield f"asks for the fixture {name!r}: hidden tests have {', '.join(FIXTURES)} and their parameters"
    for name in info.initialnames:
        if name not in info.argnames:
            yield f"is set up by {name!r}: do it in the test, or in a function that it calls"
    for mark in item.iter_markers():
        if mark.name not in _KNOWN_MARKS:
            yield f"is marked {mark.name!r}: hidden tests have the marks {', '.join(sorted(_KNOWN_MARKS))}"
        if mark.name == "parametrize" and mark.kwargs.get("indirect"):
            yield "has indirect parameters: give the values themselves"


def _on_a_fresh_instance(item: pytest.Function) -> Callable[..., object]:
    if item.cls is None:
        function: Callable[..., object] = item.function
        return function
    return lambda **arguments: getattr(item.cls(), item.originalname)(**arguments)


def why_skipped(test: HiddenTest, *, confined: bool) -> str | None:
    """Why a test can't be run on this machine: no GPU, or a package is missing. None where it can. Skipped tests don't count."""
    missing = [name for name in test.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"needs {' and '.join(missing)}, which the grader does not have"
    if test.gpu and not torch.cuda.is_available():
        return "needs a CUDA device"
    if test.gpu and confined:
        return "needs a CUDA device, which a confined worker can't open: run code of your own with --trusted"
    return None
