"""Hidden suite of the module attention."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def loaded(model, state):
    """The model in float64 if the state is, with the given weights in it."""
    model = model.to(next(iter(state.values())).dtype)
    model.load_state_dict(state)
    return model


def gradients(model):
    """The gradient of each parameter, by name."""
    return {name: p.grad for name, p in model.named_parameters()}


def parameters(model):
    """The shape of each parameter and whether it is trained, and the names in the state_dict."""
    named = {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)}
    return dict(sorted(named.items())), sorted(model.state_dict())


def changing(model, states, call):
    """What a model gives with one state, with another, and after an update of all its weights in place, in train mode and in eval mode.

    Also whether its parameters and modes are the same as ever.
    """
    before, answers = dict(model.named_parameters()), []
    model.eval()
    with torch.no_grad():
        for state in states:
            model.load_state_dict(state)
            answers.append(call(model))
        for p in model.parameters():
            p.mul_(1.25)
        for training in (True, False):
            answers.append(call(model.train(training)))
    same = all(p is before.get(name) for name, p in model.named_parameters()) and not any(part.training for part in model.modules())
    return answers, "the same parameters and modes" if same else "other parameters or modes"


class Largest(TorchDispatchMode):
    """Notes how many entries the largest tensor has that any operation makes (views count as what they are views of)."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


# Helpers of the trusted side


def weights(draw, shapes, dtype=torch.float32):
    """Random weights of these shapes, of a size that keeps outputs around 1."""
    return {name: draw.normal(*shape, dtype=dtype) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


def some_keys(draw, *shape):
    """A random mask in which every query may look at a key or more, and is kept from one or more."""
    mask = draw.bools(*shape)
    rank = draw.normal(*shape).argsort(-1)
    return (mask | (rank == 0)) & (rank != 1)


def check_close(got, want, tolerance, what):
    """Assert that a tensor has the shape, dtype and values that it should have."""
    assert isinstance(got, torch.Tensor), f"{what} must be a tensor."
    assert got.shape == want.shape, f"{what} must have the shape {tuple(want.shape)}, not {tuple(got.shape)}."
    assert got.dtype == want.dtype, f"{what} must be {want.dtype}, not {got.dtype}."
    error = (got - want).abs().max().item()
    assert error <= tolerance, f"{what} differs by up to {error:.3g}."


def check_start(x, name, bound):
    """Assert that start values are uniform in ±bound, and drawn one by one."""
    x = x / bound
    assert x.abs().max() <= 1 + 1e-5, f"{name} must start within ±{bound:.4f}; it goes up to {x.abs().max() * bound:.4f}."
    # Uniform in ±1: the mean of n squares has the deviation √(4 / 45 n), 0.005 for n = 3,600, the fewest.
    uniform = x.mean().abs() < 0.07 and (x.square().mean() - 1 / 3).abs() < 0.035
    assert uniform, f"{name} must start uniform in ±{bound:.4f}; its mean square is {x.square().mean() * bound**2:.4g}."
    check_drawn_singly(x, name)


def check_drawn_singly(x, name):
    """Assert that the entries were drawn one by one: of 100,000 in float32, some 1 % are equal by chance."""
    share = x.abs().unique().numel() / x.numel()
    assert share > 0.9, f"{name} must start with numbers that are drawn one by one; only {share:.0%} of them differ in size."


def exact_scores(draw, *shape):
    """Whole numbers up to 50 in size: their dot products in 16 dimensions, halved twice, are exact in float32."""
    return draw.integers(-50, 51, *shape, 16).float()


def huge_scores(draw):
    """5 queries and 11 keys: one query has scores of 10,000 and -10,000, one has nothing above -100, one has only zeros."""
    q, k = exact_scores(draw, 5), exact_scores(draw, 11)
    k[:, :8] = k[:, :8].abs().clamp(min=1)
    k[0, 8:], k[1, 8:] = 50.0, -50.0
    q[0], q[1], q[2] = 0.0, 0.0, 0.0
    q[0, 8:], q[2, :8] = 100.0, -50.0
    return q, k


def low_scores(draw):
    """5 queries and 11 keys with scores of about -10,000, and a mask that hides 3 of the keys: 2 with scores of about 10,000."""
    q, k = draw.integers(-2, 3, 5, 4).float(), draw.integers(-2, 3, 11, 4).float()
    hidden = draw.permutation(11)[:3]
    q[:, 0], k[:, 0] = -200.0, 100.0
    k[hidden[:2], 0] = -100.0
    return q, k, torch.ones(11, dtype=torch.bool).index_fill(0, hidden, False)


@task("scaled_dot_product_attention")
class TestScaledDotProductAttention:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_values(self, agree, draw, dtype, tolerance):
        """Without a mask, every query mixes all values, with the scale 1/√D, in the precision of the inputs."""
        q, k, v = draw.normal(2, 3, 5, 7, dtype=dtype), draw.normal(2, 3, 11, 7, dtype=dtype), draw.normal(2, 3, 11, 13, dtype=dtype)
        agree(lambda m: m.scaled_dot_product_attention(q, k, v), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(
        "shape", [(2, 3, 5, 11), (3, 5, 11), (5, 11), (2, 1, 1, 11), (11,)], ids=["full", "heads", "square", "padding", "keys"]
    )
    def test_masks_broadcast(self, agree, draw, shape):
        """True lets a query look at a key, and a mask of fewer dimensions, or with ones, holds for all."""
        q, k, v = draw.normal(2, 3, 5, 7), draw.normal(2, 3, 11, 7), draw.normal(2, 3, 11, 13)
        mask = some_keys(draw, *shape)
        agree(lambda m: m.scaled_dot_product_attention(q, k, v, mask), rtol=1e-5, atol=1e-5)

    def test_fully_masked_rows_are_zero(self, agree, draw):
        """A query that may look at nothing gets 0, be it one or all of them; the other rows are as ever."""
        q, k, v = draw.normal(2, 5, 7), draw.normal(2, 11, 7), draw.normal(2, 11, 13) + 1
        mask, queries = some_keys(draw, 2, 5, 11), some_keys(draw, 5)[:, None]
        mask[0, 3] = mask[1, 0] = mask[1, 4] = False
        masks = [mask, queries, torch.zeros(5, 11, dtype=torch.bool)]
        agree(lambda m: [m.scaled_dot_product_attention(q, k, v, each) for each in masks], rtol=1e-5, atol=1e-5)

    def test_gradients_are_finite(self, agree, draw):
        """The gradients of q, k and v are right, and a query that may look at nothing gets and adds 0."""
        q, k, v = draw.normal(2, 5, 7, dtype=F64), draw.normal(2, 11, 7, dtype=F64), draw.normal(2, 11, 3, dtype=F64)
        w, mask = draw.normal(2, 5, 3, dtype=F64), some_keys(draw, 2, 5, 11)
        mask[0, 3] = mask[1, 0] = False

        def probe(m):
            inputs = [leaf(x) for x in (q, k, v)]
            y = m.scaled_dot_product_attention(*inputs, mask)
            (y * w).sum().backward()
            return [y.detach(), *(x.grad for x in inputs)]

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("masked", [False, True])
    def test_huge_scores(self, agree, draw, masked):
        """Scores up to ±1e4 neither overflow nor make other rows underflow, with a mask and without."""
        (q, k), v = huge_scores(draw), draw.normal(11, 13)
        mask = some_keys(draw, 5, 11) if masked else None
        agree(lambda m: m.scaled_dot_product_attention(q, k, v, mask), rtol=1e-3, atol=1e-3)

    def test_low_scores(self, agree, draw):
        """Keys with scores of −1e4 keep their weights, whatever stands at hidden keys."""
        (q, k, mask), v = low_scores(draw), draw.normal(11, 13)
        agree(lambda m: m.scaled_dot_product_attention(q, k, v, mask), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)], ids=["float16", "bfloat16"])
    def test_half_precision(self, agree, draw, dtype, rtol):
        """16-bit inputs are computed in float32: products beyond 65504 are fine, and only the result is rounded."""
        q, k, mask = exact_scores(draw, 5), exact_scores(draw, 11), some_keys(draw, 11)
        q[0], k[0], q[1] = 128.0, 64.0, 0.0  # their product is 131,072; the zeros give equal weights
        v = draw.normal(11, 13).to(dtype)
        q, k = q.to(dtype), k.to(dtype)
        agree(
            lambda m: [m.scaled_dot_product_attention(q, k, v, each) for each in (None, mask)], rtol=rtol, atol=1e-5
        )  # rtol: the last digit may be rounded either way

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)], ids=["float16", "bfloat16"])
    def test_weights_are_not_rounded(self, agree, draw, dtype, rtol):
        """With 16-bit values that nearly cancel each other, what is left shows that the weights were in float32."""
        q, k, v = draw.normal(7, 1, 4).to(dtype), draw.normal(7, 11, 4).to(dtype), draw.normal(7, 11, 13, dtype=F64)
        k[:, -1:] = q  # a score above 0: the last key has some weight
        w = (q.double() @ k.double().mT / 2).softmax(-1)
        v[:, -1:] -= w @ v / w[..., -1:]
        v = v.to(dtype)
        agree(lambda m: m.scaled_dot_product_attention(q, k, v), rtol=rtol, atol=1e-5)

    @pytest.mark.parametrize("batch", [(), (2,), (2, 1, 3, 2)], ids=["none", "one", "four"])
    def test_leading_dimensions(self, agree, draw, batch):
        """Any number of leading dimensions, also none, and any number of queries and keys."""
        Tq, Tk = (5, 11) if batch else (139, 301)
        q, k, v = draw.normal(*batch, Tq, 7), draw.normal(*batch, Tk, 7), draw.normal(*batch, Tk, 13)
        agree(lambda m: m.scaled_dot_product_attention(q, k, v), rtol=1e-5, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """Batch, queries, keys and features may be 1, and the result keeps all its dimensions."""
        inputs = [
            (draw.normal(B, Tq, D), draw.normal(B, Tk, D), draw.normal(B, Tk, E), draw.bools(Tq, Tk, p=0.7))
            for B, Tq, Tk, D, E in with_ones(2, 5, 11, 7, 13)
        ]
        agree(lambda m: [m.scaled_dot_product_attention(*each) for each in inputs], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Queries, keys, values and the mask may lie in memory in any way."""
        q, k = draw.normal(3, 2, 5, 7, layout=layout), draw.normal(3, 2, 11, 7, layout=layout)
        v, mask = draw.normal(3, 2, 11, 13, layout=layout), draw.bools(3, 2, 5, 11, layout=layout)
        agree(lambda m: m.scaled_dot_product_attention(q, k, v, mask), rtol=1e-5, atol=1e-5)


@task("causal_mask")
class TestCausalMask:
    def test_square(self, agree, draw):
        """Without offset, query i may look at the keys 0 … i."""
        T = draw.integer(5, 12)
        agree(lambda m: m.causal_mask(T, T), rtol=0, atol=0)

    def test_offset_of_cached_keys(self, agree, draw):
        """New queries behind n cached keys may look at all of these, and at the new keys up to their own."""
        n, T = draw.integer(3, 9), draw.integer(3, 9)
        agree(lambda m: m.causal_mask(T, n + T, offset=n), rtol=0, atol=0)

    @pytest.mark.parametrize(("num_queries", "num_keys"), [(3, 11), (11, 3), (131, 300)])
    def test_keys_start_at_position_zero(self, agree, draw, num_queries, num_keys):
        """Offset and key count are independent: the mask isn't aligned at the last key."""
        offset, far, T = draw.integer(1, 5), draw.integer(5, 40), draw.integer(2, 40)

        def probe(m):
            masks = [m.causal_mask(num_queries, num_keys, offset=n) for n in (0, offset)]
            return masks, m.causal_mask(T, 50, offset=far)

        agree(probe, rtol=0, atol=0)

    def test_window(self, agree, draw):
        """A window of W holds W positions, the query's own included."""
        n = draw.integer(0, 60)
        agree(lambda m: [m.causal_mask(7, 7 + n, offset=n, window=window) for window in (1, 2, 3, 7, 50, 300)], rtol=0, atol=0)

    def test_window_behind_the_keys(self, agree, draw):
        """The window lies at the query's position, so that it may hold no key."""
        window, T = draw.integer(2, 5), draw.integer(11, 60)
        agree(lambda m: [m.causal_mask(n, 5, offset=2, window=window) for n in (11, T)], rtol=0, atol=0)

    def test_nothing_to_mask(self, agree, draw):
        """No queries or no keys give an empty mask, one of each gives a single entry."""
        T = draw.integer(2, 99)
        agree(lambda m: [m.causal_mask(a, b) for a, b in [(0, T), (T, 0), (0, 0), (1, 1)]], rtol=0, atol=0)

    def test_device(self, agree, draw):
        """The mask is made on the given device: the meta device stands for a second one."""
        T = draw.integer(2, 99)

        def probe(m):
            return m.causal_mask(T, T + 1, offset=1, window=2, device="meta"), m.causal_mask(T, T + 1, device=torch.device("cpu"))

        agree(probe, rtol=0, atol=0)

    def test_wrong_numbers_are_refused(self, agree, draw):
        """A negative offset, or a window below 1, is a ValueError."""
        T = draw.integer(2, 99)

        def probe(m):
            return [
                raised(ValueError, lambda: m.causal_mask(T, T, offset=-1)),
                raised(ValueError, lambda: m.causal_mask(T, T, window=0)),
                raised(ValueError, lambda: m.causal_mask(T, T, offset=3, window=-2)),
                m.causal_mask(T, T, offset=0, window=1),
            ]

        agree(probe, rtol=0, atol=0)


@task("padding_mask")
class TestPaddingMask:
    @pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
    def test_tokens_and_padding(self, agree, draw, left):
        """True on each sequence's tokens, at the side away from the padding."""
        lengths = draw.integers(1, 9, 7)
        agree(lambda m: m.padding_mask(lengths, 11, left=left), rtol=0, atol=0)

    @pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
    def test_default_length(self, agree, draw, left):
        """Without max_length, the longest sequence has no padding."""
        lengths = draw.integers(1, 9, 5)
        agree(lambda m: m.padding_mask(lengths, left=left), rtol=0, atol=0)

    def test_empty_and_full_sequences(self, agree, draw):
        """A sequence of length 0 is all padding, one of max_length has none."""
        lengths = torch.tensor([0, 7, 3, 0, 7, 1])[draw.permutation(6)]
        agree(lambda m: [m.padding_mask(lengths, 7), m.padding_mask(lengths, 7, left=True)], rtol=0, atol=0)

    def test_no_tokens_at_all(self, agree, draw):
        """T may be 0, given or found: all lengths are 0, or there are none."""
        some = draw.integers(0, 5, 3)
        none, zeros = some[:0], some * 0

        def probe(m):
            empty = [
                m.padding_mask(zeros),
                m.padding_mask(zeros, 0),
                m.padding_mask(none),
                m.padding_mask(none, 4),
                m.padding_mask(none, 0),
            ]
            return empty, m.padding_mask(some, 5)

        agree(probe, rtol=0, atol=0)

    def test_sizes_of_one(self, agree, draw):
        """One sequence, or one token, leaves all four dimensions."""
        n, few = draw.integers(0, 5, 1), draw.integers(0, 2, 9)
        agree(lambda m: [m.padding_mask(n, 5), m.padding_mask(few, 1), m.padding_mask(few, 1, left=True)], rtol=0, atol=0)

    @pytest.mark.parametrize("layout", ["sliced", "expanded"])
    def test_long_sequences(self, agree, draw, layout):
        """Sequences may have hundreds of tokens, and the lengths any layout."""
        lengths = draw.integers(100, 300, 5, layout=layout)
        agree(lambda m: [m.padding_mask(lengths, 300, left=True), m.padding_mask(lengths)], rtol=0, atol=0)

    def test_int32_lengths(self, agree, draw):
        """Lengths may be int32."""
        lengths = draw.integers(0, 9, 5).to(torch.int32)
        agree(lambda m: [m.padding_mask(lengths), m.padding_mask(lengths, 9, left=True)], rtol=0, atol=0)

    def test_hides_padding_from_attention(self, agree, draw):
        """As it is, the mask fits scores of (B, heads, Tq, T), and what stands in the padding changes nothing."""
        lengths = draw.integers(1, 6, 5)
        q, k, v = draw.normal(5, 2, 3, 4), draw.normal(5, 2, 7, 4), draw.normal(5, 2, 7, 4)
        agree(lambda m: F.scaled_dot_product_attention(q, k, v, attn_mask=m.padding_mask(lengths, 7)), rtol=1e-4, atol=1e-5)

    def test_combines_with_a_causal_mask(self, agree, draw):
        """`&` with a mask of (T, T) gives one mask for each sequence."""
        lengths, causal = draw.integers(1, 6, 5), torch.ones(7, 7, dtype=torch.bool).tril()
        agree(lambda m: m.padding_mask(lengths, 7, left=True) & causal, rtol=0, atol=0)

    def test_impossible_lengths_are_refused(self, agree, draw):
        """A length below 0 or above max_length is a ValueError, also if max_length is 0."""
        lengths = draw.integers(1, 5, 3)
        long, negative = lengths.clone(), lengths.clone()
        long[1], negative[2] = 6, -1

        def probe(m):
            return [
                raised(ValueError, lambda: m.padding_mask(long, 5)),
                raised(ValueError, lambda: m.padding_mask(negative, 5)),
                raised(ValueError, lambda: m.padding_mask(negative)),
                raised(ValueError, lambda: m.padding_mask(lengths, 0)),
                m.padding_mask(long, 6),
            ]

        agree(probe, rtol=0, atol=0)


def mha_shapes(d):
    """The parameters of the statement."""
    return {"in_proj_weight": (3 * d, d), "in_proj_bias": (3 * d,), "out_proj.weight": (d, d), "out_proj.bias": (d,)}


@task("MultiHeadAttention")
class TestMultiHeadAttention:
    @pytest.mark.parametrize("heads", [1, 2, 3, 12])
    def test_self_attention(self, agree, draw, heads):
        """With given weights the numbers are right, for any number of heads."""
        state, x = weights(draw, mha_shapes(12)), draw.normal(2, 5, 12)
        agree(lambda m: loaded(m.MultiHeadAttention(12, heads), state)(x, x, x), rtol=1e-5, atol=1e-5)

    def test_query_key_and_value_differ(self, agree, draw):
        """Query, key and value go through their own rows of in_proj_weight; there may be more keys than queries."""
        state = weights(draw, mha_shapes(12))
        query, key, value = draw.normal(2, 5, 12), draw.normal(2, 7, 12), draw.normal(2, 7, 12)
        agree(lambda m: loaded(m.MultiHeadAttention(12, 3), state)(query, key, value), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 1, 1, 7), (2, 3, 5, 7)], ids=["all", "heads", "padding", "each head"])
    def test_masks_broadcast(self, agree, draw, shape):
        """A mask holds for all sequences and heads, for each head, or for each sequence."""
        state, mask = weights(draw, mha_shapes(12)), some_keys(draw, *shape)
        x, context = draw.normal(2, 5, 12), draw.normal(2, 7, 12)
        agree(lambda m: loaded(m.MultiHeadAttention(12, 3), state)(x, context, context, mask), rtol=1e-5, atol=1e-5)

    def test_a_mask_of_three_dimensions_is_for_the_heads(self, agree, draw):
        """As masks broadcast, (H, Tq, Tk) belongs to the heads, where there are as many sequences as heads, too."""
        state, mask, x = weights(draw, mha_shapes(12)), some_keys(draw, 3, 5, 5), draw.normal(3, 5, 12)
        agree(lambda m: loaded(m.MultiHeadAttention(12, 3), state)(x, x, x, mask), rtol=1e-5, atol=1e-5)

    def test_fully_masked_queries(self, agree, draw):
        """A query that may look at nothing gets the bias of out_proj; all gradients are finite."""
        state, mask = weights(draw, mha_shapes(12)), some_keys(draw, 2, 1, 5, 7)
        mask[0, :, 2] = mask[1, :, 4] = False
        x, context, w, nothing = draw.normal(2, 5, 12), draw.normal(2, 7, 12), draw.normal(2, 5, 12), torch.zeros(5, 7, dtype=torch.bool)

        def probe(m):
            model, inputs = loaded(m.MultiHeadAttention(12, 3), state), [leaf(x), leaf(context)]
            y = model(inputs[0], inputs[1], inputs[1], mask)
            (y * w).sum().backward()
            return y.detach(), [i.grad for i in inputs], gradients(model), model(x, context, context, nothing).detach()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_numbers_of_torch(self, student, draw):
        """With the weights of an nn.MultiheadAttention, and a causal mask, the numbers are its own."""
        theirs = nn.MultiheadAttention(15, 3, batch_first=True)
        state = weights(draw, mha_shapes(15))
        theirs.load_state_dict(state)
        x, context = draw.normal(2, 7, 15), draw.normal(2, 7, 15)
        mask = torch.ones(7, 7, dtype=torch.bool).tril()
        with torch.no_grad():
            want = theirs(x, context, context, attn_mask=~mask, need_weights=False)[0]
        got = student(lambda m: loaded(m.MultiHeadAttention(15, 3), state)(x, context, context, mask))
        check_close(got, want, 1e-4, "With the weights of an nn.MultiheadAttention, the result")

    def test_gradients_of_all_parameters(self, agree, draw):
        """Every parameter gets its gradient."""
        state, x, w = weights(draw, mha_shapes(12)), draw.normal(2, 5, 12), draw.normal(2, 5, 12)

        def probe(m):
            model = loaded(m.MultiHeadAttention(12, 4), state)
            y = model(x, x, x)
            (y * w).sum().backward()
            return y.detach(), gradients(model)

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """The parameters have the names and shapes of the statement, all of them are trained, and the state_dict holds nothing else."""
        d = 4 * draw.integer(2, 60)
        agree(lambda m: parameters(m.MultiHeadAttention(d, 4)), rtol=0, atol=0)

    def test_start_values(self, student, draw):
        """The weights start uniform in the stated bounds, other ones in each module, the biases at 0."""
        seed, d = draw.seed(), 5 * draw.integer(12, 40)

        def probe(m):
            torch.manual_seed(seed)
            return [{name: p.detach() for name, p in m.MultiHeadAttention(d, 5).named_parameters()} for _ in range(2)]

        start, other = student(probe)
        assert isinstance(start, dict) and start.keys() == mha_shapes(d).keys(), "The parameters must be named as stated."
        for name, shape in mha_shapes(d).items():
            assert tuple(start[name].shape) == tuple(shape), f"{name} must be {tuple(shape)}; it is {tuple(start[name].shape)}."
        assert not start["in_proj_bias"].any() and not start["out_proj.bias"].any(), "Both biases must start at 0."
        check_start(start["in_proj_weight"], "in_proj_weight", math.sqrt(6 / (4 * d)))
        check_start(start["out_proj.weight"], "out_proj.weight", 1 / math.sqrt(d))
        for name in ("in_proj_weight", "out_proj.weight"):
            check_drawn_singly(torch.stack([start[name], other[name]]), f"In two modules, {name}")

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, and the parameters stay the same objects."""
        states, x = [weights(draw, mha_shapes(12)) for _ in range(2)], draw.normal(2, 5, 12)
        agree(lambda m: changing(m.MultiHeadAttention(12, 3), states, lambda model: model(x, x, x)), rtol=1e-4, atol=1e-4)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sequence, one query or one key, and the result keeps its three dimensions."""
        state = weights(draw, mha_shapes(6))
        inputs = [(draw.normal(B, Tq, 6), draw.normal(B, Tk, 6), draw.normal(B, Tk, 6)) for B, Tq, Tk in with_ones(2, 5, 7)]

        def probe(m):
            model = loaded(m.MultiHeadAttention(6, 3), state)
            return [model(*each) for each in inputs], loaded(m.MultiHeadAttention(6, 6), state)(*inputs[0])

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Query, key, value and mask may lie in memory in any way, and be long."""
        state, query = weights(draw, mha_shapes(12)), draw.normal(2, 131, 12, layout=layout)
        key, value = draw.normal(2, 7, 12, layout=layout), draw.normal(2, 7, 12, layout=layout)
        mask = draw.bools(2, 3, 131, 7, layout=layout)
        agree(lambda m: loaded(m.MultiHeadAttention(12, 3), state)(query, key, value, mask), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """With float64 parameters, the result is float64."""
        state, x, context = weights(draw, mha_shapes(12), F64), draw.normal(2, 5, 12, dtype=F64), draw.normal(2, 7, 12, dtype=F64)
        mask = some_keys(draw, 5, 7)
        agree(lambda m: loaded(m.MultiHeadAttention(12, 3), state)(x, context, context, mask), rtol=1e-5, atol=1e-5)

    def test_heads_must_fit(self, agree, draw):
        """A number of heads that does not divide d_model is a ValueError."""
        state, x = weights(draw, mha_shapes(6)), draw.normal(2, 5, 6)

        def probe(m):
            wrong = [raised(ValueError, lambda n=n: m.MultiHeadAttention(6, n)) for n in (4, 5, 12)]
            return wrong, loaded(m.MultiHeadAttention(6, 3), state)(x, x, x)

        agree(probe, rtol=1e-3, atol=1e-3)


@task("sinusoidal_positions")
class TestSinusoidalPositions:
    @pytest.mark.parametrize("d_model", [2, 6, 16, 134])
    def test_values(self, agree, draw, d_model):
        """Sines and cosines take turns, and each pair has its own wavelength."""
        positions = draw.permutation(41)[:13]
        agree(lambda m: m.sinusoidal_positions(positions, d_model), rtol=0, atol=1e-5)

    def test_first_position(self, agree, draw):
        """Position 0 is 0, 1, 0, 1, …; positions count from 0."""
        positions = torch.tensor([0, draw.integer(1, 99)])
        agree(lambda m: m.sinusoidal_positions(positions, 10), rtol=0, atol=1e-5)

    def test_base(self, agree, draw):
        """Another base gives other wavelengths."""
        positions, base = draw.integers(0, 50, 11), float(draw.integer(20, 900))
        agree(lambda m: m.sinusoidal_positions(positions, 14, base=base), rtol=0, atol=1e-5)

    def test_large_positions(self, agree, draw):
        """Positions up to a million are as precise as small ones."""
        positions = draw.integers(100_000, 1_000_001, 17)
        positions[3] = 1_000_000
        agree(lambda m: m.sinusoidal_positions(positions, 10), rtol=0, atol=1e-5)

    def test_positions_of_any_shape(self, agree, draw):
        """Each position of a tensor of any shape gets a vector, a single number too."""
        positions = draw.integers(0, 100, 2, 3, 5)
        parts = [positions, positions[0, 1, 2], positions[:, :1], positions[:1, 0]]
        agree(lambda m: [m.sinusoidal_positions(part, 6) for part in parts], rtol=0, atol=1e-5)

    def test_no_positions(self, agree, draw):
        """No positions give no vectors."""
        positions = draw.integers(0, 100, 3)
        parts = [positions[:0], positions[:0, None].expand(0, 4), positions]
        agree(lambda m: [m.sinusoidal_positions(part, 6) for part in parts], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Positions may lie in memory in any way."""
        positions = draw.integers(0, 1000, 3, 5, layout=layout)
        agree(lambda m: m.sinusoidal_positions(positions, 6), rtol=0, atol=1e-5)

    def test_odd_sizes_are_refused(self, agree, draw):
        """An odd d_model is a ValueError."""
        positions, d = draw.integers(0, 50, 5), 2 * draw.integer(1, 9)

        def probe(m):
            wrong = [raised(ValueError, lambda n=n: m.sinusoidal_positions(positions, n)) for n in (1, d + 1)]
            return wrong, m.sinusoidal_positions(positions, d)

        agree(probe, rtol=0, atol=1e-3)


@task("apply_rope")
class TestApplyRope:
    @pytest.mark.parametrize("pair", [0, 2])
    def test_pairs_and_direction(self, agree, draw, pair):
        """Pair i is (x[2i], x[2i + 1]): a vector along x[2i] turns towards x[2i + 1] and nowhere else."""
        x, positions = torch.zeros(5, 8, dtype=F64), draw.permutation(9)[:5]
        x[:, 2 * pair] = 1
        agree(lambda m: m.apply_rope(x, positions), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_values(self, agree, draw, dtype, tolerance):
        """Neighbouring features turn by their angles, at many positions, in the precision of x."""
        x, positions = draw.normal(2, 3, 139, 10, dtype=dtype), draw.integers(0, 200, 139)
        agree(lambda m: m.apply_rope(x, positions), rtol=tolerance, atol=tolerance)

    def test_offset_of_cached_keys(self, agree, draw):
        """Turning a text in two pieces, the second with later positions, gives what turning it at once gives."""
        x, n = draw.normal(2, 9, 6, dtype=F64), draw.integer(2, 8)
        positions = torch.arange(9) + draw.integer(1, 50)
        pieces = [(x[:, part].clone(), positions[part]) for part in (slice(n), slice(n, 9))]
        agree(lambda m: (torch.cat([m.apply_rope(*piece) for piece in pieces], dim=1), m.apply_rope(x, positions)), rtol=1e-5, atol=1e-6)

    def test_products_depend_on_the_distance(self, student, draw):
        """The product of q at position a and k at position b is the same for all a and b of one distance, and changes with it."""
        q, k = draw.normal(1, 8, dtype=F64), draw.normal(1, 8, dtype=F64)
        q, k = q / q.norm() * 3, (k / k.norm() + q / q.norm()) * 3  # not at right angles, so that turning matters
        distance, starts = draw.integer(1, 5), [0, *draw.integers(1, 300, 4).tolist()]

        def probe(m):
            turned = [(m.apply_rope(q, torch.tensor([a + distance])), m.apply_rope(k, torch.tensor([a]))) for a in starts]
            together = [(m.apply_rope(q, torch.tensor([a])) * m.apply_rope(k, torch.tensor([a]))).sum() for a in starts]
            return torch.stack([(a * b).sum() for a, b in turned]), torch.stack([a for a, _ in turned]), torch.stack(together)

        answer = student(probe)
        right = isinstance(answer, tuple) and [getattr(part, "shape", None) for part in answer] == [(5,), (5, 1, 8), (5,)]
        assert right, "The result must have the shape of x."
        products, turned, together = answer
        off = (together - (q * k).sum()).abs().max().item()
        assert off < 1e-5, f"At one position, the product of q and k must be that of the vectors themselves; it is off by {off:.3g}."
        assert (turned - q).abs().amax(dim=(1, 2)).min() > 1e-3, "A query at a position after 0 must turn."
        norms = turned.square().sum((1, 2)).sqrt()
        assert (norms - 3).abs().max() < 1e-5, f"The vectors must keep their length: one of length 3 got {norms[-1]:.4g}."
        spread = (products.max() - products.min()).item()
        assert spread < 1e-5, f"The product of q and k at one distance must be the same everywhere; it varies by {spread:.3g}."

    def test_base(self, agree, draw):
        """Another base turns the slower pairs by other angles."""
        x, positions, base = draw.normal(7, 10, dtype=F64), draw.integers(1, 50, 7), float(draw.integer(20, 900))
        agree(lambda m: m.apply_rope(x, positions, base=base), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_large_positions(self, agree, draw, dtype, tolerance):
        """Position 100,000 is as precise as position 1."""
        x, positions = draw.normal(3, 11, 6, dtype=dtype), draw.integers(50_000, 100_001, 11)
        agree(lambda m: m.apply_rope(x, positions), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)], ids=["float16", "bfloat16"])
    def test_half_precision(self, agree, draw, dtype, rtol):
        """16-bit vectors are turned in float32 or float64, so that only the result is rounded, also at large positions."""
        x, positions = draw.uniform(37, 6, low=-1, high=1).to(dtype), draw.integers(1000, 100_001, 37)
        agree(lambda m: m.apply_rope(x, positions), rtol=rtol, atol=1e-6)  # rtol: the last digit may be rounded either way

    def test_gradient(self, agree, draw):
        """The gradient turns back."""
        x, w, positions = draw.normal(2, 5, 6, dtype=F64), draw.normal(2, 5, 6, dtype=F64), draw.integers(1, 50, 5)

        def probe(m):
            a = leaf(x)
            (m.apply_rope(a, positions) * w).sum().backward()
            return a.grad

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("shape", [(2, 1, 5), (2, 3, 5), (3, 1), (1,), ()], ids=str)
    def test_positions_broadcast(self, agree, draw, shape):
        """Positions may belong to each sequence, each head or each token, or be one for all."""
        x, positions = draw.normal(2, 3, 5, 6), draw.integers(0, 50, *shape)
        agree(lambda m: m.apply_rope(x, positions), rtol=1e-5, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """There may be no leading dimensions, one token and one pair; position 0 turns nothing."""
        inputs = [(draw.normal(B, T, D), draw.integers(0, 9, T)) for B, T, D in [(1, 5, 6), (2, 1, 6), (2, 5, 2)]]
        one, positions = draw.normal(1, 2), [torch.tensor([n]) for n in (0, draw.integer(1, 9))]
        agree(lambda m: [m.apply_rope(*each) for each in inputs] + [m.apply_rope(one, p) for p in positions], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Vectors and positions may lie in memory in any way."""
        x, positions = draw.normal(3, 2, 5, 6, layout=layout), draw.integers(0, 50, 3, 1, 5, layout=layout)
        agree(lambda m: m.apply_rope(x, positions), rtol=1e-5, atol=1e-5)

    def test_odd_sizes_are_refused(self, agree, draw):
        """An odd D is a ValueError."""
        x, wrong, positions = draw.normal(3, 6), [draw.normal(3, 7), draw.normal(3, 1)], draw.integers(1, 50, 3)

        def probe(m):
            return [raised(ValueError, lambda a=a: m.apply_rope(a, positions)) for a in wrong], m.apply_rope(x, positions)

        agree(probe, rtol=1e-3, atol=1e-4)


def gqa_shapes(d, heads, groups):
    """The parameters of the statement."""
    small = groups * (d // heads)
    return {"q_proj.weight": (d, d), "k_proj.weight": (small, d), "v_proj.weight": (small, d), "out_proj.weight": (d, d)}


@task("GroupedQueryAttention")
class TestGroupedQueryAttention:
    @pytest.mark.parametrize("groups", [1, 2, 3, 6])
    def test_values(self, agree, draw, groups):
        """Neighbouring query heads share a key head, from all of them sharing one to each having its own."""
        state, x = weights(draw, gqa_shapes(12, 6, groups)), draw.normal(2, 5, 12)
        agree(lambda m: loaded(m.GroupedQueryAttention(12, 6, groups), state)(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(5, 5), (6, 5, 5), (2, 1, 1, 5), (2, 6, 5, 5)], ids=["all", "heads", "padding", "each head"])
    def test_masks_broadcast(self, agree, draw, shape):
        """A mask holds for all sequences and heads, for each of the H query heads, or for each sequence."""
        state, x = weights(draw, gqa_shapes(12, 6, 2)), draw.normal(2, 5, 12)
        mask = some_keys(draw, *shape)
        agree(lambda m: loaded(m.GroupedQueryAttention(12, 6, 2), state)(x, mask), rtol=1e-5, atol=1e-5)

    def test_gradients_with_fully_masked_queries(self, agree, draw):
        """A query that may look at nothing gets 0, and all gradients are right and finite."""
        state, x, w = weights(draw, gqa_shapes(12, 6, 3)), draw.normal(2, 5, 12), draw.normal(2, 5, 12)
        mask, nothing = some_keys(draw, 2, 1, 5, 5), torch.zeros(5, 5, dtype=torch.bool)
        mask[0, :, 2] = mask[1, :, 4] = False

        def probe(m):
            model, a = loaded(m.GroupedQueryAttention(12, 6, 3), state), leaf(x)
            y = model(a, mask)
            (y * w).sum().backward()
            return y.detach(), a.grad, gradients(model), model(x, nothing).detach()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_numbers_of_torch(self, student, draw):
        """The numbers are those of torch's own grouped attention, under a causal mask."""
        state, x = weights(draw, gqa_shapes(16, 4, 2)), draw.normal(2, 5, 16)
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        q, k, v = ((x @ state[f"{name}_proj.weight"].mT).unflatten(-1, (-1, 4)).transpose(1, 2) for name in "qkv")
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        want = y.transpose(1, 2).flatten(-2) @ state["out_proj.weight"].mT
        got = student(lambda m: loaded(m.GroupedQueryAttention(16, 4, 2), state)(x, mask))
        check_close(got, want, 1e-4, "The result")

    @measured("flags")
    @pytest.mark.parametrize("groups", [1, 4])
    def test_parameters(self, agree, draw, groups):
        """Names and shapes are those of the statement: keys and values have fewer features, and there is no bias."""
        d = 8 * draw.integer(2, 40)
        agree(lambda m: parameters(m.GroupedQueryAttention(d, 8, groups)), rtol=0, atol=0)

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, and the parameters stay the same objects."""
        states, x = [weights(draw, gqa_shapes(12, 6, 2)) for _ in range(2)], draw.normal(2, 5, 12)
        agree(lambda m: changing(m.GroupedQueryAttention(12, 6, 2), states, lambda model: model(x)), rtol=1e-4, atol=1e-4)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sequence, one token or one head, and the result keeps its three dimensions."""
        state, x = weights(draw, gqa_shapes(6, 6, 2)), draw.normal(2, 5, 6)
        single, parts = weights(draw, gqa_shapes(6, 1, 1)), [x[:1].clone(), x[:, :1].clone(), x[:1, :1].clone()]

        def probe(m):
            model = loaded(m.GroupedQueryAttention(6, 6, 2), state)
            return [model(part) for part in parts], loaded(m.GroupedQueryAttention(6, 1, 1), single)(x)

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The sequences and the mask may lie in memory in any way, and be long."""
        state, x = weights(draw, gqa_shapes(12, 6, 2)), draw.normal(2, 67, 12, layout=layout)
        mask = draw.bools(2, 6, 67, 67, layout=layout)
        agree(lambda m: loaded(m.GroupedQueryAttention(12, 6, 2), state)(x, mask), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """With float64 parameters, the result is float64."""
        state, x, mask = weights(draw, gqa_shapes(12, 4, 2), F64), draw.normal(3, 7, 12, dtype=F64), some_keys(draw, 7, 7)
        agree(lambda m: loaded(m.GroupedQueryAttention(12, 4, 2), state)(x, mask), rtol=1e-5, atol=1e-5)

    def test_heads_must_fit(self, agree, draw):
        """Heads that don't divide d_model, or key heads that don't divide the heads, are a ValueError."""
        state, x = weights(draw, gqa_shapes(12, 6, 2)), draw.normal(2, 5, 12)

        def probe(m):
            wrong = [raised(ValueError, lambda s=s: m.GroupedQueryAttention(*s)) for s in [(12, 5, 5), (12, 6, 4), (12, 2, 4)]]
            return wrong, loaded(m.GroupedQueryAttention(12, 6, 2), state)(x)

        agree(probe, rtol=1e-3, atol=1e-3)


def tokens_of(draw, T, dtype=torch.float32):
    """Keys and values of T tokens, for 2 sequences, 3 heads and 5 features."""
    return draw.normal(2, 3, T, 5, dtype=dtype), draw.normal(2, 3, T, 5, dtype=dtype)


def append_in_pieces(cache, k, v, pieces):
    """What the cache returns for tokens that come in pieces of these sizes."""
    answers = [cache.append(a, b) for a, b in zip(k.split(pieces, dim=2), v.split(pieces, dim=2), strict=True)]
    return [(keys.clone(), values.clone()) for keys, values in answers]


@task("KVCache")
class TestKVCache:
    def test_what_append_returns(self, agree, draw):
        """Each append returns all tokens so far, in order; length counts them; a piece may be empty."""
        k, v = tokens_of(draw, 7)

        def probe(m):
            cache = m.KVCache(2, 3, 11, 5)
            start = cache.length
            return start, append_in_pieces(cache, k, v, [2, 0, 1, 4]), cache.length

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("pieces", [[1] * 7, [4, 1, 1, 1], [2, 5], [7]], ids=["tokens", "prompt", "pieces", "whole"])
    def test_attention_equals_the_full_pass(self, student, draw, pieces):
        """Attending with each piece's queries to what append returns gives the rows of causal attention over the whole text."""
        q, (k, v) = draw.normal(2, 3, 7, 5), tokens_of(draw, 7)

        def probe(m):
            cache, rows, seen = m.KVCache(2, 3, 9, 5), [], 0
            for a, b, c in zip(q.split(pieces, dim=2), k.split(pieces, dim=2), v.split(pieces, dim=2), strict=True):
                keys, values = cache.append(b, c)
                seen += a.shape[2]
                mask = torch.ones(a.shape[2], seen, dtype=torch.bool).tril(seen - a.shape[2])
                rows.append(F.scaled_dot_product_attention(a, keys, values, attn_mask=mask))
            return torch.cat(rows, dim=2)

        want = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        check_close(student(probe), want, 1e-4, "Attention over the cache")

    def test_truncate(self, agree, draw):
        """After truncate, the next tokens follow the first `length` ones; 0 empties the cache; it can be filled again."""
        k, v = tokens_of(draw, 5)
        other_k, other_v = tokens_of(draw, 4)

        def probe(m):
            cache, out = m.KVCache(2, 3, 6, 5), []
            cache.truncate(0)
            for length in (2, 0, 1):
                cache.append(k, v)
                cache.truncate(length)
                out += [cache.length, [x.clone() for x in cache.append(other_k, other_v)], cache.length]
                cache.truncate(0)
            return out

        agree(probe, rtol=0, atol=0)

    def test_copies_what_it_gets(self, agree, draw):
        """Writing into the tensors after append doesn't reach the cache."""
        k, v = tokens_of(draw, 3)

        def probe(m):
            cache, a, b = m.KVCache(2, 3, 5, 5), k.clone(), v.clone()
            first = cache.append(a, b)
            a.zero_()
            b.zero_()
            return list(first), list(cache.append(k[:, :, :1], v[:, :, :1]))

        agree(probe, rtol=0, atol=0)

    @measured("memory")
    def test_memory_is_taken_once(self, agree, draw):
        """What append returns begins at the same place in memory each time, after truncate too, and earlier answers stay right."""
        k, v = tokens_of(draw, 6)

        def probe(m):
            cache = m.KVCache(2, 3, 6, 5)
            answers = [cache.append(k[:, :, i : i + 1], v[:, :, i : i + 1]) for i in range(6)]
            copies = [(keys.clone(), values.clone()) for keys, values in answers]
            for length in (4, 0):
                cache.truncate(length)
                answers.append(cache.append(k[:, :, 4:], v[:, :, 4:]))
            return len({(keys.data_ptr(), values.data_ptr()) for keys, values in answers}), copies, list(answers[-1])

        agree(probe, rtol=0, atol=0)

    def test_memory_is_taken_in_the_constructor(self, agree, draw):
        """A cache for more tokens than any memory holds can't be made: that shows at once, not at the first append."""
        k, v = tokens_of(draw, 3)

        def probe(m):
            endless = raised(Exception, lambda: m.KVCache(2, 3, 2**52, 5))
            return endless, list(m.KVCache(2, 3, 4, 5).append(k, v))

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after append and truncate what it was before, under no_grad, too."""
        k, v = tokens_of(draw, 3)

        def probe(m):
            with torch.set_grad_enabled(recording):
                cache = m.KVCache(2, 3, 9, 5)
                cache.append(k, v)
                cache.truncate(2)
                return [x.clone() for x in cache.append(k, v)], torch.is_grad_enabled()

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """Keys and values that require gradients leave no graph behind, in this append or the next, and still require them."""
        k, v = (leaf(x) for x in tokens_of(draw, 3))

        def probe(m):
            cache = m.KVCache(2, 3, 9, 5)
            answers = [cache.append(k, v), cache.append(k * 2, v * 2), cache.append(k.detach(), v.detach())]
            return [x.requires_grad for answer in answers for x in answer], [x.detach() for x in answers[-1]]

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_a_full_cache_refuses(self, agree, draw):
        """The last place can be used; beyond it, append is a ValueError and changes nothing."""
        k, v = tokens_of(draw, 5)

        def probe(m):
            cache, none = m.KVCache(2, 3, 6, 5), m.KVCache(2, 3, 0, 5)
            cache.append(k, v)
            outcome = raised(ValueError, lambda: cache.append(k[:, :, :2], v[:, :, :2]))
            length = cache.length
            last = cache.append(k[:, :, :1], v[:, :, :1])
            refused = [raised(ValueError, lambda c=c: c.append(k[:, :, :1], v[:, :, :1])) for c in (cache, none)]
            empty = [tuple(x.shape) for x in none.append(k[:, :, :0], v[:, :, :0])]
            return outcome, length, list(last), refused, cache.length, empty, none.length

        agree(probe, rtol=0, atol=0)

    def test_wrong_shapes_are_refused(self, agree, draw):
        """Other batch sizes, head counts or feature counts, or fewer values than keys, are a ValueError; nothing is stretched to fit."""
        k, v = tokens_of(draw, 3)
        wrong = [(k[:1], v[:1]), (k[:, :1], v[:, :1]), (k[..., :1], v[..., :1]), (k, v[:, :, :1]), (k[:, :, :1], v), (k[0], v[0])]
        wrong += [(k, v[:1]), (k[None], v[None]), (torch.cat([k, k]), torch.cat([v, v])), (k[:1, :, :0], v[:1, :, :0])]
        wrong += [(torch.cat([k, k], dim), torch.cat([v, v], dim)) for dim in (1, 3)]
        wrong = [(a.clone(), b.clone()) for a, b in wrong]

        def probe(m):
            cache = m.KVCache(2, 3, 9, 5)
            cache.append(k, v)
            outcomes = [raised(ValueError, lambda a=a, b=b: cache.append(a, b)) for a, b in wrong]
            return outcomes, cache.length, list(cache.append(k[:, :, 1:], v[:, :, 1:]))

        agree(probe, rtol=0, atol=0)

    def test_truncate_to_impossible_lengths(self, agree, draw):
        """A length that is negative or above the number of tokens is a ValueError, whatever the room, and changes nothing."""
        k, v = tokens_of(draw, 3)

        def probe(m):
            cache = m.KVCache(2, 3, 9, 5)
            cache.append(k, v)
            outcomes = [raised(ValueError, lambda n=n: cache.truncate(n)) for n in (4, 9, -1)]
            length = cache.length
            cache.truncate(3)
            return outcomes, length, list(cache.append(k[:, :, :1], v[:, :, :1]))

        agree(probe, rtol=0, atol=0)

    def test_sizes_of_one(self, agree, draw):
        """Batch, heads, tokens and features may be 1; what append returns has four dimensions."""
        inputs = [(shape, draw.normal(*shape), draw.normal(*shape)) for shape in with_ones(2, 3, 4, 5)]

        def probe(m):
            out = []
            for (B, H, T, D), k, v in inputs:
                cache = m.KVCache(B, H, 2 * T, D)
                out.append([[x.clone() for x in cache.append(a, b)] for a, b in ((k, v), (v, k))])
            return out

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Keys and values may lie in memory in any way, and be many."""
        k, v = draw.normal(2, 3, 131, 5, layout=layout), draw.normal(2, 3, 131, 5, layout=layout)

        def probe(m):
            cache = m.KVCache(2, 3, 301, 5)
            return append_in_pieces(cache, k, v, [100, 31]), list(cache.append(v, k))

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [None, torch.float16, F64])
    def test_two_caches_and_dtypes(self, agree, draw, dtype):
        """Each cache has memory of its own, of the given dtype; float32 is the default."""
        k, v = tokens_of(draw, 4, dtype or torch.float32)

        def probe(m):
            first, second = (m.KVCache(2, 3, 5, 5, **({"dtype": dtype} if dtype else {})) for _ in range(2))
            first.append(k[:, :, :2], v[:, :, :2])
            second.append(k[:, :, 1:], v[:, :, 1:])
            return list(first.append(k[:, :, 3:], v[:, :, 3:])), list(second.append(k[:, :, :1], v[:, :, :1]))

        agree(probe, rtol=0, atol=0)


@task("blockwise_attention")
class TestBlockwiseAttention:
    @pytest.mark.parametrize("block_size", [1, 3, 4, 11, 64])
    def test_any_block_size(self, agree, draw, block_size):
        """Whatever the block size, one that doesn't divide Tk or is larger too, the values are those of ordinary attention."""
        q, k, v = draw.normal(2, 3, 5, 7, dtype=F64), draw.normal(2, 3, 11, 7, dtype=F64), draw.normal(2, 3, 11, 13, dtype=F64)
        agree(lambda m: m.blockwise_attention(q, k, v, block_size), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("num_queries", "block_size"), [(11, 4), (5, 4), (1, 3), (11, 1)])
    def test_causal(self, agree, draw, num_queries, block_size):
        """The queries are the last Tq positions, and none looks ahead, whatever the blocks."""
        q, k, v = draw.normal(2, num_queries, 7, dtype=F64), draw.normal(2, 11, 7, dtype=F64), draw.normal(2, 11, 3, dtype=F64)
        agree(lambda m: m.blockwise_attention(q, k, v, block_size, causal=True), rtol=1e-5, atol=1e-6)

    def test_hidden_blocks(self, agree, draw):
        """Keys can be hidden: in the middle, or whole blocks at the start (left padding) or at the end."""
        q, k, v = draw.normal(3, 2, 5, 7, dtype=F64), draw.normal(3, 2, 11, 7, dtype=F64), draw.normal(3, 2, 11, 3, dtype=F64)
        key_mask = torch.stack([some_keys(draw, 11), torch.arange(11) >= 7, torch.arange(11) < 2])[:, None]
        agree(lambda m: m.blockwise_attention(q, k, v, 3, key_mask=key_mask), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("causal", [False, True])
    def test_queries_that_see_nothing(self, agree, draw, causal):
        """A query that may look at no key gets 0: all keys are hidden, or all that are not ahead of it."""
        q, k, v = draw.normal(3, 7, 5), draw.normal(3, 7, 5), draw.normal(3, 7, 3) + 1
        nothing = torch.zeros(7, dtype=torch.bool)
        masks = [torch.stack([nothing, torch.arange(7) >= 4, some_keys(draw, 7)]), nothing]
        agree(lambda m: [m.blockwise_attention(q, k, v, 2, key_mask=mask, causal=causal) for mask in masks], rtol=1e-5, atol=1e-5)

    def test_gradients(self, agree, draw):
        """The gradients of q, k and v are those of ordinary attention; a query that sees nothing gets and adds 0."""
        q, k, v = draw.normal(2, 7, 5, dtype=F64), draw.normal(2, 7, 5, dtype=F64), draw.normal(2, 7, 3, dtype=F64)
        key_mask, w = torch.stack([torch.arange(7) >= 3, some_keys(draw, 7)]), draw.normal(2, 7, 3, dtype=F64)

        def probe(m):
            inputs = [leaf(x) for x in (q, k, v)]
            y = m.blockwise_attention(*inputs, 2, key_mask=key_mask, causal=True)
            (y * w).sum().backward()
            return [y.detach(), *(x.grad for x in inputs)]

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
    def test_huge_scores(self, agree, draw, order):
        """Scores up to ±1e4 are fine, in whatever order the blocks bring them."""
        (q, k), v = huge_scores(draw), draw.normal(11, 13)
        if order != "mixed":
            k = k[(k @ q[0]).argsort(descending=order == "falling")]
        agree(lambda m: m.blockwise_attention(q, k, v, 2), rtol=1e-3, atol=1e-3)

    def test_low_scores(self, agree, draw):
        """Keys with scores of −1e4 keep their weights, whatever stands at hidden keys and ahead."""
        (q, k, key_mask), v = low_scores(draw), draw.normal(11, 13)
        agree(lambda m: [m.blockwise_attention(q, k, v, 3, key_mask=key_mask, causal=c) for c in (False, True)], rtol=1e-3, atol=1e-3)

    @measured("memory, modes")
    @pytest.mark.parametrize(("hidden", "causal"), [(False, False), (False, True), (True, False)], ids=["plain", "causal", "hidden"])
    def test_memory(self, agree, draw, hidden, causal):
        """No tensor that is made on the way is larger than the statement allows; all the scores, or a whole mask, would be."""
        q, k, v = draw.normal(2, 256, 8), draw.normal(2, 256, 8), draw.normal(2, 256, 8)
        key_mask = draw.bools(2, 256) if hidden else None

        def probe(m):
            with torch.no_grad(), Largest() as seen:
                y = m.blockwise_attention(q, k, v, 16, key_mask=key_mask, causal=causal)
            allowed = 4 * 2 * 256 * 16
            return "within the limit" if seen.entries <= allowed else f"{seen.entries} entries in one tensor, {allowed} are allowed", y

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("batch", [(), (2, 1, 3, 2)], ids=["none", "four"])
    def test_leading_dimensions(self, agree, draw, batch):
        """Any number of leading dimensions, also none, in the dtype of q; a key_mask of (Tk,) holds for all."""
        q, k, v = draw.normal(*batch, 5, 7), draw.normal(*batch, 11, 7), draw.normal(*batch, 11, 13)
        key_mask = some_keys(draw, 11)
        agree(lambda m: m.blockwise_attention(q, k, v, 4, key_mask=key_mask), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(2, 3, 11), (3, 11), (2, 1, 11)], ids=["each", "heads", "sequences"])
    def test_key_masks_broadcast(self, agree, draw, shape):
        """A key_mask may differ along all leading dimensions, or some of them."""
        q, k, v, key_mask = draw.normal(2, 3, 5, 7), draw.normal(2, 3, 11, 7), draw.normal(2, 3, 11, 13), some_keys(draw, *shape)
        agree(lambda m: m.blockwise_attention(q, k, v, 4, key_mask=key_mask), rtol=1e-5, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """Batch, queries, keys and features may be 1, and the result keeps all its dimensions."""
        inputs = [(draw.normal(B, Tq, D), draw.normal(B, Tk, D), draw.normal(B, Tk, E)) for B, Tq, Tk, D, E in with_ones(2, 5, 7, 3, 11)]
        masks = [draw.bools(k.shape[-2], p=0.7) for _, k, _ in inputs]

        def probe(m):
            return [m.blockwise_attention(*each, 3, key_mask=mask) for each, mask in zip(inputs, masks, strict=True)]

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Queries, keys, values and the key_mask may lie in memory in any way, and be many."""
        q, k = draw.normal(2, 3, 131, 7, layout=layout), draw.normal(2, 3, 301, 7, layout=layout)
        v, key_mask = draw.normal(2, 3, 301, 13, layout=layout), draw.bools(2, 3, 301, layout=layout)
        agree(lambda m: m.blockwise_attention(q, k, v, 64, key_mask=key_mask, causal=True), rtol=1e-5, atol=1e-5)

    def test_block_size_must_be_positive(self, agree, draw):
        """A block size below 1 is a ValueError."""
        q, k, v = draw.normal(5, 7), draw.normal(11, 7), draw.normal(11, 13)

        def probe(m):
            return [raised(ValueError, lambda n=n: m.blockwise_attention(q, k, v, n)) for n in (0, -2)], m.blockwise_attention(q, k, v, 2)

        agree(probe, rtol=1e-3, atol=1e-4)


def block_shapes(d):
    """The parameters of the statement."""
    layers = {"qkv": (3 * d, d), "out": (d, d), "up": (4 * d, d), "down": (d, 4 * d)}
    shapes = {f"{name}.weight": shape for name, shape in layers.items()} | {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    return shapes | {f"norm{i}.{name}": (d,) for i in (1, 2) for name in ("weight", "bias")}


@task("TransformerBlock")
class TestTransformerBlock:
    @pytest.mark.parametrize("heads", [1, 3, 4])
    def test_values(self, agree, draw, heads):
        """With given weights the numbers are right, for any number of heads."""
        state, x = weights(draw, block_shapes(12)), draw.normal(2, 7, 12)
        agree(lambda m: loaded(m.TransformerBlock(12, heads), state)(x), rtol=1e-5, atol=2e-5)

    def test_the_future_changes_nothing(self, agree, draw):
        """Other tokens from position t on leave everything before t as it was."""
        state, x, t = weights(draw, block_shapes(12)), draw.normal(2, 7, 12), draw.integer(1, 7)
        other = torch.cat([x[:, :t], draw.normal(2, 7 - t, 12)], dim=1)

        def probe(m):
            model = loaded(m.TransformerBlock(12, 3), state)
            y, changed = model(x), model(other)
            unchanged = bool(((y - changed)[:, :t].abs() < 1e-4).all())
            return "unchanged" if unchanged else "changed by the future", y, changed

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_the_stream_is_not_normed(self, agree, draw):
        """Pre-norm: with nothing but biases in out and down, x comes through with these added, however large it is."""
        state, x = weights(draw, block_shapes(12)), 100 * draw.normal(2, 5, 12)
        state["out.weight"], state["down.weight"] = state["out.weight"] * 0, state["down.weight"] * 0
        agree(lambda m: loaded(m.TransformerBlock(12, 3), state)(x), rtol=1e-5, atol=1e-4)

    def test_any_length(self, agree, draw):
        """The same block takes texts of one token and of many, and batches of one."""
        state, x = weights(draw, block_shapes(12)), draw.normal(2, 263, 12)
        parts = [x[:, :1].clone(), x, x[:1, :9].clone()]

        def probe(m):
            model = loaded(m.TransformerBlock(12, 3), state)
            return [model(part) for part in parts]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_evaluation(self, agree, draw):
        """In eval mode and without gradients the numbers are the same."""
        state, x = weights(draw, block_shapes(10)), draw.normal(2, 5, 10)

        def probe(m):
            with torch.no_grad():
                return loaded(m.TransformerBlock(10, 5).eval(), state)(x)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_gradients_of_the_input(self, agree, draw):
        """A token's gradient comes from its own position and later ones only."""
        state, x, t = weights(draw, block_shapes(12)), draw.normal(2, 7, 12), draw.integer(1, 6)
        w = draw.normal(2, 12)

        def probe(m):
            a = leaf(x)
            (loaded(m.TransformerBlock(12, 3), state)(a)[:, t] * w).sum().backward()
            return a.grad

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_gradients_of_all_parameters(self, agree, draw):
        """Every parameter gets its gradient."""
        state, x, w = weights(draw, block_shapes(12)), draw.normal(2, 5, 12), draw.normal(2, 5, 12)

        def probe(m):
            model = loaded(m.TransformerBlock(12, 3), state)
            (model(x) * w).sum().backward()
            return gradients(model)

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """The parameters have the names and shapes of the statement, all of them are trained, and the state_dict holds nothing else."""
        d = 4 * draw.integer(2, 60)
        agree(lambda m: parameters(m.TransformerBlock(d, 4)), rtol=0, atol=0)

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, and the parameters stay the same objects."""
        states, x = [weights(draw, block_shapes(12)) for _ in range(2)], draw.normal(2, 5, 12)
        agree(lambda m: changing(m.TransformerBlock(12, 3), states, lambda model: model(x)), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The sequences may lie in memory in any way."""
        state, x = weights(draw, block_shapes(12)), draw.normal(3, 5, 12, layout=layout)
        agree(lambda m: loaded(m.TransformerBlock(12, 3), state)(x), rtol=1e-4, atol=1e-4)

    def test_heads_must_fit(self, agree, draw):
        """A number of heads that does not divide d_model is a ValueError."""
        state, x = weights(draw, block_shapes(6)), draw.normal(2, 5, 6)

        def probe(m):
            wrong = [raised(ValueError, lambda n=n: m.TransformerBlock(6, n)) for n in (4, 12)]
            return wrong, loaded(m.TransformerBlock(6, 3), state)(x)

        agree(probe, rtol=1e-3, atol=1e-3)


LEVELS = torch.tensor([1.5, 0.9, 0.5, 0.0, -0.3, -0.8, -1.2], dtype=F64)  # probabilities from 0.41 down to 0.03
DRAWS = 6_000


def shuffled_logits(draw):
    """The levels, moved a little, in random order, and the token of each rank."""
    levels = LEVELS + draw.uniform(7, low=-0.05, high=0.05, dtype=F64)
    tokens = draw.permutation(7)
    logits = torch.empty(7, dtype=F64)
    logits[tokens] = levels
    return logits, tokens


def check_tokens(tokens, shape, vocabulary):
    """Assert that an answer has the type, shape and range of sampled tokens."""
    assert isinstance(tokens, torch.Tensor) and tokens.dtype == torch.int64, "It must return a tensor of int64."
    assert tokens.shape == shape, f"The tokens must have the shape {tuple(shape)}, not {tuple(tokens.shape)}."
    assert not tokens.numel() or (tokens.min() >= 0 and tokens.max() < vocabulary), (
        "A token must be an index into the logits' last dimension."
    )


def check_frequencies(tokens, p):
    """Assert that tokens were drawn with probabilities p, each count within 6 deviations of what is due."""
    check_tokens(tokens, tokens.shape if isinstance(tokens, torch.Tensor) else (), len(p))
    counts = tokens.flatten().bincount(minlength=len(p)).tolist()
    n = sum(counts)
    for token, (count, share) in enumerate(zip(counts, p.tolist(), strict=True)):
        if share == 0:
            assert count == 0, f"Token {token} must not be drawn here, but was {count} times in {n}."
        else:
            slack = 6 * math.sqrt(n * share * (1 - share)) + 3
            assert abs(count - n * share) <= slack, f"Token {token} has the probability {share:.3f}, but was drawn {count} times in {n}."


@task("sample_next")
class TestSampleNext:
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_temperature_zero(self, agree, draw, dtype):
        """Temperature 0 gives the largest logit, the lowest index among equals, whatever top_k and top_p are."""
        logits = draw.normal(5, 301, dtype=dtype)
        a, b, c = draw.permutation(301)[:3].sort().values.tolist()
        logits[1, [a, b, c]] = logits[3, [c, b]] = 9.0
        settings = [{"temperature": 0}, {"temperature": 0.0, "top_k": 3}, {"temperature": 0, "top_p": 0.5}]
        agree(lambda m: [m.sample_next(logits, **s) for s in settings], rtol=0, atol=0)

    @pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
    def test_temperature(self, student, draw, temperature):
        """Tokens are drawn with the probabilities softmax(logits / temperature), each row independently."""
        logits, _ = shuffled_logits(draw)
        tokens = student(lambda m: m.sample_next(logits.expand(DRAWS, 7).clone(), temperature=temperature))
        check_tokens(tokens, (DRAWS,), 7)
        check_frequencies(tokens, (logits / temperature).softmax(0))
        p = logits.div(temperature).softmax(0)
        same = (tokens[::2] == tokens[1::2]).double().mean().item()
        share = p.square().sum().item()
        off = abs(same - share) / math.sqrt(share * (1 - share) / (DRAWS // 2))
        assert off < 6, f"Rows must be drawn independently: neighbours are equal in {same:.1%} of the pairs, {share:.1%} are due."

    @pytest.mark.parametrize("temperature", [0.001, 0.02])
    def test_low_temperatures_draw_too(self, student, draw, temperature):
        """Logits that differ by as little as the temperature leave a choice: only a temperature of 0 means the largest."""
        levels, _ = shuffled_logits(draw)
        tokens = student(lambda m: m.sample_next((levels * temperature).expand(DRAWS, 7).clone(), temperature=temperature))
        check_tokens(tokens, (DRAWS,), 7)
        check_frequencies(tokens, levels.softmax(0))

    @pytest.mark.parametrize("top_k", [1, 3, 7, 50])
    def test_top_k(self, student, draw, top_k):
        """Only the k largest are drawn, in proportion to their probabilities; a k beyond V keeps all; rows may share their memory."""
        logits, order = shuffled_logits(draw)
        tokens = student(lambda m: m.sample_next(logits.expand(DRAWS, 7), top_k=top_k))
        p = logits.clone()
        p[order[top_k:]] = -math.inf
        check_tokens(tokens, (DRAWS,), 7)
        check_frequencies(tokens, p.softmax(0))

    @pytest.mark.parametrize("kept", [1, 2, 4, 7])
    def test_top_p(self, student, draw, kept):
        """Tokens are kept up to the one with which their probabilities reach top_p, that one included."""
        logits, order = shuffled_logits(draw)
        p = logits.softmax(0)
        top_p = (p[order[: kept - 1]].sum() + p[order[kept - 1]] / 2).item() if kept < 7 else 1.0  # in the middle of the last one
        tokens = student(lambda m: m.sample_next(logits.expand(DRAWS, 7).clone(), top_p=top_p))
        p[order[kept:]] = 0
        check_tokens(tokens, (DRAWS,), 7)
        check_frequencies(tokens, p / p.sum())

    def test_top_k_comes_before_top_p(self, student, draw):
        """top_p looks at the probabilities among the k that are kept: 0.45 of 0.45 + 0.35 is more than a half."""
        order = torch.stack([draw.permutation(4) for _ in range(3)])
        shares = torch.tensor([0.45, 0.35, 0.15, 0.05], dtype=F64)
        logits = torch.empty(3, 4, dtype=F64).scatter(1, order, shares.log().expand(3, 4))
        tokens = student(lambda m: m.sample_next(logits[:, None].expand(3, DRAWS, 4).clone(), top_k=2, top_p=0.52))
        check_tokens(tokens, (3, DRAWS), 4)
        assert (tokens == order[:, :1]).all(), "With probabilities 0.45, 0.35, 0.15, 0.05, top_k = 2 and top_p = 0.52 leave only the first."

    def test_temperature_comes_before_top_p(self, student, draw):
        """top_p looks at the probabilities after the temperature: a high one makes the nucleus larger."""
        logits, order = shuffled_logits(draw)
        p = (logits / 4).softmax(0)
        top_p = (p[order[:4]].sum() + p[order[4]] / 2).item()  # 5 tokens; at temperature 1, 3 or 4 would do
        tokens = student(lambda m: m.sample_next(logits.expand(DRAWS, 7).clone(), temperature=4.0, top_p=top_p))
        p[order[5:]] = 0
        check_tokens(tokens, (DRAWS,), 7)
        check_frequencies(tokens, p / p.sum())

    @pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.6}], ids=["top_k", "top_p"])
    def test_lower_indices_first_among_equals(self, student, draw, settings):
        """Of 40 tokens with two larger, equal ones and the others equal, the lowest indices are kept."""
        logits = torch.zeros(40, dtype=F64)
        a, b = draw.permutation(40)[:2].tolist()
        logits[a] = logits[b] = 3.0
        p = logits.softmax(0)
        rest = [i for i in range(40) if i not in (a, b)]
        count = 1 if "top_k" in settings else math.ceil((0.6 - 2 * p[a].item()) / p[rest[0]].item())
        p[rest[count:]] = 0
        tokens = student(lambda m: m.sample_next(logits.expand(DRAWS, 40).clone(), **settings))
        check_tokens(tokens, (DRAWS,), 40)
        check_frequencies(tokens, p / p.sum())

    def test_rows_have_their_own_tokens(self, student, draw):
        """Each row is sorted and cut by itself, under any leading dimensions."""
        rows = [shuffled_logits(draw) for _ in range(6)]
        logits = torch.stack([row for row, _ in rows]).view(2, 1, 3, 7)
        tokens = student(lambda m: m.sample_next(logits.expand(2, DRAWS // 5, 3, 7).clone(), top_k=4, top_p=0.8))
        check_tokens(tokens, (2, DRAWS // 5, 3), 7)
        for i, (row, order) in enumerate(rows):
            p = torch.zeros(7, dtype=F64)
            p[order[:4]] = row[order[:4]].softmax(0)
            before = p[order].cumsum(0) - p[order]
            p[order[before >= 0.8]] = 0
            check_frequencies(tokens[i // 3, :, i % 3], p / p.sum())

    @pytest.mark.parametrize("top_p", [0.2, 0.45])
    @pytest.mark.parametrize("first", [True, False], ids=["outer", "inner"])
    def test_rows_keep_as_many_tokens_as_each_needs(self, student, draw, top_p, first):
        """One top_p leaves a single token of a row with a sure favourite, and several of a row where all are nearly equal."""
        rows = torch.stack([shuffled_logits(draw)[0] * sharpness for sharpness in (5, 0.5, 0.02)])
        logits = rows[:, None].expand(3, DRAWS // 5, 7) if first else rows.expand(DRAWS // 5, 3, 7)
        tokens = student(lambda m: m.sample_next(logits.clone(), top_p=top_p))
        check_tokens(tokens, logits.shape[:2], 7)
        for i, row in enumerate(rows):
            p, order = row.softmax(0).sort(descending=True)
            p[p.cumsum(0) - p >= top_p] = 0
            check_frequencies(tokens[i] if first else tokens[:, i], torch.zeros(7, dtype=F64).scatter(0, order, p / p.sum()))

    @pytest.mark.parametrize("shape", [(), (3,), (1,), (2, 3), (2, 1), (1, 3)], ids=str)
    def test_shapes(self, student, draw, shape):
        """The result has the leading dimensions of the logits: none for a single row."""
        best = draw.integers(0, 11, *shape)
        logits = draw.normal(*shape, 11).scatter(-1, best[..., None], 1e4)  # float32 scores that leave no choice
        tokens = student(lambda m: [m.sample_next(logits), m.sample_next(logits, temperature=0.001, top_p=0.9, top_k=5)])
        for answer in tokens if isinstance(tokens, list) else [None]:
            check_tokens(answer, shape, 11)
            assert torch.equal(answer, best), "A logit that is 10,000 above all others must be drawn."

    @pytest.mark.parametrize("layout", ["transposed", "sliced"])
    def test_layouts(self, student, draw, layout):
        """Logits may lie in memory in any way, and be of many tokens, or of one."""
        best, levels = draw.integers(0, 301, 3, 5), torch.tensor([1e4, 9e3, 8e3])
        order = (best[..., None] + torch.tensor([0, 7, 8])) % 301
        logits = draw.normal(3, 5, 301, layout=layout)
        logits.scatter_(-1, order, levels.expand(3, 5, 3))
        only = logits[..., :1]
        settings = [{}, {"top_k": 2}, {"top_p": 0.3}, {"temperature": 0}]
        answers = student(lambda m: [m.sample_next(x, **s) for s in settings for x in (logits, only)])
        for tokens, want in zip(answers, [best, best * 0] * 4, strict=True):
            check_tokens(tokens, (3, 5), 301)
            assert torch.equal(tokens, want), "A logit that is 1,000 above all others must be drawn."

    def test_logits(self, student, draw):
        """A logit of -inf is never drawn, however low the others are."""
        logits, order = shuffled_logits(draw)
        logits -= 9_000
        logits[order[1]] = logits[order[4]] = -math.inf

        def probe(m):
            rows = logits.expand(DRAWS, 7)
            return m.sample_next(rows, temperature=2.0), m.sample_next(rows, temperature=0.7, top_k=3, top_p=1.0)

        hot, cool = student(probe)
        check_tokens(hot, (DRAWS,), 7)
        check_tokens(cool, (DRAWS,), 7)
        check_frequencies(hot, (logits / 2).softmax(0))
        logits[order[5:]] = -math.inf
        check_frequencies(cool, (logits / 0.7).softmax(0))

    @pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.9}], ids=["plain", "top_k", "top_p"])
    def test_generator(self, student, draw, settings):
        """The generator decides: the same state draws the same, a second call draws anew, the global one is not touched."""
        logits, seed, states = draw.normal(100, 50), draw.seed(), [draw.seed(), draw.seed()]

        def probe(m):
            out = []
            for state in states:
                torch.manual_seed(state)
                generator = torch.Generator().manual_seed(seed)
                out.append([m.sample_next(logits, generator=generator, **settings) for _ in range(2)])
                out[-1].append(torch.rand(4))
            return out

        answers = student(probe)
        for pair in answers:
            for tokens in pair[:2]:
                check_tokens(tokens, (100,), 50)
        (first, second, after), (again, _, after_again) = answers
        assert torch.equal(first, again), "The same state of the generator must give the same tokens, whatever the global state is."
        assert not torch.equal(first, second), "A second call with the same generator must draw anew."
        for state, numbers in zip(states, (after, after_again), strict=True):
            expected = torch.rand(4, generator=torch.Generator().manual_seed(state))
            assert torch.equal(numbers, expected), "With a generator, the call must leave torch's global random state as it was."

    def test_global_generator(self, student, draw):
        """Without a generator, torch.manual_seed decides, and each call draws anew."""
        logits, seed, sure = draw.normal(100, 50), draw.seed(), draw.integers(0, 50, 20)
        logits[:20] = logits[:20].scatter(1, sure[:, None], 1000.0)

        def probe(m):
            out = []
            for s in (seed, seed, seed + 1):
                torch.manual_seed(s)
                out += [m.sample_next(logits), m.sample_next(logits)]
            return out

        answers = student(probe)
        for tokens in answers:
            check_tokens(tokens, (100,), 50)
            assert torch.equal(tokens[:20], sure), "A token with a logit of 1000 must be drawn: the others have no probability left."
        first, second, again, again_second, other, _ = answers
        assert torch.equal(first, again) and torch.equal(second, again_second), "torch.manual_seed must decide on the tokens."
        assert not torch.equal(first, second), "A second call must draw anew."
        assert not torch.equal(first, other), "Another seed must give other tokens."

    def test_wrong_settings_are_refused(self, agree, draw):
        """A negative temperature, a top_k below 1, and a top_p that is 0 or above 1 are ValueErrors, raised before anything is drawn."""
        logits, generator = draw.normal(3, 7), torch.Generator().manual_seed(draw.seed())
        wrong = [{"temperature": -0.5}, {"top_k": 0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.25}, {"top_p": -0.1}]
        wrong += [{"temperature": 0, "top_k": 0}, {"temperature": 0, "top_p": 1.5}]

        def probe(m):
            outcomes = [raised(ValueError, lambda s=s: m.sample_next(logits, generator=generator, **s)) for s in wrong]
            return outcomes, m.sample_next(logits, temperature=0, top_k=1, top_p=1.0)

        agree(probe, rtol=0, atol=0)


def some_words(draw, letters, count, longest):
    """Words of some of the given bytes, with how often each occurs."""
    words = [bytes(letters[draw.integers(0, len(letters), draw.integer(1, longest + 1))].tolist()) for _ in range(count)]
    return {word: draw.integer(1, 99) for word in words}


@task("bpe_merges")
class TestBpeMerges:
    @pytest.mark.parametrize(("letters", "num_merges"), [(2, 9), (4, 12), (25, 7)])
    def test_values(self, agree, draw, letters, num_merges):
        """The most frequent pair is merged, time after time, whatever the bytes are."""
        words = some_words(draw, draw.permutation(256)[:letters], 30, 7)
        agree(lambda m: m.bpe_merges(words, num_merges), rtol=0, atol=0)

    def test_counts_weigh(self, agree, draw):
        """One frequent word has more pairs than many rare ones."""
        a, b, c, *others = draw.permutation(256)[:9].tolist()
        words = {bytes([a, b, other]): 1 for other in others} | {bytes([b, c]): 7 + draw.integer(0, 2**40)}
        agree(lambda m: m.bpe_merges(words, 3), rtol=0, atol=0)

    def test_counts_are_exact(self, agree, draw):
        """Counts are ints of any size: float64 can't tell these apart."""
        a, b, d, c = sorted(draw.permutation(256)[:4].tolist())
        n = 2**53 + 4 * draw.integer(0, 2**30)
        words = {bytes([a, b]): n, bytes([c, d]): n + 1, bytes([d, a]): n, bytes([c, b]): n + 1}
        agree(lambda m: m.bpe_merges(words, 4), rtol=0, atol=0)

    def test_ties(self, agree, draw):
        """Among equal counts, the smaller left token wins, then the smaller right one, in whatever order the words come."""
        letters = draw.permutation(256)[:6].tolist()
        pairs = [bytes([a, b]) for a in letters for b in letters]
        words = {pairs[i]: 3 for i in draw.permutation(36).tolist()}
        agree(lambda m: m.bpe_merges(words, 36), rtol=0, atol=0)

    def test_ties_with_new_tokens(self, agree, draw):
        """New tokens are larger than all bytes, and take part in ties."""
        a, b, c = draw.permutation(256)[:3].tolist()
        words = {bytes([a, b, a, b, c]): 1, bytes([a, b, c, c]): 1, bytes([c, c, a]): 1, bytes([c, a, b]): 1}
        agree(lambda m: m.bpe_merges(words, 9), rtol=0, atol=0)

    def test_overlapping_places_count(self, agree, draw):
        """Of a run of five, four pairs count: more than a pair that occurs three times as often as the run."""
        a, b, c, d, e = draw.permutation(256)[:5].tolist()
        n = draw.integer(1, 1000)
        words = {bytes([b, c]): 3 * n, bytes([a] * 5): n, bytes([d, e]): 5 * n}
        agree(lambda m: m.bpe_merges(words, 2), rtol=0, atol=0)

    def test_runs_are_merged_from_the_left(self, agree, draw):
        """A run of an odd length keeps its last token, and a token is used once."""
        a, b = draw.permutation(256)[:2].tolist()
        words = {bytes([b] + [a] * n + [b]): draw.integer(1, 9) for n in draw.permutation(15)[:5].tolist()}
        agree(lambda m: m.bpe_merges(words, 12), rtol=0, atol=0)

    def test_words_are_apart(self, agree, draw):
        """No pair goes from the end of one word into the next."""
        a, b, c = draw.permutation(256)[:3].tolist()
        words = {bytes([a]): 50, bytes([b]): 50, bytes([b, c, a]): 2, bytes([c, b, a]): 3}
        agree(lambda m: m.bpe_merges(words, 7), rtol=0, atol=0)

    def test_pairs_are_told_apart(self, agree, draw):
        """A pair is two tokens, and tokens are larger than bytes: a · 256 + b is the same for (a, 256) and (a + 1, 0)."""
        a, x, y, b = draw.integer(3, 100), draw.integer(110, 170), draw.integer(180, 220), draw.integer(230, 256)
        words = {bytes([x, y]): 90, bytes([a, x, y]): 20, bytes([a + 1, 0]): 25, bytes([x, b]): 40}
        agree(lambda m: m.bpe_merges(words, 4), rtol=0, atol=0)

    def test_it_ends_when_all_is_merged(self, agree, draw):
        """When each word is one token, there is nothing left to merge."""
        words = some_words(draw, draw.permutation(256)[:3], 5, 6)
        agree(lambda m: m.bpe_merges(words, 100), rtol=0, atol=0)

    def test_words_that_do_not_occur(self, agree, draw):
        """A count of 0 adds nothing, and a pair of such words only is never merged."""
        a, b, c, d = draw.permutation(256)[:4].tolist()
        words = {bytes([a, b]): 0, bytes([a, c, d]): 1, bytes([d, c]): 2, bytes([a, b, c]): 0}
        agree(lambda m: [m.bpe_merges(words, 9), m.bpe_merges({bytes([a, b]): 0}, 2)], rtol=0, atol=0)

    def test_nothing_to_merge(self, agree, draw):
        """No merges, no words, empty words and words of one byte give no pairs."""
        words = some_words(draw, draw.permutation(256)[:3], 9, 5) | {b"": 4}
        single = {b"": 3, bytes([draw.integer(0, 256)]): 9}
        agree(lambda m: [m.bpe_merges(words, 0), m.bpe_merges({}, 5), m.bpe_merges(single, 5), m.bpe_merges(words, 3)], rtol=0, atol=0)

    def test_long_words(self, agree, draw):
        """A word may be long: bytes of all kinds, and tokens of tokens of tokens."""
        word = bytes(draw.integers(0, 256, 9).tolist()) * 8 + bytes(draw.integers(0, 3, 60).tolist())
        agree(lambda m: m.bpe_merges({word: 1}, 25), rtol=0, atol=0)

    def test_negative_numbers_are_refused(self, agree, draw):
        """A negative number of merges is a ValueError."""
        words = some_words(draw, draw.permutation(256)[:4], 9, 5)
        agree(lambda m: [raised(ValueError, lambda: m.bpe_merges(words, -1)), m.bpe_merges(words, 4)], rtol=0, atol=0)


def some_merges(draw, letters, count):
    """Merges of random tokens: of the given bytes, and of earlier merges."""
    tokens, merges = list(letters), []
    while len(merges) < count:
        pair = tokens[draw.integer(0, len(tokens))], tokens[draw.integer(0, len(tokens))]
        if pair not in merges:
            merges.append(pair)
            tokens.append(255 + len(merges))
    return merges


def some_bytes(draw, letters, count):
    """Random bytes of these."""
    return bytes([letters[i] for i in draw.integers(0, len(letters), count).tolist()])


@task("bpe_encode")
class TestBpeEncode:
    @pytest.mark.parametrize(("letters", "count"), [(2, 6), (3, 12), (9, 40)])
    def test_values(self, agree, draw, letters, count):
        """Merges are applied by their rank, merges of merges too."""
        letters = draw.permutation(256)[:letters].tolist()
        merges, texts = some_merges(draw, letters, count), [some_bytes(draw, letters, n) for n in (3, 4, 7, 60)]
        agree(lambda m: [m.bpe_encode(text, merges) for text in texts], rtol=0, atol=0)

    def test_the_lowest_rank_goes_first(self, agree, draw):
        """Of two pairs that share a token, the one with the lower rank is merged, on the left or on the right, short or long."""
        a, b, c, d = draw.permutation(256)[:4].tolist()
        left, right, long = (a, b), (b, c), (256, d)
        text = bytes([a, b, c, d])
        agree(lambda m: [m.bpe_encode(text, merges) for merges in ([left, right], [right, left], [right, long, left])], rtol=0, atol=0)

    def test_a_longer_token_may_lose(self, agree, draw):
        """What counts is the rank, not how many bytes a token stands for, nor that most of the text fits."""
        a, b, c, d = draw.permutation(256)[:4].tolist()
        merges = [(c, d), (a, b), (257, c), (258, d)]
        text = bytes([a, b, c, d, a, b, c, a])
        agree(lambda m: m.bpe_encode(text, merges), rtol=0, atol=0)

    def test_runs(self, agree, draw):
        """In a run of one token, pairs are merged from left to right."""
        a, b = draw.permutation(256)[:2].tolist()
        tables = [[(a, a)], [(a, a), (256, 256)], [(a, a), (256, a), (a, b)], [(a, a), (a, 256), (b, 256)]]
        texts = [bytes([b] + [a] * n + [b]) for n in range(1, 8)]
        agree(lambda m: [m.bpe_encode(text, merges) for merges in tables for text in texts], rtol=0, atol=0)

    def test_all_places_of_a_pair(self, agree, draw):
        """A pair is merged wherever it stands, before the next one is looked for."""
        a, b, c = draw.permutation(256)[:3].tolist()
        merges = [(a, b), (b, a), (256, c), (256, 256)]
        texts = [bytes([a, b, c, a, b, a, b, a, c, a, b]), bytes([b, a, b, a, b, c, b, a])]
        agree(lambda m: [m.bpe_encode(text, merges) for text in texts], rtol=0, atol=0)

    def test_chains(self, agree, draw):
        """A whole text may become one token, or all but its end."""
        letters = draw.permutation(256)[:8].tolist()
        merges = [(letters[0], letters[1]), *((256 + i, letters[i + 2]) for i in range(6))]
        texts = [bytes(letters), bytes(letters[:5] + letters), bytes(letters[1:])]
        agree(lambda m: [m.bpe_encode(text, merges) for text in texts], rtol=0, atol=0)

    def test_merges_that_do_not_apply(self, agree, draw):
        """Without merges, or with none that fits, the tokens are the bytes, of any value."""
        text, (a, b) = bytes([255, 0, 128, *draw.integers(0, 256, 20).tolist()]), draw.permutation(256)[:2].tolist()
        agree(lambda m: [m.bpe_encode(text, []), m.bpe_encode(text, [(a, b), (256, 256)])], rtol=0, atol=0)

    def test_short_texts(self, agree, draw):
        """No bytes give no tokens, in int64 all the same; one byte or one pair is fine, too."""
        a, b = draw.permutation(256)[:2].tolist()
        texts = [b"", bytes([a]), bytes([a, b]), bytes([b, a])]
        agree(lambda m: [m.bpe_encode(text, merges) for merges in ([], [(a, b)]) for text in texts], rtol=0, atol=0)

    def test_pairs_are_told_apart(self, agree, draw):
        """A pair is two tokens, and tokens are larger than bytes: a · 256 + b is the same for (a, 256) and (a + 1, 0)."""
        a, x, y = draw.integer(3, 100), draw.integer(110, 170), draw.integer(180, 256)
        merges = [(x, y), (a, 256), (a + 1, 0), (256, a)]
        text = bytes([a, x, y, a, a + 1, 0, a, x, y])
        agree(lambda m: m.bpe_encode(text, merges), rtol=0, atol=0)

    def test_many_merges(self, agree, draw):
        """There may be hundreds of merges: tokens are not bytes, nor are ranks."""
        letters = draw.permutation(256)[:20].tolist()
        pairs = [(a, b) for a in letters for b in letters]
        merges = [pairs[i] for i in draw.permutation(400).tolist()]
        text = some_bytes(draw, letters, 40)
        agree(lambda m: m.bpe_encode(text, merges), rtol=0, atol=0)


def moe_state(draw, d, h, E, dtype=F64):
    """Weights of a mixture, under the names of the statement."""
    state = {"router.weight": draw.normal(E, d, dtype=dtype)}
    for e in range(E):
        for layer, (rows, columns) in {0: (h, d), 2: (d, h)}.items():
            state[f"experts.{e}.{layer}.weight"] = draw.normal(rows, columns, dtype=dtype)
            state[f"experts.{e}.{layer}.bias"] = draw.normal(rows, dtype=dtype)
    return state


def all_gradients(model):
    """The gradient of each parameter; zeros where there is none, as for an expert without tokens."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}


@task("MixtureOfExperts")
class TestMixtureOfExperts:
    @pytest.mark.parametrize("k", [1, 2, 3])
    def test_values(self, agree, draw, k):
        """Each token is the sum of its k experts' outputs, times their probabilities among all experts."""
        state, x = moe_state(draw, 4, 6, 5), draw.normal(2, 7, 4, dtype=F64)
        agree(lambda m: loaded(m.MixtureOfExperts(4, 6, 5, k), state)(x), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("k", [1, 3])
    @pytest.mark.parametrize("capacity", [1, 3])
    def test_capacity(self, agree, draw, k, capacity):
        """A full expert drops first choices of late tokens, and second choices of all tokens before those."""
        state, x = moe_state(draw, 4, 6, 4), draw.normal(3, 4, 4, dtype=F64)
        agree(lambda m: loaded(m.MixtureOfExperts(4, 6, 4, k, capacity=capacity), state)(x), rtol=1e-5, atol=1e-6)

    def test_first_choices_go_before_second_ones(self, agree, draw):
        """An early token's second choice gives way to a late token's first one."""
        state, n = moe_state(draw, 3, 6, 3), draw.integer(2, 6)
        state["router.weight"] = torch.tensor([[1.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.5, 2.0]], dtype=F64)
        x = torch.eye(3, dtype=F64)[[0] * n + [1] * n + [2, 0, 1]] * draw.uniform(2 * n + 3, 1, low=0.5, high=2.0, dtype=F64)
        agree(lambda m: [loaded(m.MixtureOfExperts(3, 6, 3, 2, capacity=c), state)(x) for c in (2, n, n + 1)], rtol=1e-5, atol=1e-6)

    def test_what_is_dropped_is_zero(self, agree, draw):
        """With a capacity of 0 all is dropped, with a small one most tokens, and None or a large one sets no limit."""
        state, x = moe_state(draw, 4, 6, 2), draw.normal(9, 4, dtype=F64)
        agree(lambda m: [loaded(m.MixtureOfExperts(4, 6, 2, 1, capacity=c), state)(x) for c in (0, 1, 9, None)], rtol=1e-5, atol=1e-6)

    def test_the_capacity_is_for_each_call(self, agree, draw):
        """What an earlier call sent does not fill an expert."""
        state, parts = moe_state(draw, 4, 6, 3), [draw.normal(5, 4, dtype=F64) for _ in range(3)]

        def probe(m):
            model = loaded(m.MixtureOfExperts(4, 6, 3, 1, capacity=2), state)
            return [model(part) for part in parts]

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_one_expert(self, agree, draw):
        """A single expert has the probability 1, and takes the first tokens."""
        state, x = moe_state(draw, 4, 6, 1), draw.normal(2, 3, 4, dtype=F64)
        agree(lambda m: [loaded(m.MixtureOfExperts(4, 6, 1, 1, capacity=c), state)(x) for c in (None, 4)], rtol=1e-5, atol=1e-6)

    def test_all_experts(self, agree, draw):
        """With k = E every token goes everywhere, as far as there is room."""
        state, x = moe_state(draw, 4, 6, 5), draw.normal(7, 4, dtype=F64)
        agree(lambda m: [loaded(m.MixtureOfExperts(4, 6, 5, 5, capacity=c), state)(x) for c in (None, 5)], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("capacity", [None, 2])
    def test_ties(self, agree, draw, capacity):
        """Among equal logits the expert with the lower index goes first."""
        state, x = moe_state(draw, 2, 3, 17), draw.integers(-3, 4, 5, 2).double()
        state["router.weight"] = draw.integers(0, 2, 17, 1).double().expand(17, 2).clone()
        x[1], x[3], x[4] = 0.0, 0.0, -1.0
        agree(lambda m: loaded(m.MixtureOfExperts(2, 3, 17, 3, capacity=capacity), state)(x), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("k", "capacity"), [(1, None), (1, 2), (2, 3), (3, None)])
    def test_gradients(self, agree, draw, k, capacity):
        """Tokens, router and experts get their gradients, through the probabilities too, and a dropped token gets 0."""
        state, x, w = moe_state(draw, 4, 6, 3), draw.normal(9, 4, dtype=F64), draw.normal(9, 4, dtype=F64)

        def probe(m):
            model, inputs = loaded(m.MixtureOfExperts(4, 6, 3, k, capacity=capacity), state), leaf(x)
            (model(inputs) * w).sum().backward()
            return inputs.grad, all_gradients(model)

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("value", [math.inf, math.nan])
    def test_other_experts_change_nothing(self, agree, draw, value):
        """An expert that takes no token may hold inf or NaN, and gradients are as ever."""
        state, x, w = moe_state(draw, 4, 6, 3), draw.normal(9, 4, dtype=F64).abs(), draw.normal(9, 4, dtype=F64)
        state["router.weight"][1] = -2 - state["router.weight"].abs().sum(0)
        state["experts.1.2.bias"] = state["experts.1.2.bias"] * value

        def probe(m):
            model, inputs = loaded(m.MixtureOfExperts(4, 6, 3, 2), state), leaf(x)
            y = model(inputs)
            (y * w).sum().backward()
            return y.detach(), inputs.grad, {name: g for name, g in all_gradients(model).items() if "experts.1" not in name}

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("shape", [(), (11,), (1, 1), (2, 3, 5), (2, 0)], ids=["one", "tokens", "ones", "four", "none"])
    def test_leading_dimensions(self, agree, draw, shape):
        """Any number of leading dimensions, also none; and there may be no token."""
        state, x, y = moe_state(draw, 4, 6, 3), draw.normal(*shape, 4, dtype=F64), draw.normal(2, 4, dtype=F64)

        def probe(m):
            model = loaded(m.MixtureOfExperts(4, 6, 3, 2, capacity=7), state)
            return model(x), model(y)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_sizes_of_one(self, agree, draw):
        """Features, hidden features, experts and tokens may be 1."""
        cases = [(E, moe_state(draw, d, h, E), draw.normal(N, d, dtype=F64)) for d, h, E, N in with_ones(4, 6, 3, 5)]

        def probe(m):
            return [loaded(m.MixtureOfExperts(x.shape[1], len(s["experts.0.0.bias"]), E, 1, capacity=2), s)(x) for E, s, x in cases]

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_many_tokens(self, agree, draw):
        """Hundreds of tokens and many experts, in single precision."""
        state, x = moe_state(draw, 8, 5, 9, dtype=torch.float32), draw.normal(300, 8)
        agree(lambda m: loaded(m.MixtureOfExperts(8, 5, 9, 2, capacity=31), state)(x), rtol=1e-3, atol=1e-3)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """The parameters have the names and shapes of the statement, all of them are trained, and the state_dict holds nothing else."""
        d, h, E = draw.integer(2, 60), draw.integer(2, 60), draw.integer(2, 9)
        agree(lambda m: parameters(m.MixtureOfExperts(d, h, E, 2, capacity=3)), rtol=0, atol=0)

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, in both modes, and the parameters stay the same objects."""
        states, x = [moe_state(draw, 4, 6, 3, dtype=torch.float32) for _ in range(2)], draw.normal(7, 4)
        agree(lambda m: changing(m.MixtureOfExperts(4, 6, 3, 2, capacity=3), states, lambda model: model(x)), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The tokens may lie in memory in any way, and keep their order."""
        state, x = moe_state(draw, 4, 6, 3), draw.normal(3, 5, 4, dtype=F64, layout=layout)
        rows = draw.normal(6, 4, dtype=F64, layout=layout)
        agree(lambda m: [loaded(m.MixtureOfExperts(4, 6, 3, 2, capacity=4), state)(each) for each in (x, rows)], rtol=1e-5, atol=1e-6)

    def test_impossible_numbers_are_refused(self, agree, draw):
        """A k that is not in 1 … E, or a negative capacity, is a ValueError."""
        state, x = moe_state(draw, 4, 6, 3), draw.normal(5, 4, dtype=F64)

        def probe(m):
            wrong = [
                raised(ValueError, lambda k=k, c=c: m.MixtureOfExperts(4, 6, 3, k, capacity=c))
                for k, c in [(0, None), (4, None), (-1, 5), (2, -1)]
            ]
            return wrong, loaded(m.MixtureOfExperts(4, 6, 3, 3), state)(x)

        agree(probe, rtol=1e-3, atol=1e-3)


@task("load_balancing_loss")
class TestLoadBalancingLoss:
    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_values(self, agree, draw, k):
        """The shares of the choices times the mean probabilities, added up, times E; in the precision of the logits."""
        logits = draw.normal(3, 11, 7, dtype=F64)
        agree(lambda m: m.load_balancing_loss(logits, k), rtol=1e-12, atol=1e-12)

    def test_balanced(self, agree, draw):
        """Where all experts are chosen equally often the loss is 1, whatever the probabilities; so it is for k = E."""
        chosen = torch.cat([draw.permutation(5) for _ in range(4)])
        logits = draw.uniform(20, 5, dtype=F64).scatter_add(1, chosen[:, None], 1 + draw.uniform(20, 1, dtype=F64))
        other = draw.normal(20, 5, dtype=F64)
        agree(
            lambda m: [m.load_balancing_loss(logits), m.load_balancing_loss(other, 5), m.load_balancing_loss(other)], rtol=1e-9, atol=1e-9
        )

    def test_one_expert_for_all(self, agree, draw):
        """Where all tokens choose the same expert, the loss goes up to E, the surer they are."""
        logits = draw.normal(9, 6, dtype=F64)
        logits[:, draw.integer(0, 6)] += 3
        agree(lambda m: [m.load_balancing_loss(logits * scale) for scale in (1, 2, 1000)], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("k", [1, 2])
    def test_gradient(self, agree, draw, k):
        """The gradient goes through the probabilities only: counts are constants."""
        logits = draw.normal(4, 5, 6, dtype=F64)

        def probe(m):
            x = leaf(logits)
            m.load_balancing_loss(x, k).backward()
            return x.grad

        agree(probe, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("k", [1, 3])
    def test_ties(self, agree, draw, k):
        """Among equal logits the expert with the lower index goes first."""
        logits = draw.integers(0, 2, 9, 20).double() + draw.uniform(9, 1, dtype=F64)
        agree(lambda m: m.load_balancing_loss(logits, k), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("k", [1, 2])
    def test_padding(self, agree, draw, k):
        """Padding counts neither as a token nor as a choice, may hold anything, and gets the gradient 0."""
        mask = draw.bools(4, 9)
        mask[0, :2] = torch.tensor([True, False])
        logits = draw.poisoned(draw.normal(4, 9, 5, dtype=F64), ~mask[..., None])

        def probe(m):
            x = leaf(logits)
            loss = m.load_balancing_loss(x, k, mask=mask)
            loss.backward()
            return loss.detach(), x.grad

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_no_tokens(self, agree, draw):
        """Without any token the loss is 0, never NaN, and so is the gradient."""
        logits, nothing = draw.normal(3, 5, dtype=F64), torch.zeros(3, dtype=torch.bool)

        def probe(m):
            x = leaf(logits)
            loss = m.load_balancing_loss(x, mask=nothing)
            loss.backward()
            return loss.detach(), x.grad, m.load_balancing_loss(logits[:0], 2), m.load_balancing_loss(logits, mask=~nothing)

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, agree, draw, dtype):
        """16-bit logits are computed in float32, and so is the loss."""
        logits = (3 * draw.normal(700, 6)).to(dtype)
        agree(lambda m: m.load_balancing_loss(logits, 2), rtol=1e-5, atol=1e-6)

    def test_large_logits(self, agree, draw):
        """Logits up to ±1e4 neither overflow nor turn NaN."""
        logits = draw.uniform(12, 5, low=-1e4, high=1e4)
        logits[3] = logits[3].abs() + 100
        agree(lambda m: [m.load_balancing_loss(logits), m.load_balancing_loss(-logits.abs(), 2)], rtol=1e-5, atol=1e-6)

    def test_leading_dimensions(self, agree, draw):
        """A single token without a batch, or tokens in several dimensions, with a mask of the same shape."""
        one, many, mask = draw.normal(6), draw.normal(2, 1, 3, 4, 6), draw.bools(2, 1, 3, 4)

        def probe(m):
            losses = [m.load_balancing_loss(one, 2), m.load_balancing_loss(one, mask=torch.tensor(True))]
            return losses, m.load_balancing_loss(many), m.load_balancing_loss(many, 3, mask=mask)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_sizes_of_one(self, agree, draw):
        """One sequence, one token or one expert: the loss stays a scalar."""
        inputs = [draw.normal(*shape) for shape in with_ones(3, 5, 7)]
        agree(lambda m: [m.load_balancing_loss(logits) for logits in inputs], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Logits and mask may lie in memory in any way."""
        logits, mask = draw.normal(4, 9, 5, layout=layout), draw.bools(4, 9, layout=layout)
        agree(lambda m: [m.load_balancing_loss(logits, 2), m.load_balancing_loss(logits, 2, mask=mask)], rtol=1e-5, atol=1e-6)

    def test_impossible_k_is_refused(self, agree, draw):
        """A k that is not in 1 … E is a ValueError."""
        logits = draw.normal(7, 5)

        def probe(m):
            return [raised(ValueError, lambda k=k: m.load_balancing_loss(logits, k)) for k in (0, -1, 6)], m.load_balancing_loss(logits, 2)

        agree(probe, rtol=1e-3, atol=1e-3)


def kept_from_forward(q, k, v, causal=False):
    """The output of attention, and the log of each query's sum of exponentials."""
    s = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool).tril(s.shape[-1] - s.shape[-2]), -math.inf)
    return s.softmax(-1) @ v, s.logsumexp(-1)


def backward_inputs(draw, *batch, Tq=5, Tk=11, D=7, E=3, causal=False, dtype=F64, layout="contiguous"):
    """All that the backward pass gets: q, k, v, y, lse and dy."""
    q, k = draw.normal(*batch, Tq, D, dtype=dtype, layout=layout), draw.normal(*batch, Tk, D, dtype=dtype, layout=layout)
    v = draw.normal(*batch, Tk, E, dtype=dtype, layout=layout)
    return q, k, v, *kept_from_forward(q, k, v, causal), draw.normal(*batch, Tq, E, dtype=dtype, layout=layout)


@task("flash_attention_backward")
class TestFlashAttentionBackward:
    @pytest.mark.parametrize("blocks", [(1, 2), (2, 3), (3, 4), (5, 11), (64, 64), (1, 64), (64, 1)])
    def test_any_blocks(self, agree, draw, blocks):
        """Whatever the blocks, those that don't divide the sizes or are larger too, the gradients are the same."""
        inputs = backward_inputs(draw, 2, 3)
        agree(lambda m: m.flash_attention_backward(*inputs, *blocks), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("causal", [False, True])
    def test_equals_autograd(self, student, draw, causal):
        """The gradients are those that autograd finds for ordinary attention."""
        inputs = backward_inputs(draw, 2, Tq=6, Tk=8, causal=causal)
        leaves = [leaf(x) for x in inputs[:3]]
        y, _ = kept_from_forward(*leaves, causal)
        want = torch.autograd.grad(y, leaves, inputs[-1])
        got = student(lambda m: m.flash_attention_backward(*inputs, 4, 3, causal=causal))
        assert isinstance(got, tuple) and len(got) == 3, "It must return three gradients."
        for one, due, name in zip(got, want, ("dq", "dk", "dv"), strict=True):
            check_close(one, due, 1e-8, name)

    @pytest.mark.parametrize("num_queries", [1, 5, 11])
    @pytest.mark.parametrize("blocks", [(1, 4), (4, 3), (64, 64)])
    def test_causal(self, agree, draw, num_queries, blocks):
        """The queries are the last Tq positions; no gradient comes from what is ahead, whatever the blocks."""
        inputs = backward_inputs(draw, 2, Tq=num_queries, causal=True)
        agree(lambda m: m.flash_attention_backward(*inputs, *blocks, causal=True), rtol=1e-6, atol=1e-8)

    def test_some_of_the_keys(self, agree, draw):
        """With some of the keys, y and lse from all of them give these keys' gradients, and their part of dq."""
        q, k, v, *rest = backward_inputs(draw, 2)
        n = draw.integer(2, 9)
        parts = [(k[:, :n], v[:, :n]), (k[:, n:], v[:, n:])]
        agree(lambda m: [m.flash_attention_backward(q, *part, *rest, 2, 3) for part in parts], rtol=1e-6, atol=1e-8)

    def test_what_was_kept_is_used(self, agree, draw):
        """y, lse and dy count as they are given."""
        q, k, v, y, lse, dy = backward_inputs(draw, 3)
        y, lse = y + draw.normal(3, 5, 3, dtype=F64), lse + draw.uniform(3, 5, dtype=F64)
        agree(lambda m: m.flash_attention_backward(q, k, v, y, lse, dy, 3, 5), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("causal", [False, True])
    def test_huge_scores(self, agree, draw, causal):
        """Scores up to ±1e4, of keys ahead too, don't overflow."""
        q, k, v = 20 * draw.normal(9, 4, dtype=F64), 100 * draw.normal(11, 4, dtype=F64), draw.normal(11, 3, dtype=F64)
        k[-3:] = 3 * q[:3]  # for the first queries, what is ahead has the largest scores
        kept, dy = kept_from_forward(q, k, v, causal), draw.normal(9, 3, dtype=F64)
        agree(lambda m: m.flash_attention_backward(q, k, v, *kept, dy, 2, 4, causal=causal), rtol=1e-4, atol=1e-6)

    @measured("memory, modes")
    def test_memory(self, agree, draw):
        """No tensor that is made on the way is larger than the statement allows; all weights, or a strip of them, would be."""
        inputs = backward_inputs(draw, 2, Tq=50, Tk=50, D=2, E=1, causal=True)

        def probe(m):
            with torch.no_grad(), Largest() as seen:
                gradients = m.flash_attention_backward(*inputs, 10, 11, causal=True)
            allowed = 4 * 2 * max(50 * 2, 10 * 11)
            return (
                "within the limit" if seen.entries <= allowed else f"{seen.entries} entries in one tensor, {allowed} are allowed",
                gradients,
            )

        agree(probe, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("batch", [(), (2, 1, 3, 2)], ids=["none", "four"])
    def test_leading_dimensions(self, agree, draw, batch):
        """Any number of leading dimensions, also none, in the dtype of q."""
        inputs = backward_inputs(draw, *batch, dtype=torch.float32)
        agree(lambda m: m.flash_attention_backward(*inputs, 3, 4), rtol=1e-4, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """Batch, queries, keys and features may be 1, and the gradients keep all their dimensions."""
        inputs = [backward_inputs(draw, B, Tq=Tq, Tk=Tk, D=D, E=E) for B, Tq, Tk, D, E in with_ones(2, 5, 7, 3, 4)]
        agree(lambda m: [m.flash_attention_backward(*each, 2, 3) for each in inputs], rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All inputs may lie in memory in any way, and be many."""
        inputs = backward_inputs(draw, 2, 2, Tq=41, Tk=67, causal=True, layout=layout)
        agree(lambda m: m.flash_attention_backward(*inputs, 16, 32, causal=True), rtol=1e-6, atol=1e-8)

    def test_blocks_must_be_positive(self, agree, draw):
        """A block below 1 is a ValueError."""
        inputs = backward_inputs(draw, 2)

        def probe(m):
            wrong = [raised(ValueError, lambda b=b: m.flash_attention_backward(*inputs, *b)) for b in ((0, 3), (3, 0), (-1, 2), (2, -1))]
            return wrong, m.flash_attention_backward(*inputs, 2, 3)

        agree(probe, rtol=1e-3, atol=1e-3)


class GPT(nn.Module):
    """The network of the statement, for the trusted side."""

    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        settings = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(d_model, num_heads, 4 * d_model, **settings) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, src_mask=future)
        return self.head(self.norm(x))


SMALL = 7, 11, 12, 3, 2
"""Sizes for the tests that don't train: vocabulary, context, d_model, heads, layers."""


def gpt_weights(draw):
    """Random weights for a TinyGPT(*SMALL), of a size at which every part shows in the result."""
    state = weights(draw, {name: tuple(value.shape) for name, value in GPT(*SMALL).state_dict().items()})
    state["head.weight"] = state["tokens.weight"] = draw.normal(7, 12)
    return state


def random_words(draw):
    """Five different words of five letters of 1 … 6."""
    words = set()
    while len(words) < 5:
        words.add(tuple(draw.integers(1, 7, 5).tolist()))
    return torch.tensor(sorted(words))


def text_of(draw, words, count):
    """Words in random order, each followed by a 0: `count` tokens."""
    chosen = words[draw.integers(0, 5, count // 6 + 1)]
    return F.pad(chosen, (0, 1)).flatten()[:count]


@task("TinyGPT")
class TestTinyGPT:
    @pytest.mark.parametrize("length", [1, 5, 11])
    def test_values(self, agree, draw, length):
        """With given weights the logits are right, for one token, for some, and for a whole context."""
        state, ids = gpt_weights(draw), draw.integers(0, 7, 3, length)
        agree(lambda m: loaded(m.TinyGPT(*SMALL), state)(ids), rtol=1e-4, atol=1e-4)

    def test_evaluation(self, agree, draw):
        """In eval mode and without gradients the logits are the same, for a single text too."""
        state, ids, one = gpt_weights(draw), draw.integers(0, 7, 3, 9), draw.integers(0, 7, 1, 9)

        def probe(m):
            model = loaded(m.TinyGPT(*SMALL), state).eval()
            with torch.no_grad():
                return model(ids), model(one)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_the_future_changes_nothing(self, agree, draw):
        """Other tokens from position t on leave the logits before t as they were."""
        state, ids, t = gpt_weights(draw), draw.integers(0, 7, 3, 11), draw.integer(1, 11)
        other = torch.cat([ids[:, :t], (ids[:, t:] + draw.integers(1, 7, 3, 11 - t)) % 7], dim=1)

        def probe(m):
            model = loaded(m.TinyGPT(*SMALL), state)
            y, changed = model(ids), model(other)
            unchanged = bool(((y - changed)[:, :t].abs() < 1e-3).all())
            return "unchanged" if unchanged else "changed by the future", y, changed

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The ids may lie in memory in any way, and the context be long."""
        sizes, ids = (5, 150, 4, 2, 1), draw.integers(0, 5, 3, 139, layout=layout)
        state = weights(draw, {name: tuple(value.shape) for name, value in GPT(*sizes).state_dict().items()})
        state["head.weight"] = state["tokens.weight"]
        agree(lambda m: loaded(m.TinyGPT(*sizes), state)(ids), rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """Parameters and state_dict have the names and shapes of the statement, and there is nothing else."""
        sizes = draw.integer(5, 20), draw.integer(5, 20), 4 * draw.integer(2, 6), 4, draw.integer(1, 4)
        agree(lambda m: parameters(m.TinyGPT(*sizes)), rtol=0, atol=0)

    @measured("object identity")
    def test_tied_weights(self, agree, draw):
        """The head's weight is the tokens' own: it counts once, and gets the gradients of both uses."""
        state, ids, w = gpt_weights(draw), draw.integers(0, 7, 3, 9), draw.normal(3, 9, 7)

        def probe(m):
            model = loaded(m.TinyGPT(*SMALL), state)
            (model(ids) * w).sum().backward()
            others = {name: grad for name, grad in gradients(model).items() if name not in ("tokens.weight", "head.weight")}
            tied = model.head.weight is model.tokens.weight
            return "tied" if tied else "two tensors", sum(p.numel() for p in model.parameters()), model.tokens.weight.grad, others

        agree(probe, rtol=1e-4, atol=1e-3)

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, and the parameters stay the same objects."""
        states, ids = [gpt_weights(draw) for _ in range(2)], draw.integers(0, 7, 3, 9)
        agree(lambda m: changing(m.TinyGPT(*SMALL), states, lambda model: model(ids)), rtol=1e-4, atol=1e-3)

    def test_start_values(self, student, draw):
        """Both embeddings start at N(0, 0.02²), and so the first loss is that of knowing nothing."""
        vocabulary, seed = draw.integer(200, 300), draw.seed()
        sizes, ids = (vocabulary, 97, 48, 4, 1), draw.integers(0, vocabulary, 8, 97)

        def probe(m):
            torch.manual_seed(seed)
            model = m.TinyGPT(*sizes)
            with torch.no_grad():
                return model.tokens.weight, model.positions.weight, model(ids), m.TinyGPT(*sizes).tokens.weight[:50]

        tokens, positions, logits, others = student(probe)
        check_drawn_singly(torch.stack([tokens[:50], others]), "In two models, tokens")
        for name, weight, rows in (("tokens", tokens, vocabulary), ("positions", positions, 97)):
            assert weight.shape == (rows, 48), f"{name} must be ({rows}, 48); it is {tuple(weight.shape)}."
            mean, deviation = weight.mean().item(), weight.std().item()
            # 4,656 entries or more: the deviation's own deviation is 1 % of it.
            right = abs(mean) < 0.002 and abs(deviation - 0.02) < 0.0016 and weight.abs().max() < 0.16
            assert right, f"{name} must start at N(0, 0.02²): its mean is {mean:.4f}, its standard deviation {deviation:.4f}."
            beyond = (weight.abs() > 0.04).double().mean().item()  # its deviation is 0.3 %
            assert 0.028 < beyond < 0.065, f"{name} must start at a normal distribution: {beyond:.1%} are beyond ±0.04, 4.6% are due."
            check_drawn_singly(weight, name)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
        due = math.log(vocabulary)
        assert abs(loss - due) < 0.1, f"Before training, the loss is {loss:.3f}; about log {vocabulary} = {due:.3f} is due."

    def test_context_is_a_limit(self, agree, draw):
        """A text of `context` tokens is fine, a longer one is a ValueError."""
        state, ids, long = gpt_weights(draw), draw.integers(0, 7, 2, 12), draw.integers(0, 7, 2, 40)

        def probe(m):
            model = loaded(m.TinyGPT(*SMALL), state)
            return [raised(ValueError, lambda x=x: model(x)) for x in (ids, long)], model(ids[:, 1:])

        agree(probe, rtol=1e-3, atol=1e-3)

    @measured("flags")
    def test_fit_on_a_short_text(self, agree, draw):
        """A text may have as few as T + 1 tokens: fit trains all parameters, the ones that are there, and leaves the modes as they are."""
        sizes, text, ids = (11, 5, 8, 2, 1), draw.permutation(11)[:6], draw.integers(0, 11, 3, 5)
        state = weights(draw, {name: tuple(value.shape) for name, value in GPT(*sizes).state_dict().items()})
        state["head.weight"] = state["tokens.weight"]

        def probe(m):
            model = m.TinyGPT(*sizes).eval()
            model.blocks.train()
            modes, before = [part.training for part in model.modules()], dict(model.named_parameters())
            start = [p.detach().clone() for p in model.parameters()]
            model.fit(text)
            moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), start, strict=True)]
            same = all(p is before.get(name) for name, p in model.named_parameters())
            flags = {"all trained": all(moved), "same parameters": same, "same modes": [p.training for p in model.modules()] == modes}
            return flags, loaded(model, state)(ids)

        agree(probe, rtol=1e-4, atol=1e-3)

    def test_learns_the_words(self, student, draw):
        """After fit, the weights predict a new text of the same words with a loss of at most 0.7."""
        sizes, words = (7, 24, 32, 4, 1), random_words(draw)
        text, new = text_of(draw, words, 4000), text_of(draw, words, 3000)

        def probe(m):
            model = m.TinyGPT(*sizes)
            model.fit(text)
            return {name: value.clone() for name, value in model.state_dict().items()}

        state, ours = student(probe), GPT(*sizes).eval()
        want = {name: (value.shape, value.dtype) for name, value in ours.state_dict().items()}
        right = isinstance(state, dict) and {name: (getattr(x, "shape", 0), getattr(x, "dtype", 0)) for name, x in state.items()} == want
        assert right, "After fit, the state_dict must have the names, shapes and dtypes of the statement."
        assert torch.equal(state["head.weight"], state["tokens.weight"]), "After fit, head and tokens must still share their weight."
        ours.load_state_dict(state)
        windows = new.unfold(0, 25, 5)
        with torch.no_grad():
            logits = ours(windows[:, :-1])[:, 12:]
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 13:].flatten()).item()
        assert loss <= 0.7, f"On a new text of the same words the loss is {loss:.3f}; at most 0.7 is asked for."
