"""Makes HTML of what the pages say. Everything is escaped by jinja2; the policy of a page admits only its own script and style, by hash."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from string import ascii_lowercase, digits
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grader.base.outcome import Status
from grader.base.text import one_line
from grader.reports.feedback import words
from grader.reports.pages.charts import bars, scatter, stacks
from grader.reports.pages.classroom import ClassView, class_view
from grader.reports.pages.statistics import SMALL
from grader.reports.pages.student import StudentView, student_view
from grader.runner.results import Results

__all__ = ["class_page", "student_pages"]

_NAMES_SHOWN = 20
"""The names beside a known mistake or a fault that are in the page's text; the others come when they are asked for."""
_MOST_MISTAKES = 100
_SIGNS = {
    Status.PASSED: "✓",
    Status.FAILED: "",
    Status.NOT_IMPLEMENTED: "–",
    Status.ERROR: "E",
    Status.TIMED_OUT: "T",
    Status.OUT_OF_MEMORY: "M",
    Status.BANNED: "B",
    Status.SKIPPED: "·",
    Status.GRADER_ERROR: "!",
}
"""What a cell of the heat map shows besides the share that was earned."""
_DIGITS = digits + ascii_lowercase


def student_pages(results: Results, day: date) -> Iterator[tuple[str, str]]:
    """The id and the page of each submission, one at a time, with as much as students may be told on a day."""
    ids = {one.id.lower() for one in results.submissions} | {one.submission.lower() for one in results.problems}
    for submission in results.submissions:
        yield submission.id, _student(student_view(results, submission, ids, day))


def _student(view: StudentView) -> str:
    return _page("student.html", ("tables.js",), view=view)


def class_page(results: Results, files: Mapping[str, str]) -> str:
    """The page for the staff. `files` has the address of each submission's page, as seen from this one. Raises: ChartsMissing."""
    view = class_view(results, files)
    return _page(
        "class.html",
        ("tables.js", "grid.js"),
        view=view,
        data=_data(view),
        charts={
            "spread": bars(view.spread),
            "statuses": stacks(view.by_module, view.statuses) if view.statuses else "",
            "tasks": scatter(view.tasks),
        },
        small=SMALL,
        shown=_NAMES_SHOWN,
        mistakes=view.mistakes[:_MOST_MISTAKES],
        signs={status.value: sign for status, sign in _SIGNS.items()},
    )


def _page(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    texts = [_asset(name) for name in scripts]
    style = _asset("pages.css")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, texts))}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    page = _environment().get_template(template)
    return page.render(values, policy=policy, style=Markup(style), scripts=[Markup(text) for text in texts])


@cache
def _environment() -> Environment:
    loader = PackageLoader("grader.reports.pages")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"words": lambda status: words(Status(status)), "line": one_line, "decimal": _decimal}
    return environment


@cache
def _asset(name: str) -> str:
    """A script or style of ours. The page holds exactly this text, because its hash is in the page's policy."""
    return (files("grader.reports.pages") / "templates" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _decimal(number: float | None) -> str:
    """Two decimals, with a real minus sign."""
    return "–" if number is None else f"{number:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _data(view: ClassView) -> Markup:
    """The heat map as JSON: each cell is two characters, a number to the base of 36 that says its place among the different cells."""
    kinds = list(dict.fromkeys(cell for row in view.cells for cell in row if cell))
    codes = {kind: _DIGITS[1 + number // 36] + _DIGITS[number % 36] for number, kind in enumerate(kinds)}
    plain = {
        "tasks": [[one_line(one.module), one_line(one.task)] for one in view.tasks],
        "kinds": [[status, percent, _SIGNS[Status(status)]] for status, percent in kinds],
        "words": {status: words(Status(status)) for status in view.statuses},
        "names": [row.name for row in view.rows],
        "files": [row.file for row in view.rows],
        "scores": [row.score for row in view.rows],
        "cells": ["".join(codes[cell] if cell else "00" for cell in row) for row in view.cells],
        "mistakes": [one.students for one in view.mistakes[:_MOST_MISTAKES]],
    }
    text = msgspec.json.encode(plain).decode()
    for sign in "<>&'\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
