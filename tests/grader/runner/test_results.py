"""Scores, rounding, and the file results.json."""

import json
import os
import stat
from fractions import Fraction
from math import floor
from pathlib import Path

import msgspec
import pytest

from grader.base.files import write_atomically
from grader.base.outcome import Status
from grader.course.manifest import Module, Task
from grader.runner.results import (
    SCHEMA,
    Results,
    ResultsError,
    TestResult,
    environment,
    json_schema,
    module_fault,
    read_results,
    rounded,
    score_module,
    submission_result,
)
from grader.sandbox.supervisor.isolation import Isolation, isolation

HINTS = ("a", "b", "c")


def module(points: float = 4.0) -> Module:
    """A module with two tasks."""
    return Module("m", "M", "S", (Task("f", points, 1, HINTS), Task("g", 1.0, 1, HINTS)))


def one(status: Status, weight: float = 1.0) -> TestResult:
    """A test's result."""
    return TestResult("t", status, weight, "")


P, F, S, B, G, N, T = (
    Status.PASSED,
    Status.FAILED,
    Status.SKIPPED,
    Status.BANNED,
    Status.GRADER_ERROR,
    Status.NOT_IMPLEMENTED,
    Status.TIMED_OUT,
)

SCORES = {
    "all": ([P, P], 4, 4, P),
    "half": ([P, F], 2, 4, F),
    "none": ([F, N], 0, 4, F),
    "the first that is not passed says the status": ([P, N, F], 4 / 3, 4, N),
    "skipped leaves the denominator": ([P, S, F, S], 2, 4, F),
    "only skipped": ([S, S], 0, 0, S),
    "skipped and passed": ([S, P], 4, 4, P),
    "banned is worth nothing": ([P, P, B], 0, 4, B),
    "banned before failed": ([F, P, B], 0, 4, B),
    "the grader's fault before all": ([F, B, G], 0, 4, G),
    "the grader's fault keeps what was earned": ([P, G], 2, 4, G),
    "timed out": ([P, P, P, T], 3, 4, T),
}


@pytest.mark.parametrize("what", SCORES)
def test_a_tasks_score(what):
    """Points times the passed share of the counted weight, and one status."""
    statuses, score, max_score, status = SCORES[what]
    task = score_module(module(), {"f": [one(status) for status in statuses], "g": [one(P)]}).tasks[0]
    assert (task.score, task.max_score, task.status) == (score, max_score, status)


def test_a_fault_beside_a_ban_is_worth_nothing():
    """A banned test takes the task's points even where the grader failed in another test."""
    task = score_module(module(), {"f": [one(P), one(B), one(G)], "g": [one(P)]}).tasks[0]
    assert (task.score, task.status) == (0, G)


def test_weights_count_in_proportion():
    """Weight 3 of 4 is three quarters."""
    task = score_module(module(), {"f": [one(P, 3), one(F, 1)], "g": [one(P)]}).tasks[0]
    assert task.score == 3


def test_a_task_without_tests_is_the_graders_fault():
    """Tests that did not run are no zero in silence."""
    result = score_module(module(), {"g": [one(P)]})
    assert (result.tasks[0].status, result.tasks[0].tests[0].message) == (G, "no hidden test of this task ran")
    assert (result.score, result.max_score) == (1, 5)


def test_a_fault_is_every_tasks():
    """A suite that can't run leaves every task without points, and with the reason."""
    result = module_fault(module(), "because")
    assert [(task.status, task.tests[0].message) for task in result.tasks] == [(G, "because")] * 2
    assert submission_result("a", [result]).score == 0


def test_scores_round_half_up_exactly():
    """Two decimals of the exact share, half up, for every small course: binary fractions may not tip a half."""
    wrong = []
    for points in (1, 2, 3, 4, 5, 7, 10, 20):
        for count in range(1, 41):
            for passed in range(count + 1):
                tests = [one(P)] * passed + [one(F)] * (count - passed)
                score = score_module(module(points), {"f": tests, "g": [one(P)]}).tasks[0].score
                exact = Fraction(floor(Fraction(points * passed, count) * 100 + Fraction(1, 2)), 100)
                if Fraction(rounded(score)) != exact:
                    wrong.append((points, passed, count, score))
    assert wrong == []


def test_rounding():
    """Half up in what is written, not in binary."""
    assert [str(rounded(value)) for value in (0.125, 2.675, 1.005, 0.0, 3.0, 1e-9)] == ["0.13", "2.68", "1.01", "0.00", "3.00", "0.00"]


def results() -> Results:
    """A small results.json."""
    graded = score_module(module(), {"f": [one(P), TestResult("u", F, 2.0, "bad")], "g": [one(P)]})
    return Results(SCHEMA, 7, environment(), Isolation(True, 6, True, True), [submission_result("anna", [graded])])


def test_results_have_the_promised_keys_and_decode_strictly():
    """The keys that others rely on, and nothing that differs from run to run."""
    data = msgspec.json.encode(results())
    assert msgspec.json.decode(data, type=Results, strict=True) == results()
    plain = json.loads(data)
    assert set(plain) == {"schema", "seed", "environment", "isolation", "submissions", "problems", "feedback"}
    (submission,) = plain["submissions"]
    assert set(submission) == {"id", "score", "max_score", "modules", "files"}
    assert set(submission["modules"][0]) == {"name", "score", "max_score", "tasks"}
    assert set(submission["modules"][0]["tasks"][0]) == {"name", "score", "max_score", "status", "tests"}
    assert submission["modules"][0]["tasks"][0]["tests"][1] == {"id": "u", "status": "failed", "weight": 2.0, "message": "bad"}


def _follow(schema, node):
    return schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node


def _conforms(schema, node, value) -> bool:
    """A check of the few words that the schema uses."""
    node = _follow(schema, node)
    if "enum" in node:
        return value in node["enum"]
    if "anyOf" in node:
        return any(_conforms(schema, kind, value) for kind in node["anyOf"])
    match node["type"]:
        case "object" if "properties" not in node:
            return all(_conforms(schema, node["additionalProperties"], item) for item in value.values())
        case "object":
            return set(node["required"]) <= set(value) and all(_conforms(schema, node["properties"][key], value[key]) for key in value)
        case "array":
            return all(_conforms(schema, node["items"], item) for item in value)
        case kind:
            kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
            return isinstance(value, kinds[kind])


def test_the_schema_describes_the_results():
    """A real file conforms, one with a status of another name does not."""
    schema, plain = json_schema(), json.loads(msgspec.json.encode(results()))
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert _conforms(schema, schema, plain)
    plain["environment"]["packages"]["torch"] = 2
    assert not _conforms(schema, schema, plain)
    del plain["environment"]["packages"]  # as in files of version 0.1.0
    assert _conforms(schema, schema, plain)
    plain["submissions"][0]["modules"][0]["tasks"][0]["status"] = "excellent"
    assert not _conforms(schema, schema, plain)
    del plain["seed"]
    assert not _conforms(schema, schema, plain)


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    """A failure in the middle leaves the old file and nothing beside it; success is readable by others."""
    path = tmp_path / "results.json"
    write_atomically(path, b"old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_results_are_read_back_as_they_were_written(tmp_path: Path):
    """What is no results.json, or one of another schema, is refused with a sentence."""
    results = Results(SCHEMA, 1, environment(), isolation(None), [submission_result("alice", [])])
    path = tmp_path / "results.json"
    path.write_bytes(msgspec.json.encode(results))
    assert read_results(path) == results
    with pytest.raises(ResultsError, match="can't be read"):
        read_results(tmp_path / "absent.json")
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(results, schema="another")))
    with pytest.raises(ResultsError, match="grade again"):
        read_results(path)
    path.write_text("{}")
    with pytest.raises(ResultsError, match=r"no results\.json"):
        read_results(path)


def test_a_file_without_packages_is_still_read(tmp_path: Path):
    """Version 0.1.0 did not record them."""
    plain = json.loads(msgspec.json.encode(results()))
    del plain["environment"]["packages"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(plain))
    read = read_results(path)
    assert read == msgspec.structs.replace(results(), environment=msgspec.structs.replace(environment(), packages={}))
