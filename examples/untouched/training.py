import math

import os

from collections.abc import Callable, Iterable

import torch

from torch import Tensor, nn

from torch.optim import Optimizer

from torch.optim.lr_scheduler import LRScheduler


def cross_entropy(logits: Tensor, targets: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    raise NotImplementedError("cross_entropy")


class SGD:
    def __init__(
        self, params: Iterable[Tensor], lr: float, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        raise NotImplementedError("SGD.__init__")

    def step(self) -> None:
        raise NotImplementedError("SGD.step")

    def zero_grad(self) -> None:
        raise NotImplementedError("SGD.zero_grad")


class AdamW:
    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.001,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
    ) -> None:
        raise NotImplementedError("AdamW.__init__")

    def step(self) -> None:
        raise NotImplementedError("AdamW.step")

    def zero_grad(self) -> None:
        raise NotImplementedError("AdamW.zero_grad")


def cosine_with_warmup(step: int, *, warmup_steps: int, total_steps: int, min_factor: float = 0.0) -> float:
    raise NotImplementedError("cosine_with_warmup")


def clip_grad_norm_(params: Iterable[Tensor], max_norm: float) -> Tensor:
    raise NotImplementedError("clip_grad_norm_")


def train_epoch(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss_fn: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer
) -> float:
    raise NotImplementedError("train_epoch")


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss_fn: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    raise NotImplementedError("evaluate")


def accumulate_gradients(
    model: nn.Module, x: Tensor, y: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor], micro_batch_size: int
) -> float:
    raise NotImplementedError("accumulate_gradients")


class EarlyStopping:
    def __init__(self, patience: int, *, min_delta: float = 0.0) -> None:
        raise NotImplementedError("EarlyStopping.__init__")

    def update(self, loss: float, model: nn.Module) -> bool:
        raise NotImplementedError("EarlyStopping.update")

    def restore(self, model: nn.Module) -> None:
        raise NotImplementedError("EarlyStopping.restore")


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, epoch: int) -> None:
    raise NotImplementedError("save_checkpoint")


def load_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> int:
    raise NotImplementedError("load_checkpoint")


def collate_padded(batch: list[tuple[Tensor, int]], *, padding_value: float = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    raise NotImplementedError("collate_padded")


def split_indices(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("split_indices")


def fit_digits(images: Tensor, labels: Tensor, *, seed: int) -> dict[str, Tensor]:
    raise NotImplementedError("fit_digits")
