"""Draws pictures of answers as PNG or SVG, with matplotlib (the extra `show`). Uses no window and no global state of matplotlib's."""

import importlib.util
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.base.files import write_atomically
from grader.course.manifest import Show, Task
from grader.practice.outcome import Drawing
from grader.practice.pictures import Picture, Places, Rows, differences, scale, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "CannotSave", "check_destination", "figure", "save_figure"]

FORMATS = (".png", ".svg")
_WRONG = "#d62728"
_MATPLOTLIB = {"svg.hashsalt": "grader", "svg.fonttype": "none", "font.size": 9.0}
"""A file depends on the picture alone, and its words stay words, which can be searched and read aloud."""


class CannotSave(Exception):
    """The picture can't be saved; the text says why and what to do."""


def check_destination(path: Path) -> None:
    """See to it that the file can be written, before anything is computed. Raises: CannotSave."""
    if path.suffix.lower() not in FORMATS:
        raise CannotSave(f"{path} is neither a .png nor a .svg: give the file one of these endings")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise CannotSave(f"{path} is a folder: name a file" if path.is_dir() else f"the folder {path.parent} does not exist: make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotSave("saving a picture needs matplotlib: install it with `python -m pip install matplotlib`")


def save_figure(path: Path, task: Task, yours: Drawing, expected: Picture | None) -> None:
    """Write the picture. Raises: CannotSave."""
    check_destination(path)
    import matplotlib

    form, data = path.suffix.lower().removeprefix("."), io.BytesIO()
    with matplotlib.rc_context(_MATPLOTLIB):
        drawn = figure(task, yours, expected)
        drawn.savefig(data, format=form, dpi=150, metadata={"Date": None} if form == "svg" else {"Software": None})
    try:
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise CannotSave(f"{path} can't be written: {error.strerror}") from None


def figure(task: Task, yours: Drawing, expected: Picture | None) -> "Figure":
    """The picture as a figure of matplotlib: the answer's beside the expected one. Raises: ValueError if the task has no picture."""
    from matplotlib.figure import Figure

    show = task.show
    if show is None:
        raise ValueError(f"{task.name} has no picture")
    span = scale(yours.rows, expected.rows if expected else [])
    wrong = differences(yours.rows, expected.rows) if expected else frozenset()
    panels: list[tuple[str, Rows, Sequence[float], Places]] = []
    if yours.rows:
        panels.append(("Yours", yours.rows, yours.over or (expected.over if expected else []), wrong))
    if expected:
        panels.append(("Expected", expected.rows, expected.over, frozenset()))
    drawn = Figure(figsize=(max(4.2 * len(panels) + 0.4, 6.5), 3.9), layout="constrained")
    drawn.suptitle(show.title or show.call, wrap=True)
    drawn.supxlabel(verdict(task, yours, expected), fontsize=8, wrap=True)
    for index, (name, rows, over, places) in enumerate(panels):
        ax = drawn.add_subplot(1, len(panels), index + 1)
        ax.set(title=name, xlabel=show.x, ylabel=show.y)
        {"heatmap": _heatmap, "points": _points}.get(show.kind, _curves)(ax, show, rows, over, places, span)
    return drawn


def _heatmap(ax: "Axes", show: Show, rows: Rows, over: Sequence[float], wrong: Places, span: tuple[float, float]) -> None:
    from matplotlib.patches import Rectangle

    width = max(len(row) for row in rows)
    numbers: Any = [[float(number) for number in row] + [math.nan] * (width - len(row)) for row in rows]
    finite = [[number if math.isfinite(number) else math.nan for number in row] for row in numbers]
    low, high = span
    image = ax.imshow(finite, cmap="viridis", vmin=low, vmax=high if high > low else low + 1, interpolation="nearest")
    figure = ax.get_figure(root=True)
    assert figure  # which every axes of ours has
    figure.colorbar(image, ax=ax, shrink=0.75)
    for i, row in enumerate(numbers):
        for j, number in enumerate(row):
            if math.isinf(number):
                ax.text(j, i, "∞" if number > 0 else "−∞", ha="center", va="center", fontsize=7)
    for i, j in sorted(wrong):
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=_WRONG, linewidth=1.5))


def _curves(ax: "Axes", show: Show, rows: Rows, over: Sequence[float], wrong: Places, span: tuple[float, float]) -> None:
    style = "steps-mid" if show.kind == "steps" else "default"
    for index, row in enumerate(rows):
        places = list(over) if len(over) == len(row) else [float(j) for j in range(len(row))]
        numbers = [float(number) if math.isfinite(float(number)) else math.nan for number in row]
        ax.plot(places, numbers, drawstyle=style, label=show.labels[index] if index < len(show.labels) else None)
        marked = [j for i, j in sorted(wrong) if i == index]
        ax.plot([places[j] for j in marked], [numbers[j] for j in marked], "x", color=_WRONG)
    _same_height(ax, span)
    if show.labels:
        ax.legend()


def _points(ax: "Axes", show: Show, rows: Rows, over: Sequence[float], wrong: Places, span: tuple[float, float]) -> None:
    for i, (x, y) in enumerate((float(row[0]), float(row[1])) for row in rows):
        if math.isfinite(x) and math.isfinite(y):
            differs = (i, 0) in wrong or (i, 1) in wrong
            ax.plot([x], [y], "x" if differs else "o", color=_WRONG if differs else "C0")
            ax.annotate(str(i), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    _same_height(ax, span)
    ax.set_xlim(ax.get_ylim())
    ax.set_aspect("equal")


def _same_height(ax: "Axes", span: tuple[float, float]) -> None:
    """Both panels have one scale."""
    room = 0.05 * (span[1] - span[0]) or 1.0
    ax.set_ylim(span[0] - room, span[1] + room)
