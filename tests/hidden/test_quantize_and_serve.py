"""Hidden suite of the module quantize_and_serve."""

import base64
import itertools
import json
import math
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64


# train_sparse_digits


def some_digits(draw, digits, n=900, classes=10, size=(8, 8)):
    """So many images of some of the digits, whose names are drawn, and the held-out ones."""
    parts = digits.split(draw)
    names = torch.full((10,), -1)
    names[draw.permutation(10)[:classes]] = draw.permutation(classes)
    out = []
    for images, labels in (parts[:2], parts[2:]):
        labels = names[labels]
        images, labels = F.adaptive_avg_pool2d(images[labels >= 0], 8), labels[labels >= 0]
        if size != (8, 8):
            images = F.interpolate(images, size=size, mode="bilinear")
        out += [images[:n], labels[:n]]
    return out


def logits(weights, images):
    """What the statement's network says."""
    hidden = F.linear(images.flatten(1), weights["1.weight"], weights["1.bias"]).relu()
    return F.linear(hidden, weights["3.weight"], weights["3.bias"])


def right(weights, images, labels):
    """Share of the images that the network gets right."""
    return (logits(weights, images).argmax(1) == labels).double().mean().item()


def check_sparse(weights, D, classes, keep):
    """Assert that the weights have the form of the statement's network, and that few are not 0."""
    want = {"1.weight": (32, D), "1.bias": (32,), "3.weight": (classes, 32), "3.bias": (classes,)}
    form = isinstance(weights, dict) and {name: tuple(getattr(x, "shape", ())) for name, x in weights.items()} == want
    assert form, "The weights must have the names and shapes of the statement's network."
    assert all(x.dtype == torch.float32 for x in weights.values()), "The weights must be float32."
    assert all(x.isfinite().all() for x in weights.values()), "The weights must be finite."
    count = sum(int((weights[name] != 0).sum()) for name in ("1.weight", "3.weight"))
    assert count <= keep, f"{count} weights are not 0; keep is {keep}."


@task("train_sparse_digits")
class TestTrainSparseDigits:
    def test_reads_digits_with_few_weights(self, student, draw, digits):
        """With a sixth of the weights, 88 % of held-out digits are right, on average over two draws."""
        cases = [(some_digits(draw, digits), draw.integer(380, 421), draw.seed()) for _ in range(2)]
        given = [(case[0], case[1], keep, seed) for case, keep, seed in cases]

        def probe(m):
            return [m.train_sparse_digits(x, y, classes=10, keep=keep, seed=seed) for x, y, keep, seed in given]

        got = student(probe, like=None)
        assert isinstance(got, list) and len(got) == 2, "It must return a state_dict."
        for weights, (_, keep, _) in zip(got, cases, strict=True):
            check_sparse(weights, 64, 10, keep)
        share = sum(right(weights, *case[2:]) for weights, (case, _, _) in zip(got, cases, strict=True)) / 2
        assert share >= 0.88, f"{share:.1%} of the held-out digits are right; 88 % are needed."

    @pytest.mark.parametrize("everything", [False, True])
    def test_other_numbers(self, student, draw, digits, everything):
        """Three classes, images of another size and layout, and as many weights as are asked for, or all."""
        images, labels, new_images, new_labels = some_digits(draw, digits, classes=3, size=(7, 9))
        images, seed = images.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0), draw.seed()
        keep = draw.integer(2112, 5000) if everything else draw.integer(340, 361)
        weights = student(lambda m: m.train_sparse_digits(images, labels, classes=3, keep=keep, seed=seed), like=None)
        check_sparse(weights, 63, 3, keep)
        share = right(weights, new_images, new_labels)
        assert share >= 0.88, f"{share:.1%} of the held-out digits are right; with three classes, 88 % are needed."
        zeros = sum(int((weights[name] == 0).sum()) for name in ("1.weight", "3.weight"))
        assert zeros < 300 or not everything, f"{zeros} weights are 0, although none has to be."

    def test_seed_decides(self, student, draw, digits):
        """The same seed gives the same weights whatever the global state is; for weights that have learnt."""
        images, labels, new_images, new_labels = some_digits(draw, digits, n=300)
        seed, states = draw.seed(), (draw.seed(), draw.seed())

        def probe(m):
            out = []
            for state in states:
                torch.manual_seed(state)
                weights = m.train_sparse_digits(images, labels, classes=10, keep=600, seed=seed)
                out.append({name: value.detach().clone() for name, value in weights.items()})
            return out

        got = student(probe, like=None)
        for weights in got:
            check_sparse(weights, 64, 10, 600)
        share = right(got[0], new_images, new_labels)
        assert share >= 0.6, f"The seed counts only for weights that have learnt: {share:.1%} of the held-out digits are right."
        same = all(torch.allclose(got[0][name], got[1][name], rtol=1e-3, atol=1e-4) for name in got[0])
        assert same, "The same seed must give the same weights, whatever was drawn from global generators before."


# quantize_weights


def exact(draw, *shape, dtype=torch.float32, step=0.25, low=-12, high=12):
    """A weight whose scales are powers of two, and whose codes are whole numbers and a multiple of `step`: nothing is rounded before."""
    C = shape[0]
    codes = draw.integers(-126, 127, *shape).to(F64) + step * draw.integers(0, round(1 / step), *shape)
    rows = codes.flatten(1)
    rows[torch.arange(C), draw.integers(0, rows.shape[1], C)] = 127.0 * (1 - 2 * draw.integers(0, 2, C)).to(F64)
    scales = torch.exp2(draw.integers(low, high, C).to(F64))
    return (rows * scales[:, None]).view(shape).to(dtype)


def check_close(got, weights):
    """Assert that every weight comes back within half a scale, and that the scales are right."""
    for name, w in weights.items():
        rows, q, scale = w.detach().to(F64).flatten(1), got[name].to(F64).flatten(1), got[f"{name}.scale"].to(F64)
        due = rows.abs().amax(1) / 127
        due = due.masked_fill(due == 0, 1.0)
        off = (scale / due - 1).abs().max().item()
        assert off < 1e-5, f"{name}: a scale is off by {off:.2g} of its size."
        assert q.abs().max() <= 127, f"{name}: a code is {int(q.abs().max())} in size, and 127 is the largest."
        error = ((q * scale[:, None] - rows).abs() / scale[:, None]).max().item()
        assert error < 0.5002, f"{name}: a weight comes back {error:.4f} scales off; half a scale is allowed."


@task("quantize_weights")
class TestQuantizeWeights:
    @pytest.mark.parametrize("shape", [(7, 5), (5, 3, 2), (3, 2, 5, 7), (2, 3, 1, 2, 3)])
    def test_codes_and_scales(self, agree, draw, shape):
        """Each slice along the first dimension has its own scale, whatever the number of dimensions, and the name."""
        weights = {"a.weight": exact(draw, *shape), "b.bias": exact(draw, *shape[::-1])}
        agree(lambda m: m.quantize_weights(weights), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_halves_to_even(self, agree, draw, dtype):
        """A weight in the middle of two codes gets the even one."""
        weights = {"w": exact(draw, 5, 37, dtype=dtype, step=0.5)}
        agree(lambda m: m.quantize_weights(weights), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, F64, torch.float16, torch.bfloat16])
    def test_every_dtype(self, student, draw, dtype):
        """Weights of any floating dtype come back within half a scale; scales are float32."""
        weights = {"a": draw.normal(13, 29, dtype=dtype), "b": draw.normal(11, 3, 5, dtype=dtype)}
        weights["a"][3] *= 0.01
        check_close(student(lambda m: m.quantize_weights(weights)), weights)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_exactly(self, agree, draw, dtype):
        """Where all is exact, half precision has the codes of full precision."""
        weights = {"w": exact(draw, 7, 19, dtype=dtype, step=0.5, low=-6, high=6), "b": draw.normal(7, dtype=dtype)}
        agree(lambda m: m.quantize_weights(weights), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_tiny_and_huge_channels(self, student, draw, dtype):
        """Channels may be of any size from 1e-30 to 1e30, side by side."""
        sizes = draw.magnitudes(17, low=1e-29, high=2e29, dtype=F64).abs()
        sizes[:2] = torch.tensor([1.1e-30, 9e29])
        rows = draw.uniform(17, 23, low=-1, high=1, dtype=F64)
        rows[:, draw.integer(0, 23)] = 1.0
        weights = {"w": (rows * sizes[:, None]).to(dtype)}
        check_close(student(lambda m: m.quantize_weights(weights)), weights)

    def test_channels_of_zeros(self, agree, draw):
        """A channel of zeros has the scale 1; zeros elsewhere stay 0."""
        w, conv = exact(draw, 7, 11), exact(draw, 5, 3, 2, 2)
        w[draw.permutation(7)[:2]] = 0.0
        w[3 + draw.integer(0, 2), 2:5] = -0.0
        conv[draw.integer(0, 5)] = 0.0
        weights = {"w": w, "conv": conv, "nothing": torch.zeros(3, 2, dtype=F64)}
        agree(lambda m: m.quantize_weights(weights), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("shape", with_ones(4, 3, 5))
    def test_sizes_of_one(self, agree, draw, shape):
        """Any size may be 1."""
        weights = {"w": exact(draw, *shape), "row": exact(draw, 1, 6), "column": exact(draw, 6, 1), "one": exact(draw, 1, 1)}
        agree(lambda m: m.quantize_weights(weights), rtol=1e-6, atol=0)

    def test_few_dimensions(self, agree, draw):
        """Floating tensors with one dimension or none come out as float32, and are not quantized."""
        dtypes = (torch.float32, F64, torch.float16, torch.bfloat16)
        weights = {f"bias{i}": draw.normal(5, dtype=dtype) for i, dtype in enumerate(dtypes)}
        weights |= {f"number{i}": draw.normal(dtype=dtype) for i, dtype in enumerate(dtypes)}
        agree(lambda m: m.quantize_weights(weights), rtol=1e-6, atol=1e-7)

    def test_other_dtypes(self, agree, draw):
        """Whole numbers and booleans are copied, of two dimensions as well."""
        weights = {
            "steps": draw.integers(0, 2**40, 1)[0],
            "table": draw.integers(-(2**40), 2**40, 3, 5),
            "mask": draw.bools(4, 6),
            "codes": draw.integers(-128, 128, 3, 4).to(torch.int8),
            "w": exact(draw, 3, 5),
        }
        agree(lambda m: m.quantize_weights(weights), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, student, draw, layout):
        """Weights may lie in memory in any way."""
        weights = {"a": draw.normal(5, 7, layout=layout), "b": draw.normal(3, 2, 4, layout=layout)}
        check_close(student(lambda m: m.quantize_weights(weights)), weights)

    def test_results_are_new(self, agree, draw):
        """Who changes the results does not change the weights; an empty dict gives an empty one."""
        weights = {"w": exact(draw, 3, 5), "bias": draw.normal(3), "steps": draw.integers(0, 999, 4), "on": draw.bools(4)}

        def probe(m):
            first = m.quantize_weights(weights)
            for tensor in first.values():
                tensor.zero_()
            return first, m.quantize_weights(weights), m.quantize_weights({})

        agree(probe, rtol=1e-6, atol=0)

    @measured("flags")
    def test_parameters(self, agree, draw):
        """Parameters may require gradients; the results do not, and all can be changed in place."""
        w, bias = exact(draw, 5, 3), draw.normal(5)

        def probe(m):
            got = m.quantize_weights({"w": torch.nn.Parameter(w.clone()), "bias": torch.nn.Parameter(bias.clone())})
            return {name: (value, value.requires_grad) for name, value in got.items()}

        agree(probe, rtol=1e-6, atol=0)

    def test_a_network_of_digits(self, student, reference, draw, digits):
        """A pruned network takes 2,704 bytes, keeps its zeros and reads as well as before."""
        images, labels, new_images, new_labels = some_digits(draw, digits, n=400)
        keep, seed = draw.integer(500, 600), draw.seed()
        weights = reference(lambda m: m.train_sparse_digits(images, labels, classes=10, keep=keep, seed=seed))
        got = student(lambda m: m.quantize_weights(weights))
        size = sum(tensor.numel() * tensor.element_size() for tensor in got.values())
        assert size == 2704, f"The network takes {size} bytes, and not 2,704."
        for name in ("1.weight", "3.weight"):
            assert not got[name][weights[name] == 0].any(), f"{name}: a weight of 0 is not 0 any more."
        back = {name: value.float() for name, value in got.items() if not name.endswith(".scale")}
        for name in ("1.weight", "3.weight"):
            back[name] = back[name] * got[f"{name}.scale"][:, None]
        lost = right(weights, new_images, new_labels) - right(back, new_images, new_labels)
        assert lost <= 0.03, f"Quantized, the network gets {lost:.1%} fewer of the held-out digits right."
        off = (logits(weights, new_images) - logits(back, new_images)).abs().mean() / logits(weights, new_images).abs().mean()
        assert off < 0.05, f"Quantized, the network's logits are off by {off:.1%}."


# pack_model


def content(path):
    """A file's bytes as a tensor."""
    return torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8)


def packing(m, *args):
    """The bytes of the file that the student's function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        m.pack_model(path, *args)
        return content(path)


def parsed(file):
    """Tensors and metadata of a file, read back here. Asserts that it can be read."""
    assert isinstance(file, torch.Tensor) and file.dtype == torch.uint8 and file.ndim == 1, "It must write a file."
    data = bytes(file.tolist())
    try:
        tensors = safetensors.torch.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except Exception:  # whatever a student's bytes bring about
        tensors, metadata = None, {}
    assert tensors is not None, "safetensors can't read the file."
    return tensors, metadata


def decoded(text):
    """A text of JSON, or None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def check_file(got, due):
    """Assert that a file says what it should: tensors by name, dtype, shape and bytes, and metadata."""
    (tensors, metadata), (want, known) = parsed(got), parsed(due)
    assert sorted(tensors) == sorted(want), f"The file holds the tensors {sorted(tensors)[:20]}, and not {sorted(want)}."
    for name, value in want.items():
        tensor = tensors[name]
        for what, ours, theirs in (("dtype", tensor.dtype, value.dtype), ("shape", tuple(tensor.shape), tuple(value.shape))):
            assert ours == theirs, f"{name} has the {what} {ours}, and not {theirs}."
        same = torch.equal(tensor.reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
        assert same, f"{name} has not the right values."
    assert sorted(metadata) == sorted(known), f"The metadata have the keys {sorted(metadata)[:20]}, and not {sorted(known)}."
    assert metadata["format"] == known["format"], f"The format is {metadata['format']!r:.60}, and not {known['format']!r}."
    for name in ("labels", "shapes"):
        assert decoded(metadata[name]) == json.loads(known[name]), f"The {name} are {metadata[name]!r:.200}, and not {known[name]!r}."


def codes(draw, *shape, kept=0.2, layout="contiguous"):
    """An int8 tensor, of whose entries few are not 0."""
    x = draw.integers(1, 128, *shape) * (1 - 2 * draw.integers(0, 2, *shape)) * draw.bools(*shape, p=kept)
    if layout == "contiguous":
        return x.to(torch.int8)
    from grader.grading.draw import laid_out

    return laid_out(x.to(torch.int8), layout)


def with_k(draw, n, k):
    """An int8 tensor of n entries, k of them not 0."""
    x = torch.zeros(n, dtype=torch.int8)
    where = draw.permutation(n)[:k]
    x[where] = (draw.integers(1, 128, k) * (1 - 2 * draw.integers(0, 2, k))).to(torch.int8)
    return x


def names(draw, n=3):
    """Labels that are drawn."""
    return [f"class {draw.integer(0, 10**9)}" for _ in range(n)]


@task("pack_model")
class TestPackModel:
    def test_a_network(self, student, reference, draw):
        """Two int8 weights without their zeros, next to scales and biases as they are, and three texts of metadata."""
        tensors = {"1.weight": codes(draw, 7, 16), "1.weight.scale": draw.uniform(7), "1.bias": draw.normal(7)}
        tensors |= {"3.weight": codes(draw, 3, 7), "3.weight.scale": draw.uniform(3), "3.bias": draw.normal(3)}
        labels = names(draw)
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    @pytest.mark.parametrize("n", [8, 9, 15, 16, 17, 31, 257])
    def test_bits(self, student, reference, draw, n):
        """The bits are in row-major order, the lowest bit of a byte first; those that are left over are 0."""
        k = draw.integer(1, 6) if n < 100 else draw.integer(80, 120)
        tensors, labels = {"w": with_k(draw, n, k), "last": torch.zeros(n, dtype=torch.int8)}, names(draw)
        tensors["last"][-1] = -draw.integer(1, 129)
        tensors["w"][draw.integer(0, n)] = -128
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    def test_several_dimensions(self, student, reference, draw):
        """Weights of any number of dimensions are taken apart, and the shape of each is noted."""
        shapes = {"conv": (3, 2, 5, 3), "row": (1, 37), "column": (41, 1), "flat": (29,), "deep": (2, 1, 3, 1, 5, 2)}
        tensors, labels = {name: codes(draw, *shape) for name, shape in shapes.items()}, names(draw)
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    @pytest.mark.parametrize("n", [24, 29, 40, 1000])
    def test_only_where_it_is_shorter(self, student, reference, draw, n):
        """Zeros are left out if that takes fewer bytes, and not if it takes as many or more."""
        limit = n - math.ceil(n / 8)
        tensors = {f"w{k}": with_k(draw, n, limit + k).view(-1, 1) for k in (-2, -1, 0, 1)} | {"full": with_k(draw, n, n)}
        labels = names(draw)
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    def test_nothing_but_zeros(self, student, reference, draw):
        """A tensor of zeros has bits and no values; tensors of one or no entry stay as they are."""
        n = draw.integer(10, 999)
        tensors = {"zeros": torch.zeros(n, dtype=torch.int8), "two": torch.zeros(2, dtype=torch.int8), "w": codes(draw, 5, 9)}
        tensors |= {"one": torch.zeros(1, dtype=torch.int8), "number": torch.zeros((), dtype=torch.int8)}
        tensors |= {"none": torch.zeros(0, 3, dtype=torch.int8), "floats": torch.zeros(0)}
        labels = names(draw)
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    def test_other_dtypes(self, student, reference, draw):
        """Tensors of other dtypes are written as they are, however many zeros they have."""
        dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int16, torch.int32, torch.int64)
        tensors = {f"w{i}": codes(draw, 5, 7).to(dtype) for i, dtype in enumerate(dtypes)}
        tensors |= {"bytes": draw.integers(0, 2, 40).to(torch.uint8), "mask": draw.bools(6, 7, p=0.1), "w": codes(draw, 5, 7)}
        tensors["bias"] = torch.tensor([-0.0, draw.integer(1, 999) / 7, 0.0])
        labels = names(draw)
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, student, reference, draw, layout):
        """Tensors may lie in memory in any way; the file holds them in row-major order."""
        tensors = {"sparse": codes(draw, 5, 7, 3, layout=layout), "dense": codes(draw, 5, 7, kept=1.0, layout=layout)}
        tensors |= {"scale": draw.normal(4, 6, layout=layout), "w": codes(draw, 3, 8)}
        labels = names(draw)
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    def test_shared_memory(self, student, reference, draw):
        """Tensors that share memory are written one by one, also the same tensor under two names."""
        both, base, tied = draw.normal(2, 5), codes(draw, 6, 10, kept=1.0), codes(draw, 4, 10)
        labels = names(draw)

        def probe(m):
            tensors = {"a": both[0], "b": both[1], "all": both, "again": both, "w": base[:3], "v": base[1:], "x": tied, "y": tied}
            return packing(m, tensors, labels)

        check_file(student(probe, like=None), reference(probe))

    def test_parameters(self, student, reference, draw):
        """Parameters that require gradients are written as well."""
        w, bias, sparse, labels = draw.normal(3, 5), draw.normal(3), codes(draw, 3, 9), names(draw)

        def probe(m):
            return packing(m, {"w": torch.nn.Parameter(w.clone()).T, "bias": torch.nn.Parameter(bias.clone()), "q": sparse}, labels)

        check_file(student(probe, like=None), reference(probe))

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_labels(self, student, reference, draw, kind):
        """Labels may be any text, and come in a list or a tuple."""
        labels = kind([*names(draw, 2), "", 'a "quote"', "fünf, 五", "a\nline", "\\", "ab" * draw.integer(50, 99)])
        tensors = {"w": codes(draw, 4, 9)}
        check_file(student(lambda m: packing(m, tensors, labels), like=None), reference(lambda m: packing(m, tensors, labels)))

    @pytest.mark.parametrize("kind", [str, Path])
    def test_old_files_are_replaced(self, student, reference, draw, kind):
        """A path may be a str or a Path. A new file takes the old one's place, and there is no other file but those that were there."""
        old, new = {"w": codes(draw, 40, 9), "old": draw.normal(50)}, {"w": codes(draw, 4, 9), "b": draw.normal(4)}
        labels, more = names(draw), names(draw, 2)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "a neighbour").write_bytes(b"left alone")
                m.pack_model(kind(Path(folder) / "a model"), old, labels)
                first = content(Path(folder) / "a model")
                m.pack_model(kind(Path(folder) / "a model"), new, more)
                return first, content(Path(folder) / "a model"), sorted(path.name for path in Path(folder).iterdir())

        got, due = student(probe, like=None), reference(probe)
        assert isinstance(got, tuple) and len(got) == 3, "It must write two files."
        check_file(got[0], due[0])
        check_file(got[1], due[1])
        assert got[2] == due[2], f"In the folder are {got[2]!r:.200}, and not {due[2]}."

    def test_who_reads_the_old_file_goes_on(self, student, reference, draw):
        """The old file is not written over: who has it open still reads the old bytes."""
        old, tensors, labels = draw.integers(0, 256, 5000).to(torch.uint8), {"w": codes(draw, 4, 9)}, names(draw)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model"
                path.write_bytes(bytes(old.tolist()))
                with open(path, "rb") as file:
                    begin = file.read(50)
                    m.pack_model(path, tensors, labels)
                    read = begin + file.read()
                return torch.tensor(list(read), dtype=torch.uint8), content(path)

        got, due = student(probe, like=None), reference(probe)
        assert isinstance(got, tuple) and len(got) == 2, "It must write a file."
        check_file(got[1], due[1])
        same = isinstance(got[0], torch.Tensor) and got[0].dtype == old.dtype and torch.equal(got[0], old)
        assert same, "Who has the old file open does not read the old bytes any more."

    def test_the_new_file_is_made_next_to_the_old_one(self, student, reference, draw):
        """The folder for temporary files is not used: it may be on another disk, from which os.replace can't move."""
        tensors, labels = {"w": codes(draw, 4, 9), "b": draw.normal(4)}, names(draw)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                usual, tempfile.tempdir = tempfile.tempdir, str(Path(folder) / "no such folder")
                try:
                    m.pack_model(Path(folder) / "model", tensors, labels)
                finally:
                    tempfile.tempdir = usual
                return content(Path(folder) / "model")

        check_file(student(probe, like=None), reference(probe))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_refuses_what_is_not_finite(self, student, reference, draw, bad):
        """A floating tensor that is not finite is a ValueError, and the folder stays as it is, with an old file or without."""
        tensors, labels, old = {"q": codes(draw, 4, 9), "b": draw.normal(5)}, names(draw), draw.integers(0, 256, 99).to(torch.uint8)
        wrong = [{**tensors, "z": draw.normal(3, dtype=dtype)} for dtype in (torch.float32, torch.float16, F64)]
        for case in wrong:
            case["z"][draw.integer(0, 3)] = bad

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                path, out = Path(folder) / "model", []
                for case in wrong:
                    out.append(raised(ValueError, lambda case=case: m.pack_model(path, case, labels)))
                out.append(sorted(found.name for found in Path(folder).iterdir()))
                path.write_bytes(bytes(old.tolist()))
                out.append(raised(ValueError, lambda: m.pack_model(path, wrong[0], labels)))
                out += [sorted(found.name for found in Path(folder).iterdir()), path.read_bytes() == bytes(old.tolist())]
                m.pack_model(path, tensors, labels)
                return out, content(path)

        got, due = student(probe, like=None), reference(probe)
        assert isinstance(got, tuple) and len(got) == 2, "It must write a file."
        check_file(got[1], due[1])
        assert got[0] == due[0], (
            f"Errors and files in the folder are {[str(x) for x in got[0]]!r:.300}, and not {[str(x) for x in due[0]]}."
        )

    def test_the_digits(self, student, reference, draw, digits):
        """A pruned network of digits fits into 1,100 bytes, next to the file's header, and reads as well as before."""
        images, labels, new_images, new_labels = some_digits(draw, digits, n=400)
        keep, seed, classes = draw.integer(380, 421), draw.seed(), names(draw, 10)
        tensors = reference(
            lambda m: m.quantize_weights(m.train_sparse_digits(images, labels, classes=10, keep=keep, seed=seed)),
        )
        got, due = student(lambda m: packing(m, tensors, classes), like=None), reference(lambda m: packing(m, tensors, classes))
        check_file(got, due)
        packed, _ = parsed(got)
        size = sum(tensor.numel() * tensor.element_size() for tensor in packed.values())
        assert size <= 1100, f"The file's tensors take {size} bytes; 1,100 are enough."
        weights = {}
        for name in ("1.weight", "3.weight"):
            bits = packed[f"{name}.bits"].int()[:, None] // 2 ** torch.arange(8) % 2
            dense = torch.zeros(tensors[name].numel())
            dense[bits.flatten().nonzero()[:, 0]] = packed[f"{name}.values"].float()
            weights[name] = dense.view(tensors[name].shape) * packed[f"{name}.scale"][:, None]
            bias = name.replace("weight", "bias")
            weights[bias] = packed[bias]
        share = right(weights, new_images, new_labels)
        assert share >= 0.6, f"The network in the file gets {share:.1%} of the held-out digits right."


# RequestHandler


def packed(weights, labels, **metadata):
    """The bytes of a packed network, as a tensor; `weights` has (q, scale, bias) by number of the layer."""
    tensors, shapes = {}, {}
    for i, (q, scale, bias) in weights.items():
        flat, n = q.flatten(), q.numel()
        kept = flat != 0
        if math.ceil(n / 8) + int(kept.sum()) < n:
            bits = F.pad(kept.int(), (0, -n % 8)).view(-1, 8) @ (2 ** torch.arange(8, dtype=torch.int32))
            tensors |= {f"{i}.weight.bits": bits.to(torch.uint8), f"{i}.weight.values": flat[kept]}
            shapes[f"{i}.weight"] = list(q.shape)
        else:
            tensors[f"{i}.weight"] = q
        tensors |= {f"{i}.weight.scale": scale, f"{i}.bias": bias}
    known = {"format": "sparse-int8", "labels": json.dumps(labels), "shapes": json.dumps(shapes)} | metadata
    data = safetensors.torch.save(tensors, {key: value for key, value in known.items() if value is not None})
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def layer(draw, inputs, outputs, kept=0.3, size=1.0):
    """A layer's codes, scales and bias."""
    scale = size * draw.uniform(outputs, low=0.5, high=2.0) / (40 * math.sqrt(inputs * kept))
    return codes(draw, outputs, inputs, kept=kept), scale, 0.3 * size * draw.normal(outputs)


def network(draw, *sizes, numbers=None, kept=0.3, **metadata):
    """A packed network with drawn labels and layers from size to size."""
    numbers = numbers or range(1, 2 * len(sizes), 2)
    layers = {i: layer(draw, *pair, kept=kept) for i, pair in zip(numbers, itertools.pairwise(sizes), strict=False)}
    return packed(layers, names(draw, sizes[-1]), **metadata)


def handler(m, file, kind=Path):
    """The student's handler of a file, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(bytes(file.tolist()))
        with torch.random.fork_rng(devices=[]):
            return m.RequestHandler(kind(path))


def picture(draw, D):
    """The bytes of a picture, in base64."""
    return base64.b64encode(bytes(draw.integers(0, 256, D).tolist())).decode()


def good(draw, D, **more):
    """A good request with a drawn id."""
    return json.dumps({"id": f"request {draw.integer(0, 10**9)}", "pixels": picture(draw, D)} | more).encode()


def among_good(agree, draw, bad, D=11):
    """Compare the answers to bad requests that stand between good ones."""
    file = network(draw, D, 7, 3)
    requests = [good(draw, D)]
    for request in bad:
        requests += [request, good(draw, D)]
    agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)


@task("RequestHandler")
class TestRequestHandler:
    @pytest.mark.parametrize("sizes", [(16, 8, 3), (11, 7, 5), (13, 3), (9, 11, 6, 4), (1, 3, 2), (5, 1, 3)])
    def test_answers(self, agree, draw, sizes):
        """Each request gets its id, the likeliest label and its probability, from networks of one to three layers of any size."""
        file, requests = network(draw, *sizes), [good(draw, sizes[0]) for _ in range(6)]
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("numbers", [(9, 10, 11), (2, 10, 100), (0, 4, 5)])
    def test_layers_by_number(self, agree, draw, numbers):
        """Layers come in the order of their numbers, not of their names as texts."""
        file, requests = network(draw, 7, 7, 7, 7, numbers=numbers), [good(draw, 7) for _ in range(5)]
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kept", [0.0, 0.05, 1.0])
    def test_packed_or_not(self, agree, draw, kept):
        """Weights may be packed with their zeros, without them, or have no others."""
        layers = {1: layer(draw, 9, 14), 3: layer(draw, 14, 3)}
        layers[1] = (codes(draw, 14, 9, kept=kept), *layers[1][1:])
        file, requests = packed(layers, names(draw)), [good(draw, 9) for _ in range(4)]
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)

    def test_as_if_alone(self, agree, draw):
        """A request has the same answer in a crowd, alone, and at another place."""
        file, requests = network(draw, 12, 9, 4), [good(draw, 12) for _ in range(7)] + [b"?"]
        order = draw.permutation(8).tolist()

        def probe(m):
            served = handler(m, file)
            crowd, moved = served.handle(requests), served.handle([requests[i] for i in order])
            return crowd, moved, [served.handle([request]) for request in requests]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_order_and_repeated_ids(self, agree, draw):
        """Answers are in the order of the requests; an id may come several times, for different pixels too."""
        file, same = network(draw, 10, 6, 3), f"same {draw.integer(0, 10**9)}"
        requests = [good(draw, 10, id=same), good(draw, 3), good(draw, 10, id=same), b"", good(draw, 10), good(draw, 7, id=same)]
        requests.append(requests[0])
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)

    def test_no_good_request(self, agree, draw):
        """All requests may be bad, and there may be none."""
        file, requests = network(draw, 10, 6, 3), [good(draw, 10), good(draw, 9), b"{}"]
        agree(lambda m: [handler(m, file).handle(part) for part in (requests[1:], [], requests[:1])], rtol=1e-4, atol=1e-5)

    def test_no_json(self, agree, draw):
        """What is no JSON gets the error "json" and no id."""
        whole = good(draw, 11)
        among_good(agree, draw, [b"", b" ", b"hello", whole[:-1], whole + b"}", b"{'id': 'a'}", b"id=3&pixels=AAAA", bytes(9)])

    def test_no_object(self, agree, draw):
        """JSON that is no object gets the error "json"."""
        number = str(draw.integer(0, 10**9)).encode()
        among_good(agree, draw, [b"null", number, b"true", b'"id pixels"', b"[]", b'["id", "pixels"]', b"[" + good(draw, 11) + b"]"])

    def test_any_bytes(self, agree, draw):
        """Bytes that are no text, numbers that are too long and brackets without end sink nobody."""
        noise = [b"\xff\xfe\xfd", b'{"id": "\xe9\x80"}', bytes(draw.integers(128, 256, 40).tolist())]
        deep = [b"[" * 100_000, b'{"id":' * 100_000, b'{"id": "a", "pixels": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
        among_good(agree, draw, [*noise, *deep, b"9" * 10_000, b'{"id": ' + b"9" * 10_000 + b"}"])

    def test_bad_ids(self, agree, draw):
        """An id that is missing, or no text, gets the error "id"; any text will do."""
        pixels = picture(draw, 11)
        bad = [json.dumps({"id": name, "pixels": pixels}).encode() for name in (None, 7, 1.5, True, ["a"], {"a": 1}, [])]
        fine = [json.dumps({"id": name, "pixels": pixels}).encode() for name in ("", "0", "null", "fünf 五", 'a "b"\n', " a ")]
        among_good(agree, draw, [*bad, json.dumps({"pixels": pixels}).encode(), *fine])

    def test_bad_pixels(self, agree, draw):
        """Pixels that are missing, no text or of another number get the error "pixels", with the request's id."""
        values = [
            None,
            7,
            draw.integers(0, 256, 11).tolist(),
            {},
            True,
            "",
            *(picture(draw, n) for n in (1, 10, 12, 22, 400)),
            [picture(draw, 11)],
        ]
        bad = [good(draw, 11, pixels=value) for value in values]
        among_good(agree, draw, [*bad, json.dumps({"id": f"bare {draw.integer(0, 10**9)}"}).encode()])

    def test_strict_base64(self, agree, draw):
        """Characters outside the alphabet, and a wrong end, get the error "pixels"."""
        p = picture(draw, 11)
        values = [
            p[:5] + "!" + p[5:],
            p + "\n",
            " " + p,
            p[:8] + "\n" + p[8:],
            p[:-1],
            p.rstrip("="),
            p[:4] + "-_" + p[6:],
            "é" + p,
            p[:-2] + "é=",
        ]
        among_good(agree, draw, [good(draw, 11, pixels=value) for value in values])

    def test_the_first_error_counts(self, agree, draw):
        """A request with a bad id and bad pixels gets the error "id"."""
        among_good(
            agree, draw, [b"{}", b'{"id": 3, "pixels": "!"}', b'{"pixels": 4}', good(draw, 3, id=None), b'{"id": [], "pixels": null}']
        )

    def test_what_means_nothing(self, agree, draw):
        """Other keys and white space mean nothing, also those that answers have."""
        file, more = network(draw, 8, 5, 3), {"label": "x", "probability": 2, "error": "e", "labels": [1]}
        requests = [good(draw, 8, **more), b"\n  " + good(draw, 8) + b" \t\n", good(draw, 5, **more)]
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)

    def test_all_pixels(self, agree, draw):
        """Pixels go from 0 to 255, and the network sees them divided by 255."""
        q = torch.tensor([[100, 0, 0], [0, 100, 0], [0, 0, 100]], dtype=torch.int8)
        file = packed({1: (q, draw.uniform(3, low=0.01, high=0.03), draw.normal(3))}, names(draw))
        requests = [
            good(draw, 3, pixels=base64.b64encode(bytes(x)).decode()) for x in ([0, 0, 0], [255, 0, 0], [0, 128, 255], [1, 127, 254])
        ]
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("size", [1e-4, 30.0, 1e4])
    def test_small_and_large_logits(self, agree, draw, size):
        """Probabilities are right for logits that are all alike, and for logits far beyond what exp can take."""
        file, requests = packed({1: layer(draw, 9, 4, size=size)}, names(draw, 4)), [good(draw, 9) for _ in range(4)]
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-3, atol=2e-2 if size > 100 else 1e-4)

    def test_plain_answers(self, agree, draw):
        """Answers can be written as JSON at once: labels are texts, probabilities plain floats."""
        labels = ["fünf", "", 'a "b"', f"class {draw.integer(0, 10**9)}", "五"]
        file = packed({0: layer(draw, 9, 5)}, labels)
        requests = [good(draw, 9) for _ in range(9)] + [b"?"]
        agree(lambda m: json.loads(json.dumps(handler(m, file).handle(requests))), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", [str, Path])
    def test_handlers_side_by_side(self, agree, draw, kind):
        """Two handlers of two files do not disturb each other, and remember nothing of earlier calls."""
        files = network(draw, 8, 5, 3), network(draw, 6, 4)
        requests = [good(draw, D) for D in (8, 6, 8, 6)]

        def probe(m):
            first, second = (handler(m, file, kind) for file in files)
            return [served.handle(requests) for served in (first, second, first, second)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_tuples_of_requests(self, agree, draw):
        """Requests may come in a tuple."""
        file, requests = network(draw, 8, 5, 3), (good(draw, 8), b"?", good(draw, 8))
        agree(lambda m: handler(m, file).handle(requests), rtol=1e-4, atol=1e-5)

    def test_other_formats(self, agree, draw):
        """A file that does not say its format, or another one, is a ValueError."""
        right_one, request = network(draw, 8, 5, 3), good(draw, 8)
        wrong = [network(draw, 8, 5, 3, format=text) for text in (None, "sparse-int4", "", "SPARSE-INT8", "sparse-int8.2")]
        wrong.append(torch.frombuffer(bytearray(safetensors.torch.save({"1.bias": draw.normal(3)})), dtype=torch.uint8))

        def probe(m):
            endings = [raised(ValueError, lambda file=file: handler(m, file)) for file in wrong]
            return endings, handler(m, right_one).handle([request])

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_the_digits(self, student, reference, draw, digits):
        """A packed network of digits reads what is sent, next to bad requests: at least as well as it does here, less a point."""
        images, labels, new_images, new_labels = some_digits(draw, digits, n=400)
        keep, seed, classes = draw.integer(500, 600), draw.seed(), names(draw, 10)
        quantized = reference(lambda m: m.quantize_weights(m.train_sparse_digits(images, labels, classes=10, keep=keep, seed=seed)))
        file = packed({i: [quantized[f"{i}.{part}"] for part in ("weight", "weight.scale", "bias")] for i in (1, 3)}, classes)
        pixels = (new_images[:200].flatten(1) * 255).round().to(torch.int64)
        requests = [good(draw, 64, pixels=base64.b64encode(bytes(row)).decode()) for row in pixels.tolist()]
        for i in range(0, 200, 9):
            requests[i] = requests[i][:-2]
        answers = student(lambda m: handler(m, file).handle(requests))
        weights = {name: value for name, value in quantized.items() if name.endswith("bias")}
        weights |= {name: quantized[name] * quantized[f"{name}.scale"][:, None] for name in ("1.weight", "3.weight")}
        due = [None if i % 9 == 0 else classes[c] for i, c in enumerate(logits(weights, pixels / 255).argmax(1).tolist())]
        same = sum(answer.get("label") == label for answer, label in zip(answers, due, strict=True))
        assert same >= 198, f"{200 - same} of 200 answers have another label than the network gives."
        true = sum(answer.get("label") == classes[c] for answer, c in zip(answers, new_labels[:200].tolist(), strict=True))
        assert true >= 80, f"Only {true} of 177 good requests are answered right."


# TicketBatcher


def mixed(requests):
    """Responses that tell who was handled together, and in which order."""
    total = sum((i + 1) * x for i, x in enumerate(requests))
    return [(3 * x + 1, total, len(requests)) for x in requests]


class World:
    """A batcher, and the time."""

    def __init__(self, m, handle=mixed, *, max_size=5, max_wait=10, now=0):
        self.now = now
        self.batcher = m.TicketBatcher(handle, max_size=max_size, max_wait=max_wait, clock=lambda: self.now)

    def at(self, now, *requests):
        """Submit requests at a time; their tickets."""
        self.now = now
        return [self.batcher.submit(x) for x in requests]

    def poll(self, now):
        """Poll at a time."""
        self.now = now
        return self.batcher.poll()

    def results(self, *tickets):
        """Results, or how asking for them ended."""
        return [outcome(self.batcher, ticket) for ticket in tickets]


def outcome(batcher, ticket):
    """A ticket's result, or the name of the error that comes in its place: of the one that is due, where it is a subclass."""
    try:
        return batcher.result(ticket)
    except NotImplementedError:
        raise
    except (KeyError, RuntimeError, ValueError) as error:
        return next(kind.__name__ for kind in (KeyError, RuntimeError, ValueError) if isinstance(error, kind))
    except Exception as error:
        return type(error).__name__


def numbers(draw, n):
    """Requests of drawn numbers."""
    return draw.integers(1, 10**6, n).tolist()


def picky(requests):
    """Refuse odd numbers."""
    for x in requests:
        if x % 2:
            raise TypeError(f"{x} is odd")
    return mixed(requests)


@task("TicketBatcher")
class TestTicketBatcher:
    @pytest.mark.parametrize("max_size", [1, 2, 5, 7])
    def test_full_batches(self, agree, draw, max_size):
        """The request that completes a batch has it handled in submit; the next ones begin a new batch."""
        requests = numbers(draw, 3 * max_size + (max_size > 1))

        def probe(m):
            world, seen = World(m, max_size=max_size), []
            for x in requests:
                seen.append((world.at(0, x), world.batcher.deadline()))
            return seen, world.results(*range(len(requests) + 1))

        agree(probe, rtol=0, atol=0)

    def test_waiting(self, agree, draw):
        """Poll handles a batch from the deadline of its oldest request on, and not before."""
        requests, start, wait = numbers(draw, 3), draw.integer(5, 99), draw.integer(4, 50)

        def probe(m):
            world, out = World(m, max_wait=wait), []
            for i, x in enumerate(requests):
                out.append(world.at(start + i, x))
            for now in (start + 3, start + wait - 1, start + wait, start + wait + 1):
                out += [world.poll(now), world.batcher.deadline()]
            return out, world.results(0, 1, 2)

        agree(probe, rtol=0, atol=0)

    def test_waiting_too_long(self, agree, draw):
        """A poll that comes late handles all that wait, in one batch."""
        requests, late = numbers(draw, 4), draw.integer(11, 999)

        def probe(m):
            world = World(m)
            for i, x in enumerate(requests):
                world.at(2 * i, x)
            return world.poll(9), world.poll(late), world.results(0, 1, 2, 3), world.poll(late + 99)

        agree(probe, rtol=0, atol=0)

    def test_submit_sees_that_time_is_over(self, agree, draw):
        """A request that comes when the oldest has waited long enough goes with it, at once; one that comes earlier does not."""
        requests = numbers(draw, 4)

        def probe(m):
            world, out = World(m), []
            for now, x in zip((3, 12, 13, 14), requests, strict=True):
                out.append((world.at(now, x), world.batcher.deadline()))
            return out, world.results(0, 1, 2, 3), world.poll(23), world.poll(24), world.results(3)

        agree(probe, rtol=0, atol=0)

    def test_deadlines(self, agree, draw):
        """The deadline is the oldest arrival plus max_wait, and None where nothing waits, before and after."""
        requests, start, wait = numbers(draw, 4), draw.integer(5, 99), draw.integer(20, 50)

        def probe(m):
            world = World(m, max_size=3, max_wait=wait)
            out = [world.batcher.deadline()]
            for i, x in enumerate(requests):
                world.at(start + 3 * i, x)
                out.append(world.batcher.deadline())
            out += [world.batcher.flush(), world.batcher.deadline()]
            return out, world.results(0, 1, 2, 3)

        agree(probe, rtol=0, atol=0)

    def test_flush(self, agree, draw):
        """Flush handles all that wait, before their time, and says how many they were."""
        requests = numbers(draw, 5)

        def probe(m):
            world, out = World(m, max_size=4), []
            out.append(world.batcher.flush())
            world.at(0, *requests[:3])
            out += [world.batcher.flush(), world.batcher.flush(), world.poll(99)]
            world.at(100, *requests[3:])
            out.append(world.batcher.flush())
            return out, world.results(0, 1, 2, 3, 4)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("max_wait", [0, 0.0, 0.25, 2.5])
    def test_clocks(self, agree, draw, max_wait):
        """Times may be fractions, begin anywhere and be 0; without a wait, every request is handled at once."""
        requests, start = numbers(draw, 6), draw.integer(-99, -9) / 4

        def probe(m):
            out = []
            for first in (start, 0, 0.0, -max_wait, 1e9):
                world = World(m, max_wait=max_wait, now=first)
                out.append(world.at(first, *requests[:2]))
                for later in (0.125, max_wait, max_wait + 0.125):
                    out += [world.poll(first + later), world.batcher.deadline()]
                out += [world.at(first + 10, *requests[2:4]), world.batcher.deadline(), world.batcher.flush()]
                out.append(world.results(0, 1, 2, 3))
            return out

        agree(probe, rtol=0, atol=0)

    def test_a_handle_that_takes_time(self, agree, draw):
        """Who comes after a slow batch waits from their own arrival on."""
        requests, slow = numbers(draw, 7), draw.integer(30, 60)

        def probe(m):
            def handle(batch):
                world.now += slow
                return [(answer, world.now) for answer in mixed(batch)]

            world, out = World(m, handle, max_size=3), []
            for x in requests:
                out.append((world.at(world.now + 1, x), world.batcher.deadline(), world.now))
            out += [world.poll(world.now + 9), world.poll(world.now + 10)]
            return out, world.results(*range(7))

        agree(probe, rtol=0, atol=0)

    def test_results_once_in_any_order(self, agree, draw):
        """Results can be asked for in any order, and once: a KeyError follows, as for tickets that nobody has."""
        requests, order = numbers(draw, 8), draw.permutation(8).tolist()

        def probe(m):
            world = World(m, max_size=4)
            world.at(0, *requests)
            early = world.results(-1, -8, 8)
            return (
                early,
                world.results(*order),
                world.results(*order),
                world.results(8, -1, 99),
                world.at(0, requests[0]),
                world.results(9, -1),
            )

        agree(probe, rtol=0, atol=0)

    def test_still_waiting(self, agree, draw):
        """Asking too early is a RuntimeError, changes nothing, and can be repeated."""
        requests = numbers(draw, 4)

        def probe(m):
            world = World(m, max_size=3)
            world.at(0, *requests)
            early = world.results(3, 3), [raised(RuntimeError, lambda: world.batcher.result(3)) for _ in range(2)]
            return early, world.results(0, 2), world.batcher.flush(), world.results(3, 1, 3)

        agree(probe, rtol=0, atol=0)

    def test_any_objects(self, agree, draw):
        """Requests and responses may be any objects: None, empty, equal, unhashable, and errors that are returned."""
        x = draw.integer(1, 10**6)
        requests = [None, 0, "", [], {"a": x}, [x], [x], x, None]
        responses = [None, 0, False, [], {"a": x}, "", [None], x, (x, None)]

        def probe(m):
            world = World(m, lambda batch: [(request, response) for request, response in zip(batch, responses, strict=True)], max_size=9)
            world.at(0, *requests)
            bare = World(m, lambda batch: responses[: len(batch)], max_size=9)
            bare.at(0, *requests)
            errors = World(m, lambda batch: [ValueError(str(request)) for request in batch], max_size=1)
            errors.at(0, x)
            error = errors.batcher.result(0)
            return world.results(*range(10)), bare.results(*range(10)), type(error).__name__, str(error), errors.results(0)

        agree(probe, rtol=0, atol=0)

    def test_one_fails_alone(self, agree, draw):
        """If a batch raises, each of its requests is handled alone: those that fail alone have failed, and the others have not."""
        requests = [2 * x for x in numbers(draw, 10)]
        for i in draw.permutation(5)[:2].tolist():
            requests[i] += 1

        def probe(m):
            world = World(m, picky)
            tickets = world.at(0, *requests)
            return tickets, world.results(*tickets), world.results(*tickets)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("way", ["submit", "poll", "flush"])
    def test_errors_wait_for_result(self, agree, draw, way):
        """What handle raises comes out of result, the same error, and never out of submit, poll or flush."""
        requests = [2 * x + 1 for x in numbers(draw, 3)] + [2 * draw.integer(1, 10**6)]

        def probe(m):
            world = World(m, picky, max_size=4 if way == "submit" else 9)
            out = [world.at(0, *requests)]
            if way != "submit":
                out += [world.poll(10) if way == "poll" else world.batcher.flush()]
            for ticket in range(3):
                try:
                    out.append(world.batcher.result(ticket))
                except TypeError as error:
                    out.append(("raised", error.args))
            return out, world.results(0, 1, 2, 3), world.at(20, requests[3]), world.batcher.flush(), world.results(4)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("error", [ValueError, RuntimeError, StopIteration, AssertionError, MemoryError, IndexError, LookupError])
    def test_any_exception(self, agree, draw, error):
        """Whatever Exception is raised, only its own request suffers."""
        requests, bad = numbers(draw, 5), draw.integer(0, 5)

        def probe(m):
            def handle(batch):
                if requests[bad] in batch:
                    raise error("no")
                return mixed(batch)

            world = World(m, handle)
            world.at(0, *requests)
            return world.results(0, 1, 2, 3, 4)

        agree(probe, rtol=0, atol=0)

    def test_wrong_numbers_of_responses(self, agree, draw):
        """Too few or too many responses are an error as well: of a batch, and of a request alone."""
        requests = numbers(draw, 5)
        few, many = requests[draw.integer(0, 5)], requests[draw.integer(0, 5)]

        def probe(m):
            out = []
            for handle in (
                lambda batch: mixed(batch)[: 1 if len(batch) > 1 else None],
                lambda batch: mixed(batch) + [0] * (len(batch) > 1),
                lambda batch: [answer for answer, x in zip(mixed(batch), batch, strict=True) if x != few],
                lambda batch: [answer for answer, x in zip(mixed(batch), batch, strict=True) for _ in range(1 + (x == many))],
            ):
                world = World(m, handle)
                world.at(0, *requests)
                out.append(world.results(0, 1, 2, 3, 4))
            return out

        agree(probe, rtol=0, atol=0)

    @measured("calls")
    def test_tries(self, agree, draw):
        """After a batch that fails, each request has one try, in order; a batch of one is not tried again."""
        requests = [2 * x for x in numbers(draw, 9)]
        requests[draw.integer(0, 4)] += 1

        def probe(m):
            out = []
            for max_size in (4, 1):
                calls = []

                def handle(batch, calls=calls):
                    calls.append(list(batch))
                    if len(calls) == 1:
                        raise ValueError("not yet")
                    return [(answer, len(calls)) for answer in picky(batch)]

                world = World(m, handle, max_size=max_size)
                world.at(0, *requests)
                world.batcher.flush()
                out += [world.results(*range(9)), calls]
            return out

        agree(probe, rtol=0, atol=0)

    def test_handle_may_change_its_list(self, agree, draw):
        """The list that handle gets is its own, in every try: it may empty it, or grow it."""
        requests = numbers(draw, 5)

        def probe(m):
            def empties(batch):
                answers = mixed(batch)
                batch.clear()
                return answers

            def grows(batch):
                batch += [0]
                if len(batch) > 2:
                    batch.clear()
                    raise ValueError("too many")
                return mixed(batch[:-1])

            out = []
            for handle in (empties, grows):
                world = World(m, handle)
                world.at(0, *requests)
                out.append(world.results(0, 1, 2, 3, 4))
            return out

        agree(probe, rtol=0, atol=0)

    def test_one_list_for_all_responses(self, agree, draw):
        """Handle may give the same list for every batch, with new responses in it."""
        requests = numbers(draw, 9)

        def probe(m):
            responses = [None] * 3

            def handle(batch):
                responses[:] = mixed(batch)
                return responses

            world = World(m, handle, max_size=3)
            world.at(0, *requests)
            return world.results(*range(9))

        agree(probe, rtol=0, atol=0)

    def test_tuples_of_responses(self, agree, draw):
        """Responses may come in a tuple or in a tensor's rows."""
        requests = numbers(draw, 3)

        def probe(m):
            out = []
            for handle in (lambda batch: tuple(mixed(batch)), lambda batch: 2 * torch.tensor(batch)):
                world = World(m, handle, max_size=3)
                world.at(0, *requests)
                out.append(world.results(0, 1, 2))
            return out

        agree(probe, rtol=0, atol=0)

    def test_two_batchers(self, agree, draw):
        """Two batchers have queues, tickets and results of their own."""
        requests = numbers(draw, 7)

        def probe(m):
            first, second = World(m, max_size=3), World(m, picky, max_size=2, max_wait=5)
            out = []
            for i, x in enumerate(requests):
                out += [first.at(i, x), second.at(i, 2 * x), first.batcher.deadline(), second.batcher.deadline()]
            return out, first.results(*range(7)), second.poll(11), second.results(*range(7))

        agree(probe, rtol=0, atol=0)

    def test_refuses_bad_settings(self, agree, draw):
        """A max_size below 1 and a max_wait below 0 are ValueErrors; 1 and 0 are fine."""
        x, clock = draw.integer(1, 10**6), int

        def probe(m):
            endings = []
            for max_size, max_wait in ((0, 1), (-3, 1), (2, -1), (2, -0.25), (0, -1)):
                endings.append(
                    raised(ValueError, lambda s=max_size, w=max_wait: m.TicketBatcher(mixed, max_size=s, max_wait=w, clock=clock))
                )
            world, patient = World(m, max_size=1), World(m, max_wait=0)
            return endings, world.at(0, x), world.results(0), patient.at(0, x), patient.results(0)

        agree(probe, rtol=0, atol=0)

    def test_a_long_day(self, agree, draw):
        """Hundreds of requests in bursts and lulls, with polls in between: batches, deadlines and results are right throughout."""
        gaps, requests = draw.integers(0, 9, 300) * draw.integers(0, 2, 300) * draw.integers(0, 2, 300), numbers(draw, 300)
        polls, size, wait = draw.bools(300).tolist(), draw.integer(4, 9), draw.integer(5, 20)

        def probe(m):
            world, out, now = World(m, picky, max_size=size, max_wait=wait), [], 0
            for gap, x, polled in zip(gaps.tolist(), requests, polls, strict=True):
                now += gap
                if polled:
                    out.append(world.poll(now))
                out += [world.at(now, 2 * x), world.batcher.deadline()]
            out.append(world.batcher.flush())
            return out, world.results(*range(301))

        agree(probe, rtol=0, atol=0)

    def test_same_answers_under_load(self, student, draw):
        """A network in float64 gives every request the answer that it has alone, whoever comes at the same time."""
        weight, rows = draw.normal(7, 5, dtype=F64), draw.normal(200, 5, dtype=F64)
        gaps, size, order = draw.integers(0, 4, 200).tolist(), draw.integer(5, 12), draw.permutation(200)

        def probe(m):
            def handle(batch):
                if len(batch) % 3 == 2:
                    raise RuntimeError("a bad batch")
                return list(torch.stack(batch) @ weight.T)

            world, now = World(m, handle, max_size=size, max_wait=7), 0
            tickets = []
            for gap, row in zip(gaps, rows, strict=True):
                now += gap
                world.poll(now)
                tickets += world.at(now, row)
            world.batcher.flush()
            return torch.stack([world.batcher.result(tickets[i]) for i in order.tolist()])

        got, due = student(probe), torch.stack([weight @ rows[i] for i in order.tolist()])
        wrong = int(((got - due).abs() > 1e-9).any(1).sum())
        assert wrong == 0, f"{wrong} of 200 requests have another answer than alone."
