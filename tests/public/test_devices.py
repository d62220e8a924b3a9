"""Examples for the module devices. Run one task's with `pytest tests/public -k move_to`. None needs a GPU."""

import math
from typing import NamedTuple

import pytest
import torch
from devices import (
    Standardize,
    autocast_forward,
    copy_async,
    data_parallel_forward,
    mask_like_scores,
    module_memory,
    move_to,
    offload_forward,
    pick_device,
    train_step_amp,
)
from torch import Tensor, nn
from torch.testing import assert_close

INF = math.inf


class Example(NamedTuple):
    """An image with its label."""

    image: Tensor
    label: int


def _doubler():
    """A layer that multiplies both of its inputs by 2."""
    layer = nn.Linear(2, 2, bias=False)
    layer.load_state_dict({"weight": 2 * torch.eye(2)})
    return layer


def test_pick_device_takes_the_first_wish_that_is_there():
    """Two CUDA devices are cuda:0 and cuda:1."""
    machine = {"cuda": 2, "mps": 0}
    assert pick_device(machine, ["mps", "cuda:2", "cuda:1", "cuda"]) == torch.device("cuda", 1)
    assert pick_device(machine, ["mps"]) == torch.device("cpu")
    assert pick_device({}) == torch.device("cpu")


def test_pick_device_notices_a_misspelt_wish():
    """No type of device is called "gpu"."""
    assert pick_device({"cuda": 1}, ["cuda"]) == torch.device("cuda")
    with pytest.raises(ValueError):
        pick_device({"cuda": 1}, ["cuda", "gpu"])


def test_move_to_moves_the_tensors_of_a_structure():
    """On `meta` a tensor keeps its shape and dtype."""
    x = torch.tensor([1, 2, 3])
    moved = move_to({"x": x, "more": (7, [Example(x, 4)])}, "meta")
    assert moved["x"].device.type == "meta"
    assert moved["x"].shape == (3,)
    assert moved["more"][0] == 7
    example = moved["more"][1][0]
    assert type(example) is Example
    assert example.image.device.type == "meta"
    assert example.label == 4


def test_move_to_where_it_is_already():
    """Nothing is copied that is there."""
    x = torch.tensor([1.0, 2.0])
    assert move_to([x], "cpu")[0] is x


def test_mask_like_scores_of_two_sequences():
    """The first has two keys, the second three; a query sees no later key."""
    mask = mask_like_scores(torch.zeros(2, 1, 2, 3, dtype=torch.float16), torch.tensor([2, 3]), causal=True)
    expected = torch.tensor([[[[0, 0, -INF], [0, 0, -INF]]], [[[0, 0, -INF], [0, 0, 0]]]], dtype=torch.float16)
    assert_close(mask, expected)


def test_mask_like_scores_on_meta():
    """The mask is where the scores are."""
    mask = mask_like_scores(torch.zeros(2, 4, 3, 3, device="meta"), torch.tensor([2, 3]))
    assert mask.device.type == "meta"
    assert mask.shape == (2, 1, 3, 3)


def test_Standardize_of_one_channel():
    """The entries 1, 3, 1, 3 have mean 2 and std 1."""
    x = torch.tensor([1.0, 3.0, 1.0, 3.0]).reshape(1, 1, 2, 2)
    module = Standardize(1).fit(x)
    assert_close(module.mean, torch.tensor([2.0]))
    assert_close(module.std, torch.tensor([1.0]))
    assert_close(module(x), torch.tensor([-1.0, 1.0, -1.0, 1.0]).reshape(1, 1, 2, 2))


def test_Standardize_statistics_are_buffers():
    """They are saved with the module and move with it."""
    module = Standardize(3)
    assert list(module.state_dict()) == ["mean", "std"]
    assert list(module.parameters()) == []
    assert module.double().mean.dtype == torch.float64
    assert module.to("meta").std.device.type == "meta"


def test_module_memory_of_one_layer():
    """12 weights and 3 biases of 4 bytes; Adam keeps two numbers for each, and two steps."""
    layer = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert module_memory(layer, optimizer) == {
        "parameters": {"torch.float32": 60},
        "buffers": {},
        "gradients": {"torch.float32": 60},
        "optimizer": {"torch.float32": 128},
    }


def test_autocast_forward_rounds_to_bfloat16():
    """bfloat16 has 8 significant bits, too few for 257; the parameter itself stays float32."""
    layer = nn.Linear(1, 1, bias=False)
    layer.load_state_dict({"weight": torch.tensor([[257.0]])})
    assert_close(autocast_forward(layer, torch.ones(1, 1)), torch.tensor([[256.0]]))
    assert_close(layer.weight.detach(), torch.tensor([[257.0]]))


def test_train_step_amp_clips_the_true_gradient():
    """The gradient of w² at 4 is 8; clipped to 1, with learning rate 1, it takes w to 3."""
    model = nn.Linear(1, 1, bias=False)
    model.load_state_dict({"weight": torch.tensor([[4.0]])})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    report = train_step_amp(model, one, zero, nn.functional.mse_loss, optimizer, scaler, 1.0)
    assert report == {"loss": pytest.approx(16.0), "grad_norm": pytest.approx(8.0), "skipped": False}
    assert_close(model.weight.detach(), torch.tensor([[3.0]]))


def test_train_step_amp_skips_an_overflow():
    """2**127 times the gradient is more than float32 can hold."""
    model = nn.Linear(1, 1, bias=False)
    model.load_state_dict({"weight": torch.tensor([[4.0]])})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    report = train_step_amp(model, torch.ones(1, 1), torch.zeros(1, 1), nn.functional.mse_loss, optimizer, scaler, 1.0)
    assert report["skipped"] is True
    assert_close(model.weight.detach(), torch.tensor([[4.0]]))
    assert scaler.get_scale() == 2.0**126


def test_data_parallel_forward_on_two_devices():
    """The CPU twice; gradients reach the model itself."""
    model = _doubler()
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    out = data_parallel_forward(model, x, ["cpu", "cpu"])
    assert_close(out.detach(), 2 * x)
    out.sum().backward()
    assert_close(model.weight.grad, torch.tensor([[9.0, 12.0], [9.0, 12.0]]))


def test_data_parallel_forward_leaves_the_model():
    """The copies go to `meta`, the model stays on the CPU."""
    model = _doubler()
    out = data_parallel_forward(model, torch.ones(3, 2), ["meta", "meta"])
    assert out.device.type == "meta"
    assert out.shape == (3, 2)
    assert model.weight.device.type == "cpu"


def test_offload_forward_computes_and_restores():
    """Three doublers make 8 of 1; afterwards they are on the CPU."""
    layers = [_doubler(), _doubler(), _doubler()]
    assert_close(offload_forward(layers, torch.ones(1, 2), "cpu"), torch.full((1, 2), 8.0))
    assert offload_forward(layers, torch.ones(1, 2), "meta").device.type == "meta"
    assert all(layer.weight.device.type == "cpu" for layer in layers)


def test_copy_async_to_the_cpu_is_a_real_copy():
    """Without CUDA the copies are there at once, and there is no event."""
    x = torch.tensor([1.0, 2.0])
    copies, event = copy_async({"x": x, "again": [x]}, "cpu")
    x.zero_()
    assert event is None
    assert_close(copies["x"], torch.tensor([1.0, 2.0]))
    assert copies["again"][0] is copies["x"]
