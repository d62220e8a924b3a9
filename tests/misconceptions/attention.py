"""Named wrong answers to the tasks of attention: the hidden suite must reject every one."""

import copy
import itertools
import math
from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.attention import GroupedQueryAttention as ReferenceGQA
from solutions.attention import KVCache as ReferenceKVCache
from solutions.attention import MixtureOfExperts as ReferenceMixture
from solutions.attention import MultiHeadAttention as ReferenceMHA
from solutions.attention import TinyGPT as ReferenceTinyGPT
from solutions.attention import TransformerBlock as ReferenceBlock
from solutions.attention import apply_rope as reference_rope
from solutions.attention import blockwise_attention as reference_blockwise
from solutions.attention import causal_mask as reference_causal_mask
from solutions.attention import load_balancing_loss as reference_balance
from solutions.attention import padding_mask as reference_padding_mask
from solutions.attention import sample_next as reference_sample_next
from solutions.attention import scaled_dot_product_attention as reference_attention
from solutions.attention import sinusoidal_positions as reference_positions

# scaled_dot_product_attention


def _mixed(scores, v, mask, dtype):
    """Softmax and values, done right, for scores that may be wrong."""
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return (weights @ v.to(weights.dtype)).to(dtype)


def _scores(q, k):
    h = torch.promote_types(q.dtype, torch.float32)
    return q.to(h) @ k.to(h).mT / math.sqrt(q.shape[-1])


@misconception("scaled_dot_product_attention", "Leaves out the scale 1/√D: the scores grow with D, and the weights become too sharp.")
def forgets_the_scale(q, k, v, mask=None):
    return reference_attention(q * math.sqrt(q.shape[-1]), k, v, mask)


@misconception("scaled_dot_product_attention", "Divides the scores by D instead of √D: the weights become too even.")
def divides_by_the_size(q, k, v, mask=None):
    return reference_attention(q / math.sqrt(q.shape[-1]), k, v, mask)


@misconception("scaled_dot_product_attention", "Takes True for hidden: here it means that the query may look at the key.")
def true_hides(q, k, v, mask=None):
    return reference_attention(q, k, v, None if mask is None else ~mask)


@misconception("scaled_dot_product_attention", "Puts −inf at masked scores: the softmax of a row of nothing but −inf is NaN.")
def masked_rows_are_nan(q, k, v, mask=None):
    scores = _scores(q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ v.to(scores.dtype)).to(q.dtype)


@misconception(
    "scaled_dot_product_attention", "Puts −1e9 at masked scores and leaves it at that: a fully masked row averages all the values."
)
def masked_rows_are_the_mean(q, k, v, mask=None):
    scores = _scores(q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    return (scores.softmax(-1) @ v.to(scores.dtype)).to(q.dtype)


@misconception("scaled_dot_product_attention", "Replaces the NaN of a fully masked row afterwards: its gradient is still NaN.")
def repairs_nan_too_late(q, k, v, mask=None):
    scores = _scores(q, k)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1).nan_to_num(0.0) @ v.to(scores.dtype)).to(q.dtype)


@misconception("scaled_dot_product_attention", "Sets weights to 0 after the softmax: those that are left don't add up to 1.")
def masks_after_the_softmax(q, k, v, mask=None):
    weights = _scores(q, k).softmax(-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return (weights @ v.to(weights.dtype)).to(q.dtype)


@misconception("scaled_dot_product_attention", "Normalises over the queries: each query's weights over the keys must add up to 1.")
def softmax_over_the_queries(q, k, v, mask=None):
    scores = _scores(q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-2)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return (weights @ v.to(weights.dtype)).to(q.dtype)


@misconception("scaled_dot_product_attention", "Exponentiates the scores as they are: from 89 on, float32 overflows.")
def exponentiates_raw_scores(q, k, v, mask=None):
    e = _scores(q, k).exp()
    if mask is not None:
        e = e.masked_fill(~mask, 0.0)
    total = e.sum(-1, keepdim=True)
    return (e / total.masked_fill(total == 0, 1.0) @ v.to(e.dtype)).to(q.dtype)


@misconception("scaled_dot_product_attention", "Computes 16-bit inputs in 16 bits: products overflow, and every step is rounded.")
def stays_in_half_precision(q, k, v, mask=None):
    return _mixed(q @ k.mT / math.sqrt(q.shape[-1]), v, mask, q.dtype)


@misconception("scaled_dot_product_attention", "Puts −1e4 at masked scores: that hides nothing where the scores that count are as low.")
def hides_with_minus_ten_thousand(q, k, v, mask=None):
    h = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(h) @ k.to(h).transpose(-2, -1) / q.shape[-1] ** 0.5
    if mask is None:
        return (scores.softmax(-1) @ v.to(h)).to(q.dtype)
    weights = scores.masked_fill(~mask, -1e4).softmax(-1).masked_fill(~mask, 0.0)
    return (weights @ v.to(h)).to(q.dtype)


@misconception("scaled_dot_product_attention", "Rounds the weights to 16 bits before they mix the values: only the result is rounded.")
def rounds_the_weights(q, k, v, mask=None):
    scores = q @ k.mT / math.sqrt(q.shape[-1]) if q.dtype == torch.float64 else q.float() @ k.float().mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1)
    if mask is not None:
        weights = weights * mask
    return weights.to(v.dtype) @ v


@misconception("scaled_dot_product_attention", "Computes everything in float32: float64 inputs lose half of their digits.")
def always_in_single_precision(q, k, v, mask=None):
    scores = q.float() @ k.float().transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30)
    weights = torch.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0)
    return (weights @ v.float()).to(q.dtype)


@misconception(
    "scaled_dot_product_attention", "Flattens with view, which works for tensors without gaps only: reshape copies where it must."
)
def flattens_with_view(q, k, v, mask=None):
    batch, (Tq, D), (Tk, E), h = q.shape[:-2], q.shape[-2:], v.shape[-2:], torch.promote_types(q.dtype, torch.float32)
    scores = torch.bmm(q.view(-1, Tq, D).to(h), k.view(-1, Tk, D).to(h).transpose(1, 2)).view(*batch, Tq, Tk) / math.sqrt(D)
    allowed = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand_as(scores)
    weights = scores.masked_fill(~allowed, -1e30).softmax(-1).masked_fill(~allowed, 0.0)
    return torch.bmm(weights.view(-1, Tq, Tk), v.view(-1, Tk, E).to(h)).view(*batch, Tq, E).to(q.dtype)


@misconception("scaled_dot_product_attention", "Squeezes the result: a batch of 1, a single query or a single feature loses its dimension.")
def squeezes_the_result(q, k, v, mask=None):
    return reference_attention(q, k, v, mask).squeeze()


@misconception("scaled_dot_product_attention", "Scales the queries in place: the caller's q is changed.")
def scales_in_place(q, k, v, mask=None):
    if q.dtype in (torch.float16, torch.bfloat16) or q.requires_grad:
        return reference_attention(q, k, v, mask)
    q /= math.sqrt(q.shape[-1])
    return _mixed(q @ k.transpose(-2, -1), v, mask, q.dtype)


@misconception("scaled_dot_product_attention", "Takes a mask without a single True for no mask at all: it hides everything.")
def ignores_a_mask_without_true(q, k, v, mask=None):
    return _mixed(_scores(q, k), v, mask if mask is not None and mask.any() else None, q.dtype)


@misconception("scaled_dot_product_attention", "Takes a mask of three dimensions for one of (B, Tq, Tk): masks broadcast from the right.")
def puts_heads_into_masks(q, k, v, mask=None):
    if mask is not None and mask.dim() == 3 and q.dim() == 4:
        mask = mask.unsqueeze(1)
    return reference_attention(q, k, v, mask)


@misconception("scaled_dot_product_attention", "Subtracts the largest of all scores: in rows far below it, every exponential becomes 0.")
def subtracts_one_maximum_for_all(q, k, v, mask=None):
    scores = _scores(q, k)
    e = (scores - scores.detach().max()).exp()
    if mask is not None:
        e = e * mask
    total = e.sum(-1, keepdim=True)
    return (e / total.masked_fill(total == 0, 1.0) @ v.to(e.dtype)).to(q.dtype)


# causal_mask


@misconception("causal_mask", "Hides a query's own position: it may look at itself.")
def hides_itself(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    mask = reference_causal_mask(num_queries, num_keys, offset=offset, window=window, device=device)
    itself = torch.arange(num_queries, device=device)[:, None] + offset == torch.arange(num_keys, device=device)
    return mask & ~itself


@misconception("causal_mask", "Ignores the offset: new queries are taken for the first ones of the text.")
def ignores_the_offset(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    reference_causal_mask(1, 1, offset=offset, window=window)
    return reference_causal_mask(num_queries, num_keys, window=window, device=device)


@misconception("causal_mask", "Says True where a query must not look: here True means that it may.")
def marks_the_future(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    return ~reference_causal_mask(num_queries, num_keys, offset=offset, window=window, device=device)


@misconception("causal_mask", "Aligns the last query with the last key: the position of the first query is what offset says.")
def aligns_at_the_end(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    mask = reference_causal_mask(num_queries, num_keys, offset=offset, window=window, device=device)
    return mask if num_keys < num_queries else reference_causal_mask(
        num_queries, num_keys, offset=num_keys - num_queries, window=window, device=device
    )  # fmt: skip


@misconception("causal_mask", "Looks back over W positions besides the own one: a window of W holds W in all.")
def window_is_one_too_wide(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    mask = reference_causal_mask(num_queries, num_keys, offset=offset, window=window, device=device)
    return mask if window is None else reference_causal_mask(num_queries, num_keys, offset=offset, window=window + 1, device=device)


@misconception("causal_mask", "Counts the window from the query's number, without the offset.")
def window_without_offset(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    mask = reference_causal_mask(num_queries, num_keys, offset=offset, window=window, device=device)
    if window is None:
        return mask
    i, j = torch.arange(num_queries, device=device)[:, None], torch.arange(num_keys, device=device)
    return reference_causal_mask(num_queries, num_keys, offset=offset, device=device) & (j > i - window)


@misconception("causal_mask", "Makes the mask on the CPU, whatever device is asked for.")
def always_on_the_cpu(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    return reference_causal_mask(num_queries, num_keys, offset=offset, window=window)


@misconception("causal_mask", "Takes a window of 0 for no window: `if window` can't tell 0 from None.")
def takes_zero_for_no_window(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    if offset < 0 or (window and window < 1):
        raise ValueError("offset or window")
    p, j = torch.arange(num_queries, device=device).unsqueeze(1) + offset, torch.arange(num_keys, device=device)
    mask = j <= p
    return mask & (j > p - window) if window else mask


@misconception("causal_mask", "Takes an offset of 0 for none, and aligns the last query with the last key: `offset or …`.")
def takes_zero_for_no_offset(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    if offset < 0 or (window is not None and window < 1):
        raise ValueError("offset or window")
    offset = offset or max(num_keys - num_queries, 0)
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(offset)
    return mask if window is None else mask.triu(offset - window + 1)


@misconception("causal_mask", "Counts positions in bytes, which end at 255.")
def counts_in_bytes(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    if offset < 0 or (window is not None and window < 1):
        raise ValueError("offset or window")
    p = (torch.arange(num_queries, device=device)[:, None] + offset).to(torch.uint8)
    j = torch.arange(num_keys, device=device).to(torch.uint8)
    mask = j <= p
    return mask if window is None else mask & (j.int() > p.int() - window)


@misconception("causal_mask", "Cuts the mask from a table of 128 positions: longer texts need more.")
def cuts_from_a_table(num_queries, num_keys, *, offset=0, window=None, device="cpu"):
    if offset < 0 or (window is not None and window < 1):
        raise ValueError("offset or window")
    table = torch.ones(128, 128, dtype=torch.bool, device=device).tril()
    if window is not None:
        table = table.triu(1 - window)
    return table[offset : offset + num_queries, :num_keys]


# padding_mask


@misconception("padding_mask", "Says True on padding: here True means that one may look.")
def marks_the_padding(lengths, max_length=None, *, left=False):
    return ~reference_padding_mask(lengths, max_length, left=left)


@misconception("padding_mask", "Returns (B, T), which does not broadcast against (B, heads, Tq, T).")
def without_the_middle_dimensions(lengths, max_length=None, *, left=False):
    return reference_padding_mask(lengths, max_length, left=left)[:, 0, 0]


@misconception("padding_mask", "Counts a sequence of n tokens as positions 0 … n, one too many.")
def one_position_too_many(lengths, max_length=None, *, left=False):
    T = reference_padding_mask(lengths, max_length).shape[-1]
    return reference_padding_mask((lengths + 1).clamp(max=T), T, left=left)


@misconception("padding_mask", "For padding on the left, shows the positions from n on; the tokens are the last n, from T − n on.")
def left_is_the_opposite_of_right(lengths, max_length=None, *, left=False):
    right = reference_padding_mask(lengths, max_length)
    return ~right if left else right


@misconception("padding_mask", "Ignores `left`: padding stands behind the tokens only.")
def ignores_left(lengths, max_length=None, *, left=False):
    return reference_padding_mask(lengths, max_length)


@misconception("padding_mask", "Ignores max_length and makes the mask as long as the longest sequence.")
def ignores_max_length(lengths, max_length=None, *, left=False):
    reference_padding_mask(lengths, max_length)
    return reference_padding_mask(lengths, None, left=left)


@misconception("padding_mask", "Cuts sequences off that are longer than max_length, without a word.")
def cuts_off_long_sequences(lengths, max_length=None, *, left=False):
    return reference_padding_mask(lengths if max_length is None else lengths.clamp(max=max_length), max_length, left=left)


@misconception("padding_mask", "Takes the maximum of the lengths, which fails where there are none.")
def needs_a_sequence(lengths, max_length=None, *, left=False):
    return reference_padding_mask(lengths, int(lengths.max()) if max_length is None else max_length, left=left)


@misconception("padding_mask", "Takes a max_length of 0 for none: `max_length or …` can't tell them apart.")
def takes_zero_for_no_length(lengths, max_length=None, *, left=False):
    longest = max(lengths.tolist(), default=0)
    T = max_length or longest
    if (lengths < 0).any() or longest > T:
        raise ValueError("lengths")
    position = torch.arange(T)
    mask = position >= T - lengths[:, None] if left else position < lengths[:, None]
    return mask[:, None, None, :]


@misconception("padding_mask", "Squeezes the mask: with one sequence, or one token, a dimension is missing.")
def squeezes_the_mask(lengths, max_length=None, *, left=False):
    return reference_padding_mask(lengths, max_length, left=left).squeeze()[:, None, None]


@misconception("padding_mask", "Refuses only if all lengths are impossible: one is enough.")
def refuses_only_if_all_are_wrong(lengths, max_length=None, *, left=False):
    T = max(lengths.tolist(), default=0) if max_length is None else max_length
    if len(lengths) and ((lengths < 0).all() or (lengths > T).all()):
        raise ValueError("lengths")
    return reference_padding_mask(lengths.clamp(0, T), T, left=left)


@misconception("padding_mask", "Counts tokens in bytes, which end at 255.")
def counts_lengths_in_bytes(lengths, max_length=None, *, left=False):
    reference_padding_mask(lengths, max_length)
    T = max(lengths.tolist(), default=0) if max_length is None else max_length
    position = torch.arange(T).to(torch.uint8)
    lengths = lengths.to(torch.uint8)[:, None]
    mask = position < lengths
    return (mask.flip(-1) if left else mask)[:, None, None]


# MultiHeadAttention


class _MHABase(ReferenceMHA):
    """Lets a wrong attention change one step."""

    def forward(self, query, key, value, mask=None):
        inputs = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (self.split(F.linear(x, w, b)) for x, w, b in inputs)
        return self.out_proj(self.join(self.attend(q, k, v, mask)))

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def join(self, y):
        return y.transpose(1, 2).flatten(-2)

    def attend(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@misconception("MultiHeadAttention", "Views (B, T, d) as (B, H, T, D) directly: that mixes tokens and heads. First view, then transpose.")
class ViewsWithoutTranspose(_MHABase):
    def split(self, x):
        return x.reshape(len(x), self.num_heads, x.shape[1], -1)


@misconception("MultiHeadAttention", "Joins the heads without transposing back: that mixes tokens and heads.")
class JoinsWithoutTranspose(_MHABase):
    def join(self, y):
        return y.reshape(len(y), y.shape[2], -1)


@misconception("MultiHeadAttention", "Gives head h every H-th feature; it has D neighbouring ones.")
class EveryNthFeature(_MHABase):
    def split(self, x):
        return x.unflatten(-1, (-1, self.num_heads)).permute(0, 3, 1, 2)

    def join(self, y):
        return y.permute(0, 2, 3, 1).flatten(-2)


@misconception("MultiHeadAttention", "Scales by 1/√d; each head has only D = d / H features.")
class ScalesByTheModelSize(_MHABase):
    def attend(self, q, k, v, mask):
        return super().attend(q / math.sqrt(self.num_heads), k, v, mask)


@misconception("MultiHeadAttention", "Takes True for hidden, as nn.MultiheadAttention does: here True means that the query may look.")
class TrueHidesInMHA(_MHABase):
    def attend(self, q, k, v, mask):
        return super().attend(q, k, v, None if mask is None else ~mask)


@misconception("MultiHeadAttention", "Puts −inf at masked scores: a query that may look at nothing becomes NaN.")
class MaskedQueriesAreNan(_MHABase):
    def attend(self, q, k, v, mask):
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ v


@misconception("MultiHeadAttention", "Projects the values from the keys: right in self-attention only.")
class ValuesFromKeys(_MHABase):
    def forward(self, query, key, value, mask=None):
        return super().forward(query, key, key, mask)


@misconception("MultiHeadAttention", "Takes the rows of in_proj_weight in the order key, query, value; torch's is query, key, value.")
class KeysFirst(_MHABase):
    def forward(self, query, key, value, mask=None):
        (w, b), (x, c), (y, d) = zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = self.split(F.linear(query, x, c)), self.split(F.linear(key, w, b)), self.split(F.linear(value, y, d))
        return self.out_proj(self.join(self.attend(q, k, v, mask)))


@misconception("MultiHeadAttention", "Leaves nn.Linear's random start for the bias of out_proj; it starts at 0.")
class BiasStartsAtRandom(ReferenceMHA):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.out_proj.reset_parameters()


@misconception(
    "MultiHeadAttention", "Takes a mask of three dimensions for one of (B, Tq, Tk): masks broadcast from the right, so it is (H, Tq, Tk)."
)
class MasksOfThreeDimensionsAreForSequences(_MHABase):
    def forward(self, query, key, value, mask=None):
        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(1)
        return super().forward(query, key, value, mask)


@misconception("MultiHeadAttention", "Keeps the parts of the weights from the first call on: weights that are loaded later don't count.")
class KeepsTheFirstWeights(ReferenceMHA):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.parts = None

    def forward(self, query, key, value, mask=None):
        if self.training:
            return super().forward(query, key, value, mask)
        if self.parts is None:
            self.parts = [
                (w.detach().clone(), b.detach().clone()) for w, b in zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
            ]
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, (w, b) in zip((query, key, value), self.parts, strict=True)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(-2))


@misconception("MultiHeadAttention", "Draws Wq, Wk and Wv one by one: as one matrix of (3d, d), Xavier's bound is smaller.")
class DrawsThreeMatrices(ReferenceMHA):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        for part in self.in_proj_weight.data.chunk(3):
            nn.init.xavier_uniform_(part)


@misconception("MultiHeadAttention", "Starts Wq, Wk and Wv with the same numbers.")
class StartsThreeTimesAlike(ReferenceMHA):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.in_proj_weight.data = self.in_proj_weight.data[:d_model].repeat(3, 1)


@misconception("MultiHeadAttention", "Squeezes the result: a batch of 1 loses its dimension.")
class SqueezesTheResult(ReferenceMHA):
    def forward(self, query, key, value, mask=None):
        return super().forward(query, key, value, mask).squeeze()


@misconception("MultiHeadAttention", "Flattens query, key and value with view, which works for tensors without gaps only.")
class FlattensWithView(ReferenceMHA):
    def forward(self, query, key, value, mask=None):
        (B, Tq, d), Tk, H = query.shape, key.shape[1], self.num_heads
        w, b = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q = F.linear(query.view(B * Tq, d), w[0], b[0]).view(B, Tq, H, d // H).transpose(1, 2)
        k = F.linear(key.view(B * Tk, d), w[1], b[1]).view(B, Tk, H, d // H).transpose(1, 2)
        v = F.linear(value.view(B * Tk, d), w[2], b[2]).view(B, Tk, H, d // H).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(y.transpose(1, 2).reshape(B, Tq, d))


@misconception("MultiHeadAttention", "Collects the heads' outputs in a tensor of float32: with float64 parameters that does not fit.")
class CollectsInSinglePrecision(_MHABase):
    def join(self, y):
        B, H, T, D = y.shape
        joined = torch.zeros(B, T, H * D)
        for h in range(H):
            joined[..., h * D : (h + 1) * D] = y[:, h]
        return joined


@misconception("MultiHeadAttention", "Keeps the scale in a buffer: the state_dict gets an entry that nn.MultiheadAttention doesn't have.")
class StoresTheScale(_MHABase):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.register_buffer("scale", torch.tensor((d_model // num_heads) ** -0.5))


@misconception("MultiHeadAttention", "Takes a mask without a single True for no mask at all.")
class IgnoresAMaskWithoutTrue(ReferenceMHA):
    def forward(self, query, key, value, mask=None):
        return super().forward(query, key, value, mask if mask is not None and mask.any() else None)


@misconception("MultiHeadAttention", "Rounds D down where the heads don't fit, instead of refusing.")
class RoundsTheHeads(ReferenceMHA):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads if d_model % num_heads == 0 else 1)


# sinusoidal_positions


def _encoded(angle):
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).float()


def _even(d_model):
    if d_model % 2:
        raise ValueError("odd")


@misconception("sinusoidal_positions", "Puts all sines first and all cosines behind; they take turns.")
def sines_then_cosines(positions, d_model, *, base=10_000.0):
    y = reference_positions(positions, d_model, base=base)
    return torch.cat((y[..., 0::2], y[..., 1::2]), dim=-1)


@misconception("sinusoidal_positions", "Begins each pair with the cosine; the sine comes first.")
def cosine_first(positions, d_model, *, base=10_000.0):
    return reference_positions(positions, d_model, base=base).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


@misconception("sinusoidal_positions", "Takes i / d for the exponent; it is 2i / d, so the wavelengths grow too slowly.")
def exponent_without_the_two(positions, d_model, *, base=10_000.0):
    _even(d_model)
    return _encoded(positions[..., None] * base ** (-torch.arange(d_model // 2, dtype=torch.float64) / d_model))


@misconception(
    "sinusoidal_positions", "Spreads the exponents from 0 to 1 inclusive, as some libraries do; here the last one is (d − 2) / d."
)
def exponents_up_to_one(positions, d_model, *, base=10_000.0):
    _even(d_model)
    return _encoded(positions[..., None] * base ** -torch.linspace(0, 1, d_model // 2, dtype=torch.float64))


@misconception("sinusoidal_positions", "Gives every feature a wavelength of its own; a sine and its cosine share one.")
def no_shared_wavelengths(positions, d_model, *, base=10_000.0):
    _even(d_model)
    angle = positions[..., None] * base ** (-torch.arange(d_model, dtype=torch.float64) / d_model)
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2).float()


@misconception(
    "sinusoidal_positions", "Computes angles in float32, which holds about 7 digits: at a large position few are left behind the point."
)
def angles_in_single_precision(positions, d_model, *, base=10_000.0):
    _even(d_model)
    return _encoded(positions[..., None] * base ** (-torch.arange(0, d_model, 2) / d_model))


@misconception("sinusoidal_positions", "Takes positions for their number, 0, 1, 2, … instead of their values.")
def counts_instead_of_reading(positions, d_model, *, base=10_000.0):
    numbers = torch.arange(positions.numel()).view(positions.shape)
    return reference_positions(numbers, d_model, base=base)


@misconception("sinusoidal_positions", "Looks the positions up in a table of the first 5,000.")
def looks_up_in_a_table(positions, d_model, *, base=10_000.0):
    table = reference_positions(torch.arange(5_000), d_model, base=base)
    return table[positions]


@misconception("sinusoidal_positions", "Flattens with view, which works for tensors without gaps only.")
def flattens_positions_with_view(positions, d_model, *, base=10_000.0):
    _even(d_model)
    frequency = base ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angle = positions.view(-1, 1) * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).view(*positions.shape, d_model).float()


@misconception("sinusoidal_positions", "Squeezes the result: where there is one position along a dimension, it is lost.")
def squeezes_positions(positions, d_model, *, base=10_000.0):
    return reference_positions(positions, d_model, base=base).squeeze()


@misconception("sinusoidal_positions", "Does not look whether d_model is even: an odd one gets one feature more.")
def rounds_odd_sizes_up(positions, d_model, *, base=10_000.0):
    return reference_positions(positions, d_model + d_model % 2, base=base)


# apply_rope


def _rotated(x, angle):
    h = torch.promote_types(x.dtype, torch.float32)
    cos, sin = angle.cos().to(h), angle.sin().to(h)
    a, b = x[..., 0::2].to(h), x[..., 1::2].to(h)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


@misconception("apply_rope", "Pairs feature i with feature i + D/2, as some models do; here neighbours make a pair.")
def pairs_the_halves(x, positions, *, base=10_000.0):
    order = torch.stack(x.chunk(2, dim=-1), dim=-1).flatten(-2) if x.shape[-1] % 2 == 0 else x
    y = reference_rope(order, positions, base=base)
    return torch.cat((y[..., 0::2], y[..., 1::2]), dim=-1)


@misconception("apply_rope", "Turns the other way: the signs of the sines are swapped.")
def turns_backwards(x, positions, *, base=10_000.0):
    return reference_rope(x, -positions, base=base)


@misconception("apply_rope", "Turns by a token's place in x instead of its position, so that cached keys and new queries don't fit.")
def ignores_the_positions(x, positions, *, base=10_000.0):
    return reference_rope(x, torch.arange(x.shape[-2]), base=base)


@misconception("apply_rope", "Takes i / D for the exponent; pair i turns by p · base^(−2i / D).")
def rope_exponent_without_the_two(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2:
        raise ValueError("odd")
    D = x.shape[-1]
    return _rotated(x, positions[..., None] * base ** (-torch.arange(D // 2, dtype=torch.float64) / D))


@misconception("apply_rope", "Computes angles in float32, which is too coarse at large positions.")
def rope_angles_in_single_precision(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2:
        raise ValueError("odd")
    frequency = base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    return _rotated(x, positions[..., None].float() * frequency.float())


@misconception("apply_rope", "Computes cosine and sine in the dtype of x: 16 bits can't hold a large angle.")
def rope_angles_in_half_precision(x, positions, *, base=10_000.0):
    if x.dtype in (torch.float32, torch.float64):
        return reference_rope(x, positions, base=base)
    angle = positions[..., None].to(x.dtype) * (base ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])).to(x.dtype)
    return _rotated(x, angle)


@misconception(
    "apply_rope", "Adds sines and cosines to x instead of rotating it: lengths change, and products depend on more than the distance."
)
def adds_instead_of_rotating(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2:
        raise ValueError("odd")
    return (x + reference_positions(positions, x.shape[-1], base=base)).to(x.dtype)


@misconception("apply_rope", "Writes the result into x: whoever holds x finds it changed.")
def rotates_in_place(x, positions, *, base=10_000.0):
    y = reference_rope(x, positions, base=base)
    if not x.requires_grad:
        x.copy_(y)
    return y


@misconception("apply_rope", "Views x as complex numbers as it lies in memory: that needs pairs side by side, without gaps.")
def views_as_complex(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2:
        raise ValueError("odd")
    h = torch.float64 if x.dtype == torch.float64 else torch.float32
    angle = positions[..., None] * base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    z = torch.view_as_complex(x.to(h).unflatten(-1, (-1, 2)))
    turned = z * torch.polar(torch.ones_like(angle), angle).to(z.dtype)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


@misconception("apply_rope", "Takes positions for a list of T: they may differ from sequence to sequence.")
def takes_positions_for_a_list(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2:
        raise ValueError("odd")
    return _rotated(x, torch.outer(positions.reshape(-1), base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])))


@misconception("apply_rope", "Rounds cosine and sine to float32: for an x of float64 that is too coarse.")
def sines_in_single_precision(x, positions, *, base=10_000.0):
    D = x.shape[-1]
    if D % 2 != 0:
        raise ValueError("odd")
    angle = positions.double().unsqueeze(-1) / base ** (torch.arange(0, D, 2).double() / D)
    cos, sin = angle.cos().float(), angle.sin().float()
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


@misconception("apply_rope", "Rotates 16-bit vectors in 16 bits: sines, products and sums are all rounded.")
def rotates_in_half_precision(x, positions, *, base=10_000.0):
    D = x.shape[-1]
    if D % 2 != 0:
        raise ValueError("odd")
    angle = positions.double().unsqueeze(-1) / base ** (torch.arange(0, D, 2).double() / D)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


@misconception("apply_rope", "Looks sines and cosines up in a table of the first 4,096 positions.")
def looks_angles_up_in_a_table(x, positions, *, base=10_000.0):
    D = x.shape[-1]
    if D % 2 != 0:
        raise ValueError("odd")
    table = torch.arange(4096)[:, None] * base ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    return _rotated(x, table[positions])


@misconception("apply_rope", "Squeezes the result: a single token or sequence loses its dimension.")
def squeezes_the_vectors(x, positions, *, base=10_000.0):
    return reference_rope(x, positions, base=base).squeeze()


@misconception("apply_rope", "Leaves the last feature of an odd D as it is, instead of refusing.")
def leaves_the_odd_feature(x, positions, *, base=10_000.0):
    if x.shape[-1] % 2:
        return torch.cat([reference_rope(x[..., :-1], positions, base=base), x[..., -1:]], dim=-1)
    return reference_rope(x, positions, base=base)


# GroupedQueryAttention


class _GQABase(ReferenceGQA):
    """Lets a wrong attention change one step."""

    def forward(self, x, mask=None):
        q = self.q_proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = (self.split(proj(x)) for proj in (self.k_proj, self.v_proj))
        repeats = self.num_heads // self.num_kv_heads
        y = self.attend(q, self.repeat(k, repeats), self.repeat(v, repeats), mask)
        return self.out_proj(y.transpose(1, 2).flatten(-2))

    def split(self, x):
        return x.unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)

    def repeat(self, heads, repeats):
        return heads.repeat_interleave(repeats, dim=1)

    def attend(self, q, k, v, mask):
        return reference_attention(q, k, v, mask)


@misconception("GroupedQueryAttention", "Repeats the key heads as 0 1 0 1; neighbouring query heads share one: 0 0 1 1.")
class TilesTheHeads(_GQABase):
    def repeat(self, heads, repeats):
        return heads.repeat(1, repeats, 1, 1)


@misconception("GroupedQueryAttention", "Scales by 1/√d; each head has only D = d / H features.")
class GQAScalesByTheModelSize(_GQABase):
    def attend(self, q, k, v, mask):
        return super().attend(q / math.sqrt(self.num_heads), k, v, mask)


@misconception("GroupedQueryAttention", "Views the keys as (B, G, T, D) directly: that mixes tokens and heads. First view, then transpose.")
class GQAViewsWithoutTranspose(_GQABase):
    def split(self, x):
        return x.reshape(len(x), self.num_kv_heads, x.shape[1], -1)


@misconception("GroupedQueryAttention", "Gives key head g every G-th feature; it has D neighbouring ones.")
class GQAEveryNthFeature(_GQABase):
    def split(self, x):
        return x.unflatten(-1, (-1, self.num_kv_heads)).permute(0, 3, 1, 2)


@misconception("GroupedQueryAttention", "Puts −inf at masked scores: a query that may look at nothing becomes NaN.")
class GQAMaskedQueriesAreNan(_GQABase):
    def attend(self, q, k, v, mask):
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ v


@misconception("GroupedQueryAttention", "Takes True for hidden: here it means that the query may look at the key.")
class GQATrueHides(_GQABase):
    def attend(self, q, k, v, mask):
        return super().attend(q, k, v, None if mask is None else ~mask)


@misconception("GroupedQueryAttention", "Checks only that the heads divide d_model: G must divide H, too.")
class GQAChecksTooLittle(_GQABase):
    def __init__(self, d_model, num_heads, num_kv_heads):
        super().__init__(d_model, num_heads, num_kv_heads if num_heads % num_kv_heads == 0 else 1)


@misconception(
    "GroupedQueryAttention", "Takes a mask of three dimensions for one of (B, T, T): masks broadcast from the right, so it is (H, T, T)."
)
class GQAMasksAreForSequences(ReferenceGQA):
    def forward(self, x, mask=None):
        return super().forward(x, mask.unsqueeze(1) if mask is not None and mask.dim() == 3 else mask)


@misconception(
    "GroupedQueryAttention", "Keeps the heads' weights from the first call in eval mode on: weights that are loaded later don't count."
)
class GQAKeepsTheFirstWeights(ReferenceGQA):
    def __init__(self, d_model, num_heads, num_kv_heads):
        super().__init__(d_model, num_heads, num_kv_heads)
        self.joint = None

    def forward(self, x, mask=None):
        if self.joint is None or self.training:
            self.joint = torch.cat([proj.weight for proj in (self.q_proj, self.k_proj, self.v_proj)])
        d, small = self.q_proj.out_features, self.k_proj.out_features
        q, k, v = (
            part.unflatten(-1, (-1, d // self.num_heads)).transpose(1, 2) for part in (x @ self.joint.T).split([d, small, small], -1)
        )
        k, v = (heads.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1) for heads in (k, v))
        return self.out_proj(reference_attention(q, k, v, mask).transpose(1, 2).flatten(-2))


@misconception(
    "GroupedQueryAttention", "Leaves the weights in float32 after the softmax: with float64 parameters they don't fit the values."
)
class LeavesWeightsInSinglePrecision(_GQABase):
    def attend(self, q, k, v, mask):
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is None:
            return scores.softmax(-1, dtype=torch.float32) @ v
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1, dtype=torch.float32)
        return weights.masked_fill(~mask, 0.0) @ v


@misconception("GroupedQueryAttention", "Flattens x with view, which works for tensors without gaps only.")
class GQAFlattensWithView(ReferenceGQA):
    def forward(self, x, mask=None):
        B, T, d = x.shape
        D = d // self.num_heads
        flat = x.view(B * T, d)
        q = self.q_proj(flat).view(B, T, self.num_heads, D).transpose(1, 2)
        k, v = (proj(flat).view(B, T, self.num_kv_heads, D).transpose(1, 2) for proj in (self.k_proj, self.v_proj))
        k, v = (heads.repeat_interleave(self.num_heads // self.num_kv_heads, 1) for heads in (k, v))
        return self.out_proj(reference_attention(q, k, v, mask).transpose(1, 2).reshape(B, T, d))


@misconception("GroupedQueryAttention", "Squeezes the result: a batch of 1 loses its dimension.")
class GQASqueezesTheResult(ReferenceGQA):
    def forward(self, x, mask=None):
        return super().forward(x, mask).squeeze()


@misconception("GroupedQueryAttention", "Gives the projections a bias.")
class GQAHasBiases(_GQABase):
    def __init__(self, d_model, num_heads, num_kv_heads):
        super().__init__(d_model, num_heads, num_kv_heads)
        self.out_proj = nn.Linear(d_model, d_model)


@misconception("GroupedQueryAttention", "Takes a mask without a single True for no mask at all.")
class GQAIgnoresAMaskWithoutTrue(ReferenceGQA):
    def forward(self, x, mask=None):
        return super().forward(x, mask if mask is not None and mask.any() else None)


# KVCache


@misconception("KVCache", "Makes a longer tensor for each token: all that is there is copied again and again.")
class ConcatenatesEachTime(ReferenceKVCache):
    def append(self, k, v):
        keys, values = super().append(k, v)
        return torch.cat([keys]), torch.cat([values])


@misconception("KVCache", "Stores keys with their graph: the memory of every step's computation stays alive.")
class KeepsTheGraph(ReferenceKVCache):
    def append(self, k, v):
        start = self.length
        super().append(k, v)
        end = self.length
        self._keys = self._keys.clone() if k.requires_grad and not self._keys.requires_grad else self._keys
        self._keys[:, :, start:end], self._values[:, :, start:end] = k, v
        return self._keys[:, :, :end], self._values[:, :, :end]


@misconception("KVCache", "Returns the whole memory: the places that are still empty get attention too.")
class ReturnsEmptyPlaces(ReferenceKVCache):
    def append(self, k, v):
        super().append(k, v)
        return self._keys, self._values


@misconception("KVCache", "Counts one token for each append: the next piece overwrites most of a longer one.")
class CountsAppends(ReferenceKVCache):
    def append(self, k, v):
        start = self.length
        answer = super().append(k, v)
        self.length = start + 1
        return answer


@misconception("KVCache", "Keeps the tensors it is given instead of copying them: what the caller does to them later changes the cache.")
class KeepsReferences(ReferenceKVCache):
    pieces = ()

    def append(self, k, v):
        super().append(k, v)
        self.pieces = [*self.pieces, (k, v)]
        n = self.length
        keys, values = (torch.cat(parts, dim=2)[:, :, -n:].detach() for parts in zip(*self.pieces, strict=True))
        self._keys[:, :, :n], self._values[:, :, :n] = keys, values
        return self._keys[:, :, :n], self._values[:, :, :n]

    def truncate(self, length):
        super().truncate(length)
        kept = self._keys[:, :, :length].clone(), self._values[:, :, :length].clone()
        self.pieces = [kept]


@misconception("KVCache", "Lets an assignment stretch keys of another shape over all sequences or heads.")
class StretchesToFit(ReferenceKVCache):
    def append(self, k, v):
        B, H, _, D = self._keys.shape
        T = k.shape[-2]
        return super().append(k.expand(B, H, T, D), v.expand(B, H, T, D))


@misconception("KVCache", "Moves the length on before it looks for room: a refused append leaves a cache that is too long.")
class CountsBeforeChecking(ReferenceKVCache):
    def append(self, k, v):
        start = self.length
        try:
            return super().append(k, v)
        except ValueError:
            self.length = start + k.shape[-2]
            raise


@misconception("KVCache", "Keeps the last tokens instead of the first: the text is cut off at its beginning.")
class KeepsTheLast(ReferenceKVCache):
    def truncate(self, length):
        start = self.length - length
        super().truncate(length)
        self._keys = self._keys.roll(-start, dims=2)
        self._values = self._values.roll(-start, dims=2)


@misconception("KVCache", "Allows truncate to go beyond the tokens that are there: then empty places count as tokens.")
class GrowsByTruncate(ReferenceKVCache):
    def truncate(self, length):
        if not 0 <= length <= self._keys.shape[2]:
            raise ValueError("length")
        self.length = length


@misconception("KVCache", "Makes the memory in float32 whatever dtype is asked for.")
class AlwaysSinglePrecision(ReferenceKVCache):
    def __init__(self, batch_size, num_heads, max_length, head_dim, *, dtype=torch.float32):
        super().__init__(batch_size, num_heads, max_length, head_dim)


@misconception("KVCache", "Takes new memory when it truncates: what append returns begins at another place then.")
class TakesNewMemory(ReferenceKVCache):
    def truncate(self, length):
        super().truncate(length)
        keys, values = torch.zeros_like(self._keys), torch.zeros_like(self._values)
        keys[:, :, :length], values[:, :, :length] = self._keys[:, :, :length], self._values[:, :, :length]
        self._keys, self._values = keys, values


@misconception("KVCache", "Returns at once where there are no new tokens, whatever their shape.")
class LetsEmptyPiecesPass(ReferenceKVCache):
    def append(self, k, v):
        if k.numel() == 0:
            return self._keys[:, :, : self.length], self._values[:, :, : self.length]
        return super().append(k, v)


@misconception("KVCache", "Takes a length of 0 for none given, and forgets nothing.")
class CantForgetAll(ReferenceKVCache):
    def truncate(self, length):
        super().truncate(length or self.length)


@misconception("KVCache", "Detaches the keys and values themselves: the caller's tensors lose their graph.")
class DetachesInPlace(ReferenceKVCache):
    def append(self, k, v):
        if k.is_leaf:
            k.requires_grad_(False)
            v.requires_grad_(False)
        return super().append(k, v)


@misconception("KVCache", "Compares the shape of the keys only.")
class ChecksTheKeysOnly(ReferenceKVCache):
    def append(self, k, v):
        B, H, max_length, D = self._keys.shape
        if k.dim() != 4 or (k.shape[0], k.shape[1], k.shape[3]) != (B, H, D):
            raise ValueError("shape")
        end = self.length + k.shape[2]
        if end > max_length:
            raise ValueError("full")
        self._keys[:, :, self.length : end], self._values[:, :, self.length : end] = k.detach(), v.detach()
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


@misconception(
    "KVCache", "Leaves it to the assignment to complain about a shape: that is a RuntimeError, and no error at all for a batch of 1."
)
class LeavesShapesToTorch(ReferenceKVCache):
    def append(self, k, v):
        end = self.length + k.shape[-2]
        if end > self._keys.shape[2]:
            raise ValueError("full")
        with torch.no_grad():
            self._keys[:, :, self.length : end], self._values[:, :, self.length : end] = k, v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


@misconception("KVCache", "Keeps the memory in the class: all caches of one size share it.")
class SharesItsMemory(ReferenceKVCache):
    keys = values = None

    def __init__(self, batch_size, num_heads, max_length, head_dim, *, dtype=torch.float32):
        super().__init__(batch_size, num_heads, max_length, head_dim, dtype=dtype)
        kind = type(self)
        if kind.keys is None or kind.keys.shape != self._keys.shape or kind.keys.dtype != dtype:
            kind.keys, kind.values = self._keys, self._values
        self._keys, self._values = kind.keys, kind.values


@misconception("KVCache", "Squeezes what it returns: a batch of 1, or a single head, loses its dimension.")
class SqueezesItsAnswers(ReferenceKVCache):
    def append(self, k, v):
        keys, values = super().append(k, v)
        return keys.squeeze(), values.squeeze()


@misconception("KVCache", "Copies through flat memory with view, which works for tensors without gaps only.")
class CopiesThroughViews(ReferenceKVCache):
    def append(self, k, v):
        start = self.length
        keys, values = super().append(k, v)
        for memory, new in ((keys, k), (values, v)):
            memory[:, :, start:] = new.detach().view(-1).view(new.shape)
        return keys, values


@misconception("KVCache", "Counts the tokens in a tensor, which the caller gets instead of an int.")
class CountsInATensor(ReferenceKVCache):
    def __init__(self, *sizes, **settings):
        super().__init__(*sizes, **settings)
        self.length = torch.tensor(0)


@misconception("KVCache", "Takes the memory at the first append: the constructor promises room that may not be there.")
class TakesMemoryLate(ReferenceKVCache):
    def __init__(self, batch_size, num_heads, max_length, head_dim, *, dtype=torch.float32):
        self.sizes, self.dtype, self._keys, self.length = (batch_size, num_heads, max_length, head_dim), dtype, None, 0

    def append(self, k, v):
        if self._keys is None:
            ReferenceKVCache.__init__(self, *self.sizes, dtype=self.dtype)
        return super().append(k, v)


@misconception("KVCache", "Switches recording on after it has copied, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterTheCopy(ReferenceKVCache):
    def append(self, k, v):
        torch.set_grad_enabled(False)
        answer = super().append(k, v)
        torch.set_grad_enabled(True)
        return answer


# blockwise_attention


class _Blocks:
    """The loop over blocks, with steps that a wrong answer can change."""

    start_at = -torch.inf

    def __call__(self, q, k, v, block_size, *, key_mask=None, causal=False):
        if block_size < 1:
            raise ValueError("block_size")
        *batch, Tq, D = q.shape
        Tk, E = v.shape[-2:]
        m, z, a = q.new_full((*batch, Tq, 1), self.start_at), q.new_zeros(*batch, Tq, 1), q.new_zeros(*batch, Tq, E)
        for start in range(0, self.end(Tk, block_size), block_size):
            j = torch.arange(start, min(start + block_size, Tk))
            s = q @ k[..., j, :].mT / math.sqrt(D)
            if key_mask is not None:
                s = s.masked_fill(~key_mask.expand(*batch, Tk)[..., None, j], -torch.inf)
            if causal:
                s = s.masked_fill(j > self.last(Tq, Tk)[:, None], -torch.inf)
            m, z, a = self.update(m, z, a, s, v[..., j, :])
        return a / z.masked_fill(z == 0, 1.0)

    def end(self, Tk, block_size):
        return Tk

    def last(self, Tq, Tk):
        return torch.arange(Tk - Tq, Tk)

    def shift(self, new):
        return new.masked_fill(new == -torch.inf, 0.0)

    def update(self, m, z, a, s, v):
        new = torch.maximum(m, s.detach().amax(-1, keepdim=True))
        shift = self.shift(new)
        shrink, p = (m - shift).exp(), (s - shift).exp()
        return new, z * shrink + p.sum(-1, keepdim=True), self.mix(a, shrink, p @ v)

    def mix(self, a, shrink, block):
        return a * shrink + block


@misconception("blockwise_attention", "Computes all the scores at once: right, but it needs the memory that blocks are meant to save.")
def holds_all_the_scores(q, k, v, block_size, *, key_mask=None, causal=False):
    if block_size < 1:
        raise ValueError("block_size")
    Tq, Tk = q.shape[-2], k.shape[-2]
    mask = torch.ones(Tq, Tk, dtype=torch.bool)
    if causal:
        mask = mask.tril(Tk - Tq)
    if key_mask is not None:
        mask = mask & key_mask[..., None, :]
    return reference_attention(q, k, v, mask)


@misconception("blockwise_attention", "Makes the whole causal mask, as large as all the scores, and cuts blocks from it.")
def makes_the_whole_mask(q, k, v, block_size, *, key_mask=None, causal=False):
    if causal:
        torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return reference_blockwise(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Shrinks the sum but not the mixed values when a larger score appears: a must shrink with z.")
def shrinks_only_the_sum(q, k, v, block_size, *, key_mask=None, causal=False):
    class Wrong(_Blocks):
        def mix(self, a, shrink, block):
            return a + block

    return Wrong()(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Averages the attention of the blocks, as if each had the same share of the weights.")
def averages_the_blocks(q, k, v, block_size, *, key_mask=None, causal=False):
    class Wrong(_Blocks):
        def update(self, m, z, a, s, v):
            hidden = s == -torch.inf
            w = s.masked_fill(hidden, torch.finfo(s.dtype).min).softmax(-1).masked_fill(hidden, 0.0)
            return m, z + (~hidden).any(-1, keepdim=True), a + w @ v

    return Wrong()(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Leaves out the last block where it is shorter than the others.")
def drops_the_rest(q, k, v, block_size, *, key_mask=None, causal=False):
    class Wrong(_Blocks):
        def end(self, Tk, block_size):
            return Tk // block_size * block_size

    return Wrong()(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Subtracts an m of −inf while a query has seen nothing: −inf − (−inf) is NaN, and it stays.")
def nan_while_nothing_is_seen(q, k, v, block_size, *, key_mask=None, causal=False):
    class Wrong(_Blocks):
        def shift(self, new):
            return new

    return Wrong()(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Starts m at 0: where all scores are far below 0, every exponential is 0, and so is the sum.")
def starts_at_zero(q, k, v, block_size, *, key_mask=None, causal=False):
    class Wrong(_Blocks):
        start_at = 0.0

    return Wrong()(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Does not subtract a maximum: large scores overflow.")
def no_maximum(q, k, v, block_size, *, key_mask=None, causal=False):
    class Wrong(_Blocks):
        def shift(self, new):
            return torch.zeros_like(new)

        def mix(self, a, shrink, block):
            return a + block

        def update(self, m, z, a, s, v):
            return m, z + s.exp().sum(-1, keepdim=True), a + s.exp() @ v

    return Wrong()(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Takes the queries for the first positions; with fewer queries than keys they are the last ones.")
def queries_are_the_first(q, k, v, block_size, *, key_mask=None, causal=False):
    class Wrong(_Blocks):
        def last(self, Tq, Tk):
            return torch.arange(Tq)

    return Wrong()(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Puts −1e4 at hidden scores: that hides nothing where the scores that count are as low.")
def hides_blocks_with_minus_ten_thousand(q, k, v, block_size, *, key_mask=None, causal=False):
    if block_size < 1:
        raise ValueError("block_size")
    Tq, Tk, D = q.shape[-2], k.shape[-2], q.shape[-1]
    m, z, a = q.new_full((*q.shape[:-1], 1), -1e30), q.new_zeros(*q.shape[:-1], 1), q.new_zeros(*q.shape[:-1], v.shape[-1])
    seen = torch.zeros_like(z, dtype=torch.bool)
    for start in range(0, Tk, block_size):
        j = torch.arange(start, min(start + block_size, Tk))
        s = q @ k[..., j, :].transpose(-2, -1) / math.sqrt(D)
        allowed = torch.ones_like(s, dtype=torch.bool)
        if key_mask is not None:
            allowed = allowed & key_mask[..., None, j]
        if causal:
            allowed = allowed & (j <= torch.arange(Tk - Tq, Tk)[:, None])
        s = s.masked_fill(~allowed, -1e4)
        new = torch.maximum(m, s.detach().amax(-1, keepdim=True))
        p, seen = (s - new).exp(), seen | allowed.any(-1, keepdim=True)
        z, a, m = z * (m - new).exp() + p.sum(-1, keepdim=True), a * (m - new).exp() + p @ v[..., j, :], new
    return (a / z).masked_fill(~seen, 0.0)


@misconception("blockwise_attention", "Flattens with view, which works for tensors without gaps only.")
def flattens_blocks_with_view(q, k, v, block_size, *, key_mask=None, causal=False):
    shapes = [x.shape for x in (q, k, v)]
    flat = [x.view(-1, *shape[-2:]) for x, shape in zip((q, k, v), shapes, strict=True)]
    if key_mask is not None:
        key_mask = key_mask.expand(*shapes[1][:-1]).reshape(-1, shapes[1][-2])
    return reference_blockwise(*flat, block_size, key_mask=key_mask, causal=causal).view(*shapes[0][:-1], shapes[2][-1])


@misconception("blockwise_attention", "Takes the first dimension of a key_mask for the batch: its dimensions broadcast from the right.")
def masks_from_the_left(q, k, v, block_size, *, key_mask=None, causal=False):
    if key_mask is not None and key_mask.dim() > 1:
        while key_mask.dim() < k.dim() - 1:
            key_mask = key_mask.unsqueeze(1)
    return reference_blockwise(q, k, v, block_size, key_mask=key_mask, causal=causal)


@misconception("blockwise_attention", "Takes a key_mask without a single True for no mask at all.")
def ignores_a_key_mask_without_true(q, k, v, block_size, *, key_mask=None, causal=False):
    return reference_blockwise(q, k, v, block_size, key_mask=key_mask if key_mask is not None and key_mask.any() else None, causal=causal)


@misconception("blockwise_attention", "Squeezes the result: a batch of 1, a single query or a single feature loses its dimension.")
def squeezes_the_mixture(q, k, v, block_size, *, key_mask=None, causal=False):
    return reference_blockwise(q, k, v, block_size, key_mask=key_mask, causal=causal).squeeze()


@misconception("blockwise_attention", "Takes a block size below 1 for one block.")
def takes_any_block_size(q, k, v, block_size, *, key_mask=None, causal=False):
    return reference_blockwise(q, k, v, block_size if block_size > 0 else k.shape[-2], key_mask=key_mask, causal=causal)


# TransformerBlock


class _BlockBase(ReferenceBlock):
    """Lets a wrong block change one step."""

    def attention(self, x, causal=True):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(-2))

    def network(self, x):
        return self.down(F.gelu(self.up(x)))


@misconception(
    "TransformerBlock", "Norms after each sum (post-norm, as in the first Transformer); here each branch is normed at its entrance."
)
class PostNorm(_BlockBase):
    def forward(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.network(x))


@misconception("TransformerBlock", "Lets every position look at all others: a model then sees the token it should predict.")
class LooksAhead(_BlockBase):
    def forward(self, x):
        x = x + self.attention(self.norm1(x), causal=False)
        return x + self.network(self.norm2(x))


@misconception("TransformerBlock", "Adds the branch to the normed x: the sum must go on from x as it came in.")
class AddsToTheNormed(_BlockBase):
    def forward(self, x):
        x = self.norm1(x)
        x = x + self.attention(x)
        x = self.norm2(x)
        return x + self.network(x)


@misconception("TransformerBlock", "Adds in place: the caller's x is changed.")
class AddsInPlace(_BlockBase):
    def forward(self, x):
        if x.requires_grad or torch.is_grad_enabled():
            return super().forward(x)
        x += self.attention(self.norm1(x))
        x += self.network(self.norm2(x))
        return x


@misconception("TransformerBlock", "Uses GELU's tanh approximation, which is off by up to 5e-4.")
class ApproximateGelu(_BlockBase):
    def network(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.network(self.norm2(x))


@misconception("TransformerBlock", "Feeds both branches the same x (a parallel block); the second one starts from the first sum.")
class ParallelBranches(_BlockBase):
    def forward(self, x):
        return x + self.attention(self.norm1(x)) + self.network(self.norm2(x))


@misconception("TransformerBlock", "Forgets the second sum: what attention found is lost behind the network.")
class OneSumOnly(_BlockBase):
    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return self.network(self.norm2(x))


@misconception("TransformerBlock", "Uses norm1 for both branches, and norm2 for nothing.")
class OneNormForBoth(_BlockBase):
    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.network(self.norm1(x))


@misconception("TransformerBlock", "Cuts qkv into heads first and each head into q, k, v; the first d features are q for all heads.")
class HeadsBeforeQkv(_BlockBase):
    def attention(self, x, causal=True):
        q, k, v = self.qkv(x).unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(-2))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.network(self.norm2(x))


@misconception("TransformerBlock", "Keeps a mask of 1,024 positions in a buffer: it lands in the state_dict.")
class StoresTheMask(_BlockBase):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.register_buffer("mask", torch.ones(1024, 1024, dtype=torch.bool).tril())


@misconception("TransformerBlock", "Cuts the mask from one of 128 positions: longer texts need more.")
class HasAMaskOfOneSize(_BlockBase):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads)
        self.register_buffer("mask", torch.ones(128, 128, dtype=torch.bool).tril(), persistent=False)

    def forward(self, x):
        T = x.shape[1]
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask[:T, :T])
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        return x + self.network(self.norm2(x))


@misconception("TransformerBlock", "Looks ahead in eval mode: what comes later counts for nothing in either mode.")
class LooksAheadInEvalMode(_BlockBase):
    def forward(self, x):
        x = x + self.attention(self.norm1(x), causal=self.training)
        return x + self.network(self.norm2(x))


@misconception(
    "TransformerBlock", "Keeps the weights of qkv from the first call in eval mode on: weights that are loaded later don't count."
)
class KeepsTheFirstQkv(_BlockBase):
    kept = None

    def attention(self, x, causal=True):
        if self.training or self.kept is None:
            self.kept = self.qkv.weight.T.contiguous(), self.qkv.bias
        q, k, v = (x @ self.kept[0] + self.kept[1]).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(-2))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.network(self.norm2(x))


@misconception("TransformerBlock", "Flattens x with view, which works for tensors without gaps only.")
class BlockFlattensWithView(_BlockBase):
    def forward(self, x):
        B, T, d = x.shape
        x = x + self.attention(self.norm1(x))
        return x + self.network(self.norm2(x.view(B * T, d))).view(B, T, d)


@misconception("TransformerBlock", "Rounds D down where the heads don't fit, instead of refusing.")
class BlockRoundsTheHeads(ReferenceBlock):
    def __init__(self, d_model, num_heads):
        super().__init__(d_model, num_heads if d_model % num_heads == 0 else 1)


# sample_next


def _drawn(logits, temperature, top_k, top_p, generator, cut, filtered=None):
    """Sampling with steps that a wrong answer can change: `cut` says which ranks top_p drops."""
    reference_sample_next(torch.zeros(1), temperature=temperature, top_k=top_k, top_p=top_p, generator=torch.Generator())
    if temperature == 0:
        return logits.argmax(-1)
    scores, tokens = (logits / temperature).sort(dim=-1, descending=True, stable=True)
    if filtered is None and top_k is not None:
        scores[..., top_k:] = -torch.inf
    p = scores.softmax(-1)
    if top_p is not None:
        p = p.masked_fill(cut(p), 0.0)
    if filtered is not None:
        p = filtered(p)
    rank = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator).view(*p.shape[:-1], 1)
    return tokens.gather(-1, rank).squeeze(-1)


@misconception("sample_next", "Drops the token with which the probabilities reach top_p; it is the last one that is kept.")
def drops_the_crossing_token(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    def cut(p):
        dropped = p.cumsum(-1) > top_p
        dropped[..., 0] = False
        return dropped & (top_p < 1)

    return _drawn(logits, temperature, top_k, top_p, generator, cut)


@misconception("sample_next", "Keeps one token more than needed: those before it have reached top_p already.")
def keeps_one_too_many(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    return _drawn(
        logits, temperature, top_k, top_p, generator, lambda p: (p.cumsum(-1) - p).roll(1, -1).index_fill(-1, torch.tensor([0]), 0) >= top_p
    )


@misconception("sample_next", "Cuts by top_p before top_k: the probabilities are then those among all tokens, not among the k.")
def top_p_before_top_k(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    def filtered(p):
        return p if top_k is None else p.masked_fill(torch.arange(p.shape[-1]) >= top_k, 0.0)

    return _drawn(logits, temperature, top_k, top_p, generator, lambda p: p.cumsum(-1) - p >= top_p, filtered)


@misconception("sample_next", "Applies the temperature after the cuts: top_p then looks at the wrong probabilities.")
def temperature_at_the_end(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature <= 0:
        return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    return _drawn(
        logits,
        1.0,
        top_k,
        top_p,
        generator,
        lambda p: p.cumsum(-1) - p >= top_p,
        lambda p: (p if top_k is None else p.masked_fill(torch.arange(p.shape[-1]) >= top_k, 0.0)) ** (1 / temperature),
    )


@misconception("sample_next", "Multiplies by the temperature: a high one must make the choice more even, not sharper.")
def multiplies_by_the_temperature(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    inverse = 1 / temperature if temperature > 0 else temperature
    return reference_sample_next(logits, temperature=inverse, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Divides by a temperature of 0: the logits become inf and NaN.")
def divides_by_zero(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature:
        return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    return torch.multinomial((logits / temperature).softmax(-1), 1).squeeze(-1)


@misconception("sample_next", "Keeps every token that is as large as the k-th: with equal logits, those are more than k.")
def keeps_all_equals(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if top_k is None or top_k < 1 or temperature <= 0:
        return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    smallest = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
    kept = logits.masked_fill(logits < smallest, -torch.inf)
    return reference_sample_next(kept, temperature=temperature, top_p=top_p, generator=generator)


@misconception("sample_next", "Writes −inf into the logits it was given.")
def cuts_in_place(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if top_k is not None and 0 < top_k < logits.shape[-1] and temperature > 0:
        order = logits.argsort(dim=-1, descending=True, stable=True)
        logits.scatter_(-1, order[..., top_k:], -torch.inf)
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Does not hand the generator on: the tokens depend on torch's global state.")
def ignores_the_generator(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p)


@misconception("sample_next", "Seeds the global generator itself: every call draws the same tokens.")
def seeds_by_itself(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    torch.manual_seed(0)
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Draws one random number for all rows: they are not independent then.")
def one_number_for_all_rows(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=torch.Generator())
    if temperature == 0:
        return logits.argmax(-1)
    scores, tokens = (logits / temperature).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        scores[..., top_k:] = -torch.inf
    p = scores.softmax(-1)
    if top_p is not None:
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    total = p.cumsum(-1)
    number = torch.rand((), generator=generator) * total[..., -1:]
    rank = (total <= number).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return tokens.gather(-1, rank).squeeze(-1)


@misconception("sample_next", "Returns the rank among the sorted logits instead of the token.")
def returns_the_rank(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    scores = logits.sort(dim=-1, descending=True, stable=True).values
    if temperature == 0:
        scores = logits
    return reference_sample_next(scores, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Divides the logits in place: the caller's are changed.")
def divides_in_place(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature > 0 and temperature != 1:
        logits = logits.div_(temperature)
        temperature = 1.0
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Takes a temperature of 0 for none given: `temperature or 1.0` can't tell them apart.")
def takes_zero_for_no_temperature(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    return reference_sample_next(logits, temperature=temperature or 1.0, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Takes a top_k of 0 for none given: `if top_k` can't tell them apart.")
def takes_zero_for_no_top_k(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    return reference_sample_next(logits, temperature=temperature, top_k=top_k or None, top_p=top_p, generator=generator)


@misconception("sample_next", "Returns the largest at temperature 0 before it has looked at the other settings.")
def checks_after_the_largest(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if temperature == 0:
        return logits.argmax(dim=-1)
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Draws first and looks at the settings afterwards: the generator has moved on when the error comes.")
def checks_at_the_end(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    number = torch.rand(logits.shape[:-1], generator=generator, dtype=torch.float64)[..., None]
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError("settings")
    if temperature == 0:
        return logits.argmax(-1)
    scores, tokens = (logits.double() / temperature).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        scores[..., top_k:] = -torch.inf
    p = scores.softmax(-1)
    if top_p is not None and top_p < 1:
        p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)
    sums = p.cumsum(-1)
    rank = (sums <= number * sums[..., -1:]).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    return tokens.gather(-1, rank).squeeze(-1)


@misconception("sample_next", "Squeezes the tokens: a batch of 1 loses its dimension.")
def squeezes_the_tokens(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator).squeeze()


@misconception("sample_next", "Flattens the logits with view, which works for tensors without gaps only.")
def flattens_logits_with_view(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    rows = logits.view(-1, logits.shape[-1])
    tokens = reference_sample_next(rows, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    return tokens.view(logits.shape[:-1])


@misconception("sample_next", "Cuts by top_k with a k that must not be above V.")
def needs_a_small_top_k(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    if top_k is not None and top_k > 0:
        logits.topk(top_k)
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Puts −100 for −inf: where all other logits are lower, the hidden token is drawn.")
def puts_a_number_for_infinity(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    logits = logits.masked_fill(logits == -torch.inf, -100.0)
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


@misconception("sample_next", "Drops a rank in all rows once one of them doesn't need it: each row has a nucleus of its own.")
def one_nucleus_for_all(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    def cut(p):
        dropped = p.cumsum(-1) - p >= top_p
        return dropped.flatten(0, -2).any(0).expand(p.shape) if p.ndim > 1 else dropped

    return _drawn(logits, temperature, top_k, top_p, generator, cut)


@misconception("sample_next", "Takes a top_p below ½ for the likeliest token alone: where none is as likely as that, several are kept.")
def greedy_below_a_half(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    small = top_p is not None and 0 < top_p < 0.5
    tokens = reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
    return logits.argmax(-1) if small else tokens


@misconception("sample_next", "Takes low temperatures for 0: logits that are just as close to each other still leave a choice.")
def greedy_when_cool(logits, *, temperature=1.0, top_k=None, top_p=None, generator=None):
    temperature = 0.0 if 0 < temperature < 0.05 else temperature
    return reference_sample_next(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


# bpe_merges


def _replaced(tokens, pair, token):
    """Merging, done right."""
    out, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            out.append(token)
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out


def _learnt(counts, num_merges, count=None, choose=None, merge=_replaced, least=0):
    """Learning, done right save for what is given."""
    if num_merges < 0:
        raise ValueError("num_merges")
    words, merges = [(list(word), n) for word, n in counts.items()], []
    for k in range(num_merges):
        pairs = {}
        for tokens, n in words:
            for pair, times in (count or _all_places)(tokens):
                pairs[pair] = pairs.get(pair, 0) + n * times
        pairs = {pair: n for pair, n in pairs.items() if n > least}
        if not pairs:
            break
        merges.append((choose or _smallest_of_the_most)(pairs))
        words = [(merge(tokens, merges[-1], 256 + k), n) for tokens, n in words]
    return merges


def _all_places(tokens):
    return [(pair, 1) for pair in itertools.pairwise(tokens)]


def _smallest_of_the_most(pairs):
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


@misconception("bpe_merges", "Counts each word once: a word that occurs 100 times has 100 times the pairs.")
def counts_each_word_once(counts, num_merges):
    return _learnt({word: min(n, 1) for word, n in counts.items()}, num_merges)


@misconception("bpe_merges", "Takes the pair that was met first among equals: the smallest is due, in whatever order the words come.")
def takes_the_first_pair_met(counts, num_merges):
    return _learnt(counts, num_merges, choose=lambda pairs: max(pairs, key=pairs.get))


@misconception("bpe_merges", "Takes the largest pair among equals: the smallest is due.")
def takes_the_largest_of_equals(counts, num_merges):
    return _learnt(counts, num_merges, choose=lambda pairs: max(pairs, key=lambda pair: (pairs[pair], pair)))


@misconception("bpe_merges", "Breaks ties by the right token alone: the left one decides first.")
def breaks_ties_by_the_right_token(counts, num_merges):
    return _learnt(counts, num_merges, choose=lambda pairs: min(pairs, key=lambda pair: (-pairs[pair], pair[1], pair[0])))


@misconception("bpe_merges", 'Counts places that do not overlap, as bytes.count() does: "aaa" has the pair (a, a) twice.')
def counts_without_overlap(counts, num_merges):
    def places(tokens):
        last = {}
        for i, pair in enumerate(itertools.pairwise(tokens)):
            if last.get(pair, (-2,))[-1] < i - 1:
                last[pair] = (*last.get(pair, ()), i)
        return [(pair, len(found)) for pair, found in last.items()]

    return _learnt(counts, num_merges, count=places)


@misconception("bpe_merges", "Counts a pair once in a word, however often it stands there.")
def counts_a_pair_once_a_word(counts, num_merges):
    return _learnt(counts, num_merges, count=lambda tokens: [(pair, 1) for pair in set(itertools.pairwise(tokens))])


@misconception("bpe_merges", "Joins the words to one text: pairs go from the end of one word into the next.")
def joins_the_words(counts, num_merges):
    return _learnt({b"".join(word * min(n, 100) for word, n in counts.items()): 1}, num_merges)


@misconception("bpe_merges", "Merges the first place of the pair in each word only.")
def merges_the_first_place(counts, num_merges):
    def merge(tokens, pair, token):
        for i, found in enumerate(itertools.pairwise(tokens)):
            if found == pair:
                return [*tokens[:i], token, *tokens[i + 2 :]]
        return tokens

    return _learnt(counts, num_merges, merge=merge)


@misconception("bpe_merges", "Merges from right to left: of three equal tokens, the first is left over, not the last.")
def merges_from_the_right(counts, num_merges):
    return _learnt(counts, num_merges, merge=lambda tokens, pair, token: _replaced(tokens[::-1], pair[::-1], token)[::-1])


@misconception("bpe_merges", "Counts once, and takes the most frequent pairs of the bytes: each merge makes new pairs.")
def never_counts_again(counts, num_merges):
    if num_merges < 0:
        raise ValueError("num_merges")
    pairs = Counter()
    for word, n in counts.items():
        for pair in itertools.pairwise(word):
            pairs[pair] += n
    return sorted((pair for pair in pairs if pairs[pair]), key=lambda pair: (-pairs[pair], pair))[:num_merges]


@misconception("bpe_merges", "Goes on when nothing is left: a pair that occurs in no word is no merge.")
def merges_what_does_not_occur(counts, num_merges):
    return _learnt(counts, num_merges, least=-1)


@misconception("bpe_merges", "Ends at the first pair that occurs only once: the statement goes on down to a count of 1.")
def stops_at_single_pairs(counts, num_merges):
    return _learnt(counts, num_merges, least=1)


@misconception("bpe_merges", "Reads the words as text: a byte above 127 is not a character by itself.")
def reads_words_as_text(counts, num_merges):
    return _learnt({word.decode(errors="replace").encode(): n for word, n in counts.items()}, num_merges)


@misconception("bpe_merges", "Returns what the tokens stand for, not the pairs of tokens.")
def returns_the_texts_of_pairs(counts, num_merges):
    merges, texts = _learnt(counts, num_merges), {i: bytes([i]) for i in range(256)}
    for k, (a, b) in enumerate(merges):
        texts[256 + k] = texts[a] + texts[b]
    return [(tuple(texts[a]), tuple(texts[b])) for a, b in merges]


@misconception("bpe_merges", "Numbers the new tokens from 257: the bytes are 0 … 255, so the first new one is 256.")
def numbers_from_257(counts, num_merges):
    return _learnt(counts, num_merges, merge=lambda tokens, pair, token: _replaced(tokens, pair, token + 1))


@misconception("bpe_merges", "Takes a negative number of merges for none: it is a ValueError.")
def takes_negative_for_none(counts, num_merges):
    return _learnt(counts, max(num_merges, 0))


# bpe_encode


@misconception("bpe_encode", "Merges the leftmost pair that it finds: the pair with the lowest rank goes first, wherever it stands.")
def merges_the_leftmost_pair(data, merges):
    tokens = list(data)
    while True:
        for i, pair in enumerate(itertools.pairwise(tokens)):
            if pair in merges:
                tokens[i : i + 2] = [256 + merges.index(pair)]
                break
        else:
            return torch.tensor(tokens, dtype=torch.int64)


@misconception("bpe_encode", "Takes the longest token that fits from the left, as WordPiece does: here the ranks decide.")
def takes_the_longest_token(data, merges):
    texts = [bytes([i]) for i in range(256)]
    for a, b in merges:
        texts.append(texts[a] + texts[b])
    tokens, i = [], 0
    while i < len(data):
        best = max((t for t, text in enumerate(texts) if data.startswith(text, i)), key=lambda t: (len(texts[t]), -t))
        tokens.append(best)
        i += len(texts[best])
    return torch.tensor(tokens, dtype=torch.int64)


@misconception("bpe_encode", "Takes the highest rank first: what was learnt first goes first.")
def takes_the_highest_rank(data, merges):
    ranks, tokens = {pair: k for k, pair in enumerate(merges)}, list(data)
    while found := [pair for pair in itertools.pairwise(tokens) if pair in ranks]:
        pair = max(found, key=ranks.get)
        tokens = _replaced(tokens, pair, 256 + ranks[pair])
    return torch.tensor(tokens, dtype=torch.int64)


@misconception("bpe_encode", "Merges each pair at one place only, and goes on to the next rank.")
def merges_one_place_of_each(data, merges):
    tokens = list(data)
    for k, pair in enumerate(merges):
        for i, found in enumerate(itertools.pairwise(tokens)):
            if found == pair:
                tokens[i : i + 2] = [256 + k]
                break
    return torch.tensor(tokens, dtype=torch.int64)


@misconception("bpe_encode", "Looks for pairs of bytes once: tokens that were merged make new pairs.")
def merges_bytes_only(data, merges):
    tokens = list(data)
    for k, pair in enumerate(merges):
        if max(pair) < 256:
            tokens = _replaced(tokens, pair, 256 + k)
    return torch.tensor(tokens, dtype=torch.int64)


@misconception("bpe_encode", "Counts how often each pair occurs in the text: learning is over, the ranks decide.")
def takes_the_most_frequent(data, merges):
    ranks, tokens = {pair: k for k, pair in enumerate(merges)}, list(data)
    while found := [pair for pair in itertools.pairwise(tokens) if pair in ranks]:
        pair = max(sorted(set(found), key=ranks.get), key=found.count)
        tokens = _replaced(tokens, pair, 256 + ranks[pair])
    return torch.tensor(tokens, dtype=torch.int64)


@misconception("bpe_encode", "Merges a run from right to left: of three equal tokens, the first is left over, not the last.")
def encodes_from_the_right(data, merges):
    tokens = list(data)[::-1]
    for k, pair in enumerate(merges):
        tokens = _replaced(tokens, pair[::-1], 256 + k)
    return torch.tensor(tokens[::-1], dtype=torch.int64)


@misconception("bpe_encode", "Numbers tokens by rank alone: merges[k] is the token 256 + k, behind the bytes.")
def numbers_tokens_by_rank(data, merges):
    tokens = list(data)
    for k, pair in enumerate(merges):
        tokens = _replaced(tokens, pair, 256 + k)
    return torch.tensor([t - 256 if t >= 256 else t for t in tokens], dtype=torch.int64)


@misconception("bpe_encode", "Uses a token twice: in a run of three, both neighbours become a pair.")
def uses_tokens_twice(data, merges):
    tokens = list(data)
    for k, pair in enumerate(merges):
        hits = [False, *(found == pair for found in itertools.pairwise(tokens)), False]
        tokens = [256 + k if hits[i + 1] else t for i, t in enumerate(tokens) if hits[i + 1] or not hits[i]]
    return torch.tensor(tokens, dtype=torch.int64)


@misconception("bpe_encode", "Returns an empty tensor of floats for no bytes: torch.tensor([]) is float32.")
def forgets_the_dtype(data, merges):
    tokens = list(data)
    for k, pair in enumerate(merges):
        tokens = _replaced(tokens, pair, 256 + k)
    return torch.tensor(tokens)


@misconception("bpe_encode", "Keeps the tokens in bytes: there is no 256 in uint8.")
def keeps_tokens_in_bytes(data, merges):
    tokens = list(data)
    for k, pair in enumerate(merges):
        tokens = _replaced(tokens, pair, 256 + k)
    return torch.tensor([t % 256 for t in tokens], dtype=torch.int64)


@misconception("bpe_encode", "Fails for fewer than two bytes: min() of no pairs is an error.")
def needs_a_pair(data, merges):
    ranks, tokens = {pair: k for k, pair in enumerate(merges)}, list(data)
    while (pair := min(itertools.pairwise(tokens), key=lambda pair: ranks.get(pair, math.inf))) in ranks:
        tokens = _replaced(tokens, pair, 256 + ranks[pair])
    return torch.tensor(tokens, dtype=torch.int64)


# MixtureOfExperts


class _MixtureBase(ReferenceMixture):
    """The layer, done right save for what a subclass changes."""

    def order(self, logits):
        return logits.argsort(descending=True, stable=True)[:, : self.k]

    def gates(self, logits, chosen):
        return logits.softmax(-1).gather(1, chosen)

    def places(self, chosen, e):
        """The choices of an expert, as (rank, token), in the order in which they are served."""
        return (chosen.T == e).nonzero()[: self.capacity]

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        chosen = self.order(logits)
        gates, y = self.gates(logits, chosen), torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            rank, token = self.places(chosen, e).unbind(1)
            y = y.index_add(0, token, gates[token, rank, None] * expert(tokens[token]))
        return y.reshape(x.shape)


@misconception(
    "MixtureOfExperts", "Makes the chosen probabilities add up to 1: here they stay as they are, so that the router learns for k = 1."
)
class NormalisesTheGates(_MixtureBase):
    def gates(self, logits, chosen):
        return logits.gather(1, chosen).softmax(-1)


@misconception("MixtureOfExperts", "Adds the experts' outputs up without the gates: the router then gets no gradient.")
class LeavesOutTheGates(_MixtureBase):
    def gates(self, logits, chosen):
        return torch.ones_like(chosen, dtype=logits.dtype)


@misconception("MixtureOfExperts", "Detaches the gates: the router can't learn.")
class DetachesTheGates(_MixtureBase):
    def gates(self, logits, chosen):
        return super().gates(logits, chosen).detach()


@misconception("MixtureOfExperts", "Weights the experts with the logits: softmax makes probabilities of them.")
class WeightsWithLogits(_MixtureBase):
    def gates(self, logits, chosen):
        return logits.gather(1, chosen)


@misconception("MixtureOfExperts", "Ignores the capacity: a full expert takes no more.")
class IgnoresTheCapacity(_MixtureBase):
    def places(self, chosen, e):
        return (chosen.T == e).nonzero()


@misconception("MixtureOfExperts", "Serves token by token: an early token's second choice pushes out a later token's first one.")
class ServesTokenByToken(_MixtureBase):
    def places(self, chosen, e):
        return (chosen == e).nonzero()[: self.capacity].flip(1)


@misconception("MixtureOfExperts", "Keeps the last tokens of a full expert: the first ones are due.")
class KeepsTheLastTokens(_MixtureBase):
    def places(self, chosen, e):
        found = (chosen.T == e).nonzero()
        return found if self.capacity is None else found[max(len(found) - self.capacity, 0) :]


@misconception(
    "MixtureOfExperts", "Gives each rank of choices a capacity of its own: first and second choices share the room of an expert."
)
class CapacityForEachRank(_MixtureBase):
    def places(self, chosen, e):
        of_each = [(row == e).nonzero()[: self.capacity] for row in chosen.T]
        return torch.cat([F.pad(token, (1, 0), value=r) for r, token in enumerate(of_each)])


@misconception("MixtureOfExperts", "Takes a capacity of 0 for none: `if capacity` can't tell them apart.")
class TakesZeroForNoLimit(_MixtureBase):
    def places(self, chosen, e):
        return (chosen.T == e).nonzero()[: self.capacity or None]


@misconception("MixtureOfExperts", "Lets a dropped token through unchanged: the layer gives 0, and whoever calls it adds the token.")
class PassesDroppedTokens(_MixtureBase):
    def forward(self, x):
        y = super().forward(x)
        return torch.where((y == 0).all(-1, keepdim=True), x, y)


@misconception("MixtureOfExperts", "Sends what a full expert drops to the next best one.")
class SendsDroppedTokensOn(_MixtureBase):
    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        order, p = logits.argsort(descending=True, stable=True), logits.softmax(-1)
        load, taken, y = [0] * len(self.experts), [0] * len(tokens), torch.zeros_like(tokens)
        for r in range(len(self.experts)):
            for t in range(len(tokens)):
                e = int(order[t, r])
                if taken[t] < self.k and (self.capacity is None or load[e] < self.capacity):
                    load[e], taken[t] = load[e] + 1, taken[t] + 1
                    y = y.index_add(0, torch.tensor([t]), p[t, e] * self.experts[e](tokens[t : t + 1]))
        return y.reshape(x.shape)


@misconception(
    "MixtureOfExperts",
    "Runs every expert on every token and multiplies by 0: what another expert makes of it can be inf, and 0 · inf is NaN.",
)
class RunsAllExperts(_MixtureBase):
    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        chosen = self.order(logits)
        gates, p = torch.zeros_like(logits), logits.softmax(-1)
        for e in range(len(self.experts)):
            token = self.places(chosen, e)[:, 1]
            gates[token, e] = p[token, e]
        y = sum(gates[:, e, None] * expert(tokens) for e, expert in enumerate(self.experts))
        return y.reshape(x.shape)


@misconception("MixtureOfExperts", "Puts an expert's output in the token's place: the second expert overwrites the first.")
class OverwritesTheFirst(_MixtureBase):
    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        chosen = self.order(logits)
        p, y = logits.softmax(-1), torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            token = self.places(chosen, e)[:, 1]
            y[token] = p[token, e, None] * expert(tokens[token])
        return y.reshape(x.shape)


@misconception("MixtureOfExperts", "Routes each sequence by itself: an expert's capacity is for all tokens of a call.")
class CapacityForEachSequence(_MixtureBase):
    def forward(self, x):
        if x.ndim < 3 or not x.numel():
            return super().forward(x)
        sequences = []
        for row in x.flatten(0, -3):
            sequences.append(super().forward(row))
        return torch.stack(sequences).reshape(x.shape)


@misconception("MixtureOfExperts", "Takes the higher index among equal logits: the lower one goes first.")
class HigherIndexFirst(_MixtureBase):
    def order(self, logits):
        return logits.shape[1] - 1 - logits.flip(1).argsort(descending=True, stable=True)[:, : self.k]


@misconception("MixtureOfExperts", "Flattens the tokens with view, which works for tensors without gaps only.")
class FlattensTokensWithView(_MixtureBase):
    def forward(self, x):
        return super().forward(x.view(-1, x.shape[-1])).view(x.shape)


@misconception("MixtureOfExperts", "Keeps the experts in a plain list: they are no submodules, so they are neither trained nor saved.")
class ExpertsInAList(ReferenceMixture):
    def __init__(self, d_model, d_hidden, num_experts, k, *, capacity=None):
        super().__init__(d_model, d_hidden, num_experts, k, capacity=capacity)
        experts = list(self.experts)
        del self.experts
        self.experts = experts


@misconception("MixtureOfExperts", "Gives the router a bias.")
class RouterWithBias(ReferenceMixture):
    def __init__(self, d_model, d_hidden, num_experts, k, *, capacity=None):
        super().__init__(d_model, d_hidden, num_experts, k, capacity=capacity)
        self.router = nn.Linear(d_model, num_experts)


@misconception("MixtureOfExperts", "Chooses all experts where k is too large: it is a ValueError.")
class ClampsK(ReferenceMixture):
    def __init__(self, d_model, d_hidden, num_experts, k, *, capacity=None):
        super().__init__(d_model, d_hidden, num_experts, max(min(k, num_experts), 1), capacity=capacity)


# load_balancing_loss


def _balance(logits, k, mask, f=None, P=None):
    """The loss, done right save for what is given."""
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError("k")
    rows = logits.reshape(-1, E) if mask is None else logits[mask]
    h = torch.promote_types(rows.dtype, torch.float32)
    p = rows.to(h).softmax(-1)
    chosen = torch.zeros_like(p).scatter(1, rows.argsort(descending=True, stable=True)[:, :k], 1.0)
    n = max(len(rows), 1)
    return E * ((f or (lambda p, c: c.sum(0) / (n * k)))(p, chosen) * (P or (lambda p: p.sum(0) / n))(p)).sum()


@misconception("load_balancing_loss", "Forgets the factor E: a balanced router should give 1.")
def forgets_the_factor(logits, k=1, *, mask=None):
    return reference_balance(logits, k, mask=mask) / logits.shape[-1]


@misconception("load_balancing_loss", "Divides the choices by N alone: for k > 1, a balanced router gives k.")
def divides_by_tokens_alone(logits, k=1, *, mask=None):
    return reference_balance(logits, k, mask=mask) * k


@misconception("load_balancing_loss", "Uses the mean probabilities for the shares, too: that has another value and another gradient.")
def uses_probabilities_twice(logits, k=1, *, mask=None):
    return _balance(logits, k, mask, f=lambda p, c: p.sum(0) / max(len(p), 1))


@misconception("load_balancing_loss", "Detaches the probabilities: then nothing has a gradient, and the router can't learn.")
def detaches_the_probabilities(logits, k=1, *, mask=None):
    loss = reference_balance(logits, k, mask=mask)
    return loss.detach() + 0 * logits.nan_to_num().sum().to(loss.dtype)


@misconception("load_balancing_loss", "Lets a gradient into the counts (straight-through): f is made of constants.")
def lets_gradients_into_counts(logits, k=1, *, mask=None):
    def shares(p, c):
        return (c + p - p.detach()).sum(0) / (max(len(p), 1) * k)

    return _balance(logits, k, mask, f=shares)


@misconception("load_balancing_loss", "Averages the logits, and takes the softmax of the mean.")
def softmax_of_the_mean(logits, k=1, *, mask=None):
    return _balance(logits, k, mask, P=lambda p: p.log().sum(0).div(max(len(p), 1)).softmax(0))


@misconception("load_balancing_loss", "Takes P over the tokens that chose the expert only: it is the mean over all.")
def averages_chosen_tokens_only(logits, k=1, *, mask=None):
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError("k")
    rows = logits.reshape(-1, E) if mask is None else logits[mask]
    p = rows.to(torch.promote_types(rows.dtype, torch.float32)).softmax(-1)
    c = torch.zeros_like(p).scatter(1, rows.argsort(descending=True, stable=True)[:, :k], 1.0)
    n = max(len(rows), 1)
    return E * (c.sum(0) / (n * k) * (p * c).sum(0) / n).sum()


@misconception("load_balancing_loss", "Multiplies the shares by themselves: counts have no gradient, so that teaches nothing.")
def squares_the_shares(logits, k=1, *, mask=None):
    return _balance(logits, k, mask, f=lambda p, c: (c.sum(0) / max(len(p) * k, 1)).square(), P=lambda p: 1 + 0 * p.sum(0))


@misconception("load_balancing_loss", "Ignores the mask: padding is counted.")
def ignores_padding(logits, k=1, *, mask=None):
    return reference_balance(logits, k)


@misconception("load_balancing_loss", "Leaves padding out of the sums, but divides by all rows.")
def divides_by_all_rows(logits, k=1, *, mask=None):
    share = 1.0 if mask is None or not mask.numel() else mask.double().mean().item()
    return reference_balance(logits, k, mask=mask) * share**2


@misconception("load_balancing_loss", "Multiplies padding by 0: 0 · NaN is NaN.")
def multiplies_padding_by_zero(logits, k=1, *, mask=None):
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError("k")
    kept = torch.ones(logits.shape[:-1], dtype=torch.bool) if mask is None else mask
    h = torch.promote_types(logits.dtype, torch.float32)
    p = logits.to(h).softmax(-1) * kept[..., None]
    c = torch.zeros_like(p).scatter(-1, logits.argsort(descending=True, stable=True)[..., :k], 1.0) * kept[..., None]
    n = kept.sum().clamp(min=1)
    return E * (c.reshape(-1, E).sum(0) / (n * k) * p.reshape(-1, E).sum(0) / n).sum()


@misconception("load_balancing_loss", "Divides by the number of tokens, which may be 0: the loss is NaN then.")
def divides_by_no_tokens(logits, k=1, *, mask=None):
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError("k")
    rows = logits.reshape(-1, E) if mask is None else logits[mask]
    p = rows.to(torch.promote_types(rows.dtype, torch.float32)).softmax(-1)
    c = torch.zeros_like(p).scatter(1, rows.argsort(descending=True, stable=True)[:, :k], 1.0)
    return E * (c.mean(0) / k * p.mean(0)).sum()


@misconception("load_balancing_loss", "Computes 16-bit logits in 16 bits: the mean of many probabilities loses its digits.")
def stays_in_sixteen_bits(logits, k=1, *, mask=None):
    E = logits.shape[-1]
    if not 1 <= k <= E:
        raise ValueError("k")
    rows = logits.reshape(-1, E) if mask is None else logits[mask]
    p = rows.softmax(-1)
    c = torch.zeros_like(p).scatter(1, rows.argsort(descending=True, stable=True)[:, :k], 1.0)
    return (E * (c.sum(0) / max(len(p) * k, 1) * p.sum(0) / max(len(p), 1)).sum()).to(torch.promote_types(p.dtype, torch.float32))


@misconception("load_balancing_loss", "Counts in float32, also for float64 logits.")
def counts_in_single_precision(logits, k=1, *, mask=None):
    return _balance(logits, k, mask, f=lambda p, c: c.float().sum(0) / (max(len(p), 1) * k))


@misconception("load_balancing_loss", "Looks at the first choice only, whatever k is.")
def first_choices_only(logits, k=1, *, mask=None):
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError("k")
    return reference_balance(logits, 1, mask=mask)


@misconception("load_balancing_loss", "Takes all experts where k is too large: it is a ValueError.")
def clamps_k(logits, k=1, *, mask=None):
    return reference_balance(logits, max(1, min(k, logits.shape[-1])), mask=mask)


# flash_attention_backward


def _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, w=None, ds=None, scales=(True, True), last=True):
    """The gradients tile by tile, done right save for what is given."""
    if query_block < 1 or key_block < 1:
        raise ValueError("blocks")
    Tq, Tk, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    delta = (y * dy).sum(-1, keepdim=True)
    dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype) for x in (q, k, v))
    for a in range(0, Tq if last else max(Tq // query_block, 1) * query_block, query_block):
        for b in range(0, Tk if last else max(Tk // key_block, 1) * key_block, key_block):
            i, j = slice(a, min(a + query_block, Tq)), slice(b, min(b + key_block, Tk))
            s = q[..., i, :] @ k[..., j, :].mT * scale
            if causal:
                ahead = torch.arange(Tk)[j] > torch.arange(Tq)[i, None] + Tk - Tq
                s = s.masked_fill(ahead, -torch.inf)
            weights = (w or (lambda s, lse: (s - lse).exp()))(s, lse[..., i, None])
            dw = dy[..., i, :] @ v[..., j, :].mT
            ds_ = (ds or (lambda w, dw, delta: w * (dw - delta)))(weights, dw, delta[..., i, :])
            dq[..., i, :] += ds_ @ k[..., j, :] * (scale if scales[0] else 1)
            dk[..., j, :] += ds_.mT @ q[..., i, :] * (scale if scales[1] else 1)
            dv[..., j, :] += weights.mT @ dy[..., i, :]
    return dq, dk, dv


@misconception("flash_attention_backward", "Takes the softmax of each tile by itself: the weights are normalised over all keys, by lse.")
def softmax_of_each_tile(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, w=lambda s, lse: s.softmax(-1).nan_to_num())


@misconception("flash_attention_backward", "Divides by exp(lse) instead of subtracting lse: exp of a large score overflows.")
def divides_by_the_sum(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, w=lambda s, lse: s.exp() / lse.exp())


@misconception("flash_attention_backward", "Divides by lse as if it were the sum of the exponentials; it is the sum's logarithm.")
def takes_lse_for_the_sum(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, w=lambda s, lse: s.exp() / lse)


@misconception("flash_attention_backward", "Leaves δ out: softmax's gradient has a second term.")
def leaves_out_delta(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, ds=lambda w, dw, delta: w * dw)


@misconception("flash_attention_backward", "Computes δ from the tile alone: it is a sum over all keys, which y · dy gives at once.")
def delta_of_the_tile(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, ds=lambda w, dw, delta: w * (dw - (w * dw).sum(-1, keepdim=True)))


@misconception("flash_attention_backward", "Forgets 1/√D in the gradient of q.")
def forgets_the_scale_of_dq(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, scales=(False, True))


@misconception("flash_attention_backward", "Forgets 1/√D in the gradient of k.")
def forgets_the_scale_of_dk(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, scales=(True, False))


@misconception("flash_attention_backward", "Drops the last, shorter blocks.")
def drops_the_last_blocks(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal, last=False)


@misconception("flash_attention_backward", "Ignores `causal`: keys ahead get weights.")
def ignores_causal(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    return _tiles(q, k, v, y, lse, dy, query_block, key_block, False)


@misconception("flash_attention_backward", "Aligns the causal mask at the first key: the queries are the last Tq positions.")
def aligns_at_the_first_key(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    Tq, Tk = q.shape[-2], k.shape[-2]
    if not causal or Tq == Tk:
        return _tiles(q, k, v, y, lse, dy, query_block, key_block, causal)
    dq, dk, dv = _tiles(q, k[..., :Tq, :], v[..., :Tq, :], y, lse, dy, query_block, key_block, True)
    pad = (0, 0, 0, Tk - Tq)
    return dq, F.pad(dk, pad), F.pad(dv, pad)


@misconception("flash_attention_backward", "Counts positions within the tile: the causal mask needs those in the whole text.")
def counts_within_the_tile(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    def weights(s, lse):
        w = (s - lse).exp()
        return w.tril(k.shape[-2] - q.shape[-2]) if causal else w

    return _tiles(q, k, v, y, lse, dy, query_block, key_block, False, w=weights)


@misconception("flash_attention_backward", "Sets weights ahead to 0 by multiplying: exp of a hidden score may be inf, and 0 · inf is NaN.")
def multiplies_hidden_weights(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    if query_block < 1 or key_block < 1:
        raise ValueError("blocks")
    Tq, Tk, scale = q.shape[-2], k.shape[-2], q.shape[-1] ** -0.5
    delta = (y * dy).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for i in torch.arange(Tq).split(query_block):
        for j in torch.arange(Tk).split(key_block):
            w = (q[..., i, :] @ k[..., j, :].mT * scale - lse[..., i, None]).exp()
            if causal:
                w = w * (j <= i[:, None] + Tk - Tq)
            ds = w * (dy[..., i, :] @ v[..., j, :].mT - delta[..., i, :]) * scale
            dq[..., i, :] += ds @ k[..., j, :]
            dk[..., j, :] += ds.mT @ q[..., i, :]
            dv[..., j, :] += w.mT @ dy[..., i, :]
    return dq, dk, dv


def _whole(q, k, v, y, lse, dy, causal):
    """All weights at once."""
    return _tiles(q, k, v, y, lse, dy, q.shape[-2], k.shape[-2], causal)


@misconception("flash_attention_backward", "Makes all weights at once: that is the memory that tiles are to save.")
def all_weights_at_once(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    if query_block < 1 or key_block < 1:
        raise ValueError("blocks")
    return _whole(q, k, v, y, lse, dy, causal)


@misconception("flash_attention_backward", "Goes through the keys in blocks, but takes all queries at once.")
def blocks_of_keys_only(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    if query_block < 1:
        raise ValueError("blocks")
    return _tiles(q, k, v, y, lse, dy, q.shape[-2], key_block, causal)


@misconception("flash_attention_backward", "Makes the causal mask for the whole text: it has as many entries as the weights.")
def makes_a_whole_mask(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    Tq, Tk = q.shape[-2], k.shape[-2]
    mask = torch.ones(Tq, Tk, dtype=torch.bool).tril(Tk - Tq)
    got = _tiles(q, k, v, y, lse, dy, query_block, key_block, causal)
    return got if mask.any() else None


@misconception(
    "flash_attention_backward", "Computes y and lse anew: where k and v are some of the keys only, they differ from those that are given."
)
def computes_the_forward_pass_anew(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    s = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(s.shape[-1] - s.shape[-2]), -torch.inf)
    return _tiles(q, k, v, s.softmax(-1) @ v, s.logsumexp(-1), dy, query_block, key_block, causal)


@misconception("flash_attention_backward", "Stores the gradients of the last block of queries: dk and dv are sums over all blocks.")
def keeps_the_last_tile(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    if query_block < 1:
        raise ValueError("blocks")
    parts = [
        _tiles(q[..., i, :], k, v, y[..., i, :], lse[..., i], dy[..., i, :], query_block, key_block, False)
        for i in torch.arange(q.shape[-2]).split(query_block)
    ]
    if causal:
        return _tiles(q, k, v, y, lse, dy, query_block, key_block, True)
    return torch.cat([part[0] for part in parts], -2), parts[-1][1], parts[-1][2]


@misconception("flash_attention_backward", "Sends the gradient of k and v back in the wrong order: dq, dk, dv are due.")
def exchanges_dk_and_dv(q, k, v, y, lse, dy, query_block, key_block, *, causal=False):
    dq, dk, dv = _tiles(q, k, v, y, lse, dy, query_block, key_block, causal)
    return dq, dv, dk


# TinyGPT


@misconception("TinyGPT", "Copies the tokens' weight into the head: from the first update on, they are two.")
class CopiesTheWeight(ReferenceTinyGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.head.weight = nn.Parameter(self.tokens.weight.detach().clone())


@misconception("TinyGPT", "Leaves the embeddings at torch's N(0, 1): tied to the head, they make the first logits huge.")
class HugeEmbeddings(ReferenceTinyGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        nn.init.normal_(self.tokens.weight)
        nn.init.normal_(self.positions.weight)


class _GPTBase(ReferenceTinyGPT):
    """Lets a wrong model change one step."""

    def forward(self, ids):
        L = ids.shape[1]
        if self.positions.num_embeddings < L:
            raise ValueError("too long")
        x = self.embed(ids, L)
        for block in self.blocks:
            x = block(x, src_mask=self.mask(L))
        return self.head(self.norm(x))

    def embed(self, ids, L):
        return self.tokens(ids) + self.positions.weight[:L]

    def mask(self, L):
        return torch.ones(L, L, dtype=torch.bool).triu(1)


@misconception("TinyGPT", "Gives the blocks no mask: in training, the model sees the token that it should predict.")
class SeesTheFuture(_GPTBase):
    def mask(self, L):
        return None


@misconception("TinyGPT", "Hands the blocks a mask of True where one may look; theirs says where one may not.")
class InvertedMask(_GPTBase):
    def mask(self, L):
        return torch.ones(L, L, dtype=torch.bool).tril(-1)


@misconception("TinyGPT", "Leaves the positions out: attention by itself can't tell the order of the tokens.")
class NoPositions(_GPTBase):
    def embed(self, ids, L):
        return self.tokens(ids) + 0 * self.positions.weight[:L]


@misconception("TinyGPT", "Multiplies the tokens' vectors by √d, as the first Transformer did; a GPT doesn't.")
class ScalesTheTokens(_GPTBase):
    def embed(self, ids, L):
        return self.tokens(ids) * math.sqrt(self.tokens.embedding_dim) + self.positions.weight[:L]


@misconception("TinyGPT", "Forgets the last norm before the head.")
class NoLastNorm(_GPTBase):
    def forward(self, ids):
        norm, self.norm = self.norm, nn.Identity()
        try:
            return super().forward(ids)
        finally:
            self.norm = norm


@misconception("TinyGPT", "Does not look at the length: a text that is too long ends in some other error, or is cut off.")
class CutsLongTexts(_GPTBase):
    def forward(self, ids):
        return super().forward(ids[:, -self.positions.num_embeddings :])


def _train(model, text, inputs_and_targets, updates=120):
    T = model.positions.num_embeddings
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=updates)
    for _ in range(updates):
        inputs, targets = inputs_and_targets(T)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        scheduler.step()


@misconception("TinyGPT", "Trains each position to give its own token back: the targets must be one position ahead.")
class LearnsToCopy(ReferenceTinyGPT):
    def fit(self, text):
        def pairs(T):
            batch = text.unfold(0, T, 1)[torch.randint(len(text) - T + 1, (24,))]
            return batch, batch

        _train(self, text, pairs, updates=60)


@misconception("TinyGPT", "Trains on the first windows of the text only: it learns them by heart, and nothing of new texts.")
class LearnsTheBeginning(ReferenceTinyGPT):
    def fit(self, text):
        def pairs(T):
            return text[None, :T], text[None, 1 : T + 1]

        _train(self, text, pairs, updates=100)


@misconception("TinyGPT", "Joins inputs and targets from different places of the text.")
class MixesThePairs(ReferenceTinyGPT):
    def fit(self, text):
        def pairs(T):
            windows = text.unfold(0, T, 1)
            return tuple(windows[torch.randint(len(windows), (24,))] for _ in range(2))

        _train(self, text, pairs, updates=60)


@misconception("TinyGPT", "Makes the updates far too small: after all of them the weights are nearly where they started.")
class TinyUpdates(ReferenceTinyGPT):
    def fit(self, text):
        T = self.positions.num_embeddings
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        windows = text.unfold(0, T + 1, 1)
        for _ in range(60):
            batch = windows[torch.randint(len(windows), (24,))]
            optimizer.zero_grad()
            F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
            optimizer.step()


@misconception("TinyGPT", "Leaves the last window of the text out: a text of T + 1 tokens has no other.")
class LeavesTheLastWindowOut(ReferenceTinyGPT):
    def fit(self, text):
        def pairs(T):
            starts = torch.randint(len(text) - T - 1, (12, 1)) + torch.arange(T)
            return text[starts], text[starts + 1]

        _train(self, text, pairs)


@misconception("TinyGPT", "Seeds torch's global generator itself: every fit draws the same places.")
class SeedsTorch(ReferenceTinyGPT):
    def fit(self, text):
        torch.manual_seed(0)
        super().fit(text)


@misconception("TinyGPT", "Trains a copy and takes its parameters over: those that the caller holds are the old ones.")
class TrainsACopy(ReferenceTinyGPT):
    def fit(self, text):
        trained = copy.deepcopy(self)
        ReferenceTinyGPT.fit(trained, text)
        self.__dict__.update(trained.__dict__)


@misconception("TinyGPT", "Switches to train mode for fit, and to eval mode after it, whatever the modes were.")
class EndsInEvalMode(ReferenceTinyGPT):
    def fit(self, text):
        self.train()
        super().fit(text)
        self.eval()


@misconception("TinyGPT", "Trains the blocks only: the vectors of tokens and positions stay as they were drawn.")
class TrainsTheBlocksOnly(ReferenceTinyGPT):
    def fit(self, text):
        others = [*self.tokens.parameters(), *self.positions.parameters(), *self.norm.parameters()]
        for p in others:
            p.requires_grad_(False)
        super().fit(text)
        for p in others:
            p.requires_grad_(True)


@misconception("TinyGPT", "Makes targets for the seven tokens of the example only.")
class KnowsSevenTokens(ReferenceTinyGPT):
    def fit(self, text):
        T, windows = self.positions.num_embeddings, text.unfold(0, self.positions.num_embeddings + 1, 1)
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
        for _ in range(100):
            batch = windows[torch.randint(len(windows), (12,))]
            targets = F.one_hot(batch[:, 1:], 7).float()
            optimizer.zero_grad()
            F.cross_entropy(self(batch[:, :T]).flatten(0, 1), targets.flatten(0, 1)).backward()
            optimizer.step()


@misconception("TinyGPT", "Draws the embeddings uniformly, with the right deviation: a normal distribution is asked for.")
class StartsUniform(ReferenceTinyGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        for embedding in (self.tokens, self.positions):
            nn.init.uniform_(embedding.weight, -0.02 * 3**0.5, 0.02 * 3**0.5)


@misconception("TinyGPT", "Keeps the mask in a buffer: it lands in the state_dict.")
class GPTStoresTheMask(_GPTBase):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        T = self.positions.num_embeddings
        self.register_buffer("future", torch.ones(T, T, dtype=torch.bool).triu(1))

    def mask(self, L):
        return self.future[:L, :L]


@misconception("TinyGPT", "Has a mask of 128 positions, whatever the context.")
class HasOneMask(_GPTBase):
    def mask(self, L):
        return torch.ones(128, 128, dtype=torch.bool).triu(1)[:L, :L]


@misconception("TinyGPT", "Flattens the ids with view, which works for tensors without gaps only.")
class FlattensTheIds(_GPTBase):
    def embed(self, ids, L):
        return self.tokens.weight[ids.view(-1)].view(len(ids), L, -1) + self.positions.weight[:L]


@misconception("TinyGPT", "Keeps the positions' vectors from the first call in eval mode on: weights that are loaded later don't count.")
class KeepsTheFirstPositions(_GPTBase):
    kept = None

    def embed(self, ids, L):
        if self.kept is None or self.training or len(self.kept) < L:
            self.kept = self.positions(torch.arange(L)).clone()
        return self.tokens(ids) + (self.positions.weight if self.training else self.kept)[:L]


@misconception("TinyGPT", "Leaves dropout at the default of 0.1.")
class DropsOut(ReferenceTinyGPT):
    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__(vocab_size, context, d_model, num_heads, num_layers)
        layers = [
            nn.TransformerEncoderLayer(d_model, num_heads, 4 * d_model, activation="gelu", batch_first=True, norm_first=True)
            for _ in range(num_layers)
        ]
        self.blocks = nn.ModuleList(layers)
