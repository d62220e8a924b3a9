"""Which editor opens, and how it is told the line."""

import os
from pathlib import Path

import pytest

from grader.practice.watch.editor import NoEditor, find_editor

FILE = Path("exercises/mini.py")


@pytest.fixture
def tools(tmp_path):
    """A folder of commands, for PATH."""
    for name in ("code", "vim", "nano", "subl", "ed", "gedit"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("settings", "command", "in_terminal"),
    [
        ({"EDITOR": "nano"}, ["nano", "+7", "exercises/mini.py"], True),
        ({"EDITOR": "nano", "VISUAL": "vim -u NONE"}, ["vim", "-u", "NONE", "+7", "exercises/mini.py"], True),
        ({"EDITOR": "ed"}, ["ed", "exercises/mini.py"], True),
        ({"VISUAL": "code --wait"}, ["code", "--wait", "-g", "exercises/mini.py:7"], False),
        ({"VISUAL": "subl"}, ["subl", "exercises/mini.py:7"], False),
        ({"VISUAL": "gedit"}, ["gedit", "+7", "exercises/mini.py"], False),
        ({"TERM_PROGRAM": "vscode", "EDITOR": "vim"}, ["code", "-g", "exercises/mini.py:7"], False),
    ],
)
def test_opens_the_line(tools, settings, command, in_terminal):
    """VISUAL before EDITOR, and VS Code in its own terminal; each is told the line in its own way."""
    editor = find_editor(FILE, 7, {"PATH": tools, **settings})
    assert [os.path.basename(editor.command[0]), *editor.command[1:]] == command
    assert editor.in_terminal is in_terminal


@pytest.mark.parametrize(("settings", "words"), [({}, "set VISUAL"), ({"EDITOR": "emacs"}, "'emacs' of VISUAL or EDITOR is not installed")])
def test_says_what_is_missing(tools, settings, words):
    """Neither set, or not installed."""
    with pytest.raises(NoEditor, match=words):
        find_editor(FILE, 7, {"PATH": tools, **settings})
