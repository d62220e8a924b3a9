"""Fresh test data, seeded from the run's secret seed and the test's name."""

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Draw", "Layout"]

Layout = Literal["contiguous", "transposed", "sliced", "expanded"]
"""How a tensor lies in memory.

"contiguous": one entry after another. "transposed": the axes in reverse order, as in a transpose's view; of two axes or more.
"sliced": every second entry of a longer last axis, from the second on. "expanded": the first axis is a single slice, repeated.
"""


class Draw:
    """Random inputs for one test. The same seed gives the same inputs, in the order in which they are asked for.

    What `layout` asks for changes no shape. It changes no value either, save that along the first axis of an expanded tensor all are equal.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator = torch.Generator()
        self.restart()

    def restart(self) -> None:
        """Draw the same inputs again."""
        self._generator.manual_seed(self._seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, layout: Layout = "contiguous") -> Tensor:
        """Standard normal numbers of this shape."""
        return laid_out(torch.randn(shape, generator=self._generator, dtype=torch.float64).to(dtype), layout)

    def uniform(
        self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32, layout: Layout = "contiguous"
    ) -> Tensor:
        """Numbers of this shape, uniform in [low, high)."""
        unit = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return laid_out((low + (high - low) * unit).to(dtype), layout)

    def magnitudes(self, *shape: int, low: float, high: float, dtype: torch.dtype = torch.float32, layout: Layout = "contiguous") -> Tensor:
        """Numbers of either sign whose sizes are spread over all powers of ten from low to high: as many near 1e-30 as near 1e30."""
        exponents = self.uniform(*shape, low=math.log(low), high=math.log(high), dtype=torch.float64)
        signs = 1 - 2 * self.integers(0, 2, *shape)
        return laid_out((exponents.exp() * signs).to(dtype), layout)

    def integers(self, low: int, high: int, *shape: int, layout: Layout = "contiguous") -> Tensor:
        """int64 numbers of this shape, uniform in {low, …, high - 1}."""
        return laid_out(torch.randint(low, high, shape, generator=self._generator), layout)

    def bools(self, *shape: int, p: float = 0.5, layout: Layout = "contiguous") -> Tensor:
        """Booleans of this shape, True with probability p."""
        return laid_out(torch.rand(shape, generator=self._generator) < p, layout)

    def permutation(self, n: int) -> Tensor:
        """The numbers 0 to n - 1 in random order, (n,) int64."""
        return torch.randperm(n, generator=self._generator)

    def integer(self, low: int, high: int) -> int:
        """One number of {low, …, high - 1}."""
        return int(self.integers(low, high))

    def seed(self) -> int:
        """A seed for a generator that the probe makes."""
        return self.integer(0, 2**31)

    def poisoned(self, x: Tensor, where: Tensor) -> Tensor:
        """A copy of a floating-point x with NaN, inf, -inf and the largest number, in turn, where the mask says so.

        Args:
            x: any shape.
            where: bool, broadcast to x: the entries that must not matter.
        """
        poison = torch.tensor([math.nan, math.inf, -math.inf, torch.finfo(x.dtype).max], dtype=x.dtype)
        turns = torch.arange(x.numel()).reshape(x.shape) + self.integer(0, 4)
        return torch.where(where, poison[turns % 4], x)


def laid_out(x: Tensor, layout: Layout) -> Tensor:
    """A tensor with the entries of x that lies in memory as `layout` says. Raises: ValueError where x has too few axes."""
    if x.dim() < (2 if layout == "transposed" else layout != "contiguous"):
        raise ValueError(f"a tensor of {x.dim()} axes can't be {layout}")
    match layout:
        case "contiguous":
            return x
        case "transposed":
            axes = tuple(reversed(range(x.dim())))
            return x.permute(axes).contiguous().permute(axes)
        case "sliced":
            wide = torch.zeros((*x.shape[:-1], 2 * x.shape[-1] + 1), dtype=x.dtype)
            wide[..., 1::2] = x
            return wide[..., 1::2]
        case "expanded":
            return x[:1].expand_as(x)
