"""Hidden suite of the module profiling."""

import os
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import LAYOUTS, raised, task

F64 = torch.float64
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write to the terminal of whoever grades


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


# count_flops


def convolve(x, w, bias=None, *, dim=2, transposed=False, **settings):
    """A convolution of any kind, in any number of dimensions."""
    kind = "conv_transpose" if transposed else "conv"
    return getattr(F, f"{kind}{dim}d")(x, w, bias, **settings)


def conv_case(draw, dim, groups, *, transposed=False):
    """Input and weight of a convolution; all sizes are drawn."""
    a, b = draw.integer(1, 5) * groups, draw.integer(1, 5) * groups
    sizes = [draw.integer(6, 12) for _ in range(dim)]
    kernel = [draw.integer(1, 4) for _ in range(dim)]
    shape = (a, b // groups) if transposed else (b, a // groups)
    return draw.normal(draw.integer(1, 4), a, *sizes), draw.normal(*shape, *kernel)


def heads(draw):
    """Queries and keys of fused attention, with more keys than queries."""
    B, H, T, D = draw.integer(2, 5), draw.integer(2, 5), draw.integer(3, 9), 8 * draw.integer(1, 4)
    return draw.normal(B, H, T, D), draw.normal(B, H, T + draw.integer(2, 9), D)


@task("count_flops")
class TestCountFlops:
    def test_matrix_products(self, agree, draw):
        """A product of matrices takes two operations for each of M · K · N, whatever calls it."""
        cases = [[draw.normal(draw.integer(1, 90), k), draw.normal(k, draw.integer(1, 90))] for k in (1, 7, 61)]
        agree(lambda m: [m.count_flops(lambda a=a, b=b: a @ b) for a, b in cases], rtol=0, atol=0)

    def test_batched_products(self, agree, draw):
        """A batch of products takes as much as all of them."""
        B, M, K, N = (draw.integer(2, 30) for _ in range(4))
        a, b, c = draw.normal(B, M, K), draw.normal(B, K, N), draw.normal(B, M, N)

        def probe(m):
            return [
                m.count_flops(lambda: torch.bmm(a, b)),
                m.count_flops(lambda: torch.baddbmm(c, a, b)),
                m.count_flops(lambda: a @ b[0]),
                m.count_flops(lambda: torch.einsum("bmk,bkn->bnm", a, b)),
            ]

        agree(probe, rtol=0, atol=0)

    def test_the_bias_is_free(self, agree, draw):
        """Adding a bias or another matrix to a product counts nothing; nor does a factor."""
        M, K, N = (draw.integer(2, 70) for _ in range(3))
        a, b, c, bias = draw.normal(M, K), draw.normal(K, N), draw.normal(M, N), draw.normal(N)

        def probe(m):
            return [
                m.count_flops(lambda: torch.addmm(c, a, b)),
                m.count_flops(lambda: F.linear(a, b.T, bias)),
                m.count_flops(lambda: torch.addmm(bias, a, b, beta=0.5, alpha=3)),
                m.count_flops(lambda: a @ b + bias),
            ]

        agree(probe, rtol=0, atol=0)

    def test_each_overload(self, agree, draw):
        """A product that is written to out= counts as well."""
        M, K, N, B = (draw.integer(2, 70) for _ in range(4))
        a, b, c, d = draw.normal(M, K), draw.normal(K, N), draw.normal(B, M, K), draw.normal(B, K, N)

        def probe(m):
            return [
                m.count_flops(lambda: torch.mm(a, b, out=torch.empty(M, N))),
                m.count_flops(lambda: torch.addmm(torch.zeros(N), a, b, out=torch.empty(M, N))),
                m.count_flops(lambda: torch.bmm(c, d, out=torch.empty(B, M, N))),
            ]

        agree(probe, rtol=0, atol=0)

    def test_all_else_is_free(self, agree, draw):
        """Sums, activations, views and softmax count 0; a product among them counts."""
        a = draw.normal(draw.integer(2, 70), draw.integer(2, 70))

        def free():
            return (a.T.relu().softmax(1) * 3 + a.sum()).reshape(-1).sort().values.exp().cumsum(0)

        agree(lambda m: [m.count_flops(free), m.count_flops(lambda: (free(), a @ a.T))], rtol=0, atol=0)

    def test_a_network_forward_and_backward(self, agree, draw):
        """The backward pass of a linear layer takes a product for its input, where that has a gradient, and one for its weight."""
        B, D, H, C = (draw.integer(2, 60) for _ in range(4))
        x, v, w = draw.normal(B, D), draw.normal(H, D), draw.normal(C, H)

        def probe(m):
            def train(x, v, w):
                return F.linear(F.linear(x, v).tanh(), w).square().mean().backward()

            given = [(x, leaf(v), leaf(w)), (leaf(x), leaf(v), leaf(w)), (x, v, leaf(w)), (leaf(x), v, w)]
            return [m.count_flops(lambda some=some: train(*some)) for some in given]

        agree(probe, rtol=0, atol=0)

    def test_equals_torch(self, student, draw):
        """For products and plain convolutions, forward and backward, the number is that of FlopCounterMode."""
        from torch.utils.flop_counter import FlopCounterMode

        x, w = draw.normal(draw.integer(2, 5), 3, 11, 9), draw.normal(draw.integer(2, 9), 3, 3, 2)
        v = draw.normal(5, len(w), 1, 1)

        def work():
            x2, w2, v2 = leaf(x), leaf(w), leaf(v)
            y = F.conv2d(F.conv2d(x2, w2, stride=2, padding=1).relu(), v2).flatten(1)
            (y @ y.T).sum().backward()

        with FlopCounterMode(display=False) as counter:
            work()
        got = student(lambda m: m.count_flops(work))
        assert got == counter.get_total_flops(), f"FlopCounterMode counts {counter.get_total_flops()}, you count {got}."

    @pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_convolutions(self, agree, draw, dim, transposed):
        """Convolutions in one to three dimensions, with groups, stride, padding and dilation."""
        cases = [(conv_case(draw, dim, groups, transposed=transposed), groups) for groups in (1, 2, 3)]
        settings = {"stride": draw.integer(1, 4), "padding": draw.integer(0, 2), "dilation": draw.integer(1, 3)}

        def probe(m):
            return [
                m.count_flops(lambda x=x, w=w, g=g, s=s: convolve(x, w, dim=dim, transposed=transposed, groups=g, **s))
                for (x, w), g in cases
                for s in ({}, settings)
            ]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
    @pytest.mark.parametrize("groups", [1, 3])
    def test_convolutions_backward(self, agree, draw, groups, transposed):
        """Each gradient of a convolution that is wanted takes as much as the forward pass; that of the bias takes nothing."""
        x, w = conv_case(draw, 2, groups, transposed=transposed)
        bias = draw.normal(w.shape[1] * groups if transposed else len(w))

        def probe(m):
            def train(x, w, bias):
                convolve(x, w, bias, transposed=transposed, stride=2, padding=1, dilation=1, groups=groups).sum().backward()

            given = [(x, leaf(w), bias), (leaf(x), w, bias), (leaf(x), leaf(w), leaf(bias)), (x, w, leaf(bias))]
            return [m.count_flops(lambda some=some: train(*some)) for some in given]

        agree(probe, rtol=0, atol=0)

    def test_one_channel(self, agree, draw):
        """There may be one image, one channel and one filter."""
        x, w = draw.normal(1, 1, draw.integer(6, 90), draw.integer(6, 90)), draw.normal(1, 1, draw.integer(1, 5), draw.integer(1, 5))

        def probe(m):
            return [
                m.count_flops(lambda t=t, s=s: convolve(leaf(x), leaf(w), transposed=t, **s).sum().backward())
                for t in (False, True)
                for s in ({}, {"stride": 2})
            ]

        agree(probe, rtol=0, atol=0)

    def test_attention(self, agree, draw):
        """Fused attention makes two products; there may be more keys than queries."""
        q, k = heads(draw)

        def probe(m):
            return m.count_flops(lambda: F.scaled_dot_product_attention(q, k, k)), m.count_flops(
                lambda: F.scaled_dot_product_attention(k, k, k, is_causal=True)
            )

        agree(probe, rtol=0, atol=0)

    def test_attention_backward(self, agree, draw):
        """Going back through fused attention takes five products."""
        q, k = heads(draw)

        def probe(m):
            out = F.scaled_dot_product_attention(leaf(q), leaf(k), leaf(k)).sum()
            both = m.count_flops(lambda: F.scaled_dot_product_attention(leaf(q), leaf(k), leaf(k)).sum().backward())
            return both, m.count_flops(out.backward)

        agree(probe, rtol=0, atol=0)

    def test_attention_by_hand(self, agree, draw):
        """Attention that is written as products counts as these products, forward and backward."""
        q, k, v = (draw.normal(3, draw.integer(3, 30), 5) for _ in range(3))

        def probe(m):
            def train():
                ((leaf(q) @ leaf(k).mT).softmax(-1) @ leaf(v).new_ones(3, k.shape[1], 4)).sum().backward()

            return m.count_flops(train), m.count_flops(lambda: (v.mT @ v).softmax(-1))

        agree(probe, rtol=0, atol=0)

    def test_huge_on_meta(self, agree, draw):
        """On meta the numbers may be beyond 2⁶³, and are exact all the same."""
        M, K, N = (2**21 + draw.integer(1, 10**6) for _ in range(3))
        channels = draw.integer(10**4, 10**5)

        def probe(m):
            a, b = torch.empty(M, K, device="meta"), torch.empty(K, N, device="meta")
            layer = nn.Conv2d(channels, channels, 3, device="meta")
            x = torch.empty(1000, channels, 1000, 1000, device="meta")
            return m.count_flops(lambda: a @ b), m.count_flops(lambda: layer(x).sum().backward())

        agree(probe, rtol=0, atol=0)

    def test_counts_anew(self, agree, draw):
        """Each count begins at 0; an error ends it, is passed on, and spoils no later one; work runs once."""
        a, b = draw.normal(draw.integer(2, 70), 5), draw.normal(5, draw.integer(2, 70))

        def probe(m):
            def broken():
                a @ b
                raise KeyError

            ran = [m.count_flops(lambda: a @ b), raised(KeyError, lambda: m.count_flops(broken)), m.count_flops(lambda: a @ b)]
            total = torch.zeros(1)
            ran.append(m.count_flops(lambda: total.add_((a @ b).sum())))
            return ran, m.count_flops(lambda: None), total

        agree(probe, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """How a matrix lies in memory changes nothing."""
        a, b = draw.normal(draw.integer(2, 30), 7, layout=layout), draw.normal(draw.integer(2, 9), 7, 11, layout=layout)
        agree(lambda m: [m.count_flops(lambda: a @ b), m.count_flops(lambda: a @ b.sum(0))], rtol=0, atol=0)


# activation_bytes


class Apply(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *args):
        """Call it."""
        return self.f(*args)


class Checkpointed(nn.Module):
    """A module that runs under torch.utils.checkpoint."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        """Call it, and remember its input alone."""
        from torch.utils.checkpoint import checkpoint

        return checkpoint(self.inner, x, use_reentrant=False)


def mlp(*sizes, **settings):
    """Linear layers with ReLU between them."""
    layers = [nn.Linear(a, b, **settings) for a, b in pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))


@task("activation_bytes")
class TestActivationBytes:
    def test_a_network(self, agree, draw):
        """A network saves its input and what its activations give, each once, and no parameter."""
        B, *sizes = (draw.integer(2, 50) for _ in range(5))
        x = draw.normal(B, sizes[0])
        agree(lambda m: m.activation_bytes(mlp(*sizes), x), rtol=0, atol=0)

    def test_dtypes(self, agree, draw):
        """Bytes depend on the dtype."""
        B, *sizes = (draw.integer(2, 50) for _ in range(4))
        x = draw.normal(B, sizes[0])
        dtypes = (torch.bfloat16, torch.float32, F64)
        agree(lambda m: [m.activation_bytes(mlp(*sizes).to(d), x.to(d)) for d in dtypes], rtol=0, atol=0)

    def test_views_of_one_memory(self, agree, draw):
        """A memory that is saved through several views counts once, as a whole."""
        x = draw.normal(draw.integer(5, 50), draw.integer(5, 50))
        f = [
            lambda y: y[1:] * y[:-1] + (y[:, 1:] * y[:, :-1])[1:, :1],
            lambda y: y.T @ y,
            lambda y: y.exp() * y.exp().detach(),
            lambda y: y[0] * y[1],
            lambda y: (y * y.view(-1).view_as(y)).reshape(-1).square(),
        ]
        agree(lambda m: [m.activation_bytes(Apply(g), leaf(x)) for g in f], rtol=0, atol=0)

    def test_small_looks_at_large(self, agree, draw):
        """What is saved of a larger memory keeps all of it; what is expanded takes no more than its memory."""
        x, n = draw.normal(draw.integer(9, 50), draw.integer(9, 50)), draw.integer(2, 99)

        def probe(m):
            return [
                m.activation_bytes(Apply(lambda a: a[:2, 3] * leaf(x)[:2, 0]), x),
                m.activation_bytes(Apply(lambda a: leaf(x)[0, 0] * a.expand(n, *x.shape)), x),
                m.activation_bytes(Apply(lambda a: leaf(x)[None] * a[:, :1].expand(n, *x.shape)), x),
            ]

        agree(probe, rtol=0, atol=0)

    def test_parameters_and_buffers_are_free(self, agree, draw):
        """Parameters and buffers are there anyway: also through a view, frozen, tied, or a buffer that is not in the state_dict."""
        D, B = draw.integer(2, 50), draw.integer(2, 50)
        x = draw.normal(B, D)

        class Mixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.ones(2, D, D))
                self.register_buffer("scale", torch.ones(B, D), persistent=False)
                self.frozen = nn.Parameter(torch.ones(B, D), requires_grad=False)
                self.same = self.w

            def forward(self, x):
                return (((x @ self.w[0].T) * self.scale) @ self.same[1]) * self.frozen[:, :1]

        agree(lambda m: [m.activation_bytes(Mixed(), x), m.activation_bytes(Mixed(), leaf(x))], rtol=0, atol=0)

    def test_batch_norm_and_convolution(self, agree, draw):
        """Statistics that batch norm computes count, its buffers do not; in eval mode as in train mode."""
        C, B = draw.integer(2, 9), draw.integer(2, 9)
        x = draw.normal(B, 3, 9, 7)

        def probe(m):
            net = nn.Sequential(nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.ReLU(inplace=True), nn.MaxPool2d(2))
            return [m.activation_bytes(net.train(mode), x) for mode in (True, False)]

        agree(probe, rtol=0, atol=0)

    def test_attention_block(self, agree, draw):
        """Normalisation, fused attention and GELU save more than their outputs."""
        B, T, H = (draw.integer(2, 9) for _ in range(3))
        x = draw.normal(B, T, 8 * H)

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.qkv, self.out = nn.LayerNorm(8 * H), nn.Linear(8 * H, 24 * H), nn.Linear(8 * H, 8 * H)

            def forward(self, x):
                q, k, v = self.qkv(self.norm(x)).reshape(B, T, 3, H, 8).permute(2, 0, 3, 1, 4)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                return x + F.gelu(self.out(y.transpose(1, 2).reshape(B, T, 8 * H)))

        agree(lambda m: m.activation_bytes(Block(), x), rtol=0, atol=0)

    def test_checkpoint_saves_less(self, agree, draw):
        """What runs under torch.utils.checkpoint saves its inputs only."""
        B, *sizes = (draw.integer(2, 50) for _ in range(5))
        x = draw.normal(B, sizes[0])

        def probe(m):
            first, second = mlp(*sizes), nn.Sequential(nn.Linear(sizes[-1], 7), nn.Tanh())
            plain, sparing = nn.Sequential(first, second), nn.Sequential(Checkpointed(first), second)
            return [m.activation_bytes(net, x) for net in (plain, sparing)]

        agree(probe, rtol=0, atol=0)

    def test_freed_memory_counts(self, agree, draw):
        """What is saved and freed again while the model runs counts, although others get its address afterwards."""
        x, n = draw.normal(draw.integer(20, 60), 41), draw.integer(50, 90)  # so many that some get a number again

        def lavish(y):
            for _ in range(n):
                (y.exp() + 1).square()
            return y * 2

        agree(lambda m: m.activation_bytes(Apply(lavish), leaf(x)), rtol=0, atol=0)

    def test_on_meta(self, agree, draw):
        """On meta, where all addresses are 0, a model larger than any memory is counted."""
        B, *sizes = (draw.integer(10**5, 10**6) for _ in range(5))

        def probe(m):
            return m.activation_bytes(mlp(*sizes, device="meta"), torch.empty(B, sizes[0], device="meta"))

        agree(probe, rtol=0, atol=0)

    def test_nothing_is_saved_without_gradients(self, agree, draw):
        """Under no_grad, or where nothing has a gradient, the number is 0; where a part has one, it is that part's."""
        B, *sizes = (draw.integer(2, 50) for _ in range(5))
        x = draw.normal(B, sizes[0])

        def probe(m):
            net = mlp(*sizes)
            counts = [m.activation_bytes(net, x)]
            with torch.no_grad():
                counts.append(m.activation_bytes(net, x))
            net[0].requires_grad_(False)
            counts.append(m.activation_bytes(net, x))
            net.requires_grad_(False)
            return [*counts, m.activation_bytes(net, x), m.activation_bytes(net, leaf(x))]

        agree(probe, rtol=0, atol=0)

    def test_the_model_is_left_alone(self, agree, draw):
        """The model runs once, with all its arguments, and trains afterwards as if nothing had been."""
        B, D = draw.integer(2, 50), draw.integer(2, 50)
        x, w = draw.normal(B, D), draw.normal(3, D)

        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(D, 3)
                self.layer.weight.data.copy_(w)
                self.register_buffer("runs", torch.zeros(()))

            def forward(self, x, flag, scale):
                self.runs += 1 if flag else 10
                return self.layer(x * scale).tanh()

        def probe(m):
            net = Twice()
            count = m.activation_bytes(net, x, True, 2.0)
            before = net.layer.weight.grad
            runs = net.runs.clone()
            net(x, True, 2.0).sum().backward()
            return count, runs, before, net.layer.weight.grad

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """An input may lie in memory in any way: its memory counts, not its entries."""
        x = draw.normal(draw.integer(5, 30), 7, layout=layout)
        agree(lambda m: [m.activation_bytes(mlp(7, 3), x), m.activation_bytes(Apply(lambda a: leaf(a).exp() * a), x)], rtol=0, atol=0)


# training_memory

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@task("training_memory")
class TestTrainingMemory:
    @pytest.mark.parametrize("stage", [0, 1, 2, 3])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_each_stage(self, agree, draw, stage, dtype):
        """Each stage shares one kind more, in 16 bits and in 32; the parts are rounded up."""
        cases = [[draw.integer(0, 10**6) for _ in range(3)] + [draw.integer(1, 20)] for _ in range(4)]

        def probe(m):
            return [
                m.training_memory(trained, frozen, activations=activations, dtype=dtype, world=world, stage=stage)
                for trained, frozen, activations, world in cases
            ]

        agree(probe, rtol=0, atol=0)

    def test_the_usual_settings(self, agree, draw):
        """If nothing else is said, training is in bfloat16, on one GPU, without frozen parameters and activations."""
        n, world = draw.integer(1, 10**6), draw.integer(2, 20)
        agree(lambda m: [m.training_memory(n), m.training_memory(n, world=world), m.training_memory(n, stage=3)], rtol=0, atol=0)

    def test_sixteen_bytes(self, student, draw):
        """Without sharing, 16 bits take 16 bytes for each parameter, as the paper says; 32 bits take 16, too."""
        n = draw.integer(1, 10**9)
        for dtype in DTYPES:
            got = student(lambda m, dtype=dtype: m.training_memory(n, dtype=dtype)["total"])
            assert got == 16 * n, f"{n} parameters in {dtype} take {16 * n} bytes, you say {got}."

    def test_frozen_parameters(self, agree, draw):
        """Frozen parameters take their own bytes only; in stage 3 they are shared together with the trained ones."""
        a, b, world = draw.integer(1, 10**6), draw.integer(1, 10**6), draw.integer(2, 20)
        cases = [(a, b), (0, b), (a, 0), (world + 1, world + 1), (1, world - 1)]
        agree(
            lambda m: (
                [m.training_memory(*case, world=world, stage=stage) for case in cases for stage in (0, 1, 3)] + [m.training_memory(a)]
            ),
            rtol=0,
            atol=0,
        )

    def test_exact(self, agree, draw):
        """Numbers beyond 2⁵³, which floats can't count, are exact."""
        n, frozen, world = draw.integer(2**60, 2**61), draw.integer(2**60, 2**61), draw.integer(3, 20)
        agree(lambda m: [m.training_memory(n, frozen, activations=n, world=world, stage=stage) for stage in range(4)], rtol=0, atol=0)

    def test_more_gpus_than_parameters(self, agree, draw):
        """With more GPUs than parameters, each holds one entry; of nothing it holds nothing."""
        n, world = draw.integer(1, 50), draw.integer(51, 10**6)
        agree(
            lambda m: [
                m.training_memory(k, j, activations=n * world, world=world, stage=3) for k, j in ((n, 0), (0, n), (0, 0), (n, world))
            ],
            rtol=0,
            atol=0,
        )

    def test_errors(self, agree, draw):
        """What is not as stated is a ValueError."""
        n = draw.integer(1, 10**6)
        bad = [
            {"trained": -1},
            {"frozen": -n},
            {"activations": -1},
            {"world": 0},
            {"world": -2},
            {"stage": 4},
            {"stage": -1},
            {"dtype": F64},
            {"dtype": torch.int8},
        ]

        def probe(m):
            return [raised(ValueError, lambda b=b: m.training_memory(**({"trained": n} | b))) for b in bad], m.training_memory(n, 0)

        agree(probe, rtol=0, atol=0)


# self_times


def spans(draw, n, threads, names):
    """Nested events of random threads and names, in random order: some touch, and some have the same times."""
    events = []
    for thread in threads:
        pending = [(draw.integer(0, 50), draw.integer(500, 900))]
        while pending and len(events) < n * len(threads):
            start, end = pending.pop(draw.integer(0, len(pending)))
            events.append((names[draw.integer(0, len(names))], thread, start, end))
            if end - start > 3:
                cuts = sorted(draw.integer(start, end + 1) for _ in range(4))
                pending += [(cuts[0], cuts[1]), (cuts[1], cuts[2]), (cuts[2], cuts[3])][: draw.integer(1, 4)]
    return [events[i] for i in draw.permutation(len(events)).tolist()]


def shift(events, by):
    """The same events at a later time."""
    return [(name, thread, start + by, end + by) for name, thread, start, end in events]


@task("self_times")
class TestSelfTimes:
    def test_a_tree(self, agree, draw):
        """What an event calls is taken from its own time; what that calls in turn is not taken twice."""
        a, b, c = (draw.integer(1, 10**6) for _ in range(3))
        events = [
            ("step", 1, 0, 4 * a + 2 * b + c),
            ("forward", 1, a, a + 2 * b + c),
            ("mm", 1, a + b, a + b + c),
            ("loss", 1, 2 * a + 2 * b + c, 3 * a + 2 * b + c),
        ]
        agree(lambda m: [m.self_times(events), m.self_times(shift(events[::-1], -c))], rtol=0, atol=0)

    def test_any_order(self, agree, draw):
        """Many events of different names in random order."""
        events = spans(draw, 60, [draw.integer(0, 10**9)], [f"op{i}" for i in range(40)])
        agree(lambda m: m.self_times(events), rtol=0, atol=0)

    def test_threads(self, agree, draw):
        """Events of different threads don't nest, though their times do; names are summed over threads."""
        events = spans(draw, 30, [3, -7, 10**12], list("abcdefg"))
        agree(lambda m: m.self_times(events), rtol=0, atol=0)

    def test_recursion(self, agree, draw):
        """An event within another of its name, at any depth, adds nothing to the total; on another thread it does."""
        events = spans(draw, 40, [1, 2], ["f", "g"]) + spans(draw, 20, [3], ["f"])
        agree(lambda m: m.self_times(events), rtol=0, atol=0)

    def test_after_recursion(self, agree, draw):
        """Once the outer event has ended, the next of its name adds to the total again."""
        n, k = draw.integer(10, 10**6), draw.integer(1, 10)
        events = [
            ("f", 1, 0, n),
            ("g", 1, k, n - k),
            ("f", 1, 2 * k, 2 * k),
            ("f", 1, n, 2 * n),
            ("f", 1, n + 1, n + 2),
            ("g", 1, 3 * n, 4 * n),
        ]
        agree(lambda m: [m.self_times(events), m.self_times(events[:3] + events[4:])], rtol=0, atol=0)

    def test_the_same_times(self, agree, draw):
        """Of events with the same times, the one that comes first in the list is the caller."""
        n = draw.integer(5, 10**6)
        events = [("a", 1, 0, n), ("b", 1, 0, n), ("c", 1, 0, n), ("d", 1, 1, n), ("e", 1, 0, 1)]
        agree(lambda m: [m.self_times(events), m.self_times(events[::-1]), m.self_times([*events[1:], events[0]])], rtol=0, atol=0)

    def test_one_after_the_other(self, agree, draw):
        """An event that starts when another ends was not called by it; nor is a pause anyone's."""
        cuts = sorted({draw.integer(0, 10**6) for _ in range(30)})
        events = [(f"op{i % 7}", 1, a, b) for i, (a, b) in enumerate(pairwise(cuts)) if i % 5]
        agree(lambda m: [m.self_times(events), m.self_times([("all", 1, 0, 10**6), *events])], rtol=0, atol=0)

    def test_no_duration(self, agree, draw):
        """An event may start and end at once: it counts, and takes no time."""
        n = draw.integer(5, 10**6)
        events = [("a", 1, 0, n), ("b", 1, 0, 0), ("b", 1, 3, 3), ("b", 1, n, n), ("a", 1, n, 2 * n), ("c", 1, 3, 3), ("c", 2, 3, 3)]
        agree(lambda m: [m.self_times(events), m.self_times(events[::-1]), m.self_times(events[1:3])], rtol=0, atol=0)

    def test_thousands_nested(self, agree, draw):
        """Events that are nested more than a thousand deep are no problem."""
        start, k, n = draw.integer(0, 10**6), draw.integer(1, 10**6), 1500
        events = [(f"op{i % 3}", 1, start + k * i, start + k * (3 * n - i - i % 2)) for i in range(n)]
        events = [events[i] for i in draw.permutation(n).tolist()]
        agree(lambda m: m.self_times(events), rtol=0, atol=0)

    def test_nanoseconds(self, agree, draw):
        """Times of the clock in nanoseconds, which floats can't tell apart, are exact."""
        events = shift(spans(draw, 40, [1, 2], list("abcdef")), draw.integer(2**60, 2**61))
        agree(lambda m: m.self_times(events), rtol=0, atol=0)

    def test_no_events(self, agree, draw):
        """No events give an empty dict; one event is all its own."""
        n = draw.integer(1, 10**6)
        agree(lambda m: [m.self_times([]), m.self_times([("a", 0, 0, n)]), m.self_times([("", 0, -n, n)])], rtol=0, atol=0)

    def test_errors(self, agree, draw):
        """Events that overlap without nesting, or end before they start, are a ValueError; on different threads they may overlap."""
        n = draw.integer(50, 10**6)
        bad = [
            [("a", 1, 0, n), ("b", 1, 1, n + 1)],
            [("b", 1, n - 1, n + 1), ("a", 1, 0, n)],
            [("a", 1, 0, n), ("b", 1, 1, n - 1), ("c", 1, 2, n)],
            [("a", 1, 5, 4)],
            [("a", 1, 0, n), ("b", 1, 7, 3)],
            [("a", 2, 0, n), ("a", 1, 0, n), ("a", 1, n - 9, n + 9)],
        ]

        def probe(m):
            good = [("a", 1, 0, n), ("b", 2, 1, n + 1), ("b", 1, n, n + 2)]
            return [raised(ValueError, lambda b=b: m.self_times(b)) for b in bad], m.self_times(good)

        agree(probe, rtol=0, atol=0)


# profile_step

MM = ("aten::mm", "aten::addmm")


def sizes_of(draw, n):
    """Different sizes, in random order."""
    return [5 + i for i in draw.permutation(40)[:n].tolist()]


@task("profile_step")
class TestProfileStep:
    def test_rows(self, agree, draw):
        """Operators are counted for each label and shape, and sorted."""
        a, b, c, n = (draw.integer(2, 90) for _ in range(4))
        x, v, w = draw.normal(a, b), draw.normal(b, c), draw.normal(c, b)

        def probe(m):
            def encode(step):
                for _ in range(1 + n % 4):
                    x @ v
                x @ v[:, :1]

            stages = {"encode": encode, "decode": lambda step: x @ v @ w}
            return m.profile_step(stages, ["aten::mm"])

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize(("wait", "warmup", "active"), [(0, 1, 1), (0, 2, 3), (2, 1, 2), (1, 3, 1)])
    def test_schedule(self, agree, draw, wait, warmup, active):
        """Of all steps the last ones are recorded, as many as said, and none of the others."""
        sizes = sizes_of(draw, 12)

        def probe(m):
            def forward(step):
                torch.ones(sizes[step], 2) @ torch.ones(2, sizes[step + 1])

            return m.profile_step({"forward": forward}, ["aten::mm"], wait=wait, warmup=warmup, active=active)

        agree(probe, rtol=0, atol=0)

    def test_the_usual_schedule(self, agree, draw):
        """If nothing is said, one step waits, one warms up, and three are recorded."""
        sizes = sizes_of(draw, 9)

        def probe(m):
            return m.profile_step({"go": lambda step: torch.ones(sizes[step], 2) @ torch.ones(2, 3)}, ["aten::mm"])

        agree(probe, rtol=0, atol=0)

    def test_all_steps_run(self, agree, draw):
        """Each step runs all stages once and in order, also the steps that are not recorded, with the numbers from 0."""
        w, a, b = draw.normal(3, 3, dtype=F64), draw.normal(7, 3, 3, dtype=F64), draw.normal(3, 3, dtype=F64)

        def probe(m):
            now = w.clone()
            stages = {"one": lambda step: now.copy_(now @ a[step]), "two": lambda step: now.copy_(b @ now + step)}
            rows = m.profile_step(stages, ["aten::mm"], wait=2, warmup=1, active=4)
            return rows, now

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_training(self, agree, draw):
        """A training step: products of forward and backward are told apart."""
        B, D, H = sizes_of(draw, 3)
        x, y = draw.normal(B, D), draw.normal(B, 1)

        def probe(m):
            net = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, 1))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
            held = []

            def forward(step):
                held[:] = [F.mse_loss(net(x), y)]

            stages = {"forward": forward, "backward": lambda step: held[0].backward(), "update": lambda step: optimizer.step()}
            return m.profile_step(stages, MM, active=2)

        agree(probe, rtol=0, atol=0)

    def test_at_any_depth(self, agree, draw):
        """An operator counts that another one calls, or that stands in a label of the stage's own; it counts for the stage."""
        a, b, c, d = sizes_of(draw, 4)
        x, v, bias = draw.normal(d, a, b), draw.normal(c, b), draw.normal(c)

        def probe(m):
            def forward(step):
                with torch.profiler.record_function("inner"):
                    y = F.linear(x, v, bias)
                    with torch.profiler.record_function("innermost"):
                        return y @ v

            return m.profile_step({"forward": forward}, ["aten::linear", "aten::addmm", "aten::mm", "aten::matmul"], active=2)

        agree(probe, rtol=0, atol=0)

    def test_only_what_is_asked_for(self, agree, draw):
        """Other operators are left out, also where a name is part of another; what nobody calls has no row."""
        a, b, c = sizes_of(draw, 3)
        x, v, bias = draw.normal(a, b), draw.normal(b, c), draw.normal(c)

        def probe(m):
            stages = {"one": lambda step: torch.addmm(bias, x, v), "two": lambda step: x @ v, "three": lambda step: x + 1}
            return [m.profile_step(stages, some) for some in (["aten::mm"], {"aten::addmm", "aten::bmm"}, ("aten::relu",), [])]

        agree(probe, rtol=0, atol=0)

    def test_shapes_of_other_operators(self, agree, draw):
        """Shapes come as the profiler has them: () for numbers, one tuple for each tensor."""
        a, b, c = sizes_of(draw, 3)
        image, w = draw.normal(2, 3, a, b), draw.normal(c, 3, 2, 2)

        def probe(m):
            stages = {"conv": lambda step: F.conv2d(image, w), "sum": lambda step: image.sum(1) * 2}
            return m.profile_step(stages, ["aten::conv2d", "aten::sum", "aten::mul"])

        agree(probe, rtol=0, atol=0)

    def test_labels_and_steps_alone(self, agree, draw):
        """Labels may be any text, and the same operator in two stages has two rows; a stage without operators has none."""
        sizes = sizes_of(draw, 3)
        names = [f"stage {n}" for n in sizes]

        def probe(m):
            stages = {name: lambda step, n=n: torch.ones(n, 2) @ torch.ones(2, n) for name, n in zip(names, sizes, strict=True)}
            return m.profile_step({"ProfilerStep": lambda step: None, **stages}, ["aten::mm"], wait=0, active=1)

        agree(probe, rtol=0, atol=0)


# benchmark


class Device:
    """A device with a clock of its own, which takes orders and works on them when somebody waits for it.

    Reading the clock takes time, too. All times are multiples of 1/1024, so that sums are exact.
    """

    def __init__(self, costs, host=0.0, reading=0.0, start=0.0):
        self.now, self.pending, self.calls = start, 0.0, 0
        self.costs, self.host, self.reading = costs, host, reading

    def work(self):
        """Give the next order."""
        self.now += self.host
        self.pending += self.costs[min(self.calls, len(self.costs) - 1)]
        self.calls += 1

    def synchronize(self):
        """Wait until all orders are done."""
        self.now += self.pending
        self.pending = 0.0

    def clock(self):
        """Seconds."""
        self.now += self.reading
        return self.now

    def tools(self):
        """The clock and the way to wait, by keyword."""
        return {"clock": self.clock, "synchronize": self.synchronize}


def ticks(draw, n, low=1, high=2**20):
    """Times that are multiples of 1/1024."""
    return [x / 1024 for x in draw.integers(low, high, n).tolist()]


def measure(m, device, **settings):
    """What the student measures, and how far device and clock have come."""
    result = m.benchmark(device.work, **device.tools(), **settings)
    return result, device.calls, device.now


@task("benchmark")
class TestBenchmark:
    @pytest.mark.parametrize("repeats", [1, 2, 4, 7, 8])
    def test_median_and_quartiles(self, agree, draw, repeats):
        """Median and quartiles are right for odd and even numbers of measurements."""
        costs = ticks(draw, 20)
        agree(lambda m: measure(m, Device(costs), repeats=repeats), rtol=1e-9, atol=1e-9)

    def test_both_reads_wait(self, agree, draw):
        """The device is waited for before either reading of the clock: neither warm-up nor the call itself is cut off."""
        costs, host = ticks(draw, 30), ticks(draw, 1)[0]
        agree(lambda m: measure(m, Device(costs, host), warmup=4, repeats=6), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("warmup", [0, 1, 5])
    def test_warm_up(self, agree, draw, warmup):
        """The first calls are not measured, as many as said; 0 is possible."""
        costs = [1000 * x for x in ticks(draw, 6)] + ticks(draw, 9)
        agree(lambda m: measure(m, Device(costs), warmup=warmup, repeats=4), rtol=1e-9, atol=1e-9)

    def test_work_without_a_device(self, agree, draw):
        """Work that is done when the call returns is measured as well, on a clock that does not begin at 0."""
        costs, start = iter(ticks(draw, 30)), ticks(draw, 1)[0]
        all_costs = list(costs)

        def probe(m):
            device, left = Device([0.0], start=start), iter(all_costs)

            def work():
                device.now += next(left)

            return m.benchmark(work, **device.tools(), repeats=6), device.now

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_the_usual_settings(self, agree, draw):
        """If nothing is said, three calls warm up and five are measured."""
        costs = ticks(draw, 12)
        agree(lambda m: measure(m, Device(costs)), rtol=1e-9, atol=1e-9)

    def test_outliers(self, agree, draw):
        """One call that takes a thousand times as long moves the median little, and the mean much."""
        costs = [x + 100 for x in ticks(draw, 40, high=2048)]
        costs[draw.integer(3, 10)] *= 1000
        agree(lambda m: measure(m, Device(costs), repeats=11), rtol=1e-9, atol=1e-9)

    def test_enough_time(self, agree, draw):
        """Measurements go on until their times add up to min_time; exactly as much is enough."""
        costs = ticks(draw, 60, low=512, high=1024)
        exact = sum(costs[3:20])

        def probe(m):
            times = (exact, exact + 1 / 1024, exact - 1 / 1024, 0.5, 0, 9.0)
            return [measure(m, Device(costs), min_time=t) for t in times]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_only_measured_time_counts(self, agree, draw):
        """Warm-up, and what passes between measurements, is no part of the time that has to add up."""
        costs, reading = ticks(draw, 90, low=512, high=1024), 0.5

        def probe(m):
            return [measure(m, Device(costs, reading=reading), warmup=w, min_time=8.0) for w in (0, 5, 30)]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_at_least_the_repeats(self, agree, draw):
        """Enough time alone is not enough: there are at least as many measurements as said."""
        costs = ticks(draw, 60, low=2**12)
        agree(lambda m: [measure(m, Device(costs), repeats=n, min_time=1.0) for n in (1, 2, 13)], rtol=1e-9, atol=1e-9)

    def test_at_most_the_largest_number(self, agree, draw):
        """After max_repeats the measuring ends, also where the clock stands still."""
        costs = ticks(draw, 60)

        def probe(m):
            return [
                measure(m, Device(costs), repeats=4, max_repeats=7, min_time=1e9),
                measure(m, Device(costs), repeats=4, max_repeats=4, min_time=1e9),
                measure(m, Device([0.0]), min_time=0.1)[:2],
                measure(m, Device(costs), repeats=3, max_repeats=10)[0],
            ]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_numbers_in_double_precision(self, agree, draw):
        """Times are computed in float64: on a clock of many days, differences of a millisecond are there."""
        costs, start = ticks(draw, 20, high=9), float(draw.integer(2**28, 2**29))
        base = [2.0**20 + x for x in costs]
        agree(lambda m: [measure(m, Device(c, start=start), repeats=6)[0] for c in (costs, base)], rtol=1e-12, atol=1e-12)


# roofline

WIDTHS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int8)


def machine(draw):
    """Peak, bandwidth and seconds of a machine like one of today."""
    return {
        "peak": float(draw.integer(10**12, 10**15)),
        "bandwidth": float(draw.integer(10**11, 10**13)),
        "seconds": draw.integer(1, 10**6) / 1e6,
    }


@task("roofline")
class TestRoofline:
    @pytest.mark.parametrize("dtype", WIDTHS, ids=str)
    def test_values(self, agree, draw, dtype):
        """All six are right, for products that memory limits and for others."""
        cases = [[draw.integer(1, high) for _ in range(3)] for high in (3, 30, 300, 3000, 30000)]
        settings = machine(draw)
        agree(lambda m: [m.roofline(*case, dtype=dtype, **settings) for case in cases], rtol=1e-9, atol=0)

    def test_each_size_has_its_place(self, agree, draw):
        """Long and thin products, a matrix and a vector, a dot product, an outer product."""
        n, settings = draw.integer(100, 10**6), machine(draw)
        cases = [(n, 1, 1), (1, n, 1), (1, 1, n), (n, n, 1), (1, n, n), (n, 1, n), (n, 2 * n, 3 * n), (1, 1, 1)]
        agree(lambda m: [m.roofline(*case, dtype=torch.float32, **settings) for case in cases], rtol=1e-9, atol=0)

    def test_another_dtype_of_the_result(self, agree, draw):
        """The result may have a dtype of its own, which counts for its bytes only."""
        sizes, settings = [draw.integer(1, 10**4) for _ in range(3)], machine(draw)
        pairs = [(torch.int8, torch.int32), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, None)]
        agree(lambda m: [m.roofline(*sizes, dtype=a, out_dtype=b, **settings) for a, b in pairs], rtol=1e-9, atol=0)

    def test_the_bound(self, agree, draw):
        """Just at the ridge it is the computing that limits; just beside it, one or the other."""
        n, bandwidth = 2 ** draw.integer(3, 12), float(2 ** draw.integer(20, 40))
        intensity = 8 * (n - 1) / (4 * 4 * n)  # exact: the product is (2, 2) · (2, n − 1)
        peak = intensity * bandwidth

        def probe(m):
            return [
                m.roofline(2, 2, n - 1, dtype=torch.float32, peak=peak * f, bandwidth=bandwidth, seconds=1.0)
                for f in (1, 1.001, 0.999, 100, 0.01)
            ]

        agree(probe, rtol=1e-9, atol=0)

    def test_exact(self, agree, draw):
        """Operations and bytes are exact ints, however many."""
        sizes, settings = [draw.integer(2**24, 2**25) for _ in range(3)], machine(draw)
        agree(lambda m: m.roofline(*sizes, dtype=torch.bfloat16, **settings), rtol=1e-9, atol=0)

    def test_small_numbers(self, agree, draw):
        """Peak and bandwidth may be small, whole or below 1, and a product may take days."""
        sizes = [draw.integer(1, 100) for _ in range(3)]
        machines = [(1, 1, 1), (draw.integer(1, 9) / 16, 1e-3, 1e6), (10**18, 10**18, draw.integer(1, 9))]

        def probe(m):
            return [m.roofline(*sizes, dtype=torch.float32, peak=p, bandwidth=b, seconds=s) for p, b, s in machines]

        agree(probe, rtol=1e-9, atol=0)
