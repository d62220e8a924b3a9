"""Data pipelines, solved in full."""

import bisect
import itertools
import math
import os
import random
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Sampler, default_collate
from torchvision import tv_tensors


class IdxDataset:
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


class StreamingStats:
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


class LengthBatchSampler(Sampler):
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


def _checked_weights(weights, num_samples, replacement):
    w = weights.detach().double().tolist()
    if any(not math.isfinite(x) or x < 0 for x in w) or num_samples < 0:
        raise ValueError("weights")
    positive = sum(x > 0 for x in w)
    if (not replacement and num_samples > positive) or (num_samples and not positive):
        raise ValueError("too few")
    return w


class WeightedSampler:
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


def shard_stream(source, *, worker_id=0, num_workers=1, rank=0, world_size=1, even=False):
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


def shuffle_buffer(source, size, *, generator):
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


class ResumableLoader:
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


def mixup(x, labels, lam, perm, num_classes):
    inside = (lam >= 0) & (lam <= 1)
    if not bool(inside.all()) or any(not 0 <= y < num_classes for y in labels.tolist()):
        raise ValueError("labels or lam")
    weight = lam[(...,) + (None,) * (x.ndim - 1)]
    eye = torch.eye(num_classes, dtype=x.dtype)
    return torch.lerp(x[perm], x, weight.expand_as(x)), torch.lerp(eye[labels[perm]], eye[labels], lam.unsqueeze(1))


def augment_boxes(image, mask, boxes, labels, *, flip, crop):
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
