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
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.jit._builtins import _find_builtin, _register_builtin
from torch.utils._device import _device_constructors

from grader.protocol.ban_names import leaf

__all__ = ["BannedCall", "Watch", "close_ways_around", "exists", "operators", "prepare"]


class BannedCall(Exception):
    """A probe ran into something that its task forbids."""


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


_Check = Callable[[str], None]


def _check(active: Mapping[str, str], record: Callable[[str], None], excused: threading.local) -> _Check:
    """A new function for each call. It raises BannedCall if the operation with this `leaf` is forbidden now, and records that."""

    def check(name: str) -> None:
        ban = active.get(name)  # between probes, nothing is: the harness itself may use the operator
        if ban is not None and name != getattr(excused, "name", None):
            record(ban)
            raise BannedCall(f"{ban} is not allowed in this task")

    return check


@functools.cache
def _decompositions() -> dict[str, list[tuple[Any, Callable[..., Any]]]]:
    """The operators that torch has in Python as well, each with that function, by their `leaf`."""
    found: dict[str, list[tuple[Any, Callable[..., Any]]]] = {}
    for operator, copy in decomposition_table.items():
        if isinstance(operator, torch._ops.OpOverload):
            found.setdefault(leaf(operator._schema.name), []).append((operator, copy))
    return found


@dataclass(frozen=True)
class _Kernel:
    """What one operator calls at one dispatch key."""

    operator: str
    key: str
    call: Callable[..., Any]
    """Takes the dispatch keys, then the operator's arguments."""


_WAYS_AROUND = ("torch.Tensor.to_mkldnn",)
"""Forbidden wherever anything is: a layout at whose dispatch key no kernel can be replaced."""
_SECOND_COPIES = (
    *("torch._refs", "torch._refs.nn.functional", "torch._refs.special", "torch._refs.linalg"),
    *("torch._decomp.decompositions", "torch._prims"),
)
"""Where torch has its operators once more, in Python."""
_HONEST_CALLERS = {"unfold": ("repeat",)}
"""Operators that call a forbidden one inside and are no way to its result. (Every other that does is: found with torch's own samples.)"""

_BACKENDS = ("CPU", "Meta", "CUDA", "QuantizedCPU", "SparseCPU", "SparseCsrCPU", "NestedTensorCPU")
_BEFORE_BACKENDS = (
    *("AutogradCPU", "AutogradMeta", "AutogradCUDA", "AutogradOther", "AutogradNestedTensor"),
    *("FuncTorchBatched", "FuncTorchDynamicLayerFrontMode", "Functionalize"),
)


@functools.cache
def _kernels(name: str) -> list[_Kernel]:
    """Each kernel of the operators with this `leaf`."""
    return [
        _Kernel(operator, key, torch.library.get_kernel(operator, key).call_boxed)
        for operator in operators().get(name, ())
        for key in _keys(operator)
    ]


class Watch:
    """Notes forbidden calls while a probe runs, and stops them.

    Made before the student's module is loaded, so that the names it imports are watched ones. Each replaced function makes the check
    itself, on a view that can't be written: whoever gets hold of one changes no other.
    """

    def __init__(self, bans: Iterable[str]) -> None:
        self.hits: list[str] = []
        self._active: dict[str, str] = {}
        self._excused = threading.local()
        self._bans: tuple[str, ...] = ()
        self._libraries: dict[str, torch.library.Library] = {}
        bans = tuple(bans)
        prepare(bans)  # kernels are not given out any more once a student's module is loaded
        for ban in (*bans, *_WAYS_AROUND):
            self._replace(ban)
        self._replace_decompose()

    @contextmanager
    def over(self, bans: Iterable[str]) -> Iterator[None]:
        """Watch for these bans within the block."""
        self.hits.clear()
        bans = tuple(bans)
        if bans:
            bans += _WAYS_AROUND
        by_leaf = {leaf(ban): ban for ban in bans}
        if bans != self._bans:  # the probes of one task follow each other
            self._bans = bans
            self._arm(by_leaf)
        self._active.update(by_leaf)
        try:
            yield
        finally:
            self._active.clear()

    def _new_check(self) -> _Check:
        return _check(MappingProxyType(self._active), self.hits.append, self._excused)

    # ---- operators, at the dispatcher

    def _arm(self, names: Iterable[str]) -> None:
        """Replace the kernels of the forbidden operators; put back those of the last task's."""
        for library in self._libraries.values():
            library._destroy()
        self._libraries = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns once that a kernel is replaced
            for name in names:
                for replaced in _kernels(name):
                    self._replace_kernel(replaced, self._noting_kernel(replaced.call, name))
                for caller in _HONEST_CALLERS.get(name, ()):
                    for replaced in _kernels(caller):
                        self._replace_kernel(replaced, self._excusing_kernel(replaced.call, name))

    def _replace_kernel(self, replaced: _Kernel, kernel: Callable[..., Any]) -> None:
        namespace, _, rest = replaced.operator.partition("::")
        if namespace not in self._libraries:
            self._libraries[namespace] = torch.library.Library(namespace, "IMPL")
        registry: Any = self._libraries[namespace].m  # Library.impl itself refuses meta kernels for operators that decompose
        registry.impl(rest, replaced.key, kernel, True)

    def _noting_kernel(self, kernel: Callable[..., Any], name: str) -> Callable[..., Any]:
        check = self._new_check()

        def noting(keys: torch.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            check(name)
            return kernel(keys, *args, **kwargs)

        return noting

    def _excusing_kernel(self, kernel: Callable[..., Any], name: str) -> Callable[..., Any]:
        excused = self._excused

        def excusing(keys: torch.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            excused.name = name
            try:
                return kernel(keys, *args, **kwargs)
            finally:
                excused.name = None

        return excusing

    # ---- classes, Python functions and factories, by name

    def _replace(self, ban: str) -> None:
        parent, name = _resolve(ban)
        target = getattr(parent, name, None)
        self._replace_copies(leaf(ban))
        if inspect.isclass(target):
            setattr(target, "__init__", self._noting(target.__init__, name))  # noqa: B010
        elif inspect.isfunction(target):
            wrapped = self._noting(target, name)
            setattr(parent, name, wrapped)
            home = importlib.import_module(target.__module__)
            if getattr(home, name, None) is target:
                setattr(home, name, wrapped)
            old_name = name.removesuffix("_")  # nn.init.kaiming_normal holds kaiming_normal_ from before
            if old_name != name and inspect.isfunction(old := getattr(parent, old_name, None)):
                setattr(parent, old_name, self._noting(old, name))
        elif inspect.isbuiltin(target) and leaf(ban) not in operators():
            setattr(parent, name, self._noting_factory(target, name))

    def _replace_decompose(self) -> None:
        """A forbidden operator can't be run as its parts either; torch's own modes take apart others."""
        check, original = self._new_check(), torch._ops.OpOverload.decompose

        def decompose(operator: Any, *args: Any, **kwargs: Any) -> Any:
            check(leaf(operator._schema.name))
            return original(operator, *args, **kwargs)

        setattr(torch._ops.OpOverload, "decompose", decompose)  # noqa: B010

    def _replace_copies(self, name: str) -> None:
        for home in _SECOND_COPIES:
            space = vars(importlib.import_module(home))
            for copy in {name, f"_{name}"} & space.keys():
                space[copy] = self._noting(space[copy], name)
        for operator, decomposition in _decompositions().get(name, ()):
            decomposition_table[operator] = self._noting(decomposition, name)

    def _noting_factory(self, factory: Callable[..., Any], name: str) -> Callable[..., Any]:
        """A factory's stand-in, which other tasks of the module can still script, and use under `torch.device`."""
        _device_constructors()  # a cached set of the factories that a default device holds for
        wrapped = self._noting(factory, name)
        if operator := _find_builtin(factory):
            _register_builtin(wrapped, operator)
        return wrapped

    def _noting(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        last, check = leaf(name), self._new_check()

        @functools.wraps(function)
        def noting(*args: Any, **kwargs: Any) -> Any:
            check(last)
            return function(*args, **kwargs)

        del noting.__wrapped__  # the way around
        return noting


def close_ways_around() -> None:
    """Take away what gives out kernels. For a process in which a student's module will run, when its watch is made."""

    def refuse(*_: object, **__: object) -> None:
        raise BannedCall("torch's kernels are not given out here")

    for holder, name in ((torch.library, "get_kernel"), (torch._C, "_dispatch_get_computed_kernel_for_dispatch_key")):
        setattr(holder, name, refuse)


def prepare(bans: Iterable[str]) -> None:
    """Load what these bans name, and look up their kernels: a fork of this process then watches them at little cost."""
    for ban in (*bans, *_WAYS_AROUND):
        _resolve(ban)
        for name in (leaf(ban), *_HONEST_CALLERS.get(leaf(ban), ())):
            _kernels(name)


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
