"""Strings that come from students, made harmless before they are stored or shown."""

import re

__all__ = ["clean", "one_line", "without_commands"]

_PASSING = re.compile(r"(?<=0x)[0-9a-fA-F]{6,}|(?<=/proc/)[0-9]+|(?<=\btmp)[a-z0-9_]{8}\b")
"""What differs from run to run, so that it may not reach results: memory addresses, process numbers, names of temporary files."""
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters other than tab and line feed
    "\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"  # invisible, or turning the direction of text
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, tags
)
_COMMAND = re.compile(r":(?=[^ -~]*:)|#(?=[^ -~]*#[^ -~]*\[)")
"""Where one begins. What is not ASCII may stand between its signs, since the runner's comparison overlooks some of that."""


def clean(text: str, limit: int = 400) -> str:
    """Cap a string, strip terminal escapes, control and direction characters, and blank out what differs from run to run."""
    text = text[: 4 * limit].replace("\r\n", "\n")
    text = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text))
    text = _PASSING.sub("…", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: str, limit: int = 200) -> str:
    """The same, with runs of white space folded into single spaces."""
    return clean(re.sub(r"\s+", " ", clean(text, 4 * limit)).strip(), limit)


def without_commands(text: str) -> str:
    """Break what a runner of GitHub Actions would take for a command: `::name::` at the start of a line, `##[name]` anywhere in it."""
    return _COMMAND.sub(lambda match: f"{match[0]} ", text)
