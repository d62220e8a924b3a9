"""Examples for the module data. Run one task's with `pytest tests/public -k mixup`."""

import itertools
import pickle
import sys

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision import tv_tensors

from data import (
    IdxDataset,
    LengthBatchSampler,
    ResumableLoader,
    StreamingStats,
    WeightedSampler,
    augment_boxes,
    mixup,
    shard_stream,
    shuffle_buffer,
)

forks = pytest.mark.skipif(sys.platform != "linux", reason="starts workers as forks, as DataLoader does by default on Linux")


def idx_files(folder):
    """Three images of 2×3 and their labels, as IDX files."""
    images, labels = folder / "images", folder / "labels"
    images.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 3, *range(12), 250, 251, 252, 253, 254, 255]))
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 255]))
    return images, labels


def test_IdxDataset_reads_samples(tmp_path):
    """Three images of 2×3; the last one has the index 2, and -1 too."""
    dataset = IdxDataset(*idx_files(tmp_path))
    assert len(dataset) == 3
    image, label = dataset[1]
    assert_close(image, torch.tensor([[6, 7, 8], [9, 10, 11]], dtype=torch.uint8))
    assert label == 0
    assert dataset[-1][1] == 255
    with pytest.raises(IndexError):
        dataset[3]
    assert [label for _, label in IdxDataset(*idx_files(tmp_path), transform=torch.sum)] == [7, 0, 255]


def test_IdxDataset_refuses_other_files(tmp_path):
    """Images aren't labels, and a file that lacks its last byte is refused."""
    images, labels = idx_files(tmp_path)
    assert len(IdxDataset(images, labels)) == 3
    with pytest.raises(ValueError):
        IdxDataset(labels, images)
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(ValueError):
        IdxDataset(images, labels)


@forks
def test_IdxDataset_in_two_workers(tmp_path):
    """Two processes read the same files, after the main one did."""
    dataset = pickle.loads(pickle.dumps(IdxDataset(*idx_files(tmp_path))))
    assert dataset[0][1] == 7
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert_close(torch.cat([labels for _, labels in loader]), torch.tensor([7, 0, 255]))


def test_StreamingStats_of_two_batches():
    """The entries 0, 2 and 4, 6, 8 have the mean 4 and the variance 8."""
    stats = StreamingStats(1)
    stats.update(torch.tensor([0.0, 2.0]).view(1, 1, 1, 2))
    stats.update(torch.tensor([4, 6, 8], dtype=torch.uint8).view(3, 1, 1, 1))
    assert stats.count == 5
    assert_close(stats.mean(), torch.tensor([4.0], dtype=torch.float64))
    assert_close(stats.std(), torch.tensor([8.0], dtype=torch.float64).sqrt())


def test_StreamingStats_of_two_workers():
    """Merging adds what the other has seen; here a channel of 1, 3 and one of 10, 10."""
    stats, other = StreamingStats(2), StreamingStats(2)
    stats.update(torch.tensor([1.0, 10.0]).view(1, 2, 1, 1))
    other.update(torch.tensor([3.0, 10.0]).view(1, 2, 1, 1))
    stats.merge(other)
    assert stats.count == 2
    assert_close(stats.mean(), torch.tensor([2.0, 10.0], dtype=torch.float64))
    assert_close(stats.std(), torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_LengthBatchSampler_of_six():
    """With a budget of 12 tokens, 3 · 4 fit, and so do 2 · 6 or one of 10."""
    lengths = [4, 10, 2, 6, 4, 6]
    sampler = LengthBatchSampler(lengths, 12)
    batches = list(sampler)
    assert sorted(itertools.chain(*batches)) == [0, 1, 2, 3, 4, 5]
    assert sorted(sorted(lengths[i] for i in batch) for batch in batches) == [[2, 4, 4], [6, 6], [10]]
    assert len(sampler) == 3
    assert list(sampler) == batches
    with pytest.raises(ValueError):
        LengthBatchSampler(lengths, 9)


def test_LengthBatchSampler_in_many_epochs():
    """Each of four equal samples is alone in its batch; over 100 epochs each of them comes first at times."""
    sampler = LengthBatchSampler([5, 5, 5, 5], 7)
    first = set()
    for epoch in range(100):
        sampler.set_epoch(epoch)
        first.add(next(iter(sampler))[0])
    assert first == {0, 1, 2, 3}


def test_WeightedSampler_with_replacement():
    """Of 10,000 draws, about a quarter and three quarters; index 1 has no weight."""
    sampler = WeightedSampler(torch.tensor([1.0, 0.0, 3.0]), 10_000)
    draws = torch.tensor(list(sampler))
    assert len(sampler) == 10_000
    counts = draws.bincount(minlength=3).tolist()
    assert 2200 < counts[0] < 2800
    assert counts[1] == 0


def test_WeightedSampler_without_replacement():
    """All that have a weight are drawn once each; the heaviest nearly always comes first."""
    weights = torch.tensor([1.0, 1e9, 0.0, 1.0])
    draws = list(WeightedSampler(weights, 3, replacement=False))
    assert draws[0] == 1
    assert sorted(draws) == [0, 1, 3]
    with pytest.raises(ValueError):
        WeightedSampler(weights, 4, replacement=False)


def test_shard_stream_by_hand():
    """Of four readers, the second worker of the first process is number 1."""
    assert list(shard_stream(range(10), worker_id=1, num_workers=2, rank=0, world_size=2)) == [1, 5, 9]
    assert list(shard_stream("abcde", worker_id=0, num_workers=2, even=True)) == ["a", "c"]
    assert list(itertools.islice(shard_stream(itertools.count(), worker_id=2, num_workers=3), 3)) == [2, 5, 8]


def test_shard_stream_checks_at_the_call():
    """Workers of three are 0, 1 and 2."""
    assert list(shard_stream([5, 6, 7], worker_id=2, num_workers=3)) == [7]
    with pytest.raises(ValueError):
        shard_stream([5, 6, 7], worker_id=3, num_workers=3)


class Counting(IterableDataset):
    """The numbers 0 … 8, shared out to the workers of a DataLoader."""

    def __iter__(self):
        """This worker's share."""
        info = get_worker_info()
        return shard_stream(range(9), worker_id=info.id, num_workers=info.num_workers)


@forks
def test_shard_stream_in_two_workers():
    """Both workers together give each number once."""
    loader = DataLoader(Counting(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(loader) == list(range(9))


def test_shuffle_buffer_gives_each_item_once():
    """With a buffer of 3, item number 5 of the stream can't be among the first three."""
    generator = torch.Generator().manual_seed(1)
    items = list(shuffle_buffer(range(10), 3, generator=generator))
    assert sorted(items) == list(range(10))
    assert 5 not in items[:3]
    assert list(shuffle_buffer("abc", 1, generator=generator)) == ["a", "b", "c"]
    assert len(list(itertools.islice(shuffle_buffer(itertools.count(), 3, generator=generator), 50))) == 50


def test_shuffle_buffer_finds_all_orders():
    """A buffer of three or more holds all of three items: among 200 shuffles are all six orders."""
    generator = torch.Generator().manual_seed(1)
    assert len({tuple(shuffle_buffer("abc", 3 + i % 2, generator=generator)) for i in range(200)}) == 6


def test_ResumableLoader_goes_on():
    """After two batches of the first epoch, another loader gives the last one, and then the second epoch."""
    samples = torch.arange(100, 107)
    loader = ResumableLoader(samples, 3, seed=5)
    first, second = list(loader), list(loader)
    assert [len(batch) for batch in first] == [3, 3, 1]
    assert_close(torch.cat(first).sort().values, samples)

    loader, other = ResumableLoader(samples, 3, seed=5), ResumableLoader(samples, 3)
    for _ in zip(range(2), loader, strict=False):
        state = loader.state_dict()
    other.load_state_dict(state)
    assert_close(list(other), first[2:])
    assert_close(list(other), second)


def test_ResumableLoader_after_break():
    """Leaving a loop early ends the epoch."""
    samples, loaders = torch.arange(9), [ResumableLoader(torch.arange(9), 2, seed=8, drop_last=True) for _ in range(2)]
    assert len(loaders[0]) == 4
    epochs = [list(loaders[0]) for _ in range(2)]
    assert next(iter(loaders[1])).tolist() == epochs[0][0].tolist()
    assert_close(list(loaders[1]), epochs[1])
    with pytest.raises(ValueError):
        ResumableLoader(samples, 0)


def test_mixup_of_two():
    """Three quarters of the first sample and one quarter of the second; the second stays as it is."""
    x, lam = torch.tensor([[0.0, 4.0], [8.0, 4.0]]), torch.tensor([0.75, 1.0])
    mixed, soft = mixup(x, torch.tensor([2, 0]), lam, torch.tensor([1, 0]), 3)
    assert_close(mixed, torch.tensor([[2.0, 4.0], [8.0, 4.0]]))
    assert_close(soft, torch.tensor([[0.25, 0.0, 0.75], [1.0, 0.0, 0.0]]))


def test_mixup_of_one_class():
    """Two samples of one class keep it with weight 1; a label of 2 is too large for two classes."""
    args = torch.tensor([1.0, 3.0]), torch.tensor([1, 1]), torch.tensor([0.5, 0.25]), torch.tensor([1, 0])
    mixed, soft = mixup(*args, 2)
    assert_close(mixed, torch.tensor([2.0, 1.5]))
    assert_close(soft, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError):
        mixup(*args, 1)


def example(boxes):
    """An image of 4×6, its mask, two boxes and their labels."""
    pixels = torch.arange(24).view(4, 6)
    return (
        tv_tensors.Image(pixels[None].to(torch.uint8)),
        tv_tensors.Mask(pixels),
        tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(4, 6), dtype=torch.float32),
        torch.tensor([7, 9]),
    )


def test_augment_boxes_flips():
    """The box from 1 to 3 lies from 3 to 5 in an image that is 6 wide."""
    image, mask, boxes, labels = augment_boxes(*example([[1, 0, 3, 2], [0, 0, 6, 4]]), flip=True, crop=(0, 0, 4, 6))
    assert_close(mask[0].tolist(), [5, 4, 3, 2, 1, 0])
    assert_close(image[0, 3].tolist(), [23, 22, 21, 20, 19, 18])
    assert_close(boxes.tolist(), [[3.0, 0.0, 5.0, 2.0], [0.0, 0.0, 6.0, 4.0]])
    assert labels.tolist() == [7, 9]


def test_augment_boxes_crops():
    """The first box ends where the crop begins, and is dropped; the second is clipped to the new image of 2×3."""
    image, mask, boxes, labels = augment_boxes(*example([[1, 0, 3, 2], [2, 1, 5, 4]]), flip=False, crop=(1, 3, 2, 3))
    assert_close(mask.tolist(), [[9, 10, 11], [15, 16, 17]])
    assert image.shape == (1, 2, 3)
    assert isinstance(boxes, tv_tensors.BoundingBoxes)
    assert boxes.canvas_size == (2, 3)
    assert_close(boxes.tolist(), [[0.0, 0.0, 2.0, 2.0]])
    assert labels.tolist() == [9]
