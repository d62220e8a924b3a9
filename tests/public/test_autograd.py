"""Examples for the module autograd. Run one task's with `pytest tests/public -k jacobian`."""

import copy
import math

import pytest
import torch
from autograd import (
    RoundSTE,
    Softplus,
    Value,
    checkpoint,
    ema_update_,
    gradient_penalty,
    hessian_vector_product,
    jacobian,
    numerical_gradient,
    record_activation_gradients,
    unbroadcast,
)
from torch import nn
from torch.testing import assert_close


def test_Value_classic_example():
    """x² + 2x at 3 is 15, and its derivative 2x + 2 is 8."""
    x = Value(3.0)
    y = x**2 + 2 * x
    y.backward()
    assert y.data == 15.0
    assert x.grad == 8.0


def test_Value_of_two_inputs():
    """For z = x / y − tanh(0 · x): ∂z/∂x = 1/y − 0 and ∂z/∂y = −x/y²."""
    x, y = Value(6.0), Value(2.0)
    z = x / y - (0 * x).tanh()
    z.backward()
    assert (z.data, x.grad, y.grad) == (3.0, 0.5, -1.5)


def test_Value_backward_twice_adds():
    """Each call adds the derivative once more, through intermediate results too."""
    x = Value(3.0)
    square = x * x
    y = square * 5
    y.backward()
    y.backward()
    assert x.grad == 2 * 5 * 6
    assert square.grad == 2 * 5


def test_unbroadcast_of_a_bias():
    """A bias that was added to every row receives the sum over the rows."""
    grad = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    assert_close(unbroadcast(grad, (3,)), torch.tensor([11.0, 22.0, 33.0]))
    assert_close(unbroadcast(grad, (2, 1)), torch.tensor([[6.0], [60.0]]))


def test_unbroadcast_refuses_shapes_that_do_not_fit():
    """An operand of (2,) can't have been broadcast to (2, 3), one of () can."""
    grad = torch.ones(2, 3)
    assert_close(unbroadcast(grad, ()), torch.tensor(6.0))
    with pytest.raises(ValueError):
        unbroadcast(grad, (2,))


def test_numerical_gradient_of_squares():
    """The gradient of Σ x² is 2x, in float64 and in the shape of x."""
    x = torch.tensor([[1.0, -2.0, 0.5]])
    assert_close(numerical_gradient(lambda z: z.square().sum(), x), torch.tensor([[2.0, -4.0, 1.0]], dtype=torch.float64))


def test_numerical_gradient_takes_the_given_step():
    """For x³ at 2 and eps = 1, it is (3³ − 1³) / 2."""
    x = torch.tensor(2.0, dtype=torch.float64)
    assert_close(numerical_gradient(lambda z: z**3, x, eps=1.0), torch.tensor(13.0, dtype=torch.float64))


def test_Softplus_and_its_gradient():
    """At 0 it is log 2 with slope 1/2; far out it is 0 or x."""
    x = torch.tensor([0.0, 1e4, -1e4], requires_grad=True)
    y = Softplus.apply(x)
    y.sum().backward()
    assert_close(y, torch.tensor([math.log(2.0), 1e4, 0.0]))
    assert_close(x.grad, torch.tensor([0.5, 1.0, 0.0]))


def test_Softplus_second_derivative():
    """The second derivative at 0 is 1/4."""
    x = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Softplus.apply(x), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, x)
    assert_close(curvature, torch.tensor(0.25, dtype=torch.float64))


def test_RoundSTE_rounds_and_lets_gradients_through():
    """Forward as torch.round, backward as if it were not there."""
    x = torch.tensor([0.4, 0.5, 1.5, -2.7], requires_grad=True)
    y = RoundSTE.apply(x)
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert_close(y, torch.tensor([0.0, 0.0, 2.0, -3.0]))
    assert_close(x.grad, torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_jacobian_of_a_matrix():
    """The Jacobian of W x is W: a row for each output, a column for each input."""
    W = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert_close(jacobian(lambda x: W @ x, torch.tensor([1.0, 0.0, -1.0])), W)


def test_jacobian_of_a_constant():
    """What does not depend on x has the derivative 0."""
    x = torch.tensor([1.0, 2.0])
    assert_close(jacobian(lambda z: torch.stack([z[0] * z[1], torch.tensor(7.0)]), x), torch.tensor([[2.0, 1.0], [0.0, 0.0]]))


def test_hessian_vector_product_of_a_cubic():
    """The Hessian of x²y is [[2y, 2x], [2x, 0]]."""
    x, v = torch.tensor([3.0, 5.0]), torch.tensor([1.0, -1.0])
    assert_close(hessian_vector_product(lambda z: z[0] ** 2 * z[1], x, v), torch.tensor([10.0 - 6.0, 6.0]))


def test_hessian_vector_product_where_the_gradient_is_constant():
    """A linear function has no second derivative; a square beside it has."""
    x, v = torch.tensor([3.0, 5.0]), torch.tensor([1.0, -1.0])
    assert_close(hessian_vector_product(lambda z: z.sum(), x, v), torch.zeros(2))
    assert_close(hessian_vector_product(lambda z: z.sum() + z[1] ** 2, x, v), torch.tensor([0.0, -2.0]))


def test_gradient_penalty_of_a_weighted_sum():
    """The slope of w · x is |w| = 5 everywhere: the penalty is (5 − 1)², and its gradient 2 · (5 − 1) · w / |w|."""
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    real, fake = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    penalty = gradient_penalty(lambda x: x @ w, real, fake, torch.tensor([0.25, 0.75]))
    penalty.backward()
    assert_close(penalty, torch.tensor(16.0))
    assert_close(w.grad, torch.tensor([4.8, 6.4]))


def test_gradient_penalty_mixes_each_sample():
    """The slope of |x|² / 2 is |x|, so the penalty tells where it was taken: here at (0.75, 0) and (0, 2)."""
    real, fake = torch.tensor([[1.0, 0.0], [0.0, 4.0]]), torch.zeros(2, 2)
    penalty = gradient_penalty(lambda x: x.square().sum(1) / 2, real, fake, torch.tensor([0.75, 0.5]))
    assert_close(penalty, torch.tensor((0.25**2 + 1.0**2) / 2))


def test_checkpoint_runs_twice():
    """Once without a graph at the call, once with one in the backward."""
    recording = []

    def f(x):
        recording.append(torch.is_grad_enabled())
        return x.square().sum()

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = checkpoint(f, x)
    assert recording == [False]
    y.backward()
    assert recording == [False, True]
    assert_close(y, torch.tensor(5.0))
    assert_close(x.grad, torch.tensor([2.0, 4.0]))


def test_checkpoint_drops_the_same_entries_twice():
    """Where dropout gave 0, the gradient is 0, and elsewhere 2."""
    x = torch.ones(100, requires_grad=True)
    y = checkpoint(lambda z: nn.functional.dropout(z, 0.5), x)
    torch.rand(3)
    y.sum().backward()
    assert_close(x.grad, y.detach())


def test_ema_update__moves_a_tenth_of_the_way():
    """From 1 towards 2 with decay 0.9 is 1.1, in the same memory."""
    model, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(average.weight, 1.0)
    before = average.weight
    ema_update_(average, model, 0.9)
    assert_close(before.detach(), torch.tensor([[1.1]]))
    assert before.is_leaf and before.requires_grad


def test_ema_update__copies_buffers():
    """Running statistics are not averaged a second time."""
    model = nn.BatchNorm1d(2)
    average = copy.deepcopy(model)
    model(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))
    ema_update_(average, model, 0.9)
    assert_close(average.running_mean, torch.tensor([0.1, 2.0]))
    assert average.num_batches_tracked == 1


def test_record_activation_gradients_of_a_small_model():
    """The loss (2 · relu(3 · x))² at x = 1: ∂/∂output is 12, and before it 24."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(inplace=True), nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[0].weight, 3.0)
    nn.init.constant_(model[2].weight, 2.0)
    found = record_activation_gradients(model, ["0", "2"], torch.tensor([[1.0]]), lambda y: y.square().sum())
    assert_close(found, {"0": [torch.tensor([[24.0]])], "2": [torch.tensor([[12.0]])]})
    assert_close(model[0].weight.grad, torch.tensor([[24.0]]))


def test_record_activation_gradients_of_repeated_calls():
    """A layer that is called twice has two gradients, the first call's first."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    found = record_activation_gradients(nn.Sequential(layer, layer), ["0"], torch.tensor([[1.0]]), lambda y: y.sum())
    assert_close(found, {"0": [torch.tensor([[3.0]]), torch.tensor([[1.0]])]})
