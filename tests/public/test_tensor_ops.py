"""Examples for the module tensor_ops. Run one task's with `pytest tests/public -k masked_mean`."""

import math

import pytest
import torch
from tensor_ops import (
    batched_bilinear,
    batched_gather,
    block_diagonal,
    broadcast_shape,
    log_sum_exp,
    masked_mean,
    one_hot,
    pairwise_distances,
    scatter_mean,
    sliding_windows,
    sparse_matvec,
    stable_softmax,
    topk_mask,
)
from torch.testing import assert_close

NAN, INF = math.nan, math.inf


def test_broadcast_shape_lines_up_at_the_end():
    """A size of 1, or one that is missing on the left, stretches."""
    assert broadcast_shape((3, 1), (2,)) == (3, 2)
    assert broadcast_shape((2, 1, 5), (4, 1)) == (2, 4, 5)


def test_broadcast_shape_refuses_sizes_that_differ():
    """2 and 3 do not fit, 3 and 3 do."""
    assert broadcast_shape((1, 3), (2, 3)) == (2, 3)
    with pytest.raises(ValueError):
        broadcast_shape((2, 3), (3, 2))


def test_pairwise_distances_of_a_right_triangle():
    """3² + 4² = 5², and a point is 0 away from itself."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    y = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert_close(pairwise_distances(x, y), torch.tensor([[0.0, 3.0, 4.0], [5.0, 4.0, 3.0]]))


def test_pairwise_distances_gradient_is_finite():
    """The zero distances of the points to themselves add nothing to the gradient."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    pairwise_distances(x, x.detach()).sum().backward()
    assert_close(x.grad, torch.tensor([[-0.6, -0.8], [0.6, 0.8]]))


def test_stable_softmax_of_large_scores():
    """Only differences of scores matter: the probabilities of 0 and log 3 are 1/4 and 3/4."""
    x = torch.tensor([0.0, math.log(3.0)])
    expected = torch.tensor([0.25, 0.75])
    assert_close(stable_softmax(x), expected)
    assert_close(stable_softmax(x.double() + 1e4), expected.double())  # double, since log 3 + 1e4 loses digits in float32


def test_stable_softmax_of_minus_infinity():
    """-inf has probability 0, also where there is nothing else."""
    x = torch.tensor([[0.0, -INF, 0.0], [-INF, -INF, -INF]])
    assert_close(stable_softmax(x), torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]))


def test_log_sum_exp_of_equal_entries():
    """Four times exp(a) is exp(a + log 4), for large a too."""
    x = torch.tensor([[0.0] * 4, [1e4] * 4, [-1e4] * 4])
    assert_close(log_sum_exp(x, dim=1), torch.tensor([0.0, 1e4, -1e4]) + math.log(4.0))


def test_log_sum_exp_of_minus_infinity():
    """The log of 0 is -inf, not NaN."""
    x = torch.tensor([[-INF, 2.0], [-INF, -INF]])
    assert_close(log_sum_exp(x, dim=1, keepdim=True), torch.tensor([[2.0], [-INF]]))


def test_masked_mean_skips_what_is_masked():
    """The NaN is masked, the second row has nothing left."""
    x = torch.tensor([[1.0, NAN, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert_close(masked_mean(x, mask, dim=1), torch.tensor([2.0, 0.0]))


def test_masked_mean_broadcasts_the_mask():
    """One mask for all rows: its two kept entries count for each row."""
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([True, False, True])
    assert_close(masked_mean(x, mask, dim=1), torch.tensor([2.0, 5.0]))
    assert_close(masked_mean(x, mask, dim=0), torch.tensor([2.5, 0.0, 4.5]))


def test_one_hot_of_labels():
    """One row a label, one column a class."""
    expected = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert_close(one_hot(torch.tensor([2, 0]), 3), expected)
    assert_close(one_hot(torch.tensor(2), 4, dtype=torch.int64), torch.tensor([0, 0, 1, 0]))


def test_one_hot_refuses_unknown_classes():
    """With 3 classes, the labels are 0, 1 and 2."""
    for label in (3, -1):
        with pytest.raises(ValueError):
            one_hot(torch.tensor([0, label]), 3)


def test_batched_gather_uses_each_examples_indices():
    """The first example picks its rows 2, 0, 0, the second its rows 1, 1, 2."""
    x = torch.tensor([[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]])
    index = torch.tensor([[2, 0, 0], [1, 1, 2]])
    expected = torch.tensor([[[4, 5], [0, 1], [0, 1]], [[8, 9], [8, 9], [10, 11]]])
    assert_close(batched_gather(x, index), expected)


def test_scatter_mean_averages_by_group():
    """Rows 0 and 2 are group 1, row 1 is group 3; groups 0 and 2 are empty."""
    x = torch.tensor([[1.0, 2.0], [5.0, 6.0], [3.0, 8.0]])
    expected = torch.tensor([[0.0, 0.0], [2.0, 5.0], [0.0, 0.0], [5.0, 6.0]])
    assert_close(scatter_mean(x, torch.tensor([1, 3, 1]), num_groups=4), expected)


def test_sliding_windows_of_three():
    """Windows that don't fit completely are left out."""
    x = torch.arange(6)
    assert_close(sliding_windows(x, 3), torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]))
    assert_close(sliding_windows(x, 3, step=2), torch.tensor([[0, 1, 2], [2, 3, 4]]))


def test_sliding_windows_shares_memory():
    """Writing into the transposed x shows in the windows."""
    x = torch.zeros(4, 2, dtype=torch.int64).T
    windows = sliding_windows(x, 3)
    x[1, 2] = 7
    assert_close(windows, torch.tensor([[[0, 0, 0], [0, 0, 0]], [[0, 0, 7], [0, 7, 0]]]))


def test_batched_bilinear_of_two_pairs():
    """1·(1·5 + 2·6) = 17 for the first pair; the second picks the entry in row 1, column 0."""
    weight = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])  # (O=1, I=2, J=2)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[5.0, 6.0], [1.0, 0.0]])
    assert_close(batched_bilinear(x, weight, y), torch.tensor([[17.0], [3.0]]))


def test_block_diagonal_of_two_blocks():
    """A 1 × 2 block, then a 2 × 1 block."""
    blocks = [torch.tensor([[1, 2]]), torch.tensor([[3], [4]])]
    assert_close(block_diagonal(blocks), torch.tensor([[1, 2, 0], [0, 0, 3], [0, 0, 4]]))


def test_block_diagonal_refuses_vectors():
    """A vector could be a row or a column: say which."""
    with pytest.raises(ValueError):
        block_diagonal([torch.ones(1, 2), torch.ones(3)])


def test_topk_mask_marks_the_largest():
    """9 and 5 are the two largest; of three equal entries, the first two count."""
    x = torch.tensor([[3.0, 9.0, 1.0, 5.0], [2.0, 1.0, 2.0, 2.0]])
    expected = torch.tensor([[False, True, False, True], [True, False, True, False]])
    assert_close(topk_mask(x, 2), expected)


def test_topk_mask_refuses_too_large_a_k():
    """Four entries have no five largest."""
    with pytest.raises(ValueError):
        topk_mask(torch.arange(4), 5)


def test_sparse_matvec_adds_duplicates_up():
    """The matrix is [[0, 2 + 5, 0], [3, 0, 4]]: the entry in row 0, column 1 is listed twice."""
    indices = torch.tensor([[0, 1, 1, 0], [1, 0, 2, 1]])
    values = torch.tensor([2.0, 3.0, 4.0, 5.0])
    x = torch.tensor([1.0, 10.0, 100.0])
    assert_close(sparse_matvec(indices, values, (2, 3), x), torch.tensor([70.0, 403.0]))


def test_sparse_matvec_refuses_indices_outside():
    """A matrix of two rows has no row 2."""
    with pytest.raises(ValueError):
        sparse_matvec(torch.tensor([[2], [0]]), torch.ones(1), (2, 3), torch.ones(3))
