"""Named wrong answers to the tasks of autograd: the hidden suite must reject every one."""

import copy
import math
import sys

import torch

from grader.testing import misconception
from solutions.autograd import Value as ReferenceValue
from solutions.autograd import checkpoint as reference_checkpoint
from solutions.autograd import ema_update_ as reference_ema_update
from solutions.autograd import jacobian as reference_jacobian
from solutions.autograd import record_activation_gradients as reference_record
from solutions.autograd import unbroadcast as reference_unbroadcast

# Value


@misconception("Value", "Sets a gradient where it has to add: only the last use of a shared Value counts.")
class SetsInsteadOfAdding(ReferenceValue):
    def backward(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((value, False) for value, _ in node._inputs)
        derivative = dict.fromkeys(order, 0.0)
        derivative[self] = 1.0
        for node in reversed(order):
            node.grad += derivative[node]
            for value, slope in node._inputs:
                derivative[value] = slope * derivative[node]


@misconception(
    "Value",
    "Visits the nodes by their distance from the result, so a shared node passes its gradient on before all of its uses have reported.",
)
class BreadthFirst(ReferenceValue):
    def backward(self):
        order, seen = [self], {self}
        for node in order:
            for value, _ in node._inputs:
                if value not in seen:
                    seen.add(value)
                    order.append(value)
        derivative = dict.fromkeys(order, 0.0)
        derivative[self] = 1.0
        for node in order:
            node.grad += derivative[node]
            for value, slope in node._inputs:
                derivative[value] += slope * derivative[node]


@misconception("Value", "Lists the nodes by recursion, one Python call for each operation: deep expressions end in a RecursionError.")
class Recursive(ReferenceValue):
    def backward(self):
        order, seen = [], set()

        def visit(node):
            if node not in seen:
                seen.add(node)
                for value, _ in node._inputs:
                    visit(value)
                order.append(node)

        visit(self)
        derivative = dict.fromkeys(order, 0.0)
        derivative[self] = 1.0
        for node in reversed(order):
            node.grad += derivative[node]
            for value, slope in node._inputs:
                derivative[value] += slope * derivative[node]


class _PropagatesGrad(ReferenceValue):
    """Sends on what stands in grad, as micrograd does, after `prepare` has had a look at the nodes."""

    def prepare(self, order):
        pass

    def backward(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((value, False) for value, _ in node._inputs)
        self.prepare(order)
        self.grad = 1.0
        for node in reversed(order):
            for value, slope in node._inputs:
                value.grad += slope * node.grad


@misconception(
    "Value", "Sends on what stands in grad: at a second backward, the gradients of the first, left in intermediate results, flow once more."
)
class SendsOldGradientsAgain(_PropagatesGrad):
    pass


@misconception("Value", "Clears all gradients before the pass: a second backward replaces what it should add to.")
class ClearsBeforehand(_PropagatesGrad):
    def prepare(self, order):
        for node in order:
            node.grad = 0.0


@misconception("Value", "2 − x and 2 / x are computed as x − 2 and x / 2: subtraction and division can't be turned around.")
class ReflectedTheWrongWay(ReferenceValue):
    def __rsub__(self, other):
        return self - other

    def __rtruediv__(self, other):
        return self / other


@misconception("Value", "Passes the derivative of relu at 0 as 1; it is 0 there, by the usual convention and the statement.")
class SlopeOfReluAtZero(ReferenceValue):
    def relu(self):
        return ReferenceValue._computed(max(self.data, 0.0), (self, float(self.data >= 0)))


@misconception("Value", "Computes tanh from exponentials, which overflow for large numbers.")
class TanhOverflows(ReferenceValue):
    def tanh(self):
        e = math.exp(2 * self.data)
        t = (e - 1) / (e + 1)
        return ReferenceValue._computed(t, (self, 1 - t * t))


@misconception("Value", "Changes the left operand in += and its kind: whoever else holds that Value sees another number.")
class AddsInPlace(ReferenceValue):
    def __iadd__(self, other):
        old = ReferenceValue._computed(self.data, *self._inputs)
        result = old + other
        self.data, self._inputs = result.data, result._inputs
        return self


@misconception("Value", "Takes the number out of a Value that is given as exponent: it would never receive its derivative.")
class ExponentWithoutDerivative(ReferenceValue):
    def __pow__(self, exponent):
        return super().__pow__(exponent.data if isinstance(exponent, ReferenceValue) else exponent)


@misconception("Value", "relu returns self where it changes nothing: the result then has no grad of its own.")
class ReluReturnsSelf(ReferenceValue):
    def relu(self):
        return self if self.data > 0 else super().relu()


@misconception("Value", "Reads the operands' data during backward: whoever has set new data by then gets the derivative at another point.")
class ReadsDataLate:
    def __init__(self, data, inputs=(), slopes=lambda: ()):
        self.data, self.grad, self._inputs, self._slopes = float(data), 0.0, inputs, slopes

    def _of(self, other):
        return other if isinstance(other, ReadsDataLate) else ReadsDataLate(other)

    def __add__(self, other):
        other = self._of(other)
        return ReadsDataLate(self.data + other.data, (self, other), lambda: (1.0, 1.0))

    def __mul__(self, other):
        other = self._of(other)
        return ReadsDataLate(self.data * other.data, (self, other), lambda: (other.data, self.data))

    def __pow__(self, n):
        if isinstance(n, ReadsDataLate):
            raise TypeError("exponent")
        return ReadsDataLate(self.data**n, (self,), lambda: (n * self.data ** (n - 1) if n else 0.0,))

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -self._of(other)

    def __rsub__(self, other):
        return self._of(other) - self

    def __truediv__(self, other):
        return self * self._of(other) ** -1

    def __rtruediv__(self, other):
        return self._of(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        out = ReadsDataLate(math.exp(self.data), (self,))
        out._slopes = lambda: (out.data,)
        return out

    def tanh(self):
        return ReadsDataLate(math.tanh(self.data), (self,), lambda: (1 - math.tanh(self.data) ** 2,))

    def relu(self):
        return ReadsDataLate(max(self.data, 0.0), (self,), lambda: (float(self.data > 0),))

    def backward(self):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((value, False) for value in node._inputs)
        derivative = dict.fromkeys(order, 0.0)
        derivative[self] = 1.0
        for node in reversed(order):
            node.grad += derivative[node]
            for value, slope in zip(node._inputs, node._slopes(), strict=True):
                derivative[value] += slope * derivative[node]


@misconception("Value", "Raises Python's limit on recursion for deep expressions, and leaves it raised for everybody.")
class RaisesTheLimit(ReferenceValue):
    def backward(self):
        sys.setrecursionlimit(100_000)
        Recursive.backward(self)


@misconception("Value", "Returns self for 0 + x, so that sum works: the result then is x, and has no grad of its own.")
class AddsNothingToZero(ReferenceValue):
    def __radd__(self, other):
        return self if other == 0 else self + other


@misconception("Value", "Writes tanh as 1 − 2 / (exp(2x) + 1), which overflows nowhere, but loses small numbers in the difference.")
class TanhCancels(ReferenceValue):
    def tanh(self):
        t = 1 - 2 / (math.exp(2 * self.data) + 1) if self.data < 300 else 1.0
        return ReferenceValue._computed(t, (self, 1 - t * t))


@misconception("Value", "Takes a number of 0 for no number: `if not other` and `data or …` meet it too.")
class TakesZeroForNothing(ReferenceValue):
    def __mul__(self, other):
        return super().__mul__(other or 1.0)


# unbroadcast


@misconception("unbroadcast", "Sums over the missing dimensions only: those that the operand has with size 1 were stretched too.")
def sums_missing_dimensions_only(grad, shape):
    reference_unbroadcast(grad, shape)
    while grad.ndim > len(shape):
        grad = grad.sum(0)
    return grad


@misconception("unbroadcast", "Sums over dimensions of size 1 but leaves the missing ones out, so the result has too many dimensions.")
def keeps_missing_dimensions(grad, shape):
    reference_unbroadcast(grad, shape)
    extra = grad.ndim - len(shape)
    for i, size in enumerate(shape):
        if size == 1:
            grad = grad.sum(extra + i, keepdim=True)
    for i in range(extra):
        grad = grad.sum(i, keepdim=True)
    return grad


@misconception("unbroadcast", "Lines the shapes up at their first dimension; broadcasting lines them up at the last.")
def lines_up_on_the_left(grad, shape):
    reference_unbroadcast(grad, shape)
    padded = [*shape] + [1] * (grad.ndim - len(shape))
    for i, size in enumerate(padded):
        if size == 1:
            grad = grad.sum(i, keepdim=True)
    return grad.reshape(tuple(shape)) if grad.numel() == math.prod(shape) else grad


@misconception("unbroadcast", "Averages over the places where an entry was used; a gradient is their sum.")
def averages(grad, shape):
    result = reference_unbroadcast(grad, shape)
    return result * (max(result.numel(), 1) / max(grad.numel(), 1))


@misconception("unbroadcast", "Picks one place instead of adding all up.")
def takes_the_first_place(grad, shape):
    extra = grad.ndim - len(shape)
    reference_unbroadcast(grad, shape)
    for _ in range(extra):
        grad = grad[0] if len(grad) else grad.sum(0)
    for i, size in enumerate(shape):
        if size == 1:
            grad = grad.narrow(i, 0, min(1, grad.shape[i]))
    return grad


@misconception("unbroadcast", "Sums over an empty list of dimensions, which torch takes for all of them.")
def sums_everything_if_nothing_is_to_sum(grad, shape):
    reference_unbroadcast(grad, shape)
    extra = grad.ndim - len(shape)
    grad = grad.sum(tuple(range(extra)), keepdim=False)
    return grad.sum([i for i, size in enumerate(shape) if size == 1], keepdim=True) if grad.ndim == len(shape) else grad


@misconception("unbroadcast", "Doesn't look whether the shape could have been broadcast at all.")
def accepts_every_shape(grad, shape):
    while grad.ndim > len(shape):
        grad = grad.sum(0)
    for i, size in enumerate(shape[: grad.ndim]):
        if size == 1:
            grad = grad.sum(i, keepdim=True)
    return grad


@misconception("unbroadcast", "Folds the missing dimensions with view, which a transposed gradient refuses.")
def folds_with_view(grad, shape):
    reference_unbroadcast(grad, shape)
    extra = grad.ndim - len(shape)
    grad = grad.view(math.prod(grad.shape[:extra]), *grad.shape[extra:]).sum(0)
    for i, size in enumerate(shape):
        if size == 1:
            grad = grad.sum(i, keepdim=True)
    return grad


@misconception("unbroadcast", "Multiplies by a matrix of zeros and ones that says which place belongs to which entry: 0 · NaN is NaN.")
def multiplies_by_a_mask(grad, shape):
    reference_unbroadcast(grad, shape)
    n = math.prod(shape)
    owner = torch.arange(n).reshape(tuple(shape)).expand(grad.shape).reshape(-1)
    mask = (owner == torch.arange(n)[:, None]).to(grad.dtype)
    return (mask @ grad.reshape(-1)).reshape(tuple(shape))


@misconception("unbroadcast", "Puts the missing sizes into the shape that was given: the caller's list is longer afterwards.")
def lengthens_the_given_list(grad, shape):
    result = reference_unbroadcast(grad, shape)
    if isinstance(shape, list):
        while len(shape) < grad.ndim:
            shape.insert(0, 1)
    return result


@misconception("unbroadcast", "Squeezes dimensions of size 1 away; those that the operand has must stay.")
def squeezes_ones(grad, shape):
    return reference_unbroadcast(grad, shape).squeeze()


# numerical_gradient


def _differences(f, point, eps, difference):
    """A gradient from a rule for the difference at one entry."""
    result = torch.zeros(point.shape, dtype=torch.float64).flatten()
    flat = point.flatten()
    for i in range(len(flat)):
        step = torch.zeros_like(flat)
        step[i] = eps
        result[i] = difference(lambda z: f(z.reshape(point.shape)).item(), flat, step)
    return result.reshape(point.shape)


@misconception("numerical_gradient", "Takes a one-sided difference, whose error is eps instead of eps².")
def one_sided(f, x, eps=1e-6):
    return _differences(f, x.detach().double(), eps, lambda g, p, step: (g(p + step) - g(p)) / eps)


@misconception("numerical_gradient", "Divides by eps; the two points lie 2 · eps apart.")
def divides_by_eps(f, x, eps=1e-6):
    return _differences(f, x.detach().double(), eps, lambda g, p, step: (g(p + step) - g(p - step)) / eps)


@misconception("numerical_gradient", "Computes in the dtype of x: in float32 a step of 1e-6 drowns in rounding.")
def stays_in_float32(f, x, eps=1e-6):
    return _differences(f, x.detach(), eps, lambda g, p, step: (g(p + step) - g(p - step)) / (2 * eps))


@misconception("numerical_gradient", "Moves all entries at once, which gives the slope along one direction instead of the gradient.")
def moves_all_entries(f, x, eps=1e-6):
    return _differences(f, x.detach().double(), eps, lambda g, p, step: (g(p + eps) - g(p - eps)) / (2 * eps))


@misconception("numerical_gradient", "Uses a step of its own instead of the given eps.")
def ignores_eps(f, x, eps=1e-6):
    return _differences(f, x.detach().double(), 1e-6, lambda g, p, step: (g(p + step) - g(p - step)) / 2e-6)


@misconception(
    "numerical_gradient",
    "x.double() is x itself where x is float64 already: moving its entries up and down again leaves rounding errors in it.",
)
def moves_x_itself(f, x, eps=1e-6):
    point = x.detach().double()
    if any(size > 1 and stride == 0 for size, stride in zip(point.shape, point.stride(), strict=True)):
        point = point.clone(memory_format=torch.contiguous_format)
    result = torch.zeros(point.shape, dtype=torch.float64)
    for place in torch.cartesian_prod(*map(torch.arange, point.shape)).reshape(-1, point.ndim).tolist() if point.ndim else [[]]:
        place = tuple(place)
        point[place] += eps
        above = f(point).item()
        point[place] -= 2 * eps
        below = f(point).item()
        point[place] += eps
        result[place] = (above - below) / (2 * eps)
    return result


@misconception("numerical_gradient", "reshape(-1) copies a tensor that isn't contiguous: what is moved in the copy never reaches f.")
def moves_a_copy(f, x, eps=1e-6):
    point = x.detach().clone().double()
    flat, result = point.reshape(-1), torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(x.numel()):
        old = flat[i].item()
        flat[i] = old + eps
        above = f(point).item()
        flat[i] = old - eps
        below = f(point).item()
        flat[i] = old
        result[i] = (above - below) / (2 * eps)
    return result.reshape(x.shape)


@misconception("numerical_gradient", "Lets the graph of f's parameters into the result.")
def keeps_the_graph(f, x, eps=1e-6):
    point = x.detach().double().flatten()
    rows = torch.eye(len(point), dtype=torch.float64) * eps
    slopes = [(f((point + r).reshape(x.shape)) - f((point - r).reshape(x.shape))) / (2 * eps) for r in rows]
    return torch.stack(slopes).reshape(x.shape) if slopes else torch.zeros(x.shape, dtype=torch.float64)


@misconception("numerical_gradient", "Moves x itself and puts it back exactly; in the meantime, an f that uses x sees the moved one.")
def moves_x_for_a_moment(f, x, eps=1e-6):
    point = x.detach().double()
    if any(size > 1 and stride == 0 for size, stride in zip(point.shape, point.stride(), strict=True)):
        point = point.clone(memory_format=torch.contiguous_format)
    result = torch.zeros(point.shape, dtype=torch.float64)
    for i in range(point.numel()):
        place = torch.unravel_index(torch.tensor(i), point.shape) if point.ndim else ()
        old = point[place].item()
        point[place] = old + eps
        above = f(point).item()
        point[place] = old - eps
        below = f(point).item()
        point[place] = old
        result[place] = (above - below) / (2 * eps)
    return result


@misconception(
    "numerical_gradient", "Keeps what f gave as a tensor while moving the point on: if that is a view, both numbers are the same."
)
def compares_views(f, x, eps=1e-6):
    point = x.detach().to(torch.float64, copy=True).contiguous()
    flat, result = point.view(-1), torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(x.numel()):
        old = flat[i].item()
        flat[i] = old + eps
        above = f(point).detach()
        flat[i] = old - eps
        below = f(point).detach()
        flat[i] = old
        result[i] = (above - below) / (2 * eps)
    return result.reshape(x.shape)


@misconception("numerical_gradient", "Gives f tensors that hang on x: an f that leaves torch refuses those that require a gradient.")
def gives_tensors_with_a_graph(f, x, eps=1e-6):
    return _differences(f, x.double(), eps, lambda g, p, step: (g(p + step) - g(p - step)) / (2 * eps))


@misconception("numerical_gradient", "Has a default step of its own: 1e-5 instead of 1e-6.")
def another_default(f, x, eps=1e-5):
    return _differences(f, x.detach().double(), eps, lambda g, p, step: (g(p + step) - g(p - step)) / (2 * eps))


@misconception("numerical_gradient", "Squeezes the result: dimensions of size 1 are lost.")
def squeezes_the_gradient(f, x, eps=1e-6):
    return _differences(f, x.detach().double(), eps, lambda g, p, step: (g(p + step) - g(p - step)) / (2 * eps)).squeeze()


# Softplus


class _SoftplusBase(torch.autograd.Function):
    """The right forward and backward, to be changed in one place."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.sigmoid(x)


@misconception("Softplus", "Writes log(1 + exp(x)) as it stands: exp overflows for large x.")
class OverflowingSoftplus(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log1p(torch.exp(x))


@misconception("Softplus", "Adds 1 before taking the log: for very negative x the exponential is lost in the sum, and the result is 0.")
class SoftplusWithoutLog1p(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0) + torch.log(1 + torch.exp(-x.abs()))


@misconception("Softplus", "Writes the derivative as exp(x) / (1 + exp(x)): for large x that is inf / inf, NaN.")
class SoftplusSlopeOverflows(_SoftplusBase):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.exp() / (1 + x.exp())


@misconception("Softplus", "Saves the derivative ready-made: to the second derivative it is then a constant.")
class SoftplusSavesItsSlope(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(torch.sigmoid(x))
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        return grad * slope


@misconception("Softplus", "Returns the derivative alone and forgets to multiply it by the gradient that arrives.")
class SoftplusWithoutChainRule(_SoftplusBase):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.sigmoid(x).expand_as(grad)


@misconception("Softplus", "Keeps x as an attribute of ctx, where nobody notices that it was changed in place before backward.")
class SoftplusKeepsAnAttribute(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(ctx.x)


@misconception("Softplus", "Computes the derivative from the result as 1 − exp(−y): for very negative x the difference is 0.")
class SoftplusSlopeCancels(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        y = x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (1 - torch.exp(-y))


@misconception("Softplus", "Leaves the derivative to autograd inside a function with apply: that is no torch.autograd.Function.")
class SoftplusByAutograd:
    @staticmethod
    def apply(x):
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


@misconception("Softplus", "Takes the largest of all entries out of the logarithm: the entries far below it lose all digits.")
class SoftplusWithOneShift(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        shift = x.detach().clamp(min=0).max() if x.numel() else 0
        return shift + torch.log(torch.exp(-shift) + torch.exp(x - shift)) if x.numel() else x.clone()


@misconception("Softplus", "Limits the exponent to 50, and with it the result.")
class SoftplusLimited(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.log1p(torch.exp(x.clamp(-50, 50)))


@misconception("Softplus", "Computes into x: a tensor that the caller goes on using.")
class SoftplusInPlace(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.clone())
        x.data.copy_(x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())))
        return x.clone()


@misconception("Softplus", "Flattens the gradient with view, which one with other strides refuses.")
class SoftplusViewsTheGradient(_SoftplusBase):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return (grad.view(-1) * torch.sigmoid(x).reshape(-1)).view(x.shape)


@misconception("Softplus", "Takes x for the result from 10 on: log(1 + exp(−x)) still counts there, in float64 up to 36.")
class SoftplusIsXFromTen(_SoftplusBase):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 10, x, x.clamp(max=20).exp().log1p())


@misconception("Softplus", "Limits x to ±80 in the derivative: at −10,000 it is exp(−80), and should be 0.")
class SoftplusSlopeLimited(_SoftplusBase):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.sigmoid(x.clip(-80, 80))


# RoundSTE


class _RoundBase(torch.autograd.Function):
    """The right forward and backward, to be changed in one place."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


@misconception("RoundSTE", "Gives the true derivative of rounding, 0: nothing is learned.")
class TrueDerivative(_RoundBase):
    @staticmethod
    def backward(ctx, grad):
        return torch.zeros_like(grad)


@misconception("RoundSTE", "Rounds halves up with floor(x + 0.5); torch.round takes the even number.")
class HalvesUp(_RoundBase):
    @staticmethod
    def forward(ctx, x):
        return torch.floor(x + 0.5)


@misconception("RoundSTE", "Rounds the gradient too: straight through means unchanged.")
class RoundsTheGradient(_RoundBase):
    @staticmethod
    def backward(ctx, grad):
        return grad.round()


@misconception("RoundSTE", "Cuts the gradient off outside of −1 … 1: that is the estimator for binary activations.")
class ClipsLikeBinary(_RoundBase):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


@misconception("RoundSTE", "Returns a gradient of ones instead of the gradient that arrives.")
class OnesForGradient(_RoundBase):
    @staticmethod
    def backward(ctx, grad):
        return torch.ones_like(grad)


@misconception("RoundSTE", "Rounds in place: the numbers that are being learned are overwritten by the rounded ones.")
class RoundsInPlace(_RoundBase):
    @staticmethod
    def forward(ctx, x):
        return x.data.round_()


@misconception("RoundSTE", "Detaches the gradient: there is no second derivative through it.")
class DetachesTheGradient(_RoundBase):
    @staticmethod
    def backward(ctx, grad):
        return grad.detach()


@misconception("RoundSTE", "Rounds through whole numbers of type int: huge numbers and infinities don't fit, and halves are cut off.")
class ThroughInt(_RoundBase):
    @staticmethod
    def forward(ctx, x):
        return (x + 0.5 * x.sign()).long().to(x.dtype)


@misconception(
    "RoundSTE", "Writes x + (round(x) - x).detach() into a method called apply: no torch.autograd.Function, and NaN at infinity."
)
class DetachTrick:
    @staticmethod
    def apply(x):
        return x + (x.round() - x).detach()


@misconception("RoundSTE", "Adds and subtracts a big number, which rounds small numbers of one dtype only.")
class AddsABigNumber(_RoundBase):
    @staticmethod
    def forward(ctx, x):
        big = 1.5 / torch.finfo(x.dtype).eps
        return torch.where(x.isfinite(), x + big - big, x)


@misconception("RoundSTE", "Rounds x + 0.5 down and mends the halves: the number next below 0.5 is lost in the sum.")
class LosesTheNextBelowAHalf(_RoundBase):
    @staticmethod
    def forward(ctx, x):
        up = torch.floor(x + 0.5)
        return torch.where((x - torch.floor(x) == 0.5) & (torch.remainder(up, 2) == 1), up - 1, up)


@misconception("RoundSTE", "Computes in float32: large float64 numbers lose their last digits.")
class RoundsInFloat32(_RoundBase):
    @staticmethod
    def forward(ctx, x):
        return x.float().round().to(x.dtype)


@misconception("RoundSTE", "Replaces NaN and infinities in the gradient: straight through means unchanged.")
class CleansTheGradient(_RoundBase):
    @staticmethod
    def backward(ctx, grad):
        return torch.nan_to_num(grad)


# jacobian


@misconception("jacobian", "Goes backward from the sum of all outputs, which adds all rows up.")
def gradient_of_the_sum(f, x):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        y = f(z)
    if not y.requires_grad:
        return x.detach().new_zeros((*y.shape, *x.shape))
    (g,) = torch.autograd.grad(y, z, torch.ones_like(y), allow_unused=True, materialize_grads=True)
    return g.expand((*y.shape, *x.shape)).clone()


@misconception("jacobian", "Puts the dimensions of x first: the transpose.")
def inputs_first(f, x):
    J = reference_jacobian(f, x)
    outputs = J.ndim - x.ndim
    return J.permute(*range(outputs, J.ndim), *range(outputs)) if J.ndim else J


@misconception("jacobian", "Flattens output and input into a matrix; the result has to have the dimensions of both.")
def always_a_matrix(f, x):
    J = reference_jacobian(f, x)
    return J.reshape(-1, max(x.numel(), 1))


@misconception("jacobian", "Takes outputs without a way to x for an error; their derivative is 0.")
def no_constants(f, x):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        y = f(z)
        entries = y.flatten().unbind()
    rows = [torch.autograd.grad(entry, z, retain_graph=True)[0] for entry in entries]
    return torch.stack(rows).reshape((*y.shape, *x.shape)) if rows else x.detach().new_zeros((*y.shape, *x.shape))


@misconception("jacobian", "Uses finite differences, which lose digits.")
def by_differences(f, x):
    x = x.detach()
    eps, columns = 1e-6 if x.dtype == torch.float64 else 1e-3, []
    for i in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=x.dtype)
        step[i] = eps
        step = step.reshape(x.shape)
        columns.append((f(x + step).detach() - f(x - step).detach()) / (2 * eps))
    return torch.stack(columns, -1).reshape((*columns[0].shape, *x.shape))


@misconception("jacobian", "Calls backward, which leaves its gradients in the parameters that f uses.")
def backward_into_parameters(f, x):
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        y = f(z)
        entries = y.flatten().unbind()
    rows = torch.zeros(len(entries), *x.shape, dtype=x.dtype)
    for row, entry in zip(rows, entries, strict=True):
        if entry.requires_grad:
            z.grad = None
            entry.backward(retain_graph=True)
            if z.grad is not None:
                row.copy_(z.grad)
    return rows.reshape((*y.shape, *x.shape))


@misconception("jacobian", "Doesn't switch gradients on: under the caller's no_grad, f records no graph, and all seems constant.")
def not_under_no_grad(f, x):
    if torch.is_grad_enabled():
        return reference_jacobian(f, x)
    return torch.zeros_like(reference_jacobian(f, x))


@misconception("jacobian", "Keeps the graph: the result hangs on x and on the parameters.")
def with_a_graph(f, x):
    with torch.enable_grad():
        z = x if x.requires_grad else x.detach().requires_grad_()
        y = f(z)
        rows = []
        for entry in y.flatten().unbind():
            g = torch.autograd.grad(entry, z, create_graph=True, materialize_grads=True)[0] if entry.requires_grad else torch.zeros_like(z)
            rows.append(g)
    return torch.stack(rows).reshape((*y.shape, *x.shape)) if rows else x.detach().new_zeros((*y.shape, *x.shape))


@misconception("jacobian", "Squeezes the result: an output of (3, 1) has the dimension of size 1 as well.")
def squeezes_the_jacobian(f, x):
    return reference_jacobian(f, x).squeeze()


@misconception("jacobian", "Makes the caller's x require a gradient instead of a detached one.")
def changes_requires_grad(f, x):
    x.requires_grad_()
    return reference_jacobian(f, x)


@misconception(
    "jacobian", "Differentiates with respect to x itself where that requires a gradient: an f that uses x is seen as if it got it twice."
)
def differentiates_x_itself(f, x):
    with torch.enable_grad():
        z = x if x.requires_grad else x.detach().requires_grad_()
        y = f(z)
    rows = torch.zeros(y.numel(), *x.shape, dtype=x.dtype)
    for row, entry in zip(rows, y.flatten().unbind(), strict=True):
        if entry.requires_grad:
            row.copy_(torch.autograd.grad(entry, z, retain_graph=True, materialize_grads=True)[0])
    return rows.reshape((*y.shape, *x.shape))


@misconception("jacobian", "Flattens the output with view, which a transposed one refuses.")
def views_the_output(f, x):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        y = f(z)
        entries = y.view(-1).unbind() if y.numel() else ()
    rows = torch.zeros(len(entries), *x.shape, dtype=x.dtype)
    for row, entry in zip(rows, entries, strict=True):
        if entry.requires_grad:
            row.copy_(torch.autograd.grad(entry, z, retain_graph=True, materialize_grads=True)[0])
    return rows.reshape((*y.shape, *x.shape))


# hessian_vector_product


def _gradient(f, z):
    """The gradient with a graph of its own, zeros where there is none."""
    y = f(z)
    return torch.autograd.grad(y, z, create_graph=True, materialize_grads=True)[0] if y.requires_grad else torch.zeros_like(z)


@misconception("hessian_vector_product", "Builds the whole Hessian first: for a million entries it fits into no memory.")
def builds_the_hessian(f, x, v):
    H = torch.zeros(x.numel(), x.numel(), dtype=x.dtype)
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        for row, entry in zip(H, _gradient(f, z).flatten().unbind(), strict=True):
            if entry.requires_grad:
                row.copy_(torch.autograd.grad(entry, z, retain_graph=True, materialize_grads=True)[0].flatten())
    return (H @ v.flatten()).reshape(x.shape)


@misconception("hessian_vector_product", "Takes a finite difference of two gradients, which loses half of the digits.")
def difference_of_gradients(f, x, v):
    eps = 1e-6 if x.dtype == torch.float64 else 1e-3
    with torch.enable_grad():
        above, below = (_gradient(f, (x.detach() + s * v).requires_grad_()) for s in (eps, -eps))
    return ((above - below) / (2 * eps)).detach()


@misconception("hessian_vector_product", "Multiplies the gradient by v and stops there: the second derivative is missing.")
def gradient_times_v(f, x, v):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        return (_gradient(f, z) * v).detach()


@misconception("hessian_vector_product", "Takes only the diagonal of the Hessian, as if no two entries met.")
def diagonal_only(f, x, v):
    diagonal = torch.zeros(x.numel(), dtype=x.dtype)
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        entries = _gradient(f, z).flatten()
        for i in range(min(x.numel(), 20)):
            if entries.requires_grad:
                diagonal[i] = torch.autograd.grad(entries[i], z, retain_graph=True, materialize_grads=True)[0].flatten()[i]
    return diagonal.reshape(x.shape) * v


@misconception(
    "hessian_vector_product", "Multiplies by v before the first backward has a graph: without create_graph the gradient is a constant."
)
def without_create_graph(f, x, v):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        y = f(z)
        if not y.requires_grad:
            return torch.zeros_like(x.detach())
        (g,) = torch.autograd.grad(y, z, materialize_grads=True)
        product = (g * v).sum() + 0 * z.sum()
        return torch.autograd.grad(product, z)[0]


@misconception(
    "hessian_vector_product", "Doesn't switch gradients on: under the caller's no_grad, f records no graph, and all seems linear."
)
def product_not_under_no_grad(f, x, v):
    z = x.detach().requires_grad_()
    y = f(z)
    if not y.requires_grad:
        return torch.zeros_like(z)
    (g,) = torch.autograd.grad(y, z, create_graph=True, materialize_grads=True)
    return torch.autograd.grad(g, z, v, materialize_grads=True)[0] if g.requires_grad else torch.zeros_like(z)


@misconception("hessian_vector_product", "Gives zeros that require a gradient where f has no second derivative.")
def zeros_with_a_gradient(f, x, v):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        g = _gradient(f, z)
        return torch.autograd.grad(g, z, v, materialize_grads=True)[0] if g.requires_grad else torch.zeros_like(z, requires_grad=True)


@misconception("hessian_vector_product", "Takes a gradient without a graph for an error: the second derivative of a linear function is 0.")
def not_for_linear_functions(f, x, v):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(z), z, create_graph=True)
        return torch.autograd.grad((g * v).sum(), z)[0].detach()


@misconception("hessian_vector_product", "Scales v to length 1, as for a curvature in a direction; the product is linear in v.")
def normalises_v(f, x, v):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        g = _gradient(f, z)
        unit = v / v.norm()
        return torch.autograd.grad((g * unit).sum(), z, materialize_grads=True)[0].detach() if g.requires_grad else torch.zeros_like(g)


@misconception("hessian_vector_product", "Calls backward, which leaves its gradients in the parameters that f uses.")
def second_backward_into_parameters(f, x, v):
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        g = _gradient(f, z)
        if g.requires_grad:
            (g * v).sum().backward()
    return torch.zeros_like(x.detach()) if z.grad is None else z.grad


def _product(f, z, v):
    """H v at z, zeros where there is no second derivative."""
    g = _gradient(f, z)
    return torch.autograd.grad((g * v).sum(), z, create_graph=True, materialize_grads=True)[0] if g.requires_grad else torch.zeros_like(g)


@misconception(
    "hessian_vector_product", "Keeps the graph: create_graph belongs to the first backward only, and the result is to be detached."
)
def keeps_the_graph_of_the_product(f, x, v):
    with torch.enable_grad():
        return _product(f, x.detach().requires_grad_(), v)


@misconception("hessian_vector_product", "Makes the caller's x require a gradient instead of a detached one.")
def changes_requires_grad_of_x(f, x, v):
    with torch.enable_grad():
        return _product(f, x if x.requires_grad else x.requires_grad_(), v).detach()


@misconception(
    "hessian_vector_product",
    "Differentiates with respect to x itself where that requires a gradient: an f that uses x is differentiated twice.",
)
def product_for_x_itself(f, x, v):
    with torch.enable_grad():
        return _product(f, x if x.requires_grad else x.detach().requires_grad_(), v).detach()


@misconception("hessian_vector_product", "Flattens v with view, which a transposed one refuses.")
def views_v(f, x, v):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        g = _gradient(f, z)
        if not g.requires_grad:
            return torch.zeros_like(g)
        return torch.autograd.grad(g.reshape(-1) @ v.view(-1), z, materialize_grads=True)[0]


@misconception("hessian_vector_product", "Scales v to length 1 and the product back: for v = 0 that is 0 / 0.")
def divides_by_the_length(f, x, v):
    with torch.enable_grad():
        return _product(f, x.detach().requires_grad_(), v / v.norm()).detach() * v.norm()


# gradient_penalty


def _mixed(real, fake, alpha):
    """The points where slopes are taken."""
    a = alpha.reshape(-1, *[1] * (real.ndim - 1))
    return (a * real + (1 - a) * fake).detach().requires_grad_()


def _slopes(critic, x):
    """The gradient of each sample's score, with a graph."""
    return torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]


@misconception("gradient_penalty", "Forgets create_graph: the penalty is a constant and trains nothing.")
def penalty_without_a_graph(critic, real, fake, alpha):
    x = _mixed(real, fake, alpha)
    (g,) = torch.autograd.grad(critic(x).sum(), x)
    return (torch.linalg.vector_norm(g.flatten(1), dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Takes one norm over the whole batch instead of one for each sample.")
def one_norm_for_the_batch(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha))
    return (torch.linalg.vector_norm(g) - 1).square()


@misconception(
    "gradient_penalty", "Takes the norm along dimension 1 alone, which for images is the channels: the whole sample has one norm."
)
def norm_over_channels(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha))
    return (torch.linalg.vector_norm(g, dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Penalises slopes above 1 only; the paper's penalty is two-sided.")
def one_sided_penalty(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha))
    return (torch.linalg.vector_norm(g.flatten(1), dim=1) - 1).relu().square().mean()


@misconception("gradient_penalty", "Gives alpha to the fake sample and 1 − alpha to the real one.")
def alpha_swapped(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(fake, real, alpha))
    return (torch.linalg.vector_norm(g.flatten(1), dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Goes backward from the mean of the scores: every slope is divided by the size of the batch.")
def slope_of_the_mean(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha)) / len(real)
    return (torch.linalg.vector_norm(g.flatten(1), dim=1) - 1).square().mean()


@misconception(
    "gradient_penalty", "Takes the root of a sum of squares: its derivative at 0 is infinite, and a flat critic's gradient becomes NaN."
)
def root_of_zero(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha))
    return (g.flatten(1).square().sum(1).sqrt() - 1).square().mean()


@misconception("gradient_penalty", "Uses the squared norm: (n² − 1)² instead of (n − 1)².")
def squared_norm(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha))
    return (g.flatten(1).square().sum(1) - 1).square().mean()


@misconception(
    "gradient_penalty", "Doesn't cut the mix off from the samples: gradients flow back into real and fake, and so into the generator."
)
def flows_into_the_samples(critic, real, fake, alpha):
    a = alpha.reshape(-1, *[1] * (real.ndim - 1))
    x = a * real + (1 - a) * fake
    x = x if x.requires_grad else x.requires_grad_()
    return (torch.linalg.vector_norm(_slopes(critic, x).flatten(1), dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Calls backward for the slopes, which changes the critic's own gradients as well.")
def slopes_by_backward(critic, real, fake, alpha):
    x = _mixed(real, fake, alpha)
    critic(x).sum().backward(create_graph=True)
    return (torch.linalg.vector_norm(x.grad.flatten(1), dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Flattens the gradient with view, which one with other strides refuses.")
def views_the_gradient(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha))
    return (torch.linalg.vector_norm(g.view(len(real), -1), dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Squeezes the gradient before the norm: a batch of one loses its dimension.")
def squeezes_the_slopes(critic, real, fake, alpha):
    g = _slopes(critic, _mixed(real, fake, alpha)).squeeze()
    g = g if g.ndim > 1 else g.reshape(-1, 1)
    return (torch.linalg.vector_norm(g.flatten(1), dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Sets the critic to eval mode and back to train: layers inside that were in eval mode are not any more.")
def restores_one_mode(critic, real, fake, alpha):
    was = getattr(critic, "training", None)
    if was is not None:
        critic.eval()
    g = _slopes(critic, _mixed(real, fake, alpha))
    if was is not None:
        critic.train(was)
    return (torch.linalg.vector_norm(g.flatten(1), dim=1) - 1).square().mean()


@misconception("gradient_penalty", "Makes all parameters of the critic require gradients: layers that were frozen are not any more.")
def unfreezes_the_critic(critic, real, fake, alpha):
    if isinstance(critic, torch.nn.Module):
        critic.requires_grad_(True)
    g = _slopes(critic, _mixed(real, fake, alpha))
    return (torch.linalg.vector_norm(g.flatten(1), dim=1) - 1).square().mean()


# checkpoint


class _Again(torch.autograd.Function):
    """A recomputation whose parts a wrong answer can replace."""

    @staticmethod
    def forward(ctx, f, keep_random, gradients, guard, *args):
        ctx.f, ctx.gradients, ctx.guard = f, gradients, guard
        ctx.state = torch.get_rng_state() if keep_random else None
        ctx.keep_random = keep_random
        ctx.places = [i for i, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
        ctx.others = [None if isinstance(arg, torch.Tensor) else arg for arg in args]
        tensors = [args[i] for i in ctx.places]
        if guard:
            ctx.save_for_backward(*tensors)
        else:
            ctx.tensors = tensors
        return f(*args)

    @staticmethod
    def backward(ctx, grad):
        args = list(ctx.others)
        for i, tensor in zip(ctx.places, ctx.saved_tensors if ctx.guard else ctx.tensors, strict=True):
            args[i] = tensor.detach().requires_grad_(tensor.requires_grad)
        after = torch.get_rng_state()
        if ctx.state is not None:
            torch.set_rng_state(ctx.state)
        with torch.enable_grad():
            result = ctx.f(*args)
        if ctx.keep_random != "not put back":
            torch.set_rng_state(after)
        found = ctx.gradients(result, grad, args)
        return None, None, None, None, *found


def _all_gradients(result, grad, args):
    torch.autograd.backward(result, grad)
    return [arg.grad if isinstance(arg, torch.Tensor) else None for arg in args]


@misconception("checkpoint", "Just calls f: everything is kept, nothing is computed again.")
def calls_f(f, *args):
    return f(*args)


@misconception("checkpoint", "Asks torch.autograd.grad for the arguments' gradients only: the parameters that f uses get none.")
def forgets_the_parameters(f, *args):
    def gradients(result, grad, args):
        wanted = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.requires_grad]
        found = iter(torch.autograd.grad(result, wanted, grad))
        return [next(found) if isinstance(arg, torch.Tensor) and arg.requires_grad else None for arg in args]

    return _Again.apply(f, True, gradients, True, *args)


@misconception("checkpoint", "Doesn't bring the random state back for the second run: dropout drops other entries there.")
def other_random_numbers(f, *args):
    return _Again.apply(f, False, _all_gradients, True, *args)


@misconception("checkpoint", "Leaves the random generator where the second run put it: what is drawn later repeats earlier numbers.")
def random_state_not_put_back(f, *args):
    return _Again.apply(f, "not put back", _all_gradients, True, *args)


@misconception(
    "checkpoint", "Keeps tensors as attributes of ctx: a change in place before the second run goes unnoticed, and the gradient is wrong."
)
def keeps_tensors_unguarded(f, *args):
    return _Again.apply(f, True, _all_gradients, False, *args)


@misconception("checkpoint", "Forgets the gradient of the result: backward starts from ones.")
def starts_from_ones(f, *args):
    def gradients(result, grad, args):
        result.backward(torch.ones_like(result))
        return [arg.grad if isinstance(arg, torch.Tensor) else None for arg in args]

    return _Again.apply(f, True, gradients, True, *args)


@misconception("checkpoint", "Records a graph at the call as well, so that all intermediate results are kept after all.")
def records_at_the_call(f, *args):
    def recorded(*inner):
        with torch.enable_grad():
            return f(*inner)

    return _Again.apply(recorded, True, _all_gradients, True, *args)


class _Attached(torch.autograd.Function):
    """Recomputes on the saved tensors themselves."""

    @staticmethod
    def forward(ctx, f, *args):
        ctx.f, ctx.state = f, torch.get_rng_state()
        ctx.args = [None if isinstance(arg, torch.Tensor) else arg for arg in args]
        ctx.save_for_backward(*(arg for arg in args if isinstance(arg, torch.Tensor)))
        ctx.tensors = [isinstance(arg, torch.Tensor) for arg in args]
        return f(*args)

    @staticmethod
    def backward(ctx, grad):
        saved = iter(ctx.saved_tensors)
        args = [next(saved) if is_tensor else arg for arg, is_tensor in zip(ctx.args, ctx.tensors, strict=True)]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.state)
            result = ctx.f(*args)
        torch.autograd.backward(result, grad)
        return None, *(arg.grad if isinstance(arg, torch.Tensor) else None for arg in args)


@misconception(
    "checkpoint",
    "Doesn't detach the arguments for the second run: its backward goes on into what computed them, and gradients count twice.",
)
def second_run_not_detached(f, *args):
    return _Attached.apply(f, *args)


class _RunsAtOnce(torch.autograd.Function):
    """Computes gradients already in the forward."""

    @staticmethod
    def forward(ctx, f, *args):
        ctx.mark = [isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args]
        state = torch.get_rng_state()
        result = f(*args)
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        leaves = [arg.detach().requires_grad_(arg.requires_grad) if isinstance(arg, torch.Tensor) else arg for arg in args]
        with torch.enable_grad():
            again = f(*leaves)
        torch.set_rng_state(after)
        ctx.again, ctx.leaves = again, leaves
        return result

    @staticmethod
    def backward(ctx, grad):
        torch.autograd.backward(ctx.again, grad, retain_graph=True)
        found = [leaf.grad if needed else None for leaf, needed in zip(ctx.leaves, ctx.mark, strict=True)]
        return None, *found


@misconception("checkpoint", "Runs f the second time right at the call: its graph then lives as long as without a checkpoint.")
def second_run_too_early(f, *args):
    return _RunsAtOnce.apply(f, *args)


class _Filled(torch.autograd.Function):
    """A recomputation that is told which arguments are tensors, and how the others are put back."""

    @staticmethod
    def forward(ctx, f, is_tensor, fill, *args):
        ctx.f, ctx.fill, ctx.state = f, fill, torch.get_rng_state()
        ctx.others = [None if is_tensor(arg) else arg for arg in args]
        ctx.mark = [is_tensor(arg) for arg in args]
        ctx.save_for_backward(*(arg for arg in args if is_tensor(arg)))
        return f(*args)

    @staticmethod
    def backward(ctx, grad):
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        args = ctx.fill(ctx.others, ctx.mark, iter(leaves))
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.state)
            result = ctx.f(*args)
        torch.autograd.backward(result, grad)
        found = iter(leaves)
        return None, None, None, *(next(found).grad if is_tensor else None for is_tensor in ctx.mark)


def _in_place(others, mark, leaves):
    return [next(leaves) if is_tensor else other for other, is_tensor in zip(others, mark, strict=True)]


@misconception("checkpoint", "Takes every argument that counts as false for the place of a tensor: 0, None and empty strings are lost.")
def false_arguments_are_tensors(f, *args):
    def fill(others, mark, leaves):
        return [other or next(leaves, other) for other in others]

    return _Filled.apply(f, lambda arg: isinstance(arg, torch.Tensor), fill, *args)


@misconception(
    "checkpoint", "Asks for type(arg) is Tensor: a parameter is of a class of its own, and isn't guarded against a change in place."
)
def parameters_are_no_tensors(f, *args):
    return _Filled.apply(f, lambda arg: type(arg) is torch.Tensor, _in_place, *args)


@misconception("checkpoint", "Keeps the generator as it was at the call during the first run too: later numbers repeat those of f.")
def first_run_draws_nothing(f, *args):
    def apart(*inner):
        with torch.random.fork_rng(devices=[], enabled=not torch.is_grad_enabled()):
            return f(*inner)

    return _Again.apply(apart, True, _all_gradients, True, *args)


@misconception("checkpoint", "Sets a module to training mode for the second run: its dropout then drops other entries than in the first.")
def trains_in_the_second_run(f, *args):
    def prepared(*inner):
        if torch.is_grad_enabled() and isinstance(f, torch.nn.Module):
            f.train()
        return f(*inner)

    return _Again.apply(prepared, True, _all_gradients, True, *args)


@misconception("checkpoint", "Copies the arguments for the second run: what f notes in a list that it gets is noted in the copy.")
def copies_other_arguments(f, *args):
    def fill(others, mark, leaves):
        return _in_place(copy.deepcopy(others), mark, leaves)

    return _Filled.apply(f, lambda arg: isinstance(arg, torch.Tensor), fill, *args)


@misconception("checkpoint", "Puts the module that it calls into eval mode, so that nothing is drawn, and leaves it there.")
def evaluates_the_module(f, *args):
    result = reference_checkpoint(f, *args)
    if isinstance(f, torch.nn.Module):
        f.eval()
    return result


@misconception("checkpoint", "Puts the module that it calls into training mode, since a backward is to follow, and leaves it there.")
def trains_the_module(f, *args):
    result = reference_checkpoint(f, *args)
    if isinstance(f, torch.nn.Module):
        f.train()
    return result


@misconception("checkpoint", "Switches recording on after the first run, where it may have been off: use `with torch.no_grad():`.")
def records_after_the_call(f, *args):
    result = reference_checkpoint(f, *args)
    torch.set_grad_enabled(True)
    return result


# ema_update_


@misconception("ema_update_", "Swaps the shares: the average takes `decay` of the model.")
def shares_swapped(average, model, decay):
    reference_ema_update(average, model, 1 - decay)


@misconception("ema_update_", "Forgets the buffers: the average normalises with old statistics.")
def forgets_the_buffers(average, model, decay):
    if not 0 <= decay <= 1:
        raise ValueError("decay")
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            a.mul_(decay).add_(p, alpha=1 - decay)


@misconception("ema_update_", "Averages the buffers too: running statistics are averages already, and counters are whole numbers.")
def averages_the_buffers(average, model, decay):
    if not 0 <= decay <= 1:
        raise ValueError("decay")
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            a.mul_(decay).add_(p, alpha=1 - decay)
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.copy_(a * decay + b * (1 - decay))


@misconception("ema_update_", "Puts new tensors into p.data: others who share the memory don't see the update.")
def new_tensors(average, model, decay):
    if not 0 <= decay <= 1:
        raise ValueError("decay")
    for a, p in zip(average.parameters(), model.parameters(), strict=True):
        a.data = decay * a.data + (1 - decay) * p.data
    for a, b in zip(average.buffers(), model.buffers(), strict=True):
        a.copy_(b)


@misconception("ema_update_", "Goes through state_dict(), which lists a tied weight twice: it moves twice.")
def tied_weights_twice(average, model, decay):
    if not 0 <= decay <= 1:
        raise ValueError("decay")
    names = {name for name, _ in average.named_buffers()}
    theirs = model.state_dict()
    for name, a in average.state_dict().items():
        a.copy_(theirs[name] if name in names else decay * a + (1 - decay) * theirs[name])


@misconception("ema_update_", "Updates in place while autograd is watching: a leaf that requires a gradient refuses that.")
def records_a_graph(average, model, decay):
    if not 0 <= decay <= 1:
        raise ValueError("decay")
    for a, p in zip(average.parameters(), model.parameters(), strict=True):
        a.mul_(decay).add_(p, alpha=1 - decay)
    for a, b in zip(average.buffers(), model.buffers(), strict=True):
        a.copy_(b)


@misconception("ema_update_", "Freezes the average to be able to change it: afterwards its parameters require no gradients.")
def freezes_the_average(average, model, decay):
    average.requires_grad_(False)
    reference_ema_update(average, model, decay)


@misconception("ema_update_", "Computes a new average and returns it; the given one stays as it was.")
def returns_a_new_one(average, model, decay):
    result = copy.deepcopy(average)
    reference_ema_update(result, model, decay)
    return result


def _averaged(average, model, decay, pairs=None):
    """Parameters towards the model's; buffers are left to the caller."""
    if not 0 <= decay <= 1:
        raise ValueError("decay")
    with torch.no_grad():
        for a, p in pairs or zip(average.parameters(), model.parameters(), strict=True):
            a.mul_(decay).add_(p, alpha=1 - decay)


@misconception("ema_update_", "Leaves out parameters that require no gradient: a frozen one is part of the model like the others.")
def leaves_out_frozen(average, model, decay):
    pairs = [(a, p) for a, p in zip(average.parameters(), model.parameters(), strict=True) if p.requires_grad]
    _averaged(average, model, decay, pairs)
    with torch.no_grad():
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.copy_(b)


@misconception("ema_update_", "Leaves out parameters of the average that require no gradient, though most averages are frozen.")
def leaves_out_frozen_in_the_average(average, model, decay):
    pairs = [(a, p) for a, p in zip(average.parameters(), model.parameters(), strict=True) if a.requires_grad]
    _averaged(average, model, decay, pairs)
    with torch.no_grad():
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.copy_(b)


@misconception("ema_update_", "Takes the buffers from state_dict(), which leaves out those that are not persistent.")
def buffers_of_the_state_dict(average, model, decay):
    _averaged(average, model, decay)
    names, theirs = dict(average.named_parameters(remove_duplicate=False)), model.state_dict()
    for name, value in average.state_dict().items():
        if name not in names:
            value.copy_(theirs[name])


@misconception("ema_update_", "Moves the buffers by the share 1 of the difference: where the old one is NaN, it stays NaN.")
def adds_the_difference_of_buffers(average, model, decay):
    _averaged(average, model, decay)
    with torch.no_grad():
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.add_(b - a) if a.is_floating_point() else a.copy_(b)


@misconception("ema_update_", "Sends the buffers through the dtype of the parameters: a float can't hold all digits of a whole number.")
def buffers_through_floats(average, model, decay):
    _averaged(average, model, decay)
    with torch.no_grad():
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.copy_(b.double())


@misconception("ema_update_", "Takes a decay of 0 for none that was given.")
def decay_or_default(average, model, decay):
    reference_ema_update(average, model, decay or 0.999)


@misconception("ema_update_", "Flattens the parameters with view, which a transposed one refuses.")
def views_the_parameters(average, model, decay):
    with torch.no_grad():
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            assert a.view(-1).shape == p.view(-1).shape
    reference_ema_update(average, model, decay)


@misconception("ema_update_", "Sets the average to eval mode, which the caller has not asked for.")
def switches_to_eval(average, model, decay):
    reference_ema_update(average, model, decay)
    average.eval()


@misconception(
    "ema_update_", "Sets the model to eval mode meanwhile and back to train: layers inside that were in eval mode are not any more."
)
def restores_the_mode_of_the_model(average, model, decay):
    was = model.training
    model.eval()
    reference_ema_update(average, model, decay)
    model.train(was)


@misconception("ema_update_", "Looks at the decay after the buffers were copied: the average has changed by the time the error comes.")
def checks_late(average, model, decay):
    with torch.no_grad():
        for a, b in zip(average.buffers(), model.buffers(), strict=True):
            a.copy_(b)
    _averaged(average, model, decay)


@misconception("ema_update_", "Switches recording on when it is done, where it may have been off: use `with torch.no_grad():`.")
def records_after_the_update(average, model, decay):
    torch.set_grad_enabled(False)
    reference_ema_update(average, model, decay)
    torch.set_grad_enabled(True)


@misconception("ema_update_", "Puts the average into eval mode: its mode is the caller's affair.")
def evaluates_the_average(average, model, decay):
    reference_ema_update(average, model, decay)
    average.eval()


# record_activation_gradients


def _layers(model, names):
    """The named layers."""
    try:
        return {name: model.get_submodule(name) for name in names}
    except AttributeError as error:
        raise ValueError(str(error)) from error


def _hooked(model, names, x, loss_fn, hook_for, backward=lambda loss: loss.backward()):
    """Forward and backward with the hook that `hook_for` makes for each name."""
    handles = [layer.register_forward_hook(hook_for(name)) for name, layer in _layers(model, names).items()]
    try:
        backward(loss_fn(model(x)))
    finally:
        for handle in handles:
            handle.remove()


@misconception("record_activation_gradients", "Lists the gradients of several calls as they arrive: that is the order of the backward.")
def in_order_of_arrival(model, names, x, loss_fn):
    found = {name: [] for name in names}
    _hooked(model, names, x, loss_fn, lambda name: lambda m, a, output: output.register_hook(found[name].append) and None)
    return found


@misconception(
    "record_activation_gradients", "Uses retain_grad: after an in-place operation that is the gradient of the overwritten tensor."
)
def retains_grad(model, names, x, loss_fn):
    outputs = {name: [] for name in names}

    def hook_for(name):
        def hook(module, args, output):
            output.retain_grad()
            outputs[name].append(output)

        return hook

    _hooked(model, names, x, loss_fn, hook_for)
    return {name: [torch.zeros_like(o) if o.grad is None else o.grad for o in kept] for name, kept in outputs.items()}


@misconception("record_activation_gradients", "Keeps one gradient for each layer: of several calls only one is left.")
def one_for_each_layer(model, names, x, loss_fn):
    found = reference_record(model, names, x, loss_fn)
    return {name: gradients[-1:] for name, gradients in found.items()}


@misconception("record_activation_gradients", "Adds the gradients of several calls up; each call's output has its own.")
def adds_calls_up(model, names, x, loss_fn):
    found = reference_record(model, names, x, loss_fn)
    return {name: [sum(gradients)] if gradients else [] for name, gradients in found.items()}


@misconception("record_activation_gradients", "Leaves its hooks on the layers: every later forward goes through them.")
def hooks_stay(model, names, x, loss_fn):
    found = {name: [] for name in names}

    def hook_for(gradients):
        def hook(module, args, output):
            place = len(gradients)
            gradients.append(torch.zeros_like(output, requires_grad=False))
            output.register_hook(lambda gradient: gradients.__setitem__(place, gradient))

        return hook

    for name, layer in _layers(model, names).items():
        layer.register_forward_hook(hook_for(found[name]))
    loss_fn(model(x)).backward()
    return {name: list(gradients) for name, gradients in found.items()}


@misconception("record_activation_gradients", "Removes its hooks only when all went well; after an error they stay.")
def hooks_stay_after_errors(model, names, x, loss_fn):
    found = {name: [] for name in names}

    def hook_for(gradients):
        def hook(module, args, output):
            place = len(gradients)
            gradients.append(torch.zeros_like(output, requires_grad=False))
            output.register_hook(lambda gradient: gradients.__setitem__(place, gradient))

        return hook

    handles = [layer.register_forward_hook(hook_for(found[name])) for name, layer in _layers(model, names).items()]
    loss_fn(model(x)).backward()
    for handle in handles:
        handle.remove()
    return found


@misconception("record_activation_gradients", "Cleans up with _forward_hooks.clear(), which throws away the hooks of others too.")
def clears_all_hooks(model, names, x, loss_fn):
    found = reference_record(model, names, x, loss_fn)
    for layer in _layers(model, names).values():
        layer._forward_hooks.clear()
    return found


@misconception("record_activation_gradients", "Leaves out calls on whose output the loss doesn't depend; they count with zeros.")
def leaves_out_unused(model, names, x, loss_fn):
    found = reference_record(model, names, x, loss_fn)
    return {name: [g for g in gradients if g.count_nonzero()] for name, gradients in found.items()}


@misconception("record_activation_gradients", "Brings back the outputs themselves instead of their gradients.")
def records_activations(model, names, x, loss_fn):
    found = {name: [] for name in names}
    _hooked(model, names, x, loss_fn, lambda name: lambda m, a, output: found[name].append(output.detach().clone()))
    return found


@misconception(
    "record_activation_gradients",
    "Takes the second part of a full backward hook for the first: the gradient of the layer's input, not of its output.",
)
def gradient_of_the_input(model, names, x, loss_fn):
    found = {name: [] for name in names}

    def hook_for(name):
        def hook(module, args, output):
            place = len(found[name])
            found[name].append(torch.zeros_like(args[0], requires_grad=False))
            if args[0].requires_grad:
                args[0].register_hook(lambda gradient: found[name].__setitem__(place, gradient))

        return hook

    _hooked(model, names, x, loss_fn, hook_for)
    return found


@misconception("record_activation_gradients", "Clears the parameters' gradients beforehand; backward adds to what is there.")
def clears_parameters(model, names, x, loss_fn):
    model.zero_grad()
    return reference_record(model, names, x, loss_fn)


@misconception("record_activation_gradients", "Looks names up in named_modules(), which lists a module with two names only once.")
def first_names_only(model, names, x, loss_fn):
    layers = dict(model.named_modules())
    if any(name not in layers for name in names):
        raise ValueError("names")
    return reference_record(model, names, x, loss_fn)


@misconception("record_activation_gradients", "Returns at once where no names are given: the parameters don't get their gradients.")
def nothing_for_no_names(model, names, x, loss_fn):
    return reference_record(model, names, x, loss_fn) if names else {}


@misconception("record_activation_gradients", "Turns every AttributeError into a ValueError, also those of the model and of the loss.")
def renames_errors(model, names, x, loss_fn):
    try:
        return reference_record(model, names, x, loss_fn)
    except AttributeError as error:
        raise ValueError(str(error)) from error


@misconception("record_activation_gradients", "Replaces the layers' forward: what hooks of the layers make of its result goes unnoticed.")
def replaces_forward(model, names, x, loss_fn):
    layers, found = _layers(model, names), {name: [] for name in names}
    original = {layer: layer.forward for layer in layers.values()}

    def noting(forward, lists):
        def forward_and_note(*args):
            output = forward(*args)
            for gradients in lists:
                gradients.append(torch.zeros_like(output, requires_grad=False))
                place = len(gradients) - 1
                output.register_hook(lambda g, gradients=gradients, place=place: gradients.__setitem__(place, g))
            return output

        return forward_and_note

    for layer, forward in original.items():
        layer.forward = noting(forward, [found[name] for name in names if layers[name] is layer])
    try:
        loss_fn(model(x)).backward()
    finally:
        for layer in original:
            del layer.forward
    return found


@misconception(
    "record_activation_gradients", "Tells calls apart by their output: nn.Identity gives the very tensor that it got, and takes its place."
)
def by_identity_of_outputs(model, names, x, loss_fn):
    calls, gradients = {}, {}

    def hook_for(name):
        def hook(module, args, output):
            calls[id(output)] = (name, output)
            output.register_hook(lambda g: gradients.__setitem__(id(output), g))

        return hook

    _hooked(model, names, x, loss_fn, hook_for)
    found = {name: [] for name in names}
    for key, (name, output) in calls.items():
        found[name].append(gradients.get(key, torch.zeros_like(output, requires_grad=False)))
    return found


@misconception(
    "record_activation_gradients", "Sets the model to training mode for the backward, and back: layers inside keep the wrong mode."
)
def restores_the_mode_of_the_root(model, names, x, loss_fn):
    was = model.training
    found = reference_record(model, names, x, loss_fn)
    model.train()
    model.train(was)
    return found


@misconception("record_activation_gradients", "Squeezes the gradients: a batch of one has its dimension as well.")
def squeezes_gradients(model, names, x, loss_fn):
    return {name: [g.squeeze() for g in gradients] for name, gradients in reference_record(model, names, x, loss_fn).items()}


@misconception("record_activation_gradients", "Divides the loss by the size of the batch before the backward.")
def averages_over_the_batch(model, names, x, loss_fn):
    return reference_record(model, names, x, lambda y: loss_fn(y) / len(x))
