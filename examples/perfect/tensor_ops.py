from collections.abc import Sequence

import torch

from torch import Tensor


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    result = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i in range(-len(shape), 0):
            if shape[i] == 1:
                continue
            if result[i] not in (1, shape[i]):
                raise ValueError(f"sizes {result[i]} and {shape[i]} of dimension {i} do not fit")
            result[i] = shape[i]
    return tuple(result)


def pairwise_distances(x: Tensor, y: Tensor) -> Tensor:
    squared = (x[:, None, :] - y[None, :, :]).square().sum(-1)
    same = squared == 0
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


def stable_softmax(x: Tensor, dim: int = -1) -> Tensor:
    h = x.to(torch.promote_types(x.dtype, torch.float32))
    top = h.amax(dim, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0.0)
    e = torch.exp(h - top)
    total = e.sum(dim, keepdim=True)
    return (e / total.masked_fill(total == 0, 1.0)).to(x.dtype)


def log_sum_exp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    m = x.detach().amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)
    result = m + (x - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    mask = mask.expand_as(x)
    total = torch.where(mask, x, 0.0).sum(dim)
    return total / mask.sum(dim).clamp(min=1)


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    labels = labels.to(torch.int64)
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError(f"labels must lie in 0 … {num_classes - 1}")
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).to(dtype)


def batched_gather(x: Tensor, index: Tensor) -> Tensor:
    batch = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[batch, index]


def scatter_mean(x: Tensor, index: Tensor, num_groups: int) -> Tensor:
    total = x.new_zeros(num_groups, x.shape[1]).index_add(0, index, x)
    count = torch.bincount(index, minlength=num_groups).clamp(min=1)
    return total / count[:, None]


def sliding_windows(x: Tensor, size: int, step: int = 1) -> Tensor:
    T = x.shape[-1]
    if size < 1 or step < 1 or size > T:
        raise ValueError(f"no windows of size {size} and step {step} in {T} entries")
    *batch, stride = x.stride()
    W = (T - size) // step + 1
    return x.as_strided((*x.shape[:-1], W, size), (*batch, step * stride, stride))


def batched_bilinear(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    return torch.einsum("...i,oij,...j->...o", x, weight, y)


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    if not blocks or any((block.ndim != 2 for block in blocks)):
        raise ValueError("blocks must be at least one tensor, each of two dimensions")
    result = blocks[0].new_zeros(sum((b.shape[0] for b in blocks)), sum((b.shape[1] for b in blocks)))
    row = column = 0
    for block in blocks:
        R, C = block.shape
        result[row : row + R, column : column + C] = block
        row, column = (row + R, column + C)
    return result


def topk_mask(x: Tensor, k: int) -> Tensor:
    if not 0 <= k <= x.shape[-1]:
        raise ValueError(f"k is {k}, but rows have {x.shape[-1]} entries")
    order = x.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


def sparse_matvec(indices: Tensor, values: Tensor, size: tuple[int, int], x: Tensor) -> Tensor:
    rows, columns = indices
    M, N = size
    if ((rows < 0) | (rows >= M) | (columns < 0) | (columns >= N)).any():
        raise ValueError(f"an index lies outside of the {M} × {N} matrix")
    return values.new_zeros(M).index_add(0, rows, values * x[columns])
