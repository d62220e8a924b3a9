"""Capstone: a language model from scratch."""

import itertools
import math
import re
from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

WORD = re.compile(rb" ?[^ ]+| ")


def join(tokens, left, right, new):
    """The list with `new` in place of each (left, right)."""
    out = []
    it = iter(range(len(tokens)))
    for i in it:
        if i + 1 < len(tokens) and tokens[i] == left and tokens[i + 1] == right:
            out.append(new)
            next(it, None)
        else:
            out.append(tokens[i])
    return out


def train_bpe(documents, vocab_size):
    """Different words only; what is left of a word of one token is dropped."""
    if vocab_size < 256:
        raise ValueError("vocab_size must be at least 256")
    counts = Counter()
    for document in documents:
        counts.update(WORD.findall(document))
    words = {word: list(word) for word in counts}
    merges = []
    while 256 + len(merges) < vocab_size:
        pairs = Counter()
        for word, tokens in words.items():
            for i in range(1, len(tokens)):
                pairs[tokens[i - 1], tokens[i]] += counts[word]
        ranked = sorted(pairs.items(), key=lambda item: (-item[1], *item[0]))
        if not ranked or ranked[0][1] == 1:
            break
        left, right = ranked[0][0]
        new = 256 + len(merges)
        merges.append((left, right))
        words = {word: join(tokens, left, right, new) for word, tokens in words.items() if len(tokens) > 1}
    return merges


class Tokenizer:
    """A table of ids to bytes, and one of pairs to ids."""

    def __init__(self, merges, specials=()):
        self.pairs = {}
        self.bytes = [i.to_bytes(1, "big") for i in range(256)]
        for pair in merges:
            self.pairs[pair] = len(self.bytes)
            self.bytes.append(b"".join(self.bytes[i] for i in pair))
        self.special = {}
        for text in specials:
            if not text or text in self.special:
                raise ValueError(f"{text!r} can't be a special token")
            self.special[text] = len(self.bytes)
            self.bytes.append(text)
        self.vocab_size = len(self.bytes)

    def encode(self, data, *, specials=True):
        """Words and special tokens from left to right."""
        ids = []
        while data:
            places = [(at, -len(text), text) for text in self.special if specials and (at := data.find(text)) >= 0]
            at, _, text = min(places, default=(len(data), 0, b""))
            for word in WORD.findall(data[:at]):
                ids.extend(self.word(list(word)))
            if text:
                ids.append(self.special[text])
            data = data[at + len(text) :]
        return torch.tensor(ids, dtype=torch.int64)

    def word(self, tokens):
        """Merge by the id of the pair, the lowest first."""
        while found := {self.pairs[pair]: pair for pair in itertools.pairwise(tokens) if pair in self.pairs}:
            new = min(found)
            tokens = join(tokens, *found[new], new)
        return tokens

    def decode(self, ids):
        """Bytes of all ids, joined."""
        ids = list(map(int, ids))
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError("unknown token")
        return b"".join(map(self.bytes.__getitem__, ids))


class Block(nn.Module):
    """Attention and a small network, each added to x."""

    def __init__(self, d, heads, layers):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        for layer, std in (
            (self.qkv, 0.02),
            (self.proj, 0.02 / (2 * layers) ** 0.5),
            (self.up, 0.02),
            (self.down, 0.02 / (2 * layers) ** 0.5),
        ):
            layer.weight.data.normal_(0, std)
            layer.bias.data.zero_()

    def forward(self, x, bias):
        """The mask is added to the scores."""
        B, L, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, L, 3, self.heads, d // self.heads).movedim(2, 0)
        scores = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(d / self.heads) + bias
        x = x + self.proj(torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v).reshape(B, L, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Embeddings, blocks, norm, head."""

    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        if d_model % num_heads > 0:
            raise ValueError("d_model must be a multiple of num_heads")
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, num_heads, num_layers) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.tokens.weight.data.normal_(0, 0.02)
        self.positions.weight.data.normal_(0, 0.02)

    def forward(self, ids):
        """Logits of each next token."""
        L = ids.size(-1)
        if self.positions.num_embeddings < L:
            raise ValueError("text is longer than the context")
        x = self.tokens(ids) + self.positions(torch.arange(L))
        bias = torch.full((L, L), -math.inf, dtype=x.dtype).triu(1)
        for block in self.blocks:
            x = block(x, bias)
        return self.head(self.norm(x))


def train_gpt(model, tokens, context, *, generator, updates=240):
    """Places by torch.rand, a cosine for the learning rate."""
    places = tokens.numel() - context
    if places < 1:
        raise ValueError("not one whole window")
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step in range(1, updates + 1):
        rise, fall = min(1.0, step / (0.1 * updates)), 0.5 + 0.5 * math.cos(math.pi * (step - 1) / updates)
        optimizer.param_groups[0]["lr"] = 9e-3 * rise * fall
        starts = (torch.rand(12, generator=generator) * places).long().clamp(max=places - 1)
        batch = torch.stack([tokens.narrow(0, int(s), context + 1) for s in starts])
        loss = F.cross_entropy(model(batch[:, :-1]).movedim(-1, 1), batch[:, 1:])
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g / max(1.0, float(norm))
        optimizer.step()
    optimizer.zero_grad()


def generate(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    """Modes by a stack of parts; new tokens as a list of columns."""
    if temperature < 0:
        raise ValueError("temperature must be at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError("top_k must be at least 1")
    training = [part for part in model.modules() if part.training] if isinstance(model, nn.Module) else []
    text, open_rows = ids + 0, torch.full((len(ids),), True)
    for part in training:
        part.training = False
    try:
        for _ in range(count):
            with torch.no_grad():
                scores = model(text[:, -context:])[:, -1]
            token = pick(scores, temperature, top_k, generator)
            if stop is not None:
                token = torch.where(open_rows, token, torch.tensor(stop))
                open_rows = open_rows & token.ne(stop)
            text = torch.cat([text, token[:, None]], 1)
            if not open_rows.any():
                break
    finally:
        for part in training:
            part.training = True
    return text


def pick(scores, temperature, top_k, generator):
    """One token for each row."""
    if temperature == 0:
        return scores.argmax(1)
    p = torch.softmax(scores / temperature, 1)
    if top_k is not None:
        best = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        p = torch.zeros_like(p).scatter(1, best, torch.softmax(scores.gather(1, best) / temperature, 1))
    return torch.multinomial(p, 1, generator=generator)[:, 0]
