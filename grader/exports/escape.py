"""Escape strings that may come from students, with one function for each medium.

Needs Python's own library and `grader.base.text` only, so that it can be shipped into a student repository as it is.
"""

import hashlib
import html
import re
import secrets

from grader.base.text import clean, one_line, without_commands

__all__ = ["file_name", "github_output", "log_line", "markdown_block", "markdown_text"]

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$^=:])")  # < > & become entities
_AUTOMATIC = re.compile(r"(?<=[@#/])(?=\S)|(?<=GH\\-)(?=\d)|(?<=www)(?=\\\.)", re.IGNORECASE)
"""GitHub looks for mentions, issues and addresses after rendering, so escaping is not enough at these places."""
_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")

_HASH_DIGITS = 16
"""Hexadecimal digits. With eight, somebody could try names until one gets the file of somebody else."""
_TAKEN = re.compile(rf"-[0-9a-f]{{{_HASH_DIGITS}}}$|\.$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")


def log_line(text: str, limit: int = 400) -> str:
    """One line for the log of a GitHub Action. It holds no terminal escapes, and nothing that the runner takes for a command."""
    return without_commands(one_line(text, limit))


def github_output(name: str, value: str) -> str:
    """The text to append to the file named by GITHUB_OUTPUT or GITHUB_ENV. A random delimiter keeps the value in one piece.

    Raises: ValueError if the name can't be an output's.
    """
    if not _OUTPUT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be the name of an output: use letters, digits, - and _")
    delimiter = f"end-{secrets.token_hex(16)}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def markdown_text(text: str, limit: int = 400) -> str:
    """One line of GitHub's Markdown that shows the text unchanged. It can stand in a table, and makes no markup, link or mention."""
    line = html.escape(_MARKDOWN.sub(r"\\\1", one_line(text, limit)), quote=False)
    return _AUTOMATIC.sub("\u200b", line)


def markdown_block(text: str, limit: int = 4000) -> str:
    """A fenced block of GitHub's Markdown with the text in it. Its fence is longer than any run of backticks in the text."""
    lines = clean(text, limit)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", lines)), default=0))
    return f"{fence}text\n{lines}\n{fence}"


def file_name(text: str) -> str:
    """A name for a file or folder. Different texts get different names, also on systems that ignore case.

    Small letters, digits and ._@- stay. A text with anything else gets _ for it, and a hash at the end. So does a text that could be taken
    for such a name, for a device of Windows, or for a name that ends in a dot.
    """
    plain = re.sub(r"[^A-Za-z0-9._@-]", "_", text)[:100]
    plain = re.sub(r"^[.-]+|^$", "_", plain)
    if plain == text and text == text.lower() and not _TAKEN.search(text):
        return plain
    return f"{plain}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:_HASH_DIGITS]}"
