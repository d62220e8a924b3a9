"""What confines a worker, and what the worker may still use. The trusted process chooses it, and the worker applies it.

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
    """What the process may still use."""

    readable: tuple[str, ...]
    """Files and folders that it may read."""
    scratch: str
    """The one folder that it may write."""
    memory_bytes: int
    """Address space."""
    scratch_bytes: int
    """All files in the scratch folder together, where namespaces allow that; the largest file, where they don't."""
