"""A worker: one confined fork that loads a student's module and runs probes on it until it is killed.

Everything in this process belongs to the student as soon as the module is loaded, so nothing here is believed: the trusted process
takes the returned bytes as candidate values and never as a verdict. It knows no test, reference, seed or secret.
"""

import linecache
import os
import sys
import traceback
import types
from typing import Any

from grader.protocol.calls import described
from grader.protocol.cells import place_of
from grader.protocol.messages import HEADER, Call, Load, Loaded, Raised, Reply, Returned, pack, parse_request
from grader.protocol.probes import thaw
from grader.protocol.state import reset_state
from grader.protocol.traces import Traces
from grader.protocol.values import encode
from grader.protocol.watch import Watch, close_ways_around
from grader.sandbox.worker.source import run_cells, run_module

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
            run_cells(load.source, load.cells, load.tasks, load.seconds, module, filename)
        else:
            run_module(load.source, module, filename)
    except BaseException as error:
        return _raised("load", error, filename, [], load.cells)
    return Loaded({task: _kind(module.__dict__.get(task)) for task in load.tasks})


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
    advice = _advice(error, message)
    return Raised(nonce, _encodable(name), in_torch, _encodable(message), _encodable(place), _encodable(call), banned, advice)


def _advice(error: BaseException, message: str) -> str:
    """What to do about something that works elsewhere and not in a worker; empty for all else."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(part in file for file in files for part in ("multiprocessing", "subprocess.py", "concurrent/futures/process")):
        return "No processes can be started here: use num_workers=0 in a DataLoader, and neither multiprocessing nor subprocess"
    if any(part in message for part in ("not compiled with CUDA", "NVIDIA driver", "CUDA is not available", "support for mps")):
        return "There is no such device here: take the device from an input (x.device), or ask is_available() first"
    if "urlopen error" in message or "name resolution" in message:
        return "There is no network here: use what the task gives"
    return ""


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
