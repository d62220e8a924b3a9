"""The pages of `grader report`, without a browser: statistics by hand, escaping, policy, and how much each page tells."""

import base64
import hashlib
import json
import re
import sys
import types
from datetime import date
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import pytest

from grader.base.outcome import Status
from grader.course.manifest import Feedback
from grader.reports.pages.charts import ChartsMissing, bars
from grader.reports.pages.classroom import class_view
from grader.reports.pages.render import class_page, student_pages
from grader.reports.pages.statistics import distribution, task_statistics
from grader.reports.pages.student import FAULT as TOLD_FAULT
from grader.reports.pages.student import HANDED_IN, StudentView, student_view
from grader.runner.results import Problem, Results
from tests.grader.conftest import grader, mini_course
from tests.grader.exports.samples import outcome, results, submission
from tests.grader.reports.classes import FAULT, NAMED, NAMES, E, F, N, P, hostile_class, plain_class

pytest.importorskip("pygal", reason="needs the extra `report`")
DAY = date(2026, 12, 1)


def scored(*shares: float, id: str = "anna", status: Status = F):
    """A submission of tasks a, b, c …, each worth a point, of which these shares were earned."""
    tasks = {}
    for name, share in zip("abcdefgh", shares, strict=False):
        passed, failed = outcome(P, share), outcome(status, 1 - share)
        tasks[name] = (1.0, [one for one in (passed, failed) if one.weight])
    return submission(tasks, id)


def class_of(*rows: tuple[float, ...]) -> Results:
    """A class, a row for each student."""
    return results(*(scored(*row, id=f"s{number}") for number, row in enumerate(rows)))


def files(graded: Results) -> dict[str, str]:
    """Addresses of pages."""
    return {one.id: f"students/{number}.html" for number, one in enumerate(graded.submissions)}


def views(graded: Results, day: date = DAY) -> dict[str, StudentView]:
    """What each student's page says."""
    ids = {one.id.lower() for one in graded.submissions}
    return {one.id: student_view(graded, one, ids, day) for one in graded.submissions}


class Page(HTMLParser):
    """A page's elements, and the texts of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        self._open = tag if tag in self.inside else ""
        if self._open:
            self.inside[tag].append("")

    def handle_endtag(self, tag):
        """Leave a script or style."""
        self._open = ""

    def handle_data(self, data):
        """Note a text."""
        if self._open:
            self.inside[self._open][-1] += data
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        """All that is read."""
        return "".join(self.words)


def all_pages(graded: Results) -> list[str]:
    """The class page and the students'."""
    return [class_page(graded, files(graded)), *(page for _, page in student_pages(graded, DAY))]


# ---- statistics


def test_discrimination_by_hand():
    """The correlation of a task with the rest, the task itself left out.

    a = 1 1 0 0 and (b + c) / 2 = 1 ½ ½ 0: ½ / √(1 · ½) = 0.7071. c = 1 0 0 0 and (a + b) / 2 = 1 1 ½ 0: 0.375 / √(0.75 · 0.6875) = 0.5222.
    """
    a, b, c = task_statistics(class_of((1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)))
    assert (a.judged, a.tried, a.passed, a.difficulty) == (4, 4, 2, 0.5)
    assert a.discrimination == pytest.approx(0.5**0.5)
    assert b.difficulty == 0.75
    assert c.discrimination == pytest.approx(0.375 / (0.75 * 0.6875) ** 0.5)
    assert a.interval == pytest.approx((-0.793, 0.993), abs=1e-3)  # tanh(0.8814 ± 1.96)
    assert not a.undefined


def test_points_weigh_in_the_rest():
    """The rest is a share of points: a task worth nine counts nine times as much as one worth one."""
    rows = [(1, 1, 0), (0, 1, 0), (1, 0, 1)]
    graded = results(
        *(
            submission(
                {name: (points, [outcome(P if got else F)]) for name, points, got in zip("abc", (1.0, 9.0, 1.0), row, strict=True)}, str(n)
            )
            for n, row in enumerate(rows)
        )
    )
    a = task_statistics(graded)[0]
    assert a.discrimination == pytest.approx(-0.5)  # 1 0 1 and 0.9 0.9 0.1
    assert a.interval is None


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], None),
        ([(1, 0), (0, 1)], "fewer than 3 students"),
        ([(1, 0), (1, 1), (1, 0.5)], "all earned the same here"),
        ([(1, 0.3), (0, 0.3), (0.5, 0.3)], "all earned the same elsewhere"),
        ([(1,), (0,), (0.5,)], "there is no other task"),
    ],
)
def test_what_has_no_discrimination(rows, why):
    """Where a correlation is not defined, the reason stands in its place, on the page too."""
    graded = class_of(*rows)
    found = task_statistics(graded)
    if why is None:
        assert found == []
        return
    assert (found[0].discrimination, found[0].undefined, found[0].interval) == (None, why, None)
    assert f"none: {why}" in Page(class_page(graded, files(graded))).text


def test_equal_shares_are_equal():
    """Sums of tenths don't make a difference where there is none."""
    graded = class_of((1, 0.1, 0.2), (0, 0.2, 0.1), (0.5, 0.3, 0.0))
    assert task_statistics(graded)[0].undefined == "all earned the same elsewhere"


def test_perfect_agreement_has_no_interval():
    """At 1, Fisher's transformation is infinite."""
    one = task_statistics(class_of((1, 1), (0, 0), (1, 1), (0, 0), (1, 1)))[0]
    assert one.discrimination == pytest.approx(1)
    assert one.interval is None


def test_who_is_left_out():
    """Faults, skipped tasks and modules without a verdict count neither for difficulty nor for the distribution."""
    graded = results(
        scored(1, 1, id="anna"),
        scored(0, 0, id="ben"),
        submission({"a": (1.0, [outcome(Status.GRADER_ERROR)]), "b": (1.0, [outcome(P)])}, "cleo"),
        submission({"a": (1.0, [outcome(Status.SKIPPED)]), "b": (1.0, [outcome(P)])}, "dora"),
        submission({"a": (1.0, [outcome(N)]), "b": (1.0, [outcome(N)])}, "eve"),
    )
    graded = msgspec.structs.replace(graded, problems=[Problem("eve", ["module0"], "eve.zip is damaged."), Problem("finn", [], "Nothing.")])
    a, b = task_statistics(graded)
    assert (a.judged, a.tried, a.passed, a.difficulty) == (2, 2, 1, 0.5)
    assert (b.judged, b.tried, b.passed, b.difficulty) == (4, 4, 3, 0.75)
    spread = distribution(graded)
    assert (spread.students, spread.left_out) == (3, 3)  # anna, ben, dora; cleo, eve, finn


def test_the_distribution_by_hand():
    """A range holds its lower end, and the last one also 100 %."""
    spread = distribution(class_of((0,), (0.3,), (0.3,), (0.95,), (1,)))
    assert spread.counts == (1, 0, 0, 2, 0, 0, 0, 0, 0, 2)
    assert spread.mean == pytest.approx(0.51)
    assert spread.quartiles == pytest.approx((0.3, 0.3, 0.95))
    alone = distribution(class_of((0.5,)))
    assert (alone.mean, alone.quartiles) == (0.5, None)
    assert (distribution(results()).mean, distribution(results()).quartiles) == (None, None)


def test_a_small_class_is_warned():
    """Below thirty students, the page says how little the numbers say."""
    small = class_of(*[(1, 0), (0, 1)] * 14)
    assert "Judge no task by them" in Page(class_page(small, files(small))).text
    large = class_of(*[(1, 0), (0, 1)] * 15)
    assert "Judge no task by them" not in Page(class_page(large, files(large))).text


# ---- the class page


def test_first_things_first():
    """What the grader failed at and who has no verdict come before everything else."""
    graded = plain_class()
    text = Page(class_page(graded, files(graded))).text
    assert text.index(FAULT) < text.index("Zoe Roe") < text.index("finn") < text.index("full verdict; 3 without one are left out")
    view = class_view(graded, files(graded))
    assert [(fault.tasks, fault.students) for fault in view.faults] == [(("module1.Counter",), ("dora",))]
    assert [(one.task, one.sentence, one.students) for one in view.mistakes] == [("double", "Divides by n.", (1,))]
    assert view.by_module["module0"] == {"passed": 2, "failed": 1, "error": 2}


def test_the_heat_map_holds_every_cell():
    """Two characters a cell, from which the page's script finds status and share."""
    graded = plain_class()
    page = Page(class_page(graded, files(graded)))
    data = json.loads(page.inside["script"][0])
    assert data["tasks"] == [["module0", "double"], ["module1", "Counter"]]
    cells = [[data["kinds"][int(row[at : at + 2], 36) - 36] for at in range(0, len(row), 2)] for row in data["cells"]]
    assert [[(status, share) for status, share, _ in row] for row in cells] == [
        [("passed", 100), ("passed", 100)],
        [("failed", 50), ("passed", 100)],
        [("error", 0), ("not_implemented", 0)],
        [("passed", 100), ("grader_error", 0)],
        [("error", 0), ("not_implemented", 0)],
    ]
    assert data["names"] == ["anna", "ben", "cleo", "dora", "eve"]
    assert data["mistakes"] == [[1]]


def test_a_task_that_only_some_have():
    """Students may be graded on different modules: a cell without a result is empty."""
    graded = results(scored(1, id="anna"), scored(1, 0.999, id="ben"))
    data = json.loads(Page(class_page(graded, files(graded))).inside["script"][0])
    assert data["cells"][0].endswith("00")
    assert ["failed", 99, ""] in data["kinds"]  # not everything, so not 100


def test_an_empty_class():
    """Nobody was graded, and the page says so."""
    text = Page(class_page(results(), {})).text
    assert "0 students" in text
    assert "None was recognised." in text


def test_charts_hold_nothing_but_shapes_and_words():
    """No script, style, id, address or comment is left of what the library writes, and two runs draw the same."""
    graded = hostile_class()
    page = class_page(graded, files(graded))
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert {element.tag for element in root.iter()} <= {"svg", "g", "rect", "path", "text", "circle", "title"}
        assert not [key for element in root.iter() for key in element.attrib if key in ("style", "id", "href", "onclick")]
        assert root.get("role") == "img" and root.get("aria-label")
    assert page == class_page(graded, files(graded))


def test_pygal_is_asked_for(monkeypatch):
    """Without the library, the sentence says how to get it."""
    monkeypatch.setitem(sys.modules, "pygal", None)
    with pytest.raises(ChartsMissing, match=r"pip install 'pytorch-exercises\[report\]'"):
        bars(distribution(class_of((1,))))


# ---- safety


@pytest.mark.parametrize("make", [plain_class, hostile_class])
def test_the_policy_admits_only_what_is_there(make):
    """Each script and style has its hash in the policy; nothing is loaded; no attribute holds a style or a script."""
    for text in all_pages(make()):
        page = Page(text)
        policy = next(
            attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy"
        )
        directives = dict(part.split(" ", 1) for part in policy.split("; "))
        assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
        assert "unsafe" not in policy
        kinds = [attributes.get("type", "") for tag, attributes in page.elements if tag == "script"]
        scripts = [script for script, kind in zip(page.inside["script"], kinds, strict=True) if kind != "application/json"]
        assert directives["script-src"].split() == [digest(script) for script in scripts]
        assert directives["style-src"].split() == [digest(style) for style in page.inside["style"]]
        for tag, attributes in page.elements:
            assert not [
                name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset", "action", "formaction")
            ], tag
            assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "image", "use")
            assert re.fullmatch(r"#[\w-]+|students/\d+\.html", attributes.get("href") or "#x")
        for style in page.inside["style"]:
            assert "url(" not in style and "@import" not in style


def digest(text: str) -> str:
    """A text's hash as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_hostile_text_stays_text():
    """Names, messages and reasons add no element, and leave no control or direction character."""
    graded = hostile_class()
    for text in all_pages(graded):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", text)
        page = Page(text)
        scripts = [attributes for tag, attributes in page.elements if tag == "script"]
        assert [one for one in scripts if one] in ([], [{"type": "application/json", "id": "data"}])
        assert "window.ran" not in "".join(script for script in page.inside["script"][-2:])
    pages = dict(student_pages(graded, DAY))
    assert NAMES[0] in Page(pages[NAMES[0]]).text
    assert "{{ 7 * 7 }}" in Page(pages["{{ 7 * 7 }}{% raw %}"]).text


def test_pages_come_one_at_a_time():
    """A class of thousands is never in memory as pages."""
    assert isinstance(student_pages(plain_class(), DAY), types.GeneratorType)


# ---- what a student is told


def test_a_students_page():
    """Scores, what failed and why, and what to look at next."""
    graded = plain_class()
    ben = views(graded)["ben"]
    assert (ben.score, ben.most, ben.percent) == ("4.00", "5", 80)
    assert [[one.name for one in group] for group in ben.wrong] == [["double"]]
    assert ben.wrong[0][0].messages == (NAMED,)
    assert [(step.name, step.why) for step in ben.steps] == [("double", "It looks like this: Divides by n.")]
    assert [(module.name, module.percent, module.passed) for module in ben.modules] == [("module0", 50, 0), ("module1", 100, 1)]
    cleo = views(graded)["cleo"]
    assert [(step.name, step.why) for step in cleo.steps] == [
        ("double", "Your code raised an error, or ended before its time."),
        ("Counter", "It is the first task that is not begun."),
    ]
    assert views(graded)["anna"].steps == ()


def test_a_task_that_does_not_count():
    """It is not among those that failed, and the table says why it does not count."""
    graded = results(submission({"a": (1.0, [outcome(Status.SKIPPED, 1.0, "needs a GPU")]), "b": (1.0, [outcome(P)])}))
    view = views(graded)["anna"]
    assert (view.wrong, view.steps) == ([], ())
    text = Page(dict(student_pages(graded, DAY))["anna"]).text
    assert "not counted needs a GPU" in text
    assert "Everything passed." in text


def test_what_is_only_the_staffs():
    """No other name, no reason for which the grader failed, no seed, and no way to the class page."""
    pages = dict(student_pages(plain_class(), DAY))
    names = {"anna", "ben", "cleo", "dora", "eve", "finn", "Zoe"}
    for id, page in pages.items():
        words = set(re.findall(r"\w+", Page(page).text))
        assert words & names == {id}
        assert FAULT not in page and "secret.py" not in page
        assert "Seed" not in page and "class.html" not in page
    assert TOLD_FAULT in Page(pages["dora"]).text
    assert HANDED_IN in Page(pages["eve"]).text


def test_what_was_missing_is_told():
    """A sentence about the student's own hand-in is repeated where it names nobody else."""
    one = submission({"a": (1.0, [outcome(N, 1.0, "module0.py was not handed in. There is notes.pdf.")])}, "anna")
    problem = Problem("anna", ["module0"], "module0.py was not handed in. There is notes.pdf.")
    graded = msgspec.structs.replace(results(one, scored(1, id="note")), problems=[problem])
    assert [note.sentence for note in views(graded)["anna"].notes] == [problem.sentence]  # `note` is part of a word
    graded = msgspec.structs.replace(results(one, scored(1, id="notes.pdf")), problems=[problem])
    assert [note.sentence for note in views(graded)["anna"].notes] == [HANDED_IN]


def test_a_file_that_does_not_run_comes_first():
    """Its tasks say the same, so they are shown once, and it is the first thing to mend."""
    broken = "module0.py does not run: SyntaxError: invalid syntax (line 3)"
    one = submission({"a": (1.0, [outcome(E, 1.0, broken)]), "b": (1.0, [outcome(E, 1.0, broken)])}, "anna")
    graded = msgspec.structs.replace(results(one), problems=[Problem("anna", ["module0"], broken)])
    view = views(graded)["anna"]
    assert [[task.name for task in group] for group in view.wrong] == [["a", "b"]]
    assert view.steps[0].name == "module0.py"
    assert [note.sentence for note in view.notes] == ["The file does not run, so none of its tasks can earn anything."]


@pytest.mark.parametrize(
    ("feedback", "day", "values", "sentence"),
    [
        (Feedback(), DAY, True, True),
        (Feedback("sentence"), DAY, False, True),
        (Feedback("points"), DAY, False, False),
        (Feedback("points", DAY, "full"), DAY, False, False),
        (Feedback("points", DAY, "full"), date(2026, 12, 2), True, True),
    ],
)
def test_the_courses_setting_is_kept(feedback, day, values, sentence):
    """Inputs, values and what was checked are on a student's page only as far as course.toml allows; the class page has no value at all."""
    graded = msgspec.structs.replace(plain_class(), feedback=feedback)
    pages = dict(student_pages(graded, day))
    joined = "".join(Page(page).text for page in pages.values())
    assert ("0.52556" in joined) == values
    assert ("Divides by n." in joined) == sentence
    assert ("It doubles." in joined) == sentence
    assert "test_secret" not in joined
    assert "0.52556" not in class_page(graded, files(graded))


# ---- the command


def test_the_command_writes_the_pages(tmp_path):
    """A file for the class and one for each student, whatever they are called; old pages are named; nothing leaves the folder."""
    graded = hostile_class()
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(graded))
    done = grader("report", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "results.json"]
    made = [path.name for path in (tmp_path / "report" / "students").iterdir()]
    assert len({name.lower() for name in made}) == len(graded.submissions)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._@-]*\.html", name) for name in made)
    links = {attributes["href"] for tag, attributes in Page((tmp_path / "report" / "class.html").read_text()).elements if tag == "a"}
    assert {link for link in links if not link.startswith("#")} == {f"students/{name}" for name in made}
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(plain_class()))
    again = grader("report", "results.json", "--out", "report", cwd=tmp_path)
    assert again.returncode == 0
    assert "students who are not in these results" in again.stderr


def test_bad_input(tmp_path):
    """No results, two submissions of one id, or a file in the folder's place: a sentence and status 2."""
    assert grader("report", "nowhere", cwd=tmp_path).returncode == 2
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(results(scored(1), scored(0))))
    done = grader("report", ".", cwd=tmp_path)
    assert (done.returncode, "two submissions 'anna'" in done.stderr) == (2, True)
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(results(scored(1))))
    (tmp_path / "report").write_text("")
    done = grader("report", ".", cwd=tmp_path)
    assert (done.returncode, "move that away" in done.stderr) == (2, True)


def test_grade_writes_them_too(tmp_path):
    """`grader grade --report`: the same pages, beside the results."""
    root = mini_course(tmp_path / "course")
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "mini.py").write_text("def double(x):\n    return x * 3\n")
    assert grader("grade", "../anna", "--report", cwd=root).returncode == 0
    page = (root / "results" / "report" / "students" / "anna.html").read_text()
    assert "Results of anna" in Page(page).text
    assert json.loads(grader("grade", "../anna", "--report", "--json", cwd=root).stdout)["submissions"]
    assert "expected" in page
    assert (root / "results" / "report" / "class.html").is_file()
