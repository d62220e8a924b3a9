"""Fresh test data, seeded from the run's secret seed and the test's name."""

import torch
from torch import Tensor

__all__ = ["Draw"]


class Draw:
    """Random inputs for one test. The same seed gives the same inputs, in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator = torch.Generator()
        self.restart()

    def restart(self) -> None:
        """Draw the same inputs again."""
        self._generator.manual_seed(self._seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers of this shape."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).to(dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers of this shape, uniform in [low, high)."""
        unit = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return (low + (high - low) * unit).to(dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 numbers of this shape, uniform in {low, …, high - 1}."""
        return torch.randint(low, high, shape, generator=self._generator)

    def bools(self, *shape: int, p: float = 0.5) -> Tensor:
        """Booleans of this shape, True with probability p."""
        return torch.rand(shape, generator=self._generator) < p

    def permutation(self, n: int) -> Tensor:
        """The numbers 0 to n - 1 in random order, (n,) int64."""
        return torch.randperm(n, generator=self._generator)

    def integer(self, low: int, high: int) -> int:
        """One number of {low, …, high - 1}."""
        return int(self.integers(low, high))

    def seed(self) -> int:
        """A seed for a generator that the probe makes."""
        return self.integer(0, 2**31)
