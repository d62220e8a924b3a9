"""Hidden suite of the module look_inside."""

import pytest
import torch

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def seeded(seed):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def model(draw, V=7, D=6, L=2, H=3, d=4, N=9, dtype=torch.float32, layout="contiguous"):
    """Drawn weights."""
    shapes = {
        "embed": (V, D),
        "positions": (N, D),
        "W_Q": (L, H, D, d),
        "W_K": (L, H, D, d),
        "W_V": (L, H, D, d),
        "W_O": (L, H, d, D),
        "unembed": (D, V),
    }
    return {name: 0.7 * draw.normal(*shape, dtype=dtype, layout=layout) for name, shape in shapes.items()}


def copier(draw, dtype=F64):
    """A model that copies, made by hand, with its two heads at drawn places among others that do little; and these places."""
    V, N, H = 5, 8, 3
    D = 3 * V + N
    eye = torch.eye(D, dtype=dtype)
    first, second = draw.integer(0, H), draw.integer(0, H)
    weights = {"embed": eye[:V].clone(), "positions": eye[V : V + N].clone(), "unembed": 8 * eye[2 * V + N :].T.clone()}
    for name in ("W_Q", "W_K", "W_V"):
        weights[name] = 0.02 * draw.normal(2, H, D, N, dtype=dtype)
    weights["W_O"] = 0.02 * draw.normal(2, H, N, D, dtype=dtype)
    for layer, head in ((0, first), (1, second)):
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            weights[name][layer, head] = 0
    weights["W_Q"][0, first, V : V + N] = 60 * torch.eye(N, dtype=dtype).roll(-1, 1)
    weights["W_K"][0, first, V : V + N] = torch.eye(N, dtype=dtype)
    weights["W_V"][0, first, :V, :V] = torch.eye(V, dtype=dtype)
    weights["W_O"][0, first, :V] = eye[V + N : 2 * V + N]
    weights["W_Q"][1, second, :V, :V] = 60 * torch.eye(V, dtype=dtype)
    weights["W_K"][1, second, V + N : 2 * V + N, :V] = torch.eye(V, dtype=dtype)
    weights["W_V"][1, second, :V, :V] = torch.eye(V, dtype=dtype)
    weights["W_O"][1, second, :V] = eye[2 * V + N :]
    return weights, first, second


def run_of(weights):
    """The model as `patch_effects` gets it: another way to compute what attention_only says."""

    def run(tokens, replace=None):
        T, d = tokens.shape[1], weights["W_Q"].shape[-1]
        x, outputs = weights["embed"][tokens] + weights["positions"][:T], []
        for layer, (Q, K, V, back) in enumerate(zip(*(weights[f"W_{name}"] for name in "QKVO"), strict=True)):
            y = x[:, None]
            scores = ((y @ Q) @ (y @ K).mT / d**0.5).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
            out = scores.softmax(-1) @ (y @ V) @ back
            for (at, head, place), value in (replace or {}).items():
                if at == layer:
                    out = out.clone()
                    out[:, head, place] = value
            outputs = [*outputs, out]
            x = x + out.sum(1)
        return {"logits": x @ weights["unembed"], "outputs": torch.stack(outputs)}

    return run


# attention_only


@task("attention_only")
class TestAttentionOnly:
    def test_everything(self, agree, draw):
        """Logits, streams, patterns and outputs of a model of two layers."""
        weights, tokens = model(draw), draw.integers(0, 7, 4, 8)
        agree(lambda m: m.attention_only(weights, tokens), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("sizes", [(1, 2, 3, 4), (3, 1, 2, 5), (1, 1, 5, 1), (4, 2, 1, 3)])
    def test_sizes(self, agree, draw, sizes):
        """One layer, one head, one number for a key, and several of each."""
        L, H, D, d = sizes
        weights, tokens = model(draw, L=L, H=H, D=D, d=d), draw.integers(0, 7, 3, 5)
        agree(lambda m: m.attention_only(weights, tokens), rtol=1e-3, atol=1e-4)

    def test_lengths(self, agree, draw):
        """One token, one text, and as many places as there are."""
        weights, tokens = model(draw, dtype=F64), draw.integers(0, 7, 2, 9)
        cases = [tokens[:, :1], tokens[:1], tokens[:1, :1], tokens, tokens[:, 2:5]]
        agree(lambda m: [m.attention_only(weights, some) for some in cases], rtol=1e-8, atol=1e-9)

    def test_nobody_looks_ahead(self, agree, draw):
        """What comes later changes nothing before it; later keys have exactly the attention 0."""
        weights, tokens = model(draw, dtype=F64), draw.integers(0, 7, 2, 8)
        other = tokens.clone()
        other[:, 5:] = (other[:, 5:] + draw.integer(1, 7)) % 7

        def probe(m):
            one, two = m.attention_only(weights, tokens), m.attention_only(weights, other)
            ahead = one["patterns"].masked_select(torch.ones(8, 8, dtype=torch.bool).triu(1))
            return one["logits"][:, :5], two["logits"], bool((ahead == 0).all())

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_large_scores(self, agree, draw):
        """Scores of some thousands neither overflow nor give NaN."""
        weights, tokens = model(draw), draw.integers(0, 7, 2, 6)
        weights["W_Q"] = 300 * weights["W_Q"]
        agree(lambda m: m.attention_only(weights, tokens)["streams"][1], rtol=1e-2, atol=1e-2)

    def test_replace(self, agree, draw):
        """A replaced output reaches what comes after it, in the text and in the layers."""
        weights, tokens, value = model(draw, L=3, dtype=F64), draw.integers(0, 7, 4, 6), draw.normal(4, 6, dtype=F64)
        places = [(0, 1, 2), (1, 2, 0), (2, 0, 5), (0, 0, 5)]
        agree(lambda m: [m.attention_only(weights, tokens, {place: value}) for place in places], rtol=1e-8, atol=1e-9)

    def test_replace_several(self, agree, draw):
        """Several outputs at once, also of one head; an empty dict and None replace nothing."""
        weights, tokens, values = model(draw, dtype=F64), draw.integers(0, 7, 3, 6), draw.normal(4, 3, 6, dtype=F64)
        replace = dict(zip([(0, 1, 2), (0, 1, 4), (1, 0, 4), (0, 2, 4)], values, strict=True))
        agree(lambda m: [m.attention_only(weights, tokens, r) for r in (replace, {}, None)], rtol=1e-8, atol=1e-9)

    def test_values_stay(self, agree, draw):
        """The tensors that are put in, and the weights, stay as they are."""
        weights, tokens, value = model(draw, dtype=F64), draw.integers(0, 7, 3, 6), draw.normal(3, 6, dtype=F64)

        def probe(m):
            replace = {(0, 1, 2): value}
            run = m.attention_only(weights, tokens, replace)
            return run, list(replace), weights["embed"], value

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_gradients(self, agree, draw):
        """Gradients reach all weights, and what was put in."""
        weights, tokens, value = model(draw, dtype=F64), draw.integers(0, 7, 3, 6), draw.normal(3, 6, dtype=F64)

        def probe(m):
            leaves, put = {name: leaf(w) for name, w in weights.items()}, leaf(value)
            run = m.attention_only(leaves, tokens, {(0, 1, 2): put})
            run["logits"].square().sum().backward()
            return {name: w.grad for name, w in leaves.items()}, put.grad

        agree(probe, rtol=1e-7, atol=1e-8)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        weights, tokens = model(draw, layout=layout), draw.integers(0, 7, 4, 8, layout=layout)
        agree(lambda m: m.attention_only(weights, tokens), rtol=1e-3, atol=1e-4)

    def test_a_model_made_by_hand(self, agree, draw):
        """A model that copies what came after the present token the last time."""
        weights, _, _ = copier(draw)
        half = torch.stack([draw.permutation(5)[:4] for _ in range(6)])
        tokens = half.repeat(1, 2)
        agree(lambda m: m.attention_only(weights, tokens), rtol=1e-6, atol=1e-7)


# repeated_tokens


@task("repeated_tokens")
class TestRepeatedTokens:
    def rows(self, student, vocabulary, length, batch, seed):
        """Texts whose form is right; their first halves."""
        tokens = student(lambda m: m.repeated_tokens(vocabulary, length, batch, generator=torch.Generator().manual_seed(seed)))
        assert tokens.shape == (batch, 2 * length), f"The texts have the shape {tuple(tokens.shape)}."
        assert torch.equal(tokens[:, :length], tokens[:, length:]), "The second half must be the first half again."
        half = tokens[:, :length]
        assert ((half >= 0) & (half < vocabulary)).all(), "There is a token that there is not."
        assert all(len(row.unique()) == length for row in half), "A row has a token twice."
        return half

    def test_form(self, student, draw):
        """Rows of different tokens, said twice, for several sizes."""
        for vocabulary, length, batch in ((50, 7, 9), (6, 6, 5), (9, 1, 4), (draw.integer(30, 40), 11, 1)):
            half = self.rows(student, vocabulary, length, batch, draw.seed())
            if batch > 1 and vocabulary > 6:
                assert not (half == half[:1]).all(), "All texts are the same."

    def test_tokens_are_equally_likely(self, student, draw):
        """Each token comes as often as any other, at each place."""
        N = draw.integer(6000, 8000)
        half = self.rows(student, 7, 4, N, draw.seed())
        for place in range(4):
            share = torch.bincount(half[:, place], minlength=7) / N * 7
            assert (share - 1).abs().max() < 0.25, (
                f"At place {place}, a token comes {share.max():.0%} or {share.min():.0%} as often as it should."
            )

    def test_pairs_are_equally_likely(self, student, draw):
        """Every order is equally likely: so are all pairs of a first and a last token."""
        N = draw.integer(8000, 10_000)
        half = self.rows(student, 5, 3, N, draw.seed())
        pairs = torch.bincount(half[:, 0] * 5 + half[:, 2], minlength=25).reshape(5, 5)
        share = pairs[~torch.eye(5, dtype=torch.bool)] / N * 20
        assert (share - 1).abs().max() < 0.3, "Some pairs of tokens come more often than others."

    def test_rows_are_independent(self, student, draw):
        """One row tells nothing of the next."""
        half = self.rows(student, 6, 6, draw.integer(6000, 8000), draw.seed())
        same = (half[1:, 0] == half[:-1, 0]).double().mean() * 6
        assert abs(same - 1) < 0.2, f"Neighbouring rows begin alike {same:.0%} as often as they should."

    def test_generator_decides(self, student, draw):
        """The same state gives the same texts, whatever the global state is; another gives others."""
        seed, batch, length = draw.seed(), draw.integer(5, 300), draw.integer(6, 36)

        def probe(m):
            out = []
            for state, s in (1, seed), (2, seed), (1, seed + 1):
                torch.manual_seed(state)
                out.append(m.repeated_tokens(40, length, batch, generator=torch.Generator().manual_seed(s)))
            return out

        first, again, other = student(probe)
        assert first.shape == (batch, 2 * length), f"The texts have the shape {tuple(first.shape)}."
        said = torch.equal(first[:, :length], first[:, length:]) and len(first[0].unique()) == length
        assert said, "A text is a row of different tokens, said twice."
        assert torch.equal(first, again), "A generator in the same state must give the same texts."
        assert not torch.equal(first, other), "Another generator must give other texts."

    def test_no_texts(self, agree, draw):
        """No texts; and rows of one token, of which there is one."""
        n = draw.integer(2, 99)
        agree(lambda m: [m.repeated_tokens(n, 2, 0, generator=seeded(1)), m.repeated_tokens(1, 1, n, generator=seeded(1))], rtol=0, atol=0)

    def test_too_few_tokens(self, agree, draw):
        """Rows longer than the vocabulary raise a ValueError."""
        n = draw.integer(2, 99)

        def probe(m):
            bad = [raised(ValueError, lambda k=k: m.repeated_tokens(n, n + k, 3, generator=seeded(1))) for k in (1, 5)]
            return bad, m.repeated_tokens(n, n, 2, generator=seeded(1)).sort(1).values

        agree(probe, rtol=0, atol=0)


# induction_scores


@task("induction_scores")
class TestInductionScores:
    @pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 5), (2, 3, 4, 2), (1, 1, 1, 9)])
    def test_scores(self, agree, draw, shape):
        """The mean over texts and places, for each layer and head."""
        L, B, H, length = shape
        patterns = draw.normal(L, B, H, 2 * length, 2 * length).softmax(-1)
        agree(lambda m: m.induction_scores(patterns, length), rtol=1e-4, atol=1e-6)

    def test_one_place_at_a_time(self, agree, draw):
        """Attention elsewhere counts nothing: only the places that are named."""
        length, marks = 4, torch.zeros(8, 8, 1, 1, 1, 8, 8)
        for query in range(8):
            for key in range(8):
                marks[query, key, ..., query, key] = draw.integer(1, 99)
        agree(lambda m: [[m.induction_scores(x, length) for x in row] for row in marks], rtol=1e-5, atol=0)

    def test_float64(self, agree, draw):
        """In float64 nothing is lost."""
        patterns = draw.normal(2, 3, 2, 12, 12, dtype=F64).softmax(-1)
        agree(lambda m: m.induction_scores(patterns, 6), rtol=1e-12, atol=0)

    def test_gradient(self, agree, draw):
        """The score has a gradient, the same for each place that counts."""
        patterns, w = draw.normal(2, 3, 2, 8, 8, dtype=F64).softmax(-1), draw.normal(2, 2, dtype=F64)

        def probe(m):
            x = leaf(patterns)
            (m.induction_scores(x, 4) * w).sum().backward()
            return x.grad

        agree(probe, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        patterns = draw.normal(2, 3, 2, 8, 8, layout=layout)
        agree(lambda m: m.induction_scores(patterns, 4), rtol=1e-4, atol=1e-5)


# linear_probe


def probe_task(draw, N=40, D=5, C=3, dtype=F64):
    """Features with a mean that is not 0, and labels that depend on them."""
    x = draw.normal(N, D, dtype=dtype) * draw.uniform(D, low=0.5, high=2.0).to(dtype) + 3 * draw.normal(D, dtype=dtype)
    return x, (x @ draw.normal(D, C, dtype=dtype)).argmax(1)


@task("linear_probe")
class TestLinearProbe:
    @pytest.mark.parametrize("sizes", [(40, 5, 3), (40, 5, 2), (9, 1, 3)])
    def test_probe(self, agree, draw, sizes):
        """W and b, for several sizes; and for a single class."""
        x, y = probe_task(draw, *sizes)
        agree(lambda m: [m.linear_probe(x, y, sizes[2]), m.linear_probe(x, 0 * y, 1)], rtol=1e-6, atol=1e-7)

    def test_ridge(self, agree, draw):
        """The ridge holds W down, and not b."""
        x, y = probe_task(draw)
        agree(lambda m: [m.linear_probe(x, y, 3, ridge=r) for r in (1e-6, 0.5, 30.0, 1e6)], rtol=1e-6, atol=1e-8)

    def test_fewer_rows_than_columns(self, agree, draw):
        """The ridge makes the answer unique, also for one row and for columns that are the same."""
        x, y = probe_task(draw, N=6, D=11)
        twice = torch.cat([x, x], 1)
        agree(lambda m: [m.linear_probe(f, y[: len(f)], 3, ridge=0.1) for f in (x, x[:1], twice)], rtol=1e-6, atol=1e-7)

    def test_classes_without_rows(self, agree, draw):
        """A class may have no row; its column is 0 everywhere."""
        x, y = probe_task(draw)
        agree(lambda m: m.linear_probe(x, y, 6), rtol=1e-6, atol=1e-7)

    def test_a_shift_changes_b_only(self, agree, draw):
        """Features that are far from 0 give the same W."""
        x, y = probe_task(draw)
        far = draw.integer(100, 1000)
        agree(lambda m: [m.linear_probe(x + shift, y, 3, ridge=1.0) for shift in (0, far)], rtol=1e-5, atol=1e-6)

    def test_float32(self, agree, draw):
        """Features of float32 are computed with in float64, and give float32."""
        x, y = probe_task(draw, dtype=torch.float32)
        x = x + 1000 * draw.integer(1, 4)
        agree(lambda m: m.linear_probe(x, y, 3, ridge=1e-3), rtol=2e-3, atol=2e-3)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """The results have no graph, also where the features have one."""
        x, y = probe_task(draw)

        def probe(m):
            W, b = m.linear_probe(leaf(x) * 1, y, 3)
            return "there is a graph" if W.requires_grad or b.requires_grad else (W, b)

        agree(probe, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        x, y = draw.normal(12, 4, dtype=F64, layout=layout), draw.integers(0, 3, 12, 2, layout=layout)[:, 1]
        agree(lambda m: m.linear_probe(x, y, 3, ridge=0.5), rtol=1e-6, atol=1e-7)


# patch_effects


def patch_task(draw, dtype=F64, B=4, T=6, **sizes):
    """A drawn model, two groups of texts, a place and what is wanted there."""
    weights = model(draw, dtype=dtype, **sizes)
    clean, corrupt = draw.integers(0, 7, B, T), draw.integers(0, 7, B, T)
    corrupt[:, 0] = (clean[:, 0] + 1) % 7
    return weights, clean, corrupt, draw.integer(1, T), draw.integers(0, 7, B)


@task("patch_effects")
class TestPatchEffects:
    def test_effects(self, agree, draw):
        """Each head's effect, in a model of two layers."""
        given = patch_task(draw)
        agree(lambda m: m.patch_effects(run_of(given[0]), *given[1:]), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("sizes", [{"L": 1}, {"H": 1}, {"L": 3, "H": 2}, {"d": 1}])
    def test_sizes(self, agree, draw, sizes):
        """One layer, one head, three layers."""
        given = patch_task(draw, **sizes)
        agree(lambda m: m.patch_effects(run_of(given[0]), *given[1:]), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("where", ["first", "last"])
    def test_places(self, agree, draw, where):
        """The first and the last place of a text; later ones don't count."""
        weights, clean, corrupt, _, wanted = patch_task(draw)
        place = 0 if where == "first" else 5
        agree(lambda m: m.patch_effects(run_of(weights), clean, corrupt, place, wanted), rtol=1e-5, atol=1e-6)

    def test_one_text(self, agree, draw):
        """One text, and many, whose scores are averaged before they are compared."""
        one, many = patch_task(draw, B=1), patch_task(draw, B=11)
        agree(lambda m: [m.patch_effects(run_of(w), *rest) for w, *rest in (one, many)], rtol=1e-5, atol=1e-6)

    def test_no_difference(self, agree, draw):
        """Where both runs have the same score, all effects are 0."""
        weights, clean, corrupt, place, wanted = patch_task(draw)

        def probe(m):
            return m.patch_effects(run_of(weights), clean, clean, place, wanted), m.patch_effects(
                run_of(weights), clean, corrupt, place, wanted
            )

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_finds_the_copier(self, agree, draw):
        """In a model made by hand, the head that copies repairs everything."""
        weights, _, _ = copier(draw)
        half = torch.stack([draw.permutation(5)[:4] for _ in range(6)])
        clean, corrupt = half.repeat(1, 2)[:, :6], half.repeat(1, 2)[:, :6]
        corrupt[:, [2, 3]] = corrupt[:, [3, 2]]

        def probe(m):
            return m.patch_effects(run_of(weights), clean, corrupt, 5, clean[:, 2])

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_float32(self, agree, draw):
        """In float32 the effects are float32."""
        weights, clean, corrupt, place, wanted = patch_task(draw, dtype=torch.float32)
        weights["unembed"] = 30 * weights["unembed"]
        agree(lambda m: m.patch_effects(run_of(weights), clean, corrupt, place, wanted), rtol=0.02, atol=0.02)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """The effects have no graph, also where the weights have gradients."""
        weights, *rest = patch_task(draw)

        def probe(m):
            got = m.patch_effects(run_of({name: leaf(w) for name, w in weights.items()}), *rest)
            return "there is a graph" if got.requires_grad else got

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        weights, clean, corrupt = model(draw, dtype=F64), draw.integers(0, 7, 4, 6, layout=layout), draw.integers(0, 7, 4, 6, layout=layout)
        corrupt, wanted = corrupt + (corrupt == clean), draw.integers(0, 7, 4, 2, layout=layout)[:, 1]
        weights["embed"] = torch.cat([weights["embed"], draw.normal(1, 6, dtype=F64)])
        agree(lambda m: m.patch_effects(run_of(weights), clean, corrupt, 4, wanted), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("shape", with_ones(3, 5))
    def test_shapes(self, agree, draw, shape):
        """Texts of one token, and one text."""
        B, T = shape
        weights, clean = model(draw, dtype=F64), draw.integers(0, 7, B, T)
        corrupt, wanted = (clean + 1) % 7, draw.integers(0, 7, B)
        agree(lambda m: m.patch_effects(run_of(weights), clean, corrupt, T - 1, wanted), rtol=1e-4, atol=1e-5)
