"""Finds the submissions in folders, archives, single files and git refs, and in each submission the one file that holds a module."""

import ast
import codecs
import io
import os
import re
import stat
import tokenize
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from grader.base.text import one_line
from grader.course.definitions import defined_by
from grader.course.manifest import Course, Module
from grader.course.source import Definition
from grader.course.stubs import handed_out
from grader.submissions.archives import ARCHIVES, archived_files
from grader.submissions.folders import folder_files, reader, wrapped_folder_files
from grader.submissions.ids import distinct_ids, submission_id
from grader.submissions.notebooks import notebook_source
from grader.submissions.repositories import NoCommit, git_files
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


@dataclass(frozen=True)
class _Found:
    """A submission as it was found: the path to show, the name that its id is made from, and what is in it."""

    path: Path
    name: str
    sources: dict[str, Source]
    only: tuple[str, ...] = ()


def find_submissions(paths: Iterable[Path], course: Course) -> tuple[list[Submission], list[str]]:
    """Read every submission that the paths name. A path is one submission or a folder of submissions.

    Each submission gets an id of its own; one that can't be read has a problem in each module, and the others go on.

    Returns: the submissions, and a sentence for each file or folder that was skipped and each submission that is not called by its name.
    Raises: BadInput if a path does not exist, or if nothing is found at all.
    """
    found: list[_Found] = []
    notes: list[str] = []
    refused: list[BadInput] = []
    without_commit = 0
    for path in paths:
        try:
            some, skipped = _children(path, course) if _holds_submissions(path, course) else ([_read(path, course)], [])
        except _NoModules as error:
            refused.append(error)
            notes.append(f"Passed over: {error}.")
        except NoCommit as error:
            refused.append(error)
            without_commit += 1
            what = f"it has no commit, branch or tag of this name with {' or '.join(file_names(course))} in it"
            found.append(_unreadable(path, Unreadable(f"{what}. Write another name after the @."), course))
        else:
            found += some
            notes += skipped
    if refused and len(found) == without_commit:
        raise refused[0]
    ids = distinct_ids([one.name for one in found])
    for one, id in zip(found, ids, strict=True):
        if id != submission_id(one.name):
            notes.append(f"{shown(one.path)} is called {id!r} in all reports, because another submission has that name or looks like it.")
    return [Submission(id, one.sources, one.only) for one, id in zip(found, ids, strict=True)], notes


def read_submission(path: Path, course: Course) -> Submission:
    """Read one submission: a folder, a module's .py or .ipynb, a .zip, a .tar.gz, or REPOSITORY@REF.

    If it can't be read, every module of the submission has a problem. Raises: BadInput.
    """
    found = _read(path, course)
    return Submission(submission_id(found.name), found.sources, found.only)


class _NoModules(BadInput):
    """A path that exists, but holds nothing to grade."""


def _holds_submissions(path: Path, course: Course) -> bool:
    """True for a folder that holds no module itself, so that its children are the submissions."""
    try:
        return path.is_dir() and not _hold_modules(folder_files(path), course)
    except (OSError, Unreadable):
        return False


def _children(folder: Path, course: Course) -> tuple[list[_Found], list[str]]:
    """The submissions in a folder, and a sentence for each child that was skipped. Raises: BadInput if there are none."""
    found, skipped = [], []
    for child in sorted(folder.iterdir()):
        if child.name.startswith("."):
            continue
        try:
            reason = _reason_to_skip(child, course)
            if reason:
                skipped.append(f"Passed over: {shown(child)}: {reason}.")
            elif reason is None:
                found.append(_read(child, course))
        except (OSError, Unreadable) as error:
            found.append(_unreadable(child, error, course))
    if not found:
        expected = f"expected {', '.join(file_names(course))}, or folders or archives that hold them"
        raise _NoModules(f"{shown(folder)} holds no submission: {expected}")
    return found, skipped


def _reason_to_skip(child: Path, course: Course) -> str | None:
    """Why a child of a folder is no submission: None if it is one, and empty if it is of no interest. Raises: OSError, Unreadable."""
    named = child.name.lower().endswith(ARCHIVES) or module_of(child.name, course)
    if child.is_symlink():
        return "a link is not followed"
    if child.is_dir():
        return None if _hold_modules(wrapped_folder_files(child), course) else f"holds no {' or '.join(file_names(course))}"
    if named and not child.is_file():
        return "is neither a file nor a folder"
    return None if named else ""


def _read(path: Path, course: Course) -> _Found:
    """Raises: BadInput."""
    try:
        return _read_one(path, course)
    except (PermissionError, Unreadable) as error:
        return _unreadable(path, error, course)
    except OSError as error:  # such as a name that is too long to exist
        raise BadInput(f"{shown(path)} can't be read ({error.strerror}): give another path") from None


def _read_one(path: Path, course: Course) -> _Found:
    """Raises: BadInput, Unreadable, OSError."""
    if not path.exists():
        return _read_commit(path, course)
    if path.is_dir():
        sources = _take(wrapped_folder_files(path), course)
        if not sources:
            raise _NoModules(f"{shown(path)} holds no {' or '.join(file_names(course))}")
        return _Found(path, _name(path), sources)
    if not stat.S_ISREG(path.stat().st_mode):
        raise _NoModules(f"{shown(path)} is neither a file nor a folder")
    if path.name.lower().endswith(ARCHIVES):
        return _Found(path, _name(path), _take(archived_files(path, course), course))
    module = module_of(path.name, course)
    if module is None:
        raise _NoModules(f"{shown(path)}: expected a file called {' or '.join(file_names(course))}, or a .zip or .tar.gz")
    return _Found(path, _name(path), _take([Entry(PurePosixPath(path.name), reader(path))], course), only=(module,))


def _read_commit(path: Path, course: Course) -> _Found:
    if path.is_symlink():
        raise _NoModules(f"{shown(path)} is a link to something that does not exist")
    repository, at, ref = str(path).rpartition("@")
    if not at or not Path(repository).is_dir():
        raise BadInput(f"{shown(path)} does not exist: give a folder, a .py, .ipynb, .zip or .tar.gz file, or REPOSITORY@REF")
    sources = _take(git_files(Path(repository), ref, course), course)
    if not sources:
        raise NoCommit(f"{shown(path)} holds no {' or '.join(file_names(course))}")
    return _Found(path, _name(path), sources)


def _name(path: Path) -> str:
    """The name that the id of the submission at a path is made from."""
    try:
        if path.is_dir():
            return path.resolve().name
        repository, at, ref = str(path).rpartition("@")
        if at and not path.exists():
            return f"{Path(repository).resolve().name}@{ref}"
    except OSError:  # a folder above it can't be read
        pass
    return re.sub(r"(\.zip|\.tar\.gz|\.tgz|\.py|\.ipynb)$", "", path.name, flags=re.IGNORECASE)


def _unreadable(path: Path, error: OSError | Unreadable, course: Course) -> _Found:
    """A submission that is there, but can't be read: a problem in each module."""
    why = str(error) if isinstance(error, Unreadable) else f"{error.strerror}. Give the grader the right to read it."
    what = path.name if os.path.lexists(path) else _name(path)
    problem = Source(problem=f"{one_line(what)} can't be read: {why}")
    return _Found(path, _name(path), {module.name: problem for module in course.modules})


# ---- choosing files


def _take(entries: list[Entry], course: Course) -> dict[str, Source]:
    """Choose one file for each module: at the top or in exercises/, of the submission or of a folder that wraps it."""
    sources = {}
    for module in course.modules:
        candidates = _nearest([entry for entry in entries if module_of(entry.path.name, course) == module.name])
        if len(candidates) > 1:
            sources[module.name] = _answered(candidates, module, handed_out(course, module.name) or "")
        elif candidates:
            sources[module.name] = _source(candidates[0])
    return sources


def _nearest(entries: list[Entry]) -> list[Entry]:
    """The entries of the outermost folder and its exercises/, those in exercises/ first."""

    def place(entry: Entry) -> tuple[int, bool]:
        folders = entry.path.parts[:-1]
        inside = folders[-1:] == ("exercises",)
        return len(folders) - inside, not inside

    least = min((place(entry)[0] for entry in entries), default=0)
    return sorted((entry for entry in entries if place(entry)[0] == least <= 1), key=place)


_MOST_CANDIDATES, _MOST_PARSED = 4, 64 << 10
"""How many files of one module are looked at, and up to which size. Parsing hostile text takes quadratic time: 0.7 s for 64 KiB."""


def _answered(candidates: list[Entry], module: Module, stub: str) -> Source:
    """The one of several files that answers a task: a copy of the stub is no answer. Two different answers are a problem."""
    names = " and ".join(one_line(str(entry.path), 80) for entry in candidates[:3])
    if len(candidates) > _MOST_CANDIDATES:
        return Source(problem=f"{names} and others hold the module {module.name}: keep one.")
    texts: dict[str, Source] = {}
    for entry in candidates:
        source = _source(entry)
        texts.setdefault(source.text.rstrip() or source.problem, source)
    answers = [source for source in texts.values() if source.problem or _answers_a_task(source.text, module, stub)]
    if len(answers) > 1:
        return Source(problem=f"{names} both hold the module {module.name}, with different answers: keep one.")
    return (answers or list(texts.values()))[0]


def _answers_a_task(source: str, module: Module, stub: str) -> bool:
    """Whether a file defines more for a task than the stub does, of this or an older version. One that can't be read may."""
    if source.rstrip() == stub.rstrip():  # whose code may be there to be mended
        return False
    if len(source) > _MOST_PARSED:
        return True
    names = {task.name for task in module.tasks}
    try:
        with warnings.catch_warnings(action="ignore"):
            nodes = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return any(name in source for name in names)
    return any(_is_answer(node) for node in nodes if names & set(defined_by(node)))


def _is_answer(node: ast.stmt) -> bool:
    """Whether a statement that defines a task is more than a stub."""
    if not isinstance(node, Definition):
        return True
    functions = [part for part in (node, *node.body) if isinstance(part, ast.FunctionDef)]
    return not functions or not all(_is_stub(function) for function in functions)


def _is_stub(function: ast.FunctionDef) -> bool:
    """Whether a function's body does nothing but raise NotImplementedError, if that, behind its docstring."""
    *before, last = function.body
    raises = isinstance(last, ast.Raise) and last.exc is not None and "NotImplementedError" in ast.unparse(last.exc).split("(")[0]
    return all(isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in before) and (
        raises or isinstance(last, ast.Pass) or (isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant))
    )


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
