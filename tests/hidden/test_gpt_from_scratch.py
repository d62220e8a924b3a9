"""Hidden suite of the module gpt_from_scratch."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import LAYOUTS, measured, raised, task

F64 = torch.float64
SPACE = 32

# Helpers for probes


class Network(nn.Module):
    """The network of stage 3."""

    def __init__(self, vocab_size, context, d_model, num_heads, num_layers):
        super().__init__()
        d, self.num_heads = d_model, num_heads
        self.tokens, self.positions = nn.Embedding(vocab_size, d), nn.Embedding(context, d)
        parts = {"norm1": 0, "qkv": (d, 3 * d), "proj": (d, d), "norm2": 0, "up": (d, 4 * d), "down": (4 * d, d)}
        self.blocks = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(*size) if size else nn.LayerNorm(d) for name, size in parts.items()}) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab_size, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            q, k, v = block["qkv"](block["norm1"](x)).chunk(3, dim=-1)
            q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
            x = x + block["proj"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
            x = x + block["down"](F.gelu(block["up"](block["norm2"](x))))
        return self.head(self.norm(x))


def seeded(seed):
    """A generator that begins with this seed."""
    return torch.Generator().manual_seed(seed)


def copied(model):
    """The state_dict, in memory of its own."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def loaded(model, state):
    """The model in the state's dtype, with these weights in it."""
    model = model.to(next(iter(state.values())).dtype)
    model.load_state_dict(state)
    return model


def trained(m, start, sizes, tokens, seed, **settings):
    """The weights of a network that begins at `start`, after training."""
    model = loaded(Network(*sizes), start)
    m.train_gpt(model, tokens, sizes[1], generator=seeded(seed), **settings)
    return copied(model)


class Scores:
    """Logits that depend on all tokens of the window and on their places in it."""

    def __init__(self, table, places):
        self.table, self.places = table, places

    def __call__(self, ids):
        return (self.table[ids] * self.places[: ids.shape[1], None]).cumsum(1)


class LooksBack(nn.Module):
    """A module with parts that may have other modes than the whole; dropout would spoil its logits in train mode."""

    def __init__(self, table, fails=False):
        super().__init__()
        self.table = nn.Parameter(table.clone())
        self.parts = nn.ModuleList([nn.Dropout(0.6), nn.Dropout(0.6)])
        self.fails = fails

    def forward(self, ids):
        if self.fails:
            raise KeyError("no")
        x = self.table[ids]
        return self.parts[1](x + self.parts[0](x.cumsum(1)))


class Table(nn.Module):
    """A module that looks at each token by itself, and takes windows of one length only."""

    def __init__(self, table, context):
        super().__init__()
        self.table, self.context = nn.Parameter(table.clone()), context

    def forward(self, ids):
        if ids.dim() != 2 or ids.shape[1] != self.context or ids.dtype != torch.int64:
            raise ValueError(f"ids must be (B, {self.context}), int64, and are {tuple(ids.shape)}, {ids.dtype}")
        return self.table[ids]


def modes(model):
    """The mode of each part."""
    return [part.training for part in model.modules()]


# Helpers of the trusted side


def some_letters(draw, count):
    """Different bytes, none of them the space."""
    return [c for c in draw.permutation(256).tolist() if c != SPACE][:count]


def some_word(draw, letters, longest):
    """A word of 1 to `longest` of these bytes."""
    return bytes(letters[i] for i in draw.integers(0, len(letters), draw.integer(1, longest + 1)).tolist())


def some_text(draw, letters, words, longest=6, of=12):
    """Words, of some different ones, with one space between them."""
    vocabulary = [some_word(draw, letters, longest) for _ in range(of)]
    return b" ".join(vocabulary[i] for i in draw.integers(0, of, words).tolist())


def some_bytes(draw, letters, count):
    """Random bytes of these."""
    return bytes([letters[i] for i in draw.integers(0, len(letters), count).tolist()])


def shuffled(draw, things):
    """The things in random order."""
    return [things[i] for i in draw.permutation(len(things)).tolist()]


@task("train_bpe")
class TestTrainBpe:
    @pytest.mark.parametrize(("letters", "vocab_size"), [(2, 262), (4, 275), (30, 290)])
    def test_values(self, agree, draw, letters, vocab_size):
        """The most frequent pair is merged, time after time, whatever the bytes are."""
        documents = [some_text(draw, some_letters(draw, letters), n) for n in (50, 20, 1)]
        agree(lambda m: m.train_bpe(documents, vocab_size), rtol=0, atol=0)

    @pytest.mark.parametrize("room", [0, 1, 2, 5])
    def test_room(self, agree, draw, room):
        """At most vocab_size − 256 merges are learnt, and the first ones are the same for every size."""
        documents = [some_text(draw, some_letters(draw, 3), 60)]
        agree(lambda m: [m.train_bpe(documents, 256 + room), m.train_bpe(documents, 264)], rtol=0, atol=0)

    def test_it_stops_below_two(self, agree, draw):
        """A pair that occurs twice is merged, one that occurs once is not, however much room there is."""
        a, b, c, d, e, f, g = some_letters(draw, 7)
        documents = [bytes([a, b, SPACE, c, d, e]), bytes([a, b, f]), bytes([SPACE, c, d, g])]
        once = [bytes([a, b, c]), bytes([SPACE, d, SPACE, e, f])]
        agree(lambda m: [m.train_bpe(documents, 300), m.train_bpe(once, 300)], rtol=0, atol=0)

    def test_ties(self, agree, draw):
        """Among equal counts, the smaller left token wins, then the smaller right one, in whatever order they come."""
        letters = some_letters(draw, 5)
        words = [bytes([a, b]) for a in letters for b in letters]
        documents = [shuffled(draw, words), shuffled(draw, words), shuffled(draw, words)]
        documents = [b" ".join(words) for words in documents]
        agree(lambda m: [m.train_bpe(documents, 290), m.train_bpe(documents[::-1], 258)], rtol=0, atol=0)

    def test_ties_with_new_tokens(self, agree, draw):
        """New tokens are larger than all bytes, and take part in ties."""
        a, b, c = some_letters(draw, 3)
        words = [bytes([a, b, a, b, c]), bytes([a, b, c, c]), bytes([c, c, a]), bytes([c, a, b])]
        documents = shuffled(draw, words + words)
        agree(lambda m: m.train_bpe(documents, 266), rtol=0, atol=0)

    def test_a_space_goes_with_the_word_behind_it(self, agree, draw):
        """One space before a word belongs to it, and makes pairs with its first byte only."""
        a, b, c = some_letters(draw, 3)
        first = [bytes([a, SPACE, b, SPACE, c]), bytes([b, SPACE, a, SPACE, c, b]), bytes([c, SPACE, b, SPACE, a])]
        second = [some_text(draw, [a, b, c], 40, longest=2)]
        agree(lambda m: [m.train_bpe(first, 270), m.train_bpe(second, 270)], rtol=0, atol=0)

    def test_spaces_in_a_row(self, agree, draw):
        """Of several spaces, all but the last are words by themselves; at the end of a document all are."""
        letters = some_letters(draw, 3)
        gaps = [bytes([SPACE] * n) for n in draw.integers(1, 5, 40).tolist()]
        document = b"".join(some_word(draw, letters, 2) + gap for gap in gaps)
        documents = [document, b"    ", b"      " + document]
        agree(lambda m: [m.train_bpe(documents, 270), m.train_bpe([b"  " * 9 + bytes(letters[:1])] * 2, 270)], rtol=0, atol=0)

    def test_other_blanks_are_bytes(self, agree, draw):
        """Only the space cuts: newlines, tabs and the like stand in words as all other bytes do."""
        a, b = some_letters(draw, 2)
        letters = [10, 9, 13, 11, 12, 0, 160, a, b]
        documents = [some_text(draw, letters, 60, longest=5), bytes([a, 10, b, 10, a]) * 3, b"\n\n\n\n \n \n"]
        agree(lambda m: m.train_bpe(documents, 290), rtol=0, atol=0)

    def test_documents_are_apart(self, agree, draw):
        """No pair goes from the end of one document to the begin of the next."""
        a, b, c = some_letters(draw, 3)
        documents = [bytes([b]), bytes([a, c]), bytes([b])] * 9 + [bytes([a]), bytes([SPACE])] * 9 + [bytes([c, a])] * 2
        agree(lambda m: m.train_bpe(documents, 270), rtol=0, atol=0)

    def test_equal_words_add_up(self, agree, draw):
        """A word counts as often as it occurs, in all documents together."""
        a, b, c, *others = some_letters(draw, 9)
        n = draw.integer(4, 7)
        documents = [bytes([a, b, other]) for other in others[:n]] + [bytes([SPACE, b, c]) * 3, bytes([b, c])] * 2
        agree(lambda m: m.train_bpe(documents, 262), rtol=0, atol=0)

    def test_overlapping_places_count(self, agree, draw):
        """Of a run of five, four pairs count: more than a pair that occurs three times as often as the run."""
        a, b, c, d, e = some_letters(draw, 5)
        n = draw.integer(2, 9)
        documents = [bytes([b, c])] * (3 * n) + [bytes([a] * 5)] * n + [bytes([d, e])] * (5 * n)
        agree(lambda m: m.train_bpe(documents, 258), rtol=0, atol=0)

    def test_a_run_of_three(self, agree, draw):
        """Of three equal bytes, two pairs count, once is enough; a second merge can't use the first two again."""
        a, b = some_letters(draw, 2)
        agree(lambda m: [m.train_bpe([bytes([a, a, a])], 300), m.train_bpe([bytes([b] + [a] * 7)], 300)], rtol=0, atol=0)

    def test_runs_are_merged_from_the_left(self, agree, draw):
        """A run of an odd length keeps its last token, and a token is used once."""
        a, b = some_letters(draw, 2)
        documents = [bytes([b] + [a] * n + [b]) for n in draw.integers(1, 12, 12).tolist()]
        agree(lambda m: m.train_bpe(documents, 270), rtol=0, atol=0)

    def test_pairs_are_told_apart(self, agree, draw):
        """A pair is two tokens, and tokens are larger than bytes: a · 256 + b is the same for (a, 256) and (a + 1, 0)."""
        a, x, y, b = draw.integer(33, 100), draw.integer(110, 170), draw.integer(180, 220), draw.integer(230, 256)
        documents = [bytes([x, y])] * 90 + [bytes([a, x, y])] * 20 + [bytes([a + 1, 0])] * 25 + [bytes([x, b])] * 40
        agree(lambda m: m.train_bpe(documents, 260), rtol=0, atol=0)

    def test_it_ends_when_all_is_merged(self, agree, draw):
        """When each word is one token, there is nothing left to merge."""
        documents = [some_text(draw, some_letters(draw, 3), 100, of=4)]
        agree(lambda m: m.train_bpe(documents, 400), rtol=0, atol=0)

    def test_long_words(self, agree, draw):
        """A word may be long: bytes of all kinds, and tokens of tokens of tokens."""
        piece, few = bytes(some_letters(draw, 9)), bytes(draw.integers(0, 3, 60).tolist())
        agree(lambda m: m.train_bpe([piece * 8 + few], 281), rtol=0, atol=0)

    def test_little_to_read(self, agree, draw):
        """No documents, empty ones and single bytes have no pairs; a tuple of documents is fine."""
        a, b = some_letters(draw, 2)
        some = (b"", bytes([a, b, SPACE, a, b]), b"", bytes([b, a, b]))
        agree(lambda m: [m.train_bpe(x, 270) for x in ([], [b""], [bytes([a])] * 3, [b" "] * 3, some, list(some))], rtol=0, atol=0)

    def test_many_bytes(self, agree, draw):
        """400,000 bytes of few different words take no longer than the words do."""
        letters = some_letters(draw, 20)
        words = [some_word(draw, letters, 9) for _ in range(300)]
        page = b" ".join(words[i] for i in draw.integers(0, 300, 3500).tolist())
        rest = b" ".join(words[i] for i in draw.integers(0, 300, 400).tolist())

        def probe(m):
            return m.train_bpe([page * (400_000 // len(page)), rest], 356)

        agree(probe, rtol=0, atol=0)

    def test_no_room_for_bytes(self, agree, draw):
        """A vocabulary below 256 is a ValueError."""
        documents = [some_text(draw, some_letters(draw, 3), 30)]

        def probe(m):
            return [raised(ValueError, lambda n=n: m.train_bpe(documents, n)) for n in (255, 0, -1)], m.train_bpe(documents, 260)

        agree(probe, rtol=0, atol=0)


def some_merges(draw, letters, count):
    """Merges of random tokens: of the given bytes, and of earlier merges."""
    tokens, merges = list(letters), []
    while len(merges) < count:
        pair = tokens[draw.integer(0, len(tokens))], tokens[draw.integer(0, len(tokens))]
        if pair not in merges:
            merges.append(pair)
            tokens.append(255 + len(merges))
    return merges


def both_ways(tokenizer, data, **settings):
    """The tokens of some bytes, and the bytes of these tokens."""
    ids = tokenizer.encode(data, **settings)
    return ids, list(tokenizer.decode(ids))


@task("Tokenizer")
class TestTokenizer:
    @pytest.mark.parametrize(("letters", "count"), [(2, 6), (3, 12), (9, 40)])
    def test_encode(self, agree, draw, letters, count):
        """Merges are applied by their rank, merges of merges too, and the bytes come back."""
        letters = [*some_letters(draw, letters), SPACE]
        merges, texts = some_merges(draw, letters, count), [some_bytes(draw, letters, n) for n in (3, 4, 7, 60)]
        agree(lambda m: [both_ways(m.Tokenizer(merges), text) for text in texts], rtol=0, atol=0)

    def test_learnt_merges(self, agree, draw):
        """With merges as they are learnt from a text, another text of the same words has few tokens."""
        letters = some_letters(draw, 5)
        words = [some_word(draw, letters, 5) for _ in range(9)]
        merges = [
            (SPACE, letters[0]),
            (SPACE, letters[1]),
            (letters[0], letters[1]),
            (256, letters[2]),
            (letters[3], letters[4]),
            (258, 260),
        ]
        text = b" ".join(words[i] for i in draw.integers(0, 9, 60).tolist())
        agree(lambda m: both_ways(m.Tokenizer(merges), text), rtol=0, atol=0)

    def test_the_lowest_rank_goes_first(self, agree, draw):
        """Of two pairs that share a token, the one with the lower rank is merged, on the left or on the right, short or long."""
        a, b, c, d = some_letters(draw, 4)
        left, right, long = (a, b), (b, c), (256, d)
        text = bytes([a, b, c, d])
        tables = [[left, right], [right, left], [right, long, left], [(c, d), left, (257, c), (258, d)]]
        agree(lambda m: [both_ways(m.Tokenizer(merges), text + text) for merges in tables], rtol=0, atol=0)

    def test_runs(self, agree, draw):
        """In a run of one token, pairs are merged from left to right."""
        a, b = some_letters(draw, 2)
        tables = [[(a, a)], [(a, a), (256, 256)], [(a, a), (256, a), (a, b)], [(a, a), (a, 256), (b, 256)]]
        texts = [bytes([b] + [a] * n + [b]) for n in range(1, 8)]
        agree(lambda m: [both_ways(m.Tokenizer(merges), text) for merges in tables for text in texts], rtol=0, atol=0)

    def test_words_are_apart(self, agree, draw):
        """A space is merged with what follows it, never with what stands before it; two spaces never become one token."""
        a, b = some_letters(draw, 2)
        merges = shuffled(draw, [(a, SPACE), (SPACE, SPACE), (SPACE, a), (b, a), (a, b)])
        texts = [some_bytes(draw, [a, b, SPACE, SPACE], 40), bytes([a, SPACE, SPACE, a, SPACE]), b"   ", bytes([SPACE, a, SPACE, b])]
        agree(lambda m: [both_ways(m.Tokenizer(merges), text) for text in texts], rtol=0, atol=0)

    def test_other_blanks_are_bytes(self, agree, draw):
        """Newlines, tabs and the like stand in words as all other bytes do, and the space before them is theirs."""
        a = some_letters(draw, 1)[0]
        merges = [(a, 10), (10, a), (10, 10), (SPACE, 10), (9, 9), (SPACE, 9), (256, 257), (13, 10), (0, a), (160, SPACE)]
        texts = [some_bytes(draw, [a, 10, 9, 13, 0, 160, SPACE], 60), b" \n\n \t\t\r\n"]
        agree(lambda m: [both_ways(m.Tokenizer(merges), text) for text in texts], rtol=0, atol=0)

    def test_many_merges(self, agree, draw):
        """There may be hundreds of merges: tokens are not bytes, nor are ranks."""
        letters = some_letters(draw, 20)
        merges = shuffled(draw, [(a, b) for a in letters for b in letters])
        text = some_bytes(draw, letters, 40)
        agree(lambda m: (both_ways(m.Tokenizer(merges), text), m.Tokenizer(merges).vocab_size), rtol=0, atol=0)

    def test_no_merges(self, agree, draw):
        """Without merges, the tokens are the bytes, of any value, and special tokens begin at 256."""
        text = bytes([255, 0, 128, *draw.integers(0, 256, 20).tolist()])
        end = bytes(some_letters(draw, 4))

        def probe(m):
            plain, special = m.Tokenizer([]), m.Tokenizer([], [end])
            return both_ways(plain, text), both_ways(special, text + end), plain.vocab_size, special.vocab_size

        agree(probe, rtol=0, atol=0)

    def test_short_texts(self, agree, draw):
        """No bytes give no tokens, in int64 all the same; one byte or one pair is fine, too."""
        a, b = some_letters(draw, 2)
        texts = [b"", bytes([a]), bytes([a, b]), bytes([b, a]), b" "]
        agree(lambda m: [both_ways(m.Tokenizer([(a, b)], s), text) for s in ([], [b"<e>"]) for text in texts], rtol=0, atol=0)

    def test_round_trip(self, agree, draw):
        """Bytes of all values come back, text or not, whether special tokens are cut out or not."""
        letters = some_letters(draw, 5)
        end, pad = bytes(letters[:3]), bytes([SPACE, letters[4]])
        merges = some_merges(draw, [*letters, SPACE], 30)
        texts = [
            bytes(draw.permutation(256).tolist()),
            bytes(draw.integers(0, 256, 300).tolist()),
            some_bytes(draw, letters, 60) + end + pad,
        ]

        def probe(m):
            tokenizer = m.Tokenizer(merges, [end, pad])
            return [both_ways(tokenizer, text, specials=specials) for text in texts for specials in (True, False, True)]

        agree(probe, rtol=0, atol=0)

    def test_special_tokens(self, agree, draw):
        """A special token is one id, behind the merges, at the begin, between words, in words, at the end, and twice in a row."""
        letters = some_letters(draw, 6)
        end, pad = bytes([letters[4], letters[5]]), bytes([letters[5], letters[4], SPACE])
        merges = some_merges(draw, [*letters, SPACE], 9)
        x, y, z = (some_text(draw, letters[:4], n, longest=3) for n in (3, 2, 4))
        texts = [end + x + end + pad + y, x + b" " + pad + b" " + y + end, end, end + end + z + pad]

        def probe(m):
            tokenizer = m.Tokenizer(merges, [end, pad])
            return [both_ways(tokenizer, text) for text in texts], tokenizer.vocab_size, list(tokenizer.decode([265, 266, 265]))

        agree(probe, rtol=0, atol=0)

    def test_special_tokens_in_order(self, agree, draw):
        """The ids of special tokens are in the order in which these are given."""
        specials = [bytes([60, c, 62]) for c in some_letters(draw, 7)]
        text = b"".join(shuffled(draw, specials))
        agree(lambda m: both_ways(m.Tokenizer([(60, 62)], specials), text), rtol=0, atol=0)

    def test_the_longest_special_token(self, agree, draw):
        """Where several special tokens begin, the longest is taken, in whatever order they are given."""
        a, b, c = some_letters(draw, 3)
        specials = [bytes([a]), bytes([a, b]), bytes([a, b, c, a]), bytes([b, c])]
        texts = [bytes([a, b, c, a, b, a, a, b, c, c]), bytes([a, b, c, b]), some_bytes(draw, [a, b, c], 40)]

        def probe(m):
            return [both_ways(m.Tokenizer([], order), text) for order in (specials, specials[::-1]) for text in texts]

        agree(probe, rtol=0, atol=0)

    def test_the_leftmost_special_token(self, agree, draw):
        """Where special tokens overlap, the one that begins first is taken, even if it is shorter."""
        a, b, c, d = some_letters(draw, 4)
        specials = [bytes([b, c, d]), bytes([a, b]), bytes([d, d])]
        texts = [bytes([a, b, c, d, d, d]), bytes([b, c, d, d, d]), some_bytes(draw, [a, b, c, d], 40)]
        agree(lambda m: [both_ways(m.Tokenizer([(c, d)], specials), text) for text in texts], rtol=0, atol=0)

    def test_special_tokens_are_no_patterns(self, agree, draw):
        """Special tokens may have any bytes: those that mean something in a regular expression, spaces, newlines."""
        x = draw.integers(97, 123, 3).tolist()
        specials = [b"<|end|>", b"a+", b"(.*)", b"[0-9]", b"\\", b"\n\n", b" ", b"^", bytes([*x, 46])]
        text = b"<|endaa+<|end|>b()(.*)5[0-9]\\\n\n\n x" + bytes(x) + b"!" + bytes([*x, 46]) + b"^end|"
        agree(lambda m: [both_ways(m.Tokenizer([(97, 97)], specials), text, specials=flag) for flag in (True, False)], rtol=0, atol=0)

    def test_special_tokens_as_plain_bytes(self, agree, draw):
        """With `specials` false, the bytes of a special token are merged as all others are; calls with and without take turns."""
        a, b, c = some_letters(draw, 3)
        end, merges = bytes([a, b]), shuffled(draw, [(a, b), (b, c), (c, a), (SPACE, a)])
        text = some_bytes(draw, [a, b, c, SPACE], 30) + bytes([SPACE, a, b, c, a, b])

        def probe(m):
            tokenizer = m.Tokenizer(merges, [end])
            return [both_ways(tokenizer, data, specials=flag) for flag in (False, True, False) for data in (text, end)]

        agree(probe, rtol=0, atol=0)

    def test_nothing_is_merged_across_a_special_token(self, agree, draw):
        """Special tokens are cut out first; what stands on both sides is apart, and a space behind one begins a word."""
        a, b, c = some_letters(draw, 3)
        end = bytes([c, SPACE, c])
        merges = [(a, b), (b, a), (c, SPACE), (SPACE, b), (a, c), (SPACE, c), (b, SPACE)]
        text = bytes([a]) + end + bytes([b, a, SPACE, b]) + end + bytes([SPACE, b, a, c, SPACE]) + bytes([c, c, SPACE])
        agree(lambda m: both_ways(m.Tokenizer(merges, [end]), text), rtol=0, atol=0)

    @pytest.mark.parametrize("kind", ["list", "tuple", "sliced", "int64"])
    def test_decode(self, agree, draw, kind):
        """Any tokens can be decoded, also such as encode would not make, from a list, a tuple or a tensor."""
        letters = some_letters(draw, 5)
        merges, specials = some_merges(draw, [*letters, SPACE], 12), [b"<e>", bytes(letters)]
        ids = draw.integers(0, 270, 60, layout="sliced" if kind == "sliced" else "contiguous")
        given = tuple(ids.tolist()) if kind == "tuple" else ids.tolist() if kind == "list" else ids

        def probe(m):
            tokenizer = m.Tokenizer(merges, specials)
            return [list(tokenizer.decode(x)) for x in (given, given[:0], given[:1], [269, 268, 267, 0])]

        agree(probe, rtol=0, atol=0)

    def test_characters_in_pieces(self, agree, draw):
        """Part of a character is bytes, too: decode gives what the tokens have, in bytes."""
        text = "".join(chr(c) for c in draw.integers(200, 2000, 12).tolist()).encode() + "😀".encode()

        def probe(m):
            tokenizer = m.Tokenizer([(text[0], text[1]), (159, 152)])
            ids = tokenizer.encode(text)
            return [list(tokenizer.decode(ids[i : i + 3])) for i in range(len(ids))]

        agree(probe, rtol=0, atol=0)

    def test_unknown_tokens(self, agree, draw):
        """Ids below 0 and from vocab_size on are ValueErrors, wherever they stand, in lists and tensors."""
        letters = some_letters(draw, 3)
        merges, ids = some_merges(draw, letters, 4), draw.integers(0, 261, 9)
        bad = [-1, -261, 261, 262, 2**40, -(2**40)]

        def probe(m):
            tokenizer = m.Tokenizer(merges, [b"<e>"])
            endings = [raised(ValueError, lambda i=i: tokenizer.decode([*ids.tolist(), i])) for i in bad]
            endings += [raised(ValueError, lambda i=i: tokenizer.decode(torch.tensor([i, 260]))) for i in bad]
            return endings, raised(ValueError, lambda: m.Tokenizer(merges).decode([260])), list(tokenizer.decode(ids))

        agree(probe, rtol=0, atol=0)

    def test_refuses_special_tokens(self, agree, draw):
        """An empty special token, and one that is given twice, are ValueErrors."""
        a, b, c = some_letters(draw, 3)
        lists = [[b""], [bytes([a]), b""], [bytes([a, b]), bytes([c]), bytes([a, b])], (bytes([a]), bytes([a]))]

        def probe(m):
            endings = [raised(ValueError, lambda x=x: m.Tokenizer([(a, b)], x)) for x in lists]
            return endings, both_ways(m.Tokenizer([(a, b)], (bytes([a]), bytes([c, a]))), bytes([c, a, b, a, b, c]))

        agree(probe, rtol=0, atol=0)

    def test_two_tokenizers(self, agree, draw):
        """Each tokenizer has its own tokens, and answers again as it did before."""
        letters = [*some_letters(draw, 4), SPACE]
        first, second = some_merges(draw, letters, 9), some_merges(draw, letters, 5)
        text, end = some_bytes(draw, letters, 40), bytes(letters[:2])

        def probe(m):
            one, two = m.Tokenizer(first, [end]), m.Tokenizer(second)
            return [(both_ways(one, text), both_ways(two, text), one.vocab_size, two.vocab_size) for _ in range(2)]

        agree(probe, rtol=0, atol=0)

    def test_a_page(self, agree, draw):
        """Thousands of bytes are no trouble."""
        letters = some_letters(draw, 9)
        merges, text = some_merges(draw, [*letters, SPACE], 60), some_text(draw, letters, 2500, of=200)
        agree(lambda m: both_ways(m.Tokenizer(merges, [b"<e>"]), text), rtol=0, atol=0)


SMALL = 7, 11, 12, 3, 2
"""Sizes for the tests that don't train: vocabulary, context, d_model, heads, layers."""


def gpt_weights(draw, sizes=SMALL, dtype=torch.float32):
    """Random weights, of a size at which every part shows in the result."""
    state = {name: draw.normal(*x.shape, dtype=dtype) / math.sqrt(x.shape[-1]) for name, x in Network(*sizes).state_dict().items()}
    state["head.weight"] = state["tokens.weight"] = draw.normal(sizes[0], sizes[2], dtype=dtype)
    return state


def check_normal(x, name, deviation):
    """Assert that start values come from N(0, deviation²), and are drawn one by one."""
    n = x.numel()
    mean, std = x.mean().item(), x.std().item()
    # Six deviations of the mean and of the standard deviation.
    right = abs(mean) < 6 * deviation / math.sqrt(n) and abs(std / deviation - 1) < 6 / math.sqrt(2 * n)
    assert right, f"{name} must start at N(0, {deviation:.4f}²): its mean is {mean:.5f}, its standard deviation {std:.5f}."
    beyond = (x.abs() > 2 * deviation).double().mean().item()
    assert abs(beyond - 0.0455) < 6 * math.sqrt(0.0455 / n), (
        f"{name} must start at a normal distribution: {beyond:.1%} are beyond two standard deviations, 4.6% are due."
    )
    share = x.abs().unique().numel() / n
    assert share > 0.9, f"{name} must start with numbers that are drawn one by one; only {share:.0%} of them differ in size."


@task("GPT")
class TestGPT:
    @pytest.mark.parametrize("length", [1, 5, 11])
    def test_values(self, agree, draw, length):
        """With given weights the logits are right, for one token, for some, and for a whole context."""
        state, ids = gpt_weights(draw), draw.integers(0, 7, 3, length)
        agree(lambda m: loaded(m.GPT(*SMALL), state)(ids), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("sizes", [(5, 9, 8, 1, 1), (13, 4, 6, 6, 3), (2, 1, 4, 2, 1), (3, 5, 1, 1, 1)])
    def test_sizes(self, agree, draw, sizes):
        """One head, one feature a head, one layer, one position: all sizes work, in float64 to ten digits."""
        state, ids = gpt_weights(draw, sizes, F64), draw.integers(0, sizes[0], 2, sizes[1])
        agree(lambda m: loaded(m.GPT(*sizes), state)(ids), rtol=1e-9, atol=1e-9)

    def test_evaluation(self, agree, draw):
        """In eval mode and without gradients the logits are the same, for a single text too."""
        state, ids, one = gpt_weights(draw), draw.integers(0, 7, 3, 9), draw.integers(0, 7, 1, 9)

        def probe(m):
            model = loaded(m.GPT(*SMALL), state).eval()
            with torch.no_grad():
                return model(ids), model(one)

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("training", [True, False])
    def test_lengths_take_turns(self, agree, draw, training):
        """One model reads short texts and long ones, in any order, batches of any size, and the same again."""
        state, lengths = gpt_weights(draw), [4, 11, 1, *draw.integers(1, 12, 3).tolist(), 11]
        texts = [draw.integers(0, 7, batch, length) for batch, length in zip([2, 1, 3, 5, 1, 2, 4], lengths, strict=True)]

        def probe(m):
            model = loaded(m.GPT(*SMALL), state).train(training)
            return [model(ids) for ids in texts + texts[:2]]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_gradients(self, agree, draw):
        """Each parameter gets its gradient; the head's adds to the tokens'."""
        state, ids, w = gpt_weights(draw, dtype=F64), draw.integers(0, 7, 3, 9), draw.normal(3, 9, 7, dtype=F64)

        def probe(m):
            model = loaded(m.GPT(*SMALL), state)
            (model(ids) * w).sum().backward()
            return {name: p.grad for name, p in model.named_parameters() if name not in ("tokens.weight", "head.weight")}, (
                model.tokens.weight.grad
            )

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_the_future_changes_nothing(self, agree, draw):
        """Other tokens from position t on leave the logits before t as they were."""
        state, ids, t = gpt_weights(draw), draw.integers(0, 7, 3, 11), draw.integer(1, 11)
        other = torch.cat([ids[:, :t], (ids[:, t:] + draw.integers(1, 7, 3, 11 - t)) % 7], dim=1)

        def probe(m):
            model = loaded(m.GPT(*SMALL), state)
            y, changed = model(ids), model(other)
            unchanged = bool(((y - changed)[:, :t].abs() < 1e-3).all())
            return "unchanged" if unchanged else "changed by the future", y, changed

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The ids may lie in memory in any way, and the context be long."""
        sizes, ids = (5, 150, 4, 2, 1), draw.integers(0, 5, 3, 139, layout=layout)
        state = gpt_weights(draw, sizes)
        agree(lambda m: loaded(m.GPT(*sizes), state)(ids), rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """Parameters and state_dict have the names and shapes of the statement, and there is nothing else."""
        sizes = draw.integer(5, 20), draw.integer(5, 20), 4 * draw.integer(2, 6), 4, draw.integer(1, 4)

        def probe(m):
            model = m.GPT(*sizes)
            named = {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)}
            return dict(sorted(named.items())), sorted(model.state_dict())

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    def test_tied_weights(self, agree, draw):
        """The head's weight is the tokens' own: it counts once, and what changes one changes the other."""
        state, ids = gpt_weights(draw), draw.integers(0, 7, 3, 9)

        def probe(m):
            model = loaded(m.GPT(*SMALL), state)
            with torch.no_grad():
                model.tokens.weight.mul_(1.25)
            tied = model.head.weight is model.tokens.weight
            return "tied" if tied else "two tensors", sum(p.numel() for p in model.parameters()), model(ids)

        agree(probe, rtol=1e-4, atol=1e-3)

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, in both modes, and the parameters stay the same objects."""
        states, ids = [gpt_weights(draw) for _ in range(2)], draw.integers(0, 7, 3, 9)

        def probe(m):
            model, answers = m.GPT(*SMALL), []
            before = dict(model.named_parameters())
            with torch.no_grad():
                for state in states:
                    model.load_state_dict(state)
                    answers.append(model.eval()(ids))
                for p in model.parameters():
                    p.mul_(1.25)
                for training in (True, False):
                    answers.append(model.train(training)(ids))
            same = all(p is before.get(name) for name, p in model.named_parameters()) and not any(modes(model))
            return answers, "the same parameters and modes" if same else "other parameters or modes"

        agree(probe, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("layers", [1, 3, 8])
    def test_start_values(self, student, draw, layers):
        """Weights start at N(0, 0.02²), those of proj and down at less, depending on the number of layers; biases at 0, norms at 1."""
        vocabulary, seed = draw.integer(150, 200), draw.seed()

        def probe(m):
            torch.manual_seed(seed)
            return copied(m.GPT(vocabulary, 97, 48, 4, layers)), copied(m.GPT(vocabulary, 97, 48, 4, layers))

        state, other = student(probe)
        for name, x in state.items():
            if name.endswith("bias"):
                assert not x.any(), f"{name} must start at 0."
            elif "norm" in name:
                assert bool((x == 1).all()), f"{name} must start at 1."
            else:
                adds = name.endswith(("proj.weight", "down.weight"))
                check_normal(x, name, 0.02 / math.sqrt(2 * layers) if adds else 0.02)
                assert not torch.equal(x, other[name]), f"{name} must be drawn anew for each model."
        blocks = torch.stack([state[f"blocks.{i}.qkv.weight"] for i in range(layers)])
        assert blocks.unique().numel() > 0.8 * blocks.numel(), "Each block must have weights of its own."

    def test_first_loss(self, agree, draw):
        """A fresh model knows nothing: its loss is about the logarithm of the number of tokens."""
        vocabulary, seed = draw.integer(200, 2000), draw.seed()
        ids = draw.integers(0, vocabulary, 8, 33)

        def probe(m):
            torch.manual_seed(seed)
            with torch.no_grad():
                return F.cross_entropy(m.GPT(vocabulary, 32, 48, 4, 2)(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

        agree(probe, rtol=0, atol=0.1)

    def test_context_is_a_limit(self, agree, draw):
        """A text of `context` tokens is fine, a longer one is a ValueError, in both modes."""
        state, ids, long = gpt_weights(draw), draw.integers(0, 7, 2, 12), draw.integers(0, 7, 2, 40)

        def probe(m):
            model = loaded(m.GPT(*SMALL), state)
            endings = [raised(ValueError, lambda x=x, mode=mode: model.train(mode)(x)) for x in (ids, long) for mode in (True, False)]
            return endings, model(ids[:, 1:])

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_heads_must_fit(self, agree, draw):
        """A number of heads that does not divide d_model is a ValueError."""
        state, ids = gpt_weights(draw), draw.integers(0, 7, 2, 5)

        def probe(m):
            bad = [raised(ValueError, lambda d=d, h=h: m.GPT(7, 11, d, h, 2)) for d, h in ((12, 5), (8, 3), (4, 8))]
            return bad, loaded(m.GPT(*SMALL), state)(ids)

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_two_models(self, agree, draw):
        """Models of different sizes live side by side."""
        sizes = (9, 5, 8, 2, 1)
        first, second, ids = gpt_weights(draw), gpt_weights(draw, sizes), draw.integers(0, 7, 2, 5)

        def probe(m):
            one, two = loaded(m.GPT(*SMALL), first), loaded(m.GPT(*sizes), second)
            return one(ids), two(ids), one(ids)

        agree(probe, rtol=1e-4, atol=1e-4)


TRAINED = 262, 24, 32, 4, 1
"""The sizes of the network that learns to read."""


def some_language(draw):
    """Six different words of four letters, of five bytes, and which two words can follow each."""
    letters, words = some_letters(draw, 5), []
    while len(words) < 6:
        word = some_bytes(draw, letters, 4)
        if word not in words:
            words.append(word)
    order = draw.permutation(6).tolist()
    return words, {order[i]: (order[(i + 1) % 6], order[(i + 3) % 6]) for i in range(6)}


def text_of(draw, language, count):
    """So many words, each a random one of the two that can follow the one before."""
    words, follow = language
    text, word = [], draw.integer(0, 6)
    for which in draw.integers(0, 2, count).tolist():
        word = follow[word][which]
        text.append(words[word])
    return b" ".join(text)


def start_values(draw, sizes):
    """The weights of a new GPT."""
    state = {}
    for name, x in Network(*sizes).state_dict().items():
        adds = name.endswith(("proj.weight", "down.weight"))
        deviation = 0.02 / math.sqrt(2 * sizes[4]) if adds else 0.02
        state[name] = x if "norm" in name else torch.zeros_like(x) if name.endswith("bias") else deviation * draw.normal(*x.shape)
    state["head.weight"] = state["tokens.weight"]
    return state


def read_by(state, sizes):
    """A network of the trusted side with weights that came back."""
    ours = Network(*sizes).eval()
    want = {name: (x.shape, x.dtype) for name, x in ours.state_dict().items()}
    right = isinstance(state, dict) and {name: (getattr(x, "shape", 0), getattr(x, "dtype", 0)) for name, x in state.items()} == want
    assert right, "The network must keep its parameters' names, shapes and dtypes."
    assert torch.equal(state["head.weight"], state["tokens.weight"]), "After training, head and tokens must still share their weight."
    return loaded(ours, state)


def nats(net, tokens, context, skip):
    """−log p of the tokens in windows, without the first `skip` of each, and these tokens."""
    windows = tokens.unfold(0, context + 1, context - skip)
    with torch.no_grad():
        log_p = net(windows[:, :-1]).log_softmax(-1).gather(-1, windows[:, 1:, None])[..., 0]
    return -log_p[:, skip:], windows[:, 1 + skip :]


@task("train_gpt")
class TestTrainGpt:
    def test_bits_per_byte(self, student, reference, draw):
        """The weights need at most 0.5 bits for a byte of another text of the same words."""
        language, start, seed = some_language(draw), start_values(draw, TRAINED), draw.seed()
        text, other = text_of(draw, language, 1500), text_of(draw, language, 800)

        def tokenized(m):
            merges = m.train_bpe([text], 262)
            tokenizer = m.Tokenizer(merges)
            return tokenizer.encode(text), tokenizer.encode(other), [len(tokenizer.decode([i])) for i in range(256 + len(merges))]

        tokens, held_out, lengths = reference(tokenized)
        state = student(lambda m: trained(m, start, TRAINED, tokens, seed), like=None)
        loss, targets = nats(read_by(state, TRAINED), held_out, 24, 16)
        bits = loss.sum().item() / math.log(2) / torch.tensor(lengths)[targets].sum().item()
        assert bits <= 0.5, f"For another text of the same words, the weights need {bits:.2f} bits per byte; at most 0.5 are asked for."

    def test_generator_decides(self, student, draw):
        """The same generator gives the same weights whatever the global state is, another or the same one later others."""
        sizes, seed = (9, 8, 16, 2, 1), draw.seed()
        start, tokens = start_values(draw, sizes), draw.permutation(9).repeat(60)

        def probe(m):
            out, generator = [], seeded(seed)
            for state, numbers in (1, generator), (2, seeded(seed)), (1, seeded(seed + 1)), (1, generator):
                torch.manual_seed(state)
                model = loaded(Network(*sizes), start)
                m.train_gpt(model, tokens, 8, generator=numbers, updates=25)
                out.append(copied(model))
            return out

        first, again, other, later = student(probe, like=None)
        before, after = (nats(read_by(state, sizes), tokens, 8, 0)[0].mean().item() for state in (start, first))
        assert after < before - 0.15, f"25 updates take the loss from {before:.2f} to {after:.2f}: that is too little to have learnt."
        for state in (again, other, later):
            read_by(state, sizes)
        pairs = torch.stack((first["blocks.0.up.weight"].flatten(), start["blocks.0.up.weight"].flatten()))
        assert torch.corrcoef(pairs)[0, 1] > 0.1, "The network must be trained from the weights that it has; these come from others."
        same = all(torch.allclose(first[name], again[name], rtol=1e-3, atol=1e-4) for name in first)
        assert same, "A generator in the same state must give the same weights, whatever was drawn from global generators before."
        assert any((first[name] - other[name]).abs().max() > 1e-3 for name in first), "Another generator must give other weights."
        different = any((first[name] - later[name]).abs().max() > 1e-3 for name in first)
        assert different, "A second training with the same generator must draw other windows."

    def test_old_gradients(self, student, draw):
        """Gradients that the parameters have from before count for nothing, however large they are."""
        sizes, seed = (9, 8, 16, 2, 1), draw.seed()
        start, old, tokens = start_values(draw, sizes), draw.normal(4000), draw.permutation(9).repeat(60)

        def probe(m):
            out = []
            for scale in (0, 1e3):
                model = loaded(Network(*sizes), start)
                for p in model.parameters():
                    p.grad = scale * old[: p.numel()].view_as(p) if scale else None
                m.train_gpt(model, tokens, 8, generator=seeded(seed), updates=25)
                out.append(copied(model))
            return out

        clean, burdened = (read_by(state, sizes) for state in student(probe, like=None))
        before, *after = (nats(net, tokens, 8, 0)[0].mean().item() for net in (read_by(start, sizes), clean, burdened))
        assert max(after) < before - 0.15, (
            f"25 updates take the loss from {before:.2f} to {max(after):.2f}, if there were gradients before."
        )
        pairs = zip(clean.parameters(), burdened.parameters(), strict=True)
        assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-4) for x, y in pairs), "Gradients from before must not change the weights."

    def test_no_updates(self, agree, draw):
        """0 updates leave the weights as they are; 1 changes all parameters."""
        sizes, seed = (9, 8, 16, 2, 1), draw.seed()
        start, tokens = gpt_weights(draw, sizes), draw.integers(0, 9, 300)

        def probe(m):
            moved = trained(m, start, sizes, tokens, seed, updates=1)
            return trained(m, start, sizes, tokens, seed, updates=0), {name: bool((moved[name] != start[name]).any()) for name in start}

        agree(probe, rtol=1e-6, atol=0)

    @measured("modes")
    def test_mode(self, agree, draw):
        """The network learns in the mode in which it is, each part of it, and is left in it."""
        table, tokens, seed = draw.normal(7, 7), draw.integers(0, 7, 50), draw.seed()

        def probe(m):
            out = []
            for whole, part in (True, False), (False, True):
                model = LooksBack(table).train(whole)
                model.parts[1].train(part)
                before, seen = modes(model), []
                model.register_forward_hook(lambda module, x, y, seen=seen: seen.append(modes(module)))
                m.train_gpt(model, tokens, 4, generator=seeded(seed), updates=2)
                moved = bool((model.table != table).any())
                still = copied(loaded(LooksBack(table), {"table": table}))
                out.append((moved, still) if seen and all(mode == before for mode in [*seen, modes(model)]) else "it was in another mode")
            return out

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("windows", [1, 2, 3])
    def test_few_windows(self, student, draw, windows):
        """One window is enough, and of a few windows all are learnt, the last token too."""
        sizes, seed = (11, 6, 16, 2, 1), draw.seed()
        start, tokens = start_values(draw, sizes), draw.permutation(11)[: 6 + windows]
        state = student(lambda m: trained(m, start, sizes, tokens, seed, updates=120), like=None)
        loss, _ = nats(read_by(state, sizes), tokens, 6, 5)
        likely = (-loss).exp().min().item()
        first, _ = nats(read_by(state, sizes), tokens[:7], 6, 0)
        assert likely > 0.5, f"After {len(tokens)} tokens, each must be likely where it stood; one has {likely:.0%}."
        likely = (-first).exp().min().item()
        assert likely > 0.3, f"All positions of a window are to be learnt, the first ones too; one has {likely:.0%}."

    @pytest.mark.parametrize("layout", ["sliced", "contiguous"])
    def test_any_model(self, student, draw, layout):
        """Any module of logits can be trained, with tokens that lie in memory in any way: which token follows which is learnt."""
        table, order, seed = draw.normal(7, 7), draw.permutation(7), draw.seed()
        wide = torch.zeros(1201, dtype=torch.int64)
        wide[1::2] = order.repeat(86)[:600]
        tokens = wide[1::2] if layout == "sliced" else wide[1::2].contiguous()

        def probe(m):
            model = Table(table, 9)
            m.train_gpt(model, tokens, 9, generator=seeded(seed), updates=900)
            return model.table.detach().clone()

        weight = student(probe, like=table)
        right = (weight[order].argmax(1) == order.roll(-1)).double().mean().item()
        assert right == 1, f"Of seven tokens that always follow each other in the same order, {right:.0%} know their successor."

    def test_too_few_tokens(self, agree, draw):
        """A stream without a whole window is a ValueError, and nothing is drawn or changed; one token more is enough."""
        sizes, seed = (9, 8, 16, 2, 1), draw.seed()
        start, tokens = gpt_weights(draw, sizes), draw.integers(0, 9, 9)

        def probe(m):
            model, generator = loaded(Network(*sizes), start), seeded(seed)
            endings = [raised(ValueError, lambda n=n: m.train_gpt(model, tokens[:n], 8, generator=generator, updates=3)) for n in (8, 3, 0)]
            left, drawn = copied(model), torch.rand(3, generator=generator)
            return endings, left, drawn, raised(ValueError, lambda: m.train_gpt(model, tokens, 8, generator=generator, updates=1))

        agree(probe, rtol=1e-6, atol=0)


def scores(draw, vocabulary, context, dtype=torch.float32):
    """A model whose logits depend on the whole window."""
    return Scores(1.5 * draw.normal(vocabulary, vocabulary, dtype=dtype), draw.uniform(context, low=0.3, high=1.5, dtype=dtype))


@task("generate")
class TestGenerate:
    @pytest.mark.parametrize("settings", [{}, {"temperature": 0.5}, {"temperature": 3.0, "top_k": 4}, {"top_k": 2}, {"top_k": 1}])
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_values(self, agree, draw, settings, dtype):
        """The tokens are those that multinomial draws from the softmax of what is kept, at each temperature."""
        model, ids, seed = scores(draw, 11, 9, dtype), draw.integers(0, 11, 3, 4), draw.seed()
        agree(lambda m: m.generate(model, ids, 20, context=9, generator=seeded(seed), **settings), rtol=0, atol=0)

    @pytest.mark.parametrize("context", [1, 2, 5])
    def test_context(self, agree, draw, context):
        """The model never gets more than the last `context` tokens; prompts may be longer than that."""
        model, short, long, seed = scores(draw, 7, context), draw.integers(0, 7, 2, 1), draw.integers(0, 7, 3, 8), draw.seed()
        agree(lambda m: [m.generate(model, ids, 12, context=context, generator=seeded(seed)) for ids in (short, long)], rtol=0, atol=0)

    def test_the_largest(self, agree, draw):
        """Temperature 0 takes the largest logit, whatever top_k is, and draws nothing."""
        model, ids, seed = scores(draw, 11, 6), draw.integers(0, 11, 3, 4), draw.seed()

        def probe(m):
            generator = seeded(seed)
            texts = [m.generate(model, ids, 9, context=6, generator=generator, temperature=0, top_k=k) for k in (None, 1, 3, 50)]
            return texts, m.generate(model, ids, 9, context=6, generator=generator, temperature=0.0), torch.rand(3, generator=generator)

        agree(probe, rtol=0, atol=0)

    def test_equal_logits(self, agree, draw):
        """Among equal logits, the lower index goes first: for the largest, and for the k largest."""
        table, ids, seed = draw.integers(0, 2, 40, 40).float(), draw.integers(0, 40, 5, 2), draw.seed()
        table[0] = 0

        def probe(m):
            model = Scores(table, torch.ones(1))
            texts = [
                m.generate(model, ids, 9, context=1, generator=seeded(seed), temperature=t, top_k=k)
                for t, k in ((0, None), (1, 3), (9, 30))
            ]
            return texts

        agree(probe, rtol=0, atol=0)

    def test_k_beyond_the_vocabulary(self, agree, draw):
        """A top_k of V or more keeps all tokens."""
        model, ids, seed = scores(draw, 5, 6), draw.integers(0, 5, 3, 4), draw.seed()
        agree(lambda m: [m.generate(model, ids, 15, context=6, generator=seeded(seed), top_k=k) for k in (4, 5, 6, 99)], rtol=0, atol=0)

    def test_extreme_logits(self, agree, draw):
        """Logits of ±1e4 and temperatures from 0.001 on overflow nothing, and tiny temperatures take the largest."""
        table = 1e4 * (2 * draw.permutation(9 * 9).reshape(9, 9).float() / 80 - 1)
        ids, seed = draw.integers(0, 9, 3, 2), draw.seed()

        def probe(m):
            model = Scores(table, torch.ones(1))
            return [
                m.generate(model, ids, 8, context=1, generator=seeded(seed), temperature=t, top_k=k)
                for t in (0.001, 1.0, 1e4)
                for k in (None, 2)
            ]

        agree(probe, rtol=0, atol=0)

    def test_frequencies(self, student, draw):
        """Tokens are drawn in proportion to the softmax of what is kept, for each row by itself."""
        logits, seed = draw.normal(2, 5), draw.seed()

        def probe(m):
            ids = torch.arange(2).repeat(4000)[:, None]
            return m.generate(lambda x: logits[x], ids, 1, context=1, generator=seeded(seed), temperature=0.8, top_k=4)

        text = student(probe, within=(0, 4))
        for row in range(2):
            p = (logits[row].double() / 0.8).masked_fill(logits[row] == logits[row].min(), -math.inf).softmax(0)
            got = text[row::2, 1].bincount(minlength=5).double() / 4000
            off = ((got - p).abs() - 6 * (p * (1 - p) / 4000).sqrt()).max().item()
            assert off <= 0.001, f"Tokens with the probabilities {p.tolist()} came with the frequencies {got.tolist()}."

    def test_stop(self, agree, draw):
        """A row that has got `stop` goes on with it; the others go on with their own tokens, and draws stay the same."""
        model, ids, seed, stop = scores(draw, 6, 5), draw.integers(0, 6, 7, 3), draw.seed(), draw.integer(0, 6)

        def probe(m):
            return [m.generate(model, ids, 12, context=5, generator=seeded(seed), temperature=2.0, stop=s) for s in (stop, None, 0, 5)]

        agree(probe, rtol=0, atol=0)

    def test_stop_in_the_prompt(self, agree, draw):
        """A `stop` in the prompt, at its end too, ends nothing."""
        model, ids, seed, stop = scores(draw, 6, 5), draw.integers(0, 6, 4, 3), draw.seed(), draw.integer(0, 6)
        ids[0], ids[1, -1], ids[2, 0] = stop, stop, stop

        def probe(m):
            return [
                m.generate(model, x, 15, context=5, generator=seeded(seed), temperature=2.0, stop=stop) for x in (ids, ids[:2], ids[:1])
            ]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("temperature", [0, 1.0])
    def test_all_rows_stop(self, agree, draw, temperature):
        """When all rows have ended, no more is added and nothing more is drawn, even at the last token, or in a single row."""
        order, seed = draw.permutation(7), draw.seed()
        table = torch.zeros(7, 7)
        table[order, order.roll(-1)] = 80.0
        ids, one, far = order[[2, 0, 3]][:, None], order[[4]][:, None], order[[5]][:, None]

        def probe(m):
            model, out = Scores(table, torch.ones(1)), []
            for prompts, count in ((ids, 30), (one, 30), (far, 3), (one, 2), (one, 1), (order[[6]][:, None], 4)):
                generator = seeded(seed)
                text = m.generate(model, prompts, count, context=1, generator=generator, temperature=temperature, stop=int(order[6]))
                out += [text, torch.rand(2, generator=generator)]
            return out

        agree(probe, rtol=0, atol=0)

    def test_the_generator_goes_on(self, agree, draw):
        """A second call goes on with the generator, and what is drawn next comes after the last token; the global one has no part."""
        model, ids, seed = scores(draw, 9, 6), draw.integers(0, 9, 2, 4), draw.seed()

        def probe(m):
            generator, out = seeded(seed), []
            for state in range(3):
                torch.manual_seed(state)
                out.append(m.generate(model, ids, 7, context=6, generator=generator))
            return out, torch.rand(3, generator=generator), m.generate(model, ids, 21, context=6, generator=seeded(seed))

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Prompts may lie in memory in any way."""
        model, ids, seed = scores(draw, 9, 4), draw.integers(0, 9, 3, 5, layout=layout), draw.seed()
        agree(lambda m: m.generate(model, ids, 6, context=4, generator=seeded(seed), stop=2), rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 6), (4, 1)])
    def test_small_sizes(self, agree, draw, shape):
        """One row, one token, and a vocabulary of one token are fine."""
        model, single, ids, seed = scores(draw, 9, 4), Scores(draw.normal(1, 1), torch.ones(4)), draw.integers(0, 9, *shape), draw.seed()

        def probe(m):
            text = m.generate(model, ids, 6, context=4, generator=seeded(seed))
            return text, m.generate(single, torch.zeros_like(ids), 3, context=4, generator=seeded(seed))

        agree(probe, rtol=0, atol=0)

    def test_nothing_to_add(self, agree, draw):
        """A count of 0 gives a copy of the prompts, and draws nothing; the prompts are the caller's own."""
        model, ids, seed = scores(draw, 9, 4), draw.integers(0, 9, 3, 5), draw.seed()

        def probe(m):
            generator, prompts = seeded(seed), ids.clone()
            texts = [m.generate(model, prompts, count, context=4, generator=generator, stop=1) for count in (0, 4, 0)]
            first = [text.clone() for text in texts]
            prompts += 1
            return first, texts, prompts, torch.rand(2, generator=generator)

        agree(probe, rtol=0, atol=0)

    @measured("modes")
    def test_modes(self, agree, draw):
        """A module runs in eval mode, all of it, and each part is left in the mode in which it was."""
        table, ids, seed = 2 * draw.normal(9, 9), draw.integers(0, 9, 3, 5), draw.seed()

        def probe(m):
            out = []
            for whole, first, second in ((True, True, True), (False, False, False), (True, False, True), (False, True, False)):
                model = LooksBack(table).train(whole)
                model.parts[0].training, model.parts[1].training = first, second
                before = modes(model)
                text = m.generate(model, ids, 6, context=4, generator=seeded(seed))
                out.append(text if modes(model) == before else "it was left in another mode")
            return out

        agree(probe, rtol=0, atol=0)

    @measured("modes")
    def test_modes_after_an_error(self, agree, draw):
        """If the model raises an error, it comes through, and each part is left in the mode in which it was."""
        table, ids, seed = 2 * draw.normal(9, 9), draw.integers(0, 9, 3, 5), draw.seed()

        def probe(m):
            model = LooksBack(table, fails=True)
            model.parts[1].training = False
            before = modes(model)
            ending = raised(KeyError, lambda: m.generate(model, ids, 6, context=4, generator=seeded(seed)))
            same = modes(model) == before and torch.is_grad_enabled()
            model.fails = False
            text = m.generate(model, ids, 6, context=4, generator=seeded(seed))
            return ending, text if same else "it was left in another mode"

        agree(probe, rtol=0, atol=0)

    @measured("modes")
    def test_grad_mode(self, agree, draw):
        """No graph is recorded, and afterwards gradients are recorded if they were before."""
        table, ids, seed = 2 * draw.normal(9, 9), draw.integers(0, 9, 3, 5), draw.seed()

        def model(ids):
            return -table[ids] if torch.is_grad_enabled() else table[ids]

        def probe(m):
            out = []
            for enabled in (True, False):
                with torch.set_grad_enabled(enabled):
                    text = m.generate(model, ids, 6, context=4, generator=seeded(seed))
                    out.append(text if torch.is_grad_enabled() is enabled else "the grad mode was changed")
            return out

        agree(probe, rtol=0, atol=0)

    def test_a_network_writes(self, agree, draw):
        """A network of stage 3 with random weights writes, beyond its context."""
        state, ids, seed = gpt_weights(draw), draw.integers(0, 7, 3, 4), draw.seed()
        agree(lambda m: m.generate(loaded(Network(*SMALL), state), ids, 12, context=11, generator=seeded(seed), top_k=5), rtol=0, atol=0)

    def test_refuses_bad_settings(self, agree, draw):
        """A negative temperature and a top_k below 1 are ValueErrors, at temperature 0 too, and nothing is drawn."""
        model, ids, seed = scores(draw, 9, 4), draw.integers(0, 9, 3, 5), draw.seed()
        bad = [{"temperature": -1}, {"temperature": -0.5}, {"top_k": 0}, {"top_k": -2}, {"temperature": 0, "top_k": 0}]

        def probe(m):
            generator = seeded(seed)
            endings = [
                raised(ValueError, lambda s=s, n=n: m.generate(model, ids, n, context=4, generator=generator, **s))
                for s in bad
                for n in (3, 0)
            ]
            return endings, m.generate(model, ids, 6, context=4, generator=generator, temperature=0.001, top_k=1)

        agree(probe, rtol=0, atol=0)
