"""A submission with all tasks of deployment solved, in another style than the reference's."""

import json
from collections import OrderedDict, defaultdict, deque

import safetensors
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F


@torch.no_grad()
def clean_state_dict(checkpoint, dtype=None):
    def strip(names):
        if names and all(name.partition(".")[0] == "module" and "." in name for name in names):
            return strip([name.partition(".")[2] for name in names])
        return names

    state = checkpoint["model"] if "model" in checkpoint and isinstance(checkpoint["model"], dict) else checkpoint
    tensors = OrderedDict((k, v) for k, v in state.items() if isinstance(v, torch.Tensor))
    names = strip([".".join(p for p in k.split(".") if p != "_orig_mod") or k for k in tensors])
    if len(names) != len(set(names)):
        raise ValueError("names collide")
    values = [v.to(dtype) if dtype and torch.is_floating_point(v) else v for v in tensors.values()]
    return dict(
        zip(
            names,
            [torch.zeros(v.shape, dtype=v.dtype).add(v) if v.dtype != torch.bool else v.logical_or(v).contiguous().clone() for v in values],
            strict=True,
        )
    )


def save_safe(state, path, metadata=None):
    notes = {} if metadata is None else metadata.copy()
    for key, value in notes.items():
        if type(key) is not str or type(value) is not str or key[:5] == "tied:":
            raise ValueError(f"{key!r} is no good")
    groups = defaultdict(list)
    for name, x in state.items():
        where = (x.untyped_storage()._cdata, x.storage_offset(), tuple(x.shape), x.stride(), x.dtype) if x.numel() else name
        groups[where].append(name)
    tensors = {}
    for names in groups.values():
        owner, *others = sorted(names)
        tensors[owner] = state[owner].detach().contiguous().clone()
        notes.update({f"tied:{name}": owner for name in others})
    path.write_bytes(save(tensors, notes))


def load_safe(path):
    with safetensors.safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tied = {key[len("tied:") :]: value for key, value in notes.items() if key.startswith("tied:")}
    missing = [owner for owner in tied.values() if owner not in state]
    if missing:
        raise ValueError(f"{missing} are not there")
    state.update({name: state[owner] for name, owner in tied.items()})
    return dict(sorted(state.items())), {key: value for key, value in notes.items() if key[:5] != "tied:"}


def safe_load(path, shapes, allowed=()):
    from pickle import UnpicklingError

    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(allowed))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ValueError("this file is not only weights") from None
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    if not isinstance(loaded, dict):
        raise ValueError("no dict")
    if loaded.keys() ^ shapes.keys():
        raise ValueError(f"names: {loaded.keys() ^ shapes.keys()}")
    out = {}
    for name, shape in shapes.items():
        if not torch.is_tensor(loaded[name]) or loaded[name].shape != torch.Size(shape):
            raise ValueError(name)
        out[name] = loaded[name]
    return out


class ScriptedGate(nn.Module):
    def __init__(self, dim, threshold):
        super().__init__()
        self.loud, self.quiet, self.threshold = nn.Linear(dim, dim), nn.Linear(dim, dim), float(threshold)

    def is_loud(self, x: torch.Tensor) -> bool:
        return bool(x.abs().mean() > self.threshold)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        if not self.is_loud(x):
            return self.quiet(x), 0
        rounds = 0
        while self.is_loud(x):
            x = x.div(2)
            rounds += 1
        return self.loud(x), rounds

    def save(self, path):
        torch.jit.save(torch.jit.script(self), str(path))


class ExportableModel(nn.Module):
    def __init__(self, dim, threshold):
        super().__init__()
        self.loud, self.quiet, self.threshold = nn.Linear(dim, dim), nn.Linear(dim, dim), threshold

    def forward(self, x):
        is_loud = (x.abs().mean() > self.threshold).to(x.dtype)
        weight = is_loud * self.loud.weight + (1 - is_loud) * self.quiet.weight
        bias = is_loud * self.loud.bias + (1 - is_loud) * self.quiet.bias
        return F.linear(x, weight, bias).reshape(x.size(0), x.size(1) * x.size(2))

    def program(self, steps):
        example = self.loud.weight.new_ones(4, steps, self.loud.in_features)
        return torch.export.export(self, (example,), dynamic_shapes={"x": {0: torch.export.Dim("B", min=1, max=10_000)}})


def _fused(conv, norm):
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale + (norm.bias if norm.affine else 0)
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        True,
        conv.padding_mode,
    )
    with torch.no_grad():
        new.weight.copy_(conv.weight * scale[:, None, None, None])
        new.bias.copy_(shift + (conv.bias * scale if conv.bias is not None else 0))
    return new.eval()


def fuse_graph(model):
    graph_module = torch.fx.symbolic_trace(model)
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_module" or type(graph_module.get_submodule(node.target)) is not nn.BatchNorm2d:
            continue
        norm, source = graph_module.get_submodule(node.target), node.args[0]
        if not norm.track_running_stats or source.op != "call_module" or list(source.users) != [node]:
            continue
        conv = graph_module.get_submodule(source.target)
        if not isinstance(conv, nn.Conv2d) or any(
            sum(n.op == "call_module" and n.target == target for n in graph.nodes) != 1 for target in (node.target, source.target)
        ):
            continue
        graph_module.set_submodule(source.target, _fused(conv, norm))
        node.replace_all_uses_with(source)
        graph.erase_node(node)
        graph_module.delete_submodule(node.target)
    graph.lint()
    graph_module.recompile()
    graph_module.eval()
    return graph_module


class _Bad(Exception):
    def __init__(self, name=None):
        self.name = name


class Handler:
    def initialize(self, model, labels):
        self.model, self.labels = model.train(False), labels

    def _one(self, text):
        try:
            body = json.loads(text)
        except (RecursionError, ValueError):
            raise _Bad from None
        if not isinstance(body, dict):
            raise _Bad
        name, x = body.get("id"), body.get("x")
        if (
            not isinstance(x, list)
            or len(x) != self.model.in_features
            or any(isinstance(n, bool) or not isinstance(n, int | float) for n in x)
        ):
            raise _Bad(name)
        try:
            row = torch.as_tensor([n + 0.0 for n in x], dtype=torch.float32)
        except (OverflowError, RuntimeError):
            raise _Bad(name) from None
        if row.isnan().any() or row.isinf().any():
            raise _Bad(name)
        return name, row

    def preprocess(self, requests):
        read = []
        for text in requests:
            try:
                read.append(self._one(text))
            except _Bad as bad:
                read.append((bad.name, None))
        return read

    def inference(self, inputs):
        inputs = list(inputs)
        if not inputs:
            return torch.empty((0, len(self.labels)))
        with torch.inference_mode():
            return F.softmax(self.model(torch.stack(inputs)), 1)

    def handle(self, requests):
        read = self.preprocess(requests)
        scores = deque(self.inference([row for _, row in read if row is not None]).unbind())
        return [self._answer(name, None if row is None else scores.popleft()) for name, row in read]

    def _answer(self, name, scores):
        if scores is None:
            return {"id": name, "error": "bad request"}
        best = int(scores.argmax())
        return {"id": name, "label": self.labels[best], "score": scores[best].item()}


class DynamicBatcher:
    def __init__(self, run, *, max_size, max_wait, clock):
        self.run, self.size, self.wait, self.clock = run, max_size, max_wait, clock
        self.waiting, self.results, self.errors, self.given = [], {}, {}, 0

    def submit(self, request):
        self.waiting.append((self.given, request.detach().clone(), self.clock()))
        self.given += 1
        return self.given - 1

    def _due(self, now):
        for ticket, request, since in self.waiting:
            same = [one for one in self.waiting if one[1].shape == request.shape]
            if same[0][0] == ticket and (len(same) >= self.size or now - since >= self.wait):
                return same[: self.size]
        return None

    def poll(self):
        now, count = self.clock(), 0
        while batch := self._due(now):
            taken = {ticket for ticket, _, _ in batch}
            self.waiting = [one for one in self.waiting if one[0] not in taken]
            count += len(batch)
            try:
                rows = list(self.run(torch.stack([request for _, request, _ in batch])))
                self.results.update(zip((ticket for ticket, _, _ in batch), rows, strict=True))
            except Exception as error:
                if len(batch) == 1:
                    self.errors[batch[0][0]] = error
                    continue
                for ticket, request, _ in batch:
                    try:
                        self.results[ticket] = self.run(request[None])[0]
                    except Exception as own:
                        self.errors[ticket] = own
        return count

    def result(self, ticket):
        if ticket in self.errors:
            raise self.errors.pop(ticket)
        if ticket in self.results:
            return self.results.pop(ticket)
        if ticket in [one[0] for one in self.waiting]:
            return None
        raise KeyError(f"no ticket {ticket}")


class ContinuousBatcher:
    def __init__(self, model, *, slots, end):
        self.model, self.slots, self.end = model, slots, end
        self.texts, self.limits, self.queue, self.active = [], [], deque(), []

    def submit(self, prompt, at_most):
        self.texts.append([*prompt])
        self.limits.append(len(prompt) + at_most)
        self.queue.append(len(self.texts) - 1)
        return len(self.texts) - 1

    def step(self):
        while self.queue and len(self.active) < self.slots:
            self.active.append(self.queue.popleft())
        out = {}
        if self.active:
            logits = self.model([self.texts[i].copy() for i in self.active])
            for i, row in zip(list(self.active), logits, strict=True):
                self.texts[i].append(int(torch.argmax(row)))
                if self.texts[i][-1] == self.end or len(self.texts[i]) == self.limits[i]:
                    self.active.remove(i)
                    out[i] = self.texts[i]
        return out

    def run(self):
        out = {}
        while self.active or self.queue:
            out.update(self.step())
        return out


def speculative_step(drafted, draft, target, *, generator):
    B, K = drafted.shape
    tokens = torch.full((B, K + 1), -1)
    counts = torch.zeros(B, dtype=torch.int64)
    going = torch.ones(B, dtype=torch.bool)
    for k in range(K):
        guess = drafted[:, k]
        rows = torch.arange(B)
        ratio = (target[rows, k, guess] / draft[rows, k, guess]).clamp(max=1)
        u = torch.rand(B, generator=generator, dtype=torch.float64)
        accepted, refused = going & (u < ratio), going & (u >= ratio)
        tokens[accepted, k] = guess[accepted]
        counts[accepted] += 1
        if refused.any():
            rest = (target[refused, k] - draft[refused, k]).relu()
            rest = torch.where(rest.sum(1, keepdim=True) == 0, target[refused, k], rest)
            tokens[refused, k] = torch.multinomial(rest, 1, generator=generator).squeeze(1)
        going = accepted
    if going.any():
        tokens[going, K] = torch.multinomial(target[going, K], 1, generator=generator).squeeze(1)
    return tokens, counts
