"""Examples for the module recommend. Run one task's with `pytest tests/public -k bpr_loss`."""

import math

import pytest
import torch
from recommend import (
    MatrixFactorization,
    bpr_loss,
    forecast_windows,
    graph_convolution,
    leave_last_out,
    ranking_metrics,
    sample_negatives,
)
from torch.testing import assert_close


def small_model():
    """Two users, three items, one factor."""
    model = MatrixFactorization(2, 3, 1, mean=3.0)
    model.load_state_dict(
        {
            "user_factors.weight": torch.tensor([[1.0], [2.0]]),
            "item_factors.weight": torch.tensor([[0.5], [-1.0], [3.0]]),
            "user_biases.weight": torch.tensor([[0.1], [0.2]]),
            "item_biases.weight": torch.tensor([[0.0], [0.4], [0.0]]),
            "mean": torch.tensor(3.0),
        }
    )
    return model


def test_MatrixFactorization_scores():
    """User 1 and item 1: 3 + 0.2 + 0.4 + 2 · (−1) = 1.6."""
    model = small_model()
    assert_close(model(torch.tensor([1, 0]), torch.tensor([1, 2])).detach(), torch.tensor([1.6, 6.1]))
    assert_close(model.all_scores(torch.tensor([1])), torch.tensor([[4.2, 1.6, 9.2]]))


def test_MatrixFactorization_has_sparse_gradients():
    """Only item 2 was looked up; its factor's gradient is the user's factor."""
    model = small_model()
    model(torch.tensor([1]), torch.tensor([2])).sum().backward()
    gradient = model.item_factors.weight.grad
    assert gradient.is_sparse
    assert gradient.coalesce().indices().tolist() == [[2]]
    assert_close(gradient.to_dense(), torch.tensor([[0.0], [0.0], [2.0]]))


def test_sample_negatives_leaves_positives_out():
    """User 0 likes item 0. Item 2 is 16 times as popular as item 1: with power ¾ it comes 8 times as often."""
    positives = torch.tensor([[True, False, False]])
    generator = torch.Generator().manual_seed(0)
    got = sample_negatives(torch.tensor([0]), positives, torch.tensor([5, 1, 16]), 9000, generator=generator)
    counts = got[0].bincount(minlength=3).tolist()
    assert counts[0] == 0
    assert 850 < counts[1] < 1150


def test_sample_negatives_needs_a_candidate():
    """A user who likes everything is refused."""
    with pytest.raises(ValueError):
        sample_negatives(torch.tensor([0]), torch.ones(1, 3, dtype=torch.bool), torch.ones(3), 2, generator=torch.Generator())


def test_bpr_loss_of_pairs():
    """Differences 0 and log 3: σ is 1/2 and 3/4."""
    loss = bpr_loss(torch.tensor([2.0]), torch.tensor([[2.0, 2.0 - math.log(3.0)]]))
    assert_close(loss, torch.tensor((math.log(2.0) + math.log(4 / 3)) / 2))


def test_bpr_loss_hides():
    """What the mask hides counts nothing, not even NaN."""
    negative = torch.tensor([[2.0, math.nan], [math.inf, 1.0]])
    mask = torch.tensor([[True, False], [False, False]])
    assert_close(bpr_loss(torch.tensor([2.0, 0.0]), negative, mask), torch.tensor(math.log(2.0)))


def test_ranking_metrics_of_two_users():
    """User 0 has a relevant item at rank 2, of 1; user 1 at ranks 1 and 4, of 2. User 2 has none, and is left out."""
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    relevant = torch.tensor([[False, True, False, False], [True, False, False, True], [False, False, False, False]])
    got = ranking_metrics(scores, relevant, 3)
    assert got["hit"] == pytest.approx(1.0)
    assert got["ndcg"] == pytest.approx((1 / math.log2(3) + 1 / (1 + 1 / math.log2(3))) / 2)
    assert got["mrr"] == pytest.approx((1 / 2 + 1) / 2)


def test_ranking_metrics_does_not_praise_constants():
    """All scores are equal: the relevant item comes last, at rank 3."""
    got = ranking_metrics(torch.zeros(1, 3), torch.tensor([[True, False, False]]), 2)
    assert got == {"hit": 0.0, "ndcg": 0.0, "mrr": 0.0}


def test_leave_last_out_by_time():
    """User 7 has the times 1 … 4 at the places 3, 0, 2, 4; user 5 has too few interactions."""
    users = torch.tensor([7, 5, 7, 7, 7, 5])
    times = torch.tensor([2, 9, 3, 1, 4, 8])
    train, validation, test = leave_last_out(users, times)
    assert train.tolist() == [0, 1, 3, 5]
    assert validation.tolist() == [2]
    assert test.tolist() == [4]


def test_forecast_windows_around_a_cut():
    """The past is 0, 2, 0, 2: mean 1, deviation 1. One window lies in it; two have their target at or after step 4."""
    got = forecast_windows(torch.tensor([[0.0], [2.0], [0.0], [2.0], [5.0], [6.0]]), 3, 1, 4)
    assert_close(got["mean"], torch.tensor([1.0]))
    assert_close(got["std"], torch.tensor([1.0]))
    assert_close(got["train_x"][..., 0], torch.tensor([[-1.0, 1.0, -1.0]]))
    assert_close(got["train_y"][..., 0], torch.tensor([[1.0]]))
    assert_close(got["test_x"][..., 0], torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 4.0]]))
    assert_close(got["test_y"][..., 0], torch.tensor([[4.0], [5.0]]))


def test_graph_convolution_of_two_nodes():
    """Edges 0 → 1, twice: d is 1 and 3. Node 1 gets x1 / 3 + 2 · x0 / √3."""
    x, edges = torch.tensor([[1.0], [6.0]]), torch.tensor([[0, 0], [1, 1]])
    got = graph_convolution(x, edges, torch.tensor([[10.0]]), torch.tensor([0.5]))
    assert_close(got, torch.tensor([[10.5], [20.5 + 20 / math.sqrt(3)]]))
