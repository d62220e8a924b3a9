"""Other correct answers to the tasks of compression: the hidden suite must accept every one."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from grader.testing import alternative

# magnitude_masks


@alternative("magnitude_masks")
def by_a_sorted_list(weights, sparsity):
    """Python's sort of all entries with their places."""
    if not (sparsity >= 0 and sparsity <= 1):
        raise ValueError(f"{sparsity} is no share")
    entries = [(abs(x), place) for place, x in enumerate(x for w in weights.values() for x in w.detach().flatten().tolist())]
    gone = {place for _, place in sorted(entries)[: round(sparsity * len(entries))]}
    masks, start = {}, 0
    for name, w in weights.items():
        flags = [start + i not in gone for i in range(w.numel())]
        masks[name] = torch.tensor(flags, dtype=torch.bool).reshape(w.shape)
        start += w.numel()
    return masks


@alternative("magnitude_masks")
def by_a_threshold_and_a_quota(weights, sparsity):
    """All below the k-th size go; of those that equal it, the first ones, until the count is full."""
    if sparsity < 0 or sparsity > 1 or sparsity != sparsity:
        raise ValueError("no share")
    total = sum(w.numel() for w in weights.values())
    k = round(sparsity * total)
    if k == 0:
        return {name: torch.full(w.shape, True) for name, w in weights.items()}
    sizes = {name: w.detach().to(torch.float64).abs() for name, w in weights.items()}
    limit = torch.cat([s.reshape(-1) for s in sizes.values()]).kthvalue(k).values
    quota = k - sum(int((s < limit).sum()) for s in sizes.values())
    masks = {}
    for name, s in sizes.items():
        equal = s == limit
        earlier = equal.reshape(-1).cumsum(0).reshape(s.shape) <= quota
        masks[name] = ~((s < limit) | (equal & earlier))
        quota = max(quota - int(equal.sum()), 0)
    return masks


# Pruned


@alternative("Pruned")
class WithWhere(nn.Module):
    def __init__(self, mask):
        super().__init__()
        if mask.dtype is not torch.bool:
            raise ValueError("bool, please")
        self.register_buffer("mask", mask.detach().clone().contiguous())

    def forward(self, weight):
        if weight.size() != self.mask.size():
            raise ValueError("shapes differ")
        return torch.where(self.mask, weight, weight.new_zeros(()))

    def right_inverse(self, weight):
        return torch.where(self.mask, weight, torch.zeros_like(weight)) if weight.shape == self.mask.shape else self.forward(weight)

    @staticmethod
    def bake(model):
        targets = []
        for module in model.modules():
            if parametrize.is_parametrized(module):
                for name in module.parametrizations:
                    if "WithWhere" in [type(step).__name__ for step in module.parametrizations[name]] or any(
                        hasattr(step, "mask") for step in module.parametrizations[name]
                    ):
                        targets.append((module, name))
        for module, name in targets:
            parametrize.remove_parametrizations(module, name)


class _Mask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, mask):
        ctx.save_for_backward(mask)
        out = torch.zeros_like(weight)
        out[mask] = weight[mask]
        return out

    @staticmethod
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        return grad.masked_fill(~mask, 0), None


@alternative("Pruned")
class WithAFunction(nn.Module):
    def __init__(self, mask):
        super().__init__()
        if mask.dtype != torch.bool:
            raise ValueError(str(mask.dtype))
        self.register_buffer("mask", mask.clone())

    def _checked(self, weight):
        if tuple(weight.shape) != tuple(self.mask.shape):
            raise ValueError("another shape")
        return weight

    def forward(self, weight):
        return _Mask.apply(self._checked(weight), self.mask)

    def right_inverse(self, weight):
        kept = self._checked(weight).detach().clone()
        kept[~self.mask] = 0
        return kept

    @staticmethod
    def bake(model):
        if parametrize.is_parametrized(model):
            for name, chain in [*model.parametrizations.items()]:
                if any(type(step).__dict__.get("_checked") for step in chain):
                    parametrize.remove_parametrizations(model, name, True)
        for child in list(model.children()):
            WithAFunction.bake(child)


# two_four_mask


@alternative("two_four_mask")
def by_ranks(weight):
    """An entry stays if fewer than two others beat it."""
    if weight.ndim < 1 or weight.size(-1) % 4 != 0:
        raise ValueError("groups of four, please")
    sizes = weight.detach().double().abs().reshape(*weight.shape[:-1], weight.shape[-1] // 4, 4)
    kept = []
    for i in range(4):
        beaten = sum(
            (sizes[..., j] > sizes[..., i]).int() + ((sizes[..., j] == sizes[..., i]).int() if j < i else 0) for j in range(4) if j != i
        )
        kept.append(beaten < 2)
    return torch.stack(kept, -1).reshape(weight.shape)


@alternative("two_four_mask")
def by_lists(weight):
    if weight.dim() == 0 or weight.shape[-1] % 4:
        raise ValueError(str(weight.shape))
    flat = [abs(x) for x in weight.detach().flatten().tolist()]
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    for start in range(0, len(flat), 4):
        for place in sorted(range(start, start + 4), key=lambda i: (-flat[i], i))[:2]:
            mask[place] = True
    return mask.view(weight.shape)


@alternative("two_four_mask")
def by_numpy(weight):
    if weight.dim() == 0 or weight.shape[-1] % 4:
        raise ValueError(str(weight.shape))
    sizes = np.abs(weight.detach().double().numpy()).reshape(-1, 4)
    mask = np.zeros(sizes.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(-sizes, axis=1, kind="stable")[:, :2], True, axis=1)
    return torch.from_numpy(mask).reshape(weight.shape)
