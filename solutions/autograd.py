"""Autograd: the dynamic graph, from a scalar engine up to double backward, recomputation and hooks.

Every task stands alone. Where one could build on another, use torch's own: `torch.autograd.grad`, for example.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Value:
    """A number that remembers how it was computed, so that derivatives can flow back through the computation. Without torch.

    Operators and methods give a new Value and leave their operands as they are. The other operand of + - * / is a Value or a
    plain number, on either side: x + 2, 2 − x and 2 / x work as well, and so does sum([x, y]).

        x = Value(3.0)
        y = x**2 + 2 * x
        y.backward()
        y.data, x.grad      # 15.0, 8.0

    Attributes, plain numbers that may be set:
        data: the number. Setting it changes only what is computed afterwards. Results that are there already keep their number, and
            their backward gives the derivatives at the numbers from which they were computed.
        grad: the sum of the derivatives that calls of backward have added so far; starts at 0.0.

    Numbers between 1e-100 and 1e100 in size, and 0, are enough: nothing but tanh has to guard against overflow.

    Expressions may be very deep (a chain of 10,000 operations: far more than Python's recursion limit) and share nodes heavily
    (y = y + y, 200 times over: 2²⁰⁰ paths, but only 200 nodes to visit).

    Not allowed: tensors (torch.tensor, as_tensor, scalar_tensor) and torch's backward and grad.
    """

    def __init__(self, data: float) -> None:
        """A Value that was not computed from others, such as an input or a weight.

        Args:
            data: a float or an int.
        """
        self.data = float(data)
        self.grad = 0.0
        self._inputs: tuple[tuple[Value, float], ...] = ()  # what this was computed from, with the derivative for each

    @staticmethod
    def _computed(data: float, *inputs: tuple["Value", float]) -> "Value":
        result = Value(data)
        result._inputs = inputs
        return result

    @staticmethod
    def _of(other: "Value | float") -> "Value":
        return other if isinstance(other, Value) else Value(other)

    def __add__(self, other: "Value | float") -> "Value":
        """Self + other."""
        other = self._of(other)
        return self._computed(self.data + other.data, (self, 1.0), (other, 1.0))

    def __mul__(self, other: "Value | float") -> "Value":
        """Self · other."""
        other = self._of(other)
        return self._computed(self.data * other.data, (self, other.data), (other, self.data))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> "Value":
        """−self."""
        return self * -1.0

    def __sub__(self, other: "Value | float") -> "Value":
        """Self − other."""
        return self + -self._of(other)

    def __rsub__(self, other: float) -> "Value":
        """Other − self, for a plain number on the left."""
        return self._of(other) - self

    def __truediv__(self, other: "Value | float") -> "Value":
        """Self / other."""
        other = self._of(other)
        return self._computed(self.data / other.data, (self, 1 / other.data), (other, -self.data / other.data / other.data))

    def __rtruediv__(self, other: float) -> "Value":
        """Other / self, for a plain number on the left."""
        return self._of(other) / self

    def __pow__(self, exponent: float) -> "Value":
        """Self to the power of a plain number, whole or not, negative too; the derivative is exponent · self^(exponent − 1).

        x**0 is 1 with derivative 0 everywhere, also where x is 0. Raises: TypeError if the exponent is a Value.
        """
        if isinstance(exponent, Value):
            raise TypeError("the exponent must be a plain number")
        slope = exponent * self.data ** (exponent - 1) if exponent != 0 else 0.0
        return self._computed(self.data**exponent, (self, slope))

    def exp(self) -> "Value":
        """The exponential function."""
        result = math.exp(self.data)
        return self._computed(result, (self, result))

    def tanh(self) -> "Value":
        """The hyperbolic tangent, for numbers of any size: ±1 with derivative 0 at ±1000, x itself with derivative 1 at x = 1e-20."""
        result = math.tanh(self.data)
        return self._computed(result, (self, 1 - result**2))

    def relu(self) -> "Value":
        """The larger of self and 0; the derivative at 0 is 0."""
        return self._computed(max(self.data, 0.0), (self, 1.0 if self.data > 0 else 0.0))

    def backward(self) -> None:
        """Add to the grad of every Value that self was computed from the derivative of self with respect to it.

        Intermediate results get theirs as well, and self gets 1. A Value that is used several times receives the sum over its uses.
        Nothing is cleared: each call adds the derivatives of its own Value, and no more. After a.backward(), b.backward() and
        another b.backward(), x.grad is ∂a/∂x + 2 · ∂b/∂x for every x, whatever a and b share.
        """
        order: list[Value] = []  # inputs before what is computed from them
        seen: set[Value] = set()
        stack = [(self, False)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((value, False) for value, _ in node._inputs)
        derivative = dict.fromkeys(order, 0.0)  # of this call alone: grad may hold older ones
        derivative[self] = 1.0
        for node in reversed(order):
            node.grad += derivative[node]
            for value, slope in node._inputs:
                derivative[value] += slope * derivative[node]


def unbroadcast(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """Reduce the gradient of a broadcast result to the gradient of an operand: the backward of broadcasting.

    When an operand of the given shape is broadcast to grad.shape, each of its entries is used in several places, and its gradient
    is the sum of grad over these places. So (3, 1, 5) from (2, 3, 4, 5) sums over the first dimension, which the operand doesn't
    have, and over the third, which it has with size 1.

    Args:
        grad: float32 or float64, any shape.
        shape: of the operand, a tuple, a list or torch.Size; broadcasts to grad.shape. () is a single number.

    Returns: a tensor of exactly the given shape, dtype of grad; 0 where an entry was used in no place, as happens when (1, 3) is
        broadcast to (0, 3).
    Raises: ValueError if the shape does not broadcast to grad.shape: longer than that, or a size that is neither 1 nor the same.
    Not allowed: Tensor.sum_to_size, and letting autograd do it (torch's grad, backward, vjp).
    """
    extra = grad.ndim - len(shape)
    if extra < 0 or any(size not in (1, large) for size, large in zip(shape, grad.shape[extra:], strict=True)):
        raise ValueError(f"{tuple(shape)} does not broadcast to {tuple(grad.shape)}")
    stretched = [extra + i for i, size in enumerate(shape) if size == 1]
    dims = [*range(extra), *stretched]
    return grad.sum(dims).reshape(shape) if dims else grad  # a sum over no dimensions would be one over all


def numerical_gradient(f: Callable[[Tensor], Tensor], x: Tensor, eps: float = 1e-6) -> Tensor:
    """Estimate the gradient of a function by central differences, for checking gradients that were derived by hand.

    g_i = (f(x + eps · e_i) − f(x − eps · e_i)) / (2 · eps)

    where e_i is 1 at entry i and 0 elsewhere. All is done in float64, whatever x is: f only ever gets float64 tensors of the shape
    of x, since in float32 a step of 1e-6 drowns in rounding. The error is then about eps² (a one-sided difference has eps).

    Args:
        f: takes a tensor and gives a 0-d tensor, perhaps one of its entries as it stands (z[2]). It may use parameters, or leave
            torch (z.numpy()): the tensors that it gets require no gradient.
        x: float32 or float64, any shape, 0-d and empty ones included; may require a gradient. It is never changed, not even for a
            moment: f may use x itself, beside the tensor that it gets, and then finds the numbers of the call there.
        eps: the step, above 0; not always tiny: the formula above holds for eps = 0.5 as well.

    Returns: the shape of x, float64, without a graph (requires_grad is False).
    Not allowed: autograd (torch's grad, backward, vjp, jvp, jacobian, jacrev, jacfwd).
    """
    point = x.detach().double().flatten()
    result = torch.empty_like(point)
    for i in range(len(point)):
        step = torch.zeros_like(point)
        step[i] = eps
        above, below = (f(moved.reshape(x.shape)).item() for moved in (point + step, point - step))
        result[i] = (above - below) / (2 * eps)
    return result.reshape(x.shape)


class Softplus(torch.autograd.Function):
    """The smooth relu log(1 + exp(x)), entry by entry, with a backward of its own. It is used as Softplus.apply(x).

    Both tails keep their precision: for −80 ≤ x ≤ 80, the relative error of the result and of its derivative is at most 1e-5 in
    float32 and 1e-8 in float64, at −40 too, where both are about exp(−40). Farther out, nothing overflows or becomes NaN: x = 10,000
    or inf gives x itself with gradient 1, and x = −10,000 or −inf gives 0 with gradient 0; the second derivative is 0 at both ends.

    Higher derivatives work too: torch.autograd.grad with create_graph=True can be used on the gradient, again and again. This comes
    by itself if backward computes its result from saved tensors with torch's own operations. It fails if forward saves the
    derivative ready-made, since the saved tensor then counts as a constant.

    If x is changed in place between forward and backward, backward must not give a wrong gradient in silence: tensors kept with
    ctx.save_for_backward are guarded against that (a RuntimeError), tensors kept as attributes of ctx are not.

    x: float32 or float64, any shape. The result has its shape and dtype.

    You may also split forward into forward(x) and setup_context(ctx, inputs, output), if you prefer that style.

    Not allowed: softplus, Softplus, logsigmoid, LogSigmoid, logaddexp, logaddexp2, logsumexp, logcumsumexp, log_softmax, and losses
        that contain them (binary_cross_entropy_with_logits, soft_margin_loss, cross_entropy). (sigmoid is fine.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Compute log(1 + exp(x)), and keep for backward what it needs."""
        ctx.save_for_backward(x)
        return x.clamp(min=0) + (-x.abs()).exp().log1p()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Turn the gradient of the result into the gradient of x."""
        (x,) = ctx.saved_tensors
        return grad * torch.sigmoid(x)


class RoundSTE(torch.autograd.Function):
    """Round to whole numbers, and pretend in the backward that nothing happened: the straight-through estimator
    (Bengio et al. 2013, section 4). It is used as RoundSTE.apply(x).

    The result is x, rounded to the nearest whole number, halves to the even one (0.5 and −0.5 give 0, 1.5 and 2.5 give 2) as
    torch.round does; infinities stay what they are. The true derivative is 0 almost everywhere, and nothing could be learned
    through it. So the gradient of x is the gradient of the result, unchanged, whatever x and the gradient are (halves, huge
    numbers, infinities). It can be differentiated once more: for y = RoundSTE.apply(x)**3, the first derivative is 3 · round(x)²,
    and the second 6 · round(x).

    x: float16, bfloat16, float32 or float64, any shape. The result has its shape and dtype.

    Not allowed: torch's fake_quantize functions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Round x."""
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Turn the gradient of the result into the gradient of x."""
        return grad


def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute all derivatives of all outputs of a function with respect to all of its inputs.

    J[o..., i...] = ∂ f(x)[o...] / ∂ x[i...]

    The dimensions of the output come first, then those of x: an output of (2, 3) and an x of (5, 7) give (2, 3, 5, 7). Outputs that
    don't depend on x, one or all of them (f may return a constant), have the derivative 0. The derivatives are exact, no finite
    differences. It works inside the caller's torch.no_grad() too, and changes no grad, not even of parameters that f uses.

    Args:
        f: a differentiable function of one tensor; gives a tensor of any shape, 0-d and empty ones included, of the dtype of x.
            Calling it again gives the same. If it uses x itself, beside the tensor that it gets, that x is a constant.
        x: float32 or float64, any shape, 0-d included, at least one entry; it may or may not require a gradient, and may itself be
            computed.

    Returns: (*output shape, *x.shape), dtype of x, without a graph (requires_grad is False).
    Not allowed: torch.autograd.functional and the transforms of torch.func: jacobian, jacrev, jacfwd, vjp, jvp, hessian, linearize.
        (torch.autograd.grad, backward and torch.vmap are fine.)
    """
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        y = f(z)
        outputs = y.flatten().unbind()
    rows = z.new_zeros(len(outputs), *x.shape)
    if y.requires_grad:
        for row, output in zip(rows, outputs, strict=True):
            (gradient,) = torch.autograd.grad(output, z, retain_graph=True, materialize_grads=True)
            row.copy_(gradient)
    return rows.reshape((*y.shape, *x.shape))


def hessian_vector_product(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """Multiply the matrix of second derivatives by a vector, without ever having the matrix (Pearlmutter 1994).

    (H v)_i = Σ_j ∂²f / (∂x_i ∂x_j) · v_j = ∂/∂x_i Σ_j (∂f/∂x_j) · v_j for a fixed v

    One more backward through the gradient is enough, so that time and memory stay a small multiple of f's: x may have a
    million entries, whose Hessian would fill 4 TB. The result is exact, no finite differences. It is 0 where f has no second
    derivative to speak of: f may be linear in x, or not depend on x at all. It works inside the caller's torch.no_grad() too, and
    changes no grad, not even of parameters that f uses.

    Args:
        f: twice differentiable; takes a tensor of the shape of x and gives a 0-d tensor. If it uses x itself, beside the tensor
            that it gets, that x is a constant.
        x: float32 or float64, any shape, 0-d and empty ones included; may require a gradient, and may itself be computed.
        v: shape and dtype of x, of any length: not only unit vectors.

    Returns: shape and dtype of x, without a graph: requires_grad is False.
    Not allowed: torch.autograd.functional and the transforms of torch.func: hvp, vhp, hessian, jacobian, jacrev, jacfwd, vjp, jvp,
        linearize. (torch.autograd.grad and backward are fine.)
    """
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        y = f(z)
        if not y.requires_grad:
            return torch.zeros_like(z)
        (gradient,) = torch.autograd.grad(y, z, create_graph=True, materialize_grads=True)
        if not gradient.requires_grad:
            return torch.zeros_like(z)
        (product,) = torch.autograd.grad(gradient, z, v, materialize_grads=True)
    return product


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """The penalty that keeps the slope of a critic near 1 (WGAN-GP, Gulrajani et al. 2017, algorithm 1, without the factor λ).

    For each sample b of the batch:

        x_b = alpha_b · real_b + (1 − alpha_b) · fake_b
        n_b = the Euclidean norm of ∂ critic(x)_b / ∂ x_b, over all entries of the sample

    The penalty is the mean of (n_b − 1)² over the batch: slopes below 1 cost as much as slopes above. It is there to be minimised:
    penalty.backward() gives the critic's parameters their gradient, through n_b. Where n_b is 0, the gradient of the norm counts
    as 0, so that nothing becomes NaN. (An epsilon of up to 1e-12 under a root is within the tolerance.)

    The call itself changes no grad. Nothing flows into real and fake: after penalty.backward() their grad is as before, even if
    they require gradients.

    Args:
        critic: a module or function; takes (B, ...) and gives one score a sample, (B,) or (B, 1), which depends on that sample alone.
            It is called once, with a batch of the shape of real.
        real, fake: (B, ...), float32 or float64, such as (B, D) or (B, C, H, W); at least two dimensions.
        alpha: (B,), dtype of real, in [0, 1].

    Returns: 0-d tensor, dtype of real, with a graph that leads to the critic's parameters.
    """
    weights = alpha.reshape(-1, *[1] * (real.ndim - 1))
    x = (weights * real + (1 - weights) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1)  # its gradient at 0 is 0; that of a square root is not
    return (norms - 1).square().mean()


class _Recomputed(torch.autograd.Function):
    """Calls f without a graph, and again with one when the gradient is needed."""

    @staticmethod
    def forward(ctx, f, *args):
        ctx.f, ctx.random_state = f, torch.get_rng_state()
        ctx.places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
        ctx.others = [None if isinstance(arg, Tensor) else arg for arg in args]
        ctx.save_for_backward(*(args[i] for i in ctx.places))
        return f(*args)

    @staticmethod
    def backward(ctx, grad):
        leaves = iter([tensor.detach().requires_grad_(tensor.requires_grad) for tensor in ctx.saved_tensors])
        args = [next(leaves) if i in ctx.places else other for i, other in enumerate(ctx.others)]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.random_state)
            result = ctx.f(*args)
        torch.autograd.backward(result, grad)  # not autograd.grad: parameters that f uses need theirs too
        return None, *(arg.grad if isinstance(arg, Tensor) else None for arg in args)


def checkpoint(f: Callable[..., Tensor], *args: Any) -> Tensor:
    """Call f(*args) without keeping its intermediate results, and compute them again in the backward (Chen et al. 2016).

    This trades time for memory. The result and all gradients are those of f(*args) itself; what differs is when f runs:

    - at the call, f runs once and records no graph: torch.is_grad_enabled() is False in it;
    - when the gradient of the result arrives, f runs once more, with gradients enabled, on the same arguments (tensors require a
      gradient in this run exactly if they did at the call), and the gradient goes through what this run recorded: to every
      argument that requires one and to the parameters that f uses, whose grad grows. If nobody asks for a gradient, f doesn't
      run again.

    Both runs see the same random numbers of torch's global CPU generator, so that dropout drops the same entries, whatever was drawn
    in between; and after the second run, the generator is in the state in which that run found it.

    Tensors among the arguments are guarded as everything that autograd keeps: if one is changed in place between the two runs,
    backward raises RuntimeError (ctx.save_for_backward does it). With retain_graph=True, backward may be called several times,
    and f runs once for each. f may call checkpoint itself. Under torch.no_grad(), f runs once, and the result has no graph.

    You will want a class beside this function: a torch.autograd.Function whose forward calls f and whose backward calls it again
    (about 20 lines; the function itself then only applies it).

    Args:
        f: gives one floating tensor, a new one; may be a module.
        args: tensors and anything else (numbers, strings, None, lists), which f gets as it is, in any order; at least one is a tensor
            that requires a gradient and on which the result depends, perhaps the result of a computation. A tensor may occur
            several times.

    Returns: the result of f.
    Not allowed: the functions of torch.utils.checkpoint.
    """
    return _Recomputed.apply(f, *args)


def ema_update_(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move an averaged copy of a model a step towards the model, in place: an exponential moving average of the weights.

    Each parameter a of the average and the parameter p of the model that belongs to it:

        a ← decay · a + (1 − decay) · p

    Every parameter moves, whether or not it is frozen (requires_grad=False) in either of the two. Every buffer, such as the running
    statistics and the step counter of a batch norm, is copied from the model as it is, also those that state_dict leaves out
    (persistent=False).

    The tensors of the average stay the same objects with the same memory: whoever holds one sees the update. No graph is recorded:
    parameters that require gradients are still leaves, still require them, and their grad isn't touched. A parameter that occurs in
    the model twice (tied weights) is updated once.

    Args:
        average: has the architecture of model, for example a copy.deepcopy of it; float32 or float64, parameters finite.
        model: likewise; shares no memory with average.
        decay: in [0, 1], both ends included.

    Returns: None.
    Raises: ValueError if decay is outside [0, 1]; the average is not changed then.
    Not allowed: torch.optim.swa_utils.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            a.mul_(decay).add_(p, alpha=1 - decay)
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.copy_(b)


def record_activation_gradients(
    model: nn.Module,
    names: Sequence[str],
    x: Tensor,
    loss_fn: Callable[[Tensor], Tensor],
) -> dict[str, list[Tensor]]:
    """Go forward and backward through a model once, and bring back the gradients of the loss with respect to layers' outputs.

    Computes loss = loss_fn(model(x)) and calls backward on it, so that each p.grad grows as it always does. Meanwhile hooks
    on the named layers note ∂ loss / ∂ output for each call of the layer. Output is what that call returned, hooks that the layer
    had before included, even if the next layer overwrites it in place, as nn.ReLU(inplace=True) does. (Careful: Tensor.retain_grad
    notes the gradient after the overwriting, and a module's full backward hook forbids it.)

    A layer may be called several times in one forward: its gradients are listed in the order of the calls of the forward. A layer
    that isn't called has an empty list, and a call on whose output the loss doesn't depend has a gradient of zeros.

    Afterwards no hook of this function is left on any module, also if model or loss_fn raised an error, which is passed on as it is,
    whatever its type; hooks that were there before still are.

    Args:
        model: is called once.
        names: of submodules, different ones, perhaps none, as model.get_submodule understands them: "0", "encoder.linear"; "" is the
            model itself. A module that has two names can be asked for by each. Each gives one tensor that requires a gradient; two
            may give the same one, as nn.Identity gives what it gets.
        x: the model's input.
        loss_fn: takes the model's output and gives a 0-d tensor.

    Returns: for each name the list of gradients, each of the shape and dtype of the output, without a graph.
    Raises: ValueError if the model has no submodule of a name; the model isn't called then.
    """
    try:
        layers = {name: model.get_submodule(name) for name in names}
    except AttributeError as error:
        raise ValueError(str(error)) from error
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook_for(gradients: list[Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            place = len(gradients)
            gradients.append(torch.zeros_like(output))
            output.register_hook(lambda gradient: gradients.__setitem__(place, gradient))

        return hook

    handles = [layer.register_forward_hook(hook_for(found[name])) for name, layer in layers.items()]
    try:
        loss_fn(model(x)).backward()
    finally:
        for handle in handles:
            handle.remove()
    return found
