"""Other correct answers to the tasks of cnn: the hidden suite must accept every one."""

import copy
import itertools
import math
import random
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from grader.testing import alternative

# conv_output_size


@alternative("conv_output_size")
def by_rounding_up(size, kernel_size, *, stride=1, padding=0, dilation=1):
    reach = dilation * (kernel_size - 1) + 1
    places = size + 2 * padding - reach + 1
    if size < 1 or kernel_size < 1 or stride < 1 or dilation < 1 or padding < 0 or places < 1:
        raise ValueError("no places")
    return -(-places // stride)


@alternative("conv_output_size")
def by_counting(size, kernel_size, *, stride=1, padding=0, dilation=1):
    if any(number <= 0 for number in (size, kernel_size, stride, dilation)) or padding < 0:
        raise ValueError("numbers")
    end = size + 2 * padding - dilation * (kernel_size - 1)
    if end <= 0:
        raise ValueError("does not fit")
    quotient, rest = divmod(end, stride)
    return quotient + (rest > 0)


# conv2d


def _sizes(x, weight, stride, padding, dilation):
    """Output sizes, or a ValueError."""
    sizes = []
    for size, k, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        if room < 0:
            raise ValueError("the kernel is larger than the padded input")
        sizes.append(room // s + 1)
    return sizes


@alternative("conv2d")
def sum_over_the_kernel(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups != 0:
        raise ValueError("channels")
    rows, columns = _sizes(x, weight, stride, padding, dilation)
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    parts = []
    for part, kernel in zip(padded.chunk(groups, 1), weight.chunk(groups, 0), strict=True):
        y = 0
        for u, v in itertools.product(range(kernel.shape[2]), range(kernel.shape[3])):
            top, left = u * dilation[0], v * dilation[1]
            window = part[:, :, top : top + (rows - 1) * stride[0] + 1 : stride[0], left : left + (columns - 1) * stride[1] + 1 : stride[1]]
            y = y + torch.einsum("nchw,oc->nohw", window, kernel[:, :, u, v])
        parts.append(y)
    y = torch.cat(parts, 1)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


@alternative("conv2d")
def with_as_strided_in_double(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    n, channels = x.shape[:2]
    outputs, part, k_h, k_w = weight.shape
    if channels != part * groups or outputs % groups:
        raise ValueError("channels")
    rows, columns = _sizes(x, weight, stride, padding, dilation)
    padded = F.pad(x.double(), (padding[1], padding[1], padding[0], padding[0])).contiguous()
    s_n, s_c, s_h, s_w = padded.stride()
    shape = (n, groups, part, rows, columns, k_h, k_w)
    steps = (s_n, s_c * part, s_c, s_h * stride[0], s_w * stride[1], s_h * dilation[0], s_w * dilation[1])
    windows = padded.as_strided(shape, steps)
    kernels = weight.double().reshape(groups, outputs // groups, part, k_h, k_w)
    y = torch.einsum("ngchwuv,gocuv->ngohw", windows, kernels).flatten(1, 2)
    if bias is not None:
        y = y + bias.double().reshape(-1, 1, 1)
    return y.to(x.dtype)


@alternative("conv2d")
def by_the_recipe_of_unfold(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """Unfold, matmul, fold: the long way round, a group at a time."""
    if x.size(1) != weight.size(1) * groups or weight.size(0) % groups != 0:
        raise ValueError("channels")
    size, kernel = _sizes(x, weight, stride, padding, dilation), weight.shape[-2:]
    results = []
    for part, w in zip(x.chunk(groups, dim=1), weight.chunk(groups), strict=True):
        columns = F.unfold(part, kernel, dilation, padding, stride).transpose(1, 2)
        y = columns.matmul(w.reshape(w.size(0), -1).t()).transpose(1, 2)
        results.append(F.fold(y, size, (1, 1)) if len(x) else y.reshape(0, w.size(0), *size))
    y = torch.cat(results, dim=1)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


@alternative("conv2d")
def one_place_after_another(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    outputs, part, k_h, k_w = weight.shape
    if x.shape[1] != part * groups or outputs % groups:
        raise ValueError("channels")
    rows, columns = _sizes(x, weight, stride, padding, dilation)
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0])).unflatten(1, (groups, part))
    kernels = weight.unflatten(0, (groups, outputs // groups))
    y = x.new_empty(len(x), outputs, rows, columns)
    for i, j in itertools.product(range(rows), range(columns)):
        top, left = i * stride[0], j * stride[1]
        window = padded[..., top : top + dilation[0] * (k_h - 1) + 1 : dilation[0], left : left + dilation[1] * (k_w - 1) + 1 : dilation[1]]
        y[:, :, i, j] = (window[:, :, None] * kernels).sum(dim=(3, 4, 5)).flatten(1)
        if bias is not None:
            y[:, :, i, j] += bias
    return y


# max_pool2d


def _pooled_sizes(x, kernel_size, stride, padding):
    if any(2 * p > k for k, p in zip(kernel_size, padding, strict=True)):
        raise ValueError("padding")
    if any(k > size + 2 * p for size, k, p in zip(x.shape[2:], kernel_size, padding, strict=True)):
        raise ValueError("kernel")
    return [(size + 2 * p - k) // s + 1 for size, k, s, p in zip(x.shape[2:], kernel_size, stride, padding, strict=True)]


@alternative("max_pool2d")
def maximum_of_shifted_slices(x, kernel_size, *, stride=None, padding=(0, 0)):
    stride = stride or kernel_size
    rows, columns = _pooled_sizes(x, kernel_size, stride, padding)
    n, c, height, width = x.shape
    padded = torch.full((n, c, height + 2 * padding[0], width + 2 * padding[1]), -math.inf, dtype=x.dtype)
    padded[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    best = None
    for u, v in itertools.product(range(kernel_size[0]), range(kernel_size[1])):
        part = padded[:, :, u : u + (rows - 1) * stride[0] + 1 : stride[0], v : v + (columns - 1) * stride[1] + 1 : stride[1]]
        best = part if best is None else torch.maximum(best, part)
    return best


@alternative("max_pool2d")
def through_unfolded_columns(x, kernel_size, *, stride=None, padding=(0, 0)):
    stride = kernel_size if stride is None else stride
    rows, columns = _pooled_sizes(x, kernel_size, stride, padding)
    n, c = x.shape[:2]
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), "constant", float("-inf"))
    windows = F.unfold(padded, kernel_size, stride=stride).reshape(n, c, kernel_size[0] * kernel_size[1], rows * columns)
    return windows.max(dim=2).values.reshape(n, c, rows, columns)


@alternative("max_pool2d")
def window_by_window(x, kernel_size, *, stride=None, padding=(0, 0)):
    stride = stride or kernel_size
    rows, columns = _pooled_sizes(x, kernel_size, stride, padding)
    lines = []
    for i in range(rows):
        top = i * stride[0] - padding[0]
        line = []
        for j in range(columns):
            left = j * stride[1] - padding[1]
            line.append(x[:, :, max(0, top) : top + kernel_size[0], max(0, left) : left + kernel_size[1]].amax((2, 3)))
        lines.append(torch.stack(line, -1))
    return torch.stack(lines, -2)


@alternative("max_pool2d")
def channels_as_images(x, kernel_size, *, stride=None, padding=(0, 0)):
    """The im2col way: one column for each window, the largest of each by its index."""
    if stride is None:
        stride = kernel_size
    rows, columns = _pooled_sizes(x, kernel_size, stride, padding)
    n, c, height, width = x.shape
    if n == 0:
        return x.new_empty(0, c, rows, columns)
    images = x.reshape(n * c, 1, height, width)
    images = F.pad(images, (padding[1], padding[1], padding[0], padding[0]), value=-math.inf)
    windows = F.unfold(images, kernel_size, stride=stride)
    best = windows.argmax(dim=1, keepdim=True)
    return windows.gather(1, best).reshape(n, c, rows, columns)


# BatchNorm2d


@alternative("BatchNorm2d")
class WithVarMean(nn.Module):
    def __init__(self, num_features, *, eps=1e-5, momentum=0.1):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.register_parameter("weight", nn.Parameter(torch.ones(num_features)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_features)))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))

    def forward(self, x):
        if x.dim() != 4 or x.size(1) != self.num_features:
            raise ValueError("shape")
        if not self.training:
            var, mean = self.running_var.view(1, -1, 1, 1), self.running_mean.view(1, -1, 1, 1)
        else:
            n = x.size(0) * x.size(2) * x.size(3)
            if n <= 1:
                raise ValueError("one value")
            var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                a = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.copy_((1 - a) * self.running_mean + a * mean.flatten())
                self.running_var.copy_((1 - a) * self.running_var + a * var.flatten() * (n / (n - 1)))
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


@alternative("BatchNorm2d")
class ChannelsAsRows(nn.Module):
    def __init__(self, num_features, *, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(num_features)), nn.Parameter(torch.zeros(num_features))
        for name, start in (("running_mean", torch.zeros), ("running_var", torch.ones)):
            self.register_buffer(name, start(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x):
        if x.ndim != 4 or x.shape[1] != self.weight.numel():
            raise ValueError("shape")
        rows = x.transpose(0, 1).flatten(1)  # (C, N · H · W)
        if self.training:
            if rows.shape[1] < 2:
                raise ValueError("one value")
            mean = rows.double().mean(1).to(x.dtype)
            centred = rows - mean[:, None]
            biased = (centred**2).sum(1) / rows.shape[1]
            unbiased = (centred.detach() ** 2).sum(1) / (rows.shape[1] - 1)
            self.num_batches_tracked = self.num_batches_tracked + 1
            a = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean = self.running_mean + a * (mean.detach() - self.running_mean)
            self.running_var = self.running_var + a * (unbiased - self.running_var)
        else:
            centred, biased = rows - self.running_mean[:, None], self.running_var
        y = centred * (self.weight * (biased + self.eps) ** -0.5)[:, None] + self.bias[:, None]
        return y.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1)


def _batch_norm(x, gamma, beta, moving_mean, moving_var, eps, a):
    """A functional core: gives the result and the new averages; a is None in eval mode."""
    if a is None:
        x_hat = (x - moving_mean[:, None, None]) / (moving_var[:, None, None] + eps) ** 0.5
    else:
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        var = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        x_hat = (x - mean) / torch.sqrt(var + eps)
        n = x.numel() / x.size(1)
        moving_mean = (1.0 - a) * moving_mean + a * mean.detach().flatten()
        moving_var = (1.0 - a) * moving_var + a * var.detach().flatten() * n / (n - 1)
    return gamma[:, None, None] * x_hat + beta[:, None, None], moving_mean, moving_var


@alternative("BatchNorm2d")
class WithMovingAverages(nn.Module):
    def __init__(self, num_features, *, eps=1e-5, momentum=0.1):
        super().__init__()
        self.shape, self.eps, self.momentum = (num_features,), eps, momentum
        self.weight = nn.Parameter(torch.ones(self.shape))
        self.bias = nn.Parameter(torch.zeros(self.shape))
        self.register_buffer("running_mean", torch.zeros(self.shape))
        self.register_buffer("running_var", torch.ones(self.shape))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x):
        if len(x.shape) != 4 or x.shape[1:2] != self.shape:
            raise ValueError(f"can't normalise {tuple(x.shape)}")
        a = None
        if self.training:
            if x.shape[0] * x.shape[2] * x.shape[3] < 2:
                raise ValueError("too few values")
            self.num_batches_tracked.add_(1)
            a = 1.0 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        y, self.running_mean, self.running_var = _batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps, a)
        return y


# ResidualBlock


@alternative("ResidualBlock")
class WithIdentityModule(nn.Module):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding="same" if stride == 1 else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding="same", bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        if in_channels == out_channels and stride == 1:
            self.shortcut = nn.Identity()
        else:
            projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


@alternative("ResidualBlock")
class SubsamplesFirst(nn.Module):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.project = stride, stride != 1 or in_channels != out_channels
        if self.project:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x):
        residual = self.shortcut(x[:, :, :: self.stride, :: self.stride]) if self.project else x
        h = self.bn1(self.conv1(x)).clamp(min=0)
        return (residual + self.bn2(self.conv2(h))).clamp(min=0)


# LeNet


class _Layers(nn.Module):
    def __init__(self, size=(8, 8), *, in_channels=1, num_classes=10):
        super().__init__()
        if min(size) < 4:
            raise ValueError("too small")
        area = (size[0] // 2 // 2) * (size[1] // 2 // 2)
        self.conv1, self.conv2 = nn.Conv2d(in_channels, 6, 5, padding=2), nn.Conv2d(6, 16, 5, padding="same")
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * area, 120), nn.Linear(120, 84), nn.Linear(84, num_classes)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = self.pool(conv(x)).tanh()  # tanh is monotone: the largest stays the largest
        x = x.reshape(len(x), -1)
        for layer in (self.fc1, self.fc2):
            x = layer(x).tanh()
        return self.fc3(x)


@alternative("LeNet")
class PlainAdam(_Layers):
    def fit(self, images, labels, *, seed):
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5, eta_min=1e-4)
        data = torch.utils.data.TensorDataset(images, labels)
        for _ in range(5):
            order = torch.randperm(len(data), generator=generator)
            for i in range(0, len(data), 64):
                x, y = data[order[i : i + 64]]
                loss = F.cross_entropy(self(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()


@alternative("LeNet")
class MomentumAndPythonShuffle(_Layers):
    def fit(self, images, labels, *, seed):
        rng, order = random.Random(seed), list(range(len(images)))
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9, nesterov=True, fused=True)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
        for _ in range(5):
            rng.shuffle(order)
            for batch in torch.tensor(order).split(64):
                optimizer.zero_grad()
                F.cross_entropy(self(images[batch]), labels[batch]).backward()
                nn.utils.clip_grad_norm_(self.parameters(), 2.0)
                optimizer.step()
            scheduler.step()


@alternative("LeNet")
class WithADataLoader(_Layers):
    def fit(self, images, labels, *, seed):
        data = torch.utils.data.TensorDataset(images, labels)
        loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(seed))
        criterion = nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        before = {module: module.training for module in self.modules()}
        self.train()
        for _ in range(8):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(self(inputs), targets)
                loss.backward()
                optimizer.step()
        for module, mode in before.items():
            module.training = mode


# fold_batchnorm


@alternative("fold_batchnorm")
def into_a_new_convolution(conv, bn):
    if bn.running_mean is None or bn.running_var is None or bn.running_var.numel() != conv.weight.shape[0]:
        raise ValueError("norm")
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=True,
        padding_mode=conv.padding_mode,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    gamma = torch.ones_like(bn.running_var) if bn.weight is None else bn.weight.detach()
    beta = torch.zeros_like(bn.running_var) if bn.bias is None else bn.bias.detach()
    old_bias = torch.zeros_like(bn.running_var) if conv.bias is None else conv.bias.detach()
    factor = gamma / torch.sqrt(bn.running_var + bn.eps)
    new.weight.data = torch.einsum("o,ocuv->ocuv", factor, conv.weight.detach())
    new.bias.data = (old_bias - bn.running_mean) * factor + beta
    return new


@alternative("fold_batchnorm")
def by_asking_the_norm(conv, bn):
    if bn.num_features != conv.out_channels or not bn.track_running_stats:
        raise ValueError("norm")
    folded, norm = copy.deepcopy(conv), copy.deepcopy(bn).eval()
    with torch.no_grad():
        bias = torch.zeros(1, bn.num_features, dtype=conv.weight.dtype) if conv.bias is None else conv.bias[None]
        shift = norm(torch.zeros_like(bias)[..., None, None])
        factor = norm(torch.ones_like(bias)[..., None, None]) - shift
        folded.weight = nn.Parameter(conv.weight * factor.transpose(0, 1))
        folded.bias = nn.Parameter(norm(bias[..., None, None]).flatten())
    return folded


@alternative("fold_batchnorm")
def by_a_diagonal_matrix(conv, bn):
    """The weight as a matrix, from the left times the factors on a diagonal."""
    if bn.running_mean is None or bn.num_features != conv.out_channels:
        raise ValueError("norm")
    settings = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}
    fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, bias=True, **settings).to(conv.weight)
    with torch.no_grad():
        gamma = bn.weight if bn.affine else torch.ones_like(bn.running_var)
        diagonal = torch.diag(gamma.div(torch.sqrt(bn.eps + bn.running_var)))
        fused.weight.copy_(torch.mm(diagonal, conv.weight.reshape(conv.out_channels, -1)).reshape(fused.weight.shape))
        bias = torch.zeros_like(bn.running_mean) if conv.bias is None else conv.bias
        shifted = torch.mm(diagonal, (bias - bn.running_mean).reshape(-1, 1)).flatten()
        fused.bias.copy_(shifted if bn.bias is None else shifted + bn.bias)
    return fused


# depthwise_separable


@alternative("depthwise_separable")
def appended_one_by_one(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    if multiplier <= 0:
        raise ValueError("multiplier")
    model = nn.Sequential()
    model.append(
        nn.Conv2d(
            in_channels=in_channels,
            out_channels=multiplier * in_channels,
            kernel_size=(kernel_size, kernel_size),
            stride=(stride, stride),
            padding=(padding, padding),
            groups=in_channels,
            bias=False,
        )
    )
    model.append(nn.Conv2d(multiplier * in_channels, out_channels, kernel_size=(1, 1), bias=bias))
    return model


@alternative("depthwise_separable")
def positional_with_one_group_a_channel(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    if multiplier < 1:
        raise ValueError("multiplier")
    depthwise = nn.Conv2d(in_channels, in_channels * multiplier, kernel_size, stride, padding, 1, in_channels, False)
    return nn.Sequential(OrderedDict([("0", depthwise), ("1", nn.Conv2d(depthwise.out_channels, out_channels, 1, 1, 0, 1, 1, bias))]))


class _TwoConvolutions(nn.Sequential):
    def __init__(self, in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
        if not multiplier >= 1:
            raise ValueError("multiplier")
        mid = in_channels * multiplier
        super().__init__(
            nn.Conv2d(in_channels, mid, kernel_size, stride=stride, padding=padding, groups=in_channels, bias=False),
            nn.Conv2d(mid, out_channels, kernel_size=1, bias=bias),
        )


@alternative("depthwise_separable")
def of_a_class_of_its_own(*sizes, **settings):
    return _TwoConvolutions(*sizes, **settings)


# conv_transpose2d


def _transposed_sizes(x, weight, stride, padding, output_padding):
    if x.shape[1] != weight.shape[0] or any(o >= s for o, s in zip(output_padding, stride, strict=True)):
        raise ValueError("channels or output_padding")
    pairs = zip(x.shape[2:], weight.shape[2:], stride, padding, output_padding, strict=True)
    sizes = [(size - 1) * s + k + o - 2 * p for size, k, s, p, o in pairs]
    if min(sizes) < 1:
        raise ValueError("nothing left")
    return sizes


@alternative("conv_transpose2d")
def slices_of_a_canvas(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    rows, columns = _transposed_sizes(x, weight, stride, padding, output_padding)
    canvas = x.new_zeros(len(x), weight.shape[1], rows + 2 * padding[0], columns + 2 * padding[1])
    for u, v in itertools.product(range(weight.shape[2]), range(weight.shape[3])):
        down = slice(u, u + (x.shape[2] - 1) * stride[0] + 1, stride[0])
        across = slice(v, v + (x.shape[3] - 1) * stride[1] + 1, stride[1])
        canvas[:, :, down, across] += torch.einsum("nchw,co->nohw", x, weight[:, :, u, v])
    y = canvas[:, :, padding[0] : padding[0] + rows, padding[1] : padding[1] + columns]
    return y if bias is None else y + bias[:, None, None]


@alternative("conv_transpose2d")
def windows_of_the_stretched_input(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    rows, columns = _transposed_sizes(x, weight, stride, padding, output_padding)
    (n, c, height, width), (k_h, k_w) = x.shape, weight.shape[2:]
    stretched = x.new_zeros(n, c, rows + 2 * padding[0] + k_h - 1, columns + 2 * padding[1] + k_w - 1)
    down = slice(k_h - 1, k_h - 1 + (height - 1) * stride[0] + 1, stride[0])
    across = slice(k_w - 1, k_w - 1 + (width - 1) * stride[1] + 1, stride[1])
    stretched[:, :, down, across] = x
    windows = stretched.unfold(2, k_h, 1).unfold(3, k_w, 1)
    y = torch.einsum("nchwuv,couv->nohw", windows, weight.flip(2, 3))
    y = y[:, :, padding[0] : padding[0] + rows, padding[1] : padding[1] + columns]
    return y if bias is None else y + bias.view(-1, 1, 1)


@alternative("conv_transpose2d")
def gradient_of_unfold(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    rows, columns = _transposed_sizes(x, weight, stride, padding, output_padding)
    stamps = weight.flatten(1).t() @ x.flatten(2)  # (N, O · K_H · K_W, H · W)
    with torch.enable_grad():
        image = torch.zeros(len(x), weight.shape[1], rows, columns, dtype=x.dtype, requires_grad=True)
        unfolded = F.unfold(image, tuple(weight.shape[2:]), padding=padding, stride=stride)
    (y,) = torch.autograd.grad(unfolded, image, stamps, create_graph=True)
    y = y if stamps.requires_grad else y.detach()
    return y if bias is None else y + bias[:, None, None]


@alternative("conv_transpose2d")
def stamp_by_stamp(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    rows, columns = _transposed_sizes(x, weight, stride, padding, output_padding)
    n, _, height, width = x.shape
    outputs, k_h, k_w = weight.shape[1:]
    canvas = x.new_zeros(n, outputs, (height - 1) * stride[0] + k_h + output_padding[0], (width - 1) * stride[1] + k_w + output_padding[1])
    for i, j in itertools.product(range(height), range(width)):
        stamp = torch.tensordot(x[:, :, i, j], weight, dims=1)  # (N, O, K_H, K_W)
        canvas[:, :, i * stride[0] : i * stride[0] + k_h, j * stride[1] : j * stride[1] + k_w] += stamp
    y = canvas.narrow(2, padding[0], rows).narrow(3, padding[1], columns)
    return y if bias is None else y + bias.reshape(1, outputs, 1, 1)


# receptive_field


@alternative("receptive_field")
def from_output_to_input(layers):
    if any(number < 1 for layer in layers for number in layer):
        raise ValueError("numbers below 1")
    size = 1
    for k, s, d in reversed(layers):
        size = (size - 1) * s + (k - 1) * d + 1
    return size, math.prod(layer[1] for layer in layers)


@alternative("receptive_field")
def by_following_two_outputs(layers):
    low, high, neighbour = 0, 0, 1
    for k, s, d in list(layers)[::-1]:
        if k < 1 or s < 1 or d < 1:
            raise ValueError("numbers below 1")
        low, high, neighbour = low * s, high * s + (k - 1) * d, neighbour * s
    return high - low + 1, neighbour


@alternative("receptive_field")
def by_the_sum_of_the_article(layers):
    for layer in layers:
        if min(layer) < 1:
            raise ValueError(f"{layer}")
    kernels, strides, dilations = zip(*layers, strict=True) if layers else ((), (), ())
    terms = [(k - 1) * d * math.prod(strides[:i]) for i, (k, d) in enumerate(zip(kernels, dilations, strict=True))]
    return 1 + sum(terms), math.prod(strides)


# replace_head


@alternative("replace_head")
def with_a_train_of_the_model(model, num_classes):
    if num_classes <= 0:
        raise ValueError("classes")
    old = model.fc
    head = nn.Linear(old.in_features, num_classes).to(old.weight)
    model.fc = head.train(old.training)
    for p in model.parameters():
        p.requires_grad = any(p is q for q in head.parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    original = model.train

    def train(mode=True):
        original(mode)
        for norm in norms:
            norm.eval()
        return model

    model.train = train
    for norm in norms:
        norm.eval()
    return model


class _FrozenNorm(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


@alternative("replace_head")
def with_another_class(model, num_classes):
    if num_classes < 1:
        raise ValueError("classes")
    model.requires_grad_(False)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _FrozenNorm
            module.train()
    old = model.fc
    model.fc = nn.Linear(old.in_features, num_classes, dtype=old.weight.dtype, device=old.weight.device)
    model.fc.training = old.training
    return model


@alternative("replace_head")
def with_a_subclass_of_the_model(model, num_classes):
    if num_classes < 1:
        raise ValueError("classes")

    class WithFrozenNorms(type(model)):
        def train(self, mode=True):
            super().train(mode)
            self.apply(lambda module: setattr(module, "training", False) if isinstance(module, nn.BatchNorm2d) else None)
            return self

    for p in model.parameters():
        p.requires_grad_(False)
    mode, weight = model.fc.training, model.fc.weight
    model.fc = nn.Linear(model.fc.in_features, num_classes).to(device=weight.device, dtype=weight.dtype)
    model.fc.train(mode)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model.__class__ = WithFrozenNorms
    return model


# augment


@alternative("augment")
def by_indexing(images, labels, *, padding, seed):
    n, c, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    mirrored = torch.rand(n, generator=generator) < 0.5
    top, left = torch.randint(2 * padding + 1, (2, n), generator=generator)
    flipped = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = F.pad(flipped, [padding] * 4)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(c)[None, :, None, None], rows, columns], labels.clone()


@alternative("augment")
def with_python_random(images, labels, *, padding, seed):
    rng, (height, width) = random.Random(seed), images.shape[2:]
    varied = images.clone()
    for i in range(len(images)):
        image = v2.functional.horizontal_flip(images[i]) if rng.random() < 0.5 else images[i]
        image = v2.functional.pad(image, [padding] * 4)
        varied[i] = v2.functional.crop(image, rng.randint(0, 2 * padding), rng.randint(0, 2 * padding), height, width)
    return varied, labels


@alternative("augment")
def crops_before_it_mirrors(images, labels, *, padding, seed):
    crop, mirror = v2.RandomCrop(tuple(images.shape[2:]), padding=padding), v2.RandomHorizontalFlip(0.5)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        varied = [mirror(crop(image)) for image in images]
    finally:
        torch.set_rng_state(state)
    return torch.stack(varied) if varied else torch.empty_like(images), labels


@alternative("augment")
def by_windows(images, labels, *, padding, seed):
    n, _, height, width = images.shape
    g = torch.Generator()
    g.manual_seed(seed)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # (N, C, places, places, H, W)
    down, across = (torch.randint(0, 2 * padding + 1, (n,), generator=g) for _ in range(2))
    cut = windows[torch.arange(n), :, down, across].clone()
    mirrored = torch.randint(0, 2, (n,), generator=g).bool()
    cut[mirrored] = cut[mirrored].flip(-1)
    return cut, labels


@alternative("augment")
def shift_by_shift(images, labels, *, padding, seed):
    """All images with the same shift at once."""
    g = torch.Generator().manual_seed(seed)
    flip = torch.rand(len(images), generator=g) < 0.5
    shifts = torch.randint(-padding, padding + 1, (2, len(images)), generator=g)
    padded = F.pad(torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images), (padding, padding, padding, padding))
    varied = torch.empty(images.shape, dtype=images.dtype)
    height, width = images.shape[-2:]
    for dy, dx in itertools.product(range(-padding, padding + 1), repeat=2):
        chosen = (shifts[0] == dy) & (shifts[1] == dx)
        varied[chosen] = padded[chosen, :, padding + dy : padding + dy + height, padding + dx : padding + dx + width]
    return varied, labels
