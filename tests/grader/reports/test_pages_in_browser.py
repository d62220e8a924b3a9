"""The pages of `grader report` in headless Chromium: three widths, light and dark, keyboard, paper, hostile texts, and axe-core."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from grader.reports.pages.render import class_page, student_pages
from grader.runner.results import Results
from tests.grader.exports.samples import outcome, results, submission
from tests.grader.reports.classes import F, N, P, hostile_class, plain_class

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
pytest.importorskip("pygal", reason="needs the extra `report`")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

AXE = "4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
WIDTHS = {"phone": (390, 800), "tablet": (820, 1100), "desk": (1400, 900)}
WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => window.refused.push(`${event.violatedDirective} ${event.blockedURI}`));
window.alert = () => { window.ran = "alert"; };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, which notes what a page's policy refuses."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def axe(request) -> str:
    """axe-core's script, fetched once from npm into pytest's cache, and held to its hash."""
    folder: Path = request.config.cache.mkdir("axe-core")
    archive = folder / f"axe-core-{AXE}.tgz"
    if not archive.is_file():
        if not shutil.which("npm"):
            pytest.skip("needs npm, to fetch axe-core")
        try:
            done = subprocess.run(["npm", "pack", f"axe-core@{AXE}"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("npm does not answer, so there is no axe-core")
        if done.returncode:
            pytest.skip("npm can't fetch axe-core here")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == AXE_SHA256
    with tarfile.open(archive) as opened:
        file = opened.extractfile("package/axe.min.js")
        assert file
        return file.read().decode()


def big_class(students: int = 120, tasks: int = 40) -> Results:
    """More students and tasks than are in view."""
    kinds = (
        [outcome(P)],
        [outcome(F, 1.0, "values: wrong.\nIt looks like this: Divides by n."), outcome(P)],
        [outcome(N, 1.0, "not implemented")],
    )
    return results(
        *(
            submission(
                {f"task_{task:02d}": (2.0, kinds[(number * 7 + task * task) % 3]) for task in range(tasks)}, f"s{number:03d}", modules=4
            )
            for number in range(students)
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The pages of a plain, a hostile and two big classes; of the big ones, the class page only."""
    root = tmp_path_factory.mktemp("pages")
    for name, graded in (("plain", plain_class()), ("hostile", hostile_class()), ("big", big_class()), ("huge", big_class(600))):
        (root / name / "students").mkdir(parents=True)
        files = {one.id: f"students/{number}.html" for number, one in enumerate(graded.submissions)}
        (root / name / "class.html").write_text(class_page(graded, files), encoding="utf-8")
        if name not in ("big", "huge"):
            for id, page in student_pages(graded, date(2026, 12, 1)):
                (root / name / files[id]).write_text(page, encoding="utf-8")
    return root


PAGES = ["plain/class.html", "plain/students/1.html", "plain/students/4.html", "hostile/class.html", "hostile/students/0.html"]
PAGES += ["hostile/students/2.html", "hostile/students/8.html", "big/class.html"]


def show(browser, path: Path, width: str = "desk", scheme: str = "light") -> None:
    """Open a page in a window of this width, in this scheme."""
    wide, high = WIDTHS[width]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    metrics = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": width == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())


def focused(browser) -> str:
    """What a screen reader is told of the focused element."""
    return browser.execute_script("const e = document.activeElement; return e.ariaLabel ?? e.textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(browser, axe, folder, width, scheme):
    """No violation of any rule, the best practices included; nothing is wider than the window."""
    for name in PAGES:
        show(browser, folder / name, width, scheme)
        assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
        browser.execute_script(axe)
        script = "axe.run().then((found) => arguments[0](JSON.stringify(found.violations))).catch((error) => arguments[0](String(error)))"
        found = json.loads(browser.execute_async_script(script))
        assert not [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found], name


@pytest.mark.parametrize("name", PAGES)
def test_nothing_runs_and_nothing_is_loaded(browser, folder, name):
    """Hostile texts run no script; the policy has nothing to refuse, because there is nothing; no request leaves the page."""
    show(browser, folder / name)
    assert browser.execute_script("return [window.ran ?? null, window.refused, performance.getEntriesByType('resource').length]") == [
        None,
        [],
        0,
    ]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_policy_holds(browser, folder):
    """A script or style that got into a page all the same would be refused."""
    page = (folder / "plain/students/1.html").read_text(encoding="utf-8")
    planted = '<p id="planted" style="color: red" onclick="window.ran = 1">x</p><script>window.ran = 2</script><img src="https://example.com/x.png">'
    (folder / "planted.html").write_text(page.replace("</main>", f"{planted}</main>"), encoding="utf-8")
    show(browser, folder / "planted.html")
    browser.execute_script("document.getElementById('planted').click()")
    assert browser.execute_script("return window.ran ?? null") is None
    refused = browser.execute_script("return window.refused")
    assert {one.split()[0] for one in refused} == {"script-src-elem", "script-src-attr", "style-src-attr", "img-src"}
    browser.get_log("browser")


def test_the_keyboard_reaches_every_cell(browser, folder):
    """Arrows, Home, End and pages move in the heat map, rows come as they are needed, and Enter sorts and opens."""
    show(browser, folder / "big/class.html")
    assert browser.execute_script("return document.querySelectorAll('.grid tbody tr').length") < 60
    start = browser.find_element(By.CSS_SELECTOR, '.grid [tabindex="0"]')
    assert len(browser.find_elements(By.CSS_SELECTOR, '.grid [tabindex="0"]')) == 1
    start.send_keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert focused(browser) == "s000, module0.task_00: passed, 100 % of the points"
    press(browser, Keys.CONTROL, Keys.END)
    assert focused(browser).startswith("s119, module3.task_39: ")
    seen = browser.execute_script(
        "const r = document.activeElement.getBoundingClientRect(), b = document.querySelector('.grid')"
        ".getBoundingClientRect(); return r.top >= b.top && r.bottom <= b.bottom + 1 && r.right <= b.right + 1"
    )
    assert seen
    press(browser, Keys.PAGE_UP)
    press(browser, Keys.HOME)
    assert focused(browser) < "s119"
    press(browser, Keys.CONTROL, Keys.HOME)
    assert focused(browser) == "student"
    press(browser, Keys.ARROW_RIGHT)
    press(browser, Keys.ENTER)
    assert browser.find_element(By.CSS_SELECTOR, ".grid [aria-sort]").get_attribute("aria-sort") == "descending"
    scores = [float(cell.text) for cell in browser.find_elements(By.CSS_SELECTOR, ".grid tbody td.total")]
    assert scores == sorted(scores, reverse=True)
    press(browser, Keys.ARROW_DOWN)
    press(browser, Keys.HOME)
    press(browser, Keys.ENTER)
    assert "/students/" in browser.current_url


def press(browser, *keys: str) -> None:
    """Press keys where the focus is, all at once."""
    actions = webdriver.ActionChains(browser)
    for key in keys:
        actions.key_down(key)
    for key in keys:
        actions.key_up(key)
    actions.perform()


def test_a_focused_row_that_scrolls_away_keeps_the_focus_in_the_map(browser, folder):
    """Rows that leave the view leave the page, and the focus goes to one that stays."""
    show(browser, folder / "big/class.html")
    browser.find_element(By.CSS_SELECTOR, '.grid [tabindex="0"]').send_keys(Keys.ARROW_DOWN)
    browser.execute_async_script("const done = arguments[0]; document.querySelector('.grid').scrollTop = 1e6; setTimeout(done, 300)")
    assert browser.execute_script("return document.querySelector('.grid').contains(document.activeElement)")
    assert browser.execute_script("return document.querySelector('.grid tbody').lastChild.textContent").startswith("s119")
    press(browser, Keys.ARROW_DOWN)
    assert browser.execute_script("return document.querySelector('.grid').contains(document.activeElement)")


def test_search_and_order(browser, folder):
    """A search holds for the table and the heat map; columns of one module; a table sorts by a button, numbers as numbers."""
    show(browser, folder / "big/class.html")
    box = browser.find_element(By.CSS_SELECTOR, "#map-tools input")
    box.send_keys("s01")
    wait(browser, "return document.querySelectorAll('.grid tbody tr').length === 10")
    assert len([row for row in browser.find_elements(By.CSS_SELECTOR, "#all-students tbody tr") if row.is_displayed()]) == 10
    assert browser.find_element(By.ID, "said").get_attribute("textContent") == "10 of 120 rows."
    browser.execute_script("const c = document.getElementById('columns'); c.value = 'module2'; c.dispatchEvent(new Event('change'))")
    assert browser.execute_script("return document.querySelector('.grid table').ariaColCount") == "12"
    button = browser.find_element(By.CSS_SELECTOR, "#all-students th:nth-child(2) button")
    button.send_keys(Keys.ENTER)
    first, last = browser.execute_script(
        "return [...document.querySelectorAll('#all-students td[data-value]')].map((c) => +c.dataset.value)"
    )[::119]
    assert first > last
    assert browser.find_element(By.CSS_SELECTOR, "#all-students th:nth-child(2)").get_attribute("aria-sort") == "descending"
    browser.find_element(By.CSS_SELECTOR, ".more-button").click()
    assert len(browser.find_elements(By.CSS_SELECTOR, "[data-who='0'] a")) > 20


def wait(browser, script: str) -> None:
    """Wait until a script says yes."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda chrome: chrome.execute_script(script))


def test_paper(browser, folder):
    """A page prints; a heat map of a class that fits is printed whole, and a larger one is said to be too large."""
    show(browser, folder / "plain/class.html")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    show(browser, folder / "big/class.html")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelectorAll('.grid tbody tr').length") == 120
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    show(browser, folder / "huge/class.html")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert "24000 cells, too many for paper" in browser.find_element(By.ID, "no-print").text
    assert not browser.find_element(By.CSS_SELECTOR, ".grid").is_displayed()
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.querySelectorAll('.grid tbody tr').length") < 60


def test_without_scripts_everything_else_is_there(browser, folder):
    """Scores, names and reasons are in the page itself, and no control that would do nothing."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, folder / "plain/class.html")
        words = browser.find_element(By.TAG_NAME, "main").text
        assert "needs JavaScript" in words
        assert all(name in words for name in ("anna", "ben", "finn", "Zoe Roe", "Divides by n."))
        assert not [one for one in browser.find_elements(By.CSS_SELECTOR, "input, select, button") if one.is_displayed()]
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
