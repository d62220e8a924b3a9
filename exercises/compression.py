"""Compression: fewer numbers, same answers: prune, pack, factorise, share and distil, and count what is really stored.

Every task stands alone. A number is finite if it is neither NaN nor infinite. −0 is 0, everywhere.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
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


def pack_two_four(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Store a 2:4 sparse matrix as its values and, for each of them, two bits that say where it stood.

    Four neighbours in a row are a group: columns 0 to 3, 4 to 7 and so on. At most two entries of each group are not 0. For each
    group, two places i < j of 0 … 3 are stored, with the entries that stand there: the places of the entries that are not 0; if
    these are fewer than two, also the smallest of the other places, as many as are missing. (So an empty group has i = 0 and j = 1, and
    a group whose only entry stands at 2 has i = 0 and j = 2.)

    The code of group g is c_g = i + 4 · j. Byte b of a row holds two codes, c_2b + 16 · c_2b+1; with an odd number of groups the upper
    four bits of the row's last byte are 0.

    Args:
        weight: (out, in), in a multiple of 4; both may be 0. float16, bfloat16, float32 or float64. NaN and infinite entries are not 0,
            and are stored as they are. A Parameter is fine.

    Returns: values (out, in / 2), dtype of weight: those of the first group's i and j, of the second's, and so on; they require no
        gradient. And codes (out, ⌈in / 8⌉), uint8.
    Raises: ValueError if weight does not have two dimensions, in is not a multiple of 4, or a group has more than two entries that
        are not 0.
    Not allowed: torch.sparse.to_sparse_semi_structured.
    """
    # TODO: about 9 lines.
    raise NotImplementedError("pack_two_four")


def stored_bytes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Count the bytes that a state_dict takes, in several formats.

    A matrix is a tensor of two dimensions with a floating-point dtype. Let it have n rows, m columns and z entries that are not 0
    (NaN isn't 0), of b bytes each. It takes:

        "dense"     n · m · b
        "csr"       z · b for the values, z · 4 for their columns, (n + 1) · 4 for where rows begin
        "bitmask"   z · b for the values, ⌈n · m / 8⌉ for a bit each that says what is 0
        "2:4"       n · m / 2 · b for the values, n · ⌈m / 8⌉ for their places, if m is a multiple of 4 and none of the groups of four
                    neighbours in a row (columns 0 to 3, 4 to 7, …) has more than two entries that are not 0;
                    otherwise as dense
        "int4"      n · ⌈m / 2⌉ for codes, n · ⌈m / 32⌉ · 2 for scales
        "best"      the smallest of dense, csr, bitmask and 2:4, which lose nothing, chosen for each matrix

    All other tensors, such as biases, kernels of convolutions and integers, take their number of entries times the bytes of one, in
    every format. A tensor without entries takes 0 bytes in every format.

    Tied weights are stored once: if several tensors have the same memory, tensor.untyped_storage(), the first of them in the mapping
    counts, and the others take nothing. (Each tensor looks at all of its memory, and at no place twice. A transposed view has the same
    memory, too.)

    Args:
        state: tensors on the CPU. Floating ones are float16, bfloat16, float32 or float64. It may be empty.

    Returns: {"dense", "csr", "bitmask", "2:4", "int4", "best": the sum over all tensors}, exact ints.
    """
    # TODO: about 19 lines.
    raise NotImplementedError("stored_bytes")


def prune_channels(net: nn.Sequential, keep: Tensor) -> nn.Sequential:
    """Take channels out of a convolutional network, so that it really becomes smaller (Li et al. 2017, "Pruning filters").

    The net is a Sequential of layers in a row: an nn.Conv2d with C output channels; any number of nn.BatchNorm2d(C), nn.ReLU and
    depthwise nn.Conv2d (C inputs, C outputs, groups=C), in any order; and an nn.Conv2d with C input channels. The first and the last
    convolution have groups=1. C is at least 2.

    All that happens between is done for each channel by itself. So a channel that the last convolution doesn't look at can be left out
    everywhere: the result gives what net would give if the last weight were 0 for all channels that are not kept, in eval mode and in
    training mode. Each layer's statistics, weights and biases are cut where they belong to channels.

    The result is a new Sequential of the same kinds of layers with the same settings, dtypes, modes and requires_grad; only the numbers
    of channels and the groups of depthwise convolutions differ, in the layers' attributes as well, as ints (print shows them). It shares no
    memory with net. (Building a layer draws from torch's generator; here it may.)

    Args:
        net: as above. Convolutions may have a bias or none; batch norms may have affine=False or track_running_stats=False.
        keep: (C,), bool, True where a channel is kept.

    Returns: the smaller network.
    Raises: ValueError if keep is not bool, is not (C,), or keeps no channel.
    """
    # TODO: about 16 lines.
    raise NotImplementedError("prune_channels")


def factorize_linear(layer: nn.Linear, energy: float) -> nn.Module:
    """Replace a linear layer by two thin ones, if that saves weights.

    Let σ_1 ≥ σ_2 ≥ … be the singular values of the weight W (out, in), and

        r = the smallest rank, at least 1, with σ_1² + … + σ_r² ≥ energy · (σ_1² + σ_2² + …)

    The best approximation of rank r is W_r = Σ_{i ≤ r} σ_i · u_i · v_iᵀ, and the squares of its errors add up to the energy of the rest,
    σ_{r+1}² + … (Eckart & Young 1936). Singular values and energies are computed in float64. If r · (in + out) < in · out, the result is

        nn.Sequential(nn.Linear(in, r, bias=False), nn.Linear(r, out, bias as in layer))

    with the product of both weights W_r, in the layer's dtype, and a copy of its bias. Otherwise it is the layer itself.

    How each σ is shared out between the two weights is free, as long as no entry of either is larger than √σ_1 by more than rounding
    (so don't put all of σ on one side).

    The new layers are trainable, and they and the Sequential are in the layer's mode. They share no memory with it. (Building a layer draws
    from torch's generator; here it may.)

    Args:
        layer: float32 or float64, in and out at least 1; its weights are finite, and in size 0 or between 1e-30 and 1e30. If all are 0,
            r is 1.
        energy: between 0 and 1, both excluded. Tests choose it so that rounding does not decide on the rank.

    Returns: the Sequential, or the layer itself.
    Raises: ValueError if not 0 < energy < 1.
    """
    # TODO: about 17 lines.
    raise NotImplementedError("factorize_linear")


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, *, T: float = 4.0, alpha: float = 0.5) -> Tensor:
    """Teach a small network what a large one answers, and what is right (Hinton et al. 2015, section 2).

    With the softmax over classes, row b gives two distributions at temperature T:

        p_b = softmax(teacher_b / T),  q_b = softmax(student_b / T)
        KL_b = Σ_c p_bc · (log p_bc − log q_bc)
        soft = T² · the mean of KL_b over all rows
        hard = the mean of −log softmax(student_b)[label_b] over the rows that have a label; 0 if none has
        loss = alpha · soft + (1 − alpha) · hard

    T² keeps the gradients of both parts alike in size. A label below 0 says that there is none; the row counts in `soft` all the same.

    No gradient reaches the teacher's logits. Logits are finite, up to ±10⁴; for these the loss and its gradients are right, though some
    probabilities are 0 as floats.

    Args:
        student, teacher: logits (B, C), both float32 or both float64; B and C at least 1.
        labels: (B,), int64, below C.
        T: the temperature, above 0. alpha: 0 … 1.

    Returns: the loss, 0-d, in the logits' dtype.
    Raises: ValueError if T is not above 0 or alpha is not in 0 … 1 (NaN is neither).
    """
    # TODO: about 8 lines.
    raise NotImplementedError("distillation_loss")


def codebook(weight: Tensor, start: Tensor, *, iterations: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Let weights share a few values, by k-means (Han et al. 2016, "Deep compression", section 3).

    K centroids begin at `start`. One iteration:

    1. Each weight gets the number of its nearest centroid, by |weight − centroid|; of equally near ones, the smaller number.
    2. Each centroid moves to the mean of the weights that have its number. A centroid without weights stays where it is.

    After all iterations, each weight gets the number of its nearest centroid once more: its code. Centroids keep their numbers; they are
    not sorted. All of this is computed in float64. Only then the centroids are rounded to the weight's dtype; the codes stay as they are.

    The centroids are returned as a leaf that requires a gradient, and the shared weights are centroids[codes], in its graph. So autograd
    gives each centroid the sum of the gradients of its weights, and the codebook can be trained. No gradient reaches weight or start.

    Args:
        weight: any shape, 0-d and empty too, float32 or float64, finite. A Parameter is fine.
        start: (K,), float32 or float64, finite, 1 ≤ K ≤ 256, in any order; some may be equal.
        iterations: 0 or more. With 0, the weights only get codes.

    Returns: a tuple of
        centroids: (K,), dtype of weight; a leaf.
        codes: the shape of weight, uint8.
        shared: the shape and dtype of weight.
        bits: what has to be stored, an int: for each weight a code of ⌈log₂ K⌉ bits (0 if K is 1), for each centroid the bits of the
            weight's dtype. (K − 1).bit_length() is exact.
    Raises: ValueError if start is not (K,) with 1 ≤ K ≤ 256, or iterations is below 0.
    """
    # TODO: about 12 lines.
    raise NotImplementedError("codebook")


def distill_digits(net: nn.Module, images: Tensor, logits: Tensor, *, generator: torch.Generator, updates: int = 300) -> None:
    """Train a small network from a teacher's answers to images that nobody has labelled.

    The test's network is the small one here: it has 1,135 parameters.

        nn.Sequential(nn.Flatten(), nn.Linear(64, 15), nn.ReLU(), nn.Linear(15, 10))

    The teacher has seen 1,197 handwritten digits of 8 × 8 pixels. It is right for 99 % of others, and says how sure it is: on average, its
    likeliest class has 60 %. The ten classes have random numbers. After the default number of updates, this is asked of the network's
    weights, on 600 other images:

    - It is right for at least 90 %. (From the labels of 60 images, it learns to be right for 74 to 88 %.)
    - The mean of KL_b = Σ_c p_bc · (log p_bc − log q_bc) is at most 0.3, where p is the softmax of the teacher's logits, and q that of
      the network's. (Who learns which class the teacher finds likeliest gets to 1.4 or more, for being too sure.)

    Adam with a batch of 64 and a learning rate of 1e-2 gets to 95 % and 0.1, in a fifth of a second on one core. You have ten seconds
    of it.

    Args:
        net: logits (B, 10) = net(images). It is trained in place, in the mode in which it is, from the weights that it has.
        images: (N, 1, 8, 8), float32; N ≥ 1 may be smaller than your batch.
        logits: (N, 10), float32, the teacher's; they require no gradient.
        generator: all random numbers come from it: with a generator in the same state, the same weights become the same weights, and
            another state gives others.
        updates: how many steps of the optimizer are made. 0 leaves the weights as they are; 1 changes them.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("distill_digits")
