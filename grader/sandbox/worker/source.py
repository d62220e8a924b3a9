"""Runs a student's source in a worker: a module as Python does, and a notebook as Jupyter does, cell by cell.

Two things are kinder than there. A package that is missing costs only what uses it. And a cell that fails costs only what it defines.
All of this helps students who try things out. It is no defence: the limits that count are enforced from outside.
"""

import __future__

import _thread
import ast
import contextlib
import io
import re
import signal
import threading
import time
import types
from collections.abc import Sequence
from typing import Any

from grader.protocol.cells import cells_of, parse_cell

__all__ = ["run_cells", "run_module"]

_CO_COROUTINE = 0x80
"""inspect's flag of code with an `await` at its top."""


def run_module(source: str, module: types.ModuleType, filename: str) -> None:
    """Run a module's source. Raises: whatever it raises, except for the import of a package that is not here."""
    before = dict(module.__dict__)
    try:
        exec(compile(source, filename, "exec"), module.__dict__)
    except ModuleNotFoundError:
        module.__dict__.clear()
        module.__dict__.update(before)
        _run_forgiving(ast.parse(source, filename), module, filename, 0)


def run_cells(source: str, starts: Sequence[int], tasks: Sequence[str], seconds: float, module: types.ModuleType, filename: str) -> None:
    """Run a notebook's cells, for so many seconds together. If a cell fails, only what it would have defined is missing.

    What Jupyter gives for nothing is there: `display`, `get_ipython`, and `await` at the top of a cell. What cells print is dropped.
    """
    flags, patience = 0, _Patience(seconds)
    given = {"display": _nothing, "get_ipython": _Shell}
    module.__dict__.update({name: value for name, value in given.items() if name not in tasks})
    with contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()):
        for first, text in cells_of(source, starts):
            try:
                with patience:
                    flags |= _run_cell(text, first, module, filename, flags)
            except BaseException as error:  # such as SystemExit, or asyncio's CancelledError
                for kind, name in re.findall(r"^(def|class)[ \t]+(\w+)", text, re.MULTILINE):
                    if name in tasks and _is_open(module.__dict__.get(name)):
                        module.__dict__[name] = _stand_in(error, kind)


def _is_open(value: object) -> bool:
    """Whether nothing, or a stub as it was given out, has a task's name so far."""
    parts = vars(value).values() if isinstance(value, type) else [value]
    codes = [part.__code__ for part in parts if isinstance(part, types.FunctionType)]
    return value is None or any("NotImplementedError" in code.co_names for code in codes)


def _run_cell(text: str, first: int, module: types.ModuleType, filename: str, flags: int) -> int:
    """Run a cell. Returns: the flag for `from __future__ import annotations`, which holds for the cells that follow, or 0."""
    tree = parse_cell(text, first, filename)
    code = compile(tree, filename, "exec", flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    try:
        _run(code, module)
    except ModuleNotFoundError:
        _run_forgiving(tree, module, filename, flags)
    return int(code.co_flags & __future__.annotations.compiler_flag)


def _run(code: types.CodeType, module: types.ModuleType) -> None:
    if code.co_flags & _CO_COROUTINE:
        _await(eval(code, module.__dict__))
    else:
        exec(code, module.__dict__)


# ---- packages that are not here


def _run_forgiving(tree: ast.Module, module: types.ModuleType, filename: str, flags: int) -> None:
    """Run code whose imports may fail: the name of a package that is missing stands for its error, which comes when it is used.

    A statement that uses it, such as `plt.style.use("dark")`, costs what the statement would have bound.
    """
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            body += [_tried(ast.copy_location(ast.Import([alias]), node)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "__future__":
            body.append(node)
        else:
            body.append(_tried(node))

    def missing(name: str, kind: str, error: BaseException) -> object:
        return module.__dict__[name] if name in module.__dict__ else _stand_in(error, kind)  # `import torch.nosuch` leaves torch

    module.__dict__[_MISSING] = missing
    try:
        _run(
            compile(ast.Module(body, tree.type_ignores), filename, "exec", flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True),
            module,
        )
    finally:
        del module.__dict__[_MISSING]


def _tried(node: ast.stmt) -> ast.stmt:
    """A statement, after whose failure for want of a package the names that it binds stand for the error."""
    kind = "def" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "class"
    lines = [f"{name} = {_MISSING}({name!r}, {kind!r}, {_ERROR})\n" for name in _bound(node)]
    tried = ast.parse(f"try: pass\nexcept ModuleNotFoundError as {_ERROR}: pass").body[0]
    assert isinstance(tried, ast.Try)
    tried.handlers[0].body = ast.parse("".join(lines) or "pass").body
    for part in ast.walk(tried):
        ast.copy_location(part, node)
    tried.body = [node]
    return tried


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names if alias.name != "*"]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]


_MISSING, _ERROR = "__grader_missing__", "__grader_error__"


def _stand_in(error: BaseException, kind: str) -> object:
    """Stands for a function (kind "def"), or a class, package or value that could not be had. It raises the error whenever it is used."""
    place = error.__traceback__

    def fail(*_: object, **__: object) -> None:
        raise error.with_traceback(place)

    if kind == "def":
        return fail
    operators = [f"__{side}{name}__" for name in ("add", "sub", "mul", "truediv", "matmul", "pow") for side in ("", "r")]
    uses = dict.fromkeys(["__call__", "__getattr__", "__getitem__", "__iter__", "__len__", *operators], fail)
    return type("Failed", (type,), uses)("Failed", (), {})


# ---- what Jupyter gives for nothing


def _nothing(*_: object, **__: object) -> None:
    """Stands for what shows things in a notebook."""


class _Shell:
    """Stands for Jupyter's shell, whose commands do nothing here."""

    def __getattr__(self, name: str) -> Any:
        return _nothing


class _Nowhere(io.TextIOBase):
    """Takes what cells print, and drops it: a long print would otherwise end the module."""

    @property
    def buffer(self) -> Any:
        """Takes bytes, too."""
        return self

    def write(self, text: str) -> int:
        return len(text)

    def writable(self) -> bool:
        return True


def _await(coroutine: Any) -> None:
    """Run a coroutine to its end. asyncio's own loops need a socket, which a worker may not have."""
    import asyncio

    class Loop(asyncio.BaseEventLoop):
        def __init__(self) -> None:
            super().__init__()
            self._selector = types.SimpleNamespace(select=_sleep)

        def _process_events(self, events: object) -> None:
            pass

        def _write_to_self(self) -> None:
            pass

    loop = Loop()
    try:
        loop.run_until_complete(coroutine)
    finally:
        loop.close()


def _sleep(seconds: float | None) -> list[object]:
    time.sleep(seconds or 0)
    return []


class _Patience:
    """Interrupts a block that takes more than half of the remaining time, so that the blocks after it have some left."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._running = False
        signal.signal(signal.SIGALRM, self._interrupt)

    def __enter__(self) -> None:
        self._start = time.monotonic(), time.process_time()
        self._running, self._done = True, threading.Event()
        self._watch = threading.Thread(target=self._wait, daemon=True)
        self._watch.start()

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._done.set()
        self._watch.join()
        self._left -= self._used()

    def _used(self) -> float:
        return max(time.monotonic() - self._start[0], time.process_time() - self._start[1])

    def _wait(self) -> None:
        while not self._done.wait(0.05):
            if self._used() > self._left / 2:
                _thread.interrupt_main(signal.SIGALRM)
                return

    def _interrupt(self, *_: object) -> None:
        if self._running:
            raise TimeoutError("this cell computes for too long: take out of what you hand in what no task needs")
