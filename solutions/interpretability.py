"""Interpretability: ask a model why. Which parts of its input did an answer come from, and what do its layers know on the way?

Every task stands alone. In the first six, a model gives a score for each class: scores (B, K) = model(x), for samples x (B, …). The score
of class c for sample b is the number model(x)[b, c] itself, before any softmax. One call of the model may hold any number of samples.

A model is used in the mode in which it is, unless the statement says otherwise. Its parameters may be frozen. Nothing gets a gradient:
.grad of parameters and arguments stays as it is, and results have no graph. Results have the dtype of the samples, float32 or float64.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _slopes(model: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    """The gradient of each sample's score with respect to that sample. No one else needs x, which is changed to require gradients."""
    scores = model(x.requires_grad_()).gather(1, target[:, None])
    return torch.autograd.grad(scores.sum(), x)[0]  # each score depends on its own sample alone


def saliency(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """How much each entry of a sample moves the score of a class (Simonyan et al. 2014, section 3).

        saliency[b] = |∂ model(x)[b, target[b]] / ∂ x[b]|

    The score is the number before any softmax, whose slope vanishes where the model is sure.

    During the call, every module of the model is in eval mode, so that dropout drops nothing and batch norm does not mix the samples.
    Afterwards each module is in the mode in which it was, also where the model raised an error, which is passed on.

    It works inside torch.no_grad() as well.

    Args:
        model: scores (B, K) = model(x). Its modules may be in different modes.
        x: (B, …), float32 or float64, any number of axes behind the first, none too. It may require gradients.
        target: (B,), int64, 0 … K − 1, a class for each sample.

    Returns: shape and dtype of x.
    Raises: ValueError if target is not (B,).
    """
    if target.shape != x.shape[:1]:
        raise ValueError(f"target must be {tuple(x.shape[:1])}, got {tuple(target.shape)}")
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.enable_grad():
            return _slopes(model, x.detach(), target).abs()
    finally:
        for module, mode in modes.items():
            module.training = mode


def integrated_gradients(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 50,
    max_rows: int | None = None,
) -> Tensor:
    """Share out the difference between the scores of a sample and of a baseline among the entries (Sundararajan et al. 2017, section 3).

    With x' the baseline, N = steps, and F_b the score of class target[b], gradients are averaged on the straight line from x' to x, at the
    middle of each of N equal pieces:

        IG[b] = (x[b] − x'[b]) · 1/N · Σ_k ∂F_b/∂x at the point x'[b] + (k + ½) / N · (x[b] − x'[b])          k = 0 … N − 1

    So the entries of IG[b] add up to F_b(x[b]) − F_b(x'[b]), the better the more steps: for a smooth model, a thousand steps on a short
    line and float64, to 1e-6.

    No call of the model gets more than max_rows samples. The N · B points may be put into calls in any way.

    Args:
        model: scores (B, K) = model(x).
        x: (B, …), float32 or float64, any number of axes behind the first, none too.
        target: (B,), int64, 0 … K − 1.
        baseline: x', of x's dtype; broadcasts to x, so it may be one sample, with or without its first axis. None means zeros.
        steps: N, at least 1.
        max_rows: at least 1, which may be less than B; None sets no limit.

    Returns: shape and dtype of x.
    Raises: ValueError if steps or max_rows is below 1, or target is not (B,).
    """
    if steps < 1 or (max_rows is not None and max_rows < 1) or target.shape != x.shape[:1]:
        raise ValueError("steps and max_rows must be at least 1, and target (B,)")
    start = torch.zeros_like(x) if baseline is None else baseline
    path = (x - start).detach()
    place = (torch.arange(steps, dtype=x.dtype) + 0.5) / steps
    points = (start + place.reshape(-1, *[1] * x.dim()) * path).flatten(0, 1)  # (N · B, …)
    classes = target.repeat(steps)
    rows = torch.arange(len(points)).split(max_rows or len(points))
    slopes = torch.cat([_slopes(model, points[part], classes[part]) for part in rows])
    return path * slopes.unflatten(0, (steps, -1)).mean(0)


def smooth_grad(
    model: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, noise: Tensor, *, level: float = 0.15, kind: str = "mean"
) -> Tensor:
    """Look at slopes around a sample instead of at it, where they flicker less (Smilkov et al. 2017, section 3).

    For n = 0 … N − 1, let g_n[b] be the gradient of the score of class target[b], with its sign, at the point x[b] + σ_b · noise[n, b].

        "mean"        1/N · Σ_n g_n                     SmoothGrad
        "square"      1/N · Σ_n g_n²                    Hooker et al. 2019
        "variance"    1/N · Σ_n (g_n − mean)²           VarGrad, Adebayo et al. 2018; 0 for N = 1

    The width of the noise is a share of the sample's range: σ_b = level · (largest entry of x[b] − smallest entry of x[b]).

    Args:
        model: scores (B, K) = model(x).
        x: (B, …), float32 or float64, at least one axis behind the first.
        target: (B,), int64, 0 … K − 1.
        noise: (N, B, …), N ≥ 1, standard normal numbers in the dtype of x.
        level: 0 or more.
        kind: "mean", "square" or "variance".

    Returns: shape and dtype of x.
    Raises: ValueError for another kind, or if noise is not N times the shape of x.
    """
    if kind not in ("mean", "square", "variance") or noise.shape[1:] != x.shape:
        raise ValueError(f"kind {kind!r} must be mean, square or variance, and noise (N, …) in the shape of x")
    flat = x.flatten(1)
    sigma = level * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (x.dim() - 1))
    points = (x + sigma * noise).flatten(0, 1)  # (N · B, …)
    slopes = _slopes(model, points, target.repeat(len(noise))).unflatten(0, (len(noise), -1))
    if kind == "variance":
        return slopes.var(0, correction=0)
    return (slopes.square() if kind == "square" else slopes).mean(0)


def grad_cam(model: nn.Module, layer: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Where in an image a convolutional network saw a class (Selvaraju et al. 2017, section 3).

    With A (B, N, h, w) the maps that `layer` gave out, and F_b the score of class target[b]:

        a[b, n] = mean over all h · w places of ∂F_b / ∂A[b, n]          the weight of map n
        L[b] = relu(Σ_n a[b, n] · A[b, n])                               what speaks for the class, not against it

    Then L (B, h, w) is brought to the size of the images, as by F.interpolate(…, mode="bilinear", align_corners=False). It is not scaled.

    A and its gradient are those of the layer's output as it left the layer, also where the next layer, such as nn.ReLU(inplace=True),
    changes it in place. A hook that returns a copy keeps the two apart.

    The layer's hooks are afterwards what they were, also where the model raised an error, which is passed on.

    Args:
        model: scores (B, K) = model(x).
        layer: a module of the model, which is called once in a call of the model.
        x: (B, C, H, W), float32 or float64.
        target: (B,), int64, 0 … K − 1.

    Returns: (B, H, W), dtype of x.
    """
    kept = list[Tensor]()

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    try:
        scores = model(x.detach().requires_grad_()).gather(1, target[:, None])
    finally:
        handle.remove()
    A = kept[0]
    weights = torch.autograd.grad(scores.sum(), A)[0].mean((2, 3), keepdim=True)  # (B, N, 1, 1)
    L = (weights * A.detach()).sum(1, keepdim=True).relu()
    return F.interpolate(L, size=x.shape[2:], mode="bilinear").squeeze(1)


def occlusion(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    baseline: float | Tensor = 0.0,
) -> Tensor:
    """Cover a part of an image, and see how much the score falls (Zeiler & Fergus 2014, section 4.2).

    A window of `window` rows and columns is laid on all channels at once. What it covers is replaced by the baseline, so that a NaN below
    it is gone.

    The first window begins at row 0, the next ones stride[0] rows further down each; the last one is the first that reaches the lower
    edge. What would stick out of the image is cut off. Columns likewise; each choice of rows meets each choice of columns.

    For 7 rows, windows of 3 and a stride of 3, the windows cover the rows 0–2, 3–5 and 6.

    A window's drop is the score of the whole image − the score of the covered one. A pixel gets the mean drop of all windows that cover it.

    Args:
        model: scores (B, K) = model(x).
        x: (B, C, H, W), float32 or float64.
        target: (B,), int64, 0 … K − 1, the class whose score is looked at.
        window, stride: for rows and for columns.
        baseline: a number, or a tensor of x's dtype that broadcasts to x, such as a mean colour (C, 1, 1).

    Returns: (B, H, W), dtype of x.
    Raises: ValueError unless, for rows and columns, 1 ≤ stride ≤ window ≤ the image's size.
    """
    (B, _, H, W), (h, w), (down, right) = x.shape, window, stride
    if not (1 <= down <= h <= H and 1 <= right <= w <= W):
        raise ValueError(f"1 ≤ stride ≤ window ≤ size does not hold for {stride}, {window} and {(H, W)}")

    def score(images: Tensor) -> Tensor:
        return model(images).gather(1, target[:, None])[:, :, None]  # (B, 1, 1)

    cover = torch.as_tensor(baseline, dtype=x.dtype).expand_as(x)
    total, count = x.new_zeros(B, H, W), x.new_zeros(H, W)
    with torch.no_grad():
        whole = score(x)
        for top, left in itertools.product(range(0, H - h + down, down), range(0, W - w + right, right)):
            part = (..., slice(top, top + h), slice(left, left + w))
            covered = x.clone()
            covered[part] = cover[part]
            total[part] += whole - score(covered)
            count[part] += 1
    return total / count


def shapley_values(model: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, *, orders: Tensor | None = None) -> Tensor:
    """Share out a score fairly among features that may work together (Shapley 1953; Lundberg & Lee 2017, eq. 4 and 8).

    For a set S of features, v(S) is the score of the sample that has x's values for the features in S, and the baseline's for all others.
    Feature i's share is what it adds to v when it joins, averaged over all d! orders in which the d features can join one by one:

        φ_i = Σ over the sets S without i of |S|! (d − |S| − 1)! / d! · (v(S ∪ {i}) − v(S))

    There are 2^d sets. For many features, `orders` names the orders over which to average instead: in an order (2, 0, 1), feature 2 adds
    v({2}) − v({}), feature 0 adds v({0, 2}) − v({2}), and feature 1 adds v({0, 1, 2}) − v({0, 2}).

    Either way, Σ_i φ_i = v(all) − v({}).

    Args:
        model: scores (N,) = model(samples), for samples (N, d): here one number for each sample. N may be any number.
        x: (d,), d ≥ 1, float32 or float64. baseline: (d,), dtype of x.
        orders: (P, d), int64, P ≥ 1, each row a permutation of 0 … d − 1. None averages over all orders, for d ≤ 10.

    Returns: φ, (d,), dtype of x.
    Raises: ValueError if d is above 10 and there are no orders, or if a row of orders is not a permutation of 0 … d − 1.
    """
    d = len(x)
    features = torch.arange(d)
    if orders is None:
        if d > 10:
            raise ValueError(f"{d} features have too many sets: orders are needed")
        sets = ((torch.arange(2**d)[:, None] >> features) & 1).bool()  # (2^d, d): set number s holds the features that are bits of s
        with torch.no_grad():
            v = model(torch.where(sets, x, baseline))
        weight = torch.tensor([1 / (d * math.comb(d - 1, n)) for n in range(d)], dtype=x.dtype)  # for |S| = 0 … d − 1
        return torch.stack([weight[sets[~sets[:, i]].sum(1)] @ (v[sets[:, i]] - v[~sets[:, i]]) for i in range(d)])
    if not orders.sort(1).values.equal(features.expand(len(orders), d)):
        raise ValueError(f"each order must be a permutation of 0 … {d - 1}")
    place = orders.argsort(1)  # (P, d): when each feature joins
    sets = place[:, None] < torch.arange(d + 1)[:, None]  # (P, d + 1, d): who is there before each step, and at the end
    with torch.no_grad():
        v = model(torch.where(sets, x, baseline).flatten(0, 1)).unflatten(0, (-1, d + 1))
    return v.diff().gather(1, place).mean(0)


def logit_lens(model: nn.Module, ids: Tensor) -> Tensor:
    """What a language model would say if it stopped after each of its layers (nostalgebraist 2020).

    In a transformer, each block adds to a stream of vectors (B, T, d), one for each token. model.blocks, an nn.ModuleList of L blocks,
    holds them in the order in which they are called. The model's last steps are

        logits = model.head(model.norm(stream))

    The lens puts the stream before the first block, and after each block, through these two. It is read while model(ids) runs, once:
    what the model does before its first block, and what it hands to the blocks beside the stream, is its own affair.

    - A block gets the stream as its first positional argument. It returns the stream, or a tuple that begins with it.
    - A block may change the stream that it gets in place, so keep copies.

    All hooks are afterwards what they were, also where the model raised an error, which is passed on.

    Args:
        model: logits (B, T, V) = model(ids). It has at least one block, and no block twice.
        ids: (B, T), int64.

    Returns: (L + 1, B, T, V), dtype of the logits. The last of them is model(ids).
    """
    stream = list[Tensor]()

    def keep_input(block: nn.Module, args: Any) -> None:
        stream.append(args[0].clone())

    def keep_output(block: nn.Module, args: Any, output: Any) -> None:
        stream.append((output[0] if isinstance(output, tuple) else output).clone())

    handles = [block.register_forward_hook(keep_output) for block in model.blocks]  # type: ignore[union-attr]
    handles.append(model.blocks[0].register_forward_pre_hook(keep_input))  # type: ignore[index, union-attr, arg-type]
    try:
        with torch.no_grad():
            model(ids)
            return torch.stack([model.head(model.norm(h)) for h in stream])  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()


def activation_patch(model: nn.Module, clean: Tensor, corrupt: Tensor, metric: Callable[[Tensor], Tensor], *, num_heads: int) -> Tensor:
    """Find the attention heads that carry an answer, by handing them over one at a time (Wang et al. 2023; Zhang & Nanda 2024).

    Two prompts differ in what decides the answer. In a run on the corrupt one, the output of one head, at one position, is replaced by what
    it was in the run on the clean one. If this brings the answer back, the head carries it.

    The model has L blocks in model.blocks. Within each, block.attn.out_proj, a module, gets the outputs of all heads joined, (B, T, H · D),
    as its only argument: head h has the features h · D … (h + 1) · D − 1.

        best = metric(model(clean))        worst = metric(model(corrupt))
        patched[l, h, t] = metric(model(corrupt)), where in block l, head h and position t come from the clean run, for all B prompts
        effect[l, h, t] = (patched[l, h, t] − worst) / (best − worst)

    So 0 means that nothing came back, and 1 that all did. Later layers see the change; nothing else of the clean run gets in.

    All hooks are afterwards what they were, also where the model or the metric raised an error, which is passed on.

    Args:
        model: logits (B, T, V) = model(ids), float32 or float64.
        clean, corrupt: (B, T), int64.
        metric: a 0-d tensor = metric(logits), of the dtype of the logits.
        num_heads: H.

    Returns: the effects, (L, H, T), dtype of the logits.
    Raises: ValueError if clean and corrupt differ in shape, or if best and worst are equal.
    """
    if clean.shape != corrupt.shape:
        raise ValueError(f"the prompts differ in shape: {tuple(clean.shape)} and {tuple(corrupt.shape)}")
    layers = [block.attn.out_proj for block in model.blocks]  # type: ignore[union-attr]
    kept = dict[nn.Module, Tensor]()

    def run(ids: Tensor, layers: list[nn.Module], hook: Callable[..., Any]) -> Tensor:
        handles = [layer.register_forward_pre_hook(hook) for layer in layers]
        try:
            return metric(model(ids))
        finally:
            for handle in handles:
                handle.remove()

    def keep(layer: nn.Module, args: Any) -> None:
        kept[layer] = args[0].unflatten(-1, (num_heads, -1))  # (B, T, H, D)

    with torch.no_grad():
        best, worst = run(clean, layers, keep), metric(model(corrupt))
        if best == worst:
            raise ValueError("both prompts have the same metric: there is no effect to share out")
        patched = best.new_empty(len(layers), num_heads, clean.shape[1])
        for i, h, t in itertools.product(*map(range, patched.shape)):

            def patch(layer: nn.Module, args: Any, h: int = h, t: int = t) -> Tensor:
                z = args[0].unflatten(-1, (num_heads, -1)).clone()
                z[:, t, h] = kept[layer][:, t, h]
                return z.flatten(2)

            patched[i, h, t] = run(corrupt, [layers[i]], patch)
    return (patched - worst) / (best - worst)


class SparseAutoencoder(nn.Module):
    """Take activations apart into few of many directions (Bricken et al. 2023, "Towards Monosemanticity").

    With d the size of an activation x, and m the number of features, mostly larger than d:

        f = relu((x − b_dec) W_enc + b_enc)          the features that are active
        x̂ = f W_dec + b_dec                          x as a sum of a few rows of W_dec

    The parameters start in float32, and there is no other state:

        W_dec (m, d)     torch.randn(m, d, generator=generator), each row divided by its length; nothing else is drawn
        W_enc (d, m)     the same numbers as W_dec, transposed, but a parameter of its own
        b_enc (m,)       0
        b_dec (d,)       0: the same parameter is subtracted from x, and added at the end

    A step of training: loss(x).backward(), remove_parallel_gradient(), a step of the optimizer, normalize_decoder(). Without the last, the
    loss could make f small and the rows of W_dec long. Without the second, Adam would remember a pull that is undone each time.

    Args of the constructor:
        d, m: at least 1.
        l1: λ, the price of active features, 0 or more.
        generator: where the numbers come from.
    """

    def __init__(self, d: int, m: int, *, l1: float, generator: torch.Generator) -> None:
        """Make the parameters; see the class."""
        super().__init__()
        rows = torch.randn(m, d, generator=generator)
        rows /= rows.norm(dim=1, keepdim=True)
        self.W_enc, self.W_dec = nn.Parameter(rows.T.clone()), nn.Parameter(rows)
        self.b_enc, self.b_dec = nn.Parameter(torch.zeros(m)), nn.Parameter(torch.zeros(d))
        self.l1 = l1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take activations apart, and put them together again.

        Args:
            x: (…, d), dtype of the parameters.

        Returns: x̂, (…, d), and f, (…, m), both with a graph.
        """
        f = F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        return f @ self.W_dec + self.b_dec, f

    def loss(self, x: Tensor) -> Tensor:
        """The squared error and the price of the active features, for the mean of all activations:

            mean over the activations of Σ_j (x_j − x̂_j)² + λ · Σ_i f_i

        The features count as they are, whatever the lengths of the rows of W_dec.

        Args:
            x: (…, d), with at least one activation.

        Returns: 0-d, with a graph.
        """
        reconstruction, f = self(x)
        return ((x - reconstruction).square().sum(-1) + self.l1 * f.sum(-1)).mean()

    def remove_parallel_gradient(self) -> None:
        """Take out of the gradient of W_dec what would only change the lengths of its rows, before the optimizer sees it.

        For each row w of W_dec and its gradient g: g ← g − (g · w) / (w · w) · w. The rows may have any length from 1e-15 to 1e15.
        Where W_dec has no gradient, nothing happens.
        """
        w, g = self.W_dec.detach(), self.W_dec.grad
        if g is not None:
            g -= (g * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w

    def normalize_decoder(self) -> None:
        """Divide each row of W_dec by its length, which may be any from 1e-15 to 1e15. W_dec stays the same parameter."""
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
