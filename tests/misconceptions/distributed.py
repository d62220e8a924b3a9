"""Named wrong answers to the tasks of distributed: the hidden suite must reject every one."""

import contextlib
import copy
import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Sampler

from grader.testing import misconception
from solutions.distributed import federated_average as reference_federated
from solutions.distributed import pipeline_schedule as reference_schedule
from solutions.distributed import ring_all_reduce as reference_ring

# ring_all_reduce


@misconception("ring_all_reduce", "Sends the whole tensor to everybody: the sum is right, but each rank sends n − 1 times its data.")
def sends_all_to_all(comm, x):
    for other in range(comm.size):
        if other != comm.rank:
            comm.send(x.flatten(), other)
    total = x.clone()
    for other in range(comm.size):
        if other != comm.rank:
            total = total + comm.recv(other).reshape(x.shape)
    return total


@misconception("ring_all_reduce", "Passes whole tensors round the ring: the sum is right, but each message is n times too large.")
def passes_whole_tensors_on(comm, x):
    total, message = x.clone(), x.flatten()
    for _ in range(comm.size - 1):
        comm.send(message, (comm.rank + 1) % comm.size)
        message = comm.recv((comm.rank - 1) % comm.size)
        total = total + message.reshape(x.shape)
    return total


@misconception("ring_all_reduce", "Lets rank 0 sum up for all: the sum is right, but everything goes through one rank.")
def sums_on_rank_0(comm, x):
    if comm.rank:
        comm.send(x.flatten(), 0)
        return comm.recv(0).reshape(x.shape)
    total = x.flatten()
    for other in range(1, comm.size):
        total = total + comm.recv(other)
    for other in range(1, comm.size):
        comm.send(total, other)
    return total.reshape(x.shape).clone()


def _ring(comm, x, cut=None, add=True, after=1, first=0, receive_first=False, copy=True, empty=True):
    n = comm.size
    chunks = list((cut or torch.tensor_split)(x.flatten(), n))
    if copy:
        chunks = [chunk.clone() for chunk in chunks]
    to, source = (comm.rank + after) % n, (comm.rank - after) % n
    for phase in range(2):
        for step in range(n - 1):
            gives, takes = (comm.rank + phase + first - step) % n, (comm.rank + phase + first - step - 1) % n
            if receive_first:
                got = comm.recv(source)
                comm.send(chunks[gives], to)
            else:
                if empty or chunks[gives].numel():
                    comm.send(chunks[gives], to)
                if not empty and not chunks[takes].numel():
                    continue
                got = comm.recv(source)
            if phase and not add:
                chunks[takes] = got
            elif phase and add == "twice":
                chunks[takes] = chunks[takes] + got
            elif phase:
                chunks[takes] = got
            elif copy:
                chunks[takes] = chunks[takes] + got
            else:
                chunks[takes] += got
    return torch.cat(chunks).reshape(x.shape)


@misconception("ring_all_reduce", "Cuts with chunk: that gives fewer than n pieces for some sizes, and other sizes than tensor_split.")
def cuts_with_chunk(comm, x):
    return _ring(comm, x, cut=lambda flat, n: [*flat.chunk(n), *[flat[:0]] * n][:n])


@misconception("ring_all_reduce", "Adds in the second round, too: the complete chunk takes the place of the own one there.")
def adds_in_both_rounds(comm, x):
    return _ring(comm, x, add="twice")


@misconception("ring_all_reduce", "Receives before it sends: every rank waits for the one before it, for ever.")
def receives_first(comm, x):
    return _ring(comm, x, receive_first=True)


@misconception("ring_all_reduce", "Goes round the other way: rank r sends to rank r + 1.")
def sends_to_the_rank_before(comm, x):
    return _ring(comm, x, after=-1)


@misconception("ring_all_reduce", "Begins with the chunk of the next number: the sum is right, but it ends on other ranks than stated.")
def begins_with_the_next_chunk(comm, x):
    return _ring(comm, x, first=1)


@misconception("ring_all_reduce", "Adds in place to chunks that are views: this rank's x is changed.")
def writes_into_x(comm, x):
    return _ring(comm, x, copy=False)


@misconception("ring_all_reduce", "Skips empty chunks: the statement sends them all the same.")
def skips_empty_chunks(comm, x):
    return _ring(comm, x, empty=False)


@misconception("ring_all_reduce", "Returns the flattened sum: the result has the shape of x.")
def returns_it_flat(comm, x):
    return reference_ring(comm, x).flatten()


@misconception("ring_all_reduce", "Divides by the number of ranks: that is the mean.")
def averages(comm, x):
    return (reference_ring(comm, x) / comm.size).to(x.dtype)


@misconception("ring_all_reduce", "Computes in float32: large integers are rounded, and messages have another dtype.")
def sums_in_float(comm, x):
    return reference_ring(comm, x.float()).to(x.dtype)


@misconception("ring_all_reduce", "Returns x itself where there is one rank: who changes the result changes x.")
def returns_x_when_alone(comm, x):
    return x if comm.size == 1 else reference_ring(comm, x)


@misconception("ring_all_reduce", "Flattens with view: that fails for tensors that are not contiguous.")
def views_x(comm, x):
    return reference_ring(comm, x.view(-1)).view(x.shape)


# DistributedSampler


class _Sampler(Sampler):
    """A right answer in parts that can be got wrong."""

    def __init__(self, dataset, num_replicas, rank, *, shuffle=True, seed=0, drop_last=False):
        self.check(rank, num_replicas)
        self.n, self.R, self.rank, self.shuffle, self.seed, self.drop_last, self.epoch = (
            len(dataset),
            num_replicas,
            rank,
            shuffle,
            seed,
            drop_last,
            0,
        )

    def check(self, rank, num_replicas):
        if not 0 <= rank < num_replicas:
            raise ValueError("rank")

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.n // self.R if self.drop_last else -(-self.n // self.R)

    def generator(self):
        return torch.Generator().manual_seed(self.seed + self.epoch)

    def order(self):
        return torch.randperm(self.n, generator=self.generator()).tolist() if self.shuffle else list(range(self.n))

    def fit(self, order, total):
        return list(itertools.islice(itertools.cycle(order), total))

    def share(self, order):
        return order[self.rank :: self.R]

    def __iter__(self):
        return iter(self.share(self.fit(self.order(), len(self) * self.R)))


@misconception("DistributedSampler", "Gives each rank a block: rank r takes the places r, r + R, r + 2R, …")
class TakesABlock(_Sampler):
    def share(self, order):
        return order[self.rank * len(self) : (self.rank + 1) * len(self)]


@misconception(
    "DistributedSampler", "Leaves the order as long as it is: some ranks get one index more, and the others would wait for them."
)
class DoesNotPad(_Sampler):
    def fit(self, order, total):
        return order


@misconception("DistributedSampler", "Pads once from the start: with fewer samples than are missing, that is not enough.")
class PadsOnce(_Sampler):
    def fit(self, order, total):
        return (order + order[: total - len(order)])[:total]


@misconception("DistributedSampler", "Pads with the last index over and over: the order goes on from its own start.")
class PadsWithTheLast(_Sampler):
    def fit(self, order, total):
        return (order + order[-1:] * self.R)[:total]


@misconception("DistributedSampler", "Pads from 0, 1, … instead of from the start of the shuffled order.")
class PadsUnshuffled(_Sampler):
    def fit(self, order, total):
        return (order + [i % self.n for i in range(max(0, total - len(order)))])[:total]


@misconception("DistributedSampler", "Forgets the epoch: every epoch has the same order.")
class ForgetsTheEpoch(_Sampler):
    def generator(self):
        return torch.Generator().manual_seed(self.seed)


@misconception("DistributedSampler", "Seeds with the rank, too: ranks have different orders, so some samples come twice and some never.")
class SeedsWithTheRank(_Sampler):
    def generator(self):
        return torch.Generator().manual_seed(self.seed + self.epoch + self.rank)


@misconception("DistributedSampler", "Seeds torch's default generator: whoever draws from it next gets other numbers.")
class SeedsTorch(_Sampler):
    def order(self):
        if not self.shuffle:
            return list(range(self.n))
        torch.manual_seed(self.seed + self.epoch)
        return torch.randperm(self.n).tolist()


@misconception("DistributedSampler", "Keeps one generator for all iterations: a second iteration of the same epoch has another order.")
class KeepsItsGenerator(_Sampler):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.kept = super().generator()

    def set_epoch(self, epoch):
        super().set_epoch(epoch)
        self.kept = super().generator()

    def generator(self):
        return self.kept


@misconception("DistributedSampler", "Shuffles each rank's share for itself: the samples of a rank are the same in every epoch.")
class ShufflesShares(_Sampler):
    def order(self):
        return list(range(self.n))

    def share(self, order):
        own = order[self.rank :: self.R]
        return [own[i] for i in torch.randperm(len(own), generator=self.generator())] if self.shuffle else own


@misconception("DistributedSampler", "Drops the rest always: without drop_last the order is filled up.")
class AlwaysDrops(_Sampler):
    def __len__(self):
        return self.n // self.R


@misconception("DistributedSampler", "Gives the length of the data set: a rank's share is an R-th of it.")
class HasTheWholeLength(_Sampler):
    def __len__(self):
        return self.n

    def __iter__(self):
        return iter(self.share(self.fit(self.order(), super().__len__() * self.R)))


@misconception("DistributedSampler", "Yields tensors: the statement gives Python ints.")
class YieldsTensors(_Sampler):
    def order(self):
        return list(torch.randperm(self.n, generator=self.generator())) if self.shuffle else list(torch.arange(self.n))


@misconception("DistributedSampler", "Takes any rank: a wrong one gets somebody else's share, or nothing.")
class TakesAnyRank(_Sampler):
    def check(self, rank, num_replicas):
        pass


# DataParallel


class _DataParallel(nn.Module):
    """A right answer in parts that can be got wrong."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.on, self.pending = True, []
        for tensor in self.shared():
            dist.broadcast(tensor.detach(), 0)
        for p in module.parameters():
            if p.requires_grad:
                self.hook(p)

    def shared(self):
        return [*self.module.parameters(), *self.module.buffers()]

    def hook(self, p):
        p.register_post_accumulate_grad_hook(self.start)

    def start(self, p):
        if self.on:
            self.pending.append((p.grad, dist.all_reduce(p.grad, async_op=True)))

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def finish(self):
        for grad, work in self.pending:
            work.wait()
            grad /= dist.get_world_size()
        self.pending.clear()

    @contextlib.contextmanager
    def no_sync(self):
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before


@misconception("DataParallel", "Broadcasts nothing: ranks that start differently stay different.")
class BroadcastsNothing(_DataParallel):
    def shared(self):
        return []


@misconception("DataParallel", "Forgets the buffers: running statistics differ from rank to rank.")
class ForgetsBuffers(_DataParallel):
    def shared(self):
        return list(self.module.parameters())


@misconception("DataParallel", "Broadcasts trained parameters only: frozen ones compute, too.")
class ForgetsFrozenParameters(_DataParallel):
    def shared(self):
        return [*(p for p in self.module.parameters() if p.requires_grad), *self.module.buffers()]


@misconception("DataParallel", "Broadcasts floating-point tensors only: counters differ from rank to rank.")
class ForgetsCounters(_DataParallel):
    def shared(self):
        return [tensor for tensor in super().shared() if tensor.is_floating_point()]


@misconception("DataParallel", "Leaves the sum undivided: with n ranks, the learning rate is n times too large.")
class LeavesTheSum(_DataParallel):
    def finish(self):
        for _, work in self.pending:
            work.wait()
        self.pending.clear()


@misconception("DataParallel", "Divides before it has waited: the sum that arrives later overwrites that.")
class DividesTooEarly(_DataParallel):
    def finish(self):
        for grad, work in self.pending:
            grad /= dist.get_world_size()
            work.wait()
        self.pending.clear()


@misconception("DataParallel", "Waits in the hook: each layer's backward pass stands still until all ranks have got there.")
class WaitsInTheHook(_DataParallel):
    def start(self, p):
        if self.on:
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


@misconception("DataParallel", "Starts everything in finish: nothing travels while the backward pass computes.")
class StartsInFinish(_DataParallel):
    def start(self, p):
        if self.on:
            self.pending.append(p)

    def finish(self):
        for p in self.pending:
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()
        self.pending.clear()


@misconception("DataParallel", "Does not forget what is finished: a second finish divides again.")
class DividesAgain(_DataParallel):
    def finish(self):
        for grad, work in self.pending:
            work.wait()
            grad /= dist.get_world_size()


@misconception("DataParallel", "Synchronises within no_sync, too: gradients travel for every micro-batch.")
class IgnoresNoSync(_DataParallel):
    @contextlib.contextmanager
    def no_sync(self):
        yield


@misconception("DataParallel", "Switches synchronising on again at the end of the inner no_sync, although an outer one goes on.")
class SwitchesOnAgain(_DataParallel):
    @contextlib.contextmanager
    def no_sync(self):
        self.on = False
        try:
            yield
        finally:
            self.on = True


@misconception("DataParallel", "Stays unsynchronised if an exception ends no_sync.")
class StaysOff(_DataParallel):
    @contextlib.contextmanager
    def no_sync(self):
        before, self.on = self.on, False
        yield
        self.on = before


@misconception("DataParallel", "Hooks the gradient of this backward pass: what no_sync has added up stays on its rank.")
class HooksTheNewGradientOnly(_DataParallel):
    def hook(self, p):
        p.register_hook(lambda grad: self.reduced(grad))

    def reduced(self, grad):
        if not self.on:
            return grad
        total = grad.clone()
        self.pending.append((total, dist.all_reduce(total, async_op=True)))
        return total


@misconception("DataParallel", "Reduces every parameter, with zeros for those without gradient: frozen and unused ones get a gradient.")
class ReducesAllParameters(_DataParallel):
    def finish(self):
        super().finish()
        for p in self.module.parameters():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
                dist.all_reduce(p.grad)


@misconception("DataParallel", "Decides in the forward pass whether to synchronise: what counts is where backward runs.")
class DecidesInForward(_DataParallel):
    chosen = True

    def forward(self, *args, **kwargs):
        self.chosen = self.on
        return self.module(*args, **kwargs)

    def start(self, p):
        if self.chosen:
            self.pending.append((p.grad, dist.all_reduce(p.grad, async_op=True)))


@misconception("DataParallel", "Works on a copy of the module: an optimizer that was made before trains tensors that nobody uses.")
class CopiesTheModule(_DataParallel):
    def __init__(self, module):
        super().__init__(copy.deepcopy(module))


@misconception("DataParallel", "Hands on positional arguments only.")
class ForgetsKeywords(_DataParallel):
    def forward(self, *args):
        return self.module(*args)


# bucket_gradients


def _buckets(parameters, limit, order=reversed, size=lambda g: g.nbytes, full=lambda held, new, limit: held + new > limit, dtypes=True):
    buckets, held = [], 0
    for i in order(range(len(parameters))):
        grad = parameters[i].grad
        if grad is None:
            continue
        new = not buckets or full(held, size(grad), limit)
        if new or (dtypes and grad.dtype != parameters[buckets[-1][0]].grad.dtype):
            buckets.append([])
            held = 0
        buckets[-1].append(i)
        held += size(grad)
    return buckets


def _average(parameters, buckets, divide=True, replace=False, flatten=torch.flatten):
    for bucket in buckets:
        grads = [parameters[i].grad for i in bucket]
        flat = torch.cat([flatten(grad) for grad in grads])
        dist.all_reduce(flat)
        if divide:
            flat /= dist.get_world_size()
        for i, grad, piece in zip(bucket, grads, flat.split([grad.numel() for grad in grads]), strict=True):
            if replace:
                parameters[i].grad = piece.view(grad.shape).to(grad.dtype)
            else:
                grad.copy_(piece.view(grad.shape))
    return buckets


@misconception("bucket_gradients", "Goes from the first parameter to the last: the first layers' gradients are ready last.")
def goes_forward(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes, order=list))


@misconception("bucket_gradients", "Mixes dtypes in a bucket: joined, they are all promoted to the largest dtype.")
def mixes_dtypes(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes, dtypes=False))


@misconception("bucket_gradients", "Counts entries instead of bytes.")
def counts_entries(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes, size=Tensor.numel))


@misconception("bucket_gradients", "Takes 4 bytes for each entry: other dtypes have more or fewer.")
def counts_four_bytes(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes, size=lambda grad: 4 * grad.numel()))


@misconception("bucket_gradients", "Closes a bucket once it is full: by then it holds more than it may.")
def closes_when_full(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes, full=lambda held, new, limit: held >= limit))


@misconception("bucket_gradients", "Begins a new bucket where the gradient would just fill it: bucket_bytes may be reached.")
def stays_below_the_limit(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes, full=lambda held, new, limit: held + new >= limit))


@misconception("bucket_gradients", "Sends each gradient for itself: the numbers are right, and nothing is gained.")
def sends_them_one_by_one(parameters, bucket_bytes):
    buckets = _buckets(parameters, bucket_bytes)
    for bucket in buckets:
        _average(parameters, [[i] for i in bucket])
    return buckets


@misconception("bucket_gradients", "Leaves the sum undivided.")
def forgets_to_divide(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes), divide=False)


@misconception("bucket_gradients", "Puts new tensors in the place of the gradients: who holds the old ones sees nothing of the mean.")
def replaces_the_gradients(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes), replace=True)


@misconception("bucket_gradients", "Flattens with view: that fails for gradients that are not contiguous.")
def views_gradients(parameters, bucket_bytes):
    return _average(parameters, _buckets(parameters, bucket_bytes), flatten=lambda grad: grad.view(-1))


@misconception("bucket_gradients", "Takes None for zeros: parameters without gradient get one, and travel.")
def fills_in_zeros(parameters, bucket_bytes):
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    return _average(parameters, _buckets(parameters, bucket_bytes))


@misconception("bucket_gradients", "Returns each bucket's places in ascending order: they are in the order in which they were added.")
def sorts_the_places(parameters, bucket_bytes):
    return [sorted(bucket) for bucket in _average(parameters, _buckets(parameters, bucket_bytes))]


@misconception("bucket_gradients", "Keeps one open bucket for each dtype: a gradient of another dtype begins a new one here.")
def one_bucket_for_each_dtype(parameters, bucket_bytes):
    found = []
    for dtype in dict.fromkeys(p.grad.dtype for p in reversed(parameters) if p.grad is not None):
        places = [i for i, p in enumerate(parameters) if p.grad is not None and p.grad.dtype == dtype]
        for bucket in _buckets([parameters[i] for i in places], bucket_bytes):
            found.append([places[i] for i in bucket])
    return _average(parameters, found)


# sync_batch_norm


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone()
        dist.all_reduce(total)
        return total


class _SummedOneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        return grad


def _norm(x, weight, bias, eps, over=_Summed.apply, unbiased=0, outside=False, direct=True, count=None):
    axes, shape = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
    if count is None:
        count = torch.tensor(x[:, 0].numel())
        dist.all_reduce(count)
    mean = over(x.sum(axes)) / count
    centred = x - mean.view(shape)
    if direct:
        var = over(centred.square().sum(axes)) / (count - unbiased)
    else:
        var = over(x.square().sum(axes)) / count - mean.square()
    root = 1 / (var.sqrt() + eps) if outside else (var + eps).rsqrt()
    return centred * (root * weight).view(shape) + bias.view(shape)


@misconception("sync_batch_norm", "Normalises with this rank's statistics: that is ordinary batch norm.")
def normalises_locally(x, weight, bias, eps=1e-5):
    return _norm(x, weight, bias, eps, over=lambda t: t, count=max(1, x[:, 0].numel()))


@misconception("sync_batch_norm", "Averages the ranks' means and variances: with batches of different sizes that is another number.")
def averages_the_means(x, weight, bias, eps=1e-5):
    axes, shape = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
    n = dist.get_world_size()
    mean = _Summed.apply(x.mean(axes)) / n
    var = _Summed.apply((x - mean.view(shape)).square().mean(axes)) / n
    return (x - mean.view(shape)) * ((var + eps).rsqrt() * weight).view(shape) + bias.view(shape)


@misconception("sync_batch_norm", "Multiplies its own number of samples by the number of ranks: batches may have different sizes.")
def assumes_equal_batches(x, weight, bias, eps=1e-5):
    return _norm(x, weight, bias, eps, count=max(1, x[:, 0].numel()) * dist.get_world_size())


@misconception("sync_batch_norm", "Takes the statistics for constants: their part of the gradient of x is missing.")
def statistics_without_gradient(x, weight, bias, eps=1e-5):
    return _norm(x, weight, bias, eps, over=lambda t: _Summed.apply(t.detach()))


@misconception("sync_batch_norm", "Sums the statistics forward only: the gradients that the other ranks' outputs send back are missing.")
def sums_forward_only(x, weight, bias, eps=1e-5):
    return _norm(x, weight, bias, eps, over=_SummedOneWay.apply)


@misconception("sync_batch_norm", "Computes E[x²] − mean²: far from zero, almost all digits cancel.")
def variance_of_the_squares(x, weight, bias, eps=1e-5):
    return _norm(x, weight, bias, eps, direct=False)


@misconception("sync_batch_norm", "Divides by the number of entries minus one: batch norm takes the biased variance.")
def unbiased_variance(x, weight, bias, eps=1e-5):
    return _norm(x, weight, bias, eps, unbiased=1)


@misconception("sync_batch_norm", "Adds eps to the deviation instead of the variance.")
def eps_outside_of_the_root(x, weight, bias, eps=1e-5):
    return _norm(x, weight, bias, eps, outside=True)


@misconception("sync_batch_norm", "Leaves without samples before the sums: the other ranks wait for this one for ever.")
def leaves_when_empty(x, weight, bias, eps=1e-5):
    return x.clone() if len(x) == 0 else _norm(x, weight, bias, eps)


@misconception("sync_batch_norm", "Gathers all batches on every rank: the numbers are right, but the activations travel.")
def gathers_the_batches(x, weight, bias, eps=1e-5):
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)]))
    start, total = int(sum(sizes[: dist.get_rank()])), int(sum(sizes))
    whole = F.pad(x.transpose(0, -1), (start, total - start - len(x))).transpose(0, -1)
    return F.batch_norm(_Summed.apply(whole), None, None, weight, bias, True, 0.0, eps)[start : start + len(x)]


@misconception(
    "sync_batch_norm", "Sums the gradients of weight and bias over the ranks: each rank's share is asked for, or DDP would count it twice."
)
def sums_the_gradients_of_weights(x, weight, bias, eps=1e-5):
    class Shared(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t):
            return t.clone()

        @staticmethod
        def backward(ctx, grad):
            total = grad.clone()
            dist.all_reduce(total)
            return total

    return _norm(x, Shared.apply(weight), Shared.apply(bias), eps)


# ZeroAdamW


class _Zero:
    """A right answer in parts that can be got wrong."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        self.params, self.lr, self.betas, self.eps, self.weight_decay = list(params), lr, betas, eps, weight_decay
        self.state, self.t = {}, 0
        self.owners = self.owned()

    def owned(self):
        owners, load = [0] * len(self.params), [0] * dist.get_world_size()
        for i in sorted(range(len(self.params)), key=lambda i: -self.params[i].numel()):
            owners[i] = load.index(min(load))
            load[owners[i]] += self.params[i].numel()
        return owners

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    def reduced(self, p, owner):
        grad = p.grad.clone(memory_format=torch.contiguous_format)
        dist.reduce(grad, owner)
        return grad / dist.get_world_size()

    def mine(self, owner):
        return owner == dist.get_rank()

    def share(self, p, owner):
        dist.broadcast(p, owner)

    @torch.no_grad()
    def step(self):
        self.t += 1
        for i, (p, owner) in enumerate(zip(self.params, self.owners, strict=True)):
            if p.grad is None:
                continue
            grad = self.reduced(p, owner)
            if self.mine(owner):
                self.update(i, p, grad)
            self.share(p, owner)

    def update(self, i, p, grad):
        s = self.state.setdefault(i, {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)})
        s["step"] += 1
        b1, b2 = self.betas
        s["exp_avg"].lerp_(grad, 1 - b1)
        s["exp_avg_sq"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
        self.change(p, s["exp_avg"], s["exp_avg_sq"], s["step"])

    def change(self, p, m, v, t):
        b1, b2 = self.betas
        p.mul_(1 - self.lr * self.weight_decay)
        p.sub_(self.lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + self.eps))


@misconception(
    "ZeroAdamW", "Shares nothing out: every rank keeps the moments of all parameters. The parameters are right, the memory is not."
)
class SharesNothingOut(_Zero):
    def reduced(self, p, owner):
        grad = p.grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad / dist.get_world_size()

    def mine(self, owner):
        return True

    def share(self, p, owner):
        pass


@misconception("ZeroAdamW", "Sums every gradient on all ranks: only the owner needs it, and the others throw it away.")
class ReducesForAll(_Zero):
    def reduced(self, p, owner):
        grad = p.grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad / dist.get_world_size()


@misconception("ZeroAdamW", "Gives parameters away in turn, whatever their size: the rank with the embedding has most of the memory.")
class GivesAwayInTurn(_Zero):
    def owned(self):
        return [i % dist.get_world_size() for i in range(len(self.params))]


@misconception("ZeroAdamW", "Gives parameters away in their order instead of from the largest to the smallest: the shares are less even.")
class GivesAwayUnsorted(_Zero):
    def owned(self):
        owners, load = [], [0] * dist.get_world_size()
        for p in self.params:
            owners.append(load.index(min(load)))
            load[owners[-1]] += p.numel()
        return owners


@misconception("ZeroAdamW", "Counts parameters instead of their entries.")
class BalancesTheCount(_Zero):
    def owned(self):
        owners = [0] * len(self.params)
        for turn, i in enumerate(sorted(range(len(self.params)), key=lambda i: -self.params[i].numel())):
            owners[i] = turn % dist.get_world_size()
        return owners


@misconception("ZeroAdamW", "Keeps updated parameters to itself: on the other ranks they stay old.")
class KeepsParameters(_Zero):
    def share(self, p, owner):
        pass


@misconception("ZeroAdamW", "Updates with the owner's own gradient: the other ranks' batches count for nothing.")
class UsesItsOwnGradient(_Zero):
    def reduced(self, p, owner):
        return p.grad.clone()


@misconception(
    "ZeroAdamW", "Leaves the sum of gradients undivided: AdamW hardly shows it in the first steps, but its moments are n times too large."
)
class UpdatesWithTheSum(_Zero):
    def reduced(self, p, owner):
        return super().reduced(p, owner) * dist.get_world_size()


@misconception("ZeroAdamW", "Reduces .grad itself: afterwards it holds sums on some ranks.")
class ReducesInPlace(_Zero):
    def reduced(self, p, owner):
        dist.reduce(p.grad, owner)
        return p.grad / dist.get_world_size()


@misconception("ZeroAdamW", "Adds the weight decay to the gradient: that is Adam, where the decay is divided by the root, too.")
class DecaysInTheGradient(_Zero):
    def update(self, i, p, grad):
        decay, self.weight_decay = self.weight_decay, 0.0
        super().update(i, p, grad + decay * p)
        self.weight_decay = decay


@misconception("ZeroAdamW", "Lets all ranks decay all parameters before the owner's update, which decays again.")
class DecaysTwice(_Zero):
    def reduced(self, p, owner):
        p.mul_(1 - self.lr * self.weight_decay)
        return super().reduced(p, owner)


@misconception("ZeroAdamW", "Counts steps once for all: a parameter that had no gradient for a while is corrected too little.")
class CountsStepsForAll(_Zero):
    def change(self, p, m, v, t):
        super().change(p, m, v, self.t)


@misconception("ZeroAdamW", "Leaves out the correction of the moments: the first steps are too small or too large.")
class DoesNotCorrect(_Zero):
    def change(self, p, m, v, t):
        p.mul_(1 - self.lr * self.weight_decay)
        p.sub_(self.lr * m / (v.sqrt() + self.eps))


@misconception("ZeroAdamW", "Adds eps below the root.")
class EpsBelowTheRoot(_Zero):
    def change(self, p, m, v, t):
        b1, b2 = self.betas
        p.mul_(1 - self.lr * self.weight_decay)
        p.sub_(self.lr * (m / (1 - b1**t)) / (v / (1 - b2**t) + self.eps).sqrt())


@misconception("ZeroAdamW", "Remembers the learning rate of the start: a schedule that sets lr has no effect.")
class KeepsTheFirstRate(_Zero):
    first = None

    def change(self, p, m, v, t):
        now, self.lr = self.lr, self.first
        super().change(p, m, v, t)
        self.lr = now

    def owned(self):
        self.first = self.lr
        return super().owned()


@misconception("ZeroAdamW", "Takes a missing gradient for zeros: moments, decay and steps go on without one.")
class StepsWithoutGradient(_Zero):
    def step(self):
        missing = [p for p in self.params if p.grad is None]
        for p in missing:
            p.grad = torch.zeros_like(p)
        super().step()
        for p in missing:
            p.grad = None


@misconception("ZeroAdamW", "Clears only the gradients of its own parameters: the others' add up over the steps.")
class ClearsItsOwnGradients(_Zero):
    def zero_grad(self):
        for p, owner in zip(self.params, self.owners, strict=True):
            if self.mine(owner):
                p.grad = None


# FullyShardedLinear


class _Sharded(nn.Module):
    """A right answer in parts that can be got wrong."""

    def __init__(self, weight):
        super().__init__()
        self.rows, self.columns = weight.shape
        self.c = -(-self.rows // dist.get_world_size())
        self.weight = nn.Parameter(self.cut(weight.detach()))

    def cut(self, weight):
        return weight[self.c * dist.get_rank() :][: self.c].clone()

    def gathered(self, shard):
        pieces = [shard.new_empty(self.c, self.columns) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, F.pad(shard.detach(), (0, 0, 0, self.c - len(shard))))
        return torch.cat(pieces)[: self.rows]

    def whole_again(self, ctx, shard):
        return self.gathered(shard)

    def scattered(self, full):
        own = full.new_empty(self.c, self.columns)
        padded = F.pad(full, (0, 0, 0, self.c * dist.get_world_size() - self.rows))
        dist.reduce_scatter(own, list(padded.split(self.c)))
        return own[: len(self.weight)] / dist.get_world_size()

    def back(self, dx):
        return dx

    def save(self, ctx, x, shard, whole):
        ctx.save_for_backward(x, shard)

    def forward(self, x):
        layer = self

        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, shard):
                whole = layer.gathered(shard)
                layer.save(ctx, x, shard, whole)
                return x @ whole.T

            @staticmethod
            def backward(ctx, grad):
                x, shard, *_ = ctx.saved_tensors
                whole = layer.whole_again(ctx, shard)
                own = layer.scattered(grad.reshape(-1, layer.rows).T @ x.reshape(-1, layer.columns))
                return layer.back(grad @ whole), own

        return Product.apply(x, self.weight)


@misconception(
    "FullyShardedLinear", "Keeps the whole weight for the backward pass: then sharding has saved nothing when memory is needed most."
)
class KeepsTheWholeWeight(_Sharded):
    def save(self, ctx, x, shard, whole):
        ctx.save_for_backward(x, shard, whole)

    def whole_again(self, ctx, shard):
        return ctx.saved_tensors[2]


@misconception("FullyShardedLinear", "Keeps what it gathered once: after a step of the optimizer, it is an old weight.")
class GathersOnce(_Sharded):
    kept = None

    def gathered(self, shard):
        if self.kept is None:
            self.kept = super().gathered(shard)
        return self.kept


@misconception("FullyShardedLinear", "Leaves the sum of gradients undivided: the mean is asked for.")
class ScattersTheSum(_Sharded):
    def scattered(self, full):
        return super().scattered(full) * dist.get_world_size()


@misconception("FullyShardedLinear", "Cuts its rows out of its own gradient: the other ranks' batches count for nothing.")
class UsesItsOwnRows(_Sharded):
    def scattered(self, full):
        return full[self.c * dist.get_rank() :][: self.c]


@misconception(
    "FullyShardedLinear", "Sums the whole gradient on all ranks and cuts then: right numbers, but every rank holds and gets all of it."
)
class ReducesTheWholeGradient(_Sharded):
    def scattered(self, full):
        full = full.contiguous()
        dist.all_reduce(full)
        return full[self.c * dist.get_rank() :][: self.c] / dist.get_world_size()


@misconception(
    "FullyShardedLinear", "Spreads the rows as evenly as tensor_split does: here every rank but the last ones has ⌈out / n⌉ of them."
)
class SplitsEvenly(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.whole = weight.detach().clone()
        self.weight = nn.Parameter(weight.detach().tensor_split(dist.get_world_size())[dist.get_rank()].clone())

    def forward(self, x):
        sizes = [len(part) for part in self.whole.tensor_split(dist.get_world_size())]
        most = max(sizes)

        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, shard):
                pieces = [shard.new_empty(most, shard.shape[1]) for _ in sizes]
                dist.all_gather(pieces, F.pad(shard.detach(), (0, 0, 0, most - len(shard))))
                whole = torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])
                ctx.save_for_backward(x, whole)
                return x @ whole.T

            @staticmethod
            def backward(ctx, grad):
                x, whole = ctx.saved_tensors
                full = grad.reshape(-1, len(whole)).T @ x.reshape(-1, x.shape[-1])
                dist.all_reduce(full)
                return grad @ whole, full.split(sizes)[dist.get_rank()] / len(sizes)

        return Product.apply(x, self.weight)


@misconception("FullyShardedLinear", "Keeps a view: the memory of the whole weight stays in use, and a later change of it is seen.")
class KeepsAView(_Sharded):
    def cut(self, weight):
        return weight[self.c * dist.get_rank() :][: self.c]


@misconception("FullyShardedLinear", "Sums the gradient of x over the ranks: each rank has a batch of its own.")
class SumsTheGradientOfX(_Sharded):
    def back(self, dx):
        total = dx.clone()
        dist.all_reduce(total)
        return total


@misconception("FullyShardedLinear", "Gathers shards of different sizes without padding: collectives need the same size on all ranks.")
class DoesNotPadShards(_Sharded):
    def gathered(self, shard):
        sizes = [len(part) for part in torch.empty(self.rows).split(self.c)]
        sizes += [0] * (dist.get_world_size() - len(sizes))
        pieces = [shard.new_empty(size, self.columns) for size in sizes]
        dist.all_gather(pieces, shard.detach())
        return torch.cat(pieces)


@misconception("FullyShardedLinear", "Broadcasts every rank's rows in turn: n messages instead of one all_gather.")
class BroadcastsTheRows(_Sharded):
    def gathered(self, shard):
        pieces = [shard.new_zeros(self.c, self.columns) for _ in range(dist.get_world_size())]
        pieces[dist.get_rank()][: len(shard)] = shard.detach()
        for rank, piece in enumerate(pieces):
            dist.broadcast(piece, rank)
        return torch.cat(pieces)[: self.rows]


# ColumnRowMLP


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _MLP(nn.Module):
    """A right answer in parts that can be got wrong."""

    def __init__(self, w1, b1, w2, b2):
        super().__init__()
        self.check(len(w1))
        n, r = dist.get_world_size(), dist.get_rank()
        self.w1 = nn.Parameter(w1.detach().tensor_split(n)[r].clone())
        self.b1 = nn.Parameter(b1.detach().tensor_split(n)[r].clone())
        self.w2 = nn.Parameter(w2.detach().tensor_split(n, 1)[r].clone())
        self.b2 = nn.Parameter(b2.detach().clone())

    def check(self, features):
        if features % dist.get_world_size():
            raise ValueError("features")

    spread = staticmethod(_Spread.apply)
    join = staticmethod(_SummedOneWay.apply)
    act = staticmethod(F.gelu)

    def forward(self, x):
        hidden = self.act(F.linear(self.spread(x), self.w1, self.b1))
        return self.join(F.linear(hidden, self.w2)) + self.b2


@misconception("ColumnRowMLP", "Adds b2 on every rank before the sum: it counts n times.")
class AddsTheBiasEverywhere(_MLP):
    def forward(self, x):
        hidden = self.act(F.linear(self.spread(x), self.w1, self.b1))
        return self.join(F.linear(hidden, self.w2, self.b2))


@misconception(
    "ColumnRowMLP", "Adds b2 / n before the sum: the output is right, but the bias travels, and its gradient is n times too small."
)
class AddsAPartOfTheBias(_MLP):
    def forward(self, x):
        hidden = self.act(F.linear(self.spread(x), self.w1, self.b1))
        return self.join(F.linear(hidden, self.w2, self.b2 / dist.get_world_size()))


@misconception("ColumnRowMLP", "Adds b2 on rank 0 only, before the sum: on the other ranks it gets no gradient.")
class AddsTheBiasOnRank0(_MLP):
    def forward(self, x):
        hidden = self.act(F.linear(self.spread(x), self.w1, self.b1))
        return self.join(F.linear(hidden, self.w2, self.b2 if dist.get_rank() == 0 else None))


@misconception("ColumnRowMLP", "Forgets f: each rank's gradient of x has only the part of its own features.")
class ForgetsF(_MLP):
    spread = staticmethod(lambda x: x)


@misconception("ColumnRowMLP", "Sums gradients at the output, too: all ranks have the same one, so everything becomes n times too large.")
class SumsBothWays(_MLP):
    join = staticmethod(_Summed.apply)


@misconception("ColumnRowMLP", "Forgets the sum at the output: each rank has only its features' part.")
class ForgetsG(_MLP):
    join = staticmethod(lambda x: x)


@misconception("ColumnRowMLP", "Averages over the ranks: the parts have to be summed.")
class AveragesTheParts(_MLP):
    join = staticmethod(lambda x: _SummedOneWay.apply(x) / dist.get_world_size())


@misconception(
    "ColumnRowMLP", "Gathers the hidden features and multiplies with a whole w2 each time: right numbers, more messages and work."
)
class GathersHiddenFeatures(_MLP):
    def forward(self, x):
        hidden = self.act(F.linear(self.spread(x), self.w1, self.b1))
        n, r = dist.get_world_size(), dist.get_rank()
        size = hidden.shape[-1]
        whole = _SummedOneWay.apply(F.pad(hidden, (size * r, size * (n - r - 1))))
        w2 = torch.cat([self.w2 if i == r else torch.zeros_like(self.w2) for i in range(n)], 1)
        return self.join(F.linear(whole, w2)) + self.b2


@misconception("ColumnRowMLP", "Takes the approximation of gelu by tanh: the exact one is asked for.")
class ApproximatesGelu(_MLP):
    act = staticmethod(lambda x: F.gelu(x, approximate="tanh"))


@misconception("ColumnRowMLP", "Applies gelu after the sum over parts, where the second layer's input is linear.")
class ActivatesLater(_MLP):
    def forward(self, x):
        return F.gelu(self.join(F.linear(F.linear(self.spread(x), self.w1, self.b1), self.w2))) + self.b2


@misconception("ColumnRowMLP", "Shares features out unevenly where the number of ranks does not divide them: a ValueError is asked for.")
class TakesAnyNumberOfFeatures(_MLP):
    def check(self, features):
        pass


@misconception("ColumnRowMLP", "Keeps views of the whole weights: who changes these changes the layer.")
class KeepsViewsOfTheWeights(_MLP):
    def __init__(self, w1, b1, w2, b2):
        super().__init__(w1, b1, w2, b2)
        n, r = dist.get_world_size(), dist.get_rank()
        self.w1, self.b2 = nn.Parameter(w1.detach().tensor_split(n)[r]), nn.Parameter(b2.detach())


# vocab_parallel_cross_entropy


def _reduced(x, op=dist.ReduceOp.SUM):
    x = x.detach().clone()
    dist.all_reduce(x, op)
    return x


def _target(shifted, targets, start, masked=True):
    V = shifted.shape[1]
    here = (targets >= start) & (targets < start + V)
    own = shifted.gather(1, (targets - start).clamp(0, V - 1)[:, None])[:, 0]
    return own.where(here, torch.zeros((), dtype=own.dtype)) if masked else own


def _vocab(logits, targets, start, top="global", join=_SummedOneWay.apply, masked=True):
    if top == "global":
        top = _reduced(logits.amax(1), dist.ReduceOp.MAX)
    elif top == "local":
        top = logits.detach().amax(1)
    else:
        top = torch.zeros(len(logits), dtype=logits.dtype)
    shifted = logits - top[:, None]
    total = join(shifted.exp().sum(1))
    return total.log() - join(_target(shifted, targets, start, masked))


@misconception(
    "vocab_parallel_cross_entropy", "Gathers all logits on every rank: right numbers, but the largest tensor of the model travels."
)
def gathers_the_logits(logits, targets, start):
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([logits.shape[1]]))
    total = int(sum(counts))
    padded = F.pad(logits, (start, total - start - logits.shape[1]))
    padded = padded.where(torch.isfinite(padded), padded)
    return F.cross_entropy(_SummedOneWay.apply(padded), targets, reduction="none")


@misconception("vocab_parallel_cross_entropy", "Subtracts each rank's own largest logit: the ranks' exponentials do not fit together.")
def shifts_by_its_own_maximum(logits, targets, start):
    return _vocab(logits, targets, start, top="local")


@misconception("vocab_parallel_cross_entropy", "Subtracts nothing before exp: large logits overflow.")
def exponentiates_as_it_is(logits, targets, start):
    return _vocab(logits, targets, start, top="none")


@misconception("vocab_parallel_cross_entropy", "Counts some column on ranks that do not have the target, too.")
def does_not_mask_the_target(logits, targets, start):
    return _vocab(logits, targets, start, masked=False)


@misconception("vocab_parallel_cross_entropy", "Takes the softmax over this rank's classes only.")
def normalises_over_its_own_classes(logits, targets, start):
    shifted = logits - logits.detach().amax(1, keepdim=True)
    return shifted.exp().sum(1).log() - _SummedOneWay.apply(_target(shifted, targets, start))


@misconception("vocab_parallel_cross_entropy", "Sums gradients over the ranks in the backward pass: they become n times too large.")
def sums_gradients_over_ranks(logits, targets, start):
    return _vocab(logits, targets, start, join=_Summed.apply)


@misconception("vocab_parallel_cross_entropy", "Sums without a gradient: softmax's part of it is missing.")
def sums_without_gradient(logits, targets, start):
    top = _reduced(logits.amax(1), dist.ReduceOp.MAX)
    shifted = logits - top[:, None]
    total = _reduced(shifted.exp().sum(1))
    return total.log() - _SummedOneWay.apply(_target(shifted, targets, start))


@misconception("vocab_parallel_cross_entropy", "Indexes with target − start although it may be negative, which Python counts from the end.")
def counts_from_the_end(logits, targets, start):
    top = _reduced(logits.amax(1), dist.ReduceOp.MAX)
    shifted = logits - top[:, None]
    column = targets - start
    own = shifted[torch.arange(len(targets)), column.clamp(-logits.shape[1], logits.shape[1] - 1)]
    own = own.where(column < logits.shape[1], torch.zeros((), dtype=own.dtype))
    return _SummedOneWay.apply(shifted.exp().sum(1)).log() - _SummedOneWay.apply(own)


@misconception(
    "vocab_parallel_cross_entropy", "Takes the logarithm of the target's probability: it is 0 in the computer where logits are far apart."
)
def logarithm_of_the_probability(logits, targets, start):
    top = _reduced(logits.amax(1), dist.ReduceOp.MAX)
    e = (logits - top[:, None]).exp()
    own = _SummedOneWay.apply(_target(e, targets, start))
    return -(own / _SummedOneWay.apply(e.sum(1))).log()


@misconception("vocab_parallel_cross_entropy", "Returns the mean: a loss for each row is asked for.")
def averages_the_rows(logits, targets, start):
    return _vocab(logits, targets, start).mean()


@misconception("vocab_parallel_cross_entropy", "Takes rank · V_r for the first class: blocks need not be equally large.")
def assumes_equal_blocks(logits, targets, start):
    return _vocab(logits, targets, dist.get_rank() * logits.shape[1])


@misconception("vocab_parallel_cross_entropy", "Multiplies the target's logit with 0 or 1 to mask it: −inf times 0 is NaN.")
def masks_by_multiplying(logits, targets, start):
    V = logits.shape[1]
    top = _reduced(logits.amax(1), dist.ReduceOp.MAX)
    shifted = logits - top[:, None]
    own = shifted.gather(1, (targets - start).clamp(0, V - 1)[:, None])[:, 0] * ((targets >= start) & (targets < start + V))
    return _SummedOneWay.apply(shifted.exp().sum(1)).log() - _SummedOneWay.apply(own)


# pipeline_schedule


def _plans(S, M, kind, ahead=None):
    plans = []
    for s in range(S):
        w = M if kind == "gpipe" else min(M, S - s) if ahead is None else min(M, ahead(S, s))
        plan = [f"F{i}" for i in range(w)]
        for i in range(M):
            plan.append(f"B{i}")
            if w + i < M:
                plan.append(f"F{w + i}")
        plans.append(plan)
    return plans


def _timed(plans, at_once=False):
    S, done, rows = len(plans), set(), [[] for _ in plans]
    plans = [list(plan) for plan in plans]
    for _ in range(10_000):
        if not any(plans):
            break
        news = []
        for s, plan in enumerate(plans):
            action = plan[0] if plan else ""
            if action:
                needed = s - 1 if action[0] == "F" else s + 1
                if 0 <= needed < S and (needed, action) not in done:
                    action = ""
            rows[s].append(action)
            if action:
                plan.pop(0)
                news.append((s, action))
                if at_once:
                    done.update(news)
        done.update(news)
    return rows


def _checked(S, M, kind):
    if kind not in ("gpipe", "1f1b") or S < 1 or M < 1:
        raise ValueError("arguments")


@misconception("pipeline_schedule", "Goes back through the micro-batches in reverse order: both kinds go from 0 to M − 1.")
def goes_back_in_reverse(num_stages, num_microbatches, kind):
    _checked(num_stages, num_microbatches, kind)
    M = num_microbatches
    plans = _plans(num_stages, M, kind)
    if kind == "gpipe":
        plans = [[f"F{i}" for i in range(M)] + [f"B{i}" for i in reversed(range(M))] for _ in plans]
    return _timed(plans)


@misconception(
    "pipeline_schedule", "Lets every stage go S passes ahead in 1f1b: the later stages then hold more activations than they need."
)
def all_stages_go_equally_far_ahead(num_stages, num_microbatches, kind):
    _checked(num_stages, num_microbatches, kind)
    return _timed(_plans(num_stages, num_microbatches, kind, ahead=lambda S, s: S))


@misconception("pipeline_schedule", "Goes one pass too few ahead in 1f1b: stages idle although they have something to do.")
def goes_too_little_ahead(num_stages, num_microbatches, kind):
    _checked(num_stages, num_microbatches, kind)
    return _timed(_plans(num_stages, num_microbatches, kind, ahead=lambda S, s: max(1, S - s - 1)))


@misconception("pipeline_schedule", "Counts stages from the wrong end: the first stage has to go furthest ahead.")
def last_stage_goes_furthest_ahead(num_stages, num_microbatches, kind):
    _checked(num_stages, num_microbatches, kind)
    return _timed(_plans(num_stages, num_microbatches, kind, ahead=lambda S, s: s + 1))


@misconception("pipeline_schedule", "Lets the next stage begin in the same tick: its input is there only when the tick is over.")
def passes_on_at_once(num_stages, num_microbatches, kind):
    _checked(num_stages, num_microbatches, kind)
    return _timed(_plans(num_stages, num_microbatches, kind), at_once=True)


@misconception("pipeline_schedule", "Gives the order only: the ticks in which a stage idles are missing.")
def leaves_out_the_bubbles(num_stages, num_microbatches, kind):
    _checked(num_stages, num_microbatches, kind)
    return _plans(num_stages, num_microbatches, kind)


@misconception("pipeline_schedule", "Ends each list with its stage's last pass: all lists go up to the same tick.")
def ends_lists_early(num_stages, num_microbatches, kind):
    rows = reference_schedule(num_stages, num_microbatches, kind)
    return [row[: max(i for i, action in enumerate(row) if action) + 1] for row in rows]


@misconception("pipeline_schedule", "Makes gpipe of everything.")
def makes_gpipe_of_everything(num_stages, num_microbatches, kind):
    return reference_schedule(num_stages, num_microbatches, "gpipe" if kind == "1f1b" else kind)


@misconception("pipeline_schedule", "Waits in gpipe until every stage has done its forward passes: the last stage may go back at once.")
def waits_for_all_forward_passes(num_stages, num_microbatches, kind):
    if kind != "gpipe":
        return reference_schedule(num_stages, num_microbatches, kind)
    _checked(num_stages, num_microbatches, kind)
    S, M = num_stages, num_microbatches
    forward = _timed([[f"F{i}" for i in range(M)]] * S)
    backward = [row[::-1] for row in _timed([[f"B{i}" for i in range(M)]] * S)]
    return [[*a, "", *b] for a, b in zip(forward, backward, strict=True)]


@misconception("pipeline_schedule", "Goes S − s passes ahead without looking at M: with few micro-batches, that is more than there are.")
def goes_further_than_there_are(num_stages, num_microbatches, kind):
    _checked(num_stages, num_microbatches, kind)
    plans = _plans(num_stages, num_microbatches, kind)
    if kind == "1f1b":
        plans = [[f"F{i}" for i in range(num_microbatches, num_stages - s)] + plan for s, plan in enumerate(plans)]
    return _timed(plans)


@misconception("pipeline_schedule", "Takes every kind that is not gpipe for 1f1b: another one is a ValueError.")
def takes_any_kind(num_stages, num_microbatches, kind):
    return reference_schedule(num_stages, num_microbatches, "gpipe" if kind == "gpipe" else "1f1b")


# federated_average


def _fed(
    start,
    clients,
    samples,
    max_norm,
    noise_std,
    generator,
    even=False,
    per_entry=False,
    late=False,
    total=None,
    dtype=torch.float64,
    up=False,
):
    if len(clients) != len(samples) or any(n < 0 for n in samples):
        raise ValueError("samples")
    kept = [(state, 1 if even else n) for state, n in zip(clients, samples, strict=True) if state is not None and n]
    if any(state.keys() != start.keys() for state, _ in kept):
        raise ValueError("names")
    if not kept:
        return {name: x.clone() for name, x in start.items()}
    largest = max(zip(clients, samples, strict=True), key=lambda pair: pair[1] if pair[0] is not None else -1)[0]
    total = total or sum(n for _, n in kept)
    names = [name for name, x in start.items() if x.is_floating_point()]

    def clipped(update):
        if max_norm is None:
            return update
        norms = {name: float(x.double().norm()) for name, x in update.items()}
        if not per_entry:
            whole = sum(norm**2 for norm in norms.values()) ** 0.5
            norms = dict.fromkeys(norms, whole)
        return {name: x * (max_norm / norms[name]) if norms[name] and (up or norms[name] > max_norm) else x for name, x in update.items()}

    mean = {name: torch.zeros(start[name].shape, dtype=dtype) for name in names}
    for state, n in kept:
        update = {name: state[name].to(dtype) - start[name].to(dtype) for name in names}
        for name, x in (update if late else clipped(update)).items():
            mean[name] = mean[name] + x * (n / total)
    if late:
        mean = clipped(mean)
    new = {}
    for name, x in start.items():
        if name in names:
            value = x.to(dtype) + mean[name]
            if noise_std:
                value = value + noise_std * torch.randn(x.shape, dtype=torch.float64, generator=generator)
            new[name] = value.to(x.dtype, copy=True)
        else:
            new[name] = largest[name].clone()
    return new


@misconception("federated_average", "Counts all clients alike: they count in proportion to their samples.")
def counts_clients_alike(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    return _fed(global_state, client_states, num_samples, max_norm, noise_std, generator, even=True)


@misconception("federated_average", "Divides by the samples of all clients, dropped ones too: the update is too small.")
def counts_dropped_samples(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    return _fed(global_state, client_states, num_samples, max_norm, noise_std, generator, total=sum(num_samples))


@misconception("federated_average", "Multiplies the state of a client without samples by 0: NaN times 0 is NaN.")
def multiplies_by_zero(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)
    for state, n in zip(client_states, num_samples, strict=True):
        if state is not None and n == 0 and state.keys() == new.keys():
            new = {name: x + (0 * state[name]).to(x.dtype) if x.is_floating_point() else x for name, x in new.items()}
    return new


@misconception("federated_average", "Averages counters, too: rounded, they are nobody's.")
def averages_counters(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)
    kept = [(s, n) for s, n in zip(client_states, num_samples, strict=True) if s is not None and n]
    for name, x in global_state.items():
        if kept and not x.is_floating_point():
            new[name] = (sum(s[name].double() * n for s, n in kept) / sum(n for _, n in kept)).to(x.dtype)
    return new


@misconception("federated_average", "Keeps the global state's counters: those of the client with the most samples are asked for.")
def keeps_old_counters(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)
    return {name: x if x.is_floating_point() else global_state[name].clone() for name, x in new.items()}


@misconception("federated_average", "Takes counters of the last of several largest clients: it is the first one.")
def takes_the_last_of_the_largest(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)
    kept = [(s, n) for s, n in zip(client_states, num_samples, strict=True) if s is not None and n]
    if kept:
        best = max(n for _, n in kept)
        last = [s for s, n in kept if n == best][-1]
        new = {name: x if x.is_floating_point() else last[name].clone() for name, x in new.items()}
    return new


@misconception("federated_average", "Clips each entry for itself: the norm is that of the whole update.")
def clips_each_entry(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    return _fed(global_state, client_states, num_samples, max_norm, noise_std, generator, per_entry=True)


@misconception("federated_average", "Clips the average: a single client can then still pull all the others with it.")
def clips_the_average(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    return _fed(global_state, client_states, num_samples, max_norm, noise_std, generator, late=True)


@misconception("federated_average", "Scales every update to max_norm: shorter ones are to stay as they are.")
def lengthens_short_updates(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    return _fed(global_state, client_states, num_samples, max_norm, noise_std, generator, up=True)


@misconception("federated_average", "Takes max_norm = 0 for no clipping: nobody may move then.")
def takes_zero_for_none(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    return reference_federated(
        global_state, client_states, num_samples, max_norm=max_norm or None, noise_std=noise_std, generator=generator
    )


@misconception("federated_average", "Draws noise in the entry's dtype: other numbers come from the generator.")
def draws_noise_in_its_dtype(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm)
    kept = [s for s, n in zip(client_states, num_samples, strict=True) if s is not None and n]
    if noise_std and kept:
        for name, x in new.items():
            if x.is_floating_point():
                new[name] = x + noise_std * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    return new


@misconception("federated_average", "Adds noise for every client: it is added to the result once.")
def adds_noise_for_every_client(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm)
    kept = [(s, n) for s, n in zip(client_states, num_samples, strict=True) if s is not None and n]
    for _, n in kept if noise_std else []:
        for name, x in new.items():
            if x.is_floating_point():
                share = n / sum(n for _, n in kept)
                new[name] = x + share * noise_std * torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.dtype)
    return new


@misconception("federated_average", "Draws noise without being asked for any: the generator is further on than it should be.")
def always_draws(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    if not noise_std:
        for x in global_state.values():
            torch.randn(x.shape, dtype=torch.float64, generator=generator)
    return reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)


@misconception("federated_average", "Sums in the dtype of the entries: in float16 that overflows or is rounded at every step.")
def sums_in_the_dtype(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)
    kept = [(s, n) for s, n in zip(client_states, num_samples, strict=True) if s is not None and n]
    if max_norm is None and not noise_std and kept:
        for name, x in global_state.items():
            if x.is_floating_point():
                new[name] = (sum(s[name] * n for s, n in kept) / sum(n for _, n in kept)).to(x.dtype)
    return new


@misconception("federated_average", "Returns the global state itself where nobody is left: who changes the one changes the other.")
def returns_the_global_state(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)
    return new if any(s is not None and n for s, n in zip(client_states, num_samples, strict=True)) else dict(global_state)


@misconception("federated_average", "Hands out the client's own counters: the new state shares memory with it.")
def shares_counters(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    new = reference_federated(global_state, client_states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)
    kept = [(s, n) for s, n in zip(client_states, num_samples, strict=True) if s is not None and n]
    if kept:
        largest = max(kept, key=lambda pair: pair[1])[0]
        new = {name: x if x.is_floating_point() else largest[name] for name, x in new.items()}
    return new


@misconception("federated_average", "Does not look at the names: entries that the global state lacks are dropped in silence.")
def ignores_other_names(global_state, client_states, num_samples, *, max_norm=None, noise_std=0.0, generator=None):
    states = [s if s is None else {**global_state, **{k: v for k, v in s.items() if k in global_state}} for s in client_states]
    return reference_federated(global_state, states, num_samples, max_norm=max_norm, noise_std=noise_std, generator=generator)


# shard_model


def _plan(model, mesh, up="column", down="row", head="gathered", blocks=slice(None), embed=False):
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    def style(name):
        return {
            "column": ColwiseParallel,
            "gathered": lambda: ColwiseParallel(output_layouts=Replicate()),
            "row": RowwiseParallel,
            "whole row": lambda: RowwiseParallel(input_layouts=Replicate()),
        }[name]()

    plan: dict[str, Any] = {}
    for i in range(len(model.blocks))[blocks]:
        plan |= {f"blocks.{i}.up": style(up), f"blocks.{i}.down": style(down)}
    if head:
        plan["head"] = style(head)
    if embed:
        plan["embed"] = style("gathered")
    return parallelize_module(model, mesh, plan)


@misconception("shard_model", "Cuts both layers column-wise and gathers after each: right numbers, twice the messages.")
def cuts_both_by_columns(model, mesh):
    return _plan(model, mesh, up="gathered", down="gathered")


@misconception("shard_model", "Cuts up row-wise and down column-wise: then up needs a sum before the activation.")
def cuts_the_wrong_way_round(model, mesh):
    return _plan(model, mesh, up="whole row", down="gathered")


@misconception(
    "shard_model", "Leaves the head's output shared out, the default of ColwiseParallel: each rank has some of the classes only."
)
def leaves_outputs_cut(model, mesh):
    return _plan(model, mesh, head="column")


@misconception("shard_model", "Leaves the head whole on every rank.")
def forgets_the_head(model, mesh):
    return _plan(model, mesh, head=None)


@misconception("shard_model", "Cuts the head row-wise: the output is right, but its input features are shared out.")
def cuts_the_head_by_rows(model, mesh):
    return _plan(model, mesh, head="whole row")


@misconception("shard_model", "Shards the first block only: a plan without * names one submodule.")
def shards_the_first_block(model, mesh):
    return _plan(model, mesh, blocks=slice(1))


@misconception("shard_model", "Shards every linear layer, the embedding too.")
def shards_every_layer(model, mesh):
    return _plan(model, mesh, embed=hasattr(model, "embed"))


@misconception("shard_model", "Returns a sharded copy: the model that was given stays as it was.")
def shards_a_copy(model, mesh):
    return _plan(copy.deepcopy(model), mesh)


@misconception("shard_model", "Makes DTensors of all parameters, replicated: nothing is shared out.")
def replicates_everything(model, mesh):
    from torch.distributed.tensor import distribute_module

    return distribute_module(model, mesh)


# fsdp_wrap


def _wrap(model, mesh, lr, units, before=False, optimizer=torch.optim.AdamW, **options):
    from torch.distributed.fsdp import fully_shard

    early = list(model.parameters())
    for unit in units:
        fully_shard(unit, mesh=mesh, **options)
    return optimizer(early if before else model.parameters(), lr=lr)


@misconception("fsdp_wrap", "Makes one unit of the whole model: all parameters are gathered at once.")
def makes_one_unit(model, mesh, lr):
    return _wrap(model, mesh, lr, [model])


@misconception("fsdp_wrap", "Shards the model first: it takes all parameters into its unit, and none are left for the blocks.")
def shards_the_root_first(model, mesh, lr):
    return _wrap(model, mesh, lr, [model, *model.blocks])


@misconception("fsdp_wrap", "Shards the blocks only: the other layers stay whole on every rank, and their gradients local.")
def forgets_the_root(model, mesh, lr):
    return _wrap(model, mesh, lr, [*model.blocks])


@misconception("fsdp_wrap", "Makes the optimizer first: it trains tensors that the model no longer has.")
def makes_the_optimizer_first(model, mesh, lr):
    return _wrap(model, mesh, lr, [*model.blocks, model], before=True)


@misconception("fsdp_wrap", "Makes a unit of every linear layer: many small messages instead of one for each block.")
def makes_a_unit_of_every_layer(model, mesh, lr):
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    return _wrap(model, mesh, lr, [*layers, *model.blocks, model])


@misconception("fsdp_wrap", "Keeps the gathered parameters until the backward pass: the memory of the whole model is needed.")
def keeps_what_it_gathered(model, mesh, lr):
    return _wrap(model, mesh, lr, [*model.blocks, model], reshard_after_forward=False)


@misconception("fsdp_wrap", "Takes Adam: AdamW is asked for.")
def takes_adam(model, mesh, lr):
    return _wrap(model, mesh, lr, [*model.blocks, model], optimizer=torch.optim.Adam)


@misconception("fsdp_wrap", "Optimises the blocks only.")
def optimises_the_blocks(model, mesh, lr):
    _wrap(model, mesh, lr, [*model.blocks, model])
    return torch.optim.AdamW([*model.blocks.parameters(), *model.head.parameters()][: max(1, len(list(model.blocks.parameters())))], lr=lr)


@misconception("fsdp_wrap", "Takes AdamW's default where the learning rate is 0.")
def takes_the_default_rate(model, mesh, lr):
    return _wrap(model, mesh, lr or 1e-3, [*model.blocks, model])


@misconception("fsdp_wrap", "Shards nothing: every rank trains the whole model on its own part of the data.")
def shards_nothing(model, mesh, lr):
    return torch.optim.AdamW(model.parameters(), lr=lr)
