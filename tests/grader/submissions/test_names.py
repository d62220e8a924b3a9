"""What names mean: modules, what copying and sharing add to them, and who is named beside them."""

from pathlib import Path

import pytest

from grader.course.manifest import Course
from grader.submissions.names import Meant, meant, resembled, without_platform

MEANT = {
    "tensor_ops.py": Meant("tensor_ops", exact=True),
    "tensor_ops.ipynb": Meant("tensor_ops", exact=True),
    "Tensor_Ops.py": Meant("tensor_ops", exact=False),
    "TENSOR_OPS.PY": Meant("tensor_ops", exact=False),
    "tensor-ops.ipynb": Meant("tensor_ops", exact=False),
    "tensor ops.py": Meant("tensor_ops", exact=False),
    "tensor_ops (1).py": Meant("tensor_ops", exact=False),
    "tensor_ops(2).ipynb": Meant("tensor_ops", exact=False),
    "tensor_ops-1.ipynb": Meant("tensor_ops", exact=False),
    "tensor_ops 2.py": Meant("tensor_ops", exact=False),
    "tensor_ops copy.py": Meant("tensor_ops", exact=False),
    "tensor_ops - Copy (2).py": Meant("tensor_ops", exact=False),
    "tensor_ops - Kopie.py": Meant("tensor_ops", exact=False),
    "Copy of tensor_ops.ipynb": Meant("tensor_ops", exact=False),
    "Copy of Copy of tensor_ops.ipynb": Meant("tensor_ops", exact=False),
    "Kopie von tensor_ops.ipynb": Meant("tensor_ops", exact=False),
    "tensor_ops.py.txt": Meant("tensor_ops", exact=False),
    "tensor_ops.ipynb.json": Meant("tensor_ops", exact=False),
    "tensor_ops.py.py": Meant("tensor_ops", exact=False),
    "ｔensor_ops.py": Meant("tensor_ops", exact=False),
    "Anna Lee - tensor_ops.ipynb": Meant("tensor_ops", exact=False, person="Anna Lee"),
    "tensor_ops - Anna Lee.ipynb": Meant("tensor_ops", exact=False, person="Anna Lee"),
    "Anna Lee - Copy of tensor_ops (1).ipynb": Meant("tensor_ops", exact=False, person="Anna Lee"),
    "test_tensor_ops.py": None,
    "tensor_ops_old.py": None,
    "tensor_ops.txt": None,
    "tensor_ops": None,
    " - tensor_ops.py": None,
    "tensors.py": None,
    ".py": None,
    "": None,
    "tensor_ops.py\n": None,
    "x" * 100_000 + ".py": None,
    " (1)" * 60 + ".py": None,
}


@pytest.fixture(scope="module")
def course():
    """The repository's own course."""
    return Course.read(Path(__file__).parents[3])


@pytest.mark.parametrize("name", MEANT, ids=lambda name: name[:40])
def test_names(course, name):
    """Each name means what a reader would say."""
    assert meant(name, course) == MEANT[name]


def test_no_name_means_two_modules(course):
    """Of the course's own names, none is taken for another's."""
    for module in course.modules:
        for name in (f"{module.name}.py", f"{module.name.upper()} (1).ipynb", f"Copy of {module.name}-2.py"):
            found = meant(name, course)
            assert found is not None
            assert found.module == module.name


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("my_tensor_ops_final.py", "tensor_ops"),
        ("hw1-tensor-ops.ipynb", "tensor_ops"),
        ("test_tensor_ops.py", None),
        ("tensor.py", None),
        ("mytensor_ops.py", "tensor_ops"),
        ("tensorops.ipynb", "tensor_ops"),
        ("._tensor_ops.py", None),
        ("notes.txt", None),
    ],
)
def test_resemblance(course, name, module):
    """A name that holds a module's name is pointed at, and not taken."""
    assert resembled(name, course) == module


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("leeanna_10234_556677_tensor_ops.ipynb", "tensor_ops.ipynb"),
        ("leeanna_LATE_10234_556677_tensor_ops-1.ipynb", "tensor_ops-1.ipynb"),
        ("Anna Lee_120_assignsubmission_file_tensor_ops.py", "tensor_ops.py"),
        ("Anna Lee_120_assignsubmission_file_", "Anna Lee_120_assignsubmission_file_"),
        ("tensor_ops.py", "tensor_ops.py"),
        ("week_1_2.py", "week_1_2.py"),
    ],
)
def test_what_platforms_add(name, own):
    """Canvas and Moodle put the student before a file's own name."""
    assert without_platform(name) == own
