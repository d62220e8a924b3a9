"""Examples for the module quantization. Run one task's with `pytest tests/public -k int8_matmul`."""

import math

import pytest
import torch
from quantization import (
    MinMaxObserver,
    PercentileObserver,
    QATLinear,
    QuantizedLinear,
    affine_qparams,
    calibrate_model,
    dequantize,
    dynamic_quantized_linear,
    fake_quantize,
    int8_matmul,
    pack_int4,
    quantize,
    quantize_groupwise,
    quantize_per_channel,
    unpack_int4,
)
from torch import nn
from torch.testing import assert_close


def int8(*rows):
    """A tensor of int8 codes."""
    return torch.tensor(rows, dtype=torch.int8)


def test_affine_qparams_of_a_range():
    """The 256 codes leave 255 steps: from −1 to 4.1 each is 0.02 wide, and 0 lies 50 steps above the smallest code."""
    scale, zero_point = affine_qparams(-1.0, 4.1)
    assert scale == pytest.approx(0.02)
    assert zero_point == -78
    assert affine_qparams(-1.0, 4.1, qmin=0, qmax=255)[1] == 50


def test_affine_qparams_includes_zero():
    """A range from 2 to 5.1 is widened to 0; from 0 to 0, the scale is 1."""
    scale, zero_point = affine_qparams(2.0, 5.1)
    assert scale == pytest.approx(0.02)
    assert zero_point == -128
    assert affine_qparams(0.0, 0.0) == (1.0, -128)


def test_quantize_rounds_and_clamps():
    """0.5 steps go to 0 and 1.5 to 2, both even; what lies outside goes to the ends."""
    x = torch.tensor([0.0, 0.25, 0.75, 1.0, -5.0, 1000.0, -math.inf])
    assert_close(quantize(x, 0.5, 3), int8(3, 3, 5, 5, -7, 127, -128))
    assert_close(quantize(x, 0.5, 3, dtype=torch.uint8), torch.tensor([3, 3, 5, 5, 0, 255, 0], dtype=torch.uint8))


def test_dequantize_of_distant_codes():
    """The code of 0 gives 0, and 100 − (−100) is 200, though int8 can't hold it."""
    assert_close(dequantize(int8(-100, 0, 100), 0.5, -100), torch.tensor([0.0, 50.0, 100.0]))


def test_quantize_per_channel_of_two_rows():
    """Each row uses the codes up to 127, whatever its size is."""
    q, scale = quantize_per_channel(torch.tensor([[1.27, -0.5, 0.0], [100.0, -127.0, 3.2]]), 0)
    assert_close(q, int8([127, -50, 0], [100, -127, 3]))
    assert_close(scale, torch.tensor([0.01, 1.0]))


def test_quantize_per_channel_of_columns():
    """Channels may be columns; one of zeros has scale 1."""
    q, scale = quantize_per_channel(torch.tensor([[1.27, 0.0], [-0.5, 0.0]]), -1)
    assert_close(q, int8([127, 0], [-50, 0]))
    assert_close(scale, torch.tensor([0.01, 1.0]))


def test_MinMaxObserver_of_two_batches():
    """The range covers both batches, and with it go a scale and a zero point."""
    observer = MinMaxObserver()
    x = torch.tensor([[0.5, -1.0]])
    assert observer(x) is x
    observer(torch.tensor([[4.1]]))
    assert (observer.low.item(), observer.high.item()) == (-1.0, pytest.approx(4.1))
    scale, zero_point = observer.qparams()
    assert_close(scale, torch.tensor(0.02))
    assert_close(zero_point, torch.tensor(-78, dtype=torch.int32))


def test_MinMaxObserver_with_channels():
    """Every column has a range of its own."""
    observer = MinMaxObserver(2)
    observer(torch.tensor([[1.0, 10.0], [-2.0, 30.0]]))
    assert_close(observer.low, torch.tensor([-2.0, 10.0]))
    assert_close(observer.high, torch.tensor([1.0, 30.0]))
    assert sorted(observer.state_dict()) == ["high", "low"]


def test_PercentileObserver_leaves_out_an_outlier():
    """Of 0, 1, …, 99 and 1,000,000, a tail of 5 % on each side leaves 5 to 95."""
    observer = PercentileObserver(0.05)
    observer.observe(torch.arange(60.0))
    observer.observe(torch.cat([torch.arange(60.0, 100.0), torch.tensor([1e6])]))
    assert observer.range() == pytest.approx((5.0, 95.0))


def test_int8_matmul_of_large_codes():
    """(100 + 100) · (100 − 0) + (−50 + 100) · (7 − 0) = 20,350."""
    assert_close(int8_matmul(int8([100, -50]), int8([100], [7]), -100, 0), torch.tensor([[20350]], dtype=torch.int32))


def test_QuantizedLinear_from_float():
    """A float layer with the weights 1.27 and −0.5 becomes one with the codes 127 and −50 and the scale 0.01."""
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.27, -0.5]]))
        linear.bias.fill_(3.0)
    layer = QuantizedLinear.from_float(linear)
    assert_close(layer.weight, int8([127, -50]))
    assert_close(layer.scale, torch.tensor([0.01]))
    assert_close(layer(torch.tensor([[1.0, 2.0]])), torch.tensor([[3.27]]))


def test_QuantizedLinear_bytes():
    """1,000 weights in int8, 10 scales and 10 biases in float32."""
    state = QuantizedLinear.from_float(nn.Linear(100, 10)).state_dict()
    assert sum(value.numel() * value.element_size() for value in state.values()) == 1080


def test_fake_quantize_rounds_and_passes_gradients():
    """Half steps, codes −2 to 1: 0.3 and 0.2 round, 5 and −5 are cut off and receive no gradient."""
    x = torch.tensor([0.3, 0.2, 5.0, -5.0], requires_grad=True)
    y = fake_quantize(x, 0.5, 0, -2, 1)
    (y * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert_close(y.detach(), torch.tensor([0.5, 0.0, 0.5, -1.0]))
    assert_close(x.grad, torch.tensor([1.0, 2.0, 0.0, 0.0]))


def test_calibrate_model_of_a_small_classifier():
    """Two pixels from −1 to 4.1; the only hidden unit adds them up, and is 5.1 at most."""
    weights = {"1.weight": torch.ones(1, 2), "1.bias": torch.zeros(1), "3.weight": torch.arange(10.0)[:, None], "3.bias": torch.ones(10)}
    result = calibrate_model(weights, torch.tensor([[4.1, 1.0], [-1.0, 0.5]]).view(2, 1, 1, 2))
    assert_close(result["1.weight"], int8([127, 127]))
    assert_close(result["1.scale"], torch.tensor([1 / 127]))
    assert_close(result["3.weight"], int8(0, *[127] * 9).view(10, 1))
    assert (result["input_scale"], result["input_zero_point"]) == (pytest.approx(0.02), -78)
    assert (result["hidden_scale"], result["hidden_zero_point"]) == (pytest.approx(0.02), -128)


def test_QATLinear_computes_with_rounded_weights():
    """At 3 bits, a row with the largest weight 3 has the steps −3 … 3; the gradient is that of an ordinary layer."""
    layer = QATLinear(3, 1, bits=3)
    layer.load_state_dict({"weight": torch.tensor([[3.0, 0.8, -1.7]]), "bias": torch.tensor([0.5])})
    y = layer(torch.tensor([[1.0, 10.0, 100.0]]))
    y.sum().backward()
    assert_close(y.detach(), torch.tensor([[3.0 + 10.0 - 200.0 + 0.5]]))
    assert_close(layer.weight.grad, torch.tensor([[1.0, 10.0, 100.0]]))
    q, scale = layer.quantized()
    assert_close(q, int8([3, 1, -2]))
    assert_close(scale, torch.tensor([1.0]))


def test_pack_int4_of_three_codes():
    """1 and 2 become 0x21; −1 is the last, alone in the lower half."""
    assert_close(pack_int4(int8(1, 2, -1)), torch.tensor([0x21, 0x0F], dtype=torch.uint8))
    with pytest.raises(ValueError):
        pack_int4(int8(1, 8))


def test_unpack_int4_of_two_bytes():
    """0x21 holds 1 and 2; 0x8F holds −1 and, if it is asked for, −8."""
    packed = torch.tensor([0x21, 0x8F], dtype=torch.uint8)
    assert_close(unpack_int4(packed, 4), int8(1, 2, -1, -8))
    assert_close(unpack_int4(packed, 3), int8(1, 2, -1))


def test_quantize_groupwise_with_a_short_group():
    """Groups of two in a row of three: the scales are 1 and 0.5, the codes 7, 2 and −7."""
    packed, scale = quantize_groupwise(torch.tensor([[7.0, 2.2, -3.5]]), 2)
    assert_close(packed, torch.tensor([[0x27, 0x09]], dtype=torch.uint8))
    assert_close(scale, torch.tensor([[1.0, 0.5]], dtype=torch.float16))


def test_dynamic_quantized_linear_of_two_rows():
    """Each row is rounded in steps of its own: 2.2 to 2 beside 127, and 0.022 to 0.02 beside 1.27."""
    x = torch.tensor([[127.0, 2.2], [1.27, 0.022]])
    y = dynamic_quantized_linear(x, int8([1, 0], [0, 100]), torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]))
    assert_close(y, torch.tensor([[127.0, 101.0], [1.27, 2.0]]))
