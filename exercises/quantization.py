"""Quantization: numbers with few bits.

A real number x is stored as a small integer, its code q, with x ≈ (q − z) · s: s is the scale, a positive real number, and z the
zero point, an integer, the code of 0. Symmetric quantization has z = 0. Rounding goes to the nearest integer, and halves to the
even one, as torch.round and Python's round do it. Where a statement divides, divide: 1 / s is rounded itself, and x · (1 / s) may miss
a half. Every task stands alone.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


def affine_qparams(low: float, high: float, *, qmin: int = -128, qmax: int = 127) -> tuple[float, int]:
    """Choose scale and zero point so that codes from qmin to qmax cover a range of numbers (Jacob et al. 2018, section 2.1).

        low ← min(low, 0),  high ← max(high, 0)            (so that 0 is inside, and gets a code of its own)
        scale = (high − low) / (qmax − qmin)
        zero_point = round(qmin − low / scale), halves to even

    Subtract before you round: −127 + 0.5 gives −126, but −127 − round(−0.5) gives −127. If low and high are both 0, scale is 1.0, and
    zero_point is qmin.

    Args:
        low, high: the range, finite floats, each 0 or of a size between 1e-30 and 1e30; low may equal high, and 0 need not be inside.
        qmin, qmax: the smallest and the largest code, ints of 16 bits at most, of either sign.

    Returns: (scale, zero_point), a Python float and a Python int.
    Raises: ValueError if low > high, if one of them is NaN or infinite, or if qmin >= qmax.
    Not allowed: the observers of torch.ao.quantization, torch's choose_qparams functions.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("affine_qparams")


def quantize(x: Tensor, scale: float, zero_point: int, *, dtype: torch.dtype = torch.int8) -> Tensor:
    """Turn real numbers into integer codes, with one scale and zero point for all.

    q = clamp(round(x / scale) + zero_point, qmin, qmax), halves to even, where qmin and qmax are the smallest and the largest number
    that dtype can hold.

    Numbers beyond the range, however large, and also infinite ones, get the code at its end.

    Args:
        x: any shape, possibly empty; float16, bfloat16, float32 or float64, without NaN. float64 is computed in float64, the others
            in float32: x / scale may have more digits than 16 bits can hold.
        scale: from 1e-30 to 1e30.
        zero_point: from qmin to qmax.
        dtype: of the codes: torch.int8, torch.uint8 or torch.int16.

    Returns: shape of x, of the given dtype.
    Not allowed: torch.quantize_per_tensor, torch.quantize_per_channel, torch.fake_quantize_… and what torch.ao has of the kind.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("quantize")


def dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    """Turn integer codes back into real numbers.

    x = (q − zero_point) · scale

    The difference is the true one, also where the dtype of q can't hold it (100 − (−100) is 200), and the code zero_point gives
    exactly 0.

    Args:
        q: any shape, possibly empty, int8, uint8 or int16.
        scale: from 1e-30 to 1e30.
        zero_point: a code, from the smallest to the largest number that the dtype of q can hold.

    Returns: shape of q, float32.
    Not allowed: torch.dequantize and what torch.ao has of the kind.
    """
    # TODO: about 1 line.
    raise NotImplementedError("dequantize")


def quantize_per_channel(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Quantize symmetrically to int8, with a scale for every channel (Krishnamoorthi 2018, section 2.1).

    The channels are the slices x.select(dim, c). Each has the scale that maps its largest absolute value to 127:

        scale_c = max |x_c| / 127, or 1 where the channel is all 0
        q_c = round(x_c / scale_c), halves to even; from −127 to 127, and the zero point is 0

    Args:
        x: at least one dimension, none of size 0; float32 or float64, and computed in that dtype; finite. The largest absolute value
            of a channel is 0 or between 1e-30 and 1e30.
        dim: the dimension that counts the channels, of size C; negative or not.

    Returns: (q, scale): the codes, shape of x, int8; and the scales, (C,), dtype of x.
    Not allowed: torch.quantize_per_tensor, torch.quantize_per_channel, torch.fake_quantize_… and what torch.ao has of the kind.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("quantize_per_channel")


class MinMaxObserver(nn.Module):
    """Watch the activations that pass, and derive scale and zero point from the smallest and largest values seen.

    Put between two layers, it passes on what it gets. The range lives in two buffers, so that state_dict has them and `.to` moves them:

        low:   the smallest value seen so far, +inf before the first
        high:  the largest value seen so far, −inf before the first

    Args of the constructor:
        channels: None for one range for everything: low and high are 0-d. With an int C ≥ 1, each channel has a range of its own, the
            channels are dimension 1 of what passes, (N, C, ...), and low and high are (C,).

    Both buffers are float32, and they are all that counts: after load_state_dict, the observer goes on from the loaded range. It has
    no parameters, and training and evaluation mode make no difference.

    Not allowed: the observers of torch.ao.quantization.
    """

    def __init__(self, channels: int | None = None) -> None:
        """Start with low = +inf and high = −inf; see the class."""
        # TODO: about 4 lines.
        raise NotImplementedError("MinMaxObserver.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Widen the range by the values of x, and return x itself.

        Gradients pass through to x as if nothing was there; the buffers never take part in a graph (requires_grad is False).

        Args:
            x: any shape, or (N, C, ...) where there are channels; float32, each value 0 or of a size between 1e-30 and 1e30. Without
                entries it changes nothing.

        Returns: x, the same tensor.
        """
        # TODO: about 6 lines.
        raise NotImplementedError("MinMaxObserver.forward")

    def qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of int8 codes, −128 … 127, for the range seen so far.

        With l = min(low, 0) and h = max(high, 0): scale = (h − l) / 255, or 1 where l and h are both 0, and
        zero_point = round(−128 − l / scale), halves to even; for each channel, where there are channels.

        Returns: (scale, zero_point), float32 and int32, shape of low.
        Raises: RuntimeError if the range is that of the start: nothing has been seen, and none has been loaded.
        """
        # TODO: about 6 lines.
        raise NotImplementedError("MinMaxObserver.qparams")


class PercentileObserver:
    """Find a range that leaves out the most extreme values: one outlier shouldn't cost all others their precision.

    `range` gives the quantiles `tail` and 1 − tail of all values observed so far taken together, whichever call they came from. (The
    average of the batches' quantiles is something else.) The quantile p of n sorted values v_0 ≤ … ≤ v_(n−1) lies at the position
    p · (n − 1); between two values it is interpolated linearly, as torch.quantile does.

    Args of the constructor:
        tail: the share of the values to leave out at each end, 0 ≤ tail < 0.5; 0 gives the minimum and the maximum.

    Raises: ValueError if tail is outside of that.
    Not allowed: the observers of torch.ao.quantization. (torch.quantile and torch.sort are fine.)
    """

    def __init__(self, tail: float = 0.001) -> None:
        """Start with nothing observed; see the class."""
        # TODO: about 4 lines.
        raise NotImplementedError("PercentileObserver.__init__")

    def observe(self, x: Tensor) -> None:
        """Take note of all values of x, as they are now: what is done to x afterwards doesn't matter. Its graph isn't kept.

        Args:
            x: any shape, possibly empty; float16, bfloat16 or float32, finite; it may require a gradient. A whole calibration has at
                most a million values, so that they can all be kept.
        """
        # TODO: about 1 line.
        raise NotImplementedError("PercentileObserver.observe")

    def range(self) -> tuple[float, float]:
        """The quantiles tail and 1 − tail of everything observed; observing may go on afterwards.

        Returns: (low, high), two Python floats.
        Raises: RuntimeError if no value has been observed yet.
        """
        # TODO: about 5 lines.
        raise NotImplementedError("PercentileObserver.range")


def int8_matmul(a: Tensor, b: Tensor, a_zero_point: int, b_zero_point: int) -> Tensor:
    """Multiply two matrices of int8 codes with zero points, exactly (Jacob et al. 2018, section 2.3).

    c[m, n] = Σ_k (a[m, k] − a_zero_point) · (b[k, n] − b_zero_point)

    Already a difference of two int8 numbers needn't fit into int8, and the sums reach some hundred millions, where float32 counts in
    steps of 16 and more. Every entry of c is the exact integer.

    Args:
        a: (M, K), int8; M may be 0, and so may K, which makes c all 0.
        b: (K, N), int8.
        a_zero_point, b_zero_point: ints from −128 to 127.

    Returns: (M, N), int32. (Every sum is below 2³¹ in size: K is at most 30,000.)
    Not allowed: torch._int_mm and its relatives. (Integer matrices can be multiplied with @.)
    """
    # TODO: about 1 line.
    raise NotImplementedError("int8_matmul")


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is stored in int8, about a quarter of its size, and computed with in float32.

    y = x Ŵᵀ + bias, with Ŵ[o, i] = weight[o, i] · scale[o]

    It has no parameters, but three buffers, none of which requires a gradient. They are all that it stores:

        weight:  (out_features, in_features), int8, zeros at first
        scale:   (out_features,), float32, ones at first
        bias:    (out_features,), float32, zeros at first; None if bias=False, and then state_dict has no entry for it

    So it takes out · in + 4 · out + 4 · out bytes, and state_dict and load_state_dict move all of it. `forward` follows the buffers as
    they are then, loaded or changed in place. The layer keeps no other tensor.

    Args of the constructor:
        in_features, out_features: sizes.
        bias: whether there is one.

    Not allowed: torch.quantize_per_tensor, torch.quantize_per_channel, torch.fake_quantize_… and what torch.ao has of the kind.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        """Register the three buffers; see the class."""
        # TODO: about 4 lines.
        raise NotImplementedError("QuantizedLinear.__init__")

    @classmethod
    def from_float(cls, linear: nn.Linear) -> "QuantizedLinear":
        """Make a quantized layer from a float one, which stays as it is and shares no memory with the new one.

        For each row w of its weight: scale = max |w| / 127, or 1 where the row is all 0, and the codes are round(w / scale), halves to
        even. With that, no output is further from that of the float layer than Σ_i |x_i| · scale / 2, up to float32's rounding.

        Args:
            linear: float32, with or without a bias; the largest absolute value of a row is 0 or between 1e-30 and 1e30.
        """
        # TODO: about 8 lines.
        raise NotImplementedError("QuantizedLinear.from_float")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; gradients reach x.

        Args:
            x: (..., in_features), float32; any number of batch dimensions, none included; a batch may be empty.

        Returns: (..., out_features), float32.
        """
        # TODO: about 2 lines.
        raise NotImplementedError("QuantizedLinear.forward")


def fake_quantize(x: Tensor, scale: float | Tensor, zero_point: int | Tensor, qmin: int, qmax: int) -> Tensor:
    """Round numbers to those that have a code, with a straight-through gradient (Jacob et al. 2018, section 3; Bengio et al. 2013).

        q = round(x / scale) + zero_point, halves to even
        y = (clamp(q, qmin, qmax) − zero_point) · scale

    Rounding has the derivative 0 nearly everywhere, and nothing could be learned through it. So backward takes it for the identity: the
    gradient of y goes on to x unchanged where qmin ≤ q ≤ qmax (q before the clamp, the ends included), and is exactly 0 elsewhere,
    even if what arrives there is NaN or infinite: multiplying it by 0 isn't enough.
    y has no more error than the formula: x + (y − x) is no longer y where x is much larger.

    Args:
        x: any shape, float32 or float64, and computed in that dtype; of a size up to 1,000.
        scale: from 1e-30 to 10; a float, or a tensor of the dtype of x that broadcasts to its shape, without gradient.
        zero_point: from qmin to qmax; an int, or an int32 tensor that broadcasts to the shape of x.
        qmin, qmax: the smallest and the largest code.

    Returns: shape and dtype of x.
    Not allowed: torch.fake_quantize_…, torch.quantize_per_tensor, torch.quantize_per_channel and what torch.ao has of the kind.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("fake_quantize")


def calibrate_model(weights: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    """Quantize a trained digits classifier without training: post-training quantization, calibrated on a few images.

    The classifier is this one, and `weights` is its state_dict, with the keys "1.weight", "1.bias", "3.weight" and "3.bias":

        nn.Sequential(nn.Flatten(), nn.Linear(D, H), nn.ReLU(), nn.Linear(H, 10))

    What you return is run as the following network, where z and s stand for a zero point and a scale, and quantize(x; s, z) is
    clamp(round(x / s) + z, −128, 127):

        q = quantize(flattened images; input_scale, input_zero_point)
        h = relu(((q − input_zero_point) @ W₁ᵀ) · input_scale · s₁ + b₁)              (both matrices hold integers)
        q = quantize(h; hidden_scale, hidden_zero_point)
        scores = ((q − hidden_zero_point) @ W₃ᵀ) · hidden_scale · s₃ + b₃

    Return a dict with exactly these keys:

        "1.weight", "3.weight":  W₁ and W₃, the codes of the weights, int8, shapes as given: each row symmetric with its own scale
        "1.scale", "3.scale":    s₁ and s₃, (H,) and (10,), float32: max |row| / 127, or 1 where a row is all 0
        "1.bias", "3.bias":      b₁ and b₃ as given, float32
        "input_scale", "hidden_scale":            Python floats
        "input_zero_point", "hidden_zero_point":  Python ints

    The scales and zero points of input and hidden layer are those of int8 for the range of the values that occur with the calibration
    images: all pixels of all images, and all outputs of the ReLU in the float classifier. With low and high for the smallest and the
    largest of the values, but low at most 0 and high at least 0: scale = (high − low) / 255, or 1.0 where both are 0, and
    zero_point = round(−128 − low / scale). Rounding takes halves to even everywhere.

    On 599 held-out images, the quantized classifier may lose at most 1 percentage point of the float one's accuracy.

    Args:
        weights: float32; D and H follow from the shapes. Rows may be as small as 1e-15 and as large as 1e15.
        images: (N, 1, height, width), float32, N ≥ 1; D = height · width. Pixels need not be between 0 and 1; they may be as small as
            1e-15 and as large as 1e15.

    Returns: the dict above.
    Not allowed: torch.quantize_per_tensor, torch.quantize_per_channel, torch.fake_quantize_… and what torch.ao has of the kind.
    """
    # TODO: about 17 lines.
    raise NotImplementedError("calibrate_model")


class QATLinear(nn.Module):
    """A linear layer for quantization-aware training: it computes with rounded weights and learns exact ones (Jacob et al. 2018).

    Each row w of the weight is quantized symmetrically to `bits` bits, anew in every forward, from the weight as it is then:

        n = 2^(bits − 1) − 1                                   (7 for 4 bits, 1 for 2 bits)
        scale = max |w| / n, or 1 where the row is all 0
        q = round(w / scale), halves to even; from −n to n
        ŵ = q · scale
        y = x Ŵᵀ + bias

    The gradient of weight is the straight-through one: that of Ŵ, unchanged (rounding counts as the identity, and scale as a constant).
    The gradients of x and bias are those of the last line as it stands. Forward and quantized() never change the weight: small steps
    add up in it until a code changes. Training and evaluation mode make no difference.

    The parameters are `weight`, (out_features, in_features), and `bias`, (out_features,), both float32; state_dict holds nothing
    else. Their initial values are free: tests load their own, with rows whose largest absolute value is 0 or between 1e-30 and 1e30.

    What it is good for: a digits classifier, two layers 64–32–10 with a ReLU, that is rounded to 2 bits after its training loses more
    than 20 percentage points of its accuracy on held-out images. Trained for 5 more epochs with this layer, it must lose at most 8.
    (The test has the loop: Adam, batches of 64. It judges the codes, scales and biases that come out, by quantized() and `bias`.)

    Args of the constructor:
        in_features, out_features: sizes.
        bits: from 2 to 8.

    Raises: ValueError if bits is outside of that.
    Not allowed: torch.fake_quantize_…, torch.quantize_per_tensor, torch.quantize_per_channel and what torch.ao has of the kind.
    """

    def __init__(self, in_features: int, out_features: int, bits: int = 4) -> None:
        """Make the two parameters; see the class."""
        # TODO: about 6 lines.
        raise NotImplementedError("QATLinear.__init__")

    def quantized(self) -> tuple[Tensor, Tensor]:
        """The codes and scales of the weight as it is now, for use after the training.

        Returns: (q, scale): (out_features, in_features), int8, and (out_features,), float32; neither requires a gradient.
        """
        # TODO: about 4 lines.
        raise NotImplementedError("QATLinear.quantized")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with the rounded weights.

        Args:
            x: (..., in_features), float32; any number of batch dimensions, none included; a batch may be empty.

        Returns: (..., out_features), float32.
        """
        # TODO: about 3 lines.
        raise NotImplementedError("QATLinear.forward")


def pack_int4(q: Tensor) -> Tensor:
    """Pack 4-bit codes two a byte along the last dimension.

    Byte j holds the code 2j in its lower four bits and the code 2j + 1 in its upper four, each in two's complement (−1 is 1111, −8 is
    1000). So 1, 2 become 0x21 = 33. If the number of codes is odd, the upper four bits of the last byte are 0.

    Args:
        q: (..., N), int8, from −8 to 7; N may be 0, and so may other sizes.

    Returns: (..., ceil(N / 2)), uint8.
    Raises: ValueError if a code is below −8 or above 7.
    Not allowed: torch's functions that pack weights into int4.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("pack_int4")


def unpack_int4(packed: Tensor, size: int) -> Tensor:
    """Unpack 4-bit codes that are stored two a byte along the last dimension.

    Byte j holds the code 2j in its lower four bits and the code 2j + 1 in its upper four, each in two's complement (1111 is −1, 1000 is
    −8). So 0x21 = 33 becomes 1, 2. If size is odd, the upper four bits of the last byte mean nothing, whatever they hold.

    Args:
        packed: (..., P), uint8; P may be 0, and so may other sizes.
        size: the number of codes along the last dimension.

    Returns: (..., size), int8, from −8 to 7.
    Raises: ValueError unless P is ceil(size / 2) and size is at least 0.
    Not allowed: torch's functions that pack weights into int4.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("unpack_int4")


def quantize_groupwise(weight: Tensor, group_size: int = 32) -> tuple[Tensor, Tensor]:
    """Quantize a weight matrix to 4 bits in groups along the rows, as language models are stored: 4.5 bits a weight.

    Each row is cut into groups of group_size neighbours, the first one at column 0; the last one is shorter where the row doesn't divide
    evenly (and where the row is shorter than a group). Each group w of a row is symmetric with a scale of its own:

        scale = max |w| / 7, rounded to float16, or 1 where the group is all 0
        q = round(w / scale), halves to even, with the rounded scale, since that is the one that is stored; from −7 to 7

    The codes of a row are packed two a byte: byte j of a row holds the code of column 2j in its lower four bits and that of column 2j + 1
    in its upper four, in two's complement; if a row has an odd number of columns, the upper four bits of its last byte are 0.

    Args:
        weight: (R, C), float32, finite, at least one row and one column; the largest absolute value of a group is 0 or between 0.01
            and 10,000.
        group_size: at least 1; it may be far larger than C, which must not cost memory.

    Returns: (packed, scale): (R, ceil(C / 2)), uint8, and (R, ceil(C / group_size)), float16. With 32 a group and C divisible by 32,
        these take 18 bytes for 32 weights.
    Raises: ValueError if group_size is below 1.
    Not allowed: torch.quantize_per_tensor, torch.quantize_per_channel, torch.fake_quantize_…, torch's functions that pack weights into
        int4 and what torch.ao has of the kind.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("quantize_groupwise")


def dynamic_quantized_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer with int8 weights to activations that are quantized on the fly, row by row.

    Nothing is calibrated: each row of x (each slice along the last dimension) gets its own symmetric scale in each call, so that no row
    depends on its neighbours.

        x_scale = max |row| / 127, or 1 where the row is all 0
        q = round(row / x_scale), halves to even; from −127 to 127
        y[o] = (Σ_i q[i] · weight[o, i]) · x_scale · weight_scale[o] + bias[o]

    The sum is an exact integer: float32 would lose its last digits, and where large terms cancel these are what is left. (For I up to
    100,000 it fits into int32.)

    Args:
        x: (..., I), float32, finite, I ≥ 1; any number of batch dimensions, none included; a batch may be empty. The largest
            absolute value of a row is 0 or between 1e-10 and 1e10.
        weight: (O, I), int8.
        weight_scale: (O,), float32.
        bias: (O,), float32, or None.

    Returns: (..., O), float32.
    Not allowed: torch.quantize_per_tensor, torch.quantize_per_channel, torch.fake_quantize_…, torch._int_mm and their relatives, and
        what torch.ao has of the kind. (Integer matrices can be multiplied with @.)
    """
    # TODO: about 5 lines.
    raise NotImplementedError("dynamic_quantized_linear")
