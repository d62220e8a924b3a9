"""Probes as bytes: closures pickled by value, the same bytes for the same probe, so that the reference's answers can be kept by them."""

import ctypes
import io
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch
from torch import Tensor

__all__ = ["freeze", "thaw"]


def freeze(probe: Callable[[Any], Any]) -> bytes:
    """Pickle a probe with all that it captures. Tensors keep strides and offset (torch's own pickle differs from call to call)."""
    with io.BytesIO() as file:
        _Pickler(file).dump(probe)
        return file.getvalue()


def thaw(frozen: bytes) -> Callable[[Any], Any]:
    """The probe again, with copies of what it captured. For bytes of this process's or the trusted process's own making only."""
    probe: Callable[[Any], Any] = cloudpickle.loads(frozen)
    return probe


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and obj.layout is torch.strided and obj.device.type == "cpu" and obj.is_leaf and not obj.is_quantized:
            storage = obj.untyped_storage()
            data = ctypes.string_at(storage.data_ptr(), storage.nbytes()) if storage.nbytes() else b""
            return _rebuild, (data, obj.dtype, tuple(obj.shape), obj.stride(), obj.storage_offset(), obj.requires_grad)
        return super().reducer_override(obj)


def _rebuild(data: bytes, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, requires_grad: bool) -> Tensor:
    tensor = torch.empty(0, dtype=dtype)
    if data:
        storage = torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()
        tensor.set_(storage, offset, shape, stride)
    else:
        tensor = tensor.new_empty(0).as_strided(shape, stride)
    return tensor.requires_grad_(requires_grad)
