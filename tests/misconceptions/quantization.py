"""Named wrong answers to the tasks of quantization: the hidden suite must reject every one."""

import math
from typing import ClassVar

import torch
from torch import nn

from grader.testing import misconception
from solutions.quantization import MinMaxObserver as ReferenceMinMax
from solutions.quantization import PercentileObserver as ReferencePercentile
from solutions.quantization import QATLinear as ReferenceQAT
from solutions.quantization import QuantizedLinear as ReferenceQuantized
from solutions.quantization import calibrate_model as reference_calibrate
from solutions.quantization import quantize_groupwise as reference_groupwise
from solutions.quantization import unpack_int4 as reference_unpack

# affine_qparams


def _check_range(low, high, qmin, qmax):
    if not (math.isfinite(low) and math.isfinite(high) and low <= high and qmin < qmax):
        raise ValueError("range")


@misconception("affine_qparams", "Leaves a range such as 2 to 5 as it is: no code stands for 0 then, and a ReLU's zeros come out wrong.")
def zero_may_be_outside(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, round(qmin - low / scale)


@misconception("affine_qparams", "Divides by the number of codes: between 256 codes there are 255 steps.")
def divides_by_the_codes(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin + 1) or 1.0
    return scale, round(qmin - low / scale)


@misconception("affine_qparams", "Forgets that the codes begin at qmin: the zero point is right for codes from 0 on only.")
def zero_point_for_unsigned_codes(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, round(-low / scale)


@misconception("affine_qparams", "Cuts the zero point's fraction off with int() instead of rounding it.")
def truncates_the_zero_point(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, int(qmin - low / scale)


@misconception("affine_qparams", "Rounds halves up: the statement, like torch.round, takes them to the even number.")
def zero_point_rounds_halves_up(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, math.floor(qmin - low / scale + 0.5)


@misconception("affine_qparams", "Divides by a scale of 0 where the range is nothing but 0.")
def divides_by_zero(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin)
    return scale, round(qmin - low / scale)


@misconception("affine_qparams", "Never lets the scale fall below 1e-8: small ranges then use a single code.")
def floor_under_the_scale(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (qmax - qmin), 1e-8) if high > low else 1.0
    return scale, round(qmin - low / scale)


@misconception("affine_qparams", "Keeps the zero point as a float: it is a code, an int.")
def real_zero_point(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, qmin - low / scale


@misconception("affine_qparams", "Rounds low / scale before it subtracts: where qmin is odd, halves go to the odd code.")
def rounds_before_it_subtracts(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return 1.0, qmin
    scale = (high - low) / (qmax - qmin)
    return scale, qmin - round(low / scale)


@misconception("affine_qparams", "Takes a qmax of 0 for a missing one: 0 is a code like any other.")
def zero_counts_as_missing(low, high, *, qmin=None, qmax=None):
    qmin, qmax = -128 if qmin is None else qmin, qmax or 127
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, round(qmin - low / scale)


@misconception("affine_qparams", "Clamps the zero point to the codes of 8 bits, whatever qmin and qmax are.")
def zero_point_of_eight_bits(low, high, *, qmin=-128, qmax=127):
    _check_range(low, high, qmin, qmax)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, min(max(round(qmin - low / scale), -128), 255)


@misconception("affine_qparams", "Looks at the order of low and high only after widening the range to 0, when they are always in order.")
def checks_too_late(low, high, *, qmin=-128, qmax=127):
    low, high = min(low, 0.0), max(high, 0.0)
    if not math.isfinite(high - low) or low > high or qmin >= qmax:
        raise ValueError("range")
    scale = (high - low) / (qmax - qmin) or 1.0
    return scale, round(qmin - low / scale)


# quantize


def _promoted(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


@misconception("quantize", "Converts to the integer dtype before clamping: numbers beyond the range wrap around.")
def wraps_around(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (torch.round(_promoted(x) / scale) + zero_point).to(torch.int64).to(dtype).clamp(info.min, info.max)


@misconception("quantize", "Converts without rounding, which cuts the fraction off.")
def cuts_off(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (_promoted(x) / scale + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Rounds halves up with floor(x + 0.5): they go to the even step.")
def halves_up(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (torch.floor(_promoted(x) / scale + 0.5) + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Adds the zero point before rounding: with an odd one, halves go to the other side.")
def rounds_after_the_zero_point(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return torch.round(_promoted(x) / scale + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Subtracts the zero point; that is what dequantizing does.")
def subtracts_the_zero_point(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (torch.round(_promoted(x) / scale) - zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Clamps before the zero point is added, so that the codes leave the range again.")
def clamps_too_early(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    q = torch.round(_promoted(x) / scale).clamp(info.min, info.max) + zero_point
    return q.to(torch.int64).to(dtype)


@misconception("quantize", "Divides in float16 or bfloat16, which can't hold the digits that decide about rounding.")
def divides_in_half_precision(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (torch.round(x / scale).to(torch.float64) + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Computes everything in float32: a float64 x loses the digits that decide about rounding.")
def always_in_float32(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (torch.round(x.float() / scale) + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Always clamps to int8's range, whatever dtype is.")
def always_int8(x, scale, zero_point, *, dtype=torch.int8):
    return (torch.round(_promoted(x) / scale) + zero_point).clamp(-128, 127).to(torch.int16).to(dtype)


@misconception("quantize", "Works in place: the numbers of the caller are gone.")
def quantizes_in_place(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return _promoted(x).div_(scale).round_().add_(zero_point).clamp_(info.min, info.max).to(dtype)


@misconception("quantize", "Multiplies by 1 / scale, which is rounded itself: halves are missed.")
def multiplies_by_the_reciprocal(x, scale, zero_point, *, dtype=torch.int8):
    info, inverse = torch.iinfo(dtype), 1.0 / scale
    return (torch.round(_promoted(x) * inverse) + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Rounds into int32 before clamping: numbers of more than 2³¹ steps wrap around.")
def clamps_integers(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (torch.round(_promoted(x) / scale).to(torch.int32) + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Keeps the scale above 1e-12 to avoid a division by zero: smaller ones are possible.")
def floor_under_a_given_scale(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    return (torch.round(_promoted(x) / max(scale, 1e-12)) + zero_point).clamp(info.min, info.max).to(dtype)


@misconception("quantize", "Flattens with view, which only goes where the entries lie one after another.")
def flattens_by_view(x, scale, zero_point, *, dtype=torch.int8):
    info = torch.iinfo(dtype)
    q = torch.round(_promoted(x).view(-1) / scale) + zero_point
    return q.clamp(info.min, info.max).to(dtype).view(x.shape)


# dequantize


@misconception("dequantize", "Subtracts in the small dtype, where 100 − (−100) wraps around to −56.")
def subtracts_in_the_small_dtype(q, scale, zero_point):
    return (q - torch.tensor(zero_point, dtype=q.dtype)).to(torch.float32) * scale


@misconception("dequantize", "Adds the zero point; that is what quantizing does.")
def adds_the_zero_point(q, scale, zero_point):
    return (q.float() + zero_point) * scale


@misconception("dequantize", "Multiplies first: q · scale − zero_point is in steps on one side only.")
def scales_the_codes_only(q, scale, zero_point):
    return q.float() * scale - zero_point


@misconception("dequantize", "Computes q · scale and zero_point · scale apart: they are rounded apart, and 0 comes out as a small rest.")
def a_rest_instead_of_zero(q, scale, zero_point):
    return q.float() * scale - zero_point * scale


@misconception("dequantize", "Divides by the scale.")
def divides_by_the_scale(q, scale, zero_point):
    return (q.float() - zero_point) / scale


@misconception("dequantize", "Computes in float64 and stays there: float32 is asked for.")
def stays_in_float64(q, scale, zero_point):
    return (q.double() - zero_point) * scale


@misconception("dequantize", "Subtracts in int16, which can't hold differences of int16 codes.")
def subtracts_in_int16(q, scale, zero_point):
    return (q.to(torch.int16) - zero_point).to(torch.float32) * scale


@misconception("dequantize", "Keeps the scale above 1e-12: smaller ones are possible.")
def floor_under_the_step(q, scale, zero_point):
    return (q.to(torch.float32) - zero_point) * max(scale, 1e-12)


# quantize_per_channel


def _with_scales(x, scale, dim):
    scale = scale.masked_fill(scale == 0, 1.0)
    shape = [1] * x.ndim
    shape[dim] = -1
    return torch.round(x / scale.view(shape)).clamp(-127, 127).to(torch.int8), scale


def _other_dims(x, dim):
    return [d for d in range(x.ndim) if d != dim % x.ndim]


@misconception(
    "quantize_per_channel", "Uses the largest value of the whole tensor for every channel: small channels are left with few codes."
)
def one_scale_for_all(x, dim):
    return _with_scales(x, (x.abs().max() / 127).repeat(x.shape[dim]), dim)


@misconception("quantize_per_channel", "Takes the maximum along dim: that gives a scale to every position instead of every channel.")
def reduces_the_channels(x, dim):
    scale = x.abs().amax(dim, keepdim=True) / 127
    scale = scale.masked_fill(scale == 0, 1.0)
    return torch.round(x / scale).to(torch.int8), scale.flatten()


@misconception("quantize_per_channel", "Takes the largest value, not the largest absolute value: large negative numbers are cut off.")
def largest_without_abs(x, dim):
    other = _other_dims(x, dim)
    top = x.amax(other) if other else x
    return _with_scales(x, top.clamp(min=0) / 127, dim)


@misconception("quantize_per_channel", "Maps the largest absolute value to 128, which int8 doesn't have.")
def scale_from_128(x, dim):
    other = _other_dims(x, dim)
    return _with_scales(x, (x.abs().amax(other) if other else x.abs()) / 128, dim)


@misconception("quantize_per_channel", "Lets the scales meet the last dimension, whichever dimension the channels are.")
def scales_along_the_last_dimension(x, dim):
    other = _other_dims(x, dim)
    scale = (x.abs().amax(other) if other else x.abs()) / 127
    scale = scale.masked_fill(scale == 0, 1.0)
    return torch.round(x / scale).clamp(-127, 127).to(torch.int8), scale


@misconception("quantize_per_channel", "Divides 0 by 0 in a channel of zeros: its codes are made of NaN.")
def no_scale_for_zeros(x, dim):
    other = _other_dims(x, dim)
    scale = (x.abs().amax(other) if other else x.abs()) / 127
    shape = [1] * x.ndim
    shape[dim] = -1
    return torch.round(x / scale.view(shape)).to(torch.int8), scale


@misconception("quantize_per_channel", "Converts without rounding, which cuts the fraction off: errors of a whole step.")
def channels_cut_off(x, dim):
    other = _other_dims(x, dim)
    scale = (x.abs().amax(other) if other else x.abs()) / 127
    scale = scale.masked_fill(scale == 0, 1.0)
    shape = [1] * x.ndim
    shape[dim] = -1
    return (x / scale.view(shape)).to(torch.int8), scale


def _channel_tops(x, dim):
    return x.movedim(dim, 0).reshape(x.shape[dim], -1).abs().amax(1)


@misconception("quantize_per_channel", "Keeps every scale above 1e-12: a channel of 1e-20 is a channel like any other.")
def floor_under_the_scales(x, dim):
    top = _channel_tops(x, dim)
    return _with_scales(x, torch.where(top == 0, top, (top / 127).clamp(min=1e-12)), dim)


@misconception("quantize_per_channel", "Flattens the channels with view, which only goes where they lie one after another.")
def channels_by_view(x, dim):
    rows = x.transpose(0, dim)
    rows = rows.contiguous().view(x.shape[dim], -1) if dim % x.ndim else x.view(x.shape[0], -1)
    return _with_scales(x, rows.abs().amax(1) / 127, dim)


@misconception("quantize_per_channel", "Multiplies by 127 / max, which is rounded itself: halves are missed.")
def channels_by_the_reciprocal(x, dim):
    top = _channel_tops(x, dim)
    shape = [1] * x.ndim
    shape[dim] = -1
    inverse = torch.where(top > 0, 127 / top, 1.0)
    return torch.round(x * inverse.view(shape)).to(torch.int8), torch.where(top > 0, top / 127, 1.0)


@misconception("quantize_per_channel", "Squeezes the scales: a single channel has a scale of shape (1,), not a number.")
def squeezes_the_scales(x, dim):
    scale = x.abs()
    for d in _other_dims(x, dim):
        scale = scale.amax(d, keepdim=True)
    scale = scale / 127
    scale = scale.masked_fill(scale == 0, 1.0)
    return torch.round(x / scale).to(torch.int8), scale.squeeze()


@misconception("quantize_per_channel", "Finds the codes in float32: a float64 x loses the digits that decide about rounding.")
def channels_in_float32(x, dim):
    scale = _channel_tops(x, dim) / 127
    return _with_scales(x.float(), scale.float(), dim)[0], scale.masked_fill(scale == 0, 1.0)


# MinMaxObserver


@misconception("MinMaxObserver", "Keeps the range of the last batch only.")
class LastBatchOnly(ReferenceMinMax):
    def forward(self, x):
        if x.numel():
            self.low.fill_(math.inf)
            self.high.fill_(-math.inf)
        return super().forward(x)


@misconception("MinMaxObserver", "Starts at 0 instead of +inf and −inf: the range always includes 0, seen or not.")
class StartsAtZero(ReferenceMinMax):
    def __init__(self, channels=None):
        super().__init__(channels)
        self.low.zero_()
        self.high.zero_()


@misconception("MinMaxObserver", "Keeps low and high as plain attributes: state_dict doesn't know them, and .to doesn't move them.")
class PlainAttributes(ReferenceMinMax):
    def __init__(self, channels=None):
        super().__init__(channels)
        low, high = self.low, self.high
        del self.low, self.high
        self.low, self.high = low, high


@misconception("MinMaxObserver", "Takes the last dimension for the channels; in (N, C, H, W) they are dimension 1.")
class ChannelsLast(ReferenceMinMax):
    def forward(self, x):
        if self.low.ndim and x.numel():
            super().forward(x.flatten(1).view(-1, len(self.low)))
        else:
            super().forward(x)
        return x


@misconception("MinMaxObserver", "Doesn't detach: the range drags the graphs of all batches behind it.")
class KeepsTheGraph(ReferenceMinMax):
    def forward(self, x):
        if x.numel():
            rows = x.reshape(1, -1) if self.low.ndim == 0 else x.transpose(0, 1).flatten(1)
            self.low = torch.minimum(self.low, rows.amin(1).view_as(self.low))
            self.high = torch.maximum(self.high, rows.amax(1).view_as(self.high))
        return x


@misconception("MinMaxObserver", "Returns a detached copy: what comes before the observer can't learn any more.")
class CutsTheGradient(ReferenceMinMax):
    def forward(self, x):
        return super().forward(x).detach().requires_grad_()


@misconception("MinMaxObserver", "Observes in training mode only; calibration runs in evaluation mode.")
class TrainingModeOnly(ReferenceMinMax):
    def forward(self, x):
        return super().forward(x) if self.training else x


@misconception("MinMaxObserver", "Averages the ranges of the batches, which cuts off what was largest.")
class AveragesTheBatches(ReferenceMinMax):
    def forward(self, x):
        before, fresh = (self.low.clone(), self.high.clone()), bool((self.low > self.high).any())
        super().forward(x)
        if x.numel() and not fresh:
            self.low, self.high = (before[0] + self.low) / 2, (before[1] + self.high) / 2
        return x


@misconception("MinMaxObserver", "Doesn't widen the range to 0 in qparams: 0 may be left without a code.")
class RangeWithoutZero(ReferenceMinMax):
    def qparams(self):
        if (self.low > self.high).any():
            raise RuntimeError("nothing seen")
        scale = (self.high - self.low) / 255
        scale = scale.masked_fill(scale == 0, 1.0)
        return scale, torch.round(-128 - self.low / scale).to(torch.int32)


@misconception("MinMaxObserver", "Flattens with view, which only goes where the entries lie one after another.")
class ObservesByView(ReferenceMinMax):
    def forward(self, x):
        if x.numel():
            seen = x.detach()
            if self.low.ndim == 0:
                low, high = seen.view(-1).min(), seen.view(-1).max()
            else:
                rows = seen.view(seen.shape[0], seen.shape[1], -1)
                low, high = rows.amin((0, 2)), rows.amax((0, 2))
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        return x


@misconception("MinMaxObserver", "Notes in a plain attribute that it has seen something: a loaded range is refused.")
class RemembersThatItSaw(ReferenceMinMax):
    def __init__(self, channels=None):
        super().__init__(channels)
        self.seen = False

    def forward(self, x):
        self.seen |= x.numel() > 0
        return super().forward(x)

    def qparams(self):
        if not self.seen:
            raise RuntimeError("nothing seen")
        return super().qparams()


@misconception("MinMaxObserver", "Goes on from a range of its own and only copies it into the buffers: a loaded one is lost.")
class CopiesIntoTheBuffers(ReferenceMinMax):
    def __init__(self, channels=None):
        super().__init__(channels)
        self.range = [self.low.clone(), self.high.clone()]

    def forward(self, x):
        if x.numel():
            rows = x.detach().reshape(1, -1) if self.low.ndim == 0 else x.detach().transpose(0, 1).flatten(1)
            low, high = self.range
            self.range = [torch.minimum(low, rows.amin(1).view_as(low)), torch.maximum(high, rows.amax(1).view_as(high))]
            self.low.copy_(self.range[0])
            self.high.copy_(self.range[1])
        return x


@misconception("MinMaxObserver", "Keeps the scale and zero point that it gave first: they must follow the range.")
class KeepsItsAnswer(ReferenceMinMax):
    def forward(self, x):
        self.answer = None
        return super().forward(x)

    def qparams(self):
        if self.__dict__.get("answer") is None:
            self.answer = super().qparams()
        return self.answer


@misconception("MinMaxObserver", "Keeps scales above float32's eps, as torch's observers do: small ranges are left with few codes.")
class FloorUnderTheScale(ReferenceMinMax):
    def qparams(self):
        scale, zero_point = super().qparams()
        floor = torch.finfo(torch.float32).eps
        return scale.clamp(min=floor), torch.where(scale < floor, torch.round(-128 - self.low.clamp(max=0) / floor).int(), zero_point)


@misconception("MinMaxObserver", "Widens the range to 0 in the buffers themselves: what was seen is lost.")
class WidensTheBuffers(ReferenceMinMax):
    def qparams(self):
        scale, zero_point = super().qparams()
        self.low.clamp_(max=0)
        self.high.clamp_(min=0)
        return scale, zero_point


@misconception("MinMaxObserver", "Registers the buffers with persistent=False: `.to` moves them, but state_dict doesn't have them.")
class NotPersistent(ReferenceMinMax):
    def __init__(self, channels=None):
        super().__init__(channels)
        for name in ("low", "high"):
            self.register_buffer(name, getattr(self, name), persistent=False)


@misconception("MinMaxObserver", "Uses parameters without gradient: they appear among those that an optimizer gets.")
class FrozenParameters(ReferenceMinMax):
    def __init__(self, channels=None):
        super().__init__(channels)
        low, high = self.low, self.high
        del self.low, self.high
        self.low, self.high = nn.Parameter(low, requires_grad=False), nn.Parameter(high, requires_grad=False)

    def forward(self, x):
        if x.numel():
            rows = x.detach().reshape(1, -1) if self.low.ndim == 0 else x.detach().transpose(0, 1).flatten(1)
            self.low.copy_(torch.minimum(self.low, rows.amin(1).view_as(self.low)))
            self.high.copy_(torch.maximum(self.high, rows.amax(1).view_as(self.high)))
        return x


@misconception("MinMaxObserver", "Treats one channel like none: low and high lose their dimension.")
class OneChannelIsNone(ReferenceMinMax):
    def __init__(self, channels=None):
        super().__init__(None if channels == 1 else channels)


# PercentileObserver


@misconception("PercentileObserver", "Averages the quantiles of the batches; the quantile of all values together is another number.")
class AveragesQuantiles(ReferencePercentile):
    def range(self):
        whole = super().range()
        ends = []
        for values in self._values:
            if len(values):
                one = ReferencePercentile(self.tail)
                one.observe(values)
                ends.append(one.range())
        return (sum(a for a, _ in ends) / len(ends), sum(b for _, b in ends) / len(ends)) if len(ends) > 1 else whole


@misconception("PercentileObserver", "Shares tail between the two ends: it is the share at each of them.")
class HalvesTheTail(ReferencePercentile):
    def __init__(self, tail=0.001):
        super().__init__(tail)
        self.tail = tail / 2


@misconception("PercentileObserver", "Takes quantiles of the absolute values: the range is symmetric whatever the data are.")
class SymmetricRange(ReferencePercentile):
    def range(self):
        super().range()
        top = torch.quantile(torch.cat(self._values).abs(), 1 - self.tail).item()
        return -top, top


@misconception("PercentileObserver", "Keeps the tensor itself instead of a copy: when it is overwritten later, so is the observation.")
class KeepsReferences(ReferencePercentile):
    def observe(self, x):
        self._values.append(x.detach().flatten())

    def range(self):
        values, self._values = self._values, [values.double() for values in self._values]
        try:
            return super().range()
        finally:
            self._values = values


@misconception("PercentileObserver", "Keeps values with the graph that they came from: nothing of what was computed before can be freed.")
class KeepsGraphs(ReferencePercentile):
    def observe(self, x):
        self._values.append(x.flatten().double())


@misconception("PercentileObserver", "Forgets what came before: only the last batch counts.")
class RemembersOneBatch(ReferencePercentile):
    def observe(self, x):
        if x.numel():
            self._values.clear()
        super().observe(x)


@misconception("PercentileObserver", "Takes the minimum and maximum: one outlier decides about the range.")
class IgnoresTheTail(ReferencePercentile):
    def range(self):
        super().range()
        values = torch.cat(self._values)
        return values.min().item(), values.max().item()


@misconception("PercentileObserver", "Takes the nearest value instead of interpolating between two.")
class NearestValue(ReferencePercentile):
    def range(self):
        super().range()
        values = torch.cat(self._values)
        ends = torch.tensor([self.tail, 1 - self.tail])
        low, high = torch.quantile(values, ends, interpolation="nearest").tolist()
        return low, high


@misconception("PercentileObserver", "Keeps all values in float16 to save memory: float32 values lose their digits.")
class RoundsToHalf(ReferencePercentile):
    def range(self):
        super().range()
        self._values = [values.half().double() for values in self._values]
        return super().range()


@misconception("PercentileObserver", "Flattens with view, which only goes where the entries lie one after another.")
class FlattensByView(ReferencePercentile):
    def observe(self, x):
        self._values.append(x.detach().view(-1).double())


@misconception("PercentileObserver", "Takes a tail of 0 for a missing one.")
class ZeroIsTheDefault(ReferencePercentile):
    def __init__(self, tail=None):
        super().__init__(tail or 0.001)


@misconception("PercentileObserver", "Keeps at most 100,000 values: the others don't count.")
class KeepsTheFirstValues(ReferencePercentile):
    def observe(self, x):
        room = 100_000 - sum(len(values) for values in self._values)
        super().observe(x.flatten()[:room])


@misconception("PercentileObserver", "Drops what it has observed when it is asked for the range: observing may go on afterwards.")
class ForgetsWhenAsked(ReferencePercentile):
    def range(self):
        result = super().range()
        self._values = []
        return result


@misconception("PercentileObserver", "Keeps the values in an attribute of the class: all observers share them.")
class SharesItsValues(ReferencePercentile):
    shared: ClassVar[list] = []

    def __init__(self, tail=0.001):
        super().__init__(tail)
        self._values = SharesItsValues.shared


@misconception("PercentileObserver", "Counts equal values once.")
class CountsEachValueOnce(ReferencePercentile):
    def range(self):
        super().range()
        self._values = [torch.cat(self._values).unique()]
        return super().range()


@misconception("PercentileObserver", "Keeps the latest 100,000 values: those observed before count as well.")
class KeepsTheLatestValues(ReferencePercentile):
    def range(self):
        self._values = [torch.cat([torch.empty(0), *self._values])[-100_000:]]
        return super().range()


# int8_matmul


@misconception("int8_matmul", "Multiplies the int8 matrices as they are: products and sums wrap around at 127.")
def accumulates_in_int8(a, b, a_zero_point, b_zero_point):
    c = (a @ b).to(torch.int32)
    c = c - a_zero_point * b.to(torch.int32).sum(0) - b_zero_point * a.to(torch.int32).sum(1, keepdim=True)
    return c + a.shape[1] * a_zero_point * b_zero_point


@misconception("int8_matmul", "Takes the zero points off in int8, where the difference wraps around.")
def differences_in_int8(a, b, a_zero_point, b_zero_point):
    a, b = a - torch.tensor(a_zero_point, dtype=torch.int8), b - torch.tensor(b_zero_point, dtype=torch.int8)
    return a.to(torch.int32) @ b.to(torch.int32)


@misconception("int8_matmul", "Computes in float32, which can't tell whole numbers apart above 16,777,216.")
def accumulates_in_float32(a, b, a_zero_point, b_zero_point):
    return ((a.float() - a_zero_point) @ (b.float() - b_zero_point)).to(torch.int32)


@misconception("int8_matmul", "Leaves out K · za · zb, the last term of the product written out.")
def forgets_the_constant_term(a, b, a_zero_point, b_zero_point):
    a, b = a.to(torch.int32), b.to(torch.int32)
    return a @ b - a_zero_point * b.sum(0) - b_zero_point * a.sum(1, keepdim=True)


@misconception("int8_matmul", "Swaps the zero points: the sums over the rows of a belong to b's.")
def swaps_the_zero_points(a, b, a_zero_point, b_zero_point):
    return (a.to(torch.int32) - b_zero_point) @ (b.to(torch.int32) - a_zero_point)


@misconception("int8_matmul", "Adds the zero points instead of taking them off.")
def adds_zero_points(a, b, a_zero_point, b_zero_point):
    return (a.to(torch.int32) + a_zero_point) @ (b.to(torch.int32) + b_zero_point)


@misconception("int8_matmul", "Returns int64: the result of int8 products is an int32.")
def returns_int64(a, b, a_zero_point, b_zero_point):
    return (a.long() - a_zero_point) @ (b.long() - b_zero_point)


@misconception("int8_matmul", "Takes the zero points off only where neither is 0.")
def a_zero_point_of_zero_is_none(a, b, a_zero_point, b_zero_point):
    a, b = a.to(torch.int32), b.to(torch.int32)
    c = a @ b
    if a_zero_point and b_zero_point:
        c = (a - a_zero_point) @ (b - b_zero_point)
    return c


@misconception("int8_matmul", "Squeezes the result: a single column is a matrix, too.")
def squeezes_a_single_column(a, b, a_zero_point, b_zero_point):
    return ((a.to(torch.int32) - a_zero_point) @ (b.to(torch.int32) - b_zero_point)).squeeze()


@misconception("int8_matmul", "Takes the zero point off a's own memory.")
def subtracts_in_place(a, b, a_zero_point, b_zero_point):
    if a_zero_point == 0:
        return a.to(torch.int32) @ (b.to(torch.int32) - b_zero_point)
    result = (a.to(torch.int32) - a_zero_point) @ (b.to(torch.int32) - b_zero_point)
    a -= a_zero_point
    return result


# QuantizedLinear


@misconception("QuantizedLinear", "Uses one scale for the whole weight: rows of small weights are hardly there any more.")
class OneScaleForTheWeight(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        layer = super().from_float(linear)
        w = linear.weight.detach()
        layer.scale = (w.abs().max() / 127).repeat(len(w))
        layer.weight = torch.round(w / layer.scale[:, None]).to(torch.int8)
        return layer


@misconception("QuantizedLinear", "Keeps the rounded weight in float32: nothing is saved.")
class StoresFloats(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        layer = super().from_float(linear)
        layer.weight = layer.weight.float()
        return layer


@misconception("QuantizedLinear", "Keeps the float weight too and computes with it: the layer has grown, and loaded codes change nothing.")
class ComputesWithTheFloatWeight(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        layer = super().from_float(linear)
        layer.float_weight = linear.weight.detach().clone()
        return layer

    def forward(self, x):
        y = x @ getattr(self, "float_weight", self.weight * self.scale[:, None]).T
        return y if self.bias is None else y + self.bias


@misconception("QuantizedLinear", "Caches the float weight at the first forward pass: five times the memory, and old codes after loading.")
class CachesTheFloatWeight(ReferenceQuantized):
    def forward(self, x):
        if "cached" not in self.__dict__:
            self.cached = self.weight * self.scale[:, None]
        y = x @ self.cached.T
        return y if self.bias is None else y + self.bias


@misconception("QuantizedLinear", "Keeps the scales as a plain attribute: they are missing from state_dict, and a loaded layer has others.")
class ScaleIsNoBuffer(ReferenceQuantized):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__(in_features, out_features, bias)
        del self.scale
        self.scale = torch.ones(out_features)


@misconception("QuantizedLinear", "Adds the bias before the scales are applied: it is a real number, not a sum of codes.")
class ScalesTheBias(ReferenceQuantized):
    def forward(self, x):
        y = x @ self.weight.float().T
        return (y if self.bias is None else y + self.bias) * self.scale


@misconception("QuantizedLinear", "Shares the bias with the float layer: training that one changes this one.")
class SharesTheBias(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        layer = super().from_float(linear)
        if linear.bias is not None:
            layer.bias = linear.bias.detach()
        return layer


@misconception("QuantizedLinear", "Cuts fractions off instead of rounding: the error is up to a whole step.")
class CutsFractionsOff(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        layer = super().from_float(linear)
        layer.weight = (linear.weight.detach() / layer.scale[:, None]).to(torch.int8)
        return layer


@misconception("QuantizedLinear", "Rounds the activations to whole numbers as well: only the weight is quantized here.")
class RoundsTheInputs(ReferenceQuantized):
    def forward(self, x):
        return super().forward(x.round())


@misconception("QuantizedLinear", "Rounds halves up with floor(x + 0.5): they go to the even code.")
class HalvesUp(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        layer = super().from_float(linear)
        layer.weight = torch.floor(linear.weight.detach() / layer.scale[:, None] + 0.5).to(torch.int8)
        return layer


def _filled(linear, scale):
    layer = ReferenceQuantized(linear.in_features, linear.out_features, bias=linear.bias is not None)
    layer.weight = torch.round(linear.weight.detach() / scale[:, None]).to(torch.int8)
    layer.scale = scale
    if linear.bias is not None:
        layer.bias = linear.bias.detach().clone()
    return layer


@misconception("QuantizedLinear", "Keeps every scale above 1e-8: rows of small weights are left with few codes.")
class FloorUnderTheScales(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        scale = linear.weight.detach().abs().amax(1) / 127
        return _filled(linear, torch.where(scale == 0, 1.0, scale.clamp(min=1e-8)))


@misconception("QuantizedLinear", "Doesn't detach the weight: the scales drag the float layer's graph behind them.")
class ScalesKeepTheGraph(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        scale = linear.weight.abs().amax(1) / 127
        return _filled(linear, torch.where(scale == 0, 1.0, scale))


@misconception("QuantizedLinear", "Stores the codes as a parameter without gradient: they are to be a buffer.")
class CodesAreAParameter(ReferenceQuantized):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__(in_features, out_features, bias)
        del self.weight
        self.weight = nn.Parameter(torch.zeros(out_features, in_features, dtype=torch.int8), requires_grad=False)

    @classmethod
    def from_float(cls, linear):
        layer = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        layer.load_state_dict(ReferenceQuantized.from_float(linear).state_dict())
        return layer


@misconception("QuantizedLinear", "Makes a batch of rows with view(-1, …), which fails for an empty batch and for some strides.")
class ForwardByView(ReferenceQuantized):
    def forward(self, x):
        y = super().forward(x.view(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], y.shape[-1])


@misconception("QuantizedLinear", "Computes in float16: float32 is asked for.")
class ComputesInHalf(ReferenceQuantized):
    def forward(self, x):
        y = x @ (self.weight.half() * self.scale.half()[:, None]).to(x.dtype).T
        return y if self.bias is None else y + self.bias


@misconception("QuantizedLinear", "Switches the float layer to evaluation mode and freezes it: it is to stay as it is.")
class FreezesTheFloatLayer(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        return super().from_float(linear.eval().requires_grad_(False))


@misconception("QuantizedLinear", "Keeps the float codes of the last forward, and drops them only when something is loaded.")
class CachesUntilLoading(ReferenceQuantized):
    def load_state_dict(self, *args, **kwargs):
        self.__dict__.pop("codes", None)
        return super().load_state_dict(*args, **kwargs)

    def forward(self, x):
        codes = self.__dict__.setdefault("codes", self.weight.to(x.dtype).T)
        y = (x @ codes) * self.scale
        return y if self.bias is None else y + self.bias


@misconception("QuantizedLinear", "Multiplies by 1 / scale, which is rounded itself: halves are missed.")
class ByTheReciprocal(ReferenceQuantized):
    @classmethod
    def from_float(cls, linear):
        layer = super().from_float(linear)
        layer.weight = torch.round(linear.weight.detach() * (1 / layer.scale)[:, None]).to(torch.int8)
        return layer


@misconception("QuantizedLinear", "Switches gradients off in forward: none reaches x.")
class ForwardWithoutGradients(ReferenceQuantized):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


# fake_quantize


@misconception("fake_quantize", "Lets autograd differentiate the rounding: its derivative is 0, and nothing is learned.")
def gradient_of_rounding(x, scale, zero_point, qmin, qmax):
    return ((torch.round(x / scale) + zero_point).clamp(qmin, qmax) - zero_point) * scale


@misconception("fake_quantize", "Passes the gradient everywhere, also where x was cut off.")
def gradient_outside_too(x, scale, zero_point, qmin, qmax):
    y = ((torch.round(x.detach() / scale) + zero_point).clamp(qmin, qmax) - zero_point) * scale
    return y + (x - x.detach())


@misconception("fake_quantize", "Returns x itself inside the range: the gradient is right, but nothing is rounded.")
def clamps_only(x, scale, zero_point, qmin, qmax):
    return torch.minimum(torch.maximum(x, (qmin - zero_point) * torch.as_tensor(scale)), (qmax - zero_point) * torch.as_tensor(scale))


@misconception("fake_quantize", "Returns the codes: they still have to be turned back into numbers.")
def returns_codes(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() / scale) + zero_point
    return q.clamp(qmin, qmax) + torch.where((q >= qmin) & (q <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Leaves the zero point out on the way back: everything is shifted.")
def forgets_the_zero_point(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() / scale) + zero_point
    return q.clamp(qmin, qmax) * scale + torch.where((q >= qmin) & (q <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Multiplies the gradient by the scale, or by 1 / scale: straight-through means unchanged.")
def scales_the_gradient(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() / scale) + zero_point
    inside = (q >= qmin) & (q <= qmax)
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where(inside, (x - x.detach()) * scale, 0.0)


@misconception("fake_quantize", "Decides by x / scale instead of the rounded code: 127.25 steps are rounded to the last code, not cut off.")
def decides_before_rounding(x, scale, zero_point, qmin, qmax):
    steps = x.detach() / scale + zero_point
    q = torch.round(x.detach() / scale) + zero_point
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where((steps >= qmin) & (steps <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Gives the end codes no gradient: the ends of the range are inside.")
def ends_are_outside(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() / scale) + zero_point
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where((q > qmin) & (q < qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Rounds halves up with floor(x + 0.5): they go to the even step.")
def fakes_halves_up(x, scale, zero_point, qmin, qmax):
    q = torch.floor(x.detach() / scale + 0.5) + zero_point
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where((q >= qmin) & (q <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Returns x + (y − x): where x is much larger than y, the last digits of y are lost.")
def adds_the_difference(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() / scale) + zero_point
    y = (q.clamp(qmin, qmax) - zero_point) * scale
    through = torch.where((q >= qmin) & (q <= qmax), x, x.detach())
    return through + (y - through).detach()


@misconception("fake_quantize", "Rounds in float32: a float64 x loses the digits that decide.")
def rounds_in_float32(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach().float() / (scale.float() if isinstance(scale, torch.Tensor) else scale)).to(x.dtype) + zero_point
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where((q >= qmin) & (q <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Multiplies by 1 / scale, which is rounded itself: halves are missed.")
def fakes_by_the_reciprocal(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() * (1 / scale)) + zero_point
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where((q >= qmin) & (q <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Keeps the scale above 1e-8: smaller ones are possible.")
def fakes_with_a_floor(x, scale, zero_point, qmin, qmax):
    scale = torch.as_tensor(scale, dtype=x.dtype).clamp(min=1e-8)
    q = torch.round(x.detach() / scale) + zero_point
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where((q >= qmin) & (q <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Flattens with view, which only goes where the entries lie one after another.")
def fakes_by_view(x, scale, zero_point, qmin, qmax):
    flat = x.view(-1)
    scales = torch.as_tensor(scale, dtype=x.dtype).expand(x.shape).reshape(-1)
    zeros = torch.as_tensor(zero_point).expand(x.shape).reshape(-1)
    q = torch.round(flat.detach() / scales) + zeros
    y = (q.clamp(qmin, qmax) - zeros) * scales + torch.where((q >= qmin) & (q <= qmax), flat - flat.detach(), 0.0)
    return y.view(x.shape)


@misconception("fake_quantize", "Takes a qmax of 0 for a missing one: 0 is a code like any other.")
def fakes_with_a_default(x, scale, zero_point, qmin, qmax):
    qmax = qmax or 127
    q = torch.round(x.detach() / scale) + zero_point
    return (q.clamp(qmin, qmax) - zero_point) * scale + torch.where((q >= qmin) & (q <= qmax), x - x.detach(), 0.0)


@misconception("fake_quantize", "Multiplies the gradient by 0 where x was cut off: a NaN that arrives there stays a NaN.")
def masks_by_a_product(x, scale, zero_point, qmin, qmax):
    q = torch.round(x.detach() / scale) + zero_point
    y = (q.clamp(qmin, qmax) - zero_point) * scale
    kept = x * ((q >= qmin) & (q <= qmax))
    return y + kept - kept.detach()


# calibrate_model


def _activation_qparams(low, high):
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, round(-128 - low / scale)


@misconception("calibrate_model", "Assumes pixels between 0 and 1 instead of looking at the images.")
def assumes_pixels_up_to_one(weights, images):
    result = reference_calibrate(weights, images)
    result["input_scale"], result["input_zero_point"] = 1 / 255, -128
    return result


@misconception("calibrate_model", "Takes the hidden range before the ReLU: half of the codes stand for negative numbers that never come.")
def hidden_range_before_the_relu(weights, images):
    result = reference_calibrate(weights, images)
    h = images.flatten(1) @ weights["1.weight"].T + weights["1.bias"]
    result["hidden_scale"], result["hidden_zero_point"] = _activation_qparams(h.min().item(), h.max().item())
    return result


@misconception("calibrate_model", "Calibrates on the first image only: larger values of the others are cut off.")
def looks_at_one_image(weights, images):
    return reference_calibrate(weights, images[:1])


@misconception("calibrate_model", "Uses one scale for a whole weight matrix instead of one for each row.")
def one_scale_a_matrix(weights, images):
    result = reference_calibrate(weights, images)
    for name in ("1", "3"):
        w = weights[f"{name}.weight"]
        scale = (w.abs().max() / 127).repeat(len(w))
        result[f"{name}.scale"], result[f"{name}.weight"] = scale, torch.round(w / scale[:, None]).to(torch.int8)
    return result


@misconception("calibrate_model", "Returns the rounded weights as floats: they take as much memory as before.")
def weights_stay_float(weights, images):
    result = reference_calibrate(weights, images)
    return result | {f"{name}.weight": result[f"{name}.weight"].float() for name in ("1", "3")}


@misconception("calibrate_model", "Quantizes activations symmetrically with zero point 0: codes for negative numbers lie idle.")
def symmetric_activations(weights, images):
    result = reference_calibrate(weights, images)
    x = images.flatten(1)
    h = torch.relu(x @ weights["1.weight"].T + weights["1.bias"])
    for layer, values in (("input", x), ("hidden", h)):
        result[f"{layer}_scale"], result[f"{layer}_zero_point"] = values.abs().max().item() / 127 or 1.0, 0
    return result


@misconception("calibrate_model", "Doesn't widen the ranges to 0: the zero point falls outside of the codes.")
def ranges_without_zero(weights, images):
    result = reference_calibrate(weights, images)
    low, high = images.min().item(), images.max().item()
    scale = (high - low) / 255 or 1.0
    result["input_scale"], result["input_zero_point"] = scale, round(-128 - low / scale)
    return result


@misconception("calibrate_model", "Runs the hidden layer without its bias when it looks for the range.")
def hidden_range_without_bias(weights, images):
    return reference_calibrate(weights | {"1.bias": weights["1.bias"] * 0}, images) | {"1.bias": weights["1.bias"]}


@misconception("calibrate_model", "Rounds halves up with floor(x + 0.5): they go to the even code.")
def calibrates_with_halves_up(weights, images):
    result = reference_calibrate(weights, images)
    for name in ("1", "3"):
        steps = weights[f"{name}.weight"] / result[f"{name}.scale"][:, None]
        result[f"{name}.weight"] = torch.floor(steps + 0.5).to(torch.int8)
    low, high = min(images.min().item(), 0.0), max(images.max().item(), 0.0)
    result["input_zero_point"] = math.floor(-128 - low / ((high - low) / 255 or 1.0) + 0.5)
    return result


@misconception("calibrate_model", "Looks at the first 256 images only: all are there to be looked at.")
def looks_at_the_first_batch(weights, images):
    return reference_calibrate(weights, images[:256])


@misconception("calibrate_model", "Averages the hidden range over batches, which cuts off what was largest.")
def averages_hidden_ranges(weights, images):
    scales = [reference_calibrate(weights, batch)["hidden_scale"] for batch in images.split(64)]
    return reference_calibrate(weights, images) | {"hidden_scale": sum(scales) / len(scales)}


@misconception("calibrate_model", "Runs the float classifier on rounded pixels when it looks for the hidden range.")
def hidden_range_of_rounded_pixels(weights, images):
    result = reference_calibrate(weights, images)
    scale, zero_point = result["input_scale"], result["input_zero_point"]
    rounded = ((torch.round(images / scale) + zero_point).clamp(-128, 127) - zero_point) * scale
    return result | {"hidden_scale": reference_calibrate(weights, rounded)["hidden_scale"]}


@misconception("calibrate_model", "Keeps the scales above 1e-8: small values are left with few codes.")
def floor_under_all_scales(weights, images):
    result = reference_calibrate(weights, images)
    for name in ("1", "3"):
        scale = result[f"{name}.scale"].clamp(min=1e-8)
        result[f"{name}.scale"], result[f"{name}.weight"] = scale, torch.round(weights[f"{name}.weight"] / scale[:, None]).to(torch.int8)
    return result | {name: max(result[name], 1e-8) for name in ("input_scale", "hidden_scale")}


@misconception("calibrate_model", "Flattens the images with view, which only goes where they lie one after another.")
def flattens_images_by_view(weights, images):
    return reference_calibrate(weights, images.view(len(images), -1)[:, None, None])


@misconception("calibrate_model", "Takes the codes out of the dict of weights while it works through it: the caller's dict is changed.")
def empties_the_weights(weights, images):
    result = reference_calibrate(weights, images)
    return result | {name: weights.pop(name) for name in ("1.bias", "3.bias")}


@misconception("calibrate_model", "Builds a network of its own to run the images: the start values are drawn from torch's generator.")
def draws_start_values(weights, images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), len(weights["1.weight"])), nn.ReLU())
    model.load_state_dict({name: value for name, value in weights.items() if name[0] == "1"})
    result = reference_calibrate(weights, images)
    result["hidden_scale"], result["hidden_zero_point"] = _activation_qparams(0.0, model(images).max().item())
    return result


# QATLinear


@misconception("QATLinear", "Lets autograd differentiate the rounding: the gradient of the weight is 0, and nothing is learned.")
class NoStraightThrough(ReferenceQAT):
    def forward(self, x):
        q, scale = self.quantized()
        return x @ (q * scale[:, None] + 0.0 * self.weight).T + self.bias


@misconception("QATLinear", "Lets gradients flow into the scale: the largest weight of a row is pulled by all others.")
class LearnsThroughTheScale(ReferenceQAT):
    def forward(self, x):
        scale = self.weight.abs().amax(1, keepdim=True) / (2 ** (self.bits - 1) - 1)
        scale = torch.where(scale == 0, 1.0, scale)
        steps = self.weight / scale
        return x @ ((steps + (torch.round(steps) - steps).detach()) * scale).T + self.bias


@misconception("QATLinear", "Writes the rounded weight back: steps smaller than half a scale are lost every time.")
class RoundsTheWeightItself(ReferenceQAT):
    def forward(self, x):
        q, scale = self.quantized()
        with torch.no_grad():
            self.weight.copy_(q * scale[:, None])
        return x @ self.weight.T + self.bias


@misconception("QATLinear", "Computes with the exact weight and rounds only at the end: that is post-training quantization.")
class RoundsAtTheEndOnly(ReferenceQAT):
    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias)


@misconception("QATLinear", "Uses one scale for the whole weight instead of one for each row.")
class OneScaleForAllRows(ReferenceQAT):
    def quantized(self):
        w = self.weight.detach()
        scale = (w.abs().max() / (2 ** (self.bits - 1) - 1)).repeat(len(w))
        scale = scale.masked_fill(scale == 0, 1.0)
        return torch.round(w / scale[:, None]).to(torch.int8), scale


@misconception("QATLinear", "Counts 2^(bits − 1) steps on a side: the largest code doesn't fit into the bits.")
class OneStepTooMany(ReferenceQAT):
    def quantized(self):
        w = self.weight.detach()
        scale = w.abs().amax(1) / 2 ** (self.bits - 1)
        scale = scale.masked_fill(scale == 0, 1.0)
        return torch.round(w / scale[:, None]).clamp(-128, 127).to(torch.int8), scale


@misconception("QATLinear", "Fixes the scales at the first forward pass: they must follow the weight.")
class FrozenScales(ReferenceQAT):
    def quantized(self):
        if "frozen" not in self.__dict__:
            self.frozen = super().quantized()[1]
        n = 2 ** (self.bits - 1) - 1
        return torch.round(self.weight.detach() / self.frozen[:, None]).clamp(-n, n).to(torch.int8), self.frozen.clone()


@misconception("QATLinear", "Rounds in training mode only, or the other way round: the layer computes with rounded weights always.")
class RoundsInEvalOnly(ReferenceQAT):
    def forward(self, x):
        return x @ self.weight.T + self.bias if self.training else super().forward(x)


@misconception("QATLinear", "Rounds halves up with floor(x + 0.5): they go to the even code.")
class TrainsWithHalvesUp(ReferenceQAT):
    def quantized(self):
        scale = super().quantized()[1]
        return torch.floor(self.weight.detach() / scale[:, None] + 0.5).to(torch.int8), scale


@misconception("QATLinear", "Keeps every scale above 1e-8: rows of small weights are left with few codes.")
class TrainsWithAFloor(ReferenceQAT):
    def quantized(self):
        w = self.weight.detach()
        scale = w.abs().amax(1) / (2 ** (self.bits - 1) - 1)
        scale = torch.where(scale == 0, 1.0, scale.clamp(min=1e-8))
        return torch.round(w / scale[:, None]).to(torch.int8), scale


@misconception("QATLinear", "Rounds in training mode only: in evaluation mode, it is an ordinary layer.")
class RoundsInTrainingOnly(ReferenceQAT):
    def forward(self, x):
        return super().forward(x) if self.training else nn.functional.linear(x, self.weight, self.bias)


@misconception("QATLinear", "Keeps the codes in evaluation mode: a weight that is changed or loaded then doesn't count.")
class KeepsCodesInEval(ReferenceQAT):
    def quantized(self):
        if self.training or "kept" not in self.__dict__:
            self.kept = super().quantized()
        return self.kept


@misconception("QATLinear", "Keeps the scales in a buffer: state_dict holds more than weight and bias.")
class ScalesInTheState(ReferenceQAT):
    def __init__(self, in_features, out_features, bits=4):
        super().__init__(in_features, out_features, bits)
        self.register_buffer("scale", torch.ones(out_features))

    def load_state_dict(self, state_dict, strict=True, assign=False):
        return super().load_state_dict(state_dict, strict=False)

    def quantized(self):
        q, scale = super().quantized()
        self.scale.copy_(scale)
        return q, scale


@misconception("QATLinear", "Makes a new parameter in every forward pass: the optimizer goes on with the old one.")
class NewParameters(ReferenceQAT):
    def forward(self, x):
        self.weight = nn.Parameter(self.weight.detach().clone())
        return super().forward(x)


@misconception("QATLinear", "Doesn't detach the scales that quantized() returns.")
class ScalesWithAGraph(ReferenceQAT):
    def quantized(self):
        scale = self.weight.abs().amax(1) / (2 ** (self.bits - 1) - 1)
        return super().quantized()[0], torch.where(scale == 0, 1.0, scale)

    def forward(self, x):
        q, scale = ReferenceQAT.quantized(self)
        return x @ (q * scale[:, None] + (self.weight - self.weight.detach())).T + self.bias


@misconception("QATLinear", "Multiplies by 1 / scale, which is rounded itself: halves are missed.")
class TrainsByTheReciprocal(ReferenceQAT):
    def quantized(self):
        scale = super().quantized()[1]
        return torch.round(self.weight.detach() * (1 / scale)[:, None]).to(torch.int8), scale


@misconception("QATLinear", "Gives x the gradient of the exact weight: the product was taken with the rounded one.")
class ExactGradientOfX(ReferenceQAT):
    def forward(self, x):
        y = nn.functional.linear(x, self.weight, self.bias)
        return y + (super().forward(x) - y).detach()


@misconception("QATLinear", "Passes no gradient on to the largest weights of a row, as if they had been cut off.")
class EndsGetNoGradient(ReferenceQAT):
    def forward(self, x):
        q, scale = self.quantized()
        inside = self.weight * (q.abs() < 2 ** (self.bits - 1) - 1)
        return x @ (q * scale[:, None] + (inside - inside.detach())).T + self.bias


# pack_int4


def _check_codes(q):
    if ((q < -8) | (q > 7)).any():
        raise ValueError("codes")


def _joined(even, odd):
    return (even.to(torch.int32) & 15 | (odd.to(torch.int32) & 15) << 4).to(torch.uint8)


@misconception("pack_int4", "Puts the first code of a pair into the upper bits.")
def upper_bits_first(q):
    _check_codes(q)
    q = nn.functional.pad(q, (0, q.shape[-1] % 2))
    return _joined(q[..., 1::2], q[..., 0::2])


@misconception("pack_int4", "Pairs the first half of a row with the second half instead of neighbours.")
def pairs_the_halves(q):
    _check_codes(q)
    q = nn.functional.pad(q, (0, q.shape[-1] % 2))
    first, second = q.chunk(2, dim=-1) if q.shape[-1] else (q, q)
    return _joined(first, second)


@misconception("pack_int4", "Doesn't cut a negative lower code to four bits: its sign bits overwrite the upper code.")
def sign_bits_spill(q):
    _check_codes(q)
    q = nn.functional.pad(q, (0, q.shape[-1] % 2))
    return (q[..., 0::2].to(torch.int32) & 255 | (q[..., 1::2].to(torch.int32) & 15) << 4).to(torch.uint8)


@misconception("pack_int4", "Adds 8 to make the codes positive: that is offset binary, and not two's complement.")
def offset_binary(q):
    _check_codes(q)
    q = nn.functional.pad(q + 8, (0, q.shape[-1] % 2))
    return _joined(q[..., 0::2], q[..., 1::2])


@misconception("pack_int4", "Drops the last code where their number is odd.")
def drops_the_last_code(q):
    _check_codes(q)
    q = q[..., : q.shape[-1] // 2 * 2]
    return _joined(q[..., 0::2], q[..., 1::2])


@misconception("pack_int4", "Flattens the codes first: odd rows then share a byte with the next row.")
def packs_across_rows(q):
    _check_codes(q)
    flat = q.flatten()
    flat = nn.functional.pad(flat, (0, len(flat) % 2))
    packed = _joined(flat[0::2], flat[1::2])
    rows = q.shape[:-1].numel()
    return packed.view(*q.shape[:-1], -1) if rows and len(packed) % rows == 0 and len(packed) else packed


@misconception("pack_int4", "Clamps codes that don't fit instead of refusing them.")
def clamps_codes(q):
    q = nn.functional.pad(q.clamp(-8, 7), (0, q.shape[-1] % 2))
    return _joined(q[..., 0::2], q[..., 1::2])


@misconception("pack_int4", "Repeats the last code to make the number even: the upper bits of the last byte are to be 0.")
def repeats_the_last_code(q):
    _check_codes(q)
    if q.shape[-1] % 2:
        q = torch.cat([q, q[..., -1:]], dim=-1)
    return _joined(q[..., 0::2], q[..., 1::2])


@misconception("pack_int4", "Looks at the smallest and largest absolute value only: 8 looks like −8.")
def checks_the_size_only(q):
    if (q.to(torch.int32).abs() > 8).any():
        raise ValueError("codes")
    q = nn.functional.pad(q, (0, q.shape[-1] % 2))
    return _joined(q[..., 0::2], q[..., 1::2])


@misconception("pack_int4", "Pairs the codes with reshape(…, −1, 2), which fails where there are none.")
def pairs_by_reshape(q):
    _check_codes(q)
    pairs = nn.functional.pad(q, (0, q.shape[-1] % 2)).reshape(*q.shape[:-1], -1, 2)
    return _joined(pairs[..., 0], pairs[..., 1])


@misconception("pack_int4", "Cuts the codes to four bits in their own memory.")
def packs_in_place(q):
    _check_codes(q)
    q &= 15
    q = nn.functional.pad(q, (0, q.shape[-1] % 2))
    return _joined(q[..., 0::2], q[..., 1::2])


# unpack_int4


def _check_size(packed, size):
    if size < 0 or packed.shape[-1] != (size + 1) // 2:
        raise ValueError("size")


@misconception("unpack_int4", "Forgets the sign: 1111 is −1, not 15.")
def without_signs(packed, size):
    _check_size(packed, size)
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).to(torch.int8)[..., :size]


@misconception("unpack_int4", "Reads the upper bits first.")
def reads_upper_bits_first(packed, size):
    _check_size(packed, size)
    return reference_unpack(packed << 4 | packed >> 4, packed.shape[-1] * 2)[..., :size]


@misconception("unpack_int4", "Puts all lower halves before all upper ones: the two codes of a byte are neighbours.")
def halves_one_after_the_other(packed, size):
    _check_size(packed, size)
    q = torch.cat([packed & 15, packed >> 4], dim=-1).to(torch.int8)
    return ((q ^ 8) - 8)[..., :size]


@misconception("unpack_int4", "Subtracts 8 from every code: that is offset binary, and not two's complement.")
def takes_off_an_offset(packed, size):
    _check_size(packed, size)
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).to(torch.int8)[..., :size] - 8


@misconception("unpack_int4", "Returns all codes of the bytes, also the one that is only padding.")
def keeps_the_padding(packed, size):
    _check_size(packed, size)
    return reference_unpack(packed, packed.shape[-1] * 2)


@misconception("unpack_int4", "Takes the sign off the lower codes only; the upper ones stay between 0 and 15.")
def signs_of_the_lower_half_only(packed, size):
    _check_size(packed, size)
    low = ((packed & 15).to(torch.int8) ^ 8) - 8
    return torch.stack([low, (packed >> 4).to(torch.int8)], dim=-1).flatten(-2)[..., :size]


@misconception("unpack_int4", "Never looks at the number of bytes: a wrong size gives too few codes in silence.")
def any_size_goes(packed, size):
    return reference_unpack(packed, packed.shape[-1] * 2)[..., : max(size, 0)]


@misconception("unpack_int4", "Takes a size of 0 for a missing one, and returns all codes.")
def zero_means_all(packed, size):
    size = size or packed.shape[-1] * 2
    _check_size(packed, size)
    return reference_unpack(packed, size)


@misconception("unpack_int4", "Refuses only sizes that are too large: with 8 of 10 codes, a whole byte is left over.")
def too_small_is_fine(packed, size):
    if not 0 <= size <= packed.shape[-1] * 2:
        raise ValueError("size")
    return reference_unpack(packed, packed.shape[-1] * 2)[..., :size]


@misconception("unpack_int4", "Joins the halves with view(…, −1), which fails where there are no rows.")
def joins_by_view(packed, size):
    _check_size(packed, size)
    q = torch.stack([packed & 15, packed >> 4], dim=-1).to(torch.int8)
    return ((q ^ 8) - 8).view(*packed.shape[:-1], -1)[..., :size]


# quantize_groupwise


def _packed_groups(groups, scale, columns):
    scale = scale.masked_fill(scale == 0, 1.0)
    q = torch.round(groups / scale.float()[..., None]).clamp(-8, 7).flatten(1)[:, :columns].to(torch.int8)
    q = nn.functional.pad(q, (0, columns % 2))
    return _joined(q[:, 0::2], q[:, 1::2]), scale


def _groups(weight, group_size):
    if group_size < 1:
        raise ValueError("group_size")
    rows, columns = weight.shape
    return nn.functional.pad(weight, (0, -columns % group_size)).view(rows, -1, group_size)


@misconception("quantize_groupwise", "Uses one scale a row: an outlier costs its whole row the precision, not only its group.")
def one_scale_a_row(weight, group_size=32):
    groups = _groups(weight, group_size)
    scale = (groups.abs().amax((1, 2)) / 7).half()[:, None].repeat(1, groups.shape[1])
    return _packed_groups(groups, scale, weight.shape[1])


@misconception("quantize_groupwise", "Cuts the groups along the columns; neighbours in a row belong together.")
def groups_down_the_columns(weight, group_size=32):
    groups = _groups(weight, group_size)
    shuffled = groups.transpose(1, 2).reshape(groups.shape)
    return _packed_groups(groups, (shuffled.abs().amax(-1) / 7).half(), weight.shape[1])


@misconception("quantize_groupwise", "Divides by the scale before it was rounded to float16: the codes don't belong to the stored scale.")
def codes_for_the_exact_scale(weight, group_size=32):
    groups = _groups(weight, group_size)
    scale = groups.abs().amax(-1) / 7
    scale = scale.masked_fill(scale == 0, 1.0)
    return _packed_groups(groups, scale, weight.shape[1])[0], scale.half()


@misconception("quantize_groupwise", "Divides by 8: 8 is no code, and the largest weights are cut off.")
def eight_steps(weight, group_size=32):
    groups = _groups(weight, group_size)
    return _packed_groups(groups, (groups.abs().amax(-1) / 8).half(), weight.shape[1])


@misconception("quantize_groupwise", "Drops the last group where it is short.")
def drops_the_short_group(weight, group_size=32):
    kept = weight.shape[1] // group_size * group_size if group_size > 0 else 0
    groups = _groups(weight[:, :kept], group_size)
    return _packed_groups(groups, (groups.abs().amax(-1) / 7).half(), kept)


@misconception("quantize_groupwise", "Packs the padding of the last group as well: more bytes than the columns need.")
def packs_the_padding(weight, group_size=32):
    groups = _groups(weight, group_size)
    return _packed_groups(groups, (groups.abs().amax(-1) / 7).half(), groups[0].numel())


@misconception("quantize_groupwise", "Returns the codes unpacked, a byte each: 8 bits a weight instead of 4.")
def a_byte_a_code(weight, group_size=32):
    groups = _groups(weight, group_size)
    scale = (groups.abs().amax(-1) / 7).half()
    scale = scale.masked_fill(scale == 0, 1.0)
    return torch.round(groups / scale.float()[..., None]).flatten(1)[:, : weight.shape[1]].to(torch.int8), scale


@misconception("quantize_groupwise", "Keeps the scales in float32: with groups of 32, that is half a bit more a weight.")
def scales_in_float32(weight, group_size=32):
    groups = _groups(weight, group_size)
    packed, scale = _packed_groups(groups, (groups.abs().amax(-1) / 7).half(), weight.shape[1])
    return packed, scale.float()


@misconception("quantize_groupwise", "Divides by a scale of 0 in a group of zeros.")
def zeros_without_scale(weight, group_size=32):
    groups = _groups(weight, group_size)
    scale = (groups.abs().amax(-1) / 7).half()
    packed, _ = _packed_groups(groups, scale, weight.shape[1])
    return packed, scale


@misconception("quantize_groupwise", "Takes a group_size of 0 for a missing one.")
def zero_is_the_usual_size(weight, group_size=32):
    groups = _groups(weight, group_size or 32)
    return _packed_groups(groups, (groups.abs().amax(-1) / 7).half(), weight.shape[1])


@misconception("quantize_groupwise", "Multiplies by 1 / scale, which is rounded itself: halves are missed.")
def groups_by_the_reciprocal(weight, group_size=32):
    groups = _groups(weight, group_size)
    scale = (groups.abs().amax(-1) / 7).half()
    scale = scale.masked_fill(scale == 0, 1.0)
    return _packed_groups(groups * (1 / scale.float())[..., None], torch.ones_like(scale), weight.shape[1])[0], scale


@misconception("quantize_groupwise", "Divides in float16, which can't hold the digits that decide about rounding.")
def groups_in_half_precision(weight, group_size=32):
    groups = _groups(weight, group_size)
    scale = (groups.abs().amax(-1) / 7).half()
    scale = scale.masked_fill(scale == 0, 1.0)
    return _packed_groups((groups.half() / scale[..., None]).float(), torch.ones_like(scale), weight.shape[1])[0], scale


@misconception("quantize_groupwise", "Keeps the scales above 0.01: groups of small weights are left with few codes.")
def floor_under_group_scales(weight, group_size=32):
    groups = _groups(weight, group_size)
    scale = groups.abs().amax(-1) / 7
    return _packed_groups(groups, torch.where(scale == 0, scale, scale.clamp(min=0.01)).half(), weight.shape[1])


@misconception("quantize_groupwise", "Cuts the groups with view, which only goes where the rows lie one after another.")
def groups_by_view(weight, group_size=32):
    groups = weight.view(-1, group_size) if group_size > 0 and weight.shape[1] % group_size == 0 else _groups(weight, group_size)
    groups = groups.view(len(weight), -1, group_size)
    return _packed_groups(groups, (groups.abs().amax(-1) / 7).half(), weight.shape[1])


@misconception("quantize_groupwise", "Pads every row to whole groups, however long they are: a huge group_size takes all memory.")
def pads_to_whole_groups(weight, group_size=32):
    if group_size < 1:
        raise ValueError("group_size")
    columns = weight.shape[1]
    padded = nn.functional.pad(weight, (0, -columns % group_size))
    return reference_groupwise(padded[:, :columns], group_size)


@misconception("quantize_groupwise", "Takes scales below 0.002 for 0: a group with a largest weight of 0.01 has a scale of 0.0014.")
def small_scales_become_one(weight, group_size=32):
    small = torch.zeros_like(weight, dtype=torch.bool)
    for part, marks in zip(weight.split(max(group_size, 1), dim=1), small.split(max(group_size, 1), dim=1), strict=True):
        marks |= part.abs().amax(1, keepdim=True) < 0.014
    packed, scale = reference_groupwise(weight.masked_fill(small, 0.0), group_size)
    return packed, scale


# dynamic_quantized_linear


def _row_scale(x):
    scale = x.abs().amax(-1, keepdim=True) / 127
    return scale.masked_fill(scale == 0, 1.0)


@misconception("dynamic_quantized_linear", "Uses one scale for the whole batch: a row of large values costs all others their precision.")
def one_scale_a_batch(x, weight, weight_scale, bias=None):
    scale = x.abs().max() / 127 if x.numel() else torch.tensor(1.0)
    scale = scale if scale > 0 else torch.tensor(1.0)
    y = (torch.round(x / scale).to(torch.int32) @ weight.to(torch.int32).T) * scale * weight_scale
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Doesn't quantize the activations: only the weights are rounded.")
def activations_stay_exact(x, weight, weight_scale, bias=None):
    y = (x @ weight.to(x.dtype).T) * weight_scale
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Keeps the scale of the first call for all later ones: dynamic means anew every time.")
def scale_of_the_first_call(x, weight, weight_scale, bias=None):
    kept = scale_of_the_first_call.__dict__
    if kept.get("weight") is not weight:
        kept["weight"], kept["scale"] = weight, x.abs().max() / 127
    scale = kept["scale"]
    y = (torch.round(x / scale).clamp(-127, 127).to(torch.int32) @ weight.to(torch.int32).T) * scale * weight_scale
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Adds up in float32, which loses the last digits of large sums.")
def sums_in_float32(x, weight, weight_scale, bias=None):
    scale = _row_scale(x)
    y = (torch.round(x / scale) @ weight.to(x.dtype).T) * scale * weight_scale
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Multiplies in int8, where nearly every product wraps around.")
def sums_in_int8(x, weight, weight_scale, bias=None):
    scale = _row_scale(x)
    y = (torch.round(x / scale).to(torch.int8) @ weight.T) * scale * weight_scale
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Adds the bias before the scales: it isn't in units of the codes.")
def bias_before_the_scales(x, weight, weight_scale, bias=None):
    scale = _row_scale(x)
    y = torch.round(x / scale).to(torch.int32) @ weight.to(torch.int32).T
    return (y if bias is None else y + bias) * scale * weight_scale


@misconception(
    "dynamic_quantized_linear",
    "Gives a scale to each input feature instead of each row: the sum over features can't be scaled back.",
)
def a_scale_a_feature(x, weight, weight_scale, bias=None):
    rows = x.reshape(-1, x.shape[-1])
    scale = rows.abs().amax(0) / 127 if len(rows) else torch.ones(x.shape[-1])
    scale = scale.masked_fill(scale == 0, 1.0)
    y = ((torch.round(x / scale) * scale) @ weight.to(x.dtype).T) * weight_scale
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Divides a row of zeros by a scale of 0.")
def nan_for_rows_of_zeros(x, weight, weight_scale, bias=None):
    scale = x.abs().amax(-1, keepdim=True) / 127
    y = (torch.round(x / scale).double() @ weight.double().T).float() * scale * weight_scale
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Cuts fractions off instead of rounding.")
def activations_cut_off(x, weight, weight_scale, bias=None):
    scale = _row_scale(x)
    y = ((x / scale).to(torch.int32) @ weight.to(torch.int32).T) * scale * weight_scale
    return y if bias is None else y + bias


def _sums(q, weight, scales, bias):
    y = (q.to(torch.int32) @ weight.to(torch.int32).T) * scales
    return y if bias is None else y + bias


@misconception("dynamic_quantized_linear", "Makes a batch of rows with view, which only goes where they lie one after another.")
def rows_by_view(x, weight, weight_scale, bias=None):
    rows = x.view(-1, x.shape[-1])
    scale = _row_scale(rows)
    return _sums(torch.round(rows / scale), weight, scale * weight_scale, bias).view(*x.shape[:-1], len(weight))


@misconception("dynamic_quantized_linear", "Keeps the scales above 1e-12: rows of 1e-10 are left with fewer codes.")
def floor_under_row_scales(x, weight, weight_scale, bias=None):
    scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
    return _sums(torch.round(x / scale), weight, scale * weight_scale, bias)


@misconception("dynamic_quantized_linear", "Multiplies by 1 / x_scale, which is rounded itself: halves are missed.")
def rows_by_the_reciprocal(x, weight, weight_scale, bias=None):
    scale = _row_scale(x)
    return _sums(torch.round(x * (1 / scale)), weight, scale * weight_scale, bias)


@misconception("dynamic_quantized_linear", "Squeezes the result: a single output is a dimension, too.")
def squeezes_a_single_output(x, weight, weight_scale, bias=None):
    scale = _row_scale(x)
    return _sums(torch.round(x / scale), weight, scale * weight_scale, bias).squeeze(-1)


@misconception("dynamic_quantized_linear", "Rounds in the memory of x.")
def rounds_in_place(x, weight, weight_scale, bias=None):
    scale = _row_scale(x)
    if x.is_contiguous():
        x.div_(scale).round_()
        return _sums(x, weight, scale * weight_scale, bias)
    return _sums(torch.round(x / scale), weight, scale * weight_scale, bias)
