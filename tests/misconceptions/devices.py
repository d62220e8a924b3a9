"""Named wrong answers to the tasks of devices: the hidden suite must reject every one."""

import copy
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
