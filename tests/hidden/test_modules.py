"""The graded suite of modules. What is random about a task is checked on the trusted side, with bounds of six standard deviations."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from grader.testing import Ending, measured, raised, task

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
NAN, INF = math.nan, math.inf


# Helpers for probes


def leaf(x):
    """A fresh leaf with the values of x."""
    return x.clone().requires_grad_()


def described(module):
    """The module's parameters: kind, shape, dtype, and whether they are trained."""
    return {
        name: (isinstance(p, nn.Parameter), tuple(p.shape), p.dtype, str(p.device), p.requires_grad)
        for name, p in module.named_parameters()
    }


def state_of(module):
    """Copies of the module's parameters and buffers, in a plain dict."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def loaded(module, **tensors):
    """The module with copies of these tensors in its parameters, which have to have these very names."""
    module.load_state_dict({name.replace("__", "."): value for name, value in tensors.items()})
    return module


def gradients(y, seed_gradient, *leaves):
    """Gradients of (y · seed_gradient).sum() for the leaves."""
    (y * seed_gradient).sum().backward()
    return [x.grad for x in leaves]


def in_double(make):
    """What `make` makes while float64 is torch's default dtype, which the reference's process would else be left with."""
    torch.set_default_dtype(F64)
    try:
        return make()
    finally:
        torch.set_default_dtype(F32)


def linear(weight, bias):
    """A linear layer of torch's own with copies of these parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    return loaded(layer, weight=weight, bias=bias)


# Helpers for the trusted side


def entries(value, shape, name, dtype=F32):
    """Assert that what came back is a tensor like this; return its entries in float64, in one row."""
    assert isinstance(value, torch.Tensor), f"{name} must be a tensor."
    assert tuple(value.shape) == tuple(shape), f"{name} must have the shape {tuple(shape)}; it has {tuple(value.shape)}."
    assert value.dtype == dtype, f"{name} must be {dtype}; it is {value.dtype}."
    return value.double().flatten()


def check_mean(values, mean, deviation, name):
    """Assert that the mean of independent values is as stated, give or take six standard deviations."""
    error = 6 * deviation / math.sqrt(len(values))
    got = values.mean().item()
    assert abs(got - mean) <= error, f"The mean of {name} is {got:.4g} over {len(values)} of them; it should be {mean:.4g} ± {error:.2g}."


def check_share(flags, share, what):
    """Assert that a share of independent flags is as stated, give or take six standard deviations."""
    error = 6 * math.sqrt(share * (1 - share) / flags.numel())
    got = flags.double().mean().item()
    assert abs(got - share) <= error, f"Of {flags.numel()} entries, {got:.1%} {what}; it should be {share:.1%} ± {error:.1%}."


def check_uniform(values, bound, name):
    """Assert that values are independent and uniform in ±bound."""
    largest = values.abs().max().item()
    assert largest <= bound * (1 + 1e-6), f"The largest of {name} is {largest:.4g}; they should lie within ±{bound:.4g}."
    check_mean(values, 0, bound / math.sqrt(3), name)
    check_mean(values.square(), bound**2 / 3, bound**2 * math.sqrt(4 / 45), f"the squares of {name}")
    check_apart(values, name)


def check_normal(values, std, name):
    """Assert that values are independent and normal with mean 0."""
    check_mean(values, 0, std, name)
    check_mean(values.square(), std**2, std**2 * math.sqrt(2), f"the squares of {name}")
    check_share(values.abs() < std, math.erf(math.sqrt(0.5)), f"are below one standard deviation of {std:.4g}")
    check_apart(values, name)


def check_apart(values, name):
    """Assert that (nearly) no value occurs twice."""
    assert len(values.unique()) > 0.9 * len(values), f"Many of {name} are equal; they should be drawn one by one."


@task("Linear")
class TestLinear:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-12)], ids=["float32", "float64"])
    def test_applies_the_map(self, agree, draw, dtype, tolerance):
        """The result is x Wᵀ + b with the weight and bias that are loaded, in their dtype."""
        w, b, x = draw.normal(5, 7, dtype=dtype), draw.normal(5, dtype=dtype), draw.normal(3, 7, dtype=dtype)
        agree(lambda m: loaded(m.Linear(7, 5, dtype=dtype), weight=w, bias=b)(x).detach(), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (2, 1, 3, 7), (0, 7), (7, 7)], ids=str)
    def test_any_batch_dimensions(self, agree, draw, shape):
        """The map goes along the last dimension, whatever stands before it."""
        w, b, x = draw.normal(5, 7), draw.normal(5), draw.normal(*shape)
        one = draw.normal(7)

        def probe(m):
            layer = loaded(m.Linear(7, 5), weight=w, bias=b)
            return layer(x).detach(), layer(one).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_square_and_strided(self, agree, draw):
        """With as many outputs as inputs, W is still transposed; x may be a transposed tensor."""
        w, b, x = draw.normal(7, 7, dtype=F64), draw.normal(7, dtype=F64), draw.normal(7, 3, dtype=F64).t()
        agree(lambda m: loaded(m.Linear(7, 7, dtype=F64), weight=w, bias=b)(x).detach(), rtol=1e-12, atol=1e-12)

    def test_gradients(self, agree, draw):
        """Gradients reach x, the weight and the bias."""
        w, b, x, g = (draw.normal(*s, dtype=F64) for s in [(5, 7), (5,), (2, 3, 7), (2, 3, 5)])

        def probe(m):
            layer, a = loaded(m.Linear(7, 5, dtype=F64), weight=w, bias=b), leaf(x)
            return gradients(layer(a), g, a, layer.weight, layer.bias)

        agree(probe, rtol=1e-11, atol=1e-11)

    @measured("flags")
    def test_without_bias(self, agree, draw):
        """Without a bias, y = x Wᵀ, bias is None, and weight is the only parameter."""
        w, x = draw.normal(5, 7), draw.normal(3, 7)

        def probe(m):
            layer = loaded(m.Linear(7, 5, bias=False), weight=w)
            return layer(x).detach(), layer.bias, described(layer), list(layer.state_dict())

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """Weight and bias are trainable nn.Parameters of the stated shapes, and nothing else is in state_dict()."""
        p, q = draw.integer(2, 6), draw.integer(7, 12)

        def probe(m):
            layer = m.Linear(p, q)
            return described(layer), sorted(layer.state_dict()), layer.weight.is_leaf, layer.bias.is_leaf

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize(("d", "n"), [(7, 1009), (101, 211)])
    def test_initial_weight(self, student, draw, d, n):
        """The entries of the weight start uniform between ±1/√in_features."""
        n += draw.integer(0, 100)
        w = student(lambda m: m.Linear(d, n).weight.detach())
        check_uniform(entries(w, (n, d), "weight"), 1 / math.sqrt(d), "the entries of the weight")

    def test_initial_bias(self, student, draw):
        """The entries of the bias start uniform between ±1/√in_features, too."""
        n = draw.integer(2000, 2200)
        b = student(lambda m: m.Linear(5, n).bias.detach())
        check_uniform(entries(b, (n,), "bias"), 1 / math.sqrt(5), "the entries of the bias")

    def test_every_layer_has_its_own_draws(self, student, draw):
        """Two layers start differently."""
        n = draw.integer(5, 105)
        pair = student(lambda m: [m.Linear(7, n).weight.detach() for _ in range(2)])
        first, second = (entries(w, (n, 7), "weight") for w in pair)
        assert (first != second).double().mean() > 0.9, "Two layers start with the same weights; each must draw its own."

    @measured("flags")
    def test_device_and_dtype(self, agree, draw):
        """The parameters are made on the given device in the given dtype, and without one in torch's default."""
        w, b, x = draw.normal(5, 7), draw.normal(5), draw.normal(3, 7)

        def probe(m):
            ghost = m.Linear(7, 5, device="meta", dtype=F16)
            y = ghost(torch.empty(3, 7, device="meta", dtype=F16))
            double = in_double(lambda: m.Linear(7, 5))
            return described(ghost), y.detach(), described(double), loaded(m.Linear(7, 5, dtype=F32), weight=w, bias=b)(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_uses_the_parameters_as_they_are_now(self, agree, draw):
        """After .double(), and after a step of an optimizer, the new values and dtypes count."""
        w, b, x = draw.normal(5, 7, dtype=F64), draw.normal(5, dtype=F64), draw.normal(3, 7, dtype=F64)

        def probe(m):
            layer = loaded(m.Linear(7, 5).double(), weight=w, bias=b)
            before = layer(x)
            before.square().sum().backward()
            torch.optim.SGD(layer.parameters(), lr=0.01).step()
            return before.detach(), layer(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)


class Twice(nn.Module):
    """Doubles its input, without parameters; counts how often."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return 2 * x


class Swap(nn.Module):
    """Takes and returns a pair."""

    def forward(self, pair):
        return pair[1], pair[0] + 1


@task("Sequential")
class TestSequential:
    def test_passes_the_value_through_in_order(self, agree, draw):
        """Each module gets what the one before it returned; more than ten of them stay in order."""
        w1, b1, w2, b2, x = (draw.normal(*s, dtype=F64) for s in [(5, 7), (5,), (3, 5), (3,), (2, 7)])
        biases = draw.normal(13, 7, dtype=F64)

        def probe(m):
            short = m.Sequential(linear(w1, b1), nn.Tanh(), linear(w2, b2))
            long = m.Sequential(*[linear(2 * torch.eye(7, dtype=F64), bias) for bias in biases])
            return short(x).detach(), long(x).detach()

        agree(probe, rtol=1e-12, atol=1e-12)

    @measured("flags")
    def test_children_have_numbers_for_names(self, agree, draw):
        """The modules are direct children "0", "1", …, so that the state_dict has keys like "1.weight"."""
        w1, b1, w2, b2 = (draw.normal(*s) for s in [(5, 7), (5,), (3, 5), (3,)])

        def probe(m):
            model = m.Sequential(nn.ReLU(), linear(w1, b1), nn.BatchNorm1d(5), linear(w2, b2))
            return state_of(model), [name for name, _ in model.named_children()], described(model)

        agree(probe, rtol=0, atol=0)

    def test_state_can_be_loaded(self, agree, draw):
        """Weights that are loaded under these keys are used."""
        w1, b1, w2, b2, x = (draw.normal(*s, dtype=F64) for s in [(5, 7), (5,), (3, 5), (3,), (2, 7)])

        def probe(m):
            model = m.Sequential(nn.Linear(7, 5), nn.Sigmoid(), nn.Linear(5, 3)).double()
            model.load_state_dict({"0.weight": w1, "0.bias": b1, "2.weight": w2, "2.bias": b2})
            return model(x).detach()

        agree(probe, rtol=1e-11, atol=1e-11)

    @measured("object identity")
    def test_no_modules(self, agree, draw):
        """An empty container has length 0 and returns x itself; a module can be appended."""
        x = draw.normal(3, 5)

        def probe(m):
            model = m.Sequential()
            same = model(x) is x
            empty = len(model), list(model.state_dict())
            model.append(Twice())
            return same, empty, model(x), len(model)

        agree(probe, rtol=0, atol=0)

    @measured("calls")
    def test_the_same_module_in_two_places(self, agree, draw):
        """A module that stands in two places runs twice; its parameters are listed once, its state under both names."""
        w, b, x = draw.normal(5, 5, dtype=F64), draw.normal(5, dtype=F64), draw.normal(2, 5, dtype=F64)

        def probe(m):
            layer, twice = linear(w, b), Twice()
            model = m.Sequential(layer, twice, layer, twice)
            return model(x).detach(), twice.calls, len(list(model.parameters())), sorted(model.state_dict()), len(model)

        agree(probe, rtol=1e-12, atol=1e-12)

    def test_length_and_indexing(self, agree, draw):
        """model[i] is the module in place i, from the end for negative i, an IndexError outside; a loop goes through all of them."""
        x = draw.normal(3)

        def probe(m):
            parts = [Twice(), nn.Tanh(), nn.ReLU(), nn.Sigmoid()]
            model = m.Sequential(*parts)
            by_index = [parts.index(model[i]) for i in (0, 2, 3, -1, -4)]
            by_loop = [parts.index(module) for module in model]
            outside = [raised(IndexError, lambda i=i: model[i]) for i in (4, -5, 40)]
            return len(model), by_index, by_loop, outside, model[1](x)

        agree(probe, rtol=1e-6, atol=1e-6)

    @measured("object identity")
    def test_append(self, agree, draw):
        """Append adds at the end, with the next number for a name, and returns the container."""
        w, b, x = draw.normal(3, 5), draw.normal(3), draw.normal(2, 5)

        def probe(m):
            model = m.Sequential(nn.Tanh())
            same = model.append(linear(w, b)) is model
            model.append(Twice()).append(nn.ReLU())
            return same, len(model), sorted(model.state_dict()), [name for name, _ in model.named_children()], model(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_replaced_children_are_used(self, agree, draw):
        """A child that setattr has replaced is the one that runs, counts and is returned; so in a deep copy."""
        w, b, x = draw.normal(5, 5), draw.normal(5), draw.normal(2, 5)

        def probe(m):
            model = m.Sequential(Twice(), nn.Tanh(), nn.ReLU())
            before = model(x)
            setattr(model, "1", linear(w, b))
            other = copy.deepcopy(model)
            nn.init.zeros_(model[1].weight)
            return before, model(x).detach(), len(model), isinstance(model[1], nn.Linear), other(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("calls, hooks")
    def test_hooks_of_the_modules_run(self, agree, draw):
        """A forward hook on a module sees its output."""
        x = draw.normal(2, 5)

        def probe(m):
            seen = []
            model = m.Sequential(nn.Tanh(), Twice())
            for module in model:
                module.register_forward_hook(lambda module, inputs, output: seen.append(output))
            return model(x), seen

        agree(probe, rtol=1e-6, atol=1e-6)

    @measured("flags")
    def test_modes_dtypes_and_gradients_reach_all(self, agree, draw):
        """Eval, double and backward concern every module."""
        x, g = draw.normal(4, 5, dtype=F64), draw.normal(4, 3, dtype=F64)
        w, b = draw.normal(3, 5), draw.normal(3)

        def probe(m):
            model = m.Sequential(linear(torch.eye(5), torch.zeros(5)), nn.Dropout(0.9), linear(w, b)).double().eval()
            modes = [module.training for module in model]
            y = model(x)
            return y.detach(), modes, gradients(y, g, *model.parameters())

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_any_value_travels(self, agree, draw):
        """What goes from module to module need not be a tensor."""
        x, y = draw.normal(3), draw.normal(5)
        agree(lambda m: m.Sequential(Swap(), Swap(), Swap())((x, y)), rtol=0, atol=1e-6)

    def test_functions_are_refused(self, agree, draw):
        """What is no nn.Module is a TypeError, in the constructor and in append, which then adds nothing."""
        x = draw.normal(3)

        def probe(m):
            model = m.Sequential(Twice())
            bad = [raised(TypeError, lambda: m.Sequential(Twice(), torch.relu)), raised(TypeError, lambda: model.append(torch.tanh))]
            return bad, len(model), model(x)

        agree(probe, rtol=0, atol=0)


def mlp_state(draw, sizes, dtype=F64):
    """Weights for an MLP of these sizes."""
    state = {}
    for i, (p, q) in enumerate(pairwise(sizes)):
        state |= {f"layers.{i}.weight": draw.normal(q, p, dtype=dtype), f"layers.{i}.bias": draw.normal(q, dtype=dtype)}
    return state


def mlp(m, sizes, state, **kwargs):
    """The module's MLP with these weights."""
    model = m.MLP(sizes, **kwargs).double()
    model.load_state_dict(state)
    return model


@task("MLP")
class TestMLP:
    @pytest.mark.parametrize("sizes", [(5, 7, 3), (3, 11, 5, 2), [2, 4, 4, 4, 3]], ids=str)
    def test_applies_layers_and_activations(self, agree, draw, sizes):
        """ReLU stands between each two layers and not after the last one: outputs below 0 remain."""
        state, x = mlp_state(draw, sizes), draw.normal(13, sizes[0], dtype=F64)
        agree(lambda m: mlp(m, sizes, state)(x).detach(), rtol=1e-10, atol=1e-10)

    def test_two_sizes_are_one_linear_layer(self, agree, draw):
        """Without a hidden layer there is no activation at all, neither before nor after the layer."""
        state, x = mlp_state(draw, (7, 5)), draw.normal(11, 7, dtype=F64)
        agree(lambda m: mlp(m, (7, 5), state)(x).detach(), rtol=1e-10, atol=1e-10)

    def test_other_activation(self, agree, draw):
        """The activation that is given is used, for every hidden layer."""
        sizes = (5, 7, 11, 3)
        state, x = mlp_state(draw, sizes), draw.normal(6, 5, dtype=F64)
        agree(lambda m: mlp(m, sizes, state, activation=torch.tanh)(x).detach(), rtol=1e-10, atol=1e-10)

    @measured("flags")
    @pytest.mark.parametrize("sizes", [(2, 3), (5, 7, 3), (3, 11, 5, 5, 2)], ids=str)
    def test_every_layer_is_registered(self, agree, draw, sizes):
        """The layers are a ModuleList of nn.Linear; the parameters have the stated names and shapes, and are all there is."""
        state, x = mlp_state(draw, sizes), draw.normal(2, sizes[0], dtype=F64)

        def probe(m):
            model = m.MLP(sizes)
            kinds = isinstance(model.layers, nn.ModuleList), [isinstance(layer, nn.Linear) for layer in model.layers]
            return kinds, described(model), sorted(model.state_dict()), mlp(m, sizes, state)(x).detach()

        agree(probe, rtol=1e-10, atol=1e-10)

    def test_gradients_reach_every_layer(self, agree, draw):
        """Gradients of all parameters and of x."""
        sizes = (5, 7, 11, 3)
        state, x, g = mlp_state(draw, sizes), draw.normal(6, 5, dtype=F64), draw.normal(6, 3, dtype=F64)

        def probe(m):
            model, a = mlp(m, sizes, state, activation=torch.sigmoid), leaf(x)
            return gradients(model(a), g, a, *model.parameters())

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (0, 5)], ids=str)
    def test_any_batch_dimensions(self, agree, draw, shape):
        """The layers act on the last dimension."""
        sizes = (5, 7, 3)
        state, x, one = mlp_state(draw, sizes), draw.normal(*shape, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            model = mlp(m, sizes, state)
            return model(x).detach(), model(one).detach()

        agree(probe, rtol=1e-10, atol=1e-10)

    def test_layers_start_as_torch_makes_them(self, student, draw):
        """Every layer starts with draws of its own, in the bounds of nn.Linear."""
        n = draw.integer(97, 147)
        sizes = (n, n, n, n)
        weights = student(lambda m: [p.detach() for name, p in m.MLP(sizes).named_parameters() if name.endswith("weight")])
        assert isinstance(weights, list) and len(weights) == 3, "There must be 3 weights."
        rows = [entries(w, (n, n), "weight") for w in weights]
        for row in rows:
            check_uniform(row, 1 / math.sqrt(n), "the entries of a weight")
        assert all((rows[i] != rows[i - 1]).double().mean() > 0.9 for i in range(3)), "Layers must not share their weights."

    def test_too_few_sizes(self, agree, draw):
        """Fewer than two sizes are a ValueError, and the sizes are left as they are."""
        state, x, sizes = mlp_state(draw, (5, 7, 3)), draw.normal(2, 5, dtype=F64), [5, 7, 3]

        def probe(m):
            y = mlp(m, sizes, state)(x).detach()
            return y, sizes, raised(ValueError, lambda: m.MLP([5])), raised(ValueError, lambda: m.MLP(()))

        agree(probe, rtol=1e-10, atol=1e-10)


def check_dropped(y, x, p, name="the result"):
    """Assert that y is x with entries dropped with probability p, and the others scaled."""
    y, x = entries(y, x.shape, name, x.dtype), x.double().flatten()
    dropped = y == 0
    check_share(dropped, p, f"are 0 for p = {p}")
    kept = ~dropped
    error = (y[kept] * (1 - p) / x[kept] - 1).abs().max().item()
    assert error < 1e-5, f"Kept entries must be x / (1 − p), for p = {p}; the largest relative error is {error:.2g}."
    return dropped


@task("Dropout")
class TestDropout:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
    def test_drops_and_scales(self, student, draw, p):
        """While training, a share of p becomes 0 and the rest is divided by 1 − p."""
        x = draw.uniform(97, 101, low=1, high=2)
        check_dropped(student(lambda m: m.Dropout(p)(x)), x, p)

    def test_keeps_the_expectation(self, student, draw):
        """The mean over 10,000 ones or more is 1, for the default p = 0.5 and for others."""
        ps, ones = [0.5, 0.2, 0.9], torch.ones(100, draw.integer(100, 200))
        results = student(lambda m: [m.Dropout()(ones), *[m.Dropout(p)(ones) for p in (0.2, 0.9)]])
        for y, p in zip(results, ps, strict=True):
            check_dropped(y, ones, p)
            check_mean(entries(y, ones.shape, "the result"), 1, math.sqrt(p / (1 - p)), f"the entries for p = {p}")

    def test_entries_are_independent(self, student, draw):
        """Every entry is drawn by itself: rows, columns and samples differ, and so do two calls."""
        x = draw.uniform(31, 37, 41, low=1, high=2)

        def probe(m):
            drop = m.Dropout(0.5)
            return drop(x), drop(x)

        masks = [check_dropped(y, x, 0.5).view(x.shape).double() for y in student(probe)]
        for dims in [(1, 2), (0, 2), (0, 1), 0, 1, 2]:
            n = masks[0].mean(dims).numel()
            per_slice = x.numel() / n
            spread = masks[0].mean(dims).sub(0.5).square() * per_slice * 4  # about 1 each, squares of nearly normal numbers
            largest = 6 + 6 * math.sqrt(2 / n)
            assert spread.mean() < largest, "Entries of one row, column or sample are dropped together; each must be drawn by itself."
        check_share(masks[0] == masks[1], 0.5, "have the same fate in two calls")
        check_share(masks[0][..., 1:] == masks[0][..., :-1], 0.5, "have the same fate as their neighbours")

    def test_gradient_goes_through_the_mask(self, student, draw):
        """The gradient is 1 / (1 − p) where an entry was kept, and 0 where it was dropped."""
        x, p = draw.uniform(53, 59, low=1, high=2), 0.25

        def probe(m):
            a = leaf(x)
            y = m.Dropout(p)(a)
            y.sum().backward()
            return y.detach(), a.grad

        y, grad = student(probe)
        dropped = check_dropped(y, x, p)
        error = (entries(grad, x.shape, "the gradient") - (~dropped).double() / (1 - p)).abs().max().item()
        assert error < 1e-5, "The gradient must be 0 where an entry was dropped, and 1 / (1 − p) elsewhere."

    def test_eval_leaves_values_alone(self, student, draw):
        """In eval mode, also as part of a larger module, x comes back; in training mode again it doesn't."""
        x = draw.uniform(71, 73, low=1, high=2)

        def probe(m):
            model = nn.ModuleList([m.Dropout(0.5)])
            evaluated = model.eval()[0](x)
            return evaluated, model.train()[0](x)

        evaluated, trained = student(probe)
        unchanged = (entries(evaluated, x.shape, "the result in eval mode") == x.double().flatten()).all()
        assert unchanged, "In eval mode the values must be those of x: nothing is dropped or scaled."
        check_dropped(trained, x, 0.5)

    def test_nothing_or_everything(self, student, draw):
        """With p = 0 all values stay; with p = 1 all are 0, and so is the gradient."""
        x = draw.normal(7, 5)

        def probe(m):
            a = leaf(x)
            y = m.Dropout(1.0)(a)
            (y + 0 * a).sum().backward()  # zeros without a graph will do
            return m.Dropout(0.0)(x), y.detach(), a.grad

        zero, one, grad = student(probe)
        assert (entries(zero, x.shape, "the result for p = 0") == x.double().flatten()).all(), "With p = 0 the values must be those of x."
        assert (entries(one, x.shape, "the result for p = 1") == 0).all(), "With p = 1 every entry must be 0."
        assert (entries(grad, x.shape, "the gradient for p = 1") == 0).all(), "With p = 1 the gradient must be 0."

    @pytest.mark.parametrize("dtype", [F16, BF16, F64], ids=str)
    def test_dtypes_and_shapes(self, student, draw, dtype):
        """Shape and dtype are those of x: 16 bits, 64 bits, no dimensions, no entries; x itself is not changed."""
        x = 1 + draw.integers(0, 4, 5, 3, 601).to(dtype)

        def probe(m):
            drop, y = m.Dropout(0.5), x.clone()
            return drop(y), y, drop(y[0, 0, 0]), drop(y[:0])

        y, after, number, empty = student(probe)
        check_dropped(y, x, 0.5)
        assert (entries(after, x.shape, "x after the call", dtype) == x.double().flatten()).all(), "x must not be changed."
        single = entries(number, (), "the result for a single number", dtype).item()
        assert single in (0.0, 2 * x[0, 0, 0].item()), "A single number must become 0 or be doubled."
        entries(empty, (0, 3, 601), "the result for an empty tensor", dtype)

    def test_the_global_generator_decides(self, student, draw):
        """The same torch.manual_seed gives the same result, another seed another one."""
        x, seed = draw.uniform(31, 37, low=1, high=2), draw.seed()

        def probe(m):
            out = []
            for s in seed, seed, seed + 1:
                torch.manual_seed(s)
                out.append(m.Dropout(0.5)(x))
            return out

        first, again, other = (check_dropped(y, x, 0.5) for y in student(probe))
        assert (first == again).all(), "After the same torch.manual_seed, the same entries must be dropped."
        assert (first != other).any(), "After another torch.manual_seed, other entries must be dropped."

    def test_p_can_be_changed(self, student, draw):
        """The attribute p is read at every call; there is nothing in state_dict()."""
        x = draw.uniform(71, 73, low=1, high=2)

        def probe(m):
            drop = m.Dropout(0.2)
            before = drop.p
            drop.p = 0.8
            return before, drop(x), list(drop.state_dict()), len(list(drop.parameters()))

        before, y, keys, count = student(probe)
        check_dropped(y, x, 0.8)
        assert before == 0.2, "The attribute p must hold the probability."
        assert (keys, count) == ([], 0), "There must be no parameters and no buffers."

    def test_wrong_probabilities_are_refused(self, student, draw):
        """A p below 0 or above 1 is a ValueError."""
        x = draw.uniform(31, 37, low=1, high=2)
        bad, y = student(lambda m: ([raised(ValueError, lambda p=p: m.Dropout(p)) for p in (-0.1, 1.1)], m.Dropout(0.4)(x)))
        check_dropped(y, x, 0.4)
        assert bad == [Ending("ValueError")] * 2, "A p outside of [0, 1] must raise ValueError."


NORM_SHAPES = [(7,), (3, 7), (2, 5, 7), (0, 7), (2, 0, 7)]


@task("LayerNorm")
class TestLayerNorm:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-11)], ids=["float32", "float64"])
    def test_normalises_scales_and_shifts(self, agree, draw, dtype, tolerance):
        """The formula, with the weight and bias that are loaded, in the precision of x."""
        x, w, b = draw.normal(5, 7, dtype=dtype) * 3 + 2, draw.normal(7, dtype=dtype), draw.normal(7, dtype=dtype)
        agree(lambda m: loaded(m.LayerNorm(7).to(dtype), weight=w, bias=b)(x).detach(), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
    def test_any_other_dimensions(self, agree, draw, shape):
        """Each vector is normalised by itself, whatever stands before the last dimension, from nothing to nothing at all."""
        x, w, b, one = draw.normal(*shape, dtype=F64), draw.normal(7, dtype=F64), draw.normal(7, dtype=F64), draw.normal(7, dtype=F64)

        def probe(m):
            norm = loaded(m.LayerNorm(7).double(), weight=w, bias=b)
            return norm(x).detach(), norm(one).detach()

        agree(probe, rtol=1e-10, atol=1e-10)

    @measured("flags")
    @pytest.mark.parametrize("shape", [(5, 7), [7], (3, 5, 7)], ids=str)
    def test_several_dimensions_at_once(self, agree, draw, shape):
        """With several sizes, mean and variance go over all of these dimensions together."""
        x, w, b = draw.normal(2, 3, 5, 7, dtype=F64) * 2 + 1, draw.normal(*shape, dtype=F64), draw.normal(*shape, dtype=F64)

        def probe(m):
            norm = m.LayerNorm(shape)
            return norm.normalized_shape, described(norm), loaded(norm.double(), weight=w, bias=b)(x).detach()

        agree(probe, rtol=1e-10, atol=1e-10)

    @measured("flags")
    def test_starts_as_the_plain_normalisation(self, agree, draw):
        """The weight starts as ones, bias as zeros, both nn.Parameters; an int is a shape of one dimension."""
        x = draw.normal(5, 11) * 3 + 2

        def probe(m):
            norm = m.LayerNorm(11)
            return described(norm), state_of(norm), norm.normalized_shape, norm(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_without_weight_and_bias(self, agree, draw):
        """Without elementwise_affine there are no parameters, and the vectors are only normalised."""
        x = draw.normal(3, 5, 7, dtype=F64) * 3 + 2

        def probe(m):
            norm = m.LayerNorm((5, 7), elementwise_affine=False)
            return norm.weight, norm.bias, list(norm.state_dict()), norm(x)

        agree(probe, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("eps", [1e-5, 0.5])
    def test_eps_is_added_to_the_variance(self, agree, draw, eps):
        """The eps stands under the root, which shows where the variance is small."""
        x = draw.normal(5, 7, dtype=F64) * 1e-2
        agree(lambda m: (m.LayerNorm(7).double()(x).detach(), m.LayerNorm(7, eps)(x).detach()), rtol=1e-9, atol=1e-9)

    def test_small_spread_around_a_large_mean(self, agree, draw):
        """Numbers around 2,000 that differ by about 1 keep their precision in float32."""
        x = draw.normal(23, 31) + 2000
        agree(lambda m: m.LayerNorm(31)(x).detach(), rtol=0, atol=1e-2)

    @pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
    def test_sixteen_bits(self, agree, draw, dtype):
        """Squares of 1,000 exceed float16: computed in float32, the result has the dtype of x, with parameters of either kind."""
        x, w, b = (draw.normal(5, 37) * 1000).to(dtype), draw.uniform(37, low=1, high=2), draw.normal(37)

        def probe(m):
            norm = loaded(m.LayerNorm(37), weight=w, bias=b)
            return norm(x).detach(), norm.to(dtype)(x).detach()

        tolerance = 2e-2 if dtype == F16 else 1e-1  # of sums that may nearly cancel, rounded up to three times
        agree(probe, rtol=tolerance, atol=tolerance)

    def test_gradients(self, agree, draw):
        """Gradients of x, which also go through mean and variance, and of the parameters; x strided."""
        x, w, b, g = (draw.normal(*s, dtype=F64) for s in [(7, 5), (7,), (7,), (5, 7)])

        def probe(m):
            norm, a = loaded(m.LayerNorm(7).double(), weight=w, bias=b), leaf(x)
            y = norm(a.t())
            return y.detach(), gradients(y, g, a, norm.weight, norm.bias)

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_equal_entries(self, agree, draw):
        """A vector of equal entries gives the bias and finite gradients."""
        x, w, b, g = draw.normal(3, 7, dtype=F64), draw.normal(7, dtype=F64), draw.normal(7, dtype=F64), draw.normal(3, 7, dtype=F64)
        x[1] = draw.integer(-5, 5)

        def probe(m):
            norm, a = loaded(m.LayerNorm(7).double(), weight=w, bias=b), leaf(x)
            y = norm(a)
            return y.detach(), gradients(y, g, a)

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_wrong_shapes_are_refused(self, agree, draw):
        """Last dimensions other than normalized_shape are a ValueError, also where they would broadcast."""
        x = draw.normal(3, 5, 7)

        def probe(m):
            norm, one = m.LayerNorm((5, 7)), m.LayerNorm(7)
            bad = [(norm, x[:, :, :1]), (norm, x[:, :1]), (norm, x.transpose(1, 2)), (norm, x[0, 0]), (one, x[..., :1]), (one, x[..., :6])]
            return [raised(ValueError, lambda n=n, a=a: n(a)) for n, a in bad], norm(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)


@task("RMSNorm")
class TestRMSNorm:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-12)], ids=["float32", "float64"])
    def test_scales(self, agree, draw, dtype, tolerance):
        """The formula, with the weight that is loaded; the mean of x is not subtracted."""
        x, w = draw.normal(5, 7, dtype=dtype) * 3 + 2, draw.normal(7, dtype=dtype)
        agree(lambda m: loaded(m.RMSNorm(7).to(dtype), weight=w)(x).detach(), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("shape", NORM_SHAPES, ids=str)
    def test_any_other_dimensions(self, agree, draw, shape):
        """Each vector is scaled by itself, whatever stands before the last dimension."""
        x, w, one = draw.normal(*shape, dtype=F64), draw.normal(7, dtype=F64), draw.normal(7, dtype=F64)

        def probe(m):
            norm = loaded(m.RMSNorm(7).double(), weight=w)
            return norm(x).detach(), norm(one).detach()

        agree(probe, rtol=1e-10, atol=1e-10)

    @measured("flags")
    def test_starts_with_ones(self, agree, draw):
        """The weight is an nn.Parameter of ones, the only entry of the state."""
        d = draw.integer(5, 13)
        x = draw.normal(3, d)

        def probe(m):
            norm = m.RMSNorm(d)
            return described(norm), state_of(norm), norm(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("eps", [1e-6, 0.5])
    def test_eps_is_added_to_the_mean_square(self, agree, draw, eps):
        """The eps stands under the root, which shows where x is small; it is 1e-6 unless given."""
        x = draw.normal(5, 7, dtype=F64) * 2e-3
        agree(lambda m: (m.RMSNorm(7)(x).detach(), m.RMSNorm(7, eps)(x).detach()), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
    def test_sixteen_bits(self, agree, draw, dtype):
        """The mean is taken in float32, since 300² is no float16; the result has the dtype of x, whatever the weight's."""
        x, w = (draw.normal(5, 37) * 1000).to(dtype), draw.uniform(37, low=1, high=2)

        def probe(m):
            norm = loaded(m.RMSNorm(37), weight=w)
            return norm(x).detach(), norm.to(dtype)(x).detach()

        agree(probe, rtol=4e-2 if dtype == BF16 else 5e-3, atol=1e-3)

    def test_gradients(self, agree, draw):
        """Gradients of x, which also go through the root mean square, and of the weight; x strided."""
        x, w, g = draw.normal(7, 5, dtype=F64), draw.normal(7, dtype=F64), draw.normal(5, 7, dtype=F64)

        def probe(m):
            norm, a = loaded(m.RMSNorm(7).double(), weight=w), leaf(x)
            y = norm(a.t())
            return y.detach(), gradients(y, g, a, norm.weight)

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_zeros(self, agree, draw):
        """A vector of zeros gives zeros and finite gradients."""
        x, w, g = draw.normal(3, 7, dtype=F64), draw.normal(7, dtype=F64), draw.normal(3, 7, dtype=F64)
        x[1] = 0

        def probe(m):
            norm, a = loaded(m.RMSNorm(7).double(), weight=w), leaf(x)
            y = norm(a)
            return y.detach(), gradients(y, g, a, norm.weight)

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_wrong_sizes_are_refused(self, agree, draw):
        """Vectors of another size are a ValueError, also where they would broadcast."""
        x = draw.normal(3, 7)

        def probe(m):
            norm, one = m.RMSNorm(7), m.RMSNorm(1)
            bad = [(norm, x[:, :1]), (norm, x[:, :6]), (norm, x[0, :5]), (one, x)]
            return [raised(ValueError, lambda n=n, a=a: n(a)) for n, a in bad], norm(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)


@task("Embedding")
class TestEmbedding:
    @pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 0, 3)], ids=str)
    def test_looks_rows_up(self, agree, draw, shape):
        """Indices of any shape give their rows, with a dimension more."""
        w, i, more = draw.normal(11, 7), draw.integers(0, 11, *shape), draw.permutation(11)

        def probe(m):
            table = loaded(m.Embedding(11, 7), weight=w)
            return table(i).detach(), table(more).detach()

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
    def test_rows_are_copied_exactly(self, agree, draw, dtype):
        """int32 and int64 indices; a NaN or an infinity in a row that is not looked up doesn't leak; float64 keeps its digits."""
        w, i = draw.normal(11, 7, dtype=F64), draw.integers(2, 11, 3, 5).to(dtype)
        w[0], w[1, 3] = NAN, INF
        agree(lambda m: loaded(m.Embedding(11, 7).double(), weight=w)(i).detach(), rtol=0, atol=0)

    def test_gradients_add_up(self, agree, draw):
        """Each row gets the sum of the gradients of its look-ups, 0 without one."""
        w, i, g = draw.normal(7, 3, dtype=F64), draw.integers(0, 6, 5, 4), draw.normal(5, 4, 3, dtype=F64)
        i[0] = i[1, 0]

        def probe(m):
            table = loaded(m.Embedding(7, 3).double(), weight=w)
            return gradients(table(i), g, table.weight)

        agree(probe, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("padding_idx", [0, 3, -2])
    def test_padding_gets_no_gradient(self, agree, draw, padding_idx):
        """The row padding_idx gets the gradient 0 however often it is looked up; all others get theirs."""
        w, i, g = draw.normal(7, 3, dtype=F64), draw.integers(0, 7, 5, 4), draw.normal(5, 4, 3, dtype=F64)
        i[1], i[2] = padding_idx % 7, draw.permutation(7)[:4]

        def probe(m):
            table = loaded(m.Embedding(7, 3, padding_idx).double(), weight=w)
            return gradients(table(i), g, table.weight), table.padding_idx

        agree(probe, rtol=1e-10, atol=1e-10)

    def test_padding_is_looked_up_like_any_row(self, agree, draw):
        """Whatever stands in the row padding_idx is what its look-up gives, not zeros."""
        w, i = draw.normal(7, 3), draw.integers(0, 7, 5, 4)
        i[1] = 2
        agree(lambda m: loaded(m.Embedding(7, 3, padding_idx=2), weight=w)(i).detach(), rtol=0, atol=0)

    def test_padding_row_learns_from_other_uses(self, agree, draw):
        """Where weight is used in a tied output layer, the row padding_idx gets the gradient from there, and only that."""
        w, i, g = draw.normal(7, 3, dtype=F64), draw.integers(0, 7, 5), draw.normal(5, 7, dtype=F64)
        i[1] = i[3] = 4

        def probe(m):
            table = loaded(m.Embedding(7, 3, padding_idx=4).double(), weight=w)
            return gradients(table(i) @ table.weight.T, g, table.weight)

        agree(probe, rtol=1e-10, atol=1e-10)

    def test_padding_row_stays_while_training(self, agree, draw):
        """After steps of SGD, in a deep copy too, the padding row is what it was, and the others have moved."""
        w, i = draw.normal(7, 3, dtype=F64), draw.permutation(7)

        def probe(m):
            table = copy.deepcopy(loaded(m.Embedding(7, 3, padding_idx=5).double(), weight=w))
            optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                table(i).exp().sum().backward()
                optimizer.step()
            return state_of(table)

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("padding_idx", [None, 17, -1])
    def test_initial_table(self, student, draw, padding_idx):
        """The table starts standard normal, an nn.Parameter, with zeros in the row padding_idx."""
        n = draw.integer(200, 300)

        def probe(m):
            table = m.Embedding(n, 53, padding_idx)
            return table.weight.detach(), table.padding_idx, described(table), list(table.state_dict())

        weight, kept, parameters, keys = student(probe)
        rows = entries(weight, (n, 53), "weight").view(n, 53)
        expected = None if padding_idx is None else padding_idx % n
        assert kept == expected, f"padding_idx must be {expected}; it is {kept}."
        assert parameters == {"weight": (True, (n, 53), F32, "cpu", True)}, "weight must be the only parameter, and trainable."
        assert keys == ["weight"], "weight must be the only entry of state_dict()."
        if expected is not None:
            assert (rows[expected] == 0).all(), "The row padding_idx must start as zeros."
            rows = torch.cat([rows[:expected], rows[expected + 1 :]])
        check_normal(rows.flatten(), 1.0, "the entries of the table")

    def test_indices_outside_are_refused(self, agree, draw):
        """A negative index, and one that is too large, is an IndexError."""
        w, i = draw.normal(7, 3), draw.integers(0, 7, 5)

        def probe(m):
            table = loaded(m.Embedding(7, 3), weight=w)
            bad = [torch.tensor([0, -1]), torch.tensor([[7], [0]]), torch.tensor(-7)]
            return [raised(IndexError, lambda b=b: table(b)) for b in bad], table(i).detach()

        agree(probe, rtol=0, atol=0)

    def test_padding_outside_is_refused(self, agree, draw):
        """A padding_idx outside of the table is a ValueError; the first and the last one that are inside work."""
        w, i = draw.normal(7, 3), draw.integers(0, 7, 5)

        def probe(m):
            bad = [raised(ValueError, lambda p=p: m.Embedding(7, 3, p)) for p in (7, -8)]
            return bad, [m.Embedding(7, 3, p).padding_idx for p in (6, -7)], loaded(m.Embedding(7, 3), weight=w)(i).detach()

        agree(probe, rtol=0, atol=0)


GAINS = {"linear": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / 1.25)}


@task("kaiming_init_")
class TestKaimingInit:
    @pytest.mark.parametrize(("shape", "fan"), [((211, 97), 97), ((61, 43, 5), 215), ((41, 23, 3, 5), 345)], ids=str)
    def test_fan_in(self, student, draw, shape, fan):
        """By default: normal numbers of variance 2 / fan_in, where the fan counts the kernel too."""
        shape = (shape[0] + draw.integer(0, 100), *shape[1:])
        w = student(lambda m: m.kaiming_init_(torch.full(shape, NAN)))
        check_normal(entries(w, shape, "the weight"), math.sqrt(2 / fan), "the entries")

    @pytest.mark.parametrize(("shape", "fan"), [((211, 97), 211), ((61, 43, 5), 305), ((41, 23, 3, 5), 615)], ids=str)
    def test_fan_out(self, student, draw, shape, fan):
        """With mode fan_out, the variance is 2 / fan_out."""
        shape = (shape[0], shape[1] + draw.integer(0, 100), *shape[2:])
        w = student(lambda m: m.kaiming_init_(torch.full(shape, NAN), mode="fan_out"))
        check_normal(entries(w, shape, "the weight"), math.sqrt(2 / fan), "the entries")

    @pytest.mark.parametrize("nonlinearity", GAINS)
    def test_gains(self, student, draw, nonlinearity):
        """Each nonlinearity has its gain, and `a` counts for leaky ReLU alone."""
        n = draw.integer(150, 250)
        w = student(lambda m: m.kaiming_init_(torch.empty(n, 211), nonlinearity=nonlinearity, a=0.5))
        check_normal(entries(w, (n, 211), "the weight"), GAINS[nonlinearity] / math.sqrt(211), "the entries")

    @pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
    def test_uniform(self, student, draw, mode):
        """The uniform numbers have the same standard deviation: they fill ±√3 · std."""
        n = draw.integer(500, 600)
        w = student(lambda m: m.kaiming_init_(torch.empty(n, 7, 3, 3), mode=mode, distribution="uniform"))
        values, fan = entries(w, (n, 7, 3, 3), "the weight"), {"fan_in": 7 * 9, "fan_out": n * 9}[mode]
        check_uniform(values, math.sqrt(6 / fan), "the entries")

    def test_default_slope(self, student, draw):
        """Without `a`, the gain of leaky ReLU is √2, in float64 as well."""
        n = draw.integer(150, 250)
        w = student(lambda m: m.kaiming_init_(torch.empty(n, 211, dtype=F64), nonlinearity="leaky_relu"))
        check_normal(entries(w, (n, 211), "the weight", F64), math.sqrt(2 / 211), "the entries")

    @measured("flags, object identity")
    def test_in_place_without_a_graph(self, student, draw):
        """The very tensor comes back, with new values; a parameter stays a leaf that requires gradients."""
        n = draw.integer(97, 197)

        def probe(m):
            w = nn.Parameter(torch.zeros(n, 101))
            shared = w.detach()
            out = m.kaiming_init_(w)
            return out is w, w.is_leaf and w.grad_fn is None, w.requires_grad, shared, out

        same, is_leaf, trained, shared, out = student(probe)
        assert same is True, "weight itself must be returned."
        check_normal(entries(shared, (n, 101), "the weight"), math.sqrt(2 / 101), "the entries")
        assert torch.equal(shared, out), "The entries must change in place."
        assert is_leaf is True and trained is True, "A parameter must stay a leaf that requires gradients: record no graph."

    def test_views(self, student, draw):
        """A weight that is a view changes its own places in the larger tensor, and no others."""
        n = draw.integer(101, 201)

        def probe(m):
            large = torch.full((n, 2 * 89), 7.0)
            m.kaiming_init_(large[:, ::2])
            return large

        large = student(probe)
        entries(large, (n, 178), "the larger tensor")
        assert (large[:, 1::2] == 7).all(), "Entries outside of the view must not change."
        check_normal(large[:, ::2].double().flatten(), math.sqrt(2 / 89), "the entries of the view")

    @measured("the generator's state")
    @pytest.mark.parametrize("distribution", ["normal", "uniform"])
    def test_generator(self, student, draw, distribution):
        """A generator's state decides on the numbers, and the global generator is then neither used nor changed."""
        seed, n = draw.seed(), draw.integer(47, 147)

        def probe(m):
            out = []
            for state, s in (1, seed), (2, seed), (1, seed + 1):
                torch.manual_seed(state)
                before = torch.get_rng_state()
                w = m.kaiming_init_(torch.empty(n, 53), distribution=distribution, generator=torch.Generator().manual_seed(s))
                out.append((w, torch.equal(before, torch.get_rng_state())))
            return out

        results = student(probe)
        first, again, other = (entries(w, (n, 53), "the weight") for w, _ in results)
        check_mean(first.square(), 2 / 53, 2 / 53 * math.sqrt(2), "the squares of the entries")
        assert (first == again).all(), "Generators in the same state must give the same numbers."
        assert (first != other).double().mean() > 0.9, "Generators in different states must give different numbers."
        assert all(kept is True for _, kept in results), "With a generator given, torch's global generator must stay as it is."

    def test_the_global_generator_is_the_default(self, student, draw):
        """Without a generator, torch.manual_seed decides."""
        seed, n = draw.seed(), draw.integer(47, 147)

        def probe(m):
            out = []
            for s in seed, seed, seed + 1:
                torch.manual_seed(s)
                out.append(m.kaiming_init_(torch.empty(n, 53)))
            return out

        first, again, other = (entries(w, (n, 53), "the weight") for w in student(probe))
        assert (first == again).all(), "The same torch.manual_seed must give the same numbers."
        assert (first != other).double().mean() > 0.9, "Another torch.manual_seed must give other numbers."
        check_normal(first, math.sqrt(2 / 53), "the entries")

    def test_wrong_arguments_are_refused(self, student, draw):
        """One dimension, and unknown names, are ValueErrors, and the weight stays as it was."""
        x = draw.normal(7, 5)

        def probe(m):
            w = x.clone()
            bad = [{"mode": "fan"}, {"nonlinearity": "sin"}, {"distribution": "gauss"}, {"nonlinearity": "RELU", "mode": "fan_out"}]
            endings = [raised(ValueError, lambda b=b: m.kaiming_init_(w, **b)) for b in bad]
            endings += [raised(ValueError, lambda: m.kaiming_init_(w[0])), raised(ValueError, lambda: m.kaiming_init_(w[0, 0]))]
            return endings, w, m.kaiming_init_(torch.empty(97, 101))

        endings, w, good = student(probe)
        check_normal(entries(good, (97, 101), "the weight"), math.sqrt(2 / 101), "the entries")
        assert endings == [Ending("ValueError")] * 6, "Fewer than two dimensions and unknown names must raise ValueError."
        assert torch.equal(w, x), "Where a ValueError is raised, the weight must stay as it was."


def regression_data(draw, rows, columns, noise, dtype=F64):
    """Features of unequal size, two of them correlated, and targets: (x, y)."""
    z = draw.normal(rows, columns, dtype=F64)
    z[:, 1] = (z[:, 0] + math.sqrt(3) * z[:, 1]) / 2
    x = z * 10 ** draw.uniform(columns, low=-1, high=1, dtype=F64) + draw.uniform(columns, low=-15, high=15, dtype=F64)
    y = x @ draw.normal(columns, dtype=F64) + 10 * draw.normal(1, dtype=F64) + noise * draw.normal(rows, dtype=F64)
    return x.to(dtype), y.to(dtype)


def exact_predictions(x, y):
    """The exact least-squares solution's predictions, in float64."""
    x, y = x.double(), y.double()
    z = torch.cat([(x - x.mean(0)) / x.std(0), torch.ones(len(x), 1, dtype=F64)], 1)
    return z @ torch.linalg.lstsq(z, y[:, None], driver="gelsd").solution[:, 0]


def check_fit(state, error, x, y):
    """Assert that weights that came back are those of the exact least-squares solution, and the error that of its predictions."""
    right = isinstance(state, dict) and state.keys() == {"weight", "bias"}
    assert right, "state_dict() must hold weight and bias."
    D, dtype = x.shape[1], x.dtype
    weight, bias = entries(state["weight"], (D,), "weight", dtype), entries(state["bias"], (), "bias", dtype)
    exact, spread = exact_predictions(x, y), y.double().std()
    off = ((x.double() @ weight + bias - exact).abs().max() / spread).item()
    limit = 1e-4 if dtype == F64 else 1e-3
    told = f"Predictions are up to {off:.2g} standard deviations of y away from those of the exact solution; {limit} is allowed."
    assert off <= limit, told  # a NaN fails
    best = (exact - y.double()).square().mean().item()
    assert isinstance(error, float), "fit must return the mean squared error, a float."
    close = abs(error - best) <= 0.01 * best + 1e-5 * spread.item() ** 2
    assert close, f"fit must return the mean squared error after the fit, {best:.5g}; it returned {error:.5g}."


@task("LinearRegression")
class TestLinearRegression:
    @pytest.mark.parametrize(("rows", "columns"), [(211, 5), (401, 8)])
    def test_reaches_the_exact_solution(self, student, draw, rows, columns):
        """The fitted weight and bias predict as the exact solution does, on columns of very different sizes."""
        x, y = regression_data(draw, rows, columns, 0.5)

        def probe(m):
            model = m.LinearRegression(columns, dtype=F64)
            return model.fit(x, y), state_of(model)

        error, state = student(probe)
        check_fit(state, error, x, y)

    def test_single_precision(self, student, draw):
        """float32 is enough for a thousandth, and the default."""
        x, y = regression_data(draw, 211, 5, 0.5, F32)

        def probe(m):
            model = m.LinearRegression(5)
            return model.fit(x, y), state_of(model)

        error, state = student(probe)
        check_fit(state, error, x, y)

    def test_starts_anywhere_and_again(self, student, draw):
        """From far-off parameters, and again on other data, without noise, fit finds the solution for the data it gets."""
        (x1, y1), (x2, y2) = regression_data(draw, 211, 5, 0.5), regression_data(draw, 150, 5, 0.0)
        w, b = draw.normal(5, dtype=F64) * 100, draw.normal(1, dtype=F64)[0] * 100

        def probe(m):
            model, out = loaded(m.LinearRegression(5, dtype=F64), weight=w, bias=b), []
            for x, y in [(x1, y1), (x2, y2)]:
                out.append((model.fit(x, y), state_of(model)))
            return out

        (error1, state1), (error2, state2) = student(probe)
        check_fit(state1, error1, x1, y1)
        check_fit(state2, error2, x2, y2)

    @measured("flags, object identity")
    def test_same_parameters_and_same_data(self, student, draw):
        """The fit changes the parameters in place, which stay leaves, and leaves x and y as they are."""
        x, y = regression_data(draw, 211, 5, 0.5)

        def probe(m):
            model = m.LinearRegression(5, dtype=F64)
            weight, bias = model.weight, model.bias
            a, b = x.clone(), y.clone()
            error = model.fit(a, b)
            same = model.weight is weight and model.bias is bias
            leaves = all(p.is_leaf and p.requires_grad for p in (weight, bias))
            return error, state_of(model), same, leaves, a, b

        error, state, same, leaves, a, b = student(probe)
        check_fit(state, error, x, y)
        assert same is True, "weight and bias must stay the same nn.Parameters: change their entries in place."
        assert leaves is True, "The parameters must stay leaves that require gradients."
        assert torch.equal(a, x) and torch.equal(b, y), "fit must leave x and y as they are."

    @pytest.mark.parametrize("shape", [(7, 3), (3,), (2, 5, 3), (0, 3)], ids=str)
    def test_predicts(self, agree, draw, shape):
        """A row's prediction is x · weight + bias; predictions have no dimension of size 1 at the end."""
        w, b, x, one = draw.normal(3), draw.normal(1)[0], draw.normal(*shape), draw.normal(3)

        def probe(m):
            model = loaded(m.LinearRegression(3), weight=w, bias=b)
            return model(x).detach(), model(one).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_parameters_and_gradients(self, agree, draw):
        """The weight and the bias are nn.Parameters of the stated shapes, zeros at first; predictions are differentiable."""
        x, g = draw.normal(7, 3, dtype=F64), draw.normal(7, dtype=F64)

        def probe(m):
            model = m.LinearRegression(3, dtype=F64)
            start = described(model), state_of(model), described(m.LinearRegression(4))
            return start, gradients(model(x), g, model.weight, model.bias)

        agree(probe, rtol=1e-10, atol=1e-10)

    def test_targets_of_another_shape_are_refused(self, agree, draw):
        """A y of (N, 1), or of another length, is a ValueError."""
        (x, y), w = regression_data(draw, 101, 3, 0.5), draw.normal(3, dtype=F64)

        def probe(m):
            model = loaded(m.LinearRegression(3, dtype=F64), weight=w, bias=y[0])
            return [raised(ValueError, lambda t=t: model.fit(x, t)) for t in (y[:, None], y[:1], y[1:])], model(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)


@task("LogisticRegression")
class TestLogisticRegression:
    def test_logits_probabilities_and_classes(self, agree, draw):
        """Logits are x · weight + bias; probabilities their sigmoid; classes 1 where the logit is above 0. All are (N,)."""
        x, w, b = draw.normal(23, 5, dtype=F64), draw.normal(5, dtype=F64), draw.normal(1, dtype=F64)[0]

        def probe(m):
            model = loaded(m.LogisticRegression(5, dtype=F64), weight=w, bias=b)
            return model(x).detach(), model.probabilities(x).detach(), model.predict(x)

        agree(probe, rtol=1e-10, atol=1e-10)

    @measured("flags")
    def test_starts_with_zeros(self, agree, draw):
        """The parameters start as zeros: all probabilities are ½, all classes 0, and the loss is log 2, with its right gradient."""
        x, y = draw.normal(11, 5), draw.integers(0, 2, 11)

        def probe(m):
            model = m.LogisticRegression(5)
            loss = model.loss(x, y)
            loss.backward()
            start = described(model), state_of(model), model.probabilities(x).detach(), model.predict(x)
            return start, loss.detach(), model.weight.grad, model.bias.grad

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-11)], ids=["float32", "float64"])
    def test_loss_and_gradients(self, agree, draw, dtype, tolerance):
        """The mean cross-entropy over the rows, and its gradients for weight, bias and x."""
        x, w, b = draw.normal(17, 5, dtype=dtype), draw.normal(5, dtype=dtype), draw.normal(1, dtype=dtype)[0]
        y = draw.integers(0, 2, 17)

        def probe(m):
            model, a = loaded(m.LogisticRegression(5, dtype=dtype), weight=w, bias=b), leaf(x)
            loss = model.loss(a, y)
            loss.backward()
            return loss.detach(), a.grad, model.weight.grad, model.bias.grad

        agree(probe, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("kind", ["int64", "bool", "soft"])
    def test_kinds_of_targets(self, agree, draw, kind):
        """Classes as int64 or bool, and probabilities in between."""
        x, w, soft = draw.normal(17, 5), draw.normal(5), draw.uniform(17)
        y = {"int64": (soft > 0.5).long(), "bool": soft > 0.5, "soft": soft}[kind]

        def probe(m):
            model = loaded(m.LogisticRegression(5), weight=w, bias=torch.tensor(0.5))
            loss = model.loss(x, y)
            loss.backward()
            return loss.detach(), model.weight.grad

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("size", [30.0, 200.0, 10_000.0])
    @pytest.mark.parametrize("kind", ["right", "wrong", "soft"])
    def test_large_logits(self, agree, draw, size, kind):
        """Rows with huge logits lose 0 where they are right, |logit| where they are wrong, and a share of it in between."""
        z = torch.tensor([1.0, -1.0, 0.5, -0.75, 1.0])[draw.permutation(5)] * size
        y = {"right": z > 0, "wrong": z < 0, "soft": draw.integers(1, 8, 5) / 8}[kind]

        def probe(m):
            model, a = loaded(m.LogisticRegression(1), weight=torch.ones(1), bias=torch.tensor(0.0)), leaf(z[:, None])
            losses = [model.loss(row[None], label[None]) for row, label in zip(a, y, strict=True)]
            torch.stack(losses).sum().backward()
            return [loss.detach() for loss in losses], a.grad, model.probabilities(a).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("target", [0.0, 1.0, 0.25])
    def test_gradient_at_a_logit_of_zero(self, agree, draw, target):
        """Where the logit is exactly 0, the derivative is (½ − y) / N."""
        x, w = draw.normal(3, 2), draw.normal(2)
        x[1] = 0
        y = torch.tensor([0.0, target, 1.0])

        def probe(m):
            model, a = loaded(m.LogisticRegression(2), weight=w, bias=torch.tensor(0.0)), leaf(x)
            loss = model.loss(a, y)
            loss.backward()
            return loss.detach(), a.grad, model.bias.grad

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_learns_digits(self, student, draw, digits):
        """Trained on its loss by torch.optim.SGD, it tells the digits 0 to 4 from 5 to 9 on held-out images."""
        images, labels, new_images, new_labels = digits.split(draw)
        pixels = images[0].numel()
        order = draw.permutation(pixels)  # weights for another order tell nothing apart
        x, y = images.flatten(1)[:, order], labels > 4

        def probe(m):
            model = m.LogisticRegression(pixels)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
            for _ in range(80):
                optimizer.zero_grad()
                model.loss(x, y).backward()
                optimizer.step()
            return state_of(model)

        state = student(probe)
        assert isinstance(state, dict) and state.keys() == {"weight", "bias"}, "state_dict() must hold weight and bias."
        weight, bias = entries(state["weight"], (pixels,), "weight"), entries(state["bias"], (), "bias")
        share = ((new_images.flatten(1)[:, order].double() @ weight + bias > 0) == (new_labels > 4)).double().mean().item()
        assert share >= 0.8, f"After training on its loss, the model is right for {share:.1%} of held-out images; 80 % are needed."

    def test_targets_of_another_shape_are_refused(self, agree, draw):
        """A y of (N, 1), or of another length, is a ValueError."""
        x, w, y = draw.normal(7, 5), draw.normal(5), draw.integers(0, 2, 7)

        def probe(m):
            model = loaded(m.LogisticRegression(5), weight=w, bias=torch.tensor(-0.5))
            return [raised(ValueError, lambda t=t: model.loss(x, t)) for t in (y[:, None], y[:1], y[0])], model.loss(x, y).detach()

        agree(probe, rtol=1e-5, atol=1e-6)


@task("RunningMean")
class TestRunningMean:
    def test_subtracts_the_mean_of_all_rows_so_far(self, agree, draw):
        """Each call takes its rows in first, each row with the same weight, whatever the sizes of the batches."""
        batches = [draw.normal(n, 3, dtype=F64) * (n + 1) + n for n in (5, 1, 11, 2)]

        def probe(m):
            module = m.RunningMean(3, dtype=F64)
            return [(module(x), module.mean.clone(), module.count.clone()) for x in batches]

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_eval_uses_the_mean_and_keeps_it(self, agree, draw):
        """In eval mode the mean is subtracted, but not updated; before the first row it is 0."""
        x, y, z = draw.normal(5, 3) + 2, draw.normal(7, 3), draw.normal(2, 3)

        def probe(m):
            module = m.RunningMean(3)
            fresh = module.eval()(y)
            module.train()(x)
            known = module.eval()(y), state_of(module)
            return fresh, known, module.train()(z), state_of(module)

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(3,), (2, 5, 3), (2, 2, 2, 3), (0, 3), (2, 0, 3)], ids=str)
    def test_all_dimensions_but_the_last_count_rows(self, agree, draw, shape):
        """A single row, several dimensions of rows, or no rows, which change nothing."""
        first, x = draw.normal(5, 3, dtype=F64), draw.normal(*shape, dtype=F64)

        def probe(m):
            module, fresh = m.RunningMean(3, dtype=F64), m.RunningMean(3, dtype=F64)
            return module(first), module(x), state_of(module), fresh(x), state_of(fresh)

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_buffers_and_no_parameters(self, agree, draw):
        """Mean and count are buffers in state_dict(), and no parameters; nothing requires gradients."""
        x = draw.normal(5, 3)

        def probe(m):
            module = m.RunningMean(3)
            start = state_of(module)
            module(x.requires_grad_())
            grads = module.mean.requires_grad, module.count.requires_grad
            return start, state_of(module), sorted(dict(module.named_buffers())), list(described(module)), grads

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_goes_on_after_loading(self, agree, draw):
        """A module with loaded state goes on where the saved one was, as a deep copy does."""
        x, y, z = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(2, 3, dtype=F64)

        def probe(m):
            first, second = m.RunningMean(3, dtype=F64), m.RunningMean(3, dtype=F64)
            first(x)
            copied = copy.deepcopy(first)
            second.load_state_dict(state_of(first))
            return second(y), state_of(second), copied(z), state_of(copied), state_of(first)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_moves_with_the_module(self, agree, draw):
        """.double() and .to move the buffers; on the device meta the module runs, since no value is read."""
        x = draw.normal(5, 3)

        def probe(m):
            module = m.RunningMean(3)
            module(x)
            double = module.double()(x.double()), state_of(module)
            ghost = m.RunningMean(3).to("meta")
            trained, evaluated = ghost(x.to("meta")), ghost.eval()(x.to("meta"))
            return double, trained, evaluated, ghost.mean, ghost.count

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_device_and_dtype_of_the_constructor(self, agree, draw):
        """The buffers are made on the given device; dtype holds for mean alone, and is torch's default unless given."""
        x = draw.normal(5, 3).half()

        def probe(m):
            ghost, half = m.RunningMean(3, device="meta", dtype=F64), m.RunningMean(3, dtype=F16)
            made = ghost.mean, ghost.count, half.mean.clone(), half.count.clone()
            return made, half(x), state_of(in_double(lambda: m.RunningMean(4)))

        agree(probe, rtol=1e-2, atol=1e-2)

    def test_gradient_takes_the_mean_for_a_constant(self, agree, draw):
        """The gradient passes unchanged, in training and in eval mode; earlier batches' graphs are not held."""
        x, y, g = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(7, 3, dtype=F64)

        def probe(m):
            module, a, b, c = m.RunningMean(3, dtype=F64), leaf(x), leaf(y), leaf(y)
            first = module(a)
            first.sum().backward()
            second = module(b)
            return first.detach(), second.detach(), gradients(second, g, b), a.grad, gradients(module.eval()(c), g, c)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_input_is_not_changed(self, agree, draw):
        """The input comes out of the call as it went in."""
        x = draw.normal(5, 3, dtype=F64)

        def probe(m):
            y = x.clone()
            return m.RunningMean(3, dtype=F64)(y), y

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_reset(self, agree, draw):
        """After reset nothing is known, in the dtype of before; the next rows start anew."""
        x, y = draw.normal(5, 3) + 3, draw.normal(7, 3, dtype=F64)

        def probe(m):
            module = m.RunningMean(3)
            module(x)
            module.double().reset()
            return state_of(module), module(y), state_of(module)

        agree(probe, rtol=1e-6, atol=1e-6)


class Tied(nn.Module):
    """An embedding and an output layer with the same weight, and a parameter of its own."""

    def __init__(self, rows, columns):
        super().__init__()
        self.embedding = nn.Embedding(rows, columns)
        self.output = nn.Linear(columns, rows)
        self.output.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(rows))


@task("count_parameters")
class TestCountParameters:
    def test_layers(self, agree, draw):
        """Entries of weights and biases add up, through all levels."""
        p, q, r = (draw.integer(3, 20) for _ in range(3))

        def probe(m):
            inner = nn.Sequential(nn.Linear(p, q), nn.ReLU(), nn.Sequential(nn.Linear(q, r, bias=False), nn.LayerNorm(r)))
            return m.count_parameters(nn.Linear(p, q)), m.count_parameters(inner), m.count_parameters(nn.Conv2d(p, q, (3, 5)))

        agree(probe, rtol=0, atol=0)

    def test_tied_weights_count_once(self, agree, draw):
        """A weight in two places, in one module or two, counts once; so does a parameter of the model's own."""
        p, q = draw.integer(3, 20), draw.integer(3, 20)

        def probe(m):
            pair = nn.Module()
            pair.first = pair.second = nn.Parameter(torch.ones(p, q))
            return m.count_parameters(Tied(p, q)), m.count_parameters(pair)

        agree(probe, rtol=0, atol=0)

    def test_a_layer_that_is_used_twice(self, agree, draw):
        """A module in several places counts once; one with equal values is another one."""
        p = draw.integer(3, 20)

        def probe(m):
            layer = nn.Linear(p, p)
            return m.count_parameters(nn.Sequential(layer, nn.Tanh(), layer, copy.deepcopy(layer), nn.Sequential(layer)))

        agree(probe, rtol=0, atol=0)

    def test_equal_values_are_not_the_same_parameter(self, agree, draw):
        """Parameters of the same shape and values both count, as in two norms of a network."""
        p = draw.integer(3, 20)
        agree(lambda m: m.count_parameters(nn.Sequential(nn.LayerNorm(p), nn.ReLU(), nn.LayerNorm(p))), rtol=0, atol=0)

    def test_buffers_do_not_count(self, agree, draw):
        """Running statistics are no parameters."""
        p, q = draw.integer(3, 20), draw.integer(3, 20)

        def probe(m):
            return m.count_parameters(nn.Sequential(nn.Conv2d(p, q, 3), nn.BatchNorm2d(q))), m.count_parameters(nn.BatchNorm1d(p))

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    def test_frozen_parameters(self, agree, draw):
        """With trainable_only, frozen parameters are left out; without it they count."""
        p, q = draw.integer(3, 20), draw.integer(3, 20)

        def probe(m):
            model = nn.Sequential(nn.Linear(p, q), nn.Linear(q, q), nn.LayerNorm(q))
            model[0].requires_grad_(False)
            model[1].bias.requires_grad_(False)
            counts = m.count_parameters(model), m.count_parameters(model, trainable_only=True)
            return counts, m.count_parameters(model[0], trainable_only=True), [x.requires_grad for x in model.parameters()]

        agree(probe, rtol=0, atol=0)

    def test_tied_and_trainable(self, agree, draw):
        """Shared weights count once with trainable_only too."""
        p, q = draw.integer(3, 20), draw.integer(3, 20)

        def probe(m):
            model = Tied(p, q)
            before = m.count_parameters(model, trainable_only=True)
            model.output.bias.requires_grad_(False)
            return before, m.count_parameters(model, trainable_only=True), m.count_parameters(model)

        agree(probe, rtol=0, atol=0)

    def test_unusual_shapes(self, agree, draw):
        """A 0-d parameter counts 1 and an empty one 0; lists of parameters count; a model without parameters has 0."""
        p = draw.integer(3, 20)

        def probe(m):
            model = nn.Module()
            model.parts = nn.ParameterList([torch.ones(()), torch.ones(0, 5), torch.ones(p, 1, 3)])
            return (
                m.count_parameters(model),
                m.count_parameters(nn.Sequential(nn.ReLU(), nn.Flatten())),
                type(m.count_parameters(model)) is int,
            )

        agree(probe, rtol=0, atol=0)

    def test_on_the_device_meta(self, agree, draw):
        """A model of a billion parameters without values is counted as quickly as any."""
        p = draw.integer(3, 20)

        def probe(m):
            model = nn.Sequential(nn.Linear(30_000 + p, 40_000, device="meta"), nn.Linear(40_000, 10, device="meta"))
            return m.count_parameters(model), m.count_parameters(model, trainable_only=True)

        agree(probe, rtol=0, atol=0)
