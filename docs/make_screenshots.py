"""Makes the pictures in README and docs, from the real app, the real pages and the real course.

docs/watch-failed.svg and docs/watch-passed.svg show `grader watch`; docs/report-class.png and docs/report-student.png show `grader report`
of a class that never was. The last two need Debian's chromium and chromedriver.

Usage, in the repository's folder: python -m docs.make_screenshots [watch] [report]
"""

import asyncio
import base64
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from benchmarks.latency import copy_course
from benchmarks.reports import DAY, DRAWN, chromium, made_class
from grader.course.manifest import Course, load_course
from grader.practice.session import Session, find_places
from grader.practice.watch.app import WatchApp
from grader.reports.pages.render import class_page, student_pages

FOLDER = Path(__file__).resolve().parent
SIZE = (88, 29)
LONGEST = 120.0
TASK = "count_correct"
TODO = '    # TODO: about 1 line.\n    raise NotImplementedError("count_correct")\n'
WRONG = "    return (scores.argmax(dim=1) == labels).sum()\n"
RIGHT = "    return (scores.argmax(dim=1) == labels).sum().item()\n"
MODULES = ("basics", "tensor_ops")
STUDENTS = (
    "Aisha Ben Ann Bruno Chen Clara Dana Diego Elif Emil Fatima Finn Grace Hana Hugo Ines Ivan Jonas "
    "Kofi Lea Luca Maja Mei Nadia Noah Olga Omar Priya Rosa Sami Sofia Tom Uma Viktor Yuki Zoe"
)
PICTURE = (1000, 800)
LARGEST = 150_000  # bytes


def main() -> None:
    """Write the pictures."""
    wanted = sys.argv[1:] or ["watch", "report"]
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory() as name:
        if "watch" in wanted:
            asyncio.run(_make(copy_course(Path(name))))
        if "report" in wanted:
            _make_reports(Path(name))


def _make_reports(folder: Path) -> None:
    course = load_course(FOLDER.parent)
    graded = made_class(course, [course.module(name) for name in MODULES], STUDENTS.lower().split())
    page, student = folder / "class.html", folder / "student.html"
    page.write_text(class_page(graded, {one.id: f"students/{one.id}.html" for one in graded.submissions}), encoding="utf-8")
    student.write_text(dict(student_pages(graded, DAY))["lea"], encoding="utf-8")
    with chromium() as browser:
        _photograph(browser, page, "map", FOLDER / "report-class.png")
        _photograph(browser, student, "main", FOLDER / "report-student.png")


def _photograph(browser: Any, page: Path, start: str, picture: Path) -> None:
    """Write a picture of a page from an element on. Raises: ValueError if it is too large."""
    wide, high = PICTURE
    size = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    browser.execute_script(f"document.getElementById({start!r}).scrollIntoView()")
    browser.execute_async_script(DRAWN)
    data = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"])
    if len(data) > LARGEST:
        raise ValueError(f"{picture.name} has {len(data)} bytes: choose a smaller part")
    picture.write_bytes(data)


async def _make(folder: Path) -> None:
    with Session(Course.read(folder)) as session:
        places = find_places(session.course, [TASK])
        session.go_to(places[0])
        path = session.file(places[0])
        stub = path.read_text(encoding="utf-8")
        app = WatchApp(session)
        async with app.run_test(size=SIZE) as pilot:
            await _wait(pilot, "not written yet")
            for answer, words, picture in (
                (WRONG, "0 of 1 public tests passed", "watch-failed.svg"),
                (RIGHT, "all public tests passed", "watch-passed.svg"),
            ):
                path.write_text(stub.replace(TODO, answer), encoding="utf-8")
                await _wait(pilot, words)
                (FOLDER / picture).write_text(_plain(app.export_screenshot()), encoding="utf-8")


async def _wait(pilot: Pilot[None], words: str) -> None:
    """Wait until the screen shows some words and nothing runs. Raises: TimeoutError."""
    async with asyncio.timeout(LONGEST):
        while words not in (screen := pilot.app.export_screenshot().replace("&#160;", " ")) or re.search(r"… \d+ s", screen):
            await pilot.pause(0.2)
    await pilot.pause(0.5)


def _plain(svg: str) -> str:
    """The picture with the reader's own font, since a picture in a README may load none."""
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
