"""Reads the files of a commit of a local git repository as data.

Uses only git commands that run no filter, hook or other program. git itself follows the ways out of a repository: a .git file, alternates,
symbolic links. So these are looked for first, and refused. Nothing is looked up in folders that can't hold a module, because a tree of a
few KiB can stand for millions of files. Time, output and memory are capped.
"""

import os
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.names import meant
from grader.submissions.reading import read_source
from grader.submissions.sources import MAX_NOTEBOOK_BYTES, MAX_SOURCE_BYTES, BadInput, Entry, Unreadable

__all__ = ["MAX_FOLDERS", "MAX_GIT_FILES", "SECONDS", "NoCommit", "committed_files", "git_files"]

SECONDS = 20.0
"""The time limit for all that is read from one repository, which usually takes a tenth of a second."""
MAX_GIT_FILES = 100_000
"""The most files that git may have to look at. git itself packs its files when there are 7,000."""
MAX_FOLDERS = 100
"""The most folders at the top of a commit that are searched for modules, besides exercises/."""
_MAX_LISTING_BYTES = 4 << 20
_MAX_GIT_MEMORY = 1 << 30

_CLONE = "Make a clone with `git clone --no-local`, and hand in the clone."
_READ = ("info", "objects", "refs", "reftable")
"""The folders of .git that are read here."""
_UNREAD = ("annex", "hooks", "lfs", "logs", "modules", "worktrees")
"""Parts of .git that are not read here, and that honest tools make links of."""
_LENDERS = {
    "commondir": "is a worktree of another repository",
    "objects/info/alternates": "borrows objects from another repository",
    "objects/info/http-alternates": "borrows objects from another repository",
}
"""Files with which git goes on reading in another repository."""


class NoCommit(BadInput):
    """A repository that lacks the commit."""


@dataclass(frozen=True)
class _Repository:
    """A repository in which nothing leads outside: the folder with HEAD, objects and refs, and the time by which all is read."""

    git: Path
    until: float


def git_files(folder: Path, ref: str, course: Course) -> list[Entry]:
    """The files of a commit of a local repository that are named like modules, at the places where modules can be.

    Raises: NoCommit; Unreadable if the repository can't be trusted, or reading it costs too much.
    """
    repository = _open(folder)
    commit = _run_git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if commit is None:
        raise NoCommit(f"{one_line(str(folder), 400)} has no commit, branch or tag called {one_line(ref)!r}")
    name = commit.decode().strip()
    listing = _run_git(repository, "ls-tree", "--full-tree", "--name-only", "-d", "-z", name) or b""
    folders = [os.fsdecode(line) for line in listing.split(b"\0") if line]
    searched = folders if len(folders) <= MAX_FOLDERS else []
    found = _find(repository, name, ["", "exercises/", *(f"{top}/{inner}" for top in searched for inner in ("", "exercises/"))], course)
    if not found and len(folders) > MAX_FOLDERS:
        raise Unreadable(f"its commit has more than {MAX_FOLDERS} folders. Put the modules at its top or into exercises/.")
    if not found:
        found = _find_elsewhere(repository, name, course)
    return [
        Entry(PurePosixPath(path), partial(read_source, PurePosixPath(path).name, partial(_blob, repository, blob)))
        for path, blob in found.items()
    ]


def committed_files(folder: Path, commit: str, course: Course) -> dict[str, bytes]:
    """The files of a commit that can hold modules of the course, by path. A file that is too large is cut one byte above the cap.

    Blobs may be missing that `collect` had no use for. Raises: Unreadable, as `git_files` does.
    """
    repository = _open(folder)
    found = _find(repository, commit, ["", "exercises/"], course, whole=False) or _find_elsewhere(repository, commit, course)
    files = {}
    for path, blob in found.items():
        limit = MAX_NOTEBOOK_BYTES if path.endswith(".ipynb") else MAX_SOURCE_BYTES
        try:
            files[path] = _blob(repository, blob, limit + 1)
        except Unreadable:
            raise Unreadable(f"{one_line(path)} was not fetched: it is larger than {MAX_NOTEBOOK_BYTES >> 20} MiB.") from None
    return files


def _find(repository: _Repository, commit: str, folders: list[str], course: Course, *, whole: bool = True) -> dict[str, str]:
    """The regular files that are named like modules and lie in these folders: blobs by path. `whole`: no blob is missing on purpose.

    The listing is not recursive. Each path is asked for by name, so that git opens no other folder.
    """
    names = [f"{module.name}{suffix}" for module in course.modules for suffix in (".py", ".ipynb")]
    wanted = [folder + name for folder in dict.fromkeys(folders) for name in names]
    sizes = ["-l"] if whole else []
    listing = _run_git(repository, "--literal-pathspecs", "ls-tree", "--full-tree", *sizes, "-z", commit, "--", *wanted) or b""
    found = {}
    for line in filter(None, listing.split(b"\0")):
        fields, _, path = os.fsdecode(line).partition("\t")
        if fields.startswith("100"):
            _, _, blob, *size = fields.split()
            if not whole or size[0].isdigit():  # it is BAD if the object is missing
                found[path] = blob
    return found


def _find_elsewhere(repository: _Repository, commit: str, course: Course) -> dict[str, str]:
    """The regular files whose names nearly mean a module, or that lie deep down: blobs by path. Raises: Unreadable."""
    listing = _run_git(repository, "ls-tree", "--full-tree", "-r", "-z", commit) or b""
    found = {}
    for line in filter(None, listing.split(b"\0")):
        fields, _, path = os.fsdecode(line).partition("\t")
        if fields.startswith("100") and meant(PurePosixPath(path).name, course):
            found[path] = fields.split()[2]
        if len(found) > MAX_FOLDERS:
            raise Unreadable("its commit holds the same modules many times over.")
    return found


# ---- what git would follow


def _open(folder: Path) -> _Repository:
    """Find the repository of a folder, not of a folder above it, and check that git stays inside. Raises: Unreadable."""
    until = time.monotonic() + SECONDS
    try:
        git = folder / ".git"
        if not os.path.lexists(git):
            if not all(os.path.lexists(folder / name) for name in ("HEAD", "objects", "refs")):
                raise Unreadable("it is not a git repository. Hand in a clone that has its own .git.")
            git = folder  # a bare repository
        elif git.is_symlink():
            raise Unreadable(f"its .git is a link to elsewhere. {_CLONE}")
        elif not git.is_dir():
            raise Unreadable(f"its .git is a file that points at another repository. {_CLONE}")
        for name, what in _LENDERS.items():
            if os.path.lexists(git / name):
                raise Unreadable(f"it {what} ({name}). {_CLONE}")
        _demand_plain(git, until)
    except OSError as error:
        raise Unreadable(f"{error.strerror}. Give the grader the right to read all of .git.") from None
    return _Repository(git.absolute(), until)


def _demand_plain(git: Path, until: float) -> None:
    """Demand that git's own files are files and folders, and not too many. Raises: Unreadable, OSError."""
    waiting, seen = [git], 0
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as children:
            for child in children:
                is_folder = child.is_dir(follow_symlinks=False)
                if folder == git and (child.name in _UNREAD or (is_folder and child.name not in _READ)):
                    continue
                seen += 1
                if seen > MAX_GIT_FILES or time.monotonic() > until:
                    raise Unreadable(f"its .git holds more than {MAX_GIT_FILES} files, or reading them takes too long. Run `git gc` in it.")
                if child.is_symlink():
                    where = one_line(Path(child.path).relative_to(git).as_posix(), 80)
                    raise Unreadable(f"{where} in its .git is a link to elsewhere. {_CLONE}")
                if is_folder:
                    waiting.append(Path(child.path))
                elif not stat.S_ISREG(child.stat(follow_symlinks=False).st_mode):
                    raise Unreadable(f"its .git holds something that is neither a file nor a folder. {_CLONE}")


# ---- running git


def _blob(repository: _Repository, blob: str, limit: int) -> bytes:
    data, status = _output(repository, limit, "cat-file", "blob", blob)
    if status and len(data) < limit:
        raise Unreadable("git can't read it from its repository. Run `git fsck` in it.")
    return data


def _run_git(repository: _Repository, *arguments: str) -> bytes | None:
    """What git prints, or None if it fails. Raises: Unreadable if that is too much, or takes too long."""
    data, status = _output(repository, _MAX_LISTING_BYTES, *arguments)
    if len(data) == _MAX_LISTING_BYTES:
        raise Unreadable("its commit holds too many files. Hand in a repository with fewer.")
    return data if status == 0 else None


def _output(repository: _Repository, limit: int, *arguments: str) -> tuple[bytes, int]:
    """The first `limit` bytes of what git prints, and its exit status. If there is more, git is killed. Raises: Unreadable, BadInput."""
    command, environment = _git_command(repository, *arguments)
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=_limit_memory if sys.platform == "linux" else None,
        )
    except FileNotFoundError:
        raise BadInput("git is not installed: install it, or hand in a folder") from None
    late = threading.Timer(max(0.0, repository.until - time.monotonic()), process.kill)
    late.start()
    try:
        assert process.stdout
        with process.stdout as stdout:
            data = stdout.read(limit)
        if len(data) == limit:
            process.kill()  # the rest is not needed
        status = process.wait()
    finally:
        late.cancel()
        process.kill()
        process.wait()
    if status < 0 and len(data) < limit and time.monotonic() >= repository.until:
        raise Unreadable(f"git needs more than {SECONDS:g} seconds to read it. Hand in a folder or a .zip of the modules.")
    return data, status


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_GIT_MEMORY, _MAX_GIT_MEMORY))


def _git_command(repository: _Repository, *arguments: str) -> tuple[list[str], dict[str, str]]:
    settings = (
        "core.fsmonitor=false",
        "core.multiPackIndex=false",
        "safe.directory=*",
        "core.hooksPath=/dev/null",
        "core.bigFileThreshold=1m",
    )
    command = ["git", f"--git-dir={repository.git}", *(part for setting in settings for part in ("-c", setting)), *arguments]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # a missing object may be nobody's to fetch, not even from a folder of this machine
        "GIT_NO_REPLACE_OBJECTS": "1",
        "LC_ALL": "C",
    }
    return command, environment
