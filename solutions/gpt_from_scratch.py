"""Capstone: a language model from scratch, from bytes to new text.

    1  train_bpe    documents              →  merges, the tokens that are worth having
    2  Tokenizer    bytes                  →  tokens, and back
    3  GPT          tokens                 →  logits of each next token
    4  train_gpt    a network, tokens      →  the network, trained on random windows
    5  generate     a network, a prompt    →  new tokens

A token is an int: 0 … 255 are the bytes, 256 + k is what merge k makes. Bytes are cut into **words** before anything is merged, and
no token reaches from one word into another. A word is a run of bytes other than the space, with the one space before it, if there is
one; any other space is a word by itself. re.findall(rb" ?[^ ]+| ", data) finds them in order, and their bytes joined are the data.

Every stage stands alone: it gets what the stages before it make. Arguments, modes, generators and other global state are left as you
found them, unless the statement says otherwise. Tensors may be non-contiguous.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def train_bpe(documents: Sequence[bytes], vocab_size: int) -> list[tuple[int, int]]:
    """Learn which neighbours to merge into one token (byte-pair encoding on bytes; Sennrich et al. 2016, section 3.2).

    Cut each document into words, as at the top of the module: re.findall(rb" ?[^ ]+| ", document). At first, a word is the list of
    its bytes. Merge k = 0, 1, … does this:

    1. Count the pairs of neighbours in all words. Each place counts, and places may overlap: "aaaa" has (a, a) three times. No pair goes
       from one word into another, or from one document into another.
    2. Take the pair with the largest count; among equals, the one with the smaller left token, then with the smaller right one. If no
       pair occurs at least twice, stop: a token that occurs once saves nothing.
    3. In every word, from left to right, put the token 256 + k in the place of each such pair. A token is used once: with (a, a),
       "aaaaa" becomes 256, 256, a.

    Count equal words once, and keep how often they occur: a test has 400,000 bytes in some hundred different words, and learns 100 merges.
    That takes 0.2 seconds so, and half a minute word by word. The limit is five seconds.

    Example: the documents [b"low low", b"slow"] have the words "low", " low" and "slow". (l, o) and (o, w) occur three times each. "l"
    is smaller than "o", so merge 0 is (108, 111); merge 1 is (256, 119). Then nothing occurs twice.

    Args:
        documents: any bytes, text or not; a document may be empty, and there may be none.
        vocab_size: the most tokens there may be, bytes included: at most vocab_size − 256 merges are learnt.

    Returns: the pairs, in the order in which they were taken: tuples of two ints.
    Raises: ValueError if vocab_size is below 256.
    """
    if vocab_size < 256:
        raise ValueError(f"256 tokens are the bytes, so vocab_size can't be {vocab_size}")
    counts = Counter(word for document in documents for word in re.findall(rb" ?[^ ]+| ", document))
    words, merges = list(counts.items()), []  # bytes are ints, too
    for token in range(256, vocab_size):
        pairs = Counter()
        for tokens, count in words:
            for pair in itertools.pairwise(tokens):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if pairs[best] < 2:  # 0 for None
            break
        merges.append(best)
        words = [(_merged(tokens, best, token), count) for tokens, count in words]
    return merges


def _merged(tokens: Sequence[int], pair: tuple[int, int], token: int) -> list[int]:
    """The tokens with one token in the place of each such pair, from left to right."""
    out = []
    for right in tokens:
        if out and (out[-1], right) == pair:
            out[-1] = token
        else:
            out.append(right)
    return out


class Tokenizer:
    """Turn any bytes into tokens, and tokens back into the same bytes.

    merges[k] is the pair of tokens that becomes the token 256 + k; k is its rank. With M merges, the special tokens are 256 + M,
    256 + M + 1, …, in the order in which they are given. A special token stands for bytes that nothing merges, such as b"<|end|>" between
    documents.

    Args of the constructor:
        merges: different pairs, possibly none. Those of merges[k] are bytes or tokens of earlier merges: below 256 + k.
        specials: the bytes of each special token, possibly none.

    The public attribute `vocab_size` is the number of all tokens, an int.
    Raises: ValueError if a special token is empty, or given twice.
    """

    def __init__(self, merges: Sequence[tuple[int, int]], specials: Sequence[bytes] = ()) -> None:
        """Make the tables; see the class."""
        if b"" in specials or len(set(specials)) < len(specials):
            raise ValueError("special tokens must be different, and none of them empty")
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.texts = [bytes([i]) for i in range(256)]
        for left, right in merges:
            self.texts.append(self.texts[left] + self.texts[right])
        self.specials = {text: len(self.texts) + i for i, text in enumerate(specials)}
        self.texts += specials
        self.vocab_size = len(self.texts)

    def encode(self, data: bytes, *, specials: bool = True) -> Tensor:
        """Find the tokens of some bytes.

        1. Special tokens are cut out first, from left to right: wherever the bytes of one begin, it is taken; where those of several
           begin, the longest. With `specials` false, this is left out, and what looks like a special token is bytes like all others. So
           it should be with texts that strangers send.
        2. What lies between them is cut into words, as at the top of the module: re.findall(rb" ?[^ ]+| ", piece).
        3. Within each word, the tokens are the bytes at first. As long as there are neighbours that make a pair of `merges`: take the pair
           with the lowest rank, wherever it stands, and merge all places where it stands, from left to right. A token is used once.

        Args:
            data: any bytes, text or not; may be empty.

        Returns: (n,), int64. (0,) where data is empty.
        """
        pieces = [data]
        if specials and self.specials:
            longest_first = sorted(self.specials, key=len, reverse=True)
            pieces = re.split(b"(" + b"|".join(map(re.escape, longest_first)) + b")", data)
        ids = []
        for i, piece in enumerate(pieces):
            if i % 2:
                ids.append(self.specials[piece])
            else:
                for word in re.findall(rb" ?[^ ]+| ", piece):
                    ids += self._merge(word)
        return torch.tensor(ids, dtype=torch.int64)

    def _merge(self, tokens: Sequence[int]) -> Sequence[int]:
        """The tokens of one word."""
        while True:
            pair = min(itertools.pairwise(tokens), key=lambda pair: self.ranks.get(pair, math.inf), default=None)
            if pair not in self.ranks:
                return tokens
            tokens = _merged(tokens, pair, 256 + self.ranks[pair])

    def decode(self, ids: Tensor | Sequence[int]) -> bytes:
        """Find the bytes of some tokens: decode(encode(data)) is data, for any bytes, and with `specials` true or false.

        Args:
            ids: (n,), int64, or ints in a list or a tuple; n may be 0. Any tokens, not only such as encode makes: a network may write
                others. Special tokens give their bytes.

        Returns: their bytes, joined.
        Raises: ValueError if an id is not in 0 … vocab_size − 1.
        """
        ids = [int(i) for i in ids]
        if not all(0 <= i < self.vocab_size for i in ids):
            raise ValueError(f"tokens are 0 … {self.vocab_size - 1}")
        return b"".join(self.texts[i] for i in ids)


class GPT(nn.Module):
    """A language model, of linear layers, embeddings and norms: it predicts each next token (Radford et al. 2019, section 2.3).

    With V = vocab_size, T = context, d = d_model, H = num_heads and D = d / H, the parameters are those of these submodules, and the
    state_dict holds nothing else:

        tokens      nn.Embedding(V, d)
        positions   nn.Embedding(T, d)
        blocks      nn.ModuleList of num_layers blocks; each has the submodules
            norm1       nn.LayerNorm(d)
            qkv         nn.Linear(d, 3d)
            proj        nn.Linear(d, d)
            norm2       nn.LayerNorm(d)
            up          nn.Linear(d, 4d)
            down        nn.Linear(4d, d)
        norm        nn.LayerNorm(d)
        head        nn.Linear(d, V, bias=False), its weight tied: head.weight is tokens.weight, one parameter

    So a key of the state_dict is "blocks.0.norm1.weight". Norms start as nn.LayerNorm does, all biases at 0. The weights of proj and down
    are drawn from a normal distribution of the standard deviation 0.02 / √(2 · num_layers): each block adds two such outputs to x, and
    their sum should not grow with the depth. All other weights, embeddings too, have the standard deviation 0.02.

    Args of the constructor:
        vocab_size, context, d_model, num_heads, num_layers: as above, at least 1 each; T is the most tokens that the model can look at.

    Raises: ValueError if num_heads does not divide d_model.
    Not allowed: nn.MultiheadAttention, nn.TransformerEncoderLayer and what they call. (F.scaled_dot_product_attention is fine.)
    """

    def __init__(self, vocab_size: int, context: int, d_model: int, num_heads: int, num_layers: int) -> None:
        """Make the submodules, draw the weights, and tie head and tokens; see the class."""
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"{num_heads} heads can't share {d_model} features")
        d, self.num_heads = d_model, num_heads
        self.tokens, self.positions = nn.Embedding(vocab_size, d), nn.Embedding(context, d)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(d),
                    "qkv": nn.Linear(d, 3 * d),
                    "proj": nn.Linear(d, d),
                    "norm2": nn.LayerNorm(d),
                    "up": nn.Linear(d, 4 * d),
                    "down": nn.Linear(4 * d, d),
                }
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif "norm" not in name:
                adds = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * num_layers) if adds else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """The scores of the next token, at every position.

            x = tokens[ids] + positions          position t gets the vector t, in every row alike
            x = x + proj(attention(norm1(x)))    for each block
            x = x + down(gelu(up(norm2(x))))     the exact GELU, F.gelu(x)
            logits = head(norm(x))

        In attention, the 3d features of qkv are q, k and v, in that order, of d features each; head h has the features
        h · D … (h + 1) · D − 1 of each. It mixes v with softmax(q kᵀ / √D), where position t looks at the positions 0 … t only. The heads'
        outputs are joined in order.

        Args:
            ids: (B, L), int64, 0 … V − 1, with B ≥ 1 and 1 ≤ L ≤ T.

        Returns: logits, (B, L, V): those at position t are for token t + 1.
        Raises: ValueError if L is larger than T.
        """
        L, T = ids.shape[1], self.positions.num_embeddings
        if L > T:
            raise ValueError(f"the model can look at {T} tokens, not at {L}")
        x = self.tokens(ids) + self.positions.weight[:L]  # (B, L, d)
        for block in self.blocks:
            features = block["qkv"](block["norm1"](x)).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, H, D)
            # (B, H, L, D) each:
            q, k, v = features.transpose(1, 3).unbind(2)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["proj"](y.transpose(1, 2).flatten(2))
            x = x + block["down"](F.gelu(block["up"](block["norm2"](x))))
        return self.head(self.norm(x))


def train_gpt(model: nn.Module, tokens: Tensor, context: int, *, generator: torch.Generator, updates: int = 240) -> None:
    """Train a language model on random windows of a stream of tokens, in place.

    A window is context + 1 neighbouring tokens. The first `context` of them are the input, the last `context` the targets: each token is
    to be predicted from those before it. In each update, a batch of windows is drawn that begin at random places of the stream, any place
    where a whole window fits; the loss is the mean cross-entropy of the targets.

    The test's text has 7,500 bytes: six words of four letters, each of which is followed by one of two others. `train_bpe` with a
    vocabulary of 262 and `Tokenizer` make some 5,000 tokens of it, three for a word. The network is a GPT(262, 24, 32, 4, 1), as in
    stage 3, with the start values given there. After the default number of updates, its weights must predict another text of the same
    words with at most 0.5 bits per byte. That is the sum of −log2 p over its tokens, by the number of their bytes, so that tokens of any
    length can be compared. (The best possible is 0.2; which token follows which gets to 0.6 … 1.0; knowing nothing is above 4.)

    AdamW on 12 windows at a time reaches about 0.23 in 0.6 seconds on one core, which is all there is: 20 seconds of it. The learning
    rate rises to 8e-3 in the first tenth of the updates, and falls to 0 from there. Two settings are needed for it to work every time:
    betas of (0.9, 0.95), and gradients that are clipped to a norm of 1 (nn.utils.clip_grad_norm_), all parameters taken together.

    Args:
        model: logits (B, context, V) = model(ids), for ids (B, context), int64. It is trained in the mode in which it is, from the weights
            that it has. All its parameters are trained. Gradients that they have from before count for nothing.
        tokens: (N,), int64, N > context: N = context + 1 gives a single window.
        context: how many tokens the model looks at, at least 1.
        generator: all random numbers come from it: with a generator in the same state, the same weights become the same weights.
        updates: how many steps of the optimizer are made. 0 leaves the weights as they are.

    Raises: ValueError if N is not larger than context; then nothing is drawn.
    """
    if len(tokens) <= context:
        raise ValueError(f"{len(tokens)} tokens are too few for windows of {context} and one more")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)
    windows = tokens.unfold(0, context + 1, 1)  # (N - context, context + 1)
    for step in range(updates):
        done = step / updates
        optimizer.param_groups[0]["lr"] = 8e-3 * min(10 * done + 0.02, 1 - done)
        batch = windows[torch.randint(len(windows), (12,), generator=generator)]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def generate(
    model: Callable[[Tensor], Tensor],
    ids: Tensor,
    count: int,
    *,
    context: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop: int | None = None,
) -> Tensor:
    """Go on with some prompts, token by token.

    As often as `count` says, for all rows at once:

    1. Give the model the last `context` tokens of each row, or all of them while there are fewer. Only the logits of the last position
       count.
    2. Divide them by the temperature. Keep the top_k largest, all if top_k is None or V or more; among equals, the lower index goes first.
    3. p is the softmax over what is kept, (B, V), in the order of the tokens, and 0 for all others. Draw one token for each row with
       torch.multinomial(p, 1, generator=generator): one such call for each new token, and no other use of the generator.
       Temperature 0 takes the largest logit instead, the lowest index among equals, whatever top_k is, and draws nothing.
    4. A row that has got the token `stop` has ended: from then on, it gets `stop` only, whatever is drawn for it. A `stop` in the prompt
       ends nothing. As soon as all rows have ended, the work is done, and the result may be shorter.

    No graph is recorded. If the model is an nn.Module, it runs in eval mode; afterwards, each of its parts is in the mode in which it was,
    also if the model raises an error.

    Args:
        model: logits (B, L, V) = model(ids), for ids (B, L), int64, 1 ≤ L ≤ context; float32 or float64, from −1e4 to 1e4. It may be any
            callable, or an nn.Module.
        ids: the prompts, (B, L), int64, B ≥ 1 and L ≥ 1; L may be larger than context.
        count: how many tokens to add, 0 or more.
        context: the most tokens that the model can look at, at least 1.
        temperature: 0, or 0.001 and more.
        top_k: at least 1; None keeps all.
        stop: a token, or None.

    Returns: (B, L + n), int64: the prompts and the n new tokens of each, n ≤ count. A new tensor.
    Raises: ValueError if temperature is negative or top_k below 1; then nothing is drawn.
    """
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"can't sample with temperature {temperature} and top_k {top_k}")
    modes = {part: part.training for part in model.modules()} if isinstance(model, nn.Module) else {}
    ids, ended = ids.clone(), torch.zeros(len(ids), 1, dtype=torch.bool)
    try:
        for part in modes:
            part.training = False
        for _ in range(count):
            with torch.no_grad():
                logits = model(ids[:, -context:])[:, -1]  # (B, V)
            new = _drawn(logits, temperature, top_k, generator)  # (B, 1)
            if stop is not None:
                new = new.masked_fill(ended, stop)
                ended |= new == stop
            ids = torch.cat((ids, new), dim=1)
            if ended.all():
                break
    finally:
        for part, mode in modes.items():
            part.training = mode
    return ids


def _drawn(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    """One token for each row of logits, (B, 1)."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    order = logits.argsort(descending=True, stable=True)  # stable: equals keep their order
    scores = logits / temperature
    if top_k is not None:
        scores = scores.scatter(-1, order[:, top_k:], -torch.inf)
    return torch.multinomial(scores.softmax(-1), 1, generator=generator)
