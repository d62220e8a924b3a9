"""Other correct answers to the tasks of attention: the hidden suite must accept every one."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# scaled_dot_product_attention


@alternative("scaled_dot_product_attention")
def exponentials_by_hand(q, k, v, mask=None):
    h = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = torch.einsum("...id,...jd->...ij", q.to(h) * q.shape[-1] ** -0.5, k.to(h))
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    scores = torch.where(allowed, scores, -torch.inf)
    top = scores.detach().amax(-1, keepdim=True)
    e = torch.where(allowed, scores - torch.where(top.isinf(), 0.0, top), -torch.inf).exp()
    total = e.sum(-1, keepdim=True)
    return (torch.einsum("...ij,...je->...ie", e, v.to(h)) / torch.where(total == 0, 1.0, total)).to(q.dtype)


@alternative("scaled_dot_product_attention")
def in_double_with_a_large_number(q, k, v, mask=None):
    scores = torch.matmul(q.double(), k.double().transpose(-1, -2)) / q.shape[-1] ** 0.5
    if mask is None:
        return (scores.softmax(-1) @ v.double()).to(v.dtype)
    weights = torch.softmax(scores + ~mask * -1e30, dim=-1) * mask
    return (weights @ v.double()).to(v.dtype)


@alternative("scaled_dot_product_attention")
def fills_with_infinity_twice(q, k, v, mask=None):
    if mask is None:
        mask = torch.ones(k.shape[-2], dtype=torch.bool)
    h = torch.promote_types(torch.float32, q.dtype)
    weights = (q.to(h) / math.sqrt(q.shape[-1]) @ k.to(h).mT).masked_fill(mask.logical_not(), float("-inf")).softmax(-1)
    return weights.masked_fill(mask.logical_not(), 0).matmul(v.to(h)).to(q.dtype)


@alternative("scaled_dot_product_attention")
def with_a_penalty_and_rows_of_zeros(q, k, v, mask=None):
    h = torch.promote_types(q.dtype, torch.float32)
    *batch, Tq, D = q.shape
    scores = torch.baddbmm(
        torch.zeros(1, 1, 1, dtype=h),
        q.to(h).reshape(-1, Tq, D),
        k.to(h).reshape(-1, *k.shape[-2:]).transpose(1, 2),
        alpha=1 / math.sqrt(D),
    ).reshape(*batch, Tq, -1)
    if mask is not None:
        mask = mask.broadcast_to(scores.shape)
        scores = scores + torch.zeros(mask.shape, dtype=h).masked_fill_(~mask, torch.finfo(h).min / 2)
    weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
    if mask is not None:
        weights = weights * mask.any(-1, keepdim=True)
    return torch.einsum("...qk,...ke->...qe", weights, v.to(h)).type_as(q)


# causal_mask


def _check_causal(offset, window):
    if offset < 0:
        raise ValueError("offset")
    if window is not None and window <= 0:
        raise ValueError("window")


@alternative("causal_mask")
def with_triangles(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    _check_causal(offset, window)
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(offset)
    return mask if window is None else mask.triu(offset - window + 1)


@alternative("causal_mask")
def with_lists(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    _check_causal(offset, window)
    width = num_keys + num_queries + offset + 1 if window is None else window
    rows = [[0 <= offset + i - j < width for j in range(num_keys)] for i in range(num_queries)]
    return torch.tensor(rows, dtype=torch.bool).reshape(num_queries, num_keys).to(device)


# padding_mask


@alternative("padding_mask")
def row_by_row(lengths, max_length=None, *, left=False):
    sizes = lengths.tolist()
    T = max([*sizes, 0]) if max_length is None else max_length
    if any(n < 0 or n > T for n in sizes):
        raise ValueError("lengths")
    mask = torch.zeros(len(sizes), 1, 1, T, dtype=torch.bool)
    for row, n in zip(mask, sizes, strict=True):
        row[..., T - n if left else 0 : T if left else n] = True
    return mask


@alternative("padding_mask")
def mirrors_the_mask(lengths, max_length=None, *, left=False):
    if lengths.lt(0).any():
        raise ValueError("negative")
    longest = lengths.max().item() if lengths.numel() else 0
    T = longest if max_length is None else max_length
    if longest > T:
        raise ValueError("too long")
    mask = torch.arange(T).unsqueeze(0) < lengths.unsqueeze(1)
    return (mask.flip(1) if left else mask).view(-1, 1, 1, T) if T else torch.zeros(len(lengths), 1, 1, 0, dtype=torch.bool)


# MultiHeadAttention


@alternative("MultiHeadAttention")
class HeadByHead(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model // num_heads * num_heads != d_model:
            raise ValueError("heads")
        self.d, self.D = d_model, d_model // num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.constant_(self.in_proj_bias, 0.0)
        nn.init.constant_(self.out_proj.bias, 0.0)

    def forward(self, query, key, value, mask=None):
        d, w, b = self.d, self.in_proj_weight, self.in_proj_bias
        q, k, v = query @ w[:d].T + b[:d], key @ w[d : 2 * d].T + b[d : 2 * d], value @ w[2 * d :].T + b[2 * d :]
        if mask is not None:
            mask = mask.expand(len(query), d // self.D, query.shape[1], key.shape[1])
        outputs = []
        for h in range(d // self.D):
            part = slice(h * self.D, (h + 1) * self.D)
            scores = torch.bmm(q[..., part], k[..., part].transpose(1, 2)) / self.D**0.5
            if mask is not None:
                scores = scores.masked_fill(~mask[:, h], -1e30)
            weights = scores.softmax(2) if mask is None else scores.softmax(2) * mask[:, h]
            outputs.append(weights.bmm(v[..., part]))
        return self.out_proj(torch.cat(outputs, dim=2))


@alternative("MultiHeadAttention")
class WithEinsum(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("heads")
        self.heads = num_heads
        bound = math.sqrt(6 / (4 * d_model))
        self.in_proj_weight = nn.Parameter((2 * torch.rand(3 * d_model, d_model) - 1) * bound)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        self.out_proj.bias.data.zero_()

    def forward(self, query, key, value, mask=None):
        weight = self.in_proj_weight.unflatten(0, (3, self.heads, -1))
        bias = self.in_proj_bias.unflatten(0, (3, self.heads, -1))
        q, k, v = (torch.einsum("btc,hdc->bhtd", x, weight[i]) + bias[i][None, :, None] for i, x in enumerate((query, key, value)))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
        allowed = torch.ones((), dtype=torch.bool) if mask is None else mask
        weights = torch.where(allowed, scores, torch.finfo(scores.dtype).min).softmax(-1)
        y = torch.einsum("bhij,bhjd->bihd", torch.where(allowed, weights, 0.0), v)
        return self.out_proj(y.reshape(query.shape))


@alternative("MultiHeadAttention")
class SoftmaxInSinglePrecision(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads:
            raise ValueError("heads")
        self.num_heads, self.head_dim = num_heads, d_model // num_heads
        self.register_parameter("in_proj_weight", nn.Parameter(torch.empty(3 * d_model, d_model)))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(3 * d_model)))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query, key, value, mask=None):
        B, Tq, d = query.shape
        q, k, v = (
            F.linear(x, self.in_proj_weight[i * d : (i + 1) * d], self.in_proj_bias[i * d : (i + 1) * d])
            .view(B, -1, self.num_heads, self.head_dim)
            .transpose(1, 2)
            for i, x in enumerate((query, key, value))
        )
        scores = torch.matmul(q, k.transpose(2, 3)) * self.head_dim**-0.5
        if mask is not None:
            scores = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        if mask is not None:
            weights = torch.where(mask, weights, torch.zeros((), dtype=weights.dtype))
        return self.out_proj(torch.matmul(weights, v).transpose(1, 2).contiguous().view(B, Tq, d))


# sinusoidal_positions


@alternative("sinusoidal_positions")
def fills_every_other_column(positions, d_model, *, base=10_000.0):
    if d_model % 2 == 1:
        raise ValueError("odd")
    y = torch.zeros(*positions.shape, d_model)
    angle = positions.double().unsqueeze(-1) / torch.tensor(base, dtype=torch.float64) ** (torch.arange(0, d_model, 2).double() / d_model)
    y[..., 0::2], y[..., 1::2] = angle.sin(), angle.cos()
    return y


@alternative("sinusoidal_positions")
def with_numpy(positions, d_model, *, base=10_000.0):
    if d_model & 1:
        raise ValueError("odd")
    i = np.arange(d_model)
    frequency = np.exp(-np.log(base) * (i - i % 2) / d_model)
    y = np.sin(positions.numpy()[..., None] * frequency + (i % 2) * np.pi / 2)
    return torch.from_numpy(np.ascontiguousarray(y)).to(torch.float32)


@alternative("sinusoidal_positions")
def on_the_unit_circle(positions, d_model, *, base=10_000.0):
    if d_model % 2:
        raise ValueError("odd")
    steps = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(base) / d_model))
    angle = torch.einsum("...,f->...f", positions.to(torch.float64), steps)
    return torch.view_as_real(torch.polar(torch.ones_like(angle), angle)).flip(-1).reshape(*positions.shape, d_model).to(torch.float32)


# apply_rope


@alternative("apply_rope")
def with_complex_numbers(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2 != 0:
        raise ValueError("odd")
    h = torch.float64 if x.dtype == torch.float64 else torch.float32
    angle = positions.double().unsqueeze(-1) * torch.pow(base, -torch.arange(x.shape[-1] // 2, dtype=torch.float64) * 2 / x.shape[-1])
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex128 if h == torch.float64 else torch.complex64)
    z = torch.view_as_complex(x.to(h).unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(z * turn).flatten(-2).to(x.dtype)


@alternative("apply_rope")
def with_swapped_neighbours(x, positions, *, base=10_000.0):
    D = x.shape[-1]
    if D % 2:
        raise ValueError("odd")
    angle = (positions.double()[..., None] / base ** (torch.arange(0, D, 2, dtype=torch.float64) / D)).repeat_interleave(2, dim=-1)
    h = x.double()
    swapped = torch.empty_like(h)
    swapped[..., ::2], swapped[..., 1::2] = -h[..., 1::2], h[..., ::2]
    return (h * angle.cos() + swapped * angle.sin()).to(x.dtype)


@alternative("apply_rope")
def with_matrices(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2:
        raise ValueError("odd")
    exponent = torch.arange(x.shape[-1] // 2, dtype=torch.float64).mul(-2.0 / x.shape[-1])
    angle = positions[..., None] * torch.tensor(base, dtype=torch.float64).pow(exponent)
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).unflatten(-1, (2, 2))
    pairs = x.to(torch.float64).unflatten(-1, (x.shape[-1] // 2, 2))
    return (rows @ pairs.unsqueeze(-1)).squeeze(-1).flatten(-2).to(x.dtype)


@alternative("apply_rope")
def as_complex_numbers_of_a_copy(x, positions, *, base=10_000.0):
    D = x.size(-1)
    if D % 2 != 0:
        raise ValueError("odd")
    wide = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    freqs = 1.0 / (base ** (torch.arange(0, D, 2)[: D // 2].double() / D))
    turns = torch.exp(1j * (positions.unsqueeze(-1) * freqs)).to(wide)
    pairs = x.contiguous().to(torch.float64 if wide is torch.complex128 else torch.float32)
    z = torch.view_as_complex(pairs.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(z * turns).flatten(-2).type_as(x)


# GroupedQueryAttention


class _Projections(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("heads")
        if num_heads % num_kv_heads != 0:
            raise ValueError("groups")
        self.H, self.G, self.D = num_heads, num_kv_heads, d_model // num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, self.G * self.D, bias=False)
        self.v_proj = nn.Linear(d_model, self.G * self.D, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)


@alternative("GroupedQueryAttention")
class BroadcastsGroups(_Projections):
    def forward(self, x, mask=None):
        B, T, d = x.shape
        q = self.q_proj(x).view(B, T, self.G, self.H // self.G, self.D).permute(0, 2, 3, 1, 4)
        k = self.k_proj(x).view(B, T, self.G, 1, self.D).permute(0, 2, 3, 1, 4)
        v = self.v_proj(x).view(B, T, self.G, 1, self.D).permute(0, 2, 3, 1, 4)
        scores = (q * self.D**-0.5) @ k.mT
        if mask is None:
            weights = scores.softmax(-1)
        else:
            mask = mask.expand(B, self.H, T, T).unflatten(1, (self.G, -1))
            weights = scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0)
        return self.out_proj((weights @ v).permute(0, 3, 1, 2, 4).reshape(B, T, d))


@alternative("GroupedQueryAttention")
class EachHeadLooksItsGroupUp(_Projections):
    def forward(self, x, mask=None):
        q, k, v = (proj(x).split(self.D, dim=-1) for proj in (self.q_proj, self.k_proj, self.v_proj))
        allowed = torch.ones(len(x), self.H, x.shape[1], x.shape[1], dtype=torch.bool) if mask is None else mask
        allowed = allowed.expand(len(x), self.H, -1, -1)
        heads = []
        for h in range(self.H):
            g = h * self.G // self.H
            scores = q[h] @ k[g].transpose(1, 2) / self.D**0.5
            weights = torch.where(allowed[:, h], scores, -1e30).softmax(-1)
            heads.append((weights * allowed[:, h]) @ v[g])
        return self.out_proj(torch.cat(heads, dim=-1))


@alternative("GroupedQueryAttention")
class RepeatsByExpanding(_Projections):
    def forward(self, x, mask=None):
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.D).transpose(1, 2)
        k, v = (self.repeat(proj(x).view(B, T, -1, self.D).transpose(1, 2)) for proj in (self.k_proj, self.v_proj))
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.D)
        if mask is not None:
            scores = scores + torch.zeros(mask.shape, dtype=scores.dtype).masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        if mask is not None:
            weights = weights * mask
        y = torch.matmul(weights, v).transpose(1, 2).contiguous()
        return self.out_proj(y.reshape(B, T, -1))

    def repeat(self, heads):
        B, G, T, D = heads.shape
        return heads[:, :, None].expand(B, G, self.H // G, T, D).reshape(B, self.H, T, D)


# KVCache


@alternative("KVCache")
class OneTensorForBoth:
    def __init__(self, batch_size, num_heads, max_length, head_dim, *, dtype=torch.float32):
        self.memory = torch.empty((2, batch_size, num_heads, max_length, head_dim), dtype=dtype)
        self.length = 0

    @torch.no_grad()
    def append(self, k, v):
        both, room = torch.stack(self._pair(k, v)), self.memory[..., self.length :, :]
        if both.shape[:3] + both.shape[4:] != self.memory.shape[:3] + self.memory.shape[4:]:
            raise ValueError("shape")
        if both.shape[3] > room.shape[3]:
            raise ValueError("full")
        room[..., : both.shape[3], :].copy_(both)
        self.length += both.shape[3]
        return tuple(self.memory[..., : self.length, :])

    def _pair(self, k, v):
        if k.dim() != 4 or k.shape != v.shape:
            raise ValueError("keys and values differ")
        return [k, v]

    def truncate(self, length):
        if length < 0 or length > self.length:
            raise ValueError("length")
        self.length = length


@alternative("KVCache")
class TokensFirst:
    """Keeps (max_length, B, H, D), and counts in a tensor."""

    def __init__(self, batch_size, num_heads, max_length, head_dim, *, dtype=torch.float32):
        self.shape = batch_size, num_heads, head_dim
        self.k, self.v = (torch.zeros(max_length, *self.shape, dtype=dtype) for _ in "kv")
        self.count = torch.tensor(0)

    @property
    def length(self):
        return int(self.count)

    def append(self, k, v):
        for x in (k, v):
            if x.ndim != 4 or (x.shape[0], x.shape[1], x.shape[3]) != self.shape or x.shape[2] != k.shape[2]:
                raise ValueError("shape")
        places = range(self.length, self.length + k.shape[2])
        if places.stop > len(self.k):
            raise ValueError("room")
        for place, key, value in zip(places, k.data.unbind(2), v.data.unbind(2), strict=True):
            self.k[place], self.v[place] = key, value
        self.count += k.shape[2]
        return self.k[: self.length].permute(1, 2, 0, 3), self.v[: self.length].permute(1, 2, 0, 3)

    def truncate(self, length):
        if not 0 <= length < self.length + 1:
            raise ValueError("length")
        self.count = torch.tensor(length)


@alternative("KVCache")
class WritesByIndex:
    def __init__(self, batch_size, num_heads, max_length, head_dim, *, dtype=torch.float32):
        self.k_cache = torch.zeros(batch_size, num_heads, max_length, head_dim, dtype=dtype)
        self.v_cache = torch.zeros(batch_size, num_heads, max_length, head_dim, dtype=dtype)
        self.length, self.max_length = 0, max_length

    def append(self, k, v):
        due = (*self.k_cache.shape[:2], k.size(2) if k.dim() == 4 else -1, self.k_cache.shape[3])
        if tuple(k.shape) != due or tuple(v.shape) != due:
            raise ValueError("shape")
        stop = self.length + due[2]
        if self.max_length < stop:
            raise ValueError("full")
        place = torch.arange(self.length, stop)
        with torch.no_grad():
            self.k_cache.index_copy_(2, place, k)
            self.v_cache.index_copy_(2, place, v)
        self.length = stop
        return self.k_cache.narrow(2, 0, stop), self.v_cache.narrow(2, 0, stop)

    def truncate(self, length):
        if length not in range(self.length + 1):
            raise ValueError("length")
        self.length = length


# blockwise_attention


@alternative("blockwise_attention")
def joins_softmaxes_by_their_sums(q, k, v, block_size, *, key_mask=None, causal=False):
    if block_size <= 0:
        raise ValueError("block_size")
    Tq, Tk = q.shape[-2], k.shape[-2]
    y, log_sum = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype), torch.full((*q.shape[:-1], 1), -torch.inf, dtype=q.dtype)
    place = torch.arange(Tk)
    for ks, vs, js in zip(k.split(block_size, -2), v.split(block_size, -2), place.split(block_size), strict=True):
        scores = q.shape[-1] ** -0.5 * (q @ ks.mT)
        allowed = torch.ones(scores.shape, dtype=torch.bool)
        if key_mask is not None:
            allowed &= key_mask[..., js].unsqueeze(-2)
        if causal:
            allowed &= js <= torch.arange(Tq).unsqueeze(1) + (Tk - Tq)
        scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
        seen = allowed.any(-1, keepdim=True)
        block = torch.where(seen, scores.logsumexp(-1, keepdim=True), -torch.inf)
        mixed = (scores.softmax(-1) * allowed) @ vs
        some = seen | (log_sum > -torch.inf)
        safe_block, safe_old = torch.where(some, block, 0.0), torch.where(some, log_sum, 0.0)
        share = torch.sigmoid(safe_block - safe_old) * seen
        y = y * (1 - share) + mixed * share
        log_sum = torch.where(some, torch.logaddexp(safe_block, safe_old), -torch.inf)
    return y


@alternative("blockwise_attention")
def in_two_passes(q, k, v, block_size, *, key_mask=None, causal=False):
    if block_size < 1:
        raise ValueError("block_size")
    Tq, Tk = q.shape[-2], k.shape[-2]

    def scores():
        for start in reversed(range(0, Tk, block_size)):
            part = slice(start, start + block_size)
            s = torch.einsum("...id,...jd->...ij", q, k[..., part, :]) / q.shape[-1] ** 0.5
            if key_mask is not None:
                s = s.masked_fill(key_mask[..., None, part].logical_not(), -torch.inf)
            if causal:
                ahead = torch.ones(s.shape[-2:], dtype=torch.bool).triu(Tk - Tq - start + 1)
                s = s.masked_fill(ahead, -torch.inf)
            yield part, s

    top = torch.full(q.shape[:-1], torch.finfo(q.dtype).min, dtype=q.dtype)
    for _, s in scores():
        top = torch.maximum(top, s.detach().max(-1).values)
    total, y = 0, 0
    for part, s in scores():
        e = (s - top[..., None]).exp()
        total, y = total + e.sum(-1), y + e @ v[..., part, :]
    return y / (total + (total == 0)).unsqueeze(-1)


@alternative("blockwise_attention")
def few_queries_at_a_time(q, k, v, block_size, *, key_mask=None, causal=False):
    if not block_size > 0:
        raise ValueError("block_size")
    Tq, D = q.shape[-2:]
    Tk = k.shape[-2]
    hidden = torch.zeros(Tk, dtype=torch.bool) if key_mask is None else ~key_mask
    parts = []
    for first in range(0, Tq, block_size):
        rows = q[..., first : first + block_size, :]
        s = torch.einsum("...id,...jd->...ij", rows, k) / math.sqrt(D)
        h = hidden.unsqueeze(-2)
        if causal:
            last_key = torch.arange(first, first + rows.shape[-2]).unsqueeze(-1) + Tk - Tq
            h = h | (torch.arange(Tk) > last_key)
        w = s.masked_fill(h, torch.finfo(s.dtype).min).softmax(-1).masked_fill(h, 0.0)
        parts.append(w @ v)
    return torch.cat(parts, dim=-2)


@alternative("blockwise_attention")
def with_sums_kept_above_zero(q, k, v, block_size, *, key_mask=None, causal=False):
    if block_size < 1:
        raise ValueError("block_size")
    (Tq, D), Tk, least = q.shape[-2:], k.shape[-2], torch.finfo(q.dtype).min
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    row_sums, row_maxes = torch.zeros(*q.shape[:-1], 1, dtype=q.dtype), torch.full((*q.shape[:-1], 1), least, dtype=q.dtype)
    seen = torch.zeros(*q.shape[:-1], 1, dtype=torch.bool)
    for start in range(0, Tk, block_size):
        kc, vc = k[..., start : start + block_size, :], v[..., start : start + block_size, :]
        s = torch.einsum("...id,...jd->...ij", q * D**-0.5, kc)
        shown = (
            torch.ones_like(s, dtype=torch.bool) if key_mask is None else key_mask[..., None, start : start + block_size].expand(s.shape)
        )
        if causal:
            shown = shown & torch.ones(s.shape[-2:], dtype=torch.bool).tril(Tk - Tq - start)
        s = s.masked_fill(~shown, least)
        seen = seen | shown.any(-1, keepdim=True)
        top = s.detach().amax(dim=-1, keepdim=True)
        e = torch.exp(s - top).masked_fill(~shown, 0.0)
        block_sums = e.sum(dim=-1, keepdim=True).clamp(min=1e-10)
        new_maxes = torch.maximum(top, row_maxes)
        old, fresh = torch.exp(row_maxes - new_maxes), torch.exp(top - new_maxes)
        new_sums = old * row_sums + fresh * block_sums
        out = (row_sums / new_sums) * old * out + (fresh / new_sums) * (e @ vc)
        row_sums, row_maxes = new_sums, new_maxes
    return out.masked_fill(~seen, 0.0)


# TransformerBlock


@alternative("TransformerBlock")
class WithLoopsOverHeads(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("heads")
        self.norm1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)
        self.D = d_model // num_heads

    def forward(self, x):
        T = x.size(1)
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=2)
        heads = []
        for a, b, c in zip(q.split(self.D, 2), k.split(self.D, 2), v.split(self.D, 2), strict=True):
            scores = a.bmm(b.transpose(1, 2)) / math.sqrt(self.D)
            scores = scores + torch.full((T, T), -torch.inf, dtype=x.dtype).triu(1)
            heads.append(scores.softmax(2).bmm(c))
        y = self.out(torch.cat(heads, 2)) + x
        hidden = self.up(self.norm2(y))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return self.down(hidden) + y


@alternative("TransformerBlock")
class WithTorchsFunction(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads:
            raise ValueError("heads")
        self.d, self.heads = d_model, num_heads
        for name in ("norm1", "norm2"):
            self.add_module(name, nn.LayerNorm(d_model))
        for name, sizes in {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}.items():
            self.add_module(name, nn.Linear(*(n * d_model for n in sizes)))
        self.register_buffer("future", torch.ones(1, 1, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x):
        T, h = x.shape[1], F.layer_norm(x, (self.d,), self.norm1.weight, self.norm1.bias).transpose(0, 1)
        if self.future.shape[0] < T:
            self.future = torch.ones(T, T, dtype=torch.bool).triu(1)
        y, _ = F.multi_head_attention_forward(
            h, h, h, self.d, self.heads, self.qkv.weight, self.qkv.bias, None, None, False, 0.0, self.out.weight, self.out.bias,
            need_weights=False, attn_mask=self.future[:T, :T],
        )  # fmt: skip
        x = x + y.transpose(0, 1)
        return torch.add(x, self.down(nn.GELU()(self.up(self.norm2(x)))))


@alternative("TransformerBlock")
class WithAPenaltyForTheFuture(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        assert num_heads > 0
        if d_model % num_heads != 0:
            raise ValueError("heads")
        self.n_head, self.n_embd = num_heads, d_model
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        for linear in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x):
        return (lambda y: y + self.down(F.gelu(self.up(self.norm2(y)))))(x + self.mix(self.norm1(x)))

    def mix(self, h):
        B, T, C = h.size()
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for part in self.qkv(h).split(self.n_embd, dim=2))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att + nn.Transformer.generate_square_subsequent_mask(T)
        att = F.softmax(att.float(), dim=-1).type_as(q)
        return self.out((att @ v).transpose(1, 2).contiguous().view(B, T, C))


# sample_next


def _check_sampling(temperature, top_k, top_p):
    if temperature < 0:
        raise ValueError("temperature")
    if top_k is not None and top_k <= 0:
        raise ValueError("top_k")
    if top_p is not None and (top_p <= 0 or top_p > 1):
        raise ValueError("top_p")


@alternative("sample_next")
def with_gumbel_noise(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return logits.max(dim=-1).indices
    scores = logits.double() / temperature
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    if top_k is not None:
        scores = scores.masked_fill(rank >= top_k, -torch.inf)
    if top_p is not None and top_p < 1:
        p = scores.softmax(-1).gather(-1, order)
        reached = (p.cumsum(-1) >= top_p).long()
        keep = reached.argmax(-1, keepdim=True)  # the first rank that reaches top_p
        scores = scores.masked_fill(rank > keep, -torch.inf)
    noise = -torch.log(-torch.log(torch.rand(scores.shape, generator=generator, dtype=torch.float64).clamp(min=1e-300, max=1 - 1e-16)))
    return (scores + noise).argmax(dim=-1)


@alternative("sample_next")
def by_inverting_the_sums(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return torch.argmax(logits, dim=-1)
    V = logits.shape[-1]
    p, token = torch.sort((logits.to(torch.float64) / temperature).softmax(-1), dim=-1, descending=True, stable=True)
    if top_k is not None:
        p = p * (torch.arange(V) < top_k)
        p = p / p.sum(-1, keepdim=True)
    if top_p is not None and top_p < 1.0:
        before = F.pad(p.cumsum(-1), (1, 0))[..., :-1]
        p = torch.where(before < top_p, p, 0.0)
    sums = p.cumsum(-1)
    number = torch.rand((*logits.shape[:-1], 1), generator=generator, dtype=torch.float64) * sums[..., -1:]
    rank = torch.searchsorted(sums, number, right=True)
    return token.gather(-1, rank.clamp(max=V - 1)).squeeze(-1)


@alternative("sample_next")
def one_row_after_the_other(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    _check_sampling(temperature, top_k, top_p)
    rows = logits.reshape(-1, logits.shape[-1])
    if temperature == 0:
        picks = [row.tolist().index(row.max().item()) for row in rows]
        return torch.tensor(picks).view(logits.shape[:-1])
    places, numbers, table = {}, [], []
    for row in rows.tolist():
        key = tuple(row)
        if key not in places:
            order = sorted(range(len(row)), key=lambda t: -row[t])[: top_k or None]
            e = [math.exp((row[t] - row[order[0]]) / temperature) for t in order]
            p, total, whole = [0.0] * len(row), 0.0, sum(e)
            for t, x in zip(order, e, strict=True):
                if top_p is not None and top_p < 1 and total >= top_p:
                    break
                p[t] = x / whole
                total += p[t]
            places[key] = len(table)
            table.append(p)
        numbers.append(places[key])
    kept = torch.tensor(table, dtype=torch.float64)[numbers]
    return torch.multinomial(kept, 1, generator=generator).view(logits.shape[:-1])


@alternative("sample_next")
def in_a_race_of_exponentials(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0.0:
        return torch.argmax(logits, dim=-1)
    scores, indices = torch.sort(logits.div(temperature), descending=True, stable=True)
    probs = F.softmax(scores[..., : min(top_k or logits.size(-1), logits.size(-1))], dim=-1)
    indices = indices[..., : probs.size(-1)]
    if top_p is not None and top_p < 1:
        reached = probs.cumsum(-1).sub(probs) >= top_p
        probs = probs.masked_fill(reached, 0.0)
    race = probs / torch.empty_like(probs).exponential_(1, generator=generator)
    return indices.gather(-1, race.argmax(-1, keepdim=True)).squeeze(-1)


# bpe_merges


@alternative("bpe_merges")
def with_strings_of_tokens(counts, num_merges):
    if num_merges < 0:
        raise ValueError("num_merges")
    vocabulary = {}
    for word, n in counts.items():
        vocabulary[tuple(word)] = vocabulary.get(tuple(word), 0) + n
    merges = []
    while len(merges) < num_merges:
        stats = defaultdict(int)
        for word, n in vocabulary.items():
            for i in range(len(word) - 1):
                stats[word[i], word[i + 1]] += n
        top = max(stats.values(), default=0)
        if top == 0:
            break
        best = min(pair for pair, n in stats.items() if n == top)
        changed = {}
        for word, n in vocabulary.items():
            new, i = [], 0
            while i < len(word):
                if i < len(word) - 1 and word[i] == best[0] and word[i + 1] == best[1]:
                    new.append(256 + len(merges))
                    i += 2
                else:
                    new.append(word[i])
                    i += 1
            changed[tuple(new)] = changed.get(tuple(new), 0) + n
        vocabulary = changed
        merges.append(best)
    return merges


@alternative("bpe_merges")
def counting_only_what_changed(counts, num_merges):
    if num_merges < 0:
        raise ValueError("num_merges")
    words = [[list(word), n] for word, n in counts.items()]
    pairs, where = Counter(), defaultdict(set)

    def add(index, sign):
        tokens, n = words[index]
        for pair in itertools.pairwise(tokens):
            pairs[pair] += sign * n
            where[pair].add(index)

    for index in range(len(words)):
        add(index, 1)
    merges = []
    for k in range(num_merges):
        left = [(-n, pair) for pair, n in pairs.items() if n]
        if not left:
            break
        best = min(left)[1]
        for index in list(where[best]):
            add(index, -1)
            tokens, i = words[index][0], 0
            while i + 1 < len(tokens):
                if (tokens[i], tokens[i + 1]) == best:
                    tokens[i : i + 2] = [256 + k]
                i += 1
            add(index, 1)
        merges.append(best)
    return merges


# bpe_encode


@alternative("bpe_encode")
def rank_by_rank(data, merges):
    tokens = list(data)
    for k, pair in enumerate(merges):
        i = 0
        while i < len(tokens) - 1:
            if (tokens[i], tokens[i + 1]) == pair:
                tokens[i : i + 2] = [256 + k]
            i += 1
    return torch.tensor(tokens, dtype=torch.long)


@alternative("bpe_encode")
def one_place_at_a_time(data, merges):
    texts = [bytes([i]) for i in range(256)]
    ranks = {}
    for rank, (a, b) in enumerate(merges):
        texts.append(texts[a] + texts[b])
        ranks[a, b] = rank
    parts = list(data)
    while True:
        best = None
        for i, pair in enumerate(itertools.pairwise(parts)):
            rank = ranks.get(pair)
            if rank is not None and (best is None or rank < best[0]):
                best = rank, i
        if best is None:
            break
        rank, i = best
        parts = [*parts[:i], 256 + rank, *parts[i + 2 :]]
    return torch.LongTensor(parts)


# MixtureOfExperts


@alternative("MixtureOfExperts")
class TokenByToken(nn.Module):
    def __init__(self, d_model, d_hidden, num_experts, k, *, capacity=None):
        super().__init__()
        if k < 1 or k > num_experts:
            raise ValueError("k")
        if capacity is not None and capacity < 0:
            raise ValueError("capacity")
        self.k, self.limit = k, math.inf if capacity is None else capacity
        self.router = nn.Linear(d_model, num_experts, bias=False)
        experts = [nn.Sequential(nn.Linear(d_model, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_model)) for _ in range(num_experts)]
        self.experts = nn.ModuleList(experts)

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        p = self.router(tokens).softmax(1)
        order = [sorted(range(len(row)), key=lambda e: -row[e]) for row in self.router(tokens).tolist()]
        load, sums = [0] * len(self.experts), [torch.zeros_like(token) for token in tokens]
        for rank in range(self.k):
            for t, token in enumerate(tokens):
                e = order[t][rank]
                if load[e] < self.limit:
                    load[e] += 1
                    sums[t] = sums[t] + p[t, e] * self.experts[e](token)
        return torch.stack(sums).reshape(x.shape) if sums else x.clone()


@alternative("MixtureOfExperts")
class WithSlots(nn.Module):
    """Counts each expert's choices with cumsum, and fills a buffer of (E, C, d), as GShard does."""

    def __init__(self, d_model, d_hidden, num_experts, k, *, capacity=None):
        super().__init__()
        if not 0 < k <= num_experts or (capacity or 0) < 0:
            raise ValueError("k or capacity")
        self.k, self.capacity, self.num_experts = k, capacity, num_experts
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList()
        for _ in range(num_experts):
            self.experts.append(nn.Sequential(nn.Linear(d_model, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_model)))

    def forward(self, x):
        tokens = x.flatten(0, -2) if x.ndim > 1 else x[None]
        N, E = len(tokens), self.num_experts
        logits = F.linear(tokens, self.router.weight)
        chosen = logits.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        gates = F.softmax(logits, dim=1).gather(1, chosen)
        hot = F.one_hot(chosen.T.reshape(-1), E)  # (k · N, E), first choices first
        place = ((hot.cumsum(0) - 1) * hot).sum(1)
        C = N * self.k if self.capacity is None else self.capacity
        kept = place < C
        token = torch.arange(N).repeat(self.k)[kept]
        expert, place = chosen.T.reshape(-1)[kept], place[kept]
        y = torch.zeros_like(tokens)
        for e in range(E):
            rows = token[expert == e][place[expert == e].argsort()]
            out = self.experts[e](tokens[rows])
            weight = (gates * (chosen == e)).sum(1)[rows]
            y = torch.index_add(y, 0, rows, out * weight.unsqueeze(1))
        return y.reshape(x.shape)


# load_balancing_loss


@alternative("load_balancing_loss")
def with_one_hot_rows(logits, k=1, *, mask=None):
    E = logits.size(-1)
    if k < 1 or k > E:
        raise ValueError("k")
    flat = logits.reshape(-1, E)
    if mask is not None:
        flat = flat[mask.reshape(-1)]
    if len(flat) == 0:
        return flat.to(torch.promote_types(flat.dtype, torch.float32)).sum()
    p = F.softmax(flat.double(), dim=-1)
    order = torch.sort(flat, dim=-1, descending=True, stable=True).indices[:, :k]
    share = F.one_hot(order, E).double().sum(1).mean(0) / k
    loss = E * torch.dot(share, p.mean(0))
    return loss if logits.dtype == torch.float64 else loss.float()


@alternative("load_balancing_loss")
def with_zeros_in_the_padding(logits, k=1, *, mask=None):
    E = logits.shape[-1]
    if k not in range(1, E + 1):
        raise ValueError("k")
    kept = (torch.ones_like(logits[..., 0]) if mask is None else mask).bool().unsqueeze(-1)
    clean = torch.where(kept, logits, torch.zeros((), dtype=logits.dtype))
    clean = clean if clean.dtype == torch.float64 else clean.float()
    p = clean.softmax(-1) * kept
    with torch.no_grad():
        lower = torch.ones(E, E, dtype=torch.bool).tril(-1)  # [e, o]: o has the lower index
        a, b = clean.unsqueeze(-1), clean.unsqueeze(-2)
        before = (b > a) | ((b == a) & lower)
        hot = (before.sum(-1) < k) & kept
        f = hot.reshape(-1, E).sum(0).to(p.dtype)
    n = kept.sum().clamp(min=1).to(p.dtype)
    return torch.einsum("e,e->", f / (n * k), p.reshape(-1, E).sum(0) / n) * E


# flash_attention_backward


@alternative("flash_attention_backward")
def keys_in_the_outer_loop(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    if min(query_block, key_block) <= 0:
        raise ValueError("blocks")
    Tq, Tk = q.size(-2), k.size(-2)
    scale = 1 / math.sqrt(q.size(-1))
    D = torch.einsum("...e,...e->...", y, dy)
    dq, dks, dvs = torch.zeros(q.shape, dtype=q.dtype), [], []
    for b in range(0, Tk, key_block):
        kj, vj = k[..., b : b + key_block, :], v[..., b : b + key_block, :]
        dk, dv = torch.zeros(kj.shape, dtype=q.dtype), torch.zeros(vj.shape, dtype=q.dtype)
        for a in range(0, Tq, query_block):
            qi, dyi = q[..., a : a + query_block, :], dy[..., a : a + query_block, :]
            rows, columns = qi.size(-2), kj.size(-2)
            if causal and b > a + rows - 1 + Tk - Tq:
                continue
            s = torch.einsum("...id,...jd->...ij", qi, kj) * scale
            if causal:
                visible = torch.ones(rows, columns, dtype=torch.bool).tril(a + Tk - Tq - b)
                s = torch.where(visible, s, float("-inf"))
            p = torch.exp(s - lse[..., a : a + rows].unsqueeze(-1))
            dv += torch.einsum("...ij,...ie->...je", p, dyi)
            dp = torch.einsum("...ie,...je->...ij", dyi, vj)
            ds = p * (dp - D[..., a : a + rows].unsqueeze(-1))
            dq[..., a : a + rows, :] += torch.einsum("...ij,...jd->...id", ds, kj) * scale
            dk += torch.einsum("...ij,...id->...jd", ds, qi) * scale
        dks.append(dk)
        dvs.append(dv)
    return dq, torch.cat(dks, dim=-2), torch.cat(dvs, dim=-2)


@alternative("flash_attention_backward")
def row_blocks_added_up(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    if query_block < 1:
        raise ValueError("query_block")
    if key_block < 1:
        raise ValueError("key_block")
    Tq, Tk = q.shape[-2], k.shape[-2]
    scaled = q / q.shape[-1] ** 0.5
    dq = []
    dk, dv = k.new_zeros(k.shape), v.new_zeros(v.shape)
    for a in range(0, Tq, query_block):
        z = min(a + query_block, Tq)
        row = 0
        for b in range(0, Tk, key_block):
            c = min(b + key_block, Tk)
            exponent = scaled[..., a:z, :].matmul(k[..., b:c, :].transpose(-1, -2)) - lse[..., a:z, None]
            if causal:
                later = torch.arange(b, c).unsqueeze(0) - torch.arange(a, z).unsqueeze(1) > Tk - Tq
                exponent = exponent.masked_fill(later, -math.inf)
            p = exponent.exp()
            dp = dy[..., a:z, :].matmul(v[..., b:c, :].transpose(-1, -2))
            ds = p * dp - p * (dy[..., a:z, :] * y[..., a:z, :]).sum(-1, keepdim=True)
            row = row + ds.matmul(k[..., b:c, :])
            dk[..., b:c, :] = dk[..., b:c, :] + ds.transpose(-1, -2).matmul(scaled[..., a:z, :])
            dv[..., b:c, :] = dv[..., b:c, :] + p.transpose(-1, -2).matmul(dy[..., a:z, :])
        dq.append(row / q.shape[-1] ** 0.5)
    return torch.cat(dq, -2), dk, dv


# TinyGPT


@alternative("TinyGPT")
class PlainAdam(nn.Module):
    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context, d_model)
        self.tokens.weight.data.normal_(0, 0.02)
        self.positions.weight.data.normal_(0, 0.02)
        layers = []
        for _ in range(num_layers):
            layers.append(nn.TransformerEncoderLayer(d_model, num_heads, 4 * d_model, 0.0, "gelu", batch_first=True, norm_first=True))
        self.blocks = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        if ids.size(1) > self.context:
            raise ValueError("too long")
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        for layer in self.blocks:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(self.norm(x))

    def fit(self, text):
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3, fused=True)
        for _ in range(150):
            start = torch.randint(len(text) - self.context, (12, 1))
            batch = text[start + torch.arange(self.context + 1)]
            loss = F.cross_entropy(self(batch[:, :-1]).transpose(1, 2), batch[:, 1:])
            self.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()


@alternative("TinyGPT")
class BlocksByHand(nn.Module):
    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        self.num_heads = num_heads
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        self.tokens.weight = self.head.weight
        for weight in (self.head.weight, self.positions.weight):
            nn.init.normal_(weight, 0.0, 0.02)
        make = nn.TransformerEncoderLayer
        settings = {"activation": "gelu", "batch_first": True, "norm_first": True, "dropout": 0.0}
        self.blocks = nn.ModuleList([make(d_model, num_heads, 4 * d_model, **settings) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, ids):
        B, L = ids.shape
        if len(self.positions.weight) < L:
            raise ValueError("too long")
        x = self.tokens.weight[ids] + self.positions.weight[torch.arange(L)]
        for b in self.blocks:
            q, k, v = F.linear(b.norm1(x), b.self_attn.in_proj_weight, b.self_attn.in_proj_bias).view(B, L, 3, self.num_heads, -1).unbind(2)
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
            x = x + b.self_attn.out_proj(y.transpose(1, 2).reshape(B, L, -1))
            x = x + b.linear2(F.gelu(b.linear1(b.norm2(x))))
        return F.linear(self.norm(x), self.tokens.weight)

    def fit(self, text):
        T, updates = self.positions.num_embeddings, 150
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        for i in range(updates):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * min(1.0, (i + 1) / 20, (updates - i) / 75)
            starts = torch.randperm(len(text) - T)[:12].tolist()
            batch = torch.stack([text[s : s + T + 1] for s in starts])
            optimizer.zero_grad(set_to_none=False)
            log_p = self(batch[:, :T]).log_softmax(-1)
            (-log_p.gather(-1, batch[:, 1:, None]).mean()).backward()
            optimizer.step()


@alternative("TinyGPT")
class ReadsInEpochs(nn.Module):
    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        layer = nn.TransformerEncoderLayer(
            d_model, num_heads, 4 * d_model, dropout=0.0, activation=F.gelu, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False).layers
        self.norm, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)

    def forward(self, idx):
        t = idx.size(1)
        if t > self.positions.weight.size(0):
            raise ValueError("too long")
        x = self.tokens(idx) + self.positions(torch.arange(t, device=idx.device))[None]
        mask = torch.full((t, t), float("-inf"), device=idx.device).triu(diagonal=1)
        for block in self.blocks:
            x = block(x, mask, is_causal=True)
        return self.head(self.norm(x))

    def fit(self, text):
        T = self.positions.num_embeddings
        windows = [(text[i : i + T], text[i + 1 : i + 1 + T]) for i in range(len(text) - T)]
        loader = torch.utils.data.DataLoader(windows, batch_size=24, shuffle=True)
        optimizer = torch.optim.AdamW(self.parameters(), lr=6e-3, weight_decay=0.01, fused=True)
        with torch.enable_grad():
            for x, y in loader:
                logits = self(x)
                loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                optimizer.step()
