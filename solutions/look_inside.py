"""Look inside: take a small language model apart, and find the head that copies.

A text that says "Anna Lopez … Anna" goes on with "Lopez". Models learn this early, with two heads in a row: one looks at the token before,
the next looks for the place where the present token stood before, and copies what came after it. The second is called an induction head
(Olsson et al. 2022). The stages run a model of attention alone, give it texts that say everything twice, measure the heads, ask what the
model knows in the middle, and change one head's output to see whether it is the one.

Every stage stands alone. A model is a dict of weights:

    embed       (V, D)          of the tokens
    positions   (N, D)          of the places in a text
    W_Q, W_K    (L, H, D, d)    queries and keys
    W_V         (L, H, D, d)    values
    W_O         (L, H, d, D)    from a head back to the stream
    unembed     (D, V)

with L layers of H heads. Floating tensors are float32 or float64, all of one dtype, and results have it.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def attention_only(
    weights: Mapping[str, Tensor], tokens: Tensor, replace: Mapping[tuple[int, int, int], Tensor] | None = None
) -> dict[str, Tensor]:
    """Run a model that has nothing but attention, and keep what happens in it (Elhage et al. 2021, "A mathematical framework").

    The stream x begins as embed[tokens] plus the first T rows of positions. Each layer l adds the outputs of its heads, which all
    read the same x:

        q, k, v  = x W_Q[l, h],  x W_K[l, h],  x W_V[l, h]
        pattern  = softmax of q kᵀ / √d over the keys up to the query
        output   = pattern v W_O[l, h]

    With `replace`, outputs are replaced before they are added: for the key (l, h, t), the output of head h in layer l at place t becomes
    the given tensor. What comes later in the text or in the layers sees the change, and `outputs` has it.

    Args:
        weights: the model; see the module.
        tokens: (B, T), int64, 1 ≤ T ≤ N.
        replace: (B, D) tensors by layer, head and place, all of them from 0; None replaces nothing.

    Returns: {"logits": (B, T, V), what the last stream gives by unembed; "streams": (L + 1, B, T, D), before each layer and after
    the last; "patterns": (L, B, H, T, T), query by key, 0 for later keys; "outputs": (L, B, H, T, D)}.
    """
    T, d = tokens.shape[1], weights["W_Q"].shape[-1]
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    x = weights["embed"][tokens] + weights["positions"][:T]
    streams, patterns, outputs = [x], [], []
    for layer in range(len(weights["W_Q"])):
        q, k, v = (torch.einsum("btd,hde->bhte", x, weights[name][layer]) for name in ("W_Q", "W_K", "W_V"))
        pattern = (q @ k.mT / d**0.5).masked_fill(later, -torch.inf).softmax(-1)
        output = pattern @ v @ weights["W_O"][layer]  # (B, H, T, D)
        for (at, head, place), value in (replace or {}).items():
            if at == layer:
                output[:, head, place] = value
        x = x + output.sum(1)
        streams.append(x)
        patterns.append(pattern)
        outputs.append(output)
    return {
        "logits": x @ weights["unembed"],
        "streams": torch.stack(streams),
        "patterns": torch.stack(patterns),
        "outputs": torch.stack(outputs),
    }


def repeated_tokens(vocabulary: int, length: int, batch: int, *, generator: torch.Generator) -> Tensor:
    """Make texts in which everything is said twice, so that the second half can be foretold, and the first can't.

    Each text is a row of `length` different tokens, followed by the same row again. Every row is equally likely, and rows are
    drawn independently of each other. How the generator is used is free: tests look at frequencies.

    Args:
        vocabulary: how many tokens there are, 0 … vocabulary − 1.
        length: of a row, from 1 to vocabulary.
        batch: how many texts, 0 or more.

    Returns: (batch, 2 · length), int64.
    Raises: ValueError if there are fewer tokens than a row needs.
    """
    if length > vocabulary:
        raise ValueError(f"{length} different tokens can't be drawn from {vocabulary}")
    return torch.rand(batch, vocabulary, generator=generator).argsort(1)[:, :length].repeat(1, 2)


def induction_scores(patterns: Tensor, length: int) -> Tensor:
    """Measure how much each head looks where an induction head looks.

    The texts are rows of `length` tokens said twice. At place length + i stands the token of place i. An induction head looks from there to
    place i + 1, at what came after it. A head's score is the mean of this attention over all texts and over i = 0 … length − 2, for which
    what comes next can be foretold.

    Args:
        patterns: (L, B, H, 2 · length, 2 · length), query by key. B ≥ 1.
        length: at least 2.

    Returns: (L, H).
    """
    i = torch.arange(length - 1)
    return patterns[..., length + i, i + 1].mean((1, 3))


def linear_probe(features: Tensor, labels: Tensor, classes: int, *, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Ask whether something can be read off a stream by a line (Alain & Bengio 2016).

    The probe is the W, b that make this smallest, with y_c = 1 for the row's own class c and 0 for the others:

        Σ over rows and classes of (x W + b − y)²  +  ridge · Σ W²

    b is not held down by the ridge. That is the ridge regression of centred numbers: with the column means taken away from features and
    y, W solves (XᵀX + ridge · I) W = XᵀY, and b = mean(y) − mean(x) W. Compute in float64; the results have the features' dtype.

    Args:
        features: (N, D), floating. N ≥ 1; fewer rows than columns are fine.
        labels: (N,), int64, in 0 … classes − 1. A class may have no row.
        classes: C, at least 1.
        ridge: above 0.

    Returns: W (D, C) and b (C,), without a graph.
    Not allowed: torch.linalg.lstsq.
    """
    X = features.detach().double()
    Y = torch.zeros(len(labels), classes, dtype=torch.float64)
    Y[torch.arange(len(labels)), labels] = 1.0
    mean = X.mean(0)
    X = X - mean  # then XᵀY is the same, whether Y is centred or not
    W = torch.linalg.solve(X.T @ X + ridge * torch.eye(X.shape[1], dtype=torch.float64), X.T @ Y)
    return W.to(features.dtype), (Y.mean(0) - mean @ W).to(features.dtype)


def patch_effects(run: Callable[..., dict[str, Tensor]], clean: Tensor, corrupt: Tensor, place: int, wanted: Tensor) -> Tensor:
    """Find the head that matters: give a confused model one head's output from a run that was not confused.

    run(tokens) runs a model, and run(tokens, replace) runs it with some outputs of heads replaced; both return what `attention_only` does.
    Run it on the clean texts and keep all outputs of heads; run it on the corrupt texts. Then run it on the corrupt texts once for each
    layer and head, with this head's output at `place` replaced by the one of the clean run. Score a run by the mean, over the texts,
    of the logit of the wanted token at `place`. The effect of a head is

        (score of the patched run − score of the corrupt run)
        / (score of the clean run − score of the corrupt run)

    0 means that it changes nothing, and 1 that it repairs everything. Where the clean and the corrupt run have exactly the same score,
    all effects are 0.

    Args:
        run: the model: tokens (B, T), and replace, a dict from (layer, head, place) to (B, D), to "logits" (B, T, V), "outputs"
            (L, B, H, T, D) and the rest.
        clean, corrupt: (B, T), int64. B ≥ 1.
        place: from 0 to T − 1.
        wanted: (B,), int64, the token that should come after the place.

    Returns: (L, H), of the logits' dtype, without a graph.
    """

    def score(found: dict[str, Tensor]) -> Tensor:
        return found["logits"][:, place].gather(1, wanted[:, None]).mean()

    with torch.no_grad():
        good = run(clean)
        low, high = score(run(corrupt)), score(good)
        L, _, H = good["outputs"].shape[:3]
        effects = torch.zeros(L, H, dtype=low.dtype)
        if high != low:
            for layer in range(L):
                for head in range(H):
                    patched = score(run(corrupt, {(layer, head, place): good["outputs"][layer, :, head, place]}))
                    effects[layer, head] = (patched - low) / (high - low)
        return effects
