"""Named wrong answers to the tasks of tensor_ops. The hidden suite rejects every one of them."""

from itertools import pairwise

import torch

from grader.testing import misconception

# broadcast_shape


@misconception("broadcast_shape", "Lines the shapes up at their first dimension: they line up at the last.")
def lines_up_on_the_left(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [tuple(shape) + (1,) * (rank - len(shape)) for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        other = {size for size in sizes if size != 1}
        if len(other) > 1:
            raise ValueError("sizes do not fit")
        result.append(other.pop() if other else 1)
    return tuple(result)


@misconception("broadcast_shape", "Takes the larger size without checking that the sizes fit.")
def never_complains(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


@misconception("broadcast_shape", "Takes the largest size, so that 1 and 0 give 1 instead of 0.")
def takes_the_maximum(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    for sizes in zip(*padded, strict=True):
        if len({size for size in sizes if size != 1}) > 1:
            raise ValueError("sizes do not fit")
    return tuple(max(sizes) for sizes in zip(*padded, strict=True))


@misconception("broadcast_shape", "Refuses shapes of different lengths: the missing dimensions count as 1.")
def wants_equal_ranks(*shapes):
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError("shapes have different lengths")
    result = []
    for sizes in zip(*shapes, strict=True):
        other = {size for size in sizes if size != 1}
        if len(other) > 1:
            raise ValueError("sizes do not fit")
        result.append(other.pop() if other else 1)
    return tuple(result)


@misconception("broadcast_shape", "zip stops at the shorter shape, so that the leading dimensions get lost.")
def drops_leading_dimensions(*shapes):
    result = []
    for sizes in zip(*[list(shape)[::-1] for shape in shapes], strict=False):
        other = {size for size in sizes if size != 1}
        if len(other) > 1:
            raise ValueError("sizes do not fit")
        result.append(other.pop() if other else 1)
    return tuple(result[::-1])


@misconception("broadcast_shape", "Lets a size fit that divides the other: only 1 stretches.")
def lets_divisors_stretch(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    result = [1] * rank
    for shape in shapes:
        for i in range(-len(shape), 0):
            low, high = sorted((result[i], shape[i]))
            if low != high and (high != 1 if low == 0 else high % low):
                raise ValueError("sizes do not fit")
            result[i] = low if low == 0 else high
    return tuple(result)


@misconception("broadcast_shape", "Compares every shape to the first one only.")
def compares_to_the_first_only(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    for shape in padded[1:]:
        if any(a != b and 1 not in (a, b) for a, b in zip(padded[0], shape, strict=True)):
            raise ValueError("sizes do not fit")
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


@misconception("broadcast_shape", "Compares each shape to the one before it: 3, 1 and 4 don't fit, although 3 and 1 do, and 1 and 4.")
def compares_to_the_shape_before(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    for before, after in pairwise(padded):
        if any(a != b and 1 not in (a, b) for a, b in zip(before, after, strict=True)):
            raise ValueError("sizes do not fit")
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


@misconception("broadcast_shape", "Lets 0 fit every size: like any other size, it fits itself and 1.")
def lets_zero_fit_everything(*shapes):
    result = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i in range(-len(shape), 0):
            if result[i] == 1 or shape[i] == 0:
                result[i] = shape[i]
            elif result[i] and shape[i] not in (1, result[i]):
                raise ValueError("sizes do not fit")
    return tuple(result)


@misconception("broadcast_shape", "Fills up the caller's own list on the left.")
def fills_up_the_list_itself(*shapes):
    rank = max(map(len, shapes), default=0)
    shapes = [shape if isinstance(shape, list) else list(shape) for shape in shapes]
    result = [1] * rank
    for shape in shapes:
        while len(shape) < rank:
            shape.insert(0, 1)
        for i, size in enumerate(shape):
            if size != 1 and result[i] not in (1, size):
                raise ValueError("sizes do not fit")
            result[i] = result[i] if size == 1 else size
    return tuple(result)


@misconception("broadcast_shape", "Returns a single shape as it came, also a list.")
def returns_a_single_shape_as_it_came(*shapes):
    if len(shapes) == 1:
        return shapes[0]
    result = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i in range(-len(shape), 0):
            if shape[i] != 1 and result[i] not in (1, shape[i]):
                raise ValueError("sizes do not fit")
            result[i] = result[i] if shape[i] == 1 else shape[i]
    return tuple(result)


@misconception("broadcast_shape", "Finds nothing to take where all sizes are 1.")
def needs_a_size_other_than_one(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        (size,) = {size for size in sizes if size != 1}  # ValueError if there are several
        result.append(size)
    return tuple(result)


# pairwise_distances


@misconception("pairwise_distances", "Expands |x|² + |y|² - 2 x·y: for close points, the difference is rounding noise.")
def expands_the_square(x, y):
    squared = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return squared.clamp(min=0).sqrt()


@misconception("pairwise_distances", "Takes the square root of 0, whose derivative is infinite: the gradient is NaN.")
def differentiates_the_root_at_zero(x, y):
    return (x[:, None] - y[None]).square().sum(-1).sqrt()


@misconception("pairwise_distances", "Masks the result only: the root of 0 is still differentiated, and 0 · inf is NaN.")
def masks_after_the_root(x, y):
    squared = (x[:, None] - y[None]).square().sum(-1)
    return torch.where(squared == 0, torch.zeros_like(squared), squared.sqrt())


@misconception("pairwise_distances", "Adds an epsilon under the root, so that equal points are not exactly 0 apart.")
def adds_epsilon_under_the_root(x, y):
    return ((x[:, None] - y[None]).square().sum(-1) + 1e-12).sqrt()


@misconception("pairwise_distances", "Clamps the squares from below, so that equal points are not exactly 0 apart.")
def clamps_above_zero(x, y):
    return (x[:, None] - y[None]).square().sum(-1).clamp(min=1e-12).sqrt()


@misconception("pairwise_distances", "Sums absolute differences: that is the Manhattan distance.")
def sums_absolute_differences(x, y):
    return (x[:, None] - y[None]).abs().sum(-1)


@misconception("pairwise_distances", "Forgets the square root.")
def returns_squared_distances(x, y):
    return (x[:, None] - y[None]).square().sum(-1)


@misconception("pairwise_distances", "Has the rows of y run down and those of x across.")
def transposes_the_result(x, y):
    squared = (x[None] - y[:, None]).square().sum(-1)
    same = squared == 0
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


@misconception("pairwise_distances", "Clamps what is not 0 from below: 1e-8 becomes 1e-6.")
def clamps_small_distances(x, y):
    squared = (x[:, None] - y[None]).square().sum(-1)
    same = squared == 0
    return squared.clamp(min=1e-12).sqrt().masked_fill(same, 0.0)


@misconception("pairwise_distances", "Takes points that lie closer together than 1e-6 for one point.")
def takes_close_points_for_equal(x, y):
    squared = (x[:, None] - y[None]).square().sum(-1)
    same = squared < 1e-12
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


@misconception("pairwise_distances", "Divides by the largest distance first, next to which small ones vanish.")
def scales_by_the_largest(x, y):
    difference = x[:, None] - y[None]
    scale = difference.detach().abs().max() if difference.numel() else 1
    squared = (difference / scale).square().sum(-1)
    same = squared == 0
    return scale * squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


@misconception("pairwise_distances", "Computes in float32, whatever comes in.")
def measures_in_float32(x, y):
    squared = (x.float()[:, None] - y.float()[None]).square().sum(-1)
    same = squared == 0
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0).to(x.dtype)


@misconception("pairwise_distances", "Squeezes the result: a single row or a single column disappears.")
def squeezes_the_distances(x, y):
    squared = (x[:, None] - y[None]).square().sum(-1).squeeze()
    same = squared == 0
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


# stable_softmax


@misconception("stable_softmax", "Exponentiates the scores as they are: exp(1e4) overflows.")
def exponentiates_directly(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    e = h.exp()
    total = e.sum(dim, keepdim=True)
    return (e / torch.where(total == 0, 1.0, total)).to(x.dtype)


@misconception("stable_softmax", "Subtracts the largest score of the whole tensor: rows far below it underflow to 0.")
def subtracts_the_global_maximum(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    e = (h - h.max()).exp()
    total = e.sum(dim, keepdim=True)
    return (e / torch.where(total == 0, 1.0, total)).to(x.dtype)


@misconception("stable_softmax", "Subtracts m + log Σ exp(x - m) at once: next to an m of 1e4, the log loses its digits.")
def loses_digits_in_the_log(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    m = h.detach().amax(dim, keepdim=True)
    empty = m == -torch.inf
    h, m = h.masked_fill(empty, 0.0), m.masked_fill(empty, 0.0)
    p = (h - (m + (h - m).exp().sum(dim, keepdim=True).log())).exp()
    return p.masked_fill(empty, 0.0).to(x.dtype)


@misconception("stable_softmax", "Subtracts -inf from -inf: a row of nothing but -inf becomes NaN.")
def forgets_rows_of_minus_infinity(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    e = (h - h.amax(dim, keepdim=True)).exp()
    return (e / e.sum(dim, keepdim=True)).to(x.dtype)


@misconception("stable_softmax", "Replaces -inf by a very negative number: a row of nothing else becomes uniform, not 0.")
def makes_minus_infinity_finite(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    h = h.clamp(min=-1e30)
    e = (h - h.amax(dim, keepdim=True)).exp()
    return (e / e.sum(dim, keepdim=True)).to(x.dtype)


@misconception("stable_softmax", "Replaces NaN in the result: the gradient still comes through the NaN.")
def repairs_nan_afterwards(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    e = (h - h.amax(dim, keepdim=True)).exp()
    return (e / e.sum(dim, keepdim=True)).nan_to_num(0.0).to(x.dtype)


@misconception("stable_softmax", "Adds up in float16, where everything beyond 65504 is infinite.")
def stays_in_half_precision(x, dim=-1):
    top = x.amax(dim, keepdim=True)
    e = (x - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = e.sum(dim, keepdim=True)
    return e / torch.where(total == 0, 1.0, total)


@misconception("stable_softmax", "Computes in float32 and forgets to return to the dtype of x.")
def always_returns_float32(x, dim=-1):
    h = x.float()
    top = h.amax(dim, keepdim=True)
    e = (h - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = e.sum(dim, keepdim=True)
    return e / torch.where(total == 0, 1.0, total)


@misconception("stable_softmax", "Normalises along the last dimension, whatever `dim` says.")
def ignores_dim(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    top = h.amax(-1, keepdim=True)
    e = (h - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = e.sum(-1, keepdim=True)
    return (e / torch.where(total == 0, 1.0, total)).to(x.dtype)


@misconception("stable_softmax", "Puts -1e9 for -inf: next to a score of -1e10, that is the largest.")
def puts_minus_a_billion(x, dim=-1):
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    blocked = h == -torch.inf
    h = h.masked_fill(blocked, -1e9)
    e = (h - h.amax(dim, keepdim=True)).exp()
    return (e / e.sum(dim, keepdim=True)).masked_fill(blocked, 0.0).to(x.dtype)


@misconception("stable_softmax", "Subtracts the maximum before it leaves 16 bits, where the difference is rounded.")
def subtracts_in_half_precision(x, dim=-1):
    top = x.amax(dim, keepdim=True)
    shifted = x - top.masked_fill(top == -torch.inf, 0.0)
    e = shifted.to(torch.promote_types(x.dtype, torch.float32)).exp()
    total = e.sum(dim, keepdim=True)
    return (e / total.masked_fill(total == 0, 1.0)).to(x.dtype)


@misconception("stable_softmax", "Subtracts the maximum from x itself.")
def subtracts_from_x_itself(x, dim=-1):
    if x.dtype in (torch.float16, torch.bfloat16):
        h = x.float()
    else:
        h = x.clone() if x.requires_grad else x
    top = h.amax(dim, keepdim=True)
    h -= top.masked_fill(top == -torch.inf, 0.0)
    e = h.exp()
    total = e.sum(dim, keepdim=True)
    return (e / total.masked_fill(total == 0, 1.0)).to(x.dtype)


@misconception("stable_softmax", "Takes every negative dim for the last one.")
def takes_negative_dims_for_the_last(x, dim=-1):
    dim = x.ndim - 1 if dim < 0 else dim
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    top = h.amax(dim, keepdim=True)
    e = (h - top.masked_fill(top == -torch.inf, 0.0)).exp()
    total = e.sum(dim, keepdim=True)
    return (e / total.masked_fill(total == 0, 1.0)).to(x.dtype)


@misconception("stable_softmax", "Computes in float32, which holds neither the digits nor the range of float64.")
def turns_scores_into_float32(x, dim=-1):
    h = x.float()
    top = h.amax(dim, keepdim=True)
    e = (h - top.masked_fill(top == -torch.inf, 0.0)).exp()
    total = e.sum(dim, keepdim=True)
    return (e / total.masked_fill(total == 0, 1.0)).to(x.dtype)


@misconception("stable_softmax", "Flattens with view what may lie in memory in another way.")
def flattens_scores_with_view(x, dim=-1):
    last = x if dim in (-1, x.ndim - 1) else x.transpose(dim, -1).contiguous()
    h = last.view(-1, last.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
    top = h.amax(1, keepdim=True)
    e = (h - top.masked_fill(top == -torch.inf, 0.0)).exp()
    total = e.sum(1, keepdim=True)
    p = (e / total.masked_fill(total == 0, 1.0)).to(x.dtype).view(last.shape)
    return p if last is x else p.transpose(dim, -1)


# log_sum_exp


@misconception("log_sum_exp", "Exponentiates the entries as they are: exp(1e4) is inf, and exp(-1e4) is 0.")
def logs_the_naive_sum(x, dim, keepdim=False):
    return x.exp().sum(dim, keepdim=keepdim).log()


@misconception("log_sum_exp", "Subtracts the maximum and forgets to add it back.")
def forgets_to_add_the_maximum(x, dim, keepdim=False):
    m = x.amax(dim, keepdim=True)
    return (x - m.masked_fill(m.isinf(), 0.0)).exp().sum(dim, keepdim=keepdim).log()


@misconception("log_sum_exp", "Subtracts the maximum of the whole tensor: slices far below it underflow to -inf.")
def shifts_by_the_global_maximum(x, dim, keepdim=False):
    m = x.max()
    m = m.masked_fill(m.isinf(), 0.0)
    return m + (x - m).exp().sum(dim, keepdim=keepdim).log()


@misconception("log_sum_exp", "Subtracts an infinite maximum: inf - inf is NaN.")
def subtracts_infinities(x, dim, keepdim=False):
    m = x.amax(dim, keepdim=True)
    result = m + (x - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


@misconception("log_sum_exp", "Handles slices of -inf, but not those with a +inf.")
def forgets_plus_infinity(x, dim, keepdim=False):
    m = x.amax(dim, keepdim=True)
    m = m.masked_fill(m == -torch.inf, 0.0)
    result = m + (x - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


@misconception("log_sum_exp", "Replaces -inf by a finite number, so that the log of 0 is finite too.")
def log_of_zero_is_finite(x, dim, keepdim=False):
    h = x.clamp(min=-1e30)
    m = h.amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)
    result = m + (h - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


@misconception("log_sum_exp", "Detaches the maximum it subtracts but not the one it adds: the largest entry's gradient is 1 too large.")
def detaches_one_maximum_only(x, dim, keepdim=False):
    m = x.amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)
    result = m + (x - m.detach()).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


@misconception("log_sum_exp", "Drops `dim` even where keepdim asks for it.")
def ignores_keepdim(x, dim, keepdim=False):
    m = x.amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)
    return (m + (x - m).exp().sum(dim, keepdim=True).log()).squeeze(dim)


@misconception("log_sum_exp", "Subtracts the mean: for 0 and 300, exp(150) still overflows.")
def subtracts_the_mean(x, dim, keepdim=False):
    m = x.mean(dim, keepdim=True).detach()
    m = torch.where(m.isinf() | m.isnan(), torch.zeros_like(m), m)
    result = m + (x - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


@misconception("log_sum_exp", "Squeezes every size of 1 away instead of `dim` only.")
def squeezes_all_sizes_of_one(x, dim, keepdim=False):
    m = x.amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)
    result = m + (x - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze()


@misconception("log_sum_exp", "Subtracts the maximum from x itself.")
def shifts_x_in_place(x, dim, keepdim=False):
    m = x.detach().amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)
    h = x.clone() if x.requires_grad else x
    h -= m
    result = m + h.exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


@misconception("log_sum_exp", "Turns infinite entries into 0 before it subtracts them, and so adds exp(0) for each.")
def takes_infinities_for_zero(x, dim, keepdim=False):
    top = x.amax(dim, keepdim=True)
    h = x.masked_fill(x.isinf(), 0.0)
    m = h.detach().amax(dim, keepdim=True)
    result = m + (h - m).exp().sum(dim, keepdim=True).log()
    result = torch.where(top.isinf(), top, result)
    return result if keepdim else result.squeeze(dim)


# masked_mean


@misconception("masked_mean", "Divides by the full count instead of the number of kept entries.")
def divides_by_everything(x, mask, dim):
    return torch.where(mask, x, 0.0).mean(dim)


@misconception("masked_mean", "Multiplies by the mask: NaN · 0 is NaN, in the result and in the gradient.")
def multiplies_by_the_mask(x, mask, dim):
    mask = mask.expand_as(x)
    return (x * mask).sum(dim) / mask.sum(dim).clamp(min=1)


@misconception("masked_mean", "Divides 0 by 0 where nothing is kept.")
def divides_zero_by_zero(x, mask, dim):
    mask = mask.expand_as(x)
    return torch.where(mask, x, 0.0).sum(dim) / mask.sum(dim)


@misconception("masked_mean", "Counts the mask before it is broadcast, so that a row kept by a mask of (7, 1) counts once.")
def counts_the_small_mask(x, mask, dim):
    while mask.ndim < x.ndim:
        mask = mask[None]
    return torch.where(mask, x, 0.0).sum(dim) / mask.sum(dim).clamp(min=1)


@misconception("masked_mean", "Replaces all NaN and infinities, those that the mask keeps included.")
def hides_kept_nan(x, mask, dim):
    mask = mask.expand_as(x)
    return (x.nan_to_num(0.0, 0.0, 0.0) * mask).sum(dim) / mask.sum(dim).clamp(min=1)


@misconception("masked_mean", "Marks masked entries as NaN and takes nanmean, which skips kept NaN as well.")
def takes_the_nanmean(x, mask, dim):
    mask = mask.expand_as(x)
    mean = torch.where(mask, x, torch.nan).nanmean(dim)
    return torch.where(mask.any(dim), mean, 0.0)


@misconception("masked_mean", "Zeroes the masked entries in x itself.")
def zeroes_x_in_place(x, mask, dim):
    mask = mask.expand_as(x)
    with torch.no_grad():
        x[~mask] = 0.0
    return torch.where(mask, x, 0.0).sum(dim) / mask.sum(dim).clamp(min=1)


@misconception("masked_mean", "Averages where the mask is False: True means keep.")
def inverts_the_mask(x, mask, dim):
    mask = ~mask.expand_as(x)
    return torch.where(mask, x, 0.0).sum(dim) / mask.sum(dim).clamp(min=1)


@misconception("masked_mean", "Squeezes every size of 1 away instead of `dim` only.")
def squeezes_the_means(x, mask, dim):
    mask = mask.expand_as(x)
    total = torch.where(mask, x, 0.0).sum(dim, keepdim=True)
    return (total / mask.sum(dim, keepdim=True).clamp(min=1)).squeeze()


@misconception("masked_mean", "Counts the entries that are not 0: a kept 0 counts too.")
def counts_what_is_not_zero(x, mask, dim):
    kept = torch.where(mask, x, 0.0)
    return kept.sum(dim) / (kept != 0).sum(dim).clamp(min=1)


@misconception("masked_mean", "Gives the mask new dimensions on the right, where those of x are lined up from the right.")
def lines_the_mask_up_on_the_left(x, mask, dim):
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)).expand_as(x)
    return torch.where(mask, x, 0.0).sum(dim) / mask.sum(dim).clamp(min=1)


@misconception("masked_mean", "Flattens with view what may lie in memory in another way.")
def flattens_the_mask_with_view(x, mask, dim):
    mask = mask.view(-1, mask.shape[-1]).view(mask.shape) if mask.ndim else mask
    mask = mask.expand_as(x)
    return torch.where(mask, x, 0.0).sum(dim) / mask.sum(dim).clamp(min=1)


@misconception("masked_mean", "Computes in float32, whatever comes in.")
def averages_in_float32(x, mask, dim):
    mask = mask.expand_as(x)
    total = torch.where(mask, x.float(), 0.0).sum(dim)
    return (total / mask.sum(dim).clamp(min=1)).to(x.dtype)


@misconception("masked_mean", "Averages vector by vector and stacks the means, which fails where there are none.")
def stacks_means(x, mask, dim):
    vectors, masks = x.movedim(dim, -1), mask.expand_as(x).movedim(dim, -1)
    rows = zip(vectors.reshape(-1, x.shape[dim]), masks.reshape(-1, x.shape[dim]), strict=True)
    means = [vector[keep].mean() if keep.any() else x.new_zeros(()) for vector, keep in rows]
    return torch.stack(means).reshape(vectors.shape[:-1])


# one_hot


@misconception("one_hot", "Indexes an identity matrix: -1 counts from the end, and a uint8 index is a mask.")
def indexes_an_identity(labels, num_classes, dtype=torch.float32):
    if (labels >= num_classes).any():
        raise ValueError("label out of range")
    return torch.eye(num_classes, dtype=dtype)[labels]


@misconception("one_hot", "Never checks the labels: one out of range becomes a vector of zeros.")
def maps_unknown_labels_to_zeros(labels, num_classes, dtype=torch.float32):
    return (labels[..., None] == torch.arange(num_classes)).to(dtype)


@misconception("one_hot", "Takes the number of classes from the labels at hand.")
def infers_the_classes(labels, num_classes, dtype=torch.float32):
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError("label out of range")
    width = int(labels.max()) + 1 if labels.numel() else num_classes
    return (labels[..., None] == torch.arange(width)).to(dtype)


@misconception("one_hot", "Lets the label num_classes through: the largest label is num_classes - 1.")
def is_off_by_one_at_the_end(labels, num_classes, dtype=torch.float32):
    if ((labels < 0) | (labels > num_classes)).any():
        raise ValueError("label out of range")
    return (labels[..., None] == torch.arange(num_classes)).to(dtype)


@misconception("one_hot", "Takes min and max of the labels for the check, which fails when there are none.")
def needs_at_least_one_label(labels, num_classes, dtype=torch.float32):
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError("label out of range")
    return (labels[..., None] == torch.arange(num_classes)).to(dtype)


@misconception("one_hot", "Flattens the labels: their dimensions are lost.")
def flattens_the_labels(labels, num_classes, dtype=torch.float32):
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError("label out of range")
    result = torch.zeros(labels.numel(), num_classes, dtype=dtype)
    result[torch.arange(labels.numel()), labels.reshape(-1).long()] = 1
    return result


@misconception("one_hot", "Always returns float32.")
def ignores_the_dtype(labels, num_classes, dtype=torch.float32):
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError("label out of range")
    return (labels[..., None] == torch.arange(num_classes)).float()


@misconception("one_hot", "Compares as uint8, where class 256 is class 0 again.")
def compares_in_uint8(labels, num_classes, dtype=torch.float32):
    if ((labels.long() < 0) | (labels.long() >= num_classes)).any():
        raise ValueError("label out of range")
    return (labels.to(torch.uint8)[..., None] == torch.arange(num_classes).to(torch.uint8)).to(dtype)


@misconception("one_hot", "Compares uint8 labels to num_classes, which wraps around at 256.")
def lets_num_classes_wrap_around(labels, num_classes, dtype=torch.float32):
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError("label out of range")
    return (labels[..., None] == torch.arange(num_classes)).to(dtype)


@misconception("one_hot", "Turns labels into int32 before it looks at them: 2**32 becomes 0.")
def cuts_labels_to_int32(labels, num_classes, dtype=torch.float32):
    labels = labels.int()
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError("label out of range")
    return (labels[..., None] == torch.arange(num_classes)).to(dtype)


@misconception("one_hot", "Takes num_classes = 0 for `not given`.")
def infers_zero_classes(labels, num_classes, dtype=torch.float32):
    labels = labels.long()
    num_classes = num_classes or int(labels.max()) + 1 if labels.numel() else num_classes
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError("label out of range")
    return (labels[..., None] == torch.arange(num_classes)).to(dtype)


@misconception("one_hot", "Flattens the labels with view, which fails where they lie in memory in another way.")
def flattens_labels_with_view(labels, num_classes, dtype=torch.float32):
    flat = labels.view(-1).long()
    if ((flat < 0) | (flat >= num_classes)).any():
        raise ValueError("label out of range")
    return (flat[:, None] == torch.arange(num_classes)).to(dtype).view(*labels.shape, num_classes)


@misconception("one_hot", "Squeezes the result: a single label or a single class loses its dimension.")
def squeezes_the_vectors(labels, num_classes, dtype=torch.float32):
    labels = labels.long()
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError("label out of range")
    return (labels[..., None] == torch.arange(num_classes)).to(dtype).squeeze()


# batched_gather


@misconception("batched_gather", "Uses the first example's indices for every example.")
def shares_the_first_indices(x, index):
    return x[:, index[0]]


@misconception("batched_gather", "Flattens the batch and forgets the offsets: all rows come from the first example.")
def forgets_the_batch_offset(x, index):
    return x.reshape(-1, x.shape[-1])[index]


@misconception("batched_gather", "Computes the offset of an example from K instead of N.")
def offsets_by_picks(x, index):
    B, K = index.shape
    flat = x.reshape(-1, x.shape[-1])
    return flat[(index + K * torch.arange(B)[:, None]).clamp(max=len(flat) - 1)]


@misconception("batched_gather", "Gathers with an index of size 1 in the last dimension: only the first column comes along.")
def gathers_the_first_column(x, index):
    return x.gather(1, index[..., None])


@misconception("batched_gather", "Multiplies by a one-hot matrix: NaN · 0 is NaN, and only float dtypes stay exact.")
def multiplies_by_one_hot(x, index):
    onehot = (index[..., None] == torch.arange(x.shape[1])).to(torch.float32)
    return (onehot @ x.to(torch.float32)).to(x.dtype)


@misconception("batched_gather", "Copies numbers instead of computing with x: no gradient comes back.")
def copies_without_gradient(x, index):
    result = torch.empty(index.shape[0], index.shape[1], x.shape[2], dtype=x.dtype)
    for b in range(index.shape[0]):
        result[b] = x.detach()[b, index[b]]
    return result


@misconception("batched_gather", "Picks every row at most once and in ascending order, as a mask would.")
def picks_each_row_once(x, index):
    result = x.new_zeros(index.shape[0], index.shape[1], x.shape[2])
    for b in range(index.shape[0]):
        rows = x[b, index[b].unique()]
        result[b, : len(rows)] = rows
    return result


@misconception("batched_gather", "Adds the offsets to the caller's own index.")
def adds_offsets_in_place(x, index):
    B, N, D = x.shape
    index += N * torch.arange(B)[:, None]
    return x.reshape(B * N, D)[index]


@misconception("batched_gather", "Flattens x with view, which fails where it lies in memory in another way.")
def flattens_x_with_view(x, index):
    B, N, D = x.shape
    return x.view(B * N, D)[index + N * torch.arange(B)[:, None]]


@misconception("batched_gather", "Squeezes the result: a batch of one, a single pick or a single column loses its dimension.")
def squeezes_the_picks(x, index):
    return x[torch.arange(x.shape[0])[:, None], index].squeeze()


@misconception("batched_gather", "Cuts the index to 8 bits: of hundreds of rows, it finds the first ones only.")
def cuts_the_index_to_8_bits(x, index):
    return x[torch.arange(x.shape[0])[:, None], index.to(torch.uint8).long()]


# scatter_mean


@misconception("scatter_mean", "Adds with y[index] += x, which keeps only one of the rows that share a group.")
def adds_with_plain_indexing(x, index, num_groups):
    total = torch.zeros(num_groups, x.shape[1], dtype=x.dtype)
    total[index] += x
    count = torch.bincount(index, minlength=num_groups).clamp(min=1)
    return total / count[:, None]


@misconception("scatter_mean", "Returns sums: the division by the number of rows is missing.")
def returns_sums(x, index, num_groups):
    return torch.zeros(num_groups, x.shape[1], dtype=x.dtype).index_add(0, index, x)


@misconception("scatter_mean", "Divides by the number of all rows instead of those in the group.")
def divides_by_all_rows(x, index, num_groups):
    return torch.zeros(num_groups, x.shape[1], dtype=x.dtype).index_add(0, index, x) / max(len(x), 1)


@misconception("scatter_mean", "Divides 0 by 0 for empty groups.")
def leaves_empty_groups_nan(x, index, num_groups):
    total = torch.zeros(num_groups, x.shape[1], dtype=x.dtype).index_add(0, index, x)
    return total / torch.bincount(index, minlength=num_groups)[:, None]


@misconception("scatter_mean", "Starts every count at 1, as if the initial 0 were a row of the group.")
def counts_the_initial_zero(x, index, num_groups):
    total = torch.zeros(num_groups, x.shape[1], dtype=x.dtype).index_add(0, index, x)
    return total / (torch.bincount(index, minlength=num_groups) + 1)[:, None]


@misconception("scatter_mean", "Lists only the groups that occur: empty ones vanish, and the others move up.")
def drops_empty_groups(x, index, num_groups):
    groups = index.unique()
    if len(groups) == 0:
        return torch.zeros(num_groups, x.shape[1], dtype=x.dtype)
    return torch.stack([x[index == g].mean(0) for g in groups])


@misconception("scatter_mean", "Fills a new tensor from detached rows: no gradient comes back.")
def averages_without_gradient(x, index, num_groups):
    total = torch.zeros(num_groups, x.shape[1], dtype=x.dtype)
    for row, g in zip(x.detach(), index, strict=True):
        total[g] += row
    return total / torch.bincount(index, minlength=num_groups).clamp(min=1)[:, None]


@misconception("scatter_mean", "Multiplies by a matrix of zeros and ones: NaN · 0 is NaN, so one group's NaN shows in all.")
def multiplies_by_membership(x, index, num_groups):
    member = (index == torch.arange(num_groups)[:, None]).to(x.dtype)
    return (member / member.sum(1, keepdim=True).clamp(min=1)) @ x


@misconception("scatter_mean", "Subtracts running sums, which carry what one group holds into the groups behind it.")
def subtracts_running_sums(x, index, num_groups):
    running = torch.cat([x.new_zeros(1, x.shape[1]), x[index.argsort(stable=True)].cumsum(0)])
    count = torch.bincount(index, minlength=num_groups)
    ends = count.cumsum(0)
    return (running[ends] - running[ends - count]) / count.clamp(min=1)[:, None]


@misconception("scatter_mean", "Squeezes the result: a single group or a single column loses its dimension.")
def squeezes_the_group_means(x, index, num_groups):
    total = x.new_zeros(num_groups, x.shape[1]).index_add(0, index, x)
    return (total / torch.bincount(index, minlength=num_groups).clamp(min=1)[:, None]).squeeze()


@misconception("scatter_mean", "Adds up in float32, whatever comes in.")
def adds_groups_in_float32(x, index, num_groups):
    total = torch.zeros(num_groups, x.shape[1]).index_add(0, index, x.float())
    return (total / torch.bincount(index, minlength=num_groups).clamp(min=1)[:, None]).to(x.dtype)


# sliding_windows


@misconception("sliding_windows", "Stacks copies of the windows: the result doesn't share memory with x.")
def stacks_copies(x, size, step=1):
    if size < 1 or step < 1 or size > x.shape[-1]:
        raise ValueError("no windows")
    return torch.stack([x[..., s : s + size] for s in range(0, x.shape[-1] - size + 1, step)], -2)


@misconception("sliding_windows", "Assumes that neighbours lie side by side in memory: true for contiguous tensors only.")
def assumes_stride_one(x, size, step=1):
    T = x.shape[-1]
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], step, 1))


@misconception("sliding_windows", "Makes x contiguous first, which copies it where it wasn't.")
def makes_it_contiguous_first(x, size, step=1):
    T = x.shape[-1]
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    x = x.contiguous()
    return x.as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], step, 1))


@misconception("sliding_windows", "Starts at the beginning of the storage, where a slice doesn't start.")
def forgets_the_storage_offset(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], step * s, s), 0)


@misconception("sliding_windows", "Makes one window too few: the last one that fits is missing.")
def misses_the_last_window(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], (T - size) // step, size), (*x.stride()[:-1], step * s, s))


@misconception("sliding_windows", "Moves on by one entry, whatever `step` says.")
def ignores_the_step(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], s, s))


@misconception("sliding_windows", "Puts the entries of a window before the windows: the last two dimensions are swapped.")
def swaps_windows_and_entries(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], size, (T - size) // step + 1), (*x.stride()[:-1], s, step * s))


@misconception("sliding_windows", "Refuses windows that are too long, but takes a size or a step of 0.")
def checks_the_length_only(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], (T - size) // max(step, 1) + 1, max(size, 0)), (*x.stride()[:-1], abs(step) * s, s))


@misconception("sliding_windows", "Makes the view from x.detach(): no gradient comes back.")
def detaches_the_windows(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.detach().as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], step * s, s))


@misconception("sliding_windows", "Returns a copy where a single window fits.")
def copies_a_single_window(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    if size == T:
        return torch.stack([x], -2)
    return x.as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], step * s, s))


@misconception("sliding_windows", "Squeezes the result: a single window, or windows of one entry, lose their dimension.")
def squeezes_the_windows(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], step * s, s)).squeeze()


@misconception("sliding_windows", "Takes a size or a step of 0 for `not given`.")
def replaces_zero_by_one(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    size, step = size or 1, step or 1
    if size < 1 or step < 1 or size > T:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], (T - size) // step + 1, size), (*x.stride()[:-1], step * s, s))


@misconception("sliding_windows", "Checks the number of windows instead of the size: with a large step, 8 of 7 entries pass.")
def checks_the_number_of_windows(x, size, step=1):
    T, s = x.shape[-1], x.stride(-1)
    W = int((T - size) / max(step, 1)) + 1
    if size < 1 or step < 1 or W < 1:
        raise ValueError("no windows")
    return x.as_strided((*x.shape[:-1], W, size), (*x.stride()[:-1], step * s, s))


# batched_bilinear


@misconception("batched_bilinear", "Multiplies x from the right and y from the left: the matrices are transposed.")
def transposes_the_weight(x, weight, y):
    if weight.shape[1] != weight.shape[2]:
        return torch.einsum("...i,oij,...j->...o", x, weight, y)
    return torch.einsum("...j,oij,...i->...o", x, weight, y)


@misconception("batched_bilinear", "Sums over the batch too.")
def sums_over_the_batch(x, weight, y):
    z = torch.einsum("...i,oij,...j->...o", x, weight, y)
    return z.reshape(-1, z.shape[-1]).sum(0).expand_as(z)


@misconception("batched_bilinear", "Pairs every x with every y of the batch instead of its own.")
def pairs_all_with_all(x, weight, y):
    if x.ndim != 2:
        return torch.einsum("...i,oij,...j->...o", x, weight, y)
    return torch.einsum("ai,oij,bj->abo", x, weight, y)


@misconception("batched_bilinear", "Expects exactly one batch dimension.")
def expects_one_batch_dimension(x, weight, y):
    return torch.einsum("bi,oij,bj->bo", x, weight, y)


@misconception("batched_bilinear", "Computes in float32, whatever comes in.")
def computes_in_float32(x, weight, y):
    return torch.einsum("...i,oij,...j->...o", x.float(), weight.float(), y.float()).to(x.dtype)


@misconception("batched_bilinear", "Flattens the weight with view, which fails where it lies in memory in another way.")
def flattens_the_weight_with_view(x, weight, y):
    products = (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)
    return products @ weight.view(weight.shape[0], -1).T


@misconception("batched_bilinear", "Flattens the batch with view, which fails where x lies in memory in another way.")
def flattens_the_batch_with_view(x, weight, y):
    z = torch.einsum("bi,oij,bj->bo", x.view(-1, x.shape[-1]), weight, y.view(-1, y.shape[-1]))
    return z.reshape(*x.shape[:-1], weight.shape[0])


@misconception("batched_bilinear", "Squeezes the result: a batch of one or a single output loses its dimension.")
def squeezes_the_outputs(x, weight, y):
    return torch.einsum("...i,oij,...j->...o", x, weight, y).squeeze()


@misconception("batched_bilinear", "Works with weight.data: no gradient reaches the weight.")
def detaches_the_weight(x, weight, y):
    return torch.einsum("...i,oij,...j->...o", x, weight.data, y)


@misconception("batched_bilinear", "Infers the batch with reshape(-1, …), which fails when it is empty.")
def infers_the_batch(x, weight, y):
    left = x.reshape(-1, x.shape[-1]) @ weight.permute(1, 0, 2).flatten(1)  # (B, O · J)
    z = left.reshape(-1, *weight.shape[::2]) @ y.reshape(-1, y.shape[-1], 1)
    return z.reshape(*x.shape[:-1], -1)


# block_diagonal


@misconception("block_diagonal", "Moves on by the number of rows in both directions: fine for square blocks only.")
def assumes_square_blocks(blocks):
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    rows, columns = sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)
    result = torch.zeros(max(rows, columns) + 9, max(rows, columns) + 9, dtype=blocks[0].dtype)
    start = 0
    for b in blocks:
        result[start : start + b.shape[0], start : start + b.shape[1]] = b
        start += b.shape[0]
    return result[:rows, :columns]


@misconception("block_diagonal", "Leaves empty blocks out, although their columns or rows count.")
def skips_empty_blocks(blocks):
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    blocks = [b for b in blocks if b.numel()]
    result = blocks[0].new_zeros(sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks))
    row = column = 0
    for b in blocks:
        result[row : row + b.shape[0], column : column + b.shape[1]] = b
        row, column = row + b.shape[0], column + b.shape[1]
    return result


@misconception("block_diagonal", "Starts from float32 zeros, whatever the dtype of the blocks.")
def starts_from_float32_zeros(blocks):
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    result = torch.zeros(sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks))
    row = column = 0
    for b in blocks:
        result[row : row + b.shape[0], column : column + b.shape[1]] = b
        row, column = row + b.shape[0], column + b.shape[1]
    return result


@misconception("block_diagonal", "Multiplies each block into its place with identity matrices: NaN · 0 is NaN.")
def places_by_multiplication(blocks):
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    rows, columns = sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)
    eye_rows, eye_columns = torch.eye(rows, dtype=blocks[0].dtype), torch.eye(columns, dtype=blocks[0].dtype)
    result = torch.zeros(rows, columns, dtype=blocks[0].dtype)
    row = column = 0
    for b in blocks:
        if b.dtype == torch.bool:
            result[row : row + b.shape[0], column : column + b.shape[1]] = b
        else:
            result = result + eye_rows[:, row : row + b.shape[0]] @ b @ eye_columns[column : column + b.shape[1]]
        row, column = row + b.shape[0], column + b.shape[1]
    return result


@misconception("block_diagonal", "Copies the numbers of the blocks: no gradient comes back.")
def copies_the_numbers(blocks):
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    result = torch.zeros(sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks), dtype=blocks[0].dtype)
    row = column = 0
    for b in blocks:
        result[row : row + b.shape[0], column : column + b.shape[1]] = b.detach()
        row, column = row + b.shape[0], column + b.shape[1]
    return result


@misconception("block_diagonal", "Takes a vector for a matrix of one row instead of refusing it.")
def takes_vectors_for_rows(blocks):
    if not blocks:
        raise ValueError("no blocks")
    blocks = [b.reshape(1, -1) if b.ndim < 2 else b.flatten(0, -2) for b in blocks]
    result = blocks[0].new_zeros(sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks))
    row = column = 0
    for b in blocks:
        result[row : row + b.shape[0], column : column + b.shape[1]] = b
        row, column = row + b.shape[0], column + b.shape[1]
    return result


@misconception("block_diagonal", "Takes the first block out of the caller's own list.")
def pops_the_first_block(blocks):
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    result = blocks.pop(0)
    for block in blocks:
        upper = torch.cat([result, result.new_zeros(len(result), block.shape[1])], 1)
        lower = torch.cat([block.new_zeros(len(block), result.shape[1]), block], 1)
        result = torch.cat([upper, lower])
    return result


@misconception("block_diagonal", "Returns a single block as it came, also a vector.")
def returns_a_single_block_unchecked(blocks):
    if len(blocks) == 1:
        return blocks[0]
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    columns = sum(block.shape[1] for block in blocks)
    rows, before = [], 0
    for block in blocks:
        left, right = block.new_zeros(len(block), before), block.new_zeros(len(block), columns - before - block.shape[1])
        rows.append(torch.cat([left, block, right], 1))
        before += block.shape[1]
    return torch.cat(rows)


@misconception("block_diagonal", "Compares to [] to see whether there is no block: an empty tuple is not an empty list.")
def expects_a_list(blocks):
    if blocks == [] or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    result = blocks[0]
    for block in blocks[1:]:
        upper = torch.cat([result, result.new_zeros(len(result), block.shape[1])], 1)
        lower = torch.cat([block.new_zeros(len(block), result.shape[1]), block], 1)
        result = torch.cat([upper, lower])
    return result


@misconception("block_diagonal", "Flattens blocks with view, which fails where they lie in memory in another way.")
def flattens_blocks_with_view(blocks):
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    rows, columns = ([block.shape[axis] for block in blocks] for axis in (0, 1))
    inside = torch.zeros(sum(rows), sum(columns), dtype=torch.bool)
    for i, (R, C) in enumerate(zip(rows, columns, strict=True)):
        inside[sum(rows[:i]) : sum(rows[:i]) + R, sum(columns[:i]) : sum(columns[:i]) + C] = True
    return torch.zeros(inside.shape, dtype=blocks[0].dtype).masked_scatter(inside, torch.cat([b.view(-1) for b in blocks]))


# topk_mask


@misconception("topk_mask", "Marks everything from the k-th largest value up: ties make that more than k.")
def compares_to_the_kth_value(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    if k == 0:
        return torch.zeros_like(x, dtype=torch.bool)
    return x >= x.sort(dim=-1, descending=True).values[..., k - 1 : k]


@misconception("topk_mask", "Relies on torch.topk, which takes any of several equal entries.")
def trusts_topk_with_ties(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.topk(k, dim=-1).indices, True)


@misconception("topk_mask", "Sorts ascending and takes the end: among equal entries, the last ones go first.")
def prefers_the_higher_index(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = x.argsort(dim=-1, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., x.shape[-1] - k :], True)


@misconception("topk_mask", "Sorts -x: for integers, -0 is no larger than -1 of a uint8, and the lowest int64 has no negative.")
def sorts_the_negative(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = (-x).argsort(dim=-1, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


@misconception("topk_mask", "Sorts as float32, which can't tell large integers apart.")
def sorts_as_float32(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = x.float().argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


@misconception("topk_mask", "Crosses out what it has found with -inf: where only -inf is left, it finds the same entry again.")
def crosses_out_with_infinity(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    if not x.is_floating_point():
        order = x.argsort(dim=-1, descending=True, stable=True)
        return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)
    left, mask = x.clone(), torch.zeros_like(x, dtype=torch.bool)
    for _ in range(k):
        first = (left == left.amax(-1, keepdim=True)).int().argsort(dim=-1, descending=True, stable=True)[..., :1]
        mask = mask.scatter(-1, first, True)
        left = left.scatter(-1, first, -torch.inf)
    return mask


@misconception("topk_mask", "Crosses out what it has found in x itself.")
def crosses_out_in_place(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = x.argsort(dim=-1, descending=True, stable=True)[..., :k]
    mask = torch.zeros_like(x, dtype=torch.bool).scatter(-1, order, True)
    if x.is_floating_point() and x.is_contiguous():
        x[mask] = -torch.inf
    return mask


@misconception("topk_mask", "Takes the k largest of the whole tensor instead of every row.")
def takes_the_largest_overall(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = x.reshape(-1).argsort(descending=True, stable=True)
    return torch.zeros(x.numel(), dtype=torch.bool).scatter(0, order[:k], True).reshape(x.shape)


@misconception("topk_mask", "Breaks ties by a small penalty, which large entries swallow and which reorders small ones.")
def breaks_ties_with_a_penalty(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    if x.is_floating_point():
        order = (x.double() - 1e-9 * torch.arange(x.shape[-1])).argsort(dim=-1, descending=True)
    else:
        order = x.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


@misconception("topk_mask", "Sorts as float64, which can't tell the largest integers apart.")
def sorts_as_float64(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = x.double().argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


@misconception("topk_mask", "Sorts floats as float32: 1 and 1 + 1e-12 become equal.")
def sorts_floats_as_float32(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = (x.float() if x.is_floating_point() else x).argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


@misconception("topk_mask", "Flattens x with view, which fails where it lies in memory in another way.")
def flattens_rows_with_view(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = x.view(-1, x.shape[-1]).argsort(dim=-1, descending=True, stable=True)
    return torch.zeros(order.shape, dtype=torch.bool).scatter(-1, order[:, :k], True).reshape(x.shape)


@misconception("topk_mask", "Takes k = 0 for `not given` and marks everything.")
def marks_all_for_zero(x, k):
    k = k or x.shape[-1]
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    order = x.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


@misconception("topk_mask", "Returns an empty vector where x is empty: the mask has the shape of x, (0, 7) for instance.")
def nothing_for_nothing(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    if x.numel() == 0:
        return torch.zeros(0, dtype=torch.bool)
    order = x.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


# sparse_matvec


@misconception("sparse_matvec", "Writes with y[rows] = …, so that only the last entry of each row counts.")
def overwrites_instead_of_adding(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    result = torch.zeros(size[0], dtype=values.dtype)
    result[rows] = values * x[columns]
    return result


@misconception("sparse_matvec", "Adds with y[rows] += …, which still keeps one entry of each row only.")
def adds_each_row_once(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    result = torch.zeros(size[0], dtype=values.dtype)
    result[rows] += values * x[columns]
    return result


@misconception("sparse_matvec", "Keeps the last of the entries at one place: they add up.")
def keeps_the_last_duplicate(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    entries = {}
    for e, place in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        entries[place] = e
    keep = torch.tensor(list(entries.values()), dtype=torch.int64)
    return torch.zeros(size[0], dtype=values.dtype).index_add(0, rows[keep], values[keep] * x[columns[keep]])


@misconception("sparse_matvec", "Builds the whole matrix, which doesn't fit into memory when it is large.")
def builds_the_dense_matrix(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    dense = torch.zeros(size, dtype=values.dtype).index_put((rows, columns), values, accumulate=True)
    return dense @ x


@misconception("sparse_matvec", "Lets negative indices count from the end.")
def lets_negative_indices_through(indices, values, size, x):
    rows, columns = indices
    if (rows >= size[0]).any() or (columns >= size[1]).any():
        raise ValueError("index out of range")
    return torch.zeros(size[0], dtype=values.dtype).index_add(0, rows % size[0], values * x[columns])


@misconception("sparse_matvec", "Swaps rows and columns: that multiplies by the transposed matrix.")
def multiplies_by_the_transpose(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    return torch.zeros(size[0], dtype=values.dtype).index_add(0, columns % size[0], values * x[rows % size[1]])


@misconception("sparse_matvec", "Returns as many rows as occur instead of M.")
def infers_the_number_of_rows(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    M = int(rows.max()) + 1 if rows.numel() else 0
    return torch.zeros(M, dtype=values.dtype).index_add(0, rows, values * x[columns])


@misconception("sparse_matvec", "Starts from float32 zeros, whatever the dtype of the values.")
def accumulates_in_float32(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    return torch.zeros(size[0]).index_add(0, rows, (values * x[columns]).float())


@misconception("sparse_matvec", "Adds up in float64, which rounds integers beyond 2**53.")
def goes_through_float64(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    products = values.double() * x[columns].double()
    return torch.zeros(size[0], dtype=torch.float64).index_add(0, rows, products).to(values.dtype)


@misconception("sparse_matvec", "Subtracts running sums, which carry what one row holds into the rows behind it.")
def subtracts_sums_so_far(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    products = (values * x[columns])[rows.argsort(stable=True)]
    running = torch.cat([values.new_zeros(1), products.cumsum(0).to(values.dtype)])
    count = torch.bincount(rows, minlength=size[0])
    ends = count.cumsum(0)
    return running[ends] - running[ends - count]


@misconception("sparse_matvec", "Checks the rows by the number of columns, and the columns by that of rows.")
def swaps_the_limits(indices, values, size, x):
    rows, columns = indices
    if ((rows < 0) | (rows >= size[1]) | (columns < 0) | (columns >= size[0])).any():
        raise ValueError("index out of range")
    return values.new_zeros(size[0]).index_add(0, rows, values * x[columns])


@misconception("sparse_matvec", "Squeezes the indices: with a single entry, rows and columns lose their dimension.")
def squeezes_the_indices(indices, values, size, x):
    rows, columns = indices.squeeze()
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    return values.new_zeros(size[0]).index_add(0, rows, (values * x[columns]).squeeze())


@misconception("sparse_matvec", "Takes the largest index for the check, which fails when there are no entries.")
def needs_an_entry(indices, values, size, x):
    rows, columns = indices
    if indices.min() < 0 or rows.max() >= size[0] or columns.max() >= size[1]:
        raise ValueError("index out of range")
    return values.new_zeros(size[0]).index_add(0, rows, values * x[columns])


@misconception("sparse_matvec", "Turns indices into int32 before it looks at them: 2**32 becomes 0.")
def cuts_indices_to_int32(indices, values, size, x):
    rows, columns = indices.int()
    if ((rows < 0) | (rows >= size[0]) | (columns < 0) | (columns >= size[1])).any():
        raise ValueError("index out of range")
    return values.new_zeros(size[0]).index_add(0, rows, values * x[columns])


@misconception("sparse_matvec", "Clamps the caller's own indices to see whether one is out of range.")
def clamps_the_indices_in_place(indices, values, size, x):
    before = indices.clone()
    limits = torch.tensor(size)[:, None] - 1
    if (indices.clamp_(min=0) != before).any() or (torch.minimum(indices, limits) != before).any():
        raise ValueError("index out of range")
    return values.new_zeros(size[0]).index_add(0, indices[0], values * x[indices[1]])
