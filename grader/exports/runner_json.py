"""The JSON that GitHub Classroom's reporter reads from one runner, as classroom-resources/autograding-grading-reporter v1 does.

The reporter records the sum of the tests' scores, and has shown passed ÷ number of tests × max_score, later that sum. All tests of
a runner are given the same score, so these are the same: a test that weighs more stands there more often.

Scores are multiples of 2**-40 points. Doubles add those up without any error, in whatever order, below 8,192 points.

It is shipped into student repositories as it is: it needs `grader.base.text`, `grader.exports.escape` and Python's own library.
"""

import base64
import json
from collections.abc import Sequence
from math import gcd
from typing import Literal, NamedTuple

from grader.exports.escape import log_line

__all__ = ["MAX_JSON_BYTES", "MAX_SHARES", "UNITS", "Check", "encode", "runner_json"]

MAX_JSON_BYTES = 98_000
"""One string of the environment may have 131,072 bytes on Linux; base64 makes 4 of 3."""
MAX_SHARES = 1_000
"""More tests of one runner than this are nothing that anybody reads, and would not fit."""
UNITS = 2**40
"""Units of a recorded score to a point."""

_MESSAGE_LIMITS = (400, 160, 60, 0)


class Check(NamedTuple):
    """One test of a runner: what it is called, how it went, what to say, and how often it counts."""

    name: str
    status: Literal["pass", "fail", "error"]
    message: str = ""
    shares: int = 1


def runner_json(max_score: float, checks: Sequence[Check], *, units: int | None = None, limit: int = MAX_JSON_BYTES) -> bytes:
    """The JSON of a runner: messages are shortened, then tests merged, until it has at most `limit` bytes.

    Args:
        max_score: points.
        checks: the tests that count. None at all makes a runner that is worth nothing and fails nothing.
        units: what the passed tests are worth together, in units (default: their share of max_score, rounded).
        limit: bytes.

    Raises: ValueError where even merged tests are too many.
    """
    if not checks or not max_score:
        max_score, checks, units = 0, [Check("not counted", "pass")], 0
    count = sum(check.shares for check in checks)
    passed = sum(check.shares for check in checks if check.status == "pass")
    if units is None:
        units = round(max_score * UNITS * passed / count)
    status = next((status for status in ("error", "fail") if any(check.status == status for check in checks)), "pass")
    if count <= MAX_SHARES:
        shares = [share for check in checks for share in _spread(check)]
        for most in _MESSAGE_LIMITS:
            data = _json(max_score, status, shares, units, most)
            if len(data) <= limit:
                return data
    divisor = gcd(passed, count)
    passed, count = passed // divisor, count // divisor
    if count <= MAX_SHARES:
        merged: list[Check] = [Check(f"part {number} of {count}", "pass" if number <= passed else "fail") for number in range(1, count + 1)]
        data = _json(max_score, status, merged, units, 0)
        if len(data) <= limit:
            return data
    raise ValueError(f"the shares of its tests make {count} parts, which are too many for {limit} bytes")


def encode(data: bytes) -> str:
    """What the step's output `result` has to be: base64, one line of letters, digits and + / =."""
    return base64.b64encode(data).decode()


def _spread(check: Check) -> list[Check]:
    if check.shares == 1:
        return [check]
    return [check._replace(name=f"{check.name} ({number} of {check.shares})", shares=1) for number in range(1, check.shares + 1)]


def _json(max_score: float, status: str, checks: Sequence[Check], units: int, most: int) -> bytes:
    passed = sum(check.status == "pass" for check in checks)
    each, more = divmod(units, passed) if passed else (0, 0)
    tests, before = [], 0
    for check in checks:
        share = 0.0
        if check.status == "pass":
            share = (each + (before < more)) / UNITS
            before += 1
        tests.append(_test(check, share, most))
    score = int(max_score) if max_score == int(max_score) else max_score
    plain = {"version": 1, "status": status, "max_score": score, "tests": tests}
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def _test(check: Check, score: float, most: int) -> dict[str, str | float]:
    """One entry. The reporter shows the name of a failed test only, and the message of an errored one only: both say both."""
    name, message = log_line(check.name, 100), log_line(check.message, most) if most else ""
    both = f"{name}: {message}" if message else name
    entry: dict[str, str | float] = {"name": both, "status": check.status, "score": score, "line_no": 0}  # 0 hides the line
    if most:
        entry |= {"message": both if check.status == "error" else message, "test_code": "", "filename": "", "duration": 0}
    return entry
