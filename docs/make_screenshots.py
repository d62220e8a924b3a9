"""Makes the README's pictures of `grader watch`: docs/watch-failed.svg and docs/watch-passed.svg, from the real app and the real course.

Usage, in the repository's folder: python -m docs.make_screenshots
"""

import asyncio
import os
import re
import tempfile
from pathlib import Path

from textual.pilot import Pilot

from benchmarks.latency import copy_course
from grader.course.manifest import Course
from grader.practice.session import Session, find_places
from grader.practice.watch.app import WatchApp

FOLDER = Path(__file__).resolve().parent
SIZE = (88, 29)
LONGEST = 120.0
TASK = "count_correct"
TODO = '    # TODO: about 1 line.\n    raise NotImplementedError("count_correct")\n'
WRONG = "    return (scores.argmax(dim=1) == labels).sum()\n"
RIGHT = "    return (scores.argmax(dim=1) == labels).sum().item()\n"


def main() -> None:
    """Write both pictures."""
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(_make(copy_course(Path(name))))


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
