"""Training: losses, optimizers, the loop, checkpoints and data.

Every task stands alone. Where one could build on another, use torch's own: `torch.optim.SGD` in a loop, for example.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def cross_entropy(logits: Tensor, targets: Tensor, *, ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of class scores, with label smoothing (Szegedy et al. 2016, section 7) and ignored targets.

    With p = softmax(logits[n]), the loss of row n is −Σ_c q_c · log p_c, where q_c = (1 − ε) · [c = targets[n]] + ε / C and
    ε = label_smoothing. The result is the mean over the rows whose target is not ignore_index. The other rows add nothing,
    neither to the loss nor to the gradient, even if they hold inf or NaN. ignore_index may be any integer, a class number too.
    If every row is ignored, or N is 0, the loss is 0 and so is its gradient (torch's own gives NaN).

    Scores of ±10,000 must give the right loss and gradient too, never inf or NaN.

    Args:
        logits: (N, C), float32 or float64.
        targets: (N,), int64.
        ignore_index: rows with this target don't count.
        label_smoothing: ε, in [0, 1].

    Returns: 0-d tensor, dtype of logits, differentiable in logits.
    Raises: ValueError if a target that isn't ignored is outside 0 … C − 1.
    Not allowed: torch's cross_entropy, CrossEntropyLoss, nll_loss, NLLLoss. (log_softmax and logsumexp are fine.)
    """
    # TODO: about 9 lines.
    raise NotImplementedError("cross_entropy")


class SGD:
    """Stochastic gradient descent with momentum, Nesterov's variant and weight decay; step for step as torch's, up to rounding.

    `step` does this for each parameter p with gradient g, in place and without recording a graph:

        g ← g + weight_decay · p
        if momentum is not 0:
            v ← g at the parameter's first step, later v ← momentum · v + g
            g ← g + momentum · v if nesterov, else g ← v
        p ← p − lr · g

    Args of the constructor:
        params: parameters; any iterable, also a generator such as `model.parameters()`.
        lr: learning rate.
        momentum, nesterov, weight_decay: as above.

    The learning rate is the public attribute `lr`: a schedule may set it between steps. Each optimizer has its own v's.

    Raises: ValueError if lr is negative, or if nesterov is asked for with momentum 0.
    Not allowed: torch.optim.SGD and its functional form.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        """Remember the parameters and the settings; see the class."""
        # TODO: about 7 lines.
        raise NotImplementedError("SGD.__init__")

    def step(self) -> None:
        """Update every parameter in place, so that all that share its memory see it.

        A parameter whose grad is None at this moment stays as it is, weight decay included, and so does its v. The gradients
        themselves (the tensors p.grad) are never changed, and v never shares memory with them: they may be overwritten later.
        """
        # TODO: about 10 lines.
        raise NotImplementedError("SGD.step")

    def zero_grad(self) -> None:
        """Set the grad of every parameter to None."""
        # TODO: about 2 lines.
        raise NotImplementedError("SGD.zero_grad")


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2); step for step as torch's, up to rounding.

    `step` does this for each parameter p with gradient g, in place and without recording a graph; t = 1, 2, … counts the
    steps in which this parameter had a gradient, and m and v start at 0:

        p ← p · (1 − lr · weight_decay)
        m ← β₁ · m + (1 − β₁) · g
        v ← β₂ · v + (1 − β₂) · g²
        p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)

    Args of the constructor:
        params: parameters; any iterable, also a generator such as `model.parameters()`.
        lr: learning rate.
        betas: (β₁, β₂), each in [0, 1).
        eps: added after the square root.
        weight_decay: as above.

    The learning rate is the public attribute `lr`: a schedule may set it between steps. Each optimizer has its own t, m and v.

    Raises: ValueError if lr is negative or a beta is outside [0, 1).
    Not allowed: torch.optim.AdamW, torch.optim.Adam and their functional forms.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        """Remember the parameters and the settings; see the class."""
        # TODO: about 9 lines.
        raise NotImplementedError("AdamW.__init__")

    def step(self) -> None:
        """Update every parameter in place; one whose grad is None at this moment stays as it is, and so do its t, m and v."""
        # TODO: about 12 lines.
        raise NotImplementedError("AdamW.step")

    def zero_grad(self) -> None:
        """Set the grad of every parameter to None."""
        # TODO: about 2 lines.
        raise NotImplementedError("AdamW.zero_grad")


def cosine_with_warmup(step: int, *, warmup_steps: int, total_steps: int, min_factor: float = 0.0) -> float:
    """The factor on the learning rate at a step: up in a line, then down along half a cosine (Loshchilov & Hutter 2017).

    Steps count from 0.

        step < warmup_steps:                 step / warmup_steps, from 0 up
        warmup_steps ≤ step < total_steps:   min_factor + (1 − min_factor) · ½ · (1 + cos(π · x)),
                                             x = (step − warmup_steps) / (total_steps − warmup_steps)
        step ≥ total_steps:                  min_factor

    So the factor is 0 at the first step of a warm-up, and 1 at step warmup_steps if that is below total_steps. warmup_steps may
    be 0 (no warm-up) or equal to total_steps (no cosine). Use: `torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: …)`.

    Args:
        step: number of updates made so far.
        warmup_steps, total_steps: 0 ≤ warmup_steps ≤ total_steps.
        min_factor: the factor at the end, a float or an int.

    Returns: a Python float.
    Raises: ValueError if step is negative, or unless 0 ≤ warmup_steps ≤ total_steps.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("cosine_with_warmup")


def clip_grad_norm_(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together, in place, so that their joint norm is at most max_norm (Pascanu et al. 2013, section 3.2).

    The norm is that of one long vector: the square root of the sum of squares over all entries of all gradients. If it is
    larger than max_norm, every gradient is multiplied by max_norm / norm (torch's own adds 1e-6 to the norm: not here);
    otherwise every gradient keeps its values, bit for bit. The tensors p.grad stay the same objects: only their entries change.

    Args:
        params: any iterable of parameters, also a generator. Those whose grad is None are skipped. The gradients have any shapes
            and one floating dtype. In float16, 300² is inf already: take the squares in float32 there.
        max_norm: 0 or more; 0 sets the gradients to 0.

    Returns: the norm before clipping: a 0-d tensor, dtype of the gradients; a float32 zero if there are no gradients.
    Raises: ValueError if max_norm is negative; RuntimeError if the norm is inf or NaN, as it is when a gradient holds one.
        No gradient is changed then.
    Not allowed: torch.nn.utils' clip_grad_norm_, clip_grads_with_norm_ and get_total_norm.
    """
    # TODO: about 12 lines.
    raise NotImplementedError("clip_grad_norm_")


def train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
) -> float:
    """Train for one pass over the batches and return the mean loss per sample.

    Puts the whole model into training mode, then makes for each batch, in order, one update: gradients of earlier updates
    (also those from before the call) are cleared with optimizer.zero_grad(), the loss is loss_fn(model(x), y), then
    backward, then optimizer.step(). The model sees each batch exactly once, and stays in training mode.

    Args:
        batches: any iterable of (x, y) such as a DataLoader, also a generator; x and y have n samples along their first axis.
            n may differ from batch to batch.
        loss_fn: gives the mean loss over a batch, a 0-d tensor.
        optimizer: holds the parameters to train: some or all of the model's, perhaps some of loss_fn's too. Its settings, such as lr,
            stay as they are.

    Returns: Σ n · loss / Σ n over the batches, a Python float; a batch's loss is the one its update was made from.
    Raises: ValueError if there are no batches.
    """
    # TODO: about 12 lines.
    raise NotImplementedError("train_epoch")


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, float]:
    """Mean loss and accuracy of a classifier, leaving the model as it was.

    Meanwhile the model and all its submodules are in eval mode, and no graph is recorded: torch.is_grad_enabled() is False in
    the model and in loss_fn. Afterwards each submodule is in its own mode again (some may train and others not), and recording
    is on or off as it was before. This also holds after an error: one of the model, of loss_fn or of batches is passed on.

    Args:
        batches: any iterable of (x, y), also a generator; n samples each, and n may differ. model(x) is (n, C), y is (n,) int64.
        loss_fn: loss_fn(model(x), y) is the mean loss over a batch, a 0-d tensor.

    Returns: {"loss": Σ n · loss / Σ n, "accuracy": the share of all samples whose largest score is at y}, Python floats.
    Raises: ValueError if there are no batches.
    """
    # TODO: about 16 lines.
    raise NotImplementedError("evaluate")


def accumulate_gradients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    micro_batch_size: int,
) -> float:
    """The gradients of one big batch, computed in pieces that fit into memory.

    Cuts the batch in order into micro-batches of micro_batch_size samples (the last may be shorter), and goes forward and
    backward through one before the next is begun, so that only one piece's activations are alive at a time. In the end p.grad
    of each parameter has grown by the gradient of loss_fn(model(x), y) on the whole batch. Like backward, this
    adds to a gradient that is there already. No gradient is cleared and no parameter changed.

    Args:
        model: treats samples independently (no batch norm).
        x, y: N ≥ 1 samples along the first axis.
        loss_fn: gives the mean loss over the samples it gets, a 0-d tensor.
        micro_batch_size: the most samples that model and loss_fn may see at once; may be larger than N.

    Returns: the loss of the whole batch, a Python float.
    Raises: ValueError if micro_batch_size is below 1.
    """
    # TODO: about 8 lines.
    raise NotImplementedError("accumulate_gradients")


class EarlyStopping:
    """Say when to stop training, and keep the best weights.

    Call `update` once an epoch with the validation loss. A loss improves if it is less than best_loss − min_delta (so an equal
    one doesn't); it then becomes best_loss, and the model's state_dict() is kept. Training should stop once `patience` updates in a
    row haven't improved. A NaN never improves.

    Args of the constructor:
        patience: how many updates in a row without improvement end the training, at least 1.
        min_delta: by how much a loss must be lower to count, 0 or more.

    The public attribute `best_loss` is the loss of the last improvement, a float: inf before the first one.

    Raises: ValueError if patience is below 1.
    """

    def __init__(self, patience: int, *, min_delta: float = 0.0) -> None:
        """Start with best_loss = inf; see the class."""
        # TODO: about 6 lines.
        raise NotImplementedError("EarlyStopping.__init__")

    def update(self, loss: float, model: nn.Module) -> bool:
        """Take note of an epoch's validation loss; on an improvement keep a copy of the model's state_dict().

        What happens to the model later doesn't reach the copy. The model itself isn't changed.

        Returns: True if the last `patience` updates (or more) were all without improvement, else False. An improvement
            after that makes it False again.
        """
        # TODO: about 7 lines.
        raise NotImplementedError("EarlyStopping.update")

    def restore(self, model: nn.Module) -> None:
        """Write the best parameters and buffers into this model, in place: its parameters stay the same tensors.

        It may be another model of the same form. The copy stays good: one may train on and restore again.

        Raises: RuntimeError if no update has improved yet.
        """
        # TODO: about 3 lines.
        raise NotImplementedError("EarlyStopping.restore")


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, epoch: int) -> None:
    """Write all that is needed to go on training later as if there had been no break.

    The file is a dict that torch.load(path, weights_only=True) can read, with exactly these keys:

        "model", "optimizer", "scheduler":  the state_dict() of each
        "epoch":                            epoch, an int
        "rng_state":                        torch.get_rng_state()

    Save under another name in the same folder, then call os.replace: a file that is at path already is replaced as a whole or not
    at all. If saving fails (a full disk, something that can't be pickled), the old file is unharmed and the error is passed on.
    In either case no other file is left behind.

    Args:
        path: where to write, in a folder that exists; absolute or relative.
        epoch: number of epochs done.
    """
    # TODO: about 13 lines.
    raise NotImplementedError("save_checkpoint")


def load_checkpoint(path: str | os.PathLike[str], model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler) -> int:
    """Put model, optimizer, scheduler and torch's random state back to what a checkpoint holds.

    The file is a dict saved by torch.save with the keys "model", "optimizer", "scheduler" (their state_dict()), "epoch" (int) and
    "rng_state" (from torch.get_rng_state()); other keys are of no interest. After loading, training goes on exactly
    as it would have without a break: same random numbers (those that follow the saved state), same learning rates, same weights.

    The objects are changed in place: the model's parameters and buffers stay the same tensors.

    Files may come from strangers, and a pickle can run code: read with weights_only=True. The file may come from a machine
    with a GPU: read its tensors to the CPU (load_state_dict moves them where they belong).

    Returns: the saved epoch.
    Raises: ValueError if one of the five keys is missing: nothing is changed then; FileNotFoundError if there is no file;
        pickle.UnpicklingError (torch.load's own) if the file holds objects that weights_only=True refuses.
    """
    # TODO: about 9 lines.
    raise NotImplementedError("load_checkpoint")


def collate_padded(batch: list[tuple[Tensor, int]], *, padding_value: float = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make one batch of sequences of different lengths: a collate_fn for a DataLoader.

    Args:
        batch: B pairs (sequence, label). A sequence is (T_i, …): the lengths T_i differ and may be 0, the other sizes and the dtype
            (floating, integer or bool) are the same for all. Labels are ints.
        padding_value: what stands behind a sequence's end.

    Returns: (padded, lengths, mask, labels), in the order of the batch, with T = max T_i:
        padded: (B, T, …), dtype of the sequences: sequence i, then padding_value.
        lengths: (B,), int64: the T_i.
        mask: (B, T), bool: True where a sequence has an entry, False on padding.
        labels: (B,), int64.
    Raises: ValueError if the batch is empty.
    Not allowed: torch.nn.utils.rnn's pad_sequence, pack_sequence and pad_packed_sequence; nested tensors.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("collate_padded")


def split_indices(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Split a data set at random into training and held-out samples, class by class (stratified).

    Of the n samples of each class, ⌊fraction · n + ½⌋ are held out: drawn at random, each sample of the class with the same chance, and
    independently of the other classes. The seed alone decides: the same seed gives the same split whatever was drawn before, and
    other seeds give other splits, where there is a choice. The global random state is neither used nor changed
    (`torch.Generator().manual_seed(seed)` helps). Which samples a seed picks is up to you.

    Args:
        labels: (N,), int64: the class of each sample; any integers, in any order. N may be 0.
        fraction: in [0, 1].
        seed: 0 or more.

    Returns: (train, held_out): positions 0 … N − 1, int64, each sorted in ascending order; every position is in exactly one.
    Raises: ValueError if fraction is outside [0, 1].
    """
    # TODO: about 10 lines.
    raise NotImplementedError("split_indices")


def fit_digits(images: Tensor, labels: Tensor, *, seed: int) -> dict[str, Tensor]:
    """Train a small convolutional network on handwritten digits, from scratch, and return its weights.

    The network is exactly this one, so that the weights can be loaded into it and judged on images that you don't get:

        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * (H // 2) * (W // 2), 10),
        )

    With about 1,200 images of 8×8 it must classify at least 93 % of 600 held-out images correctly, which are drawn at random
    from the same 1,797 digits. Some eight epochs of Adam in shuffled mini-batches of 64, with a learning rate of 2e-2 that falls
    towards 0, reach 97 % in about half a second on one core, which is all there is: 20 seconds of it. Learn from the labels that
    you are given: the test renames the digits at random.

    Args:
        images: (N, 1, H, W), float32 in [0, 1].
        labels: (N,), int64, 0 … 9.
        seed: decides the initial weights and the shuffling: the same seed gives the same weights, whatever the state of
            the global generators before the call; another seed gives other weights. (Here you may seed the global generators.)

    Returns: the trained network's state_dict(): float32 tensors under its keys, "0.weight" to "6.bias".
    """
    # TODO: about 17 lines.
    raise NotImplementedError("fit_digits")
