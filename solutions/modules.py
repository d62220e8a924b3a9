"""Modules: nn.Module with its parameters and buffers, and the classic models.

Every class here is an nn.Module: its `__init__` calls `super().__init__()` first. Every task stands alone. Where one could build on
another, use torch's own: `nn.Linear` in MLP, for example.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """An affine map with a learned weight and bias: a fully connected layer.

    y = x Wᵀ + b, for every vector along the last dimension of x.

    Attributes:
        weight: W, an nn.Parameter of shape (out_features, in_features).
        bias: b, an nn.Parameter of shape (out_features,); None if the layer has no bias.

    So the keys of state_dict() are "weight" and "bias", or "weight" alone. The entries of both start as independent random
    numbers, uniform between −1/√in_features and 1/√in_features, which differ from layer to layer.

    Args of the constructor:
        in_features, out_features: sizes of the vectors, 1 or more.
        bias: whether the layer has a bias.
        device, dtype: of the parameters. None stands for torch's defaults at the time of the call, as in torch.empty; the
            device may be "meta".

    Not allowed: torch.nn.Linear, Bilinear and LazyLinear; torch.nn.functional.linear and bilinear.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the parameters; see the class."""
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype).uniform_(-bound, bound))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype).uniform_(-bound, bound))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map, differentiably, with the parameters as they are now.

        Args:
            x: (..., in_features), dtype and device of the parameters; any number of batch dimensions, none included; a batch may be
                empty.

        Returns: (..., out_features), dtype of x.
        """
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Sequential(nn.Module):
    """A chain of modules: each gets what the one before it returned.

    The modules are registered as children under the names "0", "1", "2", …, in order, directly in the container, so that a
    parameter of the second one has the key "1.weight". These children are all that the container remembers: one that is replaced,
    as in `setattr(model, "1", other)`, is used from then on. The same module may stand in several places, and then runs in each
    of them.

    Args of the constructor:
        modules: any number of nn.Modules, none included.

    Raises: TypeError if one of them is no nn.Module, such as the function torch.relu, the class nn.ReLU, or None.
    Not allowed: torch.nn.Sequential, ModuleList and ModuleDict.
    """

    def __init__(self, *modules: nn.Module) -> None:
        """Register the modules; see the class."""
        super().__init__()
        for module in modules:
            self.append(module)

    def forward(self, x: Any) -> Any:
        """Pass x through all modules, from the first to the last, and return what the last one returns; x itself if there are none.

        The modules are called like functions, so that hooks on them run; calling their forward would skip hooks.

        Args:
            x: one value, of whatever type the first module takes.
        """
        for module in self._modules.values():  # children() would give a module that stands here twice only once
            x = module(x)
        return x

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self._modules)

    def __getitem__(self, index: int) -> nn.Module:
        """Return the module in a place; −1 is the last one. (So `for module in model` works: Python counts up until an IndexError.)

        Raises: IndexError unless −len(self) ≤ index < len(self).
        """
        return list(self._modules.values())[index]

    def append(self, module: nn.Module) -> "Sequential":
        """Add a module at the end, and return the container itself.

        Raises: TypeError if it is no nn.Module; nothing is added then.
        """
        if not isinstance(module, nn.Module):  # add_module would take None
            raise TypeError(f"a Sequential consists of nn.Modules, not of {module!r}")
        self.add_module(str(len(self)), module)
        return self


class MLP(nn.Module):
    """A multilayer perceptron: linear layers with an activation between each two.

    h_0 = x, h_i = activation(W_i h_{i−1} + b_i) for every layer but the last, and the last one gives W_L h_{L−1} + b_L, to which
    no activation is applied.

    Attributes:
        layers: an nn.ModuleList of len(sizes) − 1 torch.nn.Linear, each one a layer of its own, as torch initialises it. Layer i
            maps sizes[i] to sizes[i + 1].

    So the keys of state_dict() are "layers.0.weight", "layers.0.bias", "layers.1.weight", and so on, and no others.

    Args of the constructor:
        sizes: at least two, a list or a tuple: of the input, of every hidden layer, of the output.
        activation: a function of a tensor that works on each entry, such as torch.relu or torch.tanh.

    Raises: ValueError if there are fewer than two sizes.
    """

    def __init__(self, sizes: Sequence[int], *, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        """Make the layers; see the class."""
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(f"an MLP needs the sizes of its input and its output, got {list(sizes)}")
        self.activation = activation
        self.layers = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers.

        Args:
            x: (..., sizes[0]), dtype of the parameters.

        Returns: (..., sizes[-1]), dtype of x, differentiable.
        """
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == 0 else layer(self.activation(x))
        return x


class Dropout(nn.Module):
    """Set random entries to 0 while training, and keep the expectation (Srivastava et al. 2014; scaled as torch does).

    In training mode each entry of x, independently of all others, becomes 0 with probability p, and is multiplied by 1 / (1 − p)
    otherwise, so that its expectation is x. The gradient goes through the same mask and scale. With p = 1 everything is 0, and so is
    the gradient, never NaN. In eval mode the values of x come back unchanged, and no random numbers are drawn.

    Every call in training mode draws anew, from torch's global generator: after the same torch.manual_seed, the same call gives the
    same result. Draw in float32 at least: random numbers in bfloat16 are multiples of 1/256, too coarse for a p of 0.002.

    Attributes:
        p: the probability; it may be changed between calls. There are no parameters or buffers.

    Args of the constructor:
        p: from 0 to 1.

    Raises: ValueError unless 0 ≤ p ≤ 1.
    Not allowed: torch's own dropouts: torch.nn.Dropout, torch.nn.functional.dropout and their relatives.
    """

    def __init__(self, p: float = 0.5) -> None:
        """Remember p; see the class."""
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries if in training mode.

        Args:
            x: any shape, none and empty ones included; float16, bfloat16, float32 or float64, finite.

        Returns: shape and dtype of x.
        """
        if not self.training:
            return x
        kept = torch.rand_like(x, dtype=torch.float32) >= self.p  # numbers below 1, so that p = 1 keeps nothing
        return x * kept / (1 - self.p if self.p < 1 else 1)


class LayerNorm(nn.Module):
    """Normalise each vector to mean 0 and variance 1, then scale and shift it (Ba et al. 2016).

    y = (x − mean) / sqrt(var + eps) · weight + bias

    mean and var are taken over the last dimensions, those of normalized_shape, for each place in the other dimensions; var is the
    biased variance, the mean of (x − mean)². Values with a small spread around a large mean (1 around 2,000, in float32) keep their
    precision, which mean(x²) − mean² would lose. A vector of equal entries gives the bias, up to the rounding of its mean, and finite
    gradients.

    float32 and float64 are computed in their own precision; 16-bit dtypes in float32, weight and bias included, and rounded once, at
    the end.

    Attributes:
        normalized_shape: a tuple of ints.
        weight: an nn.Parameter of shape normalized_shape, all ones at first, in torch's default dtype.
        bias: the same, all zeros at first. Building the layer draws no random numbers.

    With elementwise_affine=False, weight and bias are None, y is the normalised vector, and state_dict() is empty.

    Args of the constructor:
        normalized_shape: sizes of the last dimensions of x, 1 or more of them, a list or a tuple; an int n stands for (n,).
        eps: added to the variance; 0 is allowed.
        elementwise_affine: whether there are weight and bias.

    Not allowed: torch's own norms: torch.nn.LayerNorm, torch.nn.functional.layer_norm, and group, batch, instance and RMS norm, which
        could stand in for it.
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, *, elementwise_affine: bool = True) -> None:
        """Make the parameters; see the class."""
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, differentiably.

        Args:
            x: (..., *normalized_shape), float16, bfloat16, float32 or float64; any number of other dimensions, none included; those
                may be empty. The parameters may have another dtype: float32 ones go with a float16 x.

        Returns: shape and dtype of x.
        Raises: ValueError if the last dimensions of x are not exactly normalized_shape.
        """
        dims = tuple(range(-len(self.normalized_shape), 0))
        if x.shape[dims[0] :] != self.normalized_shape:
            raise ValueError(f"x is {tuple(x.shape)}, which does not end in {self.normalized_shape}")
        h = x.to(torch.promote_types(x.dtype, torch.float32))  # squares overflow in float16
        h = h - h.mean(dims, keepdim=True)
        h = h * torch.rsqrt(h.square().mean(dims, keepdim=True) + self.eps)
        if self.weight is not None:
            h = h * self.weight + self.bias
        return h.to(x.dtype)


class RMSNorm(nn.Module):
    """Scale each vector to unit root mean square (Zhang & Sennrich 2019, eq. 4).

    y = x / sqrt(mean(x²) + eps) · weight, the mean taken over the last dimension. Nothing is subtracted from x.

    float32 and float64 are computed in their own precision. 16-bit dtypes are computed in float32, since 300² exceeds float16's
    largest number, and rounded once, after the product with the weight (Llama rounds before it, too). A vector of zeros gives
    zeros, and finite gradients.

    Attributes:
        weight: an nn.Parameter of shape (dim,), all ones at first, in torch's default dtype: the only entry of state_dict().
            Building the layer draws no random numbers.

    Args of the constructor:
        dim: the size d of the vectors.
        eps: added to the mean square; 0 is allowed.

    Not allowed: torch's own norms: torch.nn.RMSNorm, torch.nn.functional.rms_norm, layer_norm and their relatives.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        """Make the parameter; see the class."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, differentiably.

        Args:
            x: (..., d), float16, bfloat16, float32 or float64; any number of other dimensions, none included; those may be empty.
                The weight may have another dtype: a float32 one goes with a float16 x.

        Returns: shape and dtype of x.
        Raises: ValueError if the last dimension of x has another size than dim.
        """
        if x.shape[-1:] != self.weight.shape:
            raise ValueError(f"x is {tuple(x.shape)}, but its vectors should have {len(self.weight)} entries")
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps)
        return (h * self.weight).to(x.dtype)


class Embedding(nn.Module):
    """A table with a learned vector for each of a number of symbols, words for instance.

    Attributes:
        weight: the table, an nn.Parameter of shape (num_embeddings, embedding_dim) in torch's default dtype: the only entry of
            state_dict(). Its entries start as independent standard normal numbers, other ones in each table, except for the row
            padding_idx: zeros.
        padding_idx: the row that padding looks up, None or from 0 to num_embeddings − 1 (a negative one is converted).

    Looking up the row padding_idx gives whatever stands there, like any other row, but passes no gradient to it, not even from a loss
    that is NaN or infinite there. That concerns look-ups only: where weight is also used in another way, as in a tied output layer,
    all rows get their gradients from there.

    Args of the constructor:
        num_embeddings, embedding_dim: rows and columns of the table.
        padding_idx: None, or from −num_embeddings to num_embeddings − 1; negative ones count from the end.

    Raises: ValueError if padding_idx is outside of that.
    Not allowed: torch.nn.Embedding and EmbeddingBag; torch.nn.functional.embedding and embedding_bag.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        """Make the table; see the class."""
        super().__init__()
        weight = torch.randn(num_embeddings, embedding_dim)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx is {padding_idx}, but the table has {num_embeddings} rows")
            padding_idx %= num_embeddings
            weight[padding_idx] = 0
        self.padding_idx = padding_idx
        self.weight = nn.Parameter(weight)

    def forward(self, indices: Tensor) -> Tensor:
        """Look up rows of the table.

        A row that is looked up several times gets the sum of the gradients. The rows are copied exactly, infinities and NaNs included;
        those in a row that is not looked up show nowhere.

        Args:
            indices: any shape, none and empty ones included; int64 or int32.

        Returns: the shape of indices with embedding_dim appended, dtype of weight.
        Raises: IndexError if an index is negative or not below num_embeddings.
        """
        if ((indices < 0) | (indices >= len(self.weight))).any():
            raise IndexError(f"indices must be in 0 … {len(self.weight) - 1}")
        rows = self.weight[indices]
        if self.padding_idx is None:
            return rows
        return torch.where((indices == self.padding_idx)[..., None], rows.detach(), rows)


def kaiming_init_(
    weight: Tensor,
    *,
    mode: str = "fan_in",
    nonlinearity: str = "relu",
    a: float = 0.0,
    distribution: str = "normal",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a layer's weight with random numbers of a size that keeps signals from growing or vanishing (He et al. 2015, section 2.2).

    Each number is drawn independently, with mean 0 and standard deviation std = gain / √fan.

        fan: how many inputs each output sums up (mode "fan_in"), or how many outputs each input goes to (mode "fan_out"). A weight is
            (out, in, *kernel), as in nn.Linear (no kernel) and nn.Conv2d: fan_in = in · (product of kernel), fan_out = out · (product
            of kernel).
        gain: 1 for nonlinearity "linear", 5/3 for "tanh", √2 for "relu", √(2 / (1 + a²)) for "leaky_relu".
        distribution: "normal", or "uniform" between −√3 · std and √3 · std, which has the same standard deviation.

    Works in place and records no graph: a parameter stays the leaf that it was, and a weight that is a view of a larger tensor
    changes that tensor in its own places and no others.

    Args:
        weight: floating, two dimensions or more, of sizes 1 or more; contiguous or not; requiring gradients or not.
        mode, nonlinearity, distribution: as above.
        a: slope of leaky ReLU for negative inputs; of no importance for the other nonlinearities.
        generator: where the random numbers come from, and then torch's global generator is neither used nor changed; None for the
            global one. The same state of the generator gives the same numbers; which ones is up to you.

    Returns: weight itself.
    Raises: ValueError if weight has fewer than two dimensions, or for any other mode, nonlinearity or distribution. Neither weight nor
        generator is changed then.
    Not allowed: torch.nn.init's kaiming_… and xavier_… functions, trunc_normal_, orthogonal_, calculate_gain and what computes the fans.
    """
    gains = {"linear": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + a * a))}
    if weight.ndim < 2 or mode not in ("fan_in", "fan_out") or nonlinearity not in gains or distribution not in ("normal", "uniform"):
        raise ValueError(f"can't initialise {tuple(weight.shape)} with {mode}, {nonlinearity}, {distribution}")
    fan = weight.shape[1 if mode == "fan_in" else 0] * math.prod(weight.shape[2:])
    std = gains[nonlinearity] / math.sqrt(fan)
    with torch.no_grad():
        if distribution == "normal":
            return weight.normal_(0, std, generator=generator)
        bound = math.sqrt(3) * std
        return weight.uniform_(-bound, bound, generator=generator)


class LinearRegression(nn.Module):
    """Linear regression by least squares, fitted by gradient descent.

    The prediction for a row of features is x · weight + bias.

    Attributes:
        weight: an nn.Parameter of shape (num_features,), zeros at first.
        bias: an nn.Parameter of shape (), zero at first. Building the model draws no random numbers, as a torch.nn.Linear would.

    Args of the constructor:
        num_features: the number D of columns of x.
        dtype: of the parameters; None stands for torch's default.

    Not allowed: what solves, inverts or decomposes a matrix: torch.linalg's lstsq, solve, inv, pinv, qr, svd, eig, eigh, cholesky, lu and
        their variants, and what rests on them, such as eigvalsh or a matrix's spectral norm.
    """

    def __init__(self, num_features: int, *, dtype: torch.dtype | None = None) -> None:
        """Make the parameters; see the class."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Predict, differentiably: (..., D) to (...), the prediction for each row, dtype of x."""
        return x @ self.weight + self.bias

    def fit(self, x: Tensor, y: Tensor) -> float:
        """Find the weight and the bias with the smallest mean squared error on x and y, by gradient descent.

        Columns of very different size are what makes this hard: a step that suits the small ones diverges on the large ones. So
        standardise the columns first, to mean 0 and standard deviation 1, descend there, and convert what you found: weight and bias
        are those for x as it is given.

        How close: for every row of x the prediction differs from that of the exact solution by at most a thousandth of y's standard
        deviation in float32, and a ten-thousandth in float64, whatever finite numbers the parameters were before the call.

        What to expect: columns with standard deviations between 0.05 and 20 and means between −20 and 20, and y of any size. Columns
        may be correlated: the eigenvalues of their correlation matrix are at least 0.2, and the largest can be close to D, which bounds
        the step. Some hundred steps of a suitable size on full batches are enough; there is time for some thousand.

        The two parameters stay the same nn.Parameters: their entries change in place, without a graph. Their .grad and the module's
        mode stay as they are.

        Args:
            x: (N, D), dtype of the parameters, 20 · D ≤ N ≤ 1,000, D ≤ 8.
            y: (N,), dtype of x.

        Returns: the mean squared error on x and y after the fit, a Python float.
        Raises: ValueError if y is not (N,): x @ weight − y of a y of (N, 1) would be an (N, N) matrix.
        """
        N, D = x.shape
        if y.shape != (N,):
            raise ValueError(f"y must be ({N},), but is {tuple(y.shape)}")
        with torch.no_grad():
            mean, std = x.mean(0), x.std(0)
            z, t = (x - mean) / std, y - y.mean()
            slope, curvature = z.T @ t / N, z.T @ z / N  # the gradient at v is curvature · v - slope
            v = torch.zeros_like(slope)
            for _ in range(600):
                v -= (curvature @ v - slope) / D  # no eigenvalue of the curvature is above D
            self.weight.copy_(v / std)
            self.bias.copy_(y.mean() - mean @ self.weight)
            return (self(x) - y).square().mean().item()


class LogisticRegression(nn.Module):
    """Logistic regression: a linear model for the probability of one of two classes.

    logit(x) = x · weight + bias, and the probability of class 1 is σ(logit) = 1 / (1 + exp(−logit)).

    Attributes:
        weight: an nn.Parameter of shape (num_features,), zeros at first.
        bias: an nn.Parameter of shape (), zero at first. Building the model draws no random numbers, as a torch.nn.Linear would.

    Args of the constructor:
        num_features: the number D of columns of x.
        dtype: of the parameters; None stands for torch's default.

    Not allowed: torch's own losses: binary_cross_entropy, with logits or not, cross_entropy, nll_loss, the soft-margin losses, and
        their classes. sigmoid, logsigmoid, softplus and logaddexp are fine.
    """

    def __init__(self, num_features: int, *, dtype: torch.dtype | None = None) -> None:
        """Make the parameters; see the class."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, differentiably: (N, D) to (N,), dtype of x."""
        return x @ self.weight + self.bias

    def probabilities(self, x: Tensor) -> Tensor:
        """Return the probability of class 1 for each row: (N, D) to (N,), dtype of x."""
        return torch.sigmoid(self(x))

    def predict(self, x: Tensor) -> Tensor:
        """Return the likelier class of each row, (N, D) to (N,), int64: 1 where the logit is above 0, however little, else 0."""
        return (self(x) > 0).long()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean binary cross-entropy, to train the parameters with: −mean(y · log p + (1 − y) · log(1 − p)), p = σ(logit).

        Write it in terms of the logit z. As it stands, the formula takes the log of 0 for large logits; a row with z = ±10,000 must
        lose 0 or 10,000, or a share of that for a y in between. The derivative for z is (p − y) / N everywhere. Mind z = 0, where all
        rows are before training: |z| and max(z, 0) have no derivative there, and what torch takes for it may not fit your formula.

        Args:
            x: (N, D), dtype of the parameters, N ≥ 1.
            y: (N,), the classes 0 and 1 as int64 or bool, or probabilities of class 1, from 0 to 1, in the dtype of x.

        Returns: 0-d tensor, dtype of x, differentiable in the parameters and in x.
        Raises: ValueError if y is not (N,): a y of (N, 1) would broadcast.
        """
        z = self(x)
        if y.shape != z.shape:
            raise ValueError(f"y must be {tuple(z.shape)}, but is {tuple(y.shape)}")
        return (torch.logaddexp(z, torch.zeros_like(z)) - y * z).mean()  # -log(1 - p) = log(1 + exp(z)), and log p = z + log(1 - p)


class RunningMean(nn.Module):
    """Subtract the mean of all rows seen so far in training.

    In training mode a call first takes the rows of x into the mean, then returns x − mean. In eval mode it returns x − mean with the
    mean as it is. The mean is that of all rows since the beginning, each row with the same weight, however they were divided into
    batches; before the first row it is 0.

    Attributes, both of them buffers, and all that state_dict() holds:
        mean: (num_features,), of the given dtype and precision.
        count: the number of rows in it, a 0-d tensor, int64.

    So a module into which a state is loaded goes on where the saved one was, and .to and .double convert the mean (count stays an
    int64). Neither ever requires gradients. To gradients the mean is a constant, also when x requires them: the derivative of y for x
    is 1.

    Args of the constructor:
        num_features: the size D of a row.
        device, dtype: of mean, float32 or float64 (count is on the same device); None stands for torch's defaults.
    """

    def __init__(self, num_features: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Register the buffers; see the class."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("count", torch.zeros((), device=device, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Subtract the mean, after an update of it if in training mode.

        Args:
            x: (..., D), dtype and device of mean; all dimensions but the last count rows. One without rows changes nothing.

        Returns: shape and dtype of x.
        """
        if self.training and x.numel():
            rows = x.detach().reshape(-1, len(self.mean))  # (n, D)
            self.count += len(rows)
            self.mean += (rows - self.mean).sum(0) / self.count
        return x - self.mean

    def reset(self) -> None:
        """Forget all rows: mean and count are 0 again, with the dtype and device that they have."""
        self.mean.zero_()
        self.count.zero_()


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Count the numbers that a model learns: the entries of all its parameters, submodules' included.

    A parameter that occurs in several places counts once: tied weights, or a layer that is used twice. Two parameters are the same if
    they are one object; two different ones both count, even with equal values or shared memory. Buffers, such as batch norm's running
    statistics, are not learned and don't count. The model may be on any device, "meta" included.

    Args:
        model: any nn.Module, one without parameters included.
        trainable_only: leave out frozen parameters, those with requires_grad=False.

    Returns: a Python int.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
