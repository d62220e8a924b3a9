"""Reads the files of a commit of a local git repository. Uses only git commands that run no filter, hook or other program."""

import os
import subprocess
from functools import partial
from pathlib import Path, PurePosixPath

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.sources import MAX_MEMBERS, MAX_NOTEBOOK_BYTES, MAX_SOURCE_BYTES, BadInput, Entry

__all__ = ["committed_files", "git_files"]


def git_files(repository: Path, ref: str) -> list[Entry]:
    """The Python files and notebooks of a commit of a local repository. Raises: BadInput."""
    commit = _run_git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if commit is None:
        raise BadInput(f"{repository} has no commit, branch or tag called {one_line(ref)!r}")
    listing = _run_git(repository, "ls-tree", "-r", "-l", "-z", commit.decode().strip()) or b""
    entries = []
    for line in listing.decode(errors="replace").split("\0")[:MAX_MEMBERS]:
        fields, _, name = line.partition("\t")
        if fields.startswith("100") and PurePosixPath(name).suffix in (".py", ".ipynb"):
            _, _, blob, size = fields.split()
            if size.isdigit() and int(size) <= MAX_NOTEBOOK_BYTES:  # the size is BAD if the object is missing
                entries.append(Entry(PurePosixPath(name), partial(_blob, repository, blob)))
    return entries


def committed_files(repository: Path, commit: str, course: Course) -> dict[str, bytes]:
    """The files of a commit that can hold modules of the course, by path.

    A file that is too large comes back one byte longer than the cap, so that a reader rejects it.
    """
    names = [f"{module.name}{suffix}" for module in course.modules for suffix in (".py", ".ipynb")]
    wanted = [*names, *(f"exercises/{name}" for name in names)]
    listing = _run_git(repository, "--literal-pathspecs", "ls-tree", "-r", "-z", commit, *wanted) or b""
    files = {}
    for line in filter(None, listing.decode(errors="replace").split("\0")):
        fields, _, name = line.partition("\t")
        if fields.startswith("100") and name in wanted:
            limit = MAX_NOTEBOOK_BYTES if name.endswith(".ipynb") else MAX_SOURCE_BYTES
            files[name] = _blob(repository, fields.split()[2], limit + 1)
    return files


def _blob(repository: Path, blob: str, limit: int) -> bytes:
    command, environment = _git_command(repository, "cat-file", "blob", blob)
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        data = process.stdout.read(limit)
        process.kill()  # the rest is not needed
    return data


def _run_git(repository: Path, *arguments: str) -> bytes | None:
    command, environment = _git_command(repository, *arguments)
    try:
        done = subprocess.run(command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=60, check=False)
    except FileNotFoundError:
        raise BadInput("git is not installed: install it, or hand in a folder") from None
    return done.stdout if done.returncode == 0 else None


def _git_command(repository: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    settings = ("core.fsmonitor=false", "safe.directory=*", "core.hooksPath=/dev/null")
    command = ["git", *(part for setting in settings for part in ("-c", setting)), "-C", str(repository), *arguments]
    return command, {"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
