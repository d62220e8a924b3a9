import math, random
import torch
import torch.nn.functional as F
from torch import nn
import torchvision.transforms.v2 as T


def conv_output_size(size, kernel_size, *, stride=1, padding=0, dilation=1):
    for v in (size, kernel_size, stride, dilation):
        if v < 1:
            raise ValueError(v)
    if padding < 0:
        raise ValueError("padding")
    last = size + 2 * padding - 1 - dilation * (kernel_size - 1)
    if last < 0:
        raise ValueError("no fit")
    return 1 + (last - last % stride) // stride


def conv2d(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    N, C, H, W = x.shape
    O, Cg, KH, KW = weight.shape
    if C != Cg * groups or O % groups:
        raise ValueError
    xp = x.new_zeros(N, C, H + 2 * padding[0], W + 2 * padding[1])
    xp[:, :, padding[0] : padding[0] + H, padding[1] : padding[1] + W] = x
    rh, rw = dilation[0] * (KH - 1) + 1, dilation[1] * (KW - 1) + 1
    if rh > xp.shape[2] or rw > xp.shape[3]:
        raise ValueError
    win = xp.unfold(2, rh, stride[0]).unfold(3, rw, stride[1])[..., :: dilation[0], :: dilation[1]]
    Ho, Wo = win.shape[2:4]
    win = win.reshape(N, groups, Cg, Ho, Wo, KH, KW)
    out = torch.tensordot if False else None
    ys = []
    for g in range(groups):
        wg = weight[g * (O // groups) : (g + 1) * (O // groups)]
        ys.append(torch.tensordot(win[:, g], wg, dims=([1, 4, 5], [1, 2, 3])).permute(0, 3, 1, 2))
    y = torch.cat(ys, 1)
    if bias is not None:
        y = y + bias.reshape(1, O, 1, 1)
    return y


def max_pool2d(x, kernel_size, *, stride=None, padding=(0, 0)):
    if stride is None:
        stride = kernel_size
    for k, p, s in zip(kernel_size, padding, x.shape[2:]):
        if p > k // 2 or k > s + 2 * p:
            raise ValueError
    x = F.pad(x, [padding[1]] * 2 + [padding[0]] * 2, value=-float("inf"))
    x = x.unfold(3, kernel_size[1], stride[1]).max(-1)[0]
    return x.unfold(2, kernel_size[0], stride[0]).max(-1)[0]


class BatchNorm2d(nn.Module):
    def __init__(self, num_features, *, eps=1e-5, momentum=0.1):
        super().__init__()
        self.n, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if x.dim() != 4 or x.shape[1] != self.n:
            raise ValueError
        if self.training:
            if x[:, 0].numel() < 2:
                raise ValueError
            m = x.mean([0, 2, 3], keepdim=True)
            v = x.var([0, 2, 3], keepdim=True, unbiased=False)
            with torch.no_grad():
                self.num_batches_tracked += 1
                a = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                k = x[:, 0].numel()
                self.running_mean.mul_(1 - a).add_(a * m.squeeze())
                self.running_var.mul_(1 - a).add_(a * x.var([0, 2, 3]))
        else:
            m, v = self.running_mean[None, :, None, None], self.running_var[None, :, None, None]
        return self.weight[:, None, None] * ((x - m) / (v + self.eps) ** 0.5) + self.bias[:, None, None]


class ResidualBlock(nn.Module):
    def __init__(self, in_channels, out_channels, *, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, stride=stride, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class LeNet(nn.Module):
    def __init__(self, size=(8, 8), *, in_channels=1, num_classes=10):
        super().__init__()
        if size[0] < 4 or size[1] < 4:
            raise ValueError
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=2)
        self.fc1 = nn.Linear(16 * (size[0] // 4) * (size[1] // 4), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x):
        x = nn.MaxPool2d(2)(torch.tanh(self.conv1(x)))
        x = nn.MaxPool2d(2)(torch.tanh(self.conv2(x)))
        x = torch.tanh(self.fc1(nn.Flatten()(x)))
        return self.fc3(torch.tanh(self.fc2(x)))

    def fit(self, images, labels, *, seed):
        g = torch.Generator().manual_seed(seed)
        data = torch.utils.data.TensorDataset(images, labels)
        loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, generator=g)
        opt = torch.optim.Adam(self.parameters(), lr=3e-3)
        lossf = nn.CrossEntropyLoss()
        for epoch in range(15):
            for x, y in loader:
                opt.zero_grad()
                lossf(self(x), y).backward()
                opt.step()


def fold_batchnorm(conv, bn):
    if not bn.track_running_stats or bn.num_features != conv.out_channels:
        raise ValueError
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        True,
        conv.padding_mode,
        dtype=conv.weight.dtype,
    )
    with torch.no_grad():
        std = (bn.running_var + bn.eps).sqrt()
        w = bn.weight if bn.affine else torch.ones_like(std)
        b = bn.bias if bn.affine else torch.zeros_like(std)
        cb = conv.bias if conv.bias is not None else 0
        new.weight.copy_(conv.weight * (w / std).view(-1, 1, 1, 1))
        new.bias.copy_((cb - bn.running_mean) / std * w + b)
    return new


def depthwise_separable(in_channels, out_channels, kernel_size, *, stride=1, padding=0, multiplier=1, bias=True):
    if multiplier < 1:
        raise ValueError
    m = in_channels * multiplier
    return nn.Sequential(
        nn.Conv2d(in_channels, m, kernel_size, stride=stride, padding=padding, groups=in_channels, bias=False),
        nn.Conv2d(m, out_channels, 1, bias=bias),
    )


def conv_transpose2d(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0), output_padding=(0, 0)):
    N, C, H, W = x.shape
    if weight.shape[0] != C or output_padding[0] >= stride[0] or output_padding[1] >= stride[1]:
        raise ValueError
    _, O, KH, KW = weight.shape
    hc = (H - 1) * stride[0] + KH + output_padding[0]
    wc = (W - 1) * stride[1] + KW + output_padding[1]
    if hc - 2 * padding[0] < 1 or wc - 2 * padding[1] < 1:
        raise ValueError
    canvas = torch.zeros(N, O, hc, wc, dtype=x.dtype)
    for i in range(H):
        for j in range(W):
            canvas[:, :, i * stride[0] : i * stride[0] + KH, j * stride[1] : j * stride[1] + KW] += torch.einsum(
                "nc,couv->nouv", x[:, :, i, j], weight
            )
    y = canvas[:, :, padding[0] : hc - padding[0], padding[1] : wc - padding[1]]
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def receptive_field(layers):
    size, jump = 1, 1
    for k, s, d in layers:
        if k < 1 or s < 1 or d < 1:
            raise ValueError
        size = size + (k - 1) * d * jump
        jump = jump * s
    return size, jump


def replace_head(model, num_classes):
    if num_classes < 1:
        raise ValueError
    for p in model.parameters():
        p.requires_grad_(False)
    old = model.fc
    model.fc = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    model.fc.train(old.training)
    cls = type(model)

    class Frozen(cls):
        def train(self, mode=True):
            super().train(mode)
            for m in self.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.eval()
            return self

    model.__class__ = Frozen
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    return model


def augment(images, labels, *, padding, seed):
    N, C, H, W = images.shape
    g = torch.Generator().manual_seed(seed)
    out = torch.zeros_like(images)
    for n in range(N):
        im = images[n]
        if torch.rand((), generator=g) < 0.5:
            im = im.flip(-1)
        im = F.pad(im, (padding,) * 4)
        i, j = torch.randint(0, 2 * padding + 1, (2,), generator=g).tolist()
        out[n] = im[:, i : i + H, j : j + W]
    return out, labels
