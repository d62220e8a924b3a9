"""Recommend and forecast: rank what people may like, judge a ranking, and split data so that nobody sees the future.

Every task stands alone. Users and items are numbers from 0. Floating tensors are float32 or float64, and results have their dtype; sums
may be taken in any order.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MatrixFactorization(nn.Module):
    """Score how much a user likes an item by what both are like (Koren, Bell & Volinsky 2009, equation 4).

        score(u, i) = mean + b_u + b_i + p_u · q_i

    The four tables are submodules of nn.Embedding, with sparse gradients. They start so:

        user_factors   (users, dim)   p; normal, deviation 0.1
        item_factors   (items, dim)   q; normal, deviation 0.1
        user_biases    (users, 1)     0
        item_biases    (items, 1)     0

    A batch has few of all users and items. So each table's gradient is a sparse tensor with the rows that were looked up, and an
    optimizer such as torch.optim.SparseAdam leaves the others alone. `mean` is a buffer, a 0-d tensor of float32 at first, in the
    state_dict under its name; there is nothing else in it but the four weights, "user_factors.weight" and so on.

    Args of the constructor:
        users, items: their numbers, at least 1.
        dim: the size of a factor, at least 1.
        mean: the mean of all scores, a float.
    """

    def __init__(self, users: int, items: int, dim: int, *, mean: float = 0.0) -> None:
        """Make the tables; see the class."""
        # TODO: about 10 lines.
        raise NotImplementedError("MatrixFactorization.__init__")

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Score pairs.

        Args:
            users, items: int64, of shapes that broadcast, such as (B, 1) and (B, N), or (B,) twice. They may be empty.

        Returns: the scores, in the common shape.
        """
        # TODO: about 2 lines.
        raise NotImplementedError("MatrixFactorization.forward")

    def all_scores(self, users: Tensor) -> Tensor:
        """Score all items for some users, without recording a graph.

        Args:
            users: (B,), int64.

        Returns: (B, items).
        """
        # TODO: about 3 lines.
        raise NotImplementedError("MatrixFactorization.all_scores")


def sample_negatives(
    users: Tensor,
    positives: Tensor,
    popularity: Tensor,
    n: int,
    *,
    generator: torch.Generator,
    power: float = 0.75,
) -> Tensor:
    """Draw items that a user does not know yet, popular ones more often, but less so than they are popular.

    For each user n items are drawn, independently and with replacement. Item i comes with a probability proportional to
    popularity[i]^power if it is no positive of this user, and never if it is one. With power 0 all others are equally likely, also those
    of popularity 0 (0⁰ = 1); otherwise these are never drawn.

    All random numbers come from the generator, so that its state decides the result. How they are used is free: tests look at
    frequencies.

    Args:
        users: (B,), int64, B ≥ 1; a user may come several times.
        positives: (users, items), bool: what each user has liked.
        popularity: (items,), int64 or floating, 0 or more, up to 10⁹.
        n: at least 1.
        power: 0 or more. The article on word2vec (Mikolov et al. 2013, section 2.2) recommends ¾.

    Returns: (B, n), int64.
    Raises: ValueError if one of `users` has no item that could be drawn.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("sample_negatives")


def bpr_loss(positive: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Want a liked item's score above those of others (Rendle et al. 2009, "BPR", section 4).

        loss = the mean of −log σ(positive[b] − negative[b, j]) over all pairs (b, j) that the mask keeps

    Where it keeps none, the loss is 0, and so are all gradients. What it hides may be NaN or inf, and gets the gradient 0. For differences
    up to ±10⁴ the loss and its gradients are right: for −10⁴ the loss is 10⁴, and for 10⁴ it is 0.

    Args:
        positive: (B,), scores of items that the user liked; finite. B may be 0.
        negative: (B, N), scores of others; finite where the mask keeps them. N may be 0.
        mask: (B, N), bool, True where a pair counts; None keeps all.

    Returns: the loss, a 0-d tensor.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("bpr_loss")


def ranking_metrics(scores: Tensor, relevant: Tensor, k: int) -> dict[str, float]:
    """Judge rankings by their first k places.

    For each user, items are ranked by falling score. Where scores are equal, the items that are not relevant come first: a model that
    gives all items the same score knows nothing, and must not look good. With rel(r) = 1 if the item at rank r = 1, 2, … is relevant,
    and 0 otherwise:

        hit   1 if one of the ranks 1 … k has rel(r) = 1, else 0
        ndcg  Σ_{r ≤ k} rel(r) / log₂(r + 1), divided by the same sum of the best ranking, in which the user's R relevant
              items have the ranks 1 … R
        mrr   1 / r for the smallest r with rel(r) = 1, if r ≤ k, else 0

    Each is averaged over the users who have a relevant item; others are left out.

    Args:
        scores: (users, items), without NaN; −inf is fine, for items that are not to be shown, and ranks like other scores.
        relevant: (users, items), bool.
        k: at least 1; more than there are items is as good as all.

    Returns: {"hit", "ndcg", "mrr": floats}, computed in float64.
    Raises: ValueError if no user has a relevant item.
    """
    # TODO: about 15 lines.
    raise NotImplementedError("ranking_metrics")


def leave_last_out(users: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split interactions so that each user's future is held out, never their past.

    Interaction n is of user users[n] at times[n]. In the order of a user's times, the last interaction goes to the test set, the one
    before it to the validation set, and all earlier ones to the training set. Of equal times, the one that comes first in the list is
    earlier. All interactions of a user with fewer than three are for training.

    A random split would train on what a user did after the items to be predicted.

    Args:
        users: (N,), int64: any numbers, negative and huge ones too. N may be 0.
        times: (N,), int64: any numbers; in nanoseconds, floats can't tell them apart.

    Returns: (train, validation, test): int64 indices n, each in rising order.
    """
    # TODO: about 9 lines.
    raise NotImplementedError("leave_last_out")


def forecast_windows(series: Tensor, history: int, horizon: int, cut: int, *, stride: int = 1) -> dict[str, Tensor]:
    """Cut a series into windows for a forecast, scaled by what was known at the time of the cut.

    Steps 0 … cut − 1 are the past, all later ones the future. Each feature is scaled by the past's mean and deviation: y =
    (series − mean) / std, where std is the root of the mean of (series − mean)² over the cut steps (not of cut − 1). A feature that
    has the same value at all of these steps gets the std 1; compare the values for that, since rounding may leave a tiny deviation.

    Window w takes the steps w … w + history − 1 as input, and the next `horizon` steps as target. Training windows lie in the past as a
    whole: their targets end before the cut. Test windows have all of their target in the future; their input may reach into the past.
    Windows whose target lies on both sides of the cut belong to neither.

    Training windows are w = 0, stride, 2 · stride, …; test windows begin at the first one with a target that starts at or after the cut,
    and go on by stride as well.

    Args:
        series: (T, D). What it holds after the cut may be NaN, and reaches neither the training windows nor mean and std.
        history, horizon: H and P, at least 1.
        cut: from H + P to T.
        stride: at least 1.

    Returns: {"train_x": (N, H, D), "train_y": (N, P, D), "test_x": (M, H, D), "test_y": (M, P, D), all scaled; "mean": (D,), "std":
        (D,)}. M may be 0.
    Raises: ValueError if cut is below H + P or above T.
    """
    # TODO: about 13 lines.
    raise NotImplementedError("forecast_windows")


def graph_convolution(x: Tensor, edges: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Mix each node's features with its neighbours' (Kipf & Welling 2017, equation 2, without the activation).

        y = D^(−½) · (A + I) · D^(−½) · x · weight + bias

    A[t, s] counts how often the edge s → t is in the list: an edge that stands there twice counts twice. I adds an edge from every node to
    itself, also where the list has one already. D is diagonal, with the row sums of A + I: D[t, t] is 1 and the number of edges that end
    in t. So with d_t for D[t, t]:

        y[t] = (x[t] / d_t + Σ_{edges s → t} x[s] / √(d_s · d_t)) · weight + bias

    An edge has a direction; who wants both lists both. A node without edges keeps its own features, times weight.

    Graphs are large and sparse: A has N² entries, and must not be built. There may be 100,000 nodes and 200,000 edges. NaN of one
    node reaches only the nodes to which it has an edge, and itself.

    Args:
        x: (N, D), N ≥ 1.
        edges: (2, E), int64: edges[0] are the nodes where edges start, edges[1] those where they end. E may be 0.
        weight: (D, F), dtype of x.
        bias: (F,); None adds nothing.

    Returns: (N, F), with gradients for x, weight and bias.
    """
    # TODO: about 6 lines.
    raise NotImplementedError("graph_convolution")
