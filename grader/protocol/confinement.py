"""What confines a worker, and what it keeps: agreed on by the trusted process, which chooses, and the worker, which applies it.

Needs Python's own library only: exports ship it beside `grader.sandbox.worker.confine`.
"""

from dataclasses import dataclass

__all__ = ["Layers", "Permissions"]


@dataclass(frozen=True)
class Layers:
    """What confines a worker. `machine_layers` gives all that the machine has; tests take one away to see that the loss is noticed."""

    landlock_abi: int
    """The version whose rules are used; 0 for no Landlock."""
    seccomp: bool = True
    no_capabilities: bool = True
    namespaces: bool = False


@dataclass(frozen=True)
class Permissions:
    """What the process keeps."""

    readable: tuple[str, ...]
    """Files and folders that it may read."""
    scratch: str
    """The one folder that it may write."""
    memory_bytes: int
    """Address space."""
    file_bytes: int
    """Largest file."""
