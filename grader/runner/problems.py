"""Who has no full verdict, and why: what could not be read or found, and what the grader itself failed at."""

import re
from collections.abc import Mapping, Sequence

from grader.base.outcome import Status
from grader.runner.results import Problem, SubmissionResult
from grader.submissions.sources import Source, Submission

__all__ = ["problems"]

_MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]{1,80})'")


def problems(submissions: Sequence[Submission], results: Sequence[SubmissionResult], absent: Mapping[str, str]) -> list[Problem]:
    """The problems of a run, in the order of its submissions; last the students of whom there is nothing, with the reasons."""
    found = [problem for submission, result in zip(submissions, results, strict=True) for problem in _problems(submission, result)]
    return [*found, *(Problem(id, [], sentence) for id, sentence in absent.items())]


def _problems(submission: Submission, result: SubmissionResult) -> list[Problem]:
    """Those of one submission: one for each sentence, with the modules that it holds for."""
    by_sentence: dict[str, list[str]] = {}
    plainly_missing = []
    for module in result.modules:
        source = submission.sources.get(module.name) or Source.not_handed_in(module.name)
        if source == Source.not_handed_in(module.name):
            plainly_missing.append(module.name)
        elif source.problem:
            by_sentence.setdefault(source.problem, []).append(module.name)
        for name in sorted({name for task in module.tasks for test in task.tests for name in _MISSING.findall(test.message)}):
            sentence = (
                f"The code imports {name}, which is not here: a package (see [environment] in course.toml) or a file of the student's own."
            )
            by_sentence.setdefault(sentence, []).append(module.name)
        messages = {test.message for task in module.tasks for test in task.tests}
        if all(message.startswith(f"{module.name}.py does not run: ") for message in messages):
            by_sentence.setdefault(min(messages), []).append(module.name)
        if any(task.status is Status.GRADER_ERROR for task in module.tasks):
            by_sentence.setdefault("The grader itself failed. Grade again; what is done is kept.", []).append(module.name)
    if len(plainly_missing) == len(result.modules):
        others = ", ".join(sorted(name for name, source in submission.sources.items() if not source.missing)) or "nothing"
        by_sentence[f"None of the modules that are graded was handed in. Found: {others}."] = plainly_missing
    return [Problem(submission.id, modules, sentence) for sentence, modules in by_sentence.items()]
