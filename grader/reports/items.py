"""What a class's results say about the tasks and tests: for authors, so that banks grow from real answers. It names nobody.

An item is a task or a test. A failure that no known mistake explains is kept as what was expected and what came back, without numbers and
quoted text. What may be the student's own words, the text of an exception and what came back, is shown only where several have the same.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from grader.base.outcome import Status
from grader.runner.results import Results, TaskResult, TestResult

__all__ = ["Item", "Unexplained", "items", "known_mistake"]

FEWEST = 3
"""So many students must have the same text before it is shown."""
_LOOKS_LIKE = "It looks like this: "


@dataclass(frozen=True)
class Unexplained:
    """A way to fail that no known mistake explains."""

    test: str
    """The first test that failed."""
    what: str
    students: int


@dataclass(frozen=True)
class Item:
    """A task: how many tried it, how many passed, and how the others failed."""

    module: str
    task: str
    tried: int
    passed: int
    failed_tests: dict[str, int]
    """How many failed each test, the most first. Tests that nobody failed are left out."""
    mistakes: dict[str, int]
    """How many made each known mistake, by its sentence, the most first."""
    unexplained: list[Unexplained]


def items(results: Results) -> list[Item]:
    """An item for each task, in the order of the results."""
    answers: dict[tuple[str, str], list[TaskResult]] = {}
    not_judged = {(one.submission, name) for one in results.problems for name in one.modules}
    for submission in results.submissions:
        for module in submission.modules:
            for task in module.tasks if (submission.id, module.name) not in not_judged else ():
                answers.setdefault((module.name, task.name), []).append(task)
    return [_item(module, task, some) for (module, task), some in answers.items()]


_NOT_TRIED = (Status.NOT_IMPLEMENTED, Status.SKIPPED, Status.GRADER_ERROR)


def _item(module: str, task: str, answers: Iterable[TaskResult]) -> Item:
    tried = [answer for answer in answers if answer.status not in _NOT_TRIED]
    wrong = [answer for answer in tried if answer.status is not Status.PASSED]
    failed = Counter(test.id for answer in wrong for test in _failed(answer))
    named = [known_mistake(answer) for answer in wrong]
    return Item(
        module,
        task,
        len(tried),
        len(tried) - len(wrong),
        dict(failed.most_common()),
        dict(Counter(filter(None, named)).most_common()),
        _unexplained([_failed(answer)[0] for answer, name in zip(wrong, named, strict=True) if not name]),
    )


def _failed(answer: TaskResult) -> list[TestResult]:
    return [test for test in answer.tests if test.status not in (Status.PASSED, Status.SKIPPED)]


def known_mistake(answer: TaskResult) -> str:
    """The sentence of the known mistake that was named, if one was."""
    lines = [line for test in answer.tests for line in test.message.split("\n") if line.startswith(_LOOKS_LIKE)]
    return lines[0].removeprefix(_LOOKS_LIKE) if lines else ""


def _unexplained(tests: list[TestResult]) -> list[Unexplained]:
    texts = [(test.id, _sentence(test)) for test in tests]
    students = Counter(texts)
    groups = Counter(text if students[text] >= FEWEST else (test.id, _kind(test)) for test, text in zip(tests, texts, strict=True))
    return [Unexplained(id, what, count) for (id, what), count in groups.most_common()]


def _sentence(test: TestResult) -> str:
    """The first sentence of a message without numbers, quoted text, and places in the code."""
    first = re.sub(r" \(line \d+[^()]*\)", "", test.message.split("\n")[0])
    return re.sub(r"\d[\d.e+-]*", "#", re.sub(r"'[^']*'|\"[^\"]*\"", "…", first))


def _kind(test: TestResult) -> str:
    """What the course says of a failure: what was expected; of an error, the exception's type."""
    if test.status is Status.FAILED:
        return re.sub(r"\bgot\b.*", "got …", _sentence(test))
    name = re.match(r"[A-Za-z_.]{1,60}(?=:)", test.message) if test.status is Status.ERROR else None
    return name[0] if name else test.status.replace("_", " ")
