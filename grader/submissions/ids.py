"""The one rule for a submission's id: what a name becomes, which ids look alike, and how each submission gets an id of its own.

An id is what people read in reports, so it holds only what can be seen. Letters of any script, digits, spaces and ordinary signs stay as
they are. Ids that could be taken for each other, by a reader or by a file system that ignores case, get a number.
"""

import re
import unicodedata
from collections.abc import Sequence

__all__ = ["can_name_a_student", "distinct_ids", "look", "submission_id"]

LONGEST = 100
"""Characters of an id."""
_LONGEST_FOLDER = 240
"""Bytes. File systems take 255."""
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs")
"""Unicode's categories for control, format, unassigned and private characters, and for bytes that are no text."""
_FILLERS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that nobody sees: Unicode calls them ignorable by default."""
_BLANKS = re.compile("[\\s\u2800]+")
_TWINS = str.maketrans(
    "аеорсухіјѕһԁԛԝӏгвкмнтґєɡıαορντυικχγεημβζ",
    "aeopcyxijshdqwlrbkmhtregiaopvtuikxyenmbz",
)
"""Cyrillic and Greek letters whose small or capital form looks like a Latin one, in lower case. No complete list: see UTS 39."""
_STUDENT = re.compile(r"[^\W_][\w .@+'’-]*")


def submission_id(name: str) -> str:
    """The id for a folder, file or commit of this name: at most 100 characters, all of which can be seen, in Unicode's form NFC."""
    text = _FILLERS.sub("", _ESCAPE_SEQUENCE.sub("", name[: 40 * LONGEST]))
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _UNSEEN)
    text = _BLANKS.sub(" ", unicodedata.normalize("NFC", text)).strip()
    if not text.strip(". "):
        return "unnamed"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def look(id: str) -> str:
    """What a reader takes in of an id. Ids of the same look could be taken for each other: other case, full width, another alphabet."""
    wide = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", id).lower())
    return _BLANKS.sub(" ", wide.translate(_TWINS)).strip()


def can_name_a_student(id: str) -> bool:
    """True if an id from a list can also be the name of a folder: letters, digits, spaces and ``. _ - @ + '``, a letter or digit first."""
    unmarked = "".join(c for c in id if not unicodedata.category(c).startswith("M"))  # \w leaves out marks, which many scripts need
    return id == submission_id(id) and len(id.encode()) <= _LONGEST_FOLDER and _STUDENT.fullmatch(unmarked) is not None


def distinct_ids(names: Sequence[str]) -> list[str]:
    """An id for each name, in their order. No two ids look alike: a later one of the same look gets a number, as in "anna (2)".

    A name that is its own id comes before one that had to be changed, so that nobody loses an id to a disguise of it.
    """
    ids = [submission_id(name) for name in names]
    taken: set[str] = set()
    order = sorted(range(len(ids)), key=lambda index: (ids[index] != names[index], index))
    late = []
    for index in order:
        if look(ids[index]) in taken:
            late.append(index)
        taken.add(look(ids[index]))
    numbers: dict[str, int] = {}
    for index in late:
        ids[index] = _numbered(ids[index], taken, numbers)
        taken.add(look(ids[index]))
    return ids


def _numbered(id: str, taken: set[str], numbers: dict[str, int]) -> str:
    """The first of "id (2)", "id (3)" and so on whose look is not taken. `numbers` says where the search for a look goes on."""
    key = look(id)
    while True:
        numbers[key] = numbers.get(key, 1) + 1
        ending = f" ({numbers[key]})"
        made = id[: LONGEST - len(ending)] + ending
        if look(made) not in taken:
            return made
