"""Which hand-ins look alike, and where."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from grader.similar.fingerprints import Fingerprints, fingerprints, tokens

__all__ = ["Pair", "Text", "alike"]

FEWEST_SHARED = 4
"""Two texts that share fewer rare fingerprints are not called alike, however short they are."""
_COMMON_SHARE, _COMMON_STUDENTS = 0.2, 4
"""What more than this share of a class has, and more than so many students, is nobody's own."""


@dataclass(frozen=True)
class Text:
    """A student's module."""

    student: str
    module: str
    source: str


@dataclass(frozen=True)
class Pair:
    """Two texts that look alike. `share` is the part of the shorter one's own fingerprints that the other has, too."""

    one: Text
    other: Text
    share: float
    shared: int
    lines: tuple[frozenset[int], frozenset[int]]
    """The lines of each that are in the other."""


def alike(texts: Sequence[Text], given: Mapping[str, Iterable[str]], least: float = 0.5) -> list[Pair]:
    """The pairs of one module that share at least this part of what is their own, the most alike first.

    Args:
        texts: the hand-ins.
        given: by module, what everybody has or may have: the stub, the reference.
        least: between 0 and 1.
    """
    pairs: list[Pair] = []
    for module in dict.fromkeys(text.module for text in texts):
        own = [text for text in texts if text.module == module]
        known = {mark for source in given.get(module, ()) for mark in fingerprints(tokens(source))}
        pairs += _alike(own, known, least)
    return sorted(pairs, key=lambda pair: (-pair.share, -pair.shared, pair.one.student, pair.other.student))


def _alike(texts: Sequence[Text], known: set[int], least: float) -> list[Pair]:
    marks: list[Fingerprints] = [fingerprints(tokens(text.source)) for text in texts]
    having: dict[int, list[int]] = {}
    for number, some in enumerate(marks):
        for mark in some.keys() - known:
            having.setdefault(mark, []).append(number)
    most = max(_COMMON_STUDENTS, _COMMON_SHARE * len(texts))
    rare = {mark: students for mark, students in having.items() if len(students) <= most}
    sizes = Counter(student for students in rare.values() for student in students)
    shared: dict[tuple[int, int], list[int]] = {}
    for mark, students in rare.items():
        for pair in combinations(students, 2):
            shared.setdefault(pair, []).append(mark)
    return [
        Pair(
            texts[one],
            texts[other],
            len(common) / min(sizes[one], sizes[other]),
            len(common),
            (_lines(marks[one], common), _lines(marks[other], common)),
        )
        for (one, other), common in shared.items()
        if len(common) >= FEWEST_SHARED and len(common) >= least * min(sizes[one], sizes[other])
    ]


def _lines(marks: Fingerprints, common: Iterable[int]) -> frozenset[int]:
    return frozenset(line for mark in common for first, last in marks[mark] for line in range(first, last + 1))
