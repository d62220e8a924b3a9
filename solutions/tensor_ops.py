"""Tensor operations: shapes, broadcasting, indexing, views and stable arithmetic.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Find the shape to which tensors of the given shapes broadcast.

    Line the shapes up at their last dimension and fill the shorter ones with 1 on the left. Two sizes of one dimension
    fit if they are equal or if one of them is 1; the result has the other one, so 1 and 5 give 5, and 1 and 0 give 0.
    Plain Python is enough.

    Args:
        shapes: any number of tuples, lists or torch.Size, of sizes 0 or more; () is the shape of a single number.

    Returns: the common shape, a tuple of ints; () if there are no shapes.
    Raises: ValueError if two sizes of a dimension do not fit.
    Not allowed: torch.broadcast_shapes, torch.broadcast_tensors, torch.empty, torch.zeros, torch.ones.
    See: "Broadcasting semantics" in PyTorch's documentation.
    """
    result = [1] * max(map(len, shapes), default=0)
    for shape in shapes:
        for i in range(-len(shape), 0):  # from the right, since shapes line up at the end
            if shape[i] == 1:
                continue
            if result[i] not in (1, shape[i]):
                raise ValueError(f"sizes {result[i]} and {shape[i]} of dimension {i} do not fit")
            result[i] = shape[i]
    return tuple(result)


def pairwise_distances(x: Tensor, y: Tensor) -> Tensor:
    """Compute the Euclidean distance between every row of x and every row of y.

    d[i, j] = sqrt(Σ_k (x[i, k] - y[j, k])²)

    Rows that are equal have a distance of exactly 0, and points that lie close together far from the origin keep their
    full precision (|x|² + |y|² - 2 x·y has neither property). The gradient is finite everywhere: the derivative of
    d[i, j] is (x[i] - y[j]) / d[i, j] for x[i], the negative of it for y[j], and 0 for both where d[i, j] is 0.

    Args:
        x: (N, D), float32 or float64, finite; N may be 0. Its entries differ from those of y by nothing, or by a number
            whose square the dtype holds: from 1e-18 to 1e18 in float32, from 1e-150 to 1e150 in float64.
        y: (M, D), dtype of x; M may be 0.

    Returns: (N, M), dtype of x.
    Not allowed: torch.cdist, torch.dist, torch.nn.functional.pdist, torch.nn.functional.pairwise_distance, torch.norm,
        torch.linalg.norm, torch.linalg.vector_norm.
    """
    squared = (x[:, None, :] - y[None, :, :]).square().sum(-1)  # (N, M)
    same = squared == 0
    # The derivative of sqrt at 0 is infinite, and 0 · inf is NaN: sqrt itself must not see the zeros.
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


def stable_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Turn scores into probabilities along `dim`, for scores of any size.

    p_i = exp(x_i) / Σ_j exp(x_j)

    Scores around 1e4 or -1e4 give probabilities as precise as scores around 0, whatever the other slices hold. An entry
    of -inf has probability 0, and a slice along `dim` in which every entry is -inf is all 0. Gradients are finite: such
    a slice receives the gradient 0.

    Args:
        x: (..., n, ...), float16, bfloat16, float32 or float64, n ≥ 1 entries along `dim`, without NaN or +inf. The two
            16-bit ones are computed in float32 and rounded at the end, so that a sum beyond 65504, float16's largest
            number, is fine.
        dim: the dimension whose entries add up to 1, negative or not.

    Returns: shape and dtype of x.
    Not allowed: torch.softmax, torch.log_softmax, torch.nn.functional.softmin, torch.logsumexp.
    """
    h = x.to(torch.promote_types(x.dtype, torch.float32))
    top = h.amax(dim, keepdim=True)
    top = top.masked_fill(top == -torch.inf, 0.0)  # -inf - (-inf) is NaN
    e = torch.exp(h - top)
    total = e.sum(dim, keepdim=True)  # at least 1, or 0 where all is -inf
    return (e / total.masked_fill(total == 0, 1.0)).to(x.dtype)


def log_sum_exp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Compute log Σ_i exp(x_i) along `dim` without overflow or underflow.

    log Σ_i exp(x_i) = m + log Σ_i exp(x_i - m) for every finite m; choose m well, for every slice.

    A slice of nothing but -inf gives -inf (the log of 0), and a slice with a +inf gives +inf. The gradient of a slice of
    finite entries is its softmax; no other gradient is asked for.

    Args:
        x: (..., n, ...), float32 or float64, n ≥ 1 entries along `dim`, without NaN.
        dim: the dimension to sum over, negative or not.
        keepdim: whether `dim` stays, with size 1.

    Returns: the shape of x without `dim` (or with size 1 there), dtype of x.
    Not allowed: torch.logsumexp, torch.logcumsumexp, torch.logaddexp, torch.log_softmax.
    """
    m = x.detach().amax(dim, keepdim=True)
    m = m.masked_fill(m.isinf(), 0.0)  # inf - inf is NaN
    result = m + (x - m).exp().sum(dim, keepdim=True).log()
    return result if keepdim else result.squeeze(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Average along `dim` the entries that the mask keeps.

    Entries where the mask is False count for nothing, in the sum or in the number of entries: not even a NaN or an
    infinity there shows in the result or in the gradient. Those that are kept show as usual: a kept NaN makes its mean
    NaN. Where no entry is kept, the mean is 0. The gradient of a mean over n kept entries is 1/n for each of them, and
    0 for all others.

    Args:
        x: any shape with at least one dimension, float32 or float64; a size may be 0.
        mask: bool, True to keep; broadcasts to the shape of x, so (7, 1) masks rows of an x of (5, 7, 3).
        dim: the dimension of x to average over, negative or not.

    Returns: the shape of x without `dim`, dtype of x.
    """
    mask = mask.expand_as(x)  # a mask of size 1 along `dim` counts once for each entry
    total = torch.where(mask, x, 0.0).sum(dim)  # not x * mask: NaN · 0 is NaN
    return total / mask.sum(dim).clamp(min=1)


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Encode each label as a vector that is 1 at the label's place and 0 elsewhere.

    Args:
        labels: (...), int64, int32 or uint8; any number of dimensions, none included, and possibly empty.
        num_classes: the length C of the vectors, whether or not every class occurs; 0 or more.
        dtype: of the result; torch.bool gives True and False.

    Returns: (..., C), of the given dtype.
    Raises: ValueError if a label is negative or not below num_classes, whatever its dtype.
    Not allowed: torch.nn.functional.one_hot.
    """
    labels = labels.long()  # as a uint8, num_classes would wrap around at 256
    if ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError(f"labels must lie in 0 … {num_classes - 1}")
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).to(dtype)


def batched_gather(x: Tensor, index: Tensor) -> Tensor:
    """Pick rows of every example in a batch, each example by its own indices.

    y[b, k] = x[b, index[b, k]]

    The rows are copied exactly, whatever their dtype, and a NaN or an infinity in a row that is not picked shows nowhere.
    A row that is picked several times receives the sum of the gradients.

    Args:
        x: (B, N, D), any dtype, contiguous or not.
        index: (B, K), int64, from 0 to N - 1, in any order and with repeats; K may be 0 or larger than N.

    Returns: (B, K, D), dtype of x.
    """
    batch = torch.arange(x.shape[0], device=x.device)[:, None]  # (B, 1), broadcasts against (B, K)
    return x[batch, index]


def scatter_mean(x: Tensor, index: Tensor, num_groups: int) -> Tensor:
    """Average the rows of x by group.

    y[g] is the mean of all x[i] with index[i] == g, and 0 if there is none. Groups don't disturb each other: a NaN, an
    infinity or 1e30 in one of them leaves the others as they are.

    The gradient of y[g] is 1/n for each of the n rows in the group.

    Args:
        x: (N, D), float32 or float64; N may be 0.
        index: (N,), int64, from 0 to num_groups - 1, the group of each row, in any order.
        num_groups: the number G of groups, empty ones included; at least 1.

    Returns: (G, D), dtype of x.
    Not allowed: torch.scatter_reduce, torch.index_reduce, torch.segment_reduce.
    """
    total = x.new_zeros(num_groups, x.shape[1]).index_add(0, index, x)  # y[index] += x would lose repeats
    count = torch.bincount(index, minlength=num_groups).clamp(min=1)
    return total / count[:, None]


def sliding_windows(x: Tensor, size: int, step: int = 1) -> Tensor:
    """Lay out all windows of `size` neighbours along the last dimension, without copying.

    y[..., w, i] = x[..., w · step + i], for each of the W = (T - size) // step + 1 windows that fit completely.

    The result is a view: it shares its memory with x, so that what is written into x later shows in the windows. That
    holds for every x, contiguous or not: a transposed tensor, every other column, a slice that starts in the middle, an
    expanded tensor. The gradient of an entry of x is the sum of the gradients of all its places in the windows (for an
    expanded x: of the tensor that it was expanded from).

    Args:
        x: (..., T), any dtype, at least one dimension.
        size: entries of a window, from 1 to T.
        step: distance between the starts of neighbouring windows, at least 1; may be larger than size.

    Returns: (..., W, size), a view of x.
    Raises: ValueError if size or step is below 1, or size is larger than T.
    Not allowed: torch.Tensor.unfold, torch.nn.functional.unfold.
    """
    T = x.shape[-1]
    if size < 1 or step < 1 or size > T:
        raise ValueError(f"no windows of size {size} and step {step} in {T} entries")
    *batch, stride = x.stride()  # in entries of the storage, 1 only where x is contiguous
    W = (T - size) // step + 1
    return x.as_strided((*x.shape[:-1], W, size), (*batch, step * stride, stride))


def batched_bilinear(x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """Apply a bilinear form for each output feature to each pair of vectors.

    z[..., o] = Σ_i Σ_j x[..., i] · weight[o, i, j] · y[..., j]

    Gradients reach x, weight and y.

    Args:
        x: (..., I), float32 or float64; any number of batch dimensions, none included; a batch may be empty.
        weight: (O, I, J), dtype of x; not symmetric in general.
        y: (..., J), dtype and batch dimensions of x.

    Returns: (..., O), dtype of x.
    Not allowed: torch.nn.functional.bilinear.
    """
    return torch.einsum("...i,oij,...j->...o", x, weight, y)


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """Put matrices along the diagonal of a large one that is 0 elsewhere.

    The first block starts at row 0 and column 0; each next one starts where the block before it ended, in rows and in
    columns. A block without rows still takes up its columns, and one without columns its rows. Outside of the blocks
    everything is exactly 0, also next to NaN or infinite entries. Gradients reach every block.

    Args:
        blocks: a list or tuple of at least one matrix, (R_i, C_i), not necessarily square, all of the same dtype (any).

    Returns: (Σ R_i, Σ C_i), dtype of the blocks.
    Raises: ValueError if there is no block, or if one does not have exactly two dimensions.
    Not allowed: torch.block_diag.
    """
    if not blocks or any(block.ndim != 2 for block in blocks):
        raise ValueError("blocks must be at least one tensor, each of two dimensions")
    result = blocks[0].new_zeros(sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks))
    row = column = 0
    for block in blocks:
        R, C = block.shape
        result[row : row + R, column : column + C] = block
        row, column = row + R, column + C
    return result


def topk_mask(x: Tensor, k: int) -> Tensor:
    """Mark the k largest entries along the last dimension.

    Exactly k entries of every row are marked. Among equal entries, the one with the lower index goes first (careful:
    torch.topk and a plain torch.sort don't promise that), and 0.0 and -0.0 are equal. -inf is an entry like any other,
    the smallest.

    Args:
        x: (..., N), float16 to float64, bfloat16, int8 to int64 or uint8; without NaN; there may be no rows.
        k: how many entries to mark, from 0 to N.

    Returns: (..., N), bool.
    Raises: ValueError if k is negative or larger than N.
    """
    if not 0 <= k <= x.shape[-1]:
        raise ValueError(f"k is {k}, but rows have {x.shape[-1]} entries")
    order = x.argsort(descending=True, stable=True)
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order[..., :k], True)


def sparse_matvec(indices: Tensor, values: Tensor, size: tuple[int, int], x: Tensor) -> Tensor:
    """Multiply a sparse matrix in coordinate (COO) format by a vector.

    The matrix A is 0 except at the listed places: A[indices[0, e], indices[1, e]] = values[e]. Entries may come in any
    order, and entries at the same place add up. The result is y = A x, without ever building A, which may be far too
    large for memory. Rows don't disturb each other: a NaN, an infinity or 1e30 shows only in rows that have an entry
    for it. Gradients reach values and x.

    Args:
        indices: (2, E), int64: the row and the column of each entry; E may be 0.
        values: (E,), float16 to float64, bfloat16, int8 to int64 or uint8; integers take no detour through floats.
        size: (M, N), rows and columns of A.
        x: (N,), dtype of values.

    Returns: (M,), dtype of values; 0 in rows without entries.
    Raises: ValueError if a row is not in 0 … M - 1 or a column is not in 0 … N - 1; negative indices don't count from
        the end.
    Not allowed: torch.sparse_coo_tensor, torch.sparse_csr_tensor.
    """
    rows, columns = indices
    M, N = size
    if ((rows < 0) | (rows >= M) | (columns < 0) | (columns >= N)).any():
        raise ValueError(f"an index lies outside of the {M} × {N} matrix")
    return values.new_zeros(M).index_add(0, rows, values * x[columns])
