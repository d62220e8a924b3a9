"""Train on many, solved in full."""

import json
from bisect import bisect_right

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F


def train_data_parallel(model, batches, lr):
    """A plain loop: share, one message, step."""
    world, me = dist.get_world_size(), dist.get_rank()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor, 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    history = []
    for inputs, labels in batches:
        log_p = model(inputs[me::world]).log_softmax(1)
        loss = F.nll_loss(log_p, labels[me::world], reduction="sum") / labels.numel()
        grads = torch.autograd.grad(loss, trained, allow_unused=True)
        parts = [(p if g is None else g).detach().reshape(-1) * (g is not None) for p, g in zip(trained, grads, strict=True)]
        message = torch.cat([*parts, loss.detach().reshape(1)])
        dist.all_reduce(message)
        end = 0
        for p in trained:
            begin, end = end, end + p.numel()
            p.data.add_(message[begin:end].reshape(p.shape), alpha=-lr)
        history.append(message[-1].item())
    return history


class SlicedAdam:
    """The flat vector is filled tensor by tensor."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.params = tuple(params)
        self.lr, (self.beta1, self.beta2), self.eps = lr, betas, eps
        self.world, self.me = dist.get_world_size(), dist.get_rank()
        entries = sum(p.numel() for p in self.params)
        self.k = (entries + self.world - 1) // self.world
        self.t = 0
        self.m = torch.zeros(self.k).to(self.params[0])
        self.v = self.m.clone()

    def _vector(self, tensors):
        whole = self.m.new_zeros(self.k * self.world)
        at = 0
        for p, x in zip(self.params, tensors, strict=True):
            if x is not None:
                whole[at : at + p.numel()].view(p.shape).copy_(x)
            at += p.numel()
        return whole

    def step(self):
        """One exchange of gradients, one of parameters."""
        with torch.no_grad():
            pieces = list(self._vector([p.grad for p in self.params]).view(self.world, self.k).unbind())
            g = torch.zeros_like(self.m)
            dist.reduce_scatter(g, pieces)
            self.t += 1
            self.m = torch.lerp(self.m, g, 1 - self.beta1)
            self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
            direction = (self.m / (1 - self.beta1**self.t)) / (torch.sqrt(self.v / (1 - self.beta2**self.t)) + self.eps)
            mine = self._vector(self.params).view(self.world, self.k)[self.me] - self.lr * direction
            whole = self.m.new_empty(self.k * self.world)
            dist.all_gather_into_tensor(whole, mine)
            at = 0
            for p in self.params:
                p.copy_(whole[at : at + p.numel()].view(p.shape))
                at += p.numel()


class _Sum(torch.autograd.Function):
    """Sum over ranks, forward only."""

    @staticmethod
    def forward(ctx, x):
        out = x.contiguous().clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return grad


class _SumOfGradients(torch.autograd.Function):
    """Sum over ranks, backward only."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        out = grad.contiguous().clone()
        dist.all_reduce(out)
        return out


class HeadParallelAttention(nn.Module):
    """Heads as a dimension of the einsums."""

    def __init__(self, qkv, out, out_bias, num_heads):
        super().__init__()
        world, me, D = dist.get_world_size(), dist.get_rank(), out.size(0)
        if num_heads // world * world != num_heads:
            raise ValueError(f"{num_heads} heads, {world} ranks")
        self.num_heads = num_heads // world
        begin, end = me * (D // world), (me + 1) * (D // world)
        thirds = [third[begin:end] for third in qkv.detach().split(D)]
        self.qkv = nn.Parameter(torch.stack(thirds))
        self.out = nn.Parameter(out.detach()[:, begin:end].clone())
        self.out_bias = nn.Parameter(out_bias.detach().clone())

    def forward(self, x):
        """Attend."""
        x = _SumOfGradients.apply(x)
        heads = self.qkv.unflatten(1, (self.num_heads, -1))
        q, k, v = torch.einsum("btd,phfd->pbhtf", x, heads).unbind()
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return _Sum.apply(torch.einsum("bhtf,dhf->btd", o, self.out.unflatten(1, (self.num_heads, -1)))) + self.out_bias


class ShardedCheckpoint:
    """Boundaries on both sides, and what lies between them."""

    def __init__(self, store):
        self.store = store

    def save(self, step, state, dims):
        """Shard, sizes, index."""
        for name in dims:
            if name not in state:
                raise ValueError(f"{name} is not in the state")
        world, me = dist.get_world_size(), dist.get_rank()
        shard = {}
        for name, tensor in state.items():
            if name in dims or me == 0:
                shard[name] = tensor.detach().contiguous().clone()
        self.store[f"{step}/shard-{me}"] = safetensors.torch.save(shard)
        table = torch.zeros(world, len(dims), dtype=torch.int64)
        for column, (name, d) in enumerate(dims.items()):
            table[me, column] = state[name].shape[d]
        dist.all_reduce(table)
        if me == 0:
            sharded = {name: {"dim": d, "sizes": table[:, i].tolist()} for i, (name, d) in enumerate(dims.items())}
            self.store[f"{step}/index"] = json.dumps({"ranks": world, "sharded": sharded}).encode()

    def load(self):
        """Own part of the last finished step."""
        finished = {int(name[: -len("/index")]) for name in self.store if name.endswith("/index")}
        if not finished:
            raise ValueError("no index in the store")
        step = max(finished)
        sharded = json.loads(self.store[f"{step}/index"])["sharded"]
        opened = {}

        def shard(i):
            if i not in opened:
                opened[i] = safetensors.torch.load(self.store[f"{step}/shard-{i}"])
            return opened[i]

        state = dict(shard(0))
        for name, entry in sharded.items():
            d, sizes = entry["dim"], entry["sizes"]
            starts = [sum(sizes[:i]) for i in range(len(sizes))]
            more, rest = divmod(sum(sizes), dist.get_world_size())
            me = dist.get_rank()
            at, stop = me * more + min(me, rest), (me + 1) * more + min(me + 1, rest)
            parts = [] if at < stop else [state[name].narrow(d, 0, 0).clone()]
            while at < stop:
                i = bisect_right(starts, at) - 1
                until = min(stop, starts[i] + sizes[i])
                parts.append(shard(i)[name].narrow(d, at - starts[i], until - at))
                at = until
            state[name] = torch.cat(parts, d)
        return step, state
