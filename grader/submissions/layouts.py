"""Tells whose each file of a download is: the layouts of Canvas, Moodle, Gradescope, GitHub Classroom, and folders of loose notebooks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.archives import ARCHIVES
from grader.submissions.names import CANVAS, MOODLE, meant, without_platform
from grader.submissions.reading import is_notebook
from grader.submissions.roster import Roster
from grader.submissions.sources import BadInput

__all__ = ["Child", "Layout", "NobodysFiles", "Owner", "recognise"]


class NobodysFiles(BadInput):
    """Several students' files lie side by side, and nothing says whose they are."""


@dataclass(frozen=True)
class Owner:
    """A student of a download."""

    name: str
    also: tuple[str, ...] = ()
    """What else a roster may call the student: a number, an e-mail address, a file."""


@dataclass(frozen=True)
class Child:
    """What lies at the top of a folder or an archive."""

    name: str
    is_folder: bool
    is_repository: bool = False


@dataclass(frozen=True)
class Layout:
    """A download, and whose its parts are. A part that a group handed in has several owners."""

    name: str
    owners: dict[str, tuple[Owner, ...]]
    """By the name of the child."""

    def students(self) -> dict[Owner, list[str]]:
        """The children of each student."""
        found: dict[Owner, list[str]] = {}
        for child, owners in self.owners.items():
            for owner in owners:
                found.setdefault(owner, []).append(child)
        return found


def recognise(
    children: Sequence[Child], metadata: str, folder: str, course: Course, roster: Roster, *, loose: bool = True
) -> Layout | None:
    """The layout of a download, by the names at its top. None if it is none that we know.

    Args:
        children: what lies at its top.
        metadata: Gradescope's list, if there is one.
        folder: the name of the folder.
        course: whose modules are looked for.
        roster: may say whose a loose file is.
        loose: whether files of one module side by side are looked for.

    Raises: NobodysFiles.
    """
    return (
        _gradescope(children, metadata)
        or _of_platform("Moodle", MOODLE, children)
        or _canvas(children, course)
        or _classroom(children, folder)
        or (_loose(children, folder, course, roster) if loose else None)
    )


_NOBODY = ("Participant", "Teilnehmer", "Teilnehmer-in", "Teilnehmerin")
"""What Moodle calls everybody where names are hidden."""


def _canvas(children: Sequence[Child], course: Course) -> Layout | None:
    """Where one name can only be Canvas's, others of that form are, too, whatever the student called the file."""
    if not any(_may_be_of_canvas(child, course) and CANVAS.fullmatch(child.name[:400]) for child in children):
        return None
    return _of_platform("Canvas", CANVAS, [child for child in children if not child.is_folder or _may_be_of_canvas(child, course)])


def _may_be_of_canvas(child: Child, course: Course) -> bool:
    """Canvas downloads files, no folders. A name with two numbers in it is a Canvas name if what follows can be handed in."""
    archive = child.name.lower().endswith(ARCHIVES)
    name = without_platform(child.name)
    suffix = name.rpartition(".")[2].lower()
    return (archive or not child.is_folder) and (archive or meant(name, course) is not None or suffix not in ("py", "ipynb"))


def _of_platform(name: str, pattern: Any, children: Sequence[Child]) -> Layout | None:
    """Canvas and Moodle write the student into each name."""
    found = {child.name: parts for child in children if len(child.name) < 400 and (parts := pattern.fullmatch(child.name))}
    people = {child: (parts["student"].strip(), parts["user"]) for child, parts in found.items()}
    names = [name for name, _ in set(people.values())]
    owners: dict[str, tuple[Owner, ...]] = {
        child: (Owner(student if names.count(student) == 1 and student not in _NOBODY else f"{student} {user}", (student, user)),)
        for child, (student, user) in people.items()
    }
    return Layout(f"a download of {name}", owners) if found else None


def _gradescope(children: Sequence[Child], metadata: str) -> Layout | None:
    """Gradescope's export has a folder for each submission, and a list of who handed it in: one student, or a group."""
    try:
        listed = yaml.load(metadata, Loader=_AnyTag) if metadata else None
    except (yaml.YAMLError, RecursionError, ValueError):
        listed = None
    if not isinstance(listed, Mapping):
        return None
    owners = {}
    listed_folders = [str(name) for name in listed if re.fullmatch(r"submission_\d+", str(name))]
    for folder in dict.fromkeys([child.name for child in children if child.is_folder] + listed_folders):
        entry = listed.get(folder)
        people = (entry.get(":submitters") or entry.get("submitters")) if isinstance(entry, Mapping) else None
        named = [_submitter(person) for person in people if isinstance(person, Mapping)] if isinstance(people, list) else []
        owners[folder] = tuple(dict.fromkeys(owner for owner in named if owner.name)) or (Owner(folder),)
    return Layout("an export of Gradescope", owners) if owners else None


def _submitter(person: Mapping[Any, Any]) -> Owner:
    name, *also = (_word(person.get(f":{key}") or person.get(key)) for key in ("name", "sid", "email"))
    return Owner(name, tuple(filter(None, also)))


def _word(value: object) -> str:
    """A name or a number. Anything else is none: the text of a list of aliases can be endless."""
    return str(value) if isinstance(value, str | int) else ""


class _AnyTag(yaml.SafeLoader):  # type: ignore[misc]
    """Reads what Ruby writes as plain data."""


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node)
    return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else str(node.value)


_AnyTag.add_multi_constructor("", _plain)


def _classroom(children: Sequence[Child], folder: str) -> Layout | None:
    """GitHub Classroom calls a repository ASSIGNMENT-STUDENT, and a folder of clones ASSIGNMENT-submissions."""
    folders = [child.name for child in children if child.is_folder]
    names = [child.name for child in children if child.is_repository]
    assignment = folder.removesuffix("-submissions") + "-"
    if names and all(name.startswith(assignment) for name in folders):
        names = folders  # one that is no repository is a student's all the same
    if not names or len(names) < len(folders):
        return None
    if not all(name.startswith(assignment) for name in names):
        assignment = _common(names) if len(names) > 1 else ""
    if not assignment or not all(name.removeprefix(assignment) for name in names):
        return None
    return Layout("clones of GitHub Classroom", {name: (Owner(name.removeprefix(assignment), (name,)),) for name in names})


def _common(names: Sequence[str]) -> str:
    """How all names begin, up to a hyphen."""
    first, last = min(names), max(names)
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))
    return first[: first.rfind("-", 0, same) + 1]


def _loose(children: Sequence[Child], folder: str, course: Course, roster: Roster) -> Layout | None:
    """Files of one module side by side, such as a folder of Google Drive. Each must say whose it is. Raises: NobodysFiles."""
    files = {child.name: found for child in children if not child.is_folder and (found := meant(child.name, course))}
    kinds = [(found.module, is_notebook(name)) for name, found in files.items()]
    if len(set(kinds)) == len(kinds) and not any(found.person for found in files.values()):
        return None
    people = {name: found.person or roster.id_of(name) for name, found in files.items()}
    if unknown := [name for name, person in people.items() if not person]:
        names = ", ".join(one_line(name, 60) for name in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise NobodysFiles(
            f"{one_line(folder)} holds several files of one module, and nothing says whose these are: {names}{more}. Put each student's "
            'files into a folder of its own, begin each name with the student, as in "Anna Lee - tensor_ops.ipynb", or name the files in '
            "--roster. If all are one student's, keep one file for each module."
        )
    named = {person: tuple(name for name, other in people.items() if other == person) for person in people.values()}
    return Layout("files with a student's name each", {name: (Owner(person, named[person]),) for name, person in people.items()})
