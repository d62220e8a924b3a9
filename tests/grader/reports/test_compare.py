"""`grader compare`: who changes, in which tasks, and why."""

import json

import msgspec
import pytest

from grader.base.outcome import Status
from grader.reports.compare import compared
from grader.runner.results import Results
from tests.grader.conftest import grader
from tests.grader.exports.samples import HOSTILE, commands, outcome, results, submission

P, F = Status.PASSED, Status.FAILED
BEFORE = {"double": (2.0, [outcome(P, id="a"), outcome(F, 1.0, "values: wrong\nCalled: f", "b")]), "Counter": (3.0, [outcome(P)])}


def changed(**tasks) -> Results:
    """A run in which these tasks came out otherwise."""
    return results(submission({**BEFORE, **tasks}))


CHANGES = {
    "a test that passes now": ({"double": (2.0, [outcome(P, id="a"), outcome(P, id="b")])}, "b was failed (values: wrong), and is passed"),
    "a test that fails now": ({"Counter": (3.0, [outcome(F, 1.0, "type: x")])}, "test_one was passed, and is failed (type: x)"),
    "other points": ({"Counter": (4.0, [outcome(P)])}, "the task was worth 3 points, and is worth 4"),
    "a new test": ({"Counter": (3.0, [outcome(P), outcome(F, id="new")])}, "new is new, and failed"),
    "a test that is gone": ({"double": (2.0, [outcome(P, id="a")])}, "b is gone; it was failed"),
    "other weights": (
        {"double": (2.0, [outcome(P, 3.0, id="a"), outcome(F, 1.0, "values: wrong\nCalled: f", "b")])},
        "its tests have other weights",
    ),
    "a new task": ({"third": (1.0, [outcome(P)])}, "is graded now, and was not"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_reason_is_named(what):
    """One change, one sentence; the same run differs in nothing."""
    tasks, why = CHANGES[what]
    (change,) = compared(changed(), changed(**tasks)).changes
    assert (change.submission, change.why) == ("anna", why)
    assert not compared(changed(**tasks), changed(**tasks)).any


def test_who_is_in_one_run_only_and_what_else_differs():
    """Submissions that come and go, the seed and the versions."""
    one, other = results(submission(BEFORE, "anna")), results(submission(BEFORE, "ben"))
    other = msgspec.structs.replace(other, seed=8, environment=msgspec.structs.replace(other.environment, torch="2.14.0"))
    difference = compared(one, other)
    assert (difference.only_before, difference.only_after, difference.changes) == (["anna"], ["ben"], [])
    assert difference.notes == ["The seeds differ (7 and 8): inputs were drawn anew.", "torch was 2.13.0, and is 2.14.0."]


def test_the_command(tmp_path):
    """A table with status 1, a sentence with status 0, JSON, folders as well as files, and nothing hostile in the log."""
    hostile = submission({"double": (2.0, [outcome(F, 1.0, HOSTILE, HOSTILE)])}, "eve")
    runs = {"one": results(submission(BEFORE), hostile), "two": changed(double=(2.0, [outcome(P, id="a"), outcome(P, id="b")]))}
    runs["three"] = results(submission(BEFORE), submission({"double": (2.0, [outcome(P, 1.0, "", HOSTILE)])}, "eve"))
    for name, run in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_bytes(msgspec.json.encode(run))
    done = grader("compare", "one", "two/results.json", cwd=tmp_path, COLUMNS="160")
    assert done.returncode == 1
    assert "4.00 → 5.00" in done.stdout
    assert done.stdout.endswith("Only in the first: eve.\nTotals that differ: 1 (1 higher, 0 lower).\n")
    plain = json.loads(grader("compare", "one", "two", "--json", cwd=tmp_path).stdout)
    assert plain["totals"] == {"anna": [4.0, 5.0]}
    same = grader("compare", "one", "one", cwd=tmp_path)
    assert (same.returncode, same.stdout) == (0, "The results are equal.\n")
    for width in ("40", "160"):
        assert not commands(grader("compare", "one", "three", cwd=tmp_path, COLUMNS=width).stdout)
    refused = grader("compare", "one", "nowhere", cwd=tmp_path)
    assert (refused.returncode, "can't be read" in refused.stderr) == (2, True)
