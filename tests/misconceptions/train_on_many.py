"""Named wrong answers to the tasks of train_on_many: the hidden suite must reject every one."""

import json

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception

# train_data_parallel


def _trained(model, batches, lr, *, start=None, share=None, scale=None, total=None, mode=None, sent=None, update=None):
    """A right answer in parts that can be got wrong."""
    rank, n = dist.get_rank(), dist.get_world_size()
    for tensor in (start or (lambda model: [*model.parameters(), *model.buffers()]))(model):
        dist.broadcast(tensor.detach(), 0)
    if mode is not None:
        model.train(mode)
    params, losses = [p for p in model.parameters() if p.requires_grad], []
    for x, y in batches:
        own = (share or (lambda t: t[rank::n]))(x), (share or (lambda t: t[rank::n]))(y)
        loss = F.cross_entropy(model(own[0]), own[1], reduction="sum") / (scale or (lambda B, own: B))(len(x), len(own[0]))
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        flat = torch.cat([*(g.flatten() for g in (sent or (lambda grads: grads))(list(grads))), loss.detach()[None]])
        dist.all_reduce(flat)
        flat = (total or (lambda flat: flat))(flat)
        *steps, summed = flat[:-1].split([p.numel() for p in (sent or (lambda params: params))(params)]), flat[-1]
        for p, step in zip((sent or (lambda params: params))(params), steps[0], strict=True):
            (update or (lambda p, step: p.sub_(lr * step)))(p.detach(), step.view_as(p))
        losses.append(summed.item())
    return losses


@misconception(
    "train_data_parallel", "Averages the ranks' means: with uneven shares, samples of small shares count more; an empty share is NaN."
)
def averages_means(model, batches, lr):
    return _trained(model, batches, lr, scale=lambda B, own: own, total=lambda flat: flat / dist.get_world_size())


@misconception("train_data_parallel", "Averages the ranks' means, and guards against empty shares: the weights of samples still differ.")
def averages_guarded_means(model, batches, lr):
    return _trained(model, batches, lr, scale=lambda B, own: max(own, 1), total=lambda flat: flat / dist.get_world_size())


@misconception("train_data_parallel", "Divides by the whole batch and then by the ranks again: the steps are n times too small.")
def divides_twice(model, batches, lr):
    return _trained(model, batches, lr, total=lambda flat: flat / dist.get_world_size())


@misconception("train_data_parallel", "Divides by the own share and sums: the steps are n times too large.")
def sums_means(model, batches, lr):
    return _trained(model, batches, lr, scale=lambda B, own: max(own, 1))


@misconception("train_data_parallel", "Gives each rank a block of neighbouring samples instead of every n-th.")
def takes_blocks(model, batches, lr):
    return _trained(model, batches, lr, share=lambda t: t.tensor_split(dist.get_world_size())[dist.get_rank()])


@misconception("train_data_parallel", "Cuts the batch down to a multiple of the number of ranks: the last samples never count.")
def drops_the_rest(model, batches, lr):
    n, rank = dist.get_world_size(), dist.get_rank()
    return _trained(model, batches, lr, share=lambda t: t[: len(t) // n * n][rank::n])


@misconception("train_data_parallel", "Lets every rank compute the whole batch: right weights, and n times the work.")
def computes_everything(model, batches, lr):
    return _trained(model, batches, lr, share=lambda t: t, total=lambda flat: flat / dist.get_world_size())


@misconception("train_data_parallel", "Does not start from rank 0's values: the ranks' models differ for ever.")
def starts_anywhere(model, batches, lr):
    return _trained(model, batches, lr, start=lambda model: [])


@misconception("train_data_parallel", "Takes over only the parameters that are trained: frozen ones stay different.")
def starts_with_trained_parameters(model, batches, lr):
    return _trained(model, batches, lr, start=lambda model: [*(p for p in model.parameters() if p.requires_grad), *model.buffers()])


@misconception("train_data_parallel", "Takes over the parameters only: buffers stay different.")
def forgets_buffers(model, batches, lr):
    return _trained(model, batches, lr, start=lambda model: list(model.parameters()))


@misconception("train_data_parallel", "Calls model.train(): the model has a mode already.")
def sets_the_mode(model, batches, lr):
    return _trained(model, batches, lr, mode=True)


@misconception("train_data_parallel", "Sends the gradients from the last to the first.")
def sends_backwards(model, batches, lr):
    return _trained(model, batches, lr, sent=lambda items: items[::-1])


@misconception("train_data_parallel", "Reduces each gradient and the loss by itself: many small messages in place of one.")
def reduces_one_by_one(model, batches, lr):
    rank, n = dist.get_rank(), dist.get_world_size()
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    params, losses = [p for p in model.parameters() if p.requires_grad], []
    for x, y in batches:
        loss = F.cross_entropy(model(x[rank::n]), y[rank::n], reduction="sum") / len(x)
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        loss = loss.detach()
        dist.all_reduce(loss)
        for p, grad in zip(params, grads, strict=True):
            grad = grad.contiguous()
            dist.all_reduce(grad)
            p.detach().sub_(lr * grad)
        losses.append(loss.item())
    return losses


def _with_backward(model, batches, lr, *, clear=True, optimizer=None, everywhere=True, empty=True, local_loss=False):
    """A right answer with .grad, in parts that can be got wrong."""
    rank, n = dist.get_rank(), dist.get_world_size()
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    params, losses = [p for p in model.parameters() if p.requires_grad or not everywhere], []
    for x, y in batches:
        if clear:
            for p in params:
                p.grad = None
        if not empty and len(x) <= rank:
            continue
        loss = F.cross_entropy(model(x[rank::n]), y[rank::n], reduction="sum") / len(x)
        loss.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        flat = torch.cat([g.flatten() for g in (*grads, loss.detach())])
        dist.all_reduce(flat)
        for p, step in zip(params, flat[:-1].split([p.numel() for p in params]), strict=True):
            p.detach().sub_(lr * step.view_as(p))
        losses.append(loss.item() if local_loss else flat[-1].item())
    return losses


@misconception("train_data_parallel", "Never clears .grad: each step takes all earlier gradients once more.")
def never_clears(model, batches, lr):
    return _with_backward(model, batches, lr, clear=False)


@misconception("train_data_parallel", "Clears .grad after each step only: what the model came with counts in the first one.")
def clears_too_late(model, batches, lr):
    losses = []
    for pair in batches:
        losses += _with_backward(model, [pair], lr, clear=False)
        model.zero_grad()
    return losses or _with_backward(model, [], lr)


@misconception("train_data_parallel", "Gives frozen parameters a place in the sum: numbers travel that nobody needs.")
def sends_frozen_ones(model, batches, lr):
    return _with_backward(model, batches, lr, everywhere=False)


@misconception("train_data_parallel", "Leaves a step out where the own share is empty: the other ranks wait in the sum for ever.")
def skips_empty_shares(model, batches, lr):
    return _with_backward(model, batches, lr, empty=False)


@misconception("train_data_parallel", "Returns each rank's own part of the loss.")
def returns_its_own_loss(model, batches, lr):
    return _with_backward(model, batches, lr, local_loss=True)


@misconception(
    "train_data_parallel", "Averages the weights after local steps: that is federated averaging, another path for more than one step."
)
def averages_weights(model, batches, lr):
    rank, n = dist.get_rank(), dist.get_world_size()
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    params, losses = [p for p in model.parameters() if p.requires_grad], []
    for x, y in batches:
        loss = F.cross_entropy(model(x[rank::n]), y[rank::n], reduction="sum") / len(x) * n
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        flat = torch.cat([*((p.detach() - lr * g).flatten() for p, g in zip(params, grads, strict=True)), loss.detach()[None]])
        dist.all_reduce(flat)
        flat /= n
        for p, new in zip(params, flat[:-1].split([p.numel() for p in params]), strict=True):
            p.detach().copy_(new.view_as(p))
        losses.append(flat[-1].item())
    return losses


@misconception("train_data_parallel", "Returns the loss as a tensor.")
def returns_tensors(model, batches, lr):
    return [torch.tensor(loss) for loss in _trained(model, batches, lr)]


@misconception("train_data_parallel", "Makes new parameters instead of changing those that there are: whoever holds them sees nothing.")
def makes_new_parameters(model, batches, lr):
    losses = _trained(model, [], lr)
    for pair in batches:
        for module in model.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(p.detach().clone(), p.requires_grad))
        losses += _trained(model, [pair], lr)
    return losses


@misconception("train_data_parallel", "Notes the loss after the update: it is the next step's loss on this step's batch.")
def notes_the_loss_later(model, batches, lr):
    losses = []
    for pair in batches:
        _trained(model, [pair], lr)
        losses += _trained(model, [pair], 0.0)
    return losses or _trained(model, [], lr)


@misconception("train_data_parallel", "Averages the losses but sums the gradients, because the weights looked right.")
def averages_the_losses(model, batches, lr):
    return [loss / dist.get_world_size() for loss in _trained(model, batches, lr)]


# SlicedAdam


class _Sliced:
    """A right answer in parts that can be got wrong."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.params, self.lr, self.betas, self.eps, self.t = list(params), lr, betas, eps, 0
        size = self.size_of(sum(p.numel() for p in self.params), dist.get_world_size())
        self.m, self.v = self.params[0].new_zeros(size), self.params[0].new_zeros(size)

    def size_of(self, N, n):
        return -(-N // n)

    def flat(self, tensors):
        x = torch.cat([x.flatten() for x in tensors])
        return F.pad(x, (0, len(self.m) * dist.get_world_size() - len(x)))

    def grads(self):
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]

    def reduced(self, flat):
        g = torch.empty_like(self.m)
        dist.reduce_scatter_tensor(g, flat)
        return g

    def own(self, flat):
        return flat.view(dist.get_world_size(), -1)[dist.get_rank()]

    def gathered(self, own):
        whole = own.new_empty(len(own) * dist.get_world_size())
        dist.all_gather_into_tensor(whole, own.contiguous())
        return whole

    def moved(self, p, g):
        self.t += 1
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        return self.change(p, self.m / (1 - b1**self.t), self.v / (1 - b2**self.t))

    def change(self, p, m, v):
        return p - self.lr * m / (v.sqrt() + self.eps)

    @torch.no_grad()
    def step(self):
        g = self.reduced(self.flat(self.grads()))
        whole = self.gathered(self.moved(self.own(self.flat(self.params)), g))
        start = 0
        for p in self.params:
            p.copy_(whole[start : start + p.numel()].view_as(p))
            start += p.numel()


@misconception("SlicedAdam", "Averages the gradients: their losses are divided by the whole batch already.")
class AveragesGradients(_Sliced):
    def reduced(self, flat):
        return super().reduced(flat) / dist.get_world_size()


@misconception("SlicedAdam", "Uses the rank's own gradient: the other ranks' samples count for nothing.")
class UsesItsOwn(_Sliced):
    def reduced(self, flat):
        super().reduced(flat)
        return self.own(flat).clone()


@misconception("SlicedAdam", "Sums whole gradients on all ranks: each of them needs one slice only.")
class ReducesForAll(_Sliced):
    def reduced(self, flat):
        flat = flat.clone()
        dist.all_reduce(flat)
        return self.own(flat).clone()


@misconception("SlicedAdam", "Keeps the whole state on every rank: right parameters, and no memory is saved.")
class KeepsEverything(_Sliced):
    def size_of(self, N, n):
        return N

    def flat(self, tensors):
        return torch.cat([x.flatten() for x in tensors])

    def reduced(self, flat):
        flat = flat.clone()
        dist.all_reduce(flat)
        return flat

    def own(self, flat):
        return flat

    def gathered(self, own):
        return own


@misconception("SlicedAdam", "Rounds the size of a slice down: the last entries are never updated, or do not fit.")
class RoundsDown(_Sliced):
    def size_of(self, N, n):
        return N // n or 1


@misconception("SlicedAdam", "Rounds the size of a slice up even if the ranks divide N.")
class RoundsTooFar(_Sliced):
    def size_of(self, N, n):
        return N // n + 1


@misconception("SlicedAdam", "Puts the zeros in front: the slices are others than the statement's.")
class FillsInFront(_Sliced):
    def flat(self, tensors):
        x = torch.cat([x.flatten() for x in tensors])
        return F.pad(x, (len(self.m) * dist.get_world_size() - len(x), 0))

    def gathered(self, own):
        whole = super().gathered(own)
        return whole[len(whole) - sum(p.numel() for p in self.params) :]


@misconception("SlicedAdam", "Slices with a stride, entries r, r + n, r + 2n, …, as one does with samples.")
class SlicesWithStride(_Sliced):
    def flat(self, tensors):
        return super().flat(tensors).view(-1, dist.get_world_size()).T.flatten()

    def gathered(self, own):
        return super().gathered(own).view(dist.get_world_size(), -1).T.flatten()


@misconception("SlicedAdam", "Keeps its slice to itself: the other ranks' parameters stay old.")
class KeepsItsSlice(_Sliced):
    def gathered(self, own):
        super().gathered(own)
        whole = self.flat(self.params)
        self.own(whole).copy_(own)
        return whole


@misconception("SlicedAdam", "Skips parameters without gradient: with None on one rank, the slices no longer fit.")
class LeavesOutMissing(_Sliced):
    def grads(self):
        return [p.grad for p in self.params if p.grad is not None] or [self.params[0].new_zeros(0)]


@misconception("SlicedAdam", "Leaves parameters without gradient as they are, although their moments still move them.")
class HoldsMissingOnesStill(_Sliced):
    def step(self):
        before = [p.detach().clone() for p in self.params]
        super().step()
        for p, old in zip(self.params, before, strict=True):
            if p.grad is None:
                p.data.copy_(old)


@misconception("SlicedAdam", "Leaves out the correction of the moments.")
class DoesNotCorrect(_Sliced):
    def moved(self, p, g):
        self.t += 1
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        return self.change(p, self.m, self.v)


@misconception("SlicedAdam", "Counts the step after the update: the first correction divides by zero, or is one step late.")
class CountsLate(_Sliced):
    def moved(self, p, g):
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        t = max(self.t, 1)
        self.t += 1
        return self.change(p, self.m / (1 - b1**t), self.v / (1 - b2**t))


@misconception("SlicedAdam", "Adds eps below the root.")
class EpsBelowTheRoot(_Sliced):
    def change(self, p, m, v):
        return p - self.lr * m / (v + self.eps).sqrt()


@misconception("SlicedAdam", "Adds eps to the root of the moment that is not corrected yet, as in the paper's short form.")
class EpsBeforeTheCorrection(_Sliced):
    def change(self, p, m, v):
        root = 1 - self.betas[1] ** self.t
        return p - self.lr * m * root**0.5 / ((v * root).sqrt() + self.eps)


@misconception("SlicedAdam", "Adds AdamW's weight decay, which the statement does not have.")
class Decays(_Sliced):
    def change(self, p, m, v):
        return super().change(p * (1 - 0.01 * self.lr), m, v)


@misconception("SlicedAdam", "Remembers the learning rate of the start.")
class KeepsTheFirstRate(_Sliced):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, lr, betas, eps)
        self.first = lr

    def change(self, p, m, v):
        return p - self.first * m / (v.sqrt() + self.eps)


@misconception("SlicedAdam", "Clears the gradients in step.")
class ClearsGradients(_Sliced):
    def step(self):
        super().step()
        for p in self.params:
            p.grad = None


@misconception("SlicedAdam", "Writes the sum into .grad: afterwards it is no longer the rank's own.")
class WritesTheSum(_Sliced):
    def step(self):
        super().step()
        for p in self.params:
            if p.grad is not None:
                total = p.grad.clone(memory_format=torch.contiguous_format)
                dist.all_reduce(total)
                p.grad = total


@misconception("SlicedAdam", "Keeps a whole copy of all parameters, flattened, between steps.")
class KeepsACopy(_Sliced):
    def gathered(self, own):
        self.whole = super().gathered(own)
        return self.whole


@misconception("SlicedAdam", "Gives moments the default dtype: for float64 parameters they are rounded.")
class RoundsMoments(_Sliced):
    def moved(self, p, g):
        moved = super().moved(p, g)
        self.m, self.v = self.m.float().to(p.dtype), self.v.float().to(p.dtype)
        return moved


@misconception("SlicedAdam", "Keeps the moments it made: those that a checkpoint puts in their place are ignored.")
class IgnoresNewMoments(_Sliced):
    def moved(self, p, g):
        if not hasattr(self, "_m"):
            self._m, self._v = torch.zeros_like(self.m), torch.zeros_like(self.v)
        self.m, self.v = self._m, self._v
        moved = super().moved(p, g)
        self._m, self._v = self.m, self.v
        return moved


# HeadParallelAttention


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        return grad


class _UpAndDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return _Down.forward(ctx, x)

    @staticmethod
    def backward(ctx, grad):
        return _Up.backward(ctx, grad)


class _Heads(nn.Module):
    """A right answer in parts that can be got wrong."""

    causal = True

    def __init__(self, qkv, out, out_bias, num_heads):
        super().__init__()
        self.check(num_heads)
        n = dist.get_world_size()
        self.heads = num_heads // n
        self.cut(qkv.detach(), out.detach(), len(out), n, dist.get_rank())
        self.out_bias = nn.Parameter(out_bias.detach().clone())

    def check(self, num_heads):
        if num_heads % dist.get_world_size():
            raise ValueError("heads")

    def cut(self, qkv, out, D, n, rank):
        self.qkv = nn.Parameter(qkv.reshape(3, n, D // n, D)[:, rank].clone())
        self.out = nn.Parameter(out[:, rank * (D // n) : (rank + 1) * (D // n)].clone())

    def before(self, x):
        return _Up.apply(x)

    def after(self, part):
        return _Down.apply(part) + self.out_bias

    def split(self, qkv):
        return [part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, 2)]

    def join(self, o):
        return o.transpose(1, 2).flatten(2)

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)

    def forward(self, x):
        o = self.attend(*self.split(F.linear(self.before(x), self.qkv.flatten(0, 1))))
        return self.after(F.linear(self.join(o), self.out))


@misconception("HeadParallelAttention", "Cuts the 3D rows of qkv into n blocks: rank 0 gets queries, the last rank values.")
class CutsAllRows(_Heads):
    def cut(self, qkv, out, D, n, rank):
        super().cut(qkv, out, D, n, rank)
        self.qkv = nn.Parameter(qkv.chunk(n)[rank].reshape(3, D // n, D).clone())


@misconception("HeadParallelAttention", "Deals heads out in turn, r, r + n, …, instead of in blocks.")
class DealsOutInTurn(_Heads):
    def cut(self, qkv, out, D, n, rank):
        heads = self.heads * n
        self.qkv = nn.Parameter(qkv.reshape(3, heads, -1, D)[:, rank::n].reshape(3, D // n, D).clone())
        self.out = nn.Parameter(out.reshape(D, heads, -1)[:, rank::n].reshape(D, D // n).clone())


@misconception("HeadParallelAttention", "Cuts out by rows: then each rank has some outputs of all heads, of which it knows its own only.")
class CutsRowsOfOut(_Heads):
    def cut(self, qkv, out, D, n, rank):
        super().cut(qkv, out, D, n, rank)
        self.out = nn.Parameter(out.T[:, rank * (D // n) : (rank + 1) * (D // n)].clone())


@misconception("HeadParallelAttention", "Adds the bias before the sum over ranks: it counts n times.")
class AddsTheBiasOften(_Heads):
    def after(self, part):
        return _Down.apply(part + self.out_bias)


@misconception("HeadParallelAttention", "Adds a share of the bias on each rank before the sum: the output is right, its gradient is not.")
class SharesTheBias(_Heads):
    def after(self, part):
        return _Down.apply(part + self.out_bias / dist.get_world_size())


@misconception(
    "HeadParallelAttention", "Lets rank 0 add the bias before the sum: on the other ranks it gets no gradient and is never trained."
)
class AddsTheBiasOnRank0(_Heads):
    def after(self, part):
        return _Down.apply(part + self.out_bias * (dist.get_rank() == 0))


@misconception("HeadParallelAttention", "Does not sum x's gradient over the ranks: the layers below train with the own heads' part.")
class KeepsTheGradientOfX(_Heads):
    def before(self, x):
        return x


@misconception("HeadParallelAttention", "Sums in the backward pass of the output, too: gradients are n times too large.")
class SumsBackwardTwice(_Heads):
    def after(self, part):
        return _UpAndDown.apply(part) + self.out_bias


@misconception("HeadParallelAttention", "Sums in place, which autograd does not see: whatever it does then, no function stands for it.")
class SumsWithoutAutograd(_Heads):
    def after(self, part):
        total = part.detach().clone()
        dist.all_reduce(total)
        return total + self.out_bias


@misconception("HeadParallelAttention", "Leaves out the sum over ranks: each rank returns its own heads' part.")
class SumsNothing(_Heads):
    def after(self, part):
        return part + self.out_bias


@misconception("HeadParallelAttention", "Gathers all heads' outputs and applies the whole out on every rank.")
class GathersHeads(_Heads):
    def cut(self, qkv, out, D, n, rank):
        super().cut(qkv, out, D, n, rank)
        self.register_buffer("whole", out.clone(), persistent=False)

    def forward(self, x):
        o = self.join(self.attend(*self.split(F.linear(self.before(x), self.qkv.flatten(0, 1)))))
        pieces = [torch.empty_like(o) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, o.detach().contiguous())
        y = F.linear(torch.cat(pieces, 2), self.whole, self.out_bias)
        part = F.linear(o, self.out)
        return y.detach() + part - part.detach() + self.out_bias - self.out_bias.detach()


@misconception("HeadParallelAttention", "Every position sees all others: attention is not causal.")
class SeesTheFuture(_Heads):
    causal = False


@misconception("HeadParallelAttention", "Scales by √D instead of √(D/H).")
class ScalesByD(_Heads):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.out.shape[0] ** -0.5)


@misconception("HeadParallelAttention", "Scales by the root of a rank's features instead of a head's.")
class ScalesByTheRank(_Heads):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.out.shape[1] ** -0.5)


@misconception("HeadParallelAttention", "Takes all of a rank's features for one head.")
class OneHeadARank(_Heads):
    def split(self, qkv):
        return [part.unsqueeze(1) for part in qkv.chunk(3, 2)]


@misconception("HeadParallelAttention", "Joins heads without putting positions first: entries get mixed up.")
class JoinsWithoutTranspose(_Heads):
    def join(self, o):
        return o.reshape(o.shape[0], o.shape[2], -1)


@misconception("HeadParallelAttention", "Keeps views of the arguments: training changes the whole weights, too.")
class KeepsViews(_Heads):
    def cut(self, qkv, out, D, n, rank):
        self.qkv = nn.Parameter(qkv.reshape(3, n, D // n, D)[:, rank])
        self.out = nn.Parameter(out[:, rank * (D // n) : (rank + 1) * (D // n)])


@misconception("HeadParallelAttention", "Copies the parts of the matrices, but keeps the bias that it was given.")
class KeepsTheGivenBias(_Heads):
    def __init__(self, qkv, out, out_bias, num_heads):
        super().__init__(qkv, out, out_bias, num_heads)
        self.out_bias = nn.Parameter(out_bias.detach())


@misconception("HeadParallelAttention", "Asks whether the ranks divide D instead of H: a head would be cut in two.")
class ChecksTheFeatures(_Heads):
    def check(self, num_heads):
        pass


@misconception("HeadParallelAttention", "Keeps the whole qkv on every rank, and uses its own rows: no memory is saved.")
class KeepsTheWholeWeight(_Heads):
    def cut(self, qkv, out, D, n, rank):
        super().cut(qkv, out, D, n, rank)
        self.qkv, self.rows = nn.Parameter(qkv.reshape(3, D, D).clone()), slice(rank * (D // n), (rank + 1) * (D // n))

    def forward(self, x):
        o = self.attend(*self.split(F.linear(self.before(x), self.qkv[:, self.rows].flatten(0, 1))))
        return self.after(F.linear(self.join(o), self.out))


@misconception("HeadParallelAttention", "Sums the gradients of q, k and v one by one: three messages in the backward pass.")
class SumsThreeTimes(_Heads):
    def forward(self, x):
        q, k, v = (F.linear(_Up.apply(x), w).unflatten(2, (self.heads, -1)).transpose(1, 2) for w in self.qkv)
        return self.after(F.linear(self.join(self.attend(q, k, v)), self.out))


@misconception("HeadParallelAttention", "Keeps the bias as a buffer: it is never trained.")
class KeepsTheBiasAsABuffer(_Heads):
    def __init__(self, qkv, out, out_bias, num_heads):
        super().__init__(qkv, out, out_bias, num_heads)
        bias = self.out_bias.detach()
        del self.out_bias
        self.register_buffer("out_bias", bias)


# ShardedCheckpoint


class _Checkpoint:
    """A right answer in parts that can be got wrong."""

    def __init__(self, store):
        self.store, self.read = store, {}

    def check(self, state, dims):
        if any(name not in state for name in dims):
            raise ValueError("names")

    def own(self, state, dims, rank):
        return {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in state.items() if name in dims or rank == 0}

    def sizes(self, state, dims, n):
        sizes = torch.tensor([state[name].shape[dim] for name, dim in dims.items()], dtype=torch.int64)
        gathered = [torch.empty_like(sizes) for _ in range(n)]
        dist.all_gather(gathered, sizes)
        return torch.stack(gathered, 1).tolist()

    def write_shard(self, step, state, dims, rank):
        self.store[f"{step}/shard-{rank}"] = safetensors.torch.save(self.own(state, dims, rank))

    def write_index(self, step, dims, table, n, rank):
        if rank == 0:
            sharded = {name: {"dim": dim, "sizes": row} for (name, dim), row in zip(dims.items(), table, strict=True)}
            self.store[f"{step}/index"] = json.dumps({"ranks": n, "sharded": sharded}).encode()

    def save(self, step, state, dims):
        self.check(state, dims)
        n, rank = dist.get_world_size(), dist.get_rank()
        self.write_shard(step, state, dims, rank)
        self.write_index(step, dims, self.sizes(state, dims, n), n, rank)

    def last(self):
        steps = [int(name.split("/")[0]) for name in self.store if name.endswith("/index")]
        if not steps:
            raise ValueError("nothing")
        return max(steps)

    def bounds(self, total, m, rank):
        return rank * (total // m) + min(rank, total % m), (rank + 1) * (total // m) + min(rank + 1, total % m)

    def shard(self, step, i):
        if i not in self.read:
            self.read[i] = safetensors.torch.load(self.store[f"{step}/shard-{i}"])
        return self.read[i]

    def pieces(self, step, name, sizes, dim, low, high):
        start, found = 0, []
        for i, size in enumerate(sizes):
            a, b = max(low, start), min(high, start + size)
            if a < b:
                found.append(self.shard(step, i)[name].narrow(dim, a - start, b - a))
            start += size
        return found

    def load(self):
        step, self.read = self.last(), {}
        index, first = json.loads(self.store[f"{step}/index"]), self.shard(step, 0)
        state = {name: x for name, x in first.items() if name not in index["sharded"]}
        for name, where in index["sharded"].items():
            dim, sizes = where["dim"], where["sizes"]
            low, high = self.bounds(sum(sizes), dist.get_world_size(), dist.get_rank())
            found = self.pieces(step, name, sizes, dim, low, high)
            state[name] = torch.cat(found, dim) if found else first[name].narrow(dim, 0, 0)
        return step, state


@misconception(
    "ShardedCheckpoint", "Writes the index before the other ranks have written their shards: a save that broke off counts as finished."
)
class IndexComesFirst(_Checkpoint):
    def save(self, step, state, dims):
        self.check(state, dims)
        n, rank = dist.get_world_size(), dist.get_rank()
        self.write_index(step, dims, self.sizes(state, dims, n), n, rank)
        self.write_shard(step, state, dims, rank)


@misconception(
    "ShardedCheckpoint",
    "Gathers sizes before the shards are written, and does not wait afterwards: rank 0 does not know that all are done.",
)
class DoesNotWait(_Checkpoint):
    def save(self, step, state, dims):
        self.check(state, dims)
        n, rank = dist.get_world_size(), dist.get_rank()
        table = self.sizes(state, dims, n)
        self.write_shard(step, state, dims, rank)
        self.write_index(step, dims, table, n, rank)


@misconception("ShardedCheckpoint", "Gathers all tensors on rank 0, which writes them: all the data goes through one machine.")
class GathersEverything(_Checkpoint):
    def save(self, step, state, dims):
        self.check(state, dims)
        n, rank = dist.get_world_size(), dist.get_rank()
        table = self.sizes(state, dims, n)
        all_shards = [None] * n
        dist.all_gather_object(all_shards, self.own(state, dims, rank))
        for i in range(n if rank == 0 else 0):
            self.store[f"{step}/shard-{i}"] = safetensors.torch.save(all_shards[i])
        self.write_index(step, dims, table, n, rank)


@misconception("ShardedCheckpoint", "Lets every rank save replicated tensors: n copies of them.")
class SavesReplicatedOften(_Checkpoint):
    def own(self, state, dims, rank):
        return {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in state.items()}


@misconception("ShardedCheckpoint", "Saves no replicated tensors.")
class ForgetsReplicated(_Checkpoint):
    def own(self, state, dims, rank):
        return {name: state[name].detach().clone(memory_format=torch.contiguous_format) for name in dims}


@misconception("ShardedCheckpoint", "Hands tensors to safetensors as they are: it refuses those that are not contiguous or share memory.")
class SavesThemAsTheyAre(_Checkpoint):
    def own(self, state, dims, rank):
        return {name: x for name, x in state.items() if name in dims or rank == 0}


@misconception("ShardedCheckpoint", "Makes tensors contiguous, which copies only those that are not: tied ones still share memory.")
class SavesContiguousOnes(_Checkpoint):
    def own(self, state, dims, rank):
        return {name: x.detach().contiguous() for name, x in state.items() if name in dims or rank == 0}


@misconception("ShardedCheckpoint", "Takes it that all ranks' pieces are as large as its own.")
class TakesSizesForEqual(_Checkpoint):
    def sizes(self, state, dims, n):
        dist.barrier()
        return [[state[name].shape[dim]] * n for name, dim in dims.items()]


@misconception("ShardedCheckpoint", "Notes the size of dimension 0, whatever the sharded dimension is.")
class NotesDimensionZero(_Checkpoint):
    def sizes(self, state, dims, n):
        return super().sizes(state, dict.fromkeys(dims, 0), n)


@misconception("ShardedCheckpoint", "Joins and cuts along dimension 0, whatever d is.")
class JoinsAlongZero(_Checkpoint):
    def pieces(self, step, name, sizes, dim, low, high):
        return [x.transpose(0, dim) for x in super().pieces(step, name, sizes, 0, low, high)]


@misconception("ShardedCheckpoint", "Takes the last name in alphabetical order: step 9 comes after step 10.")
class SortsNames(_Checkpoint):
    def last(self):
        names = sorted(name for name in self.store if name.endswith("/index"))
        if not names:
            raise ValueError("nothing")
        return int(names[-1].split("/")[0])


@misconception("ShardedCheckpoint", "Takes the index that was written last, or is listed last: the order of the names decides.")
class TakesTheLastListed(_Checkpoint):
    def last(self):
        names = [name for name in self.store if name.endswith("/index")]
        if not names:
            raise ValueError("nothing")
        return int(names[-1].split("/")[0])


@misconception("ShardedCheckpoint", "Takes the largest step of any shard: an unfinished checkpoint is loaded.")
class TakesUnfinished(_Checkpoint):
    def last(self):
        steps = [int(name.split("/")[0]) for name in self.store if "/shard-" in name]
        if not steps:
            raise ValueError("nothing")
        return max(steps)


@misconception("ShardedCheckpoint", "Takes step 0 for no step: the first checkpoint is never found.")
class TakesZeroForNone(_Checkpoint):
    def last(self):
        step = max((int(name.split("/")[0]) for name in self.store if name.endswith("/index")), default=0)
        if not step:
            raise ValueError("nothing")
        return step


@misconception("ShardedCheckpoint", "Raises KeyError where nothing is finished.")
class RaisesKeyError(_Checkpoint):
    def last(self):
        try:
            return super().last()
        except ValueError:
            raise KeyError("index") from None


@misconception("ShardedCheckpoint", "Checks no names: a shard is written before the KeyError.")
class ChecksNothing(_Checkpoint):
    def check(self, state, dims):
        pass


@misconception("ShardedCheckpoint", "Checks the names after the shard was written.")
class ChecksTooLate(_Checkpoint):
    def save(self, step, state, dims):
        n, rank = dist.get_world_size(), dist.get_rank()
        self.write_shard(step, state, {name: dim for name, dim in dims.items() if name in state}, rank)
        self.check(state, dims)
        self.write_index(step, dims, self.sizes(state, dims, n), n, rank)


@misconception("ShardedCheckpoint", "Loads the shard of its own number: that works only on as many ranks as before.")
class LoadsItsOwnShard(_Checkpoint):
    def load(self):
        step = self.last()
        return step, self.shard(step, dist.get_rank())


@misconception("ShardedCheckpoint", "Gives the last rank what is left over, instead of one more to each of the first.")
class GivesTheRestToTheLast(_Checkpoint):
    def bounds(self, total, m, rank):
        return rank * (total // m), total if rank == m - 1 else (rank + 1) * (total // m)


@misconception("ShardedCheckpoint", "Cuts as chunk does, with ⌈size/m⌉ for each rank as long as there are some.")
class CutsLikeChunk(_Checkpoint):
    def bounds(self, total, m, rank):
        size = -(-total // m)
        return min(rank * size, total), min((rank + 1) * size, total)


@misconception("ShardedCheckpoint", "Reads all shards on every rank: with n ranks, the whole checkpoint is read n times.")
class ReadsEverything(_Checkpoint):
    def pieces(self, step, name, sizes, dim, low, high):
        return [torch.cat([self.shard(step, i)[name] for i in range(len(sizes))], dim).narrow(dim, low, high - low)]


@misconception("ShardedCheckpoint", "Takes all shards that are there, also those that an earlier attempt with more ranks left.")
class TakesAllShards(_Checkpoint):
    def pieces(self, step, name, sizes, dim, low, high):
        count = sum(key.startswith(f"{step}/shard-") for key in self.store)
        whole = torch.cat([self.shard(step, i)[name] for i in range(count) if name in self.shard(step, i)], dim)
        return list(whole.tensor_split(dist.get_world_size(), dim)[dist.get_rank() :][:1])


@misconception("ShardedCheckpoint", "Lets rank 0 read, and send to the others: load has to do without collectives.")
class BroadcastsTheStep(_Checkpoint):
    def last(self):
        step = torch.tensor([super().last()])
        dist.broadcast(step, 0)
        return int(step)


@misconception("ShardedCheckpoint", "Has no piece where a rank gets nothing: the name is missing, or nothing can be joined.")
class LeavesOutEmptyPieces(_Checkpoint):
    def load(self):
        step, state = super().load()
        return step, {name: x for name, x in state.items() if x.numel()}


@misconception("ShardedCheckpoint", "Takes an interval that ends where a shard begins for an overlap: one shard too many is read.")
class ReadsOneTooMany(_Checkpoint):
    def pieces(self, step, name, sizes, dim, low, high):
        start, found = 0, []
        for i, size in enumerate(sizes):
            a, b = max(low, start), min(high, start + size)
            if a <= b:
                found.append(self.shard(step, i)[name].narrow(dim, a - start, b - a))
            start += size
        return found


@misconception("ShardedCheckpoint", "Reads a shard again for each tensor: the files are large, and far away.")
class ReadsAgain(_Checkpoint):
    def shard(self, step, i):
        self.read = {}
        return super().shard(step, i)


@misconception("ShardedCheckpoint", "Writes everything as float32: counters and float64 are rounded.")
class SavesFloats(_Checkpoint):
    def own(self, state, dims, rank):
        return {name: x.float() for name, x in super().own(state, dims, rank).items()}


@misconception("ShardedCheckpoint", "Writes the index only if something is sharded.")
class NeedsSomethingSharded(_Checkpoint):
    def write_index(self, step, dims, table, n, rank):
        if dims:
            super().write_index(step, dims, table, n, rank)
