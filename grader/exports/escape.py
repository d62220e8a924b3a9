"""Strings that may come from students, one function for each medium that they are put into.

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
"""Where GitHub sees a name to notify, an issue or an address although its signs are escaped: it looks after rendering."""
_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def log_line(text: str, limit: int = 400) -> str:
    """One line for the log of a GitHub Action: no terminal escape, and nothing that the runner takes for a command."""
    return without_commands(one_line(text, limit))


def github_output(name: str, value: str) -> str:
    """What to append to the file that GITHUB_OUTPUT or GITHUB_ENV names: the value can't end before its random delimiter.

    Raises: ValueError where the name is not one.
    """
    if not _OUTPUT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be the name of an output: use letters, digits, - and _")
    delimiter = f"end-{secrets.token_hex(16)}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def markdown_text(text: str, limit: int = 400) -> str:
    """One line of GitHub's Markdown, also within a table: shown as it is, no markup, HTML, link, mention or reference."""
    line = html.escape(_MARKDOWN.sub(r"\\\1", one_line(text, limit)), quote=False)
    return _AUTOMATIC.sub("\u200b", line)


def markdown_block(text: str, limit: int = 4000) -> str:
    """A fenced block of GitHub's Markdown that holds the text; no run of backticks within ends it."""
    lines = clean(text, limit)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", lines)), default=0))
    return f"{fence}text\n{lines}\n{fence}"


def file_name(text: str) -> str:
    """A name for a file or folder: letters, digits and ._@- as they are; whatever else there is becomes _ and a mark of its own."""
    plain = re.sub(r"[^A-Za-z0-9._@-]", "_", text)[:100]
    plain = re.sub(r"^[.-]+|^$", "_", plain)
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
