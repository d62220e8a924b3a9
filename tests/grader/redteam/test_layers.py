"""A layer that is missing is noticed: official grading is refused, or, for the optional one, the record says so."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grader.protocol.confinement import Layers
from grader.sandbox.supervisor.isolation import NotConfined, isolation, machine_layers
from grader.sandbox.supervisor.self_test import ensure_confined, inspect_protections
from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteHandle
from grader.sandbox.worker.confine import MINIMUM_ABI, landlock_abi, supported

pytestmark = pytest.mark.skipif(supported() is not None, reason=str(supported()))

ROOT = Path(__file__).parents[3]
OLDEST = Layers(MINIMUM_ABI)
"""What a machine must have: Landlock as in Linux 6.2, the filter, no capabilities; no namespaces."""


def refusal(layers: Layers) -> str:
    """Why nothing is graded with these layers; empty where it is."""
    with ZygoteHandle(layers) as zygote:
        try:
            ensure_confined(zygote)
        except NotConfined as error:
            return str(error)
    return ""


@pytest.mark.parametrize("abi", range(MINIMUM_ABI, landlock_abi() + 1))
def test_every_landlock_is_enough_without_namespaces(abi: int) -> None:
    """From the oldest Landlock that is accepted to the machine's own: all protections that grading needs hold."""
    assert refusal(Layers(abi)) == ""


def test_all_layers_together_are_enough() -> None:
    """What the machine has is not too much either."""
    layers = machine_layers()
    assert layers is not None
    assert refusal(layers) == ""


@pytest.mark.parametrize("namespaces", [False, True])
@pytest.mark.parametrize(
    ("missing", "through"),
    [
        ({"landlock_abi": 0}, "read another worker's files"),
        ({"seccomp": False}, "start a process"),
        ({"landlock_abi": 0, "seccomp": False, "no_capabilities": False}, "open a UDP socket"),
    ],
    ids=["landlock", "seccomp", "everything"],
)
def test_grading_is_refused_without(missing: dict[str, object], through: str, namespaces: bool) -> None:
    """The probes find what the missing layer leaves open, with and without the namespaces."""
    layers = machine_layers()
    assert layers is not None
    message = refusal(replace(OLDEST, namespaces=namespaces and layers.namespaces, **missing))
    assert through in message
    assert "grader doctor" in message


def test_a_kept_capability_is_refused() -> None:
    """Root's capabilities are found where they are kept; an ordinary user has none to keep."""
    message = refusal(replace(OLDEST, no_capabilities=False))
    assert ("keep a capability" in message) is (os.geteuid() == 0)


def test_a_landlock_that_is_too_old_is_refused() -> None:
    """A worker that could not be confined runs nothing."""
    with pytest.raises(ZygoteError, match="older than"):
        refusal(Layers(MINIMUM_ABI - 1))


@pytest.mark.parametrize("namespaces", [False, True])
def test_names_are_hidden_by_the_namespaces_only(namespaces: bool) -> None:
    """Where the machine has none, `stat` tells that a file exists; that is recorded, and stops no grading."""
    layers = machine_layers()
    assert layers is not None
    layers = replace(layers, namespaces=namespaces and layers.namespaces)
    with ZygoteHandle(layers) as zygote:
        found = {protection.name: protection for protection in inspect_protections(zygote)}
    names = found.pop("see which files exist outside")
    assert (names.holds, names.required) == (layers.namespaces, False)
    assert all(protection.holds and protection.required for protection in found.values())
    assert isolation(layers).namespaces is layers.namespaces


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_an_ordinary_user_is_confined_as_root_is(folder: Path) -> None:
    """All layers come into force, and all protections hold, without any privilege. (When root runs the tests; else the others show it.)"""
    python = _python_for_everybody(folder)
    run = subprocess.run(
        [python, "-m", "grader", "doctor", "--json"],
        **_AS_NOBODY,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert "ordinary user" in report["machine"]
    assert report["official"]


_AS_NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}


def _python_for_everybody(folder: Path) -> Path:
    """A Python with this one's packages that the user nobody can run; skips the test where there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "venv" / "lib" / version / "site-packages"
    folder.chmod(0o755)
    os.chown(folder, 65534, 65534)
    for base in (sys.executable, f"/usr/bin/{version}"):
        subprocess.run([base, "-m", "venv", "--without-pip", "--clear", folder / "venv"], check=False, capture_output=True)
        if packages.parent.is_dir():
            packages.rmdir()
            packages.symlink_to(Path(torch.__file__).parents[1])
            python = folder / "venv" / "bin" / "python"
            with contextlib.suppress(PermissionError):
                if subprocess.run([python, "-c", "import torch, grader"], cwd=ROOT, **_AS_NOBODY, check=False).returncode == 0:
                    return python
    pytest.skip("the user nobody can run no Python of this version, or not read its packages")
