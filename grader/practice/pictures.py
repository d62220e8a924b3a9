"""Pictures of answers: what tests/public/pictures.json expects, where an answer differs, and both drawn with a terminal's characters.

A task's `show` in course.toml says what to draw; `grader stubs` computes the expected numbers from the reference. Knows no torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import msgspec
from msgspec import Struct
from rich.text import Text

from grader.course.manifest import Course, Show, Task
from grader.practice.outcome import Drawing

__all__ = ["Picture", "Style", "axes", "differences", "has_difference", "read_pictures", "render", "scale", "verdict"]

_VISIBLE = 1e-3
"""A difference of less, as a part of the largest expected number, can't be seen in a picture."""
_BESIDE = 60
"""The fewest columns in which two plots have room beside each other."""
_GAP = 3
_HEIGHT = 10
_COLOURS = ("cyan", "yellow", "magenta", "green", "blue")
_WRONG = "bold red"

Rows = Sequence[Sequence[float | str]]
Places = frozenset[tuple[int, int]]


class Picture(Struct, frozen=True):
    """The expected numbers of a task's picture."""

    made_from: str
    """Stands for the reference and the `show` from which the numbers were computed."""
    rows: list[list[float | str]]
    over: list[float] = []


@dataclass(frozen=True)
class Style:
    """What a terminal can show: how many columns, whether more than ASCII, and whether colours."""

    width: int = 80
    ascii: bool = False
    colour: bool = True


def read_pictures(course: Course) -> dict[str, Picture]:
    """The expected pictures by task. None if the file is missing or damaged."""
    try:
        return msgspec.json.decode(course.pictures.read_bytes(), type=dict[str, Picture])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def differences(yours: Rows, expected: Rows) -> Places:
    """The places, (row, column), at which a difference can be seen, among those that both have."""
    allowed = _VISIBLE * max((abs(number) for number in _finite(expected)), default=1.0)
    return frozenset(
        (i, j)
        for i, (mine, theirs) in enumerate(zip(yours, expected, strict=False))
        for j, (a, b) in enumerate(zip(mine, theirs, strict=False))
        if not _alike(float(a), float(b), allowed)
    )


def _alike(a: float, b: float, allowed: float) -> bool:
    if math.isfinite(a) and math.isfinite(b):
        return abs(a - b) <= allowed
    return a == b or (math.isnan(a) and math.isnan(b))


def has_difference(yours: Rows, expected: Rows) -> bool:
    """Whether the two pictures differ visibly, their sizes included."""
    return _size(yours) != _size(expected) or bool(differences(yours, expected))


def verdict(task: Task, yours: Drawing, expected: Picture | None) -> str:
    """One sentence or two on what the picture shows."""
    if yours.problem:
        return yours.problem
    if expected is None:
        return f"There is no expected picture of {task.name}, so only yours is drawn. `grader stubs` makes it, where the references are."
    if _size(yours.rows) != _size(expected.rows):
        return f"Yours is {' × '.join(map(str, _size(yours.rows)))}, expected is {' × '.join(map(str, _size(expected.rows)))}."
    wrong = differences(yours.rows, expected.rows)
    if not wrong:
        return f"Yours looks as expected. `grader run {task.name}` tests it."
    i, j = min(wrong)
    count = sum(len(row) for row in expected.rows)
    mine, theirs = (_short(float(rows[i][j])) for rows in (yours.rows, expected.rows))
    where = _name_of(i, j, task.show, expected)
    return f"{len(wrong)} of {count} numbers differ. The first is at {where}: yours is {mine}, expected {theirs}."


def _name_of(i: int, j: int, show: Show | None, expected: Picture) -> str:
    """A place in words: of curves the place across and the curve's name, else row and column."""
    if show is None or show.kind not in ("lines", "steps"):
        return f"row {i}, column {j}" if show and show.kind == "heatmap" else f"point {i}"
    place = _short(expected.over[j]) if expected.over else str(j)
    return f"{place} of {show.labels[i]}" if i < len(show.labels) else f"{place} across"


def axes(show: Show) -> str:
    """What the axes mean, in one line; empty if `show` doesn't say."""
    across, down = ("columns", "rows") if show.kind == "heatmap" else ("across", "up")
    return ", ".join(f"{way}: {what}" for way, what in ((down, show.y), (across, show.x)) if what)


def render(task: Task, yours: Drawing, expected: Picture | None, style: Style) -> Text:
    """The answer's picture beside the expected one, or above it where there is no room, and what is to be seen.

    Raises: ValueError if the task has no picture.
    """
    show = task.show
    if show is None:
        raise ValueError(f"{task.name} has no picture")
    span = scale(yours.rows, expected.rows if expected else [])
    wrong = differences(yours.rows, expected.rows) if expected else frozenset()
    half = (style.width - _GAP) // 2
    beside = expected is not None and bool(yours.rows) and _fits(show, [yours.rows, expected.rows], half, style)
    room = half if beside else style.width
    blocks = []
    if yours.rows:
        blocks.append(_block("Yours", show, yours.rows, yours.over or (expected.over if expected else []), wrong, span, room, style))
    if expected:
        blocks.append(_block("Expected", show, expected.rows, expected.over, frozenset(), span, room, style))
    lines = [Text(show.title or show.call, "bold")]
    if axes(show):
        lines.append(Text(axes(show), "dim"))
    lines += _beside(blocks[0], blocks[1], half) if beside else [line for block in blocks for line in block]
    lines += _legend(show, [*yours.rows, *(expected.rows if expected else [])], span, bool(wrong), style)
    right = expected and not yours.problem and not has_difference(yours.rows, expected.rows)
    lines.append(Text(verdict(task, yours, expected), "green" if right else "yellow"))
    text = Text("\n").join(lines)
    return Text(_to_ascii(text.plain), spans=text.spans) if style.ascii else text


def scale(yours: Rows, expected: Rows) -> tuple[float, float]:
    """The numbers from which to which both are drawn: the expected ones, and of yours what is not too far from them.

    So a wrong answer with one huge number does not make all others look alike.
    """
    numbers, mine = _finite(expected) or _finite(yours), _finite(yours)
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    room = high - low or abs(high) or 1.0
    return max(min([low, *mine]), low - room), min(max([high, *mine]), high + room)


# ---- layout


def _fits(show: Show, matrices: Sequence[Rows], half: int, style: Style) -> bool:
    if show.kind != "heatmap":
        return style.width >= _BESIDE
    return all(_margin(rows) + 2 * _size(rows)[1] <= half for rows in matrices)


def _beside(left: list[Text], right: list[Text], width: int) -> Iterator[Text]:
    for a, b in zip_longest(left, right, fillvalue=Text()):
        line = a.copy()
        line.pad_right(width + _GAP - len(a.plain))
        line.append_text(b)
        line.rstrip()
        yield line


def _block(
    name: str, show: Show, rows: Rows, over: Sequence[float], wrong: Places, span: tuple[float, float], width: int, style: Style
) -> list[Text]:
    if show.kind == "heatmap":
        lines = _heatmap(rows, wrong, span, width, style)
    elif show.kind == "points":
        lines = _points(rows, wrong, span, width, style)
    else:
        lines = _curves(rows, over, wrong, span, width, style, steps=show.kind == "steps")
    for line in lines:
        line.rstrip()
    return [Text(name, "underline"), *lines]


def _legend(show: Show, rows: Rows, span: tuple[float, float], wrong: bool, style: Style) -> Iterator[Text]:
    parts = []
    if show.kind == "heatmap":
        numbers = {float(number) for row in rows for number in row}
        finite = sorted(number for number in numbers if math.isfinite(number))
        shades = _shades(style)
        between = " … " if len(finite) > 2 else "   "
        if finite:
            ends = [(shades[0], span[0]), (shades[-1], span[1])][: len(finite)]
            parts.append(between.join(f"{shade[0]} {_short(number)}" for shade, number in ends))
        if finite and (finite[0] < span[0] or finite[-1] > span[1]):
            parts.append("numbers beyond are drawn like the nearest")
        parts += [f"{_special(number, style)} {_short(number)}" for number in (math.inf, -math.inf) if number in numbers]
        parts += [f"{_special(math.nan, style)} nan"] if any(math.isnan(number) for number in numbers) else []
    legend = Text("   ".join(parts), "dim")
    for index, label in enumerate(show.labels):
        mark = Text("━━ " if style.colour else f"{_letter(index)} ", _COLOURS[index % len(_COLOURS)] if style.colour else "")
        legend.append_text(Text("   " if legend.plain else "") + mark + Text(label))
    if wrong:
        legend.append_text(Text("   " if legend.plain else "") + Text("× differs", _WRONG))
    if legend.plain:
        yield legend


# ---- heatmap


def _shades(style: Style) -> tuple[str, ...]:
    return (". ", "::", "++", "%%", "##") if style.ascii else ("· ", "░░", "▒▒", "▓▓", "██")


def _special(number: float, style: Style) -> str:
    if math.isnan(number):
        return "??"
    return ("^^" if number > 0 else "__") if style.ascii else ("+∞" if number > 0 else "-∞")


def _margin(rows: Rows) -> int:
    return len(str(len(rows) - 1)) + 1


def _heatmap(rows: Rows, wrong: Places, span: tuple[float, float], width: int, style: Style) -> list[Text]:
    """Two characters a number, or one where there is no room."""
    margin, columns = _margin(rows), _size(rows)[1]
    cell = 2 if margin + 2 * columns <= width else 1
    every = 1 if columns <= 10 and cell == 2 else 5
    header = "".join(f"{j:<{cell * every}}" for j in range(0, columns, every))
    lines = [Text(" " * margin + header.rstrip(), "dim")]
    for i, row in enumerate(rows):
        line = Text(f"{i:>{margin - 1}} ", "dim")
        for j, number in enumerate(row[: width - margin]):
            shade = _shade(float(number), span, style)
            if (i, j) in wrong:
                line.append(shade[: cell - 1] + "×", _WRONG)
            else:
                line.append(shade[:cell])
        lines.append(line)
    return lines


def _shade(number: float, span: tuple[float, float], style: Style) -> str:
    if not math.isfinite(number):
        return _special(number, style)
    shades = _shades(style)
    return shades[_step(number, span, len(shades))] if span[1] > span[0] else shades[0]


# ---- lines, steps and points


def _letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index % 26]


def _curves(
    rows: Rows, over: Sequence[float], wrong: Places, span: tuple[float, float], width: int, style: Style, *, steps: bool
) -> list[Text]:
    """Two dots a character, one above the other. Below the axis, a mark at every place where one of the curves differs."""
    names = [_short(end) for end in span]
    margin = max(map(len, names)) + 1
    columns = max(width - margin, 2)
    places = list(over) if len(over) == _size(rows)[1] else [float(j) for j in range(_size(rows)[1])]
    dots: dict[tuple[int, int], int] = {}
    for index, row in enumerate(rows):
        for column, level in _trace(places, [float(number) for number in row], span, columns, steps=steps):
            dots[column, level] = index
    letters = len(rows) > 1 and not style.colour
    lines = []
    for line_number in range(_HEIGHT - 1, -1, -1):
        label = names[1] if line_number == _HEIGHT - 1 else names[0] if line_number == 0 else ""
        line = Text(f"{label:>{margin - 1}} ", "dim")
        for column in range(columns):
            upper, lower = dots.get((column, 2 * line_number + 1)), dots.get((column, 2 * line_number))
            line.append(*_dot(upper, lower, style, letters=letters))
        lines.append(line)
    marks = {_column(places[j], places, columns) for _, j in wrong if j < len(places)}
    if marks:
        lines.append(Text(" " * margin + "".join("×" if column in marks else " " for column in range(columns)).rstrip(), _WRONG))
    left, right = _short(places[0]), _short(places[-1])
    lines.append(Text(" " * margin + left + f"{right:>{max(columns - len(left), 1)}}", "dim"))
    return lines


def _dot(upper: int | None, lower: int | None, style: Style, *, letters: bool) -> tuple[str, str]:
    """The character for two dots, and its colour. Dots are the numbers of their curves."""
    if upper is None and lower is None:
        return " ", ""
    index = upper if upper is not None else lower
    assert index is not None
    if letters:
        return _letter(index), ""
    sign = "both" if upper is not None and lower is not None else "upper" if upper is not None else "lower"
    blocks = {"both": ":", "upper": "'", "lower": "."} if style.ascii else {"both": "█", "upper": "▀", "lower": "▄"}
    return blocks[sign], _COLOURS[index % len(_COLOURS)]


def _column(place: float, places: Sequence[float], columns: int) -> int:
    return _step(place, (min(places), max(places)), columns)


def _trace(
    places: Sequence[float], numbers: Sequence[float], span: tuple[float, float], columns: int, *, steps: bool
) -> Iterator[tuple[int, int]]:
    """The dots of a curve: for each column its level, and the levels on the way from the last column's."""
    low, high = min(places), max(places)
    points = sorted(zip(places, numbers, strict=False))
    before: int | None = None
    for column in range(columns):
        place = low + (high - low) * column / (columns - 1)
        number = _value_at(place, points, steps=steps)
        if not span[0] <= number <= span[1]:  # nan, too
            before = None
            continue
        level = _step(number, span, 2 * _HEIGHT)
        yield column, level
        if before is not None:
            yield from ((column, between) for between in range(min(before, level) + 1, max(before, level)))
        before = level


def _value_at(place: float, points: Sequence[tuple[float, float]], *, steps: bool) -> float:
    """The curve's value: that of the nearest point for steps, else between the two points around the place."""
    if steps or len(points) == 1:
        return min(points, key=lambda point: abs(point[0] - place))[1]
    right = next((k for k in range(1, len(points)) if points[k][0] >= place), len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    part = min(max((place - x0) / (x1 - x0), 0.0), 1.0) if x1 > x0 else 0.0
    return y0 if part == 0 else y1 if part == 1 else y0 + (y1 - y0) * part


def _points(rows: Rows, wrong: Places, span: tuple[float, float], width: int, style: Style) -> list[Text]:
    """A square part of the plane. Up to ten points are drawn as their numbers."""
    names = [_short(end) for end in span]
    margin = max(map(len, names)) + 1
    columns = max(min(width - margin, 4 * _HEIGHT - 1), 3)
    height = (columns + 1) // 2
    low, high = span
    signs: dict[tuple[int, int], tuple[str, str]] = {}
    for i, (x, y) in enumerate((float(row[0]), float(row[1])) for row in rows):
        if low <= x <= high and low <= y <= high:
            differs = (i, 0) in wrong or (i, 1) in wrong
            sign = "×" if differs else str(i) if len(rows) <= 10 else "●"
            signs[_step(x, span, columns), _step(y, span, height)] = (sign, _WRONG if differs else _COLOURS[0])
    lines = []
    for level in range(height - 1, -1, -1):
        label = names[1] if level == height - 1 else names[0] if level == 0 else ""
        line = Text(f"{label:>{margin - 1}} ", "dim")
        for column in range(columns):
            line.append(*signs.get((column, level), (" ", "")))
        lines.append(line)
    lines.append(Text(" " * margin + names[0] + f"{names[1]:>{max(columns - len(names[0]), 1)}}", "dim"))
    return lines


# ---- numbers


def _step(number: float, span: tuple[float, float], steps: int) -> int:
    """Which of so many equal steps from one end to the other a number is nearest to. The middle one if the ends are equal."""
    low, high = span
    return round((min(max(number, low), high) - low) / (high - low) * (steps - 1)) if high > low else steps // 2


def _finite(rows: Rows) -> list[float]:
    return [number for row in rows for number in map(float, row) if math.isfinite(number)]


def _size(rows: Rows) -> tuple[int, int]:
    return len(rows), max((len(row) for row in rows), default=0)


def _short(number: float) -> str:
    return f"{number or 0.0:.4g}"  # no minus before zero


def _to_ascii(text: str) -> str:
    """The same number of characters, ASCII only, so that styles stay in their places."""
    return text.translate({ord("×"): "x", ord("…"): "~", ord("━"): "-", ord("●"): "o", ord("·"): "."}).encode("ascii", "replace").decode()
