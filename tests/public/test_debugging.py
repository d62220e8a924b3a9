"""Examples for the module debugging: read them, run them with `pytest tests/public -k <task>`."""

import pytest
import torch
from debugging import (
    broadcast_loss,
    double_softmax,
    feed_linear,
    flatten_after_pooling,
    import_then_train,
    inplace_backward,
    loss_history,
    lstm_batch_first,
    nan_hunt,
    optimizer_first,
    paired_shuffle,
    same_device,
    training_step_order,
    validate,
)
from torch import nn
from torch.nn.functional import mse_loss


def line(weight, bias=0.0):
    """A model x → weight · x + bias."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, weight)
    nn.init.constant_(model.bias, bias)
    return model


# import_then_train


def test_import_then_train_two_epochs():
    """The slope of (w − 2)² at 0 is −4, so w goes from 0 to 0.4; the loss goes from 4 to 2.56. The bias stays 0."""
    model = line(0.0)
    x = torch.tensor([[-1.0], [1.0]])
    assert import_then_train(model, x, 2 * x, epochs=2, lr=0.1) == pytest.approx([4.0, 2.56])
    torch.testing.assert_close(model.bias.detach(), torch.zeros(1))


# feed_linear


def test_feed_linear_even_scores():
    """With weights of 0, both classes have probability ½, and the loss of one sample is log 2."""
    model = nn.Sequential(nn.Linear(3, 2), nn.LogSoftmax(dim=1))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    assert feed_linear(model, torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]), lr=0.5) == pytest.approx(0.6931, abs=1e-3)
    torch.testing.assert_close(model[0].bias.detach(), torch.tensor([-0.25, 0.25]))


# flatten_after_pooling


def test_flatten_after_pooling_runs():
    """28 × 28 images, and flat ones in colour."""
    assert flatten_after_pooling((28, 28))(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert flatten_after_pooling((16, 40), channels=3, classes=5)(torch.zeros(4, 3, 16, 40)).shape == (4, 5)


# lstm_batch_first


def test_lstm_batch_first_sequences_are_on_their_own():
    """Two sequences of three steps: each has the same scores alone as in the batch."""
    model = lstm_batch_first(4, 5, 2)
    x = torch.arange(24.0).reshape(2, 3, 4) / 24
    scores = model(x)
    assert scores.shape == (2, 2)
    torch.testing.assert_close(scores, torch.cat([model(x[:1]), model(x[1:])]))


# same_device


def test_same_device_on_cpu_and_meta():
    """With weights of 0, one step moves the bias only: by lr · (½ − 1) and lr · ½. On meta, shapes are all there is."""
    shapes = {"rnn.weight_ih_l0": (3, 4), "rnn.weight_hh_l0": (3, 3), "rnn.bias_ih_l0": (3,), "rnn.bias_hh_l0": (3,)}
    weights = {name: torch.zeros(shape) for name, shape in (shapes | {"fc.weight": (2, 3), "fc.bias": (2,)}).items()}
    x, y = torch.ones(1, 5, 4), torch.tensor([0])
    state = same_device(x, y, weights, "cpu", lr=1.0, steps=1)
    torch.testing.assert_close(state["fc.bias"], torch.tensor([0.5, -0.5]))
    state = same_device(x, y, weights, "meta")
    assert state["rnn.weight_ih_l0"].device.type == "meta"
    assert state["rnn.weight_ih_l0"].shape == (3, 4)


# inplace_backward


def test_inplace_backward_half_open_gate():
    """A gate with weights of 0 lets half of h = x = 2 through: (1 − 0)² = 1. The slope of fc2's weight is 2 · 1 · 1."""
    fc1, gate, fc2 = line(1.0), line(0.0), line(1.0)
    assert inplace_backward(fc1, gate, fc2, torch.tensor([[2.0]]), torch.tensor([[0.0]]), lr=0.1, steps=1) == pytest.approx([1.0])
    torch.testing.assert_close(fc2.weight.detach(), torch.tensor([[0.8]]))
    torch.testing.assert_close(gate.bias.detach(), torch.tensor([-0.1]))


# optimizer_first


def test_optimizer_first_trains_the_head():
    """Two classes at ½ each: a step of 1 moves the head's biases by ½, up for the label and down for the other."""
    model = nn.Sequential()
    model.fc = nn.Linear(3, 7)
    head = nn.Linear(3, 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    losses = optimizer_first(model, head, torch.ones(4, 3), torch.ones(4, dtype=torch.int64), lr=1.0, steps=1)
    assert losses == pytest.approx([0.6931], abs=1e-3)
    torch.testing.assert_close(head.bias.detach(), torch.tensor([-0.5, 0.5]))


# training_step_order


def test_training_step_order_two_batches():
    """The loss is w². At 1 its slope is 2, so w goes to 0.8; there the slope is 1.6, and w goes to 0.64."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batches = [(torch.ones(1, 1), torch.zeros(1, 1))] * 2
    losses = training_step_order(model, batches, mse_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    assert losses == pytest.approx([1.0, 0.64])
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.64]]))


# double_softmax


def test_double_softmax_two_classes():
    """Scores of 0 are probabilities of ½; scores of 3 and −3 are 0.9975 and 0.0025, with a loss of 0.0025."""
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[3.0], [-3.0]])
    losses, probabilities = double_softmax(model, torch.ones(1, 1), torch.tensor([0]), torch.tensor([[0.0], [1.0]]), lr=0.0, steps=1)
    assert losses == pytest.approx([0.002476], rel=1e-3)
    torch.testing.assert_close(probabilities, torch.tensor([[0.5, 0.5], [0.997527, 0.002473]]), rtol=1e-4, atol=1e-5)


# validate


def test_validate_twice_gives_the_same():
    """Dropout is off, so the scores are the inputs themselves; afterwards it is on again."""
    model = nn.Sequential(nn.Dropout(0.9))
    batches = [(torch.eye(3) * 50, torch.tensor([0, 1, 2])), (torch.eye(3)[:1] * 50, torch.tensor([1]))]
    loss, accuracy = validate(model, batches, nn.functional.cross_entropy)
    assert loss == pytest.approx(12.5)
    assert accuracy == pytest.approx(0.75)
    assert model.training
    assert model[0].training


# broadcast_loss


def test_broadcast_loss_fits_a_line():
    """After 200 epochs, the predictions are the numbers."""
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    y = torch.tensor([-3.0, 0.0, 3.0])
    torch.testing.assert_close(broadcast_loss(line(0.0), x, y, epochs=200), y, rtol=1e-3, atol=1e-3)


# paired_shuffle


def test_paired_shuffle_learns():
    """Four images whose label is easy to see: after 100 epochs, the loss is small."""
    model = nn.Linear(4, 4)
    losses = paired_shuffle(model, torch.eye(4) * 5, torch.arange(4), torch.Generator().manual_seed(1), batch_size=2, epochs=100)
    assert len(losses) == 200
    assert max(losses[-2:]) < 0.1


# nan_hunt


class Logarithm(nn.Module):
    """The logarithm as a layer."""

    def forward(self, x):
        """NaN below 0."""
        return torch.log(x)


def test_nan_hunt_finds_the_layer():
    """The second of three layers makes NaN of −1; for 1 there is nothing to report."""
    model = nn.Sequential(nn.Identity(), Logarithm(), nn.Tanh())
    assert nan_hunt(model, torch.tensor([1.0, -1.0])) == ("1", "log")
    assert nan_hunt(model, torch.tensor([1.0, 2.0])) is None


# loss_history


def test_loss_history_holds_numbers():
    """The loss is w²: 1, and 0.64 after the first step."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batches = [(torch.ones(1, 1), torch.zeros(1, 1))] * 2
    history = loss_history(model, batches, mse_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [type(loss) for loss in history] == [float, float]
    assert history == pytest.approx([1.0, 0.64])
