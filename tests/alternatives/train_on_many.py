"""Other correct answers to the tasks of train_on_many: the hidden suite must accept every one."""

import json
import math

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# train_data_parallel


@alternative("train_data_parallel")
def with_sgd(model, batches, lr):
    n, rank = dist.get_world_size(), dist.get_rank()
    with torch.no_grad():
        for x in model.state_dict().values():
            dist.broadcast(x, src=0)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.SGD(params, lr=lr), []
    for x, y in batches:
        optimizer.zero_grad()
        mine = range(rank, len(x), n)
        loss = F.cross_entropy(model(x[list(mine)]), y[list(mine)], reduction="none").sum() / x.shape[0]
        loss.backward()
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        message = torch.nn.utils.parameters_to_vector([*(p.grad for p in params), loss.detach()])
        dist.all_reduce(message, op=dist.ReduceOp.SUM)
        torch.nn.utils.vector_to_parameters(message[:-1], [p.grad for p in params])
        for p, g in zip(params, message[:-1].split([p.numel() for p in params]), strict=True):
            p.grad = g.reshape(p.shape)
        optimizer.step()
        losses.append(float(message[-1]))
    return losses


@alternative("train_data_parallel")
def sample_by_sample(model, batches, lr):
    n, rank = dist.get_world_size(), dist.get_rank()
    for x in [*model.buffers(), *model.parameters()]:
        fresh = x.detach().clone()
        dist.broadcast(fresh, 0)
        with torch.no_grad():
            x.copy_(fresh)
    params = [p for p in model.parameters() if p.requires_grad]
    losses = []
    for x, y in batches:
        B = len(y)
        message = torch.zeros(sum(p.numel() for p in params) + 1, dtype=params[0].dtype)
        for i in range(rank, B, n):
            loss = -F.log_softmax(model(x[i : i + 1]), 1)[0, y[i]] / B
            at = 0
            for p, g in zip(params, torch.autograd.grad(loss, params, allow_unused=True), strict=True):
                if g is not None:
                    message[at : at + p.numel()] += g.reshape(-1)
                at += p.numel()
            message[-1] += loss.detach()
        dist.all_reduce(message)
        at = 0
        with torch.no_grad():
            for p in params:
                p -= lr * message[at : at + p.numel()].reshape(p.shape)
                at += p.numel()
        losses.append(message[-1].item())
    return losses


# SlicedAdam


@alternative("SlicedAdam")
class SlicedByTensors:
    """With the collectives for single tensors, in place."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.params = [*params]
        self.lr, self.betas, self.eps = lr, betas, eps
        self.n, self.rank = dist.get_world_size(), dist.get_rank()
        self.N = sum(p.numel() for p in self.params)
        self.k = math.ceil(self.N / self.n)
        self.m = torch.zeros(self.k, dtype=self.params[0].dtype)
        self.v = torch.zeros(self.k, dtype=self.params[0].dtype)
        self.t = 0

    @torch.no_grad()
    def step(self):
        grad = self.m.new_zeros(self.n * self.k)
        at = 0
        for p in self.params:
            if p.grad is not None:
                grad[at : at + p.numel()] = p.grad.reshape(-1)
            at += p.numel()
        g = self.m.new_zeros(self.k)
        dist.reduce_scatter_tensor(g, grad)
        self.t += 1
        b1, b2 = self.betas
        self.m.lerp_(g, 1 - b1)
        self.v.mul_(b2).addcmul_(g, g, value=1 - b2)
        flat = F.pad(torch.nn.utils.parameters_to_vector([p.contiguous() for p in self.params]), (0, self.n * self.k - self.N))
        mine = flat.narrow(0, self.rank * self.k, self.k).clone()
        mine.addcdiv_(self.m / (1 - b1**self.t), (self.v / (1 - b2**self.t)).sqrt().add_(self.eps), value=-self.lr)
        dist.all_gather_into_tensor(flat, mine)
        for p, part in zip(self.params, flat[: self.N].split([p.numel() for p in self.params]), strict=True):
            p.copy_(part.reshape(p.shape))


@alternative("SlicedAdam")
class SlicedByIndices:
    """Entry by entry of a table, in float64."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.params, self.lr, self.betas, self.eps, self.t = list(params), lr, betas, eps, 0
        total = sum(p.numel() for p in self.params)
        k = total // dist.get_world_size() + bool(total % dist.get_world_size())
        self.m, self.v = (torch.zeros(k, dtype=self.params[0].dtype) for _ in range(2))

    def step(self):
        n, r, k, kind = dist.get_world_size(), dist.get_rank(), len(self.m), self.m.dtype
        flat = torch.zeros(n * k, dtype=kind)
        sent = torch.zeros(n * k, dtype=kind)
        values = [value for p in self.params for value in p.detach().reshape(-1).tolist()]
        slopes = [value for p in self.params for value in (p.new_zeros(p.shape) if p.grad is None else p.grad).reshape(-1).tolist()]
        flat[: len(values)], sent[: len(slopes)] = torch.tensor(values, dtype=kind), torch.tensor(slopes, dtype=kind)
        own = torch.zeros(k, dtype=kind)
        dist.reduce_scatter(own, [part.clone() for part in sent.chunk(n)] if k else [])
        self.t = self.t + 1
        (b1, b2), g = self.betas, own.double()
        m, v = b1 * self.m.double() + (1 - b1) * g, b2 * self.v.double() + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**self.t), v / (1 - b2**self.t)
        new = (flat[r * k : (r + 1) * k].double() - self.lr * m_hat / (v_hat.sqrt() + self.eps)).to(kind)
        self.m, self.v = m.to(kind), v.to(kind)
        parts = [torch.zeros(k, dtype=kind) for _ in range(n)]
        dist.all_gather(parts, new)
        everything = iter(torch.cat(parts).split(1))
        for p in self.params:
            values = [next(everything) for _ in range(p.numel())]
            if values:
                p.data.copy_(torch.cat(values).reshape(p.shape))


# HeadParallelAttention


class _Sum(torch.autograd.Function):
    """A sum over ranks in the passes that are asked for."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.sums = backward
        x = x.clone().contiguous()
        if forward:
            dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone().contiguous()
        if ctx.sums:
            dist.all_reduce(grad)
        return grad, None, None


@alternative("HeadParallelAttention")
class HeadByHead(nn.Module):
    """A loop over heads, with a mask of its own."""

    def __init__(self, qkv, out, out_bias, num_heads):
        super().__init__()
        n, r, D = dist.get_world_size(), dist.get_rank(), out.shape[0]
        if num_heads % n != 0:
            raise ValueError("the heads can't be shared out")
        rows = torch.arange(D)[r * D // n : (r + 1) * D // n]
        self.qkv = nn.Parameter(torch.stack([qkv.detach()[rows], qkv.detach()[rows + D], qkv.detach()[rows + 2 * D]]))
        self.out = nn.Parameter(out.detach()[:, rows].clone())
        self.out_bias = nn.Parameter(out_bias.detach().clone())
        self.d = D // num_heads

    def forward(self, x):
        T, shared = x.shape[1], _Sum.apply(x, False, True)
        hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
        y = 0
        for start in range(0, self.out.shape[1], self.d):
            q, k, v = (shared @ w[start : start + self.d].T for w in self.qkv)
            scores = (q @ k.mT / math.sqrt(self.d)).masked_fill(hidden, -math.inf)
            y = y + scores.softmax(-1) @ v @ self.out[:, start : start + self.d].T
        return _Sum.apply(y, True, False) + self.out_bias


@alternative("HeadParallelAttention")
class WithHooks(nn.Module):
    """The sum of x's gradient is a hook, and the sum of outputs a difference without gradient."""

    def __init__(self, qkv, out, out_bias, num_heads):
        super().__init__()
        self.n, self.rank, D = dist.get_world_size(), dist.get_rank(), len(out_bias)
        if num_heads % self.n:
            raise ValueError(num_heads)
        with torch.no_grad():
            cut = qkv.reshape(3, num_heads, D // num_heads, D).tensor_split(self.n, 1)[self.rank]
            self.qkv = nn.Parameter(cut.reshape(3, D // self.n, D).clone(memory_format=torch.contiguous_format))
            self.out = nn.Parameter(out.tensor_split(self.n, 1)[self.rank].clone())
            self.out_bias = nn.Parameter(out_bias.clone())
        self.num_heads = num_heads // self.n

    def forward(self, x):
        B, T, D = x.shape
        if x.requires_grad and torch.is_grad_enabled():
            x = x * 1
            x.register_hook(self.summed)
        q, k, v = torch.einsum("btd,pfd->pbtf", x, self.qkv).reshape(3, B, T, self.num_heads, -1)
        scores = torch.einsum("bthf,bshf->bhts", q, k) / (D / self.num_heads / self.n) ** 0.5
        scores = scores + torch.full((T, T), -math.inf, dtype=x.dtype).triu(1)
        own = torch.einsum("bhts,bshf->bthf", torch.softmax(scores, 3), v).reshape(B, T, -1) @ self.out.T
        total = own.detach().clone().contiguous()
        dist.all_reduce(total)
        return own + (total - own.detach()) + self.out_bias

    @staticmethod
    def summed(grad):
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


# ShardedCheckpoint


@alternative("ShardedCheckpoint")
class SizesFromShards:
    """Rank 0 waits, and reads the sizes in the shards; loading goes by places."""

    def __init__(self, store):
        self.files = store

    def save(self, step, state, dims):
        missing = [name for name in dims if name not in state]
        if missing:
            raise ValueError(missing)
        rank, n = dist.get_rank(), dist.get_world_size()
        kept = {}
        for name in state:
            if name in dims or rank == 0:
                kept[name] = torch.empty(state[name].shape, dtype=state[name].dtype)
                kept[name].copy_(state[name].detach())
        self.files[f"{step}/shard-{rank}"] = safetensors.torch.save(kept)
        dist.barrier()
        if rank == 0:
            shapes = [{name: list(x.shape) for name, x in self._read(step, i).items()} for i in range(n)]
            sharded = {name: {"sizes": [shape[name][dim] for shape in shapes], "dim": dim} for name, dim in dims.items()}
            self.files[f"{step}/index"] = bytes(json.dumps({"sharded": sharded, "ranks": n}, indent=2), "utf-8")
        dist.barrier()

    def _read(self, step, i):
        return safetensors.torch.load(self.files[f"{step}/shard-{i}"])

    def load(self):
        steps = []
        for name in self.files:
            folder, _, file = name.rpartition("/")
            if file == "index" and folder.isdecimal():
                steps.append(int(folder))
        if not steps:
            raise ValueError("nothing here")
        step = sorted(steps)[-1]
        index = json.loads(self.files[f"{step}/index"])
        shards = {0: self._read(step, 0)}
        state = {}
        for name, x in shards[0].items():
            if name not in index["sharded"]:
                state[name] = x
                continue
            dim, sizes = index["sharded"][name]["dim"], index["sharded"][name]["sizes"]
            homes = [(i, j) for i, size in enumerate(sizes) for j in range(size)]
            mine = np.array_split(np.arange(len(homes)), dist.get_world_size())[dist.get_rank()]
            for i in {homes[place][0] for place in mine}:
                shards.setdefault(i, None)
                shards[i] = shards[i] or self._read(step, i)
            cut = [shards[homes[place][0]][name].select(dim, homes[place][1]) for place in mine]
            state[name] = torch.stack(cut, dim) if cut else x.narrow(dim, 0, 0).clone()
        return step, state


@alternative("ShardedCheckpoint")
class ByObjects:
    """Sizes travel as objects; a piece is filled in place."""

    def __init__(self, store):
        self.store = store

    def save(self, step, state, dims):
        if set(dims) - set(state):
            raise ValueError("unknown names")
        rank, n = dist.get_rank(), dist.get_world_size()
        own = {k: torch.clone(v.detach(), memory_format=torch.contiguous_format) for k, v in state.items() if rank == 0 or k in dims}
        self.store[f"{step}/shard-{rank}"] = safetensors.torch.save(own)
        everyone = [None] * n
        dist.all_gather_object(everyone, [state[k].size(d) for k, d in dims.items()])
        if not rank:
            table = {k: {"dim": d, "sizes": [sizes[i] for sizes in everyone]} for i, (k, d) in enumerate(dims.items())}
            self.store[f"{step}/index"] = json.dumps({"ranks": n, "sharded": table}).encode("utf-8")

    def load(self):
        step = max((int(k[:-6]) for k in self.store if k.endswith("/index")), default=None)
        if step is None:
            raise ValueError("no checkpoint")
        table, cache = json.loads(bytes(self.store[f"{step}/index"]).decode())["sharded"], {}

        def shard(i):
            if i not in cache:
                cache[i] = safetensors.torch.load(self.store[f"{step}/shard-{i}"])
            return cache[i]

        state = {k: v.clone() for k, v in shard(0).items() if k not in table}
        for k, where in table.items():
            d, sizes = where["dim"], where["sizes"]
            like = shard(0)[k]
            mine = torch.arange(sum(sizes)).tensor_split(dist.get_world_size())[dist.get_rank()].tolist()
            shape = list(like.shape)
            shape[d] = len(mine)
            piece, done = torch.empty(shape, dtype=like.dtype), 0
            offset = 0
            for i, size in enumerate(sizes):
                here = [place - offset for place in mine if offset <= place < offset + size]
                if here:
                    piece.narrow(d, done, len(here)).copy_(shard(i)[k].narrow(d, here[0], len(here)))
                    done += len(here)
                offset += size
            state[k] = piece
        return step, state
