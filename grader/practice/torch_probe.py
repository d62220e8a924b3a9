"""Looks at torch and torchvision from a process of its own: importing a broken build can end Python, or never end.

`python -m grader.practice.torch_probe` prints a `TorchFacts` as JSON. Nothing is raised: what goes wrong is a fact.
"""

import importlib
import importlib.metadata
import subprocess
import sys
import warnings

import msgspec
from msgspec import Struct

__all__ = ["TorchFacts", "probe_torch"]

_SECONDS = 180.0
"""Importing torch may take as long on a slow disk, the first time."""


class TorchFacts(Struct, frozen=True):
    """What torch and torchvision of this Python can do. An error is empty where nothing is wrong."""

    installed: str = ""
    """The version that is installed, whether or not it can be imported; empty for none."""
    error: str = ""
    """Why torch can't be imported."""
    computing: str = ""
    """Why torch can't compute a product and its gradient on the CPU."""
    cuda_build: str = ""
    """The version of CUDA that torch is built for; empty for none."""
    rocm_build: str = ""
    """The version of ROCm, AMD's counterpart."""
    cuda_available: bool = False
    cuda_device: str = ""
    cuda_error: str = ""
    """Why torch can't use CUDA, in torch's own words, or why the device can't compute."""
    mps_built: bool = False
    mps_available: bool = False
    mps_error: str = ""
    """Why the device can't compute."""
    torchvision: str = ""
    """The version that is installed."""
    torchvision_error: str = ""
    torchvision_extension: bool = False
    """Whether torchvision's own compiled operators can be used."""


def probe_torch() -> TorchFacts:
    """Look, in a process of its own."""
    installed, torchvision = _version("torch"), _version("torchvision")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "grader.practice.torch_probe"], capture_output=True, timeout=_SECONDS, check=False
        )
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=TorchFacts)
    except subprocess.TimeoutExpired:
        error = f"it did not end within {_SECONDS:g} seconds"
    except (IndexError, msgspec.DecodeError):
        ending = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        error = f"Python itself ended, with {ending}"
    return TorchFacts(installed=installed, torchvision=torchvision, error=error)


def _look() -> TorchFacts:
    versions = TorchFacts(installed=_version("torch"), torchvision=_version("torchvision"))
    try:
        import torch
    except BaseException as error:
        return msgspec.structs.replace(versions, error=_text(error))
    try:
        computing = _computing("cpu")
        facts = msgspec.structs.replace(
            versions,
            computing=computing,
            cuda_build=torch.version.cuda or "",
            rocm_build=getattr(torch.version, "hip", None) or "",
            mps_built=torch.backends.mps.is_built(),
        )
    except Exception as error:  # a folder called torch, without torch in it
        return msgspec.structs.replace(versions, error=_text(error))
    return msgspec.structs.replace(facts, **_cuda(), **_mps(), **_torchvision())


def _cuda() -> dict[str, object]:
    import torch

    with warnings.catch_warnings(record=True) as caught:  # torch says why there is no CUDA as a warning
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return {"cuda_available": True, "cuda_device": torch.cuda.get_device_name(0), "cuda_error": _computing("cuda")}
    return {"cuda_error": " ".join(str(warning.message) for warning in caught)}


def _mps() -> dict[str, object]:
    import torch

    available = torch.backends.mps.is_available()
    return {"mps_available": available, "mps_error": _computing("mps") if available else ""}


def _torchvision() -> dict[str, object]:
    try:
        from grader.base.torchvision_compat import import_torchvision

        import_torchvision()
        extension = importlib.import_module("torchvision.extension")._has_ops()
    except BaseException as error:
        return {"torchvision_error": _text(error)}
    return {"torchvision_extension": extension}


def _computing(device: str) -> str:
    """Why a product and its gradient can't be computed there; empty if they can."""
    import torch

    try:
        x = torch.ones(2, 3, device=device, requires_grad=True)
        (x @ x.T).sum().backward()  # type: ignore[no-untyped-call]
        return "" if x.grad is not None and x.grad.sum().item() == 24 else "the gradient of a product is wrong"
    except Exception as error:
        return _text(error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.stdout.write("\n" + msgspec.json.encode(_look()).decode() + "\n")
