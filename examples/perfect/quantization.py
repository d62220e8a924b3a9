import math
import numpy as np
import torch
from torch import Tensor, nn


def affine_qparams(low, high, *, qmin=-128, qmax=127):
    if not math.isfinite(low) or not math.isfinite(high) or low > high or qmin >= qmax:
        raise ValueError
    low = min(0.0, low)
    high = max(0.0, high)
    if low == high:
        return 1.0, qmin
    s = (high - low) / (qmax - qmin)
    return s, round(qmin - low / s)


def quantize(x, scale, zero_point, *, dtype=torch.int8):
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    lo, hi = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    return torch.clamp(x.div(scale).round().add(zero_point), lo, hi).to(dtype)


def dequantize(q, scale, zero_point):
    return (q.int() - zero_point).float() * scale


def quantize_per_channel(x, dim):
    xt = x.transpose(0, dim)
    flat = xt.reshape(xt.shape[0], -1)
    s = flat.abs().max(1)[0] / 127
    s = torch.where(s == 0, torch.ones_like(s), s)
    q = torch.round(flat / s[:, None]).to(torch.int8).reshape(xt.shape).transpose(0, dim)
    return q, s


class MinMaxObserver(nn.Module):
    def __init__(self, channels=None):
        super().__init__()
        shape = [] if channels is None else [channels]
        self.register_buffer("low", torch.full(shape, float("inf")))
        self.register_buffer("high", torch.full(shape, -float("inf")))

    def forward(self, x):
        if x.numel() == 0:
            return x
        with torch.no_grad():
            if self.low.dim():
                dims = [d for d in range(x.dim()) if d != 1]
                lo, hi = x.amin(dims), x.amax(dims)
            else:
                lo, hi = x.min(), x.max()
            self.low = torch.minimum(self.low, lo)
            self.high = torch.maximum(self.high, hi)
        return x

    def qparams(self):
        if torch.isinf(self.low).any():
            raise RuntimeError
        l = torch.minimum(self.low, torch.zeros(()))
        h = torch.maximum(self.high, torch.zeros(()))
        s = (h - l) / 255
        s = torch.where(s == 0, torch.tensor(1.0), s)
        return s, (-128 - l / s).round().int()


class PercentileObserver:
    def __init__(self, tail=0.001):
        if not 0 <= tail < 0.5:
            raise ValueError
        self.tail = tail
        self.chunks = []

    def observe(self, x):
        self.chunks.append(x.detach().float().clone().numpy().ravel())

    def range(self):
        if sum(len(c) for c in self.chunks) == 0:
            raise RuntimeError
        v = np.concatenate(self.chunks)
        return float(np.quantile(v, self.tail)), float(np.quantile(v, 1 - self.tail))


def int8_matmul(a, b, a_zero_point, b_zero_point):
    return torch.matmul(a.long() - a_zero_point, b.long() - b_zero_point).int()


class QuantizedLinear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @classmethod
    def from_float(cls, linear):
        new = cls(linear.in_features, linear.out_features, linear.bias is not None)
        with torch.no_grad():
            s = linear.weight.abs().max(dim=1).values / 127
            s[s == 0] = 1
            new.scale.copy_(s)
            new.weight.copy_((linear.weight / s[:, None]).round())
            if new.bias is not None:
                new.bias.copy_(linear.bias)
        return new

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() * self.scale[:, None], self.bias)


class _FQ(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, z, qmin, qmax):
        q = (x / scale).round() + z
        ctx.mask = (q >= qmin) & (q <= qmax)
        return (q.clamp(qmin, qmax) - z) * scale

    @staticmethod
    def backward(ctx, g):
        return g.masked_fill(~ctx.mask, 0.0), None, None, None, None


def fake_quantize(x, scale, zero_point, qmin, qmax):
    return _FQ.apply(x, scale, zero_point, qmin, qmax)


def _act(v):
    lo, hi = min(v.min().item(), 0.0), max(v.max().item(), 0.0)
    if lo == hi:
        return 1.0, -128
    s = (hi - lo) / 255
    return s, int(round(-128 - lo / s))


def calibrate_model(weights, images):
    out = {}
    h = images.reshape(len(images), -1)
    for i, name in ((1, "input"), (3, "hidden")):
        w, b = weights[f"{i}.weight"], weights[f"{i}.bias"]
        out[f"{name}_scale"], out[f"{name}_zero_point"] = _act(h)
        s = w.abs().amax(dim=1) / 127
        s = torch.where(s > 0, s, 1.0)
        out[f"{i}.weight"] = (w / s[:, None]).round().to(torch.int8)
        out[f"{i}.scale"] = s
        out[f"{i}.bias"] = b
        h = (h @ w.T + b).relu()
    return out


class QATLinear(nn.Module):
    def __init__(self, in_features, out_features, bits=4):
        super().__init__()
        if bits < 2 or bits > 8:
            raise ValueError
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * 0.1)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.n = 2 ** (bits - 1) - 1

    def quantized(self):
        with torch.no_grad():
            s = self.weight.abs().amax(dim=1) / self.n
            s = torch.where(s == 0, 1.0, s)
            return (self.weight / s[:, None]).round().to(torch.int8), s

    def forward(self, x):
        q, s = self.quantized()
        w = self.weight + (q * s[:, None] - self.weight).detach()
        return nn.functional.linear(x, w, self.bias)


def pack_int4(q):
    if q.numel() and (int(q.min()) < -8 or int(q.max()) > 7):
        raise ValueError
    if q.shape[-1] % 2 == 1:
        q = torch.cat([q, torch.zeros_like(q[..., :1])], dim=-1)
    u = q.to(torch.uint8)
    return ((u[..., 1::2] & 15) * 16 + (u[..., ::2] & 15)).to(torch.uint8)


def unpack_int4(packed, size):
    if size < 0 or packed.shape[-1] != math.ceil(size / 2):
        raise ValueError
    lo, hi = (packed & 15).to(torch.int8), (packed >> 4).to(torch.int8)
    out = torch.zeros(*packed.shape[:-1], packed.shape[-1] * 2, dtype=torch.int8)
    out[..., ::2], out[..., 1::2] = lo, hi
    out[out > 7] -= 16
    return out[..., :size]


def quantize_groupwise(weight, group_size=32):
    if group_size < 1:
        raise ValueError
    qs, ss = [], []
    for g in torch.split(weight, group_size, dim=1):
        s = (g.abs().amax(dim=1, keepdim=True) / 7).half()
        s[s == 0] = 1
        qs.append(torch.round(g / s.float()))
        ss.append(s)
    return pack_int4(torch.cat(qs, 1).to(torch.int8)), torch.cat(ss, 1)


def dynamic_quantized_linear(x, weight, weight_scale, bias=None):
    s = x.abs().amax(dim=-1, keepdim=True) / 127
    s = torch.where(s == 0, 1.0, s)
    y = torch.matmul((x / s).round().long(), weight.long().T).float() * s * weight_scale
    if bias is not None:
        y = y + bias
    return y
