"""My answers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _attend(q, k, v, mask):
    s = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is None:
        return torch.softmax(s, -1) @ v
    mask = mask.broadcast_to(s.shape)
    blind = ~mask.any(-1, keepdim=True)
    s = s.masked_fill(~(mask | blind), -math.inf)
    w = torch.softmax(s, -1)
    return torch.where(blind, torch.zeros_like(w), w) @ v


def scaled_dot_product_attention(q, k, v, mask=None):
    if q.dtype in (torch.float16, torch.bfloat16):
        return _attend(q.float(), k.float(), v.float(), mask).to(q.dtype)
    return _attend(q, k, v, mask)


def causal_mask(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    if offset < 0:
        raise ValueError
    if window is not None and window < 1:
        raise ValueError
    d = torch.arange(offset, offset + num_queries, device=device).unsqueeze(1) - torch.arange(num_keys, device=device).unsqueeze(0)
    return (d >= 0) if window is None else (d >= 0) & (d < window)


def padding_mask(lengths, max_length=None, *, left=False):
    if max_length is None:
        max_length = int(lengths.max()) if len(lengths) else 0
    if len(lengths) and (lengths.min() < 0 or lengths.max() > max_length):
        raise ValueError
    t = torch.arange(max_length).view(1, 1, 1, -1)
    n = lengths.view(-1, 1, 1, 1)
    return t >= max_length - n if left else t < n


class MultiHeadAttention(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads:
            raise ValueError
        self.h = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        nn.init.xavier_uniform_(self.in_proj_weight)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query, key, value, mask=None):
        B, Tq, d = query.shape
        wq, wk, wv = self.in_proj_weight.split(d)
        bq, bk, bv = self.in_proj_bias.split(d)
        q = (query @ wq.mT + bq).view(B, Tq, self.h, -1).permute(0, 2, 1, 3)
        k = (key @ wk.mT + bk).view(B, key.shape[1], self.h, -1).permute(0, 2, 1, 3)
        v = (value @ wv.mT + bv).view(B, key.shape[1], self.h, -1).permute(0, 2, 1, 3)
        return self.out_proj(_attend(q, k, v, mask).permute(0, 2, 1, 3).reshape(B, Tq, d))


def sinusoidal_positions(positions, d_model, *, base=10_000.0):
    if d_model % 2:
        raise ValueError
    out = torch.empty(positions.shape + (d_model,))
    for i in range(d_model // 2):
        a = positions.double() / base ** (2 * i / d_model)
        out[..., 2 * i] = a.sin()
        out[..., 2 * i + 1] = a.cos()
    return out


def apply_rope(x, positions, *, base=10_000.0):
    D = x.shape[-1]
    if D % 2:
        raise ValueError
    out = []
    c = x if x.dtype == torch.float64 else x.float()
    for i in range(D // 2):
        t = positions.double() * base ** (-2 * i / D)
        co, si = t.cos().to(c.dtype), t.sin().to(c.dtype)
        a, b = c[..., 2 * i], c[..., 2 * i + 1]
        out += [a * co - b * si, a * si + b * co]
    return torch.stack(out, -1).to(x.dtype)


class GroupedQueryAttention(nn.Module):
    def __init__(self, d_model, num_heads, num_kv_heads):
        super().__init__()
        if d_model % num_heads or num_heads % num_kv_heads:
            raise ValueError
        self.H, self.G, self.D = num_heads, num_kv_heads, d_model // num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, self.G * self.D, bias=False)
        self.v_proj = nn.Linear(d_model, self.G * self.D, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, mask=None):
        B, T, d = x.shape
        q = self.q_proj(x).view(B, T, self.H, self.D).transpose(1, 2)
        index = torch.arange(self.H) // (self.H // self.G)
        k = self.k_proj(x).view(B, T, self.G, self.D).transpose(1, 2)[:, index]
        v = self.v_proj(x).view(B, T, self.G, self.D).transpose(1, 2)[:, index]
        return self.out_proj(_attend(q, k, v, mask).transpose(1, 2).reshape(B, T, d))


class KVCache:
    def __init__(self, batch_size, num_heads, max_length, head_dim, *, dtype=torch.float32):
        self.k = torch.empty(batch_size, num_heads, max_length, head_dim, dtype=dtype)
        self.v = torch.empty_like(self.k)
        self.length = 0

    def append(self, k, v):
        B, H, M, D = self.k.shape
        if k.ndim != 4 or v.shape != k.shape or (k.shape[0], k.shape[1], k.shape[3]) != (B, H, D):
            raise ValueError("shape")
        n = self.length + k.shape[2]
        if n > M:
            raise ValueError("full")
        with torch.no_grad():
            self.k[:, :, self.length : n].copy_(k)
            self.v[:, :, self.length : n].copy_(v)
        self.length = n
        return self.k.narrow(2, 0, n), self.v.narrow(2, 0, n)

    def truncate(self, length):
        if length not in range(self.length + 1):
            raise ValueError
        self.length = length


def blockwise_attention(q, k, v, block_size, *, key_mask=None, causal=False):
    if block_size < 1:
        raise ValueError
    Tq, Tk = q.shape[-2], k.shape[-2]
    lowest = torch.finfo(q.dtype).min
    m = torch.full(q.shape[:-1] + (1,), lowest, dtype=q.dtype)
    z, a = torch.zeros_like(m), 0
    for lo in range(0, Tk, block_size):
        hi = min(lo + block_size, Tk)
        s = q @ k[..., lo:hi, :].transpose(-1, -2) / math.sqrt(q.shape[-1])
        ok = torch.ones(s.shape, dtype=torch.bool)
        if key_mask is not None:
            ok = ok & key_mask[..., lo:hi].unsqueeze(-2)
        if causal:
            ok = ok & (torch.arange(lo, hi) <= torch.arange(Tq)[:, None] + Tk - Tq)
        s = torch.where(ok, s, lowest)
        new = torch.maximum(m, s.amax(-1, keepdim=True))
        p = torch.exp(s - new) * ok
        f = torch.exp(m - new)
        z = z * f + p.sum(-1, keepdim=True)
        a = a * f + p @ v[..., lo:hi, :]
        m = new
    return torch.where(z > 0, a / torch.where(z > 0, z, 1.0), 0.0)


class TransformerBlock(nn.Module):
    def __init__(self, d_model, num_heads):
        super().__init__()
        if d_model % num_heads:
            raise ValueError
        self.h = num_heads
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        B, T, d = x.shape
        q, k, v = (t.view(B, T, self.h, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        y = _attend(q, k, v, torch.ones(T, T, dtype=torch.bool).tril())
        x = x + self.out(y.transpose(1, 2).reshape(B, T, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def sample_next(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not (0 < top_p <= 1)):
        raise ValueError
    if temperature == 0:
        return logits.argmax(-1)
    V = logits.shape[-1]
    flat = logits.reshape(-1, V) / temperature
    order = flat.argsort(dim=-1, descending=True, stable=True)
    if top_k is not None and top_k < V:
        flat = flat.scatter(1, order[:, top_k:], -math.inf)
    p = flat.softmax(-1)
    if top_p is not None and top_p < 1:
        sp = p.gather(1, order)
        c = sp.cumsum(-1)
        drop = torch.cat([torch.zeros(len(c), 1, dtype=torch.bool), c[:, :-1] >= top_p], dim=1)
        p = p.scatter(1, order, sp.masked_fill(drop, 0))
    return torch.multinomial(p, 1, generator=generator).reshape(logits.shape[:-1])


def bpe_merges(counts, num_merges):
    if num_merges < 0:
        raise ValueError("num_merges must not be negative")
    split = {word: list(word) for word in counts}
    merges = []
    for n in range(num_merges):
        seen = {}
        for word, tokens in split.items():
            for i in range(1, len(tokens)):
                pair = (tokens[i - 1], tokens[i])
                seen[pair] = seen.get(pair, 0) + counts[word]
        ranked = sorted(((-count, pair) for pair, count in seen.items() if count > 0))
        if not ranked:
            return merges
        left, right = ranked[0][1]
        merges.append((left, right))
        for word, tokens in split.items():
            i = 0
            while i < len(tokens) - 1:
                if tokens[i] == left and tokens[i + 1] == right:
                    tokens[i] = 256 + n
                    del tokens[i + 1]
                i += 1
    return merges


def bpe_encode(data, merges):
    rank_of = dict(zip(merges, range(len(merges))))
    tokens = [byte for byte in data]
    while len(tokens) > 1:
        ranks = [rank_of.get((tokens[i], tokens[i + 1]), len(merges)) for i in range(len(tokens) - 1)]
        rank = min(ranks)
        if rank == len(merges):
            break
        i = ranks.index(rank)
        tokens[i : i + 2] = [256 + rank]
    return torch.tensor(tokens, dtype=torch.long)


class MixtureOfExperts(nn.Module):
    def __init__(self, d_model, d_hidden, num_experts, k, *, capacity=None):
        super().__init__()
        if k not in range(1, num_experts + 1):
            raise ValueError("k")
        if capacity is not None and capacity < 0:
            raise ValueError("capacity")
        self.k = k
        self.capacity = capacity
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(d_model, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_model)) for _ in range(num_experts)]
        )

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        logits = self.router(flat)
        p = torch.softmax(logits, 1)
        best = torch.sort(logits, dim=1, descending=True, stable=True)[1]
        out = torch.zeros(flat.shape, dtype=x.dtype)
        for e in range(len(self.experts)):
            queue = []
            for rank in range(self.k):
                queue += torch.where(best[:, rank] == e)[0].tolist()
            if self.capacity is not None:
                queue = queue[: self.capacity]
            if queue:
                add = torch.zeros(flat.shape, dtype=x.dtype)
                add[queue] = self.experts[e](flat[queue]) * p[queue, e].unsqueeze(1)
                out = out + add
        return out.reshape(x.shape)


def load_balancing_loss(logits, k=1, *, mask=None):
    E = logits.shape[-1]
    if not (1 <= k <= E):
        raise ValueError("k")
    rows = logits.reshape(-1, E)
    if mask is not None:
        rows = rows[mask.reshape(-1)]
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    N = rows.shape[0]
    P = torch.softmax(rows, -1).sum(0) / max(N, 1)
    picks = torch.sort(rows.detach(), dim=-1, descending=True, stable=True)[1][:, :k]
    f = torch.stack([(picks == e).sum() for e in range(E)]).to(rows.dtype) / max(N * k, 1)
    return E * (f @ P)


def flash_attention_backward(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    if query_block < 1 or key_block < 1:
        raise ValueError("a block must hold one at least")
    Tq, D = q.shape[-2:]
    Tk = k.shape[-2]
    r = math.sqrt(D)
    dq, dk, dv = (torch.zeros(t.shape, dtype=t.dtype) for t in (q, k, v))
    for k0 in range(0, Tk, key_block):
        k1 = min(Tk, k0 + key_block)
        for q0 in range(0, Tq, query_block):
            q1 = min(Tq, q0 + query_block)
            e = q[..., q0:q1, :] @ k[..., k0:k1, :].transpose(-1, -2) / r - lse[..., q0:q1].unsqueeze(-1)
            if causal:
                allowed = torch.arange(k0, k1)[None] <= torch.arange(q0, q1)[:, None] + (Tk - Tq)
                e = torch.where(allowed, e, -math.inf)
            w = torch.exp(e)
            g = dy[..., q0:q1, :]
            delta = torch.sum(y[..., q0:q1, :] * g, -1, keepdim=True)
            ds = w * (g @ v[..., k0:k1, :].transpose(-1, -2) - delta) / r
            dv[..., k0:k1, :] += w.transpose(-1, -2) @ g
            dq[..., q0:q1, :] += ds @ k[..., k0:k1, :]
            dk[..., k0:k1, :] += ds.transpose(-1, -2) @ q[..., q0:q1, :]
    return dq, dk, dv


class TinyGPT(nn.Module):
    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context, d_model)
        nn.init.normal_(self.tokens.weight, 0, 0.02)
        nn.init.normal_(self.positions.weight, 0, 0.02)
        self.blocks = nn.ModuleList(
            [
                nn.TransformerEncoderLayer(
                    d_model, num_heads, 4 * d_model, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(num_layers)
            ]
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        L = ids.shape[1]
        if L > self.context:
            raise ValueError
        x = self.tokens(ids) + self.positions(torch.arange(L, device=ids.device))
        mask = ~torch.ones(L, L, dtype=torch.bool).tril()
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))

    def fit(self, text):
        opt = torch.optim.AdamW(self.parameters(), lr=5e-3)
        n = 300
        sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda i: min(1, (i + 1) / 30, (n - i) / 100))
        for _ in range(n):
            i = torch.randint(0, len(text) - self.context, (16,))
            xy = torch.stack([text[j : j + self.context + 1] for j in i])
            loss = F.cross_entropy(self(xy[:, :-1]).reshape(-1, self.tokens.num_embeddings), xy[:, 1:].reshape(-1))
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
