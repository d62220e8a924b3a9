"""Named wrong answers to the tasks of devices: the hidden suite must reject every one."""

import copy
from collections import deque
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from grader.testing import misconception
from solutions.devices import Standardize as ReferenceStandardize
from solutions.devices import autocast_forward as reference_autocast_forward
from solutions.devices import copy_async as reference_copy_async
from solutions.devices import mask_like_scores as reference_mask
from solutions.devices import module_memory as reference_memory
from solutions.devices import move_to as reference_move_to
from solutions.devices import train_step_amp as reference_train_step_amp

# pick_device


def _devices(wishes):
    try:
        return [torch.device(wish) for wish in wishes]
    except RuntimeError as error:
        raise ValueError(str(error)) from error


@misconception("pick_device", "Asks torch what this machine has, instead of looking into `available`.")
def asks_this_machine(available, preferred=("cuda", "mps", "cpu")):
    for wish in _devices(preferred):
        if wish.type == "cpu" or (wish.type == "cuda" and torch.cuda.device_count() > (wish.index or 0)):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Takes cuda:n for one of n devices: they are counted from 0, so the last is cuda:(n - 1).")
def index_may_equal_the_count(available, preferred=("cuda", "mps", "cpu")):
    for wish in _devices(preferred):
        if wish.type == "cpu" or available.get(wish.type, 0) >= max(wish.index or 0, 1):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Looks whether a type is listed, not whether the machine has any devices of it.")
def listed_is_there(available, preferred=("cuda", "mps", "cpu")):
    for wish in _devices(preferred):
        if wish.type == "cpu" or (wish.type in available and (wish.index is None or available[wish.type] > wish.index)):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Passes the CPU over where it isn't listed, although it is always there.")
def cpu_must_be_listed(available, preferred=("cuda", "mps", "cpu")):
    for wish in _devices(preferred):
        if available.get(wish.type, 0) > (wish.index or 0):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Goes through what there is instead of through the wishes, so their order doesn't count.")
def order_of_the_machine(available, preferred=("cuda", "mps", "cpu")):
    wishes = _devices(preferred)
    for kind, count in available.items():
        for wish in wishes:
            if wish.type == kind and count > (wish.index or 0):
                return wish
    return torch.device("cpu")


@misconception("pick_device", "Reads a wish only when its turn comes: a misspelt one behind it is noticed on other machines first.")
def reads_wishes_late(available, preferred=("cuda", "mps", "cpu")):
    for wish in preferred:
        [device] = _devices([wish])
        if device.type == "cpu" or available.get(device.type, 0) > (device.index or 0):
            return device
    return torch.device("cpu")


@misconception("pick_device", "Returns the type alone: the wish was for the device with this index.")
def forgets_the_index(available, preferred=("cuda", "mps", "cpu")):
    for wish in _devices(preferred):
        if wish.type == "cpu" or available.get(wish.type, 0) > (wish.index or 0):
            return torch.device(wish.type)
    return torch.device("cpu")


@misconception("pick_device", "Takes the last wish where none can be granted, though the machine doesn't have it.")
def last_wish_as_a_fallback(available, preferred=("cuda", "mps", "cpu")):
    wishes = _devices(preferred)
    for wish in wishes:
        if wish.type == "cpu" or available.get(wish.type, 0) > (wish.index or 0):
            return wish
    return wishes[-1] if wishes else torch.device("cpu")


@misconception("pick_device", "Asks `available` about the CPU too: a machine that lists no CPU, or 0 of them, has one all the same.")
def the_cpu_counts_as_listed(available, preferred=("cuda", "mps", "cpu")):
    counts = {"cpu": 1, **available}
    for wish in _devices(preferred):
        if counts.get(wish.type, 0) > (wish.index or 0):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Takes an empty list of wishes for none given, and falls back on the usual ones.")
def no_wishes_are_the_usual_ones(available, preferred=None):
    for wish in _devices(preferred or ("cuda", "mps", "cpu")):
        if wish.type == "cpu" or available.get(wish.type, 0) > (wish.index or 0):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Knows the types of a few devices by heart: torch.device knows more of them.")
def a_list_of_known_types(available, preferred=("cuda", "mps", "cpu")):
    wishes = []
    for wish in map(str, preferred):
        kind, _, index = wish.partition(":")
        if kind not in ("cpu", "cuda", "mps", "xpu", "hpu") or (index and not index.isdigit()):
            raise ValueError(wish)
        wishes.append(torch.device(wish))
    for wish in wishes:
        if wish.type == "cpu" or available.get(wish.type, 0) > (wish.index or 0):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Adds the CPU to the list of wishes that it was given.")
def appends_to_the_wishes(available, preferred=("cuda", "mps", "cpu")):
    if isinstance(preferred, list):
        preferred.append("cpu")
    for wish in _devices(preferred):
        if wish.type == "cpu" or available.get(wish.type, 0) > (wish.index or 0):
            return wish
    return torch.device("cpu")


@misconception("pick_device", "Reads the index by `if wish.index`: index 0 is falsy, so cuda:0 comes back as cuda.")
def an_index_of_zero_is_lost(available, preferred=("cuda", "mps", "cpu")):
    for wish in _devices(preferred):
        if wish.type == "cpu" or available.get(wish.type, 0) > (wish.index or 0):
            return torch.device(wish.type, wish.index) if wish.index else torch.device(wish.type)
    return torch.device("cpu")


# move_to


@misconception("move_to", "A named tuple comes back as a plain tuple: its field names are lost.")
def plain_tuples_for_named_ones(tree, device):
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: plain_tuples_for_named_ones(value, device) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [plain_tuples_for_named_ones(item, device) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    return tree


@misconception("move_to", "Writes into the dicts and lists that it was given.")
def moves_in_place(tree, device):
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            tree[key] = moves_in_place(tree[key], device)
        return tree
    if isinstance(tree, tuple):
        items = [moves_in_place(item, device) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree.to(device) if isinstance(tree, Tensor) else tree


@misconception("move_to", "Moves whatever has a method `to`: a module is then moved behind its owner's back.")
def moves_whatever_has_a_to(tree, device):
    if isinstance(tree, dict):
        return {key: moves_whatever_has_a_to(value, device) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [moves_whatever_has_a_to(item, device) for item in tree]
        return items if isinstance(tree, list) else type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree.to(device) if hasattr(tree, "to") else tree


def _each_tensor(tree, move):
    if isinstance(tree, Tensor):
        return move(tree)
    if isinstance(tree, dict):
        return {key: _each_tensor(value, move) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [_each_tensor(item, move) for item in tree]
        return items if isinstance(tree, list) else type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree


@misconception("move_to", "Cuts the tensors out of their graph: no gradient flows back from the device.")
def detaches(tree, device):
    return _each_tensor(tree, lambda tensor: tensor.detach().to(device))


@misconception("move_to", "Copies tensors that are on the device already.")
def always_copies(tree, device):
    return _each_tensor(tree, lambda tensor: tensor.to(device, copy=True))


@misconception("move_to", "Moves floating tensors only: labels and masks stay behind.")
def leaves_integers_behind(tree, device):
    return _each_tensor(tree, lambda tensor: tensor.to(device) if tensor.is_floating_point() else tensor)


@misconception("move_to", "Looks one level deep: what is in a container within a container stays behind.")
def one_level_only(tree, device):
    def one(value):
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(tree, dict):
        return {key: one(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return _each_tensor(tree, one) if hasattr(tree, "_fields") else type(tree)(one(item) for item in tree)
    return one(tree)


@misconception("move_to", "Compares types exactly: parameters and other subclasses are passed over.")
def exact_types_only(tree, device):
    if type(tree) is Tensor:
        return tree.to(device)
    if type(tree) is dict:
        return {key: exact_types_only(value, device) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(exact_types_only(item, device) for item in tree)
    if hasattr(tree, "_fields"):
        return type(tree)(*(exact_types_only(item, device) for item in tree))
    return tree


@misconception("move_to", "Gives lists for tuples.")
def lists_for_tuples(tree, device):
    if isinstance(tree, dict):
        return {key: lists_for_tuples(value, device) for key, value in tree.items()}
    if isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        return [lists_for_tuples(item, device) for item in tree]
    return reference_move_to(tree, device)


@misconception("move_to", "Returns a list itself where no tensor in it had to be moved.")
def the_same_list_if_nothing_moved(tree, device):
    if isinstance(tree, list):
        items = [the_same_list_if_nothing_moved(item, device) for item in tree]
        return tree if all(a is b for a, b in zip(items, tree, strict=True)) else items
    if isinstance(tree, dict):
        return {key: the_same_list_if_nothing_moved(value, device) for key, value in tree.items()}
    if isinstance(tree, tuple):
        items = [the_same_list_if_nothing_moved(item, device) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree.to(device) if isinstance(tree, Tensor) else tree


@misconception("move_to", "Returns a dict itself where it holds no tensor.")
def the_same_dict_without_tensors(tree, device):
    if isinstance(tree, dict):
        if not any(isinstance(value, Tensor | dict | list | tuple) for value in tree.values()):
            return tree
        return {key: the_same_dict_without_tensors(value, device) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [the_same_dict_without_tensors(item, device) for item in tree]
        return items if isinstance(tree, list) else type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree.to(device) if isinstance(tree, Tensor) else tree


@misconception("move_to", "Asks `if not tree` to find empty containers: a tensor with the one entry 0 is falsy as well, and stays behind.")
def what_is_falsy_stays(tree, device):
    if not isinstance(tree, Tensor) or tree.numel() == 1:
        if not tree:
            return tree
    return _each_level(tree, device, what_is_falsy_stays)


def _each_level(tree, device, move):
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: move(value, device) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [move(item, device) for item in tree]
        return items if isinstance(tree, list) else type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree


@misconception("move_to", "Goes through sets too, which come back as new ones.")
def goes_through_sets(tree, device):
    if isinstance(tree, set | frozenset):
        return type(tree)(goes_through_sets(item, device) for item in tree)
    return _each_level(tree, device, goes_through_sets)


@misconception("move_to", "Makes tensors contiguous on the way: one that is there already comes back as a copy.")
def makes_them_contiguous(tree, device):
    if isinstance(tree, Tensor):
        return tree.contiguous().to(device)
    return _each_level(tree, device, makes_them_contiguous)


@misconception("move_to", "Sorts the keys of a dict.")
def sorts_the_keys(tree, device):
    if isinstance(tree, dict):
        return {key: sorts_the_keys(tree[key], device) for key in sorted(tree, key=str)}
    return _each_level(tree, device, sorts_the_keys)


@misconception("move_to", "Makes a new leaf of a parameter that is moved: its gradient no longer reaches the parameter.")
def parameters_become_new_leaves(tree, device):
    def move(tensor):
        if tensor.is_leaf and tensor.device.type != torch.device(device).type:
            return tensor.detach().to(device).requires_grad_(tensor.requires_grad)
        return tensor.to(device)

    return _each_tensor(tree, move)


@misconception("move_to", "Moves what is in a deque as well: only dicts, lists and tuples are gone through.")
def goes_through_deques(tree, device):
    if isinstance(tree, deque):
        return deque(goes_through_deques(item, device) for item in tree)
    if type(tree) in (list, tuple):
        return type(tree)(goes_through_deques(item, device) for item in tree)
    return reference_move_to(tree, device)


@misconception("move_to", "Makes a dict of every mapping: one that is no dict should come back as it is.")
def dicts_for_all_mappings(tree, device):
    if isinstance(tree, Mapping):
        return {key: dicts_for_all_mappings(value, device) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(dicts_for_all_mappings(item, device) for item in tree)
    return reference_move_to(tree, device)


# mask_like_scores


def _seen(scores, lengths, causal, device):
    T, S = scores.shape[2:]
    seen = (torch.arange(S, device=device) < lengths.to(device)[:, None, None, None]).expand(-1, 1, T, S)
    if causal:
        seen = seen & (torch.arange(S, device=device) <= torch.arange(T, device=device)[:, None] + (S - T))
    return seen


def _check(scores, lengths):
    if lengths.shape != scores.shape[:1]:
        raise ValueError("lengths")


@misconception("mask_like_scores", "Builds the mask on the CPU and copies it over, at every call.")
def built_on_the_cpu(scores, lengths, *, causal=False):
    _check(scores, lengths)
    T, S = scores.shape[2:]
    seen = torch.arange(S) < torch.full((), S)
    seen = seen.expand(T, S).tril(S - T) if causal else seen.expand(T, S)
    inside = torch.arange(S).to(scores.device) < lengths.to(scores.device)[:, None, None, None]
    return scores.new_zeros(len(lengths), 1, T, S).masked_fill(~(inside & seen.to(scores.device)), -torch.inf)


@misconception("mask_like_scores", "Lets torch.arange count on the CPU, where the scores may not be.")
def default_device(scores, lengths, *, causal=False):
    _check(scores, lengths)
    seen = _seen(scores, lengths, causal, None)
    return torch.zeros(seen.shape, dtype=scores.dtype).masked_fill(~seen, -torch.inf) + scores.new_zeros(1)


@misconception("mask_like_scores", "The mask is float32 whatever the scores are: adding it makes float16 scores float32.")
def always_float32(scores, lengths, *, causal=False):
    return reference_mask(scores, lengths, causal=causal).float()


@misconception("mask_like_scores", "Counts queries and keys from the same start: with cached keys, query 0 is not at key 0.")
def causal_without_offset(scores, lengths, *, causal=False):
    _check(scores, lengths)
    seen = _seen(scores, lengths, False, scores.device)
    if causal:
        seen = seen.tril()
    return torch.zeros_like(seen, dtype=scores.dtype).masked_fill(~seen, -torch.inf)


@misconception("mask_like_scores", "Reads the lengths into Python, which has to wait for the device, and can't where there are no entries.")
def loops_over_lengths(scores, lengths, *, causal=False):
    _check(scores, lengths)
    B, _, T, S = scores.shape
    hidden = scores.new_zeros(B, 1, T, S)
    for b in range(B):
        hidden[b, :, :, min(int(lengths[b]), S) :] = -torch.inf
    return hidden + reference_mask(scores, torch.full_like(lengths, S), causal=causal)


@misconception("mask_like_scores", "Makes the zeros from the scores by multiplying: 0 · NaN is NaN, and a graph hangs on it.")
def zeros_from_the_scores(scores, lengths, *, causal=False):
    _check(scores, lengths)
    return (scores[:, :1] * 0).masked_fill(~_seen(scores, lengths, causal, scores.device), -torch.inf)


@misconception("mask_like_scores", "Fills with a large negative number, which float16 can't hold and which isn't -inf.")
def large_instead_of_infinite(scores, lengths, *, causal=False):
    mask = reference_mask(scores, lengths, causal=causal)
    return mask.masked_fill(mask == -torch.inf, -1e4)


@misconception("mask_like_scores", "Lets a sequence of n keys see key n, which is the first one behind it.")
def one_key_too_many(scores, lengths, *, causal=False):
    return reference_mask(scores, lengths + 1, causal=causal)


@misconception("mask_like_scores", "Lets lengths of a wrong shape broadcast, so that all sequences get the first one's length.")
def lengths_may_broadcast(scores, lengths, *, causal=False):
    seen = _seen(scores, lengths.reshape(-1), causal, scores.device).expand(len(scores), -1, -1, -1)
    return torch.zeros_like(seen, dtype=scores.dtype).masked_fill(~seen, -torch.inf)


@misconception("mask_like_scores", "Counts keys in the dtype of the scores: bfloat16 has no 257, and float16 no 2049.")
def counts_in_the_dtype_of_the_scores(scores, lengths, *, causal=False):
    _check(scores, lengths)
    B, _, T, S = scores.shape
    key = torch.arange(S, device=scores.device, dtype=scores.dtype)
    hidden = (key >= lengths.to(scores.device)[:, None, None, None]).expand(B, 1, T, S)
    if causal:
        hidden = hidden | torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(S - T + 1)
    return scores.new_zeros(B, 1, T, S).masked_fill(hidden, -torch.inf)


@misconception("mask_like_scores", "Counts keys in 8 bits, which end at 255.")
def counts_in_bytes(scores, lengths, *, causal=False):
    _check(scores, lengths)
    T, S = scores.shape[2:]
    seen = torch.arange(S, device=scores.device).to(torch.uint8) < lengths.to(scores.device).clamp(max=S)[:, None, None, None]
    seen = seen.expand(-1, 1, T, S)
    return scores.new_zeros(seen.shape).masked_fill(~(seen.tril(S - T) if causal else seen), -torch.inf)


@misconception("mask_like_scores", "Makes the lengths int32, where a very large one wraps around.")
def lengths_in_32_bits(scores, lengths, *, causal=False):
    _check(scores, lengths)
    return reference_mask(scores, lengths.int(), causal=causal)


@misconception("mask_like_scores", "Drops the axis of the queries where there is one query only, by squeeze().")
def squeezes_sizes_of_one(scores, lengths, *, causal=False):
    mask = reference_mask(scores, lengths, causal=causal)
    return mask if scores.shape[2] > 1 else mask.squeeze(2)


@misconception("mask_like_scores", "Checks the lengths only where there are several sequences: for one, any number of lengths broadcasts.")
def one_sequence_takes_any_lengths(scores, lengths, *, causal=False):
    if lengths.dim() != 1 or (len(scores) > 1 and len(lengths) != len(scores)):
        raise ValueError("lengths")
    seen = _seen(scores, lengths, causal, scores.device)
    return scores.new_zeros(seen.shape).masked_fill(~seen, -torch.inf)


@misconception("mask_like_scores", "Fills the given scores, and returns a part of them.")
def fills_the_scores(scores, lengths, *, causal=False):
    _check(scores, lengths)
    with torch.no_grad():
        seen = _seen(scores, lengths, causal, scores.device)
        return scores.detach()[:, :1].zero_().masked_fill_(~seen, -torch.inf)


@misconception("mask_like_scores", "Lays the mask out like the scores, whose strides it then can't fill where they are expanded.")
def strides_of_the_scores(scores, lengths, *, causal=False):
    _check(scores, lengths)
    B, _, T, S = scores.shape
    mask = torch.empty_strided((B, 1, T, S), scores.stride(), dtype=scores.dtype, device=scores.device).zero_()
    return mask.masked_fill_(~_seen(scores, lengths, causal, scores.device), -torch.inf)


@misconception("mask_like_scores", "Switches recording on when it is done, where it may have been off: use `with torch.no_grad():`.")
def records_after_the_mask(scores, lengths, *, causal=False):
    torch.set_grad_enabled(False)
    mask = reference_mask(scores, lengths, causal=causal)
    torch.set_grad_enabled(True)
    return mask


# Standardize


@misconception("Standardize", "Keeps the statistics as plain attributes: they are neither saved nor moved.")
class PlainAttributes(ReferenceStandardize):
    def __init__(self, channels):
        super().__init__(channels)
        del self.mean, self.std
        self.mean, self.std = torch.zeros(channels), torch.ones(channels)


@misconception("Standardize", "Makes the statistics parameters, which an optimizer would train.")
class StatisticsAreParameters(ReferenceStandardize):
    def __init__(self, channels):
        super().__init__(channels)
        del self.mean, self.std
        self.mean = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.std = nn.Parameter(torch.ones(channels), requires_grad=False)


@misconception("Standardize", "Leaves the buffers out of the state_dict by persistent=False.")
class BuffersThatAreNotSaved(ReferenceStandardize):
    def __init__(self, channels):
        super().__init__(channels)
        del self.mean, self.std
        self.register_buffer("mean", torch.zeros(channels), persistent=False)
        self.register_buffer("std", torch.ones(channels), persistent=False)


def _channels(x):
    return x.transpose(0, 1).flatten(1)


@misconception("Standardize", "Divides the variance by n - 1.")
class UnbiasedStd(ReferenceStandardize):
    def fit(self, x):
        super().fit(x)
        entries = _channels(self._checked(x.detach()))
        same = entries.amax(1) == entries.amin(1)
        self.std.copy_(entries.std(1).masked_fill(same, 1.0))
        return self


@misconception("Standardize", "Puts new tensors in the buffers' places: of x's dtype, and unknown to whoever holds the old ones.")
class NewBuffers(ReferenceStandardize):
    def fit(self, x):
        fitted = ReferenceStandardize(len(self.mean)).to(x.dtype if x.is_floating_point() else torch.float32).to(x.device).fit(x)
        self._checked(x)
        self.mean, self.std = fitted.mean, fitted.std
        return self


@misconception("Standardize", "Adds a small number to std instead of replacing a std of 0 by 1.")
class SmallNumberAdded(ReferenceStandardize):
    def fit(self, x):
        super().fit(x)
        self.std.copy_(_channels(self._checked(x.detach())).std(1, correction=0) + 1e-5)
        return self


@misconception("Standardize", "Takes one mean and one std for all channels together.")
class OneForAllChannels(ReferenceStandardize):
    def fit(self, x):
        super().fit(x)
        entries = self._checked(x.detach())
        self.mean.copy_(entries.mean())
        self.std.copy_(entries.std(correction=0))
        return self


@misconception("Standardize", "Brings x to float32 instead of the buffers' dtype.")
class AlwaysFloat32(ReferenceStandardize):
    def forward(self, x):
        self._checked(x)
        return (x.float() - self.mean[:, None, None]) / self.std[:, None, None]


@misconception("Standardize", "Divides bytes by 255, which nobody asked for.")
class BytesBecomeFractions(ReferenceStandardize):
    def _checked(self, x):
        return super()._checked(x) / (255 if x.dtype == torch.uint8 else 1)


@misconception("Standardize", "Keeps the graph from x to the statistics.")
class StatisticsWithAGraph(ReferenceStandardize):
    def fit(self, x):
        super().fit(x)
        same = _channels(x).amax(1) == _channels(x).amin(1)
        entries = _channels(self._checked(x))
        self.mean.copy_(entries.mean(1))
        self.std.copy_(entries.std(1, correction=0).masked_fill(same, 1.0))
        return self


@misconception("Standardize", "Lets x of one channel broadcast against three.")
class ChannelsMayBroadcast(ReferenceStandardize):
    def _checked(self, x):
        if x.dim() != 4 or x.shape[1] not in (1, len(self.mean)):
            raise ValueError("x")
        return x.to(self.mean.dtype)


@misconception("Standardize", "Asks whether the computed std is 0: for nine times 0.1 it is 7e-9, and the output is 1.")
class ComparesTheStdWithZero(ReferenceStandardize):
    def fit(self, x):
        entries = _channels(self._checked(x.detach()))
        std = entries.std(1, correction=0)
        self.mean.copy_(entries.mean(1))
        self.std.copy_(torch.where(std == 0, 1.0, std))
        return self


@misconception("Standardize", "Takes every small std for 0: a channel between 0 and 1e-6 isn't constant.")
class SmallStdsBecomeOne(ReferenceStandardize):
    def fit(self, x):
        super().fit(x)
        self.std.copy_(torch.where(self.std < 1e-5, 1.0, self.std))
        return self


@misconception("Standardize", "Takes mean(x²) - mean² for the variance: for 1000 ± 0.1, no digit of it is right in float32.")
class MeanOfSquares(ReferenceStandardize):
    def fit(self, x):
        entries = _channels(self._checked(x.detach()))
        same = entries.amax(1) == entries.amin(1)
        mean = entries.mean(1)
        variance = (entries.square().mean(1) - mean.square()).clamp(min=0)
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().masked_fill(same, 1.0))
        return self


@misconception("Standardize", "Computes the statistics in float32, even for buffers of float64.")
class FitsInFloat32(ReferenceStandardize):
    def fit(self, x):
        fitted = ReferenceStandardize(len(self.mean)).to(x.device).fit(x.float())
        self.mean.copy_(fitted.mean)
        self.std.copy_(fitted.std)
        return self


@misconception("Standardize", "Computes 1 / std when the statistics are taken, and goes on with it when others are loaded.")
class RemembersTheInverse(ReferenceStandardize):
    def fit(self, x):
        super().fit(x)
        self.inverse = 1 / self.std
        return self

    def forward(self, x):
        inverse = getattr(self, "inverse", 1 / self.std).to(self.std)
        return (self._checked(x) - self.mean[:, None, None]) * inverse[:, None, None]


@misconception("Standardize", "Keeps a second copy of the statistics for forward: what is written into the buffers by hand has no effect.")
class CopiesForForward(ReferenceStandardize):
    def forward(self, x):
        if not hasattr(self, "kept") or self.kept[0].dtype != self.mean.dtype or self.kept[0].device != self.mean.device:
            self.kept = self.mean.clone(), self.std.clone()
        mean, std = self.kept
        return (self._checked(x) - mean[:, None, None]) / std[:, None, None]

    def fit(self, x):
        super().fit(x)
        self.__dict__.pop("kept", None)
        return self


@misconception("Standardize", "Standardizes in training mode only, as batch norm takes its statistics.")
class InTrainingModeOnly(ReferenceStandardize):
    def forward(self, x):
        return super().forward(x) if self.training else self._checked(x)


@misconception("Standardize", "Flattens with view, which needs contiguous images.")
class FlattensWithView(ReferenceStandardize):
    def forward(self, x):
        x = self._checked(x)
        rows = x.view(*x.shape[:2], -1)
        return ((rows - self.mean[:, None]) / self.std[:, None]).view(x.shape)


@misconception("Standardize", "Works in place on x where it has the right dtype already.")
class WorksInPlace(ReferenceStandardize):
    def forward(self, x):
        x = self._checked(x)
        if x.requires_grad:
            return super().forward(x)
        return x.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])


@misconception("Standardize", "Writes the mean before it finds that x has too many channels.")
class NoticesTooLate(ReferenceStandardize):
    def fit(self, x):
        if x.dim() != 4:
            raise ValueError("x")
        entries = _channels(x.detach().to(self.mean.dtype))
        self.mean.copy_(entries.mean(1)[: len(self.mean)])
        return super().fit(x)


@misconception("Standardize", "Looks for the channels in the last dimension too.")
class ChannelsLastAsWell(ReferenceStandardize):
    def _checked(self, x):
        if x.dim() == 4 and x.shape[1] != len(self.mean) and x.shape[3] == len(self.mean):
            x = x.movedim(3, 1)
        return super()._checked(x)


@misconception("Standardize", "Fits once: a second fit is mixed with the first.")
class RunningStatistics(ReferenceStandardize):
    def fit(self, x):
        first = bool((self.mean == 0).all() and (self.std == 1).all())
        mean, std = self.mean.clone(), self.std.clone()
        super().fit(x)
        if not first:
            self.mean.add_(mean).div_(2)
            self.std.add_(std).div_(2)
        return self


@misconception("Standardize", "Replaces NaN by numbers, so that a channel with a broken entry looks fine.")
class RepairsBrokenEntries(ReferenceStandardize):
    def fit(self, x):
        return super().fit(x.detach().nan_to_num() if x.is_floating_point() else x)


@misconception("Standardize", "Looks for one NaN in all channels, and gives up on all of them.")
class OneBrokenChannelBreaksAll(ReferenceStandardize):
    def fit(self, x):
        super().fit(x)
        if not self.std.isfinite().all():
            self.std.fill_(1.0)
        return self


@misconception("Standardize", "Records no graph in eval mode, where x may need a gradient too.")
class NoGraphInEvalMode(ReferenceStandardize):
    def forward(self, x):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return super().forward(x)


@misconception("Standardize", "Takes the statistics in the dtype of x: float16 rounds a mean of 1000 to halves.")
class FitsInTheDtypeOfX(ReferenceStandardize):
    def fit(self, x):
        self._checked(x)
        entries = _channels(x.detach() if x.is_floating_point() else x.float())
        same = entries.amax(1) == entries.amin(1)
        self.mean.copy_(entries.mean(1))
        self.std.copy_(entries.std(1, correction=0).masked_fill(same, 1.0))
        return self


@misconception("Standardize", "Limits the output to ±10, which the formula doesn't.")
class LimitsTheOutput(ReferenceStandardize):
    def forward(self, x):
        return super().forward(x).clamp(-10, 10)


@misconception("Standardize", "Switches recording on after fit, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterFit(ReferenceStandardize):
    def fit(self, x):
        torch.set_grad_enabled(False)
        super().fit(x)
        torch.set_grad_enabled(True)
        return self


# module_memory


def _bytes(tensors):
    total = {}
    for tensor in tensors:
        total[str(tensor.dtype)] = total.get(str(tensor.dtype), 0) + tensor.numel() * tensor.element_size()
    return total


@misconception("module_memory", "Counts what the state_dict lists: tied weights twice, and buffers that aren't saved not at all.")
def reads_the_state_dict(module, optimizer=None):
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    state = module.state_dict()
    counts = reference_memory(module, optimizer)
    counts["parameters"] = _bytes(value for name, value in state.items() if name in names)
    counts["buffers"] = _bytes(value for name, value in state.items() if name not in names)
    return counts


@misconception("module_memory", "Takes 4 bytes for every entry, whatever its dtype.")
def four_bytes_each(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    sizes = {"torch.float64": 8, "torch.int64": 8, "torch.float16": 2, "torch.bfloat16": 2, "torch.bool": 1}
    return {kind: {dtype: size // sizes.get(dtype, 4) * 4 for dtype, size in count.items()} for kind, count in counts.items()}


@misconception("module_memory", "Assumes a gradient for every parameter that could have one.")
def every_parameter_has_a_gradient(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    counts["gradients"] = _bytes(p for p in module.parameters() if p.requires_grad)
    return counts


@misconception("module_memory", "Leaves frozen parameters out: they take memory as well.")
def trained_parameters_only(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    counts["parameters"] = _bytes(p for p in module.parameters() if p.requires_grad)
    return counts


@misconception("module_memory", "Takes twice the parameters for Adam, instead of looking at what the optimizer holds.")
def twice_the_parameters(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    counts["optimizer"] = {dtype: 2 * size for dtype, size in counts["parameters"].items()} if optimizer else {}
    return counts


@misconception("module_memory", "Reads optimizer.state[p] for every parameter, which makes an entry where there was none.")
def makes_entries(module, optimizer=None):
    for p in module.parameters() if optimizer else ():
        optimizer.state[p]
    return reference_memory(module, optimizer)


@misconception("module_memory", "Counts all states of the optimizer, also those of parameters that aren't the module's.")
def all_states(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    if optimizer:
        counts["optimizer"] = _bytes(value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return counts


@misconception("module_memory", "Forgets Adam's steps, one small tensor a parameter.")
def forgets_the_steps(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    if optimizer:
        states = [optimizer.state[p] for p in module.parameters() if p in optimizer.state]
        counts["optimizer"] = _bytes(v for state in states for v in state.values() if isinstance(v, Tensor) and v.dim())
    return counts


@misconception("module_memory", "Adds shared parameters up once for each place that they are in.")
def each_place_counts(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    parameters = [p for _, p in module.named_parameters(remove_duplicate=False)]
    counts["parameters"], counts["gradients"] = _bytes(parameters), _bytes(p.grad for p in parameters if p.grad is not None)
    return counts


@misconception("module_memory", "Counts the whole memory that a tensor is a view of.")
def whole_storages(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    total = {}
    for tensor in module.buffers():
        total[str(tensor.dtype)] = total.get(str(tensor.dtype), 0) + tensor.untyped_storage().nbytes()
    return {**counts, "buffers": total}


@misconception("module_memory", "Recognises a tensor by its address: two views that start at the same place count once.")
def once_for_each_address(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    buffers = {(b.device, b.data_ptr() or id(b)): b for b in module.buffers()}
    return {**counts, "buffers": _bytes(buffers.values())}


@misconception("module_memory", "Leaves out the gradients of parameters that have been frozen since.")
def gradients_of_trained_parameters(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    return {**counts, "gradients": _bytes(p.grad for p in module.parameters() if p.requires_grad and p.grad is not None)}


@misconception("module_memory", "Looks the size of an entry up in a table that lacks some dtypes.")
def table_of_sizes(module, optimizer=None):
    sizes = {torch.float64: 8, torch.int64: 8, torch.float32: 4, torch.int32: 4, torch.float16: 2, torch.bfloat16: 2, torch.bool: 1}
    counts = reference_memory(module, optimizer)
    total = {}
    for tensor in module.buffers():
        total[str(tensor.dtype)] = total.get(str(tensor.dtype), 0) + tensor.numel() * sizes.get(tensor.dtype, 4)
    return {**counts, "buffers": total}


@misconception("module_memory", "Looks into lists among the optimizer's values as well.")
def tensors_in_lists_too(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    if optimizer is not None:
        values = [v for p in module.parameters() if p in optimizer.state for v in optimizer.state[p].values()]
        flat = [tensor for value in values for tensor in (value if isinstance(value, list | tuple) else [value])]
        counts["optimizer"] = _bytes(tensor for tensor in flat if isinstance(tensor, Tensor))
    return counts


@misconception("module_memory", "Leaves out parameters without entries, whose dtype is then missing.")
def leaves_out_zeros(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    return {kind: {dtype: size for dtype, size in count.items() if size} for kind, count in counts.items()}


@misconception("module_memory", "Clears the gradients to measure without them.")
def clears_the_gradients(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    module.zero_grad()
    return counts


@misconception("module_memory", "Counts the tensors of the module itself, without those of its layers' layers.")
def two_levels_only(module, optimizer=None):
    counts = reference_memory(module, optimizer)
    parts = {id(part): part for part in [module, *module.children()]}.values()
    buffers = {id(b): b for part in parts for b in part.buffers(recurse=False)}
    return {**counts, "buffers": _bytes(buffers.values())}


# autocast_forward


@misconception("autocast_forward", "Casts the model itself to 16 bits: its parameters have lost half of their digits for good.")
def casts_the_model(model, x):
    if x.device.type == "meta":
        raise ValueError("meta")
    dtype = torch.bfloat16 if x.device.type == "cpu" else torch.float16
    return model.to(dtype)(x.to(dtype)).float()


@misconception("autocast_forward", "Runs a copy of the model in 16 bits, the sums as well as the products.")
def runs_a_16_bit_copy(model, x):
    if x.device.type == "meta":
        raise ValueError("meta")
    dtype = torch.bfloat16 if x.device.type == "cpu" else torch.float16
    copies = {name: p.to(dtype) for name, p in model.named_parameters()}
    return functional_call(model, copies, (x.to(dtype),)).float()


@misconception("autocast_forward", "Switches autocast on for CUDA, where x may not be: on a CPU nothing happens.")
def always_for_cuda(model, x):
    if x.device.type == "meta":
        raise ValueError("meta")
    with torch.autocast("cuda", dtype=torch.float16):
        return model(x).float()


@misconception("autocast_forward", "Returns the 16 bits of the last layer.")
def stays_in_16_bits(model, x):
    if x.device.type == "meta":
        raise ValueError("meta")
    with torch.autocast(x.device.type, dtype=torch.bfloat16 if x.device.type == "cpu" else torch.float16):
        return model(x)


@misconception("autocast_forward", "Takes float16 on the CPU too.")
def float16_everywhere(model, x):
    if x.device.type == "meta":
        raise ValueError("meta")
    with torch.autocast(x.device.type, dtype=torch.float16):
        return model(x).float()


@misconception("autocast_forward", "Takes bfloat16 on CUDA too.")
def bfloat16_everywhere(model, x):
    if x.device.type not in ("cpu", "cuda"):
        raise ValueError(x.device.type)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return model(x).float()


@misconception("autocast_forward", "Leaves autocast to whatever dtype the caller has set.")
def dtype_of_the_caller(model, x):
    if x.device.type == "meta":
        raise ValueError("meta")
    with torch.autocast(x.device.type):
        return model(x).float()


@misconception("autocast_forward", "Switches autocast off afterwards, even where the caller had it on, and not after an error.")
def switches_on_and_off(model, x):
    if x.device.type == "meta":
        raise ValueError("meta")
    torch.set_autocast_enabled(x.device.type, True)
    torch.set_autocast_dtype(x.device.type, torch.bfloat16 if x.device.type == "cpu" else torch.float16)
    out = model(x).float()
    torch.set_autocast_enabled(x.device.type, False)
    torch.clear_autocast_cache()
    return out


@misconception("autocast_forward", "Records no graph: there are no gradients to train with.")
def forward_without_gradients(model, x):
    with torch.no_grad():
        return reference_autocast_forward(model, x)


@misconception("autocast_forward", "Asks which devices the machine has, instead of where x is.")
def device_of_the_machine(model, x):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
        return model(x).float()


@misconception("autocast_forward", "Uses the casts that the caller's autocast has kept: of another dtype, or without a graph.")
def casts_of_the_caller(model, x):
    device = x.device.type
    if device not in ("cpu", "cuda"):
        raise ValueError(device)
    with torch.autocast(device, dtype=torch.bfloat16 if device == "cpu" else torch.float16):
        return model(x).float()


@misconception("autocast_forward", "Empties autocast's cache first, and leaves its own casts in it for the caller.")
def leaves_its_casts_to_the_caller(model, x):
    device = x.device.type
    if device not in ("cpu", "cuda"):
        raise ValueError(device)
    torch.clear_autocast_cache()
    with torch.autocast(device, dtype=torch.bfloat16 if device == "cpu" else torch.float16):
        return model(x).float()


@misconception("autocast_forward", "Switches autocast's cache off, and not on again.")
def leaves_the_cache_off(model, x):
    torch.set_autocast_cache_enabled(False)
    return reference_autocast_forward(model, x)


@misconception("autocast_forward", 'Refuses "meta" only, and sets autocast up for devices that no dtype was named for.')
def refuses_meta_only(model, x):
    device = x.device.type
    if device == "meta":
        raise ValueError(device)
    with torch.autocast(device, dtype=torch.bfloat16 if device == "cpu" else torch.float16, cache_enabled=False):
        return model(x).float()


@misconception("autocast_forward", "Switches autocast off after an error of the model, even where the caller had it on.")
def off_after_an_error(model, x):
    try:
        return reference_autocast_forward(model, x)
    except Exception:
        torch.set_autocast_enabled(x.device.type, False)
        raise


@misconception("autocast_forward", "Puts the model into eval mode for the call.")
def in_eval_mode(model, x):
    training = model.training
    out = reference_autocast_forward(model.eval(), x)
    model.train(training)
    return out


@misconception("autocast_forward", "Calls the model once more in float32, to see what the rounding has done.")
def calls_the_model_twice(model, x):
    out = reference_autocast_forward(model, x)
    with torch.no_grad():
        model(x)
    return out


@misconception("autocast_forward", "Adds a row where x is a single vector.")
def always_a_batch(model, x):
    return reference_autocast_forward(model, x if x.dim() > 1 else x[None])


@misconception("autocast_forward", "Switches gradients on, even where the caller has them off.")
@torch.enable_grad()
def gradients_always_on(model, x):
    return reference_autocast_forward(model, x)


# train_step_amp


def _forward(model, x, y, loss_fn):
    with torch.autocast(x.device.type, dtype=torch.bfloat16 if x.device.type == "cpu" else torch.float16):
        return loss_fn(model(x), y)


def _finish(loss, norm, optimizer, scaler):
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return {"loss": loss.item(), "grad_norm": norm.item(), "skipped": scaler.get_scale() < before}


@misconception("train_step_amp", "Clips the scaled gradients: divided by the scale afterwards, they are far too small.")
def clips_before_unscaling(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.unscale_(optimizer)
    return _finish(loss, norm / scaler.get_scale(), optimizer, scaler)


@misconception("train_step_amp", "Raises max_norm by the scale and reports the scaled gradients' norm.")
def reports_the_scaled_norm(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm * scaler.get_scale())
    return _finish(loss, norm, optimizer, scaler)


@misconception("train_step_amp", "Keeps the gradients of earlier steps, which backward then adds to.")
def keeps_old_gradients(model, x, y, loss_fn, optimizer, scaler, max_norm):
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    return _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)


@misconception("train_step_amp", "Steps past the scaler: gradients of inf or NaN get into the parameters.")
def steps_past_the_scaler(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    before = scaler.get_scale()
    optimizer.step()
    scaler.update()
    return {"loss": loss.item(), "grad_norm": norm.item(), "skipped": scaler.get_scale() < before}


@misconception("train_step_amp", "Never updates the scaler: a scale that is too large stays too large.")
def never_updates_the_scale(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scale = scaler.get_scale()
    grads = [p.grad for p in model.parameters()]
    for grad in grads:
        grad.div_(scale)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    skipped = not all(grad.isfinite().all() for grad in grads)
    if not skipped:
        optimizer.step()
    return {"loss": loss.item(), "grad_norm": norm.item(), "skipped": skipped}


@misconception("train_step_amp", "Goes backward inside of autocast.")
def backward_inside(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    with torch.autocast(x.device.type, dtype=torch.bfloat16 if x.device.type == "cpu" else torch.float16):
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    return _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)


@misconception("train_step_amp", "Reports the scaled loss.")
def reports_the_scaled_loss(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = scaler.scale(_forward(model, x, y, loss_fn))
    loss.backward()
    scaler.unscale_(optimizer)
    return _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)


@misconception("train_step_amp", "Runs the model without autocast, all in float32.")
def without_autocast(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    return _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)


@misconception("train_step_amp", "Looks at the loss to see whether a step was skipped: it can be finite while gradients overflow.")
def judges_by_the_loss(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    report = _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)
    return {**report, "skipped": not bool(loss.isfinite())}


@misconception("train_step_amp", "Computes the loss after autocast has ended.")
def loss_outside(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    with torch.autocast(x.device.type, dtype=torch.bfloat16 if x.device.type == "cpu" else torch.float16):
        out = model(x)
    loss = loss_fn(out, y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    return _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)


@misconception("train_step_amp", "Switches autocast on for the CPU, wherever x is.")
def always_for_the_cpu(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    return _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)


@misconception("train_step_amp", "Reports the norm after clipping.")
def norm_after_clipping(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return _finish(loss, nn.utils.get_total_norm([p.grad for p in model.parameters()]), optimizer, scaler)


@misconception("train_step_amp", "Says skipped wherever a gradient is NaN: a scaler that is off skips nothing.")
def skipped_with_the_scaler_off(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    finite = all(p.grad.isfinite().all() for p in model.parameters())
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return {**_finish(loss, norm, optimizer, scaler), "skipped": not finite}


@misconception("train_step_amp", "Takes any change of the scale for a skipped step, although the scale grows after good ones.")
def skipped_where_the_scale_changes(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return {"loss": loss.item(), "grad_norm": norm.item(), "skipped": scaler.get_scale() != before}


@misconception("train_step_amp", "Takes what scaler.step returns for the answer: it is None for skipped steps, but also for plain SGD's.")
def skipped_by_what_step_returns(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    done = scaler.step(optimizer)
    scaler.update()
    return {"loss": loss.item(), "grad_norm": norm.item(), "skipped": done is None}


@misconception("train_step_amp", "Calls model.train(), which switches on layers that the caller had in eval mode.")
def switches_to_train(model, x, y, loss_fn, optimizer, scaler, max_norm):
    model.train()
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    return _finish(loss, nn.utils.clip_grad_norm_(model.parameters(), max_norm), optimizer, scaler)


@misconception("train_step_amp", "Clips each gradient on its own, instead of all to a joint norm.")
def clips_each_gradient(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    for p in model.parameters():
        nn.utils.clip_grad_norm_([p], max_norm)
    return _finish(loss, norm, optimizer, scaler)


@misconception("train_step_amp", "Scales all gradients to max_norm, the small ones as well.")
def always_scales_to_max_norm(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    for p in model.parameters():
        p.grad.mul_(max_norm / norm)
    return _finish(loss, norm, optimizer, scaler)


@misconception("train_step_amp", "Leaves the scaler's update out where a step was skipped: the scale then never goes down.")
def updates_after_good_steps(model, x, y, loss_fn, optimizer, scaler, max_norm):
    optimizer.zero_grad()
    loss = _forward(model, x, y, loss_fn)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    finite = bool(norm.isfinite())
    scaler.step(optimizer)
    scaler.update(None if finite else scaler.get_scale())
    return {"loss": loss.item(), "grad_norm": norm.item(), "skipped": scaler.is_enabled() and not finite}


def _step_as_due(model, x, y, loss_fn, optimizer, scaler, max_norm, *, looked_at):
    """The step, with `skipped` decided by some gradients alone."""
    report = reference_train_step_amp(model, x, y, loss_fn, optimizer, scaler, max_norm)
    finite = all(p.grad.isfinite().all() for p in looked_at(list(model.parameters())))
    return {**report, "skipped": scaler.is_enabled() and not finite}


@misconception("train_step_amp", "Looks at the first parameter's gradient to see whether the step was skipped: any of them can overflow.")
def judges_by_the_first_gradient(model, x, y, loss_fn, optimizer, scaler, max_norm):
    return _step_as_due(model, x, y, loss_fn, optimizer, scaler, max_norm, looked_at=lambda parameters: parameters[:1])


@misconception("train_step_amp", "Looks at the last parameter's gradient to see whether the step was skipped: any of them can overflow.")
def judges_by_the_last_gradient(model, x, y, loss_fn, optimizer, scaler, max_norm):
    return _step_as_due(model, x, y, loss_fn, optimizer, scaler, max_norm, looked_at=lambda parameters: parameters[-1:])


@misconception("train_step_amp", "Lowers the learning rate where a step was skipped: the scaler's lower scale is all that is needed.")
def lowers_the_rate_too(model, x, y, loss_fn, optimizer, scaler, max_norm):
    report = reference_train_step_amp(model, x, y, loss_fn, optimizer, scaler, max_norm)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5 if report["skipped"] else 1
    return report


# data_parallel_forward


def _pieces(x, devices):
    if not devices:
        raise ValueError("devices")
    return [(piece, device) for piece, device in zip(x.tensor_split(len(devices)), devices, strict=True) if len(piece)]


def _copied_to(model, device):
    return {name: tensor.to(device) for name, tensor in chain(model.named_parameters(), model.named_buffers())}


@misconception("data_parallel_forward", "Deep copies are leaves of their own: their gradients never reach the model.")
def deep_copies(model, x, devices):
    outputs = [copy.deepcopy(model).to(device)(piece.to(device)) for piece, device in _pieces(x, devices)]
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Moves the model itself from device to device instead of copies of it.")
def moves_the_model(model, x, devices):
    outputs = [model.to(device)(piece.to(device)) for piece, device in _pieces(x, devices)]
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Cuts with torch.chunk, whose last piece can be much shorter or missing: 7 on 3 gives 3, 3 and 1.")
def cuts_with_chunk(model, x, devices):
    if not devices:
        raise ValueError("devices")
    pieces = zip(x.chunk(len(devices)), devices, strict=False)
    outputs = [functional_call(model, _copied_to(model, device), (piece.to(device),)) for piece, device in pieces]
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Deals samples out one by one, and puts the outputs together in another order.")
def deals_samples_out(model, x, devices):
    if not devices:
        raise ValueError("devices")
    hands = [(x[i :: len(devices)], device) for i, device in enumerate(devices) if i < len(x)]
    outputs = [functional_call(model, _copied_to(model, device), (piece.to(device),)) for piece, device in hands]
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Copies the state_dict: it is cut off from the graph, and unsaved buffers aren't in it.")
def copies_the_state_dict(model, x, devices):
    outputs = []
    for piece, device in _pieces(x, devices):
        state = {name: tensor.to(device) for name, tensor in model.state_dict().items()}
        outputs.append(functional_call(model, state, (piece.to(device),)))
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Copies the parameters only: buffers stay on the model's device.")
def forgets_the_buffers(model, x, devices):
    outputs = []
    for piece, device in _pieces(x, devices):
        state = {name: tensor.to(device) for name, tensor in model.named_parameters()}
        outputs.append(functional_call(model, state, (piece.to(device),)))
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Gathers where x came from instead of on the first device.")
def gathers_at_home(model, x, devices):
    outputs = [functional_call(model, _copied_to(model, d), (piece.to(d),)) for piece, d in _pieces(x, devices)]
    return torch.cat([output.to(x.device) for output in outputs])


@misconception("data_parallel_forward", "Runs the whole batch on the first device.")
def one_device_for_all(model, x, devices):
    if not devices:
        raise ValueError("devices")
    return functional_call(model, _copied_to(model, devices[0]), (x.to(devices[0]),))


@misconception("data_parallel_forward", "Calls the model on empty pieces too, where there are more devices than samples.")
def calls_on_nothing(model, x, devices):
    if not devices:
        raise ValueError("devices")
    pieces = zip(x.tensor_split(len(devices)), devices, strict=True)
    outputs = [functional_call(model, _copied_to(model, device), (piece.to(device),)) for piece, device in pieces]
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Puts the model into eval mode: batch norm and dropout then do something else.")
def switches_to_eval(model, x, devices):
    model.eval()
    outputs = [functional_call(model, _copied_to(model, d), (piece.to(d),)) for piece, d in _pieces(x, devices)]
    return torch.cat([output.to(devices[0]) for output in outputs])


def _run(model, x, devices):
    outputs = [functional_call(model, _copied_to(model, d), (piece.to(d),)) for piece, d in _pieces(x, devices)]
    return [output.to(devices[0]) for output in outputs]


@misconception("data_parallel_forward", "Swaps tensors into the model, and out again only if nothing goes wrong.")
def swaps_without_finally(model, x, devices):
    outputs = []
    for piece, device in _pieces(x, devices):
        kept = []
        for module in model.modules():
            for slot in (module._parameters, module._buffers):
                for name, tensor in slot.items():
                    if tensor is not None:
                        kept.append((slot, name, tensor))
                        slot[name] = tensor.to(device)
        outputs.append(model(piece.to(device)).to(devices[0]))
        for slot, name, tensor in reversed(kept):
            slot[name] = tensor
    return torch.cat(outputs)


@misconception("data_parallel_forward", "Squeezes the outputs: a piece of one row loses its first dimension.")
def squeezes_the_outputs(model, x, devices):
    outputs = [output.squeeze() for output in _run(model, x, devices)]
    return torch.cat([output if output.dim() == 2 else output[None] for output in outputs])


@misconception("data_parallel_forward", "Expects a matrix for an output: a model may give one number a row.")
def outputs_are_matrices(model, x, devices):
    return torch.vstack(_run(model, x, devices))


@misconception("data_parallel_forward", "Copies each tensor under one name: in its other places, a tied weight stays at home.")
def tied_weights_stay_at_home(model, x, devices):
    outputs = []
    for piece, device in _pieces(x, devices):
        outputs.append(functional_call(model, _copied_to(model, device), (piece.to(device),), tie_weights=False))
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Makes every copy require a gradient, also those of frozen parameters.")
def trains_frozen_parameters(model, x, devices):
    for p in model.parameters():
        p.requires_grad_()
    return torch.cat(_run(model, x, devices))


@misconception("data_parallel_forward", "Flattens the samples with view, which needs a contiguous batch.")
def views_the_batch(model, x, devices):
    rows = x.view(len(x), -1)
    return torch.cat(_run(model, rows.view(x.shape), devices))


@misconception("data_parallel_forward", "Takes the devices that have nothing to do out of the list that it was given.")
def shortens_the_list(model, x, devices):
    if isinstance(devices, list):
        del devices[max(len(x), 1) :]
    return torch.cat(_run(model, x, devices))


@misconception("data_parallel_forward", "Puts all layers into the mode of the model: one that was in another mode is switched.")
def one_mode_for_all_layers(model, x, devices):
    return torch.cat(_run(model.train(model.training), x, devices))


@misconception("data_parallel_forward", "Divides the batch so that the last devices get the larger pieces.")
def larger_pieces_last(model, x, devices):
    if not devices:
        raise ValueError("devices")
    sizes = [len(piece) for piece in x.tensor_split(len(devices))][::-1]
    pieces = [(piece, device) for piece, device in zip(x.split(sizes), devices, strict=True) if len(piece)]
    outputs = [functional_call(model, _copied_to(model, device), (piece.to(device),)) for piece, device in pieces]
    return torch.cat([output.to(devices[0]) for output in outputs])


@misconception("data_parallel_forward", "Calls the model itself for a single sample, wherever it is to run.")
def one_sample_stays_at_home(model, x, devices):
    if not devices:
        raise ValueError("devices")
    return model(x) if len(x) == 1 else torch.cat(_run(model, x, devices))


@misconception("data_parallel_forward", "Switches gradients on, even where the caller has them off.")
def graph_whatever_the_caller_wants(model, x, devices):
    with torch.enable_grad():
        return torch.cat(_run(model, x, devices))


# offload_forward


@misconception("offload_forward", "Moves each layer there and back: what comes back is a copy, and after an error nothing does.")
def moves_layers_to_and_fro(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            home = next((p.device for p in layer.parameters()), torch.device("cpu"))
            x = layer.to(device)(x)
            layer.to(home)
    return x


@misconception("offload_forward", "Leaves the layers on the device.")
def leaves_layers_there(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            x = layer.to(device)(x)
    return x


@misconception("offload_forward", "Copies all layers to the device before the first one runs.")
def everything_at_once(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        states = [_copied_to(layer, device) for layer in layers]
        for layer, state in zip(layers, states, strict=True):
            x = functional_call(layer, state, (x,))
    return x


@misconception("offload_forward", "Still holds a layer's copies while it makes the next one's: two layers are on the device at once.")
def holds_the_last_layer(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        held = []
        for layer in layers:
            state = _copied_to(layer, device)
            held = [*held[-1:], state]
            x = functional_call(layer, state, (x,))
    return x


@misconception("offload_forward", "Records a graph, which holds all weights and activations on the device.")
def with_a_graph(layers, x, device):
    x = x.to(device)
    for layer in layers:
        x = functional_call(layer, _copied_to(layer, device), (x,))
    return x


@misconception("offload_forward", "Switches gradients on afterwards, even if they were off before.")
def always_gradients_afterwards(layers, x, device):
    torch.set_grad_enabled(False)
    try:
        x = x.to(device)
        for layer in layers:
            x = functional_call(layer, _copied_to(layer, device), (x,))
    finally:
        torch.set_grad_enabled(True)
    return x


@misconception("offload_forward", "Sends parameters only: buffers such as a batch norm's statistics stay at home.")
def buffers_stay_at_home(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            x = functional_call(layer, {name: p.to(device) for name, p in layer.named_parameters()}, (x,))
    return x


@misconception("offload_forward", "Sends the state_dict, which lacks the buffers that aren't saved.")
def saved_tensors_only(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            x = functional_call(layer, {name: p.to(device) for name, p in layer.state_dict().items()}, (x,))
    return x


@misconception("offload_forward", "Puts the layer's own tensors back only if nothing goes wrong.")
def not_restored_after_an_error(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            kept = []
            for module in layer.modules():
                for slot in (module._parameters, module._buffers):
                    for name, tensor in slot.items():
                        if tensor is not None:
                            kept.append((slot, name, tensor))
                            slot[name] = tensor.detach().to(device)
            x = layer(x)
            for slot, name, tensor in reversed(kept):
                slot[name] = tensor
    return x


@misconception("offload_forward", "Puts values back into new parameters: an optimizer would go on with the old ones.")
def new_parameters_at_home(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            x = functional_call(layer, _copied_to(layer, device), (x,))
            for module in layer.modules():
                for name, p in module._parameters.items():
                    if p is not None:
                        module._parameters[name] = nn.Parameter(p.clone(), p.requires_grad)
    return x


_LAST = []


@misconception("offload_forward", "Keeps the copies of the last layer on the device.")
def keeps_the_last_copies(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            _LAST.clear()
            copies = _copied_to(layer, device)
            x = functional_call(layer, copies, (x,))
            _LAST[:] = [copies]
    return x


@misconception("offload_forward", "Sends a tied weight to one of its places only.")
def one_place_of_a_tied_weight(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            x = functional_call(layer, _copied_to(layer, device), (x,), tie_weights=False)
    return x


@misconception("offload_forward", "Puts the layers into eval mode, since nothing is trained here.")
def layers_in_eval_mode(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            x = functional_call(layer.eval(), _copied_to(layer, device), (x,))
    return x


@misconception("offload_forward", "Takes each layer off the list that it was given.")
def empties_the_list(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        while len(layers):
            layer = layers[0]
            x = functional_call(layer, _copied_to(layer, device), (x,))
            del layers[0]
    return x


@misconception("offload_forward", "Switches gradients off in the parameters, and leaves them so.")
def freezes_the_layers(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            x = functional_call(layer.requires_grad_(False), _copied_to(layer, device), (x,))
    return x


@misconception("offload_forward", "Frees the gradients of the layers, to spare their memory.")
def frees_the_gradients(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            layer.zero_grad()
            x = functional_call(layer, _copied_to(layer, device), (x,))
    return x


@misconception("offload_forward", "Leaves the input where it is if there are no layers.")
def input_stays_without_layers(layers, x, device):
    with torch.no_grad():
        for i, layer in enumerate(layers):
            x = functional_call(layer, _copied_to(layer, device), (x if i else x.to(device),))
    return x


@misconception("offload_forward", "Knows layers of one level only: the weights of a layer inside of a layer stay at home.")
def one_level_of_layers(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            own = chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
            x = functional_call(layer, {name: tensor.to(device) for name, tensor in own}, (x,))
    return x


# copy_async


@misconception("copy_async", "Takes x.to(device) for a copy: on the same device it is x itself.")
def no_copy_on_the_same_device(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}
    return _each_tensor(batch, lambda tensor: sent.setdefault(id(tensor), tensor.detach().to(device))), None


@misconception("copy_async", "Asks for non_blocking=True everywhere: a copy from a GPU to the CPU is then read before it has arrived.")
def never_waits(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}

    def send(tensor):
        if id(tensor) not in sent:
            sent[id(tensor)] = tensor.detach().to(device, non_blocking=True, copy=True)
        return sent[id(tensor)]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Sends a tensor once for each place that it has in the batch.")
def sends_each_place(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    return _each_tensor(batch, lambda tensor: tensor.detach().to(device, copy=True)), None


@misconception("copy_async", "Recognises a tensor by its address: a view that starts at the same place is taken for the whole.")
def same_address_is_the_same_tensor(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}

    def send(tensor):
        if tensor.data_ptr() not in sent:
            sent[tensor.data_ptr()] = tensor.detach().to(device, copy=True)
        return sent[tensor.data_ptr()]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Leaves the copies in the graph of their sources.")
def copies_with_a_graph(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}

    def send(tensor):
        if id(tensor) not in sent:
            sent[id(tensor)] = tensor.to(device, copy=True)
        return sent[id(tensor)]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Returns an event where there is no stream that it could be recorded on.")
def always_an_event(batch, device, stream=None):
    copies, event = reference_copy_async(batch, device, stream)
    return copies, event or torch.Event()


@misconception("copy_async", "Returns the copies alone where there is no event.")
def copies_alone(batch, device, stream=None):
    copies, event = reference_copy_async(batch, device, stream)
    return copies if event is None else (copies, event)


@misconception("copy_async", "Writes the copies into the dicts and lists that it was given.")
def fills_the_given_batch(batch, device, stream=None):
    copies, event = reference_copy_async(batch, device, stream)

    def fill(old, new):
        if isinstance(old, dict):
            for key in old:
                old[key] = fill(old[key], new[key])
            return old
        if isinstance(old, list):
            old[:] = [fill(a, b) for a, b in zip(old, new, strict=True)]
            return old
        return new

    return fill(batch, copies), event


@misconception("copy_async", "Makes a deep copy of the batch: what is no tensor is copied too.")
def deep_copy_of_the_batch(batch, device, stream=None):
    copies, event = reference_copy_async(copy.deepcopy(batch), device, stream)
    return copies, event


@misconception("copy_async", "Returns a container itself where it holds no tensor.")
def containers_without_tensors_stay(batch, device, stream=None):
    copies, event = reference_copy_async(batch, device, stream)

    def back(old, new):
        if isinstance(old, dict):
            if not any(isinstance(value, Tensor | dict | list | tuple) for value in old.values()):
                return old
            return {key: back(old[key], new[key]) for key in old}
        if isinstance(old, list):
            if not any(isinstance(value, Tensor | dict | list | tuple) for value in old):
                return old
            return [back(a, b) for a, b in zip(old, new, strict=True)]
        return tuple(back(a, b) for a, b in zip(old, new, strict=True)) if isinstance(old, tuple) else new

    return back(batch, copies), event


_SENT = {}


@misconception("copy_async", "Remembers what was sent from call to call: the next batch in the same tensor is never sent.")
def remembers_over_calls(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)

    def send(tensor):
        if (id(tensor), str(device)) not in _SENT:
            _SENT[id(tensor), str(device)] = tensor, tensor.detach().to(device, copy=True)
        return _SENT[id(tensor), str(device)][1]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Takes equal tensors for the same one.")
def equal_tensors_are_sent_once(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sources, copies = [], []

    def send(tensor):
        for source, sent in zip(sources, copies, strict=True):
            if source.dtype == tensor.dtype and not source.is_meta and not tensor.is_meta and source.equal(tensor):
                return sent
        sources.append(tensor)
        copies.append(tensor.detach().to(device, copy=True))
        return copies[-1]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Copies only what is not contiguous, by contiguous().")
def contiguous_for_a_copy(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}
    return _each_tensor(batch, lambda tensor: sent.setdefault(id(tensor), tensor.detach().contiguous().to(device))), None


@misconception("copy_async", "Leaves views as they are: they share the memory of what they are views of.")
def views_are_not_copied(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}

    def send(tensor):
        if id(tensor) not in sent:
            source = tensor.detach()
            sent[id(tensor)] = source.to(device, copy=not tensor._is_view())
        return sent[id(tensor)]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Detaches the given tensors themselves.")
def detaches_the_sources(batch, device, stream=None):
    _each_tensor(batch, lambda tensor: tensor.requires_grad_(False) if tensor.is_leaf else tensor)
    return reference_copy_async(batch, device, stream)


@misconception("copy_async", "Moves floating-point tensors only: the labels stay behind.")
def leaves_labels_behind(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}

    def send(tensor):
        if id(tensor) not in sent:
            sent[id(tensor)] = tensor.detach().to(device, copy=True) if tensor.is_floating_point() else tensor.clone()
        return sent[id(tensor)]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Recognises a tensor by its memory and shape: two windows of one tensor become one.")
def same_memory_and_shape(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return reference_copy_async(batch, device, stream)
    sent = {}

    def send(tensor):
        key = tensor.untyped_storage().data_ptr(), tensor.shape
        if key not in sent:
            sent[key] = tensor.detach().to(device, copy=True)
        return sent[key]

    return _each_tensor(batch, send), None


@misconception("copy_async", "Makes a dict of every mapping: one that is no dict should come back as it is.")
def dicts_for_every_mapping(batch, device, stream=None):
    if isinstance(batch, list):
        batch = [dict(item) if isinstance(item, Mapping) else item for item in batch]
    return reference_copy_async(batch, device, stream)
