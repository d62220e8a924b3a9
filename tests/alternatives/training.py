"""Other correct answers to the tasks of training: the hidden suite must accept every one."""

import collections
import contextlib
import copy
import io
import math
import os
import random
import tempfile

import numpy as np
import torch
from torch import nn

from grader.testing import alternative

# cross_entropy


@alternative("cross_entropy")
def row_by_row(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    losses = []
    for row, target in zip(logits, targets.tolist(), strict=True):
        if target == ignore_index:
            continue
        if not 0 <= target < len(row):
            raise ValueError(f"no class {target}")
        uniform = row.logsumexp(0) - row.mean()
        losses.append((1 - label_smoothing) * (row.logsumexp(0) - row[target]) + label_smoothing * uniform)
    return torch.stack(losses).mean() if losses else logits[:0].sum()


@alternative("cross_entropy")
def with_soft_targets_in_double(logits, targets, *, ignore_index=-100, label_smoothing=0.0):
    n, c = logits.shape
    kept = targets != ignore_index
    if (kept & ((targets < 0) | (targets >= c))).any():
        raise ValueError("targets")
    logits = torch.where(kept[:, None], logits, 0)
    q = torch.zeros(n, c, dtype=torch.float64)
    q[kept.nonzero()[:, 0], targets[kept]] = 1
    q = (q * (1 - label_smoothing) + label_smoothing / c) * kept[:, None]
    shifted = logits.double() - logits.double().detach().amax(dim=1, keepdim=True)
    log_p = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
    return (-(q * log_p).sum() / kept.sum().clamp(min=1)).to(logits.dtype)


# SGD


@alternative("SGD")
class VelocityInADict:
    def __init__(self, params, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0):
        if lr < 0 or (nesterov and not momentum):
            raise ValueError("settings")
        self.group = [*params]
        self.lr, self.momentum, self.nesterov, self.decay = lr, momentum, nesterov, weight_decay
        self.velocity = {}

    @torch.no_grad()
    def step(self):
        for p in self.group:
            if p.grad is None:
                continue
            g = p.grad.clone()
            if self.decay:
                g.add_(p, alpha=self.decay)
            if self.momentum:
                if p not in self.velocity:
                    self.velocity[p] = torch.zeros_like(p)
                v = self.velocity[p]
                v.mul_(self.momentum).add_(g)
                g = g.add_(v, alpha=self.momentum) if self.nesterov else v
            p.add_(g, alpha=-self.lr)

    def zero_grad(self):
        for p in self.group:
            p.grad = None


@alternative("SGD")
class ThroughData:
    def __init__(self, params, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0):
        if lr < 0:
            raise ValueError("lr")
        if nesterov and momentum == 0:
            raise ValueError("nesterov")
        self.lr = lr
        self.slots = [{"p": p, "v": 0.0} for p in params]
        self.settings = momentum, nesterov, weight_decay

    def step(self):
        momentum, nesterov, weight_decay = self.settings
        for slot in self.slots:
            p = slot["p"]
            if p.grad is not None:
                g = p.grad.detach() + weight_decay * p.data
                slot["v"] = momentum * slot["v"] + g
                p.data.copy_(p.data - self.lr * (g + momentum * slot["v"] if nesterov else slot["v"]))

    def zero_grad(self):
        for slot in self.slots:
            slot["p"].grad = None


@alternative("SGD")
class OnTorchsBase(torch.optim.Optimizer):
    """A subclass of torch's Optimizer, with its state and its param_groups."""

    def __init__(self, params, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0):
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if nesterov and momentum <= 0:
            raise ValueError("Nesterov momentum requires a momentum")
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})

    @property
    def lr(self):
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value):
        self.param_groups[0]["lr"] = value

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                d_p = p.grad
                if group["weight_decay"] != 0:
                    d_p = d_p.add(p, alpha=group["weight_decay"])
                if group["momentum"] != 0:
                    state = self.state[p]
                    if "momentum_buffer" not in state:
                        buf = state["momentum_buffer"] = torch.clone(d_p).detach()
                    else:
                        buf = state["momentum_buffer"]
                        buf.mul_(group["momentum"]).add_(d_p)
                    d_p = d_p.add(buf, alpha=group["momentum"]) if group["nesterov"] else buf
                p.add_(d_p, alpha=-group["lr"])


@alternative("SGD")
class ForeachSGD:
    """All parameters at once, with torch's functions for lists."""

    def __init__(self, params, lr, *, momentum=0.0, nesterov=False, weight_decay=0.0):
        if lr < 0 or (nesterov and momentum == 0):
            raise ValueError("settings")
        self.params, self.lr = [*params], lr
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        self.velocity = [torch.zeros_like(p, requires_grad=False) for p in self.params]

    def step(self):
        pairs = [(p.data, v) for p, v in zip(self.params, self.velocity, strict=True) if p.grad is not None]
        if not pairs:
            return
        data, velocity = map(list, zip(*pairs, strict=True))
        grads = torch._foreach_add([p.grad for p in self.params if p.grad is not None], data, alpha=self.weight_decay)
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, grads)
        update = torch._foreach_add(grads, velocity, alpha=self.momentum) if self.nesterov else velocity
        torch._foreach_add_(data, update, alpha=-self.lr)

    def zero_grad(self):
        for p in self.params:
            p.grad = None


# AdamW


@alternative("AdamW")
class InTorchsOrder:
    """The order of operations of torch's own single-tensor AdamW."""

    def __init__(self, params, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        if lr < 0 or min(betas) < 0 or max(betas) >= 1:
            raise ValueError("settings")
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.params, self.state = list(params), {}

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for p in self.params:
            if p.grad is None:
                continue
            s = self.state.setdefault(p, {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)})
            s["t"] += 1
            p.mul_(1 - self.lr * self.weight_decay)
            s["m"].lerp_(p.grad, 1 - b1)
            s["v"].mul_(b2).addcmul_(p.grad, p.grad.conj(), value=1 - b2)
            denominator = (s["v"].sqrt() / math.sqrt(1 - b2 ** s["t"])).add_(self.eps)
            p.addcdiv_(s["m"], denominator, value=-self.lr / (1 - b1 ** s["t"]))

    def zero_grad(self):
        for p in self.params:
            p.grad = None


@alternative("AdamW")
class RunningBetaPowers:
    def __init__(self, params, lr=1e-3, *, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        if not lr >= 0:
            raise ValueError("lr")
        for beta in betas:
            if beta < 0 or beta >= 1:
                raise ValueError("betas")
        self.lr = lr
        self.b1, self.b2 = betas
        self.eps, self.wd = eps, weight_decay
        self.slots = [[p, 0.0, 0.0, 1.0, 1.0] for p in params]

    def step(self):
        for slot in self.slots:
            p, m, v, b1t, b2t = slot
            if p.grad is None:
                continue
            g = p.grad.detach()
            m, v = self.b1 * m + (1 - self.b1) * g, self.b2 * v + (1 - self.b2) * g**2
            b1t, b2t = b1t * self.b1, b2t * self.b2
            update = (m / (1 - b1t)) / ((v / (1 - b2t)) ** 0.5 + self.eps)
            with torch.no_grad():
                p.sub_(self.lr * (update + self.wd * p))
            slot[1:] = m, v, b1t, b2t

    def zero_grad(self):
        for p, *_ in self.slots:
            p.grad = None


@alternative("AdamW")
class ScaledStepSize:
    """Kingma and Ba's more efficient order: the corrections in the step size, eps scaled to match."""

    def __init__(self, params, lr=0.001, *, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01):
        if lr < 0.0 or not 0.0 <= betas[0] < 1.0 or not 0.0 <= betas[1] < 1.0:
            raise ValueError("settings")
        self.params = list(params)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.state = collections.defaultdict(dict)

    @torch.no_grad()
    def step(self):
        beta1, beta2 = self.betas
        for p in self.params:
            if p.grad is None:
                continue
            state = self.state[p]
            if len(state) == 0:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
            exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
            exp_avg.mul_(beta1).add_(p.grad, alpha=1.0 - beta1)
            exp_avg_sq.mul_(beta2).addcmul_(p.grad, p.grad, value=1.0 - beta2)
            correction = math.sqrt(1.0 - beta2 ** state["step"])
            denom = exp_avg_sq.sqrt().add_(self.eps * correction)
            p.add_(p, alpha=-self.lr * self.weight_decay)
            p.addcdiv_(exp_avg, denom, value=-self.lr * correction / (1.0 - beta1 ** state["step"]))

    def zero_grad(self):
        for p in self.params:
            p.grad = None


# cosine_with_warmup


@alternative("cosine_with_warmup")
def as_cos_squared(step, *, warmup_steps, total_steps, min_factor=0.0):
    if step < 0 or warmup_steps < 0 or warmup_steps > total_steps:
        raise ValueError("numbers")
    if step < warmup_steps:
        return float(step) / float(warmup_steps)
    x = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0) if step < total_steps else 1.0
    return min_factor + (1.0 - min_factor) * math.cos(math.pi * x / 2) ** 2


@alternative("cosine_with_warmup")
def with_torch(step, *, warmup_steps, total_steps, min_factor=0.0):
    if not (step >= 0 and total_steps >= warmup_steps >= 0):
        raise ValueError("numbers")
    if step >= total_steps:
        return min_factor if step >= warmup_steps else step / warmup_steps
    if step < warmup_steps:
        return step / warmup_steps
    angle = torch.tensor(step - warmup_steps, dtype=torch.float64) / (total_steps - warmup_steps) * torch.pi
    return (min_factor * (1 - angle.cos()) / 2 + (1 + angle.cos()) / 2).item()


# clip_grad_norm_


@alternative("clip_grad_norm_")
def with_torchs_foreach(params, max_norm):
    if max_norm < 0:
        raise ValueError("max_norm")
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.tensor(0.0)
    norm = torch.cat([g.reshape(-1) for g in grads]).float().norm() if grads[0].dtype == torch.float16 else None
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))) if norm is None else norm.half()
    if norm.isnan() or norm.isinf():
        raise RuntimeError("norm")
    factor = max_norm / norm if norm > 0 else norm
    torch._foreach_mul_(grads, factor.clamp(max=1.0))
    return norm


@alternative("clip_grad_norm_")
def squares_in_double(params, max_norm):
    if max_norm < 0:
        raise ValueError("max_norm")
    params = [p for p in params if p.grad is not None]
    total = sum(float(p.grad.double().pow(2).sum()) for p in params) ** 0.5
    if not math.isfinite(total):
        raise RuntimeError("norm")
    if total > max_norm:
        for p in params:
            p.grad[...] = p.grad / total * max_norm
    return torch.tensor(total, dtype=params[0].grad.dtype if params else torch.float32)


# train_epoch


@alternative("train_epoch")
def clears_after_the_forward(model, batches, loss_fn, optimizer):
    for module in model.modules():
        module.training = True
    sums, sizes = [], []
    for batch in batches:
        x, y = batch
        loss = loss_fn(model(x), y)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        sums.append(loss.detach().double() * x.shape[0])
        sizes.append(x.shape[0])
    if not sizes:
        raise ValueError("no batches")
    return float(torch.stack(sums).sum() / sum(sizes))


@alternative("train_epoch")
def running_mean(model, batches, loss_fn, optimizer):
    model.train(True)
    mean, count = 0.0, 0
    optimizer.zero_grad()
    for inputs, targets in batches:
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        count += targets.size(0)
        mean += (loss.item() - mean) * targets.size(0) / count
    if count == 0:
        raise ValueError("no batches")
    return mean


@alternative("train_epoch")
def with_a_closure(model, batches, loss_fn, optimizer):
    model.train()
    total, seen = 0.0, 0
    for x, y in batches:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            return loss

        total += float(optimizer.step(closure)) * len(y)
        seen += len(y)
    if not seen:
        raise ValueError("no batches")
    return total / seen


# evaluate


@alternative("evaluate")
@torch.inference_mode()
def in_inference_mode(model, batches, loss_fn):
    modes = {module: module.training for module in model.modules()}
    losses, hits = [], []
    try:
        model.eval()
        for x, y in batches:
            out = model(x)
            losses += [float(loss_fn(out, y))] * len(y)
            hits += (out.max(dim=-1).indices == y).tolist()
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not hits:
        raise ValueError("no batches")
    return {"loss": math.fsum(losses) / len(losses), "accuracy": sum(hits) / len(hits)}


@alternative("evaluate")
def with_lists(model, batches, loss_fn):
    training = [module for module in model.modules() if module.training]
    grad = torch.is_grad_enabled()
    try:
        torch.set_grad_enabled(False)
        model.train(False)
        rows = [(len(y), loss_fn(out, y).item(), int((out.argmax(1) == y).sum())) for x, y in batches for out in [model(x)]]
    finally:
        torch.set_grad_enabled(grad)
        for module in training:
            module.training = True
    if not rows:
        raise ValueError("no batches")
    n = sum(row[0] for row in rows)
    return {"loss": sum(size * loss for size, loss, _ in rows) / n, "accuracy": sum(row[2] for row in rows) / n}


@contextlib.contextmanager
def _evaluating(model):
    """Eval mode without gradients, for a while."""
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]


@alternative("evaluate")
def with_a_context_manager(model, batches, loss_fn):
    loss = accuracy = 0.0
    n = 0
    with _evaluating(model):
        for x, y in batches:
            n += len(y)
            out = model(x)
            loss += (loss_fn(out, y).item() - loss) * len(y) / n
            accuracy += ((out.argmax(-1) == y).float().mean().item() - accuracy) * len(y) / n
    if n == 0:
        raise ValueError("no batches")
    return {"accuracy": accuracy, "loss": loss}


# accumulate_gradients


@alternative("accumulate_gradients")
def with_slices(model, x, y, loss_fn, micro_batch_size):
    if micro_batch_size <= 0:
        raise ValueError("micro_batch_size")
    n, losses = x.shape[0], []
    for start in range(0, n, micro_batch_size):
        piece = slice(start, start + micro_batch_size)
        loss = loss_fn(model(x[piece]), y[piece])
        weight = (min(start + micro_batch_size, n) - start) / n
        loss.backward(gradient=torch.full_like(loss, weight))
        losses.append(weight * loss.item())
    return math.fsum(losses)


@alternative("accumulate_gradients")
def with_autograd_grad(model, x, y, loss_fn, micro_batch_size):
    if micro_batch_size < 1:
        raise ValueError("micro_batch_size")
    params = [p for p in model.parameters() if p.requires_grad]
    total, sums = 0.0, [torch.zeros_like(p) for p in params]
    for xs, ys in zip(x.split(micro_batch_size), y.split(micro_batch_size), strict=True):
        loss = loss_fn(model(xs), ys)
        for s, g in zip(sums, torch.autograd.grad(loss, params), strict=True):
            s += g * len(xs)
        total += float(loss) * len(xs)
    for p, s in zip(params, sums, strict=True):
        p.grad = s / len(x) if p.grad is None else p.grad + s / len(x)
    return total / len(x)


# EarlyStopping


@alternative("EarlyStopping")
class KeepsBytes:
    def __init__(self, patience, *, min_delta=0.0):
        if patience <= 0:
            raise ValueError("patience")
        self.patience, self.delta = patience, min_delta
        self.best_loss, self.left, self.file = float("inf"), patience, None

    def update(self, loss, model):
        if self.best_loss - loss > self.delta:
            self.best_loss, self.left = loss, self.patience
            self.file = io.BytesIO()
            torch.save(model.state_dict(), self.file)
        else:
            self.left -= 1
        return self.left <= 0

    def restore(self, model):
        if self.file is None:
            raise RuntimeError("no improvement yet")
        self.file.seek(0)
        model.load_state_dict(torch.load(self.file, weights_only=True))


@alternative("EarlyStopping")
class CopiesDeeply:
    best = None

    def __init__(self, patience, *, min_delta=0.0):
        if not patience >= 1:
            raise ValueError("patience")
        self.patience, self.min_delta, self.losses, self.when = patience, min_delta, [], -1
        self.best_loss = math.inf

    def update(self, loss, model):
        self.losses.append(loss)
        if not math.isnan(loss) and loss < self.best_loss - self.min_delta:
            self.when, self.best_loss, self.best = len(self.losses) - 1, loss, copy.deepcopy(model)
        return len(self.losses) - 1 - self.when >= self.patience

    @torch.no_grad()
    def restore(self, model):
        if self.best is None:
            raise RuntimeError("no improvement yet")
        for mine, kept in zip(model.state_dict().values(), self.best.state_dict().values(), strict=True):
            mine.copy_(kept)


@alternative("EarlyStopping")
class RecentWindow:
    """Remembers for the last updates whether they improved."""

    def __init__(self, patience, *, min_delta=0.0):
        if patience < 1:
            raise ValueError("patience")
        self.recent = collections.deque(maxlen=patience)
        self.best_loss, self.min_delta, self.tensors = math.inf, min_delta, None

    def update(self, loss, model):
        better = loss + self.min_delta < self.best_loss
        self.recent.append(better)
        if better:
            self.best_loss = loss
            self.tensors = {name: t.detach().cpu().clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}
        return len(self.recent) == self.recent.maxlen and not any(self.recent)

    def restore(self, model):
        if not self.tensors:
            raise RuntimeError("no improvement yet")
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            t.data.copy_(self.tensors[name])


# save_checkpoint


@alternative("save_checkpoint")
def through_memory(path, model, optimizer, scheduler, epoch):
    buffer = io.BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({**state, "epoch": int(epoch), "rng_state": torch.random.get_rng_state()}, buffer)
    folder, name = os.path.split(os.fspath(path))
    new = os.path.join(folder, f".{name}.new")
    with open(new, "wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


@alternative("save_checkpoint")
def through_a_temporary_file(path, model, optimizer, scheduler, epoch):
    parts = {"rng_state": torch.get_rng_state(), "epoch": epoch}
    parts.update(model=copy.deepcopy(model.state_dict()), optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict())
    handle, new = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)))
    os.close(handle)
    try:
        torch.save(parts, new)
        os.rename(new, path)
    except BaseException:
        os.unlink(new)
        raise


@alternative("save_checkpoint")
def through_a_temporary_folder(path, model, optimizer, scheduler, epoch):
    path = os.path.abspath(path)
    state = {"epoch": epoch, "rng_state": torch.get_rng_state(), "model": model.state_dict()}
    state |= {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        new = os.path.join(folder, "checkpoint")
        torch.save(state, new)
        os.replace(new, path)


# load_checkpoint


@alternative("load_checkpoint")
def random_state_first(path, model, optimizer, scheduler):
    with open(path, "rb") as file:
        checkpoint = torch.load(file, map_location=torch.device("cpu"))
    try:
        names = ("rng_state", "scheduler", "optimizer", "model", "epoch")
        rng, schedule, optimization, weights, epoch = (checkpoint[name] for name in names)
    except KeyError as error:
        raise ValueError(f"no {error}") from None
    torch.random.set_rng_state(rng.clone())
    scheduler.load_state_dict(schedule)
    optimizer.load_state_dict(optimization)
    model.load_state_dict(weights, strict=True)
    return epoch


@alternative("load_checkpoint")
def copies_by_hand(path, model, optimizer, scheduler):
    state = torch.load(path, map_location=lambda storage, location: storage, weights_only=True)
    for key in ["model", "optimizer", "scheduler", "epoch", "rng_state"]:
        if key not in state:
            raise ValueError(f"no {key}")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.default_generator.set_state(state["rng_state"])
    return int(state["epoch"])


# collate_padded


@alternative("collate_padded")
def by_concatenation(batch, *, padding_value=0):
    if len(batch) == 0:
        raise ValueError("empty")
    longest = max(sequence.shape[0] for sequence, _ in batch)
    rows, masks = [], []
    for sequence, _ in batch:
        missing = longest - sequence.shape[0]
        filler = torch.full((missing, *sequence.shape[1:]), padding_value, dtype=sequence.dtype)
        rows.append(torch.cat([sequence, filler]))
        masks.append([True] * sequence.shape[0] + [False] * missing)
    lengths = torch.as_tensor([sequence.shape[0] for sequence, _ in batch], dtype=torch.int64)
    mask = torch.tensor(masks, dtype=torch.bool).reshape(len(batch), longest)
    return torch.stack(rows), lengths, mask, torch.as_tensor([label for _, label in batch])


@alternative("collate_padded")
def by_masked_assignment(batch, *, padding_value=0):
    if not batch:
        raise ValueError("empty")
    sequences = [sequence for sequence, _ in batch]
    lengths = torch.tensor([sequence.size(0) for sequence in sequences])
    mask = torch.arange(lengths.max().item()).expand(len(batch), -1) < lengths.unsqueeze(1)
    padded = torch.empty(*mask.shape, *sequences[0].shape[1:], dtype=sequences[0].dtype).fill_(padding_value)
    padded[mask] = torch.cat(sequences)
    return padded, lengths, mask, torch.tensor([label for _, label in batch])


@alternative("collate_padded")
def with_functional_pad(batch, *, padding_value=0):
    if not batch:
        raise ValueError("empty")
    xs, ys = [item[0] for item in batch], [item[1] for item in batch]
    lengths = torch.LongTensor([x.shape[0] for x in xs])
    longest = max(x.shape[0] for x in xs)
    rows = [nn.functional.pad(x, [0, 0] * (x.dim() - 1) + [0, longest - x.shape[0]], value=padding_value) for x in xs]
    mask = torch.zeros(len(xs), longest, dtype=torch.bool)
    for i, n in enumerate(lengths):
        mask[i, :n] = True
    return torch.stack(rows), lengths, mask, torch.LongTensor(ys)


# split_indices


@alternative("split_indices")
def with_python_lists(labels, fraction, *, seed):
    if fraction < 0 or fraction > 1:
        raise ValueError("fraction")
    rng, classes = random.Random(seed), {}
    for i, label in enumerate(labels.tolist()):
        classes.setdefault(label, []).append(i)
    train, held_out = [], []
    for members in classes.values():
        rng.shuffle(members)
        cut = int(fraction * len(members) + 0.5)
        held_out += members[:cut]
        train += members[cut:]
    return torch.tensor(sorted(train), dtype=torch.int64), torch.tensor(sorted(held_out), dtype=torch.int64)


@alternative("split_indices")
def by_ranking_random_keys(labels, fraction, *, seed):
    if not 0 <= fraction <= 1:
        raise ValueError("fraction")
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    same = labels[:, None] == labels[None, :]
    rank = (same & (keys[None, :] < keys[:, None])).sum(1)
    out = rank < torch.floor(fraction * same.sum(1).double() + 0.5)
    positions = torch.arange(len(labels))
    return positions[~out], positions[out]


@alternative("split_indices")
def with_numpy(labels, fraction, *, seed):
    if not 0.0 <= fraction <= 1.0:
        raise ValueError("fraction")
    rng, y = np.random.default_rng(seed), labels.numpy()
    held_out = [np.empty(0, dtype=np.int64)]
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        held_out.append(rng.choice(members, size=int(np.floor(fraction * len(members) + 0.5)), replace=False))
    test = np.sort(np.concatenate(held_out))
    return torch.from_numpy(np.setdiff1d(np.arange(len(y)), test)), torch.from_numpy(test)


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


@alternative("fit_digits")
def plain_adam(images, labels, *, seed):
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    model = _network(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.05, total_iters=8)
    data = torch.utils.data.TensorDataset(images, labels)
    for _ in range(8):
        order = torch.randperm(len(data))
        for i in range(0, len(data), 64):
            x, y = data[order[i : i + 64]]
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model.state_dict()


@alternative("fit_digits")
def momentum_and_own_generator(images, labels, *, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _network(images)
    generator = torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for _ in range(8):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
        scheduler.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
