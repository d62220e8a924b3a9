"""What a probe leaves behind: every place is noticed when it changes, and nothing is noticed when nothing changes."""

import os
import random
import sys
import warnings

import numpy
import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from grader.protocol.probes import freeze, thaw
from grader.protocol.state import reset_state
from grader.protocol.traces import Traces, unexpected


def _left(probe) -> list[str]:
    """What a probe leaves behind, run as the two sides run it."""
    reset_state(1)
    run = thaw(freeze(probe))
    traces = Traces(run)
    folder, environment, threads = os.getcwd(), dict(os.environ), torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            run(None)
            return traces.left()
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        reset_state(1)


def _x():
    return torch.arange(6.0).reshape(2, 3)


def _sequential():
    with torch.random.fork_rng():
        return nn.Sequential(nn.Linear(2, 3), nn.Dropout())


def _sgd():
    return torch.optim.SGD([nn.Parameter(_x())], lr=0.1)


ARGUMENTS = {
    "an entry": (_x, lambda x: x[0].zero_(), "x"),
    "an entry, behind autograd's back": (_x, lambda x: x.data.mul_(2), "x"),
    "an entry of a view": (lambda: _x().T, lambda x: x.zero_(), "x"),
    "NaN": (lambda: torch.tensor([float("nan")]), lambda x: x.zero_(), "x"),
    "a shape": (_x, lambda x: x.unsqueeze_(0), "the shape of x"),
    "strides": (_x, lambda x: x.t_().t_().resize_(3, 2), "the shape of x"),
    "requires_grad": (_x, lambda x: x.requires_grad_(), "requires_grad of x"),
    "a gradient": (lambda: _x().requires_grad_(), lambda x: x.sum().backward(), "the gradient of x"),
    "a list": (lambda: [3, 4], lambda x: x.append(5), "x"),
    "an item": (lambda: [3, [4, 5]], lambda x: x[1].reverse(), "x[1][0]"),
    "a tensor in a list": (lambda: [_x()], lambda x: x[0].zero_(), "x[0]"),
    "another tensor in a list": (lambda: [_x()], lambda x: x.__setitem__(0, _x()), "x"),
    "a dict": (lambda: {"a": 1}, lambda x: x.pop("a"), "x"),
    "a dict's value": (lambda: {"a": 1}, lambda x: x.update(a=2), "x['a']"),
    "a child's mode": (_sequential, lambda x: x[1].eval(), "the training mode of x.1"),
    "a parameter": (_sequential, lambda x: x[0].weight.data.zero_(), "x.0.weight"),
    "a parameter's identity": (
        _sequential,
        lambda x: setattr(x[0], "bias", nn.Parameter(x[0].bias.detach().clone())),
        "the parameters of x.0",
    ),
    "a frozen parameter": (_sequential, lambda x: x[0].weight.requires_grad_(False), "requires_grad of x.0.weight"),
    "a hook": (_sequential, lambda x: x[0].register_forward_hook(lambda *_: None), "the hooks of x.0"),
    "an added module": (_sequential, lambda x: x.add_module("more", nn.Identity()), "the modules of x"),
    "a setting of a module": (lambda: nn.BatchNorm1d(3), lambda x: setattr(x, "momentum", 0.9), "the attributes of x"),
    "a method of a module": (_sequential, lambda x: setattr(x[0], "forward", None), "the attributes of x.0"),
    "a setting of an optimizer": (_sgd, lambda x: x.param_groups[0].update(lr=0.5), "the settings of x"),
    "a hook of a tensor": (lambda: _x().requires_grad_(), lambda x: x.register_hook(lambda g: g), "the hooks of x"),
    "a buffer": (lambda: nn.BatchNorm1d(3), lambda x: x(torch.ones(2, 3)), "x.running_mean"),
    "a generator": (lambda: torch.Generator(), lambda x: torch.rand(2, generator=x), "x"),
    "a generator of Python's": (lambda: random.Random(1), lambda x: x.random(), "x"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_a_changed_argument_is_noticed(what):
    """It is named by its place; a call that changes nothing is not."""
    make, change, place = ARGUMENTS[what]
    x = make()
    assert _left(lambda m: [x]) == []
    assert place in _left(lambda m: change(x))


STATE = {
    "the gradient mode of torch": lambda: torch.set_grad_enabled(False),
    "the default dtype of torch": lambda: torch.set_default_dtype(torch.float64),
    "the default device of torch": lambda: torch.set_default_device("meta"),
    "the autocast mode of torch": lambda: torch.set_autocast_enabled("cpu", True),
    "the precision of torch's matrix products": lambda: torch.set_float32_matmul_precision("high"),
    "the hooks of all modules": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "the deterministic mode of torch": lambda: torch._C._set_deterministic_algorithms(True),
    "the number of torch's threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "the state of torch's generator (drawing numbers or building a layer does)": lambda: nn.Linear(2, 3),
    "the seed of torch's generator": lambda: torch.manual_seed(7),
    "the generator of Python's module random": lambda: random.random(),
    "the generator of NumPy": lambda: numpy.random.rand(),
    "NumPy's handling of errors": lambda: numpy.seterr(divide="ignore"),
    "the filters of warnings": lambda: warnings.simplefilter("ignore"),
    "the limit on recursion": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "the current folder": lambda: os.chdir("/"),
    "the environment's variables": lambda: os.environ.update(SOMETHING="new"),
}


@pytest.mark.parametrize("place", STATE)
def test_a_changed_mode_is_noticed(place):
    """So is a generator that was drawn from or seeded anew."""
    change = STATE[place]
    assert place in _left(lambda m: change())


def test_autocast_for_a_gpu_is_noticed():
    """Also where there is none, and it is off again for the next probe."""
    assert "the autocast mode of torch" in _left(lambda m: torch.set_autocast_enabled("cuda", True))
    assert not torch.is_autocast_enabled("cuda")


def test_a_cache_that_is_switched_off_is_noticed():
    """It belongs to the mode of autocast."""
    assert "the autocast mode of torch" in _left(lambda m: torch.set_autocast_cache_enabled(False))


def test_what_is_put_back_is_not_noticed():
    """Modes within a block, and a change that is undone."""

    def probe(m):
        with torch.no_grad(), torch.random.fork_rng():
            torch.rand(3)
            x.add_(1).sub_(1)
        before = torch.get_default_device()
        torch.set_default_device("cpu")
        torch.set_default_device(before)  # which leaves a mode on torch's stack

    x = _x()
    assert _left(probe) == []


def test_what_a_helper_holds_is_looked_at():
    """A probe that calls another function with a tensor of its own, and one with a default argument."""
    x = _x()

    def helper():
        x.zero_()

    assert _left(lambda m: helper()) == ["x"]
    assert _left(lambda m, y=x: y.zero_()) == ["y"]


@pytest.mark.parametrize(
    ("left", "allowed", "found"),
    [
        ([], [], None),
        (["x"], [], "x"),
        (["x"], ["x"], None),
        (["x", "y"], ["x"], "y"),
        (["x[2]"], ["x"], None),
        (["the gradient of x"], ["x"], "the gradient of x"),
        (["the filters of warnings"], ["the filters of warnings"], "the filters of warnings"),
    ],
)
def test_only_what_the_reference_leaves_is_allowed(left, allowed, found):
    """Where it changes a list, its items are free; a tensor's gradient is not free with its entries."""
    assert unexpected(left, allowed) == found


def test_a_new_hook_leaves_those_that_were_there():
    """The hooks of a module in a probe keep their numbers when they travel; a new one has another."""
    calls = []

    def probe(m):
        model.register_forward_hook(lambda *_: calls.append("new"))
        model(torch.ones(1, 2))
        return calls

    model = _sequential()[0]
    RemovableHandle.next_id = 0  # as in a process that has registered nothing yet
    model.register_forward_hook(lambda *_: calls.append("old"))
    frozen = freeze(probe)
    RemovableHandle.next_id = 0
    reset_state(1)
    assert thaw(frozen)(None) == ["old", "new"]
