"""Finds the submissions in folders, archives, single files and git refs, and in each submission the one file that holds a module."""

import codecs
import io
import re
import stat
import tokenize
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.archives import ARCHIVES, archived_files
from grader.submissions.folders import folder_files, reader, wrapped_folder_files
from grader.submissions.notebooks import notebook_source
from grader.submissions.repositories import git_files
from grader.submissions.sources import (
    MAX_NOTEBOOK_BYTES,
    MAX_SOURCE_BYTES,
    TOO_LONG,
    BadInput,
    Entry,
    Source,
    Submission,
    Unreadable,
    file_names,
    module_of,
    shown,
)

__all__ = ["find_submissions", "read_submission"]


def find_submissions(paths: Iterable[Path], course: Course) -> tuple[list[Submission], list[str]]:
    """Read every submission that the paths name. A path is one submission or a folder of submissions.

    Returns: the submissions, and a sentence for each file or folder that was skipped. Raises: BadInput.
    """
    found: list[Submission] = []
    passed_over: list[str] = []
    for path in paths:
        if not path.is_dir() or _hold_modules(folder_files(path), course):
            found.append(read_submission(path, course))
            continue
        children = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
        before = len(found)
        for child in children:
            named = child.name.lower().endswith(ARCHIVES) or module_of(child.name, course)
            if child.is_symlink():
                passed_over.append(f"{shown(child)}: a link is not followed.")
            elif child.is_dir() and not _hold_modules(wrapped_folder_files(child), course):
                passed_over.append(f"{shown(child)}: holds no {' or '.join(file_names(course))}.")
            elif named and not child.is_dir() and not child.is_file():
                passed_over.append(f"{shown(child)}: is neither a file nor a folder.")
            elif named or child.is_dir():
                found.append(read_submission(child, course))
        if len(found) == before:
            raise BadInput(
                f"{shown(path)} holds no submission: expected {', '.join(file_names(course))}, or folders or archives that hold them"
            )
    ids = [submission.id for submission in found]
    for name in sorted({name for name in ids if ids.count(name) > 1}):
        raise BadInput(f"two submissions are called {name!r}: rename one, since a name is a student")
    return found, passed_over


def read_submission(path: Path, course: Course) -> Submission:
    """Read one submission: a folder, a module's .py or .ipynb, a .zip, a .tar.gz, or REPOSITORY@REF.

    If an archive can't be read, every module of the submission has a problem, and the batch goes on. Raises: BadInput.
    """
    name = path.name
    if not path.exists():
        repository, at, ref = str(path).rpartition("@")
        if at and Path(repository).is_dir():
            sources = _take(git_files(Path(repository), ref), course)
            if not sources:
                raise BadInput(f"{shown(path)} holds no {' or '.join(file_names(course))}")
            return Submission(_identify(f"{Path(repository).resolve().name}@{ref}"), sources)
        raise BadInput(f"{shown(path)} does not exist: give a folder, a .py, .ipynb, .zip or .tar.gz file, or REPOSITORY@REF")
    if path.is_dir():
        sources = _take(wrapped_folder_files(path), course)
        if not sources:
            raise BadInput(f"{shown(path)} holds no {' or '.join(file_names(course))}")
        return Submission(_identify(path.resolve().name), sources)
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadInput(f"{shown(path)} is neither a file nor a folder")
    if name.lower().endswith(ARCHIVES):
        stem = re.sub(r"(\.zip|\.tar\.gz|\.tgz)$", "", name, flags=re.IGNORECASE)
        try:
            return Submission(_identify(stem), _take(archived_files(path, course), course))
        except Unreadable as error:
            problem = Source(problem=f"{one_line(name)} can't be read: {error}")
            return Submission(_identify(stem), {module.name: problem for module in course.modules})
    module = module_of(name, course)
    if module is None:
        raise BadInput(f"{shown(path)}: expected a file called {' or '.join(file_names(course))}, or a .zip or .tar.gz")
    return Submission(_identify(path.stem), _take([Entry(PurePosixPath(name), reader(path))], course), only=(module,))


def _identify(name: str) -> str:
    return one_line(name, 100) or "unnamed"


# ---- choosing files


def _take(entries: list[Entry], course: Course) -> dict[str, Source]:
    """Choose one file for each module: at the top or in exercises/, of the submission or of a folder that wraps it."""
    sources = {}
    for module in course.modules:
        candidates = _best([entry for entry in entries if module_of(entry.path.name, course) == module.name])
        if len(candidates) > 1:
            names = " and ".join(one_line(str(entry.path), 80) for entry in candidates[:3])
            sources[module.name] = Source(problem=f"{names} both hold the module {module.name}: keep one.")
        elif candidates:
            sources[module.name] = _source(candidates[0])
    return sources


def _best(entries: list[Entry]) -> list[Entry]:
    """The entries at the most likely place. Several entries mean that the choice is not clear."""

    def place(entry: Entry) -> int | None:
        folders = entry.path.parts[:-1]
        inside = folders[-1:] == ("exercises",)
        depth = len(folders) - inside
        return 2 * depth + inside if depth <= 1 else None

    ranked = [(rank, entry) for entry in entries if (rank := place(entry)) is not None]
    best = min((rank for rank, _ in ranked), default=None)
    return [entry for rank, entry in ranked if rank == best]


def _hold_modules(entries: list[Entry], course: Course) -> bool:
    return any(module_of(entry.path.name, course) for entry in entries)


def _source(entry: Entry) -> Source:
    name = one_line(entry.path.name)
    notebook = entry.path.suffix == ".ipynb"
    limit = MAX_NOTEBOOK_BYTES if notebook else MAX_SOURCE_BYTES
    try:
        data = entry.read(limit + 1)
        if len(data) > limit:
            raise Unreadable(f"it is larger than {limit >> 10} KiB.")
        if notebook:
            return notebook_source(data, name)
        text = _text(data)
        if len(text) > MAX_SOURCE_BYTES:
            raise Unreadable(TOO_LONG)
    except Unreadable as error:
        return Source(problem=f"{name} can't be read: {error}")
    return Source(text)


_ENCODINGS = ("utf-8", "ascii", "iso8859", "cp", "koi8", "mac", "big5", "gb", "euc", "shift_jis", "iso2022", "tis")
"""The codecs that a source may name. Others take quadratic time (punycode, idna) or do not encode text."""


def _text(data: bytes) -> str:
    """Decode source as Python does: as UTF-8, unless its first two lines name another encoding. Raises: Unreadable."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if not codecs.lookup(encoding).name.startswith(_ENCODINGS):
            raise LookupError
        text = data.decode(encoding)
    except (SyntaxError, UnicodeError, LookupError):
        raise Unreadable("it is not Python text in UTF-8.") from None
    if "\0" in text:
        raise Unreadable("it is not Python text: it holds null bytes.")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
