"""Named wrong answers to the tasks of recommend: the hidden suite must reject every one."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.recommend import MatrixFactorization as ReferenceFactorization
from solutions.recommend import bpr_loss as reference_bpr
from solutions.recommend import forecast_windows as reference_windows
from solutions.recommend import graph_convolution as reference_convolution
from solutions.recommend import leave_last_out as reference_split
from solutions.recommend import ranking_metrics as reference_metrics
from solutions.recommend import sample_negatives as reference_negatives

# MatrixFactorization


@misconception("MatrixFactorization", "Leaves out sparse=True: each step has gradients for all rows.")
class DenseGradients(ReferenceFactorization):
    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__(users, items, dim, mean=mean)
        for table in (self.user_factors, self.item_factors, self.user_biases, self.item_biases):
            table.sparse = False


@misconception("MatrixFactorization", "Makes the factors sparse, but not the biases.")
class DenseBiases(ReferenceFactorization):
    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__(users, items, dim, mean=mean)
        self.user_biases.sparse = self.item_biases.sparse = False


@misconception("MatrixFactorization", "Forgets the biases in the score.")
class ForgetsBiases(ReferenceFactorization):
    def forward(self, users, items):
        return self.mean + (self.user_factors(users) * self.item_factors(items)).sum(-1)


@misconception("MatrixFactorization", "Forgets the mean in the score.")
class ForgetsTheMean(ReferenceFactorization):
    def forward(self, users, items):
        return super().forward(users, items) - self.mean


@misconception("MatrixFactorization", "Starts the factors as nn.Embedding does, with deviation 1.")
class StartsWide(ReferenceFactorization):
    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__(users, items, dim, mean=mean)
        nn.init.normal_(self.user_factors.weight)
        nn.init.normal_(self.item_factors.weight)


@misconception("MatrixFactorization", "Starts all factors at 0: then no gradient reaches them, and they stay there.")
class StartsAtZero(ReferenceFactorization):
    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__(users, items, dim, mean=mean)
        nn.init.zeros_(self.user_factors.weight)
        nn.init.zeros_(self.item_factors.weight)


@misconception("MatrixFactorization", "Starts the biases at random.")
class RandomBiases(ReferenceFactorization):
    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__(users, items, dim, mean=mean)
        nn.init.normal_(self.user_biases.weight, std=0.1)
        nn.init.normal_(self.item_biases.weight, std=0.1)


@misconception("MatrixFactorization", "Keeps the mean as a number: it is not saved with the model.")
class MeanAsANumber(ReferenceFactorization):
    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__(users, items, dim)
        del self.mean
        self.mean = mean


@misconception("MatrixFactorization", "Makes the mean a parameter: it is trained.")
class MeanAsAParameter(ReferenceFactorization):
    def __init__(self, users, items, dim, *, mean=0.0):
        super().__init__(users, items, dim)
        del self.mean
        self.mean = nn.Parameter(torch.tensor(float(mean)))


@misconception("MatrixFactorization", "Squeezes all sizes of 1: a batch of one loses its axis.")
class SqueezesAll(ReferenceFactorization):
    def forward(self, users, items):
        return super().forward(users, items).squeeze()


@misconception("MatrixFactorization", "Multiplies matrices: it scores every user with every item of the batch.")
class EveryPair(ReferenceFactorization):
    def forward(self, users, items):
        product = self.user_factors(users) @ self.item_factors(items).mT
        return self.mean + self.user_biases(users) + self.item_biases(items).mT + product


@misconception("MatrixFactorization", "Squashes the score with a sigmoid.")
class SquashesTheScore(ReferenceFactorization):
    def forward(self, users, items):
        return super().forward(users, items).sigmoid()


@misconception("MatrixFactorization", "all_scores leaves out the items' biases, although they change the order.")
class AllWithoutItemBiases(ReferenceFactorization):
    def all_scores(self, users):
        return super().all_scores(users) - self.item_biases.weight.T.detach()


@misconception("MatrixFactorization", "all_scores leaves out what is the same for all items of a user: forward has it.")
class AllWithoutUserBiases(ReferenceFactorization):
    def all_scores(self, users):
        return super().all_scores(users) - self.user_biases(users).detach()


@misconception("MatrixFactorization", "all_scores records a graph.")
class AllWithAGraph(ReferenceFactorization):
    def all_scores(self, users):
        return self(users[:, None], torch.arange(len(self.item_factors.weight)))


@misconception("MatrixFactorization", "all_scores switches gradients off for good.")
class SwitchesGradientsOff(ReferenceFactorization):
    def all_scores(self, users):
        scores = super().all_scores(users)
        torch.set_grad_enabled(False)
        return scores


# sample_negatives


def _draw(weights, n, generator, replacement=True):
    if not weights.any(1).all():
        raise ValueError("a user has no negatives")
    return torch.multinomial(weights, n, replacement=replacement, generator=generator)


def _weights(users, positives, popularity, power):
    return (popularity.double() ** power).masked_fill(positives[users], 0.0)


@misconception("sample_negatives", "Draws positives, too.")
def draws_positives(users, positives, popularity, n, *, generator, power=0.75):
    reference_negatives(users, positives, popularity, n, generator=torch.Generator(), power=power)
    return torch.multinomial(popularity.double() ** power, len(users) * n, replacement=True, generator=generator).reshape(-1, n)


@misconception("sample_negatives", "Draws again once where a positive came: the second draw may be one as well.")
def draws_again_once(users, positives, popularity, n, *, generator, power=0.75):
    reference_negatives(users, positives, popularity, n, generator=torch.Generator(), power=power)
    weights = (popularity.double() ** power).expand(len(users), -1)
    first = torch.multinomial(weights, n, replacement=True, generator=generator)
    second = torch.multinomial(weights, n, replacement=True, generator=generator)
    return torch.where(positives[users].gather(1, first), second, first)


@misconception("sample_negatives", "Draws all items with the same probability.")
def ignores_popularity(users, positives, popularity, n, *, generator, power=0.75):
    return _draw(_weights(users, positives, popularity, 0.0), n, generator)


@misconception("sample_negatives", "Draws in proportion to popularity: the power flattens it.")
def ignores_the_power(users, positives, popularity, n, *, generator, power=0.75):
    return _draw(_weights(users, positives, popularity, 1.0), n, generator)


@misconception("sample_negatives", "Takes `power or 0.75`: with power 0 all are equally likely.")
def zero_power_is_the_usual(users, positives, popularity, n, *, generator, power=0.75):
    return _draw(_weights(users, positives, popularity, power or 0.75), n, generator)


@misconception("sample_negatives", "Takes the softmax of popularity.")
def softmax_of_popularity(users, positives, popularity, n, *, generator, power=0.75):
    return _draw((popularity.double() * power).softmax(0).masked_fill(positives[users], 0.0), n, generator)


@misconception("sample_negatives", "Adds 1 to each popularity: items that nobody took are drawn, too.")
def adds_one(users, positives, popularity, n, *, generator, power=0.75):
    return _draw(_weights(users, positives, popularity + 1, power), n, generator)


@misconception("sample_negatives", "Draws without replacement: a user with few negatives has not enough of them.")
def without_replacement(users, positives, popularity, n, *, generator, power=0.75):
    weights = _weights(users, positives, popularity, power)
    enough = bool(((weights > 0).sum(1) >= n).all())
    return _draw(weights, n, generator, replacement=not enough)


@misconception("sample_negatives", "Takes row b of the positives for the user users[b].")
def rows_for_users(users, positives, popularity, n, *, generator, power=0.75):
    reference_negatives(users, positives, popularity, n, generator=torch.Generator(), power=power)
    return _draw(_weights(torch.arange(len(users)) % len(positives), positives, popularity, power), n, generator)


@misconception("sample_negatives", "Draws once, and gives each user the same items.")
def the_same_for_all(users, positives, popularity, n, *, generator, power=0.75):
    state = generator.get_state()
    rows = []
    for user in users:
        generator.set_state(state)
        rows.append(_draw(_weights(user[None], positives, popularity, power), n, generator))
    return torch.cat(rows)


@misconception("sample_negatives", "Uses torch's own generator instead of the one that is given.")
def the_global_generator(users, positives, popularity, n, *, generator, power=0.75):
    return _draw(_weights(users, positives, popularity, power), n, None)


@misconception("sample_negatives", "Seeds a generator of its own from the first seed: each call gives the same items.")
def always_the_same(users, positives, popularity, n, *, generator, power=0.75):
    fresh = torch.Generator().manual_seed(generator.initial_seed())
    return reference_negatives(users, positives, popularity, n, generator=fresh, power=power)


@misconception("sample_negatives", "Spreads the draws evenly instead of drawing: neighbours in a row depend on each other.")
def systematic_draws(users, positives, popularity, n, *, generator, power=0.75):
    return reference_negatives(users, positives, popularity, n, generator=generator, power=power).sort(dim=1).values


@misconception("sample_negatives", "Draws something for a user who likes everything.")
def never_refuses(users, positives, popularity, n, *, generator, power=0.75):
    weights = _weights(users, positives, popularity, power)
    return torch.multinomial(weights + (weights.sum(1, keepdim=True) == 0), n, replacement=True, generator=generator)


# bpr_loss


def _pairs(positive, negative, mask, loss):
    mask = torch.ones_like(negative, dtype=torch.bool) if mask is None else mask
    difference = (positive[:, None] - negative).masked_fill(~mask, 0.0)
    return loss(difference).masked_fill(~mask, 0.0), mask


@misconception("bpr_loss", "Takes the logarithm of the rounded sigmoid: it is −inf for a large difference.")
def log_of_the_sigmoid(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: -d.sigmoid().log())
    return losses.sum() / mask.sum().clamp(min=1)


@misconception("bpr_loss", "Adds 1e-8 to the sigmoid: the loss of a large difference stays at 18.")
def epsilon_in_the_logarithm(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: -(d.sigmoid() + 1e-8).log())
    return losses.sum() / mask.sum().clamp(min=1)


@misconception("bpr_loss", "Takes log(1 + exp(−difference)) as it stands: exp overflows.")
def overflowing_exp(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: (1 + (-d).exp()).log())
    return losses.sum() / mask.sum().clamp(min=1)


@misconception("bpr_loss", "Has the difference the wrong way round: it wants others above what the user likes.")
def the_wrong_way_round(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: -F.logsigmoid(-d))
    return losses.sum() / mask.sum().clamp(min=1)


@misconception("bpr_loss", "Forgets the minus: training would make the loss of all pairs large.")
def forgets_the_minus(positive, negative, mask=None):
    return -reference_bpr(positive, negative, mask)


@misconception("bpr_loss", "Leaves out the logarithm.")
def without_the_logarithm(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: (-d).sigmoid())
    return losses.sum() / mask.sum().clamp(min=1)


@misconception("bpr_loss", "Sums over the pairs: the loss is their mean.")
def sums_the_pairs(positive, negative, mask=None):
    losses, _ = _pairs(positive, negative, mask, lambda d: -F.logsigmoid(d))
    return losses.sum()


@misconception("bpr_loss", "Divides by all pairs, hidden ones too.")
def divides_by_all(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: -F.logsigmoid(d))
    return losses.sum() / max(losses.numel(), 1)


@misconception("bpr_loss", "Averages each row first: users with few negatives count too much.")
def averages_rows_first(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: -F.logsigmoid(d))
    rows = mask.any(1)
    if not rows.any():
        return losses.sum()
    return (losses.sum(1)[rows] / mask.sum(1)[rows]).mean()


@misconception("bpr_loss", "Multiplies with the mask: NaN times 0 is NaN.")
def multiplies_with_the_mask(positive, negative, mask=None):
    mask = torch.ones_like(negative, dtype=torch.bool) if mask is None else mask
    return (-F.logsigmoid(positive[:, None] - negative) * mask).sum() / mask.sum().clamp(min=1)


@misconception("bpr_loss", "Hides the losses, but not the differences: the gradient of a hidden NaN is NaN.")
def hides_too_late(positive, negative, mask=None):
    mask = torch.ones_like(negative, dtype=torch.bool) if mask is None else mask
    losses = (-F.logsigmoid(positive[:, None] - negative)).masked_fill(~mask, 0.0)
    return losses.sum() / mask.sum().clamp(min=1)


@misconception("bpr_loss", "Divides by 0 where no pair is kept.")
def mean_of_nothing(positive, negative, mask=None):
    losses, mask = _pairs(positive, negative, mask, lambda d: -F.logsigmoid(d))
    return losses.sum() / mask.sum()


@misconception("bpr_loss", "Takes the mask for what is to be hidden.")
def mask_upside_down(positive, negative, mask=None):
    return reference_bpr(positive, negative, None if mask is None else ~mask)


@misconception("bpr_loss", "Subtracts (B, N) from (B,): with N = B each column gets another user's score.")
def broadcasts_the_wrong_way(positive, negative, mask=None):
    if negative.shape[1] == len(positive):
        return reference_bpr(positive, negative.T, None if mask is None else mask.T)
    return reference_bpr(positive, negative, mask)


@misconception("bpr_loss", "Computes in float32.")
def bpr_in_single_precision(positive, negative, mask=None):
    return reference_bpr(positive.float(), negative.float(), mask).to(positive.dtype)


# ranking_metrics


def _judge(scores, relevant, k, *, order=None, gain=None, best=None, users=None, first=None):
    """The reference with one part replaced."""
    known = relevant.any(1) if users is None else users(relevant)
    if not relevant.any():
        raise ValueError("nobody has a relevant item")
    scores, relevant = scores[known], relevant[known]
    if order is None:
        worst = relevant.to(torch.int8).argsort(dim=1, stable=True)
        places = worst.gather(1, scores.gather(1, worst).argsort(dim=1, descending=True, stable=True))
    else:
        places = order(scores, relevant)
    rel = relevant.gather(1, places)[:, :k].double()
    rank = torch.arange(1, rel.shape[1] + 1, dtype=torch.float64)
    gains = 1 / torch.log2(rank + 1) if gain is None else gain(rank)
    ideal = gains.cumsum(0)[relevant.sum(1).clamp(min=1, max=rel.shape[1]) - 1] if best is None else best(gains, relevant, k)
    mrr = (rel / rank).amax(1) if first is None else first(rel, rank)
    return {"hit": rel.amax(1).mean().item(), "ndcg": (rel @ gains / ideal).mean().item(), "mrr": mrr.mean().item()}


@misconception("ranking_metrics", "Leaves ties to the order in which items are numbered.")
def ties_by_number(scores, relevant, k):
    return _judge(scores, relevant, k, order=lambda s, r: s.argsort(dim=1, descending=True, stable=True))


@misconception("ranking_metrics", "Lets relevant items win ties: constant scores look perfect.")
def ties_are_hits(scores, relevant, k):
    def order(s, r):
        best = (~r).to(torch.int8).argsort(dim=1, stable=True)
        return best.gather(1, s.gather(1, best).argsort(dim=1, descending=True, stable=True))

    return _judge(scores, relevant, k, order=order)


@misconception("ranking_metrics", "Ranks the lowest score first.")
def lowest_first(scores, relevant, k):
    return reference_metrics(-scores, relevant, k)


@misconception("ranking_metrics", "Counts users without relevant items as 0.")
def counts_everybody(scores, relevant, k):
    return _judge(scores, relevant, k, users=lambda r: torch.ones(len(r), dtype=torch.bool))


@misconception("ranking_metrics", "Takes the natural logarithm with rank 1 at log 1 = 0, shifted by one place.")
def shifted_discount(scores, relevant, k):
    return _judge(scores, relevant, k, gain=lambda rank: 1 / torch.log2(rank + 2))


@misconception("ranking_metrics", "Does not divide by the best ranking: that is DCG.")
def without_the_best(scores, relevant, k):
    return _judge(scores, relevant, k, best=lambda gains, r, k: torch.ones(len(r), dtype=torch.float64))


@misconception("ranking_metrics", "Lets the best ranking have more than k places: ndcg can't reach 1.")
def best_beyond_k(scores, relevant, k):
    def best(gains, r, k):
        return torch.stack([(1 / torch.log2(torch.arange(2, n + 2, dtype=torch.float64))).sum() for n in r.sum(1).tolist()])

    return _judge(scores, relevant, k, best=best)


@misconception("ranking_metrics", "Takes the best ranking as full of relevant items, although a user may have one.")
def best_is_full(scores, relevant, k):
    return _judge(scores, relevant, k, best=lambda gains, r, k: gains.sum().expand(len(r)))


@misconception("ranking_metrics", "Averages 1 / r over all relevant items: only the first one counts.")
def mean_over_relevant(scores, relevant, k):
    return _judge(scores, relevant, k, first=lambda rel, rank: (rel / rank).sum(1) / rel.sum(1).clamp(min=1))


@misconception("ranking_metrics", "Looks for the first relevant item beyond k, too.")
def mrr_beyond_k(scores, relevant, k):
    whole = reference_metrics(scores, relevant, scores.shape[1])
    return reference_metrics(scores, relevant, k) | {"mrr": whole["mrr"]}


@misconception("ranking_metrics", "Counts ranks from 0.")
def ranks_from_zero(scores, relevant, k):
    return _judge(scores, relevant, k, first=lambda rel, rank: (rel / (rank + 1)).amax(1))


@misconception("ranking_metrics", "Gives the share of relevant items that are found: a hit is 1 for the first of them.")
def recall_for_hit(scores, relevant, k):
    known = relevant.any(1)
    row = reference_metrics(scores, relevant, k)
    worst = relevant.to(torch.int8).argsort(dim=1, stable=True)
    places = worst.gather(1, scores.gather(1, worst).argsort(dim=1, descending=True, stable=True))[:, :k]
    found = relevant.gather(1, places).sum(1)[known].double() / relevant.sum(1)[known]
    return row | {"hit": found.mean().item()}


@misconception("ranking_metrics", "Calls topk with k, which fails where there are fewer items.")
def topk_of_few(scores, relevant, k):
    scores.topk(k, dim=1)
    return reference_metrics(scores, relevant, k)


@misconception(
    "ranking_metrics", "Adds a tiny penalty to relevant items to break ties: it is too large for close scores and lost in huge ones."
)
def breaks_ties_by_a_penalty(scores, relevant, k):
    return _judge(scores, relevant, k, order=lambda s, r: (s - 1e-6 * r).argsort(dim=1, descending=True, stable=True))


@misconception("ranking_metrics", "Compares scores in float32: close ones become equal.")
def scores_in_single_precision(scores, relevant, k):
    return reference_metrics(scores.float(), relevant, k)


@misconception("ranking_metrics", "Gives NaN where nobody has a relevant item.")
def nan_for_nobody(scores, relevant, k):
    if not relevant.any():
        return {"hit": math.nan, "ndcg": math.nan, "mrr": math.nan}
    return reference_metrics(scores, relevant, k)


# leave_last_out


@misconception("leave_last_out", "Splits at random: the model trains on what came after.")
def random_split(users, times):
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
    return reference_split(users, order)


@misconception("leave_last_out", "Takes the list's order for the order of time.")
def takes_the_order_of_the_list(users, times):
    return reference_split(users, torch.arange(len(users)))


@misconception("leave_last_out", "Holds out the first interactions instead of the last.")
def holds_out_the_first(users, times):
    return reference_split(users, -times)


@misconception("leave_last_out", "Exchanges validation and test.")
def exchanges_the_parts(users, times):
    train, validation, test = reference_split(users, times)
    return train, test, validation


@misconception("leave_last_out", "Holds out the last interactions of all, instead of each user's.")
def holds_out_the_last_of_all(users, times):
    return reference_split(torch.zeros_like(users), times)


@misconception("leave_last_out", "Of equal times, takes the one that comes first in the list for the later one.")
def ties_the_other_way(users, times):
    parts = reference_split(users.flip(0), times.flip(0))
    return tuple((len(users) - 1 - part).sort().values for part in parts)


@misconception("leave_last_out", "Tests on users with one or two interactions, of whom the model knows nothing.")
def tests_on_newcomers(users, times):
    extra = torch.full_like(times, -(2**62) - 2**61)
    parts = reference_split(torch.cat([users, users]), torch.cat([times, extra]))
    return tuple(part[part < len(users)] for part in parts)


@misconception("leave_last_out", "Asks for more than three interactions: three are enough.")
def asks_for_four(users, times):
    train, validation, test = reference_split(users, times)
    many = torch.tensor([(users == user).sum() > 3 for user in users.tolist()], dtype=torch.bool)
    kept = [part[many[part]] for part in (validation, test)]
    rest = [part[~many[part]] for part in (validation, test)]
    return torch.cat([train, *rest]).sort().values, *kept


@misconception("leave_last_out", "Leaves users with few interactions out of everything.")
def drops_newcomers(users, times):
    train, validation, test = reference_split(users, times)
    many = torch.tensor([(users == user).sum() >= 3 for user in users.tolist()], dtype=torch.bool)
    return train[many[train]], validation, test


@misconception("leave_last_out", "Trains on the validation interaction, too.")
def trains_on_validation(users, times):
    train, validation, test = reference_split(users, times)
    return torch.cat([train, validation]).sort().values, validation, test


@misconception("leave_last_out", "Compares times in floating point: nanoseconds become equal.")
def times_as_floats(users, times):
    return reference_split(users, times.double().long())


@misconception("leave_last_out", "Joins user and time into one number: negative times and huge ones fall into another user's.")
def joins_user_and_time(users, times):
    order = (users * (times.max() + 1 if len(times) else 1) + times).argsort(stable=True)
    _, counts = users[order].unique_consecutive(return_counts=True)
    left = (counts.cumsum(0) - 1).repeat_interleave(counts) - torch.arange(len(order))
    many = (counts >= 3).repeat_interleave(counts)
    test, validation = many & (left == 0), many & (left == 1)
    return tuple(order[kept].sort().values for kept in (~(test | validation), validation, test))


@misconception("leave_last_out", "Takes users for places in a table: ids may be anything.")
def users_as_places(users, times):
    torch.bincount(users)
    return reference_split(users, times)


@misconception("leave_last_out", "Gives the indices in the order of users and times: they rise.")
def indices_by_time(users, times):
    return tuple(part[times[part].argsort(stable=True)] for part in reference_split(users, times))


# forecast_windows


def _scaled_windows(series, history, horizon, cut, stride, *, fit=None, std=None, test_from=None, train_to=None):
    """The reference with one part replaced."""
    if not history + horizon <= cut <= len(series):
        raise ValueError("no such cut")
    past = series[:cut] if fit is None else fit
    mean = past.mean(0)
    deviation = past.std(0, correction=0).masked_fill(past.amax(0) == past.amin(0), 1.0) if std is None else std(past)
    scaled = (series - mean) / deviation

    def windows(part):
        count = max(len(part) - history - horizon, -1) // stride + 1
        steps = stride * torch.arange(count)[:, None] + torch.arange(history + horizon)
        return part[steps[:, :history]], part[steps[:, history:]]

    train_x, train_y = windows(scaled[: cut if train_to is None else train_to])
    test_x, test_y = windows(scaled[cut - history if test_from is None else test_from :])
    return {"train_x": train_x, "train_y": train_y, "test_x": test_x, "test_y": test_y, "mean": mean, "std": deviation}


@misconception("forecast_windows", "Fits the scaler on all data: mean and deviation know the future.")
def scaler_on_all_data(series, history, horizon, cut, *, stride=1):
    return _scaled_windows(series, history, horizon, cut, stride, fit=series)


@misconception("forecast_windows", "Lets training targets reach beyond the cut.")
def trains_across_the_cut(series, history, horizon, cut, *, stride=1):
    return _scaled_windows(series, history, horizon, cut, stride, train_to=min(cut + horizon, len(series)))


@misconception("forecast_windows", "Begins the inputs of the test at the cut: the first targets come too late.")
def inputs_after_the_cut(series, history, horizon, cut, *, stride=1):
    return _scaled_windows(series, history, horizon, cut, stride, test_from=cut)


@misconception("forecast_windows", "Lets the first test targets lie before the cut.")
def targets_before_the_cut(series, history, horizon, cut, *, stride=1):
    return _scaled_windows(series, history, horizon, cut, stride, test_from=cut - history - 1)


@misconception("forecast_windows", "Loses the last window.")
def loses_the_last_window(series, history, horizon, cut, *, stride=1):
    out = reference_windows(series, history, horizon, cut, stride=stride)
    return {name: value[:-1] if "_" in name else value for name, value in out.items()}


@misconception("forecast_windows", "Divides the variance by n − 1.")
def divides_by_one_less(series, history, horizon, cut, *, stride=1):
    return _scaled_windows(series, history, horizon, cut, stride, std=lambda p: p.std(0).masked_fill(p.amax(0) == p.amin(0), 1.0))


@misconception("forecast_windows", "Divides by 0 where a feature is constant.")
def divides_by_zero(series, history, horizon, cut, *, stride=1):
    return _scaled_windows(series, history, horizon, cut, stride, std=lambda p: p.std(0, correction=0))


@misconception("forecast_windows", "Asks whether the deviation is 0: for equal values it may be 1e-17, and the scaled ones anything.")
def asks_whether_it_is_zero(series, history, horizon, cut, *, stride=1):
    def std(p):
        s = (p - p.mean(0)).square().mean(0).sqrt()
        return s.masked_fill(s == 0, 1.0)

    return _scaled_windows(series, history, horizon, cut, stride, std=std)


@misconception("forecast_windows", "Adds 1e-8 to the deviation: a small one counts as well.")
def adds_epsilon(series, history, horizon, cut, *, stride=1):
    return _scaled_windows(
        series,
        history,
        horizon,
        cut,
        stride,
        std=lambda p: p.std(0, correction=0).masked_fill(p.amax(0) == p.amin(0), 1.0) + 1e-8,
    )


@misconception("forecast_windows", "Takes a small deviation for none.")
def small_is_constant(series, history, horizon, cut, *, stride=1):
    def std(p):
        s = p.std(0, correction=0)
        return s.masked_fill(s < 1e-6, 1.0)

    return _scaled_windows(series, history, horizon, cut, stride, std=std)


@misconception("forecast_windows", "Computes the mean of squares less the square of the mean: beside a large mean nothing is left.")
def mean_of_squares(series, history, horizon, cut, *, stride=1):
    def std(p):
        s = (p.square().mean(0) - p.mean(0).square()).clamp(min=0).sqrt()
        return s.masked_fill((p.amax(0) == p.amin(0)) | (s == 0), 1.0)

    return _scaled_windows(series, history, horizon, cut, stride, std=std)


@misconception("forecast_windows", "Scales all features by one mean and one deviation.")
def one_scale_for_all(series, history, horizon, cut, *, stride=1):
    mean, std = series[:cut].mean().expand(series.shape[1]), series[:cut].std(correction=0).expand(series.shape[1])
    out = reference_windows(series, history, horizon, cut, stride=stride)
    return {
        name: (value * out["std"] + out["mean"] - mean) / std if "_" in name else {"mean": mean, "std": std}[name].clone()
        for name, value in out.items()
    }


@misconception("forecast_windows", "Scales the inputs, but not the targets.")
def targets_unscaled(series, history, horizon, cut, *, stride=1):
    out = reference_windows(series, history, horizon, cut, stride=stride)
    return {name: value * out["std"] + out["mean"] if name.endswith("y") else value for name, value in out.items()}


@misconception("forecast_windows", "Takes the step after the input as the only target.")
def one_step_ahead(series, history, horizon, cut, *, stride=1):
    out = reference_windows(series, history, horizon, cut, stride=stride)
    return {name: value[:, :1] if name.endswith("y") else value for name, value in out.items()}


@misconception("forecast_windows", "Ignores the stride.")
def ignores_the_stride(series, history, horizon, cut, *, stride=1):
    return reference_windows(series, history, horizon, cut)


@misconception("forecast_windows", "Goes on with the strides of the training windows: test windows begin at the first one after the cut.")
def one_grid_for_both(series, history, horizon, cut, *, stride=1):
    first = -(-(cut - history) // stride) * stride
    return _scaled_windows(series, history, horizon, cut, stride, test_from=first)


@misconception("forecast_windows", "Checks nothing.")
def checks_no_cut(series, history, horizon, cut, *, stride=1):
    if history + horizon <= cut <= len(series):
        return reference_windows(series, history, horizon, cut, stride=stride)
    return {"mean": series.mean(0)}


# graph_convolution


def _convolve(x, edges, weight, bias, *, loops=True, norm=None, degree_of=1):
    """Messages along a list of edges with one replaced part."""
    N = len(x)
    if loops:
        edges = torch.cat([edges, torch.arange(N).expand(2, N)], dim=1)
    degree = torch.bincount(edges[degree_of], minlength=N).to(x.dtype)
    source, target = edges
    scale = (degree[source] * degree[target]).rsqrt() if norm is None else norm(degree[source], degree[target])
    messages = (x @ weight)[source] * scale[:, None]
    y = torch.zeros(N, weight.shape[1], dtype=x.dtype).index_add(0, target, messages)
    return y if bias is None else y + bias


@misconception("graph_convolution", "Forgets the loops: a node does not see itself.")
def forgets_the_loops(x, edges, weight, bias=None):
    return _convolve(x, edges, weight, bias, loops=False, norm=lambda s, t: (s * t).clamp(min=1).rsqrt())


@misconception("graph_convolution", "Divides by the degree of the target alone: that is a mean over neighbours.")
def mean_over_neighbours(x, edges, weight, bias=None):
    return _convolve(x, edges, weight, bias, norm=lambda s, t: 1 / t)


@misconception("graph_convolution", "Adds up neighbours without dividing.")
def sum_over_neighbours(x, edges, weight, bias=None):
    return _convolve(x, edges, weight, bias, norm=lambda s, t: torch.ones_like(s))


@misconception("graph_convolution", "Forgets the roots: it divides by both degrees.")
def forgets_the_roots(x, edges, weight, bias=None):
    return _convolve(x, edges, weight, bias, norm=lambda s, t: 1 / (s * t))


@misconception("graph_convolution", "Sends messages against the edges.")
def against_the_edges(x, edges, weight, bias=None):
    return _convolve(x, edges.flip(0), weight, bias)


@misconception("graph_convolution", "Counts the edges that start in a node: the degree is of those that end in it.")
def degree_of_the_source(x, edges, weight, bias=None):
    return _convolve(x, edges, weight, bias, degree_of=0)


@misconception("graph_convolution", "Computes the degrees without the loops.")
def degrees_without_loops(x, edges, weight, bias=None):
    N = len(x)
    degree = torch.bincount(edges[1], minlength=N).to(x.dtype).clamp(min=1)
    loops = torch.arange(N)
    source, target = torch.cat([edges[0], loops]), torch.cat([edges[1], loops])
    messages = (x @ weight)[source] * (degree[source] * degree[target]).rsqrt()[:, None]
    y = torch.zeros(N, weight.shape[1], dtype=x.dtype).index_add(0, target, messages)
    return y if bias is None else y + bias


@misconception("graph_convolution", "Takes each edge once: an edge counts as often as it stands in the list.")
def edges_once(x, edges, weight, bias=None):
    return reference_convolution(x, edges.unique(dim=1) if edges.numel() else edges, weight, bias)


@misconception("graph_convolution", "Adds no loop where the list has one.")
def no_second_loop(x, edges, weight, bias=None):
    return reference_convolution(x, edges[:, edges[0] != edges[1]], weight, bias)


@misconception("graph_convolution", "Makes every edge go both ways.")
def both_ways(x, edges, weight, bias=None):
    return reference_convolution(x, torch.cat([edges, edges.flip(0)], dim=1), weight, bias)


@misconception("graph_convolution", "Takes the list as (E, 2).")
def edges_as_rows(x, edges, weight, bias=None):
    return reference_convolution(x, edges.T if edges.shape == (2, 2) else edges, weight, bias)


@misconception("graph_convolution", "Writes messages by index: of several to one node, the last one wins.")
def writes_by_index(x, edges, weight, bias=None):
    N = len(x)
    degree = 1 + torch.bincount(edges[1], minlength=N).to(x.dtype)
    source, target = edges
    h = x @ weight
    y = h / degree[:, None]
    y[target] += h[source] * (degree[source] * degree[target]).rsqrt()[:, None]
    return y if bias is None else y + bias


@misconception("graph_convolution", "Builds the matrix of all pairs of nodes, which does not fit into memory for a large graph.")
def dense_matrix(x, edges, weight, bias=None):
    A = torch.eye(len(x), dtype=x.dtype)
    A.index_put_((edges[1], edges[0]), torch.ones(edges.shape[1], dtype=x.dtype), accumulate=True)
    scale = A.sum(1).rsqrt()
    y = scale[:, None] * A * scale @ (x @ weight)
    return y if bias is None else y + bias


@misconception("graph_convolution", "Adds the bias before mixing: it is mixed as well.")
def bias_before_mixing(x, edges, weight, bias=None):
    return reference_convolution(
        torch.cat([x, torch.ones_like(x[:, :1])], dim=1), edges, torch.cat([weight, (0 * weight[0] if bias is None else bias)[None]])
    )


@misconception("graph_convolution", "Applies the activation: it is not part of the layer here.")
def applies_relu(x, edges, weight, bias=None):
    return reference_convolution(x, edges, weight, bias).relu()


@misconception("graph_convolution", "Detaches the messages: gradients reach a node's own features only.")
def detaches_messages(x, edges, weight, bias=None):
    N = len(x)
    degree = 1 + torch.bincount(edges[1], minlength=N).to(x.dtype)
    source, target = edges
    h = x @ weight
    messages = h[source].detach() * (degree[source] * degree[target]).rsqrt()[:, None]
    y = (h / degree[:, None]).index_add(0, target, messages)
    return y if bias is None else y + bias


@misconception("graph_convolution", "Counts degrees in 8 bits: a hub has more neighbours.")
def degrees_in_bytes(x, edges, weight, bias=None):
    N = len(x)
    counts = torch.ones(N, dtype=torch.uint8).index_add(0, edges[1], torch.ones_like(edges[1], dtype=torch.uint8))
    degree = counts.to(x.dtype).clamp(min=1)
    source, target = edges
    h = x @ weight
    y = (h / degree[:, None]).index_add(0, target, h[source] * (degree[source] * degree[target]).rsqrt()[:, None])
    return y if bias is None else y + bias
