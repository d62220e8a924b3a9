"""The graded suite of modules. What is random about a task is checked on the trusted side, with bounds of six standard deviations."""

import copy
import math
from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from torch import nn

from grader.testing import LAYOUTS, Ending, measured, raised, task, with_ones

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
NAN, INF = math.nan, math.inf


# Helpers for probes


def leaf(x):
    """A fresh leaf with the values of x."""
    return x.clone().requires_grad_()


def described(module):
    """The module's parameters and buffers: kind, shape, dtype, device, and whether they are trained."""
    return {
        name: (isinstance(p, nn.Parameter), tuple(p.shape), p.dtype, str(p.device), p.requires_grad)
        for name, p in [*module.named_parameters(), *module.named_buffers()]
    }


def state_of(module):
    """Copies of the module's parameters and buffers, in a plain dict."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def loaded(module, **tensors):
    """The module with copies of these tensors in its parameters, which have to have these very names."""
    module.load_state_dict({name.replace("__", "."): value for name, value in tensors.items()})
    return module


def over_time(module, x, *states):
    """What the module makes of x with each state loaded into it and after a change in place; and whether its parameters stay the same."""
    parameters, results = list(module.parameters()), []
    for state in states:
        module.eval().load_state_dict(state)
        results.append(module(x).detach())
    with torch.no_grad():
        for p in parameters:
            p.mul_(2).add_(1)
    results.append(module(x).detach())
    return results, all(p is q for p, q in zip(parameters, module.parameters(), strict=True))


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
    check_share(values.abs() > 2.5 * std, math.erfc(2.5 * math.sqrt(0.5)), f"are above 2.5 standard deviations of {std:.4g}")
    check_apart(values, name)


def check_apart(values, name):
    """Assert that (nearly) no value occurs twice, nor a value and its negative."""
    assert len(values.abs().unique()) > 0.99 * len(values), f"Many of {name} are equal, or opposite; they should be drawn one by one."


def check_rounded_once(value, exact, dtype, name):
    """Assert that a 16-bit tensor is the exact one, rounded once; entries near 0 may be sums that cancel, and are held to less."""
    off = (entries(value, exact.shape, name, dtype) - exact.flatten()).abs()
    half_digit = torch.finfo(dtype).eps / 2 * 2 ** exact.flatten().abs().log2().floor()
    clear = exact.flatten().abs() > 0.5
    assert (off[~clear] <= 0.01).all(), f"{name} is up to {off.max().item():.2g} away from what it should be."
    worst = (off / half_digit)[clear].max().item()  # 1 at most, were float32 exact
    assert worst <= 1.05, f"{name} must be computed in float32 and rounded once: its error is {worst:.3g} times that of one rounding."


@task("Linear")
class TestLinear:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
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

    @pytest.mark.parametrize("sizes", with_ones(3, 7, 5)[1:], ids=str)
    def test_sizes_of_one(self, agree, draw, sizes):
        """A batch of one, one input or one output is a dimension like any other."""
        B, d, n = sizes
        w, b, x = draw.normal(n, d), draw.normal(n), draw.normal(B, d)
        agree(lambda m: loaded(m.Linear(d, n), weight=w, bias=b)(x).detach(), rtol=1e-5, atol=1e-5)

    def test_layouts(self, agree, draw):
        """Neither x nor the weight need be contiguous; a square weight is transposed like any other."""
        pairs = {layout: (draw.normal(2, 3, 7, layout=layout), draw.normal(7, 7, layout=layout)) for layout in LAYOUTS}

        def probe(m):
            layer, out = m.Linear(7, 7, bias=False), {}
            for layout, (x, w) in pairs.items():
                layer.weight = nn.Parameter(w)
                out[layout] = layer(x).detach()
            return out

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_gradients(self, agree, draw):
        """Gradients reach x, the weight and the bias."""
        w, b, x, g = (draw.normal(*s, dtype=F64) for s in [(5, 7), (5,), (2, 3, 7), (2, 3, 5)])

        def probe(m):
            layer, a = loaded(m.Linear(7, 5, dtype=F64), weight=w, bias=b), leaf(x)
            return gradients(layer(a), g, a, layer.weight, layer.bias)

        agree(probe, rtol=1e-9, atol=1e-9)

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
        """The entries of the bias start uniform between ±1/√in_features, too, and have nothing to do with the weight's."""
        n = draw.integer(2000, 2200)
        state = student(lambda m: state_of(m.Linear(5, n)))
        b, w = entries(state["bias"], (n,), "bias"), entries(state["weight"], (n, 5), "weight")
        check_uniform(b, 1 / math.sqrt(5), "the entries of the bias")
        check_apart(torch.cat([b, w]), "the entries of weight and bias")

    def test_every_layer_has_its_own_draws(self, student, draw):
        """Two layers start differently."""
        n = draw.integer(5, 105)
        pair = student(lambda m: [m.Linear(7, n).weight.detach() for _ in range(2)])
        first, second = (entries(w, (n, 7), "weight") for w in pair)
        assert (first != second).double().mean() > 0.9, "Two layers start with the same weights; each must draw its own."

    @measured("flags")
    def test_device_and_dtype(self, agree, draw):
        """The parameters are made on the given device in the given dtype, and without one in torch's defaults."""
        w, b, x = draw.normal(5, 7), draw.normal(5), draw.normal(3, 7)

        def probe(m):
            ghost = m.Linear(7, 5, device="meta", dtype=F16)
            y = ghost(torch.empty(3, 7, device="meta", dtype=F16))
            with torch.device("meta"):
                other = m.Linear(7, 5)
            made = [described(layer) for layer in (ghost, other, in_double(lambda: m.Linear(7, 5)))]
            return made, y.detach(), loaded(m.Linear(7, 5, dtype=F32), weight=w, bias=b)(x).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("object identity")
    def test_uses_the_parameters_as_they_are_now(self, agree, draw):
        """After .double(), load_state_dict and a change in place the new values count; the parameters stay the same objects."""
        first, second = ({"weight": draw.normal(5, 7, dtype=F64), "bias": draw.normal(5, dtype=F64)} for _ in range(2))
        x = draw.normal(3, 7, dtype=F64)

        def probe(m):
            layer = m.Linear(7, 5)
            layer.eval()(x.float())
            return over_time(layer.double(), x, first, second)

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


class Same(nn.Module):
    """Returns what it gets."""

    def forward(self, value):
        return value


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

        agree(probe, rtol=1e-9, atol=1e-9)

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

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_length_and_indexing(self, agree, draw):
        """model[i] is the module in place i, from the end for negative i, an IndexError outside; a loop goes through all of them."""
        x = draw.normal(3)

        def probe(m):
            parts = [Twice(), nn.Tanh(), nn.ReLU(), nn.Sigmoid()]
            model = m.Sequential(*parts)
            by_index = [parts.index(model[i]) for i in (0, 2, 3, -1, -4)]
            by_loop = [parts.index(module) for module in model]
            outside = [raised(IndexError, lambda i=i: model[i]) for i in (4, -5, 40)]
            outside += [raised(IndexError, lambda i=i: m.Sequential()[i]) for i in (0, -1)]
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

    @pytest.mark.parametrize("kind", ["pair", "list", "number", "nothing"])
    def test_any_value_travels(self, agree, draw, kind):
        """What goes from module to module need not be a tensor: a pair, a list, the number 0, None."""
        x, y = draw.normal(3), draw.normal(5)
        first = {"pair": (x, y), "list": [y, x], "number": 0, "nothing": None}[kind]
        agree(lambda m: (m.Sequential(Swap(), Swap(), Swap())((x, y)), m.Sequential(Same(), Same())(first)), rtol=0, atol=1e-6)

    def test_containers_in_the_container(self, agree, draw):
        """Modules may be containers themselves; one that is empty, and so counts as False, is a module like any other."""
        w, b, x = draw.normal(5, 7), draw.normal(5), draw.normal(2, 7)

        def probe(m):
            model = m.Sequential(m.Sequential(), m.Sequential(linear(w, b), Twice()))
            model.append(m.Sequential()).append(m.Sequential(nn.Tanh()))
            return model(x).detach(), len(model), list(model.state_dict())

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("object identity, flags")
    def test_modules_are_left_as_they_are(self, agree, draw):
        """The modules that were given run, not copies of them, each in its own mode, whatever the container's."""
        x = draw.normal(6, 5)
        dropout, norm = nn.Dropout(0.5).eval(), nn.BatchNorm1d(5, affine=False)

        def probe(m):
            model, out = m.Sequential(dropout, norm, Twice()), []
            same = model[0] is dropout and model[-2] is norm
            for mode in (True, False):
                model.training = mode
                out.append((model(x), dropout.training, norm.training))
            norm.reset_running_stats()
            return same, out

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_building_changes_no_mode(self, agree, draw):
        """Modules keep their modes, training or eval, when a container is made of them, when one is appended, and in a call."""
        x, modes = draw.normal(6, 5), draw.bools(4).tolist()
        parts = [nn.Sequential(nn.Tanh(), nn.Tanh()).train(mode) for mode in [*modes, True, False]]

        def probe(m):
            model = m.Sequential(*parts[:4])
            for part in parts[4:]:
                model.append(part)
            return model(x), model[1](x), len(model)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_functions_are_refused(self, agree, draw):
        """What is no nn.Module, None and a class included, is a TypeError, in the constructor and in append, which then adds nothing."""
        x = draw.normal(3)

        def probe(m):
            model, bad = m.Sequential(Twice()), []
            for other in (torch.relu, nn.ReLU, None):
                bad += [raised(TypeError, lambda o=other: m.Sequential(Twice(), o)), raised(TypeError, lambda o=other: model.append(o))]
            return bad, len(model), model(x)

        agree(probe, rtol=0, atol=1e-6)


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
    @pytest.mark.parametrize("sizes", [(5, 7, 3), (3, 11, 5, 2), [2, 4, 4, 4, 4, 4, 3]], ids=str)
    def test_applies_layers_and_activations(self, agree, draw, sizes):
        """ReLU stands between each two layers and not after the last one: outputs below 0 remain."""
        state, x = mlp_state(draw, sizes), draw.normal(13, sizes[0], dtype=F64)
        agree(lambda m: mlp(m, sizes, state)(x).detach(), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("sizes", with_ones(5, 7, 3)[1:], ids=str)
    def test_sizes_of_one(self, agree, draw, sizes):
        """One input, one hidden entry, one output, a batch of one: dimensions like any other."""
        state, x = mlp_state(draw, sizes), draw.normal(6, sizes[0], dtype=F64)

        def probe(m):
            model = mlp(m, sizes, state)
            return model(x).detach(), model(x[:1]).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_two_sizes_are_one_linear_layer(self, agree, draw):
        """Without a hidden layer there is no activation at all, neither before nor after the layer."""
        state, x = mlp_state(draw, (7, 5)), draw.normal(11, 7, dtype=F64)
        agree(lambda m: mlp(m, (7, 5), state)(x).detach(), rtol=1e-9, atol=1e-9)

    def test_other_activation(self, agree, draw):
        """The activation that is given is used, for every hidden layer."""
        sizes = (5, 7, 11, 3)
        state, x = mlp_state(draw, sizes), draw.normal(6, 5, dtype=F64)
        agree(lambda m: mlp(m, sizes, state, activation=torch.tanh)(x).detach(), rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("sizes", [(2, 3), (5, 7, 3), (3, 11, 5, 5, 2)], ids=str)
    def test_every_layer_is_registered(self, agree, draw, sizes):
        """The layers are a ModuleList of nn.Linear; the parameters have the stated names and shapes, and are all there is."""
        state, x = mlp_state(draw, sizes), draw.normal(2, sizes[0], dtype=F64)

        def probe(m):
            model = m.MLP(sizes)
            kinds = isinstance(model.layers, nn.ModuleList), [isinstance(layer, nn.Linear) for layer in model.layers]
            return kinds, described(model), sorted(model.state_dict()), mlp(m, sizes, state)(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_gradients_reach_every_layer(self, agree, draw):
        """Gradients of all parameters and of x."""
        sizes = (5, 7, 11, 3)
        state, x, g = mlp_state(draw, sizes), draw.normal(6, 5, dtype=F64), draw.normal(6, 3, dtype=F64)

        def probe(m):
            model, a = mlp(m, sizes, state, activation=torch.sigmoid), leaf(x)
            return gradients(model(a), g, a, *model.parameters())

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_layouts(self, agree, draw):
        """An x need not be contiguous."""
        sizes = (5, 7, 3)
        state, xs = mlp_state(draw, sizes), {layout: draw.normal(2, 3, 5, dtype=F64, layout=layout) for layout in LAYOUTS}
        agree(lambda m: {layout: mlp(m, sizes, state)(x).detach() for layout, x in xs.items()}, rtol=1e-9, atol=1e-9)

    @measured("object identity")
    def test_uses_the_parameters_as_they_are_now(self, agree, draw):
        """After load_state_dict and a change in place, in eval mode too, the new values count; the parameters stay the same objects."""
        sizes = (5, 7, 3)
        first, second, x = mlp_state(draw, sizes), mlp_state(draw, sizes), draw.normal(6, 5, dtype=F64)
        agree(lambda m: over_time(m.MLP(sizes, activation=torch.tanh).double(), x, first, second), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (0, 5)], ids=str)
    def test_any_batch_dimensions(self, agree, draw, shape):
        """The layers act on the last dimension."""
        sizes = (5, 7, 3)
        state, x, one = mlp_state(draw, sizes), draw.normal(*shape, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            model = mlp(m, sizes, state)
            return model(x).detach(), model(one).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_layers_start_as_torch_makes_them(self, student, draw):
        """Every layer starts with draws of its own, weights and biases, in the bounds of nn.Linear."""
        n = draw.integer(97, 147)
        sizes = (n, n, n, n)
        state = student(lambda m: state_of(m.MLP(sizes)))
        weights = [entries(state[f"layers.{i}.weight"], (n, n), "weight") for i in range(3)]
        biases = [entries(state[f"layers.{i}.bias"], (n,), "bias") for i in range(3)]
        for weight in weights:
            check_uniform(weight, 1 / math.sqrt(n), "the entries of a weight")
        check_uniform(torch.cat(biases), 1 / math.sqrt(n), "the entries of the biases")
        assert all((weights[i] != weights[i - 1]).double().mean() > 0.9 for i in range(3)), "Layers must not share their weights."

    def test_too_few_sizes(self, agree, draw):
        """Fewer than two sizes are a ValueError, and the sizes are left as they are."""
        state, x, sizes, one = mlp_state(draw, (5, 7, 3)), draw.normal(2, 5, dtype=F64), [5, 7, 3], [5]

        def probe(m):
            y = mlp(m, sizes, state)(x).detach()
            return y, sizes, [raised(ValueError, lambda few=few: m.MLP(few)) for few in (one, (), [])]

        agree(probe, rtol=1e-3, atol=1e-4)


def check_dropped(y, x, p, name="the result"):
    """Assert that y is x with entries dropped with probability p, and the others scaled."""
    given = x
    y, x = entries(y, x.shape, name, x.dtype), x.double().flatten()
    dropped = y == 0
    check_share(dropped, p, f"are 0 for p = {p}")
    kept = ~dropped
    error = (y[kept] * (1 - p) / x[kept] - 1).abs().max().item()
    limit = 1e-10 if given.dtype == F64 else 1e-5
    assert error < limit, f"Kept entries must be x / (1 − p), for p = {p}; the largest relative error is {error:.2g}."
    return dropped


@task("Dropout")
class TestDropout:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
    def test_drops_and_scales(self, student, draw, p):
        """While training, a share of p becomes 0 and the rest is divided by 1 − p."""
        x = draw.magnitudes(97, 101, low=1e-30, high=1e30)
        check_dropped(student(lambda m: m.Dropout(p)(x)), x, p)

    def test_keeps_the_expectation(self, student, draw):
        """The mean over 10,000 ones or more is 1, for the default p = 0.5 and for others, with or without gradients."""
        ps, ones = [0.5, 0.2, 0.9], torch.ones(100, draw.integer(100, 200))

        def probe(m):
            with torch.no_grad():
                return [m.Dropout()(ones), *[m.Dropout(p)(ones) for p in (0.2, 0.9)]]

        results = student(probe)
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
        for dim, size in enumerate(x.shape):
            half = size // 2
            same = masks[0].narrow(dim, 0, half) == masks[0].narrow(dim, half, half)
            check_share(same, 0.5, "have the same fate as those of the tensor's other half")

    def test_the_number_dropped_varies(self, student, draw):
        """Entries are dropped with probability p each: how many, is left to chance too."""
        x = draw.uniform(10, 10, low=1, high=2)

        def probe(m):
            drop = m.Dropout(0.5)
            return torch.stack([drop(x) for _ in range(60)])

        y = student(probe)
        check_dropped(y, x.expand(60, 10, 10), 0.5)
        spread = (y == 0).double().sum((1, 2)).var().item()  # 25, give or take 4.6
        assert 5 < spread < 70, f"The number of entries dropped of 100 has the variance {spread:.3g} over 60 calls; it should be about 25."

    def test_layouts_and_sizes_of_one(self, student, draw):
        """Each entry is drawn by itself whatever the layout of x, repeated rows included, and along dimensions of size 1."""
        xs = [draw.uniform(*shape, low=1, high=2, layout=layout) for shape in with_ones(31, 37, 2) for layout in LAYOUTS]
        results = student(lambda m: [m.Dropout(0.5)(x) for x in xs])
        for y, x in zip(results, xs, strict=True):
            mask = check_dropped(y, x, 0.5).view(x.shape)
            for dim, size in enumerate(x.shape):
                if size > 1:
                    same = mask.narrow(dim, 0, 1) == mask.narrow(dim, 1, 1)
                    check_share(same, 0.5, "have the same fate as the next in their row or column")

    def test_small_probability_in_bfloat16(self, student, draw):
        """The probability is exact in every dtype: bfloat16 random numbers would drop twice as many as a p of 0.002."""
        x = 1 + draw.integers(0, 4, 300, 401).to(BF16)
        y = student(lambda m: m.Dropout(0.002)(x))
        values = entries(y, x.shape, "the result", BF16)
        kept = values != 0
        check_share(~kept, 0.002, "are 0 for p = 0.002")
        assert (values / x.double().flatten() - 1)[kept].abs().max() < 0.01, "Kept entries must be x / (1 − p), for p = 0.002."

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

    def test_eval_draws_nothing(self, agree, draw):
        """In eval mode the gradient passes unchanged, and torch's generator is left alone."""
        x, g = draw.normal(5, 7), draw.normal(5, 7)

        def probe(m):
            drop, a = m.Dropout(0.5).eval(), leaf(x)
            return gradients(drop(a), g, a), drop(x)

        agree(probe, rtol=0, atol=0)

    def test_nothing_or_everything(self, student, draw):
        """With p = 0 all values stay; with p = 1 all are 0, and so is the gradient."""
        x = draw.normal(7, 5)

        def probe(m):
            a = leaf(x)
            y = m.Dropout(1.0)(a)
            (y + 0 * a).sum().backward()  # zeros without a graph will do
            drop = m.Dropout(0.0)
            zero = drop(x)
            drop.p = 1
            return zero, y.detach(), a.grad, drop(x)

        zero, one, grad, later = student(probe)
        assert (entries(later, x.shape, "the result for p = 1") == 0).all(), "With p = 1, set later, every entry must be 0."
        assert (entries(zero, x.shape, "the result for p = 0") == x.double().flatten()).all(), "With p = 0 the values must be those of x."
        assert (entries(one, x.shape, "the result for p = 1") == 0).all(), "With p = 1 every entry must be 0."
        assert (entries(grad, x.shape, "the gradient for p = 1") == 0).all(), "With p = 1 the gradient must be 0."

    @pytest.mark.parametrize("dtype", [F16, BF16, F64], ids=str)
    def test_dtypes_and_shapes(self, student, draw, dtype):
        """Shape and dtype are those of x: 16 bits, 64 bits, no dimensions, no entries."""
        x = (1 + draw.integers(0, 4, 5, 3, 601).to(dtype)) / 3  # doubled exactly in every dtype

        def probe(m):
            drop = m.Dropout(0.5)
            return drop(x), drop(x[0, 0, 0]), drop(x[:0])

        y, number, empty = student(probe)
        check_dropped(y, x, 0.5)
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
            y = drop(x)
            return before, y, list(drop.state_dict()), len([*drop.parameters(), *drop.buffers()])

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
    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
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

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("shape", [(5, 7), [7], (3, 5, 7)], ids=str)
    def test_several_dimensions_at_once(self, agree, draw, shape):
        """With several sizes, mean and variance go over all of these dimensions together."""
        x, w, b = draw.normal(2, 3, 5, 7, dtype=F64) * 2 + 1, draw.normal(*shape, dtype=F64), draw.normal(*shape, dtype=F64)

        def probe(m):
            norm = m.LayerNorm(shape)
            return norm.normalized_shape, described(norm), loaded(norm.double(), weight=w, bias=b)(x).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    def test_starts_as_the_plain_normalisation(self, agree, draw):
        """The weight starts as ones, bias as zeros, nn.Parameters in torch's default dtype; an int is a shape of one dimension."""
        d = draw.integer(5, 13)
        x = draw.normal(5, d) * 3 + 2

        def probe(m):
            norm, double = m.LayerNorm(d), in_double(lambda: m.LayerNorm([3, d]))
            return described(norm), state_of(norm), norm.normalized_shape, norm(x).detach(), described(double)

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", with_ones(3, 5, 7)[1:], ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """Dimensions of size 1 are normalised over like others; a vector of one entry gives the bias."""
        x, w, b = draw.normal(*shape, dtype=F64), draw.normal(*shape[1:], dtype=F64), draw.normal(*shape[1:], dtype=F64)
        v, c = draw.normal(1, dtype=F64), draw.normal(1, dtype=F64)

        def probe(m):
            one = loaded(m.LayerNorm(1).double(), weight=v, bias=c)
            return loaded(m.LayerNorm(shape[1:]).double(), weight=w, bias=b)(x).detach(), one(x[..., :1]).detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F16, 1e-2)], ids=["float64", "float16"])
    def test_without_weight_and_bias(self, agree, draw, dtype, tolerance):
        """Without elementwise_affine there are no parameters, and the vectors are only normalised."""
        x = draw.normal(3, 5, 7, dtype=dtype) * 3 + 2

        def probe(m):
            norm = m.LayerNorm((5, 7), elementwise_affine=False)
            return norm.weight, norm.bias, list(norm.state_dict()), norm(x)

        agree(probe, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("eps", [0.5, 0.0])
    def test_eps_is_added_to_the_variance(self, agree, draw, eps):
        """The eps stands under the root, which shows where the variance is small; it is 1e-5 unless given, and may be 0."""
        x = draw.normal(5, 7, dtype=F64) * 1e-2
        agree(lambda m: (m.LayerNorm(7).double()(x).detach(), m.LayerNorm(7, eps)(x).detach()), rtol=1e-9, atol=1e-9)

    def test_small_spread_around_a_large_mean(self, agree, draw):
        """Numbers around 2,000 that differ by about 1 keep their precision in float32."""
        x = draw.normal(23, 31) + 2000
        agree(lambda m: m.LayerNorm(31)(x).detach(), rtol=0, atol=1e-2)

    def test_every_magnitude(self, agree, draw):
        """Vectors of tiny and of huge numbers, from 1e-10 to 1e15 in float32, each come out right."""
        scales = torch.logspace(-10, 15, 26)[:, None]
        x, unit = draw.normal(26, 37) * scales, (scales.double().square() + 1e-5).sqrt() / scales
        agree(lambda m: m.LayerNorm(37)(x).detach() * unit, rtol=1e-4, atol=1e-4)

    def test_vectors_are_independent(self, agree, draw):
        """A NaN or an infinity in one vector reaches neither the values nor the gradients of others."""
        bad = torch.arange(5) % 2 == 1
        x, g = draw.poisoned(draw.normal(5, 7, dtype=F64), bad[:, None]), draw.normal(3, 7, dtype=F64)

        def probe(m):
            norm, a = m.LayerNorm(7).double(), leaf(x)
            y = norm(a)[~bad]
            return y.detach(), gradients(y, g, a)[0][~bad]

        agree(probe, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
    def test_sixteen_bits(self, student, draw, dtype):
        """Squares of 1,000 exceed float16: computed in float32, weight and bias included, and rounded once to the dtype of x."""
        x, w, b = (draw.normal(5, 37) * 1000).to(dtype), draw.uniform(37, low=1, high=2), draw.normal(37)

        def probe(m):
            norm = loaded(m.LayerNorm(37), weight=w, bias=b)
            return norm(x).detach(), norm.to(dtype)(x).detach()

        h = x.double() - x.double().mean(-1, keepdim=True)
        h = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        for y, kind in zip(student(probe), (F32, dtype), strict=True):
            exact = h * w.to(kind).double() + b.to(kind).double()
            check_rounded_once(y, exact, dtype, f"the result with parameters in {str(kind)[6:]}")

    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_parameters_of_another_dtype(self, agree, draw, dtype, tolerance):
        """The precision and the dtype are those of x, whatever the parameters'."""
        x, w, b = draw.normal(5, 7, dtype=dtype) * 3 + 2, draw.integers(-8, 8, 7) / 4, draw.integers(-8, 8, 7) / 4
        other = F32 if dtype == F64 else F64
        agree(lambda m: loaded(m.LayerNorm(7).to(other), weight=w, bias=b)(x).detach(), rtol=tolerance, atol=tolerance)

    def test_layouts(self, agree, draw):
        """Neither x nor weight and bias need be contiguous."""
        triples = {layout: (draw.normal(2, 5, 7, layout=layout), *draw.normal(2, 5, 7, layout=layout)) for layout in LAYOUTS}

        def probe(m):
            norm, out = m.LayerNorm((5, 7)), {}
            for layout, (x, w, b) in triples.items():
                norm.weight, norm.bias = nn.Parameter(w), nn.Parameter(b)
                out[layout] = norm(x).detach()
            return out

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("object identity")
    def test_uses_the_parameters_as_they_are_now(self, agree, draw):
        """After load_state_dict and a change in place, in eval mode too, the new values count; the parameters stay the same objects."""
        first, second = ({"weight": draw.normal(7, dtype=F64), "bias": draw.normal(7, dtype=F64)} for _ in range(2))
        x = draw.normal(5, 7, dtype=F64)
        agree(lambda m: over_time(m.LayerNorm(7).double(), x, first, second), rtol=1e-9, atol=1e-9)

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

        agree(probe, rtol=1e-3, atol=1e-4)


@task("RMSNorm")
class TestRMSNorm:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
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

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("shape", with_ones(5, 7)[1:], ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """A single vector, and vectors of one entry, which become ±1 times the weight."""
        x, w = draw.normal(*shape, dtype=F64), draw.normal(shape[-1], dtype=F64)
        agree(lambda m: loaded(m.RMSNorm(shape[-1]).double(), weight=w)(x).detach(), rtol=1e-9, atol=1e-9)

    @measured("flags")
    def test_starts_with_ones(self, agree, draw):
        """The weight is an nn.Parameter of ones in torch's default dtype, the only entry of the state."""
        d = draw.integer(5, 13)
        x = draw.normal(3, d)

        def probe(m):
            norm, double = m.RMSNorm(d), in_double(lambda: m.RMSNorm(d + 1))
            return described(norm), state_of(norm), norm(x).detach(), described(double)

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("eps", [0.5, 0.0])
    def test_eps_is_added_to_the_mean_square(self, agree, draw, eps):
        """The eps stands under the root, which shows where x is small; it is 1e-6 unless given, and may be 0."""
        x = draw.normal(5, 7, dtype=F64) * 2e-3
        agree(lambda m: (m.RMSNorm(7)(x).detach(), m.RMSNorm(7, eps)(x).detach()), rtol=1e-9, atol=1e-12)

    def test_every_magnitude(self, agree, draw):
        """Vectors of tiny and of huge numbers, from 1e-10 to 1e15 in float32, each come out right."""
        scales = torch.logspace(-10, 15, 26)[:, None]
        x, unit = draw.normal(26, 37) * scales, (scales.double().square() + 1e-6).sqrt() / scales
        agree(lambda m: m.RMSNorm(37)(x).detach() * unit, rtol=1e-4, atol=1e-4)

    def test_vectors_are_independent(self, agree, draw):
        """A NaN or an infinity in one vector reaches neither the values nor the gradients of others."""
        bad = torch.arange(5) % 2 == 1
        x, g = draw.poisoned(draw.normal(5, 7, dtype=F64), bad[:, None]), draw.normal(3, 7, dtype=F64)

        def probe(m):
            norm, a = m.RMSNorm(7).double(), leaf(x)
            y = norm(a)[~bad]
            return y.detach(), gradients(y, g, a)[0][~bad]

        agree(probe, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
    def test_sixteen_bits(self, student, draw, dtype):
        """Computed in float32, since 300² is no float16, weight included, and rounded once to the dtype of x, whatever the weight's."""
        x, w = (draw.normal(5, 37) * 1000).to(dtype), draw.uniform(37, low=1, high=2)

        def probe(m):
            norm = loaded(m.RMSNorm(37), weight=w)
            return norm(x).detach(), norm.to(dtype)(x).detach()

        h = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
        for y, kind in zip(student(probe), (F32, dtype), strict=True):
            check_rounded_once(y, h * w.to(kind).double(), dtype, f"the result with a weight in {str(kind)[6:]}")

    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_weight_of_another_dtype(self, agree, draw, dtype, tolerance):
        """The precision and the dtype are those of x, whatever the weight's."""
        x, w, other = draw.normal(5, 7, dtype=dtype) * 3 + 2, draw.integers(-8, 8, 7) / 4, F32 if dtype == F64 else F64
        agree(lambda m: loaded(m.RMSNorm(7).to(other), weight=w)(x).detach(), rtol=tolerance, atol=tolerance)

    def test_layouts(self, agree, draw):
        """Neither x nor the weight need be contiguous."""
        pairs = {layout: (draw.normal(5, 3, 7, layout=layout), draw.normal(7, 5, layout=layout)[:, 0]) for layout in LAYOUTS}

        def probe(m):
            norm, out = m.RMSNorm(7), {}
            for layout, (x, w) in pairs.items():
                norm.weight = nn.Parameter(w)
                out[layout] = norm(x).detach()
            return out

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("object identity")
    def test_uses_the_weight_as_it_is_now(self, agree, draw):
        """After load_state_dict and a change in place, in eval mode too, the new values count; the weight stays the same object."""
        first, second, x = {"weight": draw.normal(7, dtype=F64)}, {"weight": draw.normal(7, dtype=F64)}, draw.normal(5, 7, dtype=F64)
        agree(lambda m: over_time(m.RMSNorm(7).double(), x, first, second), rtol=1e-9, atol=1e-9)

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

        agree(probe, rtol=1e-3, atol=1e-4)


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
        w, i = draw.normal(311, 7, dtype=F64), draw.integers(2, 311, 3, 5).to(dtype)
        w[0], w[1, 3] = NAN, INF
        agree(lambda m: loaded(m.Embedding(311, 7).double(), weight=w)(i).detach(), rtol=0, atol=0)

    @pytest.mark.parametrize("padding_idx", [None, 0, 3])
    def test_infinities_are_looked_up(self, agree, draw, padding_idx):
        """A NaN or an infinity in a row that is looked up comes back as it is, and only there, padding or not."""
        w, i = draw.normal(7, 4), draw.permutation(7)
        w[0, 1], w[2, 0], w[2, 3], w[3, 2], w[5, 1] = INF, NAN, INF, -INF, -INF
        agree(lambda m: loaded(m.Embedding(7, 4, padding_idx), weight=w)(i).detach(), rtol=0, atol=0)

    @pytest.mark.parametrize("sizes", with_ones(2, 5, 7, 3)[1:], ids=str)
    def test_sizes_of_one(self, agree, draw, sizes):
        """One index, one row, vectors of one entry: dimensions like any other, with padding too."""
        *shape, n, d = sizes
        w, i, g = draw.normal(n, d, dtype=F64), draw.integers(0, n, *shape), draw.normal(*shape, d, dtype=F64)

        def probe(m):
            table = loaded(m.Embedding(n, d, -1).double(), weight=w)
            y = table(i)
            return y.detach(), gradients(y, g, table.weight), table.padding_idx

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_layouts(self, agree, draw):
        """The indices and the table may be non-contiguous."""
        pairs = {layout: (draw.integers(0, 7, 5, 4, layout=layout), draw.normal(7, 3, layout=layout)) for layout in LAYOUTS}

        def probe(m):
            table, out = m.Embedding(7, 3, padding_idx=2), {}
            for layout, (i, w) in pairs.items():
                table.weight = nn.Parameter(w)
                out[layout] = table(i).detach()
            return out

        agree(probe, rtol=0, atol=0)

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

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_padding_passes_no_infinite_gradient(self, agree, draw):
        """A NaN or an infinity in the gradient for padding goes nowhere, like any gradient for padding."""
        w, i = draw.normal(7, 3, dtype=F64), draw.integers(0, 7, 5, 4)
        i[1] = 2
        g = draw.poisoned(draw.normal(5, 4, 3, dtype=F64), (i == 2)[..., None])

        def probe(m):
            table = loaded(m.Embedding(7, 3, padding_idx=2).double(), weight=w)
            return gradients(table(i), g, table.weight)

        agree(probe, rtol=1e-9, atol=1e-9)

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

    @measured("object identity")
    def test_uses_the_table_as_it_is_now(self, agree, draw):
        """After load_state_dict and a change in place, in eval mode too, the new rows are looked up; the weight stays the same object."""
        first, second, i = {"weight": draw.normal(7, 3, dtype=F64)}, {"weight": draw.normal(7, 3, dtype=F64)}, draw.permutation(7)
        agree(lambda m: over_time(m.Embedding(7, 3, padding_idx=3).double(), i, first, second), rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("padding_idx", [None, 0, 17, -1])
    def test_initial_table(self, student, draw, padding_idx):
        """The table starts standard normal, an nn.Parameter in torch's default dtype, with zeros in the row padding_idx."""
        n = draw.integer(200, 300)

        def probe(m):
            table, double = m.Embedding(n, 53, padding_idx), in_double(lambda: m.Embedding(n, 3, padding_idx))
            return table.weight.detach(), table.padding_idx, described(table), list(table.state_dict()), double.weight.dtype == F64

        weight, kept, parameters, keys, default = student(probe)
        assert default is True, "The table must be made in torch's default dtype."
        rows = entries(weight, (n, 53), "weight").view(n, 53)
        expected = None if padding_idx is None else padding_idx % n
        assert kept == expected, f"padding_idx must be {expected}; it is {kept}."
        assert parameters == {"weight": (True, (n, 53), F32, "cpu", True)}, "weight must be the only parameter, and trainable."
        assert keys == ["weight"], "weight must be the only entry of state_dict()."
        if expected is not None:
            assert (rows[expected] == 0).all(), "The row padding_idx must start as zeros."
            rows = torch.cat([rows[:expected], rows[expected + 1 :]])
        check_normal(rows.flatten(), 1.0, "the entries of the table")

    @pytest.mark.parametrize("padding_idx", [None, 0])
    def test_every_table_has_its_own_draws(self, student, draw, padding_idx):
        """Two tables start differently, and those that are made after another torch.manual_seed differ from both."""
        n, seed = draw.integer(50, 150), draw.seed()

        def probe(m):
            first, second = m.Embedding(n, 7, padding_idx), m.Embedding(n, 7, padding_idx)
            torch.manual_seed(seed)
            return [table.weight.detach()[1:] for table in (first, second, m.Embedding(n, 7, padding_idx))]

        rows = torch.cat([entries(rows, (n - 1, 7), "weight") for rows in student(probe)])
        check_normal(rows, 1.0, "the entries of three tables")

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
    @pytest.mark.parametrize(
        ("shape", "fan"), [((211, 97), 97), ((61, 43, 5), 215), ((41, 23, 3, 5), 345), ((9001, 1), 1), ((53, 7, 5, 2, 3), 210)], ids=str
    )
    def test_fan_in(self, student, draw, shape, fan):
        """By default: normal numbers of variance 2 / fan_in, where the fan counts the kernel too."""
        shape = (shape[0] + draw.integer(0, 100), *shape[1:])
        w = student(lambda m: m.kaiming_init_(torch.full(shape, NAN)))
        check_normal(entries(w, shape, "the weight"), math.sqrt(2 / fan), "the entries")

    @pytest.mark.parametrize(("shape", "fan"), [((211, 97), 211), ((61, 43, 5), 305), ((41, 23, 3, 5), 615), ((1, 9001), 1)], ids=str)
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

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, student, draw, recording):
        """Whether autograd records is after the call what it was before, under no_grad, too."""
        n = draw.integer(97, 197)

        def probe(m):
            with torch.set_grad_enabled(recording):
                w = m.kaiming_init_(nn.Parameter(torch.zeros(n, 101)))
                return w.detach(), torch.is_grad_enabled()

        w, kept = student(probe)
        check_normal(entries(w, (n, 101), "the weight"), math.sqrt(2 / 101), "the entries")
        assert kept is recording, f"torch.is_grad_enabled() is {recording} before the call, and must be after it."

    @pytest.mark.parametrize("distribution", ["normal", "uniform"])
    def test_views(self, student, draw, distribution):
        """A weight that is a view, every second column or a transposed one, changes its own places in the larger tensor and no others."""
        n = draw.integer(101, 201)

        def probe(m):
            large, other = torch.full((n, 2 * 89), 7.0), torch.full((89, n), 7.0)
            m.kaiming_init_(large[:, ::2], distribution=distribution)
            m.kaiming_init_(other.T, distribution=distribution)
            return large, other

        large, other = student(probe)
        columns, std = entries(large, (n, 178), "the larger tensor").view(n, 178), math.sqrt(2 / 89)
        assert (columns[:, 1::2] == 7).all(), "Entries outside of the view must not change."
        for values in columns[:, ::2].flatten(), entries(other, (89, n), "the transposed tensor"):
            if distribution == "normal":
                check_normal(values, std, "the entries of the view")
            else:
                check_uniform(values, math.sqrt(3) * std, "the entries of the view")

    @pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
    def test_sixteen_bits(self, student, draw, dtype):
        """A weight in a 16-bit dtype gets numbers of the same size in its dtype."""
        n = draw.integer(150, 250)
        values = entries(student(lambda m: m.kaiming_init_(torch.empty(n, 211, dtype=dtype))), (n, 211), "the weight", dtype)
        std = math.sqrt(2 / 211)
        check_mean(values, 0, std, "the entries")
        check_mean(values.square(), std**2, std**2 * math.sqrt(2), "the squares of the entries")

    @pytest.mark.parametrize("distribution", ["normal", "uniform"])
    def test_generator(self, student, draw, distribution):
        """A generator's state decides on the numbers, and the global generator is then neither used nor changed."""
        seed, n = draw.seed(), draw.integer(47, 147)

        def probe(m):
            make = lambda s: torch.Generator().manual_seed(s)  # noqa: E731
            return [m.kaiming_init_(torch.empty(n, 53), distribution=distribution, generator=make(s)) for s in (seed, seed, seed + 1)]

        first, again, other = (entries(w, (n, 53), "the weight") for w in student(probe))
        check_mean(first.square(), 2 / 53, 2 / 53 * math.sqrt(2), "the squares of the entries")
        assert (first == again).all(), "Generators in the same state must give the same numbers."
        assert (first != other).double().mean() > 0.9, "Generators in different states must give different numbers."

    def test_generator_goes_on(self, student, draw):
        """Two calls with the same generator, one after the other, give different numbers."""
        seed, n = draw.seed(), draw.integer(97, 147)

        def probe(m):
            generator = torch.Generator().manual_seed(seed)
            return [m.kaiming_init_(torch.empty(n, 53), generator=generator) for _ in range(2)]

        values = torch.cat([entries(w, (n, 53), "the weight") for w in student(probe)])
        check_normal(values, math.sqrt(2 / 53), "the entries")

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
        """One dimension, and unknown names, are ValueErrors, and weight and generator stay as they were."""
        w, n, generator = draw.normal(7, 5), draw.integer(97, 197), torch.Generator().manual_seed(draw.seed())
        bad = [{"mode": "fan"}, {"nonlinearity": "sin"}, {"distribution": "gauss"}, {"nonlinearity": "RELU", "mode": "fan_out"}]

        def probe(m):
            endings = [raised(ValueError, lambda b=b: m.kaiming_init_(w, generator=generator, **b)) for b in bad]
            endings += [raised(ValueError, lambda v=v: m.kaiming_init_(v, generator=generator)) for v in (w[0], w[0, 0])]
            return endings, m.kaiming_init_(torch.empty(n, 101))

        endings, good = student(probe)
        check_normal(entries(good, (n, 101), "the weight"), math.sqrt(2 / 101), "the entries")
        assert endings == [Ending("ValueError")] * 6, "Fewer than two dimensions and unknown names must raise ValueError."


def regression_data(draw, rows, columns, noise, dtype=F64, size=1.0):
    """Features of unequal size, all of them correlated, and targets of about this size: (x, y)."""
    z = math.sqrt(0.4) * draw.normal(rows, columns, dtype=F64) + math.sqrt(0.6) * draw.normal(rows, 1, dtype=F64)
    scales, means = 10 ** draw.uniform(columns, low=-1, high=1, dtype=F64), draw.uniform(columns, low=-15, high=15, dtype=F64)
    scales[-1], scales[0], means[0] = 16.0, 0.06, 19.5
    y = z @ draw.normal(columns, dtype=F64) + 3 * draw.normal(1, dtype=F64) + noise * draw.normal(rows, dtype=F64)
    return (z * scales + means).to(dtype), (size * y).to(dtype)


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
    @pytest.mark.parametrize("shape", [(7, 3), (3,), (2, 5, 3), (0, 3)], ids=str)
    def test_predicts(self, agree, draw, shape):
        """A row's prediction is x · weight + bias; predictions have no dimension of size 1 at the end."""
        w, b, x, one = draw.normal(3), draw.normal(1)[0], draw.normal(*shape), draw.normal(3)

        def probe(m):
            model = loaded(m.LinearRegression(3), weight=w, bias=b)
            return model(x).detach(), model(one).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("object identity")
    def test_predicts_in_any_layout(self, agree, draw):
        """An x may be non-contiguous, or have a single column or row; a loaded state and a change in place count."""
        xs, states = (
            {layout: draw.normal(7, 3, layout=layout) for layout in LAYOUTS},
            [{"weight": draw.normal(3), "bias": draw.normal(1)[0]}],
        )
        states += [{"weight": draw.normal(3), "bias": draw.normal(1)[0]}]
        column, w, b = draw.normal(5, 1), draw.normal(1), draw.normal(1)[0]

        def probe(m):
            single = loaded(m.LinearRegression(1), weight=w, bias=b)
            values = {layout: over_time(m.LinearRegression(3), x, *states) for layout, x in xs.items()}
            return values, single(column).detach(), single(column[:1]).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_parameters_and_gradients(self, agree, draw):
        """The weight and the bias are nn.Parameters of the stated shapes, zeros at first; predictions are differentiable."""
        x, g = draw.normal(7, 3, dtype=F64), draw.normal(7, dtype=F64)

        def probe(m):
            model = m.LinearRegression(3, dtype=F64)
            start = described(model), state_of(model), described(m.LinearRegression(4)), described(in_double(lambda: m.LinearRegression(2)))
            return start, gradients(model(x), g, model.weight, model.bias)

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("rows", "columns"), [(211, 5), (401, 8), (20, 1)])
    def test_reaches_the_exact_solution(self, student, draw, rows, columns):
        """The fitted weight and bias predict as the exact solution does, on correlated columns of very different sizes."""
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

    @pytest.mark.parametrize("size", [3e4, 1e300])
    def test_starts_anywhere_and_again(self, student, draw, size):
        """From parameters of any finite size, and again on other data, without noise, fit finds the solution for the data it gets."""
        (x1, y1), (x2, y2) = regression_data(draw, 211, 5, 0.5), regression_data(draw, 150, 5, 0.0)
        w, b = draw.normal(5, dtype=F64) * size, draw.normal(1, dtype=F64)[0] * size

        def probe(m):
            model, out = loaded(m.LinearRegression(5, dtype=F64), weight=w, bias=b), []
            for x, y in [(x1, y1), (x2, y2)]:
                out.append((model.fit(x, y), state_of(model)))
            return out

        (error1, state1), (error2, state2) = student(probe)
        check_fit(state1, error1, x1, y1)
        check_fit(state2, error2, x2, y2)

    @pytest.mark.parametrize("size", [1e-6, 1e9])
    def test_tiny_and_huge_targets_in_another_layout(self, student, draw, size):
        """How close is close depends on the size of y; neither x nor y need be contiguous."""
        x, y = regression_data(draw, 101, 3, 0.5, size=size)
        x, y = x.T.contiguous().T, torch.stack([y, -y], 1)[:, 0]

        def probe(m):
            model = m.LinearRegression(3, dtype=F64)
            return model.fit(x, y), state_of(model)

        error, state = student(probe)
        check_fit(state, error, x, y)

    @measured("flags, object identity")
    @pytest.mark.parametrize("training", [True, False])
    def test_same_parameters_and_mode(self, student, draw, training):
        """The fit changes the parameters in place, which stay leaves with the gradients that they had, in the mode that was."""
        x, y = regression_data(draw, 101, 3, 0.5)

        def probe(m):
            model = m.LinearRegression(3, dtype=F64).train(training)
            weight, bias = model.weight, model.bias
            weight.grad = torch.ones_like(weight)
            error = model.fit(x, y)
            same = model.weight is weight and model.bias is bias
            leaves = all(p.is_leaf and p.requires_grad for p in (weight, bias))
            return error, state_of(model), same, leaves, weight.grad.tolist() == [1, 1, 1] and bias.grad is None, model.training

        error, state, same, leaves, grads, mode = student(probe)
        check_fit(state, error, x, y)
        assert same is True, "weight and bias must stay the same nn.Parameters: change their entries in place."
        assert leaves is True, "The parameters must stay leaves that require gradients."
        assert grads is True, "fit must leave the parameters' .grad as it was."
        assert mode is training, f"model.training is {training} before the fit, and must be after it."

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, student, draw, recording):
        """Whether autograd records is after the fit what it was before, under no_grad, too, where the fit itself need not work."""
        x, y = regression_data(draw, 101, 3, 0.5)

        def probe(m):
            model = m.LinearRegression(3, dtype=F64)
            with torch.set_grad_enabled(recording):
                if recording:
                    model.fit(x, y)
                else:
                    with suppress(RuntimeError):  # of a backward
                        model.fit(x, y)
                kept = torch.is_grad_enabled()
            return model.fit(x, y), state_of(model), kept

        error, state, kept = student(probe)
        check_fit(state, error, x, y)
        assert kept is recording, f"torch.is_grad_enabled() is {recording} before the fit, and must be after it."

    def test_targets_of_another_shape_are_refused(self, agree, draw):
        """A y of (N, 1), or of another length, is a ValueError."""
        (x, y), w = regression_data(draw, 101, 3, 0.5), draw.normal(3, dtype=F64)

        def probe(m):
            model = loaded(m.LinearRegression(3, dtype=F64), weight=w, bias=y[0])
            return [raised(ValueError, lambda t=t: model.fit(x, t)) for t in (y[:, None], y[:1], y[1:])], model(x).detach()

        agree(probe, rtol=1e-6, atol=1e-6)


@task("LogisticRegression")
class TestLogisticRegression:
    def test_logits_probabilities_and_classes(self, agree, draw):
        """Logits are x · weight + bias; probabilities their sigmoid; classes 1 where the logit is above 0. All are (N,)."""
        x, w, b = draw.normal(23, 5, dtype=F64), draw.normal(5, dtype=F64), draw.normal(1, dtype=F64)[0]

        def probe(m):
            model = loaded(m.LogisticRegression(5, dtype=F64), weight=w, bias=b)
            return model(x).detach(), model.probabilities(x).detach(), model.predict(x)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_classes_of_tiny_logits(self, agree, draw):
        """A logit above 0 is class 1 however small, where the probability is ½ to the last digit; a logit of 0 is class 0."""
        x = draw.magnitudes(24, 1, low=1e-30, high=1e3)
        x[5] = 0

        def probe(m):
            model = loaded(m.LogisticRegression(1), weight=torch.ones(1), bias=torch.tensor(0.0))
            return model.predict(x), model(x).detach()

        agree(probe, rtol=1e-5, atol=0)

    @pytest.mark.parametrize(("rows", "columns"), with_ones(5, 3)[1:])
    def test_sizes_of_one(self, agree, draw, rows, columns):
        """A single row or column: logits, probabilities and classes are (N,), the loss is a single number."""
        x, w, b, y = draw.normal(rows, columns), draw.normal(columns), draw.normal(1)[0], draw.uniform(rows)

        def probe(m):
            model = loaded(m.LogisticRegression(columns), weight=w, bias=b)
            return model(x).detach(), model.probabilities(x).detach(), model.predict(x), model.loss(x, y).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_layouts(self, agree, draw):
        """x, y and the weight may be non-contiguous."""
        triples = {
            layout: (draw.normal(7, 3, layout=layout), draw.uniform(7, 2, layout=layout)[:, 1], draw.normal(3, 2, layout=layout)[:, 0])
            for layout in LAYOUTS
        }

        def probe(m):
            model, out = m.LogisticRegression(3), {}
            for layout, (x, y, w) in triples.items():
                model.weight = nn.Parameter(w)
                out[layout] = model(x).detach(), model.probabilities(x).detach(), model.predict(x), model.loss(x, y).detach()
            return out

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("object identity")
    def test_uses_the_parameters_as_they_are_now(self, agree, draw):
        """After load_state_dict and a change in place the new values count, in the loss too; the parameters stay the same objects."""
        states = [{"weight": draw.normal(3), "bias": draw.normal(1)[0]} for _ in range(2)]
        x, y = draw.normal(7, 3), draw.integers(0, 2, 7)

        def probe(m):
            model = m.LogisticRegression(3)
            before = model.loss(x, y).detach()
            return before, over_time(model, x, *states), model.loss(x, y).detach()

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_starts_with_zeros(self, agree, draw):
        """The parameters start as zeros: all probabilities are ½, all classes 0, and the loss is log 2, with its right gradient."""
        x, y = draw.normal(11, 5), draw.integers(0, 2, 11)

        def probe(m):
            model = m.LogisticRegression(5)
            loss = model.loss(x, y)
            loss.backward()
            start = described(model), state_of(model), model.probabilities(x).detach(), model.predict(x)
            return start, loss.detach(), model.weight.grad, model.bias.grad, described(in_double(lambda: m.LogisticRegression(2)))

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_loss_and_gradients(self, agree, draw, dtype, tolerance):
        """The mean cross-entropy over the rows, and its gradients for weight, bias and x, which add up over calls."""
        x, w, b = draw.normal(17, 5, dtype=dtype), draw.normal(5, dtype=dtype), draw.normal(1, dtype=dtype)[0]
        y = draw.integers(0, 2, 17)

        def probe(m):
            model, a = loaded(m.LogisticRegression(5, dtype=dtype), weight=w, bias=b), leaf(x)
            for _ in range(2):  # the second adds to the gradients of the first
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

    @pytest.mark.parametrize("size", [30.0, 200.0, 10_000.0, 1e30])
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
        """A y of (N, 1), or of another length, is a ValueError, also for a single row."""
        x, w, y = draw.normal(7, 5), draw.normal(5), draw.integers(0, 2, 7)

        def probe(m):
            model = loaded(m.LogisticRegression(5), weight=w, bias=torch.tensor(-0.5))
            bad = [(x, t) for t in (y[:, None], y[:1], y[0])] + [(x[:1], t) for t in (y[:1, None], y[0], y)]
            return [raised(ValueError, lambda a=a, t=t: model.loss(a, t)) for a, t in bad], model.loss(x, y).detach()

        agree(probe, rtol=1e-3, atol=1e-4)


@task("RunningMean")
class TestRunningMean:
    @pytest.mark.parametrize(("dtype", "offset"), [(F32, 0), (F64, 1e5)], ids=["float32", "float64"])
    def test_subtracts_the_mean_of_all_rows_so_far(self, agree, draw, dtype, offset):
        """Each call takes its rows in first, each row with the same weight, whatever the sizes of the batches."""
        batches = [draw.normal(n, 3, dtype=dtype) * (n + 1) + n + offset for n in (5, 1, 11, 2)]

        def probe(m):
            module = m.RunningMean(3, dtype=dtype)
            return [(module(x), module.mean - offset, module.count.clone()) for x in batches]

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_eval_uses_the_mean_and_keeps_it(self, agree, draw):
        """In eval mode the mean is subtracted, but neither updated nor the mode changed; before the first row the mean is 0."""
        x, y, z = draw.normal(5, 3) + 2, draw.normal(7, 3), draw.normal(2, 3)

        def probe(m):
            module = m.RunningMean(3)
            fresh = module.eval()(y)
            with torch.no_grad():
                module.train()(x)
            known = module.eval()(y), state_of(module), module.training
            return fresh, known, module.train()(z), state_of(module)

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 5, 3), (1, 5, 3), (2, 1, 3), (2, 2, 2, 3), (0, 3), (2, 0, 3)], ids=str)
    def test_all_dimensions_but_the_last_count_rows(self, agree, draw, shape):
        """A single row, several dimensions of rows, or no rows, which change nothing."""
        first, x = draw.normal(5, 3, dtype=F64), draw.normal(*shape, dtype=F64)

        def probe(m):
            module, fresh = m.RunningMean(3, dtype=F64), m.RunningMean(3, dtype=F64)
            return module(first), module(x), state_of(module), fresh(x), state_of(fresh)

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("features", [1, 7])
    def test_layouts(self, agree, draw, features):
        """An x may be non-contiguous, and have a single feature."""
        xs = {layout: draw.normal(2, 5, features, layout=layout) for layout in LAYOUTS}

        def probe(m):
            module = m.RunningMean(features)
            return {layout: (module(x), state_of(module)) for layout, x in xs.items()}

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_buffers_and_no_parameters(self, agree, draw):
        """Mean and count are buffers in state_dict(), and no parameters; neither requires gradients, nor does y where x doesn't."""
        x = draw.normal(5, 3)

        def probe(m):
            module = m.RunningMean(3)
            start = state_of(module), described(module)
            traced = [module(x).requires_grad, module.eval()(x).requires_grad, module.train()(leaf(x)).requires_grad]
            return start, state_of(module), described(module), len(list(module.parameters())), traced

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
    def test_goes_on_after_loading(self, agree, draw, used):
        """A module into which a state is loaded goes on where the saved one was, whatever it saw before; so does a deep copy."""
        x, y, z, other = (draw.normal(n, 3, dtype=F64) for n in (5, 7, 2, 11))

        def probe(m):
            first, second = m.RunningMean(3, dtype=F64), m.RunningMean(3, dtype=F64)
            first(x)
            if used:
                second(other)
            copied = copy.deepcopy(first)
            second.load_state_dict(state_of(first))
            return second.eval()(y), second.train()(y), state_of(second), copied(z), state_of(copied), state_of(first)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_counts_exactly(self, agree, draw):
        """The count is a whole number to the last digit, of any size."""
        x, mean, count = draw.normal(5, 3, dtype=F64), draw.normal(3, dtype=F64), torch.tensor(2**53 + 2 * draw.integer(1, 1000) + 1)

        def probe(m):
            module = loaded(m.RunningMean(3, dtype=F64), mean=mean, count=count)
            return module(x), state_of(module)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_large_counts_do_not_blur_the_mean(self, agree, draw):
        """After 2**24 rows, which float32 can't count by ones, a float64 mean is good to more digits than float32 has."""
        x, mean, count = draw.normal(6, 3, dtype=F64), 9 + draw.normal(3, dtype=F64), torch.tensor(2**24 + 2 * draw.integer(1, 1000) + 1)

        def probe(m):
            module = loaded(m.RunningMean(3, dtype=F64), mean=mean, count=count)
            return module(x), state_of(module)

        agree(probe, rtol=1e-10, atol=1e-10)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after a call what it was before, under no_grad, too, in training and in eval mode."""
        x = draw.normal(5, 3)

        def probe(m):
            module, kept = m.RunningMean(3), []
            for training in (True, False):
                with torch.set_grad_enabled(recording):
                    y = module.train(training)(x)
                    kept.append((y.detach(), torch.is_grad_enabled()))
            return kept

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_features_are_independent(self, agree, draw):
        """A NaN or an infinity in one column of x reaches no other column."""
        x, y = draw.poisoned(draw.normal(5, 3), torch.tensor([False, True, False])), draw.normal(2, 3)

        def probe(m):
            module = m.RunningMean(3)
            return module(x)[:, ::2], module(y)[:, ::2], module.mean[::2].clone()

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_moves_with_the_module(self, agree, draw):
        """.double() and .to move the buffers, and the count stays an int64."""
        x = draw.normal(5, 3)

        def probe(m):
            module = m.RunningMean(3)
            module(x)
            double = module.double()(x.double()), state_of(module)
            ghost = m.RunningMean(3).to("meta")
            return double, ghost.mean, ghost.count

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_device_and_dtype_of_the_constructor(self, agree, draw):
        """The buffers are made on the given device; dtype holds for mean alone; without them, torch's defaults do."""
        x = draw.normal(5, 3).double()

        def probe(m):
            ghost, double = m.RunningMean(3, device="meta", dtype=F64), m.RunningMean(3, dtype=F64)
            with torch.device("meta"):
                other = m.RunningMean(5)
            made = ghost.mean, ghost.count, other.mean, other.count, double.mean.clone(), double.count.clone()
            return made, double(x), state_of(in_double(lambda: m.RunningMean(4)))

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_gradient_takes_the_mean_for_a_constant(self, agree, draw):
        """The gradient passes unchanged, in training and in eval mode, for a single row too; earlier batches' graphs are not held."""
        x, y, g = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(7, 3, dtype=F64)

        def probe(m):
            module, a, b, c = m.RunningMean(3, dtype=F64), leaf(x), leaf(y), leaf(y)
            first = module(a)
            first.sum().backward()
            second, row = module(b), leaf(x[0])
            single = gradients(module(row), g[0], row)
            return single, first.detach(), second.detach(), gradients(second, g, b), a.grad, gradients(module.eval()(c), g, c)

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
        """Parameters of the same shape and values both count, as in two norms of a network, and even with shared memory."""
        p = draw.integer(3, 20)

        def probe(m):
            views, shared = nn.Module(), torch.ones(p, 2)
            views.whole, views.too, views.part = nn.Parameter(shared), nn.Parameter(shared), nn.Parameter(shared[:1])
            return m.count_parameters(nn.Sequential(nn.LayerNorm(p), nn.ReLU(), nn.LayerNorm(p))), m.count_parameters(views)

        agree(probe, rtol=0, atol=0)

    def test_the_model_is_left_as_it_is(self, agree, draw):
        """Modes, frozen parameters and gradients of the model are what they were."""
        p, q = draw.integer(3, 20), draw.integer(3, 20)
        model = nn.Sequential(nn.LayerNorm(p), nn.Dropout().eval(), nn.LayerNorm(q), nn.Sequential(nn.LayerNorm((p, q))).eval())
        model[0].weight.requires_grad_(False)
        grad = draw.normal(q)

        def probe(m):
            model[2].bias.grad = grad.clone()
            return m.count_parameters(model), m.count_parameters(model, trainable_only=True), model[2].bias.grad

        agree(probe, rtol=0, atol=0)

    def test_buffers_do_not_count(self, agree, draw):
        """Running statistics are no parameters."""
        p, q = draw.integer(3, 20), draw.integer(3, 20)

        def probe(m):
            return m.count_parameters(nn.Sequential(nn.Conv2d(p, q, 3), nn.BatchNorm2d(q))), m.count_parameters(nn.BatchNorm1d(p))

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("training", [True, False])
    def test_the_mode_is_left_as_it_is(self, agree, draw, training):
        """A model in training mode stays there, and one in eval mode, too."""
        p, q = draw.integer(3, 20), draw.integer(3, 20)
        model = nn.Sequential(nn.LayerNorm(p), nn.BatchNorm1d(q), nn.Sequential(nn.LayerNorm((p, q)))).train(training)
        agree(lambda m: (m.count_parameters(model), m.count_parameters(model[0], trainable_only=True)), rtol=0, atol=0)

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
