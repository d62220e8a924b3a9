"""Submissions that are commits of a local git repository."""

import os
import subprocess
from pathlib import Path

import pytest

from grader.submissions.find import read_submission
from grader.submissions.sources import BadInput
from tests.grader.submissions.samples import TEXT


def git(folder: Path, *arguments: str) -> None:
    """Run git, with no configuration of the user's."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *names, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository with two commits; the older one has the tag `first`."""
    folder = tmp_path / "anna"
    (folder / "exercises").mkdir(parents=True)
    git(folder, "init")
    (folder / "exercises" / "mini.py").write_text(TEXT)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "first")
    (folder / "exercises" / "mini.py").write_text("x = 2\n")
    git(folder, "commit", "-am", "two")
    return folder


def test_a_git_ref(repository, course):
    """REPOSITORY@REF reads the commit, not the working tree; the id says which."""
    (repository / "exercises" / "mini.py").write_text("x = 3\n")
    first = read_submission(Path(f"{repository}@first"), course)
    assert (first.id, first.sources["mini"].text) == ("anna@first", TEXT)
    assert read_submission(Path(f"{repository}@main"), course).sources["mini"].text == "x = 2\n"


@pytest.mark.parametrize("ref", ["nonsense", "--help", "", "HEAD:exercises"])
def test_a_git_ref_that_is_none(repository, course, ref):
    """An unknown ref, or an option in its place, is bad input."""
    with pytest.raises(BadInput, match=r"has no commit, branch or tag called|does not exist"):
        read_submission(Path(f"{repository}@{ref}"), course)


def test_a_git_ref_without_modules(repository, course):
    """A commit that holds no module is bad input, as a folder would be."""
    git(repository, "rm", "-rfq", "exercises")
    git(repository, "commit", "-m", "three", "--allow-empty")
    with pytest.raises(BadInput, match=r"holds no mini\.py"):
        read_submission(Path(f"{repository}@main"), course)


def test_links_in_git_are_not_followed(repository, course):
    """A link in a commit is no module."""
    (repository / "exercises" / "mini.py").unlink()
    (repository / "exercises" / "mini.py").symlink_to("/etc/passwd")
    (repository / "keep.py").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "link")
    with pytest.raises(BadInput, match=r"holds no mini\.py"):
        read_submission(Path(f"{repository}@main"), course)
