"""Examples for the module gpt_from_scratch. Run one task's with `pytest tests/public -k train_bpe`."""

import pytest
import torch
from gpt_from_scratch import GPT, Tokenizer, generate, train_bpe, train_gpt
from torch import nn
from torch.testing import assert_close


def test_train_bpe_low():
    """The example of the statement: (l, o), then what it became and w; then nothing occurs twice."""
    assert train_bpe([b"low low", b"slow"], 300) == [(108, 111), (256, 119)]
    assert train_bpe([b"low low", b"slow"], 257) == [(108, 111)]


def test_train_bpe_takes_the_smallest_of_equals():
    """(a, b), (space, c) and (c, d) occur twice each: space is the smallest byte."""
    assert train_bpe([b"ab cd ab", b" cd"], 300) == [(32, 99), (97, 98), (256, 100)]


def test_train_bpe_needs_room_for_bytes():
    """A vocabulary of 256 has no merges, and a smaller one can't be."""
    assert train_bpe([b"aa aa"], 256) == []
    with pytest.raises(ValueError):
        train_bpe([b"aa aa"], 255)


def test_Tokenizer_merges_within_words():
    """(space, a) is 256, (256, b) is 257; the first "ab" has no space before it."""
    tokenizer = Tokenizer([(32, 97), (256, 98)])
    ids = tokenizer.encode(b"ab ab  a")
    assert_close(ids, torch.tensor([97, 98, 257, 32, 256]))
    assert tokenizer.decode(ids) == b"ab ab  a"


def test_Tokenizer_with_a_special_token():
    """With one merge, the special token is 257; as plain bytes, it has three tokens."""
    tokenizer = Tokenizer([(97, 98)], [b"<e>"])
    assert tokenizer.vocab_size == 258
    assert_close(tokenizer.encode(b"ab<e>b"), torch.tensor([256, 257, 98]))
    assert_close(tokenizer.encode(b"ab<e>b", specials=False), torch.tensor([256, 60, 101, 62, 98]))
    assert tokenizer.decode([257, 256, 255]) == b"<e>ab\xff"
    with pytest.raises(ValueError):
        tokenizer.decode([-1])


def test_GPT_gives_logits_for_each_position():
    """One row of scores for each token, one weight for both ends, and no look at the future."""
    torch.manual_seed(0)
    model = GPT(vocab_size=7, context=5, d_model=8, num_heads=2, num_layers=1)
    logits = model(torch.tensor([[1, 2, 3], [1, 2, 6]]))
    assert logits.shape == (2, 3, 7)
    assert_close(logits[0, :2], logits[1, :2])
    assert model.head.weight is model.tokens.weight
    with pytest.raises(ValueError):
        model(torch.zeros(1, 6, dtype=torch.int64))


def test_GPT_has_these_parameters():
    """The names of one block, and all numbers of the model."""
    model = GPT(vocab_size=7, context=5, d_model=8, num_heads=2, num_layers=2)
    parts = ["norm1", "qkv", "proj", "norm2", "up", "down"]
    assert sorted({name.split(".")[2] for name in model.state_dict() if name.startswith("blocks.1.")}) == sorted(parts)
    assert sum(p.numel() for p in model.parameters()) == 7 * 8 + 5 * 8 + 2 * (12 * 64 + 13 * 8) + 2 * 8
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


class Bigrams(nn.Module):
    """A model that looks at the last token only."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, ids):
        """The row of each token: (B, L) becomes (B, L, 5)."""
        return self.table(ids)


def test_train_gpt_learns_which_token_follows():
    """In 0, 2, 4, 1, 3, 0, … each token has one successor."""
    torch.manual_seed(0)
    model = Bigrams()
    train_gpt(model, torch.arange(0, 2000, 2) % 5, 8, generator=torch.Generator().manual_seed(0), updates=400)
    assert model(torch.arange(5)).argmax(1).tolist() == [2, 3, 4, 0, 1]


def test_train_gpt_needs_a_window():
    """Eight tokens hold no window of eight and one more."""
    with pytest.raises(ValueError):
        train_gpt(Bigrams(), torch.arange(8) % 5, 8, generator=torch.Generator())


def counting(ids):
    """A model of 5 tokens that is sure of the next one: one more than the last, modulo 5."""
    return 20.0 * nn.functional.one_hot((ids + 1) % 5, 5)


def test_generate_counts():
    """Each row goes on by itself, with the likely token."""
    prompts = torch.tensor([[0, 1], [4, 3]])
    expected = torch.tensor([[0, 1, 2, 3, 4], [4, 3, 4, 0, 1]])
    for temperature in (0, 0.1, 1.0):
        text = generate(counting, prompts, 3, context=4, temperature=temperature, generator=torch.Generator().manual_seed(0))
        assert_close(text, expected)


def test_generate_stops():
    """The first row gets its 4 after two tokens, and waits for the second row; both have ended after three."""
    text = generate(counting, torch.tensor([[2], [1]]), 9, context=4, stop=4, generator=torch.Generator().manual_seed(0))
    assert_close(text, torch.tensor([[2, 3, 4, 4], [1, 2, 3, 4]]))


def test_generate_draws_by_the_generator():
    """The draws of torch.multinomial, for equal logits."""
    generator, prompts = torch.Generator().manual_seed(0), torch.zeros(2, 1, dtype=torch.int64)
    text = generate(lambda ids: torch.zeros(*ids.shape, 5), prompts, 2, context=1, generator=generator)
    generator.manual_seed(0)
    drawn = [torch.multinomial(torch.full((2, 5), 0.2), 1, generator=generator) for _ in range(2)]
    assert_close(text[:, 1:], torch.cat(drawn, dim=1))
