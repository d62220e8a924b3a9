"""The pytest plugin of the public tests: they import the modules of exercises/, and one failing module stops no other.

    pytest --task one_hot     exactly this task's tests; can be given again
    pytest --code FOLDER      tests the modules in another folder

pyproject.toml loads it with `-p`. Only the files that can hold a wanted test are collected, so that only the modules that are needed are
imported. Every test has `TEST_SECONDS` to run. Tests outside of tests/public are left alone. Uses the standard library, pytest and
`grader.base`, since it is shipped with the autograder of Classroom 50, too.
"""

import contextlib
import functools
import importlib.util
import os
import re
import sys
import tomllib
from collections.abc import Generator, Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from grader.base.text import look_alikes
from grader.base.time_limit import ONE_THREAD, TEST_SECONDS, time_limit
from grader.practice.unseen import unseen

__all__ = ["INPUT", "CannotUse", "StudentModules", "asks_for_input", "owner_of"]

INPUT = "asks for input(), and tests give none: use the arguments"
"""What is wrong with code that reads from the keyboard."""


# ---- the student's modules


class CannotUse(Exception):
    """A test uses a name that the student's module does not have, or a module that can't be imported."""


class _StandIn:
    """Takes the place of a name that can't be had. It raises when a test uses it, so that only this test fails."""

    def __init__(self, sentence: str, cause: BaseException | None) -> None:
        self._sentence, self._cause = sentence, cause

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise CannotUse(self._sentence) from self._cause

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise CannotUse(self._sentence) from self._cause


class _StudentLoader(Loader):
    def __init__(self, path: Path) -> None:
        self._path = path

    def exec_module(self, module: ModuleType) -> None:
        error: BaseException | None = None
        try:
            code = compile(self._path.read_bytes(), str(self._path), "exec")
            with time_limit(TEST_SECONDS):
                exec(code, module.__dict__)
        except KeyboardInterrupt:
            raise
        except BaseException as caught:  # SystemExit is one that students write
            error = caught
            for name in [name for name in module.__dict__ if not name.startswith("__")]:
                del module.__dict__[name]  # what was defined before the error is no answer: the official grading has none of it
        file = self._path.name

        def missing(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _StandIn(f"{file} can't be imported: {_describe(error, file)}" if error else f"{file} has no {name}", error)

        module.__dict__.setdefault("__getattr__", missing)


def asks_for_input(error: BaseException) -> bool:
    """Whether code read from the keyboard, which pytest refuses."""
    return isinstance(error, OSError) and "reading from stdin while output is captured" in str(error)


def _describe(error: BaseException, file: str) -> str:
    if isinstance(error, FileNotFoundError) and Path(str(error.filename)).name == file:
        return f"there is no such file. `grader reset {Path(file).stem}` makes it"
    if asks_for_input(error):
        return f"it {INPUT}"
    if isinstance(error, SyntaxError):
        return f"{error.msg} in line {error.lineno}" if error.lineno else str(error.msg)
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{text} in line {lines[-1]}" if lines else text


class StudentModules(MetaPathFinder):
    """Finds the course's modules in a folder. One that can't be imported, or that lacks a name, fails only the tests that use it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """A spec for FOLDER/NAME.py, where NAME is a module of the course. A file torch.py does not take torch's place."""
        file = self.folder / f"{name}.py"
        if path is not None or name not in self.names:
            return None
        return importlib.util.spec_from_file_location(name, file, loader=_StudentLoader(file))


# ---- options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --code and --task."""
    group = parser.getgroup("exercises")
    group.addoption("--code", default="exercises", metavar="FOLDER", help="the folder of the modules under test")
    group.addoption("--task", action="append", default=[], metavar="TASK", help="run this task's public tests; can be given again")


def pytest_configure(config: pytest.Config) -> None:
    """Give torch one thread, if it is not imported yet. Refuse a task that does not exist."""
    for name, value in ONE_THREAD.items():
        os.environ.setdefault(name, value)
    known = _tasks(config.rootpath)
    if config.option.task and not known:
        path = config.rootpath / "course.toml"
        what = "can't be read" if path.exists() else "is missing"
        raise pytest.UsageError(f"{path} {what}: fetch it from where you got the exercises")
    for name in config.option.task:
        if name not in known:
            close = look_alikes(name, known)
            raise pytest.UsageError(
                f"there is no task {name!r}{f': do you mean {close[0]}?' if close else ': `grader list` shows the tasks'}"
            )


def _public(config: pytest.Config) -> Path:
    return config.rootpath / "tests" / "public"


# ---- which tests


def owner_of(test: str, tasks: Iterable[str]) -> str | None:
    """The task that a public test is named after, None if there is none. Of `quantize` and `quantize_bias`, the longer."""
    return max((task for task in tasks if test.startswith(f"test_{task}")), key=len, default=None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over a suite that can't hold a wanted test: importing it would import a module that nobody asked for."""
    if collection_path.parent != _public(config) or not collection_path.is_file():
        return None
    if config.option.task:
        tasks = _tasks(config.rootpath)
        if collection_path.stem not in {f"test_{tasks[name]}" for name in config.option.task}:
            return True
    words = _words(config.option.keyword)
    if words and not _holds(collection_path, words):
        others = [path for path in collection_path.parent.glob("test_*.py") if path != collection_path]
        if any(_holds(path, words) for path in others):  # else no file has the words: leave it to pytest
            return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the tasks that were named."""
    if config.option.task:
        tasks = list(_tasks(config.rootpath))
        kept = [item for item in items if owner_of(item.name, tasks) in config.option.task]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _tasks(root: Path) -> dict[str, str]:
    """The module of every task, by the task's name. Empty where there is no manifest."""
    path = root / "course.toml"
    return _tasks_of(path, path.stat().st_mtime_ns) if path.is_file() else {}


@functools.lru_cache(maxsize=1)
def _tasks_of(path: Path, _: int) -> dict[str, str]:
    """The same of a file that was changed at that time; reading it takes long."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        manifest = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return {task["name"]: module["name"] for module in manifest["modules"] for task in module["tasks"]}
    return {}


def _words(keyword: str) -> list[str]:
    """The words of -k of which a test must have one. None if it says "not": then a test needs none of them."""
    words = re.findall(r"[^\s()]+", keyword)
    return [] if "not" in words else [word.lower() for word in words if word not in ("and", "or")]


def _holds(path: Path, words: Sequence[str]) -> bool:
    """Whether a file has one of the words, as the name of one of its tests must, or as the file's own name."""
    with contextlib.suppress(OSError):
        text = f"{path}\n{path.read_text(encoding='utf-8', errors='replace')}".lower()
        return any(word in text for word in words)
    return True


# ---- running


def pytest_make_collect_report(collector: pytest.Collector) -> None:
    """Before a public suite is imported, see to it that it can import the student's module.

    Where one of them uses torchvision, import that first: beside a CPU build of torch it needs a hand (and always a second or two).
    """
    public, code = _public(collector.config), collector.config.rootpath / collector.config.option.code
    if not isinstance(collector, pytest.Module) or collector.path.parent != public:
        return
    if not any(isinstance(finder, StudentModules) for finder in sys.meta_path):
        modules = [path.stem.removeprefix("test_") for path in public.glob("test_*.py")]
        sys.meta_path.insert(0, StudentModules(code, modules))
        sys.path.append(str(code))  # helper files can be imported while one practises; behind torch and all others
    with contextlib.suppress(OSError, ImportError):
        paths = collector.path, code / collector.path.name.removeprefix("test_")
        if any("torchvision" in path.read_text(encoding="utf-8", errors="replace") for path in paths):
            from grader.base.torchvision_compat import import_torchvision

            import_torchvision()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Give each public test its time, and go on with the next."""
    with time_limit(TEST_SECONDS) if item.path.parent == _public(item.config) else contextlib.nullcontext():
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the official grading would not see."""
    if not config.option.no_summary and any(isinstance(finder, StudentModules) for finder in sys.meta_path):
        modules = [path.stem.removeprefix("test_") for path in _public(config).glob("test_*.py")]
        for sentence in unseen(config.rootpath, config.option.code, modules):
            terminalreporter.line(sentence, yellow=True)
