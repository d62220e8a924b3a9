"""Charts as SVG, drawn by pygal. The page's own style colours them, in light and in dark: no script, style or address is left in them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from grader.base.text import one_line
from grader.reports.pages.statistics import Distribution, TaskStatistics

__all__ = ["MISSING", "ChartsMissing", "bars", "scatter", "stacks"]

MISSING = "The class page draws with pygal, which is missing: pip install 'pytorch-exercises[report]'"
_SPACE = "{http://www.w3.org/2000/svg}"
_LETTERS = 15
"""The size for which the library leaves room. The page's style gives the letters theirs: 12, and on a phone 14."""
_DROPPED = ("defs", "title", "desc", "style", "script")
_KEPT = ("class", "cx", "cy", "d", "height", "r", "transform", "viewBox", "width", "x", "y")


class ChartsMissing(Exception):
    """pygal is not installed; the text says what to do."""


def bars(spread: Distribution) -> Markup:
    """How many students have which total."""
    labels = [f"{10 * number}–{10 * number + 10}" for number in range(len(spread.counts))]
    chart = _pygal("Bar", x_labels=labels, show_legend=False, x_title="% of all points", y_title="students", **_whole(max(spread.counts)))
    chart.add("students", [{"value": count, "label": f"{label} %"} for count, label in zip(spread.counts, labels, strict=True)])
    sentence = "; ".join(f"{label} %: {count}" for count, label in zip(spread.counts, labels, strict=True))
    return _svg(chart, f"Students by total score. {sentence}", ["bar-plain"])


def stacks(counts: Mapping[str, Mapping[str, int]], statuses: Sequence[str]) -> Markup:
    """How the tasks of each module ended, as shares of all its tasks and students."""
    chart = _pygal("StackedBar", x_labels=[one_line(name) for name in counts], x_label_rotation=45, range=(0, 100), y_title="%")
    for status in statuses:
        shares = [(name, 100 * some.get(status, 0) / (sum(some.values()) or 1)) for name, some in counts.items()]
        words = status.replace("_", " ")
        chart.add(words, [{"value": round(share, 2), "label": f"{one_line(name)}: {words}"} for name, share in shares])
    return _svg(
        chart, "How the tasks of each module ended, in percent. The table below has the numbers.", [f"bar-{status}" for status in statuses]
    )


def scatter(tasks: Sequence[TaskStatistics]) -> Markup:
    """Discrimination by difficulty, a dot for each task that has both."""
    least = min((one.discrimination for one in tasks if one.discrimination is not None), default=0)
    chart = _pygal(
        "XY",
        stroke=False,
        show_legend=False,
        dots_size=4,
        xrange=(0, 1),
        range=(-1 if least < 0 else 0, 1),
        x_title="share of the points earned: hard on the left, easy on the right",
        y_title="discrimination",
        show_x_guides=True,
    )
    dots = [(one.difficulty, one.discrimination, one) for one in tasks if one.difficulty is not None and one.discrimination is not None]
    values = [{"value": (round(x, 3), round(y, 3)), "label": one_line(f"{one.module}.{one.task}")} for x, y, one in dots]
    chart.add("tasks", values)
    return _svg(chart, "Discrimination by difficulty, a dot for each task. The table below has the numbers.", ["bar-plain"])


def _whole(most: int) -> dict[str, Any]:
    """Whole numbers on the axis, where they are few."""
    return {"y_labels": list(range(most + 1))} if 0 < most <= 5 else {"range": (0, max(1, most))}


def _pygal(kind: str, **options: Any) -> Any:
    try:
        import pygal
        from pygal.style import Style
    except ImportError:
        raise ChartsMissing(MISSING) from None
    style = Style(label_font_size=_LETTERS, major_label_font_size=_LETTERS, legend_font_size=_LETTERS, title_font_size=_LETTERS)
    return getattr(pygal, kind)(
        css=[], js=[], no_prefix=True, pretty_print=False, width=720, height=360, margin=8, style=style, truncate_label=40, **options
    )


def _svg(chart: Any, label: str, colours: Sequence[str]) -> Markup:
    """The chart without all that a page of ours may not hold: scripts, styles, ids, and numbers with many digits."""
    root = ElementTree.fromstring(chart.render())
    _reduce(root, {f"color-{number}": colour for number, colour in enumerate(colours)})
    root.attrib = {"class": "chart", "viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _reduce(element: ElementTree.Element, colours: Mapping[str, str]) -> None:
    element.tag = element.tag.removeprefix(_SPACE)
    children = list(element)
    said = [child.text or "" for wanted in ("label", "value") for child in children if child.get("class") == wanted]
    for child in children:
        name = child.tag.removeprefix(_SPACE) if isinstance(child.tag, str) else "title"
        if name in _DROPPED or "tooltip-overlay" in child.get("class", ""):
            element.remove(child)
            continue
        _reduce(child, colours)
        if said and child.tag in ("rect", "circle"):
            ElementTree.SubElement(child, "title").text = ": ".join(said)
    kept = {key: re.sub(r"(\.\d)\d+", r"\1", value) for key, value in element.attrib.items() if key in _KEPT}
    if kept.get("class"):
        kept["class"] = " ".join(colours.get(name, name) for name in kept["class"].split() if name not in ("reactive", "tooltip-trigger"))
    element.attrib = {key: value for key, value in kept.items() if value}
