"""Other correct answers to the tasks of autograd: the hidden suite must accept every one."""

import functools
import itertools
import math
import operator
from collections import defaultdict

import numpy as np
import torch
from torch import nn

from grader.testing import alternative

# Value


@alternative("Value")
class WithClosures:
    """In micrograd's style: each result has a function that sends a gradient on."""

    def __init__(self, data, inputs=(), send=None):
        self.data, self.grad = data, 0
        self.inputs, self.send = inputs, send

    def _combine(self, other, data, slopes):
        return WithClosures(data, (self, other), lambda g: [g * slope for slope in slopes])

    def _lift(self, other):
        return other if isinstance(other, WithClosures) else WithClosures(other)

    def _map(self, data, slope):
        return WithClosures(data, (self,), lambda g: [g * slope])

    def __add__(self, other):
        other = self._lift(other)
        return self._combine(other, self.data + other.data, (1, 1))

    def __sub__(self, other):
        other = self._lift(other)
        return self._combine(other, self.data - other.data, (1, -1))

    def __mul__(self, other):
        other = self._lift(other)
        return self._combine(other, self.data * other.data, (other.data, self.data))

    def __truediv__(self, other):
        return self * self._lift(other) ** -1

    def __radd__(self, other):
        return self + other

    def __rmul__(self, other):
        return self * other

    def __rsub__(self, other):
        return WithClosures(other) - self

    def __rtruediv__(self, other):
        return WithClosures(other) / self

    def __neg__(self):
        return self._map(-self.data, -1)

    def __pow__(self, exponent):
        if not isinstance(exponent, int | float):
            raise TypeError("exponent")
        if exponent == 0:
            return self._map(1.0, 0.0)
        return self._map(self.data**exponent, exponent * self.data ** (exponent - 1))

    def exp(self):
        e = math.exp(self.data)
        return self._map(e, e)

    def tanh(self):
        t = math.tanh(self.data)
        return self._map(t, (1 - t) * (1 + t))

    def relu(self):
        return self._map(self.data, 1) if self.data > 0 else self._map(0, 0)

    def backward(self):
        uses, reached, todo = defaultdict(int), {self}, [self]
        while todo:  # how many uses of each node have to report
            for value in todo.pop().inputs:
                uses[value] += 1
                if value not in reached:
                    reached.add(value)
                    todo.append(value)
        gradient, ready = defaultdict(float), [self]
        gradient[self] = 1.0
        while ready:
            node = ready.pop()
            node.grad += gradient[node]
            for value, part in zip(node.inputs, node.send(gradient[node]) if node.send else (), strict=True):
                gradient[value] += part
                uses[value] -= 1
                if uses[value] == 0:
                    ready.append(value)


@alternative("Value")
class NumberedByAge:
    """Results are younger than what they were computed from, so a counter gives the order."""

    _ages = itertools.count()

    def __init__(self, data):
        self.age, self.data, self.grad, self.edges = next(NumberedByAge._ages), float(data), 0.0, []

    @classmethod
    def _make(cls, data, *edges):
        made = cls(data)
        made.edges = list(edges)
        return made

    def _other(self, other):
        return other if isinstance(other, NumberedByAge) else NumberedByAge(other)

    def __add__(self, other):
        other = self._other(other)
        return self._make(self.data + other.data, (self, 1.0), (other, 1.0))

    def __mul__(self, other):
        other = self._other(other)
        return self._make(self.data * other.data, (self, other.data), (other, self.data))

    def __neg__(self):
        return self._make(-self.data, (self, -1.0))

    def __pow__(self, n):
        if isinstance(n, NumberedByAge):
            raise TypeError("no Value as exponent")
        return self._make(self.data**n, (self, 0.0 if n == 0 else n * self.data ** (n - 1)))

    def __sub__(self, other):
        return self + (-1) * self._other(other)

    def __rsub__(self, other):
        return (-self) + other

    def __truediv__(self, other):
        other = self._other(other)
        return self._make(self.data / other.data, (self, 1 / other.data), (other, -self.data / (other.data * other.data)))

    def __rtruediv__(self, other):
        return self._other(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        return self._make(math.exp(self.data), (self, math.exp(self.data)))

    def tanh(self):
        return self._make(math.tanh(self.data), (self, 1 - math.tanh(self.data) ** 2))

    def relu(self):
        return self._make(self.data if self.data > 0 else 0.0, (self, 1.0 if self.data > 0 else 0.0))

    def backward(self):
        nodes, todo = {self.age: self}, [self]
        while todo:
            for value, _ in todo.pop().edges:
                if value.age not in nodes:
                    nodes[value.age] = value
                    todo.append(value)
        arrived = {self.age: [1.0]}
        for age in sorted(nodes, reverse=True):
            total = math.fsum(arrived[age])
            nodes[age].grad += total
            for value, slope in nodes[age].edges:
                arrived.setdefault(value.age, []).append(slope * total)


class _Operation:
    """One operation in minitorch's style: what to compute, and how to send a derivative back from the numbers that were saved."""

    def __init__(self, forward, backward):
        self.forward, self.backward = forward, backward

    def __call__(self, *operands):
        operands = [o if isinstance(o, WithHistory) else WithHistory(o) for o in operands]
        numbers = tuple(o.data for o in operands)
        result = WithHistory(self.forward(*numbers))
        result.history = (self, numbers, operands)
        return result


_plus = _Operation(lambda a, b: a + b, lambda d, a, b: (d, d))
_times = _Operation(lambda a, b: a * b, lambda d, a, b: (d * b, d * a))
_negative = _Operation(lambda a: -a, lambda d, a: (-d,))
_inverse = _Operation(lambda a: 1.0 / a, lambda d, a: (-d / a / a,))
_exponential = _Operation(math.exp, lambda d, a: (d * math.exp(a),))
_tangent = _Operation(math.tanh, lambda d, a: (d * (1.0 - math.tanh(a) ** 2),))
_positive = _Operation(lambda a: a if a > 0 else 0.0, lambda d, a: (d if a > 0 else 0.0,))


@alternative("Value")
class WithHistory:
    def __init__(self, data):
        self.data, self.grad, self.history = data, 0.0, None

    __add__, __radd__ = lambda a, b: _plus(a, b), lambda a, b: _plus(b, a)
    __mul__, __rmul__ = lambda a, b: _times(a, b), lambda a, b: _times(b, a)
    __sub__, __rsub__ = lambda a, b: _plus(a, _negative(b)), lambda a, b: _plus(b, _negative(a))
    __truediv__, __rtruediv__ = lambda a, b: _times(a, _inverse(b)), lambda a, b: _times(b, _inverse(a))

    def __neg__(self):
        return _negative(self)

    def __pow__(self, n):
        if isinstance(n, WithHistory):
            raise TypeError("constant exponents only")
        return _Operation(lambda a: a**n, lambda d, a: (d * n * a ** (n - 1) if n else 0.0,))(self)

    def exp(self):
        return _exponential(self)

    def tanh(self):
        return _tangent(self)

    def relu(self):
        return _positive(self)

    def backward(self):
        marked, order, todo = {id(self)}, [], [(self, iter(self.history[2] if self.history else ()))]
        while todo:
            node, parents = todo[-1]
            fresh = next((p for p in parents if id(p) not in marked), None)
            if fresh is None:
                order.append(todo.pop()[0])
            else:
                marked.add(id(fresh))
                todo.append((fresh, iter(fresh.history[2] if fresh.history else ())))
        due = {id(self): 1.0}
        for node in order[::-1]:
            d = due.pop(id(node))
            node.grad += d
            if node.history:
                operation, numbers, operands = node.history
                for operand, part in zip(operands, operation.backward(d, *numbers), strict=True):
                    due[id(operand)] = due.get(id(operand), 0.0) + part


# unbroadcast


@alternative("unbroadcast")
def with_torchs_shape_rule(grad, shape):
    try:
        fits = torch.broadcast_shapes(tuple(shape), grad.shape) == grad.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError("shape")
    while grad.ndim > len(shape):
        grad = grad.sum(0)
    for dim, size in enumerate(shape):
        if size == 1:
            grad = grad.sum(dim, keepdim=True)
    return grad


@alternative("unbroadcast")
def by_accumulating(grad, shape):
    shape = tuple(shape)
    result = torch.zeros(shape, dtype=torch.float64)
    try:
        places = torch.arange(result.numel()).reshape(shape).expand(grad.shape)
    except RuntimeError as error:
        raise ValueError("shape") from error
    result = result.flatten().index_add(0, places.reshape(-1), grad.double().reshape(-1))
    return result.reshape(shape).to(grad.dtype)


@alternative("unbroadcast")
def with_einsum(grad, shape):
    missing = grad.ndim - len(shape)
    if missing < 0:
        raise ValueError("too long")
    padded = (1,) * missing + tuple(shape)
    for ours, theirs in zip(padded, grad.shape, strict=True):
        if ours != theirs and ours != 1:
            raise ValueError("sizes")
    axes = list(range(grad.ndim))
    return torch.einsum(grad, axes, [i for i in axes if padded[i] != 1]).reshape(tuple(shape))


@alternative("unbroadcast")
def where_sizes_differ(grad, shape):
    padded = [1] * (grad.dim() - len(shape)) + list(shape)
    if len(padded) != grad.dim() or any(p not in (g, 1) for p, g in zip(padded, grad.shape, strict=True)):
        raise ValueError("shape")
    changed = [i for i, (p, g) in enumerate(zip(padded, grad.shape, strict=True)) if p != g]
    return (grad.sum(changed, keepdim=True) if changed else grad.clone()).reshape(torch.Size(shape))


# numerical_gradient


@alternative("numerical_gradient")
def with_a_matrix_of_steps(f, x, eps=1e-6):
    flat = x.detach().reshape(-1).to(torch.float64)
    steps = eps * torch.eye(x.numel(), dtype=torch.float64)
    slopes = [0.5 / eps * (f((flat + s).view(x.shape)).item() - f((flat - s).view(x.shape)).item()) for s in steps]
    return torch.tensor(slopes, dtype=torch.float64).reshape(x.shape)


@alternative("numerical_gradient")
@torch.no_grad()
def moves_entries_of_a_copy(f, x, eps=1e-6):
    point = torch.empty(x.shape, dtype=torch.float64).copy_(x)
    result = torch.empty_like(point)
    for place in itertools.product(*map(range, x.shape)):
        kept = float(point[place])
        point[place] = kept + eps
        result[place] = f(point)
        point[place] = kept - eps
        result[place] -= f(point)
        point[place] = kept
    return result / (2 * eps)


@alternative("numerical_gradient")
def with_numpy(f, x, eps=1e-6):
    point = x.detach().numpy().astype(np.float64)
    gradient = np.zeros_like(point)
    for place in np.ndindex(point.shape):
        ends = []
        for sign in (1, -1):
            moved = point.copy()
            moved[place] += sign * eps
            ends.append(f(torch.from_numpy(moved)).item())
        gradient[place] = (ends[0] - ends[1]) / (2 * eps)
    return torch.from_numpy(gradient)


# Softplus


@alternative("Softplus")
class BySetupContext(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return torch.where(x > 0, x + torch.log1p(torch.exp(-x)), torch.log1p(torch.exp(x)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0]
        return grad * torch.exp(torch.where(x > 0, -torch.log1p(torch.exp(-x.abs())), x - torch.log1p(torch.exp(-x.abs()))))


@alternative("Softplus")
class FromItsResult(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        h = x.double()
        y = torch.maximum(h, torch.zeros_like(h)) + torch.log1p(torch.exp(-torch.abs(h)))
        y = y.to(x.dtype)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * -torch.expm1(-y)


@alternative("Softplus")
class WithTorchsThreshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 20, x, torch.log1p(torch.exp(torch.clamp(x, max=20))))

    @staticmethod
    def backward(ctx, grad):
        z = torch.exp(-ctx.saved_tensors[0].abs())
        return grad * torch.where(ctx.saved_tensors[0] > 0, 1 / (1 + z), z / (1 + z))


# RoundSTE


@alternative("RoundSTE")
class WithTheDetachTrick(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return torch.round(x).clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.shape = output.shape

    @staticmethod
    def backward(ctx, grad):
        return grad.view_as(grad) * 1


@alternative("RoundSTE")
class FromTheFloor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        below = torch.floor(x)
        part = torch.where(x.isinf(), torch.zeros_like(x), x - below)
        odd = torch.fmod(below, 2) != 0
        return torch.where((part > 0.5) | ((part == 0.5) & odd), below + 1, below)

    @staticmethod
    def backward(ctx, grad):
        return grad.clone()


# jacobian


@alternative("jacobian")
def all_rows_at_once(f, x):
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        y = f(z)
    n = y.numel()
    if n == 0 or not y.requires_grad:
        return torch.zeros(y.shape + x.shape, dtype=x.dtype)
    units = torch.eye(n, dtype=y.dtype).reshape(n, *y.shape)
    (rows,) = torch.autograd.grad(y, z, units, is_grads_batched=True, allow_unused=True)
    return torch.zeros(y.shape + x.shape, dtype=x.dtype) if rows is None else rows.reshape(y.shape + x.shape)


@alternative("jacobian")
def by_backward_on_own_leaf(f, x):
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        y = f(z)
        J = torch.zeros((*y.shape, *x.shape), dtype=x.dtype)
        for place in itertools.product(*map(range, y.shape)):
            if y.requires_grad:
                z.grad = torch.zeros_like(z)
                y[place].backward(retain_graph=True, inputs=[z])
                J[place] = z.grad
    return J


@alternative("jacobian")
def column_by_column(f, x):
    x, columns = x.detach(), []
    with torch.autograd.forward_ad.dual_level():
        for i in range(x.numel()):
            unit = torch.zeros(x.numel(), dtype=x.dtype)
            unit[i] = 1
            y = f(torch.autograd.forward_ad.make_dual(x.contiguous(), unit.reshape(x.shape)))
            value, tangent = torch.autograd.forward_ad.unpack_dual(y)
            columns.append(torch.zeros_like(value) if tangent is None else tangent)
    return torch.stack(columns, -1).reshape(columns[0].shape + x.shape).detach()


@alternative("jacobian")
def mapped_over_unit_vectors(f, x):
    with torch.enable_grad():
        z = torch.autograd.Variable(x.detach().clone(), requires_grad=True)
        y = f(z)
        if y.requires_grad and y.numel():
            units = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
            rows = torch.vmap(lambda u: torch.autograd.grad(y, z, u, retain_graph=True, materialize_grads=True)[0])(units)
            return rows.reshape(y.shape + x.shape)
    return x.new_zeros(y.shape + x.shape, requires_grad=False)


# hessian_vector_product


@alternative("hessian_vector_product")
@torch.enable_grad()
def through_the_directional_derivative(f, x, v):
    z = x.detach().clone().requires_grad_(True)
    nothing = 0 * (z * z).sum()  # gives every function a graph that leads to x, twice
    (g,) = torch.autograd.grad(f(z) + nothing, z, create_graph=True)
    return torch.autograd.grad((g * v).sum(), z)[0]


@alternative("hessian_vector_product")
def forward_over_reverse(f, x, v):
    z = x.detach()
    with torch.enable_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z.clone().requires_grad_(), v)
        y = f(dual)
        if not y.requires_grad:
            return torch.zeros_like(z)
        (g,) = torch.autograd.grad(y, dual, materialize_grads=True)
        tangent = torch.autograd.forward_ad.unpack_dual(g).tangent
        return torch.zeros_like(z) if tangent is None else tangent.detach()


@alternative("hessian_vector_product")
def through_a_vector_of_weights(f, x, v):
    """The gradient is linear in the weight of f: its derivative along v, taken for that weight, is ∇f · v."""
    with torch.enable_grad():
        z, weight = x.detach().clone().requires_grad_(), torch.ones((), dtype=x.dtype, requires_grad=True)
        y = f(z) + 0 * z.sum()
        (g,) = torch.autograd.grad(y, z, weight, create_graph=True)
        (slope,) = torch.autograd.grad(g, weight, v, create_graph=True)
        product = torch.autograd.grad(slope, z, allow_unused=True)[0] if slope.requires_grad else None
    return torch.zeros(x.shape, dtype=x.dtype) if product is None else product


# gradient_penalty


@alternative("gradient_penalty")
def with_lerp_and_ones(critic, real, fake, alpha):
    a = alpha.view([len(alpha)] + [1] * (real.dim() - 1)).expand_as(real)
    x = torch.lerp(fake.detach(), real.detach(), a)
    x.requires_grad_(True)
    scores = critic(x)
    g = torch.autograd.grad(scores, x, grad_outputs=torch.ones_like(scores), create_graph=True, retain_graph=True)[0]
    return (g.reshape(len(real), -1).norm(2, dim=1) - 1.0).pow(2).mean()


@alternative("gradient_penalty")
def with_an_epsilon_under_the_root(critic, real, fake, alpha):
    rows = [a * r + (1 - a) * f for a, r, f in zip(alpha, real, fake, strict=True)]
    x = torch.stack(rows).detach().requires_grad_()
    g = torch.autograd.grad(critic(x).sum(), [x], create_graph=True)[0]
    squares = (g * g).sum(dim=tuple(range(1, g.ndim)))
    return nn.functional.mse_loss((squares + 1e-12).sqrt(), torch.ones_like(squares))


@alternative("gradient_penalty")
def one_slope_after_the_other(critic, real, fake, alpha):
    x = (fake + torch.einsum("b,b...->b...", alpha, real - fake)).data
    x = torch.autograd.Variable(x, requires_grad=True)
    total = 0.0
    for b, score in enumerate(critic(x).reshape(len(x))):
        gradient = torch.autograd.grad(score, x, create_graph=True)[0][b]
        total = total + torch.dist(gradient, torch.zeros_like(gradient)).sub(1).pow(2)
    return total / len(x)


# checkpoint


@alternative("checkpoint")
def with_everything_on_the_context(f, *args):
    class Rerun(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            ctx.state = torch.random.get_rng_state()
            ctx.tensors = [a for a in given if torch.is_tensor(a)]
            ctx.rest = [a if not torch.is_tensor(a) else ... for a in given]
            ctx.save_for_backward(*ctx.tensors)
            del ctx.tensors
            with torch.no_grad():
                return f(*given)

        @staticmethod
        def backward(ctx, grad):
            tensors = iter(ctx.saved_tensors)
            given = [next(tensors) if a is ... else a for a in ctx.rest]
            needed = ctx.needs_input_grad
            fresh = [a.detach().requires_grad_(n) if torch.is_tensor(a) else a for a, n in zip(given, needed, strict=True)]
            now = torch.random.get_rng_state()
            try:
                torch.random.set_rng_state(ctx.state)
                with torch.enable_grad():
                    weighted = (f(*fresh) * grad).sum()
            finally:
                torch.random.set_rng_state(now)
            weighted.backward()
            return tuple(a.grad if n else None for a, n in zip(fresh, needed, strict=True))

    return Rerun.apply(*args)


class _Frame:
    """What a second run needs besides its tensors."""

    def __init__(self, f, args):
        self.f, self.state = f, torch.get_rng_state()
        self.template = tuple((i, None) if isinstance(a, torch.Tensor) else (None, a) for i, a in enumerate(args))

    def fill(self, tensors):
        source = iter(tensors)
        return [a if i is None else next(source) for i, a in self.template]


class _SetUp(torch.autograd.Function):
    """The style with setup_context; tensors come last, so that the frame can say where they belong."""

    @staticmethod
    def forward(frame, *tensors):
        return frame.f(*frame.fill(tensors))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.frame = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad):
        with torch.enable_grad(), torch.random.fork_rng(enabled=True, devices=[]):
            torch.set_rng_state(ctx.frame.state)
            copies = [t.detach().clone().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
            out = ctx.frame.f(*ctx.frame.fill(copies))
            out.backward(grad)
        return None, *(c.grad for c in copies)


@alternative("checkpoint")
def with_a_frame(f, *args):
    frame = _Frame(f, args)
    return _SetUp.apply(frame, *(a for a in args if isinstance(a, torch.Tensor)))


# ema_update_


@alternative("ema_update_")
@torch.no_grad()
def by_name_with_lerp(average, model, decay):
    if decay < 0 or decay > 1:
        raise ValueError("decay")
    theirs = dict(model.named_parameters())
    for name, a in average.named_parameters():
        a.lerp_(theirs[name], 1 - decay)
    buffers = dict(model.named_buffers())
    for name, b in average.named_buffers():
        b[...] = buffers[name]


@alternative("ema_update_")
def through_data(average, model, decay):
    if not (decay >= 0 and decay <= 1):
        raise ValueError("decay")
    for mine, theirs in zip(average.modules(), model.modules(), strict=True):
        for name, buffer in mine._buffers.items():
            if buffer is not None:
                buffer.data.copy_(theirs._buffers[name])
    for a, p in zip(list(average.parameters()), list(model.parameters()), strict=True):
        a.data.copy_((decay * a.data.double() + (1 - decay) * p.data.double()).to(a.dtype))


@alternative("ema_update_")
def with_foreach(average, model, decay):
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"decay: {decay}")
    with torch.no_grad():
        ours, theirs = [p.detach() for p in average.parameters()], [p.detach() for p in model.parameters()]
        torch._foreach_mul_(ours, decay)
        torch._foreach_add_(ours, theirs, alpha=1 - decay)
        ours, theirs = list(average.buffers()), list(model.buffers())
        if ours:
            torch._foreach_copy_(ours, theirs)


@alternative("ema_update_")
@torch.no_grad()
def subtracts_a_share_of_the_difference(average, model, decay):
    if not 0 <= decay <= 1:
        raise ValueError("decay")
    for module, source in zip(average.modules(), model.modules(), strict=True):
        for name, buffer in module.named_buffers(recurse=False):
            buffer.copy_(source.get_buffer(name))
    theirs = dict(model.named_parameters())
    for name, shadow in average.named_parameters():
        shadow.sub_((1.0 - decay) * (shadow - theirs[name]))


# record_activation_gradients


@alternative("record_activation_gradients")
def with_copies_of_outputs(model, names, x, loss_fn):
    kept, handles = {name: [] for name in names}, []

    def remember(outputs, module, args, output):
        outputs.append(output)
        output.retain_grad()
        return output.clone()  # what comes next may overwrite the copy

    try:
        for name in names:
            try:
                layer = model.get_submodule(name)
            except AttributeError:
                raise ValueError(name) from None
            handles.append(layer.register_forward_hook(functools.partial(remember, kept[name])))
        loss_fn(model(x)).backward()
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: [output.grad.clone() if output.grad is not None else torch.zeros(output.shape, dtype=output.dtype) for output in outputs]
        for name, outputs in kept.items()
    }


@alternative("record_activation_gradients")
def with_numbered_calls(model, names, x, loss_fn):
    every = dict(model.named_modules(remove_duplicate=False))
    if not set(names) <= set(every):
        raise ValueError("no such module")
    calls, gradients, removes = [], {}, []

    def on_forward(name):
        def note(module, args, output):
            number = len(calls)
            calls.append((name, output.detach().clone()))
            output.register_hook(lambda g: operator.setitem(gradients, number, g.detach().clone()))

        return note

    for name in names:
        removes.append(every[name].register_forward_hook(on_forward(name)).remove)
    try:
        torch.autograd.backward(loss_fn(model(x)))
    finally:
        while removes:
            removes.pop()()
    result = {name: [] for name in names}
    for number, (name, output) in enumerate(calls):
        result[name].append(gradients[number] if number in gradients else 0 * output)
    return result


@alternative("record_activation_gradients")
def with_added_zeros(model, names, x, loss_fn):
    """A zero that is added to an output has the output's gradient."""
    added, handles = {name: [] for name in names}, []

    def adding(zeros):
        def hook(module, args, output):
            zeros.append(torch.zeros_like(output, requires_grad=True))
            return output + zeros[-1]

        return hook

    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in modules:
            raise ValueError(f"no {name}")
    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(adding(added[name])))
        loss = loss_fn(model(x))
    finally:
        [handle.remove() for handle in handles]
    loss.backward()
    return {name: [torch.zeros_like(z).detach() if z.grad is None else z.grad for z in zeros] for name, zeros in added.items()}
