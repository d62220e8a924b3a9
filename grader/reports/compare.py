"""What differs between two runs: whose points changed, in which tasks, and why."""

from dataclasses import dataclass

from grader.reports.feedback import words
from grader.runner.results import Results, SubmissionResult, TaskResult

__all__ = ["Change", "Difference", "compared"]


@dataclass(frozen=True)
class Change:
    """A task whose score or status is another one. What is None was not graded in that run."""

    submission: str
    module: str
    task: str
    before: float | None
    after: float | None
    why: str


@dataclass(frozen=True)
class Difference:
    """What differs between two runs."""

    changes: list[Change]
    totals: dict[str, tuple[float, float]]
    """The total before and after of each submission that both runs have and that changed."""
    only_before: list[str]
    only_after: list[str]
    notes: list[str]
    """What else is not the same, such as the seed: it may be the reason."""

    @property
    def any(self) -> bool:
        """Whether a submission's result differs."""
        return bool(self.changes or self.only_before or self.only_after)

    @property
    def lost(self) -> bool:
        """Whether something was graded before and is not any more."""
        return bool(self.only_before) or any(change.after is None for change in self.changes)


def compared(before: Results, after: Results) -> Difference:
    """Compare two runs, submission by submission and task by task."""
    old, new = ({one.id: one for one in results.submissions} for results in (before, after))
    changes = [change for id in old if id in new for change in _changes(old[id], new[id])]
    touched = dict.fromkeys(change.submission for change in changes)
    return Difference(
        changes,
        {id: (old[id].score, new[id].score) for id in touched},
        [id for id in old if id not in new],
        [id for id in new if id not in old],
        _notes(before, after),
    )


def _changes(before: SubmissionResult, after: SubmissionResult) -> list[Change]:
    old, new = _tasks(before), _tasks(after)
    found = []
    for module, task in dict.fromkeys([*old, *new]):
        one, other = old.get((module, task)), new.get((module, task))
        if one is None or other is None:
            why = "is graded now, and was not" if one is None else "was graded, and is not any more"
            found.append(Change(before.id, module, task, one.score if one else None, other.score if other else None, why))
        elif (one.score, one.max_score, one.status) != (other.score, other.max_score, other.status):
            found.append(Change(before.id, module, task, one.score, other.score, _why(one, other)))
    return found


def _tasks(submission: SubmissionResult) -> dict[tuple[str, str], TaskResult]:
    return {(module.name, task.name): task for module in submission.modules for task in module.tasks}


def _why(before: TaskResult, after: TaskResult) -> str:
    """The first test with another outcome, else what else has changed."""
    old, new = ({test.id: test for test in task.tests} for task in (before, after))
    for id, test in new.items():
        was = old.get(id)
        if was is not None and was.status is not test.status:
            then, now = (f" ({one.message.partition(chr(10))[0]})" if one.message else "" for one in (was, test))
            return f"{id} was {words(was.status)}{then}, and is {words(test.status)}{now}"
    if before.max_score != after.max_score:
        return f"the task was worth {before.max_score:g} points, and is worth {after.max_score:g}"
    if added := [id for id in new if id not in old]:
        return f"{added[0]} is new, and {words(new[added[0]].status)}"
    if gone := [id for id in old if id not in new]:
        return f"{gone[0]} is gone; it was {words(old[gone[0]].status)}"
    return "its tests have other weights"


def _notes(before: Results, after: Results) -> list[str]:
    notes = []
    if before.seed != after.seed:
        notes.append(f"The seeds differ ({before.seed} and {after.seed}): inputs were drawn anew.")
    one, other = before.environment, after.environment
    notes += [
        f"{name} was {getattr(one, name)}, and is {getattr(other, name)}."
        for name in ("python", "torch", "numpy", "grader", "system", "cpu")
        if getattr(one, name) != getattr(other, name)
    ]
    if before.isolation != after.isolation:
        notes.append("Students' code was confined in another way.")
    return notes
