"""How much students are told of a hidden failure: a setting of the course that every export keeps."""

import json
from base64 import b64decode
from datetime import date

import msgspec
import pytest

from grader.base.outcome import Status
from grader.course.manifest import Course, Feedback
from grader.reports.detail import detail_on, for_students
from tests.grader.conftest import grader, mini_course
from tests.grader.exports.samples import outcome, results, submission

SECRET = "0.52556"
WRONG = (
    f"values: 240 of 360 are wrong; expected {SECRET}, got 1.\nIt looks like this: Divides by n.\n"
    f"Called: double(x={SECRET})\nChecked: It doubles."
)
TESTS = [
    outcome(Status.FAILED, 1.0, WRONG, "TestDouble::test_secret_case"),
    outcome(Status.ERROR, 1.0, f"ValueError: {SECRET} (line 3, in double)\nChecked: It doubles."),
    outcome(Status.TIMED_OUT, 1.0, f"took more than 4 s\nCalled: double({SECRET})"),
    outcome(Status.PASSED),
]
OTHERS = [
    outcome(Status.BANNED, 1.0, "uses torch.softmax, which this task forbids"),
    outcome(Status.NOT_IMPLEMENTED, 1.0, "mini.py was not handed in."),
]
GRADED = results(submission({"double": (4.0, TESTS), "Counter": (1.0, OTHERS)}))


def told(feedback: Feedback, day: date = date(2026, 12, 1)) -> list[tuple[str, str]]:
    """What stands in the results for students: test and message."""
    shown = for_students(msgspec.structs.replace(GRADED, feedback=feedback), day)
    assert [one.score for one in shown.submissions] == [1.0]
    return [(test.id, test.message) for task in shown.submissions[0].modules[0].tasks for test in task.tests]


def test_everything():
    """The messages as they are."""
    assert told(Feedback()) == [(test.id, test.message) for test in [*TESTS, *OTHERS]]


def test_a_sentence():
    """What was checked and which mistake it looks like; of an error, type and place; no inputs, no values, no words of an exception."""
    assert [message for _, message in told(Feedback("sentence"))] == [
        "It looks like this: Divides by n.\nChecked: It doubles.",
        "ValueError (line 3, in double)\nChecked: It doubles.",
        "",
        "",
        *(test.message for test in OTHERS),
    ]


def test_points():
    """Neither what failed, nor what the tests are called. What is missing or forbidden is said all the same."""
    shown = told(Feedback("points"))
    assert [message for _, message in shown] == ["", "", "", "", *(test.message for test in OTHERS)]
    assert [id for id, _ in shown] == [*(f"hidden test {number}" for number in (1, 2, 3, 4)), "hidden test 1", "hidden test 2"]


def test_another_from_the_day_after():
    """The date itself still belongs to the time before."""
    feedback = Feedback("points", date(2026, 12, 1), "sentence")
    assert detail_on(feedback, date(2026, 12, 1)) == "points"
    assert detail_on(feedback, date(2026, 12, 2)) == "sentence"
    assert detail_on(Feedback("points"), date(2100, 1, 1)) == "points"


@pytest.mark.parametrize("detail", ["sentence", "points"])
def test_every_export_keeps_it(tmp_path, detail):
    """No input or value gets into what students see, and with points alone, no test's name."""
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(GRADED, feedback=Feedback(detail))))
    (tmp_path / "collected.json").write_text(json.dumps([{"student": "anna", "repository": "o/anna", "commit": "0" * 40}]))
    identity = ("--classroom", "c", "--assignment", "a", "--owner", "anna", "--repository", "o/c-a-anna", "--commit", "0" * 40)
    times = ("--committed", "2026-10-01T12:00:00Z", "--tag", "submit/1")
    classroom50, checks = ("classroom50", "-s", "anna", *identity, *times), ("checks", "--collected", "collected.json")
    for name, *options in (("github-classroom",), ("feedback",), ("gradescope",), classroom50, checks):
        done = grader("export", name, "results.json", "--out", name, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("results.json", "collected.json")]
    encoded = json.loads((tmp_path / "github-classroom/anna/module0.json").read_text())["results"].values()
    texts += [b64decode(value).decode() for value in encoded]
    assert len(texts) >= 7
    assert not any(SECRET in text for text in texts)
    assert any("Divides by n." in text for text in texts) == (detail == "sentence")
    assert any("secret_case" in text for text in texts) == (detail == "sentence")


def test_the_course_says_it(tmp_path):
    """Grading records the setting; the messages in results.json stay whole, for the instructor."""
    root = mini_course(tmp_path / "course")
    manifest = root / "course.toml"
    setting = '[feedback]\ndetail = "sentence"\nafter = 2026-12-01\n\n[[modules]]'
    manifest.write_text(manifest.read_text().replace("[[modules]]", setting, 1))
    assert Course.read(root).feedback == Feedback("sentence", date(2026, 12, 1), "full")
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "mini.py").write_text("def double(x):\n    return x * 3\n")
    assert grader("grade", "../anna", cwd=root).returncode == 0
    plain = json.loads((root / "results" / "results.json").read_text())
    assert plain["feedback"] == {"detail": "sentence", "after": "2026-12-01", "detail_after": "full"}
    assert "expected" in plain["submissions"][0]["modules"][0]["tasks"][0]["tests"][0]["message"]
