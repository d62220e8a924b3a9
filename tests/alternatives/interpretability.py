"""Other correct answers to the tasks of interpretability: the hidden suite must accept every one."""

import itertools
import math
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F

from grader.testing import alternative

# saliency


@contextmanager
def _evaluating(model):
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@alternative("saliency")
def saliency_as_in_captum(forward_func, inputs, target):
    if tuple(target.shape) != (inputs.shape[0],):
        raise ValueError("one target for each example")
    with _evaluating(forward_func), torch.autograd.set_grad_enabled(True):
        leaf = inputs.detach().clone().requires_grad_(True)
        outputs = forward_func(leaf)
        chosen = torch.gather(outputs, 1, target.reshape(len(outputs), 1)).squeeze(1)
        gradients = torch.autograd.grad(torch.unbind(chosen), leaf)[0]
    return torch.abs(gradients)


@alternative("saliency")
def saliency_sample_by_sample(model, x, target):
    if target.dim() != 1 or len(target) != len(x):
        raise ValueError("target")
    maps = []
    with _evaluating(model), torch.enable_grad():
        for sample, c in zip(x.detach(), target.tolist(), strict=True):
            one = sample[None].clone().requires_grad_()
            maps.append(torch.autograd.grad(model(one)[0, c], one)[0][0].abs())
    return torch.stack(maps)


@alternative("saliency")
def saliency_by_a_one_hot_product(model, x, target):
    if target.shape != (len(x),):
        raise ValueError("target")
    with _evaluating(model), torch.enable_grad():
        point = x.detach().requires_grad_()
        scores = model(point)
        weights = torch.zeros_like(scores)
        weights[torch.arange(len(x)), target] = 1
        (slopes,) = torch.autograd.grad(scores, point, grad_outputs=weights)
    return slopes.abs()


# integrated_gradients


@alternative("integrated_gradients")
def integrated_as_in_captum(forward_func, inputs, target, *, baseline=None, steps=50, max_rows=None):
    """method="riemann_middle", internal_batch_size: step sizes and alphas in lists, scaled features, and a weighted sum."""
    if steps < 1 or (max_rows is not None and max_rows < 1) or target.shape != inputs.shape[:1]:
        raise ValueError("n_steps, internal_batch_size or target")
    inputs = inputs.detach()
    baselines = torch.zeros_like(inputs) if baseline is None else baseline.detach()
    step_sizes = [1 / steps] * steps
    alphas = list(np.linspace(1 / (2 * steps), 1 - 1 / (2 * steps), steps)) if steps > 1 else [0.5]
    scaled = torch.cat([baselines + alpha * (inputs - baselines) for alpha in alphas], dim=0)
    expanded = torch.cat([target] * steps)
    grads = []
    for begin in range(0, len(scaled), max_rows or len(scaled)):
        end = begin + (max_rows or len(scaled))
        part = scaled[begin:end].requires_grad_()
        outputs = forward_func(part)
        grads.append(torch.autograd.grad(outputs[torch.arange(len(outputs)), expanded[begin:end]].sum(), part)[0])
    weights = torch.tensor(step_sizes, dtype=inputs.dtype).view(steps, 1)
    scaled_grads = torch.cat(grads).contiguous().view(steps, -1) * weights
    total = scaled_grads.view(steps, *inputs.shape).sum(0)
    return total * (inputs - baselines)


@alternative("integrated_gradients")
def integrated_sample_by_sample(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if steps < 1 or target.shape != x.shape[:1]:
        raise ValueError("steps or target")
    if max_rows is not None and max_rows < 1:
        raise ValueError("max_rows")
    start = (x.new_zeros(()) if baseline is None else baseline).detach().broadcast_to(x.shape)
    out = torch.empty(x.shape, dtype=x.dtype)
    for b in range(len(x)):
        total = torch.zeros(x.shape[1:], dtype=x.dtype)
        for k in range(steps):
            point = torch.lerp(start[b], x[b].detach(), (k + 0.5) / steps)[None].requires_grad_()
            total += torch.autograd.grad(model(point)[0, target[b]], point)[0][0]
        out[b] = total / steps * (x[b].detach() - start[b])
    return out


@alternative("integrated_gradients")
def integrated_with_a_running_sum(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if steps < 1 or (max_rows is not None and max_rows < 1) or target.shape != x.shape[:1]:
        raise ValueError
    x = x.detach()
    x0 = torch.zeros_like(x) if baseline is None else baseline.detach().expand(x.shape)
    B, total = len(x), torch.zeros_like(x)
    for rows in torch.arange(steps * B).split(max_rows or 17):
        b, k = rows % B, rows // B
        alpha = ((2 * k + 1).to(x.dtype) / (2 * steps)).view(-1, *[1] * (x.dim() - 1))
        point = ((1 - alpha) * x0[b] + alpha * x[b]).requires_grad_()
        scores = model(point)[torch.arange(len(rows)), target[b]]
        total.index_add_(0, b, torch.autograd.grad(scores.sum(), point)[0])
    return (x - x0) * total / steps


# smooth_grad


def _plain(model, x, target):
    point = x.detach().clone().requires_grad_()
    return torch.autograd.grad(model(point).gather(1, target.unsqueeze(1)).sum(), point)[0]


@alternative("smooth_grad")
def smooth_as_in_captum(model, inputs, target, noise, *, level=0.15, kind="mean"):
    """NoiseTunnel: one sum of attributions and one of their squares."""
    if kind not in ("mean", "square", "variance"):
        raise ValueError("nt_type")
    if noise.dim() != inputs.dim() + 1 or noise.shape[1:] != inputs.shape:
        raise ValueError("noise")
    inputs = inputs.detach()
    dims = tuple(range(1, inputs.dim()))
    stdevs = level * (inputs.amax(dims, keepdim=True) - inputs.amin(dims, keepdim=True))
    sum_attributions, sum_squares = torch.zeros_like(inputs), torch.zeros_like(inputs)
    for one in noise.detach():
        attributions = _plain(model, inputs + stdevs * one, target)
        sum_attributions += attributions
        sum_squares += attributions**2
    expected, expected_squared = sum_attributions / len(noise), sum_squares / len(noise)
    if kind == "mean":
        return expected
    return expected_squared if kind == "square" else expected_squared - expected * expected


@alternative("smooth_grad")
def smooth_in_a_table(model, x, target, noise, *, level=0.15, kind="mean"):
    ways = {
        "mean": lambda g: g.mean(0),
        "square": lambda g: (g**2).mean(0),
        "variance": lambda g: ((g - g.mean(0, keepdim=True)) ** 2).mean(0),
    }
    if kind not in ways or noise.shape[1:] != x.shape:
        raise ValueError("kind or noise")
    rows = x.detach().reshape(len(x), -1)
    sigma = level * (rows.max(1).values - rows.min(1).values)
    g = torch.stack([_plain(model, x + sigma.reshape(-1, *[1] * (x.dim() - 1)) * n, target) for n in noise])
    return ways[kind](g)


# grad_cam


@alternative("grad_cam")
def cam_as_in_captum(model, layer, inputs, target):
    """LayerGradCam with relu_attributions=True, then LayerAttribution.interpolate: the hook hands on clones."""
    saved = {}

    def forward_hook(module, inp, out):
        saved[module] = out
        return out.clone()

    hook = None
    try:
        hook = layer.register_forward_hook(forward_hook)
        with torch.autograd.set_grad_enabled(True):
            output = model(inputs.detach().clone().requires_grad_())
    finally:
        if hook is not None:
            hook.remove()
    selected = torch.gather(output, 1, target.reshape(len(output), 1))
    layer_gradients = torch.autograd.grad(torch.unbind(selected), saved[layer])
    summed = tuple(torch.mean(g, dim=tuple(x for x in range(2, len(g.shape))), keepdim=True) for g in layer_gradients)
    scaled = tuple(torch.sum(s * saved[layer].detach(), dim=1, keepdim=True) for s in summed)
    return F.interpolate(F.relu(scaled[0]), inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]


@alternative("grad_cam")
def cam_by_a_shift_of_zero(model, layer, x, target):
    """Adds a tensor of zeros to the layer's output, and takes the gradient with respect to these."""
    seen = []

    def shift(module, args, output):
        zeros = torch.zeros_like(output, requires_grad=True)
        seen.extend((output.detach().clone(), zeros))
        return output + zeros

    with ExitStack() as stack:
        stack.callback(layer.register_forward_hook(shift).remove)
        y = model(x.detach())
    A, zeros = seen
    (g,) = torch.autograd.grad(y[torch.arange(len(x)), target].sum(), zeros)
    weights = g.flatten(2).mean(2)
    L = torch.einsum("bk,bkhw->bhw", weights, A).clamp(min=0)
    return F.interpolate(L.unsqueeze(1), size=tuple(x.shape[-2:]), mode="bilinear", align_corners=False).squeeze(1)


@alternative("grad_cam")
def cam_image_by_image(model, layer, x, target):
    maps = []
    for image, c in zip(x, target.tolist(), strict=True):
        kept = []
        handle = layer.register_forward_hook(lambda module, args, out, kept=kept: kept.append(out) or out.clone())
        try:
            score = model(image.detach()[None].requires_grad_())[0, c]
        finally:
            handle.remove()
        (g,) = torch.autograd.grad(score, kept)
        L = sum(g[0, k].mean() * kept[0][0, k].detach() for k in range(g.shape[1])).relu()
        maps.append(nn.Upsample(size=x.shape[2:], mode="bilinear")(L[None, None])[0, 0])
    return torch.stack(maps)


# occlusion


@alternative("occlusion")
def occlusion_as_in_captum(forward_func, inputs, target, *, window, stride, baseline=0.0):
    """Shift counts, a padded window as mask, weighted sums: as FeatureAblation does it for Occlusion."""
    sizes = inputs.shape[2:]
    for s, w, n in zip(stride, window, sizes, strict=True):
        if s < 1 or s > w or w > n:
            raise ValueError("strides or sliding_window_shapes")
    inputs = inputs.detach()
    shift_counts = [math.ceil((n - w) / s) + 1 for n, w, s in zip(sizes, window, stride, strict=True)]
    with torch.no_grad():
        initial = forward_func(inputs).gather(1, target.unsqueeze(1))
        total, weights = torch.zeros_like(inputs[:, :1]), torch.zeros(1, 1, *sizes, dtype=inputs.dtype)
        for number in range(math.prod(shift_counts)):
            index = [(number % shift_counts[0]) * stride[0], (number // shift_counts[0]) * stride[1]]
            padding = [n - i - w for n, i, w in zip(sizes, index, window, strict=True)]
            mask = F.pad(torch.ones(window), (index[1], padding[1], index[0], padding[0]))[None, None]
            ablated = torch.where(mask == 1, torch.as_tensor(baseline, dtype=inputs.dtype), inputs)
            difference = (initial - forward_func(ablated).gather(1, target.unsqueeze(1)))[..., None, None]
            total += difference * mask
            weights += mask
    return (total / weights)[:, 0]


@alternative("occlusion")
def occlusion_in_one_batch(model, x, target, *, window, stride, baseline=0.0):
    B, C, H, W = x.shape
    for size, w, s in ((H, window[0], stride[0]), (W, window[1], stride[1])):
        if not (w <= size and s <= w and s > 0):
            raise ValueError("window or stride")

    def lines(size, w, s):
        begins = torch.arange(-(-(size - w) // s) + 1) * s
        place = torch.arange(size)
        return (place >= begins[:, None]) & (place < begins[:, None] + w)

    masks = (lines(H, window[0], stride[0])[:, None, :, None] & lines(W, window[1], stride[1])[None, :, None, :]).flatten(0, 1)
    with torch.inference_mode():
        fill = baseline if isinstance(baseline, torch.Tensor) else torch.tensor(float(baseline), dtype=x.dtype)
        covered = torch.where(masks[:, None, None], fill, x)
        classes = target.repeat(len(masks) + 1)[:, None]
        scores = model(torch.cat((x, covered.reshape(-1, C, H, W)))).gather(1, classes).view(-1, B)
        drops = scores[0] - scores[1:]
        result = torch.einsum("nb,nhw->bhw", drops, masks.to(drops.dtype)) / masks.sum(0)
    return result.clone()


# shapley_values


@alternative("shapley_values")
def shapley_as_in_captum(forward_func, inputs, baselines, *, orders=None):
    """ShapleyValueSampling: one permutation after the other, one feature after the other; ShapleyValues takes all of them."""
    d = inputs.numel()
    if orders is None:
        if d > 10:
            raise ValueError("too many features")
        if d > 7:  # all permutations of more features take too long
            return _shapley_by_recursion(forward_func, inputs, baselines)
        permutations = list(itertools.permutations(range(d)))
    else:
        permutations = orders.tolist()
        if any(sorted(p) != list(range(d)) for p in permutations):
            raise ValueError("feature permutation")
    known = {}

    def evaluate(current, chosen):
        if chosen not in known:
            known[chosen] = forward_func(current[None])[0]
        return known[chosen]

    total = torch.zeros_like(inputs)
    with torch.no_grad():
        for permutation in permutations:
            current, chosen = baselines.clone(), frozenset()
            previous = evaluate(current, chosen)
            for i in permutation:
                current[i] = inputs[i]
                chosen |= {i}
                modified = evaluate(current, chosen)
                total[i] += modified - previous
                previous = modified
    return total / len(permutations)


def _shapley_by_recursion(model, x, baseline):
    """Harsanyi's dividends: what each set adds beyond its parts is shared out equally."""
    d = len(x)
    numbers = np.arange(2**d)
    bits = torch.from_numpy((numbers[:, None] >> np.arange(d)) & 1).bool()
    with torch.no_grad():
        dividends = model(torch.where(bits, x, baseline)).clone()
    for i in range(d):
        table = dividends.view(-1, 2, 2**i)
        table[:, 1] -= table[:, 0]
    size = bits.sum(1).clamp(min=1).to(x.dtype)
    return (bits.to(x.dtype) * (dividends / size)[:, None]).sum(0)


@alternative("shapley_values")
def shapley_by_dividends(model, x, baseline, *, orders=None):
    d = x.shape[0]
    if orders is None:
        if d > 10:
            raise ValueError("orders are needed")
        return _shapley_by_recursion(model, x, baseline)
    if orders.shape[1] != d or not torch.equal(torch.sort(orders, dim=1)[0], torch.arange(d).repeat(len(orders), 1)):
        raise ValueError("orders")
    gains = torch.zeros_like(x)
    with torch.inference_mode():
        for order in orders:
            samples = baseline.repeat(d + 1, 1)
            for step, i in enumerate(order):
                samples[step + 1 :, i] = x[i]
            v = model(samples)
            gains = gains.index_add(0, order, v[1:] - v[:-1])
    return gains.clone() / orders.shape[0]


@alternative("shapley_values")
def shapley_by_loops_over_sets(model, x, baseline, *, orders=None):
    features = range(len(x))
    if orders is None and len(x) > 10:
        raise ValueError(len(x))
    if orders is not None and any(set(order) != set(features) or len(order) != len(x) for order in orders.tolist()):
        raise ValueError(orders)
    known = {}

    def v(members):
        key = tuple(sorted(members))
        if key not in known:
            sample = baseline.detach().clone()
            sample[list(key)] = x.detach()[list(key)]
            with torch.no_grad():
                known[key] = model(sample.unsqueeze(0)).item()
        return known[key]

    shares = [0.0] * len(x)
    if orders is None:
        for i in features:
            others = [j for j in features if j != i]
            for n in range(len(x)):
                w = math.factorial(n) * math.factorial(len(x) - n - 1) / math.factorial(len(x))
                for members in itertools.combinations(others, n):
                    shares[i] += w * (v((*members, i)) - v(members))
        return torch.tensor(shares, dtype=x.dtype)
    for order in orders.tolist():
        for n, i in enumerate(order):
            shares[i] += (v(order[: n + 1]) - v(order[:n])) / len(orders)
    return torch.tensor(shares, dtype=x.dtype)


# logit_lens


@alternative("logit_lens")
@torch.no_grad()
def lens_with_an_exit_stack(model, ids):
    cache = {}

    def before(name):
        def hook(module, args):
            cache[name] = args[0].detach().clone()

        return hook

    def after(name):
        def hook(module, args, out):
            hidden = out if torch.is_tensor(out) else out[0]
            cache[name] = hidden.detach().clone()

        return hook

    with ExitStack() as stack:
        first = model.blocks[0].register_forward_pre_hook(before(0))
        stack.callback(first.remove)
        for k, block in enumerate(model.blocks, start=1):
            stack.callback(block.register_forward_hook(after(k)).remove)
        model(ids)
    streams = torch.stack([cache[k] for k in range(len(model.blocks) + 1)])
    return model.head(model.norm(streams))


@alternative("logit_lens")
def lens_inside_the_hooks(model, ids):
    logits, handles = [], []

    def read(stream):
        logits.append(model.head(model.norm(stream.clone())))

    try:
        for k, block in enumerate(model.blocks):
            if k == 0:
                handles.append(block.register_forward_pre_hook(lambda module, args, kwargs: read(args[0]), with_kwargs=True))
            handles.append(block.register_forward_hook(lambda module, args, out: read(out[0] if type(out) is tuple else out)))
        with torch.inference_mode():
            model(ids)
            result = torch.stack(logits)
    finally:
        while handles:
            handles.pop().remove()
    return result.clone()


@alternative("logit_lens")
def lens_by_inputs_of_the_next(model, ids):
    """The stream behind a block is what the next one gets; behind the last, what it gives."""
    seen, last = [], []
    handles = [block.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone())) for block in model.blocks]
    handles.append(model.blocks[-1].register_forward_hook(lambda module, args, out: last.append(out)))
    try:
        with torch.no_grad():
            final = model(ids)
    finally:
        for handle in handles:
            handle.remove()
    stream = last[0][0] if isinstance(last[0], tuple) else last[0]
    with torch.no_grad():
        logits = [model.head(model.norm(h)) for h in (*seen, stream)]
    assert logits[-1].shape == final.shape
    return torch.stack(logits)


# activation_patch


@contextmanager
def _hooked(pairs):
    """Hooks that are there for a while, as in TransformerLens."""
    handles = []
    try:
        for module, hook in pairs:
            handles.append(module.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@alternative("activation_patch")
@torch.no_grad()
def patch_as_in_transformer_lens(model, clean, corrupt, metric, *, num_heads):
    if clean.shape != corrupt.shape:
        raise ValueError("the prompts differ in shape")
    names = [f"blocks.{i}.attn.out_proj" for i in range(len(model.blocks))]
    modules = dict(model.named_modules())
    cache = {}

    def save(name):
        def hook(module, args):
            cache[name] = args[0].reshape(*args[0].shape[:2], num_heads, -1).detach().clone()

        return hook

    with _hooked([(modules[name], save(name)) for name in names]):
        clean_metric = metric(model(clean))
    corrupt_metric = metric(model(corrupt))
    if clean_metric.item() == corrupt_metric.item():
        raise ValueError("nothing to bring back")
    results = torch.zeros(len(names), num_heads, clean.shape[1], dtype=clean_metric.dtype)
    for layer, name in enumerate(names):
        for head in range(num_heads):
            for pos in range(clean.shape[1]):

                def patch_hook(module, args, name=name, head=head, pos=pos):
                    z = args[0].reshape(cache[name].shape).clone()
                    z[:, pos, head, :] = cache[name][:, pos, head, :]
                    return (z.reshape(args[0].shape),)

                with _hooked([(modules[name], patch_hook)]):
                    patched = metric(model(corrupt))
                results[layer, head, pos] = (patched - corrupt_metric) / (clean_metric - corrupt_metric)
    return results


@alternative("activation_patch")
def patch_with_one_switching_hook(model, clean, corrupt, metric, *, num_heads):
    """One hook on each layer for the whole time, told by a variable what to do."""
    if clean.shape != corrupt.shape:
        raise ValueError("shapes")
    state, kept, handles = {"do": "keep"}, [None] * len(model.blocks), []

    def hook_for(i):
        def hook(module, args):
            (z,) = args
            if state["do"] == "keep":
                kept[i] = z.clone()
            elif state["do"] and state["do"][0] == i:
                _, h, t = state["do"]
                mask = torch.zeros(z.shape[1:], dtype=torch.bool)
                width = z.shape[2] // num_heads
                mask[t, h * width : h * width + width] = True
                return torch.where(mask, kept[i], z)
            return None

        return hook

    try:
        for i, block in enumerate(model.blocks):
            handles.append(block.attn.out_proj.register_forward_pre_hook(hook_for(i)))
        with torch.no_grad():
            best = metric(model(clean))
            state["do"] = None
            worst = metric(model(corrupt))
            gap = best - worst
            if gap == 0:
                raise ValueError("gap")
            effects = []
            for i, h, t in itertools.product(range(len(kept)), range(num_heads), range(clean.shape[1])):
                state["do"] = i, h, t
                effects.append((metric(model(corrupt)) - worst) / gap)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(effects).reshape(len(kept), num_heads, -1)


@alternative("activation_patch")
@torch.no_grad()
def patch_in_one_batch(model, clean, corrupt, metric, *, num_heads):
    """All patched runs are one: row by row, each with a patch of its own."""
    if clean.shape != corrupt.shape:
        raise ValueError("shapes")
    kept, (B, T) = {}, clean.shape
    with _hooked([(block.attn.out_proj, lambda module, args: kept.update({module: args[0].clone()})) for block in model.blocks]):
        best = metric(model(clean))
    worst = metric(model(corrupt))
    if torch.equal(best, worst):
        raise ValueError("gap")
    cases = list(itertools.product(range(len(model.blocks)), range(num_heads), range(T)))

    def hook_of(i):
        def hook(module, args):
            z = args[0].clone().view(len(cases), B, T, num_heads, -1)
            for row, (k, h, t) in zip(z, cases, strict=True):
                if k == i:
                    row[:, t, h] = kept[module].view(B, T, num_heads, -1)[:, t, h]
            return z.view_as(args[0])

        return hook

    with _hooked([(block.attn.out_proj, hook_of(i)) for i, block in enumerate(model.blocks)]):
        logits = model(corrupt.repeat(len(cases), 1)).unflatten(0, (len(cases), B))
    patched = torch.stack([metric(one) for one in logits])
    return ((patched - worst) / (best - worst)).view(len(model.blocks), num_heads, T)


# SparseAutoencoder


@alternative("SparseAutoencoder")
class AsInTransformerLensDemos(nn.Module):
    """The shapes and steps of Neel Nanda's replication."""

    def __init__(self, d, m, *, l1, generator):
        super().__init__()
        start = torch.randn(m, d, generator=generator)
        start = start / start.norm(dim=-1, keepdim=True)
        self.W_enc = nn.Parameter(start.t().contiguous().clone())
        self.W_dec = nn.Parameter(start)
        self.b_enc = nn.Parameter(torch.zeros(m))
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.l1_coeff = l1

    def forward(self, x):
        x_cent = x - self.b_dec
        acts = F.relu(x_cent @ self.W_enc + self.b_enc)
        return acts @ self.W_dec + self.b_dec, acts

    def loss(self, x):
        x_reconstruct, acts = self.forward(x)
        l2_loss = (x_reconstruct - x).pow(2).sum(-1).mean()
        l1_loss = self.l1_coeff * acts.abs().sum(-1).mean()
        return l2_loss + l1_loss

    @torch.no_grad()
    def remove_parallel_gradient(self):
        if self.W_dec.grad is None:
            return
        normed = self.W_dec / self.W_dec.norm(dim=-1, keepdim=True)
        projection = (self.W_dec.grad * normed).sum(-1, keepdim=True) * normed
        self.W_dec.grad -= projection

    @torch.no_grad()
    def normalize_decoder(self):
        self.W_dec.data = self.W_dec / self.W_dec.norm(dim=-1, keepdim=True)


@alternative("SparseAutoencoder")
class RowByRow(nn.Module):
    """Linear maps by F.linear and einsum, rows in loops, the length by linalg."""

    def __init__(self, d, m, *, l1, generator):
        super().__init__()
        rows = torch.randn(m, d, generator=generator)
        rows = torch.stack([row / torch.linalg.vector_norm(row) for row in rows])
        for name, value in {"W_enc": rows.mT, "b_enc": rows.new_zeros(m), "W_dec": rows, "b_dec": rows.new_zeros(d)}.items():
            self.register_parameter(name, nn.Parameter(value.clone()))
        self._price = l1

    def forward(self, x):
        f = torch.clamp_min(F.linear(x - self.b_dec, self.W_enc.T, self.b_enc), 0)
        return torch.einsum("...m,md->...d", f, self.W_dec) + self.b_dec, f

    def loss(self, x):
        y, f = self(x)
        n = x.numel() // x.shape[-1]
        return ((x - y) ** 2).sum() / n + self._price * f.sum() / n

    def remove_parallel_gradient(self):
        if self.W_dec.grad is not None:
            new = []
            for w, g in zip(self.W_dec.detach(), self.W_dec.grad, strict=True):
                unit = w / w.norm()
                new.append(g - unit.dot(g) * unit)
            self.W_dec.grad = torch.stack(new)

    def normalize_decoder(self):
        with torch.no_grad():
            for row in self.W_dec:
                row.div_(torch.linalg.vector_norm(row))


@alternative("integrated_gradients")
def integrated_step_by_step(model, x, target, *, baseline=None, steps=50, max_rows=None):
    """One place for all samples after the other."""
    if steps < 1 or (max_rows is not None and max_rows < 1) or target.shape != x.shape[:1]:
        raise ValueError
    x = x.detach()
    start = (torch.zeros_like(x) if baseline is None else baseline.detach()).expand_as(x)
    shares = torch.zeros_like(x)
    for k in range(steps):
        point = start + (2 * k + 1) / (2 * steps) * (x - start)
        for rows in torch.arange(len(x)).split(max_rows or len(x)):
            shares[rows] += _plain(model, point[rows], target[rows])
    return shares / steps * (x - start)


@alternative("saliency")
def saliency_with_func(model, x, target):
    if target.shape != x.shape[:1]:
        raise ValueError

    def score(sample, c):
        return model(sample[None])[0].gather(0, c[None])[0]

    with _evaluating(model), torch.enable_grad():
        return vmap(grad(score))(x.detach(), target).abs().detach()
