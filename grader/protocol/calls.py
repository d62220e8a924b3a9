"""Says in words how a student's code was called: "softmax(x=float32 (2, 3), dim=1)". Shapes and dtypes only, never entries."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from inspect import CO_GENERATOR, CO_VARARGS, CO_VARKEYWORDS
from types import FrameType
from typing import Any

import torch

__all__ = ["described", "traced"]

_MOST_CALLS = 20
_LONGEST_VALUE = 40


class _Enough(BaseException):
    """Ends a traced run that makes many calls."""


def traced(run: Callable[[], object], filename: str) -> list[str]:
    """The first calls of functions in this file that a run makes from outside of the file, each once. What the run raises is left aside."""
    calls: dict[str, None] = {}
    depth = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal depth
        if frame.f_code.co_filename != filename or event not in ("call", "return"):
            return
        if event == "return":
            depth -= 1
            return
        depth += 1
        if depth == 1 and not frame.f_code.co_flags & CO_GENERATOR and not _is_private(frame.f_code.co_qualname):
            calls[described(frame)] = None
            if len(calls) == _MOST_CALLS:
                raise _Enough

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        with contextlib.suppress(Exception, _Enough):
            run()
    finally:
        sys.setprofile(before)
    return list(calls)


def _is_private(name: str) -> bool:
    """Whether a function is a helper of the reference's own, which a student does not know."""
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def described(frame: FrameType) -> str:
    """The call that a frame runs: the function's name, and its arguments as they are now."""
    code = frame.f_code
    name = code.co_qualname.rpartition("<locals>.")[2].removesuffix(".__init__")
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
    names = code.co_varnames[:count]
    given = [(name, frame.f_locals[name]) for name in names if name in frame.f_locals and name not in ("self", "cls")]
    return f"{name}({', '.join(f'{argument}={_described(value)}' for argument, value in given)})"


def _described(value: Any, depth: int = 0) -> str:
    """A value in few words."""
    match value:
        case torch.Tensor():
            layout = "" if value.layout is not torch.strided or value.is_contiguous() else " non-contiguous"
            place = "" if value.device.type == "cpu" else f" on {value.device.type}"
            return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}{layout}{place}"
        case str() | bytes() | int() | float() | complex() | None | torch.dtype() | torch.device() | slice() | range():
            text = repr(value)
            return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
        case tuple() | list() | dict() if depth < 2:
            return _container(value, depth)
        case type():
            return value.__name__
        case _:
            return getattr(value, "__name__", None) or f"a {type(value).__name__}"


def _container(value: tuple[Any, ...] | list[Any] | dict[Any, Any], depth: int) -> str:
    opening, closing = {tuple: ("(", ")"), dict: ("{", "}")}.get(type(value), ("[", "]"))
    shown = list(_items(value, depth))[:4]
    if len(value) > len(shown):
        shown.append(f"… {len(value)} in all")
    return f"{opening}{', '.join(shown)}{',' if opening == '(' and len(value) == 1 else ''}{closing}"


def _items(value: tuple[Any, ...] | list[Any] | dict[Any, Any], depth: int) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in list(value.items())[:4]:
            yield f"{_described(key, depth + 1)}: {_described(item, depth + 1)}"
    else:
        for item in value[:4]:
            yield _described(item, depth + 1)
