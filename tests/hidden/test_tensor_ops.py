"""The graded suite of tensor_ops: each test runs one probe on the student's module and on the reference."""

import math

import pytest
import torch

from grader.testing import LAYOUTS, measured, raised, task, with_ones

NAN, INF = math.nan, math.inf


def _distinct_sizes(draw, count):
    """Distinct ints from 2 to 9."""
    return [2 + size for size in draw.permutation(8)[:count].tolist()]


def _entries(draw, dtype, *shape):
    """Entries that a detour through another dtype would change: integers beyond 2**53, floats with all their digits."""
    if dtype == torch.bool:
        return draw.bools(*shape)
    return 2**60 + draw.integers(0, 100, *shape) if dtype == torch.int64 else draw.normal(*shape, dtype=dtype)


@task("broadcast_shape")
class TestBroadcastShape:
    def test_shapes_line_up_at_the_last_dimension(self, agree, draw):
        """A shorter shape is filled up on the left, whichever comes first."""
        p, q, r = _distinct_sizes(draw, 3)
        agree(lambda m: [m.broadcast_shape((r,), (p, q, r)), m.broadcast_shape((p, q, r), (q, r))], rtol=0, atol=0)

    def test_a_one_stretches_on_either_side(self, agree, draw):
        """Sizes of 1 in both shapes stretch, in dimensions of their own; where all are 1, 1 stays."""
        p, q, r = _distinct_sizes(draw, 3)
        cases = [[(p, 1, r), (1, q, 1)], [(1, r), (p, 1)], [(p, 1, 1), (1, 1)]]
        agree(lambda m: [m.broadcast_shape(*shapes) for shapes in cases], rtol=0, atol=0)

    def test_any_number_of_shapes(self, agree, draw):
        """Four shapes, one, none at all, and seventy."""
        p, q, r = _distinct_sizes(draw, 3)
        cases = [[(1,), (q, 1, 1), (r, 1), (p,)], [(p, q)], [], [(q,) + (1,) * (i % 11) for i in range(70)]]
        agree(lambda m: [m.broadcast_shape(*shapes) for shapes in cases], rtol=0, atol=0)

    def test_zero_is_a_size_like_any_other(self, agree, draw):
        """1 and 0 give 0, in either order, and so do 0 and 0: the result is not the larger size."""
        p = draw.integer(2, 10**6)
        cases = [[(p, 1), (1, 0)], [(0,), (p, 1)], [(0, p), (1, p), (0, 1)]]
        agree(lambda m: [m.broadcast_shape(*shapes) for shapes in cases], rtol=0, atol=0)

    def test_the_shape_of_a_number_changes_nothing(self, agree, draw):
        """() goes with every shape."""
        p, q = _distinct_sizes(draw, 2)
        agree(lambda m: [m.broadcast_shape((), (p, q)), m.broadcast_shape((q, 1), (), (1, p))], rtol=0, atol=0)

    def test_lists_and_torch_sizes_are_shapes_too(self, agree, draw):
        """Whatever comes in, a tuple comes out."""
        p, q, r = _distinct_sizes(draw, 3)
        cases = [[[q, 1], torch.Size([p, 1, 1]), [r]], [[p, q]]]
        agree(lambda m: [m.broadcast_shape(*shapes) for shapes in cases], rtol=0, atol=0)

    def test_different_sizes_raise(self, agree, draw):
        """Two sizes that differ, neither of them 1, are a ValueError: also 0 and 5, 3 and 6, or shapes that don't stand side by side."""
        p, q = _distinct_sizes(draw, 2)
        bad = [((p, q), (q, p)), ((p, 0), (p, q)), ((p, q), (p, 0)), ((p, 2 * q), (p, q)), ((p, q, 1), (q, q, 1))]
        bad += [((1,), (p,), (q,)), ((p,), (1,), (q,)), ((q, p), (p,), (), (p, 1))]

        def probe(m):
            return [raised(ValueError, lambda s=s: m.broadcast_shape(*s)) for s in bad], m.broadcast_shape((q,), (p, 1))

        agree(probe, rtol=0, atol=0)


@task("pairwise_distances")
class TestPairwiseDistances:
    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["float32", "float64"])
    def test_every_row_against_every_row(self, agree, draw, dtype, rtol):
        """Rows of x run down, rows of y across, in the precision of x."""
        x, y = draw.normal(11, 5, dtype=dtype), draw.normal(7, 5, dtype=dtype)
        agree(lambda m: m.pairwise_distances(x, y), rtol=rtol, atol=0)

    def test_equal_rows_are_exactly_zero_apart(self, agree, draw):
        """Nothing is left over where a row of y equals one of x."""
        x = draw.normal(41, 13) * 100
        y = x[draw.permutation(41)]
        agree(lambda m: m.pairwise_distances(x, y), rtol=1e-5, atol=0)

    def test_close_points_far_from_the_origin(self, agree, draw):
        """Distances around 1 between points around 1000 keep their precision."""
        x, y = draw.normal(11, 5) + 1000, draw.normal(7, 5) + 1000
        agree(lambda m: m.pairwise_distances(x, y), rtol=1e-5, atol=0)

    @pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 17), (torch.float64, 140)], ids=["float32", "float64"])
    def test_tiny_and_huge_distances(self, agree, draw, dtype, digits):
        """1e-17 is a distance like any other, with a gradient like any other, and so is 1e17 (1e-140 and 1e140 in float64)."""
        scale = 10.0 ** torch.linspace(-digits, digits, 9, dtype=torch.float64)[:, None]
        x, y, w = ((draw.uniform(9, n, low=0.5, high=2, dtype=torch.float64) * f).to(dtype) for n, f in [(1, scale), (1, -scale), (9, 1)])

        def probe(m):
            a = x.clone().requires_grad_()
            d = m.pairwise_distances(a, y)
            (d * w).sum().backward()
            return d.detach(), a.grad

        agree(probe, rtol=1e-5, atol=0)

    def test_any_size_and_layout(self, agree, draw):
        """A single row or column is fine, and so is a tensor that lies in memory in another way."""
        cases = [(draw.normal(N, D, layout="transposed"), draw.normal(M, D, layout="sliced")) for N, M, D in with_ones(131, 7, 5)]
        cases.append((draw.normal(3, 5), draw.normal(7, 5, layout="expanded")))
        agree(lambda m: [m.pairwise_distances(x, y) for x, y in cases], rtol=1e-5, atol=0)

    def test_gradients_of_both_arguments(self, agree, draw):
        """The gradient is the unit vector between the points, and 0 for two points in one place."""
        x, y, w = (draw.normal(*s, dtype=torch.float64) for s in [(11, 5), (7, 5), (11, 7)])
        y[3], y[5] = x[2], x[10]

        def probe(m):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            d = m.pairwise_distances(a, b)
            (d * w).sum().backward()
            return d.detach(), a.grad, b.grad

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_gradient_of_points_with_themselves(self, agree, draw):
        """The zeros on the diagonal leave the gradient finite."""
        x, w = draw.normal(7, 3, dtype=torch.float64), draw.normal(7, 7, dtype=torch.float64)

        def probe(m):
            a = x.clone().requires_grad_()
            (m.pairwise_distances(a, a) * w).sum().backward()
            return a.grad

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_no_rows(self, agree, draw):
        """Without rows in x or in y, the result is empty and has the right shape."""
        x, y = draw.normal(11, 5), draw.normal(7, 5)
        agree(lambda m: [m.pairwise_distances(a, b) for a, b in [(x[:0], y), (x, y[:0]), (x, y)]], rtol=1e-5, atol=0)


@task("stable_softmax")
class TestStableSoftmax:
    def test_probabilities_along_any_dim(self, agree, draw):
        """The entries along `dim` are normalised, for every dimension."""
        x = draw.normal(5, 7, 3, dtype=torch.float64)
        agree(lambda m: [m.stable_softmax(x, dim) for dim in (-1, 0, 1)], rtol=1e-9, atol=0)

    def test_any_size_and_layout(self, agree, draw):
        """Sizes of 1 stay, negative dimensions count from the end, and it doesn't matter how x lies in memory."""
        cases = [draw.normal(*shape) for shape in with_ones(2, 3, 31)] + [draw.normal(2, 3, 31, layout=layout) for layout in LAYOUTS]
        agree(lambda m: [[m.stable_softmax(x, dim) for dim in (-3, -2, -1, 2)] for x in cases], rtol=1e-5, atol=0)

    def test_huge_scores(self, agree, draw):
        """Rows around -1e4 up to 1e4, in one tensor, are as precise as rows around 0; the last dimension is the default."""
        x = draw.normal(2, 7, 11) + torch.linspace(-1e4, 1e4, 7)[:, None]
        agree(lambda m: m.stable_softmax(x), rtol=1e-5, atol=1e-9)

    @pytest.mark.parametrize(("dtype", "high"), [(torch.float32, 1e38), (torch.float64, 1e300)], ids=["float32", "float64"])
    def test_scores_of_all_sizes(self, agree, draw, dtype, high):
        """Scores from 1e-3 to 1e38 (1e300 in float64), and -inf, stand in one row."""
        x = draw.magnitudes(11, 7, low=1e-3, high=high, dtype=dtype).masked_fill(draw.bools(11, 7, p=0.2), -INF)
        agree(lambda m: m.stable_softmax(x), rtol=1e-5, atol=1e-9)

    def test_minus_infinity_is_below_every_number(self, agree, draw):
        """Next to scores of -1e10 or -1e38, -inf still has probability 0."""
        scale = 10.0 ** torch.tensor([2, 5, 10, 20, 38])[:, None]
        x = (-draw.uniform(5, 7, low=1, high=2) * scale).masked_fill(draw.bools(5, 7), -INF)
        x[:, 3] = -draw.uniform(5, low=1, high=2) * scale[:, 0]
        agree(lambda m: m.stable_softmax(x), rtol=1e-5, atol=1e-9)

    def test_minus_infinity_has_probability_zero(self, agree, draw):
        """Entries of -inf get exactly 0, and a row of nothing else gets zeros, be it a row of one entry."""
        x = draw.normal(5, 7).masked_fill(draw.bools(5, 7, p=0.3), -INF)
        x[:, 4] = draw.normal(5)
        x[2] = x[0, 1] = -INF
        agree(lambda m: [m.stable_softmax(x, dim=1), m.stable_softmax(x[:, :1], dim=1)], rtol=1e-5, atol=0)

    def test_gradients_are_finite(self, agree, draw):
        """A row of -inf receives the gradient 0, other rows the softmax's."""
        x, w = draw.normal(5, 7, dtype=torch.float64), draw.normal(5, 7, dtype=torch.float64)
        x[2] = x[0, 1] = -INF

        def probe(m):
            leaf = x.clone().requires_grad_()
            p = m.stable_softmax(leaf)
            (p * w).sum().backward()
            return p.detach(), leaf.grad

        agree(probe, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)], ids=["float16", "bfloat16"])
    def test_half_precision_comes_back(self, agree, draw, dtype, rtol):
        """The result has the dtype of x, and is as precise as that allows: 16 bits hold neither the differences nor the sum."""
        x = draw.uniform(7, 23, low=-8, high=8).to(dtype)
        agree(lambda m: m.stable_softmax(x), rtol=rtol, atol=1e-7)

    def test_float16_sums_do_not_overflow(self, agree, draw):
        """The sum over 70001 equal scores is beyond float16's largest number, 65504."""
        x = draw.uniform(70001, low=-0.01, high=0.01, dtype=torch.float16)
        agree(lambda m: m.stable_softmax(x, 0), rtol=2e-3, atol=1.5e-7)


@task("log_sum_exp")
class TestLogSumExp:
    def test_along_any_dim(self, agree, draw):
        """The sum runs along `dim`, for every dimension."""
        x = draw.normal(5, 7, 3, dtype=torch.float64)
        agree(lambda m: [m.log_sum_exp(x, dim) for dim in (-1, 0, 1)], rtol=1e-9, atol=1e-9)

    def test_keepdim(self, agree, draw):
        """With keepdim, `dim` stays with size 1."""
        x = draw.normal(5, 7, 3, dtype=torch.float64)
        agree(lambda m: [m.log_sum_exp(x, 1, keepdim=True), m.log_sum_exp(x, -1, True)], rtol=1e-9, atol=1e-9)

    def test_any_size_and_layout(self, agree, draw):
        """Only `dim` goes, not other sizes of 1; negative dimensions count from the end; x may lie in memory in any way."""
        cases = [draw.normal(*shape) for shape in with_ones(2, 3, 31)] + [draw.normal(2, 3, 31, layout=layout) for layout in LAYOUTS]
        agree(lambda m: [[m.log_sum_exp(x, dim) for dim in (-3, -2, -1, 2)] for x in cases], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["float32", "float64"])
    def test_huge_and_tiny_entries(self, agree, draw, dtype, rtol):
        """Rows around 1e4 neither overflow nor make rows around -1e4 underflow."""
        x = draw.normal(3, 11, dtype=dtype) + torch.tensor([[1e4], [-1e4], [800.0]], dtype=dtype)
        agree(lambda m: m.log_sum_exp(x, 1), rtol=rtol, atol=0)

    @pytest.mark.parametrize(("dtype", "high"), [(torch.float32, 1e38), (torch.float64, 1e300)], ids=["float32", "float64"])
    def test_entries_far_apart(self, agree, draw, dtype, high):
        """A slice may hold 0 and 300, or -1e30 and 1e38: the largest entry decides."""
        x = torch.cat([draw.magnitudes(7, 11, low=1e-3, high=high, dtype=dtype), draw.normal(3, 11, dtype=dtype)])
        x[7, 4], x[8, 2], x[9, 1:] = 300, -3e4, -1000
        agree(lambda m: m.log_sum_exp(x, 1), rtol=1e-5, atol=1e-5)

    def test_minus_infinity(self, agree, draw):
        """The log of a sum of zeros is -inf; next to finite entries, -inf adds nothing."""
        x = draw.normal(5, 7)
        x[2] = x[4, 3] = -INF
        agree(lambda m: m.log_sum_exp(x, 1), rtol=1e-5, atol=1e-6)

    def test_plus_infinity(self, agree, draw):
        """One entry of +inf makes the sum +inf."""
        x = draw.normal(5, 7)
        x[1, 2] = x[3, 0] = x[3, 6] = INF
        x[3, 4] = -INF
        agree(lambda m: m.log_sum_exp(x, 1), rtol=1e-5, atol=1e-6)

    def test_gradient_is_the_softmax(self, agree, draw):
        """Each entry's gradient is its share of the sum, also for large or equal entries, and next to slices that are infinite."""
        x, w = draw.normal(5, 9, dtype=torch.float64) + 1e3, draw.normal(9, dtype=torch.float64)
        x[1, 3] = x[:, 3].max() + 1
        x[4, 3], x[:, 7], x[2, 8] = x[1, 3], -INF, INF

        def probe(m):
            leaf = x.clone().requires_grad_()
            y = m.log_sum_exp(leaf, 0)
            (y * w).sum().backward()
            return y.detach(), leaf.grad[:, :7]

        agree(probe, rtol=1e-9, atol=1e-12)


@task("masked_mean")
class TestMaskedMean:
    def test_means_of_the_kept_entries(self, agree, draw):
        """The mean over `dim` runs over the entries that the mask keeps, for every dimension; a kept 0 counts."""
        x, mask = draw.normal(5, 7, 3, dtype=torch.float64) * draw.bools(5, 7, 3, p=0.8), draw.bools(5, 7, 3)
        agree(lambda m: [m.masked_mean(x, mask, dim) for dim in (-1, 0, 1)], rtol=1e-9, atol=1e-9)

    def test_one_dimension(self, agree, draw):
        """The mean of a vector has no dimension left."""
        x, mask = draw.normal(11), draw.bools(11)
        mask[:2], mask[2:4] = True, False
        agree(lambda m: m.masked_mean(x, mask, 0), rtol=1e-5, atol=1e-6)

    def test_masked_entries_do_not_leak(self, agree, draw):
        """NaN, infinities and huge numbers under the mask show nowhere."""
        mask = draw.bools(5, 7)
        mask[:, 0], mask[:, 1:3] = True, False
        x = draw.poisoned(draw.normal(5, 7), ~mask)
        agree(lambda m: m.masked_mean(x, mask, 1), rtol=1e-5, atol=1e-6)

    def test_kept_nan_and_infinity_show(self, agree, draw):
        """A NaN that the mask keeps is no business of ours to hide."""
        x, mask = draw.normal(5, 7), draw.bools(5, 7)
        mask[1, 2] = mask[3, 4] = mask[0, 5] = True
        x[1, 2], x[3, 4] = NAN, INF
        agree(lambda m: m.masked_mean(x, mask, -1), rtol=1e-5, atol=1e-6)

    def test_nothing_kept_is_zero(self, agree, draw):
        """Columns without a kept entry have the mean 0, whatever they hold, and so have columns without entries."""
        x, mask = draw.normal(5, 7), draw.bools(5, 7)
        mask[:, 2] = mask[:, 5] = False
        mask[0, 0] = True
        x[1, 5] = NAN
        cases = [(x, mask, 0), (x[:0], mask[:0], 0), (x[:0], mask[:0], 1)]
        agree(lambda m: [m.masked_mean(*case) for case in cases], rtol=1e-5, atol=1e-6)

    def test_the_mask_broadcasts(self, agree, draw):
        """A mask of (7, 1) masks whole rows, and a kept row counts all of its entries; masks of (3,), (5, 1, 1) and () fit too."""
        x, masks = draw.normal(5, 7, 3), [draw.bools(*shape) for shape in [(7, 1), (3,), (5, 1, 1), ()]]
        masks[0][1], masks[0][4] = True, False
        agree(lambda m: [[m.masked_mean(x, mask, dim) for dim in range(3)] for mask in masks], rtol=1e-5, atol=1e-6)

    def test_any_size_and_layout(self, agree, draw):
        """Only `dim` goes, not other sizes of 1; negative dimensions count from the end; x and mask may lie in memory in any way."""
        cases = [(draw.normal(*shape), draw.bools(*shape)) for shape in with_ones(2, 3, 31)]
        for x, mask in [("transposed", "sliced"), ("sliced", "expanded"), ("expanded", "transposed")]:
            cases.append((draw.normal(2, 3, 301, layout=x), draw.bools(2, 3, 301, layout=mask)))
        agree(lambda m: [[m.masked_mean(x, mask, dim) for dim in (-3, -2, -1, 2)] for x, mask in cases], rtol=1e-4, atol=1e-5)

    def test_gradients_reach_kept_entries_only(self, agree, draw):
        """1/n for n kept entries, 0 for the others, also where they are NaN or infinite, or where none is kept."""
        x, mask, w = draw.normal(5, 7, dtype=torch.float64), draw.bools(5, 7), draw.normal(5, dtype=torch.float64)
        mask[:, 1], mask[:, 4], mask[3] = True, False, False
        x = draw.poisoned(x, ~mask)

        def probe(m):
            leaf = x.clone().requires_grad_()
            (m.masked_mean(leaf, mask, 1) * w).sum().backward()
            return leaf.grad

        agree(probe, rtol=1e-9, atol=1e-12)


@task("one_hot")
class TestOneHot:
    def test_vectors_for_a_batch_of_labels(self, agree, draw):
        """The classes come last, after all dimensions of the labels."""
        labels = draw.integers(0, 11, 5, 7)
        agree(lambda m: m.one_hot(labels, 11), rtol=0, atol=0)

    def test_classes_that_do_not_occur(self, agree, draw):
        """The width is num_classes, not the largest label plus one."""
        labels = draw.integers(0, 6, 7)
        agree(lambda m: m.one_hot(labels, 11), rtol=0, atol=0)

    def test_a_single_label_and_none_at_all(self, agree, draw):
        """A label without dimensions gives a vector, no labels give no vectors, of any length."""
        label, labels = draw.integers(0, 5), draw.integers(0, 5, 7)
        cases = [(label, 5), (label.expand(0), 5), (label.expand(3, 0), 5), (label.expand(0), 0), (labels, 5)]
        agree(lambda m: [m.one_hot(*case) for case in cases], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
    def test_labels_of_other_integer_dtypes(self, agree, draw, dtype):
        """Labels of int32 and uint8 are labels too (a uint8 index would be taken for a mask), also of 300 classes."""
        labels, more = draw.integers(0, 7, 11).to(dtype), draw.integers(100, 256, 5).to(dtype)
        agree(lambda m: [m.one_hot(labels, 7), m.one_hot(more, 300)], rtol=0, atol=0)

    def test_hundreds_of_classes(self, agree, draw):
        """Class 256 is not class 0 again."""
        labels = torch.cat([draw.integers(0, 1000, 5), draw.integers(256, 300, 3)])
        agree(lambda m: m.one_hot(labels, 1000), rtol=0, atol=0)

    def test_any_size_and_layout(self, agree, draw):
        """Sizes of 1, a single class included, stay, and labels may lie in memory in any way."""
        cases = [(draw.integers(0, C, *s), C) for *s, C in with_ones(3, 5, 7)]
        cases += [(draw.integers(0, 11, 5, 7, layout=layout), 11) for layout in LAYOUTS]
        agree(lambda m: [m.one_hot(labels, C) for labels, C in cases], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool], ids=str)
    def test_the_dtype_is_yours_to_choose(self, agree, draw, dtype):
        """The result has the dtype that was asked for."""
        labels = draw.integers(0, 5, 7)
        agree(lambda m: m.one_hot(labels, 5, dtype=dtype), rtol=0, atol=0)

    def test_labels_out_of_range_raise(self, agree, draw):
        """num_classes itself, larger labels and negative ones are a ValueError, in every dtype; of 0 classes, every label is."""
        labels = draw.integers(0, 5, 3, 7)
        bad = [(labels.clone(), 5) for _ in range(5)] + [(labels, 0)]
        for (wrong, _), label in zip(bad[:5], [5, 1000, -1, 2**32, -(2**32)], strict=True):
            wrong[draw.integer(0, 3), draw.integer(0, 7)] = label
        bad += [(bad[2][0].int(), 5), (bad[2][0].to(torch.uint8), 5), (bad[2][0].to(torch.uint8), 255)]

        def probe(m):
            return [raised(ValueError, lambda b=b: m.one_hot(*b)) for b in bad], m.one_hot(labels, 5)

        agree(probe, rtol=0, atol=0)


@task("batched_gather")
class TestBatchedGather:
    def test_each_example_uses_its_own_indices(self, agree, draw):
        """Row k of example b is the row that index[b, k] names in the same example."""
        x, index = draw.normal(3, 11, 5), draw.integers(0, 11, 3, 7)
        agree(lambda m: m.batched_gather(x, index), rtol=0, atol=0)

    def test_more_picks_than_rows(self, agree, draw):
        """Repeats and any order are fine."""
        x, index = draw.normal(5, 3, 2), draw.integers(0, 3, 5, 13)
        agree(lambda m: m.batched_gather(x, index), rtol=0, atol=0)

    def test_no_picks(self, agree, draw):
        """K = 0 gives (B, 0, D)."""
        x, index = draw.normal(3, 7, 5), draw.integers(0, 7, 3, 4)
        agree(lambda m: [m.batched_gather(x, index[:, :0]), m.batched_gather(x, index)], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64, torch.bfloat16], ids=str)
    def test_any_dtype(self, agree, draw, dtype):
        """Rows are copied exactly, large integers too."""
        x = _entries(draw, dtype, 3, 11, 5)
        index = draw.integers(0, 11, 3, 7)
        agree(lambda m: m.batched_gather(x, index), rtol=0, atol=0)

    def test_rows_that_are_not_picked_show_nowhere(self, agree, draw):
        """A NaN stays in its row: it is copied if picked, and else gone."""
        x, index = draw.normal(3, 11, 5), draw.integers(0, 9, 3, 7)
        x[:, 9], x[:, 10], x[1, 4], index[1, 2] = NAN, INF, NAN, 4
        agree(lambda m: m.batched_gather(x, index), rtol=0, atol=0)

    def test_any_size_and_layout(self, agree, draw):
        """Sizes of 1 stay, there may be hundreds of rows, and x and index may lie in memory in any way."""
        cases = [(draw.normal(B, N, D), draw.integers(0, N, B, K)) for B, N, D, K in with_ones(3, 301, 5, 7)]
        for x, index in [("transposed", "sliced"), ("sliced", "expanded"), ("expanded", "transposed")]:
            cases.append((draw.normal(3, 11, 5, layout=x), draw.integers(0, 11, 3, 7, layout=index)))
        agree(lambda m: [m.batched_gather(*case) for case in cases], rtol=0, atol=0)

    def test_gradients_of_repeated_rows_add_up(self, agree, draw):
        """A row that is picked twice receives two gradients."""
        x, w = draw.normal(3, 5, 2, dtype=torch.float64), draw.normal(3, 13, 2, dtype=torch.float64)
        index = draw.integers(0, 5, 3, 13)

        def probe(m):
            leaf = x.clone().requires_grad_()
            (m.batched_gather(leaf, index) * w).sum().backward()
            return leaf.grad

        agree(probe, rtol=1e-9, atol=1e-12)


@task("scatter_mean")
class TestScatterMean:
    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=["float32", "float64"])
    def test_means_by_group(self, agree, draw, dtype, tol):
        """Rows of one group are averaged, wherever they stand; a row of zeros counts."""
        x, index = draw.normal(23, 5, dtype=dtype) * draw.bools(23, 1, p=0.8), draw.integers(0, 7, 23)
        agree(lambda m: m.scatter_mean(x, index, 7), rtol=tol, atol=tol)

    def test_empty_groups_are_zero(self, agree, draw):
        """Groups without rows, first, last and in between, keep their place and are 0."""
        x, index = draw.normal(13, 3), 1 + 2 * draw.integers(0, 4, 13)
        agree(lambda m: m.scatter_mean(x, index, 11), rtol=1e-5, atol=1e-6)

    def test_one_group_for_all(self, agree, draw):
        """When all rows share a group, the mean is over all of them."""
        x, index = draw.normal(17, 3), torch.full((17,), draw.integer(0, 5))
        agree(lambda m: m.scatter_mean(x, index, 5), rtol=1e-5, atol=1e-6)

    def test_no_rows(self, agree, draw):
        """Without rows, every group is 0."""
        x, index = draw.normal(7, 3), draw.integers(0, 5, 7)
        agree(lambda m: [m.scatter_mean(x[:0], index[:0], 5), m.scatter_mean(x, index, 5)], rtol=1e-5, atol=1e-6)

    def test_groups_do_not_disturb_each_other(self, agree, draw):
        """A NaN or an infinity shows in its own group and column only, and 1e30 in one group costs others no digits."""
        x, index = draw.normal(23, 3), torch.cat([draw.permutation(7), draw.integers(0, 7, 16)])
        for row, column, value in zip(range(3), draw.permutation(3).tolist(), [NAN, INF, 1e30], strict=True):
            x[row, column] = value
        agree(lambda m: m.scatter_mean(x, index, 7), rtol=1e-5, atol=1e-6)

    def test_any_size_and_layout(self, agree, draw):
        """A single row, column or group is fine, hundreds of groups are, and x and index may lie in memory in any way."""
        cases = [(draw.normal(N, D), draw.integers(0, G, N), G) for N, D, G in with_ones(401, 5, 301)]
        for x, index in [("transposed", "sliced"), ("sliced", "expanded"), ("expanded", "sliced")]:
            cases.append((draw.normal(17, 3, layout=x), draw.integers(0, 7, 17, layout=index), 7))
        agree(lambda m: [m.scatter_mean(*case) for case in cases], rtol=1e-4, atol=1e-5)

    def test_gradients_are_shared_by_the_group(self, agree, draw):
        """Each of n rows receives 1/n of its group's gradient."""
        x, w = draw.normal(17, 3, dtype=torch.float64), draw.normal(7, 3, dtype=torch.float64)
        index = draw.integers(0, 6, 17)

        def probe(m):
            leaf = x.clone().requires_grad_()
            (m.scatter_mean(leaf, index, 7) * w).sum().backward()
            return leaf.grad

        agree(probe, rtol=1e-9, atol=1e-12)


VIEWS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "every_other": lambda x: x[..., ::2],
    "slice": lambda x: x[1:, 2:, 3:],
    "expanded": lambda x: x[:, :1, :1].expand(-1, 3, 9),
}

N = 130_000
LONG = {"contiguous": (1, 1, N), "transposed": (N, 1, 1), "every_other": (1, 1, 2 * N), "slice": (2, 3, N)}
"""Shapes with views of N entries or nearly as many; an expanded view has none in its last dimension."""


@task("sliding_windows")
class TestSlidingWindows:
    @pytest.mark.parametrize(("size", "step"), [(4, 1), (3, 2), (2, 5), (13, 3)])
    def test_all_windows_that_fit(self, agree, draw, size, step):
        """Every complete window along the last dimension, at each step, and no other."""
        x = draw.normal(2, 5, 13)
        agree(lambda m: m.sliding_windows(x, size, step).clone(), rtol=0, atol=0)

    def test_a_vector_of_integers(self, agree, draw):
        """One dimension is enough, the dtype stays, and the step is 1 unless given."""
        x = draw.integers(-100, 100, 17)
        agree(lambda m: m.sliding_windows(x, 5).clone(), rtol=0, atol=0)

    def test_sizes_of_one(self, agree, draw):
        """Sizes of 1 stay: a single window, windows of one entry, an x of one entry."""
        x = draw.normal(3, 7)
        cases = [(x, 7, 1), (x, 1, 2), (x[:1], 7, 9), (x[:, :1], 1, 1), (x[:1, :1], 1, 3), (x[0, :1], 1, 1)]
        agree(lambda m: [m.sliding_windows(*case).clone() for case in cases], rtol=0, atol=0)

    @measured("views")
    @pytest.mark.parametrize("layout", VIEWS)
    def test_is_a_view_of_any_input(self, agree, draw, layout):
        """What is written into x afterwards shows in the windows, and windows of 17 GB take no memory."""
        base, view, shape, seed = draw.normal(5, 7, 11), VIEWS[layout], LONG.get(layout), draw.seed()
        sizes = [(3, 2), (1, 1), (view(base).shape[-1], 1)]

        def probe(m):
            x = base.clone()
            windows = [m.sliding_windows(view(x), size, step) for size, step in sizes]
            before = [w.clone() for w in windows]
            x.mul_(-2.0)
            return before, [w.clone() for w in windows]

        def large(m):
            long = view(torch.rand(shape, generator=torch.Generator().manual_seed(seed)))
            return m.sliding_windows(long, N // 2)[..., ::997, ::991].clone()

        agree(probe, rtol=0, atol=0)
        if shape is not None:
            agree(large, rtol=0, atol=0)  # copies would not fit into the worker's memory, whatever it says of itself

    def test_gradients_add_up_over_the_windows(self, agree, draw):
        """An entry receives the gradients of all its places, in whatever view of it the windows are."""
        x, views = draw.normal(5, 7, 11, dtype=torch.float64), list(VIEWS.values())
        w = [draw.normal(*batch, (T - 3) // 2 + 1, 3, dtype=torch.float64) for *batch, T in (view(x).shape for view in views)]

        def probe(m):
            gradients = []
            for view, weight in zip(views, w, strict=True):
                leaf = x.clone().requires_grad_()
                (m.sliding_windows(view(leaf), 3, 2) * weight).sum().backward()
                gradients.append(leaf.grad)
            return gradients

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_impossible_windows_raise(self, agree, draw):
        """No window is longer than x, not even one of an empty x, or without entries, and no step stands still or goes back."""
        x = draw.normal(3, 7)
        bad = [(x, 8, 1), (x, 0, 1), (x, -1, 1), (x, 3, 0), (x, 3, -1), (x[:, :0], 1, 1), (x[:, :0], 0, 1), (x[0], 8, 9)]

        def probe(m):
            return [raised(ValueError, lambda b=b: m.sliding_windows(*b)) for b in bad], m.sliding_windows(x, 3).clone()

        agree(probe, rtol=0, atol=0)


@task("batched_bilinear")
class TestBatchedBilinear:
    def test_one_form_an_output(self, agree, draw):
        """Each pair of vectors meets each of the O matrices."""
        x, weight, y = (draw.normal(*s, dtype=torch.float64) for s in [(3, 5), (2, 5, 7), (3, 7)])
        agree(lambda m: m.batched_bilinear(x, weight, y), rtol=1e-9, atol=1e-9)

    def test_x_is_on_the_left(self, agree, draw):
        """With I = J as well, x goes with the rows of the matrices and y with their columns."""
        x, weight, y = (draw.normal(*s, dtype=torch.float64) for s in [(3, 5), (2, 5, 5), (3, 5)])
        agree(lambda m: m.batched_bilinear(x, weight, y), rtol=1e-9, atol=1e-9)

    def test_float32(self, agree, draw):
        """float32 in, float32 out."""
        x, weight, y = draw.normal(3, 5), draw.normal(7, 5, 2), draw.normal(3, 2)
        agree(lambda m: m.batched_bilinear(x, weight, y), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("batch", [(), (1,), (2, 3), (3, 2, 5)])
    def test_any_batch_dimensions(self, agree, draw, batch):
        """None, a single one of size 1, or several batch dimensions go through."""
        x, y = draw.normal(*batch, 5, dtype=torch.float64), draw.normal(*batch, 7, dtype=torch.float64)
        weight = draw.normal(3, 5, 7, dtype=torch.float64)
        agree(lambda m: m.batched_bilinear(x, weight, y), rtol=1e-9, atol=1e-9)

    def test_any_size_and_layout(self, agree, draw):
        """Sizes of 1 stay, and all three tensors may lie in memory in any way."""
        sizes = with_ones(5, 2, 3, 7)
        cases = [(draw.normal(b, i), draw.normal(o, i, j), draw.normal(b, j)) for b, o, i, j in sizes]
        for x, weight, y in [
            ("transposed", "sliced", "expanded"),
            ("sliced", "expanded", "transposed"),
            ("expanded", "transposed", "sliced"),
        ]:
            cases.append((draw.normal(3, 4, 5, layout=x), draw.normal(2, 5, 7, layout=weight), draw.normal(3, 4, 7, layout=y)))
        agree(lambda m: [m.batched_bilinear(*case) for case in cases], rtol=1e-4, atol=1e-4)

    def test_gradients_reach_all_three(self, agree, draw):
        """x, weight and y receive their gradients."""
        tensors = [draw.normal(*s, dtype=torch.float64) for s in [(3, 5), (2, 5, 7), (3, 7)]]
        w = draw.normal(3, 2, dtype=torch.float64)

        def probe(m):
            leaves = [tensor.clone().requires_grad_() for tensor in tensors]
            (m.batched_bilinear(*leaves) * w).sum().backward()
            return [leaf.grad for leaf in leaves]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_an_empty_batch(self, agree, draw):
        """No pairs give (0, O), and (3, 0) of them (3, 0, O)."""
        x, weight, y = draw.normal(3, 5), draw.normal(2, 5, 7), draw.normal(3, 7)
        cases = [(x[:0], weight, y[:0]), (x[:, None][:, :0], weight, y[:, None][:, :0]), (x, weight, y)]
        agree(lambda m: [m.batched_bilinear(*case) for case in cases], rtol=1e-4, atol=1e-4)


@task("block_diagonal")
class TestBlockDiagonal:
    def test_rectangular_blocks(self, agree, draw):
        """Rows and columns each go on where the block before ended."""
        blocks = [draw.normal(*s) for s in [(2, 5), (3, 3), (7, 1), (1, 4)]]
        agree(lambda m: m.block_diagonal(blocks), rtol=0, atol=0)

    def test_a_single_block(self, agree, draw):
        """One block is the whole matrix."""
        block = draw.normal(3, 5, dtype=torch.float64).T
        agree(lambda m: m.block_diagonal([block]), rtol=0, atol=0)

    def test_a_tuple_of_many_blocks(self, agree, draw):
        """Blocks may come in a tuple, be as small as (1, 1), and lie in memory in any way."""
        blocks = tuple(draw.normal(1 + i % 3, 1 + i % 2, layout=(*LAYOUTS, "contiguous")[i % 4]) for i in range(41))
        agree(lambda m: m.block_diagonal(blocks), rtol=0, atol=0)

    def test_empty_blocks_take_up_space(self, agree, draw):
        """A block of (0, 4) adds four columns, and one of (5, 0) five rows, also where there is no other block."""
        blocks = [draw.normal(*s) for s in [(0, 2), (2, 3), (0, 4), (5, 0), (1, 2)]]
        empty = [blocks[3], blocks[2]]
        agree(lambda m: [m.block_diagonal(blocks), m.block_diagonal(empty)], rtol=0, atol=0)

    def test_infinite_entries_stay_in_their_block(self, agree, draw):
        """0 · NaN is NaN: the zeros must not come from a product."""
        blocks = [draw.normal(*s) for s in [(2, 3), (4, 2), (3, 5)]]
        blocks[0][1, 2], blocks[1][0, 0], blocks[2][2, 4] = NAN, INF, -INF
        agree(lambda m: m.block_diagonal(blocks), rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64], ids=str)
    def test_any_dtype(self, agree, draw, dtype):
        """Integers stay exact integers, booleans booleans."""
        blocks = [_entries(draw, dtype, *shape) for shape in [(2, 3), (5, 2)]]
        agree(lambda m: m.block_diagonal(blocks), rtol=0, atol=0)

    def test_gradients_reach_every_block(self, agree, draw):
        """Each block receives the gradient of its place, and one that is there twice that of both places."""
        blocks = [draw.normal(*s, dtype=torch.float64) for s in [(2, 3), (5, 1), (1, 7)]]
        w = draw.normal(10, 14, dtype=torch.float64)

        def probe(m):
            leaves = [block.clone().requires_grad_() for block in blocks]
            (m.block_diagonal([*leaves, leaves[0]]) * w).sum().backward()
            return [leaf.grad for leaf in leaves]

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_not_matrices_raise(self, agree, draw):
        """No block at all, a vector, a number or a batch among the blocks are a ValueError."""
        a, b = draw.normal(2, 3), draw.normal(5, 2)
        bad = [[], (), [a[0]], [a, b[0]], [a[0], b], [a, b[0, 0]], [a, b[None]]]

        def probe(m):
            return [raised(ValueError, lambda s=s: m.block_diagonal(s)) for s in bad], m.block_diagonal([a, b])

        agree(probe, rtol=0, atol=0)


@task("topk_mask")
class TestTopkMask:
    @pytest.mark.parametrize("shape", [(17,), (3, 11), (2, 5, 13)])
    def test_the_largest_of_every_row(self, agree, draw, shape):
        """The k largest along the last dimension, for any number of dimensions before it."""
        x, k = draw.normal(*shape), draw.integer(2, 8)
        agree(lambda m: m.topk_mask(x, k), rtol=0, atol=0)

    def test_ties_go_to_the_lower_index(self, agree, draw):
        """With three different values only, the k-th largest is shared by many entries."""
        x = draw.integers(0, 3, 11, 53).float()
        agree(lambda m: m.topk_mask(x, 23), rtol=0, atol=0)

    @pytest.mark.parametrize(("dtype", "high"), [(torch.float32, 1e38), (torch.float64, 1e300)], ids=["float32", "float64"])
    def test_values_of_all_sizes(self, agree, draw, dtype, high):
        """Ties and differences count the same around 1e-30, around 0 and around 1e38 (1e300 in float64)."""
        values = torch.cat([draw.magnitudes(9, low=1 / high, high=high, dtype=dtype), torch.tensor([INF, 0.0, -0.0, -INF], dtype=dtype)])
        x = values[draw.integers(0, 13, 11, 53)]
        agree(lambda m: [m.topk_mask(x, k) for k in (13, 23, 37)], rtol=0, atol=0)

    def test_any_size_and_layout(self, agree, draw):
        """Rows of one entry, a single row, and tensors that lie in memory in any way."""
        cases = [(draw.normal(*shape), 1) for shape in with_ones(2, 3, 7)]
        cases += [(draw.normal(2, 5, 301, layout=layout), 123) for layout in LAYOUTS]
        agree(lambda m: [m.topk_mask(*case) for case in cases], rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(0, 7), (3, 0, 7)], ids=str)
    def test_no_rows(self, agree, draw, shape):
        """Without rows, the mask is as empty, in the shape of x."""
        x, other, k = draw.normal(*shape), draw.normal(3, 7), draw.integer(2, 6)
        agree(lambda m: [m.topk_mask(x, k), m.topk_mask(other, k)], rtol=0, atol=0)

    def test_rows_of_equal_entries(self, agree, draw):
        """When all entries are equal, the first k are marked."""
        x, other = draw.normal(3, 1).expand(3, 101), draw.normal(3, 101)
        agree(lambda m: [m.topk_mask(x, 37), m.topk_mask(other, 37)], rtol=0, atol=0)

    def test_none_and_all(self, agree, draw):
        """Nothing is marked for k = 0, everything for k = N."""
        x = draw.normal(3, 7)
        agree(lambda m: [m.topk_mask(x, k) for k in (0, 7, 2)], rtol=0, atol=0)

    def test_minus_infinity_is_an_entry(self, agree, draw):
        """Where too few finite entries are left, the first ones of -inf are marked as well."""
        x = draw.normal(5, 11).masked_fill(draw.bools(5, 11, p=0.4), -INF)
        x[2] = x[:, 3:8] = -INF
        agree(lambda m: m.topk_mask(x, 8), rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16], ids=str)
    def test_any_dtype(self, agree, draw, dtype):
        """Integers compare exactly: -0 of a uint8 is 0, and 2**60 and 2**60 + 1 differ."""
        offset = 2**60 if dtype == torch.int64 else 0
        x = (draw.integers(1, 90, 5, 53) + offset).to(dtype)
        x[:, 7] = 0 if dtype == torch.uint8 else -(2**63) if dtype == torch.int64 else -60000
        agree(lambda m: m.topk_mask(x, 19), rtol=0, atol=0)

    def test_float64_keeps_its_digits(self, agree, draw):
        """1 and 1 + 1e-12 are not equal."""
        x = 1 + 1e-12 * draw.integers(0, 40, 5, 53).double()
        agree(lambda m: m.topk_mask(x, 19), rtol=0, atol=0)

    def test_impossible_k_raises(self, agree, draw):
        """Eight of seven entries or -1 of them are a ValueError."""
        x = draw.normal(3, 7)
        agree(
            lambda m: ([raised(ValueError, lambda k=k: m.topk_mask(x, k)) for k in (8, -1)], m.topk_mask(x, 3)),
            rtol=0,
            atol=0,
        )


def _coo(draw, E, M, N):
    """Random places of E entries in an (M, N) matrix, as (2, E)."""
    return torch.stack([draw.integers(0, M, E), draw.integers(0, N, E)])


@task("sparse_matvec")
class TestSparseMatvec:
    @pytest.mark.parametrize(("M", "N"), [(7, 11), (13, 5)])
    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=["float32", "float64"])
    def test_equals_the_dense_product(self, agree, draw, M, N, dtype, tol):
        """Wide and tall matrices, entries in any order, several in most rows."""
        indices, values, x = _coo(draw, 31, M, N), draw.normal(31, dtype=dtype), draw.normal(N, dtype=dtype)
        agree(lambda m: m.sparse_matvec(indices, values, (M, N), x), rtol=tol, atol=tol)

    def test_duplicates_add_up(self, agree, draw):
        """An entry that is listed three times counts three times."""
        once = torch.stack([draw.permutation(7)[:5], draw.permutation(11)[:5]])
        indices = once.repeat(1, 3)[:, draw.permutation(15)]
        values, x = draw.normal(15, dtype=torch.float64), draw.normal(11, dtype=torch.float64)
        agree(lambda m: m.sparse_matvec(indices, values, (7, 11), x), rtol=1e-9, atol=1e-9)

    def test_integers_are_exact(self, agree, draw):
        """Values and x of int64 give int64, and 2**58 + 1 is not rounded."""
        indices, values, x = _coo(draw, 17, 5, 7), 2**40 + draw.integers(0, 99, 17), draw.integers(1, 9, 7)
        large, signs = 2**58 + draw.integers(0, 99, 17), 1 - 2 * draw.integers(0, 2, 7)
        agree(
            lambda m: [m.sparse_matvec(indices, values, (5, 7), x), m.sparse_matvec(indices, large, (5, 7), signs)],
            rtol=0,
            atol=0,
        )

    def test_any_dtype(self, agree, draw):
        """The result has the dtype of values: of 16 bits, or an integer one."""
        indices, values, x = _coo(draw, 17, 7, 11), draw.integers(0, 3, 17), draw.integers(0, 4, 11)
        cases = [(values.to(d), x.to(d)) for d in (torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int32)]
        agree(lambda m: [m.sparse_matvec(indices, v, (7, 11), z) for v, z in cases], rtol=0, atol=0)

    def test_rows_do_not_disturb_each_other(self, agree, draw):
        """A NaN or an infinity shows only in rows with an entry in its column, and 1e30 in one row costs others no digits."""
        indices = torch.stack([torch.cat([draw.permutation(7), draw.integers(0, 7, 16)]), draw.integers(0, 9, 23)])
        values, x = draw.normal(23), draw.normal(12)
        values[:3], x[9:] = torch.tensor([NAN, INF, 1e30]), torch.tensor([NAN, INF, -INF])
        indices[1, 3] = 9
        agree(lambda m: m.sparse_matvec(indices, values, (7, 12), x), rtol=1e-4, atol=1e-5)

    def test_any_size_and_layout(self, agree, draw):
        """A single row, column or entry is fine, and all tensors may lie in memory in any way."""
        cases = [(_coo(draw, E, M, N), draw.normal(E), (M, N), draw.normal(N)) for E, M, N in with_ones(31, 7, 301)]
        for values, x in [("sliced", "expanded"), ("expanded", "sliced")]:
            indices = _coo(draw, 17, 5, 7).T.contiguous().T
            cases.append((indices, draw.normal(17, layout=values), (5, 7), draw.normal(7, layout=x)))
        agree(lambda m: [m.sparse_matvec(*case) for case in cases], rtol=1e-4, atol=1e-5)

    def test_rows_without_entries_are_zero(self, agree, draw):
        """Rows that the entries leave out, and a matrix without entries, give 0."""
        indices, values, x = _coo(draw, 13, 5, 7), draw.normal(13, dtype=torch.float64), draw.normal(7, dtype=torch.float64)
        indices[0] = 2 + 3 * indices[0]
        agree(
            lambda m: [
                m.sparse_matvec(indices, values, (17, 7), x),
                m.sparse_matvec(indices[:, :0], values[:0], (17, 7), x),
            ],
            rtol=1e-9,
            atol=1e-9,
        )

    def test_the_matrix_is_never_built(self, agree, draw):
        """A million rows by a million columns fit into no memory, 97 entries do."""
        M, N, seed = 1_000_003, 1_100_009, draw.seed()
        indices, values = _coo(draw, 97, M, N), draw.normal(97, dtype=torch.float64)

        def probe(m):
            x = torch.randn(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            y = m.sparse_matvec(indices, values, (M, N), x)
            return y.shape, y[indices[0]], int(y.count_nonzero())

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_gradients_of_values_and_vector(self, agree, draw):
        """Duplicates share a row's gradient, and columns add theirs up."""
        indices, w = _coo(draw, 31, 5, 7), draw.normal(5, dtype=torch.float64)
        values, x = draw.normal(31, dtype=torch.float64), draw.normal(7, dtype=torch.float64)

        def probe(m):
            v, z = values.clone().requires_grad_(), x.clone().requires_grad_()
            (m.sparse_matvec(indices, v, (5, 7), z) * w).sum().backward()
            return v.grad, z.grad

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_indices_out_of_range_raise(self, agree, draw):
        """Rows and columns past the end, and negative ones, are a ValueError."""
        indices, values, x = _coo(draw, 13, 5, 7), draw.normal(13), draw.normal(7)
        bad = [indices.clone() for _ in range(6)]
        for wrong, (axis, i) in zip(bad, [(0, 5), (1, 7), (0, -1), (1, -1), (0, 2**32), (1, -(2**32))], strict=True):
            wrong[axis, draw.integer(0, 13)] = i

        def probe(m):
            outcomes = [raised(ValueError, lambda w=wrong: m.sparse_matvec(w, values, (5, 7), x)) for wrong in bad]
            return outcomes, m.sparse_matvec(indices, values, (5, 7), x)

        agree(probe, rtol=1e-3, atol=1e-4)
