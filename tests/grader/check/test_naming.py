"""What the banks' answers are taken for."""

import json

from tests.grader.conftest import grader as command
from tests.grader.conftest import mini_course

TWIN = """

@misconception("double", "Divides.")
def divides(x):
    return x * 0.5
"""


def test_known_mistakes_are_counted(tmp_path):
    """By the real command. One that differs from run to run isn't named, nor are two that are alike, nor right answers."""
    root = mini_course(tmp_path)
    done = command("check", "--diagnosis", "--json", "--seed", 1, "--jobs", 1, cwd=root)
    report = json.loads(done.stdout)
    (row,) = report["modules"]
    assert (done.returncode, row["mistakes"], row["named"], row["wrong"]) == (1, 6, 5, 0)
    assert report["unknown"] == ["mini.Counter.Shared"]
    assert (report["alternatives"], report["alternatives_named"]) == (4, [])

    bank = root / "tests/misconceptions/mini.py"
    bank.write_text(bank.read_text() + TWIN)
    done = command("check", "--diagnosis", "--json", "--seed", 1, "--jobs", 1, cwd=root)
    report = json.loads(done.stdout)
    (row,) = report["modules"]
    assert (done.returncode, row["mistakes"], row["named"], row["alike"], row["as_another"]) == (1, 7, 4, 2, 2)
    assert report["alike"] == ["mini.double.divides: halves", "mini.double.halves: divides"]
