"""Attention: from one head to a small GPT.

Every task stands alone. Where one could build on another, use torch's own: `F.scaled_dot_product_attention` inside a block, for
example. A mask is boolean in every task, and True means "this query may look at this key", as in F.scaled_dot_product_attention
(nn.MultiheadAttention has it the other way round).

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import itertools
import math
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mix the values, each query with weights of its own (Vaswani et al. 2017, eq. 1).

        s[i, j] = q[i] · k[j] / √D
        w[i] = softmax of s[i] over the keys j that the mask keeps; 0 for all others
        y[i] = Σ_j w[i, j] · v[j]

    A query that the mask keeps from every key gets y[i] = 0, never NaN, and neither it nor its scores add to any gradient. All
    gradients are finite then, too. At scores from −1e4 to 1e4, of hidden keys too, nothing overflows or vanishes.

    Args:
        q: (..., Tq, D), Tq ≥ 1, finite, as k and v are; any number of leading dimensions, none included. float32 and float64 are
            computed in their own precision. float16 and bfloat16 are computed in float32, the weights too, and rounded at the end,
            so that a score beyond 65504, float16's largest number, is fine.
        k: (..., Tk, D), Tk ≥ 1; dtype and leading dimensions of q.
        v: (..., Tk, E), dtype and leading dimensions of q.
        mask: bool, True where a query may look at a key; broadcasts to (..., Tq, Tk), so (Tk,) hides keys from all queries. None
            hides nothing.

    Returns: (..., Tq, E), dtype of q.
    Not allowed: F.scaled_dot_product_attention and what it calls, F.multi_head_attention_forward, nn.MultiheadAttention,
        flex_attention. (softmax is fine.)
    """
    h = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(h) @ k.to(h).mT / math.sqrt(q.shape[-1])  # (..., Tq, Tk)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(h).min)  # a row of nothing but -inf would become NaN
    weights = scores.softmax(-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return (weights @ v.to(h)).to(q.dtype)


def causal_mask(
    num_queries: int, num_keys: int, *, offset: int = 0, window: int | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Say which keys each query may look at when nobody may look ahead.

    Key j stands at position j of the text. Query i stands at position p = offset + i: with a cache of n earlier keys, the new
    queries have the offset n. It may look at the keys from its own position and before: j ≤ p. With a window W it may look at no
    more than the last W positions, its own included: p − W < j ≤ p.

    Args:
        num_queries, num_keys: Tq and Tk, 0 or more, in any relation.
        offset: the position of the first query, 0 or more.
        window: W, at least 1; None looks back without limit.
        device: where the mask is made.

    Returns: (Tq, Tk), bool, True where query i may look at key j.
    Raises: ValueError if offset is negative or window is below 1.
    """
    if offset < 0 or (window is not None and window < 1):
        raise ValueError(f"offset must be at least 0 and window at least 1, got {offset} and {window}")
    p = torch.arange(num_queries, device=device)[:, None] + offset  # (Tq, 1)
    j = torch.arange(num_keys, device=device)  # (Tk,)
    mask = j <= p
    return mask if window is None else mask & (j > p - window)


def padding_mask(lengths: Tensor, max_length: int | None = None, *, left: bool = False) -> Tensor:
    """Hide the padding of a batch of sequences from all heads and queries.

    Sequence b has lengths[b] real tokens, and padding up to T. The padding stands behind the tokens, or before them if `left` is
    true, as it is when a batch goes on being written at its end. The dimensions of size 1 make the mask broadcast against scores of
    (B, heads, Tq, T), and combine with a causal mask by `&`.

    Args:
        lengths: (B,), int64 or int32, 0 or more; B may be 0.
        max_length: T, 0 or more; None takes the longest length (0 if B is 0).
        left: on which side the padding is.

    Returns: (B, 1, 1, T), bool, True on tokens, False on padding.
    Raises: ValueError if a length is negative or larger than max_length.
    """
    T = max_length if max_length is not None else max(lengths.tolist(), default=0)
    if ((lengths < 0) | (lengths > T)).any():
        raise ValueError(f"lengths must be in 0 … {T}")
    position = torch.arange(T, device=lengths.device)
    if left:
        position = position.flip(0)  # counted from the end
    return (position < lengths[:, None])[:, None, None, :]


class MultiHeadAttention(nn.Module):
    """Attention in several heads at once (Vaswani et al. 2017, section 3.2.2); the numbers of torch's nn.MultiheadAttention.

    With d = d_model, H = num_heads and D = d / H:

        q = query · Wqᵀ + bq, k = key · Wkᵀ + bk, v = value · Wvᵀ + bv
        head h attends with the features h · D … (h + 1) · D − 1 of q, k and v: softmax(q kᵀ / √D) v
        the result is the heads' outputs, joined in order, · Woᵀ + bo

    The parameters have the names, shapes and start values of nn.MultiheadAttention(d, H), so that its state_dict can be loaded. There
    are no others, and the state_dict holds nothing else:

        in_proj_weight   (3d, d)   Wq, Wk, Wv below each other; Xavier uniform as one matrix: uniform in ±√(6 / (3d + d))
        in_proj_bias     (3d,)     bq, bk, bv; 0
        out_proj.weight  (d, d)    Wo; as nn.Linear starts: uniform in ±1/√d
        out_proj.bias    (d,)      bo; 0

    Args of the constructor:
        d_model: d, the size of a token's vector.
        num_heads: H, at least 1.

    Raises: ValueError if num_heads does not divide d_model.
    Not allowed: nn.MultiheadAttention, F.multi_head_attention_forward. (F.scaled_dot_product_attention is fine.)
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        """Make the parameters; see the class."""
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"{num_heads} heads can't share {d_model} features")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * d_model, d_model)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model))
        self.out_proj = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from `query` to `key` and `value`; all three are the same tensor in self-attention.

        A query that the mask keeps from every key gets 0 from each head, so that the result is bo; gradients are finite then, too.

        Args:
            query: (B, Tq, d), dtype of the parameters.
            key, value: (B, Tk, d).
            mask: bool, True where a query may look at a key; broadcasts to (B, H, Tq, Tk), so (H, Tq, Tk) has one for each head. None
                hides nothing.

        Returns: (B, Tq, d).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, D)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # 0 where all is masked
        return self.out_proj(y.transpose(1, 2).flatten(-2))


def sinusoidal_positions(positions: Tensor, d_model: int, *, base: float = 10_000.0) -> Tensor:
    """Encode positions as sines and cosines of many wavelengths (Vaswani et al. 2017, section 3.5).

        y[..., 2i]     = sin(p / base^(2i / d))
        y[..., 2i + 1] = cos(p / base^(2i / d))     for i = 0 … d/2 − 1, with p = positions[...] and d = d_model

    Sines and cosines take turns. The result is right to 1e-5 for positions up to a million: float32 can't hold such an angle
    precisely enough, float64 can.

    Args:
        positions: (...), int64, from 0 to 1,000,000; any number of dimensions, none included, and possibly empty.
        d_model: d, an even number, at least 2.
        base: sets the longest wavelength.

    Returns: (..., d), float32.
    Raises: ValueError if d_model is odd.
    """
    if d_model % 2:
        raise ValueError(f"d_model must be even, got {d_model}")
    frequency = base ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)  # (d/2,)
    angle = positions[..., None] * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).float()


def apply_rope(x: Tensor, positions: Tensor, *, base: float = 10_000.0) -> Tensor:
    """Rotate queries or keys by their positions (RoPE; Su et al. 2021, section 3.2.2).

    Neighbouring features make a pair: pair i is (x[2i], x[2i + 1]), for i = 0 … D/2 − 1. (Some models pair feature i with feature
    i + D/2 instead; not here.) At position p, pair i turns by the angle θ = p · base^(−2i / D):

        y[2i]     = x[2i] · cos θ − x[2i + 1] · sin θ
        y[2i + 1] = x[2i] · sin θ + x[2i + 1] · cos θ

    So every vector keeps its length, and the product of a query at position a with a key at position b depends only on a − b. Results
    are right to the precision of x's dtype for positions up to 100,000: compute angles in float64.

    Args:
        x: (..., T, D), D even, contiguous or not; float16, bfloat16, float32 or float64. The two 16-bit ones are rotated in float32 or
            float64, and rounded at the end.
        positions: int64, from 0 to 100,000, in any order; broadcasts to (..., T): (T,) holds for all heads and sequences alike,
            (B, 1, T) gives the sequences of an x of (B, H, T, D) positions of their own.
        base: sets the slowest rotation.

    Returns: shape and dtype of x.
    Raises: ValueError if D is odd.
    """
    D = x.shape[-1]
    if D % 2:
        raise ValueError(f"the last dimension of x must be even, got {D}")
    angle = positions[..., None] * base ** (-torch.arange(0, D, 2, dtype=torch.float64, device=x.device) / D)  # (..., T, D/2)
    cos, sin = angle.cos(), angle.sin()  # float64, and so are their products with x
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


class GroupedQueryAttention(nn.Module):
    """Self-attention in which groups of query heads share keys and values (Ainslie et al. 2023, section 2.2).

    With d = d_model, H = num_heads, G = num_kv_heads and D = d / H, the parameters are those of four nn.Linear without bias, and the
    state_dict holds nothing else:

        q_proj    d → H · D    features h · D … (h + 1) · D − 1 of its result are query head h
        k_proj    d → G · D    features g · D … (g + 1) · D − 1 are key head g
        v_proj    d → G · D    likewise
        out_proj  d → d        applied to the outputs of the H heads, joined in order

    Neighbouring query heads share: query head h attends to key and value head ⌊h / (H / G)⌋, with softmax(q kᵀ / √D) v. G = H is
    ordinary multi-head attention, G = 1 is multi-query attention.

    Args of the constructor:
        d_model, num_heads, num_kv_heads: d, H and G, at least 1 each.

    Raises: ValueError if num_heads does not divide d_model, or num_kv_heads does not divide num_heads.
    Not allowed: F.scaled_dot_product_attention and what it calls (it can group by itself), F.multi_head_attention_forward,
        nn.MultiheadAttention, flex_attention. (softmax is fine.)
    """

    def __init__(self, d_model: int, num_heads: int, num_kv_heads: int) -> None:
        """Make the four projections; see the class."""
        super().__init__()
        if d_model % num_heads or num_heads % num_kv_heads:
            raise ValueError(f"{d_model} features, {num_heads} heads and {num_kv_heads} key heads do not fit")
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        D = d_model // num_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, num_kv_heads * D, bias=False)
        self.v_proj = nn.Linear(d_model, num_kv_heads * D, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from x to x.

        A query that the mask keeps from every key gets 0 from each head; gradients are finite then, too.

        Args:
            x: (B, T, d), dtype of the parameters.
            mask: bool, True where a query may look at a key; broadcasts to (B, H, T, T), so (H, T, T) has one for each query head. None
                hides nothing.

        Returns: (B, T, d).
        """
        G = self.num_kv_heads
        q = self.q_proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, D)
        k, v = (proj(x).unflatten(-1, (G, -1)).transpose(1, 2) for proj in (self.k_proj, self.v_proj))  # (B, G, T, D)
        k, v = (heads.repeat_interleave(self.num_heads // G, dim=1) for heads in (k, v))  # (B, H, T, D), neighbours alike
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(x.dtype).min)  # a row of nothing but -inf would become NaN
        weights = scores.softmax(-1)
        if mask is not None:
            weights = weights.masked_fill(~mask, 0.0)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(-2))


class KVCache:
    """Keep the keys and values of the tokens so far, so that each new token costs one row of attention instead of all of them.

    Attending with the new queries to what `append` returns, token by token or in pieces of any size, gives the rows that attention
    over the whole text gives. The cache only stores: it computes no attention.

    The memory for max_length tokens is taken once, in the constructor: what `append` returns are views of it, at the same place in
    memory every time (data_ptr() stays, once there is a token). Each cache has its own. A cache is for inference: what it holds and
    returns has no graph and requires no gradient, even where k and v do.

    Args of the constructor:
        batch_size, num_heads, max_length, head_dim: B, H, the most tokens to keep, and D.
        dtype: of the keys and values.

    The public attribute `length` says how many tokens are in the cache, an int: 0 at the start.
    """

    def __init__(self, batch_size: int, num_heads: int, max_length: int, head_dim: int, *, dtype: torch.dtype = torch.float32) -> None:
        """Take the memory for an empty cache; see the class."""
        self._keys = torch.empty(batch_size, num_heads, max_length, head_dim, dtype=dtype)
        self._values = torch.empty_like(self._keys)
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the keys and values of T new tokens behind those that are there.

        Args:
            k, v: (B, H, T, D) each, dtype of the cache; T may be 0. What happens to them later doesn't reach the cache.

        Returns: the keys and the values of all tokens in the cache, new ones included: (B, H, length, D) each, as views.
        Raises: ValueError if k or v is not (B, H, T, D) with the cache's B, H and D and one T, or if there is no room for T more
            tokens. The cache is as before then.
        """
        B, H, max_length, D = self._keys.shape
        T = k.shape[2] if k.ndim == 4 else 0
        if k.shape != (B, H, T, D) or v.shape != k.shape:  # an assignment would stretch a batch of 1
            raise ValueError(f"keys and values must be ({B}, {H}, T, {D}), got {tuple(k.shape)} and {tuple(v.shape)}")
        end = self.length + T
        if end > max_length:
            raise ValueError(f"there is room for {max_length} tokens, not for {end}")
        self._keys[:, :, self.length : end] = k.detach()
        self._values[:, :, self.length : end] = v.detach()
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens: the next append goes on from there.

        Raises: ValueError if length is negative or larger than the number of tokens in the cache.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length must be in 0 … {self.length}, got {length}")
        self.length = length


def blockwise_attention(
    q: Tensor, k: Tensor, v: Tensor, block_size: int, *, key_mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Attend without ever holding all the scores: one block of keys at a time (FlashAttention; Dao et al. 2022, section 3.1).

    y = softmax(q kᵀ / √D) v over the keys that a query may look at, as in ordinary attention, whatever the block size. Going through the
    keys block by block, keep for each query the largest score m so far, the sum z of exp(score − m), and the sum a of
    exp(score − m) · value. A block with a larger score makes a new m: z and a shrink by exp(old m − new m). In the end, y = a / z.

    A query that may look at no key gets 0, never NaN. At scores from −1e4 to 1e4, of hidden keys too, nothing overflows or vanishes.
    Gradients are those of ordinary attention, and finite.

    Memory is the point: no tensor that is made on the way, a mask included, may hold more than 4 · N · max(Tq, Tk) · max(b, D, E)
    entries, where N is the product of the leading dimensions and b the smaller of block_size and Tk. A test watches, without gradients.

    Args:
        q: (..., Tq, D), Tq ≥ 1, float32 or float64, finite, as k and v are; any number of leading dimensions, none included.
        k: (..., Tk, D), Tk ≥ 1; dtype and leading dimensions of q.
        v: (..., Tk, E), dtype and leading dimensions of q.
        block_size: keys in a block, at least 1; need not divide Tk, and may be larger.
        key_mask: bool, (..., Tk), True for keys that may be looked at; its leading dimensions broadcast to those of q, so (Tk,) holds
            for all. Whole blocks may be hidden, the first one too.
        causal: if true, the queries are the last Tq of Tk positions (Tq ≤ Tk then): query i may look at key j if j ≤ i + Tk − Tq.

    Returns: (..., Tq, E), dtype of q.
    Raises: ValueError if block_size is below 1.
    Not allowed: F.scaled_dot_product_attention and what it calls, F.multi_head_attention_forward, nn.MultiheadAttention,
        flex_attention. (softmax, exp and logsumexp are fine.)
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    *batch, Tq, D = q.shape
    Tk, E = v.shape[-2:]
    m, z, a = q.new_full((*batch, Tq, 1), -torch.inf), q.new_zeros(*batch, Tq, 1), q.new_zeros(*batch, Tq, E)
    last = torch.arange(Tk - Tq, Tk, device=q.device)[:, None]  # (Tq, 1): the last key that each query may look at, if causal
    for start in range(0, Tk, block_size):
        j = torch.arange(start, min(start + block_size, Tk), device=q.device)  # (b,)
        s = q @ k[..., j, :].mT / math.sqrt(D)  # (..., Tq, b)
        if key_mask is not None:
            s = s.masked_fill(~key_mask[..., None, j], -torch.inf)
        if causal:
            s = s.masked_fill(j > last, -torch.inf)
        new = torch.maximum(m, s.detach().amax(-1, keepdim=True))
        shift = new.masked_fill(new == -torch.inf, 0.0)  # -inf - (-inf) is NaN
        shrink, p = (m - shift).exp(), (s - shift).exp()
        m, z, a = new, z * shrink + p.sum(-1, keepdim=True), a * shrink + p @ v[..., j, :]
    return a / z.masked_fill(z == 0, 1.0)


class TransformerBlock(nn.Module):
    """One layer of a GPT: causal attention, then a small network on each token, both with a norm before and a sum after (pre-norm).

        x = x + out(attention(norm1(x)))
        x = x + down(gelu(up(norm2(x))))

    With d = d_model, H = num_heads and D = d / H: qkv gives q in its first d features, k in the next d and v in the last d; head h has the
    features h · D … (h + 1) · D − 1 of each, and computes softmax(q kᵀ / √D) v, where position t looks at the positions 0 … t only. The
    heads' outputs are joined in order. gelu is the exact one (F.gelu's default).

    The parameters are those of these submodules, and the state_dict holds nothing else (no mask):

        norm1, norm2: nn.LayerNorm(d)
        qkv: nn.Linear(d, 3d), out: nn.Linear(d, d)
        up: nn.Linear(d, 4d), down: nn.Linear(4d, d)

    Args of the constructor:
        d_model, num_heads: d and H, at least 1 each.

    Raises: ValueError if num_heads does not divide d_model.
    Not allowed: nn.TransformerEncoderLayer, nn.TransformerDecoderLayer. (F.scaled_dot_product_attention is fine.)
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        """Make the submodules; see the class."""
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"{num_heads} heads can't share {d_model} features")
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Pass a batch of sequences through the layer. What comes later in a sequence changes nothing that comes before.

        Args:
            x: (B, T, d), float32, T ≥ 1.

        Returns: (B, T, d).
        """
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def sample_next(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the next token of each sequence from its scores (top-p is the nucleus of Holtzman et al. 2020, section 3.1).

    In this order, for each row of logits by itself:

    1. Divide the logits by the temperature.
    2. top_k: keep the k tokens with the largest logits; all of them if k is V or more.
    3. Softmax over what is kept.
    4. top_p: go through the tokens from the most to the least likely, and keep them until their probabilities add up to top_p or
       more. The token with which they reach it is kept, so at least one always is. top_p = 1 keeps all. (Where a sum
       differs from top_p by rounding only, either answer is right.)
    5. Draw one of the kept tokens, each in proportion to its probability. Rows are drawn independently.

    Among equal logits, the token with the lower index goes first, in 2 and in 4. A temperature of 0 means the largest logit, the lowest
    index among equals, whatever top_k and top_p are. A logit of -inf is never drawn.

    Args:
        logits: (..., V), float32 or float64, from −1e4 to 1e4 or -inf, with something finite in each row; any number of leading
            dimensions, none included.
        temperature: 0, or 0.001 and more.
        top_k: at least 1; None keeps all.
        top_p: above 0 and at most 1; None keeps all.
        generator: all random numbers come from it, or from torch's global generator if it is None. So the same state of the generator
            gives the same tokens, a second call with it draws anew, and with a generator the global one is not touched. How the
            numbers are used is up to you.

    Returns: (...), int64: the index of the token in each row.
    Raises: ValueError if temperature is negative, top_k below 1, or top_p not in (0, 1], at temperature 0 too.
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"can't sample with temperature {temperature}, top_k {top_k} and top_p {top_p}")
    if temperature == 0:
        return logits.argmax(-1)
    scores, tokens = (logits / temperature).sort(descending=True, stable=True)  # stable: equals keep their order
    if top_k is not None:
        scores[..., top_k:] = -torch.inf
    p = scores.softmax(-1)
    if top_p is not None:
        before = p.cumsum(-1) - p
        p = p.masked_fill(before >= top_p, 0.0)
    rank = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator)  # takes no more than two dimensions
    return tokens.gather(-1, rank.view(*tokens.shape[:-1], 1)).squeeze(-1)


def bpe_merges(counts: dict[bytes, int], num_merges: int) -> list[tuple[int, int]]:
    """Learn which neighbours to merge into one token (byte-pair encoding; Sennrich et al. 2016, section 3.2, on bytes as in GPT-2).

    At first, the tokens of a word are its bytes, 0 … 255. Merge k = 0, 1, … does this:

    1. Count the pairs of neighbours. Each place of each word counts, times the word's count, and places may overlap: "aaaa" has the
       pair (a, a) three times. Words are apart: no pair goes from one into another.
    2. Take the pair with the largest count. Among equals, take the one that comes first when pairs are sorted: with the smaller left
       token, then with the smaller right one. If no pair has a count above 0, stop.
    3. In every word, from left to right, put the token 256 + k in the place of each such pair. A token is used once: with (a, a),
       "aaaaa" becomes 256, 256, a.

    Args:
        counts: how often each word occurs, 0 or more: any int. A word may be empty. The order of the words plays no part.
        num_merges: how many merges to learn, 0 or more.

    Returns: the pairs, in the order in which they were taken: tuples of two ints, at most num_merges of them.
    Raises: ValueError if num_merges is negative.
    """
    if num_merges < 0:
        raise ValueError(f"num_merges must be at least 0, got {num_merges}")
    words, merges = [(list(word), count) for word, count in counts.items()], []
    for token in range(256, 256 + num_merges):
        pairs = Counter()
        for tokens, count in words:
            for pair in itertools.pairwise(tokens):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if pairs[best] == 0:  # so it is for None, too
            break
        merges.append(best)
        words = [(_merged(tokens, best, token), count) for tokens, count in words]
    return merges


def _merged(tokens: list[int], pair: tuple[int, int], token: int) -> list[int]:
    """The tokens with one token in the place of each such pair, from left to right."""
    out = []
    for right in tokens:
        if out and (out[-1], right) == pair:
            out[-1] = token
        else:
            out.append(right)
    return out


def bpe_encode(data: bytes, merges: list[tuple[int, int]]) -> Tensor:
    """Turn bytes into tokens by merges that were learnt (byte-pair encoding, as GPT-2 does within a word).

    merges[k] is the pair of tokens that becomes the token 256 + k; k is its rank. At first, the tokens are the bytes, 0 … 255. Then,
    as long as there are neighbours that make a pair of `merges`: take the pair with the lowest rank, wherever it stands, and merge all
    places where it stands, from left to right. A token is used once: with the rank 0 for (a, a), "aaa" becomes 256, a.

    Args:
        data: any bytes, text or not; may be empty.
        merges: different pairs, possibly none. Those of merges[k] are bytes or tokens of earlier merges: below 256 + k.

    Returns: (n,), int64: the tokens. (0,) where data is empty.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    tokens = list(data)
    while True:
        pair = min(itertools.pairwise(tokens), key=lambda pair: ranks.get(pair, torch.inf), default=None)
        if pair not in ranks:
            return torch.tensor(tokens, dtype=torch.int64)
        tokens = _merged(tokens, pair, 256 + ranks[pair])


class MixtureOfExperts(nn.Module):
    """A layer of E small networks, of which each token uses k (Shazeer et al. 2017; with the capacity of Lepikhin et al. 2020).

    For each token x, with the logits r = router(x) and p = softmax(r) over all E experts:

    1. The token chooses the k experts with the largest logits; the largest is its first choice. Among equals, the expert with the
       lower index goes first.
    2. An expert takes at most C choices from one call: first the first choices, in the order of the tokens, then the second choices, in
       that order, and so on. When it is full, further choices are dropped.
    3. y = Σ p[e] · experts[e](x), over the choices e that were taken. The p are used as they are, without making those of the
       chosen add up to 1: so the router learns for k = 1, too. A token all of whose choices are dropped gets 0.

    An expert works on the tokens that it takes, and what it would make of others changes nothing, even if that is inf or NaN. Gradients
    go through p and the experts.

    With d = d_model and h = d_hidden, the parameters are those of these submodules, and the state_dict holds nothing else:

        router: nn.Linear(d, E, bias=False)
        experts: nn.ModuleList of E × nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Linear(h, d))

    Args of the constructor:
        d_model, d_hidden, num_experts: d, h and E, at least 1 each.
        k: how many experts a token chooses, 1 … E.
        capacity: C, 0 or more; None sets no limit.

    Raises: ValueError if k is not in 1 … E, or capacity is negative.
    """

    def __init__(self, d_model: int, d_hidden: int, num_experts: int, k: int, *, capacity: int | None = None) -> None:
        """Make the router and the experts; see the class."""
        super().__init__()
        if not 1 <= k <= num_experts or (capacity is not None and capacity < 0):
            raise ValueError(f"can't choose {k} of {num_experts} experts with a capacity of {capacity}")
        self.k, self.capacity = k, capacity
        self.router = nn.Linear(d_model, num_experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(d_model, d_hidden), nn.GELU(), nn.Linear(d_hidden, d_model)) for _ in range(num_experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Send each token through its experts.

        Args:
            x: (..., d), dtype of the parameters; any number of leading dimensions, none included, and possibly without tokens. The
                order of the tokens is that of x.reshape(−1, d).

        Returns: (..., d).
        """
        tokens = x.reshape(-1, x.shape[-1])  # (N, d)
        logits = self.router(tokens)  # (N, E)
        p = logits.softmax(-1)
        chosen = logits.argsort(descending=True, stable=True)[:, : self.k]  # (N, k); stable: equals keep their order
        y = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            taken = (chosen.mT == e).nonzero()[: self.capacity, 1]  # first choices come first
            y = y.index_add(0, taken, p[taken, e, None] * expert(tokens[taken]))
        return y.reshape(x.shape)


def load_balancing_loss(logits: Tensor, k: int = 1, *, mask: Tensor | None = None) -> Tensor:
    """Punish a router that sends most tokens to a few experts (Fedus et al. 2021, equations 4 to 6, for any k).

    Each token chooses the k experts with its largest logits; among equals, the expert with the lower index goes first. With N tokens and E
    experts:

        f[e] = choices of e / (N · k)                 the share of all choices that falls on e
        P[e] = mean over the tokens of softmax(logits)[e]
        loss = E · Σ_e f[e] · P[e]

    It is 1 if all experts are chosen equally often, and goes up to E for k = 1 if all tokens are sure of the same one. Gradients go through
    P only: f is made of counts. Without any token, the loss is 0.

    Args:
        logits: (..., E), from −1e4 to 1e4; any number of leading dimensions, none included. float32 and float64 are computed in their own
            precision, float16 and bfloat16 in float32.
        k: how many experts a token chooses, 1 … E.
        mask: bool, (...), the shape of logits without the last dimension: True for tokens, False for padding. Padding counts for nothing,
            whatever its logits are, NaN included, and its gradient is 0. None means that all are tokens.

    Returns: a scalar (0-d), float32, or float64 if logits are.
    Raises: ValueError if k is not in 1 … E.
    """
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError(f"k must be in 1 … {E}, got {k}")
    rows = logits.reshape(-1, E) if mask is None else logits[mask]  # (N, E)
    p = rows.to(torch.promote_types(rows.dtype, torch.float32)).softmax(-1)
    chosen = rows.argsort(descending=True, stable=True)[:, :k].flatten()  # stable: equals keep their order
    counts = chosen.bincount(minlength=E)
    return E * (counts * p.sum(0)).sum() / max(len(chosen) * len(p), 1)


def flash_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, dy: Tensor, query_block: int, key_block: int, *, causal: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of attention, tile by tile, from what the forward pass kept (Dao et al. 2022, appendix B.4).

    The forward pass was y = softmax(s) v with s[i, j] = q[i] · k[j] / √D. It did not keep the weights, but for each query the number
    lse[i] = log Σ_j exp(s[i, j]), over the keys that it may look at. With that, any tile of the weights can be made again:

        w[i, j]  = exp(s[i, j] − lse[i])                     0 for a key that the query may not look at
        δ[i]     = y[i] · dy[i]                              equals Σ_j w[i, j] (dy[i] · v[j])
        ds[i, j] = w[i, j] (dy[i] · v[j] − δ[i])
        dq[i]    = Σ_j ds[i, j] k[j] / √D
        dk[j]    = Σ_i ds[i, j] q[i] / √D
        dv[j]    = Σ_i w[i, j] dy[i]

    Go through the queries in blocks of query_block and through the keys in blocks of key_block; the last ones may be shorter.

    y, lse and dy are used as they are given. So k and v may also be some of the keys only, as on one machine of several, while y and lse
    come from all of them: then dk and dv are the gradients of these keys, and dq is their part of the sum. (Not with `causal`.)

    Memory is the point: no tensor made on the way, a mask included, may have more than 4 · N · max(Tq · F, Tk · F, bq · bk) entries,
    where N is the product of the leading dimensions, F is max(D, E), bq is min(query_block, Tq) and bk is min(key_block, Tk).
    A test watches. At scores from −1e4 to 1e4, of hidden keys too, nothing overflows.

    Args:
        q: (..., Tq, D), Tq ≥ 1, float32 or float64; any number of leading dimensions, none included.
        k: (..., Tk, D), Tk ≥ 1. v: (..., Tk, E). y, dy: (..., Tq, E): the output, and the loss's gradient with respect to it.
        lse: (..., Tq). All have q's dtype and leading dimensions.
        query_block, key_block: sizes of a tile, at least 1; need not divide Tq and Tk, and may be larger.
        causal: if true, the queries are the last Tq of Tk positions (Tq ≤ Tk then): query i may look at key j if j ≤ i + Tk − Tq.

    Returns: (dq, dk, dv), with the shapes of q, k and v, and their dtype.
    Raises: ValueError if query_block or key_block is below 1.
    Not allowed: autograd (backward, torch.autograd.grad, torch.func.vjp and so on), F.scaled_dot_product_attention, and what they call.
    """
    if query_block < 1 or key_block < 1:
        raise ValueError(f"blocks must hold at least 1, got {query_block} and {key_block}")
    Tq, Tk, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    delta = (y * dy).sum(-1)  # (..., Tq)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for i in torch.arange(Tq, device=q.device).split(query_block):
        for j in torch.arange(Tk, device=q.device).split(key_block):
            s = q[..., i, :] @ k[..., j, :].mT * scale  # (..., bq, bk)
            if causal:
                s = s.masked_fill(j > i[:, None] + Tk - Tq, -torch.inf)  # before exp, which would overflow
            w = (s - lse[..., i, None]).exp()
            ds = w * (dy[..., i, :] @ v[..., j, :].mT - delta[..., i, None]) * scale
            dq[..., i, :] += ds @ k[..., j, :]
            dk[..., j, :] += ds.mT @ q[..., i, :]
            dv[..., j, :] += w.mT @ dy[..., i, :]
    return dq, dk, dv


class TinyGPT(nn.Module):
    """A language model: it predicts each next token from the tokens before it (Radford et al. 2019, in small).

    With V = vocab_size, T = context, d = d_model, the submodules are exactly these, so that weights can be loaded into it and
    into our copy of it, and the state_dict holds nothing else:

        tokens      nn.Embedding(V, d), drawn from N(0, 0.02²)
        positions   nn.Embedding(T, d), drawn from N(0, 0.02²)
        blocks      nn.ModuleList of num_layers × nn.TransformerEncoderLayer(d, num_heads, 4 * d, dropout=0.0, activation="gelu",
                    batch_first=True, norm_first=True)
        norm        nn.LayerNorm(d)
        head        nn.Linear(d, V, bias=False), its weight tied: head.weight is tokens.weight, one parameter

    Args of the constructor:
        vocab_size, context, d_model, num_heads, num_layers: as above; T is the most tokens that the model can look at.
    """

    def __init__(self, vocab_size: int, context: int, d_model: int, num_heads: int, num_layers: int) -> None:
        """Make the submodules, and tie head and tokens; see the class."""
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)  # the default of 1 would make tied logits huge
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(d_model, num_heads, 4 * d_model, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """The scores of the next token, at every position.

        The vectors of token ids[b, t] and of position t are added, go through the blocks in order, where position t looks at the positions
        0 … t only, and then through norm and head. (The blocks' src_mask is True where a query may NOT look.)

        Args:
            ids: (B, L), int64, 0 … V − 1, with 1 ≤ L ≤ T.

        Returns: logits, (B, L, V): those at position t are for token t + 1.
        Raises: ValueError if L is larger than T.
        """
        L, T = ids.shape[1], self.positions.num_embeddings
        if L > T:
            raise ValueError(f"the model can look at {T} tokens, not at {L}")
        x = self.tokens(ids) + self.positions.weight[:L]
        future = torch.ones(L, L, dtype=torch.bool, device=ids.device).triu(1)
        for block in self.blocks:
            x = block(x, src_mask=future)
        return self.head(self.norm(x))

    def fit(self, text: Tensor) -> None:
        """Train the model, in place, to predict each next token of a text. All its parameters are trained, and its modes stay as they are.

        The test's text has 4,000 tokens: five words, in random order, each of five random letters (1 … 6) and a 0 for the space, so V is 7.
        The model has T = 24, d = 32, 4 heads and one layer. Your weights are loaded into our copy of the network, which reads a new text of
        the same words. Its mean cross-entropy over the last 12 positions of windows of 24 tokens must be at most 0.7: the best possible is
        0.27, knowing nothing gives 1.9, and knowing only the current token around 1.2.

        Some 150 updates of AdamW at a learning rate of 1e-2 (rising at first, falling to 0 at the end), on batches of 12 windows
        that start at random places, reach 0.3 in about half a second on one core, which is all there is: 20 seconds of it. The
        start values and the places come from torch's global generator. The test seeds it; don't seed it again.

        Args:
            text: (N,), int64, 0 … V − 1, with N > T: N = T + 1 gives a single window.
        """
        T, updates = self.positions.num_embeddings, 150
        optimizer = torch.optim.AdamW(self.parameters(), fused=True)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=updates)
        windows = text.unfold(0, T + 1, 1)  # (N - T, T + 1)
        for _ in range(updates):
            batch = windows[torch.randint(len(windows), (12,))]
            optimizer.zero_grad()
            F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
            optimizer.step()
            scheduler.step()
