"""Known mistakes at home: what `grader stubs` writes names them, and gives neither answers nor mistakes away."""

import json

import pytest

from grader.check.mistakes import make_mistakes, outdated_mistakes
from grader.course.manifest import Course
from tests.grader.conftest import grader, mini_course

BANK = '''\
"""Wrong answers."""

from grader.testing import misconception


@misconception("double", "Squares.")
def squares(x):
    return x * x


@misconception("double", "Adds two.")
def adds_two(x):
    return x + 2


@misconception("double", "Adds two, in another way.")
def adds_one_twice(x):
    return x + 1 + 1


@misconception("double", "Fails for numbers that the public tests do not have.")
def fails_for_large(x):
    return x * 2 if not x.numel() or x.max() < 1e6 else x
'''


@pytest.fixture
def root(tmp_path):
    """The course in miniature, with mistakes that behave alike and one that the public tests don't see."""
    root = mini_course(tmp_path / "course")
    (root / "tests" / "misconceptions" / "mini.py").write_text(BANK)
    return root


def test_the_figures_and_the_file(root):
    """Named where the behaviour is its own, as one of two where two share it, not at all where the public tests pass."""
    course = Course.read(root)
    mistakes, (row,) = make_mistakes(course, course.modules, jobs=1, on_progress=lambda *_: None)
    assert (row.mistakes, row.named, row.one_of_two, row.unseen, row.alike, row.unsteady) == (4, 1, 2, 1, 0, 0)
    assert {task: len(found) for task, found in mistakes.modules["mini"].tasks.items()} == {"double": 2}


def test_it_is_named_and_nothing_can_be_read(root):
    """`grader run` names the mistake of an answer that is written otherwise; the file has no sentence and no code in it."""
    assert outdated_mistakes(Course.read(root)) == ["mini"]
    assert grader("stubs", "--check", cwd=root).returncode == 1
    assert grader("stubs", "--jobs", 1, cwd=root).returncode == 0
    assert outdated_mistakes(Course.read(root)) == []
    assert grader("stubs", "--check", cwd=root).returncode == 0
    text = (root / "tests" / "public" / "mistakes.json").read_text()
    for word in ("Squares", "Adds", "return", "squares", "adds"):
        assert word not in text

    exercise = root / "exercises" / "mini.py"
    stub = exercise.read_text()
    for body, named in (
        ("return torch.pow(x, 2)", "Squares."),
        ("y = x + 1\n    return y + 1", "Adds two. Or: Adds two, in another way."),
        ("return x + 3", None),
        ("return x.add(x)", None),
    ):
        exercise.write_text("import torch\n" + stub.replace('raise NotImplementedError("double")', body))
        output = " ".join(grader("run", "double", cwd=root).stdout.split())
        assert ("It looks like this:" in output) == (named is not None), output
        assert named is None or f"It looks like this: {named}" in output


def test_a_change_of_a_bank_is_noticed(root):
    """What was made from other files is out of date; a damaged file is made anew."""
    assert grader("stubs", "--jobs", 1, cwd=root).returncode == 0
    path = root / "tests" / "public" / "mistakes.json"
    whole = path.read_text()
    path.write_text(whole[:40])
    assert outdated_mistakes(Course.read(root)) == ["mini"]
    path.write_text(whole)
    reference = root / "solutions" / "mini.py"
    for old, new, outdated in (
        ("Return twice x.", "Return x, twice.", []),
        ("_TWO = 2", "_TWO = 2.0", ["mini"]),
        ("_TWO = 2.0", "_TWO = 2", []),
    ):
        assert old in reference.read_text()
        reference.write_text(reference.read_text().replace(old, new))  # a statement that is mended changes no behaviour
        assert outdated_mistakes(Course.read(root)) == outdated
    bank = root / "tests" / "misconceptions" / "mini.py"
    bank.write_text(bank.read_text().replace("Squares.", "Takes the square."))
    assert outdated_mistakes(Course.read(root)) == ["mini"]
    assert json.loads(whole)["modules"]["mini"]["tasks"]
