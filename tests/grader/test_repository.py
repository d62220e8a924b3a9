"""The repository keeps its promises: README agrees with the manifest, the digits are real, the constraint files fit."""

import re
from pathlib import Path

import torch

from grader.course.digits import load_digits
from grader.course.manifest import Course

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_lists_the_modules():
    """Tasks, points and minutes in the README's table are those of course.toml."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (\d+) \| (\d+) \| (\d+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    modules = Course.read(ROOT).modules
    expected = [(module.name, str(len(module.tasks)), f"{module.points:g}", str(module.minutes)) for module in modules]
    assert rows == expected


def test_the_statements_name_the_bans():
    """A task's docstring says that something is not allowed exactly where course.toml bans something."""
    course = Course.read(ROOT)
    for module in course.modules:
        text = course.stub(module.name).read_text()
        for task in module.tasks:
            statement = re.split(rf"^(?:def|class) {task.name}\b", text, flags=re.MULTILINE)[1].split('"""')[1]
            assert ("Not allowed:" in statement) == bool(task.bans), task.name


def test_the_digits_are_real():
    """1,797 images of ten classes, read through torchvision, with ink between 0 and 1."""
    train, test = load_digits(ROOT / "data", train=True), load_digits(ROOT / "data", train=False)
    assert train[0].shape == (1437, 1, 8, 8)
    assert test[0].shape == (360, 1, 8, 8)
    for images, labels in (train, test):
        assert images.dtype is torch.float32
        assert images.min() == 0
        assert images.max() == 1
        assert labels.unique().tolist() == list(range(10))


def test_torch_and_torchvision_are_pinned_together():
    """Scores depend on both versions, so constraints.txt names each exactly."""
    pins = re.findall(r"^(\w+)==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pins == ["torch", "torchvision"]
