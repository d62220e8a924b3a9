"""Feedback for students in GitHub's Markdown, made from results.json: one page for each submission."""

from grader.base.outcome import Status
from grader.exports.escape import file_name, markdown_block, markdown_text
from grader.reports.feedback import first_messages, tally, words
from grader.runner.results import ModuleResult, Results, SubmissionResult, TaskResult, rounded

__all__ = ["feedback_files", "feedback_page", "score_line", "score_table"]

_NOT_CONFINED = "This was graded in practice mode, without confinement: it is no official score."
_QUIET = (Status.PASSED, Status.NOT_IMPLEMENTED, Status.SKIPPED)
"""For these statuses the table says enough."""


def feedback_files(results: Results) -> dict[str, bytes]:
    """A page for each submission, by file name."""
    return {f"{file_name(submission.id)}.md": feedback_page(submission, results).encode() for submission in results.submissions}


def feedback_page(submission: SubmissionResult, results: Results) -> str:
    """The whole feedback for one submission."""
    parts = [f"# Feedback for {markdown_text(submission.id)}", f"**{score_line(submission)}**"]
    if not results.isolation.confined:
        parts.append(_NOT_CONFINED)
    parts.append(score_table(submission))
    for module in submission.modules:
        parts += [text for task in module.tasks if task.status not in _QUIET for text in _section(module, task)]
    return "\n\n".join(parts) + "\n"


def score_line(submission: SubmissionResult) -> str:
    """The total, such as "22.00 of 277 points"."""
    return f"{rounded(submission.score)} of {submission.max_score:g} points"


def score_table(submission: SubmissionResult) -> str:
    """A table with a row for each task. A module that was not begun has a single row."""
    rows = ["| module | task | points | status |", "| --- | --- | --- | --- |"]
    for module in submission.modules:
        name = markdown_text(module.name)
        if all(task.status is Status.NOT_IMPLEMENTED for task in module.tasks):
            rows.append(f"| {name} | all {len(module.tasks)} | {rounded(module.score)} of {module.max_score:g} | not implemented |")
            continue
        for task in module.tasks:
            points = f"{rounded(task.score)} of {task.max_score:g}"
            rows.append(f"| {name} | {markdown_text(task.name)} | {points} | {words(task.status)} |")
    return "\n".join(rows)


def _section(module: ModuleResult, task: TaskResult) -> list[str]:
    head = f"## {markdown_text(module.name)}: {markdown_text(task.name)}"
    said = tally(task)
    messages = "\n\n".join(first_messages(task))
    return [head, said[0].upper() + said[1:], *([markdown_block(messages)] if messages else [])]
