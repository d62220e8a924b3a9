"""The exit statuses of the command `grader`. 0 means that all went well."""

__all__ = ["EXIT_BAD_INPUT", "EXIT_GRADER_FAILED", "EXIT_INTERRUPTED", "EXIT_PROBLEMS"]

EXIT_PROBLEMS = 1
"""The command did its work and found something to mend, such as a wrong answer that no test rejects."""

EXIT_BAD_INPUT = 2
"""The command was given something that it can't use, such as a missing file. typer uses 2 for unknown options too."""

EXIT_GRADER_FAILED = 3
"""The grader itself failed, or it refused to grade on this machine. No score may be drawn from this run."""

EXIT_INTERRUPTED = 130
"""Somebody interrupted the command, with Ctrl-C or SIGTERM. Shells use 128 + 2 for SIGINT."""
