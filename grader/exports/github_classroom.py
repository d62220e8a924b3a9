"""Files for GitHub Classroom's reporter, made from results.json. Each task is a runner, and each module is a file of runners.

The recorded scores are hundredths of a point and add up to the canonical score.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import gcd, lcm
from typing import Literal

import msgspec

from grader.base.outcome import Status
from grader.base.text import one_line
from grader.exports.escape import file_name
from grader.exports.files import chosen
from grader.exports.runner_json import MAX_JSON_BYTES, Check, encode, runner_json
from grader.exports.totals import total
from grader.runner.results import Results, ResultsError, SubmissionResult, TaskResult, decimal_fraction

__all__ = ["Runner", "reporter_files", "runners"]

MAX_ENVIRONMENT_BYTES = 900_000
"""For all runners of a submission, because the reporter gets them as variables of one environment. Linux allows about 2 MB in all."""

_RUNNER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_KINDS: dict[Status, Literal["pass", "fail"]] = {
    Status.PASSED: "pass",
    Status.FAILED: "fail",
    Status.NOT_IMPLEMENTED: "fail",
    Status.BANNED: "fail",
}
"""Every other status is an error."""


@dataclass(frozen=True)
class Runner:
    """One task, as the reporter sees it. Its name is in the list of runners and, in upper case, in `<NAME>_RESULTS`."""

    name: str
    module: str
    json: bytes


def runners(submission: SubmissionResult) -> list[Runner]:
    """One runner for each task of a submission, in order. Raises: ResultsError."""
    whole = total(submission)
    names = [part.task.name for part in whole.parts]
    for name in names:
        if not _RUNNER.fullmatch(name) or [other.upper() for other in names].count(name.upper()) > 1:
            raise ResultsError(
                f"the task {one_line(name)!r} can't be a runner: GitHub takes up to 100 letters, digits, - and _, whatever their case"
            )
    limit = min(MAX_JSON_BYTES, MAX_ENVIRONMENT_BYTES * 3 // 4 // max(1, len(names)) - 256)
    made = []
    for part in whole.parts:
        try:
            data = runner_json(part.task.max_score, _checks(part.task), score=part.score, limit=limit)
        except ValueError as error:
            raise ResultsError(
                f"the task {part.task.name} can't be told to GitHub Classroom: {error}. Give its tests weights with a common measure, "
                "or grade fewer modules at a time"
            ) from None
        made.append(Runner(part.task.name, part.module, data))
    return made


def reporter_files(results: Results, only: Iterable[str] = ()) -> dict[str, bytes]:
    """The files by path. Each submission is a folder; each module has its runners as JSON and as lines for GITHUB_OUTPUT.

    Raises: ResultsError if `only` names an unknown submission, or a score can't be expressed.
    """
    files = {}
    for submission in chosen(results, only):
        for module, group in groupby(runners(submission), key=lambda runner: runner.module):
            encoded = {runner.name: encode(runner.json) for runner in group}
            plain = {"submission": submission.id, "module": module, "runners": ",".join(encoded), "results": encoded}
            stem = f"{file_name(submission.id)}/{file_name(module)}"
            files[f"{stem}.json"] = msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n"
            files[f"{stem}.outputs"] = "".join(f"{name}={value}\n" for name, value in encoded.items()).encode()
    return files


def _checks(task: TaskResult) -> list[Check]:
    counted = [test for test in task.tests if test.status is not Status.SKIPPED]
    banned = any(test.status is Status.BANNED for test in counted)
    weights = [decimal_fraction(test.weight) for test in counted]
    measure = Fraction(gcd(*(weight.numerator for weight in weights)), lcm(*(weight.denominator for weight in weights)))
    return [
        Check(test.id, "fail" if banned else _KINDS.get(test.status, "error"), test.message, int(weight / measure))
        for test, weight in zip(counted, weights, strict=True)
    ]
