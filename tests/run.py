"""Runs tests in two processes, and those that failed once more by themselves.

Some tests watch what other processes do, within limits of time: on a slow machine, one can fail because of its neighbour. What fails
alone, too, has failed.

    python -m tests.run tests/grader [options of pytest]
"""

import subprocess
import sys

_SOME_FAILED = 1


def main(arguments: list[str]) -> int:
    """Returns: pytest's exit status."""
    pytest = [sys.executable, "-m", "pytest", *arguments]
    status = subprocess.run([*pytest, "--numprocesses=2", "--dist=worksteal"], check=False).returncode
    if status != _SOME_FAILED:
        return status
    print("Once more, by themselves:", flush=True)
    return subprocess.run([*pytest, "--last-failed"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
