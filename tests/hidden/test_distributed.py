"""Hidden suite of the module distributed."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from grader.testing import LAYOUTS, measured, on_group, on_ranks, raised, task, with_ones

F64 = torch.float64
LOOSE = {"rtol": 1e-3, "atol": 1e-3}


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.detach().clone().requires_grad_()


def said(transcript):
    """For each rank its operations: kind, root or peer, and how many numbers it gave. A lone rank need not say anything."""
    return [
        [(operation.split()[0].removesuffix("_single"), peer, sum(t.numel() for t in tensors)) for operation, peer, tensors in spoken]
        for spoken in transcript
        if len(transcript) > 1
    ]


def kinds(transcript, *left_out):
    """For each rank the kinds of its operations, but for some. A lone rank need not say anything."""
    return [[kind for kind, _, _ in spoken if kind not in left_out] for spoken in said(transcript)]


def largest(transcript):
    """How many numbers the largest tensor holds that a rank gives to an operation."""
    return max((t.numel() for spoken in transcript for _, _, tensors in spoken for t in tensors), default=0)


def parameters(model):
    """The shape of each parameter, and the names in the state_dict."""
    return {name: tuple(p.shape) for name, p in model.named_parameters()}, sorted(model.state_dict())


def gradients(model):
    """The gradient of each parameter, by name."""
    return {name: p.grad for name, p in model.named_parameters()}


# ring_all_reduce


@task("ring_all_reduce")
class TestRingAllReduce:
    @pytest.mark.parametrize("dtype", [torch.float32, F64, torch.int64, torch.int32], ids=str)
    def test_ring(self, agree, draw, dtype):
        """The sum arrives on every rank by the ring's own messages, in their order, for 1, 3 and 5 ranks and uneven chunks."""
        xs = (draw.normal(5, 13, dtype=F64) * 1000).to(dtype)

        def probe(m):
            return [on_ranks(n, lambda comm: m.ring_all_reduce(comm, xs[comm.rank])) for n in (1, 3, 5)]

        agree(probe, rtol=1e-6, atol=1e-5)

    def test_other_numbers_of_ranks(self, agree, draw):
        """Two, four and eight ranks, and a tensor of several dimensions."""
        xs = draw.normal(8, 3, 7, 2)

        def probe(m):
            return [on_ranks(n, lambda comm: m.ring_all_reduce(comm, xs[comm.rank])) for n in (1, 2, 4, 8)]

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_few_entries(self, agree, draw, n):
        """With fewer entries than ranks some chunks are empty, and are sent too; 0-d and empty tensors keep their shapes."""
        xs = [draw.normal(5, *shape) for shape in [(), (1,), (2,), (1, 1, 3), (0,), (4, 0, 2)]]

        def probe(m):
            return [on_ranks(size, lambda comm, x=x: m.ring_all_reduce(comm, x[comm.rank])) for x in xs for size in (1, n)]

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """Any dimension may have the size 1."""
        xs = [draw.normal(3, *shape) for shape in with_ones(2, 3, 5)]

        def probe(m):
            return [on_ranks(n, lambda comm, x=x: m.ring_all_reduce(comm, x[comm.rank])) for x in xs for n in (1, 3)]

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_integers_are_exact(self, agree, draw):
        """Sums of int64 beyond 2⁵³ are exact to the last digit."""
        xs = draw.integers(2**58, 2**59, 4, 11)

        def probe(m):
            return [on_ranks(n, lambda comm: m.ring_all_reduce(comm, xs[comm.rank]))[0] for n in (1, 3, 4)]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision(self, agree, draw, dtype):
        """A message has the dtype of x, and so has the result."""
        xs = draw.normal(3, 7).to(dtype)

        def probe(m):
            return [on_ranks(n, lambda comm: m.ring_all_reduce(comm, xs[comm.rank])) for n in (1, 3)]

        agree(probe, rtol=2e-2, atol=2e-2)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The tensor may lie in memory in any way."""
        xs = [draw.normal(5, 7, layout=layout) for _ in range(3)]

        def probe(m):
            return [on_ranks(n, lambda comm: m.ring_all_reduce(comm, xs[comm.rank])) for n in (1, 3)]

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_magnitudes(self, agree, draw):
        """Each entry is summed for itself: tiny, huge, infinite and missing numbers stay where they are."""
        xs = [draw.poisoned(draw.magnitudes(23, low=1e-30, high=1e30), draw.bools(23, p=0.2)) for _ in range(3)]

        def probe(m):
            return [on_ranks(n, lambda comm: m.ring_all_reduce(comm, xs[comm.rank]))[0] for n in (1, 3)]

        agree(probe, rtol=1e-5, atol=0)

    def test_result_is_new(self, agree, draw):
        """Who changes the result changes neither x nor another rank's result, for a single rank too."""
        xs = draw.normal(3, 7)

        def work(m, comm):
            own = xs[comm.rank].clone()
            total = m.ring_all_reduce(comm, own)
            total += comm.rank + 1
            return own, total

        agree(lambda m: [on_ranks(n, lambda comm: work(m, comm))[0] for n in (1, 2, 3)], rtol=1e-5, atol=1e-5)


# DistributedSampler


def shares(m, n, ranks, epoch=None, **options):
    """Each rank's length and indices."""
    found = []
    for rank in range(ranks):
        sampler = m.DistributedSampler(range(n), ranks, rank, **options)
        if epoch is not None:
            sampler.set_epoch(epoch)
        found.append((len(sampler), list(sampler)))
    return found


@task("DistributedSampler")
class TestDistributedSampler:
    def test_shuffled_shares(self, agree, draw):
        """All ranks deal out one order, which the seed decides; by default the indices are shuffled with seed 0."""
        n, seed = draw.integer(50, 99), draw.seed()
        agree(lambda m: [shares(m, n, ranks, seed=seed) for ranks in (1, 3, 4)] + [shares(m, n, 3)], rtol=0, atol=0)

    def test_without_shuffling(self, agree, draw):
        """Rank r takes every R-th index from r on."""
        n = draw.integer(40, 200)
        agree(lambda m: [shares(m, n, ranks, shuffle=False) for ranks in (1, 3, 7)], rtol=0, atol=0)

    @pytest.mark.parametrize("drop_last", [False, True])
    def test_every_remainder(self, agree, draw, drop_last):
        """The order is filled up from its own start, or cut at its end, so that all ranks get equally many."""
        n, seed = 5 * draw.integer(5, 20), draw.seed()
        agree(lambda m: [shares(m, n + i, 5, seed=seed, drop_last=drop_last) for i in range(5)], rtol=0, atol=0)

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_more_ranks_than_samples(self, agree, draw, shuffle):
        """The order starts over more than once, if need be; with drop_last nobody gets anything. No samples are fine."""
        seed, n = draw.seed(), draw.integer(20, 90)

        def probe(m):
            few = [shares(m, n, 7, seed=seed, shuffle=shuffle, drop_last=drop) for n in (0, 1, 2, 3, 6, 7) for drop in (False, True)]
            return few, shares(m, n, 3, seed=seed)

        agree(probe, rtol=0, atol=0)

    def test_epochs(self, agree, draw):
        """Each epoch has an order of its own, seeded with seed + epoch, which can be asked for again and in any order."""
        n, seed, epochs = draw.integer(30, 60), draw.integer(0, 10**6), [0, draw.integer(1, 9), draw.integer(1000, 10**6), 0]

        def probe(m):
            sampler = m.DistributedSampler(range(n), 3, 1, seed=seed)
            found = [list(sampler), list(sampler)]
            for epoch in epochs:
                sampler.set_epoch(epoch)
                found += [list(sampler), list(sampler)]
            return found, shares(m, n, 2, epochs[1]), shares(m, n, 3, epochs[1], shuffle=False)

        agree(probe, rtol=0, atol=0)

    def test_two_iterations_at_once(self, agree, draw):
        """An iteration does not disturb another one, and a part of one leaves nothing behind."""
        n, seed = draw.integer(30, 60), draw.seed()

        def probe(m):
            sampler = m.DistributedSampler(range(n), 2, 1, seed=seed)
            next(iter(sampler))
            pairs = list(zip(sampler, sampler, strict=True))
            return pairs, list(sampler)

        agree(probe, rtol=0, atol=0)

    def test_any_sized_dataset(self, agree, draw):
        """Only the length of the data set is asked for."""
        n, seed = draw.integer(30, 60), draw.seed()

        class OnlyLength:
            def __len__(self):
                return n

        def probe(m):
            return [list(m.DistributedSampler(data, 3, 2, seed=seed)) for data in (OnlyLength(), [None] * n, torch.zeros(n, 2))]

        agree(probe, rtol=0, atol=0)

    def test_in_a_loader(self, agree, draw):
        """A DataLoader takes it as its sampler."""
        x, seed = draw.normal(23, 2), draw.seed()

        def probe(m):
            data = TensorDataset(x)
            samplers = [m.DistributedSampler(data, 3, rank, seed=seed) for rank in range(3)]
            return [[batch for (batch,) in DataLoader(data, batch_size=3, sampler=sampler)] for sampler in samplers]

        agree(probe, rtol=0, atol=0)

    def test_no_such_rank(self, agree, draw):
        """A rank below 0, or R and more, is a ValueError."""
        n = draw.integer(200, 300)

        def probe(m):
            wrong = [raised(ValueError, lambda r=r: m.DistributedSampler(range(n), 3, r)) for r in (-1, 3, 7)]
            none = raised(ValueError, lambda: m.DistributedSampler(range(n), 0, 0))
            return wrong, none, list(m.DistributedSampler(range(n), 3, 2))

        agree(probe, rtol=0, atol=0)


# DataParallel


def mlp(state, scale=1.0):
    """A small network with these weights, times a factor."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    model.load_state_dict({name: value * scale for name, value in state.items()})
    return model


def mlp_state(draw):
    """Weights for `mlp`."""
    return {
        name: draw.normal(*shape, dtype=F64)
        for name, shape in {"0.weight": (5, 3), "0.bias": (5,), "2.weight": (2, 5), "2.bias": (2,)}.items()
    }


class Partly(nn.Module):
    """A network with a frozen parameter, one that is not used, one without dimensions, and one that is used twice."""

    def __init__(self, values):
        super().__init__()
        self.first = nn.Parameter(values["square"].clone())
        self.frozen = nn.Parameter(values["square"] * 2, requires_grad=False)
        self.unused = nn.Parameter(values["vector"].clone())
        self.scale = nn.Parameter(values["scale"].clone())
        self.again = self.first

    def forward(self, x):
        return torch.tanh(x @ self.first @ self.frozen) @ self.again * self.scale


@task("DataParallel")
class TestDataParallel:
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_training_equals_the_whole_batch(self, agree, draw, momentum):
        """After three steps all ranks have the parameters that one process has with the whole batch, from rank 0's start."""
        state, xs, ys = mlp_state(draw), draw.normal(3, 6, 3, dtype=F64), draw.normal(3, 6, 2, dtype=F64)

        def work(m, rank, n):
            module = mlp(state, 1 + rank)
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=momentum)  # made before: the tensors stay the same
            model = m.DataParallel(module)
            for x, y in zip(xs, ys, strict=True):
                optimizer.zero_grad(set_to_none=momentum == 0)
                F.mse_loss(model(x[rank::n]), y[rank::n]).backward()
                model.finish()
                optimizer.step()
            return [p.detach() for p in module.parameters()], gradients(module), model(xs[0]).detach()

        agree(lambda m: [on_group(n, lambda rank, n=n: work(m, rank, n))[0] for n in (1, 2, 3)], rtol=1e-9, atol=1e-9)

    def test_state_of_rank_0(self, agree, draw):
        """Parameters and buffers, frozen and whole-numbered ones too, are those of rank 0; buffers go their own ways afterwards."""
        weight, mean, x = draw.normal(3, 4), draw.normal(4), draw.normal(3, 5, 4)
        count = draw.integer(1, 10**6)

        def work(m, rank):
            module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
            for buffer, value in [(module[0].running_mean, mean + rank), (module[0].running_var, mean.square() * (1 + rank))]:
                buffer.copy_(value)
            module[0].num_batches_tracked.fill_(count + rank)
            with torch.no_grad():
                module[0].weight.copy_(mean * (2 + rank))
                module[0].bias.copy_(mean * (3 + rank))
                module[1].weight.copy_(weight * (1 + rank)).requires_grad_(False)
                module[1].bias.copy_(weight[:, 0] - rank)
            module[1].weight.requires_grad_(False)
            model = m.DataParallel(module)
            before = {name: value.clone() for name, value in model.state_dict().items()}
            model(x[rank])
            return before, dict(model.state_dict()), parameters(model)

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 3)], rtol=1e-5, atol=1e-5)

    def test_starts_in_the_backward_pass(self, agree, draw):
        """Each gradient's all_reduce has started when backward returns, the last layer's first, and each parameter has just one."""
        state, x = mlp_state(draw), draw.normal(3, 4, 3, dtype=F64)

        def work(m, rank):
            model = m.DataParallel(mlp(state))
            model(x[rank]).square().sum().backward()
            dist.barrier()
            model.finish()
            return gradients(model)

        def probe(m):
            (single, _), (results, transcript) = (on_group(n, lambda rank: work(m, rank)) for n in (1, 3))
            return single, results, [[entry for entry in spoken if entry[0] != "broadcast"] for spoken in said(transcript)]

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("calls")
    def test_does_not_wait_in_the_backward_pass(self, agree, draw):
        """The backward pass goes on while gradients travel: no rank waits for another one before `finish`."""
        state, x = mlp_state(draw), draw.normal(3, 4, 3, dtype=F64)

        def work(m, rank, order):
            model = m.DataParallel(mlp(state))
            dist.barrier()
            order.append(("begins", rank))
            model(x[rank]).square().sum().backward()
            order.append(("ends", rank))
            model.finish()
            return gradients(model)

        def probe(m):
            order = []
            results, _ = on_group(3, lambda rank: work(m, rank, order))
            pairs = [order[i][1] == order[i + 1][1] for i in range(0, 6, 2)]
            return results if all(pairs) else "waits in the backward pass"

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_frozen_and_unused_parameters(self, agree, draw):
        """They take part in nothing and keep the gradient that they have; a parameter that is used twice is reduced once."""
        values = {"square": draw.normal(3, 3, dtype=F64), "vector": draw.normal(4, dtype=F64), "scale": draw.normal(dtype=F64)}
        x, kept = draw.normal(3, 2, 3, dtype=F64), draw.normal(4, dtype=F64)

        def work(m, rank, some):
            module = Partly(values)
            model = m.DataParallel(module)
            if some:
                module.unused.grad, module.frozen.grad = kept * (1 + rank), values["square"] * rank
            model(x[rank]).sum().backward()
            model.finish()
            return gradients(module)

        def probe(m):
            found = [on_group(n, lambda rank, some=some: work(m, rank, some)) for n in (1, 3) for some in (False, True)]
            return [results for results, _ in found], [kinds(transcript, "broadcast") for _, transcript in found]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_no_sync(self, agree, draw):
        """Within no_sync gradients only add up on their rank; the first backward pass outside reduces the sum of all micro-batches."""
        state, x = mlp_state(draw), draw.normal(3, 3, 4, 3, dtype=F64)

        def work(m, rank):
            model = m.DataParallel(mlp(state))
            with model.no_sync():
                model(x[rank, 0]).square().sum().backward()
                model(x[rank, 1]).square().sum().backward()
            dist.barrier()
            local = {name: grad.clone() for name, grad in gradients(model).items()}
            model(x[rank, 2]).square().sum().backward()
            model.finish()
            return local, gradients(model)

        def probe(m):
            found = [on_group(n, lambda rank: work(m, rank)) for n in (1, 3)]
            return [results for results, _ in found], [kinds(transcript, "broadcast") for _, transcript in found]

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("how", ["nested", "exception", "again", "forward"])
    def test_end_of_no_sync(self, agree, draw, how):
        """no_sync ends with the outermost context, also by an exception, and can be used again. Only where backward runs counts."""
        state, x = mlp_state(draw), draw.normal(3, 4, 3, dtype=F64)

        def work(m, rank):
            model = m.DataParallel(mlp(state))
            if how == "nested":
                with model.no_sync():
                    with model.no_sync():
                        pass
                    model(x[rank]).square().sum().backward()
            elif how == "exception":
                try:
                    with model.no_sync():
                        raise KeyError
                except KeyError:
                    pass
            elif how == "again":
                for _ in range(2):
                    with model.no_sync():
                        model(x[rank]).square().sum().backward()
            else:
                with model.no_sync():
                    loss = model(x[rank]).square().sum()
                loss.backward()
                model.finish()
            local = {name: grad if grad is None else grad.clone() for name, grad in gradients(model).items()}
            model(x[rank]).cos().sum().backward()
            model.finish()
            return local, gradients(model)

        def probe(m):
            found = [on_group(n, lambda rank: work(m, rank)) for n in (1, 3)]
            return [results for results, _ in found], [kinds(transcript, "broadcast") for _, transcript in found]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_gradients_add_up_over_steps(self, agree, draw):
        """Without zero_grad, the next mean adds to the earlier one; a second `finish`, and one before any step, do nothing."""
        state, x = mlp_state(draw), draw.normal(3, 2, 4, 3, dtype=F64)

        def work(m, rank):
            model = m.DataParallel(mlp(state))
            model.finish()
            for batch in x[rank]:
                model(batch).square().sum().backward()
                model.finish()
                model.finish()
            return gradients(model)

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 2, 3)], rtol=1e-9, atol=1e-9)

    def test_arguments_and_results(self, agree, draw):
        """All arguments are handed on, and so is whatever the module gives; modes and the state_dict reach the module."""
        x, y = draw.normal(2, 3), draw.normal(2, 3)

        class Several(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale, self.norm = nn.Parameter(x[0, 0].clone()), nn.BatchNorm1d(3)

            def forward(self, a, *, b=None, names=()):
                return {"sum": self.norm(a) + b * self.scale, "names": list(names)}

        def work(m):
            model = m.DataParallel(Several())
            results = [model(x, b=y, names=("one", "two")), model.eval()(x, b=x)]
            return [{**result, "sum": result["sum"].detach()} for result in results], dict(model.state_dict())

        agree(lambda m: [on_group(n, lambda rank: work(m))[0] for n in (1, 2)], rtol=1e-5, atol=1e-5)


# bucket_gradients


def bucketed(m, grads, bucket_bytes, rank, layout):
    """Buckets, the gradients afterwards, and what the tensors that were the gradients hold then."""
    parameters = []
    for grad in grads[rank]:
        parameters.append(nn.Parameter(torch.zeros(3) if grad is None else torch.zeros_like(grad)))
        if grad is not None:  # a copy, every second entry of a longer tensor, or a transpose's view
            copies = {"sliced": lambda g: torch.cat([g, g], -1)[..., : g.shape[-1]], "transposed": lambda g: g.mT.contiguous().mT}
            parameters[-1].grad = copies.get(layout if grad.dim() > 1 else "", torch.clone)(grad)
    before = [p.grad for p in parameters]
    buckets = m.bucket_gradients(parameters, bucket_bytes)
    return buckets, [p.grad for p in parameters], before


def bucket_probe(grads, limits, sizes=(1, 2, 3), layout=""):
    """All combinations of limits and numbers of ranks, with the transcripts."""

    def probe(m):
        found = [on_group(n, lambda rank, limit=limit: bucketed(m, grads, limit, rank, layout)) for n in sizes for limit in limits]
        return [(results, transcript[1:]) for results, transcript in found]  # what a lone rank says is its own affair

    return probe


@task("bucket_gradients")
class TestBucketGradients:
    def test_means(self, agree, draw):
        """Every gradient becomes the mean over the ranks, in place, with one message for each bucket, whatever its size."""
        grads = [[draw.normal(*shape) for shape in [(5, 3), (7,), (2, 2), (11,)]] for _ in range(3)]
        agree(bucket_probe(grads, (0, 40, 100, 10**6)), rtol=1e-5, atol=1e-5)

    def test_precision(self, agree, draw):
        """Each dtype keeps its own precision, float64 too."""
        grads = [[draw.normal(*shape, dtype=F64) for shape in [(3, 2), (5,)]] for _ in range(3)]
        agree(bucket_probe(grads, (0, 10**6)), rtol=1e-12, atol=1e-12)

    def test_limits(self, agree, draw):
        """A bucket may be filled to the last byte, and not by one byte more."""
        sizes = [draw.integer(2, 9) for _ in range(6)]
        grads = [[draw.normal(size) for size in sizes] for _ in range(2)]
        whole = [4 * sum(sizes[-i:]) for i in (2, 3, 4)]
        agree(bucket_probe(grads, [limit - less for limit in whole for less in (0, 1)], (1, 2)), rtol=1e-5, atol=1e-5)

    def test_larger_than_a_bucket(self, agree, draw):
        """A gradient that fits nowhere has a bucket of its own, and the next one begins another."""
        grads = [[draw.normal(size) for size in (2, 3, 40, 5, 50)] for _ in range(2)]
        agree(bucket_probe(grads, (0, 32, 100), (1, 2)), rtol=1e-5, atol=1e-5)

    def test_dtypes(self, agree, draw):
        """Another dtype begins another bucket; bytes count, not entries."""
        dtypes = [torch.float32, torch.float32, F64, F64, torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16]
        grads = [[draw.normal(3 + i).to(dtype) for i, dtype in enumerate(dtypes)] for _ in range(2)]
        agree(bucket_probe(grads, (10, 45, 80, 10**6), (1, 2)), rtol=1e-2, atol=1e-2)

    def test_without_gradient(self, agree, draw):
        """Parameters without gradient are left out, all of them too, and no parameters are fine."""
        some = [[None if i in (0, 2, 5) else draw.normal(2 + i) for i in range(6)] for _ in range(2)]

        def probe(m):
            return [bucket_probe(grads, (0, 30, 1000), (1, 2))(m) for grads in (some, [[None, None]] * 2, [[], []])]

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layout", ["sliced", "transposed"])
    def test_layouts(self, agree, draw, layout):
        """A gradient may lie in memory in any way."""
        grads = [[draw.normal(4, 3), draw.normal(2, 5, 3), draw.normal(7, dtype=F64)] for _ in range(2)]
        agree(bucket_probe(grads, (50, 1000), (1, 2), layout), rtol=1e-5, atol=1e-5)

    def test_sizes(self, agree, draw):
        """Gradients without dimensions, with sizes of 1, and without entries."""
        grads = [[draw.normal(*shape) for shape in [(), (1, 1), (3, 1), (0, 2), (1, 5)]] for _ in range(2)]
        agree(bucket_probe(grads, (4, 8, 1000), (1, 2)), rtol=1e-5, atol=1e-5)


# sync_batch_norm


def normed(m, xs, weight, bias, ws, rank, **options):
    """The output and all gradients of a rank."""
    x, w, b = leaf(xs[rank]), leaf(weight), leaf(bias)
    y = m.sync_batch_norm(x, w, b, **options)
    (y * ws[rank]).sum().backward()
    return y.detach(), x.grad, w.grad, b.grad


def norm_probe(xs, weight, bias, ws, sizes, **options):
    """A probe of these numbers of ranks."""
    return lambda m: [on_group(n, lambda rank: normed(m, xs, weight, bias, ws, rank, **options))[0] for n in sizes]


@task("sync_batch_norm")
class TestSyncBatchNorm:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_equals_one_big_batch(self, agree, draw, dtype):
        """Output and gradients are those of all batches together, although these have different sizes."""
        xs, ws = ([draw.normal(n, 4, dtype=dtype) + 1 for n in (5, 2, 7)] for _ in range(2))
        weight, bias = draw.normal(4, dtype=dtype), draw.normal(4, dtype=dtype)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        agree(norm_probe(xs, weight, bias, ws, (1, 2, 3)), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("rest", [(3,), (3, 2), (2, 3, 2)], ids=["3d", "images", "volumes"])
    def test_more_dimensions(self, agree, draw, rest):
        """Each channel is normalised over samples and all places."""
        xs, ws = ([draw.normal(n, 5, *rest, dtype=F64) * 3 - 2 for n in (2, 3)] for _ in range(2))
        agree(norm_probe(xs, draw.normal(5, dtype=F64), draw.normal(5, dtype=F64), ws, (1, 2)), rtol=1e-9, atol=1e-9)

    def test_a_rank_without_samples(self, agree, draw):
        """A rank with an empty batch takes part, and its share of the gradients is 0."""
        xs, ws = ([draw.normal(n, 3, 2, dtype=F64) for n in (4, 0, 1)] for _ in range(2))
        agree(norm_probe(xs, draw.normal(3, dtype=F64), draw.normal(3, dtype=F64), ws, (1, 2, 3)), rtol=1e-9, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """One channel, one sample a rank, one place."""
        for_shapes = [
            ([draw.normal(*shape, dtype=F64) for _ in range(2)], [draw.normal(*shape, dtype=F64) for _ in range(2)], shape[1])
            for shape in with_ones(3, 4, 2)
        ]
        pairs = [(xs, ws, draw.normal(C, dtype=F64), draw.normal(C, dtype=F64)) for xs, ws, C in for_shapes]

        def probe(m):
            return [norm_probe(xs, weight, bias, ws, (1, 2))(m) for xs, ws, weight, bias in pairs]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_eps(self, agree, draw):
        """The number eps is added to the variance before the root: it decides where a channel is constant, and may be 0 elsewhere."""
        xs, ws = ([draw.normal(n, 4, dtype=F64) for n in (3, 4)] for _ in range(2))
        flat = [x.clone() for x in xs]
        for x in flat:
            x[:, 2] = 0.75
        weight, bias = draw.normal(4, dtype=F64), draw.normal(4, dtype=F64)

        def probe(m):
            zero = norm_probe(xs, weight, bias, ws, (1, 2), eps=0.0)(m)
            return (
                zero,
                [norm_probe(x, weight, bias, ws, (1, 2), eps=0.5)(m) for x in (xs, flat)],
                norm_probe(flat, weight, bias, ws, (2,))(m),
            )

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_far_from_zero(self, agree, draw):
        """In float32, channels with mean 1000 and deviation 1 lose no more than 0.005."""
        xs = [draw.normal(n, 3) + 1000 for n in (40, 30)]
        weight, bias = draw.uniform(3, low=0.5, high=1), draw.normal(3)

        def probe(m):
            return [on_group(n, lambda rank: m.sync_batch_norm(xs[rank], weight, bias))[0] for n in (1, 2)]

        agree(probe, rtol=0, atol=5e-3)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Batches, and the gradients that arrive, may lie in memory in any way."""
        xs, ws = ([draw.normal(n, 3, 4, dtype=F64, layout=layout) for n in (3, 2)] for _ in range(2))
        weight, bias = draw.normal(3, dtype=F64), draw.normal(3, dtype=F64)

        def work(m, rank):
            x = xs[rank].detach().requires_grad_() if layout != "expanded" else leaf(xs[rank])
            y = m.sync_batch_norm(x, weight, bias)
            y.backward(ws[rank])
            return y.detach(), x.grad

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 2)], rtol=1e-8, atol=1e-8)

    def test_without_gradients(self, agree, draw):
        """Where x needs no gradient, the gradients of weight and bias are right all the same; nothing needs one in evaluation."""
        xs = [draw.normal(n, 3, dtype=F64) for n in (3, 2)]
        weight, bias = draw.normal(3, dtype=F64), draw.normal(3, dtype=F64)

        def work(m, rank):
            w, b = leaf(weight), leaf(bias)
            m.sync_batch_norm(xs[rank], w, b).square().sum().backward()
            with torch.no_grad():
                return m.sync_batch_norm(xs[rank], w, b), w.grad, b.grad

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 2)], rtol=1e-8, atol=1e-8)

    def test_batches_stay_where_they_are(self, agree, draw):
        """No rank gives a collective more than 2C + 2 numbers, forward or backward."""
        xs, ws = ([draw.normal(n, 3, 7, dtype=F64) for n in (5, 4)] for _ in range(2))
        weight, bias = draw.normal(3, dtype=F64), draw.normal(3, dtype=F64)

        def probe(m):
            found = [on_group(n, lambda rank: normed(m, xs, weight, bias, ws, rank)) for n in (1, 2)]
            return [(results, "small" if largest(transcript) <= 8 else "large") for results, transcript in found]

        agree(probe, rtol=1e-8, atol=1e-8)


# ZeroAdamW


def optimised(m, starts, grads, rank, rates=(None,), **options):
    """Parameters, state and owners after a step for each of the ranks' lists of gradients."""
    params = [nn.Parameter(start.clone()) for start in starts]
    optimizer = m.ZeroAdamW(iter(params), **options)
    for step, of_ranks in enumerate(grads):
        for p, grad in zip(params, of_ranks[rank], strict=True):
            p.grad = None if grad is None else grad.clone()
        if rates[step % len(rates)] is not None:
            optimizer.lr = rates[step % len(rates)]
        optimizer.step()
    return [p.detach() for p in params], dict(optimizer.state), optimizer.owners


def zero_probe(starts, grads, sizes=(1, 2, 3), **options):
    """A probe of these numbers of ranks."""
    return lambda m: [on_group(n, lambda rank: optimised(m, starts, grads, rank, **options))[0] for n in sizes]


SHAPES = [(2, 3), (7,), (4, 5), (), (3,), (1, 6)]


def zero_case(draw, steps=3, ranks=3, shapes=SHAPES, dtype=F64):
    """Start values, and for each step each rank's gradients."""
    starts = [draw.normal(*shape, dtype=dtype) for shape in shapes]
    return starts, [[[draw.normal(*shape, dtype=dtype) for shape in shapes] for _ in range(ranks)] for _ in range(steps)]


@task("ZeroAdamW")
class TestZeroAdamW:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_equals_adamw(self, agree, draw, dtype):
        """After three steps all ranks have AdamW's parameters for the mean gradient, and each rank has the moments of its own ones only."""
        starts, grads = zero_case(draw, dtype=dtype)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        agree(zero_probe(starts, grads, lr=0.1, betas=(0.8, 0.95), weight_decay=0.1), rtol=tolerance, atol=tolerance)

    def test_defaults(self, agree, draw):
        """The defaults are lr 1e-3, betas (0.9, 0.999), eps 1e-8, weight decay 1e-2."""
        starts, grads = zero_case(draw)
        agree(zero_probe([start * 100 for start in starts], grads), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize(
        "options",
        [{"lr": 0.0}, {"betas": (0.0, 0.9)}, {"betas": (0.9, 0.0)}, {"weight_decay": 0.0}, {"eps": 0.0}, {"eps": 0.5}],
        ids=["lr", "beta1", "beta2", "decay", "eps", "large eps"],
    )
    def test_settings(self, agree, draw, options):
        """Each setting may be 0; eps is added to the root of the corrected moment."""
        starts, grads = zero_case(draw)
        agree(zero_probe(starts, grads, (2,), **{"lr": 0.1, **options}), rtol=1e-9, atol=1e-9)

    def test_owners(self, agree, draw):
        """From the largest to the smallest, each parameter goes to the rank with the fewest entries so far."""
        sizes = [draw.integer(1, 40) for _ in range(9)]
        cases = [sizes, [*sizes[:3], *sizes], [5] * 7, [0, 3, 0, 2], []]
        starts = [[draw.normal(n) for n in case] for case in cases]

        def probe(m):
            owners = [
                [on_group(n, lambda rank, some=some: m.ZeroAdamW([nn.Parameter(x.clone()) for x in some]).owners)[0] for some in starts]
                for n in (1, 2, 3, 5)
            ]
            return owners, zero_probe(starts[0], [[starts[0]] * 3])(m)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_missing_gradients(self, agree, draw):
        """A parameter without gradient stays as it is and counts no step, and none having one is fine."""
        starts, grads = zero_case(draw, steps=4)
        for step, missing in enumerate([(0, 3), (2,), (0, 1, 2, 3, 4, 5), (5,)]):
            for of_rank in grads[step]:
                for i in missing:
                    of_rank[i] = None
        agree(zero_probe(starts, grads, lr=0.1), rtol=1e-9, atol=1e-9)

    def test_schedule(self, agree, draw):
        """The attribute lr is read anew in each step."""
        starts, grads = zero_case(draw)
        agree(zero_probe(starts, grads, (1, 2), lr=0.5, rates=(0.1, None, 0.0)), rtol=1e-9, atol=1e-9)

    def test_messages(self, agree, draw):
        """Each gradient is reduced to its owner once, and each updated parameter is broadcast by its owner once."""
        starts, grads = zero_case(draw, steps=2)
        for of_rank in grads[1]:
            of_rank[2] = None

        def probe(m):
            found = [on_group(n, lambda rank: optimised(m, starts, grads, rank, lr=0.1)) for n in (1, 3)]
            calls = [[sorted((kind, peer) for kind, peer, _ in spoken) for spoken in said(transcript)] for _, transcript in found]
            return [results for results, _ in found], calls

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_gradients_are_left_alone(self, agree, draw):
        """A step leaves each rank's own gradients, and zero_grad sets them to None, of parameters that other ranks own, too."""
        starts, grads = zero_case(draw, steps=1)

        def work(m, rank):
            params = [nn.Parameter(start.clone()) for start in starts]
            optimizer = m.ZeroAdamW(params, lr=0.1)
            for p, grad in zip(params, grads[0][rank], strict=True):
                p.grad = grad.clone()
            optimizer.step()
            after = [p.grad.clone() for p in params]
            optimizer.zero_grad()
            return after, [p.grad for p in params], [p.detach() for p in params]

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 3)], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Gradients may lie in memory in any way."""
        shapes = [(5, 3), (2, 4)]
        starts = [draw.normal(*shape, dtype=F64) for shape in shapes]
        grads = [[draw.normal(*shape, dtype=F64, layout=layout) for shape in shapes] for _ in range(2)]

        def work(m, rank):
            params = [nn.Parameter(start.clone()) for start in starts]
            optimizer = m.ZeroAdamW(params, lr=0.1)
            for _ in range(2):
                for p, grad in zip(params, grads[rank], strict=True):
                    p.grad = grad
                optimizer.step()
            return [p.detach() for p in params]

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 2)], rtol=1e-9, atol=1e-9)

    def test_trains_a_model(self, agree, draw):
        """With parts of a batch, all ranks' models do what one model does with the whole batch."""
        state, xs, ys = mlp_state(draw), draw.normal(3, 6, 3, dtype=F64), draw.normal(3, 6, 2, dtype=F64)

        def work(m, rank, n):
            model = mlp(state)
            optimizer = m.ZeroAdamW(model.parameters(), lr=0.1)
            for x, y in zip(xs, ys, strict=True):
                optimizer.zero_grad()
                F.mse_loss(model(x[rank::n]), y[rank::n]).backward()
                optimizer.step()
            return model(xs[0]).detach()

        agree(lambda m: [on_group(n, lambda rank, n=n: work(m, rank, n))[0] for n in (1, 2, 3)], rtol=1e-8, atol=1e-8)


# FullyShardedLinear


def sharded_pass(m, weight, xs, ws, rank):
    """The shard, output and gradients of a rank, with a barrier between forward and backward."""
    layer = m.FullyShardedLinear(weight)
    x = leaf(xs[rank])
    y = layer(x)
    dist.barrier()
    (y * ws[rank]).sum().backward()
    return layer.weight.detach(), y.detach(), x.grad, layer.weight.grad


def sharded_probe(weight, xs, ws, sizes):
    """A probe of these numbers of ranks."""
    return lambda m: [on_group(n, lambda rank: sharded_pass(m, weight, xs, ws, rank))[0] for n in sizes]


@task("FullyShardedLinear")
class TestFullyShardedLinear:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_forward_and_backward(self, agree, draw, dtype):
        """Outputs are those of the whole weight; each rank gets its rows of the mean gradient, and its own x's gradient."""
        weight = draw.normal(7, 3, dtype=dtype)
        xs, ws = [draw.normal(n, 3, dtype=dtype) for n in (4, 2, 5)], [draw.normal(n, 7, dtype=dtype) for n in (4, 2, 5)]
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        agree(sharded_probe(weight, xs, ws, (1, 2, 3)), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("rows", [1, 2, 5, 6, 9])
    def test_rows_and_ranks(self, agree, draw, rows):
        """Each rank has ⌈out / n⌉ rows; the last ranks have fewer, or none."""
        weight = draw.normal(rows, 4, dtype=F64)
        xs, ws = [draw.normal(2, 4, dtype=F64) for _ in range(5)], [draw.normal(2, rows, dtype=F64) for _ in range(5)]
        agree(sharded_probe(weight, xs, ws, (1, 4, 5)), rtol=1e-9, atol=1e-9)

    def test_messages(self, agree, draw):
        """The weight is gathered in the forward pass and again in the backward pass, where each rank gets its rows' gradient only."""
        weight = draw.normal(7, 3, dtype=F64)
        xs, ws = [draw.normal(n, 3, dtype=F64) for n in (4, 2, 5)], [draw.normal(n, 7, dtype=F64) for n in (4, 2, 5)]

        def probe(m):
            found = [on_group(n, lambda rank: sharded_pass(m, weight, xs, ws, rank)) for n in (1, 3)]
            passes = []
            for spoken in said(found[1][1]):
                middle = [kind for kind, _, _ in spoken].index("barrier")
                passes.append((spoken[:middle], sorted(spoken[middle:])))
            return [results for results, _ in found], passes

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_training_equals_one_process(self, agree, draw):
        """After three steps of AdamW on the shards, the shards are those of the weight that one process trains with all batches."""
        weight, xs, ys = draw.normal(7, 3, dtype=F64), draw.normal(3, 6, 3, dtype=F64), draw.normal(3, 6, 7, dtype=F64)

        def work(m, rank, n):
            layer = m.FullyShardedLinear(weight)
            optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
            for x, y in zip(xs, ys, strict=True):
                optimizer.zero_grad()
                F.mse_loss(layer(x[rank::n]), y[rank::n]).backward()
                optimizer.step()
            return layer.weight.detach(), layer(xs[0]).detach()

        agree(lambda m: [on_group(n, lambda rank, n=n: work(m, rank, n))[0] for n in (1, 2, 3)], rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("lead", [(), (0,), (2, 3), (1, 1, 2)], ids=str)
    def test_leading_dimensions(self, agree, draw, lead):
        """Any x will do: it has any number of leading dimensions, and may be empty."""
        weight, more = draw.normal(5, 3, dtype=F64), draw.normal(4, 3, dtype=F64)
        xs, ws = [draw.normal(*lead, 3, dtype=F64) for _ in range(2)], [draw.normal(*lead, 5, dtype=F64) for _ in range(2)]

        def probe(m):
            return sharded_probe(weight, xs, ws, (1, 2))(m), on_group(2, lambda rank: m.FullyShardedLinear(weight)(more).detach())[0]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """One row, one feature, one sample."""
        cases = [
            (draw.normal(out, size, dtype=F64), draw.normal(2, n, size, dtype=F64), draw.normal(2, n, out, dtype=F64))
            for n, out, size in with_ones(4, 5, 3)
        ]
        agree(lambda m: [sharded_probe(*case, (1, 2))(m) for case in cases], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The weight, x and the gradient that arrives may lie in memory in any way."""
        weight = draw.normal(7, 3, dtype=F64, layout=layout)
        xs, ws = ([draw.normal(2, 4, size, dtype=F64, layout=layout) for _ in range(2)] for size in (3, 7))

        def work(m, rank):
            layer = m.FullyShardedLinear(weight)
            x = leaf(xs[rank]) if layout == "expanded" else xs[rank].detach().requires_grad_()
            layer(x).backward(ws[rank])
            return layer.weight.detach(), layer.weight.grad, x.grad

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 2)], rtol=1e-9, atol=1e-9)

    def test_state(self, agree, draw):
        """The state_dict holds the shard only; what is loaded counts; the whole weight may change later on; gradients add up."""
        weight, other, xs = draw.normal(7, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(2, 4, 3, dtype=F64)

        def work(m, rank):
            whole = weight.clone()
            layer = m.FullyShardedLinear(whole)
            whole.zero_()
            before = layer(xs[rank])
            before.sum().backward()
            layer(xs[rank]).square().sum().backward()
            layer.load_state_dict(m.FullyShardedLinear(other).state_dict())
            return before.detach(), layer.weight.grad, layer(xs[rank]).detach(), parameters(layer), list(layer.buffers())

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 2)], rtol=1e-9, atol=1e-9)

    def test_without_gradients_of_x(self, agree, draw):
        """The first layer's x needs no gradient, and in evaluation nothing does."""
        weight, xs = draw.normal(5, 3, dtype=F64), draw.normal(2, 4, 3, dtype=F64)

        def work(m, rank):
            layer = m.FullyShardedLinear(weight)
            layer(xs[rank]).square().sum().backward()
            with torch.no_grad():
                return layer(xs[rank]), layer.weight.grad

        agree(lambda m: [on_group(n, lambda rank: work(m, rank))[0] for n in (1, 2)], rtol=1e-9, atol=1e-9)

    @measured("memory")
    def test_keeps_no_more_than_its_rows(self, agree, draw):
        """Neither the parameter's memory nor what autograd saves holds the whole weight."""
        weight, xs = draw.normal(40, 30, dtype=F64), draw.normal(4, 1, 30, dtype=F64)

        def work(m, rank):
            layer, saved = m.FullyShardedLinear(weight), []

            def pack(tensor):
                saved.append(tensor.untyped_storage().nbytes())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                y = layer(leaf(xs[rank]))
            own = max([layer.weight.untyped_storage().nbytes(), *saved])
            return y.detach() if own <= 10 * 30 * 8 else "keeps the whole weight"

        agree(lambda m: on_group(4, lambda rank: work(m, rank))[0], rtol=1e-9, atol=1e-9)


# ColumnRowMLP


def mlp_weights(draw, D, H, dtype=F64):
    """w1, b1, w2, b2."""
    return [draw.normal(*shape, dtype=dtype) for shape in [(H, D), (H,), (D, H), (D,)]]


def mlp_pass(m, weights, x, w):
    """Parameters, output and gradients of a rank, with a barrier between forward and backward."""
    model, x = m.ColumnRowMLP(*weights), leaf(x)
    y = model(x)
    dist.barrier()
    (y * w).sum().backward()
    return dict(model.state_dict()), y.detach(), x.grad, gradients(model)


def mlp_probe(weights, x, w, sizes):
    """A probe of these numbers of ranks."""
    return lambda m: [on_group(n, lambda rank: mlp_pass(m, weights, x, w))[0] for n in sizes]


@task("ColumnRowMLP")
class TestColumnRowMLP:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_forward_and_backward(self, agree, draw, dtype):
        """Output and gradients are one process's, each rank's parameters having their own part of them."""
        weights = mlp_weights(draw, 5, 12, dtype)
        x, w = draw.normal(3, 5, dtype=dtype), draw.normal(3, 5, dtype=dtype)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        agree(mlp_probe(weights, x, w, (1, 2, 3, 4)), rtol=tolerance, atol=tolerance)

    def test_messages(self, agree, draw):
        """One all_reduce in the forward pass, of the product without b2, and one in the backward pass, of the gradient of x."""
        weights = mlp_weights(draw, 5, 6)
        x, w = draw.normal(3, 5, dtype=F64), draw.normal(3, 5, dtype=F64)

        def probe(m):
            found = [on_group(n, lambda rank: mlp_pass(m, weights, x, w)) for n in (1, 3)]
            return [results for results, _ in found], found[1][1]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_deep_network(self, agree, draw):
        """Several in a row, with a sum around each, have the gradients of one process."""
        layers, x = [mlp_weights(draw, 4, 6) for _ in range(3)], draw.normal(2, 4, dtype=F64)

        def work(m):
            models, h = [m.ColumnRowMLP(*weights) for weights in layers], leaf(x)
            start = h
            for model in models:
                h = h + model(h)
            h.square().sum().backward()
            return h.detach(), start.grad, [gradients(model) for model in models]

        agree(lambda m: [on_group(n, lambda rank: work(m))[0] for n in (1, 2)], rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("lead", [(), (0,), (2, 3), (1, 1)], ids=str)
    def test_leading_dimensions(self, agree, draw, lead):
        """Any x will do: it has any number of leading dimensions, and may be empty."""
        weights, x, w = mlp_weights(draw, 5, 6), draw.normal(*lead, 5, dtype=F64), draw.normal(*lead, 5, dtype=F64)
        agree(mlp_probe(weights, x, w, (1, 2)), rtol=1e-9, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """One feature, one hidden feature a rank, one sample."""
        cases = [
            (mlp_weights(draw, D, 2 * H), draw.normal(n, D, dtype=F64), draw.normal(n, D, dtype=F64)) for n, D, H in with_ones(4, 5, 3)
        ]
        agree(lambda m: [mlp_probe(*case, (1, 2))(m) for case in cases], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Weights, x and the gradient that arrives may lie in memory in any way."""
        weights = [w if w.dim() == 1 else draw.normal(*w.shape, dtype=F64, layout=layout) for w in mlp_weights(draw, 5, 6)]
        given, w = (draw.normal(2, 3, 5, dtype=F64, layout=layout) for _ in range(2))

        def work(m):
            model = m.ColumnRowMLP(*weights)
            x = leaf(given) if layout == "expanded" else given.detach().requires_grad_()
            y = model(x)
            y.backward(w)
            return y.detach(), x.grad, gradients(model)

        agree(lambda m: [on_group(n, lambda rank: work(m))[0] for n in (1, 2)], rtol=1e-9, atol=1e-9)

    def test_state(self, agree, draw):
        """The parameters are copies of this rank's parts, nothing else is kept, and what is loaded counts."""
        weights, others, x = mlp_weights(draw, 5, 6), mlp_weights(draw, 5, 6), draw.normal(3, 5, dtype=F64)

        def work(m):
            whole = [weight.clone() for weight in weights]
            model = m.ColumnRowMLP(*whole)
            for weight in whole:
                weight.zero_()
            before = model(x).detach()
            model.load_state_dict(m.ColumnRowMLP(*others).state_dict())
            return before, model(x).detach(), parameters(model), list(model.buffers())

        agree(lambda m: [on_group(n, lambda rank: work(m))[0] for n in (1, 3)], rtol=1e-9, atol=1e-9)

    def test_training(self, agree, draw):
        """After three steps each rank has its part of the network that one process trains; x needs no gradient."""
        weights, xs = mlp_weights(draw, 5, 6), draw.normal(3, 4, 5, dtype=F64)

        def work(m):
            model = m.ColumnRowMLP(*weights)
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
            for x in xs:
                optimizer.zero_grad()
                F.mse_loss(model(x), x).backward()
                optimizer.step()
            return dict(model.state_dict()), model(xs[0]).detach()

        agree(lambda m: [on_group(n, lambda rank: work(m))[0] for n in (1, 2, 3)], rtol=1e-7, atol=1e-7)

    def test_features_must_fit(self, agree, draw):
        """A number of ranks that does not divide the hidden features is a ValueError."""
        weights, others, x = mlp_weights(draw, 5, 6), mlp_weights(draw, 5, 7), draw.normal(3, 5, dtype=F64)

        def work(m):
            return raised(ValueError, lambda: m.ColumnRowMLP(*others)), m.ColumnRowMLP(*weights)(x).detach()

        agree(lambda m: [on_group(n, lambda rank: work(m))[0] for n in (1, 2, 3)], **LOOSE)


# vocab_parallel_cross_entropy


def vocab_pass(m, blocks, targets, w, rank):
    """Losses and this rank's gradient, with a barrier between forward and backward."""
    start = sum(block.shape[1] for block in blocks[:rank])
    logits = leaf(blocks[rank])
    loss = m.vocab_parallel_cross_entropy(logits, targets, start)
    dist.barrier()
    (loss * w).sum().backward()
    return loss.detach(), logits.grad


def vocab_probe(logits, targets, w, splits):
    """A probe of the ways to share out the columns, each a list of widths."""
    cases = [logits.split(widths, 1) for widths in splits]
    return lambda m: [on_group(len(blocks), lambda rank, blocks=blocks: vocab_pass(m, blocks, targets, w, rank))[0] for blocks in cases]


SPLITS = ([11], [6, 5], [4, 1, 6])


@task("vocab_parallel_cross_entropy")
class TestVocabParallelCrossEntropy:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_losses_and_gradients(self, agree, draw, dtype):
        """All ranks get the losses over the whole vocabulary, and each the gradient of its columns."""
        logits, targets, w = draw.normal(7, 11, dtype=dtype) * 3, draw.integers(0, 11, 7), draw.normal(7, dtype=dtype)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        agree(vocab_probe(logits, targets, w, SPLITS), rtol=tolerance, atol=tolerance)

    def test_every_target(self, agree, draw):
        """A target may be any class, also the first and the last one of a block."""
        logits, targets, w = draw.normal(11, 11, dtype=F64), draw.permutation(11), draw.normal(11, dtype=F64)
        agree(vocab_probe(logits, targets, w, [*SPLITS, [3, 3, 2, 2, 1]]), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_extreme_logits(self, agree, draw, dtype):
        """Logits of ±1e5 neither overflow nor vanish, wherever a row's largest one is, or all are low."""
        logits, targets, w = draw.uniform(9, 11, low=-1e5, high=1e5, dtype=dtype), draw.integers(0, 11, 9), draw.normal(9, dtype=dtype)
        logits[:3] = draw.normal(3, 11, dtype=dtype) - 1e5
        logits[3:5] = draw.normal(2, 11, dtype=dtype) + 1e5
        agree(vocab_probe(logits, targets, w, SPLITS), rtol=1e-3, atol=2e-2 if dtype == torch.float32 else 1e-6)

    def test_impossible_classes(self, agree, draw):
        """Logits of −inf have no weight and the gradient 0, even if they are all that a rank has."""
        logits, targets, w = draw.normal(7, 11, dtype=F64), draw.integers(0, 4, 7), draw.normal(7, dtype=F64)
        logits[draw.bools(7, 11, p=0.3)] = -torch.inf
        logits[2:4, 4:] = -torch.inf
        logits[torch.arange(7), targets] = draw.normal(7, dtype=F64)
        agree(vocab_probe(logits, targets, w, SPLITS), rtol=1e-9, atol=1e-9)

    def test_logits_stay_where_they_are(self, agree, draw):
        """No rank gives a collective more than 2N numbers, and the backward pass needs none."""
        logits, targets, w = draw.normal(7, 60, dtype=F64), draw.integers(0, 60, 7), draw.normal(7, dtype=F64)

        def probe(m):
            found = []
            for widths in ([60], [20, 40], [30, 20, 10]):
                blocks = logits.split(widths, 1)
                results, transcript = on_group(len(widths), lambda rank, blocks=blocks: vocab_pass(m, blocks, targets, w, rank))
                behind = [spoken[spoken.index("barrier") + 1 :] for spoken in kinds(transcript)]
                found.append((results, behind, "small" if largest(transcript) <= 14 else "large"))
            return found

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_sizes(self, agree, draw):
        """One row, none at all, a single class in each block, and a single class altogether."""
        cases = [(n, C, widths) for n in (0, 1, 5) for C, widths in ((3, [1, 1, 1]), (5, [4, 1]), (1, [1]))]
        drawn = [(draw.normal(n, C, dtype=F64), draw.integers(0, C, n), draw.normal(n, dtype=F64), [widths]) for n, C, widths in cases]
        agree(lambda m: [vocab_probe(*case)(m) for case in drawn], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Logits, targets and the gradient that arrives may lie in memory in any way."""
        blocks = [draw.normal(5, n, dtype=F64, layout=layout) for n in (4, 3)]
        targets, w = draw.integers(0, 4, 5, 2, layout=layout)[:, 0], draw.normal(5, 2, dtype=F64, layout=layout)[:, 1]

        def work(m, rank, n):
            logits = leaf(blocks[rank]) if layout == "expanded" else blocks[rank].detach().requires_grad_()
            loss = m.vocab_parallel_cross_entropy(logits, targets, 4 * rank)
            loss.backward(w)
            return loss.detach(), logits.grad

        agree(lambda m: [on_group(n, lambda rank, n=n: work(m, rank, n))[0] for n in (1, 2)], rtol=1e-9, atol=1e-9)


# pipeline_schedule


def follow(comm, plan, weights, batches):
    """Run a stage as its plan says: multiply by a weight, send on, and come back with gradients."""
    last, held, grad = comm.rank == comm.size - 1, {}, torch.zeros(())
    for action in plan:
        if not action:
            continue
        i = int(action[1:])
        if action[0] == "F":
            held[i] = batches[i] if comm.rank == 0 else comm.recv(comm.rank - 1)
            if not last:
                comm.send(held[i] * weights[comm.rank], comm.rank + 1)
        else:
            up = torch.ones(()) if last else comm.recv(comm.rank + 1)
            grad = grad + up * held.pop(i)
            if comm.rank:
                comm.send(up * weights[comm.rank], comm.rank - 1)
    return grad


@task("pipeline_schedule")
class TestPipelineSchedule:
    @pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
    def test_ticks(self, agree, draw, kind):
        """Every stage does the right pass in every tick, for more micro-batches than stages and for fewer."""
        sizes = [(draw.integer(2, 9), draw.integer(2, 40)) for _ in range(6)] + [(draw.integer(6, 12), draw.integer(2, 5))]
        agree(lambda m: [m.pipeline_schedule(S, M, kind) for S, M in sizes], rtol=0, atol=0)

    @pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
    def test_all_small_sizes(self, agree, draw, kind):
        """All pipelines of up to four stages and five micro-batches; two-digit numbers come behind one-digit ones."""
        S, M = draw.integer(2, 20), draw.integer(11, 60)

        def probe(m):
            return [m.pipeline_schedule(s, n, kind) for s in range(1, 5) for n in range(1, 6)], m.pipeline_schedule(S, M, kind)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
    def test_one_stage_or_one_batch(self, agree, draw, kind):
        """With one stage nothing idles; with one micro-batch only one stage works at a time."""
        many = [draw.integer(5, 90) for _ in range(2)]
        agree(lambda m: [m.pipeline_schedule(1, many[0], kind), m.pipeline_schedule(many[1], 1, kind)], rtol=0, atol=0)

    @pytest.mark.parametrize("kind", ["gpipe", "1f1b"])
    def test_stages_can_follow_it(self, agree, draw, kind):
        """Stages that send and receive as the plan says find all gradients, without waiting for each other for ever."""
        weights, batches = draw.normal(4), draw.normal(7)

        def probe(m):
            plans = m.pipeline_schedule(4, 7, kind)
            return on_ranks(4, lambda comm: follow(comm, plans[comm.rank], weights, batches)), plans

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_lists_are_its_own(self, agree, draw):
        """Who changes the answer, or one stage's list, changes nothing else."""
        S, M = draw.integer(3, 20), draw.integer(3, 40)

        def probe(m):
            first = m.pipeline_schedule(S, M, "gpipe")
            first[0].append("F0")
            first[1].clear()
            return first, m.pipeline_schedule(S, M, "gpipe")

        agree(probe, rtol=0, atol=0)

    def test_wrong_arguments(self, agree, draw):
        """Another kind, no stages and no micro-batches are ValueErrors."""
        S, M = draw.integer(3, 20), draw.integer(3, 40)

        def probe(m):
            wrong = [(S, M, "interleaved"), (S, M, ""), (0, M, "gpipe"), (S, 0, "gpipe"), (-1, M, "1f1b"), (S, -2, "1f1b")]
            return [raised(ValueError, lambda a=a: m.pipeline_schedule(*a)) for a in wrong], m.pipeline_schedule(S, M, "1f1b")

        agree(probe, rtol=0, atol=0)


# federated_average


def states(draw, count, dtype=torch.float32):
    """A global state with a counter, and clients' states around it."""

    def state(offset):
        return {
            "weight": draw.normal(4, 5, dtype=dtype) + offset,
            "norm.num_batches_tracked": draw.integers(0, 10**6),
            "bias": draw.normal(5, dtype=dtype),
            "scale": draw.normal(dtype=dtype),
            "mask": draw.bools(4),
        }

    return state(0), [state(i + 1) for i in range(count)]


@task("federated_average")
class TestFederatedAverage:
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float32, 1e-6), (F64, 1e-12), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)], ids=str
    )
    def test_weights_by_samples(self, agree, draw, dtype, tolerance):
        """Clients count in proportion to their samples; whole numbers come from the largest client; dtypes stay."""
        start, clients = states(draw, 4, dtype)
        samples = [draw.integer(1, 99) for _ in range(4)]
        agree(lambda m: m.federated_average(start, clients, samples), rtol=tolerance, atol=tolerance)

    def test_dropped_clients(self, agree, draw):
        """Clients that dropped out, or have no samples, count for nothing, whatever they hold."""
        start, clients = states(draw, 5)
        samples = [draw.integer(1, 99) for _ in range(5)]
        samples[1], samples[2] = 0, 10**6
        clients[1] = {name: draw.poisoned(x, torch.tensor(True)) if x.is_floating_point() else x for name, x in clients[1].items()}
        clients[2] = None
        other = [{"other": torch.ones(2)}, *clients[2:]]
        agree(
            lambda m: [m.federated_average(start, clients, samples), m.federated_average(start, other, [0, *samples[2:]])],
            rtol=1e-5,
            atol=1e-6,
        )

    def test_nobody_is_left(self, agree, draw):
        """Without a client that counts, the global state stays, without noise, and it is a copy."""
        start, clients = states(draw, 2)
        cases = [([], []), ([None, None], [3, 4]), (clients, [0, 0])]

        def probe(m):
            found = [m.federated_average(start, *case, noise_std=noise, max_norm=1.0) for case in cases for noise in (0.0, 1.0)]
            for new in found:
                new["weight"] += 1
            return found, start["weight"].clone()

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_whole_numbers(self, agree, draw):
        """Of several largest clients the first one counts, also behind one that dropped out."""
        start, clients = states(draw, 4)
        many = draw.integer(50, 99)

        def probe(m):
            first = m.federated_average(start, clients, [3, many, 7, many])
            return first, m.federated_average(start, [clients[0], None, *clients[2:]], [3, many, 7, 7])

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_one_client(self, agree, draw):
        """The only client's state is the new one, but for the noise."""
        start, clients = states(draw, 1, F64)
        n = draw.integer(1, 99)
        agree(lambda m: m.federated_average(start, clients, [n]), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("max_norm", [0.0, 0.5, 4.0, 1e6])
    def test_clipping(self, agree, draw, max_norm):
        """An update longer than max_norm, all entries together, is shortened to it; a shorter one stays as it is."""
        start, clients = states(draw, 3, F64)
        near = {name: x + 0.01 * draw.normal(*x.shape, dtype=F64) if x.is_floating_point() else x for name, x in start.items()}
        clients = [*clients, near, {name: x.clone() for name, x in start.items()}]
        samples = [draw.integer(1, 99) for _ in clients]
        agree(lambda m: m.federated_average(start, clients, samples, max_norm=max_norm), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("clipped", [None, 1.0])
    def test_noise(self, agree, draw, clipped):
        """The stated noise comes from the generator, once for each floating-point entry, in the order of the global state."""
        start, clients = states(draw, 3)
        turned = [dict(reversed(client.items())) for client in clients]
        samples, seed, std = [draw.integer(1, 99) for _ in range(3)], draw.seed(), draw.uniform(1, low=0.1, high=1).item()

        def probe(m):
            generator = torch.Generator().manual_seed(seed)
            new = m.federated_average(start, turned, samples, max_norm=clipped, noise_std=std, generator=generator)
            silent = m.federated_average(start, turned, samples, max_norm=clipped, generator=generator)
            return new, silent, torch.rand(2, generator=generator), list(new)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_noise_of_the_default_generator(self, agree, draw):
        """Without a generator, noise comes from torch's default one."""
        start, clients = states(draw, 2)
        samples, seed = [draw.integer(1, 99) for _ in range(2)], draw.seed()

        def probe(m):
            torch.manual_seed(seed)
            return m.federated_average(start, clients, samples, noise_std=0.25)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_precision(self, agree, draw):
        """Sums in float64: small changes of large float32 weights, of many clients, are not lost on the way."""
        start = {"weight": draw.normal(40) + 1e4}
        clients = [{"weight": start["weight"] + draw.normal(40) * 1e-2} for _ in range(60)]
        samples = [draw.integer(1, 10**6) for _ in range(60)]
        agree(lambda m: m.federated_average(start, clients, samples)["weight"].double() - 1e4, rtol=0, atol=1.1e-3)

    def test_half_precision_sums(self, agree, draw):
        """In float16, sums that only float64 or float32 can hold are rounded once, at the end."""
        start = {"weight": draw.normal(60).half()}
        clients = [{"weight": (draw.uniform(60, low=1000, high=2000)).half()} for _ in range(50)]
        samples = [draw.integer(1000, 10**5) for _ in range(50)]
        agree(lambda m: m.federated_average(start, clients, samples), rtol=1e-3, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Entries may lie in memory in any way, have no entries or sizes of 1."""
        shapes = {"a": (3, 5), "b": (4, 1), "c": (2, 0, 3)}
        start, *clients = ({name: draw.normal(*shape, layout=layout) for name, shape in shapes.items()} for _ in range(3))
        agree(lambda m: m.federated_average(start, clients, [2, 5], max_norm=1.5), rtol=1e-5, atol=1e-5)

    def test_new_tensors(self, agree, draw):
        """The new state shares no memory with the global state or a client, counters included."""
        start, clients = states(draw, 2, F64)

        def probe(m):
            mine, theirs = ({name: x.clone() for name, x in state.items()} for state in (start, clients[0]))
            new = m.federated_average(mine, [theirs, None], [5, 7])
            before = {name: x.clone() for name, x in new.items()}
            for x in new.values():
                x.logical_not_()
            return before, mine, theirs

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_wrong_arguments(self, agree, draw):
        """Numbers that don't fit, negative ones, and other names are ValueErrors."""
        start, clients = states(draw, 2)
        more = {**clients[1], "more": torch.ones(2)}
        less = {name: x for name, x in clients[1].items() if name != "bias"}

        def probe(m):
            wrong = [
                (clients, [1]),
                (clients[:1], [1, 2]),
                (clients, [3, -1]),
                ([clients[0], None], [3, -1]),
                ([clients[0], more], [1, 2]),
                ([clients[0], less], [1, 2]),
            ]
            return [raised(ValueError, lambda a=a: m.federated_average(start, *a)) for a in wrong], m.federated_average(
                start, clients, [1, 3]
            )

        agree(probe, **LOOSE)


# shard_model and fsdp_wrap


class Block(nn.Module):
    """A norm, two linear layers, and a sum."""

    def __init__(self, D, H):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, H), nn.Linear(H, D)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Model(nn.Module):
    """An embedding, blocks, and a head."""

    def __init__(self, D, H, blocks, C):
        super().__init__()
        self.embed = nn.Linear(3, D)
        self.blocks = nn.ModuleList([Block(D, H) for _ in range(blocks)])
        self.head = nn.Linear(D, C)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def model_state(draw, D, H, blocks, C):
    """Weights for `Model`, in float64."""
    return {name: draw.normal(*p.shape, dtype=F64) / math.sqrt(p.shape[-1]) for name, p in Model(D, H, blocks, C).state_dict().items()}


def a_model(state, *sizes):
    """The model with these weights."""
    model = Model(*sizes).double()
    model.load_state_dict(state)
    return model


def mesh_of(n):
    """A mesh of one dimension."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (n,))


def half_of(n):
    """A mesh with every second rank."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (n // 2, 2), mesh_dim_names=("shard", "copy"))["shard"]


def whole(x):
    """A plain tensor with all entries."""
    from torch.distributed._functional_collectives import wait_tensor
    from torch.distributed.tensor import DTensor

    if x is None:
        return None
    return (x.full_tensor() if isinstance(x, DTensor) else wait_tensor(x)).detach().clone()


def placed(model):
    """For each parameter its placements, or "plain", and this rank's part of it."""
    from torch.distributed.tensor import DTensor

    found = {}
    for name, p in model.named_parameters():
        sharded = isinstance(p, DTensor)
        found[name] = [str(p.placements) if sharded else "plain", (p.to_local() if sharded else p).detach().clone()]
    return found


@task("shard_model")
class TestShardModel:
    @pytest.mark.parametrize("blocks", [0, 2])
    def test_placements(self, agree, draw, blocks):
        """Each rank has its part of the layers of every block and of the head, and nothing else is sharded."""
        sizes = (4, 6, blocks, 9)
        state = model_state(draw, *sizes)
        agree(
            lambda m: [on_group(n, lambda rank, n=n: placed(m.shard_model(a_model(state, *sizes), mesh_of(n))))[0] for n in (1, 2)], **LOOSE
        )

    def test_outputs_and_gradients(self, agree, draw):
        """The outputs are whole, plain and those of one process, and so are the gradients of the model that was given."""
        sizes = (4, 6, 2, 8)
        state, x, w = model_state(draw, *sizes), draw.normal(5, 3, dtype=F64), draw.normal(5, 8, dtype=F64)

        def work(m):
            from torch.distributed.tensor import DTensor

            model = a_model(state, *sizes)
            y = m.shard_model(model, mesh_of(2))(x)
            (y * w).sum().backward()
            return "a DTensor" if isinstance(y, DTensor) else whole(y), {name: whole(p.grad) for name, p in model.named_parameters()}

        agree(lambda m: on_group(2, lambda rank: work(m))[0], rtol=1e-8, atol=1e-8)

    def test_messages(self, agree, draw):
        """A block's forward pass needs one all_reduce, and the head's one all_gather."""
        sizes = (4, 6, 2, 8)
        state, x = model_state(draw, *sizes), draw.normal(5, 3, dtype=F64)

        def work(m):
            model = m.shard_model(a_model(state, *sizes), mesh_of(2))
            dist.barrier()
            with torch.no_grad():
                return whole(model(x))

        def probe(m):
            results, transcript = on_group(2, lambda rank: work(m))
            return results, [spoken[spoken.index("barrier") :] for spoken in kinds(transcript)]

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_parts_alone(self, agree, draw):
        """Each block and the head take and give plain tensors."""
        sizes = (4, 6, 2, 8)
        state, x = model_state(draw, *sizes), draw.normal(5, 4, dtype=F64)

        def work(m):
            from torch.distributed.tensor import DTensor

            model = m.shard_model(a_model(state, *sizes), mesh_of(2))
            outputs = [part(x) for part in (*model.blocks, model.head)]
            return ["a DTensor" if isinstance(y, DTensor) else whole(y) for y in outputs]

        agree(lambda m: on_group(2, lambda rank: work(m))[0], rtol=1e-8, atol=1e-8)


def fsdp_steps(m, state, sizes, xs, rank, n, lr=0.05):
    """Train on parts of batches: what is placed where at first, the optimizer's shards, and all parameters at the end."""
    model = a_model(state, *sizes)
    optimizer = m.fsdp_wrap(model, mesh_of(n), lr)
    start = placed(model)
    for x in xs:
        dist.barrier()
        optimizer.zero_grad()
        model(x[rank::n]).square().mean().backward()
        optimizer.step()
    parts = [part for p in model.parameters() for part in (optimizer.state.get(p, {}).get("exp_avg"), p)]
    moments = [part if part is None else part.to_local().clone() if hasattr(part, "to_local") else part.clone() for part in parts[::2]]
    return start, moments, [whole(p) for p in parts[1::2]]


@task("fsdp_wrap")
class TestFsdpWrap:
    def test_training_equals_one_process(self, agree, draw):
        """After three steps of AdamW the parameters are those of one process with the whole batches; each rank held its shards only."""
        sizes = (4, 5, 2, 7)
        state, xs = model_state(draw, *sizes), draw.normal(3, 6, 3, dtype=F64)
        lr = draw.uniform(1, low=0.01, high=0.1).item()
        agree(lambda m: on_group(2, lambda rank: fsdp_steps(m, state, sizes, xs, rank, 2, lr))[0], rtol=1e-7, atol=1e-7)

    def test_units(self, agree, draw):
        """Each block is gathered for itself, forward and backward, and the rest as one unit."""
        sizes = (4, 5, 2, 7)
        state, x = model_state(draw, *sizes), draw.normal(6, 3, dtype=F64)

        def work(m, rank):
            model = a_model(state, *sizes)
            m.fsdp_wrap(model, mesh_of(2), 0.1)
            model(x[rank::2]).square().mean().backward()
            return [whole(p.grad) for p in model.parameters()]

        def probe(m):
            results, transcript = on_group(2, lambda rank: work(m, rank))
            return results, said(transcript)

        agree(probe, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("n", [1, 4])
    def test_settings(self, agree, draw, n):
        """The optimizer is AdamW with this rate, 0 too, and its other settings are AdamW's own; the mesh may have some ranks only."""
        sizes = (4, 5, 1, 7)
        state, lr = model_state(draw, *sizes), draw.uniform(1, low=0.01, high=0.1).item()

        def work(m, rate):
            model = a_model(state, *sizes)
            optimizer = m.fsdp_wrap(model, mesh_of(n) if n == 1 else half_of(n), rate)
            groups = optimizer.param_groups
            names = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")
            shapes = [tuple(p.shape) for group in groups for p in group["params"]]
            return type(optimizer).__name__, [{name: group[name] for name in names} for group in groups], shapes, placed(model)

        agree(lambda m: [on_group(n, lambda rank, rate=rate: work(m, rate))[0] for rate in (lr, 0.0)], rtol=1e-9, atol=1e-9)

    def test_evaluation(self, agree, draw):
        """The sharded model gives what the whole one gives, for each rank's own x."""
        sizes = (4, 5, 2, 7)
        state, xs = model_state(draw, *sizes), draw.normal(2, 2, 3, dtype=F64)

        def work(m, rank):
            model = a_model(state, *sizes)
            m.fsdp_wrap(model, mesh_of(2), 0.1)
            with torch.no_grad():
                return model.eval()(xs[rank]).clone()

        agree(lambda m: on_group(2, lambda rank: work(m, rank))[0], rtol=1e-8, atol=1e-8)
