"""Other correct answers to the tasks of devices: the hidden suite must accept every one."""

import contextlib
import copy
import functools
import math
from collections import Counter, deque

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from grader.testing import alternative

# pick_device


@alternative("pick_device")
def as_one_expression(available, preferred=("cuda", "mps", "cpu")):
    def read(wish):
        try:
            return torch.device(wish)
        except Exception:
            raise ValueError(f"no device {wish!r}") from None

    counts = {**available, "cpu": math.inf}
    return next((wish for wish in list(map(read, preferred)) if counts.get(wish.type, 0) >= 1 + (wish.index or 0)), torch.device("cpu"))


@alternative("pick_device")
def from_the_worst_wish(available, preferred=("cuda", "mps", "cpu")):
    chosen = torch.device("cpu")
    for wish in reversed(preferred):
        if isinstance(wish, str):
            try:
                wish = torch.device(wish)
            except RuntimeError as error:
                raise ValueError(wish) from error
        there = [None, *range(available.get(wish.type, 0))] if available.get(wish.type, 0) else []
        if wish.type == "cpu" or wish.index in there:
            chosen = wish
    return chosen


@alternative("pick_device")
def by_the_names_of_all_devices(available, preferred=("cuda", "mps", "cpu")):
    there = {"cpu"}
    for kind, count in available.items():
        there |= {f"{kind}:{i}" for i in range(count)} | ({kind} if count else set())
    chosen = None
    for wish in preferred:
        try:
            device = torch.device(wish)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{wish!r} is no device") from error
        if chosen is None and str(device) in there:
            chosen = device
    return chosen or torch.device("cpu")


# move_to


@alternative("move_to")
def by_pattern(tree, device):
    match tree:
        case Tensor():
            return tree.to(device=device)
        case dict():
            moved = copy.copy(tree)
            moved.update((key, by_pattern(value, device)) for key, value in tree.items())
            return moved
        case tuple() if hasattr(tree, "_make"):
            return tree._make(by_pattern(item, device) for item in tree)
        case list() | tuple():
            return type(tree)(by_pattern(item, device) for item in tree)
    return tree


@alternative("move_to")
def with_tree_map(tree, device):
    def send(tensor):
        return tensor if tensor.device == torch.device(device) else tensor.to(device)

    return tree_map_only(Tensor, send, tree, is_leaf=lambda value: isinstance(value, deque))  # torch's trees go through deques


@alternative("move_to")
def with_single_dispatch(tree, device):
    @functools.singledispatch
    def send(value):
        return value

    @send.register
    def _(value: Tensor):
        return value.to(device, non_blocking=True)

    @send.register
    def _(value: dict):
        return type(value)((key, send(item)) for key, item in value.items())

    @send.register
    def _(value: list):
        return [*map(send, value)]

    @send.register
    def _(value: tuple):
        make = getattr(type(value), "_make", tuple)
        return make(map(send, value)) if value else value

    return send(tree)


# mask_like_scores


@alternative("mask_like_scores")
def with_where_and_tril(scores, lengths, *, causal=False):
    if lengths.dim() != 1 or len(lengths) != len(scores):
        raise ValueError("lengths")
    B, _, T, S = scores.shape
    seen = torch.ones(B, 1, T, S, dtype=torch.bool, device=scores.device)
    seen &= torch.arange(S, device=scores.device).view(1, 1, 1, S) < lengths.to(scores.device).view(B, 1, 1, 1)
    if causal:
        seen = seen.tril(S - T)
    zero = torch.zeros((), dtype=scores.dtype, device=scores.device)
    return torch.where(seen, zero, -math.inf).to(scores.dtype)


@alternative("mask_like_scores")
def by_adding_two_masks(scores, lengths, *, causal=False):
    if tuple(lengths.shape) != (scores.size(0),):
        raise ValueError("lengths")
    with torch.no_grad(), scores.device:
        B, _, T, S = scores.shape
        behind = torch.arange(S).expand(B, S) >= lengths.to(scores.device).unsqueeze(1)
        mask = torch.zeros(B, 1, T, S, dtype=scores.dtype)
        mask.masked_fill_(behind[:, None, None], float("-inf"))
        if causal:
            mask += torch.full((T, S), float("-inf"), dtype=scores.dtype).triu(S - T + 1)
    return mask


@alternative("mask_like_scores")
@torch.no_grad()
def as_a_logarithm(scores, lengths, *, causal=False):
    """log 1 = 0 and log 0 = -inf."""
    if lengths.ndim != 1 or lengths.size(0) != scores.size(0):
        raise ValueError("one length a sequence")
    T, S = scores.shape[-2:]
    visible = torch.arange(S - T + 1, S + 1, device=scores.device) if causal else torch.full((T,), S, device=scores.device)
    last = lengths.to(scores.device)[:, None, None].minimum(visible[:, None])
    seen = torch.arange(S, device=scores.device) < last
    return seen.to(scores.dtype).log().unsqueeze(1)


# Standardize


@alternative("Standardize")
class AsATransposedProduct(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        for name, value in ("mean", 0.0), ("std", 1.0):
            self.register_buffer(name, torch.full((channels,), value))

    def fit(self, x):
        if x.ndim != 4 or x.size(1) != self.channels:
            raise ValueError("x")
        with torch.no_grad():
            rows = x.to(self.mean.dtype).movedim(1, -1).reshape(-1, self.channels)
            n = len(rows)
            self.mean.zero_().add_(rows.sum(0) / n)
            variance = ((rows - self.mean) ** 2).sum(0) / n
            constant = (rows == rows[0]).all(dim=0)
            self.std.zero_().add_(torch.where(constant, 1.0, variance.sqrt()).to(self.std.dtype))
        return self

    def forward(self, x):
        if x.ndim != 4 or x.size(1) != self.channels:
            raise ValueError("x")
        return ((x.to(self.mean.dtype).movedim(1, -1) - self.mean) * (1 / self.std)).movedim(-1, 1)


@alternative("Standardize")
class InDouble(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float32))
        self.register_buffer("std", torch.ones(channels, dtype=torch.float32))

    def fit(self, x):
        if x.dim() != 4 or x.shape[1] != self.mean.numel():
            raise ValueError("x")
        wide = x.detach().to(self.mean.dtype).double()
        self.mean.data.copy_(wide.mean(dim=(0, 2, 3)))
        std, span = wide.var(dim=(0, 2, 3), unbiased=False).sqrt(), wide.amax((0, 2, 3)) - wide.amin((0, 2, 3))
        self.std.data.copy_(torch.where(span == 0, torch.ones_like(std), std))
        return self

    def forward(self, x):
        if x.dim() != 4 or x.shape[1] != self.mean.numel():
            raise ValueError("x")
        x, mean, std = x.to(self.mean.dtype), self.mean.reshape(1, -1, 1, 1), self.std.reshape(1, -1, 1, 1)
        return x / std - mean / std if x.dtype == torch.float64 else (x - mean).div(std)


@alternative("Standardize")
class ThroughBatchNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def _images(self, x):
        if x.ndim != 4 or x.size(1) != self.mean.size(0):
            raise ValueError(f"not (B, {self.mean.size(0)}, H, W)")
        return x.to(self.mean.dtype)

    @torch.no_grad()
    def fit(self, x):
        x = self._images(x)
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        varies = (x != x[:1, :, :1, :1]).any(dim=3).any(dim=2).any(dim=0)
        self.mean[:] = mean
        self.std[:] = variance.sqrt()
        self.std.masked_fill_(~varies, 1.0)
        return self

    def forward(self, x):
        return F.batch_norm(self._images(x), self.mean, self.std**2, eps=0.0)


# module_memory


@alternative("module_memory")
def module_by_module(module, optimizer=None):
    seen, found = set(), {"parameters": [], "buffers": [], "gradients": [], "optimizer": []}
    for part in module.modules():
        for kind, slots in ("parameters", part._parameters), ("buffers", part._buffers):
            for tensor in slots.values():
                if tensor is None or id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                found[kind].append(tensor)
                if kind == "parameters" and tensor.grad is not None:
                    found["gradients"].append(tensor.grad)
    if optimizer is not None:
        for p, state in optimizer.state.items():
            if id(p) in seen:
                found["optimizer"] += [value for value in state.values() if torch.is_tensor(value)]
    dtypes = {kind: {str(tensor.dtype) for tensor in tensors} for kind, tensors in found.items()}
    return {kind: {d: sum(t.nbytes for t in found[kind] if str(t.dtype) == d) for d in dtypes[kind]} for kind in found}


@alternative("module_memory")
def with_nested_functions(module, optimizer=None):
    def tensors():
        for p in {id(p): p for p in module.parameters()}.values():
            yield "parameters", p
            yield "gradients", p.grad
            for value in (optimizer.state.get(p, {}) if optimizer is not None else {}).values():
                yield "optimizer", value
        for b in {id(b): b for b in module.buffers()}.values():
            yield "buffers", b

    total = {kind: {} for kind in ("buffers", "optimizer", "gradients", "parameters")}
    for kind, tensor in tensors():
        if isinstance(tensor, Tensor):
            count = total[kind].setdefault(str(tensor.dtype), 0)
            total[kind][str(tensor.dtype)] = count + math.prod(tensor.shape) * tensor.dtype.itemsize
    return total


@alternative("module_memory")
def with_counters(module, optimizer=None):
    kinds = {kind: Counter() for kind in ("parameters", "gradients", "optimizer", "buffers")}

    def count(kind, tensor):
        kinds[kind][str(tensor.dtype)] += tensor.nelement() * tensor.element_size()

    for parameter in module.parameters():
        count("parameters", parameter)
        if parameter.grad is not None:
            count("gradients", parameter.grad)
        if optimizer is not None and parameter in optimizer.state:
            for value in optimizer.state[parameter].values():
                if torch.is_tensor(value):
                    count("optimizer", value)
    for buffer in module.buffers():
        count("buffers", buffer)
    return kinds


# autocast_forward


@alternative("autocast_forward")
def with_a_decorator(model, x):
    match x.device.type:
        case "cpu":
            dtype = torch.bfloat16
        case "cuda":
            dtype = torch.float16
        case other:
            raise ValueError(f"no autocast on {other}")
    out = torch.autocast(device_type=x.device.type, dtype=dtype, cache_enabled=False)(model)(x)
    return out.to(torch.float32)


@alternative("autocast_forward")
def with_try_and_finally(model, x):
    device = x.device.type
    if device not in ("cpu", "cuda"):
        raise ValueError(device)
    before, cached = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), torch.is_autocast_cache_enabled()
    torch.autocast_increment_nesting()
    try:
        torch.set_autocast_cache_enabled(False)
        torch.set_autocast_enabled(device, True)
        torch.set_autocast_dtype(device, torch.bfloat16 if device == "cpu" else torch.float16)
        out = model(x)
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_cache_enabled(cached)
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])
    return out.float()


@alternative("autocast_forward")
def with_an_empty_cache(model, x):
    kind = x.device.type
    if kind != "cpu" and kind != "cuda":
        raise ValueError(f"autocast has no dtype for {kind}")
    half = torch.float16 if kind == "cuda" else torch.bfloat16
    with torch.autocast(kind, enabled=False), torch.autocast(kind, half):
        torch.clear_autocast_cache()
        try:
            return model(x).to(torch.float)
        finally:
            torch.clear_autocast_cache()


# train_step_amp


@alternative("train_step_amp")
def clips_by_hand(model, x, y, loss_fn, optimizer, scaler, max_norm):
    for p in model.parameters():
        p.grad = None
    kind = x.device.type
    with torch.amp.autocast(kind, dtype={"cpu": torch.bfloat16, "cuda": torch.float16}[kind], cache_enabled=False):
        out = model(x)
        loss = loss_fn(out, y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
    finite = not scaler.is_enabled() or all(p.grad.isfinite().all().item() for p in model.parameters())
    if norm > max_norm:
        for p in model.parameters():
            p.grad *= max_norm / norm
    scaler.step(optimizer)
    scaler.update()
    return {"skipped": not finite, "grad_norm": norm, "loss": float(loss)}


@alternative("train_step_amp")
def hooks_the_optimizer(model, x, y, loss_fn, optimizer, scaler, max_norm):
    steps = []
    handle = optimizer.register_step_post_hook(lambda *args: steps.append(1))
    optimizer.zero_grad(set_to_none=False)
    autocast = torch.autocast(x.device.type, dtype=torch.float16 if x.is_cuda else torch.bfloat16)
    loss = autocast(lambda: loss_fn(model(x), y))()
    torch.autograd.backward(scaler.scale(loss))
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=False))
    scaler.step(optimizer)
    scaler.update()
    handle.remove()
    return {"loss": loss.detach().float().item(), "grad_norm": norm, "skipped": not steps}


@alternative("train_step_amp")
def asks_the_scaler_for_infs(model, x, y, loss_fn, optimizer, scaler, max_norm):
    device_type = x.device.type
    with torch.amp.autocast(device_type=device_type, dtype=torch.float16 if device_type == "cuda" else torch.bfloat16):
        prediction = model(x)
        loss = loss_fn(prediction, y)
    model.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm).item()
    found = sum(inf.item() for inf in scaler._found_inf_per_device(optimizer).values()) if scaler.is_enabled() else 0
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.item(), "grad_norm": grad_norm, "skipped": found > 0}


# data_parallel_forward


def _swap(model, tensors):
    """Put tensors in the places of parameters and buffers; returns what was there."""
    own = []
    for module in model.modules():
        for slots in (module._parameters, module._buffers):
            for name, tensor in list(slots.items()):
                if tensor is not None:
                    own.append((slots, name, tensor))
                    slots[name] = tensors(tensor)
    return own


@alternative("data_parallel_forward")
def with_swapped_tensors(model, x, devices):
    if len(devices) == 0:
        raise ValueError("no devices")
    size, extra = divmod(len(x), len(devices))
    start, outputs = 0, []
    for i, device in enumerate(devices):
        stop = start + size + (i < extra)
        if stop > start:
            own = _swap(model, lambda tensor, device=device: tensor.to(device))
            try:
                outputs.append(model(x[start:stop].to(device)).to(devices[0]))
            finally:
                for slots, name, tensor in own:
                    slots[name] = tensor
        start = stop
    return torch.cat(outputs)


@alternative("data_parallel_forward")
def with_rewired_deep_copies(model, x, devices):
    if not devices:
        raise ValueError("devices")
    replicas = []
    for device in devices[: len(x)]:
        replica = copy.deepcopy(model)
        for original, twin in zip(model.modules(), replica.modules(), strict=True):
            for name, p in original._parameters.items():
                del twin._parameters[name]
                object.__setattr__(twin, name, None if p is None else p.to(device))
                twin._buffers[name] = None if p is None else p.to(device)
            for name, buffer in original._buffers.items():
                twin._buffers[name] = None if buffer is None else buffer.to(device)
        replicas.append(replica)
    pieces = [piece.to(device) for piece, device in zip(x.tensor_split(len(devices)), devices, strict=True) if piece.shape[0] > 0]
    outputs = [replica(piece) for replica, piece in zip(replicas, pieces, strict=True)]
    return torch.concat([output.to(devices[0]) for output in outputs], dim=0)


@alternative("data_parallel_forward")
def splits_by_sizes(model, x, devices):
    n = len(devices)
    if n < 1:
        raise ValueError("at least one device")
    sizes = [(len(x) + n - 1 - i) // n for i in range(n)]
    target, results = torch.device(devices[0]), []
    for part, device in zip(torch.split(x, sizes), map(torch.device, devices), strict=True):
        if part.size(0) == 0:
            break
        weights = {key: value.to(device) for key, value in model.named_parameters()}
        statistics = {key: value.to(device) for key, value in model.named_buffers()}
        results.append(torch.func.functional_call(model, (weights, statistics), part.to(device)))
    outputs = [result.to(target) for result in results]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=0)


# offload_forward


@contextlib.contextmanager
def _visiting(layer, device):
    own = _swap(layer, lambda tensor: tensor.detach().to(device))
    try:
        yield
    finally:
        for slots, name, tensor in own:
            slots[name] = tensor


@alternative("offload_forward")
def with_a_context_manager(layers, x, device):
    x = x.detach().to(device)
    for layer in layers:
        with torch.no_grad(), _visiting(layer, device):
            x = layer(x)
    return x


@alternative("offload_forward")
def with_deep_copies(layers, x, device):
    with torch.no_grad():
        x = x.to(device)
        for layer in layers:
            visitor = copy.deepcopy(layer).to(device)
            x = visitor(x)
            del visitor
    return x


@alternative("offload_forward")
@torch.inference_mode()
def in_inference_mode(layers, x, device):
    def there(tensors):
        return {name: tensor.to(device) for name, tensor in tensors}

    out = x.to(device)
    for layer in layers:
        out = torch.func.functional_call(layer, (there(layer.named_parameters()), there(layer.named_buffers())), args=(out,))
    return out


# copy_async


def _to_cuda(batch, device, stream):
    current = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device) if stream is None else stream
    stream.wait_event(current.record_event())
    sent = {}

    def send(source):
        if id(source) not in sent:
            plain = source.detach()
            ready = plain if plain.is_cuda or plain.is_pinned() else plain.pin_memory()
            target = torch.empty(ready.shape, dtype=ready.dtype, device=device)
            sent[id(source)] = target.copy_(ready, non_blocking=True)
            target.record_stream(current)
            if plain.is_cuda:
                plain.record_stream(stream)
        return sent[id(source)]

    event = torch.cuda.Event()
    with torch.cuda.stream(stream):
        copies = tree_map_only(Tensor, send, batch)
        event.record(stream)
    return copies, event


@alternative("copy_async")
def with_tree_map_and_clones(batch, device, stream=None):
    device = torch.device(device)
    if device.type == "cuda":
        return _to_cuda(batch, device, stream)
    sources, copies = [], []

    def send(tensor):
        for source, sent in zip(sources, copies, strict=True):
            if source is tensor:
                return sent
        sources.append(tensor)
        copies.append(tensor.detach().clone() if tensor.device == device else tensor.detach().to(device))
        return copies[-1]

    return tree_map_only(Tensor, send, batch), None


@alternative("copy_async")
def with_empty_targets(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return _to_cuda(batch, torch.device(device), stream)
    sent = {}

    def walk(value):
        match value:
            case Tensor():
                if id(value) not in sent:
                    with torch.no_grad():
                        sent[id(value)] = torch.empty(value.shape, dtype=value.dtype, device=device).copy_(value)
                return sent[id(value)]
            case dict():
                return dict(zip(value, map(walk, value.values()), strict=True))
            case list():
                return list(map(walk, value))
            case tuple():
                return tuple(map(walk, value))
        return value

    return walk(batch), None


@alternative("copy_async")
def with_flat_batches(batch, device, stream=None):
    if torch.device(device).type == "cuda":
        return _to_cuda(batch, torch.device(device), stream)
    leaves, spec = tree_flatten(batch)
    sources = {id(value): value for value in leaves if torch.is_tensor(value)}
    copies = {key: torch.empty_like(source, device=device, requires_grad=False) for key, source in sources.items()}
    with torch.no_grad():
        for key, source in sources.items():
            copies[key].copy_(source)
    return tree_unflatten([copies.get(id(value), value) for value in leaves], spec), None
