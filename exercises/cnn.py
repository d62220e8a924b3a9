"""Convolutional networks: convolution and pooling by hand, the blocks that networks are made of, and what one does with trained ones.

Sizes are written as in PyTorch: N images, C channels, H rows, W columns. Pairs of ints are (along H, along W). Every task stands alone:
where one could build on another, use torch's own.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import copy
from collections.abc import Sequence
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2


def conv_output_size(size: int, kernel_size: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Number of entries that a convolution gives along one dimension (Dumoulin & Visin 2016, section 2).

    The input is `size` entries with `padding` further ones on both sides. A kernel has `kernel_size` entries that lie `dilation`
    apart. Its first position is at the left end, and each next one `stride` further on, as long as the whole kernel lies on the
    (padded) input; what is left over at the right end stays unused. The result counts these positions.

    Returns: the count, an int, at least 1, exact for ints of any size (floats have gaps beyond 2⁵³).
    Raises: ValueError if size, kernel_size, stride or dilation is below 1, if padding is below 0, or if the kernel fits nowhere.
    """
    # TODO: about 6 lines.
    raise NotImplementedError("conv_output_size")


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Two-dimensional convolution, the layer's way: a cross-correlation, the kernel isn't flipped.

    With x̃ as x, padded with `padding` zeros on all four sides:

        y[n, o, i, j] = bias[o] + Σ_c Σ_u Σ_v weight[o, c, u, v] · x̃[n, c₀ + c, i · s_H + u · d_H, j · s_W + v · d_W]

    for all i, j at which the whole kernel lies on x̃, with s = stride and d = dilation. The channels of x and of y are cut into
    `groups` equal parts, in order, and each part of y sees only the same part of x (a NaN elsewhere does not reach it): c runs over
    C / groups channels, from c₀ = (C / groups) · g in group g. Gradients reach x, weight and bias.

    Unfolding x into columns (torch.nn.functional.unfold) turns the sums into one matrix product (Chellapilla et al. 2006).

    Args:
        x: (N, C, H, W), float32 or float64. N may be 0.
        weight: (O, C / groups, K_H, K_W), dtype of x. Like x and bias, it may be non-contiguous: reshape copes with that, view doesn't.
        bias: (O,), dtype of x; None for none.
        stride, padding, dilation: pairs, (along H, along W).

    Returns: (N, O, H', W'), dtype of x, and computed in it.
    Raises: ValueError if C isn't groups times weight.shape[1], if groups doesn't divide O, or if the kernel fits nowhere on x̃.
    Not allowed: torch's convolutions of whatever dimension and under whatever name (functions, modules, operators), transposed ones and
        their gradients too.
    """
    # TODO: about 13 lines.
    raise NotImplementedError("conv2d")


def max_pool2d(
    x: Tensor, kernel_size: tuple[int, int], *, stride: tuple[int, int] | None = None, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Take the largest entry of every window of an image.

    Windows of kernel_size start at the upper left corner of the padded image and are `stride` apart, as far as they lie completely on it.
    Padding is never the largest: a window at the border has the largest of its real entries, also where these are negative, down to
    -inf. A window with a NaN gives NaN.

    The gradient of an entry of y goes to the largest entry of its window, and adds up where windows overlap. Several that are equally
    large share it: one may get all, or each a part, but no more than all together.

    Args:
        x: (N, C, H, W), float32 or float64. N may be 0.
        kernel_size: (K_H, K_W).
        stride: pair (along H, along W); None for kernel_size, windows side by side.
        padding: pair, how many rows to add above and below, and how many columns left and right.

    Returns: (N, C, (H + 2 p_H - K_H) // s_H + 1, (W + 2 p_W - K_W) // s_W + 1), dtype of x.
    Raises: ValueError if a padding is more than half of its kernel size (2 p > K), or if the kernel is larger than the padded image.
    Not allowed: torch's max pooling of whatever dimension and under whatever name, adaptive, fractional or not.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("max_pool2d")


class BatchNorm2d(nn.Module):
    """Normalise every channel over a batch of images (Ioffe & Szegedy 2015).

    In training mode, channel c of x is normalised by its own mean and variance over all N · H · W entries of the batch, the variance being
    the biased one (divided by n = N · H · W):

        y = weight[c] · (x - mean[c]) / sqrt(var[c] + eps) + bias[c]

    Gradients also flow through mean and var. The variance is the mean of squared distances from the mean, so that channels far from zero
    keep their digits: the mean of squares less the square of the mean would lose them.

    Every such call first adds 1 to num_batches_tracked and then moves the running statistics, outside of the graph:

        running_mean ← (1 - a) · running_mean + a · mean
        running_var  ← (1 - a) · running_var  + a · unbiased variance (divided by n - 1)

    with a = momentum, or a = 1 / num_batches_tracked if momentum is None (a plain average over all batches so far).

    In eval mode, running_mean and running_var take the places of mean and var, and nothing is updated.

    state_dict() is that of torch's own layer, with exactly these entries, all of shape (num_features,) but the last:

        weight, bias:               parameters, at first 1 and 0
        running_mean, running_var:  buffers, at first 0 and 1
        num_batches_tracked:        buffer, a 0-d int64 tensor, at first 0

    Args of the constructor:
        num_features: the number C of channels.
        eps: added to the variance.
        momentum: a, from 0 (nothing moves) to 1, or None.

    Not allowed: torch's batch, instance, layer and group normalisation, functions and modules.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        """Make parameters and buffers; see the class."""
        # TODO: about 7 lines.
        raise NotImplementedError("BatchNorm2d.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, and in training mode update the running statistics.

        Args:
            x: (N, C, H, W), float32 or float64, which parameters and buffers have as well (`.double()` converts them).

        Returns: shape and dtype of x, and computed in it.
        Raises: ValueError if x hasn't four dimensions or not num_features channels, or if in training mode there are fewer than two
            values a channel (N · H · W < 2): no buffer is changed then.
        """
        # TODO: about 16 lines.
        raise NotImplementedError("BatchNorm2d.forward")


class ResidualBlock(nn.Module):
    """The basic block of a ResNet (He et al. 2016, section 3): two 3×3 convolutions, and a shortcut around them.

        y = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))

    The submodules have these names, so that weights can be loaded:

        conv1:     nn.Conv2d, in_channels to out_channels, 3×3, the block's stride, padding 1, no bias
        bn1:       nn.BatchNorm2d
        conv2:     nn.Conv2d, out_channels to out_channels, 3×3, stride 1, padding 1, no bias
        bn2:       nn.BatchNorm2d
        shortcut:  x itself (a module without parameters) if stride is 1 and in_channels equals out_channels; otherwise
                   nn.Sequential of an nn.Conv2d, in_channels to out_channels, 1×1, the block's stride, no padding, no bias, and an
                   nn.BatchNorm2d, with the keys "shortcut.0.weight", "shortcut.1.weight" and so on

    All of them as torch makes them: initial weights, eps and momentum are torch's defaults.

    Args of the constructor:
        in_channels, out_channels: of x and y.
        stride: 1 or more.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        """Make the submodules; see the class."""
        # TODO: about 9 lines.
        raise NotImplementedError("ResidualBlock.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """The block's output.

        Args:
            x: (N, in_channels, H, W).

        Returns: (N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉).
        """
        # TODO: about 2 lines.
        raise NotImplementedError("ResidualBlock.forward")


class LeNet(nn.Module):
    """A small network for images, after LeNet-5 (LeCun et al. 1998, section II.B), which learns to read digits.

    Its layers have these names, so that weights can be loaded into it and taken out of it:

        conv1:  nn.Conv2d, in_channels to 6, 5×5, padding 2; tanh; max pooling, 2×2
        conv2:  nn.Conv2d, 6 to 16, 5×5, padding 2; tanh; max pooling, 2×2
        fc1:    nn.Linear, 16 · (H // 4) · (W // 4) to 120, of the feature maps flattened in the order channel, row, column; tanh
        fc2:    nn.Linear, 120 to 84; tanh
        fc3:    nn.Linear, 84 to num_classes: the scores, with no softmax behind them

    The pooling is nn.MaxPool2d(2): it drops an odd row or column at the end. There are no other parameters or buffers, and initial weights
    are torch's defaults.

    Args of the constructor:
        size: (H, W) of the images.
        in_channels: 1 for grey, 3 for colour.
        num_classes: how many scores there are for each image.

    Raises: ValueError if H or W is below 4.
    """

    def __init__(self, size: tuple[int, int] = (8, 8), *, in_channels: int = 1, num_classes: int = 10) -> None:
        """Make the layers; see the class."""
        # TODO: about 9 lines.
        raise NotImplementedError("LeNet.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes for each image.

        Args:
            x: (N, in_channels, H, W), dtype of the weights.

        Returns: (N, num_classes).
        """
        # TODO: about 3 lines.
        raise NotImplementedError("LeNet.forward")

    def fit(self, images: Tensor, labels: Tensor, *, seed: int) -> None:
        """Train this network, in place, from the weights that it has.

        With about 1,200 images of handwritten digits, 8×8, and freshly made weights, it must then classify at least 90 % of 600
        held-out images correctly, which are drawn at random from the same 1,797 digits. Some six epochs of Adam in shuffled
        mini-batches of 64, with a learning rate of 1e-2 that falls towards 0, reach 95 % in about a second on one core, which is all
        there is: 20 seconds of it. Learn from the labels that you are given: the test renames the digits at random.

        Make mini-batches of at most 64 images; a smaller last one counts too. The seed alone decides their order: the same seed and the
        same weights before give the same weights afterwards, whatever the state of torch's global generator (make a generator of your
        own), and whatever was trained before or is left in .grad. For more than 64 images, another seed gives others. Every parameter is
        trained, and stays the same tensor. What you leave in .grad doesn't matter.

        Args:
            images: (N, in_channels, H, W), float32; N is 1 or more.
            labels: (N,), int64, 0 … num_classes - 1.
        """
        # TODO: about 11 lines.
        raise NotImplementedError("LeNet.fit")


def fold_batchnorm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Merge a convolution and the batch norm behind it into a single convolution, for inference.

    In eval mode a batch norm multiplies every channel by one number and adds another, and so does a convolution with changed weight
    and bias:

        folded(x) = bn(conv(x)), with bn in eval mode

    whatever mode bn is in when this is called, and for every setting of the two: any stride, padding, padding_mode, dilation and groups;
    conv with bias or without; bn with weight and bias or without (affine=False); any eps.

    conv and bn stay as they are, and share no memory with the result. (Building a layer draws from torch's generator; here it may.)

    Args:
        conv: float32 or float64, frozen or not.
        bn: same dtype, with running statistics.

    Returns: an nn.Conv2d with the settings and the dtype of conv, and always with a bias. Weight and bias are computed in this dtype;
        they are parameters that require gradients and have no history (leaves).
    Raises: ValueError if bn hasn't as many features as conv has output channels, or has no running statistics
        (track_running_stats=False).
    Not allowed: torch.nn.utils.fusion.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("fold_batchnorm")


def depthwise_separable(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0, multiplier: int = 1, bias: bool = True
) -> nn.Sequential:
    """Make a depthwise separable convolution: one in space for each channel, then one across channels (Howard et al. 2017, section 3.1).

    It is an nn.Sequential of two nn.Conv2d, with torch's initial weights and nothing in between:

        0, depthwise:  K×K, with stride and padding, without bias. Input channel c makes `multiplier` channels, which see no other:
                       c · multiplier, c · multiplier + 1, …
        1, pointwise:  1×1, from all these channels to out_channels, with a bias if `bias`.

    From C to O channels, with a multiplier of M, it has C · M · K² + C · M · O (+ O) parameters. A full convolution has C · O · K² (+ O).

    Args:
        kernel_size: K.

    Returns: the model. Its state_dict() has the keys "0.weight", "1.weight" and, with a bias, "1.bias".
    Raises: ValueError if multiplier is below 1.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("depthwise_separable")


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
) -> Tensor:
    """Transposed convolution: what the gradient of a convolution does, used as a layer (Dumoulin & Visin 2016, section 4).

    Every entry of x stamps the kernel, times its value, onto a canvas of zeros, `stride` apart; stamps that overlap add up:

        canvas[n, o, i · s_H + u, j · s_W + v] += Σ_c x[n, c, i, j] · weight[c, o, u, v]    for all i, j, u, v

    The canvas is just large enough for all stamps, and has o_H = output_padding[0] more rows at its lower end and o_W more columns at its
    right one. Then padding[0] rows are cut off above and below, and padding[1] columns left and right. Last, bias[o] is added to
    every entry.

    Along one dimension, two entries, a kernel of three and a stride of 2 give stamps on 5 places. With padding 1, places 1 to 3 are left.
    With output_padding 1 as well, the canvas has 6 places, and places 1 to 4 are left: a stamp's last entry is kept, no zero is appended.

    Without the bias that is the gradient, with respect to its input, of the convolution with the same weight, stride and padding that
    turns O channels of H' × W' into C channels of H × W. For strides above 1 several H' give the same H: output_padding picks one.
    Gradients reach x, weight and bias.

    Args:
        x: (N, C, H, W), float32 or float64. N may be 0.
        weight: (C, O, K_H, K_W), dtype of x: the input's channels come first.
        bias: (O,), dtype of x; None for none.
        stride, padding, output_padding: pairs, (along H, along W).

    Returns: (N, O, H', W') with H' = (H - 1) · s_H - 2 p_H + K_H + o_H, and W' likewise; dtype of x, and computed in it.
    Raises: ValueError if weight.shape[0] isn't C, if an output_padding isn't below its stride, or if H' or W' would be below 1.
    Not allowed: torch's convolutions of whatever dimension and under whatever name (functions, modules, operators), transposed or
        not, and their gradients.
    """
    # TODO: about 13 lines.
    raise NotImplementedError("conv_transpose2d")


def receptive_field(layers: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """Find how much of the input one output of a stack of convolutions sees, along one dimension (Araujo et al. 2019).

    Take two outputs of the last layer that are neighbours. Without regard to borders, each is computed from a range of the input. The first
    result is the number of entries of such a range, counted from its first to its last entry (with gaps that a dilation may leave in
    between). The second is by how many entries the ranges of the two are apart.

    Args:
        layers: (kernel_size, stride, dilation) of each layer, the input's first, as any sequence of tuples or lists of three ints;
            pooling is a layer too. Empty for no layer at all: then an output is an entry of the input.

    Returns: (size, jump), a tuple of two ints, exact for any number of layers.
    Raises: ValueError if a kernel_size, stride or dilation is below 1.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("receptive_field")


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Prepare a trained network for a new task, in place: training may change a new head, and nothing else.

    1. The head `fc`, an nn.Linear, gives way to a new nn.Linear with as many inputs, num_classes outputs and a bias. It has the old
       one's device, dtype and mode, and torch's initial weights.
    2. Of all parameters, only the new head's two require gradients.
    3. Every nn.BatchNorm2d, at whatever depth, is in eval mode and stays in it: in training mode, its running statistics would drift
       although its parameters are frozen. So model.train() switches everything else to training mode (the model itself, its head, a
       dropout, …) but no batch norm; model.eval() and model.train(False) switch everything to eval mode; each as often as one likes.
       (It is enough that this holds for calls on the model itself: a part, such as model.layer1, needs no protection of its own.)

    The call itself changes no other module's mode. The backbone's parameters and buffers stay the same tensors, with the same names and
    values: except for the head's two, state_dict() is what it was.

    Args:
        model: any network with a head `fc`, such as torchvision.models.resnet18(). The head may have any number of inputs; modules may be
            in different modes; batch norms are all nn.BatchNorm2d.
        num_classes: 1 or more.

    Returns: the model that was given.
    Raises: ValueError if num_classes is below 1: nothing is changed then.
    """
    # TODO: about 11 lines, and 2 in helpers of your own.
    raise NotImplementedError("replace_head")


def augment(images: Tensor, labels: Tensor, *, padding: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vary the images of a batch at random, as one does for training: mirrored and shifted, each in its own way.

    Each image is, independently of the others,

    1. mirrored left to right with probability ½,
    2. padded with `padding` rows or columns of zeros on all four sides,
    3. cut back to H × W, at one of the (2 · padding + 1)² places, each with the same chance.

    All channels of an image are treated alike. The seed alone decides: the same seed gives the same result whatever was drawn before,
    and other seeds give others. Which variation a seed picks is up to you. torchvision.transforms.v2 has the parts, but mind two
    things: a transform treats all images of one call alike, and draws from torch's global generator, whose state must be left as it
    was (torch.random.fork_rng helps).

    Args:
        images: (N, C, H, W), float32 or uint8; N may be 0.
        labels: (N,), int64.
        padding: 0 or more, also more than H or W.

    Returns: (images, labels): a new tensor of the shape and dtype of images, and the labels, in the order of the batch.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("augment")
