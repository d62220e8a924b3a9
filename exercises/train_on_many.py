"""Capstone: the same training on one process and on many, with the same weights at every stage.

    1  train_data_parallel      each rank has a part of every batch       →  one all_reduce a step
    2  SlicedAdam               each rank has a slice of Adam's state     →  one reduce_scatter and one all_gather a step
    3  HeadParallelAttention    each rank has some of the heads           →  one all_reduce a pass
    4  ShardedCheckpoint        each rank has a part of every tensor      →  files that any other number of ranks can load

Ranks are processes that run the same code. The default process group exists: use `torch.distributed` as `dist`, with `dist.get_rank()`
and `dist.get_world_size()`. There may be only one rank: the text is the same for it. All ranks have to join in the same collectives in
the same order, or they wait for ever. The public tests run your code in two real processes; the grader runs it on ranks that are threads.

Every stage stands alone. Arguments, modes, generators and other global state are left as you found them, unless the statement says
otherwise. Tensors may be non-contiguous.
"""

import functools
import itertools
import json
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


def train_data_parallel(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], lr: float) -> list[float]:
    """Train a classifier on any number of ranks: the weights are those that one process gets from the whole batches.

    At first, every parameter and buffer of the model, frozen ones too, takes rank 0's values, by `dist.broadcast`. Then, for each
    batch of B samples, rank r of n takes the samples r, r + n, r + 2n, … With ℓ the cross entropy, the step is

        loss = Σ ℓ(model(x)[i], y[i]) / B          over all B samples, whichever rank has them
        p ← p − lr · ∂loss/∂p                      for each parameter that requires a gradient

    Shares need not be equally large, and if B < n, then some are empty. So the mean of the ranks' means is another number than the
    loss. An empty share adds 0 to the loss and to the gradients. (The mean of nothing is NaN.)

    Each step has one all_reduce and no other collective. It sums a tensor of one dimension: this rank's part of the gradient of all
    parameters that require one, flattened, in the order of model.parameters(), and after them this rank's part of the loss. A
    parameter that the loss does not depend on has zeros there. What is in `.grad` at first does not count; at the end it may be anything.

    Args:
        model: x → (B, classes). It is trained in place, in the mode that it is in. At least one parameter requires a gradient. Ranks
            may come with different values. All parameters have one dtype, float32 or float64. There may be buffers; training does not
            change them.
        batches: pairs of x (B, …) and y (B,), int64, with B ≥ 1; the whole batches, the same on all ranks. It can be read only once.
        lr: the learning rate.

    Returns: the loss of each step, before its update, as floats; the same on all ranks.
    Not allowed: DistributedDataParallel.
    """
    # TODO: about 14 lines.
    raise NotImplementedError("train_data_parallel")


class SlicedAdam:
    """Adam whose state is cut into slices (ZeRO-1; Rajbhandari et al. 2020, section 5.1): each rank keeps and updates one n-th of it.

    Flatten all parameters, in their order, into one vector of N entries, and fill it up with zeros to n · k entries, k = ⌈N/n⌉. Rank r has
    the slice r · k … (r + 1) · k − 1. It may cut through a parameter, and the last ranks may have nothing but zeros. A step is:

        reduce_scatter   each rank gives its whole gradient, flattened and filled up like the parameters: n · k numbers.
                         It gets g, the sum over ranks of its own slice
        update           t ← t + 1          m ← β₁ · m + (1 − β₁) · g          v ← β₂ · v + (1 − β₂) · g²
                         p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)          all of the slice only
        all_gather       each rank gives its slice of the new parameters: k numbers. All ranks get all slices, and copy them into
                         the parameters

    These two are a step's only collectives; their forms for lists and for single tensors are both fine. Gradients are summed and not
    averaged: as in the first stage, each rank's gradient is a part of the whole one. A parameter whose `.grad` is None has zeros in
    its place, and so may still be moved by its m. `step` leaves `.grad` alone.

    Attributes:
        m, v: (k,) each, dtype of the parameters, this rank's slice; zeros at first.
        t: how many steps were made, an int.
        lr: the learning rate.
        All four may be set from outside between steps, as one does after loading a checkpoint. Apart from the parameters, m and v, no
        tensor is kept between steps.

    Args of the constructor:
        params: the model's parameters, all float32 or all float64, the same on all ranks; N ≥ 1.
        lr, betas, eps: 0 or more; betas below 1.

    Not allowed: ZeroRedundancyOptimizer, and torch.optim.Adam and AdamW.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        """Make the slices; see the class."""
        # TODO: about 3 lines.
        raise NotImplementedError("SlicedAdam.__init__")

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters on all ranks; see the class."""
        # TODO: about 12 lines, and 3 in helpers of your own.
        raise NotImplementedError("SlicedAdam.step")


class HeadParallelAttention(nn.Module):
    """Causal self-attention whose heads are shared out to the ranks (Megatron-LM; Shoeybi et al. 2019, section 3).

    One process has the weight qkv: its rows 0 … D − 1 make the queries, the next D rows the keys, the last D rows the values. With H
    heads, head h has the features h · D/H … (h + 1) · D/H − 1 of each of the three. For x (B, T, D):

        q, k, v = the three thirds of x · qkvᵀ
        o_h     = softmax(q_h · k_hᵀ / √(D/H)) · v_h          position t sees the positions 0 … t
        y       = (o_0, …, o_{H−1}) · outᵀ + out_bias

    With n ranks, rank r keeps the heads r · H/n … (r + 1) · H/n − 1: their rows of each third of qkv, and their columns of out. The whole
    out_bias is on every rank, and is added once. All ranks get the same x, give the same y, and compute the same loss from it.

    Two collectives do it, each an all_reduce of a tensor with the shape of x. In the forward pass: this rank's part of y, without the bias.
    In the backward pass: the part of x's gradient that comes from this rank's heads; if x needs no gradient, there is none. So all
    gradients, of x too, are those of one process, each rank's parameters having their own part of them.

    Args of the constructor: the whole tensors, the same on all ranks, float32 or float64; rank r's parts are copied.
        qkv: (3D, D). out: (D, D). out_bias: (D,). num_heads: H, which divides D.

    Attributes: the parameters qkv (3, D/n, D), with the rows of queries, keys and values in this order, out (D, D/n) and out_bias (D,);
        nothing else is in the state_dict.
    Raises: ValueError if n does not divide H.
    Not allowed: parallelize_module, distribute_tensor. (F.scaled_dot_product_attention is fine.)
    """

    def __init__(self, qkv: Tensor, out: Tensor, out_bias: Tensor, num_heads: int) -> None:
        """Keep this rank's heads; see the class."""
        # TODO: about 8 lines.
        raise NotImplementedError("HeadParallelAttention.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Attend with all ranks' heads.

        Args:
            x: (B, T, D), the same on all ranks.

        Returns: (B, T, D), the same on all ranks.
        """
        # TODO: about 3 lines, and 16 in helpers of your own.
        raise NotImplementedError("HeadParallelAttention.forward")


class ShardedCheckpoint:
    """Save what n ranks have, each its own part, and load it on any other number of ranks.

    The files are kept in a store: a mapping from names to bytes, which all ranks share, such as a bucket of an object store. Nothing but
    `store[name] = data`, `store[name]` and going through its names is used.

    A checkpoint of step s has two kinds of files:

        "s/shard-r"   of each rank r: its tensors, as `safetensors.torch.save` makes them
        "s/index"     JSON in UTF-8: {"ranks": n, "sharded": {name: {"dim": d, "sizes": [rank 0's size, rank 1's size, …]}}}

    with the number s in decimal digits, as in "120/shard-0". Some tensors are sharded: each rank has a piece, and the pieces in the
    order of the ranks, joined along the dimension d, are the whole tensor. Pieces may have different sizes along d, 0 too. All other
    tensors are replicated: every rank has the whole, and only rank 0 saves it.

    The index is written last, by rank 0, once all ranks have written their shards. So a checkpoint without an index is unfinished: it
    counts for nothing, and the last finished one is still there. A step may be saved again, by another number of ranks: then the index
    says which shards count.

    Args of the constructor:
        store: see above. It may hold earlier checkpoints, saved by other numbers of ranks, and files of other kinds, such as "notes.txt".

    Not allowed: torch.distributed.checkpoint.
    """

    def __init__(self, store: MutableMapping[str, bytes]) -> None:
        """Use this store; see the class."""
        # TODO: about 1 line.
        raise NotImplementedError("ShardedCheckpoint.__init__")

    def save(self, step: int, state: Mapping[str, Tensor], dims: Mapping[str, int]) -> None:
        """Save this rank's part; all ranks call it together.

        No entries of the state go through a collective: only sizes do.

        Args:
            step: s, 0 or more.
            state: this rank's tensors by name, of any dtypes, at least one; the same names on all ranks. They may be parameters, be
                non-contiguous or share memory. (safetensors refuses the last two: save copies.)
            dims: for each sharded tensor its dimension d, 0 or more; those that are not named here are replicated. The same on all ranks.

        Raises: ValueError if dims has a name that is not in the state; then nothing is written.
        """
        # TODO: about 12 lines.
        raise NotImplementedError("ShardedCheckpoint.save")

    def load(self) -> tuple[int, dict[str, Tensor]]:
        """Load this rank's part of the last finished checkpoint, the one with the largest step.

        Of m ranks now, rank r gets piece r of `whole.tensor_split(m, d)` of each sharded tensor: the first (size mod m) pieces are
        longer by one, and some may be empty. It gets the whole of each replicated tensor.

        A rank reads shard 0, in which replicated tensors are, and of the other shards only those that hold entries of its own pieces;
        each of them once. Which these are follows from the sizes in the index. There is no collective.

        Returns: the step, and the state by name, of new tensors with the dtypes that were saved.
        Raises: ValueError if no checkpoint is finished.
        """
        # TODO: about 15 lines.
        raise NotImplementedError("ShardedCheckpoint.load")
