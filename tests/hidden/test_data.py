"""Hidden suite of the module data."""

import io
import itertools
import math
import pickle
import random
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from grader.testing import LAYOUTS, Ending, measured, raised, task, with_ones

F64 = torch.float64


def idx_bytes(x):
    """An IDX file that holds a tensor of bytes."""
    return bytes([0, 0, 8, x.dim()]) + struct.pack(f">{x.dim()}I", *x.shape) + x.contiguous().numpy().tobytes()


def drawn_files(draw, n, height=5, width=3):
    """Images and labels, as tensors of bytes."""
    return draw.integers(0, 256, n, height, width).to(torch.uint8), draw.integers(0, 256, n).to(torch.uint8)


def written(folder, images, labels):
    """Write both files; their paths."""
    paths = Path(folder) / "images", Path(folder) / "labels"
    for path, x in zip(paths, (images, labels), strict=True):
        path.write_bytes(idx_bytes(x))
    return paths


def carried(dataset):
    """A dataset after a way through pickle, as to a DataLoader's worker, which knows its class."""
    kind = type(dataset)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return "class" if isinstance(obj, type) and obj == kind else None

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid):
            return kind

    file = io.BytesIO()
    Pickler(file).dump(dataset)
    file.seek(0)
    return Unpickler(file).load()


@task("IdxDataset")
class TestIdxDataset:
    @pytest.mark.parametrize("shape", [*with_ones(7, 5, 3), (300, 1, 2), (2, 3, 260), (2, 270, 3)], ids=str)
    def test_samples(self, agree, draw, shape):
        """Each sample has the bytes of its image as (H, W), uint8, and its label as an int, from 0 to 255; sizes may exceed a byte."""
        images, labels = drawn_files(draw, *shape)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                dataset = m.IdxDataset(*written(folder, images, labels))
                return len(dataset), [dataset[i] for i in draw_order], next(iter(dataset))

        draw_order = draw.permutation(shape[0]).tolist()[:20]
        agree(probe, rtol=0, atol=0)

    def test_indices(self, agree, draw):
        """Negative ones count from the end; beyond both ends, also of an empty dataset, there is an IndexError; so a loop ends."""
        images, labels = drawn_files(draw, 4)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as nothing:
                dataset, empty = m.IdxDataset(*written(folder, images, labels)), m.IdxDataset(*written(nothing, images[:0], labels[:0]))
                errors = [raised(IndexError, lambda i=i: dataset[i]) for i in (4, -5, 400, -8)]
                errors += [raised(IndexError, lambda i=i: empty[i]) for i in (0, -1)]
                return [dataset[i] for i in (-1, -4, -2)], list(dataset), errors, len(empty)

        agree(probe, rtol=0, atol=0)

    def test_transform(self, agree, draw):
        """The transform gets the image, and what it returns takes the image's place."""
        (images, labels), factor = drawn_files(draw, 4), draw.normal(1)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                paths = written(folder, images, labels)
                scaled = m.IdxDataset(*paths, transform=lambda image: image * factor)
                counted = m.IdxDataset(*(str(path) for path in paths), transform=lambda image: (tuple(image.shape), image.dtype))
                nothing = m.IdxDataset(*paths, transform=lambda image: None)
                return [scaled[i] for i in range(4)], counted[-1], nothing[0], m.IdxDataset(*paths, transform=None)[1]

        agree(probe, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("seen", [False, True], ids=["fresh", "seen"])
    @pytest.mark.parametrize("replaced", [False, True], ids=["overwritten", "replaced"])
    def test_reads_at_the_access(self, agree, draw, seen, replaced):
        """What has been written into the files since the constructor counts, also where a new file took the old one's place."""
        old, new = drawn_files(draw, 6), drawn_files(draw, 6)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
                paths = written(folder, *old)
                dataset = m.IdxDataset(*paths)
                before = dataset[2] if seen else None
                if replaced:
                    for source, target in zip(written(other, *new), paths, strict=True):
                        target.unlink()
                        target.write_bytes(source.read_bytes())
                else:
                    for path, x in zip(paths, new, strict=True):
                        with open(path, "r+b") as file:
                            file.write(idx_bytes(x))
                return before, [dataset[i] for i in (2, 5, 0)]

        agree(probe, rtol=0, atol=0)

    def test_pickles(self, agree, draw):
        """A dataset can be pickled, before and after samples were read, and the copy reads the same files."""
        images, labels = drawn_files(draw, 6)
        changed = (images + 1).to(torch.uint8)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                dataset = m.IdxDataset(*written(folder, images, labels))
                first = carried(dataset)
                samples = [dataset[1], dataset[-1]]
                second = carried(dataset)
                written(folder, changed, labels)
                return samples, [first[i] for i in (0, 3)], [second[i] for i in (2, 5)], len(second)

        agree(probe, rtol=0, atol=0)

    def test_images_have_memory_of_their_own(self, agree, draw):
        """Writing into an image changes neither others nor what the next access gives."""
        images, labels = drawn_files(draw, 4)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                dataset = m.IdxDataset(*written(folder, images, labels))
                first, second = dataset[1][0], dataset[2][0]
                first.add_(1)
                return first, second, dataset[1], dataset[2]

        agree(probe, rtol=0, atol=0)

    def test_in_a_loader(self, agree, draw):
        """A DataLoader makes batches of it."""
        images, labels = drawn_files(draw, 7)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                return [tuple(batch) for batch in DataLoader(m.IdxDataset(*written(folder, images, labels)), batch_size=3)]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("wrong", ["images", "labels"])
    def test_other_files_are_refused(self, agree, draw, wrong):
        """Another magic number, type or number of dimensions, a byte too few or too many, or a header cut off, is a ValueError at once."""
        images, labels = drawn_files(draw, 6)
        good = idx_bytes(images if wrong == "images" else labels)
        header = 16 if wrong == "images" else 8
        other = idx_bytes(labels if wrong == "images" else images)
        bad = [b"\x01" + good[1:], good[:1] + b"\x01" + good[2:], good[:2] + b"\x09" + good[3:], good[:3] + b"\x02" + good[4:], other]
        bad += [good[:-1], good + b"\x00", good[:header], good[: header - 1], good[:4], good[:3], b""]

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                paths = written(folder, images, labels)
                sample, errors = m.IdxDataset(*paths)[3], []
                for text in bad:
                    paths[wrong == "labels"].write_bytes(text)
                    errors.append(raised(ValueError, lambda: m.IdxDataset(*paths)))
                return sample, errors

        agree(probe, rtol=0, atol=0)

    def test_as_many_labels_as_images(self, agree, draw):
        """A label too few or too many is a ValueError; N images of which each has a label are not."""
        images, labels = drawn_files(draw, 6)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                out = []
                for n, k in [(5, 6), (6, 5), (0, 1)]:
                    paths = written(folder, images[:n], labels[:k])
                    out.append(raised(ValueError, lambda paths=paths: m.IdxDataset(*paths)))
                return out, m.IdxDataset(*written(folder, images[:4], labels[:4]))[3]

        agree(probe, rtol=0, atol=0)


def results(stats):
    """All that can be asked of statistics."""
    return stats.count, stats.mean(), stats.std()


@task("StreamingStats")
class TestStreamingStats:
    @pytest.mark.parametrize("sizes", [[11], [1] * 11, [4, 4, 3], [0, 7, 0, 1, 3], [2, 9]], ids=str)
    def test_equals_the_whole(self, agree, draw, sizes):
        """Batches of any size, empty ones too, give mean, deviation and count of all images at once."""
        images = draw.normal(11, 3, 5, 2, dtype=F64) * draw.uniform(3, 1, 1, low=0.1, high=9, dtype=F64) + draw.normal(3, 1, 1, dtype=F64)

        def probe(m):
            stats = m.StreamingStats(3)
            for batch in images.split(sizes):
                stats.update(batch)
            return results(stats)

        agree(probe, rtol=1e-10, atol=1e-12)

    def test_after_every_batch(self, agree, draw):
        """Results can be asked for between the batches, and changing what came back changes nothing."""
        images = draw.normal(6, 2, 3, 4, dtype=F64)

        def probe(m):
            stats, out = m.StreamingStats(2), []
            for batch in images.split(2):
                stats.update(batch)
                out.append((stats.count, stats.mean().clone(), stats.std().clone()))
                stats.mean().zero_()
                stats.std().add_(1)
            return out, results(stats)

        agree(probe, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("shape", with_ones(4, 3, 5, 2), ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """One image, channel, row or column: the shapes stay; images may differ in size from batch to batch."""
        first, second = draw.normal(*shape, dtype=F64), draw.normal(2, shape[1], 3, 7, dtype=F64)

        def probe(m):
            stats, other = m.StreamingStats(shape[1]), m.StreamingStats(shape[1])
            stats.update(first)
            stats.update(second)
            other.update(first[:1, :, :1, :1])
            stats.merge(other)
            return results(stats), results(other)

        agree(probe, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("size", [1, 3, 64])
    def test_large_mean(self, agree, draw, size):
        """With the mean 1e8 and the deviation 1, the deviation is right to 1e-6, in whatever batches."""
        images = draw.normal(64, 2, 3, 5, dtype=F64) + torch.tensor([1e8, -1e8], dtype=F64)[:, None, None]

        def probe(m):
            stats = m.StreamingStats(2)
            for batch in images.split(size):
                stats.update(batch)
            return stats.mean(), stats.std()

        agree(probe, rtol=1e-6, atol=0)

    def test_magnitudes(self, agree, draw):
        """Tiny and huge numbers have the same relative precision."""
        images = draw.normal(9, 3, 2, 5, dtype=F64) * torch.tensor([1e-100, 1.0, 1e100], dtype=F64)[:, None, None]

        def probe(m):
            stats = m.StreamingStats(3)
            for batch in images.split(4):
                stats.update(batch)
            return stats.mean(), stats.std()

        agree(probe, rtol=1e-9, atol=0)

    def test_precision_of_the_mean(self, agree, draw):
        """The mean has the precision of float64, also of values that float32 can't tell apart."""
        images = draw.normal(6, 2, 3, 5, dtype=F64) * 1e-6 + 1

        def probe(m):
            stats = m.StreamingStats(2)
            for batch in images.split(2):
                stats.update(batch)
            return (stats.mean() - 1) * 1e6, stats.std() * 1e6

        agree(probe, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
    def test_dtypes(self, agree, draw, dtype):
        """Bytes and floating-point numbers are taken as they are, and summed in float64: 16 bits would overflow."""
        images = draw.integers(100, 256, 20, 3, 9, 8).to(dtype)

        def probe(m):
            stats = m.StreamingStats(3)
            for batch in images.split(13):
                stats.update(batch)
            return results(stats)

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout):
        """Images may lie in memory in any way."""
        images = draw.normal(7, 3, 5, 2, dtype=F64, layout=layout)

        def probe(m):
            stats = m.StreamingStats(3)
            stats.update(images)
            stats.update(images[:, :, ::2])
            return results(stats)

        agree(probe, rtol=1e-10, atol=1e-12)

    def test_channels_stay_apart(self, agree, draw):
        """NaN and inf in one channel do not reach the others."""
        where = torch.zeros(8, 3, 2, 5, dtype=torch.bool)
        where[3, 1] = True
        images = draw.poisoned(draw.normal(8, 3, 2, 5, dtype=F64), where)

        def probe(m):
            stats, other = m.StreamingStats(3), m.StreamingStats(3)
            for batch in images.split(2):
                stats.update(batch)
            other.merge(stats)
            return [(stats.count, x.mean()[::2], x.std()[::2]) for x in (stats, other)]

        agree(probe, rtol=1e-10, atol=1e-12)

    def test_constant_channels(self, agree, draw):
        """A channel of equal numbers has the deviation 0, not a small one and not NaN; so has a single number."""
        value = draw.uniform(1, low=0.1, high=1e6, dtype=F64)
        images = value.expand(6, 2, 3, 1)

        def probe(m):
            stats, single = m.StreamingStats(2), m.StreamingStats(1)
            for _ in range(5):
                stats.update(images)
            single.update(images[:1, :1, :1])
            return stats.mean(), stats.std() / value, results(single)

        agree(probe, rtol=1e-12, atol=1e-12)

    def test_batches_are_not_kept(self, agree, draw):
        """What happens to a batch after update does not matter."""
        images = draw.normal(6, 2, 3, 4, dtype=F64)

        def probe(m):
            stats, buffer = m.StreamingStats(2), torch.empty(2, 2, 3, 4, dtype=F64)
            for batch in images.split(2):
                buffer.copy_(batch)
                stats.update(buffer)
            buffer.zero_()
            return results(stats)

        agree(probe, rtol=1e-10, atol=1e-12)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """Images that require gradients leave no graph."""
        images = draw.normal(4, 2, 3, 4, dtype=F64).requires_grad_()

        def probe(m):
            stats = m.StreamingStats(2)
            stats.update(images * 2)
            stats.update(images)
            return [x.requires_grad for x in (stats.mean(), stats.std())], stats.mean().detach(), stats.std().detach()

        agree(probe, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("counts", [[5, 2, 4], [1, 1, 9], [0, 6, 5], [6, 0, 5], [0, 0, 11]], ids=str)
    def test_merge(self, agree, draw, counts):
        """Statistics of several workers, with many images, few or none, make those of all images; the others stay as they are."""
        parts = (draw.normal(11, 3, 2, 5, dtype=F64) + draw.normal(11, 3, 1, 1, dtype=F64) * 5).split(counts)

        def probe(m):
            total, *others = workers = [m.StreamingStats(3) for _ in parts]
            for stats, images in zip(workers, parts, strict=True):
                for image in images:
                    stats.update(image[None])
            for other in others:
                total.merge(other)
            kept = [results(other) if other.count else other.count for other in others]
            total.update(parts[2])
            others[1].update(parts[2][:2])
            return results(total), kept, results(others[1])

        agree(probe, rtol=1e-9, atol=1e-11)

    def test_merge_with_large_means(self, agree, draw):
        """Merging loses no digits where both means are about 1e8."""
        images = draw.normal(40, 1, 3, 5, dtype=F64) + 1e8

        def probe(m):
            a, b = m.StreamingStats(1), m.StreamingStats(1)
            a.update(images[:9])
            b.update(images[9:])
            a.merge(b)
            return results(a)

        agree(probe, rtol=1e-6, atol=0)

    def test_two_objects(self, agree, draw):
        """Each object has its own statistics, also after one was merged into the other."""
        x, y = draw.normal(3, 2, 3, 5, dtype=F64), draw.normal(4, 2, 3, 5, dtype=F64)

        def probe(m):
            a, b = m.StreamingStats(2), m.StreamingStats(2)
            a.update(x)
            b.merge(a)
            b.update(y)
            a.update(y[:1])
            return results(a), results(b)

        agree(probe, rtol=1e-10, atol=1e-12)

    def test_wrong_shapes_are_refused(self, agree, draw):
        """Images that are not 4-D or have other channels are a ValueError, also if one could be stretched, and change nothing."""
        images = draw.normal(4, 3, 5, 3, dtype=F64)
        wrong = [images[0], images[:, :1], images[:, :2], images[None], torch.cat([images, images], 1), images[:0, :2]]

        def probe(m):
            stats, one, two = m.StreamingStats(3), m.StreamingStats(1), m.StreamingStats(2)
            stats.update(images)
            one.update(images[:, :1])
            two.update(images[:, :2])
            errors = [raised(ValueError, lambda x=x: stats.update(x)) for x in wrong]
            errors += [raised(ValueError, lambda a=a, b=b: a.merge(b)) for a, b in [(stats, one), (one, stats), (stats, two)]]
            errors += [raised(ValueError, lambda: stats.merge(m.StreamingStats(1)))]
            return errors, results(stats), results(one)

        agree(probe, rtol=1e-6, atol=1e-9)

    def test_nothing_seen(self, agree, draw):
        """Without an entry, mean and std are a ValueError, after empty batches and merges, too; then an image counts."""
        images = draw.normal(4, 2, 3, 5, dtype=F64)

        def probe(m):
            stats = m.StreamingStats(2)
            out = [stats.count, raised(ValueError, stats.mean), raised(ValueError, stats.std)]
            stats.update(images[:0])
            stats.update(images[:, :, :, :0])
            stats.merge(m.StreamingStats(2))
            out += [stats.count, raised(ValueError, stats.mean), raised(ValueError, stats.std)]
            stats.update(images)
            return out, results(stats)

        agree(probe, rtol=1e-6, atol=1e-9)


def check_counts(counts, expected, trials, what):
    """Assert that counts are as expected, within six standard deviations."""
    for count, p in zip(counts, expected, strict=True):
        limit = 6 * math.sqrt(trials * p * (1 - p)) + 1
        assert abs(count - trials * p) <= limit, f"{what}: {count} of {trials} times, where about {trials * p:.0f} are due."


def check_list_of_ints(answer, n, what):
    """Assert that an answer is a list of ints from 0 to n − 1."""
    good = isinstance(answer, list) and all(type(i) is int for i in answer)
    assert good, f"{what} must be ints."
    assert all(0 <= i < n for i in answer), f"{what} must be in 0 … N − 1."


def check_batches(batches, lengths, max_tokens):
    """Assert that the batches of an epoch are as the statement says in 1 to 4."""
    assert isinstance(batches, list) and all(isinstance(batch, list) for batch in batches), "Each batch must be a list of ints."
    for batch in batches:
        check_list_of_ints(batch, len(lengths), "What is in a batch")
        assert batch, "A batch must not be empty."
    together = sorted(itertools.chain(*batches))
    assert together == list(range(len(lengths))), "Every index 0 … N − 1 must be in exactly one batch, once."
    longest = [max(lengths[i] for i in batch) for batch in batches]
    costs = [len(batch) * length for batch, length in zip(batches, longest, strict=True)]
    assert max(costs, default=0) <= max_tokens, f"A batch costs {max(costs, default=0)} tokens; the budget is {max_tokens}."
    # The cheapest pairs of batches: the longest length of both, with the fewest samples.
    order, fewest = sorted(range(len(batches)), key=longest.__getitem__), math.inf
    for b in order:
        both = (fewest + len(batches[b])) * longest[b]
        assert both > max_tokens, f"Two batches together would cost {both} tokens, with a budget of {max_tokens}: they must be one."
        fewest = min(fewest, len(batches[b]))
    if lengths:
        padding, most = sum(costs) - sum(lengths), max_tokens * math.log(max(lengths) / min(lengths))
        assert padding <= most + 1e-6, f"The padding of all batches is {padding} tokens; at most {most:.0f} may be."


def epochs_of(m, lengths, max_tokens, seed, epochs):
    """The batches of some epochs, asked for in this order."""
    sampler, out = m.LengthBatchSampler(lengths, max_tokens, seed=seed), []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        out.append(list(sampler))
    return out


def packed(epochs):
    """Many epochs as one tensor, which travels faster than lists: -1 behind each batch, -2 behind each epoch."""
    return torch.tensor([i for batches in epochs for i in (*(i for batch in batches for i in (*batch, -1)), -2)], dtype=torch.int64)


def unpacked(answer):
    """The epochs in what `packed` gave."""
    good = isinstance(answer, torch.Tensor) and answer.dtype == torch.int64 and answer.dim() == 1 and len(answer) < 20_000
    assert good, "The batches must be lists of ints."
    epochs, batches, batch = [], [], []
    for i in answer.tolist():
        if i == -2:
            epochs.append(batches)
            batches = []
        elif i == -1:
            batches.append(batch)
            batch = []
        else:
            batch.append(i)
    return epochs


def drawn_lengths(draw, n, low=1, high=50):
    """Lengths of n samples."""
    return draw.integers(low, high + 1, n).tolist()


def check_epochs(answer, count, lengths, max_tokens):
    """Assert that an answer is `count` epochs, each of them right."""
    assert isinstance(answer, list) and len(answer) == count, "There must be as many epochs as were asked for."
    for batches in answer:
        check_batches(batches, lengths, max_tokens)


@task("LengthBatchSampler")
class TestLengthBatchSampler:
    @pytest.mark.parametrize(
        ("n", "low", "high", "max_tokens"),
        [(203, 1, 50, 50), (203, 1, 50, 400), (97, 7, 9, 100), (1, 3, 40, 40), (2, 1, 60, 200), (500, 2, 300, 1000), (61, 5, 5, 23)],
    )
    def test_every_promise(self, student, draw, n, low, high, max_tokens):
        """Every index once, the budget kept, no two batches that fit into one, little padding: for few samples and many."""
        lengths, more, seed = drawn_lengths(draw, n, low, high), drawn_lengths(draw, draw.integer(30, 230)), draw.seed()
        answer = student(lambda m: [epochs_of(m, lengths, max_tokens, seed, (0, 1)), epochs_of(m, more, 90, seed, (1,))], like=None)
        check_epochs(answer[0], 2, lengths, max_tokens)
        check_epochs(answer[1], 1, more, 90)

    @pytest.mark.parametrize("kind", ["most", "huge", "falling"])
    def test_uneven_lengths(self, student, draw, kind):
        """The promises hold where most lengths are 1, or every sample fills a batch, or the lengths come sorted."""
        lengths, seed, budget = drawn_lengths(draw, draw.integer(100, 300), 60, 100), draw.seed(), 110 if kind == "huge" else 500
        if kind == "most":
            lengths = [length if i % 10 == 0 else 1 for i, length in enumerate(lengths)]
        elif kind == "falling":
            lengths = sorted(lengths, reverse=True)
        check_epochs(student(lambda m: epochs_of(m, lengths, budget, seed, (3,)), like=None), 1, lengths, budget)

    def test_exact_fit(self, student, draw):
        """A batch may cost exactly max_tokens: with samples of a third of the budget, all batches are threes."""
        k, n, seed = draw.integer(3, 1000), 3 * draw.integer(2, 300), draw.seed()
        batches = student(lambda m: epochs_of(m, [k] * n, 3 * k, seed, (0,))[0], like=None)
        check_batches(batches, [k] * n, 3 * k)
        assert all(len(batch) == 3 for batch in batches), "Three samples of a third of the budget fit into one batch."

    def test_len(self, student, draw):
        """Len is the number of batches, before, during and after the iteration."""
        lengths, seed = drawn_lengths(draw, 83), draw.seed()

        def probe(m):
            sampler = m.LengthBatchSampler(lengths, 120, seed=seed)
            before = len(sampler)
            iterator = iter(sampler)
            first = next(iterator)
            during = len(sampler)
            return [first, *iterator], [before, during, len(sampler)]

        batches, sizes = student(probe, like=None)
        check_batches(batches, lengths, 120)
        assert all(type(size) is int for size in sizes), "len(sampler) must be an int."
        assert min(sizes) >= len(batches), "len(sampler) must be the number of batches; it is less."
        assert max(sizes) <= len(batches), "len(sampler) must be the number of batches; it is more."

    @pytest.mark.parametrize("zero", [True, False], ids=["zero", "drawn"])
    def test_seed_and_epoch_decide(self, student, draw, zero):
        """The same seed, 0 too, and epoch give the same batches in the same order, whatever came before; epoch 0 is the first."""
        lengths, seed, states = drawn_lengths(draw, 90, 1, 20), 0 if zero else draw.seed(), [draw.seed(), draw.seed()]

        def probe(m):
            fresh, out = m.LengthBatchSampler(lengths, 60, seed=seed), []
            for state in states:
                torch.manual_seed(state)
                random.seed(state)
                out += epochs_of(m, lengths, 60, seed, (2, 0, 1))
            default = m.LengthBatchSampler(lengths, 60) if zero else m.LengthBatchSampler(lengths, 60, seed=seed)
            return [*out, list(fresh), list(fresh), list(default)]

        answer = student(probe, like=None)
        check_epochs(answer, 9, lengths, 60)
        assert answer[:3] == answer[3:6], "The same seed and epoch must give the same batches, whatever the global generators' states."
        assert answer[1] == answer[6] == answer[8], "Before set_epoch it is epoch 0, which has the same batches whatever came before."
        assert answer[6] == answer[7], "Iterating again in an epoch must give the same."

    def test_epochs_and_seeds_differ(self, student, draw):
        """Other epochs and other seeds give other orders."""
        lengths, seeds = drawn_lengths(draw, 90, 1, 20), [0, draw.seed(), draw.seed()]
        answer = student(lambda m: [b for seed in seeds for b in epochs_of(m, lengths, 60, seed, range(4))], like=None)
        check_epochs(answer, 12, lengths, 60)
        assert len({str(batches) for batches in answer}) == 12, "Every epoch and every seed must have an order of its own."

    def test_order_of_the_batches(self, student, draw):
        """The longest sample's batch comes at any place, each equally likely, and so does the shortest one's."""
        order, seed = draw.permutation(12).tolist(), draw.seed()
        lengths = [[10, 10, 10, 20, 20, 20, 30, 30, 40, 50, 60, 70][i] for i in order]
        answer = unpacked(student(lambda m: packed(epochs_of(m, lengths, 70, seed, range(240))), like=None))
        check_epochs(answer, 240, lengths, 70)
        for i in lengths.index(70), lengths.index(10):
            places = [next(p for p, batch in enumerate(batches) if i in batch) for batches in answer]
            ends = [places.count(0), sum(p == len(batches) - 1 for p, batches in zip(places, answer, strict=True))]
            check_counts(ends, [1 / len(answer[0])] * 2, 240, "The batch of the longest or shortest sample came first or last in an epoch")

    def test_every_order_is_equally_likely(self, student, draw):
        """Three batches come in each of six orders about equally often."""
        order, seed = draw.permutation(3).tolist(), draw.seed()
        lengths, more = [[4, 7, 9][i] for i in order], drawn_lengths(draw, draw.integer(30, 430))
        answer, other = student(
            lambda m: [packed(epochs_of(m, lengths, 10, seed, range(600))), epochs_of(m, more, 90, seed, (0,))], like=None
        )
        answer = unpacked(answer)
        check_epochs(answer, 600, lengths, 10)
        check_epochs(other, 1, more, 90)
        counts = [0] * 6
        orders = list(itertools.permutations(range(3)))
        for batches in answer:
            counts[orders.index(tuple(batch[0] for batch in batches))] += 1
        # Binomial(600, 1/6): 100 ± 9.1.
        assert min(counts) >= 45 and max(counts) <= 155, f"Of 600 epochs, each order of three batches must come about 100 times: {counts}."

    def test_equal_lengths_are_shuffled(self, student, draw):
        """Which samples of one length go together changes from epoch to epoch: each pair about equally often."""
        length, seed = draw.integer(5, 1000), draw.seed()
        lengths, more = [length] * 6, drawn_lengths(draw, draw.integer(30, 430))
        answer, other = student(
            lambda m: [packed(epochs_of(m, lengths, 2 * length, seed, range(450))), epochs_of(m, more, 90, seed, (0,))], like=None
        )
        answer = unpacked(answer)
        check_epochs(answer, 450, lengths, 2 * length)
        check_epochs(other, 1, more, 90)
        counts = dict.fromkeys(itertools.combinations(range(6), 2), 0)
        for batch in itertools.chain(*answer):
            counts[tuple(sorted(batch))] += 1
        # Each of 15 pairs is together in a fifth of the epochs: 90 ± 8.5.
        fair = min(counts.values()) >= 38 and max(counts.values()) <= 142
        assert fair, "Of six samples of equal length, each two must be in one batch about equally often."

    def test_in_a_loader(self, student, draw):
        """A DataLoader takes it as batch_sampler."""
        lengths, seed = drawn_lengths(draw, 40), draw.seed()
        values = draw.normal(40)

        def probe(m):
            sampler = m.LengthBatchSampler(lengths, 100, seed=seed)
            loader = DataLoader(values, batch_sampler=sampler)
            return list(sampler), list(loader), len(loader)

        batches, loaded, length = student(probe, like=None)
        check_batches(batches, lengths, 100)
        right = isinstance(loaded, list) and length == len(batches) == len(loaded)
        right = right and all(torch.equal(x, values[batch]) for x, batch in zip(loaded, batches, strict=True))
        assert right, "DataLoader(data, batch_sampler=sampler) must give the batches of the sampler."

    def test_lengths_are_copied(self, student, draw):
        """Changing the list of lengths later doesn't reach the sampler."""
        lengths, seed = drawn_lengths(draw, draw.integer(40, 200)), draw.seed()

        def probe(m):
            own = list(lengths)
            sampler = m.LengthBatchSampler(own, 100, seed=seed)
            first = list(sampler)
            own.reverse()
            own.pop()
            return [first, list(sampler)]

        answer = student(probe, like=None)
        check_epochs(answer, 2, lengths, 100)
        assert answer[0] == answer[1], "Later changes of the list must not reach the sampler."

    def test_lengths_are_checked(self, student, draw):
        """A length of 0, a negative one, or one above max_tokens is a ValueError at once; one of max_tokens is not; none at all neither."""
        lengths, seed = [*drawn_lengths(draw, 20, 1, 30), 30, 1], draw.seed()

        def probe(m):
            wrong = [[*lengths, bad] for bad in (0, -1, 31)]
            errors = [raised(ValueError, lambda x=x: m.LengthBatchSampler(x, 30)) for x in wrong]
            empty = m.LengthBatchSampler([], 30, seed=seed)
            return errors, epochs_of(m, lengths, 30, seed, (0,))[0], list(empty), len(empty)

        errors, batches, nothing, zero = student(probe, like=None)
        check_batches(batches, lengths, 30)
        for ending, kind in zip(errors, ("of zero", "below zero", "above max_tokens"), strict=True):
            assert ending == Ending("ValueError"), f"A length {kind} must raise a ValueError in the constructor."
        assert nothing == [] and type(zero) is int and zero == 0, "Without samples there are no batches."


def draws_of(m, weights, count, **settings):
    """What a sampler gives in its first epoch."""
    return list(m.WeightedSampler(weights, count, **settings))


def drawn_weights(draw):
    """Seven weights in random order, two of them 0."""
    return torch.tensor([0.0, 1.0, 2.0, 4.0, 0.0, 8.0, 1.5])[draw.permutation(7)]


def sparse_weights(draw, n, **how):
    """Weights of n indices, of which about half are 0; those from the 40th on all count."""
    weights = draw.uniform(n, low=0.5, **how) * draw.bools(n)
    return torch.where(torch.arange(n) < 40, weights, 1.0)


def check_draws(answer, n, count):
    """Assert that an answer is `count` ints below n."""
    check_list_of_ints(answer, n, "The draws")
    assert len(answer) == count, f"There must be {count} draws, not {len(answer)}."


@task("WeightedSampler")
class TestWeightedSampler:
    @pytest.mark.parametrize("scale", [1.0, 1e-30, 1e29, 0.07])
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_frequencies(self, student, draw, dtype, scale):
        """Of 20,000 draws, each index gets its share, whatever the weights add up to; one of weight 0 is never drawn."""
        weights, seed = (drawn_weights(draw).double() * scale).to(dtype), draw.seed()
        answer = student(lambda m: torch.tensor(draws_of(m, weights, 20_000, seed=seed)), within=(0, 6))
        p = (weights.double() / weights.double().sum()).tolist()
        check_counts(answer.bincount(minlength=7).tolist(), p, 20_000, "An index was drawn")

    def test_draws_are_independent(self, student, draw):
        """Neighbours, and draws far apart, are equal as often as chance has it: the draws are not sorted."""
        weights, seed = drawn_weights(draw), draw.seed()
        x = student(lambda m: torch.tensor(draws_of(m, weights, 12_000, seed=seed)), within=(0, 6))
        p = weights.double() / weights.double().sum()
        check_counts(x.bincount(minlength=7).tolist(), p.tolist(), 12_000, "An index was drawn")
        for a, b in ((x[::2], x[1::2]), (x[:6000], x[6000:])):
            check_counts([int((a == b).sum())], [float(p.square().sum())], 6000, "Two draws are equal")

    def test_weights_far_apart(self, student, draw):
        """Weights of 1e30 leave no chance to one of 1e-30; without replacement the small ones come last."""
        order, seed = draw.permutation(6), draw.seed()
        weights = torch.empty(6, dtype=F64)
        weights[order] = torch.tensor([1e30, 1e30, 1e30, 1e8, 1e-12, 1e-30], dtype=F64)

        def probe(m):
            return draws_of(m, weights, 50, seed=seed), draws_of(m, weights, 6, replacement=False, seed=seed)

        many, once = student(probe, like=None)
        check_draws(many, 6, 50)
        check_draws(once, 6, 6)
        assert set(many) <= set(order[:3].tolist()), "An index of weight 1e-30 beside others of 1e30 is not drawn."
        assert once[3:] == order[3:].tolist() and set(once[:3]) == set(order[:3].tolist()), "The largest weights must be drawn first."

    def test_without_replacement(self, student, draw):
        """Each index at most once, one of weight 0 never; if all others are drawn, each is there."""
        weights, seed = drawn_weights(draw), draw.seed()
        answers = student(lambda m: [draws_of(m, weights, k, replacement=False, seed=seed + k) for k in (0, 1, 4, 5)], like=None)
        for answer, k in zip(answers, (0, 1, 4, 5), strict=True):
            check_draws(answer, 7, k)
            assert len(set(answer)) == k, "Without replacement, no index is drawn twice."
            assert all(weights[i] > 0 for i in answer), "An index of weight 0 is never drawn."

    def test_one_after_another(self, student, draw):
        """Of three with weights 1, 2, 5, each order of two comes as often as drawing one after another from what is left gives it."""
        order, seed = draw.permutation(3), draw.seed()
        weights = torch.tensor([1.0, 2.0, 5.0])[order]

        def probe(m):
            sampler, out = m.WeightedSampler(weights, 2, replacement=False, seed=seed), []
            for epoch in range(700):
                sampler.set_epoch(epoch)
                out.append(list(sampler))
            return torch.tensor(out)

        answer = student(probe, within=(0, 2))
        pairs = list(itertools.permutations(range(3), 2))
        counts = dict.fromkeys(pairs, 0)
        for pair in answer.tolist():
            assert pair[0] != pair[1], "Without replacement, no index is drawn twice."
            counts[tuple(pair)] += 1
        w = weights.tolist()
        due = [w[a] / 8 * w[b] / (8 - w[a]) for a, b in pairs]
        check_counts(counts.values(), due, 700, "Two indices came in one order")

    def test_many_without_replacement(self, student, draw):
        """Of 900 indices with weights 1, 3 and 9, the first draws have the shares of the weights, and 500 draws those that are left."""
        order, seed = draw.permutation(900), draw.seed()
        weights = torch.tensor([1.0, 3.0, 9.0]).repeat(300)[order]
        answer = student(lambda m: draws_of(m, weights, 500, replacement=False, seed=seed), like=None)
        check_draws(answer, 900, 500)
        assert len(set(answer)) == 500, "Without replacement, no index is drawn twice."
        kinds = weights[torch.tensor(answer)]
        check_counts([int((kinds[:60] == w).sum()) for w in (1, 3, 9)], [1 / 13, 3 / 13, 9 / 13], 60, "Among the first 60, a weight came")
        low, high = 0.0, 10.0  # the time t at which 500 of 900 clocks with these rates have rung
        for _ in range(60):
            t = (low + high) / 2
            low, high = (t, high) if sum(300 * (1 - math.exp(-w * t)) for w in (1, 3, 9)) < 500 else (low, t)
        for w in 1, 3, 9:
            check_counts([int((kinds == w).sum())], [1 - math.exp(-w * t)], 300, f"An index of weight {w} was drawn")

    @pytest.mark.parametrize("replacement", [True, False])
    def test_seed_and_epoch_decide(self, student, draw, replacement):
        """The same seed and epoch give the same draws again, whatever the global state; others give others; epoch 0 is the first."""
        weights, seed, other = sparse_weights(draw, 90), draw.seed(), draw.seed()

        def probe(m):
            out = []
            for state, s in ((1, seed), (2, seed), (1, 0), (2, 0), (1, other)):
                torch.manual_seed(state)
                random.seed(state)
                sampler = m.WeightedSampler(weights, 40, replacement=replacement, seed=s)
                out.append(list(sampler))
                for epoch in (1, 0, 2):
                    sampler.set_epoch(epoch)
                    out.append(list(sampler))
            return [*out, draws_of(m, weights, 40, replacement=replacement)]

        answer = student(probe, like=None)
        assert isinstance(answer, list) and len(answer) == 21, "There must be an iteration for each epoch."
        for draws in answer:
            check_draws(draws, 90, 40)
            assert all(weights[i] > 0 for i in draws), "An index of weight 0 is never drawn."
        runs = [answer[i : i + 4] for i in range(0, 20, 4)]
        assert runs[0] == runs[1] and runs[2] == runs[3], "The same seed and epoch must give the same draws again."
        assert all(run[0] == run[2] for run in runs) and answer[20] == runs[2][0], "Before set_epoch it is epoch 0, and the seed is 0."
        different = {str(draws) for run in runs[::2] for draws in run[1:]}
        assert len(different) == 9, "Other epochs and other seeds must give other draws."

    def test_weights_are_copied(self, student, draw):
        """Changing the tensor of weights later doesn't reach the sampler; it may lie in memory in any way, and len is num_samples."""
        weights, seed = sparse_weights(draw, 60), draw.seed()
        wide = torch.stack([weights, 1 - weights], 1)

        def probe(m):
            own = wide.clone()[:, 0]
            double = own.double()
            sampler, doubles = m.WeightedSampler(own, 200, seed=seed), m.WeightedSampler(double, 200, seed=seed)
            first = list(sampler)
            own.copy_(own == 0)
            double.copy_(double == 0)
            return first, list(sampler), len(sampler), list(doubles)

        first, second, length, third = student(probe, like=None)
        for draws in (first, second, third):
            check_draws(draws, 60, 200)
            assert all(weights[i] > 0 for i in draws), "An index of weight 0 is never drawn."
        assert first == second, "Later changes of the tensor must not reach the sampler."
        assert type(length) is int and length == 200, "len(sampler) is num_samples."
        assert len(set(first)) > 10, "Every index with a weight must have its chance."

    def test_more_draws_than_weights(self, student, draw):
        """One index, or all others of weight 0, is drawn again and again with replacement."""
        k, seed = draw.integer(0, 500), draw.seed()
        weights = torch.zeros(501)
        weights[k] = 0.3

        def probe(m):
            return (
                draws_of(m, weights, 70, seed=seed),
                draws_of(m, weights[k : k + 1], 3, seed=seed),
                draws_of(m, weights, 1, replacement=False),
            )

        many, one, once = student(probe, like=None)
        assert [many, one, once] == [[k] * 70, [0] * 3, [k]], "Only the index with a weight above 0 can be drawn."

    def test_wrong_arguments_are_refused(self, student, draw):
        """Negative, infinite or NaN weights, nothing to draw from, too many draws without replacement, or fewer than 0: a ValueError."""
        weights, seed = drawn_weights(draw), draw.seed()
        wrong = []
        for bad in (-0.5, math.inf, math.nan, -math.inf):
            wrong.append(weights.clone())
            wrong[-1][draw.integer(0, 7)] = bad

        def probe(m):
            f = m.WeightedSampler
            errors = [raised(ValueError, lambda w=w, r=r: f(w, 3, replacement=r)) for w in wrong for r in (True, False)]
            errors += [raised(ValueError, lambda r=r: f(weights * 0, 1, replacement=r)) for r in (True, False)]
            errors += [raised(ValueError, lambda k=k: f(weights, k, replacement=False)) for k in (6, 7, 8, -1)]
            errors += [raised(ValueError, lambda: f(weights, -1))]
            empty = [draws_of(m, weights * zero, 0, replacement=r) for zero in (0, 1) for r in (True, False)]
            return errors, empty, draws_of(m, weights, 5, replacement=False, seed=seed)

        errors, empty, good = student(probe, like=None)
        check_draws(good, 7, 5)
        assert sorted(good) == weights.nonzero().flatten().tolist(), "All that have a weight can be drawn without replacement."
        kinds = ["a negative weight"] * 2 + ["an infinite or NaN weight"] * 6 + ["weights of nothing but zero"] * 2
        kinds += ["too many draws without replacement"] * 3 + ["a negative number of draws"] * 2
        for ending, kind in zip(errors, kinds, strict=True):
            assert ending == Ending("ValueError"), f"There must be a ValueError at once for {kind}."
        assert empty == [[]] * 4, "No draws are asked for, so there are none, whatever the weights."


class Counted:
    """An iterable that counts what is taken from it; endless unless `end` says where it ends."""

    def __init__(self, offset, end=None):
        self.offset, self.end, self.taken, self.passes = offset, end, 0, 0

    def __iter__(self):
        self.passes += 1
        while self.taken != self.end:
            if self.taken == 1000:
                raise RuntimeError("the stream has no end")
            self.taken += 1
            yield self.offset + self.taken - 1


def endless(start):
    """The numbers from `start` on. It stands for a stream without an end, and says so when much more than needed is taken."""
    yield from range(start, start + 1000)
    raise RuntimeError("the stream has no end")


@task("shard_stream")
class TestShardStream:
    @pytest.mark.parametrize("even", [False, True])
    @pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (1, 3), (3, 1), (2, 3), (3, 2), (5, 4)])
    def test_every_reader(self, agree, draw, world_size, num_workers, even):
        """Each reader gets every R-th item from its own number on, in order; with `even`, only those of whole rounds."""
        streams = [draw.integers(0, 10**9, n).tolist() for n in (23, 24, 4, 1, 0)]

        def probe(m):
            readers = [
                {"worker_id": w, "num_workers": num_workers, "rank": r, "world_size": world_size}
                for r in range(world_size)
                for w in range(num_workers)
            ]
            return [[list(m.shard_stream(stream, **reader, even=even)) for reader in readers] for stream in streams]

        agree(probe, rtol=0, atol=0)

    def test_defaults(self, agree, draw):
        """One reader alone gets everything; even is off unless it is asked for; what comes back is an iterator."""
        stream = draw.integers(0, 10**9, 11).tolist()

        def probe(m):
            uneven = m.shard_stream(stream, num_workers=4, worker_id=2)
            return (
                next(m.shard_stream(stream)),
                list(m.shard_stream(stream)),
                list(m.shard_stream(stream, even=True)),
                list(uneven),
                list(m.shard_stream(stream, world_size=2)),
            )

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("even", [False, True])
    def test_any_iterable(self, agree, draw, even):
        """Generators, sets of keys and tensors are streams too, and items may be anything, None and False too."""
        numbers, x = draw.integers(0, 10**9, 8).tolist(), draw.normal(7, 3)
        odd = [None, False, 0, "", numbers[0], None, 0.0, []]

        def probe(m):
            sources = [iter(numbers), (n for n in numbers), dict.fromkeys(numbers), x, odd, map(str, numbers)]
            return [list(m.shard_stream(source, worker_id=1, num_workers=3, even=even)) for source in sources]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("even", [False, True])
    def test_endless_streams(self, agree, draw, even):
        """A stream without an end gives its items one by one."""
        start = draw.integer(0, 10**9)

        def probe(m):
            shards = [m.shard_stream(endless(start), worker_id=w, num_workers=2, rank=1, world_size=2, even=even) for w in (1, 0)]
            return [next(shards[i % 2]) for i in range(9)]

        agree(probe, rtol=0, atol=0)

    @measured("calls")
    @pytest.mark.parametrize("even", [False, True])
    def test_takes_no_more_than_it_needs(self, agree, draw, even):
        """Before it gives an item, it has taken the items up to that one, with `even` up to the end of its round; in a single pass."""
        offset = draw.integer(0, 10**9)

        def probe(m):
            out = []
            for reader, end in (0, None), (2, None), (4, 23):
                source = Counted(offset, end)
                shard = m.shard_stream(source, worker_id=reader, num_workers=5, even=even)
                out += [(item, source.taken) for item in itertools.islice(shard, 4)]
                out.append(source.passes)
            return out

        agree(probe, rtol=0, atol=0)

    def test_wrong_readers_are_refused_at_the_call(self, agree, draw):
        """A worker or process that isn't there is a ValueError before any item is asked for; nothing is taken from the source then."""
        numbers = draw.integers(0, 10**9, 9).tolist()
        wrong = [(2, 2, 0, 1), (-1, 2, 0, 1), (0, 0, 0, 1), (0, 1, 3, 3), (0, 1, -1, 3), (0, 1, 0, 0), (1, 1, 0, 2), (0, 2, 1, 1)]

        def probe(m):
            source, out = iter(numbers), []
            for even in (False, True):
                for w, n, r, k in wrong:
                    settings = {"worker_id": w, "num_workers": n, "rank": r, "world_size": k, "even": even}
                    out.append(raised(ValueError, lambda s=settings: m.shard_stream(source, **s)))
                    out.append(raised(ValueError, lambda s=settings: list(m.shard_stream((), **s))))
            return out, list(m.shard_stream(source, worker_id=1, num_workers=2, rank=0, world_size=1))

        agree(probe, rtol=0, atol=0)


def generator(seed):
    """A generator with this seed."""
    return torch.Generator().manual_seed(seed)


def check_shuffled(answer, stream, size):
    """Assert that an answer holds the items of a stream of ints, none before it could be in the buffer."""
    assert isinstance(answer, list) and all(type(item) is int for item in answer), "The items must come as they are."
    assert sorted(answer) == sorted(stream), "Every item of the stream must come out exactly once."
    place = {item: i for i, item in enumerate(stream)}
    early = next((k for k, item in enumerate(answer) if place[item] >= k + size), None)
    assert early is None, f"With a buffer of {size}, item {place[answer[early]]} of the stream can't come out as number {early}."


def drawn_stream(draw, n):
    """N different numbers."""
    return (draw.permutation(n) + draw.integer(0, 10**9)).tolist()


@task("shuffle_buffer")
class TestShuffleBuffer:
    @pytest.mark.parametrize(("n", "size"), [(50, 7), (50, 49), (50, 50), (50, 400), (7, 2), (1, 1), (1, 5), (0, 3)])
    def test_every_item_once(self, student, draw, n, size):
        """All items come out, each once, none before the buffer could hold it; the source may be any iterable."""
        stream, more, seed = drawn_stream(draw, n), drawn_stream(draw, 9), draw.seed()

        def probe(m):
            sources = stream, iter(stream), (i for i in stream), more
            return [list(m.shuffle_buffer(source, size, generator=generator(seed))) for source in sources]

        answers = student(probe, like=None)
        for answer, due in zip(answers, (stream, stream, stream, more), strict=True):
            check_shuffled(answer, due, size)
        assert answers[0] == answers[1] == answers[2], "The same state of the generator must give the same order."

    def test_a_buffer_of_one(self, student, draw):
        """A buffer of 1 keeps the order, and one of 2 does not."""
        stream, seed = drawn_stream(draw, 60), draw.seed()
        answers = student(lambda m: [list(m.shuffle_buffer(stream, size, generator=generator(seed))) for size in (1, 2)], like=None)
        check_shuffled(answers[0], stream, 1)
        check_shuffled(answers[1], stream, 2)
        assert answers[0] == stream and answers[1] != stream, "A buffer of 1 keeps the order; a larger one shuffles."

    def test_generator_decides(self, student, draw):
        """The same state gives the same order, whatever the global state; a generator used again, or another seed, gives another."""
        stream, seed, states = drawn_stream(draw, 40), draw.seed(), [draw.seed(), draw.seed()]

        def probe(m):
            out = []
            for state, s in ((states[0], seed), (states[1], seed), (states[0], 0), (states[1], 0)):
                torch.manual_seed(state)
                random.seed(state)
                random_numbers = generator(s)
                out += [list(m.shuffle_buffer(stream, 9, generator=random_numbers)) for _ in range(3)]
            return out

        answers = student(probe, like=None)
        for answer in answers:
            check_shuffled(answer, stream, 9)
        assert answers[:3] == answers[3:6] and answers[6:9] == answers[9:], "The same state of the generator must give the same order."
        assert len({str(answer) for answer in answers}) == 6, (
            "A generator that is used again, or has another seed, must give another order."
        )

    @pytest.mark.parametrize("size", [3, 8])
    def test_all_orders_of_a_full_buffer(self, student, draw, size):
        """If the buffer holds all three items, each of the six orders is equally likely."""
        stream, seed = drawn_stream(draw, 3), draw.seed()

        def probe(m):
            random_numbers = generator(seed)
            return torch.tensor([list(m.shuffle_buffer(stream, size, generator=random_numbers)) for _ in range(600)])

        orders = dict.fromkeys(itertools.permutations(stream), 0)
        for answer in student(probe).tolist():
            check_shuffled(answer, stream, size)
            orders[tuple(answer)] += 1
        # Binomial(600, 1/6): 100 ± 9.1.
        fair = min(orders.values()) >= 45 and max(orders.values()) <= 155
        assert fair, f"Of 600 shuffles of three items, each order must come about 100 times: {sorted(orders.values())}."

    def test_chances_in_the_stream(self, student, draw):
        """Each place of the buffer has the same chance each time, that of a newcomer included."""
        stream, seed = drawn_stream(draw, 9), draw.seed()

        def probe(m):
            random_numbers = generator(seed)
            return torch.tensor([list(m.shuffle_buffer(stream, 4, generator=random_numbers)) for _ in range(600)])

        firsts, newcomers, waits, lasts = [0] * 4, 0, 0, 0
        for answer in student(probe).tolist():
            check_shuffled(answer, stream, 4)
            places = [stream.index(item) for item in answer]
            firsts[places[0]] += 1
            newcomers += places[1] == 4  # it is one of four
            waits += 0 not in places[:5]  # item 0 is left over five times
            lasts += places[8] == 8  # after six items the last one is in the buffer, and is left over three times
        check_counts(firsts, [0.25] * 4, 600, "An item came first")
        check_counts([newcomers], [0.25], 600, "The item that has just come in came out next")
        check_counts([waits], [0.75**5], 600, "The first item waited for five others")
        check_counts([lasts], [0.25], 600, "The last item came last")

    @measured("calls")
    @pytest.mark.parametrize(("end", "size"), [(None, 6), (None, 1), (11, 6), (4, 6)])
    def test_memory_is_bounded(self, student, draw, end, size):
        """When item number k comes out, size + k − 1 or size + k have been taken, fewer only at the end; the stream may be endless."""
        offset, seed = draw.integer(0, 10**9), draw.seed()

        def probe(m):
            source = Counted(offset, end)
            items = m.shuffle_buffer(source, size, generator=generator(seed))
            return [(item, source.taken) for item in itertools.islice(items, 30)], source.passes

        pairs, passes = student(probe)
        items, taken = [item - offset for item, _ in pairs], [count for _, count in pairs]
        assert passes == 1, "The source must be iterated over once."
        assert len(set(items)) == len(items) and all(0 <= item < k + size for k, item in enumerate(items)), (
            "Items must come from the buffer."
        )
        for k, count in enumerate(taken, 1):
            least, most = (min(size + k - extra, end or math.inf) for extra in (1, 0))
            assert least <= count <= most, f"With a buffer of {size}, {count} items had been taken when number {k} came out."

    def test_items_may_be_anything(self, student, draw):
        """None, equal items and tensors, which can't be compared, go through as they are."""
        x, seed = draw.normal(12, 2), draw.seed()
        odd, equal = [1, "", 2, False, None, 3, []], [4, 5, 4, 5, 5, 4, 4]

        def probe(m):
            tensors = torch.stack(list(m.shuffle_buffer(list(x), 5, generator=generator(seed))))
            names = [repr(item) for item in m.shuffle_buffer(odd, 3, generator=generator(seed))]
            return tensors, names, list(m.shuffle_buffer(equal, 3, generator=generator(seed)))

        tensors, names, equals = student(probe, like=None)
        assert isinstance(tensors, torch.Tensor) and tensors.shape == x.shape, "Every tensor of the stream must come out once."
        assert torch.equal(x[x[:, 0].argsort()], tensors[tensors[:, 0].argsort()]), "Every tensor of the stream must come out once."
        assert not torch.equal(x, tensors), "The stream must be shuffled."
        assert sorted(names) == sorted(repr(item) for item in odd), "None, False and empty items must come out as others do."
        assert sorted(equals) == sorted(equal), "Equal items must come out as often as they came in."

    def test_two_at_once(self, student, draw):
        """Two shuffles that are asked in turns have a buffer each."""
        streams, seed = [drawn_stream(draw, 20), drawn_stream(draw, 20)], draw.seed()

        def probe(m):
            shuffled = [m.shuffle_buffer(stream, 4, generator=generator(seed + i)) for i, stream in enumerate(streams)]
            return [list(items) for items in zip(*zip(*shuffled, strict=True), strict=True)]

        for answer, stream in zip(student(probe, like=None), streams, strict=True):
            check_shuffled(answer, stream, 4)

    def test_sizes_are_checked_at_the_call(self, student, draw):
        """A size below 1 is a ValueError before any item is asked for."""
        stream, seed = drawn_stream(draw, 12), draw.seed()

        def probe(m):
            source = iter(stream)
            errors = [raised(ValueError, lambda s=s: list(m.shuffle_buffer([], s, generator=generator(seed)))) for s in (0, -1)]
            errors += [raised(ValueError, lambda s=s: m.shuffle_buffer(source, s, generator=generator(seed))) for s in (0, -1, -5)]
            return errors, list(m.shuffle_buffer(source, 5, generator=generator(seed)))

        errors, answer = student(probe, like=None)
        check_shuffled(answer, stream, 5)
        assert errors[:2] == [Ending("ValueError")] * 2, "A size below 1 must raise a ValueError."
        assert errors[2:] == [Ending("ValueError")] * 3, "The ValueError must come at the call, not with the first item."


class Samples:
    """A dataset that has only len and indices, and can be made unreadable in part."""

    def __init__(self, values):
        self.values, self.lost = values, set()

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        if not 0 <= index < len(self.values) or index in self.lost:
            raise IndexError(f"sample {index} must not be read")
        return self.values[index]


def saved(state):
    """The state after a way through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def some(loader, count):
    """The first batches of an iteration that is then left."""
    return list(itertools.islice(loader, count))


def resumed(m, values, size, seed, before, inside, rest, **settings):
    """What a loader gives in `rest` epochs after a state was taken in its epoch `before`, after `inside` batches: unbroken, and resumed."""
    loader = m.ResumableLoader(values, size, seed=seed, **settings)
    for _ in range(before):
        list(loader)
    iterator = iter(loader)
    for _ in range(inside):
        next(iterator)
    state = saved(loader.state_dict())
    unbroken = [list(iterator)] + [list(loader) for _ in range(rest)]
    other = m.ResumableLoader(values, size, seed=seed, **settings)
    other.load_state_dict(state)
    return unbroken, [list(other) for _ in range(rest + 1)]


def check_epoch(batches, values, size, drop_last=False):
    """Assert that the batches of an epoch hold each sample once."""
    n = len(values)
    sizes = [size] * (n // size) + ([n % size] if n % size and not drop_last else [])
    good = isinstance(batches, list) and all(isinstance(x, torch.Tensor) and x.dtype == values.dtype for x in batches)
    assert good and [tuple(x.shape) for x in batches] == [(k, *values.shape[1:]) for k in sizes], f"The batches must have sizes {sizes}."
    if sizes:
        got, want = (torch.unique(x, dim=0, return_counts=True) for x in (torch.cat(batches), values))
        once = got[1].max() == 1 and (drop_last or torch.equal(got[0], want[0]))
        assert once and torch.isin(got[0], values).all(), "Every sample must come once in an epoch."


def same(a, b):
    """Whether two lists of batches are equal."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def check_resumed(answer, values, size, inside, drop_last=False):
    """Assert that two runs are equal, and right: the first epoch of each lacks `inside` batches."""
    unbroken, after = answer
    assert isinstance(unbroken, list) and isinstance(after, list) and len(unbroken) == len(after), "There must be as many epochs."
    for epoch in unbroken[1:]:
        check_epoch(epoch, values, size, drop_last)
    assert len(unbroken[0]) == len(unbroken[1]) - inside, "The rest of an epoch has the batches that were not given."
    skipped = inside and same(after[0], unbroken[1])
    assert not skipped, "The rest of the epoch must come first, before the next epoch."
    for i, (x, y) in enumerate(zip(unbroken, after, strict=True)):
        what = "The rest of the epoch" if i == 0 else "An epoch after the resumed one"
        assert same(x, y), (
            f"{what} must be that of an unbroken run: it has batches of {[len(b) for b in y]}, due are {[len(b) for b in x]}."
        )


def drawn_samples(draw, n):
    """N different samples."""
    return draw.permutation(n) + draw.integer(0, 10**9)


@task("ResumableLoader")
class TestResumableLoader:
    @pytest.mark.parametrize(("n", "size"), [(17, 5), (15, 5), (4, 9), (1, 1), (6, 1)])
    def test_epochs(self, student, draw, n, size):
        """Each epoch gives every sample once, in batches of the right sizes, without the last short one if asked; len counts them."""
        values, seed = drawn_samples(draw, n), draw.seed()

        def probe(m):
            loaders = [m.ResumableLoader(values, size, seed=seed, drop_last=drop_last) for drop_last in (False, True)]
            loaders.append(m.ResumableLoader(values, size))
            return [([len(loader), list(loader), list(loader), len(loader)]) for loader in loaders]

        for drop_last, (before, first, second, after) in zip((False, True, False), student(probe, like=None), strict=True):
            check_epoch(first, values, size, drop_last)
            check_epoch(second, values, size, drop_last)
            due = n // size + (n % size > 0 and not drop_last)
            assert [before, after] == [due, due] and type(after) is int, f"len(loader) must be {due}, the number of batches in an epoch."

    def test_collates(self, agree, draw):
        """Samples that are tuples or dicts are collated as default_collate does it."""
        x, y, seed = draw.normal(7, 2, 3), draw.integers(0, 100, 7).tolist(), draw.seed()

        def probe(m):
            out = []
            for samples in (list(zip(x, y, strict=True)), [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]):
                a, b = [], []
                for batch in m.ResumableLoader(Samples(samples), 3, seed=seed):
                    one, other = batch.values() if isinstance(batch, dict) else batch
                    a.append(one)
                    b.append(other)
                order = torch.cat(a).flatten(1)[:, 0].argsort()
                out.append((torch.cat(a)[order], torch.cat(b)[order], type(batch).__name__))
            return out

        agree(probe, rtol=0, atol=0)

    def test_orders(self, student, draw):
        """Seed and epoch decide the order, whatever the global state; other epochs and seeds have others; samples are in no fixed order."""
        values, seed = drawn_samples(draw, 30), draw.seed()

        def probe(m):
            out = []
            for state, s in ((1, seed), (2, seed), (1, 0), (2, 0), (1, seed + 1000)):
                torch.manual_seed(state)
                random.seed(state)
                loader = m.ResumableLoader(values, 4, seed=s)
                out.append([list(loader) for _ in range(3)])
            return [*out, [list(m.ResumableLoader(values, 4))]]

        runs = student(probe, like=None)
        for batches in itertools.chain(*runs):
            check_epoch(batches, values, 4)
        orders = [[torch.cat(batches).tolist() for batches in run] for run in runs]
        assert orders[0] == orders[1] and orders[2] == orders[3], "The same seed must give the same epochs, whatever the global state."
        assert orders[5][0] == orders[2][0], "The seed is 0 unless it is given."
        assert len({str(order) for run in (orders[0], orders[2], orders[4]) for order in run}) == 9, "Epochs and seeds must differ."
        assert all(order != values.tolist() for run in orders for order in run), "The order must be random."

    def test_every_sample_has_the_same_chance(self, student, draw):
        """Over 300 epochs each of five samples comes to each place about equally often."""
        values, seed = drawn_samples(draw, 5), draw.seed()

        def probe(m):
            loader = m.ResumableLoader(values, 5, seed=seed)
            return torch.stack([next(iter(loader)) for _ in range(300)])

        answer = student(probe)
        assert torch.equal(answer.sort(1).values, values.sort().values.expand(300, 5)), "Every sample must come once in an epoch."
        for place in answer.T:
            check_counts([int((place == v).sum()) for v in values], [0.2] * 5, 300, "A sample came to one place")

    @pytest.mark.parametrize(("before", "inside"), [(0, 0), (0, 1), (0, 3), (2, 2), (1, 0), (3, 5)])
    @pytest.mark.parametrize("drop_last", [False, True])
    def test_resumes(self, student, draw, before, inside, drop_last):
        """The rest of an epoch and the epochs after it equal those of an unbroken run, wherever the state was taken."""
        values, seed = drawn_samples(draw, 23), draw.seed()
        answer = student(lambda m: resumed(m, values, 4 - drop_last, seed, before, inside, 2, drop_last=drop_last), like=None)
        check_resumed(answer, values, 4 - drop_last, inside, drop_last)

    @pytest.mark.parametrize(("n", "size", "drop_last"), [(20, 5, False), (3, 1, True), (7, 7, False), (2, 5, False), (11, 3, True)])
    def test_state_after_the_last_batch(self, student, draw, n, size, drop_last):
        """Once the last batch was given, inside the loop or after it, the next epoch comes next, with no empty rest before it."""
        values, seed = drawn_samples(draw, n), draw.seed()

        def probe(m):
            loader = m.ResumableLoader(values, size, seed=seed, drop_last=drop_last)
            for _ in loader:
                inside = saved(loader.state_dict())
            after, out = saved(loader.state_dict()), []
            for state in (inside, after):
                other = m.ResumableLoader(values, size, seed=seed, drop_last=drop_last)
                other.load_state_dict(state)
                out.append([list(other) for _ in range(2)])
            return [list(loader) for _ in range(2)], *out

        unbroken, *others = student(probe, like=None)
        for batches in unbroken:
            check_epoch(batches, values, size, drop_last)
        for run in others:
            assert len(run) == 2 and same(run[0], unbroken[0]), "After the last batch, the state is that of the start of the next epoch."
            assert same(run[1], unbroken[1]), "An epoch after the resumed one must be that of an unbroken run."

    def test_resumed_twice(self, student, draw):
        """A state of a loader that was resumed itself counts the batches from the epoch's start; a break ends the epoch; len stays."""
        values, seed = drawn_samples(draw, 30), draw.seed()

        def probe(m):
            unbroken, first, second = (m.ResumableLoader(values, 4, seed=seed) for _ in range(3))
            epochs = [list(unbroken) for _ in range(3)]
            some(first, 2)
            second.load_state_dict(saved(first.state_dict()))
            lengths = [len(second)]
            pieces = some(second, 3)
            third = m.ResumableLoader(values, 4, seed=seed)
            third.load_state_dict(saved(second.state_dict()))
            lengths += [len(second), len(third)]
            return epochs, pieces, some(third, 2), list(third), list(second), lengths

        epochs, pieces, more, after, later, lengths = student(probe, like=None)
        assert lengths == [8] * 3, "len(loader) is the number of batches in a whole epoch, also where it resumes inside of one."
        for batches in epochs:
            check_epoch(batches, values, 4)
        assert same(pieces, epochs[0][2:5]), "A resumed loader goes on after the batches that were given."
        assert same(more, epochs[0][5:7]), "A state taken after resuming counts all batches of the epoch."
        assert same(after, epochs[1]) and same(later, epochs[1]), "A resumed iteration that is left early is over: the next epoch follows."

    def test_break_ends_the_epoch(self, student, draw):
        """After a loop that was left early, the next iteration begins the next epoch; and a state taken then stands in that one."""
        values, seed = drawn_samples(draw, 18), draw.seed()

        def probe(m):
            unbroken, loader, other = (m.ResumableLoader(values, 4, seed=seed) for _ in range(3))
            epochs = [list(unbroken) for _ in range(5)]
            left = [some(loader, count) for count in (2, 1, 5)]
            after = some(loader, 3)
            other.load_state_dict(saved(loader.state_dict()))
            return epochs, left, after, list(other), list(loader), list(other)

        epochs, left, after, rest, own, others = student(probe, like=None)
        for batches in epochs:
            check_epoch(batches, values, 4)
        for batches, epoch, count in zip(left, epochs, (2, 1, 5), strict=False):
            assert same(batches, epoch[:count]), "After a loop that was left early, the next iteration begins the next epoch."
        assert same(after, epochs[3][:3]) and same(rest, epochs[3][3:]), "The state must stand after the last batch that was given."
        assert same(own, epochs[4]) and same(others, epochs[4]), "After the rest of an epoch comes the next one."

    def test_states_are_snapshots(self, student, draw):
        """Later steps do not change a state; it can be loaded many times, into the loader that it came from, too, and stays as it is."""
        values, seed = drawn_samples(draw, 18), draw.seed()

        def probe(m):
            loader = m.ResumableLoader(values, 4, seed=seed)
            epoch = some(loader, 2)
            state = loader.state_dict()
            list(loader)
            some(loader, 3)
            rests = []
            for count in (5, 1, 2):
                loader.load_state_dict(state)
                rests.append(some(loader, count))
            return epoch + rests[0], rests[1:], list(loader), list(m.ResumableLoader(values, 4, seed=seed))

        epoch, rests, following, whole = student(probe, like=None)
        check_epoch(whole, values, 4)
        check_epoch(following, values, 4)
        assert same(epoch, whole), "A state goes back to where it was taken, though the loader has gone on since."
        assert same(rests[0], whole[2:3]) and same(rests[1], whole[2:4]), "A state can be loaded again and again."
        assert not same(following, whole), "After the resumed epoch comes the next one."

    def test_loads_within_an_iteration_that_was_left(self, student, draw):
        """Loading a state of an epoch's start, or one with no batch given, begins that epoch, whatever the loader did before."""
        values, seed = drawn_samples(draw, 18), draw.seed()

        def probe(m):
            loader = m.ResumableLoader(values, 4, seed=seed)
            start = saved(loader.state_dict())
            first = list(loader)
            second = saved(loader.state_dict())
            some(loader, 3)
            loader.load_state_dict(second)
            third = list(loader)
            loader.load_state_dict(start)
            some(loader, 1)
            return first, third, list(loader), list(loader)

        first, second, again, third = student(probe, like=None)
        for batches in (first, second, again, third):
            check_epoch(batches, values, 4)
        assert same(second, again) and not same(first, second), "A state of an epoch's start begins that epoch."
        assert not same(third, second) and not same(third, first), "Epochs must differ."

    @pytest.mark.parametrize("zero", [True, False], ids=["zero", "drawn"])
    def test_seed_of_the_state_counts(self, student, draw, zero):
        """The rest and the epochs after it follow the state's seed, 0 too, and so do states taken later."""
        values, seed = drawn_samples(draw, 18), 0 if zero else draw.seed()

        def probe(m):
            loader = m.ResumableLoader(values, 5, seed=seed)
            other, last = m.ResumableLoader(values, 5, seed=seed + 77), m.ResumableLoader(values, 5)
            some(loader, 2)
            other.load_state_dict(saved(loader.state_dict()))
            rest = list(other)
            last.load_state_dict(saved(other.state_dict()))
            unbroken = m.ResumableLoader(values, 5, seed=seed)
            return [list(unbroken) for _ in range(2)], rest, list(other), list(last)

        epochs, rest, following, last = student(probe, like=None)
        for batches in epochs:
            check_epoch(batches, values, 5)
        assert same(rest, epochs[0][2:]), "The rest of the epoch must follow the seed of the state."
        assert same(following, epochs[1]) and same(last, epochs[1]), "The epochs after it must follow the seed of the state, too."

    def test_reads_no_sample_twice(self, student, draw):
        """Batches before the place where it resumes are not read again."""
        values, seed = drawn_samples(draw, 21), draw.seed()

        def probe(m):
            loader = m.ResumableLoader(values, 4, seed=seed)
            given = some(loader, 3)
            numbers = {v: i for i, v in enumerate(values.tolist())}
            samples = Samples(values)
            samples.lost = {numbers[v] for v in torch.cat(given).tolist()}
            other = m.ResumableLoader(samples, 4, seed=seed)
            other.load_state_dict(loader.state_dict())
            return given + list(other)

        check_epoch(student(probe, like=None), values, 4)

    def test_reads_a_batch_when_it_is_asked_for(self, agree, draw):
        """Samples that change during an epoch come as they are when their batch is given."""
        values, seed, step = drawn_samples(draw, 12), draw.seed(), draw.integer(1, 10**6)

        def probe(m):
            samples, out = Samples(values.clone()), []
            loader = m.ResumableLoader(samples, 5, seed=seed)
            for batch in loader:
                out.append(batch - step * len(out))
                samples.values += step
            return torch.cat(out).sort().values

        agree(probe, rtol=0, atol=0)

    def test_a_sample_that_can_not_be_read(self, student, draw):
        """If a sample raises, its batch was not given: a state taken then resumes with it."""
        values, seed = drawn_samples(draw, 12), draw.seed()

        def probe(m):
            whole = list(m.ResumableLoader(values, 5, seed=seed))
            samples = Samples(values)
            samples.lost = {int((values == whole[1][2]).nonzero())}
            loader, other = m.ResumableLoader(samples, 5, seed=seed), m.ResumableLoader(values, 5, seed=seed)
            iterator = iter(loader)
            first = next(iterator)
            ending = raised(IndexError, lambda: next(iterator))
            other.load_state_dict(saved(loader.state_dict()))
            return whole, first, ending, list(other)

        whole, first, ending, rest = student(probe, like=None)
        check_epoch(whole, values, 5)
        assert ending == Ending("IndexError"), "The error of a sample reaches the caller."
        assert same([first, *rest], whole), "A batch that could not be read was not given: the state stands before it."

    @pytest.mark.parametrize("wrong", [{"batch_size": 4}, {"drop_last": True}, {"n": 17}, {"n": 19}], ids=str)
    def test_states_of_other_loaders_are_refused(self, student, draw, wrong):
        """Another batch_size, drop_last or number of samples is a ValueError, and the loader goes on as if nothing had happened."""
        values, more, seed = drawn_samples(draw, 18), drawn_samples(draw, 19), draw.seed()

        def probe(m):
            data = more[: wrong["n"]] if "n" in wrong else values
            other = m.ResumableLoader(data, wrong.get("batch_size", 5), seed=seed + 5, drop_last=wrong.get("drop_last", False))
            some(other, 1)
            loader = m.ResumableLoader(values, 5, seed=seed)
            iterator = iter(loader)
            batches = [next(iterator)]
            ending = raised(ValueError, lambda: loader.load_state_dict(other.state_dict()))
            batches += iterator
            unbroken = m.ResumableLoader(values, 5, seed=seed)
            after = some(loader, 2)
            endings = ending, raised(ValueError, lambda: loader.load_state_dict(other.state_dict()))
            return batches, after, list(loader), [list(unbroken) for _ in range(3)], list(endings)

        batches, after, last, epochs, endings = student(probe, like=None)
        for epoch in epochs:
            check_epoch(epoch, values, 5)
        assert endings == [Ending("ValueError")] * 2, "A state of a loader with other settings must raise a ValueError."
        assert same(batches, epochs[0]), "After a state was refused inside a loop, the loop goes on as if nothing had happened."
        assert same(after, epochs[1][:2]), "After a state was refused, the next epoch comes as if nothing had happened."
        assert same(last, epochs[2]), "After a loop that was left early, a refused state must not change that the next epoch follows."

    def test_wrong_batch_sizes(self, student, draw):
        """A batch_size below 1 is a ValueError; a dataset without samples has no batches."""
        values, seed = drawn_samples(draw, 7), draw.seed()

        def probe(m):
            errors = [raised(ValueError, lambda k=k: m.ResumableLoader(values, k)) for k in (0, -1)]
            empty = m.ResumableLoader(values[:0], 3, seed=seed)
            return errors, [len(empty), list(empty), list(empty)], list(m.ResumableLoader(values, 3, seed=seed))

        errors, empty, good = student(probe, like=None)
        check_epoch(good, values, 3)
        assert errors == [Ending("ValueError")] * 2, "A batch_size below 1 must raise a ValueError."
        assert empty == [0, [], []], "A dataset without samples has no batches."


@task("mixup")
class TestMixup:
    @pytest.mark.parametrize("shape", [*with_ones(5, 3, 4, 2), (6, 6, 6), (7, 3), (4, 4), (7,), (1,)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_mixes(self, agree, draw, shape, dtype):
        """Each sample, of any number of dimensions, and its label are mixed with those of its partner by its own λ."""
        n = shape[0]
        x, lam = draw.normal(*shape, dtype=dtype), draw.uniform(n, dtype=dtype)
        labels, perm = draw.integers(0, 11, n), draw.permutation(n)
        agree(lambda m: m.mixup(x, labels, lam, perm, 11), rtol=1e-5, atol=1e-6)

    def test_double_precision(self, agree, draw):
        """float64 stays float64 inside."""
        x, lam, labels, perm = draw.normal(5, 3, dtype=F64), draw.uniform(5, dtype=F64), draw.integers(0, 4, 5), draw.permutation(5)
        agree(lambda m: m.mixup(x, labels, lam, perm, 4), rtol=1e-12, atol=1e-13)

    def test_ends_of_lambda(self, agree, draw):
        """λ = 1 leaves the sample exactly as it is, λ = 0 gives its partner."""
        x, labels, perm = draw.magnitudes(8, 3, low=1e-30, high=1e30), draw.integers(0, 300, 8), draw.permutation(8)
        lam = torch.tensor([1.0, 0.0] * 4)[draw.permutation(8)]

        def probe(m):
            return [
                m.mixup(x, labels, lam, perm, 300),
                m.mixup(x, labels, torch.ones(8), perm, 300),
                m.mixup(x, labels, torch.zeros(8), perm, 300),
            ]

        agree(probe, rtol=0, atol=0)

    def test_small_shares(self, agree, draw):
        """A share of a millionth counts, of either sample and of either label."""
        x, labels, perm = draw.uniform(8, 3, low=1, high=2, dtype=F64), draw.permutation(8), draw.permutation(8)
        share = draw.magnitudes(8, low=1e-6, high=0.1, dtype=F64).abs()
        agree(lambda m: [m.mixup(x, labels, lam, perm, 8) for lam in (share, 1 - share)], rtol=1e-8, atol=0)

    def test_equal_labels(self, agree, draw):
        """Two samples of one class, or a sample that is its own partner, give that class all of the weight."""
        x, lam, k = draw.normal(6, 2), draw.uniform(6), draw.integer(0, 50)
        labels, perm = torch.tensor([0, k, k, 0, k, 49]), torch.tensor([3, 2, 4, 0, 1, 5])
        agree(lambda m: (m.mixup(x, labels, lam, perm, 50), m.mixup(x, labels * 0, lam, perm, 1)), rtol=1e-5, atol=1e-6)

    def test_partner_is_where_perm_points(self, agree, draw):
        """Sample i is mixed with sample perm[i], not with the one that perm sends to i."""
        x, labels, lam = draw.normal(7, 2), torch.arange(7), draw.uniform(7)
        cycle = draw.permutation(7)
        perm = torch.empty(7, dtype=torch.int64).scatter(0, cycle, cycle.roll(1))  # one cycle of seven: its inverse differs everywhere
        agree(lambda m: m.mixup(x, labels, lam, perm, 7), rtol=1e-5, atol=1e-6)

    def test_gradients(self, agree, draw):
        """Gradients flow through mixed to both samples."""
        x, weights = draw.normal(6, 3, 2, dtype=F64), draw.normal(6, 3, 2, dtype=F64)
        lam, labels, perm = draw.uniform(6, dtype=F64), draw.integers(0, 5, 6), draw.permutation(6)

        def probe(m):
            leaf = x.clone().requires_grad_()
            mixed, soft = m.mixup(leaf * 2, labels, lam, perm, 5)
            (mixed * weights).sum().backward()
            return leaf.grad, mixed.detach(), soft

        agree(probe, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout):
        """All tensors may lie in memory in any way."""
        flat = "expanded" if layout == "expanded" else "sliced"
        x, lam, labels = draw.normal(6, 3, 4, layout=layout), draw.uniform(6, layout=flat), draw.integers(0, 5, 6, layout=flat)
        perm = torch.stack([draw.permutation(6), draw.permutation(6)], 1)[:, 1]
        agree(lambda m: m.mixup(x, labels, lam, perm, 5), rtol=1e-5, atol=1e-6)

    def test_no_samples(self, agree, draw):
        """An empty batch gives an empty one."""
        x, lam, labels, perm = draw.normal(5, 3, 2), draw.uniform(5), draw.integers(0, 4, 5), draw.permutation(5)
        agree(lambda m: (m.mixup(x[:0], labels[:0], lam[:0], perm[:0], 4), m.mixup(x, labels, lam, perm, 4)), rtol=1e-5, atol=1e-6)

    def test_a_new_tensor(self, agree, draw):
        """The result shares no memory with x, also where λ is 1."""
        x, labels, perm = draw.normal(5, 3), draw.integers(0, 4, 5), draw.permutation(5)

        def probe(m):
            own = x.clone()
            mixed, soft = m.mixup(own, labels, torch.ones(5), perm, 4)
            mixed.add_(1)
            return own, mixed, soft

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_wrong_labels_and_lambdas_are_refused(self, agree, draw):
        """A label of K or below 0, or a λ below 0, above 1 or NaN, is a ValueError."""
        x, lam, labels, perm = draw.normal(5, 3), draw.uniform(5), draw.integers(0, 4, 5), draw.permutation(5)
        bad_labels, bad_lams = [labels.clone() for _ in range(2)], [lam.clone() for _ in range(3)]
        for tensor, bad in zip(bad_labels + bad_lams, (4, -1, -0.01, 1.01, math.nan), strict=True):
            tensor[draw.integer(0, 5)] = bad

        def probe(m):
            errors = [raised(ValueError, lambda y=y: m.mixup(x, y, lam, perm, 4)) for y in bad_labels]
            errors += [raised(ValueError, lambda w=w: m.mixup(x, labels, w, perm, 4)) for w in bad_lams]
            return errors, m.mixup(x, labels, lam, perm, 4)

        agree(probe, rtol=1e-3, atol=1e-4)


FORMATS = ("XYXY", "XYWH", "CXCYWH")


def drawn_scene(draw, size, boxes, dtype=torch.uint8, mask_dtype=torch.int64):
    """Pixels (3, H, W), a mask, corners of boxes with edges on halves of pixels, and labels: plain tensors."""
    H, W = size
    pixels, mask = draw.integers(0, 256, 3, H, W).to(dtype), draw.integers(0, 200, H, W).to(mask_dtype)
    edges = [draw.integers(0, 2 * side + 1, boxes, 2).sort(1).values / 2 for side in (W, H)]
    corners = torch.stack([edges[0][:, 0], edges[1][:, 0], edges[0][:, 1], edges[1][:, 1]], 1).float()
    corners[:, 2:] = torch.maximum(corners[:, 2:], corners[:, :2] + 0.5)
    corners[:, :2] -= (corners[:, 2:] - torch.tensor([W, H])).clamp(min=0)
    corners[:, 2:] = torch.minimum(corners[:, 2:], torch.tensor([float(W), float(H)]))
    return pixels, mask, corners, draw.integers(0, 1000, boxes)


def augmented(m, scene, format, **how):
    """What augment_boxes gives for a scene, with the kinds of its parts in words."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    pixels, mask, corners, labels = scene
    boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=tuple(mask.shape))
    boxes = v2.functional.convert_bounding_box_format(boxes, new_format=format)
    return in_words(m.augment_boxes(tv_tensors.Image(pixels), tv_tensors.Mask(mask), boxes, labels, **how))


def in_words(parts):
    """The tensors, their classes, and the boxes' format and canvas."""
    tensors = [part.as_subclass(torch.Tensor) if isinstance(part, torch.Tensor) else part for part in parts]
    about = [(getattr(part, "format", None), getattr(part, "canvas_size", None)) for part in parts]
    about = [(str(getattr(format, "value", format)), str(size and tuple(size))) for format, size in about]
    return tensors, [type(part).__name__ for part in parts], about


@task("augment_boxes")
class TestAugmentBoxes:
    @pytest.mark.parametrize("flip", [False, True], ids=["kept", "flipped"])
    @pytest.mark.parametrize("format", FORMATS)
    def test_crops_and_flips(self, agree, draw, format, flip):
        """Pixels, mask and boxes in every format go together; boxes are clipped; those outside are dropped with their labels."""
        scene = drawn_scene(draw, (11, 17), 25)
        crop = draw.integer(1, 4), draw.integer(1, 6), draw.integer(4, 8), draw.integer(5, 11)
        agree(lambda m: augmented(m, scene, format, flip=flip, crop=crop), rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("flip", [False, True], ids=["kept", "flipped"])
    @pytest.mark.parametrize("format", FORMATS)
    def test_the_whole_image(self, agree, draw, format, flip):
        """A crop of the whole image drops no box, also none that touches the border; flipping alone mirrors."""
        scene = drawn_scene(draw, (7, 10), 12)
        agree(lambda m: augmented(m, scene, format, flip=flip, crop=(0, 0, 7, 10)), rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("flip", [False, True], ids=["kept", "flipped"])
    @pytest.mark.parametrize("format", FORMATS)
    def test_boxes_that_touch_the_crop(self, agree, draw, format, flip):
        """A box that ends where the crop begins is dropped, on all four sides; one that reaches in by an eighth of a pixel stays."""
        pixels, mask, _, _ = drawn_scene(draw, (9, 12), 0)
        inside, e = torch.tensor([3.0, 2.0, 8.0, 7.0]), 0.125  # the crop's edges, in the image that is cropped
        corners = torch.stack([inside] * 9)
        for i, d in ((0, 0.0), (4, e)):
            corners[i] = torch.tensor([1.0, 3.0, 3.0 + d, 4.0])
            corners[i + 1] = torch.tensor([8.0 - d, 3.0, 9.0, 4.0])
            corners[i + 2] = torch.tensor([4.0, 0.0, 6.0, 2.0 + d])
            corners[i + 3] = torch.tensor([4.0, 7.0 - d, 6.0, 9.0])
        if flip:
            corners = torch.stack([12 - corners[:, 2], corners[:, 1], 12 - corners[:, 0], corners[:, 3]], 1)
        order = draw.permutation(9)
        scene = pixels, mask, corners[order], draw.integers(0, 1000, 9)
        agree(lambda m: augmented(m, scene, format, flip=flip, crop=(2, 3, 5, 5)), rtol=1e-5, atol=1e-5)

    def test_small_boxes_stay(self, agree, draw):
        """Boxes of less than a pixel are kept, in order, with their labels; equal ones too."""
        pixels, mask, _, labels = drawn_scene(draw, (8, 9), 6)
        start = draw.integers(2, 12, 6, 2) / 2
        corners = torch.cat([start, start + draw.integers(1, 8, 6, 2) / 8], 1).float()
        corners[4] = corners[1]
        corners[5, 2:] = corners[5, :2] + 1e-3
        agree(lambda m: augmented(m, (pixels, mask, corners, labels), "XYXY", flip=True, crop=(0, 0, 8, 9)), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("boxes", [0, 1])
    @pytest.mark.parametrize("flip", [False, True], ids=["kept", "flipped"])
    def test_few_boxes(self, agree, draw, boxes, flip):
        """No boxes, one box, or none that is left: (K, 4) and (K,) stay what they are."""
        pixels, mask, _, labels = drawn_scene(draw, (8, 9), boxes)
        corners = torch.tensor([[2.0, 3.0, 5.0, 6.0]])[:boxes]
        cases = [(pixels, mask, corners, labels), (pixels, mask, corners - corners, labels)]

        def probe(m):
            return [augmented(m, scene, format, flip=flip, crop=(1, 2, 6, 5)) for scene in cases for format in FORMATS]

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("size", [(1, 6), (6, 1), (1, 1), (5, 5)], ids=str)
    def test_sizes_of_one(self, agree, draw, size):
        """Images and crops of one row or column."""
        scene = drawn_scene(draw, size, 4)
        crops = {(0, 0, 1, 1), (0, 0, *size), (size[0] - 1, size[1] - 1, 1, 1)}

        def probe(m):
            return [augmented(m, scene, "XYXY", flip=flip, crop=crop) for crop in sorted(crops) for flip in (False, True)]

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("dtype", "mask_dtype"), [(torch.float32, torch.uint8), (F64, torch.int64)])
    def test_dtypes(self, agree, draw, dtype, mask_dtype):
        """Dtypes of image and mask stay; a gray image has one channel."""
        pixels, mask, corners, labels = drawn_scene(draw, (7, 9), 5, dtype, mask_dtype)
        pixels = pixels[:1] / 7 if dtype == F64 else pixels[:1]
        agree(lambda m: augmented(m, (pixels, mask, corners, labels), "XYWH", flip=True, crop=(2, 1, 4, 6)), rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize("layout", ["transposed", "sliced"])
    def test_strides_of_memory_do_not_matter(self, agree, draw, layout):
        """All tensors may lie in memory in any way."""
        _, _, corners, labels = drawn_scene(draw, (7, 9), 8)
        pixels, mask = draw.integers(0, 256, 3, 7, 9, layout=layout).to(torch.uint8), draw.integers(0, 256, 7, 9, layout=layout)
        wide = torch.stack([corners, corners], 2).transpose(0, 1).contiguous().transpose(0, 1)[:, :, 1]
        labels = torch.stack([labels, labels], 1)[:, 0]
        agree(lambda m: augmented(m, (pixels, mask, wide, labels), "CXCYWH", flip=True, crop=(1, 2, 5, 6)), rtol=1e-5, atol=1e-5)

    def test_arguments_stay(self, agree, draw):
        """Image, mask, boxes and labels that were given are as they were after the call."""
        pixels, mask, corners, labels = drawn_scene(draw, (7, 9), 6)

        def probe(m):
            from torchvision import tv_tensors

            boxes = tv_tensors.BoundingBoxes(corners.clone(), format="XYXY", canvas_size=(7, 9))
            given = tv_tensors.Image(pixels.clone()), tv_tensors.Mask(mask.clone()), boxes, labels.clone()
            result = m.augment_boxes(*given, flip=True, crop=(1, 1, 5, 6))
            return in_words(result), in_words(given)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_wrong_crops_are_refused(self, agree, draw):
        """A crop that reaches beyond the image, on any side, or has no rows or columns, is a ValueError."""
        scene = drawn_scene(draw, (7, 9), 5)
        wrong = [
            (-1, 0, 3, 3),
            (0, -1, 3, 3),
            (5, 0, 3, 3),
            (0, 7, 3, 3),
            (0, 0, 8, 9),
            (0, 0, 7, 10),
            (0, 0, 0, 3),
            (0, 0, 3, 0),
            (2, 2, -1, 3),
        ]

        def probe(m):
            errors = [
                raised(ValueError, lambda c=c, f=f: augmented(m, scene, "XYXY", flip=f, crop=c)) for c in wrong for f in (False, True)
            ]
            return (
                errors,
                augmented(m, scene, "XYXY", flip=False, crop=(4, 6, 3, 3)),
                augmented(m, scene, "XYXY", flip=True, crop=(0, 0, 7, 9)),
            )

        agree(probe, rtol=1e-3, atol=1e-3)
