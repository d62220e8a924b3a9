"""A submission with all tasks of interpretability solved, in another style than the reference's."""

import math
from contextlib import ExitStack

import torch
from torch import nn
from torch.nn import functional as F


def slopes_of(model, x, target):
    """The slope of each sample's score, without touching any other gradient."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_(True)
        chosen = model(x)[torch.arange(len(x)), target]
        (slopes,) = torch.autograd.grad(chosen, x, torch.ones_like(chosen))
    return slopes


def saliency(model, x, target):
    """Note all modes, switch to eval, and put them back whatever happens."""
    if target.dim() != 1 or target.shape[0] != x.shape[0]:
        raise ValueError("one class for each sample is needed")
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
            module.training = False
        return slopes_of(model, x, target).abs()


def integrated_gradients(model, x, target, *, baseline=None, steps=50, max_rows=None):
    """Walk through a list of all points, a call's worth at a time."""
    if steps < 1:
        raise ValueError("steps must be at least 1")
    if max_rows is not None and max_rows < 1:
        raise ValueError("max_rows must be at least 1")
    if target.shape != (x.shape[0],):
        raise ValueError("one class for each sample is needed")
    x = x.detach()
    start = torch.zeros_like(x) if baseline is None else torch.broadcast_to(baseline.detach(), x.shape)
    total, todo = torch.zeros_like(x), [(b, k) for b in range(len(x)) for k in range(steps)]
    size = max_rows or 64
    for first in range(0, len(todo), size):
        b, k = torch.tensor(todo[first : first + size]).unbind(1)
        share = ((k.to(x.dtype) + 0.5) / steps).reshape(-1, *[1] * (x.dim() - 1))
        total.index_add_(0, b, slopes_of(model, torch.lerp(start[b], x[b], share), target[b]))
    return (x - start) * total / steps


def smooth_grad(model, x, target, noise, *, level=0.15, kind="mean"):
    """Collect the slopes copy by copy."""
    if kind not in {"mean", "square", "variance"}:
        raise ValueError(f"{kind} is no kind")
    if noise.dim() != x.dim() + 1 or noise.shape[1:] != x.shape:
        raise ValueError("the noise has the wrong shape")
    axes = tuple(range(1, x.dim()))
    low, high = torch.aminmax(x.detach().reshape(len(x), -1), dim=1)
    width = (level * (high - low)).reshape(-1, *[1] * len(axes))
    g = torch.stack([slopes_of(model, x + width * copy, target) for copy in noise.detach()])
    if kind == "mean":
        return g.mean(0)
    centre = g.mean(0) if kind == "variance" else 0.0
    return (g - centre).pow(2).mean(0)


def grad_cam(model, layer, x, target):
    """Hand on a copy of the maps, and ask for the gradient of the maps themselves."""
    maps = []

    def hand_on_a_copy(_, __, output):
        maps.append(output)
        return torch.clone(output)

    with ExitStack() as stack:
        stack.callback(layer.register_forward_hook(hand_on_a_copy).remove)
        scores = model(x.detach().clone().requires_grad_(True))
    chosen = scores[torch.arange(len(x)), target]
    (slopes,) = torch.autograd.grad(chosen.sum(), maps)
    with torch.no_grad():
        heat = torch.einsum("bnhw,bn->bhw", maps[0], slopes.mean(dim=(-2, -1)))
        return F.interpolate(heat.relu()[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def occlusion(model, x, target, *, window, stride, baseline=0.0):
    """Make a mask for each window first, then cover with one after the other."""
    sides = []
    for size, wide, step in zip(x.shape[2:], window, stride, strict=True):
        if step < 1 or wide < step or size < wide:
            raise ValueError("window and stride do not fit the image")
        first, marks = 0, []
        while True:
            marks.append((torch.arange(size) >= first) & (torch.arange(size) < first + wide))
            if first + wide >= size:
                break
            first += step
        sides.append(marks)
    masks = [row[:, None] & column for row in sides[0] for column in sides[1]]
    fill = baseline if torch.is_tensor(baseline) else torch.full((), baseline, dtype=x.dtype)
    at = torch.arange(len(x)), target
    whole, heat = model(x)[at], torch.zeros_like(x[:, 0])
    for mask in masks:
        drop = whole - model(torch.where(mask, fill, x))[at]
        heat += torch.where(mask, drop[:, None, None], 0.0)
    return heat / torch.stack(masks).sum(0)


@torch.no_grad()
def shapley_values(model, x, baseline, *, orders=None):
    """Exact: one pass over all sets for each feature. With orders: one batch for each."""
    d = x.shape[0]
    shares = torch.zeros_like(x)
    if orders is None:
        if d > 10:
            raise ValueError("too many features for all sets")
        numbers = torch.arange(2**d)
        member = torch.stack([numbers.bitwise_and(1 << i) != 0 for i in range(d)], dim=1)
        v, size = model(torch.where(member, x, baseline)), member.sum(1)
        fact = [float(math.factorial(n)) for n in range(d + 1)]
        for i in range(d):
            without = numbers[~member[:, i]]
            w = [fact[n] * fact[d - n - 1] / fact[d] for n in size[without].tolist()]
            shares[i] = torch.dot(torch.tensor(w, dtype=x.dtype), v[without + (1 << i)] - v[without])
        return shares
    for order in orders.tolist():
        if sorted(order) != list(range(d)):
            raise ValueError("an order is no permutation")
    for order in orders:
        samples = [baseline]
        for i in order.tolist():
            samples.append(torch.where(torch.arange(d) == i, x, samples[-1]))
        v = model(torch.stack(samples))
        shares[order] += v[1:] - v[:-1]
    return shares / len(orders)


@torch.no_grad()
def logit_lens(model, ids):
    """Turn each copy of the stream into logits afterwards."""
    stream = []
    with ExitStack() as stack:
        entry = model.blocks[0].register_forward_pre_hook(lambda _, args: stream.append(torch.clone(args[0])))
        stack.callback(entry.remove)
        for block in model.blocks:

            def look(_, __, out):
                stream.append(torch.clone(out if isinstance(out, torch.Tensor) else out[0]))

            stack.callback(block.register_forward_hook(look).remove)
        model(ids)
    return torch.stack(tuple(model.head(model.norm(h)) for h in stream))


@torch.no_grad()
def activation_patch(model, clean, corrupt, metric, *, num_heads):
    """Run with hooks from a dict of layer and function."""
    if clean.shape != corrupt.shape:
        raise ValueError("the prompts must have the same shape")

    def run(ids, hooks):
        with ExitStack() as stack:
            for layer, hook in hooks.items():
                stack.callback(layer.register_forward_pre_hook(hook).remove)
            return metric(model(ids))

    layers, heads = [block.attn.out_proj for block in model.blocks], {}

    def remember(layer, args):
        heads[layer] = torch.clone(args[0])

    best, worst = run(clean, dict.fromkeys(layers, remember)), run(corrupt, {})
    if float(best) == float(worst):
        raise ValueError("both prompts give the same metric")

    def effect(layer, head, t):
        def hand_over(_, args):
            z = torch.clone(args[0])
            for b in range(len(z)):
                z[b, t].view(num_heads, -1)[head] = heads[layer][b, t].view(num_heads, -1)[head]
            return (z,)

        return (run(corrupt, {layer: hand_over}) - worst) / (best - worst)

    T = clean.shape[1]
    rows = [torch.stack([effect(layer, head, t) for t in range(T)]) for layer in layers for head in range(num_heads)]
    return torch.stack(rows).unflatten(0, (len(layers), num_heads))


class SparseAutoencoder(nn.Module):
    """Two matrices, two biases."""

    def __init__(self, d, m, *, l1, generator):
        super().__init__()
        directions = torch.randn((m, d), generator=generator)
        directions = directions / directions.pow(2).sum(1, keepdim=True).sqrt()
        self.price = l1
        self.W_dec = nn.Parameter(directions.clone())
        self.W_enc = nn.Parameter(directions.t().clone())
        self.b_enc = nn.Parameter(torch.zeros(m))
        self.b_dec = nn.Parameter(torch.zeros(d))

    def forward(self, x):
        """Reconstruction and features."""
        features = torch.matmul(x - self.b_dec, self.W_enc).add(self.b_enc).clamp(min=0)
        return torch.matmul(features, self.W_dec).add(self.b_dec), features

    def loss(self, x):
        """Squared error and price, each summed over its axis, then averaged."""
        again, features = self.forward(x)
        return (again - x).pow(2).sum(dim=-1).mean() + self.price * features.sum(dim=-1).mean()

    @torch.no_grad()
    def remove_parallel_gradient(self):
        """Leave what is at a right angle to each row."""
        if self.W_dec.grad is not None:
            unit = self.W_dec / torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True)
            along = (unit * self.W_dec.grad).sum(dim=1, keepdim=True)
            self.W_dec.grad.sub_(along * unit)

    @torch.no_grad()
    def normalize_decoder(self):
        """Divide each row by its length."""
        self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))
