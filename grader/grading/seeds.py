"""Seeds for one purpose each, from the run's secret seed. Imports no torch."""

import hashlib

__all__ = ["derive_seed"]


def derive_seed(seed: int, *parts: object) -> int:
    """A seed below 2**56 for one purpose, from the run's seed and what names the purpose."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")
