"""Examples for the module profiling. Run one task's with `pytest tests/public -k self_times`."""

import os

import pytest
import torch
from profiling import activation_bytes, benchmark, count_flops, profile_step, roofline, self_times, training_memory
from torch import nn

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write to the terminal


def test_count_flops_of_a_layer():
    """(5, 3) · (3, 2): 2 · 5 · 3 · 2 = 60. The bias is free. The backward pass takes as much for the weight, and again for x."""
    layer, x = nn.Linear(3, 2), torch.ones(5, 3)
    assert count_flops(lambda: layer(x)) == 60
    assert count_flops(lambda: layer(x).sum().backward()) == 120
    x.requires_grad_()
    assert count_flops(lambda: layer(x).sum().backward()) == 180


def test_count_flops_of_a_convolution():
    """Each of 4 · 6 · 6 outputs multiplies and adds 2 · 3 · 3 numbers: with two groups, a filter sees half of the 4 channels."""
    layer = nn.Conv2d(4, 4, 3, groups=2, device="meta")
    assert count_flops(lambda: layer(torch.ones(1, 4, 8, 8, device="meta"))) == 2 * 4 * 36 * 18


def test_activation_bytes_of_a_network():
    """Saved are x (5, 3) and the ReLU's output (5, 4), which the second layer needs as well: 35 numbers of 4 bytes."""
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(5, 3)
    assert activation_bytes(net, x) == 140
    with torch.no_grad():
        assert activation_bytes(net, x) == 0


def test_activation_bytes_of_a_view():
    """One column of x is saved, and keeps all of its memory, 5 · 3 numbers."""
    layer = nn.Linear(1, 2)
    x = torch.ones(5, 3)
    assert activation_bytes(layer, x[:, :1]) == 60


def test_training_memory_of_seven_billion():
    """7 · 10⁹ parameters in bfloat16 take 112 GB. In stage 2, 8 GPUs share all but the parameters."""
    alone = training_memory(7 * 10**9)
    assert alone == {
        "parameters": 14 * 10**9,
        "gradients": 14 * 10**9,
        "master": 28 * 10**9,
        "moments": 56 * 10**9,
        "activations": 0,
        "total": 112 * 10**9,
    }
    shared = training_memory(7 * 10**9, activations=10**9, world=8, stage=2)
    assert shared["parameters"] == 14 * 10**9
    assert shared["total"] == (14 + 1) * 10**9 + (14 + 28 + 56) * 10**9 // 8


def test_training_memory_refuses():
    """There is no stage 4."""
    with pytest.raises(ValueError):
        training_memory(10, stage=4)


def test_self_times_of_a_step():
    """The step takes 100, of which 30 and 40 are spent in two calls of mm."""
    events = [("mm", 1, 10, 40), ("step", 1, 0, 100), ("mm", 1, 50, 90)]
    assert self_times(events) == {"step": {"calls": 1, "total": 100, "self": 30}, "mm": {"calls": 2, "total": 70, "self": 70}}


def test_self_times_of_recursion_and_threads():
    """The inner f is part of the outer one's time. Thread 2 has nothing to do with thread 1."""
    events = [("f", 1, 0, 100), ("f", 1, 20, 50), ("g", 2, 0, 80)]
    assert self_times(events) == {"f": {"calls": 2, "total": 100, "self": 100}, "g": {"calls": 1, "total": 80, "self": 80}}


def test_profile_step_of_training():
    """Two steps are recorded: each multiplies (5, 3) by (3, 2) in forward, and the gradient with x in backward."""
    x, held = torch.ones(5, 3), []
    layer = nn.Linear(3, 2, bias=False)

    def forward(step):
        held[:] = [layer(x).sum()]

    stages = {"forward": forward, "backward": lambda step: held[0].backward()}
    rows = profile_step(stages, ["aten::mm"], active=2)
    assert rows == [("backward", "aten::mm", ((2, 5), (5, 3)), 2), ("forward", "aten::mm", ((5, 3), (3, 2)), 2)]


def test_profile_step_records_the_last_steps():
    """Step s multiplies (s, 1) by (1, 1): of the steps 0, 1 and 2, the last is recorded."""
    rows = profile_step({"go": lambda step: torch.ones(step, 1) @ torch.ones(1, 1)}, ["aten::mm"], wait=1, warmup=1, active=1)
    assert rows == [("go", "aten::mm", ((2, 1), (1, 1)), 1)]


class Device:
    """Takes orders, and works on them when somebody waits: order number n takes n seconds."""

    def __init__(self):
        self.now, self.orders, self.pending = 0.0, 0, 0.0

    def work(self):
        """Order the next piece of work."""
        self.orders += 1
        self.pending += self.orders

    def synchronize(self):
        """Wait until all is done."""
        self.now += self.pending
        self.pending = 0.0

    def clock(self):
        """Seconds."""
        return self.now


def test_benchmark_waits():
    """Three calls warm up; five are measured: 4, 5, 6, 7, 8 seconds."""
    device = Device()
    result = benchmark(device.work, clock=device.clock, synchronize=device.synchronize)
    assert result == {"median": 6.0, "iqr": 2.0, "runs": 5}


def test_benchmark_goes_on():
    """1 + 2 + … + 6 seconds are the first sum of 20 or more. The median of six times lies between the middle two."""
    device = Device()
    result = benchmark(device.work, clock=device.clock, synchronize=device.synchronize, warmup=0, repeats=2, min_time=20)
    assert result == {"median": 3.5, "iqr": 2.5, "runs": 6}


def test_roofline_of_a_product():
    """(4, 8) · (8, 2) in float32: 128 operations, 32 + 16 + 8 numbers. The machine moves 1000 bytes a second."""
    got = roofline(4, 8, 2, dtype=torch.float32, peak=5000.0, bandwidth=1000.0, seconds=0.1)
    assert got["flops"] == 128
    assert got["bytes"] == 224
    assert got["intensity"] == pytest.approx(128 / 224)
    assert got["attainable"] == pytest.approx(1000 * 128 / 224)
    assert got["bound"] == "memory"
    assert got["mfu"] == pytest.approx(128 / 0.1 / 5000)
