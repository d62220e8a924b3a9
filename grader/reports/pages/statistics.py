"""What the scores of a class say: their distribution, and how hard each task is and how well it tells students apart.

Whoever has no verdict is left out: modules that are named in a problem, tasks that were skipped, and tasks on which the grader failed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import atanh, sqrt, tanh
from statistics import correlation, fmean, quantiles

from grader.base.outcome import Status
from grader.runner.results import Results, SubmissionResult, TaskResult

__all__ = ["SMALL", "Distribution", "TaskStatistics", "distribution", "is_judged", "task_statistics", "unjudged"]

SMALL = 30
"""In a class of fewer students, chance moves these numbers a lot: the page says so."""
FEWEST = 3
"""Between two students, every correlation is 1 or -1."""
_BINS = 10
_Z = 1.96
"""The normal distribution's bound for 95 %."""
_DIGITS = 12
"""Shares are rounded to so many digits, so that equal ones are equal."""


@dataclass(frozen=True)
class Distribution:
    """Total scores as shares of the maximum."""

    counts: tuple[int, ...]
    """Students in ten ranges of 10 % each. A range holds its lower end; the last one also holds 100 %."""
    students: int
    left_out: int
    """Students who are not counted, because they have no full verdict."""
    mean: float | None
    quartiles: tuple[float, float, float] | None
    """A quarter, a half and three quarters of the students are at or below these. None for fewer than two students."""


@dataclass(frozen=True)
class TaskStatistics:
    """A task in a class. What is None can't be computed."""

    module: str
    task: str
    judged: int
    """Students with a verdict."""
    tried: int
    passed: int
    difficulty: float | None
    """The mean share of the points that was earned, between 0 (hard) and 1 (easy)."""
    discrimination: float | None
    """The correlation of this share with the share earned on all other tasks (corrected item-total correlation)."""
    undefined: str
    """Why there is no discrimination."""
    interval: tuple[float, float] | None
    """The 95 % interval of the discrimination by Fisher's transformation. None below four students, and at 1 and -1."""


def unjudged(results: Results) -> set[tuple[str, str]]:
    """The submissions and modules that have no verdict."""
    return {(one.submission, name) for one in results.problems for name in one.modules}


def is_judged(task: TaskResult) -> bool:
    """Whether a task of a module that has a verdict has one too."""
    return bool(task.max_score) and task.status not in (Status.SKIPPED, Status.GRADER_ERROR)


def distribution(results: Results) -> Distribution:
    """The distribution of total scores over the students with a full verdict."""
    without = {one.submission for one in results.problems}
    counted = [one for one in results.submissions if one.id not in without and one.max_score and not _has_fault(one)]
    shares = [one.score / one.max_score for one in counted]
    ranges = [min(_BINS - 1, int(_BINS * one.score / one.max_score)) for one in counted]
    quarters = quantiles(shares, n=4, method="inclusive") if len(shares) > 1 else None
    return Distribution(
        tuple(ranges.count(number) for number in range(_BINS)),
        len(counted),
        len({one.id for one in results.submissions} | without) - len(counted),
        fmean(shares) if shares else None,
        (quarters[0], quarters[1], quarters[2]) if quarters else None,
    )


def task_statistics(results: Results) -> list[TaskStatistics]:
    """The statistics of each task, in the order of the results."""
    without = unjudged(results)
    answers: dict[tuple[str, str], list[tuple[TaskResult, float | None]]] = {}
    for submission in results.submissions:
        judged = list(_judged(submission, without))
        score, most = sum(task.score for _, task in judged), sum(task.max_score for _, task in judged)
        for module in submission.modules:
            for task in module.tasks:
                answers.setdefault((module.name, task.name), [])
        for name, task in judged:
            others = most - task.max_score
            rest = round((score - task.score) / others, _DIGITS) if others > 10**-_DIGITS else None
            answers[name, task.name].append((task, rest))
    return [_of_task(module, task, some) for (module, task), some in answers.items()]


def _judged(submission: SubmissionResult, without: set[tuple[str, str]]) -> Iterator[tuple[str, TaskResult]]:
    for module in submission.modules:
        if (submission.id, module.name) not in without:
            yield from ((module.name, task) for task in module.tasks if is_judged(task))


def _has_fault(submission: SubmissionResult) -> bool:
    return any(task.status is Status.GRADER_ERROR for module in submission.modules for task in module.tasks)


def _of_task(module: str, name: str, answers: Sequence[tuple[TaskResult, float | None]]) -> TaskStatistics:
    shares = [round(task.score / task.max_score, _DIGITS) for task, _ in answers]
    discrimination, undefined = _discrimination([(share, rest) for share, (_, rest) in zip(shares, answers, strict=True)])
    return TaskStatistics(
        module,
        name,
        len(answers),
        sum(task.status is not Status.NOT_IMPLEMENTED for task, _ in answers),
        sum(task.status is Status.PASSED for task, _ in answers),
        fmean(shares) if shares else None,
        discrimination,
        undefined,
        _interval(discrimination, len(answers)),
    )


def _discrimination(pairs: Sequence[tuple[float, float | None]]) -> tuple[float | None, str]:
    """The correlation of a task's shares with those of the rest, or why there is none."""
    shares, rests = [share for share, _ in pairs], [rest for _, rest in pairs if rest is not None]
    if not pairs:
        return None, "nobody has a verdict"
    if len(pairs) < FEWEST:
        return None, f"fewer than {FEWEST} students"
    if len(rests) < len(pairs):
        return None, "there is no other task"
    if min(shares) == max(shares):
        return None, "all earned the same here"
    if min(rests) == max(rests):
        return None, "all earned the same elsewhere"
    return correlation(shares, rests), ""


def _interval(discrimination: float | None, students: int) -> tuple[float, float] | None:
    if discrimination is None or students <= FEWEST or abs(discrimination) >= 1 - 10**-_DIGITS:
        return None
    middle, width = atanh(discrimination), _Z / sqrt(students - 3)
    return tanh(middle - width), tanh(middle + width)
