"""Hidden suite of the module train_on_many."""

import json

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from grader.testing import LAYOUTS, measured, on_group, raised, task, with_ones

F64 = torch.float64
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


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


def in_groups(sizes, work):
    """What `work(rank, n)` returns on each rank of groups of these sizes."""
    return [on_group(n, lambda rank, n=n: work(rank, n))[0] for n in sizes]


# train_data_parallel


def network(values, D=3):
    """Two layers with these values for all parameters, one after the other."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, 4)).to(values.dtype)
    start = 0
    for p in model.parameters():
        p.data.copy_(values[start : start + p.numel()].view_as(p))
        start += p.numel()
    return model


def some_batches(draw, *sizes, shape=(3,), dtype=F64, layout="contiguous"):
    """Batches of these sizes, of four classes."""
    return [(draw.normal(n, *shape, dtype=dtype, layout=layout), draw.integers(0, 4, n)) for n in sizes]


def values_of(model):
    """All tensors of the state, without gradient."""
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def trained(m, model, batches, lr=0.5):
    """The losses and the state afterwards."""
    losses = m.train_data_parallel(model, batches, lr)
    return losses, values_of(model)


class Peculiar(nn.Module):
    """Frozen, unused and tied parameters, one without dimensions, buffers of two dtypes, and a forward pass that depends on the mode."""

    def __init__(self, values, rank):
        super().__init__()
        self.table = nn.Parameter(values["table"] + rank)
        self.frozen = nn.Parameter(values["square"] - rank, requires_grad=False)
        self.unused = nn.Parameter(values["vector"] * (1 + rank))
        self.scale = nn.Parameter(values["scale"] + rank)
        self.part = nn.Linear(3, 3, bias=False, dtype=F64)
        self.part.weight = nn.Parameter(values["square"] * (2 + rank))
        self.again = self.part
        self.drop = nn.Dropout(1.0)  # all or nothing, as the mode says
        self.register_buffer("shift", values["vector"] + rank)
        self.register_buffer("count", values["count"] + rank)

    def forward(self, x):
        h = torch.tanh(self.again(self.part(self.table[x]) @ self.frozen) + self.shift)
        return h * self.scale + self.drop(h)


def peculiar_values(draw):
    """Values for `Peculiar`."""
    return {
        "table": draw.normal(6, 3, dtype=F64),
        "square": draw.normal(3, 3, dtype=F64),
        "vector": draw.normal(3, dtype=F64),
        "scale": draw.normal(dtype=F64),
        "count": draw.integers(0, 10**6, 1)[0],
    }


@task("train_data_parallel")
class TestTrainDataParallel:
    @pytest.mark.parametrize("sizes", [(6, 6, 6, 6), (7, 5, 8, 11)], ids=["equal", "uneven"])
    def test_equals_one_process(self, agree, draw, sizes):
        """On 1, 2, 3 and 4 ranks, all ranks have the weights and the losses of one process, with shares of any size."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, *sizes)
        agree(lambda m: in_groups((1, 2, 3, 4), lambda rank, n: trained(m, network(values), batches)), **TIGHT)

    def test_empty_shares(self, agree, draw):
        """With fewer samples than ranks some shares are empty, and add nothing."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, 1, 2, 3, 1)
        agree(lambda m: in_groups((1, 2, 5), lambda rank, n: trained(m, network(values), batches)), **TIGHT)

    def test_float32(self, agree, draw):
        """The weights stay float32."""
        values, batches = draw.normal(44), some_batches(draw, 7, 4, dtype=torch.float32)
        agree(lambda m: in_groups((1, 3), lambda rank, n: trained(m, network(values), batches)), rtol=1e-4, atol=1e-4)

    def test_messages(self, agree, draw):
        """Each step has one all_reduce: this rank's part of each gradient in the order of parameters(), and its part of the loss."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, 7, 2, 6)

        def probe(m):
            found = [on_group(n, lambda rank: trained(m, network(values), batches)) for n in (1, 3)]
            return [results for results, _ in found], [[entry for entry in spoken if entry[0] != "broadcast"] for spoken in found[1][1]]

        agree(probe, **TIGHT)

    def test_starts_from_rank_0(self, agree, draw):
        """Parameters and buffers, frozen, unused and whole-numbered ones too, take rank 0's values before the first step."""
        values, x, y = peculiar_values(draw), draw.integers(0, 6, 7), draw.integers(0, 3, 7)

        def work(m, rank):
            nothing, one = Peculiar(values, rank), Peculiar(values, 2 * rank)
            return trained(m, nothing, []), trained(m, one, [(x, y)] * 3)

        agree(lambda m: in_groups((1, 3), lambda rank, n: work(m, rank)), **TIGHT)

    def test_which_gradients_travel(self, agree, draw):
        """Frozen parameters have no place in the sum, unused ones have zeros there, and tied ones have one place."""
        values, batches = peculiar_values(draw), [(draw.integers(0, 6, 5), draw.integers(0, 3, 5))]

        def probe(m):
            found = [on_group(n, lambda rank: trained(m, Peculiar(values, 0), batches)) for n in (1, 2)]
            return [results for results, _ in found], [[entry for entry in spoken if entry[0] != "broadcast"] for spoken in found[1][1]]

        agree(probe, **TIGHT)

    @pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
    def test_mode(self, agree, draw, training):
        """The model is trained in the mode that it is in, and stays in it, part by part."""
        values, batches = peculiar_values(draw), [(draw.integers(0, 6, 5), draw.integers(0, 3, 5))] * 2

        def work(m, rank):
            model = Peculiar(values, 0)
            model.drop.train(training)
            return trained(m, model, batches), model(batches[0][0]).detach()

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_old_gradients_do_not_count(self, agree, draw):
        """What is in .grad at first has no effect."""
        values, old, batches = draw.normal(44, dtype=F64), draw.normal(44, dtype=F64), some_batches(draw, 5, 4)

        def work(m, rank):
            model = network(values)
            for p, other in zip(model.parameters(), network(old).parameters(), strict=True):
                p.grad = other.detach().clone()
            return trained(m, model, batches)

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_batches_are_read_once(self, agree, draw):
        """Batches may come from a generator, and there may be none."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, 5, 4, 3)

        def work(m, rank):
            return trained(m, network(values), (pair for pair in batches)), trained(m, network(values * (1 + rank)), iter([]))

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_two_calls(self, agree, draw):
        """A second call goes on from the weights of the first one, with another rate, 0 too."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, 5, 4, 3)

        def work(m, rank):
            model = network(values)
            return [trained(m, model, batches, lr) for lr in (0.3, 0.0, 1.5)]

        agree(lambda m: in_groups((1, 3), lambda rank, n: work(m, rank)), **TIGHT)

    def test_parameters_stay_the_same_tensors(self, agree, draw):
        """The model is trained in place: who holds its parameters sees the new values."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, 5, 4)

        def work(m, rank):
            model = network(values)
            held = list(model.parameters())
            return m.train_data_parallel(model, batches, 0.5), [p.detach() for p in held]

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_large_logits(self, agree, draw):
        """Logits of many thousands give finite losses."""
        values, batches = draw.normal(44, dtype=F64) * 1e4, some_batches(draw, 5, 4)
        agree(lambda m: in_groups((1, 2), lambda rank, n: trained(m, network(values), batches)), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Batches may lie in memory in any way."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, 5, 4, layout=layout)
        agree(lambda m: in_groups((1, 2), lambda rank, n: trained(m, network(values), batches)), **TIGHT)

    @pytest.mark.parametrize("shape", with_ones(3, 2), ids=str)
    def test_shapes(self, agree, draw, shape):
        """A sample may have more dimensions, and any size may be 1."""
        D = shape[0] * shape[1]
        values, batches = draw.normal(5 * D + 29, dtype=F64), some_batches(draw, 5, 1, shape=shape)
        agree(lambda m: in_groups((1, 2), lambda rank, n: trained(m, network(values, D), batches)), **TIGHT)


# SlicedAdam


def adam_case(draw, shapes=((4, 3), (7,), (), (2, 1, 5)), steps=3, ranks=5, dtype=F64):
    """Parameters to start from, and for each step and rank a gradient of each."""
    starts = [draw.normal(*shape, dtype=dtype) for shape in shapes]
    return starts, [[[draw.normal(*shape, dtype=dtype) for shape in shapes] for _ in range(ranks)] for _ in range(steps)]


def optimised(m, starts, grads, rank, rates=(), **options):
    """Parameters after each step, and the state at the end."""
    params, found = [leaf(start) for start in starts], []
    optimizer = m.SlicedAdam(params, **options)
    first = optimizer.m.clone(), optimizer.v.clone(), optimizer.t
    for step, of_ranks in enumerate(grads):
        if step < len(rates):
            optimizer.lr = rates[step]
        for p, grad in zip(params, of_ranks[rank], strict=True):
            p.grad = grad
        optimizer.step()
        found.append([p.detach().clone() for p in params])
    return found, first, optimizer.m.clone(), optimizer.v.clone(), optimizer.t


def adam_probe(starts, grads, sizes=(1, 2, 3), **options):
    """A probe of these numbers of ranks. All of them share out the gradients of five."""

    def shared(n, rank):
        mine = range(rank, len(grads[0]), n) if grads else ()
        return [[[sum(of_ranks[r][i] for r in mine) for i in range(len(starts))] for _ in range(n)] for of_ranks in grads]

    return lambda m: in_groups(sizes, lambda rank, n: optimised(m, starts, shared(n, rank), rank, **options))


@task("SlicedAdam")
class TestSlicedAdam:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_equals_adam(self, agree, draw, dtype):
        """After each step all ranks have Adam's parameters for the sum of all gradients, and each rank has its slices of the moments."""
        starts, grads = adam_case(draw, dtype=dtype)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        agree(adam_probe(starts, grads, lr=0.1, betas=(0.8, 0.95)), rtol=tolerance, atol=tolerance)

    def test_defaults(self, agree, draw):
        """The defaults are lr 1e-3, betas (0.9, 0.999), eps 1e-8."""
        starts, grads = adam_case(draw)
        grads[0] = [[x * 1e-8 for x in of_rank] for of_rank in grads[0]]
        agree(adam_probe(starts, grads, (1, 2)), rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize(
        "options",
        [{"lr": 0.0}, {"betas": (0.0, 0.9)}, {"betas": (0.9, 0.0)}, {"eps": 0.0}, {"eps": 0.5}],
        ids=["lr", "beta1", "beta2", "eps", "large eps"],
    )
    def test_settings(self, agree, draw, options):
        """Each setting may be 0; eps is added to the root of the corrected moment."""
        starts, grads = adam_case(draw)
        agree(adam_probe(starts, grads, (2,), **{"lr": 0.1, **options}), **TIGHT)

    def test_many_steps(self, agree, draw):
        """The correction of the moments follows the number of steps."""
        starts, grads = adam_case(draw, shapes=((5,), (2, 3)), steps=25)
        agree(adam_probe(starts, grads, (1, 2), lr=0.1), **TIGHT)

    @pytest.mark.parametrize("shapes", [((3,), (5,)), ((1,),), ((), (2,), (0, 3)), ((6, 2),), ((11,), (1, 1))], ids=str)
    def test_slices(self, agree, draw, shapes):
        """Slices have ⌈N/n⌉ entries and may cut through a parameter; at the end are zeros, and there may be nothing else."""
        starts, grads = adam_case(draw, shapes=shapes, steps=2)
        agree(adam_probe(starts, grads, (1, 2, 3, 4, 5), lr=0.1), **TIGHT)

    def test_messages(self, agree, draw):
        """A step reduces and scatters the whole gradient, and gathers the slices of the parameters, once each, in every step."""
        starts, grads = adam_case(draw, steps=2)

        def probe(m):
            found = [on_group(n, lambda rank: optimised(m, starts, grads, rank, lr=0.1)) for n in (1, 3)]
            given = [
                [[op.split()[0].removesuffix("_single"), torch.cat([t.flatten() for t in ts])] for op, _, ts in spoken]
                for spoken in found[1][1]
            ]
            return [results for results, _ in found], said(found[1][1]), given

        agree(probe, **TIGHT)

    def test_missing_gradients(self, agree, draw):
        """A parameter without gradient has zeros in its place: moments fade, and the parameter still moves."""
        starts, grads = adam_case(draw, steps=4)
        for step, missing in enumerate([(0,), (1, 3), (0, 1, 2, 3), (2,)]):
            for rank in range(3):
                for i in missing if rank != 1 or step else ():
                    grads[step][rank][i] = None
        agree(lambda m: in_groups((1, 2, 3), lambda rank, n: optimised(m, starts, grads, rank, lr=0.1)), **TIGHT)

    def test_gradients_are_left_alone(self, agree, draw):
        """A step leaves each rank's own gradients as they are, None too, and the parameters are the same tensors."""
        starts, grads = adam_case(draw, steps=1)

        def work(m, rank):
            params = [leaf(start) for start in starts]
            optimizer = m.SlicedAdam(params, lr=0.1)
            for p, grad in zip(params[:-1], grads[0][rank][:-1], strict=True):
                p.grad = grad.clone()
            optimizer.step()
            optimizer.step()
            return [p.grad for p in params], [p.detach() for p in params]

        agree(lambda m: in_groups((1, 3), lambda rank, n: work(m, rank)), **TIGHT)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Gradients and parameters may lie in memory in any way."""
        starts = [draw.normal(5, 3, dtype=F64, layout="transposed"), draw.normal(2, 4, dtype=F64, layout="sliced")]
        grads = [[draw.normal(*start.shape, dtype=F64, layout=layout) for start in starts] for _ in range(2)]

        def work(m, rank):
            params = [start.clone(memory_format=torch.preserve_format).requires_grad_() for start in starts]
            optimizer = m.SlicedAdam(params, lr=0.1)
            for p, grad in zip(params, grads[rank], strict=True):
                p.grad = grad
            optimizer.step()
            optimizer.step()
            return [p.detach() for p in params], optimizer.m

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_schedule(self, agree, draw):
        """The attribute lr is read anew in each step."""
        starts, grads = adam_case(draw)
        agree(adam_probe(starts, grads, (1, 2), lr=0.5, rates=(0.1, 0.7, 0.0)), **TIGHT)

    def test_goes_on_from_given_state(self, agree, draw):
        """m, v and t can be set between steps, as after loading a checkpoint that other ranks saved."""
        starts, grads = adam_case(draw, shapes=((4, 2), (3,)))
        m0, v0, t0 = draw.normal(12, dtype=F64), draw.uniform(12, dtype=F64), draw.integer(2, 30)
        m0[-1] = v0[-1] = 0

        def work(m, rank, n):
            params = [leaf(start) for start in starts]
            optimizer = m.SlicedAdam(params, lr=0.1)
            size = len(optimizer.m)
            optimizer.m, optimizer.v = (x[rank * size : (rank + 1) * size].clone() for x in (m0, v0))
            optimizer.t = t0
            for of_ranks in grads:
                for p, grad in zip(params, of_ranks[rank], strict=True):
                    p.grad = grad
                optimizer.step()
            return [p.detach() for p in params], optimizer.m, optimizer.v, optimizer.t

        agree(lambda m: in_groups((2, 3, 4), lambda rank, n: work(m, rank, n)), **TIGHT)

    @measured("attributes")
    def test_keeps_no_other_tensors(self, agree, draw):
        """Between steps there are the parameters and two slices: no whole vector of parameters or moments."""
        starts, grads = adam_case(draw)

        def held(x):
            if isinstance(x, torch.Tensor):
                return x.numel()
            inside = x.values() if isinstance(x, dict) else x if isinstance(x, list | tuple) else ()
            return sum(held(y) for y in inside)

        def work(m, rank):
            params = [leaf(start) for start in starts]
            optimizer = m.SlicedAdam(params, lr=0.1)
            for of_ranks in grads:
                for p, grad in zip(params, of_ranks[rank], strict=True):
                    p.grad = grad
                optimizer.step()
            entries = sum(p.numel() for p in params)
            kept = held(vars(optimizer)) - entries
            return "too many tensors are kept" if kept > 2 * len(optimizer.m) else [p.detach() for p in params]

        agree(lambda m: in_groups((2, 3), lambda rank, n: work(m, rank)), **TIGHT)

    def test_magnitudes(self, agree, draw):
        """Tiny and huge gradients move their own entries by about lr."""
        starts = [draw.normal(13, dtype=F64)]
        grads = [[[draw.magnitudes(13, low=1e-5, high=1e30, dtype=F64)] for _ in range(2)] for _ in range(2)]
        agree(lambda m: in_groups((1, 2), lambda rank, n: optimised(m, starts, grads, rank, lr=0.1)), rtol=1e-9, atol=1e-12)

    def test_trains_a_model(self, agree, draw):
        """With parts of a batch, all ranks' models do what one model does; parameters may come from a generator."""
        values, batches = draw.normal(44, dtype=F64), some_batches(draw, 7, 5, 3)

        def work(m, rank, n):
            model = network(values)
            optimizer = m.SlicedAdam(model.parameters(), lr=0.1)
            for x, y in batches:
                model.zero_grad()
                (F.cross_entropy(model(x[rank::n]), y[rank::n], reduction="sum") / len(x)).backward()
                optimizer.step()
            return values_of(model)

        agree(lambda m: in_groups((1, 2, 3), lambda rank, n: work(m, rank, n)), rtol=1e-8, atol=1e-8)

    def test_two_optimizers(self, agree, draw):
        """Each optimizer has a state of its own."""
        starts, grads = adam_case(draw, shapes=((5,), (2,)))

        def work(m, rank):
            both = [[leaf(start) for start in starts] for _ in range(2)]
            optimizers = [m.SlicedAdam(params, lr=0.1) for params in both]
            for turn, of_ranks in zip((0, 1, 0), grads, strict=True):
                for p, grad in zip(both[turn], of_ranks[rank], strict=True):
                    p.grad = grad
                optimizers[turn].step()
            return [[p.detach() for p in params] for params in both], [o.m for o in optimizers], [o.t for o in optimizers]

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)


# HeadParallelAttention


def attention_case(draw, D=12, shape=(2, 5), dtype=F64, layout="contiguous"):
    """The three weights, an input, and a weight for each entry of the output."""
    weights = draw.normal(3 * D, D, dtype=dtype, layout=layout), draw.normal(D, D, dtype=dtype, layout=layout), draw.normal(D, dtype=dtype)
    return weights, draw.normal(*shape, D, dtype=dtype), draw.normal(*shape, D, dtype=dtype)


def attended(m, weights, x, w, heads):
    """The parts, the output and all gradients."""
    layer, own = m.HeadParallelAttention(*weights, heads), leaf(x)
    y = layer(own)
    (y * w).sum().backward()
    parts = {name: (p.detach().clone(), p.grad) for name, p in layer.named_parameters()}
    return parts, sorted(layer.state_dict()), y.detach(), own.grad


@task("HeadParallelAttention")
class TestHeadParallelAttention:
    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_forward_and_backward(self, agree, draw, dtype):
        """Parts, output and gradients are those of one process, for 1, 2, 3 and 6 ranks."""
        weights, x, w = attention_case(draw, dtype=dtype)
        tolerance = 1e-3 if dtype == torch.float32 else 1e-9
        agree(lambda m: in_groups((1, 2, 3, 6), lambda rank, n: attended(m, weights, x, w, 6)), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("heads", "n"), [(1, 1), (2, 2), (4, 2), (12, 4), (12, 3)])
    def test_heads_and_ranks(self, agree, draw, heads, n):
        """Any number of heads that the ranks can share is fine, down to one feature a head."""
        weights, x, w = attention_case(draw)
        agree(lambda m: in_groups((1, n), lambda rank, n: attended(m, weights, x, w, heads)), **TIGHT)

    @pytest.mark.parametrize("shape", with_ones(2, 5), ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """One sample and one position are fine."""
        weights, x, w = attention_case(draw, D=4, shape=shape)
        agree(lambda m: in_groups((1, 2), lambda rank, n: attended(m, weights, x, w, 2)), **TIGHT)

    def test_messages(self, agree, draw):
        """One all_reduce in the forward pass, of the rank's part without bias, and one in the backward pass."""
        weights, x, w = attention_case(draw)

        def work(m, rank):
            layer, own = m.HeadParallelAttention(*weights, 6), leaf(x)
            y = layer(own)
            dist.barrier()
            (y * w).sum().backward()
            return y.detach(), own.grad

        def probe(m):
            found = [on_group(n, lambda rank: work(m, rank)) for n in (1, 3)]
            return [results for results, _ in found], found[1][1]

        agree(probe, **TIGHT)

    def test_input_without_gradient(self, agree, draw):
        """If x needs no gradient, the backward pass has no collective; without gradients at all the output is the same."""
        weights, x, w = attention_case(draw)

        def work(m, rank):
            layer = m.HeadParallelAttention(*weights, 6)
            y = layer(x)
            (y * w).sum().backward()
            with torch.no_grad():
                again = layer(x)
            return y.detach(), again, [p.grad for p in layer.parameters()]

        def probe(m):
            found = [on_group(n, lambda rank: work(m, rank)) for n in (1, 2)]
            return [results for results, _ in found], said(found[1][1])

        agree(probe, **TIGHT)

    def test_heads_that_do_not_fit(self, agree, draw):
        """A number of heads that the ranks can't share is a ValueError."""
        weights, x, w = attention_case(draw)

        def work(m, n):
            bad = [raised(ValueError, lambda h=h: m.HeadParallelAttention(*weights, h)) for h in (1, 2, 3, 4, 6) if h % n]
            return bad, attended(m, weights, x, w, 12)

        agree(lambda m: in_groups((2, 3, 4), lambda rank, n: work(m, n)), **TIGHT)

    def test_training_equals_one_process(self, agree, draw):
        """After three steps of SGD, the ranks' parts are those of the weights that one process trains."""
        weights, x, target = attention_case(draw)

        def work(m, rank):
            layer = m.HeadParallelAttention(*weights, 6)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
            for step in range(3):
                optimizer.zero_grad()
                F.mse_loss(layer(x + step), target).backward()
                optimizer.step()
            return values_of(layer), layer(x).detach()

        agree(lambda m: in_groups((1, 2, 3), lambda rank, n: work(m, rank)), rtol=1e-8, atol=1e-8)

    def test_two_layers_and_two_passes(self, agree, draw):
        """Layers can be stacked, and used twice before the backward pass; gradients of a sum add up."""
        weights, x, w = attention_case(draw)
        others, z, _ = attention_case(draw, shape=(3, 4))

        def work(m, rank):
            first, second = m.HeadParallelAttention(*weights, 6), m.HeadParallelAttention(*others, 12)
            a, b = leaf(x), leaf(z)
            one, two = second(torch.tanh(first(a))), second(torch.tanh(first(b)))
            ((one * w).sum() + two.square().mean()).backward()
            return one.detach(), two.detach(), a.grad, b.grad, [p.grad for layer in (first, second) for p in layer.parameters()]

        agree(lambda m: in_groups((1, 2, 3), lambda rank, n: work(m, rank)), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Weights, x and the gradient of the output may lie in memory in any way."""
        weights, _, _ = attention_case(draw, D=6, layout=layout)
        x, w = draw.normal(2, 3, 6, dtype=F64, layout=layout), draw.normal(6, 3, 2, dtype=F64, layout=layout)

        def work(m, rank):
            layer, own = m.HeadParallelAttention(*weights, 2), x.detach().requires_grad_()
            y = layer(own)
            (g,) = torch.autograd.grad((y.transpose(0, 2) * w).sum() + y.sum(), own)
            return y.detach(), g

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_parts_are_copies(self, agree, draw):
        """Training the layer changes no argument, and changing an argument afterwards does not change the layer."""
        weights, x, _ = attention_case(draw)

        def work(m, rank):
            given = [weight.clone() for weight in weights]
            layer = m.HeadParallelAttention(*given, 6)
            for weight in given:
                weight.add_(1)
            y = layer(x).detach()
            with torch.no_grad():
                for p in layer.parameters():
                    p.mul_(3)
            return y, given

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_weights_that_are_parameters(self, agree, draw):
        """Whole weights may be a model's parameters: they get no gradient from here."""
        weights, x, w = attention_case(draw)

        def work(m, rank):
            given = [leaf(weight) for weight in weights]
            return attended(m, given, x, w, 6), [weight.grad for weight in given]

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_state_can_be_loaded(self, agree, draw):
        """A rank's state_dict decides what its layer computes."""
        weights, x, _ = attention_case(draw)
        others, _, _ = attention_case(draw)

        def work(m, rank):
            layer = m.HeadParallelAttention(*weights, 6)
            layer.load_state_dict(m.HeadParallelAttention(*others, 6).state_dict())
            return layer(x).detach()

        agree(lambda m: in_groups((1, 2), lambda rank, n: work(m, rank)), **TIGHT)

    def test_large_scores(self, agree, draw):
        """Scores of many thousands give finite outputs."""
        (qkv, out, bias), x, w = attention_case(draw)
        agree(lambda m: in_groups((1, 2), lambda rank, n: attended(m, (qkv * 300, out, bias), x, w, 6)[2:]), rtol=1e-7, atol=1e-7)


# ShardedCheckpoint


class Store:
    """A bucket: files by name, nothing but what the statement uses. One file may fail to be written."""

    def __init__(self, files=(), fails=None):
        self.files, self.fails = dict(files), fails

    def __setitem__(self, name, data):
        if name == self.fails:
            raise OSError(f"{name}: no space left")
        self.files[name] = bytes(data)

    def __getitem__(self, name):
        return self.files[name]

    def __iter__(self):
        return iter(list(self.files))


class NotingStore(Store):
    """A bucket that notes what is read."""

    def __init__(self, files):
        super().__init__(files)
        self.read = []

    def __getitem__(self, name):
        self.read.append(name)
        return super().__getitem__(name)


def opened(files):
    """The contents of each file, by name."""
    return {
        name: json.loads(files[name].decode()) if name.endswith("/index") else dict(sorted(safetensors.torch.load(files[name]).items()))
        for name in sorted(files)
    }


def files_of(step, whole, dims, sizes):
    """What ranks with pieces of these sizes save."""
    n = len(next(iter(sizes.values())))
    cut = {name: whole[name].split(sizes[name], dims[name]) for name in dims}
    files = {}
    for rank in range(n):
        own = {name: cut[name][rank].contiguous() for name in dims}
        own.update({name: x for name, x in whole.items() if name not in dims and rank == 0})
        files[f"{step}/shard-{rank}"] = safetensors.torch.save({name: x.clone() for name, x in own.items()})
    index = {"sharded": {name: {"sizes": sizes[name], "dim": dims[name]} for name in dims}, "ranks": n}
    return {**files, f"{step}/index": json.dumps(index, indent=1).encode()}


def ordered(loaded):
    """A step and a state whose names are in order."""
    step, state = loaded
    return step, dict(sorted(state.items()))


def some_state(draw):
    """Whole tensors, the dimensions of some of them, and sizes for three ranks."""
    whole = {
        "b.weight": draw.normal(9, 4),
        "a.bias": draw.normal(2, 7, 3, dtype=F64),
        "count": draw.integers(0, 10**9, 6),
        "scale": draw.normal(),
        "norm": draw.normal(5).to(torch.bfloat16),
    }
    return whole, {"b.weight": 0, "a.bias": 1, "count": 0}, {"b.weight": [5, 0, 4], "a.bias": [1, 3, 3], "count": [2, 2, 2]}


def saved(m, store, step, whole, dims, sizes):
    """Let the ranks save their pieces. Returns: the transcript."""

    def work(rank):
        own = {name: x.split(sizes[name], dims[name])[rank] if name in dims else x + rank for name, x in whole.items()}
        m.ShardedCheckpoint(store).save(step, own, dims)

    return on_group(len(next(iter(sizes.values()))), work)[1]


def loaded(m, store, n):
    """What n ranks load."""
    return [ordered(x) for x in on_group(n, lambda rank: m.ShardedCheckpoint(store).load())[0]]


@task("ShardedCheckpoint")
class TestShardedCheckpoint:
    def test_files(self, agree, draw):
        """Each rank's shard has its pieces, rank 0's also the replicated tensors; the index has dimensions and sizes."""
        (whole, dims, sizes), step = some_state(draw), draw.integer(0, 10**9)

        def probe(m):
            store = Store()
            saved(m, store, step, whole, dims, sizes)
            return opened(store.files)

        agree(probe, rtol=0, atol=0)

    def test_everything_or_nothing_sharded(self, agree, draw):
        """One rank saves everything; where no tensor is sharded, other ranks' shards are empty, and are written all the same."""
        whole, dims, _ = some_state(draw)

        def probe(m):
            stores = [Store() for _ in range(4)]
            saved(m, stores[0], 0, whole, dims, {name: [whole[name].shape[dim]] for name, dim in dims.items()})
            saved(m, stores[1], 3, whole, {}, {"nothing": [0]})
            saved(m, stores[2], 12, whole, {}, {"nothing": [0, 0, 0]})
            saved(m, stores[3], 7, {"count": whole["count"]}, {"count": 0}, {"count": [1, 5]})
            return [opened(store.files) for store in stores]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
    def test_load_on_other_ranks(self, agree, draw, n):
        """On any number of ranks each gets its piece of tensor_split, whatever the sizes that were saved."""
        (whole, dims, sizes), step = some_state(draw), draw.integer(0, 10**9)
        files = files_of(step, whole, dims, sizes)
        agree(lambda m: loaded(m, Store(files), n), rtol=0, atol=0)

    @pytest.mark.parametrize("size", [0, 1, 2, 5, 11])
    def test_sizes(self, agree, draw, size):
        """A dimension may be shorter than there are ranks, or 0."""
        whole = {"x": draw.normal(3, size), "y": draw.normal(size, 2), "z": draw.integers(0, 10**9, 4)}
        cuts = [[size, 0, 0, 0, 0], [0, 0, size // 2, 0, size - size // 2], [0, 0, 0, 0, size]]
        cases = [files_of(4, whole, {"x": 1, "y": 0}, {"x": cut, "y": cut}) for cut in cuts]
        agree(lambda m: [loaded(m, Store(files), n) for files in cases for n in (1, 3)], rtol=0, atol=0)

    def test_round_trip(self, agree, draw):
        """What is saved on three ranks can be loaded, saved on four, and loaded on two, to the last bit."""
        whole, dims, sizes = some_state(draw)

        def probe(m):
            store = Store()
            saved(m, store, 8, whole, dims, sizes)

            def between(rank):
                step, state = m.ShardedCheckpoint(store).load()
                m.ShardedCheckpoint(store).save(step + 3, state, dims)

            on_group(4, between)
            return loaded(m, store, 2), opened(store.files)

        agree(probe, rtol=0, atol=0)

    def test_training_goes_on(self, agree, draw):
        """A training that is saved on three ranks and goes on with two has the weights of one process."""
        start, grads = draw.normal(13, dtype=F64), draw.normal(4, 13, dtype=F64)

        def steps(state, grads, rank, n):
            for grad in grads.tensor_split(n, 1)[rank].unbind(0):
                state["momentum"] = 0.9 * state["momentum"] + grad
                state["weight"] = state["weight"] - 0.1 * state["momentum"]
                state["t"] = state["t"] + 1
            return state

        def probe(m):
            store = Store()

            def first(rank):
                piece = start.tensor_split(3)[rank]
                state = {"weight": piece, "momentum": torch.zeros_like(piece), "t": torch.tensor(0)}
                m.ShardedCheckpoint(store).save(2, steps(state, grads[:2], rank, 3), {"weight": 0, "momentum": 0})

            def second(rank):
                _, state = m.ShardedCheckpoint(store).load()
                return dict(sorted(steps(state, grads[2:], rank, 2).items()))

            on_group(3, first)
            return on_group(2, second)[0]

        agree(probe, **TIGHT)

    def test_tensors_that_safetensors_refuses(self, agree, draw):
        """Parameters, non-contiguous tensors and tensors that share memory are saved as they are, and stay as they are."""
        x, table = draw.normal(6, 4), draw.normal(5, 3)
        slanted = draw.normal(4, 6)

        def work(m, store, rank):
            tied = nn.Parameter(table.clone())
            state = {
                "piece": x.tensor_split(3, 1)[rank],
                "turned": slanted.T,
                "in": tied,
                "out": tied,
                "row": tied[1],
                "wide": x[:1].expand(4, 4),
            }
            m.ShardedCheckpoint(store).save(1, state, {"piece": 1, "turned": 0, "out": 1})
            return tied.detach()

        def probe(m):
            store = Store()
            tables, _ = on_group(3, lambda rank: work(m, store, rank))
            return opened(store.files), tables

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("fails", [1, 2])
    def test_index_is_written_last(self, agree, draw, fails):
        """If one rank can't write its shard, there is no index, and the checkpoint before is loaded."""
        whole, dims, sizes = some_state(draw)
        old, _, _ = some_state(draw)
        files, step = files_of(20, old, dims, sizes), draw.integer(100, 10**6)

        def probe(m):
            store = Store(files, fails=f"{step}/shard-{fails}")
            ending = raised(OSError, lambda: saved(m, store, step, whole, dims, sizes))
            return ending, f"{step}/index" in store.files, loaded(m, store, 2)

        agree(probe, rtol=0, atol=0)

    def test_entries_do_not_travel(self, agree, draw):
        """Only sizes go through collectives: no rank gives away its entries."""
        whole, sizes = {"x": draw.normal(9, 2000), "y": draw.normal(3000)}, {"x": [2, 4, 3]}

        def probe(m):
            store = Store()
            transcript = saved(m, store, 5, whole, {"x": 0}, sizes)
            given = max(sum(count for _, _, count in spoken) for spoken in said(transcript))
            return opened(store.files) if given < 1500 else "too many numbers go through collectives"

        agree(probe, rtol=0, atol=0)

    def test_load_needs_no_collective(self, agree, draw):
        """Ranks load without a word to each other."""
        files = files_of(draw.integer(0, 99), *some_state(draw))

        def probe(m):
            found = [on_group(n, lambda rank: ordered(m.ShardedCheckpoint(Store(files)).load())) for n in (2, 3)]
            return [results for results, _ in found], [said(transcript) for _, transcript in found]

        agree(probe, rtol=0, atol=0)

    def test_last_finished_one(self, agree, draw):
        """The largest step counts, as a number, and only with an index; other files do not matter, whatever their order."""
        states = [some_state(draw) for _ in range(4)]
        small = draw.integer(5, 9)
        steps = [small, 10 * small + 3, 1000, 0]
        files = {}
        for step, state in zip(steps, states, strict=True):
            files.update(files_of(step, *state))
        del files["1000/index"]
        files = {"notes.txt": b"7/9", **files, "index": b"{}", "2000/shard-0": b"torn", "9999/notes.txt": b"", "README": b"1"}
        without = {name: data for name, data in files.items() if name != f"{steps[1]}/index"}

        def probe(m):
            return [loaded(m, Store(some), n) for some in (files, dict(reversed(files.items())), without) for n in (1, 2)]

        agree(probe, rtol=0, atol=0)

    def test_step_0(self, agree, draw):
        """Step 0 is a checkpoint like any other."""
        files = files_of(0, *some_state(draw))
        agree(lambda m: [loaded(m, Store(files), n) for n in (1, 2)], rtol=0, atol=0)

    def test_files_of_more_ranks(self, agree, draw):
        """Shards that an earlier attempt of the same step left are not part of the checkpoint; a step can be saved again."""
        (whole, dims, sizes), (other, _, _) = some_state(draw), some_state(draw)
        files = {**files_of(6, other, dims, {name: [*some, 0, 0] for name, some in sizes.items()}), **files_of(6, whole, dims, sizes)}

        def probe(m):
            store = Store(files)
            first = loaded(m, store, 2)
            saved(m, store, 6, other, {"b.weight": 0}, {"b.weight": [3, 6]})
            return first, loaded(m, store, 2), opened(store.files)

        agree(probe, rtol=0, atol=0)

    @measured("reads")
    @pytest.mark.parametrize("n", [2, 3, 6])
    def test_reads_only_what_it_needs(self, agree, draw, n):
        """A rank reads shard 0 and those shards that hold entries of its own pieces, each once."""
        whole = {"x": draw.normal(12, 2), "y": draw.normal(3, 6), "z": draw.normal(2)}
        files = files_of(3, whole, {"x": 0, "y": 1}, {"x": [1, 4, 0, 2, 5], "y": [2, 1, 1, 0, 2]})

        def work(m, rank):
            store = NotingStore(files)
            found = ordered(m.ShardedCheckpoint(store).load())
            return found, sorted(name for name in store.read if "shard" in name)

        agree(lambda m: in_groups((n,), lambda rank, n: work(m, rank)), rtol=0, atol=0)

    def test_nothing_finished(self, agree, draw):
        """Without a finished checkpoint, load raises ValueError."""
        files = files_of(draw.integer(0, 99), *some_state(draw))
        unfinished = {name: data for name, data in files.items() if "shard" in name}

        def probe(m):
            bad = [raised(ValueError, lambda some=some: loaded(m, Store(some), 2)) for some in ({}, {"notes.txt": b""}, unfinished)]
            return bad, loaded(m, Store(files), 2)

        agree(probe, rtol=0, atol=0)

    def test_unknown_names(self, agree, draw):
        """A name in dims that is not in the state is a ValueError, and then nothing is written."""
        whole, dims, sizes = some_state(draw)

        def work(m, store, rank):
            return raised(
                ValueError, lambda: m.ShardedCheckpoint(store).save(1, {"x": whole["scale"]}, {"x": 0, "y": 0} if rank < 5 else {})
            )

        def probe(m):
            store = Store()
            endings, _ = on_group(2, lambda rank: work(m, store, rank))
            wrote = sorted(store.files)
            saved(m, store, 2, whole, dims, sizes)
            return endings, wrote, opened(store.files)

        agree(probe, rtol=0, atol=0)

    def test_two_loads(self, agree, draw):
        """What is loaded is new: who changes it changes neither the store nor the next load."""
        files = files_of(draw.integer(0, 99), *some_state(draw))

        def probe(m):
            store = Store(files)

            def work(rank):
                checkpoint = m.ShardedCheckpoint(store)
                _, first = ordered(checkpoint.load())
                copies = {name: x.clone() for name, x in first.items()}
                for x in first.values():
                    x.mul_(2)
                return copies, ordered(checkpoint.load())

            return [on_group(n, work)[0] for n in (1, 2)]

        agree(probe, rtol=0, atol=0)
