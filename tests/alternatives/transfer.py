"""Other correct answers to the tasks of transfer: the hidden suite must accept every one."""

import fnmatch
import math
import re

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# freeze


@alternative("freeze")
def module_by_module(model, patterns):
    """Walks over the modules, as most training scripts do, with regular expressions made of the patterns."""
    rules = [re.compile(fnmatch.translate(pattern)) for pattern in patterns]
    used, matched, norms = set(), [], []

    def hit(name):
        found = {i for i, rule in enumerate(rules) if rule.match(name)}
        used.update(found)
        return bool(found)

    for path, module in model.named_modules(remove_duplicate=False):
        prefix = path + "." if path else ""
        for key, p in module.named_parameters(recurse=False):
            if hit(prefix + key):
                matched.append(p)
        for key, _ in module.named_buffers(recurse=False):
            if hit(prefix + key) and key == "running_mean" and isinstance(module, nn.modules.batchnorm._BatchNorm):
                norms.append(module)
    if len(used) < len(rules):
        raise ValueError(f"no match for {[p for i, p in enumerate(patterns) if i not in used]}")
    for p in matched:
        p.requires_grad = False
        p.grad = None
    for norm in norms:
        norm.eval()
        norm.train = lambda mode=True, norm=norm: norm
    counts = {True: 0, False: 0}
    for p in model.parameters():
        counts[p.requires_grad] += p.nelement()
    return {"frozen": counts[False], "trainable": counts[True], "norms": len({id(norm) for norm in norms})}


class _Frozen:
    """Put before a batch norm's class."""

    def train(self, mode=True):
        return super().train(False)


@alternative("freeze")
def another_class(model, patterns):
    """Gives the batch norms a subclass whose train does nothing."""
    names = dict(list(model.named_parameters(remove_duplicate=False)) + list(model.named_buffers(remove_duplicate=False)))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(n, pattern) for n in names):
            raise ValueError(pattern)
    hits = [n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)]
    norms = {}
    for name in hits:
        tensor = names[name]
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(False)
            tensor.grad = None
        *path, leaf = name.split(".")
        owner = model
        for part in path:
            owner = getattr(owner, part)
        if leaf == "running_mean" and isinstance(owner, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            norms[id(owner)] = owner
    for norm in norms.values():
        if not isinstance(norm, _Frozen):
            norm.__class__ = type("Frozen" + type(norm).__name__, (_Frozen, type(norm)), {})
        norm.train(False)
    sizes = [(p.requires_grad, p.numel()) for p in set(model.parameters())]
    return {"frozen": sum(n for f, n in sizes if not f), "trainable": sum(n for f, n in sizes if f), "norms": len(norms)}


# param_groups


@alternative("param_groups")
def groups_by_key(model, layers, *, lr, decay, weight_decay):
    """As in BEiT: a dict of groups by layer and kind, and a list of scales."""
    scales = [1.0]
    for _ in range(len(layers) - 1):
        scales.insert(0, scales[0] * decay)

    def layer_id(name):
        for i, layer in enumerate(layers):
            if name == layer or name.startswith(layer + "."):
                return i
        return math.inf

    names = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), (p, []))[1].append(name)
    groups = {}
    for p, known in names.values():
        if not p.requires_grad:
            continue
        i = min(layer_id(name) for name in known)
        if i == math.inf:
            raise ValueError(f"{known} in no layer")
        plain = p.ndim <= 1
        group = groups.setdefault((i, plain), {"lr": lr * scales[i], "weight_decay": 0.0 if plain else weight_decay, "params": []})
        group["params"].append(p)
    return [groups[key] for key in sorted(groups)]


@alternative("param_groups")
def layer_by_layer(model, layers, *, lr, decay, weight_decay):
    """Takes for each layer, from the first on, what is left."""
    left = [p for p in model.parameters() if p.requires_grad]
    every = list(model.named_parameters(remove_duplicate=False))
    groups = []
    for i, layer in enumerate(layers):
        pattern = re.compile(re.escape(layer) + r"(\.|$)")
        here = {id(p) for name, p in every if pattern.match(name)}
        mine = [p for p in left if id(p) in here]
        left = [p for p in left if id(p) not in here]
        rate = lr
        for _ in range(len(layers) - 1 - i):
            rate = rate * decay
        groups += [
            {"params": [p for p in mine if len(p.shape) > 1], "lr": rate, "weight_decay": weight_decay},
            {"params": [p for p in mine if len(p.shape) < 2], "lr": rate, "weight_decay": 0.0},
        ]
    if left:
        raise ValueError("some belong to no layer")
    return [group for group in groups if group["params"]]


# load_partial


@alternative("load_partial")
def through_load_state_dict(model, state, *, prefixes=()):
    """Filters, then lets torch copy."""
    pattern = re.compile("^(" + "|".join(map(re.escape, prefixes)) + ")+") if prefixes else None
    clean = [(pattern.sub("", key) if pattern else key, value) for key, value in state.items()]
    given = dict(clean)
    if len(given) != len(clean):
        raise ValueError("duplicate names")
    report = {"loaded": [], "mismatched": [], "missing": [], "unexpected": []}
    chosen = {}
    for name, tensor in model.state_dict().items():
        if name not in given:
            report["missing"].append(name)
        elif tuple(tensor.shape) != tuple(given[name].shape):
            report["mismatched"].append(name)
        else:
            report["loaded"].append(name)
            chosen[name] = given[name]
    report["unexpected"] = [name for name in given if name not in model.state_dict()]
    if not chosen:
        raise ValueError("nothing to load")
    result = model.load_state_dict(chosen, strict=False)
    assert not result.unexpected_keys
    return report


@alternative("load_partial")
def with_no_grad_copies(model, state, *, prefixes=()):
    """Recursion for the prefixes, sets for the lists."""

    def clean(key):
        for prefix in prefixes:
            if key[: len(prefix)] == prefix:
                return clean(key[len(prefix) :])
        return key

    names = [clean(key) for key in state]
    if len(set(names)) < len(names):
        raise ValueError("a name comes twice")
    given = dict(zip(names, state.values(), strict=True))
    own = model.state_dict(keep_vars=True)
    fits = {name for name in own.keys() & given.keys() if own[name].size() == given[name].size()}
    if not len(fits):
        raise ValueError("no name fits")
    with torch.no_grad():
        for name in fits:
            own[name].copy_(given[name])
    return {
        "loaded": [n for n in own if n in fits],
        "mismatched": [n for n in own if n in given.keys() - fits],
        "missing": [n for n in own if n not in given],
        "unexpected": [n for n in names if n not in own],
    }


# resize_vocab


@alternative("resize_vocab")
def written_out(model, num_tokens, optimizer=None):
    """Each of the three by itself, as in Transformers."""
    if num_tokens <= 0:
        raise ValueError("num_tokens")
    old_V = model.embed.weight.size(0)
    n = min(old_V, num_tokens)
    tied = model.head.weight is model.embed.weight

    @torch.no_grad()
    def grown(p):
        shape = (num_tokens, *p.shape[1:])
        new = torch.empty(shape, dtype=p.dtype, device=p.device)
        new[:n] = p[:n]
        new[n:] = p.sum(0) / old_V
        return nn.Parameter(new, requires_grad=p.requires_grad)

    def swap(old, new):
        if optimizer is None:
            return
        for group in optimizer.param_groups:
            for i, p in enumerate(group["params"]):
                if p is old:
                    group["params"][i] = new
        if old in optimizer.state:
            entry = optimizer.state.pop(old)
            for key, value in list(entry.items()):
                if torch.is_tensor(value) and value.shape == old.shape:
                    moved = torch.zeros(new.shape, dtype=value.dtype)
                    moved[:n].copy_(value[:n])
                    entry[key] = moved
            optimizer.state[new] = entry

    old = model.embed.weight
    model.embed.weight = grown(old)
    swap(old, model.embed.weight)
    if tied:
        model.head.weight = model.embed.weight
    else:
        old = model.head.weight
        model.head.weight = grown(old)
        swap(old, model.head.weight)
    if model.head.bias is not None:
        old = model.head.bias
        model.head.bias = grown(old)
        swap(old, model.head.bias)
    model.embed.num_embeddings = num_tokens
    model.head.out_features = num_tokens


@alternative("resize_vocab")
def by_padding(model, num_tokens, optimizer=None):
    """Pads or cuts with F.pad, and fills the mean in afterwards."""
    if num_tokens < 1:
        raise ValueError(num_tokens)

    def pad(t):
        return F.pad(t, [0, 0] * (t.dim() - 1) + [0, num_tokens - t.shape[0]]).contiguous()

    def convert(p):
        data = pad(p.data).clone()
        data[p.shape[0] :] = p.data.mean(dim=0, keepdim=True)
        fresh = nn.Parameter(data)
        fresh.requires_grad = p.requires_grad
        return fresh

    table = {}
    for module in (model.embed, model.head):
        for key, p in list(module.named_parameters(recurse=False)):
            if id(p) not in table:
                table[id(p)] = (p, convert(p))
            setattr(module, key, table[id(p)][1])
    setattr(model.embed, "num_embeddings", num_tokens)  # noqa: B010
    model.head.out_features = num_tokens
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["params"][:] = [table[id(p)][1] if id(p) in table else p for p in group["params"]]
        for p, fresh in table.values():
            state = optimizer.state.pop(p, None)
            if state is not None:
                optimizer.state[fresh] = {k: pad(v) if torch.is_tensor(v) and v.size() == p.size() else v for k, v in state.items()}


# interpolate_positions


@alternative("interpolate_positions")
def as_in_timm(table, old, new, *, extra=1):
    """reshape and permute, as in timm's resample_abs_pos_embed."""
    if table.size(1) - extra != old[0] * old[1]:
        raise ValueError("positions")
    prefix, grid = table[:, :extra], table[:, extra:]
    D = grid.shape[-1]
    grid = grid.reshape(1, old[0], old[1], D).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=list(new), mode="bicubic", align_corners=False, antialias=False)
    grid = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], D)
    return torch.cat([prefix, grid], dim=1)


def _cubic(n, m, dtype):
    """The matrix (m, n) that resizes n entries to m."""
    a, rows = -0.75, torch.zeros(m, n, dtype=dtype)
    for i in range(m):
        x = (i + 0.5) * n / m - 0.5
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
            d = abs(x - j)
            w = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            rows[i, min(max(j, 0), n - 1)] += w
    return rows


@alternative("interpolate_positions")
def by_two_matrices(table, old, new, *, extra=1):
    """The cubic weights by hand, for rows and for columns."""
    h, w = old
    if table.shape[1] != extra + h * w:
        raise ValueError("positions")
    R, C = _cubic(h, new[0], table.dtype), _cubic(w, new[1], table.dtype)
    out = table.new_zeros(1, extra + new[0] * new[1], table.shape[2])
    parts = [R @ feature.reshape(h, w) @ C.T for feature in table[0, extra:].T]
    return torch.cat((table[:, :extra], torch.stack(parts, -1).reshape(1, -1, len(parts))), 1).to(out.dtype)


# LoRALinear


@alternative("LoRALinear")
class AsInLoralib(nn.Module):
    """kaiming_uniform_ with a = √5, as in loralib and PEFT, products with @."""

    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        if not rank > 0:
            raise ValueError("rank")
        for p in base.parameters():
            p.requires_grad = False
        self.base = base
        out_features, in_features = base.weight.shape
        kind = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.A = nn.Parameter(torch.zeros(rank, in_features, **kind))
        self.B = nn.Parameter(torch.zeros(out_features, rank, **kind))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.scaling = alpha / rank
        self.p = dropout
        self.merged = False

    def delta(self):
        """The change of the weight."""
        return (self.B @ self.A) * self.scaling

    def forward(self, x):
        result = self.base(x)
        if not self.merged:
            dropped = F.dropout(x, p=self.p, training=self.training)
            result = result + dropped @ self.A.transpose(0, 1) @ self.B.transpose(0, 1) * self.scaling
        return result

    def merge(self):
        if self.merged:
            return
        self.base.weight.data += self.delta().data
        self.merged = True

    def unmerge(self):
        if not self.merged:
            return
        self.base.weight.data -= self.delta().data
        self.merged = False


@alternative("LoRALinear")
class WithEinsum(nn.Module):
    """One einsum, no_grad for merging, a mask by hand."""

    def __init__(self, base, rank, alpha, dropout=0.0):
        if rank < 1:
            raise ValueError("rank must be positive")
        super().__init__()
        self.rank, self.alpha, self.p, self.merged = rank, alpha, dropout, False
        base.weight.requires_grad_(False)
        if base.bias is not None:
            base.bias.requires_grad_(False)
        self.base = base
        A = (2 * torch.rand(rank, base.in_features, dtype=base.weight.dtype) - 1) / math.sqrt(base.in_features)
        self.A, self.B = nn.Parameter(A), nn.Parameter(torch.zeros(base.out_features, rank, dtype=A.dtype))

    def forward(self, x):
        if self.merged:
            return F.linear(x, self.base.weight, self.base.bias)
        z = x
        if self.training and self.p == 1:
            z = torch.zeros_like(x)
        elif self.training and self.p > 0:
            z = x * (torch.rand(x.shape) >= self.p) / (1 - self.p)
        return self.base(x) + torch.einsum("...i,ri,or->...o", z, self.A, self.B) * (self.alpha / self.rank)

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            self.base.weight += (self.alpha / self.rank) * torch.einsum("or,ri->oi", self.B, self.A)
            self.merged = True

    @torch.no_grad()
    def unmerge(self):
        if self.merged:
            self.base.weight -= (self.alpha / self.rank) * torch.einsum("or,ri->oi", self.B, self.A)
            self.merged = False


# InjectedLoRA


@alternative("InjectedLoRA")
class OwnForward:
    """Puts a function in the place of each layer's forward, and takes it away again."""

    def __init__(self, model, targets):
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        self.layers = {}
        for target in targets:
            if not [n for n, _ in layers if fnmatch.fnmatchcase(n, target)]:
                raise ValueError(target)
        for name, layer in layers:
            if any(fnmatch.fnmatchcase(name, target) for target in targets):
                self.layers[name] = layer
                layer.forward = self._wrap(name, layer)
        self.flags = {p: p.requires_grad for p in model.parameters()}
        for p in self.flags:
            p.requires_grad = False
        self.sets, self.scales, self.current = {}, {}, None

    def _wrap(self, name, layer):
        old = layer.forward

        def forward(x):
            y = old(x)
            if self.current is not None:
                A, B = self.sets[self.current][name + ".A"], self.sets[self.current][name + ".B"]
                y = y + x @ (B @ A).T * self.scales[self.current]
            return y

        return forward

    def add(self, adapter, rank, alpha):
        if adapter in self.sets:
            raise ValueError("taken")
        if rank < 1:
            raise ValueError("rank")
        self.sets[adapter] = {}
        for name, layer in self.layers.items():
            A = torch.empty(rank, layer.in_features, dtype=layer.weight.dtype)
            nn.init.kaiming_uniform_(A, a=math.sqrt(5))
            self.sets[adapter][name + ".A"] = nn.Parameter(A)
            self.sets[adapter][name + ".B"] = nn.Parameter(torch.zeros(layer.out_features, rank, dtype=layer.weight.dtype))
        self.scales[adapter] = alpha / rank

    def use(self, adapter):
        if adapter is not None and adapter not in self.sets:
            raise ValueError("unknown")
        self.current = adapter

    def weights(self, adapter):
        return self.sets[adapter]

    def remove(self):
        for layer in self.layers.values():
            del layer.forward
        for p, flag in self.flags.items():
            p.requires_grad = flag


@alternative("InjectedLoRA")
class HooksWithClosures:
    """Hooks that are registered anew at each switch, and adapters as modules of their own."""

    def __init__(self, model, targets):
        found = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                found[name] = module
        chosen = set()
        for target in targets:
            names = {name for name in found if fnmatch.fnmatchcase(name, target)}
            if not names:
                raise ValueError(f"{target} matches nothing")
            chosen |= names
        self._targets = [(name, found[name]) for name in found if name in chosen]
        self._trainable = [p for p in model.parameters() if p.requires_grad]
        for p in self._trainable:
            p.requires_grad = False
        self._handles, self._adapters = [], {}

    def add(self, adapter, rank, alpha):
        if rank < 1 or adapter in self._adapters:
            raise ValueError(adapter)
        pairs = []
        for _, linear in self._targets:
            k = 1 / math.sqrt(linear.in_features)
            A = nn.Parameter((torch.rand(rank, linear.in_features, dtype=linear.weight.dtype) * 2 - 1) * k)
            pairs.append((A, nn.Parameter(linear.weight.detach().new_zeros((linear.out_features, rank)))))
        self._adapters[adapter] = (pairs, alpha / rank)

    def use(self, adapter):
        if adapter is not None and adapter not in self._adapters:
            raise ValueError(f"no adapter {adapter}")
        self._unhook()
        if adapter is None:
            return
        pairs, scale = self._adapters[adapter]
        for (_, linear), (A, B) in zip(self._targets, pairs, strict=True):

            def hook(module, inputs, output, A=A, B=B):
                return output + scale * torch.matmul(torch.matmul(inputs[0], A.t()), B.t())

            self._handles.append(linear.register_forward_hook(hook))

    def _unhook(self):
        while self._handles:
            self._handles.pop().remove()

    def weights(self, adapter):
        pairs, _ = self._adapters[adapter]
        out = {}
        for (name, _), (A, B) in zip(self._targets, pairs, strict=True):
            out[f"{name}.A"], out[f"{name}.B"] = A, B
        return out

    def remove(self):
        self._unhook()
        for p in self._trainable:
            p.requires_grad = True


# average_checkpoints


@alternative("average_checkpoints")
def running_sum(checkpoints):
    """Adds up in float64, one checkpoint after the other."""
    if len(checkpoints) == 0:
        raise ValueError("none")
    first = checkpoints[0]
    for state in checkpoints[1:]:
        if set(state) != set(first):
            raise ValueError("names")
        if any(state[n].shape != first[n].shape or state[n].dtype != first[n].dtype for n in first):
            raise ValueError("kinds")
    sums = {}
    for state in checkpoints:
        for name, value in state.items():
            if value.is_floating_point():
                sums[name] = value.detach().to(torch.float64) + sums.get(name, 0)
            else:
                sums[name] = value.detach().clone()
    out, known = {}, {}
    for name, value in first.items():
        key = (value.data_ptr(), tuple(value.shape), tuple(value.stride()), str(value.dtype))
        if key not in known:
            known[key] = (sums[name] / len(checkpoints)).to(value.dtype) if value.is_floating_point() else sums[name]
        out[name] = known[key]
    return out


@alternative("average_checkpoints")
def grouped_names(checkpoints):
    """Groups the names first, then fills the groups."""
    if not checkpoints:
        raise ValueError("no checkpoints")

    def kind(state):
        return sorted((n, tuple(v.size()), str(v.dtype)) for n, v in state.items())

    for state in checkpoints:
        if kind(state) != kind(checkpoints[0]):
            raise ValueError("different")
    groups = []
    for name, value in checkpoints[0].items():
        for value2, names in groups:
            alike = value.dtype == value2.dtype and value.shape == value2.shape and value.stride() == value2.stride()
            if alike and value.data_ptr() == value2.data_ptr():
                names.append(name)
                break
        else:
            groups.append((value, [name]))
    result = dict.fromkeys(checkpoints[0])
    with torch.no_grad():
        for value, names in groups:
            if torch.is_floating_point(value):
                mean = torch.zeros(value.shape, dtype=torch.float64)
                for state in checkpoints:
                    mean += state[names[0]].double() / len(checkpoints)
                mean = mean.to(value.dtype)
            else:
                mean = torch.empty_like(value).copy_(checkpoints[-1][names[0]]) if value.dim() else checkpoints[-1][names[0]].clone()
            for name in names:
                result[name] = mean
    return result


# masked_tokens


@alternative("masked_tokens")
def as_in_transformers(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    """DataCollatorForLanguageModeling: bernoulli of 0.8, then of one half."""
    if p < 0 or p > 1 or p != p:
        raise ValueError("p")
    inputs, labels = tokens.clone(memory_format=torch.contiguous_format), tokens.clone(memory_format=torch.contiguous_format)
    special = torch.cat((special, torch.tensor([mask_token])))
    matrix = torch.full(labels.shape, float(p))
    matrix.masked_fill_(torch.isin(tokens, special), 0.0)
    masked = torch.bernoulli(matrix, generator=generator).bool()
    labels[~masked] = -100
    replaced = torch.bernoulli(torch.full(labels.shape, 0.8), generator=generator).bool() & masked
    inputs[replaced] = mask_token
    random = torch.bernoulli(torch.full(labels.shape, 0.5), generator=generator).bool() & masked & ~replaced
    ordinary = torch.tensor([i for i in range(vocab_size) if i not in set(special.tolist())])
    words = ordinary[torch.randint(len(ordinary), labels.shape, generator=generator)]
    inputs[random] = words[random]
    return inputs, labels


@alternative("masked_tokens")
def token_by_token(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    """A loop over the chosen places, with one number that decides all."""
    if not (p >= 0 and p <= 1):
        raise ValueError("p")
    never = {*special.tolist(), mask_token}
    ordinary = [i for i in range(vocab_size) if i not in never]
    flat = tokens.flatten().tolist()
    u = torch.rand(len(flat), dtype=torch.float64, generator=generator).tolist()
    picks = torch.randint(0, len(ordinary), (len(flat),), generator=generator).tolist()
    inputs, labels = list(flat), [-100] * len(flat)
    for i, token in enumerate(flat):
        if token in never or u[i] >= p:
            continue
        labels[i] = token
        if u[i] < 0.8 * p:
            inputs[i] = mask_token
        elif u[i] < 0.9 * p:
            inputs[i] = ordinary[picks[i]]
    return tuple(torch.tensor(x, dtype=torch.int64).reshape(tokens.shape) for x in (inputs, labels))


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


@alternative("fine_tune_digits")
def head_first_then_all(weights, images, labels, *, classes, seed):
    """Trains the head, then everything a little, in eval mode (Kumar et al. 2022)."""
    torch.manual_seed(seed)
    model = _network(classes).eval()
    model.load_state_dict({k: v for k, v in weights.items() if k not in ("9.weight", "9.bias")}, strict=False)
    for parameters, lr, steps in ((model[9].parameters(), 3e-2, 80), (model.parameters(), 5e-4, 25)):
        optimizer = torch.optim.Adam(parameters, lr=lr)
        for _ in range(steps):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


@alternative("fine_tune_digits")
def two_rates(weights, images, labels, *, classes, seed):
    """All at once, in mini-batches, the backbone a hundred times more slowly."""
    torch.manual_seed(seed)
    model = _network(classes)
    own = model.state_dict()
    own.update({k: v for k, v in weights.items() if not k.startswith("9.")})
    model.load_state_dict(own)
    model.eval()
    head = list(model[9].parameters())
    rest = list(model[:9].parameters())
    optimizer = torch.optim.AdamW([{"params": head, "lr": 2e-2}, {"params": rest, "lr": 2e-4}], weight_decay=0.01)
    for _ in range(40):
        for batch in torch.randperm(len(images)).split(25):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}
