"""Strings that come from students, made harmless before they are stored or shown."""

import re

__all__ = ["clean", "one_line"]

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters other than tab and line feed
    "\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, and those that turn the direction of text
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, tags
)


def clean(text: str, limit: int = 400) -> str:
    """Cap a string and strip terminal escapes, control and direction characters, and memory addresses (which differ from run to run)."""
    text = text[: 4 * limit].replace("\r\n", "\n")
    text = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text))
    text = _ADDRESS.sub("0x…", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: str, limit: int = 200) -> str:
    """The same, with runs of white space folded into single spaces."""
    return clean(re.sub(r"\s+", " ", clean(text, 4 * limit)).strip(), limit)
