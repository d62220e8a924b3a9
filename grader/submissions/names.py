"""What a file's name says: which module it means, and what browsers, systems and platforms have added to it."""

import difflib
import re
import unicodedata
from dataclasses import dataclass

from grader.course.manifest import Course

__all__ = ["Meant", "file_names", "meant", "module_of", "resembled", "without_platform"]


@dataclass(frozen=True)
class Meant:
    """The module that a file's name means."""

    module: str
    exact: bool
    """Whether it is the name that the course gives it."""
    person: str = ""
    """Who else is named, as in "Anna Lee - tensor_ops.ipynb"."""


def file_names(course: Course) -> list[str]:
    """The file names of the course's modules."""
    return [f"{module.name}.py" for module in course.modules]


def module_of(name: str, course: Course) -> str | None:
    """The module that a file of exactly this name holds, or None."""
    names = {f"{module.name}{suffix}": module.name for module in course.modules for suffix in (".py", ".ipynb")}
    return names.get(name)


def meant(name: str, course: Course) -> Meant | None:
    """The module that a file's name means, or None.

    A name is understood with other capitals, with hyphens or spaces for underscores, and with what copying, downloading and sharing add:
    "tensor_ops (1).py", "tensor_ops-2.ipynb", "Copy of tensor_ops.ipynb", "tensor_ops.py.txt", "Anna Lee - tensor_ops.ipynb".
    """
    if module := module_of(name, course):
        return Meant(module, exact=True)
    if len(name) > _LONGEST or not (parts := _NAME.fullmatch(unicodedata.normalize("NFKC", name))):
        return None
    modules = {module.name.lower(): module.name for module in course.modules}
    stem = parts["stem"]
    if found := modules.get(_plain(stem)):
        return Meant(found, exact=False)
    before, dash, after = stem.partition(" - ")
    for person, rest in ((before, after), (after, before)) if dash else ():
        if person.strip() and (found := modules.get(_plain(rest))):
            return Meant(found, exact=False, person=person.strip())
    return None


def resembled(name: str, course: Course) -> str | None:
    """The module that this file's name nearly holds, as in "my_tensor_ops_final.py" and "tensorops.py". A test of a module is none."""
    if len(name) > _LONGEST or not (parts := _NAME.fullmatch(name)):
        return None
    plain = _plain(parts["stem"])
    words, names = f"_{plain}_", {module.name.lower(): module.name for module in course.modules}
    found = [name for name in names if f"_{name}_" in words] or difflib.get_close_matches(plain, names, 1, 0.85)
    return names[max(found, key=len)] if found and not words.startswith(("_test_", "_.")) else None


def without_platform(name: str) -> str:
    """The name that the student gave a file, without what Canvas or Moodle put before it."""
    for pattern in (CANVAS, MOODLE):
        if parts := pattern.fullmatch(name):
            return parts["name"] or name
    return name


CANVAS = re.compile(r"(?P<student>[^/]+?)_(?P<late>LATE_)?(?P<user>\d+)_(?P<file>\d+)_(?P<name>[^/]+)", re.DOTALL)
"""What Canvas calls a file in its download of all submissions: student, user, attachment, and the file's own name."""
MOODLE = re.compile(r"(?P<student>[^/]+?)_(?P<user>\d+)_assignsubmission_(?P<kind>file|onlinetext)(?:_(?P<name>[^/]*))?", re.DOTALL)
"""What Moodle calls a student's folder, or a student's file where the download has no folders."""

_LONGEST = 255
_NAME = re.compile(r"(?P<stem>.+?)(?:\.(?:py|ipynb))+(?:\.(?:txt|json))?", re.IGNORECASE | re.DOTALL)
_COPY = "copy|kopie|copie|copia|cópia"
_BEFORE = re.compile(rf"\s*(?:(?:{_COPY}) (?:of|von|de) )+")
_BEHIND = re.compile(rf"(?:[\s_-]*\(\d+\)|[\s_-]+(?:{_COPY})|[\s-]+\d+|\s+)$")


def _plain(stem: str) -> str:
    """A stem as a module's name would be written: small letters, underscores, and nothing that copying adds."""
    stem = _BEFORE.sub("", stem.lower(), count=1) if _BEFORE.match(stem.lower()) else stem.lower()
    for _ in range(4):
        stem = _BEHIND.sub("", stem)
    return re.sub(r"[\s-]+", "_", stem.strip())
