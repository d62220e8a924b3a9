"""Examples for the module cnn. Run one task's with `pytest tests/public -k max_pool2d`."""

import pytest
import torch
from cnn import (
    BatchNorm2d,
    LeNet,
    ResidualBlock,
    augment,
    conv2d,
    conv_output_size,
    conv_transpose2d,
    depthwise_separable,
    fold_batchnorm,
    max_pool2d,
    receptive_field,
    replace_head,
)
from torch import nn
from torch.testing import assert_close
from torchvision.models import resnet18


def image(rows):
    """One image with one channel from a nested list."""
    return torch.tensor([[rows]], dtype=torch.float32)


def test_conv_output_size_of_some_layers():
    """A kernel of 3 with padding 1 keeps the size; with stride 2 it halves it."""
    assert conv_output_size(28, 3, padding=1) == 28
    assert conv_output_size(28, 3, stride=2, padding=1) == 14
    assert conv_output_size(7, 3, dilation=3) == 1


def test_conv_output_size_refuses_a_kernel_that_does_not_fit():
    """A kernel of 3 with dilation 3 reaches over 7 entries."""
    assert conv_output_size(7, 3, dilation=3, stride=2) == 1
    with pytest.raises(ValueError):
        conv_output_size(6, 3, dilation=3, stride=2)


def test_conv2d_by_hand():
    """Each output is top left plus twice top right: the kernel isn't flipped."""
    x, weight = image([[1, 2, 3], [4, 5, 6]]), image([[1, 2]])
    assert_close(conv2d(x, weight), image([[5, 8], [14, 17]]))
    assert_close(conv2d(x, weight, torch.tensor([10.0]), stride=(1, 2), padding=(0, 1)), image([[12, 18], [18, 27]]))


def test_conv2d_with_groups():
    """With two groups, each output channel sees one input channel."""
    x = torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    weight = torch.tensor([2.0, 3.0]).view(2, 1, 1, 1)
    assert_close(conv2d(x, weight, groups=2).flatten(), torch.tensor([2.0, 30.0]))


def test_max_pool2d_by_hand():
    """Without a stride, windows lie side by side."""
    x = image([[1, 2, 3, 4], [8, 7, 6, 5]])
    assert_close(max_pool2d(x, (2, 2)), image([[8, 6]]))
    assert_close(max_pool2d(x, (2, 2), stride=(1, 1)), image([[8, 7, 6]]))


def test_max_pool2d_padding_never_wins():
    """The largest entry at the border is a negative one."""
    x = image([[-1, -2], [-3, -4]])
    assert_close(max_pool2d(x, (2, 2), padding=(1, 1)), image([[-1, -2], [-3, -4]]))


def test_BatchNorm2d_normalises_and_remembers():
    """The channel 1, 3 has the mean 2, the variance 1 for normalising, and the variance 2 for the running statistics."""
    layer, x = BatchNorm2d(1, eps=0.0), image([[1, 3]])
    assert_close(layer(x), image([[-1, 1]]))
    assert_close(layer.running_mean, torch.tensor([0.2]))
    assert_close(layer.running_var, torch.tensor([1.1]))
    assert layer.num_batches_tracked == 1


def test_BatchNorm2d_in_eval_mode():
    """The running mean 0 and variance 1 change nothing."""
    layer, x = BatchNorm2d(1, eps=0.0).eval(), image([[1, 3]])
    assert_close(layer(x), x)
    assert layer.num_batches_tracked == 0


def test_ResidualBlock_with_silent_convolutions():
    """Where the convolutions give 0, relu(x) is left."""
    block = ResidualBlock(3, 3).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 3, 5, 4)
    assert_close(block(x), x.relu())


def test_ResidualBlock_halves_the_size():
    """With stride 2 and more channels, the shortcut is a convolution."""
    block = ResidualBlock(3, 6, stride=2)
    assert block(torch.randn(2, 3, 7, 8)).shape == (2, 6, 4, 4)
    assert block.shortcut[0].weight.shape == (6, 3, 1, 1)


def test_LeNet_shapes():
    """Images of 8×8 have 64 numbers left in front of the linear layers."""
    model = LeNet()
    assert model(torch.rand(5, 1, 8, 8)).shape == (5, 10)
    assert model.fc1.weight.shape == (120, 64)
    assert LeNet((28, 28), in_channels=3, num_classes=7)(torch.rand(2, 3, 28, 28)).shape == (2, 7)


def test_LeNet_learns_a_bright_corner():
    """Which of four corners is bright is easily learnt."""
    labels = torch.arange(256) % 4
    images = torch.rand(256, 1, 8, 8) * 0.2
    for picture, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        picture[:, row : row + 4, column : column + 4] += 0.8
    torch.manual_seed(0)
    model = LeNet()
    model.fit(images, labels, seed=0)
    assert (model(images).argmax(1) == labels).sum() >= 250


def test_fold_batchnorm_gives_the_same_output():
    """One convolution in place of two layers."""
    conv, bn = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)
    bn(torch.randn(5, 3, 4, 4) * 2 + 1)  # some statistics
    bn.eval()
    x = torch.randn(2, 2, 6, 5)
    assert_close(fold_batchnorm(conv, bn)(x), bn(conv(x)), rtol=1e-4, atol=1e-5)


def test_depthwise_separable_has_few_parameters():
    """16 · 9 + 16 · 32 + 32 instead of 16 · 32 · 9 + 32."""
    model = depthwise_separable(16, 32, 3, padding=1)
    assert sum(p.numel() for p in model.parameters()) == 688
    assert model(torch.randn(1, 16, 5, 6)).shape == (1, 32, 5, 6)


def test_conv_transpose2d_by_hand():
    """Two stamps of 1, 2, 3, two apart: the 3 of the first and the 1 of the second, times 10, add up."""
    x, weight = image([[1, 10]]), image([[1, 2, 3]])
    assert_close(conv_transpose2d(x, weight, stride=(1, 2)), image([[1, 2, 13, 20, 30]]))
    assert_close(conv_transpose2d(x, weight, stride=(1, 2), padding=(0, 1)), image([[2, 13, 20]]))
    assert_close(conv_transpose2d(x, weight, stride=(1, 2), padding=(0, 1), output_padding=(0, 1)), image([[2, 13, 20, 30]]))


def test_receptive_field_of_small_stacks():
    """Two kernels of 3 see 5 entries; if the first has stride 2, they see 7."""
    assert receptive_field([(3, 1, 1), (3, 1, 1)]) == (5, 1)
    assert receptive_field([(3, 2, 1), (3, 1, 1)]) == (7, 2)
    assert receptive_field([(3, 1, 2)]) == (5, 1)


def test_replace_head_of_a_resnet18():
    """Only the new head is trainable, and training leaves the running statistics alone."""
    model = replace_head(resnet18(), 3)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    model.train()
    assert model.training and model.fc.training and not model.layer1[0].bn1.training
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert model.bn1.num_batches_tracked == 0


def test_augment_without_padding_mirrors_some():
    """Every image is itself or its mirror image, and both occur."""
    images, labels = torch.rand(40, 1, 2, 3), torch.arange(40)
    varied, same_labels = augment(images, labels, padding=0, seed=1)
    assert torch.equal(same_labels, labels)
    kept = [torch.equal(a, b) for a, b in zip(varied, images, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(varied, images, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert any(kept) and any(mirrored)


def test_augment_is_seeded():
    """The same seed gives the same images, another seed others."""
    images, labels = torch.rand(40, 1, 5, 5), torch.arange(40)
    first, again, other = (augment(images, labels, padding=2, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
