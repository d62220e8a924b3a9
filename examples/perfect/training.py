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
        if lr < 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        if not all((0 <= beta < 1 for beta in betas)):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        self.params = list(params)
        self.lr, self.betas, self.eps, self.weight_decay = (lr, betas, eps, weight_decay)
        self._t = [0] * len(self.params)
        self._m = [torch.zeros_like(p) for p in self.params]
        self._v = [torch.zeros_like(p) for p in self.params]

    def step(self) -> None:
        beta1, beta2 = self.betas
        with torch.no_grad():
            for i, p in enumerate(self.params):
                if p.grad is None:
                    continue
                self._t[i] += 1
                m, v, t = (self._m[i], self._v[i], self._t[i])
                m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                m_hat, v_hat = (m / (1 - beta1**t), v / (1 - beta2**t))
                p.mul_(1 - self.lr * self.weight_decay)
                p.sub_(self.lr * m_hat / (v_hat.sqrt() + self.eps))

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None


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


def clip_grad_norm_(params: Iterable[Tensor], max_norm: float) -> Tensor:
    if max_norm < 0:
        raise ValueError(f"max_norm must not be negative, got {max_norm}")
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.stack([torch.linalg.vector_norm(g) for g in grads]).norm()
    if not norm.isfinite():
        raise RuntimeError(f"the norm of the gradients is {norm.item()}")
    if norm > max_norm:
        for g in grads:
            g.mul_(max_norm / norm)
    return norm


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
    modes = [(module, module.training) for module in model.modules()]
    total, correct, count = (0.0, 0, 0)
    model.eval()
    try:
        with torch.no_grad():
            for x, y in batches:
                logits = model(x)
                total += loss_fn(logits, y).item() * len(y)
                correct += (logits.argmax(dim=1) == y).sum().item()
                count += len(y)
    finally:
        for module, mode in modes:
            module.training = mode
    if count == 0:
        raise ValueError("there are no batches")
    return {"loss": total / count, "accuracy": correct / count}


def accumulate_gradients(
    model: nn.Module, x: Tensor, y: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor], micro_batch_size: int
) -> float:
    if micro_batch_size < 1:
        raise ValueError(f"micro_batch_size must be at least 1, got {micro_batch_size}")
    total = 0.0
    for xs, ys in zip(x.split(micro_batch_size), y.split(micro_batch_size), strict=True):
        loss = loss_fn(model(xs), ys) * (len(xs) / len(x))
        loss.backward()
        total += loss.item()
    return total


class EarlyStopping:
    def __init__(self, patience: int, *, min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.patience, self.min_delta = (patience, min_delta)
        self.best_loss = math.inf
        self._bad_updates = 0
        self._best_state: dict[str, Tensor] | None = None

    def update(self, loss: float, model: nn.Module) -> bool:
        if loss < self.best_loss - self.min_delta:
            self.best_loss = loss
            self._bad_updates = 0
            self._best_state = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            self._bad_updates += 1
        return self._bad_updates >= self.patience

    def restore(self, model: nn.Module) -> None:
        if self._best_state is None:
            raise RuntimeError("there is nothing to restore: no update has improved yet")
        model.load_state_dict(self._best_state)


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, epoch: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": epoch,
        "rng_state": torch.get_rng_state(),
    }
    unfinished = f"{os.fspath(path)}.unfinished"
    try:
        torch.save(state, unfinished)
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.remove(unfinished)
        raise


def load_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> int:
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing = {"model", "optimizer", "scheduler", "epoch", "rng_state"} - state.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng_state"])
    return state["epoch"]


def collate_padded(batch: list[tuple[Tensor, int]], *, padding_value: float = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not batch:
        raise ValueError("the batch is empty")
    sequences, labels = zip(*batch, strict=True)
    lengths = torch.tensor([len(s) for s in sequences])
    T = int(lengths.max())
    padded = sequences[0].new_full((len(batch), T, *sequences[0].shape[1:]), padding_value)
    for row, s in zip(padded, sequences, strict=True):
        row[: len(s)] = s
    mask = torch.arange(T) < lengths[:, None]
    return (padded, lengths, mask, torch.tensor(labels))


def split_indices(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        count = math.floor(fraction * len(members) + 0.5)
        shuffled = members[torch.randperm(len(members), generator=generator)]
        held_out[shuffled[:count]] = True
    return ((~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1))


def fit_digits(images: Tensor, labels: Tensor, *, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (images.shape[2] // 2) * (images.shape[3] // 2), 10),
    )
    epochs, batch_size = (12, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    updates = epochs * math.ceil(len(images) / batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=updates)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            scheduler.step()
    return model.state_dict()
