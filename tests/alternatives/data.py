"""Other correct answers to the tasks of data: the hidden suite must accept every one."""

import bisect
import itertools
import math
import os
import random
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from grader.testing import alternative

# IdxDataset


@alternative("IdxDataset")
class MapsEachTime:
    """With numpy's memmap, opened for every sample."""

    def __init__(self, images, labels, *, transform=None):
        self.paths, self.transform, self.shapes = (os.fspath(images), os.fspath(labels)), transform, []
        for path, n in zip(self.paths, (3, 1), strict=True):
            start = np.fromfile(path, np.uint8, 4)
            sizes = np.fromfile(path, ">u4", n, offset=4)
            if start.tolist() != [0, 0, 8, n] or len(sizes) != n:
                raise ValueError(f"{path}: not an IDX file")
            shape = tuple(int(size) for size in sizes)
            if Path(path).stat().st_size - 4 - 4 * n != math.prod(shape):
                raise ValueError(f"{path}: wrong size")
            self.shapes.append(shape)
        if self.shapes[0][0] != self.shapes[1][0]:
            raise ValueError("counts")

    def __len__(self):
        return self.shapes[0][0]

    def __getitem__(self, index):
        if index < 0:
            index += len(self)
        if index < 0 or index >= len(self):
            raise IndexError(index)
        image = torch.from_numpy(np.memmap(self.paths[0], np.uint8, "r", 16, self.shapes[0])[index].copy())
        label = int(np.memmap(self.paths[1], np.uint8, "r", 8, self.shapes[1])[index])
        if self.transform is not None:
            image = self.transform(image)
        return image, label


@alternative("IdxDataset")
class ReadsAtAPlace(Dataset):
    """With the operating system's own calls; the whole of a file is checked as torchvision reads it."""

    def __init__(self, images, labels, *, transform=None):
        super().__init__()
        self.images, self.labels = Path(images), Path(labels)
        self.transform = transform
        self.count, self.height, self.width = self._shape(self.images, 3)
        (count,) = self._shape(self.labels, 1)
        if count != self.count:
            raise ValueError(f"{self.count} images and {count} labels")

    @staticmethod
    def _shape(path, dimensions):
        with path.open("rb") as file:
            magic = int.from_bytes(file.read(4), "big")
            sizes = [file.read(4) for _ in range(dimensions)]
            if magic != 8 * 256 + dimensions or any(len(size) < 4 for size in sizes):
                raise ValueError("header")
            shape = [int.from_bytes(size, "big") for size in sizes]
            start = file.tell()
            if file.seek(0, os.SEEK_END) != start + math.prod(shape):
                raise ValueError("size")
        return shape

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        index = range(self.count)[index]
        size = self.height * self.width
        handle = os.open(self.images, os.O_RDONLY)
        try:
            pixels = os.pread(handle, size, 16 + index * size)
        finally:
            os.close(handle)
        image = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(self.height, self.width)
        with self.labels.open("rb", buffering=0) as file:
            file.seek(index + 8)
            (label,) = file.read(1)
        return (self.transform or (lambda image: image))(image), label


# StreamingStats


@alternative("StreamingStats")
class KeepsEveryBatchesNumbers:
    """Counts, means and sums of squares of all batches, in numpy, joined when results are asked for."""

    def __init__(self, num_channels):
        self.num_channels, self.parts = num_channels, []

    @property
    def count(self):
        return sum(n for n, _, _ in self.parts)

    def update(self, images):
        if images.ndim != 4 or images.shape[1] != self.num_channels:
            raise ValueError("shape")
        x = images.detach().double().permute(1, 0, 2, 3).reshape(self.num_channels, -1).numpy()
        if x.size:
            self.parts.append((x.shape[1], x.mean(1), x.var(1)))

    def merge(self, other):
        if other.num_channels != self.num_channels:
            raise ValueError("channels")
        self.parts += list(other.parts)

    def _all(self):
        if not self.parts:
            raise ValueError("nothing was seen")
        counts = np.array([n for n, _, _ in self.parts])[:, None] / self.count
        means, variances = np.stack([m for _, m, _ in self.parts]), np.stack([v for _, _, v in self.parts])
        mean = means[0] + ((means - means[0]) * counts).sum(0)
        return mean, np.sqrt(((variances + (means - mean) ** 2) * counts).sum(0))

    def mean(self):
        return torch.from_numpy(self._all()[0])

    def std(self):
        return torch.from_numpy(self._all()[1])


@alternative("StreamingStats")
class ShiftedSums:
    """Sums of what is left after a shift by the first value of each channel."""

    def __init__(self, num_channels):
        self.channels, self.count = num_channels, 0
        self.shift = self.first = self.second = None

    def _shifted(self, count, shift, first, second):
        """Sums for our own shift from those for another one."""
        if self.shift is None:
            self.shift, self.first, self.second = shift.clone(), torch.zeros_like(first), torch.zeros_like(first)
        d = shift - self.shift
        self.count += count
        self.second = self.second + second + 2 * d * first + count * d * d
        self.first = self.first + first + count * d

    def update(self, images):
        if images.dim() != 4 or images.size(1) != self.channels:
            raise ValueError("shape")
        with torch.no_grad():
            x = images.to(torch.float64).movedim(1, 0).reshape(self.channels, -1)
            if x.numel():
                shift = x[:, 0] if self.shift is None else self.shift
                y = x - shift[:, None]
                self._shifted(x.size(1), shift, y.sum(1), (y * y).sum(1))

    def merge(self, other):
        if self.channels != other.channels:
            raise ValueError("channels")
        if other.count:
            self._shifted(other.count, other.shift, other.first, other.second)

    def mean(self):
        if not self.count:
            raise ValueError("nothing")
        return self.shift + self.first / self.count

    def std(self):
        if not self.count:
            raise ValueError("nothing")
        variance = self.second / self.count - (self.first / self.count) ** 2
        return torch.where(variance < 0, 0.0, variance).sqrt()


@alternative("StreamingStats")
class WelfordByImage:
    """One image at a time, with torch.var_mean."""

    def __init__(self, num_channels):
        self.n, self.m, self.v = 0, [0.0] * num_channels, [0.0] * num_channels

    @property
    def count(self):
        return self.n

    def _join(self, n, means, variances):
        total = self.n + n
        for c, (mean, variance) in enumerate(zip(means, variances, strict=True)):
            share = n / total
            gap = mean - self.m[c]
            self.v[c] = (1 - share) * self.v[c] + share * variance + share * (1 - share) * gap**2
            self.m[c] += gap * share
        self.n = total

    def update(self, images):
        if images.ndim != 4 or images.shape[1] != len(self.m):
            raise ValueError("shape")
        for image in images.detach():
            if image.numel():
                variances, means = torch.var_mean(image.double(), dim=(1, 2), correction=0)
                self._join(image[0].numel(), means.tolist(), variances.tolist())

    def merge(self, other):
        if len(self.m) != len(other.m):
            raise ValueError("channels")
        if other.n:
            self._join(other.n, list(other.m), list(other.v))

    def mean(self):
        if self.n == 0:
            raise ValueError("nothing")
        return torch.tensor(self.m, dtype=torch.float64)

    def std(self):
        if self.n == 0:
            raise ValueError("nothing")
        return torch.tensor(self.v, dtype=torch.float64) ** 0.5


# LengthBatchSampler


@alternative("LengthBatchSampler")
class LongestFirst(Sampler):
    """Cut from the longest on, with torch's generator."""

    def __init__(self, lengths, max_tokens, *, seed=0):
        self.lengths = torch.tensor(list(lengths), dtype=torch.int64)
        self.max_tokens, self.seed, self.epoch = max_tokens, seed, 0
        if ((self.lengths < 1) | (self.lengths > max_tokens)).any():
            raise ValueError("lengths")

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        g = torch.Generator()
        g.manual_seed(self.seed + self.epoch)
        shuffled = torch.randperm(len(self.lengths), generator=g)
        order = shuffled[self.lengths[shuffled].argsort(descending=True, stable=True)].tolist()
        batches = []
        while order:
            size = self.max_tokens // int(self.lengths[order[0]])
            batches.append(order[:size])
            order = order[size:]
        for i in torch.randperm(len(batches), generator=g).tolist():
            yield batches[i]

    def __len__(self):
        return sum(1 for _ in self)


@alternative("LengthBatchSampler")
class WithRandomKeys:
    """Sorted by length and a random key; numpy's generator takes seed and epoch."""

    def __init__(self, lengths, max_tokens, *, seed=0):
        if len(lengths) and not (min(lengths) >= 1 and max(lengths) <= max_tokens):
            raise ValueError("lengths")
        self.lengths, self.budget, self.seed = np.array(lengths, dtype=np.int64), max_tokens, seed
        self.set_epoch(0)

    def set_epoch(self, epoch):
        rng = np.random.default_rng([self.seed, epoch])
        order = np.lexsort((rng.random(len(self.lengths)), self.lengths))
        batches, current = [], []
        for i in order.tolist():
            if len(current) * self.lengths[i] + self.lengths[i] > self.budget:
                batches.append(current)
                current = []
            current.append(i)
        if current:
            batches.append(current)
        self.batches = [batches[i] for i in rng.permutation(len(batches))]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        yield from (list(batch) for batch in self.batches)


# WeightedSampler


def _checked_weights(weights, num_samples, replacement):
    w = weights.detach().double().tolist()
    if any(not math.isfinite(x) or x < 0 for x in w) or num_samples < 0:
        raise ValueError("weights")
    positive = sum(x > 0 for x in w)
    if (not replacement and num_samples > positive) or (num_samples and not positive):
        raise ValueError("too few")
    return w


@alternative("WeightedSampler")
class OneAfterAnother:
    """With bisection on Python's lists; without replacement, what was drawn loses its weight."""

    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        self.weights = _checked_weights(weights, num_samples, replacement)
        self.num_samples, self.replacement, self.seed, self.epoch = num_samples, replacement, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.num_samples

    def __iter__(self):
        rng, weights = random.Random(f"{self.seed}/{self.epoch}"), list(self.weights)
        if self.replacement:
            if self.num_samples:
                yield from rng.choices(range(len(weights)), weights=weights, k=self.num_samples)
            return
        for _ in range(self.num_samples):
            ends = list(itertools.accumulate(weights))
            i = bisect.bisect_right(ends, rng.random() * ends[-1])
            weights[i] = 0.0
            yield i


@alternative("WeightedSampler")
class GumbelKeys(Sampler):
    """The largest of log-weights plus Gumbel noise."""

    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        _checked_weights(weights, num_samples, replacement)
        self.log_weights = weights.detach().double().log()
        self.num_samples, self.replacement, self.seed, self.epoch = num_samples, replacement, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.num_samples

    def __iter__(self):
        g = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        rows = self.num_samples if self.replacement else 1
        noise = -torch.empty(rows, len(self.log_weights), dtype=torch.float64).exponential_(generator=g).log()
        keys = self.log_weights + noise
        if self.replacement:
            return iter(keys.argmax(1).tolist() if rows else [])
        return iter(keys[0].topk(self.num_samples).indices.tolist())


@alternative("WeightedSampler")
class NumpysChoice:
    """With numpy's choice."""

    def __init__(self, weights, num_samples, *, replacement=True, seed=0):
        w = np.array(_checked_weights(weights, num_samples, replacement))
        self.p = w / w.sum() if num_samples else w
        self.n, self.replacement, self.key = num_samples, replacement, [seed, 0]

    def set_epoch(self, epoch):
        self.key = [self.key[0], epoch]

    def __len__(self):
        return self.n

    def __iter__(self):
        if self.n == 0:
            return iter(())
        rng = np.random.default_rng(self.key)
        if self.replacement:
            return iter(rng.choice(len(self.p), self.n, p=self.p).tolist())
        with np.errstate(divide="ignore"):
            return iter(np.argsort(rng.exponential(size=len(self.p)) / self.p)[: self.n].tolist())


# shard_stream


@alternative("shard_stream")
def by_counting(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    if worker_id not in range(num_workers) or rank not in range(world_size):
        raise ValueError("no such reader")
    mine, readers = num_workers * rank + worker_id, num_workers * world_size

    def items():
        held = None
        for number, item in enumerate(source):
            if number % readers == mine:
                held = (item,)
                if not even:
                    yield item
            if even and number % readers == readers - 1:
                yield held[0]

    return items()


def _rounds_of(stream, readers, mine, even):
    while True:
        before = list(itertools.islice(stream, mine))
        own = list(itertools.islice(stream, 1))
        if not own:
            return
        if not even:
            yield own[0]
        rest = list(itertools.islice(stream, readers - mine - 1))
        if even:
            if len(before) + 1 + len(rest) < readers:
                return
            yield own[0]


@alternative("shard_stream")
def in_slices(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
    if worker_id < 0 or worker_id >= num_workers:
        raise ValueError("worker_id")
    if rank < 0 or rank >= world_size:
        raise ValueError("rank")
    return _rounds_of(iter(source), world_size * num_workers, rank * num_workers + worker_id, even)


# shuffle_buffer


@alternative("shuffle_buffer")
def as_torchdata_does(source, size, *, generator):
    if size < 1:
        raise ValueError("size")

    def draw(n):
        return torch.randint(0, n, (1,), generator=generator).item()

    def items():
        buffer = []
        for x in source:
            if len(buffer) == size:
                i = draw(size)
                out, buffer[i] = buffer[i], x
                yield out
            else:
                buffer.append(x)
        while buffer:
            yield buffer.pop(draw(len(buffer)))

    return items()


@alternative("shuffle_buffer")
def shuffles_the_rest_at_once(source, size, *, generator):
    if size <= 0:
        raise ValueError("size")

    def items():
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        stream, buffer = iter(source), []
        for item in itertools.islice(stream, size):
            buffer.append(item)
        for item in stream:
            place = rng.randrange(size)
            yield buffer[place]
            buffer[place] = item
        rng.shuffle(buffer)
        yield from buffer

    return items()


# ResumableLoader


@alternative("ResumableLoader")
class WithAnInnerIterator:
    """An iterator of its own for each iteration, over the batches that are left."""

    def __init__(self, dataset, batch_size, *, seed=0, drop_last=False):
        if batch_size <= 0:
            raise ValueError("batch_size")
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.seed, self.next_epoch, self.begin = seed, 0, 0
        self.now = None

    def __len__(self):
        n = len(self.dataset)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self):
        epoch, begin = self.next_epoch, self.begin
        self.begin = 0
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset)).tolist()
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)][begin : len(self)]
        self.now = (epoch, begin)
        iterator = iter(_Batches(self.dataset, batches))
        for given, batch in enumerate(iterator, begin + 1):
            self.now = (epoch, given) if given < len(self) else (epoch + 1, 0)
            self.next_epoch = epoch + 1
            yield batch

    def state_dict(self):
        epoch, given = self.now if self.now is not None else (self.next_epoch, self.begin)
        settings = [self.batch_size, self.drop_last, len(self.dataset)]
        return {"seed": self.seed, "at": [epoch, given], "settings": settings}

    def load_state_dict(self, state):
        if state["settings"] != [self.batch_size, self.drop_last, len(self.dataset)]:
            raise ValueError("settings")
        self.seed = state["seed"]
        self.next_epoch, self.begin = state["at"]
        self.now = None


class _Batches:
    """The given batches of a dataset, collated."""

    def __init__(self, dataset, batches):
        self.dataset, self.batches = dataset, batches

    def __iter__(self):
        for batch in self.batches:
            yield default_collate([self.dataset[i] for i in batch])


@alternative("ResumableLoader")
class KeepsTheOrder:
    """The order of the epoch is in the state, as a tensor, with the number of samples that were given."""

    def __init__(self, dataset, batch_size, *, seed=0, drop_last=False):
        if not batch_size > 0:
            raise ValueError("batch_size")
        self.dataset, self.batch_size, self.drop_last, self.seed = dataset, batch_size, drop_last, seed
        self.epoch, self.left = -1, None
        self.fresh = False

    def _used(self):
        n = len(self.dataset)
        return n - n % self.batch_size if self.drop_last else n

    def __len__(self):
        return math.ceil(self._used() / self.batch_size)

    def _order(self, epoch):
        g = torch.Generator()
        g.manual_seed(self.seed + 7919 * epoch)
        return torch.randperm(len(self.dataset), generator=g)[: self._used()]

    def __iter__(self):
        if not self.fresh:
            self.epoch += 1
            self.left = self._order(self.epoch)
        self.fresh = False
        while len(self.left):
            batch = default_collate([self.dataset[i] for i in self.left[: self.batch_size].tolist()])
            self.left = self.left[self.batch_size :]
            yield batch

    def state_dict(self):
        left = self.left.clone() if self.left is not None else torch.empty(0, dtype=torch.int64)
        return {
            "epoch": self.epoch,
            "left": left,
            "seed": self.seed,
            "form": {"n": len(self.dataset), "b": self.batch_size, "d": int(self.drop_last)},
        }

    def load_state_dict(self, state):
        if state["form"] != self.state_dict()["form"]:
            raise ValueError("state of another loader")
        self.epoch, self.left, self.seed = state["epoch"], state["left"].clone(), state["seed"]
        self.fresh = len(self.left) > 0


# mixup


@alternative("mixup")
def by_lerp(x, labels, lam, perm, num_classes):
    inside = (lam >= 0) & (lam <= 1)
    if not bool(inside.all()) or any(not 0 <= y < num_classes for y in labels.tolist()):
        raise ValueError("labels or lam")
    weight = lam[(...,) + (None,) * (x.ndim - 1)]
    eye = torch.eye(num_classes, dtype=x.dtype)
    return torch.lerp(x[perm], x, weight.expand_as(x)), torch.lerp(eye[labels[perm]], eye[labels], lam.unsqueeze(1))


@alternative("mixup")
def by_adding_up(x, labels, lam, perm, num_classes):
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError("labels")
    if any(not 0 <= w <= 1 for w in lam.tolist()):
        raise ValueError("lam")
    soft = x.new_zeros(len(x), num_classes)
    soft.scatter_add_(1, labels[:, None], lam[:, None])
    soft.scatter_add_(1, labels[perm][:, None], 1 - lam[:, None])
    partner = x.index_select(0, perm)
    mixed = torch.einsum("n,n...->n...", lam, x) + torch.einsum("n,n...->n...", 1 - lam, partner)
    return mixed, soft.detach()


@alternative("mixup")
def one_sample_at_a_time(x, labels, lam, perm, num_classes):
    if not (torch.isin(labels, torch.arange(num_classes)).all() and lam.clamp(0, 1).eq(lam).all()):
        raise ValueError("labels or lam")
    mixed = [w * a + (1 - w) * x[j] for w, a, j in zip(lam, x, perm, strict=True)]
    rows = torch.zeros(len(labels), num_classes, dtype=x.dtype)
    for row, y, j, w in zip(rows, labels, perm, lam, strict=True):
        row[y] += w
        row[labels[j]] += 1 - w
    return torch.stack(mixed) if mixed else torch.empty_like(x), rows


# augment_boxes


@alternative("augment_boxes")
def by_hand(image, mask, boxes, labels, *, flip, crop):
    top, left, height, width = crop
    H, W = mask.shape
    if height < 1 or width < 1 or top < 0 or left < 0 or top > H - height or left > W - width:
        raise ValueError("crop")
    pixels, classes = image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)
    b = boxes.as_subclass(torch.Tensor)
    name = boxes.format.value
    x1, y1, x2, y2 = b.unbind(1)
    if name == "XYWH":
        x2, y2 = x1 + x2, y1 + y2
    elif name == "CXCYWH":
        x1, y1, x2, y2 = x1 - x2 / 2, y1 - y2 / 2, x1 + x2 / 2, y1 + y2 / 2
    if flip:
        pixels, classes = pixels.flip(-1), classes.flip(-1)
        x1, x2 = W - x2, W - x1
    x1, x2 = ((x - left).clamp(0, width) for x in (x1, x2))
    y1, y2 = ((y - top).clamp(0, height) for y in (y1, y2))
    kept = (x2 - x1 > 0) & (y2 - y1 > 0)
    columns = {
        "XYXY": (x1, y1, x2, y2),
        "XYWH": (x1, y1, x2 - x1, y2 - y1),
        "CXCYWH": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    }[name]
    rows, cols = slice(top, top + height), slice(left, left + width)
    return (
        tv_tensors.Image(pixels[:, rows, cols]),
        tv_tensors.Mask(classes[rows, cols]),
        tv_tensors.BoundingBoxes(torch.stack(columns, 1)[kept], format=boxes.format, canvas_size=(height, width)),
        labels[kept],
    )


@alternative("augment_boxes")
def with_transforms(image, mask, boxes, labels, *, flip, crop):
    H, W = image.shape[1:]
    top, left, height, width = crop
    if top not in range(H) or left not in range(W) or height not in range(1, H - top + 1) or width not in range(1, W - left + 1):
        raise ValueError("crop")
    sample = {"image": image, "mask": mask, "boxes": boxes}
    for step in [v2.functional.horizontal_flip] * flip + [lambda part: v2.functional.crop(part, *crop)]:
        sample = v2.Lambda(step, *map(type, sample.values()))(sample)
    size = v2.functional.convert_bounding_box_format(sample["boxes"], new_format="XYWH")[:, 2:]
    kept = torch.nonzero(size.min(1).values > 0).flatten() if len(size) else torch.arange(0)
    boxes = tv_tensors.wrap(sample["boxes"].as_subclass(torch.Tensor).index_select(0, kept), like=sample["boxes"])
    return sample["image"], sample["mask"], boxes, labels.index_select(0, kept)
