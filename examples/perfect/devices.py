"""Third way, from the stub alone."""

import copy
import torch
from torch import Tensor, nn


def pick_device(available, preferred=("cuda", "mps", "cpu")):
    parsed = []
    for w in preferred:
        if isinstance(w, str):
            try:
                w = torch.device(w)
            except RuntimeError:
                raise ValueError(w)
        parsed.append(w)
    while parsed:
        w = parsed.pop(0)
        if w.type == "cpu":
            return w
        n = available[w.type] if w.type in available else 0
        if n and (w.index is None or w.index < n):
            return w
    return torch.device("cpu")


def move_to(tree, device):
    if torch.is_tensor(tree):
        return tree.to(device)
    if isinstance(tree, dict):
        out = {}
        for k in tree:
            out[k] = move_to(tree[k], device)
        return out
    if isinstance(tree, tuple):
        parts = tuple(move_to(v, device) for v in tree)
        return tree.__class__(**dict(zip(tree._fields, parts))) if hasattr(tree, "_fields") else parts
    if isinstance(tree, list):
        return [move_to(v, device) for v in tree]
    return tree


def mask_like_scores(scores, lengths, *, causal=False):
    B, H, T, S = scores.size()
    if list(lengths.shape) != [B]:
        raise ValueError
    dev = scores.device
    k = torch.arange(S, device=dev).reshape(1, 1, S)
    limit = lengths.to(dev, non_blocking=True).reshape(B, 1, 1).expand(B, T, 1)
    if causal:
        q = torch.arange(T, device=dev).reshape(1, T, 1) + (S - T) + 1
        limit = torch.minimum(limit, q)
    out = torch.zeros((B, T, S), device=dev, dtype=scores.dtype)
    return torch.zeros_like(out).masked_fill(k >= limit, float("-inf")).unsqueeze(1)


class Standardize(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def _check(self, x):
        if x.ndim != 4 or x.shape[1] != self.mean.shape[0]:
            raise ValueError("shape")

    def fit(self, x):
        self._check(x)
        with torch.no_grad():
            x = x.to(self.mean.dtype)
            channels = x.transpose(0, 1).flatten(1)
            mean = channels.mean(1)
            std = ((channels - mean[:, None]) ** 2).mean(1).sqrt()
            std[(channels == channels[:, :1]).all(1)] = 1
            self.mean[:] = mean
            self.std[:] = std
        return self

    def forward(self, x):
        self._check(x)
        return torch.stack([(x[:, c].to(self.mean.dtype) - self.mean[c]) / self.std[c] for c in range(x.shape[1])], 1)


def module_memory(module, optimizer=None):
    out = {"parameters": {}, "buffers": {}, "gradients": {}, "optimizer": {}}

    def add(kind, t):
        if isinstance(t, Tensor):
            d = out[kind]
            d[str(t.dtype)] = d.get(str(t.dtype), 0) + t.numel() * t.element_size()

    for p in module.parameters():
        add("parameters", p)
        add("gradients", p.grad)
        if optimizer is not None and p in optimizer.state:
            for v in optimizer.state[p].values():
                add("optimizer", v)
    for b in module.buffers():
        add("buffers", b)
    return out


def autocast_forward(model, x):
    kinds = {"cpu": torch.bfloat16, "cuda": torch.float16}
    try:
        dtype = kinds[x.device.type]
    except KeyError:
        raise ValueError(x.device)
    with torch.autocast(device_type=x.device.type, dtype=dtype, cache_enabled=False):
        out = model(x)
    return out.float()


def train_step_amp(model, x, y, loss_fn, optimizer, scaler, max_norm):
    dt = x.device.type
    model.zero_grad()
    with torch.autocast(dt, dtype=torch.bfloat16 if dt == "cpu" else torch.float16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(list(model.parameters()), max_norm)
    s = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return dict(loss=loss.item(), grad_norm=norm.item(), skipped=s > scaler.get_scale())


def data_parallel_forward(model, x, devices):
    if len(devices) == 0:
        raise ValueError
    outs = []
    for part, dev in zip(torch.tensor_split(x, len(devices)), devices):
        if part.shape[0] == 0:
            continue
        state = {k: v.to(dev) for k, v in model.named_parameters()}
        state.update({k: v.to(dev) for k, v in model.named_buffers()})
        outs.append(torch.func.functional_call(model, state, part.to(dev)).to(devices[0]))
    return torch.cat(outs, 0)


@torch.no_grad()
def offload_forward(layers, x, device):
    x = x.to(device)
    for layer in layers:
        x = _one(layer, x, device)
    return x


def _one(layer, x, device):
    state = {k: v.to(device) for k, v in layer.named_parameters()}
    state.update({k: v.to(device) for k, v in layer.named_buffers()})
    return torch.func.functional_call(layer, state, (x,))


def copy_async(batch, device, stream=None):
    device = torch.device(device)
    memo = {}
    cuda = device.type == "cuda"
    if cuda:
        cur = torch.cuda.current_stream(device)
        stream = stream if stream is not None else torch.cuda.Stream(device)
        stream.wait_stream(cur)

    def one(t):
        key = id(t)
        if key not in memo:
            d = t.detach()
            if cuda:
                with torch.cuda.stream(stream):
                    if d.device.type == "cpu" and not d.is_pinned():
                        d = d.pin_memory()
                    c = torch.empty_like(d, device=device)
                    c.copy_(d, non_blocking=True)
                    c.record_stream(cur)
                    if d.is_cuda:
                        d.record_stream(stream)
            else:
                c = torch.empty_like(d, device=device)
                c.copy_(d)
            memo[key] = c
        return memo[key]

    def rec(v):
        if isinstance(v, Tensor):
            return one(v)
        if isinstance(v, dict):
            return {k: rec(w) for k, w in v.items()}
        if isinstance(v, (list, tuple)):
            return type(v)([rec(w) for w in v])
        return v

    out = rec(batch)
    if not cuda:
        return out, None
    ev = torch.cuda.Event()
    ev.record(stream)
    return out, ev
