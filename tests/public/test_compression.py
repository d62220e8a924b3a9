"""Examples for the module compression. Run one task's with `pytest tests/public -k two_four_mask`."""

import pytest
import torch
from compression import (
    Pruned,
    codebook,
    distill_digits,
    distillation_loss,
    factorize_linear,
    magnitude_masks,
    pack_two_four,
    prune_channels,
    stored_bytes,
    two_four_mask,
)
from torch import nn
from torch.nn.utils import parametrize


def test_magnitude_masks_over_two_layers():
    """Half of six entries go: 0.1, 0.2 and −0.3. The second layer has larger ones, and keeps all but one."""
    masks = magnitude_masks({"a": torch.tensor([[0.1, -0.3], [0.2, 5.0]]), "b": torch.tensor([-7.0, 4.0])}, 0.5)
    assert masks["a"].tolist() == [[False, False], [False, True]]
    assert masks["b"].tolist() == [True, True]


def test_magnitude_masks_with_equal_entries():
    """All are equally large: the first two of the list are pruned. round(0.5 * 5) is 2."""
    masks = magnitude_masks({"b": torch.tensor([1.0]), "a": torch.tensor([-1.0, 1.0, 1.0, -1.0])}, 0.5)
    assert masks["b"].tolist() == [False]
    assert masks["a"].tolist() == [False, True, True, True]


def test_Pruned_stays_zero():
    """Weight decay and momentum move the stored parameter, but the layer's weight stays 0 where the mask is False."""
    layer = nn.Linear(3, 1, bias=False)
    parametrize.register_parametrization(layer, "weight", Pruned(torch.tensor([[True, False, True]])))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(3):
        layer(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert layer.weight[0, 1] == 0
    assert (layer.weight[0, ::2] != 0).all()


def test_Pruned_bake():
    """Baked, the weight is a parameter like others, and the mask is gone."""
    layer = nn.Linear(2, 1)
    parametrize.register_parametrization(layer, "weight", Pruned(torch.tensor([[False, True]])))
    assert sorted(layer.state_dict()) == ["bias", "parametrizations.weight.0.mask", "parametrizations.weight.original"]
    layer.weight = torch.tensor([[5.0, 6.0]])
    Pruned.bake(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert layer.weight.tolist() == [[0.0, 6.0]]


def test_two_four_mask_of_a_row():
    """−9 and 3 are the largest of the first group. In the second, all are equal: the first two stay."""
    weight = torch.tensor([[1.0, -9.0, 3.0, 2.0, 4.0, 4.0, -4.0, 4.0]])
    assert two_four_mask(weight).tolist() == [[False, True, True, False, True, True, False, False]]
    with pytest.raises(ValueError):
        two_four_mask(torch.ones(4, 6))


def test_pack_two_four_of_a_row():
    """Places 1 and 3: 1 + 4 · 3 = 13. Places 0 and 2: 0 + 4 · 2 = 8, in the upper half. An empty group: 0 + 4 · 1 = 4."""
    values, codes = pack_two_four(torch.tensor([[0.0, 5.0, 0.0, 6.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
    assert values.tolist() == [[5.0, 6.0, 0.0, 7.0, 0.0, 0.0]]
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [[13 + 16 * 8, 4]]


def test_stored_bytes_of_a_layer():
    """A weight (2, 8) of float32 with 4 entries that are not 0, and a bias of 2."""
    weight = torch.tensor([[0.0, 1, 0, 2, 0, 0, 0, 0], [3, 0, 0, 0, 4, 0, 0, 0]])
    sizes = stored_bytes({"weight": weight, "bias": torch.ones(2), "tied": weight})
    assert sizes == {
        "dense": 64 + 8,
        "csr": 16 + 16 + 12 + 8,
        "bitmask": 16 + 2 + 8,
        "2:4": 32 + 2 + 8,
        "int4": 8 + 4 + 8,
        "best": 16 + 2 + 8,
    }


def test_prune_channels_of_three():
    """Channel 1 goes. What is left computes what the last convolution would without it."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)).eval()
    small = prune_channels(net, torch.tensor([True, False, True]))
    assert [tuple(p.shape) for p in small.parameters()] == [(2, 2, 3, 3), (2,), (2,), (2,), (4, 2, 1, 1), (4,)]
    assert small[1].num_features == small[3].in_channels == 2
    x = torch.ones(1, 2, 5, 5)
    with torch.no_grad():
        net[3].weight[:, 1] = 0
    torch.testing.assert_close(small(x), net(x))


def test_factorize_linear_of_rank_one():
    """Three quarters of the energy are in the first singular value, so half of it takes rank 1: 4 + 4 weights for 16."""
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 1.0, 1.0, 1.0])))
    thin = factorize_linear(layer, 0.5)
    assert [tuple(p.shape) for p in thin.parameters()] == [(1, 4), (4, 1), (4,)]
    torch.testing.assert_close(thin[1].weight @ thin[0].weight, torch.diag(torch.tensor([3.0, 0.0, 0.0, 0.0])))
    assert factorize_linear(layer, 0.95) is layer


def test_distillation_loss_of_one_row():
    """At T = 1, p = (¾, ¼) and q = (½, ½): KL = ¾ log 1.5 + ¼ log 0.5 = 0.1308. The label costs log 2 = 0.6931."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    loss = distillation_loss(student, teacher, torch.tensor([0]), T=1.0, alpha=0.5)
    assert loss.item() == pytest.approx(0.5 * 0.1308 + 0.5 * 0.6931, abs=1e-4)
    unlabelled = distillation_loss(student, teacher, torch.tensor([-1]), T=1.0, alpha=0.5)
    assert unlabelled.item() == pytest.approx(0.5 * 0.1308, abs=1e-4)


def test_codebook_of_five_weights():
    """After one iteration the centroids are the means of (0, 1, 2) and (6, 8). Five codes take a bit each, two centroids 32."""
    weight = torch.tensor([0.0, 1.0, 2.0, 6.0, 8.0])
    centroids, codes, shared, bits = codebook(weight, torch.tensor([1.0, 6.0]), iterations=1)
    assert centroids.tolist() == [1.0, 7.0]
    assert codes.tolist() == [0, 0, 0, 1, 1]
    assert shared.tolist() == [1.0, 1.0, 1.0, 7.0, 7.0]
    assert bits == 5 * 1 + 2 * 32
    shared.backward(torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0]))
    assert centroids.grad.tolist() == [6.0, 30.0]


def test_distill_digits_comes_nearer():
    """A teacher that looks at the sum of two pixels: 300 updates bring the network near to it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 15), nn.ReLU(), nn.Linear(15, 10))
    images = torch.rand(200, 1, 8, 8)
    logits = torch.zeros(200, 10)
    logits[:, 0] = 4 * (images[:, 0, 0, 0] + images[:, 0, 3, 3] - 1)
    distill_digits(net, images, logits, generator=torch.Generator().manual_seed(0))
    loss = nn.functional.kl_div(net(images).log_softmax(1), logits.softmax(1), reduction="batchmean")
    assert loss < 0.1
