"""Functions and classes that a task forbids, watched while a probe runs.

A ban is a dotted public name such as "torch.softmax". It covers every spelling with the same last part: function, tensor method,
nn.functional, torch.ops.aten, in place or not.

Operators are watched at the dispatcher: while a probe runs, the kernels of the forbidden operators are replaced by kernels that note the
call and raise. So a call is seen in every thread, with torch's modes disabled, under vmap, while tracing, on meta tensors, and inside
another operator. No other operator becomes slower. Classes, Python functions and factories such as `torch.zeros` are replaced by name,
before the student's module is loaded.

Sources: torch/library.py, and c10/core/DispatchKey.h for the keys.
"""

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["BannedCall", "Watch", "exists", "leaf", "operators", "prepare"]


class BannedCall(Exception):
    """A probe ran into something that its task forbids."""


def leaf(name: str) -> str:
    """The last part of a dotted or `aten::` name, without what marks private, in-place and namespaced variants of one operation."""
    last = name.replace("::", ".").rsplit(".", 1)[-1].strip("_")
    return last.removeprefix("linalg_").removeprefix("special_").removeprefix("safe_").removeprefix("sparse_")


@functools.cache
def operators() -> dict[str, list[str]]:
    """The operators that take a tensor, overload by overload ("aten::mean.dim"), by their `leaf`.

    Factories are missing on purpose: other operators call `empty` and its like, so their kernels run in honest code too.
    """
    dispatched = set(torch._C._dispatch_get_all_op_names())
    found: dict[str, list[str]] = {}
    for schema in torch._C._jit_get_all_schemas():
        name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
        takes_tensor = any("Tensor" in str(argument.type) for argument in schema.arguments if not argument.is_out)
        if takes_tensor and name in dispatched:
            found.setdefault(leaf(schema.name), []).append(name)
    return found


class Watch:
    """Notes forbidden calls while a probe runs, and stops them.

    Made before the student's module is loaded, so that the names it imports are watched ones.
    """

    def __init__(self, bans: Iterable[str]) -> None:
        self.hits: list[str] = []
        self._active: dict[str, str] = {}
        self._bans: tuple[str, ...] = ()
        self._by_leaf: dict[str, str] = {}
        self._libraries: dict[str, torch.library.Library] = {}
        for ban in bans:
            self._replace(ban)

    @contextmanager
    def over(self, bans: Iterable[str]) -> Iterator[None]:
        """Watch for these bans within the block."""
        self.hits = []
        bans = tuple(bans)
        if bans != self._bans:  # the probes of one task follow each other
            self._bans, self._by_leaf = bans, {leaf(ban): ban for ban in bans}
            self._arm()
        self._active = self._by_leaf
        try:
            yield
        finally:
            self._active = {}

    def note(self, name: str) -> None:
        """Record a call of the operation with this `leaf`. Raises: BannedCall if it is forbidden now."""
        ban = self._active.get(name)
        if ban is not None:
            self.hits.append(ban)
            raise BannedCall(f"{ban} is not allowed in this task")

    # ---- operators, at the dispatcher

    def _arm(self) -> None:
        """Replace the kernels of the forbidden operators; put back those of the last task's."""
        for library in self._libraries.values():
            library._destroy()
        self._libraries = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns once that a kernel is replaced
            for name in self._by_leaf:
                for operator, key, kernel in _kernels(name):
                    self._replace_kernel(operator, key, kernel, name)

    def _replace_kernel(self, operator: str, key: str, kernel: Any, name: str) -> None:
        namespace, _, rest = operator.partition("::")
        if namespace not in self._libraries:
            self._libraries[namespace] = torch.library.Library(namespace, "IMPL")

        def noting(keys: torch.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            if self._active:  # between probes, the harness itself may use the operator
                self.note(name)
            return kernel.call_boxed(keys, *args, **kwargs)

        registry: Any = self._libraries[namespace].m  # Library.impl itself refuses meta kernels for operators that decompose
        registry.impl(rest, key, noting, True)

    # ---- classes, Python functions and factories, by name

    def _replace(self, ban: str) -> None:
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
        elif inspect.isbuiltin(target) and leaf(ban) not in operators():
            setattr(parent, name, self._noting(target, name))

    def _noting(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        last = leaf(name)

        @functools.wraps(function)
        def noting(*args: Any, **kwargs: Any) -> Any:
            self.note(last)
            return function(*args, **kwargs)

        del noting.__wrapped__  # the way around
        return noting


_BACKENDS = ("CPU", "Meta", "CUDA", "QuantizedCPU", "SparseCPU", "SparseCsrCPU")
_BEFORE_BACKENDS = ("AutogradCPU", "AutogradMeta", "AutogradCUDA", "FuncTorchBatched")


@functools.cache
def _kernels(name: str) -> list[tuple[str, str, Any]]:
    """Each kernel of the operators with this `leaf`: the operator, the dispatch key, and the kernel."""
    return [(operator, key, torch.library.get_kernel(operator, key)) for operator in operators().get(name, ()) for key in _keys(operator)]


def prepare(bans: Iterable[str]) -> None:
    """Load what these bans name, and look up their kernels: a fork of this process then watches them at little cost."""
    for ban in bans:
        _resolve(ban)
        _kernels(leaf(ban))


def _keys(operator: str) -> Iterator[str]:
    """The dispatch keys at which a call of this operator arrives."""
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CompositeImplicitAutograd")
    for key in _BACKENDS:
        plain = key in ("CPU", "Meta") or (key == "CUDA" and torch.cuda.is_available())
        known = torch._C._dispatch_has_computed_kernel_for_dispatch_key if plain else torch._C._dispatch_has_kernel_for_dispatch_key
        if known(operator, key):
            yield key
    if composite:  # has no kernel of its own for a backend: it calls other operators before one is reached
        yield from (key for key in _BEFORE_BACKENDS if torch._C._dispatch_has_computed_kernel_for_dispatch_key(operator, key))


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
