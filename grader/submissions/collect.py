"""Fetches students' repositories at given commits, and keeps the files of each commit that are named like modules.

Nothing is checked out, so a student's hooks, filters, submodules and large-file downloads never run. git gets a token in its
environment, never on a command line. No shell is used: a repository or commit from the list is one argument of git.
"""

import base64
import csv
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from grader.base.files import write_atomically
from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.ids import can_name_a_student, look, submission_id
from grader.submissions.repositories import committed_files
from grader.submissions.sources import MAX_NOTEBOOK_BYTES, BadInput, Unreadable

__all__ = ["MOST_BYTES", "RECORD", "Collected", "Row", "collect", "not_collected", "read_list", "read_record"]

RECORD = "collected.json"
"""The file next to the submissions that says where each came from, and what could not be fetched."""

_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/[A-Za-z0-9._-]{1,100}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SERVER = re.compile(r"(https|file)://[A-Za-z0-9._~:/-]+")
_SECONDS = 180
"""The time limit for one repository, which usually takes a few seconds."""
MOST_BYTES = 256 << 20
"""The largest file that git may write for one repository. Exercises take a few hundred KiB."""
_TOO_LARGE = (b"File too large", b"died of signal 25")
"""How git says that it may not write more: 25 is SIGXFSZ."""
_FILTER = f"--filter=blob:limit={MAX_NOTEBOOK_BYTES + 1}"
"""Larger files can hold no module, so git need not fetch them. A server that can't leave them out sends them."""
_PASSED_ON = ("PATH", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the list: a student, a repository and the commit to fetch."""

    repository: str
    commit: str
    student: str = ""


class Collected(Struct, frozen=True):
    """The result for one row. `problem` is empty if the commit was fetched."""

    student: str
    repository: str
    commit: str
    problem: str = ""


# ---- the list


def read_list(path: Path) -> list[Row]:
    """Read a list: CSV with the columns repository, commit and optionally student, or a JSON list of such objects. Raises: BadInput."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise BadInput(f"{path} can't be read ({one_line(str(error))}): give a list of repositories in UTF-8") from None
    rows = _json_rows(path, text) if path.suffix == ".json" else _csv_rows(path, text)
    if not rows:
        raise BadInput(f"{path} lists no repository: write the line `repository,commit,student`, and below it one line for each student")
    named = [(where, _checked(row, f"{path}, {where}")) for where, row in rows]
    seen: dict[str, str] = {}
    for where, row in named:
        if look(row.student) in seen:
            raise BadInput(f"{path}, {where}: {row.student} is also in {seen[look(row.student)]}: give each student one line")
        seen[look(row.student)] = where
    return [row for _, row in named]


def _csv_rows(path: Path, text: str) -> list[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, restval="")
    columns = [name.strip() for name in reader.fieldnames or ()]
    if not {"repository", "commit"} <= set(columns) <= {"repository", "commit", "student"}:
        raise BadInput(f"{path} must begin with the line `repository,commit` or `repository,commit,student`")
    reader.fieldnames = columns
    rows = []
    for record in reader:
        if None in record:
            raise BadInput(f"{path}, line {reader.line_num}: it has more cells than the first line has columns")
        if any(record.values()):
            rows.append((f"line {reader.line_num}", Row(**{name: value.strip() for name, value in record.items()})))
    return rows


def _json_rows(path: Path, text: str) -> list[tuple[str, Row]]:
    try:
        return [(f"entry {number}", row) for number, row in enumerate(msgspec.json.decode(text, type=list[Row]), 1)]
    except msgspec.DecodeError as error:
        raise BadInput(f'{path} is not a list of {{"repository": …, "commit": …, "student": …}}: {error}') from None


def _checked(row: Row, where: str) -> Row:
    """Check a row. A student without a name gets the repository's name. Raises: BadInput."""
    if not _REPOSITORY.fullmatch(row.repository) or row.repository.endswith(("/.", "/..")):
        raise BadInput(f"{where}: {one_line(row.repository)!r} is not a repository: write OWNER/NAME, without address or .git")
    if row.commit and not _COMMIT.fullmatch(row.commit):
        raise BadInput(f"{where}: {one_line(row.commit)!r} is not a commit: write its 40 hexadecimal digits, because a branch can move")
    student = submission_id(row.student or row.repository.partition("/")[2])
    if not can_name_a_student(student) or look(student) == "exercises":
        raise BadInput(
            f"{where}: {student!r} can't name a student: use letters, digits, spaces and . _ - @ + ', with a letter or digit first"
        )
    return Row(row.repository, row.commit, student)


# ---- fetching


def collect(
    rows: list[Row], course: Course, out: Path, *, server: str, token: str, on_done: Callable[[Collected], None] = lambda _: None
) -> list[Collected]:
    """Fetch every row's commit into a folder of its own in `out`, and record the results there. A row that fails does not stop the others.

    Raises: BadInput if `server` is not an address, or if `out` is not empty, because everything in it would be graded.
    """
    if not _SERVER.fullmatch(server):
        raise BadInput(f"{one_line(server)!r} is not a server: write https://github.com, or file:// and a folder of OWNER/NAME.git")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise BadInput(f"{out} is not empty: name a new folder, or empty it, because everything in it would be graded")
    except OSError as error:
        raise BadInput(f"{out} can't be used ({error.strerror}): name a folder") from None
    environment = _environment(server, token, os.environ)
    record = []
    for row in rows:
        files, problem = _fetch(row, course, server, environment)
        for name, data in files.items():
            path = out / row.student / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        record.append(Collected(row.student, row.repository, row.commit, problem))
        on_done(record[-1])
    write_atomically(out / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    return record


def not_collected(folder: Path) -> dict[str, str]:
    """Why students' work is not in a folder that `collect` has written, by student. Empty for other folders."""
    try:
        record = read_record(folder / RECORD)
    except BadInput:
        return {}
    return {entry.student: f"{entry.repository}: {entry.problem}" for entry in record if entry.problem}


def read_record(path: Path) -> list[Collected]:
    """Read what `collect` recorded. Raises: BadInput."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=list[Collected])
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"{path} can't be read ({one_line(str(error))}): give the {RECORD} that `grader collect` wrote") from None
    for entry in record:
        _checked(Row(entry.repository, entry.commit, entry.student), str(path))
    return record


def _environment(server: str, token: str, around: Mapping[str, str]) -> dict[str, str]:
    """The environment of git: no settings of the machine or the user, one protocol, no questions, and the token for this server only."""
    protocol = server.partition(":")[0]
    settings = {"core.hooksPath": os.devnull, "credential.helper": "", "http.followRedirects": "false", "gc.auto": "0"}
    settings |= {"protocol.allow": "never", f"protocol.{protocol}.allow": "always", "fetch.recurseSubmodules": "false"}
    if token and protocol == "https":
        secret = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        settings[f"http.{server.rstrip('/')}/.extraHeader"] = f"Authorization: Basic {secret}"
    environment = {name: around[name] for name in _PASSED_ON if name in around}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    environment["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (name, value) in enumerate(settings.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return environment


def _fetch(row: Row, course: Course, server: str, environment: dict[str, str]) -> tuple[dict[str, bytes], str]:
    """Fetch one row. Returns: the files of its commit, and what went wrong (empty if nothing did)."""
    if not row.commit:
        return {}, "the list names no commit for it: its repository is empty, or can't be seen with this token"
    address = f"{server.rstrip('/')}/{row.repository}.git"
    with tempfile.TemporaryDirectory(prefix="grader-collect-") as folder:
        for arguments in (
            ["init", "--quiet", "--bare", "--template=", "."],
            ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", _FILTER, "--end-of-options", address, row.commit],
        ):
            problem = _run(["git", *arguments], folder, environment)
            if problem:
                return {}, f"the commit can't be fetched: {problem}"
        try:
            files = committed_files(Path(folder), row.commit, course)
        except Unreadable as error:
            return {}, f"the commit can't be read: {error}"
    return files, "" if files else "the commit holds no module of the course"


def _run(command: list[str], folder: str, environment: dict[str, str]) -> str:
    """Run git. Returns: what went wrong (empty if nothing did)."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SECONDS,
            check=False,
            preexec_fn=_limit if sys.platform != "win32" else None,
        )
    except FileNotFoundError:
        raise BadInput("git is not installed: install it") from None
    except subprocess.TimeoutExpired:
        return f"it took more than {_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    if any(sign in done.stderr for sign in _TOO_LARGE):
        return f"it takes more than {MOST_BYTES >> 20} MiB: take large files out of the repository and its last commit"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    first = next((line for line in lines if line.startswith(("fatal: ", "error: "))), "".join(lines[-1:]))
    return one_line(first, 200) or f"git ended with status {done.returncode}"


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))
