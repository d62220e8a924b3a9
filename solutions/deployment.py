"""Deployment: leave the notebook. Save what was trained so that others can load it without fear, and serve it to many at once.

Every task stands alone. Paths are pathlib.Path, in a folder that can be written. Nothing here waits or sleeps: where time counts, a clock
is handed in, a function that returns seconds.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import json
import pickle
import struct
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.nn.utils.fusion import fuse_conv_bn_eval


def clean_state_dict(checkpoint: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Make a state dict that loads anywhere out of what a training run has saved.

    Where the checkpoint has an entry "model" that is a dict, that is the state, and the rest (optimizer, epoch, …) goes. Otherwise the
    checkpoint is the state. Of the state's entries, those that are no tensors go.

    Names lose what wrappers have added. First, each part `_orig_mod` (of torch.compile) goes, wherever it stands between the dots; a
    name that is nothing else stays as it is. Then, as long as every name begins with the part `module` (of DataParallel) and goes on
    behind it, that part goes from all: "module._orig_mod.head.weight" becomes "head.weight". Where one name is "module" alone, or has
    no such part, all names keep theirs.

    Each tensor becomes a contiguous one on the CPU, without a graph and with a memory of its own, that holds no more than its numbers:
    two names that shared a memory do not share it afterwards. With `dtype`, floating tensors get it; integers and bools stay.

    Args:
        checkpoint: from torch.load. It stays as it is.
        dtype: a floating dtype; None keeps each tensor's own.

    Returns: the tensors by their names, in the same order.
    Raises: ValueError if two names become the same.
    """
    state = checkpoint["model"] if isinstance(checkpoint.get("model"), dict) else checkpoint
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    parts = {name: [part for part in name.split(".") if part != "_orig_mod"] or name.split(".") for name in tensors}
    while parts and all(len(part) > 1 and part[0] == "module" for part in parts.values()):
        parts = {name: part[1:] for name, part in parts.items()}
    names = [".".join(part) for part in parts.values()]
    if len(set(names)) < len(names):
        raise ValueError("two names become the same")
    clean = {}
    for name, tensor in zip(names, tensors.values(), strict=True):
        tensor = tensor.detach().to("cpu", dtype if dtype and tensor.is_floating_point() else tensor.dtype)
        clean[name] = tensor.clone(memory_format=torch.contiguous_format)
    return clean


def save_safe(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as a safetensors file, which nobody can hide a program in.

    Such a file holds each tensor's numbers once, and tensors that share a memory are refused. So entries that are tied, that is, that
    look at the same memory with the same shape, strides and dtype, are saved under the name that comes first in alphabetical order,
    and the file's metadata say for each other one whose it is: the key "tied:" + name has the first name as its value. Entries that
    share a memory in another way, such as a view of a part, are saved each by itself, and so are tensors without numbers. All are saved
    contiguously.

    Args:
        state: tensors on the CPU by name. It stays as it is.
        path: is written over if it exists.
        metadata: more entries for the file's metadata; None stands for none.

    Raises: ValueError if a key or value of the metadata is no str, or if a key begins with "tied:". Then nothing is written.
    """
    notes = dict(metadata or {})
    if not all(isinstance(key, str) and isinstance(value, str) and not key.startswith("tied:") for key, value in notes.items()):
        raise ValueError("metadata are strings by strings, and their keys don't begin with 'tied:'")
    first: dict[Hashable, str] = {}
    tensors = {}
    for name in sorted(state):
        tensor = state[name]
        looks_at = tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        if tensor.numel() and looks_at in first:
            notes[f"tied:{name}"] = first[looks_at]
        else:
            first[looks_at] = name
            tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    save_file(tensors, path, notes)


def load_safe(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what save_safe has written.

    A safetensors file begins with the length of its header, eight bytes, little-endian, followed by the header, a JSON object. Its entry
    "__metadata__", if there is one, holds strings by strings; every other entry describes a tensor. An entry "tied:" + name of the metadata
    says under which name the tensor is saved that `name` shares: in the result both names have the same tensor. The first name is always
    one of a tensor in the file, never a tied one.

    Args:
        path: the file.

    Returns: the tensors by name, in alphabetical order of the names, and the metadata without the entries of tied names.
    Raises: ValueError if a tied name's tensor is not in the file, whatever the order of the entries is.
    """
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    saved = load_file(path)
    state = dict(saved)
    for key, owner in metadata.items():
        if key.startswith("tied:"):
            if owner not in saved:
                raise ValueError(f"there is no tensor {owner}, which {key.removeprefix('tied:')} shares")
            state[key.removeprefix("tied:")] = saved[owner]
    notes = {key: value for key, value in metadata.items() if not key.startswith("tied:")}
    return {name: state[name] for name in sorted(state)}, notes


def safe_load(path: Path, shapes: dict[str, tuple[int, ...]], allowed: Sequence[type] = ()) -> dict[str, Tensor]:
    """Load a checkpoint of torch.save from somebody whom you don't know.

    A pickle can run any program when it is loaded. With weights_only=True torch.load reads tensors and plain values only, and refuses
    everything else, except the classes that are allowed; torch.serialization.safe_globals allows them for a while, and forbids them
    afterwards, also those that somebody had allowed before. After this function the same classes are allowed as before it
    (torch.serialization.get_safe_globals lists them).

    The file should hold a dict with exactly the names in `shapes`, each with a tensor of that shape.

    Args:
        path: the file.
        shapes: what is expected.
        allowed: classes that the file may need besides, such as a subclass of Tensor.

    Returns: the tensors by name, in the order of `shapes`.
    Raises: ValueError if the file is refused, or if it holds something else than expected; a program in it has not run then. A file that
    is no checkpoint at all may raise any error.
    """
    before = torch.serialization.get_safe_globals()
    try:
        with torch.serialization.safe_globals([kind for kind in allowed if kind not in before]):
            loaded = torch.load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("the file needs more than tensors and plain values") from error
    if not isinstance(loaded, dict) or set(loaded) != set(shapes):
        raise ValueError(f"the file should have the names {sorted(shapes)}")
    for name, shape in shapes.items():
        if not isinstance(loaded[name], Tensor) or tuple(loaded[name].shape) != tuple(shape):
            raise ValueError(f"{name} should be a tensor of shape {tuple(shape)}")
    return {name: loaded[name] for name in shapes}


class ScriptedGate(nn.Module):
    """A model whose way depends on its numbers, saved as TorchScript, so that C++ can run it without Python.

        if the mean of |x| is above `threshold`:
            halve x again and again, until it is not
            y = loud(x)
        else:
            y = quiet(x)

    `loud` and `quiet` are nn.Linear(dim, dim); the state dict holds these two only. forward returns y and how often x was halved, which
    may be often: finite numbers can be as large as 1e38.

    torch.jit.trace runs the model once and writes down what happened, so that the other branch, and any other number of rounds, are
    lost. torch.jit.script translates the code itself. TorchScript is deprecated, and many servers still run it; torch.export is what
    follows it. It warns of that, which is fine.

    Args of the constructor:
        dim: the size of the last axis.
        threshold: above 0.
    """

    def __init__(self, dim: int, threshold: float) -> None:
        """Make the layers; see the class."""
        super().__init__()
        self.loud, self.quiet = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.threshold = threshold

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        """Take one of the two ways.

        Args:
            x: (…, dim), finite, with at least one number.

        Returns: y, of the shape of x, and the number of halvings, an int.
        """
        rounds = 0
        if float(x.abs().mean()) > self.threshold:
            while float(x.abs().mean()) > self.threshold:
                x = x / 2
                rounds += 1
            y = self.loud(x)
        else:
            y = self.quiet(x)
        return y, rounds

    def save(self, path: Path) -> None:
        """Write the model as TorchScript, for torch.jit.load; it decides there as it does here, in the mode in which it is."""
        torch.jit.script(self).save(str(path))


class ExportableModel(nn.Module):
    """A model that torch.export can take as a whole, for any batch.

    This is what somebody wrote for a notebook, and torch.export refuses it: the branch depends on numbers, and the size of the batch is
    built in.

        def forward(self, x):                    # (B, T, D)
            if x.abs().mean() > self.threshold:
                y = self.loud(x)
            else:
                y = self.quiet(x)
            return y.reshape(8, -1)              # (B, T · D)

    Write it so that it gives the same for every B, and can be exported: torch.cond(predicate, f, g, (x,)) chooses between two functions
    where the program runs. `loud` and `quiet` are nn.Linear(D, D), and the state dict holds these two only; `threshold` is a float.

    Args of the constructor:
        dim: D.
        threshold: above 0.
    """

    def __init__(self, dim: int, threshold: float) -> None:
        """Make the layers; see the class."""
        super().__init__()
        self.loud, self.quiet = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Take one of the two ways.

        Args:
            x: (B, T, D), finite. B ≥ 1, T ≥ 1.

        Returns: (B, T · D).
        """
        y = torch.cond(x.abs().mean() > self.threshold, lambda x: self.loud(x), lambda x: self.quiet(x), (x,))
        return y.reshape(x.shape[0], -1)

    def program(self, steps: int) -> ExportedProgram:
        """Export the model, in the mode in which it is.

        Args:
            steps: T, which the program may have built in.

        Returns: a program whose module() takes (B, T, D) for every B ≥ 1.
        """
        example = torch.zeros(2, steps, self.loud.in_features, dtype=self.loud.weight.dtype)
        return export(self, (example,), dynamic_shapes={"x": {0: Dim("batch", min=1)}})


def fuse_graph(model: nn.Module) -> fx.GraphModule:
    """Let convolutions take over the batch norms behind them, by looking at the graph.

    In eval mode a batch norm is a scale and a shift, which the convolution before it can do at no cost
    (torch.nn.utils.fusion.fuse_conv_bn_eval makes such a convolution of the two, with the settings and the dtype of the old one).
    torch.fx.symbolic_trace shows which is before which, whatever the modules are called and in which order they were made.

    A pair of an nn.Conv2d and an nn.BatchNorm2d is fused where the batch norm has running statistics, its input is the convolution's
    output, nobody else uses that output, and each of the two modules is called just once in the whole graph. All others stay. After
    a fusion the graph calls the new convolution in the place of the old one, and no longer the batch norm, which is no submodule of
    the result any more. A second batch norm, behind the first, then follows the new convolution, and is fused with it too.

    Args:
        model: in eval mode; symbolic_trace can trace it. It stays as it is, its parameters included.

    Returns: a graph module in eval mode, with no memory in common with the model's batch norms and fused convolutions.
    """
    graph_module = fx.symbolic_trace(model)
    calls = [node for node in graph_module.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    for node in calls:
        norm = graph_module.get_submodule(node.target)
        before = node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv = graph_module.get_submodule(before.target)
        if not isinstance(conv, nn.Conv2d) or targets.count(before.target) > 1 or targets.count(node.target) > 1:
            continue
        graph_module.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        graph_module.graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return graph_module


class Handler:
    """Answer requests with a model, in the four steps of TorchServe's handlers.

    A request is the text of a JSON object, such as {"id": "a7", "x": [0.5, 2]}. Its x are the model's D inputs, numbers that are
    finite in float32. An answer is a dict. For a good request:

        {"id": …, "label": …, "score": …}

    with the request's id, or None if it has none, the label of the largest output and its softmax, a float. An id can be any value, and
    several requests can have the same. For a bad request:

        {"id": …, "error": …}

    with the id if it can be read, else None, and a sentence of your own, a str that is not empty. A request is bad if it is no JSON
    object, has no x, or its x is no list of D finite numbers (true and false are none). It harms no other one: the good ones of a
    batch get their answers, and all answers stand in the order of the requests.
    """

    def initialize(self, model: nn.Module, labels: Sequence[str]) -> None:
        """Take a model, for (B, D) with D = model.in_features, and the label of each output. It will run in eval mode; bring it there."""
        self.model, self.labels = model.eval(), list(labels)

    def preprocess(self, requests: Sequence[str]) -> list[tuple[Any, Tensor | None]]:
        """Read the requests.

        Returns: for each, its id and its inputs, (D,), float32; None in place of inputs for a bad one.
        """
        return [self._read(request) for request in requests]

    def inference(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the model, without recording a graph, once for all inputs.

        Args:
            inputs: (D,) each. There may be none.

        Returns: the softmax of the outputs, (number of inputs, labels). For no inputs the model is not called.
        """
        if not inputs:
            return torch.empty(0, len(self.labels))
        with torch.inference_mode():
            return self.model(torch.stack(list(inputs))).softmax(1)

    def handle(self, requests: Sequence[str]) -> list[dict[str, Any]]:
        """Answer a batch of requests, of which there may be none."""
        read = self.preprocess(requests)
        scores = iter(self.inference([x for _, x in read if x is not None]))
        answers: list[dict[str, Any]] = []
        for name, x in read:
            if x is None:
                answers.append({"id": name, "error": f"send a JSON object whose x has {self.model.in_features} finite numbers"})
            else:
                score, index = next(scores).max(0)
                answers.append({"id": name, "label": self.labels[int(index)], "score": float(score)})
        return answers

    def _read(self, request: str) -> tuple[Any, Tensor | None]:
        try:
            read = json.loads(request)
        except (ValueError, RecursionError):
            return None, None
        if not isinstance(read, dict):
            return None, None
        name, x = read.get("id"), read.get("x")
        if not isinstance(x, list) or len(x) != self.model.in_features:
            return name, None
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in x):
            return name, None
        try:
            inputs = torch.tensor([float(number) for number in x])
        except OverflowError:
            return name, None
        return name, inputs if inputs.isfinite().all() else None


class DynamicBatcher:
    """Collect requests for a short while, so that the model answers several at once.

    Requests are tensors, and only those of one shape can be stacked to a batch. So there is a queue for each shape. A queue is due when
    it has max_size requests, or when its oldest request has waited max_wait seconds or longer.

    Args of the constructor:
        run: takes (B, …) and returns B results, a tensor (B, …). It may raise an Exception.
        max_size: how many requests run at once, at least 1.
        max_wait: seconds, 0 or more.
        clock: returns the time in seconds; it never goes back.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], *, max_size: int, max_wait: float, clock: Callable[[], float]) -> None:
        """Begin without requests; see the class."""
        self.run, self.max_size, self.max_wait, self.clock = run, max_size, max_wait, clock
        self.queues: dict[tuple[int, ...], list[tuple[int, Tensor, float]]] = {}
        self.done: dict[int, Tensor | Exception] = {}
        self.tickets = 0

    def submit(self, request: Tensor) -> int:
        """Take a request, without running anything. Whoever changes the tensor afterwards changes nothing here.

        Returns: its ticket: 0 for the first, 1 for the second, and so on.
        """
        ticket = self.tickets
        self.tickets += 1
        self.queues.setdefault(tuple(request.shape), []).append((ticket, request.clone(), self.clock()))
        return ticket

    def poll(self) -> int:
        """Run what is due now.

        As long as a queue is due, that is done once more: of the due queues, take the one with the oldest request, and run its oldest
        ones, at most max_size. If `run` raises an Exception and there are several, each of them runs again by itself, in their order,
        as a batch of one, so that only those fail that can't be run. The clock is read once.

        Returns: how many requests were finished, failed ones included.
        """
        now, finished = self.clock(), 0
        while due := [queue for queue in self.queues.values() if self._is_due(queue, now)]:
            queue = min(due, key=lambda queue: queue[0][0])
            batch = queue[: self.max_size]
            del queue[: self.max_size]
            self._finish(batch)
            finished += len(batch)
        return finished

    def result(self, ticket: int) -> Tensor | None:
        """Hand over a result, which is forgotten then.

        Returns: the row of what `run` returned; None as long as the request waits.
        Raises: what `run` raised for it; KeyError if there is no such ticket, or if its result has been handed over or raised before.
        """
        if ticket in self.done:
            result = self.done.pop(ticket)
            if isinstance(result, Exception):
                raise result
            return result
        if any(ticket == waiting for queue in self.queues.values() for waiting, _, _ in queue):
            return None
        raise KeyError(ticket)

    def _is_due(self, queue: list[tuple[int, Tensor, float]], now: float) -> bool:
        return bool(queue) and (len(queue) >= self.max_size or now - queue[0][2] >= self.max_wait)

    def _finish(self, batch: list[tuple[int, Tensor, float]]) -> None:
        try:
            results = self.run(torch.stack([request for _, request, _ in batch]))
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    self._finish([one])
            else:
                self.done[batch[0][0]] = error
        else:
            self.done.update({ticket: row for (ticket, _, _), row in zip(batch, results, strict=True)})


class ContinuousBatcher:
    """Generate many texts at once, and let each begin and end on its own (Yu et al. 2022, "Orca", section 3.2).

    A text has a slot while it grows. In each step every slot's text gets its next token, and all run together. A text is finished when
    it gets the token `end`, which it keeps, or when it has got as many new tokens as it may. Its slot is then free, and the longest
    waiting text takes it at the beginning of the next step: nobody waits for the others to be finished.

    Args of the constructor:
        model: takes a list of k texts, lists of ints of different lengths, and returns (k, tokens), logits of what comes next; it is
            not called for none. Row i depends on text i only.
        slots: how many texts grow at once, at least 1.
        end: the token that ends a text.
    """

    def __init__(self, model: Callable[[list[list[int]]], Tensor], *, slots: int, end: int) -> None:
        """Begin without texts; see the class."""
        self.model, self.slots, self.end = model, slots, end
        self.waiting: list[tuple[int, list[int], int]] = []
        self.growing: list[tuple[int, list[int], int]] = []
        self.count = 0

    def submit(self, prompt: Sequence[int], at_most: int) -> int:
        """Let a text wait for a slot.

        Args:
            prompt: its first tokens, at least one. It may have `end` in it, which ends nothing.
            at_most: how many new tokens it may get, at least 1.

        Returns: its number: 0, 1, 2, … in the order in which they are submitted.
        """
        self.waiting.append((self.count, list(prompt), at_most))
        self.count += 1
        return self.count - 1

    def step(self) -> dict[int, list[int]]:
        """Fill free slots, in the order of submission, and give each growing text its likeliest next token: one call of the model.

        The texts go into the model in the order of their numbers. Of several likeliest tokens the smallest is taken.

        Returns: the texts that are finished now, by number, with their prompts.
        """
        while self.waiting and len(self.growing) < self.slots:
            self.growing.append(self.waiting.pop(0))
        if not self.growing:
            return {}
        tokens = self.model([list(text) for _, text, _ in self.growing]).argmax(1).tolist()
        finished, going = {}, []
        for (number, text, left), token in zip(self.growing, tokens, strict=True):
            text.append(token)
            if token == self.end or left == 1:
                finished[number] = text
            else:
                going.append((number, text, left - 1))
        self.growing = going
        return finished

    def run(self) -> dict[int, list[int]]:
        """Step until all texts are finished. Returns: those that were finished by it."""
        finished: dict[int, list[int]] = {}
        while self.waiting or self.growing:
            finished |= self.step()
        return finished


def speculative_step(drafted: Tensor, draft: Tensor, target: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Check tokens that a small model has guessed, so that the result is distributed as if the large one had drawn it
    (Leviathan, Kalman & Matias 2023, algorithm 1).

    For each of B texts, a small model has drawn K tokens, one after another, from q = draft[:, 0], …, draft[:, K − 1]. The large
    model has looked at all of them at once, and would draw them from p = target[:, 0], …, target[:, K − 1], and a token after them from
    target[:, K].

    The guesses are looked at in their order. Guess x at place k is accepted with the probability min(1, p[x] / q[x]), where p and q
    are those of its place. At the first one that is not, a token is drawn in its place from max(0, p − q), divided by its sum, and
    the text's step is over. Where all are accepted, one more is drawn from target[:, K].

    All that is random comes from the generator. How it is used is free: tests look at frequencies.

    Args:
        drafted: (B, K), int64. K may be 0.
        draft: (B, K, V), probabilities, with q[x] > 0 for each guess x.
        target: (B, K + 1, V), probabilities, of the same dtype.

    Returns: tokens (B, K + 1), int64: accepted guesses, then the token that was drawn, then −1; and counts (B,), int64, how many
    guesses were accepted.
    """
    B, K = drafted.shape
    rows = torch.arange(B)
    p = target[:, :K].gather(2, drafted[..., None])[..., 0]  # (B, K)
    q = draft.gather(2, drafted[..., None])[..., 0]
    accepted = torch.rand(B, K, generator=generator, dtype=p.dtype) * q < p
    counts = accepted.long().cumprod(1).sum(1)  # (B,)
    rest = torch.cat([draft, torch.zeros_like(target[:, :1])], 1)[rows, counts]  # of what was refused; 0 after the last guess
    left = (target[rows, counts] - rest).clamp(min=0)
    left = torch.where(left.sum(1, keepdim=True) > 0, left, target[rows, counts])  # rounding may leave nothing
    drawn = torch.multinomial(left, 1, generator=generator)
    tokens = torch.cat([drafted, drafted.new_full((B, 1), -1)], 1)
    place = torch.arange(K + 1)
    tokens = torch.where(place < counts[:, None], tokens, -1)
    return tokens.scatter(1, counts[:, None], drawn), counts
