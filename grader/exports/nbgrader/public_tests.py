"""Run the public tests of a task on the definitions of this notebook. Copied beside every notebook; needs torch and pytest.

`import public_tests`, then `public_tests.run("TASK")`.
"""

import ast
import contextlib
import importlib
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

with contextlib.suppress(ImportError):  # needed for a CPU build of torch with PyPI's torchvision; see that module
    importlib.import_module("torchvision_compat").import_torchvision()

__all__ = ["PublicTestsFailed", "require", "run"]

_SUITES = Path(__file__).resolve().parent / "tests" / "public"
_verdicts: dict[str, str] = {}
"""Why a task's public tests failed when they last ran. An empty string means that all passed."""


def run(task: str) -> None:
    """Run the public tests of a task and print their outcomes. Raises: PublicTestsFailed."""
    (suite,) = _SUITES.glob("test_*.py")
    outcomes = _Outcomes(task, suite)
    options = ["-c", os.devnull, "--rootdir", str(_SUITES), "--import-mode=importlib", "--noconftest"]
    for name in ("cacheprovider", "terminal", "faulthandler", "warnings"):
        options += ["-p", f"no:{name}"]
    with _importable(suite.stem.removeprefix("test_")), _without_plugins():
        pytest.main([str(suite), *options], plugins=[outcomes])
    for name, text in outcomes.failed.items():
        print(f"failed: {name}\n{text}\n")
    for name in outcomes.passed:
        print(f"passed: {name}")
    ran = len(outcomes.failed) + len(outcomes.passed)
    _verdicts[task] = f"{len(outcomes.failed)} of {ran} public tests failed: {', '.join(outcomes.failed)}" if outcomes.failed else ""
    if not ran:
        _verdicts[task] = "there is no public test of this name"
    require(task)


def require(task: str) -> None:
    """Check that the public tests of a task have passed. Raises: PublicTestsFailed."""
    verdict = _verdicts.get(task, "its public tests have not run: run the cell above")
    if verdict:
        raise PublicTestsFailed(f"{task}: {verdict}")


def task_of(test: str, names: list[str]) -> str:
    """The task that a test belongs to: the longest name that its own begins with, after `test_`. Empty if there is none."""
    title = test.removeprefix("test_")
    found = [
        name
        for name in names
        if title == name or title.startswith((f"{name}_", f"{name}[")) or (name[-1] == "_" and title.startswith(name))
    ]
    return max(found, key=len, default="")


class PublicTestsFailed(AssertionError):
    """A task's public tests have not passed. Jupyter shows only the sentence, because a traceback through this file helps nobody."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class _Outcomes:
    """A plugin of pytest that chooses one task's tests and keeps their outcomes."""

    def __init__(self, task: str, suite: Path) -> None:
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self._task, self._suite = task, suite

    def pytest_configure(self, config: pytest.Config) -> None:
        """Show the failing line, not the whole test. The command line can't say so, because the terminal plugin is off."""
        config.option.tbstyle = "short"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep this task's tests only. test_quantize_per_channel_… does not belong to quantize."""
        imports = [node for node in ast.parse(self._suite.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        names = [alias.name for node in imports if f"test_{node.module}" == self._suite.stem for alias in node.names]

        items[:] = [item for item in items if task_of(item.name, names) == self._task]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count a suite that can't be imported as a failure."""
        if report.failed:
            self.failed[report.nodeid] = report.longreprtext

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test."""
        name = report.nodeid.rpartition("::")[2]
        if report.failed:
            self.failed[name] = report.longreprtext
        elif report.when == "call" and report.passed:
            self.passed.append(name)


@contextlib.contextmanager
def _importable(name: str) -> Iterator[None]:
    """Let tests import the notebook's definitions as a module of this name."""
    saved, written = dict(sys.modules), sys.dont_write_bytecode
    module = _Notebook(name)
    module.__dict__.update(vars(sys.modules["__main__"]), __name__=name)
    sys.modules[name] = module
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        suites = [key for key, value in sys.modules.items() if str(getattr(value, "__file__", "")).startswith(str(_SUITES))]
        for key in [name, *suites]:
            sys.modules.pop(key, None)  # so that the next run imports them again
        if name in saved:
            sys.modules[name] = saved[name]


class _Notebook(types.ModuleType):
    """The notebook as a module. A name that no cell has defined yet can be imported, and fails when it is used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> None:
            raise NameError(f"{name} is not defined in this notebook: run its cell first")

        return missing


@contextlib.contextmanager
def _without_plugins() -> Iterator[None]:
    """Keep installed plugins and pytest's variables from changing what pytest does."""
    saved = {name: os.environ.pop(name, None) for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
        os.environ.update({name: value for name, value in saved.items() if value is not None})
