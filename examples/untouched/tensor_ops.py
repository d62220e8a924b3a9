from collections.abc import Sequence

import torch

from torch import Tensor


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    raise NotImplementedError("broadcast_shape")


def pairwise_distances(x: Tensor, y: Tensor) -> Tensor:
    raise NotImplementedError("pairwise_distances")


def stable_softmax(x: Tensor, dim: int = -1) -> Tensor:
    raise NotImplementedError("stable_softmax")


def log_sum_exp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    raise NotImplementedError("log_sum_exp")


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    raise NotImplementedError("masked_mean")


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    raise NotImplementedError("one_hot")


def batched_gather(x: Tensor, index: Tensor) -> Tensor:
    raise NotImplementedError("batched_gather")


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
