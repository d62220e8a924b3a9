"""Named wrong answers to the tasks of compression: the hidden suite must reject every one."""

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from grader.testing import misconception
from solutions.compression import Pruned as ReferencePruned
from solutions.compression import codebook as reference_codebook
from solutions.compression import distillation_loss as reference_loss
from solutions.compression import factorize_linear as reference_factorize
from solutions.compression import magnitude_masks as reference_masks
from solutions.compression import pack_two_four as reference_pack
from solutions.compression import prune_channels as reference_prune
from solutions.compression import stored_bytes as reference_bytes
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


# pack_two_four


def _pack(weight, *, places=None, code=lambda i, j: i + 4 * j, join=lambda a, b: a + 16 * b, check=True):
    if weight.dim() != 2 or weight.shape[1] % 4:
        raise ValueError(weight.shape)
    groups = weight.detach().unflatten(1, (weight.shape[1] // 4, 4))
    if check and ((groups != 0).sum(-1) > 2).any():
        raise ValueError("too many")
    if places is None:
        where = (groups == 0).byte().argsort(stable=True)[..., :2].sort().values
    else:
        where = places(groups)
    codes = F.pad(code(where[..., 0], where[..., 1]), (0, where.shape[1] % 2))
    return groups.gather(-1, where).flatten(1), join(codes[:, ::2], codes[:, 1::2]).byte()


@misconception("pack_two_four", "Takes the two largest entries in order of size: places are in rising order.")
def in_order_of_size(weight):
    return _pack(weight, places=lambda g: g.abs().argsort(descending=True, stable=True)[..., :2])


@misconception("pack_two_four", "Leaves places in the order of a sort: where one is filled up, the two are not in order.")
def unsorted_places(weight):
    return _pack(weight, places=lambda g: (g == 0).byte().argsort(stable=True)[..., :2])


@misconception("pack_two_four", "Fills up missing places with the last ones: the smallest are asked for.")
def fills_up_from_behind(weight):
    def places(g):
        score = torch.where(g != 0, 10.0, torch.arange(4.0))
        return score.argsort(descending=True, stable=True)[..., :2].sort().values

    return _pack(weight, places=places)


@misconception("pack_two_four", "Stores missing values at place 0: an entry that stands there is lost.")
def missing_at_zero(weight):
    def places(g):
        count = (g != 0).sum(-1, keepdim=True)
        order = (g == 0).byte().argsort(stable=True)[..., :2]
        return torch.where(torch.arange(2) < count, order, 0).sort().values

    return _pack(weight, places=places)


@misconception("pack_two_four", "Puts the first place into the upper two bits of a code.")
def first_place_above(weight):
    return _pack(weight, code=lambda i, j: 4 * i + j)


@misconception("pack_two_four", "Puts the first code into the upper half of a byte.")
def first_code_above(weight):
    return _pack(weight, join=lambda a, b: 16 * a + b)


@misconception("pack_two_four", "Stores a code in a byte of its own.")
def a_byte_for_each(weight):
    values, _ = reference_pack(weight)
    groups = weight.detach().unflatten(1, (weight.shape[1] // 4, 4))
    places = (groups == 0).byte().argsort(stable=True)[..., :2].sort().values
    return values, (places[..., 0] + 4 * places[..., 1]).byte()


@misconception("pack_two_four", "Goes on in the same byte with the next row.")
def rows_run_on(weight):
    values, _ = reference_pack(weight)
    groups = weight.detach().unflatten(1, (weight.shape[1] // 4, 4))
    places = (groups == 0).byte().argsort(stable=True)[..., :2].sort().values
    codes = (places[..., 0] + 4 * places[..., 1]).flatten()
    codes = F.pad(codes, (0, (-len(codes)) % max(2 * len(weight), 1)))
    return values, (codes[::2] + 16 * codes[1::2]).byte().reshape(len(weight), -1) if len(weight) else reference_pack(weight)[1]


@misconception("pack_two_four", "Pads with the code of an empty group: the upper bits of a last byte are 0.")
def pads_with_an_empty_group(weight):
    if weight.dim() == 2 and weight.shape[1] % 8 == 4:
        values, codes = reference_pack(F.pad(weight.detach(), (0, 4)))
        return values[:, :-2], codes
    return reference_pack(weight)


@misconception("pack_two_four", "Cannot handle an odd number of groups.")
def even_groups_only(weight):
    if weight.shape[-1] % 8:
        raise ValueError("columns")
    return reference_pack(weight)


@misconception("pack_two_four", "Does not notice a third entry, and loses it.")
def loses_the_third(weight):
    return _pack(weight, check=False)


@misconception("pack_two_four", "Counts what is kept in the whole matrix, not in each group.")
def counts_the_whole(weight):
    if weight.dim() == 2 and weight.shape[1] % 4 == 0 and (weight != 0).sum() * 2 > weight.numel():
        raise ValueError("too many")
    return _pack(weight, check=False)


@misconception("pack_two_four", "Takes tiny entries for 0.")
def tiny_is_zero(weight):
    return reference_pack(torch.where(weight.detach().abs() < 1e-12, 0.0, weight.detach()).to(weight.dtype))


@misconception("pack_two_four", "Finds kept places by > 0: negative entries are lost.")
def only_positive(weight):
    return _pack(weight, places=lambda g: (g <= 0).byte().argsort(stable=True)[..., :2].sort().values)


@misconception("pack_two_four", "Takes −0 for an entry, as its bits are not 0.")
def negative_zero_counts(weight):
    if weight.dim() != 2 or weight.shape[1] % 4:
        raise ValueError(weight.shape)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return _pack(weight, places=lambda g: (g.contiguous().view(bits) == 0).byte().argsort(stable=True)[..., :2].sort().values)


@misconception("pack_two_four", "Stores values in float16.")
def values_in_halves(weight):
    values, codes = reference_pack(weight)
    return values.half(), codes


@misconception("pack_two_four", "Stores codes as int64, eight times as large.")
def codes_in_longs(weight):
    values, codes = reference_pack(weight)
    return values, codes.long()


@misconception("pack_two_four", "Keeps the values in the weight's graph.")
def values_with_a_graph(weight):
    values, codes = reference_pack(weight)
    return values + 0 * weight.sum() if weight.requires_grad else values, codes


@misconception("pack_two_four", "Replaces NaN by 0.")
def nan_is_zero(weight):
    return reference_pack(weight.detach().nan_to_num(0.0, math.inf, -math.inf))


# stored_bytes


def _two_four(x):
    return x.shape[1] % 4 == 0 and bool(((x.detach().reshape(-1, 4) != 0).sum(1) <= 2).all())


def _bytes(state, *, key=lambda x: x.untyped_storage().data_ptr(), matrix=lambda x: x.dim() == 2 and x.is_floating_point(), **formulas):
    """The reference's sum with some formulas replaced; each gets the matrix, n, m, z and b."""
    own = {
        "csr": lambda x, n, m, z, b: z * b + z * 4 + (n + 1) * 4,
        "bitmask": lambda x, n, m, z, b: z * b + -(-n * m // 8),
        "2:4": lambda x, n, m, z, b: n * m // 2 * b + n * -(-m // 8) if _two_four(x) else n * m * b,
        "int4": lambda x, n, m, z, b: n * -(-m // 2) + n * -(-m // 32) * 2,
        **{name.replace("two_four", "2:4"): formula for name, formula in formulas.items()},
    }
    totals, seen = dict.fromkeys(("dense", "csr", "bitmask", "2:4", "int4", "best"), 0), set()
    for x in state.values():
        if not x.numel() or key(x) in seen:
            continue
        seen.add(key(x))
        sizes = dict.fromkeys(totals, x.numel() * x.itemsize)
        if matrix(x):
            z = int((x != 0).sum())
            sizes |= {name: formula(x, *x.reshape(len(x), -1).shape, z, x.itemsize) for name, formula in own.items()}
            sizes["best"] = min(sizes[name] for name in ("dense", "csr", "bitmask", "2:4"))
        totals = {name: totals[name] + sizes[name] for name in totals}
    return totals


@misconception("stored_bytes", "Counts tied weights twice.")
def tied_twice(state):
    return _bytes(state, key=lambda x: object())


@misconception("stored_bytes", "Counts equal tensors once, though each has its own memory.")
def equal_ones_once(state):
    return _bytes(state, key=lambda x: (tuple(x.flatten().tolist()), x.dtype))


@misconception("stored_bytes", "Takes only the same object for the same memory: views share it, too.")
def same_object(state):
    return _bytes(state, key=id)


@misconception("stored_bytes", "Takes tensors of the same shape and memory for tied: a transposed view shares it, too.")
def same_memory_and_shape(state):
    return _bytes(state, key=lambda x: (x.data_ptr(), tuple(x.shape)))


@misconception("stored_bytes", "Of tied tensors, counts the last one.")
def the_last_counts(state):
    return reference_bytes(dict(reversed(state.items())))


@misconception("stored_bytes", "Takes all numbers for float32.")
def always_four_bytes(state):
    return reference_bytes({name: x.float() if x.is_floating_point() else x for name, x in state.items()})


@misconception("stored_bytes", "Counts CSR's indices as int64.")
def indices_of_eight_bytes(state):
    return _bytes(state, csr=lambda x, n, m, z, b: z * b + z * 8 + (n + 1) * 8)


@misconception("stored_bytes", "Forgets where CSR's rows begin.")
def forgets_row_pointers(state):
    return _bytes(state, csr=lambda x, n, m, z, b: z * b + z * 4)


@misconception("stored_bytes", "Counts n row pointers instead of n + 1.")
def one_pointer_short(state):
    return _bytes(state, csr=lambda x, n, m, z, b: z * b + z * 4 + n * 4)


@misconception("stored_bytes", "Compresses columns instead of rows.")
def compresses_columns(state):
    return _bytes(state, csr=lambda x, n, m, z, b: z * b + z * 4 + (m + 1) * 4)


@misconception("stored_bytes", "Stores a row and a column for each entry: that is COO.")
def coordinates(state):
    return _bytes(state, csr=lambda x, n, m, z, b: z * b + z * 8)


@misconception("stored_bytes", "Rounds the bits of the mask up for each row.")
def bits_by_row(state):
    return _bytes(state, bitmask=lambda x, n, m, z, b: z * b + n * -(-m // 8))


@misconception("stored_bytes", "Cuts the bits of the mask down to full bytes.")
def bits_cut(state):
    return _bytes(state, bitmask=lambda x, n, m, z, b: z * b + n * m // 8)


@misconception("stored_bytes", "Takes a bool of a byte for each entry of the mask.")
def a_bool_for_each(state):
    return _bytes(state, bitmask=lambda x, n, m, z, b: z * b + n * m)


@misconception("stored_bytes", "Takes half for every matrix, whether it has the pattern or not.")
def everything_is_two_four(state):
    return _bytes(state, two_four=lambda x, n, m, z, b: n * m // 2 * b + n * -(-m // 8))


@misconception("stored_bytes", "Takes a matrix that is half empty for 2:4.")
def half_empty_is_two_four(state):
    return _bytes(state, two_four=lambda x, n, m, z, b: n * m // 2 * b + n * -(-m // 8) if 2 * z <= n * m and m % 4 == 0 else n * m * b)


@misconception("stored_bytes", "Asks for exactly two entries in each group: fewer fit as well.")
def exactly_two(state):
    def size(x, n, m, z, b):
        fits = m % 4 == 0 and bool(((x.reshape(-1, 4) != 0).sum(1) == 2).all())
        return n * m // 2 * b + n * -(-m // 8) if fits else n * m * b

    return _bytes(state, two_four=size)


@misconception("stored_bytes", "Forgets the places of 2:4.")
def places_are_free(state):
    return _bytes(state, two_four=lambda x, n, m, z, b: n * m // 2 * b if _two_four(x) else n * m * b)


@misconception("stored_bytes", "Rounds the places of 2:4 up for the whole matrix, not for each row.")
def places_for_the_matrix(state):
    return _bytes(state, two_four=lambda x, n, m, z, b: n * m // 2 * b + -(-n * m // 8) if _two_four(x) else n * m * b)


@misconception("stored_bytes", "Stores the kept values of 2:4 only where they are not 0.")
def two_four_by_entries(state):
    return _bytes(state, two_four=lambda x, n, m, z, b: z * b + n * -(-m // 8) if _two_four(x) else n * m * b)


@misconception("stored_bytes", "Joins int4 codes over rows.")
def codes_run_on(state):
    return _bytes(state, int4=lambda x, n, m, z, b: -(-n * m // 2) + n * -(-m // 32) * 2)


@misconception("stored_bytes", "Has scales for full groups only.")
def full_groups_only(state):
    return _bytes(state, int4=lambda x, n, m, z, b: n * -(-m // 2) + n * (m // 32) * 2)


@misconception("stored_bytes", "Stores scales as float32.")
def scales_of_four_bytes(state):
    return _bytes(state, int4=lambda x, n, m, z, b: n * -(-m // 2) + n * -(-m // 32) * 4)


@misconception("stored_bytes", "Takes int4 for a format that loses nothing.")
def int4_is_best(state):
    result = [_bytes({"x": x}) for x in _distinct(state)]
    return {name: sum(r[name] for r in result) for name in reference_bytes({})} | {"best": sum(min(r.values()) for r in result)}


def _distinct(state):
    seen = {}
    for x in state.values():
        if x.numel():
            seen.setdefault(x.untyped_storage().data_ptr(), x)
    return seen.values()


@misconception("stored_bytes", "Chooses one format for all matrices together.")
def one_format_for_all(state):
    sizes = reference_bytes(state)
    return sizes | {"best": min(sizes[name] for name in ("dense", "csr", "bitmask", "2:4"))}


@misconception("stored_bytes", "Takes integer matrices for weights.")
def integers_too(state):
    return _bytes(state, matrix=lambda x: x.dim() == 2)


@misconception("stored_bytes", "Takes kernels of convolutions for matrices.")
def kernels_too(state):
    return _bytes(state, matrix=lambda x: x.dim() >= 2 and x.is_floating_point())


@misconception("stored_bytes", "Looks at the sum of a row instead of its entries to find zeros.")
def zeros_by_sums(state):
    def size(x, n, m, z, b):
        fits = m % 4 == 0 and bool(((x.reshape(-1, 4).abs() > 1e-8).sum(1) <= 2).all())
        return n * m // 2 * b + n * -(-m // 8) if fits else n * m * b

    return _bytes(state, two_four=size)


@misconception("stored_bytes", "Counts row pointers for matrices without entries.")
def empty_ones_have_pointers(state):
    sizes = reference_bytes(state)
    return sizes | {"csr": sizes["csr"] + sum((len(x) + 1) * 4 for x in state.values() if x.dim() == 2 and not x.numel())}


@misconception("stored_bytes", "Counts parameters only: buffers and what needs no gradient are stored as well.")
def trained_only(state):
    return reference_bytes({name: x for name, x in state.items() if x.requires_grad})


# prune_channels


def _checked(net, keep):
    if keep.dtype != torch.bool or keep.shape != (net[0].out_channels,) or not keep.any():
        raise ValueError("keep")


@misconception("prune_channels", "Only zeroes the weights: the network stays as large as it was.")
def zeroes_only(net, keep):
    _checked(net, keep)
    same = copy.deepcopy(net)
    with torch.no_grad():
        same[-1].weight[:, ~keep] = 0
    return same


@misconception("prune_channels", "Cuts the last weight along its outputs.")
def cuts_outputs_of_the_last(net, keep):
    small = reference_prune(net, keep)
    kept = net[-1].weight.detach()[:, : int(keep.sum())].clone()
    small[-1].weight = nn.Parameter(kept, net[-1].weight.requires_grad)
    return small


@misconception("prune_channels", "Forgets the biases.")
def forgets_biases(net, keep):
    small = reference_prune(net, keep)
    with torch.no_grad():
        if small[0].bias is not None:
            small[0].bias.copy_(net[0].bias[: len(small[0].bias)])
    return small


@misconception("prune_channels", "Drops the bias of the first convolution.")
def drops_the_bias(net, keep):
    small = reference_prune(net, keep)
    small[0].bias = None
    return small


@misconception("prune_channels", "Makes new batch norms without the statistics.")
def fresh_statistics(net, keep):
    small = reference_prune(net, keep)
    for layer in small:
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    return small


@misconception("prune_channels", "Cuts statistics at the wrong channels: the first ones instead of those that are kept.")
def first_statistics(net, keep):
    small = reference_prune(net, keep)
    for layer, old in zip(small, net):
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.copy_(old.running_mean[: layer.num_features])
    return small


@misconception("prune_channels", "Starts to count batches anew.")
def counts_anew(net, keep):
    small = reference_prune(net, keep)
    for layer in small:
        if isinstance(layer, nn.BatchNorm2d) and layer.num_batches_tracked is not None:
            layer.num_batches_tracked.zero_()
    return small


@misconception("prune_channels", "Makes batch norms with the default eps.")
def default_eps(net, keep):
    small = reference_prune(net, keep)
    for layer in small:
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-5
    return small


@misconception("prune_channels", "Makes batch norms with the default momentum.")
def default_momentum(net, keep):
    small = reference_prune(net, keep)
    for layer in small:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return small


@misconception("prune_channels", "Leaves the numbers in the layers as they were.")
def old_numbers(net, keep):
    small = reference_prune(net, keep)
    small[0].out_channels, small[-1].in_channels = net[0].out_channels, net[-1].in_channels
    return small


@misconception("prune_channels", "Leaves num_features of batch norms as it was.")
def old_features(net, keep):
    small = reference_prune(net, keep)
    for layer, old in zip(small, net):
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_features = old.num_features
    return small


@misconception("prune_channels", "Leaves the groups of depthwise convolutions as they were.")
def old_groups(net, keep):
    small = reference_prune(net, keep)
    for layer, old in zip(small, net):
        if isinstance(layer, nn.Conv2d):
            layer.groups = old.groups
    return small


@misconception("prune_channels", "Keeps the channels that were to go.")
def keeps_the_others(net, keep):
    _checked(net, keep)
    return reference_prune(net, ~keep if (~keep).any() else keep)


@misconception("prune_channels", "Keeps as many channels, the ones with the largest filters.")
def keeps_the_largest(net, keep):
    _checked(net, keep)
    order = net[0].weight.detach().flatten(1).norm(dim=1).argsort(descending=True)
    return reference_prune(net, torch.zeros_like(keep).index_fill(0, order[: int(keep.sum())], True))


@misconception("prune_channels", "Prunes the network that was handed in.")
def prunes_the_argument(net, keep):
    small = reference_prune(net, keep)
    for i, layer in enumerate(small):
        net[i] = layer
    return net


@misconception("prune_channels", "Shares the last bias and the unpruned layers with the network.")
def shares_the_last_bias(net, keep):
    small = reference_prune(net, keep)
    small[-1].bias = net[-1].bias
    return small


@misconception("prune_channels", "Shares everything where all channels are kept.")
def shares_if_all_are_kept(net, keep):
    small = reference_prune(net, keep)
    return net if keep.all() else small


@misconception("prune_channels", "Makes new ReLUs with the default settings.")
def default_relus(net, keep):
    small = reference_prune(net, keep)
    for i, layer in enumerate(small):
        if isinstance(layer, nn.ReLU):
            small[i] = nn.ReLU().train(layer.training)
    return small


@misconception("prune_channels", "Makes all new tensors trainable.")
def thaws(net, keep):
    return reference_prune(net, keep).requires_grad_(True)


@misconception("prune_channels", "Returns the network in eval mode.")
def in_eval_mode(net, keep):
    return reference_prune(net, keep).eval()


@misconception("prune_channels", "Returns layers in training mode, as new ones are.")
def in_training_mode(net, keep):
    return reference_prune(net, keep).train()


@misconception("prune_channels", "Takes indices for a mask.")
def takes_numbers(net, keep):
    if keep.dtype == torch.bool:
        _checked(net, keep)
    return reference_prune(net, keep.bool().reshape(-1)[: net[0].out_channels] if keep.numel() >= net[0].out_channels else keep.bool())


@misconception("prune_channels", "Lets nothing be kept.")
def may_keep_nothing(net, keep):
    if keep.dtype == torch.bool and keep.shape == (net[0].out_channels,) and not keep.any():
        return net
    return reference_prune(net, keep)


@misconception("prune_channels", "Gives a float32 network, whatever the dtype was.")
def gives_float32(net, keep):
    return reference_prune(net, keep).float()


# factorize_linear


def _factorize(layer, energy, *, rank=None, split=0.5, enough=lambda r, out, inp: r * (out + inp) < out * inp, dtype=torch.float64):
    if not 0 < energy < 1:
        raise ValueError(energy)
    W = layer.weight.detach()
    U, S, Vh = torch.linalg.svd(W.to(dtype), full_matrices=False)
    share = S.square().cumsum(0)
    r = int((share < energy * share[-1]).sum()) + 1 if rank is None else rank(S, energy)
    if not enough(r, *W.shape):
        return layer
    first = nn.Linear(W.shape[1], r, bias=False, dtype=W.dtype)
    second = nn.Linear(r, W.shape[0], bias=layer.bias is not None, dtype=W.dtype)
    with torch.no_grad():
        first.weight.copy_(S[:r, None] ** (1 - split) * Vh[:r])
        second.weight.copy_(U[:, :r] * S[:r] ** split)
        if layer.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second).train(layer.training)


@misconception("factorize_linear", "Adds up singular values: energy is the sum of their squares.")
def plain_sums(layer, energy):
    return _factorize(layer, energy, rank=lambda S, e: int((S.cumsum(0) < e * S.sum()).sum()) + 1)


@misconception("factorize_linear", "Is one rank short of the energy.")
def one_rank_short(layer, energy):
    return _factorize(layer, energy, rank=lambda S, e: max(int((S.square().cumsum(0) < e * S.square().sum()).sum()), 1))


@misconception("factorize_linear", "Takes one rank more than is needed.")
def one_rank_more(layer, energy):
    return _factorize(layer, energy, rank=lambda S, e: min(int((S.square().cumsum(0) < e * S.square().sum()).sum()) + 2, len(S)))


@misconception("factorize_linear", "Takes the share of the ranks for the share of the energy.")
def share_of_ranks(layer, energy):
    return _factorize(layer, energy, rank=lambda S, e: max(math.ceil(e * len(S)), 1))


@misconception("factorize_linear", "Compares the root of the energy's share.")
def root_of_the_share(layer, energy):
    return _factorize(layer, energy, rank=lambda S, e: int(((S.square().cumsum(0) / S.square().sum()).sqrt() < e).sum()) + 1)


@misconception("factorize_linear", "Keeps singular values above a share of the largest one.")
def above_a_share(layer, energy):
    return _factorize(layer, energy, rank=lambda S, e: max(int((S > (1 - e) * S[0]).sum()), 1))


@misconception("factorize_linear", "Factorises always, though two layers may have more weights than one.")
def always(layer, energy):
    return _factorize(layer, energy, enough=lambda r, out, inp: True)


@misconception("factorize_linear", "Factorises where as many weights are left: nothing is saved.")
def as_many_is_enough(layer, energy):
    return _factorize(layer, energy, enough=lambda r, out, inp: r * (out + inp) <= out * inp)


@misconception("factorize_linear", "Factorises below half of the smaller side, whatever that saves.")
def below_half_of_the_side(layer, energy):
    return _factorize(layer, energy, enough=lambda r, out, inp: 2 * r < min(out, inp))


@misconception("factorize_linear", "Counts the bias among the weights.")
def counts_the_bias(layer, energy):
    return _factorize(layer, energy, enough=lambda r, out, inp: r * (out + inp) + out < out * inp)


@misconception("factorize_linear", "Puts all of σ on the second layer.")
def all_on_the_second(layer, energy):
    return _factorize(layer, energy, split=1.0)


@misconception("factorize_linear", "Puts all of σ on the first layer.")
def all_on_the_first(layer, energy):
    return _factorize(layer, energy, split=0.0)


@misconception("factorize_linear", "Forgets σ.")
def without_sigma(layer, energy):
    out = _factorize(layer, energy, split=0.0)
    if out is not layer:
        with torch.no_grad():
            out[0].weight.div_(out[0].weight.norm(dim=1, keepdim=True).clamp(min=1e-30))
    return out


@misconception("factorize_linear", "Puts σ into both layers, whole.")
def sigma_twice(layer, energy):
    out = _factorize(layer, energy, split=0.0)
    if out is not layer:
        with torch.no_grad():
            out[1].weight.mul_(out[0].weight.norm(dim=1))
    return out


@misconception("factorize_linear", "Squares singular values in float32, where they become 0 or infinite.")
def energies_in_float32(layer, energy):
    return _factorize(layer, energy, rank=lambda S, e: int((S.float().square().cumsum(0) < e * S.float().square().sum()).sum()) + 1)


@misconception("factorize_linear", "Computes all in the layer's dtype.")
def in_the_dtype(layer, energy):
    return _factorize(layer, energy, dtype=layer.weight.dtype)


@misconception("factorize_linear", "Gives float32 layers for float64 ones.")
def always_float32(layer, energy):
    out = _factorize(layer, energy)
    return out if out is layer else out.float()


@misconception("factorize_linear", "Puts the bias into the first layer.")
def bias_in_the_first(layer, energy):
    out = _factorize(layer, energy)
    if out is not layer and out[1].bias is not None:
        out[0].bias, out[1].bias = nn.Parameter(torch.zeros(out[0].out_features, dtype=out[0].weight.dtype)), out[1].bias
    return out


@misconception("factorize_linear", "Loses the bias.")
def loses_the_bias(layer, energy):
    out = _factorize(layer, energy)
    if out is not layer:
        out[1].bias = None
    return out


@misconception("factorize_linear", "Makes up a bias where there is none.")
def makes_up_a_bias(layer, energy):
    out = _factorize(layer, energy)
    if out is not layer and layer.bias is None:
        out[1].bias = nn.Parameter(torch.zeros(layer.out_features, dtype=layer.weight.dtype))
    return out


@misconception("factorize_linear", "Shares the bias with the layer.")
def shares_the_bias(layer, energy):
    out = _factorize(layer, energy)
    if out is not layer:
        out[1].bias = layer.bias
    return out


@misconception("factorize_linear", "Returns a copy where nothing is saved: the layer itself is asked for.")
def returns_a_copy(layer, energy):
    out = _factorize(layer, energy)
    return copy.deepcopy(layer) if out is layer else out


@misconception("factorize_linear", "Returns layers in training mode, whatever the layer's is.")
def always_training(layer, energy):
    out = _factorize(layer, energy)
    return out if out is layer else out.train()


@misconception("factorize_linear", "Leaves layers frozen that came from a frozen one.")
def stays_frozen(layer, energy):
    out = _factorize(layer, energy)
    return out if out is layer else out.requires_grad_(layer.weight.requires_grad)


@misconception("factorize_linear", "Gives rank 0 to a layer of zeros.")
def zeros_have_no_rank(layer, energy):
    out = _factorize(layer, energy)
    return layer if not layer.weight.any() else out


@misconception("factorize_linear", "Lets the whole energy be asked for.")
def allows_all_of_it(layer, energy):
    if energy == 1:
        return layer
    return reference_factorize(layer, energy)


@misconception("factorize_linear", "Lets NaN through.")
def lets_nan_energy_through(layer, energy):
    return layer if energy != energy else reference_factorize(layer, energy)


# distillation_loss


def _loss(student, teacher, labels, T, alpha, *, soft=None, hard=None, factor=lambda T: T * T):
    if not (T > 0 and 0 <= alpha <= 1):
        raise ValueError(T)
    if soft is None:
        soft = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher.detach() / T, 1), reduction="batchmean")
    if hard is None:
        known = labels >= 0
        hard = F.cross_entropy(student[known], labels[known], reduction="sum") / known.sum().clamp(min=1)
    return alpha * factor(T) * soft + (1 - alpha) * hard


@misconception("distillation_loss", "Forgets T²: at a high temperature the teacher hardly counts.")
def forgets_t_squared(student, teacher, labels, *, T=4.0, alpha=0.5):
    return _loss(student, teacher, labels, T, alpha, factor=lambda T: 1.0)


@misconception("distillation_loss", "Multiplies by T instead of T².")
def times_t(student, teacher, labels, *, T=4.0, alpha=0.5):
    return _loss(student, teacher, labels, T, alpha, factor=lambda T: T)


@misconception("distillation_loss", "Multiplies the whole loss by T².")
def t_squared_everywhere(student, teacher, labels, *, T=4.0, alpha=0.5):
    return T * T * _loss(student, teacher, labels, T, alpha, factor=lambda T: 1.0)


@misconception("distillation_loss", "Takes KL(student ‖ teacher): the teacher's probabilities are the weights.")
def swapped_divergence(student, teacher, labels, *, T=4.0, alpha=0.5):
    log_p, log_q = F.log_softmax(teacher.detach() / T, 1), F.log_softmax(student / T, 1)
    return _loss(student, teacher, labels, T, alpha, soft=(log_q.exp() * (log_q - log_p)).sum(1).mean())


@misconception("distillation_loss", "Takes the mean over classes, too, as kl_div's default does.")
def mean_over_classes(student, teacher, labels, *, T=4.0, alpha=0.5):
    soft = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher.detach() / T, 1), reduction="mean")
    return _loss(student, teacher, labels, T, alpha, soft=soft)


@misconception("distillation_loss", "Adds up rows instead of taking their mean.")
def sum_over_rows(student, teacher, labels, *, T=4.0, alpha=0.5):
    soft = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher.detach() / T, 1), reduction="sum")
    return _loss(student, teacher, labels, T, alpha, soft=soft)


@misconception("distillation_loss", "Takes cross-entropy with the teacher: its entropy is missing, and the loss isn't 0 for equal logits.")
def cross_entropy_with_the_teacher(student, teacher, labels, *, T=4.0, alpha=0.5):
    return _loss(student, teacher, labels, T, alpha, soft=F.cross_entropy(student / T, F.softmax(teacher.detach() / T, 1)))


@misconception("distillation_loss", "Lets gradients flow into the teacher.")
def trains_the_teacher(student, teacher, labels, *, T=4.0, alpha=0.5):
    soft = F.kl_div(F.log_softmax(student / T, 1), F.softmax(teacher / T, 1), reduction="batchmean")
    return _loss(student, teacher, labels, T, alpha, soft=soft)


@misconception("distillation_loss", "Softens the teacher only.")
def softens_the_teacher_only(student, teacher, labels, *, T=4.0, alpha=0.5):
    soft = F.kl_div(F.log_softmax(student, 1), F.softmax(teacher.detach() / T, 1), reduction="batchmean")
    return _loss(student, teacher, labels, T, alpha, soft=soft)


@misconception("distillation_loss", "Softens the student for the labels as well.")
def softens_the_hard_part(student, teacher, labels, *, T=4.0, alpha=0.5):
    known = labels >= 0
    hard = F.cross_entropy(student[known] / T, labels[known], reduction="sum") / known.sum().clamp(min=1)
    return _loss(student, teacher, labels, T, alpha, hard=hard)


@misconception("distillation_loss", "Mixes the other way round.")
def mixes_the_other_way(student, teacher, labels, *, T=4.0, alpha=0.5):
    return reference_loss(student, teacher, labels, T=T, alpha=1 - alpha)


@misconception("distillation_loss", "Adds the hard part whole.")
def adds_the_hard_part(student, teacher, labels, *, T=4.0, alpha=0.5):
    return reference_loss(student, teacher, labels, T=T, alpha=alpha) + alpha * reference_loss(student, teacher, labels, T=T, alpha=0)


@misconception("distillation_loss", "Multiplies by T where it should divide.")
def multiplies_by_t(student, teacher, labels, *, T=4.0, alpha=0.5):
    soft = F.kl_div(F.log_softmax(student * T, 1), F.softmax(teacher.detach() * T, 1), reduction="batchmean")
    return _loss(student, teacher, labels, T, alpha, soft=soft)


@misconception("distillation_loss", "Takes logarithms of probabilities, which may be 0.")
def logarithm_of_softmax(student, teacher, labels, *, T=4.0, alpha=0.5):
    p, q = F.softmax(teacher.detach() / T, 1), F.softmax(student / T, 1)
    return _loss(student, teacher, labels, T, alpha, soft=(p * (p.log() - q.log())).sum(1).mean())


@misconception("distillation_loss", "Adds 1e-8 before the logarithm: then extreme logits lose their gradients.")
def logarithm_with_epsilon(student, teacher, labels, *, T=4.0, alpha=0.5):
    p, q = F.softmax(teacher.detach() / T, 1), F.softmax(student / T, 1)
    return _loss(student, teacher, labels, T, alpha, soft=(p * ((p + 1e-8).log() - (q + 1e-8).log())).sum(1).mean())


@misconception("distillation_loss", "Takes squared differences of logits.")
def squares_of_logits(student, teacher, labels, *, T=4.0, alpha=0.5):
    return _loss(student, teacher, labels, T, alpha, soft=F.mse_loss(student / T, teacher.detach() / T))


@misconception("distillation_loss", "Divides the hard part by all rows, not by those that have a label.")
def divides_by_all_rows(student, teacher, labels, *, T=4.0, alpha=0.5):
    known = labels >= 0
    hard = F.cross_entropy(student[known], labels[known], reduction="sum") / len(labels)
    return _loss(student, teacher, labels, T, alpha, hard=hard)


@misconception("distillation_loss", "Leaves rows without a label out of the soft part, too.")
def leaves_rows_out(student, teacher, labels, *, T=4.0, alpha=0.5):
    known = labels >= 0
    if not known.any():
        return student.sum() * 0
    return reference_loss(student[known], teacher[known], labels[known], T=T, alpha=alpha)


@misconception("distillation_loss", "Gives NaN where no row has a label: the mean of nothing.")
def nan_without_labels(student, teacher, labels, *, T=4.0, alpha=0.5):
    known = labels >= 0
    return _loss(student, teacher, labels, T, alpha, hard=F.cross_entropy(student[known], labels[known]))


@misconception("distillation_loss", "Knows −100 only for no label.")
def minus_hundred_only(student, teacher, labels, *, T=4.0, alpha=0.5):
    return _loss(student, teacher, labels, T, alpha, hard=F.cross_entropy(student, labels) if (labels != -100).any() else 0.0)


@misconception("distillation_loss", "Takes the softmax over rows instead of classes.")
def softmax_over_rows(student, teacher, labels, *, T=4.0, alpha=0.5):
    soft = F.kl_div(F.log_softmax(student / T, 0), F.softmax(teacher.detach() / T, 0), reduction="batchmean")
    return _loss(student, teacher, labels, T, alpha, soft=soft)


@misconception("distillation_loss", "Checks nothing.")
def checks_no_settings(student, teacher, labels, *, T=4.0, alpha=0.5):
    return reference_loss(student, teacher, labels, T=abs(T) if T == T and T else 1.0, alpha=min(max(alpha, 0), 1) if alpha == alpha else 0)


@misconception("distillation_loss", "Computes and returns float64.")
def always_doubles(student, teacher, labels, *, T=4.0, alpha=0.5):
    return reference_loss(student.double(), teacher.double(), labels, T=T, alpha=alpha)


# codebook


def _nearest(w, c):
    return (w[:, None] - c).abs().argmin(1)


def _book(weight, start, iterations, *, nearest=_nearest, empty="stay", last=True, dtype=torch.float64, moved=None, finish=None):
    if start.dim() != 1 or not 1 <= len(start) <= 256 or iterations < 0:
        raise ValueError(start.shape)
    w, c, K = weight.detach().to(dtype).flatten(), start.detach().to(dtype).clone(), len(start)
    codes = nearest(w, c)
    for _ in range(iterations):
        codes = nearest(w, c)
        counts = torch.bincount(codes, minlength=K)
        sums = torch.zeros(K, dtype=dtype).index_add(0, codes, w)
        other = {"stay": c, "zero": torch.zeros_like(c), "nan": sums / counts}[empty]
        c = torch.where(counts > 0, sums / counts.clamp(min=1), other)
        c = c if moved is None else moved(c)
    if last:
        codes = nearest(w, c)
    codes = codes.reshape(weight.shape)
    centroids = c.to(weight.dtype, copy=True).requires_grad_()
    bits = weight.numel() * (K - 1).bit_length() + K * weight.itemsize * 8
    result = centroids, codes.byte(), centroids[codes], bits
    return result if finish is None else finish(weight, *result)


@misconception("codebook", "Gives the codes of before the last move of the centroids.")
def codes_of_before(weight, start, *, iterations):
    return _book(weight, start, iterations, last=False)


@misconception("codebook", "Sets centroids without weights to 0.")
def empty_ones_become_zero(weight, start, *, iterations):
    return _book(weight, start, iterations, empty="zero")


@misconception("codebook", "Divides by 0 where a centroid has no weights.")
def empty_ones_become_nan(weight, start, *, iterations):
    return _book(weight, start, iterations, empty="nan")


@misconception("codebook", "Makes one iteration too many.")
def one_more(weight, start, *, iterations):
    return reference_codebook(weight, start, iterations=iterations + (iterations >= 0))


@misconception("codebook", "Makes at least one iteration.")
def at_least_one(weight, start, *, iterations):
    return reference_codebook(weight, start, iterations=max(iterations, 1) if iterations >= 0 else -1)


@misconception("codebook", "Of equally near centroids, takes the larger number.")
def larger_number(weight, start, *, iterations):
    return _book(weight, start, iterations, nearest=lambda w, c: len(c) - 1 - (w[:, None] - c.flip(0)).abs().argmin(1))


@misconception("codebook", "Sorts the centroids.")
def sorts_the_centroids(weight, start, *, iterations):
    return reference_codebook(weight, start.sort().values if start.dim() == 1 else start, iterations=iterations)


@misconception("codebook", "Cuts at the middles between sorted neighbours, and numbers weights by rank.")
def numbers_by_rank(weight, start, *, iterations):
    def nearest(w, c):
        order = c.argsort(stable=True)
        middles = (c[order][1:] + c[order][:-1]) / 2
        return torch.bucketize(w, middles)

    return _book(weight, start, iterations, nearest=nearest)


@misconception("codebook", "Computes in the weight's dtype.")
def in_the_weights_dtype(weight, start, *, iterations):
    return _book(weight, start, iterations, dtype=weight.dtype)


@misconception("codebook", "Rounds the centroids after each iteration.")
def rounds_each_time(weight, start, *, iterations):
    return _book(weight, start.to(weight.dtype).to(start.dtype), iterations, moved=lambda c: c.to(weight.dtype).double())


@misconception("codebook", "Rounds start to the weight's dtype.")
def rounds_the_start(weight, start, *, iterations):
    return reference_codebook(weight, start.to(weight.dtype), iterations=iterations)


@misconception("codebook", "Takes codes from the rounded centroids.")
def codes_after_rounding(weight, start, *, iterations):
    def finish(weight, centroids, codes, shared, bits):
        codes = _nearest(weight.detach().double().flatten(), centroids.detach().double()).reshape(weight.shape)
        return centroids, codes.byte(), centroids[codes], bits

    return _book(weight, start, iterations, finish=finish)


@misconception("codebook", "Compares squares in float32: they may be 0 or infinite.")
def squared_distances(weight, start, *, iterations):
    return _book(weight, start, iterations, nearest=lambda w, c: (w[:, None].float() - c.float()).square().argmin(1))


@misconception("codebook", "Returns shared weights without a graph: no gradient reaches the centroids.")
def without_a_graph(weight, start, *, iterations):
    return _book(weight, start, iterations, finish=lambda w, c, codes, shared, bits: (c, codes, shared.detach().requires_grad_(), bits))


@misconception("codebook", "Gives each centroid the mean of its weights' gradients.")
def mean_of_gradients(weight, start, *, iterations):
    def finish(weight, centroids, codes, shared, bits):
        counts = torch.bincount(codes.long().flatten(), minlength=len(centroids)).clamp(min=1)
        scaled = centroids.detach() + (centroids - centroids.detach()) / counts
        return centroids, codes, scaled[codes.long()], bits

    return _book(weight, start, iterations, finish=finish)


@misconception("codebook", "Passes gradients straight through to the weight.")
def straight_to_the_weight(weight, start, *, iterations):
    def finish(w, centroids, codes, shared, bits):
        return centroids, codes, shared + (weight - weight.detach()), bits

    return _book(weight, start, iterations, finish=finish)


@misconception("codebook", "Returns centroids that are no leaf.")
def not_a_leaf(weight, start, *, iterations):
    return _book(weight, start, iterations, finish=lambda w, c, codes, s, bits: ((c2 := c * 1), codes, c2[codes.long()], bits))


@misconception("codebook", "Trains start itself where nothing was moved.")
def start_is_the_leaf(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    if iterations == 0 and start.dtype == weight.dtype:
        leaf = start.detach().requires_grad_()
        return leaf, result[1], leaf[result[1].long()], result[3]
    return result


@misconception("codebook", "Takes 8 bits for each code, as uint8 has.")
def eight_bits(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return *result[:3], 8 * weight.numel() + 8 * weight.itemsize * len(start)


@misconception("codebook", "Takes the bits that K itself needs: codes go to K − 1 only.")
def bits_of_k(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return *result[:3], len(start).bit_length() * weight.numel() + 8 * weight.itemsize * len(start)


@misconception("codebook", "Cuts the logarithm down: three centroids need two bits.")
def logarithm_cut(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return *result[:3], int(math.log2(len(start))) * weight.numel() + 8 * weight.itemsize * len(start)


@misconception("codebook", "Takes at least one bit for a code.")
def at_least_a_bit(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return *result[:3], max((len(start) - 1).bit_length(), 1) * weight.numel() + 8 * weight.itemsize * len(start)


@misconception("codebook", "Leaves the centroids out of the sum.")
def codebook_is_free(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return *result[:3], (len(start) - 1).bit_length() * weight.numel()


@misconception("codebook", "Counts bytes for the centroids.")
def bytes_for_centroids(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return *result[:3], (len(start) - 1).bit_length() * weight.numel() + weight.itemsize * len(start)


@misconception("codebook", "Takes 32 bits for each centroid, whatever the dtype.")
def always_32_bits(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return *result[:3], (len(start) - 1).bit_length() * weight.numel() + 32 * len(start)


@misconception("codebook", "Returns codes as int64.")
def codes_as_longs(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    return result[0], result[1].long(), *result[2:]


@misconception("codebook", "Returns the centroids in float64.")
def centroids_in_doubles(weight, start, *, iterations):
    result = reference_codebook(weight, start, iterations=iterations)
    centroids = result[0].detach().double().requires_grad_()
    return centroids, result[1], centroids[result[1].long()], result[3]


@misconception("codebook", "Allows 257 centroids, whose codes don't fit into a byte.")
def too_many_centroids(weight, start, *, iterations):
    return reference_codebook(weight, start[:256] if start.dim() == 1 else start, iterations=iterations)


@misconception("codebook", "Takes negative iterations for none.")
def negative_is_none(weight, start, *, iterations):
    return reference_codebook(weight, start, iterations=max(iterations, 0))


# distill_digits


def _distill(net, images, generator, updates, loss, *, lr=1e-2, size=64, indices=None):
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for step in range(updates):
        batch = torch.randint(len(images), (size,), generator=generator) if indices is None else indices(step)
        optimizer.zero_grad()
        loss(net(images[batch]), batch).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - (step + 1) / updates)


@misconception("distill_digits", "Learns the teacher's likeliest class only, and becomes too sure.")
def learns_the_argmax(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].argmax(1)))


@misconception("distill_digits", "Matches the teacher at temperature 4, but divides the teacher's logits only.")
def softens_one_side(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, (logits[b] / 4).softmax(1)))


@misconception("distill_digits", "Takes the teacher's logits for probabilities.")
def logits_for_probabilities(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: F.mse_loss(out.softmax(1), logits[b]))


@misconception("distill_digits", "Compares the network's logits with the teacher's probabilities.")
def probabilities_for_logits(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: F.mse_loss(out, logits[b].softmax(1)))


@misconception("distill_digits", "Goes up instead of down: the sign of the divergence is wrong.")
def goes_up(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: -F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Draws images and answers apart.")
def draws_apart(net, images, logits, *, generator, updates=300):
    def loss(out, b):
        return F.cross_entropy(out, logits[torch.randint(len(images), b.shape, generator=generator)].softmax(1))

    _distill(net, images, generator, updates, loss)


@misconception("distill_digits", "Takes the softmax over the batch.")
def softmax_over_the_batch(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: F.kl_div(out.log_softmax(0), logits[b].softmax(0), reduction="batchmean"))


@misconception("distill_digits", "Learns from the first 64 images only.")
def first_batch_only(net, images, logits, *, generator, updates=300):
    def indices(step):
        return torch.randperm(min(64, len(images)), generator=generator)

    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)), indices=indices)


@misconception("distill_digits", "Draws from torch's global generator.")
def global_generator(net, images, logits, *, generator, updates=300):
    _distill(net, images, None, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Makes a generator of its own: the one that is handed in decides nothing.")
def own_generator(net, images, logits, *, generator, updates=300):
    _distill(net, images, torch.Generator().manual_seed(0), updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Makes a new generator from the seed of the one that is handed in: its state is lost.")
def starts_the_generator_again(net, images, logits, *, generator, updates=300):
    again = torch.Generator().manual_seed(generator.initial_seed())
    _distill(net, images, again, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Changes the images, to give them a mean of 0.")
def centres_the_images(net, images, logits, *, generator, updates=300):
    if updates:
        images.sub_(images.mean())
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Seeds torch's global generator.")
def seeds_the_global_generator(net, images, logits, *, generator, updates=300):
    torch.manual_seed(0)
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Draws new weights first.")
def starts_anew(net, images, logits, *, generator, updates=300):
    with torch.no_grad():
        for p in net.parameters():
            p.copy_((torch.rand(p.shape, generator=generator) - 0.5) / 4)
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Trains a copy.")
def trains_a_copy(net, images, logits, *, generator, updates=300):
    _distill(copy.deepcopy(net), images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Switches to training mode.")
def switches_the_mode(net, images, logits, *, generator, updates=300):
    mode = net.training
    net.train()
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))
    net.train(mode)


@misconception("distill_digits", "Leaves the network in eval mode.")
def leaves_eval_mode(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))
    net.eval()


@misconception("distill_digits", "Draws batches without replacement, which needs 64 images.")
def needs_a_full_batch(net, images, logits, *, generator, updates=300):
    def indices(step):
        return torch.randperm(len(images), generator=generator)[:64].reshape(64)

    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)), indices=indices)


@misconception("distill_digits", "Always makes 300 updates.")
def always_300(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, 300, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)))


@misconception("distill_digits", "Freezes all but the last layer.")
def last_layer_only(net, images, logits, *, generator, updates=300):
    def loss(out, b):
        return F.cross_entropy(out, logits[b].softmax(1))

    optimizer = torch.optim.Adam(list(net.parameters())[-2:], lr=1e-2)
    for _ in range(updates):
        batch = torch.randint(len(images), (64,), generator=generator)
        grads = torch.autograd.grad(loss(net(images[batch]), batch), list(net.parameters())[-2:])
        for p, g in zip(list(net.parameters())[-2:], grads):
            p.grad = g
        optimizer.step()


@misconception("distill_digits", "Forgets zero_grad: gradients add up over all updates.")
def forgets_zero_grad(net, images, logits, *, generator, updates=300):
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-1)
    for _ in range(updates):
        batch = torch.randint(len(images), (64,), generator=generator)
        F.cross_entropy(net(images[batch]), logits[batch].softmax(1)).backward()
        optimizer.step()


@misconception("distill_digits", "Learns too slowly.")
def learns_too_slowly(net, images, logits, *, generator, updates=300):
    _distill(net, images, generator, updates, lambda out, b: F.cross_entropy(out, logits[b].softmax(1)), lr=1e-4)
