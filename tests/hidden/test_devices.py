"""Hidden suite of the module devices.

`meta` is the second device of every machine; what needs a GPU is marked so and skipped where there is none.
"""

import gc
import warnings
from collections import OrderedDict, UserDict, UserList, deque
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
REAL = ["cpu", CUDA]
AWAY = ["meta", CUDA]


# Helpers for probes


def attempt(call):
    """The value of the call, or what torch says where something is copied or read from `meta`, where there are no entries.

    Torch says it by a NotImplementedError, which would pass for an exercise that has not been begun.
    """
    try:
        return call()
    except NotImplementedError as error:
        if "meta" not in str(error):
            raise
        return f"stopped by torch: {error}"


def guarded(probe):
    """The probe within `attempt`."""
    return lambda m: attempt(lambda: probe(m))


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def linear(weight, bias):
    """A linear layer with copies of the given parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def places(module):
    """The types of the devices on which a module has parameters and buffers."""
    return sorted({tensor.device.type for tensor in [*module.parameters(), *module.buffers()]})


def identities(modules):
    """The parameters and buffers themselves (to be compared by `is`), and where their memory is."""
    tensors = [tensor for module in modules for tensor in [*module.parameters(), *module.buffers()]]
    return [(tensor, tensor.data_ptr()) for tensor in tensors]


def untouched(before, modules):
    """True if every parameter and buffer is the object that it was, with the memory that it had."""
    after = identities(modules)
    return len(after) == len(before) and all(t is u and p == q for (t, p), (u, q) in zip(before, after, strict=True))


class Made(TorchDispatchMode):
    """Writes down the tensors that operators make: where, how large, whether they are alive, and whether copies were asynchronous."""

    def __init__(self):
        super().__init__()
        self.tensors, self.asynchronous = [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        self.asynchronous |= bool({**named, **(kwargs or {})}.get("non_blocking"))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.tensors.append((tensor.device.type, tensor.numel(), storage.nbytes(), StorageWeakRef(storage)))
        return out

    def largest_outside(self, device):
        """The most entries that a tensor on another device has."""
        return max((count for place, count, _, _ in self.tensors if place != device), default=0)

    def alive(self, device):
        """Bytes of each storage on the device that is still held by somebody."""
        gc.collect(1)
        return {size for place, _, size, storage in self.tensors if place == device and not storage.expired()}


def numbered(m, i):
    """The GPU with a drawn index: what another run was answered does not fit."""
    return m.pick_device({"cuda": 100}, ["mps", f"cuda:{i}"])


@task("pick_device")
class TestPickDevice:
    def test_the_first_wish_that_is_there(self, agree, draw):
        """The order of the wishes decides, not the order or the number of what there is."""
        names = ["cuda", "mps", "xpu", "mtia"]
        available = {name: draw.integer(1, 9) for name in names}
        orders = [[names[i] for i in draw.permutation(4).tolist()] for _ in range(3)] + [names, names[::-1]]
        agree(lambda m: [m.pick_device(available, order) for order in orders], rtol=0, atol=0)

    def test_what_is_missing_is_passed_over(self, agree, draw):
        """Types that aren't listed, and types with 0 devices, are not there."""
        n, i = draw.integer(1, 9), draw.integer(0, 100)
        agree(
            lambda m: [
                numbered(m, i),
                m.pick_device({"mps": 0, "xpu": n}, ["cuda", "mps", "xpu", "cpu"]),
                m.pick_device({"cuda": 0, "hpu": n}, ["cuda", "cuda:0", "hpu"]),
            ],
            rtol=0,
            atol=0,
        )

    def test_an_index_counts_from_zero(self, agree, draw):
        """With n devices the last one has the index n - 1, and a wish for n is passed over."""
        n = draw.integer(2, 100)
        wishes = [f"cuda:{n + 1}", f"cuda:{n}", f"cuda:{n - 1}", "cuda:0", "cpu"]
        agree(
            lambda m: [
                m.pick_device({"cuda": n}, wishes),
                m.pick_device({"cuda": n - 1}, wishes),
                m.pick_device({"cuda": 1}, ["cuda:1", "cuda:0"]),
            ],
            rtol=0,
            atol=0,
        )

    def test_the_index_is_that_of_the_wish(self, agree, draw):
        """A wish without an index gives a device without one; an index, 0 too, is kept."""
        i = draw.integer(1, 100)

        def probe(m):
            chosen = [m.pick_device({"cuda": 100}, [wish]) for wish in ("cuda", "cuda:0", f"cuda:{i}")]
            return chosen, [device.index for device in chosen]

        agree(probe, rtol=0, atol=0)

    def test_the_cpu_is_always_there(self, agree, draw):
        """A wish for the CPU is granted whether it is listed or not, and ends the search."""
        n, i = draw.integer(1, 9), draw.integer(0, 100)
        agree(
            lambda m: [
                numbered(m, i),
                m.pick_device({"cuda": n}, ["mps", "cpu", "cuda"]),
                m.pick_device({"cuda": n}, ["cuda", "cpu"]),
                m.pick_device({"cpu": 1, "cuda": n}, ["cpu", "cuda"]),
                m.pick_device({"cpu": 0, "cuda": n}, ("cpu", "cuda")),
            ],
            rtol=0,
            atol=0,
        )

    def test_falls_back_on_the_cpu(self, agree, draw):
        """Where no wish can be granted, or none is made, it is the CPU."""
        n, i = draw.integer(1, 9), draw.integer(0, 100)
        agree(
            lambda m: [
                numbered(m, i),
                m.pick_device({"xpu": n}, ["cuda", f"xpu:{n}"]),
                m.pick_device({"cuda": n}, []),
                m.pick_device({}, ["cuda"]),
                m.pick_device({"xpu": n}, ["cuda", "xpu"]),
            ],
            rtol=0,
            atol=0,
        )

    def test_wishes_by_default(self, agree, draw):
        """CUDA before MPS before the CPU, whatever this machine has."""
        n, i = draw.integer(1, 9), draw.integer(0, 100)
        machines = [{"mps": 1, "cuda": n}, {"mps": 1}, {"xpu": n}, {}, {"cuda": 0, "mps": n}]
        agree(lambda m: [numbered(m, i), *(m.pick_device(machine) for machine in machines)], rtol=0, atol=0)

    def test_wishes_may_be_devices(self, agree, draw):
        """torch.devices are wishes as well, also beside strings."""
        n = draw.integer(1, 100)
        agree(
            lambda m: m.pick_device({"cuda": n, "mps": 1}, [torch.device("cuda", n), torch.device("cuda", n - 1), "mps"]),
            rtol=0,
            atol=0,
        )

    def test_a_misspelt_wish_raises(self, agree, draw):
        """A ValueError, also behind a wish that can be granted."""
        n, i = draw.integer(1, 5), draw.integer(0, 100)

        def probe(m):
            bad = [["gpu"], ["cuda", "cdua:0", "cpu"], ["cpu", "cuda:first"], ["mps", "cuda:-1"]]
            endings = [raised(ValueError, lambda b=b: m.pick_device({"cuda": n}, b)) for b in bad]
            return endings, m.pick_device({"cuda": n}, ["cuda"]), numbered(m, i)

        agree(probe, rtol=0, atol=0)


class Pair(NamedTuple):
    """A named tuple for the tests of move_to."""

    image: object
    label: object


class Movable:
    """Not a tensor, but with a method `to`."""

    def to(self, device):
        return "moved"


def uncommon(x):
    """Objects that are no tensor, dict, list or tuple, some of them around a tensor."""
    others = [{1, 2}, frozenset([1]), range(3), b"bytes", bytearray(b"bytes"), deque([x, 1]), UserDict({"x": x}), UserList([x])]
    return [*others, MappingProxyType({"x": x}), SimpleNamespace(x=x), iter([x])]


@task("move_to")
class TestMoveTo:
    @pytest.mark.parametrize("device", AWAY)
    def test_dicts_lists_and_tuples_in_any_depth(self, agree, draw, device):
        """Each container comes back as its kind, with its tensors on the device."""
        x, y, z = draw.normal(3, 5), draw.integers(0, 9, 7), draw.bools(2, 3)
        tree = {"z": x, "rest": [y, (z, {"deep": [[x]]})], 3: (y,), "a": [(), [], {}]}

        def probe(m):
            out = m.move_to(tree, device)
            return out, list(out), out["rest"][1][1]["deep"][0][0].device.type, m.move_to(tree, "cpu")

        agree(guarded(probe), rtol=0, atol=0)

    @pytest.mark.parametrize("device", AWAY)
    def test_a_tensor(self, agree, draw, device):
        """A tensor alone, of any shape and value, by the device's name or as torch.device."""
        x, y = draw.normal(3, 5), draw.normal()

        def probe(m):
            out = [m.move_to(x, device), m.move_to(y, torch.device(device)), m.move_to(x[:0], device), m.move_to(y * 0, device)]
            return out, [tensor.device.type for tensor in out], m.move_to(x, "cpu")

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("device", AWAY)
    def test_named_tuples_keep_their_class(self, agree, draw, device):
        """A named tuple comes back as one, also inside of other containers and with containers inside."""
        x, y = draw.normal(3, 5), draw.integers(0, 9, 3)

        def probe(m):
            out = m.move_to([Pair(x, {"y": y}), Pair(Pair(x, 1), label="cat")], device)
            pairs = [*out, out[1][0], m.move_to(Pair(x, y), "cpu")]
            return [type(pair).__name__ for pair in pairs], [tuple(pair) for pair in (pairs[0], *pairs[2:])], out[1][1]

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    def test_a_tensor_that_is_there_is_the_same(self, agree, draw):
        """No copy of a tensor that is on the device already, whatever its strides."""
        x = draw.normal(3, 5, layout="transposed")

        def probe(m):
            p = nn.Parameter(x + 1)
            out = m.move_to({"x": x, "more": [p, (x, Pair(p, 3))]}, "cpu")
            [first, (second, pair)] = out["more"]
            same = [out["x"] is x, first is p, second is x, pair[0] is p]
            return same, out["x"], first, second, tuple(pair), m.move_to([x], "meta")

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    def test_containers_are_new(self, agree, draw):
        """A dict or a list is never the given one, also where nothing in it has to be moved; the given ones are left alone."""
        x, number = draw.normal(3, 5), draw.integer(1, 99)
        tree = [x, [x, x], [number, "text"], {"x": x}, {"n": number}, [[x]], (x, [number])]

        def probe(m):
            there = m.move_to(tree, "cpu")
            given = [tree, *tree[1:6], tree[6][1]]
            return [a is b for a, b in zip([there, *there[1:6], there[6][1]], given, strict=True)], there, m.move_to(tree, "meta")

        agree(guarded(probe), rtol=0, atol=0)

    @measured("object identity")
    def test_everything_else_is_the_same_object(self, agree, draw):
        """Numbers, text, None, sets, other containers than dicts, lists and tuples, and what has a method `to` without being a tensor."""
        x, number, layer = draw.normal(3, 5), draw.integer(1, 99), linear(draw.normal(3, 2), draw.normal(3))

        def probe(m):
            tree = [number, 0, "", "some text", None, 0.5, True, layer, Movable(), *uncommon(x), x]
            out = m.move_to(tree, "meta")
            same = {f"{i}, a {type(b).__name__}": a is b for i, (a, b) in enumerate(zip(out, tree, strict=True)) if b is not x}
            return {"the same object": same, "where the layer is": places(layer), "plain values": out[:7], "the tensor": out[-1]}

        agree(probe, rtol=0, atol=0)

    def test_dtypes_are_kept(self, agree, draw):
        """Moving changes no dtype."""
        x = draw.integers(0, 2, 3, 5)
        dtypes = [torch.float16, torch.bfloat16, F64, torch.int32, torch.bool, torch.uint8]
        agree(lambda m: [m.move_to([x.to(dtype) for dtype in dtypes], place) for place in ("meta", "cpu")], rtol=0, atol=0)

    @measured("flags")
    @pytest.mark.parametrize("device", AWAY)
    def test_gradients_flow_back(self, agree, draw, device):
        """A parameter or another tensor of a graph is moved within the graph."""
        x = draw.normal(3, 5)

        def probe(m):
            out = []
            for place in (device, "cpu"):
                p = nn.Parameter(x)
                moved = m.move_to({"p": p, "y": [p * 2]}, place)
                total = moved["p"].sum() * 3 + moved["y"][0].square().sum()
                if place != "meta":  # from there nothing comes back
                    total.backward()
                flags = [tensor.requires_grad for tensor in (moved["p"], moved["y"][0])], moved["p"].is_leaf
                out.append((moved, flags, moved["p"].device.type, p.grad))
            return out

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_ordered_dicts(self, agree, draw):
        """An OrderedDict is a dict: keys in order, tensors moved."""
        x, y = draw.normal(3, 5), draw.normal(7)
        tree = OrderedDict([("b", x), ("a", OrderedDict(c=y))])

        def probe(m):
            out = m.move_to(tree, "meta")
            return list(out), out, m.move_to(tree, "cpu")

        agree(guarded(probe), rtol=0, atol=0)


@task("mask_like_scores")
class TestMaskLikeScores:
    @pytest.mark.parametrize("device", REAL)
    def test_keys_behind_the_length_are_hidden(self, agree, draw, device):
        """0 up to each sequence's own length, -inf behind it, for every head and query."""
        scores, lengths = draw.normal(5, 2, 3, 7), draw.integers(0, 10, 5)

        def probe(m):
            mask = m.mask_like_scores(scores.to(device), lengths)
            return mask, mask.device.type

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(13, 2, 7, 7), (13, 2, 7, 3), (6, 3, 5, 11), *with_ones(7, 2, 3, 5)], ids=str)
    def test_causal(self, agree, draw, shape):
        """The last query sees up to the last key, and each earlier one a key less, within the length."""
        B, _, _, S = shape
        scores, few = draw.normal(*shape), torch.tensor([2**40 + 1, S - 1, S, S + 2, 1, 0] * 3)[:B]
        lengths = [few, *(draw.integers(0, S + 3, B) for _ in range(3))]
        agree(lambda m: [m.mask_like_scores(scores, some, causal=c) for some in lengths for c in (True, False)], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F64], ids=str)
    def test_dtype_of_the_scores(self, agree, draw, dtype):
        """The mask has the dtype of scores, so that adding it changes none; keys are counted in one that can count them."""
        scores, lengths = draw.normal(3, 2, 2, 2112, dtype=dtype), 2 * draw.integers(1, 30, 3) + torch.tensor([2049, 257, 1])
        agree(lambda m: m.mask_like_scores(scores, lengths, causal=True), rtol=0, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_do_not_matter(self, agree, draw, layout):
        """Scores and lengths may be transposed, a slice or expanded; the mask is a tensor of its own."""
        scores, lengths = draw.normal(3, 2, 5, 7, layout=layout), draw.integers(0, 9, 3, layout="sliced")
        agree(lambda m: m.mask_like_scores(scores, lengths, causal=True), rtol=0, atol=0)

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("home", ["meta", "cpu"])
    def test_on_meta(self, agree, draw, home, causal):
        """Scores on `meta` give a mask on `meta`, from lengths there or on the CPU."""
        scores, lengths = draw.normal(3, 2, 5, 7), draw.integers(1, 8, 3)

        def probe(m):
            there = attempt(lambda: m.mask_like_scores(scores.to("meta"), lengths.to(home), causal=causal))
            return there, m.mask_like_scores(scores, lengths, causal=causal)

        agree(probe, rtol=0, atol=0)

    @measured("calls, memory, modes")
    @pytest.mark.parametrize("causal", [False, True])
    def test_made_on_the_device_from_the_start(self, agree, draw, causal):
        """For scores elsewhere than on the CPU, no tensor of more than B entries is made on the CPU."""
        scores, lengths = draw.normal(3, 2, 5, 7, dtype=torch.bfloat16), draw.integers(1, 8, 3)

        def probe(m):
            there = scores.to("meta")
            with Made() as made:
                mask = attempt(lambda: m.mask_like_scores(there, lengths, causal=causal))
            if made.largest_outside("meta") > 3:
                return "a tensor of more than B entries on the CPU"
            return mask, m.mask_like_scores(scores, lengths, causal=causal)

        agree(probe, rtol=0, atol=0)

    def test_entries_of_the_scores_do_not_matter(self, agree, draw):
        """NaN and infinities among the scores are not read."""
        scores, lengths = draw.normal(3, 2, 5, 7), draw.integers(1, 7, 3)
        scores[:, :, 1], scores[:, :, :, 2], scores[0] = torch.nan, torch.inf, -torch.inf
        agree(lambda m: m.mask_like_scores(scores, lengths, causal=True), rtol=0, atol=0)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """The mask does not require a gradient, even if the scores do."""
        scores, lengths = draw.normal(3, 2, 5, 7).requires_grad_(), draw.integers(1, 7, 3)

        def probe(m):
            mask = m.mask_like_scores(scores, lengths)
            return mask, mask.requires_grad

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after the call what it was before, under no_grad, too."""
        scores, lengths = draw.normal(3, 2, 5, 7), draw.integers(1, 7, 3)

        def probe(m):
            with torch.set_grad_enabled(recording):
                return m.mask_like_scores(scores, lengths, causal=True), torch.is_grad_enabled()

        agree(probe, rtol=0, atol=0)

    def test_lengths_of_another_shape_raise(self, agree, draw):
        """Lengths that are not (B,) are a ValueError, also where they would broadcast."""
        scores, lengths = draw.normal(3, 2, 5, 7), draw.integers(1, 7, 3)

        def probe(m):
            bad = [(scores, b) for b in (lengths[:1], lengths[:2], lengths[:, None], lengths[0])] + [(scores[:1], lengths)]
            return [raised(ValueError, lambda b=b: m.mask_like_scores(*b)) for b in bad], m.mask_like_scores(scores, lengths)

        agree(probe, rtol=0, atol=0)


def standardizer(m, mean, std):
    """The student's module with these statistics."""
    module = m.Standardize(len(mean))
    module.load_state_dict({"mean": mean, "std": std})
    return module


def spread(draw, B, C, H, W):
    """Images whose channel c has a mean of about c and a standard deviation of about 1 + c / 2, never a tiny one."""
    sign = 1 - 2 * (torch.arange(B * H * W) % 2).reshape(B, 1, H, W)
    channel = torch.arange(C)[:, None, None]
    return (sign + draw.uniform(B, C, H, W, low=-0.5, high=0.5)) * (1 + channel / 2) + channel


@task("Standardize")
class TestStandardize:
    @pytest.mark.parametrize("device", REAL)
    def test_formula(self, agree, draw, device):
        """Each channel by its own mean and std, on any device."""
        x, mean, std = draw.normal(2, 3, 5, 7), draw.normal(3), draw.uniform(3, low=0.5, high=2)

        def probe(m):
            y = standardizer(m, mean, std).to(device)(x.to(device))
            return y, y.device.type

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_far_from_the_mean(self, agree, draw):
        """Entries that are thousands of standard deviations away from the mean give numbers as large."""
        x, mean, std = draw.magnitudes(2, 3, 5, 7, low=1e-3, high=1e6), draw.normal(3), draw.uniform(3, low=0.01, high=0.1)
        agree(lambda m: standardizer(m, mean, std)(x), rtol=1e-5, atol=1e-4)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after fit what it was before, under no_grad, too."""
        x = draw.normal(2, 3, 5, 7)

        def probe(m):
            with torch.set_grad_enabled(recording):
                module = m.Standardize(3).fit(x)
                return module.mean, module.std, torch.is_grad_enabled()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_starts_with_mean_0_and_std_1(self, agree, draw):
        """A fresh module changes nothing, and its state_dict holds the two buffers in order."""
        x = draw.normal(2, 5, 3, 7)

        def probe(m):
            module = m.Standardize(5)
            return module(x), list(module.state_dict()), module.state_dict()

        agree(probe, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("shape", [*with_ones(2, 3, 5, 7), (5, 2, 7, 3), (1, 3, 1, 1)], ids=str)
    def test_fit(self, agree, draw, shape):
        """Mean and std over samples, rows and columns, the variance divided by n."""
        x = spread(draw, *shape)

        def probe(m):
            module = m.Standardize(shape[1])
            module.fit(x)
            return module.mean, module.std, module(x)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_fit_of_a_constant_channel(self, agree, draw):
        """A channel of equal entries has std 1, also where rounding gives another: its output is 0."""
        x = draw.normal(5, 3, 3, 7)
        x[:, 1], x[:, 2] = 0.1, draw.uniform(1, low=1, high=99)

        def probe(m):
            seen = []
            for images in (x, x[:1, :, :, :3], x[:1, 1:2, :, :3], x.double()):
                module = m.Standardize(images.shape[1]).to(images.dtype).fit(images)
                seen.append((module.mean, module.std, module(images)))
            return seen

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 0.1), (torch.float32, 1e-3), (F64, 1e-6)], ids=str)
    def test_fit_of_small_differences(self, agree, draw, dtype, width):
        """1000 ± a little is told from 1000 as far as the buffers' dtype can tell; a small std is kept."""
        x = draw.normal(2, 3, 5, 7, dtype=dtype) * width
        x[:, 0] += 1000 if width != 1e-3 else 0

        def probe(m):
            module = m.Standardize(3).to(dtype).fit(x)
            return module.std / width, module(x)

        agree(probe, rtol=1e-2, atol=1e-2)

    @measured("flags, object identity")
    def test_statistics_are_buffers_and_no_parameters(self, agree, draw):
        """`mean` and `std` are registered as buffers, which stay the same tensors, and no optimizer finds them."""
        x, mean = draw.normal(2, 3, 5, 7), draw.normal(3)

        def probe(m):
            module = m.Standardize(3)
            first = dict(module.named_buffers())
            module.fit(x)
            module.load_state_dict({**module.state_dict(), "mean": mean})
            module.eval()(x)
            buffers = dict(module.named_buffers())
            same = [buffers[name] is buffer for name, buffer in first.items()]
            return buffers, same, [name for name, _ in module.named_parameters()], [b.requires_grad for b in buffers.values()]

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_moves_to_meta_with_the_module(self, agree, draw):
        """module.to moves the statistics, and the output is where they are."""
        x, mean, std = draw.normal(2, 3, 5, 7), draw.normal(3), draw.uniform(3, low=0.5, high=2)

        def probe(m):
            model = nn.Sequential(standardizer(m, mean, std), nn.Flatten())
            here = model(x)
            model.to("meta")
            return here, attempt(lambda: (model(x.to("meta")), model[0].mean, model[0].std, model[0].fit(x.to("meta")).mean))

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", [F64, torch.bfloat16], ids=str)
    def test_dtype_of_the_buffers_decides(self, agree, draw, dtype):
        """module.double() and the like cast the statistics, and the output with them, for x of any dtype."""
        x, mean, std = draw.normal(2, 3, 5, 7, dtype=F64), draw.normal(3), draw.uniform(3, low=0.5, high=2)

        def probe(m):
            module = standardizer(m, mean, std).to(dtype)
            return module(x.half()), module(x), module.mean, module.std

        tolerance = {F64: 1e-9, torch.bfloat16: 0.15}[dtype]  # bfloat16: three roundings of numbers up to 15
        agree(probe, rtol=min(tolerance, 0.03), atol=tolerance)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_do_not_matter(self, agree, draw, layout):
        """Images may be transposed, a slice or expanded, for fit and for forward."""
        x = draw.normal(4, 3, 5, 7, layout=layout)

        def probe(m):
            module = m.Standardize(3)
            return module.fit(x)(x), module.mean, module.std

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("object identity")
    def test_fit_writes_in_place(self, agree, draw):
        """The buffers stay the same tensors, of the same dtype, also for x of another."""
        x = draw.normal(2, 3, 5, 7)

        def probe(m):
            seen = []
            for dtype, other in [(F64, torch.float32), (torch.float32, F64)]:
                module = m.Standardize(3).to(dtype)
                mean, std = module.mean, module.std
                module.fit(x.to(other))
                seen.append((module.mean is mean, module.std is std, mean, std))
            return seen

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags, object identity")
    def test_fit_gives_the_module_and_leaves_no_graph(self, agree, draw):
        """What fit returns is the module; the statistics are no part of a graph."""
        x = draw.normal(2, 3, 5, 7).requires_grad_()

        def probe(m):
            module = m.Standardize(3)
            same = module.fit(x) is module
            return same, module.mean, module.mean.requires_grad, module.std.requires_grad

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_bytes_and_half_precision(self, agree, draw):
        """uint8 doesn't wrap around and isn't divided by 255; float16 neither overflows nor rounds the statistics."""
        x = draw.integers(0, 256, 3, 2, 5, 7).to(torch.uint8)

        def probe(m):
            out = []
            for images in (x, x.half() * 8):
                module = m.Standardize(2).fit(images)
                out.append((module.mean, module.std, module(images)))
            return out

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_a_broken_channel_breaks_no_other(self, agree, draw):
        """A NaN gets into the statistics and the output of its own channel, and of no other."""
        x = draw.normal(2, 3, 5, 7)
        x[0, 1, 2, 3] = torch.nan

        def probe(m):
            fresh, module = m.Standardize(3), m.Standardize(3).fit(x)
            return module.mean, module.std, module(x), fresh(x)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_gradient_of_x(self, agree, draw):
        """The gradient of x is that of y, divided by std, in train and eval mode; the statistics get none."""
        x, w = draw.normal(2, 3, 5, 7), draw.normal(2, 3, 5, 7)
        mean, std = draw.normal(3), draw.uniform(3, low=0.5, high=2)

        def probe(m):
            module, image = standardizer(m, mean, std), leaf(x)
            (module(image) * w).sum().backward()
            (module.eval()(image) * w * 2).sum().backward()
            return image.grad, module.mean.grad, module.std.grad

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_state_dict_round_trip(self, agree, draw):
        """Another module that loads the state_dict does the same, in eval mode too; a second fit starts anew."""
        x = draw.normal(2, 3, 5, 7) * 3 + 1

        def probe(m):
            first, second = m.Standardize(3), m.Standardize(3)
            first.fit(x)
            second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
            first.fit(x + 5)
            return second(x), second.eval()(x), first(x)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_forward_goes_by_the_buffers(self, agree, draw):
        """What is loaded or written into the buffers counts from then on, also after a fit and a forward."""
        x, mean, std = draw.normal(2, 3, 5, 7), draw.normal(3), draw.uniform(3, low=0.5, high=2)

        def probe(m):
            module = m.Standardize(3).fit(x)
            out = [module(x)]
            module.load_state_dict({"mean": mean, "std": std})
            out.append(module(x))
            module.mean.add_(1)
            out.append(module(x))
            module.std.mul_(2)
            return [*out, module(x)]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_other_shapes_raise(self, agree, draw):
        """One channel instead of three, or three dimensions, are a ValueError, and leave the statistics alone."""
        x = draw.normal(2, 3, 5, 7)

        def probe(m):
            module = m.Standardize(3)
            module.fit(x)
            bad = [x[:, :1], x[:, :2], x[0], x.movedim(1, 3), x[:, :, :, :3].transpose(1, 3)[:, :, 0], x[None]]
            endings = [raised(ValueError, lambda b=b, f=f: f(b)) for f in (module, module.fit) for b in bad]
            narrow = m.Standardize(1)
            endings += [raised(ValueError, lambda f=f: f(x)) for f in (narrow, narrow.fit)]
            return endings, narrow.mean, narrow.std, module.mean, module.std, module(x)

        agree(probe, rtol=1e-4, atol=1e-4)


def counted(m, *args):
    """What module_memory says, as plain dicts: a Counter or a defaultdict is as good."""
    return {kind: dict(counts) for kind, counts in m.module_memory(*args).items()}


@task("module_memory")
class TestModuleMemory:
    def test_parameters_by_dtype(self, agree, draw):
        """Trained and frozen parameters, float32 and float16, each by its dtype."""
        i, o = draw.integer(2, 50), draw.integer(2, 50)

        def probe(m):
            model = nn.Sequential(nn.Linear(i, o).half(), nn.LayerNorm(o), nn.Linear(o, 3))
            model[2].requires_grad_(False)
            return counted(m, model)

        agree(probe, rtol=0, atol=0)

    def test_buffers(self, agree, draw):
        """Buffers of every dtype, at any depth, the ones that are not saved too."""
        c, n = draw.integer(2, 50), draw.integer(2, 50)
        model = nn.Sequential(nn.BatchNorm1d(c), nn.Sequential(nn.ReLU(), nn.Sequential(nn.BatchNorm1d(c, affine=False).double().eval())))
        model[1][0].register_buffer("mask", torch.ones(n, n, dtype=torch.bool), persistent=False)
        for i, dtype in enumerate([torch.uint8, torch.int16, torch.bfloat16, torch.complex64]):
            model.register_buffer(f"other{i}", torch.zeros(n + i, dtype=dtype))
        agree(lambda m: counted(m, model), rtol=0, atol=0)

    def test_views_count_by_their_entries(self, agree, draw):
        """A part of a larger memory, an expanded tensor and two views of one memory each count numel · element_size."""
        n = draw.integer(2, 50)

        def probe(m):
            memory = torch.zeros(3, n + 1)
            part, whole, expanded = nn.ReLU(), nn.ReLU(), nn.ReLU()
            part.register_buffer("part", memory[:, :n])
            whole.register_buffer("first", memory[:2])
            whole.register_buffer("all", memory.T)
            expanded.register_buffer("row", torch.zeros(1, n, dtype=F64).expand(n, n))
            return [counted(m, module) for module in (part, whole, expanded)]

        agree(probe, rtol=0, atol=0)

    def test_gradients_where_there_are_some(self, agree, draw):
        """Only parameters with a gradient count under "gradients", frozen ones too; the gradients stay."""
        i, o = draw.integer(2, 50), draw.integer(2, 50)

        def probe(m):
            model = nn.Sequential(nn.Linear(i, o), nn.Linear(o, 3).double())
            model[0](torch.ones(2, i)).sum().backward()
            model[0].bias.grad = None
            first = counted(m, model)
            model[1](torch.ones(2, o, dtype=F64)).sum().backward()
            model[1].weight.requires_grad_(False)
            return first, counted(m, model), [p.grad is None for p in model.parameters()]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("device", REAL)
    @pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
    def test_states_of_the_optimizer(self, agree, draw, name, device):
        """What Adam (with its steps) and SGD with momentum remember of each parameter."""
        i, o = draw.integer(2, 50), draw.integer(2, 50)

        def probe(m):
            model = nn.Sequential(nn.Linear(i, o), nn.Linear(o, 3).double()).to(device)
            options = {"momentum": 0.9} if name == "SGD" else {"amsgrad": name == "AdamW"}
            optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **options)
            model[0](torch.ones(2, i, device=device)).sum().backward()
            before = counted(m, model, optimizer)
            optimizer.step()
            return before, counted(m, model, optimizer)

        agree(probe, rtol=0, atol=0)

    def test_shared_ones_count_once(self, agree, draw):
        """A tied weight and a module that is used twice count once, with gradient and state."""
        v, d = draw.integer(2, 50), draw.integer(2, 50)

        def probe(m):
            norm = nn.BatchNorm1d(d)
            model = nn.Sequential(nn.Embedding(v, d), norm, nn.Linear(d, d), norm, nn.Linear(d, v, bias=False))
            model[4].weight = model[0].weight
            optimizer = torch.optim.Adam(model.parameters())
            model(torch.arange(v)).square().sum().backward()
            optimizer.step()
            return counted(m, model, optimizer)

        agree(probe, rtol=0, atol=0)

    def test_states_of_other_parameters_do_not_count(self, agree, draw):
        """Of an optimizer for two modules, the states of this one's parameters count."""
        i, o = draw.integer(2, 50), draw.integer(2, 50)

        def probe(m):
            model = nn.Sequential(nn.Linear(i, o), nn.Linear(o, i, bias=False))
            optimizer = torch.optim.Adam(model.parameters())
            model(torch.ones(2, i)).sum().backward()
            optimizer.step()
            return [counted(m, module, optimizer) for module in (model[0], model[1], model)]

        agree(probe, rtol=0, atol=0)

    def test_values_that_are_no_tensors_count_nothing(self, agree, draw):
        """Numbers, None and lists among an optimizer's states take no tensor's bytes."""
        i = draw.integer(2, 50)

        def probe(m):
            layer = nn.Linear(i, 3)
            optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            others = {"step": 7, "rate": 0.5, "none": None, "list": [torch.zeros(3)]}
            optimizer.state[layer.weight] = {**others, "sums": torch.zeros(i, dtype=torch.float16)}
            return counted(m, layer, optimizer)

        agree(probe, rtol=0, atol=0)

    def test_the_optimizer_is_not_changed(self, agree, draw):
        """Looking at a parameter that has no state yet doesn't give it one."""
        i = draw.integer(2, 50)

        def probe(m):
            layer, other = nn.Linear(i, 3), nn.Linear(3, i)
            optimizer = torch.optim.Adam([*layer.parameters(), *other.parameters()])
            layer(torch.ones(2, i)).sum().backward()
            optimizer.step()
            return counted(m, nn.Sequential(layer, other), optimizer), len(optimizer.state)

        agree(probe, rtol=0, atol=0)

    def test_a_model_without_memory_on_meta(self, agree, draw):
        """40 GB and more can be counted before there is memory for them."""
        n = draw.integer(100_000, 110_000)

        def probe(m):
            model = nn.Sequential(nn.Linear(n, n, device="meta"), nn.BatchNorm1d(n, device="meta").half())
            model[0].weight.grad = torch.empty(n, n, device="meta")
            return counted(m, model)

        agree(probe, rtol=0, atol=0)

    def test_kinds_without_tensors_are_empty(self, agree, draw):
        """A module without tensors has four empty kinds; a tensor without entries is one all the same, of 0 bytes."""
        only_buffer, empty = nn.ReLU(), nn.ReLU()
        only_buffer.register_buffer("steps", torch.zeros(draw.integer(2, 50), dtype=torch.int64))
        empty.weight = nn.Parameter(torch.zeros(0, draw.integer(2, 50)))
        agree(lambda m: [counted(m, module) for module in (nn.ReLU(), only_buffer, empty)], rtol=0, atol=0)


class Witness(nn.Module):
    """A product and a sum, and a word to `tell` on what they were like."""

    def __init__(self, weight, offset, tell):
        super().__init__()
        self.weight, self.offset, self.tell = nn.Parameter(weight.clone()), nn.Parameter(offset.clone()), tell

    def forward(self, x):
        product = x @ self.weight
        total = product + self.offset
        self.tell([product.dtype, total.dtype, self.weight.dtype, self.offset.dtype])
        return total


class Posing(Tensor):
    """A tensor on the CPU that says that it is on a GPU, to see what is chosen for one; `as_subclass(Tensor)` is its honest self."""

    device = property(lambda self: torch.device("cuda", 0))
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)


class PosingElsewhere(Tensor):
    """A tensor on the CPU that says that it is on another device, one that autocast knows."""

    device = property(lambda self: torch.device("mps", 0))
    is_cpu = property(lambda self: False)


class Chooser(nn.Module):
    """A layer for posing inputs, and a word to `tell` on the dtype chosen for CUDA and on whether autocast is on for the CPU."""

    def __init__(self, weight, tell):
        super().__init__()
        self.weight, self.tell = nn.Parameter(weight.clone()), tell

    def forward(self, x):
        self.tell((torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cpu")))
        return x.as_subclass(Tensor) @ self.weight


def autocast_state(device="cpu"):
    """Whether autocast is on, and the dtype if it is."""
    on = torch.is_autocast_enabled(device)
    return on, torch.get_autocast_dtype(device) if on else None


@task("autocast_forward")
class TestAutocastForward:
    @measured("calls")
    @pytest.mark.parametrize("device", REAL)
    def test_products_in_16_bits_and_sums_in_32(self, agree, draw, device):
        """A product is 16 bits wide, adding a float32 parameter is not, and the parameters are float32 all the while."""
        x, weight, offset = draw.normal(3, 7), draw.normal(7, 11), draw.uniform(11, low=1000, high=2000)

        def probe(m):
            seen = []
            out = m.autocast_forward(Witness(weight, offset, seen.append).to(device), x.to(device))
            return seen, out, out.device.type

        agree(probe, rtol=0, atol=0.2)

    def test_the_output_is_float32(self, agree, draw):
        """A last layer's 16 bits come back as float32, with the values that bfloat16 can hold, for x of any shape."""
        inputs = [draw.normal(5, 7, layout="transposed"), draw.normal(7), draw.normal(2, 1, 3, 7, layout="expanded")]
        layer = linear(draw.normal(3, 7), draw.normal(3))

        def probe(m):
            outputs = [m.autocast_forward(layer, x) for x in inputs]
            return outputs, [out.equal(out.bfloat16().float()) for out in outputs]

        agree(probe, rtol=0.02, atol=0.05)

    @measured("memory, object identity")
    def test_the_parameters_are_not_touched(self, agree, draw):
        """The same parameters, dtypes and values as before."""
        x, layer = draw.normal(5, 7), linear(draw.normal(3, 7), draw.normal(3))

        def probe(m):
            before = identities([layer])
            out = m.autocast_forward(layer, x)
            return untouched(before, [layer]), layer.state_dict(), out

        agree(probe, rtol=0.02, atol=0.05)

    @pytest.mark.parametrize("device", REAL)
    def test_gradients_arrive_in_float32(self, agree, draw, device):
        """The way back from the output reaches the parameters and x, in float32."""
        x, weight, offset, w = draw.normal(3, 7), draw.normal(7, 5), draw.normal(5), draw.normal(3, 5)

        def probe(m):
            model, image = Witness(weight, offset, lambda seen: None).to(device), leaf(x.to(device))
            (m.autocast_forward(model, image) * w.to(device)).sum().backward()
            return image.grad, model.weight.grad, model.offset.grad

        agree(probe, rtol=0.03, atol=0.1)

    def test_modes_are_those_of_the_layers(self, agree, draw):
        """The model is called once, with each layer in the mode (train or eval) that it has."""
        x, model = draw.normal(11, 7), nn.Sequential(linear(draw.normal(3, 7), draw.normal(3)), nn.Dropout(0.5), nn.BatchNorm1d(3))
        model[2].eval()
        agree(lambda m: m.autocast_forward(model, x), rtol=0.02, atol=0.1)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_casts_of_the_caller(self, agree, draw, dtype):
        """Weights that the caller's autocast has cast, in another dtype or without a graph, are cast anew, and the caller goes on."""
        x, layer = draw.normal(5, 7), linear(draw.normal(3, 7), draw.normal(3))

        def probe(m):
            with torch.autocast("cpu", dtype=dtype):
                with torch.no_grad():
                    layer(x)  # autocast keeps the casts of the weights
                out = m.autocast_forward(layer, x)
                after = layer(x)
            out.sum().backward()
            return out, after, layer.weight.grad, layer.bias.grad

        agree(probe, rtol=0.02, atol=0.1)

    @measured("calls, flags")
    @pytest.mark.parametrize("outside", ["off", "float16", "bfloat16", "disabled"])
    def test_autocast_is_as_before(self, agree, draw, outside):
        """Off where it was off, on with the caller's dtype where it was on; and the model sees no difference."""
        x, weight, offset = draw.normal(3, 7), draw.normal(7, 5), draw.normal(5)

        def probe(m):
            seen = []
            model = Witness(weight, offset, seen.append)
            if outside == "off":
                out = m.autocast_forward(model, x)
                return seen, autocast_state(), torch.is_autocast_cache_enabled(), out
            dtype = torch.float16 if outside == "float16" else torch.bfloat16
            with torch.autocast("cpu", dtype=dtype, enabled=outside != "disabled"):
                out = m.autocast_forward(model, x)
                inside = autocast_state()
                with torch.no_grad():
                    graph = m.autocast_forward(model, x).requires_grad
            return seen, inside, autocast_state(), torch.is_autocast_cache_enabled(), graph, out

        agree(probe, rtol=0.02, atol=0.1)

    @measured("flags")
    def test_an_error_of_the_model_is_passed_on(self, agree, draw):
        """The error comes out, and autocast is as it was: off, or on with the caller's dtype."""
        x, weight, offset = draw.normal(3, 7), draw.normal(7, 5), draw.normal(5)

        def probe(m):
            def fail(seen):
                raise KeyError("of the model")

            endings = [raised(KeyError, lambda: m.autocast_forward(Witness(weight, offset, fail), x))]
            states = [autocast_state()]
            with torch.autocast("cpu", dtype=torch.float16):
                endings.append(raised(KeyError, lambda: m.autocast_forward(Witness(weight, offset, fail), x)))
                states.append(autocast_state())
            return endings, states, m.autocast_forward(Witness(weight, offset, lambda seen: None), x)

        agree(probe, rtol=0.02, atol=0.1)

    @measured("calls, flags")
    def test_float16_on_cuda(self, agree, draw):
        """For an x that says that it is on a GPU, autocast is set for "cuda" with float16, and not for the CPU."""
        x, weight = draw.normal(3, 7), draw.normal(7, 5)

        def probe(m):
            seen = []
            with warnings.catch_warnings(action="ignore"):  # torch says that there is no CUDA
                out = m.autocast_forward(Chooser(weight, seen.append), x.as_subclass(Posing))
            return seen, out, torch.is_autocast_enabled("cpu")

        agree(probe, rtol=0.02, atol=0.1)

    @measured("calls")
    def test_another_device_raises(self, agree, draw):
        """The device of x decides: anywhere but on "cpu" and "cuda" there is a ValueError, and the model isn't called."""
        x, weight, offset = draw.normal(3, 7), draw.normal(7, 5), draw.normal(5)

        def probe(m):
            seen = []
            model = Witness(weight, offset, seen.append)
            there = Witness(weight, offset, seen.append).to("meta")
            cases = [(there, x.to("meta")), (model, x.as_subclass(PosingElsewhere))]
            endings = [raised(ValueError, lambda case=case: m.autocast_forward(*case)) for case in cases]
            return endings, len(seen), m.autocast_forward(model, x)

        agree(probe, rtol=0.02, atol=0.1)


SHAPES = [(7, 5), (7,), (3, 7), (3,)]


def two_layers(parameters, device="cpu"):
    """Linear, tanh, linear."""
    w1, b1, w2, b2 = parameters
    return nn.Sequential(linear(w1, b1), nn.Tanh(), linear(w2, b2)).to(device)


def squared_error(out, y):
    """The mean squared error, in float32."""
    return (out.float() - y).square().mean()


def large_error(out, y):
    """A loss whose gradients overflow when they are scaled by 2**127."""
    return squared_error(out, y) * 1000


def problem(draw):
    """A batch, and parameters of two_layers."""
    return draw.normal(11, 5), draw.normal(11, 3) * 2, [draw.normal(*shape) for shape in SHAPES]


def changes(model, parameters):
    """What training has added to the parameters."""
    return [p.detach().cpu() - q for p, q in zip(model.parameters(), parameters, strict=True)]


@task("train_step_amp")
class TestTrainStepAmp:
    @pytest.mark.parametrize("device", REAL)
    def test_clips_the_true_gradients(self, agree, draw, device):
        """With lr 1 the update is the gradient, divided by the scale and clipped to max_norm; loss and norm are those before."""
        (x, y, parameters), scale = problem(draw), 2.0 ** draw.integer(4, 10)

        def probe(m):
            model = two_layers(parameters, device)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler(device, init_scale=scale)
            report = m.train_step_amp(model, x.to(device), y.to(device), squared_error, optimizer, scaler, 0.01)
            return report, [change * 100 for change in changes(model, parameters)]

        agree(probe, rtol=0.02, atol=0.02)

    def test_small_gradients_are_not_clipped(self, agree, draw):
        """A norm below max_norm leaves the gradients as they are, however large they are when scaled."""
        (x, y, parameters), scale = problem(draw), 2.0 ** draw.integer(15, 25)

        def probe(m):
            model = two_layers(parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            report = m.train_step_amp(model, x, y, squared_error, optimizer, scaler, 1000.0)
            return report, changes(model, parameters)

        agree(probe, rtol=0.02, atol=0.02)

    def test_several_steps(self, agree, draw):
        """Steps with momentum: old gradients are forgotten, also ones from before the first step."""
        x, y, parameters = problem(draw)

        def probe(m):
            model = two_layers(parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
            scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
            (squared_error(model(x), y) * 50).backward()
            reports = [m.train_step_amp(model, x, y, squared_error, optimizer, scaler, 1.0) for _ in range(4)]
            return reports, [change * 10 for change in changes(model, parameters)]

        agree(probe, rtol=0.02, atol=0.02)

    @pytest.mark.parametrize("device", REAL)
    def test_an_overflow_skips_the_step(self, agree, draw, device):
        """Gradients that overflow change no parameter and no state; the scale goes down and the next step is made."""
        x, y, parameters = problem(draw)

        def probe(m):
            model = two_layers(parameters, device)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
            scaler = torch.amp.GradScaler(device, init_scale=2.0**127, backoff_factor=2.0**-127)
            story = []
            for _ in range(2):
                report = m.train_step_amp(model, x.to(device), y.to(device), large_error, optimizer, scaler, 1.0)
                story.append((report["loss"], report["skipped"], scaler.get_scale(), len(optimizer.state), changes(model, parameters)))
            return story

        agree(probe, rtol=0.02, atol=0.02)

    @measured("hooks")
    @pytest.mark.parametrize("place", range(4))
    @pytest.mark.parametrize("bad", [torch.inf, torch.nan], ids=str)
    def test_one_broken_gradient_skips_the_step(self, agree, draw, place, bad):
        """A single parameter whose gradient is inf or NaN is enough, whichever it is: nothing is updated, and skipped is True."""
        x, y, parameters = problem(draw)

        def probe(m):
            model = two_layers(parameters)
            broken = list(model.parameters())[place].register_hook(lambda grad: torch.full_like(grad, bad))
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            story = []
            for _ in range(2):
                report = m.train_step_amp(model, x, y, squared_error, optimizer, scaler, 0.1)
                story.append((report["loss"], report["skipped"], scaler.get_scale(), changes(model, parameters)))
                broken.remove()
            return story

        agree(probe, rtol=0.02, atol=0.02)

    def test_settings_stay(self, agree, draw):
        """Learning rate and momentum are what they were, after a good step and after one that was skipped."""
        (x, y, parameters), lr = problem(draw), draw.uniform(1, low=0.01, high=0.1).item()

        def probe(m):
            model = two_layers(parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            story = []
            for batch in (x, x * torch.nan):
                report = m.train_step_amp(model, batch, y, squared_error, optimizer, scaler, 0.1)
                settings = [(group["lr"], group["momentum"]) for group in optimizer.param_groups]
                story.append((report["loss"], report["skipped"], settings))
            return story

        agree(probe, rtol=0.02, atol=0.002)

    def test_a_nan_skips_the_step(self, agree, draw):
        """A loss of NaN is reported, and does no harm to the parameters."""
        x, y, parameters = problem(draw)

        def probe(m):
            model = two_layers(parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            story = []
            for batch in (x, x * torch.nan, x):
                report = m.train_step_amp(model, batch, y, squared_error, optimizer, scaler, 0.1)
                story.append((report["loss"], report["skipped"], scaler.get_scale(), changes(model, parameters)))
            return story

        agree(probe, rtol=0.02, atol=0.02)

    def test_the_scale_adapts_once_a_step(self, agree, draw):
        """The scale grows after as many good steps as the scaler says."""
        (x, y, parameters), scale = problem(draw), 2.0 ** draw.integer(4, 9)

        def probe(m):
            model = two_layers(parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
            story = []
            for _ in range(7):
                report = m.train_step_amp(model, x, y, squared_error, optimizer, scaler, 1.0)
                story.append((scaler.get_scale(), report["skipped"], report["loss"]))
            return story

        agree(probe, rtol=0.02, atol=0.02)

    def test_a_scaler_that_is_switched_off(self, agree, draw):
        """With enabled=False the steps are made all the same, clipped and unscaled."""
        x, y, parameters = problem(draw)

        def probe(m):
            model = two_layers(parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler("cpu", enabled=False)
            reports = [m.train_step_amp(model, x, y, squared_error, optimizer, scaler, 0.1) for _ in range(2)]
            return reports, [change * 10 for change in changes(model, parameters)]

        agree(probe, rtol=0.02, atol=0.02)

    def test_a_scaler_that_is_off_skips_nothing(self, agree, draw):
        """A gradient of NaN then gets into the parameters, and the report doesn't say skipped."""
        x, y, parameters = problem(draw)

        def probe(m):
            model = two_layers(parameters)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler("cpu", enabled=False)
            reports = [m.train_step_amp(model, batch, y, squared_error, optimizer, scaler, 0.1) for batch in (x, x * torch.nan)]
            return [(report["loss"], report["skipped"]) for report in reports], changes(model, parameters)

        agree(probe, rtol=0.02, atol=0.02)

    def test_modes_are_those_of_the_layers(self, agree, draw):
        """A layer in eval mode stays so: it is the caller who calls model.train()."""
        x, y, (w1, b1, w2, b2) = problem(draw)
        model = nn.Sequential(linear(w1, b1), nn.Dropout(0.5).eval(), nn.Tanh(), linear(w2, b2))

        def probe(m):
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
            report = m.train_step_amp(model, x, y, squared_error, optimizer, scaler, 1.0)
            return report, changes(model, [w1, b1, w2, b2])

        agree(probe, rtol=0.02, atol=0.02)

    @measured("calls, flags, hooks")
    @pytest.mark.parametrize("device", REAL)
    def test_where_autocast_is_on(self, agree, draw, device):
        """Model and loss run under autocast in 16 bits, with float32 parameters; the way back and what follows don't."""
        x, y, parameters = problem(draw)

        def probe(m):
            model, seen = two_layers(parameters, device), []

            def look(module, args, out):
                seen.append(("layer", out.dtype, module.weight.dtype, autocast_state(device)))
                out.register_hook(lambda grad: seen.append(("backward", grad.dtype, autocast_state(device))))

            def loss_fn(out, target):
                seen.append(("loss", out.dtype, autocast_state(device)))
                return squared_error(out, target)

            model[0].register_forward_hook(look)
            model[2].register_forward_hook(look)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler(device, init_scale=64.0)
            report = m.train_step_amp(model, x.to(device), y.to(device), loss_fn, optimizer, scaler, 1000.0)
            return seen, autocast_state(device), [p.dtype for p in model.parameters()], report

        agree(probe, rtol=0.02, atol=0.02)

    @measured("calls, flags")
    def test_float16_on_cuda(self, agree, draw):
        """For an x that says that it is on a GPU, autocast is set for "cuda" with float16, and not for the CPU."""
        x, y, weight = draw.normal(11, 5), draw.normal(11, 3), draw.normal(5, 3)

        def probe(m):
            seen = []
            model = Chooser(weight, seen.append)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
            scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
            with warnings.catch_warnings(action="ignore"):  # torch says that there is no CUDA
                report = m.train_step_amp(model, x.as_subclass(Posing), y, squared_error, optimizer, scaler, 1.0)
            return seen, report, changes(model, [weight])

        agree(probe, rtol=0.02, atol=0.02)


class Centred(nn.Module):
    """A linear layer on what differs from the piece's own mean."""

    def __init__(self, weight, bias):
        super().__init__()
        self.inner = linear(weight, bias)
        self.register_buffer("shift", bias.clone() + 1, persistent=False)

    def forward(self, x):
        return self.inner(x - x.mean(0)) * self.shift


class Telling(Centred):
    """The same with a word to `tell` on each piece."""

    def __init__(self, weight, bias, tell):
        super().__init__(weight, bias)
        self.tell = tell

    def forward(self, x):
        self.tell((len(x), x.device.type, places(self), self.training, self.inner.training))
        return super().forward(x)


@task("data_parallel_forward")
class TestDataParallelForward:
    @measured("calls, flags")
    @pytest.mark.parametrize(("N", "count"), [(7, 3), (5, 4), (8, 2), (2, 3), (131, 6), (1, 2)])
    def test_each_piece_goes_through_the_model(self, agree, draw, N, count):
        """Pieces that differ by at most one sample, larger ones first, outputs in order. (The model centres each piece.)"""
        x, weight, bias = draw.normal(N, 5, dtype=F64), draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64)

        def probe(m):
            pieces = []
            out = m.data_parallel_forward(Telling(weight, bias, pieces.append), x, ["cpu"] * count)
            return out, sorted(size for size, *_ in pieces)

        agree(guarded(probe), rtol=1e-9, atol=1e-9)

    @measured("calls, flags")
    @pytest.mark.parametrize("N", [7, 1])
    @pytest.mark.parametrize("devices", [["meta", "cpu", "meta"], ["meta", "meta", "cpu"], ["meta"]])
    def test_pieces_on_several_devices(self, agree, draw, devices, N):
        """Each piece meets a model whose parameters and buffers are on the piece's device; all outputs go to the first one."""
        x, more, weight, bias = draw.normal(N, 5), draw.normal(5, 5), draw.normal(3, 5), draw.normal(3)

        def probe(m):
            pieces = []
            model = Telling(weight, bias, pieces.append)
            out = m.data_parallel_forward(model, x, [torch.device(device) for device in devices])
            return sorted(pieces), out, m.data_parallel_forward(model, more, ["cpu"] * len(devices))

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("memory, object identity")
    def test_the_model_stays_where_it_is(self, agree, draw):
        """Afterwards its parameters and buffers are the same tensors on the same device; it still runs there."""
        x, model, devices = draw.normal(7, 5), Centred(draw.normal(3, 5), draw.normal(3)), ["meta"] * 9

        def probe(m):
            before = identities([model])
            out = m.data_parallel_forward(model, x, devices)
            return untouched(before, [model]), places(model), out, m.data_parallel_forward(model, x, ["cpu", "cpu"])

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("memory, object identity")
    @pytest.mark.parametrize("size", [3, 2])
    def test_an_error_leaves_the_model(self, agree, draw, size):
        """An error of the model is passed on, in whichever piece it comes up; the model still has its own tensors."""
        x, weight, bias = draw.normal(7, 5), draw.normal(3, 5), draw.normal(3)

        def fail(seen):
            if seen[0] == size:
                raise KeyError("of the model")

        model = Telling(weight, bias, fail)

        def probe(m):
            before = identities([model])
            ending = raised(KeyError, lambda: m.data_parallel_forward(model, x, ["meta", "meta", "cpu"]))
            return ending, untouched(before, [model]), places(model), m.data_parallel_forward(model, x, ["cpu"])

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("count", [1, 3])
    def test_gradients_reach_the_model_and_x(self, agree, draw, count):
        """The model's own parameters get the sum of the gradients of all pieces, but for frozen ones, and x gets its own."""
        x, w = draw.normal(7, 5, dtype=F64).requires_grad_(), draw.normal(7, 3, dtype=F64)
        model = Centred(draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64))
        frozen = Centred(draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64))
        frozen.inner.bias.requires_grad_(False)

        def probe(m):
            for chosen in (model, frozen):
                (m.data_parallel_forward(chosen, x, ["cpu"] * count) * w).sum().backward()
            return [p.grad for p in (*model.parameters(), *frozen.parameters())], x.grad

        agree(guarded(probe), rtol=1e-9, atol=1e-9)

    @measured("hooks, object identity")
    def test_gradients_of_a_tied_weight(self, agree, draw):
        """A weight that two layers share is on the device in both places, and gets the gradients of both, from every piece."""
        x, w = draw.normal(7, 5, dtype=F64), draw.normal(7, 5, dtype=F64)
        weight, bias = draw.normal(5, 5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            model = nn.Sequential(linear(weight, bias), nn.Tanh(), linear(weight, bias))
            model[2].weight = model[0].weight
            out = m.data_parallel_forward(model, x, ["cpu", "cpu"])
            (out * w).sum().backward()
            grad, seen = model[0].weight.grad, []
            model[2].register_forward_pre_hook(lambda module, args: seen.append(places(module)))
            there = m.data_parallel_forward(model, x, ["meta"])
            return out.detach(), there, seen, grad, model[2].weight is model[0].weight

        agree(guarded(probe), rtol=1e-9, atol=1e-9)

    @measured("calls, flags")
    @pytest.mark.parametrize("training", [False, True])
    def test_copies_are_in_the_mode_of_the_model(self, agree, draw, training):
        """The layers are in train or eval mode as before, in each copy and afterwards; under no_grad there is no graph."""
        x, weight, bias = draw.normal(7, 5, dtype=F64), draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64)

        def probe(m):
            pieces = []
            model = Telling(weight, bias, pieces.append).train(training)
            model.inner.train(not training)
            out = m.data_parallel_forward(model, x, ["cpu", "cpu"])
            with torch.no_grad():
                graph = m.data_parallel_forward(model, x, ["cpu", "cpu"]).requires_grad
            return sorted(pieces), model.training, model.inner.training, graph, out

        agree(guarded(probe), rtol=1e-9, atol=1e-9)

    def test_model_and_input_may_be_elsewhere(self, agree, draw):
        """A model and an input that are on `meta` already, each with the other on the CPU or not, run on `meta`."""
        x, weight, bias = draw.normal(7, 5), draw.normal(3, 5), draw.normal(3)

        def probe(m):
            here, there = Centred(weight, bias), Centred(weight, bias).to("meta")
            devices, cases = ["meta", "meta"], ((here, x.to("meta")), (there, x), (there, x.to("meta")))
            away = [m.data_parallel_forward(model, z, devices) for model, z in cases]
            return away, m.data_parallel_forward(here, x, ["cpu", "cpu"])

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    def test_inputs_of_any_shape(self, agree, draw):
        """Only the first dimension is cut, whatever the strides, and an output may be one number a row."""
        x, y = draw.normal(5, 2, 3, 7, dtype=F64, layout="transposed"), draw.normal(5, 7, dtype=F64, layout="expanded")
        layer = linear(draw.normal(3, 7, dtype=F64), draw.normal(3, dtype=F64))
        numbers = nn.Sequential(linear(draw.normal(1, 7, dtype=F64), draw.normal(1, dtype=F64)), nn.Flatten(0))
        cases = [(layer, x), (numbers, y)]
        agree(lambda m: [m.data_parallel_forward(*case, ["cpu", "cpu"]) for case in cases], rtol=1e-9, atol=1e-9)

    def test_no_devices_raise(self, agree, draw):
        """An empty list is a ValueError."""
        x, weight, bias = draw.normal(7, 5), draw.normal(3, 5), draw.normal(3)

        def probe(m):
            model = Centred(weight, bias)
            return raised(ValueError, lambda: m.data_parallel_forward(model, x, [])), m.data_parallel_forward(model, x, ["cpu", "cpu"])

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("calls, flags")
    @pytest.mark.gpu
    def test_on_a_gpu_and_the_cpu(self, agree, draw):
        """The output is on the GPU, and gradients come back to the model on the CPU."""
        x, w = draw.normal(7, 5, dtype=F64), draw.normal(7, 3, dtype=F64)
        weight, bias = draw.normal(3, 5, dtype=F64), draw.normal(3, dtype=F64)

        def probe(m):
            pieces = []
            model, image = Telling(weight, bias, pieces.append), leaf(x)
            out = m.data_parallel_forward(model, image, ["cuda", "cpu", "cuda"])
            (out * w.to(out.device)).sum().backward()
            return out, out.device.type, sorted(pieces), [p.grad for p in model.parameters()], image.grad, places(model)

        agree(guarded(probe), rtol=1e-9, atol=1e-9)


STACK = {"w1": (7, 5), "b1": (7,), "mean": (7,), "w2": (11, 7), "b2": (11,), "w3": (3, 11), "b3": (3,)}


def stack(draw, dtype=torch.float32):
    """Parameters and statistics of the layers that `layers_of` builds."""
    drawn = {name: draw.normal(*shape, dtype=dtype) for name, shape in STACK.items()}
    return {**drawn, "var": draw.uniform(7, low=0.5, high=2, dtype=dtype)}


class Shift(nn.Module):
    """Adds a buffer that is not saved."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", value.clone(), persistent=False)

    def forward(self, x):
        return x + self.value


def layers_of(values):
    """Linear and tanh, batch norm in eval mode, linear, a shift with an unsaved buffer and a linear layer: four layers."""
    norm = nn.BatchNorm1d(7, dtype=values["mean"].dtype)
    norm.running_mean.copy_(values["mean"])
    norm.running_var.copy_(values["var"])
    return [
        nn.Sequential(linear(values["w1"], values["b1"]), nn.Tanh()),
        norm.eval(),
        linear(values["w2"], values["b2"]),
        nn.Sequential(Shift(values["b2"]), linear(values["w3"], values["b3"])),
    ]


@task("offload_forward")
class TestOffloadForward:
    @pytest.mark.parametrize("device", REAL)
    def test_layer_after_layer(self, agree, draw, device):
        """The output of all layers, buffers included, on the device."""
        layers, x = layers_of(stack(draw, F64)), draw.normal(2, 5, dtype=F64, layout="transposed")

        def probe(m):
            out = m.offload_forward(layers, x, device)
            return out, out.device.type

        agree(guarded(probe), rtol=1e-9, atol=1e-9)

    def test_on_meta(self, agree, draw):
        """Input and layers go to the device that is named, and the output stays there."""
        values, x = stack(draw), draw.normal(2, 5)
        devices = [torch.device("meta"), torch.device("cpu")]
        agree(guarded(lambda m: [m.offload_forward(layers_of(values), x, device) for device in devices]), rtol=1e-4, atol=1e-4)

    @measured("calls, hooks")
    def test_one_layer_at_a_time(self, agree, draw):
        """When a layer is called, all that it has is on the device, and all others are at home."""
        values, x = stack(draw), draw.normal(2, 5)

        def probe(m):
            layers, seen = layers_of(values), []
            for i, layer in enumerate(layers):
                layer.register_forward_pre_hook(
                    lambda module, args, i=i: seen.append(
                        (i, args[0].device.type, places(module), [places(other) for j, other in enumerate(layers) if j != i])
                    )
                )
            return m.offload_forward(layers, x, "meta"), m.offload_forward(layers, x, "cpu"), seen

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("calls, hooks, memory, modes")
    def test_other_layers_take_no_memory_there(self, agree, draw):
        """When a layer is called, no copy of an old or a coming layer's weight is held on the device, and in the end none at all."""
        values, x = stack(draw), draw.normal(2, 5)
        names = {values[name].numel() * 4: name for name in ("w1", "w2", "w3")}

        def probe(m):
            layers, seen = layers_of(values), []
            with Made() as made:
                for i, layer in enumerate(layers):
                    layer.register_forward_pre_hook(
                        lambda module, args, i=i: seen.append((i, sorted(names[size] for size in made.alive("meta") if size in names)))
                    )
                out = m.offload_forward(layers, x, "meta")
                left = sorted(names[size] for size in made.alive("meta") if size in names)
            return out, list(seen), left, m.offload_forward(layers, x, "cpu")

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("flags, memory, object identity")
    def test_everything_is_back_home(self, agree, draw):
        """Every parameter and buffer is the same object with the same memory, values, gradient and requires_grad."""
        values, x = stack(draw), draw.normal(2, 5)

        def probe(m):
            layers = layers_of(values)
            layers[2].weight.requires_grad_(False)
            layers[2].bias.grad = layers[2].bias.detach() * 2
            before = identities(layers)
            out = m.offload_forward(layers, x, "meta")
            states = [{**layer.state_dict()} for layer in layers]
            flags = [p.requires_grad for layer in layers for p in layer.parameters()]
            return untouched(before, layers), states, flags, layers[2].bias.grad, out

        agree(guarded(probe), rtol=0, atol=0)

    @measured("flags, hooks, memory, object identity")
    @pytest.mark.parametrize("place", [0, 2, 3])
    def test_an_error_leaves_everything_at_home(self, agree, draw, place):
        """The error is passed on; parameters and buffers are what they were, gradients can be recorded, and a second try works."""
        values, x = stack(draw), draw.normal(2, 5)

        def probe(m):
            layers = layers_of(values)
            before = identities(layers)

            def fail(module, args):
                raise KeyError("of a layer")

            handle = layers[place].register_forward_pre_hook(fail)
            ending = raised(KeyError, lambda: m.offload_forward(layers, x, "meta"))
            handle.remove()
            state = untouched(before, layers), [places(layer) for layer in layers], torch.is_grad_enabled()
            return ending, state, m.offload_forward(layers, x, "cpu")

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("calls, flags, hooks")
    @pytest.mark.parametrize("enabled", [True, False])
    def test_no_graph(self, agree, draw, enabled):
        """Gradients are off in the layers, and afterwards as they were before."""
        values, x = stack(draw), draw.normal(2, 5)

        def probe(m):
            layers, seen = layers_of(values), []
            layers[2].register_forward_pre_hook(lambda module, args: seen.append(torch.is_grad_enabled()))
            torch.set_grad_enabled(enabled)
            out = m.offload_forward(layers, leaf(x), "cpu")
            return seen, torch.is_grad_enabled(), out.requires_grad, out

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("memory, object identity")
    def test_a_layer_twice(self, agree, draw):
        """A layer may come again, and an nn.Sequential will do for a list."""
        values, x = stack(draw), draw.normal(2, 7)

        def probe(m):
            layer = nn.Sequential(linear(values["w2"], values["b2"]), nn.Tanh(), linear(values["w2"].T.contiguous(), values["b1"]))
            layers = nn.Sequential(layer, nn.ReLU(), layer)
            before = identities([layer])
            there = m.offload_forward(layers, x, "meta")
            return there, untouched(before, [layer]), m.offload_forward(layers, x, "cpu")

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    @measured("calls, hooks")
    def test_tied_weights(self, agree, draw):
        """A weight that is in two places of a layer, or in two layers, is on the device in both."""
        x, one, two, three = draw.normal(2, 5), *(linear(draw.normal(5, 5), draw.normal(5)) for _ in range(3))
        two.weight = three.weight = one.weight
        layers = [nn.Sequential(one, nn.Tanh(), two), three]

        def probe(m):
            seen = []
            for layer in (one, two, three):
                layer.register_forward_pre_hook(lambda module, args: seen.append(places(module)))
            return m.offload_forward(layers, x, "meta"), m.offload_forward(layers, x, "cpu"), seen

        agree(guarded(probe), rtol=1e-4, atol=1e-4)

    def test_no_layers(self, agree, draw):
        """Without layers, x itself goes to the device."""
        layers, x = layers_of(stack(draw))[:1], draw.normal(2, 5)
        cases = [([], "meta"), ([], "cpu"), (layers, "cpu")]
        agree(lambda m: [m.offload_forward(chosen, x, device) for chosen, device in cases], rtol=1e-4, atol=1e-4)

    @measured("memory")
    @pytest.mark.gpu
    def test_peak_on_a_gpu(self, agree, draw):
        """Of eight layers of 16 MiB, never more than two are on the GPU: one in use, and one on its way in or out."""
        x, n = draw.normal(2, 2048), 2048

        def probe(m):
            layers = [nn.Linear(n, n, bias=False) for _ in range(8)]
            for layer in layers:
                nn.init.eye_(layer.weight)
            torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")  # cuBLAS allocates its workspace now
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
            out = m.offload_forward(layers, x, "cuda")
            return out, out.device.type, torch.cuda.max_memory_allocated() - start < 2.5 * 4 * n * n, [places(layer) for layer in layers]

        agree(guarded(probe), rtol=1e-2, atol=1e-2)


@task("copy_async")
class TestCopyAsync:
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_without_a_stream_there_is_no_event(self, agree, draw, device):
        """To the CPU and to `meta` the function returns the copies and None, whatever it is given for a stream."""
        x, y = draw.normal(3, 5), draw.integers(0, 9, 7)

        def probe(m):
            first = m.copy_async({"x": x, "y": y}, device)
            second = m.copy_async([x, y], torch.device(device), stream=object())
            return first, second, type(first).__name__, m.copy_async([x, y], "cpu", stream=object())

        agree(probe, rtol=0, atol=0)

    def test_a_real_copy(self, agree, draw):
        """What is written into the sources later, or into the copies, doesn't reach the other: also on the same device."""
        x, y = draw.normal(3, 5), draw.integers(0, 9, 7)

        def probe(m):
            sources = x.clone(), (y.clone(), x.clone().T)
            result = m.copy_async(sources, "cpu")
            sources[0].zero_()
            sources[1][0].zero_()
            result[0][1][1].zero_()
            return result, sources[1][1]

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_nested_batches(self, agree, draw, device):
        """Dicts, lists and tuples come back as their kind, what is no tensor as it is; the given ones aren't changed."""
        x, y = draw.normal(3, 5), draw.integers(0, 9, 7)

        def probe(m):
            other = object()
            batch = {"b": [x, (y, "text", None)], "a": {"deep": ([x * 2],)}, 3: 7, "numbers": [3, 0], "info": {"name": ""}}
            copies, event = m.copy_async({**batch, "other": other}, device)
            new = [copies[key] is batch[key] for key in ("b", "a", "numbers", "info")]
            return copies.pop("other") is other, copies, list(copies), event, batch, new

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_everything_else_is_the_same_object(self, agree, draw, device):
        """What is no tensor, dict, list or tuple comes back as it is, such as a set, a read-only mapping or an object with a tensor."""
        x, number = draw.normal(3, 5), draw.integer(1, 99)

        def probe(m):
            batch = [number, object(), *[other for other in uncommon(x) if not isinstance(other, deque)]]  # torch's trees go through deques
            copies, _ = m.copy_async([*batch, x], device)
            return (
                {f"{i}, a {type(b).__name__}": a is b for i, (a, b) in enumerate(zip(copies, batch, strict=False))},
                copies[0],
                copies[-1],
            )

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_a_single_tensor(self, agree, draw, device):
        """A tensor alone is a batch too, of any shape, dtype and strides, and also if it is on the device already."""
        x, y = draw.normal(3, 5, dtype=F64), draw.bools(7)

        def probe(m):
            there = x.to(device)
            copy, _ = m.copy_async(there, device)
            out = [m.copy_async(tensor, device) for tensor in (x, x.T, x[:, ::2], x[0, 0], x[:0], y, x.half(), x[:1].expand(4, 5))]
            return out, copy, copy is there, m.copy_async(x, "cpu")

        agree(probe, rtol=0, atol=0)

    @measured("calls, memory, modes")
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_never_asynchronous_without_a_stream(self, agree, draw, device):
        """To the CPU or `meta`, no copy is made with non_blocking=True."""
        x, y = draw.normal(3, 5), draw.integers(0, 9, 7)

        def probe(m):
            with Made() as made:
                copies, event = m.copy_async({"x": x, "y": [y]}, device)
            if made.asynchronous:
                return "some copy with non_blocking=True"
            return copies, event, m.copy_async({"x": x, "y": [y]}, "cpu")

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_a_tensor_in_several_places_is_sent_once(self, agree, draw, device):
        """Its places share one copy; different tensors don't, equal ones or parts of one another."""
        x, y = draw.normal(3, 5), draw.integers(0, 9, 7)

        def probe(m):
            twin = x.clone()
            copies, _ = m.copy_async({"a": x, "b": [y, (x, twin)], "c": y, "parts of x": [x.T, x[:2], x[1:], x[:0], y[:0]]}, device)
            same = copies["a"] is copies["b"][1][0], copies["c"] is copies["b"][0], copies["a"] is copies["b"][1][1]
            again, _ = m.copy_async(x, device)
            return same, copies, again is copies["a"], m.copy_async([x, (y, x)], "cpu")

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_plain_data(self, agree, draw, device):
        """Copies of parameters and of tensors with a graph require no gradient."""
        x = draw.normal(3, 5)

        def probe(m):
            p = nn.Parameter(x)
            copies, _ = m.copy_async([p, p * 2, x], device)
            flags = [copy.requires_grad for copy in copies], p.requires_grad, torch.is_grad_enabled()
            return copies, flags, m.copy_async([p, p * 2], "cpu")

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    @pytest.mark.gpu
    @pytest.mark.parametrize("pinned", [False, True])
    def test_gpu_copies_arrive_with_the_event(self, agree, draw, pinned):
        """A CUDA event comes back; after it the copies are there, on the device, once for a tensor in two places."""
        x, y = draw.normal(300, 500), draw.integers(0, 9, 7)

        def probe(m):
            source = x.pin_memory() if pinned else x
            copies, event = m.copy_async({"x": source, "more": [y, source]}, "cuda")
            event.synchronize()
            return copies, copies["x"].device.type, isinstance(event, torch.cuda.Event), copies["more"][1] is copies["x"]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.gpu
    def test_gpu_copies_are_on_the_stream(self, agree, draw):
        """The function doesn't wait for a busy stream, the current stream doesn't either, and the event waits for the copies."""
        x = draw.normal(300, 500)

        def probe(m):
            stream = torch.cuda.Stream()
            m.copy_async(x, "cuda", stream)[1].synchronize()  # what the first call prepares
            with torch.cuda.stream(stream):
                torch.cuda._sleep(4_000_000_000)  # about two seconds
            copies, event = m.copy_async(x, "cuda", stream)
            early = event.query()
            torch.cuda.current_stream().synchronize()
            still_early = event.query()
            torch.cuda.current_stream().wait_event(event)
            return early, still_early, copies * 2

        agree(probe, rtol=0, atol=0)

    @pytest.mark.gpu
    def test_gpu_sources_are_finished_first(self, agree, draw):
        """A source that the current stream is still writing is copied when it is written."""
        x = draw.normal(300, 500)

        def probe(m):
            source, result = torch.zeros(300, 500, device="cuda"), x.to("cuda")
            m.copy_async(source, "cuda")[1].synchronize()
            torch.cuda._sleep(500_000_000)
            source.copy_(result)
            copies, event = m.copy_async([source], "cuda")
            torch.cuda.current_stream().wait_event(event)
            out = copies[0].clone()
            source.zero_()
            return out, copies[0]

        agree(probe, rtol=0, atol=0)

    @measured("views")
    @pytest.mark.gpu
    def test_gpu_to_cpu_is_there_at_once(self, agree, draw):
        """A copy from the GPU to the CPU can be read when the function returns, and is in ordinary memory."""
        x = draw.normal(300, 500)

        def probe(m):
            source = x.to("cuda")
            torch.cuda._sleep(500_000_000)
            source.mul_(2)
            copies, event = m.copy_async([source], "cpu")
            return copies[0].clone(), event, copies[0].is_pinned()

        agree(probe, rtol=0, atol=0)
