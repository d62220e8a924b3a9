"""Examples for the module interpretability. Run one task's with `pytest tests/public -k grad_cam`."""

import pytest
import torch
from interpretability import (
    SparseAutoencoder,
    activation_patch,
    grad_cam,
    integrated_gradients,
    logit_lens,
    occlusion,
    saliency,
    shapley_values,
    smooth_grad,
)
from torch import nn
from torch.testing import assert_close


def linear(rows):
    """A linear layer without bias, with these rows of weights."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.load_state_dict({"weight": torch.tensor(rows)})
    return layer


def test_saliency_drops_signs():
    """The slope of class 1 is (−2, 3), that of class 0 is (5, 0.5): signs are dropped."""
    model, x = linear([[5.0, 0.5], [-2.0, 3.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert_close(saliency(model, x, torch.tensor([1, 0])), torch.tensor([[2.0, 3.0], [5.0, 0.5]]))


def test_saliency_leaves_the_mode():
    """In train mode, too, nothing is dropped; the model stays in train mode, and its weights get no gradient."""
    model = nn.Sequential(linear([[5.0, 0.5]]), nn.Dropout(0.5)).train()
    assert_close(saliency(model, torch.ones(1, 2), torch.tensor([0])), torch.tensor([[5.0, 0.5]]))
    assert model.training
    assert model[1].training
    assert model[0].weight.grad is None


def test_saliency_needs_a_class_for_each():
    """One class for two samples is refused."""
    with pytest.raises(ValueError):
        saliency(linear([[1.0]]), torch.ones(2, 1), torch.tensor([0]))


def test_integrated_gradients_share_a_product():
    """The score is x₀ · x₁. From (0, 0) to (2, 3) both get half of 6; from (1, 1) they get 1 · 2 and 2 · 1.5, which is 6 − 1."""

    def model(x):
        return x.prod(dim=1, keepdim=True)

    x, target = torch.tensor([[2.0, 3.0]]), torch.tensor([0])
    assert_close(integrated_gradients(model, x, target), torch.tensor([[3.0, 3.0]]))
    assert_close(integrated_gradients(model, x, target, baseline=torch.ones(2)), torch.tensor([[2.0, 3.0]]))


def test_integrated_gradients_take_midpoints():
    """The score is x³. One step looks at the slope at 1, two look at 0.5 and 1.5; the truth is 8."""
    x, target = torch.tensor([[2.0]]), torch.tensor([0])
    assert_close(integrated_gradients(lambda x: x**3, x, target, steps=1), torch.tensor([[6.0]]))
    assert_close(integrated_gradients(lambda x: x**3, x, target, steps=2, max_rows=1), torch.tensor([[7.5]]))


def test_smooth_grad_of_a_square():
    """The score is x₀² + x₁², the range 2, so σ = 1: at (2, 3) and (0, 5) the slopes are (4, 6) and (0, 10)."""

    def model(x):
        return x.square().sum(dim=1, keepdim=True)

    x, target, noise = torch.tensor([[1.0, 3.0]]), torch.tensor([0]), torch.tensor([[[1.0, 0.0]], [[-1.0, 2.0]]])
    assert_close(smooth_grad(model, x, target, noise, level=0.5), torch.tensor([[2.0, 8.0]]))
    assert_close(smooth_grad(model, x, target, noise, level=0.5, kind="square"), torch.tensor([[8.0, 68.0]]))
    assert_close(smooth_grad(model, x, target, noise, level=0.5, kind="variance"), torch.tensor([[4.0, 4.0]]))


def test_grad_cam_weighs_the_maps():
    """Means over four places give the maps the weights 1 and −2; what is below 0 is cut off."""
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear([[4.0, -8.0]]))
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 3.0]]]])
    assert_close(grad_cam(model, model[0], x, torch.tensor([0])), torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]))


def test_grad_cam_grows_to_the_image():
    """One place becomes the whole image: a map of 3 with the weight 2."""
    model = nn.Sequential(nn.AvgPool2d(2), nn.ReLU(inplace=True), nn.Flatten(), linear([[2.0]]))
    x = torch.tensor([[[[1.0, 3.0], [4.0, 4.0]]]])
    assert_close(grad_cam(model, model[0], x, torch.tensor([0])), torch.full((1, 2, 2), 6.0))


def test_occlusion_of_a_sum():
    """The score is the sum of the pixels 1, 2, 4: the first two cost 3, the last two cost 6, and the middle one gets the mean."""
    x, target = torch.tensor([[[[1.0, 2.0, 4.0]]]]), torch.tensor([0])

    def model(x):
        return x.flatten(1).sum(dim=1, keepdim=True)

    drops = occlusion(model, x, target, window=(1, 2), stride=(1, 1))
    assert_close(drops, torch.tensor([[[3.0, 4.5, 6.0]]]))
    drops = occlusion(model, x, target, window=(1, 2), stride=(1, 2), baseline=1.0)
    assert_close(drops, torch.tensor([[[1.0, 1.0, 3.0]]]))


def test_occlusion_leaves_no_gap():
    """A stride above the window would leave pixels without a window."""
    with pytest.raises(ValueError):
        occlusion(lambda x: x.flatten(1), torch.ones(1, 1, 5, 5), torch.tensor([0]), window=(2, 2), stride=(1, 3))


def together(samples):
    """The score x₀ · x₁ + 3 x₂."""
    return samples[:, 0] * samples[:, 1] + 3 * samples[:, 2]


def test_shapley_values_share_what_two_do_together():
    """Neither 2 nor 3 adds anything without the other: both get half of 6."""
    x, baseline = torch.tensor([2.0, 3.0, 1.0]), torch.zeros(3)
    assert_close(shapley_values(together, x, baseline), torch.tensor([3.0, 3.0, 3.0]))


def test_shapley_values_of_given_orders():
    """Who comes second adds 6. In two of three orders, that is feature 1."""
    x, baseline = torch.tensor([2.0, 3.0, 1.0]), torch.zeros(3)
    orders = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
    assert_close(shapley_values(together, x, baseline, orders=orders), torch.tensor([2.0, 4.0, 3.0]))


class Add(nn.Module):
    """A block that adds a number to the stream."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, stream):
        """The stream, changed in place."""
        return stream.add_(self.number)


class Model(nn.Module):
    """A language model of two blocks, whose norm doubles and whose head says (v, −v)."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Add(10.0), Add(100.0)])
        self.norm, self.head = linear([[2.0]]), linear([[1.0], [-1.0]])

    def forward(self, ids):
        """Logits (B, T, 2)."""
        stream = ids[..., None].float()
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(stream))


def test_logit_lens_looks_at_each_layer():
    """The stream is 3, then 13, then 113."""
    model = Model()
    logits = logit_lens(model, torch.tensor([[3]]))
    assert_close(logits, torch.tensor([[[[6.0, -6.0]]], [[[26.0, -26.0]]], [[[226.0, -226.0]]]]))
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.blocks)


class Heads(nn.Module):
    """Two heads of one feature: the first says the token at its position, the second the sum of all tokens so far."""

    def __init__(self):
        super().__init__()
        self.out_proj = linear([[1.0, 10.0]])

    def forward(self, stream):
        """The heads' outputs, (B, T, 2), through out_proj."""
        return self.out_proj(torch.cat((stream, stream.cumsum(1)), dim=2))


class Attending(nn.Module):
    """A model with one block."""

    def __init__(self):
        super().__init__()
        block = nn.Module()
        block.attn = Heads()
        self.blocks = nn.ModuleList([block])

    def forward(self, ids):
        """Logits (B, T, 1)."""
        return self.blocks[0].attn(ids[..., None].float())


def test_activation_patch_finds_the_head():
    """The metric is 5 + 10 · 9 for the clean prompt, 1 + 10 · 5 for the corrupt one. Of these 44, the heads bring back 4 and 40."""
    model, clean, corrupt = Attending(), torch.tensor([[4, 5]]), torch.tensor([[4, 1]])
    effects = activation_patch(model, clean, corrupt, lambda logits: logits[0, -1, 0], num_heads=2)
    assert_close(effects, torch.tensor([[[0.0, 4 / 44], [0.0, 40 / 44]]]))


def tiny_autoencoder(l1):
    """One of two features and two dimensions; its second row is of length 5."""
    model = SparseAutoencoder(2, 2, l1=l1, generator=torch.Generator().manual_seed(0))
    parts = {"W_enc": [[1.0, 0.0], [0.0, -1.0]], "b_enc": [0.5, 0.0], "W_dec": [[1.0, 0.0], [3.0, 4.0]], "b_dec": [1.0, 2.0]}
    model.load_state_dict({name: torch.tensor(values) for name, values in parts.items()})
    return model


def test_SparseAutoencoder_takes_apart():
    """Without b_dec, x is (2, 1), so only the first feature is active, with 2.5; x̂ is (3.5, 2). The squared error is 0.25 + 1."""
    x = torch.tensor([[3.0, 3.0]])
    reconstruction, f = tiny_autoencoder(2.0)(x)
    assert_close((reconstruction, f), (torch.tensor([[3.5, 2.0]]), torch.tensor([[2.5, 0.0]])))
    assert_close(tiny_autoencoder(2.0).loss(x), torch.tensor(1.25 + 2 * 2.5))


def test_SparseAutoencoder_keeps_its_rows_short():
    """Of the gradients (7, 8) and (5, 10), the parts along (1, 0) and (3, 4) go: (7, 0) and 55 / 25 · (3, 4)."""
    model = tiny_autoencoder(2.0)
    model.W_dec.grad = torch.tensor([[7.0, 8.0], [5.0, 10.0]])
    model.remove_parallel_gradient()
    assert_close(model.W_dec.grad, torch.tensor([[0.0, 8.0], [-1.6, 1.2]]))
    model.normalize_decoder()
    assert_close(model.W_dec.detach(), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))


def test_SparseAutoencoder_starts_tied():
    """The decoder's rows have the length 1, and the encoder starts as its transpose."""
    model = SparseAutoencoder(3, 5, l1=1.0, generator=torch.Generator().manual_seed(0))
    assert_close(model.W_dec.norm(dim=1), torch.ones(5), check_dtype=False)
    assert_close(model.W_enc.detach(), model.W_dec.detach().T)
