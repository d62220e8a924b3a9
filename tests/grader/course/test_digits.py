"""The digits: the small ones of the repository, or MNIST in another folder."""

import shutil
import struct
from pathlib import Path

import pytest
import torch
from torch.nn.functional import pad

from grader.base.outcome import Status
from grader.course.digits import Digits, DigitsNotFoundError
from grader.course.manifest import Course, ManifestError
from grader.grading.draw import Draw
from grader.runner.jobs import grade_units
from grader.runner.results import environment
from grader.runner.store import Entry, Store
from grader.runner.units import Unit
from grader.sandbox.supervisor.isolation import isolation, machine_layers
from grader.submissions.sources import Source
from tests.grader.conftest import grader

ROOT = Path(__file__).parents[3]


def write_mnist(folder: Path, size: int, train: int = 4700, test: int = 300) -> Path:
    """Files as MNIST's: image number n holds n % 256 everywhere, and its label is n % 10. Returns the folder."""
    numbers = torch.arange(train + test)
    return write_digits(folder, (numbers % 256)[:, None, None].expand(-1, size, size), numbers % 10, train)


def write_digits(folder: Path, images: torch.Tensor, labels: torch.Tensor, train: int) -> Path:
    """Files as MNIST's of images (N, H, W) in 0 … 255, of which the first `train` are the training part. Returns the folder."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, part in ("train", slice(train)), ("t10k", slice(train, None)):
        pixels, names = images[part].to(torch.uint8), labels[part].to(torch.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, *pixels.shape) + pixels.numpy().tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">BBBB1I", 0, 0, 8, 1, len(names)) + names.numpy().tobytes())
    return folder


def test_the_small_digits_are_split_into_all_but_600_and_600() -> None:
    """Nothing is lost and nothing doubled; another draw gives another split."""
    digits = Digits.read(ROOT / "data")
    images, labels, new_images, new_labels = digits.split(Draw(1))
    assert images.shape == (1197, 1, 8, 8)
    assert new_images.shape == (600, 1, 8, 8)
    assert images.dtype == torch.float32
    assert torch.cat([labels, new_labels]).bincount().equal(digits.labels.bincount())
    assert torch.cat([images, new_images]).sum((1, 2, 3)).sort().values.equal(digits.images.sum((1, 2, 3)).sort().values)
    assert not images.equal(digits.split(Draw(2))[0])


def test_mnist_is_averaged_and_drawn_from(tmp_path: Path) -> None:
    """28×28 becomes 14×14, 4,000 train and 600 are held out, labels stay with their images."""
    images, labels, new_images, new_labels = Digits.read(write_mnist(tmp_path, 28)).split(Draw(1))
    assert images.shape == (4000, 1, 14, 14)
    assert new_images.shape == (600, 1, 14, 14)
    for pixels, names in (images, labels), (new_images, new_labels):
        numbers = (pixels[:, 0, 3, 5] * 255).round().long()
        assert all(name % 2 == number % 2 for number, name in zip(numbers.tolist(), names.tolist(), strict=True))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """What belongs there is said."""
    (write_mnist(tmp_path, 8, 9, 9) / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DigitsNotFoundError, match="t10k-labels-idx1-ubyte"):
        Digits.read(tmp_path)


def test_a_folder_without_digits_is_bad_input(tmp_path: Path) -> None:
    """`--data` names a folder that holds MNIST/raw."""
    with pytest.raises(ManifestError, match="MNIST/raw"):
        Course.read(ROOT).with_data(tmp_path)
    run = grader("grade", ROOT / "exercises", "--data", tmp_path, "--out", tmp_path / "out", cwd=ROOT)
    assert run.returncode == 2
    assert "MNIST/raw" in run.stderr


def test_other_digits_are_another_key(tmp_path: Path) -> None:
    """A result that was kept for one set of digits is not taken for another's."""
    course = Course.read(ROOT)
    shutil.copytree(ROOT / "data" / "MNIST", tmp_path / "same" / "MNIST")
    other = write_mnist(tmp_path / "other", 8)

    def key(course: Course) -> str:
        return Store(tmp_path, course, environment(), isolation(None), 1).key(course.modules[0], Source("x = 1"))

    assert key(course) == key(course.with_data(tmp_path / "same")) != key(course.with_data(other))


def test_every_suite_takes_images_of_mnists_size(tmp_path: Path) -> None:
    """The references pass on 14×14 as on 8×8."""
    digits = Digits.read(ROOT / "data")
    enlarged = pad((digits.images[:, 0] * 255).round().repeat_interleave(3, 1).repeat_interleave(3, 2), (2, 2, 2, 2))
    folder = write_digits(tmp_path / "enlarged", enlarged, digits.labels, 1500)
    course = Course.read(ROOT).with_data(folder)
    modules = [module for module in course.modules if ", digits)" in course.hidden_suite(module.name).read_text()]
    units = [Unit("solutions", module, Source(course.solution(module.name).read_text()), seed=3) for module in modules]
    failures: list[str] = []

    def on_done(unit: Unit, entry: Entry) -> None:
        tests = [test for task in entry.result.tasks for test in task.tests]
        failures.extend(f"{test.id}: {test.message}" for test in tests if test.status not in (Status.PASSED, Status.SKIPPED))

    grade_units(units, course, jobs=1, layers=machine_layers(), on_done=on_done)
    assert {module.name for module in modules} >= {"modules", "training", "cnn", "quantization"}
    assert not failures
