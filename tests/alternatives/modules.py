"""Other correct answers to the tasks of modules: the hidden suite must accept every one."""

import math
from functools import reduce

import torch
from torch import nn

from grader.testing import alternative

# Linear


@alternative("Linear")
class WithEinsum(nn.Module):
    def __init__(self, in_features, out_features, *, bias=True, device=None, dtype=None):
        nn.Module.__init__(self)
        factory = {"device": device, "dtype": dtype}
        make = lambda *shape: nn.Parameter((2 * torch.rand(*shape, **factory) - 1) / in_features**0.5)  # noqa: E731
        self.weight = make(out_features, in_features)
        self.bias = make(out_features) if bias else None

    def forward(self, x):
        y = torch.einsum("...i,oi->...o", x, self.weight)
        if self.bias is not None:
            y = y + self.bias
        return y


@alternative("Linear")
class ResetLikeTorch(nn.Module):
    def __init__(self, in_features, out_features, *, bias=True, device=None, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty((out_features, in_features), device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if bias:
            nn.init.uniform_(self.bias, -(in_features**-0.5), in_features**-0.5)

    def forward(self, x):
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        y = rows.mm(self.weight.t()) if self.bias is None else torch.addmm(self.bias, rows, self.weight.t())
        return y.view(*x.shape[:-1], len(self.weight))


@alternative("Linear")
class BroadcastAndSum(nn.Module):
    def __init__(self, in_features, out_features, *, bias=True, device=None, dtype=None):
        super().__init__()
        k = in_features**-0.5
        self.weight = nn.Parameter(torch.empty((out_features, in_features), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty((out_features,), device=device, dtype=dtype)) if bias else None
        for p in self.parameters():
            p.data.uniform_(-k, k)

    def forward(self, x):
        y = (x.unsqueeze(-2) * self.weight).sum(dim=-1)
        return y + (0 if self.bias is None else self.bias)


# Sequential


@alternative("Sequential")
class ByName(nn.Module):
    def __init__(self, *modules):
        super().__init__()
        self.size = 0
        [self.append(module) for module in modules]

    def __iter__(self):
        return (getattr(self, str(i)) for i in range(self.size))

    def forward(self, x):
        return reduce(lambda value, module: module(value), self, x)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return getattr(self, str(range(self.size)[index]))

    def append(self, module):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{module} is no nn.Module")
        setattr(self, str(self.size), module)
        self.size += 1
        return self


@alternative("Sequential")
class NamesFromTheModule(nn.Module):
    def __init__(self, *modules):
        super().__init__()
        for module in modules:
            self.append(module)

    def _all(self):
        return [module for name, module in self._modules.items() if name.isdigit()]

    def forward(self, x):
        for module in self._all():
            x = module(x)
        return x

    def __len__(self):
        return len(self._all())

    def __getitem__(self, index):
        n = len(self)
        if not -n <= index < n:
            raise IndexError(index)
        return self.get_submodule(str(index % n))

    def append(self, module):
        if module is None:
            raise TypeError("None")
        self.register_module(f"{len(self)}", module)
        return self


@alternative("Sequential")
class IntoTheDict(nn.Module):
    def __init__(self, *modules):
        super().__init__()
        for place, module in enumerate(modules):
            assert_module(module)
            self._modules[str(place)] = module

    def forward(self, x):
        for place in range(len(self)):
            x = self[place](x)
        return x

    def __len__(self):
        return len(self._modules)

    def __getitem__(self, index):
        if index < 0:
            index += len(self)
        try:
            return self._modules[str(index)]
        except KeyError:
            raise IndexError(f"no module in place {index}") from None

    def append(self, module):
        assert_module(module)
        self._modules[str(len(self))] = module
        return self


def assert_module(module):
    if not issubclass(type(module), nn.Module):
        raise TypeError(f"{type(module)} is no module")


# MLP


@alternative("MLP")
class LastLayerApart(nn.Module):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__()
        self.layers = nn.ModuleList()
        if len(sizes) in (0, 1):
            raise ValueError("sizes")
        for i in range(1, len(sizes)):
            self.layers.append(nn.Linear(sizes[i - 1], sizes[i]))
        self.f = activation

    def forward(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = self.f(layer(x))
        return last(x)


@alternative("MLP")
class Recursively(nn.Module):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__()
        if not len(sizes) > 1:
            raise ValueError("sizes")
        self.layers = nn.ModuleList([nn.Linear(*sizes[i : i + 2]) for i in range(len(sizes) - 1)])
        self.activation = activation

    def _from(self, i, h):
        h = self.layers[i](h)
        return h if i == len(self.layers) - 1 else self._from(i + 1, self.activation(h))

    def forward(self, x):
        return self._from(0, x)


@alternative("MLP")
class WithSlices(nn.Module):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__()
        try:
            first, *rest = sizes
            rest[0]
        except (ValueError, IndexError):
            raise ValueError("sizes") from None
        layers = []
        for size in rest:
            layers.append(nn.Linear(first, size))
            first = size
        self.layers, self.act = nn.ModuleList(layers), activation

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


# Dropout


@alternative("Dropout")
class WithBernoulli(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError("p")
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x.clone()
        if self.p == 1:
            return torch.zeros_like(x) * x
        mask = torch.full_like(x, 1 - self.p, dtype=torch.float64).bernoulli()
        return (x * mask / (1 - self.p)).to(x.dtype)


@alternative("Dropout")
class WithMaskedFill(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not (0.0 <= p <= 1.0):
            raise ValueError("p")
        self.p = p

    def forward(self, x):
        if self.training:
            dropped = torch.empty(x.shape).uniform_() < self.p
            return x.div(max(1 - self.p, 1e-3)).masked_fill(dropped, 0)
        return x


@alternative("Dropout")
class WithWhere(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        assert_probability(p)
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        u = torch.rand(x.shape, device=x.device, dtype=torch.float64)
        return torch.where(u > self.p, x / (1 - self.p), 0)


def assert_probability(p):
    if p > 1.0 or p < 0.0:
        raise ValueError(f"no probability: {p}")


# LayerNorm


@alternative("LayerNorm")
class WithVarMean(nn.Module):
    def __init__(self, normalized_shape, eps=1e-5, *, elementwise_affine=True):
        super().__init__()
        self.normalized_shape = tuple(torch.Size([normalized_shape] if type(normalized_shape) is int else normalized_shape))
        self.eps = eps
        for name, fill in (("weight", 1.0), ("bias", 0.0)):
            self.register_parameter(name, nn.Parameter(torch.full(self.normalized_shape, fill)) if elementwise_affine else None)

    def forward(self, x):
        n = len(self.normalized_shape)
        if x.ndim < n or tuple(x.shape[x.ndim - n :]) != self.normalized_shape:
            raise ValueError("shape")
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        var, mean = torch.var_mean(wide, dim=list(range(x.ndim - n, x.ndim)), correction=0, keepdim=True)
        y = (wide - mean) / (var + self.eps) ** 0.5
        if self.weight is not None:
            y = torch.addcmul(self.bias.to(y.dtype), y, self.weight.to(y.dtype))
        return y.to(x.dtype)


@alternative("LayerNorm")
class FlatAndInDouble(nn.Module):
    def __init__(self, normalized_shape, eps=1e-5, *, elementwise_affine=True):
        super().__init__()
        if isinstance(normalized_shape, int):
            normalized_shape = [normalized_shape]
        self.normalized_shape, self.eps = (*normalized_shape,), eps
        self.weight = self.bias = None
        if elementwise_affine:
            self.weight = nn.Parameter(torch.ones(*normalized_shape))
            self.bias = nn.Parameter(torch.zeros(*normalized_shape))

    def forward(self, x):
        k = len(self.normalized_shape)
        if (*x.shape[-k:],) != self.normalized_shape:
            raise ValueError("shape")
        size = math.prod(self.normalized_shape)
        rows = x.double().reshape(x.numel() // size, size)
        centred = rows - rows.sum(1, keepdim=True) / size
        variance = (centred * centred).sum(1, keepdim=True) / size
        y = (centred / (variance + self.eps).sqrt()).reshape(x.shape)
        return (y if self.weight is None else y * self.weight + self.bias).to(x.dtype)


@alternative("LayerNorm")
class FlattenedAndBack(nn.Module):
    def __init__(self, normalized_shape, eps=1e-5, *, elementwise_affine=True):
        super().__init__()
        self.normalized_shape = tuple(normalized_shape) if hasattr(normalized_shape, "__iter__") else (normalized_shape,)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape)) if elementwise_affine else None

    def forward(self, x):
        k, dtype = len(self.normalized_shape), x.dtype
        if tuple(x.shape)[-k:] != self.normalized_shape:
            raise ValueError("shape")
        h = x.flatten(-k).to(torch.float64 if dtype == torch.float64 else torch.float32)
        mean = torch.mean(h, -1, True)
        scale = 1 / torch.sqrt(((h - mean) ** 2).mean(-1, True) + self.eps)
        y = (h * scale - mean * scale) if dtype == torch.float64 else (h - mean) * scale
        if self.weight is not None:
            y = self.weight.flatten() * y + self.bias.flatten()
        return y.unflatten(-1, self.normalized_shape).to(dtype)


# RMSNorm


@alternative("RMSNorm")
class ByTheNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones((dim,)))

    def forward(self, x):
        if not x.ndim or x.size(-1) != self.dim:
            raise ValueError("size")
        h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean_square = torch.linalg.vector_norm(h, dim=-1, keepdim=True) ** 2 / self.dim
        return (self.weight * (h / (mean_square + self.eps).sqrt())).to(x.dtype)


@alternative("RMSNorm")
class InnerProductInDouble(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim) + 1)
        self.eps = eps

    def forward(self, x):
        d = self.weight.numel()
        if x.shape[-1] != d:
            raise ValueError("size")
        h = x.double()
        squares = torch.einsum("...d,...d->...", h, h)
        return (h * self.weight / torch.sqrt(squares / d + self.eps).unsqueeze(-1)).to(x.dtype)


# Embedding


@alternative("Embedding")
class IndexSelect(nn.Module):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim).normal_())
        self.padding_idx = padding_idx
        if padding_idx is not None:
            if padding_idx not in range(-num_embeddings, num_embeddings):
                raise ValueError("padding_idx")
            self.padding_idx = range(num_embeddings)[padding_idx]
            with torch.no_grad():
                self.weight[self.padding_idx].zero_()

    def forward(self, indices):
        flat = indices.reshape(-1)
        if flat.numel() and (flat.min() < 0 or flat.max() >= self.weight.shape[0]):
            raise IndexError("index")
        rows = self.weight.index_select(0, flat)
        if self.padding_idx is not None and rows.requires_grad:
            real = (flat != self.padding_idx)[:, None]
            rows.register_hook(lambda grad: torch.where(real, grad, 0))
        return rows.view(*indices.shape, self.weight.shape[1])


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, indices, padding_idx):
        ctx.save_for_backward(indices)
        ctx.rows, ctx.padding_idx = weight.shape[0], padding_idx
        return weight[indices.long()]

    @staticmethod
    def backward(ctx, grad):
        (indices,) = ctx.saved_tensors
        D = grad.shape[-1]
        total = grad.new_zeros(ctx.rows, D).index_add_(0, indices.reshape(-1).long(), grad.reshape(-1, D))
        if ctx.padding_idx is not None:
            total[ctx.padding_idx] = 0
        return total, None, None


@alternative("Embedding")
class OwnBackward(nn.Module):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__()
        if padding_idx is not None and padding_idx < 0:
            padding_idx += num_embeddings
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            raise ValueError("padding_idx")
        self.padding_idx = padding_idx
        table = torch.randn(num_embeddings, embedding_dim)
        if padding_idx is not None:
            table[padding_idx].fill_(0)
        self.weight = nn.Parameter(table)

    def forward(self, indices):
        if any(not 0 <= i < self.weight.shape[0] for i in indices.reshape(-1).tolist()):
            raise IndexError("index")
        return _LookUp.apply(self.weight, indices, self.padding_idx)


@alternative("Embedding")
class DetachedTable(nn.Module):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, None
        self.weight = nn.Parameter(torch.empty((num_embeddings, embedding_dim)))
        nn.init.normal_(self.weight)
        if padding_idx is not None:
            if not (-num_embeddings <= padding_idx <= num_embeddings - 1):
                raise ValueError("padding_idx")
            self.padding_idx = padding_idx + num_embeddings if padding_idx < 0 else padding_idx
            self.weight.data[self.padding_idx] = 0.0

    def forward(self, indices):
        outside = indices.lt(0) | indices.ge(self.num_embeddings)
        if bool(outside.any()):
            raise IndexError(f"{int(outside.sum())} indices are outside")
        table = self.weight
        if self.padding_idx is not None:
            rows = torch.arange(self.num_embeddings).unsqueeze(1)
            table = torch.where(rows == self.padding_idx, table.detach(), table)
        return table.gather(0, indices.reshape(-1, 1).long().expand(-1, self.embedding_dim)).reshape(*indices.shape, self.embedding_dim)


# kaiming_init_


@alternative("kaiming_init_")
def copies_scaled_numbers(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    if weight.dim() < 2:
        raise ValueError("dimensions")
    try:
        gain2 = {"linear": 1, "tanh": 25 / 9, "relu": 2, "leaky_relu": 2 / (1 + a**2)}[nonlinearity]
        fan = {"fan_in": weight[0].numel(), "fan_out": weight[:, 0].numel()}[mode]
        draw = {"normal": torch.randn, "uniform": torch.rand}[distribution]
    except KeyError as error:
        raise ValueError(f"unknown: {error}") from None
    numbers = draw(weight.shape, generator=generator, dtype=weight.dtype)
    if distribution == "uniform":
        numbers = (numbers * 2 - 1) * 3**0.5
    weight.data.copy_(numbers * (gain2 / fan) ** 0.5)
    return weight


@alternative("kaiming_init_")
@torch.no_grad()
def with_nn_init(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    match nonlinearity:
        case "linear":
            gain = 1
        case "tanh":
            gain = 5 / 3
        case "relu":
            gain = math.sqrt(2.0)
        case "leaky_relu":
            gain = math.sqrt(2.0 / (1 + a**2))
        case _:
            raise ValueError(nonlinearity)
    if weight.ndim < 2 or mode not in {"fan_in", "fan_out"}:
        raise ValueError(mode)
    out_channels, in_channels, *kernel = weight.shape
    std = gain * math.prod([in_channels if mode == "fan_in" else out_channels, *kernel]) ** -0.5
    if distribution == "normal":
        nn.init.normal_(weight, 0.0, std, generator=generator)
    elif distribution == "uniform":
        nn.init.uniform_(weight, -std * math.sqrt(3), std * math.sqrt(3), generator=generator)
    else:
        raise ValueError(distribution)
    return weight


# LinearRegression


@alternative("LinearRegression")
class WithAutogradAndMomentum(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros([], dtype=dtype))

    def forward(self, x):
        return (x * self.weight).sum(-1) + self.bias

    def fit(self, x, y):
        if y.dim() != 1 or len(y) != len(x):
            raise ValueError("y")
        mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
        z, center, size = (x - mean) / std, y.mean(), y.std()
        t = (y - center) / size
        v = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
        c = torch.zeros((), dtype=x.dtype, requires_grad=True)
        optimizer = torch.optim.SGD([v, c], lr=0.25, momentum=0.9)
        for _ in range(250):
            optimizer.zero_grad()
            (z @ v + c - t).square().mean().backward()
            optimizer.step()
        self.weight.data.copy_(v.data * size / std)
        self.bias.data.copy_(center + size * c.data - (mean * self.weight.data).sum())
        return float((self(x) - y).pow(2).mean())


@alternative("LinearRegression")
class ConjugateGradients(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_features, dtype=dtype).fill_(0))
        self.bias = nn.Parameter(torch.tensor(0.0, dtype=dtype))

    def forward(self, x):
        return torch.matmul(x, self.weight) + self.bias

    @torch.no_grad()
    def fit(self, x, y):
        if y.shape != x.shape[:1]:
            raise ValueError("y")
        a, b = x.double(), y.double()
        mean, std = a.mean(0), a.std(0)
        z, t = (a - mean) / std, b - b.mean()
        v = torch.zeros(x.shape[1], dtype=torch.float64)
        r = z.T @ t
        p, energy = r.clone(), r @ r
        for _ in range(3 * x.shape[1]):
            if energy < 1e-18:
                break
            q = z.T @ (z @ p)
            step = energy / (p @ q)
            v, r = v + step * p, r - step * q
            new = r @ r
            p, energy = r + new / energy * p, new
        self.weight.data[:] = v / std
        self.bias.data.fill_((b.mean() - mean @ (v / std)).item())
        return (self.forward(x).double() - b).square().mean().item()


@alternative("LinearRegression")
class WithLBFGS(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x):
        return torch.einsum("...d,d->...", x, self.weight) + self.bias

    def fit(self, x, y):
        if tuple(y.shape) != (x.shape[0],):
            raise ValueError("y")
        mu, sigma, center, size = x.mean(0), x.std(0), y.mean(), y.std()
        z, t = (x - mu) / sigma, (y - center) / size
        theta = torch.zeros(x.shape[1] + 1, dtype=x.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = (z @ theta[:-1] + theta[-1] - t).pow(2).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            self.weight[:] = theta[:-1] * size / sigma
            self.bias.fill_(theta[-1] * size + center - (mu * self.weight).sum())
            return (self(x) - y).pow(2).mean().item()


# LogisticRegression


@alternative("LogisticRegression")
class WithSoftplus(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x):
        return (x * self.weight).sum(1) + self.bias

    def probabilities(self, x):
        return 1 / (1 + torch.exp(-self.forward(x)))

    def predict(self, x):
        return torch.where(self(x) > 0, 1, 0)

    def loss(self, x, y):
        if y.ndim != 1 or y.shape[0] != x.shape[0]:
            raise ValueError("y")
        z, y = self(x), y.to(x.dtype)
        each = y * nn.functional.softplus(-z) + (1 - y) * nn.functional.softplus(z)
        return each.sum() / len(each)


@alternative("LogisticRegression")
class WithLogSigmoid(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.register_parameter("weight", nn.Parameter(torch.zeros(num_features, dtype=dtype)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(1, dtype=dtype)[0].clone()))

    def forward(self, x):
        return torch.addmv(self.bias, x, self.weight)

    def probabilities(self, x):
        return self(x).sigmoid()

    def predict(self, x):
        return self(x).gt(0).to(torch.int64)

    def loss(self, x, y):
        z = self(x)
        if y.size() != z.size():
            raise ValueError("y")
        y = y.type_as(z)
        return -torch.mean(y * nn.functional.logsigmoid(z) + (1 - y) * nn.functional.logsigmoid(-z))


@alternative("LogisticRegression")
class WithMaximum(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(num_features, dtype=dtype)), nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x):
        return torch.einsum("nd,d->n", x, self.weight) + self.bias

    def probabilities(self, x):
        return torch.sigmoid(self(x))

    def predict(self, x):
        return torch.heaviside(self(x), torch.zeros((), dtype=x.dtype)).long()

    def loss(self, x, y):
        z = self(x)
        if list(y.shape) != [len(x)]:
            raise ValueError("y")
        top = torch.maximum(z, torch.zeros_like(z))  # its derivative at a tie is one half
        return (top - y * z + torch.log1p(torch.exp(-z.abs()))).mean()


@alternative("LogisticRegression")
class TwoLogits(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x):
        return torch.mv(x, self.weight) + self.bias

    def _both(self, x):
        z = self(x)
        return torch.stack([torch.zeros_like(z), z], dim=1)

    def probabilities(self, x):
        return self._both(x).softmax(dim=1)[:, 1]

    def predict(self, x):
        return self._both(x).argmax(dim=1)  # the first of equal ones

    def loss(self, x, y):
        if y.dim() != 1 or len(y) != len(x):
            raise ValueError("y")
        logs, y = self._both(x).log_softmax(dim=1), y.to(x.dtype)
        return -(torch.stack([1 - y, y], dim=1) * logs).sum() / len(x)


# RunningMean


@alternative("RunningMean")
class NewTensorsEachTime(nn.Module):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__()
        self.register_buffer("mean", torch.zeros((num_features,), device=device, dtype=dtype))
        self.register_buffer("count", torch.tensor(0, device=device))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
                total = self.mean * self.count + rows.sum(dim=0)
                self.count = self.count + rows.shape[0]
                self.mean = (total / self.count.clamp(min=1)).to(self.mean.dtype)
        return x - self.mean

    def reset(self):
        self.mean, self.count = torch.zeros_like(self.mean), torch.zeros_like(self.count)


@alternative("RunningMean")
class AsBuffers(nn.Module):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(num_features, device=device, dtype=dtype))
        self.count = nn.Buffer(torch.zeros([], device=device, dtype=torch.long))

    @torch.no_grad()
    def _take_in(self, x):
        n = x[..., 0].numel()
        if n > 0:
            self.count.add_(n)
            self.mean.lerp_(x.mean(dim=tuple(range(x.ndim - 1))) if x.ndim > 1 else x, (n / self.count).to(self.mean.dtype))

    def forward(self, x):
        if self.training:
            self._take_in(x)
        return torch.sub(x, self.mean)

    def reset(self):
        for buffer in self.buffers():
            buffer.fill_(0)


@alternative("RunningMean")
class RowByRow(nn.Module):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("count", torch.zeros(1, device=device, dtype=torch.int64)[0])

    def forward(self, x):
        if self.training:
            for row in x.detach().reshape(-1, x.shape[-1]).unbind():
                self.count += 1
                self.mean += (row - self.mean) / self.count
        return x - self.mean.expand_as(x)

    def reset(self):
        self.mean.fill_(0)
        self.count.fill_(0)


# count_parameters


@alternative("count_parameters")
def by_identity(model, *, trainable_only=False):
    seen, total = set(), 0
    for module in model.modules():
        for p in module._parameters.values():
            if p is None or id(p) in seen or (trainable_only and not p.requires_grad):
                continue
            seen.add(id(p))
            total += math.prod(p.shape)
    return total


@alternative("count_parameters")
def with_filters(model, *, trainable_only=False):
    found = dict(model.named_parameters()).values()
    if trainable_only:
        found = filter(lambda p: p.requires_grad, found)
    return int(sum(map(torch.numel, found)))


@alternative("count_parameters")
def as_a_set(model, *, trainable_only=False):
    total = 0
    for p in set(model.parameters()):
        if not trainable_only or p.requires_grad:
            total += p.nelement()
    return total
