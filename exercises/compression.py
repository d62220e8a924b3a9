"""Compression: fewer numbers, same answers: prune, pack, factorise, share and distil, and count what is really stored.

Every task stands alone. A number is finite if it is neither NaN nor infinite. −0 is 0, everywhere.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Choose the smallest weights of a whole network, to prune them (Han et al. 2015, "Learning both weights and connections").

    All entries of all layers stand in one list: layer by layer in the mapping's order, and within a layer row by row, as in
    flatten(). Let N be their number. Of these,

        k = round(sparsity * N)

    with Python's round (a half goes to the even number) are pruned: those with the smallest absolute values, wherever they
    are. So one layer may lose all, another nothing. Where absolute values are equal, the entry that comes earlier in the list
    is pruned first. It is always exactly k.

    Absolute values are compared exactly, whatever the dtypes: float64 holds each of them.

    Args:
        weights: floating-point tensors of any shapes, 0-d and empty ones too; float16, bfloat16, float32 and float64 may be
            mixed. No entry is NaN; an infinite one is larger than all finite ones. Parameters are fine. The mapping may be empty.
        sparsity: the share that is pruned, 0 … 1.

    Returns: for each name a bool tensor, in the shape of its weight: True where the weight is kept.
    Raises: ValueError if sparsity is not in 0 … 1 (NaN isn't).
    Not allowed: torch.nn.utils.prune, torch.ao.pruning.
    """
    # TODO: about 8 lines.
    raise NotImplementedError("magnitude_masks")


class Pruned(nn.Module):
    """Keep pruned weights at 0 while a network is trained on.

    torch.nn.utils.parametrize computes a layer's tensor from a stored one, whenever it is used. After

        parametrize.register_parametrization(layer, "weight", Pruned(mask))

    layer.weight is Pruned's forward of the parameter layer.parametrizations.weight.original. Optimizers move that one: with
    momentum or weight decay also where its gradient is 0. layer.weight stays 0 there.

    The mask is a buffer named "mask": it is saved with the layer as "parametrizations.weight.0.mask", and moves with it.

    Args of the constructor:
        mask: bool, the weight's shape, True where a weight is kept. A copy is stored.

    Raises: ValueError if the mask is not bool.
    Not allowed: torch.nn.utils.prune.
    """

    def __init__(self, mask: Tensor) -> None:
        """Keep the mask; see the class."""
        # TODO: about 4 lines.
        raise NotImplementedError("Pruned.__init__")

    def forward(self, weight: Tensor) -> Tensor:
        """Put 0 where the mask is False.

        What is replaced there may be NaN or infinite, and so may the gradient that arrives there: the weight's gradient is 0 there.

        Args:
            weight: the mask's shape, floating.

        Returns: shape and dtype of weight.
        Raises: ValueError if the weight has another shape than the mask, even one that broadcasts.
        """
        # TODO: about 3 lines.
        raise NotImplementedError("Pruned.forward")

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Say what is to be stored when somebody assigns layer.weight = weight, or registers this: the same as in forward.

        parametrize calls this, so that the stored parameter has zeros, too, at first. Args, Returns and Raises: as for forward.
        """
        # TODO: about 1 line.
        raise NotImplementedError("Pruned.right_inverse")

    @staticmethod
    def bake(model: nn.Module) -> None:
        """Make the pruned tensors of a model ordinary parameters again, with their zeros.

        In the model and all modules within, each tensor that has a Pruned among its parametrizations loses all of these. It
        becomes a parameter, under its own name, with the values that it had, masked. It is the same Parameter that was stored as
        `original`, so an optimizer that has it goes on with it. Nothing of Pruned is left in the state_dict. Tensors with other
        parametrizations only stay as they are, on the same layer, too.

        Look up parametrize.remove_parametrizations. Modes stay as they are.

        Args:
            model: changed in place. It may be a pruned layer itself, or hold none.
        """
        # TODO: about 4 lines.
        raise NotImplementedError("Pruned.bake")


def two_four_mask(weight: Tensor) -> Tensor:
    """Keep two of every four weights, the pattern that GPUs multiply twice as fast (Mishra et al. 2021).

    Along the last dimension, the inputs of a linear layer, columns 0 to 3 are a group, 4 to 7 the next, and so on. In each group
    the two entries with the largest absolute values are kept, which keeps the largest possible sum of squares. Where absolute
    values are equal, the entry with the smaller column is kept.

    Args:
        weight: (…, in), at least one dimension, in a multiple of 4; any size may be 0. float16, bfloat16, float32 or float64, from
            the smallest to the largest number (mind that squares leave that range). No entry is NaN; an infinite one is larger
            than all finite ones. A Parameter is fine.

    Returns: bool, the shape of weight: True where it is kept, twice in each group.
    Raises: ValueError if weight has no dimension, or in is not a multiple of 4.
    Not allowed: torch.sparse.to_sparse_semi_structured, torch.ao.pruning.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("two_four_mask")
