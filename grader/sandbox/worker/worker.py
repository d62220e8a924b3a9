"""A worker: one confined fork that loads a student's module and runs probes on it until it is killed.

Everything in this process belongs to the student as soon as the module is loaded, so nothing here is believed: the trusted process
takes the returned bytes as candidate values and never as a verdict. It knows no test, reference, seed or secret.
"""

import __future__

import _thread
import linecache
import os
import re
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any

from grader.protocol.calls import described
from grader.protocol.cells import cells_of, parse_cell, place_of
from grader.protocol.messages import HEADER, Call, Load, Loaded, Raised, Reply, Returned, pack, parse_request
from grader.protocol.probes import thaw
from grader.protocol.state import reset_state
from grader.protocol.traces import Traces
from grader.protocol.values import encode
from grader.protocol.watch import Watch, close_ways_around

__all__ = ["serve"]

CHANNEL = 3
_HIDDEN = ("grader.sandbox", "grader.protocol.watch")


def serve() -> None:
    """Answer requests on descriptor 3 until it is closed."""
    load, _ = _receive()
    assert isinstance(load, Load)
    watch = Watch(load.bans)
    close_ways_around()
    _hide_harness()
    module = types.ModuleType(load.module)
    _send(pack(_load(load, module)))
    while True:
        call, probe = _receive()
        assert isinstance(call, Call)
        _send(_call(call, probe, module, watch, load.cells))


def _hide_harness() -> None:
    """Take this code out of the reach of an import. It runs on; a probe still finds what it imports by name."""
    for name in _HIDDEN:
        parent, _, last = name.rpartition(".")
        delattr(sys.modules[parent], last)
    for name in [name for name in sys.modules if name.startswith(_HIDDEN)]:
        del sys.modules[name]


def _load(load: Load, module: types.ModuleType) -> Reply:
    filename = f"{load.module}.py"
    module.__file__ = filename
    sys.modules[load.module] = module
    linecache.cache[filename] = (len(load.source), None, load.source.splitlines(keepends=True), filename)
    reset_state(0)
    try:
        if load.cells:
            _run_cells(load, module, filename)
        else:
            exec(compile(load.source, filename, "exec"), module.__dict__)
    except BaseException as error:
        return _raised("load", error, filename, [], load.cells)
    return Loaded({task: _kind(module.__dict__.get(task)) for task in load.tasks})


def _run_cells(load: Load, module: types.ModuleType, filename: str) -> None:
    """Run a notebook cell by cell. If a cell fails, only what it would have defined is missing."""
    flags, patience = 0, _Patience(load.seconds)
    for first, text in cells_of(load.source, load.cells):
        try:
            code = compile(parse_cell(text, first, filename), filename, "exec", flags, dont_inherit=True)
            flags |= code.co_flags & __future__.annotations.compiler_flag  # holds for the cells that follow
            with patience:
                exec(code, module.__dict__)
        except (Exception, SystemExit) as error:
            for kind, name in re.findall(r"^(def|class)[ \t]+(\w+)", text, re.MULTILINE):
                if name in load.tasks and name not in module.__dict__:
                    module.__dict__[name] = _stand_in(error, kind)


class _Patience:
    """Interrupts a block that takes more than half of the remaining time, so that the blocks after it have some left.

    This helps students who try things out in a notebook. It is no defence: the limits that count are enforced from outside.
    """

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


def _stand_in(error: BaseException, kind: str) -> object:
    """Stands for a function or class whose cell failed. It raises the cell's error whenever it is used."""
    place = error.__traceback__

    def fail(*_: object, **__: object) -> None:
        raise error.with_traceback(place)

    return type("Failed", (type,), {"__call__": fail, "__getattr__": fail})("Failed", (), {}) if kind == "class" else fail


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, type):
        return "class"
    return "function" if callable(value) else type(value).__name__


def _call(call: Call, probe: bytes, module: types.ModuleType, watch: Watch, cells: list[int]) -> bytes:
    reset_state(call.seed)
    try:
        with watch.over(call.bans):
            run = thaw(probe)  # unpickling is watched too, because a student may have replaced what it calls
            traces = Traces(run)
            value = run(module)
        left = traces.left()
        node, block = encode(value)
        return pack(Returned(call.nonce, node, watch.hits, left), block)
    except BaseException as error:
        return pack(_raised(call.nonce, error, f"{module.__name__}.py", watch.hits, cells))


def _raised(nonce: str, error: BaseException, filename: str, banned: list[str], cells: list[int]) -> Raised:
    try:
        message = str(error.msg if isinstance(error, SyntaxError) and error.filename == filename else error)[:2000]
    except BaseException:
        message = ""
    line, function = _place(error, filename)
    call = _entered(error, filename) if nonce != "load" else ""
    name = type(error).__name__
    in_torch = name == "NotImplementedError" and name not in linecache.getline(filename, line)
    place = place_of(line, cells) + (f", in {function}" if function else "") if line else ""
    return Raised(nonce, _encodable(name), in_torch, _encodable(message), _encodable(place), _encodable(call), banned)


def _encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can't carry."""
    return text.encode("utf-8", "replace").decode()


def _place(error: BaseException, filename: str) -> tuple[int, str]:
    """The innermost line of the student's file that the error passed through, and its function; 0 where there is none."""
    if isinstance(error, SyntaxError) and error.filename == filename:
        return error.lineno or 0, ""
    lines = [(line, frame.f_code.co_name) for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == filename]
    return lines[-1] if lines else (0, "")


def _entered(error: BaseException, filename: str) -> str:
    """The call that led into the student's file and to the error; empty where there is none."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    own = (frame for frame in frames if frame.f_code.co_filename == filename and frame.f_code.co_name != "<module>")
    try:
        return next((described(frame) for frame in own), "")[:1000]
    except BaseException:  # an argument of the student's own that can't be described
        return ""


def _receive() -> tuple[Any, bytes]:
    body, block = HEADER.unpack(_read(HEADER.size))
    request = parse_request(_read(body))
    return request, _read(block)


def _read(size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(CHANNEL, min(size - len(data), 1 << 20))
        if not chunk:
            os._exit(0)  # the trusted process is done with this worker
        data += chunk
    return bytes(data)


def _send(data: bytes) -> None:
    sys.stdout.flush()
    frame = memoryview(data)
    while frame:
        frame = frame[os.write(CHANNEL, frame) :]
