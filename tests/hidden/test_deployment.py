"""Hidden suite of the module deployment."""

import json
import math
import struct
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from grader.testing import measured, raised, task

F64 = torch.float64


# Helpers for probes


def fill(module, state):
    """Give a module drawn weights."""
    module.load_state_dict(state)
    return module


def seeded(seed):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def in_a_folder(work):
    """What `work(folder)` gives, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return work(Path(folder))


# clean_state_dict


@task("clean_state_dict")
class TestCleanStateDict:
    def test_names(self, agree, draw):
        """Parts of wrappers go: _orig_mod everywhere, module in front, as long as all names have it."""
        sets = [
            ["module.a.weight", "module.a.bias"],
            ["_orig_mod.a.weight", "_orig_mod.a.bias"],
            ["module._orig_mod.module.a", "_orig_mod.module.module.b"],
            ["a._orig_mod.weight", "b.c._orig_mod.d._orig_mod.e"],
            ["module.a", "b"],
            ["module.module.a", "module.b.module.c"],
            ["modules.a", "modules._orig_mod2.b"],
            ["module", "module.a"],
            ["_orig_mod"],
            ["module.module"],
        ]
        x = draw.normal(20, 2)

        def probe(m):
            out = []
            for names in sets:
                clean = m.clean_state_dict({name: x[i] for i, name in enumerate(names)})
                out.append((list(clean), list(clean.values())))
            return out

        agree(probe, rtol=0, atol=0)

    def test_checkpoint(self, agree, draw):
        """The entry "model" is the state, if it is a dict; a tensor of that name is one among others."""
        x = draw.normal(5, 3)

        def probe(m):
            whole = {"epoch": 3, "model": {"module.w": x[0], "module.b": x[1]}, "optimizer": {"state": x[2]}}
            odd = [{"model": x[3], "w": x[4]}, {"w": x[1], "epoch": 4, "note": "hi", "none": None}]
            odd += [{"model": {}, "w": x[2]}, OrderedDict(model=OrderedDict(w=x[0]), w=x[1])]
            return [m.clean_state_dict(c) for c in (whole, *odd)]

        agree(probe, rtol=0, atol=0)

    def test_dtype(self, agree, draw):
        """Floating tensors are cast, integers and bools are not; without dtype all stay."""
        state = {
            "a": draw.normal(3, 2),
            "b": draw.normal(3, dtype=F64),
            "c": draw.integers(0, 9, 4),
            "d": draw.bools(4),
            "e": draw.normal(2).half(),
            "f": draw.integers(0, 9, 2).to(torch.uint8),
        }
        agree(lambda m: [m.clean_state_dict(state, dtype) for dtype in (torch.bfloat16, F64, None)], rtol=1e-3, atol=1e-3)

    def test_order(self, agree, draw):
        """Entries stay in their order."""
        names = [f"module.{name}" for name in ("z", "a", "m", "b")]
        x = draw.normal(4, 2)
        agree(lambda m: list(m.clean_state_dict(dict(zip(names, x, strict=True))).items()), rtol=0, atol=0)

    @measured("memory")
    def test_own_memory(self, agree, draw):
        """Each tensor is contiguous, has a memory of its own, and no more of it than it needs."""
        big, n = draw.normal(40, 6), draw.integer(2, 9)

        def probe(m):
            tied = big.clone()
            state = {"a": tied, "b": tied, "c": tied[:n], "d": tied.T, "e": tied[:, :1].expand(-1, 3), "f": tied.view(6, 40)}
            clean = m.clean_state_dict(state)
            values = list(clean.values())
            if len({x.untyped_storage().data_ptr() for x in [tied, *values]}) != 7:
                return "some of them share a memory"
            if any(x.untyped_storage().nbytes() != 4 * x.numel() or not x.is_contiguous() for x in values):
                return "one of them has more memory than it needs, or is not contiguous"
            return clean

        agree(probe, rtol=0, atol=0)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """Parameters become plain tensors without a graph."""
        w, b = draw.normal(3, 2), draw.normal(3)

        def probe(m):
            clean = m.clean_state_dict({"w": nn.Parameter(w.clone()), "y": nn.Parameter(b.clone()) * 2}, torch.float32)
            if any(x.requires_grad or type(x) is not torch.Tensor for x in clean.values()):
                return "there is a parameter or a graph left"
            return clean

        agree(probe, rtol=0, atol=0)

    def test_the_same_name_twice(self, agree, draw):
        """Two names that become the same raise a ValueError; such that stay apart do not."""
        x = draw.normal(4, 2)
        pairs = [("a._orig_mod.b", "a.b"), ("module.a", "module._orig_mod.a"), ("module.a", "a")]

        def probe(m):
            out = []
            for pair in pairs:
                state = dict(zip(pair, x[:2], strict=True))
                ending = raised(ValueError, lambda s=state: m.clean_state_dict(s))
                out.append(ending)
            return out, m.clean_state_dict({"module.a": x[2], "module.b": x[3]})

        agree(probe, rtol=0, atol=0)

    def test_empty(self, agree, draw):
        """No tensors, tensors without numbers, and 0-d ones."""
        x = draw.normal(3)

        def probe(m):
            states = {}, {"epoch": 1}, {"model": {}}, {"module.a": x[0], "module.b": x[:0]}
            return [m.clean_state_dict(state, F64) for state in states]

        agree(probe, rtol=1e-6, atol=0)


# save_safe


def parsed(data):
    """The header of a safetensors file, and its tensors, by hand."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    notes, tensors = header.pop("__metadata__", {}), {}
    dtypes = {
        "F32": torch.float32,
        "F64": torch.float64,
        "I64": torch.int64,
        "I32": torch.int32,
        "BOOL": torch.bool,
        "BF16": torch.bfloat16,
    }
    for name, told in header.items():
        start, end = told["data_offsets"]
        block = bytearray(data[8 + length + start : 8 + length + end])
        dtype = dtypes[told["dtype"]]
        flat = torch.frombuffer(block, dtype=dtype) if block else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(told["shape"])
    return notes, {name: tensors[name] for name in sorted(tensors)}


def saved(m, state, *metadata):
    """The file's bytes, as a tensor."""

    def work(folder):
        m.save_safe(state, folder / "file", *metadata)
        return torch.frombuffer(bytearray((folder / "file").read_bytes()), dtype=torch.uint8)

    return in_a_folder(work)


@task("save_safe")
class TestSaveSafe:
    def check(self, student, reference, probe):
        """Parse the student's files here, and compare with what the reference's hold."""
        got, due = ([parsed(bytes(x.tolist())) for x in files] for files in (student(probe, like=None), reference(probe)))
        for (notes, tensors), (due_notes, due_tensors) in zip(got, due, strict=True):
            assert list(tensors) == list(due_tensors), f"The file has the tensors {list(tensors)}, and should have {list(due_tensors)}."
            for name, x in tensors.items():
                y = due_tensors[name]
                assert (x.shape, x.dtype) == (y.shape, y.dtype), f"{name} was saved as {x.dtype} {tuple(x.shape)}."
                assert torch.equal(x, y), f"{name} was saved with other numbers."
            assert notes == due_notes, f"The metadata are {notes}, and should be {due_notes}."

    def test_tensors(self, student, reference, draw):
        """Names, shapes, dtypes and numbers, also of tensors without numbers and of 0-d ones."""
        state = {
            "b.weight": draw.normal(3, 4),
            "a": draw.normal(2, dtype=F64),
            "steps": draw.integers(0, 99)[()],
            "mask": draw.bools(5),
            "none": draw.normal(0, 3),
            "half": draw.normal(3).bfloat16(),
        }
        self.check(student, reference, lambda m: [saved(m, state), saved(m, {"x": state["a"]})])

    def test_layouts(self, student, reference, draw):
        """Non-contiguous tensors are saved as they look."""
        x = draw.normal(6, 5)
        self.check(student, reference, lambda m: [saved(m, {"t": x.T, "s": x[::2, 1:], "e": x[:1].expand(4, 5), "c": x.clone()})])

    def test_tied(self, student, reference, draw):
        """Tied entries are saved once, under the first name in the alphabet, however many there are."""
        x, y = draw.normal(4, 3), draw.normal(5)

        def probe(m):
            three = {"head": x, "embed": x, "more": x, "y": y, "Zed": y, "copy": x.clone()}
            aliases = {"b": x[:], "a": x.view(4, 3), "c": x.detach()}
            return [saved(m, three), saved(m, aliases), saved(m, dict(reversed(three.items())), {"note": "n"})]

        self.check(student, reference, probe)

    def test_tied_layouts(self, student, reference, draw):
        """Non-contiguous tensors are tied as others are, parameters too."""
        x, n = draw.normal(6, 7), draw.integer(1, 4)

        def probe(m):
            part, w = x.T[n:, ::2], nn.Parameter(x[:, n:])
            return [saved(m, {"c": part, "a": x.T[n:, ::2], "b": part[:], "w": w, "v": w, "u": w.data})]

        self.check(student, reference, probe)

    def test_without_numbers(self, student, reference, draw):
        """Tensors without numbers share nothing, though all begin at the same address."""
        x, n = draw.normal(3), draw.integer(1, 40)
        self.check(
            student,
            reference,
            lambda m: [saved(m, {"b": torch.empty(0, n), "a": torch.empty(0, n), "d": x[:0], "c": x[:0], "x": x, "w": x})],
        )

    def test_shared_in_another_way(self, student, reference, draw):
        """Parts, transposed views and views as another dtype are saved each by itself."""
        x, n = draw.normal(4, 4), draw.integer(1, 4)

        def probe(m):
            state = {"whole": x, "part": x[:n], "t": x.T, "flat": x.view(-1), "last": x[n:], "bits": x.view(torch.int32), "same": x}
            return [saved(m, state)]

        self.check(student, reference, probe)

    def test_metadata(self, student, reference, draw):
        """More entries stand beside those of tied names; an empty dict and None are none."""
        x, number = draw.normal(3), str(draw.integer(0, 10**9))

        def probe(m):
            return [saved(m, {"a": x, "b": x}, notes) for notes in ({"run": number, "tied": "no"}, {}, None)] + [saved(m, {"a": x})]

        self.check(student, reference, probe)

    def test_wrong_metadata(self, agree, draw):
        """What is no string, and keys that begin with "tied:", raise a ValueError, and the file stays as it was."""
        x = draw.normal(3)
        bad = [{"epoch": 3}, {3: "epoch"}, {"tied:x": "a"}, {"a": None}, {"a": b"b"}]

        def probe(m):
            def work(folder):
                m.save_safe({"a": x}, folder / "file", {"run": "first"})
                before = (folder / "file").read_bytes()
                out = [raised(ValueError, lambda n=notes: m.save_safe({"a": x + 1}, folder / "file", n)) for notes in bad]
                same = (folder / "file").read_bytes() == before
                return (
                    out,
                    same,
                    sorted(path.name for path in folder.iterdir()),
                    torch.frombuffer(bytearray(before[-12:]), dtype=torch.float32),
                )

            return in_a_folder(work)

        agree(probe, rtol=0, atol=0)

    def test_written_over(self, student, reference, draw):
        """A file that exists is replaced as a whole."""
        x = draw.normal(9)

        def probe(m):
            def work(folder):
                m.save_safe({"a": x, "b": x[:2]}, folder / "file", {"old": "yes"})
                m.save_safe({"c": x[:3]}, folder / "file")
                return torch.frombuffer(bytearray((folder / "file").read_bytes()), dtype=torch.uint8)

            return [in_a_folder(work)]

        self.check(student, reference, probe)

    def test_notes_are_the_callers(self, agree, draw):
        """The caller's dicts stay as they are."""
        x = draw.normal(3)

        def probe(m):
            state, notes = {"b": x, "a": x}, {"run": "1"}
            n = len(saved(m, state, notes))
            return list(state), notes, n > 0, state["b"]

        agree(probe, rtol=0, atol=0)


# load_safe


def with_file(tensors, notes, work):
    """What comes of a file with these tensors and notes."""
    from safetensors.torch import save_file

    def there(folder):
        save_file(tensors, folder / "file", notes)
        return work(folder / "file")

    return in_a_folder(there)


@task("load_safe")
class TestLoadSafe:
    def test_plain(self, agree, draw):
        """Tensors in alphabetical order, and the metadata."""
        tensors = {"b": draw.normal(2, 3), "a": draw.normal(4, dtype=F64), "c": draw.integers(0, 9, 2), "d": draw.normal(3).bfloat16()}
        notes = {"run": str(draw.integer(0, 10**9)), "tied": "x", "a:tied:b": "y"}

        def probe(m):
            state, metadata = with_file(tensors, notes, m.load_safe)
            return list(state), state, metadata

        agree(probe, rtol=0, atol=0)

    def test_tied(self, agree, draw):
        """Tied names have the tensor of their owner; all stand in alphabetical order."""
        tensors = {"b": draw.normal(2, 3), "m": draw.normal(4)}
        notes = {"tied:z": "b", "tied:a": "b", "tied:n": "m", "tied:tied:q": "m", "author": "Ada"}

        def probe(m):
            state, metadata = with_file(tensors, notes, m.load_safe)
            return list(state), state, metadata

        agree(probe, rtol=0, atol=0)

    @measured("object identity")
    def test_the_same_tensor(self, agree, draw):
        """Who changes one of the tied names changes the other, since they are the same tensor."""
        tensors, notes = {"a": draw.normal(2, 3), "b": draw.normal(2)}, {"tied:c": "a", "tied:d": "a"}

        def probe(m):
            state, _ = with_file(tensors, notes, m.load_safe)
            same = state["a"] is state["c"] is state["d"]
            state["c"].mul_(2)
            return state if same else "they are not the same tensor"

        agree(probe, rtol=0, atol=0)

    def test_without_metadata(self, agree, draw):
        """A file without metadata has none."""
        x = draw.normal(3)
        agree(lambda m: [with_file({"a": x}, notes, m.load_safe) for notes in (None, {"k": "v"})], rtol=0, atol=0)

    def test_missing_owner(self, agree, draw):
        """A tied name whose owner is not in the file raises a ValueError."""
        x, missing = draw.normal(3), f"w{draw.integer(0, 99)}"

        def probe(m):
            bad = with_file({"a": x}, {"tied:b": missing}, lambda path: raised(ValueError, lambda: m.load_safe(path)))
            return bad, with_file({"a": x}, {"tied:b": "a"}, m.load_safe)

        agree(probe, rtol=0, atol=0)

    def test_an_owner_that_is_tied(self, agree, draw):
        """A tied name whose owner is a tied name itself raises a ValueError, whichever of the two entries comes first."""
        x, name = draw.normal(3), f"w{draw.integer(0, 10**6)}"
        orders = [
            {"tied:b": "a", "tied:c": "b"},
            {"tied:c": "b", "tied:b": "a"},
            {"tied:b": "b"},
            {"tied:b": "a", "tied:c": "a", "k": name},
        ]

        def probe(m):
            def work(folder):
                for i, notes in enumerate(orders):
                    header = {"__metadata__": notes, "a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}
                    text = json.dumps(header).encode()
                    text += b" " * (-len(text) % 8)
                    (folder / f"file{i}").write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<3f", *x.tolist()))
                return [raised(ValueError, lambda i=i: m.load_safe(folder / f"file{i}")) for i in range(4)], m.load_safe(folder / "file3")

            return in_a_folder(work)

        agree(probe, rtol=0, atol=0)

    def test_odd_names_and_shapes(self, agree, draw):
        """Names in any script, 0-d tensors and such without numbers."""
        tensors = {"größe.α": draw.normal()[()], "leer": draw.normal(0, 2), "x y": draw.bools(3)}
        agree(lambda m: with_file(tensors, {"tied:β": "größe.α", "note": "ü"}, m.load_safe), rtol=0, atol=0)


# safe_load


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def allowed_before():
    """How many classes are allowed."""
    return len(torch.serialization.get_safe_globals())


@task("safe_load")
class TestSafeLoad:
    def test_good_files(self, agree, draw):
        """What is expected comes back, in the order in which it is expected."""
        state = {"w": draw.normal(2, 3), "b": draw.normal(3, dtype=F64), "n": draw.integers(0, 99)[()], "e": draw.normal(0, 2)}
        shapes = {"n": (), "e": (0, 2), "w": (2, 3), "b": (3,)}

        def probe(m):
            def work(folder):
                torch.save(state, folder / "file")
                return list(m.safe_load(folder / "file", shapes).items())

            return in_a_folder(work)

        agree(probe, rtol=0, atol=0)

    def test_a_program(self, agree, draw):
        """A file with a program in it raises a ValueError, and the program does not run."""
        w = draw.normal(2, 3)

        def probe(m):
            def work(folder):
                canary = str(folder / "canary")
                for i, value in enumerate((Canary(canary), [Canary(canary)], {"deep": Canary(canary)})):
                    torch.save({"w": value}, folder / f"bad{i}")
                endings = [raised(ValueError, lambda i=i: m.safe_load(folder / f"bad{i}", {"w": (2, 3)})) for i in range(3)]
                torch.save({"w": w}, folder / "good")
                return endings, sorted(path.name for path in folder.iterdir()), m.safe_load(folder / "good", {"w": (2, 3)})

            return in_a_folder(work)

        agree(probe, rtol=0, atol=0)

    def test_an_allowed_class(self, agree, draw):
        """With `allowed`, a file that needs a class is read; without it, it is refused. The list of allowed classes stays what it was."""
        w = draw.normal(2, 3)

        def probe(m):
            def work(folder):
                from fractions import Fraction

                torch.save({"w": w.as_subclass(Mask)}, folder / "mask")
                torch.save({"w": w, "f": Fraction(1, 3)}, folder / "fraction")
                before = allowed_before()
                calls = [("mask", ()), ("mask", [Fraction]), ("fraction", ()), ("fraction", [Fraction]), ("fraction", (Mask,))]
                endings = [raised(ValueError, lambda n=n, a=a: m.safe_load(folder / n, {"w": (2, 3)}, a)) for n, a in calls]
                read = [m.safe_load(folder / "mask", {"w": (2, 3)}, allowed)["w"] for allowed in ([Mask], (Fraction, Mask))]
                return endings, [x.as_subclass(torch.Tensor) for x in read], allowed_before() - before

            Mask = type("Mask", (torch.Tensor,), {"__module__": "masks_of_a_test"})
            sys.modules["masks_of_a_test"] = ModuleType("masks_of_a_test")
            sys.modules["masks_of_a_test"].Mask = Mask  # where pickle looks for it
            try:
                return in_a_folder(work)
            finally:
                del sys.modules["masks_of_a_test"]

        agree(probe, rtol=0, atol=0)

    @measured("the list of allowed classes")
    def test_what_was_allowed_before(self, agree, draw):
        """A class that somebody else has allowed stays allowed, whether the file is read or refused, and needs no `allowed`."""
        w = draw.normal(2, 3)

        def probe(m):
            from fractions import Fraction

            def work(folder):
                torch.save({"w": w}, folder / "file")
                torch.save({"w": w, "f": Fraction(1, 3)}, folder / "fraction")
                out = [m.safe_load(folder / "file", {"w": (2, 3)}, allowed) for allowed in ([Fraction], ())]
                out.append(raised(ValueError, lambda: m.safe_load(folder / "fraction", {"w": (2, 3)}, [Fraction])))
                stays = Fraction in torch.serialization.get_safe_globals()
                return out if stays else "a class that had been allowed before is not allowed any more"

            before = torch.serialization.get_safe_globals()
            torch.serialization.add_safe_globals([Fraction])
            try:
                return in_a_folder(work)
            finally:
                torch.serialization.clear_safe_globals()
                torch.serialization.add_safe_globals(before)

        agree(probe, rtol=0, atol=0)

    def test_other_names_and_shapes(self, agree, draw):
        """A missing name, one too many, another shape, no tensor and no dict raise a ValueError."""
        w, b = draw.normal(2, 3), draw.normal(3)
        bad = [{"w": w}, {"w": w, "b": b, "c": b}, {"w": w.T, "b": b}, {"w": w, "b": b[:1]}, {"w": w, "b": [1.0, 2.0, 3.0]}, [w, b], w]

        def probe(m):
            def work(folder):
                for i, content in enumerate(bad):
                    torch.save(content, folder / f"bad{i}")
                shapes = {"w": (2, 3), "b": (3,)}
                out = [raised(ValueError, lambda i=i: m.safe_load(folder / f"bad{i}", shapes)) for i in range(len(bad))]
                torch.save({"b": b, "w": w}, folder / "file")
                return out, list(m.safe_load(folder / "file", {"w": (2, 3), "b": (3,)}).items())

            return in_a_folder(work)

        agree(probe, rtol=0, atol=0)


# ScriptedGate


def gate_task(draw, D=3):
    """Drawn weights, and a threshold."""
    state = {f"{layer}.{part}": draw.normal(*shape) for layer in ("loud", "quiet") for part, shape in (("weight", (D, D)), ("bias", (D,)))}
    return state, draw.uniform(1, low=0.5, high=2.0).item()


def reloaded(m, state, threshold, *inputs, mode=True):
    """What the saved program gives for these inputs."""

    def work(folder):
        gate = fill(m.ScriptedGate(state["loud.bias"].shape[0], threshold), state).train(mode)
        gate.save(folder / "gate.pt")
        program = torch.jit.load(folder / "gate.pt")
        return [program(x) for x in inputs]

    return in_a_folder(work)


@task("ScriptedGate")
class TestScriptedGate:
    def test_forward(self, agree, draw):
        """Small inputs take the quiet way, large ones are halved and take the loud one."""
        state, threshold = gate_task(draw)
        inputs = [factor * threshold * draw.uniform(4, 3, low=0.9, high=1.1) for factor in (0.3, 0.8, 1.3, 9.0, 700.0, 1e30)]
        agree(lambda m: [fill(m.ScriptedGate(3, threshold), state)(x) for x in inputs], rtol=1e-4, atol=1e-4)

    def test_saved(self, agree, draw):
        """The program takes either way, with as many rounds as it needs."""
        state, threshold = gate_task(draw)
        inputs = [factor * threshold * draw.uniform(4, 3, low=0.9, high=1.1) for factor in (0.3, 0.8, 1.3, 9.0, 700.0, 1e30)]
        agree(lambda m: reloaded(m, state, threshold, *inputs), rtol=1e-4, atol=1e-4)

    def test_shapes(self, agree, draw):
        """Inputs of any shape, and one number."""
        state, threshold = gate_task(draw)
        one, small = gate_task(draw, D=1)
        inputs = [3 * draw.normal(*shape) for shape in ((3,), (2, 3), (2, 1, 4, 3))]
        single = 5 * draw.normal(1)

        def probe(m):
            return reloaded(m, state, threshold, *inputs), reloaded(m, one, small, single), fill(m.ScriptedGate(1, small), one)(single)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_at_the_threshold(self, agree, draw):
        """A mean that equals the threshold is not above it."""
        state, _ = gate_task(draw)
        sign = 1 - 2 * draw.integers(0, 2, 4, 3).float()
        inputs = [0.5 * sign, 2.0 * sign, 4.0 * sign]
        agree(lambda m: (reloaded(m, state, 0.5, *inputs), fill(m.ScriptedGate(3, 0.5), state)(inputs[0])), rtol=1e-4, atol=1e-4)

    def test_float64(self, agree, draw):
        """A model in float64 stays one."""
        state, threshold = gate_task(draw)
        x = 3 * draw.normal(5, 3, dtype=F64)

        def probe(m):
            def work(folder):
                fill(m.ScriptedGate(3, threshold), state).double().save(folder / "gate.pt")
                return torch.jit.load(folder / "gate.pt")(x)

            return in_a_folder(work)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_the_weights_of_then(self, agree, draw):
        """The file holds the weights as they are when it is written; later changes of the model don't change it."""
        state, threshold = gate_task(draw)
        x = draw.normal(4, 3)

        def probe(m):
            def work(folder):
                gate = fill(m.ScriptedGate(3, threshold), state)
                gate.save(folder / "gate.pt")
                with torch.no_grad():
                    for p in gate.parameters():
                        p.zero_()
                return torch.jit.load(folder / "gate.pt")(x), gate(x)

            return in_a_folder(work)

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("modes")
    def test_mode(self, agree, draw):
        """The program has the mode in which the model is, and the model is left in it."""
        state, threshold = gate_task(draw)
        x = draw.normal(4, 3)

        def probe(m):
            def work(folder):
                out = []
                for mode in (True, False):
                    gate = fill(m.ScriptedGate(3, threshold), state).train(mode)
                    gate.save(folder / "gate.pt")
                    program = torch.jit.load(folder / "gate.pt")
                    out.append((program(x), program.training, gate.training))
                return out

            return in_a_folder(work)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_gradients(self, agree, draw):
        """Both ways have gradients."""
        state, threshold = gate_task(draw)
        inputs = [factor * threshold * draw.uniform(4, 3, low=0.9, high=1.1) for factor in (0.5, 5.0)]

        def probe(m):
            out = []
            for x in inputs:
                gate, leaf = fill(m.ScriptedGate(3, threshold), state), x.clone().requires_grad_()
                gate(leaf)[0].square().sum().backward()
                out.append((leaf.grad, {name: 0 if p.grad is None else p.grad for name, p in gate.named_parameters()}))
            return out

        agree(probe, rtol=1e-3, atol=1e-3)


# ExportableModel


def exported(m, state, threshold, steps, inputs):
    """What the exported program gives."""
    program = fill(m.ExportableModel(state["loud.bias"].shape[0], threshold), state).program(steps).module()
    return [program(x) for x in inputs]


@task("ExportableModel")
class TestExportableModel:
    def test_forward(self, agree, draw):
        """Either way, for batches of several sizes, also 8."""
        state, threshold = gate_task(draw)
        inputs = [f * threshold * draw.normal(B, 4, 3) for B, f in ((1, 0.2), (2, 5.0), (8, 0.3), (8, 4.0), (5, 3.0))]
        inputs += [
            x * torch.tensor([9.0, 0.05, 0.05, 0.05, 0.05])[:, None, None] for x in (draw.normal(5, 4, 3), 0.1 * draw.normal(5, 4, 3))
        ]
        agree(lambda m: [fill(m.ExportableModel(3, threshold), state)(x) for x in inputs], rtol=1e-4, atol=1e-4)

    def test_program(self, agree, draw):
        """Exported once, the program takes either way for every batch, one included."""
        state, threshold = gate_task(draw)
        inputs = [f * threshold * draw.normal(B, 4, 3) for B in (1, 2, 3, 8, 11) for f in (0.3, 4.0)]
        agree(lambda m: exported(m, state, threshold, 4, inputs), rtol=1e-4, atol=1e-4)

    def test_one_step(self, agree, draw):
        """A single step, and a single feature; a batch of one beside a large one."""
        state, threshold = gate_task(draw, D=1)
        inputs = [f * threshold * draw.normal(B, 1, 1) for B, f in ((1, 4.0), (20_011, 0.3), (6, 3.0))]

        def probe(m):
            return exported(m, state, threshold, 1, inputs), [fill(m.ExportableModel(1, threshold), state)(x) for x in inputs[::2]]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_float64(self, agree, draw):
        """A model in float64 is exported as one."""
        state, threshold = gate_task(draw)
        inputs = [f * draw.normal(B, 2, 3, dtype=F64) for B, f in ((3, 5.0), (4, 0.1))]

        def probe(m):
            program = fill(m.ExportableModel(3, threshold), state).double().program(2).module()
            return [program(x) for x in inputs]

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("modes")
    def test_mode(self, agree, draw):
        """The model is left in the mode in which it is, and can be trained as before, without gradients that nobody asked for."""
        state, threshold = gate_task(draw)
        x = 3 * threshold * draw.normal(4, 2, 3)

        def probe(m):
            model = fill(m.ExportableModel(3, threshold), state).train()
            program = model.program(2)
            left = model.training and model.loud.training and all(p.grad is None and p.requires_grad for p in model.parameters())
            return program.module()(x) if left else "the model is in another mode, or its parameters are not as they were"

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_saved(self, agree, draw):
        """The program can be saved, and loaded without the class."""
        state, threshold = gate_task(draw)
        inputs = [f * threshold * draw.normal(B, 2, 3) for B, f in ((1, 4.0), (6, 0.3))]

        def probe(m):
            def work(folder):
                program = fill(m.ExportableModel(3, threshold), state).program(2)
                torch.export.save(program, folder / "program.pt2")
                loaded = torch.export.load(folder / "program.pt2").module()
                return [loaded(x) for x in inputs]

            return in_a_folder(work)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_at_the_threshold(self, agree, draw):
        """A mean that equals the threshold is not above it."""
        state, _ = gate_task(draw)
        x = 0.5 - draw.integers(0, 2, 4, 2, 3).float()
        agree(lambda m: [fill(m.ExportableModel(3, t), state)(x) for t in (0.5, 0.4)], rtol=1e-4, atol=1e-4)

    def test_gradients(self, agree, draw):
        """The model can still be trained, on either way."""
        state, threshold = gate_task(draw)
        inputs = [f * threshold * draw.normal(4, 2, 3) for f in (0.3, 5.0)]

        def probe(m):
            out = []
            for x in inputs:
                model = fill(m.ExportableModel(3, threshold), state)
                model(x).square().sum().backward()
                out.append({name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()})
            return out

        agree(probe, rtol=1e-3, atol=1e-2)


# fuse_graph


class Odd(nn.Module):
    """Modules that are made in another order than they are called, with pairs that may be fused, and others that may not."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.n1, self.n2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.c2, self.c1 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False), nn.Conv2d(2, 4, 3, padding=1)
        self.bare = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        """One of several graphs."""
        kind = self.kind
        if kind == "two pairs":
            return self.n2(self.c2(self.n1(self.c1(x)).relu()))
        if kind == "shared norm":
            return self.n1(self.c2(self.n1(self.c1(x)).relu()))
        if kind == "shared conv":
            y = self.n1(self.c2(self.c1(x)))
            return self.n2(self.c2(y.relu()))
        if kind == "used twice":
            y = self.c1(x)
            return self.n1(y) + y.relu()
        if kind == "something between":
            return self.n1(self.c1(x).relu())
        if kind == "no statistics":
            return self.bare(self.c1(x)) + 0 * x.sum()
        if kind == "side by side":
            a, b = self.c1(x), self.c2(x.repeat(1, 2, 1, 1))
            return self.n1(a) * self.n2(b).sigmoid()
        if kind == "norm first":
            return self.c2(self.n1(self.c2(self.c1(x)).tanh())) + self.n2(self.c1(x))
        return self.n2(self.n1(self.c1(x)))


KINDS = (
    "two pairs",
    "shared norm",
    "shared conv",
    "used twice",
    "something between",
    "no statistics",
    "side by side",
    "norm first",
    "two norms",
)


def drawn_state(draw, module):
    """Drawn weights and statistics for all that a module has."""
    state = {}
    for name, x in module.state_dict().items():
        if x.is_floating_point():
            state[name] = draw.uniform(*x.shape, low=0.5, high=2.0) if "running_var" in name else draw.normal(*x.shape)
        else:
            state[name] = x
    return state


def norms(model):
    """How many batch norms a model has."""
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def odd(kind, state):
    """The model in eval mode."""
    return fill(Odd(kind), state).eval()


@task("fuse_graph")
class TestFuseGraph:
    @pytest.mark.parametrize("kind", KINDS)
    def test_graphs(self, agree, draw, kind):
        """The result computes the same, with as few batch norms as may be."""
        state, x = drawn_state(draw, Odd(kind)), draw.normal(2, 2, 6, 5)

        def probe(m):
            fused, model = m.fuse_graph(odd(kind, state)), odd(kind, state)
            return fused(x), norms(fused), bool((fused(x) - model(x)).abs().max() < 1e-2)

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_nested(self, agree, draw):
        """Pairs within submodules are fused as well."""
        inner = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
        state, x = drawn_state(draw, inner), draw.normal(2, 2, 3, 3)

        def probe(m):
            model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
            fused = m.fuse_graph(fill(model, state).eval())
            return fused(x), norms(fused), sum(p.numel() for p in fused.parameters())

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_settings_of_norms(self, agree, draw):
        """Batch norms without weights, and with another eps."""
        state, x = drawn_state(draw, nn.Conv2d(2, 3, 3, stride=2)), draw.normal(2, 2, 7, 7)
        mean, var = draw.normal(3), draw.uniform(3, low=0.01, high=0.1)

        def probe(m):
            norm = nn.BatchNorm2d(3, affine=False, eps=0.1)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
            fused = m.fuse_graph(nn.Sequential(fill(nn.Conv2d(2, 3, 3, stride=2), state), norm).eval())
            return fused(x), norms(fused)

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_settings_of_convolutions(self, agree, draw):
        """Dilation, padding by reflection, groups, odd kernels, and float64."""

        def pair():
            conv = nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2, padding_mode="reflect")
            return nn.Sequential(conv, nn.BatchNorm2d(6)).double().eval()

        state = {name: x.double() if x.is_floating_point() else x for name, x in drawn_state(draw, pair()).items()}
        x = draw.normal(2, 4, 7, 6, dtype=F64)

        def probe(m):
            fused = m.fuse_graph(fill(pair(), state))
            return fused(x), norms(fused)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_the_model_stays(self, agree, draw):
        """The model keeps its batch norms and its weights, and later changes of it don't reach the result."""
        state, x = drawn_state(draw, Odd("two pairs")), draw.normal(2, 2, 6, 5)

        def probe(m):
            model = odd("two pairs", state)
            fused = m.fuse_graph(model)
            before, count = model(x), norms(model)
            with torch.no_grad():
                for p in model.parameters():
                    p.zero_()
            return before, count, fused(x)

        agree(probe, rtol=1e-3, atol=1e-3)

    @measured("modes")
    def test_mode(self, agree, draw):
        """The result is in eval mode, with all its parts; the model is too."""
        state, x = drawn_state(draw, Odd("norm first")), draw.normal(2, 2, 6, 5)

        def probe(m):
            model = odd("norm first", state)
            fused = m.fuse_graph(model)
            pair = m.fuse_graph(odd("two pairs", state))
            ready = not any(module.training for module in [*fused.modules(), *pair.modules(), *model.modules()])
            return (fused(x), norms(pair), pair(x)) if ready else "a part is in train mode"

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_nothing_to_fuse(self, agree, draw):
        """A model without batch norms, and one without convolutions, compute what they did."""
        w, x, state = draw.normal(3, 3), draw.normal(2, 3, 4, 4), drawn_state(draw, nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)))

        def probe(m):
            linear = nn.Linear(3, 3, bias=False)
            linear.weight.data.copy_(w)
            norm = nn.BatchNorm2d(3).eval()
            norm.running_mean.copy_(w[0])
            pair = m.fuse_graph(fill(nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3)), state).eval())
            return m.fuse_graph(nn.Sequential(linear).eval())(x[:, :, 0, 0]), m.fuse_graph(nn.Sequential(norm).eval())(x), norms(pair)

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_other_convolutions(self, agree, draw):
        """A transposed convolution before a batch norm stays, and so does a 1-d pair."""
        up, line = nn.ConvTranspose2d(2, 3, 2), nn.Conv1d(2, 3, 2)
        pair = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        states, x = [drawn_state(draw, module) for module in (up, line, pair)], draw.normal(2, 2, 4, 4)
        mean = draw.normal(3)

        def probe(m):
            two, one = nn.BatchNorm2d(3), nn.BatchNorm1d(3)
            for norm in (two, one):
                norm.running_mean.copy_(mean)
            first = m.fuse_graph(nn.Sequential(fill(nn.ConvTranspose2d(2, 3, 2), states[0]), two).eval())
            second = m.fuse_graph(nn.Sequential(fill(nn.Conv1d(2, 3, 2), states[1]), one).eval())
            pair = m.fuse_graph(fill(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), states[2]).eval())
            return first(x), second(x[..., 0]), norms(first), len(list(second.buffers())), norms(pair), pair(x)

        agree(probe, rtol=1e-3, atol=1e-3)


# Handler


class Scorer(nn.Module):
    """A linear model with dropout."""

    def __init__(self, w):
        super().__init__()
        self.in_features = w.shape[0]
        self.w, self.dropout = nn.Parameter(w.clone()), nn.Dropout(0.5)

    def forward(self, x):
        """(B, D) to (B, L)."""
        return self.dropout(x) @ self.w


class CountingScorer(Scorer):
    """Notes how it is called."""

    def __init__(self, w):
        super().__init__(w)
        self.calls = []

    def forward(self, x):
        """(B, D) to (B, L)."""
        self.calls.append((len(x), torch.is_grad_enabled()))
        return super().forward(x)


LABELS = ["null", "one", "zwei", "trois"]


def answered(m, w, requests, labels=LABELS):
    """Answers to a batch, with errors as whether they say something."""
    handler = m.Handler()
    handler.initialize(Scorer(w), labels)
    answers = handler.handle(requests)
    return [{**a, "error": isinstance(a["error"], str) and a["error"] != ""} if "error" in a else a for a in answers]


def asked(x, name=None):
    """A request."""
    return json.dumps({"x": x} if name is None else {"id": name, "x": x})


@task("Handler")
class TestHandler:
    def test_good(self, agree, draw):
        """Label and score of the largest output, in order, with ids of any kind."""
        w, x = draw.normal(3, 4), draw.normal(6, 3).tolist()
        names = ["a7", 12, None, 1.5, ["k", 1], {"z": None}]
        agree(lambda m: answered(m, w, [asked(v, n) for v, n in zip(x, names, strict=True)]), rtol=1e-4, atol=1e-5)

    def test_bad_ones(self, agree, draw):
        """Bad requests get an error and their id; the good ones between them get their answers."""
        w, x = draw.normal(3, 4), draw.normal(19, 3).tolist()
        bad = [
            "hello",
            "",
            "7",
            '"x"',
            "true",
            '["id", "x"]',
            "[1, 2, 3]",
            "null",
            '{"id": 5}',
            '{"id": 6, "x": [1, 2]}',
            '{"id": 7, "x": [1, 2, 3, 4]}',
            '{"id": 8, "x": [1, 2, "3"]}',
            '{"id": 9, "x": [1, true, 3]}',
            '{"id": 10, "x": [[1], [2], [3]]}',
            '{"id": 11, "x": "123"}',
            '{"id": 12, "x": {"0": 1, "1": 2, "2": 3}}',
            '{"id": 13, "x": [1, null, 3]}',
            '{"id": 14, "x": null}',
            '{"id": 15, "x": 3}',
        ]
        mixed = [r for pair in zip(bad, [asked(v, i) for i, v in enumerate(x)], strict=True) for r in pair]
        agree(lambda m: answered(m, w, mixed), rtol=1e-4, atol=1e-5)

    def test_numbers_that_are_not_finite(self, agree, draw):
        """NaN, infinities, and numbers that are too large for float32 are bad; large ones and ints are good."""
        w, good = draw.normal(2, 3), draw.integers(-9, 9, 2).tolist()
        texts = [
            "[NaN, 0]",
            "[0, Infinity]",
            "[-Infinity, 1]",
            "[1e39, 0]",
            "[1e999, 0]",
            f"[{10**400}, 0]",
            f"[0, -{10**60}]",
            "[1e30, 0]",
        ]
        requests = [f'{{"x": {text}}}' for text in texts] + [asked(good), asked([0, 0.5])]
        agree(lambda m: answered(m, w, requests, LABELS[:3]), rtol=1e-4, atol=1e-5)

    def test_deep_nesting(self, agree, draw):
        """A text that is nested without end is a bad request like others."""
        w, x = draw.normal(2, 3), draw.normal(2).tolist()
        deep = ['{"x": ' + "[" * 100_000, "[" * 100_000 + "]" * 100_000]
        agree(lambda m: answered(m, w, [deep[0], asked(x), deep[1]], LABELS[:3]), rtol=1e-4, atol=1e-5)

    def test_only_bad_and_none(self, agree, draw):
        """A batch of bad requests, and one of none; afterwards a good one."""
        w, x = draw.normal(2, 3), draw.normal(2).tolist()
        agree(lambda m: [answered(m, w, r, LABELS[:3]) for r in (["x", "{}"], [], [asked(x, "a")])], rtol=1e-4, atol=1e-5)

    def test_one_input_and_label(self, agree, draw):
        """One input and two labels; and a single label, whose score is 1."""
        two, one, x = draw.normal(1, 2), draw.normal(3, 1), draw.normal(3).tolist()
        agree(lambda m: (answered(m, two, [asked(x[:1])], LABELS[:2]), answered(m, one, [asked(x)], LABELS[:1])), rtol=1e-4, atol=1e-5)

    def test_batch_after_batch(self, agree, draw):
        """Large and small batches, one after another, of two handlers side by side: none knows of the others."""
        w, x = [draw.normal(3, 4), draw.normal(3, 2)], draw.normal(140, 3).tolist()

        def probe(m):
            handlers = [m.Handler(), m.Handler()]
            for handler, one in zip(handlers, w, strict=True):
                handler.initialize(Scorer(one), LABELS[: one.shape[1]])
            out = []
            for start, stop in ((0, 3), (3, 4), (4, 140), (7, 9)):
                requests = [*(asked(v, i // 3) for i, v in enumerate(x[start:stop])), "bad"]  # some ids are the same
                out += [handler.handle(requests)[:-1] for handler in handlers]
            return out

        agree(probe, rtol=1e-4, atol=1e-5)

    @measured("modes")
    def test_initialize(self, agree, draw):
        """The model is in eval mode afterwards, and stays in it."""
        w, x = draw.normal(3, 4), draw.normal(3).tolist()

        def probe(m):
            model, handler = Scorer(w).train(), m.Handler()
            handler.initialize(model, LABELS)
            first = model.training
            answers = handler.handle([asked(x)])
            return answers if not first and not model.training and not model.dropout.training else "the model is in train mode"

        agree(probe, rtol=1e-4, atol=1e-5)

    @measured("calls")
    def test_one_call(self, agree, draw):
        """The model is called once for a batch, with the good ones only, without a graph; and not at all for none."""
        w, x = draw.normal(3, 4), draw.normal(5, 3).tolist()

        def probe(m):
            model, handler = CountingScorer(w), m.Handler()
            handler.initialize(model, LABELS)
            handler.handle(["bad"])
            handler.handle([])
            answers = handler.handle([*[asked(v) for v in x], "bad"])
            return answers[:5] if model.calls == [(5, False)] else f"the calls were {model.calls}"

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_steps(self, agree, draw):
        """Preprocess gives ids and float32 inputs, and None for a bad request; inference gives the softmax."""
        w, x = draw.normal(3, 4), draw.normal(2, 3)

        def probe(m):
            handler = m.Handler()
            handler.initialize(Scorer(w), LABELS)
            read = handler.preprocess([asked(x[0].tolist(), "a"), '{"id": 3, "x": 1}', asked(x[1].tolist())])
            return [list(pair) for pair in read], handler.inference([x[0], x[1]]).clone(), handler.inference([]).shape

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_types(self, agree, draw):
        """Labels are str and scores float, so that json can write an answer."""
        w, x = draw.normal(3, 4), draw.normal(4, 3).tolist()

        def probe(m):
            handler = m.Handler()
            handler.initialize(Scorer(w), LABELS)
            return [json.loads(json.dumps(answer)) for answer in handler.handle([asked(v, i) for i, v in enumerate(x)])]

        agree(probe, rtol=1e-4, atol=1e-5)


# DynamicBatcher


class Clock:
    """A clock that is set by hand, and counts how often it is read."""

    def __init__(self):
        self.now, self.reads = 0.0, 0

    def __call__(self):
        self.reads += 1
        return self.now


class Server:
    """Runs batches. Each result tells of its request, of the whole batch, of its place in it and of the number of the run.

    It refuses a batch that has a number above the limit, and says in which run.
    """

    def __init__(self, w, limit=math.inf):
        self.w, self.limit, self.runs = w, limit, 0

    def __call__(self, x):
        self.runs += 1
        if x.numel() and x.max() > self.limit:
            raise RuntimeError(f"too large: {float(x.max()):.5f} in run {self.runs}")
        own = x.reshape(len(x), -1) @ self.w[: x[0].numel(), 0]
        return torch.stack([own, own.sum().expand(len(x)), torch.arange(len(x)).to(own), torch.full_like(own, self.runs)], 1)


def outcome(batcher, ticket):
    """A result, None, or the error: what the server said, or the name of another one."""
    try:
        return batcher.result(ticket)
    except NotImplementedError:
        raise
    except Exception as error:
        return str(error) if isinstance(error, RuntimeError) else type(error).__name__


def batcher_of(m, w, *, max_size=3, max_wait=1.0, limit=math.inf):
    """A batcher with its server and its clock."""
    clock, server = Clock(), Server(w, limit)
    return m.DynamicBatcher(server, max_size=max_size, max_wait=max_wait, clock=clock), server, clock


def scenario(m, w, x, seed, *, max_size, max_wait, limit=math.inf, count=40):
    """A drawn life of requests of three shapes: what each poll does, and all results."""
    batcher, server, clock = batcher_of(m, w, max_size=max_size, max_wait=max_wait, limit=limit)
    generator, log, tickets = seeded(seed), [], []
    for i in range(count):
        what = int(torch.randint(4, (), generator=generator))
        if what < 3:
            tickets.append(batcher.submit(x[i, : (5, 2, 3)[what]]))
        clock.now += int(torch.randint(3, (), generator=generator)) / 4
        if torch.rand((), generator=generator) < 0.6:
            log.append(batcher.poll())
            log.append([outcome(batcher, t) for t in tickets[::3]])
    clock.now += 100
    log.append(batcher.poll())
    return tickets, log, [outcome(batcher, t) for t in tickets], server.runs


@task("DynamicBatcher")
class TestDynamicBatcher:
    @pytest.mark.parametrize(("max_size", "max_wait"), [(1, 1.0), (3, 1.0), (4, 0.5), (50, 2.0), (3, 0.0)])
    def test_lives(self, agree, draw, max_size, max_wait):
        """Batches, counts and results of many requests of three shapes, under several settings."""
        w, x, seed = draw.normal(5, 2), draw.normal(40, 5), draw.seed()
        agree(lambda m: scenario(m, w, x, seed, max_size=max_size, max_wait=max_wait), rtol=1e-4, atol=1e-5)

    def test_failures(self, agree, draw):
        """A batch that fails runs again one by one, so that only those fail that can't be run."""
        w, x, seed = draw.normal(5, 2), draw.normal(40, 5), draw.seed()
        agree(lambda m: scenario(m, w, x, seed, max_size=4, max_wait=1.0, limit=1.5), rtol=1e-4, atol=1e-5)

    def test_full_is_due_at_once(self, agree, draw):
        """A full queue does not wait, and a smaller one does until its time has come, to the very second."""
        w, x = draw.normal(5, 2), draw.normal(8, 5)

        def probe(m):
            batcher, _, clock = batcher_of(m, w, max_size=3, max_wait=2.0)
            out = []
            for i in range(4):
                batcher.submit(x[i])
                out.append(batcher.poll())
            for moment in (1.0, 1.75, 2.0, 3.0):
                clock.now = moment
                out.append(batcher.poll())
            return out, [outcome(batcher, t) for t in range(4)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_the_oldest_counts(self, agree, draw):
        """Waiting is counted from the oldest request, and younger ones go with it."""
        w, x = draw.normal(5, 2), draw.normal(8, 5)

        def probe(m):
            batcher, _, clock = batcher_of(m, w, max_size=9, max_wait=2.0)
            out = []
            for i in range(8):
                batcher.submit(x[i])
                clock.now += 0.75
                out.append(batcher.poll())
            return out, [outcome(batcher, t) for t in range(8)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_shapes_wait_apart(self, agree, draw):
        """Each shape has its own queue; the due queue with the oldest request comes first."""
        w, x = draw.normal(5, 2), draw.normal(9, 5)

        def probe(m):
            batcher, _, clock = batcher_of(m, w, max_size=3, max_wait=1.0)
            for i, size in enumerate((4, 2, 2, 4, 2, 3, 2, 4, 4)):
                batcher.submit(x[i, :size])
            out = [batcher.poll()]
            clock.now = 1.0
            out.append(batcher.poll())
            return out, [outcome(batcher, t) for t in range(9)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_shapes_of_one_size(self, agree, draw):
        """Shapes with as many numbers are different shapes, and requests of each find their own results."""
        w, x, seed = draw.normal(6, 2), draw.normal(24, 6), draw.seed()

        def probe(m):
            batcher, server, clock = batcher_of(m, w, max_size=3, max_wait=1.0)
            generator, tickets = seeded(seed), []
            for row in x:
                shape = [(6,), (2, 3), (3, 2), (1, 6)][int(torch.randint(4, (), generator=generator))]
                tickets.append(batcher.submit(row.reshape(shape)))
            out = [batcher.poll()]
            clock.now = 1.0
            return out, batcher.poll(), server.runs, [outcome(batcher, t) for t in tickets]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_more_than_full(self, agree, draw):
        """One poll runs all that is due, in batches of at most max_size; the rest waits for its time."""
        w, x = draw.normal(5, 2), draw.normal(11, 5)

        def probe(m):
            batcher, _, clock = batcher_of(m, w, max_size=4, max_wait=1.0)
            for row in x:
                batcher.submit(row)
            out = [batcher.poll(), outcome(batcher, 10)]
            clock.now = 5.0
            return [*out, batcher.poll(), [outcome(batcher, t) for t in range(11)]]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_results(self, agree, draw):
        """None while a request waits; a result once; then, and for unknown tickets, a KeyError. Errors are raised once, too."""
        w, x = draw.normal(5, 2), draw.uniform(4, 5, low=-1.0, high=0.0)
        x[1, 0] = 9.0

        def probe(m):
            batcher, _, clock = batcher_of(m, w, max_size=9, max_wait=1.0, limit=5.0)
            tickets = [batcher.submit(row) for row in x]
            out = [outcome(batcher, t) for t in (0, 3, 4, -1)]
            clock.now = 1.0
            batcher.poll()
            return tickets, out, [outcome(batcher, t) for t in (2, 1, 0, 0, 1, 3)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_no_batch_runs_before_poll(self, agree, draw):
        """Submit runs nothing, also if a queue is full; poll without requests does nothing."""
        w, x = draw.normal(5, 2), draw.normal(5, 5)

        def probe(m):
            batcher, server, _ = batcher_of(m, w, max_size=2)
            out = [batcher.poll()]
            for row in x:
                batcher.submit(row)
            return out, server.runs, [outcome(batcher, t) for t in range(5)], batcher.poll(), [outcome(batcher, t) for t in range(5)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_copies(self, agree, draw):
        """A request that is changed after submit runs as it was."""
        w, x = draw.normal(5, 2), draw.normal(3, 5)

        def probe(m):
            batcher, _, _ = batcher_of(m, w, max_size=3)
            mine = x.clone()
            for row in mine:
                batcher.submit(row)
                row.zero_()
            return batcher.poll(), [outcome(batcher, t) for t in range(3)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_scalars(self, agree, draw):
        """Requests may be 0-d."""
        w, x = draw.normal(5, 2), draw.normal(3)

        def probe(m):
            batcher, _, _ = batcher_of(m, w, max_size=3)
            tickets = [batcher.submit(one) for one in x]
            return batcher.poll(), [outcome(batcher, t) for t in tickets]

        agree(probe, rtol=1e-4, atol=1e-5)

    @measured("calls")
    def test_the_clock_is_read_once(self, agree, draw):
        """A poll reads the clock once, however much it runs, and so does submit."""
        w, x = draw.normal(5, 2), draw.normal(7, 5)

        def probe(m):
            batcher, _, clock = batcher_of(m, w, max_size=2)
            for row in x:
                batcher.submit(row)
            submits = clock.reads
            batcher.poll()
            results = [outcome(batcher, t) for t in range(7)]
            return results if (submits, clock.reads) == (7, 8) else f"the clock was read {submits} and {clock.reads} times"

        agree(probe, rtol=1e-4, atol=1e-5)


# ContinuousBatcher


class Speaker:
    """A small language model: logits come from the text alone, or with `timed` also from its place, the texts' number and the call's."""

    def __init__(self, table, timed=False):
        self.table, self.timed, self.calls = table, timed, 0

    def __call__(self, texts):
        if not texts:
            raise RuntimeError("called for none")
        V, self.calls = len(self.table), self.calls + 1
        extra = [self.timed * (5 * self.calls + 2 * i + 3 * len(texts)) for i in range(len(texts))]
        rows = [self.table[(text[-1] * 3 + len(text) + 7 * text[0] + more) % V] for text, more in zip(texts, extra, strict=True)]
        for text in texts:
            text.clear()  # its lists are its own
        return torch.stack(rows)


def spoken(m, table, jobs, *, slots, end=0):
    """All that happens to these (step, prompt, at_most) jobs."""
    speaker = Speaker(table, timed=True)
    batcher = m.ContinuousBatcher(speaker, slots=slots, end=end)
    log, numbers, step = [], [], 0
    pending = list(jobs)
    while pending or step < 60:
        while pending and pending[0][0] <= step:
            _, prompt, at_most = pending.pop(0)
            numbers.append(batcher.submit(prompt, at_most))
        log.append(batcher.step())
        step += 1
    return numbers, log, speaker.calls


def jobs_of(draw, count, V):
    """Drawn texts, which come in over time."""
    start, out = 0, []
    for _ in range(count):
        start += draw.integer(0, 3)
        out.append((start, draw.integers(0, V, draw.integer(1, 5)).tolist(), draw.integer(1, 8)))
    return out


@task("ContinuousBatcher")
class TestContinuousBatcher:
    @pytest.mark.parametrize("slots", [1, 2, 5, 50])
    def test_lives(self, agree, draw, slots):
        """What the model is asked in each step, and when which text is finished."""
        table, jobs = draw.normal(11, 11), jobs_of(draw, 14, 11)
        agree(lambda m: spoken(m, table, jobs, slots=slots), rtol=0, atol=0)

    def test_the_end(self, agree, draw):
        """A text ends with the end token, which it keeps, and one in its prompt ends nothing."""
        table, V = draw.normal(7, 7), 7
        table[:, 4] += 1.0
        jobs = [(0, [4, 4], 6), (0, [draw.integer(0, V), 4], 6), (1, draw.integers(0, V, 3).tolist(), 6)]
        agree(lambda m: spoken(m, table, jobs, slots=2, end=4), rtol=0, atol=0)

    def test_one_token(self, agree, draw):
        """A text that may get one token is finished after a step, and its slot is free for the next."""
        table = draw.normal(9, 9)
        jobs = [(0, draw.integers(0, 9, 2).tolist(), 1) for _ in range(7)]
        agree(lambda m: spoken(m, table, jobs, slots=3, end=100), rtol=0, atol=0)

    def test_as_one_by_one(self, agree, draw):
        """Run finishes all, with the texts that each would get alone."""
        table, prompts = draw.normal(13, 13), [draw.integers(0, 13, n).tolist() for n in (1, 4, 2, 3, 1, 2)]

        def probe(m):
            batcher = m.ContinuousBatcher(Speaker(table), slots=3, end=0)
            for i, prompt in enumerate(prompts):
                batcher.submit(prompt, at_most=3 + i)
            together, out = batcher.run(), []
            for i, prompt in enumerate(prompts):
                alone = m.ContinuousBatcher(Speaker(table), slots=1, end=0)
                alone.submit(prompt, at_most=3 + i)
                out.append(alone.run()[0])
            return dict(sorted(together.items())), out

        agree(probe, rtol=0, atol=0)

    def test_run_goes_on(self, agree, draw):
        """Run after some steps gives what was finished by it; afterwards new texts can come; run without texts gives none."""
        table, prompts = draw.normal(13, 13), [draw.integers(0, 13, 2).tolist() for _ in range(5)]

        def probe(m):
            batcher = m.ContinuousBatcher(Speaker(table), slots=2, end=0)
            out = [batcher.run()]
            for prompt in prompts[:4]:
                batcher.submit(prompt, at_most=4)
            out += [batcher.step(), batcher.step(), dict(sorted(batcher.run().items())), batcher.run(), batcher.step()]
            number = batcher.submit(prompts[4], at_most=2)
            return out, number, batcher.run()

        agree(probe, rtol=0, atol=0)

    def test_ties(self, agree, draw):
        """Of several likeliest tokens the smallest is taken."""
        table, prompt = draw.integers(0, 2, 9, 9).float(), draw.integers(0, 9, 3).tolist()
        agree(lambda m: spoken(m, table, [(0, prompt, 9), (0, prompt[:1], 9)], slots=2, end=100), rtol=0, atol=0)

    def test_prompts_stay(self, agree, draw):
        """The caller's list stays as it is, and may be changed afterwards."""
        table, prompt = draw.normal(9, 9), draw.integers(0, 9, 3).tolist()

        def probe(m):
            batcher, mine = m.ContinuousBatcher(Speaker(table), slots=2, end=100), list(prompt)
            batcher.submit(mine, 4)
            batcher.submit(tuple(prompt), 2)
            first = list(mine)
            mine.append(5)
            return dict(sorted(batcher.run().items())), first

        agree(probe, rtol=0, atol=0)

    @measured("calls")
    def test_not_called_for_none(self, agree, draw):
        """Without texts the model is not called."""
        table, prompt = draw.normal(9, 9), draw.integers(0, 9, 3).tolist()

        def probe(m):
            speaker = Speaker(table)
            batcher = m.ContinuousBatcher(speaker, slots=2, end=100)
            batcher.step()
            batcher.submit(prompt, 2)
            out = batcher.run()
            batcher.step()
            return out if speaker.calls == 2 else f"the model was called {speaker.calls} times"

        agree(probe, rtol=0, atol=0)


# speculative_step


def distributions(draw, B, K, V, dtype=F64):
    """Drawn probabilities of the two models, and guesses."""
    draft = draw.normal(B, K, V, dtype=dtype).softmax(-1) if B * K else torch.empty(B, K, V, dtype=dtype)
    target = (1.5 * draw.normal(B, K + 1, V, dtype=dtype)).softmax(-1)
    return draft, target


def many(draw, N, K, V):
    """One pair of models for N texts, whose guesses are drawn from the small one."""
    draft, target = distributions(draw, 1, K, V)
    generator = torch.Generator().manual_seed(draw.seed())
    drafted = torch.stack([torch.multinomial(draft[0, k], N, replacement=True, generator=generator) for k in range(K)], 1)
    return drafted, draft[0], target[0]


def far(counts, due, what):
    """Complain if counts are too unlikely for probabilities: χ² beyond 10 deviations."""
    due = due * counts.sum() / due.sum()
    kept = due > 5
    assert counts[due == 0].sum() == 0, f"{what}: there is a token that can't come."
    chi2 = ((counts[kept] - due[kept]).square() / due[kept]).sum().item()
    n = int(kept.sum()) - 1
    assert chi2 < n + 10 * math.sqrt(2 * n), f"{what}: the frequencies are off, χ² is {chi2:.0f} with {n} degrees of freedom."


@task("speculative_step")
class TestSpeculativeStep:
    def checked(self, student, drafted, draft, target, seed):
        """Tokens and counts of all texts, whose form is right."""
        N, K = drafted.shape
        tokens, counts = student(
            lambda m: m.speculative_step(
                drafted, draft.expand(N, *draft.shape), target.expand(N, *target.shape), generator=torch.Generator().manual_seed(seed)
            )
        )
        assert ((counts >= 0) & (counts <= K)).all(), "counts must be between 0 and K."
        place = torch.arange(K + 1)
        kept = place[:K] < counts[:, None]
        assert torch.equal(tokens[:, :K][kept], drafted[kept]), "Accepted guesses must stand at their places."
        assert (tokens[place > counts[:, None]] == -1).all(), "Behind the drawn token must be −1."
        drawn = tokens.gather(1, counts[:, None])[:, 0]
        assert ((drawn >= 0) & (drawn < target.shape[-1])).all(), "The drawn token must be one."
        return tokens, counts, drawn

    def test_the_first_token(self, student, draw):
        """The first token of 20,000 texts is distributed as the large model says."""
        drafted, draft, target = many(draw, 20_000, 2, 7)
        tokens, _, _ = self.checked(student, drafted, draft, target, draw.seed())
        far(torch.bincount(tokens[:, 0], minlength=7).double(), target[0], "The first tokens")

    def test_later_tokens(self, student, draw):
        """So are the second and the third, wherever they were reached."""
        drafted, draft, target = many(draw, 20_000, 3, 5)
        tokens, counts, _ = self.checked(student, drafted, draft, target, draw.seed())
        for k in (1, 2, 3):
            reached = counts >= k
            far(torch.bincount(tokens[reached, k], minlength=5).double(), target[k], f"Tokens at place {k}")

    def test_pairs(self, student, draw):
        """The first two tokens are independent, as their models are."""
        drafted, draft, target = many(draw, 20_000, 2, 4)
        tokens, counts, _ = self.checked(student, drafted, draft, target, draw.seed())
        reached = tokens[counts >= 1]
        pairs = torch.bincount(reached[:, 0] * 4 + reached[:, 1], minlength=16).double()
        first = torch.minimum(draft[0], target[0])  # who was accepted first
        far(pairs, (first[:, None] * target[1]).flatten(), "Pairs of accepted first tokens and second ones")

    def test_how_many(self, student, draw):
        """Guesses are accepted as often as the two models overlap."""
        drafted, draft, target = many(draw, 20_000, 2, 6)
        _, counts, _ = self.checked(student, drafted, draft, target, draw.seed())
        overlap = torch.minimum(draft, target[:2]).sum(1)
        due = torch.stack([1 - overlap[0], overlap[0] * (1 - overlap[1]), overlap[0] * overlap[1]])
        far(torch.bincount(counts, minlength=3).double(), due, "The numbers of accepted guesses")

    def test_equal_models(self, student, draw):
        """Where both models agree, all guesses are accepted, and one more token comes from the large one."""
        drafted, draft, target = many(draw, 4_000, 3, 5)
        target[:3] = draft
        _, counts, drawn = self.checked(student, drafted, draft, target, draw.seed())
        assert (counts == 3).all(), "Both models agree, and a guess was refused."
        far(torch.bincount(drawn, minlength=5).double(), target[3], "The tokens after all guesses")

    def test_sure_models(self, agree, draw):
        """Models that are sure: the first place at which they differ ends the step, with the large one's token."""
        B, K, V, seed = 40, 4, 6, draw.seed()
        drafted, wanted = draw.integers(0, V, B, K), draw.integers(0, V, B, K + 1)
        same = draw.bools(B, K, p=0.7)
        wanted[:, :K] = torch.where(same, drafted, wanted[:, :K])
        draft, target = torch.eye(V)[drafted], torch.eye(V)[wanted]
        agree(lambda m: m.speculative_step(drafted, draft, target, generator=seeded(seed)), rtol=0, atol=0)

    def test_each_text_its_own(self, agree, draw):
        """Every text has its own models, also among uncertain ones."""
        B, V, seed = 12, 5, draw.seed()
        drafted, wanted = draw.integers(0, V, B, 2), draw.integers(0, V, B, 3)
        draft = (torch.eye(V)[drafted] + 1).div(V + 1)
        target = torch.eye(V)[wanted]  # a guess is accepted if it is the wanted one, and the rest is all at it
        agree(lambda m: m.speculative_step(drafted, draft, target, generator=seeded(seed)), rtol=0, atol=0)

    @pytest.mark.parametrize("sizes", [(1, 3, 4), (5, 1, 4), (5, 2, 1), (5, 0, 4), (0, 2, 4)])
    def test_sizes_of_one_and_none(self, agree, draw, sizes):
        """One text, one guess, one token; no guesses, and no texts."""
        B, K, V = sizes
        drafted, wanted, seed = draw.integers(0, V, B, K), draw.integers(0, V, B, K + 1), draw.seed()
        more = draw.integers(0, 99, 3, 2)

        def probe(m):
            eye = torch.eye(max(V, 99), dtype=F64)
            out = m.speculative_step(drafted, eye[drafted][..., :V], eye[wanted][..., :V], generator=seeded(seed))
            extra = torch.cat([more, more[:, :1]], 1)
            return out, m.speculative_step(more, eye[more], eye[extra], generator=seeded(seed))

        agree(probe, rtol=0, atol=0)

    def test_generator_decides(self, student, draw):
        """The same state of the generator gives the same tokens whatever the global state is; another gives others."""
        drafted, draft, target = many(draw, 200, 2, 9)
        seed = draw.seed()

        def probe(m):
            out = []
            for state, s in (1, seed), (2, seed), (1, seed + 1):
                torch.manual_seed(state)
                both = draft.expand(200, 2, 9), target.expand(200, 3, 9)
                out.append(m.speculative_step(drafted, *both, generator=torch.Generator().manual_seed(s))[0])
            return out

        first, again, other = student(probe)
        far(torch.bincount(first[:, 0], minlength=9).double(), target[0], "The first tokens")
        assert torch.equal(first, again), "The same generator must give the same tokens."
        assert not torch.equal(first, other), "Another generator must give other tokens."

    def test_float32(self, student, draw):
        """The same in float32."""
        drafted, draft, target = many(draw, 20_000, 1, 6)
        tokens, _, _ = self.checked(student, drafted, draft.float(), target.float(), draw.seed())
        far(torch.bincount(tokens[:, 0], minlength=6).double(), target[0], "The first tokens")
