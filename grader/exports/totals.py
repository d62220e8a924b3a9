"""The scores that all exports use, and how they are rounded to whole numbers that add up.

1. The canonical score of a submission is the `score` that results.json holds: the exact sum of its tasks' scores (points × passed weight
   ÷ counted weight; skipped tests leave the denominator; a ban zeroes its task), rounded once to a double. Rounded half up
   to hundredths of a point, it is the total in every format.
2. Formats that count in whole numbers count hundredths of a point. Each task gets its exact score, rounded down. The hundredths
   that are then missing go, one each, to the tasks with the largest remainders; of equal ones, the earlier task comes first. So the
   parts add up to the total, each is less than a hundredth away from its exact score, and none exceeds its maximum.
3. The points of a task must be whole hundredths, so that no maximum has to be rounded.

`docs/exports.md` explains this to instructors. `tests/grader/exports/test_totals.py` tests it on random results.
"""

from dataclasses import dataclass
from fractions import Fraction

from grader.base.text import one_line
from grader.exports.apportion import apportion
from grader.runner.results import ResultsError, SubmissionResult, TaskResult, decimal_fraction, exact_score, rounded

__all__ = ["Part", "Total", "total"]

_TOLERANCE = 1e-9
"""How far a stored score may be from the sum of its tests. Adding doubles in another order changes far less."""


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
    """The score of a submission and its tasks, for every format. Raises: ResultsError if results.json contradicts itself."""
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
    """Check what the arithmetic relies on. Raises: ResultsError."""
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
