"""GitHub Classroom's reporter: what each task becomes, and that no submission breaks the format."""

import base64
import json
from fractions import Fraction

import msgspec
import pytest

from grader.base.outcome import Status
from grader.exports.github_classroom import MAX_ENVIRONMENT_BYTES, reporter_files, runners
from grader.exports.runner_json import MAX_JSON_BYTES, Check, encode, runner_json
from grader.runner.results import ResultsError, rounded
from tests.grader.conftest import grader
from tests.grader.exports.samples import HOSTILE, commands, half_up, hostile_submission, outcome, recorded, results, submission

P, F, S, B = Status.PASSED, Status.FAILED, Status.SKIPPED, Status.BANNED


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
    tests = [outcome(P, 2.0, id="Test::two"), outcome(F, 0.5, "wrong", "half"), outcome(P, 1.5, id="more")]
    (runner,) = runners(submission({"a": (4.0, tests)}))
    payload = json.loads(runner.json)
    names = [test["name"] for test in payload["tests"]]
    assert names[:5] == ["Test::two (1 of 4)", "Test::two (2 of 4)", "Test::two (3 of 4)", "Test::two (4 of 4)", "half: wrong"]
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


def test_nothing_hostile_gets_into_the_log():
    """What the reporter prints holds no command, no terminal escape, no line of its own."""
    for runner in runners(hostile_submission()):
        payload = json.loads(runner.json)
        assert set(payload) == {"version", "status", "max_score", "tests"}
        for test in payload["tests"]:
            for text in (test["name"], test["message"]):
                assert text.isprintable()
                assert not commands(text)


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
