"""Named wrong answers to the tasks of recurrent: the hidden suite must reject every one."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.recurrent import BiLSTM as ReferenceBiLSTM
from solutions.recurrent import GRUCell as ReferenceGRUCell
from solutions.recurrent import LSTMCell as ReferenceLSTMCell
from solutions.recurrent import attention_decoder_step as reference_decoder
from solutions.recurrent import beam_search as reference_beam_search
from solutions.recurrent import rnn_forward as reference_rnn
from solutions.recurrent import run_padded as reference_run_padded
from solutions.recurrent import train_char_gru as reference_train

# rnn_forward


@misconception("rnn_forward", "Adds one bias only: torch's cells have two, and both count.")
def adds_one_bias(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    return reference_rnn(x, w_ih, w_hh, b_ih, torch.zeros_like(b_hh), h0, batch_first=batch_first)


@misconception("rnn_forward", "Ignores batch_first: the batch is read as if it were time.")
def ignores_batch_first(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    return reference_rnn(x, w_ih, w_hh, b_ih, b_hh, h0)


@misconception("rnn_forward", "Brings time to the front and leaves it there: with batch_first the outputs are (B, T, H), too.")
def outputs_stay_time_first(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    y, h = reference_rnn(x, w_ih, w_hh, b_ih, b_hh, h0, batch_first=batch_first)
    return (y.transpose(0, 1) if batch_first else y), h


@misconception("rnn_forward", "Starts from zeros whatever h0 is.")
def ignores_the_first_state(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    y, h = reference_rnn(x, w_ih, w_hh, b_ih, b_hh, h0, batch_first=batch_first)
    return reference_rnn(x, w_ih, w_hh, b_ih, b_hh, batch_first=batch_first) if h0 is not None else (y, h)


@misconception("rnn_forward", "Returns the last state with nn.RNN's axis of layers: here it is (B, H).")
def last_state_with_layers(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    y, h = reference_rnn(x, w_ih, w_hh, b_ih, b_hh, h0, batch_first=batch_first)
    return y, h[None]


@misconception("rnn_forward", "Multiplies with the transposed W_hh: h @ w_hh sums over the wrong axis.")
def forgets_the_transpose(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    return reference_rnn(x, w_ih, w_hh.mT, b_ih, b_hh, h0, batch_first=batch_first)


@misconception("rnn_forward", "Keeps the state as numbers without history: no gradient travels back through time.")
def detaches_the_state(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    reference_rnn(x, w_ih, w_hh, b_ih, b_hh, h0, batch_first=batch_first)
    steps = x.transpose(0, 1) if batch_first else x
    h = x.new_zeros(steps.shape[1], w_hh.shape[0]) if h0 is None else h0
    outputs = []
    for step in steps:
        h = torch.tanh(F.linear(step, w_ih, b_ih) + F.linear(h.detach(), w_hh, b_hh))
        outputs.append(h)
    return torch.stack(outputs, dim=1 if batch_first else 0), h


@misconception("rnn_forward", "Stretches a state of (1, H) over the batch instead of refusing it.")
def stretches_the_state(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    B, H = x.shape[0 if batch_first else 1], w_hh.shape[0]
    if h0 is not None and h0.shape[-1] in (1, H) and h0.dim() <= 2 and h0.shape[0] in (1, B, H):
        h0 = torch.broadcast_to(h0, (B, H))
    return reference_rnn(x, w_ih, w_hh, b_ih, b_hh, h0, batch_first=batch_first)


@misconception("rnn_forward", "Computes in float32: float64 inputs lose half of their digits.")
def always_in_single_precision(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    parts = [None if p is None else p.float() for p in (x, w_ih, w_hh, b_ih, b_hh, h0)]
    y, h = reference_rnn(*parts, batch_first=batch_first)
    return y.to(x.dtype), h.to(x.dtype)


@misconception("rnn_forward", "Squeezes the result: a single sequence, step or unit loses its axis.")
def squeezes_the_outputs(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    y, h = reference_rnn(x, w_ih, w_hh, b_ih, b_hh, h0, batch_first=batch_first)
    return y.squeeze(), h


@misconception("rnn_forward", "Flattens with view, which works for tensors without gaps only: reshape copies where it must.")
def flattens_with_view(x, w_ih, w_hh, b_ih, b_hh, h0=None, *, batch_first=False):
    projected = F.linear(x.view(-1, x.shape[-1]), w_ih, b_ih).view(*x.shape[:2], -1)
    return reference_rnn(projected, torch.eye(len(w_hh)).to(x), w_hh, torch.zeros_like(b_ih), b_hh, h0, batch_first=batch_first)


# LSTMCell


def _lstm(x, state, weight_ih, weight_hh, bias, order="ifgo"):
    h, c = state if state is not None else [x.new_zeros(len(x), weight_hh.shape[1])] * 2
    parts = (x @ weight_ih.mT + h @ weight_hh.mT + bias).chunk(4, dim=1)
    gates = dict(zip(order, parts, strict=True))
    c = gates["f"].sigmoid() * c + gates["i"].sigmoid() * gates["g"].tanh()
    return gates["o"].sigmoid() * c.tanh(), c


@misconception("LSTMCell", "Takes the gates in the order i, f, o, g: torch's is i, f, g, o.")
class GatesInAnotherOrder(ReferenceLSTMCell):
    def forward(self, x, state=None):
        return _lstm(x, state, self.weight_ih, self.weight_hh, self.bias_ih + self.bias_hh, "ifog")


@misconception("LSTMCell", "Takes the gates in the order f, i, g, o: torch's is i, f, g, o.")
class ForgetGateFirst(ReferenceLSTMCell):
    def forward(self, x, state=None):
        return _lstm(x, state, self.weight_ih, self.weight_hh, self.bias_ih + self.bias_hh, "figo")


@misconception("LSTMCell", "Adds one bias only: bias_hh counts, too.")
class OneBias(ReferenceLSTMCell):
    def forward(self, x, state=None):
        return _lstm(x, state, self.weight_ih, self.weight_hh, self.bias_ih)


@misconception("LSTMCell", "Has one bias vector: nn.LSTMCell has two, and its state_dict does not fit.")
class OneBiasVector(nn.Module):
    def __init__(self, input_size, hidden_size):
        super().__init__()
        k = 1 / math.sqrt(hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size).uniform_(-k, k))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size).uniform_(-k, k))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size).uniform_(-k, k))

    def forward(self, x, state=None):
        return _lstm(x, state, self.weight_ih, self.weight_hh, self.bias)


@misconception("LSTMCell", "Shows c itself: h is o · tanh(c).")
class ShowsTheBareCell(ReferenceLSTMCell):
    def forward(self, x, state=None):
        h, c = super().forward(x, state)
        return h / c.tanh() * c, c


@misconception("LSTMCell", "Shows the old c: h' is made from the new one.")
class ShowsTheOldCell(ReferenceLSTMCell):
    def forward(self, x, state=None):
        h, c = super().forward(x, state)
        old = torch.zeros_like(c) if state is None else state[1]
        return h / c.tanh() * old.tanh(), c


@misconception("LSTMCell", "Returns the state the other way round: h comes first.")
class CellStateFirst(ReferenceLSTMCell):
    def forward(self, x, state=None):
        return super().forward(x, state)[::-1]


@misconception("LSTMCell", "Keeps the state inside: a call without a state must begin at 0 again.")
class RemembersTheState(ReferenceLSTMCell):
    last = None

    def forward(self, x, state=None):
        if state is None and self.last is not None and len(self.last[0]) == len(x):
            state = self.last
        h, c = super().forward(x, state)
        self.last = (h.detach(), c.detach())
        return h, c


@misconception("LSTMCell", "Starts the biases at 0: nn.LSTMCell draws them like the weights.")
class BiasesStartAtZero(ReferenceLSTMCell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        nn.init.zeros_(self.bias_ih)
        nn.init.zeros_(self.bias_hh)


@misconception("LSTMCell", "Takes the bound from the input's size: ±1/√H holds for all four parameters.")
class BoundOfTheInput(ReferenceLSTMCell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        nn.init.uniform_(self.weight_ih, -(input_size**-0.5), input_size**-0.5)


@misconception("LSTMCell", "Detaches the state: no gradient reaches the steps before.")
class DetachesTheState(ReferenceLSTMCell):
    def forward(self, x, state=None):
        return super().forward(x, None if state is None else tuple(s.detach() for s in state))


@misconception("LSTMCell", "Begins at random states: without a state, both are 0.")
class RandomFirstState(ReferenceLSTMCell):
    def forward(self, x, state=None):
        H = self.weight_hh.shape[1]
        g = torch.Generator().manual_seed(0)
        return super().forward(x, (torch.randn(len(x), H, generator=g).to(x), x.new_zeros(len(x), H)) if state is None else state)


@misconception("LSTMCell", "Keeps c within ±10, to be safe: c has no bound.")
class ClampsTheCell(ReferenceLSTMCell):
    def forward(self, x, state=None):
        h, c = super().forward(x, state)
        return h, c.clamp(-10, 10)


# GRUCell


@misconception("GRUCell", "Scales h by r before the product, as in the paper: torch scales the product and its bias.")
class ResetBeforeTheProduct(ReferenceGRUCell):
    def forward(self, x, h=None):
        H = self.weight_hh.shape[1]
        h = x.new_zeros(len(x), H) if h is None else h
        i_r, i_z, i_n = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        h_r, h_z = F.linear(h, self.weight_hh[: 2 * H], self.bias_hh[: 2 * H]).chunk(2, 1)
        r, z = (i_r + h_r).sigmoid(), (i_z + h_z).sigmoid()
        n = (i_n + F.linear(r * h, self.weight_hh[2 * H :], self.bias_hh[2 * H :])).tanh()
        return (1 - z) * n + z * h


@misconception("GRUCell", "Adds b_hn outside of r: r scales it as well.")
class ResetWithoutTheBias(ReferenceGRUCell):
    def forward(self, x, h=None):
        H = self.weight_hh.shape[1]
        h = x.new_zeros(len(x), H) if h is None else h
        i_r, i_z, i_n = F.linear(x, self.weight_ih, self.bias_ih + self.bias_hh).chunk(3, 1)
        h_r, h_z, h_n = F.linear(h, self.weight_hh).chunk(3, 1)
        r, z = (i_r + h_r).sigmoid(), (i_z + h_z).sigmoid()
        return (1 - z) * (i_n + r * h_n).tanh() + z * h


class _Gates(ReferenceGRUCell):
    def parts(self, x, h):
        h = x.new_zeros(len(x), self.weight_hh.shape[1]) if h is None else h
        a, b = F.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1), F.linear(h, self.weight_hh, self.bias_hh).chunk(3, 1)
        return a, b, h


@misconception("GRUCell", "Exchanges z and 1 − z, as in the paper: here z is what stays.")
class UpdateGateTheOtherWay(_Gates):
    def forward(self, x, h=None):
        a, b, h = self.parts(x, h)
        r, z = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
        return z * (a[2] + r * b[2]).tanh() + (1 - z) * h


@misconception("GRUCell", "Takes the gates in the order z, r, n: torch's is r, z, n.")
class UpdateGateFirst(_Gates):
    def forward(self, x, h=None):
        a, b, h = self.parts(x, h)
        z, r = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
        return (1 - z) * (a[2] + r * b[2]).tanh() + z * h


@misconception("GRUCell", "Cuts the sum of both products in three: r must scale h's part of n alone.")
class ResetScalesBoth(_Gates):
    def forward(self, x, h=None):
        a, b, h = self.parts(x, h)
        r, z = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
        return (1 - z) * (r * (a[2] + b[2])).tanh() + z * h


@misconception("GRUCell", "Leaves out r: then it is no gate, and n always sees all of the past.")
class NoResetGate(_Gates):
    def forward(self, x, h=None):
        a, b, h = self.parts(x, h)
        z = (a[1] + b[1]).sigmoid()
        return (1 - z) * (a[2] + b[2]).tanh() + z * h


@misconception("GRUCell", "Squashes the result once more: h' is the mix of n and h itself.")
class SquashesTheMix(ReferenceGRUCell):
    def forward(self, x, h=None):
        return super().forward(x, h).tanh()


@misconception("GRUCell", "Keeps the state inside: a call without a state must begin at 0 again.")
class RemembersItself(ReferenceGRUCell):
    last = None

    def forward(self, x, h=None):
        if h is None and self.last is not None and len(self.last) == len(x):
            h = self.last
        h = super().forward(x, h)
        self.last = h.detach()
        return h


@misconception("GRUCell", "Starts the weights as nn.Linear does: ±1/√I where the statement says ±1/√H.")
class StartsAsLinear(ReferenceGRUCell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        nn.init.kaiming_uniform_(self.weight_ih, a=math.sqrt(5))


@misconception("GRUCell", "Starts the weights orthogonal and the biases at 0: the statement says uniform for all.")
class StartsOrthogonal(ReferenceGRUCell):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        nn.init.orthogonal_(self.weight_hh)
        nn.init.zeros_(self.bias_hh)


@misconception("GRUCell", "Returns the state twice, as nn.GRU does with its outputs: a cell returns h' alone.")
class ReturnsTwo(ReferenceGRUCell):
    def forward(self, x, h=None):
        h = super().forward(x, h)
        return h, h


# run_padded


def _loop(cell, x, mask, state, choose, show):
    outputs = []
    for t in range(x.shape[1]):
        row = mask[:, t, None]
        new = cell(x[:, t], state)
        single = isinstance(state, torch.Tensor)
        state = choose(row, new, state) if single else tuple(choose(row, a, b) for a, b in zip(new, state, strict=True))
        outputs.append(show(row, state if single else state[0], new if single else new[0]))
    return torch.stack(outputs, 1), state


def _mask(x, lengths):
    if ((lengths < 0) | (lengths > x.shape[1])).any():
        raise ValueError("lengths")
    return torch.arange(x.shape[1]) < lengths[:, None]


@misconception("run_padded", "Returns the state after the last padded step: it is due after each sequence's own last step.")
def state_after_the_padding(cell, x, lengths, state):
    mask = _mask(x, lengths)
    x = x.masked_fill(~mask[..., None], 0.0)
    return _loop(cell, x, mask, state, lambda row, new, old: new, lambda row, h, new: h * row)


@misconception("run_padded", "Goes on showing the last state in the padding: outputs are 0 there.")
def repeats_the_last_output(cell, x, lengths, state):
    mask = _mask(x, lengths)
    x = x.masked_fill(~mask[..., None], 0.0)
    return _loop(cell, x, mask, state, torch.where, lambda row, h, new: h)


@misconception("run_padded", "Multiplies by the mask instead of choosing: NaN in the padding times 0 is NaN.")
def multiplies_by_the_mask(cell, x, lengths, state):
    mask = _mask(x, lengths)
    return _loop(cell, x, mask, state, lambda row, new, old: row * new + ~row * old, lambda row, h, new: h * row)


@misconception("run_padded", "Chooses with where(), but lets the padding into the cell: NaN comes out on the way back, in the gradients.")
def padding_in_the_gradients(cell, x, lengths, state):
    mask = _mask(x, lengths)
    return _loop(cell, x, mask, state, torch.where, lambda row, h, new: h * row)


@misconception("run_padded", "Zeroes the padding and lets the cell go on: its bias and its state move h all the same.")
def zeroes_the_padding_only(cell, x, lengths, state):
    mask = _mask(x, lengths)
    y, state = _loop(cell, x * mask[..., None], mask, state, lambda row, new, old: new, lambda row, h, new: torch.where(row, h, 0.0))
    return y, state


@misconception("run_padded", "Sets the state to 0 at the end of a sequence: it has to stay.")
def state_falls_to_zero(cell, x, lengths, state):
    mask = _mask(x, lengths)
    x = x.masked_fill(~mask[..., None], 0.0)
    return _loop(cell, x, mask, state, lambda row, new, old: new * row, lambda row, h, new: h * row)


@misconception("run_padded", "Holds h but not the other parts of the state: c goes on changing in the padding.")
def holds_the_first_part_only(cell, x, lengths, state):
    mask, outputs = _mask(x, lengths), []
    x = x.masked_fill(~mask[..., None], 0.0)
    for t in range(x.shape[1]):
        row, new = mask[:, t, None], cell(x[:, t], state)
        if isinstance(state, torch.Tensor):
            state = torch.where(row, new, state)
            outputs.append(state * row)
        else:
            state = (torch.where(row, new[0], state[0]), *new[1:])
            outputs.append(state[0] * row)
    return torch.stack(outputs, 1), state


@misconception("run_padded", "Stops after the longest sequence: the outputs have T steps, as x has.")
def stops_at_the_longest(cell, x, lengths, state):
    return (
        reference_run_padded(cell, x[:, : max(int(lengths.max()), 1)], lengths, state)
        if (lengths <= x.shape[1]).all()
        else (reference_run_padded(cell, x, lengths, state))
    )


@misconception("run_padded", "Sorts the batch by length and doesn't put it back in order.")
def forgets_to_unsort(cell, x, lengths, state):
    order = lengths.argsort(descending=True)
    parts = state[order] if isinstance(state, torch.Tensor) else tuple(s[order] for s in state)
    return reference_run_padded(cell, x[order], lengths[order], parts)


@misconception("run_padded", "Picks the last state from the outputs by index: for length 0 that is the output at −1, not the first state.")
def gathers_the_last_output(cell, x, lengths, state):
    y, last = reference_run_padded(cell, x, lengths, state)
    picked = y[torch.arange(len(y)), lengths - 1]
    return y, picked if isinstance(state, torch.Tensor) else (picked, *last[1:])


@misconception("run_padded", "Is one step late: a sequence of n steps ends after n − 1 of them.")
def ends_one_step_early(cell, x, lengths, state):
    return reference_run_padded(cell, x, (lengths - 1).clamp(min=0) if (lengths >= 0).all() else lengths, state)


@misconception("run_padded", "Takes any lengths: a negative one, or one beyond the padding, is an error.")
def takes_any_length(cell, x, lengths, state):
    return reference_run_padded(cell, x, lengths.clamp(0, x.shape[1]), state)


@misconception("run_padded", "Returns the state as a list: a tuple is due where a tuple was given.")
def returns_a_list(cell, x, lengths, state):
    y, last = reference_run_padded(cell, x, lengths, state)
    return y, last if isinstance(last, torch.Tensor) else list(last)


# BiLSTM


def _directions(self, x, lengths, reverse=None, join=torch.cat, clean=True, ending="_reverse"):
    """The reference's forward pass, done right but for what is changed."""
    B, T, _ = x.shape
    lengths = torch.full((B,), T) if lengths is None else lengths
    real = torch.arange(T) < lengths[:, None]
    x = x.masked_fill(~real[..., None], 0.0) if clean else x
    finals = []
    for layer in (0, 1):
        both = []
        for suffix in ("", "_reverse"):
            w = [getattr(self, f"{name}_l{layer}{suffix and ending}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            h = c = x.new_zeros(B, w[1].shape[1])
            outputs = [h] * T
            for t in reversed(range(T)) if suffix else range(T):
                row, (a, b) = real[:, t, None], torch.lstm_cell(x[:, t], (h, c), *w)
                held = row if reverse is None or not suffix else reverse(row)
                h, c = torch.where(held, a, h), torch.where(held, b, c)
                outputs[t] = torch.where(row, h, 0.0)
            both.append(torch.stack(outputs, 1))
            finals.append((h, c))
        x = join(both, dim=2)
    h_n, c_n = (torch.stack(part) for part in zip(*finals, strict=True))
    return x, (h_n, c_n)


@misconception("BiLSTM", "Reads the padding first on the way back: its state is no longer 0 where the sequence ends.")
class ReadsPaddingFirst(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        return _directions(self, x, lengths, reverse=torch.ones_like)


@misconception("BiLSTM", "Leaves the backward outputs in reading order: output t belongs to step t.")
class BackwardOutputsReversed(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        def join(both, dim):
            return torch.cat((both[0], both[1].flip(1)), dim)

        return _directions(self, x, lengths, join=join)


@misconception("BiLSTM", "Takes the backward direction's last state from step T − 1: it has read everything at step 0.")
class BackwardStateFromTheEnd(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        y, (h_n, c_n) = super().forward(x, lengths)
        H = h_n.shape[2]
        end = x.shape[1] - 1 if lengths is None else lengths - 1
        h_n = h_n.clone()
        h_n[3] = y[torch.arange(len(x)), end, H:]
        return y, (h_n, c_n)


@misconception("BiLSTM", "Takes the last states from the last padded step: they are 0 or stale there.")
class LastPaddedStep(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        y, (h_n, c_n) = super().forward(x, lengths)
        h_n = h_n.clone()
        h_n[2] = y[:, -1, : h_n.shape[2]]
        return y, (h_n, c_n)


@misconception("BiLSTM", "Orders the last states by direction: torch orders them by layer, forward before backward.")
class StatesByDirection(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        y, (h_n, c_n) = super().forward(x, lengths)
        return y, (h_n[[0, 2, 1, 3]], c_n[[0, 2, 1, 3]])


@misconception("BiLSTM", "Returns the states of the last layer only: all four are due.")
class LastLayerOnly(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        y, (h_n, c_n) = super().forward(x, lengths)
        return y, (h_n[2:], c_n[2:])


@misconception("BiLSTM", "Joins backward before forward.")
class BackwardFirst(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        y, last = super().forward(x, lengths)
        return torch.cat(y.chunk(2, dim=2)[::-1], dim=2), last


@misconception("BiLSTM", "Adds both directions: they are joined, so that the next layer reads 2H features.")
class AddsTheDirections(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        y, last = super().forward(x, lengths)
        return y.unflatten(2, (2, -1)).sum(2), last


@misconception("BiLSTM", "Ignores the lengths.")
class IgnoresLengths(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        return super().forward(x)


@misconception("BiLSTM", "Cuts the outputs at the longest sequence: they are T steps long.")
class CutsTheOutputs(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        return super().forward(x if lengths is None else x[:, : int(lengths.max())], lengths)


@misconception("BiLSTM", "Returns the outputs time first, as nn.LSTM does without batch_first.")
class TimeFirst(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        y, last = super().forward(x, lengths)
        return y.transpose(0, 1), last


@misconception("BiLSTM", "Lets NaN in the padding into the cell: on the way back, it reaches the weights.")
class PaddingInTheGradients(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        return _directions(self, x, lengths, clean=False)


@misconception("BiLSTM", "Starts the second layer's weights within ±1/√(2H): the bound is ±1/√H for all.")
class BoundOfTheInputs(ReferenceBiLSTM):
    def __init__(self, input_size, hidden_size):
        super().__init__(input_size, hidden_size)
        bound = (2 * hidden_size) ** -0.5
        for weight in (self.weight_ih_l1, self.weight_ih_l1_reverse):
            nn.init.uniform_(weight, -bound, bound)


@misconception("BiLSTM", "Uses the forward weights in both directions: the backward ones never learn.")
class SharesTheWeights(ReferenceBiLSTM):
    def forward(self, x, lengths=None):
        return _directions(self, x, lengths, ending="")


# truncated_bptt


def _bptt(model, tokens, window, optimizer, carry=None, total=None, after=None):
    if window < 1:
        raise ValueError("window")
    state, losses, counts = None, [], []
    for start in range(0, tokens.shape[1] - 1, window):
        x, y = tokens[:, start : start + window], tokens[:, start + 1 : start + window + 1]
        logits, state = model(x[:, : y.shape[1]], state)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        (after or _step)(optimizer, loss)
        state = (carry or _detached)(state)
        losses.append(loss.item())
        counts.append(y.numel())
    weighted = sum(a * b for a, b in zip(losses, counts, strict=True)) / sum(counts)
    return total(losses, counts) if total else weighted


def _step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _detached(state):
    return state.detach() if isinstance(state, torch.Tensor) else tuple(s.detach() for s in state)


@misconception("truncated_bptt", "Doesn't detach the state: the second window goes back into the first one's graph, which is gone.")
def does_not_detach(model, tokens, window, optimizer):
    return _bptt(model, tokens, window, optimizer, carry=lambda state: state)


@misconception("truncated_bptt", "Begins every window with a state of None: what was read before is forgotten.")
def forgets_the_state(model, tokens, window, optimizer):
    return _bptt(model, tokens, window, optimizer, carry=lambda state: None)


@misconception("truncated_bptt", "Averages the windows' losses: a shorter last window then counts as much as the others.")
def mean_of_means(model, tokens, window, optimizer):
    return _bptt(model, tokens, window, optimizer, total=lambda losses, counts: sum(losses) / len(losses))


@misconception("truncated_bptt", "Returns the last window's loss: the mean over all predictions is due.")
def last_loss(model, tokens, window, optimizer):
    return _bptt(model, tokens, window, optimizer, total=lambda losses, counts: losses[-1])


@misconception("truncated_bptt", "Never clears the gradients: each window steps along the sum of all so far.")
def never_clears(model, tokens, window, optimizer):
    def step(optimizer, loss):
        loss.backward()
        optimizer.step()

    return _bptt(model, tokens, window, optimizer, after=step)


@misconception("truncated_bptt", "Clears the gradients after the step only: those from before the call count in the first window.")
def clears_too_late(model, tokens, window, optimizer):
    def step(optimizer, loss):
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _bptt(model, tokens, window, optimizer, after=step)


@misconception("truncated_bptt", "Drops what is left behind the last full window: it is a window, too.")
def drops_the_rest(model, tokens, window, optimizer):
    N = tokens.shape[1] - 1
    return _bptt(model, tokens[:, : max(N // window, 1) * window + 1] if window > 0 else tokens, window, optimizer)


@misconception("truncated_bptt", "Back-propagates through the whole text and makes one step: nothing is truncated.")
def one_step_for_all(model, tokens, window, optimizer):
    if window < 1:
        raise ValueError("window")
    return _bptt(model, tokens, tokens.shape[1], optimizer)


@misconception("truncated_bptt", "Asks for the input instead of the next token: nothing has to be predicted.")
def predicts_the_input(model, tokens, window, optimizer):
    if window < 1:
        raise ValueError("window")
    state, total = None, 0.0
    for x in tokens[:, :-1].split(window, dim=1):
        logits, state = model(x, state)
        loss = F.cross_entropy(logits.flatten(0, 1), x.flatten())
        _step(optimizer, loss)
        state = _detached(state)
        total += loss.item() * x.numel()
    return total / tokens[:, 1:].numel()


@misconception("truncated_bptt", "Leaves out the prediction at each window's edge: windows overlap by one token.")
def loses_the_edges(model, tokens, window, optimizer):
    if window < 1:
        raise ValueError("window")
    state, total, count = None, 0.0, 0
    for piece in tokens.split(window, dim=1):
        if piece.shape[1] > 1:
            logits, state = model(piece[:, :-1], state)
            loss = F.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten())
            _step(optimizer, loss)
            state = _detached(state)
            total, count = total + loss.item() * (piece.shape[1] - 1), count + piece.shape[1] - 1
    return total / max(count, 1)


@misconception("truncated_bptt", "Detaches the first part of the state only: c still carries a graph.")
def detaches_the_first_part(model, tokens, window, optimizer):
    return _bptt(model, tokens, window, optimizer, carry=lambda s: s.detach() if isinstance(s, torch.Tensor) else (s[0].detach(), *s[1:]))


@misconception("truncated_bptt", "Puts the model into train mode: its modes are left as they are.")
def switches_to_training(model, tokens, window, optimizer):
    model.train()
    return _bptt(model, tokens, window, optimizer)


@misconception("truncated_bptt", "Returns the loss as a tensor: a float is due.")
def returns_a_tensor(model, tokens, window, optimizer):
    return torch.tensor(_bptt(model, tokens, window, optimizer))


# attention_decoder_step


def _decode(
    cell, x, h, memory, mask, w_query, w_memory, v, query=None, fill=-torch.inf, axis=1, order=lambda x, c: (x, c), squash=torch.tanh
):
    memory = memory.masked_fill(~mask[..., None], 0.0)
    e = squash(memory @ w_memory.mT + ((h if query is None else query) @ w_query.mT)[:, None]) @ v
    a = e.masked_fill(~mask, fill).softmax(axis)
    context = torch.einsum("bs,bsm->bm", a, memory)
    return cell(torch.cat(order(x, context), dim=1), h), context, a


@misconception("attention_decoder_step", "Lets hidden positions take part: padding gets weights, too.")
def ignores_the_mask(cell, x, h, memory, mask, w_query, w_memory, v):
    return _decode(cell, x, h, memory, torch.ones_like(mask), w_query, w_memory, v)


@misconception("attention_decoder_step", "Takes True for hidden: it means a real position here.")
def true_hides(cell, x, h, memory, mask, w_query, w_memory, v):
    return _decode(cell, x, h, memory, ~mask, w_query, w_memory, v)


@misconception("attention_decoder_step", "Sets weights to 0 after the softmax: those that are left don't add up to 1.")
def masks_after_the_softmax(cell, x, h, memory, mask, w_query, w_memory, v):
    _, _, a = _decode(cell, x, h, memory.masked_fill(~mask[..., None], 0.0), torch.ones_like(mask), w_query, w_memory, v)
    a = a * mask
    context = (a[..., None] * memory.masked_fill(~mask[..., None], 0.0)).sum(1)
    return cell(torch.cat((x, context), 1), h), context, a


@misconception("attention_decoder_step", "Gives the cell the context first: x comes first.")
def context_first(cell, x, h, memory, mask, w_query, w_memory, v):
    return _decode(cell, x, h, memory, mask, w_query, w_memory, v, order=lambda x, c: (c, x))


@misconception("attention_decoder_step", "Asks with the new state, as Luong does: the query is the state before the step.")
def asks_with_the_new_state(cell, x, h, memory, mask, w_query, w_memory, v):
    new, _, _ = _decode(cell, x, h, memory, mask, w_query, w_memory, v)
    _, context, a = _decode(cell, x, h, memory, mask, w_query, w_memory, v, query=new)
    return new, context, a


@misconception("attention_decoder_step", "Leaves out tanh: then the query adds the same to all scores, and softmax takes it out again.")
def forgets_tanh(cell, x, h, memory, mask, w_query, w_memory, v):
    return _decode(cell, x, h, memory, mask, w_query, w_memory, v, squash=lambda k: k)


@misconception("attention_decoder_step", "Normalises over the batch: each sequence's weights over its positions must add up to 1.")
def softmax_over_the_batch(cell, x, h, memory, mask, w_query, w_memory, v):
    return _decode(cell, x, h, memory, mask, w_query, w_memory, v, fill=-1e9, axis=0)


@misconception("attention_decoder_step", "Puts −1e4 at hidden scores: that hides nothing where the scores that count are as low.")
def hides_with_minus_ten_thousand(cell, x, h, memory, mask, w_query, w_memory, v):
    return _decode(cell, x, h, memory, mask, w_query, w_memory, v, fill=-1e4)


@misconception("attention_decoder_step", "Hides the scores, but mixes the hidden memory with weights of 0: 0 times NaN is NaN.")
def hidden_memory_is_mixed(cell, x, h, memory, mask, w_query, w_memory, v):
    e = (torch.tanh(memory @ w_memory.mT + (h @ w_query.mT)[:, None]) @ v).masked_fill(~mask, -torch.inf)
    a = e.softmax(1)
    context = (a[:, None] @ memory)[:, 0]
    return cell(torch.cat((x, context), 1), h), context, a


@misconception("attention_decoder_step", "Cleans the memory for the context only: NaN in the scores comes back in the gradients.")
def cleans_half_of_it(cell, x, h, memory, mask, w_query, w_memory, v):
    e = (torch.tanh(memory @ w_memory.mT + (h @ w_query.mT)[:, None]) @ v).masked_fill(~mask, -torch.inf)
    a = e.softmax(1)
    context = (a[:, None] @ memory.masked_fill(~mask[..., None], 0.0))[:, 0]
    return cell(torch.cat((x, context), 1), h), context, a


@misconception("attention_decoder_step", "Exponentiates the scores as they are: large ones overflow.")
def exponentiates_raw_scores(cell, x, h, memory, mask, w_query, w_memory, v):
    memory = memory.masked_fill(~mask[..., None], 0.0)
    e = (torch.tanh(memory @ w_memory.mT + (h @ w_query.mT)[:, None]) @ v).exp() * mask
    a = e / e.sum(1, keepdim=True)
    context = (a[:, None] @ memory)[:, 0]
    return cell(torch.cat((x, context), 1), h), context, a


@misconception("attention_decoder_step", "Mixes W_memory · m instead of m: the context is made of the memory itself.")
def mixes_the_keys(cell, x, h, memory, mask, w_query, w_memory, v):
    _, context, a = _decode(cell, x, h, memory, mask, w_query, w_memory, v)
    if w_memory.shape[0] >= memory.shape[2]:
        keys = (memory.masked_fill(~mask[..., None], 0.0) @ w_memory.mT)[..., : memory.shape[2]]
        context = (a[:, None] @ keys)[:, 0]
    return cell(torch.cat((x, context), 1), h), context, a


@misconception("attention_decoder_step", "Squeezes the results: a batch of 1 or a single position loses its axis.")
def squeezes_the_results(cell, x, h, memory, mask, w_query, w_memory, v):
    h, context, a = reference_decoder(cell, x, h, memory, mask, w_query, w_memory, v)
    return h, context.squeeze(), a.squeeze()


@misconception("attention_decoder_step", "Treats the weights as constants: no gradient reaches what they are made of.")
def weights_without_history(cell, x, h, memory, mask, w_query, w_memory, v):
    with torch.no_grad():
        _, _, a = reference_decoder(cell, x, h, memory, mask, w_query, w_memory, v)
    context = (a[..., None] * memory.masked_fill(~mask[..., None], 0.0)).sum(1)
    return cell(torch.cat((x, context), 1), h), context, a


# beam_search


def _beam(log_probs, bos, eos, beam_size, max_length, alpha, *, key=None, keep_finished=False, per_prefix=None, stop=None):
    if beam_size < 1 or max_length < 1:
        raise ValueError("sizes")
    beam, finished = [([bos], 0.0)], []
    for _ in range(max_length):
        rows = log_probs(torch.tensor([p for p, _ in beam])).tolist()
        each = [[([*p, k], s + q) for k, q in enumerate(row)] for (p, s), row in zip(beam, rows, strict=True)]
        if per_prefix:
            each = [sorted(c, key=lambda c: -c[1])[:per_prefix] for c in each]
        best = sorted(itertools.chain(*each), key=key or (lambda c: -c[1]))[:beam_size]
        finished += [c for c in best if c[0][-1] == eos]
        beam = best if keep_finished else [c for c in best if c[0][-1] != eos]
        if not beam or (stop and stop(finished)):
            break
    scored = [(p[1:], s / (len(p) - 1) ** alpha) for p, s in finished + ([] if keep_finished else beam)]
    return sorted(scored, key=lambda c: -c[1])


@misconception("beam_search", "Keeps extending finished texts: what has ended with eos must leave the beam.")
def extends_finished_texts(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return _beam(log_probs, bos, eos, beam_size, max_length, alpha, keep_finished=True)


@misconception("beam_search", "Divides by the length before it compares: sums decide who stays, scores only the final order.")
def compares_scores(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    found = _beam(log_probs, bos, eos, beam_size, max_length, alpha, key=lambda c: -c[1] / (len(c[0]) + 1) ** alpha)
    if alpha == 0:
        return found
    return [(tokens, score * len(tokens) ** alpha / (len(tokens) + 1) ** alpha) for tokens, score in found]


@misconception("beam_search", "Takes the best token of each prefix only: all its tokens are candidates.")
def best_token_of_each(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return _beam(log_probs, bos, eos, beam_size, max_length, alpha, per_prefix=1)


@misconception("beam_search", "Stops when beam_size texts are finished: others in the beam may still be better.")
def stops_early(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return _beam(log_probs, bos, eos, beam_size, max_length, alpha, stop=lambda finished: len(finished) >= beam_size)


@misconception("beam_search", "Finished texts go on taking a place: the beam gets narrower with each of them.")
def finished_texts_take_places(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    if beam_size < 1 or max_length < 1:
        raise ValueError("sizes")
    beam, finished = [([bos], 0.0)], []
    for _ in range(max_length):
        rows = log_probs(torch.tensor([p for p, _ in beam])).tolist()
        each = [([*p, k], s + q) for (p, s), row in zip(beam, rows, strict=True) for k, q in enumerate(row)]
        best = sorted(each, key=lambda c: -c[1])[: beam_size - len(finished)]
        finished += [c for c in best if c[0][-1] == eos]
        beam = [c for c in best if c[0][-1] != eos]
        if not beam:
            break
    return sorted([(p[1:], s / (len(p) - 1) ** alpha) for p, s in finished + beam], key=lambda c: -c[1])


@misconception("beam_search", "Returns finished texts only: what is in the beam after the last round counts, too.")
def drops_unfinished_texts(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    found = reference_beam_search(log_probs, bos, eos, beam_size, max_length, alpha=alpha)
    return [pair for pair in found if pair[0][-1] == eos] or found


@misconception("beam_search", "Counts bos in the length.")
def counts_bos(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    found = reference_beam_search(log_probs, bos, eos, beam_size, max_length)
    return sorted([(tokens, score / (len(tokens) + 1) ** alpha) for tokens, score in found], key=lambda pair: -pair[1])


@misconception("beam_search", "Returns the texts with their bos.")
def returns_bos(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return [([bos, *tokens], score) for tokens, score in reference_beam_search(log_probs, bos, eos, beam_size, max_length, alpha=alpha)]


@misconception("beam_search", "Leaves out eos at the end of finished texts.")
def strips_eos(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    found = reference_beam_search(log_probs, bos, eos, beam_size, max_length, alpha=alpha)
    return [(tokens[:-1] if tokens[-1] == eos else tokens, score) for tokens, score in found]


@misconception("beam_search", "Returns the beam_size best texts: all that were finished are due.")
def returns_the_best_few(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return reference_beam_search(log_probs, bos, eos, beam_size, max_length, alpha=alpha)[:beam_size]


@misconception("beam_search", "Sorts by sum instead of score: with a length penalty the order changes.")
def sorts_by_sum(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    found = reference_beam_search(log_probs, bos, eos, beam_size, max_length, alpha=alpha)
    return sorted(found, key=lambda pair: -pair[1] * len(pair[0]) ** alpha)


@misconception("beam_search", "Multiplies probabilities: the product of small ones is 0, and its order is lost.")
def multiplies_probabilities(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    beam, finished = [([bos], 1.0)], []
    if beam_size < 1 or max_length < 1:
        raise ValueError("sizes")
    for _ in range(max_length):
        rows = log_probs(torch.tensor([p for p, _ in beam])).exp().tolist()
        each = [([*p, k], s * q) for (p, s), row in zip(beam, rows, strict=True) for k, q in enumerate(row)]
        best = sorted(each, key=lambda c: -c[1])[:beam_size]
        finished += [c for c in best if c[0][-1] == eos]
        beam = [c for c in best if c[0][-1] != eos]
        if not beam:
            break
    scored = [(p[1:], (math.log(s) if s else -math.inf) / (len(p) - 1) ** alpha) for p, s in finished + beam]
    return sorted(scored, key=lambda c: -c[1])


@misconception("beam_search", "Sorts tuples of sum and tokens: among equal sums the larger tokens come first.")
def ties_by_largest_token(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return _beam(log_probs, bos, eos, beam_size, max_length, alpha, key=lambda c: (-c[1], [-k for k in c[0]]))


@misconception("beam_search", "Looks for eos in the whole text: where bos is eos, everything is finished at once.")
def bos_finishes(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return reference_beam_search(log_probs, bos, eos, beam_size, 1 if bos == eos and max_length > 0 else max_length, alpha=alpha)


@misconception("beam_search", "Makes one round too many: max_length counts the tokens behind bos.")
def one_round_too_many(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return reference_beam_search(log_probs, bos, eos, beam_size, max_length + (max_length > 0), alpha=alpha)


@misconception("beam_search", "Takes a beam of nothing: beam_size and max_length must be at least 1.")
def takes_any_size(log_probs, bos, eos, beam_size, max_length, *, alpha=0.0):
    return reference_beam_search(log_probs, bos, eos, max(beam_size, 1), max(max_length, 1), alpha=alpha)


# selective_scan


def _scanned(x, delta, A, B, C, D=None, h0=None, decay=None, enters=None, shown=None):
    """The scan, done right save for what is given."""
    shape = (len(x), *A.shape)
    if h0 is not None and h0.shape != shape:
        raise ValueError("h0")
    h = torch.zeros(shape, dtype=x.dtype) if h0 is None else h0
    outputs = []
    for t in range(x.shape[1]):
        step = delta[:, t, :, None] * A  # (S, d, n)
        a = step.exp() if decay is None else decay(step)
        b = delta[:, t, :, None] if enters is None else enters(delta[:, t, :, None], step, A)
        new = a * h + b * B[:, t, None] * x[:, t, :, None]
        outputs.append(((new if shown is None else shown(h, new)) * C[:, t, None]).sum(-1))
        h = new
    y = torch.stack(outputs, dim=1)
    return y if D is None else y + D * x, h


@misconception("selective_scan", "Takes 1 + ΔA for the decay (Euler's rule): for large steps it is far from exp(ΔA), and even negative.")
def decays_by_euler(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, B, C, D, h0, decay=lambda step: 1 + step)


@misconception("selective_scan", "Forgets the step in the decay: exp(A) is the same at all steps.")
def forgets_the_step_in_the_decay(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, B, C, D, h0, decay=lambda step: A.exp().expand_as(step))


@misconception("selective_scan", "Forgets the step in what comes in: it is Δ · B · x.")
def forgets_the_step_in_the_input(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, B, C, D, h0, enters=lambda delta, step, A: torch.ones_like(step))


@misconception(
    "selective_scan",
    "Discretises B exactly, (exp(ΔA) − 1) / A · B, as in the paper's equation 4: its code, and this statement, take Δ · B.",
)
def discretises_b_exactly(x, delta, A, B, C, D=None, h0=None):
    def exact(delta, step, A):
        return torch.where(A == 0, delta, step.expm1() / torch.where(A == 0, 1.0, A))

    return _scanned(x, delta, A, B, C, D, h0, enters=exact)


@misconception("selective_scan", "Puts Δ through softplus, which has been done before.")
def softplus_of_the_step(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, F.softplus(delta), A, B, C, D, h0)


@misconception("selective_scan", "Takes A for the logarithm that models store, and uses −exp(A).")
def takes_a_for_its_logarithm(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, -A.exp(), B, C, D, h0)


@misconception("selective_scan", "Shows the state before the step, not the one after it.")
def shows_the_old_state(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, B, C, D, h0, shown=lambda old, new: old)


@misconception("selective_scan", "Uses the first step's B and C at all steps: the input decides anew at each.")
def same_b_and_c_at_all_steps(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, B[:, :1].expand_as(B), C[:, :1].expand_as(C), D, h0)


@misconception("selective_scan", "Leaves D out.")
def leaves_out_the_direct_part(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, B, C, None, h0)


@misconception("selective_scan", "Multiplies the direct part by the step, too.")
def scales_the_direct_part(x, delta, A, B, C, D=None, h0=None):
    y, h = _scanned(x, delta, A, B, C, None, h0)
    return y if D is None else y + D * delta * x, h


@misconception("selective_scan", "Starts from zeros, whatever h0 is: a second piece forgets the first.")
def forgets_h0(x, delta, A, B, C, D=None, h0=None):
    if h0 is not None and h0.shape != (len(x), *A.shape):
        raise ValueError("h0")
    return _scanned(x, delta, A, B, C, D)


@misconception("selective_scan", "Detaches h0: its gradient is lost.")
def detaches_the_first_state(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, B, C, D, None if h0 is None else h0.detach())


@misconception("selective_scan", "Divides by the product of all decays so far, to do without a loop: it soon is 0, and 0 / 0 is NaN.")
def divides_by_the_product_of_decays(x, delta, A, B, C, D=None, h0=None):
    shape = (len(x), *A.shape)
    if h0 is not None and h0.shape != shape:
        raise ValueError("h0")
    product = (delta[..., None] * A).cumsum(1).exp()
    states = (((delta * x)[..., None] * B[:, :, None]) / product).cumsum(1) + (0 if h0 is None else h0[:, None])
    states = states * product
    y = (states * C[:, :, None]).sum(-1)
    return y if D is None else y + D * x, states[:, -1]


@misconception("selective_scan", "Keeps the product of decays above 1e-6, so that it can be divided by: small states come out wrong.")
def keeps_the_product_above_zero(x, delta, A, B, C, D=None, h0=None):
    shape = (len(x), *A.shape)
    if h0 is not None and h0.shape != shape:
        raise ValueError("h0")
    product = (delta[..., None] * A).cumsum(1).exp()
    states = (((delta * x)[..., None] * B[:, :, None]) / product.clamp(min=1e-6)).cumsum(1) + (0 if h0 is None else h0[:, None])
    states = states * product
    y = (states * C[:, :, None]).sum(-1)
    return y if D is None else y + D * x, states[:, -1]


@misconception("selective_scan", "Averages over the numbers of the state: they are added up.")
def averages_the_state(x, delta, A, B, C, D=None, h0=None):
    y, h = _scanned(x, delta, A, B, C, None, h0)
    y = y / A.shape[1]
    return y if D is None else y + D * x, h


@misconception("selective_scan", "Exchanges B and C: one lets in, the other shows.")
def exchanges_b_and_c(x, delta, A, B, C, D=None, h0=None):
    return _scanned(x, delta, A, C, B, D, h0)


@misconception("selective_scan", "Stretches a single first state over the batch: it is a ValueError.")
def stretches_the_first_state(x, delta, A, B, C, D=None, h0=None):
    shape = (len(x), *A.shape)
    if h0 is not None and h0.mT.shape != h0.shape and h0.ndim == 3 and h0.shape[1:] == shape[1:]:
        h0 = h0.expand(shape)
    return _scanned(x, delta, A, B, C, D, h0)


@misconception("selective_scan", "Updates the state in place: the caller's h0 is changed.")
def changes_the_first_state(x, delta, A, B, C, D=None, h0=None):
    y, h = _scanned(x, delta, A, B, C, D, h0)
    if h0 is not None and not h0.requires_grad and h0.stride(0):
        h0.copy_(h)
    return y, h


@misconception("selective_scan", "Squeezes the outputs: a single channel or sequence loses its axis.")
def squeezes_the_scan(x, delta, A, B, C, D=None, h0=None):
    y, h = _scanned(x, delta, A, B, C, D, h0)
    return y.squeeze(), h


@misconception("selective_scan", "Returns all outputs, but the state before the last step.")
def returns_the_state_before(x, delta, A, B, C, D=None, h0=None):
    y, h = _scanned(x, delta, A, B, C, D, h0)
    if x.shape[1] > 1:
        h = _scanned(x[:, :-1], delta[:, :-1], A, B[:, :-1], C[:, :-1], D, h0)[1]
    return y, h


# train_char_gru


def _trained(text, V, seed, updates, loss_of, *, lr=3e-2, make=None):
    torch.manual_seed(seed)
    net = (make or _net)(V)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    windows = text.unfold(0, min(19, len(text)), 1)
    for _ in range(updates):
        batch = windows[torch.randint(len(windows), (12,))]
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
    return net.state_dict()


def _net(V):
    return nn.ModuleDict({"embed": nn.Embedding(V, 8), "gru": nn.GRU(8, 24, batch_first=True), "head": nn.Linear(24, V)})


@misconception("train_char_gru", "Predicts the character that it reads: targets are one later than inputs.")
def copies_the_input(text, vocab_size, *, seed, updates=40):
    def loss(net, batch):
        return F.cross_entropy(net["head"](net["gru"](net["embed"](batch[:, :-1]))[0]).flatten(0, 1), batch[:, :-1].flatten())

    return _trained(text, vocab_size, seed, updates, loss)


@misconception("train_char_gru", "Reads each character by itself: without the state of the steps before, a word can't be told.")
def one_character_at_a_time(text, vocab_size, *, seed, updates=40):
    def loss(net, batch):
        x = batch[:, :-1].reshape(-1, 1)
        return F.cross_entropy(net["head"](net["gru"](net["embed"](x))[0]).flatten(0, 1), batch[:, 1:].flatten())

    return _trained(text, vocab_size, seed, updates, loss)


@misconception("train_char_gru", "Gives softmaxed logits to cross_entropy, which takes the softmax itself: it hardly learns.")
def softmax_before_the_loss(text, vocab_size, *, seed, updates=40):
    def loss(net, batch):
        p = net["head"](net["gru"](net["embed"](batch[:, :-1]))[0]).softmax(-1)
        return F.cross_entropy(p.flatten(0, 1), batch[:, 1:].flatten())

    return _trained(text, vocab_size, seed, updates, loss, lr=3e-3)


@misconception("train_char_gru", "Passes (B, T) where time comes first: the GRU then runs along the batch.")
def runs_along_the_batch(text, vocab_size, *, seed, updates=40):
    def loss(net, batch):
        states = net["gru"](net["embed"](batch[:, :-1]).transpose(0, 1))[0].transpose(0, 1)
        return F.cross_entropy(net["head"](states).flatten(0, 1), batch[:, 1:].flatten())

    return _trained(text, vocab_size, seed, updates, loss)


@misconception("train_char_gru", "Trains the head only: embed and gru stay as they were drawn.")
def trains_the_head_only(text, vocab_size, *, seed, updates=40):
    def loss(net, batch):
        with torch.no_grad():
            states = net["gru"](net["embed"](batch[:, :-1]))[0]
        return F.cross_entropy(net["head"](states).flatten(0, 1), batch[:, 1:].flatten())

    torch.manual_seed(seed)
    net = _net(vocab_size)
    optimizer = torch.optim.Adam(net["head"].parameters(), lr=3e-2)
    windows = text.unfold(0, min(19, len(text)), 1)
    for _ in range(updates):
        optimizer.zero_grad()
        loss(net, windows[torch.randint(len(windows), (12,))]).backward()
        optimizer.step()
    return net.state_dict()


@misconception("train_char_gru", "Learns from the first window alone: the rest of the text is never read.")
def reads_the_beginning_only(text, vocab_size, *, seed, updates=40):
    return reference_train(text[:13], vocab_size, seed=seed, updates=updates)


@misconception("train_char_gru", "Ignores the seed: the weights come from whatever the global generator holds.")
def ignores_the_seed(text, vocab_size, *, seed, updates=40):
    return reference_train(text, vocab_size, seed=int(torch.randint(2**31, ())), updates=updates)


@misconception("train_char_gru", "Takes `updates or 40`: 0 updates are 0.")
def zero_updates_are_forty(text, vocab_size, *, seed, updates=40):
    return reference_train(text, vocab_size, seed=seed, updates=updates or 40)


@misconception("train_char_gru", "Fails for a text that is shorter than a window.")
def needs_a_long_text(text, vocab_size, *, seed, updates=40):
    if len(text) < 20:
        raise RuntimeError("text is too short")
    return reference_train(text, vocab_size, seed=seed, updates=updates)


@misconception("train_char_gru", "Returns the module: its state_dict() is due.")
def returns_the_module(text, vocab_size, *, seed, updates=40):
    net = _net(vocab_size)
    net.load_state_dict(reference_train(text, vocab_size, seed=seed, updates=updates))
    return net


@misconception("train_char_gru", "Never clears the gradients: each step goes along the sum of all so far.")
def never_clears_gradients(text, vocab_size, *, seed, updates=40):
    torch.manual_seed(seed)
    net = _net(vocab_size)
    optimizer = torch.optim.SGD(net.parameters(), lr=3e-2)
    windows = text.unfold(0, min(19, len(text)), 1)
    for _ in range(updates):
        batch = windows[torch.randint(len(windows), (12,))]
        F.cross_entropy(net["head"](net["gru"](net["embed"](batch[:, :-1]))[0]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
    return net.state_dict()
