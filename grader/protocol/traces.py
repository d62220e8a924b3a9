"""What a probe leaves behind beside its result: changed arguments, modes and generators. Looked at on both sides alike.

One rule holds for the whole course: arguments, modes, generators and other global state are left as they were, unless the statement says
otherwise. What the reference leaves behind is what the statement allows, so no test has to say it.
"""

import ctypes
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from grader.protocol.probes import entries_of

__all__ = ["Answer", "Traces", "unexpected"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, range, slice)
_NUMPY_RANDOM: Any = numpy.random
_ENVIRONMENT: Any = os.environ
_GLOBAL_HOOKS: Any = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_backward_hooks,
    nn.modules.module._global_backward_pre_hooks,
)


_NEVER_ALLOWED = ("the filters of warnings", "the environment's variables")
"""What no statement allows to change. The reference may seem to: on its side, torch imports parts of itself at their first use."""


@dataclass(frozen=True)
class Answer:
    """What came of a probe: the value that it returned, and what it left otherwise than it found it."""

    value: Any
    left: tuple[str, ...] = ()


class Traces:
    """A look at all that a probe holds, and at this process's modes and generators. Make it before the probe runs."""

    def __init__(self, probe: Callable[..., Any]) -> None:
        self._held = list(_captured(probe, set()))
        self._before = self._look()

    def left(self) -> list[str]:
        """What is no longer as it was, in words: "x", "the gradient of x", "the default dtype of torch"."""
        now = self._look()
        return [place for place, was in self._before.items() if place not in now or now[place] != was]

    def _look(self) -> dict[str, object]:
        return dict(_modes()) | dict(_of(self._held))


def unexpected(left: Sequence[str], allowed: Iterable[str]) -> str | None:
    """The first of the student's traces that the reference doesn't leave; None where there is none.

    Where the reference changes a list, the student may change what is in it.
    """
    kept = tuple(place for place in allowed if place not in _NEVER_ALLOWED)
    containers = tuple(f"{place}[" for place in kept)
    return next((place for place in left if place not in kept and not place.startswith(containers)), None)


def _captured(function: Callable[..., Any], seen: set[int]) -> Iterator[tuple[str, object]]:
    """What a function holds by name, and what the functions hold that it holds."""
    if not isinstance(function, FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    pairs = list(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            pairs.append((name, cell.cell_contents))
        except ValueError:  # not bound yet
            continue
    for name, value in pairs:
        if isinstance(value, FunctionType):
            yield from _captured(value, seen)
        else:
            yield name, value


def _of(held: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """Fingerprints of objects and of what they contain, by their place."""
    pending, seen = [*held][::-1], set[int]()
    while pending:
        place, value = pending.pop()
        if isinstance(value, _PLAIN):
            yield place, repr(value)
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        match value:
            case Tensor():
                yield from _tensor(place, value)
            case nn.Module():
                for name, module in value.named_modules(prefix=place):
                    yield f"the training mode of {name}", module.training
                    yield f"the hooks of {name}", [len(hooks) for hooks in _hooks(module)]
                    yield f"the modules of {name}", [(key, id(child)) for key, child in module._modules.items()]
                    yield f"the attributes of {name}", _plain_attributes(module)
                    for kind, tensors in (("parameters", module._parameters), ("buffers", module._buffers)):
                        yield f"the {kind} of {name}", [(key, id(tensor)) for key, tensor in tensors.items()]
                        pending += [(f"{name}.{key}", tensor) for key, tensor in tensors.items() if tensor is not None]
            case torch.optim.Optimizer():
                yield place, id(value)
                groups = [[(key, item) for key, item in group.items() if isinstance(item, _PLAIN)] for group in value.param_groups]
                yield f"the settings of {place}", repr(groups)
            case torch.optim.lr_scheduler.LRScheduler():
                yield place, id(value)
                yield f"the state of {place}", _plain_attributes(value)
            case torch.Generator():
                yield place, (value.initial_seed(), bytes(value.get_state().numpy()))
            case random.Random():
                yield place, value.getstate()
            case dict():
                yield place, ([repr(key) for key in value], _identities(value.values()))
                pending += [(f"{place}[{key!r}]", item) for key, item in value.items()][::-1]
            case list() | tuple():
                yield place, (type(value), len(value), _identities(value))
                pending += [(f"{place}[{index}]", item) for index, item in enumerate(value)][::-1]
            case _:
                yield place, id(value)


def _plain_attributes(value: object) -> str:
    """The attributes of an object that hold plain values. Others, such as a method that was put in another's place, are not looked at."""
    return repr([(key, item) for key, item in vars(value).items() if key != "training" and isinstance(item, _PLAIN)])


def _identities(items: Iterable[object]) -> list[int]:
    """Which objects a container holds, plain values aside."""
    return [id(item) for item in items if not isinstance(item, _PLAIN)]


def _tensor(place: str, tensor: Tensor) -> Iterator[tuple[str, object]]:
    yield place, _values(tensor)
    yield f"the shape of {place}", (tensor.shape, tensor.dtype, tensor.device, tensor.stride() if tensor.layout is torch.strided else ())
    yield f"requires_grad of {place}", tensor.requires_grad
    yield f"the hooks of {place}", len(tensor._backward_hooks or ())
    if tensor.is_leaf:  # others warn
        yield f"the gradient of {place}", None if tensor.grad is None else _values(tensor.grad)


def _values(tensor: Tensor) -> object:
    if tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized:
        return hash(entries_of(tensor))
    return tensor._version


def _hooks(module: nn.Module) -> list[dict[int, Any]]:
    return [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]


def _function_modes() -> int:
    """How many modes of torch functions are on. torch.set_default_device leaves one, also where it puts the default back."""
    return sum(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _modes() -> Iterator[tuple[str, object]]:
    """The process-wide state that code could leave changed."""
    yield "the gradient mode of torch", (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled())
    yield "the default dtype of torch", torch.get_default_dtype()
    yield "the default device of torch", str(torch.get_default_device())
    yield (
        "the autocast mode of torch",
        (
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
    )
    yield "the deterministic mode of torch", torch.are_deterministic_algorithms_enabled()
    yield "the number of torch's threads", torch.get_num_threads()
    yield "the precision of torch's matrix products", torch.get_float32_matmul_precision()
    yield "the modes of torch", (_function_modes(), torch._C._len_torch_dispatch_stack())
    yield "the hooks of all modules", [len(hooks) for hooks in _GLOBAL_HOOKS]
    yield "the state of torch's generator (drawing numbers or building a layer does)", bytes(torch.default_generator.get_state().numpy())
    yield "the seed of torch's generator", torch.default_generator.initial_seed()
    yield "the generator of Python's module random", random.getstate()
    # 624 words and a position, as `numpy.random.get_state` gives them, which takes 50 µs.
    yield "the generator of NumPy", ctypes.string_at(_NUMPY_RANDOM.get_bit_generator().ctypes.state_address, 625 * 4)
    yield "NumPy's handling of errors", numpy.geterr()
    yield "the filters of warnings", list(warnings.filters)
    yield "the limit on recursion", sys.getrecursionlimit()
    yield "the current folder", os.getcwd()
    yield "the environment's variables", _ENVIRONMENT._data.copy()  # as bytes: decoding takes 30 µs
