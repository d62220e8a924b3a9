"""The repository keeps its promises: the digits are real, the constraint files fit. `grader check` looks at the content."""

import re
from pathlib import Path

import torch

from grader.course.digits import load_digits
from grader.exports.templating import ACTIONS

ROOT = Path(__file__).resolve().parents[2]


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


def test_ci_pins_the_actions_that_exports_pin():
    """One version of an action for everything here, pinned to a commit."""
    used = re.findall(r"uses: (.+)$", (ROOT / ".github/workflows/ci.yml").read_text(), re.MULTILINE)
    assert used
    assert set(used) <= set(ACTIONS.values())
