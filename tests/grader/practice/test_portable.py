"""Practice works where there is no POSIX: the packages that it imports need none of its modules."""

import subprocess
import sys

HIDDEN = """
# Other people's packages first: on Windows they do without what is hidden here.
import pexpect, pytest, torch, torch._dynamo, rich.console, rich.progress, rich.syntax, textual.app, textual.widgets, typer, watchfiles
import IPython, matplotlib.figure, mcp.server, msgspec, asyncio, subprocess, multiprocessing, concurrent.futures
import textual.drivers.linux_driver
import importlib, pkgutil, signal, os, sys
for name in ("resource", "fcntl", "termios", "pwd", "grp", "pty", "tty", "syslog", "posix_ipc"):
    sys.modules[name] = None
for name in ("SIGALRM", "SIGKILL", "SIGHUP", "setitimer", "ITIMER_REAL", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fork", "killpg", "setsid", "getuid", "geteuid", "O_NOFOLLOW", "O_NONBLOCK", "mkfifo", "getpgid", "posix_spawn"):
    if hasattr(os, name):
        delattr(os, name)
"""


def run(code: str) -> str:
    """Run code in a new interpreter that lacks what Windows lacks. Returns: what it printed."""
    command = [sys.executable, "-c", HIDDEN + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_every_part_of_practice_can_be_imported():
    """All modules of grader.practice and the commands that students use."""
    code = """
import grader.practice
names = [info.name for info in pkgutil.walk_packages(grader.practice.__path__, "grader.practice.")]
optional = ("grader.practice.notebook", "grader.practice.tutor", "grader.practice.figures")
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name not in optional:
            raise
import grader.cli.app, grader.cli.practice, grader.cli.course
print(len(names))
"""
    assert int(run(code)) > 8


def test_a_time_limit_without_signals():
    """A loop ends, also one with a bare except; the block that ends in time is left alone, and so is what follows it."""
    code = """
import time
from grader.base.time_limit import OutOfTime, time_limit
try:
    with time_limit(0.1):
        while True:
            try:
                sum(range(100))
            except:
                pass
except OutOfTime as error:
    print(error)
with time_limit(0.05):
    pass
end = time.monotonic() + 0.2
while time.monotonic() < end:
    pass
print("went on")
"""
    assert run(code) == "it did not end within the time limit: is there an endless loop, or is the machine busy?\nwent on\n"
