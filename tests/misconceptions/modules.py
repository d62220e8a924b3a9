"""Named wrong answers to the tasks of modules: the hidden suite must reject every one."""

import copy
import math
from itertools import pairwise

import torch
from torch import nn

from grader.testing import misconception
from solutions.modules import MLP as ReferenceMLP
from solutions.modules import Dropout as ReferenceDropout
from solutions.modules import Embedding as ReferenceEmbedding
from solutions.modules import LayerNorm as ReferenceLayerNorm
from solutions.modules import Linear as ReferenceLinear
from solutions.modules import LinearRegression as ReferenceLinearRegression
from solutions.modules import LogisticRegression as ReferenceLogisticRegression
from solutions.modules import RMSNorm as ReferenceRMSNorm
from solutions.modules import RunningMean as ReferenceRunningMean
from solutions.modules import Sequential as ReferenceSequential
from solutions.modules import kaiming_init_ as reference_kaiming_init_

# Linear


@misconception(
    "Linear", "Stores the weight as (in_features, out_features); torch's convention is (out_features, in_features), and W is transposed."
)
class TransposedWeight(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        self.weight = nn.Parameter(self.weight.detach().T.contiguous())

    def forward(self, x):
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


@misconception(
    "Linear", "Weight and bias are plain tensors, so that the module has no parameters: an optimizer and state_dict() find nothing."
)
class PlainTensors(nn.Module):
    def __init__(self, in_features, out_features, *, bias=True, device=None, dtype=None):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = torch.empty(out_features, in_features, device=device, dtype=dtype).uniform_(-bound, bound).requires_grad_()
        self.bias = torch.empty(out_features, device=device, dtype=dtype).uniform_(-bound, bound).requires_grad_() if bias else None

    def forward(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@misconception("Linear", "Starts with standard normal numbers, which make outputs grow with the square root of in_features.")
class StandardNormalStart(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        nn.init.normal_(self.weight)


@misconception("Linear", "Starts with a bias of zeros; it should be uniform in the same bounds as the weight.")
class ZeroBias(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


@misconception("Linear", "Takes the bound from out_features instead of in_features.")
class BoundFromOutputs(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        bound = 1 / math.sqrt(out_features)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)


@misconception(
    "Linear", "Takes −1/√in_features … 1/√in_features for the standard deviation of normal numbers, not for the bounds of uniform ones."
)
class NormalWithTheBoundAsDeviation(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        nn.init.normal_(self.weight, std=1 / math.sqrt(in_features))


@misconception("Linear", "Without a bias it keeps a frozen parameter of zeros, which stays in state_dict().")
class FrozenZeroBias(ReferenceLinear):
    def __init__(self, in_features, out_features, *, bias=True, device=None, dtype=None):
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        if not bias:
            self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype), requires_grad=False)


@misconception(
    "Linear", "Transposes the weight once, in __init__, into a plain tensor: .double() then changes the parameter but not this copy."
)
class TransposedOnce(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        self.transposed = self.weight.data.T

    def forward(self, x):
        y = x @ self.transposed
        return y if self.bias is None else y + self.bias


@misconception("Linear", "Keeps the transposed weight from the first call in eval mode: a state that is loaded later is not used.")
class KeepsTheTranspose(ReferenceLinear):
    def forward(self, x):
        if self.training or not hasattr(self, "transposed") or self.transposed.dtype != x.dtype:
            self.transposed = self.weight.T.clone()
        y = x @ self.transposed
        return y if self.bias is None else y + self.bias


@misconception("Linear", "Squeezes the result: a single output, or a batch of one, loses its dimension.")
class SqueezesTheResult(ReferenceLinear):
    def forward(self, x):
        return super().forward(x).squeeze()


@misconception("Linear", "Lays rows out with view, which fails for a non-contiguous x.")
class ViewsTheRows(ReferenceLinear):
    def forward(self, x):
        return super().forward(x.view(x.shape[:-1].numel(), x.shape[-1])).view(*x.shape[:-1], -1 if x.numel() else len(self.weight))


@misconception("Linear", "Starts the bias as a copy of a column of the weight: it needs draws of its own.")
class BiasFromTheWeight(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        if self.bias is not None:
            self.bias = nn.Parameter(self.weight.detach()[:, 0].clone())


@misconception("Linear", "Draws half of the weight only; the other half is its negative.")
class HalfOfTheDraws(ReferenceLinear):
    def __init__(self, in_features, out_features, **settings):
        super().__init__(in_features, out_features, **settings)
        half = out_features // 2
        with torch.no_grad():
            self.weight[half : 2 * half] = -self.weight[:half]


@misconception("Linear", "Puts parameters on the CPU unless a device is given, where torch's default device may be another one.")
class AlwaysOnTheCPU(ReferenceLinear):
    def __init__(self, in_features, out_features, *, bias=True, device=None, dtype=None):
        super().__init__(in_features, out_features, bias=bias, device=device or "cpu", dtype=dtype)


# Sequential


@misconception("Sequential", "Keeps the modules in a Python list, where nn.Module doesn't see them: no parameters, no state, no eval mode.")
class InAPythonList(nn.Module):
    def __init__(self, *modules):
        super().__init__()
        if not all(isinstance(module, nn.Module) for module in modules):
            raise TypeError("not a module")
        self.parts = list(modules)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]

    def append(self, module):
        if not isinstance(module, nn.Module):
            raise TypeError("not a module")
        self.parts.append(module)
        return self


@misconception("Sequential", "Goes through children(), which gives a module that stands in two places only once.")
class OverChildren(ReferenceSequential):
    def forward(self, x):
        for module in self.children():
            x = module(x)
        return x


@misconception("Sequential", "Remembers the modules in a list besides registering them: a child that is replaced later goes on running.")
class ListBesidesChildren(ReferenceSequential):
    def __init__(self, *modules):
        nn.Module.__init__(self)
        self.parts = []
        for module in modules:
            self.append(module)

    def append(self, module):
        super().append(module)
        self.parts.append(module)
        return self

    def forward(self, x):
        for module in self.parts:
            x = module(x)
        return x


@misconception("Sequential", "Calls module.forward(x) instead of module(x), which skips hooks.")
class CallsForward(ReferenceSequential):
    def forward(self, x):
        for module in self._modules.values():
            x = module.forward(x)
        return x


@misconception("Sequential", 'Sorts the names as strings, where "10" comes before "2".')
class SortedNames(ReferenceSequential):
    def forward(self, x):
        for name in sorted(self._modules):
            x = self._modules[name](x)
        return x


@misconception("Sequential", "Finds modules by their name without a check: −1 and places after the end are an AttributeError.")
class IndexByName(ReferenceSequential):
    def __getitem__(self, index):
        return getattr(self, str(index))


@misconception("Sequential", "Takes any callable: a function has no place among the children, and is a TypeError here.")
class AnythingCallable(ReferenceSequential):
    def append(self, module):
        if isinstance(module, nn.Module):
            return super().append(module)
        wrapper = nn.Module()
        wrapper.forward = module
        return super().append(wrapper)


@misconception("Sequential", "Begins with the module in place 0, which an empty container doesn't have.")
class BeginsWithTheFirst(ReferenceSequential):
    def forward(self, x):
        x = self[0](x)
        for i in range(1, len(self)):
            x = self[i](x)
        return x


@misconception("Sequential", "Unpacks tuples into several arguments: each module gets one value, of whatever type.")
class UnpacksTuples(ReferenceSequential):
    def forward(self, x):
        for module in self._modules.values():
            x = module(*x) if isinstance(x, tuple) else module(x)
        return x


@misconception("Sequential", "Leaves the check to add_module, which takes None: calling it fails much later.")
class TakesNone(ReferenceSequential):
    def append(self, module):
        self.add_module(str(len(self)), module)
        return self


@misconception("Sequential", "Asks `if not module`: a container with a length of 0 counts as False, and is refused.")
class EmptyIsNoModule(ReferenceSequential):
    def append(self, module):
        if not module:
            raise TypeError("not a module")
        return super().append(module)


@misconception("Sequential", "Registers copies of the modules: who holds the modules that were given doesn't see them learn.")
class CopiesTheModules(ReferenceSequential):
    def append(self, module):
        return super().append(copy.deepcopy(module))


@misconception("Sequential", "Sets every module's mode to its own before the call: one that was frozen in eval mode is switched on.")
class SetsTheMode(ReferenceSequential):
    def forward(self, x):
        for module in self._modules.values():
            x = module.train(self.training)(x)
        return x


@misconception("Sequential", "Takes None for a missing value: modules may return and take whatever they like.")
class RefusesNothing(ReferenceSequential):
    def forward(self, x):
        for module in self._modules.values():
            if x is None:
                raise ValueError("nothing to pass on")
            x = module(x)
        return x


@misconception("Sequential", "Switches modules to eval mode where the container is: one that is kept in training mode is changed.")
class SwitchesToEval(ReferenceSequential):
    def forward(self, x):
        for module in self._modules.values():
            x = module(x) if self.training else module.eval()(x)
        return x


@misconception("Sequential", "Takes the first of a list that a module returns: the next module should get all of it.")
class FirstOfAList(ReferenceSequential):
    def forward(self, x):
        for module in self._modules.values():
            x = module(x)
            x = x[0] if isinstance(x, list) else x
        return x


@misconception("Sequential", "Puts each module into training mode when it is added: one that was frozen in eval mode is switched on.")
class TrainsWhatIsAdded(ReferenceSequential):
    def append(self, module):
        return super().append(module.train() if isinstance(module, nn.Module) else module)


# MLP


@misconception("MLP", "Applies the activation after the last layer as well: no output can be negative then.")
class ActivationAtTheEnd(ReferenceMLP):
    def forward(self, x):
        for layer in self.layers:
            x = self.activation(layer(x))
        return x


@misconception("MLP", "Forgets the activation: layers of linear maps are one linear map.")
class NoActivation(ReferenceMLP):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@misconception("MLP", "Keeps the layers in a Python list: the model has no parameters.")
class LayersInAList(nn.Module):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__()
        if len(sizes) < 2:
            raise ValueError("too few sizes")
        self.activation = activation
        self.layers = [nn.Linear(p, q) for p, q in pairwise(sizes)]

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


@misconception("MLP", "Uses one layer several times where sizes repeat: [layer] * n is n times the same object, not n layers.")
class OneLayerManyTimes(ReferenceMLP):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__(sizes, activation=activation)
        made = {}
        self.layers = nn.ModuleList(made.setdefault(pair, nn.Linear(*pair)) for pair in pairwise(sizes))


@misconception("MLP", "Applies ReLU whatever activation is given.")
class AlwaysReLU(ReferenceMLP):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__(sizes)


@misconception("MLP", "Takes sizes apart with pop, so that the caller's list is empty afterwards.")
class EatsTheSizes(ReferenceMLP):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__(sizes, activation=activation)
        while isinstance(sizes, list) and sizes:
            sizes.pop()


@misconception("MLP", "Applies the activation to the input too.")
class ActivationFirst(ReferenceMLP):
    def forward(self, x):
        return super().forward(self.activation(x))


@misconception("MLP", "Sets biases to zeros; the layers should start as torch initialises them.")
class ZeroBiases(ReferenceMLP):
    def __init__(self, sizes, *, activation=torch.relu):
        super().__init__(sizes, activation=activation)
        for layer in self.layers:
            nn.init.zeros_(layer.bias)


@misconception("MLP", "Lays rows out with view, which fails for a non-contiguous x.")
class ViewsTheBatch(ReferenceMLP):
    def forward(self, x):
        return super().forward(x.view(x.shape[:-1].numel(), x.shape[-1])).view(*x.shape[:-1], self.layers[-1].out_features)


@misconception("MLP", "Squeezes a single output away.")
class SqueezesOneOutput(ReferenceMLP):
    def forward(self, x):
        return super().forward(x).squeeze(-1)


@misconception("MLP", "Keeps the weights as they are at the first call in eval mode: a state that is loaded later is not used.")
class KeepsTheWeights(ReferenceMLP):
    def forward(self, x):
        if self.training:
            return super().forward(x)
        if not hasattr(self, "kept"):
            self.kept = [(layer.weight.clone(), layer.bias.clone()) for layer in self.layers]
        for i, (weight, bias) in enumerate(self.kept):
            x = nn.functional.linear(x if i == 0 else self.activation(x), weight, bias)
        return x


@misconception("MLP", "Uses ReLU in eval mode, whatever activation was given.")
class OtherActivationInEval(ReferenceMLP):
    def forward(self, x):
        for i, layer in enumerate(self.layers):
            h = x if i == 0 else self.activation(x) if self.training else torch.relu(x)
            x = layer(h)
        return x


# Dropout


@misconception("Dropout", "Doesn't divide by 1 − p: the expectation shrinks, and training and eval mode don't fit together.")
class NotScaled(ReferenceDropout):
    def forward(self, x):
        return x * (torch.rand(x.shape) >= self.p) if self.training else x


@misconception("Dropout", "Scales in eval mode by 1 − p, as in the paper, instead of in training by 1 / (1 − p).")
class ScaledInEval(ReferenceDropout):
    def forward(self, x):
        return x * (torch.rand(x.shape) >= self.p) if self.training else x * (1 - self.p)


@misconception("Dropout", "Takes p for the probability of keeping an entry.")
class KeepsWithP(ReferenceDropout):
    def forward(self, x):
        if not self.training:
            return x
        scale = 1 / self.p if self.p > 0 else 0.0
        return x * (torch.rand(x.shape) < self.p) * scale


@misconception("Dropout", "Ignores the mode: eval() changes nothing.")
class DropsInEval(ReferenceDropout):
    def forward(self, x):
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return x * (torch.rand(x.shape) >= self.p) * scale


@misconception("Dropout", "Divides by 1 − p without a thought for p = 1: 0 / 0 is NaN.")
class NaNForOne(ReferenceDropout):
    def forward(self, x):
        return x * (torch.rand(x.shape) >= self.p) / (1 - self.p) if self.training else x


@misconception("Dropout", "Draws one mask for the last dimension and uses it for all rows.")
class OneMaskForAllRows(ReferenceDropout):
    def forward(self, x):
        if not self.training:
            return x
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return x * (torch.rand(x.shape[-1:]) >= self.p) * scale


@misconception("Dropout", "Draws the mask once and keeps it: every call drops the same entries.")
class KeepsItsMask(ReferenceDropout):
    def forward(self, x):
        if not self.training:
            return x
        if getattr(self, "mask", None) is None or self.mask.shape != x.shape:
            self.mask = torch.rand(x.shape) >= self.p
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return x * self.mask * scale


@misconception("Dropout", "Multiplies by a float32 mask, which makes float32 of a float16 input.")
class FloatMask(ReferenceDropout):
    def forward(self, x):
        if not self.training:
            return x
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        return x * (torch.rand(x.shape) >= self.p).float() * scale


@misconception("Dropout", "Drops in place: the caller's tensor changes.")
class DropsInPlace(ReferenceDropout):
    def forward(self, x):
        if not self.training:
            return x
        scale = 1 / (1 - self.p) if self.p < 1 else 0.0
        x.data.mul_(torch.rand(x.shape) >= self.p).mul_(scale)
        return x * 1


@misconception("Dropout", "Draws the mask before it looks at the mode: in eval mode torch's generator moves on.")
class DrawsInEval(ReferenceDropout):
    def forward(self, x):
        kept = torch.rand(x.shape) >= self.p
        return x * kept * (1 / (1 - self.p) if self.p < 1 else 0.0) if self.training else x


@misconception("Dropout", "Drops exactly the share p of the entries, which then depend on each other.")
class DropsAFixedNumber(ReferenceDropout):
    def forward(self, x):
        if not self.training or self.p == 1:
            return super().forward(x)
        kept = torch.ones(x.numel(), dtype=torch.bool)
        kept[torch.randperm(x.numel())[: round(self.p * x.numel())]] = False
        return x * kept.view(x.shape) / (1 - self.p)


@misconception("Dropout", "Draws in the dtype of x: in bfloat16, random numbers are multiples of 1/256, and small p come out wrong.")
class DrawsIn16Bits(ReferenceDropout):
    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(x.shape, dtype=x.dtype) >= self.p) * (1 / (1 - self.p) if self.p < 1 else 0.0)


@misconception("Dropout", "Writes `p or 0.5`: a p of 0 becomes ½.")
class ZeroIsMissing(ReferenceDropout):
    def __init__(self, p=None):
        super().__init__(p or 0.5)


@misconception("Dropout", "Makes the mask for a view of x in one row, which fails for a non-contiguous x.")
class ViewsInOneRow(ReferenceDropout):
    def forward(self, x):
        return super().forward(x.view(-1)).view(x.shape)


@misconception("Dropout", "Draws a mask in the layout of x: repeated rows of an expanded x share their mask.")
class MaskInTheLayout(ReferenceDropout):
    def forward(self, x):
        if not self.training:
            return x
        drawn = torch.rand([1 if stride == 0 else size for size, stride in zip(x.shape, x.stride(), strict=True)])
        return x * (drawn >= self.p) * (1 / (1 - self.p) if self.p < 1 else 0.0)


@misconception("Dropout", "Draws a mask for half of the rows; the other half gets the opposite one.")
class OppositeHalves(ReferenceDropout):
    def forward(self, x):
        if not self.training or self.p != 0.5 or x.ndim == 0:
            return super().forward(x)
        kept, half = torch.rand(x.shape) >= self.p, len(x) // 2
        kept[half : 2 * half] = ~kept[:half]
        return x * kept * 2


@misconception("Dropout", "Keeps its last mask in a buffer, which is state that the task rules out.")
class MaskInABuffer(ReferenceDropout):
    def __init__(self, p=0.5):
        super().__init__(p)
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x):
        if not self.training:
            return x
        self.mask = torch.rand(x.shape) >= self.p
        return x * self.mask * (1 / (1 - self.p) if self.p < 1 else 0.0)


@misconception("Dropout", "Takes torch.no_grad() for eval mode: whether to drop depends on the mode alone.")
class NotWithoutGradients(ReferenceDropout):
    def forward(self, x):
        return super().forward(x) if torch.is_grad_enabled() else x


@misconception("Dropout", "Scales in float32: a float64 x loses half of its digits.")
class ScalesInSingle(ReferenceDropout):
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


# LayerNorm


@misconception("LayerNorm", "Takes the unbiased variance, which is torch.var's default: divided by n − 1 instead of n.")
class UnbiasedVariance(ReferenceLayerNorm):
    def forward(self, x):
        super().forward(x)
        dims = tuple(range(-len(self.normalized_shape), 0))
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = (h - h.mean(dims, keepdim=True)) / torch.sqrt(h.var(dims, keepdim=True) + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Adds eps to the standard deviation instead of the variance.")
class EpsOutsideOfTheRoot(ReferenceLayerNorm):
    def forward(self, x):
        super().forward(x)
        dims = tuple(range(-len(self.normalized_shape), 0))
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h - h.mean(dims, keepdim=True)
        h = h / (h.square().mean(dims, keepdim=True).sqrt() + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Normalises over the batch, dimension 0: that is batch norm.")
class OverTheBatch(ReferenceLayerNorm):
    def forward(self, x):
        super().forward(x)
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h - h.mean(0, keepdim=True)
        h = h * torch.rsqrt(h.square().mean(0, keepdim=True) + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Normalises over the last dimension only, however many normalized_shape has.")
class LastDimensionOnly(ReferenceLayerNorm):
    def forward(self, x):
        super().forward(x)
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h - h.mean(-1, keepdim=True)
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Computes the variance as mean(x²) − mean², which loses all digits where the mean is large.")
class DifferenceOfLargeNumbers(ReferenceLayerNorm):
    def forward(self, x):
        super().forward(x)
        dims = tuple(range(-len(self.normalized_shape), 0))
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = h.mean(dims, keepdim=True)
        var = (h.square().mean(dims, keepdim=True) - mean.square()).clamp(min=0)
        h = (h - mean) * torch.rsqrt(var + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Computes in float16, where the squares of numbers above 256 are infinite.")
class HalfTheBits(ReferenceLayerNorm):
    def forward(self, x):
        super().forward(x)
        dims = tuple(range(-len(self.normalized_shape), 0))
        h = x - x.mean(dims, keepdim=True)
        h = h * torch.rsqrt(h.square().mean(dims, keepdim=True) + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Detaches mean and variance: the gradient takes them for constants, but they depend on x.")
class ConstantStatistics(ReferenceLayerNorm):
    def forward(self, x):
        super().forward(x)
        dims = tuple(range(-len(self.normalized_shape), 0))
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h - h.detach().mean(dims, keepdim=True)
        h = h * torch.rsqrt(h.detach().square().mean(dims, keepdim=True) + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Doesn't look at the shape: (3, 5, 1) broadcasts against a weight of (7,), and nobody notices.")
class BroadcastsSilently(ReferenceLayerNorm):
    def forward(self, x):
        dims = tuple(range(-len(self.normalized_shape), 0))
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h - h.mean(dims, keepdim=True)
        h = h * torch.rsqrt(h.square().mean(dims, keepdim=True) + self.eps)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


class _Normalising(ReferenceLayerNorm):
    """Lets a wrong norm say only how it normalises: `normalised` gets x with its normalized dimensions as one."""

    def forward(self, x):
        k = len(self.normalized_shape)
        if x.ndim < k or tuple(x.shape[x.ndim - k :]) != self.normalized_shape:
            raise ValueError("shape")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        h = self.normalised(wide.flatten(x.ndim - k)).view(x.shape)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)

    def normalised(self, h):
        h = h - h.mean(-1, keepdim=True)
        return h / (h.square().mean(-1, keepdim=True) + self.eps).sqrt()


@misconception("LayerNorm", "Writes `eps or 1e-5`: an eps of 0 becomes 1e-5.")
class DefaultForZeroEps(ReferenceLayerNorm):
    def __init__(self, normalized_shape, eps=None, *, elementwise_affine=True):
        super().__init__(normalized_shape, eps or 1e-5, elementwise_affine=elementwise_affine)


@misconception("LayerNorm", "Rounds to 16 bits before it scales and shifts, and again after it.")
class RoundsBeforeTheShift(_Normalising):
    def forward(self, x):
        weight, bias, self.weight, self.bias = self.weight, self.bias, None, None
        h = super().forward(x)
        self.weight, self.bias = weight, bias
        return h if weight is None else h * weight.to(x.dtype) + bias.to(x.dtype)


@misconception("LayerNorm", "Computes in the dtype of the weight: a float64 x loses half of its digits to float32 parameters.")
class PrecisionOfTheWeight(_Normalising):
    def normalised(self, h):
        return super().normalised(h if self.weight is None else h.to(self.weight.dtype))


@misconception(
    "LayerNorm", "Divides by the largest entry of all vectors first: one NaN or infinity spoils the others, and tiny vectors vanish."
)
class ScalesByTheLargest(_Normalising):
    def normalised(self, h):
        if h.numel() == 0 or not h.any():
            return super().normalised(h)
        largest = h.detach().abs().max()
        h = (h - h.mean(-1, keepdim=True)) / largest
        return h / (h.square().mean(-1, keepdim=True) + self.eps / largest.square()).sqrt()


@misconception("LayerNorm", "Takes the variance for at least 1e-6 on top of eps: vectors of tiny numbers come out too small.")
class FloorsTheVariance(_Normalising):
    def normalised(self, h):
        h = h - h.mean(-1, keepdim=True)
        return h / (h.square().mean(-1, keepdim=True).clamp(min=1e-6) + self.eps).sqrt()


@misconception("LayerNorm", "Lays vectors out with view, which fails for a non-contiguous x.")
class ViewsTheVectors(ReferenceLayerNorm):
    def forward(self, x):
        k = len(self.normalized_shape)
        if x.ndim < k or tuple(x.shape[-k:]) != self.normalized_shape:
            raise ValueError("shape")
        size = math.prod(self.normalized_shape)
        h = x.view(x.numel() // size, size).to(torch.promote_types(x.dtype, torch.float32))
        h = h - h.mean(1, keepdim=True)
        h = (h / (h.square().mean(1, keepdim=True) + self.eps).sqrt()).view(x.shape)
        return (h if self.weight is None else h * self.weight + self.bias).to(x.dtype)


@misconception("LayerNorm", "Makes float32 parameters whatever torch's default dtype is.")
class AlwaysSingle(ReferenceLayerNorm):
    def __init__(self, normalized_shape, eps=1e-5, *, elementwise_affine=True):
        super().__init__(normalized_shape, eps, elementwise_affine=elementwise_affine)
        self.float()


@misconception("LayerNorm", "Keeps weight and bias as they are at the first call in eval mode: a state that is loaded later is not used.")
class KeepsTheScale(ReferenceLayerNorm):
    def forward(self, x):
        if self.training or self.weight is None:
            return super().forward(x)
        if not hasattr(self, "kept"):
            self.kept = self.weight.detach().clone(), self.bias.detach().clone()
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h - h.mean(-1, keepdim=True)
        h = h / (h.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return (h * self.kept[0] + self.kept[1]).to(x.dtype)


# RMSNorm


@misconception("RMSNorm", "Subtracts the mean first: that is layer norm.")
class SubtractsTheMean(ReferenceRMSNorm):
    def forward(self, x):
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        return super().forward((h - h.mean(-1, keepdim=True)).to(x.dtype))


@misconception("RMSNorm", "Divides by the norm, the root of the sum of squares, instead of the root of their mean.")
class DividesByTheNorm(ReferenceRMSNorm):
    def forward(self, x):
        super().forward(x)
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h * torch.rsqrt(h.square().sum(-1, keepdim=True) + self.eps)
        return (h * self.weight).to(x.dtype)


@misconception("RMSNorm", "Squares in float16: 300² is infinite there.")
class SquaresInHalf(ReferenceRMSNorm):
    def forward(self, x):
        super().forward(x)
        h = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return (h * self.weight).to(x.dtype)


@misconception("RMSNorm", "Adds eps after the root.")
class EpsAfterTheRoot(ReferenceRMSNorm):
    def forward(self, x):
        super().forward(x)
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h / (h.square().mean(-1, keepdim=True).sqrt() + self.eps)
        return (h * self.weight).to(x.dtype)


@misconception("RMSNorm", "Returns float32 for a float16 x: the product with a float32 weight is not converted back.")
class KeepsFloat32(ReferenceRMSNorm):
    def forward(self, x):
        super().forward(x)
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return h * self.weight


@misconception("RMSNorm", "Takes the mean over all dimensions, so that vectors of a batch change each other.")
class MeanOverEverything(ReferenceRMSNorm):
    def forward(self, x):
        super().forward(x)
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        return (h * torch.rsqrt(h.square().mean() + self.eps) * self.weight).to(x.dtype)


@misconception("RMSNorm", "Doesn't look at the shape: vectors of one entry broadcast against the weight.")
class BroadcastsTheWeight(ReferenceRMSNorm):
    def forward(self, x):
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps)
        return (h * self.weight).to(x.dtype)


@misconception("RMSNorm", "Rounds to 16 bits before the product with the weight, as Llama does, and again after it.")
class RoundsBeforeTheWeight(ReferenceRMSNorm):
    def forward(self, x):
        if x.shape[-1:] != self.weight.shape:
            raise ValueError("size")
        h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * h.to(x.dtype)


@misconception("RMSNorm", "Writes `eps or 1e-6`: an eps of 0 becomes 1e-6.")
class DefaultForNoEps(ReferenceRMSNorm):
    def __init__(self, dim, eps=None):
        super().__init__(dim, eps or 1e-6)


@misconception("RMSNorm", "Computes in float32 whatever the dtype of x: float64 loses half of its digits.")
class AlwaysInSingle(ReferenceRMSNorm):
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


@misconception(
    "RMSNorm", "Divides by the largest entry of all vectors first: one NaN or infinity spoils the others, and tiny vectors vanish."
)
class DividesByTheLargest(ReferenceRMSNorm):
    def forward(self, x):
        if x.numel() == 0 or not x.any():
            return super().forward(x)
        if x.shape[-1:] != self.weight.shape:
            raise ValueError("size")
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        largest = h.detach().abs().max()
        h = h / largest
        return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps / largest.square()) * self.weight).to(x.dtype)


@misconception("RMSNorm", "Takes the weight's dtype for that of the computation.")
class InTheDtypeOfTheWeight(ReferenceRMSNorm):
    def forward(self, x):
        super().forward(x)
        h = x.to(torch.promote_types(self.weight.dtype, torch.float32))
        return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


@misconception("RMSNorm", "Lays vectors out with view, which fails for a non-contiguous x.")
class ViewsVectors(ReferenceRMSNorm):
    def forward(self, x):
        return super().forward(x.view(x.shape[:-1].numel(), x.shape[-1])).view(x.shape)


@misconception("RMSNorm", "Squeezes the weight: for a single entry it is no vector any more.")
class SqueezesTheWeight(ReferenceRMSNorm):
    def __init__(self, dim, eps=1e-6):
        super().__init__(dim, eps)
        self.weight = nn.Parameter(torch.ones(dim).squeeze())


# Embedding


def _check_indices(table, indices):
    if ((indices < 0) | (indices >= len(table.weight))).any():
        raise IndexError("indices")


@misconception("Embedding", "Forgets about padding in the gradient: the padding row is trained.")
class PaddingIsTrained(ReferenceEmbedding):
    def forward(self, indices):
        _check_indices(self, indices)
        return self.weight[indices]


@misconception("Embedding", "Multiplies looked-up padding by 0: the row padding_idx is then never seen, whatever was loaded into it.")
class PaddingIsAlwaysZero(ReferenceEmbedding):
    def forward(self, indices):
        _check_indices(self, indices)
        rows = self.weight[indices]
        return rows if self.padding_idx is None else rows * (indices != self.padding_idx)[..., None]


@misconception("Embedding", "Accepts negative indices, which silently count from the end.")
class NegativeIndicesCount(ReferenceEmbedding):
    def forward(self, indices):
        return super().forward(torch.where(indices < 0, indices + len(self.weight), indices))


@misconception("Embedding", "Multiplies one-hot vectors by the table: 0 · NaN is NaN, so that one bad row spoils all look-ups.")
class OneHotProduct(ReferenceEmbedding):
    def forward(self, indices):
        _check_indices(self, indices)
        rows = nn.functional.one_hot(indices.long(), len(self.weight)).to(self.weight.dtype) @ self.weight
        return rows if self.padding_idx is None else torch.where((indices == self.padding_idx)[..., None], rows.detach(), rows)


@misconception("Embedding", "A hook on the weight clears the gradient of the padding row altogether, that of a tied output layer included.")
class ClearsTheWholeGradient(ReferenceEmbedding):
    def forward(self, indices):
        _check_indices(self, indices)
        if self.padding_idx is not None and not hasattr(self, "hook"):
            others = (torch.arange(len(self.weight)) != self.padding_idx)[:, None]
            self.hook = self.weight.register_hook(lambda grad: grad * others)
        return self.weight[indices]


@misconception("Embedding", "Starts the padding row with random numbers like all others.")
class RandomPadding(ReferenceEmbedding):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        nn.init.normal_(self.weight)


@misconception("Embedding", "Compares indices with a negative padding_idx as it stands: they never are equal.")
class NegativePaddingIsLost(ReferenceEmbedding):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.padding_idx = padding_idx


@misconception("Embedding", "Starts with uniform numbers between 0 and 1.")
class UniformStart(ReferenceEmbedding):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        with torch.no_grad():
            self.weight.uniform_()
            if padding_idx is not None:
                self.weight[padding_idx] = 0


@misconception("Embedding", "Flattens the indices and forgets to restore their shape.")
class FlattensTheIndices(ReferenceEmbedding):
    def forward(self, indices):
        return super().forward(indices.reshape(-1))


class _LastGradientWins(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, indices, padding_idx):
        ctx.save_for_backward(indices)
        ctx.rows, ctx.padding_idx = len(weight), padding_idx
        return weight[indices]

    @staticmethod
    def backward(ctx, grad):
        total = grad.new_zeros(ctx.rows, grad.shape[-1])
        total[ctx.saved_tensors[0].long()] = grad
        if ctx.padding_idx is not None:
            total[ctx.padding_idx] = 0
        return total, None, None


@misconception("Embedding", "Assigns gradients to rows instead of adding them: of several look-ups of a row only one counts.")
class LastGradientWins(ReferenceEmbedding):
    def forward(self, indices):
        _check_indices(self, indices)
        return _LastGradientWins.apply(self.weight, indices, self.padding_idx)


@misconception("Embedding", "Mixes rows with and without gradient by multiplying with 0 and 1: an infinity that is looked up becomes NaN.")
class InfinityTimesZero(ReferenceEmbedding):
    def forward(self, indices):
        _check_indices(self, indices)
        rows = self.weight[indices]
        if self.padding_idx is None:
            return rows
        real = (indices != self.padding_idx)[..., None].to(rows.dtype)
        return rows * real + rows.detach() * (1 - real)


@misconception("Embedding", "Multiplies the gradient for padding by 0: a NaN or an infinity there gets through as a NaN.")
class GradientTimesZero(ReferenceEmbedding):
    def forward(self, indices):
        _check_indices(self, indices)
        rows = self.weight[indices]
        if self.padding_idx is not None and rows.requires_grad:
            real = (indices != self.padding_idx)[..., None]
            rows.register_hook(lambda grad: grad * real)
        return rows


@misconception("Embedding", "Asks `if padding_idx`: the row 0 counts as no padding.")
class ZeroIsNoPadding(ReferenceEmbedding):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx or None)


@misconception("Embedding", "Lays the indices out with view, which fails for non-contiguous ones.")
class ViewsTheIndices(ReferenceEmbedding):
    def forward(self, indices):
        return super().forward(indices.view(-1)).view(*indices.shape, self.weight.shape[1])


@misconception("Embedding", "Keeps a copy of the table for eval mode: a state that is loaded later is not looked up.")
class KeepsTheTable(ReferenceEmbedding):
    def forward(self, indices):
        if self.training:
            return super().forward(indices)
        _check_indices(self, indices)
        if not hasattr(self, "table"):
            self.table = self.weight.detach().clone()
        return self.table[indices]


@misconception("Embedding", "Squeezes the result: a single index, or vectors of one entry, lose a dimension.")
class SqueezesTheVectors(ReferenceEmbedding):
    def forward(self, indices):
        return super().forward(indices).squeeze(-1)


@misconception("Embedding", "Makes a float32 table whatever torch's default dtype is.")
class SingleTable(ReferenceEmbedding):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.float()


@misconception("Embedding", "Clears the padding row of the table at every look-up: whatever was loaded into it is lost.")
class ClearsThePaddingRow(ReferenceEmbedding):
    def forward(self, indices):
        if self.padding_idx is not None:
            with torch.no_grad():
                self.weight[self.padding_idx] = 0
        return super().forward(indices)


@misconception("Embedding", "Draws from a generator of its own with a fixed seed: all tables start alike.")
class SameTableEachTime(ReferenceEmbedding):
    def __init__(self, num_embeddings, embedding_dim, padding_idx=None):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        table = torch.randn(num_embeddings, embedding_dim, generator=torch.Generator().manual_seed(0))
        if self.padding_idx is not None:
            table[self.padding_idx] = 0
        self.weight = nn.Parameter(table)


# kaiming_init_


def _kaiming(weight, mode, nonlinearity, a, distribution, generator, *, fans=None, gain=None, root=True, wide=True):
    reference_kaiming_init_(weight.new_empty(weight.shape), mode=mode, nonlinearity=nonlinearity, distribution=distribution)  # its checks
    gains = {"linear": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + a * a))}
    kernel = math.prod(weight.shape[2:])
    fan = (fans or {"fan_in": weight.shape[1] * kernel, "fan_out": weight.shape[0] * kernel})[mode]
    std = (gain or gains[nonlinearity]) / (math.sqrt(fan) if root else fan)
    with torch.no_grad():
        if distribution == "normal":
            return weight.normal_(0, std, generator=generator)
        bound = math.sqrt(3) * std if wide else std
        return weight.uniform_(-bound, bound, generator=generator)


@misconception("kaiming_init_", "Confuses the fans: a weight is (out, in), so fan_in is in size 1.")
def fans_confused(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    kernel = math.prod(weight.shape[2:])
    fans = {"fan_in": weight.shape[0] * kernel, "fan_out": weight.shape[min(1, weight.ndim - 1)] * kernel}
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator, fans=fans)


@misconception("kaiming_init_", "Leaves the kernel out of the fan: a convolution sums up in · kernel products.")
def kernel_left_out(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    fans = {"fan_in": weight.shape[min(1, weight.ndim - 1)], "fan_out": weight.shape[0]}
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator, fans=fans)


@misconception("kaiming_init_", "Takes the standard deviation for the bound of the uniform numbers: they come out √3 times too small.")
def deviation_for_bound(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator, wide=False)


@misconception("kaiming_init_", "Uses the gain of ReLU for every nonlinearity.")
def always_relu_gain(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator, gain=math.sqrt(2))


@misconception("kaiming_init_", "Leaves the gain out: with ReLU, signals shrink by √2 from layer to layer.")
def no_gain(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator, gain=1.0)


@misconception("kaiming_init_", "Divides by the fan instead of its square root: that is the variance's scale, not the deviation's.")
def fan_without_root(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator, root=False)


@misconception("kaiming_init_", "Returns a new tensor and leaves the weight as it was: the underscore promises a change in place.")
def not_in_place(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    fresh = weight.detach().clone()
    return _kaiming(fresh, mode, nonlinearity, a, distribution, generator)


@misconception("kaiming_init_", "Ignores the generator and draws from the global one.")
def generator_ignored(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    return _kaiming(weight, mode, nonlinearity, a, distribution, None)


@misconception("kaiming_init_", "Fills a view in one row, view(-1), which fails for a transposed weight.")
def fills_in_one_row(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    numbers = _kaiming(weight.detach().clone(), mode, nonlinearity, a, distribution, generator)
    with torch.no_grad():
        weight.view(-1).copy_(numbers.reshape(-1))
    return weight


@misconception("kaiming_init_", "Draws half of the rows; the others are their negatives.")
def half_are_mirrored(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    _kaiming(weight, mode, nonlinearity, a, distribution, generator)
    half = len(weight) // 2
    with torch.no_grad():
        weight[half : 2 * half] = -weight[:half]
    return weight


@misconception("kaiming_init_", "Looks at the names only when it needs them: weight and generator have changed when the error is raised.")
def checks_too_late(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    if weight.ndim < 2:
        raise ValueError("dimensions")
    with torch.no_grad():
        weight.normal_(generator=generator)
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator)


@misconception("kaiming_init_", "Seeds the generator anew at every call: all layers that use it get the same numbers.")
def seeds_the_generator(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    if generator is not None:
        generator.manual_seed(generator.initial_seed())
    return _kaiming(weight, mode, nonlinearity, a, distribution, generator)


@misconception(
    "kaiming_init_",
    "Puts float32 numbers into weight.data, whatever the weight's dtype was, and out of the larger tensor that it is a view of.",
)
def new_data(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    weight.data = _kaiming(torch.empty(weight.shape), mode, nonlinearity, a, distribution, generator)
    return weight


@misconception("kaiming_init_", "Cuts the numbers off at 2.5 standard deviations: they are not normal any more.")
def cuts_the_tails(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    out = _kaiming(weight, mode, nonlinearity, a, distribution, generator)
    if distribution == "normal":
        std = _kaiming(weight.detach().clone(), mode, nonlinearity, a, distribution, torch.Generator()).std()
        out.data.clamp_(-2.5 * std, 2.5 * std)
    return out


@misconception("kaiming_init_", "Switches recording on when it is done, where it may have been off: use `with torch.no_grad():`.")
def records_afterwards(weight, *, mode="fan_in", nonlinearity="relu", a=0.0, distribution="normal", generator=None):
    _kaiming(weight, mode, nonlinearity, a, distribution, generator)
    torch.set_grad_enabled(True)
    return weight


# LinearRegression


class _Descending(ReferenceLinearRegression):
    """Lets a wrong fit say only how it walks."""

    steps, rate, decay, standardise = 600, 1.0, 0.0, True

    def fit(self, x, y):
        N, D = x.shape
        if y.shape != (N,):
            raise ValueError("y")
        with torch.no_grad():
            mean, std = (x.mean(0), x.std(0)) if self.standardise else (torch.zeros(D).to(x), torch.ones(D).to(x))
            z = (x - mean) / std
            v, c = torch.zeros(D).to(x), torch.zeros(()).to(x)
            gram, slope, total, rows = z.T @ z / N, z.T @ y / N, z.mean(0), y.mean()
            for _ in range(self.steps):
                dv, dc = gram @ v + c * total - slope + self.decay * v, total @ v + c - rows
                v -= self.rate / D * dv
                c -= self.rate / D * dc
            return self.finish(x, y, v, c, mean, std)

    def finish(self, x, y, v, c, mean, std):
        self.weight.copy_(v / std)
        self.bias.copy_(c - mean @ self.weight)
        return (self(x) - y).square().mean().item()


@misconception(
    "LinearRegression",
    "Descends on the columns as they are: a step small enough for the large ones never gets anywhere for the small ones.",
)
class NotStandardised(_Descending):
    standardise, rate = False, 0.001


@misconception("LinearRegression", "Stops long before the descent has converged.")
class StopsTooEarly(_Descending):
    steps = 15


@misconception("LinearRegression", "Adds weight decay: that is ridge regression, whose minimum lies elsewhere.")
class WithWeightDecay(_Descending):
    decay = 0.01


@misconception(
    "LinearRegression", "Leaves the coefficients of the standardised columns in weight and bias, but predicts from x as it is given."
)
class StandardisedCoefficients(_Descending):
    def finish(self, x, y, v, c, mean, std):
        self.weight.copy_(v)
        self.bias.copy_(c)
        return ((x - mean) / std @ v + c - y).square().mean().item()


@misconception("LinearRegression", "Scales the weight back, but forgets that the columns' means belong into the bias.")
class MeansForgotten(_Descending):
    def finish(self, x, y, v, c, mean, std):
        self.weight.copy_(v / std)
        self.bias.copy_(c)
        return ((x - mean) / std @ v + c - y).square().mean().item()


@misconception("LinearRegression", "Puts new nn.Parameters in place of the old ones: who holds those doesn't see the fit.")
class NewParameters(_Descending):
    def finish(self, x, y, v, c, mean, std):
        self.weight = nn.Parameter(v / std)
        self.bias = nn.Parameter(c - mean @ self.weight)
        return (self(x) - y).square().mean().item()


@misconception("LinearRegression", "Standardises x in place: the caller's data changes.")
class StandardisesInPlace(ReferenceLinearRegression):
    def fit(self, x, y):
        error = super().fit(x, y)
        x.sub_(x.mean(0)).div_(x.std(0))
        return error


@misconception("LinearRegression", "Has no intercept that is fitted: the line must go through the origin.")
class NoIntercept(_Descending):
    def finish(self, x, y, v, c, mean, std):
        self.weight.copy_(v / std)
        return (self(x) - y).square().mean().item()


@misconception("LinearRegression", "Makes the weight a column (D, 1): predictions are (N, 1) then, and minus y they are (N, N).")
class ColumnOfWeights(nn.Module):
    def __init__(self, num_features, *, dtype=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_features, 1, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x):
        return x @ self.weight + self.bias

    def fit(self, x, y):
        if y.shape != x.shape[:1]:
            raise ValueError("y")
        mean, std = x.mean(0), x.std(0)
        z = (x - mean) / std
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            (self(z) - y).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            self.weight /= std[:, None]
            self.bias -= (mean @ self.weight).sum()
            return (self(x) - y).square().mean().item()


@misconception("LinearRegression", "Doesn't look at the shape of y.")
class AnyTargets(ReferenceLinearRegression):
    def fit(self, x, y):
        return super().fit(x, y.flatten()[:1].expand(len(x)) if y.shape != x.shape[:1] else y)


@misconception(
    "LinearRegression", "Takes a step of 0.5, which diverges where columns are correlated: the slope is steeper than for a single column."
)
class StepOfOneHalf(_Descending):
    def fit(self, x, y):
        self.rate = float(x.shape[1])
        return super().fit(x, y)


class _FromTheParameters(ReferenceLinearRegression):
    """Descends with torch.optim on the parameters themselves, which stand for standardised columns meanwhile."""

    steps, tolerance, leaves_gradients = 600, 0.0, False

    def fit(self, x, y):
        if y.shape != x.shape[:1]:
            raise ValueError("y")
        mean, std = x.mean(0), x.std(0)
        z, kept = (x - mean) / std, [p.grad for p in self.parameters()]
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5 / x.shape[1])
        for _ in range(self.steps):
            optimizer.zero_grad()
            (self(z) - y).square().mean().backward()
            if sum(p.grad.square().sum().item() for p in self.parameters()) ** 0.5 < self.tolerance:
                break
            optimizer.step()
        if not self.leaves_gradients:
            self.weight.grad, self.bias.grad = kept
        with torch.no_grad():
            self.weight /= std
            self.bias -= mean @ self.weight
            return (self(x) - y).square().mean().item()


@misconception("LinearRegression", "Starts from the parameters as they are, with too few steps to come back from 10,000.")
class TooFewStepsFromAfar(_FromTheParameters):
    steps = 200


@misconception("LinearRegression", "Stops at a gradient below a fixed size: for tiny targets that is before the first step.")
class StopsAtAFixedGradient(_FromTheParameters):
    steps, tolerance = 2000, 1e-6


@misconception("LinearRegression", "Leaves the gradients of its last step in .grad, where the next backward adds to them.")
class LeavesGradients(_FromTheParameters):
    steps, leaves_gradients = 1000, True


@misconception("LinearRegression", "Switches the module to training mode for the fit, and leaves it there.")
class SwitchesTheMode(ReferenceLinearRegression):
    def fit(self, x, y):
        self.train()
        return super().fit(x, y)


@misconception("LinearRegression", "Squeezes predictions: a single row's has no dimension any more.")
class SqueezesPredictions(ReferenceLinearRegression):
    def forward(self, x):
        return super().forward(x).squeeze()


@misconception("LinearRegression", "Reads x's storage as if x were contiguous, which mixes up the columns of a transposed x.")
class AssumesContiguousData(ReferenceLinearRegression):
    def fit(self, x, y):
        return super().fit(x.as_strided(x.shape, (x.shape[1], 1)), y)


@misconception("LinearRegression", "Looks at the number of targets only: a y of (N, 1) passes.")
class CountsTargets(ReferenceLinearRegression):
    def fit(self, x, y):
        if y.numel() != len(x):
            raise ValueError("y")
        return super().fit(x, y.flatten())


@misconception("LinearRegression", "Puts the module into eval mode once it is fitted: its mode is the caller's affair.")
class EvalAfterTheFit(ReferenceLinearRegression):
    def fit(self, x, y):
        error = super().fit(x, y)
        self.eval()
        return error


@misconception("LinearRegression", "Cuts gradients off at ±1 whatever the size of y: where y is huge, the descent never arrives.")
class ClipsTheGradient(_Descending):
    def fit(self, x, y):
        if y.shape != x.shape[:1]:
            raise ValueError("y")
        with torch.no_grad():
            mean, std = x.mean(0), x.std(0)
            z, t = (x - mean) / std, y - y.mean()
            v = torch.zeros_like(mean)
            for _ in range(2000):
                v -= (z.T @ (z @ v - t) / len(z)).clip(-1, 1) / len(v)
            return self.finish(x, y, v, y.mean(), mean, std)


@misconception("LinearRegression", "Starts the descent from the weights as they are: from 1e300 the last digits are lost for good.")
class StartsFromTheWeights(_Descending):
    def fit(self, x, y):
        if y.shape != x.shape[:1]:
            raise ValueError("y")
        with torch.no_grad():
            mean, std = x.mean(0), x.std(0)
            z, t, v = (x - mean) / std, y - y.mean(), self.weight * x.std(0)
            for _ in range(1500):
                v -= z.T @ (z @ v - t) / z.numel()
            return self.finish(x, y, v, y.mean(), mean, std)


@misconception("LinearRegression", "Switches recording on when it is done, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterTheFit(ReferenceLinearRegression):
    def fit(self, x, y):
        torch.set_grad_enabled(False)
        error = super().fit(x, y)
        torch.set_grad_enabled(True)
        return error


# LogisticRegression


@misconception("LogisticRegression", "Takes the log of the sigmoid: for large logits that is log 0.")
class LogOfSigmoid(ReferenceLogisticRegression):
    def loss(self, x, y):
        super().loss(x, y)
        p, t = torch.sigmoid(self(x)), y.to(x.dtype)
        return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


@misconception(
    "LogisticRegression", "Keeps probabilities away from 0 and 1 by clamping: large losses are cut off, and their gradients vanish."
)
class ClampedProbabilities(ReferenceLogisticRegression):
    def loss(self, x, y):
        super().loss(x, y)
        p, t = torch.sigmoid(self(x)).clamp(1e-7, 1 - 1e-7), y.to(x.dtype)
        return -(t * p.log() + (1 - t) * (1 - p).log()).mean()


@misconception("LogisticRegression", "Writes log(1 + exp(z)) as it stands: exp overflows.")
class ExpOverflows(ReferenceLogisticRegression):
    def loss(self, x, y):
        super().loss(x, y)
        z = self(x)
        return (torch.log(1 + torch.exp(z)) - y * z).mean()


@misconception("LogisticRegression", "Uses max(z, 0) − y z + log(1 + exp(−|z|)) with derivatives at 0 that don't add up to σ(0) − y.")
class WrongSlopeAtZero(ReferenceLogisticRegression):
    def loss(self, x, y):
        super().loss(x, y)
        z = self(x)
        return (torch.relu(z) - y * z + torch.log1p(torch.exp(-z.abs()))).mean()


@misconception("LogisticRegression", "Sums the losses instead of averaging them.")
class SumOfLosses(ReferenceLogisticRegression):
    def loss(self, x, y):
        return super().loss(x, y) * len(x)


@misconception("LogisticRegression", "Doesn't look at the shape of y: (N, 1) broadcasts against (N,) to (N, N).")
class TargetsBroadcast(ReferenceLogisticRegression):
    def loss(self, x, y):
        z = self(x)
        return (torch.logaddexp(z, torch.zeros_like(z)) - y * z).mean()


@misconception("LogisticRegression", "Returns probabilities from forward, where logits are asked for.")
class ProbabilitiesForLogits(ReferenceLogisticRegression):
    def forward(self, x):
        return torch.sigmoid(super().forward(x))

    def probabilities(self, x):
        return self(x)

    def predict(self, x):
        return (self(x) > 0.5).long()

    def loss(self, x, y):
        z = ReferenceLogisticRegression.forward(self, x)
        if y.shape != z.shape:
            raise ValueError("y")
        return (torch.logaddexp(z, torch.zeros_like(z)) - y * z).mean()


@misconception("LogisticRegression", "Predicts class 1 at a logit of 0.")
class OneAtZero(ReferenceLogisticRegression):
    def predict(self, x):
        return (self(x) >= 0).long()


@misconception(
    "LogisticRegression", "Weight and bias are plain tensors with gradients: an optimizer over parameters() has nothing to train."
)
class NotParameters(ReferenceLogisticRegression):
    def __init__(self, num_features, *, dtype=None):
        nn.Module.__init__(self)
        self.weight = torch.zeros(num_features, dtype=dtype, requires_grad=True)
        self.bias = torch.zeros((), dtype=dtype, requires_grad=True)


@misconception("LogisticRegression", "Compares the probability with ½: that of a tiny logit above 0 is ½ to the last digit.")
class ComparesProbabilities(ReferenceLogisticRegression):
    def predict(self, x):
        return (self.probabilities(x) > 0.5).long()


@misconception("LogisticRegression", "Squeezes logits: a single row's has no dimension any more.")
class SqueezesLogits(ReferenceLogisticRegression):
    def forward(self, x):
        return super().forward(x).squeeze()


@misconception("LogisticRegression", "Takes a 0-d y for the target of a single row: it is not (N,).")
class ScalarTargets(ReferenceLogisticRegression):
    def loss(self, x, y):
        return super().loss(x, y[None] if y.ndim == 0 and len(x) == 1 else y)


@misconception("LogisticRegression", "Keeps logits within ±100,000: larger losses are cut off.")
class ClampsLogits(ReferenceLogisticRegression):
    def loss(self, x, y):
        z = self(x).clamp(-1e5, 1e5)
        if y.shape != z.shape:
            raise ValueError("y")
        return (torch.logaddexp(z, torch.zeros_like(z)) - y * z).mean()


@misconception("LogisticRegression", "Keeps the weight as it was at the first loss: later steps and loaded states don't change the loss.")
class KeepsTheFirstWeight(ReferenceLogisticRegression):
    def loss(self, x, y):
        super().loss(x, y)
        if not hasattr(self, "first"):
            self.first = self.weight.detach().clone(), self.bias.detach().clone()
        shift = [now.detach() - first for now, first in zip((self.weight, self.bias), self.first, strict=True)]
        z = x @ (self.weight - shift[0]) + (self.bias - shift[1])
        return (torch.logaddexp(z, torch.zeros_like(z)) - y * z).mean()


@misconception("LogisticRegression", "Clears the gradients at every loss: those of several losses should add up.")
class ClearsGradients(ReferenceLogisticRegression):
    def loss(self, x, y):
        self.zero_grad()
        return super().loss(x, y)


# RunningMean


@misconception("RunningMean", "Keeps mean and count as plain attributes: state_dict() doesn't hold them, and .to doesn't move them.")
class PlainAttributes(nn.Module):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__()
        self.mean = torch.zeros(num_features, device=device, dtype=dtype)
        self.count = torch.zeros((), device=device, dtype=torch.int64)

    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1])
            self.count += len(rows)
            self.mean += (rows - self.mean).sum(0) / self.count
        return x - self.mean

    def reset(self):
        self.mean.zero_()
        self.count.zero_()


@misconception("RunningMean", "Registers the mean but keeps the count as a Python number: a loaded module starts counting at 0.")
class CountIsLost(nn.Module):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.rows = 0

    @property
    def count(self):
        return torch.tensor(self.rows, device=self.mean.device)

    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1])
            self.rows += len(rows)
            self.mean += (rows - self.mean).sum(0) / self.rows
        return x - self.mean

    def reset(self):
        self.mean.zero_()
        self.rows = 0


@misconception("RunningMean", "Makes the mean a frozen nn.Parameter: it is listed among the parameters, which are for what is trained.")
class MeanIsAParameter(ReferenceRunningMean):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__(num_features, device=device, dtype=dtype)
        mean = self.mean
        del self.mean
        self.mean = nn.Parameter(mean, requires_grad=False)


@misconception("RunningMean", "Averages the means of the batches: rows of small batches weigh more.")
class MeanOfMeans(ReferenceRunningMean):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__(num_features, device=device, dtype=dtype)
        self.batches = 0

    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1])
            self.count += len(rows)
            self.batches += 1
            self.mean += (rows.mean(0) - self.mean) / self.batches
        return x - self.mean


@misconception("RunningMean", "Updates the mean in eval mode too.")
class UpdatesInEval(ReferenceRunningMean):
    def forward(self, x):
        training, self.training = self.training, True
        y = super().forward(x)
        self.training = training
        return y


@misconception("RunningMean", "Subtracts the mean from before the update.")
class SubtractsTheOldMean(ReferenceRunningMean):
    def forward(self, x):
        before = self.mean.clone()
        super().forward(x)
        return x - (before if self.training else self.mean)


@misconception("RunningMean", "Lets the graph of x into the mean: gradients flow through it, and every batch's graph is kept.")
class GraphInTheMean(ReferenceRunningMean):
    def forward(self, x):
        if self.training and x.numel():
            rows = x.reshape(-1, x.shape[-1])
            self.count += len(rows)
            self.mean = self.mean + (rows - self.mean).sum(0) / self.count
        return x - self.mean


@misconception("RunningMean", "Divides by the rows of an empty batch: 0 / 0 is NaN from then on.")
class NaNFromNothing(ReferenceRunningMean):
    def forward(self, x):
        if self.training:
            rows = x.detach().reshape(-1, x.shape[-1])
            n = len(rows)
            self.count += n
            self.mean += (rows.mean(0) - self.mean) * (n / self.count)
        return x - self.mean


@misconception("RunningMean", "Takes len(x) for the number of rows, which is wrong for more than two dimensions.")
class LengthForRows(ReferenceRunningMean):
    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1])
            n = len(x) if x.ndim > 1 else 1
            self.count += n
            self.mean += (rows.mean(0) - self.mean) * (n / self.count)
        return x - self.mean


@misconception("RunningMean", "Registers the buffers with persistent=False: state_dict() leaves them out.")
class NotPersistent(ReferenceRunningMean):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__(num_features, device=device, dtype=dtype)
        self.register_buffer("mean", self.mean, persistent=False)
        self.register_buffer("count", self.count, persistent=False)


@misconception(
    "RunningMean", "Keeps the sum of the rows in a plain attribute: after loading, the mean is computed from another module's sum."
)
class SumIsLost(ReferenceRunningMean):
    def __init__(self, num_features, *, device=None, dtype=None):
        super().__init__(num_features, device=device, dtype=dtype)
        self.total = 0

    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1])
            self.count += len(rows)
            self.total = self.total + rows.sum(0)
            self.mean.copy_(self.total / self.count)
        return x - self.mean

    def reset(self):
        super().reset()
        self.total = 0


@misconception("RunningMean", "Counts in floating point, where large whole numbers are rounded.")
class CountsInFloat(ReferenceRunningMean):
    def forward(self, x):
        count = self.count.double()
        y = super().forward(x)
        if self.training:
            self.count.copy_(count + x[..., 0].numel())
        return y


@misconception("RunningMean", "Lays rows out with view, which fails for a non-contiguous x.")
class ViewsTheFeatures(ReferenceRunningMean):
    def forward(self, x):
        return super().forward(x.view(x.shape[:-1].numel(), x.shape[-1])).view(x.shape)


@misconception("RunningMean", "Passes over batches with a NaN in them, although their other columns are fine.")
class SkipsBatchesWithNaN(ReferenceRunningMean):
    def forward(self, x):
        return super().forward(x) if x.isfinite().all() else x - self.mean


@misconception("RunningMean", "Leaves the module in training mode after a call in eval mode.")
class SwitchesToTraining(ReferenceRunningMean):
    def forward(self, x):
        y = super().forward(x)
        self.train()
        return y


@misconception("RunningMean", "Subtracts in place: the caller's batch is changed.")
class SubtractsInPlace(ReferenceRunningMean):
    def forward(self, x):
        y = super().forward(x)
        x.data -= self.mean
        return y


@misconception("RunningMean", "Puts plain zeros in the place of the buffers at a reset, in torch's default dtype.")
class ResetsToFloat32(ReferenceRunningMean):
    def reset(self):
        self.mean = torch.zeros(len(self.mean))
        self.count = torch.tensor(0)


@misconception("RunningMean", "Computes in float32 whatever the dtype: float64 loses half of its digits.")
class MeanInSingle(ReferenceRunningMean):
    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1]).float()
            self.count += len(rows)
            self.mean += ((rows - self.mean.float()).sum(0) / self.count).to(self.mean.dtype)
        return x - self.mean


@misconception("RunningMean", "Updates the mean only where gradients are recorded: under torch.no_grad() it stands still.")
class NoUpdateWithoutGradients(ReferenceRunningMean):
    def forward(self, x):
        return super().forward(x) if torch.is_grad_enabled() else x - self.mean


@misconception("RunningMean", "Switches recording on after the update, where it may have been off: use `with torch.no_grad():`.")
class RecordsAfterTheUpdate(ReferenceRunningMean):
    def forward(self, x):
        torch.set_grad_enabled(False)
        super().forward(x)
        torch.set_grad_enabled(True)
        return x - self.mean


@misconception("RunningMean", "Divides by the count as a float32, which skips whole numbers from 2**24 on.")
class DividesByASingle(ReferenceRunningMean):
    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1])
            total = self.mean * self.count + rows.sum(0)
            self.count += len(rows)
            self.mean.copy_(total / self.count.float())
        return x - self.mean


@misconception("RunningMean", "Subtracts a leaf that requires gradients, so that every result is part of a graph.")
class MeanRequiresGradients(ReferenceRunningMean):
    def forward(self, x):
        super().forward(x)
        return x - self.mean.clone().requires_grad_()


@misconception("RunningMean", "Takes a moving average: older rows weigh less and less, where each row should count alike.")
class MovingAverage(ReferenceRunningMean):
    def forward(self, x):
        if self.training and x.numel():
            rows = x.detach().reshape(-1, x.shape[-1])
            self.mean += (rows.mean(0) - self.mean) * (1.0 if self.count == 0 else 0.1)
            self.count += len(rows)
        return x - self.mean


# count_parameters


@misconception("count_parameters", "Adds up state_dict(), which holds buffers too, and tied weights once under each name.")
def adds_up_the_state(model, *, trainable_only=False):
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return sum(v.numel() for name, v in model.state_dict().items() if not (trainable_only and name in frozen))


@misconception("count_parameters", "Counts the parameter tensors, not their entries.")
def counts_tensors(model, *, trainable_only=False):
    return sum(1 for p in model.parameters() if p.requires_grad or not trainable_only)


@misconception("count_parameters", "Goes through modules() and takes parameters() of each, which contains those of its submodules again.")
def counts_every_level(model, *, trainable_only=False):
    return sum(p.numel() for module in model.modules() for p in module.parameters() if p.requires_grad or not trainable_only)


@misconception("count_parameters", "Adds up the modules one by one: a weight that two of them share counts twice.")
def module_by_module(model, *, trainable_only=False):
    own = (p for module in model.modules() for p in module.parameters(recurse=False))
    return sum(p.numel() for p in own if p.requires_grad or not trainable_only)


@misconception("count_parameters", "Recognises shared weights by data_ptr(), which is 0 for all parameters on the device meta.")
def recognises_by_address(model, *, trainable_only=False):
    sizes = {p.data_ptr(): p.numel() for p in model.parameters() if p.requires_grad or not trainable_only}
    return sum(sizes.values())


@misconception("count_parameters", "Leaves frozen parameters out whether asked to or not.")
def trainable_always(model, *, trainable_only=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@misconception("count_parameters", "Looks at the children only: a parameter of the model's own is forgotten.")
def children_only(model, *, trainable_only=False):
    seen = {id(p): p for child in model.children() for p in child.parameters()}
    return sum(p.numel() for p in seen.values() if p.requires_grad or not trainable_only)


@misconception("count_parameters", "Recognises shared weights by their address: two parameters may share memory, and still are two.")
def recognises_by_memory(model, *, trainable_only=False):
    found = [p for p in model.parameters() if p.requires_grad or not trainable_only]
    keys = {(p.data_ptr() if p.device.type == "cpu" and p.numel() else id(p), p.shape): p.numel() for p in found}
    return sum(keys.values())


@misconception("count_parameters", "Switches the model to eval mode to look at it.")
def switches_to_eval(model, *, trainable_only=False):
    return sum(p.numel() for p in model.eval().parameters() if p.requires_grad or not trainable_only)


@misconception("count_parameters", "Clears the gradients of the model before it counts.")
def clears_gradients(model, *, trainable_only=False):
    n = sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)
    model.zero_grad()
    return n


@misconception("count_parameters", "Switches the model to training mode afterwards, whatever it was in.")
def switches_to_training(model, *, trainable_only=False):
    n = sum(p.numel() for p in model.eval().parameters() if p.requires_grad or not trainable_only)
    model.train()
    return n
