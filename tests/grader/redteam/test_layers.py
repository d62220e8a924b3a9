"""A layer that is missing is noticed: official grading is refused, or, for the optional one, the record says so."""

import os
from dataclasses import replace

import pytest

from grader.isolation import NotConfined, isolation, machine_layers
from grader.sandbox.attempts import ensure_confined, inspect_protections
from grader.sandbox.confine import MINIMUM_ABI, Layers, landlock_abi, supported
from grader.sandbox.launcher import Zygote, ZygoteError

pytestmark = pytest.mark.skipif(supported() is not None, reason=str(supported()))

OLDEST = Layers(MINIMUM_ABI)
"""What a machine must have: Landlock as in Linux 6.2, the filter, no capabilities; no namespaces."""


def refusal(layers: Layers) -> str:
    """Why nothing is graded with these layers; empty where it is."""
    with Zygote(layers) as zygote:
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
    assert "--allow-unconfined" in message


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
    with Zygote(layers) as zygote:
        found = {protection.name: protection for protection in inspect_protections(zygote)}
    names = found.pop("see which files exist outside")
    assert (names.holds, names.required) == (layers.namespaces, False)
    assert all(protection.holds and protection.required for protection in found.values())
    assert isolation(layers).namespaces is layers.namespaces
