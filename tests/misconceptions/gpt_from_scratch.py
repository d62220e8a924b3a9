"""Named wrong answers to the tasks of gpt_from_scratch: the hidden suite must reject every one."""

import copy
import itertools
import math
import re
from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.gpt_from_scratch import GPT as ReferenceGPT
from solutions.gpt_from_scratch import generate as reference_generate
from solutions.gpt_from_scratch import train_bpe as reference_train_bpe

# train_bpe


def _cut(data):
    """Cutting into words, done right."""
    return re.findall(rb" ?[^ ]+| ", data)


def _replaced(tokens, pair, token):
    """Merging, done right."""
    out, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            out.append(token)
            i += 2
        else:
            out.append(tokens[i])
            i += 1
    return out


def _places(tokens):
    return list(itertools.pairwise(tokens))


def _smallest_of_the_most(pairs):
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def _learnt(documents, vocab_size, cut=_cut, count=_places, choose=_smallest_of_the_most, merge=_replaced, least=2, weigh=None, first=256):
    """Learning, done right save for what is given."""
    if vocab_size < 256:
        raise ValueError("vocab_size")
    counts = Counter(bytes(word) for document in documents for word in cut(document))
    words, merges = [(list(word), weigh(n) if weigh else n) for word, n in counts.items()], []
    for k in range(vocab_size - 256):
        pairs = {}
        for tokens, n in words:
            for pair in count(tokens):
                pairs[pair] = pairs.get(pair, 0) + n
        pairs = {pair: n for pair, n in pairs.items() if n >= least}
        if not pairs:
            break
        merges.append(choose(pairs))
        words = [(merge(tokens, merges[-1], first + k), n) for tokens, n in words]
    return merges


@misconception("train_bpe", "Counts each different word once: a word that occurs 100 times has 100 times the pairs.")
def counts_each_word_once(documents, vocab_size):
    return _learnt(documents, vocab_size, weigh=lambda n: 1, least=1)


@misconception("train_bpe", "Does not cut into words: tokens reach over spaces, into the next word.")
def does_not_cut(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: [document])


@misconception("train_bpe", "Throws the spaces away, as split() does: the word behind a space has it as its first byte.")
def throws_spaces_away(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: document.split())


@misconception("train_bpe", "Puts the space at the end of the word before it: it belongs to the word behind it.")
def puts_spaces_at_the_end(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: re.findall(rb"[^ ]+ ?| ", document))


@misconception("train_bpe", "Makes every space a word by itself: one space goes with the word behind it.")
def makes_spaces_words(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: re.findall(rb"[^ ]+| ", document))


@misconception("train_bpe", "Takes all spaces before a word into it: only one belongs there.")
def takes_all_spaces(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: re.findall(rb" *[^ ]+| ", document))


@misconception("train_bpe", "Makes spaces in a row one word: each that has no word behind it is a word by itself.")
def joins_spaces_in_a_row(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: re.findall(rb" ?[^ ]+| +(?= [^ ])| +", document))


@misconception("train_bpe", "Cuts at newlines and tabs, too: only the space cuts here.")
def cuts_at_all_blanks(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: re.findall(rb" ?\S+|\s", document))


@misconception("train_bpe", 'Loses newlines that the pattern\'s "." does not match.')
def loses_newlines(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: re.findall(rb" ?(?:(?! ).)+| ", document))


@misconception("train_bpe", "Joins the documents first: a word goes from the end of one into the next.")
def joins_documents(documents, vocab_size):
    return _learnt([b"".join(documents)], vocab_size)


@misconception("train_bpe", "Joins the documents with spaces: the first word of a document has no space before it.")
def joins_documents_with_spaces(documents, vocab_size):
    return _learnt([b" ".join(documents)], vocab_size)


@misconception("train_bpe", "Takes the pair that was met first among equals: the smallest is due, in whatever order they come.")
def takes_the_first_pair_met(documents, vocab_size):
    return _learnt(documents, vocab_size, choose=lambda pairs: max(pairs, key=pairs.get))


@misconception("train_bpe", "Takes the largest pair among equals: the smallest is due.")
def takes_the_largest_of_equals(documents, vocab_size):
    return _learnt(documents, vocab_size, choose=lambda pairs: max(pairs, key=lambda pair: (pairs[pair], pair)))


@misconception("train_bpe", "Breaks ties by the right token alone: the left one decides first.")
def breaks_ties_by_the_right_token(documents, vocab_size):
    return _learnt(documents, vocab_size, choose=lambda pairs: min(pairs, key=lambda pair: (-pairs[pair], pair[1], pair[0])))


@misconception("train_bpe", "Breaks ties by the bytes that the tokens stand for: a new token is larger than all bytes.")
def breaks_ties_by_bytes(documents, vocab_size):
    texts = [bytes([i]) for i in range(256)]

    def choose(pairs):
        best = min(pairs, key=lambda pair: (-pairs[pair], texts[pair[0]], texts[pair[1]]))
        texts.append(texts[best[0]] + texts[best[1]])
        return best

    return _learnt(documents, vocab_size, choose=choose)


@misconception("train_bpe", 'Counts places that do not overlap, as bytes.count() does: "aaa" has the pair (a, a) twice.')
def counts_without_overlap(documents, vocab_size):
    def places(tokens):
        found, last = [], {}
        for i, pair in enumerate(itertools.pairwise(tokens)):
            if last.get(pair, -2) < i - 1:
                last[pair] = i
                found.append(pair)
        return found

    return _learnt(documents, vocab_size, count=places)


@misconception("train_bpe", "Counts a pair once in a word, however often it stands there.")
def counts_a_pair_once_a_word(documents, vocab_size):
    return _learnt(documents, vocab_size, count=lambda tokens: set(itertools.pairwise(tokens)))


@misconception("train_bpe", "Goes on with pairs that occur once: such a token saves nothing.")
def goes_on_with_single_pairs(documents, vocab_size):
    return _learnt(documents, vocab_size, least=1)


@misconception("train_bpe", "Ends at pairs that occur twice: they are merged still.")
def ends_at_two(documents, vocab_size):
    return _learnt(documents, vocab_size, least=3)


@misconception("train_bpe", "Wants a pair in two different words: twice in one word is enough.")
def wants_two_words(documents, vocab_size):
    merges, words = [], [(list(word), n) for word, n in Counter(word for d in documents for word in _cut(d)).items()]
    if vocab_size < 256:
        raise ValueError("vocab_size")
    for k in range(vocab_size - 256):
        pairs, found = Counter(), Counter()
        for tokens, n in words:
            for pair in itertools.pairwise(tokens):
                pairs[pair] += n
            found.update({pair: n for pair in set(itertools.pairwise(tokens))})
        best = min((pair for pair in pairs if found[pair] > 1), key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None:
            break
        merges.append(best)
        words = [(_replaced(tokens, best, 256 + k), n) for tokens, n in words]
    return merges


@misconception("train_bpe", "Takes vocab_size for the number of merges: the 256 bytes are tokens as well.")
def learns_vocab_size_merges(documents, vocab_size):
    if vocab_size < 256:
        raise ValueError("vocab_size")
    return _learnt(documents, vocab_size + 256)


@misconception("train_bpe", "Learns one merge too few: 257 tokens are the bytes and one merge.")
def learns_one_too_few(documents, vocab_size):
    if vocab_size < 256:
        raise ValueError("vocab_size")
    return _learnt(documents, max(vocab_size - 1, 256))


@misconception("train_bpe", "Numbers the new tokens from 257: the bytes are 0 … 255, so the first new one is 256.")
def numbers_from_257(documents, vocab_size):
    return _learnt(documents, vocab_size, first=257)


@misconception("train_bpe", "Merges from right to left: of three equal tokens, the first is left over, not the last.")
def merges_from_the_right(documents, vocab_size):
    return _learnt(documents, vocab_size, merge=lambda tokens, pair, token: _replaced(tokens[::-1], pair[::-1], token)[::-1])


@misconception("train_bpe", "Merges the first place of the pair in each word only.")
def merges_the_first_place(documents, vocab_size):
    def merge(tokens, pair, token):
        for i, found in enumerate(itertools.pairwise(tokens)):
            if found == pair:
                return [*tokens[:i], token, *tokens[i + 2 :]]
        return tokens

    return _learnt(documents, vocab_size, merge=merge)


@misconception("train_bpe", "Counts once, and takes the most frequent pairs of the bytes: each merge makes new pairs.")
def never_counts_again(documents, vocab_size):
    if vocab_size < 256:
        raise ValueError("vocab_size")
    pairs = Counter(pair for document in documents for word in _cut(document) for pair in itertools.pairwise(word))
    return sorted((pair for pair in pairs if pairs[pair] > 1), key=lambda pair: (-pairs[pair], pair))[: vocab_size - 256]


@misconception("train_bpe", "Reads the documents as text: a byte above 127 is not a character by itself.")
def reads_documents_as_text(documents, vocab_size):
    return _learnt([document.decode(errors="replace").encode() for document in documents], vocab_size)


@misconception("train_bpe", "Returns the bytes that the tokens stand for, not the tokens.")
def returns_bytes(documents, vocab_size):
    texts, out = [bytes([i]) for i in range(256)], []
    for a, b in reference_train_bpe(documents, vocab_size):
        texts.append(texts[a] + texts[b])
        out.append((texts[a], texts[b]))
    return out


@misconception("train_bpe", "Takes a vocabulary below 256 for no merges: it is a ValueError.")
def takes_small_for_none(documents, vocab_size):
    return reference_train_bpe(documents, max(vocab_size, 256))


@misconception("train_bpe", "Reads equal documents once: what occurs in both counts twice.")
def reads_equal_documents_once(documents, vocab_size):
    return _learnt(list(dict.fromkeys(documents)), vocab_size)


@misconception("train_bpe", "Leaves out what stands before the first space of a document.")
def wants_a_space_first(documents, vocab_size):
    return _learnt(documents, vocab_size, cut=lambda document: re.findall(rb" [^ ]+| ", document))


# Tokenizer


class _Tokenizer:
    """A tokenizer, done right, whose steps a wrong one can change."""

    def __init__(self, merges, specials=()):
        if len({*specials, b""}) <= len(specials):
            raise ValueError("specials")
        self.merges = merges
        self.table = {i: bytes([i]) for i in range(256)}
        for k, (a, b) in enumerate(merges):
            self.table[256 + k] = self.table[a] + self.table[b]
        self.ids = {}
        for special in specials:
            self.ids[special] = len(self.table)
            self.table[len(self.table)] = special
        self.vocab_size = len(self.table)

    def encode(self, data, *, specials=True):
        ids = []
        for piece, special in self.pieces(data) if specials and self.ids else [(data, False)]:
            if special:
                ids.append(self.ids[piece])
            else:
                for word in self.words(piece):
                    ids += self.tokens(list(word))
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids):
        ids = [int(i) for i in ids]
        if any(i not in self.table for i in ids):
            raise ValueError("unknown token")
        return b"".join(self.table[i] for i in ids)

    def order(self):
        return sorted(self.ids, key=len, reverse=True)

    def pieces(self, data):
        out, begin, i = [], 0, 0
        order = self.order()
        while i < len(data):
            found = next((special for special in order if data.startswith(special, i)), None)
            if found is None:
                i += 1
            else:
                out += [(data[begin:i], False), (found, True)]
                i = begin = i + len(found)
        return [*out, (data[begin:], False)]

    def words(self, piece):
        return _cut(piece)

    def tokens(self, tokens):
        for k, pair in enumerate(self.merges):
            tokens = _replaced(tokens, pair, 256 + k)
        return tokens


@misconception("Tokenizer", "Does not cut into words: merges reach over spaces.")
class NoWords(_Tokenizer):
    def words(self, piece):
        return [piece]


@misconception("Tokenizer", "Cuts spaces off, as split() does: they do not come back.")
class LosesSpaces(_Tokenizer):
    def words(self, piece):
        return piece.split()


@misconception("Tokenizer", "Puts the space at the end of the word before it.")
class SpacesAtTheEnd(_Tokenizer):
    def words(self, piece):
        return re.findall(rb"[^ ]+ ?| ", piece)


@misconception("Tokenizer", "Takes all spaces before a word into it: only one belongs there.")
class AllSpaces(_Tokenizer):
    def words(self, piece):
        return re.findall(rb" *[^ ]+| ", piece)


@misconception("Tokenizer", "Forgets the spaces that have no word behind them.")
class ForgetsLastSpaces(_Tokenizer):
    def words(self, piece):
        return re.findall(rb" ?[^ ]+", piece)


@misconception("Tokenizer", "Cuts at newlines and tabs, too: only the space cuts here.")
class CutsAtAllBlanks(_Tokenizer):
    def words(self, piece):
        return re.findall(rb" ?\S+|\s", piece)


@misconception("Tokenizer", "Takes the longest token that fits from the left, as WordPiece does: here the ranks decide.")
class LongestToken(_Tokenizer):
    def tokens(self, tokens):
        data, out, i = bytes(tokens), [], 0
        while i < len(data):
            fits = [t for t in range(256 + len(self.merges)) if data.startswith(self.table[t], i)]
            out.append(max(fits, key=lambda t: (len(self.table[t]), -t)))
            i += len(self.table[out[-1]])
        return out


@misconception("Tokenizer", "Merges the leftmost pair that it finds: the pair with the lowest rank goes first, wherever it stands.")
class LeftmostPair(_Tokenizer):
    def tokens(self, tokens):
        while True:
            for i, pair in enumerate(itertools.pairwise(tokens)):
                if pair in self.merges:
                    tokens = [*tokens[:i], 256 + self.merges.index(pair), *tokens[i + 2 :]]
                    break
            else:
                return tokens


@misconception("Tokenizer", "Takes the highest rank first: what was learnt first goes first.")
class HighestRank(_Tokenizer):
    def tokens(self, tokens):
        ranks = {pair: k for k, pair in enumerate(self.merges)}
        while found := [pair for pair in itertools.pairwise(tokens) if pair in ranks]:
            pair = max(found, key=ranks.get)
            tokens = _replaced(tokens, pair, 256 + ranks[pair])
        return tokens


@misconception("Tokenizer", "Merges each pair at one place only.")
class OnePlace(_Tokenizer):
    def tokens(self, tokens):
        for k, pair in enumerate(self.merges):
            for i, found in enumerate(itertools.pairwise(tokens)):
                if found == pair:
                    tokens = [*tokens[:i], 256 + k, *tokens[i + 2 :]]
                    break
        return tokens


@misconception("Tokenizer", "Merges runs from right to left: of three equal tokens, the first is left over, not the last.")
class FromTheRight(_Tokenizer):
    def tokens(self, tokens):
        tokens = tokens[::-1]
        for k, pair in enumerate(self.merges):
            tokens = _replaced(tokens, pair[::-1], 256 + k)
        return tokens[::-1]


@misconception("Tokenizer", "Merges bytes only: tokens that were merged make new pairs.")
class BytesOnly(_Tokenizer):
    def tokens(self, tokens):
        for k, pair in enumerate(self.merges):
            if max(pair) < 256:
                tokens = _replaced(tokens, pair, 256 + k)
        return tokens


@misconception("Tokenizer", "Looks for special tokens after merging: their bytes are gone by then.")
class SpecialsLast(_Tokenizer):
    def encode(self, data, *, specials=True):
        ids = super().encode(data, specials=False).tolist()
        if specials:
            for special, i in self.ids.items():
                if len(special) > 1:
                    n = len(special)
                    while (at := next((k for k in range(len(ids)) if ids[k : k + n] == list(special)), None)) is not None:
                        ids[at : at + n] = [i]
                else:
                    ids = [i if t == special[0] else t for t in ids]
        return torch.tensor(ids, dtype=torch.int64)


@misconception("Tokenizer", "Takes special tokens in the order in which they are given: where several begin, the longest is due.")
class SpecialsInOrder(_Tokenizer):
    def order(self):
        return list(self.ids)


@misconception("Tokenizer", "Cuts out the longest special token everywhere first: the one that begins first is due, even if it is shorter.")
class LongestEverywhere(_Tokenizer):
    def pieces(self, data):
        out = [(data, False)]
        for special in self.order():
            new = []
            for piece, done in out:
                if done:
                    new.append((piece, True))
                    continue
                for i, part in enumerate(piece.split(special)):
                    if i:
                        new.append((special, True))
                    new.append((part, False))
            out = new
        return out


@misconception("Tokenizer", "Puts special tokens into a pattern as they are: b'a+' means something else there.")
class SpecialsArePatterns(_Tokenizer):
    def pieces(self, data):
        pattern = b"(" + b"|".join(self.order()) + b")"
        try:
            return [(piece, piece in self.ids) for piece in re.split(pattern, data) if piece is not None]
        except re.error:
            return [(data, False)]


@misconception("Tokenizer", "Tells special tokens by their bytes, with `specials` false as well.")
class AlwaysSpecial(_Tokenizer):
    def encode(self, data, *, specials=True):
        return super().encode(data)


@misconception("Tokenizer", "Keeps whole texts in a cache: with `specials` false, the answer is another.")
class CachesTexts(_Tokenizer):
    def __init__(self, merges, specials=()):
        super().__init__(merges, specials)
        self.cache = {}

    def encode(self, data, *, specials=True):
        if data not in self.cache:
            self.cache[data] = super().encode(data, specials=specials)
        return self.cache[data]


_CACHE = {}


@misconception("Tokenizer", "Keeps words in a cache of the class: other tokenizers have other merges.")
class SharedCache(_Tokenizer):
    def tokens(self, tokens):
        key = tuple(tokens)
        if key not in _CACHE:
            _CACHE[key] = super().tokens(tokens)
        return _CACHE[key]


@misconception("Tokenizer", "Numbers special tokens from 256: the merges come before them.")
class SpecialsFrom256(_Tokenizer):
    def __init__(self, merges, specials=()):
        super().__init__(merges, specials)
        self.ids = {special: 256 + i for i, special in enumerate(specials)}
        self.table.update({256 + i: special for i, special in enumerate(specials)})


@misconception("Tokenizer", "Sorts the special tokens: their ids follow the order in which they are given.")
class SortsSpecials(_Tokenizer):
    def __init__(self, merges, specials=()):
        super().__init__(merges, sorted(specials))


@misconception("Tokenizer", "Counts bytes and merges only: special tokens belong to the vocabulary.")
class CountsNoSpecials(_Tokenizer):
    def __init__(self, merges, specials=()):
        super().__init__(merges, specials)
        self.vocab_size = 256 + len(merges)


@misconception("Tokenizer", "Looks tokens up in a list: −1 is the last one of it.")
class NegativeTokens(_Tokenizer):
    def decode(self, ids):
        texts = list(self.table.values())
        try:
            return b"".join(texts[int(i)] for i in ids)
        except IndexError as error:
            raise ValueError("unknown token") from error


@misconception("Tokenizer", "Lets a KeyError out for tokens that it does not know.")
class KeyErrors(_Tokenizer):
    def decode(self, ids):
        return b"".join(self.table[int(i)] for i in ids)


@misconception("Tokenizer", "Leaves unknown tokens out.")
class SkipsUnknown(_Tokenizer):
    def decode(self, ids):
        return b"".join(self.table.get(int(i), b"") for i in ids)


@misconception("Tokenizer", "Leaves special tokens out of what it decodes.")
class DropsSpecials(_Tokenizer):
    def decode(self, ids):
        return super().decode([int(i) for i in ids if int(i) < 256 + len(self.merges) or int(i) >= self.vocab_size])


@misconception("Tokenizer", "Decodes to text, and replaces what is no UTF-8.")
class DecodesText(_Tokenizer):
    def decode(self, ids):
        return super().decode(ids).decode(errors="replace").encode()


@misconception("Tokenizer", "Decodes tensors only: a list has no tolist().")
class DecodesTensorsOnly(_Tokenizer):
    def decode(self, ids):
        return super().decode(ids.tolist())


@misconception("Tokenizer", "Decodes by a dict of ints, and looks up with tensors, which are never equal as keys.")
class LooksUpTensors(_Tokenizer):
    def decode(self, ids):
        if any(i not in self.table for i in ids):
            raise ValueError("unknown token")
        return b"".join(self.table[i] for i in ids)


@misconception("Tokenizer", "Returns an empty tensor of floats for no bytes: torch.tensor([]) is float32.")
class FloatsForNothing(_Tokenizer):
    def encode(self, data, *, specials=True):
        return torch.tensor(super().encode(data, specials=specials).tolist())


@misconception("Tokenizer", "Takes an empty special token.")
class TakesEmptySpecials(_Tokenizer):
    def __init__(self, merges, specials=()):
        super().__init__(merges, [s for s in specials if s])


@misconception("Tokenizer", "Takes a special token twice, and gives it one id.")
class TakesSpecialsTwice(_Tokenizer):
    def __init__(self, merges, specials=()):
        super().__init__(merges, list(dict.fromkeys(specials)))


# GPT


class _GPT(ReferenceGPT):
    """Lets a wrong model change one step."""

    scale = None
    causal = True

    def forward(self, ids):
        L = ids.shape[1]
        if self.positions.num_embeddings < L:
            raise ValueError("too long")
        x = self.embed(ids, L)
        for block in self.blocks:
            x = self.run(block, x)
        return self.head(self.norm(x))

    def embed(self, ids, L):
        return self.tokens(ids) + self.positions.weight[:L]

    def run(self, block, x):
        x = x + block["proj"](self.attend(block, block["norm1"](x)))
        return x + block["down"](self.activate(block["up"](block["norm2"](x))))

    def activate(self, h):
        return F.gelu(h)

    def heads(self, y):
        return y.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)

    def attend(self, block, x):
        return self.mix(*self.heads(block["qkv"](x))).transpose(1, 2).flatten(2)


@misconception("GPT", "Lets all positions look at all others: the model sees the token that it should predict.")
class SeesTheFuture(_GPT):
    causal = False


@misconception("GPT", "Hides a position's own token, too.")
class HidesItself(_GPT):
    def mix(self, q, k, v):
        L = q.shape[-2]
        mask = torch.ones(L, L, dtype=torch.bool).tril(-1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@misconception("GPT", "Hands over a mask of True where one may not look: for F.scaled_dot_product_attention, True means that one may.")
class InvertedMask(_GPT):
    def mix(self, q, k, v):
        mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
        mask[-1, 0] = True
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@misconception("GPT", "Does not divide the scores by √D.")
class UnscaledScores(_GPT):
    scale = 1.0


@misconception("GPT", "Divides the scores by √d: the size of a head is what counts.")
class ScaledByWidth(_GPT):
    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.tokens.embedding_dim**-0.5)


@misconception("GPT", "Takes q, k and v of each head from neighbouring features: q of all heads comes first.")
class HeadsFirst(_GPT):
    def heads(self, y):
        return y.unflatten(-1, (self.num_heads, 3, -1)).permute(3, 0, 2, 1, 4)


@misconception("GPT", "Takes the features in turns: head h has those from h · D on.")
class HeadsInTurns(_GPT):
    def heads(self, y):
        return y.unflatten(-1, (3, -1, self.num_heads)).permute(2, 0, 4, 1, 3)


@misconception("GPT", "Reshapes (B, L, d) to (B, H, L, D) directly: that mixes tokens and heads.")
class ReshapesHeads(_GPT):
    def heads(self, y):
        B, L, _ = y.shape
        return torch.stack([part.reshape(B, self.num_heads, L, -1) for part in y.chunk(3, dim=-1)])


@misconception("GPT", "Takes k, q and v in the wrong order.")
class SwapsQueriesAndKeys(_GPT):
    def heads(self, y):
        k, q, v = super().heads(y)
        return q, k, v


@misconception("GPT", "Joins the heads without bringing their dimension back.")
class JoinsHeadsDirectly(_GPT):
    def attend(self, block, x):
        return self.mix(*self.heads(block["qkv"](x))).reshape(x.shape)


@misconception("GPT", "Has one head only, whatever the number.")
class OneHead(_GPT):
    def heads(self, y):
        return y.unflatten(-1, (3, 1, -1)).permute(2, 0, 3, 1, 4)


@misconception("GPT", "Norms after the addition, as the first Transformer did.")
class NormsAfter(_GPT):
    def run(self, block, x):
        x = block["norm1"](x + block["proj"](self.attend(block, x)))
        return block["norm2"](x + block["down"](F.gelu(block["up"](x))))


@misconception("GPT", "Leaves the first addition out: attention replaces x.")
class NoResidual(_GPT):
    def run(self, block, x):
        x = block["proj"](self.attend(block, block["norm1"](x)))
        return x + block["down"](F.gelu(block["up"](block["norm2"](x))))


@misconception("GPT", "Adds to the normed vector: x itself goes past the block.")
class AddsToTheNorm(_GPT):
    def run(self, block, x):
        h = block["norm1"](x)
        x = h + block["proj"](self.attend(block, h))
        h = block["norm2"](x)
        return h + block["down"](F.gelu(block["up"](h)))


@misconception("GPT", "Runs both parts of a block side by side: the second one reads what the first one made.")
class SideBySide(_GPT):
    def run(self, block, x):
        return x + block["proj"](self.attend(block, block["norm1"](x))) + block["down"](F.gelu(block["up"](block["norm2"](x))))


@misconception("GPT", "Uses the tanh formula of GELU: the exact one is asked for.")
class TanhGelu(_GPT):
    def activate(self, h):
        return F.gelu(h, approximate="tanh")


@misconception("GPT", "Uses ReLU: a GPT has GELU.")
class UsesRelu(_GPT):
    def activate(self, h):
        return F.relu(h)


@misconception("GPT", "Leaves the positions out: attention by itself can't tell the order of the tokens.")
class NoPositions(_GPT):
    def embed(self, ids, L):
        return self.tokens(ids) + 0 * self.positions.weight[:L]


@misconception("GPT", "Gives a text's last token the last position: position 0 belongs to the first token.")
class PositionsFromTheEnd(_GPT):
    def embed(self, ids, L):
        return self.tokens(ids) + self.positions.weight[-L:]


@misconception("GPT", "Multiplies the tokens' vectors by √d, as the first Transformer did; a GPT doesn't.")
class ScalesTheTokens(_GPT):
    def embed(self, ids, L):
        return self.tokens(ids) * math.sqrt(self.tokens.embedding_dim) + self.positions.weight[:L]


@misconception("GPT", "Forgets the last norm before the head.")
class NoLastNorm(_GPT):
    def forward(self, ids):
        norm, self.norm = self.norm, nn.Identity()
        try:
            return super().forward(ids)
        finally:
            self.norm = norm


@misconception("GPT", "Runs the first block again in place of the others.")
class OneBlock(_GPT):
    def forward(self, ids):
        if ids.shape[1] > self.positions.num_embeddings:
            raise ValueError("too long")
        x = self.embed(ids, ids.shape[1])
        for _ in self.blocks:
            x = self.run(self.blocks[0], x)
        return self.head(self.norm(x))


@misconception("GPT", "Returns the logits of the last position only.")
class LastPositionOnly(ReferenceGPT):
    def forward(self, ids):
        return super().forward(ids)[:, -1]


@misconception("GPT", "Copies the tokens' weight into the head: from the first update on, they are two.")
class CopiesTheWeight(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.head.weight = nn.Parameter(self.tokens.weight.detach().clone())


@misconception("GPT", "Gives the head a bias.")
class HeadHasABias(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.head.bias = nn.Parameter(torch.zeros(self.head.out_features))


@misconception("GPT", "Gives qkv no bias.")
class NoBias(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        for block in self.blocks:
            block["qkv"].bias = None


@misconception("GPT", "Keeps the mask in a buffer: it lands in the state_dict.")
class StoresTheMask(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        T = self.positions.num_embeddings
        self.register_buffer("mask", torch.ones(T, T, dtype=torch.bool).tril())


@misconception("GPT", "Has the same block in every place: all layers share their weights.")
class SharesBlocks(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.blocks = nn.ModuleList([self.blocks[0]] * sizes[-1])


def _drawn_again(model, draw):
    for name, p in model.named_parameters():
        if p.dim() > 1:
            draw(name, p)


@misconception("GPT", "Leaves the embeddings at torch's N(0, 1): tied to the head, they make the first logits huge.")
class HugeEmbeddings(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        nn.init.normal_(self.tokens.weight)
        nn.init.normal_(self.positions.weight)


@misconception("GPT", "Leaves the linear layers as torch starts them.")
class TorchsStart(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()


@misconception("GPT", "Starts proj and down as all others: each block adds two outputs, and the sum grows with the depth.")
class SameStartForAll(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        _drawn_again(self, lambda name, p: nn.init.normal_(p, std=0.02))


@misconception("GPT", "Divides by √layers: each block adds twice.")
class CountsOneAdditionABlock(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        _drawn_again(self, lambda name, p: nn.init.normal_(p, std=0.02 * (sizes[-1] ** -0.5 if "proj" in name or "down" in name else 1)))


@misconception("GPT", "Makes the start of up and down smaller: those whose outputs are added are proj and down.")
class SmallUps(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        n = (2 * sizes[-1]) ** -0.5
        _drawn_again(self, lambda name, p: nn.init.normal_(p, std=0.02 * (n if "up" in name or "down" in name else 1)))


@misconception("GPT", "Forgets the biases: nn.Linear draws them.")
class DrawsBiases(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.uniform_(part.bias, -0.05, 0.05)


@misconception("GPT", "Draws uniformly, with the right deviation: a normal distribution is asked for.")
class StartsUniform(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        _drawn_again(self, lambda name, p: nn.init.uniform_(p, -float(p.detach().std()) * 3**0.5, float(p.detach().std()) * 3**0.5))


@misconception("GPT", "Seeds torch's generator in the constructor: every model is the same.")
class SeedsTorch(ReferenceGPT):
    def __init__(self, *sizes):
        torch.manual_seed(0)
        super().__init__(*sizes)


@misconception("GPT", "Drops out a tenth of the features in train mode; the statement has no dropout.")
class DropsOut(_GPT):
    def activate(self, h):
        return F.dropout(F.gelu(h), 0.1, self.training)


@misconception("GPT", "Cuts a text that is too long: it is a ValueError.")
class CutsLongTexts(ReferenceGPT):
    def forward(self, ids):
        return super().forward(ids[:, -self.positions.num_embeddings :])


@misconception("GPT", "Lets an IndexError out for a text that is too long.")
class NoCheckOfTheLength(_GPT):
    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = self.run(block, x)
        return self.head(self.norm(x))


@misconception("GPT", "Does not check the heads: another error comes later, or none.")
class NoCheckOfTheHeads(ReferenceGPT):
    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__(vocab_size, context, d_model, num_heads if d_model % num_heads == 0 else 1, num_layers)


@misconception("GPT", "Flattens the ids with view, which works for tensors without gaps only.")
class FlattensTheIds(_GPT):
    def embed(self, ids, L):
        return self.tokens.weight[ids.view(-1)].view(len(ids), L, -1) + self.positions.weight[:L]


@misconception("GPT", "Keeps the mask of the first call: a longer text has no mask for its end.")
class KeepsTheFirstMask(_GPT):
    mask = None

    def mix(self, q, k, v):
        L = q.shape[-2]
        if self.mask is None:
            self.mask = torch.ones(L, L, dtype=torch.bool).tril()
        known = F.pad(self.mask, (0, max(L - len(self.mask), 0), 0, max(L - len(self.mask), 0)), value=True)[:L, :L]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=known)


@misconception("GPT", "Gives the norms another epsilon: nn.LayerNorm's is 1e-5.")
class OtherEpsilon(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        for part in self.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = 1e-6


@misconception("GPT", "Cuts the start values off at two standard deviations.")
class CutsStartValues(ReferenceGPT):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        _drawn_again(self, lambda name, p: p.data.clamp_(-2 * float(p.detach().std()), 2 * float(p.detach().std())))


# train_gpt


def _train(model, tokens, context, generator, updates, *, pairs=None, lr=8e-3, loss=None, clip=True, schedule=True):
    """Training, done right save for what is given."""
    if len(tokens) <= context:
        raise ValueError("too few tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    windows = tokens.unfold(0, context + 1, 1)

    def usual():
        batch = windows[torch.randint(len(windows), (12,), generator=generator)]
        return batch[:, :-1], batch[:, 1:]

    for step in range(updates):
        if schedule:
            optimizer.param_groups[0]["lr"] = lr * min(10 * step / updates + 0.02, 1 - step / updates)
        ids, targets = (pairs or usual)()
        optimizer.zero_grad()
        (loss or _cross_entropy)(model(ids), targets).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@misconception("train_gpt", "Trains each position to give its own token back: the targets are one ahead.")
def learns_to_copy(model, tokens, context, *, generator, updates=240):
    def pairs():
        starts = torch.randint(len(tokens) - context, (12, 1), generator=generator) + torch.arange(context)
        return tokens[starts], tokens[starts]

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Shifts the targets by two: the next token is what is asked for.")
def shifts_by_two(model, tokens, context, *, generator, updates=240):
    def pairs():
        starts = torch.randint(len(tokens) - context, (12, 1), generator=generator) + torch.arange(context)
        return tokens[starts], tokens[(starts + 2).clamp(max=len(tokens) - 1)]

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Rolls the window for its targets: the last position is to predict the first token.")
def rolls_the_window(model, tokens, context, *, generator, updates=240):
    def pairs():
        starts = torch.randint(len(tokens) - context, (12, 1), generator=generator) + torch.arange(context)
        return tokens[starts], tokens[starts].roll(-1, dims=1)

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Joins inputs and targets from different places of the stream.")
def mixes_the_pairs(model, tokens, context, *, generator, updates=240):
    def pairs():
        starts = torch.randint(len(tokens) - context, (2, 12, 1), generator=generator) + torch.arange(context)
        return tokens[starts[0]], tokens[starts[1] + 1]

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Trains on the first windows of the stream only, and learns them by heart.")
def learns_the_beginning(model, tokens, context, *, generator, updates=240):
    def pairs():
        starts = torch.randint(min(len(tokens) - context, 12), (12, 1), generator=generator) + torch.arange(context)
        return tokens[starts], tokens[starts + 1]

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Leaves the last window out: a stream of context + 1 tokens has no other.")
def leaves_the_last_window_out(model, tokens, context, *, generator, updates=240):
    if len(tokens) <= context:
        raise ValueError("too few tokens")

    def pairs():
        starts = torch.randint(len(tokens) - context - 1, (12, 1), generator=generator) + torch.arange(context)
        return tokens[starts], tokens[starts + 1]

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Leaves the last window out unless there is no other: its last token is never learnt.")
def spares_the_last_window(model, tokens, context, *, generator, updates=240):
    def pairs():
        starts = torch.randint(max(len(tokens) - context - 1, 1), (12, 1), generator=generator) + torch.arange(context)
        return tokens[starts], tokens[starts + 1]

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Cuts the stream into windows once: what goes from one into the next is never learnt.")
def cuts_the_stream(model, tokens, context, *, generator, updates=240):
    if len(tokens) <= context:
        raise ValueError("too few tokens")

    def pairs():
        starts = context * torch.randint((len(tokens) - 1) // context, (12, 1), generator=generator) + torch.arange(context)
        return tokens[starts], tokens[starts + 1]

    _train(model, tokens, context, generator, updates, pairs=pairs)


@misconception("train_gpt", "Learns the last position of each window only.")
def learns_the_last_position(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, context, generator, updates, loss=lambda logits, targets: F.cross_entropy(logits[:, -1], targets[:, -1]))


@misconception("train_gpt", "Hands cross_entropy probabilities: it takes the softmax itself.")
def takes_the_softmax_twice(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, context, generator, updates, loss=lambda logits, targets: _cross_entropy(logits.softmax(-1), targets))


@misconception("train_gpt", "Makes rows of logits by reshape, although the axis of the tokens stands elsewhere: rows are mixed.")
def mixes_the_axes(model, tokens, context, *, generator, updates=240):
    def loss(logits, targets):
        return F.cross_entropy(logits.transpose(1, 2).reshape(-1, logits.shape[-1]), targets.flatten())

    _train(model, tokens, context, generator, updates, loss=loss)


@misconception("train_gpt", "Never clears the gradients: they add up.")
def never_clears(model, tokens, context, *, generator, updates=240):
    if len(tokens) <= context:
        raise ValueError("too few tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.9, 0.95))
    windows = tokens.unfold(0, context + 1, 1)
    for _ in range(updates):
        batch = windows[torch.randint(len(windows), (12,), generator=generator)]
        _cross_entropy(model(batch[:, :-1]), batch[:, 1:]).backward()
        optimizer.step()


@misconception("train_gpt", "Clears the gradients after each step only: those from before are in the first one.")
def clears_afterwards(model, tokens, context, *, generator, updates=240):
    if len(tokens) <= context:
        raise ValueError("too few tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.9, 0.95))
    windows = tokens.unfold(0, context + 1, 1)
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = 8e-3 * min(10 * step / updates + 0.02, 1 - step / updates)
        batch = windows[torch.randint(len(windows), (12,), generator=generator)]
        _cross_entropy(model(batch[:, :-1]), batch[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@misconception("train_gpt", "Makes the updates far too small: after all of them the weights are nearly where they started.")
def tiny_updates(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, context, generator, updates, lr=5e-5)


@misconception("train_gpt", "Takes plain SGD at the learning rate of Adam: a Transformer hardly moves.")
def plain_sgd(model, tokens, context, *, generator, updates=240):
    if len(tokens) <= context:
        raise ValueError("too few tokens")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    windows = tokens.unfold(0, context + 1, 1)
    for _ in range(updates):
        batch = windows[torch.randint(len(windows), (12,), generator=generator)]
        optimizer.zero_grad()
        _cross_entropy(model(batch[:, :-1]), batch[:, 1:]).backward()
        optimizer.step()


@misconception("train_gpt", "Draws windows by torch's global generator: the one that is handed in decides.")
def draws_globally(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, context, None, updates)


@misconception("train_gpt", "Takes the generator's first seed: a second training draws the same windows.")
def begins_the_generator_again(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, context, torch.Generator().manual_seed(generator.initial_seed()), updates)


@misconception("train_gpt", "Seeds a generator of its own: every training is the same.")
def seeds_itself(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, context, torch.Generator().manual_seed(0), updates)


@misconception("train_gpt", "Draws new start values: the weights that the network has are to be trained.")
def starts_anew(model, tokens, context, *, generator, updates=240):
    if updates:
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() > 1:
                    p.normal_(std=0.02, generator=generator)
    _train(model, tokens, context, generator, updates)


@misconception("train_gpt", "Switches to train mode, and to eval mode at the end.")
def ends_in_eval_mode(model, tokens, context, *, generator, updates=240):
    model.train()
    _train(model, tokens, context, generator, updates)
    model.eval()


@misconception("train_gpt", "Switches to train mode, and back by the mode of the whole: its parts may have others.")
def switches_the_whole(model, tokens, context, *, generator, updates=240):
    mode = model.training
    model.train()
    _train(model, tokens, context, generator, updates)
    model.train(mode)


@misconception("train_gpt", "Trains a copy: the network that was handed in stays as it was.")
def trains_a_copy(model, tokens, context, *, generator, updates=240):
    _train(copy.deepcopy(model), tokens, context, generator, updates)


@misconception("train_gpt", "Trains the matrices only, for decay's sake: biases and norms are parameters, too.")
def trains_matrices_only(model, tokens, context, *, generator, updates=240):
    others = [p for p in model.parameters() if p.dim() < 2]
    for p in others:
        p.requires_grad_(False)
    _train(model, tokens, context, generator, updates)
    for p in others:
        p.requires_grad_(True)


@misconception("train_gpt", "Makes one update at least.")
def makes_one_update_at_least(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, context, generator, max(updates, 1))


@misconception("train_gpt", "Begins at a learning rate of 0: the first update, which may be the only one, changes nothing.")
def begins_at_zero(model, tokens, context, *, generator, updates=240):
    if len(tokens) <= context:
        raise ValueError("too few tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.9, 0.95))
    windows = tokens.unfold(0, context + 1, 1)
    for step in range(updates):
        optimizer.param_groups[0]["lr"] = 8e-3 * min(10 * step / updates, 1 - step / updates)
        batch = windows[torch.randint(len(windows), (12,), generator=generator)]
        optimizer.zero_grad()
        _cross_entropy(model(batch[:, :-1]), batch[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@misconception("train_gpt", "Does not look at the number of tokens: the error is another one, or none.")
def does_not_check(model, tokens, context, *, generator, updates=240):
    _train(model, tokens, min(context, len(tokens) - 1), generator, updates if len(tokens) > context else 0)


@misconception("train_gpt", "Draws before it looks at the number of tokens.")
def draws_before_checking(model, tokens, context, *, generator, updates=240):
    torch.randint(max(len(tokens) - context, 1), (12,), generator=generator)
    _train(model, tokens, context, generator, updates)


# generate


def _written(model, ids, count, context, generator, temperature, top_k, stop, *, draw=None, window=None, ended_from=None, early=True):
    """Generating, done right save for what is given."""
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError("settings")
    parts = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    ids = ids.clone()
    ended = torch.zeros(len(ids), dtype=torch.bool) if ended_from is None else ended_from(ids)
    try:
        for part, _ in parts:
            part.training = False
        for _ in range(count):
            with torch.no_grad():
                logits = model((window or (lambda ids: ids[:, -context:]))(ids))[:, -1]
            new = (draw or _drawn)(logits, temperature, top_k, generator)
            if stop is not None:
                new = torch.where(ended, stop, new)
                ended = ended | (new == stop)
            ids = torch.cat([ids, new[:, None]], dim=1)
            if early and stop is not None and bool(ended.all()):
                break
    finally:
        for part, mode in parts:
            part.training = mode
    return ids


def _kept(logits, top_k):
    if top_k is None:
        return logits
    order = logits.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return logits.masked_fill(rank >= top_k, -math.inf)


def _drawn(logits, temperature, top_k, generator):
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((_kept(logits, top_k) / temperature).softmax(-1), 1, generator=generator)[:, 0]


@misconception("generate", "Gives the model all tokens: beyond the context, it can't read them.")
def gives_all_tokens(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k, stop, window=lambda ids: ids)


@misconception("generate", "Gives the model the first tokens when there are too many: the last ones count.")
def gives_the_first_tokens(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k, stop, window=lambda ids: ids[:, :context])


@misconception("generate", "Leaves room for the new token in the context: the model can read one more.")
def reads_one_token_less(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k, stop, window=lambda ids: ids[:, -max(context - 1, 1) :])


@misconception("generate", "Cuts prompts to the context, and returns the cut ones.")
def cuts_the_prompt(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return reference_generate(
        model, ids[:, -context:], count, context=context, generator=generator, temperature=temperature, top_k=top_k, stop=stop
    )


@misconception("generate", "Takes the logits of the first position.")
def takes_the_first_logits(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(lambda x: model(x)[:, :1], ids, count, context, generator, temperature, top_k, stop)


@misconception("generate", "Returns the new tokens without the prompts.")
def returns_new_tokens_only(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k, stop)[:, ids.shape[1] :]


@misconception("generate", "Multiplies by the temperature: high ones should make it bolder.")
def multiplies_by_temperature(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature and 1 / temperature, top_k, stop)


@misconception("generate", "Divides the probabilities by the temperature, after the softmax: that changes nothing.")
def divides_probabilities(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    def draw(logits, temperature, top_k, generator):
        if temperature == 0:
            return logits.argmax(-1)
        return torch.multinomial(_kept(logits, top_k).softmax(-1) / temperature, 1, generator=generator)[:, 0]

    return _written(model, ids, count, context, generator, temperature, top_k, stop, draw=draw)


@misconception("generate", "Ignores top_k.")
def ignores_top_k(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, None if top_k is None or top_k >= 1 else top_k, stop)


@misconception("generate", "Keeps all that equal the k-th largest: among equals, the lower index goes first.")
def keeps_all_equals(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    def draw(logits, temperature, top_k, generator):
        if temperature == 0:
            return logits.argmax(-1)
        if top_k is not None:
            least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]

    return _written(model, ids, count, context, generator, temperature, top_k, stop, draw=draw)


@misconception("generate", "Sets the logits of all others to 0, not to −inf: then they can be drawn.")
def sets_others_to_zero(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    def draw(logits, temperature, top_k, generator):
        if temperature == 0:
            return logits.argmax(-1)
        kept = _kept(logits, top_k)
        return torch.multinomial((kept.masked_fill(kept == -math.inf, 0.0) / temperature).softmax(-1), 1, generator=generator)[:, 0]

    return _written(model, ids, count, context, generator, temperature, top_k, stop, draw=draw)


@misconception("generate", "Takes the topk of a vocabulary that has fewer tokens: that is an error.")
def takes_k_of_fewer(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    def draw(logits, temperature, top_k, generator):
        if top_k is not None:
            logits.topk(top_k)
        return _drawn(logits, temperature, top_k, generator)

    return _written(model, ids, count, context, generator, temperature, top_k, stop, draw=draw)


@misconception("generate", "Draws among the k largest in their order by size: p is in the order of the tokens.")
def draws_by_rank(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    def draw(logits, temperature, top_k, generator):
        if temperature == 0:
            return logits.argmax(-1)
        values, order = logits.sort(dim=-1, descending=True, stable=True)
        rank = torch.multinomial((values[:, :top_k] / temperature).softmax(-1), 1, generator=generator)
        return order.gather(1, rank)[:, 0]

    return _written(model, ids, count, context, generator, temperature, top_k, stop, draw=draw)


@misconception("generate", "Takes the likeliest token, at any temperature.")
def always_takes_the_largest(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, min(temperature, 0), top_k, stop)


@misconception("generate", "Divides by a tiny number at temperature 0, and draws: the generator moves on.")
def draws_at_temperature_zero(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, 1e-9 if temperature == 0 else temperature, top_k, stop)


@misconception("generate", "Lets top_k be anything at temperature 0.")
def checks_k_late(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, None if temperature == 0 else top_k, stop)


@misconception("generate", "Draws one token for all rows.")
def draws_one_for_all(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    def draw(logits, temperature, top_k, generator):
        return _drawn(logits[:1], temperature, top_k, generator).expand(len(logits))

    return _written(model, ids, count, context, generator, temperature, top_k, stop, draw=draw)


@misconception("generate", "Draws by torch's global generator.")
def draws_globally_too(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, None, temperature, top_k, stop)


@misconception("generate", "Copies the generator: a second call draws the same tokens.")
def copies_the_generator(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator.clone_state(), temperature, top_k, stop)


@misconception("generate", "Goes on writing after `stop`.")
def ignores_stop(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k, None)


@misconception("generate", "Ends for all rows as soon as one has ended.")
def ends_with_the_first(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    for n in range(count + 1):
        state = generator.get_state()
        text = _written(model, ids, n, context, generator, temperature, top_k, None)
        if n == count or (stop is not None and n and (text[:, -1] == stop).any()):
            return text
        generator.set_state(state)
    return _written(model, ids, count, context, generator, temperature, top_k, stop)


@misconception("generate", "Lets rows that have ended go on, and stops when all have been at `stop`.")
def goes_on_after_the_end(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError("settings")
    for n in range(count + 1):
        state = generator.get_state()
        text = _written(model, ids, n, context, generator, temperature, top_k, None)
        if n == count or (stop is not None and n and bool((text[:, ids.shape[1] :] == stop).any(1).all())):
            return text
        generator.set_state(state)


@misconception("generate", "Looks for `stop` in the prompt: only new tokens end a row.")
def looks_into_the_prompt(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(
        model,
        ids,
        count,
        context,
        generator,
        temperature,
        top_k,
        stop,
        ended_from=lambda ids: (ids == stop).any(1) if stop is not None else torch.zeros(len(ids), dtype=torch.bool),
    )


@misconception("generate", "Takes a prompt whose last token is `stop` for one that has ended.")
def looks_at_the_last_of_the_prompt(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(
        model,
        ids,
        count,
        context,
        generator,
        temperature,
        top_k,
        stop,
        ended_from=lambda ids: ids[:, -1] == stop if stop is not None else torch.zeros(len(ids), dtype=torch.bool),
    )


@misconception("generate", "Fills up with `stop` to the full length, when all rows have ended.")
def fills_up(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k, stop, early=False)


@misconception("generate", "Goes on drawing when all rows have ended, and cuts the rest off at the end.")
def cuts_the_rest_off(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    text = _written(model, ids, count, context, generator, temperature, top_k, stop, early=False)
    if stop is not None:
        ended = (text[:, ids.shape[1] :] == stop).all(0).nonzero()
        text = text[:, : ids.shape[1] + int(ended[0]) + 1] if len(ended) else text
    return text


@misconception("generate", "Tests `if stop`: the token 0 is a token.")
def takes_zero_for_none(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k, stop or None)


@misconception("generate", "Fills rows that have ended with 0.")
def fills_with_zero(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    text = _written(model, ids, count, context, generator, temperature, top_k, stop)
    if stop is not None:
        new = text[:, ids.shape[1] :]
        behind = (new == stop).cumsum(1) > 1
        text[:, ids.shape[1] :] = new.masked_fill(behind & ((new == stop).int().cumprod(1) == 0), 0)
    return text


@misconception("generate", "Leaves the model in the mode in which it is: dropout changes the logits.")
def leaves_the_mode(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(lambda x: model(x), ids, count, context, generator, temperature, top_k, stop)


@misconception("generate", "Leaves the model in eval mode.")
def ends_in_eval(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    if isinstance(model, nn.Module):
        model.eval()
    return _written(model, ids, count, context, generator, temperature, top_k, stop)


@misconception("generate", "Sets the mode of the whole back: its parts may have had others.")
def sets_the_whole_back(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    mode = getattr(model, "training", None)
    try:
        return _written(model, ids, count, context, generator, temperature, top_k, stop)
    finally:
        if isinstance(model, nn.Module):
            model.train(mode)


@misconception("generate", "Sets the modes back at the end only: after an error, the model stays in eval mode.")
def forgets_errors(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    modes = {part: part.training for part in model.modules()} if isinstance(model, nn.Module) else {}
    if modes:
        model.eval()
    text = _written(model, ids, count, context, generator, temperature, top_k, stop)
    for part, mode in modes.items():
        part.training = mode
    return text


@misconception("generate", "Takes every model for an nn.Module: a function has no eval().")
def wants_a_module(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    model.eval()
    return reference_generate(model, ids, count, context=context, generator=generator, temperature=temperature, top_k=top_k, stop=stop)


@misconception("generate", "Records a graph.")
def records_a_graph(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    def recorded(x):
        with torch.enable_grad():
            return model(x).detach()

    return _written(recorded, ids, count, context, generator, temperature, top_k, stop)


@misconception("generate", "Switches gradients off for good.")
def switches_gradients_off(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    torch.set_grad_enabled(False)
    return _written(model, ids, count, context, generator, temperature, top_k, stop)


@misconception("generate", "Returns the prompts themselves if there is nothing to add.")
def returns_the_prompts(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    text = _written(model, ids, count, context, generator, temperature, top_k, stop)
    return text if count else ids


@misconception("generate", "Checks the settings when it draws: with nothing to add, it never does.")
def checks_when_it_draws(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    if count == 0:
        return ids.clone()
    return _written(model, ids, count, context, generator, temperature, top_k, stop)


@misconception("generate", "Takes a top_k of 0 for none.")
def takes_k_zero_for_none(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, temperature, top_k or None, stop)


@misconception("generate", "Takes a negative temperature for 0.")
def takes_negative_for_zero(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    return _written(model, ids, count, context, generator, max(temperature, 0), top_k, stop)


@misconception("generate", "Draws for the rows that go on only: what they get depends on the rows that have ended.")
def draws_for_open_rows(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    ended = torch.zeros(len(ids), dtype=torch.bool)

    def draw(logits, temperature, top_k, generator):
        new = torch.full((len(logits),), stop or 0)
        new[~ended] = _drawn(logits[~ended], temperature, top_k, generator)
        ended[new == stop] = True
        return new

    return _written(model, ids, count, context, generator, temperature, top_k, stop, draw=draw)


@misconception("generate", "Sets the modes of the whole and its children back: their parts are left in eval mode.")
def sets_children_back(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    parts = [model, *model.children()] if isinstance(model, nn.Module) else []
    before = [part.training for part in parts]
    if parts:
        model.eval()
    try:
        return _written(model, ids, count, context, generator, temperature, top_k, stop)
    finally:
        for part, mode in zip(parts, before, strict=True):
            part.training = mode


@misconception("generate", "Does nothing if all prompts end with `stop`: only new tokens end a row.")
def stops_before_the_first(model, ids, count, *, context, generator, temperature=1.0, top_k=None, stop=None):
    if stop is not None and bool((ids[:, -1] == stop).all()):
        return ids.clone()
    return _written(model, ids, count, context, generator, temperature, top_k, stop)
