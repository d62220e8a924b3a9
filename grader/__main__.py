"""`python -m grader` is the command `grader`."""

from grader.cli.app import app

app()
