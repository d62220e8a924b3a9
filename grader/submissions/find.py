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
from grader.submissions.choose import UNPACKED_ELSEWHERE, answers, choose, module_entries
from grader.submissions.collect import RECORD
from grader.submissions.folders import expanded, folder_files, reader, top_files
from grader.submissions.ids import distinct_ids, submission_id
from grader.submissions.layouts import Child, Layout, NobodysFiles, Owner, recognise
from grader.submissions.names import file_names, meant, module_of, resembled
from grader.submissions.reading import METADATA, is_read, read_source
from grader.submissions.repositories import NoCommit, git_files
from grader.submissions.roster import Roster
from grader.submissions.sources import BadInput, Entry, Source, Submission, Unreadable, shown

__all__ = ["find_submissions", "read_submission"]


@dataclass(frozen=True, eq=False)
class _Found:
    """A submission as it was found: the path to show, the name that its id is made from, and what is in it."""

    path: Path
    name: str
    sources: dict[str, Source]
    only: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """What else a class list may call the student."""


class _NoModules(BadInput):
    """A path that exists, but holds nothing to grade."""

    def __init__(self, sentence: str, found: _Found | None = None) -> None:
        super().__init__(sentence)
        self.found = found
        """The row of a folder that somebody may have handed in, beside others."""


_NO_ROSTER = Roster()


def find_submissions(
    paths: Iterable[Path], course: Course, roster: Roster = _NO_ROSTER, *, each_is_one: bool = False
) -> tuple[list[Submission], list[str]]:
    """Read every submission that the paths name. A path is one submission, a folder of submissions, or a platform's download of a class.

    Each submission gets an id of its own; one that can't be read has a problem in each module, and the others go on.

    Args:
        paths: what to read.
        course: whose modules are looked for.
        roster: the ids of students whom platforms call otherwise.
        each_is_one: whether each path is one student's, whatever it looks like.

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
            some, more = ([_read(path, course)], []) if each_is_one else _in_path(path, course, roster)
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
    names, said = _listed_names(found, roster)
    notes += said
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


def _listed_names(found: list[_Found], roster: Roster) -> tuple[list[str], list[str]]:
    """What each submission is called, by its id in the class list where it has one, and the sentences about that."""
    claims: dict[str, list[_Found]] = {}
    for one in found:
        if id := roster.id_of(one.name, *one.also):
            claims.setdefault(id, []).append(one)
    names = {some[0]: id for id, some in claims.items() if len(some) == 1}
    taken = [f"{one_line(one.name, 60)} is {id}" for one, id in names.items() if one.name != id]
    more = f", and {len(taken) - _MOST_LISTED} more" if len(taken) > _MOST_LISTED else ""
    said = [f"By the class list: {', '.join(taken[:_MOST_LISTED])}{more}."] if taken else []
    said += [
        f"{_some([one.name for one in some])} may each be {id} of the class list, so each keeps the name that it has."
        for id, some in claims.items()
        if len(some) > 1
    ]
    return [names.get(one, one.name) for one in found], said


_Students = tuple[list[_Found], list[str]]
"""Submissions, and sentences about them."""


def _in_path(path: Path, course: Course, roster: Roster) -> _Students:
    """The submissions that one path names. Raises: BadInput."""
    try:
        if path.is_dir():
            return _in_folder(path, course, roster)
        if path.is_file() and path.name.lower().endswith(ARCHIVES):
            return _in_archive(path, course, roster)
    except (OSError, Unreadable):
        pass  # reading it as one submission says why
    return [_read(path, course)], []


# ---- several students in a folder


def _in_folder(path: Path, course: Course, roster: Roster) -> _Students:
    """The submissions of a folder: a platform's download, one student's work, or a folder for each student.

    Raises: BadInput, OSError, Unreadable.
    """
    root = path
    for _ in range(_MOST_WRAPPERS):
        children = _listed(root)
        listed = read_source(METADATA, reader(root / METADATA)).text if any(child.name == METADATA for child in children) else ""
        layout = recognise(children, listed, root.resolve().name, course, roster, loose=root == path)
        if layout or len(children) != 1 or not children[0].is_folder:
            break
        root /= children[0].name
    if layout:
        found, notes = _of_layout(layout, path, partial(_files_of, root, course), course, roster)
        others, more = _children(root, course, [child for child in root.iterdir() if child.name not in layout.owners])
        return found + others, [*notes, *more]
    if _is_one(path, course):
        return [_read(path, course)], []
    found, notes = _children(path, course, list(path.iterdir()))
    if not any(not source.missing for one in found for source in one.sources.values()):
        expected = f"expected {', '.join(file_names(course))}, or folders or archives that hold them"
        raise _NoModules(f"{shown(path)} holds no submission: {expected}", _one(path, _folder_entries(path, course), course))
    return found, notes


_MOST_WRAPPERS = 4


def _is_one(path: Path, course: Course) -> bool:
    """Whether a folder is one student's: it holds modules itself, or is a repository in which no folder looks like a student's.

    Raises: NobodysFiles if it holds modules itself and folders that look like students', too.
    """
    own = module_entries(top_files(path, course), course)
    if own and not os.path.lexists(path / ".git"):
        folders = [child.name for child in _listed(path) if child.is_folder and child.name != "exercises"]
        students = [name for name in folders if module_entries(top_files(path / name, course), course)]
        if len(students) > 1:
            raise NobodysFiles(
                f"{one_line(path.name)} holds {one_line(own[0].path.name)} and folders that do, too ({_some(students)}). If these are "
                "students', move the files beside them elsewhere; if all is one student's, keep one file for each module."
            )
    if own:
        return True
    folders_of_all = [child for child in path.iterdir() if not child.name.startswith(".")]
    return os.path.lexists(path / ".git") and not any(module_entries(top_files(child, course), course) for child in folders_of_all)


def _some(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(one_line(name, 60) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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
        elif child.exists():
            entry = Entry(PurePosixPath(name), partial(read_source, name, reader(child)) if is_read(name, course) else None)
            entries += expanded(root, [entry], course)
    return entries


def _folder_entries(folder: Path, course: Course) -> list[Entry]:
    """The files of a student's folder. Only if no answer is among them are its archives looked into. Raises: Unreadable."""
    entries = folder_files(folder, course)
    packed = any(entry.path.name.lower().endswith(ARCHIVES) for entry in entries)
    return expanded(folder, entries, course) if packed and not answers(entries, course) else entries


def _children(folder: Path, course: Course, children: list[Path]) -> _Students:
    """The submissions among the children of a folder, and a sentence about what was passed over."""
    found, notes, others = list[_Found](), list[str](), list[str]()
    for child in sorted(children):
        if child.name.startswith((".", "__MACOSX")):
            continue
        try:
            elsewhere = child.is_symlink() and not child.resolve().is_relative_to(folder.resolve())
            if elsewhere and not module_of(child.name, course) and (child.is_dir() or _may_be_a_students(child.name, course)):
                link = Unreadable("it is a link, which is not followed. Put a copy of what it leads to in its place.")
                found.append(_unreadable(child, _stem(child.name), link, course))
            elif child.is_symlink() or not (child.is_dir() or child.is_file()):
                what = "a link is not followed" if child.is_symlink() else "is neither a file nor a folder"
                notes.append(f"Passed over: {shown(child)}: {what}.")
            elif (child / ".store").is_dir() and (child / "results.json").is_file():
                notes.append(f"Passed over: {shown(child)}: the results of a run.")
            elif child.is_dir():
                found.append(_student(child, _folder_entries(child, course), course))
            elif child.name.lower().endswith(ARCHIVES):
                found.append(_student(child, archived_files(child, course), course))
            elif meant(child.name, course) or resembled(child.name, course):
                found.append(_student(child, _files_of(folder, course, [child.name]), course))
            elif child.name.lower().endswith(UNPACKED_ELSEWHERE):
                found.append(_unreadable(child, _name(child), Unreadable("pack a .zip or a .tar.gz instead."), course))
            elif child.name not in (RECORD, METADATA):
                others.append(child.name)
        except (OSError, Unreadable) as error:
            found.append(_unreadable(child, _name(child), error, course))
    return found, [*notes, *_not_read(folder, others)]


def _student(path: Path, entries: list[Entry], course: Course) -> _Found:
    """What a folder or an archive among others holds: one student's work. If it seems to be several students', that is its problem."""
    people = _people(entries, course)
    if not people:
        return _one(path, entries, course)
    what = f"{one_line(path.name)} seems to hold the work of several students ({_some(people)})."
    problem = Source(problem=f"{what} If so, give `grader grade` its path alone; if not, keep one file for each module, at its top.")
    return _Found(path, _name(path), {module.name: problem for module in course.modules})


def _people(entries: list[Entry], course: Course) -> list[str]:
    """The students whose work files seem to be, if they are several: by their names, or because several folders hold modules."""
    own = module_entries([entry for entry in entries if len(entry.path.parts) == 1 or entry.path.parts[0] == "exercises"], course)
    if any(module_of(entry.path.name, course) for entry in own):
        return []
    children, inside = _tops(entries), entries
    while len(children) == 1 and children[0].is_folder and children[0].name != "exercises":
        inside = [_inside(entry) for entry in inside]
        children = _tops(inside)
    persons = {found.person for entry in own if (found := meant(entry.path.name, course)) and found.person}
    layout = recognise(children, "", "", course, Roster(), loose=False) or _by_folder(children, inside, course)
    names = list(dict.fromkeys(owner.name for owner in layout.students())) if layout else sorted(persons)
    return names if len(names) > 1 else []


# ---- several students in an archive


def _in_archive(path: Path, course: Course, roster: Roster) -> _Students:
    """Raises: NobodysFiles, OSError, Unreadable."""
    whole = entries = archived_files(path, course)
    folder = _name(path)
    while True:
        children = _tops(entries)
        listed = next((entry.load().text for entry in entries if entry.load and str(entry.path) == METADATA), "")
        layout = recognise(children, listed, folder, course, roster)
        if layout or len(children) != 1 or not children[0].is_folder or children[0].name == "exercises":
            break
        folder = children[0].name
        entries = [_inside(entry) for entry in entries]
    by_folder = _by_folder(children, entries, course)
    if layout:
        others = [child for child in children if child.name not in layout.owners]
        names = [child.name for child in others if child.is_folder or _may_be_a_students(child.name, course)]
        layout = replace(layout, owners=layout.owners | {name: (Owner(_stem(name), (name,)),) for name in names})
    layout = layout or by_folder
    if not layout:
        return [_one(path, whole, course)], []
    below: dict[str, list[Entry]] = {}
    for entry in entries:
        below.setdefault(entry.path.parts[0], []).append(_inside(entry))

    def files(names: list[str]) -> list[Entry]:
        return [entry for name in names for entry in below.get(name, [])]

    found, notes = _of_layout(layout, path, files, course, roster)
    return found, [
        *notes,
        *_not_read(path, [child.name for child in children if child.name not in layout.owners and child.name != METADATA]),
    ]


def _may_be_a_students(name: str, course: Course) -> bool:
    """Whether a file of this name may be what a student handed in."""
    return name.lower().endswith((*ARCHIVES, *UNPACKED_ELSEWHERE)) or bool(meant(name, course) or resembled(name, course))


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
    """Folders or archives side by side that hold modules, with none beside them, are students'."""
    if module_entries([entry for entry in entries if len(entry.path.parts) == 1 or entry.path.parts[0] == "exercises"], course):
        return None
    if len({entry.path.parts[0] for entry in module_entries(entries, course)}) < 2:
        return None
    students = [child.name for child in children if child.is_folder or _may_be_a_students(child.name, course)]
    return Layout("a folder or archive for each student", {name: (Owner(_stem(name), (name,)),) for name in students})


# ---- what students own


def _of_layout(
    layout: Layout,
    path: Path,
    files: Callable[[list[str]], list[Entry]],
    course: Course,
    roster: Roster,
) -> tuple[list[_Found], list[str]]:
    """The submissions of a layout, and the sentences that say whose each file is."""
    found, students = [], layout.students()
    for owner, names in students.items():
        try:
            one = _Found(path / names[0], owner.name, choose(files(names), course))
        except (OSError, Unreadable) as error:
            one = _unreadable(path / names[0], owner.name, error, course)
        found.append(replace(one, also=(*owner.also, *names)))
    listed = [f"{one_line(owner.name, 60)} ({', '.join(one_line(name, 80) for name in names[:3])})" for owner, names in students.items()]
    more = f", and {len(listed) - _MOST_LISTED} more: `files` in results.json has them all" if len(listed) > _MOST_LISTED else ""
    count = f"{len(students)} student{'s' if len(students) != 1 else ''}"
    return found, [f"{shown(path)} is {layout.name}, with {count}: {', '.join(listed[:_MOST_LISTED])}{more}."]


_MOST_LISTED = 12


def _not_read(folder: Path, names: list[str]) -> list[str]:
    """The sentence about files in a folder that are nobody's."""
    if not names:
        return []
    return [f"Not read in {shown(folder)}: {_some(names)}."]


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
