"""Reads what lies in nbgrader's submitted/, more kindly than nbgrader itself, and names what nbgrader would pass over."""

from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import NotebookExporter

from grader.base.text import one_line

__all__ = ["SubmittedNotebooks", "not_read"]


class SubmittedNotebooks(NotebookExporter):
    """The exporter of `nbgrader autograde`. It also reads notebooks with a byte order mark, as some editors write it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Names in the log what is not read, before the first notebook is."""
        super().__init__(*arguments, **options)
        converter: Any = self.parent
        for folder in sorted(getattr(converter, "assignments", {})):
            for sentence in not_read(Path(folder)):
                converter.log.error(sentence)
        for folder in _without_notebooks(converter):
            for sentence in not_read(folder):
                converter.log.error(sentence)

    def from_file(self, file_stream: Any, resources: Any = None, **options: Any) -> tuple[Any, Any]:
        """Read a notebook and convert it."""
        notebook = nbformat.reads(file_stream.read().removeprefix("\ufeff"), as_version=4)
        converted: tuple[Any, Any] = self.from_notebook_node(notebook, resources=resources, **options)
        return converted


def not_read(folder: Path) -> list[str]:
    """A sentence for each file in a student's folder for an assignment that nbgrader passes over, and that may be the student's answer."""
    module, student = folder.name, folder.parent.name
    found = []
    for path in sorted(folder.iterdir()):
        stem = one_line(path.name, 80)
        if path.suffix == ".py" and not path.with_suffix(".ipynb").exists() and path.stem == module:
            how = "grade it with `grader grade`, and put the score into the gradebook with `grader export gradebook`"
            found.append(f"{one_line(student, 80)} handed in {stem}, which nbgrader does not read: {how}.")
        elif path.suffix == ".ipynb" and path.stem != module and not (folder / f"{module}.ipynb").exists():
            found.append(
                f"{one_line(student, 80)} handed in {stem}, which nbgrader does not read: call it {module}.ipynb, and run this again."
            )
    return found


def _without_notebooks(converter: Any) -> list[Path]:
    """The students' folders for the assignment in which there is no notebook at all."""
    directory = getattr(converter, "coursedir", None)
    if directory is None or not hasattr(converter, "assignments"):
        return []
    root = Path(directory.format_path(directory.submitted_directory, "X", directory.assignment_id)).parents[1]
    folders = sorted(root.glob(f"*/{directory.assignment_id}")) if root.is_dir() else []
    return [folder for folder in folders if folder.is_dir() and not any(folder.glob("*.ipynb"))]
