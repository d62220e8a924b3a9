"""Devices: the same code on every machine, mixed precision, and models that are too large or too slow for one device.

No GPU is needed. Besides "cpu", every machine has the device "meta": its tensors have a shape and a dtype but no entries, so a
tensor can be moved there and computed with there, but never be copied back or read. The tests take it for a second device: code
that runs on both, and names neither, is ready for a GPU.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer


def pick_device(
    available: Mapping[str, int],
    preferred: Sequence[str | torch.device] = ("cuda", "mps", "cpu"),
) -> torch.device:
    """Choose the first device of a wish list that a machine has.

    What the machine has is told by `available`, so that the choice can be tried for any machine on any other: don't ask torch
    what is available here. A wish with an index counts from 0, so "cuda:1" needs two CUDA devices; a wish without one needs at
    least one device of that type. The CPU is always there, whatever `available` says of it. If no wish can be granted, or there
    is none, the choice falls on the CPU.

    Args:
        available: how many devices of each type the machine has, such as {"cuda": 2, "xpu": 0}; types that are not listed have
            none.
        preferred: the wishes, best first: strings such as "mps" or "cuda:1", or torch.devices. "cpu" stands there without an index.

    Returns: the torch.device as wished for: torch.device("cuda") for "cuda", torch.device("cuda", 1) for "cuda:1".
    Raises: ValueError if a wish is a string that torch.device does not understand, wherever in the list it stands: a misspelt
        wish should be noticed on every machine.
    """
    # TODO: about 8 lines.
    raise NotImplementedError("pick_device")


def move_to(tree: Any, device: str | torch.device) -> Any:
    """Move every tensor of a nested structure to a device.

    The structure is made of dicts, lists, tuples and named tuples, in any depth. Each comes back as a new one of its kind, also
    where nothing in it had to be moved: a dict with the same keys in the same order, a list as list, a tuple as tuple, a named
    tuple as one of the same class. (An empty one may come back itself.)

    A tensor comes back on the device, with its dtype, as tensor.to(device) gives it: the very same tensor if it is there
    already, and otherwise a copy through which gradients still flow back. That goes for nn.Parameter too.

    Everything else comes back as it is, the same object: numbers, strings, None, other containers (a set, a deque, a mapping that
    is no dict), whatever is in them, also an nn.Module or another object with a method `to` (the `to` of a module would move the
    one that its owner is using).

    Args:
        tree: a tensor, a container as above, or anything else. An OrderedDict may come back as a plain dict.
        device: where to.

    Returns: the structure with its tensors moved.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("move_to")


def mask_like_scores(scores: Tensor, lengths: Tensor, *, causal: bool = False) -> Tensor:
    """Make the mask that is added to attention scores, on their device and in their dtype.

    Query t of sequence b may see key s if s < lengths[b] and, when causal, also s ≤ t + (S - T), so that the last query sees up
    to the last key. The mask is 0 where it may and -inf where it may not, so a row without any key to see is all -inf.

    The mask depends on the shape, device and dtype of scores only: their entries are not read (NaN among them does no harm), and
    no graph is recorded. It is made on that device from the start: no tensor of more than B entries is made elsewhere, since
    copying it over would cost a wait on every call. For the same reason the entries of lengths must not decide what Python does
    (no item, tolist or if): on "meta", where there are none, that fails.

    Args:
        scores: (B, H, T, S), float16, bfloat16, float32 or float64, on any device, "meta" included. Thousands of keys are
            usual, and float16 can't count them: beyond 2048 it has the even numbers only.
        lengths: (B,), int64, on the device of scores or on the CPU; 0 is allowed, and so is any number above S.
        causal: whether a query may only see keys up to its own place.

    Returns: (B, 1, T, S), dtype and device of scores, without requires_grad.
    Raises: ValueError if lengths is not (B,).
    """
    # TODO: about 9 lines.
    raise NotImplementedError("mask_like_scores")


class Standardize(nn.Module):
    """Give each channel of images mean 0 and standard deviation 1, with statistics that travel with the model.

    y[b, c] = (x[b, c] - mean[c]) / std[c]

    `mean` and `std` are buffers of shape (channels,), float32 at first: part of the state_dict (whose keys are "mean" and
    "std", in this order), moved and cast by module.to(…), module.double() and the like, and never parameters: no gradient
    reaches them. forward goes by what is in them now, whether `fit`, load_state_dict or a user's own hand wrote it.

    Args of the constructor:
        channels: their number C. Until `fit` or load_state_dict, mean is 0 and std is 1 everywhere.
    """

    def __init__(self, channels: int) -> None:
        """Start with mean 0 and std 1; see the class."""
        # TODO: about 3 lines.
        raise NotImplementedError("Standardize.__init__")

    def fit(self, x: Tensor) -> "Standardize":
        """Take mean and std from x: over samples, rows and columns, for each channel.

        x is first brought to the dtype of the buffers, and all is computed there. The variance is the mean of
        (x - mean)², divided by n = B · H · W, not by n - 1. (mean(x²) - mean² is the same on paper, but in float32 no digit of it
        is right for 1000 ± 0.1.) A channel whose entries are all equal gets the std 1. Look at the entries for that: the std that
        is computed for nine times 0.1 is 7e-9, not 0.

        The numbers are written into the buffers in place: these stay the same tensors, and keep dtype and device. No graph is
        recorded, even if x requires a gradient.

        Args:
            x: (B, C, H, W), at least one entry a channel, uint8 or any floating dtype, on the device of the buffers.

        Returns: the module itself.
        Raises: ValueError if x does not have four dimensions and C channels; mean and std are then as before.
        """
        # TODO: about 5 lines, and 4 in helpers of your own.
        raise NotImplementedError("Standardize.fit")

    def forward(self, x: Tensor) -> Tensor:
        """Standardize x, whose gradient is that of the formula.

        Args:
            x: (B, C, H, W), uint8 or any floating dtype, on the device of the buffers. It is brought to the buffers' dtype
                first, so that uint8 does not wrap around; entries of uint8 are not divided by 255.

        Returns: (B, C, H, W), in the buffers' dtype.
        Raises: ValueError if x does not have four dimensions and C channels, also where shapes would broadcast.
        """
        # TODO: about 1 line, and 4 in helpers of your own.
        raise NotImplementedError("Standardize.forward")


def module_memory(module: nn.Module, optimizer: Optimizer | None = None) -> dict[str, dict[str, int]]:
    """Count the bytes that a module's training state takes, by kind and by dtype.

    A tensor takes numel · element_size bytes, on whichever device it is ("meta" too, which tells what a model will take before
    there is memory for it), and also if it is a view of a larger or a smaller memory. One that is in several places of the
    module, such as a tied weight or a module that is used twice, counts once. The kinds:

        "parameters": all parameters, trained or frozen
        "buffers":    all buffers, also those that are not in the state_dict (persistent=False)
        "gradients":  the .grad of the parameters, trained or frozen, where there is one
        "optimizer":  the tensors among the values of optimizer.state[p] for the module's parameters p: for Adam, exp_avg,
                      exp_avg_sq and the little step. Values that are no tensors count nothing, nor do states of parameters that
                      are not the module's.

    Args:
        module: any module.
        optimizer: one from torch.optim, or None. Mind that merely reading a missing key of optimizer.state, a defaultdict, adds
            that key.

    Returns: a dict with the four kinds above in any order, each a dict from str(dtype), such as "torch.float32", to bytes. A
        dtype of which a kind has no tensors is left out; a kind without tensors is {}.
    """
    # TODO: about 8 lines, and 5 in helpers of your own.
    raise NotImplementedError("module_memory")


def autocast_forward(model: nn.Module, x: Tensor) -> Tensor:
    """Run a float32 model in mixed precision, on the device where its input is.

    model(x) runs under torch.autocast for the device type of x, with bfloat16 on "cpu" and float16 on "cuda": matrix products
    are then computed in 16 bits, while the rest, such as adding up parameters, stays as autocast has it. The parameters are
    float32 before, during and after the call. Gradients flow through, unless the caller has switched them off, and arrive in
    float32.

    The caller may have autocast on already, with another dtype; the model must not see a difference. So don't use the casts of
    the weights that autocast keeps meanwhile (cache_enabled=False): they are of the caller's dtype, or without a graph. When the
    function returns, autocast is as it was before, also if the model raises an error, which is passed on.

    Args:
        model: float32, on the device of x. Called once; its output is one tensor.
        x: float32, any shape.

    Returns: the model's output, as float32.
    Raises: ValueError if x is on a device of another type than "cpu" and "cuda".
    """
    # TODO: about 5 lines.
    raise NotImplementedError("autocast_forward")


def train_step_amp(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    max_norm: float,
) -> dict[str, Any]:
    """Make one training step in mixed precision, with a scaled loss and clipped gradients.

    In this order:

    1. forget the gradients of earlier steps;
    2. run model and loss_fn under torch.autocast for the device type of x, with bfloat16 on "cpu" and float16 on "cuda";
    3. go backward from the loss times the scale, outside of autocast;
    4. divide the gradients by the scale (scaler.unscale_), and only then clip them to a joint norm of max_norm, as
       torch.nn.utils.clip_grad_norm_ does: max_norm is meant for true gradients;
    5. step through the scaler, which leaves parameters and optimizer alone if a gradient is inf or NaN;
    6. let the scaler adapt its scale, once a step.

    The parameters stay float32, and the same code runs on a CPU, on a GPU, and with a scaler that is switched off
    (enabled=False): its scale is always 1, and it skips nothing, not even a gradient of NaN.

    Args:
        model: float32, on the device of x; all its parameters get gradients. The caller has autocast off.
        loss_fn: gives the mean loss over the batch, a 0-d tensor.
        optimizer: holds the parameters of the model and no others; its settings, such as lr, stay as they are.
        scaler: a torch.amp.GradScaler for the device of x, kept from step to step.
        max_norm: the largest joint norm that the update's gradients may have, above 0.

    Returns: {"loss": the loss of this batch, not scaled, a float; "grad_norm": the joint norm of the true gradients before
        clipping, a float (any float if the step was skipped); "skipped": True if the scaler skipped the update, else False}.
    See: "Automatic Mixed Precision examples", gradient clipping, in PyTorch's documentation.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("train_step_amp")


def data_parallel_forward(model: nn.Module, x: Tensor, devices: Sequence[str | torch.device]) -> Tensor:
    """Run one batch through copies of a model on several devices, a piece of the batch on each.

    Cut x in order into one piece a device, whose sizes differ by at most 1, the larger ones first: 7 samples on 3 devices are
    3, 2 and 2. A device whose piece would be empty is not used. Copy the model's parameters and buffers to each device, call
    the model with each piece there, bring the outputs to the first device, and put them together in the order of x.

    torch.func.functional_call(model, tensors, (piece,)) calls a model with other tensors, by name, in the places of its own. So
    the model stays where it is, with the same tensors in the same modes as before, also if the call raises an error, which is
    passed on. And if the copies are part of the graph, gradients reach the model's own parameters (the sum of what all copies
    contribute) and x.

    In the forward pass of a copy all its parameters and buffers are on its device, tied ones in all of their places, and every
    layer is in the mode (train or eval) that it has in the model.

    Args:
        model: on any one device, without recurrent layers (which keep a second list of their weights); model(piece) is a
            tensor with as many rows as the piece. It does not change its buffers in forward.
        x: (N, ...), N ≥ 1, on any one device.
        devices: at least one; the same device may be in the list several times, and then gets several pieces.

    Returns: (N, ...), on devices[0].
    Raises: ValueError if there are no devices.
    Not allowed: torch.nn.DataParallel, torch.nn.parallel.data_parallel.
    """
    # TODO: about 9 lines.
    raise NotImplementedError("data_parallel_forward")


def offload_forward(layers: Sequence[nn.Module], x: Tensor, device: str | torch.device) -> Tensor:
    """Run a model that does not fit on a device, one layer at a time.

    x goes to the device. Then each layer in turn is called there, as layer(x), with its parameters and buffers on the device,
    and its output is the next one's input. When a layer is called, no other layer's weights are on the device: those of the
    layer before have been let go of, and those of the next one are not there yet. In the end none are.

    The layers' own tensors stay at home: after the call every parameter and buffer is the very same object as before, on its
    own device, with its own memory and values, also if a layer raises an error, which is passed on. Nothing is copied back, since
    a forward pass changes no weights. torch.func.functional_call(layer, tensors, (x,)) is made for this: it calls a layer with
    other tensors, by name, in the places of its own.

    No graph is recorded (it would keep all weights on the device): torch.is_grad_enabled() is False in the layers, and
    afterwards what it was before.

    Args:
        layers: a list of modules, or an nn.Sequential, none of them recurrent; a layer may have layers inside, also with tied
            weights, and may be in the list more than once. They don't change their buffers in forward.
        x: the input of the first layer, on any device.
        device: where to compute.

    Returns: the last layer's output, on the device; x on the device if there are no layers.
    """
    # TODO: about 6 lines.
    raise NotImplementedError("offload_forward")


def copy_async(batch: Any, device: str | torch.device, stream: Any = None) -> tuple[Any, Any]:
    """Start to copy a batch to a device, and say when it will have arrived.

    The batch is made of dicts, lists and tuples (no named ones), in any depth. Each comes back as a new one of its kind, with
    copies on the device for the tensors, and everything else as it is. (An empty one may come back itself.)

    A copy is a real one, even of a tensor that is on the device already: it shares no memory with its source, which can be
    overwritten with the next batch. It is plain data, without a graph and requires_grad. A tensor that is in several places of the
    batch is sent once, and its places share the copy.

    To "cpu" and "meta" the copies are there when the function returns, and the event is None. `stream` plays no part, and
    non_blocking is never True: a copy from a GPU to the CPU could otherwise be read before it has arrived.

    To "cuda" the function doesn't wait for the copies (this part is tested only where there is a GPU):

    1. The stream waits for the current stream, which may still be writing the sources.
    2. On the stream, each source is copied with non_blocking=True; one on the CPU is pinned before, unless it is already.
    3. record_stream marks the copies as used by the current stream, and sources on the device as used by the stream, so that
       their memory isn't reused too early.
    4. After the last copy an event is recorded on the stream. The caller lets the current stream wait for it,
       by torch.cuda.current_stream().wait_event(event), before it uses the copies, and doesn't overwrite pinned sources earlier.

    Args:
        batch: a tensor or a container as above, its tensors on the CPU or on the device.
        device: where to.
        stream: the torch.cuda.Stream to copy on; None for a new one.

    Returns: (copies, event): the batch on the device, and the torch.cuda.Event, or None.
    """
    # TODO: about 18 lines, and 10 in helpers of your own.
    raise NotImplementedError("copy_async")
