"""Examples for the module attention. Run one task's with `pytest tests/public -k apply_rope`."""

import math

import pytest
import torch
from attention import (
    GroupedQueryAttention,
    KVCache,
    MixtureOfExperts,
    MultiHeadAttention,
    TinyGPT,
    TransformerBlock,
    apply_rope,
    blockwise_attention,
    bpe_encode,
    bpe_merges,
    causal_mask,
    flash_attention_backward,
    load_balancing_loss,
    padding_mask,
    sample_next,
    scaled_dot_product_attention,
    sinusoidal_positions,
)
from torch import nn
from torch.testing import assert_close


def test_scaled_dot_product_attention_mixes_rows():
    """Scores of 0 and log 3 become the weights 1/4 and 3/4 (D is 4, so products are halved)."""
    q = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    k = torch.tensor([[0.0, 5.0, 0.0, 0.0], [2 * math.log(3.0), 0.0, 5.0, 0.0]])
    v = torch.tensor([[4.0, 8.0], [8.0, 0.0]])
    assert_close(scaled_dot_product_attention(q, k, v), torch.tensor([[7.0, 2.0]]))


def test_scaled_dot_product_attention_with_a_mask():
    """The first query may look at the second key only, the second query at nothing."""
    q, k, v = torch.ones(2, 3), torch.ones(2, 3), torch.tensor([[1.0], [5.0]])
    mask = torch.tensor([[False, True], [False, False]])
    assert_close(scaled_dot_product_attention(q, k, v, mask), torch.tensor([[5.0], [0.0]]))


def test_causal_mask_looks_back():
    """Query i sees the keys 0 … i."""
    expected = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
    assert_close(causal_mask(3, 3), expected)


def test_causal_mask_with_cached_keys_and_a_window():
    """Two new queries at the positions 2 and 3, each seeing itself and the position before."""
    expected = torch.tensor([[False, True, True, False], [False, False, True, True]])
    assert_close(causal_mask(2, 4, offset=2, window=2), expected)


def test_padding_mask_on_both_sides():
    """Two tokens of three, then one of three."""
    lengths = torch.tensor([2, 1])
    right = torch.tensor([[[[True, True, False]]], [[[True, False, False]]]])
    left = torch.tensor([[[[False, True, True]]], [[[False, False, True]]]])
    assert_close(padding_mask(lengths, 3), right)
    assert_close(padding_mask(lengths, 3, left=True), left)


def test_padding_mask_refuses_long_sequences():
    """A sequence of 4 tokens does not fit into 3."""
    with pytest.raises(ValueError):
        padding_mask(torch.tensor([2, 4]), 3)


def test_MultiHeadAttention_equals_torchs():
    """With the weights of nn.MultiheadAttention, the result is its own. (Its masks say True where one may NOT look.)"""
    theirs, ours = nn.MultiheadAttention(12, 3, batch_first=True), MultiHeadAttention(12, 3)
    ours.load_state_dict(theirs.state_dict())
    x, mask = torch.randn(2, 5, 12), torch.ones(5, 5, dtype=torch.bool).tril()
    assert_close(ours(x, x, x, mask), theirs(x, x, x, attn_mask=~mask)[0], rtol=1e-4, atol=1e-5)


def test_MultiHeadAttention_heads_must_fit():
    """12 features can't be shared by 5 heads."""
    with pytest.raises(ValueError):
        MultiHeadAttention(12, 5)


def test_sinusoidal_positions_take_turns():
    """With d = 4 and base 100, the angles of position 2 are 2 and 2/10."""
    expected = torch.tensor([[0.0, 1.0, 0.0, 1.0], [math.sin(2), math.cos(2), math.sin(0.2), math.cos(0.2)]])
    assert_close(sinusoidal_positions(torch.tensor([0, 2]), 4, base=100.0), expected)


def test_apply_rope_turns_neighbours():
    """At position 3, (1, 0) turns by an angle of 3, and (0, 1), the second pair, by 3/10 (base 100)."""
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    expected = torch.tensor([[math.cos(3), math.sin(3), -math.sin(0.3), math.cos(0.3)]])
    assert_close(apply_rope(x, torch.tensor([3]), base=100.0), expected)


def test_apply_rope_is_relative():
    """The product of q at 7 and k at 4 is that of q at 103 and k at 100, but not that of q and k both at 7."""
    q, k = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double(), torch.tensor([[2.0, 1.0, 0.0, 3.0]]).double()
    near, far, other = (
        (apply_rope(q, torch.tensor([a])) * apply_rope(k, torch.tensor([b]))).sum() for a, b in [(7, 4), (103, 100), (7, 7)]
    )
    assert_close(near, far)
    assert abs(near - other) > 1


def test_GroupedQueryAttention_shares_neighbouring_heads():
    """Four query heads of one feature, two key heads: the values 10 and 20 each go to two neighbours."""
    model = GroupedQueryAttention(4, 4, 2)
    first = torch.zeros(4, 4)
    first[:, 0] = 1.0
    values = torch.tensor([[10.0, 0.0, 0.0, 0.0], [20.0, 0.0, 0.0, 0.0]])
    weights = {"q_proj.weight": first, "k_proj.weight": first[:2], "v_proj.weight": values, "out_proj.weight": torch.eye(4)}
    model.load_state_dict(weights)
    x = torch.tensor([[[1.0, 7.0, 7.0, 7.0]]])  # one token, which can only look at itself
    assert_close(model(x), torch.tensor([[[10.0, 10.0, 20.0, 20.0]]]))


def test_KVCache_returns_all_tokens_so_far():
    """Two tokens, then one: the second answer has all three."""
    cache = KVCache(batch_size=1, num_heads=1, max_length=4, head_dim=1)
    k = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1)
    cache.append(k[:, :, :2], -k[:, :, :2])
    keys, values = cache.append(k[:, :, 2:], -k[:, :, 2:])
    assert_close(keys, k)
    assert_close(values, -k)
    assert cache.length == 3


def test_KVCache_truncates():
    """After truncate(1), the next token is the second one."""
    cache = KVCache(batch_size=1, num_heads=1, max_length=2, head_dim=1)
    k = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1)
    cache.append(k, k)
    cache.truncate(1)
    keys, _ = cache.append(k[:, :, 1:] * 5, k[:, :, 1:])
    assert keys.flatten().tolist() == [1.0, 10.0]
    with pytest.raises(ValueError):
        cache.append(k[:, :, 1:], k[:, :, 1:])


def test_blockwise_attention_in_any_blocks():
    """Three equal scores: the mean of the values, in blocks of 1, 2 (and a rest of 1) and 7."""
    q, k, v = torch.ones(1, 2), torch.ones(3, 2), torch.tensor([[1.0], [2.0], [6.0]])
    for block_size in (1, 2, 7):
        assert_close(blockwise_attention(q, k, v, block_size), torch.tensor([[3.0]]))


def test_blockwise_attention_hides_keys():
    """With the first two keys hidden and nothing ahead visible, the first two queries see nothing."""
    q, k, v = torch.ones(4, 2), torch.ones(4, 2), torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    key_mask = torch.tensor([False, False, True, True])
    y = blockwise_attention(q, k, v, 2, key_mask=key_mask, causal=True)
    assert_close(y, torch.tensor([[0.0], [0.0], [4.0], [6.0]]))


def test_TransformerBlock_equals_torchs_layer():
    """The weights of a pre-norm nn.TransformerEncoderLayer, under our names, give what that layer gives with a causal mask."""
    theirs = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    names = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "up.", "linear2.": "down."}
    weights = {}
    for name, value in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name] = value
    ours = TransformerBlock(8, 2)
    ours.load_state_dict(weights)
    x, future = torch.randn(2, 5, 8), torch.ones(5, 5, dtype=torch.bool).triu(1)
    assert_close(ours(x), theirs(x, src_mask=future), rtol=1e-4, atol=1e-5)


def test_sample_next_takes_the_largest_at_temperature_zero():
    """The first of the equals wins."""
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0], [2.0, 0.0, 1.0, -1.0]])
    assert sample_next(logits, temperature=0).tolist() == [1, 0]


def test_sample_next_keeps_the_token_that_reaches_top_p():
    """Of 0.5, 0.3 and 0.2, a top_p of 0.6 keeps the first two, and only those."""
    logits = torch.tensor([0.3, 0.2, 0.5]).log().repeat(1000, 1)
    tokens = sample_next(logits, top_p=0.6, generator=torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == {0, 2}
    assert set(sample_next(logits, top_k=1).tolist()) == {2}


def test_bpe_merges_takes_the_most_frequent_pair():
    """(a, b) occurs 5 times; then (256, c), 3 times, is ahead of (b, d), twice."""
    a, b, c, d = b"abcd"
    assert bpe_merges({b"abc": 3, b"ab": 2, b"bd": 2}, 3) == [(a, b), (256, c), (b, d)]


def test_bpe_merges_counts_places_and_breaks_ties():
    """(a, a) stands at three places of "aaaa", more than (x, y) has. Among equals, the pair that is first in order wins."""
    a, x, y = b"axy"
    assert bpe_merges({b"aaaa": 1, b"xy": 2}, 9) == [(a, a), (x, y), (256, 256)]
    assert bpe_merges({b"ya": 1, b"xy": 1, b"xa": 1}, 2) == [(x, a), (x, y)]


def test_bpe_encode_takes_the_lowest_rank():
    """(b, c) comes before (a, b), though it stands behind it; (a, a) is merged from left to right."""
    a, b, c = b"abc"
    merges = [(b, c), (a, b), (a, a)]
    assert_close(bpe_encode(b"abc", merges), torch.tensor([a, 256]))
    assert_close(bpe_encode(b"aaab", merges), torch.tensor([258, 257]))
    assert_close(bpe_encode(b"", merges), torch.tensor([], dtype=torch.int64))


def constant_experts(k):
    """A router of one feature that prefers expert 0 for positive tokens and 1 for negative ones, and experts that give 8 and 16."""
    model = MixtureOfExperts(1, 1, 2, k, capacity=2)
    weights = {name: torch.zeros_like(p) for name, p in model.state_dict().items()}
    weights |= {"router.weight": torch.tensor([[math.log(3)], [0.0]])}
    weights |= {"experts.0.2.bias": torch.tensor([8.0]), "experts.1.2.bias": torch.tensor([16.0])}
    model.load_state_dict(weights)
    return model


def test_MixtureOfExperts_drops_what_is_too_much():
    """The chosen expert has p = 3/4. Expert 0 has room for two of the three tokens that choose it."""
    x = torch.tensor([[1.0], [-1.0], [1.0], [1.0]])
    assert_close(constant_experts(1)(x), torch.tensor([[6.0], [12.0], [6.0], [0.0]]))


def test_MixtureOfExperts_serves_first_choices_first():
    """With k = 2, every token chooses both. Expert 1 takes its two first choices, so the second choice of token 0 is dropped."""
    y = constant_experts(2)(torch.tensor([[1.0], [-1.0], [-1.0]]))
    assert_close(y, torch.tensor([[6.0], [12.0 + 2.0], [12.0]]))


def test_load_balancing_loss_of_a_balanced_router():
    """Each of two experts is chosen once: 1. With both tokens at expert 0, and P = (3/4, 1/4): 2 · 3/4."""
    x = math.log(3)
    assert_close(load_balancing_loss(torch.tensor([[x, 0.0], [0.0, x]])), torch.tensor(1.0))
    assert_close(load_balancing_loss(torch.tensor([[x, 0.0], [x, 0.0]])), torch.tensor(1.5))


def test_load_balancing_loss_leaves_out_padding():
    """The second row is no token."""
    logits = torch.tensor([[math.log(3), 0.0], [math.nan, 5.0]])
    assert_close(load_balancing_loss(logits, mask=torch.tensor([True, False])), torch.tensor(1.5))


@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_backward_gives_autograds_numbers(causal):
    """The gradients of softmax(s) v, in tiles of 2 × 3."""
    q, k, v = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    dy = torch.randn(5, 4, dtype=torch.float64)
    s = q @ k.mT / 2
    if causal:
        s = s.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf)
    y = s.softmax(-1) @ v
    y.backward(dy)
    kept = [x.detach() for x in (q, k, v, y, s.logsumexp(-1))]
    got = flash_attention_backward(*kept, dy, query_block=2, key_block=3, causal=causal)
    assert_close(got, (q.grad, k.grad, v.grad))


def test_TinyGPT_gives_logits_for_each_position():
    """One row of scores for each token, and one weight for both ends."""
    model = TinyGPT(vocab_size=7, context=5, d_model=8, num_heads=2, num_layers=1)
    assert model(torch.tensor([[1, 2, 3], [4, 5, 6]])).shape == (2, 3, 7)
    assert model.head.weight is model.tokens.weight
    with pytest.raises(ValueError):
        model(torch.zeros(1, 6, dtype=torch.int64))


def test_TinyGPT_learns_a_pattern():
    """After a repeated pattern, it knows what comes next."""
    torch.set_num_threads(1)  # tiny matrices are slower on several
    torch.manual_seed(0)
    model = TinyGPT(vocab_size=7, context=24, d_model=32, num_heads=4, num_layers=2)
    pattern = torch.tensor([1, 5, 2, 2, 6, 3, 0])
    text = pattern.repeat(500)
    model.fit(text)
    assert model(text[None, :20])[0, -1].argmax() == text[20]
