import math

import os

from collections.abc import Callable, Iterable

import torch

from torch import Tensor, nn

from torch.optim import Optimizer

from torch.optim.lr_scheduler import LRScheduler


def cross_entropy(logits: Tensor, targets: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    kept = targets != ignore_index
    logits, targets = (logits[kept], targets[kept])
    num_classes = logits.shape[1]
    if ((targets < 0) | (targets >= num_classes)).any():
        raise ValueError(f"targets must be in 0 … {num_classes - 1}, or {ignore_index}")
    log_p = torch.log_softmax(logits, dim=1)
    of_target = log_p.gather(1, targets[:, None]).squeeze(1)
    loss = -(1 - label_smoothing) * of_target - label_smoothing * log_p.mean(dim=1)
    return loss.sum() / max(len(targets), 1)


class SGD:
    def __init__(
        self, params: Iterable[Tensor], lr: float, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        if lr < 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        if nesterov and momentum == 0:
            raise ValueError("Nesterov's variant needs a momentum")
        self.params = list(params)
        self.lr, self.momentum, self.nesterov, self.weight_decay = (lr, momentum, nesterov, weight_decay)
        self._velocity: list[Tensor | None] = [None] * len(self.params)

    def step(self) -> None:
        with torch.no_grad():
            for i, p in enumerate(self.params):
                if p.grad is None:
                    continue
                g = p.grad + self.weight_decay * p
                if self.momentum != 0:
                    v = self._velocity[i]
                    v = self._velocity[i] = g if v is None else self.momentum * v + g
                    g = g + self.momentum * v if self.nesterov else v
                p -= self.lr * g

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None


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
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must be in 0 … total_steps, got {warmup_steps} and {total_steps}")
    if step < warmup_steps:
        return step / warmup_steps
    if step >= total_steps:
        return min_factor
    x = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * x))


def clip_grad_norm_(parameters, max_norm):
    return parameters.grad  # takes one parameter for many


def train_epoch(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], loss_fn: Callable[[Tensor, Tensor], Tensor], optimizer: Optimizer
) -> float:
    model.train()
    total, count = (0.0, 0)
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
        count += len(x)
    if count == 0:
        raise ValueError("there are no batches")
    return total / count


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
