"""Examples for the module deployment. Run one task's with `pytest tests/public -k safe_load`."""

import json
import struct

import pytest
import torch
from deployment import (
    ContinuousBatcher,
    DynamicBatcher,
    ExportableModel,
    Handler,
    ScriptedGate,
    clean_state_dict,
    fuse_graph,
    load_safe,
    safe_load,
    save_safe,
    speculative_step,
)
from torch import nn
from torch.testing import assert_close


def test_clean_state_dict_of_a_wrapped_model():
    """The names of DataParallel and torch.compile go, and so does the optimizer; whole numbers keep their dtype."""
    checkpoint = {
        "model": {"module._orig_mod.w": torch.ones(2, 3).T.requires_grad_(), "module.norm.steps": torch.tensor(7)},
        "optimizer": {"lr": 0.1},
    }
    clean = clean_state_dict(checkpoint, torch.float16)
    assert list(clean) == ["w", "norm.steps"]
    assert clean["w"].dtype is torch.float16
    assert clean["w"].is_contiguous()
    assert not clean["w"].requires_grad
    assert clean["norm.steps"].dtype is torch.int64


def test_save_safe_writes_tied_weights_once(tmp_path):
    """The header has one of the two names, and a note about the other."""
    w = torch.arange(6.0).reshape(2, 3)
    save_safe({"head": w, "embedding": w}, tmp_path / "model.safetensors", {"task": "digits"})
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert sorted(header) == ["__metadata__", "embedding"]
    assert header["__metadata__"] == {"task": "digits", "tied:head": "embedding"}


def test_load_safe_ties_again(tmp_path):
    """A file with one tensor and two names."""
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "file", {"tied:b": "a", "author": "Ada"})
    state, metadata = load_safe(tmp_path / "file")
    assert list(state) == ["a", "b"]
    assert state["a"] is state["b"]
    assert metadata == {"author": "Ada"}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_safe_load_refuses_a_program(tmp_path):
    """Tensors are read; a program is not run."""
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "good.pt")
    assert_close(safe_load(tmp_path / "good.pt", {"w": (2, 3)})["w"], torch.ones(2, 3))
    torch.save({"w": Bomb(tmp_path / "canary")}, tmp_path / "bad.pt")
    with pytest.raises(ValueError):
        safe_load(tmp_path / "bad.pt", {"w": (2, 3)})
    assert not (tmp_path / "canary").exists()


def identity(module):
    """Let both layers of a model do nothing, but `loud` times 10."""
    with torch.no_grad():
        for layer, factor in ((module.loud, 10.0), (module.quiet, 1.0)):
            layer.weight.copy_(factor * torch.eye(len(layer.weight)))
            layer.bias.zero_()
    return module


def test_ScriptedGate_keeps_both_ways(tmp_path):
    """Loaded again, the program takes either way."""
    identity(ScriptedGate(2, 1.0)).save(tmp_path / "gate.pt")
    gate = torch.jit.load(tmp_path / "gate.pt")
    y, rounds = gate(torch.tensor([0.5, -0.5]))
    assert (y.tolist(), rounds) == ([0.5, -0.5], 0)
    y, rounds = gate(torch.tensor([8.0, 8.0]))
    assert (y.tolist(), rounds) == ([10.0, 10.0], 3)


def test_ExportableModel_takes_any_batch():
    """Exported once, it runs for one and for three."""
    program = identity(ExportableModel(2, 1.0)).program(2).module()
    assert_close(program(torch.full((1, 2, 2), 0.5)), torch.full((1, 4), 0.5))
    assert_close(program(torch.full((3, 2, 2), 2.0)), torch.full((3, 4), 20.0))


def test_fuse_graph_of_a_pair():
    """One convolution is left, which gives what both gave."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    model[1].running_mean += 0.3
    fused = fuse_graph(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    x = torch.rand(1, 1, 5, 5)
    assert_close(fused(x), model(x))


class Sums(nn.Module):
    """Two outputs: the sum of two inputs, and 0."""

    in_features = 2

    def forward(self, x):
        """(B, 2) to (B, 2)."""
        return torch.stack([x.sum(1), torch.zeros(len(x))], 1)


def test_Handler_answers_good_and_bad():
    """A bad request in the middle harms nobody."""
    handler = Handler()
    handler.initialize(Sums(), ["yes", "no"])
    answers = handler.handle(['{"id": 1, "x": [0, 0.5]}', "hello", '{"x": [-1, -1]}'])
    assert answers[0] == {"id": 1, "label": "yes", "score": pytest.approx(0.6225, abs=1e-4)}
    assert answers[1]["id"] is None
    assert answers[1]["error"]
    assert answers[2]["label"] == "no"


def test_DynamicBatcher_waits_for_more_or_for_time():
    """Two requests run when a second has passed; three at once."""
    now, batches = [0.0], []
    batcher = DynamicBatcher(lambda x: (batches.append(len(x)), 2 * x)[1], max_size=3, max_wait=1.0, clock=lambda: now[0])
    first, second = batcher.submit(torch.tensor([1.0])), batcher.submit(torch.tensor([2.0]))
    assert (first, second, batcher.poll(), batcher.result(first)) == (0, 1, 0, None)
    now[0] = 1.0
    assert batcher.poll() == 2
    assert batcher.result(second).tolist() == [4.0]
    for _ in range(3):
        batcher.submit(torch.tensor([5.0]))
    assert batcher.poll() == 3
    assert batches == [2, 3]


def counts_up(texts):
    """A model that says the last token plus one, of ten."""
    return torch.nn.functional.one_hot(torch.tensor([(text[-1] + 1) % 10 for text in texts]), 10).float()


def test_ContinuousBatcher_uses_a_free_slot_at_once():
    """One slot and two texts: the second begins when the first has met the end, 9."""
    batcher = ContinuousBatcher(counts_up, slots=1, end=9)
    batcher.submit([7], at_most=5)
    batcher.submit([1, 2], at_most=2)
    assert batcher.step() == {}
    assert batcher.step() == {0: [7, 8, 9]}
    assert batcher.step() == {}
    assert batcher.step() == {1: [1, 2, 3, 4]}


def test_speculative_step_of_sure_models():
    """Where both are sure of the same, all is accepted; where the large one is sure of another token, it comes."""
    sure = torch.eye(3)
    drafted = torch.tensor([[0, 1], [0, 1]])
    draft = sure[drafted]
    target = sure[torch.tensor([[0, 1, 2], [2, 1, 0]])]
    tokens, counts = speculative_step(drafted, draft, target, generator=torch.Generator().manual_seed(0))
    assert tokens.tolist() == [[0, 1, 2], [2, -1, -1]]
    assert counts.tolist() == [2, 0]
