"""Hidden suite of the module quantization.

Rounding is where two right answers can differ by one step. Exact tests of it use scales with few bits, so that every quotient is exact;
everywhere else the numbers lie clearly nearer to one code than to the next (`near_codes`).
"""

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64
DTYPES = [torch.int8, torch.uint8, torch.int16]
ODD = torch.tensor([7, 15, 61, 63, 109, 115, 117, 119, 121])
"""Scales of these, times a power of two, divide halves exactly, but 1 / scale is rounded: its product with a half misses it."""


# Drawn inputs


def near_codes(draw, scale, *shape, low=-120, high=120, dtype=torch.float32):
    """Numbers within 0.4 steps of a multiple of scale, low to high: rounding errors can't decide on their codes."""
    steps = draw.integers(low, high + 1, *shape) + draw.uniform(*shape, low=-0.4, high=0.4, dtype=F64)
    return (steps * scale).to(dtype)


def rows_near_codes(draw, rows, columns, n=127):
    """A matrix whose rows have scales of very different sizes, and in each row an entry that maps to n or −n."""
    scale = (10 ** draw.uniform(rows, 1, low=-2, high=2, dtype=F64)).to(torch.float32)
    w = near_codes(draw, scale.double(), rows, columns, low=-n, high=n).clamp(-n * scale, n * scale)
    place = draw.integers(0, columns, rows, 1)
    sign = 1 - 2 * draw.integers(0, 2, rows, 1)
    return w.scatter(1, place, scale * n * sign)


def tame_rows(draw, rows, columns, n=127):
    """The same with rows whose largest entries are between 1/2 and 4 in size, for sums that float32 takes precisely."""
    w = rows_near_codes(draw, rows, columns, n)
    return w / w.abs().amax(1, keepdim=True) * 2.0 ** draw.integers(-1, 3, rows, 1)


def even_scale(draw, *shape):
    """Scales that divide halves exactly."""
    return ODD[draw.integers(0, len(ODD), *shape)] * 2.0 ** draw.integers(-5, 3, *shape)


def rows_of_all_sizes(draw, rows, columns, n=127, digits=30):
    """The same with largest entries from 10^−digits to 10^digits in size, both of these included."""
    w = rows_near_codes(draw, rows, columns, n).double()
    exponents = torch.linspace(-digits, digits, rows, dtype=F64)[draw.permutation(rows), None]
    return (w / w.abs().amax(1, keepdim=True) * 10**exponents).to(torch.float32)


def halves(draw, rows, n):
    """A matrix of entries half way between two codes, but for one a row that maps to n; the scales divide them exactly."""
    steps = [torch.cat([torch.tensor([float(n)]), draw.permutation(2 * n) - n + 0.5]) for _ in range(rows)]
    return torch.stack(steps) * even_scale(draw, rows, 1)


def laid_out(x):
    """The tensor x three times: its axes in reverse order in memory, as a slice, and its first row repeated without a copy."""
    axes = tuple(reversed(range(x.ndim)))
    return [x.permute(axes).contiguous().permute(axes), torch.stack([x, x], dim=-1)[..., 0], x[:1].expand(x.shape)]


def range_off_halves(draw, *shape):
    """Numbers low < 0 < high, float64, with a zero point that no rounding error can change, for 255 steps."""
    scale = 10 ** draw.uniform(*shape, low=-3, high=2, dtype=F64)
    steps = draw.integers(20, 235, *shape) + draw.uniform(*shape, low=-0.4, high=0.4, dtype=F64)
    return -steps * scale, (255 - steps) * scale


def codes(draw, dtype, *shape):
    """Codes over all that dtype can hold."""
    info = torch.iinfo(dtype)
    return draw.integers(info.min, info.max + 1, *shape).to(dtype)


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def linear(weight, bias=None):
    """A float layer with copies of the given parameters."""
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def state_of(module):
    """The module's parameters and buffers as a plain dict of copies."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def stored_bytes(module):
    """Bytes of all tensors that an object holds, in buffers, parameters or plain attributes."""
    seen, pending, total = set(), [vars(module)], 0
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, nn.Module):
            pending.append(vars(value))
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list | tuple):
            pending.extend(value)
    return total


@task("affine_qparams")
class TestAffineQparams:
    @pytest.mark.parametrize(("qmin", "qmax"), [(-128, 127), (0, 255), (-127, 127), (-8, 7), (-300, 0), (5, 36), (-32768, 32767)])
    def test_a_range_around_zero(self, agree, draw, qmin, qmax):
        """The codes cover the range, with as many steps as there are gaps between codes; the zero point is the nearest integer."""
        s, f = draw.uniform(2, low=0.05, high=0.4).tolist()
        k = draw.integer(2, qmax - qmin - 2)
        ranges = [(-(k + d) * s, (qmax - qmin - k - d) * s) for d in (f, -f)]
        agree(lambda m: [m.affine_qparams(low, high, qmin=qmin, qmax=qmax) for low, high in ranges], rtol=1e-5, atol=0)

    def test_int8_is_the_default(self, agree, draw):
        """Without qmin and qmax, the codes go from −128 to 127."""
        low, high = (value.item() for value in range_off_halves(draw))
        agree(lambda m: m.affine_qparams(low, high), rtol=1e-5, atol=0)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_zero_is_inside_of_every_range(self, agree, draw, sign):
        """A range of positive numbers only is widened down to 0, a range of negative ones up to 0, also where one end is 0."""
        near, far = draw.uniform(2, low=1, high=2).tolist()
        ends = [sorted((sign * start, sign * (3 + far))) for start in (near, 0.0)]
        agree(lambda m: [m.affine_qparams(a, b, qmin=q, qmax=q + 255) for q in (-128, 0) for a, b in ends], rtol=1e-5, atol=0)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_single_number(self, agree, draw, sign):
        """Where low and high are equal, the range reaches from there to 0."""
        value = sign * draw.uniform(1, low=1, high=9).item()
        agree(lambda m: [m.affine_qparams(value, value), m.affine_qparams(value, value, qmin=0, qmax=15)], rtol=1e-5, atol=0)

    @pytest.mark.parametrize(("qmin", "qmax"), [(-128, 127), (0, 15)])
    def test_nothing_but_zero(self, agree, draw, qmin, qmax):
        """From 0 to 0, the scale is 1.0 and the zero point qmin: no division by zero."""
        low, high = (value.item() for value in range_off_halves(draw))
        agree(
            lambda m: [m.affine_qparams(0.0, 0.0, qmin=qmin, qmax=qmax), m.affine_qparams(-0.0, 0.0), m.affine_qparams(low, high)],
            rtol=1e-5,
            atol=0,
        )

    @pytest.mark.parametrize("qmin", [-128, 0, -127, 33])
    def test_zero_points_round_halves_to_even(self, agree, draw, qmin):
        """Half way between two codes, the zero point is the even one, also where qmin is odd. (The scale is a power of two.)"""
        s, k = 2.0 ** draw.integer(-6, 6), draw.integer(3, 250)
        ranges = [(-(i + 0.5) * s, (254.5 - i) * s) for i in (k, k + 1)]
        agree(lambda m: [m.affine_qparams(low, high, qmin=qmin, qmax=qmin + 255) for low, high in ranges], rtol=0, atol=0)

    def test_tiny_and_huge_ranges(self, agree, draw):
        """Only 0 itself is special: 1e-30 is a range like any other, and so is 1e30."""
        s, k = draw.uniform(1, low=1, high=2).item(), draw.integer(9, 250)
        ranges = [(-(k + 0.3) * s * size, (254.7 - k) * s * size) for size in (2e-31, 1e-28, 1e-19, 1e-11, 1e-9, 1e-7, 1e27)]
        ranges += [(-s * 1e-30, s * 1e29), (-s * 1e29, s * 1e-30)]
        agree(lambda m: [m.affine_qparams(low, high) for low, high in ranges], rtol=1e-5, atol=0)

    def test_impossible_ranges_raise(self, agree, draw):
        """Ends in the wrong order, also on one side of 0, NaN, infinities and qmin >= qmax are a ValueError."""
        low, high = (value.item() for value in range_off_halves(draw))
        ends = [(high, low), (2 * high, high), (low, 2 * low), (math.nan, high), (low, math.nan), (math.nan, math.nan)]
        ends += [(low, math.inf), (-math.inf, high), (math.inf, math.inf), (-math.inf, -math.inf)]

        def probe(m):
            outcomes = [raised(ValueError, lambda e=e: m.affine_qparams(*e)) for e in ends]
            outcomes += [
                raised(ValueError, lambda q=q: m.affine_qparams(low, high, qmin=q[0], qmax=q[1])) for q in ((3, 3), (4, 3), (0, 0), (0, -1))
            ]
            return outcomes, m.affine_qparams(low, high)

        agree(probe, rtol=1e-3, atol=0)


@task("quantize")
class TestQuantize:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_codes(self, agree, draw, dtype):
        """Round to the nearest step, add the zero point, which may be any code: for every dtype, inside of its range."""
        info, scale = torch.iinfo(dtype), draw.uniform(1, low=0.01, high=0.2).item()
        zs = [draw.integer(info.min, info.max + 1), 0, info.min, info.max]
        xs = [near_codes(draw, scale, 7, 11, low=info.min - z, high=info.max - z) for z in zs]
        agree(lambda m: [m.quantize(x, scale, z, dtype=dtype) for x, z in zip(xs, zs, strict=True)], rtol=0, atol=0)

    def test_int8_is_the_default(self, agree, draw):
        """Without dtype, the codes are int8."""
        x, z = near_codes(draw, 0.3, 5, 3, low=-20, high=20), draw.integer(-100, 100)
        agree(lambda m: m.quantize(x, 0.3, z), rtol=0, atol=0)

    @pytest.mark.parametrize("odd", [0, 1])
    def test_halves_go_to_the_even_step(self, agree, draw, odd):
        """The quotient x / scale is rounded, halves to even, before the zero point is added: with an odd one the code is then odd."""
        scale, z = even_scale(draw).item(), 2 * draw.integer(-10, 10) + odd
        x = (torch.arange(-100, 100) + 0.5)[draw.permutation(200)] * scale
        agree(lambda m: m.quantize(x, scale, z), rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_beyond_the_range_is_its_end(self, agree, draw, dtype):
        """Steps past the end, 1e30 and infinity get the first or the last code; they don't wrap around."""
        info, scale = torch.iinfo(dtype), draw.uniform(1, low=0.01, high=0.2).item()
        z = draw.integer(info.min + 3, info.max - 3)
        ends = torch.tensor([info.min - z, info.max - z], dtype=F64)
        outside = torch.tensor([[-0.8, 0.8], [-1.2, 1.2], [-300.3, 300.3], [-70000, 70000], [-5e9, 5e9]], dtype=F64)
        x = torch.cat([(ends + outside).flatten() * scale, torch.tensor([-1e30, 1e30, -math.inf, math.inf], dtype=F64)]).float()
        x = torch.cat([x, near_codes(draw, scale, 23, low=-2, high=2)])  # and some within it
        agree(lambda m: m.quantize(x, scale, z, dtype=dtype), rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_is_computed_in_float32(self, agree, draw, dtype):
        """A quotient of 100.48 is 100.5 in float16, and rounds to another code than it should."""
        scale = draw.uniform(1, low=0.02, high=0.04).item()
        x = draw.uniform(4001, low=-125 * scale, high=125 * scale, dtype=dtype)
        steps = x.double() / scale
        x[(steps - steps.floor() - 0.5).abs() < 1e-3] = 0
        agree(lambda m: m.quantize(x, scale, 2), rtol=0, atol=0)

    def test_float64_keeps_its_digits(self, agree, draw):
        """Steps that lie 1e-6 below or above a half are told apart."""
        below = draw.bools(101)
        steps = draw.integers(-30000, 30000, 101) + torch.where(below, 0.5 - 1e-6, 0.5 + 1e-6).double()
        agree(lambda m: m.quantize(steps * 0.25, 0.25, 3, dtype=torch.int16), rtol=0, atol=0)

    def test_any_shape(self, agree, draw):
        """A number, an empty tensor, transposed, sliced and repeated ones keep their shapes."""
        scale, z = draw.uniform(1, low=0.1, high=0.3).item(), draw.integer(100, 150)
        x = near_codes(draw, scale, 5, 3, 7, low=-100, high=100)
        xs = [x[1, 2, 3], x[:0], x[:1, :, :1], x.transpose(0, 2), x[:, :, ::2], x[:1].expand(5, 3, 7)]
        agree(lambda m: [m.quantize(v, scale, z, dtype=torch.uint8) for v in xs], rtol=0, atol=0)

    def test_tiny_and_huge_scales(self, agree, draw):
        """Scales from 1e-30 to 1e30 are like any other."""
        scales, z = draw.magnitudes(15, low=1e-30, high=1e30).abs().tolist(), draw.integer(-100, 100)
        pairs = [(near_codes(draw, scale, 7, low=-20, high=20), scale) for scale in scales]
        agree(lambda m: [m.quantize(x, scale, z) for x, scale in pairs], rtol=0, atol=0)


@task("dequantize")
class TestDequantize:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_values(self, agree, draw, dtype):
        """(q − z) · scale for codes and zero points over all of the dtype."""
        q, z, scale = codes(draw, dtype, 7, 53), int(codes(draw, dtype)), draw.uniform(1, low=0.01, high=5).item()
        agree(lambda m: m.dequantize(q, scale, z), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_differences_do_not_wrap_around(self, agree, draw, dtype):
        """Zero points at either end: the differences are up to twice as large as the dtype's numbers."""
        info, scale = torch.iinfo(dtype), draw.uniform(1, low=0.01, high=5).item()
        ends = [info.min, info.max]
        q = torch.cat([torch.tensor(ends, dtype=dtype), codes(draw, dtype, 97)])
        agree(lambda m: [m.dequantize(q, scale, z) for z in ends], rtol=1e-5, atol=0)

    def test_the_zero_point_is_exactly_zero(self, agree, draw):
        """The code of 0 gives 0, not a small rest of q · scale − zero_point · scale."""
        scales, zs = draw.uniform(50, low=0.01, high=5).tolist(), draw.integers(-128, 128, 50).tolist()
        pairs = [(s, z, torch.tensor([z, 0, 7], dtype=torch.int8)) for s, z in zip(scales, zs, strict=True)]
        agree(lambda m: [m.dequantize(q, s, z) for s, z, q in pairs], rtol=1e-6, atol=0)

    def test_every_code(self, agree, draw):
        """All 256 codes of uint8, around every kind of zero point."""
        q, scale, z = torch.arange(256).to(torch.uint8), draw.uniform(1, low=0.1, high=5).item(), draw.integer(1, 255)
        agree(lambda m: [m.dequantize(q, scale, z) for z in (0, z, 255)], rtol=1e-6, atol=0)

    def test_any_shape(self, agree, draw):
        """A number, an empty tensor, transposed, sliced and repeated ones keep their shapes."""
        q, scale, z = codes(draw, torch.int8, 5, 3, 7), draw.uniform(1, low=0.1, high=5).item(), draw.integer(-128, 128)
        qs = [q[1, 2, 3], q[:0], q[:1, :, :1], q.transpose(0, 2), q[:, :, ::2], q[:1].expand(5, 3, 7)]
        agree(lambda m: [m.dequantize(v, scale, z) for v in qs], rtol=1e-5, atol=0)

    def test_tiny_and_huge_scales(self, agree, draw):
        """Scales from 1e-30 to 1e30 are like any other."""
        q, scales, z = codes(draw, torch.int16, 7), draw.magnitudes(15, low=1e-30, high=1e30).abs().tolist(), draw.integer(-9999, 9999)
        agree(lambda m: [m.dequantize(q, scale, z) for scale in scales], rtol=1e-5, atol=0)


@task("quantize_per_channel")
class TestQuantizePerChannel:
    @pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
    def test_every_channel_has_its_own_scale(self, agree, draw, dim):
        """Channels of very different sizes, along any dimension: each uses all codes from −127 to 127, also where a size is 1."""
        xs = []
        for shape in with_ones(5, 7, 3):
            others = list(shape)
            channels = others.pop(dim)
            rows = rows_near_codes(draw, channels, math.prod(others))
            xs.append(rows.view(channels, *others).movedim(0, dim).contiguous())
        agree(lambda m: [m.quantize_per_channel(x, dim) for x in xs], rtol=1e-5, atol=0)

    def test_any_layout(self, agree, draw):
        """Strides do not matter, whichever dimension the channels are."""
        xs, cubes = laid_out(rows_near_codes(draw, 5, 7)), laid_out(rows_near_codes(draw, 5, 6).view(5, 2, 3))
        pairs = [*((x, dim) for x in xs for dim in (0, 1)), *((x, dim) for x in cubes for dim in (0, 1, 2))]
        agree(lambda m: [m.quantize_per_channel(x, dim) for x, dim in pairs], rtol=1e-5, atol=0)

    def test_tiny_and_huge_channels(self, agree, draw):
        """Channels from 1e-30 to 1e30 are like any other, in one tensor too."""
        x = rows_of_all_sizes(draw, 300, 5)
        agree(lambda m: m.quantize_per_channel(x, 0), rtol=1e-5, atol=0)

    def test_a_square_matrix(self, agree, draw):
        """Where both dimensions have the same size, scales along the wrong one fit in shape only."""
        x = rows_near_codes(draw, 7, 7)
        agree(lambda m: [m.quantize_per_channel(x, 0), m.quantize_per_channel(x.T, 1)], rtol=1e-5, atol=0)

    def test_half_a_step_is_the_largest_error(self, student, draw):
        """For any numbers, what the codes stand for is within half a step of the channel's own scale."""
        x = draw.normal(11, 31) * 10 ** draw.uniform(11, 1, low=-3, high=3)
        q, scale = student(lambda m: m.quantize_per_channel(x, 0))
        assert q.dtype == torch.int8 and q.shape == x.shape, "the codes must be int8, in the shape of x"
        assert scale.dtype == torch.float32 and scale.shape == (11,), "the scales must be float32, one a channel"
        step = x.double().abs().amax(1) / 127
        error = (q.double() * scale.double()[:, None] - x.double()).abs() / step[:, None]
        assert (error <= 0.501).all(), f"a number is {error.max():.3g} steps of its channel away from what its code stands for"

    def test_halves_go_to_the_even_code(self, agree, draw):
        """Half way between two codes, the even one is taken. (Dividing by the scale is exact here; multiplying by 1 / scale isn't.)"""
        x = halves(draw, 7, 127)
        agree(lambda m: m.quantize_per_channel(x, 0), rtol=0, atol=0)

    def test_channels_of_zeros(self, agree, draw):
        """A channel that is all 0 has scale 1 and codes 0, and doesn't disturb the others."""
        x = rows_near_codes(draw, 7, 5)
        x[draw.integer(0, 7)] = 0
        agree(lambda m: [m.quantize_per_channel(x, 0), m.quantize_per_channel(x.T, 1)], rtol=1e-5, atol=0)

    def test_a_vector(self, agree, draw):
        """With one entry a channel, all codes are 127, −127 or 0."""
        x = draw.normal(11)
        x[x.abs() < 0.01] = 0.5
        x[4] = 0
        agree(lambda m: m.quantize_per_channel(x, 0), rtol=1e-5, atol=0)

    def test_float64_keeps_its_digits(self, agree, draw):
        """The scales have the dtype of x, to its precision, and steps that lie 1e-7 below or above a half are told apart."""
        x, near = rows_near_codes(draw, 5, 11).double(), halves(draw, 3, 127).double()
        near[:, 1:] *= 1 + 1e-8 * (1 - 2 * draw.integers(0, 2, 3, 254)).double()
        agree(lambda m: [m.quantize_per_channel(x, 0), m.quantize_per_channel(near, 0)], rtol=1e-9, atol=0)


@task("MinMaxObserver")
class TestMinMaxObserver:
    def test_the_range_grows(self, agree, draw):
        """After each batch, low and high are the extremes of all batches so far; they start at +inf and −inf."""
        batches = [draw.normal(5, 3) * size for size in (1, 3, 0.1, 9, 2)]

        def probe(m):
            observer = m.MinMaxObserver()
            seen = [(observer.low.clone(), observer.high.clone())]
            for x in batches:
                observer(x)
                seen.append((observer.low.clone(), observer.high.clone()))
            return seen

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("C", [3, 1, 129])
    def test_a_range_for_each_channel(self, agree, draw, C):
        """With channels, dimension 1 counts them, whatever other dimensions there are; a single channel is one, too."""
        batches = [draw.normal(7, C, 5, 2) * 3, draw.normal(2, C), draw.normal(3, C, 7) + draw.normal(C, 1) * 4, draw.normal(1, C, 1) * 9]

        def probe(m):
            observer = m.MinMaxObserver(C)
            seen = [(observer.low.clone(), observer.high.clone())]
            for x in batches:
                observer(x)
                seen.append((observer.low.clone(), observer.high.clone()))
            return seen

        agree(probe, rtol=0, atol=0)

    def test_any_shape_and_layout(self, agree, draw):
        """A number, a vector, and tensors whose entries don't lie one after another are seen as others."""
        batches = [
            draw.normal(),
            draw.normal(5),
            *(draw.normal(5, 3, 7, 2, layout=layout) * size for size, layout in enumerate(LAYOUTS, 4)),
        ]

        def probe(m):
            one, each, seen = m.MinMaxObserver(), m.MinMaxObserver(3), []
            for x in batches:
                one(x)
                if x.ndim > 1:
                    each(x)
                seen.append((one.low.clone(), one.high.clone(), each.low.clone(), each.high.clone()))
            return seen

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("channels", [None, 5])
    def test_scale_and_zero_point(self, agree, draw, channels):
        """The 255 steps cover the range of all batches, for each channel; scales are float32, zero points int32."""
        low, high = range_off_halves(draw, *[] if channels is None else [channels])
        batches = [torch.stack(ends).float() for ends in ([low / 3, high / 2], [low, high / 5], [low / 7, high])]

        def probe(m):
            observer = m.MinMaxObserver(channels)
            for x in batches:
                observer(x)
            return observer.qparams()

        agree(probe, rtol=1e-5, atol=0)

    def test_zero_is_inside_of_every_range(self, agree, draw):
        """Channels of positive or negative values only are widened to 0; one of zeros gets scale 1 and zero point −128."""
        x = draw.uniform(7, 3, low=2, high=5) * torch.tensor([1.0, -1.0, 0.0])

        def probe(m):
            observer, alone = m.MinMaxObserver(3), [m.MinMaxObserver() for _ in range(3)]
            observer(x)
            for i, one in enumerate(alone):
                one(x[:, i])
            return observer.qparams(), [one.qparams() for one in alone], observer.low, observer.high

        agree(probe, rtol=1e-5, atol=0)

    def test_tiny_and_huge_ranges(self, agree, draw):
        """Channels with values from 1e-30 to 1e30 each get a scale of their own size."""
        low, high = range_off_halves(draw, 29)
        sizes = 10.0 ** (draw.permutation(29) * 2 - 28)
        x = (torch.stack([low, high]) / (high - low) * sizes).float()

        def probe(m):
            observer = m.MinMaxObserver(29)
            observer(x)
            return observer.qparams()

        agree(probe, rtol=1e-5, atol=0)

    @measured("flags, object identity")
    def test_passes_on_what_it_gets(self, agree, draw):
        """What comes back is the same tensor, gradients pass, and the buffers stay out of the graph, in both modes."""
        x, w = draw.normal(5, 3), draw.normal(5, 3)

        def probe(m):
            observer, out = m.MinMaxObserver(), []
            for training in (True, False):
                v = leaf(x * (2 - training))
                h = v * 2
                y = observer.train(training)(h)
                (y * w).sum().backward()
                out.append((y is h, v.grad, observer.low.requires_grad, observer.high.requires_grad, observer.low.clone()))
            return out, observer.high

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("channels", [None, 3])
    def test_an_empty_batch_changes_nothing(self, agree, draw, channels):
        """Without entries there is nothing to see, first or later, and the empty tensor is returned."""
        x = draw.normal(5, 3, 2)

        def probe(m):
            observer = m.MinMaxObserver(channels)
            seen = [observer(x[:0]), observer(x[:, :, :0]), observer.low.clone()]
            observer(x)
            return seen, observer(x[:0]).shape, observer(x[:, :, :0]).shape, observer.low, observer.high

        agree(probe, rtol=0, atol=0)

    def test_zero_points_round_halves_to_even(self, agree, draw):
        """Half way between two codes, the zero point is the even one. (Dividing by the scale is exact here.)"""
        below = draw.permutation(250)[:9] + 1.5
        ranges = torch.stack([-below, 255 - below]) * even_scale(draw, 9)

        def probe(m):
            observer = m.MinMaxObserver(9)
            observer(ranges)
            return observer.qparams()

        agree(probe, rtol=0, atol=0)

    def test_the_range_is_state(self, agree, draw):
        """The range is in two buffers and nowhere else: state_dict has them, and `.to` moves them."""
        x = torch.stack([end.float() for end in range_off_halves(draw, 3)])

        def probe(m):
            observer = m.MinMaxObserver(3)
            observer(x)
            buffers, count = dict(observer.named_buffers()), len(list(observer.parameters()))
            state = state_of(observer)
            return buffers, state, count, observer.to("meta").low.device.type, observer.high.device.type

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
    def test_a_loaded_range_counts(self, agree, draw, used):
        """Scale and zero point are those of the range that was loaded, whatever was seen before, and the range goes on from there."""
        low, high = (end.float() for end in range_off_halves(draw, 3))
        first, second = torch.stack([low, high / 3]), torch.stack([low / 3, high])

        def probe(m):
            observer, other = m.MinMaxObserver(3), m.MinMaxObserver(3)
            if used:
                other(first * 100)
                other.qparams()
            observer(first)
            other.load_state_dict(state_of(observer))
            loaded = other.qparams()
            other(second)
            return loaded, other.low, other.high, other.qparams()

        agree(probe, rtol=1e-5, atol=0)

    def test_nothing_seen_is_an_error(self, agree, draw):
        """Asking for qparams before the first value is a RuntimeError, also after an empty batch; after a value it works."""
        x = torch.stack(range_off_halves(draw, 3)).float()

        def probe(m):
            ends = []
            for channels in (None, 3):
                observer = m.MinMaxObserver(channels)
                ends.append(raised(RuntimeError, observer.qparams))
                observer(x[:0])
                ends.append(raised(RuntimeError, observer.qparams))
                loaded = m.MinMaxObserver(channels)
                loaded.load_state_dict(state_of(observer))
                ends.append(raised(RuntimeError, loaded.qparams))
                observer(x)
                ends.append((observer.low, observer.high))
            return ends, observer.qparams()

        agree(probe, rtol=1e-3, atol=0)


@task("PercentileObserver")
class TestPercentileObserver:
    @pytest.mark.parametrize("tail", [0.005, 0.05, 0.49])
    def test_quantiles_at_both_ends(self, agree, draw, tail):
        """The range reaches from the quantile tail to the quantile 1 − tail."""
        x = draw.uniform(1001, low=-3, high=8)

        def probe(m):
            observer = m.PercentileObserver(tail)
            observer.observe(x)
            return observer.range()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_between_two_values(self, agree, draw):
        """With 8 values in steps of 7, the quantiles 1/4 and 3/4 lie at the positions 1.75 and 5.25."""
        start = draw.integer(-50, 50)
        x = (draw.permutation(8) * 7 + start).float()

        def probe(m):
            observer = m.PercentileObserver(0.25)
            observer.observe(x.view(2, 4))
            return observer.range()

        agree(probe, rtol=1e-5, atol=1e-4)

    def test_outliers_do_not_stretch_the_range(self, agree, draw):
        """One value of ±10,000 at each end of 2,001 is left out at the default tail of 0.001, and four at a tail of 0.01."""
        x = draw.normal(2001)
        one, other = x.clone(), x.clone()
        one[500], one[1500] = -1e4, 1e4
        other[[3, 77, 1200, 1999]], other[[8, 99, 1300, 1998]] = 1e4, -1e4

        def probe(m):
            default, wide = m.PercentileObserver(), m.PercentileObserver(0.01)
            default.observe(one)
            wide.observe(other)
            return default.range(), wide.range()

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_quantiles_of_all_batches_together(self, agree, draw):
        """Batches of different sizes and ranges count value by value; empty ones count nothing; the range can be asked for in between."""
        batches = [draw.normal(7, 43) * 5, draw.normal(0, 3), draw.normal(11) + 20, draw.normal(3, 5, 6) - 4, draw.normal(301)]

        def probe(m):
            observer, seen = m.PercentileObserver(0.1), []
            for x in batches:
                observer.observe(x)
                seen.append(observer.range())
            return seen

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_tail_zero_is_the_whole_range(self, agree, draw):
        """With nothing left out, the range goes from the smallest to the largest value, of whatever size."""
        batches = [draw.normal(53), draw.normal(5, 7) * 2, draw.magnitudes(11, low=1e-30, high=1e30)]

        def probe(m):
            observer, seen = m.PercentileObserver(0.0), []
            for x in batches:
                observer.observe(x)
                seen.append(observer.range())
            return seen

        agree(probe, rtol=1e-6, atol=0)

    def test_a_single_value(self, agree, draw):
        """One value is both ends of the range, at any tail; it may be a tensor without dimensions."""
        x = draw.normal()

        def probe(m):
            observers = [m.PercentileObserver(tail) for tail in (0.0, 0.001, 0.3)]
            for observer in observers:
                observer.observe(x)
            return [observer.range() for observer in observers]

        agree(probe, rtol=1e-6, atol=0)

    def test_any_layout(self, agree, draw):
        """The values count, not how they lie in memory."""
        batches = [draw.normal(7, 5, 11, layout=layout) for layout in LAYOUTS]

        def probe(m):
            observer, seen = m.PercentileObserver(0.1), []
            for x in batches:
                observer.observe(x)
                seen.append(observer.range())
            return seen

        agree(probe, rtol=1e-4, atol=1e-5)

    @measured("object lifetimes")
    def test_graphs_are_let_go(self, agree, draw):
        """The values are kept without the graph that they came from: what was computed before can be freed."""
        x = draw.normal(53)

        def probe(m):
            observer, v = m.PercentileObserver(0.1), leaf(x)
            observer.observe(v * 2)
            alive = weakref.ref(v)
            del v
            gc.collect()
            return alive() is None, observer.range()

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_many_values(self, agree, draw):
        """All of 120,007 values count, in 3 batches, and no two of them are taken for one."""
        x = draw.permutation(120_007) + float(draw.integer(-500_000, 500_000))

        def probe(m):
            observer = m.PercentileObserver(0.01)
            for part in x.split(50_000):
                observer.observe(part)
            return observer.range()

        agree(probe, rtol=0, atol=0.3)

    def test_early_values_are_not_forgotten(self, agree, draw):
        """The extremes of a small first batch still count after 180,000 other values."""
        first, batches = draw.uniform(5, low=2, high=9) * torch.tensor([1, -1, 1, -1, 1]), draw.uniform(3, 60_000, low=-1, high=1)

        def probe(m):
            observer = m.PercentileObserver(0.0)
            for x in (first, *batches):
                observer.observe(x)
            return observer.range()

        agree(probe, rtol=1e-6, atol=0)

    def test_later_changes_do_not_count(self, agree, draw):
        """Activations are often overwritten in place after the call: values count as they were."""
        x = draw.uniform(101, low=1, high=2)

        def probe(m):
            observer, mine = m.PercentileObserver(0.1), x.clone()
            observer.observe(mine)
            mine.mul_(-100)
            return observer.range(), mine

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_and_gradients(self, agree, draw, dtype):
        """16-bit values and values that are part of a graph are observed like others, in one observer too."""
        x, y = draw.uniform(101, low=-1, high=1, dtype=dtype), draw.uniform(52, low=-2, high=3)

        def probe(m):
            observer = m.PercentileObserver(0.125)
            observer.observe(leaf(x) * 1)
            observer.observe(leaf(y) * 1)
            return observer.range()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_wrong_calls_raise(self, agree, draw):
        """A tail below 0 or from 0.5 on is a ValueError, a range of nothing a RuntimeError."""
        x = draw.normal(0, 5), draw.normal(21)

        def probe(m):
            ends = [raised(ValueError, lambda t=t: m.PercentileObserver(t)) for t in (-0.01, 0.5, 99.9)]
            observer = m.PercentileObserver(0.1)
            ends.append(raised(RuntimeError, observer.range))
            observer.observe(x[0])
            ends.append(raised(RuntimeError, observer.range))
            observer.observe(x[1])
            return ends, observer.range()

        agree(probe, rtol=1e-3, atol=1e-3)


@task("int8_matmul")
class TestInt8Matmul:
    @pytest.mark.parametrize(("za", "zb"), [(-128, 127), (127, -128), (3, 0), (0, -5), (0, 0)])
    def test_exact_product(self, agree, draw, za, zb):
        """Both zero points are taken off, each from its own matrix; nothing wraps around."""
        a, b = codes(draw, torch.int8, 5, 11), codes(draw, torch.int8, 11, 7)
        agree(lambda m: m.int8_matmul(a, b, za, zb), rtol=0, atol=0)

    def test_any_sizes_and_zero_points(self, agree, draw):
        """Zero points over the whole range; M, K and N may be 1."""
        pairs = [(codes(draw, torch.int8, M, K), codes(draw, torch.int8, K, N)) for M, K, N in with_ones(3, 53, 2)]
        za, zb = draw.integer(-128, 128), draw.integer(-128, 128)
        agree(lambda m: [m.int8_matmul(a, b, za, zb) for a, b in pairs], rtol=0, atol=0)

    def test_long_sums(self, agree, draw):
        """8,191 products of up to 255²: float32 can't tell such sums apart, int32 can."""
        a, b = draw.integers(-128, -20, 7, 8191).to(torch.int8), draw.integers(20, 128, 8191, 5).to(torch.int8)
        agree(lambda m: [m.int8_matmul(a, b, 127, -128), m.int8_matmul(a, b, 100, 0)], rtol=0, atol=0)

    def test_a_single_sum_at_the_limit(self, agree, draw):
        """K = 30,000 with the largest differences stays below 2³¹."""
        a, b = torch.full((1, 30000), 127, dtype=torch.int8), torch.full((30000, 1), -128, dtype=torch.int8)
        a[0, draw.integer(0, 30000)] = draw.integer(0, 100)
        agree(lambda m: m.int8_matmul(a, b, -128, 127), rtol=0, atol=0)

    def test_nothing_to_add(self, agree, draw):
        """K = 0 gives zeros, M = 0 no rows."""
        a, b = codes(draw, torch.int8, 5, 11), codes(draw, torch.int8, 11, 7)
        agree(lambda m: [m.int8_matmul(a[:, :0], b[:0], 3, 5), m.int8_matmul(a[:0], b, 3, 5), m.int8_matmul(a, b, 3, 5)], rtol=0, atol=0)

    def test_any_layout(self, agree, draw):
        """Strides do not matter."""
        pairs = list(zip(laid_out(codes(draw, torch.int8, 11, 5)), laid_out(codes(draw, torch.int8, 5, 7)), strict=True))
        agree(lambda m: [m.int8_matmul(a, b, -7, 90) for a, b in pairs], rtol=0, atol=0)


@task("QuantizedLinear")
class TestQuantizedLinear:
    @pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
    def test_from_float(self, agree, draw, with_bias):
        """Every row gets its own scale; codes are int8; the bias stays float32, or there is none."""
        source = linear(rows_near_codes(draw, 7, 11), draw.normal(7) if with_bias else None)

        def probe(m):
            layer = m.QuantizedLinear.from_float(source)
            return state_of(layer), layer.weight, layer.scale, layer.bias

        agree(probe, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("batches", [((5,), (3, 2), (129,)), ((), (1,), (0,))], ids=["usual", "unusual"])
    def test_forward(self, agree, draw, batches):
        """The product of x and the weights that the codes stand for, plus bias, for any batch dimensions."""
        source = linear(tame_rows(draw, 7, 11), draw.normal(7))
        xs = [draw.normal(*batch, 11) for batch in batches]

        def probe(m):
            layer = m.QuantizedLinear.from_float(source)
            return [layer(x) for x in xs]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_other_sizes(self, agree, draw):
        """Any sizes go, 1 included."""
        pairs = [(linear(tame_rows(draw, *sizes), draw.normal(sizes[0])), draw.normal(2, 3, sizes[1]) / 8) for sizes in with_ones(301, 129)]

        def probe(m):
            layers = [(m.QuantizedLinear.from_float(source), x) for source, x in pairs]
            return [(layer(x), layer.weight, layer.scale, layer.bias) for layer, x in layers]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_any_layout(self, agree, draw):
        """Strides matter neither in the float weight nor in x."""
        sources, xs = [], [draw.normal(3, 5, 11, layout=layout) for layout in LAYOUTS]
        for w in laid_out(tame_rows(draw, 7, 11)):
            sources.append(linear(w, draw.normal(7)))
            sources[-1].weight.data = w

        def probe(m):
            layers = [m.QuantizedLinear.from_float(source) for source in sources]
            return [(state_of(layer), layer(x)) for layer, x in zip(layers, xs, strict=True)]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_halves_go_to_the_even_code(self, agree, draw):
        """Half way between two codes, from_float takes the even one. (Dividing is exact here; multiplying by 1 / scale isn't.)"""
        source = linear(halves(draw, 7, 127))
        agree(lambda m: state_of(m.QuantizedLinear.from_float(source)), rtol=0, atol=0)

    def test_tiny_and_huge_rows(self, agree, draw):
        """Rows from 1e-30 to 1e30 are like any other."""
        source = linear(rows_of_all_sizes(draw, 29, 5))
        agree(lambda m: state_of(m.QuantizedLinear.from_float(source)), rtol=1e-5, atol=0)

    def test_error_bound(self, student, draw):
        """No output is further from the float layer's than Σ |x_i| · scale / 2, with rows of very different sizes."""
        w, b, x = draw.normal(13, 47) * 10 ** draw.uniform(13, 1, low=-2, high=2), draw.normal(13), draw.normal(29, 47)
        source = linear(w, b)
        y = student(lambda m: m.QuantizedLinear.from_float(source)(x))
        assert y.shape == (29, 13) and y.dtype == torch.float32, "the output must be float32, of shape (29, 13)"
        exact = x.double() @ w.double().T + b.double()
        bound = x.double().abs().sum(1, keepdim=True) * w.double().abs().amax(1) / 127 / 2
        worst = ((y.double() - exact).abs() / bound).max()
        assert worst <= 1.001, f"an output is {worst:.3g} times as far from the float layer's as Σ |x_i| · scale / 2 allows"

    def test_state_round_trip(self, agree, draw):
        """A new layer that loads the state computes the same; it needs nothing but the buffers."""
        w, x = tame_rows(draw, 5, 7), draw.normal(3, 7)
        source, without_bias = linear(w, draw.normal(5)), linear(w)

        def probe(m):
            other, bare = m.QuantizedLinear(7, 5), m.QuantizedLinear(7, 5, bias=False)
            other.load_state_dict(m.QuantizedLinear.from_float(source).state_dict())
            bare.load_state_dict(m.QuantizedLinear.from_float(without_bias).state_dict())
            return other(x), bare(x), state_of(other), state_of(bare)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_forward_follows_the_state(self, agree, draw):
        """Codes, scales and bias that are loaded into a converted layer count at once, and so do later changes of them."""
        q, scale, b = codes(draw, torch.int8, 5, 7), draw.uniform(5, low=0.01, high=0.1), draw.normal(5)
        source, x = linear(draw.normal(5, 7), torch.ones(5)), draw.normal(3, 7)

        def probe(m):
            layer = m.QuantizedLinear.from_float(source)
            outputs = [layer(x)]
            layer.load_state_dict({"weight": q, "scale": scale, "bias": b})
            outputs.append(layer(x))
            for buffer in (layer.weight, layer.scale, layer.bias):
                buffer.copy_(buffer.flip(0))
                outputs.append(layer.eval()(x))
            return outputs

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("object identity")
    @pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
    def test_bytes(self, agree, draw, with_bias):
        """A byte a weight, four a scale and four a bias is all that a layer stores, after a forward pass too."""
        source, x = linear(tame_rows(draw, 31, 53), draw.normal(31) if with_bias else None), draw.normal(3, 53)

        def probe(m):
            layer = m.QuantizedLinear.from_float(source)
            y = layer(x)
            return stored_bytes(layer), sum(v.numel() * v.element_size() for v in layer.state_dict().values()), y

        agree(probe, rtol=1e-3, atol=1e-3)

    @measured("flags")
    def test_three_buffers_and_no_parameters(self, agree, draw):
        """All that a layer has are buffers of these names, new or converted, with a bias or without; none requires a gradient."""
        w, x = tame_rows(draw, 5, 7), draw.normal(3, 7)
        source, without_bias = linear(w, draw.normal(5)), linear(w)

        def probe(m):
            converted = [m.QuantizedLinear.from_float(layer) for layer in (source, without_bias)]
            forms = []
            for layer in (m.QuantizedLinear(7, 5), m.QuantizedLinear(7, 5, bias=False), *converted):
                layer(x)
                buffers = [(name, b.dtype, b.shape, b.requires_grad) for name, b in sorted(layer.named_buffers())]
                forms.append((buffers, sorted(layer.state_dict()), len(list(layer.parameters()))))
            return forms, converted[0](x)

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_a_new_layer(self, agree, draw):
        """Before anything is loaded: codes and bias of zeros, scales of ones."""
        b, x = draw.normal(5), draw.normal(3, 7)

        def probe(m):
            layer = m.QuantizedLinear(7, 5)
            fresh = state_of(layer)
            layer.bias.copy_(b)
            return fresh, layer(x), state_of(m.QuantizedLinear(3, 2, bias=False))

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_later_changes_of_the_float_layer(self, agree, draw):
        """What happens to the float layer after the conversion doesn't reach the quantized one."""
        w, b = rows_near_codes(draw, 5, 7), draw.normal(5)

        def probe(m):
            source = linear(w, b)
            layer = m.QuantizedLinear.from_float(source)
            with torch.no_grad():
                source.weight.zero_()
                source.bias.zero_()
            return state_of(layer)

        agree(probe, rtol=1e-5, atol=0)

    def test_rows_of_zeros_and_gradients(self, agree, draw):
        """A row of zeros has scale 1 and gives the bias; gradients reach x."""
        w, b, x, g = tame_rows(draw, 5, 7), draw.normal(5), draw.normal(3, 7), draw.normal(3, 5)
        w[draw.integer(0, 5)] = 0
        source = linear(w, b)

        def probe(m):
            layer, v = m.QuantizedLinear.from_float(source), leaf(x)
            y = layer(v)
            (y * g).sum().backward()
            return y.detach(), v.grad, layer.scale

        agree(probe, rtol=1e-4, atol=1e-4)


@task("fake_quantize")
class TestFakeQuantize:
    @pytest.mark.parametrize(("qmin", "qmax"), [(-128, 127), (0, 255), (-8, 7), (-15, 0)])
    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_value_and_gradient(self, agree, draw, qmin, qmax, dtype, rtol):
        """Numbers inside move to the nearest code and pass their gradient on; those outside move to the end and pass none."""
        scale, z = draw.uniform(1, low=0.05, high=0.2).item(), draw.integer(qmin, qmax + 1)
        x = near_codes(draw, scale, 7, 31, low=qmin - z - 20, high=qmax - z + 20, dtype=dtype)
        g = draw.normal(7, 31, dtype=dtype)

        def probe(m):
            v = leaf(x)
            y = m.fake_quantize(v, scale, z, qmin, qmax)
            (y * g).sum().backward()
            return y.detach(), v.grad

        agree(probe, rtol=rtol, atol=rtol / 100)

    def test_gradient_is_zero_outside(self, agree, draw):
        """Far and just outside, on both sides, the gradient is exactly 0; inside it is what came in."""
        steps = torch.tensor([-900.0, -130.0, -129.0, -128.0, -127.0, 0.0, 126.0, 127.0, 128.0, 129.0, 900.0]) - 7
        g = draw.uniform(11, low=1, high=2)

        def probe(m):
            v = leaf(steps)
            y = m.fake_quantize(v, 1.0, 7, -128, 127)
            (y * g).sum().backward()
            return y.detach(), v.grad

        agree(probe, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
    def test_nothing_passes_outside(self, agree, draw, bad):
        """Where x was cut off, the gradient is exactly 0 whatever arrives, NaN and infinity included."""
        x = near_codes(draw, 0.25, 7, 31, low=-18, high=17)
        g = torch.where((torch.round(x / 0.25) + 3).clamp(-8, 7) == torch.round(x / 0.25) + 3, draw.normal(7, 31), bad)

        def probe(m):
            v = leaf(x)
            y = m.fake_quantize(v, 0.25, 3, -8, 7)
            y.backward(g)
            return y.detach(), v.grad

        agree(probe, rtol=1e-5, atol=1e-7)

    def test_the_rounded_code_decides(self, agree, draw):
        """127.25 steps round to the last code, and pass their gradient on; 127.5 and 127.75 round to 128, and don't."""
        scale = 2.0 ** draw.integer(-5, 3)
        steps = torch.tensor([-128.75, -128.5, -128.25, -127.75, 126.5, 127.25, 127.5, 127.75])
        g = draw.uniform(8, low=1, high=2)

        def probe(m):
            v = leaf(steps * scale)
            y = m.fake_quantize(v, scale, 0, -128, 127)
            (y * g).sum().backward()
            return y.detach(), v.grad

        agree(probe, rtol=1e-6, atol=0)

    def test_large_numbers_leave_no_rest(self, agree, draw):
        """What is cut off is exactly the end of the range: 1000 + (0.127 − 1000) would be off in the fourth digit."""
        scale, x = draw.uniform(1, low=0.0001, high=0.001).item(), draw.magnitudes(53, low=0.01, high=1000)
        agree(lambda m: m.fake_quantize(x, scale, 3, -128, 127), rtol=1e-5, atol=1e-8)

    @pytest.mark.parametrize("odd", [0, 1])
    def test_halves_go_to_the_even_step(self, agree, draw, odd):
        """The quotient x / scale is rounded, halves to even, before the zero point is added."""
        scale, z = even_scale(draw).item() / 64, 2 * draw.integer(-10, 10) + odd
        x = (torch.arange(-100, 100) + 0.5)[draw.permutation(200)] * scale
        agree(lambda m: m.fake_quantize(x, scale, z, -128, 127), rtol=1e-5, atol=0)

    def test_float64_keeps_its_digits(self, agree, draw):
        """In float64, steps that lie 1e-7 below or above a half are told apart."""
        below = draw.bools(101)
        x = (draw.integers(-100, 100, 101) + torch.where(below, 0.5 - 1e-7, 0.5 + 1e-7).double()) * 0.25
        agree(lambda m: m.fake_quantize(x, 0.25, 3, -128, 127), rtol=1e-9, atol=0)

    def test_tiny_and_huge_scales(self, agree, draw):
        """Scales from 1e-30 to 1 are like any other."""
        scales, z = (10.0 ** -draw.permutation(31).double()).tolist(), draw.integer(-100, 100)
        pairs = [(near_codes(draw, scale, 7, low=-20, high=20), scale) for scale in scales]
        agree(lambda m: [m.fake_quantize(x, scale, z, -128, 127) for x, scale in pairs], rtol=1e-5, atol=0)

    @pytest.mark.parametrize("shape", [(7, 1), (11,), (), (7, 11)], ids=str)
    def test_scales_and_zero_points_for_channels(self, agree, draw, shape):
        """Tensors that broadcast give every channel its own scale and zero point."""
        scale, z = draw.uniform(*shape, low=0.01, high=0.2), draw.integers(-6, 6, *shape).to(torch.int32)
        x, g = near_codes(draw, scale.double(), 7, 11, low=-16, high=16), draw.normal(7, 11)

        def probe(m):
            v = leaf(x)
            y = m.fake_quantize(v, scale, z, -8, 7)
            (y * g).sum().backward()
            return y.detach(), v.grad

        agree(probe, rtol=1e-5, atol=1e-7)

    def test_a_tensor_and_a_number(self, agree, draw):
        """Scales may be a tensor where the zero point is a number, and the other way round; in float64, scales are float64."""
        scale, z = draw.uniform(7, low=0.01, high=0.2, dtype=F64), draw.integers(-6, 6, 7).to(torch.int32)
        x, y = near_codes(draw, scale, 7, 7, low=-16, high=16, dtype=F64), near_codes(draw, 0.3, 7, 7, low=-16, high=16)
        agree(lambda m: [m.fake_quantize(x, scale, 0, -8, 7), m.fake_quantize(y, 0.3, z, -8, 7)], rtol=1e-5, atol=1e-7)

    def test_the_gradient_goes_on(self, agree, draw):
        """Within a longer graph, what comes before receives the gradient as if rounding was the identity."""
        w, x = draw.uniform(5, 3, low=-1, high=1, dtype=F64), draw.normal(7, 3, dtype=F64)
        target = draw.normal(7, 5, dtype=F64)

        def probe(m):
            v = leaf(w)
            rounded = m.fake_quantize(v * 2, 2.0**-10, 0, -4000, 4000)  # fine steps: w · 2 is hit to within 0.0005
            ((x @ rounded.T - target) ** 2).sum().backward()
            return v.grad, rounded.detach()

        agree(probe, rtol=1e-6, atol=1e-9)

    def test_any_shape(self, agree, draw):
        """A number, an empty tensor, transposed, sliced and repeated ones keep their shapes."""
        x = near_codes(draw, 0.25, 5, 3, 7, low=-9, high=9)
        xs = [x[1, 2, 3], x[:0], x[:1, :, :1], x.transpose(0, 2), x[:, :, ::2], x[:1].expand(5, 3, 7)]
        agree(lambda m: [m.fake_quantize(v, 0.25, 3, -8, 7) for v in xs], rtol=1e-5, atol=1e-7)


# One float classifier a process, trained on two thirds of the digits.
_CLASSIFIERS = {}


def float_classifier(digits):
    """A trained 64–32–10 network: weights (keys of the two layers' positions 1 and 3), training part and held-out part."""
    if id(digits) not in _CLASSIFIERS:
        images, labels = digits.images[:1797], digits.labels[:1797]
        held_out = torch.arange(len(images)) % 3 == 0
        new_images, new_labels = images[held_out], labels[held_out]
        images, labels = images[~held_out], labels[~held_out]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 32), nn.ReLU(), nn.Linear(32, 10))
            train(model, images, labels, epochs=20)
        _CLASSIFIERS[id(digits)] = digits, state_of(model), images, labels, new_images, new_labels
    return _CLASSIFIERS[id(digits)][1:]


def train(model, images, labels, epochs):
    """Adam in mini-batches of 64; the learning rate rises to 1e-2 and falls to 0."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    updates = epochs * math.ceil(len(images) / 64)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=updates)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            scheduler.step()


def float_scores(weights, images):
    """Scores of the float classifier."""
    h = torch.relu(images.flatten(1) @ weights["1.weight"].T + weights["1.bias"])
    return h @ weights["3.weight"].T + weights["3.bias"]


def accuracy(scores, labels):
    """The share of right guesses."""
    return (scores.argmax(1) == labels).double().mean().item()


def disguised(draw, weights, *images):
    """The same classifier with its hidden units and pixels in another order, and images to match. No other run's answer fits them."""
    order, pixels = draw.permutation(32), draw.permutation(images[0][0].numel())
    hidden = {
        "1.weight": weights["1.weight"][order][:, pixels],
        "1.bias": weights["1.bias"][order],
        "3.weight": weights["3.weight"][:, order],
        "3.bias": weights["3.bias"].clone(),
    }
    return hidden, [some.flatten(1)[:, pixels].view_as(some) for some in images]


def check_calibrated(result, D, H=32):
    """Fail with a sentence where the returned dict isn't of the form that the statement asks for."""
    names = {f"{i}.{name}" for i in (1, 3) for name in ("weight", "scale", "bias")}
    names |= {f"{layer}_{name}" for layer in ("input", "hidden") for name in ("scale", "zero_point")}
    assert isinstance(result, dict) and result.keys() == names, f"the result must be a dict with the keys {', '.join(sorted(names))}"
    for name, shape in {"1": (H, D), "3": (10, H)}.items():
        forms = {"weight": (torch.int8, shape), "scale": (torch.float32, shape[:1]), "bias": (torch.float32, shape[:1])}
        for key, (dtype, due) in forms.items():
            value = result[f"{name}.{key}"]
            good = isinstance(value, torch.Tensor) and value.dtype == dtype and value.shape == due
            assert good, f'"{name}.{key}" must be a tensor of {dtype} and shape {tuple(due)}'
    for layer in ("input", "hidden"):
        scale, z = result[f"{layer}_scale"], result[f"{layer}_zero_point"]
        assert isinstance(scale, float) and scale > 0, f'"{layer}_scale" must be a positive float'
        assert type(z) is int and -128 <= z <= 127, f'"{layer}_zero_point" must be an int from -128 to 127'


def integer_scores(result, images):
    """Scores of the network that the returned dict describes, as in the statement."""

    def codes_of(x, layer):
        scale, z = result[f"{layer}_scale"], result[f"{layer}_zero_point"]
        return (torch.round(x.double() / scale) + z).clamp(-128, 127) - z  # the difference, an exact integer

    h = codes_of(images.flatten(1), "input") @ result["1.weight"].double().T
    h = torch.relu(h * result["input_scale"] * result["1.scale"] + result["1.bias"])
    h = codes_of(h, "hidden") @ result["3.weight"].double().T
    return h * result["hidden_scale"] * result["3.scale"] + result["3.bias"]


@task("calibrate_model")
class TestCalibrateModel:
    @pytest.mark.parametrize("variant", ["as_is", "normalised", "bright", "large_hidden"])
    def test_accuracy_is_kept(self, student, draw, digits, variant):
        """At most 1 point of accuracy is lost on 599 held-out digits: pixels around 0 or up to 40 and large activations are no obstacle."""
        weights, images, _, new_images, new_labels = float_classifier(digits)
        weights, (images, new_images) = disguised(draw, weights, images, new_images)
        chosen = images[draw.permutation(len(images))[:200]]
        if variant == "normalised":  # (x − 0.3) / 0.35 for the pixels, and weights that undo it
            chosen, new_images = (chosen - 0.3) / 0.35, (new_images - 0.3) / 0.35
            weights["1.bias"] += 0.3 * weights["1.weight"].sum(1)
            weights["1.weight"] *= 0.35
        if variant == "bright":
            chosen, new_images = chosen * 40, new_images * 40
            weights["1.weight"] /= 40
        if variant == "large_hidden":
            weights["1.weight"] *= 90
            weights["1.bias"] *= 90
            weights["3.weight"] /= 90
        result = student(lambda m: m.calibrate_model(weights, chosen))
        check_calibrated(result, images[0].numel())
        before = accuracy(float_scores(weights, new_images), new_labels)
        after = accuracy(integer_scores(result, new_images), new_labels)
        assert after >= before - 0.01, f"on held-out digits, {after:.1%} are right after quantization, and {before:.1%} were before"

    def test_weights(self, student, draw):
        """The codes are int8, each row with its own scale, and within half a step of the weights; a row of zeros has scale 1."""
        weights = small_classifier(draw)
        weights["1.weight"] *= 10 ** draw.uniform(5, 1, low=-3, high=2)
        weights["3.weight"] *= 10 ** draw.uniform(10, 1, low=-3, high=2)
        weights["3.weight"][draw.integer(0, 10)] = 0
        images = draw.uniform(7, 1, 3, 4)
        result = student(lambda m: m.calibrate_model(weights, images))
        check_calibrated(result, 12, 5)
        for name in ("1.", "3."):
            w, q, scale = weights[name + "weight"].double(), result[name + "weight"].double(), result[name + "scale"].double()
            due = w.abs().amax(1) / 127
            due[due == 0] = 1
            assert ((scale / due - 1).abs() <= 1e-5).all(), f'"{name}scale" must be max |row| / 127 for each row, or 1 for a row of zeros'
            error = ((q * scale[:, None] - w) / due[:, None]).abs().max()
            assert error <= 0.501, f'"{name}weight" · scale is {error:.3g} steps away from a weight: half a step is the most'

    def test_halves_go_to_the_even_number(self, agree, draw):
        """Half way between two codes, weights and zero points are the even one."""
        weights, below = small_classifier(draw, D=255), 2 * draw.integer(10, 100) + 0.5
        weights["1.weight"] = halves(draw, 5, 127)
        images = torch.zeros(2, 2, 1, 15, 17)
        images[:, 0, 0, 1, 1] = -torch.tensor([below, below + 1]) / 64
        images[:, 1, 0, 2, 0] = torch.tensor([255 - below, 254 - below]) / 64

        def probe(m):
            results = [m.calibrate_model(weights, part) for part in images]
            return [(r["1.weight"], r["1.scale"], r["input_scale"], r["input_zero_point"]) for r in results]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("N", [11, 301])
    def test_range_of_the_input(self, agree, draw, N):
        """Scale and zero point of the input come from the smallest and largest pixel of all images, however many there are."""
        weights, images = small_classifier(draw), draw.uniform(N, 1, 3, 4, low=-1, high=1)
        (low, high), first, second = (end.item() for end in range_off_halves(draw)), draw.integer(0, 5), draw.integer(N - 6, N)
        images *= min(-low, high)
        images[first, 0, 1, 2], images[second, 0, 2, 1] = low, high

        def probe(m):
            results = [m.calibrate_model(weights, part) for part in (images, images.flip(0))]
            return [(result["input_scale"], result["input_zero_point"]) for result in results]

        agree(probe, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("N", [11, 301])
    def test_range_of_the_hidden_layer(self, agree, draw, N):
        """The hidden range is that of the float classifier's activations after the ReLU: from 0 to the largest output for any image."""
        weights, images = small_classifier(draw), draw.normal(N, 1, 3, 4)
        weights["1.bias"] -= 2
        weights["1.bias"][draw.integer(0, 5)] += 9
        images[draw.integer(N - 6, N)] *= 4

        def probe(m):
            results = [m.calibrate_model(weights, part) for part in (images, images.flip(0))]
            return [(result["hidden_scale"], result["hidden_zero_point"]) for result in results]

        agree(probe, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_pixels_on_one_side_of_zero(self, agree, draw, sign):
        """Where no pixel is dark, the range still begins at 0; where all are negative, it ends there."""
        weights, images = small_classifier(draw), draw.uniform(7, 1, 3, 4, low=2, high=3) * sign

        def probe(m):
            result = m.calibrate_model(weights, images)
            return result["input_scale"], result["input_zero_point"]

        agree(probe, rtol=1e-5, atol=0)

    def test_tiny_and_huge_values(self, agree, draw):
        """Rows of weights and pixels from 1e-15 to 1e15 have scales of their own size."""
        weights, sizes = small_classifier(draw, H=13), 10 ** draw.uniform(3, low=-15, high=15, dtype=F64).float()
        for name in ("1", "3"):
            weights[f"{name}.weight"] = rows_of_all_sizes(draw, *weights[f"{name}.weight"].shape, digits=15)
        images = draw.uniform(7, 1, 3, 4)

        def probe(m):
            results = [m.calibrate_model(weights, images * size) for size in sizes]
            return [(r["1.weight"], r["1.scale"], r["3.weight"], r["3.scale"], r["input_scale"], r["hidden_scale"]) for r in results]

        agree(probe, rtol=1e-4, atol=0)

    def test_any_layout(self, agree, draw):
        """Strides matter neither in the weights nor in the images."""
        given = []
        first, second = laid_out(rows_near_codes(draw, 5, 12)), laid_out(rows_near_codes(draw, 10, 5))
        for layout, w1, w3 in zip(LAYOUTS, first, second, strict=True):
            given.append((small_classifier(draw) | {"1.weight": w1, "3.weight": w3}, draw.uniform(7, 1, 3, 4, low=-1, layout=layout)))

        def probe(m):
            results = [m.calibrate_model(weights, images) for weights, images in given]
            return [[r[key] for key in ("1.weight", "1.scale", "3.weight", "3.scale", "input_scale", "hidden_scale")] for r in results]

        agree(probe, rtol=1e-4, atol=0)

    def test_blank_images(self, agree, draw):
        """Pixels that are all 0 get scale 1.0 and zero point −128, and so does a hidden layer that is all 0."""
        weights, images = small_classifier(draw), draw.uniform(2, 1, 3, 4)
        off = weights | {"1.bias": -draw.uniform(5, low=1, high=2)}

        def probe(m):
            results = [m.calibrate_model(weights, images), m.calibrate_model(off, images * 0)]
            return [(r["input_scale"], r["input_zero_point"], r["hidden_scale"], r["hidden_zero_point"]) for r in results]

        agree(probe, rtol=1e-4, atol=0)

    @pytest.mark.parametrize(("N", "H", "height", "width"), [(1, 5, 3, 4), (2, 1, 1, 7), (3, 129, 1, 1)])
    def test_the_form_of_the_result(self, agree, draw, N, H, height, width):
        """The keys, shapes and dtypes are as asked, for other sizes too, and the biases come back as they are; one image is enough."""
        weights, images = small_classifier(draw, H, height * width), draw.uniform(N, 1, height, width)

        def probe(m):
            result = m.calibrate_model(weights, images)
            forms = {key: (value.shape, value.dtype) for key, value in sorted(result.items()) if isinstance(value, torch.Tensor)}
            return sorted(result), forms, result["1.bias"], result["3.bias"]

        agree(probe, rtol=0, atol=0)


def small_classifier(draw, H=5, D=12):
    """Weights for images of D pixels with H hidden units, which stay active."""
    w, bias = draw.normal(H, D), draw.uniform(H, low=1, high=2)
    return {"1.weight": w, "1.bias": bias, "3.weight": draw.normal(10, H), "3.bias": draw.normal(10)}


def qat_layer(m, weight, bias, bits=4):
    """A QATLinear with copies of the given parameters."""
    layer = m.QATLinear(weight.shape[1], weight.shape[0], bits)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


@task("QATLinear")
class TestQATLinear:
    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_forward(self, agree, draw, bits):
        """Each row is rounded to its own 2^(bits − 1) − 1 steps on either side, in training as in evaluation."""
        w, b, x = tame_rows(draw, 7, 11, n=2 ** (bits - 1) - 1), draw.normal(7), draw.normal(3, 11)

        def probe(m):
            layer = qat_layer(m, w, b, bits)
            return layer(x).detach(), layer.eval()(x).detach()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_any_batch_dimensions(self, agree, draw):
        """The input may be a vector, a batch, also an empty one, or have more dimensions; its strides do not matter."""
        w, b = tame_rows(draw, 7, 11, n=7), draw.normal(7)
        xs = [draw.normal(*batch, 11) for batch in ((), (1,), (3, 2), (0,), (129,))]
        xs += [draw.normal(3, 5, 11, layout=layout) for layout in LAYOUTS]

        def probe(m):
            layer = qat_layer(m, w, b)
            return [layer(x).detach() for x in xs]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_other_sizes(self, agree, draw):
        """Any sizes go, 1 included."""
        given = [(tame_rows(draw, *sizes, n=7), draw.normal(sizes[0]), draw.normal(3, sizes[1])) for sizes in with_ones(131, 17)]

        def probe(m):
            layers = [(qat_layer(m, w, b), x) for w, b, x in given]
            return [(layer(x).detach(), layer.quantized()) for layer, x in layers]

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags")
    @pytest.mark.parametrize("bits", [2, 3, 5, 8])
    def test_codes_and_scales(self, agree, draw, bits):
        """quantized() gives int8 codes and a float32 scale for each row, without a gradient; 4 bits are the default."""
        w = rows_near_codes(draw, 7, 11, n=2 ** (bits - 1) - 1)
        usual, b = rows_near_codes(draw, 7, 11, n=7), draw.normal(7)

        def probe(m):
            layer, default = qat_layer(m, w, b, bits), m.QATLinear(11, 7)
            default.load_state_dict({"weight": usual, "bias": b})
            q, scale = layer.quantized()
            return q, scale, q.requires_grad, scale.requires_grad, default.quantized()

        agree(probe, rtol=1e-5, atol=0)

    def test_halves_go_to_the_even_code(self, agree, draw):
        """Half way between two codes, the even one is taken, in quantized() and in forward. (Dividing by the scale is exact here.)"""
        w, b, x = halves(draw, 19, 7), draw.normal(19), torch.eye(15)

        def probe(m):
            layer = qat_layer(m, w, b)
            return layer.quantized(), layer(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("bits", [2, 4])
    def test_gradients(self, agree, draw, bits):
        """The weight receives the gradient of the rounded weight, unchanged, also the largest of a row; x and bias theirs."""
        w, b, x, g = tame_rows(draw, 5, 7, n=2 ** (bits - 1) - 1), draw.normal(5), draw.normal(3, 7), draw.normal(3, 5)

        def probe(m):
            layer, v = qat_layer(m, w, b, bits), leaf(x)
            (layer(v) * g).sum().backward()
            layer.quantized()  # which leaves the gradients alone
            return layer.weight.grad, layer.bias.grad, v.grad

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_tiny_and_huge_rows(self, agree, draw):
        """Rows from 1e-30 to 1e30 are like any other."""
        w, b, x = rows_of_all_sizes(draw, 29, 5, n=7), torch.zeros(29), torch.eye(5)

        def probe(m):
            layer = qat_layer(m, w, b)
            return layer.quantized(), layer(x).detach()

        agree(probe, rtol=1e-5, atol=0)

    def test_rounds_anew_in_every_forward(self, agree, draw):
        """After a change of the weight, forward and quantized() follow, scales included; so they do after loading."""
        w, b, x = tame_rows(draw, 5, 7, n=7), draw.normal(5), draw.normal(3, 7)
        other = tame_rows(draw, 5, 7, n=7)

        def probe(m):
            layer = qat_layer(m, w, b)
            seen = [layer(x).detach(), layer.eval()(x).detach(), layer.quantized()]
            with torch.no_grad():
                layer.weight.copy_(other)
            seen += [layer(x).detach(), layer.quantized()]
            layer.load_state_dict({"weight": w * 2, "bias": b - 1})
            return seen, layer.quantized(), layer(x).detach()

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags, object identity")
    def test_the_weight_stays_exact(self, agree, draw):
        """Neither forward nor quantized() changes the weight, so that small steps add up: an optimizer's parameters stay the layer's."""
        w, b, x = draw.normal(5, 7), draw.normal(5), draw.normal(3, 7)

        def probe(m):
            layer = qat_layer(m, w, b)
            before = dict(layer.named_parameters())
            layer.train()(x)
            layer.eval()(x)
            layer.quantized()
            names = [(name, p is before.get(name), p.shape, p.dtype, p.requires_grad) for name, p in sorted(layer.named_parameters())]
            return state_of(layer), names, sorted(layer.state_dict())

        agree(probe, rtol=0, atol=0)

    def test_rows_of_zeros(self, agree, draw):
        """A row of zeros has scale 1, gives the bias, and still receives its gradient."""
        w, b, x, g = tame_rows(draw, 5, 7, n=7), draw.normal(5), draw.normal(3, 7), draw.normal(3, 5)
        w[draw.integer(0, 5)] = 0

        def probe(m):
            layer = qat_layer(m, w, b)
            y = layer(x)
            (y * g).sum().backward()
            return y.detach(), layer.weight.grad, layer.quantized()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_wrong_bits_raise(self, agree, draw):
        """One bit has no steps, and more than eight don't fit into int8: a ValueError."""
        w, b = rows_near_codes(draw, 5, 7, n=7), draw.normal(5)

        def probe(m):
            return [raised(ValueError, lambda n=n: m.QATLinear(7, 5, n)) for n in (1, 0, 9)], qat_layer(m, w, b).quantized()

        agree(probe, rtol=1e-3, atol=0)

    def test_training_beats_rounding_afterwards(self, student, draw, digits):
        """At 2 bits, a digits classifier trained with the layer loses at most 8 points of accuracy; rounding alone costs more than 20."""
        weights, images, labels, new_images, new_labels = float_classifier(digits)
        (weights, (images, new_images)), D = disguised(draw, weights, images, new_images), images[0].numel()

        def probe(m):
            model = nn.Sequential(nn.Flatten(), m.QATLinear(D, 32, 2), nn.ReLU(), m.QATLinear(32, 10, 2))
            model.load_state_dict(weights)
            train(model, images, labels, epochs=5)
            return [(*layer.quantized(), layer.bias.detach()) for layer in (model[1], model[3])]

        layers = student(probe)
        rounded = {}
        for name, (q, scale, bias) in zip(("1", "3"), layers, strict=True):
            assert q.dtype == torch.int8 and q.abs().max() <= 1, "at 2 bits, the codes must be -1, 0 and 1, in int8"
            rounded |= {f"{name}.weight": q * scale[:, None], f"{name}.bias": bias}
        before = accuracy(float_scores(weights, new_images), new_labels)
        after = accuracy(float_scores(rounded, new_images), new_labels)
        assert after >= before - 0.08, f"trained at 2 bits, {after:.1%} of the held-out digits are right, against {before:.1%} unrounded"


@task("pack_int4")
class TestPackInt4:
    @pytest.mark.parametrize("n", [2, 22, 1, 17, 301])
    def test_two_a_byte(self, agree, draw, n):
        """The first code of a pair is in the lower bits; after an odd number, the upper bits are 0."""
        q = draw.integers(-8, 8, 5, n).to(torch.int8)
        agree(lambda m: m.pack_int4(q), rtol=0, atol=0)

    def test_every_pair(self, agree, draw):
        """All 256 pairs of codes give 256 different bytes."""
        pairs = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8))[draw.permutation(256)].to(torch.int8)
        agree(lambda m: m.pack_int4(pairs), rtol=0, atol=0)

    def test_negative_codes_do_not_spill(self, agree, draw):
        """The sign bits of a negative lower code must not reach the upper half of its byte."""
        q = torch.stack([draw.integers(-8, 0, 31), draw.integers(0, 8, 31)], dim=1).flatten().to(torch.int8)
        agree(lambda m: [m.pack_int4(q), m.pack_int4(q[1:])], rtol=0, atol=0)

    def test_batches(self, agree, draw):
        """Every row is packed for itself, along the last dimension."""
        given = [draw.integers(-8, 8, *shape).to(torch.int8) for shape in ((7,), (1,), *with_ones(2, 3, 4), (3, 5))]
        agree(lambda m: [m.pack_int4(q) for q in given], rtol=0, atol=0)

    def test_any_layout(self, agree, draw):
        """Strides do not matter."""
        given = [q for shape in ((5, 11), (5, 6), (3, 5, 4)) for q in laid_out(draw.integers(-8, 8, *shape).to(torch.int8))]
        agree(lambda m: [m.pack_int4(q) for q in given], rtol=0, atol=0)

    def test_nothing_to_pack(self, agree, draw):
        """No codes, no bytes; no rows, no rows."""
        q = draw.integers(-8, 8, 3, 5).to(torch.int8)
        agree(lambda m: [m.pack_int4(q[:, :0]), m.pack_int4(q[:0]), m.pack_int4(q)], rtol=0, atol=0)

    def test_codes_that_do_not_fit_raise(self, agree, draw):
        """−9, 8 and the like are a ValueError, at any place; −8 and 7 fit."""
        q = draw.integers(-8, 8, 3, 7).to(torch.int8)
        q[0, 0], q[2, 6] = -8, 7
        wrong = [q.clone() for _ in range(8)]
        for number, (bad, column) in enumerate(zip((-9, 8, 127, -128, -9, 8, 16, -16), (0, 1, 2, 3, 4, 5, 6, 6), strict=True)):
            wrong[number][draw.integer(0, 3), column] = bad
        agree(lambda m: ([raised(ValueError, lambda w=w: m.pack_int4(w)) for w in wrong], m.pack_int4(q)), rtol=0, atol=0)


@task("unpack_int4")
class TestUnpackInt4:
    @pytest.mark.parametrize("n", [2, 22, 1, 17, 301])
    def test_two_a_byte(self, agree, draw, n):
        """The lower bits come first."""
        packed = codes(draw, torch.uint8, 5, (n + 1) // 2)
        agree(lambda m: m.unpack_int4(packed, n), rtol=0, atol=0)

    def test_every_byte(self, agree, draw):
        """All 256 bytes give their pairs of codes from −8 to 7."""
        packed = draw.permutation(256).to(torch.uint8)
        agree(lambda m: m.unpack_int4(packed, 512), rtol=0, atol=0)

    def test_signs(self, agree, draw):
        """A set fourth bit means a negative code, in the lower half as in the upper one."""
        low, high = draw.integers(8, 16, 13), draw.integers(8, 16, 13)
        packed = torch.stack([low + 16 * (high - 8), low - 8 + 16 * high]).to(torch.uint8)
        agree(lambda m: m.unpack_int4(packed, 26), rtol=0, atol=0)

    def test_the_last_upper_half_means_nothing(self, agree, draw):
        """With an odd size, what stands in the upper bits of a row's last byte isn't read."""
        low = draw.integers(0, 16, 3, 1)
        packed = torch.cat([codes(draw, torch.uint8, 3, 4), (low + 16 * draw.integers(1, 16, 3, 1)).to(torch.uint8)], dim=1)
        agree(lambda m: [m.unpack_int4(packed, 9), m.unpack_int4(packed, 10)], rtol=0, atol=0)

    def test_batches(self, agree, draw):
        """Every row is unpacked for itself, along the last dimension."""
        given = [codes(draw, torch.uint8, *shape) for shape in ((7,), (1,), *with_ones(2, 3, 4), (3, 5))]
        agree(lambda m: [m.unpack_int4(packed, 2 * packed.shape[-1] - 1) for packed in given], rtol=0, atol=0)

    def test_any_layout(self, agree, draw):
        """Strides do not matter."""
        given = [packed for shape in ((5, 11), (3, 5, 11)) for packed in laid_out(codes(draw, torch.uint8, *shape))]
        agree(lambda m: [m.unpack_int4(packed, n) for packed in given for n in (22, 21)], rtol=0, atol=0)

    def test_nothing_to_unpack(self, agree, draw):
        """No bytes, no codes; no rows, no rows."""
        packed = codes(draw, torch.uint8, 3, 5)
        agree(lambda m: [m.unpack_int4(packed[:, :0], 0), m.unpack_int4(packed[:0], 9), m.unpack_int4(packed, 9)], rtol=0, atol=0)

    def test_sizes_that_do_not_fit_raise(self, agree, draw):
        """Five bytes hold 9 or 10 codes: 8, 11 and −1 are a ValueError."""
        packed = codes(draw, torch.uint8, 3, 5)

        def probe(m):
            ends = [raised(ValueError, lambda n=n: m.unpack_int4(packed, n)) for n in (8, 11, 0, -9)]
            ends.append(raised(ValueError, lambda: m.unpack_int4(packed[:, :0], -1)))
            return ends, m.unpack_int4(packed, 10)

        agree(probe, rtol=0, atol=0)


def groups_near_codes(draw, rows, sizes):
    """A (rows, Σ sizes) matrix whose groups have scales of different sizes that float16 holds exactly."""
    groups = []
    for size in sizes:
        scale = draw.integers(1024, 2048, rows, 1) / 1024 * 2.0 ** draw.integers(-5, 6, rows, 1)
        group = near_codes(draw, scale.double(), rows, size, low=-6, high=6)
        groups.append(group.scatter(1, draw.integers(0, size, rows, 1), scale * 7 * (1 - 2 * draw.integers(0, 2, rows, 1))))
    return torch.cat(groups, dim=1)


@task("quantize_groupwise")
class TestQuantizeGroupwise:
    def test_groups_of_32(self, agree, draw):
        """Each 32 neighbours of a row share a scale; groups of a row differ in theirs, and rows as well."""
        w = groups_near_codes(draw, 5, [32, 32, 32])
        agree(lambda m: m.quantize_groupwise(w), rtol=0, atol=0)

    @pytest.mark.parametrize(("size", "sizes"), [(8, [8, 8, 5]), (7, [7, 7, 7]), (3, [3, 3, 1]), (16, [11]), (1, [1, 1, 1, 1]), (4, [1])])
    def test_other_groups_and_a_short_last_one(self, agree, draw, size, sizes):
        """The last group takes what is left; odd groups cross bytes, and an odd number of columns leaves the last half byte 0."""
        w = groups_near_codes(draw, 4, sizes)
        agree(lambda m: m.quantize_groupwise(w, size), rtol=0, atol=0)

    @pytest.mark.parametrize("size", [10**6, 10**12])
    def test_groups_far_longer_than_a_row(self, agree, draw, size):
        """A row of 5 is one short group at any group_size, without memory for more."""
        w = groups_near_codes(draw, 3, [5])
        agree(lambda m: m.quantize_groupwise(w, size), rtol=0, atol=0)

    def test_many_groups_of_one_row(self, agree, draw):
        """A single row of 301 groups is cut like others."""
        w = groups_near_codes(draw, 1, [3] * 301)
        agree(lambda m: m.quantize_groupwise(w, 3), rtol=0, atol=0)

    def test_small_and_large_weights(self, agree, draw):
        """Groups with largest weights from 0.01 to 10,000 use all codes from −7 to 7."""
        exponents = draw.permutation(20)[None] - 9  # scales from 2^−9 to 1.3 · 2^10
        steps = near_codes(draw, 1.0, 3, 20, 4, low=-6, high=6)
        steps[..., 0] = 7 * (1 - 2 * draw.integers(0, 2, 3, 20))
        w = (steps * draw.uniform(3, 1, 1, low=1, high=1.3).half().float() * (2.0**exponents)[..., None]).flatten(1)
        agree(lambda m: m.quantize_groupwise(w, 4), rtol=0, atol=0)

    def test_the_ends_of_what_is_allowed(self, agree, draw):
        """Groups with a largest weight just above 0.01, or just below 10,000, have the scale of the formula, too."""
        scale = torch.stack([draw.integers(1500, 1900, 5) / 2**20, draw.integers(1300, 1429, 5)])  # float16 holds all of these
        steps = near_codes(draw, 1.0, 2, 5, 4, low=-6, high=6)
        steps[..., 0] = 7 * (1 - 2 * draw.integers(0, 2, 2, 5))
        w = (steps * scale[..., None]).flatten(1)
        agree(lambda m: m.quantize_groupwise(w, 4), rtol=0, atol=0)

    def test_zeros(self, agree, draw):
        """A group of zeros has scale 1 and codes 0; its neighbours don't notice."""
        w = groups_near_codes(draw, 3, [32, 32, 9])
        w[1, :32] = w[2, 64:] = 0
        agree(lambda m: m.quantize_groupwise(w), rtol=0, atol=0)

    def test_codes_are_for_the_rounded_scale(self, agree, draw):
        """The scale 1 + 2⁻¹³ is stored as 1 in float16: 6.5004 is then nearer to 7 than to 6."""
        w = groups_near_codes(draw, 3, [8, 8])
        exponent, place = draw.integer(-5, 6), draw.integer(9, 16)
        w[1, 8:] = torch.tensor([7 * (1 + 2.0**-13), *[0.25] * 7]) * 2.0**exponent
        w[1, place] = 6.5004 * 2.0**exponent
        agree(lambda m: m.quantize_groupwise(w, 8), rtol=0, atol=0)

    def test_halves_go_to_the_even_code(self, agree, draw):
        """Half way between two codes, the even one is taken. (Dividing by the scale is exact here; multiplying by 1 / scale isn't.)"""
        w = halves(draw, 19, 7)
        agree(lambda m: m.quantize_groupwise(w), rtol=0, atol=0)

    def test_half_a_step_is_the_largest_error(self, student, draw):
        """For any weights, also with an outlier in one group, the error is at most half a step of the group's own scale."""
        w = draw.normal(7, 75)
        w[draw.integer(0, 7), draw.integer(0, 32)] = 1000
        packed, scale = student(lambda m: m.quantize_groupwise(w))
        assert packed.dtype == torch.uint8 and packed.shape == (7, 38), "packed must be uint8, of shape (7, 38) for 7 rows of 75"
        assert scale.dtype == torch.float16 and scale.shape == (7, 3), "the scales must be float16, three for a row of 75"
        q = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)[:, :75].long()
        q = q - 16 * (q > 7)
        step = torch.stack([group.abs().amax(1) for group in w.double().split(32, dim=1)], dim=1) / 7
        assert ((scale.double() / step - 1).abs() <= 1e-3).all(), "a scale must be the group's largest absolute value / 7"
        spread = scale.double().repeat_interleave(32, dim=1)[:, :75]
        error = ((q * spread - w.double()) / step.repeat_interleave(32, dim=1)[:, :75]).abs().max()
        assert error <= 0.51, f"a weight is {error:.3g} steps of its group away from what its code stands for: half a step is the most"

    def test_bytes(self, agree, draw):
        """256 columns take 128 bytes of codes and 16 of scales a row: a seventh of float32's."""
        w = groups_near_codes(draw, 3, [32] * 8)

        def probe(m):
            parts = m.quantize_groupwise(w)
            return [part.numel() * part.element_size() for part in parts], parts

        agree(probe, rtol=0, atol=0)

    def test_any_layout(self, agree, draw):
        """Strides do not matter, whether the groups come out even or not."""
        ws = [w for sizes in ([4, 4, 3], [4, 4]) for w in laid_out(groups_near_codes(draw, 5, sizes))]
        agree(lambda m: [m.quantize_groupwise(w, 4) for w in ws], rtol=0, atol=0)

    def test_impossible_groups_raise(self, agree, draw):
        """A group of 0 or −1 columns is a ValueError."""
        w = groups_near_codes(draw, 3, [4, 3])
        agree(
            lambda m: ([raised(ValueError, lambda n=n: m.quantize_groupwise(w, n)) for n in (0, -1)], m.quantize_groupwise(w, 4)),
            rtol=0,
            atol=0,
        )


@task("dynamic_quantized_linear")
class TestDynamicQuantizedLinear:
    def test_values(self, agree, draw):
        """Rows are rounded to their own 127 steps and multiplied by the weights that the codes stand for, for any batch dimensions."""
        xs = [tame_rows(draw, math.prod(batch), 11).view(*batch, 11) for batch in ((5,), (), (1,), (3, 2), (129,))]
        w, scale, b = codes(draw, torch.int8, 7, 11), draw.uniform(7, low=0.001, high=0.1), draw.normal(7)
        agree(lambda m: [m.dynamic_quantized_linear(x, w, scale, b) for x in xs], rtol=1e-4, atol=1e-4)

    def test_other_sizes(self, agree, draw):
        """Any numbers of inputs and outputs go, 1 included."""
        given = []
        for rows, columns in with_ones(131, 17):
            x, w = tame_rows(draw, 3, columns), codes(draw, torch.int8, rows, columns)
            given.append((x, w, draw.uniform(rows, low=0.001, high=0.1), draw.normal(rows)))
        agree(lambda m: [m.dynamic_quantized_linear(*arguments) for arguments in given], rtol=1e-4, atol=1e-4)

    def test_any_layout(self, agree, draw):
        """Strides matter in none of the arguments."""
        scale, b = draw.uniform(7, 2, low=0.001, high=0.1).unbind(1)
        pairs = list(zip(laid_out(tame_rows(draw, 6, 11)), laid_out(codes(draw, torch.int8, 7, 11)), strict=True))
        pairs += [(x.expand(2, 6, 11).transpose(0, 1), w) for x, w in pairs]
        agree(lambda m: [m.dynamic_quantized_linear(x, w, scale, b) for x, w in pairs], rtol=1e-4, atol=1e-4)

    def test_tiny_and_huge_rows(self, agree, draw):
        """Rows from 1e-10 to 1e10 are like any other, in one batch too."""
        x, w = tame_rows(draw, 21, 5) / 4, torch.eye(5, dtype=torch.int8)
        sizes = 10.0 ** (draw.permutation(21)[:, None] - 10)
        x = x / x.abs().amax(1, keepdim=True) * sizes
        agree(lambda m: m.dynamic_quantized_linear(x, w, torch.ones(5)) / sizes, rtol=1e-5, atol=1e-5)

    def test_without_bias(self, agree, draw):
        """The bias may be left out or be None."""
        x = rows_near_codes(draw, 3, 11)
        w, scale = codes(draw, torch.int8, 5, 11), draw.uniform(5, low=0.001, high=0.1)
        agree(lambda m: [m.dynamic_quantized_linear(x, w, scale), m.dynamic_quantized_linear(x, w, scale, None)], rtol=1e-4, atol=1e-6)

    def test_the_rounding_is_real(self, student, draw):
        """A value of 0.4 steps becomes 0 and one of 0.6 steps a whole one: the activations are rounded, not only the weights."""
        signs = 1 - 2 * draw.integers(0, 2, 3, 9)
        x = torch.cat([torch.full((3, 1), 127.0), torch.where(draw.bools(3, 9), 0.4, 0.6) * signs], dim=1) * 0.25
        w = torch.eye(10, dtype=torch.int8)
        y = student(lambda m: m.dynamic_quantized_linear(x, w, torch.ones(10)))
        assert y.shape == (3, 10) and y.dtype == torch.float32, "the output must be float32, of shape (3, 10)"
        due = torch.round(x * 4) / 4
        assert (y - due).abs().max() < 1e-4, "with the identity for weights, outputs must be inputs in steps of max |row| / 127"

    def test_rows_do_not_touch_each_other(self, agree, draw):
        """A row of huge values leaves the precision of its neighbours alone: each has a scale of its own."""
        x = rows_near_codes(draw, 5, 11)
        x[draw.integer(0, 5)] *= 1e5
        w, scale = codes(draw, torch.int8, 7, 11), draw.uniform(7, low=0.001, high=0.1)

        def probe(m):
            together = m.dynamic_quantized_linear(x, w, scale)
            alone = torch.stack([m.dynamic_quantized_linear(row, w, scale) for row in x])
            return [y / x.abs().amax(1, keepdim=True) for y in (together, alone)]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_every_call_has_its_own_scales(self, agree, draw):
        """Nothing is kept from one call to the next."""
        xs = [rows_near_codes(draw, 3, 11) for _ in range(3)]
        w, scale = codes(draw, torch.int8, 5, 11), draw.uniform(5, low=0.001, high=0.1)
        xs = [x / x.abs().amax() * size for x, size in zip(xs, (100, 1, 0.01), strict=True)]
        agree(lambda m: [m.dynamic_quantized_linear(x, w, scale) for x in xs], rtol=1e-4, atol=1e-6)

    def test_sums_are_exact(self, agree, draw):
        """Where sums of many hundred millions cancel, what is left is right to the last digit."""
        half = 49_999
        q = torch.cat([draw.integers(100, 128, 3, half), -draw.integers(100, 128, 3, half)], dim=1)
        q[:, 0], q[:, -1] = 127, -127
        w = torch.cat([draw.integers(110, 128, half), draw.integers(110, 128, half)]).to(torch.int8)
        w = torch.stack([w, w.roll(1), w.roll(2)])
        x = q * 2.0**-7
        agree(lambda m: m.dynamic_quantized_linear(x, w, torch.ones(3)), rtol=1e-5, atol=1e-5)

    def test_halves_go_to_the_even_code(self, agree, draw):
        """Half way between two codes, the even one is taken. (Dividing by the scale is exact here; multiplying by 1 / scale isn't.)"""
        x, w = halves(draw, 7, 127)[:, :51], codes(draw, torch.int8, 7, 51)
        agree(lambda m: m.dynamic_quantized_linear(x, w, torch.ones(7) * 0.25), rtol=1e-5, atol=1e-5)

    def test_rows_of_zeros_and_empty_batches(self, agree, draw):
        """A row of zeros gives the bias, never NaN; a batch without rows gives none."""
        x = tame_rows(draw, 5, 11)
        x[draw.integer(0, 5)] = 0
        w, scale, b = codes(draw, torch.int8, 7, 11), draw.uniform(7, low=0.001, high=0.1), draw.normal(7)
        agree(lambda m: [m.dynamic_quantized_linear(v, w, scale, b) for v in (x, x[:0])], rtol=1e-4, atol=1e-4)
