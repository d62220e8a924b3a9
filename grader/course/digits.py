"""The handwritten digits on the trusted side, for tasks that train on real images.

Reads a folder in the layout of `torchvision.datasets.MNIST`. That is the repository's data/ (1,797 images of 8×8, see data/README.md)
or the real MNIST (70,000 of 28×28). A test uses only a part of the real MNIST, so that a fit still takes seconds. Nothing is ever
downloaded.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from grader.base.torchvision_compat import import_torchvision

__all__ = ["Digits", "DigitsNotFoundError", "load_digits"]

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class DigitsNotFoundError(FileNotFoundError):
    """A folder holds no digits. The text says what it must hold."""


def load_digits(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Read one part of the digits through `torchvision.datasets.MNIST`.

    Args:
        root: the folder that holds MNIST/raw/ with its four IDX files.
        train: the training part (files train-*) or the test part (files t10k-*).

    Returns: images (N, 1, H, W), float32 in [0, 1], and labels (N,), int64.
    Raises: DigitsNotFoundError if a file is missing under root.
    """
    datasets = import_torchvision().datasets
    try:
        digits = datasets.MNIST(root, train=train, download=False)
    except (RuntimeError, FileNotFoundError) as error:
        raise DigitsNotFoundError(
            f"no digits in {Path(root) / 'MNIST' / 'raw'}: it must hold {', '.join(FILES)}. "
            "`python data/make_digits.py` writes the small ones."
        ) from error
    return digits.data.unsqueeze(1).to(torch.float32) / 255, digits.targets.to(torch.int64)


class Permutes(Protocol):
    """Something that draws random permutations, such as a test's `draw`."""

    def permutation(self, n: int, /) -> Tensor:
        """The numbers 0 to n - 1 in random order, (n,) int64."""


@dataclass(frozen=True)
class Digits:
    """All digits of a folder: images (N, 1, H, W), float32 in [0, 1], and labels (N,), int64. Do not modify them."""

    images: Tensor
    labels: Tensor

    @classmethod
    @functools.cache
    def read(cls, root: Path) -> "Digits":
        """Read both parts of the folder, once in each process. MNIST's images are averaged down to 14×14. Raises: DigitsNotFoundError."""
        parts = [load_digits(root, train=train) for train in (True, False)]
        images = torch.cat([images for images, _ in parts])
        images = avg_pool2d(images, 2) if images.shape[-1] == 28 else images
        return cls(images, torch.cat([labels for _, labels in parts]))

    def split(self, draw: Permutes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw at most 4,000 training images and 600 held-out ones, with their labels. Each test draws anew in each run.

        Some draws are hard, because an 8 can look like a 9. With 360 held-out images, a hard draw cost a good network two points of
        accuracy; with 600, it cost one.

        Returns: training images, training labels, held-out images, held-out labels.
        """
        order = draw.permutation(len(self.labels))
        held_out, train = order[:600], order[600:4600]
        return self.images[train], self.labels[train], self.images[held_out], self.labels[held_out]
