"""Named wrong answers to the tasks of training: the hidden suite must reject every one."""

import contextlib
import copy
import math
import os
import random
import shutil
from typing import ClassVar

import torch
from torch import nn

from grader.testing import misconception
from solutions.training import SGD as ReferenceSGD
from solutions.training import AdamW as ReferenceAdamW
from solutions.training import EarlyStopping as ReferenceEarlyStopping
from solutions.training import accumulate_gradients as reference_accumulate_gradients
from solutions.training import clip_grad_norm_ as reference_clip_grad_norm
from solutions.training import cosine_with_warmup as reference_cosine
from solutions.training import evaluate as reference_evaluate
from solutions.training import fit_digits as reference_fit_digits
from solutions.training import load_checkpoint as reference_load_checkpoint
from solutions.training import train_epoch as reference_train_epoch

# cross_entropy


@misconception("cross_entropy", "Takes the log of a softmax: the softmax of a score far below the largest is 0, and its log −inf.")
def log_of_softmax(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.softmax(logits, dim=1).log()
    of_target = log_p.gather(1, targets[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return loss.sum() / max(len(targets), 1)


@misconception("cross_entropy", "Ignored rows add 0 to the sum but still count in the mean.")
def ignored_rows_count(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    if ((targets[kept] < 0) | (targets[kept] >= logits.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets.where(kept, torch.zeros_like(targets))[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return (loss * kept).sum() / max(len(targets), 1)


@misconception("cross_entropy", "Spreads ε over the C − 1 wrong classes; the paper spreads it over all C, the target too.")
def smooths_over_the_wrong_classes(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets[:, None]).squeeze(1)
    others = (log_p.sum(dim=1) - of_target) / (logits.shape[1] - 1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * others
    return loss.sum() / max(len(targets), 1)


@misconception("cross_entropy", "A mean over no rows is 0 / 0: NaN instead of 0.")
def nan_if_everything_is_ignored(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets[:, None]).squeeze(1)
    return (-(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)).mean()


@misconception("cross_entropy", "A target of −1 picks the last class instead of being an error.")
def negative_targets_count_from_the_end(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]
    if (targets >= logits.shape[1]).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p[torch.arange(len(targets)), targets]
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return loss.sum() / max(len(targets), 1)


@misconception("cross_entropy", "Multiplies the ignored rows by 0, and 0 · NaN is NaN: take those rows out instead.")
def multiplies_ignored_rows_by_zero(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    if (kept & ((targets < 0) | (targets >= logits.shape[1]))).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets.where(kept, 0)[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return (loss * kept).sum() / kept.sum().clamp(min=1)


@misconception("cross_entropy", "Blanks the ignored rows' losses with where: the gradient still goes back through their NaN.")
def blanks_losses_of_ignored_rows(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    if (kept & ((targets < 0) | (targets >= logits.shape[1]))).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets.where(kept, 0)[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return loss.masked_fill(~kept, 0).sum() / kept.sum().clamp(min=1)


@misconception("cross_entropy", "With nothing to average it returns logits.sum() · 0, which is NaN if the sum overflows.")
def zero_from_all_scores(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    if not kept.any():
        return logits.sum() * 0
    x, y = logits[kept], targets[kept]
    if ((y < 0) | (y >= x.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(x, dim=1)
    of_target = log_p.gather(1, y[:, None]).squeeze(1)
    return (-(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)).mean()


@misconception("cross_entropy", "Compares class numbers in uint8: from 256 classes on, several look alike.")
def one_hot_in_bytes(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    logits, targets = logits[kept], targets[kept]
    c = logits.shape[1]
    if ((targets < 0) | (targets >= c)).any():
        raise ValueError("targets")
    hot = targets[:, None].to(torch.uint8) == torch.arange(c).to(torch.uint8)
    q = hot * (1 - label_smoothing) + label_smoothing / c
    return -(q * torch.log_softmax(logits, dim=1)).sum() / max(len(targets), 1)


@misconception("cross_entropy", "Lets a target of −100 pass whatever ignore_index is.")
def always_ignores_minus_100(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = (targets != ignore_index) & (targets != -100)
    logits, targets = logits[kept], targets[kept]
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return loss.sum() / max(len(targets), 1)


@misconception("cross_entropy", "Writes `ignore_index or −100`: class 0 can't be ignored then.")
def zero_is_no_ignore_index(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != (ignore_index or -100)
    logits, targets = logits[kept], targets[kept]
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return loss.sum() / max(len(targets), 1)


@misconception("cross_entropy", "Flattens the scores with view, which needs them to be contiguous.")
def views_the_scores(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    n, c = logits.shape
    kept = targets != ignore_index
    if (kept & ((targets < 0) | (targets >= c))).any():
        raise ValueError("targets")
    rows = torch.arange(n)[kept]
    score = logits.view(-1)[rows * c + targets[kept]]
    lse = logits[kept].logsumexp(1)
    loss = (1 - label_smoothing) * (lse - score) + label_smoothing * (lse - logits[kept].mean(1))
    return loss.sum() / max(len(rows), 1)


@misconception("cross_entropy", "Computes in float32 whatever the dtype: half of the digits of float64 are lost.")
def loses_double_precision(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    x, y = logits[kept].float(), targets[kept]
    if ((y < 0) | (y >= x.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(x, dim=1)
    of_target = log_p.gather(1, y[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return (loss.sum() / max(len(y), 1)).to(logits.dtype)


@misconception("cross_entropy", "Puts 0 in the place of ignored targets, in the caller's own tensor.")
def overwrites_the_targets(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    kept = targets != ignore_index
    targets[~kept] = 0
    if ((targets < 0) | (targets >= logits.shape[1])).any():
        raise ValueError("targets")
    log_p = torch.log_softmax(logits[kept], dim=1)
    of_target = log_p.gather(1, targets[kept][:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return loss.sum() / max(int(kept.sum()), 1)


# SGD


class _SGDBase(ReferenceSGD):
    """Lets a wrong SGD say only what it does with one parameter."""

    def step(self):
        with torch.no_grad():
            for i, p in enumerate(self.params):
                if p.grad is not None:
                    self.update(i, p)


@misconception("SGD", "Dampens the gradient by 1 − momentum, as Adam does: torch's momentum adds the whole gradient to v.")
class DampenedSGD(_SGDBase):
    def update(self, i, p):
        g = p.grad + self.weight_decay * p
        if self.momentum:
            v = torch.zeros_like(p) if self._velocity[i] is None else self._velocity[i]
            v = self._velocity[i] = self.momentum * v + (1 - self.momentum) * g
            g = g + self.momentum * v if self.nesterov else v
        p -= self.lr * g


@misconception("SGD", "Puts lr into v, which matters as soon as the learning rate changes.")
class LrInVelocitySGD(_SGDBase):
    def update(self, i, p):
        g = self.lr * (p.grad + self.weight_decay * p)
        if self.momentum:
            v = torch.zeros_like(p) if self._velocity[i] is None else self._velocity[i]
            v = self._velocity[i] = self.momentum * v + g
            g = g + self.momentum * v if self.nesterov else v
        p -= g


@misconception("SGD", "Keeps p.grad itself as v at the first step: the next backward, and v's own update, then change both.")
class AliasedVelocitySGD(_SGDBase):
    def update(self, i, p):
        g = p.grad if self.weight_decay == 0 else p.grad + self.weight_decay * p
        if self.momentum:
            if self._velocity[i] is None:
                self._velocity[i] = g
            else:
                self._velocity[i].mul_(self.momentum).add_(g)
            v = self._velocity[i]
            g = g + self.momentum * v if self.nesterov else v
        p -= self.lr * g


@misconception("SGD", "Takes a missing gradient for a gradient of zero: decay and momentum then move the parameter.")
class MissingIsZeroSGD(ReferenceSGD):
    def step(self):
        for p in self.params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        super().step()


@misconception("SGD", "Nesterov's variant is computed as plain momentum.")
class NesterovIgnoredSGD(ReferenceSGD):
    def step(self):
        self.nesterov = False
        super().step()


@misconception("SGD", "Puts a new tensor into p.data: others who share the parameter's memory don't see the update.")
class NewTensorSGD(_SGDBase):
    def update(self, i, p):
        g = p.grad + self.weight_decay * p
        if self.momentum:
            v = torch.zeros_like(p) if self._velocity[i] is None else self._velocity[i]
            v = self._velocity[i] = self.momentum * v + g
            g = g + self.momentum * v if self.nesterov else v
        p.data = p - self.lr * g


@misconception("SGD", "Adds the decay into p.grad: the caller's gradients are changed.")
class DecaysTheGradient(_SGDBase):
    def update(self, i, p):
        g = p.grad
        if self.weight_decay:
            g.add_(p, alpha=self.weight_decay)
        if self.momentum:
            v = torch.zeros_like(p) if self._velocity[i] is None else self._velocity[i]
            v = self._velocity[i] = self.momentum * v + g
            g = g + self.momentum * v if self.nesterov else v
        p -= self.lr * g


@misconception("SGD", "Flattens parameters with view, which fails where one isn't contiguous.")
class FlatSGD(_SGDBase):
    def update(self, i, p):
        p, g = p.view(-1), p.grad.reshape(-1) + self.weight_decay * p.view(-1)
        if self.momentum:
            v = torch.zeros_like(p) if self._velocity[i] is None else self._velocity[i]
            v = self._velocity[i] = self.momentum * v + g
            g = g + self.momentum * v if self.nesterov else v
        p -= self.lr * g


@misconception("SGD", "Keeps the v's in an attribute of the class, so that all optimizers share them.")
class SharedVelocitySGD(_SGDBase):
    velocity: ClassVar = {}

    def update(self, i, p):
        g = p.grad + self.weight_decay * p
        if self.momentum:
            v = self.velocity[i, p.shape] = self.momentum * self.velocity.get((i, p.shape), 0) + g
            g = g + self.momentum * v if self.nesterov else v
        p -= self.lr * g


@misconception("SGD", "Sorts out frozen parameters at the start: one that is thawed later never learns.")
class DropsFrozenSGD(ReferenceSGD):
    def __init__(self, params, lr, **settings):
        super().__init__([p for p in params if p.requires_grad], lr, **settings)


@misconception("SGD", "Takes a learning rate of 0 for none given.")
class ZeroIsNoRateSGD(ReferenceSGD):
    def __init__(self, params, lr, **settings):
        super().__init__(params, lr or 1e-3, **settings)


@misconception("SGD", "Fills the gradients with zeros before it lets go of them: whoever holds one sees it wiped out.")
class WipesGradientsSGD(ReferenceSGD):
    def zero_grad(self):
        for p in self.params:
            if p.grad is not None:
                p.grad.zero_()
            p.grad = None


@misconception("SGD", "Keeps v at the parameter: a second optimizer for it goes on with the first one's.")
class VelocityAtTheParameter(_SGDBase):
    def update(self, i, p):
        g = p.grad + self.weight_decay * p
        if self.momentum:
            v = p.velocity = self.momentum * getattr(p, "velocity", 0) + g
            g = g + self.momentum * v if self.nesterov else v
        p -= self.lr * g


@misconception("SGD", "Switches recording on after the step, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterTheStep(ReferenceSGD):
    def step(self):
        torch.set_grad_enabled(False)
        super().step()
        torch.set_grad_enabled(True)


# AdamW


class _AdamWBase(ReferenceAdamW):
    """Lets a wrong AdamW change one piece of the rule."""

    def step(self):
        with torch.no_grad():
            for i, p in enumerate(self.params):
                if p.grad is not None:
                    self._t[i] += 1
                    self.update(i, p, p.grad, *self.betas)

    def moments(self, i, g, beta1, beta2):
        m, v = self._m[i], self._v[i]
        m.mul_(beta1).add_((1 - beta1) * g)
        v.mul_(beta2).add_((1 - beta2) * g.square())
        return m / (1 - beta1 ** self._t[i]), v / (1 - beta2 ** self._t[i])


@misconception("AdamW", "Adds weight_decay · p to the gradient: that is Adam with L2, where decay is scaled away by √v.")
class CoupledDecay(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        m, v = self.moments(i, g + self.weight_decay * p, beta1, beta2)
        p -= self.lr * m / (v.sqrt() + self.eps)


@misconception("AdamW", "Leaves out the bias correction, so the first steps are far too small or too large.")
class NoBiasCorrection(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        self.moments(i, g, beta1, beta2)
        p *= 1 - self.lr * self.weight_decay
        p -= self.lr * self._m[i] / (self._v[i].sqrt() + self.eps)


@misconception("AdamW", "Adds eps under the square root.")
class EpsInsideTheRoot(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        m, v = self.moments(i, g, beta1, beta2)
        p *= 1 - self.lr * self.weight_decay
        p -= self.lr * m / (v + self.eps).sqrt()


@misconception("AdamW", "Decays by weight_decay alone, without the learning rate.")
class DecayWithoutLr(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        m, v = self.moments(i, g, beta1, beta2)
        p *= 1 - self.weight_decay
        p -= self.lr * m / (v.sqrt() + self.eps)


@misconception("AdamW", "Counts one t for all parameters: one that had no gradient in some steps gets the wrong bias correction.")
class OneClockForAll(_AdamWBase):
    def step(self):
        self.clock = getattr(self, "clock", 0) + 1
        self._t = [self.clock - 1] * len(self.params)
        super().step()

    def update(self, i, p, g, beta1, beta2):
        m, v = self.moments(i, g, beta1, beta2)
        p *= 1 - self.lr * self.weight_decay
        p -= self.lr * m / (v.sqrt() + self.eps)


@misconception("AdamW", "Writes the bias correction into m and v themselves, so it piles up from step to step.")
class CorrectsTheState(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        self._m[i], self._v[i] = self.moments(i, g, beta1, beta2)
        p *= 1 - self.lr * self.weight_decay
        p -= self.lr * self._m[i] / (self._v[i].sqrt() + self.eps)


@misconception("AdamW", "Keeps t, m and v in attributes of the class, so that all optimizers share them.")
class SharedMoments(_AdamWBase):
    state: ClassVar = {}

    def update(self, i, p, g, beta1, beta2):
        t, m, v = self.state.get((i, p.shape), (0, 0, 0))
        t, m, v = t + 1, beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g.square()
        self.state[i, p.shape] = t, m, v
        p *= 1 - self.lr * self.weight_decay
        p -= self.lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + self.eps)


@misconception("AdamW", "Sorts out frozen parameters at the start: one that is thawed later never learns.")
class DropsFrozen(ReferenceAdamW):
    def __init__(self, params, lr=1e-3, **settings):
        super().__init__([p for p in params if p.requires_grad], lr, **settings)


@misconception("AdamW", "Takes a learning rate of 0 for none given.")
class ZeroIsNoRate(ReferenceAdamW):
    def __init__(self, params, lr=1e-3, **settings):
        super().__init__(params, lr or 1e-3, **settings)


@misconception("AdamW", "Takes betas of 0 for none given.")
class ZeroIsNoBeta(ReferenceAdamW):
    def __init__(self, params, lr=1e-3, *, betas=(0.9, 0.999), **settings):
        super().__init__(params, lr, betas=(betas[0] or 0.9, betas[1] or 0.999), **settings)


@misconception("AdamW", "Keeps v from falling below 1e-12: parameters with tiny gradients hardly move.")
class ClampsV(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        m, v = self.moments(i, g, beta1, beta2)
        p *= 1 - self.lr * self.weight_decay
        p -= self.lr * m / (v.clamp(min=1e-12).sqrt() + self.eps)


@misconception("AdamW", "Squares p.grad in place: the caller's gradients are changed.")
class SquaresTheGradient(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        m, v, t = self._m[i], self._v[i], self._t[i]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).add_(g.pow_(2), alpha=1 - beta2)
        p *= 1 - self.lr * self.weight_decay
        p -= self.lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + self.eps)


@misconception("AdamW", "Flattens parameters with view, which fails where one isn't contiguous.")
class FlatAdamW(_AdamWBase):
    def update(self, i, p, g, beta1, beta2):
        m, v = self.moments(i, g, beta1, beta2)
        flat = p.view(-1)
        flat *= 1 - self.lr * self.weight_decay
        flat -= self.lr * m.reshape(-1) / (v.reshape(-1).sqrt() + self.eps)


@misconception("AdamW", "Switches recording on after the step, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterAStep(ReferenceAdamW):
    def step(self):
        torch.set_grad_enabled(False)
        super().step()
        torch.set_grad_enabled(True)


# cosine_with_warmup


@misconception("cosine_with_warmup", "Falls along a straight line: only the ends and the middle are the cosine's.")
def falls_in_a_line(step, *, warmup_steps, total_steps, min_factor=0.0):
    factor = reference_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps, min_factor=min_factor)
    if warmup_steps <= step < total_steps:
        return min_factor + (1 - min_factor) * (1 - (step - warmup_steps) / (total_steps - warmup_steps))
    return factor


@misconception("cosine_with_warmup", "Measures the cosine from step 0 over total_steps: it is cut off where the warm-up ends.")
def cosine_starts_at_zero(step, *, warmup_steps, total_steps, min_factor=0.0):
    factor = reference_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps, min_factor=min_factor)
    if warmup_steps <= step < total_steps:
        return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return factor


@misconception("cosine_with_warmup", "Lets the cosine go to 0 and cuts it off at min_factor, instead of ending there smoothly.")
def cuts_off_at_the_minimum(step, *, warmup_steps, total_steps, min_factor=0.0):
    factor = reference_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps)
    return factor if step < warmup_steps else max(factor, min_factor)


@misconception("cosine_with_warmup", "Goes on along the cosine after total_steps, where it rises again.")
def rises_again_after_the_end(step, *, warmup_steps, total_steps, min_factor=0.0):
    if step < total_steps or warmup_steps == total_steps:
        return reference_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps, min_factor=min_factor)
    x = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * x))


@misconception("cosine_with_warmup", "Counts steps from 1: the warm-up is one step ahead.")
def one_step_ahead(step, *, warmup_steps, total_steps, min_factor=0.0):
    if 0 <= step < warmup_steps <= total_steps:
        return (step + 1) / warmup_steps
    return reference_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps, min_factor=min_factor)


@misconception("cosine_with_warmup", "Looks for the end of the curve before it checks the numbers: nonsense passes there.")
def checks_after_the_end(step, *, warmup_steps, total_steps, min_factor=0.0):
    if step >= total_steps:
        return float(min_factor)
    return reference_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps, min_factor=min_factor)


@misconception("cosine_with_warmup", "Divides before it asks whether there is a cosine at all: with warm-up only, that is by zero.")
def divides_by_an_empty_cosine(step, *, warmup_steps, total_steps, min_factor=0.0):
    if step < 0 or not 0 <= warmup_steps <= total_steps:
        raise ValueError("numbers")
    x = min(max((step - warmup_steps) / (total_steps - warmup_steps), 0), 1)
    if step < warmup_steps:
        return step / warmup_steps
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * x))


@misconception("cosine_with_warmup", "Lets the curve end above 0 where nothing was said, or where 0 was asked for.")
def zero_is_no_minimum(step, *, warmup_steps, total_steps, min_factor=0.0):
    return reference_cosine(step, warmup_steps=warmup_steps, total_steps=total_steps, min_factor=min_factor or 0.1)


# clip_grad_norm_


def _check_norm(norm, max_norm):
    if max_norm < 0:
        raise ValueError("max_norm")
    if not math.isfinite(norm):
        raise RuntimeError("norm")


@misconception("clip_grad_norm_", "Clips each gradient by its own norm: that changes the direction of the joint gradient.")
def clips_one_by_one(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    for g in grads:
        if g.norm() > max_norm:
            g.mul_(max_norm / g.norm())
    return norm


@misconception("clip_grad_norm_", "Scales to max_norm always, so small gradients grow.")
def always_scales(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    for g in grads:
        g.mul_(max_norm / (norm + 1e-12))
    return norm


@misconception("clip_grad_norm_", "Goes through params twice: a generator is empty the second time, and nothing is clipped.")
def uses_a_generator_twice(params, max_norm):
    norms = [p.grad.norm() for p in params if p.grad is not None]
    norm = torch.stack(norms).norm() if norms else torch.zeros(())
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for p in params:
            if p.grad is not None:
                p.grad.mul_(max_norm / norm)
    return norm


@misconception("clip_grad_norm_", "Returns the norm after clipping.")
def returns_the_norm_after(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm.clamp(max=max_norm)


@misconception("clip_grad_norm_", "Adds the norms of the gradients; the joint norm is the root of the sum of their squares.")
def adds_the_norms(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).sum() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


@misconception("clip_grad_norm_", "Puts a new tensor into p.grad instead of changing the one that is there.")
def replaces_the_gradient(params, max_norm):
    params = [p for p in params if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in params]).norm() if params else torch.zeros(())
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for p in params:
            p.grad = p.grad * (max_norm / norm)
    return norm


@misconception("clip_grad_norm_", "Clips before it looks whether the norm is finite: a single NaN spreads to every gradient.")
def spreads_nan(params, max_norm):
    if max_norm < 0:
        raise ValueError("max_norm")
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(())
    for g in grads:
        if not norm <= max_norm:
            g.mul_(max_norm / norm)
    _check_norm(norm, max_norm)
    return norm


@misconception("clip_grad_norm_", "Divides by norm + 1e-6, as torch does: tiny gradients come out too small.")
def adds_torchs_epsilon(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    for g in grads:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


@misconception("clip_grad_norm_", "Leaves out parameters that are frozen now but still have a gradient.")
def skips_frozen_parameters(params, max_norm):
    grads = [p.grad for p in params if p.requires_grad and p.grad is not None]
    norm = torch.stack([g.norm() for g in grads]).norm() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


@misconception("clip_grad_norm_", "Flattens the gradients with view, which fails where one isn't contiguous.")
def views_the_gradients(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.cat([g.view(-1) for g in grads]).norm() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


@misconception("clip_grad_norm_", "Squares float16 gradients in float16, where 300² is inf.")
def squares_in_sixteen_bits(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = sum((g * g).sum() for g in grads).sqrt() if grads else torch.zeros(())
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


@misconception("clip_grad_norm_", "Returns early if there are no gradients, before it has looked at max_norm.")
def checks_only_with_gradients(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.stack([g.norm() for g in grads]).norm()
    _check_norm(norm, max_norm)
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


@misconception("clip_grad_norm_", "Clips in place, but then gives each parameter a copy: who holds the old tensor sees no later change.")
def swaps_in_a_copy(params, max_norm):
    params = [p for p in params if p.grad is not None]
    norm = reference_clip_grad_norm(params, max_norm)
    for p in params:
        p.grad = p.grad.clone()
    return norm


@misconception("clip_grad_norm_", "Switches recording on when it is done, where it may have been off: use `with torch.no_grad():`.")
def records_after_clipping(params, max_norm):
    norm = reference_clip_grad_norm(params, max_norm)
    torch.set_grad_enabled(True)
    return norm


# train_epoch


@misconception("train_epoch", "Forgets zero_grad: every update adds the gradients of all batches before.")
def forgets_zero_grad(model, batches, loss_fn, optimizer):
    model.train()
    total, count = 0.0, 0
    for x, y in batches:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(x), count + len(x)
    if not count:
        raise ValueError("no batches")
    return total / count


@misconception("train_epoch", "Clears the gradients only after step, so those from before the call get into the first update.")
def clears_too_late(model, batches, loss_fn, optimizer):
    model.train()
    total, count = 0.0, 0
    for x, y in batches:
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total, count = total + loss.item() * len(x), count + len(x)
    if not count:
        raise ValueError("no batches")
    return total / count


@misconception("train_epoch", "Averages over batches: a short last batch counts as much as a full one.")
def averages_over_batches(model, batches, loss_fn, optimizer):
    model.train()
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if not losses:
        raise ValueError("no batches")
    return sum(losses) / len(losses)


@misconception("train_epoch", "Doesn't switch to training mode: after an evaluation it trains with dropout off and frozen statistics.")
def stays_in_eval_mode(model, batches, loss_fn, optimizer):
    total, count = 0.0, 0
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(x), count + len(x)
    if not count:
        raise ValueError("no batches")
    return total / count


@misconception("train_epoch", "Runs the model again after step: that is another loss, and batch norm sees each batch twice.")
def measures_after_the_step(model, batches, loss_fn, optimizer):
    model.train()
    total, count = 0.0, 0
    for x, y in batches:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            total, count = total + loss_fn(model(x), y).item() * len(x), count + len(x)
    if not count:
        raise ValueError("no batches")
    return total / count


@misconception("train_epoch", "Puts the modes back at the end: the model should stay in training mode.")
def restores_the_modes(model, batches, loss_fn, optimizer):
    modes = [(module, module.training) for module in model.modules()]
    try:
        return stays_in_eval_mode(model.train(), batches, loss_fn, optimizer)
    finally:
        for module, mode in modes:
            module.training = mode


@misconception("train_epoch", "Calls model.zero_grad: what the optimizer holds beyond the model is never cleared.")
def clears_the_models_gradients(model, batches, loss_fn, optimizer):
    model.train()
    total, count = 0.0, 0
    for x, y in batches:
        model.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(x), count + len(x)
    if not count:
        raise ValueError("no batches")
    return total / count


@misconception("train_epoch", "Switches on the model's own flag only: its submodules stay in eval mode.")
def trains_the_top_only(model, batches, loss_fn, optimizer):
    model.training = True
    return stays_in_eval_mode(model, batches, loss_fn, optimizer)


@misconception("train_epoch", "Lowers the learning rate at the end of the pass: that is for the caller, or a scheduler, to do.")
def lowers_the_learning_rate(model, batches, loss_fn, optimizer):
    loss = reference_train_epoch(model, batches, loss_fn, optimizer)
    for group in optimizer.param_groups:
        group["lr"] *= 0.9
    return loss


# evaluate


def _evaluate(model, batches, loss_fn):
    total, correct, count = 0.0, 0, 0
    for x, y in batches:
        out = model(x)
        total += loss_fn(out, y).item() * len(y)
        correct += (out.argmax(1) == y).sum().item()
        count += len(y)
    if not count:
        raise ValueError("no batches")
    return {"loss": total / count, "accuracy": correct / count}


@misconception("evaluate", "Leaves the model in eval mode.")
def leaves_eval_mode(model, batches, loss_fn):
    model.eval()
    with torch.no_grad():
        return _evaluate(model, batches, loss_fn)


@misconception("evaluate", "Ends with model.train(): a model that was in eval mode, or had a frozen layer, isn't any more.")
def ends_in_training_mode(model, batches, loss_fn):
    model.eval()
    try:
        with torch.no_grad():
            return _evaluate(model, batches, loss_fn)
    finally:
        model.train()


@misconception("evaluate", "Restores the mode of the model only; train(mode) then sets it for every submodule.")
def restores_only_the_top(model, batches, loss_fn):
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _evaluate(model, batches, loss_fn)
    finally:
        model.train(was_training)


@misconception("evaluate", "no_grad without eval(): batch norm uses, and updates, the statistics of the batch.")
def forgets_eval(model, batches, loss_fn):
    with torch.no_grad():
        return _evaluate(model, batches, loss_fn)


@misconception("evaluate", "eval() without no_grad: eval mode doesn't stop the graph from being recorded.")
def records_a_graph(model, batches, loss_fn):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return _evaluate(model, batches, loss_fn)
    finally:
        for module, mode in modes:
            module.training = mode


@misconception("evaluate", "Averages the batches' accuracies and losses: a short batch counts as much as a full one.")
def mean_of_batch_means(model, batches, loss_fn):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            parts = [_evaluate(model, [batch], loss_fn) for batch in batches]
    finally:
        for module, mode in modes:
            module.training = mode
    if not parts:
        raise ValueError("no batches")
    return {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}


@misconception("evaluate", "Restores the modes after the loop: an error on the way leaves the model in eval mode.")
def not_restored_after_an_error(model, batches, loss_fn):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        result = _evaluate(model, batches, loss_fn)
    for module, mode in modes:
        module.training = mode
    return result


@misconception("evaluate", "Raises for no batches before the modes are put back: the model stays in eval mode.")
def stays_in_eval_mode_without_batches(model, batches, loss_fn):
    batches = iter(batches)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    first = next(batches, None)
    if first is None:
        raise ValueError("no batches")

    def all_batches():
        yield first
        yield from batches

    try:
        with torch.no_grad():
            return _evaluate(model, all_batches(), loss_fn)
    finally:
        for module, mode in modes:
            module.training = mode


@misconception("evaluate", "Switches recording on at the end, although it may have been off before.")
def switches_recording_on(model, batches, loss_fn):
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    torch.set_grad_enabled(False)
    try:
        return _evaluate(model, batches, loss_fn)
    finally:
        torch.set_grad_enabled(True)
        for module, mode in modes:
            module.training = mode


@misconception("evaluate", "Restores the modes after errors of the model only: the loss and the batches can fail too.")
def guards_the_model_only(model, batches, loss_fn):
    modes = [(module, module.training) for module in model.modules()]

    def restore():
        for module, mode in modes:
            module.training = mode

    def guarded(x):
        try:
            return model(x)
        except Exception:
            restore()
            raise

    model.eval()
    with torch.no_grad():
        try:
            result = _evaluate(guarded, batches, loss_fn)
        except ValueError:
            restore()
            raise
    restore()
    return result


@misconception("evaluate", "Empties the gradients, to save memory.")
def empties_the_gradients(model, batches, loss_fn):
    model.zero_grad()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            return _evaluate(model, batches, loss_fn)
    finally:
        for module, mode in modes:
            module.training = mode


@misconception("evaluate", "Restores with train(mode) from the inside out: the outer modules set the modes of the inner ones again.")
def restores_from_the_inside_out(model, batches, loss_fn):
    modes = [(module, module.training) for module in model.modules()]
    try:
        return reference_evaluate(model, batches, loss_fn)
    finally:
        for module, mode in reversed(modes):
            module.train(mode)


# accumulate_gradients


def _pieces(x, y, size):
    if size < 1:
        raise ValueError("micro_batch_size")
    return list(zip(x.split(size), y.split(size), strict=True))


@misconception("accumulate_gradients", "Divides by the number of pieces: right only if all have the same size.")
def divides_by_pieces(model, x, y, loss_fn, micro_batch_size):
    pieces, total = _pieces(x, y, micro_batch_size), 0.0
    for xs, ys in pieces:
        loss = loss_fn(model(xs), ys) / len(pieces)
        loss.backward()
        total += loss.item()
    return total


@misconception("accumulate_gradients", "Doesn't divide: the gradients come out as a sum over pieces instead of a mean.")
def sums_the_pieces(model, x, y, loss_fn, micro_batch_size):
    total = 0.0
    for xs, ys in _pieces(x, y, micro_batch_size):
        loss = loss_fn(model(xs), ys)
        loss.backward()
        total += loss.item() * len(xs) / len(x)
    return total


@misconception("accumulate_gradients", "Adds up the losses and goes backward once: the activations of all pieces are in memory together.")
def one_backward_at_the_end(model, x, y, loss_fn, micro_batch_size):
    loss = sum(loss_fn(model(xs), ys) * len(xs) / len(x) for xs, ys in _pieces(x, y, micro_batch_size))
    loss.backward()
    return loss.item()


@misconception("accumulate_gradients", "Clears the gradients first: what had been accumulated before is lost.")
def clears_gradients_first(model, x, y, loss_fn, micro_batch_size):
    model.zero_grad()
    total = 0.0
    for xs, ys in _pieces(x, y, micro_batch_size):
        loss = loss_fn(model(xs), ys) * (len(xs) / len(x))
        loss.backward()
        total += loss.item()
    return total


@misconception("accumulate_gradients", "Scales p.grad at the end instead of the losses: that scales older gradients too.")
def scales_old_gradients_too(model, x, y, loss_fn, micro_batch_size):
    total = 0.0
    for xs, ys in _pieces(x, y, micro_batch_size):
        loss = loss_fn(model(xs), ys) * len(xs)
        loss.backward()
        total += loss.item()
    for p in model.parameters():
        p.grad /= len(x)
    return total / len(x)


@misconception("accumulate_gradients", "Drops the short last piece.")
def drops_the_last_piece(model, x, y, loss_fn, micro_batch_size):
    pieces = _pieces(x, y, micro_batch_size)
    full = [piece for piece in pieces if len(piece[0]) == micro_batch_size] or pieces
    count, total = sum(len(xs) for xs, _ in full), 0.0
    for xs, ys in full:
        loss = loss_fn(model(xs), ys) * (len(xs) / count)
        loss.backward()
        total += loss.item()
    return total


@misconception(
    "accumulate_gradients", "Cuts with chunk, which evens out the pieces: 9 samples by 4 become 3, 3 and 3 instead of 4, 4 and 1."
)
def cuts_into_even_chunks(model, x, y, loss_fn, micro_batch_size):
    if micro_batch_size < 1:
        raise ValueError("micro_batch_size")
    count, total = math.ceil(len(x) / micro_batch_size), 0.0
    for xs, ys in zip(x.chunk(count), y.chunk(count), strict=True):
        loss = loss_fn(model(xs), ys) * (len(xs) / len(x))
        loss.backward()
        total += loss.item()
    return total


@misconception("accumulate_gradients", "Puts the model into training mode: the caller may want it otherwise.")
def switches_to_training_mode(model, x, y, loss_fn, micro_batch_size):
    model.train()
    total = 0.0
    for xs, ys in _pieces(x, y, micro_batch_size):
        loss = loss_fn(model(xs), ys) * (len(xs) / len(x))
        loss.backward()
        total += loss.item()
    return total


@misconception("accumulate_gradients", "Starts every missing gradient at zeros: frozen parameters have one then.")
def fills_missing_gradients(model, x, y, loss_fn, micro_batch_size):
    pieces, total = _pieces(x, y, micro_batch_size), 0.0
    for p in model.parameters():
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for xs, ys in pieces:
        loss = loss_fn(model(xs), ys) * (len(xs) / len(x))
        loss.backward()
        total += loss.item()
    return total


@misconception("accumulate_gradients", "Checks the size only when it gets to the rest: by then there are gradients.")
def checks_the_size_too_late(model, x, y, loss_fn, micro_batch_size):
    size = abs(micro_batch_size) or len(x)
    total = 0.0
    for xs, ys in _pieces(x, y, size):
        loss = loss_fn(model(xs), ys) * (len(xs) / len(x))
        loss.backward()
        total += loss.item()
    if micro_batch_size < 1:
        raise ValueError("micro_batch_size")
    return total


@misconception("accumulate_gradients", "Puts the model into eval mode afterwards: the caller may want it otherwise.")
def ends_in_eval_mode(model, x, y, loss_fn, micro_batch_size):
    loss = reference_accumulate_gradients(model, x, y, loss_fn, micro_batch_size)
    model.eval()
    return loss


# EarlyStopping


@misconception("EarlyStopping", "Keeps model.state_dict() itself: its tensors are the model's, and change with it.")
class KeepsReferences(ReferenceEarlyStopping):
    def update(self, loss, model):
        improved = loss < self.best_loss - self.min_delta
        stop = super().update(loss, model)
        if improved:
            self._best_state = model.state_dict()
        return stop


@misconception("EarlyStopping", "Keeps a copy of the dict, not of its tensors: state_dict().copy() is shallow.")
class ShallowCopy(ReferenceEarlyStopping):
    def update(self, loss, model):
        improved = loss < self.best_loss - self.min_delta
        stop = super().update(loss, model)
        if improved:
            self._best_state = model.state_dict().copy()
        return stop


@misconception("EarlyStopping", "Compares with the loss before instead of the best one.")
class ComparesWithTheLast(ReferenceEarlyStopping):
    def update(self, loss, model):
        stop = super().update(loss, model)
        self.best_loss = loss
        return stop


@misconception("EarlyStopping", "Takes an equal loss for an improvement.")
class EqualImproves(ReferenceEarlyStopping):
    def update(self, loss, model):
        nudged = math.nextafter(loss, -math.inf) if loss == self.best_loss - self.min_delta else loss
        stop = super().update(nudged, model)
        self.best_loss = loss if self.best_loss == nudged else self.best_loss
        return stop


@misconception("EarlyStopping", "Keeps parameters only: batch-norm statistics stay those of the last epoch.")
class ForgetsBuffers(ReferenceEarlyStopping):
    def restore(self, model):
        if self._best_state is None:
            raise RuntimeError("nothing to restore")
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self._best_state[name])


@misconception("EarlyStopping", "Never sets the count of bad updates back: it counts all of them, not those in a row.")
class CountsAllBadUpdates(ReferenceEarlyStopping):
    def update(self, loss, model):
        before = self._bad_updates
        super().update(loss, model)
        self._bad_updates = max(before, self._bad_updates)  # an improvement would have made it 0
        return self._bad_updates >= self.patience


@misconception("EarlyStopping", "Stops one update too late: bad > patience instead of bad ≥ patience.")
class OneUpdateTooLate(ReferenceEarlyStopping):
    def update(self, loss, model):
        super().update(loss, model)
        return self._bad_updates > self.patience


@misconception("EarlyStopping", "Asks whether the loss got worse: a NaN didn't, so it becomes the best loss.")
class NanImproves(ReferenceEarlyStopping):
    def update(self, loss, model):
        if loss >= self.best_loss - self.min_delta:
            self._bad_updates += 1
        else:
            self.best_loss, self._bad_updates = loss, 0
            self._best_state = copy.deepcopy(model.state_dict())
        return self._bad_updates >= self.patience


@misconception("EarlyStopping", "Takes the first loss for the best whatever it is: inf isn't less than inf.")
class FirstAlwaysImproves(ReferenceEarlyStopping):
    def update(self, loss, model):
        if math.isinf(loss) and self._best_state is None:
            self._best_state = copy.deepcopy(model.state_dict())
            return False
        return super().update(loss, model)


@misconception("EarlyStopping", "Takes a best loss of 0 for none.")
class ZeroIsNoLoss(ReferenceEarlyStopping):
    def update(self, loss, model):
        self.best_loss = self.best_loss or math.inf
        return super().update(loss, model)


@misconception("EarlyStopping", "Restores the model that it saw last, whichever it is given.")
class RemembersTheModel(ReferenceEarlyStopping):
    def update(self, loss, model):
        self._model = model
        return super().update(loss, model)

    def restore(self, model):
        super().restore(getattr(self, "_model", model))


@misconception("EarlyStopping", "Keeps best_loss in an attribute of the class: all objects share it.")
class SharesTheBest:
    seen: ClassVar = {"loss": math.inf}

    def __init__(self, patience, *, min_delta=0.0):
        if patience < 1:
            raise ValueError("patience")
        self.patience, self.min_delta, self.bad, self.state = patience, min_delta, 0, None
        self.seen["loss"] = math.inf

    @property
    def best_loss(self):
        return self.seen["loss"]

    def update(self, loss, model):
        if loss < self.seen["loss"] - self.min_delta:
            self.seen["loss"], self.bad, self.state = loss, 0, copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience

    def restore(self, model):
        if self.state is None:
            raise RuntimeError("nothing to restore")
        model.load_state_dict(self.state)


@misconception("EarlyStopping", "Puts the model into eval mode to copy it.")
class CopiesInEvalMode(ReferenceEarlyStopping):
    def update(self, loss, model):
        return super().update(loss, model.eval())


@misconception("EarlyStopping", "Keeps the copy in float32: a float64 model comes back rounded.")
class RoundsTheCopy(ReferenceEarlyStopping):
    def update(self, loss, model):
        improved = loss < self.best_loss - self.min_delta
        stop = super().update(loss, model)
        if improved:
            self._best_state = {name: value.float() for name, value in self._best_state.items()}
        return stop


@misconception("EarlyStopping", "Flattens the parameters with view, which fails where one isn't contiguous.")
class KeepsOneVector(ReferenceEarlyStopping):
    def update(self, loss, model):
        vector = torch.cat([value.view(-1).double() for value in model.state_dict().values()]).clone()
        improved = loss < self.best_loss - self.min_delta
        stop = super().update(loss, model)
        if improved:
            self._vector = vector
        return stop


@misconception("EarlyStopping", "Ends in eval mode after restore, ready for the test: the caller decides that.")
class RestoresIntoTheOtherMode(ReferenceEarlyStopping):
    def restore(self, model):
        super().restore(model)
        model.train()


@misconception("EarlyStopping", "Begins to count anew at restore: only an update that improves does that.")
class RestoreForgives(ReferenceEarlyStopping):
    def restore(self, model):
        super().restore(model)
        self._bad_updates = 0


@misconception("EarlyStopping", "Puts the model into training mode at restore, since training may go on: the caller decides that.")
class RestoresForTraining(ReferenceEarlyStopping):
    def restore(self, model):
        super().restore(model)
        model.train()


@misconception("EarlyStopping", "Switches recording on after restore, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterRestore(ReferenceEarlyStopping):
    def restore(self, model):
        super().restore(model)
        torch.set_grad_enabled(True)


# save_checkpoint


def _checkpoint(model, optimizer, scheduler, epoch):
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    state = {name: part.state_dict() for name, part in parts.items()}
    return {**state, "epoch": epoch, "rng_state": torch.get_rng_state()}


def _write(state, path):
    torch.save(state, f"{os.fspath(path)}.new")
    os.replace(f"{os.fspath(path)}.new", path)


@misconception("save_checkpoint", "Leaves out the random state: dropout and shuffling go on differently after a break.")
def forgets_the_random_state(path, model, optimizer, scheduler, epoch):
    state = _checkpoint(model, optimizer, scheduler, epoch)
    del state["rng_state"]
    _write(state, path)


@misconception("save_checkpoint", "Saves the seed that torch started from, not the state that its generator is in now.")
def saves_the_first_state(path, model, optimizer, scheduler, epoch):
    state = _checkpoint(model, optimizer, scheduler, epoch)
    state["rng_state"] = torch.Generator().manual_seed(torch.initial_seed()).get_state()
    _write(state, path)


@misconception("save_checkpoint", "Saves whole objects: that ties the file to the code, and weights_only=True refuses it.")
def saves_objects(path, model, optimizer, scheduler, epoch):
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "epoch": epoch, "rng_state": torch.get_rng_state()}
    _write(state, path)


@misconception("save_checkpoint", "Saves the parameters only: batch-norm statistics are buffers, and get lost.")
def saves_parameters_only(path, model, optimizer, scheduler, epoch):
    state = _checkpoint(model, optimizer, scheduler, epoch)
    state["model"] = {name: p.detach() for name, p in model.named_parameters()}
    _write(state, path)


@misconception("save_checkpoint", "Writes to path at once: if that fails half way, the old checkpoint is gone too.")
def writes_in_place(path, model, optimizer, scheduler, epoch):
    torch.save(_checkpoint(model, optimizer, scheduler, epoch), path)


@misconception("save_checkpoint", "Saves the optimizer's param_groups without its state: momentum starts from nothing.")
def forgets_the_momentum(path, model, optimizer, scheduler, epoch):
    state = _checkpoint(model, optimizer, scheduler, epoch)
    state["optimizer"] = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}
    _write(state, path)


@misconception("save_checkpoint", "Copies the file instead of moving it, and leaves the unfinished one behind.")
def leaves_a_second_file(path, model, optimizer, scheduler, epoch):
    unfinished = f"{os.fspath(path)}.new"
    torch.save(_checkpoint(model, optimizer, scheduler, epoch), unfinished)
    shutil.copy(unfinished, path)


@misconception("save_checkpoint", "Leaves the unfinished file behind if saving fails.")
def leaves_the_unfinished_file(path, model, optimizer, scheduler, epoch):
    _write(_checkpoint(model, optimizer, scheduler, epoch), path)


@misconception("save_checkpoint", "Joins folder and name by hand: for a relative path the folder is empty, and the file goes to /.")
def joins_paths_by_hand(path, model, optimizer, scheduler, epoch):
    new = os.path.dirname(os.fspath(path)) + "/.unfinished"
    try:
        torch.save(_checkpoint(model, optimizer, scheduler, epoch), new)
        os.replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def _save(path, state):
    new = f"{os.fspath(path)}.new"
    try:
        torch.save(state, new)
        os.replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


@misconception("save_checkpoint", "Takes epoch 0 for none given.")
def zero_is_no_epoch(path, model, optimizer, scheduler, epoch):
    _save(path, _checkpoint(model, optimizer, scheduler, epoch or scheduler.last_epoch + 1))


@misconception("save_checkpoint", "Puts the model into eval mode before it saves, and training goes on that way.")
def saves_in_eval_mode(path, model, optimizer, scheduler, epoch):
    _save(path, _checkpoint(model.eval(), optimizer, scheduler, epoch))


@misconception("save_checkpoint", "Clears the gradients before it saves: what had been accumulated is gone.")
def clears_gradients_to_save(path, model, optimizer, scheduler, epoch):
    optimizer.zero_grad()
    _save(path, _checkpoint(model, optimizer, scheduler, epoch))


@misconception("save_checkpoint", "Puts the model into training mode once it is saved: the caller may want it otherwise.")
def trains_after_saving(path, model, optimizer, scheduler, epoch):
    _save(path, _checkpoint(model, optimizer, scheduler, epoch))
    model.train()


# load_checkpoint


@misconception("load_checkpoint", "Doesn't put the random state back.")
def random_state_stays(path, model, optimizer, scheduler):
    before = torch.get_rng_state()
    epoch = reference_load_checkpoint(path, model, optimizer, scheduler)
    torch.set_rng_state(before)
    return epoch


@misconception("load_checkpoint", "Loads the model only: momentum and schedule go on from where the fresh objects are.")
def loads_the_model_only(path, model, optimizer, scheduler):
    state = torch.load(path, map_location="cpu", weights_only=True)
    if {"model", "optimizer", "scheduler", "epoch", "rng_state"} - state.keys():
        raise ValueError("missing")
    model.load_state_dict(state["model"])
    torch.set_rng_state(state["rng_state"])
    return state["epoch"]


@misconception("load_checkpoint", "Forgets the scheduler: the learning rate continues on the wrong step.")
def forgets_the_scheduler(path, model, optimizer, scheduler):
    before = scheduler.state_dict()
    epoch = reference_load_checkpoint(path, model, optimizer, scheduler)
    scheduler.load_state_dict(before)
    return epoch


@misconception("load_checkpoint", "Reads with weights_only=False: a file from a stranger may run any code.")
def trusts_the_file(path, model, optimizer, scheduler):
    state = torch.load(path, map_location="cpu", weights_only=False)
    if {"model", "optimizer", "scheduler", "epoch", "rng_state"} - state.keys():
        raise ValueError("missing")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng_state"])
    return state["epoch"]


@misconception("load_checkpoint", "Reads tensors to the device that they were saved from, which this machine may not have.")
def wants_the_same_device(path, model, optimizer, scheduler):
    state = torch.load(path, weights_only=True)
    if {"model", "optimizer", "scheduler", "epoch", "rng_state"} - state.keys():
        raise ValueError("missing")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng_state"])
    return state["epoch"]


@misconception("load_checkpoint", "Loads piece by piece: when the missing key turns up, half of everything is changed already.")
def notices_too_late(path, model, optimizer, scheduler):
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["rng_state"])
        return state["epoch"]
    except KeyError as error:
        raise ValueError("missing") from error


@misconception("load_checkpoint", "Swaps in new tensors (assign=True): the optimizer goes on updating the old ones.")
def assigns_new_parameters(path, model, optimizer, scheduler):
    epoch = reference_load_checkpoint(path, model, optimizer, scheduler)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model"], assign=True)
    return epoch


@misconception("load_checkpoint", "Asks whether there is an epoch by its truth: epoch 0 counts as missing.")
def epoch_zero_is_missing(path, model, optimizer, scheduler):
    if not torch.load(path, map_location="cpu", weights_only=True).get("epoch"):
        raise ValueError("missing")
    return reference_load_checkpoint(path, model, optimizer, scheduler)


@misconception("load_checkpoint", "Puts the model into training mode: what the caller had frozen in eval mode isn't any more.")
def switches_everything_to_training(path, model, optimizer, scheduler):
    epoch = reference_load_checkpoint(path, model, optimizer, scheduler)
    model.train()
    return epoch


@misconception("load_checkpoint", "Clears the gradients, which nobody asked for.")
def clears_the_gradients_too(path, model, optimizer, scheduler):
    epoch = reference_load_checkpoint(path, model, optimizer, scheduler)
    optimizer.zero_grad()
    return epoch


@misconception("load_checkpoint", "Puts the model into eval mode, as one does to use a model that is loaded: here, training goes on.")
def evaluates_what_is_loaded(path, model, optimizer, scheduler):
    epoch = reference_load_checkpoint(path, model, optimizer, scheduler)
    model.eval()
    return epoch


# collate_padded


def _collate(batch, padding_value):
    if not batch:
        raise ValueError("empty")
    sequences, labels = [s for s, _ in batch], [label for _, label in batch]
    lengths = torch.tensor([len(s) for s in sequences])
    longest = int(lengths.max())
    padded = sequences[0].new_full((len(batch), longest, *sequences[0].shape[1:]), padding_value)
    for i, s in enumerate(sequences):
        padded[i, : len(s)] = s
    return padded, lengths, torch.arange(longest) < lengths[:, None], torch.tensor(labels)


@misconception("collate_padded", "Finds the mask by comparing with padding_value: real entries of that value are lost.")
def mask_from_values(batch, *, padding_value=0):
    padded, lengths, _, labels = _collate(batch, padding_value)
    same = padded != padding_value
    return padded, lengths, same.flatten(2).any(2) if same.dim() > 2 else same, labels


@misconception("collate_padded", "The mask is True on padding: that is torch's key_padding_mask, the opposite.")
def mask_upside_down(batch, *, padding_value=0):
    padded, lengths, mask, labels = _collate(batch, padding_value)
    return padded, lengths, ~mask, labels


@misconception("collate_padded", "Sorts by length, as packing once needed, and so changes the order of the batch.")
def sorts_by_length(batch, *, padding_value=0):
    return _collate(sorted(batch, key=lambda item: -len(item[0])), padding_value)


@misconception("collate_padded", "Makes the padded batch with torch.full and no dtype: ids turn into something else.")
def loses_the_dtype(batch, *, padding_value=0):
    padded, *rest = _collate(batch, padding_value)
    return padded.float(), *rest


@misconception("collate_padded", "Always pads with zeros.")
def always_zero(batch, *, padding_value=0):
    return _collate(batch, 0)


@misconception("collate_padded", "Pads in front of the sequence.")
def pads_in_front(batch, *, padding_value=0):
    padded, lengths, mask, labels = _collate(batch, padding_value)
    for i, (sequence, _) in enumerate(batch):
        start = padded.shape[1] - len(sequence)
        padded[i, :start] = padding_value
        padded[i, start:] = sequence
    return padded, lengths, mask.flip(1), labels


@misconception("collate_padded", "Multiplies by the mask and adds padding_value times its opposite: 0 · inf is NaN.")
def pads_by_multiplying(batch, *, padding_value=0):
    padded, lengths, mask, labels = _collate(batch, 0)
    if padded.dtype == torch.bool:
        return _collate(batch, padding_value)
    wide = mask.reshape(*mask.shape, *[1] * (padded.dim() - 2))
    return (padded * wide + padding_value * ~wide).to(padded.dtype), lengths, mask, labels


@misconception("collate_padded", "Builds the batch in floating point and converts it back: large ids change.")
def pads_in_floating_point(batch, *, padding_value=0):
    _, lengths, mask, labels = _collate(batch, padding_value)
    padded, *_ = _collate([(s.double(), label) for s, label in batch], padding_value)
    return padded.to(batch[0][0].dtype), lengths, mask, labels


@misconception("collate_padded", "Squeezes the padded batch: a size of 1 is a size, too.")
def squeezes_the_batch(batch, *, padding_value=0):
    padded, *rest = _collate(batch, padding_value)
    return padded.squeeze(), *rest


@misconception("collate_padded", "Counts positions in the sequences' own dtype: a byte holds no 300.")
def counts_in_the_sequences_dtype(batch, *, padding_value=0):
    padded, lengths, mask, labels = _collate(batch, padding_value)
    if padded.dtype == torch.uint8:
        mask = torch.arange(padded.shape[1]).to(torch.uint8) < lengths.to(torch.uint8)[:, None]
    return padded, lengths, mask, labels


@misconception("collate_padded", "Puts the padded sequences into the caller's list.")
def overwrites_the_list(batch, *, padding_value=0):
    padded, lengths, mask, labels = _collate(batch, padding_value)
    for i, (row, (_, label)) in enumerate(zip(padded, batch, strict=True)):
        batch[i] = (row, label)
    return padded, lengths, mask, labels


# split_indices


def _check_fraction(fraction):
    if not 0 <= fraction <= 1:
        raise ValueError("fraction")


def _split(labels, fraction, permute):
    """Stratified split, with permute(members) giving each class's order."""
    _check_fraction(fraction)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = permute((labels == label).nonzero().squeeze(1))
        held_out[members[: math.floor(fraction * len(members) + 0.5)]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


@misconception("split_indices", "Shuffles everything and cuts: rare classes may be missing from one side.")
def not_stratified(labels, fraction, *, seed):
    _check_fraction(fraction)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    cut = math.floor(fraction * len(labels) + 0.5)
    return order[cut:].sort().values, order[:cut].sort().values


@misconception("split_indices", "Holds out the first samples of every class: that isn't random, and the seed does nothing.")
def takes_the_first(labels, fraction, *, seed):
    return _split(labels, fraction, lambda members: members)


@misconception("split_indices", "Makes a new generator with the same seed for every class: classes of one size get the same permutation.")
def same_permutation_for_every_class(labels, fraction, *, seed):
    return _split(labels, fraction, lambda c: c[torch.randperm(len(c), generator=torch.Generator().manual_seed(seed))])


@misconception("split_indices", "Calls torch.manual_seed: the caller's own random numbers change.")
def reseeds_the_world(labels, fraction, *, seed):
    torch.manual_seed(seed)
    return _split(labels, fraction, lambda members: members[torch.randperm(len(members))])


@misconception("split_indices", "Uses the global generator: the same seed gives another split each time.")
def ignores_the_seed(labels, fraction, *, seed):
    state = torch.get_rng_state()
    try:
        return _split(labels, fraction, lambda members: members[torch.randperm(len(members))])
    finally:
        torch.set_rng_state(state)


@misconception("split_indices", "Rounds with round(), which takes halves to the even number.")
def rounds_half_to_even(labels, fraction, *, seed):
    _check_fraction(fraction)
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        held_out[members[torch.randperm(len(members), generator=generator)[: round(fraction * len(members))]]] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


@misconception("split_indices", "Takes each sample with probability fraction: the shares are right only on average.")
def tosses_a_coin(labels, fraction, *, seed):
    _check_fraction(fraction)
    held_out = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < fraction
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def _python_split(labels, fraction, rng):
    """Stratified split with Python's lists."""
    _check_fraction(fraction)
    classes, held_out = {}, []
    for i, label in enumerate(labels.tolist()):
        classes.setdefault(label, []).append(i)
    for members in classes.values():
        rng.shuffle(members)
        held_out += members[: math.floor(fraction * len(members) + 0.5)]
    train = sorted(set(range(len(labels))) - set(held_out))
    return torch.tensor(train, dtype=torch.int64), torch.tensor(sorted(held_out), dtype=torch.int64)


@misconception("split_indices", "Takes seed 0 for none given: each call gives another split.")
def zero_is_no_seed(labels, fraction, *, seed):
    return _python_split(labels, fraction, random.Random(seed or None))


@misconception("split_indices", "Seeds Python's global generator: the caller's own random numbers change.")
def reseeds_python(labels, fraction, *, seed):
    random.seed(seed)
    return _python_split(labels, fraction, random)


@misconception("split_indices", "Compares labels as floats: large ones that differ by 1 become one class.")
def labels_as_floats(labels, fraction, *, seed):
    generator = torch.Generator().manual_seed(seed)
    return _split(labels.double(), fraction, lambda members: members[torch.randperm(len(members), generator=generator)])


@misconception("split_indices", "Concatenates the classes' parts: for a data set without samples there is nothing to concatenate.")
def concatenates_the_parts(labels, fraction, *, seed):
    _check_fraction(fraction)
    generator = torch.Generator().manual_seed(seed)
    train, held_out = [], []
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        cut = math.floor(fraction * len(members) + 0.5)
        held_out.append(members[:cut])
        train.append(members[cut:])
    return torch.cat(train).sort().values, torch.cat(held_out).sort().values


# fit_digits


def _network(images):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (images.shape[2] // 2) * (images.shape[3] // 2), 10),
    )


@misconception("fit_digits", "Returns the weights that the network starts with: the training was forgotten.")
def never_trains(images, labels, *, seed):
    torch.manual_seed(seed)
    return _network(images).state_dict()


@misconception("fit_digits", "Shuffles the images but not their labels: there is nothing to learn.")
def shuffles_images_only(images, labels, *, seed):
    torch.manual_seed(seed)
    model = _network(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(3):
        for batch, y in zip(torch.randperm(len(images)).split(64), labels.split(64), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), y).backward()
            optimizer.step()
    return model.state_dict()


@misconception("fit_digits", "Doesn't use the seed: two runs with the same seed give different weights.")
def weights_ignore_the_seed(images, labels, *, seed):
    return reference_fit_digits(images, labels, seed=int(torch.randint(2**31, ())))


@misconception("fit_digits", "Seeds with a constant: every seed gives the same weights.")
def constant_seed(images, labels, *, seed):
    return reference_fit_digits(images, labels, seed=0)


@misconception("fit_digits", "Makes one update an epoch, from all images at once: a dozen updates are far too few.")
def one_update_an_epoch(images, labels, *, seed):
    torch.manual_seed(seed)
    model = _network(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


@misconception("fit_digits", "Shuffles with Python's generator, which nobody has seeded.")
def shuffles_without_a_seed(images, labels, *, seed):
    torch.manual_seed(seed)
    model = _network(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    order = list(range(len(images)))
    for _ in range(5):
        random.shuffle(order)
        for batch in torch.tensor(order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.state_dict()


@misconception("fit_digits", "Writes 32 · 4 · 4 into the last layer: right for images of 8×8 only.")
def only_for_eight_by_eight(images, labels, *, seed):
    return reference_fit_digits(images.new_zeros(len(images), 1, 8, 8) + images, labels, seed=seed)


@misconception("fit_digits", "Takes seed 0 for none given.")
def zero_means_unseeded(images, labels, *, seed):
    return reference_fit_digits(images, labels, seed=seed or int(torch.randint(2**31, ())))
