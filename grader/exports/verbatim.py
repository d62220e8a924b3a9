"""Students' text as text: nbgrader's pages render Markdown with whatever HTML is in it, scripts too.

In the form grader such a script acts as the instructor who looks at it, and can give grades.
"""

import html
from typing import Any

from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import compute_checksum, is_locked

__all__ = ["ShowVerbatim", "verbatim"]


def verbatim(text: str) -> str:
    """Markdown that shows a text as it is: an indented block, in which nothing has a meaning."""
    return "\n".join(f"    {line}" for line in text.splitlines())


class ShowVerbatim(NbGraderPreprocessor):  # type: ignore[misc]
    """Turn the Markdown and raw cells that a student wrote into blocks of text, in the autograded copy only; of outputs, keep the text.

    Stands in the second chain of autograding: in the first, OverwriteCells has put back what is locked, and taken the name from every mark
    that the gradebook does not know.
    """

    def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
        """Leave what is ours, and unchanged answers."""
        if cell.cell_type == "markdown" and not _is_ours(cell):
            cell.source = verbatim(cell.source)
        elif cell.cell_type == "raw":
            cell.source = html.escape(cell.source, quote=False)
        elif cell.cell_type == "code":  # nbgrader clears a student's outputs, but for `--no-execute`
            for output in cell.outputs:
                if "data" in output:
                    output.data = {kind: data for kind, data in output.data.items() if kind == "text/plain"}
        return cell, resources


def _is_ours(cell: Any) -> bool:
    mark = cell.metadata.get("nbgrader", {})
    return bool(mark.get("grade_id")) and (is_locked(cell) or mark.get("checksum") == compute_checksum(cell))
