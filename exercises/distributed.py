"""Distributed training: the same step on many machines.

Ranks are processes that run the same code, each with its own share of the work. Every task stands alone.

`ring_all_reduce` gets a `comm`, with which a rank talks to the others: `comm.rank` (0 … size − 1), `comm.size`,
`comm.send(tensor, to)`, which copies and never waits, and `comm.recv(source)`, which waits for the next tensor from there.

In the tasks that use collectives, the default process group exists: use `torch.distributed` as `dist`, with `dist.get_rank()` and
`dist.get_world_size()`. There may be only one rank. All ranks have to join in the same collectives in the same order, or they wait
for ever. The public tests run your code in two real processes; the grader runs it on ranks that are threads.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F
from torch.utils.data import Sampler


def ring_all_reduce(comm: Any, x: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in a ring (Patarasuk & Yuan 2009): no rank sends more than twice its own data.

    With n ranks, each cuts its flattened x into n chunks: the first (entries mod n) chunks have one entry more than the others, as in
    `tensor_split`. Chunks may be empty, and are sent all the same. Rank r sends to rank (r + 1) mod n only, and receives from rank
    (r − 1) mod n only. In each step it sends one chunk first, and receives one then. All numbers of chunks are mod n:

        reduce, steps s = 0 … n − 2:   send chunk r − s;       receive chunk r − s − 1, and add it to your own chunk of that number
        gather, steps s = 0 … n − 2:   send chunk r + 1 − s;   receive chunk r − s, which takes the place of your own

    So each rank sends 2(n − 1) messages, and a single rank sends none. A message is a tensor of one dimension with the dtype of x.

    Args:
        comm: with rank, size, send and recv; see the top of the file.
        x: this rank's tensor, of any shape, also 0-d or empty; a float or integer dtype. Shape and dtype are the same on all ranks.

    Returns: the sum, on every rank; a new tensor with the shape and dtype of x. Integers are summed exactly.
    """
    # TODO: about 9 lines.
    raise NotImplementedError("ring_all_reduce")


class DistributedSampler(Sampler[int]):
    """Share out the indices of a data set to the ranks, each its own, all of them equally many (torch.utils.data.DistributedSampler).

    With N samples and R ranks:

    1. The order is 0 … N − 1, or if `shuffle` is true, `torch.randperm(N, generator=g)`, where g is a new `torch.Generator` that is
       seeded with seed + epoch. So all ranks know the same order, and each epoch has its own.
    2. The order gets a length that R divides. With `drop_last`, indices are left out at its end. Otherwise it goes on from its own
       start, over and over if need be, up to the next multiple of R.
    3. Rank r takes the places r, r + R, r + 2R, …

    No process group is needed. An iteration gives Python ints; it can be repeated, and gives the same until the epoch changes. The
    epoch is 0 at first.

    Args of the constructor:
        dataset: anything with a length, N; 0 is fine.
        num_replicas: R, at least 1.
        rank: r, of 0 … R − 1.
        shuffle, seed, drop_last: see above.

    Raises: ValueError if rank is not one of 0 … R − 1.
    Not allowed: torch's own DistributedSampler.
    """

    def __init__(
        self, dataset: Sized, num_replicas: int, rank: int, *, shuffle: bool = True, seed: int = 0, drop_last: bool = False
    ) -> None:
        """Remember the arguments; see the class."""
        # TODO: about 4 lines.
        raise NotImplementedError("DistributedSampler.__init__")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 or more, whose order the next iterations have."""
        # TODO: about 1 line.
        raise NotImplementedError("DistributedSampler.set_epoch")

    def __len__(self) -> int:
        """How many indices this rank gets in an epoch."""
        # TODO: about 1 line.
        raise NotImplementedError("DistributedSampler.__len__")

    def __iter__(self) -> Iterator[int]:
        """Go through this rank's indices of the epoch."""
        # TODO: about 3 lines.
        raise NotImplementedError("DistributedSampler.__iter__")


class DataParallel(nn.Module):
    """Train one model on all ranks, each with its own part of the batch (Li et al. 2020, sections 3.2.1 and 3.2.3).

    A training step is: `loss = loss_fn(model(x), y)`, `loss.backward()`, `model.finish()`, `optimizer.step()`. It does on every rank
    what one process does with the whole batch, if the parts are equally large and the loss is a mean.

    - At the start, rank 0's parameters and buffers are broadcast, frozen parameters and integer buffers too, into the tensors that
      the other ranks' modules have. Buffers are not synchronised later on.
    - A gradient's all_reduce starts in the backward pass, as soon as the gradient is there: hook `register_post_accumulate_grad_hook`,
      `async_op=True`. So the network works while gradients of earlier layers are still computed. There is one all_reduce for each
      parameter that got a gradient, of the sum (not every backend has an average). Frozen parameters, and those that the loss does
      not use, take part in nothing, and their `.grad` stays as it is.
    - `finish` waits for all of them. After that each `.grad` is the mean over the ranks.
    - A backward pass within `with model.no_sync():` only adds to this rank's gradients and starts nothing. So with several
      micro-batches, all but the last within no_sync, each parameter has one all_reduce, at the last one, of all that has been added up.

    All ranks use the same parameters, in every micro-batch too. `finish` is called after each backward pass outside of no_sync, and
    may be called more often: then there is nothing to do. `.grad` may be None, zero, or an earlier mean, when backward starts.

    Args of the constructor:
        module: any module, on the CPU. It is the attribute `module`, and no other parameters or buffers exist.

    Not allowed: nn.parallel.DistributedDataParallel.
    """

    def __init__(self, module: nn.Module) -> None:
        """Take over rank 0's state and place the hooks; see the class."""
        # TODO: about 8 lines, and 4 in helpers of your own.
        raise NotImplementedError("DataParallel.__init__")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives for these arguments."""
        # TODO: about 1 line.
        raise NotImplementedError("DataParallel.forward")

    def finish(self) -> None:
        """Wait until every gradient of the last backward pass is the mean over the ranks."""
        # TODO: about 4 lines.
        raise NotImplementedError("DataParallel.finish")

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let backward passes start nothing, until the outermost such context ends, be it with an exception."""
        # TODO: about 5 lines.
        raise NotImplementedError("DataParallel.no_sync")


def bucket_gradients(parameters: Sequence[Tensor], bucket_bytes: int) -> list[list[int]]:
    """Average all gradients over the ranks, many of them in one message: a message has a price, however small it is.

    Go through the parameters from the last to the first, since a backward pass has the last layers' gradients first. Those whose `.grad`
    is None are left out. A gradient goes into the current bucket; but it begins a new one if it has another dtype than the bucket, or if
    the bucket would then be larger than `bucket_bytes`. So a gradient that is larger than that has a bucket of its own.

    Each bucket, in this order, is one all_reduce (sum) of one tensor of one dimension: the flattened gradients one after another. The
    sum is divided by the number of ranks, and written into the gradients: the tensors that are `.grad` stay the same.

    Args:
        parameters: of any shapes, layouts and floating dtypes, possibly none. All ranks have the same ones with and without gradient.
        bucket_bytes: how many bytes a bucket may have, 0 or more.

    Returns: for each bucket the places in `parameters`, in the order in which they were added.
    """
    # TODO: about 17 lines.
    raise NotImplementedError("bucket_gradients")


def sync_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each channel with the statistics of all ranks' batches together, as in training (Ioffe & Szegedy 2015, algorithm 1).

        y = (x − mean) / √(var + eps) · weight + bias

    mean and var (the biased one, which divides by the number of entries) are those of a channel in the batches of all ranks, joined.
    Ranks may have batches of different sizes, and some may have no samples at all: these have to take part, too.

    The gradient is that of the sum of all ranks' losses. So each rank's gradient of x is the one that its samples would have in one
    big batch, where a sample changes the statistics and with these the others' outputs. The gradients of weight and bias are this
    rank's share: summed over the ranks they are those of the big batch.

    Batches stay where they are: no rank gives a collective more than 2C + 2 numbers at a time. var is the mean of (x − mean)², so that in
    float32 a channel with mean 1000 and deviation 1 is right to 0.005.

    Args:
        x: (N, C, …) with any number of dimensions behind C; this rank's batch, float32 or float64. N is 0 or more, but not 0 on all
            ranks. On all ranks it needs a gradient, or on none.
        weight, bias: (C,), the same on all ranks.
        eps: 0 or more.

    Returns: shape and dtype of x.
    Not allowed: nn.SyncBatchNorm.
    """
    # TODO: about 7 lines, and 10 in helpers of your own.
    raise NotImplementedError("sync_batch_norm")


class ZeroAdamW:
    """AdamW whose state is shared out (ZeRO-1; Rajbhandari et al. 2020, section 5.1): each rank keeps the moments of its own parameters.

    Each parameter has an owner. Parameters are given away from the largest to the smallest number of entries, equal ones in their
    order: each to the rank that has the fewest entries so far, the lowest such rank if there are several.

    A step does this for each parameter that has a gradient, in any order: one `dist.reduce` (sum) of a copy of its gradient to its
    owner; the owner alone divides by the number of ranks and updates; one `dist.broadcast` of the parameter from its owner. So all ranks
    have the parameters that AdamW has in one process with the mean of all gradients. With g this mean, and t the number of updates of this
    parameter, this one included:

        p ← p · (1 − lr · weight_decay)
        m ← β₁ · m + (1 − β₁) · g          v ← β₂ · v + (1 − β₂) · g²          both 0 at first
        p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + eps)

    Parameters without gradient are left as they are. `.grad` is left alone by `step`.

    Attributes:
        owners: the owner of each parameter, a list of ints.
        state: for the place of each parameter that this rank owns and has updated, {"step": t as an int, "exp_avg": m, "exp_avg_sq": v};
            of other parameters nothing, and no other tensor of their sizes is kept between steps.
        lr: may be changed between steps.

    Args of the constructor:
        params: the model's parameters, contiguous, float32 or float64, the same on all ranks. They have gradients on all ranks or on none.
        lr, betas, eps, weight_decay: 0 or more; betas below 1.

    Not allowed: torch.distributed.optim.ZeroRedundancyOptimizer. (torch.optim.AdamW is fine.)
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        """Choose the owners; see the class."""
        # TODO: about 6 lines.
        raise NotImplementedError("ZeroAdamW.__init__")

    def zero_grad(self) -> None:
        """Set every gradient to None."""
        # TODO: about 2 lines.
        raise NotImplementedError("ZeroAdamW.zero_grad")

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters on all ranks; see the class."""
        # TODO: about 8 lines, and 8 in helpers of your own.
        raise NotImplementedError("ZeroAdamW.step")


class FullyShardedLinear(nn.Module):
    """A linear layer without bias of whose weight each rank keeps some rows (FSDP; Zhao et al. 2023, section 3.2.1).

    With n ranks and a weight W of `out` rows, c = ⌈out / n⌉: rank r keeps the rows r · c … (r + 1) · c − 1, as far as they exist. The last
    ranks may have fewer, or none at all: then their parameter has 0 rows.

        forward    all_gather of the weight; y = x · Wᵀ; the whole weight is dropped
        backward   all_gather of the weight again; the gradient of x, from this rank's x only; the gradient of the whole weight,
                   reduce_scatter of it, divided by n: each rank gets its rows of the mean over the ranks

    So the whole weight is never kept between forward and backward: autograd saves this rank's rows only. Collectives need equal
    sizes, so shards and gradients are padded to c rows for each rank, all_gather gets c · in numbers from each, and reduce_scatter
    n · c · in. Each rank has a batch of its own, and these may have different sizes.

    Args of the constructor:
        weight: the whole (out, in), the same on all ranks, float32 or float64.

    Attributes:
        weight: nn.Parameter, this rank's rows, (≤ c, in): a copy. The only entry of the state_dict.

    Not allowed: torch.distributed.fsdp.fully_shard and FullyShardedDataParallel, distribute_tensor.
    """

    def __init__(self, weight: Tensor) -> None:
        """Keep this rank's rows; see the class."""
        # TODO: about 4 lines.
        raise NotImplementedError("FullyShardedLinear.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the whole weight.

        Args:
            x: (..., in), dtype of the weight. It needs a gradient on all ranks or on none.

        Returns: (..., out).
        """
        # TODO: about 1 line, and 16 in helpers of your own.
        raise NotImplementedError("FullyShardedLinear.forward")


class ColumnRowMLP(nn.Module):
    """A feed-forward network whose hidden features are shared out to the ranks (Megatron-LM; Shoeybi et al. 2019, section 3).

        y = gelu(x · w1ᵀ + b1) · w2ᵀ + b2          the exact gelu, which F.gelu computes by default

    With n ranks and H hidden features, rank r keeps the hidden features r · H/n … (r + 1) · H/n − 1: those rows of w1 and b1, and those
    columns of w2. b2 is whole on every rank, and is added once. All ranks get the same x, and give the same y, from which all of them
    compute the same loss.

    Two collectives do it, each an all_reduce of a tensor with the shape of x. In the forward pass: this rank's product with w2, without
    b2, so that the sum over ranks is complete. In the backward pass: the gradient of x that comes from this rank's features. (If x needs
    no gradient, there is nothing to reduce in the backward pass.) Then all gradients, of x too, are those that one process would find,
    each rank's parameters having their own part of them.

    Args of the constructor: the whole tensors, the same on all ranks, float32 or float64; rank r's parts are copied.
        w1: (H, D). b1: (H,). w2: (D, H). b2: (D,).

    Attributes: the parameters w1 (H/n, D), b1 (H/n,), w2 (D, H/n), b2 (D,); nothing else is in the state_dict.
    Raises: ValueError if n does not divide H.
    Not allowed: parallelize_module, distribute_tensor.
    """

    def __init__(self, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> None:
        """Keep this rank's features; see the class."""
        # TODO: about 6 lines.
        raise NotImplementedError("ColumnRowMLP.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the whole network.

        Args:
            x: (..., D), the same on all ranks.

        Returns: (..., D), the same on all ranks.
        """
        # TODO: about 2 lines, and 16 in helpers of your own.
        raise NotImplementedError("ColumnRowMLP.forward")


def vocab_parallel_cross_entropy(logits: Tensor, targets: Tensor, start: int) -> Tensor:
    """Cross entropy over a vocabulary whose logits are shared out to the ranks (Shoeybi et al. 2019, section 3).

        loss[i] = log Σ_c exp(logits[i, c]) − logits[i, targets[i]]          c runs over the classes of all ranks

    Each rank has the logits of a block of classes: its column j is class start + j. The blocks lie side by side, need not be equally
    large, and cover the vocabulary. The logits are never gathered: no rank gives a collective more than 2N numbers at a time.

    For stability each row's largest logit, over all ranks, is subtracted before exp, so that logits from −1e5 to 1e5 are right, as are
    logits of −inf: also where a rank has nothing else in a row, as long as the target's logit is finite.

    All ranks get the same losses and compute the same from them. The backward pass needs no collective: the gradient of this rank's
    logits is (softmax over all classes − 1 at the target) times the loss's gradient.

    Args:
        logits: (N, V_r), float32 or float64, V_r ≥ 1, N ≥ 0; this rank's columns.
        targets: (N,), int64, numbers of classes of the whole vocabulary; the same on all ranks.
        start: the class of this rank's first column.

    Returns: (N,), dtype of logits, the same on all ranks.
    Not allowed: torch.distributed.tensor.parallel.loss_parallel. (F.cross_entropy is fine, but knows one rank's classes only.)
    """
    # TODO: about 10 lines.
    raise NotImplementedError("vocab_parallel_cross_entropy")


def pipeline_schedule(num_stages: int, num_microbatches: int, kind: str) -> list[list[str]]:
    """Plan which stage of a pipeline does what, tick by tick.

    The network's layers are split into stages, one on each rank, and the batch into micro-batches. "F3" is the forward pass of
    micro-batch 3 in a stage, and "B3" its backward pass. Each takes one tick, and a stage does one thing at a time. With S stages
    and M micro-batches, both counted from 0, stage s does these in turn:

        gpipe (Huang et al. 2019)      all forward passes F0 … F(M−1), then all backward passes B0 … B(M−1)
        1f1b (Narayanan et al. 2019)   min(M, S − s) forward passes; then one backward and one forward pass in turn, as long as there
                                       are forward passes left; then the backward passes that are left. Both kinds go from 0 to M − 1

    So in 1f1b stage s holds the activations of no more than S − s micro-batches.

    A stage starts its next pass in the first tick in which it can. F needs that the stage before did the same micro-batch's F in an earlier
    tick. B needs that the stage behind did the same micro-batch's B in an earlier tick. (B in the last stage needs only its own
    F, which comes first anyway.) Otherwise the stage idles for this tick, as it does when it has done everything.

    Args:
        num_stages: S, at least 1.
        num_microbatches: M, at least 1.
        kind: "gpipe" or "1f1b".

    Returns: a list for each stage, with a string for each tick, "" where it idles. All lists have the same length: up to the tick of the
        last pass. For 2 stages, 2 micro-batches and gpipe:
        [["F0", "F1", "", "", "B0", "B1"], ["", "F0", "F1", "B0", "B1", ""]].
    Raises: ValueError for another kind, and if S or M is below 1.
    """
    # TODO: about 21 lines.
    raise NotImplementedError("pipeline_schedule")


def federated_average(
    global_state: dict[str, Tensor],
    client_states: Sequence[dict[str, Tensor] | None],
    num_samples: Sequence[int],
    *,
    max_norm: float | None = None,
    noise_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Make one model of those that clients trained on data that they keep (FedAvg; McMahan et al. 2017, algorithm 1).

    Client k trained a copy of the global state on its own n_k samples. With Δ_k = client state − global state:

        new state = global state + Σ_k n_k · Δ_k / Σ_k n_k

    - Clients that dropped out (None) or that have no samples (n_k = 0) count for nothing, whatever their state holds, NaN too.
    - The sums are computed in float64 and then rounded to the dtype of the global state's entry.
    - Entries that are not floating-point, such as the counter of batches in batch norm, can't be averaged. They are those of the client
      that counts and has the most samples, the first one if there are several.
    - With `max_norm`, each Δ_k is clipped first: its norm is that of all its floating-point entries together; if it is larger than
      max_norm, Δ_k is multiplied by max_norm / norm. So no client can pull further than that.
    - With `noise_std` above 0, noise hides what single clients did: `noise_std * torch.randn(entry.shape, dtype=torch.float64,
      generator=generator)` is added to each floating-point entry, in the order of the global state, once. Otherwise nothing is drawn.
    - If no client counts, the new state is the global state, without noise.

    Args:
        global_state: tensors by name, as `state_dict()` gives them, of any dtypes and shapes.
        client_states: for each client its state, with the same names and shapes in any order, or None. There may be no clients.
        num_samples: n_k for each client, 0 or more.
        max_norm: 0 or more; None clips nothing.
        noise_std: 0 or more.
        generator: for the noise; None takes torch's default one.

    Returns: a new dict, in the order of the global state, of new tensors that share no memory with any state, with the dtypes of the
        global state.
    Raises: ValueError if there are not as many numbers of samples as clients, if one is negative, or if a client that counts has other
        names than the global state.
    """
    # TODO: about 21 lines.
    raise NotImplementedError("federated_average")


def shard_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Share out a model's layers with torch's own tensor parallelism (torch.distributed.tensor.parallel).

    The model has `blocks`, an nn.ModuleList in which each block has the linear layers `up` and `down`, with bias, and perhaps other
    layers; and a linear layer `head`, with bias. A block applies down to some function of up's output that treats each feature by itself.

        up     its output features are shared out: weight and bias are Shard(0)
        down   its input features are shared out: weight is Shard(1), bias is replicated
        head   its output features are shared out: weight and bias are Shard(0); its output is gathered, so that every rank has all of it

    These parameters become DTensors on the mesh with these placements. All others, such as norms and embeddings, stay plain tensors.
    Inputs and outputs of blocks and head are plain tensors, the same on all ranks. So a block's forward pass needs one all_reduce, after
    down, and head's one all_gather. Gradients are right, too.

    Args:
        model: as above, on the CPU, with the same weights on all ranks. It may have no blocks.
        mesh: one dimension, with all ranks: `init_device_mesh("cpu", (n,))`. n divides up's features and head's.

    Returns: the model itself.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("shard_model")


def fsdp_wrap(model: nn.Module, mesh: DeviceMesh, lr: float) -> torch.optim.AdamW:
    """Shard a model with torch's own FSDP2, `torch.distributed.fsdp.fully_shard`, and make the optimizer for it.

    The model has `blocks`, an nn.ModuleList, and other layers. Each block is a unit of its own, and the root is a unit with all the
    parameters that are left. A unit's parameters are gathered before its forward pass, dropped after it (for the root, fully_shard itself
    decides that), and gathered again for its backward pass. So besides the shards, only about one block is there at a time.

    The order matters: a module takes those parameters into its unit that no unit has yet. And fully_shard replaces parameters by DTensors:
    an optimizer needs the new ones, of which it then keeps state for this rank's shards only.

    Args:
        model: as above, on the CPU, with the same weights on all ranks. It is sharded in place.
        mesh: one dimension. Mostly it has all ranks, as `init_device_mesh("cpu", (n,))`; it may also be a part of a larger mesh, and then
            the parameters are shared out to this part's ranks.
        lr: the learning rate of AdamW. Its other settings are AdamW's defaults.

    Returns: the optimizer, of all the sharded model's parameters.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("fsdp_wrap")
