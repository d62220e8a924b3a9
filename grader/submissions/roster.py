"""A class list: which id belongs to what platforms call a student."""

import csv
import io
import itertools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from grader.base.text import one_line
from grader.submissions.ids import look, submission_id
from grader.submissions.sources import BadInput

__all__ = ["Roster"]

_IDS = ("id", "identifier", "student_id", "student id", "sis login id", "username", "sis user id")
"""What the column of ids may be called, in the order of preference."""


_NUMBERS = re.compile(r"id|num|nr|user|canvas|matr", re.IGNORECASE)
"""The columns in which a number can stand for a student."""
_PARTS = re.compile(r"first|last|given|family|forename|surname|vorname|nachname|pr[eé]nom|apellido", re.IGNORECASE)
"""The columns that hold a part of a name. Two of them together name a student, and one alone does not."""
_TRANSCRIBED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"})


@dataclass(frozen=True)
class Roster:
    """The ids of a class, by the names, numbers, addresses and files that belong to each."""

    ids: tuple[str, ...] = ()
    by_name: dict[str, str] = field(default_factory=dict)
    """By `_keys_of`. A name that two students share is left out."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a CSV file with a column `id`. Whatever stands in a row's other columns is a name of this student. Raises: BadInput."""
        try:
            text = path.read_text(encoding="utf-8-sig")
            separator = max(",;\t", key=text.partition("\n")[0].count)
            reader = csv.DictReader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
            rows = list(reader)
        except (OSError, UnicodeError, csv.Error) as error:
            raise BadInput(f"{path} can't be read ({one_line(str(error))}): give a class list as CSV in UTF-8") from None
        header = [name.strip().lower() for name in reader.fieldnames or []]
        columns = {str(name).strip().lower(): name for name in (rows[0] if rows else {}) if name}
        if len(set(header)) < len(header) or any(None in row for row in rows):
            raise BadInput(f"{path} has rows with more cells than columns, or a column twice: put names with a comma between quotes")
        column = next((columns[name] for name in _IDS if name in columns), None)
        if column is None:
            raise BadInput(f"{path} has no column of ids: call one `id`, and put names, numbers or files into the others")
        ids, called = list[str](), list[tuple[str, str]]()
        for number, row in enumerate(rows, 2):
            id = (row[column] or "").strip()
            if not id:
                continue
            if id != submission_id(id):
                raise BadInput(f"{path}, line {number}: {one_line(id)!r} can't be an id: use at most 100 characters that can be seen")
            if any(look(id) == look(other) for other in ids):
                raise BadInput(f"{path}, line {number}: the id {id} stands there twice: give each student one line")
            ids.append(id)
            cells = {name: value for name, value in row.items() if isinstance(value, str)}
            parts = [value for name, value in cells.items() if _PARTS.search(name) and value.strip()]
            wholes = [value for name, value in cells.items() if not _PARTS.search(name) and _may_name(name, value)]
            called += [(id, value) for value in [*wholes, *map(" ".join, itertools.permutations(parts, 2))]]
        return cls(tuple(ids), _by_name(called))

    @classmethod
    def of(cls, ids: Iterable[str]) -> Self:
        """A class of which only the ids are known. An id that could be taken for another one's name is left out."""
        ids = tuple(ids)
        return cls(ids, _by_name((id, id) for id in ids))

    def id_of(self, *names: str) -> str:
        """The id of the student whom one of these names means. Empty if there is none."""
        return next((self.by_name[key] for name in names for key in _keys(name) if key in self.by_name), "")

    def absent(self, found: Iterable[str]) -> list[str]:
        """The ids that are not among those found."""
        seen = {look(id) for id in found}
        return [id for id in self.ids if look(id) not in seen]


def _by_name(called: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The ids by everything that names one student and no other, from pairs of an id and a name."""
    owners: dict[str, set[str]] = {}
    for id, name in called:
        for key in _keys_of(name):
            owners.setdefault(key, set()).add(id)
    return {key: next(iter(some)) for key, some in owners.items() if len(some) == 1}


def _may_name(column: str, value: str) -> bool:
    """Points are nobody's name."""
    return not value.strip().isdigit() or _NUMBERS.search(column) is not None


def _keys(name: str) -> list[str]:
    """How a name is looked up: as it is read; as Canvas writes it, all in one, the last name first; and in any order of its words."""
    words = re.findall(r"[^\W_]+", look(name))
    keys = [look(name), "".join(words), "".join(words[-1:] + words[:-1]), " ".join(["any order:", *sorted(words)])]
    return list(dict.fromkeys(keys)) if words else []


def _keys_of(name: str) -> set[str]:
    """How the name of somebody in the list may be looked up. Platforms write Müller, Muller, Mueller or Mller."""
    lower = unicodedata.normalize("NFC", name).lower()
    ways = [name]
    if all(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in lower):
        ways += [re.sub(r"[^\x00-\x7f]", "", way) for way in (unicodedata.normalize("NFKD", lower), lower.translate(_TRANSCRIBED), lower)]
    return {key for way in ways for key in _keys(way)}
