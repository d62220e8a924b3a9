"""Distributed training, solved in full."""

import math
from collections import defaultdict
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Sampler


def ring_all_reduce(comm, x):
    """Two rounds over a copy's slices."""
    n, rank = comm.size, comm.rank
    out = torch.empty(x.shape, dtype=x.dtype)
    out.copy_(x)
    flat = out.view(-1)
    small, more = divmod(flat.numel(), n)
    bounds = [i * small + min(i, more) for i in range(n + 1)]

    def part(i):
        return flat[bounds[i % n] : bounds[i % n + 1]]

    for step in range(2 * (n - 1)):
        shift = 1 if step >= n - 1 else 0
        s = step - (n - 1) * shift
        comm.send(part(rank + shift - s), (rank + 1) % n)
        got, mine = comm.recv((rank - 1) % n), part(rank + shift - s - 1)
        mine.copy_(got if shift else mine + got)
    return out


class DistributedSampler(Sampler):
    """Indices by arithmetic on one tensor."""

    def __init__(self, dataset, num_replicas, rank, *, shuffle=True, seed=0, drop_last=False):
        if rank < 0 or rank >= num_replicas:
            raise ValueError(f"no rank {rank} among {num_replicas}")
        self.n, self.each = len(dataset), len(dataset) // num_replicas if drop_last else math.ceil(len(dataset) / num_replicas)
        self.ranks, self.rank, self.shuffle, self.seed, self.epoch = num_replicas, rank, shuffle, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.each

    def __iter__(self):
        if not self.each:
            return iter(())
        places = (torch.arange(self.each) * self.ranks + self.rank) % self.n
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(self.epoch + self.seed)
            places = torch.randperm(self.n, generator=generator)[places]
        return iter(places.tolist())


class DataParallel(nn.Module):
    """Works wait in a dict by parameter."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self._quiet = 0
        self._works = {}
        for tensor in list(module.parameters()) + list(module.buffers()):
            dist.broadcast(tensor.data, src=0)
        for p in module.parameters():
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(self._hook)

    def _hook(self, p):
        if not self._quiet:
            self._works[p] = dist.all_reduce(p.grad, async_op=True)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def finish(self):
        works, self._works = self._works, {}
        for p, work in works.items():
            work.wait()
            p.grad.mul_(1 / dist.get_world_size())

    @contextmanager
    def no_sync(self):
        self._quiet += 1
        try:
            yield self
        finally:
            self._quiet -= 1


def bucket_gradients(parameters, bucket_bytes):
    """Buckets as lists of pairs."""
    buckets, used = [], 0
    for i, p in reversed([*enumerate(parameters)]):
        if p.grad is None:
            continue
        fits = buckets and used + p.grad.nbytes <= bucket_bytes and buckets[-1][0][1].dtype == p.grad.dtype
        if not fits:
            buckets.append([])
            used = 0
        buckets[-1].append((i, p.grad))
        used += p.grad.nbytes
    for bucket in buckets:
        message = torch.empty(sum(g.numel() for _, g in bucket), dtype=bucket[0][1].dtype)
        slots = message.split([g.numel() for _, g in bucket])
        for slot, (_, g) in zip(slots, bucket):
            slot.copy_(g.reshape(-1))
        dist.all_reduce(message)
        for slot, (_, g) in zip(slots, bucket):
            g.copy_((slot / dist.get_world_size()).reshape(g.shape))
    return [[i for i, _ in bucket] for bucket in buckets]


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])
        first = torch.cat([rows.sum(0), rows.new_tensor([rows.shape[0]])])
        dist.all_reduce(first)
        n = first[-1]
        centred = rows - first[:-1] / n
        squares = centred.pow(2).sum(0)
        dist.all_reduce(squares)
        invstd = (squares / n + eps).rsqrt()
        normal = centred * invstd
        ctx.save_for_backward(normal, invstd, weight, n)
        moved = x.movedim(1, -1).shape
        return (normal * weight + bias).reshape(moved).movedim(-1, 1)

    @staticmethod
    def backward(ctx, grad):
        normal, invstd, weight, n = ctx.saved_tensors
        rows = grad.movedim(1, -1).reshape(normal.shape)
        own = torch.stack([rows.sum(0), (rows * normal).sum(0)])
        every = own.clone()
        dist.all_reduce(every)
        dx = (rows - every[0] / n - normal * every[1] / n) * weight * invstd
        return dx.reshape(grad.movedim(1, -1).shape).movedim(-1, 1), own[1], own[0], None


def sync_batch_norm(x, weight, bias, eps=1e-5):
    """The gradient is written out."""
    return _BatchNorm.apply(x, weight, bias, eps)


class ZeroAdamW:
    """Three rounds in a step: reduce everything, update, broadcast everything."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        self.params, self.lr, self.betas, self.eps, self.weight_decay = list(params), lr, betas, eps, weight_decay
        self.owners, self.state, held = [-1] * len(self.params), {}, defaultdict(int)
        for negative, i in sorted((-p.numel(), i) for i, p in enumerate(self.params)):
            _, rank = min((held[rank], rank) for rank in range(dist.get_world_size()))
            self.owners[i] = rank
            held[rank] -= negative

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self):
        n, rank, (b1, b2) = dist.get_world_size(), dist.get_rank(), self.betas
        sums = {i: p.grad.contiguous().clone() for i, p in enumerate(self.params) if p.grad is not None}
        for i, total in sums.items():
            dist.reduce(total, self.owners[i])
        for i, total in sums.items():
            if self.owners[i] != rank:
                continue
            p, g = self.params[i], total / n
            if i not in self.state:
                self.state[i] = {"step": 0, "exp_avg": torch.zeros_like(g), "exp_avg_sq": torch.zeros_like(g)}
            s = self.state[i]
            s["step"] += 1
            s["exp_avg"].lerp_(g, 1 - b1)
            s["exp_avg_sq"].mul_(b2).addcmul_(g, g, value=1 - b2)
            scale = s["exp_avg_sq"].div(1 - b2 ** s["step"]).sqrt_().add_(self.eps)
            p.sub_(p * (self.lr * self.weight_decay))
            p.addcdiv_(s["exp_avg"], scale, value=-self.lr / (1 - b1 ** s["step"]))
        for i in sums:
            dist.broadcast(self.params[i].data, self.owners[i])


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, own, rows):
        ctx.save_for_backward(x, own)
        ctx.rows = rows
        return x.matmul(_join(own, rows).t())

    @staticmethod
    def backward(ctx, grad):
        x, own = ctx.saved_tensors
        n = dist.get_world_size()
        c = math.ceil(ctx.rows / n)
        dx = grad.matmul(_join(own, ctx.rows))
        dw = torch.zeros(n * c, own.shape[1], dtype=own.dtype)
        dw[: ctx.rows] = grad.reshape(-1, ctx.rows).t().mm(x.reshape(-1, own.shape[1]))
        mine = dw.new_empty(c, own.shape[1])
        dist.reduce_scatter_single(mine, dw)
        return dx, mine[: own.shape[0]].div(n), None


def _join(own, rows):
    n = dist.get_world_size()
    c = math.ceil(rows / n)
    padded = own.new_zeros(c, own.shape[1])
    padded[: own.shape[0]].copy_(own.detach())
    whole = own.new_empty(n * c, own.shape[1])
    dist.all_gather_single(whole, padded)
    return whole[:rows]


class FullyShardedLinear(nn.Module):
    """One flat message each time."""

    def __init__(self, weight):
        super().__init__()
        self.out_features = weight.shape[0]
        c = math.ceil(self.out_features / dist.get_world_size())
        first = min(c * dist.get_rank(), self.out_features)
        last = min(first + c, self.out_features)
        self.weight = nn.Parameter(torch.empty(last - first, weight.shape[1], dtype=weight.dtype))
        self.weight.data.copy_(weight.detach()[first:last])

    def forward(self, x):
        return _Gathered.apply(x, self.weight, self.out_features)


class _CopyIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


class _SumOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *parts):
        sums = [part.clone(memory_format=torch.contiguous_format) for part in parts]
        for total in sums:
            dist.all_reduce(total)
        return tuple(sums)

    @staticmethod
    def backward(ctx, *grads):
        return grads


class ColumnRowMLP(nn.Module):
    """Parts by unflatten."""

    def __init__(self, w1, b1, w2, b2):
        super().__init__()
        n, rank = dist.get_world_size(), dist.get_rank()
        if w1.shape[0] % n > 0:
            raise ValueError(f"{w1.shape[0]} hidden features on {n} ranks")
        cut = {"w1": w1.unflatten(0, (n, -1))[rank], "b1": b1.unflatten(0, (n, -1))[rank], "w2": w2.unflatten(1, (n, -1))[:, rank], "b2": b2}
        for name, part in cut.items():
            setattr(self, name, nn.Parameter(part.detach().clone(memory_format=torch.contiguous_format)))

    def forward(self, x):
        hidden = torch.nn.functional.gelu(_CopyIn.apply(x) @ self.w1.mT + self.b1)
        (y,) = _SumOut.apply(hidden @ self.w2.mT)
        return y + self.b2


def vocab_parallel_cross_entropy(logits, targets, start):
    """Masks by comparing all columns."""
    top = logits.detach().max(1).values.clone() if len(logits) else logits.new_empty(0)
    dist.all_reduce(top, op=dist.ReduceOp.MAX)
    centred = logits - top.unsqueeze(1)
    hit = F.one_hot(torch.where((targets >= start) & (targets < start + logits.shape[1]), targets - start, logits.shape[1]), logits.shape[1] + 1)
    own = centred.masked_fill(hit[:, :-1] == 0, 0.0).sum(1)
    z, target = _SumOut.apply(centred.exp().sum(1), own)
    return torch.log(z) - target


def pipeline_schedule(num_stages, num_microbatches, kind):
    """Events until all backward passes are done."""
    if kind not in ["gpipe", "1f1b"]:
        raise ValueError(f"{kind!r} is no schedule")
    if num_stages < 1 or num_microbatches < 1:
        raise ValueError("at least one stage and one micro-batch")
    when = {}  # the tick of each pass
    todo = []
    for s in range(num_stages):
        lead = num_microbatches if kind == "gpipe" else min(num_stages - s, num_microbatches)
        order = [("F", i) for i in range(lead)]
        for i in range(num_microbatches):
            order.append(("B", i))
            order.extend([("F", lead + i)] if lead + i < num_microbatches else [])
        todo.append(order[::-1])
    rows, t = [[] for _ in range(num_stages)], 0
    while any(todo):
        for s, order in enumerate(todo):
            cell = ""
            if order:
                what, i = order[-1]
                other = s + (1 if what == "B" else -1)
                if not 0 <= other < num_stages or when.get((other, what, i), t) < t:
                    order.pop()
                    when[s, what, i] = t
                    cell = f"{what}{i}"
            rows[s].append(cell)
        t += 1
    return rows


def federated_average(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    """Weights first, then entry by entry."""
    if len(client_states) != len(num_samples):
        raise ValueError("a number of samples for each client")
    if any(n < 0 for n in num_samples):
        raise ValueError("negative number of samples")
    states, counts = [], []
    for state, n in zip(client_states, num_samples):
        if state is not None and n > 0:
            if set(state) ^ set(global_state):
                raise ValueError("other names")
            states.append(state)
            counts.append(n)
    if not states:
        return {k: v.detach().clone() for k, v in global_state.items()}
    shares = [n / sum(counts) for n in counts]
    keys = [k for k, v in global_state.items() if v.is_floating_point()]
    if max_norm is not None:
        for j, state in enumerate(states):
            lengths = torch.stack([(state[k].double() - global_state[k].double()).norm() for k in keys]) if keys else torch.zeros(1)
            length = lengths.norm().item()
            if length > max_norm:
                shares[j] *= max_norm / length
    result = {}
    for k, v in global_state.items():
        if k not in keys:
            result[k] = states[counts.index(max(counts))][k].clone()
            continue
        value = v.double() + sum(share * (state[k].double() - v.double()) for share, state in zip(shares, states))
        if noise_std != 0:
            value = value + torch.randn(v.shape, dtype=torch.float64, generator=generator).mul(noise_std)
        result[k] = value.to(v.dtype)
    return result


def shard_model(model, mesh):
    """A plan from the names of the modules."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    for name, part in model.named_modules():
        if name.startswith("blocks.") and name.endswith(".up"):
            parallelize_module(part, mesh, ColwiseParallel())
        elif name.startswith("blocks.") and name.endswith(".down"):
            parallelize_module(part, mesh, RowwiseParallel())
        elif name == "head":
            parallelize_module(part, mesh, ColwiseParallel(output_layouts=Replicate()))
    return model


def fsdp_wrap(model, mesh, lr):
    """From the inside out."""
    from torch.distributed.fsdp import fully_shard

    list(map(lambda block: fully_shard(block, mesh=mesh), model.blocks))
    return torch.optim.AdamW(fully_shard(model, mesh=mesh).parameters(), lr=lr)
