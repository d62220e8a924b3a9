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
    # TODO: about 13 lines.
    raise NotImplementedError("clean_state_dict")


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
    # TODO: about 14 lines.
    raise NotImplementedError("save_safe")


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
    # TODO: about 12 lines.
    raise NotImplementedError("load_safe")


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
    # TODO: about 12 lines.
    raise NotImplementedError("safe_load")


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
        # TODO: about 3 lines.
        raise NotImplementedError("ScriptedGate.__init__")

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        """Take one of the two ways.

        Args:
            x: (…, dim), finite, with at least one number.

        Returns: y, of the shape of x, and the number of halvings, an int.
        """
        # TODO: about 9 lines.
        raise NotImplementedError("ScriptedGate.forward")

    def save(self, path: Path) -> None:
        """Write the model as TorchScript, for torch.jit.load; it decides there as it does here, in the mode in which it is."""
        # TODO: about 1 line.
        raise NotImplementedError("ScriptedGate.save")


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
        # TODO: about 3 lines.
        raise NotImplementedError("ExportableModel.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Take one of the two ways.

        Args:
            x: (B, T, D), finite. B ≥ 1, T ≥ 1.

        Returns: (B, T · D).
        """
        # TODO: about 2 lines.
        raise NotImplementedError("ExportableModel.forward")

    def program(self, steps: int) -> ExportedProgram:
        """Export the model, in the mode in which it is.

        Args:
            steps: T, which the program may have built in.

        Returns: a program whose module() takes (B, T, D) for every B ≥ 1.
        """
        # TODO: about 2 lines.
        raise NotImplementedError("ExportableModel.program")


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
    # TODO: about 19 lines.
    raise NotImplementedError("fuse_graph")


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
        # TODO: about 1 line.
        raise NotImplementedError("Handler.initialize")

    def preprocess(self, requests: Sequence[str]) -> list[tuple[Any, Tensor | None]]:
        """Read the requests.

        Returns: for each, its id and its inputs, (D,), float32; None in place of inputs for a bad one.
        """
        # TODO: about 1 line, and 17 in helpers of your own.
        raise NotImplementedError("Handler.preprocess")

    def inference(self, inputs: Sequence[Tensor]) -> Tensor:
        """Run the model, without recording a graph, once for all inputs.

        Args:
            inputs: (D,) each. There may be none.

        Returns: the softmax of the outputs, (number of inputs, labels). For no inputs the model is not called.
        """
        # TODO: about 4 lines.
        raise NotImplementedError("Handler.inference")

    def handle(self, requests: Sequence[str]) -> list[dict[str, Any]]:
        """Answer a batch of requests, of which there may be none."""
        # TODO: about 10 lines.
        raise NotImplementedError("Handler.handle")


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
        # TODO: about 4 lines.
        raise NotImplementedError("DynamicBatcher.__init__")

    def submit(self, request: Tensor) -> int:
        """Take a request, without running anything. Whoever changes the tensor afterwards changes nothing here.

        Returns: its ticket: 0 for the first, 1 for the second, and so on.
        """
        # TODO: about 4 lines.
        raise NotImplementedError("DynamicBatcher.submit")

    def poll(self) -> int:
        """Run what is due now.

        As long as a queue is due, that is done once more: of the due queues, take the one with the oldest request, and run its oldest
        ones, at most max_size. If `run` raises an Exception and there are several, each of them runs again by itself, in their order,
        as a batch of one, so that only those fail that can't be run. The clock is read once.

        Returns: how many requests were finished, failed ones included.
        """
        # TODO: about 8 lines, and 13 in helpers of your own.
        raise NotImplementedError("DynamicBatcher.poll")

    def result(self, ticket: int) -> Tensor | None:
        """Hand over a result, which is forgotten then.

        Returns: the row of what `run` returned; None as long as the request waits.
        Raises: what `run` raised for it; KeyError if there is no such ticket, or if its result has been handed over or raised before.
        """
        # TODO: about 8 lines.
        raise NotImplementedError("DynamicBatcher.result")


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
        # TODO: about 4 lines.
        raise NotImplementedError("ContinuousBatcher.__init__")

    def submit(self, prompt: Sequence[int], at_most: int) -> int:
        """Let a text wait for a slot.

        Args:
            prompt: its first tokens, at least one. It may have `end` in it, which ends nothing.
            at_most: how many new tokens it may get, at least 1.

        Returns: its number: 0, 1, 2, … in the order in which they are submitted.
        """
        # TODO: about 3 lines.
        raise NotImplementedError("ContinuousBatcher.submit")

    def step(self) -> dict[int, list[int]]:
        """Fill free slots, in the order of submission, and give each growing text its likeliest next token: one call of the model.

        The texts go into the model in the order of their numbers. Of several likeliest tokens the smallest is taken.

        Returns: the texts that are finished now, by number, with their prompts.
        """
        # TODO: about 14 lines.
        raise NotImplementedError("ContinuousBatcher.step")

    def run(self) -> dict[int, list[int]]:
        """Step until all texts are finished. Returns: those that were finished by it."""
        # TODO: about 4 lines.
        raise NotImplementedError("ContinuousBatcher.run")


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
    # TODO: about 14 lines.
    raise NotImplementedError("speculative_step")
