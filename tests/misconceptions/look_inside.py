"""Named wrong answers to the tasks of look_inside: the hidden suite must reject every one."""

import torch

from grader.testing import misconception
from solutions.look_inside import attention_only as reference_run
from solutions.look_inside import induction_scores as reference_scores
from solutions.look_inside import linear_probe as reference_probe
from solutions.look_inside import patch_effects as reference_effects
from solutions.look_inside import repeated_tokens as reference_tokens

# attention_only


def _run(weights, tokens, replace=None, **change):
    """The reference, in parts that mistakes can replace."""
    T, d = tokens.shape[1], weights["W_Q"].shape[-1]
    later = change.get("later", lambda T: torch.ones(T, T, dtype=torch.bool).triu(1))(T)
    x = change.get("begin", lambda w, t: w["embed"][t] + w["positions"][: t.shape[1]])(weights, tokens)
    streams, patterns, outputs = [x], [], []
    for layer in range(len(weights["W_Q"])):
        q, k, v = (torch.einsum("btd,hde->bhte", x, weights[name][layer]) for name in ("W_Q", "W_K", "W_V"))
        scores = change.get("scale", lambda s, d, D: s / d**0.5)(q @ k.mT, d, x.shape[-1])
        pattern = change.get("soft", lambda s, m: s.masked_fill(m, -torch.inf).softmax(-1))(scores, later)
        output = pattern @ v @ weights["W_O"][layer]
        kept = output
        for (at, head, place), value in (replace or {}).items():
            if at == layer:
                output = change.get("put", _put)(output, head, place, value)
        x = change.get("add", lambda x, o: x + o.sum(1))(x, output)
        streams.append(x)
        patterns.append(pattern)
        outputs.append(kept if change.get("keep_old") else output)
    logits = change.get("end", lambda x, w: x @ w["unembed"])(x, weights)
    return {"logits": logits, "streams": torch.stack(streams), "patterns": torch.stack(patterns), "outputs": torch.stack(outputs)}


def _put(output, head, place, value):
    output = output.clone()
    output[:, head, place] = value
    return output


@misconception("attention_only", "Lets every place look at the whole text.")
def looks_ahead(weights, tokens, replace=None):
    return _run(weights, tokens, replace, later=lambda T: torch.zeros(T, T, dtype=torch.bool))


@misconception("attention_only", "Hides a place from itself.")
def not_at_itself(weights, tokens, replace=None):
    def later(T):
        hidden = torch.ones(T, T, dtype=torch.bool).triu()
        hidden[0, 0] = False  # the first place has nothing else
        return hidden

    return _run(weights, tokens, replace, later=later)


@misconception("attention_only", "Forgets √d.")
def without_scale(weights, tokens, replace=None):
    return _run(weights, tokens, replace, scale=lambda s, d, D: s)


@misconception("attention_only", "Divides by √D, the width of the stream.")
def scale_of_the_stream(weights, tokens, replace=None):
    return _run(weights, tokens, replace, scale=lambda s, d, D: s / D**0.5)


@misconception("attention_only", "Divides by d.")
def scale_without_root(weights, tokens, replace=None):
    return _run(weights, tokens, replace, scale=lambda s, d, D: s / d)


@misconception("attention_only", "Takes the softmax over queries.")
def softmax_over_queries(weights, tokens, replace=None):
    return _run(weights, tokens, replace, soft=lambda s, m: s.masked_fill(m, -torch.inf).softmax(-2).nan_to_num())


@misconception("attention_only", "Sets later scores to 0 before the softmax: they still get attention.")
def masks_with_zero(weights, tokens, replace=None):
    return _run(weights, tokens, replace, soft=lambda s, m: s.masked_fill(m, 0.0).softmax(-1))


@misconception("attention_only", "Masks after the softmax: the rows no longer add up to 1.")
def masks_after(weights, tokens, replace=None):
    return _run(weights, tokens, replace, soft=lambda s, m: s.softmax(-1).masked_fill(m, 0.0))


@misconception("attention_only", "Computes exp without taking the largest score away: it overflows.")
def overflows(weights, tokens, replace=None):
    def soft(s, m):
        e = s.exp().masked_fill(m, 0.0)
        return e / e.sum(-1, keepdim=True)

    return _run(weights, tokens, replace, soft=soft)


@misconception("attention_only", "Forgets the positions.")
def without_positions(weights, tokens, replace=None):
    return _run(weights, tokens, replace, begin=lambda w, t: w["embed"][t])


@misconception("attention_only", "Adds the last positions instead of the first.")
def last_positions(weights, tokens, replace=None):
    return _run(weights, tokens, replace, begin=lambda w, t: w["embed"][t] + w["positions"][-t.shape[1] :])


@misconception("attention_only", "Forgets the stream: each layer sees only the heads before it.")
def without_stream(weights, tokens, replace=None):
    return _run(weights, tokens, replace, add=lambda x, o: o.sum(1))


@misconception("attention_only", "Takes the mean over heads.")
def mean_of_heads(weights, tokens, replace=None):
    return _run(weights, tokens, replace, add=lambda x, o: x + o.mean(1))


@misconception("attention_only", "Replaces a head's output at all places.")
def replaces_all_places(weights, tokens, replace=None):
    def put(output, head, place, value):
        output = output.clone()
        output[:, head] = value[:, None]
        return output

    return _run(weights, tokens, replace, put=put)


@misconception("attention_only", "Replaces the outputs of all heads at the place.")
def replaces_all_heads(weights, tokens, replace=None):
    def put(output, head, place, value):
        output = output.clone()
        output[:, :, place] = value[:, None]
        return output

    return _run(weights, tokens, replace, put=put)


@misconception("attention_only", "Adds what should be put in its place.")
def adds_the_value(weights, tokens, replace=None):
    def put(output, head, place, value):
        output = output.clone()
        output[:, head, place] += value
        return output

    return _run(weights, tokens, replace, put=put)


@misconception("attention_only", "Replaces, and keeps the old output in `outputs`.")
def keeps_old_outputs(weights, tokens, replace=None):
    return _run(weights, tokens, replace, keep_old=True)


@misconception("attention_only", "Replaces afterwards, when the stream has already gone on.")
def replaces_too_late(weights, tokens, replace=None):
    run = reference_run(weights, tokens)
    for (layer, head, place), value in (replace or {}).items():
        run["outputs"] = run["outputs"].clone()
        run["outputs"][layer, :, head, place] = value
    return run


@misconception("attention_only", "Takes only the first replacement.")
def first_replacement(weights, tokens, replace=None):
    return reference_run(weights, tokens, dict(list((replace or {}).items())[:1]))


@misconception("attention_only", "Ignores replace.")
def ignores_replace(weights, tokens, replace=None):
    return reference_run(weights, tokens)


@misconception("attention_only", "Gives log-probabilities.")
def log_probabilities(weights, tokens, replace=None):
    return _run(weights, tokens, replace, end=lambda x, w: (x @ w["unembed"]).log_softmax(-1))


@misconception("attention_only", "Leaves the first stream out.")
def without_first_stream(weights, tokens, replace=None):
    run = reference_run(weights, tokens, replace)
    return {**run, "streams": run["streams"][1:]}


@misconception("attention_only", "Detaches what it keeps, and the logits with it.")
def detaches(weights, tokens, replace=None):
    return {name: x.detach().requires_grad_() for name, x in reference_run(weights, tokens, replace).items()}


# repeated_tokens


@misconception("repeated_tokens", "Draws tokens with replacement: a row can have one twice.")
def with_replacement(vocabulary, length, batch, *, generator):
    if length > vocabulary:
        raise ValueError
    return torch.randint(vocabulary, (batch, length), generator=generator).repeat(1, 2)


@misconception("repeated_tokens", "Draws one row for all texts.")
def one_row_for_all(vocabulary, length, batch, *, generator):
    return reference_tokens(vocabulary, length, 1, generator=generator).repeat(batch, 1)


@misconception("repeated_tokens", "Says each token twice in a row, instead of the row twice.")
def says_tokens_twice(vocabulary, length, batch, *, generator):
    return reference_tokens(vocabulary, length, batch, generator=generator)[:, :length].repeat_interleave(2, 1)


@misconception("repeated_tokens", "Draws the second half anew.")
def two_rows(vocabulary, length, batch, *, generator):
    halves = [reference_tokens(vocabulary, length, batch, generator=generator)[:, :length] for _ in range(2)]
    return torch.cat(halves, 1)


@misconception("repeated_tokens", "Says the row backwards the second time.")
def backwards(vocabulary, length, batch, *, generator):
    half = reference_tokens(vocabulary, length, batch, generator=generator)[:, :length]
    return torch.cat([half, half.flip(1)], 1)


@misconception("repeated_tokens", "Sorts the rows: small tokens come first.")
def sorted_rows(vocabulary, length, batch, *, generator):
    return reference_tokens(vocabulary, length, batch, generator=generator)[:, :length].sort(1).values.repeat(1, 2)


@misconception("repeated_tokens", "Takes neighbouring tokens from a random start.")
def neighbours(vocabulary, length, batch, *, generator):
    if length > vocabulary:
        raise ValueError
    start = torch.randint(vocabulary, (batch, 1), generator=generator)
    return ((start + torch.arange(length)) % vocabulary).repeat(1, 2)


@misconception("repeated_tokens", "Leaves out the last token of the vocabulary.")
def without_the_last(vocabulary, length, batch, *, generator):
    if length > vocabulary:
        raise ValueError
    if length == vocabulary:
        return reference_tokens(vocabulary, length, batch, generator=generator)
    return reference_tokens(vocabulary - 1, length, batch, generator=generator)


@misconception("repeated_tokens", "Counts tokens from 1.")
def from_one(vocabulary, length, batch, *, generator):
    return reference_tokens(vocabulary, length, batch, generator=generator) + 1


@misconception("repeated_tokens", "Draws from torch's global generator.")
def global_generator(vocabulary, length, batch, *, generator):
    own = torch.Generator().manual_seed(torch.randint(2**40, ()).item())
    return reference_tokens(vocabulary, length, batch, generator=own)


@misconception("repeated_tokens", "Cuts the rows where there are too few tokens.")
def cuts_rows(vocabulary, length, batch, *, generator):
    return reference_tokens(vocabulary, min(length, vocabulary), batch, generator=generator)


@misconception("repeated_tokens", "Changes two places of the row before, so that neighbouring texts are alike.")
def small_steps(vocabulary, length, batch, *, generator):
    half = reference_tokens(vocabulary, length, batch, generator=generator)[:, :length]
    for i in range(1, batch):
        a, b = torch.randint(length, (2,), generator=generator).tolist()
        half[i] = half[i - 1]
        half[i, [a, b]] = half[i, [b, a]]
    return half.repeat(1, 2)


# induction_scores


def _scores(patterns, queries, keys):
    return patterns[..., queries, keys].mean((1, 3))


@misconception("induction_scores", "Looks at the earlier place of the same token, not at what came after it.")
def same_token(patterns, length):
    i = torch.arange(length - 1)
    return _scores(patterns, length + i, i)


@misconception("induction_scores", "Looks at the token before.")
def previous_token(patterns, length):
    i = torch.arange(length - 1)
    return _scores(patterns, length + i, length + i - 1)


@misconception("induction_scores", "Takes queries for keys.")
def transposed(patterns, length):
    return reference_scores(patterns.mT, length)


@misconception("induction_scores", "Counts the last place too, whose next token is in the second half.")
def one_too_many(patterns, length):
    i = torch.arange(length)
    return _scores(patterns, length + i, i + 1)


@misconception("induction_scores", "Leaves out the first place.")
def without_the_first(patterns, length):
    i = torch.arange(1, length - 1) if length > 2 else torch.arange(1)
    return _scores(patterns, length + i, i + 1)


@misconception("induction_scores", "Starts a place too late.")
def off_by_one(patterns, length):
    i = torch.arange(length - 1)
    return _scores(patterns, length + i, (i + 2) % (2 * length))


@misconception("induction_scores", "Sums over places.")
def sums(patterns, length):
    return reference_scores(patterns, length) * (length - 1)


@misconception("induction_scores", "Divides by length, one place too many.")
def divides_by_length(patterns, length):
    return reference_scores(patterns, length) * (length - 1) / length


@misconception("induction_scores", "Takes the largest of all places.")
def largest(patterns, length):
    i = torch.arange(length - 1)
    return patterns[..., length + i, i + 1].amax((1, 3))


@misconception("induction_scores", "Looks at the first text only.")
def first_text(patterns, length):
    return reference_scores(patterns[:, :1], length)


@misconception("induction_scores", "Takes the mean over heads instead of texts.")
def over_heads(patterns, length):
    return reference_scores(patterns.transpose(1, 2), length)


@misconception("induction_scores", "Takes all queries against all keys: two index tensors crossed instead of paired.")
def crossed(patterns, length):
    i = torch.arange(length - 1)
    return patterns[..., length + i, :][..., i + 1].mean((1, 3, 4))


@misconception("induction_scores", "Detaches the score.")
def detached(patterns, length):
    return reference_scores(patterns, length).detach().requires_grad_()


# linear_probe


def _solve(features, labels, classes, ridge, *, centre_x=True, centre_y=True, values=(1.0, 0.0), dtype=torch.float64, power=1):
    X = features.detach().to(dtype)
    Y = torch.full((len(labels), classes), values[1], dtype=dtype)
    Y[torch.arange(len(labels)), labels] = values[0]
    x_mean = X.mean(0) if centre_x else torch.zeros_like(X[0])
    y_mean = Y.mean(0) if centre_y else torch.zeros_like(Y[0])
    X, Y = X - x_mean, Y - y_mean
    W = torch.linalg.solve(X.T @ X + ridge**power * torch.eye(X.shape[1], dtype=dtype), X.T @ Y)
    return W.to(features.dtype), (y_mean - x_mean @ W).to(features.dtype)


@misconception("linear_probe", "Has no b: the line goes through the origin.")
def without_b(features, labels, classes, *, ridge=1e-3):
    return _solve(features, labels, classes, ridge, centre_x=False, centre_y=False)


@misconception("linear_probe", "Takes the means of the classes away, but not those of the features.")
def centres_y_only(features, labels, classes, *, ridge=1e-3):
    return _solve(features, labels, classes, ridge, centre_x=False)


@misconception("linear_probe", "Holds b down too, by a column of ones.")
def ridge_on_b(features, labels, classes, *, ridge=1e-3):
    X = torch.cat([features.detach().double(), torch.ones(len(features), 1, dtype=torch.float64)], 1)
    Y = torch.nn.functional.one_hot(labels, classes).double()
    W = torch.linalg.solve(X.T @ X + ridge * torch.eye(X.shape[1], dtype=torch.float64), X.T @ Y)
    return W[:-1].to(features.dtype), W[-1].to(features.dtype)


@misconception("linear_probe", "Forgets the ridge.")
def without_ridge(features, labels, classes, *, ridge=1e-3):
    X, Y = features.detach().double(), torch.nn.functional.one_hot(labels, classes).double()
    W = torch.linalg.pinv(X - X.mean(0)) @ (Y - Y.mean(0))
    return W.to(features.dtype), (Y.mean(0) - X.mean(0) @ W).to(features.dtype)


@misconception("linear_probe", "Multiplies the ridge by the number of rows.")
def ridge_by_rows(features, labels, classes, *, ridge=1e-3):
    return reference_probe(features, labels, classes, ridge=ridge * len(features))


@misconception("linear_probe", "Squares the ridge.")
def squared_ridge(features, labels, classes, *, ridge=1e-3):
    return _solve(features, labels, classes, ridge, power=2)


@misconception("linear_probe", "Uses −1 for the other classes.")
def minus_one(features, labels, classes, *, ridge=1e-3):
    return _solve(features, labels, classes, ridge, values=(1.0, -1.0))


@misconception("linear_probe", "Computes in float32.")
def in_float32(features, labels, classes, *, ridge=1e-3):
    return _solve(features, labels, classes, ridge, dtype=torch.float32)


@misconception("linear_probe", "Gives float64 whatever the features are.")
def gives_float64(features, labels, classes, *, ridge=1e-3):
    return _solve(features.double(), labels, classes, ridge)


@misconception("linear_probe", "Divides the features by their deviations, and forgets to take that back.")
def standardizes(features, labels, classes, *, ridge=1e-3):
    deviation = features.std(0, correction=0).clamp(min=1e-6)
    return reference_probe(features / deviation, labels, classes, ridge=ridge)


@misconception("linear_probe", "Counts only the classes that there are.")
def only_seen_classes(features, labels, classes, *, ridge=1e-3):
    return reference_probe(features, labels, int(labels.max()) + 1, ridge=ridge)


@misconception("linear_probe", "Forgets that b has to take the features' mean back.")
def b_is_the_mean(features, labels, classes, *, ridge=1e-3):
    W, _ = reference_probe(features, labels, classes, ridge=ridge)
    return W, torch.nn.functional.one_hot(labels, classes).to(features.dtype).mean(0)


@misconception("linear_probe", "Returns W transposed, as nn.Linear has it.")
def as_linear_has_it(features, labels, classes, *, ridge=1e-3):
    W, b = reference_probe(features, labels, classes, ridge=ridge)
    return W.T.contiguous(), b


@misconception("linear_probe", "Keeps the graph of the features.")
def keeps_the_graph(features, labels, classes, *, ridge=1e-3):
    W, b = reference_probe(features, labels, classes, ridge=ridge)
    return W + 0 * features.sum(), b + 0 * features.sum()


# patch_effects


def _effects(run, clean, corrupt, place, wanted, **change):
    def score(tokens, replace=None):
        logits = change.get("logits", lambda x: x)(run(tokens, replace)["logits"])[:, place]
        return change.get("mean", torch.mean)(logits.gather(1, wanted[:, None]))

    with torch.no_grad():
        outputs = run(clean)["outputs"]
        L, _, H = outputs.shape[:3]
        low, high = score(corrupt), score(clean)
        effects = torch.zeros(L, H, dtype=low.dtype)
        if high == low and not change.get("divides"):
            return effects
        for layer in range(L):
            for head in range(H):
                replace = change.get("replace", lambda o, layer, head: {(layer, head, place): o[layer, :, head, place]})(
                    outputs, layer, head
                )
                patched = score(change.get("base", corrupt), replace)
                effects[layer, head] = change.get("effect", lambda p, lo, hi: (p - lo) / (hi - lo))(patched, low, high)
        return effects


@misconception("patch_effects", "Patches all places of the head.")
def patches_all_places(run, clean, corrupt, place, wanted):
    T = clean.shape[1]
    return _effects(
        run, clean, corrupt, place, wanted, replace=lambda o, layer, head: {(layer, head, t): o[layer, :, head, t] for t in range(T)}
    )


@misconception("patch_effects", "Patches all heads of the layer.")
def patches_the_layer(run, clean, corrupt, place, wanted):
    return _effects(
        run,
        clean,
        corrupt,
        place,
        wanted,
        replace=lambda o, layer, head: {(layer, h, place): o[layer, :, h, place] for h in range(o.shape[2])},
    )


@misconception("patch_effects", "Keeps the patches of the heads before.")
def patches_pile_up(run, clean, corrupt, place, wanted):
    kept = {}

    def replace(outputs, layer, head):
        kept[layer, head, place] = outputs[layer, :, head, place]
        return dict(kept)

    return _effects(run, clean, corrupt, place, wanted, replace=replace)


@misconception("patch_effects", "Takes the output away instead of replacing it.")
def ablates(run, clean, corrupt, place, wanted):
    return _effects(
        run,
        clean,
        corrupt,
        place,
        wanted,
        replace=lambda o, layer, head: {(layer, head, place): torch.zeros_like(o[layer, :, head, place])},
    )


@misconception("patch_effects", "Patches corrupt outputs into the clean run.")
def the_other_way(run, clean, corrupt, place, wanted):
    return 1 - reference_effects(run, corrupt, clean, place, wanted)


@misconception("patch_effects", "Does not compare with the two runs.")
def raw_scores(run, clean, corrupt, place, wanted):
    return _effects(run, clean, corrupt, place, wanted, effect=lambda p, lo, hi: p)


@misconception("patch_effects", "Takes the difference, and does not divide.")
def difference_only(run, clean, corrupt, place, wanted):
    return _effects(run, clean, corrupt, place, wanted, effect=lambda p, lo, hi: p - lo)


@misconception("patch_effects", "Divides by the clean score.")
def divides_by_clean(run, clean, corrupt, place, wanted):
    return _effects(run, clean, corrupt, place, wanted, effect=lambda p, lo, hi: (p - lo) / hi)


@misconception("patch_effects", "Turns the scale round: 0 repairs everything.")
def scale_reversed(run, clean, corrupt, place, wanted):
    return 1 - reference_effects(run, clean, corrupt, place, wanted)


@misconception("patch_effects", "Divides by 0 where both runs are the same.")
def divides_by_zero(run, clean, corrupt, place, wanted):
    return _effects(run, clean, corrupt, place, wanted, divides=True)


@misconception("patch_effects", "Scores by the probability instead of the logit.")
def probabilities(run, clean, corrupt, place, wanted):
    return _effects(run, clean, corrupt, place, wanted, logits=lambda x: x.softmax(-1))


@misconception("patch_effects", "Scores by the largest logit, whatever token has it.")
def largest_logit(run, clean, corrupt, place, wanted):
    return _effects(run, clean, corrupt, place, wanted, logits=lambda x: x.amax(-1, keepdim=True).expand_as(x))


@misconception("patch_effects", "Looks at the last place of the text.")
def last_place(run, clean, corrupt, place, wanted):
    return reference_effects(run, clean, corrupt, clean.shape[1] - 1, wanted)


@misconception("patch_effects", "Takes the mean of the texts' own effects, instead of the effect of the mean.")
def mean_of_effects(run, clean, corrupt, place, wanted):
    rows = [reference_effects(run, clean[i : i + 1], corrupt[i : i + 1], place, wanted[i : i + 1]) for i in range(len(clean))]
    return torch.stack(rows).mean(0)


@misconception("patch_effects", "Cuts effects to 0 … 1.")
def cuts_effects(run, clean, corrupt, place, wanted):
    return reference_effects(run, clean, corrupt, place, wanted).clamp(0, 1)


@misconception("patch_effects", "Looks at the first text only.")
def only_the_first_text(run, clean, corrupt, place, wanted):
    return reference_effects(run, clean[:1], corrupt[:1], place, wanted[:1])


@misconception("patch_effects", "Records a graph.")
def records_a_graph(run, clean, corrupt, place, wanted):
    return reference_effects(run, clean, corrupt, place, wanted) + 0 * run(clean)["logits"].sum()


@misconception("patch_effects", "Returns heads by layers.")
def heads_by_layers(run, clean, corrupt, place, wanted):
    return reference_effects(run, clean, corrupt, place, wanted).T.contiguous()
