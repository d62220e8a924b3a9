"""Examples for the module transfer. Run one task's with `pytest tests/public -k LoRALinear`."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transfer import (
    InjectedLoRA,
    LoRALinear,
    average_checkpoints,
    fine_tune_digits,
    freeze,
    interpolate_positions,
    load_partial,
    masked_tokens,
    param_groups,
    resize_vocab,
)


def small_network():
    """A backbone with a batch norm, and a head."""
    body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return nn.ModuleDict({"body": body, "head": nn.Linear(4, 2)})


def test_freeze_counts():
    """The body has 3 · 4 + 4 + 4 + 4 = 24 entries and one batch norm, the head 4 · 2 + 2 = 10."""
    model = small_network()
    assert freeze(model, ["body.*"]) == {"frozen": 24, "trainable": 10, "norms": 1}
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_freeze_nothing_moves():
    """An optimizer with momentum and weight decay that was there before, in training mode: the body stays as it was."""
    model, x = small_network(), torch.randn(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model["head"](model["body"](x)).sum().backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model["body"].state_dict().items()}
    freeze(model, ["body.*"])
    model.train()
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        model["head"](model["body"](x)).sum().backward()
        optimizer.step()
    assert_close(dict(model["body"].state_dict()), before, rtol=0, atol=0)


def test_freeze_refuses_a_typo():
    """A pattern that matches nothing freezes nothing."""
    model = small_network()
    with pytest.raises(ValueError):
        freeze(model, ["body.*", "haed.*"])
    assert all(p.requires_grad for p in model.parameters())


def test_param_groups_by_depth():
    """Two layers: the first learns half as fast, and biases are spared the weight decay."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = param_groups(model, ["0", "2"], lr=0.1, decay=0.5, weight_decay=0.01)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.05, 0.01), (0.05, 0.0), (0.1, 0.01), (0.1, 0.0)]
    assert [p for group in groups for p in group["params"]] == [model[0].weight, model[0].bias, model[2].weight, model[2].bias]


def test_load_partial_says_what_became_of_each():
    """The body fits; the head has another number of classes; something is not needed."""
    model = nn.ModuleDict({"body": nn.Linear(2, 2, bias=False), "head": nn.Linear(2, 3)})
    state = {"module.body.weight": torch.eye(2), "module.head.weight": torch.zeros(5, 2), "module.step": torch.tensor(7)}
    report = load_partial(model, state, prefixes=["module."])
    assert report == {"loaded": ["body.weight"], "mismatched": ["head.weight"], "missing": ["head.bias"], "unexpected": ["step"]}
    assert_close(model["body"].weight.detach(), torch.eye(2))


def test_load_partial_refuses_to_load_nothing():
    """With the prefix still there, no name fits."""
    with pytest.raises(ValueError):
        load_partial(nn.Linear(2, 2), {"module.weight": torch.eye(2)})


class TiedModel(nn.Module):
    """Two tokens, two features, one weight."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(2, 2), nn.Linear(2, 2)
        self.head.weight = self.embed.weight


def test_resize_vocab_adds_the_mean():
    """A third token is the mean of the two; the weight stays tied."""
    model = TiedModel()
    model.embed.weight.data = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    model.head.bias.data = torch.tensor([1.0, 3.0])
    resize_vocab(model, 3)
    assert_close(model.embed.weight.detach(), torch.tensor([[1.0, 2.0], [3.0, 6.0], [2.0, 4.0]]))
    assert_close(model.head.bias.detach(), torch.tensor([1.0, 3.0, 2.0]))
    assert model.head.weight is model.embed.weight
    assert (model.embed.num_embeddings, model.head.out_features) == (3, 3)


def test_resize_vocab_moves_the_state():
    """The optimizer goes on with the new parameter: momentum of old rows, none for the new one."""
    model = TiedModel()
    optimizer = torch.optim.SGD([model.head.bias, model.embed.weight], lr=1.0, momentum=0.5)
    model.embed.weight.grad = torch.ones(2, 2)
    optimizer.step()
    resize_vocab(model, 3, optimizer)
    assert optimizer.param_groups[0]["params"][1] is model.embed.weight
    assert_close(optimizer.state[model.embed.weight]["momentum_buffer"], torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert len(optimizer.state) == 1


def test_interpolate_positions_keeps_the_class_token():
    """A grid of equal vectors gives a larger one; the class token is what it was."""
    table = torch.cat((torch.tensor([[[9.0, 9.0]]]), torch.tensor([[[1.0, 2.0]]]).expand(1, 6, 2)), dim=1)
    larger = interpolate_positions(table, (2, 3), (4, 5))
    assert_close(larger[0, 0], torch.tensor([9.0, 9.0]))
    assert_close(larger[0, 1:], torch.tensor([1.0, 2.0]).expand(20, 2))


def test_interpolate_positions_row_by_row():
    """Two rows become four, and the columns stay."""
    table = torch.tensor([[[0.0], [10.0], [1.0], [11.0]]])
    larger = interpolate_positions(table, (2, 2), (4, 2), extra=0).reshape(4, 2)
    assert_close(larger[:, 1] - larger[:, 0], torch.full((4,), 10.0))
    assert (larger[1:, 0] > larger[:-1, 0]).all()


def test_LoRALinear_begins_as_its_base():
    """B is zero at first. With B, the change counts α / r times."""
    base, x = nn.Linear(3, 2), torch.randn(5, 3)
    layer = LoRALinear(base, rank=2, alpha=6.0)
    assert_close(layer(x), base(x))
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["A", "B"]
    with torch.no_grad():
        layer.B.fill_(1.0)
    assert_close(layer(x), base(x) + 3.0 * (x @ layer.A.T).sum(1, keepdim=True))


def test_LoRALinear_merges():
    """Merged, base alone gives the same; unmerged, its weight is the old one."""
    base, x = nn.Linear(3, 2).double(), torch.randn(5, 3).double()
    old, layer = base.weight.clone(), LoRALinear(base, rank=1, alpha=2.0)
    with torch.no_grad():
        layer.B.fill_(1.0)
    y = layer(x)
    layer.merge()
    assert_close(base(x), y)
    assert_close(layer(x), y)
    layer.unmerge()
    assert_close(base.weight.detach(), old.detach())


def test_InjectedLoRA_switches():
    """Two adapters for one of two layers; without one, the model is what it was, and its state_dict does not change at all."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(5, 3)
    y, names = model(x).detach(), list(model.state_dict())
    lora = InjectedLoRA(model, ["1"])
    lora.add("a", rank=2, alpha=2.0)
    lora.add("b", rank=1, alpha=3.0)
    assert [(name, tuple(p.shape)) for name, p in lora.weights("a").items()] == [("1.A", (2, 4)), ("1.B", (2, 2))]
    with torch.no_grad():
        lora.weights("b")["1.B"].fill_(1.0)
    lora.use("a")
    assert_close(model(x), y)
    lora.use("b")
    assert_close(model(x), y + 3.0 * model[0](x) @ lora.weights("b")["1.A"].T)
    assert list(model.state_dict()) == names
    lora.remove()
    assert_close(model(x), y)
    assert all(p.requires_grad for p in model.parameters())


def test_average_checkpoints_keeps_kinds_and_ties():
    """Weights are averaged, counts are not, and what was one tensor is one tensor."""
    first, last = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])
    average = average_checkpoints(
        [{"embed": first, "head": first, "steps": torch.tensor(10)}, {"embed": last, "head": last, "steps": torch.tensor(20)}]
    )
    assert_close(average["embed"], torch.tensor([2.0, 4.0]))
    assert average["steps"].item() == 20
    average["embed"].zero_()
    assert_close(average["head"], torch.zeros(2))


def test_masked_tokens_hides_ordinary_tokens_only():
    """With p = 1 every ordinary token is chosen: most become the mask, and 0, which is special, never does."""
    tokens = torch.arange(1, 10).repeat(1000, 1)
    tokens[:, 4] = 0
    generator = torch.Generator().manual_seed(0)
    inputs, labels = masked_tokens(tokens, vocab_size=11, mask_token=10, special=torch.tensor([0]), generator=generator, p=1.0)
    assert (inputs[:, 4] == 0).all() and (labels[:, 4] == -100).all()
    rest = torch.arange(9) != 4
    assert_close(labels[:, rest], tokens[:, rest])
    assert (inputs[:, rest] == 10).double().mean().item() == pytest.approx(0.8, abs=0.03)


def test_fine_tune_digits_keeps_the_backbone():
    """Random images and a random backbone: what comes back has the right form, and the backbone has not moved far."""
    backbone = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    old, new = nn.Sequential(*backbone, nn.Linear(96, 5)), nn.Sequential(*backbone, nn.Linear(96, 3))
    weights = {name: value.clone() for name, value in old.state_dict().items()}
    images, labels = torch.randn(30, 1, 12, 12), torch.arange(3).repeat(10)
    new.load_state_dict(fine_tune_digits(weights, images, labels, classes=3, seed=0))
    for name in ("1.running_mean", "1.running_var", "5.running_mean", "5.num_batches_tracked"):
        assert_close(new.state_dict()[name], weights[name], rtol=0, atol=0)
    for name in ("0.weight", "4.weight"):
        assert (new.state_dict()[name] - weights[name]).norm() <= 0.2 * weights[name].norm()
    with torch.no_grad():
        assert F.cross_entropy(new.eval()(images), labels) < 0.9
