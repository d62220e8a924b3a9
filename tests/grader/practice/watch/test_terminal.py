"""`grader watch` in a real pseudo-terminal: from the stub to a module that passes."""

import contextlib
import os
import re
import sys
import time

import pytest

from tests.grader.practice.watch.conftest import COUNTER, DOUBLE, HEAD, NO_COUNTER, WRONG, save

pexpect = pytest.importorskip("pexpect")

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()=>78].?|\][^\x07\x1b]*(?:\x07|\x1b\\))")
LONGEST = 60


class Terminal:
    """A program in a pseudo-terminal, and what it wrote."""

    def __init__(self, folder, *arguments, size=(24, 80), **environment):
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "grader", "watch", *arguments],
            cwd=str(folder),
            env={**os.environ, "TERM": "xterm-256color", **environment},
            dimensions=size,
            encoding="utf-8",
            timeout=LONGEST,
        )
        self.raw, self._seen = "", 0

    def see(self, text):
        """Wait until a text was written since the last one that was seen. Colours within it don't matter."""
        end = time.monotonic() + LONGEST
        while text not in ESCAPE.sub("", self.raw[self._seen :]):
            assert time.monotonic() < end, f"{text} was not written:\n{ESCAPE.sub('', self.raw[self._seen :])}"
            self._read()
        self._seen = len(self.raw)

    def end(self):
        """Wait for the end. Returns: the exit status."""
        with contextlib.suppress(pexpect.EOF):
            while True:
                self._read()
        self.child.close()
        return self.child.exitstatus

    def _read(self):
        with contextlib.suppress(pexpect.TIMEOUT):
            self.raw += self.child.read_nonblocking(100_000, timeout=0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is POSIX's")
def test_from_the_stub_to_a_module_that_passes(folder):
    """A student writes in an editor, passes, goes on, resizes, passes the module and quits; the terminal is as it was."""
    terminal = Terminal(folder)
    terminal.see("double: not written yet")
    save(folder, HEAD + WRONG + NO_COUNTER)
    terminal.see("0 of 1 public tests passed")
    terminal.child.send("h")
    terminal.see("Hint 1 of 3")
    path = folder / "exercises" / "mini.py"
    path.write_text(HEAD + DOUBLE + NO_COUNTER)  # in place
    terminal.see("all public tests passed")
    terminal.child.send("n")
    terminal.see("Counter: not written yet")
    terminal.child.setwinsize(30, 60)
    path.unlink()
    terminal.see("is missing")
    save(folder, HEAD + DOUBLE + COUNTER)
    terminal.see("all public tests passed")
    terminal.see("All tasks pass their public tests.")
    terminal.child.send("q")
    assert terminal.end() == 0
    assert "\x1b[?1049h" in terminal.raw  # the other screen, and back
    assert "\x1b[?1049l" in terminal.raw


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is POSIX's")
def test_no_color_and_ctrl_c(folder):
    """With NO_COLOR no colour is sent; Ctrl-C quits."""
    terminal = Terminal(folder, NO_COLOR="1", size=(24, 60))
    terminal.see("double: not written yet")
    terminal.child.send("\x03")
    assert terminal.end() == 0
    codes = {code for group in re.findall(r"\x1b\[([\d;]*)m", terminal.raw) for code in group.split(";")}
    assert not codes & {*map(str, range(30, 39)), *map(str, range(40, 49)), *map(str, range(90, 98)), *map(str, range(100, 108))}


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is POSIX's")
def test_a_terminal_that_can_only_print(folder):
    """With TERM=dumb lines are printed, without any escape; keys work with Enter."""
    terminal = Terminal(folder, TERM="dumb")
    terminal.see("double: not written yet")
    save(folder, HEAD + DOUBLE + NO_COUNTER)
    terminal.see("all public tests passed")
    terminal.child.sendline("n")
    terminal.see("Counter: not written yet")
    terminal.child.sendline("q")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.raw


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is POSIX's")
def test_an_editor_gets_the_terminal_and_gives_it_back(folder, tmp_path_factory):
    """The key e leaves the screen, starts the editor at the task's line, and what it saved is answered on the screen."""
    tools = tmp_path_factory.mktemp("tools")
    (tools / "answer.py").write_text(HEAD + DOUBLE + NO_COUNTER)
    (tools / "nano").write_text(f'#!/bin/sh\necho "editing at $1"\nread line\ncp "{tools / "answer.py"}" "$2"\n')
    (tools / "nano").chmod(0o755)
    terminal = Terminal(folder, VISUAL=str(tools / "nano"), TERM_PROGRAM="")
    terminal.see("double: not written yet")
    terminal.child.send("e")
    terminal.see("editing at +7")
    assert "\x1b[?1049l" in terminal.raw
    terminal.child.send("n\n")  # for the editor, not for the app
    terminal.see("double: all public tests passed")
    terminal.child.send("q")
    assert terminal.end() == 0
