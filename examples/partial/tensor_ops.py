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


def stable_softmax(x, dim=-1):
    e = torch.exp(x)  # forgets to subtract the maximum
    return e / e.sum(dim, keepdim=True)


def log_sum_exp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    m = x.detach().amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)
    result = m + (x - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


def masked_mean(x, mask, dim):
    return (x * mask).sum(dim) / x.shape[dim]  # divides by everything


def one_hot(labels, num_classes, dtype=torch.float32):
    return (labels.unsqueeze(-1) == torch.arange(num_classes)).to(torch.int64)  # the wrong dtype


def batched_gather(x: Tensor, index: Tensor) -> Tensor:
    batch = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[batch, index]


def scatter_mean(x: Tensor, index: Tensor, num_groups: int) -> Tensor:
    raise NotImplementedError("scatter_mean")


def sliding_windows(x: Tensor, size: int, step: int = 1) -> Tensor:
    raise NotImplementedError("sliding_windows")


def batched_bilinear(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    raise NotImplementedError("batched_bilinear")


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    raise NotImplementedError("block_diagonal")


def topk_mask(x: Tensor, k: int) -> Tensor:
    raise NotImplementedError("topk_mask")


def sparse_matvec(indices: Tensor, values: Tensor, size: tuple[int, int], x: Tensor) -> Tensor:
    raise NotImplementedError("sparse_matvec")
