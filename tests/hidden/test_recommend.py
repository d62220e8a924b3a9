"""Hidden suite of the module recommend."""

import math

import pytest
import torch
from torch.nn import functional as F

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


# MatrixFactorization


def tables(draw, U, N, D, dtype=torch.float32):
    """Drawn weights for all four tables, and a mean."""
    shapes = {"user_factors": (U, D), "item_factors": (N, D), "user_biases": (U, 1), "item_biases": (N, 1)}
    state = {f"{name}.weight": draw.normal(*shape, dtype=dtype) for name, shape in shapes.items()}
    return state | {"mean": 3 + draw.normal(dtype=dtype)}


def factorization(m, state):
    """The student's model with the given weights."""
    (U, D), N = state["user_factors.weight"].shape, len(state["item_factors.weight"])
    model = m.MatrixFactorization(U, N, D).to(state["mean"].dtype)
    model.load_state_dict(state)
    return model


@task("MatrixFactorization")
class TestMatrixFactorization:
    @pytest.mark.parametrize("shape", [(7,), (3, 5), ()])
    def test_scores(self, agree, draw, shape):
        """Mean, both biases and the product of the factors make the score, for pairs in any shape."""
        state, users, items = tables(draw, 11, 13, 5), draw.integers(0, 11, *shape), draw.integers(0, 13, *shape)
        agree(lambda m: factorization(m, state)(users, items), rtol=1e-4, atol=1e-4)

    def test_shapes_that_broadcast(self, agree, draw):
        """One user may be paired with many items, and many users with one item."""
        state, users, items = tables(draw, 11, 13, 5), draw.integers(0, 11, 4, 1), draw.integers(0, 13, 4, 3)

        def probe(m):
            model = factorization(m, state)
            return model(users, items), model(users[:, 0], items[0, 0]), model(users[0, 0], items), model(users, items[0])

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_sizes_of_one_and_none(self, agree, draw):
        """One user, one item, one factor; one pair, and no pair."""
        cases = [(tables(draw, *sizes), [draw.integers(0, size, 4) for size in sizes[:2]]) for sizes in with_ones(11, 13, 5)]

        def probe(m):
            out = []
            for state, (users, items) in cases:
                model = factorization(m, state)
                out += [model(users, items), model(users[:1], items[:1]), model(users[:0], items[:0]), model.all_scores(users[:1])]
            return out

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_sparse_gradients(self, agree, draw):
        """Each table's gradient is sparse, with the rows that were looked up and no others."""
        state, n = tables(draw, 101, 103, 5, F64), draw.integer(3, 9)
        users, items, w = draw.integers(0, 101, n), draw.integers(0, 103, n), draw.normal(n, dtype=F64)

        def probe(m):
            model = factorization(m, state)
            (model(users, items) * w).sum().backward()
            return {name: (p.grad.coalesce().indices(), p.grad.to_dense()) for name, p in sorted(model.named_parameters())}

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_an_optimizer_leaves_the_others_alone(self, agree, draw):
        """With SparseAdam, rows that a batch does not look up stay, also if they were looked up before."""
        state = tables(draw, 11, 13, 5)
        batches = [(draw.integers(0, 11, 4), draw.integers(0, 13, 4), draw.normal(4)) for _ in range(3)]

        def probe(m):
            model = factorization(m, state)
            optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=0.1)
            for users, items, ratings in batches:
                optimizer.zero_grad()
                F.mse_loss(model(users, items), ratings).backward()
                optimizer.step()
            return dict(sorted(model.state_dict().items()))

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_all_scores(self, agree, draw):
        """All items are scored for each user, as forward scores them."""
        state, users = tables(draw, 11, 13, 5), draw.integers(0, 11, 6)

        def probe(m):
            model = factorization(m, state)
            return model.all_scores(users), model.all_scores(users[:0]), model(users[:, None], torch.arange(13)).detach()

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_all_scores_without_a_graph(self, agree, draw):
        """all_scores records no graph, and leaves the gradient mode as it is."""
        state, users = tables(draw, 11, 13, 5), draw.integers(0, 11, 6)

        def probe(m):
            model = factorization(m, state)
            scores, on = model.all_scores(users), torch.is_grad_enabled()
            with torch.no_grad():
                model.all_scores(users)
                off = torch.is_grad_enabled()
            return scores, scores.requires_grad, on, off, model(users, users).requires_grad

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_start(self, student, reference, draw):
        """Factors start normal with deviation 0.1, biases at 0, the mean as given."""
        U, N, D, mean = draw.integer(200, 400), draw.integer(200, 400), draw.integer(5, 9), draw.integer(-99, 99) / 7

        def probe(m):
            torch.manual_seed(U + N)
            return dict(sorted(m.MatrixFactorization(U, N, D, mean=mean).state_dict().items()))

        got, due = student(probe), reference(probe)
        for name in ("user_factors.weight", "item_factors.weight"):
            w = got[name].double()
            fourth = (w / 0.1).pow(4).mean().item()
            assert abs(w.std().item() - 0.1) < 0.02, f"{name} has the deviation {w.std():.3f} at first, and not 0.1."
            assert abs(w.mean().item()) < 0.03, f"{name} has the mean {w.mean():.3f} at first, and not 0."
            assert 1.5 < fourth < 6, f"{name} is not normal at first."
        for name in ("user_biases.weight", "item_biases.weight", "mean"):
            error = (got[name] - due[name]).abs().max().item()
            assert error < 1e-4, f"{name} differs by {error:.3g} at first."

    @measured("flags")
    def test_state(self, agree, draw):
        """The state_dict holds four weights and the mean; only the weights are parameters, and the mean follows load and dtype."""
        U, N, D = draw.integer(2, 50), draw.integer(2, 50), draw.integer(2, 50)
        state, users = tables(draw, U, N, D, F64), draw.integers(0, U, 3)

        def probe(m):
            model = m.MatrixFactorization(U, N, D, mean=1.5)
            start = model.mean.clone()
            shapes = {name: (tuple(value.shape), value.dtype) for name, value in sorted(model.state_dict().items())}
            model.double().load_state_dict(state)
            names = sorted(name for name, p in model.named_parameters() if p.requires_grad)
            buffers = [name for name, _ in model.named_buffers()]
            return shapes, names, buffers, start, model.mean, model(users, users.new_zeros(3))

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_the_usual_mean(self, agree, draw):
        """If nothing is said, the mean is 0; a mean of 0 can be said, too."""
        state = tables(draw, 5, 7, 3)
        weights = {name: value for name, value in state.items() if name != "mean"}
        users, items = draw.integers(0, 5, 4), draw.integers(0, 7, 4)

        def probe(m):
            out = []
            for model in (
                m.MatrixFactorization(5, 7, 3),
                m.MatrixFactorization(5, 7, 3, mean=0.0),
                m.MatrixFactorization(5, 7, 3, mean=-2),
            ):
                model.load_state_dict(weights, strict=False)
                out.append((model(users, items), model.mean))
            return out

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        state, users, items = tables(draw, 11, 13, 5, F64), draw.integers(0, 11, 7), draw.integers(0, 13, 7)

        def probe(m):
            model = factorization(m, state)
            return model(users, items), model.all_scores(users)

        agree(probe, rtol=1e-12, atol=1e-12)


# sample_negatives


def tastes(draw, U, N, p=0.3, low=1, high=100):
    """What users like, each at least one item and none all, and how popular the items are."""
    positives = draw.bools(U, N, p=p)
    rows, first, second = torch.arange(U), draw.integers(0, N, U), draw.integers(1, N, U)
    positives[rows, first] = True
    positives[rows, (first + second) % N] = False
    return positives, draw.integers(low, high, N)


def draws(m, users, positives, popularity, n, seed, **settings):
    """What the student draws with a fresh generator."""
    return m.sample_negatives(users, positives, popularity, n, generator=torch.Generator().manual_seed(seed), **settings)


def check_frequencies(got, users, positives, popularity, power):
    """Assert that what was drawn for each user has the frequencies that are due. Fails a right answer once in 10⁸ times."""
    weights = torch.where(positives[users], 0.0, popularity.double() ** power)
    p = weights / weights.sum(1, keepdim=True)
    n = got.shape[1]
    counts = torch.zeros_like(p).scatter_add_(1, got, torch.ones_like(got, dtype=F64))
    never = int(counts[p == 0].sum())
    liked = int(positives[users].gather(1, got).sum())
    assert liked == 0, f"{liked} of {got.numel()} drawn items are positives of their user."
    assert never == 0, f"{never} of {got.numel()} drawn items could not be drawn."
    likely = n * p > 20
    chi = ((counts - n * p)[likely].square() / (n * p)[likely]).sum().item()
    df = int(likely.sum())
    limit = df * (1 - 2 / (9 * df) + 6 * math.sqrt(2 / (9 * df))) ** 3
    assert chi < limit, f"The frequencies are not the due ones: χ² is {chi:.0f}, and more than {limit:.0f} is no chance any more."


@task("sample_negatives")
class TestSampleNegatives:
    @pytest.mark.parametrize("power", [None, 0.75, 1.0, 0.5, 0.0, 2])
    def test_frequencies(self, student, draw, power):
        """No positive is drawn, and others come in proportion to popularity ** power, which is 0.75 if nothing is said."""
        positives, popularity = tastes(draw, 5, 11)
        users, seed = draw.permutation(5)[:4], draw.seed()
        settings = {} if power is None else {"power": power}
        got = student(lambda m: draws(m, users, positives, popularity, 4000, seed, **settings), within=(0, 10))
        check_frequencies(got, users, positives, popularity, 0.75 if power is None else power)

    def test_huge_differences(self, student, draw):
        """Popularities from 0 to a billion, as whole numbers and as floating ones."""
        positives, _ = tastes(draw, 3, 9)
        popularity = draw.magnitudes(9, low=1, high=1e9, dtype=F64).abs().round()
        popularity[draw.integer(0, 9)] = 0
        positives[:, popularity.argmax()] = False
        users, seed = torch.arange(3), draw.seed()
        for given in (popularity.long(), popularity, popularity.float()):
            got = student(lambda m, given=given: draws(m, users, positives, given, 3000, seed), within=(0, 8))
            check_frequencies(got, users, positives, popularity, 0.75)

    def test_unpopular_items(self, student, draw):
        """Items of popularity 0 are never drawn; with power 0 they are as likely as others."""
        positives, popularity = tastes(draw, 4, 13, p=0.2)
        popularity[draw.permutation(13)[:5]] = 0
        popularity[draw.permutation(13)[:3]] = 7
        positives[:, popularity.argmax()] = False
        users, seed = torch.arange(4), draw.seed()
        for power in (0.75, 0.0, 0):
            got = student(lambda m, power=power: draws(m, users, positives, popularity, 3000, seed, power=power), within=(0, 12))
            check_frequencies(got, users, positives, popularity, power)

    def test_few_candidates(self, student, draw):
        """A user who likes nearly all items gets the few others, with replacement."""
        N = draw.integer(60, 90)
        positives = torch.ones(3, N, dtype=torch.bool)
        for user in range(3):
            positives[user, draw.permutation(N)[: user + 1]] = False
        popularity, users, seed = draw.integers(20, 30, N), torch.tensor([2, 0, 1]), draw.seed()
        got = student(lambda m: draws(m, users, positives, popularity, 500, seed), within=(0, N - 1))
        check_frequencies(got, users, positives, popularity, 0.75)

    def test_users_are_independent(self, student, draw):
        """A user who comes twice gets draws of each row's own, and draws of one row are independent of each other."""
        positives, popularity = tastes(draw, 4, 11)
        user, seed, n = draw.integer(0, 4), draw.seed(), 4000
        users = torch.tensor([user, user])
        got = student(lambda m: draws(m, users, positives, popularity, n, seed), within=(0, 10))
        check_frequencies(got, users, positives, popularity, 0.75)
        weights = torch.where(positives[user], 0.0, popularity.double() ** 0.75)
        same = (weights / weights.sum()).square().sum().item()
        for what, a, b in (("two rows of one user", got[0], got[1]), ("neighbours in a row", got[0, 1:], got[0, :-1])):
            share, deviation = (a == b).double().mean().item(), math.sqrt(same * (1 - same) / n)
            assert abs(share - same) < 8 * deviation + 1e-9, f"{what} agree in {share:.1%} of all draws, and not in {same:.1%}."

    def test_with_replacement(self, student, draw):
        """An item may come several times among few draws of a user, too."""
        positives, popularity = tastes(draw, 4, 17)
        user, seed, n = draw.integer(0, 4), draw.seed(), 4000
        users = torch.full((n,), user)
        got = student(lambda m: draws(m, users, positives, popularity, 2, seed), within=(0, 16))
        check_frequencies(got.T.reshape(1, -1), users[:1], positives, popularity, 0.75)
        weights = torch.where(positives[user], 0.0, popularity.double() ** 0.75)
        same = (weights / weights.sum()).square().sum().item()
        share = (got[:, 0] == got[:, 1]).double().mean().item()
        limit = 8 * math.sqrt(same * (1 - same) / n)
        assert abs(share - same) < limit + 1e-9, f"Two draws of a row agree in {share:.1%} of all rows, and not in {same:.1%}."

    def test_the_generator_decides(self, student, draw):
        """The same state of the generator gives the same draws, and the next call gives others."""
        positives, popularity = tastes(draw, 4, 29)
        users, seed, other = torch.arange(4), draw.seed(), draw.seed()

        def probe(m):
            torch.manual_seed(other)
            generator = torch.Generator().manual_seed(seed)
            first = [m.sample_negatives(users, positives, popularity, 900, generator=generator) for _ in range(2)]
            torch.manual_seed(other + 1)
            return [*first, draws(m, users, positives, popularity, 900, seed), draws(m, users, positives, popularity, 900, seed + 1)]

        got = student(probe, within=(0, 28))
        for part in got:
            check_frequencies(part, users, positives, popularity, 0.75)
        assert torch.equal(got[0], got[2]), "Two generators in the same state give different draws."
        assert not torch.equal(got[0], got[1]), "The same generator gives the same draws again: its state does not move on."
        assert not torch.equal(got[0], got[3]), "Two seeds give the same draws."

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, student, draw, layout):
        """Arguments may lie in memory in any way; a user may be drawn for once, for one item."""
        positives = draw.bools(6, 17, p=0.4, layout=layout)
        if layout == "expanded":
            positives = positives[:1].clone().expand(6, 17)
        popularity = draw.integers(1, 100, 34)[::2]
        users, seed = draw.integers(0, 6, 10)[::2], draw.seed()
        got = student(lambda m: draws(m, users, positives, popularity, 2000, seed), within=(0, 16))
        check_frequencies(got, users, positives, popularity, 0.75)
        one = student(lambda m: draws(m, users[:1], positives, popularity, 1, seed), within=(0, 16))
        assert one.shape == (1, 1), f"One item for one user has the shape {tuple(one.shape)}, and not (1, 1)."

    def test_errors(self, student, reference, draw):
        """A user without anything to draw is a ValueError, unless nobody asks for that user."""
        positives, popularity = tastes(draw, 5, 11, p=0.2)
        positives[3] = True
        popularity[5] = 0
        positives[4] = torch.arange(11) != 5
        seed = draw.seed()

        def probe(m):
            bad = [([0, 3], 0.75), ([3], 0.0), ([4, 1], 0.75), ([4], 1.0)]
            ends = [raised(ValueError, lambda u=u, p=p: draws(m, torch.tensor(u), positives, popularity, 2, seed, power=p)) for u, p in bad]
            return [str(end) for end in ends], draws(m, torch.tensor([0, 1]), positives, popularity, 900, seed)

        got, due = student(probe, within=(0, 10)), reference(probe)
        check_frequencies(got[1], torch.tensor([0, 1]), positives, popularity, 0.75)
        assert got[0] == due[0], f"Where there is nothing to draw, the calls end so: {got[0]}."


# bpr_loss


@task("bpr_loss")
class TestBprLoss:
    def test_values(self, agree, draw):
        """The loss is the mean over all pairs."""
        positive, negative = draw.normal(7), 3 * draw.normal(7, 5)
        agree(lambda m: m.bpr_loss(positive, negative), rtol=1e-4, atol=1e-5)

    def test_mask(self, agree, draw):
        """Pairs that the mask hides count nothing; the mean is over the others, not over rows first."""
        positive, negative, mask = draw.normal(7), 3 * draw.normal(7, 5), draw.bools(7, 5)
        mask[0], mask[1] = True, False
        agree(lambda m: m.bpr_loss(positive, negative, mask), rtol=1e-4, atol=1e-5)

    def test_gradients(self, agree, draw):
        """Gradients reach both scores."""
        positive, negative, mask = draw.normal(7, dtype=F64), 3 * draw.normal(7, 5, dtype=F64), draw.bools(7, 5)
        mask[0] = True

        def probe(m):
            out = []
            for some in (None, mask):
                leaves = leaf(positive), leaf(negative)
                loss = m.bpr_loss(*leaves, some)
                out.append((loss.detach(), torch.autograd.grad(loss, leaves)))
            return out

        agree(probe, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_large_differences(self, agree, draw, sign):
        """Differences up to ±10⁴ give a right loss and right gradients."""
        sizes = [draw.magnitudes(23, 1, low=low, high=high).abs() for low, high in ((1e-3, 1), (10, 100), (100, 1e4))]

        def probe(m):
            out = []
            for size in sizes:
                leaves = leaf(torch.ones(23)), leaf(1 + sign * size)
                loss = m.bpr_loss(*leaves)
                out.append((loss.detach(), torch.autograd.grad(loss, leaves)))
            return out

        agree(probe, rtol=1e-4, atol=1e-8)

    def test_small_losses(self, agree, draw):
        """In float64, the loss of a large positive difference is exact: exp(−difference), down to 1e-300."""
        size = draw.uniform(19, low=20, high=600, dtype=F64)
        agree(lambda m: [m.bpr_loss(s[None], torch.zeros(1, 1, dtype=F64)) for s in size], rtol=1e-9, atol=0)

    def test_hidden_poison(self, agree, draw):
        """NaN and inf behind the mask reach neither the loss nor a gradient."""
        positive, mask = draw.normal(7), draw.bools(7, 5)
        mask[0], mask[1] = True, False
        negative = draw.poisoned(draw.normal(7, 5), ~mask)

        def probe(m):
            leaves = leaf(positive), leaf(negative)
            loss = m.bpr_loss(*leaves, mask)
            return loss.detach(), torch.autograd.grad(loss, leaves)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_nothing_kept(self, agree, draw):
        """Without any pair the loss is 0, and so are the gradients."""
        positive, negative = draw.normal(7), draw.normal(7, 5)

        def probe(m):
            out = []
            cases = [
                (7, 5, torch.zeros(7, 5, dtype=torch.bool)),
                (7, 0, None),
                (0, 5, None),
                (0, 5, torch.ones(0, 5, dtype=torch.bool)),
                (7, 5, None),
            ]
            for B, N, mask in cases:
                leaves = leaf(positive[:B]), leaf(negative[:B, :N])
                loss = m.bpr_loss(*leaves, mask)
                out.append((loss.detach(), torch.autograd.grad(loss, leaves)))
            return out

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("shape", with_ones(7, 5))
    def test_sizes_of_one(self, agree, draw, shape):
        """One user, or one negative for each."""
        positive, negative, mask = draw.normal(shape[0]), draw.normal(*shape), draw.bools(*shape)
        agree(lambda m: [m.bpr_loss(positive, negative), m.bpr_loss(positive, negative, mask)], rtol=1e-4, atol=1e-5)

    def test_as_many_negatives_as_users(self, agree, draw):
        """With as many negatives as users, each row belongs to one user."""
        positive, negative, mask = 3 * draw.normal(6), 3 * draw.normal(6, 6), draw.bools(6, 6)
        agree(lambda m: [m.bpr_loss(positive, negative), m.bpr_loss(positive, negative, mask)], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way."""
        positive, negative, mask = draw.normal(46)[::2], draw.normal(23, 7, layout=layout), draw.bools(23, 7, layout=layout)
        agree(lambda m: [m.bpr_loss(positive, negative, mask), m.bpr_loss(positive, negative)], rtol=1e-4, atol=1e-5)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        positive, negative, mask = draw.normal(7, dtype=F64), 3 * draw.normal(7, 5, dtype=F64), draw.bools(7, 5)
        agree(lambda m: [m.bpr_loss(positive, negative), m.bpr_loss(positive, negative, mask)], rtol=1e-12, atol=1e-13)


# ranking_metrics


def rankings(draw, U, N, p=0.2, dtype=torch.float32):
    """Scores without ties, and relevant items, for each user at least one."""
    relevant = draw.bools(U, N, p=p)
    relevant[torch.arange(U), draw.integers(0, N, U)] = True
    return draw.normal(U, N, dtype=dtype), relevant


@task("ranking_metrics")
class TestRankingMetrics:
    @pytest.mark.parametrize("k", [1, 2, 5, 10])
    def test_values(self, agree, draw, k):
        """All three metrics are right, for users with one or several relevant items."""
        scores, relevant = rankings(draw, 23, 17)
        agree(lambda m: m.ranking_metrics(scores, relevant, k), rtol=1e-9, atol=1e-9)

    def test_one_item_held_out(self, agree, draw):
        """With one relevant item a user, as after leave-last-out, ndcg and mrr depend on its rank alone."""
        scores, relevant = draw.normal(29, 13), torch.zeros(29, 13, dtype=torch.bool)
        relevant[torch.arange(29), draw.integers(0, 13, 29)] = True
        agree(lambda m: [m.ranking_metrics(scores, relevant, k) for k in (1, 3, 7)], rtol=1e-9, atol=1e-9)

    def test_ties(self, agree, draw):
        """Where scores are equal, items that are not relevant come first."""
        scores, (_, relevant) = draw.integers(0, 4, 31, 17).float(), rankings(draw, 31, 17)
        agree(lambda m: [m.ranking_metrics(scores, relevant, k) for k in (1, 3, 9)], rtol=1e-9, atol=1e-9)

    def test_constant_scores(self, agree, draw):
        """A model that gives all items the same score hits nothing, until k is so large that it must."""
        constant, (scores, relevant) = torch.full((19, 13), float(draw.integer(-9, 9))), rankings(draw, 19, 13)
        agree(lambda m: [m.ranking_metrics(s, relevant, k) for s in (constant, scores) for k in (1, 5, 11, 13)], rtol=1e-9, atol=1e-9)

    def test_users_without_relevant_items(self, agree, draw):
        """Users without relevant items are left out, instead of counting as 0 or NaN."""
        scores, relevant = rankings(draw, 23, 17)
        relevant[draw.permutation(23)[: draw.integer(3, 20)]] = False
        agree(lambda m: [m.ranking_metrics(scores, relevant, k) for k in (1, 4)], rtol=1e-9, atol=1e-9)

    def test_more_places_than_items(self, agree, draw):
        """There may be fewer items than k, and fewer relevant ones."""
        scores, relevant = rankings(draw, 11, 7, p=0.6)
        agree(lambda m: [m.ranking_metrics(scores, relevant, k) for k in (5, 6, 7, 8, 100)], rtol=1e-9, atol=1e-9)

    def test_more_relevant_items_than_places(self, agree, draw):
        """The best ranking has no more than k places either: ndcg can reach 1."""
        scores, relevant = rankings(draw, 11, 17, p=0.7)
        perfect = relevant + 0.5 * scores.sigmoid()
        agree(lambda m: [m.ranking_metrics(s, relevant, k) for s in (scores, perfect) for k in (1, 3, 5)], rtol=1e-9, atol=1e-9)

    def test_hidden_items(self, agree, draw):
        """Items with the score −inf come last, relevant ones behind the others; +inf comes first."""
        scores, relevant = rankings(draw, 23, 17)
        scores[draw.bools(23, 17, p=0.4)] = -math.inf
        scores[0], scores[1, draw.permutation(17)[:3]] = -math.inf, math.inf
        agree(lambda m: [m.ranking_metrics(scores, relevant, k) for k in (1, 5, 12, 17)], rtol=1e-9, atol=1e-9)

    def test_close_and_huge_scores(self, agree, draw):
        """Scores that differ in float64's last digits are not equal; their size does not matter."""
        scores, relevant = rankings(draw, 23, 17, dtype=F64)
        close = 1 + 1e-13 * draw.integers(0, 50, 23, 17).double()
        huge = draw.magnitudes(23, 17, low=1e-30, high=1e30)
        agree(lambda m: [m.ranking_metrics(s, relevant, 4) for s in (scores, close, huge)], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("shape", with_ones(11, 13))
    def test_sizes_of_one(self, agree, draw, shape):
        """One user, or one item."""
        scores, relevant = rankings(draw, *shape)
        other, its = rankings(draw, 9, 8)
        agree(lambda m: [m.ranking_metrics(scores, relevant, 3), m.ranking_metrics(other, its, 3)], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Both may lie in memory in any way; there may be hundreds of items."""
        scores, relevant = draw.normal(37, 301, layout=layout), draw.bools(37, 301, p=0.02, layout=layout)
        if layout != "expanded":
            relevant[:, 0] = True
        else:
            relevant = relevant.clone().index_fill_(1, torch.tensor([0]), True)[:1].expand(37, 301)
        agree(lambda m: [m.ranking_metrics(scores, relevant, k) for k in (20, 299)], rtol=1e-9, atol=1e-9)

    def test_nobody(self, agree, draw):
        """If no user has a relevant item, or there is no user, that is a ValueError."""
        scores, relevant = rankings(draw, 11, 13)

        def probe(m):
            bad = [(scores, torch.zeros_like(relevant)), (scores[:0], relevant[:0])]
            return [raised(ValueError, lambda b=b: m.ranking_metrics(*b, 3)) for b in bad], m.ranking_metrics(scores, relevant, 3)

        agree(probe, rtol=1e-3, atol=1e-3)


# leave_last_out


@task("leave_last_out")
class TestLeaveLastOut:
    def test_split(self, agree, draw):
        """Each user's last interaction is for the test, the one before it for validation, whatever order they are listed in."""
        users, times = draw.integers(0, 9, 97), draw.permutation(97)
        agree(lambda m: m.leave_last_out(users, times), rtol=0, atol=0)

    def test_few_interactions(self, agree, draw):
        """Users with one or two interactions are for training as a whole; three are enough."""
        users = torch.arange(30).repeat_interleave(draw.integers(1, 5, 30))
        users, times = users[draw.permutation(len(users))], draw.integers(-(10**6), 10**6, len(users))
        agree(lambda m: m.leave_last_out(users, times), rtol=0, atol=0)

    def test_equal_times(self, agree, draw):
        """Of equal times, the one that stands later in the list is later."""
        users, times = draw.integers(0, 5, 211), draw.integers(0, 7, 211)
        agree(lambda m: [m.leave_last_out(users, times), m.leave_last_out(users, torch.zeros_like(times))], rtol=0, atol=0)

    def test_any_numbers(self, agree, draw):
        """Users may be any numbers: negative ones, huge ones, with gaps."""
        names = draw.integers(-(2**62), 2**62, 7)
        users, times = names[draw.integers(0, 7, 83)], draw.integers(-99, 99, 83)
        agree(lambda m: m.leave_last_out(users, times), rtol=0, atol=0)

    def test_nanoseconds(self, agree, draw):
        """Times in nanoseconds, which floats can't tell apart, and times before 1970."""
        users = draw.integers(0, 5, 83)
        times = draw.permutation(83) + draw.integer(2**60, 2**61)
        agree(lambda m: [m.leave_last_out(users, times), m.leave_last_out(users, -times)], rtol=0, atol=0)

    def test_one_user(self, agree, draw):
        """One user with any number of interactions, and no interactions at all."""
        times, user = draw.permutation(29), draw.integer(0, 99)
        agree(lambda m: [m.leave_last_out(torch.full((n,), user), times[:n]) for n in (29, 3, 2, 1, 0)], rtol=0, atol=0)

    def test_nothing_is_lost(self, student, draw):
        """Each interaction is in one of the three, and none of a user's training interactions is later than what is held out."""
        users, times = draw.integers(0, 40, 301), draw.permutation(301)
        train, validation, test = student(lambda m: m.leave_last_out(users, times), within=(0, 300))
        together = torch.cat([train, validation, test])
        assert torch.equal(together.sort().values, torch.arange(301)), "The three parts together are not all interactions."
        for user in users[test].tolist():
            latest = [max(times[part][users[part] == user].tolist(), default=-1) for part in (train, validation, test)]
            assert latest == sorted(latest), f"A user's latest times in the three parts are {latest}."

    @pytest.mark.parametrize("layout", ["sliced"])
    def test_layouts(self, agree, draw, layout):
        """Both may lie in memory in any way."""
        users, times = draw.integers(0, 9, 97, layout=layout), draw.integers(0, 50, 97, layout=layout)
        agree(lambda m: [m.leave_last_out(users, times), m.leave_last_out(users.flip(0), times)], rtol=0, atol=0)


# forecast_windows


@task("forecast_windows")
class TestForecastWindows:
    @pytest.mark.parametrize(("history", "horizon"), [(5, 2), (2, 5), (1, 1), (3, 3)])
    def test_windows(self, agree, draw, history, horizon):
        """Inputs and targets follow each other, on both sides of the cut, for different lengths."""
        series, cut = 5 + 3 * draw.normal(41, 3), draw.integer(15, 30)
        agree(lambda m: m.forecast_windows(series, history, horizon, cut), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("stride", [1, 2, 3, 7, 50])
    def test_stride(self, agree, draw, stride):
        """Windows begin at every stride-th step, on both sides from the first possible one on."""
        series, cut = draw.normal(53, 2), draw.integer(20, 40)
        agree(lambda m: m.forecast_windows(series, 4, 3, cut, stride=stride), rtol=1e-4, atol=1e-4)

    def test_only_the_past_is_fitted(self, agree, draw):
        """Mean and deviation are of the past: a later jump changes nothing of it."""
        series, cut = draw.normal(41, 3), draw.integer(15, 30)
        series[cut:] = 100 + 50 * series[cut:]
        agree(lambda m: m.forecast_windows(series, 4, 3, cut), rtol=1e-4, atol=1e-3)

    def test_the_future_does_not_leak(self, agree, draw):
        """NaN after the cut reaches neither training windows nor mean and deviation, and only those test windows that hold it."""
        series, cut = draw.normal(41, 3), draw.integer(15, 30)
        series = draw.poisoned(series, (torch.arange(41) >= cut + 5)[:, None])
        agree(lambda m: m.forecast_windows(series, 4, 3, cut), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("future", [0, 1, 2, 3, 4])
    def test_at_the_end(self, agree, draw, future):
        """With too little future there are no test windows, and the shapes stay; with just enough there is one."""
        series = draw.normal(29, 3)
        agree(lambda m: m.forecast_windows(series, 4, 3, 29 - future), rtol=1e-4, atol=1e-4)

    def test_just_enough_past(self, agree, draw):
        """With cut = history + horizon there is one training window."""
        series = draw.normal(23, 3)
        agree(lambda m: [m.forecast_windows(series, 4, 3, cut) for cut in (7, 8)], rtol=1e-4, atol=1e-4)

    def test_constant_features(self, agree, draw):
        """A feature with one value before the cut has the std 1, also where rounding leaves a deviation; a tiny deviation stays."""
        series, cut = draw.normal(41, 16, dtype=F64), 30
        series[:, 4:] = draw.uniform(12, low=0.1, high=9, dtype=F64)
        series[:, 1], series[:cut, 2], series[:, 3] = 0.1, 7.3, 0.1 + 1e-9 * series[:, 3]
        agree(lambda m: m.forecast_windows(series, 4, 3, cut), rtol=1e-5, atol=1e-5)

    def test_large_offsets(self, agree, draw):
        """A small deviation beside a large mean is computed from differences."""
        series, cut = 1000 + 0.1 * draw.normal(61, 3), draw.integer(30, 50)
        agree(lambda m: m.forecast_windows(series, 4, 3, cut), rtol=1e-2, atol=1e-2)

    def test_divided_by_all(self, agree, draw):
        """The variance is divided by the number of steps, which matters for a short past."""
        series = draw.normal(9, 3, dtype=F64)
        agree(lambda m: m.forecast_windows(series, 2, 1, 3), rtol=1e-9, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """One feature."""
        series = draw.normal(23, 1)
        agree(lambda m: [m.forecast_windows(series, h, p, 15) for h, p in ((1, 4), (4, 1))], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The series may lie in memory in any way, and is left as it is."""
        series = draw.normal(67, 5, layout=layout)
        agree(lambda m: m.forecast_windows(series, 6, 3, 41, stride=2), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        series = draw.normal(41, 3, dtype=F64)
        agree(lambda m: m.forecast_windows(series, 4, 3, 25), rtol=1e-12, atol=1e-12)

    def test_errors(self, agree, draw):
        """A cut that leaves no training window, or lies behind the series, is a ValueError."""
        series = draw.normal(23, 3)

        def probe(m):
            bad = [(4, 3, 6), (4, 3, 24), (4, 3, 0), (4, 3, -5), (20, 4, 23), (1, 1, 1)]
            ends = [raised(ValueError, lambda b=b: m.forecast_windows(series, *b)) for b in bad]
            return ends, m.forecast_windows(series, 4, 3, 23)

        agree(probe, rtol=1e-2, atol=1e-2)


# graph_convolution


def graph(draw, N, E, D, F, dtype=torch.float32):
    """Features, edges and the layer's weights."""
    return draw.normal(N, D, dtype=dtype), draw.integers(0, N, 2, E), draw.normal(D, F, dtype=dtype), draw.normal(F, dtype=dtype)


def dense(x, edges, weight, bias):
    """The formula with matrices."""
    A = torch.eye(len(x), dtype=x.dtype)
    A.index_put_((edges[1], edges[0]), torch.ones(edges.shape[1], dtype=x.dtype), accumulate=True)
    scale = A.sum(1).rsqrt()
    return scale[:, None] * A * scale @ x @ weight + bias


@task("graph_convolution")
class TestGraphConvolution:
    def test_values(self, agree, draw):
        """Features are mixed along the edges, with both nodes' degrees."""
        given = graph(draw, 11, 29, 5, 3)
        agree(lambda m: m.graph_convolution(*given), rtol=1e-4, atol=1e-4)

    def test_the_dense_formula(self, student, draw):
        """The result is that of the formula with matrices."""
        given = graph(draw, 13, 41, 5, 3, F64)
        got, want = student(lambda m: m.graph_convolution(*given)), dense(*given)
        error = (got - want).abs().max().item()
        assert error < 1e-9, f"The result differs from the dense formula by up to {error:.3g}."

    def test_direction(self, agree, draw):
        """An edge leads from edges[0] to edges[1]; degrees are of edges that end in a node."""
        x, _, weight, bias = graph(draw, 7, 1, 5, 3)
        star = torch.stack([torch.arange(1, 7), torch.zeros(6, dtype=torch.long)])
        agree(lambda m: [m.graph_convolution(x, e, weight, bias) for e in (star, star.flip(0))], rtol=1e-4, atol=1e-4)

    def test_edges_that_stand_twice(self, agree, draw):
        """An edge counts as often as it stands in the list."""
        x, edges, weight, bias = graph(draw, 7, 9, 5, 3)
        edges = edges[:, draw.integers(0, 9, 40)]
        agree(lambda m: m.graph_convolution(x, edges, weight, bias), rtol=1e-4, atol=1e-4)

    def test_loops_in_the_list(self, agree, draw):
        """An edge from a node to itself counts beside the one that is added."""
        x, edges, weight, bias = graph(draw, 7, 9, 5, 3)
        edges = torch.cat([edges, torch.arange(7)[draw.permutation(7)[:4]].expand(2, 4)], dim=1)
        agree(lambda m: m.graph_convolution(x, edges, weight, bias), rtol=1e-4, atol=1e-4)

    def test_isolated_nodes(self, agree, draw):
        """A node without edges keeps its features; so does every node if there are no edges."""
        x, edges, weight, bias = graph(draw, 17, 7, 5, 3)
        agree(lambda m: [m.graph_convolution(x, e, weight, bias) for e in (edges, edges[:, :0])], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("with_bias", [True, False])
    def test_gradients(self, agree, draw, with_bias):
        """Gradients reach features, weight and bias."""
        x, edges, weight, bias = graph(draw, 11, 29, 5, 3, F64)
        w = draw.normal(11, 3, dtype=F64)

        def probe(m):
            leaves = [leaf(x), leaf(weight), *([leaf(bias)] if with_bias else [])]
            y = m.graph_convolution(leaves[0], edges, *leaves[1:])
            return y.detach(), torch.autograd.grad((y * w).sum(), leaves)

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_without_bias(self, agree, draw):
        """Without a bias nothing is added."""
        x, edges, weight, _ = graph(draw, 11, 29, 5, 3)
        agree(lambda m: [m.graph_convolution(x, edges, weight), m.graph_convolution(x, edges, weight, None)], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", with_ones(11, 29, 5, 3))
    def test_sizes_of_one(self, agree, draw, shape):
        """One node, one edge, one feature in or out."""
        given = graph(draw, *shape)
        agree(lambda m: m.graph_convolution(*given), rtol=1e-4, atol=1e-4)

    def test_two_edges(self, agree, draw):
        """With two edges, the list is a square matrix, and still has starts in its first row."""
        given = graph(draw, 5, 2, 3, 2)
        agree(lambda m: m.graph_convolution(*given), rtol=1e-4, atol=1e-4)

    def test_poison_stays_with_its_neighbours(self, agree, draw):
        """NaN of one node reaches the nodes to which it has an edge, and itself, and no others."""
        x, edges, weight, bias = graph(draw, 23, 31, 5, 3)
        x[draw.permutation(23)[:2]] = math.nan
        agree(lambda m: m.graph_convolution(x, edges, weight, bias), rtol=1e-4, atol=1e-4)

    def test_a_large_graph(self, agree, draw):
        """A hundred thousand nodes: a matrix of all pairs would not fit into memory."""
        N = draw.integer(90_000, 100_000)
        x, edges, weight, bias = graph(draw, N, 2 * N, 2, 1)
        agree(lambda m: m.graph_convolution(x, edges, weight, bias), rtol=1e-3, atol=1e-3)

    def test_a_hub(self, agree, draw):
        """Degrees of thousands are counted rightly."""
        x, _, weight, bias = graph(draw, 5003, 1, 2, 3)
        edges = torch.stack([torch.arange(5003), torch.full((5003,), draw.integer(0, 5003))])
        agree(lambda m: m.graph_convolution(x, torch.cat([edges, edges.flip(0)], dim=1), weight, bias), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way."""
        x, weight, bias = draw.normal(37, 5, layout=layout), draw.normal(5, 7, layout=layout), draw.normal(14)[::2]
        edges = draw.integers(0, 37, 2, 90, layout=layout)
        agree(lambda m: m.graph_convolution(x, edges, weight, bias), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        given = graph(draw, 11, 29, 5, 3, F64)
        agree(lambda m: m.graph_convolution(*given), rtol=1e-12, atol=1e-12)
