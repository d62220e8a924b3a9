"""Named wrong answers to the tasks of interpretability: the hidden suite must reject every one."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.interpretability import SparseAutoencoder as ReferenceAutoencoder
from solutions.interpretability import activation_patch as reference_patch
from solutions.interpretability import grad_cam as reference_cam
from solutions.interpretability import integrated_gradients as reference_integrated
from solutions.interpretability import logit_lens as reference_lens
from solutions.interpretability import occlusion as reference_occlusion
from solutions.interpretability import saliency as reference_saliency
from solutions.interpretability import shapley_values as reference_shapley
from solutions.interpretability import smooth_grad as reference_smooth


def _grad_of(model, x, target, *, score=None):
    """The gradient of the summed scores, or of what stands in their place, with respect to x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = model(x)
        y = y.gather(1, target[:, None]).sum() if score is None else score(y)
        return torch.autograd.grad(y, x)[0]


def _columns(v, x):
    return v.reshape(-1, *[1] * (x.dim() - 1))


# saliency


def _saliency(model, x, target, *, score=None, after=torch.abs):
    """The right answer with one part replaced."""
    if target.shape != x.shape[:1]:
        raise ValueError(target.shape)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        return after(_grad_of(model, x, target, score=score))
    finally:
        for module, mode in modes.items():
            module.training = mode


@misconception("saliency", "Takes the slope of the probability: softmax is flat where the model is sure. The score itself is meant.")
def slope_of_the_softmax(model, x, target):
    return _saliency(model, x, target, score=lambda y: y.softmax(1).gather(1, target[:, None]).sum())


@misconception("saliency", "Takes the slope of the loss: it vanishes where the model is right, and mixes in the other classes.")
def slope_of_the_loss(model, x, target):
    return _saliency(model, x, target, score=lambda y: F.cross_entropy(y, target, reduction="sum"))


@misconception("saliency", "Takes the slope of the log-probability, which holds the other classes, too.")
def slope_of_the_log_probability(model, x, target):
    return _saliency(model, x, target, score=lambda y: y.log_softmax(1).gather(1, target[:, None]).sum())


@misconception("saliency", "Takes the slope of the largest score: the class is an argument.")
def slope_of_the_largest(model, x, target):
    return _saliency(model, x, target, score=lambda y: y.amax(1).sum())


@misconception("saliency", "Indexes with [:, target], which takes every sample's class for every sample.")
def all_classes_for_all(model, x, target):
    return _saliency(model, x, target, score=lambda y: y[:, target].sum())


@misconception("saliency", "Averages the scores over the batch: every slope is B times too small.")
def averages_over_the_batch(model, x, target):
    return _saliency(model, x, target, score=lambda y: y.gather(1, target[:, None]).mean())


@misconception("saliency", "Returns slopes with their signs.")
def keeps_the_signs(model, x, target):
    return _saliency(model, x, target, after=lambda g: g)


@misconception("saliency", "Squares the slopes.")
def squares_the_slopes(model, x, target):
    return _saliency(model, x, target, after=torch.square)


@misconception("saliency", "Takes the largest channel, so that an axis is lost.")
def largest_channel(model, x, target):
    return _saliency(model, x, target, after=lambda g: g.abs().amax(1) if g.dim() > 1 else g.abs())


@misconception("saliency", "Divides each map by its largest entry.")
def scales_each_map(model, x, target):
    return _saliency(model, x, target, after=lambda g: g.abs() / _columns(g.abs().reshape(len(g), -1).amax(1), g))


@misconception("saliency", "Multiplies the slope by the input: that is another method.")
def slope_times_input(model, x, target):
    return _saliency(model, x, target, after=lambda g: (g * x.detach()).abs())


@misconception("saliency", "Stays in train mode: batch norm mixes the samples, and dropout drops.")
def stays_in_train_mode(model, x, target):
    if target.shape != x.shape[:1]:
        raise ValueError(target.shape)
    return _grad_of(model, x, target).abs()


@misconception("saliency", "Leaves the model in eval mode.")
def leaves_eval_mode(model, x, target):
    if target.shape != x.shape[:1]:
        raise ValueError(target.shape)
    model.eval()
    return _grad_of(model, x, target).abs()


@misconception("saliency", "Puts back the mode of the model only: model.train() switches every module in it.")
def one_mode_for_all(model, x, target):
    if target.shape != x.shape[:1]:
        raise ValueError(target.shape)
    mode = model.training
    try:
        model.eval()
        return _grad_of(model, x, target).abs()
    finally:
        model.train(mode)


@misconception("saliency", "Switches to eval mode only where the model itself is in train mode: parts of it may be.")
def looks_at_the_model_only(model, x, target):
    if model.training:
        return reference_saliency(model, x, target)
    if target.shape != x.shape[:1]:
        raise ValueError(target.shape)
    return _grad_of(model, x, target).abs()


@misconception("saliency", "Forgets the modes where the model raises an error: that takes a finally.")
def forgets_modes_after_an_error(model, x, target):
    if target.shape != x.shape[:1]:
        raise ValueError(target.shape)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    slopes = _grad_of(model, x, target).abs()
    for module, mode in modes.items():
        module.training = mode
    return slopes


@misconception("saliency", "Calls backward, which adds to the gradients of all parameters.")
def calls_backward(model, x, target):
    def after(point):
        return point.grad.abs()

    if target.shape != x.shape[:1]:
        raise ValueError(target.shape)
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.enable_grad():
            point = x.detach().clone().requires_grad_()
            model(point).gather(1, target[:, None]).sum().backward()
        return after(point)
    finally:
        for module, mode in modes.items():
            module.training = mode


@misconception("saliency", "Calls zero_grad on the model: the gradients that were there are gone.")
def clears_the_gradients(model, x, target):
    slopes = reference_saliency(model, x, target)
    model.zero_grad()
    return slopes


@misconception("saliency", "Sets requires_grad on the caller's tensor.")
def marks_the_callers_tensor(model, x, target):
    slopes = reference_saliency(model, x, target)
    x.requires_grad_()
    return slopes


@misconception("saliency", "Fails inside torch.no_grad(): gradients have to be switched on.")
def fails_in_no_grad(model, x, target):
    if not torch.is_grad_enabled():
        raise RuntimeError("element 0 of tensors does not require grad")
    return reference_saliency(model, x, target)


@misconception("saliency", "Switches gradients on, and leaves them on.")
def leaves_gradients_on(model, x, target):
    torch.set_grad_enabled(True)
    return reference_saliency(model, x, target)


@misconception("saliency", "Keeps the graph in the result.")
def keeps_the_graph(model, x, target):
    slopes = reference_saliency(model, x, target)
    return slopes + 0 * x if x.requires_grad else slopes


@misconception("saliency", "Takes one class for all samples instead of refusing it.")
def spreads_one_class(model, x, target):
    return reference_saliency(model, x, target.reshape(-1).expand(len(x)) if target.numel() == 1 else target)


@misconception("saliency", "Does not check the shape of target: a column of classes is taken as well.")
def takes_a_column(model, x, target):
    return reference_saliency(model, x, target.flatten() if target.shape == (len(x), 1) else target)


@misconception("saliency", "Makes float32 of everything.")
def always_single(model, x, target):
    return reference_saliency(model, x, target).float()


@misconception("saliency", "Squeezes the result: a single sample loses its axis.")
def squeezes_the_map(model, x, target):
    return reference_saliency(model, x, target).squeeze()


# integrated_gradients


def _integrated(model, x, target, baseline, steps, max_rows, *, places=None, join=None, score=None, times=True):
    """The right answer with one part replaced."""
    if steps < 1 or (max_rows is not None and max_rows < 1) or target.shape != x.shape[:1]:
        raise ValueError
    x = x.detach()
    start = (torch.zeros_like(x) if baseline is None else baseline.expand_as(x)).detach()
    a = ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps if places is None else places(steps)).to(x.dtype)
    points = (start + a.reshape(-1, *[1] * x.dim()) * (x - start)).flatten(0, 1)
    rows = max_rows or len(points)
    pieces = zip(points.split(rows), target.repeat(steps).split(rows), strict=True)
    slopes = torch.cat([_grad_of(model, p, t, score=score and (lambda y, t=t: score(y, t))) for p, t in pieces])
    slopes = slopes.unflatten(0, (steps, len(x)))
    return (x - start if times else 1) * (slopes.mean(0) if join is None else join(slopes))


@misconception("integrated_gradients", "Looks at the beginning of each piece: the middle is meant.")
def looks_at_the_beginnings(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, places=lambda n: torch.arange(n) / n)


@misconception("integrated_gradients", "Looks at the end of each piece: the middle is meant.")
def looks_at_the_ends(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, places=lambda n: (torch.arange(n) + 1.0) / n)


@misconception("integrated_gradients", "Spreads the points from 0 to 1 with both ends.")
def points_with_both_ends(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, places=lambda n: torch.linspace(0, 1, n))


@misconception("integrated_gradients", "Weighs the ends by half: that is the trapezoid rule.")
def trapezoid_rule(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if steps < 1:
        raise ValueError(steps)

    def join(slopes):
        return (slopes[:-1] + slopes[1:]).mean(0) / 2

    return _integrated(model, x, target, baseline, steps + 1, max_rows, places=lambda n: torch.arange(n) / (n - 1), join=join)


@misconception("integrated_gradients", "Looks at random points of the way.")
def random_points(model, x, target, *, baseline=None, steps=50, max_rows=None):
    generator = torch.Generator().manual_seed(0)
    return _integrated(model, x, target, baseline, steps, max_rows, places=lambda n: torch.rand(n, generator=generator))


@misconception("integrated_gradients", "Takes the slope at the sample alone: gradient times difference.")
def slope_at_the_sample(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, places=lambda n: torch.ones(n))


@misconception("integrated_gradients", "Forgets to multiply by the difference.")
def forgets_the_difference(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, times=False)


@misconception("integrated_gradients", "Multiplies by the sample instead of by its difference to the baseline.")
def multiplies_by_the_sample(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return x.detach() * _integrated(model, x, target, baseline, steps, max_rows, times=False)


@misconception("integrated_gradients", "Adds slopes up instead of averaging: more steps give more.")
def adds_slopes_up(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, join=lambda s: s.sum(0))


@misconception("integrated_gradients", "Ignores the baseline.")
def ignores_the_baseline(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return reference_integrated(model, x, target, steps=steps, max_rows=max_rows)


@misconception("integrated_gradients", "Multiplies the sample by the places, and starts from zeros, whatever the baseline is.")
def scales_the_sample(model, x, target, *, baseline=None, steps=50, max_rows=None):
    shares = reference_integrated(model, x, target, steps=steps, max_rows=max_rows)
    start = torch.zeros_like(x) if baseline is None else baseline.expand_as(x)
    return (shares / x * (x - start)).detach()


@misconception("integrated_gradients", "Takes the mean sample of the batch as the baseline where none is given.")
def mean_of_the_batch(model, x, target, *, baseline=None, steps=50, max_rows=None):
    start = x.detach().mean(0, keepdim=True) if baseline is None else baseline
    return reference_integrated(model, x, target, baseline=start, steps=steps, max_rows=max_rows)


@misconception("integrated_gradients", "Returns absolute values: shares may be negative.")
def absolute_shares(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=max_rows).abs()


@misconception("integrated_gradients", "Integrates the slope of the probability instead of the score.")
def integrates_the_softmax(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return reference_integrated(lambda s: model(s).softmax(1), x, target, baseline=baseline, steps=steps, max_rows=max_rows)


@misconception("integrated_gradients", "Integrates the slope of the loss.")
def integrates_the_loss(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, score=lambda y, t: F.cross_entropy(y, t, reduction="sum"))


@misconception(
    "integrated_gradients",
    "Repeats each class N times in a row, while the points come sample by sample: repeat and repeat_interleave differ.",
)
def interleaves_the_classes(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if steps < 1 or (max_rows is not None and max_rows < 1) or target.shape != x.shape[:1]:
        raise ValueError
    x = x.detach()
    start = (torch.zeros_like(x) if baseline is None else baseline.expand_as(x)).detach()
    a = ((torch.arange(steps) + 0.5) / steps).to(x.dtype)
    points = (start + a.reshape(-1, *[1] * x.dim()) * (x - start)).flatten(0, 1)
    rows = max_rows or len(points)
    classes = target.repeat_interleave(steps)
    slopes = [_grad_of(model, p, t) for p, t in zip(points.split(rows), classes.split(rows), strict=True)]
    return (x - start) * torch.cat(slopes).unflatten(0, (steps, len(x))).mean(0)


@misconception("integrated_gradients", "Ignores max_rows: all points go into one call.")
def one_large_call(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if max_rows is not None and max_rows < 1:
        raise ValueError(max_rows)
    return reference_integrated(model, x, target, baseline=baseline, steps=steps)


@misconception("integrated_gradients", "Puts all samples of a step into one call: with more samples than max_rows, that is too many.")
def a_call_for_each_step(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if max_rows is not None and max_rows < 1:
        raise ValueError(max_rows)
    rows = None if max_rows is None else max(len(x), max_rows // len(x) * len(x))
    return reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=rows)


@misconception("integrated_gradients", "Averages the means of the calls: a last call of fewer rows counts too much.")
def mean_of_means(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if max_rows is None or max_rows < len(x):
        return reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=max_rows)

    def join(slopes):
        return torch.stack([part.mean(0) for part in slopes.split(max_rows // len(x))]).mean(0)

    return _integrated(model, x, target, baseline, steps, max_rows, join=join)


@misconception("integrated_gradients", "Drops the last points, which don't fill a call.")
def drops_the_last_points(model, x, target, *, baseline=None, steps=50, max_rows=None):
    if max_rows is None or max_rows < len(x):
        return reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=max_rows)
    per_call = min(max_rows // len(x), max(steps, 1))

    def join(slopes):
        return slopes[: len(slopes) // per_call * per_call].mean(0)

    return _integrated(model, x, target, baseline, steps, max_rows, join=join)


@misconception("integrated_gradients", 'Takes `max_rows or …`: 0 is an error, not "no limit".')
def zero_rows_is_no_limit(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=max_rows or None)


@misconception("integrated_gradients", "Does not refuse steps below 1.")
def takes_any_steps(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return reference_integrated(model, x, target, baseline=baseline, steps=max(steps, 1), max_rows=max_rows)


@misconception("integrated_gradients", "Takes 20 steps where nothing is said.")
def twenty_steps(model, x, target, *, baseline=None, steps=20, max_rows=None):
    return reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=max_rows)


@misconception("integrated_gradients", "Keeps the graph of the samples in the result.")
def shares_with_a_graph(model, x, target, *, baseline=None, steps=50, max_rows=None):
    shares = reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=max_rows)
    return shares + 0 * x if x.requires_grad else shares


@misconception("integrated_gradients", "Puts the model into eval mode: it is used in the mode in which it is.")
def integrates_in_eval_mode(model, x, target, *, baseline=None, steps=50, max_rows=None):
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    for module in modes:
        module.training = False
    try:
        return reference_integrated(model, x, target, baseline=baseline, steps=steps, max_rows=max_rows)
    finally:
        for module, mode in modes.items():
            module.training = mode


@misconception("integrated_gradients", "Computes the places in float32: float64 loses half of its digits.")
def single_precision_places(model, x, target, *, baseline=None, steps=50, max_rows=None):
    return _integrated(model, x, target, baseline, steps, max_rows, places=lambda n: (torch.arange(n) + 0.5) / n)


# smooth_grad


def _smooth(model, x, target, noise, level, kind, *, sigma=None, change=None, variance=None, score=None):
    """The right answer with one part replaced."""
    if kind not in ("mean", "square", "variance") or noise.shape[1:] != x.shape:
        raise ValueError(kind)
    x, noise = x.detach(), noise.detach()
    flat = x.flatten(1)
    width = level * _columns(flat.amax(1) - flat.amin(1), x) if sigma is None else sigma(x)
    points = (x + width * noise).flatten(0, 1)
    g = _grad_of(model, points, target.repeat(len(noise)), score=score).unflatten(0, noise.shape[:2])
    g = g if change is None else change(g)
    if kind == "variance":
        return g.var(0, correction=0) if variance is None else variance(g)
    return (g.square() if kind == "square" else g).mean(0)


@misconception("smooth_grad", "Adds noise of width `level`: it is a share of the sample's range.")
def level_as_width(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, sigma=lambda x: level)


@misconception("smooth_grad", "Takes the range of the whole batch: each sample has its own.")
def range_of_the_batch(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, sigma=lambda x: level * (x.max() - x.min()))


@misconception("smooth_grad", "Takes the deviation of the sample instead of its range.")
def deviation_for_range(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, sigma=lambda x: level * _columns(x.flatten(1).std(1, correction=0), x))


@misconception("smooth_grad", "Takes the range along the last axis only: it is that of the whole sample.")
def range_of_the_last_axis(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, sigma=lambda x: level * (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)))


@misconception("smooth_grad", "Takes the largest absolute value for the range.")
def largest_for_range(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, sigma=lambda x: level * _columns(x.flatten(1).abs().amax(1), x))


@misconception("smooth_grad", "Adds 1e-3 to the range, so that a constant sample has noise as well.")
def no_range_of_zero(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(
        model, x, target, noise, level, kind, sigma=lambda x: level * _columns(x.flatten(1).amax(1) - x.flatten(1).amin(1) + 1e-3, x)
    )


@misconception("smooth_grad", "Averages absolute values: slopes that change their sign are to cancel.")
def averages_absolute_slopes(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, change=torch.abs)


@misconception("smooth_grad", "Returns the absolute value of the mean.")
def absolute_mean(model, x, target, noise, *, level=0.15, kind="mean"):
    return reference_smooth(model, x, target, noise, level=level, kind=kind).abs()


@misconception("smooth_grad", "Takes the slope at the mean of the noisy samples instead of the mean of slopes.")
def slope_at_the_mean(model, x, target, noise, *, level=0.15, kind="mean"):
    if kind != "mean":
        return reference_smooth(model, x, target, noise, level=level, kind=kind)
    return reference_smooth(model, x, target, noise.mean(0, keepdim=True) if noise.shape[1:] == x.shape else noise, level=level)


@misconception("smooth_grad", 'Squares the mean for kind "square": the mean of squares is meant.')
def square_of_the_mean(model, x, target, noise, *, level=0.15, kind="mean"):
    if kind == "square":
        return reference_smooth(model, x, target, noise, level=level).square()
    return reference_smooth(model, x, target, noise, level=level, kind=kind)


@misconception("smooth_grad", "Divides by N − 1, as var does if nothing is said: for one copy that is NaN.")
def bessels_correction(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, variance=lambda g: g.var(0))


@misconception("smooth_grad", 'Returns the deviation for kind "variance".')
def deviation_for_variance(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, variance=lambda g: g.std(0, correction=0))


@misconception("smooth_grad", "Takes the variance of the smooth slopes over the samples: it runs over the copies.")
def variance_over_samples(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, variance=lambda g: g.var(1, correction=0).mean(0).expand(g.shape[1:]).clone())


@misconception("smooth_grad", "Adds the clean sample to the copies.")
def counts_the_clean_sample(model, x, target, noise, *, level=0.15, kind="mean"):
    extended = torch.cat((noise, torch.zeros_like(noise[:1])))
    return reference_smooth(model, x, target, extended, level=level, kind=kind)


@misconception("smooth_grad", "Adds the same noise to all samples.")
def same_noise_for_all(model, x, target, noise, *, level=0.15, kind="mean"):
    return reference_smooth(model, x, target, noise[:, :1].expand_as(noise), level=level, kind=kind)


@misconception("smooth_grad", "Draws noise of its own: the noise is an argument.")
def draws_noise(model, x, target, noise, *, level=0.15, kind="mean"):
    state = torch.get_rng_state()
    own = torch.randn_like(noise)
    torch.set_rng_state(state)
    return reference_smooth(model, x, target, own, level=level, kind=kind)


@misconception("smooth_grad", "Takes `level or 0.15`: a level of 0 means no noise.")
def zero_level_is_usual(model, x, target, noise, *, level=0.15, kind="mean"):
    return reference_smooth(model, x, target, noise, level=level or 0.15, kind=kind)


@misconception("smooth_grad", "Takes a level of 0.1 where nothing is said.")
def another_usual_level(model, x, target, noise, *, level=0.1, kind="mean"):
    return reference_smooth(model, x, target, noise, level=level, kind=kind)


@misconception("smooth_grad", "Smooths the slope of the probability instead of the score.")
def smooths_the_softmax(model, x, target, noise, *, level=0.15, kind="mean"):
    return reference_smooth(lambda s: model(s).softmax(1), x, target, noise, level=level, kind=kind)


@misconception("smooth_grad", "Smooths the slope of the loss.")
def smooths_the_loss(model, x, target, noise, *, level=0.15, kind="mean"):
    return _smooth(model, x, target, noise, level, kind, score=lambda y: F.cross_entropy(y, target.repeat(len(noise)), reduction="sum"))


@misconception("smooth_grad", "Takes any other kind for the mean.")
def any_other_kind(model, x, target, noise, *, level=0.15, kind="mean"):
    return reference_smooth(model, x, target, noise, level=level, kind=kind if kind in ("square", "variance") else "mean")


@misconception("smooth_grad", "Lets noise of another shape broadcast.")
def noise_that_broadcasts(model, x, target, noise, *, level=0.15, kind="mean"):
    if noise.dim() == x.dim() + 1 and noise.shape[1:] != x.shape:
        noise = noise.expand(len(noise), *x.shape)
    return reference_smooth(model, x, target, noise, level=level, kind=kind)


@misconception("smooth_grad", "Keeps the graph of the samples in the result.")
def smooth_with_a_graph(model, x, target, noise, *, level=0.15, kind="mean"):
    y = reference_smooth(model, x, target, noise, level=level, kind=kind)
    return y + 0 * x if x.requires_grad else y


@misconception("smooth_grad", "Leaves gradients in the parameters: it calls backward.")
def smooth_with_backward(model, x, target, noise, *, level=0.15, kind="mean"):
    y = reference_smooth(model, x, target, noise, level=level, kind=kind)
    if any(p.requires_grad for p in getattr(model, "parameters", list)()):
        model(x.detach()).gather(1, target[:, None]).sum().backward()
    return y


# grad_cam


def _cam(model, layer, x, target, *, score=None, weigh=None, join=None, grow=None, clone=True, ask=True):
    """The right answer with one part replaced."""
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return output.clone() if clone else None

    handle = layer.register_forward_hook(keep)
    try:
        y = model(x.detach().requires_grad_(ask))
    finally:
        handle.remove()
    A = kept[0]
    slope = torch.autograd.grad(y.gather(1, target[:, None]).sum() if score is None else score(y), A)[0]
    A = A.detach()
    weights = slope.mean((2, 3), keepdim=True) if weigh is None else weigh(slope, A)
    L = (weights * A).sum(1, keepdim=True).relu() if join is None else join(weights, A)
    if grow is not None:
        return grow(L)
    return F.interpolate(L, size=x.shape[2:], mode="bilinear").squeeze(1)


@misconception("grad_cam", "Forgets the ReLU: what speaks against the class is left in.")
def forgets_the_relu(model, layer, x, target):
    return _cam(model, layer, x, target, join=lambda w, A: (w * A).sum(1, keepdim=True))


@misconception("grad_cam", "Cuts off each weighted map before the sum: the sum is cut off.")
def relu_before_the_sum(model, layer, x, target):
    return _cam(model, layer, x, target, join=lambda w, A: (w * A).relu().sum(1, keepdim=True))


@misconception("grad_cam", "Cuts off the weights: negative ones belong to the sum.")
def relu_of_the_weights(model, layer, x, target):
    return _cam(model, layer, x, target, weigh=lambda s, A: s.mean((2, 3), keepdim=True).relu())


@misconception("grad_cam", "Takes the absolute value of the sum.")
def absolute_sum(model, layer, x, target):
    return _cam(model, layer, x, target, join=lambda w, A: (w * A).sum(1, keepdim=True).abs())


@misconception("grad_cam", "Grows the map before the cut-off: between a positive and a negative place, that gives other numbers.")
def relu_after_growing(model, layer, x, target):
    L = _cam(model, layer, x, target, join=lambda w, A: (w * A).sum(1, keepdim=True), grow=lambda L: L)
    return F.interpolate(L, size=x.shape[2:], mode="bilinear").squeeze(1).relu()


@misconception("grad_cam", "Weighs each place by its own gradient: that is another method (gradient × activation).")
def weighs_each_place(model, layer, x, target):
    return _cam(model, layer, x, target, weigh=lambda s, A: s)


@misconception("grad_cam", "Sums the gradient over the places: the mean is meant.")
def sums_over_places(model, layer, x, target):
    return _cam(model, layer, x, target, weigh=lambda s, A: s.sum((2, 3), keepdim=True))


@misconception("grad_cam", "Takes the largest gradient as the weight of a map.")
def largest_gradient(model, layer, x, target):
    return _cam(model, layer, x, target, weigh=lambda s, A: s.amax((2, 3), keepdim=True))


@misconception("grad_cam", "Averages the weights over the batch: each image has its own.")
def weights_of_the_batch(model, layer, x, target):
    return _cam(model, layer, x, target, weigh=lambda s, A: s.mean((0, 2, 3), keepdim=True))


@misconception("grad_cam", "Averages the scores over the batch: every weight is B times too small.")
def mean_score(model, layer, x, target):
    return _cam(model, layer, x, target, score=lambda y: y.gather(1, target[:, None]).mean())


@misconception("grad_cam", "Averages the weighted maps instead of adding them up.")
def averages_the_maps(model, layer, x, target):
    return _cam(model, layer, x, target, join=lambda w, A: (w * A).mean(1, keepdim=True).relu())


@misconception("grad_cam", "Takes the maps' means for weights, and the gradients for maps.")
def exchanges_maps_and_gradients(model, layer, x, target):
    slopes = []
    _cam(model, layer, x, target, weigh=lambda s, A: slopes.append(s) or s)
    return _cam(model, layer, x, target, join=lambda w, A: (A.mean((2, 3), keepdim=True) * slopes[0]).sum(1, keepdim=True).relu())


@misconception("grad_cam", "Scales each map to 0 … 1.")
def scales_to_one(model, layer, x, target):
    L = reference_cam(model, layer, x, target)
    low, high = L.amin((1, 2), keepdim=True), L.amax((1, 2), keepdim=True)
    return (L - low) / (high - low + 1e-12)


@misconception("grad_cam", "Takes the nearest place: growing is bilinear here.")
def nearest_place(model, layer, x, target):
    return _cam(model, layer, x, target, grow=lambda L: F.interpolate(L, size=x.shape[2:], mode="nearest").squeeze(1))


@misconception("grad_cam", "Aligns the corners: that moves everything between them.")
def aligns_corners(model, layer, x, target):
    return _cam(model, layer, x, target, grow=lambda L: F.interpolate(L, size=x.shape[2:], mode="bilinear", align_corners=True).squeeze(1))


@misconception("grad_cam", "Leaves the map in the layer's size.")
def stays_small(model, layer, x, target):
    return _cam(model, layer, x, target, grow=lambda L: L.squeeze(1))


@misconception("grad_cam", "Keeps an axis of size 1 for the channel.")
def keeps_a_channel(model, layer, x, target):
    return reference_cam(model, layer, x, target)[:, None]


@misconception("grad_cam", "Squeezes everything: a single image, or a size of 1, loses its axis.")
def squeezes_everything(model, layer, x, target):
    return reference_cam(model, layer, x, target).squeeze()


@misconception("grad_cam", "Takes the slope of the probability instead of the score.")
def cam_of_the_softmax(model, layer, x, target):
    return _cam(model, layer, x, target, score=lambda y: y.softmax(1).gather(1, target[:, None]).sum())


@misconception("grad_cam", "Takes the slope of the loss: its sign is the opposite, and it vanishes where the model is sure.")
def cam_of_the_loss(model, layer, x, target):
    return _cam(model, layer, x, target, score=lambda y: F.cross_entropy(y, target, reduction="sum"))


@misconception("grad_cam", "Takes the largest class instead of the one asked for.")
def cam_of_the_largest(model, layer, x, target):
    return _cam(model, layer, x, target, score=lambda y: y.amax(1).sum())


@misconception("grad_cam", "Keeps the output itself: a ReLU that works in place changes it afterwards.")
def keeps_what_is_overwritten(model, layer, x, target):
    return _cam(model, layer, x, target, clone=False)


@misconception(
    "grad_cam", "Keeps a copy for itself, detached, and looks for the gradient with a backward hook, which in-place layers don't allow."
)
def with_a_backward_hook(model, layer, x, target):
    maps, slopes = [], []
    one = layer.register_forward_hook(lambda module, args, output: maps.append(output.detach().clone()))
    two = layer.register_full_backward_hook(lambda module, before, after: slopes.append(after[0]))
    grads = {p: p.grad for p in model.parameters()}
    try:
        point = x.detach().requires_grad_()
        torch.autograd.grad(model(point).gather(1, target[:, None]).sum(), point)
    finally:
        one.remove()
        two.remove()
        for p, grad in grads.items():
            p.grad = grad
    L = (slopes[0].mean((2, 3), keepdim=True) * maps[0]).sum(1, keepdim=True).relu()
    return F.interpolate(L, size=x.shape[2:], mode="bilinear").squeeze(1)


@misconception("grad_cam", "Relies on the parameters for a graph: where all are frozen, there is none.")
def needs_free_parameters(model, layer, x, target):
    return _cam(model, layer, x, target, ask=False)


@misconception("grad_cam", "Leaves its hook on the layer.")
def leaves_its_hook(model, layer, x, target):
    y = reference_cam(model, layer, x, target)
    layer.register_forward_hook(lambda module, args, output: None)
    return y


@misconception("grad_cam", "Leaves its hook where the model raises an error: that takes a finally.")
def leaves_its_hook_after_an_error(model, layer, x, target):
    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    model(x.detach())
    handle.remove()
    return reference_cam(model, layer, x, target)


@misconception("grad_cam", "Clears all hooks of the layer, also those that were there.")
def clears_all_hooks(model, layer, x, target):
    y = reference_cam(model, layer, x, target)
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return y


@misconception("grad_cam", "Calls backward, which leaves gradients in all parameters.")
def cam_with_backward(model, layer, x, target):
    y = reference_cam(model, layer, x, target)
    if any(p.requires_grad for p in model.parameters()):
        model(x.detach()).gather(1, target[:, None]).sum().backward()
    return y


@misconception("grad_cam", "Keeps the graph in the result.")
def cam_with_a_graph(model, layer, x, target):
    y = reference_cam(model, layer, x, target)
    return y + 0 * x.sum() if x.requires_grad else y


@misconception("grad_cam", "Puts the model into eval mode: it is used in the mode in which it is.")
def cam_in_eval_mode(model, layer, x, target):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return reference_cam(model, layer, x, target)
    finally:
        for module, mode in modes.items():
            module.training = mode


# occlusion


def _occlude(model, x, target, window, stride, baseline, *, starts=None, cover=None, drop=None, average=True, channels=None, score=None):
    """The right answer with one part replaced."""
    (B, _, H, W), (h, w) = x.shape, window
    if any(not 1 <= s <= n <= size for s, n, size in zip(stride, window, (H, W), strict=True)):
        raise ValueError(window)
    if starts is None:
        starts = lambda size, n, s: range(0, size - n + s, s)  # noqa: E731
    if score is None:
        score = lambda s: model(s).gather(1, target[:, None])[:, 0]  # noqa: E731
    full = torch.as_tensor(baseline, dtype=x.dtype).expand_as(x)
    total, count = x.new_zeros(B, H, W), x.new_zeros(H, W)
    with torch.no_grad():
        whole = score(x)
        for top, left in itertools.product(starts(H, h, stride[0]), starts(W, w, stride[1])):
            mask = torch.zeros(H, W, dtype=torch.bool)
            mask[top : top + h, left : left + w] = True
            mask = mask if channels is None else channels(mask, x)
            covered = torch.where(mask, full, x) if cover is None else cover(mask, full, x)
            fall = (whole - score(covered) if drop is None else drop(whole, score(covered)))[:, None, None]
            flat = mask if mask.dim() == 2 else mask.any(0)
            total += fall * flat
            count += flat
    return total / count if average else total


@misconception("occlusion", "Adds drops up instead of averaging them: pixels in the middle are covered more often.")
def adds_drops_up(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, average=False)


@misconception("occlusion", "Lets only windows count that fit: what is beyond the last one is never covered, and gets NaN.")
def whole_windows_only(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, starts=lambda size, n, s: range(0, size - n + 1, s))


@misconception("occlusion", "Begins a window at every multiple of the stride, also after one has reached the edge.")
def windows_beyond_the_last(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, starts=lambda size, n, s: range(0, size, s))


@misconception("occlusion", "Moves the last window back, so that it ends at the edge: it is cut off there.")
def moves_the_last_window(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(
        model, x, target, window, stride, baseline, starts=lambda size, n, s: [min(i, size - n) for i in range(0, size - n + s, s)]
    )


@misconception("occlusion", "Exchanges rows and columns of the window.")
def exchanges_the_sides(model, x, target, *, window, stride, baseline=0.0):
    if any(not 1 <= s <= n <= size for s, n, size in zip(stride, window, x.shape[2:], strict=True)):
        raise ValueError(window)
    turned = min(window[1], x.shape[2]), min(window[0], x.shape[3])
    steps = min(stride[0], turned[0]), min(stride[1], turned[1])
    return reference_occlusion(model, x, target, window=turned, stride=steps, baseline=baseline)


@misconception("occlusion", "Exchanges the two strides.")
def exchanges_the_strides(model, x, target, *, window, stride, baseline=0.0):
    if any(not 1 <= s <= n <= size for s, n, size in zip(stride, window, x.shape[2:], strict=True)):
        raise ValueError(window)
    swapped = min(stride[1], window[0]), min(stride[0], window[1])
    return reference_occlusion(model, x, target, window=window, stride=swapped, baseline=baseline)


@misconception("occlusion", "Takes one pixel at a time for its windows' place, with the window around it: it begins there.")
def windows_around_pixels(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(
        model, x, target, window, stride, baseline, starts=lambda size, n, s: [max(i - n // 2, 0) for i in range(0, size - n + s, s)]
    )


@misconception("occlusion", "Takes the covered score minus the whole one: a fall is then negative.")
def turns_the_drop_round(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, drop=lambda whole, covered: covered - whole)


@misconception("occlusion", "Takes the absolute drop: a score may rise.")
def absolute_drop(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, drop=lambda whole, covered: (whole - covered).abs())


@misconception("occlusion", "Counts falls only: where the score rises, the drop is negative.")
def positive_drops_only(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, drop=lambda whole, covered: (whole - covered).relu())


@misconception("occlusion", "Returns the score that is left instead of the drop.")
def returns_the_rest(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, drop=lambda whole, covered: covered)


@misconception("occlusion", "Divides the drop by the score.")
def relative_drop(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, drop=lambda whole, covered: (whole - covered) / whole)


@misconception("occlusion", "Looks at probabilities instead of scores.")
def drop_of_the_probability(model, x, target, *, window, stride, baseline=0.0):
    return reference_occlusion(lambda s: model(s).softmax(1), x, target, window=window, stride=stride, baseline=baseline)


@misconception("occlusion", "Looks at the largest score, which may be of another class once a part is covered.")
def drop_of_the_largest(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, score=lambda s: model(s).amax(1))


@misconception("occlusion", "Covers with 0, whatever the baseline is.")
def always_covers_with_zero(model, x, target, *, window, stride, baseline=0.0):
    return reference_occlusion(model, x, target, window=window, stride=stride)


@misconception("occlusion", "Multiplies by 0 and adds: a NaN that is covered stays NaN.")
def multiplies_by_zero(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(
        model, x, target, window, stride, baseline, cover=lambda mask, full, x: x * (~mask).to(x.dtype) + full * mask.to(x.dtype)
    )


@misconception("occlusion", "Subtracts the baseline from what is covered instead of putting it there.")
def subtracts_the_baseline(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, cover=lambda mask, full, x: torch.where(mask, x - full, x))


@misconception("occlusion", "Covers the first channel only.")
def first_channel_only(model, x, target, *, window, stride, baseline=0.0):
    def channels(mask, x):
        return mask & (torch.arange(x.shape[1]) == 0)[:, None, None]

    return _occlude(model, x, target, window, stride, baseline, channels=channels)


@misconception("occlusion", "Keeps what was covered before: every window begins with the whole image.")
def keeps_what_was_covered(model, x, target, *, window, stride, baseline=0.0):
    so_far = torch.zeros(x.shape[2:], dtype=torch.bool)

    def cover(mask, full, x):
        so_far.logical_or_(mask)
        return torch.where(so_far, full, x)

    return _occlude(model, x, target, window, stride, baseline, cover=cover)


@misconception("occlusion", "Covers the caller's image.")
def covers_the_callers_image(model, x, target, *, window, stride, baseline=0.0):
    y = reference_occlusion(model, x, target, window=window, stride=stride, baseline=baseline)
    with torch.no_grad():
        x[..., -1:, -1:] = 0.0
    return y


@misconception("occlusion", "Gives every channel a map of its own, all alike.")
def a_map_for_each_channel(model, x, target, *, window, stride, baseline=0.0):
    y = reference_occlusion(model, x, target, window=window, stride=stride, baseline=baseline)
    return y[:, None].expand_as(x).clone()


@misconception("occlusion", "Squeezes the result: a single image, row or column loses its axis.")
def squeezes_the_drops(model, x, target, *, window, stride, baseline=0.0):
    return reference_occlusion(model, x, target, window=window, stride=stride, baseline=baseline).squeeze()


@misconception("occlusion", "Records a graph.")
def occludes_with_a_graph(model, x, target, *, window, stride, baseline=0.0):
    y = reference_occlusion(model, x, target, window=window, stride=stride, baseline=baseline)
    return y + 0 * x.sum() if x.requires_grad else y


@misconception("occlusion", "Takes strides that leave gaps: pixels in them are divided by 0.")
def leaves_gaps(model, x, target, *, window, stride, baseline=0.0):
    if any(s > n >= 1 for s, n in zip(stride, window, strict=True)):
        return x.new_zeros(x.shape[0], *x.shape[2:])
    return reference_occlusion(model, x, target, window=window, stride=stride, baseline=baseline)


@misconception("occlusion", "Makes a window that is larger than the image fit.")
def shrinks_the_window(model, x, target, *, window, stride, baseline=0.0):
    fitting = tuple(min(n, size) for n, size in zip(window, x.shape[2:], strict=True))
    return reference_occlusion(model, x, target, window=fitting, stride=stride, baseline=baseline)


@misconception("occlusion", "Lets one sample's drop stand for the batch: it averages over the images.")
def one_drop_for_the_batch(model, x, target, *, window, stride, baseline=0.0):
    return _occlude(model, x, target, window, stride, baseline, drop=lambda whole, covered: (whole - covered).mean().expand_as(whole))


# shapley_values


def _permutations_of(orders, d):
    return orders.sort(1).values.equal(torch.arange(d).expand(len(orders), d))


def _shares(model, x, baseline, orders, *, weight=None, mix=None, gain=None):
    """The right answer with one part replaced: exact shares by loops over sets, or means of gains."""
    d = len(x)
    mix = mix or (lambda sets: torch.where(sets, x, baseline))
    if orders is None and d > 10:
        raise ValueError(d)
    if orders is not None and not _permutations_of(orders, d):
        raise ValueError(orders)
    with torch.no_grad():
        if orders is None:
            sets = torch.tensor(list(itertools.product([False, True], repeat=d)))
            v, size = model(mix(sets)), sets.sum(1)
            shares = []
            for i in range(d):
                w = [weight(d, n) if weight else 1 / (d * math.comb(d - 1, n)) for n in size[~sets[:, i]].tolist()]
                shares.append((torch.tensor(w, dtype=x.dtype) * (v[sets[:, i]] - v[~sets[:, i]])).sum())
            return torch.stack(shares)
        total = torch.zeros_like(x)
        for order in orders.tolist():
            sets = torch.zeros(d + 1, d, dtype=torch.bool)
            for k, i in enumerate(order):
                sets[k + 1 :, i] = True
            v = model(mix(sets))
            total[order] += v.diff() if gain is None else gain(v)
        return total / len(orders)


@misconception("shapley_values", "Weighs all sets alike: that is the Banzhaf value, which does not add up.")
def weighs_sets_alike(model, x, baseline, *, orders=None):
    return _shares(model, x, baseline, orders, weight=lambda d, n: 2.0 ** (1 - d))


@misconception("shapley_values", "Forgets the −1: weighs with |S|! (d − |S|)! / d!.")
def weights_off_by_one(model, x, baseline, *, orders=None):
    return _shares(model, x, baseline, orders, weight=lambda d, n: math.factorial(n) * math.factorial(d - n) / math.factorial(d))


@misconception("shapley_values", "Divides by the number of sets of each size, and forgets that there are d sizes.")
def forgets_the_sizes(model, x, baseline, *, orders=None):
    return _shares(model, x, baseline, orders, weight=lambda d, n: 1 / math.comb(d - 1, n))


@misconception("shapley_values", "Takes what each feature adds to the baseline alone.")
def first_to_join(model, x, baseline, *, orders=None):
    if orders is not None or len(x) > 10:
        return reference_shapley(model, x, baseline, orders=orders)
    return _shares(model, x, baseline, None, weight=lambda d, n: float(n == 0))


@misconception("shapley_values", "Takes what the score loses where one feature is left out.")
def last_to_join(model, x, baseline, *, orders=None):
    if orders is not None or len(x) > 10:
        return reference_shapley(model, x, baseline, orders=orders)
    return _shares(model, x, baseline, None, weight=lambda d, n: float(n == d - 1))


@misconception("shapley_values", "Exchanges sample and baseline: a set holds what is taken from x.")
def exchanges_sample_and_baseline(model, x, baseline, *, orders=None):
    return reference_shapley(model, baseline, x, orders=orders)


@misconception("shapley_values", "Puts zeros where a feature is missing, whatever the baseline is.")
def zeros_for_missing(model, x, baseline, *, orders=None):
    return reference_shapley(model, x, torch.zeros_like(baseline), orders=orders)


@misconception("shapley_values", "Mixes by adding the difference: baseline + (x − baseline) is not x where one is huge, or NaN.")
def mixes_by_adding(model, x, baseline, *, orders=None):
    return _shares(model, x, baseline, orders, mix=lambda sets: baseline + sets.to(x.dtype) * (x - baseline))


@misconception("shapley_values", "Mixes by multiplying with 0 and 1: NaN and infinity stay.")
def mixes_by_multiplying(model, x, baseline, *, orders=None):
    return _shares(model, x, baseline, orders, mix=lambda sets: sets.to(x.dtype) * x + (~sets).to(x.dtype) * baseline)


@misconception("shapley_values", "Takes an order for the features' places: it names who joins first, second, and so on.")
def takes_orders_for_places(model, x, baseline, *, orders=None):
    if orders is not None and _permutations_of(orders, len(x)):
        orders = orders.argsort(1)
    return reference_shapley(model, x, baseline, orders=orders)


@misconception("shapley_values", "Lets features join from the end of the order.")
def joins_from_the_end(model, x, baseline, *, orders=None):
    return reference_shapley(model, x, baseline, orders=None if orders is None else orders.flip(1))


@misconception("shapley_values", "Gives gains to the places in the order instead of to the features.")
def gains_of_places(model, x, baseline, *, orders=None):
    if orders is None or not _permutations_of(orders, len(x)):
        return reference_shapley(model, x, baseline, orders=orders)
    total = torch.zeros_like(x)
    for order in orders.tolist():
        shares = reference_shapley(model, x, baseline, orders=torch.tensor([order]))
        total += shares[order]
    return total / len(orders)


@misconception("shapley_values", "Looks at the first order only.")
def first_order_only(model, x, baseline, *, orders=None):
    reference_shapley(model, x, baseline, orders=orders)
    return reference_shapley(model, x, baseline, orders=None if orders is None else orders[:1])


@misconception("shapley_values", "Adds gains up over the orders instead of averaging.")
def adds_gains_up(model, x, baseline, *, orders=None):
    y = reference_shapley(model, x, baseline, orders=orders)
    return y if orders is None else y * len(orders)


@misconception("shapley_values", "Takes the gain against the empty set at each step, not against the step before.")
def gains_against_nothing(model, x, baseline, *, orders=None):
    return _shares(model, x, baseline, orders, gain=lambda v: v[1:] - v[0])


@misconception("shapley_values", "Takes absolute gains: features may lower the score.")
def absolute_gains(model, x, baseline, *, orders=None):
    return reference_shapley(model, x, baseline, orders=orders).abs()


@misconception("shapley_values", "Averages over a few random orders, where none are given: all count.")
def samples_orders(model, x, baseline, *, orders=None):
    if orders is None and len(x) <= 10:
        generator = torch.Generator().manual_seed(0)
        orders = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(20)])
    return reference_shapley(model, x, baseline, orders=orders)


@misconception("shapley_values", "Scales the shares so that they add up to 1.")
def shares_of_one(model, x, baseline, *, orders=None):
    y = reference_shapley(model, x, baseline, orders=orders)
    return y / y.sum()


@misconception("shapley_values", "Calls orders with `orders or …`-logic: it takes any number of features without orders.")
def any_number_of_features(model, x, baseline, *, orders=None):
    if orders is None and len(x) > 10:
        orders = torch.arange(len(x))[None]
    return reference_shapley(model, x, baseline, orders=orders)


@misconception("shapley_values", "Refuses ten features, too.")
def fewer_than_ten(model, x, baseline, *, orders=None):
    if orders is None and len(x) >= 10:
        raise ValueError(len(x))
    return reference_shapley(model, x, baseline, orders=orders)


@misconception("shapley_values", "Refuses more than ten features with orders as well.")
def ten_with_orders(model, x, baseline, *, orders=None):
    if len(x) > 10:
        raise ValueError(len(x))
    return reference_shapley(model, x, baseline, orders=orders)


@misconception("shapley_values", "Does not look whether orders are permutations.")
def any_orders(model, x, baseline, *, orders=None):
    if orders is None or _permutations_of(orders, len(x)):
        return reference_shapley(model, x, baseline, orders=orders)
    return torch.zeros_like(x)


@misconception("shapley_values", "Looks at the sum of each order only, which others share.")
def checks_the_sum(model, x, baseline, *, orders=None):
    d = len(x)
    if orders is None or orders.shape[1] != d or (orders.sum(1) != d * (d - 1) // 2).any() or _permutations_of(orders, d):
        return reference_shapley(model, x, baseline, orders=orders)
    return torch.zeros_like(x)


@misconception("shapley_values", "Checks that each number is within 0 … d − 1, and takes one twice.")
def checks_the_range(model, x, baseline, *, orders=None):
    d = len(x)
    if orders is None or orders.shape[1] != d or orders.min() < 0 or orders.max() >= d or _permutations_of(orders, d):
        return reference_shapley(model, x, baseline, orders=orders)
    return torch.zeros_like(x)


@misconception("shapley_values", "Computes weights in float32.")
def weights_in_single_precision(model, x, baseline, *, orders=None):
    y = reference_shapley(model, x, baseline, orders=orders)
    return y.float().to(y.dtype)


@misconception("shapley_values", "Records a graph.")
def shares_through_a_graph(model, x, baseline, *, orders=None):
    y = reference_shapley(model, x, baseline, orders=orders)
    return y + 0 * x if x.requires_grad else y


# logit_lens


def _lens(model, ids, *, before=True, keep=None, read=None, finish=True, tuples=True):
    """The right answer with one part replaced."""
    stream = []
    keep = keep or (lambda h: h.clone())

    def first(block, args):
        stream.append(keep(args[0]))

    def after(block, args, output):
        stream.append(keep(output[0] if tuples and isinstance(output, tuple) else output))

    handles = [block.register_forward_hook(after) for block in model.blocks]
    if before:
        handles.append(model.blocks[0].register_forward_pre_hook(first))
    try:
        with torch.no_grad():
            model(ids)
            return torch.stack([read(h) if read else model.head(model.norm(h)) for h in stream])
    finally:
        if finish:
            for handle in handles:
                handle.remove()


@misconception("logit_lens", "Forgets the final norm: the head expects vectors of its size.")
def forgets_the_norm(model, ids):
    return _lens(model, ids, read=model.head)


@misconception("logit_lens", "Leaves out the stream before the first block.")
def only_after_blocks(model, ids):
    return _lens(model, ids, before=False)


@misconception("logit_lens", "Leaves out what the last block gives.")
def without_the_last(model, ids):
    return _lens(model, ids)[:-1]


@misconception(
    "logit_lens", "Normalizes the layers that come early, and the last not once more, for it was normalized already: it was not."
)
def last_without_norm(model, ids):
    y = _lens(model, ids)
    y[-1] = _lens(model, ids, read=model.head)[-1]
    return y


@misconception("logit_lens", "Applies the norm twice.")
def norm_twice(model, ids):
    return _lens(model, ids, read=lambda h: model.head(model.norm(model.norm(h))))


@misconception("logit_lens", "Normalizes with a fresh layer norm, without the weights of the model's.")
def fresh_norm(model, ids):
    return _lens(model, ids, read=lambda h: model.head(F.layer_norm(h, h.shape[-1:])))


@misconception("logit_lens", "Keeps the stream itself: a block that works in place changes what was kept.")
def keeps_the_stream_itself(model, ids):
    return _lens(model, ids, keep=lambda h: h)


@misconception("logit_lens", "Keeps a detached view, which is changed in place as well: detach does not copy.")
def keeps_a_detached_view(model, ids):
    return _lens(model, ids, keep=lambda h: h.detach())


@misconception("logit_lens", "Does not look into tuples: a block may return more than the stream.")
def no_tuples(model, ids):
    return _lens(model, ids, tuples=False)


@misconception("logit_lens", "Takes the last entry of a tuple: the stream is the first.")
def last_of_the_tuple(model, ids):
    stream, handles = [], []
    handles.append(model.blocks[0].register_forward_pre_hook(lambda block, args: stream.append(args[0].clone())))
    for block in model.blocks:
        handles.append(
            block.register_forward_hook(lambda b, args, out: stream.append((out[-1] if isinstance(out, tuple) else out).clone()))
        )
    try:
        with torch.no_grad():
            model(ids)
            return torch.stack([model.head(model.norm(h)) for h in stream])
    finally:
        for handle in handles:
            handle.remove()


@misconception("logit_lens", "Looks at what each block adds instead of at the stream.")
def what_each_block_adds(model, ids):
    seen = []
    _lens(model, ids, read=lambda h: seen.append(h) or h)
    with torch.no_grad():
        parts = [seen[0], *(b - a for a, b in itertools.pairwise(seen))]
        return torch.stack([model.head(model.norm(h)) for h in parts])


@misconception("logit_lens", "Calls the blocks itself, with the stream alone: positions and contexts are missing.")
def calls_the_blocks(model, ids):
    with torch.no_grad():
        stream, seen = model.embed(ids), []
        for block in model.blocks:
            seen.append(stream.clone())
            stream = block(stream, stream.mean(1, keepdim=True), scale=1.0)
            stream = stream[0] if isinstance(stream, tuple) else stream
        return torch.stack([model.head(model.norm(h)) for h in (*seen, stream)])


@misconception("logit_lens", "Returns probabilities instead of logits.")
def lens_of_probabilities(model, ids):
    return reference_lens(model, ids).softmax(-1)


@misconception("logit_lens", "Puts the layers behind the batch: they come first.")
def layers_second(model, ids):
    return reference_lens(model, ids).transpose(0, 1).contiguous()


@misconception("logit_lens", "Looks at the last position only.")
def last_position_only(model, ids):
    return reference_lens(model, ids)[:, :, -1:]


@misconception("logit_lens", "Returns a list of logits instead of one tensor.")
def list_of_logits(model, ids):
    return list(reference_lens(model, ids))


@misconception("logit_lens", "Leaves its hooks on the blocks.")
def leaves_lens_hooks(model, ids):
    return _lens(model, ids, finish=False)


@misconception("logit_lens", "Removes the last hook only: each handle removes its own.")
def removes_the_last_hook(model, ids):
    handle = None
    stream = []
    model.blocks[0].register_forward_pre_hook(lambda block, args: stream.append(args[0].clone()))
    for block in model.blocks:
        handle = block.register_forward_hook(lambda b, args, out: stream.append((out[0] if isinstance(out, tuple) else out).clone()))
    with torch.no_grad():
        model(ids)
    handle.remove()
    with torch.no_grad():
        return torch.stack([model.head(model.norm(h)) for h in stream])


@misconception("logit_lens", "Leaves its hooks where the model raises an error: that takes a finally.")
def leaves_lens_hooks_after_an_error(model, ids):
    handle = model.blocks[0].register_forward_hook(lambda block, args, output: None)
    with torch.no_grad():
        model(ids)
    handle.remove()
    return reference_lens(model, ids)


@misconception("logit_lens", "Clears all hooks of the blocks, also those that were there.")
def clears_the_blocks_hooks(model, ids):
    y = reference_lens(model, ids)
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return y


@misconception("logit_lens", "Runs the model once for each layer.")
def runs_for_each_layer(model, ids):
    return torch.stack([reference_lens(model, ids)[k] for k in range(len(model.blocks) + 1)])


@misconception("logit_lens", "Records a graph.")
def lens_with_a_graph(model, ids):
    y = reference_lens(model, ids)
    return y + 0 * next(p for p in model.parameters() if p.requires_grad).sum()


@misconception("logit_lens", "Puts the model into eval mode: it is used in the mode in which it is.")
def lens_in_eval_mode(model, ids):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return reference_lens(model, ids)
    finally:
        for module, mode in modes.items():
            module.training = mode


# activation_patch


def _patched(
    model, clean, corrupt, metric, num_heads, *, into=None, share=None, places=None, width=None, check=True, each=None, source=None
):
    """The right answer with one part replaced."""
    if check and clean.shape != corrupt.shape:
        raise ValueError(clean.shape)
    layers, kept = [block.attn.out_proj for block in model.blocks], {}

    def run(ids, some, hook):
        handles = [layer.register_forward_pre_hook(hook) for layer in some]
        try:
            return metric(model(ids))
        finally:
            for handle in handles:
                handle.remove()

    def keep(layer, args):
        kept[layer] = args[0].clone()

    with torch.no_grad():
        best = run(clean, layers, keep)
        worst = metric(model(corrupt))
        if check and best == worst:
            raise ValueError(best)
        if source is not None:
            kept = {layer: source(z) for layer, z in kept.items()}
        T = clean.shape[1]
        effects = best.new_zeros(len(layers), num_heads, T)
        for i, h, t in itertools.product(range(len(layers)), range(num_heads), range(T)):

            def patch(layer, args, h=h, t=t):
                z = args[0].clone()
                D = z.shape[-1] // num_heads
                columns = slice(h * D, (h + 1) * D) if width is None else width(h, D, num_heads)
                rows = t if places is None else places(t)
                z[:, rows, columns] = kept[layer][:, rows, columns]
                return z if each is None else each(z, args[0])

            effects[i, h, t] = run(corrupt if into is None else into, [layers[i]], patch)
        return (effects - worst) / (best - worst) if share is None else share(effects, best, worst)


@misconception("activation_patch", "Patches all positions at once: one at a time is asked for.")
def patches_all_positions(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, places=lambda t: slice(None))


@misconception("activation_patch", "Patches all positions up to the one asked for.")
def patches_up_to_the_position(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, places=lambda t: slice(0, t + 1))


@misconception("activation_patch", "Patches all heads of the block at once.")
def patches_all_heads(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, width=lambda h, D, H: slice(None))


@misconception("activation_patch", "Takes every H-th feature for a head: a head's features are neighbours.")
def takes_every_hth_feature(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, width=lambda h, D, H: slice(h, None, H))


@misconception("activation_patch", "Takes one feature for a head.")
def takes_one_feature(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, width=lambda h, D, H: slice(h, h + 1))


@misconception("activation_patch", "Returns the patched metric, neither shifted nor scaled.")
def returns_the_metric(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, share=lambda e, best, worst: e)


@misconception("activation_patch", "Subtracts the corrupt metric, and forgets to divide.")
def forgets_to_divide(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, share=lambda e, best, worst: e - worst)


@misconception("activation_patch", "Counts what is missing to the clean run: 0 and 1 are exchanged.")
def counts_what_is_missing(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, share=lambda e, best, worst: (best - e) / (best - worst))


@misconception("activation_patch", "Divides by the size of the difference: a metric that falls gives effects of the other sign.")
def divides_by_the_size(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, share=lambda e, best, worst: (e - worst) / (best - worst).abs())


@misconception("activation_patch", "Limits effects to 0 … 1: they may be below and above.")
def limits_the_effects(model, clean, corrupt, metric, *, num_heads):
    return reference_patch(model, clean, corrupt, metric, num_heads=num_heads).clamp(0, 1)


@misconception("activation_patch", "Patches the clean run with the corrupt one: it is the other way round.")
def patches_the_clean_run(model, clean, corrupt, metric, *, num_heads):
    return reference_patch(model, corrupt, clean, metric, num_heads=num_heads)


@misconception("activation_patch", "Puts the patch into a run on the clean prompt, where it changes nothing.")
def patches_into_the_clean_prompt(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, into=clean)


@misconception("activation_patch", "Puts zeros in place of the head's output: that is ablation.")
def zeros_for_the_head(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, source=torch.zeros_like)


@misconception("activation_patch", "Takes the clean run's mean over the batch: each prompt has its own.")
def mean_of_the_prompts(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, source=lambda z: z.mean(0, keepdim=True).expand_as(z))


@misconception("activation_patch", "Patches the first prompt of the batch only.")
def patches_the_first_prompt(model, clean, corrupt, metric, *, num_heads):
    return _patched(model, clean, corrupt, metric, num_heads, each=lambda z, old: torch.cat((z[:1], old[1:])))


@misconception("activation_patch", "Patches what out_proj gives, where the heads are mixed already.")
def patches_behind_the_projection(model, clean, corrupt, metric, *, num_heads):
    if clean.shape != corrupt.shape:
        raise ValueError(clean.shape)
    layers, kept = [block.attn.out_proj for block in model.blocks], {}
    with torch.no_grad():
        handles = [layer.register_forward_hook(lambda layer, args, output: kept.update({layer: output.clone()})) for layer in layers]
        try:
            best = metric(model(clean))
        finally:
            for handle in handles:
                handle.remove()
        worst = metric(model(corrupt))
        if best == worst:
            raise ValueError(best)
        effects = best.new_zeros(len(layers), num_heads, clean.shape[1])
        for i, h, t in itertools.product(*map(range, effects.shape)):

            def patch(layer, args, output, h=h, t=t):
                y = output.clone()
                D = y.shape[-1] // num_heads
                y[:, t, h * D : (h + 1) * D] = kept[layer][:, t, h * D : (h + 1) * D]
                return y

            handle = layers[i].register_forward_hook(patch)
            try:
                effects[i, h, t] = metric(model(corrupt))
            finally:
                handle.remove()
    return (effects - worst) / (best - worst)


@misconception("activation_patch", "Leaves each patch in place: later runs have all patches so far.")
def patches_pile_up(model, clean, corrupt, metric, *, num_heads):
    if clean.shape != corrupt.shape:
        raise ValueError(clean.shape)
    reference_patch(model, clean, corrupt, metric, num_heads=num_heads)
    layers, kept, handles = [block.attn.out_proj for block in model.blocks], {}, []
    try:
        with torch.no_grad():
            own = [layer.register_forward_pre_hook(lambda layer, args: kept.update({layer: args[0].clone()})) for layer in layers]
            best = metric(model(clean))
            for handle in own:
                handle.remove()
            worst = metric(model(corrupt))
            effects = best.new_zeros(len(layers), num_heads, clean.shape[1])
            for i, h, t in itertools.product(*map(range, effects.shape)):

                def patch(layer, args, h=h, t=t):
                    z = args[0].clone()
                    D = z.shape[-1] // num_heads
                    z[:, t, h * D : (h + 1) * D] = kept[layer][:, t, h * D : (h + 1) * D]
                    return z

                handles.append(layers[i].register_forward_pre_hook(patch))
                effects[i, h, t] = metric(model(corrupt))
    finally:
        for handle in handles:
            handle.remove()
    return (effects - worst) / (best - worst)


@misconception(
    "activation_patch", "Makes the hook in a loop without binding h and t in time: every hook patches the last head and position."
)
def binds_too_late(model, clean, corrupt, metric, *, num_heads):
    T = clean.shape[1]
    return _patched(model, clean, corrupt, metric, num_heads, places=lambda t: T - 1, width=lambda h, D, H: slice((H - 1) * D, H * D))


@misconception("activation_patch", "Exchanges heads and positions in the result.")
def exchanges_heads_and_positions(model, clean, corrupt, metric, *, num_heads):
    return reference_patch(model, clean, corrupt, metric, num_heads=num_heads).transpose(1, 2).contiguous()


@misconception("activation_patch", "Averages the effects over the positions.")
def averages_over_positions(model, clean, corrupt, metric, *, num_heads):
    return reference_patch(model, clean, corrupt, metric, num_heads=num_heads).mean(2)


@misconception("activation_patch", "Patches the first block only.")
def first_block_only(model, clean, corrupt, metric, *, num_heads):
    return reference_patch(model, clean, corrupt, metric, num_heads=num_heads)[:1]


@misconception("activation_patch", "Leaves its hooks on the layers.")
def leaves_patch_hooks(model, clean, corrupt, metric, *, num_heads):
    y = reference_patch(model, clean, corrupt, metric, num_heads=num_heads)
    model.blocks[0].attn.out_proj.register_forward_pre_hook(lambda layer, args: None)
    return y


@misconception("activation_patch", "Leaves its hooks where the model raises an error in the clean run.")
def leaves_hooks_after_an_error(model, clean, corrupt, metric, *, num_heads):
    handle = model.blocks[0].attn.out_proj.register_forward_pre_hook(lambda layer, args: None)
    with torch.no_grad():
        model(clean)
    handle.remove()
    return reference_patch(model, clean, corrupt, metric, num_heads=num_heads)


@misconception("activation_patch", "Leaves its hooks where the metric raises an error.")
def leaves_hooks_after_the_metric(model, clean, corrupt, metric, *, num_heads):
    layer = model.blocks[0].attn.out_proj
    handle = layer.register_forward_pre_hook(lambda layer, args: None)
    with torch.no_grad():
        try:
            logits = model(clean)
        except Exception:
            handle.remove()
            raise
        metric(logits)
    handle.remove()
    return reference_patch(model, clean, corrupt, metric, num_heads=num_heads)


@misconception("activation_patch", "Clears all hooks of the model, also those that were there.")
def clears_the_models_hooks(model, clean, corrupt, metric, *, num_heads):
    y = reference_patch(model, clean, corrupt, metric, num_heads=num_heads)
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return y


@misconception("activation_patch", "Divides by 0 where both prompts have the same metric.")
def divides_by_zero(model, clean, corrupt, metric, *, num_heads):
    if clean.shape != corrupt.shape:
        raise ValueError(clean.shape)
    with torch.no_grad():
        same = metric(model(clean)) == metric(model(corrupt))
    if same:
        return torch.full((len(model.blocks), num_heads, clean.shape[1]), torch.nan)
    return reference_patch(model, clean, corrupt, metric, num_heads=num_heads)


@misconception("activation_patch", "Cuts the longer prompt instead of refusing it.")
def cuts_the_longer_prompt(model, clean, corrupt, metric, *, num_heads):
    B, T = min(len(clean), len(corrupt)), min(clean.shape[1], corrupt.shape[1])
    return reference_patch(model, clean[:B, :T], corrupt[:B, :T], metric, num_heads=num_heads)


@misconception("activation_patch", "Records a graph.")
def patches_with_a_graph(model, clean, corrupt, metric, *, num_heads):
    y = reference_patch(model, clean, corrupt, metric, num_heads=num_heads)
    return y + 0 * next(p for p in model.parameters() if p.requires_grad).sum()


@misconception("activation_patch", "Puts the model into eval mode: it is used in the mode in which it is.")
def patches_in_eval_mode(model, clean, corrupt, metric, *, num_heads):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return reference_patch(model, clean, corrupt, metric, num_heads=num_heads)
    finally:
        for module, mode in modes.items():
            module.training = mode


# SparseAutoencoder


@misconception("SparseAutoencoder", "Does not subtract b_dec from the activation: the bias is used on both sides.")
class BiasOnOneSide(ReferenceAutoencoder):
    def forward(self, x):
        f = F.relu(x @ self.W_enc + self.b_enc)
        return f @ self.W_dec + self.b_dec, f


@misconception("SparseAutoencoder", "Does not add b_dec at the end.")
class BiasNotAdded(ReferenceAutoencoder):
    def forward(self, x):
        f = F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        return f @ self.W_dec, f


@misconception("SparseAutoencoder", "Subtracts a b_dec without gradient: it is one parameter, with two uses.")
class BiasDetached(ReferenceAutoencoder):
    def forward(self, x):
        f = F.relu((x - self.b_dec.detach()) @ self.W_enc + self.b_enc)
        return f @ self.W_dec + self.b_dec, f


@misconception("SparseAutoencoder", "Forgets the ReLU: features below 0 are no features.")
class NoRelu(ReferenceAutoencoder):
    def forward(self, x):
        f = (x - self.b_dec) @ self.W_enc + self.b_enc
        return f @ self.W_dec + self.b_dec, f


@misconception("SparseAutoencoder", "Uses the decoder's transpose as the encoder: they are parameters of their own.")
class TiedWeights(ReferenceAutoencoder):
    def forward(self, x):
        f = F.relu((x - self.b_dec) @ self.W_dec.T + self.b_enc + 0 * self.W_enc.sum())
        return f @ self.W_dec + self.b_dec, f


@misconception("SparseAutoencoder", "Reconstructs with rows of length 1, whatever the decoder holds.")
class NormalizesInForward(ReferenceAutoencoder):
    def forward(self, x):
        f = F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        return f @ (self.W_dec / self.W_dec.norm(dim=1, keepdim=True)) + self.b_dec, f


@misconception("SparseAutoencoder", "Returns features and reconstruction in the wrong order.")
class ExchangesTheResults(ReferenceAutoencoder):
    def forward(self, x):
        y, f = super().forward(x)
        return f, y

    def loss(self, x):
        f, y = self(x)
        return ((x - y).square().sum(-1) + self.l1 * f.sum(-1)).mean()


@misconception("SparseAutoencoder", "Averages the squared error over the dimensions: it is summed over them.")
class AveragesTheError(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return F.mse_loss(y, x) + self.l1 * f.sum(-1).mean()


@misconception("SparseAutoencoder", "Averages the features' price over the features: it is summed over them.")
class AveragesThePrice(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return (x - y).square().sum(-1).mean() + self.l1 * f.mean()


@misconception("SparseAutoencoder", "Sums over the activations: their mean is meant.")
class SumsOverActivations(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return (x - y).square().sum() + self.l1 * f.sum()


@misconception("SparseAutoencoder", "Divides by the first axis only: activations may have several.")
class DividesByTheFirstAxis(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return ((x - y).square().sum() + self.l1 * f.sum()) / (len(x) if x.dim() > 1 else 1)


@misconception("SparseAutoencoder", "Takes the length of the error, not its square.")
class LengthOfTheError(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return ((x - y).norm(dim=-1) + self.l1 * f.sum(-1)).mean()


@misconception("SparseAutoencoder", "Prices the squares of the features: that makes them small, not few.")
class PricesSquares(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return ((x - y).square().sum(-1) + self.l1 * f.square().sum(-1)).mean()


@misconception("SparseAutoencoder", "Counts active features: a count has no gradient.")
class CountsFeatures(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return ((x - y).square().sum(-1) + self.l1 * (f > 0).sum(-1)).mean()


@misconception("SparseAutoencoder", "Weighs features with the lengths of their rows: here they count as they are.")
class PricesWithLengths(ReferenceAutoencoder):
    def loss(self, x):
        y, f = self(x)
        return ((x - y).square().sum(-1) + self.l1 * (f * self.W_dec.norm(dim=1)).sum(-1)).mean()


@misconception("SparseAutoencoder", "Prices what comes before the ReLU.")
class PricesBeforeRelu(ReferenceAutoencoder):
    def loss(self, x):
        y, _ = self(x)
        before = (x - self.b_dec) @ self.W_enc + self.b_enc
        return ((x - y).square().sum(-1) + self.l1 * before.abs().sum(-1)).mean()


@misconception("SparseAutoencoder", "Takes `l1 or 1.0`: a price of 0 is free.")
class ZeroPriceIsOne(ReferenceAutoencoder):
    def __init__(self, d, m, *, l1, generator):
        super().__init__(d, m, l1=l1 or 1.0, generator=generator)


@misconception("SparseAutoencoder", "Removes the part along the columns: the rows are the directions.")
class RemovesAlongColumns(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        w, g = self.W_dec.detach(), self.W_dec.grad
        if g is not None:
            g -= (g * w).sum(0, keepdim=True) / w.square().sum(0, keepdim=True) * w


@misconception("SparseAutoencoder", "Takes rows for unit vectors: g − (g · w) w removes too much or too little of others.")
class RowsOfLengthOne(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        w, g = self.W_dec.detach(), self.W_dec.grad
        if g is not None:
            g -= (g * w).sum(1, keepdim=True) * w


@misconception("SparseAutoencoder", "Keeps the parallel part, and removes the rest.")
class KeepsTheParallelPart(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        w, g = self.W_dec.detach(), self.W_dec.grad
        if g is not None:
            g.copy_((g * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w)


@misconception("SparseAutoencoder", "Divides by the length instead of by its square.")
class DividesByTheLength(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        w, g = self.W_dec.detach(), self.W_dec.grad
        if g is not None:
            g -= (g * w).sum(1, keepdim=True) / w.norm(dim=1, keepdim=True) * w


@misconception("SparseAutoencoder", "Uses F.normalize, which divides by no less than 1e-12: short rows are not what it takes them for.")
class ClampsLengths(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        w, g = F.normalize(self.W_dec.detach(), dim=1), self.W_dec.grad
        if g is not None:
            g -= (g * w).sum(1, keepdim=True) * w

    def normalize_decoder(self):
        with torch.no_grad():
            self.W_dec.copy_(F.normalize(self.W_dec, dim=1))


@misconception("SparseAutoencoder", "Adds 1e-8 to the length: short rows stay short.")
class AddsToTheLength(ReferenceAutoencoder):
    def normalize_decoder(self):
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True) + 1e-8


@misconception("SparseAutoencoder", "Projects the weights instead of the gradient.")
class ProjectsTheWeights(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        g = self.W_dec.grad
        if g is not None:
            with torch.no_grad():
                self.W_dec -= (g * self.W_dec).sum(1, keepdim=True) / g.square().sum(1, keepdim=True) * g


@misconception("SparseAutoencoder", "Fails where there is no gradient yet.")
class NeedsAGradient(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        w, g = self.W_dec.detach(), self.W_dec.grad
        g -= (g * w).sum(1, keepdim=True) / w.square().sum(1, keepdim=True) * w


@misconception("SparseAutoencoder", "Projects the encoder's gradient as well.")
class ProjectsTheEncoder(ReferenceAutoencoder):
    def remove_parallel_gradient(self):
        super().remove_parallel_gradient()
        w, g = self.W_enc.detach(), self.W_enc.grad
        if g is not None:
            g -= (g * w).sum(0, keepdim=True) / w.square().sum(0, keepdim=True) * w


@misconception("SparseAutoencoder", "Normalizes columns: the rows are the directions.")
class NormalizesColumns(ReferenceAutoencoder):
    def normalize_decoder(self):
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=0, keepdim=True)


@misconception("SparseAutoencoder", "Divides by the length of the whole matrix.")
class NormalizesTheMatrix(ReferenceAutoencoder):
    def normalize_decoder(self):
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm()


@misconception("SparseAutoencoder", "Shortens long rows only: short ones get the length 1, too.")
class ShortensOnly(ReferenceAutoencoder):
    def normalize_decoder(self):
        with torch.no_grad():
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True).clamp(min=1.0)


@misconception("SparseAutoencoder", "Makes a new parameter: the optimizer goes on with the old one.")
class NewParameter(ReferenceAutoencoder):
    def normalize_decoder(self):
        self.W_dec = nn.Parameter(self.W_dec.detach() / self.W_dec.detach().norm(dim=1, keepdim=True))


@misconception("SparseAutoencoder", "Normalizes the encoder, too.")
class NormalizesTheEncoder(ReferenceAutoencoder):
    def normalize_decoder(self):
        super().normalize_decoder()
        with torch.no_grad():
            self.W_enc /= self.W_enc.norm(dim=0, keepdim=True)


@misconception("SparseAutoencoder", "Uniform numbers at the start: normal ones are asked for.")
class UniformStart(ReferenceAutoencoder):
    def __init__(self, d, m, *, l1, generator):
        super().__init__(d, m, l1=l1, generator=generator)
        rows = torch.rand(m, d, generator=generator) - 0.5
        rows /= rows.norm(dim=1, keepdim=True)
        with torch.no_grad():
            self.W_dec.copy_(rows)
            self.W_enc.copy_(rows.T)


@misconception("SparseAutoencoder", "Draws the encoder's numbers as well: it starts as the decoder's transpose.")
class EncoderOfItsOwn(ReferenceAutoencoder):
    def __init__(self, d, m, *, l1, generator):
        super().__init__(d, m, l1=l1, generator=generator)
        with torch.no_grad():
            self.W_enc.copy_(torch.randn(d, m, generator=generator) / d**0.5)


@misconception("SparseAutoencoder", "Starts with rows of any length.")
class AnyLengthAtStart(ReferenceAutoencoder):
    def __init__(self, d, m, *, l1, generator):
        super().__init__(d, m, l1=l1, generator=torch.Generator().manual_seed(0))
        rows = torch.randn(m, d, generator=generator)
        with torch.no_grad():
            self.W_dec.copy_(rows)
            self.W_enc.copy_(rows.T)


@misconception("SparseAutoencoder", "Makes the encoder a view of the decoder: what changes one changes the other.")
class EncoderIsAView(ReferenceAutoencoder):
    def __init__(self, d, m, *, l1, generator):
        super().__init__(d, m, l1=l1, generator=generator)
        self.W_enc = nn.Parameter(self.W_dec.detach().T)


@misconception("SparseAutoencoder", "Keeps the price as a buffer: it is no state.")
class PriceAsBuffer(ReferenceAutoencoder):
    def __init__(self, d, m, *, l1, generator):
        super().__init__(d, m, l1=l1, generator=generator)
        del self.l1
        self.register_buffer("l1", torch.tensor(float(l1)))


@misconception("SparseAutoencoder", "Uses torch's global generator.")
class GlobalGenerator(ReferenceAutoencoder):
    def __init__(self, d, m, *, l1, generator):
        super().__init__(d, m, l1=l1, generator=torch.default_generator)
