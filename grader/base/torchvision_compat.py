"""Lets `import torchvision` succeed next to a CPU build of torch.

torchvision's wheel on PyPI is linked against CUDA. Next to a CPU build of torch, its C++ extension can't load. torchvision
accepts that (`torchvision.extension._has_ops()` is then False) and goes on, until it registers shape functions for
`torchvision::nms` and `torchvision::qnms`. The extension would have defined these two operators. Without it, the import
fails with "operator torchvision::nms does not exist". It is enough to define the two schemas: then datasets, transforms
and models work. The two operators still have no kernel, so calling `torchvision.ops.nms` raises an error, as it should.

If the extension loads, this module defines nothing and does a plain import. Both the trusted process and the zygote may
use it. It knows nothing of the grader.
"""

import importlib
import sys
from types import ModuleType

import torch

__all__ = ["import_torchvision"]

_SCHEMAS = (  # the same arguments as the shape functions in torchvision/_meta_registrations.py
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the definitions live as long as this object


def import_torchvision() -> ModuleType:
    """Import torchvision. If its extension can't load, define the two missing schemas. You may call this more than once.

    Afterwards `import torchvision`, `from torchvision.transforms import v2` and so on work in the whole process.

    Returns: the module torchvision.
    Raises: ModuleNotFoundError if torchvision isn't installed; any other error of its import.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _library is not None or "operator torchvision::" not in str(error):
            raise
    # A failed import removes `torchvision` from sys.modules, but not the submodules that did load. Remove those and start again.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return importlib.import_module("torchvision")
