"""Named wrong answers to the tasks of data: the hidden suite must reject every one."""

import itertools
import math
import random
import struct

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from grader.testing import misconception
from solutions.data import IdxDataset as ReferenceIdx
from solutions.data import ResumableLoader as ReferenceLoader
from solutions.data import StreamingStats as ReferenceStats
from solutions.data import augment_boxes as reference_augment_boxes
from solutions.data import mixup as reference_mixup
from solutions.data import shard_stream as reference_shard
from solutions.data import shuffle_buffer as reference_shuffle

# IdxDataset


class _Idx(Dataset):
    """A right answer in parts that can be got wrong."""

    order, code, images_at, labels_at = ">", "I", 16, 8

    def __init__(self, images, labels, *, transform=None):
        self.images, self.labels, self.transform = images, labels, transform
        self.sizes = self.header(images, 3)
        if self.header(labels, 1)[0] != self.sizes[0]:
            raise ValueError("counts")

    def header(self, path, n):
        with open(path, "rb") as file:
            data = file.read()
        if len(data) < 4 + 4 * n or data[:4] != bytes([0, 0, 8, n]):
            raise ValueError("magic")
        sizes = struct.unpack(self.order + self.code * n, data[4 : 4 + 4 * n])
        self.check(len(data), 4 + 4 * n, sizes)
        return sizes

    def check(self, length, header, sizes):
        if length != header + math.prod(sizes):
            raise ValueError("length")

    def __len__(self):
        return self.sizes[0]

    def place(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError("index")
        return index % len(self)

    def pixels(self, i):
        _, h, w = self.sizes
        with open(self.images, "rb") as file:
            file.seek(self.images_at + i * h * w)
            return torch.tensor(list(file.read(h * w)), dtype=torch.uint8).view(h, w)

    def label(self, i):
        with open(self.labels, "rb") as file:
            file.seek(self.labels_at + i)
            return file.read(1)[0]

    def __getitem__(self, index):
        i = self.place(index)
        image = self.pixels(i)
        return (self.transform(image) if self.transform is not None else image), self.label(i)


@misconception("IdxDataset", "Reads the sizes as little-endian numbers: IDX files have the highest byte first.")
class LittleEndian(_Idx):
    order = "<"


@misconception("IdxDataset", "Reads only the last byte of each size: they have four, and there may be more than 255 images.")
class OneByteSizes(_Idx):
    def header(self, path, n):
        return tuple(size % 256 for size in super().header(path, n))


@misconception("IdxDataset", "Takes the labels' header to be as long as that of the images: it has a single size.")
class LabelsBehindSixteenBytes(_Idx):
    labels_at = 16


@misconception("IdxDataset", "Forgets the header: the first images begin within it.")
class ForgetsTheHeader(_Idx):
    images_at = labels_at = 0


@misconception("IdxDataset", "Reads all samples in the constructor: then a file has to fit into memory, and later changes do not show.")
class ReadsAllAtOnce(ReferenceIdx):
    def __init__(self, images, labels, *, transform=None):
        super().__init__(images, labels, transform=transform)
        self.samples = [super(ReadsAllAtOnce, self).__getitem__(i) for i in range(len(self))]

    def __getitem__(self, index):
        if not -len(self) <= index < len(self):
            raise IndexError("index")
        return self.samples[index]


@misconception("IdxDataset", "Keeps the files open: an open file can't be pickled, and workers would share its position.")
class KeepsFilesOpen(_Idx):
    def __init__(self, images, labels, *, transform=None):
        super().__init__(images, labels, transform=transform)
        self.files = open(images, "rb"), open(labels, "rb")

    def pixels(self, i):
        _, h, w = self.sizes
        self.files[0].seek(16 + i * h * w)
        return torch.tensor(list(self.files[0].read(h * w)), dtype=torch.uint8).view(h, w)

    def label(self, i):
        self.files[1].seek(8 + i)
        return self.files[1].read(1)[0]


@misconception("IdxDataset", "Opens the files at the first access and keeps them: they can't be pickled afterwards.")
class OpensOnce(_Idx):
    files = None

    def pixels(self, i):
        if self.files is None:
            self.files = open(self.images, "rb"), open(self.labels, "rb")
        _, h, w = self.sizes
        self.files[0].seek(16 + i * h * w)
        return torch.tensor(list(self.files[0].read(h * w)), dtype=torch.uint8).view(h, w)


@misconception("IdxDataset", "Maps the file into memory once: a new file in its place does not show.")
class MapsOnce(_Idx):
    def __init__(self, images, labels, *, transform=None):
        super().__init__(images, labels, transform=transform)
        self.mapped = np.memmap(images, np.uint8, "r", 16, self.sizes) if self.sizes[0] else None

    def pixels(self, i):
        return torch.tensor(self.mapped[i])

    def __getstate__(self):
        return self.__dict__ | {"mapped": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.mapped = np.memmap(self.images, np.uint8, "r", 16, self.sizes)


@misconception("IdxDataset", "Remembers samples that were read: a change of the file does not show any more.")
class CachesSamples(ReferenceIdx):
    def __getitem__(self, index):
        kept = self.__dict__.setdefault("kept", {})
        if index not in kept:
            kept[index] = super().__getitem__(index)
        return kept[index]


@misconception("IdxDataset", "Gives negative indices to the file: they reach before the first sample, into the header.")
class NegativeIntoTheHeader(_Idx):
    def place(self, index):
        if index >= len(self):
            raise IndexError("index")
        return index


@misconception("IdxDataset", "Refuses negative indices: they count from the end, as in a list.")
class NoNegativeIndices(_Idx):
    def place(self, index):
        if not 0 <= index < len(self):
            raise IndexError("index")
        return index


@misconception("IdxDataset", "Wraps any index around: beyond the end there must be an IndexError, or a loop never ends.")
class WrapsAround(_Idx):
    def place(self, index):
        if abs(index) >= 3 * len(self):
            raise IndexError("index")
        return index % len(self)


@misconception("IdxDataset", "Lets an index just below −N through: the first sample that counts from the end is −N.")
class OneTooLow(_Idx):
    def place(self, index):
        if index >= len(self) or index < -len(self) - 1:
            raise IndexError("index")
        return index % len(self)


@misconception("IdxDataset", "Gives pixels as floats from 0 to 1: they are bytes, and the transform decides what becomes of them.")
class ScalesPixels(_Idx):
    def pixels(self, i):
        return super().pixels(i) / 255


@misconception("IdxDataset", "Adds a dimension for the channel: an image is (H, W).")
class AddsAChannel(_Idx):
    def pixels(self, i):
        return super().pixels(i)[None]


@misconception("IdxDataset", "Exchanges rows and columns: the last dimension, W, runs fastest.")
class ColumnsFirst(_Idx):
    def pixels(self, i):
        _, h, w = self.sizes
        return super().pixels(i).reshape(w, h).T


@misconception("IdxDataset", "Gives labels as tensors: they are ints.")
class LabelsAsTensors(_Idx):
    def label(self, i):
        return torch.tensor(super().label(i))


@misconception("IdxDataset", "Reads labels as signed bytes: those above 127 become negative.")
class SignedLabels(_Idx):
    def label(self, i):
        return (super().label(i) + 128) % 256 - 128


@misconception("IdxDataset", "Reads every image into the same memory: images that were given before change.")
class OneBufferForAll(_Idx):
    def pixels(self, i):
        image = super().pixels(i)
        buffer = self.__dict__.setdefault("buffer", torch.empty_like(image))
        return buffer.copy_(image)


@misconception("IdxDataset", "Does not compare the file's length with its header: a download that was cut off goes unnoticed.")
class TrustsTheHeader(_Idx):
    def check(self, length, header, sizes):
        pass


@misconception("IdxDataset", "Lets files that are too long through: their header is not that of the data.")
class OnlyTooShort(_Idx):
    def check(self, length, header, sizes):
        if length < header + math.prod(sizes):
            raise ValueError("length")


@misconception("IdxDataset", "Does not look at the number of dimensions: labels pass for images.")
class AnyDimensions(_Idx):
    def header(self, path, n):
        with open(path, "rb") as file:
            data = file.read()
        if len(data) < 4 + 4 * n or data[:3] != bytes([0, 0, 8]):
            raise ValueError("magic")
        sizes = struct.unpack(f">{n}I", data[4 : 4 + 4 * n])
        if len(data) != 4 + 4 * n + math.prod(sizes):
            raise ValueError("length")
        return sizes


@misconception("IdxDataset", "Does not look at the type of the entries: only 8 stands for unsigned bytes.")
class AnyType(_Idx):
    def header(self, path, n):
        with open(path, "rb") as file:
            data = file.read()
        if len(data) < 4 + 4 * n or data[0] or data[1] or data[3] != n:
            raise ValueError("magic")
        sizes = struct.unpack(f">{n}I", data[4 : 4 + 4 * n])
        self.check(len(data), 4 + 4 * n, sizes)
        return sizes


@misconception("IdxDataset", "Lets a struct.error out where the header is cut off: the statement asks for a ValueError.")
class HeaderCutOff(ReferenceIdx):
    def __init__(self, images, labels, *, transform=None):
        for path, n in ((images, 3), (labels, 1)):
            with open(path, "rb") as file:
                struct.unpack(f">4x{n}I", file.read(4 + 4 * n))
        super().__init__(images, labels, transform=transform)


@misconception("IdxDataset", "Does not compare the number of labels with the number of images.")
class AnyNumberOfLabels(_Idx):
    def __init__(self, images, labels, *, transform=None):
        self.images, self.labels, self.transform = images, labels, transform
        self.sizes = self.header(images, 3)
        self.header(labels, 1)


@misconception("IdxDataset", "Checks the files at the first sample: a wrong file must be refused by the constructor.")
class ChecksLater(ReferenceIdx):
    def __init__(self, images, labels, *, transform=None):
        self._late = images, labels, transform

    def __getattr__(self, name):
        if name in ("_sizes", "_images", "_labels", "_transform") and "_late" in self.__dict__:
            images, labels, transform = self.__dict__.pop("_late")
            super().__init__(images, labels, transform=transform)
            return self.__dict__[name]
        raise AttributeError(name)


@misconception("IdxDataset", "Never calls the transform.")
class ForgetsTheTransform(_Idx):
    def __getitem__(self, index):
        i = self.place(index)
        return self.pixels(i), self.label(i)


@misconception("IdxDataset", "Gives the transform image and label together: it is called with the image.")
class TransformsTheSample(_Idx):
    def __getitem__(self, index):
        i = self.place(index)
        sample = self.pixels(i), self.label(i)
        return sample if self.transform is None else self.transform(sample)


@misconception("IdxDataset", "Keeps the image where the transform gives None: what it returns takes the image's place, whatever it is.")
class KeepsUntransformed(_Idx):
    def __getitem__(self, index):
        i = self.place(index)
        image = self.pixels(i)
        changed = self.transform(image) if self.transform else None
        return (image if changed is None else changed), self.label(i)


# StreamingStats


@misconception("StreamingStats", "Averages the means of the batches: a short batch counts as much as a long one.")
class MeanOfMeans(ReferenceStats):
    def update(self, images):
        super().update(images)
        if images.numel():
            self.means = [*getattr(self, "means", []), images.double().mean((0, 2, 3)).detach()]

    def mean(self):
        super().mean()
        return torch.stack(self.means).mean(0) if hasattr(self, "means") else super().mean()


@misconception("StreamingStats", "Averages the deviations of the batches: how far their means lie apart is lost.")
class DeviationOfBatches(ReferenceStats):
    def _add(self, count, mean, squares):
        super()._add(count, mean, squares)
        self.inside = getattr(self, "inside", 0) + squares

    def std(self):
        super().std()
        return (self.inside / self.count).sqrt()


@misconception("StreamingStats", "Subtracts the squared mean from the mean of squares: with a large mean, no digits are left.")
class SquaresMinusSquare(ReferenceStats):
    def update(self, images):
        super().update(images)
        if images.numel():
            x = images.detach().double().transpose(0, 1).flatten(1)
            self.sums = getattr(self, "sums", 0) + torch.stack([x.sum(1), x.square().sum(1)])

    def merge(self, other):
        super().merge(other)
        if other.count:
            self.sums = getattr(self, "sums", 0) + other.sums

    def std(self):
        super().std()
        first, second = self.sums / self.count
        return (second - first.square()).clamp(min=0).sqrt()


@misconception("StreamingStats", "Computes in float32: sums of many numbers, and large means, lose their digits.")
class SingleInside(ReferenceStats):
    def update(self, images):
        super().update(images.float())


@misconception("StreamingStats", "Computes in the dtype of the images: bytes overflow, and 16-bit sums do.")
class DtypeOfTheImages(ReferenceStats):
    def update(self, images):
        if images.dim() != 4 or images.shape[1] != len(self._mean):
            raise ValueError("shape")
        if images.numel():
            x = images.detach().transpose(0, 1).flatten(1)
            mean = (x.sum(1, dtype=x.dtype) / x.shape[1]).double()
            self._add(x.shape[1], mean, (x - mean[:, None].to(x.dtype)).square().sum(1, dtype=x.dtype).double())


@misconception("StreamingStats", "Gives float32: results are float64.")
class SingleResults(ReferenceStats):
    def mean(self):
        return super().mean().float()

    def std(self):
        return super().std().float()


@misconception("StreamingStats", "Divides bytes by 255: images are taken as they are.")
class ScalesBytes(ReferenceStats):
    def update(self, images):
        super().update(images / 255 if images.dtype == torch.uint8 else images)


@misconception("StreamingStats", "Divides the squared deviations by count − 1.")
class CountMinusOne(ReferenceStats):
    def std(self):
        return super().std() * math.sqrt(self.count / (self.count - 1))


@misconception("StreamingStats", "Gives the variance: the standard deviation is its square root.")
class Variance(ReferenceStats):
    def std(self):
        return super().std().square()


@misconception("StreamingStats", "Counts images: each channel has N · H · W entries, and images may differ in size.")
class CountsImages(ReferenceStats):
    def update(self, images):
        if images.dim() != 4 or images.shape[1] != len(self._mean):
            raise ValueError("shape")
        if images.numel():
            x = images.detach().double().transpose(0, 1).flatten(1)
            self._add(len(images), x.mean(1), x.var(1, correction=0) * len(images))


@misconception("StreamingStats", "Takes mean and deviation of each image and averages them.")
class PerImage(ReferenceStats):
    def update(self, images):
        super().update(images)
        if images.numel():
            self.stds = [*getattr(self, "stds", []), *images.double().detach().std((2, 3), correction=0)]

    def std(self):
        super().std()
        return torch.stack(self.stds).mean(0)


@misconception("StreamingStats", "Takes one mean over all channels.")
class AllChannelsTogether(ReferenceStats):
    def mean(self):
        return super().mean().mean().expand(len(self._mean)).clone()


@misconception("StreamingStats", "Updates the mean first, and then uses the new one where the old one is due.")
class NewMeanInTheFormula(ReferenceStats):
    def _add(self, count, mean, squares):
        total = self.count + count
        self._mean = self._mean + (mean - self._mean) * (count / total)
        delta = mean - self._mean
        self._squares = self._squares + squares + delta.square() * (self.count * count / total)
        self.count = total


@misconception("StreamingStats", "Divides by the number of images without looking: an empty batch makes everything NaN.")
class EmptyBatchesAreNaN(ReferenceStats):
    def update(self, images):
        if images.dim() != 4 or images.shape[1] != len(self._mean):
            raise ValueError("shape")
        x = images.detach().double().transpose(0, 1).flatten(1)
        mean = x.mean(1)
        if self.count + x.shape[1]:
            self._add(x.shape[1], mean, (x - mean[:, None]).square().sum(1))


@misconception("StreamingStats", "Takes channels last: images are (N, C, H, W).")
class ChannelsLast(ReferenceStats):
    def update(self, images):
        super().update(images)
        if images.numel() and images.shape[3] == images.shape[1]:
            self._mean = images.double().mean((0, 1, 2))

    def std(self):
        return super().std().flip(0)


@misconception("StreamingStats", "Views the memory as rows: that needs contiguous images.")
class ViewsRows(ReferenceStats):
    def update(self, images):
        super().update(images)
        images.view(len(images), images.shape[1], -1)


@misconception(
    "StreamingStats", "Keeps the batches until results are asked for: they do not fit into memory, and may have changed by then."
)
class KeepsBatches(ReferenceStats):
    def update(self, images):
        if images.dim() != 4 or images.shape[1] != len(self._mean):
            raise ValueError("shape")
        self.batches = [*getattr(self, "batches", []), images]
        self.count += images[:, 0].numel()

    def merge(self, other):
        if len(other._mean) != len(self._mean):
            raise ValueError("channels")
        self.batches = [*getattr(self, "batches", []), *getattr(other, "batches", [])]
        self.count += other.count

    def _all(self):
        if not self.count:
            raise ValueError("nothing")
        return torch.cat([x.detach().double().transpose(0, 1).flatten(1) for x in self.batches], 1)

    def mean(self):
        return self._all().mean(1)

    def std(self):
        return self._all().std(1, correction=0)


@misconception("StreamingStats", "Keeps the graph of the images: memory grows with each batch, and results require gradients.")
class KeepsTheGraph(ReferenceStats):
    def update(self, images):
        if images.dim() != 4 or images.shape[1] != len(self._mean):
            raise ValueError("shape")
        if images.numel():
            x = images.double().transpose(0, 1).flatten(1)
            mean = x.mean(1)
            self._add(x.shape[1], mean, (x - mean[:, None]).square().sum(1))


@misconception("StreamingStats", "Merges by averaging both results: who has seen more counts more.")
class MergesByAveraging(ReferenceStats):
    def merge(self, other):
        if len(other._mean) != len(self._mean):
            raise ValueError("channels")
        if other.count:
            self._mean = (self._mean + other._mean) / 2
            self._squares = self._squares + other._squares
            self.count += other.count


@misconception("StreamingStats", "Adds the squared deviations in merge, and forgets that the means lie apart.")
class MergesWithoutTheDistance(ReferenceStats):
    def merge(self, other):
        inside = self._squares + other._squares
        super().merge(other)
        self._squares = inside


@misconception("StreamingStats", "Takes over the other's tensors in merge and changes them in place later: the other changes, too.")
class SharesTensors(ReferenceStats):
    def merge(self, other):
        if len(other._mean) != len(self._mean):
            raise ValueError("channels")
        if self.count == 0:
            self.count, self._mean, self._squares = other.count, other._mean, other._squares
        elif other.count:
            self._add(other.count, other._mean, other._squares)

    def _add(self, count, mean, squares):
        delta, total = mean - self._mean, self.count + count
        self._mean += delta * (count / total)
        self._squares += squares + delta.square() * (self.count * count / total)
        self.count = total


@misconception("StreamingStats", "Gives its own tensor as the mean: who changes what came back changes the statistics.")
class GivesItsOwnTensor(ReferenceStats):
    def mean(self):
        super().mean()
        return self._mean


@misconception("StreamingStats", "Stretches a single channel over all: other numbers of channels must be refused.")
class StretchesChannels(ReferenceStats):
    def update(self, images):
        if images.dim() == 4 and images.shape[1] == 1:
            images = images.expand(-1, len(self._mean), -1, -1)
        super().update(images)


@misconception("StreamingStats", "Counts the images before it refuses them.")
class CountsBeforeRefusing(ReferenceStats):
    def update(self, images):
        before = self.count
        self.count += images.shape[0]
        if images.dim() == 4 and images.shape[1] == len(self._mean):
            self.count = before
        super().update(images)


@misconception("StreamingStats", "Merges statistics of a single channel into those of several: they must be refused.")
class MergesAnything(ReferenceStats):
    def merge(self, other):
        if other.count > 0:
            self._add(other.count, other._mean, other._squares)


@misconception("StreamingStats", "Gives NaN or 0 where nothing was seen: that is a ValueError.")
class NothingIsZero(ReferenceStats):
    def mean(self):
        return self._mean.clone()

    def std(self):
        return (self._squares / max(self.count, 1)).sqrt()


# LengthBatchSampler


class _Lengths(Sampler):
    """A right answer in parts that can be got wrong."""

    def __init__(self, lengths, max_tokens, *, seed=0):
        if any(not 1 <= n <= max_tokens for n in lengths):
            raise ValueError("length")
        self.lengths, self.max_tokens, self.seed, self.epoch = list(lengths), max_tokens, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def rng(self):
        return random.Random(f"{self.seed}, {self.epoch}")

    def order(self, rng):
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        return sorted(order, key=lambda i: self.lengths[i])

    def cost(self, batch):
        return len(batch) * max(self.lengths[i] for i in batch)

    def cut(self, order):
        batches, batch = [], []
        for i in order:
            if batch and self.cost([*batch, i]) > self.max_tokens:
                batches.append(batch)
                batch = []
            batch.append(i)
        return batches + [batch] * bool(batch)

    def batches(self):
        rng = self.rng()
        batches = self.cut(self.order(rng))
        rng.shuffle(batches)
        return batches

    def __iter__(self):
        return iter(self.batches())

    def __len__(self):
        return len(self.batches())


@misconception("LengthBatchSampler", "Leaves out the last batch, which is not full: its samples are never seen.")
class DropsTheLastBatch(_Lengths):
    def cut(self, order):
        batches = super().cut(order)
        return batches[:-1] if len(batches) > 1 else batches


@misconception("LengthBatchSampler", "Counts real tokens: the padding costs, too.")
class CountsRealTokens(_Lengths):
    def cost(self, batch):
        return sum(self.lengths[i] for i in batch)


@misconception("LengthBatchSampler", "Takes the budget for a number of samples.")
class CountsSamples(_Lengths):
    def cost(self, batch):
        return len(batch)


@misconception("LengthBatchSampler", "Closes a batch only once it is over the budget.")
class ClosesTooLate(_Lengths):
    def cut(self, order):
        batches, batch = [], []
        for i in order:
            batch.append(i)
            if self.cost(batch) >= self.max_tokens:
                batches.append(batch)
                batch = []
        return batches + [batch] * bool(batch)


@misconception("LengthBatchSampler", "Does not let a batch cost all of the budget.")
class BudgetIsExcluded(_Lengths):
    def cut(self, order):
        batches = [[]]
        for i in order:
            if batches[-1] and self.cost([*batches[-1], i]) >= self.max_tokens:
                batches.append([])
            batches[-1].append(i)
        return [batch for batch in batches if batch]


@misconception("LengthBatchSampler", "Does not sort by length: a long sample among short ones makes much padding.")
class DoesNotSort(_Lengths):
    def order(self, rng):
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        return order


@misconception(
    "LengthBatchSampler", "Makes batches of one number of samples, small enough for the longest: those of short samples are mostly empty."
)
class OneSizeForAll(_Lengths):
    def cut(self, order):
        size = max(1, self.max_tokens // max(self.lengths, default=1))
        return [order[i : i + size] for i in range(0, len(order), size)]


@misconception("LengthBatchSampler", "Gives every sample a batch of its own: no padding, but many batches that could be one.")
class BatchesOfOne(_Lengths):
    def cut(self, order):
        return [[i] for i in order]


@misconception("LengthBatchSampler", "Sorts within coarse buckets of lengths only: the padding grows with the number of samples.")
class CoarseBuckets(_Lengths):
    def order(self, rng):
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        return sorted(order, key=lambda i: self.lengths[i] // 25)


@misconception("LengthBatchSampler", "Gives the short batches first and the long ones last, in every epoch.")
class ShortBatchesFirst(_Lengths):
    def batches(self):
        return self.cut(self.order(self.rng()))


@misconception(
    "LengthBatchSampler", "Shuffles the batches, but makes the same ones in each epoch: samples of equal length must change their company."
)
class SameBatchesEveryEpoch(_Lengths):
    def order(self, rng):
        return sorted(range(len(self.lengths)), key=lambda i: self.lengths[i])


@misconception("LengthBatchSampler", "Forgets the epoch: every epoch has the same order.")
class ForgetsTheEpoch(_Lengths):
    def rng(self):
        return random.Random(self.seed)


@misconception("LengthBatchSampler", "Forgets the seed.")
class ForgetsTheSeed(_Lengths):
    def rng(self):
        return random.Random(self.epoch)


@misconception("LengthBatchSampler", "Draws from Python's global generator: the seed does not decide, and others' random numbers change.")
class GlobalGenerator(_Lengths):
    def rng(self):
        return random


@misconception("LengthBatchSampler", "Draws on from one generator: iterating again in the same epoch gives another order.")
class OneGeneratorForAll(_Lengths):
    def rng(self):
        return self.__dict__.setdefault("kept", random.Random(self.seed))


@misconception("LengthBatchSampler", "Counts an iteration as an epoch by itself: set_epoch decides.")
class CountsEpochsItself(_Lengths):
    def __iter__(self):
        batches = self.batches()
        self.epoch += 1
        return iter(batches)


@misconception("LengthBatchSampler", "Takes a seed of 0 for none.")
class ZeroIsNoSeed(_Lengths):
    def rng(self):
        return random.Random(f"{self.seed}, {self.epoch}") if self.seed else random.Random(random.SystemRandom().random())


@misconception("LengthBatchSampler", "Gives the number of samples as its length: len counts batches.")
class LengthInSamples(_Lengths):
    def __len__(self):
        return len(self.lengths)


@misconception("LengthBatchSampler", "Estimates the number of batches from the tokens: padding makes it larger.")
class EstimatesItsLength(_Lengths):
    def __len__(self):
        return -(-sum(self.lengths) // self.max_tokens)


@misconception("LengthBatchSampler", "Rotates the batches only: most orders never come.")
class RotatesBatches(_Lengths):
    def batches(self):
        rng = self.rng()
        batches = self.cut(self.order(rng))
        start = rng.randrange(len(batches)) if batches else 0
        return batches[start:] + batches[:start]


@misconception("LengthBatchSampler", "Gives the lengths of the samples: a batch holds their indices.")
class GivesLengths(_Lengths):
    def batches(self):
        return [[self.lengths[i] for i in batch] for batch in super().batches()]


@misconception("LengthBatchSampler", "Puts a sample that is longer than the budget into a batch of its own: that is a ValueError.")
class AllowsLongSamples(_Lengths):
    def __init__(self, lengths, max_tokens, *, seed=0):
        if any(n < 1 for n in lengths):
            raise ValueError("length")
        self.lengths, self.max_tokens, self.seed, self.epoch = list(lengths), max_tokens, seed, 0


@misconception("LengthBatchSampler", "Lets a length of 0 through.")
class AllowsLengthZero(_Lengths):
    def __init__(self, lengths, max_tokens, *, seed=0):
        if any(not 0 <= n <= max_tokens for n in lengths):
            raise ValueError("length")
        self.lengths, self.max_tokens, self.seed, self.epoch = list(lengths), max_tokens, seed, 0


@misconception("LengthBatchSampler", "Takes the largest length without asking whether there is one: without samples, that is an error.")
class NeedsASample(_Lengths):
    def __init__(self, lengths, max_tokens, *, seed=0):
        if max(lengths) > max_tokens:
            raise ValueError("length")
        super().__init__(lengths, max_tokens, seed=seed)


@misconception("LengthBatchSampler", "Keeps the given list: later changes of it reach the sampler.")
class KeepsTheList(_Lengths):
    def __init__(self, lengths, max_tokens, *, seed=0):
        super().__init__(lengths, max_tokens, seed=seed)
        self.lengths = lengths


@misconception(
    "LengthBatchSampler", "Sorts the list of lengths that it was given: arguments stay as they are, and the indices do not fit any more."
)
class SortsTheArgument(_Lengths):
    def __init__(self, lengths, max_tokens, *, seed=0):
        lengths.sort()
        super().__init__(lengths, max_tokens, seed=seed)


# WeightedSampler


class _Weighted(Sampler):
    """A right answer in parts that can be got wrong."""

    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        positive = int((weights > 0).sum())
        if not bool(((weights >= 0) & weights.isfinite()).all()) or num_samples < 0:
            raise ValueError("weights")
        if (num_samples > 0 and positive == 0) or (not replacement and num_samples > positive):
            raise ValueError("too few")
        self.weights, self.n, self.replacement, self.seed, self.epoch = weights.double().clone(), num_samples, replacement, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.n

    def generator(self):
        return torch.Generator().manual_seed(self.seed * 1000 + self.epoch)

    def many(self, generator):
        ends = self.weights.cumsum(0)
        return torch.searchsorted(ends, torch.rand(self.n, generator=generator, dtype=torch.float64) * ends[-1], right=True)

    def once(self, generator):
        return (torch.empty_like(self.weights).exponential_(generator=generator) / self.weights).argsort()[: self.n]

    def __iter__(self):
        if self.n == 0:
            return iter([])
        return iter((self.many if self.replacement else self.once)(self.generator()).tolist())


@misconception("WeightedSampler", "Ignores the weights: every index is drawn equally often.")
class IgnoresTheWeights(_Weighted):
    def many(self, generator):
        return torch.randint(len(self.weights), (self.n,), generator=generator)


@misconception("WeightedSampler", "Does not add the weights up: it takes them for probabilities.")
class TakesWeightsForProbabilities(_Weighted):
    def many(self, generator):
        u = torch.rand(self.n, generator=generator, dtype=torch.float64)
        return torch.searchsorted(self.weights.cumsum(0), u, right=True).clamp(max=len(self.weights) - 1)


@misconception("WeightedSampler", "Takes the weights for logits: softmax changes their proportions, and gives weight 0 a chance.")
class TakesWeightsForLogits(_Weighted):
    def __init__(self, weights, num_samples, **settings):
        super().__init__(weights, num_samples, **settings)
        self.weights = self.weights.softmax(0)


@misconception(
    "WeightedSampler", "Multiplies each weight by a uniform number and takes the largest: those draws are not in proportion to the weights."
)
class LargestProducts(_Weighted):
    def once(self, generator):
        return (torch.rand(len(self.weights), generator=generator, dtype=torch.float64) * self.weights).argsort(descending=True)[: self.n]


@misconception("WeightedSampler", "Draws without replacement in proportion to the squares of the weights.")
class SquaredWeights(_Weighted):
    def once(self, generator):
        return (torch.empty_like(self.weights).exponential_(generator=generator) / self.weights.square()).argsort()[: self.n]


@misconception("WeightedSampler", "Takes the heaviest ones: without replacement, too, chance decides.")
class TakesTheHeaviest(_Weighted):
    def once(self, generator):
        return self.weights.argsort(descending=True)[: self.n]


@misconception("WeightedSampler", "Shuffles what has a weight: without replacement, too, heavier ones come first more often.")
class ShufflesEqually(_Weighted):
    def once(self, generator):
        kept = self.weights.nonzero().flatten()
        return kept[torch.randperm(len(kept), generator=generator)][: self.n]


@misconception("WeightedSampler", "Gives the draws in ascending order: they are not independent then.")
class SortsTheDraws(_Weighted):
    def many(self, generator):
        return super().many(generator).sort().values

    def once(self, generator):
        return super().once(generator).sort().values


@misconception("WeightedSampler", "Sorts the indices that were drawn without replacement: the order of the draws is lost.")
class SortsWithoutReplacement(_Weighted):
    def once(self, generator):
        return super().once(generator).sort().values


@misconception("WeightedSampler", "Draws with replacement whatever is asked for.")
class AlwaysReplaces(_Weighted):
    def once(self, generator):
        return self.many(generator)


@misconception("WeightedSampler", "Draws with replacement and drops doubles: too few are left.")
class DropsDoubles(_Weighted):
    def once(self, generator):
        return torch.tensor(list(dict.fromkeys(self.many(generator).tolist())))


@misconception("WeightedSampler", "Adds a small number to the weights, so that 0 has a chance, and tiny weights count as equal.")
class AddsASmallNumber(_Weighted):
    def __init__(self, weights, num_samples, **settings):
        super().__init__(weights, num_samples, **settings)
        self.weights = self.weights + 1e-6


@misconception("WeightedSampler", "Repeats each index as often as its weight says, rounded: small weights vanish.")
class RepeatsIndices(_Weighted):
    def many(self, generator):
        times = (self.weights / self.weights.max() * 5).round().long()
        pool = torch.arange(len(times)).repeat_interleave(times)
        return pool[torch.randint(len(pool), (self.n,), generator=generator)]


@misconception("WeightedSampler", "Gives each index its exact share, in a shuffled list: draws are independent, so counts vary.")
class ExactShares(_Weighted):
    def many(self, generator):
        ends = self.weights.cumsum(0)
        places = (torch.arange(self.n, dtype=torch.float64) + 0.5) / self.n * ends[-1]
        return torch.searchsorted(ends, places, right=True).flip(0)


@misconception("WeightedSampler", "Draws from torch's global generator: the seed does not decide.")
class GlobalTorchGenerator(_Weighted):
    def generator(self):
        return None


@misconception("WeightedSampler", "Seeds torch's global generator: others' random numbers change.")
class SeedsTheGlobalGenerator(_Weighted):
    def generator(self):
        torch.manual_seed(self.seed * 1000 + self.epoch)


@misconception("WeightedSampler", "Forgets the epoch: every epoch has the same draws.")
class SameDrawsEveryEpoch(_Weighted):
    def generator(self):
        return torch.Generator().manual_seed(self.seed)


@misconception("WeightedSampler", "Makes one generator in the constructor: iterating again in an epoch gives other draws.")
class OneGenerator(_Weighted):
    def generator(self):
        if "kept" not in self.__dict__:
            self.kept = torch.Generator().manual_seed(self.seed)
        return self.kept


@misconception("WeightedSampler", "Keeps the given tensor: later changes of it reach the sampler.")
class KeepsTheTensor(_Weighted):
    def __init__(self, weights, num_samples, **settings):
        super().__init__(weights, num_samples, **settings)
        self.given = weights

    def __iter__(self):
        self.weights = self.given.double()
        return super().__iter__()


@misconception("WeightedSampler", "Gives tensors of one number: a sampler gives ints.")
class GivesTensors(_Weighted):
    def __iter__(self):
        return iter(torch.tensor(list(super().__iter__()), dtype=torch.int64))


@misconception("WeightedSampler", "Gives the number of weights as its length: len is the number of draws.")
class LengthOfTheWeights(_Weighted):
    def __len__(self):
        return len(self.weights)


@misconception("WeightedSampler", "Does not check the weights: NaN and negative ones make nonsense.")
class ChecksNothing(_Weighted):
    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        self.weights, self.n, self.replacement, self.seed, self.epoch = weights.double().clone(), num_samples, replacement, seed, 0


@misconception("WeightedSampler", "Asks whether a weight is below 0: NaN is not, and neither is inf.")
class LetsNaNThrough(_Weighted):
    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        if (weights < 0).any():
            raise ValueError("weights")
        super().__init__(weights.nan_to_num(0.0, 1e30), num_samples, replacement=replacement, seed=seed)


@misconception("WeightedSampler", "Compares num_samples with N: without replacement, indices of weight 0 can't be drawn either.")
class CountsZeroWeights(_Weighted):
    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        if not replacement and num_samples > len(weights):
            raise ValueError("too many")
        super().__init__(
            weights, min(num_samples, len(weights.nonzero())) if not replacement else num_samples, replacement=replacement, seed=seed
        )


@misconception("WeightedSampler", "Refuses more draws than weights with replacement, too.")
class NeverMoreThanWeights(_Weighted):
    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        if num_samples > len(weights):
            raise ValueError("too many")
        super().__init__(weights, num_samples, replacement=replacement, seed=seed)


@misconception("WeightedSampler", "Refuses to draw nothing.")
class RefusesZeroDraws(_Weighted):
    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        if num_samples < 1:
            raise ValueError("none")
        super().__init__(weights, num_samples, replacement=replacement, seed=seed)


# shard_stream


def _checked(worker_id, num_workers, rank, world_size):
    if not (0 <= worker_id < num_workers and 0 <= rank < world_size):
        raise ValueError("reader")
    return rank * num_workers + worker_id, world_size * num_workers


def _rounds(source, readers, reader, even):
    """The items of one reader, taken round by round where that is needed."""
    stream = iter(source)
    if not even:
        for i, item in enumerate(stream):
            if i % readers == reader:
                yield item
        return
    while len(items := list(itertools.islice(stream, readers))) == readers:
        yield items[reader]


@misconception("shard_stream", "Gives every reader the whole stream: each item arrives once for each of them.")
def everybody_gets_everything(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    _checked(worker_id, num_workers, rank, world_size)
    return iter(source)


@misconception("shard_stream", "Forgets the processes: the workers of each process share out the stream, and every process gets all of it.")
def forgets_the_processes(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    _checked(worker_id, num_workers, rank, world_size)
    return reference_shard(source, worker_id=worker_id, num_workers=num_workers, even=even)


@misconception("shard_stream", "Forgets the workers: all workers of a process give the same items.")
def forgets_the_workers(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    _checked(worker_id, num_workers, rank, world_size)
    return reference_shard(source, rank=rank, world_size=world_size, even=even)


@misconception("shard_stream", "Numbers the readers by worker first: here r = rank · num_workers + worker_id.")
def workers_first(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    _checked(worker_id, num_workers, rank, world_size)
    reader, readers = worker_id * world_size + rank, num_workers * world_size
    return reference_shard(source, worker_id=reader, num_workers=readers, even=even)


@misconception("shard_stream", "Adds rank and worker_id: two readers get the same items, and others nobody.")
def adds_the_numbers(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    _, readers = _checked(worker_id, num_workers, rank, world_size)
    return reference_shard(source, worker_id=rank + worker_id, num_workers=readers, even=even)


@misconception("shard_stream", "Cuts the stream into contiguous pieces: that needs its length, and an endless one has none.")
def contiguous_pieces(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)
    items = list(source)
    size = len(items) // readers if even else -(-len(items) // readers)
    return iter(items[reader * size : (reader + 1) * size])


@misconception("shard_stream", "Makes a list of the stream first: an endless stream never becomes one.")
def makes_a_list(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)
    items = list(source)
    return iter(items[: len(items) // readers * readers if even else None][reader::readers])


@misconception("shard_stream", "Takes a whole round before it gives an item, though a round need not be complete.")
def always_whole_rounds_ahead(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)

    def items():
        stream = iter(source)
        while round_ := list(itertools.islice(stream, readers)):
            if len(round_) > reader and not (even and len(round_) < readers):
                yield round_[reader]

    return items()


@misconception("shard_stream", "Ignores `even`: some readers get one item more than others.")
def ignores_even(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    return reference_shard(source, worker_id=worker_id, num_workers=num_workers, rank=rank, world_size=world_size)


@misconception("shard_stream", "Leaves the incomplete round out always: without `even`, its items are lost.")
def always_even(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    return reference_shard(source, worker_id=worker_id, num_workers=num_workers, rank=rank, world_size=world_size, even=True)


@misconception(
    "shard_stream", "Fills up the last round by giving its first items again: with `even`, the items of an incomplete round go to nobody."
)
def fills_the_last_round(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)

    def items():
        stream = iter(source)
        while round_ := list(itertools.islice(stream, readers)):
            yield round_[reader % len(round_)]

    return items() if even else _rounds(source, readers, reader, False)


@misconception("shard_stream", "Looks one round ahead, and forgets the last complete one.")
def forgets_the_last_round(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)

    def items():
        held = []
        for item in _rounds(source, readers, reader, True):
            yield from held
            held = [item]

    return items() if even else _rounds(source, readers, reader, False)


@misconception("shard_stream", "Fills incomplete rounds with None and drops items that are None: a stream may hold None.")
def none_is_no_item(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)
    rounds = itertools.zip_longest(*[iter(source)] * readers)
    return (r[reader] for r in rounds if r[reader] is not None and not (even and None in r))


@misconception("shard_stream", "Indexes the source: a stream can only be iterated over.")
def indexes_the_source(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)
    end = len(source) // readers * readers if even else len(source)
    return (source[i] for i in range(reader, end, readers))


@misconception("shard_stream", "Is a generator function: its check runs only when the first item is asked for.")
def checks_too_late(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = _checked(worker_id, num_workers, rank, world_size)
    yield from _rounds(source, readers, reader, even)


@misconception("shard_stream", "Does not check the numbers: reader 3 of 3 gets nothing, or what another one gets.")
def does_not_check_readers(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    return _rounds(source, world_size * num_workers, rank * num_workers + worker_id, even)


@misconception("shard_stream", "Checks the reader's number only: worker 1 of 1 in process 0 is taken for worker 0 of process 1.")
def checks_the_reader_only(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    reader, readers = rank * num_workers + worker_id, world_size * num_workers
    if not 0 <= reader < readers:
        raise ValueError("reader")
    return _rounds(source, readers, reader, even)


@misconception("shard_stream", "Gives a list: it is due to be an iterator, as a stream may be endless.")
def gives_a_list(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    return list(reference_shard(source, worker_id=worker_id, num_workers=num_workers, rank=rank, world_size=world_size, even=even))


# shuffle_buffer


def _draw(n, generator):
    return int(torch.randint(n, (1,), generator=generator))


def _needs_room(size):
    if size < 1:
        raise ValueError("size")


@misconception("shuffle_buffer", "Takes the whole stream first: it may be longer than memory, or endless.")
def takes_everything_first(source, size, *, generator):
    _needs_room(size)
    items = list(source)
    return (items[i] for i in torch.randperm(len(items), generator=generator).tolist())


@misconception("shuffle_buffer", "Shuffles blocks of `size` items: an item never leaves its block.")
def shuffles_blocks(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        while block := list(itertools.islice(stream, size)):
            for i in torch.randperm(len(block), generator=generator).tolist():
                yield block[i]

    return items()


@misconception("shuffle_buffer", "Gives what is left at the end in the order of the buffer.")
def forgets_to_shuffle_the_rest(source, size, *, generator):
    _needs_room(size)

    def items():
        buffer = []
        for item in source:
            if len(buffer) == size:
                i = _draw(size, generator)
                yield buffer[i]
                buffer[i] = item
            else:
                buffer.append(item)
        yield from buffer

    return items()


@misconception("shuffle_buffer", "Forgets what is left in the buffer when the stream ends: these items are lost.")
def loses_the_rest(source, size, *, generator):
    _needs_room(size)

    def items():
        buffer = []
        for item in source:
            buffer.append(item)
            if len(buffer) == size:
                yield buffer.pop(_draw(size, generator))

    return items()


@misconception("shuffle_buffer", "Leaves the item that was given in the buffer: some come twice, and others never.")
def leaves_given_items(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        buffer = list(itertools.islice(stream, size))
        for item in stream:
            yield buffer[_draw(len(buffer), generator)]
            buffer[_draw(len(buffer), generator)] = item
        while buffer:
            yield buffer.pop(_draw(len(buffer), generator))

    return items()


@misconception("shuffle_buffer", "Draws from a buffer that is not full yet: the first item comes first too often.")
def starts_too_early(source, size, *, generator):
    _needs_room(size)

    def items():
        buffer = []
        for item in source:
            buffer.append(item)
            if len(buffer) >= max(size // 2, 1):
                yield buffer.pop(_draw(len(buffer), generator))
        while buffer:
            yield buffer.pop(_draw(len(buffer), generator))

    return items()


@misconception("shuffle_buffer", "Never chooses the item that has just come in.")
def newcomers_wait(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        buffer = list(itertools.islice(stream, size))
        for item in stream:
            yield buffer.pop(_draw(max(len(buffer) - 1, 1), generator))
            buffer.append(item)
        while buffer:
            yield buffer.pop(_draw(len(buffer), generator))

    return items()


@misconception("shuffle_buffer", "Lets the buffer grow by one: it holds size + 1 items.")
def one_too_many(source, size, *, generator):
    _needs_room(size)
    return reference_shuffle(source, size + 1, generator=generator)


@misconception("shuffle_buffer", "Keeps one item too few: a buffer of 2 does not shuffle.")
def one_too_few(source, size, *, generator):
    _needs_room(size)
    return reference_shuffle(source, max(size - 1, 1), generator=generator)


@misconception("shuffle_buffer", "Draws from the global generator, not from the given one.")
def draws_globally(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        buffer = list(itertools.islice(stream, size))
        while buffer:
            yield buffer.pop(random.randrange(len(buffer)))
            buffer.extend(itertools.islice(stream, 1))

    return items()


@misconception("shuffle_buffer", "Starts the generator anew: every epoch has the same order.")
def reseeds(source, size, *, generator):
    _needs_room(size)
    return reference_shuffle(source, size, generator=torch.Generator().manual_seed(generator.initial_seed()))


@misconception("shuffle_buffer", "Draws one place and keeps to it.")
def one_place_for_all(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        buffer = list(itertools.islice(stream, size))
        place = _draw(size, generator)
        while buffer:
            yield buffer.pop(place % len(buffer))
            buffer.extend(itertools.islice(stream, 1))

    return items()


@misconception("shuffle_buffer", "Rounds a uniform number: the first and the last place get half the chance.")
def rounds_the_place(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        buffer = list(itertools.islice(stream, size))
        while buffer:
            yield buffer.pop(round(float(torch.rand((), generator=generator)) * (len(buffer) - 1)))
            buffer.extend(itertools.islice(stream, 1))

    return items()


@misconception("shuffle_buffer", "Removes the item by its value: that takes the first equal one, and tensors can't be compared.")
def removes_by_value(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        buffer = list(itertools.islice(stream, size))
        while buffer:
            item = buffer[_draw(len(buffer), generator)]
            buffer.remove(item)
            yield item
            buffer.extend(itertools.islice(stream, 1))

    return items()


@misconception("shuffle_buffer", "Takes None for the end of the stream.")
def none_is_the_end(source, size, *, generator):
    _needs_room(size)

    def items():
        stream = iter(source)
        buffer = list(itertools.islice(stream, size))
        while buffer:
            yield buffer.pop(_draw(len(buffer), generator))
            item = next(stream, None)
            if item is not None:
                buffer.append(item)

    return items()


@misconception("shuffle_buffer", "Drops items that were seen before: equal items are items of their own.")
def drops_equal_items(source, size, *, generator):
    _needs_room(size)

    def items():
        seen = []
        for item in reference_shuffle(source, size, generator=generator):
            if not any(item is other for other in seen):
                seen.append(item)
                yield item

    return items()


@misconception("shuffle_buffer", "Is a generator function: its check runs only when the first item is asked for.")
def checks_at_the_first_item(source, size, *, generator):
    _needs_room(size)
    yield from reference_shuffle(source, size, generator=generator)


@misconception("shuffle_buffer", "Does not check the size: a buffer of 0 gives nothing.")
def does_not_check_the_size(source, size, *, generator):
    return reference_shuffle(source, size, generator=generator) if size > 0 else iter(())


# ResumableLoader


@misconception(
    "ResumableLoader", "Counts a batch behind the yield: that runs when the next one is asked for, and so the last batch is given twice."
)
class CountsBehindTheYield(ReferenceLoader):
    def __iter__(self):
        if self._given and not self._resumes:
            self._epoch, self._given = self._epoch + 1, 0
        self._resumes = False
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._dataset), generator=generator).split(self._batch_size)
        for indices in order[self._given : len(self)]:
            yield default_collate([self._dataset[i] for i in indices.tolist()])
            self._given += 1
        self._epoch, self._given = self._epoch + 1, 0


@misconception(
    "ResumableLoader", "Turns to the next epoch behind the loop only: a state taken after the last batch gives an empty rest first."
)
class TurnsBehindTheLoop(ReferenceLoader):
    def __iter__(self):
        if self._given and not self._resumes:
            self._epoch, self._given = self._epoch + 1, 0
        self._resumes = False
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._dataset), generator=generator).split(self._batch_size)
        for indices in order[self._given : len(self)]:
            batch = default_collate([self._dataset[i] for i in indices.tolist()])
            self._given += 1
            yield batch
        self._epoch, self._given = self._epoch + 1, 0


@misconception("ResumableLoader", "Gives every epoch the same order.")
class SameOrderEveryEpoch(ReferenceLoader):
    def __iter__(self):
        epoch = self._epoch
        for batch in super().__iter__():
            yield batch
            if self._epoch != epoch:
                self._seed -= 1
                epoch = self._epoch


@misconception("ResumableLoader", "Does not shuffle.")
class DoesNotShuffle(ReferenceLoader):
    def __iter__(self):
        if self._given and not self._resumes:
            self._epoch, self._given = self._epoch + 1, 0
        self._resumes = False
        for indices in torch.arange(len(self._dataset)).split(self._batch_size)[self._given : len(self)]:
            self._given += 1
            if self._given == len(self):
                self._epoch, self._given = self._epoch + 1, 0
            yield default_collate([self._dataset[i] for i in indices.tolist()])


@misconception("ResumableLoader", "Shuffles with the global generator: the order can't be computed again.")
class ShufflesGlobally(ReferenceLoader):
    def __iter__(self):
        self._seed = int(torch.randint(2**31, ()))
        return super().__iter__()


@misconception("ResumableLoader", "Starts the epoch anew after loading: batches that were given come again.")
class StartsTheEpochAnew(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"given": 0})


@misconception("ResumableLoader", "Resumes at the next epoch: the rest of this one is never seen.")
class SkipsTheRest(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        if self._given:
            self._epoch, self._given = self._epoch + 1, 0


@misconception("ResumableLoader", "Forgets the epoch in its state: the rest is that of epoch 0.")
class ForgetsWhichEpoch(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"epoch": 0})


@misconception("ResumableLoader", "Skips the given batches in every epoch after loading, not in the resumed one only.")
class SkipsInEveryEpoch(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.skip = state["given"]
        self._given = 0

    def __iter__(self):
        return itertools.islice(super().__iter__(), getattr(self, "skip", 0), None)


@misconception("ResumableLoader", "Resumes with a new order of the samples that are left: the epoch is not that of an unbroken run.")
class ShufflesTheRestAnew(ReferenceLoader):
    def __iter__(self):
        if not (self._resumes and self._given):
            yield from super().__iter__()
            return
        rest = list(super().__iter__())
        random.Random(self._seed).shuffle(rest)
        yield from rest


@misconception("ResumableLoader", "Reads the batches that were given again, only to throw them away.")
class ReadsAndThrowsAway(ReferenceLoader):
    def __iter__(self):
        if self._resumes and self._given:
            skip, self._given = self._given, 0
            iterator = super().__iter__()
            for _ in range(skip):
                next(iterator)
            yield from iterator
        else:
            yield from super().__iter__()


@misconception("ResumableLoader", "Reads the whole epoch at its start.")
class ReadsTheEpochAtOnce(ReferenceLoader):
    def __iter__(self):
        epoch, given, resumes = self._epoch, self._given, self._resumes
        batches = list(super().__iter__())
        self._epoch, self._given, self._resumes = epoch, given, resumes
        if self._given and not self._resumes:
            self._epoch, self._given = self._epoch + 1, 0
        self._resumes = False
        for batch in batches:
            self._given += 1
            if self._given == len(self):
                self._epoch, self._given = self._epoch + 1, 0
            yield batch


@misconception("ResumableLoader", "Goes on with the rest after a loop that was left early: that iteration is over.")
class GoesOnAfterBreak(ReferenceLoader):
    def __iter__(self):
        self._resumes = True
        return super().__iter__()


@misconception("ResumableLoader", "Begins the same epoch anew after a loop that was left early: the next one is due.")
class BeginsAnewAfterBreak(ReferenceLoader):
    def __iter__(self):
        if not self._resumes:
            self._given = 0
        return super().__iter__()


@misconception(
    "ResumableLoader", "Once resumed, it goes on after every break: only the iteration after load_state_dict begins inside an epoch."
)
class ResumesForever(ReferenceLoader):
    loaded = False

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.loaded = True

    def __iter__(self):
        self._resumes = self._resumes or self.loaded
        return super().__iter__()


@misconception("ResumableLoader", "Counts the batches from where it resumed: a second state is too far back.")
class CountsFromTheResumption(ReferenceLoader):
    start = 0

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.start = state["given"]

    def state_dict(self):
        state = super().state_dict()
        return state | {"given": max(state["given"] - self.start, 0)} if state["given"] else state


@misconception("ResumableLoader", "Gives its own dict as the state: it changes while the iteration goes on.")
class StateThatChanges(ReferenceLoader):
    def state_dict(self):
        state = self.__dict__.setdefault("state", {})
        state.update(super().state_dict())
        return state

    def __iter__(self):
        for batch in super().__iter__():
            if "state" in self.__dict__:
                self.state_dict()
            yield batch


@misconception("ResumableLoader", "Saves a generator in its state: such an object is not loaded with weights_only.")
class SavesAGenerator(ReferenceLoader):
    def state_dict(self):
        return super().state_dict() | {"generator": random.Random(self._seed)}


@misconception("ResumableLoader", "Keeps its own seed when a state is loaded: the order is another one.")
class KeepsItsSeed(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"seed": self._seed})


@misconception("ResumableLoader", "Takes a seed of 0 in the state for none, and keeps its own.")
class ZeroInTheState(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"seed": state["seed"] or self._seed})


@misconception("ResumableLoader", "Uses the loaded seed for the resumed epoch, and gives its own in later states.")
class SavesItsOwnSeed(ReferenceLoader):
    def __init__(self, dataset, batch_size, *, seed=0, drop_last=False):
        super().__init__(dataset, batch_size, seed=seed, drop_last=drop_last)
        self.own = seed

    def state_dict(self):
        return super().state_dict() | {"seed": self.own}


@misconception("ResumableLoader", "Leaves out the last, shorter batch always.")
class AlwaysDropsTheLast(ReferenceLoader):
    def __init__(self, dataset, batch_size, *, seed=0, drop_last=False):
        super().__init__(dataset, batch_size, seed=seed, drop_last=True)


@misconception("ResumableLoader", "Ignores drop_last.")
class NeverDropsTheLast(ReferenceLoader):
    def __len__(self):
        return -(-len(self._dataset) // self._batch_size)


@misconception("ResumableLoader", "Gives the number of samples as its length: len counts batches.")
class LengthIsSamples(ReferenceLoader):
    def __iter__(self):
        batches = -(-len(self._dataset) // self._batch_size)
        if self._given and not self._resumes:
            self._epoch, self._given = self._epoch + 1, 0
        self._resumes = False
        order = torch.randperm(len(self._dataset), generator=torch.Generator().manual_seed(self._seed + self._epoch))
        for indices in order.split(self._batch_size)[self._given :]:
            if self._drop_last and len(indices) < self._batch_size:
                continue
            self._given += 1
            if self._given == batches:
                self._epoch, self._given = self._epoch + 1, 0
            yield default_collate([self._dataset[i] for i in indices.tolist()])

    def __len__(self):
        return len(self._dataset)


@misconception("ResumableLoader", "Gives len of what is left after loading: it is that of a whole epoch.")
class LengthOfTheRest(ReferenceLoader):
    def __len__(self):
        return super().__len__() - (self._given if self._resumes else 0)


@misconception("ResumableLoader", "Gives lists of samples: batches are collated.")
class DoesNotCollate(ReferenceLoader):
    def __iter__(self):
        for batch in super().__iter__():
            yield list(batch)


@misconception("ResumableLoader", "Stacks the samples itself: samples that are tuples or dicts need default_collate.")
class StacksSamples(ReferenceLoader):
    def __init__(self, dataset, batch_size, *, seed=0, drop_last=False):
        super().__init__(dataset, batch_size, seed=seed, drop_last=drop_last)
        if len(dataset) and not isinstance(dataset[0], torch.Tensor):
            raise TypeError("expected tensors")


@misconception("ResumableLoader", "Indexes the dataset with a list: a dataset need only take a single index.")
class IndexesWithLists(ReferenceLoader):
    def __iter__(self):
        for batch in super().__iter__():
            self._dataset[[0]]
            yield batch


@misconception(
    "ResumableLoader",
    "Makes the order once, in the constructor, and shuffles it further in each epoch: a new loader does not know how far.",
)
class ShufflesFurther(ReferenceLoader):
    def __init__(self, dataset, batch_size, *, seed=0, drop_last=False):
        super().__init__(dataset, batch_size, seed=seed, drop_last=drop_last)
        self.further = torch.Generator().manual_seed(seed)

    def __iter__(self):
        self._seed = int(torch.randint(2**31, (), generator=self.further))
        return super().__iter__()

    def state_dict(self):
        return super().state_dict() | {"seed": self.further.initial_seed()}


@misconception("ResumableLoader", "Takes states of any loader: with another batch size, the count of batches means other samples.")
class TakesAnyState(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state | self._settings())


@misconception("ResumableLoader", "Does not compare the number of samples: the order of a larger dataset is another one.")
class TakesOtherDatasets(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"num_samples": len(self._dataset)})


@misconception("ResumableLoader", "Takes over the state before it refuses it.")
class RefusesTooLate(ReferenceLoader):
    def load_state_dict(self, state):
        self._seed, self._epoch, self._given = state["seed"], state["epoch"], state["given"]
        super().load_state_dict(state)


@misconception("ResumableLoader", "Is ready to resume before it refuses a state: the next loop goes on where one was left.")
class ResumesAfterRefusal(ReferenceLoader):
    def load_state_dict(self, state):
        self._resumes = True
        super().load_state_dict(state)


@misconception("ResumableLoader", "Removes entries from the state while it loads it: a state stays as it is.")
class EmptiesTheState(ReferenceLoader):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        state.clear()


@misconception("ResumableLoader", "Counts a batch before it is read: if a sample fails, the batch is lost.")
class CountsBeforeReading(ReferenceLoader):
    def __iter__(self):
        if self._given and not self._resumes:
            self._epoch, self._given = self._epoch + 1, 0
        self._resumes = False
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self._dataset), generator=generator).split(self._batch_size)
        for indices in order[self._given : len(self)]:
            self._given += 1
            if self._given == len(self):
                self._epoch, self._given = self._epoch + 1, 0
            yield default_collate([self._dataset[i] for i in indices.tolist()])


@misconception("ResumableLoader", "Lets a batch size of 0 through.")
class AnyBatchSize(ReferenceLoader):
    def __init__(self, dataset, batch_size, *, seed=0, drop_last=False):
        super().__init__(dataset, max(batch_size, 1), seed=seed, drop_last=drop_last)


# mixup


@misconception("mixup", "Mixes the samples and leaves the labels as they are.")
def hard_labels(x, labels, lam, perm, num_classes):
    mixed, _ = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed, F.one_hot(labels, num_classes).to(x.dtype)


@misconception("mixup", "Gives the label of the heavier sample all of the weight.")
def label_of_the_heavier(x, labels, lam, perm, num_classes):
    mixed, _ = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed, F.one_hot(torch.where(lam >= 0.5, labels, labels[perm]), num_classes).to(x.dtype)


@misconception("mixup", "Mixes the labels in another order than the samples: they no longer belong together.")
def labels_apart(x, labels, lam, perm, num_classes):
    mixed, _ = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed, reference_mixup(x, labels, lam, perm.flip(0), num_classes)[1]


@misconception("mixup", "Takes one λ for the whole batch: each sample has its own.")
def one_lambda(x, labels, lam, perm, num_classes):
    return reference_mixup(x, labels, lam[:1].expand_as(lam), perm, num_classes)


@misconception("mixup", "Lets λ broadcast along the last axis: it belongs to the first one.")
def lambda_along_the_last_axis(x, labels, lam, perm, num_classes):
    _, soft = reference_mixup(x, labels, lam, perm, num_classes)
    return lam * x + (1 - lam) * x[perm], soft


@misconception("mixup", "Reshapes λ for images only: samples may have any number of dimensions.")
def images_only(x, labels, lam, perm, num_classes):
    _, soft = reference_mixup(x, labels, lam, perm, num_classes)
    own = lam[:, None, None, None]
    return own * x + (1 - own) * x[perm], soft


@misconception("mixup", "Exchanges λ and 1 − λ: λ is the weight of the sample itself.")
def exchanges_the_weights(x, labels, lam, perm, num_classes):
    return reference_mixup(x, labels, 1 - lam, perm, num_classes)


@misconception("mixup", "Exchanges λ and 1 − λ in the labels only.")
def exchanges_the_labels(x, labels, lam, perm, num_classes):
    mixed, _ = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed, reference_mixup(x, labels, 1 - lam, perm, num_classes)[1]


@misconception("mixup", "Uses the inverse permutation: the partner of sample i is perm[i].")
def inverse_permutation(x, labels, lam, perm, num_classes):
    return reference_mixup(x, labels, lam, perm.argsort(), num_classes)


@misconception("mixup", "Weighs the partner with its own λ.")
def partners_lambda(x, labels, lam, perm, num_classes):
    _, soft = reference_mixup(x, labels, lam, perm, num_classes)
    own = lam.reshape(-1, *[1] * (x.dim() - 1))
    return own * x + ((1 - own) * x)[perm], soft


@misconception("mixup", "Writes both weights into a row of zeros: where the labels are equal, the second overwrites the first.")
def overwrites_equal_labels(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam, perm, num_classes)
    rows = torch.arange(len(labels))
    soft = torch.zeros_like(soft)
    soft[rows, labels] = lam
    soft[rows, labels[perm]] = 1 - lam
    return mixed, soft


@misconception("mixup", "Mixes in place: the partner may have been mixed already, and x changes.")
def mixes_in_place(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam, perm, num_classes)
    x.copy_(mixed)
    return x, soft


@misconception("mixup", "Mixes one after another in a copy: partners that come later see what was mixed before.")
def one_after_another_in_a_copy(x, labels, lam, perm, num_classes):
    _, soft = reference_mixup(x, labels, lam, perm, num_classes)
    mixed = x.clone()
    for i, j in enumerate(perm.tolist()):
        mixed[i] = lam[i] * mixed[i] + (1 - lam[i]) * mixed[j]
    return mixed, soft


@misconception("mixup", "Makes the soft labels float32: they have the dtype of x.")
def single_labels(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed, soft.float()


@misconception("mixup", "Computes in float32.")
def single_inside(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x.float(), labels, lam.float(), perm, num_classes)
    return mixed.to(x.dtype), soft.to(x.dtype)


@misconception("mixup", "Takes as many classes as there are in the batch: K is given.")
def classes_of_the_batch(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed, soft[:, : int(labels.max()) + 1] if len(labels) else soft


@misconception("mixup", "Detaches the samples: gradients must reach them.")
def stops_gradients(x, labels, lam, perm, num_classes):
    return reference_mixup(x.detach(), labels, lam, perm, num_classes)


@misconception("mixup", "Stops the gradient of the partner: it reaches both samples.")
def stops_the_partners_gradient(x, labels, lam, perm, num_classes):
    _, soft = reference_mixup(x, labels, lam, perm, num_classes)
    own = lam.reshape(-1, *[1] * (x.dim() - 1))
    return own * x + (1 - own) * x.detach()[perm], soft


@misconception("mixup", "Adds λ times the difference to the partner: with very different sizes, λ = 1 does not give the sample exactly.")
def adds_the_difference(x, labels, lam, perm, num_classes):
    _, soft = reference_mixup(x, labels, lam, perm, num_classes)
    own = lam.reshape(-1, *[1] * (x.dim() - 1))
    return x[perm] + own * (x - x[perm]), soft


@misconception("mixup", "Gives x itself where every λ is 1: the result is a tensor of its own.")
def gives_x_itself(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam, perm, num_classes)
    return (x if bool((lam == 1).all()) else mixed), soft


@misconception("mixup", "Drops small shares from the labels: they no longer add up to 1.")
def drops_small_shares(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed, soft.masked_fill(soft < 1e-3, 0.0)


@misconception("mixup", "Makes λ at least ½: here it is taken as it is given.")
def keeps_the_larger_share(x, labels, lam, perm, num_classes):
    return reference_mixup(x, labels, torch.where(lam < 0.5, 1 - lam, lam), perm, num_classes)


@misconception("mixup", "Squeezes sizes of 1 away.")
def squeezes(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam, perm, num_classes)
    return mixed.squeeze(), soft


@misconception("mixup", "Does not check the labels: −1 counts from the end, and K is another error.")
def does_not_check_labels(x, labels, lam, perm, num_classes):
    return reference_mixup(x, labels.clamp(0, num_classes - 1), lam, perm, num_classes)


@misconception("mixup", "Does not check λ: beyond 0 … 1 the labels are no distribution.")
def does_not_check_lambda(x, labels, lam, perm, num_classes):
    mixed, soft = reference_mixup(x, labels, lam.clamp(0, 1).nan_to_num(0.5), perm, num_classes)
    return mixed, soft


@misconception("mixup", "Asks whether a λ is below 0 or above 1: NaN is neither.")
def lets_nan_through(x, labels, lam, perm, num_classes):
    if (lam < 0).any() or (lam > 1).any():
        raise ValueError("lambda")
    return reference_mixup(x, labels, lam.nan_to_num(0.5), perm, num_classes)


# augment_boxes


def _corners(boxes):
    return v2.functional.convert_bounding_box_format(boxes, new_format="XYXY").as_subclass(torch.Tensor)


def _cut(image, mask, boxes, crop):
    """Crop all three."""
    return [v2.functional.crop(part, *crop) for part in (image, mask, boxes)]


def _checked_crop(image, crop):
    top, left, height, width = crop
    if min(height, width) < 1 or min(top, left) < 0 or top + height > image.shape[-2] or left + width > image.shape[-1]:
        raise ValueError("crop")


def _left_over(boxes, labels):
    """Boxes of which something is left, with their labels."""
    corners = _corners(boxes)
    kept = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return tv_tensors.wrap(boxes[kept], like=boxes), labels[kept]


@misconception("augment_boxes", "Mirrors the image and forgets the boxes.")
def forgets_to_flip_boxes(image, mask, boxes, labels, *, flip, crop):
    new_image, new_mask, _, _ = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    _, _, new_boxes, new_labels = reference_augment_boxes(image, mask, boxes, labels, flip=False, crop=crop)
    return new_image, new_mask, new_boxes, new_labels


@misconception("augment_boxes", "Mirrors the image and forgets the mask.")
def forgets_to_flip_the_mask(image, mask, boxes, labels, *, flip, crop):
    new_image, _, new_boxes, new_labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    return new_image, v2.functional.crop(mask, *crop), new_boxes, new_labels


@misconception("augment_boxes", "Cuts first and mirrors then: the crop is counted in the mirrored image.")
def crops_first(image, mask, boxes, labels, *, flip, crop):
    parts = reference_augment_boxes(image, mask, boxes, labels, flip=False, crop=crop)
    return reference_augment_boxes(*parts, flip=flip, crop=(0, 0, *crop[2:]))


@misconception("augment_boxes", "Mirrors top to bottom.")
def flips_top_to_bottom(image, mask, boxes, labels, *, flip, crop):
    if flip:
        image, mask, boxes = (v2.functional.vertical_flip(part) for part in (image, mask, boxes))
    return reference_augment_boxes(image, mask, boxes, labels, flip=False, crop=crop)


@misconception("augment_boxes", "Takes edges for pixels: x becomes W − 1 − x, and boxes lie one pixel off.")
def one_pixel_off(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
        shift = torch.tensor([1.0, 0.0, 1.0 if boxes.format == tv_tensors.BoundingBoxFormat.XYXY else 0.0, 0.0])
        boxes = tv_tensors.wrap(boxes.as_subclass(torch.Tensor) - shift, like=boxes)
    return reference_augment_boxes(image, mask, boxes, labels, flip=False, crop=crop)


@misconception("augment_boxes", "Mirrors both edges and leaves them in their places: the left edge lies to the right of the right one.")
def does_not_exchange_edges(image, mask, boxes, labels, *, flip, crop):
    if flip:
        image, mask = v2.functional.horizontal_flip(image), v2.functional.horizontal_flip(mask)
        corners = _corners(boxes)
        corners = torch.stack([image.shape[-1] - corners[:, 0], corners[:, 1], image.shape[-1] - corners[:, 2], corners[:, 3]], 1)
        flipped = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=boxes.canvas_size)
        boxes = v2.functional.convert_bounding_box_format(flipped, new_format=boxes.format)
    return reference_augment_boxes(image, mask, boxes, labels, flip=False, crop=crop)


@misconception("augment_boxes", "Leaves boxes that are outside: width or height 0, and still a label.")
def keeps_empty_boxes(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    return (*_cut(image, mask, boxes, crop), labels)


@misconception("augment_boxes", "Drops boxes and keeps all labels: from the first dropped one on, they belong to other boxes.")
def keeps_all_labels(image, mask, boxes, labels, *, flip, crop):
    return (*reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)[:3], labels)


@misconception("augment_boxes", "Keeps the first labels, as many as boxes are left.")
def keeps_the_first_labels(image, mask, boxes, labels, *, flip, crop):
    parts = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    return (*parts[:3], labels[: len(parts[2])])


@misconception("augment_boxes", "Uses SanitizeBoundingBoxes: it drops boxes of less than a pixel, too.")
def sanitizes(image, mask, boxes, labels, *, flip, crop):
    image, mask, boxes, labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    boxes, kept = v2.functional.sanitize_bounding_boxes(boxes)
    return image, mask, boxes, labels[kept]


@misconception("augment_boxes", "Drops boxes with an area of less than a hundredth of a pixel: all of which anything is left stay.")
def drops_tiny_areas(image, mask, boxes, labels, *, flip, crop):
    image, mask, boxes, labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    kept = (_corners(boxes)[:, 2:] - _corners(boxes)[:, :2]).prod(1) >= 0.01
    return image, mask, tv_tensors.wrap(boxes[kept], like=boxes), labels[kept]


@misconception("augment_boxes", "Drops every box that does not lie in the crop as a whole: what is left of it counts.")
def drops_clipped_boxes(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    before = _corners(boxes)
    image, mask, boxes = _cut(image, mask, boxes, crop)
    after = _corners(boxes)
    whole = (after[:, 2:] - after[:, :2] - before[:, 2:] + before[:, :2]).abs().amax(1) < 1e-4
    return image, mask, *_left_over(tv_tensors.wrap(boxes[whole], like=boxes), labels[whole])


@misconception("augment_boxes", "Drops a box whose centre is outside of the crop: as long as anything of it is left, it stays.")
def drops_by_the_centre(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    centre = v2.functional.convert_bounding_box_format(boxes, new_format="CXCYWH").as_subclass(torch.Tensor)[:, :2]
    top, left, height, width = crop
    low, high = torch.tensor([left, top]), torch.tensor([left + width, top + height])
    inside = ((centre >= low) & (centre <= high)).all(1)
    image, mask, boxes = _cut(image, mask, boxes, crop)
    return image, mask, *_left_over(tv_tensors.wrap(boxes[inside], like=boxes), labels[inside])


@misconception("augment_boxes", "Drops a box only if both width and height are 0.")
def drops_only_points(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    image, mask, boxes = _cut(image, mask, boxes, crop)
    corners = _corners(boxes)
    kept = (corners[:, 2] > corners[:, 0]) | (corners[:, 3] > corners[:, 1])
    return image, mask, tv_tensors.wrap(boxes[kept], like=boxes), labels[kept]


@misconception("augment_boxes", "Compares the last two columns with the first two, whatever the format: in XYWH they are sizes.")
def forgets_the_format(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    image, mask, boxes = _cut(image, mask, boxes, crop)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return image, mask, tv_tensors.wrap(boxes[kept], like=boxes), labels[kept]


@misconception("augment_boxes", "Does not clip: boxes reach beyond the new image.")
def does_not_clip(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    moved = _corners(boxes) - torch.tensor([crop[1], crop[0]] * 2)
    image, mask, boxes = _cut(image, mask, boxes, crop)
    kept = (_corners(boxes)[:, 2:] > _corners(boxes)[:, :2]).all(1)
    moved = v2.functional.convert_bounding_box_format(moved, old_format=tv_tensors.BoundingBoxFormat.XYXY, new_format=boxes.format)
    return image, mask, tv_tensors.wrap(moved[kept], like=boxes), labels[kept]


@misconception("augment_boxes", "Clips the boxes, but measures them from the corner of the old image.")
def does_not_move_boxes(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    boxes = v2.functional.clamp_bounding_boxes(tv_tensors.wrap(boxes.as_subclass(torch.Tensor), like=boxes, canvas_size=crop[2:]))
    image, mask, _ = _cut(image, mask, boxes, crop)
    return image, mask, *_left_over(boxes, labels)


@misconception("augment_boxes", "Leaves the canvas_size of the old image at the boxes.")
def keeps_the_canvas(image, mask, boxes, labels, *, flip, crop):
    new_image, new_mask, new_boxes, new_labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    return new_image, new_mask, tv_tensors.wrap(new_boxes, like=new_boxes, canvas_size=tuple(image.shape[-2:])), new_labels


@misconception(
    "augment_boxes", "Gives the boxes as a plain tensor: indexing loses their kind, and the next transform would leave them as they are."
)
def loses_the_kind(image, mask, boxes, labels, *, flip, crop):
    image, mask, boxes, labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    return image, mask, boxes.as_subclass(torch.Tensor), labels


@misconception("augment_boxes", "Gives plain tensors for image and mask.")
def plain_pixels(image, mask, boxes, labels, *, flip, crop):
    image, mask, boxes, labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor), boxes, labels


@misconception("augment_boxes", "Gives all boxes as corners: the format stays.")
def changes_the_format(image, mask, boxes, labels, *, flip, crop):
    image, mask, boxes, labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    return image, mask, v2.functional.convert_bounding_box_format(boxes, new_format="XYXY"), labels


@misconception("augment_boxes", "Takes the crop as (left, top, width, height).")
def columns_before_rows(image, mask, boxes, labels, *, flip, crop):
    top, left, height, width = crop
    return reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=(left, top, width, height))


@misconception("augment_boxes", "Takes the crop as two corners.")
def crop_as_corners(image, mask, boxes, labels, *, flip, crop):
    top, left, bottom, right = crop
    return reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=(top, left, bottom - top, right - left))


@misconception("augment_boxes", "Rounds the boxes to whole pixels.")
def rounds_boxes(image, mask, boxes, labels, *, flip, crop):
    image, mask, boxes, labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    return image, mask, tv_tensors.wrap(boxes.as_subclass(torch.Tensor).round(), like=boxes), labels


@misconception("augment_boxes", "Pads a crop that reaches beyond the image: it must be refused.")
def pads_the_crop(image, mask, boxes, labels, *, flip, crop):
    if min(crop[2:]) < 1:
        raise ValueError("crop")
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    image, mask, boxes = _cut(image, mask, boxes, crop)
    return image, mask, *_left_over(boxes, labels)


@misconception("augment_boxes", "Does not ask whether the crop has rows and columns.")
def allows_empty_crops(image, mask, boxes, labels, *, flip, crop):
    top, left, height, width = crop
    if min(top, left) < 0 or top + height > image.shape[-2] or left + width > image.shape[-1]:
        raise ValueError("crop")
    if flip:
        image, mask, boxes = (v2.functional.horizontal_flip(part) for part in (image, mask, boxes))
    image, mask, boxes = _cut(image, mask, boxes, (top, left, max(height, 0), max(width, 0)))
    return image, mask, *_left_over(boxes, labels)


@misconception("augment_boxes", "Mirrors the boxes it was given in place.")
def flips_in_place(image, mask, boxes, labels, *, flip, crop):
    _checked_crop(image, crop)
    if flip:
        flipped = v2.functional.horizontal_flip(boxes)
        result = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
        boxes.copy_(flipped)
        return result
    return reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)


@misconception("augment_boxes", "Sorts the boxes that are left by size: they stay in order.")
def sorts_boxes(image, mask, boxes, labels, *, flip, crop):
    image, mask, boxes, labels = reference_augment_boxes(image, mask, boxes, labels, flip=flip, crop=crop)
    order = (_corners(boxes)[:, 2:] - _corners(boxes)[:, :2]).prod(1).argsort(descending=True)
    return image, mask, tv_tensors.wrap(boxes[order], like=boxes), labels[order]
