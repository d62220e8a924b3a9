"""Check runs, with which GitHub's API shows a score beside its commit.

Only a GitHub App can make check runs. This module only writes the files to post.
"""

from collections.abc import Iterator

import msgspec

from grader.exports.escape import file_name
from grader.exports.markdown import feedback_page, score_line, score_table
from grader.runner.results import Results, SubmissionResult
from grader.submissions.collect import Collected

__all__ = ["TARGETS", "check_files"]

TARGETS = "targets.tsv"
"""This file says which payload belongs to which repository. Each line holds OWNER/NAME, a tab, and a file name."""

_MOST_CHARACTERS = 60_000
"""GitHub refuses a summary or text of more than 65,535."""
_NAME = "Official score"


def check_files(results: Results, record: list[Collected]) -> tuple[dict[str, bytes], list[str]]:
    """Returns: the files to post by name, with TARGETS; the submissions whose commit is not in the record."""
    origins = {entry.student: entry for entry in record if not entry.problem}
    files: dict[str, bytes] = {}
    lines, unknown = [], []
    for submission in results.submissions:
        origin = origins.get(submission.id)
        if origin is None:
            unknown.append(submission.id)
            continue
        name = f"{file_name(origin.student)}.json"
        files[name] = msgspec.json.format(msgspec.json.encode(_payload(submission, results, origin.commit)), indent=1)
        lines.append(f"{origin.repository}\t{name}\n")
    return {**files, TARGETS: "".join(lines).encode()}, unknown


def _payload(submission: SubmissionResult, results: Results, commit: str) -> dict[str, object]:
    summary = score_table(submission)
    return {
        "name": _NAME,
        "head_sha": commit,
        "status": "completed",
        "conclusion": "success" if submission.score == submission.max_score and results.isolation.confined else "neutral",
        "output": {
            "title": score_line(submission) if results.isolation.confined else f"{score_line(submission)} (practice mode, not official)",
            "summary": "\n".join(_cut(summary)),
            "text": "\n".join(_cut(feedback_page(submission, results))),
        },
    }


def _cut(text: str) -> Iterator[str]:
    """The lines that fit GitHub's limit. A fenced block that was cut is closed."""
    left, fence = _MOST_CHARACTERS, ""
    for line in text.splitlines():
        left -= len(line) + 1
        if left < 0:
            yield from filter(None, [fence, "", "There is more in the feedback file."])
            return
        if line.startswith("```"):
            run = line[: len(line) - len(line.lstrip("`"))]
            fence = run if not fence else "" if run == fence == line else fence
        yield line
