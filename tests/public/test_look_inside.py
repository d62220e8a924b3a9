"""Examples for the module look_inside. Run one task's with `pytest tests/public -k linear_probe`."""

import torch
from look_inside import attention_only, induction_scores, linear_probe, patch_effects, repeated_tokens
from torch.testing import assert_close


def tiny(factor=1.0):
    """Two tokens, a stream of two numbers, and a layer with one head that looks at all places alike and adds what it sees."""
    eye = torch.eye(2)
    return {
        "embed": eye,
        "positions": torch.zeros(3, 2),
        "W_Q": torch.zeros(1, 1, 2, 2),
        "W_K": torch.zeros(1, 1, 2, 2),
        "W_V": eye[None, None],
        "W_O": factor * eye[None, None],
        "unembed": eye,
    }


def test_attention_only_adds_what_the_head_sees():
    """Tokens 0, 1: the second place sees both, half of each, and has itself."""
    run = attention_only(tiny(), torch.tensor([[0, 1]]))
    assert_close(run["patterns"][0, 0, 0], torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert_close(run["outputs"][0, 0, 0], torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert_close(run["logits"][0], torch.tensor([[2.0, 0.0], [0.5, 1.5]]))
    assert run["streams"].shape == (2, 1, 2, 2)


def test_attention_only_replaces_an_output():
    """The head's output at the second place becomes 7, 7."""
    run = attention_only(tiny(), torch.tensor([[0, 1]]), {(0, 0, 1): torch.full((1, 2), 7.0)})
    assert_close(run["logits"][0], torch.tensor([[2.0, 0.0], [7.0, 8.0]]))


def test_repeated_tokens_says_it_twice():
    """Rows of four different tokens, twice."""
    tokens = repeated_tokens(9, 4, 3, generator=torch.Generator().manual_seed(0))
    assert tokens.shape == (3, 8)
    assert torch.equal(tokens[:, :4], tokens[:, 4:])
    assert all(len(set(row[:4])) == 4 for row in tokens.tolist())


def test_induction_scores_of_two_heads():
    """The first head looks from place 3 to 1 and from 4 to 2, and the second only at the beginning."""
    patterns = torch.zeros(1, 1, 2, 6, 6)
    patterns[0, 0, 0, 3, 1] = patterns[0, 0, 0, 4, 2] = 1.0
    patterns[0, 0, 1, :, 0] = 1.0
    assert_close(induction_scores(patterns, 3), torch.tensor([[1.0, 0.0]]))


def test_linear_probe_reads_a_coordinate():
    """The class is whether the first coordinate is positive."""
    x = torch.tensor([[1.0, 5.0], [2.0, -3.0], [-1.0, 4.0], [-2.0, 0.0]])
    W, b = linear_probe(x, torch.tensor([1, 1, 0, 0]), 2)
    assert (x @ W + b).argmax(1).tolist() == [1, 1, 0, 0]


def guesser(tokens, replace=None):
    """A model with two heads that look at the place before: head 0 guesses its token, head 1 guesses token 0 always."""
    before = torch.nn.functional.one_hot(tokens.roll(1, 1), 3).float()
    outputs = torch.stack([before, torch.eye(3)[0].expand_as(before)], 1)[None]
    for (layer, head, place), value in (replace or {}).items():
        outputs[layer, :, head, place] = value
    return {"logits": outputs[0].sum(1), "outputs": outputs}


def test_patch_effects_finds_the_guesser():
    """Only head 0 tells the two texts apart."""
    effects = patch_effects(guesser, torch.tensor([[2, 1]]), torch.tensor([[0, 1]]), 1, torch.tensor([2]))
    assert_close(effects, torch.tensor([[1.0, 0.0]]))
