"""A submission with all tasks of transfer solved, in another style than the reference's."""

import math
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn import functional as F

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def keep(self, mode=True):
    """The train method of a frozen batch norm."""
    return self


def freeze(model, patterns):
    """Collect everything by name first."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    chosen = set()
    for pattern in patterns:
        hits = [name for name in tensors if fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(f"{pattern} matches nothing")
        chosen.update(hits)
    norms = set()
    for name in chosen:
        if isinstance(tensors[name], nn.Parameter):
            tensors[name].requires_grad = False
            tensors[name].grad = None
        parent, _, last = name.rpartition(".")
        module = model.get_submodule(parent)
        if last == "running_mean" and isinstance(module, BATCH_NORMS):
            norms.add(module)
    for norm in norms:
        norm.training = False
        norm.train = keep.__get__(norm)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"frozen": total - trainable, "trainable": trainable, "norms": len(norms)}


def param_groups(model, layers, *, lr, decay, weight_decay):
    """Buckets for each layer, filled from the first layer on."""
    names = list(model.named_parameters(remove_duplicate=False))
    order = [p for p in model.parameters() if p.requires_grad]
    taken, groups = set(), []
    for depth, layer in enumerate(layers):
        inside = {p for name, p in names if name == layer or name.startswith(f"{layer}.")} - taken
        taken |= inside
        rate = lr * decay ** (len(layers) - depth - 1)
        big = [p for p in order if p in inside and p.dim() >= 2]
        small = [p for p in order if p in inside and p.dim() < 2]
        if big:
            groups.append({"params": big, "lr": rate, "weight_decay": weight_decay})
        if small:
            groups.append({"params": small, "lr": rate, "weight_decay": 0.0})
    if any(p not in taken for p in order):
        raise ValueError("a parameter has no layer")
    return groups


def load_partial(model, state, *, prefixes=()):
    """Clean names, then one pass over the model's."""
    clean = {}
    for key, value in state.items():
        name, changed = key, True
        while changed:
            shorter = name
            for prefix in prefixes:
                shorter = shorter.removeprefix(prefix)
            name, changed = shorter, shorter != name
        if name in clean:
            raise ValueError(f"two keys give {name}")
        clean[name] = value
    report = {"loaded": [], "mismatched": [], "missing": [], "unexpected": []}
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in clean:
            report["missing"].append(name)
        else:
            report["loaded" if clean[name].shape == tensor.shape else "mismatched"].append(name)
    report["unexpected"] += [name for name in clean if name not in own]
    if not report["loaded"]:
        raise ValueError("nothing fits")
    with torch.no_grad():
        for name in report["loaded"]:
            own[name].copy_(clean[name])
    return report


def resize_vocab(model, num_tokens, optimizer=None):
    """Index rows: old ones by number, new ones by a row of means (or zeros) behind them."""
    if num_tokens < 1:
        raise ValueError("at least one token is needed")
    V = model.embed.num_embeddings
    rows = torch.arange(num_tokens).clamp(max=V)

    def take(x, last):
        return torch.cat((x, last[None]))[rows]

    places = [(model.embed, "weight"), (model.head, "weight"), (model.head, "bias")]
    places = [(module, name, getattr(module, name)) for module, name in places if getattr(module, name) is not None]
    new = {}
    for module, name, p in places:
        if p not in new:
            new[p] = nn.Parameter(take(p.detach(), p.detach().mean(0)))
            new[p].requires_grad_(p.requires_grad)
        setattr(module, name, new[p])
    model.embed.num_embeddings = num_tokens
    model.head.out_features = num_tokens
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new[p] if p in new else p for p in group["params"]]
    for p, fresh in new.items():
        if p in optimizer.state:
            moved = {}
            for key, value in optimizer.state.pop(p).items():
                like = isinstance(value, torch.Tensor) and value.shape == p.shape
                moved[key] = take(value, torch.zeros_like(value[0])) if like else value
            optimizer.state[fresh] = moved


def interpolate_positions(table, old, new, *, extra=1):
    """With einops-like permutes."""
    h, w = old
    if table.shape[1] != extra + h * w:
        raise ValueError("the table has another number of positions")
    grid = table[0, extra:].reshape(h, w, -1).movedim(2, 0)
    grid = F.interpolate(grid[None], size=new, mode="bicubic", align_corners=False)[0]
    return torch.cat((table[0, :extra], grid.flatten(1).T))[None]


class LoRALinear(nn.Module):
    """The change as a matrix only where it is merged."""

    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        if rank < 1:
            raise ValueError("rank must be at least 1")
        base.requires_grad_(False)
        self.base, self.factor, self.merged = base, alpha / rank, False
        self.drop = nn.Dropout(dropout)
        a, b = torch.empty(rank, base.in_features), torch.zeros(base.out_features, rank)
        nn.init.uniform_(a, -1 / math.sqrt(base.in_features), 1 / math.sqrt(base.in_features))
        self.A, self.B = nn.Parameter(a.to(base.weight)), nn.Parameter(b.to(base.weight))

    def forward(self, x):
        """Base, and the rest unless it is merged."""
        out = self.base(x)
        if self.merged:
            return out
        return out + self.drop(x) @ self.A.T @ self.B.T * self.factor

    def _shift(self, sign):
        with torch.no_grad():
            self.base.weight += sign * self.factor * (self.B @ self.A)

    def merge(self):
        """Into the weight."""
        if not self.merged:
            self._shift(1)
            self.merged = True

    def unmerge(self):
        """Out of the weight."""
        if self.merged:
            self._shift(-1)
            self.merged = False


class InjectedLoRA:
    """One hook a layer, which asks for what is in use."""

    def __init__(self, model, targets):
        linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        for pattern in targets:
            if not any(fnmatchcase(name, pattern) for name, _ in linears):
                raise ValueError(f"{pattern} matches no linear layer")
        self.targets = [(name, module) for name, module in linears if any(fnmatchcase(name, pattern) for pattern in targets)]
        self.adapters, self.current = {}, None
        self.handles = [module.register_forward_hook(self.hook(name)) for name, module in self.targets]
        self.thaw = [p for p in model.parameters() if p.requires_grad]
        for p in self.thaw:
            p.requires_grad = False

    def hook(self, name):
        """The hook of the layer of this name."""

        def change(module, args, output):
            if self.current is not None:
                weights, factor = self.adapters[self.current]
                output = output + args[0] @ weights[name + ".A"].T @ weights[name + ".B"].T * factor
            return output

        return change

    def add(self, adapter, rank, alpha):
        """A and B for each target."""
        if adapter in self.adapters:
            raise ValueError("this name is taken")
        if rank < 1:
            raise ValueError("rank must be at least 1")
        weights = {}
        for name, module in self.targets:
            bound = 1 / math.sqrt(module.in_features)
            a = torch.empty(rank, module.in_features).uniform_(-bound, bound)
            weights[name + ".A"] = nn.Parameter(a.to(module.weight))
            weights[name + ".B"] = nn.Parameter(torch.zeros(module.out_features, rank).to(module.weight))
        self.adapters[adapter] = weights, alpha / rank

    def use(self, adapter):
        """Remember the name."""
        if adapter is not None and adapter not in self.adapters:
            raise ValueError("no such adapter")
        self.current = adapter

    def weights(self, adapter):
        """The dict itself, copied."""
        return dict(self.adapters[adapter][0])

    def remove(self):
        """Hooks out, flags back."""
        for handle in self.handles:
            handle.remove()
        for p in self.thaw:
            p.requires_grad = True


def average_checkpoints(checkpoints):
    """Name by name, with a table of what was made for each tensor of the first."""
    if len(checkpoints) < 1:
        raise ValueError("no checkpoint")
    first, made, result = checkpoints[0], {}, {}
    for other in checkpoints:
        if other.keys() != first.keys() or any((other[n].shape, other[n].dtype) != (first[n].shape, first[n].dtype) for n in first):
            raise ValueError("the checkpoints differ")
    for name, tensor in first.items():
        where = (tensor.data_ptr(), tensor.dtype, *tensor.shape, "strides", *tensor.stride())
        if where in made:
            result[name] = made[where]
            continue
        if tensor.dtype.is_floating_point:
            total = torch.zeros(tensor.shape, dtype=torch.float64)
            for state in checkpoints:
                total += state[name].detach()
            result[name] = (total / len(checkpoints)).to(tensor.dtype)
        else:
            result[name] = checkpoints[-1][name].clone()
        made[where] = result[name]
    return result


def masked_tokens(tokens, *, vocab_size, mask_token, special, generator, p=0.15):
    """Ten fates: eight masks, one other token, one that stays."""
    if not (0 <= p <= 1):
        raise ValueError("p must be in 0 … 1")
    forbidden = torch.zeros(vocab_size, dtype=torch.bool)
    forbidden[special] = True
    forbidden[mask_token] = True
    words = (~forbidden).nonzero().flatten()
    chosen = torch.rand(tokens.shape, generator=generator, dtype=torch.float64) < p
    chosen = chosen & ~forbidden[tokens]
    fate = torch.randint(0, 10, tokens.shape, generator=generator)
    inputs, labels = tokens.clone(), torch.full_like(tokens, -100)
    labels = torch.where(chosen, tokens, labels)
    other = words[torch.randint(0, len(words), tokens.shape, generator=generator)]
    inputs = torch.where(chosen & (fate < 8), torch.full_like(tokens, mask_token), inputs)
    inputs = torch.where(chosen & (fate == 8), other, inputs)
    return inputs, labels


def fine_tune_digits(weights, images, labels, *, classes, seed):
    """The whole network, with all but its head frozen."""
    torch.manual_seed(seed)
    model = nn.Sequential(
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
    state = model.state_dict()
    state.update({name: value for name, value in weights.items() if not name.startswith("9.")})
    model.load_state_dict(state)
    model.eval()
    for layer in model[:-1]:
        layer.requires_grad_(False)
    optimizer = torch.optim.Adam(model[-1].parameters(), lr=2e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()
