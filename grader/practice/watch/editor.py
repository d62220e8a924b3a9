"""Opens a line of a file in the student's editor."""

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Editor", "NoEditor", "find_editor"]

_CODE = ("code", "code-insiders", "codium", "cursor", "windsurf")
"""They take -g FILE:LINE."""
_COLON = ("subl", "zed", "hx")
"""They take FILE:LINE."""
_PLUS = ("vi", "vim", "nvim", "view", "gvim", "nano", "micro", "emacs", "emacsclient", "kak", "joe", "gedit")
"""They take +LINE FILE."""
_WINDOWS = (*_CODE, "subl", "zed", "gvim", "gedit", "kate", "mate", "notepad", "notepad++", "idea", "pycharm", "charm")
"""They open a window of their own; all others need the terminal."""


class NoEditor(Exception):
    """No editor is set; the text says how to set one."""


@dataclass(frozen=True)
class Editor:
    """A command, and whether it needs the terminal for itself."""

    command: tuple[str, ...]
    in_terminal: bool


def find_editor(path: Path, line: int, environment: Mapping[str, str] = os.environ) -> Editor:
    """The command that opens a line of a file: VS Code from its own terminal, else $VISUAL or $EDITOR. Raises: NoEditor."""
    if environment.get("TERM_PROGRAM") == "vscode" and (code := shutil.which("code", path=environment.get("PATH"))):
        return Editor((code, "-g", f"{path}:{line}"), in_terminal=False)
    command = environment.get("VISUAL") or environment.get("EDITOR") or ""
    words = [word.strip("\"'") for word in shlex.split(command, posix=os.name != "nt")]
    if not words:
        raise NoEditor(f"No editor is set: open {path.name} at line {line} yourself, or set VISUAL, such as VISUAL=nano.")
    if shutil.which(words[0], path=environment.get("PATH")) is None:
        raise NoEditor(f"The editor {words[0]!r} of VISUAL or EDITOR is not installed.")
    name = re.sub(r"\.(exe|cmd|bat)$", "", re.split(r"[\\/]", words[0])[-1].lower())
    return Editor((*words, *_target(name, path, line)), in_terminal=name not in _WINDOWS)


def _target(name: str, path: Path, line: int) -> tuple[str, ...]:
    if name in _CODE:
        return "-g", f"{path}:{line}"
    if name in _COLON:
        return (f"{path}:{line}",)
    return (f"+{line}", str(path)) if name in _PLUS else (str(path),)
