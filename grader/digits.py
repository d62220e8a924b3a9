"""The handwritten digits on the trusted side, for tasks that train on real images.

Knows a folder in the layout of `torchvision.datasets.MNIST`: the repository's data/ (8×8, see data/README.md) or a real
MNIST (28×28). Nothing is ever downloaded.
"""

from pathlib import Path

import torch
from torch import Tensor

from grader.torchvision_compat import import_torchvision

__all__ = ["DigitsNotFoundError", "load_digits"]


class DigitsNotFoundError(FileNotFoundError):
    """There are no digits where they were looked for; the text says what belongs there."""


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
            f"no digits in {Path(root) / 'MNIST' / 'raw'}: it must hold train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte. `python data/make_digits.py` writes the small ones."
        ) from error
    return digits.data.unsqueeze(1).to(torch.float32) / 255, digits.targets.to(torch.int64)
