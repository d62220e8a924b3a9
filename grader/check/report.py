"""What the content gate counted and found."""

from msgspec import Struct

from grader.check.evidence import ModuleEvidence

__all__ = ["Report"]


class Report(Struct):
    """What the gate counted and found. All is well if `survived` and `problems` are empty."""

    modules: int = 0
    tasks: int = 0
    tests: int = 0
    misconceptions: int = 0
    alternatives: int = 0
    survived: list[str] = []
    """Misconceptions that no test of their task rejects."""
    rejected: list[str] = []
    """Misconceptions that are rejected."""
    unjudged: list[str] = []
    """Misconceptions of which nothing is known, because this machine skips all tests of their task."""
    problems: list[str] = []
    """Everything else that has to be mended, one sentence each."""
    warnings: list[str] = []
    """What may be meant so."""
    evidence: list[ModuleEvidence] = []
    """What each module's points rest on."""
