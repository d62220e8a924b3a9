"""The first command of the README: `grader grade examples` gives what the examples promise, and touches nothing."""

import json
import subprocess
from pathlib import Path

import msgspec
import pytest

from grader.runner.results import Results
from tests.grader.conftest import grader

ROOT = Path(__file__).parents[3]


def state_of_the_repository() -> str:
    """Every file that git would see, with its content."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "examples", "solutions", "exercises", "data", "course.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(name for name in listed.stdout.split("\0") if name)
    return "".join(f"{name} {(ROOT / name).stat().st_mode:o} {hash((ROOT / name).read_bytes())}\n" for name in names)


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    """Submissions by name."""
    out = tmp_path_factory.mktemp("results")
    before = state_of_the_repository()
    done = grader("grade", "examples", "--out", out, "--seed", 1, cwd=ROOT, timeout=560)
    assert done.returncode == 0, done.stderr
    assert state_of_the_repository() == before
    results = (out / "results.json").read_bytes()
    msgspec.json.decode(results, type=Results, strict=True)
    return {submission["id"]: submission for submission in json.loads(results)["submissions"]}


def test_all_are_graded(submissions):
    """One submission a folder."""
    assert set(submissions) == {path.name for path in (ROOT / "examples").iterdir() if path.is_dir()}


def test_perfect_is_full(submissions):
    """Every point."""
    assert submissions["perfect"]["score"] == submissions["perfect"]["max_score"] > 0


@pytest.mark.parametrize("name", ["untouched", "cheating"])
def test_nothing_is_earned_by(submissions, name):
    """Neither the stubs nor a cheat earn a point."""
    assert submissions[name]["score"] == 0 < submissions[name]["max_score"]


@pytest.mark.parametrize("name", ["crashing", "looping", "partial", "notebook"])
def test_some_is_earned_by(submissions, name):
    """What is right counts, beside what crashes, loops, is wrong or is missing."""
    assert 0 < submissions[name]["score"] < submissions[name]["max_score"]


def test_the_statuses_are_told_apart(submissions):
    """A loop is timed out, a crash is an error, a stub is not implemented."""
    status = {name: {task["status"] for module in s["modules"] for task in module["tasks"]} for name, s in submissions.items()}
    assert status["untouched"] == {"not_implemented"}
    assert "timed_out" in status["looping"]
    assert "error" in status["crashing"]
    assert not any("grader_error" in found for found in status.values())
