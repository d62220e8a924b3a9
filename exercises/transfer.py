"""Transfer: reuse what is trained. Freeze it, load a part of it, let it grow, and teach it something new with few numbers and few images.

Every task stands alone. Patterns are those of `fnmatch.fnmatchcase`: "*" stands for any characters, dots too, so "body.*" matches
"body.1.weight" and not "body". Results have the dtype of the inputs, float32 or float64.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def freeze(model: nn.Module, patterns: Sequence[str]) -> dict[str, int]:
    """Freeze the parts of a model whose names match one of the patterns, in place. From then on, training can't move them: neither
    gradients, nor an optimizer's weight decay or momentum, nor the statistics of the batches.

    Names are those of named_parameters() and named_buffers(), such as "body.1.weight" or "body.1.running_mean".

    1. A parameter of which a name matches no longer requires gradients, and its grad is None. (A gradient that stays behind would let an
       optimizer that was made before go on with its weight decay and its momentum.) A shared parameter has several names: one is enough.
    2. A batch norm (nn.BatchNorm1d, nn.BatchNorm2d or nn.BatchNorm3d) whose running_mean has a matching name is in eval mode, and stays
       in it: model.train() and model.eval(), or those of any module around it, switch all other modules as usual. So it computes with its
       running statistics, and these don't drift.

    Nothing else changes: no value, and no other module's mode. What was frozen before stays frozen.

    Args:
        model: its modules may be in different modes. It may be a single layer.
        patterns: may be empty, and may overlap.

    Returns: {"frozen": …, "trainable": …, "norms": …}: of all parameters of the model, after the call, how many entries don't require
        gradients and how many do, with a shared parameter counted once; and how many batch norms match in this call.
    Raises: ValueError if a pattern matches no parameter and no buffer: nothing is changed then.
    """
    # TODO: about 16 lines, and 2 in helpers of your own.
    raise NotImplementedError("freeze")


def param_groups(model: nn.Module, layers: Sequence[str], *, lr: float, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Give each layer its own learning rate, smaller the nearer it is to the input, and spare biases and norms the weight decay, as one
    fine-tunes transformers (Howard & Ruder 2018, section 3.2; BEiT).

    `layers` holds the names of modules or parameters, from input to output. A parameter belongs to a layer if its name is the layer's, or
    begins with the layer's name and a dot: "blocks.1.bias" is in "blocks.1", and "blocks.10.bias" is not. Of L layers, number i = 0 … L − 1
    learns at

        lr · decay^(L − 1 − i)

    Each parameter that requires gradients is in exactly one group. A shared parameter has several names: it is in the first layer of
    `layers` to which one of them belongs. Parameters that don't require gradients are in no group.

    Each layer has up to two groups: first its parameters of two or more dimensions, with the weight decay given; then those of fewer, which
    are biases and the scales of norms, with a weight decay of 0.0. A group without parameters is left out.

    Args:
        model: any.
        layers: no name lies within another one.
        lr: of the last layer, at least 0.
        decay: 0 … 1; 0⁰ is 1.
        weight_decay: at least 0.

    Returns: the groups for an optimizer such as torch.optim.AdamW, in the order of `layers`. Each is a dict with "params" (a list of the
        model's parameters, in the order of named_parameters()), "lr" and "weight_decay" (floats).
    Raises: ValueError if a parameter that requires gradients belongs to no layer.
    """
    # TODO: about 14 lines.
    raise NotImplementedError("param_groups")


def load_partial(model: nn.Module, state: Mapping[str, Tensor], *, prefixes: Sequence[str] = ()) -> dict[str, list[str]]:
    """Load what fits of a checkpoint into a model, in place, and say what became of every name.

    Each key of the checkpoint gives a name: as long as it begins with one of the prefixes, that is cut off, so with the prefixes "module."
    and "_orig_mod.", "module._orig_mod.fc.bias" becomes "fc.bias". These names are compared with those of model.state_dict():

        "loaded"       in both, with the same shape: the values are copied into the model's tensor
        "mismatched"   in both, with different shapes
        "missing"      in the model only
        "unexpected"   in the checkpoint only

    Only what is loaded changes. The model's parameters and buffers stay the same tensors, with their dtypes and requires_grad; they share
    no memory with the checkpoint.

    Args:
        model: any. Names of one shared tensor count one by one, as in state_dict().
        state: tensors of any dtype; they may require gradients.
        prefixes: none is empty, or the beginning of another.

    Returns: the four lists of names, in the order above. The first three are in the order of model.state_dict(), the last in that of state.
    Raises: ValueError if two keys of the checkpoint give the same name, or if nothing is loaded: the model is unchanged then.
    """
    # TODO: about 20 lines.
    raise NotImplementedError("load_partial")


def resize_vocab(model: nn.Module, num_tokens: int, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Give a language model another number of tokens, in place, in the middle of its training.

    model.embed is an nn.Embedding(V, d), and model.head an nn.Linear(d, V), with or without a bias. Their weights may be tied: the very
    same nn.Parameter. Afterwards, there are num_tokens tokens instead of V:

    1. embed.weight, head.weight and head.bias get num_tokens rows, as new nn.Parameters with the old dtype and requires_grad. The first
       rows are the old ones, as far as they fit. Each further row is the mean of all V old rows (for the bias: of its V old entries).
       What was tied stays tied, and what was not is not.
    2. embed.num_embeddings and head.out_features follow. embed and head stay the same modules, with all other settings.
    3. In the optimizer, each new parameter takes the old one's place, in the same group at the same index, and takes over its state:
       tensors of the old parameter's shape get num_tokens rows as well, the first ones from the old, further ones 0. The rest of the state,
       such as the number of steps, stays as it is. So the next step treats old rows as if nothing had happened.

    Args:
        model: float32 or float64.
        num_tokens: at least 1; more than V, fewer, or V itself; above embed.padding_idx, if there is one.
        optimizer: any of torch.optim's, which may hold any of the three parameters and others; it may have made no step yet.

    Raises: ValueError if num_tokens is below 1: nothing is changed then.
    """
    # TODO: about 18 lines.
    raise NotImplementedError("resize_vocab")


def interpolate_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], *, extra: int = 1) -> Tensor:
    """Stretch a vision transformer's table of positions to another size of images (Dosovitskiy et al. 2021, section 3.2).

    The table holds a vector for each position. The first `extra` ones belong to tokens outside the image, such as the class token: they
    stay as they are. The others are a grid of old[0] rows and old[1] columns, row by row: position (i, j) of the grid is number
    extra + i · old[1] + j. Each of the D features is an image of its own, and is resized to new[0] rows and new[1] columns as by
    F.interpolate(…, mode="bicubic", align_corners=False). The new table lists them row by row again.

    Gradients reach the table.

    Args:
        table: (1, extra + old[0] · old[1], D), float32 or float64.
        old, new: rows and columns, each at least 1.
        extra: at least 0.

    Returns: (1, extra + new[0] · new[1], D).
    Raises: ValueError if the table's number of positions is another one.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("interpolate_positions")


class LoRALinear(nn.Module):
    """A trained linear layer that learns by a low-rank change of its weight (Hu et al. 2022, section 4.1).

        y = base(x) + α / r · (dropout(x) Aᵀ) Bᵀ

    The parameters, with dtype and device of base.weight:

        A    (r, in_features), uniform in ±1/√in_features
        B    (out_features, r), zeros, so that the layer begins as base

    base is kept as the attribute `base`: the very module that was given. Its parameters no longer require gradients. The state_dict holds
    A, B, and base's entries ("base.weight", …).

    merge() adds α / r · B A to base.weight, in place, so that the layer is as fast as base; unmerge() takes it out again, which gives the
    old weight up to rounding. The attribute `merged` says which of the two holds, False at first. A merged layer computes base(x) alone. To
    merge a merged layer, or unmerge one that isn't, changes nothing. (A and B keep their values while the layer is merged.)

    Args of the constructor:
        base: an nn.Linear, with or without a bias.
        rank: r, at least 1.
        alpha: α.
        dropout: the probability with which an entry of x is 0 on its way to A, in training mode, as in nn.Dropout: the others grow
            by 1 / (1 − dropout). base sees x itself.

    Raises: ValueError if rank is below 1: base is unchanged then.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        """Freeze base and make A and B; see the class."""
        # TODO: about 9 lines.
        raise NotImplementedError("LoRALinear.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Compute y.

        Args:
            x: (..., in_features), dtype of the parameters.

        Returns: (..., out_features).
        """
        # TODO: about 2 lines.
        raise NotImplementedError("LoRALinear.forward")

    def merge(self) -> None:
        """Add the change to base.weight; see the class."""
        # TODO: about 3 lines.
        raise NotImplementedError("LoRALinear.merge")

    def unmerge(self) -> None:
        """Take the change out of base.weight; see the class."""
        # TODO: about 3 lines.
        raise NotImplementedError("LoRALinear.unmerge")


class InjectedLoRA:
    """Low-rank adapters for the linear layers of a model: added from outside, switched, and taken out again.

        lora = InjectedLoRA(model, ["*.up", "head"])
        lora.add("poems", rank=4, alpha=8.0)
        lora.use("poems")
        AdamW(lora.weights("poems").values())                            # train as usual, save weights("poems"); a few kilobytes
        lora.use(None)                                                   # the model itself
        lora.remove()

    The targets are the model's nn.Linear layers whose names in named_modules() match one of the patterns. While an adapter is in use, each
    target, given x, returns

        its own output + α / r · (x Aᵀ) Bᵀ

    with the adapter's A and B for this layer, r and α. At first no adapter is in use: the model computes as before.

    The adapters are no part of the model. Its modules stay the same objects, and the keys and values of its state_dict() stay the same.
    All parameters of the model (also outside of the targets) don't require gradients from the start until remove() is called.

    Args of the constructor:
        model: any, with modules in it; it may hold one layer under several names, which counts once, under the first.
        targets: patterns; they may overlap.

    Raises: ValueError if a pattern matches no nn.Linear: nothing is changed then.
    """

    def __init__(self, model: nn.Module, targets: Sequence[str]) -> None:
        """Freeze the model and get hold of the targets; see the class."""
        # TODO: about 9 lines, and 5 in helpers of your own.
        raise NotImplementedError("InjectedLoRA.__init__")

    def add(self, adapter: str, rank: int, alpha: float) -> None:
        """Make an adapter: for each target, A (r, in_features), uniform in ±1/√in_features, and B (out_features, r), zeros.

        They have the dtype of the target's weight and require gradients. What is in use stays in use.

        Args:
            adapter: its name.
            rank: r, at least 1.
            alpha: α.

        Raises: ValueError if there is an adapter of this name, or rank is below 1: nothing is changed then.
        """
        # TODO: about 8 lines.
        raise NotImplementedError("InjectedLoRA.add")

    def use(self, adapter: str | None) -> None:
        """Switch to an adapter, or to none. Raises: ValueError if there is none of this name: what is in use stays in use."""
        # TODO: about 3 lines.
        raise NotImplementedError("InjectedLoRA.use")

    def weights(self, adapter: str) -> dict[str, nn.Parameter]:
        """The adapter's own parameters: for each target, in the order of named_modules(), the keys f"{name}.A" and f"{name}.B".

        They are the very parameters that are used: whoever trains them, or copies values into them, changes the adapter.
        """
        # TODO: about 1 line.
        raise NotImplementedError("InjectedLoRA.weights")

    def remove(self) -> None:
        """Take everything out of the model again: it computes as before, and what required gradients does so again."""
        # TODO: about 4 lines.
        raise NotImplementedError("InjectedLoRA.remove")


def average_checkpoints(checkpoints: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of several checkpoints of one training, or of several fine-tunings from one start (Izmailov et al. 2018;
    Wortsman et al. 2022).

    1. A floating-point tensor is the mean over all checkpoints. It is computed in float64 and rounded once, to the tensor's own dtype, so
       that float16 does not overflow on the way.
    2. Any other tensor (a count of batches, a boolean mask) is that of the last checkpoint.
    3. What is tied stays tied: names that share a tensor in the first checkpoint share one in the result, so that a change of the one is a
       change of the other. Names share a tensor if their memory begins at the same address (data_ptr) and they have the same shape,
       strides and dtype. After torch.load, these are different objects.

    Apart from that, the result's tensors have memory of their own. They don't require gradients.

    Args:
        checkpoints: state_dicts with the same names, shapes and dtypes; names may be in another order. All share the same tensors.

    Returns: the averages, with the names in the order of the first checkpoint.
    Raises: ValueError if there is no checkpoint, or if names, shapes or dtypes differ.
    """
    # TODO: about 13 lines.
    raise NotImplementedError("average_checkpoints")


def masked_tokens(
    tokens: Tensor, *, vocab_size: int, mask_token: int, special: Tensor, generator: torch.Generator, p: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Hide some tokens of a text, for a model that learns to guess them (BERT; Devlin et al. 2019, section 3.1 and appendix A.1).

    A token is ordinary if it is neither in `special` nor mask_token. Each place with an ordinary token is chosen with probability p,
    independently of all others. In a chosen place stands, independently again,

        mask_token                                                 with probability 0.8
        an ordinary token of the vocabulary, each equally likely   with probability 0.1 (it may be the same as before)
        the token itself                                           with probability 0.1

    All random numbers come from the generator, so that equal states give equal results, and a second call gives others.

    Args:
        tokens: any shape, int64, 0 … vocab_size − 1.
        vocab_size: V. At least one of the V tokens is ordinary.
        mask_token: 0 … V − 1.
        special: (S,), int64: tokens that are never chosen and never put in, such as padding and separators. May be empty.
        generator: on the CPU.
        p: 0 … 1.

    Returns: inputs, the text with hidden tokens; and labels, the tokens themselves in chosen places and −100 elsewhere. Both int64, of the
        shape of tokens, and not the memory of tokens.
    Raises: ValueError if p is not in 0 … 1.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("masked_tokens")


def fine_tune_digits(weights: dict[str, Tensor], images: Tensor, labels: Tensor, *, classes: int, seed: int) -> dict[str, Tensor]:
    """Teach a network that knows the digits 0 to 4 other digits, from ten noisy images of each, and return its weights.

    The network is exactly this one:

        nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(),
            nn.Linear(96, classes),
        )

    `weights` is the state_dict of such a network with a head of 5 classes, "9.weight" and "9.bias", trained on hundreds of images of
    the digits 0 to 4. The head is of no use now. The layers before it, the backbone, are. Images have 12×12 pixels: a digit of 8×8 at any
    place, and noise.

    On held-out images of the new digits, over three draws of images, the weights that you return must be right for at least 3 percentage
    points more than the same network trained from random weights on the same images, which reaches about 45 %; half of them is enough in
    any case. The backbone may adapt, and must not forget:

    - of the weight W of each convolution, with W₀ as it was given, ‖W − W₀‖ ≤ 0.2 · ‖W₀‖ (the root of the sum of squares);
    - the statistics of the batch norms, "1.…" and "5.…" (running_mean, running_var, num_batches_tracked), come back as they were given.

    A frozen backbone in eval mode and a new head, trained for 100 steps of AdamW on all images with a learning rate of 3e-2, reach about
    58 %, in 0.1 seconds; ten seconds is the limit. Learn from the labels that you are given: the test renames the digits at random.

    Args:
        weights: as above; they are left as they are.
        images: (N, 1, H, W), float32, also of other sizes; some 10 of each class.
        labels: (N,), int64, 0 … classes − 1.
        classes: at least 2. With 3 of them, 42 % must be right.
        seed: the same seed gives the same weights, whatever the state of the global generators before the call. (Here you may seed the
            global generators.)

    Returns: the network's state_dict(): tensors under its keys, "0.weight" to "9.bias".
    """
    # TODO: about 15 lines.
    raise NotImplementedError("fine_tune_digits")
