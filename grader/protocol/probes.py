"""Probes as bytes: closures pickled by value, the same bytes for the same probe, so that the reference's answers can be kept by them."""

import ctypes
import io
import sys
from collections.abc import Callable, Iterable
from types import CodeType, ModuleType
from typing import Any

import cloudpickle
import torch
from torch import Tensor

__all__ = ["entries_of", "freeze", "thaw"]


def freeze(probe: Callable[[Any], Any]) -> bytes:
    """Pickle a probe with all that it captures. Tensors keep strides and offset (torch's own pickle differs from call to call)."""
    with io.BytesIO() as file:
        _Pickler(file).dump(probe)
        return file.getvalue()


def thaw(frozen: bytes) -> Callable[[Any], Any]:
    """The probe again, with copies of what it captured. For bytes of this process's or the trusted process's own making only."""
    probe: Callable[[Any], Any] = cloudpickle.loads(frozen)
    return probe


def entries_of(tensor: Tensor) -> bytes:
    """The bytes of a strided tensor's entries on the CPU, in order; those of an expanded axis once."""
    values = tensor.detach().resolve_conj().resolve_neg()  # views that lie about their entries
    entries = values[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())].contiguous()
    return ctypes.string_at(entries.data_ptr(), entries.nbytes) if entries.numel() else b""


def _imported_submodules(code: CodeType, used: Iterable[object]) -> list[ModuleType]:
    """The submodules that code can reach from the modules it uses by names in it, such as torch.nn.utils."""
    found: list[str] = []
    pending = [module.__name__ for module in used if isinstance(module, ModuleType) and getattr(module, "__package__", None)]
    while pending:
        parent = pending.pop()
        new = [name for name in (f"{parent}.{part}" for part in code.co_names) if name in sys.modules]
        found += new
        pending += new
    return [sys.modules[name] for name in found]


cloudpickle.cloudpickle._find_imported_submodules = _imported_submodules
"""cloudpickle's own finds the same, but goes through all of sys.modules (2,000 with torch) for every function in a probe."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and obj.layout is torch.strided and obj.device.type == "cpu" and obj.is_leaf and not obj.is_quantized:
            return _rebuild, (entries_of(obj), obj.dtype, tuple(obj.shape), obj.stride(), obj.storage_offset(), obj.requires_grad)
        return super().reducer_override(obj)


def _rebuild(data: bytes, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, requires_grad: bool) -> Tensor:
    """A tensor with these entries and this layout, zeros in the gaps: what a view leaves out of its storage does not travel."""
    tensor = torch.empty(shape, dtype=dtype)
    if not offset and stride == tensor.stride():  # contiguous, as most are
        ctypes.memmove(tensor.data_ptr(), data, len(data))
        return tensor.requires_grad_(requires_grad)
    span = offset + 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if data else 0
    storage = torch.zeros(span, dtype=dtype)
    tensor = torch.empty(0, dtype=dtype).set_(storage.untyped_storage(), offset, shape, stride)
    if data:
        entries = torch.frombuffer(bytearray(data), dtype=dtype)
        distinct = [1 if step == 0 else size for size, step in zip(shape, stride, strict=True)]
        tensor.as_strided(distinct, stride).copy_(entries.view(distinct))
    return tensor.requires_grad_(requires_grad)
