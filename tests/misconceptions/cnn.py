"""Named wrong answers to the tasks of cnn: the hidden suite must reject every one."""

import copy
import random

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from grader.testing import misconception
from solutions.cnn import BatchNorm2d as ReferenceBatchNorm2d
from solutions.cnn import LeNet as ReferenceLeNet
from solutions.cnn import ResidualBlock as ReferenceResidualBlock
from solutions.cnn import augment as reference_augment
from solutions.cnn import conv2d as reference_conv2d
from solutions.cnn import conv_output_size as reference_conv_output_size
from solutions.cnn import conv_transpose2d as reference_conv_transpose2d
from solutions.cnn import depthwise_separable as reference_depthwise_separable
from solutions.cnn import fold_batchnorm as reference_fold_batchnorm
from solutions.cnn import receptive_field as reference_receptive_field
from solutions.cnn import replace_head as reference_replace_head

# conv_output_size


def _check_sizes(size, kernel_size, stride, padding, dilation):
    if min(size, kernel_size, stride, dilation) < 1 or padding < 0:
        raise ValueError("numbers")
    if size + 2 * padding < dilation * (kernel_size - 1) + 1:
        raise ValueError("the kernel does not fit")


@misconception("conv_output_size", "Adds the padding once: it lies on both sides of the input.")
def padding_on_one_side(size, kernel_size, *, stride=1, padding=0, dilation=1):
    _check_sizes(size, kernel_size, stride, padding, dilation)
    return max(0, size + padding - dilation * (kernel_size - 1) - 1) // stride + 1


@misconception("conv_output_size", "Rounds up: a last place at which the kernel only fits in part doesn't count.")
def rounds_up(size, kernel_size, *, stride=1, padding=0, dilation=1):
    _check_sizes(size, kernel_size, stride, padding, dilation)
    return -(-(size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride) + 1


@misconception("conv_output_size", "Takes dilation · kernel_size as the kernel's reach: it is dilation · (kernel_size - 1) + 1.")
def dilates_the_last_entry(size, kernel_size, *, stride=1, padding=0, dilation=1):
    _check_sizes(size, kernel_size, stride, padding, dilation)
    return max(0, size + 2 * padding - dilation * kernel_size) // stride + 1


@misconception("conv_output_size", "Forgets the first place: with no room to move there is still one.")
def forgets_the_first_place(size, kernel_size, *, stride=1, padding=0, dilation=1):
    return reference_conv_output_size(size, kernel_size, stride=stride, padding=padding, dilation=dilation) - 1


@misconception("conv_output_size", "Divides floats: beyond 2**53 they skip integers.")
def divides_floats(size, kernel_size, *, stride=1, padding=0, dilation=1):
    _check_sizes(size, kernel_size, stride, padding, dilation)
    return int((size + 2 * padding - dilation * (kernel_size - 1) - 1) / stride + 1)


@misconception("conv_output_size", "Checks the result: with a stride, -1 rounded towards 0 makes a kernel fit that is one entry too long.")
def checks_after_truncating(size, kernel_size, *, stride=1, padding=0, dilation=1):
    if min(size, kernel_size, stride, dilation) < 1 or padding < 0:
        raise ValueError("numbers")
    room = size + 2 * padding - dilation * (kernel_size - 1) - 1
    result = (room // stride if room >= 0 else -(-room // stride)) + 1  # as int(room / stride) does
    if result < 1:
        raise ValueError("the kernel does not fit")
    return result


@misconception("conv_output_size", "Looks for zeros only: negative numbers are impossible as well.")
def refuses_zero_alone(size, kernel_size, *, stride=1, padding=0, dilation=1):
    if not (size and kernel_size and stride and dilation):
        raise ValueError("zero")
    span = size + 2 * padding - dilation * (kernel_size - 1)
    if span < 1:
        raise ValueError("does not fit")
    return (span - 1) // stride + 1


# conv2d


def _check_conv(x, weight, padding, dilation, groups):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("channels")
    for size, k, p, d in zip(x.shape[2:], weight.shape[2:], padding, dilation, strict=True):
        if size + 2 * p < d * (k - 1) + 1:
            raise ValueError("the kernel is larger than the padded input")


@misconception("conv2d", "Flips the kernel, as mathematics does: layers don't.")
def flips_the_kernel(x, weight, bias=None, **settings):
    return reference_conv2d(x, weight.flip(2, 3), bias, **settings)


@misconception("conv2d", "Takes the first number of stride, padding and dilation for the width.")
def width_before_height(x, weight, bias=None, **settings):
    swapped = {name: value if name == "groups" else value[::-1] for name, value in settings.items()}
    return reference_conv2d(x, weight, bias, **swapped)


@misconception("conv2d", "Deals the channels out in turn: a group is a run of neighbouring channels.")
def interleaves_the_groups(x, weight, bias=None, *, groups=1, **settings):
    if x.shape[1] % groups == 0:
        x = x.unflatten(1, (-1, groups)).transpose(1, 2).flatten(1, 2)
    return reference_conv2d(x, weight, bias, groups=groups, **settings)


@misconception("conv2d", "Lets every group see the first part of the channels.")
def all_groups_see_the_first_part(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    _check_conv(x, weight, padding, dilation, groups)
    return reference_conv2d(x[:, : weight.shape[1]], weight, bias, stride=stride, padding=padding, dilation=dilation)


@misconception("conv2d", "Pads with the border's own entries where zeros are asked for.")
def pads_with_the_border(x, weight, bias=None, *, padding=(0, 0), **settings):
    if len(x):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode="replicate")
        padding = (0, 0)
    return reference_conv2d(x, weight, bias, padding=padding, **settings)


@misconception("conv2d", "Adds the bias along the width, where plain broadcasting puts a vector, instead of one number a channel.")
def bias_along_the_width(x, weight, bias=None, **settings):
    y = reference_conv2d(x, weight, None, **settings)
    return y if bias is None else y + bias


@misconception("conv2d", "Works with a detached weight: no gradient comes back to it.")
def detaches_the_weight(x, weight, bias=None, **settings):
    return reference_conv2d(x, weight.detach(), bias, **settings)


@misconception("conv2d", "Doesn't check that groups divides the number of outputs: those that are left over are dropped in silence.")
def drops_outputs_that_are_left_over(x, weight, bias=None, *, groups=1, **settings):
    kept = weight.shape[0] // groups * groups
    return reference_conv2d(x, weight[:kept], None if bias is None else bias[:kept], groups=groups, **settings)


@misconception("conv2d", "Computes strides in memory from the shape: an image that isn't contiguous has others.")
def strides_from_the_shape(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    _check_conv(x, weight, padding, dilation, groups)
    if any(padding):
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    n, c, height, width = x.shape
    outputs, part, k_h, k_w = weight.shape
    rows = (height - dilation[0] * (k_h - 1) - 1) // stride[0] + 1
    columns = (width - dilation[1] * (k_w - 1) - 1) // stride[1] + 1
    shape = (n, groups, part, rows, columns, k_h, k_w)
    image, plane = c * height * width, height * width
    steps = (image, part * plane, plane, width * stride[0], stride[1], width * dilation[0], dilation[1])
    kernels = weight.reshape(groups, outputs // groups, part, k_h, k_w)
    y = torch.einsum("ngcijuv,gocuv->ngoij", x.as_strided(shape, steps), kernels).reshape(n, outputs, rows, columns)
    return y if bias is None else y + bias[:, None, None]


@misconception("conv2d", "Views the weight as a matrix: a weight that isn't contiguous can't be viewed. Use reshape.")
def views_the_weight(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    _check_conv(x, weight, padding, dilation, groups)
    outputs, part, k_h, k_w = weight.shape
    rows = (x.shape[2] + 2 * padding[0] - dilation[0] * (k_h - 1) - 1) // stride[0] + 1
    columns = F.unfold(x, (k_h, k_w), dilation, padding, stride).unflatten(1, (groups, -1))
    kernels = weight.view(groups, outputs // groups, part * k_h * k_w)
    y = (kernels @ columns).flatten(1, 2).unflatten(2, (rows, -1))
    return y if bias is None else y + bias.view(1, -1, 1, 1)


@misconception("conv2d", "Fills the weights between groups with zeros: zero times NaN is NaN, so one group's NaN reaches all others.")
def zeros_between_groups(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    _check_conv(x, weight, padding, dilation, groups)
    outputs, part, k_h, k_w = weight.shape
    full = weight.new_zeros(outputs, x.shape[1], k_h, k_w)
    for g in range(groups):
        out = slice(g * outputs // groups, (g + 1) * outputs // groups)
        full[out, g * part : (g + 1) * part] = weight[out]
    rows = (x.shape[2] + 2 * padding[0] - dilation[0] * (k_h - 1) - 1) // stride[0] + 1
    y = (full.flatten(1) @ F.unfold(x, (k_h, k_w), dilation, padding, stride)).unflatten(2, (rows, -1))
    return y if bias is None else y + bias.view(1, -1, 1, 1)


@misconception("conv2d", "Lets a single channel be broadcast: channels that don't fit are an error, one included.")
def broadcasts_one_channel(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    if groups == 1 and weight.shape[1] != x.shape[1] and 1 in (weight.shape[1], x.shape[1]):
        channels = max(weight.shape[1], x.shape[1])
        x, weight = x.expand(-1, channels, -1, -1), weight.expand(-1, channels, -1, -1)
    return reference_conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


@misconception("conv2d", "Squeezes the result: a single image or channel loses its dimension.")
def squeezes_the_images(x, weight, bias=None, **settings):
    return reference_conv2d(x, weight, bias, **settings).squeeze()


@misconception("conv2d", "Forgets that the division rounds -1 towards 0 in int(): a kernel that is a little too large seems to fit.")
def truncates_the_size(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    if x.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ValueError("channels")
    sizes = []
    for size, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True):
        sizes.append(int((size + 2 * p - d * (k - 1) - 1) / s) + 1)
    if min(sizes) < 1:
        raise ValueError("the kernel is larger than the padded input")
    y = x.new_zeros(len(x), weight.shape[0], *sizes)
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    for g, part in enumerate(x.chunk(groups, 1)):
        kernels = weight.chunk(groups)[g]
        for i in range(sizes[0]):
            for j in range(sizes[1]):
                top, left = i * stride[0], j * stride[1]
                window = part[:, :, top:, left:][:, :, :: dilation[0], :: dilation[1]][:, :, : weight.shape[2], : weight.shape[3]]
                kept = kernels[:, :, : window.shape[2], : window.shape[3]]
                y[:, g * len(kernels) : (g + 1) * len(kernels), i, j] = torch.einsum("ncuv,ocuv->no", window, kept)
    return y if bias is None else y + bias[:, None, None]


# max_pool2d


def _pool(x, kernel_size, stride, padding, value=-torch.inf):
    (k_h, k_w), (s_h, s_w), (p_h, p_w) = kernel_size, stride or kernel_size, padding
    if p_h > k_h // 2 or p_w > k_w // 2:
        raise ValueError("padding")
    padded = F.pad(x, (p_w, p_w, p_h, p_h), value=value)
    if k_h > padded.shape[2] or k_w > padded.shape[3]:
        raise ValueError("the kernel is larger than the padded image")
    return padded.unfold(2, k_h, s_h).unfold(3, k_w, s_w)


@misconception("max_pool2d", "Pads with zeros: at the border they win over negative entries.")
def pads_with_zeros(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x, kernel_size, stride, padding, 0.0).amax(dim=(-2, -1))


@misconception("max_pool2d", "Pads with -1e9, which is larger than some numbers: only -inf never wins.")
def pads_with_a_big_number(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x, kernel_size, stride, padding, -1e9).amax(dim=(-2, -1))


@misconception("max_pool2d", "Moves by 1 unless told otherwise: without a stride, windows lie side by side.")
def default_stride_of_one(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x, kernel_size, stride or (1, 1), padding).amax(dim=(-2, -1))


@misconception("max_pool2d", "Takes the average of a window.")
def averages(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x, kernel_size, stride, padding, 0.0).mean(dim=(-2, -1))


@misconception("max_pool2d", "Replaces NaN by something small: a NaN in the data should show.")
def hides_nan(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x.nan_to_num(-torch.inf, posinf=torch.inf, neginf=-torch.inf), kernel_size, stride, padding).amax(dim=(-2, -1))


@misconception("max_pool2d", "Works on detached values: no gradient comes back.")
def loses_the_gradient(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x.detach(), kernel_size, stride, padding).amax(dim=(-2, -1)).requires_grad_(x.requires_grad)


@misconception("max_pool2d", "Keeps a last, incomplete window (ceil mode): only complete ones count.")
def keeps_incomplete_windows(x, kernel_size, *, stride=None, padding=(0, 0)):
    s = stride or kernel_size
    _pool(x, kernel_size, stride, padding)
    missing = [(k - size - 2 * p) % step for size, k, p, step in zip(x.shape[2:], kernel_size, padding, s, strict=True)]
    (p_h, p_w), (m_h, m_w) = padding, missing
    padded = F.pad(x, (p_w, p_w + m_w, p_h, p_h + m_h), value=-torch.inf)
    return padded.unfold(2, kernel_size[0], s[0]).unfold(3, kernel_size[1], s[1]).amax(dim=(-2, -1))


@misconception("max_pool2d", "Pads with the smallest finite number, which is larger than an entry of -inf.")
def pads_with_the_smallest_number(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x, kernel_size, stride, padding, torch.finfo(x.dtype).min).amax(dim=(-2, -1))


@misconception("max_pool2d", "Computes strides in memory from the shape: an image that isn't contiguous has others.")
def pools_by_strides_of_the_shape(x, kernel_size, *, stride=None, padding=(0, 0)):
    windows = _pool(x, kernel_size, stride, padding)
    if padding == (0, 0):
        _, c, height, width = x.shape
        s_h, s_w = stride or kernel_size
        windows = x.as_strided(windows.shape, (c * height * width, height * width, s_h * width, s_w, width, 1))
    return windows.amax(dim=(-2, -1))


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx, windows):
        y = windows.amax(dim=(-2, -1), keepdim=True)
        ctx.save_for_backward(windows == y)
        return y[..., 0, 0]

    @staticmethod
    def backward(ctx, gradient):
        (mask,) = ctx.saved_tensors
        return mask * gradient[..., None, None]


@misconception("max_pool2d", "Gives the whole gradient to each of several equally large entries: together they get it once.")
def gradient_to_every_largest(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _Largest.apply(_pool(x, kernel_size, stride, padding))


@misconception("max_pool2d", "Squeezes the result: a single image or channel loses its dimension.")
def squeezes_the_maxima(x, kernel_size, *, stride=None, padding=(0, 0)):
    return _pool(x, kernel_size, stride, padding).amax(dim=(-2, -1)).squeeze()


# BatchNorm2d


class _Norm(ReferenceBatchNorm2d):
    """Lets a wrong BatchNorm2d say only what it does in training mode: which statistics it uses and which it remembers."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        if x.ndim != 4 or x.shape[1] != len(self.weight) or x.numel() < 2 * x.shape[1]:
            raise ValueError("input")
        mean, var, remembered = self.statistics(x)
        self.num_batches_tracked += 1
        a = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.remember(mean.detach(), remembered.detach(), a)
        return self.normalise(x, mean, var)

    def statistics(self, x):
        return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0), x.var((0, 2, 3))

    def remember(self, mean, var, a):
        self.running_mean = (1 - a) * self.running_mean + a * mean
        self.running_var = (1 - a) * self.running_var + a * var

    def normalise(self, x, mean, var):
        def wide(t):
            return t[:, None, None]

        return (x - wide(mean)) / wide((var + self.eps).sqrt()) * wide(self.weight) + wide(self.bias)


@misconception("BatchNorm2d", "Normalises with the unbiased variance: over the batch it is the biased one, divided by n.")
class NormalisesUnbiased(_Norm):
    def statistics(self, x):
        mean, _, unbiased = super().statistics(x)
        return mean, unbiased, unbiased


@misconception("BatchNorm2d", "Remembers the biased variance: the running one is an estimate for new data, divided by n - 1.")
class RemembersBiased(_Norm):
    def statistics(self, x):
        mean, biased, _ = super().statistics(x)
        return mean, biased, biased


@misconception("BatchNorm2d", "Takes momentum for the weight of the old value: torch's is the weight of the new one.")
class MomentumOfTheOld(_Norm):
    def remember(self, mean, var, a):
        super().remember(mean, var, 1 - a)


@misconception(
    "BatchNorm2d", "Takes the mean over the batch only, for each pixel by itself: a channel has one mean over images, rows and columns."
)
class StatisticsOfEachPixel(_Norm):
    def normalise(self, x, mean, var):
        mean, var = x.mean(0, keepdim=True), x.var(0, correction=0, keepdim=True)
        return (x - mean) / (var + self.eps).sqrt() * self.weight[:, None, None] + self.bias[:, None, None]


@misconception("BatchNorm2d", "Takes mean and variance for constants: gradients flow through them as well.")
class ConstantStatistics(_Norm):
    def normalise(self, x, mean, var):
        return super().normalise(x, mean.detach(), var.detach())


@misconception("BatchNorm2d", "Adds eps to the standard deviation: it belongs to the variance, under the root.")
class EpsOutsideOfTheRoot(_Norm):
    def normalise(self, x, mean, var):
        scale = self.weight / (var.sqrt() + self.eps)
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


@misconception("BatchNorm2d", "Computes the variance as mean of squares minus square of the mean, which loses all digits far from zero.")
class MeanOfSquares(_Norm):
    def statistics(self, x):
        mean, n = x.mean((0, 2, 3)), x.numel() / x.shape[1]
        var = (x.square().mean((0, 2, 3)) - mean.square()).clamp(min=0)
        return mean, var, var * n / (n - 1)


@misconception("BatchNorm2d", "Normalises by the batch in eval mode too.")
class BatchStatisticsInEval(_Norm):
    def forward(self, x):
        if self.training:
            return super().forward(x)
        return self.normalise(x, x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))


@misconception("BatchNorm2d", "Goes on moving the running statistics in eval mode.")
class UpdatesInEval(_Norm):
    def forward(self, x):
        y = super().forward(x)
        if not self.training and x.numel() > x.shape[1]:
            mean, _, unbiased = self.statistics(x.detach())
            self.remember(mean, unbiased, self.momentum)
        return y


@misconception("BatchNorm2d", "Keeps the graph in the running statistics: it grows with every batch, and memory with it.")
class GraphInTheBuffers(_Norm):
    def forward(self, x):
        if self.training and x.ndim == 4 and x.shape[1] == len(self.weight) and x.numel() >= 2 * x.shape[1]:
            before = self.running_mean, self.running_var
            y = super().forward(x)
            a = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean = (1 - a) * before[0] + a * x.mean((0, 2, 3))
            self.running_var = (1 - a) * before[1] + a * x.var((0, 2, 3))
            return y
        return super().forward(x)


@misconception(
    "BatchNorm2d", "Keeps the running statistics in plain attributes: they are missing from state_dict, and conversions pass them by."
)
class PlainAttributes(nn.Module):
    def __init__(self, num_features, *, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        self.running_mean, self.running_var = torch.zeros(num_features), torch.ones(num_features)
        self.num_batches_tracked = torch.tensor(0)

    def forward(self, x):
        return _Norm.forward(self, x) if self.training else ReferenceBatchNorm2d.forward(self, x)

    statistics, remember, normalise = _Norm.statistics, _Norm.remember, _Norm.normalise


@misconception("BatchNorm2d", "Never counts the batches: a plain average over all of them (momentum None) needs the count.")
class NeverCounts(_Norm):
    def forward(self, x):
        y = super().forward(x)
        self.num_batches_tracked.zero_()
        return y


@misconception("BatchNorm2d", "Takes a momentum of 0 for none given: with 0, the running statistics stay as they are.")
class MomentumOfZeroIsNone(_Norm):
    def remember(self, mean, var, a):
        super().remember(mean, var, self.momentum or 1 / self.num_batches_tracked.item())


@misconception("BatchNorm2d", "Takes an eps of 0 for none given.")
class EpsOfZeroIsNone(_Norm):
    def __init__(self, num_features, *, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps=eps or 1e-5, momentum=momentum)


@misconception(
    "BatchNorm2d", "Keeps the scale and shift of the first call in eval mode: weights that are loaded or changed later don't count."
)
class KeepsTheScale(_Norm):
    def train(self, mode=True):
        self.kept = None
        return super().train(mode)

    def forward(self, x):
        if self.training or x.ndim != 4 or x.shape[1] != len(self.weight):
            return super().forward(x)
        if self.kept is None:
            scale = self.weight / (self.running_var + self.eps).sqrt()
            self.kept = scale[:, None, None], (self.bias - self.running_mean * scale)[:, None, None]
        return x * self.kept[0] + self.kept[1]


@misconception("BatchNorm2d", "Centres x in place: whoever else uses x gets something else.")
class CentresInPlace(_Norm):
    def normalise(self, x, mean, var):
        if not x.requires_grad:
            x -= mean[:, None, None]
            mean = torch.zeros_like(mean)
        return super().normalise(x, mean, var)


@misconception("BatchNorm2d", "Lifts tiny variances to 1e-12: eps alone guards the division.")
class LiftsTinyVariances(_Norm):
    def normalise(self, x, mean, var):
        return super().normalise(x, mean, var.clamp(min=1e-12))


@misconception("BatchNorm2d", "Checks the input in training mode only: in eval mode, a single channel is broadcast to all.")
class ChecksInTrainingOnly(_Norm):
    def forward(self, x):
        if self.training:
            return super().forward(x)
        return self.normalise(x, self.running_mean, self.running_var)


@misconception("BatchNorm2d", "Remembers the mean of squares minus the square of the mean, which has no digits left far from zero.")
class RemembersMeanOfSquares(_Norm):
    def statistics(self, x):
        mean, biased, _ = super().statistics(x)
        n = x.numel() / x.shape[1]
        return mean, biased, (x.square().mean((0, 2, 3)) - mean.square()) * n / (n - 1)


@misconception("BatchNorm2d", "Weighs the batch's statistics with 0 in eval mode: zero times NaN is NaN, so one image spoils all.")
class WeighsByTheMode(_Norm):
    def forward(self, x):
        if self.training or x.ndim != 4 or x.shape[1] != len(self.weight) or not len(x):
            return super().forward(x)
        t = float(self.training)
        mean = t * x.mean((0, 2, 3)) + (1 - t) * self.running_mean
        var = t * x.var((0, 2, 3), correction=0) + (1 - t) * self.running_var
        return self.normalise(x, mean, var)


@misconception(
    "BatchNorm2d", "Views x as rows of pixels: images that aren't contiguous can't be viewed. Use reshape, or reduce over three dimensions."
)
class ViewsPixels(_Norm):
    def statistics(self, x):
        rows = x.view(x.shape[0], x.shape[1], -1)
        return rows.mean((0, 2)), rows.var((0, 2), correction=0), rows.var((0, 2))


@misconception("BatchNorm2d", "Counts the batch before it looks at it: a batch that is refused changes a buffer all the same.")
class CountsRefusedBatches(_Norm):
    def forward(self, x):
        if self.training:
            self.num_batches_tracked += 1
        y = super().forward(x)
        if self.training:
            self.num_batches_tracked -= 1
        return y


@misconception("BatchNorm2d", "Leaves the running statistics out of state_dict (persistent=False): a loaded network has lost them.")
class StatisticsThatAreNotSaved(_Norm):
    def __init__(self, num_features, *, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.register_buffer("running_mean", torch.zeros(num_features), persistent=False)
        self.register_buffer("running_var", torch.ones(num_features), persistent=False)


@misconception("BatchNorm2d", "Moves the running statistics only while gradients are recorded: the layer's own mode decides.")
class MovesWithGradientsOnly(_Norm):
    def remember(self, mean, var, a):
        if torch.is_grad_enabled():
            super().remember(mean, var, a)


@misconception("BatchNorm2d", "Switches recording on after the update, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterTheUpdate(_Norm):
    def forward(self, x):
        y = super().forward(x)
        torch.set_grad_enabled(True)
        return y


# ResidualBlock


class _Block(ReferenceResidualBlock):
    """The reference under a name that wrong blocks build on."""


@misconception("ResidualBlock", "Forgets the relu after the sum.")
class NoLastRelu(_Block):
    def forward(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)


@misconception("ResidualBlock", "Applies the last relu before the shortcut is added: it comes after the sum.")
class ReluBeforeTheSum(_Block):
    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))) + self.shortcut(x)


@misconception("ResidualBlock", "Leaves the shortcut out.")
class NoShortcut(_Block):
    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@misconception("ResidualBlock", "Makes a projection only where the channels change: a stride needs one as well.")
class SubsamplesTheShortcut(_Block):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__(in_channels, out_channels, stride=stride)
        if in_channels == out_channels:
            self.shortcut = nn.MaxPool2d(1, stride) if stride > 1 else nn.Sequential()


@misconception("ResidualBlock", "Projects always: where shapes agree, the shortcut is x itself.")
class AlwaysProjects(_Block):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__(in_channels, out_channels, stride=stride)
        convolution = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


@misconception("ResidualBlock", "Puts the stride on the second convolution: the first one has it.")
class StrideOnTheSecond(_Block):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__(in_channels, out_channels, stride=stride)
        self.conv1.stride, self.conv2.stride = (1, 1), (stride, stride)


@misconception("ResidualBlock", "Uses one batch norm twice: each convolution has its own.")
class SharedNorm(_Block):
    def forward(self, x):
        return F.relu(self.bn1(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


@misconception("ResidualBlock", "Leaves out the batch norm of the shortcut.")
class BareProjection(_Block):
    def forward(self, x):
        shortcut = self.shortcut[0](x) if len(self.shortcut) else x
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


@misconception("ResidualBlock", "Adds the result to x in place: whoever else uses x gets something else.")
class AddsIntoX(_Block):
    def forward(self, x):
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = self.shortcut(x)
        return F.relu(h + shortcut) if torch.is_grad_enabled() else shortcut.add_(h).relu_()


@misconception("ResidualBlock", "Gives the convolutions a bias, which the batch norm behind takes away again.")
class BiasedConvolutions(_Block):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__(in_channels, out_channels, stride=stride)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)


@misconception(
    "ResidualBlock", "Draws its convolutions' weights by He's rule, as torchvision's ResNet does: here they are torch's defaults."
)
class HeStart(_Block):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__(in_channels, out_channels, stride=stride)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@misconception("ResidualBlock", "Starts the second batch norm's weight at 0, as some recipes do: here it is torch's default.")
class ZeroStart(_Block):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__(in_channels, out_channels, stride=stride)
        nn.init.zeros_(self.bn2.weight)


@misconception("ResidualBlock", "Leaves x as it is where a single channel could be broadcast: channels that differ need a projection.")
class BroadcastsOneChannel(_Block):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__(in_channels, out_channels, stride=stride)
        if in_channels == 1 and stride == 1:
            self.shortcut = nn.Sequential()


@misconception(
    "ResidualBlock",
    "Adds x itself wherever shapes happen to agree: a stride leaves a single pixel as it is, and still needs the projection.",
)
class AsksTheShapes(_Block):
    def forward(self, x):
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + (x if x.shape == h.shape else self.shortcut(x)))


# LeNet


@misconception("LeNet", "Ends in a softmax: cross-entropy expects scores, and takes the softmax itself.")
class SoftmaxAtTheEnd(ReferenceLeNet):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


@misconception("LeNet", "Has no tanh between the linear layers: three in a row are only one.")
class LinearInARow(ReferenceLeNet):
    def forward(self, x):
        h = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        h = F.max_pool2d(torch.tanh(self.conv2(h)), 2).flatten(1)
        return self.fc3(self.fc2(self.fc1(h)))


@misconception("LeNet", "Flattens rows, columns and channels in another order than the weights expect: channels come first.")
class ChannelsLast(ReferenceLeNet):
    def forward(self, x):
        h = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        h = F.max_pool2d(torch.tanh(self.conv2(h)), 2).permute(0, 2, 3, 1).flatten(1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(h)))))


@misconception("LeNet", "Uses relu where tanh is asked for.")
class ReluLeNet(ReferenceLeNet):
    def forward(self, x):
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(h)))))


@misconception("LeNet", "Averages where the largest entry is asked for.")
class AveragePooling(ReferenceLeNet):
    def forward(self, x):
        h = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        h = F.avg_pool2d(torch.tanh(self.conv2(h)), 2).flatten(1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(h)))))


@misconception("LeNet", "Counts the inputs of fc1 for images of 8×8 only.")
class OnlyEightByEight(ReferenceLeNet):
    def __init__(self, size=(8, 8), *, in_channels=1, num_classes=10):
        super().__init__(size, in_channels=in_channels, num_classes=num_classes)
        self.fc1 = nn.Linear(64, 120)


@misconception("LeNet", "Keeps two of the layers in a plain list: they are in no state_dict, and no optimizer trains them.")
class LayersInAList(ReferenceLeNet):
    def __init__(self, size=(8, 8), *, in_channels=1, num_classes=10):
        super().__init__(size, in_channels=in_channels, num_classes=num_classes)
        self.hidden = [self.fc1, self.fc2]
        del self.fc1, self.fc2

    def forward(self, x):
        h = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        h = F.max_pool2d(torch.tanh(self.conv2(h)), 2).flatten(1)
        for layer in self.hidden:
            h = torch.tanh(layer(h))
        return self.fc3(h)


def _train(model, images, labels, batches, learning_rate=1e-2, epochs=2, clear=True):
    """A few epochs of Adam over the batches that `batches()` gives."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for x, y in batches():
            if clear:
                optimizer.zero_grad()
            F.cross_entropy(model(images[x]), labels[y]).backward()
            optimizer.step()


@misconception("LeNet", "Shuffles the images but not their labels: there is nothing to learn.")
class ShufflesImagesOnly(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        torch.manual_seed(seed)
        in_order = torch.arange(len(images)).split(64)
        _train(self, images, labels, lambda: zip(torch.randperm(len(images)).split(64), in_order, strict=True))


@misconception("LeNet", "Makes one update an epoch, from all images at once: a dozen updates are far too few.")
class OneUpdateAnEpoch(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        everything = torch.arange(len(images))
        _train(self, images, labels, lambda: [(everything, everything)], learning_rate=1e-3, epochs=15)


@misconception("LeNet", "Trains a copy of the network: its own weights stay as they were.")
class TrainsACopy(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        ReferenceLeNet.fit(copy.deepcopy(self), images, labels, seed=seed)


@misconception("LeNet", "Draws new weights from the seed before training: it must start from the weights that are there.")
class StartsOver(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        torch.manual_seed(seed)
        for layer in self.children():
            layer.reset_parameters()
        super().fit(images, labels, seed=seed)


@misconception("LeNet", "Shuffles with the global generator: the same seed gives different weights.")
class IgnoresTheSeed(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        super().fit(images, labels, seed=int(torch.randint(2**31, ())))


@misconception("LeNet", "Never shuffles: the seed does nothing.")
class NeverShuffles(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        super().fit(images, labels, seed=0)


@misconception("LeNet", "Puts a trained network's layers in place of its own: whoever holds the parameters has the untrained ones.")
class ReplacesItsLayers(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        trained = copy.deepcopy(self)
        ReferenceLeNet.fit(trained, images, labels, seed=seed)
        for name, layer in trained.named_children():
            setattr(self, name, layer)


@misconception("LeNet", "Views the feature maps as rows: those of images that aren't contiguous can't be viewed. Use flatten or reshape.")
class ViewsFeatures(ReferenceLeNet):
    def forward(self, x):
        h = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        h = F.max_pool2d(torch.tanh(self.conv2(h)), 2)
        h = h.view(h.shape[0], -1)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(h)))))


@misconception("LeNet", "Squeezes the feature maps: a single image loses its dimension.")
class SqueezesFeatures(ReferenceLeNet):
    def forward(self, x):
        h = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        h = F.max_pool2d(torch.tanh(self.conv2(h)), 2)
        h = h.flatten(1).squeeze()
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(h)))))


@misconception("LeNet", "Draws initial weights by Xavier's rule: here they are torch's defaults.")
class XavierStart(ReferenceLeNet):
    def __init__(self, size=(8, 8), *, in_channels=1, num_classes=10):
        super().__init__(size, in_channels=in_channels, num_classes=num_classes)
        for layer in self.children():
            nn.init.xavier_uniform_(layer.weight)


@misconception("LeNet", "Starts with biases of 0: here they are torch's defaults.")
class BiasesOfZero(ReferenceLeNet):
    def __init__(self, size=(8, 8), *, in_channels=1, num_classes=10):
        super().__init__(size, in_channels=in_channels, num_classes=num_classes)
        for layer in self.children():
            nn.init.zeros_(layer.bias)


@misconception("LeNet", "Drops the last batch if it is smaller than 64: of 40 images, none is left.")
class DropsTheLastBatch(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        generator = torch.Generator().manual_seed(seed)
        data = torch.utils.data.TensorDataset(images, labels)
        loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, drop_last=True, generator=generator)
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        for _ in range(6):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(self(x), y).backward()
                optimizer.step()


@misconception(
    "LeNet", "Puts new parameters in place of its own, though with the same values as the old ones: they must stay the same tensors."
)
class MakesNewParameters(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        super().fit(images, labels, seed=seed)
        for layer in self.children():
            layer.weight, layer.bias = nn.Parameter(layer.weight.detach().clone()), nn.Parameter(layer.bias.detach().clone())


@misconception("LeNet", "Seeds the global generator: the caller's own random numbers change.")
class SeedsTheGlobalGenerator(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        torch.manual_seed(seed)
        _train(self, images, labels, lambda: [(i, i) for i in torch.randperm(len(images)).split(64)], epochs=6)


@misconception("LeNet", "Takes a seed of 0 for none given: then the order is another one each time.")
class SeedOfZeroIsNone(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        generator = torch.Generator()
        if seed:
            generator.manual_seed(seed)
        else:
            generator.seed()
        _train(self, images, labels, lambda: [(i, i) for i in torch.randperm(len(images), generator=generator).split(64)], epochs=6)


@misconception("LeNet", "Clears the gradients after the step only: what .grad holds before goes into the first update.")
class ClearsAfterTheStep(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        for _ in range(6):
            for batch in torch.randperm(len(images), generator=generator).split(64):
                F.cross_entropy(self(images[batch]), labels[batch]).backward()
                optimizer.step()
                optimizer.zero_grad()


@misconception("LeNet", "Keeps the optimizer from one call of fit to the next: its averages are those of the earlier training.")
class KeepsTheOptimizer(ReferenceLeNet):
    def __init__(self, size=(8, 8), *, in_channels=1, num_classes=10):
        super().__init__(size, in_channels=in_channels, num_classes=num_classes)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)

    def fit(self, images, labels, *, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(6):
            for batch in torch.randperm(len(images), generator=generator).split(64):
                self.optimizer.zero_grad()
                F.cross_entropy(self(images[batch]), labels[batch]).backward()
                self.optimizer.step()


@misconception("LeNet", "Ends in eval mode, in whatever mode the network was before.")
class EndsInEvalMode(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        self.train()
        super().fit(images, labels, seed=seed)
        self.eval()


@misconception("LeNet", "Trains on ten classes, however many the network has.")
class TenClassesInFit(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        targets = F.one_hot(labels, 10).float()
        for _ in range(6):
            for batch in torch.randperm(len(images), generator=generator).split(64):
                optimizer.zero_grad()
                F.cross_entropy(self(images[batch]), targets[batch]).backward()
                optimizer.step()


@misconception("LeNet", "Normalises the images in place: whoever else uses them gets something else.")
class NormalisesInPlace(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        images -= images.mean()
        super().fit(images, labels, seed=seed)


@misconception("LeNet", "Restores the network's own mode with train(mode), which switches all layers to it, whichever they had.")
class RestoresOneMode(ReferenceLeNet):
    def fit(self, images, labels, *, seed):
        mode = self.training
        self.train()
        super().fit(images, labels, seed=seed)
        self.train(mode)


# fold_batchnorm


@misconception(
    "fold_batchnorm", "Scales the weight along the input channels: the factor belongs to the output channels, the first dimension."
)
def scales_input_channels(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    scale = torch.rsqrt(bn.running_var + bn.eps) * (bn.weight if bn.affine else 1.0)
    with torch.no_grad():
        folded.weight.copy_(conv.weight * scale[: conv.weight.shape[1], None, None])
    return folded


@misconception("fold_batchnorm", "Keeps the convolution's bias unscaled: the batch norm multiplies it like everything else.")
def bias_is_not_scaled(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    if conv.bias is not None:
        scale = torch.rsqrt(bn.running_var + bn.eps) * (bn.weight if bn.affine else 1.0)
        with torch.no_grad():
            folded.bias += conv.bias * (1 - scale)
    return folded


@misconception("fold_batchnorm", "Divides by the standard deviation without eps.")
def without_eps(conv, bn):
    other = copy.deepcopy(bn)
    other.eps = 0.0
    return reference_fold_batchnorm(conv, other)


@misconception("fold_batchnorm", "Divides by the variance instead of its root.")
def divides_by_the_variance(conv, bn):
    other = copy.deepcopy(bn)
    if other.running_var is not None:
        other.running_var = (bn.running_var + bn.eps).square() - bn.eps
    return reference_fold_batchnorm(conv, other)


@misconception("fold_batchnorm", "Adds no bias where the convolution had none: the batch norm's shift gets lost.")
def loses_the_shift(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    if conv.bias is None:
        nn.init.zeros_(folded.bias)
    return folded


@misconception(
    "fold_batchnorm", "Makes a new convolution from channels, kernel size, stride and padding: dilation, groups and padding mode are lost."
)
def forgets_settings(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    fresh = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, dtype=conv.weight.dtype)
    with torch.no_grad():
        fresh.weight.copy_(folded.weight)
        fresh.bias.copy_(folded.bias)
    return fresh


@misconception("fold_batchnorm", "Makes a new convolution without a dtype: float64 layers come back as float32.")
def loses_float64(conv, bn):
    return reference_fold_batchnorm(conv, bn).float()


@misconception("fold_batchnorm", "Expects that the batch norm has weight and bias: with affine=False they are None.")
def expects_weight_and_bias(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    with torch.no_grad():
        folded.weight.copy_(conv.weight * (torch.rsqrt(bn.running_var + bn.eps) * bn.weight)[:, None, None, None])
    return folded


@misconception("fold_batchnorm", "Writes the folded weights into the convolution that it was given.")
def folds_in_place(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    conv.weight, conv.bias = folded.weight, folded.bias
    return conv


@misconception("fold_batchnorm", "Leaves history in the new weights: they are results of a computation instead of leaves.")
def weights_with_history(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    weight = folded.weight + 0 * conv.weight
    del folded.weight
    folded.weight = weight
    return folded


@misconception("fold_batchnorm", "Switches the batch norm to eval mode and leaves it there.")
def leaves_the_norm_in_eval(conv, bn):
    bn.eval()
    return reference_fold_batchnorm(conv, bn)


@misconception("fold_batchnorm", "Copies the convolution with its flags: the weights of a frozen one can't learn.")
def stays_frozen(conv, bn):
    folded = copy.deepcopy(conv)
    values = reference_fold_batchnorm(conv, bn)
    with torch.no_grad():
        folded.weight.copy_(values.weight)
        folded.bias = nn.Parameter(values.bias.detach(), requires_grad=conv.weight.requires_grad)
    return folded


@misconception("fold_batchnorm", "Lifts tiny variances to 1e-12: eps alone guards the division.")
def lifts_tiny_variances(conv, bn):
    other = copy.deepcopy(bn)
    if other.running_var is not None:
        other.running_var.clamp_(min=1e-12)
    return reference_fold_batchnorm(conv, other)


@misconception("fold_batchnorm", "Takes an eps of 0 for none given.")
def eps_of_zero_is_none(conv, bn):
    other = copy.deepcopy(bn)
    other.eps = bn.eps or 1e-5
    return reference_fold_batchnorm(conv, other)


@misconception(
    "fold_batchnorm", "Views the weight as rows: one in the memory format channels_last can't be viewed. Use reshape, or broadcast."
)
def views_rows(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    scale = (1.0 if bn.weight is None else bn.weight) / torch.sqrt(bn.running_var + bn.eps)
    rows = conv.weight.view(conv.out_channels, -1) * scale[:, None]
    with torch.no_grad():
        folded.weight.copy_(rows.view(conv.weight.shape))
    return folded


@misconception("fold_batchnorm", "Adds eps to the norm's own variance, in place.")
def adds_eps_in_place(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    bn.running_var += bn.eps
    return folded


@misconception("fold_batchnorm", "Squeezes weights and factors: a single channel loses its dimension.")
def squeezes_one_channel(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    folded.weight = nn.Parameter(folded.weight.detach().squeeze(1))
    return folded


@misconception("fold_batchnorm", "Compares shapes by broadcasting: one feature goes with any number of channels.")
def broadcasts_one_feature(conv, bn):
    if bn.running_mean is not None and bn.num_features == 1 < conv.out_channels:
        bn = copy.deepcopy(bn)
        bn.num_features = conv.out_channels
        for name in ("running_mean", "running_var"):
            setattr(bn, name, getattr(bn, name).expand(conv.out_channels))
        bn.weight, bn.bias = (nn.Parameter(p.detach().expand(conv.out_channels)) for p in (bn.weight, bn.bias))
    return reference_fold_batchnorm(conv, bn)


@misconception("fold_batchnorm", "Switches recording on when it is done, where it may have been off: use `with torch.no_grad():`.")
def records_after_folding(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    torch.set_grad_enabled(True)
    return folded


@misconception("fold_batchnorm", "Stops the norm's updates for good by setting its momentum to 0: both layers stay as they are.")
def stops_the_norm(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    bn.momentum = 0.0
    return folded


@misconception("fold_batchnorm", "Sets the convolution that it was given to stride 1, as if it were a copy.")
def resets_the_stride(conv, bn):
    folded = reference_fold_batchnorm(conv, bn)
    conv.stride = (1, 1)
    return folded


# depthwise_separable


@misconception("depthwise_separable", "Forgets groups: the first convolution is a full one.")
def full_convolution_first(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    if multiplier < 1:
        raise ValueError("multiplier")
    middle = in_channels * multiplier
    first = nn.Conv2d(in_channels, middle, kernel_size, stride, padding, bias=False)
    return nn.Sequential(first, nn.Conv2d(middle, out_channels, 1, bias=bias))


@misconception("depthwise_separable", "Gives the first convolution a bias as well, which the second one's makes superfluous.")
def bias_in_both(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    model = reference_depthwise_separable(
        in_channels, out_channels, kernel_size, stride=stride, padding=padding, multiplier=multiplier, bias=bias
    )
    model[0] = nn.Conv2d(in_channels, in_channels * multiplier, kernel_size, stride, padding, groups=in_channels, bias=bias)
    return model


@misconception("depthwise_separable", "Puts a relu between the two convolutions.")
def relu_in_between(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    depthwise, pointwise = reference_depthwise_separable(
        in_channels, out_channels, kernel_size, stride=stride, padding=padding, multiplier=multiplier, bias=bias
    )
    return nn.Sequential(depthwise, nn.ReLU(), pointwise)


@misconception("depthwise_separable", "Mixes the channels first and filters in space afterwards.")
def pointwise_first(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    if multiplier < 1:
        raise ValueError("multiplier")
    middle = out_channels * multiplier
    depthwise = nn.Conv2d(out_channels, middle, kernel_size, stride, padding, groups=out_channels, bias=bias)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), depthwise)


@misconception("depthwise_separable", "Strides in both convolutions: the second one has stride 1.")
def strides_twice(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    model = reference_depthwise_separable(
        in_channels, out_channels, kernel_size, stride=stride, padding=padding, multiplier=multiplier, bias=bias
    )
    model[1].stride = (stride, stride)
    return model


@misconception("depthwise_separable", "Ignores the multiplier: each channel makes a single one.")
def ignores_the_multiplier(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    if multiplier < 1:
        raise ValueError("multiplier")
    return reference_depthwise_separable(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)


@misconception("depthwise_separable", "Draws initial weights by He's rule: here they are torch's defaults.")
def he_start(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    model = reference_depthwise_separable(
        in_channels, out_channels, kernel_size, stride=stride, padding=padding, multiplier=multiplier, bias=bias
    )
    for layer in model:
        nn.init.kaiming_normal_(layer.weight)
    return model


@misconception(
    "depthwise_separable", "Skips the first layer for a single channel, or the second for a single output: there are always two."
)
def one_layer_for_one_channel(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    if in_channels == 1 and multiplier >= 1:
        return nn.Sequential(nn.Conv2d(1, out_channels, kernel_size, stride=stride, padding=padding, bias=bias))
    return reference_depthwise_separable(
        in_channels, out_channels, kernel_size, stride=stride, padding=padding, multiplier=multiplier, bias=bias
    )


# conv_transpose2d


@misconception(
    "conv_transpose2d", "Takes the weight's first dimension for the output's channels: in a transposed convolution the input's come first."
)
def weight_of_a_convolution(x, weight, bias=None, **settings):
    if x.shape[1] != weight.shape[0]:
        raise ValueError("channels")
    swapped = weight.transpose(0, 1) if weight.shape[0] == weight.shape[1] else weight
    return reference_conv_transpose2d(x, swapped, bias, **settings)


@misconception("conv_transpose2d", "Forgets to flip the kernel when the sum is written as a convolution over the stretched input.")
def correlates_the_stretched_input(x, weight, bias=None, **settings):
    return reference_conv_transpose2d(x, weight.flip(2, 3), bias, **settings)


@misconception("conv_transpose2d", "Lets later stamps overwrite earlier ones: where they overlap, they add up.")
def overwrites(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    y = reference_conv_transpose2d(x, weight, bias, stride=stride, output_padding=output_padding, padding=padding)
    (s_h, s_w), (k_h, k_w) = stride, weight.shape[2:]
    full = (x.shape[2] - 1) * s_h + k_h + output_padding[0], (x.shape[3] - 1) * s_w + k_w + output_padding[1]
    canvas = x.new_zeros(len(x), weight.shape[1], *full)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            stamp = torch.einsum("nc,couv->nouv", x[:, :, i, j], weight)
            canvas[:, :, i * s_h : i * s_h + k_h, j * s_w : j * s_w + k_w] = stamp
    cut = canvas[:, :, padding[0] : padding[0] + y.shape[2], padding[1] : padding[1] + y.shape[3]]
    return cut if bias is None else cut + bias[:, None, None]


@misconception("conv_transpose2d", "Adds padding to the output: in a transposed convolution it is cut off.")
def padding_widens(x, weight, bias=None, *, padding=(0, 0), **settings):
    reference_conv_transpose2d(x, weight, padding=padding, **settings)
    y = F.pad(reference_conv_transpose2d(x, weight, **settings), (padding[1], padding[1], padding[0], padding[0]))
    return y if bias is None else y + bias[:, None, None]


@misconception(
    "conv_transpose2d",
    "Appends zeros for output_padding after cutting: the canvas is longer first, so that fewer rows with stamps are cut off.",
)
def appends_zeros(x, weight, bias=None, *, output_padding=(0, 0), **settings):
    reference_conv_transpose2d(x, weight, output_padding=output_padding, **settings)
    y = F.pad(reference_conv_transpose2d(x, weight, **settings), (0, output_padding[1], 0, output_padding[0]))
    return y if bias is None else y + bias[:, None, None]


@misconception("conv_transpose2d", "Puts output_padding above and to the left: it is added below and to the right.")
def output_padding_in_front(x, weight, bias=None, *, output_padding=(0, 0), **settings):
    y = reference_conv_transpose2d(x, weight, output_padding=output_padding, **settings).roll(output_padding, dims=(2, 3))
    return y if bias is None else y + bias[:, None, None]


@misconception("conv_transpose2d", "Adds the bias to every stamp: it is added once to each output.")
def bias_in_every_stamp(x, weight, bias=None, **settings):
    y = reference_conv_transpose2d(x, weight, **settings)
    if bias is None:
        return y
    return y + reference_conv_transpose2d(torch.ones_like(x), bias[:, None, None].expand_as(weight) / len(weight), **settings)


@misconception("conv_transpose2d", "Takes the first number of stride, padding and output_padding for the width.")
def transposed_width_before_height(x, weight, bias=None, **settings):
    return reference_conv_transpose2d(x, weight, bias, **{name: value[::-1] for name, value in settings.items()})


@misconception("conv_transpose2d", "Views the weight as a matrix: a weight that isn't contiguous can't be viewed. Use reshape.")
def views_the_transposed_weight(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    y = reference_conv_transpose2d(x, weight, bias, stride=stride, padding=padding, output_padding=output_padding)
    stamps = weight.view(len(weight), -1).t() @ x.flatten(2)
    y = F.fold(stamps, y.shape[2:], weight.shape[2:], padding=padding, stride=stride)
    return y if bias is None else y + bias[:, None, None]


@misconception("conv_transpose2d", "Lets a single channel be broadcast: channels that don't fit are an error, one included.")
def broadcasts_one_input_channel(x, weight, bias=None, **settings):
    channels = max(x.shape[1], weight.shape[0])
    if min(x.shape[1], weight.shape[0]) == 1:
        x, weight = x.expand(-1, channels, -1, -1), weight.expand(channels, -1, -1, -1)
    return reference_conv_transpose2d(x, weight, bias, **settings)


@misconception("conv_transpose2d", "Accepts an output_padding of the stride or more: such a size belongs to another input.")
def accepts_any_output_padding(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    if x.shape[1] != weight.shape[0]:
        raise ValueError("channels")
    more = [max(0, o - s + 1) for o, s in zip(output_padding, stride, strict=True)]
    kept = tuple(o - m for o, m in zip(output_padding, more, strict=True))
    y = reference_conv_transpose2d(x, weight, stride=stride, padding=padding, output_padding=kept)
    y = F.pad(y, (0, more[1], 0, more[0]))
    return y if bias is None else y + bias[:, None, None]


@misconception("conv_transpose2d", "Returns an empty image where nothing is left of the output.")
def returns_nothing(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    y = reference_conv_transpose2d(x, weight, bias, stride=stride, output_padding=output_padding)
    (p_h, p_w), (height, width) = padding, y.shape[2:]
    cut = y[:, :, p_h : max(p_h, height - p_h), p_w : max(p_w, width - p_w)]
    return cut


@misconception("conv_transpose2d", "Squeezes the result: a single image or channel loses its dimension.")
def squeezes_the_stamps(x, weight, bias=None, **settings):
    return reference_conv_transpose2d(x, weight, bias, **settings).squeeze()


# receptive_field


@misconception("receptive_field", "Ignores the strides of earlier layers: an entry further up stands for several of the input.")
def ignores_earlier_strides(layers):
    reference_receptive_field(layers)
    return 1 + sum((k - 1) * d for k, _, d in layers), reference_receptive_field(layers)[1]


@misconception("receptive_field", "Lets a layer's own stride widen its window: it counts only for the layers behind.")
def own_stride_counts(layers):
    reference_receptive_field(layers)
    size, jump = 1, 1
    for k, s, d in layers:
        jump *= s
        size += (k - 1) * d * jump
    return size, jump


@misconception("receptive_field", "Adds the kernel size where it is the kernel size less one.")
def adds_whole_kernels(layers):
    reference_receptive_field(layers)
    size, jump = 1, 1
    for k, s, d in layers:
        size += k * d * jump
        jump *= s
    return size, jump


@misconception("receptive_field", "Leaves dilation out.")
def leaves_dilation_out(layers):
    reference_receptive_field(layers)
    return reference_receptive_field([(k, s, 1) for k, s, _ in layers])


@misconception("receptive_field", "Goes from the output to the input with the formula for the other direction.")
def from_the_wrong_end(layers):
    return reference_receptive_field(list(reversed(layers)))


@misconception("receptive_field", "Adds the strides up: they multiply.")
def adds_strides(layers):
    reference_receptive_field(layers)
    size, jump = 1, 1
    for k, s, d in layers:
        size += (k - 1) * d * jump
        jump += s - 1
    return size, jump


@misconception("receptive_field", "Takes the layers off the list that it was given: the caller's list is empty afterwards.")
def empties_the_list(layers):
    if isinstance(layers, tuple):
        layers = list(layers)
    size, jump = 1, 1
    while layers:
        k, s, d = layers.pop(0)
        if min(k, s, d) < 1:
            raise ValueError("numbers")
        size, jump = size + (k - 1) * d * jump, jump * s
    return size, jump


@misconception("receptive_field", "Computes with floats: beyond 2**53 they skip integers.")
def floats_for_jumps(layers):
    reference_receptive_field(layers)
    size, jump = 1.0, 1.0
    for k, s, d in layers:
        size, jump = size + (k - 1) * d * jump, jump * s
    return int(size), int(jump)


@misconception("receptive_field", "Looks at the last layer's numbers only.")
def checks_the_last_layer(layers):
    if layers and min(layers[-1]) < 1:
        raise ValueError("numbers")
    size, jump = 1, 1
    for k, s, d in layers:
        size, jump = size + (k - 1) * d * jump, jump * s
    return size, jump


@misconception("receptive_field", "Finds nothing to compute in an empty stack: without layers, an output is an entry of the input.")
def nothing_for_no_layers(layers):
    return reference_receptive_field(layers) if layers else (0, 0)


# replace_head


@misconception("replace_head", "Freezes the parameters only: in training mode the batch norms' running statistics still drift.")
def forgets_the_statistics(model, num_classes):
    modes = {module: module.training for module in model.modules()}
    model = reference_replace_head(model, num_classes)
    for module in model.modules():
        module.__dict__.pop("train", None)
        module.training = modes.get(module, module.training)
    return model


@misconception("replace_head", "Switches the batch norms to eval mode once: the next model.train() switches them back.")
def eval_once(model, num_classes):
    model = reference_replace_head(model, num_classes)
    for module in model.modules():
        module.__dict__.pop("train", None)
    return model


@misconception("replace_head", "Turns train() off for the whole model: dropout and head never train.")
def train_does_nothing(model, num_classes):
    model = reference_replace_head(model, num_classes)
    model.train = lambda mode=True: model
    return model


@misconception("replace_head", "Freezes everything after the head was put in: the head can't learn either.")
def freezes_the_head(model, num_classes):
    return reference_replace_head(model, num_classes).requires_grad_(False)


@misconception("replace_head", "Leaves the backbone trainable.")
def freezes_nothing(model, num_classes):
    return reference_replace_head(model, num_classes).requires_grad_(True)


@misconception("replace_head", "Puts a linear layer behind the old head: the features of the backbone are lost in its old classes.")
def appends_a_layer(model, num_classes):
    old = model.fc
    model = reference_replace_head(model, num_classes)
    head = nn.Linear(old.out_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    model.fc = nn.Sequential(old, head)
    return model


@misconception("replace_head", "Assumes 512 features, which is right for resnet18 and wrong for other networks.")
def always_512_features(model, num_classes):
    old = model.fc
    model = reference_replace_head(model, num_classes)
    model.fc = nn.Linear(512, num_classes, device=old.weight.device, dtype=old.weight.dtype).train(old.training)
    return model


@misconception("replace_head", "Freezes the norms' running statistics by momentum 0: in training mode they still normalise by the batch.")
def momentum_of_zero(model, num_classes):
    modes = {module: module.training for module in model.modules()}
    model = reference_replace_head(model, num_classes)
    for module in model.modules():
        module.__dict__.pop("train", None)
        module.training = modes.get(module, module.training)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return model


@misconception("replace_head", "Looks for batch norms among the model's own children: those within blocks are missed.")
def only_direct_children(model, num_classes):
    model = reference_replace_head(model, num_classes)
    for name, module in model.named_modules():
        if "." in name:
            module.__dict__.pop("train", None)
    return model


@misconception("replace_head", "Makes the head in float32 on the CPU, wherever the model is.")
def head_of_the_default_kind(model, num_classes):
    features, mode = model.fc.in_features, model.fc.training
    model = reference_replace_head(model, num_classes)
    model.fc = nn.Linear(features, num_classes).train(mode)
    return model


@misconception("replace_head", "Changes the old head's out_features: the number is only a label, the weight keeps its shape.")
def renames_the_outputs(model, num_classes):
    old = model.fc
    model = reference_replace_head(model, num_classes)
    old.out_features = num_classes
    model.fc = old.requires_grad_(True)
    return model


@misconception("replace_head", "Starts the new head at zero.")
def zero_head(model, num_classes):
    model = reference_replace_head(model, num_classes)
    nn.init.zeros_(model.fc.weight)
    return model


@misconception("replace_head", "Switches the model to its own mode again: parts that were in another one are switched as well.")
def switches_everything(model, num_classes):
    if num_classes < 1:
        raise ValueError("classes")
    model.requires_grad_(False)
    old = model.fc
    model.fc = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    original = model.train

    def train(mode=True):
        original(mode)
        for norm in norms:
            norm.eval()
        return model

    model.train = train
    return model.train(model.training)


@misconception("replace_head", "Freezes before it looks at the number: a call that raises has changed the model.")
def raises_too_late(model, num_classes):
    model.requires_grad_(False)
    return reference_replace_head(model, num_classes)


@misconception("replace_head", "Keeps a head that has as many outputs already: its weights are those of the old task.")
def keeps_a_head_that_fits(model, num_classes):
    old = model.fc
    model = reference_replace_head(model, num_classes)
    if old.out_features == num_classes:
        bias = model.fc.bias if old.bias is None else old.bias
        model.fc.weight, model.fc.bias = old.weight.requires_grad_(), bias.requires_grad_()
    return model


@misconception("replace_head", "Gives the new head the mode of the model, where the old head had another one.")
def head_in_the_mode_of_the_model(model, num_classes):
    mode = model.training
    model = reference_replace_head(model, num_classes)
    model.fc.training = mode
    return model


@misconception("replace_head", "Puts frozen copies in place of the parameters: whoever holds the old ones no longer holds the model's.")
def frozen_copies(model, num_classes):
    model = reference_replace_head(model, num_classes)
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None and not p.requires_grad:
                module._parameters[name] = nn.Parameter(p.detach().clone(), requires_grad=False)
    return model


@misconception("replace_head", "Returns a changed copy: the model that was given is to be changed.")
def changes_a_copy(model, num_classes):
    return reference_replace_head(copy.deepcopy(model), num_classes)


# augment


def _vary(images, labels, padding, seed, transform):
    """Apply transform(image) to each image, with a forked and seeded global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        varied = [transform(image) for image in images]
    return torch.stack(varied) if varied else images.clone(), labels


@misconception("augment", "Gives the whole batch to the transform at once: all images get the same variation.")
def one_draw_for_the_batch(images, labels, *, padding, seed):
    vary = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(images.shape[-2:], padding=padding)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return vary(images).clone(), labels


@misconception("augment", "Seeds for every image anew: all images get the same variation.")
def seeds_for_every_image(images, labels, *, padding, seed):
    parts = [reference_augment(images[i : i + 1], labels, padding=padding, seed=seed)[0] for i in range(len(images))]
    return torch.cat(parts) if parts else images.clone(), labels


@misconception("augment", "Mirrors top to bottom: digits and most objects don't stand on their heads.")
def mirrors_top_to_bottom(images, labels, *, padding, seed):
    vary = v2.Compose([v2.RandomVerticalFlip(), v2.RandomCrop(images.shape[-2:], padding=padding)])
    return _vary(images, labels, padding, seed, vary)


@misconception("augment", "Mirrors every image.")
def mirrors_always(images, labels, *, padding, seed):
    vary = v2.Compose([v2.RandomHorizontalFlip(p=1.0), v2.RandomCrop(images.shape[-2:], padding=padding)])
    return _vary(images, labels, padding, seed, vary)


@misconception("augment", "Seeds the global generator: the caller's own random numbers change.")
def seeds_the_world(images, labels, *, padding, seed):
    vary = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(images.shape[-2:], padding=padding)])
    torch.manual_seed(seed)
    return torch.stack([vary(image) for image in images]) if len(images) else images.clone(), labels


@misconception("augment", "Doesn't use the seed: the same seed gives another result each time.")
def seed_is_ignored(images, labels, *, padding, seed):
    state = torch.get_rng_state()
    seed = int(torch.randint(2**31, ()))
    torch.set_rng_state(state)
    return reference_augment(images, labels, padding=padding, seed=seed)


@misconception("augment", "Draws the shift from 2 · padding places: the last one is never taken.")
def misses_the_last_place(images, labels, *, padding, seed):
    rng, (height, width) = random.Random(seed), images.shape[2:]
    varied = torch.empty_like(images)
    for i, image in enumerate(images):
        padded = F.pad(image.flip(2) if rng.random() < 0.5 else image, [padding] * 4)
        y, x = rng.randrange(max(1, 2 * padding)), rng.randrange(max(1, 2 * padding))
        varied[i] = padded[:, y : y + height, x : x + width]
    return varied, labels


@misconception("augment", "Uses one random number for rows and columns: images only move along the diagonal.")
def moves_along_the_diagonal(images, labels, *, padding, seed):
    rng, (height, width) = random.Random(seed), images.shape[2:]
    varied = torch.empty_like(images)
    for i, image in enumerate(images):
        padded = F.pad(image.flip(2) if rng.random() < 0.5 else image, [padding] * 4)
        k = rng.randrange(2 * padding + 1)
        varied[i] = padded[:, k : k + height, k : k + width]
    return varied, labels


@misconception("augment", "Pads with the border's entries where zeros are asked for.")
def pads_by_repeating(images, labels, *, padding, seed):
    vary = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(images.shape[-2:], padding=padding, padding_mode="edge")])
    return _vary(images, labels, padding, seed, vary)


@misconception("augment", "Rolls the image around: what leaves on one side comes back on the other.")
def rolls_around(images, labels, *, padding, seed):
    rng = random.Random(seed)

    def vary(image):
        image = image.flip(2) if rng.random() < 0.5 else image
        return image.roll((rng.randint(-padding, padding), rng.randint(-padding, padding)), dims=(1, 2))

    return _vary(images, labels, padding, seed, vary)


@misconception("augment", "Shuffles the batch on the way, and the labels stay behind.")
def shuffles_the_images(images, labels, *, padding, seed):
    varied, labels = reference_augment(images, labels, padding=padding, seed=seed)
    return varied[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))], labels


@misconception("augment", "Turns bytes into floats.")
def converts_bytes(images, labels, *, padding, seed):
    varied, labels = reference_augment(images, labels, padding=padding, seed=seed)
    return varied.float(), labels


@misconception("augment", "Writes the variations into the images that it was given.")
def writes_into_the_batch(images, labels, *, padding, seed):
    varied, labels = reference_augment(images, labels, padding=padding, seed=seed)
    return images.copy_(varied), labels


@misconception("augment", "Takes a seed of 0 for none given: then each call gives another result.")
def seed_of_zero_is_none(images, labels, *, padding, seed):
    rng, (height, width) = random.Random(seed or None), images.shape[2:]
    varied = torch.empty_like(images)
    for i, image in enumerate(images):
        padded = F.pad(image.flip(2) if rng.random() < 0.5 else image, [padding] * 4)
        y, x = rng.randint(0, 2 * padding), rng.randint(0, 2 * padding)
        varied[i] = padded[:, y : y + height, x : x + width]
    return varied, labels


@misconception("augment", "Seeds Python's own generator: the caller's random numbers change.")
def seeds_python(images, labels, *, padding, seed):
    random.seed(seed)
    height, width = images.shape[2:]

    def vary(image):
        padded = F.pad(image.flip(2) if random.random() < 0.5 else image, [padding] * 4)
        y, x = random.randint(0, 2 * padding), random.randint(0, 2 * padding)
        return padded[:, y : y + height, x : x + width]

    return torch.stack([vary(image) for image in images]) if len(images) else images.clone(), labels


@misconception("augment", "Returns a view of the images where nothing is cut off: what is written into the result changes the batch.")
def returns_the_batch_itself(images, labels, *, padding, seed):
    varied, labels = reference_augment(images, labels, padding=padding, seed=seed)
    if padding:
        return varied, labels
    images.copy_(varied)
    return images, labels


@misconception("augment", "Squeezes the images: a single channel or image loses its dimension.")
def squeezes_the_batch(images, labels, *, padding, seed):
    varied, labels = reference_augment(images, labels, padding=padding, seed=seed)
    return varied.squeeze(), labels


@misconception("augment", "Views the batch as one long row of images: one that isn't contiguous can't be viewed.")
def views_the_batch(images, labels, *, padding, seed):
    planes = images.view(-1, *images.shape[2:]).view(images.shape)
    return reference_augment(planes, labels, padding=padding, seed=seed)


@misconception("augment", "Shifts by one row and column at most, however much padding there is.")
def shifts_by_one_at_most(images, labels, *, padding, seed):
    rng, (height, width) = random.Random(seed), images.shape[2:]
    most = min(padding, 1)
    varied = torch.empty_like(images)
    for i, image in enumerate(images):
        padded = F.pad(image.flip(2) if rng.random() < 0.5 else image, [padding] * 4)
        y, x = padding + rng.randint(-most, most), padding + rng.randint(-most, most)
        varied[i] = padded[:, y : y + height, x : x + width]
    return varied, labels
