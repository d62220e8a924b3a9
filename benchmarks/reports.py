"""How long the pages of a large class take to write and to open, and how large they are.

The class is made up: 2,000 students and 270 tasks of this course (some of them twice). The class page is opened in headless Chromium; the
time ends when two frames have been drawn after the page's script ran.

Usage: python -m benchmarks.reports [--students N] [--tasks N] [--opened N] [--json]
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from grader.base.outcome import Status
from grader.course.banks import read_bank
from grader.course.manifest import Course, Module, Task, load_course
from grader.reports.pages.render import class_page, student_pages
from grader.runner.results import SCHEMA, Results, SubmissionResult, TestResult, environment, score_module, submission_result
from grader.sandbox.supervisor.isolation import Isolation

DAY = date(2026, 12, 1)
TESTS = 4
DRAWN = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=2000)
    parser.add_argument("--tasks", type=int, default=270)
    parser.add_argument("--opened", type=int, default=5, help="How often the class page is opened.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    course = load_course()
    graded = made_class(course, modules_of(course, options.tasks), [f"student{number:04d}" for number in range(options.students)])
    with tempfile.TemporaryDirectory() as name:
        found = _measure(graded, Path(name) / "class.html", options.opened)
    if options.json:
        print(json.dumps(found))
    else:
        for what, value in found.items():
            print(f"{what:28} {value}")


def _measure(graded: Results, path: Path, opened: int) -> dict[str, Any]:
    files = {one.id: f"students/{one.id}.html" for one in graded.submissions}
    start = time.perf_counter()
    page = class_page(graded, files).encode()
    found: dict[str, Any] = {"class_page_s": round(time.perf_counter() - start, 2), "class_page_mb": round(len(page) / 1e6, 2)}
    path.write_bytes(page)
    start, sizes = time.perf_counter(), []
    for _, text in islice(student_pages(graded, DAY), 100):
        sizes.append(len(text.encode()))
    found["student_page_ms"] = round(1000 * (time.perf_counter() - start) / len(sizes), 1)
    found["student_page_kb"] = round(sum(sizes) / len(sizes) / 1e3, 1)
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        return {**found, "open_s": "needs chromium and chromedriver"}
    with chromium() as browser:
        times = []
        for _ in range(opened):
            browser.get("about:blank")
            start = time.perf_counter()
            browser.get(path.as_uri())
            browser.execute_async_script(DRAWN)
            times.append(round(time.perf_counter() - start, 2))
    return {**found, "open_s": times}


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def modules_of(course: Course, count: int) -> list[Module]:
    """So many tasks: the course's and, if that is not enough, the same again under other names."""
    modules: list[Module] = []
    for turn in range(1 + count // max(1, sum(len(module.tasks) for module in course.modules))):
        for module in course.modules:
            tasks = module.tasks[: count - sum(len(one.tasks) for one in modules)]
            if tasks:
                modules.append(Module(f"{module.name}{turn or ''}", module.title, module.story, tasks))
    return modules


def made_class(course: Course, modules: list[Module], names: list[str], seed: int = 1) -> Results:
    """Results of students who never were. Whoever is better gets more right; mistakes are those of the course's own banks."""
    rng = random.Random(seed)
    mistakes: dict[str, list[str]] = {}
    for module in course.modules:
        path = course.misconceptions(module.name)
        for entry in read_bank(path.read_text(encoding="utf-8"), "misconception").entries if path.is_file() else ():
            mistakes.setdefault(entry.task, []).append(entry.why)
    hard = {task.name: rng.random() for module in modules for task in module.tasks}
    submissions = [_submission(name, modules, rng.gauss(0.62, 0.2), hard, mistakes, rng) for name in names]
    return Results(SCHEMA, seed, environment(), Isolation(True, 6, True, True), submissions)


def _submission(
    name: str, modules: list[Module], skill: float, hard: dict[str, float], mistakes: dict[str, list[str]], rng: random.Random
) -> SubmissionResult:
    graded = []
    for module in modules:
        done = rng.random() < 1.3 - hard[module.tasks[0].name] * (1.1 - skill)
        tests = {
            task.name: _tests(task, skill - hard[task.name] if done else None, mistakes.get(task.name, []), rng) for task in module.tasks
        }
        graded.append(score_module(module, tests))
    return submission_result(name, graded)


def _tests(task: Task, margin: float | None, mistakes: list[str], rng: random.Random) -> list[TestResult]:
    """A task's tests: by how much a student's skill exceeds what is needed."""
    if margin is None or rng.random() < 0.05:
        return [TestResult("test", Status.NOT_IMPLEMENTED, 1.0, f"{task.name} is not implemented yet.")]
    if rng.random() < 0.6 + 0.6 * margin:
        return [TestResult(f"test_{number}", Status.PASSED, 1.0, "") for number in range(TESTS)]
    kind = rng.random()
    checked = f"\nCalled: {task.name}(x=float32 (5, 7, 3))\nChecked: The values are right for every size."
    if kind < 0.1:
        wrong = TestResult("test_0", Status.ERROR, 1.0, f"RuntimeError: shapes do not fit (line 12, in {task.name}){checked}")
    elif kind < 0.14:
        wrong = TestResult("test_0", Status.TIMED_OUT, 1.0, f"took more than 10 s{checked}")
    elif kind < 0.17:
        wrong = TestResult("test_0", Status.BANNED, 1.0, "uses torch.softmax, which this task forbids")
    else:
        share = rng.randint(1, 100)
        named = f"\nIt looks like this: {rng.choice(mistakes)}" if mistakes and kind < 0.75 else ""
        differs = f"values: {share} of 105 are wrong; the first at [0, 0, 1]: expected 1, got 0."
        wrong = TestResult("test_0", Status.FAILED, 1.0, f"{differs}{named}{checked}")
    right = rng.randrange(TESTS)
    rest = [TestResult(f"test_{n}", Status.PASSED, 1.0, "") if n <= right else replace(wrong, id=f"test_{n}") for n in range(1, TESTS)]
    return [wrong, *rest]


if __name__ == "__main__":
    main()
