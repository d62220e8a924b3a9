"""Says whether one can practise on this machine: Python, torch, torchvision, CUDA, MPS, packages, the course.

`collect` gathers facts; everything else turns facts into findings, so that each case can be tried without the hardware.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from grader.base.text import one_line
from grader.course.manifest import PACKAGES, ManifestError, load_course
from grader.practice.torch_probe import TorchFacts, probe_torch

__all__ = ["Facts", "Finding", "Level", "can_practise", "collect", "examine", "pins_of"]

_LEAST_PYTHON = (3, 11)
_USUAL_PYTHON = (3, 14)
"""For a newer one, packages may have no builds yet."""
_LEAST_MACOS = (14, 0)
"""The wheels of torch 2.13 for Macs are tagged so."""
_APPLE = "If your Mac has an Apple chip (Apple menu, About This Mac), this Python is one for Intel: install Python anew from python.org."
_SELECTOR = "https://pytorch.org/get-started/locally/"


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """One can practise, but something is not as it could be."""
    PROBLEM = "problem"
    """One can't practise until it is mended."""


class Finding(Struct, frozen=True):
    """One thing that was looked at: what is so, and what to do about it."""

    topic: str
    level: Level
    sentence: str
    advice: str = ""


class Facts(Struct, frozen=True):
    """What is so on this machine."""

    system: str = "Linux"
    """As `platform.system()` says it: Linux, Darwin or Windows."""
    release: str = ""
    """Of the system; on a Mac the version of macOS."""
    machine: str = "x86_64"
    python: tuple[int, int, int] = (3, 12, 0)
    executable: str = "python"
    wide: bool = True
    """Whether this Python is a 64-bit one."""
    environment: str = ""
    """The folder of the virtual or conda environment; empty for the system's Python."""
    torch: TorchFacts = TorchFacts()
    driver: str = ""
    """The version of NVIDIA's driver, by nvidia-smi; empty if it does not answer."""
    hidden_devices: bool = False
    """Whether CUDA_VISIBLE_DEVICES hides all GPUs."""
    packages: dict[str, str] = {}
    """The installed versions of packages that practice uses."""
    allowed: dict[str, str] = {}
    """The installed versions of packages that answers may use; empty for one that is missing."""
    pins: dict[str, str] = {}
    """The versions that the course asks for."""
    course: str = ""
    """The course's folder; empty if none was found."""
    course_error: str = ""
    lacking: tuple[str, ...] = ()
    """Those of the course's folders for students that are missing."""


_PACKAGES = {
    "pytest": (Level.PROBLEM, "runs the public tests"),
    "textual": (Level.NOTE, "fills the screen in `grader watch`"),
    "watchfiles": (Level.NOTE, "lets `grader watch` see that you saved a file"),
    "matplotlib": (Level.NOTE, "saves pictures in `grader show --save`"),
}


def can_practise(findings: list[Finding]) -> bool:
    """Whether nothing stands in the way."""
    return all(finding.level is not Level.PROBLEM for finding in findings)


def examine(facts: Facts) -> list[Finding]:
    """Everything that was looked at, in the order in which one would mend it."""
    return [*_machine(facts), *_python(facts), *_torch(facts), *_packages(facts), *_course(facts)]


# ---- facts to findings


def _machine(facts: Facts) -> Iterator[Finding]:
    name = f"{'macOS' if facts.system == 'Darwin' else facts.system} {facts.release} on {facts.machine}"
    if facts.system == "Darwin" and facts.machine == "x86_64":
        yield Finding(
            "system",
            Level.NOTE,
            f"{name}. PyTorch makes no new builds for Macs with Intel processors, so that pip finds only old ones.",
            f"{_APPLE} On an Intel Mac, work on another machine, such as a free one of GitHub Codespaces or Google Colab.",
        )
    elif facts.system == "Darwin" and _numbers(facts.release) < _LEAST_MACOS:
        yield Finding("system", Level.NOTE, f"{name}. PyTorch's builds for Macs need macOS 14.", "Update macOS before you install torch.")
    else:
        yield Finding("system", Level.OK, f"{name}.")


def _python(facts: Facts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    where = f"Python {version}, {facts.executable}"
    if facts.python < _LEAST_PYTHON:
        yield Finding(
            "Python",
            Level.PROBLEM,
            f"{where}, is too old: the exercises need {'.'.join(map(str, _LEAST_PYTHON))} or newer.",
            "Install a newer Python from python.org, and make a new virtual environment with it.",
        )
    elif not facts.wide:
        yield Finding(
            "Python",
            Level.PROBLEM,
            f"{where}, is a 32-bit one, and PyTorch has 64-bit builds only.",
            "Install the 64-bit Python from python.org.",
        )
    elif facts.python[:2] > _USUAL_PYTHON:
        newest = ".".join(map(str, _USUAL_PYTHON))
        yield Finding(
            "Python",
            Level.OK if facts.torch.installed else Level.NOTE,
            f"{where}.",
            "" if facts.torch.installed else f"If pip finds no torch for it, use Python {newest}.",
        )
    else:
        yield Finding("Python", Level.OK, f"{where}.")
    if facts.environment:
        yield Finding("environment", Level.OK, f"The environment {facts.environment} is used.")
    else:
        activate = r".venv\Scripts\activate" if facts.system == "Windows" else "source .venv/bin/activate"
        yield Finding(
            "environment",
            Level.NOTE,
            "No virtual environment is used: what you install here can get in the way of other programs.",
            f"Make one with `python -m venv .venv`, switch to it with `{activate}`, and install the course's packages again.",
        )


def _torch(facts: Facts) -> Iterator[Finding]:
    torch = facts.torch
    install = f"`{_install(facts)}`"
    if torch.error:
        yield _import_error(facts, install)
        return
    if torch.computing:
        yield Finding(
            "torch",
            Level.PROBLEM,
            f"torch {torch.installed} can be imported and can't compute: {one_line(torch.computing)}.",
            f"Install it again: {install}.",
        )
        return
    yield from _pinned("torch", torch.installed, facts, f"torch {torch.installed} works.")
    yield _torchvision(facts, install)
    if torch.torchvision and not torch.torchvision_error:
        yield from _pinned("torchvision", torch.torchvision, facts, "")
    if facts.system == "Darwin":
        yield _mps(facts, install)
    else:
        yield _cuda(facts)


def _import_error(facts: Facts, install: str) -> Finding:
    """Why torch can't be imported, and what usually helps."""
    text, error = one_line(facts.torch.error, 300), facts.torch.error
    if not facts.torch.installed and "No module named 'torch'" in error:
        return Finding(
            "torch", Level.PROBLEM, "torch is not installed in this Python.", f"Install it: {install}. {_smaller(facts)}".strip()
        )
    missing = re.search(r"No module named '(?!torch)([\w.]+)'", error)
    again = f"Install it again: {install.replace('pip install', 'pip install --force-reinstall')}."
    advice = again
    if missing:
        advice = f"torch needs another package: `python -m pip install {missing[1].partition('.')[0]}`. If that does not help: {again}"
    elif facts.system == "Windows" and re.search(r"DLL|WinError (126|1114|193)|c10|fbgemm|shm\.dll", error):
        advice = (
            "Install Microsoft's Visual C++ Redistributable for x64 from https://aka.ms/vs/17/release/vc_redist.x64.exe and restart. "
            f"If that does not help: {again}"
        )
    elif re.search(r"lib(cu|nv|nccl)\w*[\w.-]*", error):
        advice = (
            "torch's CUDA libraries are missing or do not fit. They are packages of their own (nvidia-…), which pip installs with torch. "
            f"{again} Also see that LD_LIBRARY_PATH does not name another CUDA."
        )
    elif "libgomp" in error or "libstdc++" in error or "GLIBC" in error:
        advice = "Install the system's libraries, on Debian and Ubuntu by `sudo apt install libgomp1 libstdc++6`, or use a newer system."
    elif "partially initialized" in error or "has no attribute" in error:
        advice = f"Is there a file torch.py or a folder torch of yours? Rename it. Else: {again}"
    elif re.search(r"NumPy 1\.x|numpy\.core|_ARRAY_API", error):
        advice = "torch and numpy do not fit: `python -m pip install --upgrade numpy`."
    elif "signal 4" in error:
        advice = f"The processor lacks an instruction that this build uses, or the Python is one for another processor. {again}"
    version = f" {facts.torch.installed}" if facts.torch.installed else ""
    return Finding("torch", Level.PROBLEM, f"torch{version} can't be imported: {text}.", advice)


def _torchvision(facts: Facts, install: str) -> Finding:
    torch = facts.torch
    if not torch.torchvision:
        return Finding("torchvision", Level.PROBLEM, "torchvision is not installed; some exercises need it.", f"Install it: {install}.")
    if torch.torchvision_error:
        return Finding(
            "torchvision",
            Level.PROBLEM,
            f"torchvision {torch.torchvision} can't be imported beside torch {torch.installed}: {one_line(torch.torchvision_error, 300)}.",
            f"The two belong together in pairs. Install both at once: {install}.",
        )
    if not torch.torchvision_extension:
        return Finding(
            "torchvision",
            Level.OK,
            f"torchvision {torch.torchvision} works, but for its compiled operators, such as nms: they do not fit this build of torch. "
            "No exercise needs them.",
        )
    return Finding("torchvision", Level.OK, f"torchvision {torch.torchvision} works.")


def _pinned(package: str, version: str, facts: Facts, works: str) -> Iterator[Finding]:
    """Whether a version is the course's. Builds for CPU and CUDA (+cpu, +cu128) are the same version."""
    pin = facts.pins.get(package, "")
    if pin and _public(version) != _public(pin):
        yield Finding(
            package,
            Level.NOTE,
            f"{works} The course uses {package} {pin}, and this is {version}: results can differ in their last digits.".strip(),
            f"Install the course's versions: `{_install(facts)}`.",
        )
    elif works:
        yield Finding(package, Level.OK, works)


def _cuda(facts: Facts) -> Finding:
    """Whether torch can use a GPU of NVIDIA (or AMD), or why not. No exercise needs one."""
    torch, kind = facts.torch, "ROCm" if facts.torch.rocm_build else "CUDA"
    build = torch.rocm_build or torch.cuda_build
    reason = one_line(torch.cuda_error, 300)
    if torch.cuda_available and not reason:
        return Finding("CUDA", Level.OK, f"{kind} {build} works, on {torch.cuda_device}.")
    if torch.cuda_available:
        return Finding(
            "CUDA",
            Level.NOTE,
            f"torch sees {torch.cuda_device} and can't compute on it: {reason}.",
            f"Often the GPU is older or newer than this build of torch: choose another CUDA at {_SELECTOR}. The exercises work on the CPU.",
        )
    if not build and facts.driver:
        return Finding(
            "CUDA",
            Level.NOTE,
            f"This machine has an NVIDIA GPU (driver {facts.driver}), and this torch is a build for CPUs only.",
            f"To use the GPU, choose CUDA at {_SELECTOR} and run the command that it shows, with --force-reinstall. No exercise needs it.",
        )
    if not build:
        return Finding("CUDA", Level.OK, "No CUDA: this torch is a build for CPUs, and no NVIDIA driver is here. No exercise needs one.")
    if kind == "ROCm":
        return Finding(
            "CUDA",
            Level.NOTE,
            f"torch is built for ROCm {build} and finds no GPU of AMD{f': {reason}' if reason else ''}.",
            "`rocminfo` shows what the driver sees; your user must be in the groups render and video. No exercise needs a GPU.",
        )
    if facts.hidden_devices:
        return Finding(
            "CUDA",
            Level.NOTE,
            f"torch is built for CUDA {build}, and the variable CUDA_VISIBLE_DEVICES hides all GPUs.",
            "Unset CUDA_VISIBLE_DEVICES, if that is not meant.",
        )
    if not facts.driver:
        driver = "Install NVIDIA's driver from https://www.nvidia.com/drivers and restart"
        wsl = "; in WSL install it in Windows, in a container start it with --gpus all" if facts.system == "Linux" else ""
        return Finding(
            "CUDA",
            Level.NOTE,
            f"torch is built for CUDA {build}, and no NVIDIA driver is here (nvidia-smi does not answer). torch uses the CPU.",
            f"Without an NVIDIA GPU all is well. With one: {driver}{wsl}.",
        )
    because = f": {reason}" if reason else ""
    return Finding(
        "CUDA",
        Level.NOTE,
        f"NVIDIA's driver {facts.driver} is here, and torch, which is built for CUDA {build}, can't use the GPU{because}.",
        f"Update NVIDIA's driver from https://www.nvidia.com/drivers, or choose an older CUDA at {_SELECTOR}."
        if "too old" in reason
        else "Restart: a driver that was just updated does not work before. Then see whether `nvidia-smi` lists a GPU.",
    )


def _mps(facts: Facts, install: str) -> Finding:
    """Whether torch can use the GPU of a Mac, or why not. No exercise needs it."""
    torch = facts.torch
    if torch.mps_available and not torch.mps_error:
        return Finding("MPS", Level.OK, "MPS works: torch can use the GPU of this Mac.")
    if torch.mps_available:
        return Finding(
            "MPS", Level.NOTE, f"MPS is here and can't compute: {one_line(torch.mps_error, 300)}.", "The exercises work on the CPU."
        )
    if not torch.mps_built:
        why = _APPLE if facts.machine == "x86_64" else f"Install torch from PyPI: {install}."
        return Finding("MPS", Level.NOTE, "This torch is built without MPS, so that it can't use the GPU of this Mac.", why)
    if _numbers(facts.release) < _LEAST_MACOS:
        return Finding(
            "MPS", Level.NOTE, f"MPS needs macOS 14, and this is {facts.release}.", "Update macOS to use the GPU. No exercise needs it."
        )
    return Finding(
        "MPS",
        Level.NOTE,
        "MPS is not available: torch finds no GPU that it can use.",
        "In a virtual machine that is so. No exercise needs it.",
    )


def _packages(facts: Facts) -> Iterator[Finding]:
    present = [name for name in _PACKAGES if facts.packages.get(name)]
    if present:
        yield Finding("packages", Level.OK, f"Installed: {', '.join(f'{name} {facts.packages[name]}' for name in present)}.")
    for name, (level, what) in _PACKAGES.items():
        if name not in present:
            yield Finding("packages", level, f"{name} is not installed; it {what}.", f"`python -m pip install {name}`")
    if facts.allowed:
        listed = ", ".join(f"{name} {version}".strip() for name, version in facts.allowed.items())
        yield Finding("packages", Level.OK, f"Answers may use Python's standard library, {listed}. Others may be missing where it counts.")
    for name, version in facts.allowed.items():
        if not version and name not in PACKAGES:
            yield Finding("packages", Level.NOTE, f"{name} is not installed; answers may use it.", f"`python -m pip install {name}`")


def _course(facts: Facts) -> Iterator[Finding]:
    if facts.course_error:
        yield Finding(
            "course",
            Level.PROBLEM,
            f"The course can't be read: {facts.course_error.rstrip('.')}.",
            "Fetch course.toml again from where you got it.",
        )
    elif facts.lacking:
        yield Finding(
            "course",
            Level.PROBLEM,
            f"The course in {facts.course} lacks {' and '.join(facts.lacking)}.",
            "Fetch the folder again from where you got the exercises. `grader reset MODULE` makes a module's file in exercises/ anew.",
        )
    elif facts.course:
        yield Finding("course", Level.OK, f"The course in {facts.course} is used.")
    else:
        yield Finding(
            "course", Level.NOTE, "There is no course.toml here or above.", "Go to the folder of the exercises, or name it with --course."
        )


def _install(facts: Facts) -> str:
    """The command that installs torch and torchvision, in the course's versions."""
    return " ".join(
        ["python -m pip install", *(f"{name}=={facts.pins[name]}" if name in facts.pins else name for name in ("torch", "torchvision"))]
    )


def _smaller(facts: Facts) -> str:
    if facts.system == "Linux" and not facts.driver:
        return "Without an NVIDIA GPU, add --index-url https://download.pytorch.org/whl/cpu: that build is much smaller."
    return ""


def _public(version: str) -> str:
    return version.partition("+")[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


# ---- the facts of this machine


def collect(folder: Path | None = None) -> Facts:
    """Look at this machine and the course in `folder`, or around the current one. torch is tried in a process of its own."""
    root, error, allowed = "", "", tuple[str, ...]()
    try:
        course = load_course(folder)
        root, allowed = str(course.root), course.packages
    except ManifestError as caught:
        error = "" if folder is None and "no course.toml in" in str(caught) else str(caught)
    system = platform.system()
    conda = os.environ.get("CONDA_PREFIX", "")
    environment = sys.prefix if sys.prefix != sys.base_prefix or (conda and Path(conda) == Path(sys.prefix)) else ""
    return Facts(
        system=system,
        release=platform.mac_ver()[0] if system == "Darwin" else platform.release(),
        machine=platform.machine(),
        python=sys.version_info[:3],
        executable=sys.executable,
        wide=sys.maxsize > 2**32,
        environment=environment,
        torch=probe_torch(),
        driver=_driver(),
        hidden_devices=os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"),
        packages=_versions(_PACKAGES),
        allowed={name: _versions([name]).get(name, "") for name in allowed},
        pins=pins_of(Path(root)) if root else {},
        course=root,
        course_error=error,
        lacking=tuple(f"{name}/" for name in ("exercises", "tests/public") if root and not (Path(root) / name).is_dir()),
    )


def pins_of(root: Path) -> dict[str, str]:
    """The versions of torch and torchvision that a course's folder asks for, in constraints.txt, requirements.txt or pyproject.toml."""
    pins: dict[str, str] = {}
    for name in ("pyproject.toml", "requirements.txt", "constraints.txt"):  # the last one counts most
        with contextlib.suppress(OSError):
            text = (root / name).read_text(encoding="utf-8", errors="replace")
            pins |= dict(re.findall(r"""^\s*["']?(torch|torchvision)\s*==\s*([A-Za-z0-9.+!]+)""", text, re.MULTILINE))
    return pins


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _driver() -> str:
    """The version of NVIDIA's driver; empty if there is none that answers."""
    command = shutil.which("nvidia-smi")
    if not command:
        return ""
    try:
        done = subprocess.run(
            [command, "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""
