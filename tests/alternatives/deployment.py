"""Other correct answers to the tasks of deployment: the hidden suite must accept every one."""

import json
import math
from collections import OrderedDict, defaultdict, deque

import safetensors
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# clean_state_dict


@alternative("clean_state_dict")
def by_strings(checkpoint, dtype=None):
    state = checkpoint.get("model")
    if not isinstance(state, dict):
        state = checkpoint
    items = [(name, x) for name, x in state.items() if torch.is_tensor(x)]
    names = []
    for name, _ in items:
        kept = ".".join(part for part in name.split(".") if part != "_orig_mod")
        names.append(kept or name)
    while names and all(name.startswith("module.") for name in names):
        names = [name[len("module.") :] for name in names]
    out = {}
    for name, (_, x) in zip(names, items, strict=True):
        if name in out:
            raise ValueError(f"{name} comes twice")
        fresh = torch.empty(x.shape, dtype=dtype if dtype is not None and x.is_floating_point() else x.dtype)
        out[name] = fresh.copy_(x.detach())
    return out


@alternative("clean_state_dict")
@torch.no_grad()
def by_recursion(checkpoint, dtype=None):
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


# save_safe


@alternative("save_safe")
def in_groups(state, path, metadata=None):
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


@alternative("save_safe")
def by_hand(state, path, metadata=None):
    names = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16"}
    names |= {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}
    notes = dict(metadata or {})
    if any(not isinstance(part, str) for item in notes.items() for part in item) or any(k.startswith("tied:") for k in notes):
        raise ValueError("bad metadata")
    owners, header, blocks, at = {}, {}, [], 0
    order = sorted(state)
    for name in order:
        x = state[name].detach()
        key = (x.data_ptr(), x.shape, x.stride(), x.dtype) if x.numel() else (name,)
        if key in owners:
            notes["tied:" + name] = owners[key]
            continue
        owners[key] = name
        flat = x.contiguous().reshape(-1)
        block = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        header[name] = {"dtype": names[x.dtype], "shape": list(x.shape), "data_offsets": [at, at + len(block)]}
        blocks.append(block)
        at += len(block)
    text = json.dumps({"__metadata__": notes, **header}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blocks))


# load_safe


@alternative("load_safe")
def with_safe_open(path):
    with safetensors.safe_open(path, framework="pt") as file:
        notes = dict(file.metadata() or {})
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tied = {key[len("tied:") :]: value for key, value in notes.items() if key.startswith("tied:")}
    missing = [owner for owner in tied.values() if owner not in state]
    if missing:
        raise ValueError(f"{missing} are not there")
    state.update({name: state[owner] for name, owner in tied.items()})
    return dict(sorted(state.items())), {key: value for key, value in notes.items() if key[:5] != "tied:"}


@alternative("load_safe")
def from_bytes(path):
    from safetensors.torch import load

    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    state, metadata = load(data), {}
    tied = {}
    for key, value in (header.get("__metadata__") or {}).items():
        before, mark, name = key.partition("tied:")
        if mark and not before:
            try:
                tied[name] = state[value]
            except KeyError:
                raise ValueError(f"{value} is missing") from None
        else:
            metadata[key] = value
    return dict(sorted((state | tied).items())), metadata


# safe_load


@alternative("safe_load")
def checks_step_by_step(path, shapes, allowed=()):
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


@alternative("safe_load")
def any_error_is_a_refusal(path, shapes, allowed=()):
    with torch.serialization.safe_globals(list(set(allowed) - set(torch.serialization.get_safe_globals()))):
        try:
            loaded = torch.load(path, weights_only=True)
            fits = {name: list(x.shape) for name, x in loaded.items()} == {name: list(shape) for name, shape in shapes.items()}
            fits = fits and all(isinstance(x, torch.Tensor) for x in loaded.values())
        except Exception as error:
            raise ValueError("refused") from error
    if not fits:
        raise ValueError("something else was expected")
    return {name: loaded[name] for name in shapes}


# ScriptedGate


@alternative("ScriptedGate")
class WithOneLoop(nn.Module):
    def __init__(self, dim: int, threshold: float):
        super().__init__()
        self.loud = nn.Linear(dim, dim)
        self.quiet = nn.Linear(dim, dim)
        self.threshold: float = threshold

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        rounds = 0
        y = x
        while y.abs().mean().item() > self.threshold:
            y = 0.5 * y
            rounds = rounds + 1
        return (self.loud(y) if rounds > 0 else self.quiet(y)), rounds

    def save(self, path):
        with open(path, "wb") as file:
            torch.jit.save(torch.jit.script(self), file)


@alternative("ScriptedGate")
class WithAHelper(nn.Module):
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


# ExportableModel


@alternative("ExportableModel")
class BothAndWhere(nn.Module):
    def __init__(self, dim, threshold):
        super().__init__()
        self.threshold = threshold
        self.loud, self.quiet = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x):
        return torch.where(x.abs().mean() > self.threshold, self.loud(x), self.quiet(x)).flatten(1)

    def program(self, steps):
        example = torch.rand(3, steps, self.loud.in_features, dtype=self.quiet.weight.dtype, generator=torch.Generator().manual_seed(0))
        return torch.export.export(self, args=(example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


@alternative("ExportableModel")
class ChosenWeights(nn.Module):
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
        return torch.export.export(self, (example,), dynamic_shapes={"x": {0: torch.export.Dim("B", min=1)}})


# fuse_graph


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
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        new.weight.copy_(conv.weight * scale[:, None, None, None])
        new.bias.copy_(shift + (conv.bias * scale if conv.bias is not None else 0))
    return new.eval()


@alternative("fuse_graph")
def with_counts_of_targets(model):
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


@alternative("fuse_graph")
def with_new_names(model):
    graph_module = torch.fx.symbolic_trace(model)
    calls = [n for n in graph_module.graph.nodes if n.op == "call_module"]
    targets = [n.target for n in calls]
    found = []
    for n in calls:
        norm = graph_module.get_submodule(n.target)
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None and isinstance(n.args[0], torch.fx.Node):
            before = n.args[0]
            alone = before in calls and len(before.users) == 1 and targets.count(n.target) == targets.count(before.target) == 1
            behind_a_fused_one = [before] == [last for _, last in found][-1:]
            if alone and (behind_a_fused_one or isinstance(graph_module.get_submodule(before.target), nn.Conv2d)):
                found.append((before, n))
    places = {}
    for i, (before, n) in enumerate(found):
        before = places.get(before, before)
        new = _fused(graph_module.get_submodule(before.target), graph_module.get_submodule(n.target))
        graph_module.add_submodule(f"fused_{i}", new)
        with graph_module.graph.inserting_after(n):
            call = graph_module.graph.call_module(f"fused_{i}", args=before.args, kwargs=before.kwargs)
        n.replace_all_uses_with(call)
        places[n] = call
        graph_module.graph.erase_node(n)
        graph_module.graph.erase_node(before)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return graph_module.train(False)


# Handler


@alternative("Handler")
class RequestByRequest:
    def initialize(self, model, labels):
        model.eval()
        self.network, self.names = model, tuple(labels)

    def preprocess(self, requests):
        out = []
        for text in requests:
            name, inputs = None, None
            try:
                body = json.loads(text)
                name = body.get("id") if isinstance(body, dict) else None
                numbers = body["x"]
                if type(numbers) is list and len(numbers) == self.network.in_features and {type(n) for n in numbers} <= {int, float}:
                    largest = torch.finfo(torch.float32).max
                    row = torch.tensor([float(n) for n in numbers], dtype=torch.float64).float()
                    if all(math.isfinite(n) and abs(n) <= largest * 2 for n in numbers) and bool(torch.isfinite(row).all()):
                        inputs = row
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                pass
            out.append((name, inputs))
        return out

    def inference(self, inputs):
        if len(inputs) == 0:
            return torch.zeros(0, len(self.names))
        with torch.no_grad():
            return torch.softmax(self.network(torch.stack(tuple(inputs))), dim=-1)

    def handle(self, requests):
        rows = self.preprocess(requests)
        good = [i for i, (_, inputs) in enumerate(rows) if inputs is not None]
        scores = self.inference([rows[i][1] for i in good])
        answers = [{"id": name, "error": "this request can't be answered"} for name, _ in rows]
        for i, row in zip(good, scores.tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            answers[i] = {"id": rows[i][0], "label": self.names[best], "score": row[best]}
        return answers


class _Bad(Exception):
    def __init__(self, name=None):
        self.name = name


@alternative("Handler")
class WithExceptions:
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


# DynamicBatcher


@alternative("DynamicBatcher")
class OneList:
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


@alternative("DynamicBatcher")
class QueuesOfDeques:
    def __init__(self, run, max_size, max_wait, clock):
        self.run, self.max_size, self.max_wait, self.clock = run, max_size, max_wait, clock
        self.queues, self.state, self.next = defaultdict(deque), {}, 0

    def submit(self, request):
        ticket, self.next = self.next, self.next + 1
        self.queues[request.shape].append((self.clock(), ticket, request.clone()))
        self.state[ticket] = None
        return ticket

    def poll(self):
        now, finished = self.clock(), 0
        while True:
            due = sorted(
                (queue[0][1], shape)
                for shape, queue in ((tuple(s), q) for s, q in self.queues.items())
                if queue and (len(queue) >= self.max_size or now - queue[0][0] >= self.max_wait)
            )
            if not due:
                return finished
            queue = self.queues[torch.Size(due[0][1])]
            batch = [queue.popleft() for _ in range(min(self.max_size, len(queue)))]
            finished += len(batch)
            if not self._attempt(batch) and len(batch) > 1:
                for one in batch:
                    self._attempt([one])

    def _attempt(self, batch):
        try:
            rows = self.run(torch.stack([request for _, _, request in batch]))
        except Exception as error:
            self.state[batch[0][1]] = ("error", error)
            return False
        for (_, ticket, _), row in zip(batch, rows, strict=True):
            self.state[ticket] = ("row", row)
        return True

    def result(self, ticket):
        if self.state[ticket] is None:
            return None
        kind, value = self.state.pop(ticket)
        if kind == "error":
            raise value
        return value


# ContinuousBatcher


@alternative("ContinuousBatcher")
class ByNumber:
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


@alternative("ContinuousBatcher")
class WithGenerators:
    def __init__(self, model, *, slots, end):
        self.model, self.slots, self.end, self.jobs, self.count = model, slots, end, [], 0

    def submit(self, prompt, at_most):
        self.jobs.append({"number": self.count, "text": tuple(prompt), "left": at_most})
        self.count += 1
        return self.count - 1

    @torch.no_grad()
    def step(self):
        now = self.jobs[: self.slots]  # those in front have the slots
        if not now:
            return {}
        logits = self.model([list(job["text"]) for job in now])
        tokens = [(row == row.max()).nonzero()[0].item() for row in logits]
        for job, token in zip(now, tokens, strict=True):
            job["text"] += (token,)
            job["left"] -= 1
        over = [job for job in now if job["text"][-1] == self.end or job["left"] == 0]
        self.jobs = [job for job in self.jobs if job not in over]
        return {job["number"]: list(job["text"]) for job in over}

    def run(self):
        return {number: text for _ in iter(lambda: bool(self.jobs), False) for number, text in self.step().items()}


# speculative_step


@alternative("speculative_step")
def place_by_place(drafted, draft, target, *, generator):
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


@alternative("speculative_step")
def by_inverse_sums(drafted, draft, target, *, generator):
    B, K = drafted.shape
    index = drafted.unsqueeze(-1)
    p, q = torch.take_along_dim(target[:, :K], index, 2).squeeze(-1), torch.take_along_dim(draft, index, 2).squeeze(-1)
    u = torch.rand(B, K + 1, generator=generator, dtype=torch.float64)
    refused = u[:, :K] >= (p / q).double()
    counts = torch.where(refused.any(1), refused.int().argmax(1), K) if K else torch.zeros(B, dtype=torch.int64)
    padded = torch.cat([draft, draft.new_zeros(B, 1, target.shape[-1])], 1)
    place = counts[:, None, None].expand(-1, 1, target.shape[-1])
    now = target.gather(1, place)[:, 0]
    weights = (now - padded.gather(1, place)[:, 0]).clamp_min(0)
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, now).double()
    sums = weights.cumsum(-1)
    drawn = torch.searchsorted(sums, u[:, K:] * sums[:, -1:], right=True).clamp(max=target.shape[-1] - 1)
    tokens = torch.full((B, K + 1), -1)
    for k in range(K):
        tokens[:, k] = torch.where(k < counts, drafted[:, k], -1)
    return tokens.scatter(1, counts[:, None], drawn), counts
