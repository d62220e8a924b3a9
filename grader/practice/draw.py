"""Computes the numbers of a task's picture, in the practice process: imports the module, runs the call, and makes rows of what it gives."""

import ast
import builtins
import contextlib
import importlib
import io
import math
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from grader.base.text import one_line
from grader.base.time_limit import TEST_SECONDS, OutOfTime, time_limit
from grader.course.manifest import Show
from grader.practice.failure import stub_in
from grader.practice.outcome import Drawing, DrawRequest
from grader.practice.pytest_plugin import CannotUse, StudentModules
from grader.protocol.state import reset_state

__all__ = ["MOST_NUMBERS", "draw"]

MOST_NUMBERS = 4_000
"""A picture of more would be too fine to see, and too much to keep."""
_DIGITS = 4
_WANTED = {"heatmap": "a matrix", "points": "an (N, 2) matrix"}
_CURVES = "a vector, or a matrix with a row for each curve"


def draw(root: Path, request: DrawRequest) -> Drawing:
    """Run the call of a picture on the module as it is now, with all generators seeded."""
    file = root / request.code / f"{request.module}.py"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), time_limit(TEST_SECONDS):
            value, over = _evaluate(file, request)
        return Drawing(_rows(request.show.kind, value), _rows("lines", over)[0] if request.show.over else [])  # type: ignore[arg-type]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit is one that students write
        return Drawing(problem=_problem(error, file, request))


def _evaluate(file: Path, request: DrawRequest) -> tuple[object, object]:
    show = request.show
    if "torchvision" in file.read_text(encoding="utf-8", errors="replace"):
        from grader.base.torchvision_compat import import_torchvision

        import_torchvision()
    sys.meta_path.insert(0, StudentModules(file.parent, [request.module]))
    sys.path.append(str(file.parent))  # as for the public tests, behind all others
    module = importlib.import_module(request.module)
    names: dict[str, Any] = {name: getattr(module, name) for name in _names(show) if name in vars(module) or not hasattr(builtins, name)}
    names["torch"] = torch
    reset_state(0)
    exec(show.setup, names)
    value = eval(show.call.strip(), names)
    return value, eval(show.over.strip(), names) if show.over else None


def _names(show: Show) -> set[str]:
    """The names that the code of a picture uses. Those that it sets itself are among them; they take the module's place."""
    trees = [ast.parse(code.strip()) for code in (show.setup, show.call, show.over)]
    return {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}


class _NoNumbers(Exception):
    """The call gave something that can't be drawn; the text says what."""


def _rows(kind: str, value: object) -> list[list[float | str]]:
    """A value as rows of numbers. Raises: _NoNumbers."""
    try:
        tensor = (value.detach().resolve_conj() if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)).double()
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    wanted = _WANTED.get(kind, _CURVES)
    if tensor is None:
        raise _NoNumbers(f"gave {_described(value)}, not {wanted}")
    if tensor.ndim == 1 and kind in ("lines", "steps"):
        tensor = tensor[None]
    if tensor.ndim != 2 or (kind == "points" and tensor.shape[1] != 2) or not tensor.numel():
        raise _NoNumbers(f"gave {_described(value)}, not {wanted}")
    if tensor.numel() > MOST_NUMBERS:
        raise _NoNumbers(f"gave {_described(value)}, more than the {MOST_NUMBERS:,} numbers that can be drawn")
    return [[_rounded(number) for number in row] for row in tensor.tolist()]


def _rounded(number: float) -> float | str:
    """Four digits, without the .0 of whole numbers; and no minus before zero."""
    if not math.isfinite(number):
        return str(number)
    short = float(f"{number:.{_DIGITS}g}") or 0.0
    return int(short) if short.is_integer() and abs(short) < 1e9 else short


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _problem(error: BaseException, file: Path, request: DrawRequest) -> str:
    """One sentence on why there are no numbers."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    if stub := stub_in(error, str(file)):
        return stub.problem(request.task) or f"{request.task} is not written yet."
    if isinstance(error, FileNotFoundError) and error.filename == str(file):
        return f"{request.code}/{file.name} is missing."
    if isinstance(error, CannotUse):
        return f"{error}."
    if isinstance(error, _NoNumbers):
        return f"The call {error}."
    if isinstance(error, OutOfTime):
        return f"The call did not end within {TEST_SECONDS:g} seconds: is there an endless loop?"
    text = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    return f"The call raised {text} in {request.code}/{file.name}:{lines[-1]}." if lines else f"The call raised {text}."
