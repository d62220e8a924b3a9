"""The fingerprints of a source text: hashes of some of its runs of tokens, chosen so that a long enough copied run always shares one.

Winnowing, after Schleimer, Wilkerson and Aiken, "Winnowing: Local Algorithms for Document Fingerprinting" (2003). Comments, docstrings,
layout and the names of variables and functions don't count. Names that come from elsewhere, such as torch's, do.
"""

import builtins
import hashlib
import io
import keyword
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["LONGEST_UNSEEN", "Fingerprints", "Token", "fingerprints", "tokens"]

_RUN, _WINDOW = 12, 6
LONGEST_UNSEEN = _RUN + _WINDOW - 2
"""A copied run of more tokens than this shares a fingerprint."""

_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
_KEPT = {*keyword.kwlist, *dir(builtins), "torch", "nn", "F", "np", "math", "self"}
"""Names that mean the same in every answer."""

Fingerprints = dict[int, list[tuple[int, int]]]
"""For each fingerprint, the first and the last line of every run that has it."""


@dataclass(frozen=True)
class Token:
    """A word of a program, and the line that it stands in."""

    text: str
    line: int


def tokens(source: str) -> list[Token]:
    """The words that count. Of a text that is no Python, those before the place where that shows."""
    found, before, depth = list[Token](), "\n", 0
    words = list(_words(source))
    for place, word in enumerate(words):
        following = words[place + 1].string if place + 1 < len(words) else ""
        if word.type in _LAYOUT:
            before = "\n" if word.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT) else before
            continue
        depth += (word.string in "([{") - (word.string in ")]}") if word.type == tokenize.OP else 0
        if word.type == tokenize.STRING and before == "\n" and following in ("\n", "\r\n", ""):
            continue  # a docstring
        found.append(Token(_meaning(word, before, following, depth), word.start[0]))
        before = word.string
    return found


def fingerprints(words: Sequence[Token]) -> Fingerprints:
    """The smallest hash of every window of runs."""
    hashes = [_hash(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
    chosen: Fingerprints = {}
    last = -1
    for start in range(max(len(hashes) - _WINDOW + 1, min(1, len(hashes)))):
        window = range(start, min(start + _WINDOW, len(hashes)))
        at = min(window, key=lambda index: (hashes[index], -index))
        if at != last:
            chosen.setdefault(hashes[at], []).append((words[at].line, words[at + _RUN - 1].line))
            last = at
    return chosen


def _words(source: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(source).readline)
    except (tokenize.TokenError, SyntaxError):
        return


def _meaning(word: tokenize.TokenInfo, before: str, following: str, depth: int) -> str:
    """What a word stands for, whatever its author called it."""
    if word.type == tokenize.STRING:
        return "text"
    is_own = word.type == tokenize.NAME and word.string not in _KEPT and before != "." and not (depth and following == "=")
    return "name" if is_own else word.string


def _hash(run: Sequence[Token]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(token.text for token in run).encode(), digest_size=8).digest())
