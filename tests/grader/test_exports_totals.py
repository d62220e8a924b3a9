"""The one rule by which every format's total is the canonical score."""

from fractions import Fraction
from math import floor

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grader.exports.apportion import apportion
from grader.exports.totals import total
from grader.outcome import Status
from grader.results import ResultsError, rounded
from tests.grader.exports import outcome, submission, submissions

P, F, S, B = Status.PASSED, Status.FAILED, Status.SKIPPED, Status.BANNED


def restated(points: float, tests) -> Fraction:
    """A task's score by the words of docs/grading.md."""
    if any(test.status == "banned" for test in tests):
        return Fraction(0)
    counted = [(Fraction(str(test.weight)), test.status == "passed") for test in tests if test.status != "skipped"]
    if not counted:
        return Fraction(0)
    return Fraction(str(points)) * sum(weight for weight, passed in counted if passed) / sum(weight for weight, _ in counted)


@settings(max_examples=3000, deadline=None)
@given(submissions())
def test_parts_add_up_to_the_canonical_score(submission):
    """For whatever results, the parts add up to score and maximum; none is a hundredth away from its task's score or above its maximum.

    And the scores of results.json are the exact sums, rounded once.
    """
    whole = total(submission)
    tasks = [task for module in submission.modules for task in module.tasks]
    exact = [restated(task.max_score, task.tests) for task in tasks]
    assert submission.score == float(sum(exact))
    assert [task.score for task in tasks] == list(map(float, exact))
    assert whole.score == int(rounded(submission.score) * 100) == floor(100 * sum(exact) + Fraction(1, 2))
    assert Fraction(whole.max_score, 100) == sum(Fraction(str(task.max_score)) for task in tasks)
    assert sum(part.score for part in whole.parts) == whole.score
    assert sum(part.max_score for part in whole.parts) == whole.max_score
    for part, points in zip(whole.parts, exact, strict=True):
        assert 0 <= part.score <= part.max_score
        assert part.exact == points
        assert abs(part.score - 100 * points) < 1


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
