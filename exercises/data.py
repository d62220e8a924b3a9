"""Data pipelines: get samples to the model in the right order, each exactly once.

Every task stands alone: where one could build on another, use torch's own. No task starts processes. Where DataLoader's workers or
several machines matter, their numbers are arguments.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import itertools
import math
import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2


class IdxDataset(Dataset[tuple[Any, int]]):
    """Images and labels from two files in MNIST's IDX format, read when they are asked for.

    An IDX file of bytes with n dimensions holds

        2 bytes      0
        1 byte       8, the code of unsigned bytes
        1 byte       n
        4 bytes · n  the sizes, each as a big-endian unsigned int
        1 byte each  the entries, the last dimension runs fastest

    The images are (N, H, W), the labels (N,). The samples are those of torchvision.datasets.MNIST: dataset[i] is (image, label), with
    image (H, W), uint8, a tensor of its own, and label an int. Negative i count from the end, as in a list.

    The constructor reads the two headers only. dataset[i] opens the files anew and reads the bytes of sample i: what has been written
    into the files in the meantime counts. Between the calls no file is open, so that the dataset can be pickled, and that the
    workers of a DataLoader do not share one position in a file.

    Args of the constructor:
        images, labels: the paths of the two files. N may be 0; H and W are at least 1.
        transform: called with each image; what it returns takes the image's place. None leaves images as they are.

    Raises: the constructor a ValueError if a header is cut off or is not that of unsigned bytes with the right number of dimensions, if
        a file is shorter or longer than its header says, or if there are not as many labels as images. dataset[i] an IndexError if i
        is not in −N … N − 1.
    """

    def __init__(
        self, images: str | os.PathLike[str], labels: str | os.PathLike[str], *, transform: Callable[[Tensor], Any] | None = None
    ) -> None:
        """Read the headers; see the class."""
        # TODO: about 4 lines, and 9 in helpers of your own.
        raise NotImplementedError("IdxDataset.__init__")

    def __len__(self) -> int:
        """N."""
        # TODO: about 1 line.
        raise NotImplementedError("IdxDataset.__len__")

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Read one sample; see the class."""
        # TODO: about 9 lines.
        raise NotImplementedError("IdxDataset.__getitem__")


class StreamingStats:
    """Mean and standard deviation of each channel, in one pass over batches of any size (Chan et al. 1983, eq. 2.1).

    However the images are cut into batches, the results are those of all images at once, over all entries of a channel. Sums and
    results are float64, whatever the dtype of the images. No digits are lost to large means: where a channel has the mean 1e8 and the
    standard deviation 1, the latter is right to 1e-6, which E[x²] − E[x]² is not. For two groups with counts a and b, means m and n,
    and sums of squared deviations from their own means S and T, the mean and the sum of both together are

        m + (n − m) · b / (a + b)
        S + T + (n − m)² · a · b / (a + b)

    What one channel holds, a NaN for instance, does not reach another.

    Args of the constructor:
        num_channels: C, at least 1.

    The public attribute `count` says how many entries each channel has had, an int: N · H · W, added up over the batches.
    """

    def __init__(self, num_channels: int) -> None:
        """Start with nothing seen."""
        # TODO: about 2 lines.
        raise NotImplementedError("StreamingStats.__init__")

    def update(self, images: Tensor) -> None:
        """Take in a batch. What happens to it later does not matter.

        Args:
            images: (N, C, H, W), uint8 or floating, taken as they are; no entries at all add nothing.

        Raises: ValueError if images is not 4-D or has not C channels. Everything is as before then.
        """
        # TODO: about 6 lines, and 5 in helpers of your own.
        raise NotImplementedError("StreamingStats.update")

    def merge(self, other: "StreamingStats") -> None:
        """Take in all that `other` has seen, as from another worker. `other`, another object, stays as it is, and may have seen nothing.

        Raises: ValueError if other has another number of channels. Everything is as before then.
        """
        # TODO: about 4 lines, and 5 in helpers of your own.
        raise NotImplementedError("StreamingStats.merge")

    def mean(self) -> Tensor:
        """The mean of each channel, (C,), float64. Raises: ValueError if nothing was seen."""
        # TODO: about 3 lines.
        raise NotImplementedError("StreamingStats.mean")

    def std(self) -> Tensor:
        """The standard deviation of each channel, (C,), float64: the squared deviations are divided by `count`, not by count − 1.

        Raises: ValueError if nothing was seen.
        """
        # TODO: about 3 lines.
        raise NotImplementedError("StreamingStats.std")


class LengthBatchSampler(Sampler[list[int]]):
    """Batches of samples of similar length, for DataLoader's argument `batch_sampler`.

    Sequences of a batch are padded to its longest one. A batch of n samples, the longest of length L, so costs n · L tokens. In an
    epoch,

    1. every index 0 … N − 1 is in exactly one batch, once; none is left out at the end;
    2. no batch costs more than max_tokens;
    3. no two batches could be one: together they would cost more than max_tokens;
    4. the padding of all batches together, Σ n · L − Σ lengths, is at most max_tokens · ln(longest / shortest length);
    5. the order of the batches is random, every one equally likely, and so is which of the samples of equal length go together.

    1 to 4 hold if the samples are sorted by length and cut, from one end to the other, into batches as large as may be.

    `seed` and the epoch, 0 until set_epoch, together decide all: iterating again in an epoch, or with another sampler that has the same
    arguments, gives the same batches in the same order; another epoch or seed gives others.

    Args of the constructor:
        lengths: the lengths of samples 0 … N − 1, ints, at least 1; N may be 0. Later changes of the list do not reach the sampler.
        max_tokens: the most that a batch may cost.
        seed: 0 or more.

    Iterating gives the batches, each a list of ints. len(sampler) is the number of batches of this epoch.
    Raises: ValueError if a length is below 1 or above max_tokens.
    """

    def __init__(self, lengths: Sequence[int], max_tokens: int, *, seed: int = 0) -> None:
        """Check the lengths; see the class."""
        # TODO: about 3 lines.
        raise NotImplementedError("LengthBatchSampler.__init__")

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration belongs to, 0 or more."""
        # TODO: about 1 line.
        raise NotImplementedError("LengthBatchSampler.set_epoch")

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch."""
        # TODO: about 1 line, and 12 in helpers of your own.
        raise NotImplementedError("LengthBatchSampler.__iter__")

    def __len__(self) -> int:
        """The number of batches of the epoch."""
        # TODO: about 1 line, and 12 in helpers of your own.
        raise NotImplementedError("LengthBatchSampler.__len__")


class WeightedSampler(Sampler[int]):
    """Draw samples with given weights, for DataLoader's argument `sampler`: rare classes more often, say.

    With replacement, each draw is independent of the others and gives index i with probability weights[i] / Σ weights. (Where does a
    uniform number in 0 … Σ weights fall, if the weights lie side by side?) Without, indices are drawn one after another, each with
    probabilities in proportion to the weights of those that are left. (Give each index an exponential random number, divided by its
    weight; the smallest ones, in ascending order, are such draws: Efraimidis & Spirakis 2006.) An index with weight 0 is never drawn.

    `seed` and the epoch, 0 until set_epoch, together decide all: iterating again in an epoch gives the same draws, another epoch or seed
    gives others.

    Args of the constructor:
        weights: (N,), float32 or float64. They are 0, or from 1e-30 to 1e30, and need not add up to 1. Later changes of the tensor do not
            reach the sampler.
        num_samples: the number of draws in an epoch, 0 or more; with replacement, it may exceed N.
        replacement: whether an index can be drawn again.
        seed: 0 or more.

    Iterating gives num_samples ints in the order of the draws. len(sampler) is num_samples.
    Raises: ValueError if a weight is negative, infinite or NaN, if num_samples is negative, if all weights are 0 though something is to
        be drawn, or, without replacement, if num_samples exceeds the number of weights above 0.
    Not allowed: WeightedRandomSampler, torch.multinomial.
    """

    def __init__(self, weights: Tensor, num_samples: int, *, replacement: bool = True, seed: int = 0) -> None:
        """Check the arguments; see the class."""
        # TODO: about 6 lines.
        raise NotImplementedError("WeightedSampler.__init__")

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration belongs to, 0 or more."""
        # TODO: about 1 line.
        raise NotImplementedError("WeightedSampler.set_epoch")

    def __len__(self) -> int:
        """The number of draws."""
        # TODO: about 1 line.
        raise NotImplementedError("WeightedSampler.__len__")

    def __iter__(self) -> Iterator[int]:
        """The draws of the epoch."""
        # TODO: about 7 lines.
        raise NotImplementedError("WeightedSampler.__iter__")


def shard_stream(
    source: Iterable[Any], *, worker_id: int = 0, num_workers: int = 1, rank: int = 0, world_size: int = 1, even: bool = False
) -> Iterator[Any]:
    """Give one reader its share of a stream that every reader sees as a whole: each item goes to exactly one of them.

    An IterableDataset is copied to every worker of a DataLoader, in every process of a distributed training. If nobody shares out the
    stream, each sample arrives num_workers · world_size times. A dataset's __iter__ can end like this:

        info = torch.utils.data.get_worker_info()  # None in the main process
        return shard_stream(source, worker_id=info.id, num_workers=info.num_workers)

    There are R = world_size · num_workers readers; this one has the number r = rank · num_workers + worker_id. It gets the items number
    r, r + R, r + 2R, … of the stream, counted from 0, as they are and in order. There may be more readers than items.

    If `even` is true, all readers get the same number of items: the stream is cut into rounds of R items, and those of a last, incomplete
    round go to nobody. (In distributed training, a process with one more batch would wait for the others forever.)

    The stream may be endless. To give an item, no more is taken from the source than up to that item; if `even` is true, up to the end
    of its round.

    Args:
        source: any iterable; it is iterated over once, and nothing else is asked of it.
        worker_id, num_workers: which worker of how many in its process.
        rank, world_size: which process of how many.
        even: whether to leave out an incomplete round.

    Returns: an iterator over this reader's items.
    Raises: ValueError unless 0 ≤ worker_id < num_workers and 0 ≤ rank < world_size: at the call, not when the first item is asked for.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("shard_stream")


def shuffle_buffer(source: Iterable[Any], size: int, *, generator: torch.Generator) -> Iterator[Any]:
    """Shuffle a stream that is too long for memory: a buffer of `size` items is all there is to choose from.

    At first the buffer takes in `size` items, or all if there are fewer. Then it gives one of those in it, each equally likely, and the
    next item of the stream takes the free place; and so on. Once the stream has ended, what is left comes out in the same way. Each item
    comes out once. If the buffer holds the whole stream, all orders are equally likely.

    The stream may be endless, and the items anything: None, equal ones, tensors. When item number k comes out, counted from 1, at least
    size + k − 1 items and at most size + k have been taken from the source, fewer only where it has no more.

    Args:
        source: any iterable; it is iterated over once.
        size: at least 1; a buffer of 1 keeps the order.
        generator: where all random numbers come from. A generator in the same state gives the same order; used again, as for the next
            epoch, it gives another.

    Returns: an iterator over the items.
    Raises: ValueError if size is below 1: at the call, not when the first item is asked for.
    """
    # TODO: about 11 lines.
    raise NotImplementedError("shuffle_buffer")


class ResumableLoader:
    """Shuffled batches of a dataset, from which an interrupted training goes on where it stopped.

    Each iteration, `for batch in loader`, is an epoch; the first one is epoch 0. In an epoch every sample comes once, in a random order
    that seed and epoch together decide, whatever else was drawn: the same seed gives the same epochs, and epochs differ. A batch is
    torch.utils.data.default_collate of a list of batch_size samples dataset[i]; the last one may be shorter.

    - state_dict() says after which batch the iteration stands: the last one that was given. Loaded into a new loader of the same
      dataset, the next iteration gives the rest of the epoch, those after it the epochs that follow: all as if nothing had happened.
    - When the last batch of an epoch has been given, the state is that of the start of the next epoch, also inside the loop.
    - An iteration that is left early (`break`) is over: the next one begins the next epoch. Only load_state_dict makes an iteration
      begin inside an epoch.
    - A sample is read only when its batch is asked for. Batches before the place where an iteration resumes are not read.

    There is one iteration at a time.

    Args of the constructor:
        dataset: has len(dataset), 0 or more, and dataset[i] for i from 0 to len(dataset) − 1.
        batch_size: at least 1; may exceed the number of samples.
        seed: 0 or more.
        drop_last: whether a last, shorter batch is left out. What is left out differs from epoch to epoch.

    len(loader) is the number of batches in a whole epoch.
    Raises: ValueError if batch_size is below 1.
    """

    def __init__(self, dataset: Any, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> None:
        """Stand at the start of epoch 0."""
        # TODO: about 4 lines.
        raise NotImplementedError("ResumableLoader.__init__")

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        # TODO: about 2 lines.
        raise NotImplementedError("ResumableLoader.__len__")

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch, or what is left of it."""
        # TODO: about 11 lines.
        raise NotImplementedError("ResumableLoader.__iter__")

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands. Later steps do not change what was returned.

        Returns: a dict of numbers, strings and the like, which torch.save and torch.load(…, weights_only=True) give back.
        """
        # TODO: about 1 line, and 2 in helpers of your own.
        raise NotImplementedError("ResumableLoader.state_dict")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where `state` stands. Its seed counts from now on, not the one that this loader was made with.

        Args:
            state: from state_dict, of this loader or another one. It stays as it is.

        Raises: ValueError if it comes from a loader with another batch_size, drop_last or number of samples. This loader is as before
            then.
        """
        # TODO: about 4 lines, and 2 in helpers of your own.
        raise NotImplementedError("ResumableLoader.load_state_dict")


def mixup(x: Tensor, labels: Tensor, lam: Tensor, perm: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix each sample of a batch with another one, and their labels alike (Zhang et al. 2018, section 2).

        mixed[i] = λ[i] · x[i] + (1 − λ[i]) · x[perm[i]]
        soft[i]  = λ[i] · onehot(labels[i]) + (1 − λ[i]) · onehot(labels[perm[i]])

    Each sample has a λ of its own. λ = 1 leaves the sample as it is; λ = 0 gives its partner. If both have the same label, that class
    gets all of the weight. x may also be what a hidden layer gave: gradients flow through mixed to both samples.

    Args:
        x: (N, ...), float32 or float64, finite: images (N, C, H, W), or any other samples, plain numbers (N,) too; N may be 0.
        labels: (N,), int64, 0 … num_classes − 1.
        lam: (N,), dtype of x, from 0 to 1: λ.
        perm: (N,), int64, a permutation of 0 … N − 1.
        num_classes: K, at least 1.

    Returns: mixed, shape and dtype of x, and soft, (N, K), dtype of x, as F.cross_entropy takes it for targets.
    Raises: ValueError if a label is not in 0 … K − 1 or a λ not in 0 … 1.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("mixup")


def augment_boxes(
    image: tv_tensors.Image,
    mask: tv_tensors.Mask,
    boxes: tv_tensors.BoundingBoxes,
    labels: Tensor,
    *,
    flip: bool,
    crop: tuple[int, int, int, int],
) -> tuple[tv_tensors.Image, tv_tensors.Mask, tv_tensors.BoundingBoxes, Tensor]:
    """Mirror and crop an image together with all that belongs to it: the mask of its pixels, the boxes around its objects.

    1. If `flip` is true, everything is mirrored left to right. A box is made of edges, not of pixels: its left edge at x lies at W − x
       afterwards, and is the right one.
    2. Everything is cut to `crop`. Boxes are measured from the new corner and clipped to the new image.
    3. A box of which nothing is left, with a width or height of 0, is dropped, and its label with it. All others stay, however small,
       and in order.

    torchvision.tv_tensors are tensors that know what they are, and torchvision.transforms.v2.functional treats each kind in its own way.
    (v2.SanitizeBoundingBoxes drops boxes below one pixel, too.) An operation on a tv_tensor gives a plain tensor: tv_tensors.wrap makes a
    tv_tensor of it again.

    Args:
        image: tv_tensors.Image, (C, H, W), uint8 or floating.
        mask: tv_tensors.Mask, (H, W), uint8 or int64: the class of each pixel.
        boxes: tv_tensors.BoundingBoxes, (K, 4), float32, canvas_size (H, W), format XYXY, XYWH or CXCYWH; K may be 0. Boxes lie in the
            image.
        labels: (K,), int64, a label for each box.
        flip: whether to mirror.
        crop: (top, left, height, width), counted in the mirrored image.

    Returns: (image, mask, boxes, labels): the first three are tv_tensors of the same kinds and dtypes, of size height × width, which is
        also the canvas_size of the boxes; boxes have the same format as before.
    Raises: ValueError if height or width is below 1, or if the crop does not lie in the image.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("augment_boxes")
