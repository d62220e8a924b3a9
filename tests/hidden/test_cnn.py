"""Hidden suite of the module cnn."""

import math
import random
from unittest import mock

import pytest
import torch
from torch import nn

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F32, F64 = torch.float32, torch.float64
NAN, INF = math.nan, math.inf


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def loaded(module, state):
    """The module in float64, with this state in it."""
    module.double().load_state_dict(state)
    return module


def state_of(module):
    """The module's parameters and buffers as a plain dict of copies."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def gradients_of(module):
    """The gradients of all parameters, by name."""
    return {name: p.grad for name, p in module.named_parameters()}


def modes_of(model):
    """Which modules are in training mode."""
    return {name: module.training for name, module in model.named_modules()}


def names_and_shapes(module):
    """Shapes and dtypes of parameters, buffers and the state_dict, by name."""
    named = {"parameters": module.named_parameters(), "buffers": module.named_buffers(), "state": module.state_dict().items()}
    return {kind: {name: (value.shape, value.dtype) for name, value in sorted(pairs)} for kind, pairs in named.items()}


# Helpers for tests


def check_fresh(name, values, other, inputs=None):
    """Assert that these are initial values of torch's convolutions and linear layers: uniform within 1 / √inputs, and drawn at random.

    Args:
        name: for the message.
        values: a weight, or a bias.
        other: the same of another layer.
        inputs: how many numbers each output is computed from; None for those of the weight.
    """
    bound = 1 / math.sqrt(inputs or values[0].numel())
    spread = bound / math.sqrt(3)
    spared = 1 + 5 / math.sqrt(values.numel())  # the deviation of n uniform numbers is off by about 0.45 / √n of itself
    fresh = values.abs().max() <= bound * 1.0001 and spread / spared <= values.std() <= spread * spared
    assert fresh and values.mean().abs() < 5 * spread / math.sqrt(values.numel()), (
        f"{name} must have torch's initial values: uniform within 1 / √inputs, here {bound:.3g}."
    )
    assert not torch.equal(values, other), f"{name} must be drawn at random."


def drawn_norm(draw, channels, dtype=F64):
    """A batch norm's state: positive and negative weights, variances well above 0."""
    return {
        "weight": draw.uniform(channels, low=0.5, high=1.5, dtype=dtype) * (1 - 2 * draw.integers(0, 2, channels)).to(dtype),
        "bias": draw.normal(channels, dtype=dtype),
        "running_mean": draw.normal(channels, dtype=dtype),
        "running_var": draw.uniform(channels, low=0.3, high=2.0, dtype=dtype),
        "num_batches_tracked": torch.tensor(draw.integer(1, 9)),
    }


def drawn_state(draw, shapes):
    """Random float64 weights of moderate size under these names."""
    return {name: draw.normal(*shape, dtype=F64) / math.sqrt(max(1, math.prod(shape[1:]))) for name, shape in shapes.items()}


def drawn_kernel_sizes(draw, count, most=5):
    """Ints from 1 to `most`."""
    return draw.integers(1, most + 1, count).tolist()


@task("conv_output_size")
class TestConvOutputSize:
    def test_kernel_alone(self, agree, draw):
        """Without padding, a kernel of k has size - k + 1 places."""
        size, k = draw.integer(9, 99), draw.integer(2, 9)
        agree(lambda m: [m.conv_output_size(size, k), m.conv_output_size(size + 1, 2)], rtol=0, atol=0)

    def test_padding_counts_on_both_sides(self, agree, draw):
        """Padding makes the input longer by twice its number."""
        size, p = draw.integer(5, 99), draw.integer(2, 9)
        agree(lambda m: [m.conv_output_size(size, 3, padding=1), m.conv_output_size(size, 4, padding=p)], rtol=0, atol=0)

    def test_leftovers_are_dropped(self, agree, draw):
        """With a stride, places are counted as long as the whole kernel fits: all remainders occur here."""
        size, s = draw.integer(20, 99), draw.integer(2, 6)
        agree(lambda m: [m.conv_output_size(size + i, 3, stride=s) for i in range(6)], rtol=0, atol=0)

    def test_dilation_stretches_the_kernel(self, agree, draw):
        """Entries that lie d apart make k of them reach over d (k - 1) + 1."""
        size, k, d = draw.integer(50, 99), draw.integer(2, 6), draw.integer(2, 6)
        agree(lambda m: [m.conv_output_size(size, k, dilation=d), m.conv_output_size(size, 1, dilation=d)], rtol=0, atol=0)

    def test_everything_together(self, agree, draw):
        """Twenty random settings."""
        settings = [(draw.integer(30, 99), *drawn_kernel_sizes(draw, 4)) for _ in range(20)]
        agree(
            lambda m: [m.conv_output_size(size, k, stride=s, padding=p, dilation=d) for size, k, s, p, d in settings],
            rtol=0,
            atol=0,
        )

    def test_a_kernel_that_just_fits(self, agree, draw):
        """One place is left when kernel and padded input are equally long, whatever the stride."""
        k, s, size = draw.integer(2, 9), draw.integer(2, 9), draw.integer(10**3, 10**6)

        def probe(m):
            return (
                m.conv_output_size(k, k, stride=s),
                m.conv_output_size(3, 3, padding=2, dilation=3),
                m.conv_output_size(size, k, stride=s),
            )

        agree(probe, rtol=0, atol=0)

    def test_huge_ints_are_exact(self, agree, draw):
        """Far beyond 2**53, where floats have gaps, whichever number is huge."""
        size, s = 2**200 + draw.integer(0, 10**6), draw.integer(3, 99)

        def probe(m):
            return [
                m.conv_output_size(size, 3, stride=s),
                m.conv_output_size(size, 5, padding=2**99 + s),
                m.conv_output_size(size, s, dilation=2**99 + s, stride=2**98 + s),
                m.conv_output_size(size, size - s, stride=3),
                raised(ValueError, lambda: m.conv_output_size(size, size + 1)),
            ]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("stride", [1, 2, 7])
    def test_a_kernel_that_fits_nowhere_raises(self, agree, draw, stride):
        """A kernel longer than the padded input is a ValueError, also by a single entry and at every stride."""
        size, large = draw.integer(3, 9), draw.integer(10**3, 10**6)

        def probe(m):
            bad = [{"kernel_size": size + 1}, {"kernel_size": size + 4, "padding": 1}, {"kernel_size": 2, "dilation": size}]
            return (
                [raised(ValueError, lambda b=b: m.conv_output_size(size, stride=stride, **b)) for b in bad],
                m.conv_output_size(size, size + 2, padding=2, stride=stride),
                m.conv_output_size(large, size, stride=stride),
            )

        agree(probe, rtol=0, atol=0)

    def test_nonsense_raises(self, agree, draw):
        """Sizes, kernels, strides and dilations below 1, and padding below 0, are a ValueError."""
        size = draw.integer(9, 10**6)

        def probe(m):
            bad = [{name: number} for name in ("kernel_size", "stride", "dilation") for number in (0, -1)]
            bad += [{"padding": -1}, {"size": 0, "padding": 5}, {"size": -1, "padding": 5}, {"kernel_size": 1, "dilation": 0}]
            good = {"size": size, "kernel_size": 3}
            return [raised(ValueError, lambda b=b: m.conv_output_size(**{**good, **b})) for b in bad], m.conv_output_size(**good)

        agree(probe, rtol=0, atol=0)


@task("conv2d")
class TestConv2d:
    @pytest.mark.parametrize(("dtype", "tol"), [(F32, 1e-4), (F64, 1e-9)], ids=["float32", "float64"])
    def test_plain(self, agree, draw, dtype, tol):
        """Every output channel sums over all input channels and the window; the kernel isn't flipped."""
        x, w = draw.normal(2, 3, 7, 11, dtype=dtype), draw.normal(5, 3, 2, 4, dtype=dtype)
        agree(lambda m: m.conv2d(x, w), rtol=tol, atol=tol)

    def test_bias(self, agree, draw):
        """One number is added to each output channel."""
        x, w, b = draw.normal(5, 2, 6, 7, dtype=F64), draw.normal(5, 2, 2, 3, dtype=F64), draw.normal(5, dtype=F64)
        agree(lambda m: m.conv2d(x, w, b), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("stride", [(2, 3), (3, 1)])
    def test_stride(self, agree, draw, stride):
        """Windows start stride apart, down and across; rows and columns that are left over stay unused."""
        x, w = draw.normal(2, 3, 9, 12, dtype=F64), draw.normal(5, 3, 2, 2, dtype=F64)
        agree(lambda m: m.conv2d(x, w, stride=stride), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("padding", [(1, 3), (2, 0)])
    def test_padding(self, agree, draw, padding):
        """Zeros are added on all four sides, as many above and below as the first number says."""
        x, w, b = draw.normal(2, 3, 5, 7, dtype=F64), draw.normal(5, 3, 3, 2, dtype=F64), draw.normal(5, dtype=F64)
        agree(lambda m: m.conv2d(x, w, b, padding=padding), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("dilation", [(2, 1), (3, 2)])
    def test_dilation(self, agree, draw, dilation):
        """The kernel's entries lie dilation apart."""
        x, w = draw.normal(2, 3, 11, 9, dtype=F64), draw.normal(5, 3, 3, 4, dtype=F64)
        agree(lambda m: m.conv2d(x, w, dilation=dilation), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("groups", "channels", "outputs"), [(2, 6, 10), (3, 6, 3), (5, 5, 10)])
    def test_groups(self, agree, draw, groups, channels, outputs):
        """Each part of the output sees its own part of the input; with one channel a group, that is a depthwise convolution."""
        x, w = draw.normal(2, channels, 7, 6, dtype=F64), draw.normal(outputs, channels // groups, 3, 2, dtype=F64)
        agree(lambda m: m.conv2d(x, w, groups=groups), rtol=1e-9, atol=1e-9)

    def test_everything_together(self, agree, draw):
        """Stride, padding, dilation, groups and bias in one call."""
        x, w, b = draw.normal(3, 4, 13, 11, dtype=F64), draw.normal(6, 2, 3, 2, dtype=F64), draw.normal(6, dtype=F64)
        agree(
            lambda m: m.conv2d(x, w, b, stride=(2, 3), padding=(1, 2), dilation=(3, 2), groups=2),
            rtol=1e-9,
            atol=1e-9,
        )

    def test_sizes_of_one(self, agree, draw):
        """One image, channel, row, column or output, and kernels of one row or column: no dimension is lost, none is broadcast."""
        xs = [draw.normal(*shape, dtype=F64) for shape in with_ones(2, 3, 5, 7)]
        ws = [draw.normal(*shape, dtype=F64) for shape in [(4, 3, 2, 3), (1, 3, 2, 3), (4, 3, 1, 3), (4, 3, 2, 1), (1, 3, 1, 1)]]
        lone, b = draw.normal(4, 1, 2, 3, dtype=F64), draw.normal(4, dtype=F64)

        def probe(m):
            one = [m.conv2d(x, w, b[: len(w)], padding=(1, 1)) for x, w in [(xs[0], w) for w in ws] + [(x, ws[0]) for x in xs[:2] + xs[3:]]]
            return one, m.conv2d(xs[2], lone, b), m.conv2d(xs[0][:, :, :2, :3], ws[0])

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("padding", [(0, 0), (2, 1)])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout, padding):
        """Images, kernels and bias may lie in memory in any way: transposed, with gaps, or repeated without being copied."""
        x, w = (draw.normal(*shape, dtype=F64, layout=layout) for shape in [(2, 6, 5, 7), (4, 3, 3, 2)])
        b = draw.normal(4, dtype=F64, layout="expanded" if layout == "expanded" else "sliced")
        agree(lambda m: m.conv2d(x, w, b, padding=padding, groups=2), rtol=1e-9, atol=1e-9)

    def test_no_images(self, agree, draw):
        """An empty batch gives an empty batch of the right shape, with groups too."""
        x, w, b = draw.normal(2, 4, 7, 6), draw.normal(6, 2, 3, 2), draw.normal(6)
        agree(lambda m: [m.conv2d(t, w, b, stride=(2, 1), groups=2) for t in (x[:0], x)], rtol=1e-4, atol=1e-4)

    def test_gradients(self, agree, draw):
        """Images, kernels and bias receive their gradients."""
        x, w, b = draw.normal(2, 4, 7, 8, dtype=F64), draw.normal(6, 2, 3, 2, dtype=F64), draw.normal(6, dtype=F64)
        g = draw.normal(2, 6, 4, 4, dtype=F64)

        def probe(m):
            leaves = [leaf(x), leaf(w), leaf(b)]
            y = m.conv2d(*leaves, stride=(2, 3), padding=(1, 2), groups=2)
            (y * g).sum().backward()
            return y.detach(), [t.grad for t in leaves]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_nan_stays_where_it_is(self, agree, draw):
        """NaN and inf in one image, in one group's channels or in columns left over by the stride reach nothing that doesn't see them."""
        x, w = draw.normal(3, 4, 5, 7, dtype=F64), draw.normal(6, 2, 3, 2, dtype=F64)
        where = torch.zeros(3, 4, 5, 7, dtype=torch.bool)
        where[1] = where[2, 2:] = where[..., 5:] = True  # the windows end in column 4
        bad = draw.poisoned(x, where)
        agree(lambda m: m.conv2d(bad, w, stride=(2, 3), groups=2)[[0, 2]][:, :3], rtol=1e-9, atol=1e-9)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Wrong channel counts, one included, groups that don't divide the outputs, and kernels larger than the image are ValueErrors."""
        x, w = draw.normal(2, 4, 5, 6), draw.normal(6, 4, 3, 3)

        def probe(m):
            bad = [
                lambda: m.conv2d(x[:, :3], w),
                lambda: m.conv2d(x[:, :1], w),
                lambda: m.conv2d(x, w[:, :1]),
                lambda: m.conv2d(x, w, groups=2),
                lambda: m.conv2d(x, w[:5, :2], groups=2),
                lambda: m.conv2d(x[:, :, :2], w),
                lambda: m.conv2d(x[:, :, :2], w, stride=(2, 2)),
                lambda: m.conv2d(x, w, dilation=(1, 3)),
                lambda: m.conv2d(x[:, :, :, :1], w, stride=(1, 3), dilation=(1, 2), padding=(0, 1)),
            ]
            return [raised(ValueError, call) for call in bad], m.conv2d(x, w)

        agree(probe, rtol=1e-3, atol=1e-3)


@task("max_pool2d")
class TestMaxPool2d:
    @pytest.mark.parametrize("dtype", [F32, F64], ids=str)
    def test_windows_side_by_side(self, agree, draw, dtype):
        """Unless a stride is given, windows touch; rows and columns that are left over don't count."""
        x = draw.normal(2, 3, 7, 11, dtype=dtype)
        agree(lambda m: [m.max_pool2d(x, (2, 3)), m.max_pool2d(x, (3, 2))], rtol=0, atol=0)

    @pytest.mark.parametrize("stride", [(1, 2), (2, 1), (4, 5)])
    def test_stride(self, agree, draw, stride):
        """Windows may overlap or leave gaps."""
        x = draw.normal(2, 3, 11, 13)
        agree(lambda m: m.max_pool2d(x, (3, 4), stride=stride), rtol=0, atol=0)

    @pytest.mark.parametrize(("kernel", "padding"), [((3, 5), (1, 2)), ((2, 4), (1, 1)), ((5, 2), (2, 0))])
    def test_padding_is_never_the_largest(self, agree, draw, kernel, padding):
        """Where everything is negative, the padding doesn't show, and the windows at the border are at the right places."""
        x = -draw.uniform(2, 3, 7, 9, low=0.5, high=9.0)
        agree(
            lambda m: [m.max_pool2d(x, kernel, padding=padding), m.max_pool2d(x, kernel, stride=(1, 2), padding=padding)],
            rtol=0,
            atol=0,
        )

    def test_hugely_negative_entries(self, agree, draw):
        """Entries of -1e30 and of -inf are larger than, or as large as, any padding."""
        x = -draw.uniform(2, 3, 6, 7, low=1e30, high=9e30)
        x[0, 1] = x[1, :, :3, :4] = -INF
        agree(lambda m: m.max_pool2d(x, (3, 2), padding=(1, 1)), rtol=0, atol=0)

    def test_nan_shows(self, agree, draw):
        """A window with a NaN gives NaN, the others their largest entry, inf included."""
        x = draw.normal(2, 3, 9, 8)
        x[0, 1, 4, 4] = x[1, 2, 0, 7] = NAN
        poisoned = draw.poisoned(draw.normal(2, 3, 9, 8), draw.bools(2, 3, 9, 8, p=0.15))
        agree(lambda m: [m.max_pool2d(t, (3, 3), stride=(2, 2), padding=(1, 1)) for t in (x, poisoned)], rtol=0, atol=0)

    def test_gradients_go_to_the_largest(self, agree, draw):
        """Each output's gradient goes to one entry, which adds up what it gets from overlapping windows."""
        x, g = draw.normal(2, 3, 7, 9, dtype=F64) - 5, draw.normal(2, 3, 4, 5, dtype=F64)

        def probe(m):
            t = leaf(x)
            y = m.max_pool2d(t, (3, 3), stride=(2, 2), padding=(1, 1))
            (y * g).sum().backward()
            return y.detach(), t.grad

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_equally_large_entries_share_the_gradient(self, agree, draw):
        """Where several entries are the largest, their gradients add up to that of the window, and the others get none."""
        low, largest, g = draw.integers(0, 2, 2, 3, 6, 8), draw.normal(2, 3, 3, 2, dtype=F64), draw.normal(2, 3, 3, 2, dtype=F64)
        low[:, :, ::2, ::4] = low[:, :, 1::2, 1::4] = 0  # at least two in each window
        x = largest.repeat_interleave(2, 2).repeat_interleave(4, 3) - low

        def probe(m):
            t = leaf(x)
            (m.max_pool2d(t, (2, 4)) * g).sum().backward()
            return t.grad.unfold(2, 2, 2).unfold(3, 4, 4).sum((-2, -1)), t.grad[low > 0]

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("padding", [(0, 0), (1, 1)])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout, padding):
        """An image may lie in memory in any way: transposed, with gaps, or repeated without being copied."""
        x = draw.normal(2, 3, 9, 7, layout=layout)
        agree(lambda m: m.max_pool2d(x, (2, 3), stride=(2, 1), padding=padding), rtol=0, atol=0)

    def test_sizes_of_one_and_none(self, agree, draw):
        """One image, channel, row or column, windows of one row or column, and no image: no dimension is lost."""
        xs, x = [draw.normal(*shape) for shape in with_ones(2, 3, 5, 7)], draw.normal(2, 3, 5, 7)

        def probe(m):
            of_shapes = [m.max_pool2d(t, (2, 2), padding=(1, 1)) for t in [*xs, x[:0]]]
            return of_shapes, [m.max_pool2d(x, kernel) for kernel in [(1, 1), (1, 3), (3, 1), (5, 7)]]

        agree(probe, rtol=0, atol=0)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Padding beyond half of the kernel, and kernels larger than the padded image, are ValueErrors."""
        x = draw.normal(2, 3, 4, 5)

        def probe(m):
            bad = [
                lambda: m.max_pool2d(x, (3, 3), padding=(2, 0)),
                lambda: m.max_pool2d(x, (4, 1), padding=(0, 1)),
                lambda: m.max_pool2d(x, (5, 2)),
                lambda: m.max_pool2d(x, (2, 6), stride=(2, 3)),
                lambda: m.max_pool2d(x, (1, 1), padding=(1, 0)),
                lambda: m.max_pool2d(x, (4, 8), padding=(0, 1)),
            ]
            return [raised(ValueError, call) for call in bad], m.max_pool2d(x, (4, 7), padding=(0, 1))

        agree(probe, rtol=0, atol=0)


@task("BatchNorm2d")
class TestBatchNorm2d:
    def test_normalises_each_channel(self, agree, draw):
        """In training mode, with the batch's own mean and biased variance, then weight and bias."""
        x, state = draw.normal(2, 5, 3, 2, dtype=F64) * 3 + 1, drawn_norm(draw, 5)
        agree(lambda m: loaded(m.BatchNorm2d(5), state)(x).detach(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("momentum", [0.0, 0.7, 1.0, None])
    def test_running_statistics(self, agree, draw, momentum):
        """Three batches of different sizes move the running mean, the unbiased variance and the count; with momentum 0, the count alone."""
        batches, state = [draw.normal(n, 3, 2, n, dtype=F64) * n for n in (2, 3, 5)], drawn_norm(draw, 3)

        def probe(m):
            layer, states = loaded(m.BatchNorm2d(3, momentum=momentum), state), []
            for x in batches:
                with torch.set_grad_enabled(len(x) != 3):  # for the second alone: the mode of the layer decides, not that of autograd
                    layer(x)
                states.append(state_of(layer))
            return states

        agree(probe, rtol=1e-6, atol=1e-6)  # 1 divided by an int64 tensor is a float32

    def test_cumulative_average_from_the_start(self, agree, draw):
        """With momentum None, the first batch replaces the initial 0 and 1, and the second counts one half."""
        first, second = draw.normal(3, 5, 2, 4) + 3, draw.normal(3, 5, 2, 4) * 2

        def probe(m):
            layer = m.BatchNorm2d(5, momentum=None)
            states = []
            for x in (first, second):
                layer(x)
                states.append(state_of(layer))
            return states

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_eval_mode(self, agree, draw):
        """The running statistics take the batch's place, for a single image or none too, and nothing is updated."""
        x, state = draw.normal(4, 5, 3, 2, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer = loaded(m.BatchNorm2d(5), state).eval()
            return [layer(t).detach() for t in (x, x[:1, :, :1, :1], x[:0])], state_of(layer)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_from_training_to_eval_and_back(self, agree, draw):
        """Eval mode uses what training has collected, and training goes on from there."""
        x = draw.normal(3, 2, 3, 5, 4, dtype=F64)

        def probe(m):
            layer = m.BatchNorm2d(3).double()
            outputs = [layer.train(mode)(batch).detach() for mode, batch in zip((True, False, True), x, strict=True)]
            return outputs, state_of(layer)

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("training", [True, False])
    def test_gradients(self, agree, draw, training):
        """In training mode they flow through mean and variance too; in eval mode these are constants."""
        x, g, state = draw.normal(3, 5, 2, 4, dtype=F64), draw.normal(3, 5, 2, 4, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer, t = loaded(m.BatchNorm2d(5), state).train(training), leaf(x)
            (layer(t) * g).sum().backward()
            return t.grad, gradients_of(layer)

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_state(self, agree, draw):
        """Parameters and buffers have torch's names, shapes, dtypes and initial values; a conversion reaches them."""
        channels = draw.integer(2, 9)

        def probe(m):
            layer = m.BatchNorm2d(channels)
            names = sorted(name for name, _ in layer.named_parameters()), sorted(name for name, _ in layer.named_buffers())
            return names, state_of(layer), state_of(layer.double())

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("eps", [0.0, 1e-3, 0.7])
    def test_eps(self, agree, draw, eps):
        """The constructor's eps is added to the variance, in both modes; it may be 0."""
        x, state = draw.normal(3, 5, 2, 4, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer = loaded(m.BatchNorm2d(5, eps=eps), state)
            return layer(x).detach(), layer.eval()(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("dtype", "shift", "atol"), [(F32, 4e3, 2e-2), (F64, 4e7, 1e-4)], ids=["float32", "float64"])
    def test_far_from_zero(self, agree, draw, dtype, shift, atol):
        """Channels around 4000, or 40 million in float64, keep their digits: the mean of squares less the square of the mean loses them."""
        x = draw.normal(5, 7, 6, 3, dtype=dtype) + shift

        def probe(m):
            layer = m.BatchNorm2d(7, momentum=1.0).to(dtype)
            return layer(x).detach(), layer.running_var

        agree(probe, rtol=0, atol=atol)  # a float32 mean is off by a few thousandths

    def test_any_scale(self, agree, draw):
        """With eps 0, channels with a deviation of 1e-12 and of 1e12 are normalised like any other: no variance is too small."""
        x, state = draw.normal(3, 7, 4, 5, dtype=F64), drawn_norm(draw, 7)
        scaled = x * draw.magnitudes(7, low=1e-12, high=1e12, dtype=F64)[:, None, None]
        state["running_var"] = draw.magnitudes(7, low=1e-24, high=1e24, dtype=F64).abs()

        def probe(m):
            layer = loaded(m.BatchNorm2d(7, eps=0.0, momentum=0.0), state)
            return layer(scaled).detach(), layer.eval()(x).detach()

        agree(probe, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("shape", [(1, 5, 3, 2), (4, 1, 3, 2), (4, 5, 1, 2), (4, 5, 3, 1), (2, 5, 1, 1)], ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """One image, channel, row or column, in both modes; two values a channel are enough."""
        x, state = draw.normal(*shape, dtype=F64), drawn_norm(draw, shape[1])

        def probe(m):
            layer = loaded(m.BatchNorm2d(shape[1]), state)
            return layer(x).detach(), state_of(layer), layer.eval()(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout):
        """Images may lie in memory in any way, and are left as they are."""
        x, state = draw.normal(4, 5, 3, 2, dtype=F64, layout=layout), drawn_norm(draw, 5)

        def probe(m):
            layer = loaded(m.BatchNorm2d(5), state)
            return layer(x).detach(), state_of(layer), layer.eval()(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_channels_do_not_mix(self, agree, draw):
        """NaN in one channel, or inf in one image in eval mode, reaches no other."""
        x, state = draw.normal(3, 5, 4, 2, dtype=F64), drawn_norm(draw, 5)
        channel, image = x.clone(), x.clone()
        channel[:, 1], channel[0, 3, 2, 1], image[1] = NAN, NAN, INF

        def probe(m):
            layer = loaded(m.BatchNorm2d(5), state)
            return layer.eval()(image).detach(), layer.train()(channel).detach(), state_of(layer)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_nothing_is_kept_from_an_earlier_call(self, agree, draw):
        """In eval mode, the parameters and statistics of now count: after another state was loaded, or one was changed in place."""
        x, first, second = draw.normal(4, 5, 3, 2, dtype=F64), drawn_norm(draw, 5), drawn_norm(draw, 5)

        def probe(m):
            layer = loaded(m.BatchNorm2d(5), first).eval()
            outputs = [layer(x).detach()]
            layer.load_state_dict(second)
            outputs.append(layer(x).detach())
            with torch.no_grad():
                for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    tensor.mul_(2)
                    outputs.append(layer(x))
            return outputs

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after a call what it was before, under no_grad, too, in training and in eval mode."""
        x, state = draw.normal(4, 5, 3, 2, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer, kept = loaded(m.BatchNorm2d(5), state), []
            for training in (True, False):
                with torch.set_grad_enabled(recording):
                    kept.append((layer.train(training)(x).detach(), torch.is_grad_enabled()))
            return kept

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    def test_buffers_stay_outside_of_the_graph(self, agree, draw):
        """After training steps, each with a backward of its own, no buffer carries a graph."""
        x = draw.normal(3, 4, 5, 2, 3, dtype=F64)

        def probe(m):
            layer = m.BatchNorm2d(5).double()
            for batch in x:
                t = leaf(batch)
                layer(t).square().sum().backward()
            return {name: (b.requires_grad, b.clone()) for name, b in layer.named_buffers()}

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_wrong_input_raises(self, agree, draw):
        """Other dimensions or channels, or in training fewer than two values a channel: ValueErrors that leave the buffers alone."""
        x, state = draw.normal(4, 5, 3, 2, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer, lone = loaded(m.BatchNorm2d(5), state), m.BatchNorm2d(1).double()
            bad = [x[0], x[None], x[:, :4], x[:, :1]]
            endings = [raised(ValueError, lambda b=b: layer(b)) for b in (*bad, x[:1, :, :1, :1], x[:0])]
            endings += [raised(ValueError, lambda b=b: layer.eval()(b)) for b in bad]
            endings += [raised(ValueError, lambda mode=mode: lone.train(mode)(x)) for mode in (True, False)]
            return endings, state_of(layer), state_of(lone), layer.train()(x[:1, :, :1]).detach()

        agree(probe, rtol=1e-3, atol=1e-4)


def block_state(draw, channels, outputs, shortcut):
    """Weights for a ResidualBlock."""
    state = drawn_state(draw, {"conv1.weight": (outputs, channels, 3, 3), "conv2.weight": (outputs, outputs, 3, 3)})
    norms = ["bn1", "bn2"]
    if shortcut:
        state |= drawn_state(draw, {"shortcut.0.weight": (outputs, channels, 1, 1)})
        norms.append("shortcut.1")
    return state | {f"{norm}.{name}": value for norm in norms for name, value in drawn_norm(draw, outputs).items()}


@task("ResidualBlock")
class TestResidualBlock:
    def test_identity_shortcut(self, agree, draw):
        """With as many channels out as in and stride 1, x itself is added, before the last relu."""
        x, state = draw.normal(2, 5, 7, 6, dtype=F64), block_state(draw, 5, 5, False)
        agree(lambda m: loaded(m.ResidualBlock(5, 5), state).eval()(x).detach(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("channels", "outputs", "stride"), [(3, 5, 1), (5, 5, 2), (5, 3, 2), (2, 7, 3)])
    def test_projection_shortcut(self, agree, draw, channels, outputs, stride):
        """Other channels, a stride, or both: the shortcut is a 1×1 convolution and a batch norm."""
        x, state = draw.normal(2, channels, 7, 8, dtype=F64), block_state(draw, channels, outputs, True)
        agree(
            lambda m: loaded(m.ResidualBlock(channels, outputs, stride=stride), state).eval()(x).detach(),
            rtol=1e-9,
            atol=1e-9,
        )

    @pytest.mark.parametrize("outputs", [3, 5])
    def test_training_mode(self, agree, draw, outputs):
        """In training mode the batch's statistics are used, and every batch norm collects its own."""
        x, state = draw.normal(4, 3, 5, 6, dtype=F64), block_state(draw, 3, outputs, outputs != 3)

        def probe(m):
            block = loaded(m.ResidualBlock(3, outputs), state).train()
            return block(x).detach(), state_of(block)

        agree(probe, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize(("outputs", "stride"), [(3, 1), (5, 2)])
    def test_gradients(self, agree, draw, outputs, stride):
        """Images and every parameter receive gradients, through both paths."""
        x, state = draw.normal(2, 3, 5, 6, dtype=F64), block_state(draw, 3, outputs, outputs != 3)
        g = draw.normal(2, outputs, *[(size + stride - 1) // stride for size in (5, 6)], dtype=F64)

        def probe(m):
            block, t = loaded(m.ResidualBlock(3, outputs, stride=stride), state).eval(), leaf(x)
            (block(t) * g).sum().backward()
            return t.grad, gradients_of(block)

        agree(probe, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize(("outputs", "stride"), [(5, 1), (5, 2), (7, 1)])
    def test_names_and_shapes(self, agree, draw, outputs, stride):
        """Parameters and buffers have the stated names; only what changes shape or channels has a shortcut with weights."""
        more = draw.integer(0, 50)
        agree(lambda m: names_and_shapes(m.ResidualBlock(5 + more, outputs + more, stride=stride)), rtol=0, atol=0)

    def test_fresh_convolutions(self, student, draw):
        """A new block's convolutions have the weights that nn.Conv2d draws, other ones in each block."""
        channels, outputs = draw.integer(15, 25), draw.integer(30, 40)

        def probe(m):
            return [state_of(m.ResidualBlock(channels, outputs, stride=2)) for _ in range(2)]

        first, second = student(probe)
        for name in ("conv1.weight", "conv2.weight", "shortcut.0.weight"):
            check_fresh(name, first[name], second[name])

    def test_fresh_batch_norms(self, agree, draw):
        """A new block's batch norms have torch's eps, momentum and initial values."""
        x = draw.normal(3, 2, 5, 4, dtype=F64)
        convolutions = {name: value for name, value in block_state(draw, 2, 3, True).items() if value.ndim == 4}

        def probe(m):
            block = m.ResidualBlock(2, 3).double()
            result = block.load_state_dict(convolutions, strict=False)
            return block(x).detach(), state_of(block), sorted(result.unexpected_keys)

        agree(probe, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("shape", with_ones(2, 3, 5, 7), ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """One image, channel, row or column, or a single pixel: channels and stride alone decide about the shortcut."""
        channels = shape[1]
        x, states = draw.normal(*shape, dtype=F64), [block_state(draw, channels, outputs, channels != outputs) for outputs in (1, 3)]
        strided = block_state(draw, channels, channels, True)

        def probe(m):
            blocks = [loaded(m.ResidualBlock(channels, len(state["bn1.weight"])), state) for state in states]
            pixel = loaded(m.ResidualBlock(channels, channels, stride=2), strided).eval()(x[:, :, :1, :1]).detach()
            return [block.eval()(x).detach() for block in blocks], pixel

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout):
        """Images may lie in memory in any way."""
        x, state = draw.normal(2, 5, 7, 6, dtype=F64, layout=layout), block_state(draw, 5, 5, False)
        agree(lambda m: loaded(m.ResidualBlock(5, 5), state).eval()(x).detach(), rtol=1e-9, atol=1e-9)

    def test_x_is_left_as_it_is(self, agree, draw):
        """Without gradients too, no relu works in place on x, and nothing is added to it."""
        x, state = draw.normal(2, 3, 5, 6, dtype=F64), block_state(draw, 3, 3, False)

        def probe(m):
            with torch.no_grad():
                return loaded(m.ResidualBlock(3, 3), state).eval()(x)

        agree(probe, rtol=1e-9, atol=1e-9)


def lenet_shapes(size, in_channels=1, num_classes=10):
    """Names and shapes of the statement."""
    height, width = size
    return {
        "conv1.weight": (6, in_channels, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 16 * (height // 4) * (width // 4)),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (num_classes, 84),
        "fc3.bias": (num_classes,),
    }


def digit_scores(state, images, num_classes=10):
    """The scores of the statement's network, computed here."""
    want = lenet_shapes(images.shape[2:], images.shape[1], num_classes)
    right_type = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    assert right_type and state.keys() == want.keys(), f"The keys of state_dict() must be {', '.join(want)}."
    for name, value in state.items():
        right = tuple(value.shape) == want[name] and value.dtype == F32
        assert right, f'"{name}" must be {want[name]}, float32; it is {tuple(value.shape)}, {value.dtype}.'
    h = images
    for name in ("conv1", "conv2"):
        h = nn.functional.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=2)
        h = nn.functional.max_pool2d(torch.tanh(h), 2)
    h = h.flatten(1)
    for name in ("fc1", "fc2"):
        h = torch.tanh(nn.functional.linear(h, state[f"{name}.weight"], state[f"{name}.bias"]))
    return nn.functional.linear(h, state["fc3.weight"], state["fc3.bias"])


def drawn_start(draw, size, in_channels=1, num_classes=10):
    """Float32 weights that a LeNet can start from: answers that another run was given don't begin with them."""
    return {name: value.float() for name, value in drawn_state(draw, lenet_shapes(size, in_channels, num_classes)).items()}


@task("LeNet")
class TestLeNet:
    def test_scores_of_digits(self, agree, draw):
        """With weights given, the scores of images of 8×8 are those of the stated layers."""
        x, state = draw.normal(3, 1, 8, 8, dtype=F64), drawn_state(draw, lenet_shapes((8, 8)))
        agree(lambda m: loaded(m.LeNet(), state)(x).detach(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(
        ("size", "in_channels", "num_classes"), [((12, 20), 3, 7), ((9, 15), 1, 5), ((4, 7), 2, 10)], ids=["12x20", "9x15", "4x7"]
    )
    def test_other_sizes(self, agree, draw, size, in_channels, num_classes):
        """Height, width, channels and classes are free; odd rows and columns are dropped by the pooling."""
        state, x = drawn_state(draw, lenet_shapes(size, in_channels, num_classes)), draw.normal(2, in_channels, *size, dtype=F64)
        agree(
            lambda m: loaded(m.LeNet(size, in_channels=in_channels, num_classes=num_classes), state)(x).detach(),
            rtol=1e-9,
            atol=1e-9,
        )

    def test_single_precision_and_large_scores(self, agree, draw):
        """float32 stays float32, and scores are any numbers: no softmax, no tanh at the end."""
        state = {name: value.float() * 4 for name, value in drawn_state(draw, lenet_shapes((8, 8))).items()}
        x = draw.uniform(5, 1, 8, 8)

        def probe(m):
            model = m.LeNet((8, 8))
            model.load_state_dict(state)
            return model(x).detach()

        agree(probe, rtol=1e-3, atol=1e-2)

    def test_gradients(self, agree, draw):
        """Images and all weights receive their gradients."""
        x, state = draw.normal(3, 1, 8, 8, dtype=F64), drawn_state(draw, lenet_shapes((8, 8)))
        g = draw.normal(3, 10, dtype=F64)

        def probe(m):
            model, t = loaded(m.LeNet(), state), leaf(x)
            (model(t) * g).sum().backward()
            return t.grad, gradients_of(model)

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_names_and_shapes(self, agree, draw):
        """Parameters have the stated names and shapes, and there is nothing else."""
        size, channels = (draw.integer(4, 40), draw.integer(4, 40)), draw.integer(1, 5)
        agree(lambda m: names_and_shapes(m.LeNet(size, in_channels=channels)), rtol=0, atol=0)

    def test_fresh_weights(self, student, draw):
        """A new network has the weights and biases that torch draws for such layers, other ones in each network."""
        channels, classes = draw.integer(2, 5), draw.integer(20, 30)
        first, second = student(lambda m: [state_of(m.LeNet((9, 12), in_channels=channels, num_classes=classes)) for _ in range(2)])
        for name, weight in first.items():
            check_fresh(name, weight, second[name], inputs=first[name.replace("bias", "weight")][0].numel())

    def test_fit_recognises_held_out_digits(self, student, draw, digits):
        """A fitted network is right for at least 90 % of 600 held-out images, by the random names that it was taught."""
        images, labels, new_images, new_labels = digits.split(draw)
        names, seed, start = draw.permutation(10), draw.seed(), draw.seed()
        renamed, size = names[labels], tuple(images.shape[2:])

        def probe(m):
            torch.manual_seed(start)
            model = m.LeNet(size)
            model.fit(images, renamed, seed=seed)
            return state_of(model)

        state = student(probe, like=None)  # the reference need not train for the form of the weights: digit_scores checks it
        share = (digit_scores(state, new_images).argmax(1) == names[new_labels]).double().mean().item()
        assert share >= 0.9, f"With the fitted weights, {share:.1%} of 600 held-out images are classified correctly; 90 % are needed."

    def test_fit_starts_from_the_weights_and_the_seed(self, student, draw, digits):
        """Same weights and seed, same result, 0 included, whatever was there before; other weights or another seed, another one."""
        images, labels, *_ = digits.split(draw)
        images, labels, seed, size = images[:65], labels[:65], draw.integer(1, 2**31), tuple(images.shape[2:])  # 64 and 1 more
        start, other = drawn_start(draw, size), drawn_start(draw, size)

        def probe(m):
            states, before, model = [], [], m.LeNet(size)
            for weights, shuffle, noise in [(start, seed, 1), (start, seed, 2), (start, 0, 1), (start, 0, 2), (other, seed, 1)]:
                model.load_state_dict(weights)
                before.append(state_of(model))
                for p in model.parameters():
                    p.grad = torch.full_like(p, noise)
                torch.manual_seed(noise)
                model.fit(images, labels, seed=shuffle)
                states.append(state_of(model))
            return before, states

        before, (first, again, zero, zero_again, other_start) = student(probe)
        for state in *before, first, again, zero, zero_again, other_start:
            digit_scores(state, images)
        for state, loaded_state in zip(before, [start] * 4 + [other], strict=True):
            assert all(torch.equal(state[name], loaded_state[name]) for name in state), "load_state_dict must set the network's weights."

        def largest_difference(one, other):
            return max((one[name] - other[name]).abs().max().item() for name in one)

        for one, same in (first, again), (zero, zero_again):
            assert largest_difference(one, same) < 1e-3, (
                "The same seed must give the same weights, whatever the global random state, earlier training and .grad are."
            )
        assert largest_difference(first, zero) > 1e-4, "Another seed must give other weights: it decides the order of the samples."
        assert largest_difference(first, other_start) > 1e-4, "fit must start from the weights that the network has, and not draw new ones."

    @pytest.mark.parametrize(("count", "size", "channels", "classes"), [(40, (8, 8), 1, 10), (67, (4, 7), 3, 300)])
    def test_fit_trains_in_place(self, student, draw, count, size, channels, classes):
        """Every parameter is trained and stays the same tensor, for images of any number, size and kind; few images are a batch, too."""
        start, other = (drawn_start(draw, size, channels, classes) for _ in range(2))
        images, new = (draw.uniform(count, channels, *size, layout="transposed") for _ in range(2))
        labels, seed = draw.integers(0, classes, count, layout="sliced"), draw.seed()

        def probe(m):
            model = m.LeNet(size, in_channels=channels, num_classes=classes)
            model.load_state_dict(start)
            parameters = dict(model.named_parameters())
            model.fit(images, labels, seed=seed)
            after = state_of(model)
            for name, p in parameters.items():
                p.data.copy_(other[name])
            return after, model(new).detach()

        after, scores = student(probe)
        due = digit_scores(other, new, classes)
        digit_scores(after, images, classes)
        moved = all((after[name] - start[name]).abs().max() > 1e-4 for name in after)
        assert moved, "Every parameter must have been trained: at least one is as it was before."
        assert (scores - due).abs().max() < 1e-3, (
            "The parameters of before must be the network's own afterwards: change their values in place."
        )

    @measured("flags")
    def test_fit_leaves_modes_and_generators(self, student, draw):
        """Modes, of the layers too, and torch's, Python's and NumPy's generators are left as they were."""
        start, state = drawn_start(draw, (8, 8)), draw.seed()
        images, labels, seed = draw.uniform(9, 1, 8, 8), draw.integers(0, 10, 9), draw.seed()
        mode = bool(draw.bools())
        modes = mode, not mode, mode

        def probe(m):
            model = m.LeNet()
            model.load_state_dict(start)
            for part, mode in zip((model, model.conv1, model.fc2), modes, strict=True):
                part.train(mode)
            before = modes_of(model)
            torch.manual_seed(state)
            model.fit(images, labels, seed=seed)
            return state_of(model), modes_of(model) == before, torch.rand(4)

        after, kept, drawn = student(probe)
        digit_scores(after, images)
        assert all((after[name] - start[name]).abs().max() > 1e-4 for name in after), "Every parameter must have been trained."
        assert kept, "Each layer must be in the mode in which it was before."
        expected = torch.rand(4, generator=torch.Generator().manual_seed(state))
        assert torch.equal(drawn, expected), "torch's global generator must be left as it was: shuffle with one of your own."

    def test_sizes_of_one(self, agree, draw):
        """A single image, one class, and images of 4×4, of which one place is left."""
        state, one = drawn_state(draw, lenet_shapes((4, 4), 2, 1)), drawn_state(draw, lenet_shapes((5, 9), 1, 1))
        x, y = draw.normal(3, 2, 4, 4, dtype=F64), draw.normal(1, 1, 5, 9, dtype=F64)

        def probe(m):
            model = loaded(m.LeNet((4, 4), in_channels=2, num_classes=1), state)
            return [model(t).detach() for t in (x, x[:1])], loaded(m.LeNet((5, 9), num_classes=1), one)(y).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", ["channels last", *LAYOUTS])
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout):
        """Images may lie in memory in any way."""
        state = drawn_state(draw, lenet_shapes((9, 12), 3, 7))
        x = draw.normal(2, 3, 9, 12, dtype=F64, layout="contiguous" if layout == "channels last" else layout)
        if layout == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        agree(lambda m: loaded(m.LeNet((9, 12), in_channels=3, num_classes=7), state)(x).detach(), rtol=1e-9, atol=1e-9)

    def test_too_small_images_raise(self, agree, draw):
        """Three rows or columns are pooled to nothing: a ValueError."""
        classes = draw.integer(2, 99)

        def probe(m):
            endings = [raised(ValueError, lambda s=s: m.LeNet(s)) for s in [(3, 8), (8, 3), (1, 1)]]
            return endings, m.LeNet((4, 4), num_classes=classes).state_dict()["fc3.bias"].shape

        agree(probe, rtol=0, atol=0)


def conv_of(weight, bias, **settings):
    """A convolution with copies of these weights."""
    groups = settings.get("groups", 1)
    outputs, channels, *kernel = weight.shape
    conv = nn.Conv2d(channels * groups, outputs, kernel, bias=bias is not None, dtype=weight.dtype, **settings)
    conv.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return conv


def norm_of(state, **settings):
    """A batch norm in eval mode, with copies of what it takes of this state."""
    layer = nn.BatchNorm2d(len(state["running_mean"]), dtype=state["running_mean"].dtype, **settings)
    layer.load_state_dict({name: state[name] for name in layer.state_dict()})
    return layer.eval()


def folded_by(m, conv, bn):
    """What fold_batchnorm returns. Random numbers are drawn, as by whoever builds a layer: the statement allows it."""
    torch.rand(())
    return m.fold_batchnorm(conv, bn)


def drawn_pair(draw, dtype=F64):
    """Weight and bias of a convolution from 3 to 5 channels, images for it, and the state of a batch norm behind it."""
    w, b, x = draw.normal(5, 3, 2, 3, dtype=dtype), draw.normal(5, dtype=dtype), draw.normal(2, 3, 5, 6, dtype=dtype)
    return w, b, x, drawn_norm(draw, 5, dtype)


SETTINGS = {
    "plain": {},
    "stride_padding_dilation": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    "groups": {"groups": 2},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "same": {"padding": "same", "padding_mode": "circular"},
}


def settings_of(conv):
    """What a convolution is made from, as plain values."""
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    return {name: getattr(conv, name) for name in names}


@task("fold_batchnorm")
class TestFoldBatchnorm:
    @pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
    @pytest.mark.parametrize("setting", SETTINGS)
    def test_equals_the_pair(self, agree, draw, setting, biased):
        """One convolution gives what the two layers gave, with the same settings, and always with a bias."""
        settings = SETTINGS[setting]
        w, b = draw.normal(6, 4 // settings.get("groups", 1), 3, 5, dtype=F64), draw.normal(6, dtype=F64)
        x = draw.normal(2, 4, 9, 11, dtype=F64)
        conv, bn = conv_of(w, b if biased else None, **settings), norm_of(drawn_norm(draw, 6))

        def probe(m):
            folded = folded_by(m, conv, bn)
            return folded(x).detach(), settings_of(folded), folded.bias.detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
    def test_norm_without_weight_and_bias(self, agree, draw, biased):
        """affine=False: only the statistics count."""
        w, b, x, state = drawn_pair(draw)
        conv, bn = conv_of(w, b if biased else None), norm_of(state, affine=False)
        agree(lambda m: folded_by(m, conv, bn)(x).detach(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("eps", [0.0, 1e-3, 0.5])
    def test_eps(self, agree, draw, eps):
        """The norm's own eps counts, 0 included, all the more where variances are tiny."""
        w, b, x, state = drawn_pair(draw)
        state["running_var"] = draw.magnitudes(5, low=1e-16, high=1e4, dtype=F64).abs()
        state["running_var"][2] = 0 if eps else 1e-16
        conv, bn = conv_of(w, b), norm_of(state, eps=eps)
        agree(lambda m: folded_by(m, conv, bn)(x).detach(), rtol=1e-6, atol=1e-5)  # results of 1e8 for the tiniest

    def test_single_precision(self, agree, draw):
        """float32 layers give a float32 layer."""
        w, b, x, state = drawn_pair(draw, F32)
        conv, bn = conv_of(w, b), norm_of(state)

        def probe(m):
            folded = folded_by(m, conv, bn)
            return folded(x).detach(), state_of(folded)

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", with_ones(5, 3, 2, 4), ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """One channel out or in, and kernels of one row or column."""
        outputs, channels = shape[:2]
        conv = conv_of(draw.normal(*shape, dtype=F64), draw.normal(outputs, dtype=F64))
        bn, x = norm_of(drawn_norm(draw, outputs)), draw.normal(2, channels, 5, 6, dtype=F64)
        agree(lambda m: folded_by(m, conv, bn)(x).detach(), rtol=1e-9, atol=1e-9)

    def test_strides_of_memory_do_not_matter(self, agree, draw):
        """The layers may be in the memory format channels_last."""
        w, b, x, state = drawn_pair(draw)
        conv, bn = conv_of(w, b).to(memory_format=torch.channels_last), norm_of(state)
        agree(lambda m: folded_by(m, conv, bn)(x).detach(), rtol=1e-9, atol=1e-9)

    def test_norm_in_training_mode(self, agree, draw):
        """The running statistics are folded in training mode too, and neither they nor the mode change."""
        w, _, x, state = drawn_pair(draw)
        conv, bn = conv_of(w, None), norm_of(state).train()
        agree(lambda m: folded_by(m, conv, bn)(x).detach(), rtol=1e-9, atol=1e-9)

    def test_originals_stay_as_they_are(self, agree, draw):
        """Both layers keep their values, also when the folded weights are overwritten later."""
        w, b, x, state = drawn_pair(draw)
        state["weight"][:], state["running_mean"][:], state["running_var"][:] = 1, 0, 1
        pairs = [(conv_of(w, bias), norm_of(state, eps=eps)) for eps, bias in [(1e-5, b), (0.0, b), (0.0, None)]]

        def probe(m):
            results = []
            for conv, bn in pairs:  # with eps 0, weight (and bias) come out as they were
                folded = folded_by(m, conv, bn)
                results.append(folded(x).detach())
                with torch.no_grad():
                    for parameter in folded.parameters():
                        parameter.zero_()
            return results

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("frozen", [False, True])
    def test_weights_are_parameters_without_history(self, agree, draw, frozen):
        """They are leaves that require gradients, those of frozen layers too; a backward reaches them and not the originals."""
        w, b, x, state = drawn_pair(draw)
        conv, bn = (layer.requires_grad_(not frozen) for layer in (conv_of(w, b), norm_of(state)))

        def probe(m):
            folded = folded_by(m, conv, bn)
            folded(x).square().sum().backward()
            return {name: (p.is_leaf, p.requires_grad) for name, p in folded.named_parameters()}, gradients_of(folded)

        agree(probe, rtol=1e-8, atol=1e-8)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after the call what it was before, under no_grad, too."""
        w, b, x, state = drawn_pair(draw)
        conv, bn = conv_of(w, b), norm_of(state)

        def probe(m):
            with torch.set_grad_enabled(recording):
                folded = folded_by(m, conv, bn)
                return folded(x).detach(), torch.is_grad_enabled()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_settings_of_the_originals_stay(self, agree, draw):
        """Momentum and eps of the norm, and stride, padding and the like of the convolution, are afterwards what they were."""
        w, b, x, state = drawn_pair(draw)
        conv, bn = conv_of(w, b, stride=2, padding=(1, 0)), norm_of(state, eps=1e-3, momentum=0.3)

        def probe(m):
            return folded_by(m, conv, bn)(x).detach(), settings_of(conv), bn.eps, bn.momentum

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Another number of features, one included, and a norm without running statistics are ValueErrors."""
        w, b, x, state = drawn_pair(draw)
        conv, lone, bn = conv_of(w, b), conv_of(w[:1], b[:1]), norm_of(state)
        bad = [nn.BatchNorm2d(4).double(), nn.BatchNorm2d(1).double(), nn.BatchNorm2d(5, track_running_stats=False).double()]

        def probe(m):
            endings = [raised(ValueError, lambda other=other: folded_by(m, conv, other)) for other in bad]
            return endings, raised(ValueError, lambda: folded_by(m, lone, bn)), folded_by(m, conv, bn)(x).detach()

        agree(probe, rtol=1e-3, atol=1e-4)


def separable_state(draw, middle, kernel_size, outputs):
    """Weights for a depthwise separable convolution with `middle` channels between its layers."""
    return drawn_state(draw, {"0.weight": (middle, 1, kernel_size, kernel_size), "1.weight": (outputs, middle, 1, 1), "1.bias": (outputs,)})


@task("depthwise_separable")
class TestDepthwiseSeparable:
    @pytest.mark.parametrize(("multiplier", "biased"), [(1, True), (1, False), (3, True), (3, False)])
    def test_parameters(self, agree, draw, multiplier, biased):
        """Names, shapes and number: C M K² + C M O (+ O), and no bias in the first layer."""
        channels, outputs, k = draw.integer(2, 9), draw.integer(2, 9), draw.integer(2, 6)

        def probe(m):
            model = m.depthwise_separable(channels, outputs, k, multiplier=multiplier, bias=biased)
            return {name: p.shape for name, p in model.named_parameters()}, sum(p.numel() for p in model.parameters())

        agree(probe, rtol=0, atol=0)

    def test_values(self, agree, draw):
        """With weights given: every channel is filtered by itself, then the channels are mixed."""
        x, state = (
            draw.normal(2, 3, 7, 8, dtype=F64),
            separable_state(draw, 3, 4, 5),
        )
        agree(lambda m: loaded(m.depthwise_separable(3, 5, 4), state)(x).detach(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("stride", "padding"), [(2, 0), (1, 2), (3, 1)])
    def test_stride_and_padding(self, agree, draw, stride, padding):
        """Both belong to the first layer: the bias at the border isn't padding's business, and no stride is taken twice."""
        x, state = (
            draw.normal(2, 3, 9, 8, dtype=F64),
            separable_state(draw, 3, 3, 5),
        )
        agree(
            lambda m: loaded(m.depthwise_separable(3, 5, 3, stride=stride, padding=padding), state)(x).detach(),
            rtol=1e-9,
            atol=1e-9,
        )

    def test_multiplier(self, agree, draw):
        """Input channel c makes the channels c · multiplier and the following."""
        x, state = (
            draw.normal(2, 3, 7, 6, dtype=F64),
            separable_state(draw, 6, 3, 5),
        )
        agree(lambda m: loaded(m.depthwise_separable(3, 5, 3, multiplier=2), state)(x).detach(), rtol=1e-9, atol=1e-9)

    def test_without_bias(self, agree, draw):
        """With bias=False, neither layer has one."""
        x, state = draw.normal(2, 5, 6, 7, dtype=F64), drawn_state(draw, {"0.weight": (5, 1, 2, 2), "1.weight": (3, 5, 1, 1)})
        agree(lambda m: loaded(m.depthwise_separable(5, 3, 2, bias=False), state)(x).detach(), rtol=1e-9, atol=1e-9)

    def test_two_convolutions_in_a_row(self, agree, draw):
        """An nn.Sequential of exactly two nn.Conv2d, linear together: f(2x) - f(x) = f(x) - f(0)."""
        x, channels = draw.normal(2, 4, 7, 6), draw.integer(2, 9)

        def probe(m):
            torch.manual_seed(0)
            model = m.depthwise_separable(4, channels, 3, padding=1)
            y = [model(t).detach() for t in (2 * x, x, 0 * x)]
            linear = torch.allclose(y[0] - y[1], y[1] - y[2], rtol=1e-3, atol=1e-3)
            kinds = isinstance(model, nn.Sequential), [isinstance(layer, nn.Conv2d) for layer in model]
            return kinds, [settings_of(layer) for layer in model], linear, y[0].shape

        agree(probe, rtol=0, atol=0)

    def test_sizes_of_one(self, agree, draw):
        """One channel in or out, and a kernel of one entry, with everything else given too."""
        more = draw.integer(2, 9)
        settings = [(1, 5, 3), (4, 1, 3), (4, 5, 1), (1, 1, more)]

        def probe(m):
            models = [m.depthwise_separable(c, o, k, stride=2, padding=1, multiplier=more) for c, o, k in settings]
            return [([settings_of(layer) for layer in model], names_and_shapes(model)) for model in models]

        agree(probe, rtol=0, atol=0)

    def test_fresh_weights(self, student, draw):
        """Both layers have the weights and biases that nn.Conv2d draws, other ones in each model."""
        channels, outputs = draw.integer(30, 40), draw.integer(20, 30)
        first, second = student(lambda m: [state_of(m.depthwise_separable(channels, outputs, 5)) for _ in range(2)])
        for name, values in first.items():
            check_fresh(name, values, second[name], inputs=channels if name == "1.bias" else None)

    def test_gradients(self, agree, draw):
        """Both layers learn."""
        x, state = (
            draw.normal(2, 3, 7, 8, dtype=F64),
            separable_state(draw, 3, 3, 5),
        )
        g = draw.normal(2, 5, 3, 3, dtype=F64)

        def probe(m):
            model = loaded(m.depthwise_separable(3, 5, 3, stride=2), state)
            (model(x) * g).sum().backward()
            return gradients_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_impossible_multiplier_raises(self, agree, draw):
        """A multiplier of 0 or -1 is a ValueError."""
        channels = draw.integer(2, 99)

        def probe(m):
            endings = [raised(ValueError, lambda k=k: m.depthwise_separable(3, 5, 3, multiplier=k)) for k in (0, -1)]
            return endings, {name: p.shape for name, p in m.depthwise_separable(channels, 5, 3).named_parameters()}

        agree(probe, rtol=0, atol=0)


@task("conv_transpose2d")
class TestConvTranspose2d:
    @pytest.mark.parametrize(("dtype", "tol"), [(F32, 1e-4), (F64, 1e-9)], ids=["float32", "float64"])
    def test_stamps_add_up(self, agree, draw, dtype, tol):
        """Every entry of x leaves a stamp, and overlapping stamps are summed; the kernel isn't flipped."""
        x, w = draw.normal(2, 3, 5, 7, dtype=dtype), draw.normal(3, 5, 2, 4, dtype=dtype)
        agree(lambda m: m.conv_transpose2d(x, w), rtol=tol, atol=tol)

    def test_as_many_channels_out_as_in(self, agree, draw):
        """With C = O as well, the input's channels are the weight's first dimension."""
        x, w = draw.normal(2, 3, 4, 5, dtype=F64), draw.normal(3, 3, 3, 3, dtype=F64)
        agree(lambda m: m.conv_transpose2d(x, w), rtol=1e-9, atol=1e-9)

    def test_bias(self, agree, draw):
        """One number is added to each output channel, also where no stamp falls."""
        x, w, b = draw.normal(5, 3, 4, 3, dtype=F64), draw.normal(3, 5, 2, 2, dtype=F64), draw.normal(5, dtype=F64)
        agree(
            lambda m: [m.conv_transpose2d(x, w, b), m.conv_transpose2d(x, w, b, stride=(3, 4), output_padding=(1, 2))],
            rtol=1e-9,
            atol=1e-9,
        )

    @pytest.mark.parametrize("stride", [(2, 3), (1, 4)])
    def test_stride(self, agree, draw, stride):
        """Stamps lie stride apart, with overlaps or gaps."""
        x, w = draw.normal(2, 3, 4, 5, dtype=F64), draw.normal(3, 2, 3, 3, dtype=F64)
        agree(lambda m: m.conv_transpose2d(x, w, stride=stride), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("stride", "padding"), [((1, 1), (1, 2)), ((2, 3), (2, 0)), ((1, 1), (3, 4))])
    def test_padding_cuts_off(self, agree, draw, stride, padding):
        """Padding takes rows and columns away from the output, also more than the kernel is long."""
        x, w = draw.normal(2, 3, 7, 9, dtype=F64), draw.normal(3, 2, 3, 4, dtype=F64)
        agree(lambda m: m.conv_transpose2d(x, w, stride=stride, padding=padding), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("padding", "output_padding"), [((0, 0), (1, 2)), ((1, 1), (1, 0)), ((2, 1), (1, 2))])
    def test_output_padding(self, agree, draw, padding, output_padding):
        """Rows and columns are added below and to the right only; they hold stamps where padding would have cut these off."""
        x, w, b = draw.normal(2, 3, 4, 5, dtype=F64), draw.normal(3, 2, 4, 3, dtype=F64), draw.normal(2, dtype=F64)
        agree(
            lambda m: m.conv_transpose2d(x, w, b, stride=(2, 3), padding=padding, output_padding=output_padding),
            rtol=1e-9,
            atol=1e-9,
        )

    def test_sizes_of_one(self, agree, draw):
        """One image, channel, row, column or output, and kernels of one row or column: no dimension is lost, none is broadcast."""
        xs = [draw.normal(*shape, dtype=F64) for shape in with_ones(2, 3, 5, 7)]
        ws = [draw.normal(*shape, dtype=F64) for shape in [(3, 4, 2, 5), (3, 1, 2, 5), (3, 4, 1, 5), (3, 4, 2, 1), (3, 1, 1, 1)]]
        lone, b = draw.normal(1, 4, 2, 5, dtype=F64), draw.normal(4, dtype=F64)

        def probe(m):
            pairs = [(xs[0], w) for w in ws] + [(x, ws[0]) for x in xs[:2] + xs[3:]] + [(xs[2], lone)]
            one_entry = m.conv_transpose2d(xs[0], ws[2], b, padding=(2, 5))
            return [m.conv_transpose2d(x, w, b[: w.shape[1]], stride=(2, 3)) for x, w in pairs], one_entry

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout):
        """Images, kernels and bias may lie in memory in any way: transposed, with gaps, or repeated without being copied."""
        x, w = (draw.normal(*shape, dtype=F64, layout=layout) for shape in [(2, 3, 4, 5), (3, 4, 3, 2)])
        b = draw.normal(4, dtype=F64, layout="expanded" if layout == "expanded" else "sliced")
        agree(lambda m: [m.conv_transpose2d(x, w, b, stride=stride) for stride in [(1, 1), (1, 2)]], rtol=1e-9, atol=1e-9)

    def test_no_images(self, agree, draw):
        """An empty batch gives an empty batch of the right shape."""
        x, w, b = draw.normal(2, 3, 4, 5), draw.normal(3, 2, 3, 2), draw.normal(2)
        agree(lambda m: [m.conv_transpose2d(t, w, b, stride=(2, 1)) for t in (x[:0], x)], rtol=1e-4, atol=1e-4)

    def test_gradients(self, agree, draw):
        """Images, kernels and bias receive their gradients."""
        x, w, b = draw.normal(2, 3, 4, 5, dtype=F64), draw.normal(3, 2, 3, 2, dtype=F64), draw.normal(2, dtype=F64)
        g = draw.normal(2, 2, 8, 14, dtype=F64)

        def probe(m):
            leaves = [leaf(x), leaf(w), leaf(b)]
            y = m.conv_transpose2d(*leaves, stride=(2, 3), padding=(1, 1), output_padding=(1, 2))
            (y * g).sum().backward()
            return y.detach(), [t.grad for t in leaves]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Wrong channels, one included, an output_padding of the stride or more, and outputs of which nothing is left are ValueErrors."""
        x, w = draw.normal(2, 3, 2, 5), draw.normal(3, 4, 3, 2)

        def probe(m):
            bad = [
                lambda: m.conv_transpose2d(x[:, :2], w),
                lambda: m.conv_transpose2d(x[:, :1], w),
                lambda: m.conv_transpose2d(x, w[:1]),
                lambda: m.conv_transpose2d(x, w.transpose(0, 1)),
                lambda: m.conv_transpose2d(x, w, output_padding=(0, 1)),
                lambda: m.conv_transpose2d(x, w, stride=(2, 3), output_padding=(2, 0)),
                lambda: m.conv_transpose2d(x, w, padding=(2, 0)),
                lambda: m.conv_transpose2d(x, w, padding=(3, 0)),
                lambda: m.conv_transpose2d(x, w, padding=(0, 3)),
                lambda: m.conv_transpose2d(x, w, padding=(0, 4)),
            ]
            return [raised(ValueError, call) for call in bad], m.conv_transpose2d(x, w, stride=(2, 3), output_padding=(1, 2))

        agree(probe, rtol=1e-3, atol=1e-3)


@task("receptive_field")
class TestReceptiveField:
    def test_stride_one(self, agree, draw):
        """Without strides, every layer adds its kernel size less one."""
        sizes = drawn_kernel_sizes(draw, 5, most=9)
        agree(lambda m: m.receptive_field([(k, 1, 1) for k in sizes]), rtol=0, atol=0)

    def test_a_stride_counts_in_later_layers(self, agree, draw):
        """A layer's own stride doesn't widen its own window, but all that follow."""
        k, s = draw.integer(2, 9), draw.integer(2, 6)
        agree(
            lambda m: [
                m.receptive_field([(k, s, 1)]),
                m.receptive_field([(k, s, 1), (3, 1, 1)]),
                m.receptive_field([(3, 1, 1), (k, s, 1)]),
            ],
            rtol=0,
            atol=0,
        )

    def test_dilation(self, agree, draw):
        """A dilated kernel reaches over d (k - 1) + 1 entries; a kernel of 1 has nothing to stretch."""
        k, d = draw.integer(2, 9), draw.integer(2, 6)
        agree(lambda m: [m.receptive_field([(k, 1, d)]), m.receptive_field([(1, 1, d), (3, 1, 2), (k, 1, d)])], rtol=0, atol=0)

    def test_strides_multiply(self, agree, draw):
        """Neighbours are the product of all strides apart, those of kernels of size 1 too."""
        strides = drawn_kernel_sizes(draw, 4)
        agree(lambda m: m.receptive_field([(1, s, 1) for s in strides] + [(2, 1, 1), (1, 3, 1)]), rtol=0, atol=0)

    def test_random_stacks(self, agree, draw):
        """Ten stacks of layers of all kinds."""
        stacks = [[tuple(drawn_kernel_sizes(draw, 3)) for _ in range(1 + i)] for i in range(10)]
        agree(lambda m: [m.receptive_field(stack) for stack in stacks], rtol=0, atol=0)

    def test_no_layers(self, agree, draw):
        """Without layers an output is an entry of the input."""
        k = draw.integer(2, 10**6)
        agree(lambda m: [m.receptive_field([]), m.receptive_field(()), m.receptive_field([(k, 2, 1)])], rtol=0, atol=0)

    def test_tuples_and_lists(self, agree, draw):
        """Layers come as any sequence of tuples or lists."""
        k, s, d = drawn_kernel_sizes(draw, 3)
        mixed, lists = ([k, s, d], (3, 2, 1)), [[k, s, d], [3, s, 2]]
        agree(lambda m: [m.receptive_field(mixed), m.receptive_field(lists)], rtol=0, atol=0)

    def test_a_hundred_layers_are_exact(self, agree, draw):
        """Strides that multiply far beyond 2**53 stay exact, and the list of layers is left as it is."""
        stack = [(draw.integer(1, 5), draw.integer(2, 5), draw.integer(1, 4)) for _ in range(100)]
        agree(lambda m: m.receptive_field(stack), rtol=0, atol=0)

    def test_nonsense_raises(self, agree, draw):
        """A kernel size, stride or dilation below 1 is a ValueError, in the first layer and in the last."""
        k = draw.integer(2, 10**6)

        def probe(m):
            bad = [(0, 1, 1), (3, 0, 1), (3, 1, 0), (1, 1, 0), (-1, 1, 1), (3, -1, 1), (1, 1, -2)]
            endings = [raised(ValueError, lambda b=b: m.receptive_field([(k, 2, 1), b])) for b in bad]
            endings += [raised(ValueError, lambda b=b: m.receptive_field([b, (k, 2, 1)])) for b in bad]
            return endings, m.receptive_field([(k, 2, 1), (3, 1, 2)])

        agree(probe, rtol=0, atol=0)


class SmallNet(nn.Module):
    """A backbone with batch norms at two depths and a dropout, and a head called fc."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(5, 7, 2, bias=False), nn.Sequential(nn.BatchNorm2d(7), nn.ReLU()), nn.Dropout(0.5))
        self.fc = nn.Linear(7, 11, bias=False)

    def forward(self, x):
        return self.fc(self.body(self.norm(self.stem(x))).mean(dim=(2, 3)))


def small_state(draw):
    """Weights and statistics for a SmallNet."""
    state = drawn_state(draw, {"stem.weight": (5, 3, 3, 3), "stem.bias": (5,), "body.1.weight": (7, 5, 2, 2), "fc.weight": (11, 7)})
    for name, channels in [("norm", 5), ("body.2.0", 7)]:
        state |= {f"{name}.{key}": value for key, value in drawn_norm(draw, channels).items()}
    return state


def small_net(state):
    """A SmallNet in float64 with this state."""
    return loaded(SmallNet(), state)


@task("replace_head")
class TestReplaceHead:
    @measured("flags")
    def test_only_the_head_is_trainable(self, agree, draw):
        """A new head of the right shape, with a bias, and nothing else that requires gradients: for one class too, or as many as before."""
        models = [(small_net(small_state(draw)), classes) for classes in (draw.integer(12, 99), 1, 11)]

        def probe(m):
            changed = [m.replace_head(model, classes) for model, classes in models]
            return [{name: (p.shape, p.requires_grad, p.dtype) for name, p in model.named_parameters()} for model in changed]

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    def test_the_backbone_keeps_its_values(self, agree, draw):
        """All other parameters and buffers stay the same tensors, under the same names; the model is changed in place."""
        given, classes = small_net(small_state(draw)), draw.integer(2, 9)

        def probe(m):
            model = m.replace_head(given, classes)
            after = state_of(model)
            heads = [after.pop("fc.weight").shape, after.pop("fc.bias").shape]
            return model is given, after, heads

        agree(probe, rtol=0, atol=0)

    def test_output(self, agree, draw):
        """The new head works on the features of the backbone."""
        state, x = small_state(draw), draw.normal(4, 3, 6, 7, dtype=F64)
        head = drawn_state(draw, {"weight": (3, 7), "bias": (3,)})

        def probe(m):
            model = m.replace_head(small_net(state), 3)
            model.fc.load_state_dict(head)
            return model.eval()(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    def test_batch_norms_stay_in_eval_mode(self, agree, draw):
        """train() switches all but the batch norms, and eval() all, each as often as one likes."""
        state, classes = small_state(draw), draw.integer(2, 9)

        def probe(m):
            model, modes = m.replace_head(small_net(state).eval(), classes), []
            for switch in (model.train, model.train, model.eval, model.eval, model.train):
                switch()
                modes.append(modes_of(model))
            model.train(False)
            return modes, modes_of(model), model.fc.bias.shape

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    @pytest.mark.parametrize("training", [True, False])
    def test_the_call_keeps_other_modes(self, agree, draw, training):
        """Right after the call, batch norms are in eval mode, and every other module is in its mode of before, whichever that was."""
        model, classes = small_net(small_state(draw)), draw.integer(2, 99)
        modules = list(model.modules())
        for module, mode in zip(modules, draw.bools(len(modules)).tolist(), strict=True):
            module.training = mode
        model.training, model.body[3].training, model.fc.training = training, not training, not training

        def probe(m):
            changed = m.replace_head(model, classes)
            return modes_of(changed), changed.fc.bias.shape

        agree(probe, rtol=0, atol=0)

    def test_training_moves_the_head_only(self, agree, draw):
        """After steps in training mode with dropout, statistics and weights of the backbone are bit for bit the same."""
        state, x, y = small_state(draw), draw.normal(8, 3, 6, 7, dtype=F64), draw.integers(0, 3, 8)
        head = drawn_state(draw, {"weight": (3, 7), "bias": (3,)})

        def probe(m):
            model = m.replace_head(small_net(state), 3)
            model.fc.load_state_dict(head)
            model.train()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
            torch.manual_seed(0)
            for _ in range(3):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            return state_of(model), {name: p.grad is None for name, p in model.named_parameters()}

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_training_does_not_mix_images(self, agree, draw):
        """In training mode too, the batch norms use their own statistics, not the batch's."""
        state, x = small_state(draw), draw.normal(5, 3, 6, 7, dtype=F64)
        head = drawn_state(draw, {"weight": (3, 7), "bias": (3,)})

        def probe(m):
            model = m.replace_head(small_net(state), 3)
            model.fc.load_state_dict(head)
            model.train()
            model.body[3].p = 0.0
            return model(x).detach(), model(x[:1]).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_fresh_weights(self, student, draw):
        """The new head has the weights that nn.Linear draws, other ones each time, even where the old one would fit."""
        state, classes = small_state(draw), draw.integer(50, 150)

        def probe(m):
            heads = [m.replace_head(small_net(state), count).fc for count in (classes, classes, 11)]
            return [(head.weight, head.bias) for head in heads]

        (weight, bias), (other_weight, other_bias), (fitting, _) = student(probe)
        check_fresh("The new head's weight", weight, other_weight, inputs=7)
        check_fresh("The new head's bias", bias, other_bias, inputs=7)
        assert not torch.equal(fitting, state["fc.weight"]), "A head that has as many outputs already must be replaced as well."

    def test_device_and_dtype(self, agree, draw):
        """The head is made where the old one was: on the meta device here, which holds no values, and in half precision."""
        classes = draw.integer(2, 99)

        def probe(m):
            model = m.replace_head(SmallNet().to(device="meta", dtype=torch.bfloat16), classes)
            return model.fc.weight.device, model.fc.weight.dtype, model.fc.bias.device, model.fc.bias.dtype, model.fc.bias.shape

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    def test_resnet18(self, agree, draw):
        """A resnet18 of torchvision: 512 inputs, twenty batch norms that stay as they are, features for images of 32×32."""
        x, start = draw.normal(2, 3, 32, 32), draw.normal(4999)
        head = {name: value.float() for name, value in drawn_state(draw, {"weight": (3, 512), "bias": (3,)}).items()}

        def repeated(weight, **_):
            """Start values of a convolution: drawing all 11 million anew would take longer than the rest of the test."""
            scaled = start * (2 / weight[:, 0].numel()) ** 0.5
            weight.data = scaled.repeat(weight.numel() // len(start) + 1)[: weight.numel()].view_as(weight)

        def probe(m):
            from torchvision.models import resnet18

            with mock.patch.multiple(nn.init, kaiming_uniform_=mock.DEFAULT, kaiming_normal_=repeated):
                model = resnet18(weights=None)
            model = m.replace_head(model, 3)
            model.fc.load_state_dict(head)
            model.train()
            scores = model(x)
            scores.sum().backward()
            statistics = {name: value for name, value in model.state_dict().items() if "running" in name or "tracked" in name}
            trainable = [name for name, p in model.named_parameters() if p.requires_grad]
            return scores.detach(), model.fc.weight.grad, statistics, trainable, modes_of(model)

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_impossible_number_of_classes_raises(self, agree, draw):
        """0 and -1 are a ValueError that leaves the model alone."""
        model, state, classes = small_net(small_state(draw)), small_state(draw), draw.integer(2, 99)

        def probe(m):
            endings = [raised(ValueError, lambda n=n: m.replace_head(model, n)) for n in (0, -1)]
            return endings, m.replace_head(small_net(state), classes).fc.weight.shape

        agree(probe, rtol=0, atol=0)


def variations(images, padding):
    """Every variation of each image: (2, 2p + 1, 2p + 1, N, C, H, W), by mirroring, rows and columns of the shift."""
    height, width = images.shape[2:]
    places = range(2 * padding + 1)
    rows = []
    for mirrored in (images, images.flip(3)):
        padded = nn.functional.pad(mirrored, [padding] * 4)
        rows.append(torch.stack([torch.stack([padded[:, :, i : i + height, j : j + width] for j in places]) for i in places]))
    return torch.stack(rows)


def check_augmented(result, images, labels, padding):
    """Assert that each image is a variation of its own, and not each the same; return which: three (N,) tensors of indices."""
    pair = isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, torch.Tensor) for part in result)
    assert pair, "It must return a tuple of two tensors, (images, labels)."
    varied, same_labels = result
    assert varied.shape == images.shape, f"The images have the shape {tuple(varied.shape)}; it must be {tuple(images.shape)}."
    assert varied.dtype == images.dtype, f"The images are {varied.dtype}; they must be {images.dtype}."
    unchanged = same_labels.dtype == labels.dtype and torch.equal(same_labels, labels)
    assert unchanged, "The labels must come back as they are, in the same order."
    matches = (variations(images, padding) == varied).flatten(4).all(dim=4)  # (2, 2p + 1, 2p + 1, N)
    found = matches.flatten(0, 2).any(dim=0)
    assert found.all(), (
        f"{int((~found).sum())} of {len(found)} images are no window of their own original, mirrored or not, "
        f"with {padding} zeros on all sides."
    )
    mirrored, row, column = torch.unravel_index(matches.flatten(0, 2).int().argmax(dim=0), matches.shape[:3])
    if len(images) > 1:
        same = all(bool((index == index[0]).all()) for index in (mirrored, row, column))
        assert not same, "All images of the batch got the same variation: each must get its own."
    return mirrored, row, column


def drawn_images(draw, *shape):
    """Images without zeros: padding shows."""
    return draw.uniform(*shape, low=0.1, high=1.0), draw.integers(0, 10, shape[0])


@task("augment")
class TestAugment:
    @pytest.mark.parametrize(("shape", "padding"), [((41, 3, 5, 7), 2), ((31, 2, 2, 3), 4)])
    def test_windows_of_the_padded_image(self, student, draw, shape, padding):
        """Every image becomes a window of itself, mirrored or not, with zeros around it, however wide; all channels alike."""
        (images, labels), seed = drawn_images(draw, *shape), draw.seed()
        check_augmented(student(lambda m: m.augment(images, labels, padding=padding, seed=seed)), images, labels, padding)

    def test_bytes(self, student, draw):
        """Images of uint8 stay uint8, and with padding 3 all of seven shifts occur, in both directions."""
        images, labels, seed = draw.integers(1, 256, 150, 2, 5, 4).to(torch.uint8), draw.integers(0, 10, 150), draw.seed()
        _, *shifts = check_augmented(student(lambda m: m.augment(images, labels, padding=3, seed=seed)), images, labels, 3)
        everywhere = all(len(index.unique()) == 7 for index in shifts)  # a right answer fails about once in 10⁹ times
        assert everywhere, "Among 150 images, each of the seven shifts by -3 … 3 rows must occur, and by as many columns."

    def test_without_padding(self, student, draw):
        """With padding 0, images are mirrored or not, and that is all."""
        (images, labels), seed = drawn_images(draw, 31, 1, 4, 6), draw.seed()
        check_augmented(student(lambda m: m.augment(images, labels, padding=0, seed=seed)), images, labels, 0)

    def test_every_variation_has_the_same_chance(self, student, draw):
        """Among 450 images, each of the 18 variations of padding 1 occurs about equally often."""
        (images, labels), seed = drawn_images(draw, 450, 1, 4, 5), draw.seed()
        result = student(lambda m: m.augment(images, labels, padding=1, seed=seed))
        mirrored, row, column = check_augmented(result, images, labels, 1)
        # Binomial(450, 1/18): 25 ± 4.9. Binomial(450, 1/2): 225 ± 10.6. Binomial(450, 1/3): 150 ± 10. All limits together fail a
        # right answer about once in 10⁸ times.
        counts = ((mirrored * 3 + row) * 3 + column).bincount(minlength=18)
        assert 225 - 65 <= int(mirrored.sum()) <= 225 + 65, f"{int(mirrored.sum())} of 450 images are mirrored; about half must be."
        for name, index in (("rows", row), ("columns", column)):
            shifts = index.bincount(minlength=3)
            fair = shifts.min() >= 150 - 62 and shifts.max() <= 150 + 62
            assert fair, f"Of 450 images with padding 1, {shifts.tolist()} are shifted by -1, 0, 1 {name}; about 150 each must be."
        fair = counts.min() >= 2 and counts.max() <= 60
        assert fair, (
            "Mirroring, rows and columns must be independent: of 18 variations, each must occur about 25 times among 450 images; "
            f"here one occurs {int(counts.min())} times, another {int(counts.max())} times."
        )

    def test_seed_alone_decides(self, student, draw):
        """The same seed, 0 included, gives the same result whatever was drawn before; other seeds give others."""
        (images, labels), seed = drawn_images(draw, 31, 1, 5, 6), draw.seed()

        def probe(m):
            results = []
            for state, s in [(1, seed), (2, seed), (1, 0), (2, 0), (1, seed + 1)]:
                torch.manual_seed(state)
                random.seed(state)
                results.append(m.augment(images, labels, padding=2, seed=s))
            return results

        results = student(probe)
        for result in results:
            check_augmented(result, images, labels, 2)
        first, again, zero, zero_again, other = (varied for varied, _ in results)
        same = torch.equal(first, again) and torch.equal(zero, zero_again)
        assert same, "The same seed must give the same images again, whatever the global random state is."
        others = torch.equal(first, zero) or torch.equal(first, other) or torch.equal(zero, other)
        assert not others, "Other seeds must give other images."

    def test_global_random_state_is_untouched(self, student, draw):
        """Random numbers drawn after the call are those that would have come without it."""
        (images, labels), seed, state = drawn_images(draw, 23, 1, 5, 6), draw.seed(), draw.seed()

        def probe(m):
            torch.manual_seed(state)
            random.seed(state)
            result = m.augment(images, labels, padding=1, seed=seed)
            return result, torch.rand(4), [random.random() for _ in range(4)]

        result, after, python_after = student(probe)
        check_augmented(result, images, labels, 1)
        rng = random.Random(state)
        assert torch.equal(after, torch.rand(4, generator=torch.Generator().manual_seed(state))), (
            "The call must leave torch's global random state as it was."
        )
        assert python_after == [rng.random() for _ in range(4)], "The call must leave the state of Python's random as it was."

    def test_images_share_no_memory_with_the_result(self, student, draw):
        """The given images keep their values, also when the result is overwritten."""
        (images, labels), seed = drawn_images(draw, 23, 1, 5, 6), draw.seed()

        def probe(m):
            varied, same_labels = m.augment(images, labels, padding=0, seed=seed)
            result = varied.clone(), same_labels.clone()
            varied.zero_()
            return result

        check_augmented(student(probe), images, labels, 0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, student, draw, layout):
        """Images and labels may lie in memory in any way."""
        images, seed = draw.uniform(23, 2, 4, 5, low=0.1, layout=layout), draw.seed()
        labels = draw.integers(0, 10, 23, layout="expanded" if layout == "expanded" else "sliced")
        check_augmented(student(lambda m: m.augment(images, labels, padding=1, seed=seed)), images, labels, 1)

    @pytest.mark.parametrize("shape", with_ones(23, 2, 4, 5)[1:], ids=str)
    def test_sizes_of_one(self, student, draw, shape):
        """One image, channel, row or column: no dimension is lost."""
        (images, labels), seed = drawn_images(draw, *shape), draw.seed()
        check_augmented(student(lambda m: m.augment(images, labels, padding=1, seed=seed)), images, labels, 1)

    def test_no_images(self, student, draw):
        """An empty batch gives an empty batch."""
        (images, labels), seed = drawn_images(draw, 23, 3, 5, 6), draw.seed()
        results = student(lambda m: [m.augment(images[:n], labels[:n], padding=2, seed=seed) for n in (0, 23)])
        for n, result in zip((0, 23), results, strict=True):
            check_augmented(result, images[:n], labels[:n], 2)
