"""Capstone: train a network with few weights, quantize it, pack it into a small file, and serve it.

    1  train_sparse_digits   images and labels      →  weights, most of them 0
    2  quantize_weights      float32                →  int8 and scales
    3  pack_model            int8 and scales        →  a file of safetensors, without the zeros
    4  RequestHandler        the file, requests     →  answers
    5  TicketBatcher         single requests        →  batches, under load

A network of 2,368 weights and 42 biases takes 9,640 bytes in float32. After the third stage, it takes about 1,030.

Every stage stands alone: it gets what the stages before it make. Arguments, modes, generators and other global state are left as you
found them, unless the statement says otherwise. Tensors may be non-contiguous.
"""

import base64
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def train_sparse_digits(images: Tensor, labels: Tensor, *, classes: int, keep: int, seed: int) -> dict[str, Tensor]:
    """Train a network that reads digits, of whose weights at most `keep` are not 0 (Han et al. 2015, section 3).

    The network is exactly this one, with D = H · W:

        nn.Sequential(nn.Flatten(), nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, classes))

    Of the entries of "1.weight" and "3.weight" together, at most `keep` are other than 0, however small. Biases don't count. With `keep` of
    all entries or more, none has to be 0.

    On held-out digits of 8×8 pixels, the weights that you return must be right for at least 88 %, on average over two draws of 900 images,
    with ten classes and `keep` around 400. That is a sixth of the 2,368 weights.

    One way reaches about 92 %, in 0.2 seconds; ten seconds is the limit. Take 60 steps of AdamW on all images, with a learning rate of
    2e-2. Keep the weights that are largest in absolute value, of both matrices together, and set the others to 0. A network that
    loses five sixths of its weights knows little: about 30 %. So take 100 steps more, with a new optimizer, and set the same weights to 0
    after each. Learn from the labels that you are given: the test renames the digits at random.

    Args:
        images: (N, 1, H, W), float32, from 0 to 1, also of other sizes.
        labels: (N,), int64, 0 … classes − 1.
        classes: at least 2. With 3 of them, 7×9 pixels, and `keep` of 350 or of all weights, 88 % must be right.
        keep: at least 1.
        seed: the same seed gives the same weights, whatever the state of the global generators before the call. (Here you may seed the
            global generators.)

    Returns: the network's state_dict(): "1.weight", "1.bias", "3.weight" and "3.bias", float32.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 32), nn.ReLU(), nn.Linear(32, classes))
    weights = [model[1].weight, model[3].weight]

    def train(steps: int, masks: Sequence[Tensor | int]) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, fused=True)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            with torch.no_grad():
                for w, mask in zip(weights, masks, strict=True):
                    w.mul_(mask)

    train(60, [1, 1])
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    kept = torch.zeros_like(sizes)
    kept[sizes.topk(min(keep, len(sizes))).indices] = 1
    parts = kept.split([w.numel() for w in weights])
    train(100, [part.view_as(w) for part, w in zip(parts, weights, strict=True)])
    return model.state_dict()


def quantize_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a network's weights into int8, with a scale for each output channel (Krishnamoorthi 2018, section 2.1).

    What becomes of a tensor depends on its dtype and dimensions:

        floating, two dimensions or more   name → int8, same shape; and name + ".scale" → float32, (C,)
        floating, fewer dimensions         name → float32: biases are few, and errors in them are not averaged away
        other dtypes                       name → a copy

    The channels are the slices w[c] along the first dimension, of size C: rows of a linear layer, filters of a convolution. Each has a
    scale of its own:

        scale_c = max |w_c| / 127, or 1 where the channel is all 0
        q_c = round(w_c / scale_c), halves to even; from −127 to 127

    So q_c · scale_c is within half a scale of w_c. What is 0 stays 0. Compute in float32 or float64, also for float16: 127 steps
    in float16 would be off by more than half a scale.

    Args:
        weights: any tensors by name, none of them empty; there may be none. Floating ones are float16, bfloat16, float32 or float64, and
            finite; of those with two dimensions or more, the largest absolute value of each channel is 0 or between 1e-30 and 1e30.
            Parameters may require gradients. No name ends in ".scale".

    Returns: a new dict; none of its tensors shares memory with an argument or requires gradients.
    Not allowed: torch.quantize_per_channel, torch.fake_quantize_… and what torch.ao has of the kind.
    """
    quantized = {}
    for name, w in weights.items():
        w = w.detach()
        if not w.is_floating_point():
            quantized[name] = w.clone()
        elif w.ndim < 2:
            quantized[name] = w.to(torch.float32, copy=True)
        else:
            rows = w.double().flatten(1)  # (C, ...)
            scale = (rows.abs().amax(1) / 127).float()
            scale = scale.masked_fill(scale == 0, 1.0)
            quantized[name] = (rows / scale[:, None]).round().to(torch.int8).view(w.shape)
            quantized[f"{name}.scale"] = scale
    return quantized


def pack_model(path: str | Path, tensors: Mapping[str, Tensor], labels: Sequence[str]) -> None:
    """Write a quantized network into a file of safetensors, and leave zeros out where that is shorter.

    An int8 tensor of n entries, k of them other than 0, takes n bytes. A bit for each entry and the k others take ⌈n / 8⌉ + k bytes. Where
    that is less than n, two tensors take the place of `name`:

        name + ".bits"     uint8, (⌈n / 8⌉,): entry i, in row-major order, has the bit of value 2^(i mod 8) in byte ⌊i / 8⌋; the bit
                           is 1 if the entry is not 0; bits that are left over are 0
        name + ".values"   int8, (k,): the entries that are not 0, in row-major order

    All other tensors are written under their own names, with their dtype, shape and values. Nothing else is in the file but its
    metadata, which safetensors wants as a dict of strings, with these three keys:

        "format"   "sparse-int8"
        "labels"   the labels as JSON, a list
        "shapes"   JSON, an object: the shape, a list, for each name whose zeros were left out

    Example: [[0, 5, 0, 0], [0, 0, 0, −3]] in int8 has the bits 1 and 7: ".bits" is [2 + 128], ".values" [5, −3], the shape [2, 4].

    A server may be reading an old file under this path, so it must not be written over. Write another file in the same folder,
    and let os.replace put it in the old one's place: who has the old one open goes on reading it, and who opens the path finds one of the
    two, whole. At the end, no other file is left in the folder.

    Args:
        path: in a folder that exists; a str or a Path. An old file is replaced.
        tensors: by name; of any dtype and shape. They may be non-contiguous, share memory (also be the same tensor twice; each is written),
            and require gradients. safetensors itself refuses some of these.
        labels: names of the classes, any texts, in a list or a tuple.

    Raises: ValueError if a floating tensor has an entry that is not finite; the folder stays as it is, with an old file in it or not.
    """
    if not all(t.isfinite().all() for t in tensors.values() if t.is_floating_point()):
        raise ValueError("a tensor is not finite")
    packed, shapes = {}, {}
    for name, t in tensors.items():
        flat = t.flatten()
        kept, n = flat != 0, t.numel()
        if t.dtype == torch.int8 and -(-n // 8) + kept.sum() < n:
            bits = F.pad(kept, (0, -n % 8)).view(-1, 8) * (2 ** torch.arange(8))
            packed[f"{name}.bits"], packed[f"{name}.values"] = bits.sum(1).to(torch.uint8), flat[kept]
            shapes[name] = t.shape
        else:
            packed[name] = t.clone(memory_format=torch.contiguous_format)
    metadata = {"format": "sparse-int8", "labels": json.dumps(labels), "shapes": json.dumps(shapes)}
    safetensors.torch.save_file(packed, f"{path}.new", metadata)
    os.replace(f"{path}.new", path)


class RequestHandler:
    """Serve a packed network: bytes in, answers out. No request can harm the others.

    The file is as `pack_model` describes it. Its network is a chain of linear layers with a ReLU between any two. Layer i has int8 weights
    "i.weight" (out, in), packed with or without their zeros, scales "i.weight.scale" (out,) and a bias "i.bias" (out,), both float32. The i
    are whole numbers, and the layers come in their order: 9 before 10. A weight is q · scale of its row. Layers have no other tensors.
    Compute in float32 or float64.

    Everything is read in the constructor: afterwards, the file may be gone. Handlers of several files live side by side. The
    constructor may draw random numbers from torch's global generator, as nn.Linear does when it is made; handle may not.

    Args of the constructor:
        path: a str or a Path.

    Raises: ValueError from the constructor, if the file's metadata do not say "format": "sparse-int8".
    """

    def __init__(self, path: str | Path) -> None:
        """Read the file; see the class."""
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        if metadata.get("format") != "sparse-int8":
            raise ValueError(f"{path} is not of the format sparse-int8")
        self.labels = json.loads(metadata["labels"])
        for name, shape in json.loads(metadata["shapes"]).items():
            bits = tensors[f"{name}.bits"][:, None] & (2 ** torch.arange(8))
            tensors[name] = torch.zeros(shape, dtype=torch.int8)
            tensors[name].view(-1)[bits.flatten().nonzero()[:, 0]] = tensors[f"{name}.values"]
        self.layers = []
        for i in sorted(int(name.removesuffix(".bias")) for name in tensors if name.endswith(".bias")):
            scale = tensors[f"{i}.weight.scale"]
            self.layers.append((tensors[f"{i}.weight"] * scale[:, None], tensors[f"{i}.bias"]))

    def handle(self, requests: Sequence[bytes]) -> list[dict[str, Any]]:
        """Answer some requests, each as if it were alone.

        A request is JSON: {"id": "any text", "pixels": "base64"}. The pixels are D bytes, D the inputs of the first layer; pixel x is the
        network's input x / 255. Other keys mean nothing. The answer to it is

            {"id": its id, "label": the label with the largest logit, "probability": that label's softmax, a float}

        The answer to a bad request is {"id": id, "error": what}, with the first of these that is true:

            what       id      when
            "json"     None    json.loads can't read it, or it is no object
            "id"       None    "id" is missing, or no text
            "pixels"   its id  "pixels" is missing, no text, no strict base64, or of another number of bytes

        Strict base64 has no characters outside its alphabet: base64.b64decode skips them, unless you say validate=True.

        Whatever bytes a request has, it gets an answer, and raises nothing. Bytes that are no text in UTF-8 are bad as well, and so are
        100,000 opening brackets, for which json.loads raises a RecursionError.

        Args:
            requests: any number, also 0; all of them may be bad. The same id may come several times.

        Returns: the answers, in the order of the requests. Run the network once for all good ones: tests don't see it, users do.
        """
        answers, rows, good = [], [], []
        for request in requests:
            answer, pixels = self._decode(request)
            if pixels is not None:
                rows.append(list(pixels))
                good.append(answer)
            answers.append(answer)
        if rows:
            x = torch.tensor(rows) / 255
            for number, (weight, bias) in enumerate(self.layers):
                x = F.linear(x.relu() if number else x, weight, bias)
            best = x.softmax(1).max(1)
            for answer, probability, label in zip(good, best.values.tolist(), best.indices, strict=True):
                answer |= {"label": self.labels[label], "probability": probability}
        return answers

    def _decode(self, request: bytes) -> tuple[dict[str, Any], bytes | None]:
        """The answer as far as it is known, and the pixels of a good request."""
        try:
            content = json.loads(request)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            return {"id": None, "error": "json"}, None
        name, text = content.get("id"), content.get("pixels")
        if not isinstance(name, str):
            return {"id": None, "error": "id"}, None
        try:
            pixels = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        except ValueError:
            pixels = b""
        if len(pixels) != self.layers[0][0].shape[1]:
            return {"id": name, "error": "pixels"}, None
        return {"id": name}, pixels


class TicketBatcher:
    """Collect single requests into batches: many are cheaper together, and none waits too long.

    submit(request) gives a ticket, and result(ticket) the response, once its batch was handled. A batch is handled

        - in submit, if max_size requests wait now, the new one among them;
        - in submit and in poll, if the oldest that waits has waited long enough: clock() ≥ its time of arrival + max_wait;
        - in flush, always.

    A batch is all that wait, in the order of their arrival. Nothing waits after that. Everything happens within these calls: there are
    no threads, and nobody sleeps. The time is what `clock` says, and nothing else. It stands still during a call, unless `handle` takes
    time.

    A batch is handled by handle(requests), with a list of its own that it may change. Where it raises an Exception, or returns another
    number of responses than it got requests, each request of the batch is handled once more, alone, as a list of one, in their order. A
    request that fails alone has failed, and the others have not. A batch of one that fails is not tried again. submit, poll and flush
    never raise what handle raised.

    Args of the constructor:
        handle: takes a list of requests and returns a sequence with a response to each, in order. It may return the same list each time,
            with new responses in it. Requests and responses are any objects, also None.
        max_size: at least 1.
        max_wait: 0 or more, in the clock's units. With 0, every request is handled at once.
        clock: a function without arguments that returns the time, a number.

    Raises: ValueError from the constructor if max_size is below 1 or max_wait below 0.
    """

    def __init__(self, handle: Callable[[list[Any]], Sequence[Any]], *, max_size: int, max_wait: float, clock: Callable[[], float]) -> None:
        """Begin with nothing; see the class."""
        if max_size < 1 or max_wait < 0:
            raise ValueError("max_size must be at least 1, and max_wait at least 0")
        self._handle, self._clock, self._max_size, self._max_wait = handle, clock, max_size, max_wait
        self._tickets = 0
        self._waiting: list[tuple[int, float, Any]] = []  # ticket, arrival, request
        self._done: dict[int, tuple[Any, Exception | None]] = {}

    def submit(self, request: Any) -> int:
        """Take a request, and handle a batch if one is due.

        Returns: its ticket: 0 for the first request, then 1, 2, …
        """
        self._waiting.append((self._tickets, self._clock(), request))
        self._tickets += 1
        if len(self._waiting) == self._max_size:
            self.flush()
        self.poll()
        return self._tickets - 1

    def poll(self) -> int:
        """Handle a batch if the oldest request has waited long enough. Returns: how many requests were handled."""
        due = self.deadline()
        return 0 if due is None or self._clock() < due else self.flush()

    def flush(self) -> int:
        """Handle all that wait now, such as before a server stops. Returns: how many requests were handled."""
        batch, self._waiting = self._waiting, []
        if batch:
            self._run(batch)
        return len(batch)

    def deadline(self) -> float | None:
        """The time from which on poll handles a batch; None if nothing waits. A server may sleep until then."""
        return self._waiting[0][1] + self._max_wait if self._waiting else None

    def result(self, ticket: int) -> Any:
        """Hand over a response, once: after that, it is forgotten.

        Returns: the response.
        Raises: RuntimeError if the request still waits; it can be asked for again. KeyError if there is no such ticket, or its result was
            handed over. If the request has failed: what handle raised for it alone, or ValueError if it returned another number of
            responses than one; this counts as handed over, too.
        """
        if any(ticket == waiting for waiting, _, _ in self._waiting):
            raise RuntimeError(f"request {ticket} is still waiting")
        response, error = self._done.pop(ticket)
        if error is not None:
            raise error
        return response

    def _run(self, batch: list[tuple[int, float, Any]]) -> None:
        """Handle a batch, and note what became of each request."""
        try:
            responses = self._handle([request for _, _, request in batch])
            done = {ticket: (response, None) for (ticket, _, _), response in zip(batch, responses, strict=True)}
        except Exception as error:  # whatever it is, the others go on
            if len(batch) == 1:
                self._done[batch[0][0]] = None, error
            else:
                for entry in batch:
                    self._run([entry])
        else:
            self._done |= done
