"""Hidden suite of the module recurrent."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def loaded(model, state):
    """The model in the dtype of the state, with the given weights in it."""
    model = model.to(next(iter(state.values())).dtype)
    model.load_state_dict(state)
    return model


def gradients(model):
    """The gradient of each parameter, by name."""
    return {name: p.grad for name, p in model.named_parameters()}


def parameters(model):
    """The shape of each parameter and whether it is trained, and the names in the state_dict and of the buffers."""
    named = {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters(remove_duplicate=False)}
    return dict(sorted(named.items())), sorted(model.state_dict()), sorted(name for name, _ in model.named_buffers())


def changing(model, states, call):
    """What a model gives with one state, with another, and after an update of all its weights in place, in train mode and in eval mode.

    Also whether its parameters and modes are the same as ever.
    """
    before, answers = dict(model.named_parameters()), []
    model.eval()
    with torch.no_grad():
        for state in states:
            model.load_state_dict(state)
            answers.append(call(model))
        for p in model.parameters():
            p.mul_(1.25)
        for training in (True, False):
            answers.append(call(model.train(training)))
    same = all(p is before.get(name) for name, p in model.named_parameters()) and not any(part.training for part in model.modules())
    return answers, "the same parameters and modes" if same else "other parameters or modes"


# Helpers for the trusted side


def weights(draw, shapes, dtype=torch.float32):
    """Random weights of these shapes, of a size that keeps outputs around 1."""
    return {name: draw.normal(*shape, dtype=dtype) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


def cell_shapes(gates, D, H):
    """The parameters of a cell with this many gates."""
    return {"weight_ih": (gates * H, D), "weight_hh": (gates * H, H), "bias_ih": (gates * H,), "bias_hh": (gates * H,)}


def cell_weights(draw, gates, D, H, dtype=torch.float32):
    """Random weights of a cell, biases of size 1."""
    return weights(draw, cell_shapes(gates, D, H), dtype) | {name: draw.normal(gates * H, dtype=dtype) for name in ("bias_ih", "bias_hh")}


def bilstm_shapes(D, H):
    """The parameters of a BiLSTM."""
    shapes = {}
    for layer, width in enumerate((D, 2 * H)):
        for direction in ("", "_reverse"):
            shapes |= {f"{name}_l{layer}{direction}": shape for name, shape in cell_shapes(4, width, H).items()}
    return shapes


def check_close(got, want, tolerance, what):
    """Assert that a tensor has the shape, dtype and values that it should have."""
    assert isinstance(got, torch.Tensor), f"{what} must be a tensor."
    assert got.shape == want.shape, f"{what} must have the shape {tuple(want.shape)}, not {tuple(got.shape)}."
    assert got.dtype == want.dtype, f"{what} must be {want.dtype}, not {got.dtype}."
    error = (got - want).abs().max().item()
    assert error <= tolerance, f"{what} differs by up to {error:.3g}."


def check_start(state, shapes, bound):
    """Assert that start values have these names and shapes, are uniform in ±bound, and drawn one by one."""
    assert isinstance(state, dict) and state.keys() == shapes.keys(), "The parameters must be named as stated."
    for name, shape in shapes.items():
        assert tuple(state[name].shape) == shape, f"{name} must be {shape}; it is {tuple(state[name].shape)}."
        x = state[name].double() / bound
        assert x.abs().max() <= 1 + 1e-5, f"{name} must start within ±{bound:.4f}; it goes up to {x.abs().max() * bound:.4f}."
        # Uniform in ±1: the mean has the deviation √(1 / 3n), the mean of the squares √(4 / 45 n).
        uniform = x.mean().abs() < 6 / math.sqrt(3 * x.numel()) and (x.square().mean() - 1 / 3).abs() < 6 * math.sqrt(4 / 45 / x.numel())
        assert uniform, f"{name} must start uniform in ±{bound:.4f}; its mean square is {x.square().mean() * bound**2:.4g}."
        check_drawn_singly(x, name)
    check_drawn_singly(torch.cat([x.flatten() for x in state.values()]), "All parameters together")


def check_drawn_singly(x, name):
    """Assert that the entries were drawn one by one: of 100,000 in float32, some 1 % are equal by chance."""
    share = x.abs().unique().numel() / x.numel()
    assert share > 0.9, f"{name} must start with numbers that are drawn one by one; only {share:.0%} of them differ in size."


def padding(lengths, T):
    """(B, T), True from each length on."""
    return torch.arange(T) >= lengths[:, None]


def packed(layer, x, lengths, state=None):
    """What a layer of torch's makes of padded sequences: padded outputs, and its last state."""
    seq = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        y, last = layer(seq, state)
    return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], last


# rnn_forward


def elman(draw, D, H, dtype=torch.float32):
    """w_ih, w_hh, b_ih and b_hh."""
    return [draw.normal(H, D, dtype=dtype) / math.sqrt(D), draw.normal(H, H, dtype=dtype) / math.sqrt(H)] + [
        draw.normal(H, dtype=dtype) for _ in range(2)
    ]


@task("rnn_forward")
class TestRnnForward:
    @pytest.mark.parametrize("batch_first", [False, True])
    def test_values(self, agree, draw, batch_first):
        """Outputs and last state are right, whichever axis is time; without h0 the first state is 0."""
        x, w = draw.normal(7, 3, 5), elman(draw, 5, 4)
        agree(lambda m: m.rnn_forward(x, *w, batch_first=batch_first), rtol=1e-4, atol=1e-5)

    def test_time_comes_first(self, agree, draw):
        """If nothing is said, the first axis is time; None for h0 means zeros."""
        x, w = draw.normal(3, 7, 5), elman(draw, 5, 4)
        agree(lambda m: (m.rnn_forward(x, *w), m.rnn_forward(x, *w, None)), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("batch_first", [False, True])
    def test_initial_state(self, agree, draw, batch_first):
        """The first step goes on from h0."""
        x, w, h0 = draw.normal(2, 3, 5), elman(draw, 5, 4), 3 * draw.normal(3 - batch_first, 4)
        agree(lambda m: m.rnn_forward(x, *w, h0, batch_first=batch_first), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("batch_first", [False, True])
    def test_numbers_of_torch(self, student, draw, batch_first):
        """With the weights of an nn.RNN, outputs and last state are its own."""
        w, x, h0 = elman(draw, 5, 4), draw.normal(7, 3, 5), draw.normal(7 if batch_first else 3, 4)
        theirs = nn.RNN(5, 4, batch_first=batch_first)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        theirs.load_state_dict(dict(zip(names, w, strict=True)))
        with torch.no_grad():
            y, h = theirs(x, h0[None])
        outputs, last = student(lambda m: m.rnn_forward(x, *w, h0, batch_first=batch_first))
        check_close(outputs, y, 1e-4, "The outputs")
        check_close(last, h[0], 1e-4, "The last state")

    def test_gradients(self, agree, draw):
        """Gradients reach x, h0, both weights and both biases, through all steps."""
        x, w, h0 = draw.normal(6, 3, 5, dtype=F64), elman(draw, 5, 4, F64), draw.normal(3, 4, dtype=F64)
        a, b = draw.normal(6, 3, 4, dtype=F64), draw.normal(3, 4, dtype=F64)

        def probe(m):
            inputs = [leaf(i) for i in (x, *w, h0)]
            y, h = m.rnn_forward(*inputs)
            return torch.autograd.grad((y * a).sum() + (h * b).sum(), inputs), y.detach()

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """There may be one step, one sequence, one input or one unit, and no axis gets lost."""
        inputs = [(draw.normal(T, B, D), elman(draw, D, H), draw.normal(B, H)) for T, B, D, H in with_ones(7, 3, 5, 4)]
        agree(
            lambda m: [(m.rnn_forward(x, *w, h0), m.rnn_forward(x.transpose(0, 1), *w, batch_first=True)) for x, w, h0 in inputs],
            rtol=1e-4,
            atol=1e-5,
        )

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way, and the sequence be long."""
        x, h0 = draw.normal(131, 3, 5, layout=layout), draw.normal(3, 4, layout=layout)
        w = [draw.normal(4, 5, layout=layout) / 3, draw.normal(4, 4, layout=layout) / 3, draw.normal(4), draw.normal(4)]
        agree(lambda m: (m.rnn_forward(x, *w, h0), m.rnn_forward(x, *w, batch_first=True)), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        x, w, h0 = draw.normal(7, 3, 5, dtype=F64), elman(draw, 5, 4, F64), draw.normal(3, 4, dtype=F64)
        agree(lambda m: (m.rnn_forward(x, *w, h0), m.rnn_forward(x, *w)), rtol=1e-10, atol=1e-11)

    def test_magnitudes(self, agree, draw):
        """Large sums give ±1, tiny ones pass through."""
        x, w, h0 = draw.magnitudes(7, 3, 5, low=1e-8, high=1e8), elman(draw, 5, 4), draw.magnitudes(3, 4, low=1e-8, high=1e8)
        small = draw.magnitudes(1, 3, 5, low=1e-8, high=1e-4)

        def probe(m):
            nothing = torch.zeros_like(w[2])
            return m.rnn_forward(x, *w, h0)[0][0].abs().min() <= 1, m.rnn_forward(small, w[0], w[1], nothing, nothing)

        agree(probe, rtol=1e-3, atol=1e-11)

    def test_h0_must_fit(self, agree, draw):
        """A state for another batch or width is a ValueError, one that would broadcast too."""
        x, w = draw.normal(7, 3, 4), elman(draw, 4, 5)
        wrong = [draw.normal(*shape) for shape in ((1, 5), (3, 1), (5,), (7, 5), (1, 3, 5), (3, 4), (), (1, 1))]

        def probe(m):
            outcomes = [raised(ValueError, lambda h=h: m.rnn_forward(x, *w, h)) for h in wrong]
            first = [raised(ValueError, lambda h=h: m.rnn_forward(x, *w, h, batch_first=True)) for h in (wrong[0], wrong[0].expand(3, 5))]
            return outcomes, first, m.rnn_forward(x, *w, torch.zeros(3, 5))

        agree(probe, rtol=1e-2, atol=1e-2)


# LSTMCell and GRUCell


@task("LSTMCell")
class TestLSTMCell:
    def test_one_step(self, agree, draw):
        """With given weights and state, h and c are right."""
        state, x, h, c = cell_weights(draw, 4, 5, 3), draw.normal(7, 5), draw.normal(7, 3), draw.normal(7, 3)
        agree(lambda m: loaded(m.LSTMCell(5, 3), state)(x, (h, c)), rtol=1e-4, atol=1e-5)

    def test_no_state(self, agree, draw):
        """Without a state, h and c begin at 0, in every call: the cell remembers nothing."""
        state, xs = cell_weights(draw, 4, 5, 3), [draw.normal(n, 5) for n in (7, 7, 2)]

        def probe(m):
            cell = loaded(m.LSTMCell(5, 3), state)
            return [cell(x) for x in xs], cell(xs[0], None)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_twenty_steps_of_torch(self, student, draw):
        """With the weights of an nn.LSTMCell, twenty steps give its own states."""
        state, xs = cell_weights(draw, 4, 5, 3), draw.normal(20, 7, 5)
        theirs, steps = loaded(nn.LSTMCell(5, 3), state), []
        with torch.no_grad():
            for x in xs:
                steps.append(theirs(x, steps[-1] if steps else None))
        h, c = student(lambda m: unrolled(loaded(m.LSTMCell(5, 3), state), xs))
        check_close(h, torch.stack([a for a, _ in steps]), 1e-4, "h of the twenty steps")
        check_close(c, torch.stack([b for _, b in steps]), 1e-3, "c of the twenty steps")

    def test_gradients(self, agree, draw):
        """Through several steps, every parameter, the inputs and the first state get their gradients."""
        state, xs, first = cell_weights(draw, 4, 5, 3, F64), draw.normal(6, 7, 5, dtype=F64), draw.normal(2, 7, 3, dtype=F64)
        a, b = draw.normal(6, 7, 3, dtype=F64), draw.normal(6, 7, 3, dtype=F64)

        def probe(m):
            cell, inputs, start = loaded(m.LSTMCell(5, 3), state), leaf(xs), leaf(first)
            h, c = unrolled(cell, inputs, tuple(start))
            ((h * a).sum() + (c * b).sum()).backward()
            return gradients(cell), inputs.grad, start.grad

        agree(probe, rtol=1e-7, atol=1e-9)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """Names and shapes are those of nn.LSTMCell, all are trained, and the state_dict holds nothing else."""
        D, H = draw.integer(2, 60), draw.integer(2, 60)
        agree(lambda m: parameters(m.LSTMCell(D, H)), rtol=0, atol=0)

    def test_start_values(self, student, draw):
        """All four start uniform in ±1/√H, each with numbers of its own."""
        seed, D, H = draw.seed(), draw.integer(30, 60), draw.integer(70, 120)

        def probe(m):
            torch.manual_seed(seed)
            return [{name: p.detach() for name, p in m.LSTMCell(D, H).named_parameters()} for _ in range(2)]

        start, other = student(probe)
        check_start(start, cell_shapes(4, D, H), 1 / math.sqrt(H))
        check_drawn_singly(torch.stack([start["weight_ih"], other["weight_ih"]]), "In two cells, weight_ih")

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, and the parameters stay the same objects."""
        states, x, h, c = [cell_weights(draw, 4, 5, 3) for _ in range(2)], draw.normal(7, 5), draw.normal(7, 3), draw.normal(7, 3)
        agree(lambda m: changing(m.LSTMCell(5, 3), states, lambda cell: [cell(x, (h, c)), cell(x)]), rtol=1e-4, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sequence, one input or one unit, and the states keep two axes."""
        inputs = [
            (D, H, cell_weights(draw, 4, D, H), draw.normal(B, D), draw.normal(B, H), draw.normal(B, H)) for B, D, H in with_ones(7, 5, 3)
        ]
        agree(
            lambda m: [[loaded(m.LSTMCell(D, H), s)(x, (h, c)), loaded(m.LSTMCell(D, H), s)(x)] for D, H, s, x, h, c in inputs],
            rtol=1e-4,
            atol=1e-5,
        )

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Inputs and state may lie in memory in any way."""
        state, x = cell_weights(draw, 4, 5, 17), draw.normal(37, 5, layout=layout)
        h, c = draw.normal(37, 17, layout=layout), draw.normal(37, 17, layout=layout)
        agree(lambda m: loaded(m.LSTMCell(5, 17), state)(x, (h, c)), rtol=1e-4, atol=1e-5)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64, with a state and without."""
        state, x, h, c = (
            cell_weights(draw, 4, 5, 3, F64),
            draw.normal(7, 5, dtype=F64),
            draw.normal(7, 3, dtype=F64),
            draw.normal(7, 3, dtype=F64),
        )

        def probe(m):
            cell = loaded(m.LSTMCell(5, 3), state)
            return cell(x, (h, c)), cell(x)

        agree(probe, rtol=1e-10, atol=1e-11)

    def test_c_is_not_bounded(self, agree, draw):
        """C may be large, and goes on as it is: only h is squashed."""
        state, x, h, c = cell_weights(draw, 4, 5, 3), draw.normal(7, 5), draw.normal(7, 3), 300 * draw.normal(7, 3)
        agree(lambda m: loaded(m.LSTMCell(5, 3), state)(x, (h, c)), rtol=1e-4, atol=1e-4)


def unrolled(cell, xs, state=None):
    """The states (h, c) of all steps, each (T, B, H)."""
    hs, cs = [], []
    for x in xs:
        h, c = state = cell(x, state)
        hs.append(h)
        cs.append(c)
    return torch.stack(hs), torch.stack(cs)


def unrolled_gru(cell, xs, h=None):
    """The states of all steps, (T, B, H)."""
    hs = []
    for x in xs:
        h = cell(x, h)
        hs.append(h)
    return torch.stack(hs)


@task("GRUCell")
class TestGRUCell:
    def test_one_step(self, agree, draw):
        """With given weights and state, the new state is right."""
        state, x, h = cell_weights(draw, 3, 5, 4), draw.normal(7, 5), draw.normal(7, 4)
        agree(lambda m: loaded(m.GRUCell(5, 4), state)(x, h), rtol=1e-4, atol=1e-5)

    def test_no_state(self, agree, draw):
        """Without a state, h begins at 0, in every call: the cell remembers nothing."""
        state, xs = cell_weights(draw, 3, 5, 4), [draw.normal(n, 5) for n in (7, 7, 2)]

        def probe(m):
            cell = loaded(m.GRUCell(5, 4), state)
            return [cell(x) for x in xs], cell(xs[0], None)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_the_reset_gate_scales_the_bias(self, agree, draw):
        """R scales W_hn h + b_hn, the bias too: with h = 0 it still counts."""
        state, x = cell_weights(draw, 3, 5, 4), draw.normal(7, 5)
        state["bias_hh"] *= 5
        agree(lambda m: loaded(m.GRUCell(5, 4), state)(x, torch.zeros(7, 4)), rtol=1e-4, atol=1e-5)

    def test_twenty_steps_of_torch(self, student, draw):
        """With the weights of an nn.GRUCell, twenty steps give its own states."""
        state, xs = cell_weights(draw, 3, 5, 4), draw.normal(20, 7, 5)
        with torch.no_grad():
            want = unrolled_gru(loaded(nn.GRUCell(5, 4), state), xs)
        check_close(student(lambda m: unrolled_gru(loaded(m.GRUCell(5, 4), state), xs)), want, 1e-4, "h of the twenty steps")

    def test_gradients(self, agree, draw):
        """Through several steps, every parameter, the inputs and the first state get their gradients."""
        state, xs, first = cell_weights(draw, 3, 5, 4, F64), draw.normal(6, 7, 5, dtype=F64), draw.normal(7, 4, dtype=F64)
        w = draw.normal(6, 7, 4, dtype=F64)

        def probe(m):
            cell, inputs, start = loaded(m.GRUCell(5, 4), state), leaf(xs), leaf(first)
            (unrolled_gru(cell, inputs, start) * w).sum().backward()
            return gradients(cell), inputs.grad, start.grad

        agree(probe, rtol=1e-7, atol=1e-9)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """Names and shapes are those of nn.GRUCell, all are trained, and the state_dict holds nothing else."""
        D, H = draw.integer(2, 60), draw.integer(2, 60)
        agree(lambda m: parameters(m.GRUCell(D, H)), rtol=0, atol=0)

    def test_start_values(self, student, draw):
        """All four start uniform in ±1/√H, each with numbers of its own."""
        seed, D, H = draw.seed(), draw.integer(30, 60), draw.integer(70, 120)

        def probe(m):
            torch.manual_seed(seed)
            return [{name: p.detach() for name, p in m.GRUCell(D, H).named_parameters()} for _ in range(2)]

        start, other = student(probe)
        check_start(start, cell_shapes(3, D, H), 1 / math.sqrt(H))
        check_drawn_singly(torch.stack([start["weight_ih"], other["weight_ih"]]), "In two cells, weight_ih")

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, and the parameters stay the same objects."""
        states, x, h = [cell_weights(draw, 3, 5, 4) for _ in range(2)], draw.normal(7, 5), draw.normal(7, 4)
        agree(lambda m: changing(m.GRUCell(5, 4), states, lambda cell: [cell(x, h), cell(x)]), rtol=1e-4, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sequence, one input or one unit, and the state keeps two axes."""
        inputs = [(D, H, cell_weights(draw, 3, D, H), draw.normal(B, D), draw.normal(B, H)) for B, D, H in with_ones(7, 5, 4)]
        agree(
            lambda m: [[loaded(m.GRUCell(D, H), s)(x, h), loaded(m.GRUCell(D, H), s)(x)] for D, H, s, x, h in inputs],
            rtol=1e-4,
            atol=1e-5,
        )

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Inputs and state may lie in memory in any way."""
        state, x, h = cell_weights(draw, 3, 5, 4), draw.normal(37, 5, layout=layout), draw.normal(37, 4, layout=layout)
        agree(lambda m: loaded(m.GRUCell(5, 4), state)(x, h), rtol=1e-4, atol=1e-5)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64, with a state and without."""
        state, x, h = cell_weights(draw, 3, 5, 4, F64), draw.normal(7, 5, dtype=F64), draw.normal(7, 4, dtype=F64)

        def probe(m):
            cell = loaded(m.GRUCell(5, 4), state)
            return cell(x, h), cell(x)

        agree(probe, rtol=1e-10, atol=1e-11)

    def test_a_state_beyond_one(self, agree, draw):
        """A given state may be larger than what tanh gives, and stays as far as z says."""
        state, x, h = cell_weights(draw, 3, 5, 4), draw.normal(7, 5), 30 * draw.normal(7, 4)
        agree(lambda m: loaded(m.GRUCell(5, 4), state)(x, h), rtol=1e-4, atol=1e-4)


# run_padded


def plain_cell(u, w):
    """A cell whose state is a single tensor."""
    return lambda x, h: torch.tanh(x @ u + h @ w + 0.5)


def three_part_cell(u, w):
    """A cell with a state of three parts: h, a sum of what was read, and a number of another width."""

    def step(x, state):
        h, total, count = state
        return torch.tanh(x @ u + h @ w + 0.5 + 0.1 * count), total + x, 0.5 * count + 1

    return step


@task("run_padded")
class TestRunPadded:
    def test_values(self, agree, draw):
        """Outputs and last states are right, for lengths in any order."""
        u, w, x, h = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 7, 3), draw.normal(5, 4)
        lengths = torch.tensor([3, 7, 1, 4, 6])[draw.permutation(5)]
        agree(lambda m: m.run_padded(plain_cell(u, w), x, lengths, h), rtol=1e-4, atol=1e-5)

    def test_a_state_of_several_parts(self, agree, draw):
        """A tuple comes back as a tuple; every part of it stays from its sequence's end on; the outputs are its first part."""
        u, w, x, lengths = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 7, 3), draw.integers(1, 8, 5)
        state = draw.normal(5, 4), draw.normal(5, 3), draw.normal(5, 1)
        agree(lambda m: m.run_padded(three_part_cell(u, w), x, lengths, state), rtol=1e-4, atol=1e-4)

    def test_a_tuple_of_one(self, agree, draw):
        """A tuple with a single tensor in it stays one."""
        u, w, x, h, lengths = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 7, 3), draw.normal(5, 4), draw.integers(1, 8, 5)

        def probe(m):
            cell = plain_cell(u, w)
            return m.run_padded(lambda x, state: (cell(x, state[0]),), x, lengths, (h,))

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_numbers_of_a_packed_gru(self, student, draw):
        """With an nn.GRUCell, the results are those of nn.GRU on packed sequences."""
        cell, x, h = cell_weights(draw, 3, 3, 4), draw.normal(5, 7, 3), draw.normal(5, 4)
        lengths = torch.tensor([3, 7, 1, 4, 6])[draw.permutation(5)]
        y, last = packed(loaded(nn.GRU(3, 4, batch_first=True), {f"{k}_l0": v for k, v in cell.items()}), x, lengths, h[None])
        outputs, state = student(lambda m: m.run_padded(loaded(nn.GRUCell(3, 4), cell), x, lengths, h))
        check_close(outputs, y, 1e-4, "The outputs")
        check_close(state, last[0], 1e-4, "The last state")

    def test_numbers_of_a_packed_lstm(self, student, draw):
        """With an nn.LSTMCell, the results are those of nn.LSTM on packed sequences."""
        cell, x, h, c = cell_weights(draw, 4, 3, 4), draw.normal(5, 7, 3), draw.normal(5, 4), draw.normal(5, 4)
        lengths = torch.tensor([3, 6, 1, 4, 6])[draw.permutation(5)]
        layer = loaded(nn.LSTM(3, 4, batch_first=True), {f"{k}_l0": v for k, v in cell.items()})
        y, (h_n, c_n) = packed(layer, x, lengths, (h[None], c[None]))
        outputs, state = student(lambda m: m.run_padded(loaded(nn.LSTMCell(3, 4), cell), x, lengths, (h, c)))
        check_close(outputs, y, 1e-4, "The outputs")
        for got, want, name in zip(state, (h_n[0], c_n[0]), "hc", strict=True):
            check_close(got, want, 1e-4, f"The last {name}")

    def test_the_longest_may_be_shorter_than_the_padding(self, agree, draw):
        """The outputs have T steps, also where no sequence is that long."""
        u, w, x, h, lengths = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 9, 3), draw.normal(5, 4), draw.integers(1, 5, 5)
        agree(lambda m: m.run_padded(plain_cell(u, w), x, lengths, h), rtol=1e-4, atol=1e-5)

    def test_lengths_of_zero(self, agree, draw):
        """An empty sequence keeps the state that it was given, and all of them may be empty."""
        u, w, x, h = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 7, 3), draw.normal(5, 4)
        some, none = torch.tensor([0, 5, 0, 7, 2])[draw.permutation(5)], torch.zeros(5, dtype=torch.int64)

        def probe(m):
            parts = m.run_padded(lambda x, s: (plain_cell(u, w)(x, s[0]), s[1] + x), x, some, (h, x[:, 0]))
            return [m.run_padded(plain_cell(u, w), x, lengths, h) for lengths in (some, none)], parts

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_padding_does_not_matter(self, agree, draw):
        """NaN and inf in the padding reach no output and no state."""
        u, w, h, lengths = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 4), draw.integers(0, 8, 5)
        x = draw.poisoned(draw.normal(5, 7, 3), padding(lengths, 7)[..., None])

        def probe(m):
            return m.run_padded(plain_cell(u, w), x, lengths, h), m.run_padded(three_part_cell(u, w), x, lengths, (h, h[:, :3], h[:, :1]))

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_gradients(self, agree, draw):
        """The cell's weights, the real steps of x and the first state get their gradients; NaN in the padding spoils none."""
        u, w, h = (draw.normal(*shape, dtype=F64) for shape in ((3, 4), (4, 4), (5, 4)))
        lengths = torch.tensor([0, 7, 1, 4, 6])[draw.permutation(5)]
        x = draw.poisoned(draw.normal(5, 7, 3, dtype=F64), padding(lengths, 7)[..., None])
        a, b = draw.normal(5, 7, 4, dtype=F64), draw.normal(5, 4, dtype=F64)

        def probe(m):
            leaves = [leaf(i) for i in (u, w, x, h)]
            y, last = m.run_padded(plain_cell(*leaves[:2]), leaves[2], lengths, leaves[3])
            return torch.autograd.grad((y * a).sum() + (last * b).sum(), leaves), y.detach()

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sequence, one step, one input or one unit."""
        inputs = [
            (draw.normal(D, H), draw.normal(H, H), draw.normal(B, T, D), draw.integers(1, T + 1, B), draw.normal(B, H))
            for B, T, D, H in with_ones(5, 7, 3, 4)
        ]
        agree(lambda m: [m.run_padded(plain_cell(u, w), x, lengths, h) for u, w, x, lengths, h in inputs], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Inputs, lengths and state may lie in memory in any way, and the sequences be long."""
        u, w, x, h = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 67, 3, layout=layout), draw.normal(5, 4, layout=layout)
        lengths = draw.integers(0, 68, 5, layout="contiguous" if layout == "transposed" else layout)
        agree(lambda m: m.run_padded(plain_cell(u, w), x, lengths, h), rtol=1e-3, atol=1e-3)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        u, w, x, h = (draw.normal(*shape, dtype=F64) for shape in ((3, 4), (4, 4), (5, 7, 3), (5, 4)))
        lengths = draw.integers(0, 8, 5)
        agree(lambda m: m.run_padded(plain_cell(u, w), x, lengths, h), rtol=1e-10, atol=1e-11)

    def test_impossible_lengths(self, agree, draw):
        """A length that is negative or larger than T is a ValueError; T itself is fine."""
        u, w, x, h = draw.normal(3, 4), draw.normal(4, 4), draw.normal(5, 7, 3), draw.normal(5, 4)
        wrong = [torch.tensor(lengths) for lengths in ([1, 2, 8, 3, 4], [1, -1, 2, 3, 4], [7, 7, 7, 7, 70], [-1] * 5, [0, 0, 0, 0, -9])]

        def probe(m):
            outcomes = [raised(ValueError, lambda n=n: m.run_padded(plain_cell(u, w), x, n, h)) for n in wrong]
            return outcomes, m.run_padded(plain_cell(u, w), x, torch.tensor([7, 0, 7, 7, 7]), h)

        agree(probe, rtol=1e-2, atol=1e-2)


# BiLSTM


@task("BiLSTM")
class TestBiLSTM:
    def test_values(self, agree, draw):
        """With given weights, output, h_n and c_n are right."""
        state, x = weights(draw, bilstm_shapes(5, 3)), draw.normal(2, 6, 5)
        agree(lambda m: loaded(m.BiLSTM(5, 3), state)(x), rtol=1e-4, atol=1e-5)

    def test_lengths(self, agree, draw):
        """With lengths, each sequence is read as if it stood alone, backward from its own end; outputs beyond it are 0."""
        state, x = weights(draw, bilstm_shapes(5, 3)), draw.normal(4, 6, 5)
        lengths = torch.tensor([2, 6, 1, 4])[draw.permutation(4)]
        agree(lambda m: loaded(m.BiLSTM(5, 3), state)(x, lengths), rtol=1e-4, atol=1e-5)

    def test_numbers_of_torch(self, student, draw):
        """With the weights of an nn.LSTM, its output, h_n and c_n come out, in its order."""
        state, x = weights(draw, bilstm_shapes(5, 3)), draw.normal(2, 6, 5)
        theirs = loaded(nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True), state)
        with torch.no_grad():
            y, last = theirs(x)
        output, final = student(lambda m: loaded(m.BiLSTM(5, 3), state)(x))
        check_close(output, y, 1e-4, "The output")
        for got, want, name in zip(final, last, ("h_n", "c_n"), strict=True):
            check_close(got, want, 1e-4, name)

    def test_numbers_of_packed_sequences(self, student, draw):
        """With lengths, the numbers are those of nn.LSTM on packed sequences, T steps long."""
        state, x = weights(draw, bilstm_shapes(5, 3)), draw.normal(4, 8, 5)
        lengths = torch.tensor([2, 6, 1, 4])[draw.permutation(4)]
        y, last = packed(loaded(nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True), state), x, lengths)
        output, final = student(lambda m: loaded(m.BiLSTM(5, 3), state)(x, lengths))
        check_close(output, y, 1e-4, "The output")
        for got, want, name in zip(final, last, ("h_n", "c_n"), strict=True):
            check_close(got, want, 1e-4, name)

    def test_gradients(self, agree, draw):
        """Every parameter and every real step of x gets its gradient; NaN in the padding spoils none."""
        state, lengths = weights(draw, bilstm_shapes(5, 3), F64), torch.tensor([2, 5, 1])[draw.permutation(3)]
        x = draw.poisoned(draw.normal(3, 6, 5, dtype=F64), padding(lengths, 6)[..., None])
        a, b, c = draw.normal(3, 6, 6, dtype=F64), draw.normal(4, 3, 3, dtype=F64), draw.normal(4, 3, 3, dtype=F64)

        def probe(m):
            model, inputs = loaded(m.BiLSTM(5, 3), state), leaf(x)
            y, (h_n, c_n) = model(inputs, lengths)
            ((y * a).sum() + (h_n * b).sum() + (c_n * c).sum()).backward()
            return y.detach(), gradients(model), inputs.grad

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_padding_does_not_matter(self, agree, draw):
        """NaN and inf in the padding reach nothing."""
        state, lengths = weights(draw, bilstm_shapes(5, 3)), torch.tensor([2, 6, 1, 4])[draw.permutation(4)]
        x = draw.poisoned(draw.normal(4, 7, 5), padding(lengths, 7)[..., None])
        agree(lambda m: loaded(m.BiLSTM(5, 3), state)(x, lengths), rtol=1e-4, atol=1e-5)

    def test_evaluation(self, agree, draw):
        """Without gradients and in eval mode the numbers are the same, and a call remembers nothing of the one before."""
        state, x, y = weights(draw, bilstm_shapes(5, 3)), draw.normal(2, 6, 5), draw.normal(3, 4, 5)

        def probe(m):
            model = loaded(m.BiLSTM(5, 3), state).eval()
            with torch.no_grad():
                return model(x), model(y), model(x)

        agree(probe, rtol=1e-4, atol=1e-5)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """Names and shapes are those of nn.LSTM, all are trained, and the state_dict holds nothing else."""
        D, H = draw.integer(2, 60), draw.integer(2, 60)
        agree(lambda m: parameters(m.BiLSTM(D, H)), rtol=0, atol=0)

    def test_start_values(self, student, draw):
        """All sixteen start uniform in ±1/√H, each with numbers of its own."""
        seed, D, H = draw.seed(), draw.integer(20, 50), draw.integer(40, 60)

        def probe(m):
            torch.manual_seed(seed)
            return [{name: p.detach() for name, p in m.BiLSTM(D, H).named_parameters()} for _ in range(2)]

        start, other = student(probe)
        check_start(start, bilstm_shapes(D, H), 1 / math.sqrt(H))
        check_drawn_singly(torch.stack([start["weight_ih_l0"], other["weight_ih_l0"]]), "In two modules, weight_ih_l0")

    @measured("flags")
    def test_weights_that_change(self, agree, draw):
        """Weights that are loaded or updated later count at once, and the parameters stay the same objects."""
        states, x = [weights(draw, bilstm_shapes(5, 3)) for _ in range(2)], draw.normal(2, 4, 5)
        lengths = torch.tensor([2, 4])
        agree(lambda m: changing(m.BiLSTM(5, 3), states, lambda model: [model(x), model(x, lengths)]), rtol=1e-4, atol=1e-4)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sequence, one step, one input or one unit, and no axis gets lost."""
        inputs = [
            (D, H, weights(draw, bilstm_shapes(D, H)), draw.normal(B, T, D), draw.integers(1, T + 1, B))
            for B, T, D, H in with_ones(2, 6, 5, 3)
        ]

        def probe(m):
            models = [loaded(m.BiLSTM(D, H), state) for D, H, state, _, _ in inputs]
            return [(model(x), model(x, lengths)) for model, (_, _, _, x, lengths) in zip(models, inputs, strict=True)]

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """X and lengths may lie in memory in any way."""
        state, x = weights(draw, bilstm_shapes(5, 3)), draw.normal(4, 13, 5, layout=layout)
        lengths = draw.integers(1, 14, 4, layout="contiguous" if layout == "transposed" else layout)
        agree(lambda m: loaded(m.BiLSTM(5, 3), state)(x, lengths), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64, with lengths and without."""
        state, x, lengths = weights(draw, bilstm_shapes(5, 3), F64), draw.normal(3, 6, 5, dtype=F64), draw.integers(1, 7, 3)

        def probe(m):
            model = loaded(m.BiLSTM(5, 3), state)
            return model(x), model(x, lengths)

        agree(probe, rtol=1e-10, atol=1e-11)


# truncated_bptt


class Reader(nn.Module):
    """A language model with an nn.GRU or nn.LSTM in it; its state begins at None, as theirs does."""

    def __init__(self, kind, vocabulary, width):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.core = getattr(nn, kind)(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids, state):
        states, state = self.core(self.embed(ids), state)
        return self.head(states), state


class Counter(nn.Module):
    """A model with a state of one tensor in a tuple, which needs every window's state, and every step's in order."""

    def __init__(self, kind, vocabulary, width):
        super().__init__()
        self.embed, self.decay = nn.Embedding(vocabulary, vocabulary), nn.Parameter(torch.tensor(0.7))

    def forward(self, ids, state):
        first = self.embed.weight.new_zeros(len(ids), self.embed.embedding_dim) if state is None else state[0]
        totals = list(itertools.accumulate(self.embed(ids).unbind(1), lambda total, x: self.decay * total + x, initial=first))
        return torch.stack(totals[1:], 1), (totals[-1],)


def reader_weights(draw, kind, V=6, d=4):
    """Weights in float64, of a size that lets the state matter."""
    gates = {"GRU": 3, "LSTM": 4}[kind]
    core = {f"core.{name}_l0": value for name, value in cell_weights(draw, gates, d, d, F64).items()}
    return {"embed.weight": draw.normal(V, d, dtype=F64)} | core | weights(draw, {"head.weight": (V, d), "head.bias": (V,)}, F64)


def trained(m, make, state, tokens, window, optimizer=torch.optim.SGD, **settings):
    """The loss that truncated_bptt returns, and the weights that it leaves."""
    model = loaded(make(), state)
    settings = settings or {"lr": 0.5}
    loss = m.truncated_bptt(model, tokens, window, optimizer(model.parameters(), **settings))
    return loss, {name: p.detach() for name, p in model.named_parameters()}


@task("truncated_bptt")
class TestTruncatedBptt:
    @pytest.mark.parametrize("kind", ["GRU", "LSTM"])
    @pytest.mark.parametrize("window", [1, 3, 4])
    def test_windows(self, agree, draw, kind, window):
        """Loss and weights are right for windows that divide the text: gradients end at a window's start, and the state goes on."""
        state, tokens = reader_weights(draw, kind), draw.integers(0, 6, 3, 13)
        agree(lambda m: trained(m, lambda: Reader(kind, 6, 4), state, tokens, window), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("window", [5, 7, 11])
    def test_a_shorter_last_window(self, agree, draw, window):
        """The last window may be shorter: it makes a step of its own, and counts in the loss for as many tokens as it has."""
        state, tokens = reader_weights(draw, "GRU"), draw.integers(0, 6, 2, 13)
        agree(lambda m: trained(m, lambda: Reader("GRU", 6, 4), state, tokens, window), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("window", [6, 7, 100])
    def test_one_window(self, agree, draw, window):
        """A window as long as the text, or longer, makes one step over all of it."""
        state, tokens = reader_weights(draw, "LSTM"), draw.integers(0, 6, 2, 7)
        agree(lambda m: trained(m, lambda: Reader("LSTM", 6, 4), state, tokens, window), rtol=1e-6, atol=1e-8)

    def test_a_tuple_of_one(self, agree, draw):
        """A state may be a tuple with one tensor in it, and the model one without any layer of torch's."""
        state, tokens = (
            {"embed.weight": draw.normal(6, 6, dtype=F64), "decay": draw.uniform(low=0.4, high=0.9, dtype=F64)},
            draw.integers(0, 6, 3, 12),
        )
        agree(lambda m: trained(m, lambda: Counter("", 6, 6), state, tokens, 4), rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
    def test_any_optimizer(self, agree, draw, optimizer):
        """The optimizer is used as it is: momentum and Adam's averages see each window's gradient once."""
        state, tokens = reader_weights(draw, "GRU"), draw.integers(0, 6, 3, 12)
        settings = {"lr": 0.1} | ({"momentum": 0.9, "weight_decay": 0.1} if optimizer is torch.optim.SGD else {})
        agree(lambda m: trained(m, lambda: Reader("GRU", 6, 4), state, tokens, 4, optimizer, **settings), rtol=1e-5, atol=1e-7)

    def test_gradients_from_before(self, agree, draw):
        """Gradients that are there before the call count for nothing, and neither do those of the window before."""
        state, tokens, g = reader_weights(draw, "GRU"), draw.integers(0, 6, 3, 9), draw.normal(6, 4, dtype=F64)

        def probe(m):
            model = loaded(Reader("GRU", 6, 4), state)
            model.embed.weight.grad = g.clone()
            model.head.weight.grad = 10 * g.clone()
            loss = m.truncated_bptt(model, tokens, 4, torch.optim.SGD(model.parameters(), lr=0.5))
            return loss, [p.detach() for p in model.parameters()]

        agree(probe, rtol=1e-6, atol=1e-8)

    def test_some_parameters_are_frozen(self, agree, draw):
        """Only what the optimizer holds is moved."""
        state, tokens = reader_weights(draw, "GRU"), draw.integers(0, 6, 3, 9)

        def probe(m):
            model = loaded(Reader("GRU", 6, 4), state)
            model.embed.requires_grad_(False)
            loss = m.truncated_bptt(model, tokens, 4, torch.optim.SGD(model.core.parameters(), lr=0.5))
            return loss, [p.detach() for p in model.parameters()]

        agree(probe, rtol=1e-6, atol=1e-8)

    def test_two_calls(self, agree, draw):
        """A second call begins with a state of None again."""
        state, texts = reader_weights(draw, "LSTM"), [draw.integers(0, 6, 3, 9), draw.integers(0, 6, 2, 6)]

        def probe(m):
            model = loaded(Reader("LSTM", 6, 4), state)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            losses = [m.truncated_bptt(model, tokens, 4, optimizer) for tokens in texts]
            return losses, [p.detach() for p in model.parameters()]

        agree(probe, rtol=1e-6, atol=1e-8)

    @measured("flags")
    @pytest.mark.parametrize("training", [True, False])
    def test_mode_is_left_alone(self, agree, draw, training):
        """The model is trained in the mode that it is in: dropout that is off stays off."""
        state, tokens = reader_weights(draw, "GRU"), draw.integers(0, 6, 3, 9)

        def probe(m):
            model = loaded(Reader("GRU", 6, 4), state).train(training)
            model.embed.train(not training)
            loss = m.truncated_bptt(model, tokens, 4, torch.optim.SGD(model.parameters(), lr=0.5))
            return loss, [part.training for part in model.modules()]

        agree(probe, rtol=1e-6, atol=1e-8)

    def test_sizes_of_one(self, agree, draw):
        """There may be one text, or one position, whatever the vocabulary."""
        inputs = [(reader_weights(draw, "GRU", V), draw.integers(0, V, B, N + 1), V) for B, N, V in with_ones(3, 5, 7)]
        agree(
            lambda m: [trained(m, lambda V=V: Reader("GRU", V, 4), state, tokens, 2) for state, tokens, V in inputs[:3]],
            rtol=1e-6,
            atol=1e-8,
        )

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The tokens may lie in memory in any way."""
        state, tokens = reader_weights(draw, "GRU"), draw.integers(0, 6, 5, 24, layout=layout)
        agree(lambda m: trained(m, lambda: Reader("GRU", 6, 4), state, tokens, 7), rtol=1e-6, atol=1e-8)

    def test_windows_of_nothing(self, agree, draw):
        """A window below 1 is a ValueError, and nothing is trained."""
        state, tokens = reader_weights(draw, "GRU"), draw.integers(0, 6, 3, 9)

        def probe(m):
            model = loaded(Reader("GRU", 6, 4), state)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            outcomes = [raised(ValueError, lambda w=w: m.truncated_bptt(model, tokens, w, optimizer)) for w in (0, -1, -7)]
            return outcomes, m.truncated_bptt(model, tokens, 4, optimizer), model.head.weight.detach()

        agree(probe, rtol=1e-2, atol=1e-2)


# attention_decoder_step


def decoder_inputs(draw, B=3, D=2, H=4, S=7, M=5, A=6, dtype=torch.float32, layout="contiguous"):
    """x, h, memory, mask, w_query, w_memory, v, and the two matrices of a cell."""
    shapes = ((B, D), (B, H), (B, S, M), (A, H), (A, M), (A,), (D + M, H), (H, H))
    x, h, memory, wq, wm, v, u, w = (
        draw.normal(*shape, dtype=dtype, layout=layout if len(shape) > 1 else "contiguous") for shape in shapes
    )
    mask = draw.bools(B, S, p=0.6) | (draw.normal(B, S).argsort(1) == 0)
    return (x, h, memory, mask, wq, wm, v), (u, w)


@task("attention_decoder_step")
class TestAttentionDecoderStep:
    def test_values(self, agree, draw):
        """State, context and weights are right, with some positions hidden."""
        inputs, (u, w) = decoder_inputs(draw)
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), *inputs), rtol=1e-4, atol=1e-5)

    def test_nothing_hidden(self, agree, draw):
        """With all positions real, every one gets a weight."""
        (x, h, memory, mask, *rest), (u, w) = decoder_inputs(draw)
        real = torch.ones_like(mask)
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), x, h, memory, real, *rest), rtol=1e-4, atol=1e-5)

    def test_one_real_position(self, agree, draw):
        """A single real position gets the weight 1, and is the context."""
        (x, h, memory, _, *rest), (u, w) = decoder_inputs(draw)
        single = torch.arange(7) == draw.integers(0, 7, 3)[:, None]
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), x, h, memory, single, *rest), rtol=1e-4, atol=1e-5)

    def test_a_cell_of_torch(self, agree, draw):
        """The cell may be an nn.GRUCell; it gets x first, then the context."""
        inputs, _ = decoder_inputs(draw)
        state = cell_weights(draw, 3, 2 + 5, 4)
        agree(lambda m: m.attention_decoder_step(loaded(nn.GRUCell(7, 4), state), *inputs), rtol=1e-4, atol=1e-5)

    def test_several_steps(self, agree, draw):
        """Step after step, the query is the state before the step."""
        (_, h, memory, *rest), (u, w) = decoder_inputs(draw)
        xs = draw.normal(4, 3, 2)

        def probe(m):
            state, out = h, []
            for x in xs:
                state, context, a = m.attention_decoder_step(plain_cell(u, w), x, state, memory, *rest)
                out.append((state, context, a))
            return out

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_hidden_positions_do_not_matter(self, agree, draw):
        """NaN and inf at hidden positions reach nothing."""
        (x, h, memory, mask, *rest), (u, w) = decoder_inputs(draw)
        memory = draw.poisoned(memory, ~mask[..., None])
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), x, h, memory, mask, *rest), rtol=1e-4, atol=1e-5)

    def test_gradients(self, agree, draw):
        """All arguments and the cell's weights get their gradients, through all three results; NaN at hidden positions spoils none."""
        (x, h, memory, mask, *rest), uw = decoder_inputs(draw, dtype=F64)
        memory = draw.poisoned(memory, ~mask[..., None])
        a, b, c = draw.normal(3, 4, dtype=F64), draw.normal(3, 5, dtype=F64), draw.normal(3, 7, dtype=F64)

        def probe(m):
            x_, h_, memory_, *others = leaves = [leaf(i) for i in (x, h, memory, *rest, *uw)]
            out = m.attention_decoder_step(plain_cell(*others[3:]), x_, h_, memory_, mask, *others[:3])
            total = sum((y * w).sum() for y, w in zip(out, (a, b, c), strict=True))
            return torch.autograd.grad(total, leaves), [y.detach() for y in out]

        agree(probe, rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_large_scores(self, agree, draw, sign):
        """Where the scores that count are around 1e4 or -1e4, hidden ones of the other sign still get nothing."""
        (x, h, memory, mask, *_), (u, w) = decoder_inputs(draw, M=2, A=4, dtype=F64)
        memory = torch.stack((torch.where(mask, 20.0, -20.0).double() * sign, memory[..., 1]), dim=-1)
        w_memory, w_query = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]], dtype=F64), torch.zeros(4, 4, dtype=F64)
        v = torch.tensor([3333.0, 3333.0, 3333.0, 1.0], dtype=F64)
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), x, h, memory, mask, w_query, w_memory, v), rtol=1e-6, atol=1e-8)

    def test_far_apart_scores(self, agree, draw):
        """Scores that differ by thousands give weights of 0 and 1, and no NaN."""
        (x, h, memory, mask, wq, wm, v), (u, w) = decoder_inputs(draw, dtype=F64)
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), x, h, memory, mask, wq, wm, 1000 * v), rtol=1e-6, atol=1e-8)

    def test_sizes_of_one(self, agree, draw):
        """Every size may be 1, and no axis gets lost."""
        cases = [decoder_inputs(draw, *sizes) for sizes in with_ones(3, 2, 4, 7, 5, 6)]
        agree(lambda m: [m.attention_decoder_step(plain_cell(*uw), *inputs) for inputs, uw in cases], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way."""
        (x, h, memory, _, *rest), (u, w) = decoder_inputs(draw, S=23, layout=layout)
        mask = draw.bools(3, 23, p=0.9, layout=layout)
        mask = mask if mask.any(1).all() else torch.ones_like(mask)
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), x, h, memory, mask, *rest), rtol=1e-4, atol=1e-5)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        inputs, (u, w) = decoder_inputs(draw, dtype=F64)
        agree(lambda m: m.attention_decoder_step(plain_cell(u, w), *inputs), rtol=1e-10, atol=1e-11)


# beam_search


def language(table):
    """Log-probabilities that depend on the whole prefix, from the rows of a table (M, V)."""
    return lambda prefixes: table[(prefixes * (3 ** torch.arange(prefixes.shape[1])) + 5 * prefixes.shape[1]).sum(1) % len(table)]


def log_table(draw, V, rows=97):
    """Log-probabilities of V tokens, in float64."""
    return draw.normal(rows, V, dtype=F64).mul(2).log_softmax(1)


def dyadic(draw, V, rows=97):
    """Log-probabilities with many ties, whose sums are exact in any precision."""
    return -draw.integers(1, 4, rows, V).double() / 4


@task("beam_search")
class TestBeamSearch:
    @pytest.mark.parametrize("beam_size", [1, 2, 3, 7])
    def test_values(self, agree, draw, beam_size):
        """All finished texts come back with their sums, best first."""
        table, bos, eos = log_table(draw, 5), draw.integer(0, 5), draw.integer(0, 5)
        agree(lambda m: m.beam_search(language(table), bos, eos, beam_size, 6), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("alpha", [0, 0.6, 1.0, 2.0])
    def test_length_penalty(self, agree, draw, alpha):
        """The score is the sum over n to the power of α: it orders the answer, but it doesn't decide who stays."""
        table, eos = log_table(draw, 4), draw.integer(0, 4)
        agree(lambda m: m.beam_search(language(table), 1, eos, 3, 7, alpha=alpha), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("alpha", [0.0, 0.8])
    def test_a_wide_beam_is_brute_force(self, student, draw, alpha):
        """A beam as wide as there are texts finds all of them, in the order of their scores."""
        table, V, T, bos, eos = log_table(draw, 3), 3, 4, draw.integer(0, 3), draw.integer(0, 3)
        model, want = language(table), []
        for n in range(1, T + 1):
            for text in itertools.product(range(V), repeat=n):
                if eos in text[:-1] or (n < T and text[-1] != eos):
                    continue
                prefixes = [[bos, *text[:i]] for i in range(n)]
                total = sum(model(torch.tensor([prefix]))[0, token].item() for prefix, token in zip(prefixes, text, strict=True))
                want.append((list(text), total / n**alpha))
        want.sort(key=lambda pair: -pair[1])
        got = student(lambda m: m.beam_search(language(table), bos, eos, V**T, T, alpha=alpha), within=(0, 2))
        assert isinstance(got, list) and len(got) == len(want), f"There are {len(want)} texts of at most {T} tokens."
        for (tokens, score), (due_tokens, due) in zip(got, want, strict=True):
            assert tokens == due_tokens, f"The texts must come in the order of their scores: {due_tokens} is due where {tokens} is."
            assert abs(score - due) < 1e-5, f"{tokens} must have the score {due:.5f}, not {score:.5f}."

    def test_one_prefix_is_greedy(self, student, draw):
        """With a beam of 1, the one text that comes back takes the likeliest token each time, until eos."""
        table, bos, eos = log_table(draw, 6), draw.integer(0, 6), draw.integer(0, 6)
        model, text, total = language(table), [bos], 0.0
        while len(text) <= 9 and (len(text) == 1 or text[-1] != eos):
            row = model(torch.tensor([text]))[0]
            text.append(int(row.argmax()))
            total += row.max().item()
        got = student(lambda m: m.beam_search(language(table), bos, eos, 1, 9), within=(0, 5))
        assert isinstance(got, list) and len(got) == 1, "A beam of 1 finishes one text."
        assert got[0][0] == text[1:], f"Greedy search gives {text[1:]}, not {got[0][0]}."
        assert abs(got[0][1] - total) < 1e-5, f"Its score is {total:.5f}, not {got[0][1]:.5f}."

    @pytest.mark.parametrize("beam_size", [2, 5, 11])
    def test_ties(self, agree, draw, beam_size):
        """Equal sums and scores keep the stated order."""
        table, eos = dyadic(draw, 4), draw.integer(0, 4)
        agree(lambda m: [m.beam_search(language(table), 2, eos, beam_size, 5, alpha=alpha) for alpha in (0.0, 1.0)], rtol=1e-5, atol=1e-5)

    def test_finished_texts_leave(self, agree, draw):
        """Where eos is likely, texts finish early, leave the beam, and give their places to others; the search ends when none is left."""
        table, rare = log_table(draw, 4), log_table(draw, 4)
        table[:, 2] += 4
        rare[:, 2] -= 9
        table, rare = table.log_softmax(1), rare.log_softmax(1)
        agree(lambda m: [m.beam_search(language(t), 0, 2, k, 8) for t in (table, rare) for k in (1, 2, 4)], rtol=1e-5, atol=1e-5)

    def test_bos_may_be_eos(self, agree, draw):
        """Where bos is eos, the first prefix is not finished by it."""
        table, token = log_table(draw, 5), draw.integer(0, 5)
        agree(lambda m: m.beam_search(language(table), token, token, 3, 6), rtol=1e-5, atol=1e-5)

    def test_one_token(self, agree, draw):
        """With max_length 1 the tokens of the first round come back, without bos, whether eos is there or not."""
        table, bos, eos = log_table(draw, 7), draw.integer(0, 7), draw.integer(0, 7)
        agree(lambda m: [m.beam_search(language(table), bos, eos, k, 1, alpha=1.0) for k in (1, 3, 7, 20)], rtol=1e-5, atol=1e-5)

    def test_a_large_vocabulary(self, agree, draw):
        """Hundreds of tokens, long texts, and a vocabulary of one."""
        table, single = log_table(draw, 301, rows=31), log_table(draw, 1) - draw.uniform(97, 1, dtype=F64)
        tokens = draw.integer(0, 301), draw.integer(0, 301)
        agree(lambda m: (m.beam_search(language(table), *tokens, 4, 17), m.beam_search(language(single), 0, 5, 3, 4)), rtol=1e-5, atol=1e-5)

    def test_very_unlikely_texts(self, agree, draw):
        """Log-probabilities may be far below those that exp can tell from 0, and scores are still sums."""
        table = 1000 * log_table(draw, 4)
        agree(lambda m: m.beam_search(language(table), 0, 3, 3, 5, alpha=0.5), rtol=1e-5, atol=1e-5)

    def test_single_precision_with_gradients(self, agree, draw):
        """log_probs may give float32 that requires gradients, as a model does; scores are floats all the same."""
        table = dyadic(draw, 4).float() + draw.integers(0, 64, 97, 4) / 64.0

        def probe(m):
            return m.beam_search(language(leaf(table)), 0, 3, 3, 5)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_impossible_sizes(self, agree, draw):
        """A beam_size or max_length below 1 is a ValueError."""
        table = log_table(draw, 4)

        def probe(m):
            wrong = [
                raised(ValueError, lambda s=s: m.beam_search(language(table), 0, 3, *s)) for s in ((0, 5), (-1, 5), (3, 0), (3, -2), (0, 0))
            ]
            return wrong, m.beam_search(language(table), 0, 3, 1, 1)

        agree(probe, rtol=1e-2, atol=1e-2)


def scan_inputs(draw, S=2, T=7, d=3, n=5, dtype=F64, layout="contiguous"):
    """All that a selective scan gets: x, delta, A, B, C, D and h0."""
    x, delta = draw.normal(S, T, d, dtype=dtype, layout=layout), draw.uniform(S, T, d, dtype=dtype, layout=layout)
    A = -draw.uniform(d, n, high=2.0, dtype=dtype, layout=layout)
    B, C = draw.normal(S, T, n, dtype=dtype, layout=layout), draw.normal(S, T, n, dtype=dtype, layout=layout)
    return x, delta, A, B, C, draw.normal(d, dtype=dtype), draw.normal(S, d, n, dtype=dtype, layout=layout)


@task("selective_scan")
class TestSelectiveScan:
    @pytest.mark.parametrize("steps", [1, 2, 9])
    def test_values(self, agree, draw, steps):
        """From a state of zeros, each step decays the state, lets the input in, and shows it; the last state comes back, too."""
        inputs = scan_inputs(draw, T=steps)[:5]
        agree(lambda m: m.selective_scan(*inputs), rtol=1e-6, atol=1e-8)

    def test_input_shown_directly(self, agree, draw):
        """D adds the input of each channel to the outputs, and changes no state."""
        x, delta, A, B, C, D, h0 = scan_inputs(draw)
        agree(lambda m: [m.selective_scan(x, delta, A, B, C, D), m.selective_scan(x, delta, A, B, C, D * 0, h0)], rtol=1e-6, atol=1e-8)

    def test_first_state(self, agree, draw):
        """The scan starts from h0, with D and without."""
        *inputs, D, h0 = scan_inputs(draw)
        agree(lambda m: [m.selective_scan(*inputs, h0=h0), m.selective_scan(*inputs, D, h0)], rtol=1e-6, atol=1e-8)

    def test_large_steps(self, agree, draw):
        """The decay is exact, exp(ΔA), and the input's share is Δ · B: with large steps other rules give other numbers."""
        x, delta, A, B, C, D, h0 = scan_inputs(draw)
        delta = 2 * delta + 0.5
        agree(lambda m: m.selective_scan(x, delta, A, B, C, D, h0), rtol=1e-6, atol=1e-8)

    def test_pieces(self, student, reference, draw):
        """A text in pieces, each with the state after the one before, gives what one pass gives."""
        x, delta, A, B, C, D, h0 = scan_inputs(draw, T=11)
        cut, other = draw.integer(1, 5), draw.integer(6, 11)

        def probe(m):
            h, outputs = h0, []
            for piece in (slice(0, cut), slice(cut, other), slice(other, 11)):
                y, h = m.selective_scan(x[:, piece], delta[:, piece], A, B[:, piece], C[:, piece], D, h)
                outputs.append(y)
            return torch.cat(outputs, dim=1), h

        got, want = student(probe), reference(lambda m: m.selective_scan(x, delta, A, B, C, D, h0))
        for one, due, what in zip(got, want, ("outputs", "last state"), strict=True):
            error = (one - due).abs().max().item()
            assert error < 1e-8, f"The {what} must be those of one pass; they differ by up to {error:.3g}."

    def test_steps_of_zero(self, agree, draw):
        """A step of 0 leaves the state as it was, whatever the input is; the state is still shown."""
        x, delta, A, B, C, D, h0 = scan_inputs(draw, S=3)
        delta = delta * (torch.arange(7) < torch.tensor([[4], [7], [0]]))[..., None]
        agree(lambda m: m.selective_scan(x, delta, A, B, C, D, h0), rtol=1e-6, atol=1e-8)

    def test_no_decay(self, agree, draw):
        """Where A is 0 nothing decays: the state adds up all that comes in."""
        x, delta, A, B, C, D, h0 = scan_inputs(draw)
        A = A * draw.bools(3, 1)
        agree(lambda m: [m.selective_scan(x, delta, decay, B, C, D, h0) for decay in (A, A * 0)], rtol=1e-6, atol=1e-8)

    def test_strong_decay(self, agree, draw):
        """Hundreds of steps that decay to nothing or hardly at all neither overflow nor turn NaN, on the way back neither."""
        x, delta, A, B, C, D, h0 = scan_inputs(draw, S=1, T=200, d=2, n=3)
        delta, A, w = delta * 30, A * torch.tensor([[1e-4, 1.0, 100.0], [1.0, 30.0, 1e-3]]), draw.normal(1, 200, 2, dtype=F64)
        delta[:, ::7] = 0.0

        def probe(m):
            inputs = [leaf(each) for each in (x, delta, A, B, C)]
            y, h = m.selective_scan(*inputs, D, h0)
            (y * w).sum().backward()
            return y.detach(), h.detach(), [each.grad for each in inputs]

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_gradients(self, agree, draw):
        """Outputs and the last state have their gradients with respect to everything, D and h0 too."""
        inputs, w, u = scan_inputs(draw), draw.normal(2, 7, 3, dtype=F64), draw.normal(2, 3, 5, dtype=F64)

        def probe(m):
            leaves = [leaf(each) for each in inputs]
            y, h = m.selective_scan(*leaves)
            ((y * w).sum() + (h * u).sum()).backward()
            return [each.grad for each in leaves]

        agree(probe, rtol=1e-6, atol=1e-8)

    def test_single_precision(self, agree, draw):
        """float32 in, float32 out."""
        inputs = scan_inputs(draw, S=3, T=40, dtype=torch.float32)
        agree(lambda m: [m.selective_scan(*inputs), m.selective_scan(*inputs[:5])], rtol=1e-4, atol=1e-4)

    def test_sizes_of_one(self, agree, draw):
        """Sequences, steps, channels and numbers of a state may be 1, and nothing loses a dimension."""
        inputs = [scan_inputs(draw, *shape) for shape in with_ones(2, 4, 3, 5)]
        agree(lambda m: [m.selective_scan(*each) for each in inputs], rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All inputs may lie in memory in any way."""
        inputs = scan_inputs(draw, S=3, layout=layout)
        agree(lambda m: m.selective_scan(*inputs), rtol=1e-6, atol=1e-8)

    def test_states_must_fit(self, agree, draw):
        """A first state that is not (S, d, n) is a ValueError: it is not stretched."""
        *inputs, D, h0 = scan_inputs(draw)

        def probe(m):
            wrong = [raised(ValueError, lambda h=h: m.selective_scan(*inputs, D, h)) for h in (h0[:1], h0[0], h0.mT, h0[..., :1])]
            return wrong, m.selective_scan(*inputs, D, h0)

        agree(probe, rtol=1e-3, atol=1e-3)


# train_char_gru


def char_gru(V):
    """The network of the statement."""
    return nn.ModuleDict({"embed": nn.Embedding(V, 8), "gru": nn.GRU(8, 24, batch_first=True), "head": nn.Linear(24, V)})


def check_weights(state, V):
    """The network with these weights in it. Asserts that they have its names, shapes and dtypes."""
    net = char_gru(V).eval()
    want = {name: (value.shape, value.dtype) for name, value in net.state_dict().items()}
    right = isinstance(state, dict) and {name: (getattr(x, "shape", 0), getattr(x, "dtype", 0)) for name, x in state.items()} == want
    assert right, "The weights must have the names, shapes and dtypes of the statement's network."
    assert all(x.isfinite().all() for x in state.values()), "The weights must be finite."
    net.load_state_dict(state)
    return net


def random_words(draw, V):
    """Five different words of five letters of 1 … V − 1."""
    words = set()
    while len(words) < 5:
        words.add(tuple(draw.integers(1, V, 5).tolist()))
    return torch.tensor(sorted(words))


def text_of(draw, words, count):
    """Words in random order, each followed by a 0: `count` characters."""
    chosen = words[draw.integers(0, 5, count // 6)]
    return F.pad(chosen, (0, 1)).flatten()


def bits(net, text):
    """Bits per character of a text, read in pieces of 150 from a state of 0; the first word of each piece does not count."""
    pieces = text.view(-1, 150)
    with torch.no_grad():
        logits = net["head"](net["gru"](net["embed"](pieces[:, :-1]))[0])
    return F.cross_entropy(logits[:, 5:].flatten(0, 1), pieces[:, 6:].flatten()).item() / math.log(2)


def sampled(net, prompts, count, generator):
    """Characters that follow the prompts (B, n), drawn from the network: (B, count)."""
    out, state, x = [], None, prompts
    with torch.no_grad():
        for _ in range(count):
            states, state = net["gru"](net["embed"](x), state)
            x = torch.multinomial(net["head"](states[:, -1]).softmax(-1), 1, generator=generator)
            out.append(x)
    return torch.cat(out, dim=1)


@task("train_char_gru")
class TestTrainCharGru:
    def test_reads_and_writes_the_words(self, student, draw):
        """The weights predict a new text of the same words with at most 0.8 bits, and of the words sampled from them 60 % are right."""
        V, seed = draw.integer(7, 12), draw.seed()
        words = random_words(draw, V)
        text, new = text_of(draw, words, 3000), text_of(draw, words, 3000)
        net = check_weights(student(lambda m: m.train_char_gru(text, V, seed=seed), like=None), V)
        loss = bits(net, new)
        assert loss <= 0.8, f"On a new text of the same words, the weights need {loss:.2f} bits per character; at most 0.8 are asked for."
        written = sampled(net, new.view(-1, 30)[:40], 61, torch.Generator().manual_seed(draw.seed())).tolist()
        known = {tuple(word) for word in words.tolist()}
        pieces = [tuple(letters) for row in written for zero, letters in itertools.groupby(row[:-1], lambda c: c == 0) if not zero]
        share = sum(piece in known for piece in pieces) / max(len(pieces), 1)
        assert share >= 0.6, f"Of the words that are sampled from the network, {share:.0%} are among the five; 60 % are needed."

    def test_seed_decides(self, student, draw):
        """The same seed gives the same weights whatever the global state is, another seed others; for weights that have begun to learn."""
        V, seed = draw.integer(7, 12), draw.seed()
        words = random_words(draw, V)
        text, new = text_of(draw, words, 1200), text_of(draw, words, 1200)

        def probe(m):
            out = []
            for state, s, updates in (1, 0, 8), (2, 0, 8), (1, seed + 1, 8), (1, seed + 1, 0):
                torch.manual_seed(state)
                out.append({k: v.detach().clone() for k, v in m.train_char_gru(text, V, seed=s, updates=updates).items()})
            return out

        first, again, other, start = student(probe, like=None)
        before, after = (bits(check_weights(state, V), new) for state in (start, other))
        assert after < before - 0.2, (
            f"After 8 updates, {after:.2f} bits are needed, {before:.2f} before: that is too little to have learnt."
        )
        check_weights(first, V), check_weights(again, V)
        same = all(torch.allclose(first[name], again[name], rtol=1e-3, atol=1e-4) for name in first)
        assert same, "The same seed must give the same weights, whatever was drawn from global generators before."
        different = all((first[name] - other[name]).abs().max() > 1e-3 for name in first)
        assert different, "Another seed must give other weights."

    def test_start_values(self, student, draw):
        """0 updates return the start values, torch's own, for any vocabulary."""
        V, seed = draw.integer(200, 400), draw.seed()
        text = draw.integers(0, V, 50)
        state = student(lambda m: m.train_char_gru(text, V, seed=seed, updates=0), like=None)
        check_weights(state, V)
        embed = state.pop("embed.weight")
        normal = abs(embed.mean()) < 0.15 and abs(embed.std() - 1) < 0.11 and 2.5 < embed.abs().max() < 6.5
        assert normal, f"embed must start at N(0, 1), as nn.Embedding does; its deviation is {embed.std():.3f}."
        check_drawn_singly(embed, "embed")
        check_start(state, {name: tuple(x.shape) for name, x in state.items()}, 1 / math.sqrt(24))

    def test_short_texts(self, student, draw):
        """Two or three characters are enough of a text: the last follows the first."""
        V, seed = draw.integer(7, 12), draw.seed()
        texts = [draw.permutation(V)[:n] for n in (2, 3)]

        def probe(m):
            return [{k: v.detach().clone() for k, v in m.train_char_gru(text, V, seed=seed, updates=30).items()} for text in texts]

        for state, text in zip(student(probe, like=None), texts, strict=True):
            net = check_weights(state, V)
            with torch.no_grad():
                p = net["head"](net["gru"](net["embed"](text[None, :-1]))[0]).softmax(-1)[0]
            likely = p.gather(1, text[1:, None]).min().item()
            assert likely > 0.5, f"After a text of {len(text)} characters, each must be likely where it stood; one has {likely:.0%}."
