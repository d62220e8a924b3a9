"""Other correct answers to the tasks of gpt_from_scratch: the hidden suite must accept every one."""

import heapq
import itertools
import math
import re
from collections import Counter, defaultdict

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# train_bpe


@alternative("train_bpe")
def counting_only_what_changed(documents, vocab_size):
    """Pairs are counted once; a merge changes the counts of the words in which it stands."""
    if vocab_size < 256:
        raise ValueError("the bytes need 256 tokens")
    counts = Counter(itertools.chain.from_iterable(re.findall(rb" ?[^ ]+| ", document) for document in documents))
    words = [[list(word), count] for word, count in counts.items()]
    pairs, where = Counter(), defaultdict(set)

    def add(index, sign):
        tokens, n = words[index]
        for pair in itertools.pairwise(tokens):
            pairs[pair] += sign * n
            where[pair].add(index)

    for index in range(len(words)):
        add(index, 1)
    merges = []
    while len(merges) < vocab_size - 256:
        top = max(pairs.values(), default=0)
        if top <= 1:
            break
        best = min(pair for pair, n in pairs.items() if n == top)
        for index in where.pop(best):
            add(index, -1)
            tokens, i = words[index][0], 0
            while i + 1 < len(tokens):
                if (tokens[i], tokens[i + 1]) == best:
                    tokens[i : i + 2] = [256 + len(merges)]
                i += 1
            add(index, 1)
        merges.append(best)
    return merges


def _words_by_hand(data):
    """Words, found byte by byte."""
    words, begin = [], 0
    for i in range(1, len(data) + 1):
        # A word ends before a space, and a space that has no word behind it is a word.
        if i == len(data) or data[i] == 32:
            words.append(data[begin:i])
            begin = i
    return [word for word in words if word]


@alternative("train_bpe")
def with_tuples_of_tokens(documents, vocab_size):
    """Words are cut by hand, and kept as tuples in a dict that is made anew for each merge."""
    if vocab_size - 256 < 0:
        raise ValueError("too small a vocabulary")
    vocabulary = defaultdict(int)
    for document in documents:
        for word in _words_by_hand(document):
            vocabulary[tuple(word)] += 1
    merges = []
    for token in range(256, vocab_size):
        stats = defaultdict(int)
        for word, n in vocabulary.items():
            for i in range(len(word) - 1):
                stats[word[i], word[i + 1]] += n
        heap = [(-n, a, b) for (a, b), n in stats.items() if n > 1]
        if not heap:
            return merges
        heapq.heapify(heap)
        _, a, b = heap[0]
        merges.append((a, b))
        changed = defaultdict(int)
        for word, n in vocabulary.items():
            new, i = [], 0
            while i < len(word):
                hit = i + 1 < len(word) and word[i] == a and word[i + 1] == b
                new.append(token if hit else word[i])
                i += 2 if hit else 1
            changed[tuple(new)] += n
        vocabulary = changed
    return merges


# Tokenizer


@alternative("Tokenizer")
class RankByRank:
    """Special tokens are found byte by byte, words by hand, and merges tried one after another; words are kept."""

    def __init__(self, merges, specials=()):
        if not all(specials):
            raise ValueError("empty special token")
        if len(specials) != len(set(specials)):
            raise ValueError("special token twice")
        self.merges, self.special_list, self.known = [tuple(pair) for pair in merges], list(specials), {}
        self.vocab_size = 256 + len(self.merges) + len(self.special_list)

    def encode(self, data, *, specials=True):
        out, rest = [], b""
        i = 0
        while i < len(data):
            best = max((s for s in self.special_list if data[i : i + len(s)] == s), key=len, default=None) if specials else None
            if best is None:
                rest += data[i : i + 1]
                i += 1
            else:
                out += [*self._plain(rest), 256 + len(self.merges) + self.special_list.index(best)]
                rest = b""
                i += len(best)
        return torch.tensor([*out, *self._plain(rest)], dtype=torch.long)

    def _plain(self, data):
        out = []
        for word in _words_by_hand(data):
            if word not in self.known:
                tokens = list(word)
                for k, pair in enumerate(self.merges):
                    i = 0
                    while i < len(tokens) - 1:
                        if (tokens[i], tokens[i + 1]) == pair:
                            tokens[i : i + 2] = [256 + k]
                        i += 1
                self.known[word] = tokens
            out.extend(self.known[word])
        return out

    def decode(self, ids):
        out = b""
        for i in torch.as_tensor(ids, dtype=torch.int64).tolist():
            out += self._bytes(i)
        return out

    def _bytes(self, i):
        if i < 0 or i >= self.vocab_size:
            raise ValueError(f"no token {i}")
        if i < 256:
            return bytes((i,))
        if i < 256 + len(self.merges):
            a, b = self.merges[i - 256]
            return self._bytes(a) + self._bytes(b)
        return self.special_list[i - 256 - len(self.merges)]


@alternative("Tokenizer")
class OnePlaceAtATime:
    """Merges one place after another; a finditer finds the special tokens."""

    def __init__(self, merges, specials=()):
        specials = tuple(specials)
        if b"" in specials or len(dict.fromkeys(specials)) != len(specials):
            raise ValueError("bad special tokens")
        self.vocab = dict(enumerate(bytes([i]) for i in range(256)))
        self.ranks = {}
        for rank, (a, b) in enumerate(merges):
            self.vocab[256 + rank] = self.vocab[a] + self.vocab[b]
            self.ranks[a, b] = rank
        self.special_ids = {text: i for i, text in enumerate(specials, start=256 + len(merges))}
        self.vocab |= {i: text for text, i in self.special_ids.items()}
        names = sorted(specials, key=lambda text: -len(text))
        self.pattern = re.compile(b"|".join(re.escape(text) for text in names)) if names else None

    @property
    def vocab_size(self):
        return len(self.vocab)

    def encode(self, data, *, specials=True):
        ids, begin = [], 0
        for match in self.pattern.finditer(data) if specials and self.pattern else ():
            ids += self.ordinary(data[begin : match.start()])
            ids.append(self.special_ids[match[0]])
            begin = match.end()
        ids += self.ordinary(data[begin:])
        return torch.LongTensor(ids)

    def ordinary(self, data):
        return [token for word in re.findall(rb" [^ ]+|[^ ]+| ", data) for token in self.merge(list(word))]

    def merge(self, parts):
        while len(parts) > 1:
            rank, i = min((self.ranks.get((a, b), math.inf), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
            if rank == math.inf:
                break
            parts[i : i + 2] = [256 + rank]
        return parts

    def decode(self, ids):
        try:
            return b"".join([self.vocab[int(i)] for i in ids])
        except KeyError as error:
            raise ValueError("unknown token") from error


# GPT


class _Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        B, L, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(d, dim=2)
        q, k, v = (part.reshape(B, L, self.heads, d // self.heads).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (d // self.heads) ** -0.5
        scores = scores.masked_fill(torch.ones(L, L, dtype=torch.bool, device=x.device).triu(1), -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, L, d)
        x = x + self.proj(y)
        return x + self.down(nn.GELU()(self.up(self.norm2(x))))


@alternative("GPT")
class BlocksAsModules(nn.Module):
    """Blocks of a class of their own, attention by hand, start values by apply, as nanoGPT does."""

    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        if d_model // num_heads * num_heads != d_model:
            raise ValueError("heads do not fit")
        self.context = context
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        self.tokens.weight = self.head.weight
        self.blocks = nn.ModuleList([_Block(d_model, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(d_model)
        self.apply(self._start)
        for block in self.blocks:
            for layer in (block.proj, block.down):
                nn.init.normal_(layer.weight, mean=0.0, std=0.02 / (2 * num_layers) ** 0.5)

    def _start(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, ids):
        t = ids.size(1)
        if t > self.context:
            raise ValueError("too long")
        x = self.tokens(ids) + self.positions(torch.arange(t, device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@alternative("GPT")
class HeadByHead(nn.Module):
    """A loop over the heads; weights are drawn by hand, and the head is a product."""

    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError("heads do not fit")
        self.num_heads = num_heads
        self.tokens, self.positions = nn.Embedding(vocab_size, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList()
        for _ in range(num_layers):
            block = nn.Module()
            block.norm1, block.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
            block.qkv, block.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
            block.up, block.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        with torch.no_grad():
            for weight in (self.tokens.weight, self.positions.weight):
                weight.copy_(0.02 * torch.randn_like(weight))
            for block in self.blocks:
                for layer in (block.qkv, block.proj, block.up, block.down):
                    small = math.sqrt(0.5 / num_layers) if layer in (block.proj, block.down) else 1.0
                    layer.weight.copy_(0.02 * small * torch.randn_like(layer.weight))
                    layer.bias.zero_()

    def forward(self, ids):
        L, T = ids.shape[-1], self.positions.weight.shape[0]
        if L > T:
            raise ValueError("too long")
        x = self.tokens.weight[ids] + self.positions.weight[None, :L]
        mask = torch.ones(L, L, dtype=torch.bool).tril()
        for block in self.blocks:
            features = block.qkv(block.norm1(x))
            d = x.shape[-1]
            D = d // self.num_heads
            outputs = []
            for h in range(self.num_heads):
                q, k, v = (features[..., part * d + h * D : part * d + (h + 1) * D] for part in range(3))
                outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
            x = x + block.proj(torch.cat(outputs, dim=-1))
            h = block.up(block.norm2(x))
            x = x + block.down(h * 0.5 * (1 + torch.erf(h / math.sqrt(2))))
        return self.norm(x) @ self.tokens.weight.mT


# train_gpt


@alternative("train_gpt")
def with_a_scheduler(model, tokens, context, *, generator, updates=240):
    """torch's scheduler, windows that are stacked, a loss by hand, and larger batches."""
    N = len(tokens)
    if context + 1 > N:
        raise ValueError("too few tokens")
    if updates == 0:
        return
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}] + ([{"params": rest, "weight_decay": 0.0}] if rest else [])
    optimizer = torch.optim.AdamW(groups, lr=8e-3, betas=(0.9, 0.95), fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=8e-3, total_steps=updates + 1, pct_start=0.1, cycle_momentum=False)
    for _ in range(updates):
        starts = torch.randint(0, N - context, (16,), generator=generator).tolist()
        x = torch.stack([tokens[s : s + context] for s in starts])
        y = torch.stack([tokens[s + 1 : s + 1 + context] for s in starts])
        log_p = model(x).log_softmax(-1)
        loss = -log_p.gather(-1, y[..., None]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()


@alternative("train_gpt")
def in_epochs(model, tokens, context, *, generator, updates=240):
    """All windows in random order, again and again; Adam by hand-set rates."""
    places = len(tokens) - context
    if places <= 0:
        raise ValueError("too few tokens")
    order = torch.empty(0, dtype=torch.int64)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.95), fused=True)
    offsets = torch.arange(context + 1)
    with torch.enable_grad():
        for i in range(updates):
            while len(order) < 12:
                order = torch.cat((order, torch.randperm(places, generator=generator)))
            starts, order = order[:12], order[12:]
            batch = tokens[starts[:, None] + offsets]
            for group in optimizer.param_groups:
                group["lr"] = 8e-3 * min(1.0, (i + 1) / 25, (updates - i) / (0.7 * updates))
            logits = model(batch[:, :context])
            loss = F.cross_entropy(logits.transpose(1, 2), batch[:, 1:])
            for p in model.parameters():
                p.grad = None
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


# generate


@alternative("generate")
def with_a_buffer(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    """A buffer for the whole text; ranks decide what is kept; modes are restored by a list."""
    if not temperature >= 0:
        raise ValueError("temperature")
    if top_k is not None and not top_k >= 1:
        raise ValueError("top_k")
    B, L = ids.shape
    text = torch.empty(B, L + count, dtype=torch.int64)
    text[:, :L] = ids
    alive, n = torch.ones(B, dtype=torch.bool), L
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [part.training for part in parts]
    if parts:
        model.eval()
    try:
        with torch.no_grad():
            while n < L + count and alive.any():
                logits = model(text[:, max(0, n - context) : n])[:, -1, :]
                if temperature == 0:
                    chosen = logits.max(dim=-1).indices
                else:
                    keep = torch.ones_like(logits, dtype=torch.bool)
                    if top_k is not None:
                        keep = logits.sort(dim=-1, descending=True, stable=True).indices.argsort(-1) < top_k
                    p = torch.where(keep, (logits / temperature - (logits / temperature).amax(-1, keepdim=True)).exp(), 0)
                    chosen = torch.multinomial(p / p.sum(-1, keepdim=True), 1, generator=generator).squeeze(1)
                if stop is not None:
                    chosen[~alive] = stop
                    alive &= chosen != stop
                text[:, n] = chosen
                n += 1
    finally:
        for part, mode in zip(parts, before, strict=True):
            part.training = mode
    return text[:, :n].clone()


@alternative("generate")
@torch.no_grad()
def with_lists(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    """Rows as lists; the k largest are found by sorting pairs in Python."""
    if temperature < 0:
        raise ValueError("temperature")
    if top_k is not None and top_k <= 0:
        raise ValueError("top_k")
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    rows, ended = ids.tolist(), [False] * len(ids)
    try:
        for part, _ in modes:
            part.train(False) if not list(part.children()) else setattr(part, "training", False)
        for _ in range(count):
            logits = model(torch.tensor([row[-context:] for row in rows]))[:, -1]
            if temperature == 0:
                drawn = [values.index(max(values)) for values in logits.tolist()]
            else:
                scaled = logits / temperature
                if top_k is not None:
                    for b, values in enumerate(logits.tolist()):
                        for i in sorted(range(len(values)), key=lambda i, values=values: (-values[i], i))[top_k:]:
                            scaled[b, i] = -math.inf
                drawn = torch.multinomial(F.softmax(scaled, dim=-1), num_samples=1, generator=generator)[:, 0].tolist()
            for b, row in enumerate(rows):
                row.append(stop if ended[b] else drawn[b])
                ended[b] = ended[b] or drawn[b] == stop
            if stop is not None and all(ended):
                break
    finally:
        for part, mode in modes:
            part.training = mode
    return torch.tensor(rows, dtype=torch.int64)
