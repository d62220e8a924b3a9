"""Other correct answers to the tasks of quantization: the hidden suite must accept every one."""

import math
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from grader.testing import alternative

# affine_qparams


@alternative("affine_qparams")
def with_decimals(low, high, *, qmin=-128, qmax=127):
    if any(math.isnan(v) or math.isinf(v) for v in (low, high)) or low > high or qmin >= qmax:
        raise ValueError("range")
    a, b = min(Decimal(low), Decimal(0)), max(Decimal(high), Decimal(0))
    if a == b:
        return 1.0, qmin
    step = (b - a) / (qmax - qmin)
    return float(step), int((qmin - a / step).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


@alternative("affine_qparams")
def with_float32_tensors(low, high, *, qmin=-128, qmax=127):
    ends = torch.tensor([low, high])
    if not ends.isfinite().all() or low > high or qmin >= qmax:
        raise ValueError("range")
    low, high = ends.clamp(max=0)[0], ends.clamp(min=0)[1]
    scale = (high - low) / (qmax - qmin)
    if scale == 0:
        scale = torch.tensor(1.0)
    return scale.item(), int(torch.clamp(torch.round(qmin - low / scale), qmin, qmax))


@alternative("affine_qparams")
def with_fractions(low, high, *, qmin=-128, qmax=127):
    if not all(map(math.isfinite, (low, high))) or high < low or qmax <= qmin:
        raise ValueError("range")
    a, b = min(Fraction(low), Fraction(0)), max(Fraction(high), Fraction(0))
    if a == b:
        return 1.0, qmin
    return float((b - a) / (qmax - qmin)), round(qmin - a * (qmax - qmin) / (b - a))  # round() of a fraction takes halves to even, too


# quantize


@alternative("quantize")
def in_double(x, scale, zero_point, *, dtype=torch.int8):
    lowest, highest = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767)}[dtype]
    steps = (x.double() / scale).clamp(lowest - zero_point, highest - zero_point)
    return (steps.round().to(torch.int64) + zero_point).to(dtype)


@alternative("quantize")
def rounds_by_hand(x, scale, zero_point, *, dtype=torch.int8):
    steps = (x.double() / scale).clamp(-1e6, 1e6)
    floor = torch.floor(steps)
    rest = steps - floor
    up = (rest > 0.5) | ((rest == 0.5) & (floor % 2 == 1))
    info = torch.iinfo(dtype)
    return torch.minimum(torch.maximum(floor + up + zero_point, torch.tensor(float(info.min))), torch.tensor(float(info.max))).to(dtype)


@alternative("quantize")
def with_numpy(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    steps = np.rint(x.double().numpy() / scale)
    return torch.tensor(np.clip(steps + zero_point, info.min, info.max), dtype=dtype)


# dequantize


@alternative("dequantize")
def through_integers(q, scale, zero_point):
    return (q.to(torch.int64) - zero_point).to(torch.float32).mul(scale)


@alternative("dequantize")
def through_double(q, scale, zero_point):
    return ((q.double() - zero_point) * scale).to(torch.float32)


# quantize_per_channel


@alternative("quantize_per_channel")
def channel_by_channel(x, dim):
    codes, scales = [], []
    for channel in x.unbind(dim):
        top = channel.abs().max()
        scale = top / 127 if top > 0 else torch.ones_like(top)
        codes.append((channel / scale).round().to(torch.int8))
        scales.append(scale)
    return torch.stack(codes, dim), torch.stack(scales)


@alternative("quantize_per_channel")
def with_keepdim(x, dim):
    others = [d for d in range(x.ndim) if d != dim % x.ndim]
    top = x.double().abs()
    for d in others:
        top = top.amax(d, keepdim=True)
    scale = torch.where(top > 0, top / 127, 1.0)
    return torch.round(x.double() / scale).clamp(-127, 127).to(torch.int8), scale.flatten().to(x.dtype)


# MinMaxObserver


@alternative("MinMaxObserver")
class InPlaceObserver(nn.Module):
    def __init__(self, channels=None):
        super().__init__()
        size = [] if channels is None else [channels]
        self.register_buffer("low", torch.ones(size) * torch.inf)
        self.register_buffer("high", torch.ones(size) * -torch.inf)

    @torch.no_grad()
    def _look(self, x):
        if self.low.ndim == 0:
            self.low.copy_(min(self.low, x.min()))
            self.high.copy_(max(self.high, x.max()))
        else:
            for c in range(x.shape[1]):
                self.low[c] = min(self.low[c], x[:, c].min())
                self.high[c] = max(self.high[c], x[:, c].max())

    def forward(self, x):
        if x.numel() > 0:
            self._look(x)
        return x

    def qparams(self):
        if torch.isinf(self.low).any():
            raise RuntimeError("nothing seen")
        zero = torch.zeros_like(self.low)
        low, high = torch.minimum(self.low, zero).double(), torch.maximum(self.high, zero).double()
        scale = torch.where(high > low, (high - low) / 255.0, 1.0)
        return scale.float(), torch.round(-128 - low / scale).int()


@alternative("MinMaxObserver")
class ReducesDimensionByDimension(nn.Module):
    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, channels=None):
        super().__init__()
        self.channels = channels
        for name, start in (("low", math.inf), ("high", -math.inf)):
            self.register_buffer(name, torch.tensor(start) if channels is None else torch.full([channels], start))

    def forward(self, x):
        if 0 in x.shape:
            return x
        low = high = x.data
        for d in reversed(range(x.ndim)):
            if self.channels is None or d != 1:
                low, high = low.amin(d), high.amax(d)
        self.low, self.high = torch.stack([self.low, low]).amin(0), torch.stack([self.high, high]).amax(0)
        return x

    def qparams(self):
        if not bool((self.high >= self.low).all()):
            raise RuntimeError("nothing seen")
        low, high = self.low.clamp(max=0.0), self.high.clamp(min=0.0)
        scale = (high - low).div(255)
        scale[scale == 0] = 1
        steps = torch.round(low / scale)
        return scale, (-128 - steps).to(torch.int32)


@alternative("MinMaxObserver")
class WithAminmax(nn.Module):
    def __init__(self, channels=None):
        super().__init__()
        size = (1 if channels is None else channels,)
        self.register_buffer("low", torch.full(size, float("inf")).reshape(() if channels is None else size))
        self.register_buffer("high", -self.low)

    def forward(self, x):
        if x.nelement() == 0:
            return x
        with torch.no_grad():
            rows = x.reshape(1, -1) if self.low.dim() == 0 else torch.movedim(x, 1, 0).reshape(x.shape[1], -1)
            low, high = torch.aminmax(rows, dim=1)
            self.low.copy_(torch.fmin(self.low, low.reshape(self.low.shape)))
            self.high.copy_(torch.fmax(self.high, high.reshape(self.high.shape)))
        return x

    @torch.no_grad()
    def qparams(self):
        if bool(torch.any(self.low == float("inf"))):
            raise RuntimeError("run some data through first")
        low, high = -torch.relu(-self.low), torch.relu(self.high)
        width = high - low
        scale = torch.where(width > 0, width / (127 - (-128)), torch.ones_like(width))
        return scale, (-128 - low / scale).round().clamp(-128, 127).to(torch.int32)


# PercentileObserver


@alternative("PercentileObserver")
class SortsByHand:
    def __init__(self, tail=0.001):
        if tail < 0 or tail >= 0.5:
            raise ValueError("tail")
        self.tail, self.seen = tail, []

    def observe(self, x):
        self.seen.extend(x.detach().double().flatten().tolist())

    def range(self):
        if not self.seen:
            raise RuntimeError("nothing observed")
        values = sorted(self.seen)

        def at(position):
            below = min(math.floor(position), len(values) - 1)
            above = min(below + 1, len(values) - 1)
            return values[below] + (values[above] - values[below]) * (position - below)

        n = len(values) - 1
        return at(self.tail * n), at((1 - self.tail) * n)


@alternative("PercentileObserver")
class AsTorchsExample:
    def __init__(self, tail=0.001):
        if not 0 <= tail < 0.5:
            raise ValueError("tail")
        self.tail, self.parts = tail, []

    def observe(self, x):
        self.parts.append(x.detach().float().flatten().clone())

    def range(self):
        values = torch.cat([torch.empty(0), *self.parts])
        if values.numel() == 0:
            raise RuntimeError("nothing yet")
        low, high = torch.quantile(values, torch.tensor([self.tail, 1 - self.tail]))
        return low.item(), high.item()


@alternative("PercentileObserver")
class OneGrowingTensor:
    def __init__(self, tail=0.001):
        if not (tail >= 0 and tail < 0.5):
            raise ValueError("tail")
        self.tail = tail
        self.values = torch.empty(0)

    @torch.no_grad()
    def observe(self, x):
        self.values = torch.cat([self.values, x.float().reshape(-1)]).sort().values

    def range(self):
        if self.values.numel() == 0:
            raise RuntimeError("nothing observed")
        return torch.quantile(self.values, self.tail).item(), -torch.quantile(-self.values, self.tail).item()


@alternative("PercentileObserver")
class WithNumpy:
    def __init__(self, tail=0.001):
        if not 0.0 <= tail < 0.5:
            raise ValueError("tail")
        self.percents, self.parts = [100 * tail, 100 * (1 - tail)], []

    def observe(self, x):
        self.parts.append(np.array(x.detach().float().numpy(), dtype=np.float64).ravel())

    def range(self):
        if sum(part.size for part in self.parts) == 0:
            raise RuntimeError("nothing observed")
        low, high = np.percentile(np.concatenate(self.parts), self.percents)
        return float(low), float(high)


# int8_matmul


@alternative("int8_matmul")
def four_terms(a, b, a_zero_point, b_zero_point):
    a, b = a.to(torch.int64), b.to(torch.int64)
    c = a @ b - a_zero_point * b.sum(0) - b_zero_point * a.sum(1, keepdim=True) + a.shape[1] * a_zero_point * b_zero_point
    return c.to(torch.int32)


@alternative("int8_matmul")
def in_float64(a, b, a_zero_point, b_zero_point):
    return torch.mm(a.double() - a_zero_point, b.double() - b_zero_point).round().int()


@alternative("int8_matmul")
def as_a_sum_of_products(a, b, a_zero_point, b_zero_point):
    a, b = a.int() - a_zero_point, b.int() - b_zero_point
    return torch.stack([(row[:, None] * b).sum(0, dtype=torch.int32) for row in a]) if len(a) else b.new_zeros(0, b.shape[1])


# QuantizedLinear


@alternative("QuantizedLinear")
class ScalesTheRows(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("weight", torch.zeros((out_features, in_features), dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        if bias:
            self.register_buffer("bias", torch.zeros(out_features))
        else:
            self.bias = None

    @staticmethod
    def from_float(linear):
        out_features, in_features = linear.weight.shape
        layer = ScalesTheRows(in_features, out_features, linear.bias is not None)
        with torch.no_grad():
            for o, row in enumerate(linear.weight):
                top = row.abs().max()
                layer.scale[o] = top / 127 if top > 0 else 1.0
                layer.weight[o] = torch.round(row / layer.scale[o]).char()
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() * self.scale.unsqueeze(1), self.bias)


@alternative("QuantizedLinear")
class LoadsItsOwnState(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.register_buffer("weight", torch.zeros(out_features, in_features).to(torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @classmethod
    @torch.no_grad()
    def from_float(cls, linear):
        w = linear.weight.double()
        top = w.abs().max(dim=1).values
        scale = torch.where(top > 0, top / 127, 1.0)
        state = {"weight": (w / scale[:, None]).round().to(torch.int8), "scale": scale.float()}
        if linear.bias is not None:
            state["bias"] = linear.bias
        layer = cls(w.shape[1], w.shape[0], linear.bias is not None)
        layer.load_state_dict(state)
        return layer

    def forward(self, x):
        y = torch.einsum("...i,oi->...o", x, self.weight.to(x.dtype)).mul(self.scale)
        return y if self.bias is None else y.add(self.bias)


@alternative("QuantizedLinear")
class DequantizesRowByRow(nn.Module):
    """Codes, scales and bias as the buffers of a layer that is otherwise nn.Linear."""

    __constants__ = ("in_features", "out_features")

    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for name, value in {
            "weight": torch.zeros(out_features, in_features, dtype=torch.int8),
            "scale": torch.ones(out_features),
            "bias": torch.zeros(out_features) if bias else None,
        }.items():
            self.register_buffer(name, value)

    @classmethod
    def from_float(cls, linear):
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        with torch.inference_mode(False), torch.no_grad():
            top = linear.weight.abs().max(-1, keepdim=True)[0]
            top[top == 0] = 127
            layer.scale.copy_(top.squeeze(-1) / 127)
            layer.weight.copy_((linear.weight / layer.scale.unsqueeze(-1)).round().clamp(-127, 127))
            if linear.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    def forward(self, x):
        out = nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return out + self.bias if self.bias is not None else out


# fake_quantize


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, zero_point, qmin, qmax):
        q = torch.round(x / scale) + zero_point
        ctx.save_for_backward((q >= qmin).logical_and(q <= qmax))
        return (q.clamp(qmin, qmax) - zero_point) * scale

    @staticmethod
    def backward(ctx, grad):
        (inside,) = ctx.saved_tensors
        return grad.masked_fill(~inside, 0), None, None, None, None


@alternative("fake_quantize")
def as_a_function(x, scale, zero_point, qmin, qmax):
    return _StraightThrough.apply(x, scale, zero_point, qmin, qmax)


@alternative("fake_quantize")
def through_detach(x, scale, zero_point, qmin, qmax):
    steps = x / scale
    rounded = steps + (steps.round() - steps).detach()  # the derivative of steps
    q = torch.round(steps.detach()) + zero_point
    ends = q.clamp(qmin, qmax) - zero_point
    return torch.where(q == q.clamp(qmin, qmax), rounded, ends) * scale


@alternative("fake_quantize")
def clamps_the_steps(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() / scale) + zero_point
    y = (torch.clamp(q, qmin, qmax) - zero_point) * scale
    passing = x.masked_fill((q < qmin) | (q > qmax), 0.0)
    return passing + (y - passing).detach()


def _round_straight_through(x):
    return x + (x.round() - x).detach()


@alternative("fake_quantize")
def clamp_differentiates_itself(x, scale, zero_point, qmin, qmax):
    q = _round_straight_through(x / scale) + zero_point  # clamp passes gradients at its ends, too
    return (torch.clamp(q, qmin, qmax) - zero_point) * scale


# calibrate_model


@alternative("calibrate_model")
def runs_a_real_network(weights, images):
    hidden, pixels = weights["1.weight"].shape
    with torch.random.fork_rng():  # building a layer draws its start values
        model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    model.load_state_dict(weights)
    seen = {}
    model[1].register_forward_hook(lambda module, args, out: seen.update(input=args[0]))
    model[3].register_forward_hook(lambda module, args, out: seen.update(hidden=args[0]))
    with torch.no_grad():
        model(images)
    result = {}
    for layer, values in seen.items():
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        scale = (high - low) / 255 if high > low else 1.0
        result[f"{layer}_scale"] = scale
        result[f"{layer}_zero_point"] = -128 - round(low / scale)
    for i in (1, 3):
        w, b = model[i].weight.detach(), model[i].bias.detach()
        top = w.abs().max(1).values
        scale = torch.where(top > 0, top / 127, torch.ones_like(top))
        result |= {f"{i}.weight": (w / scale.unsqueeze(1)).round().char(), f"{i}.scale": scale, f"{i}.bias": b}
    return result


@alternative("calibrate_model")
def image_by_image(weights, images):
    w1, w3 = weights["1.weight"].double(), weights["3.weight"].double()
    ends = {"input": [0.0, 0.0], "hidden": [0.0, 0.0]}
    for image in images.double():
        x = image.flatten()
        h = (w1 @ x + weights["1.bias"]).clamp(min=0)
        for layer, values in (("input", x), ("hidden", h)):
            ends[layer] = [min(ends[layer][0], values.min().item()), max(ends[layer][1], values.max().item())]
    result = {"1.bias": weights["1.bias"], "3.bias": weights["3.bias"]}
    for name, w in (("1", w1), ("3", w3)):
        rows = [row.abs().max().item() / 127 or 1.0 for row in w]
        result[f"{name}.scale"] = torch.tensor(rows)
        result[f"{name}.weight"] = torch.stack([torch.round(row / s) for row, s in zip(w, rows, strict=True)]).to(torch.int8)
    for layer, (low, high) in ends.items():
        scale = (high - low) / 255 or 1.0
        result[f"{layer}_scale"], result[f"{layer}_zero_point"] = scale, int(torch.round(torch.tensor(-128 - low / scale)))
    return result


# QATLinear


class _RoundRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, n):
        top = w.abs().amax(1, keepdim=True)
        scale = torch.where(top > 0, top / n, 1.0)
        return torch.round(w / scale) * scale

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@alternative("QATLinear")
class WithAFunction(nn.Linear):
    def __init__(self, in_features, out_features, bits=4):
        super().__init__(in_features, out_features)
        if bits < 2 or bits > 8:
            raise ValueError("bits")
        self.n = 2 ** (bits - 1) - 1

    @torch.no_grad()
    def quantized(self):
        scale = self.weight.abs().amax(1) / self.n
        scale[scale == 0] = 1
        return torch.round(self.weight / scale[:, None]).clamp(-self.n, self.n).to(torch.int8), scale

    def forward(self, x):
        return nn.functional.linear(x, _RoundRows.apply(self.weight, self.n), self.bias)


@alternative("QATLinear")
class RowByRow(nn.Module):
    def __init__(self, in_features, out_features, bits=4):
        super().__init__()
        if bits not in range(2, 9):
            raise ValueError("bits")
        self.bits = bits
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        nn.init.kaiming_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def quantized(self):
        n, codes, scales = (1 << (self.bits - 1)) - 1, [], []
        for row in self.weight.data:
            top = row.abs().max()
            scales.append(top / n if top > 0 else torch.ones(()))
            codes.append((row / scales[-1]).round().to(torch.int8))
        return torch.stack(codes), torch.stack(scales)

    def forward(self, x):
        codes, scales = self.quantized()
        error = codes.float() * scales.unsqueeze(1) - self.weight.detach()
        return torch.einsum("...i,oi->...o", x, self.weight + error) + self.bias


@alternative("QATLinear")
class DifferenceOfRoundedAndExact(nn.Module):
    def __init__(self, in_features, out_features, bits=4):
        super().__init__()
        if bits < 2 or bits > 8:
            raise ValueError("bits")
        self.levels = 2 ** (bits - 1) - 1
        layer = nn.Linear(in_features, out_features)
        self.weight, self.bias = layer.weight, layer.bias

    @torch.no_grad()
    def _codes(self):
        top = self.weight.abs().amax(dim=-1, keepdim=True)
        scale = torch.where(top == 0, torch.ones_like(top), top / self.levels)
        return torch.clamp(torch.round(self.weight / scale), -self.levels, self.levels), scale

    def quantized(self):
        q, scale = self._codes()
        return q.to(torch.int8), scale.flatten()

    def forward(self, x):
        q, scale = self._codes()
        w = self.weight + (q * scale - self.weight).detach()
        return nn.functional.linear(x, w, self.bias)


# pack_int4


@alternative("pack_int4")
def byte_by_byte(q):
    rows = []
    for row in q.reshape(q.shape[:-1].numel(), q.shape[-1]).tolist():
        if any(not -8 <= code <= 7 for code in row):
            raise ValueError("code")
        row = [*row, 0] if len(row) % 2 else row
        rows.append([(low % 16) + 16 * (high % 16) for low, high in zip(row[::2], row[1::2], strict=True)])
    return torch.tensor(rows, dtype=torch.uint8).view(*q.shape[:-1], (q.shape[-1] + 1) // 2)


@alternative("pack_int4")
def with_arithmetic(q):
    if q.numel() and (q.min() < -8 or q.max() > 7):
        raise ValueError("codes")
    nibbles = torch.remainder(q.to(torch.int64), 16)
    packed = nibbles[..., ::2].clone()
    packed[..., : q.shape[-1] // 2] += 16 * nibbles[..., 1::2]
    return packed.to(torch.uint8)


# unpack_int4


@alternative("unpack_int4")
def with_a_table(packed, size):
    if size < 0 or packed.shape[-1] * 2 - size not in (0, 1):
        raise ValueError("size")
    table = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1], dtype=torch.int8)
    q = torch.empty(*packed.shape[:-1], size, dtype=torch.int8)
    q[..., 0::2] = table[(packed % 16).long()]
    q[..., 1::2] = table[packed.long() // 16][..., : size // 2]
    return q


@alternative("unpack_int4")
def with_shifts_of_int8(packed, size):
    if size < 0 or packed.shape[-1] != -(-size // 2):
        raise ValueError("size")
    signed = packed.view(torch.int8) if packed.is_contiguous() else packed.contiguous().view(torch.int8)
    low, high = (signed << 4) >> 4, signed >> 4  # >> of int8 repeats the sign
    return torch.stack((low, high), -1).reshape(*packed.shape[:-1], packed.shape[-1] * 2)[..., :size]


@alternative("unpack_int4")
def subtracts_sixteen(packed, size):
    if size < 0 or (size + 1) // 2 != packed.size(-1):
        raise ValueError("size")
    out = torch.empty(*packed.shape, 2, dtype=torch.int16)
    out[..., 0], out[..., 1] = packed & 0x0F, packed >> 4
    out = torch.where(out > 7, out - 16, out).to(torch.int8)
    return out.flatten(-2).narrow(-1, 0, size)


# quantize_groupwise


@alternative("quantize_groupwise")
def group_by_group(weight, group_size=32):
    if group_size < 1:
        raise ValueError("group_size")
    rows, columns = weight.shape
    q, scales = torch.zeros(rows, columns + columns % 2, dtype=torch.int64), []
    for start in range(0, columns, group_size):
        group = weight[:, start : start + group_size]
        scale = (group.abs().amax(1) / 7).half()
        scale[scale == 0] = 1
        q[:, start : start + group.shape[1]] = torch.round(group.double() / scale.double()[:, None]).long()
        scales.append(scale)
    q = q % 16
    return (q[:, ::2] + 16 * q[:, 1::2]).to(torch.uint8), torch.stack(scales, dim=1)


@alternative("quantize_groupwise")
def with_spread_scales(weight, group_size=32):
    if group_size <= 0:
        raise ValueError("group_size")
    columns = weight.shape[1]
    scale = torch.stack([group.abs().max(dim=1).values / 7 for group in weight.split(group_size, dim=1)], dim=1).to(torch.float16)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    spread = scale.float().repeat_interleave(min(group_size, columns), dim=1)[:, :columns]
    q = (weight / spread).round().clamp(-7, 7).to(torch.int8)
    if columns % 2:
        q = torch.cat([q, q.new_zeros(len(q), 1)], dim=1)
    pairs = q.view(torch.uint8).unflatten(1, (-1, 2))
    return (pairs[..., 1] << 4) | (pairs[..., 0] & 15), scale


# dynamic_quantized_linear


@alternative("dynamic_quantized_linear")
def row_by_row(x, weight, weight_scale, bias=None):
    rows = []
    for row in x.reshape(-1, x.shape[-1]):
        top = row.abs().max().item()
        scale = top / 127 or 1.0
        q = torch.round(row.double() / scale).to(torch.int64)
        y = (weight.to(torch.int64) * q).sum(1) * scale * weight_scale
        rows.append(y if bias is None else y + bias)
    return torch.stack(rows).view(*x.shape[:-1], len(weight)) if rows else x.new_zeros(*x.shape[:-1], len(weight))


@alternative("dynamic_quantized_linear")
def products_in_double(x, weight, weight_scale, bias=None):
    top = x.abs().max(dim=-1, keepdim=True).values.double()
    scale = torch.where(top > 0, top / 127, 1.0)
    q = (x / scale).round().clamp(-127, 127)  # whole numbers: sums below 2**53 are exact in float64
    y = torch.einsum("...i,oi->...o", q, weight.double()) * scale * weight_scale.double()
    return (y if bias is None else y + bias).to(torch.float32)


@alternative("dynamic_quantized_linear")
def multiplies_by_127_first(x, weight, weight_scale, bias=None):
    top = x.abs().amax(-1, keepdim=True)
    q = torch.round(127 * x / top.where(top > 0, torch.ones_like(top))).to(
        torch.int8
    )  # whole multiples of 127 and of top: no digit is lost
    y = torch.matmul(q.to(torch.int64), weight.t().to(torch.int64)).to(torch.float64)
    y = y * (top.where(top > 0, torch.full_like(top, 127)) / 127) * weight_scale
    return (y if bias is None else y + bias).to(x.dtype)
