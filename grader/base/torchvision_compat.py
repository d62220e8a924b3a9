"""Lets `import torchvision` succeed next to a CPU build of torch.

torchvision's wheel on PyPI is linked against CUDA. Next to a CPU build of torch its C++ extension can't load; torchvision
accepts that (`torchvision.extension._has_ops()` is then False) and goes on, up to the line where it registers shape
functions for `torchvision::nms` and `torchvision::qnms`. The extension would have defined these two operators, so the
import ends in "operator torchvision::nms does not exist". Defining their schemas is all that is missing: datasets,
transforms and models work then. The operators themselves still don't, since they have no kernel: calling
`torchvision.ops.nms` raises an error, as it should.

Where the extension loads, nothing is defined and this is a plain import. The trusted process and the zygote may both
use this module; it knows nothing of the grader.
"""

import importlib
import sys
from types import ModuleType

import torch

__all__ = ["import_torchvision"]

_SCHEMAS = (  # the arguments of the functions in torchvision/_meta_registrations.py that are registered for them
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # the definitions live as long as this object


def import_torchvision() -> ModuleType:
    """Import torchvision, with the two missing schemas defined where its extension can't load. Call it as often as you like.

    Afterwards `import torchvision`, `from torchvision.transforms import v2` and so on work in the whole process.

    Returns: the module torchvision.
    Raises: ModuleNotFoundError if torchvision isn't installed; whatever else its import raises for other reasons.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _library is not None or "operator torchvision::" not in str(error):
            raise
    # A failed import takes `torchvision` out of sys.modules, but leaves the submodules that did load: start over.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return importlib.import_module("torchvision")
