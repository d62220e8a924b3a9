"""Functions and classes that a task forbids: found in the source, and watched for while a probe runs.

Best effort, in two layers, and reported by name: the trusted process reads the source; the worker watches torch functions, aten
operators and the classes and Python functions that are named. A determined evader can pass both (see SECURITY.md).

A ban is a dotted public name such as "torch.softmax". It covers every spelling with the same last part: function, tensor method,
nn.functional, torch.ops.aten, in place or not.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from grader.course.definitions import needed_for
from grader.protocol.cells import cells_of, parse_cell, place_of

__all__ = ["BannedCall", "Watch", "exists", "in_source", "leaf"]


class BannedCall(Exception):
    """A probe ran into something that its task forbids."""


def leaf(name: str) -> str:
    """The last part of a dotted or `aten::` name, without what marks private, in-place and namespaced variants of one operation."""
    last = name.replace("::", ".").rsplit(".", 1)[-1].strip("_")
    return last.removeprefix("linalg_").removeprefix("special_").removeprefix("safe_").removeprefix("sparse_")


# ---- in the source


def in_source(source: str, task: str, bans: Iterable[str], cells: tuple[int, ...] = ()) -> str | None:
    """Find the first use of a banned name in a task or in what it uses of its module.

    Returns: "torch.softmax, line 12", or None. A source that does not parse has no uses: loading it fails anyway. Of a notebook, whose
    cells begin at the lines `cells`, this holds for each cell.
    """
    wanted = {leaf(ban): ban for ban in bans}
    if not wanted:
        return None
    try:
        tree, aliases = _parse(source, cells)
    except (RecursionError, MemoryError):
        return None
    for node in needed_for([task], tree.body):
        for part in ast.walk(node):
            name = _dotted(part, aliases)
            if name and name.split(".")[0] == "torch" and leaf(name) in wanted:
                return f"{wanted[leaf(name)]}, {place_of(part.lineno, cells)}"  # type: ignore[attr-defined]
            if name and name.startswith(_PRIVATE):
                return f"{name}, {place_of(part.lineno, cells)}"  # type: ignore[attr-defined]
    return None


@functools.lru_cache(maxsize=4)
def _parse(source: str, cells: tuple[int, ...]) -> tuple[ast.Module, dict[str, str]]:
    tree = ast.Module([], [])
    for first, text in cells_of(source, cells):
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            tree.body += parse_cell(text, first, "student").body
    return tree, _aliases(tree)


def _aliases(tree: ast.AST) -> dict[str, str]:
    """What imported names stand for, anywhere in the module: {"F": "torch.nn.functional"}."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


_PRIVATE = ("torch._refs", "torch._decomp", "torch._prims", "torch._C")
"""Where torch keeps second copies of its operators: no honest answer to a task with bans needs them."""
_LONGEST_NAME = 12


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """The full name that an expression spells, `getattr` with a literal included; None for what can't be a name of torch's."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < _LONGEST_NAME:
        parts.append(node.attr)
        node = node.value
    base = aliases.get(node.id) if isinstance(node, ast.Name) else _from_getattr(node, aliases)
    return base and ".".join([base, *reversed(parts)])


def _from_getattr(node: ast.AST, aliases: dict[str, str]) -> str | None:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) >= 2:
        holder, name = node.args[0], node.args[1]
        base = aliases.get(holder.id) if isinstance(holder, ast.Name) else None
        if base and isinstance(name, ast.Constant) and isinstance(name.value, str):
            return f"{base}.{name.value}"
    return None


# ---- while a probe runs


class Watch:
    """Counts forbidden calls while a probe runs, and stops them.

    Made before the student's module is loaded, so that the names it imports are watched ones.
    """

    def __init__(self, bans: Iterable[str]) -> None:
        self.hits: list[str] = []
        self._active: dict[str, str] = {}
        for ban in bans:
            self._wrap(ban)

    @contextmanager
    def over(self, bans: Iterable[str]) -> Iterator[None]:
        """Watch for these bans within the block."""
        self.hits, self._active = [], {leaf(ban): ban for ban in bans}
        operators = any(hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, f"_{name}") for name in self._active)
        try:
            if operators:  # the modes slow every operation down, so they are entered only where they can see something
                with self._modes(), _in_new_threads(self._modes):
                    yield
            else:
                yield
        finally:
            self._active = {}

    def note(self, name: str) -> None:
        """Record a call. Raises: BannedCall if it is forbidden now."""
        ban = self._active.get(leaf(name))
        if ban is not None:
            self.hits.append(ban)
            raise BannedCall(f"{ban} is not allowed in this task")

    @contextmanager
    def _modes(self) -> Iterator[None]:
        with _Functions(self), _Operators(self):
            yield

    def _wrap(self, ban: str) -> None:
        parent, name = _resolve(ban)
        target = getattr(parent, name, None)
        if inspect.isclass(target):
            setattr(target, "__init__", self._noting(target.__init__, name))  # noqa: B010
        elif inspect.isfunction(target):
            wrapped = self._noting(target, name)
            setattr(parent, name, wrapped)
            home = importlib.import_module(target.__module__)
            if getattr(home, name, None) is target:
                setattr(home, name, wrapped)

    def _noting(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def noting(*args: Any, **kwargs: Any) -> Any:
            self.note(name)
            return function(*args, **kwargs)

        del noting.__wrapped__  # the way around
        return noting


@contextmanager
def _in_new_threads(modes: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter `modes` in every thread that is started within the block: torch's modes hold for one thread only."""
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def watched(thread: threading.Thread) -> None:
        with modes():
            bootstrap(thread)

    threading.Thread._bootstrap_inner = watched  # type: ignore[attr-defined]
    try:
        yield
    finally:
        threading.Thread._bootstrap_inner = bootstrap  # type: ignore[attr-defined]


def exists(ban: str) -> bool:
    """True where a ban names something that this torch has."""
    try:
        parent, name = _resolve(ban)
    except (ImportError, AttributeError):
        return False
    return hasattr(parent, name)


def _resolve(ban: str) -> tuple[Any, str]:
    """The object that holds a dotted name's last part, and that part."""
    first, *middle, name = ban.split(".")
    holder: Any = importlib.import_module(first)
    for index, part in enumerate(middle):
        if not hasattr(holder, part):
            importlib.import_module(".".join([first, *middle[: index + 1]]))
        holder = getattr(holder, part)
    return holder, name


class _Functions(TorchFunctionMode):
    """Sees calls of torch's Python surface: torch.x, Tensor.x, torch.nn.functional.x."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._watch.note(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Sees the aten operators that are reached, by whichever road."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to see to that for every operator took a fifth of the watching

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._watch.note(func._schema.name)
        return func(*args, **(kwargs or {}))
