"""Other correct answers to the tasks of tensor_ops. The hidden suite accepts every one of them."""

import math
from functools import reduce
from itertools import product, zip_longest

import numpy
import torch
import torch.nn.functional as F

from grader.testing import alternative

# broadcast_shape


@alternative("broadcast_shape")
def with_sets_of_sizes(*shapes):
    result = []
    for sizes in zip_longest(*[tuple(shape)[::-1] for shape in shapes], fillvalue=1):
        others = set(sizes) - {1}
        if len(others) > 1:
            raise ValueError(f"sizes {sizes} do not fit")
        result.insert(0, others.pop() if others else 1)
    return tuple(result)


@alternative("broadcast_shape")
def two_by_two(*shapes):
    def merge(a, b):
        a, b = (1,) * (len(b) - len(a)) + tuple(a), (1,) * (len(a) - len(b)) + tuple(b)
        if any(p != q and p != 1 and q != 1 for p, q in zip(a, b, strict=True)):
            raise ValueError("sizes do not fit")
        return tuple(q if p == 1 else p for p, q in zip(a, b, strict=True))

    return reduce(merge, shapes, ())


@alternative("broadcast_shape")
def asking_numpy(*shapes):
    return numpy.broadcast_shapes(*map(tuple, shapes))


@alternative("broadcast_shape")
def expanding_a_number(*shapes):
    common = torch.Size([1]) * max([len(shape) for shape in shapes], default=0)
    for shape in shapes:
        ours = torch.tensor(0).expand(common)
        theirs = torch.tensor(0).expand((1,) * (len(common) - len(shape)) + tuple(shape))
        for i, (a, b) in enumerate(zip(ours.shape, theirs.shape, strict=True)):
            if a == 1:
                ours = ours.select(i, 0).unsqueeze(i).expand(*ours.shape[:i], b, *ours.shape[i + 1 :])
            elif b not in (1, a):
                raise ValueError(f"dimension {i} of {tuple(shape)} does not fit")
        common = ours.shape
    return common


# pairwise_distances


@alternative("pairwise_distances")
def with_its_own_derivative(x, y):
    class Distance(torch.autograd.Function):
        @staticmethod
        def forward(ctx, difference):
            distance = difference.mul(difference).sum(-1).sqrt()
            ctx.save_for_backward(difference, distance)
            return distance

        @staticmethod
        def backward(ctx, grad):
            difference, distance = ctx.saved_tensors
            unit = difference / torch.where(distance == 0, torch.ones_like(distance), distance).unsqueeze(-1)
            return grad.unsqueeze(-1) * unit

    return Distance.apply(x.unsqueeze(1) - y)


@alternative("pairwise_distances")
def row_by_row(x, y):
    rows = []
    for point in x:
        squared = (point - y).pow(2).sum(1)
        safe = torch.where(squared > 0, squared, torch.ones_like(squared))
        rows.append(torch.where(squared > 0, safe.sqrt(), torch.zeros_like(squared)))
    return torch.stack(rows) if rows else x.new_zeros(0, len(y))


@alternative("pairwise_distances")
def only_where_different(x, y):
    difference = x.unsqueeze(1) - y.unsqueeze(0)
    squared = torch.einsum("nmd,nmd->nm", difference, difference)
    apart = squared != 0
    result = torch.zeros_like(squared)
    result[apart] = squared[apart] ** 0.5
    return result


@alternative("pairwise_distances")
def one_coordinate_at_a_time(x, y):
    squared = x.new_zeros(len(x), len(y))
    for k in reversed(range(x.shape[1])):
        squared = squared + (x[:, k].reshape(-1, 1) - y[:, k].reshape(1, -1)) ** 2
    same = (squared == 0).to(x.dtype)
    return (squared + same).sqrt() - same


# stable_softmax


@alternative("stable_softmax")
def in_float64(x, dim=-1):
    h = x.double()
    top = h.max(dim, keepdim=True).values.detach()
    e = torch.exp(h - top.clamp(min=torch.finfo(torch.float64).min))
    return (e / e.sum(dim, keepdim=True).clamp(min=0.5)).to(x.dtype)  # a sum is at least 1, or 0


@alternative("stable_softmax")
def by_the_log_of_the_sum(x, dim=-1):
    h = x.to(torch.promote_types(x.dtype, torch.float32)).movedim(dim, -1)
    empty = (h == -math.inf).all(-1, keepdim=True)
    h = h.masked_fill(empty, 0.0)
    h = h - h.amax(-1, keepdim=True).detach()
    p = (h - h.exp().sum(-1, keepdim=True).log()).exp()
    return p.masked_fill(empty, 0.0).movedim(-1, dim).to(x.dtype)


@alternative("stable_softmax")
def slice_by_slice(x, dim=-1):
    h = x.float() if x.element_size() < 4 else x
    columns = h.movedim(dim, 0).flatten(1) if h.ndim > 1 else h[:, None]
    result = []
    for column in columns.unbind(1):
        top = column.detach().max()
        if top == -math.inf:
            result.append(torch.zeros_like(column))
        else:
            e = torch.exp(column - top)
            result.append(e * (1 / e.sum()))
    return torch.stack(result, 1).reshape(h.movedim(dim, 0).shape).movedim(0, dim).to(x.dtype)


@alternative("stable_softmax")
def in_base_two_with_a_running_maximum(x, dim=-1):
    h, scale = x.to(torch.promote_types(x.dtype, torch.float32)), math.log2(math.e)
    top, total = -math.inf, 0.0
    for block in h.split(256, dim):  # the sum so far is rescaled where the maximum grows
        new = block.detach().amax(dim, keepdim=True).clamp(min=top)
        base = new.nan_to_num(neginf=0.0)
        total = total * torch.exp2((top - base) * scale) + torch.exp2((block - base) * scale).sum(dim, keepdim=True)
        top = new
    p = torch.exp2((h - top.nan_to_num(neginf=0.0)) * scale)
    return (p / total.clamp(min=0.5)).to(x.dtype)


# log_sum_exp


@alternative("log_sum_exp")
def counting_the_largest_apart(x, dim, keepdim=False):
    top = x.amax(dim, keepdim=True)
    largest = x == top
    count = largest.sum(dim, keepdim=True)
    base = top.detach().masked_fill(top.isinf(), 0.0)
    rest = (x.masked_fill(largest, -math.inf) - base).exp().sum(dim, keepdim=True) / (top - base).exp()
    rest = rest.masked_fill(top.isinf(), 0.0)
    result = torch.where(top.isinf(), top, top + count.log() + torch.log1p(rest / count))
    return result if keepdim else result.squeeze(dim)


@alternative("log_sum_exp")
def by_cases(x, dim, keepdim=False):
    top = x.max(dim, keepdim=True).values
    finite = torch.isfinite(top)
    shifted = torch.where(finite, x - torch.where(finite, top, torch.zeros_like(top)), torch.zeros_like(x))
    result = torch.where(finite, top + torch.log(torch.exp(shifted).sum(dim, keepdim=True)), top)
    return result if keepdim else result.squeeze(dim)


@alternative("log_sum_exp")
def two_entries_at_a_time(x, dim, keepdim=False):
    def add(a, b):
        high, low = torch.maximum(a, b), torch.minimum(a, b)
        gap = torch.where(torch.isinf(high) | torch.isinf(low), torch.full_like(low, -math.inf), low - high)
        return high + torch.log1p(torch.exp(gap))

    result = reduce(add, x.unbind(dim))
    return result.unsqueeze(dim) if keepdim else result


@alternative("log_sum_exp")
def in_double_precision(x, dim, keepdim=False):
    h = x.double()
    shift = h.detach().amax(dim, keepdim=True).nan_to_num(posinf=0.0, neginf=0.0)
    total = torch.exp(h - shift).sum(dim, keepdim=keepdim)
    return (total.log() + (shift if keepdim else shift.squeeze(dim))).to(x.dtype)


# masked_mean


@alternative("masked_mean")
def filling_a_copy(x, mask, dim):
    mask = torch.broadcast_to(mask, x.shape)
    kept = x.clone()
    kept[~mask] = 0
    count = mask.to(x.dtype).sum(dim)
    return kept.sum(dim) / torch.where(count > 0, count, torch.ones_like(count))


@alternative("masked_mean")
def weighting_before_the_sum(x, mask, dim):
    mask = mask | torch.zeros_like(x, dtype=torch.bool)
    weight = mask.double() / mask.sum(dim, keepdim=True).clamp(min=1)
    return (x.masked_fill(~mask, 0).double() * weight).sum(dim).to(x.dtype)


@alternative("masked_mean")
def vector_by_vector(x, mask, dim):
    vectors = x.movedim(dim, -1)
    masks = mask.expand(x.shape).movedim(dim, -1)
    result = x.new_zeros(vectors.shape[:-1])
    for place in product(*map(range, result.shape)):
        if masks[place].any():
            result[place] = vectors[place][masks[place]].mean()
    return result


@alternative("masked_mean")
def scattering_the_kept_entries(x, mask, dim):
    kept = mask.expand_as(x).movedim(dim, -1)
    values = x.movedim(dim, -1)[kept]
    owner = kept.nonzero()[:, :-1]  # where in the result each kept entry belongs
    result = torch.zeros(kept.shape[:-1], dtype=x.dtype)
    count = torch.zeros(kept.shape[:-1], dtype=x.dtype)
    if owner.shape[1] == 0:
        return values.mean() if len(values) else result
    owner = tuple(owner.T)
    total = result.index_put(owner, values, accumulate=True)
    return total / count.index_put(owner, torch.ones_like(values), accumulate=True).clamp(min=1)


# one_hot


@alternative("one_hot")
def by_scattering(labels, num_classes, dtype=torch.float32):
    labels = labels.long()
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise ValueError("label out of range")
    result = torch.zeros(*labels.shape, num_classes, dtype=dtype)
    return result.scatter_(-1, labels.unsqueeze(-1), 1)


@alternative("one_hot")
def rows_of_the_identity(labels, num_classes, dtype=torch.float32):
    if any(not 0 <= label < num_classes for label in labels.reshape(-1).tolist()):
        raise ValueError("label out of range")
    return torch.eye(num_classes).to(dtype)[labels.to(torch.int64)]


@alternative("one_hot")
def filling_a_flat_row(labels, num_classes, dtype=torch.float32):
    flat = labels.flatten().tolist()
    if not all(label in range(num_classes) for label in flat):
        raise ValueError("label out of range")
    result = torch.zeros(len(flat) * num_classes, dtype=dtype)
    result[[i * num_classes + label for i, label in enumerate(flat)]] = True
    return result.unflatten(0, (len(flat), num_classes)).reshape(*labels.shape, num_classes)


# batched_gather


@alternative("batched_gather")
def mapping_over_the_batch(x, index):
    return torch.vmap(lambda rows, picks: rows[picks])(x, index)


@alternative("batched_gather")
def example_by_example(x, index):
    return torch.stack([rows[picks] for rows, picks in zip(x, index, strict=True)])


@alternative("batched_gather")
def gathering_along_rows(x, index):
    return torch.gather(x, 1, index[:, :, None].expand(-1, -1, x.shape[2]))


@alternative("batched_gather")
def with_flat_offsets(x, index):
    B, N, D = x.shape
    flat = index + N * torch.arange(B).reshape(B, 1)
    return x.reshape(B * N, D).index_select(0, flat.reshape(-1)).reshape(B, -1, D) if index.numel() else x[:, :0]


# scatter_mean


@alternative("scatter_mean")
def group_by_group(x, index, num_groups):
    empty = x.new_zeros(x.shape[1])
    return torch.stack([x[index == g].mean(0) if (index == g).any() else empty for g in range(num_groups)])


@alternative("scatter_mean")
def as_a_sparse_product(x, index, num_groups):
    places = torch.stack([index, torch.arange(len(index))])
    share = index.bincount(minlength=num_groups).to(x.dtype)[index].reciprocal()
    return torch.sparse_coo_tensor(places, share, (num_groups, len(index))) @ x


@alternative("scatter_mean")
def dividing_before_adding(x, index, num_groups):
    count = torch.zeros(num_groups, dtype=torch.float64).index_add_(0, index, torch.ones(len(x), dtype=torch.float64))
    shares = x.double() / count[index].unsqueeze(1)
    result = torch.zeros(num_groups, x.shape[1], dtype=torch.float64)
    return result.scatter_add(0, index.unsqueeze(1).expand_as(shares), shares).to(x.dtype)


# sliding_windows


@alternative("sliding_windows")
def every_window_then_slicing(x, size, step=1):
    T = x.size(-1)
    if not 1 <= size <= T or step <= 0:
        raise ValueError("no windows")
    strides = list(x.stride())
    every = torch.as_strided(x, [*x.shape[:-1], T - size + 1, size], strides + strides[-1:], x.storage_offset())
    return every[..., ::step, :]


@alternative("sliding_windows")
def entries_first_then_transposed(x, size, step=1):
    T = x.size(-1)
    if not (size > 0 and step > 0 and size <= T):
        raise ValueError("no windows")
    starts = x[..., : T - size + 1 : step]  # where each window starts
    shape = (size, *starts.shape)
    strides = (x.stride(-1), *starts.stride()[:-1], step * x.stride(-1))
    return torch.as_strided(x, shape, strides).movedim(0, -1)


# batched_bilinear


@alternative("batched_bilinear")
def with_matrix_products(x, weight, y):
    left = torch.tensordot(x, weight, dims=([-1], [1]))  # (..., O, J)
    return (left @ y.unsqueeze(-1)).squeeze(-1)


@alternative("batched_bilinear")
def broadcasting_everything(x, weight, y):
    outer = x.unsqueeze(-1) * y.unsqueeze(-2)  # (..., I, J)
    return (outer.unsqueeze(-3) * weight).sum((-2, -1))


@alternative("batched_bilinear")
def one_output_at_a_time(x, weight, y):
    return torch.stack([((x @ matrix) * y).sum(-1) for matrix in weight], dim=-1)


@alternative("batched_bilinear")
def linear_in_all_products(x, weight, y):
    products = torch.einsum("...i,...j->...ij", x, y)
    return torch.nn.functional.linear(products.flatten(-2), weight.flatten(1))


# block_diagonal


@alternative("block_diagonal")
def padding_on_both_sides(blocks):
    if not blocks or any(len(block.shape) != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    widths = [block.shape[1] for block in blocks]
    return torch.vstack([F.pad(b, (sum(widths[:i]), sum(widths[i + 1 :]))) for i, b in enumerate(blocks)])


@alternative("block_diagonal")
def padding_every_block(blocks):
    if len(blocks) == 0 or {block.dim() for block in blocks} != {2}:
        raise ValueError("blocks must be matrices")
    columns, before, rows = sum(block.size(1) for block in blocks), 0, []
    for block in blocks:
        left = torch.zeros(block.size(0), before, dtype=block.dtype)
        before += block.size(1)
        right = torch.zeros(block.size(0), columns - before, dtype=block.dtype)
        rows.append(torch.cat([left, block, right], 1))
    return torch.cat(rows, 0)


@alternative("block_diagonal")
def growing_two_by_two(blocks):
    if not len(blocks) or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    result = blocks[0]
    for block in blocks[1:]:
        upper = torch.cat([result, result.new_zeros(len(result), block.shape[1])], 1)
        lower = torch.cat([block.new_zeros(len(block), result.shape[1]), block], 1)
        result = torch.cat([upper, lower])
    return result


@alternative("block_diagonal")
def one_index_put(blocks):
    if not len(blocks) or not all(block.ndim == 2 for block in blocks):
        raise ValueError("blocks must be matrices")
    R, C = (torch.tensor([block.shape[axis] for block in blocks]) for axis in (0, 1))
    row_block = torch.arange(len(blocks)).repeat_interleave(R)
    column_block = torch.arange(len(blocks)).repeat_interleave(C)
    inside = row_block[:, None] == column_block  # True inside of the blocks, row by row
    result = torch.zeros(inside.shape, dtype=blocks[0].dtype)
    return result.masked_scatter(inside, torch.cat([block.reshape(-1) for block in blocks]))


# topk_mask


@alternative("topk_mask")
def counting_who_goes_first(x, k):
    N = x.shape[-1]
    if k < 0 or k > N:
        raise ValueError("k out of range")
    mine, other = x[..., :, None], x[..., None, :]
    earlier = torch.arange(N) < torch.arange(N)[:, None]
    return ((other > mine) | ((other == mine) & earlier)).sum(-1) < k


@alternative("topk_mask")
def with_a_threshold_and_a_budget(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    if k == 0:
        return torch.zeros(x.shape, dtype=torch.bool)
    kth = torch.sort(x, dim=-1, descending=True).values[..., k - 1 : k]
    above, equal = x > kth, x == kth
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


@alternative("topk_mask")
def in_plain_python(x, k):
    if not 0 <= k <= x.shape[-1]:
        raise ValueError("k out of range")
    mask = torch.zeros(x.shape, dtype=torch.bool).reshape(-1, x.shape[-1])
    for row, marks in zip(x.reshape(-1, x.shape[-1]).tolist(), mask, strict=True):
        for i in sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]:
            marks[i] = True
    return mask.reshape(x.shape)


@alternative("topk_mask")
def sorting_twice(x, k):
    if k not in range(x.shape[-1] + 1):
        raise ValueError("k out of range")
    return x.sort(dim=-1, descending=True, stable=True).indices.argsort(-1) < k  # each entry's rank


# sparse_matvec


@alternative("sparse_matvec")
def entry_by_entry(indices, values, size, x):
    M, N = size
    sums = {}
    for e, (row, column) in enumerate(indices.T.tolist()):
        if not (0 <= row < M and 0 <= column < N):
            raise ValueError("index out of range")
        sums[row] = sums.get(row, 0) + values[e] * x[column]
    y = values.new_zeros(M)
    if sums:
        y = y.index_copy(0, torch.tensor(list(sums)), torch.stack(list(sums.values())))
    return y


@alternative("sparse_matvec")
def putting_with_accumulate(indices, values, size, x):
    limits = torch.tensor(size).unsqueeze(1)
    if (indices < 0).any() or (indices >= limits).any():
        raise ValueError("index out of range")
    y = torch.zeros(size[0], dtype=values.dtype)
    return y.index_put((indices[0],), values * x.index_select(0, indices[1]), accumulate=True)


@alternative("sparse_matvec")
def merging_duplicates_first(indices, values, size, x):
    M, N = size
    row, column = indices[0], indices[1]
    if indices.numel() and (min(indices.min(), M - 1 - row.max(), N - 1 - column.max()) < 0):
        raise ValueError("index out of range")
    places, inverse = torch.unique(row * N + column, return_inverse=True)
    merged = torch.zeros(len(places), dtype=values.dtype).scatter_add(0, inverse, values)
    y = torch.zeros(M, dtype=values.dtype)
    return y.scatter_add(0, torch.div(places, N, rounding_mode="floor"), merged * x[places % N])
