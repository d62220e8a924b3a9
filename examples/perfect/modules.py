import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    def __init__(self, in_features, out_features, *, bias=True, device=None, dtype=None):
        super().__init__()
        k = in_features**-0.5
        w = torch.rand((out_features, in_features), device=device, dtype=dtype) * 2 * k - k
        self.weight = nn.Parameter(w)
        self.bias = None
        if bias:
            self.bias = nn.Parameter(torch.rand((out_features,), device=device, dtype=dtype) * 2 * k - k)

    def forward(self, x):
        out = torch.matmul(x, self.weight.transpose(0, 1))
        if self.bias is not None:
            out += self.bias
        return out


class Sequential(nn.Module):
    def __init__(self, *modules):
        super().__init__()
        self._n = 0
        for m in modules:
            self.append(m)

    def forward(self, x):
        for i in range(len(self)):
            x = self[i](x)
        return x

    def __len__(self):
        return self._n

    def __getitem__(self, index):
        if index < 0:
            index += self._n
        if index < 0 or index >= self._n:
            raise IndexError("out of range")
        return getattr(self, str(index))

    def append(self, module):
        if not isinstance(module, nn.Module):
            raise TypeError("need a module")
        self.add_module(str(self._n), module)
        self._n += 1
        return self


class MLP(nn.Module):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__()
        if len(sizes) < 2:
            raise ValueError
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        self.act = activation

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


class Dropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError("p")
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return x * 0
        keep = torch.bernoulli(torch.full(x.shape, 1 - self.p)).to(x.dtype)
        return x * keep / (1 - self.p)


class LayerNorm(nn.Module):
    def __init__(self, normalized_shape, eps=1e-5, *, elementwise_affine=True):
        super().__init__()
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        self.normalized_shape = tuple(normalized_shape)
        self.eps = eps
        if elementwise_affine:
            self.weight = nn.Parameter(torch.ones(self.normalized_shape))
            self.bias = nn.Parameter(torch.zeros(self.normalized_shape))
        else:
            self.weight = None
            self.bias = None

    def forward(self, x):
        k = len(self.normalized_shape)
        if tuple(x.shape[-k:]) != self.normalized_shape:
            raise ValueError("shape")
        dtype = x.dtype
        if dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        flat = x.flatten(-k)
        mu = flat.mean(-1, keepdim=True)
        var = flat.var(-1, unbiased=False, keepdim=True)
        y = ((flat - mu) / torch.sqrt(var + self.eps)).view(x.shape)
        if self.weight is not None:
            y = y * self.weight + self.bias
        return y.to(dtype)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.dim = dim
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        if x.shape[-1] != self.dim:
            raise ValueError
        h = x.float() if x.dtype.itemsize == 2 else x
        ms = (h**2).mean(-1, keepdim=True)
        return (h / torch.sqrt(ms + self.eps) * self.weight).to(x.dtype)


class Embedding(nn.Module):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__()
        self.n = num_embeddings
        self.weight = nn.Parameter(torch.randn(num_embeddings, embedding_dim))
        self.padding_idx = padding_idx
        if padding_idx is not None:
            if padding_idx < -self.n or padding_idx >= self.n:
                raise ValueError
            if padding_idx < 0:
                self.padding_idx = padding_idx + self.n
            self.weight.data[self.padding_idx] = 0

    def forward(self, indices):
        if indices.numel() > 0 and (int(indices.min()) < 0 or int(indices.max()) >= self.n):
            raise IndexError
        w = self.weight
        if self.padding_idx is not None:
            w = torch.cat([w[: self.padding_idx], w[self.padding_idx][None].detach(), w[self.padding_idx + 1 :]])
        return w[indices]


def kaiming_init_(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    if weight.ndim < 2:
        raise ValueError
    k = 1
    for s in weight.shape[2:]:
        k *= s
    if mode == "fan_in":
        fan = weight.size(1) * k
    elif mode == "fan_out":
        fan = weight.size(0) * k
    else:
        raise ValueError(mode)
    if nonlinearity == "linear":
        gain = 1.0
    elif nonlinearity == "tanh":
        gain = 5 / 3
    elif nonlinearity == "relu":
        gain = math.sqrt(2)
    elif nonlinearity == "leaky_relu":
        gain = math.sqrt(2 / (1 + a**2))
    else:
        raise ValueError(nonlinearity)
    std = gain / math.sqrt(fan)
    if distribution == "normal":
        weight.data.normal_(0, std, generator=generator)
    elif distribution == "uniform":
        b = math.sqrt(3) * std
        weight.data.uniform_(-b, b, generator=generator)
    else:
        raise ValueError(distribution)
    return weight


class LinearRegression(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(0.0, dtype=dtype))

    def forward(self, x):
        return x @ self.weight + self.bias

    def fit(self, x, y):
        if y.ndim != 1 or y.shape[0] != x.shape[0]:
            raise ValueError
        mu, sd = x.mean(0), x.std(0)
        z = (x - mu) / sd
        with torch.no_grad():
            self.weight.zero_()
            self.bias.fill_(y.mean())
            for _ in range(2000):
                error = self(z) - y
                self.weight -= 0.2 * (error @ z) / len(y)
                self.bias -= 0.2 * error.mean()
        with torch.no_grad():
            self.weight /= sd
            self.bias -= (self.weight * mu).sum()
            return ((self(x) - y) ** 2).mean().item()


class LogisticRegression(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(0.0, dtype=dtype))

    def forward(self, x):
        return (x @ self.weight[:, None]).squeeze(1) + self.bias

    def probabilities(self, x):
        return torch.sigmoid(self(x))

    def predict(self, x):
        return (self(x) > 0).to(torch.int64)

    def loss(self, x, y):
        if y.shape != (len(x),):
            raise ValueError
        z = self(x)
        return (F.softplus(z) - z * y).mean()


class RunningMean(nn.Module):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("count", torch.tensor(0, device=device))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                rows = x.reshape(-1, x.shape[-1])
                if rows.shape[0] > 0:
                    total = self.mean * self.count + rows.sum(0)
                    self.count += rows.shape[0]
                    self.mean.copy_(total / self.count)
        return x - self.mean

    def reset(self):
        self.mean.fill_(0)
        self.count.fill_(0)


def count_parameters(model, *, trainable_only=False):
    n = 0
    for p in set(model.parameters()):
        if trainable_only and not p.requires_grad:
            continue
        n += p.numel()
    return n
