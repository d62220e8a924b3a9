"""Finds the submissions in folders, archives, single files and git refs."""

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.archives import ARCHIVES, archived_files
from grader.submissions.choose import UNPACKED_ELSEWHERE, choose, module_entries
from grader.submissions.collect import RECORD
from grader.submissions.folders import expanded, folder_files, reader, top_files
from grader.submissions.ids import distinct_ids, submission_id
from grader.submissions.layouts import Child, Layout, NobodysFiles, Owner, recognise
from grader.submissions.names import file_names, meant
from grader.submissions.reading import METADATA, is_read, read_source
from grader.submissions.repositories import NoCommit, git_files
from grader.submissions.roster import Roster
from grader.submissions.sources import BadInput, Entry, Source, Submission, Unreadable, shown

__all__ = ["find_submissions", "read_submission"]


@dataclass(frozen=True)
class _Found:
    """A submission as it was found: the path to show, the name that its id is made from, and what is in it."""

    path: Path
    name: str
    sources: dict[str, Source]
    only: tuple[str, ...] = ()


class _NoModules(BadInput):
    """A path that exists, but holds nothing to grade."""

    def __init__(self, sentence: str, found: _Found | None = None) -> None:
        super().__init__(sentence)
        self.found = found
        """The row of a folder that somebody may have handed in, beside others."""


_NO_ROSTER = Roster()


def find_submissions(paths: Iterable[Path], course: Course, roster: Roster = _NO_ROSTER) -> tuple[list[Submission], list[str]]:
    """Read every submission that the paths name. A path is one submission, a folder of submissions, or a platform's download of a class.

    Each submission gets an id of its own; one that can't be read has a problem in each module, and the others go on.

    Args:
        paths: what to read.
        course: whose modules are looked for.
        roster: the ids of students whom platforms call otherwise.

    Returns: the submissions, and a sentence for each layout that was recognised, each file or folder that was passed over, and each
    submission that is not called by its name.
    Raises: BadInput if a path does not exist, if nothing is found at all, or if nothing says whose the files of a single path are.
    """
    found: list[_Found] = []
    notes: list[str] = []
    refused: list[BadInput] = []
    unread = 0
    for path in paths:
        try:
            some, more = _in_path(path, course, roster)
        except _NoModules as error:
            refused.append(error)
            if error.found:
                unread += 1
                found.append(error.found)
            else:
                notes.append(f"Passed over: {error}.")
        except (NoCommit, NobodysFiles) as error:
            refused.append(error)
            unread += 1
            found.append(_unreadable(path, _name(path), error, course))
        else:
            found += some
            notes += more
    if refused and len(found) == unread:
        raise refused[0]
    names = [roster.id_of(one.name) or one.name for one in found]
    ids = distinct_ids(names)
    for one, name, id in zip(found, names, ids, strict=True):
        if id != submission_id(name):
            notes.append(f"{shown(one.path)} is called {id!r} in all reports, because another submission has that name or looks like it.")
        notes += dict.fromkeys(f"{id}: {source.note}" for source in one.sources.values() if source.note)
    return [Submission(id, one.sources, one.only) for one, id in zip(found, ids, strict=True)], notes


def read_submission(path: Path, course: Course) -> Submission:
    """Read one submission: a folder, a module's .py or .ipynb, a .zip, a .tar.gz, or REPOSITORY@REF.

    If it can't be read, every module of the submission has a problem. Raises: BadInput.
    """
    found = _read(path, course)
    return Submission(submission_id(found.name), found.sources, found.only)


_Students = tuple[list[_Found], list[str]]
"""Submissions, and sentences about them."""


def _in_path(path: Path, course: Course, roster: Roster) -> _Students:
    """The submissions that one path names. Raises: BadInput."""
    try:
        if found := _download(path, course, roster):
            return found
        if path.is_dir() and not _is_one(path, course):
            return _children(path, course, roster)
    except (OSError, Unreadable):
        pass  # reading it as one submission says why
    return [_read(path, course)], []


def _download(path: Path, course: Course, roster: Roster, *, beside_others: bool = False) -> _Students | None:
    """The students of a class whose files a folder or an archive holds. None if it is one student's, or has a folder for each.

    `beside_others` says that it is itself one of several, so that it is a student's unless it clearly holds those of several.
    Raises: NobodysFiles, OSError, Unreadable.
    """
    if path.is_dir():
        return _in_folder(path, course, roster, beside_others)
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        return _in_archive(path, course, roster, beside_others)
    return None


def _is_one(path: Path, course: Course) -> bool:
    """Whether a folder is one student's: it holds modules itself, or is a repository in which no folder looks like a student's."""
    if module_entries(top_files(path, course), course):
        return True
    folders = [child for child in path.iterdir() if not child.name.startswith(".")]
    return os.path.lexists(path / ".git") and not any(module_entries(top_files(child, course), course) for child in folders)


# ---- several students in a folder


def _in_folder(path: Path, course: Course, roster: Roster, beside_others: bool) -> _Students | None:
    """Raises: NobodysFiles, OSError, Unreadable."""
    root = path
    for _ in range(_MOST_WRAPPERS):
        children = _listed(root)
        listed = read_source(METADATA, reader(root / METADATA)).text if any(child.name == METADATA for child in children) else ""
        loose = root == path and (not beside_others or _names_people(children, course))
        layout = recognise(children, listed, root.resolve().name, course, roster, loose=loose)
        if layout or len(children) != 1 or not children[0].is_folder:
            break
        root /= children[0].name
    if not layout or (beside_others and len(layout.students()) < 2):
        return None
    return _of_layout(layout, path, children, partial(_files_of, root, course), course, roster)


def _names_people(children: list[Child], course: Course) -> bool:
    return any(found.person for child in children if (found := meant(child.name, course)))


_MOST_WRAPPERS = 4


def _listed(folder: Path) -> list[Child]:
    """What lies in a folder and may be a student's. Raises: OSError."""
    return [
        Child(child.name, child.is_dir(), os.path.lexists(child / ".git"))
        for child in sorted(folder.iterdir())
        if not child.name.startswith((".", "__MACOSX")) and not child.is_symlink() and (child.is_dir() or child.is_file())
    ]


def _files_of(root: Path, course: Course, names: list[str]) -> list[Entry]:
    """The files of a student, who owns these children of a folder. Raises: Unreadable."""
    entries = []
    for name in names:
        child = root / name
        if child.is_dir():
            entries += _folder_entries(child, course)
        else:
            entry = Entry(PurePosixPath(name), partial(read_source, name, reader(child)) if is_read(name, course) else None)
            entries += expanded(root, [entry], course)
    return entries


def _folder_entries(folder: Path, course: Course) -> list[Entry]:
    """The files of a student's folder. Only if no module is among them are its archives looked into. Raises: Unreadable."""
    entries = folder_files(folder, course)
    return entries if module_entries(entries, course) else expanded(folder, entries, course)


def _children(folder: Path, course: Course, roster: Roster) -> _Students:
    """The submissions in a folder, and sentences about what was passed over. Raises: BadInput if there are none, OSError."""
    found, notes, others = list[_Found](), list[str](), list[str]()
    for child in sorted(folder.iterdir()):
        if child.name.startswith((".", "__MACOSX")):
            continue
        try:
            if child.is_symlink() or not (child.is_dir() or child.is_file()):
                what = "a link is not followed" if child.is_symlink() else "is neither a file nor a folder"
                notes.append(f"Passed over: {shown(child)}: {what}.")
            elif (child / "results.json").is_file() and not module_entries(top_files(child, course), course):
                notes.append(f"Passed over: {shown(child)}: the results of a run.")
            elif download := _download(child, course, roster, beside_others=True):
                found += download[0]
                notes += download[1]
            elif child.is_dir():
                found.append(_one(child, _folder_entries(child, course), course))
            elif meant(child.name, course):
                found.append(_read(child, course))
            elif child.name.lower().endswith(UNPACKED_ELSEWHERE):
                found.append(_unreadable(child, _name(child), Unreadable("pack a .zip or a .tar.gz instead."), course))
            elif child.name != RECORD:
                others.append(child.name)
        except NobodysFiles as error:
            found.append(_unreadable(child, _name(child), error, course))
        except (OSError, Unreadable) as error:
            found.append(_unreadable(child, _name(child), error, course))
    if not any(not source.missing for one in found for source in one.sources.values()):
        expected = f"expected {', '.join(file_names(course))}, or folders or archives that hold them"
        raise _NoModules(f"{shown(folder)} holds no submission: {expected}", _one(folder, _folder_entries(folder, course), course))
    return found, [*notes, *_not_read(folder, others)]


# ---- several students in an archive


def _in_archive(path: Path, course: Course, roster: Roster, beside_others: bool) -> _Students:
    """Raises: NobodysFiles, OSError, Unreadable."""
    whole = entries = archived_files(path, course)
    folder = _name(path)
    while True:
        children = _tops(entries)
        listed = next((entry.load().text for entry in entries if entry.load and str(entry.path) == METADATA), "")
        loose = not beside_others or _names_people(children, course)
        layout = recognise(children, listed, folder, course, roster, loose=loose)
        if layout or len(children) != 1 or not children[0].is_folder or children[0].name == "exercises":
            break
        folder = children[0].name
        entries = [_inside(entry) for entry in entries]
    if not layout and not beside_others:
        layout = _by_folder(children, entries, course)
    if not layout or (beside_others and len(layout.students()) < 2):
        return [_one(path, whole, course)], []

    below: dict[str, list[Entry]] = {}
    for entry in entries:
        below.setdefault(entry.path.parts[0], []).append(_inside(entry))

    def files(names: list[str]) -> list[Entry]:
        return [entry for name in names for entry in below[name]]

    return _of_layout(layout, path, children, files, course, roster)


def _tops(entries: list[Entry]) -> list[Child]:
    """What lies at the top of an archive."""
    tops: dict[str, bool] = {}
    for entry in entries:
        tops[entry.path.parts[0]] = tops.get(entry.path.parts[0], False) or len(entry.path.parts) > 1
    return [Child(name, is_folder) for name, is_folder in sorted(tops.items())]


def _inside(entry: Entry) -> Entry:
    """An entry by its path in the folder that it lies in; a file at the top stays."""
    return replace(entry, path=PurePosixPath(*entry.path.parts[1:])) if len(entry.path.parts) > 1 else entry


def _by_folder(children: list[Child], entries: list[Entry], course: Course) -> Layout | None:
    """Folders side by side that hold the same module are students'. One student would not hand in a module twice."""
    if module_entries([entry for entry in entries if len(entry.path.parts) == 1 or entry.path.parts[0] == "exercises"], course):
        return None
    modules = dict[str, set[str]]()
    for entry in module_entries(entries, course):
        found = meant(entry.path.name, course)
        modules.setdefault(entry.path.parts[0], set()).add(found.module if found else "")
    if sum(map(len, modules.values())) == len(set().union(*modules.values())):
        return None
    return Layout("a folder for each student", {child.name: (Owner(_stem(child.name)),) for child in children if child.is_folder})


# ---- what students own


def _of_layout(
    layout: Layout,
    path: Path,
    children: list[Child],
    files: Callable[[list[str]], list[Entry]],
    course: Course,
    roster: Roster,
) -> tuple[list[_Found], list[str]]:
    """The submissions of a layout, and the sentences that say whose each file is."""
    found = []
    for owner, names in layout.students().items():
        name = roster.id_of(owner.name, *owner.also, *names) or owner.name
        try:
            found.append(_Found(path / names[0], name, choose(files(names), course)))
        except (OSError, Unreadable) as error:
            found.append(_unreadable(path / names[0], name, error, course))
    students = layout.students()
    listed = [f"{one_line(owner.name, 60)} ({', '.join(one_line(name, 80) for name in names[:3])})" for owner, names in students.items()]
    more = f", and {len(listed) - _MOST_LISTED} more: `files` in results.json has them all" if len(listed) > _MOST_LISTED else ""
    count = f"{len(students)} student{'s' if len(students) != 1 else ''}"
    notes = [f"{shown(path)} is {layout.name}, with {count}: {', '.join(listed[:_MOST_LISTED])}{more}."]
    return found, [
        *notes,
        *_not_read(path, [child.name for child in children if child.name not in layout.owners and child.name != METADATA]),
    ]


_MOST_LISTED = 12


def _not_read(folder: Path, names: list[str]) -> list[str]:
    """The sentence about files in a folder that are nobody's."""
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"Not read in {shown(folder)}: {', '.join(one_line(name, 80) for name in names[:5])}{more}."]


# ---- one submission


def _read(path: Path, course: Course) -> _Found:
    """Raises: BadInput."""
    try:
        return _read_one(path, course)
    except (PermissionError, Unreadable) as error:
        return _unreadable(path, _name(path), error, course)
    except OSError as error:  # such as a name that is too long to exist
        raise BadInput(f"{shown(path)} can't be read ({error.strerror}): give another path") from None


def _read_one(path: Path, course: Course) -> _Found:
    """Raises: BadInput, Unreadable, OSError."""
    if not path.exists():
        return _read_commit(path, course)
    if path.is_dir():
        entries = _folder_entries(path, course)
        if not any(entry.load for entry in entries):
            raise _NoModules(f"{shown(path)} holds no {' or '.join(file_names(course))}", _one(path, entries, course))
        return _one(path, entries, course)
    if not stat.S_ISREG(path.stat().st_mode):
        raise _NoModules(f"{shown(path)} is neither a file nor a folder")
    if path.name.lower().endswith(ARCHIVES):
        return _one(path, archived_files(path, course), course)
    module = meant(path.name, course)
    if module is None:
        packed = path.name.lower().endswith(UNPACKED_ELSEWHERE)
        what = "this kind of archive is not read: pack" if packed else f"expected a file called {' or '.join(file_names(course))}, or"
        raise _NoModules(f"{shown(path)}: {what} a .zip or .tar.gz")
    entry = Entry(PurePosixPath(path.name), partial(read_source, path.name, reader(path)))
    return replace(_one(path, [entry], course), only=(module.module,))


def _one(path: Path, entries: list[Entry], course: Course) -> _Found:
    return _Found(path, _name(path), choose(entries, course))


def _read_commit(path: Path, course: Course) -> _Found:
    if path.is_symlink():
        raise _NoModules(f"{shown(path)} is a link to something that does not exist")
    repository, at, ref = str(path).rpartition("@")
    if not at or not Path(repository).is_dir():
        raise BadInput(f"{shown(path)} does not exist: give a folder, a .py, .ipynb, .zip or .tar.gz file, or REPOSITORY@REF")
    entries = git_files(Path(repository), ref, course)
    if not module_entries(entries, course):
        raise NoCommit(f"{shown(path)} holds no {' or '.join(file_names(course))}")
    return _one(path, entries, course)


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
    return _stem(path.name)


def _stem(name: str) -> str:
    """A file's name without the ending that says what it is."""
    return re.sub(r"(\.zip|\.tar\.gz|\.tgz|\.py|\.ipynb|\.rar|\.7z)$", "", name, flags=re.IGNORECASE)


def _unreadable(path: Path, name: str, error: OSError | Unreadable | BadInput, course: Course) -> _Found:
    """A submission that is there, but can't be read: a problem in each module."""
    if isinstance(error, NoCommit):
        missing = f"it has no commit, branch or tag of this name with {' or '.join(file_names(course))} in it"
        error = Unreadable(f"{missing}. Write another name after the @.")
    why = str(error) if not isinstance(error, OSError) else f"{error.strerror}. Give the grader the right to read it."
    what = path.name if os.path.lexists(path) else name
    problem = Source(problem=why if isinstance(error, NobodysFiles) else f"{one_line(what)} can't be read: {why}")
    return _Found(path, name, {module.name: problem for module in course.modules})
