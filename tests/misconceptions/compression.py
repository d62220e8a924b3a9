"""Named wrong answers to the tasks of compression: the hidden suite must reject every one."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

from grader.testing import misconception
from solutions.compression import Pruned as ReferencePruned
from solutions.compression import magnitude_masks as reference_masks
from solutions.compression import two_four_mask as reference_two_four

# magnitude_masks


def _masks(weights, count, sizes=None, *, order=None):
    """Masks that prune `count` entries, the smallest by `sizes`."""
    sizes = (
        torch.cat([torch.zeros(0, dtype=torch.float64)] + [w.detach().double().abs().flatten() for w in weights.values()])
        if sizes is None
        else sizes
    )
    keep = torch.ones(len(sizes), dtype=torch.bool)
    keep[(sizes.argsort(stable=True) if order is None else order)[:count]] = False
    parts = keep.split([w.numel() for w in weights.values()])
    return {name: part.reshape(weights[name].shape) for name, part in zip(weights, parts)}


def _check(sparsity):
    if not 0 <= sparsity <= 1:
        raise ValueError(sparsity)


def _total(weights):
    return sum(w.numel() for w in weights.values())


@misconception("magnitude_masks", "Prunes the same share of each layer: the smallest of all layers together are asked for.")
def per_layer(weights, sparsity):
    _check(sparsity)
    return {name: reference_masks({name: w}, sparsity)[name] for name, w in weights.items()}


@misconception("magnitude_masks", "Keeps what is above a threshold: all entries that equal it go, which may be too many.")
def threshold_above(weights, sparsity):
    _check(sparsity)
    k = round(sparsity * _total(weights))
    sizes = torch.cat([w.detach().double().abs().flatten() for w in weights.values()]) if weights else torch.zeros(0)
    limit = sizes.kthvalue(k).values if k else -1.0
    return {name: w.detach().double().abs() > limit for name, w in weights.items()}


@misconception("magnitude_masks", "Keeps what is not below a threshold: entries that equal it all stay, so too few go.")
def threshold_from(weights, sparsity):
    _check(sparsity)
    k = round(sparsity * _total(weights))
    sizes = torch.cat([w.detach().double().abs().flatten() for w in weights.values()]) if weights else torch.zeros(0)
    limit = sizes.sort().values[k] if k < len(sizes) else math.inf
    return {name: w.detach().double().abs() >= limit for name, w in weights.items()}


@misconception("magnitude_masks", "Takes the threshold from torch.quantile, which lies between entries and counts differently.")
def quantile(weights, sparsity):
    _check(sparsity)
    if not weights:
        return {}
    sizes = torch.cat([w.detach().double().abs().flatten() for w in weights.values()])
    limit = sizes.quantile(float(sparsity))
    return {name: w.detach().double().abs() > limit for name, w in weights.items()}


@misconception("magnitude_masks", "Of equally large entries, prunes the later ones first.")
def later_first(weights, sparsity):
    _check(sparsity)
    sizes = torch.cat([torch.zeros(0)] + [w.detach().double().abs().flatten() for w in weights.values()])
    order = len(sizes) - 1 - sizes.flip(0).argsort(stable=True)
    return _masks(weights, round(sparsity * len(sizes)), order=order)


@misconception("magnitude_masks", "Prunes the smallest numbers, which are the negative ones: absolute values count.")
def signed(weights, sparsity):
    _check(sparsity)
    sizes = torch.cat([torch.zeros(0)] + [w.detach().double().flatten() for w in weights.values()])
    return _masks(weights, round(sparsity * len(sizes)), sizes)


@misconception("magnitude_masks", "Cuts the count instead of rounding it.")
def cuts_the_count(weights, sparsity):
    _check(sparsity)
    return _masks(weights, int(sparsity * _total(weights)))


@misconception("magnitude_masks", "Rounds the count up.")
def rounds_up(weights, sparsity):
    _check(sparsity)
    return _masks(weights, math.ceil(sparsity * _total(weights)))


@misconception("magnitude_masks", "Rounds a half up: Python's round takes it to the even number.")
def halves_up(weights, sparsity):
    _check(sparsity)
    return _masks(weights, int(sparsity * _total(weights) + 0.5))


@misconception("magnitude_masks", "Keeps round((1 − sparsity) · N): where that is a half, it is another number.")
def counts_what_is_kept(weights, sparsity):
    _check(sparsity)
    total = _total(weights)
    return _masks(weights, total - round((1 - sparsity) * total))


@misconception("magnitude_masks", "Marks what is pruned: the mask is True where a weight is kept.")
def inverted(weights, sparsity):
    return {name: ~mask for name, mask in reference_masks(weights, sparsity).items()}


@misconception("magnitude_masks", "Compares in float32: float64 entries that differ become equal.")
def in_float32(weights, sparsity):
    return reference_masks({name: w.float() for name, w in weights.items()}, sparsity)


@misconception("magnitude_masks", "Compares in the dtype of the first layer.")
def in_the_first_dtype(weights, sparsity):
    first = next(iter(weights.values()), torch.zeros(())).dtype
    return reference_masks({name: w.to(first) for name, w in weights.items()}, sparsity)


@misconception("magnitude_masks", "Compares squares, which are 0 or infinite where the entries are not.")
def squares(weights, sparsity):
    return reference_masks({name: w.square() for name, w in weights.items()}, sparsity)


@misconception("magnitude_masks", "Measures each layer by its own largest entry: absolute values count as they are.")
def relative(weights, sparsity):
    return reference_masks({name: w / w.abs().max() if w.numel() else w for name, w in weights.items()}, sparsity)


@misconception("magnitude_masks", "Leaves out zeros when it counts: an entry that is 0 already is an entry, and the first to go.")
def zeros_are_gone(weights, sparsity):
    _check(sparsity)
    sizes = torch.cat([torch.zeros(0)] + [w.detach().double().abs().flatten() for w in weights.values()])
    zeros = int((sizes == 0).sum())
    return _masks(weights, zeros + round(sparsity * (len(sizes) - zeros)))


@misconception("magnitude_masks", "Sorts the layers by name: equal entries go in the mapping's order.")
def sorted_by_name(weights, sparsity):
    return reference_masks({name: weights[name] for name in sorted(weights)}, sparsity)


@misconception("magnitude_masks", "Rounds for each layer how many entries go, and misses the total.")
def rounds_each_layer(weights, sparsity):
    _check(sparsity)
    return _masks(weights, sum(round(sparsity * w.numel()) for w in weights.values()))


@misconception("magnitude_masks", "Gives masks of floats: they are bool.")
def masks_of_floats(weights, sparsity):
    return {name: mask.float() for name, mask in reference_masks(weights, sparsity).items()}


@misconception("magnitude_masks", "Gives flat masks: they have the shapes of the weights.")
def flat_masks(weights, sparsity):
    return {name: mask.flatten() for name, mask in reference_masks(weights, sparsity).items()}


@misconception("magnitude_masks", "Prunes the weights, too: only masks are asked for.")
def prunes_in_place(weights, sparsity):
    masks = reference_masks(weights, sparsity)
    with torch.no_grad():
        for name, w in weights.items():
            w.copy_(w * masks[name])
    return masks


@misconception("magnitude_masks", "Cannot do without layers.")
def needs_a_layer(weights, sparsity):
    if not weights:
        raise ValueError("nothing to prune")
    return reference_masks(weights, sparsity)


@misconception("magnitude_masks", "Refuses to keep or prune all.")
def refuses_the_ends(weights, sparsity):
    if not 0 < sparsity < 1:
        raise ValueError(sparsity)
    return reference_masks(weights, sparsity)


@misconception("magnitude_masks", "Lets NaN through, as it is neither below 0 nor above 1.")
def lets_nan_through(weights, sparsity):
    if sparsity < 0 or sparsity > 1:
        raise ValueError(sparsity)
    return reference_masks(weights, 0.5 if sparsity != sparsity else sparsity)


# Pruned


@misconception("Pruned", "Sets the weights to 0 once: momentum and decay move them away from 0 again.")
class ZeroesOnce(ReferencePruned):
    def forward(self, weight):
        if weight.shape != self.mask.shape:
            raise ValueError(weight.shape)
        return weight + 0.0

    def right_inverse(self, weight):
        if weight.shape != self.mask.shape:
            raise ValueError(weight.shape)
        return weight * self.mask


@misconception("Pruned", "Multiplies by the mask: 0 · NaN is NaN.")
class Multiplies(ReferencePruned):
    def forward(self, weight):
        super().forward(weight)
        return weight * self.mask


@misconception("Pruned", "Multiplies by the mask in the gradient: 0 · inf is NaN.")
class MultipliesInTheGradient(ReferencePruned):
    def forward(self, weight):
        super().forward(weight)
        return torch.where(self.mask, weight, 0.0 * weight.detach().nan_to_num(0, 0, 0)) * self.mask


@misconception("Pruned", "Takes the mask the other way round.")
class Inverted(ReferencePruned):
    def forward(self, weight):
        super().forward(weight)
        return weight.masked_fill(self.mask, 0.0)


@misconception("Pruned", "Keeps the mask as a plain attribute: it isn't saved.")
class PlainAttribute(ReferencePruned):
    def __init__(self, mask):
        nn.Module.__init__(self)
        if mask.dtype != torch.bool:
            raise ValueError(mask.dtype)
        self.mask = mask.clone()


@misconception("Pruned", "Keeps the mask as a buffer that isn't saved.")
class NotPersistent(ReferencePruned):
    def __init__(self, mask):
        nn.Module.__init__(self)
        if mask.dtype != torch.bool:
            raise ValueError(mask.dtype)
        self.register_buffer("mask", mask.clone(), persistent=False)


@misconception("Pruned", "Keeps the mask as floats: it is bool.")
class MaskOfFloats(ReferencePruned):
    def __init__(self, mask):
        super().__init__(mask)
        self.mask = mask.float()

    def forward(self, weight):
        if weight.shape != self.mask.shape:
            raise ValueError(weight.shape)
        return torch.where(self.mask > 0, weight, torch.zeros_like(weight))


@misconception("Pruned", "Keeps the caller's mask instead of a copy.")
class SharesTheMask(ReferencePruned):
    def __init__(self, mask):
        super().__init__(mask)
        self.mask = mask


@misconception("Pruned", "Has no right_inverse: nothing can be assigned.")
class NoRightInverse(ReferencePruned):
    def right_inverse(self, weight):
        raise NotImplementedError


@misconception("Pruned", "Stores what is assigned without its zeros.")
class StoresEverything(ReferencePruned):
    def right_inverse(self, weight):
        super().right_inverse(weight)
        return weight


@misconception("Pruned", "Writes zeros into the tensor that was assigned.")
class WritesIntoTheArgument(ReferencePruned):
    def right_inverse(self, weight):
        super().right_inverse(weight)
        with torch.no_grad():
            return weight.masked_fill_(~self.mask, 0.0)


@misconception("Pruned", "Writes zeros into the stored weight on each use, and lets gradients through: forward has to mask.")
class WritesIntoTheWeight(ReferencePruned):
    def forward(self, weight):
        super().forward(weight)
        weight.data.masked_fill_(~self.mask, 0.0)
        return weight * 1.0


@misconception("Pruned", "Lets the mask broadcast.")
class Broadcasts(ReferencePruned):
    def forward(self, weight):
        return torch.where(self.mask, weight, torch.zeros_like(weight))


@misconception("Pruned", "Counts entries instead of comparing shapes.")
class CountsEntries(ReferencePruned):
    def forward(self, weight):
        if weight.numel() != self.mask.numel():
            raise ValueError(weight.shape)
        return torch.where(self.mask.reshape(weight.shape), weight, torch.zeros_like(weight))


@misconception("Pruned", "Takes masks of any dtype.")
class AnyMask(ReferencePruned):
    def __init__(self, mask):
        super().__init__(mask.bool())


@misconception("Pruned", "Passes gradients on to pruned weights.")
class StraightThrough(ReferencePruned):
    def forward(self, weight):
        masked = super().forward(weight)
        return masked.detach() + weight.nan_to_num(0, 0, 0) - weight.detach().nan_to_num(0, 0, 0)


@misconception("Pruned", "Bakes the stored weight, without the mask: what decay and momentum did to it comes back.")
class BakesTheOriginal(ReferencePruned):
    @staticmethod
    def bake(model):
        for layer in list(model.modules()):
            for name, chain in list(getattr(layer, "parametrizations", {}).items()):
                if any(isinstance(step, ReferencePruned) for step in chain):
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=False)


@misconception("Pruned", "Bakes into a new parameter: the optimizer goes on with the old one.")
class BakesANewParameter(ReferencePruned):
    @staticmethod
    def bake(model):
        for layer in list(model.modules()):
            for name, chain in list(getattr(layer, "parametrizations", {}).items()):
                if any(isinstance(step, ReferencePruned) for step in chain):
                    trained = chain.original.requires_grad
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
                    setattr(layer, name, nn.Parameter(getattr(layer, name).detach().clone(), requires_grad=trained))


@misconception("Pruned", "Bakes all parametrizations, those of others too.")
class BakesOthers(ReferencePruned):
    @staticmethod
    def bake(model):
        for layer in list(model.modules()):
            for name in list(getattr(layer, "parametrizations", {})):
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


@misconception("Pruned", "Bakes weights only: other tensors can be pruned, too.")
class BakesWeightsOnly(ReferencePruned):
    @staticmethod
    def bake(model):
        for layer in list(model.modules()):
            if parametrize.is_parametrized(layer, "weight") and any(isinstance(p, ReferencePruned) for p in layer.parametrizations.weight):
                parametrize.remove_parametrizations(layer, "weight")


@misconception("Pruned", "Bakes the model's children only, and neither what they contain nor the model itself.")
class BakesChildren(ReferencePruned):
    @staticmethod
    def bake(model):
        for child in list(model.children()):
            if not list(child.children()) or parametrize.is_parametrized(child):
                ReferencePruned.bake(child)


@misconception("Pruned", "Looks at the first parametrization only.")
class LooksAtTheFirst(ReferencePruned):
    @staticmethod
    def bake(model):
        for layer in list(model.modules()):
            for name, chain in list(getattr(layer, "parametrizations", {}).items()):
                if isinstance(chain[0], ReferencePruned):
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


@misconception("Pruned", "Bakes only tensors that have no other parametrization.")
class BakesSingleOnes(ReferencePruned):
    @staticmethod
    def bake(model):
        for layer in list(model.modules()):
            for name, chain in list(getattr(layer, "parametrizations", {}).items()):
                if all(isinstance(step, ReferencePruned) for step in chain):
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


@misconception("Pruned", "Puts the model into evaluation mode when it bakes.")
class BakesForEvaluation(ReferencePruned):
    @staticmethod
    def bake(model):
        ReferencePruned.bake(model.eval())


@misconception("Pruned", "Freezes what it bakes.")
class BakesAndFreezes(ReferencePruned):
    @staticmethod
    def bake(model):
        ReferencePruned.bake(model)
        for p in model.parameters():
            p.requires_grad_(False)


# two_four_mask


def _in_groups(weight, sizes, *, keep=2):
    best = sizes.argsort(dim=-1, descending=True, stable=True)[..., :keep]
    return torch.zeros(sizes.shape, dtype=torch.bool).scatter(-1, best, True).reshape(weight.shape)


def _groups(weight):
    if weight.dim() == 0 or weight.shape[-1] % 4:
        raise ValueError(weight.shape)
    return weight.detach().unflatten(-1, (weight.shape[-1] // 4, 4))


@misconception("two_four_mask", "Groups along the outputs: the last dimension, the inputs, is cut into groups.")
def along_the_outputs(weight):
    _groups(weight)
    if weight.dim() != 2 or len(weight) % 4:
        return reference_two_four(weight)
    return reference_two_four(weight.T).T


@misconception("two_four_mask", "Takes the two largest numbers: sizes count, not signs.")
def signed_values(weight):
    return _in_groups(weight, _groups(weight))


@misconception("two_four_mask", "Of equally large entries, keeps the later ones.")
def keeps_later_ones(weight):
    return reference_two_four(weight.flip(-1)).flip(-1)


@misconception("two_four_mask", "Keeps all that is as large as the second largest: with equal ones these are too many.")
def threshold_of_the_second(weight):
    sizes = _groups(weight).abs()
    if not sizes.numel():
        return torch.zeros(weight.shape, dtype=torch.bool)
    return (sizes >= sizes.topk(2).values[..., 1:]).reshape(weight.shape)


@misconception("two_four_mask", "Keeps what is larger than the third largest: with equal ones these are too few.")
def above_the_third(weight):
    sizes = _groups(weight).abs()
    if not sizes.numel():
        return torch.zeros(weight.shape, dtype=torch.bool)
    return (sizes > sizes.topk(3).values[..., 2:]).reshape(weight.shape)


@misconception("two_four_mask", "Marks what is pruned.")
def marks_the_pruned(weight):
    return ~reference_two_four(weight)


@misconception("two_four_mask", "Compares squares, which may be 0 or infinite.")
def compares_squares(weight):
    return _in_groups(weight, _groups(weight).square())


@misconception("two_four_mask", "Compares in float32.")
def compares_floats(weight):
    return _in_groups(weight, _groups(weight).abs().float())


@misconception("two_four_mask", "Compares in float16, as GPUs would.")
def compares_halves(weight):
    return _in_groups(weight, _groups(weight).abs().half())


@misconception("two_four_mask", "Puts every fourth column of a quarter of the row into a group: neighbours are a group.")
def strided_groups(weight):
    _groups(weight)
    n = weight.shape[-1] // 4
    return (
        reference_two_four(weight.unflatten(-1, (4, n)).transpose(-1, -2).flatten(-2)).unflatten(-1, (n, 4)).transpose(-1, -2).flatten(-2)
    )


@misconception("two_four_mask", "Keeps half of each row, wherever: it is two of each four.")
def half_of_a_row(weight):
    _groups(weight)
    sizes = weight.detach().abs()
    return _in_groups(weight, sizes, keep=weight.shape[-1] // 2)


@misconception("two_four_mask", "Keeps one of two instead of two of four.")
def one_of_two(weight):
    _groups(weight)
    sizes = weight.detach().abs().unflatten(-1, (weight.shape[-1] // 2, 2))
    return _in_groups(weight, sizes, keep=1)


@misconception("two_four_mask", "Does not mark zeros, though exactly two of each group are kept.")
def zeros_are_never_kept(weight):
    return reference_two_four(weight) & (weight.detach() != 0)


@misconception("two_four_mask", "Returns the pruned weight: the mask is asked for.")
def returns_the_weight(weight):
    return weight.detach() * reference_two_four(weight)


@misconception("two_four_mask", "Knows matrices only.")
def matrices_only(weight):
    if weight.dim() != 2:
        raise ValueError(weight.shape)
    return reference_two_four(weight)


@misconception("two_four_mask", "Checks the number of all entries instead of the last dimension.")
def checks_the_entries(weight):
    if weight.numel() % 4 or weight.dim() == 0:
        raise ValueError(weight.shape)
    return _in_groups(weight, weight.detach().reshape(-1, 4).abs())


@misconception("two_four_mask", "Reads the memory as it lies, whatever the strides are.")
def reads_memory(weight):
    _groups(weight)
    if weight.dim() == 2 and not weight.is_contiguous() and weight.numel():
        weight = (
            torch.as_strided(weight.detach(), weight.shape, (weight.shape[1], 1))
            if weight.untyped_storage().nbytes() >= weight.nbytes
            else weight
        )
    return reference_two_four(weight)
