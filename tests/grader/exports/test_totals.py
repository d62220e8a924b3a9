"""The one rule by which every format's total is the canonical score."""

import json
from datetime import UTC, datetime
from fractions import Fraction
from math import floor

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grader.base.outcome import Status
from grader.exports.apportion import apportion
from grader.exports.classroom50 import official_result
from grader.exports.classroom50_result import Identity
from grader.exports.github_classroom import runners
from grader.exports.gradescope import gradescope_results
from grader.exports.totals import total
from grader.runner.results import ResultsError, rounded
from tests.grader.exports.samples import displayed, half_up, outcome, recorded, results, submission, submissions

P, F, S, B = Status.PASSED, Status.FAILED, Status.SKIPPED, Status.BANNED


def restated(points: float, tests) -> Fraction:
    """A task's score by the words of docs/grading.md."""
    if any(test.status == "banned" for test in tests):
        return Fraction(0)
    counted = [(Fraction(str(test.weight)), test.status == "passed") for test in tests if test.status != "skipped"]
    if not counted:
        return Fraction(0)
    return Fraction(str(points)) * sum(weight for weight, passed in counted if passed) / sum(weight for weight, _ in counted)


@settings(max_examples=500, deadline=None)
@given(submissions())
def test_every_format_comes_to_the_canonical_score(submission):
    """For whatever weights, skips, bans, faults and points."""
    tasks = [task for module in submission.modules for task in module.tasks]
    exact = [restated(task.max_score, task.tests) for task in tasks]
    score = floor(100 * sum(exact) + Fraction(1, 2))
    most = sum(int(100 * Fraction(str(task.max_score))) for task in tasks)

    # results.json: the exact sums, rounded once; shown half up
    assert submission.score == float(sum(exact))
    assert [task.score for task in tasks] == list(map(float, exact))
    assert 100 * rounded(submission.score) == score

    # the parts in hundredths
    whole = total(submission)
    assert (whole.score, whole.max_score) == (score, most)
    assert (sum(part.score for part in whole.parts), sum(part.max_score for part in whole.parts)) == (score, most)
    for part, points in zip(whole.parts, exact, strict=True):
        assert 0 <= part.score <= part.max_score
        assert abs(part.score - 100 * points) < 1

    # GitHub Classroom's reporter: what it records, in whatever order, and what it shows
    payloads = [json.loads(runner.json) for runner in runners(submission)]
    points, maximum = recorded(payloads)
    assert (100 * half_up(points), 100 * half_up(maximum)) == (score, most)
    assert abs(recorded(payloads[::-1])[0] - points) < 1e-9
    assert abs(points - score / 100) < 1e-9
    if all(part.score % 25 == 0 for part in whole.parts):
        assert points == recorded(payloads[::-1])[0] == score / 100
    assert all(abs(displayed(payload) - recorded([payload])[0]) < 0.01 for payload in payloads)
    assert all(len(str(test["score"])) <= len("1000.015625") for payload in payloads for test in payload["tests"])

    # Classroom 50: whole numbers
    record = official_result(submission, IDENTITY, datetime(2026, 10, 2, tzinfo=UTC))
    assert (record["score"], record["max-score"]) == (score, most)
    assert (sum(test["score"] for test in record["tests"]), sum(test["max-score"] for test in record["tests"])) == (score, most)

    # Gradescope: decimals with two digits
    plain = gradescope_results(submission, results(submission), "visible")
    assert hundredths(plain["score"]) == sum(hundredths(test["score"]) for test in plain["tests"]) == score
    assert sum(hundredths(test["max_score"]) for test in plain["tests"]) == most
    assert all(0 <= test["score"] <= test["max_score"] for test in plain["tests"])


IDENTITY = Identity("c", "a", "individual", "anna", "submit/x", "u", "u", "u", "2026-10-01T12:00:00Z")


def hundredths(points: float) -> int:
    """A number with two decimals, exactly."""
    exact = 100 * Fraction(repr(points))
    assert exact.denominator == 1
    return int(exact)


def test_the_largest_remainders_get_what_is_missing():
    """Thirds: 0.33 + 0.33 + 0.33 is not 1; the first gets the hundredth that is missing, and 2/3 comes before 1/3."""
    third = [outcome(P), outcome(F), outcome(F)]
    whole = total(submission({"a": (1.0, third), "b": (1.0, third), "c": (1.0, third)}))
    assert [part.score for part in whole.parts] == [34, 33, 33]
    whole = total(submission({"a": (1.0, third), "b": (1.0, [outcome(P), outcome(P), outcome(F)])}))
    assert [part.score for part in whole.parts] == [33, 67]


@given(st.lists(st.fractions(0, 50, max_denominator=60), max_size=20), st.booleans())
def test_apportioning_keeps_to_the_total(exact, up):
    """Either whole number around the sum can be met, no other."""
    around = floor(sum(exact))
    around += up and around != sum(exact)
    parts = apportion(exact, around)
    assert sum(parts) == around
    assert all(part in (floor(of), floor(of) + (of.denominator != 1)) for part, of in zip(parts, exact, strict=True))
    for far in (floor(sum(exact)) - len(exact) - 1, around + len(exact) + 1):
        with pytest.raises(ValueError, match="not a rounding"):
            apportion(exact, far)


GOOD = submission({"f": (2.0, [outcome(P), outcome(F)]), "g": (1.0, [outcome(S)])})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: msgspec.structs.replace(s, score=2.0), "its score is 2, and its tasks add up to 1"),
        (lambda s: msgspec.structs.replace(s, max_score=9.0), "its max_score is 9, and its tasks add up to 2"),
        (lambda s: change_task(s, score=2.0), "f has the score 2, and its tests say 1"),
        (lambda s: change_task(s, tests=[]), "f has no tests"),
        (lambda s: change_task(s, tests=[outcome(P, 0.0), outcome(F)]), "weight that is not above 0"),
        (lambda s: change_task(s, max_score=-2.0), "negative points"),
        (lambda s: change_task(s, max_score=2.001), "has 2.001 points: exports count in hundredths"),
    ],
)
def test_results_that_contradict_themselves_are_refused(change, sentence):
    """A score that somebody wrote into results.json is not exported as if it had been earned."""
    assert total(GOOD).score == 100
    with pytest.raises(ResultsError, match=sentence):
        total(change(GOOD))


def change_task(submission, **fields):
    """The submission with another first task."""
    module = submission.modules[0]
    task = msgspec.structs.replace(module.tasks[0], **fields)
    return msgspec.structs.replace(submission, modules=[msgspec.structs.replace(module, tasks=[task, *module.tasks[1:]])])
