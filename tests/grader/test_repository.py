"""The repository keeps its promises: the digits are real, the constraint files fit. `grader check` looks at the content."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import torch

from grader.course.digits import load_digits
from grader.course.manifest import Course
from grader.exports.templating import ACTIONS
from grader.practice.pytest_plugin import owner_of

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


def test_a_tasks_name_selects_no_neighbours_by_accident():
    """`pytest -k TASK` runs that task's public tests, and others only where one task's name is part of another's."""
    course = Course.read(ROOT)
    tasks = [task.name for module in course.modules for task in module.tasks]
    for module in course.modules:
        nodes = ast.parse(course.public_suite(module.name).read_text()).body
        functions = [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        for function in functions:
            owner = owner_of(function, tasks)
            assert owner
            assert not [task for task in tasks if task.lower() in function.lower() and task.lower() not in owner.lower()], function


def test_the_map_of_the_curriculum_is_whole():
    """docs/curriculum.md has every module of the course, and the paths as they are in course.toml."""
    course = Course.read(ROOT)
    text = (ROOT / "docs" / "curriculum.md").read_text()
    chart = text.partition("```mermaid\n")[2].partition("```")[0]
    assert set(re.findall(r"\b[a-z_]+\b", chart)) - {"flowchart"} == {module.name for module in course.modules}
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (`.*`) \|$", text, re.MULTILINE))
    assert rows == {path.name: ", ".join(f"`{name}`" for name in path.modules) for path in course.paths}


def test_the_development_environment_has_what_hidden_tests_need():
    """CI runs every hidden test that needs a package: the extra ecosystem names these packages, and dev has the same."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras["ecosystem"]) <= set(extras["dev"])
    named = {re.split(r"\W", line)[0] for line in extras["ecosystem"]}
    course = Course.read(ROOT)
    marks = [re.findall(r"mark\.needs\(([^)]*)\)", course.hidden_suite(module.name).read_text()) for module in course.modules]
    assert {name for found in marks for arguments in found for name in re.findall(r'"([^"]+)"', arguments)} <= named
    assert all(importlib.util.find_spec(name) for name in named)
