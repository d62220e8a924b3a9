"""The pages that `nbgrader generate_feedback` writes, with the tasks' names in the list of contents, and how each ended."""

import re
from typing import Any

from nbconvert.exporters import HTMLExporter

from grader.exports.nbgrader.notebooks import graded_id

__all__ = ["FeedbackByTask", "named"]

_ENTRY = re.compile(rf'<li><a href="#({re.escape(graded_id(""))}(\w+))">Test cell</a> \(Score: ([\d.]+) / ([\d.]+)\)</li>')
_STYLES = {"passed": "color: #1a7f37", "in part": "color: #9a6700", "failed": "color: #b3261e"}


class FeedbackByTask(HTMLExporter):
    """nbgrader's pages call each graded cell "Test cell"."""

    def from_notebook_node(self, nb: Any, resources: Any = None, **options: Any) -> tuple[str, Any]:  # type: ignore[override]
        """Write a page."""
        page, resources = super().from_notebook_node(nb, resources, **options)
        return named(page), resources


def named(page: str) -> str:
    """A page whose list of contents has the names of tasks, and a word and a colour for each."""

    def entry(match: re.Match[str]) -> str:
        place, task, score, most = match.groups()
        word = "passed" if float(score) >= float(most) else "in part" if float(score) else "failed"
        return f'<li><a href="#{place}">{task}</a> (Score: {score} / {most}) <strong style="{_STYLES[word]}">{word}</strong></li>'

    return _ENTRY.sub(entry, page)
