"""Feedback pages and check runs: what is in them, and that no student's words become markup."""

import json
import re

import pytest

from grader.base.outcome import Status
from grader.exports.github_checks import check_files
from grader.exports.markdown import feedback_files, feedback_page
from grader.runner.results import Results
from grader.submissions.collect import Collected
from tests.grader.conftest import grader
from tests.grader.exports.samples import HOSTILE, outcome, results, submission

PASSED, FAILED, MISSING = (
    outcome(Status.PASSED),
    outcome(Status.FAILED, message="value: expected 1, got 2."),
    outcome(Status.NOT_IMPLEMENTED),
)


def test_a_page():
    """The total, a row a task that was begun, one row for a module that was not, and a section where there is something to mend."""
    graded = submission(
        {"one_hot": (2, [PASSED, FAILED]), "gather": (1, [PASSED]), "later": (3, [MISSING]), "last": (1, [MISSING])}, modules=2
    )
    page = feedback_page(graded, results(graded))
    assert page.splitlines() == [
        "# Feedback for anna",
        "",
        "**2.00 of 7 points**",
        "",
        "| module | task | points | status |",
        "| --- | --- | --- | --- |",
        "| module0 | one\\_hot | 1.00 of 2 | failed |",
        "| module0 | gather | 1.00 of 1 | passed |",
        "| module1 | all 2 | 0.00 of 4 | not implemented |",
        "",
        "## module0: one\\_hot",
        "",
        "Failed; 1 of 2 tests passed.",
        "",
        "```text",
        "value: expected 1, got 2.",
        "```",
    ]


def test_practice_is_called_so():
    """Scores of code that was not confined are no official ones, on the page and in the check, which never is a success then."""
    graded = submission({"one_hot": (2, [PASSED])})
    confined = results(graded)
    unconfined = Results(confined.schema, 1, confined.environment, type(confined.isolation)(False, 0, False, False), [graded])
    files, _ = check_files(unconfined, [Collected("anna", "school/anna", "0" * 40)])
    assert "no official score" in feedback_page(graded, unconfined)
    assert "no official score" not in feedback_page(graded, confined)
    assert json.loads(files["anna.json"])["conclusion"] == "neutral"
    assert "not official" in json.loads(files["anna.json"])["output"]["title"]


def test_hostile_words_are_no_markup():
    """Names and messages of a student's: one heading a section, one closed block of code, no HTML, link, mention or command outside it."""
    graded = submission({"one_hot": (2, [outcome(Status.ERROR, message=HOSTILE)])}, id=HOSTILE)
    files = feedback_files(results(graded))
    (name, page) = next((name, data.decode()) for name, data in files.items())
    assert name.endswith(".md")
    assert not set(name) & set("/\\$`<>:| \n")
    fence = next(line for line in page.splitlines() if line.startswith("```")).removesuffix("text")
    outside, inside, rest = page.split(fence)
    assert rest.strip() == ""
    assert "octocat" in inside
    for sign in ("<", "](", "`", "::", "##[", "@octocat", "https://"):
        assert not re.search(rf"(?<!\\){re.escape(sign)}", outside)
    assert "\x1b" not in page
    assert [line for line in outside.splitlines() if line.startswith("#")] == [
        next(line for line in outside.splitlines() if line.startswith("# Feedback for ")),
        "## module0: one\\_hot",
    ]


def test_a_check_fits():
    """However much there is to say, GitHub has room for it, and blocks of code stay closed."""
    tasks = {f"task_{number}": (1, [outcome(Status.FAILED, message=f"{number} " + "x" * 300)]) for number in range(400)}
    graded = submission(tasks)
    files, unknown = check_files(results(graded, submission(tasks, id="ben")), [Collected("anna", "school/anna", "0" * 40)])
    output = json.loads(files["anna.json"])["output"]
    assert unknown == ["ben"]
    assert all(len(output[part]) < 65_535 for part in ("summary", "text"))
    assert output["text"].count("```") % 2 == 0
    assert output["text"].endswith("There is more in the feedback file.")
    assert files["targets.tsv"] == b"school/anna\tanna.json\n"


@pytest.mark.parametrize("command", [["feedback", "nothing.json"], ["checks", "nothing.json", "--collected", "nothing.json"]])
def test_bad_input_is_2_and_a_sentence(tmp_path, command):
    """A results.json that is not there ends the command with what to give."""
    done = grader("export", *command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing.json can't be read" in done.stderr
