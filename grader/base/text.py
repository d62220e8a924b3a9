"""Makes strings that come from students harmless, before they are stored or shown."""

import difflib
import re
from collections.abc import Iterable

__all__ = ["clean", "look_alikes", "one_line", "without_commands"]

_PASSING = re.compile(r"(?<=0x)[0-9a-fA-F]{6,}|(?<=/proc/)[0-9]+|(?<=\btmp)[a-z0-9_]{8}\b")
"""Memory addresses, process numbers and names of temporary files. They differ from run to run, so results may not hold them."""
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters other than tab and line feed
    "\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"  # invisible, or changing the direction of text
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, tags
)
_HASHES = r"#(?=[^ -~]*#[^ -~]*\[)"
_COMMAND = re.compile(r"(?:\A|[\r\n\v\f\x1c-\x1e\x85\u2028\u2029])[^!-~]*:(?=[^ -~]*:)|" + _HASHES)
_ANY_COMMAND = re.compile(r":(?=[^ -~]*:)|" + _HASHES)
"""The sign that begins a command. The runner ignores some characters that are not ASCII, so any of them may stand between the signs."""


def clean(text: str, limit: int = 400) -> str:
    """Shorten a string, remove terminal escapes, control and direction characters, and blank out what differs from run to run."""
    text = text[: 4 * limit].replace("\r\n", "\n")
    text = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text))
    text = _PASSING.sub("…", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: str, limit: int = 200) -> str:
    """Clean a string in the same way, and turn every run of white space into one space."""
    return clean(re.sub(r"\s+", " ", clean(text, 4 * limit)).strip(), limit)


def look_alikes(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those of the known names that a misspelt one may mean: what differs in capitals only, else what is close."""
    known = sorted(known)
    return [other for other in known if other.lower() == name.lower()] or difflib.get_close_matches(name, known, most, cutoff)


def without_commands(text: str, *, wrapped: bool = False) -> str:
    """Break what GitHub's runner would read as a command: `::name::` at the start of a line, or `##[name]` anywhere in a line.

    In a text that will be `wrapped`, any word may start a line.
    """
    return (_ANY_COMMAND if wrapped else _COMMAND).sub(lambda match: f"{match[0]} ", text)
