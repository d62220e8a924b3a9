"""Examples for the module recurrent. Run one task's with `pytest tests/public -k beam_search`."""

import math

import pytest
import torch
from recurrent import (
    BiLSTM,
    GRUCell,
    LSTMCell,
    attention_decoder_step,
    beam_search,
    rnn_forward,
    run_padded,
    selective_scan,
    train_char_gru,
    truncated_bptt,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close


def test_rnn_forward_carries_the_state():
    """One unit, one sequence: tanh(1), then tanh(0 + 0.5 · tanh(1))."""
    x, one, half = torch.tensor([[[1.0]], [[0.0]]]), torch.ones(1, 1), torch.full((1, 1), 0.5)
    outputs, last = rnn_forward(x, one, half, torch.zeros(1), torch.zeros(1))
    first = math.tanh(1.0)
    assert_close(outputs, torch.tensor([[[first]], [[math.tanh(0.5 * first)]]]))
    assert_close(last, torch.tensor([[math.tanh(0.5 * first)]]))


def test_rnn_forward_equals_torch():
    """With the weights of an nn.RNN, the batch in front, and a first state."""
    rnn = nn.RNN(3, 4, batch_first=True)
    x, h0 = torch.randn(2, 5, 3), torch.randn(2, 4)
    outputs, last = rnn_forward(x, *rnn.parameters(), h0, batch_first=True)
    y, h = rnn(x, h0[None])
    assert_close(outputs, y)
    assert_close(last, h[0])


def test_rnn_forward_refuses_a_state_for_one():
    """A state of (1, H) is not stretched over a batch of 2."""
    with pytest.raises(ValueError):
        rnn_forward(torch.randn(5, 2, 3), torch.randn(4, 3), torch.randn(4, 4), torch.randn(4), torch.randn(4), torch.zeros(1, 4))


def test_LSTMCell_equals_torch():
    """With the weights of an nn.LSTMCell, two steps give its states."""
    theirs, ours = nn.LSTMCell(3, 4), LSTMCell(3, 4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 3)
    want, got = theirs(x[1], theirs(x[0])), ours(x[1], ours(x[0]))
    assert_close(got[0], want[0])
    assert_close(got[1], want[1])


def test_GRUCell_equals_torch():
    """With the weights of an nn.GRUCell, two steps give its states."""
    theirs, ours = nn.GRUCell(3, 4), GRUCell(3, 4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 3)
    assert_close(ours(x[1], ours(x[0])), theirs(x[1], theirs(x[0])))


def test_run_padded_adds_up():
    """A cell that adds: the first sequence ends after one step, the second after three; 9 is padding."""
    x = torch.tensor([[1.0, 9.0, 9.0], [1.0, 2.0, 3.0]])[..., None]
    outputs, last = run_padded(lambda x_t, h: h + x_t, x, torch.tensor([1, 3]), torch.tensor([[10.0], [20.0]]))
    assert_close(outputs[..., 0], torch.tensor([[11.0, 0.0, 0.0], [21.0, 23.0, 26.0]]))
    assert_close(last, torch.tensor([[11.0], [26.0]]))


def test_run_padded_keeps_tuples():
    """A state of two parts: both stay as they were where a sequence has no steps."""
    x, state = torch.full((1, 2, 3), math.nan), (torch.ones(1, 4), torch.full((1, 4), 2.0))
    outputs, last = run_padded(nn.LSTMCell(3, 4), x, torch.tensor([0]), state)
    assert_close(outputs, torch.zeros(1, 2, 4))
    assert_close(last, state)


def test_BiLSTM_equals_torch():
    """With the weights of an nn.LSTM, output and last states are its own."""
    theirs, ours = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True), BiLSTM(3, 4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5, 3)
    assert_close(ours(x), theirs(x))


def test_BiLSTM_equals_torch_with_lengths():
    """The backward direction begins at the end of each sequence."""
    theirs, ours = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True), BiLSTM(3, 4)
    ours.load_state_dict(theirs.state_dict())
    x, lengths = torch.randn(2, 5, 3), torch.tensor([2, 5])
    y, last = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    assert_close(ours(x, lengths), (pad_packed_sequence(y, batch_first=True)[0], last))


class Echo(nn.Module):
    """A model with one weight. Its state is the sum of what it has read."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, ids, state):
        """Logits (0, total), and the last total."""
        total = (self.w * ids).cumsum(1) + (0.0 if state is None else state)
        return torch.stack((torch.zeros_like(total), total), dim=-1), total[:, -1:]


def test_truncated_bptt_ends_gradients():
    """Two windows of one position: the second knows the first one's sum, but takes it as a constant."""
    model = Echo()
    loss = truncated_bptt(model, torch.tensor([[1, 1, 0]]), 1, torch.optim.SGD(model.parameters(), lr=1.0))
    first = F.softplus(torch.tensor(-1.0))  # logits (0, 1), 1 is right
    w = 1 + torch.sigmoid(torch.tensor(-1.0))
    second = F.softplus(1 + w)  # logits (0, 1 + w), 0 is right
    assert loss == pytest.approx((first + second).item() / 2, rel=1e-5)
    assert_close(model.w.detach(), w - torch.sigmoid(1 + w))


def test_attention_decoder_step_looks_at_what_is_real():
    """Scores 0 and tanh(1): the third position is hidden, and NaN."""
    memory = torch.tensor([[[0.0], [1.0], [math.nan]]])
    mask, one = torch.tensor([[True, True, False]]), torch.ones(1, 1)
    x, h = torch.tensor([[5.0]]), torch.tensor([[0.0]])
    new, context, a = attention_decoder_step(lambda inputs, h: inputs.sum(1, keepdim=True), x, h, memory, mask, one, one, torch.ones(1))
    second = 1 / (1 + math.exp(-math.tanh(1.0)))
    assert_close(a, torch.tensor([[1 - second, second, 0.0]]))
    assert_close(context, torch.tensor([[second]]))
    assert_close(new, torch.tensor([[5.0 + second]]))


def after_the_last(prefixes):
    """Tokens are 0 (eos), 1 and 2; what comes next depends on the last token only."""
    table = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]).log()
    return table[prefixes[:, -1]]


def test_beam_search_with_one_prefix():
    """From bos = 0, greedy search takes 1 (0.5), 2 (0.8) and eos (0.9)."""
    [(tokens, score)] = beam_search(after_the_last, 0, 0, 1, 5)
    assert tokens == [1, 2, 0]
    assert score == pytest.approx(math.log(0.5 * 0.8 * 0.9), rel=1e-4)


def test_beam_search_with_two_prefixes():
    """1 (0.5) and 2 (0.3) are kept; then 1 2 (0.4) and 2 eos (0.27), which is finished; then 1 2 eos (0.36) and 1 2 1 (0.02)."""
    found = beam_search(after_the_last, 0, 0, 2, 3)
    assert [tokens for tokens, _ in found] == [[1, 2, 0], [2, 0], [1, 2, 1]]
    assert [score for _, score in found] == pytest.approx([math.log(p) for p in (0.36, 0.27, 0.02)], rel=1e-4)


def test_selective_scan_of_one_number():
    """Steps of log 2 halve the state (A is −1), a step of 0 leaves it alone; D shows the input, too."""
    step = math.log(2.0)
    x, delta = torch.tensor([8.0, 4.0, 9.0]).view(1, 3, 1) / step, torch.tensor([step, step, 0.0]).view(1, 3, 1)
    one, C = torch.ones(1, 3, 1), torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    y, h = selective_scan(x, delta, -torch.ones(1, 1), one, C)
    assert_close(y.flatten(), torch.tensor([8.0, 2 * 8.0, 3 * 8.0]))
    assert_close(h, torch.tensor([[[8.0]]]))
    shown, _ = selective_scan(x, delta, -torch.ones(1, 1), one, C, D=torch.tensor([step]))
    assert_close(shown.flatten(), torch.tensor([8.0 + 8.0, 16.0 + 4.0, 24.0 + 9.0]))


def test_selective_scan_goes_on():
    """Two pieces, the second with the state after the first, give what one pass gives."""
    x, delta, A = torch.randn(2, 5, 3), torch.rand(2, 5, 3), -torch.rand(3, 4)
    B, C = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    y, h = selective_scan(x, delta, A, B, C)
    first, state = selective_scan(x[:, :2], delta[:, :2], A, B[:, :2], C[:, :2])
    second, last = selective_scan(x[:, 2:], delta[:, 2:], A, B[:, 2:], C[:, 2:], h0=state)
    assert_close(torch.cat([first, second], dim=1), y)
    assert_close(last, h)


def test_train_char_gru_learns_a_rhyme():
    """A text of one repeated word is easy: after training, the network knows what follows."""
    text = torch.tensor([1, 2, 3, 2, 4, 0] * 50)
    net = nn.ModuleDict({"embed": nn.Embedding(5, 8), "gru": nn.GRU(8, 24, batch_first=True), "head": nn.Linear(24, 5)})
    net.load_state_dict(train_char_gru(text, 5, seed=0))
    logits = net["head"](net["gru"](net["embed"](text[None, :60]))[0])
    assert (logits[0, 6:].argmax(1) == text[7:61]).all()
