"""Examples for the module compression. Run one task's with `pytest tests/public -k two_four_mask`."""

import pytest
import torch
from compression import Pruned, magnitude_masks, two_four_mask
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
