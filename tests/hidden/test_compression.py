"""Hidden suite of the module compression."""

import math

import pytest
import torch
from torch import nn
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
