"""A submission with all tasks of recommend solved, in another style than the reference's."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class MatrixFactorization(nn.Module):
    """Four embeddings and a mean."""

    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__()
        for who, count in (("user", users), ("item", items)):
            factors, biases = nn.Embedding(count, dim, sparse=True), nn.Embedding(count, 1, sparse=True)
            with torch.no_grad():
                factors.weight.mul_(0.1)  # they start with deviation 1
                biases.weight.zero_()
            self.add_module(f"{who}_factors", factors)
            self.add_module(f"{who}_biases", biases)
        self.register_buffer("mean", torch.as_tensor(float(mean)))

    def forward(self, users, items):
        """Score pairs."""
        p, q = torch.broadcast_tensors(self.user_factors(users), self.item_factors(items))
        return torch.linalg.vecdot(p, q) + (self.user_biases(users) + self.item_biases(items)).squeeze(-1) + self.mean

    @torch.no_grad()
    def all_scores(self, users):
        """Score all items."""
        scores = F.linear(self.user_factors(users), self.item_factors.weight, self.item_biases.weight[:, 0])
        return scores + self.user_biases(users) + self.mean


def sample_negatives(users, positives, popularity, n, *, generator, power=0.75):
    """Row by row, among the candidates alone."""
    weights = popularity.to(torch.float64).pow(power)
    out = torch.empty(len(users), n, dtype=torch.long)
    for row, user in zip(out, users.tolist(), strict=True):
        candidates = torch.nonzero(~positives[user] & (weights > 0)).squeeze(1)
        if candidates.numel() == 0:
            raise ValueError(f"user {user} has no negatives")
        row.copy_(candidates[torch.multinomial(weights[candidates], n, replacement=True, generator=generator)])
    return out


def bpr_loss(positive, negative, mask=None):
    """Choose the pairs first."""
    wide = positive[:, None].expand_as(negative)
    if mask is None:
        mask = torch.full_like(negative, True, dtype=torch.bool)
    difference = torch.masked_select(wide, mask) - torch.masked_select(negative, mask)
    if not len(difference):
        return difference.sum()
    return -F.logsigmoid(difference).mean()


def ranking_metrics(scores, relevant, k):
    """User by user, with Python's sort."""
    totals, users = {"hit": 0.0, "ndcg": 0.0, "mrr": 0.0}, 0
    for row, liked in zip(scores.tolist(), relevant.tolist(), strict=True):
        if not any(liked):
            continue
        users += 1
        order = sorted(range(len(row)), key=lambda i: (-row[i], liked[i]))
        ranks = [rank for rank, i in enumerate(order, 1) if liked[i]]
        found = [rank for rank in ranks if rank <= k]
        if found:
            totals["hit"] += 1
            totals["mrr"] += 1 / found[0]
        best = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(ranks), k) + 1))
        totals["ndcg"] += sum(1 / math.log2(rank + 1) for rank in found) / best
    if not users:
        raise ValueError("nobody has a relevant item")
    return {name: total / users for name, total in totals.items()}


def leave_last_out(users, times):
    """Sort by three keys, and go through each user's list from its end."""
    triples = sorted(zip(users.tolist(), times.tolist(), range(len(users)), strict=True))
    mine = {}
    for user, _, place in triples:
        mine.setdefault(user, []).append(place)
    parts = [], [], []
    for places in mine.values():
        if len(places) > 2:
            parts[2].append(places.pop())
            parts[1].append(places.pop())
        parts[0].extend(places)
    return tuple(torch.tensor(sorted(part), dtype=torch.int64) for part in parts)


def forecast_windows(series, history, horizon, cut, *, stride=1):
    """Slice windows at their starts."""
    if cut < history + horizon or len(series) < cut:
        raise ValueError("no such cut")
    past = series[:cut]
    mean = past.sum(0) / cut
    std = ((past - mean) ** 2).mean(0) ** 0.5
    std = torch.where(past.eq(past[:1]).all(0), torch.ones_like(std), std)
    scaled = (series - mean) / std

    def windows(starts, begin, length):
        parts = [scaled[start + begin : start + begin + length] for start in starts]
        return torch.stack(parts) if parts else scaled.new_zeros((0, length, scaled.shape[1]))

    train = range(0, cut - history - horizon + 1, stride)
    test = range(cut - history, len(series) - history - horizon + 1, stride)
    return {
        "train_x": windows(train, 0, history),
        "train_y": windows(train, history, horizon),
        "test_x": windows(test, 0, history),
        "test_y": windows(test, history, horizon),
        "mean": mean,
        "std": std,
    }


def graph_convolution(x, edges, weight, bias=None):
    """Mix features by a sparse matrix in rows, then transform them."""
    N = x.shape[0]
    nodes = torch.arange(N)
    targets, sources = torch.cat([edges[1], nodes]), torch.cat([edges[0], nodes])
    degree = torch.zeros(N, dtype=x.dtype).index_add_(0, targets, torch.ones(len(targets), dtype=x.dtype))
    inverse = 1 / degree.sqrt()
    matrix = torch.sparse_coo_tensor(torch.stack([targets, sources]), inverse[targets] * inverse[sources], (N, N))
    y = (matrix @ x) @ weight
    return y if bias is None else y + bias
