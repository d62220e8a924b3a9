"""The practice process: it holds torch and pytest, and runs the public tests of one task after another, or draws a task's picture.

`python -m grader.practice.process ROOT` reads requests from standard input and answers on standard output, a line of JSON each. It runs the
tests with pytest itself, so that the answer is that of `pytest --task TASK`. Nothing here confines the student's code, which is the user's
own; the other side ends the process if it hangs, and starts a new one if it dies.
"""

import ast
import contextlib
import functools
import gc
import io
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType

import msgspec
import pytest
import torch.testing
from _pytest.outcomes import Skipped

from grader.base.time_limit import OutOfTime, time_limit
from grader.practice import pytest_plugin
from grader.practice.behaviour import Recorder, digest
from grader.practice.draw import draw
from grader.practice.failure import message_of, returned_nothing, status_of, stub_in
from grader.practice.outcome import ALIVE, DrawRequest, PublicTest, Request, TaskRun, TestStatus
from grader.practice.pytest_plugin import CannotUse, StudentModules
from grader.protocol.calls import described, traced
from grader.protocol.state import reset_state

__all__ = ["run_task"]

_WITHOUT = (
    *("unraisableexception", "threadexception", "junitxml", "pastebin", "doctest", "debugging", "faulthandler"),
    *("setuponly", "setupplan", "stepwise", "cacheprovider", "unittest", "recwarn", "logging"),
)
"""Parts of pytest that no public test needs. Without them a run takes 0.05 s instead of 0.3 s."""
_LONGEST = 4_000
_RETRACE_SECONDS = 3.0
"""Failed tests are run again, to see their calls, if they took no longer than this."""
_FETCH = "fetch tests/ from where you got the exercises"


def main(arguments: list[str]) -> int:
    """Answer requests until standard input ends."""
    root = Path(arguments[0])
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)  # what C code prints must not come between the answers
        requests = sys.stdin.buffer
        null = open(os.devnull)  # noqa: SIM115  (for as long as the process lives: student code that asks for input gets none)
        sys.stdin = null
        reset_state(0)
        gc.collect()
        gc.freeze()  # torch's objects need not be looked at again
        out.write(b'{"ready":true}\n')
        for number, line in enumerate(requests):
            request = msgspec.json.decode(line, type=Request | DrawRequest)
            _forget(request.module, root / "tests" / "public")
            os.chdir(root)  # the student's code may have gone elsewhere
            answer = run_task(root, request, lambda: out.write(ALIVE)) if isinstance(request, Request) else draw(root, request)
            out.write(msgspec.json.encode(answer) + b"\n")
            if number == 0:
                _load_the_rest()
    return 0


def _load_the_rest() -> None:
    """Load what torch loads at the first comparison, which is SymPy and takes a second. The first answer need not wait for it."""
    torch.testing.assert_close(torch.zeros(1), torch.zeros(1))
    gc.collect()
    gc.freeze()


def run_task(root: Path, request: Request, on_test: Callable[[], object] = lambda: None) -> TaskRun:
    """Run the public tests of a task with pytest, on the student's module as it is now, and call `on_test` after each of them.

    Changes into `root`, from where pytest finds the suite: in a path that is given whole, it would take "[" for a parameter of a test.
    """
    suite = Path("tests", "public", f"test_{request.module}.py")
    if not (root / suite).is_file():
        return TaskRun(request.module, request.task, problem=f"{suite.as_posix()} is missing: {_FETCH}.")
    os.chdir(root)
    listener = _Listener(root, request, on_test)
    options = [
        "-q",
        "--color=no",
        "--no-header",
        "--no-summary",
        "--capture=sys",
        "--import-mode=importlib",
    ]
    options += [part for name in _WITHOUT for part in ("-p", f"no:{name}")]
    options += ["-c", os.devnull, "--rootdir", str(root), "--code", request.code, "--task", request.task]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = pytest.main([str(suite), *options], plugins=[pytest_plugin, listener])
    said = printed.getvalue().strip()[-_LONGEST:]
    problem = listener.problem
    if status == pytest.ExitCode.INTERNAL_ERROR:
        problem = f"pytest failed: {said}"
    elif not problem and not listener.tests:
        nothing = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        problem = (
            f"{suite.as_posix()} has no test of {request.task}: {_FETCH}."
            if nothing
            else f"No test of {request.task} ran: {said.removeprefix('ERROR: ')}"
        )
    run = TaskRun(request.module, request.task, listener.tests, problem, listener.seconds, listener.printed[:_LONGEST])
    if problem or run.passed or run.untouched or listener.seconds > _RETRACE_SECONDS:
        return run
    return msgspec.structs.replace(run, fingerprint=listener.fingerprint())


def _forget(module: str, suites: Path) -> None:
    """Drop what earlier runs imported and set, so that each run starts as the first one did."""
    folders = {str(finder.folder) for finder in sys.meta_path if isinstance(finder, StudentModules)} | {str(suites)}
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, StudentModules)]
    sys.path[:] = [path for path in sys.path if path not in folders]
    for name, loaded in list(sys.modules.items()):
        file = getattr(loaded, "__file__", None)
        if name == module or (file and file.rpartition(os.sep)[0] in folders):
            del sys.modules[name]
    linecache.checkcache()


class _Listener:
    """A plugin of pytest that makes a PublicTest of every report."""

    def __init__(self, root: Path, request: Request, on_test: Callable[[], object]) -> None:
        self._root, self._file, self._task = root, root / request.code / f"{request.module}.py", request.task
        self._on_test = on_test
        suite = root / "tests" / "public" / f"test_{request.module}.py"
        self._way = {suite, *suite.parents}
        self.tests: list[PublicTest] = []
        self.problem, self.printed, self.seconds = "", "", 0.0
        self._bodies: list[Callable[[], object]] = []

    def fingerprint(self) -> str:
        """How the answer behaves: all tests once more, with every call noted."""
        recorder = Recorder(str(self._file))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for body in self._bodies:
                reset_state(0)
                with contextlib.suppress(OutOfTime), time_limit(_RETRACE_SECONDS):
                    recorder.run(body)
        return digest(recorder.notes)

    @pytest.hookimpl(tryfirst=True)
    def pytest_ignore_collect(self, collection_path: Path) -> bool:
        """Look at nothing beside the suite: the other suites need no run of their own."""
        return collection_path not in self._way

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            *_, last = str(report.longrepr).strip().splitlines()
            self.problem = f"tests/public/test_{self._file.name} can't be read: {last.removeprefix('E').strip()}. To mend it, {_FETCH}."

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Name what a student's code raised. pytest itself raises something of the kind for a suite that can't be read."""
        place, _ = self._of_import(excinfo.value)
        if place:
            self.problem = f"Your code raised {excinfo.typename} in {place}, which ends Python: raise another exception."

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        reset_state(0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Function, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "call":
            self.seconds += call.duration
        if call.when == "call" or call.excinfo is not None:
            self._bodies.append(
                functools.partial(item.obj, **{name: item.funcargs[name] for name in item._fixtureinfo.argnames if name in item.funcargs})
            )
            printed = any(name.startswith("Captured stdout") for name, _ in report.sections)
            self.tests.append(self._test(item, call.excinfo.value if call.excinfo else None, call.duration, printed=printed))
            if self.tests[-1].status is TestStatus.TIMED_OUT:
                item.session.shouldstop = "a test ran out of time"  # an endless loop costs its time once, not once a test
            self.printed += "".join(text for name, text in report.sections if name.startswith("Captured std"))
            self._on_test()
        return report

    def _test(self, item: pytest.Function, error: BaseException | None, seconds: float, *, printed: bool) -> PublicTest:
        name, checks = item.name, (item.function.__doc__ or "").strip()
        if error is None:
            return PublicTest(name, checks, TestStatus.PASSED)
        if isinstance(error, Skipped):
            return PublicTest(name, checks, TestStatus.SKIPPED, str(error.msg))
        frames = list(traceback.walk_tb(error.__traceback__))
        own = [(frame, line) for frame, line in frames if frame.f_code.co_filename == str(self._file)]
        stub = stub_in(error, str(self._file))
        message = message_of(error, self._task, stub)
        place = source = call = ""
        if isinstance(error, CannotUse):
            place, source = self._of_import(error.__cause__)
        elif own:
            elsewhere = stub is not None and stub.task != self._task and len(own) > 1
            _, line = own[-2] if elsewhere else own[-1]  # rather the line that calls a stub than the stub
            place, source = self._place(str(self._file), line), linecache.getline(str(self._file), line).strip()
            with contextlib.suppress(Exception):  # an argument of the student's own that can't be described
                call = described(own[0][0])
        elif seconds < _RETRACE_SECONDS and not item.funcargs:
            reset_state(0)
            body = functools.partial(_try, item.obj)
            with contextlib.redirect_stdout(io.StringIO()):
                call = "; ".join(traced(body, str(self._file))[-2:])
                reset_state(0)
                if not isinstance(error, pytest.fail.Exception) and returned_nothing(body, str(self._file)):
                    message = f"It returned None: is a `return` missing?{' Printing is not returning.' * printed}\n{message}"
        in_test = [(frame, line) for frame, line in frames if frame.f_code.co_filename == str(item.path)]
        test_line = in_test[-1][1] if in_test else 0
        statement = _statement(item.path, test_line) if in_test else ""
        return PublicTest(
            name,
            checks,
            status_of(error, self._task, stub, in_student=bool(own)),
            message[:_LONGEST],
            call[:1000],
            place,
            source,
            self._place(str(item.path), test_line) if in_test else "",
            statement,
        )

    def _of_import(self, error: BaseException | None) -> tuple[str, str]:
        """Where the import of the student's module went wrong."""
        if isinstance(error, SyntaxError) and error.lineno:
            return self._place(str(self._file), error.lineno), (error.text or "").rstrip()
        trace: TracebackType | None = error.__traceback__ if error else None
        lines = [line for frame, line in traceback.walk_tb(trace) if frame.f_code.co_filename == str(self._file)]
        return (self._place(str(self._file), lines[-1]), linecache.getline(str(self._file), lines[-1]).strip()) if lines else ("", "")

    def _place(self, file: str, line: int) -> str:
        path = Path(file)
        return f"{path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else path}:{line}"


def _try(test: Callable[[], object]) -> None:
    """Run a test, however it ends. What pytest.raises, pytest.fail and sys.exit raise is no Exception."""
    with contextlib.suppress(Exception, pytest.fail.Exception, SystemExit):
        test()


def _statement(path: Path, line: int) -> str:
    """The statement of a test that a line belongs to."""
    text = path.read_text(encoding="utf-8")
    with contextlib.suppress(SyntaxError):
        statements = [
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)
        ]
        if statements:
            node = max(statements, key=lambda node: node.lineno)
            if not hasattr(node, "body"):
                return ast.get_source_segment(text, node) or ""
    return text.splitlines()[line - 1].strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
