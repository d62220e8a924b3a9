"""Hidden suite of the module compression."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from grader.testing import LAYOUTS, measured, raised, task

F64 = torch.float64


# magnitude_masks


def layers_of(draw, *, dtype=torch.float32):
    """Weights of three layers, of different sizes and shapes; their numbers of entries are drawn."""
    return {
        "second.weight": draw.normal(draw.integer(3, 9), 5, dtype=dtype),
        "first.weight": 0.2 * draw.normal(7, draw.integer(3, 9), 2, dtype=dtype),
        "bias": 3 * draw.normal(draw.integer(8, 14), dtype=dtype),
    }


@task("magnitude_masks")
class TestMagnitudeMasks:
    @pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8, 0.93])
    def test_smallest_of_all_layers(self, agree, draw, sparsity):
        """The smallest entries of all layers together are pruned, in layers of different scales."""
        weights = layers_of(draw)
        agree(lambda m: m.magnitude_masks(weights, sparsity), rtol=0, atol=0)

    def test_any_sparsity(self, agree, draw):
        """The share may be any number between 0 and 1."""
        weights, shares = layers_of(draw), draw.uniform(6, dtype=F64).tolist()
        agree(lambda m: [m.magnitude_masks(weights, share) for share in shares], rtol=0, atol=0)

    def test_exact_count_with_ties(self, agree, draw):
        """Of equally large entries, the earlier ones are pruned; the count is exact."""
        weights = {name: draw.integers(-3, 4, *shape).float() for name, shape in [("b", (9, 7)), ("c", (40,)), ("a", (3, 5, 2))]}
        agree(lambda m: [m.magnitude_masks(weights, share) for share in (0.1, 0.33, 0.5, 0.71, 0.9)], rtol=0, atol=0)

    def test_ties_across_layers(self, agree, draw):
        """Where all entries are equally large, the layers lose theirs in the mapping's order, and in order of their entries."""
        signs = {name: 1.0 - 2 * draw.integers(0, 2, draw.integer(20, 60), 3) for name in ("w", "c", "x", "a")}
        shares = draw.uniform(4, dtype=F64).tolist()
        agree(lambda m: [m.magnitude_masks(signs, share) for share in shares], rtol=0, atol=0)

    def test_halves_go_to_even(self, agree, draw):
        """Half of 13, 15, 17 and 19 entries are 6, 8, 8 and 10."""
        weights = [draw.normal(n) for n in (13, 15, 17, 19)]
        agree(lambda m: [m.magnitude_masks({"w": w}, 0.5) for w in weights], rtol=0, atol=0)

    def test_counts_are_rounded_once(self, agree, draw):
        """The count is rounded for all layers together, and not cut: 0.29 · 100 is 29, though it is a little less in floats."""
        weights = [{f"{i}": draw.normal(20) for i in range(5)}, {f"{i}": draw.normal(9) for i in range(11)}]
        agree(lambda m: [m.magnitude_masks(some, share) for some in weights for share in (0.29, 0.57, 0.58, 0.17)], rtol=0, atol=0)

    def test_all_or_none(self, agree, draw):
        """Sparsity 0 keeps all, 1 prunes all, and 1 and 0 may be ints; one between prunes some."""
        weights = layers_of(draw)
        agree(lambda m: [m.magnitude_masks(weights, share) for share in (0, 0.4, 1, 0.0, 1.0)], rtol=0, atol=0)

    def test_zeros_count_as_entries(self, agree, draw):
        """Entries that are 0 already are entries like others: they are the first of those that go."""
        weights = {name: w * draw.bools(*w.shape, p=0.6) for name, w in layers_of(draw).items()}
        agree(lambda m: [m.magnitude_masks(weights, share) for share in (0.2, 0.5)], rtol=0, atol=0)

    def test_signed_zeros(self, agree, draw):
        """−0 is as large as 0."""
        zeros = torch.where(draw.bools(50), 0.0, -0.0)
        weights = {"w": torch.where(draw.bools(50, p=0.8), zeros, draw.normal(50)), "v": draw.normal(30)}
        agree(lambda m: m.magnitude_masks(weights, 0.3), rtol=0, atol=0)

    def test_doubles(self, agree, draw):
        """float64 entries that differ in the twelfth digit are told apart."""
        weights = {"w": 1 + 1e-12 * draw.normal(6, 7, dtype=F64), "v": -1 + 1e-12 * draw.normal(30, dtype=F64)}
        agree(lambda m: m.magnitude_masks(weights, 0.5), rtol=0, atol=0)

    def test_mixed_dtypes(self, agree, draw):
        """Layers may have different dtypes, and are compared by their exact values."""
        near = 1 + draw.uniform(25, high=0.02, dtype=F64)
        dtypes = (torch.float16, torch.float32, torch.bfloat16, F64)
        weights = {str(dtype): near[draw.permutation(25)].to(dtype) for dtype in dtypes}
        agree(lambda m: [m.magnitude_masks(weights, share) for share in (0.3, 0.6)], rtol=0, atol=0)

    def test_large_halves(self, agree, draw):
        """Entries of float16 near its largest number, and much larger ones of other layers, keep their order."""
        weights = {
            "h": (60000 * draw.uniform(20)).half(),
            "w": draw.magnitudes(30, low=1e3, high=1e6),
            "d": 1e9 * draw.normal(9, dtype=F64),
        }
        agree(lambda m: m.magnitude_masks(weights, 0.5), rtol=0, atol=0)

    def test_extreme_sizes(self, agree, draw):
        """The order holds from the smallest numbers to the largest ones, and infinite ones are the last to go."""
        sizes = draw.magnitudes(60, low=1e-42, high=1e38)
        weights = {"w": sizes, "v": draw.magnitudes(40, low=1e-300, high=1e300, dtype=F64)}
        weights["w"][:6] = torch.tensor([math.inf, -math.inf] * 3)
        agree(lambda m: [m.magnitude_masks(weights, share) for share in (0.5, 0.9, 0.96)], rtol=0, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Entries count in their order in the tensor, not in memory."""
        weights = {"w": draw.integers(-3, 4, 7, 9, layout=layout).float(), "v": draw.normal(5, 6, layout=layout)}
        weights["w"] = weights["w"].T.contiguous().T if layout == "transposed" else weights["w"]
        agree(lambda m: m.magnitude_masks(weights, 0.45), rtol=0, atol=0)

    def test_empty_and_single(self, agree, draw):
        """There may be no layers, and layers without entries, with one, or without dimensions."""
        weights = {"e": draw.normal(0, 3), "s": draw.normal(), "w": draw.normal(9, 5), "o": draw.normal(1, 1), "f": draw.normal(0)}
        agree(lambda m: [m.magnitude_masks({}, 0.5), m.magnitude_masks(weights, 0.5)], rtol=0, atol=0)

    def test_parameters(self, agree, draw):
        """Parameters of a network may be passed as they are."""
        weights = {name: nn.Parameter(w) for name, w in layers_of(draw).items()}
        agree(lambda m: m.magnitude_masks(weights, 0.6), rtol=0, atol=0)

    def test_errors(self, agree, draw):
        """A share outside of 0 … 1, NaN too, is refused."""
        weights = layers_of(draw)

        def probe(m):
            bad = [raised(ValueError, lambda s=s: m.magnitude_masks(weights, s)) for s in (-0.01, 1.01, math.nan, math.inf, -1)]
            return bad, m.magnitude_masks(weights, 0.5)

        agree(probe, rtol=0, atol=0)


# Pruned


class Twice(nn.Module):
    """Another parametrization."""

    def forward(self, x):
        return 2 * x


def pruned(m, layer, mask, name="weight"):
    """The layer, with a pruned tensor."""
    parametrize.register_parametrization(layer, name, m.Pruned(mask))
    return layer


def linear(weight, bias=None):
    """A linear layer with these weights."""
    layer = nn.Linear(*weight.shape[::-1], bias=bias is not None, dtype=weight.dtype)
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    layer.load_state_dict(state)
    return layer


def state_of(module):
    """A copy of what the module would save."""
    return {name: x.detach().clone() for name, x in module.state_dict().items()}


def trained(layer, optimizer, batches):
    """The layer's weight after each of some steps."""
    weights = []
    for x in batches:
        optimizer.zero_grad()
        (layer(x).square().mean() + layer(x).mean()).backward()
        optimizer.step()
        weights.append(layer.weight.detach().clone())
    return weights


def optimizers():
    """What makes optimizers that move weights without a gradient."""
    return {
        "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.3),
        "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
    }


@task("Pruned")
class TestPruned:
    @pytest.mark.parametrize("dtype", [torch.float32, F64, torch.float16, torch.bfloat16])
    def test_forward(self, agree, draw, dtype):
        """Weights are 0 where the mask is False, and as they were elsewhere, in their dtype, for any shape."""
        cases = [(draw.normal(*shape, dtype=dtype), draw.bools(*shape)) for shape in ((5, 7), (11,), (2, 3, 4, 5), (1, 1), (0, 3), ())]
        agree(lambda m: [m.Pruned(mask)(w) for w, mask in cases], rtol=0, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Weight and mask may be non-contiguous."""
        w, mask = draw.normal(6, 7, layout=layout), draw.bools(6, 7, layout=layout)
        agree(lambda m: m.Pruned(mask)(w), rtol=0, atol=0)

    def test_a_pruned_layer(self, agree, draw):
        """A layer computes with the masked weight, and the stored one has the zeros, too."""
        w, b, mask, x = draw.normal(5, 7), draw.normal(5), draw.bools(5, 7), draw.normal(3, 7)

        def probe(m):
            layer = pruned(m, linear(w, b), mask)
            return layer(x), layer.weight, state_of(layer)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_convolution_and_bias(self, agree, draw):
        """Tensors of any layer, under any name, can be pruned."""
        w, b, x = draw.normal(5, 3, 2, 2), draw.normal(5), draw.normal(2, 3, 6, 5)
        masks = draw.bools(5, 3, 2, 2), draw.bools(5)

        def probe(m):
            layer = nn.Conv2d(3, 5, 2)
            layer.load_state_dict({"weight": w, "bias": b})
            return pruned(m, pruned(m, layer, masks[0]), masks[1], "bias")(x), state_of(layer)

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["adamw", "momentum"])
    def test_zeros_stay(self, agree, draw, kind):
        """Zeros stay zeros in training with momentum and decay; other weights are trained as ever."""
        w, b, mask = draw.normal(4, 6, dtype=F64), draw.normal(4, dtype=F64), draw.bools(4, 6)
        batches = [draw.normal(5, 6, dtype=F64) for _ in range(6)]

        def probe(m):
            layer = pruned(m, linear(w, b), mask)
            return trained(layer, optimizers()[kind](layer.parameters()), batches)

        agree(probe, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("kind", ["adamw", "momentum"])
    def test_momentum_of_before(self, agree, draw, kind):
        """An optimizer that has trained the dense layer goes on after pruning, and its momentum revives nothing."""
        w, b, mask = draw.normal(4, 6, dtype=F64), draw.normal(4, dtype=F64), draw.bools(4, 6)
        batches = [draw.normal(5, 6, dtype=F64) for _ in range(9)]

        def probe(m):
            layer = linear(w, b)
            optimizer = optimizers()[kind](layer.parameters())
            before = trained(layer, optimizer, batches[:4])
            after = trained(pruned(m, layer, mask), optimizer, batches[4:])
            m.Pruned.bake(layer)
            return before, after, state_of(layer)

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_whatever_is_hidden(self, agree, draw):
        """NaN and infinities under the mask become 0, and so does the gradient there, whatever arrives."""
        mask = draw.bools(6, 7)
        w, g = draw.poisoned(draw.normal(6, 7), ~mask), draw.poisoned(draw.normal(6, 7), ~mask)

        def probe(m):
            leaf = w.clone().requires_grad_()
            out = m.Pruned(mask)(leaf)
            return out, torch.autograd.grad(out, leaf, g)[0], m.Pruned(mask).right_inverse(w)

        agree(probe, rtol=0, atol=0)

    def test_gradient(self, agree, draw):
        """The stored parameter gets a gradient where weights are kept, and 0 elsewhere."""
        w, mask, x = draw.normal(5, 7), draw.bools(5, 7), draw.normal(3, 7)

        def probe(m):
            layer = pruned(m, linear(w), mask)
            layer(x).square().sum().backward()
            return layer.parametrizations.weight.original.grad

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_assignment(self, agree, draw):
        """What is assigned to a pruned weight is stored with zeros, and used with zeros; the argument is left alone."""
        w, v, mask = draw.normal(5, 7), draw.normal(5, 7), draw.bools(5, 7)

        def probe(m):
            layer = pruned(m, linear(w), mask)
            layer.weight = v
            return layer.weight, state_of(layer), m.Pruned(mask).right_inverse(v)

        agree(probe, rtol=0, atol=0)

    def test_loading_brings_the_mask(self, agree, draw):
        """The mask is saved and loaded with the weights, and is kept bool where a layer changes its dtype."""
        w, v, first, second = draw.normal(5, 7), draw.normal(5, 7), draw.bools(5, 7), draw.bools(5, 7)

        def probe(m):
            layer, other = pruned(m, linear(w), first), pruned(m, linear(v), second)
            other.load_state_dict(layer.state_dict())
            other.weight = v
            return other.weight, state_of(other.double())

        agree(probe, rtol=0, atol=0)

    def test_the_mask_is_copied(self, agree, draw):
        """The mask that was handed in may change afterwards."""
        w, given = draw.normal(5, 7), draw.bools(5, 7)

        def probe(m):
            mask = given.clone()
            module = m.Pruned(mask)
            mask.logical_not_()
            return module(w), module.mask

        agree(probe, rtol=0, atol=0)

    def test_all_or_nothing(self, agree, draw):
        """A mask may keep all, or nothing."""
        w, full, x = draw.normal(5, 7), torch.ones(5, 7, dtype=torch.bool), draw.normal(2, 7)
        agree(lambda m: [pruned(m, linear(w), mask)(x) for mask in (full, ~full)], rtol=1e-5, atol=1e-6)

    def test_bake(self, agree, draw):
        """Baked, a network gives what it gave, and saves its own names only, with the zeros."""
        w, v, b, x = draw.normal(5, 7), draw.normal(3, 5), draw.normal(5), draw.normal(2, 7)
        masks = draw.bools(5, 7), draw.bools(3, 5), draw.bools(5)

        def probe(m):
            inner = nn.Sequential(nn.ReLU(), pruned(m, linear(v), masks[1]))
            net = nn.Sequential(pruned(m, pruned(m, linear(w, b), masks[0]), masks[2], "bias"), inner)
            before = net(x)
            m.Pruned.bake(net)
            return before, net(x), state_of(net), [str(layer) for layer in net]

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_bake_a_layer(self, agree, draw):
        """The model may be a pruned layer itself; a second time, there is nothing left to bake."""
        w, mask = draw.normal(5, 7), draw.bools(5, 7)

        def probe(m):
            layer = pruned(m, linear(w), mask)
            with torch.no_grad():
                layer.parametrizations.weight.original.add_(1)
            m.Pruned.bake(layer)
            once = state_of(layer)
            m.Pruned.bake(layer)
            return once, state_of(layer)

        agree(probe, rtol=0, atol=0)

    def test_bake_leaves_others(self, agree, draw):
        """Other parametrizations stay, on the same layer and on others; together with a Pruned, they are baked."""
        w, b, mask, x = draw.normal(5, 7), draw.normal(5), draw.bools(5, 7), draw.normal(2, 7)

        def probe(m):
            both, other = linear(w, b), linear(b[None], b[:1])
            parametrize.register_parametrization(both, "weight", Twice())
            parametrize.register_parametrization(pruned(m, both, mask), "bias", Twice())
            parametrize.register_parametrization(other, "weight", Twice())
            net = nn.Sequential(both, other)
            m.Pruned.bake(net)
            return net(x), state_of(net)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_bake_nothing(self, agree, draw):
        """A model without pruned tensors stays as it is."""
        w, b, x = draw.normal(5, 7), draw.normal(5), draw.normal(2, 7)

        def probe(m):
            net = nn.Sequential(linear(w, b), nn.Tanh())
            m.Pruned.bake(net)
            return net(x), state_of(net)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_training_after_baking(self, agree, draw):
        """An optimizer that was made for the pruned layer goes on with the baked one: all of its weights are free then."""
        w, mask = draw.normal(4, 6, dtype=F64), draw.bools(4, 6)
        batches = [draw.normal(5, 6, dtype=F64) for _ in range(4)]

        def probe(m):
            layer = pruned(m, linear(w), mask)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            first = trained(layer, optimizer, batches[:2])
            m.Pruned.bake(layer)
            return first, trained(layer, optimizer, batches[2:])

        agree(probe, rtol=1e-9, atol=1e-12)

    @measured("modes")
    def test_frozen_and_modes(self, agree, draw):
        """Frozen weights stay frozen, trained ones trained, and modes as they are."""
        w, b, mask, x = draw.normal(5, 7), draw.normal(5), draw.bools(5, 7), draw.normal(2, 7)

        def probe(m):
            out = []
            for frozen in (True, False):
                layer = linear(w, b).train(not frozen)
                layer.weight.requires_grad_(not frozen)
                m.Pruned.bake(pruned(m, layer, mask))
                kept = layer.weight.requires_grad is not frozen and layer.training is not frozen and layer.bias.requires_grad
                out.append(layer(x) if kept else "a mode or requires_grad has changed")
            return out

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_errors(self, agree, draw):
        """A mask that isn't bool is refused, and a weight of another shape, even if it broadcasts."""
        w, mask = draw.normal(5, 7), draw.bools(5, 7)

        def probe(m):
            good = m.Pruned(mask)
            return good(w), [
                raised(ValueError, lambda: m.Pruned(mask.float())),
                raised(ValueError, lambda: m.Pruned(mask.to(torch.uint8))),
                raised(ValueError, lambda: good(w[:1])),
                raised(ValueError, lambda: good(w.expand(2, 5, 7))),
                raised(ValueError, lambda: good(w.T)),
                raised(ValueError, lambda: good.right_inverse(w[:, :1])),
                raised(ValueError, lambda: pruned(m, linear(w), mask[:1])),
            ]

        agree(probe, rtol=0, atol=0)


# two_four_mask


@task("two_four_mask")
class TestTwoFourMask:
    @pytest.mark.parametrize("shape", [(7, 12), (8, 8), (1, 40), (12, 4), (5, 3, 8), (40,), (2, 3, 2, 4)])
    def test_two_largest_of_four(self, agree, draw, shape):
        """In each group of four along the last dimension, the two largest entries are kept, in weights of any dimensions."""
        weight = draw.normal(*shape)
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    def test_best_of_all_patterns(self, student, draw):
        """No other choice of two entries keeps a larger sum of squares."""
        weight = draw.normal(9, 16, dtype=F64)
        mask = student(lambda m: m.two_four_mask(weight))
        groups, kept = weight.square().unflatten(1, (4, 4)), mask.unflatten(1, (4, 4))
        assert (kept.sum(-1) == 2).all(), "In each group of four, exactly two entries are kept."
        best = torch.stack([groups[..., i] + groups[..., j] for i in range(4) for j in range(i)]).amax(0)
        assert ((groups * kept).sum(-1) >= best * (1 - 1e-12)).all(), "Another choice of two entries has a larger sum of squares."

    def test_signs_do_not_count(self, agree, draw):
        """Sizes count, not signs."""
        weight = -draw.uniform(5, 16)
        weight[::2] += 0.5
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    def test_ties(self, agree, draw):
        """Of equally large entries, those with smaller columns are kept."""
        weight = draw.integers(-2, 3, 30, 24).float()
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    def test_zeros(self, agree, draw):
        """Of a group of zeros, the first two are kept; −0 is 0."""
        weight = torch.where(draw.bools(20, 16, p=0.2), draw.normal(20, 16), torch.where(draw.bools(20, 16), 0.0, -0.0))
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64])
    def test_dtypes(self, agree, draw, dtype):
        """Entries of each dtype are compared exactly, ties of rounded ones too."""
        weight = draw.normal(7, 24, dtype=dtype)
        close = (1 + 10 * torch.finfo(dtype).eps * draw.normal(7, 24, dtype=F64)).to(dtype)
        agree(lambda m: [m.two_four_mask(weight), m.two_four_mask(close)], rtol=0, atol=0)

    @pytest.mark.parametrize(("low", "high"), [(1e-44, 1e-25), (1e20, 1e38), (1e-38, 1e38)])
    def test_extreme_sizes(self, agree, draw, low, high):
        """The largest ones are found where squares would be 0 or infinite."""
        weight = draw.magnitudes(9, 16, low=low, high=high)
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    def test_infinite_entries(self, agree, draw):
        """Infinite entries are the largest; equal ones among themselves."""
        weight = torch.where(draw.bools(20, 16, p=0.4), torch.where(draw.bools(20, 16), math.inf, -math.inf), draw.normal(20, 16))
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The weight may be non-contiguous."""
        weight = draw.normal(8, 12, layout=layout)
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    def test_empty(self, agree, draw):
        """Sizes may be 0, that of the last dimension too."""
        weight = draw.normal(3, 20)
        empty = [draw.normal(*shape) for shape in ((0, 8), (5, 0), (0,), (0, 0), (2, 0, 4))]
        agree(lambda m: [m.two_four_mask(w) for w in (*empty, weight)], rtol=0, atol=0)

    def test_parameters(self, agree, draw):
        """A layer's weight may be passed as it is."""
        weight = nn.Parameter(draw.normal(6, 8))
        agree(lambda m: m.two_four_mask(weight), rtol=0, atol=0)

    def test_errors(self, agree, draw):
        """A last dimension that is no multiple of 4 is refused, and so is a tensor without dimensions."""
        good, bad = draw.normal(4, 8), [draw.normal(*shape) for shape in ((4, 6), (8, 1), (4, 4, 2), (7,), ())]
        agree(lambda m: ([raised(ValueError, lambda w=w: m.two_four_mask(w)) for w in bad], m.two_four_mask(good)), rtol=0, atol=0)


# pack_two_four


def sparse_matrix(draw, rows, columns, *, dtype=torch.float32, p=0.7):
    """A 2:4 sparse matrix; some groups have fewer than two entries that are not 0."""
    weight = draw.normal(rows, columns, dtype=dtype).unflatten(1, (columns // 4, 4))
    best = draw.uniform(rows, columns // 4, 4).argsort(-1)[..., :2]
    kept = torch.zeros(weight.shape, dtype=torch.bool).scatter(-1, best, True) & draw.bools(*weight.shape, p=p)
    return (weight * kept).flatten(1)


def unpacked(values, codes):
    """The matrix that these stand for."""
    columns = 2 * values.shape[1]
    bits = torch.stack([codes.long() >> shift & 3 for shift in (0, 2, 4, 6)], -1).flatten(1)[:, : columns // 2]
    weight = torch.zeros(len(values), columns // 4, 4, dtype=values.dtype)
    return weight.scatter_(-1, bits.unflatten(1, (columns // 4, 2)), values.unflatten(1, (columns // 4, 2))).flatten(1)


@task("pack_two_four")
class TestPackTwoFour:
    @pytest.mark.parametrize("columns", [8, 16, 40, 24])
    def test_two_in_each_group(self, agree, draw, columns):
        """Values come in the order of their places, and two codes go into a byte."""
        weight = sparse_matrix(draw, 7, columns, p=1.0)
        agree(lambda m: m.pack_two_four(weight), rtol=0, atol=0)

    @pytest.mark.parametrize("columns", [4, 12, 28, 36])
    def test_odd_number_of_groups(self, agree, draw, columns):
        """With an odd number of groups, half of a row's last byte is 0; rows begin with a new byte."""
        weight = sparse_matrix(draw, 7, columns, p=1.0)
        agree(lambda m: m.pack_two_four(weight), rtol=0, atol=0)

    @pytest.mark.parametrize("p", [0.1, 0.4, 0.7])
    def test_fewer_than_two(self, agree, draw, p):
        """Missing places are filled up by the smallest ones, and the two are in order."""
        weight = sparse_matrix(draw, 9, 40, p=p)
        agree(lambda m: m.pack_two_four(weight), rtol=0, atol=0)

    def test_unpacks_exactly(self, student, draw):
        """What was packed can be put together again, exactly."""
        weight = sparse_matrix(draw, 11, 36, dtype=F64)
        values, codes = student(lambda m: m.pack_two_four(weight))
        assert torch.equal(unpacked(values, codes), weight), "Put together again, values and codes give another matrix."

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64])
    def test_dtypes(self, agree, draw, dtype):
        """Values keep their dtype and all of their digits."""
        weight = sparse_matrix(draw, 5, 20, dtype=dtype)
        agree(lambda m: m.pack_two_four(weight), rtol=0, atol=0)

    def test_extreme_values(self, agree, draw):
        """Tiny, huge, infinite entries and NaN are not 0, and are stored as they are."""
        shape = sparse_matrix(draw, 9, 24)
        weight = torch.where(shape != 0, draw.magnitudes(9, 24, low=1e-44, high=1e38), 0.0)
        poisoned = draw.poisoned(weight, (shape != 0) & draw.bools(9, 24))
        agree(lambda m: [m.pack_two_four(weight), m.pack_two_four(poisoned)], rtol=0, atol=0)

    def test_negative_zeros(self, agree, draw):
        """−0 is 0: a group may have four of them."""
        weight = sparse_matrix(draw, 9, 24)
        weight = torch.where((weight == 0) & draw.bools(9, 24), -0.0, weight)
        agree(lambda m: m.pack_two_four(weight), rtol=0, atol=0)

    def test_values_do_not_cancel(self, agree, draw):
        """Two opposite entries are two entries."""
        a, weight = draw.uniform(9, 6, low=1, high=2), torch.zeros(9, 6, 4)
        weight[..., 1], weight[..., 3] = a, -a
        agree(lambda m: m.pack_two_four(weight.flatten(1)), rtol=0, atol=0)

    @pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded"])
    def test_layouts(self, agree, draw, layout):
        """The weight may be non-contiguous."""
        dense = sparse_matrix(draw, 8, 20)
        wide = torch.zeros(8, 41)
        wide[:, 1::2] = dense
        weight = {"transposed": dense.T.contiguous().T, "sliced": wide[:, 1::2], "expanded": dense[:1].expand(8, 20)}[layout]
        agree(lambda m: m.pack_two_four(weight), rtol=0, atol=0)

    def test_empty(self, agree, draw):
        """There may be no rows, or no columns; a single group is the smallest row."""
        cases = [torch.zeros(0, 8), torch.zeros(3, 0), torch.zeros(0, 0), torch.zeros(0, 12), sparse_matrix(draw, 1, 4, p=1.0)]
        agree(lambda m: [m.pack_two_four(w) for w in cases], rtol=0, atol=0)

    @measured("requires_grad")
    def test_parameters(self, agree, draw):
        """A Parameter may be passed; the values require no gradient."""
        weight = nn.Parameter(sparse_matrix(draw, 6, 16))

        def probe(m):
            values, codes = m.pack_two_four(weight)
            return "the values require a gradient" if values.requires_grad else (values, codes)

        agree(probe, rtol=0, atol=0)

    def test_errors(self, agree, draw):
        """More than two entries in one group are refused, and so are other shapes."""
        good = sparse_matrix(draw, 5, 16)
        three, rare = draw.normal(5, 16), good.clone()
        rare[draw.integer(0, 5), 4:7] = torch.tensor([1e-40, math.nan, -1.0])
        shapes = [torch.zeros(shape) for shape in ((4, 6), (8,), (2, 4, 4), (), (4, 2))]

        def probe(m):
            return [raised(ValueError, lambda w=w: m.pack_two_four(w)) for w in (three, rare, *shapes)], m.pack_two_four(good)

        agree(probe, rtol=0, atol=0)


# stored_bytes


def some_matrix(draw, *, dtype=torch.float32, p=None, rows=None, columns=None):
    """A matrix of drawn sizes, with zeros."""
    n, m = rows or draw.integer(5, 90), columns or draw.integer(5, 90)
    return draw.normal(n, m, dtype=dtype) * draw.bools(n, m, p=draw.integer(1, 99) / 100 if p is None else p)


@task("stored_bytes")
class TestStoredBytes:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, F64])
    def test_one_matrix(self, agree, draw, dtype):
        """A matrix takes what the table says, by the bytes of its dtype."""
        matrices = [some_matrix(draw, dtype=dtype) for _ in range(4)]
        agree(lambda m: [m.stored_bytes({"w": w}) for w in matrices], rtol=0, atol=0)

    @pytest.mark.parametrize("p", [0.02, 0.3, 0.7, 1.0])
    def test_each_sparsity(self, agree, draw, p):
        """The best format depends on the share of zeros."""
        matrices = [some_matrix(draw, p=p, dtype=dtype) for dtype in (torch.float16, torch.float32, F64)]
        agree(lambda m: [m.stored_bytes({"w": w}) for w in matrices], rtol=0, atol=0)

    def test_best_for_each_matrix(self, agree, draw):
        """The best format is chosen for each matrix by itself."""
        state = {f"{p}": some_matrix(draw, p=p) for p in (0.02, 0.2, 0.6, 1.0)}
        state["2:4"] = sparse_matrix(draw, draw.integer(20, 60), 4 * draw.integer(5, 20), p=1.0, dtype=torch.float16)
        agree(lambda m: m.stored_bytes(state), rtol=0, atol=0)

    def test_two_four(self, agree, draw):
        """A 2:4 sparse matrix takes half of its values; columns may be an odd number of groups."""
        matrices = [sparse_matrix(draw, draw.integer(5, 90), 4 * k, p=p) for k in (1, 2, 7, 8) for p in (1.0, 0.5)]
        agree(lambda m: [m.stored_bytes({"w": w}) for w in matrices], rtol=0, atol=0)

    def test_not_two_four(self, agree, draw):
        """One group with three entries is enough to be no 2:4 matrix; so is a number of columns that is no multiple of 4."""
        one, other = sparse_matrix(draw, draw.integer(5, 90), 24), some_matrix(draw, p=0.1, columns=10)
        one[draw.integer(0, 5), 8:11] = 1.0
        by_columns = sparse_matrix(draw, 24, 4 * draw.integer(2, 9), p=1.0).T.contiguous()[:, :24]
        agree(lambda m: [m.stored_bytes({"w": w}) for w in (one, other, by_columns)], rtol=0, atol=0)

    def test_rounding_up(self, agree, draw):
        """Bits, codes and scales are rounded up: bits once for the matrix, codes and scales for each row."""
        sizes = [(draw.integer(5, 60), columns) for columns in (1, 3, 7, 31, 32, 33, 63, 64, 65, 97)]
        matrices = [draw.normal(*size) for size in sizes]
        agree(lambda m: [m.stored_bytes({"w": w}) for w in matrices], rtol=0, atol=0)

    def test_other_tensors(self, agree, draw):
        """Vectors, kernels, numbers, integers and bools take their entries times the bytes of one."""
        n = draw.integer(20, 900)
        state = {
            "bias": draw.normal(n),
            "kernel": draw.normal(draw.integer(2, 9), 3, 3, 2) * draw.bools(2, p=0.1),
            "number": draw.normal(dtype=F64),
            "steps": draw.integers(0, 9),
            "codes": torch.zeros(n, 8, dtype=torch.uint8),
            "table": draw.integers(0, 2, n, 4),
            "mask": draw.bools(n, 4),
        }
        agree(lambda m: [m.stored_bytes(state), *(m.stored_bytes({"x": x}) for x in state.values())], rtol=0, atol=0)

    def test_tied_weights(self, agree, draw):
        """A memory that has several names counts once; equal tensors with their own memory count each."""
        w, v = some_matrix(draw), some_matrix(draw)

        def probe(m):
            return [
                m.stored_bytes({"embedding": w, "other": v, "head": w}),
                m.stored_bytes({"embedding": w, "other": v, "head": w.clone()}),
                m.stored_bytes({"a": w, "b": w.detach(), "c": w.view_as(w), "d": v}),
            ]

        agree(probe, rtol=0, atol=0)

    def test_the_first_counts(self, agree, draw):
        """Of a matrix and its transposed or flat view, the first one decides."""
        w = sparse_matrix(draw, draw.integer(20, 60), 4 * draw.integer(3, 20), p=1.0)

        def probe(m):
            views = [w, w.T, w.flatten()]
            return [m.stored_bytes({"a": views[i], "b": views[j]}) for i in range(3) for j in range(3) if i != j]

        agree(probe, rtol=0, atol=0)

    def test_parameters_of_a_model(self, agree, draw):
        """A state_dict and parameters may be passed, and twice in a row gives the same."""
        layer = nn.Linear(draw.integer(3, 40), draw.integer(3, 40))

        def probe(m):
            return [m.stored_bytes(layer.state_dict()), m.stored_bytes(dict(layer.named_parameters())), m.stored_bytes(layer.state_dict())]

        agree(probe, rtol=0, atol=0)

    def test_what_is_zero(self, agree, draw):
        """−0 is 0; NaN, infinite and tiny entries are not; nor do opposite entries cancel."""
        w = some_matrix(draw, p=0.3, columns=16)
        w = torch.where((w == 0) & draw.bools(*w.shape), -0.0, w)
        w = draw.poisoned(w, draw.bools(*w.shape, p=0.1))
        tiny = torch.where(draw.bools(*w.shape, p=0.4), 1e-42, 0.0) * (1 - 2 * draw.integers(0, 2, *w.shape))
        agree(lambda m: [m.stored_bytes({"w": w}), m.stored_bytes({"w": tiny})], rtol=0, atol=0)

    def test_empty(self, agree, draw):
        """Tensors without entries take nothing; there may be no tensors at all; a matrix may be all 0."""
        w = some_matrix(draw)
        none = {"a": torch.zeros(3, 0), "b": torch.zeros(0, 8), "c": torch.zeros(0)}
        agree(lambda m: [m.stored_bytes({}), m.stored_bytes(none | {"w": w, "z": 0 * w, "v": w[0].clone()})], rtol=0, atol=0)

    def test_layouts(self, agree, draw):
        """A transposed matrix has its own rows and columns, whatever its memory."""
        w = sparse_matrix(draw, draw.integer(20, 60), 4 * draw.integer(3, 20), p=1.0)
        agree(lambda m: [m.stored_bytes({"w": w.T}), m.stored_bytes({"w": w.T.contiguous().T})], rtol=0, atol=0)


# prune_channels


def conv_net(draw, C, *middle, bias=True, affine=True, track=True, dtype=torch.float32, **settings):
    """A network with C channels; "b" stands for a batch norm, "r" for a ReLU, "d" for a depthwise convolution."""
    kinds = {
        "b": lambda: nn.BatchNorm2d(C, eps=0.01, momentum=0.3, affine=affine, track_running_stats=track),
        "r": nn.ReLU,
        "i": lambda: nn.ReLU(inplace=True),
        "d": lambda: nn.Conv2d(C, C, 3, padding=1, groups=C, bias=bias),
    }
    first, last = nn.Conv2d(3, C, 3, bias=bias, **settings), nn.Conv2d(C, 5, (2, 1), bias=bias)
    net = nn.Sequential(first, *(kinds[kind]() for kind in middle), last).to(dtype)
    for name, x in net.state_dict().items():
        if x.is_floating_point():
            x.copy_(draw.uniform(*x.shape, low=0.5, high=2.0) if "var" in name else 0.5 * draw.normal(*x.shape))
        else:
            x.fill_(draw.integer(1, 10**6))
    return net


def kept_channels(draw, C):
    """Which channels to keep: at least one, not all."""
    keep = draw.bools(C)
    one, other = draw.permutation(C)[:2].tolist()
    keep[one], keep[other] = True, False
    return keep


def shrunk(m, net, keep):
    """What prune_channels gives; torch's generator is put back, since it may go on."""
    state = torch.get_rng_state()
    small = m.prune_channels(net, keep)
    torch.set_rng_state(state)
    return small


def about(net, x):
    """What a network is and does."""
    names = ("in_channels", "out_channels", "groups", "num_features")
    numbers = [{name: getattr(layer, name) for name in names if hasattr(layer, name)} for layer in net]
    return str(net), numbers, state_of(net), net(x)


@task("prune_channels")
class TestPruneChannels:
    @pytest.mark.parametrize("middle", ["br", "rb", "r", "", "brdbr", "dd", "bbr"])
    def test_smaller_network(self, agree, draw, middle):
        """The smaller network has the right layers, tensors and outputs, for any layers between."""
        C = draw.integer(4, 9)
        net, keep, x = conv_net(draw, C, *middle).eval(), kept_channels(draw, C), draw.normal(2, 3, 7, 6)
        agree(lambda m: about(shrunk(m, net, keep), x), rtol=1e-4, atol=1e-4)

    def test_equals_the_masked_network(self, student, draw):
        """It gives what the network would give if its last convolution didn't look at the channels that go."""
        net, keep, x = conv_net(draw, 7, *"brdbr", dtype=F64).eval(), kept_channels(draw, 7), draw.normal(2, 3, 7, 6, dtype=F64)
        got = student(lambda m: shrunk(m, net, keep)(x).detach())
        with torch.no_grad():
            net[-1].weight[:, ~keep] = 0
            assert torch.allclose(got, net(x), rtol=1e-9, atol=1e-9), "The smaller network and the masked one give different outputs."

    def test_training_mode(self, agree, draw):
        """In training mode the batch's statistics are used and learnt; modes of layers are kept one by one."""
        C = draw.integer(4, 9)
        net, keep, x = conv_net(draw, C, *"brbr").train(), kept_channels(draw, C), draw.normal(4, 3, 7, 6)
        net[3].eval()

        def probe(m):
            small = shrunk(m, net, keep)
            return small(x), state_of(small)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_settings(self, agree, draw):
        """Stride, padding, dilation and padding mode are kept, and so is the absence of biases, affine weights and statistics."""
        C = draw.integer(4, 9)
        keep, x = kept_channels(draw, C), draw.normal(2, 3, 13, 12)
        nets = [
            conv_net(draw, C, *"bid", bias=False, stride=(2, 1), padding=2, dilation=(1, 2)),
            conv_net(draw, C, *"br", affine=False, padding="same", padding_mode="reflect"),
            conv_net(draw, C, *"br", track=False),
        ]
        agree(lambda m: [about(shrunk(m, net.eval(), keep), x) for net in nets], rtol=1e-4, atol=1e-4)

    def test_float64(self, agree, draw):
        """Dtypes are kept, with all digits."""
        C = draw.integer(4, 9)
        net, keep, x = conv_net(draw, C, *"br", dtype=F64).eval(), kept_channels(draw, C), draw.normal(2, 3, 7, 6, dtype=F64)
        agree(lambda m: about(shrunk(m, net, keep), x), rtol=1e-10, atol=1e-10)

    def test_one_or_all(self, agree, draw):
        """One channel may be left, or all."""
        net, x = conv_net(draw, 5, *"bdr").eval(), draw.normal(1, 3, 7, 6)
        one = torch.arange(5) == draw.integer(0, 5)
        agree(lambda m: [about(shrunk(m, net, keep), x) for keep in (one, torch.ones(5, dtype=torch.bool))], rtol=1e-4, atol=1e-4)

    def test_nothing_is_shared(self, agree, draw):
        """Changes of the smaller network don't reach the other one, even if all channels are kept."""
        net, x = conv_net(draw, 5, *"br").eval(), draw.normal(2, 3, 7, 6)
        keeps = [torch.ones(5, dtype=torch.bool), kept_channels(draw, 5)]

        def probe(m):
            out = []
            for keep in keeps:
                small = shrunk(m, net, keep)
                out.append(small(x))
                for tensor in small.state_dict().values():
                    tensor.zero_()
            return out, net(x), state_of(net)

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("modes")
    def test_trainable(self, agree, draw):
        """The result can be trained; frozen tensors stay frozen, and the modes are those of the network."""
        C = draw.integer(4, 9)
        net, keep, x = conv_net(draw, C, *"br"), kept_channels(draw, C), draw.normal(2, 3, 7, 6)
        net[1].eval()
        for frozen in (net[0].weight, net[1].bias, net[3].bias):
            frozen.requires_grad_(False)

        def probe(m):
            small = shrunk(m, net, keep)
            if [p.requires_grad for p in small.parameters()] != [p.requires_grad for p in net.parameters()]:
                return "requires_grad differs"
            if [layer.training for layer in small.modules()] != [layer.training for layer in net.modules()]:
                return "a mode differs"
            small(x).square().sum().backward()
            return [p.grad for p in small.parameters() if p.grad is not None]

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_twice(self, agree, draw):
        """The result can be pruned again."""
        net, x = conv_net(draw, 7, *"bdr").eval(), draw.normal(1, 3, 7, 6)
        first = torch.ones(7, dtype=torch.bool)
        first[draw.permutation(7)[:2]] = False
        second = kept_channels(draw, 5)
        agree(lambda m: about(shrunk(m, shrunk(m, net, first), second), x), rtol=1e-4, atol=1e-4)

    def test_errors(self, agree, draw):
        """A mask of another dtype or shape is refused, and one that keeps nothing."""
        net, keep, x = conv_net(draw, 5, *"br").eval(), kept_channels(draw, 5), draw.normal(1, 3, 7, 6)

        def probe(m):
            wrong = [keep.long(), keep.float(), keep[:4], keep[None], torch.zeros(5, dtype=torch.bool), torch.ones(6, dtype=torch.bool)]
            return [raised(ValueError, lambda k=k: m.prune_channels(net, k)) for k in wrong], shrunk(m, net, keep)(x)

        agree(probe, rtol=1e-4, atol=1e-4)


# factorize_linear


def spectrum(draw, out, inp, sigma, *, dtype=F64, bias=True):
    """A layer with these singular values."""
    k = len(sigma)
    U, V = (torch.linalg.qr(draw.normal(n, k, dtype=F64)).Q for n in (out, inp))
    layer = nn.Linear(inp, out, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(U * torch.as_tensor(sigma, dtype=F64) @ V.T)
        if bias:
            layer.bias.copy_(draw.normal(out, dtype=F64))
    return layer


def falling(draw, k, ratio=0.8):
    """Singular values that fall, by drawn steps."""
    return draw.integer(1, 9) * (ratio - 0.1 + draw.uniform(k, high=0.2, dtype=F64)).cumprod(0)


def between(sigma, r):
    """An energy that takes rank r, halfway between what r − 1 and r have."""
    energies = torch.as_tensor(sigma, dtype=F64).square().cumsum(0)
    return float((energies[r - 1] + (energies[r - 2] if r > 1 else 0)) / 2 / energies[-1])


def thin(m, layer, energy):
    """What factorize_linear gives; torch's generator is put back, since it may go on."""
    state = torch.get_rng_state()
    result = m.factorize_linear(layer, energy)
    torch.set_rng_state(state)
    return result


def product_of(result):
    """What is fixed about a factorised layer, or about the layer itself: shapes, product, bias."""
    if isinstance(result, nn.Linear):
        return "the layer", result.weight, result.bias
    first, second = result
    return str(result), second.weight @ first.weight, first.bias, second.bias, first.out_features, second.in_features


@task("factorize_linear")
class TestFactorizeLinear:
    @pytest.mark.parametrize("r", [1, 2, 3, 5])
    def test_rank_and_product(self, agree, draw, r):
        """The rank is the smallest with enough energy, and the product is the best approximation."""
        sigma = falling(draw, 12)
        layer = spectrum(draw, 19, 12, sigma)
        agree(lambda m: product_of(thin(m, layer, between(sigma, r))), rtol=1e-8, atol=1e-10)

    def test_wide_and_high(self, agree, draw):
        """There may be more inputs than outputs, or fewer, or as many."""
        sigma = falling(draw, 9)
        layers = [spectrum(draw, *size, sigma) for size in ((9, 23), (23, 9), (9, 9))]
        agree(lambda m: [product_of(thin(m, layer, between(sigma, 3))) for layer in layers], rtol=1e-8, atol=1e-10)

    def test_outputs(self, agree, draw):
        """The result computes what the approximation would, with the bias added once."""
        sigma = falling(draw, 12)
        layer, x = spectrum(draw, 19, 12, sigma), draw.normal(4, 12, dtype=F64)
        agree(lambda m: thin(m, layer, between(sigma, 4))(x), rtol=1e-8, atol=1e-10)

    def test_error_is_the_tail(self, student, draw):
        """The squared error is the energy of the singular values that are left out."""
        sigma, r = falling(draw, 12), draw.integer(1, 6)
        layer = spectrum(draw, 19, 12, sigma)

        def probe(m):
            first, second = thin(m, layer, between(sigma, r))
            return (second.weight @ first.weight).detach()

        error = (student(probe) - layer.weight.detach()).square().sum().item()
        tail = sigma[r:].square().sum().item()
        assert abs(error - tail) <= 1e-8 * tail + 1e-12, f"The squared error is {error:.6g}; the rest has an energy of {tail:.6g}."

    def test_only_if_it_saves(self, agree, draw):
        """The layer itself comes back where two layers would not have fewer weights, also where they would have as many."""
        sigma = falling(draw, 8, 0.95)
        square, wide = spectrum(draw, 8, 8, sigma), spectrum(draw, 12, 4, falling(draw, 4, 0.95))
        energies = [between(sigma, r) for r in (3, 4, 5, 8)]  # 8 · 8 = 4 · (8 + 8)

        def probe(m):
            return [product_of(thin(m, square, e)) for e in energies], [product_of(thin(m, wide, e)) for e in (0.01, 0.999999)]

        agree(probe, rtol=1e-8, atol=1e-10)

    def test_as_many_weights(self, agree, draw):
        """12 · 4 = 3 · (12 + 4), and 6 · 3 = 2 · (6 + 3): these ranks save nothing. 3 · (13 + 4) is one less than 13 · 4."""
        sigma, tau = falling(draw, 4, 0.9), falling(draw, 3, 0.9)
        layers = spectrum(draw, 12, 4, sigma), spectrum(draw, 6, 3, tau), spectrum(draw, 13, 4, sigma)

        def probe(m):
            cases = [(0, sigma, 2), (0, sigma, 3), (1, tau, 1), (1, tau, 2), (2, sigma, 3), (2, sigma, 4)]
            return [product_of(thin(m, layers[i], between(values, r))) for i, values, r in cases]

        agree(probe, rtol=1e-8, atol=1e-10)

    @measured("object identity")
    def test_the_layer_itself(self, agree, draw):
        """Where nothing is saved, it is the same layer."""
        sigma = falling(draw, 6, 0.95)
        layer, x = spectrum(draw, 6, 6, sigma), draw.normal(3, 6, dtype=F64)

        def probe(m):
            same = thin(m, layer, between(sigma, 5))
            return (same(x), product_of(thin(m, layer, between(sigma, 2)))) if same is layer else "another layer comes back"

        agree(probe, rtol=1e-8, atol=1e-10)

    def test_without_bias(self, agree, draw):
        """Without a bias, there is none."""
        sigma = falling(draw, 10)
        layer, x = spectrum(draw, 17, 10, sigma, bias=False), draw.normal(3, 10, dtype=F64)
        agree(lambda m: (product_of(thin(m, layer, between(sigma, 3))), thin(m, layer, between(sigma, 3))(x)), rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("scale", [1.0, 1e-26, 1e26])
    def test_float32(self, agree, draw, scale):
        """float32 layers give float32 layers; energies don't underflow or overflow."""
        sigma = falling(draw, 10)
        layer = spectrum(draw, 17, 10, sigma * scale, dtype=torch.float32)
        agree(
            lambda m: [x if isinstance(x, str) else x / scale for x in product_of(thin(m, layer, between(sigma, 3)))[:2]],
            rtol=1e-4,
            atol=1e-5,
        )

    def test_small_tails(self, agree, draw):
        """Energies are computed in float64: what is missing may be a hundred-millionth."""
        sigma = torch.tensor([1.0, 1e-3, 3e-4, 1e-4], dtype=F64) * draw.uniform(1, low=1, high=5, dtype=F64)
        layer = spectrum(draw, 19, 12, sigma, dtype=torch.float32)
        agree(lambda m: [product_of(thin(m, layer, between(sigma, r)))[:2] for r in (2, 3)], rtol=1e-4, atol=1e-5)

    def test_both_are_moderate(self, student, draw):
        """No entry of either weight is larger than the root of the largest singular value."""
        sigma = 1e6 * falling(draw, 10)
        layer = spectrum(draw, 17, 10, sigma)
        weights = student(lambda m: [p.detach() for p in thin(m, layer, between(sigma, 3)).parameters()][:2], like=None)
        assert isinstance(weights, list) and len(weights) == 2, "Two weights are needed."
        assert [tuple(w.shape) for w in weights] == [(3, 10), (17, 3)], "The weights must be (r, in) and (out, r)."
        product = weights[1] @ weights[0]
        U, S, Vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
        assert torch.allclose(product, U[:, :3] * S[:3] @ Vh[:3], rtol=1e-6, atol=1.0), "The product is not the best approximation."
        largest = max(w.abs().max().item() for w in weights)
        assert largest <= 1.001 * float(sigma[0]) ** 0.5, "An entry of a weight is larger than the root of the largest singular value."

    def test_zeros(self, agree, draw):
        """A layer of zeros has rank 1; its bias stays."""
        layer = spectrum(draw, 7, 5, torch.zeros(3))
        agree(lambda m: product_of(thin(m, layer, 0.5)), rtol=1e-9, atol=1e-12)

    def test_tiny_layers(self, agree, draw):
        """Layers with one input or one output cannot become smaller; nor can two by two."""
        layers = [spectrum(draw, *size, falling(draw, 1)) for size in ((1, 7), (7, 1), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3))]
        agree(lambda m: [product_of(thin(m, layer, 0.5)) for layer in layers], rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("layout", ["transposed", "sliced"])
    def test_layouts(self, agree, draw, layout):
        """The weight may be non-contiguous."""
        layer = nn.Linear(12, 17, bias=False, dtype=F64)
        layer.weight = nn.Parameter(draw.normal(17, 12, dtype=F64, layout=layout))
        agree(lambda m: product_of(thin(m, layer, 0.3)), rtol=1e-8, atol=1e-10)

    def test_nothing_is_shared(self, agree, draw):
        """Changes of the result don't reach the layer."""
        sigma = falling(draw, 10)
        layer = spectrum(draw, 17, 10, sigma)

        def probe(m):
            result = thin(m, layer, between(sigma, 3))
            before = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in product_of(result)]
            for p in result.parameters():
                p.data.zero_()
            return before, state_of(layer)

        agree(probe, rtol=1e-8, atol=1e-10)

    @measured("modes")
    def test_trainable_and_in_its_mode(self, agree, draw):
        """The result can be trained, from a frozen layer, too; and it is in the layer's mode."""
        sigma = falling(draw, 10)
        layer, x = spectrum(draw, 17, 10, sigma).requires_grad_(False), draw.normal(3, 10, dtype=F64)

        def probe(m):
            out = []
            for mode in (True, False):
                result = thin(m, layer.train(mode), between(sigma, 3))
                modes = {module.training for module in result.modules()}
                right = modes == {mode} and all(p.requires_grad for p in result.parameters())
                out.append(result(x) if right else "a mode or requires_grad is wrong")
            layer.train()
            return out

        agree(probe, rtol=1e-8, atol=1e-10)

    def test_errors(self, agree, draw):
        """An energy that does not lie between 0 and 1 is refused."""
        sigma = falling(draw, 10)
        layer = spectrum(draw, 17, 10, sigma)

        def probe(m):
            bad = [raised(ValueError, lambda e=e: m.factorize_linear(layer, e)) for e in (0, 1, -0.5, 1.5, math.nan, 0.0, 1.0)]
            return bad, product_of(thin(m, layer, between(sigma, 3)))

        agree(probe, rtol=1e-8, atol=1e-10)


# distillation_loss


def logits_of(draw, *, B=7, C=5, scale=3.0, dtype=F64):
    """The logits of a student and a teacher, and labels."""
    return scale * draw.normal(B, C, dtype=dtype), scale * draw.normal(B, C, dtype=dtype), draw.integers(0, C, B)


def loss_and_gradients(m, student, teacher, labels, **settings):
    """The loss and its gradients; 0 for the teacher if it gets none."""
    s, t = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    loss = m.distillation_loss(s, t, labels, **settings)
    loss.backward()
    return loss, s.grad, torch.zeros_like(t) if t.grad is None else t.grad


@task("distillation_loss")
class TestDistillationLoss:
    @pytest.mark.parametrize("T", [0.5, 1, 2.5, 20.0])
    @pytest.mark.parametrize("alpha", [0.2, 0.7])
    def test_loss_and_gradients(self, agree, draw, T, alpha):
        """The loss is mixed as stated, with its gradients, at any temperature; the teacher gets none."""
        given = logits_of(draw)
        agree(lambda m: loss_and_gradients(m, *given, T=T, alpha=alpha), rtol=1e-9, atol=1e-12)

    def test_soft_only(self, agree, draw):
        """With alpha = 1 the labels don't count."""
        given = logits_of(draw)
        agree(lambda m: [loss_and_gradients(m, *given, T=3.0, alpha=alpha) for alpha in (1, 1.0)], rtol=1e-9, atol=1e-12)

    def test_hard_only(self, agree, draw):
        """With alpha = 0 the teacher doesn't count, nor the temperature."""
        given = logits_of(draw)
        agree(lambda m: [loss_and_gradients(m, *given, T=3.0, alpha=alpha) for alpha in (0, 0.0)], rtol=1e-9, atol=1e-12)

    def test_defaults(self, agree, draw):
        """By default T is 4 and alpha is one half."""
        given = logits_of(draw)
        agree(lambda m: loss_and_gradients(m, *given), rtol=1e-9, atol=1e-12)

    def test_rows_without_labels(self, agree, draw):
        """Rows without a label count for the soft part only, and the hard part is the mean of the others."""
        student, teacher, labels = logits_of(draw, B=11)
        labels[draw.permutation(11)[:4]] = torch.tensor([-1, -100, -7, -1])
        agree(lambda m: loss_and_gradients(m, student, teacher, labels, alpha=0.4), rtol=1e-9, atol=1e-12)

    def test_no_labels_at_all(self, agree, draw):
        """If no row has a label, the hard part is 0."""
        student, teacher, labels = logits_of(draw)
        agree(lambda m: loss_and_gradients(m, student, teacher, 0 * labels - 1, alpha=0.4), rtol=1e-9, atol=1e-12)

    def test_mean_over_rows(self, agree, draw):
        """The mean is over rows: repeating them changes nothing, and the number of classes doesn't divide."""
        cases = [logits_of(draw, B=B, C=C) for B, C in ((3, 11), (13, 2), (5, 5))]
        twice = tuple(x.repeat(*(2, 1)[: x.dim()]) for x in cases[0])
        agree(lambda m: [loss_and_gradients(m, *given, T=2.0, alpha=0.8) for given in (*cases, twice)], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_extreme_logits(self, agree, draw, dtype):
        """Logits of ±10⁴ give the right loss and gradients, without NaN."""
        student, teacher, labels = logits_of(draw, dtype=dtype)
        huge = 1e4 * (1 - 2 * draw.integers(0, 2, 7, 5).to(dtype)) * draw.uniform(7, 5, low=0.5, dtype=dtype)
        pairs = [(student, huge), (huge, teacher), (huge, huge.flip(1)), (huge, huge)]
        atol = 1e-2 if dtype == torch.float32 else 1e-7  # a float32 logit of 10⁴ is off by up to 0.0005
        agree(lambda m: [loss_and_gradients(m, *p, labels, T=1.5, alpha=0.5) for p in pairs], rtol=1e-3, atol=atol)

    def test_far_from_zero(self, agree, draw):
        """A shift of all logits of a row changes nothing."""
        student, teacher, labels = logits_of(draw)
        shift = draw.uniform(7, 1, low=-9000, high=9000, dtype=F64)
        agree(lambda m: loss_and_gradients(m, student + shift, teacher - shift, labels, T=2.0), rtol=1e-7, atol=1e-9)

    def test_float32(self, agree, draw):
        """float32 gives float32, a 0-d tensor."""
        given = logits_of(draw, dtype=torch.float32)
        agree(lambda m: [m.distillation_loss(*given, T=T) for T in (1.5, 3)], rtol=1e-4, atol=1e-5)

    def test_high_temperatures(self, agree, draw):
        """At a high temperature, T² keeps the loss from vanishing."""
        given = logits_of(draw)
        agree(lambda m: loss_and_gradients(m, *given, T=300.0, alpha=0.9), rtol=1e-6, atol=1e-9)

    def test_single_row_and_class(self, agree, draw):
        """There may be one row, and one class, whose loss is 0."""
        cases = [logits_of(draw, B=1, C=6), logits_of(draw, B=6, C=1), logits_of(draw, B=1, C=1), logits_of(draw, B=1, C=2)]
        agree(lambda m: [loss_and_gradients(m, *given, T=2.0, alpha=0.3) for given in cases], rtol=1e-9, atol=1e-12)

    def test_a_perfect_student(self, agree, draw):
        """Where both have the same logits, the soft part is 0, with its gradient; half as sure, it is not."""
        student, _, labels = logits_of(draw)
        pairs = [(student, student.clone()), (student, student / 2)]
        agree(lambda m: [loss_and_gradients(m, *p, labels, T=2.0, alpha=a) for p in pairs for a in (1, 0.5)], rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Logits and labels may be non-contiguous."""
        student, teacher = draw.normal(7, 5, layout=layout), draw.normal(7, 5, layout=layout)
        labels = draw.integers(0, 5, 7, 2)[:, 1]
        agree(lambda m: m.distillation_loss(student, teacher, labels, T=2.0), rtol=1e-4, atol=1e-5)

    def test_errors(self, agree, draw):
        """A temperature that isn't above 0 is refused, and an alpha outside of 0 … 1."""
        given = logits_of(draw)
        bad = [{"T": 0.0}, {"T": -1.0}, {"T": math.nan}, {"alpha": -0.1}, {"alpha": 1.1}, {"alpha": math.nan}]

        def probe(m):
            return [raised(ValueError, lambda b=b: m.distillation_loss(*given, **b)) for b in bad], m.distillation_loss(*given)

        agree(probe, rtol=1e-9, atol=1e-12)


# codebook


def all_of(result):
    """The parts of the answer, and the gradient of a product that reaches the centroids."""
    centroids, codes, shared, bits = result
    g = torch.linspace(1, 2, shared.numel(), dtype=shared.dtype).reshape(shared.shape)
    grad = torch.autograd.grad((shared * g).sum(), centroids, allow_unused=True)[0]
    return centroids, codes, shared, bits, grad


@task("codebook")
class TestCodebook:
    @pytest.mark.parametrize("iterations", [0, 1, 2, 9])
    def test_iterations(self, agree, draw, iterations):
        """Centroids move as often as asked for; codes are those of the moved centroids."""
        weight, start = draw.normal(13, 7, dtype=F64), draw.normal(6, dtype=F64)
        agree(lambda m: all_of(m.codebook(weight, start, iterations=iterations)), rtol=1e-9, atol=1e-12)

    def test_gradients_add_up(self, agree, draw):
        """A centroid gets the sum of its weights' gradients, and can be trained."""
        weight, start, g = draw.normal(13, 7, dtype=F64), draw.normal(5, dtype=F64), draw.normal(13, 7, dtype=F64)

        def probe(m):
            centroids, codes, shared, _ = m.codebook(weight, start, iterations=2)
            (shared.square() * g).sum().backward()
            with torch.no_grad():
                centroids -= 0.1 * centroids.grad
            return centroids, centroids.grad, codes

        agree(probe, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("K", [1, 2, 3, 4, 5, 16, 17, 256])
    def test_bits(self, agree, draw, K):
        """Codes take the bits that K needs, centroids those of their dtype."""
        n = draw.integer(5, 3000)
        weights, start = [draw.normal(n), draw.normal(n, dtype=F64)], draw.normal(K, dtype=F64)
        agree(lambda m: [m.codebook(w, start, iterations=1) for w in weights], rtol=1e-4, atol=1e-5)

    def test_ties(self, agree, draw):
        """A weight between two centroids gets the smaller number, in any order of the centroids."""
        weight = draw.integers(-6, 7, 60).float()
        starts = [torch.tensor([-4.0, -2.0, 2.0, 6.0])[draw.permutation(4)] for _ in range(3)]
        agree(lambda m: [all_of(m.codebook(weight, start, iterations=0)) for start in starts], rtol=1e-5, atol=1e-6)

    def test_equal_centroids(self, agree, draw):
        """Of equal centroids, the first one gets all weights, and the others stay."""
        weight, a = draw.normal(40, dtype=F64), draw.normal(3, dtype=F64)
        start = a[torch.tensor([0, 1, 0, 2, 1])]
        agree(lambda m: [all_of(m.codebook(weight, start, iterations=i)) for i in (0, 1, 3)], rtol=1e-9, atol=1e-12)

    def test_centroids_without_weights(self, agree, draw):
        """A centroid that no weight is near to stays where it is, without NaN."""
        weight, start = draw.normal(40, dtype=F64), torch.cat((draw.normal(3, dtype=F64), draw.uniform(2, low=50, high=90, dtype=F64)))
        agree(lambda m: [all_of(m.codebook(weight, start, iterations=i)) for i in (1, 4)], rtol=1e-9, atol=1e-12)

    def test_codes_before_rounding(self, agree, draw):
        """Centroids are rounded once, at the end: codes and means are those of float64."""
        base, unit = draw.uniform(1, low=1.1, high=1.9).double(), 2.0**-23  # neighbours in float32 are a unit apart
        weight = (base + unit * draw.integers(-100, 101, 300)).float()
        start = base + unit * draw.uniform(40, low=-100, high=100, dtype=F64)
        agree(lambda m: [m.codebook(weight, start, iterations=i)[:3] for i in (0, 1, 4)], rtol=0, atol=2e-7)

    def test_precise_means(self, agree, draw):
        """Means are taken in float64: a large offset doesn't cost digits."""
        weight, start = 1e4 + draw.normal(3000), 1e4 + draw.normal(4, dtype=F64)
        agree(lambda m: m.codebook(weight, start, iterations=3)[0], rtol=1e-7, atol=0)

    def test_dtypes(self, agree, draw):
        """Centroids and shared weights have the weight's dtype, whatever that of start is."""
        weights, starts = [draw.normal(9, 4), draw.normal(9, 4, dtype=F64)], [draw.normal(4), draw.normal(4, dtype=F64)]
        agree(lambda m: [all_of(m.codebook(w, s, iterations=2)) for w in weights for s in starts], rtol=1e-5, atol=1e-6)

    def test_extreme_sizes(self, agree, draw):
        """Tiny and huge weights are told apart: squares would be 0 or infinite."""
        tiny, huge = (draw.magnitudes(60, low=low, high=low * 1e3) for low in (1e-40, 1e34))
        agree(
            lambda m: (
                [[1.0 * (x / w.abs().max()) for x in m.codebook(w, w[:5].clone(), iterations=2)[:1]] for w in (huge,)]
                + [m.codebook(w, w[:5].clone(), iterations=2)[1] for w in (tiny, huge)]
            ),
            rtol=1e-4,
            atol=1e-6,
        )

    def test_shapes(self, agree, draw):
        """Weights may have any shape, 0-d and empty ones included."""
        weights, start = [draw.normal(*shape, dtype=F64) for shape in ((), (1,), (2, 3, 4), (0,), (3, 0))], draw.normal(3, dtype=F64)
        agree(lambda m: [m.codebook(w, start, iterations=2) for w in weights], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The weight may be non-contiguous, and so may start."""
        weight, start = draw.normal(8, 6, dtype=F64, layout=layout), draw.normal(4, 2, dtype=F64)[:, 1]
        agree(lambda m: all_of(m.codebook(weight, start, iterations=2)), rtol=1e-9, atol=1e-12)

    def test_start_is_left_alone(self, agree, draw):
        """Training the centroids doesn't change start or the weight, even with 0 iterations; a second call gives the same."""
        weight, start = draw.normal(30, dtype=F64), draw.normal(4, dtype=F64)

        def probe(m):
            out = []
            for i in (0, 0, 2, 2):
                centroids, codes, *_ = m.codebook(weight, start, iterations=i)
                out.append((centroids.detach().clone(), codes))
                with torch.no_grad():
                    centroids.zero_()
            return out, weight, start

        agree(probe, rtol=1e-9, atol=1e-12)

    @measured("requires_grad")
    def test_graph(self, agree, draw):
        """The centroids are a leaf; neither a weight nor a start with a gradient is in the graph."""
        weight, start = draw.normal(30, dtype=F64), draw.normal(4, dtype=F64)

        def probe(m):
            w, s = nn.Parameter(weight), nn.Parameter(start)
            out = []
            for i in (0, 2):
                centroids, codes, shared, _ = m.codebook(w, s, iterations=i)
                shared.sum().backward()
                right = centroids.is_leaf and centroids.requires_grad and w.grad is None and s.grad is None
                out.append((centroids, codes, centroids.grad) if right else "the graph is not as stated")
            return out

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_errors(self, agree, draw):
        """Too few and too many centroids, another shape and negative iterations are refused."""
        weight, start = draw.normal(30, dtype=F64), draw.normal(4, dtype=F64)
        bad = [start[:0], start[None], start[0], draw.normal(257)]

        def probe(m):
            endings = [raised(ValueError, lambda s=s: m.codebook(weight, s, iterations=1)) for s in bad]
            return endings, raised(ValueError, lambda: m.codebook(weight, start, iterations=-1)), m.codebook(weight, start, iterations=1)

        agree(probe, rtol=1e-9, atol=1e-12)


# distill_digits


def small_net():
    """The small network: 1,135 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 15), nn.ReLU(), nn.Linear(15, 10))


def first_weights(draw):
    """Start values for it, as torch would draw them."""
    return {
        name: draw.uniform(*x.shape, low=-1, high=1) / math.sqrt(64 if name.startswith("1.") else 15)
        for name, x in small_net().state_dict().items()
    }


def small_digits(draw, digits):
    """Images of 8 × 8 with labels, which have been given random numbers, and held-out ones."""
    images, labels, new_images, new_labels = digits.split(draw)
    names = draw.permutation(10)
    images, new_images = (F.adaptive_avg_pool2d(x, 8) for x in (images[:1197], new_images))
    return images, names[labels[:1197]], new_images, names[new_labels]


def teachers_logits(images, labels, *queries):
    """What kernel ridge regression on labelled images says to others."""

    def kernel(a, b):
        return (-torch.cdist(a.flatten(1).double(), b.flatten(1).double()).square() / 8).exp()

    K = kernel(images, images) + 0.05 * torch.eye(len(images), dtype=F64)
    solved = torch.linalg.solve(K, F.one_hot(labels, 10).double() - 0.1)
    return [(3 * kernel(x, images) @ solved).float() for x in queries]


def distilled(m, start, images, logits, seed, *, net=None, skipped=0, **settings):
    """The weights after training from the given ones, with a generator of which some numbers have been used already."""
    net = small_net() if net is None else net
    net.load_state_dict(start)
    generator = torch.Generator().manual_seed(seed)
    torch.rand(skipped, generator=generator)
    m.distill_digits(net, images, logits, generator=generator, **settings)
    return state_of(net)


def small_net_with(state):
    """The network with these weights. Asserts that they have its names, shapes and dtypes."""
    net = small_net()
    want = {name: (x.shape, x.dtype) for name, x in net.state_dict().items()}
    right = isinstance(state, dict) and {name: (getattr(x, "shape", 0), getattr(x, "dtype", 0)) for name, x in state.items()} == want
    assert right, "The network must keep the names, shapes and dtypes of its weights."
    assert all(x.isfinite().all() for x in state.values()), "The weights must be finite."
    net.load_state_dict(state)
    return net


def divergence(net, images, logits):
    """The mean of KL(teacher ‖ network)."""
    with torch.no_grad():
        return F.kl_div(net(images).log_softmax(1), logits.softmax(1), reduction="batchmean").item()


@task("distill_digits")
class TestDistillDigits:
    def test_learns_from_the_teacher(self, student, draw, digits):
        """On held-out images, the network is right for 90 %, and nearly as sure as the teacher."""
        images, labels, new_images, new_labels = small_digits(draw, digits)
        logits, new_logits = teachers_logits(images, labels, images, new_images)
        start, seed = first_weights(draw), draw.seed()
        net = small_net_with(student(lambda m: distilled(m, start, images, logits, seed), like=None))
        with torch.no_grad():
            share = (net(new_images).argmax(1) == new_labels).double().mean().item()
        assert share >= 0.9, f"Of 600 held-out images, {share:.1%} are classified correctly; 90 % are needed."
        distance = divergence(net, new_images, new_logits)
        assert distance <= 0.3, f"On held-out images, the mean divergence from the teacher is {distance:.2f}; at most 0.3 is asked for."

    def test_generator_decides(self, student, draw):
        """The generator's state decides on the weights, whatever the global state is; they come from those that the net has."""
        start, seed = first_weights(draw), draw.seed()
        images, direction = draw.uniform(300, 1, 8, 8), draw.normal(64, 10)
        logits = images.flatten(1) @ direction

        def probe(m):
            out = []
            for state, skipped in (1, 0), (2, 0), (1, 1000):
                torch.manual_seed(state)
                out.append(distilled(m, start, images, logits, seed, skipped=skipped, updates=25))
            return out

        first, again, other = (small_net_with(state).state_dict() for state in student(probe, like=None))
        before, after = (divergence(small_net_with(state), images, logits) for state in (start, first))
        assert after < 0.9 * before, f"25 updates take the divergence from {before:.2f} to {after:.2f}: that is too little to have learnt."
        pair = torch.stack((first["1.weight"].flatten(), start["1.weight"].flatten()))
        assert torch.corrcoef(pair)[0, 1] > 0.2, "The network must be trained from the weights that it has; these come from others."
        same = all(torch.allclose(first[name], again[name], rtol=1e-3, atol=1e-4) for name in first)
        assert same, "A generator in the same state must give the same weights, whatever was drawn from global generators before."
        assert any((first[name] - other[name]).abs().max() > 1e-3 for name in first), (
            "A generator in another state must give other weights."
        )

    def test_no_updates(self, agree, draw):
        """0 updates leave the weights as they are; 1 changes them; images and logits may be non-contiguous."""
        start, seed = first_weights(draw), draw.seed()
        images, logits = draw.uniform(100, 1, 8, 8, layout="transposed"), draw.normal(100, 10, layout="sliced")

        def probe(m):
            moved = distilled(m, start, images, logits, seed, updates=1)
            return distilled(m, start, images, logits, seed, updates=0), {name: bool((moved[name] != start[name]).any()) for name in start}

        agree(probe, rtol=1e-6, atol=0)

    @measured("modes")
    def test_mode(self, agree, draw):
        """The network is trained in the mode in which it is: a dropout works or not; 0 updates change nothing."""
        start, seed = first_weights(draw), draw.seed()
        images, logits = draw.uniform(100, 1, 8, 8), draw.normal(100, 10)

        def probe(m):
            out = []
            for mode in (True, False):
                seen, net = [], small_net().train(mode)
                net.register_forward_hook(lambda net, args, output, seen=seen: seen.append(net.training))
                moved = distilled(m, start, images, logits, seed, net=net, updates=2)
                still = distilled(m, start, images, logits, seed, updates=0)
                right = net.training is mode and set(seen) == {mode} and (moved["1.weight"] != start["1.weight"]).any()
                out.append(still if right else "another mode")
            return out

        agree(probe, rtol=1e-6, atol=0)

    def test_one_image(self, student, draw):
        """One image is enough of data, and copies of it: the network learns what the teacher says to it."""
        start, seed = first_weights(draw), draw.seed()
        image, logits = draw.uniform(1, 1, 8, 8, low=0.5), 2 * draw.normal(1, 10)

        def probe(m):
            return [distilled(m, start, image.repeat(n, 1, 1, 1), logits.repeat(n, 1), seed, updates=150) for n in (1, 70)]

        for state in student(probe, like=None):
            distance = divergence(small_net_with(state), image, logits)
            assert distance <= 0.05, f"For a single image, the divergence from the teacher is {distance:.3f}; at most 0.05 is asked for."
