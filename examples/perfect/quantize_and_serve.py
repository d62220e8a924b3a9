"""Capstone: train a network with few weights, quantize it, pack it, serve it."""

import base64
import json
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F

FORMAT = "sparse-int8"
POWERS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128])


def train_sparse_digits(images, labels, *, classes, keep, seed):
    """Matrices by hand; masks are part of the forward pass, so that no step revives a weight."""
    generator = torch.Generator().manual_seed(seed)
    x, hidden = images.flatten(1), 32

    def start(rows, columns):
        return ((torch.rand(rows, columns, generator=generator) * 2 - 1) / columns**0.5).requires_grad_()

    w1, w2 = start(hidden, x.shape[1]), start(classes, hidden)
    b1, b2 = torch.zeros(hidden, requires_grad=True), torch.zeros(classes, requires_grad=True)
    m1, m2 = torch.ones_like(w1), torch.ones_like(w2)

    def train(steps):
        optimizer = torch.optim.AdamW([w1, b1, w2, b2], lr=2e-2)
        for _ in range(steps):
            scores = F.linear(F.linear(x, w1 * m1, b1).relu(), w2 * m2, b2)
            optimizer.zero_grad()
            F.cross_entropy(scores, labels).backward()
            optimizer.step()

    train(60)
    sizes = torch.cat([w1.detach().flatten(), w2.detach().flatten()]).abs()
    if keep < sizes.numel():
        dropped = sizes.argsort()[: sizes.numel() - keep]
        flat = torch.ones_like(sizes)
        flat[dropped] = 0
        m1, m2 = flat[: w1.numel()].view_as(w1), flat[w1.numel() :].view_as(w2)
    train(110)
    return {"1.weight": (w1 * m1).detach(), "1.bias": b1.detach(), "3.weight": (w2 * m2).detach(), "3.bias": b2.detach()}


def quantize_weights(weights):
    """Reduce over all dimensions but the first, and keep them."""
    result = {}
    for name, tensor in weights.items():
        tensor = tensor.detach()
        if tensor.is_floating_point() and tensor.ndim > 1:
            exact = tensor.to(torch.float64)
            others = list(range(1, exact.ndim))
            scale = (exact.abs().amax(others, keepdim=True) / 127).to(torch.float32)
            scale[scale == 0] = 1
            result[name] = torch.div(exact, scale).round().to(torch.int8)
            result[name + ".scale"] = scale.flatten()
        else:
            result[name] = tensor.clone().float() if tensor.is_floating_point() else tensor.clone()
    return result


def pack_model(path, tensors, labels):
    """Bits by index, bytes by a matrix product."""
    for tensor in tensors.values():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all().item():
            raise ValueError("tensors must be finite")
    content, shapes = {}, {}
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1).clone()
        where = flat.nonzero().squeeze(1)
        length = (len(flat) + 7) // 8
        if tensor.dtype == torch.int8 and length + len(where) < len(flat):
            bits = torch.zeros(8 * length, dtype=torch.int64)
            bits[where] = 1
            content[name + ".bits"] = (bits.reshape(length, 8) @ POWERS).to(torch.uint8)
            content[name + ".values"] = flat[where]
            shapes[name] = list(tensor.shape)
        else:
            content[name] = flat.reshape(tensor.shape)
    about = {"format": FORMAT, "labels": json.dumps(list(labels)), "shapes": json.dumps(shapes)}
    draft = os.fspath(path) + ".draft"
    save_file(content, draft, about)
    os.replace(draft, path)


class BadRequest(Exception):
    """A request without an answer: its id, as far as it is known, and what is wrong."""

    def __init__(self, name, what):
        super().__init__(what)
        self.answer = {"id": name, "error": what}


class RequestHandler:
    """Bad requests are exceptions while they are decoded, and answers afterwards."""

    def __init__(self, path):
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise ValueError(f"{path}: not {FORMAT}")
            self.labels, shapes = json.loads(about["labels"]), json.loads(about["shapes"])
            names = set(file.keys())
            self.weights, self.biases = [], []
            for i in sorted(int(name.split(".")[0]) for name in names if name.endswith(".bias")):
                weight = f"{i}.weight"
                if weight in shapes:
                    bits = file.get_tensor(weight + ".bits").to(torch.int64)
                    flags = (bits.unsqueeze(1) // POWERS % 2).flatten()
                    rows, columns = shapes[weight]
                    codes = torch.zeros(rows * columns)
                    codes.masked_scatter_(flags[: rows * columns] == 1, file.get_tensor(weight + ".values").float())
                    codes = codes.reshape(rows, columns)
                else:
                    codes = file.get_tensor(weight).float()
                self.weights.append(torch.diag(file.get_tensor(weight + ".scale")) @ codes)
                self.biases.append(file.get_tensor(f"{i}.bias").clone())

    def decode(self, request):
        """Id and inputs of a good request."""
        try:
            body = json.loads(request)
        except Exception as error:
            raise BadRequest(None, "json") from error
        if not isinstance(body, dict):
            raise BadRequest(None, "json")
        name = body.get("id")
        if not isinstance(name, str):
            raise BadRequest(None, "id")
        try:
            pixels = base64.b64decode(body["pixels"], validate=True)
        except Exception as error:
            raise BadRequest(name, "pixels") from error
        if len(pixels) != self.weights[0].shape[1]:
            raise BadRequest(name, "pixels")
        return name, torch.tensor(list(pixels)) / 255

    def handle(self, requests):
        """Answer requests, by their places."""
        answers, good = {}, {}
        for place, request in enumerate(requests):
            try:
                good[place] = self.decode(request)
            except BadRequest as bad:
                answers[place] = bad.answer
        if good:
            h = torch.stack([x for _, x in good.values()])
            for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
                h = torch.relu(h @ weight.T + bias)
            log_probabilities = F.log_softmax(h @ self.weights[-1].T + self.biases[-1], dim=1)
            for place, row in zip(good, log_probabilities, strict=True):
                best = int(row.argmax())
                answers[place] = {"id": good[place][0], "label": self.labels[best], "probability": float(row[best].exp())}
        return [answers[place] for place in sorted(answers)]


@dataclass
class Entry:
    """A request, and what became of it."""

    request: Any
    arrival: float
    state: str = "waiting"
    value: Any = None


@dataclass
class Book:
    """All entries that somebody may still ask for, and those that wait."""

    entries: dict = field(default_factory=dict)
    waiting: list = field(default_factory=list)
    count: int = 0


class TicketBatcher:
    """Every request has an entry that says what became of it."""

    def __init__(self, handle, *, max_size, max_wait, clock):
        if max_size < 1 or max_wait < 0:
            raise ValueError("max_size is at least 1, and max_wait at least 0")
        self.handle, self.max_size, self.max_wait, self.clock = handle, max_size, max_wait, clock
        self.book = Book()

    def submit(self, request):
        """Take a request."""
        book, ticket = self.book, self.book.count
        book.count += 1
        book.entries[ticket] = Entry(request, self.clock())
        book.waiting.append(book.entries[ticket])
        full = len(book.waiting) >= self.max_size
        self.flush() if full else self.poll()
        return ticket

    def deadline(self):
        """When the oldest request has waited long enough."""
        for entry in self.book.waiting:
            return entry.arrival + self.max_wait
        return None

    def poll(self):
        """Handle a batch that is due."""
        deadline = self.deadline()
        if deadline is not None and deadline <= self.clock():
            return self.flush()
        return 0

    def flush(self):
        """Handle all that wait."""
        batch = self.book.waiting
        self.book.waiting = []
        if batch:
            self.run(batch)
            failed = all(entry.state == "failed" for entry in batch)
            if failed and len(batch) > 1:
                for entry in batch:
                    self.run([entry])
        return len(batch)

    def run(self, batch):
        """Try some entries together."""
        try:
            responses = self.handle([entry.request for entry in batch])
            if len(responses) != len(batch):
                raise ValueError(f"{len(responses)} responses to {len(batch)} requests")
            for entry, response in zip(batch, responses, strict=True):
                entry.state, entry.value = "done", response
        except Exception as error:
            for entry in batch:
                entry.state, entry.value = "failed", error

    def result(self, ticket):
        """Hand over a response or an error."""
        entry = self.book.entries[ticket]
        if entry.state == "waiting":
            raise RuntimeError(f"{ticket} waits")
        del self.book.entries[ticket]
        if entry.state == "failed":
            raise entry.value
        return entry.value
