"""Marks by the course's rules, beside the canonical scores and never in their place.

The rules apply in this order: extra tasks leave the maximum; the lowest modules are dropped; lateness takes its share; the cap comes last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from grader.course.manifest import Rules
from grader.runner.results import ModuleResult, SubmissionResult, decimal_fraction, exact_score

__all__ = ["Mark", "mark"]


@dataclass(frozen=True)
class Mark:
    """What a submission is worth by the rules, exactly, and a sentence for each rule that changed something."""

    score: Fraction
    max_score: Fraction
    why: list[str]


def mark(submission: SubmissionResult, rules: Rules, days_late: Mapping[str, float] | None = None) -> Mark:
    """Apply the rules to a submission. `days_late` has the days by submission; a day that has begun counts as a whole one."""
    why: list[str] = []
    sums = {module.name: _sums(module, rules) for module in submission.modules}
    if extra := [task.name for module in submission.modules for task in module.tasks if task.name in rules.extra and task.score]:
        why.append(f"beyond the maximum: {', '.join(extra)}")
    dropped = _lowest(sums, rules.drop_lowest)
    if dropped:
        why.append(f"dropped: {', '.join(dropped)}")
    counted = [sums[name] for name in sums if name not in dropped]
    score, most = sum((one for one, _ in counted), Fraction(0)), sum((one for _, one in counted), Fraction(0))
    days = ceil((days_late or {}).get(submission.id, 0))
    lost = min(decimal_fraction(rules.late_most), days * decimal_fraction(rules.late_per_day)) if days > 0 else Fraction(0)
    if lost:
        score *= 1 - lost
        why.append(f"{days} day{'s' if days > 1 else ''} late: {float(100 * lost):g} % less")
    if rules.cap is not None and score > decimal_fraction(rules.cap) * most:
        score = decimal_fraction(rules.cap) * most
        why.append(f"capped at {100 * rules.cap:g} % of the maximum")
    return Mark(score, most, why)


def _sums(module: ModuleResult, rules: Rules) -> tuple[Fraction, Fraction]:
    """A module's score, and its maximum without extra tasks."""
    most = sum((decimal_fraction(task.max_score) for task in module.tasks if task.name not in rules.extra), Fraction(0))
    return sum(map(exact_score, module.tasks), Fraction(0)), most


def _lowest(sums: Mapping[str, tuple[Fraction, Fraction]], count: int) -> Sequence[str]:
    """The modules of which the smallest share was earned; of equal ones, the later first. One module always stays."""
    names = [name for name, (_, most) in sums.items() if most]
    count = min(count, len(names) - 1)
    worst = sorted(names, key=lambda name: (sums[name][0] / sums[name][1], -names.index(name)))[: max(0, count)]
    return [name for name in sums if name in worst]
