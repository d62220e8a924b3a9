"""Hidden suite of the module cnn."""

import math
import random
from unittest import mock

import pytest
import torch
from torch import nn

from grader.testing import measured, raised, task

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


# Helpers for tests


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
        """Far beyond 2**53, where floats have gaps."""
        size, s = 2**200 + draw.integer(0, 10**6), draw.integer(3, 99)
        agree(lambda m: [m.conv_output_size(size, 3, stride=s), m.conv_output_size(size, 5, padding=2**99)], rtol=0, atol=0)

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
            bad = [{"kernel_size": 0}, {"stride": 0}, {"stride": -1}, {"dilation": 0}, {"padding": -1}, {"size": 0, "padding": 5}]
            good = {"size": size, "kernel_size": 3}
            return [raised(ValueError, lambda b=b: m.conv_output_size(**{**good, **b})) for b in bad], m.conv_output_size(**good)

        agree(probe, rtol=0, atol=0)


@task("conv2d")
class TestConv2d:
    @pytest.mark.parametrize(("dtype", "tol"), [(F32, 1e-4), (F64, 1e-10)], ids=["float32", "float64"])
    def test_plain(self, agree, draw, dtype, tol):
        """Every output channel sums over all input channels and the window; the kernel isn't flipped."""
        x, w = draw.normal(2, 3, 7, 11, dtype=dtype), draw.normal(5, 3, 2, 4, dtype=dtype)
        agree(lambda m: m.conv2d(x, w), rtol=tol, atol=tol)

    def test_bias(self, agree, draw):
        """One number is added to each output channel."""
        x, w, b = draw.normal(5, 2, 6, 7, dtype=F64), draw.normal(5, 2, 2, 3, dtype=F64), draw.normal(5, dtype=F64)
        agree(lambda m: m.conv2d(x, w, b), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("stride", [(2, 3), (3, 1)])
    def test_stride(self, agree, draw, stride):
        """Windows start stride apart, down and across; rows and columns that are left over stay unused."""
        x, w = draw.normal(2, 3, 9, 12, dtype=F64), draw.normal(5, 3, 2, 2, dtype=F64)
        agree(lambda m: m.conv2d(x, w, stride=stride), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("padding", [(1, 3), (2, 0)])
    def test_padding(self, agree, draw, padding):
        """Zeros are added on all four sides, as many above and below as the first number says."""
        x, w, b = draw.normal(2, 3, 5, 7, dtype=F64), draw.normal(5, 3, 3, 2, dtype=F64), draw.normal(5, dtype=F64)
        agree(lambda m: m.conv2d(x, w, b, padding=padding), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("dilation", [(2, 1), (3, 2)])
    def test_dilation(self, agree, draw, dilation):
        """The kernel's entries lie dilation apart."""
        x, w = draw.normal(2, 3, 11, 9, dtype=F64), draw.normal(5, 3, 3, 4, dtype=F64)
        agree(lambda m: m.conv2d(x, w, dilation=dilation), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize(("groups", "channels", "outputs"), [(2, 6, 10), (3, 6, 3), (5, 5, 10)])
    def test_groups(self, agree, draw, groups, channels, outputs):
        """Each part of the output sees its own part of the input; with one channel a group, that is a depthwise convolution."""
        x, w = draw.normal(2, channels, 7, 6, dtype=F64), draw.normal(outputs, channels // groups, 3, 2, dtype=F64)
        agree(lambda m: m.conv2d(x, w, groups=groups), rtol=1e-10, atol=1e-10)

    def test_everything_together(self, agree, draw):
        """Stride, padding, dilation, groups and bias in one call."""
        x, w, b = draw.normal(3, 4, 13, 11, dtype=F64), draw.normal(6, 2, 3, 2, dtype=F64), draw.normal(6, dtype=F64)
        agree(
            lambda m: m.conv2d(x, w, b, stride=(2, 3), padding=(1, 2), dilation=(3, 2), groups=2),
            rtol=1e-10,
            atol=1e-10,
        )

    def test_strides_of_memory_do_not_matter(self, agree, draw):
        """Transposed images and weights, and every other row."""
        x, w = draw.normal(7, 2, 3, 18, dtype=F64).permute(1, 2, 0, 3)[..., ::2], draw.normal(2, 3, 5, 3, dtype=F64).permute(2, 3, 0, 1)
        agree(lambda m: m.conv2d(x, w, padding=(1, 0)), rtol=1e-10, atol=1e-10)

    def test_no_images(self, agree, draw):
        """An empty batch gives an empty batch of the right shape."""
        x, w, b = draw.normal(2, 3, 7, 6), draw.normal(5, 3, 3, 2), draw.normal(5)
        agree(lambda m: [m.conv2d(x[:0], w, b, stride=(2, 1)), m.conv2d(x, w, b, stride=(2, 1))], rtol=1e-4, atol=1e-4)

    def test_gradients(self, agree, draw):
        """Images, kernels and bias receive their gradients."""
        x, w, b = draw.normal(2, 4, 7, 8, dtype=F64), draw.normal(6, 2, 3, 2, dtype=F64), draw.normal(6, dtype=F64)
        g = draw.normal(2, 6, 4, 4, dtype=F64)

        def probe(m):
            leaves = [leaf(x), leaf(w), leaf(b)]
            y = m.conv2d(*leaves, stride=(2, 3), padding=(1, 2), groups=2)
            (y * g).sum().backward()
            return y.detach(), [t.grad for t in leaves]

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Wrong channel counts, groups that don't divide the outputs, and kernels larger than the image are ValueErrors."""
        x, w = draw.normal(2, 4, 5, 6), draw.normal(6, 4, 3, 3)

        def probe(m):
            bad = [
                lambda: m.conv2d(x[:, :3], w),
                lambda: m.conv2d(x, w, groups=2),
                lambda: m.conv2d(x, w[:5, :2], groups=2),
                lambda: m.conv2d(x[:, :, :2], w),
                lambda: m.conv2d(x, w, dilation=(1, 3)),
            ]
            return [raised(ValueError, call) for call in bad], m.conv2d(x, w)

        agree(probe, rtol=1e-4, atol=1e-4)


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
        """A window with a NaN gives NaN, the others their largest entry."""
        x = draw.normal(2, 3, 9, 8)
        x[0, 1, 4, 4] = x[1, 2, 0, 7] = NAN
        agree(lambda m: m.max_pool2d(x, (3, 3), stride=(2, 2), padding=(1, 1)), rtol=0, atol=0)

    def test_strides_of_memory_do_not_matter(self, agree, draw):
        """A transposed image is an image."""
        x = draw.normal(9, 3, 2, 14).permute(2, 1, 0, 3)[..., ::2]
        agree(lambda m: m.max_pool2d(x, (2, 3), padding=(1, 1)), rtol=0, atol=0)

    def test_gradients_go_to_the_largest(self, agree, draw):
        """Each output's gradient goes to one entry, which adds up what it gets from overlapping windows."""
        x, g = draw.normal(2, 3, 7, 9, dtype=F64) - 5, draw.normal(2, 3, 4, 5, dtype=F64)

        def probe(m):
            t = leaf(x)
            y = m.max_pool2d(t, (3, 3), stride=(2, 2), padding=(1, 1))
            (y * g).sum().backward()
            return y.detach(), t.grad

        agree(probe, rtol=1e-12, atol=1e-12)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Padding beyond half of the kernel, and kernels larger than the padded image, are ValueErrors."""
        x = draw.normal(2, 3, 4, 5)

        def probe(m):
            bad = [
                lambda: m.max_pool2d(x, (3, 3), padding=(2, 0)),
                lambda: m.max_pool2d(x, (4, 1), padding=(0, 1)),
                lambda: m.max_pool2d(x, (5, 2)),
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

    @pytest.mark.parametrize("eps", [1e-3, 0.7])
    def test_eps(self, agree, draw, eps):
        """The constructor's eps is added to the variance, in both modes."""
        x, state = draw.normal(3, 5, 2, 4, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer = loaded(m.BatchNorm2d(5, eps=eps), state)
            return layer(x).detach(), layer.eval()(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_far_from_zero(self, agree, draw):
        """Channels around 4000 keep their precision: the mean of squares minus the square of the mean would lose it."""
        x = draw.normal(5, 7, 6, 3) + 4000
        agree(lambda m: m.BatchNorm2d(7)(x).detach(), rtol=0, atol=2e-2)  # a float32 mean is off by a few thousandths

    @pytest.mark.parametrize("momentum", [0.1, 0.7, None])
    def test_running_statistics(self, agree, draw, momentum):
        """Three batches of different sizes move the running mean, the unbiased variance and the count."""
        batches, state = [draw.normal(n, 3, 2, n, dtype=F64) * n for n in (2, 3, 5)], drawn_norm(draw, 3)

        def probe(m):
            layer, states = loaded(m.BatchNorm2d(3, momentum=momentum), state), []
            for x in batches:
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
        """The running statistics take the batch's place, for a single image too, and nothing is updated."""
        x, state = draw.normal(4, 5, 3, 2, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer = loaded(m.BatchNorm2d(5), state).eval()
            return layer(x).detach(), layer(x[:1, :, :1, :1]).detach(), state_of(layer)

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
        """Three dimensions, other channels, or one value a channel in training are ValueErrors, and leave the buffers alone."""
        x, state = draw.normal(4, 5, 3, 2, dtype=F64), drawn_norm(draw, 5)

        def probe(m):
            layer = loaded(m.BatchNorm2d(5), state)
            bad = [x[0], x[:, :4], x[:, :1], x[:1, :, :1, :1], x[:0]]
            endings = [raised(ValueError, lambda b=b: layer(b)) for b in bad]
            return endings, state_of(layer), layer(x[:1, :, :1]).detach()

        agree(probe, rtol=1e-8, atol=1e-8)


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
        """The state_dict has the stated names; only what changes shape or channels has a shortcut with weights."""
        more = draw.integer(0, 50)

        def probe(m):
            block = m.ResidualBlock(5 + more, outputs + more, stride=stride)
            return {name: (value.shape, value.dtype) for name, value in block.state_dict().items()}

        agree(probe, rtol=0, atol=0)

    def test_fresh_batch_norms(self, agree, draw):
        """A new block's batch norms have torch's eps, momentum and initial values."""
        x = draw.normal(3, 2, 5, 4, dtype=F64)
        convolutions = {name: value for name, value in block_state(draw, 2, 3, True).items() if value.ndim == 4}

        def probe(m):
            block = m.ResidualBlock(2, 3).double()
            result = block.load_state_dict(convolutions, strict=False)
            return block(x).detach(), state_of(block), sorted(result.unexpected_keys)

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_x_is_left_as_it_is(self, agree, draw):
        """No relu works in place on x, and nothing is added to it."""
        x, state = draw.normal(2, 3, 5, 6, dtype=F64), block_state(draw, 3, 3, False)

        def probe(m):
            block, t = loaded(m.ResidualBlock(3, 3), state).eval(), x.clone()
            with torch.no_grad():
                return block(t), t

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


def digit_scores(state, images):
    """The scores of the statement's network, computed here."""
    want = lenet_shapes(images.shape[2:])
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


def drawn_start(draw, size):
    """Float32 weights that a LeNet can start from: answers that another run was given don't begin with them."""
    return {name: value.float() for name, value in drawn_state(draw, lenet_shapes(size)).items()}


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
        """The state_dict has the stated names and shapes, and nothing else."""
        size, channels = (draw.integer(4, 40), draw.integer(4, 40)), draw.integer(1, 5)

        def probe(m):
            model = m.LeNet(size, in_channels=channels)
            return {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}

        agree(probe, rtol=0, atol=0)

    def test_too_small_images_raise(self, agree, draw):
        """Three rows or columns are pooled to nothing: a ValueError."""
        classes = draw.integer(2, 99)

        def probe(m):
            endings = [raised(ValueError, lambda s=s: m.LeNet(s)) for s in [(3, 8), (8, 3), (1, 1)]]
            return endings, m.LeNet((4, 4), num_classes=classes).state_dict()["fc3.bias"].shape

        agree(probe, rtol=0, atol=0)

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
        """Same weights and seed, same result; other weights or another seed, another one. (On 66 images.)"""
        images, labels, *_ = digits.split(draw)
        images, labels, seed, size = images[:66], labels[:66], draw.seed(), tuple(images.shape[2:])
        start, other = drawn_start(draw, size), drawn_start(draw, size)

        def probe(m):
            states, before = [], []
            for weights, shuffle, noise in [(start, seed, 1), (start, seed, 2), (start, seed + 1, 1), (other, seed, 1)]:
                model = m.LeNet(size)
                model.load_state_dict(weights)
                before.append(state_of(model))
                torch.manual_seed(noise)
                model.fit(images, labels, seed=shuffle)
                states.append(state_of(model))
            return before, states

        before, (first, again, other_seed, other_start) = student(probe)
        for state in *before, first, again, other_seed, other_start:
            digit_scores(state, images)
        for state, loaded_state in zip(before, [start, start, start, other], strict=True):
            assert all(torch.equal(state[name], loaded_state[name]) for name in state), "load_state_dict must set the network's weights."

        def largest_difference(other):
            return max((first[name] - other[name]).abs().max().item() for name in first)

        assert largest_difference(again) < 1e-3, "The same seed must give the same weights, whatever the global random state is."
        assert largest_difference(other_seed) > 1e-4, "Another seed must give other weights: it decides the order of the samples."
        assert largest_difference(other_start) > 1e-4, "fit must start from the weights that the network has, and not draw new ones."

    def test_fit_trains_in_place(self, student, draw, digits):
        """All parameters have new values afterwards, and are the same tensors as before. (On 64 images.)"""
        images, labels, *_ = digits.split(draw)
        images, labels, seed, size = images[:64], labels[:64], draw.seed(), tuple(images.shape[2:])
        start = drawn_start(draw, size)

        def probe(m):
            model = m.LeNet(size)
            model.load_state_dict(start)
            parameters = dict(model.named_parameters())
            before = state_of(model)
            model.fit(images, labels, seed=seed)
            return before, {name: p.detach() for name, p in parameters.items()}, state_of(model)

        before, held, after = student(probe)
        for state in before, after:
            digit_scores(state, images)
        assert all(torch.equal(before[name], start[name]) for name in start), "load_state_dict must set the network's weights."
        moved = all((after[name] - before[name]).abs().max() > 1e-4 for name in after)
        assert moved, "Every parameter must have been trained: at least one is as it was before."
        assert held.keys() == after.keys() and all(torch.equal(held[name], after[name]) for name in after), (
            "Whoever holds the parameters must see them trained: change their values in place."
        )


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
        x, state = draw.normal(2, 4, 9, 11, dtype=F64), drawn_norm(draw, 6)
        bias = b if biased else None

        def probe(m):
            folded = m.fold_batchnorm(conv_of(w, bias, **settings), norm_of(state))
            return folded(x).detach(), settings_of(folded), folded.bias.detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
    def test_norm_without_weight_and_bias(self, agree, draw, biased):
        """affine=False: only the statistics count."""
        w, bias = draw.normal(5, 3, 2, 3, dtype=F64), draw.normal(5, dtype=F64) if biased else None
        x, state = draw.normal(2, 3, 6, 7, dtype=F64), drawn_norm(draw, 5)
        agree(lambda m: m.fold_batchnorm(conv_of(w, bias), norm_of(state, affine=False))(x).detach(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("eps", [1e-3, 0.5])
    def test_eps(self, agree, draw, eps):
        """The norm's own eps counts, all the more where the variance is 0."""
        w, b, x, state = (
            draw.normal(5, 3, 3, 3, dtype=F64),
            draw.normal(5, dtype=F64),
            draw.normal(2, 3, 5, 6, dtype=F64),
            drawn_norm(draw, 5),
        )
        state["running_var"][2] = 0
        agree(lambda m: m.fold_batchnorm(conv_of(w, b), norm_of(state, eps=eps))(x).detach(), rtol=1e-9, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 layers give a float32 layer."""
        w, b, x, state = drawn_pair(draw, F32)

        def probe(m):
            folded = m.fold_batchnorm(conv_of(w, b), norm_of(state))
            return folded(x).detach(), state_of(folded)

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_norm_in_training_mode(self, agree, draw):
        """The running statistics are folded in training mode too, and neither they nor the mode change."""
        w, _, x, state = drawn_pair(draw)

        def probe(m):
            bn = norm_of(state).train()
            return m.fold_batchnorm(conv_of(w, None), bn)(x).detach(), state_of(bn), bn.training

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("object identity")
    def test_originals_stay_as_they_are(self, agree, draw):
        """Both layers keep their values, also when the folded weights are overwritten later."""
        w, b, x, state = (
            draw.normal(5, 3, 2, 3, dtype=F64),
            draw.normal(5, dtype=F64),
            draw.normal(2, 3, 5, 6, dtype=F64),
            drawn_norm(draw, 5),
        )
        state["weight"][:], state["running_mean"][:], state["running_var"][:] = 1, 0, 1

        def probe(m):
            results = []
            for eps, bias in [(1e-5, b), (0.0, b), (0.0, None)]:  # with eps 0, weight (and bias) come out as they were
                conv, bn = conv_of(w, bias), norm_of(state, eps=eps)
                folded = m.fold_batchnorm(conv, bn)
                y = folded(x).detach()
                with torch.no_grad():
                    for p in folded.parameters():
                        p.zero_()
                results.append((y, state_of(conv), state_of(bn), folded is conv))
            return results

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    def test_weights_are_parameters_without_history(self, agree, draw):
        """They are leaves that require gradients; a backward through the result reaches them and not the originals."""
        w, _, x, state = drawn_pair(draw)

        def probe(m):
            conv, bn = conv_of(w, None), norm_of(state)
            folded = m.fold_batchnorm(conv, bn)
            folded(x).square().sum().backward()
            flags = {name: (p.is_leaf, p.requires_grad) for name, p in folded.named_parameters()}
            return flags, gradients_of(folded), [p.grad is None for p in (*conv.parameters(), *bn.parameters())]

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Another number of features, one included, and a norm without running statistics are ValueErrors."""
        w, b, x, state = (
            draw.normal(5, 3, 2, 3, dtype=F64),
            draw.normal(5, dtype=F64),
            draw.normal(2, 3, 5, 6, dtype=F64),
            drawn_norm(draw, 5),
        )

        def probe(m):
            conv = conv_of(w, b)
            bad = [nn.BatchNorm2d(4).double(), nn.BatchNorm2d(1).double(), nn.BatchNorm2d(5, track_running_stats=False).double()]
            endings = [raised(ValueError, lambda bn=bn: m.fold_batchnorm(conv, bn)) for bn in bad]
            return endings, m.fold_batchnorm(conv, norm_of(state))(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)


def separable_state(draw, middle, kernel_size, outputs):
    """Weights for a depthwise separable convolution with `middle` channels between its layers."""
    return drawn_state(draw, {"0.weight": (middle, 1, kernel_size, kernel_size), "1.weight": (outputs, middle, 1, 1), "1.bias": (outputs,)})


@task("depthwise_separable")
class TestDepthwiseSeparable:
    @pytest.mark.parametrize(("multiplier", "biased"), [(1, True), (1, False), (3, True)])
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
        """Exactly two nn.Conv2d, linear together: f(2x) - f(x) = f(x) - f(0)."""
        x, channels = draw.normal(2, 4, 7, 6), draw.integer(2, 9)

        def probe(m):
            torch.manual_seed(0)
            model = m.depthwise_separable(4, channels, 3, padding=1)
            y = [model(t).detach() for t in (2 * x, x, 0 * x)]
            linear = torch.allclose(y[0] - y[1], y[1] - y[2], rtol=1e-3, atol=1e-3)
            kinds = [isinstance(layer, nn.Conv2d) for layer in model]
            return kinds, [settings_of(layer) for layer in model], linear, y[0].shape

        agree(probe, rtol=0, atol=0)

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
        """0 and -1 are a ValueError."""
        channels = draw.integer(2, 99)

        def probe(m):
            endings = [raised(ValueError, lambda k=k: m.depthwise_separable(3, 5, 3, multiplier=k)) for k in (0, -1)]
            return endings, {name: p.shape for name, p in m.depthwise_separable(channels, 5, 3).named_parameters()}

        agree(probe, rtol=0, atol=0)


@task("conv_transpose2d")
class TestConvTranspose2d:
    @pytest.mark.parametrize(("dtype", "tol"), [(F32, 1e-4), (F64, 1e-10)], ids=["float32", "float64"])
    def test_stamps_add_up(self, agree, draw, dtype, tol):
        """Every entry of x leaves a stamp, and overlapping stamps are summed; the kernel isn't flipped."""
        x, w = draw.normal(2, 3, 5, 7, dtype=dtype), draw.normal(3, 5, 2, 4, dtype=dtype)
        agree(lambda m: m.conv_transpose2d(x, w), rtol=tol, atol=tol)

    def test_as_many_channels_out_as_in(self, agree, draw):
        """With C = O as well, the input's channels are the weight's first dimension."""
        x, w = draw.normal(2, 3, 4, 5, dtype=F64), draw.normal(3, 3, 3, 3, dtype=F64)
        agree(lambda m: m.conv_transpose2d(x, w), rtol=1e-10, atol=1e-10)

    def test_bias(self, agree, draw):
        """One number is added to each output channel, also where no stamp falls."""
        x, w, b = draw.normal(5, 3, 4, 3, dtype=F64), draw.normal(3, 5, 2, 2, dtype=F64), draw.normal(5, dtype=F64)
        agree(
            lambda m: [m.conv_transpose2d(x, w, b), m.conv_transpose2d(x, w, b, stride=(3, 4), output_padding=(1, 2))],
            rtol=1e-10,
            atol=1e-10,
        )

    @pytest.mark.parametrize("stride", [(2, 3), (1, 4)])
    def test_stride(self, agree, draw, stride):
        """Stamps lie stride apart, with overlaps or gaps."""
        x, w = draw.normal(2, 3, 4, 5, dtype=F64), draw.normal(3, 2, 3, 3, dtype=F64)
        agree(lambda m: m.conv_transpose2d(x, w, stride=stride), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize(("stride", "padding"), [((1, 1), (1, 2)), ((2, 3), (2, 0)), ((1, 1), (3, 4))])
    def test_padding_cuts_off(self, agree, draw, stride, padding):
        """Padding takes rows and columns away from the output, also more than the kernel is long."""
        x, w = draw.normal(2, 3, 7, 9, dtype=F64), draw.normal(3, 2, 3, 4, dtype=F64)
        agree(lambda m: m.conv_transpose2d(x, w, stride=stride, padding=padding), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize(("padding", "output_padding"), [((0, 0), (1, 2)), ((1, 1), (1, 0)), ((2, 1), (1, 2))])
    def test_output_padding(self, agree, draw, padding, output_padding):
        """Rows and columns are added below and to the right only; they hold stamps where padding would have cut these off."""
        x, w, b = draw.normal(2, 3, 4, 5, dtype=F64), draw.normal(3, 2, 4, 3, dtype=F64), draw.normal(2, dtype=F64)
        agree(
            lambda m: m.conv_transpose2d(x, w, b, stride=(2, 3), padding=padding, output_padding=output_padding),
            rtol=1e-10,
            atol=1e-10,
        )

    def test_strides_of_memory_do_not_matter(self, agree, draw):
        """Transposed images and weights, and every other column."""
        x, w = draw.normal(4, 2, 3, 10, dtype=F64).permute(1, 2, 0, 3)[..., ::2], draw.normal(2, 3, 3, 5, dtype=F64).permute(2, 3, 0, 1)
        agree(lambda m: m.conv_transpose2d(x, w, stride=(1, 2)), rtol=1e-10, atol=1e-10)

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

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_what_does_not_fit_raises(self, agree, draw):
        """Wrong channels, an output_padding of the stride or more, and outputs of which nothing is left are ValueErrors."""
        x, w = draw.normal(2, 3, 2, 5), draw.normal(3, 4, 3, 2)

        def probe(m):
            bad = [
                lambda: m.conv_transpose2d(x[:, :2], w),
                lambda: m.conv_transpose2d(x, w.transpose(0, 1)),
                lambda: m.conv_transpose2d(x, w, output_padding=(0, 1)),
                lambda: m.conv_transpose2d(x, w, stride=(2, 3), output_padding=(2, 0)),
                lambda: m.conv_transpose2d(x, w, padding=(2, 0)),
            ]
            return [raised(ValueError, call) for call in bad], m.conv_transpose2d(x, w, stride=(2, 3), output_padding=(1, 2))

        agree(probe, rtol=1e-4, atol=1e-4)


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
        agree(lambda m: [m.receptive_field(([k, s, d], (3, 2, 1))), m.receptive_field([[k, s, d]])], rtol=0, atol=0)

    def test_a_hundred_layers_are_exact(self, agree, draw):
        """Strides that multiply far beyond 2**53 stay exact."""
        stack = [(3, draw.integer(2, 5), 1) for _ in range(100)]
        agree(lambda m: m.receptive_field(stack), rtol=0, atol=0)

    def test_nonsense_raises(self, agree, draw):
        """A kernel size, stride or dilation below 1 is a ValueError, in the last layer too."""
        k = draw.integer(2, 10**6)

        def probe(m):
            bad = [(0, 1, 1), (3, 0, 1), (3, 1, 0), (-1, 1, 1), (1, 1, -2)]
            endings = [raised(ValueError, lambda b=b: m.receptive_field([(k, 2, 1), b])) for b in bad]
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


def modes_of(model):
    """Which modules are in training mode."""
    return {name: module.training for name, module in model.named_modules()}


@task("replace_head")
class TestReplaceHead:
    @measured("flags")
    def test_only_the_head_is_trainable(self, agree, draw):
        """A new head of the right shape, with a bias, and nothing else that requires gradients."""
        state, classes = small_state(draw), draw.integer(2, 99)

        def probe(m):
            model = m.replace_head(small_net(state), classes)
            return {name: (p.shape, p.requires_grad, p.dtype) for name, p in model.named_parameters()}

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    def test_the_backbone_keeps_its_values(self, agree, draw):
        """All other parameters and buffers are what they were, under the same names; the model is changed in place."""
        state, classes = small_state(draw), draw.integer(2, 9)

        def probe(m):
            given = small_net(state)
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
        """Right after the call, batch norms are in eval mode, and everything else is in the mode of before."""
        state, classes = small_state(draw), draw.integer(2, 99)

        def probe(m):
            model = m.replace_head(small_net(state).train(training), classes)
            return modes_of(model), model.fc.bias.shape

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
        """The new head has torch's initial weights: random, and within 1 / √inputs."""
        state, classes = small_state(draw), draw.integer(50, 150)

        def probe(m):
            heads = [m.replace_head(small_net(state), classes).fc for _ in range(2)]
            return [(head.weight, head.bias) for head in heads]

        (weight, bias), (other, _) = student(probe)
        bound = 1 / math.sqrt(7)
        right = weight.shape == (classes, 7) and bias.shape == (classes,)
        assert right, f"The new head must have {classes} outputs for 7 inputs, and a bias."
        for values in weight, bias:
            fresh = values.abs().max() <= bound and values.std() > bound / 4
            assert fresh, "The new head must have the weights that nn.Linear draws: uniform within 1 / √inputs."
        assert not torch.equal(weight, other), "The weights of a new head must be drawn at random."

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

    @measured("flags")
    def test_impossible_number_of_classes_raises(self, agree, draw):
        """0 and -1 are a ValueError that leaves the model alone."""
        state, classes = small_state(draw), draw.integer(2, 99)

        def probe(m):
            model = small_net(state)
            endings = [raised(ValueError, lambda n=n: m.replace_head(model, n)) for n in (0, -1)]
            before = model.fc.weight.shape, [p.requires_grad for p in model.parameters()], modes_of(model.train())
            return endings, before, m.replace_head(model, classes).fc.weight.shape

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
    def test_windows_of_the_padded_image(self, student, draw):
        """Every image becomes a window of itself, mirrored or not, with zeros around it; all channels alike."""
        (images, labels), seed = drawn_images(draw, 97, 3, 5, 7), draw.seed()
        check_augmented(student(lambda m: m.augment(images, labels, padding=2, seed=seed)), images, labels, 2)

    def test_bytes(self, student, draw):
        """Images of uint8 stay uint8."""
        images, labels, seed = draw.integers(1, 256, 97, 2, 7, 6).to(torch.uint8), draw.integers(0, 10, 97), draw.seed()
        check_augmented(student(lambda m: m.augment(images, labels, padding=3, seed=seed)), images, labels, 3)

    def test_without_padding(self, student, draw):
        """With padding 0, images are mirrored or not, and that is all."""
        (images, labels), seed = drawn_images(draw, 97, 1, 4, 6), draw.seed()
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
        """The same seed gives the same result whatever was drawn before; other seeds give others."""
        (images, labels), seed = drawn_images(draw, 53, 1, 5, 6), draw.seed()

        def probe(m):
            results = []
            for state, s in [(1, seed), (2, seed), (1, seed + 1), (2, seed + 2)]:
                torch.manual_seed(state)
                random.seed(state)
                results.append(m.augment(images, labels, padding=2, seed=s))
            return results

        results = student(probe)
        for result in results:
            check_augmented(result, images, labels, 2)
        first, again, *others = (varied for varied, _ in results)
        assert torch.equal(first, again), "The same seed must give the same images again, whatever the global random state is."
        assert not any(torch.equal(first, other) for other in others), "Other seeds must give other images."

    def test_global_random_state_is_untouched(self, student, draw):
        """Random numbers drawn after the call are those that would have come without it."""
        (images, labels), seed, state = drawn_images(draw, 53, 1, 5, 6), draw.seed(), draw.seed()

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

    def test_inputs_are_left_as_they_are(self, student, draw):
        """Images and labels keep their values, also when the result is overwritten."""
        (images, labels), seed = drawn_images(draw, 53, 1, 5, 6), draw.seed()

        def probe(m):
            x, y = images.clone(), labels.clone()
            varied, same_labels = m.augment(x, y, padding=0, seed=seed)
            result = varied.clone(), same_labels.clone()
            varied.zero_()
            return result, x, y

        result, x, y = student(probe)
        check_augmented(result, images, labels, 0)
        assert torch.equal(x, images) and torch.equal(y, labels), "The given images and labels must keep their values."

    def test_no_images(self, student, draw):
        """An empty batch gives an empty batch, a batch of one a batch of one."""
        (images, labels), seed = drawn_images(draw, 53, 3, 5, 6), draw.seed()
        results = student(lambda m: [m.augment(images[:n], labels[:n], padding=2, seed=seed) for n in (0, 1, 53)])
        for n, result in zip((0, 1, 53), results, strict=True):
            check_augmented(result, images[:n], labels[:n], 2)
