"""Hidden suite of the module training."""

import math
import os
import pickle
import random
import tempfile
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from grader.testing import LAYOUTS, Ending, measured, raised, task

F64 = torch.float64


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def linear(weight, bias):
    """A linear layer with copies of the given parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def classifier(w1, w2):
    """Linear, batch norm, tanh, linear (no biases drawn: they start at 0.1)."""
    bias1, bias2 = torch.full_like(w1[:, 0], 0.1), torch.full_like(w2[:, 0], 0.1)
    return nn.Sequential(linear(w1, bias1), nn.BatchNorm1d(len(w1), dtype=w1.dtype), nn.Tanh(), linear(w2, bias2))


def mixed(draw, training):
    """A classifier whose batch norm is in another mode than the rest."""
    model = classifier(draw.normal(7, 5, dtype=F64), draw.normal(3, 7, dtype=F64)).train(training)
    model[1].train(not training)
    return model


def state_of(model):
    """The model's parameters and buffers as a plain dict of copies."""
    return {name: value.clone() for name, value in model.state_dict().items()}


class Recorder(nn.Module):
    """Passes its input through `inner` and writes down what happens."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.sizes, self.modes, self.grad_enabled, self.events = [], [], [], []

    def forward(self, x):
        self.sizes.append(len(x))
        self.modes.append([module.training for module in self.modules()])
        self.grad_enabled.append(torch.is_grad_enabled())
        self.events.append("forward")
        out = self.inner(x)
        if out.requires_grad:
            out.register_hook(lambda grad: self.events.append("backward"))
        return out


@task("cross_entropy")
class TestCrossEntropy:
    @pytest.mark.parametrize(("shape", "smoothing"), [((7, 11), 0.0), ((7, 11), 0.1), ((7, 11), 1.0), ((1, 13), 0.1), ((3, 300), 0.2)])
    def test_value_and_gradient(self, agree, draw, shape, smoothing):
        """The mean over the rows and its gradient follow the formula for every label smoothing and any number of rows and classes."""
        x, y = draw.normal(*shape) * 3, draw.integers(max(shape[1] - 44, 0), shape[1], shape[0])  # 256 and more where there are 300

        def probe(m):
            logits = leaf(x)
            loss = m.cross_entropy(logits, y, label_smoothing=smoothing)
            (3 * loss).backward()
            return loss.detach(), logits.grad

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("ignore_index", "smoothing"), [(-100, 0.0), (-100, 0.2), (0, 0.1), (3, 0.2), (17, 0.0)])
    def test_ignored_rows_do_not_count(self, agree, draw, ignore_index, smoothing):
        """Rows with ignore_index, a class number or not, add nothing to loss, count or gradient, whatever they hold."""
        x, y = draw.normal(11, 5), draw.integers(0, 5, 11)
        y[2] = y[7] = ignore_index
        y[4] = 1
        x = draw.poisoned(x, (y == ignore_index)[:, None])

        def probe(m):
            logits = leaf(x)
            loss = m.cross_entropy(logits, y, ignore_index=ignore_index, label_smoothing=smoothing)
            loss.backward()
            return loss.detach(), logits.grad

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("rows", [5, 0])
    def test_nothing_left_to_average_gives_zero(self, agree, draw, rows):
        """With every row ignored, no rows at all or a single class, loss and gradient are 0, whatever the ignored rows hold."""
        x, y, other = draw.poisoned(draw.normal(rows, 3), draw.bools(rows, 3)), torch.full((rows,), -100), draw.normal(7, 3)
        labels = draw.integers(0, 3, 7)

        def probe(m):
            logits = leaf(x)
            loss = m.cross_entropy(logits, y, label_smoothing=0.1)
            loss.backward()
            single = m.cross_entropy(other[:, :1], torch.zeros_like(labels), label_smoothing=0.1)
            return loss.detach(), logits.grad, single, m.cross_entropy(other, labels)

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    def test_huge_scores(self, agree, draw, dtype, smoothing):
        """Scores of ±10,000 give the right loss and gradient, never inf or NaN."""
        # Whole numbers in random order: no two scores of a row are close, so that rounding can't decide.
        x = torch.stack([draw.permutation(7) - 3 for _ in range(5)]).to(dtype) * 10_000
        y = draw.integers(0, 7, 5)

        def probe(m):
            logits = leaf(x)
            loss = m.cross_entropy(logits, y, label_smoothing=smoothing)
            loss.backward()
            return loss.detach(), logits.grad

        agree(probe, rtol=1e-5 if dtype == torch.float32 else 1e-9, atol=1e-2 if dtype == torch.float32 else 1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_double_precision_and_strides(self, agree, draw, layout):
        """A float64 input that is not contiguous keeps its dtype and its precision; so may the targets be."""
        x, y = draw.normal(7, 11, dtype=F64, layout=layout), draw.integers(0, 11, 7, layout="sliced")
        agree(lambda m: m.cross_entropy(x, y, label_smoothing=0.1), rtol=1e-9, atol=1e-9)

    def test_wrong_targets_are_refused(self, agree, draw):
        """A target of C, of −1 or of −100 is a ValueError unless it is ignore_index."""
        x, y = draw.normal(5, 3), draw.integers(0, 3, 5)
        high, low, usual = y.clone(), y.clone(), y.clone()
        high[3], low[1], usual[2] = 3, -1, -100

        def probe(m):
            return [
                m.cross_entropy(x, y),
                raised(ValueError, lambda: m.cross_entropy(x, high)),
                raised(ValueError, lambda: m.cross_entropy(x, low)),
                raised(ValueError, lambda: m.cross_entropy(x, usual, ignore_index=-1)),
                m.cross_entropy(x, high, ignore_index=3),
                m.cross_entropy(x, low, ignore_index=-1),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


def thawed(make, start, grads):
    """The positions of parameters, each frozen while the optimizer is made, after a step with each row of gradients."""
    params = [x.clone() for x in start]
    optimizer = make(params)
    path = []
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.requires_grad_().grad = g
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


def descend(make, start, targets, steps, lrs=None):
    """The positions of an optimizer's parameters after each step down a bumpy slope."""
    params = [leaf(x) for x in start]
    optimizer = make(params)
    path = []
    for i in range(steps):
        if lrs is not None and lrs[i] is not None:
            optimizer.lr = lrs[i]
        for p in params:
            p.grad = None
        sum(((p - t).square() + (3 * p).sin()).sum() for p, t in zip(params, targets, strict=True)).backward()
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


def in_turns(make, start, grads):
    """The positions of parameters that have an optimizer each, which take steps in turns; and then all over again with new optimizers."""
    params = [leaf(x) for x in start]
    for _ in range(2):
        optimizers = [make([p]) for p in params]
        for row in grads:
            for p, g, optimizer in zip(params, row, optimizers, strict=True):
                p.grad = g
                optimizer.step()
    return [p.detach() for p in params]


def slope(draw, dtype=F64):
    """Starting points and targets for `descend`."""
    start = [draw.normal(3, 5, dtype=dtype, layout="transposed"), draw.normal(7, dtype=dtype), draw.normal(1, dtype=dtype)[0]]
    return start, [(x + draw.normal(1, dtype=dtype)) for x in start]


def follow(make, start, grads):
    """The positions of parameters after each step of an optimizer, with these very tensors as gradients; None where there is none."""
    params = [leaf(x) for x in start]
    optimizer = make(params)
    path = []
    for row in grads:
        for p, g in zip(params, row, strict=True):
            p.grad = g
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return path


@task("SGD")
class TestSGD:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"weight_decay": 0.1},
            {"momentum": 0.9, "weight_decay": 0.1},
            {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        ],
        ids=["plain", "decay", "momentum", "nesterov"],
    )
    def test_eight_steps(self, agree, draw, settings):
        """Eight steps follow the rule, for every combination of settings."""
        start, targets = slope(draw)
        agree(lambda m: descend(lambda p: m.SGD(p, 0.03, **settings), start, targets, 8), rtol=1e-9, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 parameters stay float32."""
        start, targets = slope(draw, torch.float32)
        agree(lambda m: descend(lambda p: m.SGD(p, 0.03, momentum=0.9), start, targets, 5), rtol=1e-4, atol=1e-5)

    def test_parameters_without_gradient(self, agree, draw):
        """Where grad is None, neither the parameter nor its v changes."""
        x, grads = draw.normal(2, 5, dtype=F64), draw.normal(4, 2, 5, dtype=F64)
        rows = [(a, b if i in (1, 3) else None) for i, (a, b) in enumerate(grads)]
        agree(lambda m: follow(lambda p: m.SGD(p, 0.1, momentum=0.9, weight_decay=0.1), x, rows), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"weight_decay": 0.3}, {"momentum": 0.8, "nesterov": True}], ids=" ".join)
    def test_gradients_are_left_alone(self, agree, draw, settings):
        """Step changes no gradient, and gradients overwritten in place later don't reach v."""
        x, grads = draw.normal(7, dtype=F64), draw.normal(4, 7, dtype=F64)

        def probe(m):
            p = leaf(x)
            p.grad = torch.zeros_like(x)
            optimizer = m.SGD([p], 0.1, **settings)
            path = []
            for g in grads:
                p.grad.copy_(g)
                optimizer.step()
                path.append((p.detach().clone(), p.grad.clone()))
            return path

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    def test_updates_in_place_without_a_graph(self, agree, draw):
        """Whoever shares the parameter's memory sees the update; the parameter stays a leaf. params may be a generator."""
        x = draw.normal(2, 5, dtype=F64)

        def probe(m):
            params = [leaf(row) for row in x]
            shared = [p.detach() for p in params]
            optimizer = m.SGD((p for p in params), 0.1, momentum=0.5, weight_decay=0.1)
            for _ in range(3):
                for p in params:
                    p.grad = None
                sum(p.exp().sum() for p in params).backward()
                optimizer.step()
            return shared, [(p.requires_grad, p.is_leaf) for p in params]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_lr_can_be_changed(self, agree, draw):
        """A learning rate set between steps, or 0 at first, holds from the next step on, for the whole of v."""
        start, targets = slope(draw)
        lrs = [None, *draw.uniform(5, low=0.01, high=0.1, dtype=F64).tolist()]
        lrs[3] = 0.0
        agree(lambda m: descend(lambda p: m.SGD(p, 0.0, momentum=0.9), start, targets, 6, lrs), rtol=1e-9, atol=1e-9)

    def test_frozen_for_a_while(self, agree, draw):
        """A parameter that is frozen when the optimizer is made learns as soon as it has a gradient."""
        x, grads = draw.normal(3, 5, dtype=F64), draw.normal(3, 3, 5, dtype=F64)
        agree(lambda m: thawed(lambda p: m.SGD(p, 0.1, momentum=0.9), x, grads), rtol=1e-9, atol=1e-9)

    def test_zero_grad(self, agree, draw):
        """zero_grad sets every gradient to None, after a step that used it; the gradient's tensor itself keeps its values."""
        x, g = draw.normal(2, 5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            a, b = leaf(x[0]), leaf(x[1])
            optimizer = m.SGD([a, b], 0.1)
            a.grad = g
            optimizer.step()
            optimizer.zero_grad()
            return a.detach(), a.grad, b.grad

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_two_optimizers(self, agree, draw):
        """Each optimizer has its own v's, also a second one for the same parameters."""
        x, grads = draw.normal(2, 5, dtype=F64), draw.normal(3, 2, 5, dtype=F64)
        agree(lambda m: in_turns(lambda p: m.SGD(p, 0.1, momentum=1.0), x, grads), rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after a step what it was before, under no_grad, too."""
        x, g = draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            p = leaf(x)
            p.grad = g.clone()
            optimizer = m.SGD([p], 0.1, momentum=0.9, weight_decay=0.1)
            with torch.set_grad_enabled(recording):
                optimizer.step()
                return p.detach(), torch.is_grad_enabled()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_wrong_settings_are_refused(self, agree, draw):
        """A negative lr, and nesterov without momentum, are ValueErrors."""
        start, targets = slope(draw)

        def probe(m):
            return [
                descend(lambda p: m.SGD(p, 0.03, momentum=0.5, nesterov=True), start, targets, 2),
                raised(ValueError, lambda: m.SGD([leaf(start[0])], -0.1)),
                raised(ValueError, lambda: m.SGD([leaf(start[0])], 0.1, nesterov=True)),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


@task("AdamW")
class TestAdamW:
    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after a step what it was before, under no_grad, too."""
        x, g = draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            p = leaf(x)
            p.grad = g.clone()
            optimizer = m.AdamW([p], lr=0.1, weight_decay=0.1)
            with torch.set_grad_enabled(recording):
                optimizer.step()
                return p.detach(), torch.is_grad_enabled()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(
        "settings",
        [
            {"lr": 0.05, "weight_decay": 0.0},
            {"lr": 0.1, "weight_decay": 0.3},
            {"lr": 0.1, "betas": (0.5, 0.8), "weight_decay": 0.1},
            {"lr": 0.1, "eps": 0.7},
            {"lr": 0.1, "betas": (0.0, 0.0), "eps": 0.0},
            {},
        ],
        ids=["adam", "decay", "betas", "eps", "zeros", "defaults"],
    )
    def test_eight_steps(self, agree, draw, settings):
        """Eight steps follow the rule: bias correction, decoupled decay, eps outside the root, the stated defaults."""
        start, targets = slope(draw)
        agree(lambda m: descend(lambda p: m.AdamW(p, **settings), start, targets, 8), rtol=1e-8, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 parameters stay float32."""
        x, grads = [draw.normal(7)], draw.normal(5, 1, 7)
        agree(lambda m: follow(lambda p: m.AdamW(p, 0.1, eps=0.1), x, grads), rtol=1e-4, atol=1e-4)

    def test_gradients_of_any_size(self, agree, draw):
        """Gradients from 1e-9 to 1e9 follow the rule, too, and step doesn't change them."""
        x = [draw.normal(11, dtype=F64)]
        grads = [[draw.magnitudes(11, low=1e-9, high=1e9, dtype=F64)] for _ in range(4)]
        agree(lambda m: follow(lambda p: m.AdamW(p, 0.1), x, grads), rtol=1e-6, atol=1e-9)

    def test_parameters_without_gradient(self, agree, draw):
        """Where grad is None, nothing changes, and t counts only the parameter's own steps."""
        x, grads = draw.normal(2, 5, dtype=F64), draw.normal(5, 2, 5, dtype=F64)
        rows = [(a, b if i in (2, 4) else None) for i, (a, b) in enumerate(grads)]
        agree(lambda m: follow(lambda p: m.AdamW(p, 0.1, weight_decay=0.2), x, rows), rtol=1e-8, atol=1e-9)

    def test_frozen_for_a_while(self, agree, draw):
        """A parameter that is frozen when the optimizer is made learns as soon as it has a gradient."""
        x, grads = draw.normal(3, 5, dtype=F64), draw.normal(3, 3, 5, dtype=F64)
        agree(lambda m: thawed(lambda p: m.AdamW(p, 0.1), x, grads), rtol=1e-8, atol=1e-9)

    def test_two_optimizers(self, agree, draw):
        """Each optimizer has its own t, m and v, also a second one for the same parameters."""
        x, grads = draw.normal(2, 5, dtype=F64), draw.normal(3, 2, 5, dtype=F64)
        agree(lambda m: in_turns(lambda p: m.AdamW(p, 0.1), x, grads), rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_updates_in_place_without_a_graph(self, agree, draw):
        """Whoever shares the parameter's memory sees the update; the parameter stays a leaf. params may be a generator."""
        x = draw.normal(2, 5, dtype=F64)

        def probe(m):
            params = [leaf(row) for row in x]
            shared = [p.detach() for p in params]
            optimizer = m.AdamW((p for p in params), 0.1, weight_decay=0.1)
            for _ in range(3):
                for p in params:
                    p.grad = None
                sum(p.exp().sum() for p in params).backward()
                optimizer.step()
            return shared, [(p.requires_grad, p.is_leaf) for p in params]

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_lr_can_be_changed(self, agree, draw):
        """A learning rate set between steps, or 0 at first, holds from the next step on, for the decay too."""
        start, targets = slope(draw)
        lrs = [None, *draw.uniform(5, low=0.01, high=0.1, dtype=F64).tolist()]
        lrs[3] = 0.0
        agree(lambda m: descend(lambda p: m.AdamW(p, 0.0, weight_decay=0.5), start, targets, 6, lrs), rtol=1e-8, atol=1e-9)

    def test_zero_grad(self, agree, draw):
        """zero_grad sets every gradient to None, after a step that used it; the gradient's tensor itself keeps its values."""
        x, g = draw.normal(2, 5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            a, b = leaf(x[0]), leaf(x[1])
            optimizer = m.AdamW([a, b], 0.1)
            a.grad = g
            optimizer.step()
            optimizer.zero_grad()
            return a.detach(), a.grad, b.grad

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_wrong_settings_are_refused(self, agree, draw):
        """A negative lr, or a beta outside [0, 1), is a ValueError; a beta of 0 is fine."""
        start, targets = slope(draw)

        def probe(m):
            return [
                descend(lambda p: m.AdamW(p, 0.1, betas=(0.0, 0.9)), start, targets, 3),
                raised(ValueError, lambda: m.AdamW([leaf(start[0])], -0.1)),
                raised(ValueError, lambda: m.AdamW([leaf(start[0])], betas=(1.0, 0.9))),
                raised(ValueError, lambda: m.AdamW([leaf(start[0])], betas=(-0.1, 0.9))),
                raised(ValueError, lambda: m.AdamW([leaf(start[0])], betas=(0.9, 1.0))),
                raised(ValueError, lambda: m.AdamW([leaf(start[0])], betas=(0.9, -0.1))),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


@task("cosine_with_warmup")
class TestCosineWithWarmup:
    @pytest.mark.parametrize("min_factor", [0.1, 0.0, 1.0])
    def test_every_step(self, agree, draw, min_factor):
        """The whole curve, and some steps after its end, for a minimum of 0, of 1 and between."""
        warmup = draw.integer(3, 9)
        total = warmup + draw.integer(11, 23)

        def probe(m):
            return [m.cosine_with_warmup(step, warmup_steps=warmup, total_steps=total, min_factor=min_factor) for step in range(total + 5)]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_default_goes_to_zero(self, agree, draw):
        """Without min_factor the curve ends at 0."""
        total = draw.integer(13, 113)
        agree(lambda m: [m.cosine_with_warmup(s, warmup_steps=2, total_steps=total) for s in range(total + 3)], rtol=1e-9, atol=1e-9)

    def test_no_warmup(self, agree, draw):
        """With warmup_steps = 0 the first factor is 1."""
        total, low = draw.integer(7, 19), draw.integer(1, 9) / 16

        def probe(m):
            return [m.cosine_with_warmup(step, warmup_steps=0, total_steps=total, min_factor=low) for step in range(total + 3)]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_only_warmup(self, agree, draw):
        """With warmup_steps = total_steps, 0 included, there is no cosine, and no division by zero."""
        total, low = draw.integer(7, 19), draw.integer(1, 9) / 16

        def probe(m):
            factors = [m.cosine_with_warmup(step, warmup_steps=total, total_steps=total, min_factor=low) for step in range(total + 3)]
            return factors, m.cosine_with_warmup(0, warmup_steps=0, total_steps=0, min_factor=low)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_drives_a_scheduler(self, agree, draw):
        """LambdaLR takes it as it is."""
        total = draw.integer(11, 19)

        def probe(m):
            optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.5)
            scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: m.cosine_with_warmup(step, warmup_steps=4, total_steps=total, min_factor=0.05)
            )
            rates = []
            for _ in range(total + 2):
                rates.append(scheduler.get_last_lr()[0])
                optimizer.step()
                scheduler.step()
            return rates

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_wrong_numbers_are_refused(self, agree, draw):
        """A negative step, a negative warm-up and one longer than everything are ValueErrors, whatever the step."""
        step, total = draw.integer(4, 9), draw.integer(11, 200)

        def probe(m):
            return [
                m.cosine_with_warmup(step, warmup_steps=3, total_steps=total),
                raised(ValueError, lambda: m.cosine_with_warmup(-1, warmup_steps=3, total_steps=11)),
                raised(ValueError, lambda: m.cosine_with_warmup(step, warmup_steps=12, total_steps=11)),
                raised(ValueError, lambda: m.cosine_with_warmup(step, warmup_steps=-1, total_steps=11)),
                raised(ValueError, lambda: m.cosine_with_warmup(20, warmup_steps=12, total_steps=11)),
                raised(ValueError, lambda: m.cosine_with_warmup(20, warmup_steps=-1, total_steps=11)),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


def with_grads(grads):
    """Parameters that have these very tensors as gradients, the last one frozen; where one is None, the parameter has none."""
    params = []
    for i, g in enumerate(grads):
        p = torch.zeros(3) if g is None else torch.zeros_like(g)
        p.requires_grad_(i < len(grads) - 1).grad = g
        params.append(p)
    return params


@task("clip_grad_norm_")
class TestClipGradNorm:
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    @pytest.mark.parametrize("max_norm", [0.0, 0.5, 2.0])
    def test_clips_the_joint_norm(self, agree, draw, dtype, max_norm):
        """All gradients shrink by one factor; the norm before is returned; None is skipped; params may be a generator."""
        grads = [draw.normal(5, 3, dtype=dtype, layout="transposed") + 2, None, draw.normal(7, dtype=dtype) * 5, draw.normal(dtype=dtype)]

        def probe(m):
            params = with_grads(grads)
            norm = m.clip_grad_norm_((p for p in params), max_norm)
            return norm, [p.grad for p in params]

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("max_norm", [1e-12, 1e-3, 1e6])
    def test_gradients_of_any_size(self, agree, draw, max_norm):
        """The factor is max_norm / norm for tiny and for huge gradients too, with nothing added to the norm."""
        grads = [draw.normal(size, dtype=F64) * 10 * max_norm for size in (5, 7)]

        def probe(m):
            norm = m.clip_grad_norm_(with_grads(grads), max_norm)
            return norm / max_norm, [g / max_norm for g in grads]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_small_gradients_keep_their_bits(self, agree, draw):
        """Up to max_norm, also where the norm equals it, nothing is scaled, neither down nor up."""
        grads = [draw.normal(5, 3), draw.normal(7)]
        size = draw.integer(3, 99)
        equal = [torch.tensor([float(size)])]  # whose norm every order of operations gives exactly

        def probe(m):
            return m.clip_grad_norm_(with_grads(grads), 1000.0), m.clip_grad_norm_(with_grads(equal), float(size))

        agree(probe, rtol=1e-5, atol=1e-6)  # and no captured gradient may change

    @measured("object identity")
    @pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e6])
    def test_works_in_place(self, agree, draw, max_norm):
        """Whoever holds the gradient's tensor sees it clipped, and it stays the parameter's gradient, also where nothing is clipped."""
        grads = [draw.normal(5, 3) + 3, draw.normal(7)]

        def probe(m):
            params = with_grads(grads)
            norm = m.clip_grad_norm_(params, max_norm)
            same = [p.grad is g for p, g in zip(params, grads, strict=True)]
            return norm, grads, [p.grad for p in params], {"p.grad is the same object": same}

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after the call what it was before, under no_grad, too."""
        grads = [draw.normal(5, 3) + 3, draw.normal(7)]

        def probe(m):
            with torch.set_grad_enabled(recording):
                return m.clip_grad_norm_(with_grads(grads), 1.0), grads, torch.is_grad_enabled()

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_squares_do_not_overflow_in_float16(self, agree, draw):
        """300² exceeds float16's largest number: the squares must be taken in float32."""
        grads = [draw.uniform(5, 3, low=250, high=400, dtype=torch.float16), draw.uniform(7, low=250, high=400, dtype=torch.float16)]
        agree(lambda m: (m.clip_grad_norm_(with_grads(grads), 2.0), grads), rtol=1e-2, atol=1e-2)

    def test_no_or_zero_gradients(self, agree, draw):
        """Without gradients the norm is a float32 zero; gradients of zero stay zero, also for max_norm 0."""
        g, zero = draw.normal(5) + 3, torch.zeros(3)

        def probe(m):
            return [
                m.clip_grad_norm_(with_grads([None, None]), 1.0),
                m.clip_grad_norm_([], 1.0),
                m.clip_grad_norm_(with_grads([zero]), 0.0),
                m.clip_grad_norm_(with_grads([g]), 1.0),
                g,
            ]

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("bad", [math.inf, math.nan])
    def test_non_finite_norm_is_refused(self, agree, draw, bad):
        """A norm of inf or NaN is a RuntimeError, and no gradient is changed."""
        good, broken = [draw.normal(5) + 3, draw.normal(3)], [draw.normal(5) + 3, draw.normal(3)]
        broken[1][1] = bad

        def probe(m):
            norm = m.clip_grad_norm_(with_grads(good), 1.0)
            return norm, good, raised(RuntimeError, lambda: m.clip_grad_norm_(with_grads(broken), 1.0))

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_negative_max_norm_is_refused(self, agree, draw):
        """A negative max_norm is a ValueError, also if there are no gradients, and no gradient is changed."""
        grads, spared = [draw.normal(5) + 3, draw.normal(3)], [draw.normal(5) + 3, draw.normal(3)]

        def probe(m):
            return [
                m.clip_grad_norm_(with_grads(grads), 1.0),
                grads,
                raised(ValueError, lambda: m.clip_grad_norm_(with_grads(spared), -1.0)),
                raised(ValueError, lambda: m.clip_grad_norm_([], -1.0)),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


def uneven_batches(draw, sizes=(2, 7, 3)):
    """Batches (x, y) of different sizes: 5 features, 3 classes, float64."""
    return [(draw.normal(n, 5, dtype=F64), draw.integers(0, 3, n)) for n in sizes]


@task("train_epoch")
class TestTrainEpoch:
    def test_weights_and_loss(self, agree, draw):
        """After one pass the weights, the batch-norm statistics and the mean loss are right; the model was in eval mode before."""
        w1, w2, batches = draw.normal(7, 5, dtype=F64), draw.normal(3, 7, dtype=F64), uneven_batches(draw)

        def probe(m):
            model = classifier(w1, w2).eval()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            loss = m.train_epoch(model, batches, nn.functional.cross_entropy, optimizer)
            return loss, state_of(model)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_old_gradients_are_cleared(self, agree, draw):
        """Gradients left over from before the call have no influence."""
        w, b, batches = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64), uneven_batches(draw, (4, 4))

        def probe(m):
            model = linear(w, b)
            (model(batches[1][0]).square().sum() * 3).backward()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss = m.train_epoch(model, batches, nn.functional.cross_entropy, optimizer)
            return loss, state_of(model)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_loss_counts_samples_not_batches(self, agree, draw):
        """Big batches weigh more in the mean loss; batches may come from a generator."""
        w, b, batches = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64), uneven_batches(draw, (1, 13, 4))

        def probe(m):
            model = linear(w, b)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            return m.train_epoch(model, (batch for batch in batches), nn.functional.cross_entropy, optimizer)

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("calls, flags, hooks")
    @pytest.mark.parametrize("training", [True, False])
    def test_training_mode_everywhere(self, agree, draw, training):
        """Every submodule trains during the pass and afterwards, and the model sees each batch exactly once."""
        w1, w2, batches = draw.normal(7, 5, dtype=F64), draw.normal(3, 7, dtype=F64), uneven_batches(draw)

        def probe(m):
            model = Recorder(classifier(w1, w2)).train(training)
            model.inner[1].train(not training)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss = m.train_epoch(model, batches, nn.functional.cross_entropy, optimizer)
            return loss, model.modes, model.sizes, [module.training for module in model.modules()]

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_settings_stay(self, agree, draw):
        """Learning rate, momentum and all other settings of the optimizer are after the pass what they were before, in every group."""
        w1, w2, batches = draw.normal(7, 5, dtype=F64), draw.normal(3, 7, dtype=F64), uneven_batches(draw)
        lr = draw.uniform(1, low=0.01, high=0.1).item()

        def probe(m):
            model = classifier(w1, w2)
            groups = [{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": lr / 2}]
            optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=0.01)
            loss = m.train_epoch(model, batches, nn.functional.cross_entropy, optimizer)
            settings = [{name: group[name] for name in ("lr", "momentum", "weight_decay", "nesterov")} for group in optimizer.param_groups]
            return loss, state_of(model), settings

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_any_loss_and_optimizer(self, agree, draw):
        """The given loss and the given optimizer do the work, on just the optimizer's parameters; some may be the loss's own."""
        w, b, scale = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64), draw.normal(3, dtype=F64)
        batches = [(draw.normal(n, 5, dtype=F64), draw.normal(n, 3, dtype=F64)) for n in (3, 5, 4, 1)]

        def probe(m):
            model, factor = linear(w, b), leaf(scale)
            factor.square().sum().backward()
            optimizer = torch.optim.AdamW([model.weight, factor], lr=0.1, weight_decay=0.1)
            loss = m.train_epoch(model, batches, lambda out, y: (factor * out - y).abs().pow(3).mean(), optimizer)
            return loss, state_of(model), factor

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_no_batches_are_refused(self, agree, draw):
        """No batches, as a list or from a generator, are a ValueError."""
        w, b, batches = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64), uneven_batches(draw)

        def probe(m):
            model = linear(w, b)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss_fn = nn.functional.cross_entropy
            return [
                m.train_epoch(model, batches, loss_fn, optimizer),
                raised(ValueError, lambda: m.train_epoch(model, [], loss_fn, optimizer)),
                raised(ValueError, lambda: m.train_epoch(model, (batch for batch in []), loss_fn, optimizer)),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


@task("evaluate")
class TestEvaluate:
    def test_means_over_samples(self, agree, draw):
        """Loss and accuracy are means over all samples, not over batches; batches may come from a generator."""
        w, b, batches = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64), uneven_batches(draw, (1, 13, 4))
        batches[0] = (batches[0][0], (batches[0][0] @ w.T + b).argmax(1))  # the small batch is all right, the big one is not
        batches[1][1][:5] = (batches[1][0] @ w.T + b).argmin(1)[:5]

        def probe(m):
            return m.evaluate(linear(w, b), (batch for batch in batches), nn.functional.cross_entropy)

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("calls, flags, hooks")
    @pytest.mark.parametrize("recording", [True, False])
    def test_eval_mode_without_a_graph(self, agree, draw, recording):
        """Every submodule is in eval mode meanwhile and nothing is recorded; then recording is on or off as before."""
        w1, w2, batches = draw.normal(7, 5, dtype=F64), draw.normal(3, 7, dtype=F64), uneven_batches(draw)
        mean = draw.normal(7, dtype=F64)

        def probe(m):
            model = Recorder(classifier(w1, w2)).train()
            model.inner[1].running_mean.copy_(mean)
            in_loss = []

            def loss_fn(out, y):
                in_loss.append(torch.is_grad_enabled())
                return nn.functional.cross_entropy(out, y)

            with torch.set_grad_enabled(recording):
                result = m.evaluate(model, batches, loss_fn)
                after = torch.is_grad_enabled()
            return result, model.modes, model.grad_enabled, in_loss, after

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("flags")
    @pytest.mark.parametrize("training", [True, False])
    def test_modes_are_restored_one_by_one(self, agree, draw, training):
        """A submodule in another mode than its parent is so again afterwards."""
        model, batches = mixed(draw, training), uneven_batches(draw, (5, 5))

        def probe(m):
            result = m.evaluate(model, batches, nn.functional.cross_entropy)
            return result, [module.training for module in model.modules()]

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("flags")
    @pytest.mark.parametrize("place", ["loss_fn", "model", "batches"])
    def test_modes_are_restored_after_an_error(self, agree, draw, place):
        """An error of the model, of loss_fn or of the batches is passed on; modes and gradient recording are as before."""
        model, batches = mixed(draw, True), uneven_batches(draw, (5, 5))

        class Broken(nn.Sequential):
            def forward(self, x):
                raise KeyError("model")

        def probe(m):
            def loss_fn(out, y):
                raise KeyError("loss")

            def some():
                yield batches[0]
                raise KeyError("batches")

            call = {
                "loss_fn": lambda: m.evaluate(model, batches, loss_fn),
                "model": lambda: m.evaluate(broken, batches, nn.functional.cross_entropy),
                "batches": lambda: m.evaluate(model, some(), nn.functional.cross_entropy),
            }[place]
            broken = Broken(*model)
            good = m.evaluate(model, batches, nn.functional.cross_entropy)
            error = raised(KeyError, call)
            return good, error, broken.training, [module.training for module in model.modules()], torch.is_grad_enabled()

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_model_is_not_changed(self, agree, draw):
        """Parameters, buffers and gradients keep their values."""
        w1, w2, batches = draw.normal(7, 5, dtype=F64), draw.normal(3, 7, dtype=F64), uneven_batches(draw)

        def probe(m):
            model = classifier(w1, w2).train()
            nn.functional.cross_entropy(model(batches[1][0]), batches[1][1]).backward()
            result = m.evaluate(model, batches, nn.functional.cross_entropy)
            return result, state_of(model), [p.grad for p in model.parameters()]

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_no_batches_are_refused(self, agree, draw):
        """No batches, as a list or from a generator, are a ValueError, and the modes are restored then, too."""
        model, batches = mixed(draw, True), uneven_batches(draw)

        def probe(m):
            loss_fn = nn.functional.cross_entropy
            return [
                m.evaluate(model, batches, loss_fn),
                raised(ValueError, lambda: m.evaluate(model, [], loss_fn)),
                raised(ValueError, lambda: m.evaluate(model, (batch for batch in []), loss_fn)),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


@task("accumulate_gradients")
class TestAccumulateGradients:
    @pytest.mark.parametrize("size", [1, 4, 11, 100])
    def test_equals_the_whole_batch(self, agree, draw, size):
        """Gradients and loss are those of the whole batch of 11, also with a short last piece; no parameter changes."""
        w, b = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64)
        x, y = draw.normal(11, 5, dtype=F64, layout="transposed"), draw.integers(0, 3, 11, layout="sliced")

        def probe(m):
            model = linear(w, b)
            loss = m.accumulate_gradients(model, x, y, nn.functional.cross_entropy, size)
            return loss, [p.grad for p in model.parameters()], state_of(model)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_adds_to_gradients(self, agree, draw):
        """Gradients that are there already stay in the sum, and two calls add up."""
        w, b = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64)
        x, y, old = draw.normal(7, 5, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(3, 5, dtype=F64)

        def probe(m):
            model = linear(w, b)
            model.weight.grad = old.clone()
            losses = [m.accumulate_gradients(model, x, y, nn.functional.mse_loss, 3) for _ in range(2)]
            return losses, [p.grad for p in model.parameters()]

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("calls, flags, hooks")
    def test_one_piece_at_a_time(self, agree, draw):
        """Nine samples go as 4, 4 and 1, in order, each piece forward and backward before the next; loss_fn too sees only its piece."""
        w, b = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64)
        x, y = draw.normal(9, 5, dtype=F64), draw.integers(0, 3, 9)

        def probe(m):
            model, targets = Recorder(linear(w, b)), []

            def loss_fn(out, y):
                targets.append(y.clone())
                return nn.functional.cross_entropy(out, y)

            loss = m.accumulate_gradients(model, x, y, loss_fn, 4)
            return loss, model.events, model.sizes, targets

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_several_layers(self, agree, draw):
        """The same holds for a deeper model, samples of more axes and another loss; modes and frozen parameters stay as they are."""
        w1, w2 = draw.normal(7, 5, dtype=F64), draw.normal(3, 7, dtype=F64)
        x, y = draw.normal(13, 2, 5, dtype=F64), draw.normal(13, 2, 3, dtype=F64)
        model = nn.Sequential(linear(w1, w1[:, 0]), nn.Dropout(), nn.Tanh(), linear(w2, w2[:, 0])).eval()
        model[0].weight.requires_grad_(False)

        def probe(m):
            loss = m.accumulate_gradients(model, x, y, lambda out, y: (out - y).abs().pow(1.5).mean(), 5)
            return loss, [p.grad for p in model.parameters()]

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("training", [True, False])
    def test_modes_are_left_alone(self, agree, draw, training):
        """Every module stays in its mode, training or eval."""
        model, x, y = mixed(draw, training), draw.normal(8, 5, dtype=F64), draw.integers(0, 3, 8)

        def probe(m):
            loss = m.accumulate_gradients(model, x, y, nn.functional.cross_entropy, 4)
            return loss, [p.grad for p in model.parameters()]

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_pieces_of_nothing_are_refused(self, agree, draw):
        """A micro_batch_size of 0 or less is a ValueError, and no gradient is computed."""
        w, b = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64)
        x, y = draw.normal(11, 5, dtype=F64), draw.integers(0, 3, 11)
        spared = linear(w, b)

        def probe(m):
            loss_fn = nn.functional.cross_entropy
            return [
                m.accumulate_gradients(linear(w, b), x, y, loss_fn, 5),
                raised(ValueError, lambda: m.accumulate_gradients(spared, x, y, loss_fn, 0)),
                raised(ValueError, lambda: m.accumulate_gradients(spared, x, y, loss_fn, -3)),
            ]

        agree(probe, rtol=1e-3, atol=1e-4)


def set_weights(model, values):
    """Overwrite the parameters and batch-norm statistics of a small model, in place."""
    with torch.no_grad():
        for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
            tensor.copy_(values[: tensor.numel()].view(tensor.shape))
        model[1].num_batches_tracked += 1


def small_model():
    """A float64 model with parameters and buffers, one of them a view that is not contiguous."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    model[0].weight = nn.Parameter(torch.zeros(2, 3, dtype=F64).T)
    return model


@task("EarlyStopping")
class TestEarlyStopping:
    @pytest.mark.parametrize("patience", [1, 2, 4])
    def test_decisions(self, agree, draw, patience):
        """The answers and best_loss follow the rule over a long row of losses, also below 0 and after the first True."""
        walk = draw.normal(29).cumsum(0).tolist()  # a walk that has some new lows and some dry spells
        losses = [3.0, 2.0, 2.5, 1.5, 1.75, 1.5, 1.625, 1.25, 1.5, 1.5, 1.5, 1.5, 1.5, 1.0, 0.0, 0.5, 0.0, 0.25, *walk]

        def probe(m):
            model, stopping, other = small_model(), m.EarlyStopping(patience), m.EarlyStopping(patience)
            start = stopping.best_loss
            other.update(-99.0, model)
            return start, [(stopping.update(loss, model), stopping.best_loss) for loss in losses], other.best_loss

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_min_delta(self, agree, draw):
        """A loss must be lower than the best by more than min_delta, however many small steps led there."""
        top = float(draw.integer(20, 50))
        losses = [top - drop for drop in (0.0, 0.25, 0.5, 0.75, 0.75, 1.0, 1.25, 1.25, 2.0, 2.25)]  # exact in binary

        def probe(m):
            model, stopping = small_model(), m.EarlyStopping(2, min_delta=0.5)
            return [(stopping.update(loss, model), stopping.best_loss) for loss in losses]

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_nan_and_inf_never_improve(self, agree, draw, bad):
        """NaN counts as no improvement, as the first loss and later; nor does inf, which isn't below the inf at the start."""
        a, b = draw.uniform(2, low=1, high=2).tolist()
        losses = [bad, a + 5, bad, b, bad, bad, bad]

        def probe(m):
            model, stopping = small_model(), m.EarlyStopping(2)
            return [(stopping.update(loss, model), stopping.best_loss) for loss in losses]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_restores_the_best_not_the_last(self, agree, draw):
        """Parameters and buffers come back as they were at the lowest loss, in this model or in another of its form."""
        values, fresh = draw.normal(5, 6, dtype=F64), small_model().eval()

        def probe(m):
            model, stopping = small_model(), m.EarlyStopping(7)
            untouched = []
            for loss, row in zip([3.0, 1.0, 2.0, 1.0, 5.0], values, strict=True):
                set_weights(model, row)
                stopping.update(loss, model)
                untouched.append(model[0].bias.detach().clone())
            stopping.restore(model)
            stopping.restore(fresh)
            return state_of(model), state_of(fresh), untouched

        agree(probe, rtol=0, atol=0)

    def test_update_leaves_the_model_alone(self, agree, draw):
        """Update changes neither the model nor its modes."""
        model, losses = mixed(draw, False), draw.uniform(3, low=1, high=2).tolist()

        def probe(m):
            stopping = m.EarlyStopping(2)
            return [(stopping.update(loss, model), stopping.best_loss) for loss in losses]

        agree(probe, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("training", [True, False])
    def test_modes_are_left_alone(self, agree, draw, training):
        """Neither update nor restore changes the mode of a module, training or eval."""
        model, other, loss = mixed(draw, training), mixed(draw, not training), draw.uniform(1, low=1, high=2).item()

        def probe(m):
            stopping = m.EarlyStopping(2)
            answer = stopping.update(loss, model)
            stopping.restore(other)
            stopping.restore(model)
            return answer, stopping.best_loss, state_of(other), state_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after update and after restore what it was before, under no_grad, too."""
        values = draw.normal(2, 6, dtype=F64)

        def probe(m):
            model, stopping, kept = small_model(), m.EarlyStopping(2), []
            with torch.set_grad_enabled(recording):
                set_weights(model, values[0])
                stopping.update(1.0, model)
                kept.append(torch.is_grad_enabled())
                set_weights(model, values[1])
                stopping.restore(model)
                kept.append(torch.is_grad_enabled())
            return state_of(model), kept

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    def test_restores_in_place_and_again(self, agree, draw):
        """The parameters stay the same tensors; training on after restore doesn't spoil the copy, and no count begins anew."""
        values = draw.normal(3, 6, dtype=F64)

        def probe(m):
            model, stopping = small_model(), m.EarlyStopping(2)
            set_weights(model, values[0])
            stopping.update(1.0, model)
            held = [p.detach() for p in model.parameters()]
            restored = []
            for row in values[1:]:
                set_weights(model, row)
                answer = stopping.update(2.0, model)
                stopping.restore(model)
                restored.append((answer, [h.clone() for h in held]))
            return restored, [p.requires_grad for p in model.parameters()]

        agree(probe, rtol=0, atol=0)

    def test_wrong_calls_are_refused(self, agree, draw):
        """A patience below 1 is a ValueError; restore before any improvement is a RuntimeError, and changes nothing."""
        values, spared = draw.normal(6, dtype=F64), small_model()

        def probe(m):
            model, stopping = small_model(), m.EarlyStopping(1)
            set_weights(model, values)
            early = [raised(RuntimeError, lambda: stopping.restore(spared))]
            early += [stopping.update(bad, spared) for bad in (math.nan, math.inf)]
            early.append(raised(RuntimeError, lambda: stopping.restore(spared)))
            answer = stopping.update(1.5, model)
            model[0].weight.data.zero_()
            stopping.restore(model)
            return early, raised(ValueError, lambda: m.EarlyStopping(0)), answer, stopping.best_loss, state_of(model)

        agree(probe, rtol=0, atol=0)


def dropout_model(weight):
    """Linear with these weights, dropout, batch norm."""
    return nn.Sequential(linear(weight, weight[:, 0]), nn.Dropout(0.4), nn.BatchNorm1d(len(weight), dtype=weight.dtype))


class Session:
    """A model with dropout, an optimizer and a scheduler, in float64, for the checkpoint tasks."""

    def __init__(self, weight, kind="sgd", model=None):
        self.model = model or dropout_model(weight)
        if kind == "sgd":
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=2, gamma=0.5)
        else:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
            self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=11)
        self.parts = (self.model, self.optimizer, self.scheduler)

    def train(self, batches):
        for x in batches:
            self.optimizer.zero_grad()
            self.model(x).exp().mean().backward()
            self.optimizer.step()
            self.scheduler.step()

    def content(self, epoch, rng_state):
        """What a checkpoint must hold."""
        names = ("model", "optimizer", "scheduler")
        state = {name: part.state_dict() for name, part in zip(names, self.parts, strict=True)}
        return {**state, "epoch": epoch, "rng_state": rng_state}


def plain(tree):
    """The same tree with plain dicts for ordered ones."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(plain(value) for value in tree)
    return tree


@task("save_checkpoint")
class TestSaveCheckpoint:
    @pytest.mark.parametrize("kind", ["sgd", "adamw"])
    def test_content(self, agree, draw, kind):
        """The file has exactly the stated keys, each with its state, and torch.load(weights_only=True) reads it."""
        weight, batches, epoch = draw.normal(3, 5, dtype=F64), draw.normal(3, 7, 5, dtype=F64), draw.integer(3, 99)

        def probe(m):
            session = Session(weight, kind)
            session.train(batches)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "last.pt")
                m.save_checkpoint(path, *session.parts, epoch)
                return plain(torch.load(path, weights_only=True))

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_random_state(self, agree, draw):
        """rng_state is the generator's state at the call, and saving draws no random numbers."""
        weight, seed = draw.normal(3, 5, dtype=F64), draw.seed()

        def probe(m):
            session = Session(weight)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "last.pt"
                torch.manual_seed(seed)
                torch.rand(5)
                m.save_checkpoint(path, *session.parts, 3)
                after = torch.rand(4)
                torch.set_rng_state(torch.load(path, weights_only=True)["rng_state"])
                return after, torch.rand(4)

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    def test_changes_nothing_in_memory(self, agree, draw):
        """Training goes on after saving as it would have without: gradients, modes and all."""
        weight, batches = draw.normal(3, 5, dtype=F64), draw.normal(5, 7, 5, dtype=F64)

        def probe(m):
            session = Session(weight, "adamw")
            session.train(batches[:2])
            session.model[1].eval()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "last.pt"
                m.save_checkpoint(path, *session.parts, 3)
                modes, grads = [module.training for module in session.model.modules()], [p.grad for p in session.model.parameters()]
                session.train(batches[2:])
                saved = torch.load(path, weights_only=True)["model"]
            return state_of(session.model), plain(saved), modes, grads, session.scheduler.get_last_lr()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("training", [True, False])
    def test_modes_are_left_alone(self, agree, draw, training):
        """Every module of the model stays in its mode, training or eval."""
        weight, epoch, model = draw.normal(3, 5, dtype=F64), draw.integer(3, 99), dropout_model(draw.normal(3, 5, dtype=F64))
        model.train(training)[1].train(not training)

        def probe(m):
            session = Session(weight, model=model)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "last.pt")
                m.save_checkpoint(path, *session.parts, epoch)
                return torch.load(path, weights_only=True)["epoch"], state_of(model)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("relative", [False, True])
    def test_replaces_the_file_and_leaves_no_other(self, agree, draw, relative):
        """A second call replaces the first file, whatever its name and epoch, and nothing else lies in the folder."""
        weight, epochs = draw.normal(3, 5, dtype=F64), [draw.integer(3, 50), 0, draw.integer(50, 99)]

        def probe(m):
            session, seen, before = Session(weight), [], os.getcwd()
            with tempfile.TemporaryDirectory() as folder:
                if relative:
                    os.chdir(folder)
                path = "best" if relative else os.path.join(folder, "best")
                try:
                    for epoch in epochs:
                        m.save_checkpoint(path, *session.parts, epoch)
                        seen.append((torch.load(path, weights_only=True)["epoch"], sorted(os.listdir(folder))))
                finally:
                    os.chdir(before)
            return seen

        agree(probe, rtol=0, atol=0)

    def test_a_failed_save_spares_the_old_file(self, agree, draw):
        """If saving fails on the way, the error is passed on, the old checkpoint can still be read, and no other file is left."""
        weight, epoch = draw.normal(3, 5, dtype=F64), draw.integer(3, 99)

        def probe(m):
            session = Session(weight)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "last.pt"
                m.save_checkpoint(path, *session.parts, epoch)
                session.optimizer.param_groups[0]["note"] = lambda: None  # can't be pickled
                error = raised(Exception, lambda: m.save_checkpoint(path, *session.parts, epoch + 1))
                state = torch.load(path, weights_only=True)
                return error, state["epoch"], plain(state["model"]), os.listdir(folder)

        agree(probe, rtol=0, atol=0)


def as_if_from_a_gpu(path):
    """Rewrite a file of torch.save so that it says that its tensors were on cuda:0."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if name.endswith("data.pkl"):
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            archive.writestr(name, data)


@task("load_checkpoint")
class TestLoadCheckpoint:
    @pytest.mark.parametrize("kind", ["sgd", "adamw"])
    def test_resuming_equals_not_stopping(self, agree, student, draw, kind):
        """With dropout, momentum and a schedule, the resumed run ends where the uninterrupted one does."""
        weight, other = draw.normal(3, 5, dtype=F64), draw.normal(3, 5, dtype=F64)
        batches, seed = draw.normal(9, 7, 5, dtype=F64), draw.seed()

        def probe(m):
            first, second = Session(weight, kind), Session(other, kind)
            first.train(batches[:5])
            torch.manual_seed(seed)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "last.pt")
                torch.save(first.content(5, torch.get_rng_state()), path)
                first.train(batches[5:])
                second.train(batches[:3])
                epoch = m.load_checkpoint(path, *second.parts)
            second.train(batches[5:])
            return [(state_of(s.model), s.scheduler.get_last_lr()) for s in (first, second)], epoch

        agree(probe, rtol=1e-9, atol=1e-9)
        ((straight, _), (resumed, _)), _ = student(probe)
        assert all(torch.equal(straight[name], resumed[name]) for name in straight), (
            "The resumed run must end with the same weights as the uninterrupted one, bit for bit."
        )

    @pytest.mark.parametrize("later", [True, False])
    def test_epoch_and_random_numbers(self, agree, draw, later):
        """The epoch comes back, 0 too, and the next random numbers are those after the saved state. Other keys are no trouble."""
        weight, seed, epoch = draw.normal(3, 5, dtype=F64), draw.seed(), draw.integer(3, 99) if later else 0

        def probe(m):
            session = Session(weight)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "some file"
                state = session.content(epoch, torch.Generator().manual_seed(seed).get_state())
                torch.save({**state, "note": "best so far"}, path)
                return m.load_checkpoint(path, *session.parts), torch.rand(4), torch.randn(3)

        agree(probe, rtol=0, atol=0)

    def test_works_in_place(self, agree, draw):
        """The model's parameters and buffers stay the same tensors, still those that the optimizer updates; gradients and modes stay."""
        weight, model, batches = draw.normal(3, 5, dtype=F64), dropout_model(draw.normal(3, 5, dtype=F64)), draw.normal(3, 7, 5, dtype=F64)
        model[1].eval()

        def probe(m):
            saved, session = Session(weight), Session(weight, model=model)
            saved.train(batches[:2])
            session.train(batches[:1])
            held = [p.detach() for p in session.model.parameters()]
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "last.pt")
                torch.save(saved.content(2, torch.get_rng_state()), path)
                epoch = m.load_checkpoint(path, *session.parts)
            loaded, grads = [h.clone() for h in held], [p.grad for p in session.model.parameters()]
            session.train(batches[2:])
            return epoch, loaded, held, grads

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("training", [True, False])
    def test_modes_are_left_alone(self, agree, draw, training):
        """Every module of the model stays in its mode, training or eval."""
        weight, epoch, model = draw.normal(3, 5, dtype=F64), draw.integer(3, 99), dropout_model(draw.normal(3, 5, dtype=F64))
        model.train(training)[1].train(not training)

        def probe(m):
            saved, session = Session(weight), Session(weight, model=model)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "last.pt")
                torch.save(saved.content(epoch, torch.get_rng_state()), path)
                return m.load_checkpoint(path, *session.parts), state_of(model)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("key", ["model", "optimizer", "scheduler", "epoch", "rng_state"])
    def test_missing_key_changes_nothing(self, agree, draw, key):
        """A file that lacks a key is a ValueError, and model, optimizer, scheduler and random state are as before."""
        weight, other, batches = draw.normal(3, 5, dtype=F64), draw.normal(3, 5, dtype=F64), draw.normal(3, 7, 5, dtype=F64)
        seed = draw.seed()

        def probe(m):
            saved, session = Session(weight), Session(other)
            saved.train(batches)
            session.train(batches[:1])
            content = saved.content(3, torch.Generator().manual_seed(seed).get_state())
            lacking = {name: value for name, value in content.items() if name != key}
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "last.pt")
                torch.save(lacking, path)
                error = raised(ValueError, lambda: m.load_checkpoint(path, *session.parts))
                unchanged = plain(session.content(0, torch.get_rng_state()))
                torch.save(content, path)
                return error, unchanged, m.load_checkpoint(path, *session.parts), state_of(session.model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_dangerous_files_are_refused(self, agree, draw):
        """A file with objects that weights_only=True refuses is an UnpicklingError; a file that isn't there is FileNotFoundError."""
        weight, epoch = draw.normal(3, 5, dtype=F64), draw.integer(3, 99)

        def probe(m):
            session = Session(weight)
            content = session.content(epoch, torch.get_rng_state())
            with tempfile.TemporaryDirectory() as folder:
                good, bad = os.path.join(folder, "good.pt"), os.path.join(folder, "bad.pt")
                torch.save(content, good)
                torch.save({**content, "note": Path("a harmless object, but it could run code")}, bad)
                return [
                    raised(pickle.UnpicklingError, lambda: m.load_checkpoint(bad, *session.parts)),
                    raised(FileNotFoundError, lambda: m.load_checkpoint(os.path.join(folder, "none.pt"), *session.parts)),
                    m.load_checkpoint(good, *session.parts),
                ]

        agree(probe, rtol=0, atol=0)

    def test_checkpoint_from_a_gpu(self, agree, draw):
        """A file whose tensors were on a GPU can be read on any machine."""
        weight, other, seed = draw.normal(3, 5, dtype=F64), draw.normal(3, 5, dtype=F64), draw.seed()

        def probe(m):
            saved, session = Session(weight), Session(other)
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "last.pt")
                torch.save(saved.content(7, torch.Generator().manual_seed(seed).get_state()), path)
                as_if_from_a_gpu(path)
                epoch = m.load_checkpoint(path, *session.parts)
            return epoch, torch.rand(3), state_of(session.model)

        agree(probe, rtol=0, atol=0)


@task("collate_padded")
class TestCollatePadded:
    @pytest.mark.parametrize("padding", [None, -1.5, -math.inf])
    def test_sequences_of_vectors(self, agree, draw, padding):
        """Float sequences (T_i, 3): padded batch, lengths, mask and labels, in the batch's order; padded with 0 if nothing is said."""
        batch = [(draw.normal(n, 3, layout="expanded" if n == 5 else "contiguous"), draw.integer(0, 9)) for n in (5, 2, 7, 1)]
        batch[1] = (draw.poisoned(batch[1][0], draw.bools(2, 3)), batch[1][1])
        options = {} if padding is None else {"padding_value": padding}
        agree(lambda m: m.collate_padded(batch, **options), rtol=0, atol=0)

    def test_token_ids(self, agree, draw):
        """Integer sequences (T_i,) stay integers, exact however large; the padding is the given id. Labels likewise."""
        batch = [(draw.integers(2**60, 2**61, n), draw.integer(2**60, 2**61)) for n in (3, 11, 5)]
        pad = draw.integer(100, 999)
        agree(lambda m: m.collate_padded(batch, padding_value=pad), rtol=0, atol=0)

    def test_mask_comes_from_lengths(self, agree, draw):
        """Real entries that equal the padding value are not padding."""
        batch = [(draw.integers(0, 2, n), draw.integer(0, 9)) for n in (13, 7, 5)]
        batch[1][0][-1] = batch[0][0][-1] = 0
        agree(lambda m: m.collate_padded(batch), rtol=0, atol=0)

    def test_empty_sequences(self, agree, draw):
        """A sequence of length 0 is all padding; if all are, T is 0."""
        some = [(draw.normal(n, 3), draw.integer(0, 9)) for n in (0, 4, 0)]
        none = [(draw.normal(0, 3), draw.integer(0, 9)) for _ in range(2)]
        agree(lambda m: [m.collate_padded(some), m.collate_padded(none)], rtol=0, atol=0)

    def test_long_and_short_sequences(self, agree, draw):
        """A sequence of bytes may be longer than a byte can count; a batch may hold one entry, and vectors one number."""
        long = [(draw.integers(0, 256, n).to(torch.uint8), draw.integer(0, 999)) for n in (257, 300, 3)]
        short = [(draw.normal(n, 1), draw.integer(0, 9)) for n in (1, 3)]
        agree(lambda m: [m.collate_padded(long), m.collate_padded(short), m.collate_padded(short[:1])], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [F64, torch.float16, torch.bool])
    def test_other_shapes_and_dtypes(self, agree, draw, dtype):
        """Sequences of matrices, of another dtype and not contiguous."""
        batch = [((draw.normal(3, 2, n) * 3).to(dtype).permute(2, 0, 1), draw.integer(0, 9)) for n in (2, 5)]
        agree(lambda m: m.collate_padded(batch), rtol=0, atol=0)

    def test_in_a_data_loader(self, agree, draw):
        """A DataLoader takes it as collate_fn; each batch is as long as its own longest sequence, and may hold one item."""
        data = [(draw.normal(n, 2), draw.integer(0, 9)) for n in (3, 5, 2, 1, 4)]
        agree(lambda m: list(torch.utils.data.DataLoader(data, batch_size=2, collate_fn=m.collate_padded)), rtol=0, atol=0)

    def test_empty_batch_is_refused(self, agree, draw):
        """An empty batch is a ValueError."""
        batch = [(draw.normal(n, 3), draw.integer(0, 9)) for n in (2, 3)]
        agree(lambda m: [m.collate_padded(batch), raised(ValueError, lambda: m.collate_padded([]))], rtol=0, atol=0)


def reseed(seed):
    """Seed the global generators of torch, NumPy and Python."""
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)


def shuffled_labels(draw, counts):
    """Labels with the given count of each class, in random order."""
    labels = torch.cat([torch.full((n,), label) for label, n in counts.items()])
    return labels[draw.permutation(len(labels))]


def check_split(answer, labels, fraction):
    """Assert that an answer is a stratified split as the statement says."""
    right_type = isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, torch.Tensor) for part in answer)
    assert right_type, "It must return a tuple of two tensors, (train, held_out)."
    for part in answer:
        assert part.dim() == 1 and part.dtype == torch.int64, "train and held_out must be (n,) and int64."
    both = torch.cat(answer).sort().values
    assert torch.equal(both, torch.arange(len(labels))), "Every position 0 … N − 1 must be in exactly one of train and held_out."
    for part in answer:
        assert torch.equal(part, part.sort().values), "train and held_out must be sorted in ascending order."
    for label in labels.unique():
        n, held = int((labels == label).sum()), int((labels[answer[1]] == label).sum())
        want = math.floor(fraction * n + 0.5)
        assert held == want, f"Of a class with {n} samples, {want} must be held out with fraction = {fraction}, but {held} are."


@task("split_indices")
class TestSplitIndices:
    @pytest.mark.parametrize("fraction", [0.2, 0.25, 0.5, 0.75])
    def test_stratified(self, student, draw, fraction):
        """Disjoint, complete, sorted, with the stated share of every class; halves are rounded up; labels may be any integers."""
        labels = shuffled_labels(draw, {0: 17, 7: 6, -3: 1, 100: 10, 4: 29, 2**60: 5, 2**60 + 1: 3})
        labels = torch.stack([labels, -labels], dim=1)[:, 0]  # not contiguous
        seed = draw.seed()
        check_split(student(lambda m: m.split_indices(labels, fraction, seed=seed)), labels, fraction)

    @pytest.mark.parametrize("zero", [True, False])
    def test_seed_alone_decides(self, student, draw, zero):
        """The same seed, 0 too, gives the same split whatever was drawn before, and draws nothing from global generators."""
        labels, seed = shuffled_labels(draw, {0: 13, 1: 17, 2: 11, 3: 9}), 0 if zero else draw.seed()

        def probe(m):
            first = m.split_indices(labels, 0.5, seed=seed)
            m.split_indices(labels, 0.25, seed=seed + 1)
            return first, m.split_indices(labels, 0.5, seed=seed)

        first, second = student(probe)
        check_split(first, labels, 0.5)
        check_split(second, labels, 0.5)
        assert torch.equal(first[1], second[1]), "The same seed must give the same split again."

    def test_global_state_has_no_influence(self, student, draw):
        """The same seed gives the same split in whatever state torch's, NumPy's and Python's global generators are."""
        labels, seed, states = shuffled_labels(draw, {0: 13, 1: 17, 2: 11, 3: 9}), draw.seed(), [draw.seed(), draw.seed()]

        def probe(m):
            out = []
            for state in states:
                reseed(state)
                out.append(m.split_indices(labels, 0.5, seed=seed))
            return out

        first, second = student(probe)
        check_split(first, labels, 0.5)
        assert torch.equal(first[1], second[1]), "The same seed must give the same split again, whatever the global generators' states."

    def test_seeds_differ(self, student, draw):
        """Different seeds give different splits."""
        labels, seed = shuffled_labels(draw, {0: 23, 1: 17, 2: 19}), draw.seed()
        splits = student(lambda m: [m.split_indices(labels, 0.5, seed=seed + i) for i in range(5)])
        for split in splits:
            check_split(split, labels, 0.5)
        different = {tuple(held_out.tolist()) for _, held_out in splits}
        assert len(different) == 5, "Different seeds must give different splits."

    def test_every_sample_has_the_same_chance(self, student, draw):
        """Over 200 seeds every sample of a class is held out about equally often."""
        labels, seed = shuffled_labels(draw, {0: 8, 1: 12}), draw.seed()
        splits = student(lambda m: [m.split_indices(labels, 0.5, seed=seed + i) for i in range(200)], within=(0, 19))
        for split in splits:
            check_split(split, labels, 0.5)
        counts = torch.cat([held_out for _, held_out in splits]).bincount(minlength=20)
        # Binomial(200, ½): a fair draw leaves 50 … 150 less than once in 10¹¹ times.
        assert counts.min() >= 50 and counts.max() <= 150, (
            "Over 200 seeds, samples of one class are held out about equally often: "
            f"here one was {counts.min()} times, another {counts.max()} times."
        )

    def test_classes_are_drawn_independently(self, student, draw):
        """Two classes of the same size don't hold out the same ranks."""
        labels, seed = shuffled_labels(draw, {0: 14, 1: 14}), draw.seed()
        splits = student(lambda m: [m.split_indices(labels, 0.5, seed=seed + i) for i in range(6)], within=(0, 27))
        for split in splits:
            check_split(split, labels, 0.5)
        same = 0
        for _, held_out in splits:
            out = torch.zeros(28, dtype=torch.bool)
            out[held_out] = True
            same += torch.equal(out[labels == 0], out[labels == 1])
        assert same < 6, "Two classes of the same size always hold out the same ranks: draw each class anew."

    def test_all_nothing_and_nonsense(self, student, draw):
        """Fractions 0 and 1 work, and so does a data set without samples; a fraction outside [0, 1] is a ValueError."""
        labels, seed = shuffled_labels(draw, {0: draw.integer(5, 105), 1: draw.integer(7, 107)}), draw.seed()

        def probe(m):
            return [
                m.split_indices(labels, 0.0, seed=seed),
                m.split_indices(labels, 1.0, seed=seed),
                m.split_indices(labels[:0], 0.5, seed=seed),
                raised(ValueError, lambda: m.split_indices(labels, 1.25, seed=seed)),
                raised(ValueError, lambda: m.split_indices(labels, -0.25, seed=seed)),
            ]

        nothing, everything, empty, *errors = student(probe)
        check_split(empty, labels[:0], 0.5)
        check_split(nothing, labels, 0.0)
        check_split(everything, labels, 1.0)
        assert errors == [Ending("ValueError")] * 2, "A fraction outside [0, 1] must raise a ValueError."


def digits_network(height, width):
    """The network of the statement."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 10),
    )


def check_weights(state, height, width):
    """Assert that a state_dict belongs to the network of the statement; return that network, with the weights in it."""
    model = digits_network(height, width).eval()
    right_type = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    assert right_type, "It must return a state_dict: a dict of tensors."
    want = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    assert state.keys() == want.keys(), f"The keys must be {', '.join(want)}."
    for name, value in state.items():
        got = (tuple(value.shape), value.dtype)
        assert got == want[name], f'"{name}" must be {want[name][0]}, {want[name][1]}; it is {got[0]}, {got[1]}.'
    model.load_state_dict(state)
    return model


def accuracy(model, images, labels):
    """Share of the images that the model gets right."""
    with torch.no_grad():
        return (model(images).argmax(1) == labels).double().mean().item()


@task("fit_digits", weight=1)
class TestFitDigits:
    def test_recognises_held_out_digits(self, student, draw, digits):
        """The returned weights classify at least 93 % of 600 held-out images correctly, by the random names that the digits were given."""
        images, labels, new_images, new_labels = digits.split(draw)
        names, seed = draw.permutation(10), draw.seed()
        renamed = names[labels]

        def probe(m):
            reseed(1)  # so that the global generators may change
            return m.fit_digits(images, renamed, seed=seed)

        weights = student(probe, like=None)  # check_weights looks at their form
        model = check_weights(weights, *images.shape[2:])
        share = accuracy(model, new_images, names[new_labels])
        assert share >= 0.93, f"On 600 held-out images the weights are right for {share:.1%}; 93 % are needed."

    def test_seed_decides(self, student, draw, digits):
        """The same seed gives the same weights whatever the global state is, another seed others; for images of any size, and learnt."""
        images, labels, new_images, new_labels = digits.split(draw)
        names, seed = draw.permutation(10), draw.seed()
        renamed = names[labels]
        few, some = images[:100, :, 1:6, :7], renamed[:100]  # 5×7; more than a batch, so that their order counts

        def probe(m):
            out = []
            for state, s in (1, 0), (2, 0), (1, seed + 1):
                reseed(state)
                weights = m.fit_digits(few, some, seed=s)
                out.append({name: value.detach().clone() for name, value in weights.items()})
            return out, m.fit_digits(images, renamed, seed=seed)

        (first, again, other), learnt = student(probe, like=None)  # check_weights looks at their form
        share = accuracy(check_weights(learnt, *images.shape[2:]), new_images, names[new_labels])
        assert share >= 0.5, f"The seed counts only for weights that have learnt: they are right for {share:.1%} of held-out images."
        for state in first, again, other:
            check_weights(state, *few.shape[2:])
        same = all(torch.allclose(first[name], again[name], rtol=1e-3, atol=1e-4) for name in first)
        assert same, "The same seed must give the same weights, whatever was drawn from global generators before."
        different = all((first[name] - other[name]).abs().max() > 1e-3 for name in first)
        assert different, "Another seed must give other weights."
