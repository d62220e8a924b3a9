"""Other correct answers to the tasks of look_inside: the hidden suite must accept every one."""

import math

import torch
from torch.nn import functional as F

from grader.testing import alternative

# attention_only


@alternative("attention_only")
def head_by_head(weights, tokens, replace=None):
    replace = replace or {}
    L, H, _, d = weights["W_Q"].shape
    T = tokens.shape[1]
    x = F.embedding(tokens, weights["embed"]) + weights["positions"][:T]
    streams, patterns, outputs = [x], [], []
    for layer in range(L):
        total, rows, outs = x, [], []
        for head in range(H):
            q, k, v = (x @ weights[name][layer, head] for name in ("W_Q", "W_K", "W_V"))
            scores = torch.einsum("bqd,bkd->bqk", q, k) / math.sqrt(d)
            allowed = torch.arange(T)[:, None] >= torch.arange(T)
            pattern = torch.softmax(torch.where(allowed, scores, scores.new_tensor(-math.inf)), -1)
            columns = list((pattern @ v @ weights["W_O"][layer, head]).unbind(1))
            for place in range(T):
                columns[place] = replace.get((layer, head, place), columns[place])
            out = torch.stack(columns, 1)
            total = total + out
            rows.append(pattern)
            outs.append(out)
        x = total
        streams.append(x)
        patterns.append(torch.stack(rows, 1))
        outputs.append(torch.stack(outs, 1))
    return {
        "logits": torch.matmul(x, weights["unembed"]),
        "streams": torch.stack(streams),
        "patterns": torch.stack(patterns),
        "outputs": torch.stack(outputs),
    }


@alternative("attention_only")
def one_einsum(weights, tokens, replace=None):
    B, T = tokens.shape
    L, H, D, d = weights["W_Q"].shape
    stream, kept = (
        [weights["embed"].index_select(0, tokens.reshape(-1)).reshape(B, T, D) + weights["positions"].narrow(0, 0, T)],
        {"p": [], "o": []},
    )
    for layer in range(L):
        x = stream[-1]
        QK = torch.einsum("hde,hfe->hdf", weights["W_Q"][layer], weights["W_K"][layer]) / d**0.5
        OV = weights["W_V"][layer] @ weights["W_O"][layer]
        scores = torch.einsum("bqd,hdf,bkf->bhqk", x, QK, x)
        scores = scores + torch.full((T, T), -torch.inf, dtype=x.dtype).triu(1)
        pattern = (scores - scores.amax(-1, keepdim=True)).exp()
        pattern = pattern / pattern.sum(-1, keepdim=True)
        out = torch.einsum("bhqk,bkd,hdf->bhqf", pattern, x, OV)
        for key, value in (replace or {}).items():
            if key[0] == layer:
                here = torch.zeros(1, H, T, 1, dtype=torch.bool)
                here[0, key[1], key[2]] = True
                out = torch.where(here, value[:, None, None], out)
        stream.append(x + torch.einsum("bhqf->bqf", out))
        kept["p"].append(pattern)
        kept["o"].append(out)
    return {
        "logits": stream[-1] @ weights["unembed"],
        "streams": torch.stack(stream),
        "patterns": torch.stack(kept["p"]),
        "outputs": torch.stack(kept["o"]),
    }


# repeated_tokens


@alternative("repeated_tokens")
def by_permutations(vocabulary, length, batch, *, generator):
    if vocabulary < length:
        raise ValueError("too few tokens")
    rows = [torch.randperm(vocabulary, generator=generator)[:length] for _ in range(batch)]
    half = torch.stack(rows) if rows else torch.empty(0, length, dtype=torch.int64)
    return torch.cat([half, half], dim=1)


@alternative("repeated_tokens")
def by_multinomial(vocabulary, length, batch, *, generator):
    if length > vocabulary:
        raise ValueError("too long")
    if batch == 0:
        return torch.zeros(0, 2 * length, dtype=torch.long)
    half = torch.multinomial(torch.ones(batch, vocabulary), length, replacement=False, generator=generator)
    return half.tile(2)


# induction_scores


@alternative("induction_scores")
def by_a_diagonal(patterns, length):
    stripe = patterns.diagonal(offset=1 - length, dim1=-2, dim2=-1)  # query − key = length − 1; the first is query length − 1
    return stripe[..., 1:length].mean(-1).mean(1)


@alternative("induction_scores")
def in_a_loop(patterns, length):
    total = 0
    for i in range(length - 1):
        total = total + patterns[:, :, :, length + i, i + 1].sum(1)
    return total / (patterns.shape[1] * (length - 1))


# linear_probe


@alternative("linear_probe")
@torch.no_grad()
def by_more_rows(features, labels, classes, *, ridge=1e-3):
    X, Y = features.double(), F.one_hot(labels, classes).double()
    mean_x, mean_y = X.mean(0, keepdim=True), Y.mean(0, keepdim=True)
    D = X.shape[1]
    rows = torch.cat([X - mean_x, math.sqrt(ridge) * torch.eye(D, dtype=torch.float64)])
    Q, R = torch.linalg.qr(rows)
    W = torch.linalg.solve_triangular(R, Q.T @ torch.cat([Y - mean_y, torch.zeros(D, classes, dtype=torch.float64)]), upper=True)
    return W.to(features.dtype), (mean_y - mean_x @ W)[0].to(features.dtype)


@alternative("linear_probe")
def by_singular_values(features, labels, classes, *, ridge=1e-3):
    X = features.detach().to(torch.float64)
    Y = (labels[:, None] == torch.arange(classes)).to(torch.float64)
    U, S, V = torch.linalg.svd(X - X.mean(0), full_matrices=False)
    W = V.T @ ((S / (S.square() + ridge))[:, None] * (U.T @ (Y - Y.mean(0))))
    b = Y.mean(0) - X.mean(0) @ W
    return W.type_as(features).detach(), b.type_as(features).detach()


# patch_effects


@alternative("patch_effects")
@torch.no_grad()
def over_all_heads(run, clean, corrupt, place, wanted):
    def wanted_logit(found):
        return found["logits"][torch.arange(len(wanted)), place, wanted].sum() / len(wanted)

    good, bad = run(clean), run(corrupt)
    gap = wanted_logit(good) - wanted_logit(bad)
    L, H = good["outputs"].shape[0], good["outputs"].shape[2]
    if gap == 0:
        return torch.zeros(L, H, dtype=good["logits"].dtype)
    patched = [
        wanted_logit(run(corrupt, {(layer, head, place): good["outputs"][layer, :, head, place]}))
        for layer in range(L)
        for head in range(H)
    ]
    return ((torch.stack(patched) - wanted_logit(bad)) / gap).reshape(L, H)


@alternative("patch_effects")
def up_to_the_place(run, clean, corrupt, place, wanted):
    with torch.inference_mode():
        clean, corrupt = clean[:, : place + 1], corrupt[:, : place + 1]  # nobody looks further
        outputs = run(clean, None)["outputs"][:, :, :, -1]
        scores = [run(tokens)["logits"][:, -1].gather(1, wanted[:, None]).mean().item() for tokens in (corrupt, clean)]
        out = torch.zeros(outputs.shape[0], outputs.shape[2], dtype=outputs.dtype)
        for layer in range(out.shape[0] if scores[0] != scores[1] else 0):
            for head in range(out.shape[1]):
                patched = run(corrupt, replace={(layer, head, place): outputs[layer, :, head]})
                out[layer, head] = (patched["logits"][:, -1].gather(1, wanted[:, None]).mean().item() - scores[0]) / (scores[1] - scores[0])
    return out.clone()
