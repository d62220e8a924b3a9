"""JSON for one runner of GitHub Classroom's reporter (classroom-resources/autograding-grading-reporter v1).

The reporter records the sum of the tests' scores. Older versions show passed ÷ number of tests × max_score instead. Both agree to
a hundredth, because all tests of a runner weigh the same: a test with a larger weight is listed several times.

A task's score is in hundredths of a point, as in every other format. Its tests get whole hundredths, and 64ths if the score is made of
quarters: doubles add these up exactly, so that a right submission gets its points to the last digit.

This file is shipped unchanged to student repositories. It uses `grader.base.text`, `grader.exports.escape` and the standard library.
"""

import base64
import json
from collections.abc import Sequence
from math import gcd
from typing import Literal, NamedTuple

from grader.exports.escape import log_line

__all__ = ["MAX_JSON_BYTES", "MAX_SHARES", "Check", "encode", "runner_json"]

MAX_JSON_BYTES = 98_000
"""A variable of the environment may have 131,072 bytes on Linux, and base64 turns 3 bytes into 4."""
MAX_SHARES = 1_000
"""Nobody reads more tests than this, and they would not fit."""
_MESSAGE_LIMITS = (400, 160, 60, 0)


class Check(NamedTuple):
    """One test of a runner. It is listed `shares` times."""

    name: str
    status: Literal["pass", "fail", "error"]
    message: str = ""
    shares: int = 1


def runner_json(max_score: float, checks: Sequence[Check], *, score: int | None = None, limit: int = MAX_JSON_BYTES) -> bytes:
    """The JSON of a runner. If it is longer than `limit`, messages are shortened, and then tests are merged.

    Args:
        max_score: points.
        checks: the tests that count. Without any, the runner passes and is worth nothing.
        score: what all passed tests are worth together, in hundredths of a point (default: their share of max_score, rounded).
        limit: most bytes.

    Raises: ValueError if even merged tests are too many.
    """
    if not checks or not max_score:
        max_score, checks, score = 0, [Check("not counted", "pass")], 0
    count = sum(check.shares for check in checks)
    passed = sum(check.shares for check in checks if check.status == "pass")
    if score is None:
        score = round(100 * max_score * passed / count)
    status = next((status for status in ("error", "fail") if any(check.status == status for check in checks)), "pass")
    if count <= MAX_SHARES:
        shares = [share for check in checks for share in _spread(check)]
        for most in _MESSAGE_LIMITS:
            data = _json(max_score, status, shares, score, most)
            if len(data) <= limit:
                return data
    divisor = gcd(passed, count)
    passed, count = passed // divisor, count // divisor
    if count <= MAX_SHARES:
        merged: list[Check] = [Check(f"part {number} of {count}", "pass" if number <= passed else "fail") for number in range(1, count + 1)]
        data = _json(max_score, status, merged, score, 0)
        if len(data) <= limit:
            return data
    raise ValueError(f"the shares of its tests make {count} parts, which are too many for {limit} bytes")


def encode(data: bytes) -> str:
    """Encode the JSON for the step's output `result`, as one line of base64."""
    return base64.b64encode(data).decode()


def _spread(check: Check) -> list[Check]:
    if check.shares == 1:
        return [check]
    return [check._replace(name=f"{check.name} ({number} of {check.shares})", shares=1) for number in range(1, check.shares + 1)]


def _json(max_score: float, status: str, checks: Sequence[Check], score: int, most: int) -> bytes:
    passed = sum(check.status == "pass" for check in checks)
    unit = 64 if score % 25 == 0 else 100
    each, more = divmod(score * unit // 100, passed) if passed else (0, 0)
    tests, before = [], 0
    for check in checks:
        share = 0
        if check.status == "pass":
            share = each + (before < more)
            before += 1
        tests.append(_test(check, share / unit, most))
    whole = int(max_score) if max_score == int(max_score) else max_score
    plain = {"version": 1, "status": status, "max_score": whole, "tests": tests}
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def _test(check: Check, score: float, most: int) -> dict[str, str | float]:
    """One entry. Of a failed test the reporter shows only the name, of an error only the message, so both hold both."""
    name, message = log_line(check.name, 100), log_line(check.message, most) if most else ""
    both = f"{name}: {message}" if message else name
    entry: dict[str, str | float] = {"name": both, "status": check.status, "score": score, "line_no": 0}  # 0 hides the line
    if most:
        entry |= {"message": both if check.status == "error" else message, "test_code": "", "filename": "", "duration": 0}
    return entry
