"""GitHub Classroom's reporter: its arithmetic, restated here, comes to the canonical score, and no submission breaks its format."""

import base64
import json
import re
from fractions import Fraction
from math import floor

import msgspec
import pytest
from hypothesis import given, settings

from grader.exports.reporter import MAX_ENVIRONMENT_BYTES, reporter_files, runners
from grader.exports.runners import MAX_JSON_BYTES, Check, encode, runner_json
from grader.outcome import Status
from grader.results import ResultsError, rounded
from tests.grader.conftest import grader
from tests.grader.exports import HOSTILE, hostile_submission, outcome, results, submission, submissions

P, F, S, B = Status.PASSED, Status.FAILED, Status.SKIPPED, Status.BANNED


def recorded(payloads) -> tuple[float, float]:
    """Points and maximum as the reporter's notify-classroom.js adds them up, in doubles as JavaScript has them."""
    points = most = 0.0
    for payload in payloads:
        if not payload["max_score"]:
            continue
        most += payload["max_score"]
        for test in payload["tests"]:
            points += test["score"]
    return points, most


def displayed(payload) -> float:
    """Points of one runner as the reporter has shown them: passed ÷ number of tests × max_score."""
    tests = payload["tests"]
    return sum(test["status"] == "pass" for test in tests) / len(tests) * payload["max_score"]


def half_up(points: float) -> Fraction:
    """To hundredths."""
    return Fraction(floor(Fraction(points) * 100 + Fraction(1, 2)), 100)


@settings(max_examples=2000, deadline=None)
@given(submissions())
def test_recorded_and_displayed_are_the_canonical_score(submission):
    """For whatever results: the record rounds to the canonical score in any order, and each runner shows what it records."""
    payloads = [json.loads(runner.json) for runner in runners(submission)]
    points, most = recorded(payloads)
    assert half_up(points) == Fraction(str(rounded(submission.score)))
    assert half_up(most) == Fraction(str(rounded(submission.max_score)))
    assert recorded(payloads[::-1])[0] == points
    assert abs(points - submission.score) < 1e-9
    for payload in payloads:
        assert abs(displayed(payload) - recorded([payload])[0]) < 1e-9
        assert {test["status"] for test in payload["tests"]} <= {"pass", "fail", "error"}


def test_a_half_is_rounded_up_in_the_record_too():
    """0.335 is no double: the record stands on the side to which the canonical score was rounded."""
    tests = [outcome(P)] * 67 + [outcome(F)] * 133
    half = submission({"a": (1.0, tests)})
    assert str(rounded(half.score)) == "0.34"
    points, _ = recorded(json.loads(runner.json) for runner in runners(half))
    assert half_up(points) == Fraction(34, 100)


def test_statuses():
    """A skipped test is left out; a ban fails all; what was not counted is worth nothing and fails nothing; crashes are errors."""
    graded = submission(
        {
            "right": (1.0, [outcome(P), outcome(S)]),
            "banned": (1.0, [outcome(P), outcome(B)]),
            "skipped": (1.0, [outcome(S)]),
            "crashed": (1.0, [outcome(P), outcome(Status.OUT_OF_MEMORY)]),
        }
    )
    payloads = {runner.name: json.loads(runner.json) for runner in runners(graded)}
    seen = {name: (p["status"], p["max_score"], [(t["status"], t["score"]) for t in p["tests"]]) for name, p in payloads.items()}
    assert seen == {
        "right": ("pass", 1, [("pass", 1.0)]),
        "banned": ("fail", 1, [("fail", 0.0), ("fail", 0.0)]),
        "skipped": ("pass", 0, [("pass", 0.0)]),
        "crashed": ("error", 1, [("pass", 0.5), ("error", 0.0)]),
    }


def test_a_test_that_weighs_more_stands_there_more_often():
    """Weights 2, 0.5 and 1.5 are 4, 1 and 3 tests of the same score."""
    tests = [outcome(P, 2.0, id="two"), outcome(F, 0.5, "wrong", "half"), outcome(P, 1.5, id="more")]
    (runner,) = runners(submission({"a": (4.0, tests)}))
    payload = json.loads(runner.json)
    names = [test["name"] for test in payload["tests"]]
    assert names[:5] == ["two (1 of 4)", "two (2 of 4)", "two (3 of 4)", "two (4 of 4)", "half: wrong"]
    assert names[5:] == ["more (1 of 3)", "more (2 of 3)", "more (3 of 3)"]
    assert {test["score"] for test in payload["tests"] if test["status"] == "pass"} == {0.5}


def test_weights_without_a_common_measure_are_refused_with_a_sentence():
    """Ten thousand shares are merged where they can be, and else refused."""
    fine = [outcome(P, 0.9999), outcome(F, 1.0), outcome(F, 0.0001)]
    with pytest.raises(ResultsError, match=r"the task a can't be told to GitHub Classroom: .* 20000 parts"):
        runners(submission({"a": (1.0, fine)}))
    half = [outcome(P, 1.0), outcome(F, 0.9999), outcome(F, 0.0001)]
    (runner,) = runners(submission({"a": (1.0, half)}))
    assert [test["name"] for test in json.loads(runner.json)["tests"]] == ["part 1 of 2", "part 2 of 2"]


@pytest.mark.parametrize(("tasks", "tests"), [(1, 1), (1, 400), (99, 30), (3, 1000)])
def test_the_worst_submission_fits(tasks, tests):
    """Hostile names and messages in every test: each JSON is below 98,000 bytes, the whole environment below 1 MB, and the scores stay."""
    hard = [outcome(P if number % 5 == 0 else Status.ERROR, 1.0, HOSTILE + "\U0001f4a9" * 400, HOSTILE) for number in range(tests)]
    graded = submission({f"task{index}": (3.0, hard) for index in range(tasks)}, modules=min(3, tasks))
    made = runners(graded)
    assert len(made) == tasks
    assert max(len(runner.json) for runner in made) <= MAX_JSON_BYTES < 131_072 * 3 // 4
    assert sum(len(f"{runner.name.upper()}_RESULTS={encode(runner.json)}") + 1 for runner in made) < MAX_ENVIRONMENT_BYTES
    assert half_up(recorded(json.loads(runner.json) for runner in made)[0]) == Fraction(str(rounded(graded.score)))


def test_tests_are_merged_when_messages_are_gone():
    """What fits says as much as it can: whole messages, then short ones, then names, then parts."""
    checks = [Check("name", "pass" if number < 8 else "fail", "m" * 500) for number in range(32)]
    sizes = [len(runner_json(2, checks, limit=limit)) for limit in (98_000, 29_000, 14_000, 5_000, 1_500)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 5
    last = json.loads(runner_json(2, checks, limit=1_500))
    assert [(test["name"], test["status"]) for test in last["tests"]] == [
        ("part 1 of 4", "pass"),
        *((f"part {number} of 4", "fail") for number in (2, 3, 4)),
    ]
    assert recorded([last]) == (0.5, 2)
    with pytest.raises(ValueError, match="too many for 100 bytes"):
        runner_json(2, checks, limit=100)


COMMAND = re.compile(r"^\s*::|##\[")


def test_nothing_hostile_gets_into_the_log():
    """What the reporter prints holds no command, no terminal escape, no line of its own."""
    for runner in runners(hostile_submission()):
        payload = json.loads(runner.json)
        assert set(payload) == {"version", "status", "max_score", "tests"}
        for test in payload["tests"]:
            for text in (test["name"], test["message"]):
                assert text.isprintable()
                assert not COMMAND.search(text)
                assert "::" not in text


def test_the_files(tmp_path):
    """A folder a submission, two files a module; the second goes to GITHUB_OUTPUT line by line; names can't leave the folder."""
    plain = submission({"double": (2.0, [outcome(P)]), "Counter": (3.0, [outcome(F)])}, "anna", modules=2)
    files = reporter_files(results(plain, submission({"double": (2.0, [outcome(P)])}, "../../etc/x")))
    assert list(files)[:4] == ["anna/module0.json", "anna/module0.outputs", "anna/module1.json", "anna/module1.outputs"]
    assert [name.count("/") for name in files] == [1] * 6
    assert not any(name.startswith((".", "/")) for name in files)
    module = json.loads(files["anna/module0.json"])
    assert (module["submission"], module["module"], module["runners"]) == ("anna", "module0", "double")
    assert files["anna/module0.outputs"].decode() == f"double={module['results']['double']}\n"
    assert json.loads(base64.b64decode(module["results"]["double"], validate=True))["max_score"] == 2
    assert len(reporter_files(results(plain), ["anna"])) == 4
    with pytest.raises(ResultsError, match="no submission is called 'ben': the file has anna"):
        reporter_files(results(plain), ["ben"])


@pytest.mark.parametrize("names", [["a b"], ["a=b"], ["Counter", "counter"], ["é"], ["x" * 101]])
def test_tasks_that_cant_be_runners_are_refused(names):
    """Names of outputs and variables are letters, digits, - and _, and variables know no case."""
    with pytest.raises(ResultsError, match="can't be a runner"):
        runners(submission({name: (1.0, [outcome(P)]) for name in names}))


def test_the_command(tmp_path):
    """Writes, keeps what differs unless forced, and says what to do about bad input."""
    path = tmp_path / "results.json"
    path.write_bytes(msgspec.json.encode(results(submission({"double": (2.0, [outcome(P)])}))))
    command = ("export", "github-classroom", "results.json", "--out", "out")
    assert grader(*command, cwd=tmp_path).returncode == 0
    written = tmp_path / "out/anna/module0.json"
    whole = written.read_bytes()
    assert grader(*command, cwd=tmp_path).returncode == 0
    written.write_text("mine")
    refused = grader(*command, cwd=tmp_path)
    assert (refused.returncode, written.read_text()) == (2, "mine")
    assert "add --force" in refused.stderr
    assert grader(*command, "--force", cwd=tmp_path).returncode == 0
    assert written.read_bytes() == whole
    for bad in (("nowhere.json",), ("results.json", "--submission", "ben")):
        done = grader("export", "github-classroom", *bad, cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
