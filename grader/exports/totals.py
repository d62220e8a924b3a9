"""The scores that every export starts from, and the rule by which whole numbers add up to them.

1. The canonical score of a submission is the `score` that results.json holds: the exact sum of its tasks' scores (points × passed weight
   ÷ counted weight; skipped tests leave the denominator; a ban zeroes its task), rounded once to a double. It is shown rounded half up
   to hundredths of a point, and that number is the total of every format.
2. Formats that count in whole numbers count hundredths of a point. A task gets its exact score rounded down; the hundredths that then
   are missing to the total go, one each, to the tasks with the largest remainders, the earlier task first among equals. So the
   parts add up to the total, no part is a whole hundredth away from its exact score, and none exceeds its maximum.
3. Points must be whole hundredths, so that every maximum is one as it stands.

`docs/exports.md` says this to instructors; `tests/grader/exports/test_totals.py` holds it over random results.
"""

from dataclasses import dataclass
from fractions import Fraction

from grader.base.text import one_line
from grader.exports.apportion import apportion
from grader.runner.results import ResultsError, SubmissionResult, TaskResult, decimal_fraction, exact_score, rounded

__all__ = ["Part", "Total", "total"]

_TOLERANCE = 1e-9
"""How far a stored score may be from what its tests say: an addition of doubles in another order stays far below."""


@dataclass(frozen=True)
class Part:
    """One task of a submission: its exact points, and its share of the total in hundredths of a point."""

    module: str
    task: TaskResult
    exact: Fraction
    score: int
    max_score: int


@dataclass(frozen=True)
class Total:
    """A submission's score and maximum in hundredths of a point, and the parts that add up to them."""

    id: str
    score: int
    max_score: int
    parts: tuple[Part, ...]


def total(submission: SubmissionResult) -> Total:
    """Settle what a submission is worth in every format. Raises: ResultsError where results.json contradicts itself."""
    tasks = [(module.name, task) for module in submission.modules for task in module.tasks]
    for _, task in tasks:
        _check(task, submission.id)
    exact = [exact_score(task) for _, task in tasks]
    maxima = [decimal_fraction(task.max_score) for _, task in tasks]
    for what, stored, real in (("score", submission.score, sum(exact)), ("max_score", submission.max_score, sum(maxima))):
        if abs(stored - real) > _TOLERANCE:
            raise ResultsError(_changed(submission.id, f"its {what} is {stored:g}, and its tasks add up to {float(real):g}"))
    score = int(100 * rounded(submission.score))
    shares = apportion([100 * part for part in exact], score)
    parts = zip(tasks, exact, shares, maxima, strict=True)
    return Total(
        submission.id,
        score,
        int(100 * sum(maxima)),
        tuple(Part(module, task, points, share, int(100 * most)) for (module, task), points, share, most in parts),
    )


def _check(task: TaskResult, submission: str) -> None:
    """Hold what the arithmetic relies on. Raises: ResultsError."""
    if (100 * decimal_fraction(task.max_score)).denominator != 1:
        raise ResultsError(
            f"the task {one_line(task.name)} has {task.max_score!r} points: exports count in hundredths of a point, give it fewer digits"
        )
    if task.max_score < 0 or any(test.weight <= 0 for test in task.tests):
        raise ResultsError(_changed(submission, f"{one_line(task.name)} has negative points or a weight that is not above 0"))
    if not task.tests:
        raise ResultsError(_changed(submission, f"{one_line(task.name)} has no tests"))
    if abs(task.score - exact_score(task)) > _TOLERANCE:
        says = float(exact_score(task))
        raise ResultsError(_changed(submission, f"{one_line(task.name)} has the score {task.score:g}, and its tests say {says:g}"))


def _changed(submission: str, what: str) -> str:
    return f"results.json contradicts itself, in {one_line(submission)}: {what}. Don't edit it: grade again"
