"""Examples for the module modules. Run one task's with `pytest tests/public -k LayerNorm`."""

import math

import torch
from modules import (
    MLP,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    LinearRegression,
    LogisticRegression,
    RMSNorm,
    RunningMean,
    Sequential,
    count_parameters,
    kaiming_init_,
)
from torch import nn
from torch.testing import assert_close

# Linear


def test_Linear_applies_the_map():
    """Each row of the weight gives one output: 1·1 + 2·10 + 0.5, 0·1 + 3·10 − 1, and 4·1 + 5·10 + 0."""
    layer = Linear(2, 3)
    weight = torch.tensor([[1.0, 2.0], [0.0, 3.0], [4.0, 5.0]])
    layer.load_state_dict({"weight": weight, "bias": torch.tensor([0.5, -1.0, 0.0])})
    assert_close(layer(torch.tensor([1.0, 10.0])).detach(), torch.tensor([21.5, 29.0, 54.0]))
    assert layer(torch.zeros(4, 5, 2)).shape == (4, 5, 3)


def test_Linear_starts_within_its_bounds():
    """With 4 inputs, entries lie between −½ and ½, and are not all the same."""
    weight = Linear(4, 100).weight
    assert weight.abs().max() <= 0.5
    assert weight.std() > 0.1


def test_Linear_without_bias():
    """Then the weight is all there is."""
    layer = Linear(4, 3, bias=False)
    assert layer.bias is None
    assert list(layer.state_dict()) == ["weight"]


# Sequential


def test_Sequential_runs_in_order():
    """Negation, then ReLU; and the other way round."""
    negate = nn.Linear(1, 1, bias=False)
    nn.init.constant_(negate.weight, -1.0)
    x = torch.tensor([[3.0]])
    assert Sequential(negate, nn.ReLU())(x).item() == 0
    assert Sequential(nn.ReLU(), negate)(x).item() == -3


def test_Sequential_registers_its_modules():
    """Names are numbers; append goes on counting."""
    model = Sequential(nn.Linear(2, 3), nn.ReLU())
    assert model.append(nn.Linear(3, 1, bias=False)) is model
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight"]
    assert len(model) == 3
    assert isinstance(model[1], nn.ReLU)
    assert isinstance(model[-1], nn.Linear)


# MLP


def test_MLP_applies_the_activation_between_layers():
    """Weights of 1 and biases of 0: the hidden sum −3 becomes 0 by ReLU, and stays −3 by an activation that does nothing."""
    for activation, expected in ((torch.relu, 0.0), (lambda h: h, -6.0)):
        model = MLP([2, 2, 1], activation=activation)
        for name, p in model.named_parameters():
            nn.init.constant_(p, 1.0 if name.endswith("weight") else 0.0)
        assert_close(model(torch.tensor([[-1.0, -2.0]])).detach(), torch.tensor([[expected]]))


def test_MLP_registers_every_layer():
    """Four sizes make three layers."""
    shapes = {name: tuple(p.shape) for name, p in MLP([5, 4, 3, 2]).named_parameters() if name.endswith("weight")}
    assert shapes == {"layers.0.weight": (4, 5), "layers.1.weight": (3, 4), "layers.2.weight": (2, 3)}


# Dropout


def test_Dropout_drops_and_scales():
    """With p = 0.75, ones become 0, or 4; and about a quarter of them 4."""
    y = Dropout(0.75)(torch.ones(10_000))
    assert set(y.tolist()) == {0.0, 4.0}
    assert abs(y.mean().item() - 1) < 0.15


def test_Dropout_in_eval_mode():
    """There nothing happens; in training mode, half of the entries vanish."""
    drop, x = Dropout(0.5), torch.ones(1000)
    assert (drop(x) == 0).any()
    assert_close(drop.eval()(x), x)


# LayerNorm


def test_LayerNorm_normalises_each_row():
    """1, 3, 5 have the mean 3 and the variance 8/3, whatever the other row holds."""
    y = LayerNorm(3)(torch.tensor([[1.0, 3.0, 5.0], [7.0, 7.0, 7.0]])).detach()
    step = 2 / math.sqrt(8 / 3)
    assert_close(y, torch.tensor([[-step, 0.0, step], [0.0, 0.0, 0.0]]), rtol=1e-4, atol=1e-4)


def test_LayerNorm_over_two_dimensions():
    """The mean of 0, 2, 4, 6 is 3, their variance 5."""
    norm = LayerNorm((2, 2))
    y = norm(torch.tensor([[0.0, 2.0], [4.0, 6.0]])).detach()
    assert_close(y, torch.tensor([[-3.0, -1.0], [1.0, 3.0]]) / math.sqrt(5), rtol=1e-4, atol=1e-4)
    assert norm.weight.shape == norm.bias.shape == (2, 2)


# RMSNorm


def test_RMSNorm_scales_each_row():
    """The mean of 1² and 7² is 25."""
    y = RMSNorm(2)(torch.tensor([[1.0, 7.0], [10.0, 70.0]])).detach()
    assert_close(y, torch.tensor([[0.2, 1.4], [0.2, 1.4]]), rtol=1e-4, atol=1e-4)


def test_RMSNorm_in_float16():
    """300² is no float16, but 300 is, and so is the result."""
    y = RMSNorm(2)(torch.tensor([300.0, 300.0], dtype=torch.float16)).detach()
    assert_close(y, torch.ones(2, dtype=torch.float16))


# Embedding


def test_Embedding_looks_rows_up():
    """Indices (2, 2), vectors of 3 entries: the result is (2, 2, 3)."""
    table = Embedding(4, 3)
    table.load_state_dict({"weight": torch.arange(12.0).view(4, 3)})
    y = table(torch.tensor([[0, 3], [3, 1]])).detach()
    assert y.shape == (2, 2, 3)
    assert_close(y[0, 1], torch.tensor([9.0, 10.0, 11.0]))


def test_Embedding_padding_gets_no_gradient():
    """Row 1 is looked up twice, row 2 once, and row 0 is padding."""
    table = Embedding(3, 1, padding_idx=0)
    table(torch.tensor([0, 1, 0, 2, 1])).sum().backward()
    assert_close(table.weight.grad, torch.tensor([[0.0], [2.0], [1.0]]))
    assert table.weight[0].item() == 0


# kaiming_init_


def test_kaiming_init__keeps_signals_alive():
    """Through 10 layers with ReLU, the mean square of the signal stays near 1."""
    x = torch.randn(200, 500)
    for _ in range(10):
        x = torch.relu(x @ kaiming_init_(torch.empty(500, 500)).T)
    assert 0.2 < x.square().mean().item() < 5


def test_kaiming_init__uniform_bounds():
    """fan_in is 2 · 3 · 3 = 18, so that the standard deviation is 1/3 for ReLU, and the bound √3 / 3."""
    weight = kaiming_init_(torch.zeros(200, 2, 3, 3), distribution="uniform")
    assert 0.95 * math.sqrt(3) / 3 < weight.abs().max().item() <= math.sqrt(3) / 3 + 1e-6


# LinearRegression


def test_LinearRegression_finds_a_line():
    """Points on y = 3 x − 2, with x between 0 and 19."""
    x = torch.arange(20.0)[:, None]
    model = LinearRegression(1)
    error = model.fit(x, 3 * x[:, 0] - 2)
    assert error < 1e-3
    assert_close(model(torch.tensor([[10.0]])).detach(), torch.tensor([28.0]), rtol=1e-2, atol=1e-2)


def test_LinearRegression_with_unequal_columns():
    """One column is 100 times the size of the other, and far from 0."""
    x = torch.tensor([[math.sin(i) * 0.1, math.cos(i) * 10 + 10] for i in range(60)], dtype=torch.float64)
    model = LinearRegression(2, dtype=torch.float64)
    model.fit(x, 5 * x[:, 0] - x[:, 1] + 4)
    assert_close(model.weight.detach(), torch.tensor([5.0, -1.0], dtype=torch.float64), rtol=1e-2, atol=1e-2)
    assert_close(model.bias.detach(), torch.tensor(4.0, dtype=torch.float64), rtol=1e-2, atol=1e-2)


# LogisticRegression


def test_LogisticRegression_before_training():
    """Everything is 0: each class has probability ½, and the loss is log 2."""
    model, x = LogisticRegression(3), torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    assert_close(model.probabilities(x).detach(), torch.tensor([0.5, 0.5]))
    assert model.predict(x).tolist() == [0, 0]
    loss = model.loss(x, torch.tensor([0, 1]))
    loss.backward()
    assert_close(loss.detach(), torch.tensor(math.log(2)))
    assert_close(model.weight.grad, torch.tensor([0.25, 0.5, 0.5]))  # the mean of (½ − y) · x


def test_LogisticRegression_loss_of_huge_logits():
    """A logit of 10,000 costs nothing if the class is 1, and 10,000 if it is 0."""
    model = LogisticRegression(1)
    nn.init.ones_(model.weight)
    x = torch.tensor([[10_000.0]])
    assert_close(model.loss(x, torch.tensor([1])).detach(), torch.tensor(0.0))
    assert_close(model.loss(x, torch.tensor([0])).detach(), torch.tensor(10_000.0))


# RunningMean


def test_RunningMean_counts_rows_not_batches():
    """The rows 1 and 3, then 8: their means are 2, and 4 over all three."""
    module = RunningMean(1)
    assert_close(module(torch.tensor([[1.0], [3.0]])), torch.tensor([[-1.0], [1.0]]))
    assert_close(module(torch.tensor([[8.0]])), torch.tensor([[4.0]]))
    assert_close(module.eval()(torch.tensor([[5.0]])), torch.tensor([[1.0]]))


def test_RunningMean_has_buffers():
    """Both are in state_dict(), and there is nothing to train."""
    module = RunningMean(2)
    module(torch.tensor([[1.0, 2.0]]))
    state = module.state_dict()
    assert_close(state["mean"], torch.tensor([1.0, 2.0]))
    assert state["count"].item() == 1
    assert list(module.parameters()) == []


# count_parameters


def test_count_parameters_of_two_layers():
    """5 · 3 + 3 and 3 · 2 + 2."""
    assert count_parameters(nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))) == 26


def test_count_parameters_counts_shared_ones_once():
    """The same layer twice; and the same layer frozen."""
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert count_parameters(model) == 20
    layer.requires_grad_(False)
    assert count_parameters(model, trainable_only=True) == 0
    assert count_parameters(model) == 20
