"""Named wrong answers to the tasks of transfer: the hidden suite must reject every one."""

import copy
import math
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.transfer import InjectedLoRA as ReferenceInjected
from solutions.transfer import LoRALinear as ReferenceLoRA
from solutions.transfer import average_checkpoints as reference_average
from solutions.transfer import fine_tune_digits as reference_tune
from solutions.transfer import freeze as reference_freeze
from solutions.transfer import interpolate_positions as reference_positions
from solutions.transfer import load_partial as reference_load
from solutions.transfer import param_groups as reference_groups
from solutions.transfer import resize_vocab as reference_resize

# freeze


def _counts(model, norms):
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"frozen": sum(p.numel() for p in model.parameters()) - trainable, "trainable": trainable, "norms": norms}


def _frozen_norms(model, patterns):
    """The batch norms whose statistics match, by name."""
    norms = {n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    return {n: m for n, m in norms.items() if any(fnmatchcase(f"{n}.running_mean".lstrip("."), p) for p in patterns)}


@misconception("freeze", "Freezes the parameters only: in training mode, the running statistics of the batch norms drift on.")
def forgets_the_statistics(model, patterns):
    modes = [(module, module.training) for module in model.modules()]
    had = [(module, "train" in vars(module)) for module in model.modules()]
    counts = reference_freeze(model, patterns)
    for module, own in had:
        if not own:
            vars(module).pop("train", None)
    for module, mode in modes:
        module.training = mode
    return counts


@misconception("freeze", "Switches the batch norms to eval mode once: the next model.train() switches them back.")
def eval_until_the_next_train(model, patterns):
    counts = reference_freeze(model, patterns)
    for module in model.modules():
        vars(module).pop("train", None)
    return counts


@misconception("freeze", "Keeps the old gradients: an optimizer that holds the parameters goes on with weight decay and momentum.")
def keeps_the_gradients(model, patterns):
    grads = [(p, p.grad) for p in model.parameters()]
    counts = reference_freeze(model, patterns)
    for p, grad in grads:
        p.grad = grad
    return counts


@misconception("freeze", "Sets the gradients to zero instead of None: the optimizer still applies weight decay and momentum.")
def zeros_for_gradients(model, patterns):
    counts = reference_freeze(model, patterns)
    for p in model.parameters():
        if not p.requires_grad:
            p.grad = torch.zeros_like(p)
    return counts


@misconception("freeze", "Freezes every batch norm, whatever its name: those outside of the patterns have to go on learning.")
def freezes_all_norms(model, patterns):
    counts = reference_freeze(model, patterns)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return counts


@misconception("freeze", "Switches the whole model to eval mode, dropout too: only the batch norms that match are concerned.")
def whole_model_in_eval(model, patterns):
    counts = reference_freeze(model, patterns)
    model.eval()
    return counts


@misconception("freeze", "Sets the momentum of frozen batch norms to 0: in training mode they still compute with the batch's statistics.")
def momentum_of_zero(model, patterns):
    modes = [(module, module.training) for module in model.modules()]
    counts = reference_freeze(model, patterns)
    for module in model.modules():
        vars(module).pop("train", None)
    for module, mode in modes:
        module.training = mode
    for norm in _frozen_norms(model, patterns).values():
        norm.momentum = 0.0
    return counts


@misconception("freeze", "Lets a pattern that matches nothing pass: a typo would freeze nothing, in silence.")
def typos_pass(model, patterns):
    names = [n for n, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))]
    return reference_freeze(model, [p for p in patterns if any(fnmatchcase(n, p) for n in names)])


@misconception("freeze", "Finds out about the typo on its way, when the first patterns have done their work.")
def raises_too_late(model, patterns):
    for pattern in patterns:
        reference_freeze(model, [pattern])
    return reference_freeze(model, patterns)


@misconception("freeze", "Looks for the pattern anywhere in the name: a pattern has to match all of it.")
def substring_match(model, patterns):
    names = [n for n, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))]
    if not all(any(fnmatchcase(n, f"*{p}*") for n in names) for p in patterns):
        raise ValueError("nothing matches")
    return reference_freeze(model, [f"*{p}*" for p in patterns])


@misconception("freeze", "Asks named_parameters() for its names: a tied parameter has others that it doesn't list.")
def overlooks_second_names(model, patterns):
    names = [n for n, _ in (*model.named_parameters(), *model.named_buffers())]
    every = [n for n, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))]
    if not all(any(fnmatchcase(n, p) for n in every) for p in patterns):
        raise ValueError("nothing matches")
    return reference_freeze(model, [n for n in names if any(fnmatchcase(n, p) for p in patterns)])


@misconception("freeze", "Counts tensors: the entries are asked for.")
def counts_tensors(model, patterns):
    counts = reference_freeze(model, patterns)
    flags = [p.requires_grad for p in model.parameters()]
    return counts | {"frozen": flags.count(False), "trainable": flags.count(True)}


@misconception("freeze", "Counts a shared parameter once for each of its names.")
def counts_names(model, patterns):
    norms = reference_freeze(model, patterns)["norms"]
    every = [p for _, p in model.named_parameters(remove_duplicate=False)]
    trainable = sum(p.numel() for p in every if p.requires_grad)
    return {"frozen": sum(p.numel() for p in every) - trainable, "trainable": trainable, "norms": norms}


@misconception("freeze", "Counts only what this call has frozen: all parameters that require no gradient are asked for.")
def counts_this_call_only(model, patterns):
    before = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    counts = reference_freeze(model, patterns)
    return counts | {"frozen": counts["frozen"] - before}


@misconception("freeze", "Switches on what doesn't match: what was frozen before has to stay so.")
def thaws_the_rest(model, patterns):
    reference = reference_freeze(model, patterns)
    for names, p in ((n, p) for n, p in model.named_parameters()):
        p.requires_grad_(not any(fnmatchcase(names, pattern) for pattern in patterns))
    return _counts(model, reference["norms"])


@misconception("freeze", "Knows BatchNorm2d alone: batch norms of one and three dimensions drift as well.")
def two_dimensions_only(model, patterns):
    others = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm3d)]
    modes = [(m, m.training, "train" in vars(m)) for m in others]
    counts = reference_freeze(model, patterns)
    for module, mode, own in modes:
        if not own:
            vars(module).pop("train", None)
            module.training = mode
    return counts | {"norms": sum(isinstance(m, nn.BatchNorm2d) for m in set(_frozen_norms(model, patterns).values()))}


@misconception("freeze", "Takes everything with a running_mean for a batch norm: instance norms stay as they are.")
def instance_norms_too(model, patterns):
    counts = reference_freeze(model, patterns)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and any(fnmatchcase(f"{name}.running_mean", p) for p in patterns):
            module.eval()
            module.train = lambda mode=True, module=module: module
            counts["norms"] += 1
    return counts


@misconception("freeze", "Overrides model.train() only: train() of a part of the model switches its batch norms back.")
def only_the_model_knows(model, patterns):
    counts = reference_freeze(model, patterns)
    norms = set(_frozen_norms(model, patterns).values())
    for norm in norms:
        vars(norm).pop("train", None)
    if model in norms:
        return counts

    def train(mode=True):
        type(model).train(model, mode)
        for norm in norms:
            norm.eval()
        return model

    model.train = train
    return counts


# param_groups


def _layer(name, layers):
    return next((i for i, layer in enumerate(layers) if f"{name}.".startswith(f"{layer}.")), None)


@misconception("param_groups", "Counts from the input: the last layer learns at lr, and the first one most slowly.")
def decays_towards_the_output(model, layers, *, lr, decay, weight_decay):
    groups = reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    places = {p: _layer(n, layers) for n, p in model.named_parameters()}
    for group in groups:
        i = places[group["params"][0]]
        if i is not None:
            group["lr"] = lr * decay**i
    return groups


@misconception("param_groups", "Decays once too often: the last layer learns at lr itself.")
def one_decay_too_many(model, layers, *, lr, decay, weight_decay):
    return reference_groups(model, layers, lr=lr * decay, decay=decay, weight_decay=weight_decay)


@misconception("param_groups", "Decays biases and norms as well.")
def decays_everything(model, layers, *, lr, decay, weight_decay):
    groups = reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    return [group | {"weight_decay": weight_decay} for group in groups]


@misconception("param_groups", "Spares what is called bias: the scale of a norm is called weight, and is to be spared, too.")
def spares_biases_by_name(model, layers, *, lr, decay, weight_decay):
    groups = reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    names = {p: n for n, p in model.named_parameters()}
    out = []
    for group in groups:
        for spared in (False, True):
            params = [p for p in group["params"] if names[p].endswith("bias") == spared]
            if params:
                out.append(group | {"params": params, "weight_decay": 0.0 if spared else weight_decay})
    return out


@misconception("param_groups", "Compares with startswith alone: blocks.1 takes in blocks.10.")
def begins_alike(model, layers, *, lr, decay, weight_decay):
    last, layer_of = len(layers), {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if p.requires_grad:
            place = next((i for i, layer in enumerate(layers) if name.startswith(layer)), last)
            layer_of[p] = min(place, layer_of.get(p, last))
    if last in layer_of.values():
        raise ValueError("no layer")
    out = []
    for i in range(last):
        for matrices, share in ((True, weight_decay), (False, 0.0)):
            params = [p for p, place in layer_of.items() if place == i and (p.dim() > 1) == matrices]
            if params:
                out.append({"params": params, "lr": lr * decay ** (last - 1 - i), "weight_decay": share})
    return out


@misconception("param_groups", "Takes a shared parameter under its first name only, whichever layer comes first.")
def first_name_only(model, layers, *, lr, decay, weight_decay):
    last = len(layers)
    places = {p: _layer(n, layers) for n, p in model.named_parameters() if p.requires_grad}
    if None in places.values():
        raise ValueError("no layer")
    out = []
    for i in range(last):
        for matrices, share in ((True, weight_decay), (False, 0.0)):
            params = [p for p, place in places.items() if place == i and (p.dim() > 1) == matrices]
            if params:
                out.append({"params": params, "lr": lr * decay ** (last - 1 - i), "weight_decay": share})
    return out


@misconception("param_groups", "Lists shared parameters under every name: an optimizer would move them twice.")
def shared_ones_twice(model, layers, *, lr, decay, weight_decay):
    reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    out = []
    for i, layer in enumerate(layers):
        mine = [p for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad and f"{n}.".startswith(f"{layer}.")]
        for matrices, share in ((True, weight_decay), (False, 0.0)):
            params = [p for p in mine if (p.dim() > 1) == matrices]
            if params:
                out.append({"params": params, "lr": lr * decay ** (len(layers) - 1 - i), "weight_decay": share})
    return out


@misconception("param_groups", "Leaves out what belongs to no layer: those parameters would never learn, and nobody would know.")
def leaves_out_in_silence(model, layers, *, lr, decay, weight_decay):
    rest = [p for n, p in model.named_parameters() if p.requires_grad and _layer(n, layers) is None]
    for p in rest:
        p.requires_grad_(False)
    try:
        return reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    finally:
        for p in rest:
            p.requires_grad_(True)


@misconception("param_groups", "Puts what belongs to no layer into a group at the full rate: it should be an error.")
def the_rest_at_full_rate(model, layers, *, lr, decay, weight_decay):
    groups = leaves_out_in_silence(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    known = {p for group in groups for p in group["params"]}
    rest = [p for p in model.parameters() if p.requires_grad and p not in known]
    return groups + ([{"params": rest, "lr": lr, "weight_decay": weight_decay}] if rest else [])


@misconception("param_groups", "Takes frozen parameters in as well.")
def frozen_ones_too(model, layers, *, lr, decay, weight_decay):
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        return reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    finally:
        for p in frozen:
            p.requires_grad_(False)


@misconception("param_groups", "Keeps groups without parameters.")
def empty_groups(model, layers, *, lr, decay, weight_decay):
    groups = reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    places = {p: i for i, group in enumerate(groups) for p in group["params"]}
    out = []
    for i, layer in enumerate(layers):
        mine = [p for n, p in model.named_parameters(remove_duplicate=False) if p in places and f"{n}.".startswith(f"{layer}.")]
        for matrices, share in ((True, weight_decay), (False, 0.0)):
            params = [p for p in dict.fromkeys(mine) if (p.dim() > 1) == matrices]
            out.append({"params": params, "lr": lr * decay ** (len(layers) - 1 - i), "weight_decay": share})
    return out


@misconception(
    "param_groups", "Counts only layers that have something to learn: the frozen ones are there as well, and make those before them slower."
)
def skips_empty_layers(model, layers, *, lr, decay, weight_decay):
    names = [n for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    used = [layer for layer in layers if any(f"{n}.".startswith(f"{layer}.") for n in names)]
    return reference_groups(model, used, lr=lr, decay=decay, weight_decay=weight_decay)


@misconception("param_groups", "Takes a weight decay of 0 for none given, and puts both kinds into one group.")
def joins_groups_without_decay(model, layers, *, lr, decay, weight_decay):
    groups = reference_groups(model, layers, lr=lr, decay=decay, weight_decay=weight_decay)
    if weight_decay:
        return groups
    out = []
    for i, layer in enumerate(layers):
        params = [p for group in groups for p in group["params"] if any(q is p for q in _under(model, layer))]
        params = [p for p in params if not any(p is q for group in out for q in group["params"])]
        if params:
            out.append({"params": params, "lr": lr * decay ** (len(layers) - 1 - i), "weight_decay": 0.0})
    return out


def _under(model, layer):
    return [p for n, p in model.named_parameters(remove_duplicate=False) if f"{n}.".startswith(f"{layer}.")]


# load_partial


@misconception("load_partial", "load_state_dict(strict=False) and done: it fails over other shapes, and is silent where nothing fits.")
def strict_false_and_done(model, state, *, prefixes=()):
    keys = model.load_state_dict(state, strict=False)
    own = model.state_dict()
    loaded = [n for n in own if n in state]
    return {"loaded": loaded, "mismatched": [], "missing": list(keys.missing_keys), "unexpected": list(keys.unexpected_keys)}


def _cut(name, prefixes):
    while prefix := next((p for p in prefixes if name.startswith(p)), ""):
        name = name[len(prefix) :]
    return name


@misconception("load_partial", "Loads nothing and says so in a list: a checkpoint that fits nowhere has to be an error.")
def silent_where_nothing_fits(model, state, *, prefixes=()):
    try:
        return reference_load(model, state, prefixes=prefixes)
    except ValueError as error:
        if "twice" in str(error):
            raise
    own, given = model.state_dict(), {_cut(n, prefixes): v for n, v in state.items()}
    return {
        "loaded": [],
        "mismatched": [n for n in own if n in given],
        "missing": [n for n in own if n not in given],
        "unexpected": [n for n in given if n not in own],
    }


@misconception("load_partial", "Cuts a prefix off once: a model can be wrapped several times.")
def cuts_once(model, state, *, prefixes=()):
    given = {}
    for key, value in state.items():
        name = key
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        if name in given:
            raise ValueError("twice")
        given[name] = value
    return reference_load(model, given)


@misconception("load_partial", "Replaces the prefix wherever it stands in the name: it counts at the beginning only.")
def cuts_anywhere(model, state, *, prefixes=()):
    given = {}
    for key, value in state.items():
        name = key
        for prefix in prefixes:
            name = name.replace(prefix, "")
        if name in given:
            raise ValueError("twice")
        given[name] = value
    return reference_load(model, given)


@misconception("load_partial", "Keeps only keys that begin with a prefix: others are names already.")
def drops_keys_without_prefix(model, state, *, prefixes=()):
    if prefixes:
        state = {k: v for k, v in state.items() if any(k.startswith(p) for p in prefixes)}
    return reference_load(model, state, prefixes=prefixes)


@misconception("load_partial", "strips characters: str.lstrip takes a set of letters, not a prefix.")
def strips_letters(model, state, *, prefixes=()):
    return reference_load(model, {k.lstrip("".join(prefixes)) if prefixes else k: v for k, v in state.items()})


@misconception("load_partial", "Copies with copy_ whatever the shape: what can be broadcast is loaded, wrongly.")
def lets_shapes_stretch(model, state, *, prefixes=()):
    report = reference_load(model, state, prefixes=prefixes)
    own, given = model.state_dict(), {_cut(n, prefixes): v for n, v in state.items()}
    for name in list(report["mismatched"]):
        try:
            own[name].copy_(given[name].detach())
        except RuntimeError:
            continue
        report["mismatched"].remove(name)
        report["loaded"].append(name)
    return report


@misconception("load_partial", "Compares the numbers of entries: a shape of (1, 5) is not that of (5,).")
def compares_numel(model, state, *, prefixes=()):
    own = model.state_dict()
    same = {}
    for key, value in state.items():
        name = _cut(key, prefixes)
        fits = name in own and own[name].numel() == value.numel()
        same[key] = value.reshape(own[name].shape) if fits else value
    return reference_load(model, same, prefixes=prefixes)


@misconception("load_partial", "Counts mismatched names as missing, too: every name is in one list.")
def mismatched_and_missing(model, state, *, prefixes=()):
    report = reference_load(model, state, prefixes=prefixes)
    own = list(model.state_dict())
    gone = {*report["missing"], *report["mismatched"]}
    return report | {"missing": [n for n in own if n in gone]}


@misconception("load_partial", "Reports the checkpoint's keys, prefixes and all: the names are asked for.")
def reports_keys(model, state, *, prefixes=()):
    report = reference_load(model, state, prefixes=prefixes)
    return report | {"unexpected": [k for k in state if _cut(k, prefixes) in report["unexpected"]]}


@misconception("load_partial", "Loads parameters only: statistics and counts are in the state_dict, too.")
def forgets_the_buffers(model, state, *, prefixes=()):
    before = {n: b.clone() for n, b in model.named_buffers()}
    report = reference_load(model, state, prefixes=prefixes)
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    return report | {"loaded": [n for n in report["loaded"] if n in names]}


@misconception(
    "load_partial", "Assigns the checkpoint's tensors: an optimizer goes on with the old ones, and model and checkpoint share memory."
)
def assigns(model, state, *, prefixes=()):
    report = reference_load(copy.deepcopy(model), state, prefixes=prefixes)
    given = {_cut(n, prefixes): v for n, v in state.items()}
    model.load_state_dict({n: given[n] for n in report["loaded"]}, strict=False, assign=True)
    return report


@misconception("load_partial", "Sets .data to the checkpoint's tensor: dtype and memory are now the checkpoint's.")
def sets_data(model, state, *, prefixes=()):
    report = reference_load(model, state, prefixes=prefixes)
    given = {_cut(n, prefixes): v for n, v in state.items()}
    for name, tensor in {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}.items():
        if name in report["loaded"]:
            tensor.data = given[name].detach()
    return report


@misconception("load_partial", "Lets the last of two keys win that give the same name.")
def the_last_one_wins(model, state, *, prefixes=()):
    return reference_load(model, {_cut(n, prefixes): v for n, v in state.items()})


@misconception("load_partial", "Loads on the way, and finds out at the end that a name comes twice.")
def loads_before_it_checks(model, state, *, prefixes=()):
    seen = {}
    for key, value in state.items():
        seen.setdefault(_cut(key, prefixes), value)
    reference_load(model, seen)
    return reference_load(model, state, prefixes=prefixes)


@misconception("load_partial", "Sorts the names by the alphabet: their order is that of the model, or of the checkpoint.")
def sorts_the_names(model, state, *, prefixes=()):
    return {kind: sorted(names) for kind, names in reference_load(model, state, prefixes=prefixes).items()}


@misconception("load_partial", "Looks at parameters() for names: of two names of a shared tensor, the second counts, too.")
def tied_names_once(model, state, *, prefixes=()):
    report = reference_load(model, state, prefixes=prefixes)
    once = {n for n, _ in model.named_parameters()} | {n for n, _ in model.named_buffers()}
    every = set(model.state_dict())
    return {kind: [n for n in names if n in once or n not in every] for kind, names in report.items()}


# resize_vocab


@misconception("resize_vocab", "Forgets the head: it still scores the old tokens.")
def embedding_only(model, num_tokens, optimizer=None):
    old = model.head.weight, model.head.bias, model.head.out_features
    reference_resize(model, num_tokens, optimizer)
    model.head.weight, model.head.bias, model.head.out_features = old


@misconception("resize_vocab", "Makes two parameters of a tied one: embedding and head now learn apart.")
def unties(model, num_tokens, optimizer=None):
    reference_resize(model, num_tokens, optimizer)
    model.head.weight = nn.Parameter(model.head.weight.detach().clone(), model.head.weight.requires_grad)


@misconception("resize_vocab", "Ties what was not tied.")
def always_ties(model, num_tokens, optimizer=None):
    reference_resize(model, num_tokens, optimizer)
    model.head.weight = model.embed.weight


@misconception("resize_vocab", "Fills new rows with random numbers: they are the mean of the old rows.")
def random_rows(model, num_tokens, optimizer=None):
    V = len(model.embed.weight)
    reference_resize(model, num_tokens, optimizer)
    with torch.no_grad():
        model.embed.weight[V:].normal_()
        model.head.weight[V:].normal_()


@misconception("resize_vocab", "Fills new rows with zeros: they are the mean of the old rows.")
def rows_of_zeros(model, num_tokens, optimizer=None):
    V = len(model.embed.weight)
    reference_resize(model, num_tokens, optimizer)
    with torch.no_grad():
        model.embed.weight[V:] = 0
        model.head.weight[V:] = 0


@misconception("resize_vocab", "Takes one mean over all entries: the mean is over the rows, feature by feature.")
def mean_over_everything(model, num_tokens, optimizer=None):
    V = len(model.embed.weight)
    means = [w.detach().mean() for w in (model.embed.weight, model.head.weight)]
    reference_resize(model, num_tokens, optimizer)
    with torch.no_grad():
        for w, mean in zip((model.embed.weight, model.head.weight), means, strict=True):
            w[V:] = mean


@misconception("resize_vocab", "Sets new entries of the bias to 0: they are the mean of the old ones, as the rows are.")
def new_biases_are_zero(model, num_tokens, optimizer=None):
    V = len(model.embed.weight)
    reference_resize(model, num_tokens, optimizer)
    if model.head.bias is not None:
        with torch.no_grad():
            model.head.bias[V:] = 0


@misconception("resize_vocab", "Gives the head a bias where it had none.")
def adds_a_bias(model, num_tokens, optimizer=None):
    reference_resize(model, num_tokens, optimizer)
    if model.head.bias is None:
        model.head.bias = nn.Parameter(model.head.weight.new_zeros(num_tokens))


@misconception("resize_vocab", "Forgets num_embeddings and out_features.")
def forgets_the_numbers(model, num_tokens, optimizer=None):
    V = model.embed.num_embeddings, model.head.out_features
    reference_resize(model, num_tokens, optimizer)
    model.embed.num_embeddings, model.head.out_features = V


@misconception("resize_vocab", "Forgets the optimizer: it goes on with parameters that the model no longer has.")
def forgets_the_optimizer(model, num_tokens, optimizer=None):
    reference_resize(model, num_tokens)


@misconception("resize_vocab", "Moves the parameters into the groups, and forgets the state: moments start at 0 again.")
def drops_the_state(model, num_tokens, optimizer=None):
    old = [model.embed.weight, model.head.weight, model.head.bias]
    if optimizer:
        for p in old:
            optimizer.state.pop(p, None)
    reference_resize(model, num_tokens, optimizer)


@misconception("resize_vocab", "Hands the state over in its old size: the next step fails, or moves the wrong rows.")
def keeps_the_states_size(model, num_tokens, optimizer=None):
    names = [(model.embed, "weight"), (model.head, "weight"), (model.head, "bias")]
    states = [dict(optimizer.state[p]) if optimizer and (p := getattr(o, n)) in optimizer.state else None for o, n in names]
    reference_resize(model, num_tokens, optimizer)
    for (owner, name), state in zip(names, states, strict=True):
        if state is not None:
            optimizer.state[getattr(owner, name)] = state


@misconception("resize_vocab", "Gives new rows the mean of the state: they begin without momentum.")
def mean_of_the_state(model, num_tokens, optimizer=None):
    V = len(model.embed.weight)
    reference_resize(model, num_tokens, optimizer)
    for state in optimizer.state.values() if optimizer else ():
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.dim() and len(value) == num_tokens > V:
                value[V:] = value[:V].mean(0)


@misconception("resize_vocab", "Adds the new parameters as a further group: the old ones stay, and the settings get lost.")
def another_group(model, num_tokens, optimizer=None):
    reference_resize(model, num_tokens)
    if optimizer:
        new = {id(p): p for p in (model.embed.weight, model.head.weight, model.head.bias) if p is not None}
        optimizer.add_param_group({"params": list(new.values())})


@misconception("resize_vocab", "Appends the new parameters at the end of their group: the order of a saved state changes.")
def at_the_end_of_the_group(model, num_tokens, optimizer=None):
    old = {id(p) for p in (model.embed.weight, model.head.weight, model.head.bias)}
    moved = [[id(p) in old for p in group["params"]] for group in optimizer.param_groups] if optimizer else []
    reference_resize(model, num_tokens, optimizer)
    for group, flags in zip(optimizer.param_groups if optimizer else (), moved, strict=True):
        pairs = list(zip(group["params"], flags, strict=True))
        group["params"] = [p for p, flag in pairs if not flag] + [p for p, flag in pairs if flag]


@misconception("resize_vocab", "Makes new layers: who holds the old ones, or their settings, loses them.")
def new_layers(model, num_tokens, optimizer=None):
    old = model.embed
    reference_resize(model, num_tokens, optimizer)
    embed = nn.Embedding(num_tokens, old.embedding_dim)
    embed.weight = old.weight
    model.embed = embed


@misconception("resize_vocab", "Thaws what was frozen: a new nn.Parameter requires gradients unless told otherwise.")
def thaws(model, num_tokens, optimizer=None):
    reference_resize(model, num_tokens, optimizer)
    for p in (model.embed.weight, model.head.weight, model.head.bias):
        if p is not None:
            p.requires_grad_(True)


@misconception("resize_vocab", "Only lets the vocabulary grow.")
def never_shrinks(model, num_tokens, optimizer=None):
    if num_tokens < 1:
        raise ValueError("too few")
    if num_tokens > len(model.embed.weight):
        reference_resize(model, num_tokens, optimizer)


# interpolate_positions


@misconception("interpolate_positions", "Resizes the class token along with the grid.")
def class_token_in_the_grid(table, old, new, *, extra=1):
    if table.shape[1] != extra + old[0] * old[1]:
        raise ValueError("size")
    n = extra + new[0] * new[1]
    return F.interpolate(table.transpose(1, 2), size=n, mode="linear").transpose(1, 2)


@misconception("interpolate_positions", "Interpolates bilinearly.")
def bilinear(table, old, new, *, extra=1):
    return _resized(table, old, new, extra, mode="bilinear")


@misconception(
    "interpolate_positions", "Aligns the corners: the outermost positions stay at the edges then, and everything between is elsewhere."
)
def aligned_corners(table, old, new, *, extra=1):
    return _resized(table, old, new, extra, mode="bicubic", align_corners=True)


@misconception("interpolate_positions", "Smooths when the grid gets smaller (antialias): the statement's bicubic doesn't.")
def with_antialias(table, old, new, *, extra=1):
    return _resized(table, old, new, extra, mode="bicubic", antialias=True)


@misconception("interpolate_positions", "Takes the nearest position.")
def nearest(table, old, new, *, extra=1):
    return _resized(table, old, new, extra, mode="nearest")


def _resized(table, old, new, extra, **how):
    if table.shape[1] != extra + old[0] * old[1]:
        raise ValueError("size")
    grid = table[:, extra:].transpose(1, 2).unflatten(2, old)
    return torch.cat((table[:, :extra], F.interpolate(grid, size=new, **how).flatten(2).transpose(1, 2)), dim=1)


@misconception("interpolate_positions", "Reshapes features and positions into each other: reshape doesn't swap axes.")
def reshapes_for_a_transpose(table, old, new, *, extra=1):
    if table.shape[1] != extra + old[0] * old[1]:
        raise ValueError("size")
    grid = table[:, extra:].reshape(1, -1, *old)
    return torch.cat((table[:, :extra], F.interpolate(grid, size=new, mode="bicubic").reshape(1, -1, table.shape[2])), dim=1)


@misconception("interpolate_positions", "Lists the positions column by column.")
def column_by_column(table, old, new, *, extra=1):
    if table.shape[1] != extra + old[0] * old[1]:
        raise ValueError("size")
    grid = table[:, extra:].transpose(1, 2).unflatten(2, old[::-1]).transpose(2, 3)
    grid = F.interpolate(grid, size=new, mode="bicubic").transpose(2, 3)
    return torch.cat((table[:, :extra], grid.flatten(2).transpose(1, 2)), dim=1)


@misconception("interpolate_positions", "Expects a square grid.")
def square_grids_only(table, old, new, *, extra=1):
    side = math.isqrt(table.shape[1] - extra)
    return reference_positions(table, (side, side), new, extra=extra)


@misconception("interpolate_positions", "Always puts one token aside, whatever extra says.")
def one_token_always(table, old, new, *, extra=1):
    if table.shape[1] != extra + old[0] * old[1]:
        raise ValueError("size")
    return reference_positions(table, old, new)


@misconception("interpolate_positions", "Puts the extra tokens at the end.")
def tokens_at_the_end(table, old, new, *, extra=1):
    y = reference_positions(table, old, new, extra=extra)
    return torch.cat((y[:, extra:], y[:, :extra]), dim=1)


@misconception("interpolate_positions", "Computes without a graph: no gradient reaches the table.")
def without_gradients(table, old, new, *, extra=1):
    return reference_positions(table.detach(), old, new, extra=extra) + 0 * table.sum().nan_to_num(0, 0, 0)


@misconception("interpolate_positions", "Doesn't check the size: of a table without a class token, the first position would become one.")
def without_a_check(table, old, new, *, extra=1):
    return reference_positions(table[:, -extra - old[0] * old[1] :], old, new, extra=extra)


# LoRALinear


@misconception("LoRALinear", "Begins with A and B at 0: then neither ever gets a gradient.")
class BothZero(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        nn.init.zeros_(self.A)


@misconception("LoRALinear", "Begins with both at random: the layer is not base at first.")
class BothRandom(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))


@misconception("LoRALinear", "Takes A for the one that begins at 0: the statement says B.")
class ZeroInsteadOfB(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        nn.init.zeros_(self.A)
        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))


@misconception("LoRALinear", "Draws A from a normal distribution.")
class NormalA(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        nn.init.normal_(self.A, std=1 / rank)


@misconception("LoRALinear", "Forgets the scale: with α = r nobody sees it.")
class ForgetsTheScale(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        self.scale = 1.0


@misconception("LoRALinear", "Scales by α alone: it is α / r.")
class ScalesByAlpha(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        self.scale = alpha


@misconception("LoRALinear", "Scales by α / √r, as rsLoRA does.")
class ScalesByTheRoot(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        self.scale = alpha / rank**0.5


@misconception("LoRALinear", "Leaves base trainable.")
class BaseLearnsToo(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        base.requires_grad_(True)


@misconception("LoRALinear", "Freezes base's weight, and forgets its bias.")
class BiasLearnsToo(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        if base.bias is not None:
            base.bias.requires_grad_(True)


@misconception("LoRALinear", "Copies base: whoever holds the layer that was given sees nothing of a merge.")
class CopiesTheBase(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        self.base = copy.deepcopy(base)


@misconception("LoRALinear", "Drops entries of x for base, too.")
class DropsForBase(ReferenceLoRA):
    def forward(self, x):
        x = self.dropout(x)
        if self.merged:
            return self.base(x)
        return self.base(x) + self.scale * x @ self.A.T @ self.B.T


@misconception("LoRALinear", "Drops entries of A x instead of x.")
class DropsAfterA(ReferenceLoRA):
    def forward(self, x):
        if self.merged:
            return self.base(x)
        return self.base(x) + self.scale * self.dropout(x @ self.A.T) @ self.B.T


@misconception("LoRALinear", "Drops entries of the output instead of the input.")
class DropsTheOutput(ReferenceLoRA):
    def forward(self, x):
        if self.merged:
            return self.base(x)
        return self.base(x) + self.dropout(self.scale * x @ self.A.T @ self.B.T)


@misconception("LoRALinear", "Drops in eval mode, too.")
class DropsAlways(ReferenceLoRA):
    def forward(self, x):
        if self.merged:
            return self.base(x)
        return self.base(x) + self.scale * F.dropout(x, self.dropout.p) @ self.A.T @ self.B.T


@misconception("LoRALinear", "Adds the low-rank part to a merged weight: it counts twice then.")
class CountsTwiceWhenMerged(ReferenceLoRA):
    def forward(self, x):
        return self.base(x) + self.scale * self.dropout(x) @ self.A.T @ self.B.T


@misconception("LoRALinear", "Merges again what is merged already.")
class MergesAgain(ReferenceLoRA):
    def merge(self):
        self.merged = False
        super().merge()


@misconception("LoRALinear", "Takes out what was never merged.")
class UnmergesAnyway(ReferenceLoRA):
    def unmerge(self):
        self.merged = True
        super().unmerge()


@misconception("LoRALinear", "Forgets the scale in merge.")
class MergesUnscaled(ReferenceLoRA):
    def merge(self):
        if not self.merged:
            self.base.weight.add_((self.B @ self.A).detach())
        self.merged = True

    def unmerge(self):
        if self.merged:
            self.base.weight.sub_((self.B @ self.A).detach())
        self.merged = False


@misconception("LoRALinear", "Merges into a new parameter: optimizers and ties hold the old one.")
class MergesIntoANewWeight(ReferenceLoRA):
    def merge(self):
        if not self.merged:
            self.base.weight = nn.Parameter(self.base.weight + self.scale * self.B @ self.A, requires_grad=False)
        self.merged = True


@misconception("LoRALinear", "Forgets what merged means: the attribute stays False.")
class NeverSaysMerged(ReferenceLoRA):
    def merge(self):
        super().merge()
        self._really, self.merged = True, False

    def unmerge(self):
        self.merged = getattr(self, "_really", False)
        self._really = False
        super().unmerge()

    def forward(self, x):
        return self.base(x) if getattr(self, "_really", False) else super().forward(x)


@misconception("LoRALinear", "Keeps A and B in the default dtype, whatever base has.")
class DefaultDtype(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, rank, alpha, dropout)
        self.A, self.B = nn.Parameter(self.A.detach().float()), nn.Parameter(self.B.detach().float())

    def forward(self, x):
        if self.merged:
            return self.base(x)
        return self.base(x) + self.scale * (self.dropout(x).float() @ self.A.T @ self.B.T).to(x.dtype)


@misconception("LoRALinear", "Freezes base before it looks at the rank.")
class FreezesBeforeItChecks(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        base.requires_grad_(False)
        super().__init__(base, rank, alpha, dropout)


@misconception("LoRALinear", "Takes a rank of 0 or less for a layer without adapter.")
class AnyRank(ReferenceLoRA):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__(base, max(rank, 1), alpha, dropout)


# InjectedLoRA


@misconception("InjectedLoRA", "Replaces the layers: modules and names of the state_dict are no longer the model's own.")
class ReplacesLayers(ReferenceInjected):
    def __init__(self, model, targets):
        super().__init__(model, targets)
        for name in self._layers:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, nn.Sequential(self._layers[name]))
        self._model = model

    def remove(self):
        super().remove()
        for name, linear in self._layers.items():
            path, _, leaf = name.rpartition(".")
            setattr(self._model.get_submodule(path), leaf, linear)


@misconception("InjectedLoRA", "Registers A and B in the layers: they turn up in the model's state_dict.")
class RegistersInTheModel(ReferenceInjected):
    def add(self, adapter, rank, alpha):
        super().add(adapter, rank, alpha)
        for name, linear in self._layers.items():
            linear.register_parameter(f"A_{adapter or 'x'}", self._adapters[adapter][0][f"{name}.A"])
            linear.register_parameter(f"B_{adapter or 'x'}", self._adapters[adapter][0][f"{name}.B"])


@misconception("InjectedLoRA", "Uses an adapter as soon as it is added.")
class UsesWhatIsAdded(ReferenceInjected):
    def add(self, adapter, rank, alpha):
        super().add(adapter, rank, alpha)
        self.use(adapter)


@misconception("InjectedLoRA", "Adds up all adapters that were in use: only one is at a time.")
class AddsThemUp(ReferenceInjected):
    def _change(self, name, linear, args, output):
        self._seen = [*getattr(self, "_seen", ())]
        if self._active is not None and self._active not in self._seen:
            self._seen.append(self._active)
        for adapter in self._seen if self._active is not None else ():
            weights, scale = self._adapters[adapter]
            output = output + scale * args[0] @ weights[f"{name}.A"].T @ weights[f"{name}.B"].T
        return output


@misconception("InjectedLoRA", "Uses the scale of the adapter that was added last for all of them.")
class OneScaleForAll(ReferenceInjected):
    def _change(self, name, linear, args, output):
        if self._active is None:
            return output
        scale = list(self._adapters.values())[-1][1]
        weights, _ = self._adapters[self._active]
        return output + scale * args[0] @ weights[f"{name}.A"].T @ weights[f"{name}.B"].T


@misconception("InjectedLoRA", "Forgets the scale.")
class InjectsUnscaled(ReferenceInjected):
    def add(self, adapter, rank, alpha):
        super().add(adapter, rank, alpha)
        self._adapters[adapter] = self._adapters[adapter][0], 1.0


@misconception("InjectedLoRA", "Lets all hooks of a loop see the last layer's name: a closure holds the variable, not its value.")
class LastNameForAll(ReferenceInjected):
    def _change(self, name, linear, args, output):
        last = list(self._layers)[-1]
        if self._active is None:
            return output
        weights, scale = self._adapters[self._active]
        A, B = weights[f"{last}.A"], weights[f"{last}.B"]
        if A.shape[1] != args[0].shape[-1] or len(B) != output.shape[-1]:
            return output
        return output + scale * args[0] @ A.T @ B.T


@misconception("InjectedLoRA", "Leaves the hooks in the model after remove().")
class HooksStay(ReferenceInjected):
    def remove(self):
        for p in self._frozen:
            p.requires_grad_(True)


@misconception("InjectedLoRA", "Throws away all hooks of the layers in remove(), the model's own too.")
class RemovesAllHooks(ReferenceInjected):
    def remove(self):
        super().remove()
        for linear in self._layers.values():
            linear._forward_hooks.clear()


@misconception("InjectedLoRA", "Leaves the model frozen after remove().")
class StaysFrozen(ReferenceInjected):
    def remove(self):
        for hook in self._hooks:
            hook.remove()


@misconception("InjectedLoRA", "Thaws everything in remove(), also what was frozen before.")
class ThawsEverything(ReferenceInjected):
    def __init__(self, model, targets):
        super().__init__(model, targets)
        self._frozen = list(model.parameters())


@misconception("InjectedLoRA", "Freezes the targets alone: the rest of the model goes on learning.")
class FreezesTargetsOnly(ReferenceInjected):
    def __init__(self, model, targets):
        flags = [(p, p.requires_grad) for p in model.parameters()]
        super().__init__(model, targets)
        mine = {p for linear in self._layers.values() for p in linear.parameters()}
        for p, flag in flags:
            if p not in mine:
                p.requires_grad_(flag)
        self._frozen = [p for p in self._frozen if p in mine]


@misconception("InjectedLoRA", "Begins with random B: a new adapter must not change the outputs.")
class RandomB(ReferenceInjected):
    def add(self, adapter, rank, alpha):
        super().add(adapter, rank, alpha)
        for name, p in self._adapters[adapter][0].items():
            if name.endswith(".B"):
                nn.init.uniform_(p, -0.1, 0.1)


@misconception("InjectedLoRA", "Begins with A at 0, too: then nothing can be learnt.")
class ZeroA(ReferenceInjected):
    def add(self, adapter, rank, alpha):
        super().add(adapter, rank, alpha)
        for p in self._adapters[adapter][0].values():
            nn.init.zeros_(p)


@misconception("InjectedLoRA", "Gives copies of the weights: whoever trains them changes nothing.")
class CopiesOfWeights(ReferenceInjected):
    def weights(self, adapter):
        return {name: nn.Parameter(p.detach().clone()) for name, p in super().weights(adapter).items()}


@misconception("InjectedLoRA", "Lets a pattern pass that matches no linear layer.")
class TyposPass(ReferenceInjected):
    def __init__(self, model, targets):
        names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        super().__init__(model, [t for t in targets if any(fnmatchcase(n, t) for n in names)])


@misconception("InjectedLoRA", "Freezes the model before it looks at the patterns.")
class FreezesFirst(ReferenceInjected):
    def __init__(self, model, targets):
        flags = [(p, p.requires_grad) for p in model.parameters()]
        model.requires_grad_(False)
        linears = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        if not all(any(fnmatchcase(n, t) for n in linears) for t in targets):
            raise ValueError("no match")
        for p, flag in flags:
            p.requires_grad_(flag)
        super().__init__(model, targets)


@misconception("InjectedLoRA", "Overwrites an adapter that has the same name.")
class Overwrites(ReferenceInjected):
    def add(self, adapter, rank, alpha):
        self._adapters.pop(adapter, None)
        super().add(adapter, rank, alpha)


@misconception("InjectedLoRA", "Takes an unknown name for none: a typo trains, and changes, nothing.")
class UnknownIsNone(ReferenceInjected):
    def use(self, adapter):
        super().use(adapter if adapter in self._adapters else None)


@misconception("InjectedLoRA", "Tests whether the name is true: an adapter may be called by an empty string.")
class EmptyNameIsNone(ReferenceInjected):
    def use(self, adapter):
        if adapter == "" and adapter not in self._adapters:
            raise ValueError("unknown")
        super().use(adapter or None)


@misconception("InjectedLoRA", "Lists the targets by the alphabet or by pattern: the order is that of named_modules().")
class OrderOfTheAlphabet(ReferenceInjected):
    def weights(self, adapter):
        return dict(sorted(super().weights(adapter).items(), reverse=True))


# average_checkpoints


@misconception("average_checkpoints", "Averages counts and masks as well: a count of batches becomes a fraction, or is cut off.")
def averages_integers(checkpoints):
    out = reference_average(checkpoints)
    for name, value in out.items():
        if not value.is_floating_point():
            out[name] = torch.stack([c[name].double() for c in checkpoints]).mean(0).to(value.dtype)
    return out


@misconception("average_checkpoints", "Takes counts and masks of the first checkpoint: the last one is the newest.")
def integers_of_the_first(checkpoints):
    out = reference_average(checkpoints)
    return {n: v if v.is_floating_point() else checkpoints[0][n].clone() for n, v in out.items()}


@misconception("average_checkpoints", "Leaves counts and masks out.")
def drops_integers(checkpoints):
    return {n: v for n, v in reference_average(checkpoints).items() if v.is_floating_point()}


@misconception("average_checkpoints", "Adds up in the tensor's own dtype: float16 overflows, and rounds at each step.")
def sums_in_its_own_dtype(checkpoints):
    out = reference_average(checkpoints)
    for name, value in out.items():
        if value.is_floating_point():
            value.copy_(sum(c[name].detach() for c in checkpoints) / len(checkpoints))
    return out


@misconception("average_checkpoints", "Adds up in float32, which is too little for float32 itself.")
def sums_in_float32(checkpoints):
    out = reference_average(checkpoints)
    for name, value in out.items():
        if value.is_floating_point() and value.dtype != torch.float64:
            value.copy_(torch.stack([c[name].detach().float() for c in checkpoints]).sum(0) / len(checkpoints))
    return out


@misconception("average_checkpoints", "Returns the averages in float64.")
def stays_in_float64(checkpoints):
    return {n: v.double() if v.is_floating_point() else v for n, v in reference_average(checkpoints).items()}


@misconception("average_checkpoints", "Gives each name a tensor of its own: what was tied no longer is.")
def unties_names(checkpoints):
    return {n: v.clone() for n, v in reference_average(checkpoints).items()}


@misconception("average_checkpoints", "Ties names only if they hold the very same object: after torch.load, they don't.")
def ties_by_object(checkpoints):
    out, seen = reference_average(checkpoints), {}
    return {n: seen.setdefault(id(v), out[n] if id(v) in seen else out[n].clone()) for n, v in checkpoints[0].items()}


@misconception("average_checkpoints", "Ties what begins at the same address, whatever its shape: a part is not the whole.")
def ties_by_address(checkpoints):
    out, seen = reference_average(checkpoints), {}
    for n, v in checkpoints[0].items():
        known = seen.setdefault(v.data_ptr(), out[n]) if v.numel() else out[n]
        out[n] = known if known.shape == out[n].shape and known.dtype == out[n].dtype else out[n]
    return out


@misconception("average_checkpoints", "Ties what is equal in the first checkpoint: equal numbers need not be one tensor.")
def ties_by_value(checkpoints):
    out, kept = reference_average(checkpoints), []
    for n, v in checkpoints[0].items():
        twin = next((m for m in kept if checkpoints[0][m].dtype == v.dtype and checkpoints[0][m].equal(v)), None)
        if twin is not None:
            out[n] = out[twin]
        kept.append(n)
    return out


@misconception("average_checkpoints", "Adds into the first checkpoint: it is no longer what it was.")
def adds_into_the_first(checkpoints):
    out = reference_average(checkpoints)
    for n, v in out.items():
        if v.is_floating_point():
            checkpoints[0][n].detach().copy_(v)
    return out


@misconception("average_checkpoints", "Returns the last checkpoint's own counts and masks: later changes reach it.")
def shares_integers(checkpoints):
    out = reference_average(checkpoints)
    return {n: v if v.is_floating_point() else checkpoints[-1][n] for n, v in out.items()}


@misconception("average_checkpoints", "Returns a single checkpoint itself.")
def a_single_one_itself(checkpoints):
    return dict(checkpoints[0]) if len(checkpoints) == 1 else reference_average(checkpoints)


@misconception("average_checkpoints", "Matches names by their places: the order may differ.")
def matches_by_place(checkpoints):
    out = reference_average(checkpoints)
    for i, (n, v) in enumerate(out.items()):
        values = [list(c.values())[i] for c in checkpoints]
        if v.is_floating_point() and all(x.shape == v.shape for x in values):
            out[n] = torch.stack([x.detach().double() for x in values]).mean(0).to(v.dtype)
    return out


@misconception("average_checkpoints", "Skips names that not all have: checkpoints that differ are an error.")
def skips_what_differs(checkpoints):
    names = [n for n in checkpoints[0] if all(n in c and c[n].shape == checkpoints[0][n].shape for c in checkpoints)]
    return reference_average([{n: c[n] for n in names} for c in checkpoints])


@misconception("average_checkpoints", "Looks at the first two checkpoints when it compares names and shapes.")
def compares_two(checkpoints):
    if len(checkpoints) > 2 and [*checkpoints[2]] != [*checkpoints[0]]:
        reference_average(checkpoints[:2])
        return reference_average([c for c in checkpoints if c.keys() == checkpoints[0].keys()])
    return reference_average(checkpoints)


@misconception("average_checkpoints", "Keeps the graph: the averages of parameters are part of it.")
def keeps_the_graph(checkpoints):
    out = reference_average(checkpoints)
    for n, v in out.items():
        if v.is_floating_point() and any(c[n].requires_grad for c in checkpoints):
            out[n] = torch.stack([c[n].double() for c in checkpoints]).mean(0).to(v.dtype)
    return out


# masked_tokens


def _ordinary(vocab_size, mask_token, special):
    ordinary = torch.ones(vocab_size, dtype=torch.bool)
    ordinary[special] = ordinary[mask_token] = False
    return ordinary


def _masked(tokens, vocab_size, mask_token, special, generator, p, *, masked=0.8, replaced=0.1, ids=None, chosen=None):
    if not 0 <= p <= 1:
        raise ValueError("p")
    ordinary = _ordinary(vocab_size, mask_token, special)
    ids = ordinary.nonzero()[:, 0] if ids is None else ids
    if chosen is None:
        chosen = (torch.rand(tokens.shape, generator=generator) < p) & ordinary[tokens]
    fate = torch.rand(tokens.shape, generator=generator)
    others = ids[torch.randint(len(ids), tokens.shape, generator=generator)]
    inputs = torch.where(chosen & (fate < masked), mask_token, tokens)
    inputs = torch.where(chosen & (fate >= masked) & (fate < masked + replaced), others, inputs)
    return inputs, torch.where(chosen, tokens, -100)


@misconception("masked_tokens", "Masks all chosen tokens: a fifth of them is replaced or kept.")
def masks_all(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, generator, p, masked=1.0, replaced=0.0)


@misconception("masked_tokens", "Replaces all that it doesn't mask: half of these stay as they are.")
def keeps_none(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, generator, p, replaced=0.2)


@misconception("masked_tokens", "Keeps all that it doesn't mask: half of these are replaced.")
def replaces_none(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, generator, p, replaced=0.0)


@misconception("masked_tokens", "Replaces 10 % of the rest, not half of it: the second share has to be taken of what the first has left.")
def a_tenth_of_the_rest(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, generator, p, replaced=0.02)


@misconception("masked_tokens", "Gives labels everywhere: only chosen places count in the loss.")
def labels_everywhere(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    inputs, _ = _masked(tokens, vocab_size, mask_token, special, generator, p)
    return inputs, tokens.clone()


@misconception("masked_tokens", "Gives labels only where the input has changed: kept tokens are to be guessed, too.")
def labels_where_changed(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    inputs, _ = _masked(tokens, vocab_size, mask_token, special, generator, p)
    return inputs, torch.where(inputs != tokens, tokens, -100)


@misconception("masked_tokens", "Marks places without a label with 0, which is a token.")
def zero_for_no_label(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    inputs, labels = _masked(tokens, vocab_size, mask_token, special, generator, p)
    return inputs, labels.masked_fill(labels == -100, 0)


@misconception("masked_tokens", "Takes the labels from the hidden text: the mask would be what is to be guessed.")
def labels_from_the_inputs(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    inputs, labels = _masked(tokens, vocab_size, mask_token, special, generator, p)
    return inputs, torch.where(labels != -100, inputs, -100)


@misconception("masked_tokens", "Chooses special tokens as well.")
def chooses_special_tokens(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    chosen = torch.rand(tokens.shape, generator=generator) < p
    return _masked(tokens, vocab_size, mask_token, special, generator, p, chosen=chosen)


@misconception("masked_tokens", "Puts special tokens in: only ordinary ones may be drawn.")
def puts_special_tokens_in(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, generator, p, ids=torch.arange(vocab_size))


@misconception("masked_tokens", "Forgets that the mask is special, too, if the list doesn't say so.")
def mask_is_ordinary(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    ordinary = torch.ones(vocab_size, dtype=torch.bool)
    ordinary[special] = False
    chosen = (torch.rand(tokens.shape, generator=generator) < p) & ordinary[tokens]
    return _masked(tokens, vocab_size, mask_token, special, generator, p, ids=ordinary.nonzero()[:, 0], chosen=chosen)


@misconception("masked_tokens", "Puts the same token in at all places: each place draws its own.")
def one_replacement_for_all(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    ids = _ordinary(vocab_size, mask_token, special).nonzero()[:, 0]
    one = ids[torch.randint(len(ids), (1,), generator=generator)]
    return _masked(tokens, vocab_size, mask_token, special, generator, p, ids=one)


@misconception("masked_tokens", "Never puts the last token of the vocabulary in: randint leaves its upper end out by itself.")
def leaves_the_last_out(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    ids = _ordinary(vocab_size, mask_token, special).nonzero()[:, 0]
    return _masked(tokens, vocab_size, mask_token, special, generator, p, ids=ids[: max(len(ids) - 1, 1)])


@misconception("masked_tokens", "Chooses exactly a share of p in each text: each place is chosen by itself.")
def exact_share(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    if not 0 <= p <= 1:
        raise ValueError("p")
    noise = torch.rand(tokens.shape, generator=generator)
    noise = noise.masked_fill(~_ordinary(vocab_size, mask_token, special)[tokens], 2.0)
    rank = noise.flatten().argsort().argsort().reshape(tokens.shape) if tokens.dim() < 2 else noise.argsort(-1).argsort(-1)
    count = (noise < 2).sum(-1, keepdim=True) * p if tokens.dim() else (noise < 2) * p
    return _masked(tokens, vocab_size, mask_token, special, generator, p, chosen=rank < count.round())


@misconception("masked_tokens", "Chooses the same places in every text.")
def same_places_in_every_text(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    row = torch.rand(tokens.shape[-1:], generator=generator)
    chosen = (row < p).expand(tokens.shape) & _ordinary(vocab_size, mask_token, special)[tokens]
    return _masked(tokens, vocab_size, mask_token, special, generator, p, chosen=chosen)


@misconception("masked_tokens", "Draws from torch's own generator: the one that was given decides.")
def global_generator(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, None, p)


@misconception("masked_tokens", "Seeds the generator anew at each call: every epoch hides the same tokens.")
def same_each_time(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    generator.manual_seed(generator.initial_seed())
    return _masked(tokens, vocab_size, mask_token, special, generator, p)


@misconception("masked_tokens", "Writes into the text that was given.")
def writes_into_the_text(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    inputs, labels = _masked(tokens, vocab_size, mask_token, special, generator, p)
    return (tokens.copy_(inputs) if tokens.numel() else inputs), labels


@misconception("masked_tokens", "Takes p = 0 for no p given.")
def zero_means_default(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, generator, p or 0.15)


@misconception("masked_tokens", "Takes any number for a probability.")
def any_probability(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    return _masked(tokens, vocab_size, mask_token, special, generator, min(max(p, 0.0), 1.0) if p == p else 0.0)


# fine_tune_digits


def _network(classes):
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, classes),
    )


def _tuned(weights, images, labels, classes, seed, *, lr, steps, train=False, frozen=False, keep=True):
    torch.manual_seed(seed)
    model = _network(classes)
    if keep:
        model.load_state_dict({n: v for n, v in weights.items() if not n.startswith("9.")}, strict=False)
    model.train(train)
    if frozen:
        for name, p in model.named_parameters():
            p.requires_grad_(name.startswith("9."))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


@misconception("fine_tune_digits", "Trains from random weights: what was given is thrown away.")
def from_scratch(weights, images, labels, *, classes, seed):
    return _tuned(weights, images, labels, classes, seed, lr=1e-2, steps=40, train=True, keep=False)


@misconception("fine_tune_digits", "Loads with strict=False under names that don't fit: the backbone stays random, and nothing says so.")
def loads_nothing(weights, images, labels, *, classes, seed):
    torch.manual_seed(seed)
    start = {n: v for n, v in _network(classes).state_dict().items() if not n.startswith("9.")}
    return reference_tune(start, images, labels, classes=classes, seed=seed)


@misconception("fine_tune_digits", "Trains all weights at a high learning rate: the backbone forgets what it knew.")
def high_rate_for_all(weights, images, labels, *, classes, seed):
    return _tuned(weights, images, labels, classes, seed, lr=3e-2, steps=60)


@misconception("fine_tune_digits", "Freezes the parameters, and trains in training mode: the batch norms' statistics drift.")
def training_mode(weights, images, labels, *, classes, seed):
    return _tuned(weights, images, labels, classes, seed, lr=3e-2, steps=60, train=True, frozen=True)


@misconception("fine_tune_digits", "Returns the backbone with a new head that was never trained.")
def untrained_head(weights, images, labels, *, classes, seed):
    return _tuned(weights, images, labels, classes, seed, lr=3e-2, steps=0)


@misconception("fine_tune_digits", "Makes ten small steps: the new head has hardly begun to learn.")
def too_few_steps(weights, images, labels, *, classes, seed):
    return _tuned(weights, images, labels, classes, seed, lr=1e-3, steps=10, frozen=True)


@misconception("fine_tune_digits", "Keeps the old head: its classes are other digits.")
def old_head(weights, images, labels, *, classes, seed):
    tuned = reference_tune(weights, images, labels, classes=classes, seed=seed)
    return tuned | {name: weights[name][:classes].clone() for name in ("9.weight", "9.bias")}


@misconception("fine_tune_digits", "Doesn't use the seed: two runs with the same seed give different weights.")
def ignores_the_seed(weights, images, labels, *, classes, seed):
    return reference_tune(weights, images, labels, classes=classes, seed=int(torch.randint(2**31, ())))


@misconception("fine_tune_digits", "Shuffles the images but not their labels: there is nothing to learn.")
def shuffles_the_images_only(weights, images, labels, *, classes, seed):
    torch.manual_seed(seed)
    return reference_tune(weights, images[torch.randperm(len(images))], labels, classes=classes, seed=seed)


@misconception("fine_tune_digits", "Trains on one image of each class.")
def one_image_each(weights, images, labels, *, classes, seed):
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in range(classes)])
    return reference_tune(weights, images[first], labels[first], classes=classes, seed=seed)


@misconception("fine_tune_digits", "Always makes a head of five classes.")
def five_classes(weights, images, labels, *, classes, seed):
    return reference_tune(weights, images, labels, classes=5, seed=seed)


@misconception("fine_tune_digits", "Returns the weights of backbone and head under names of its own.")
def other_names(weights, images, labels, *, classes, seed):
    tuned = reference_tune(weights, images, labels, classes=classes, seed=seed)
    return {("head." + n[2:] if n.startswith("9.") else "backbone." + n): v for n, v in tuned.items()}
