"""A submission that prints forged results, graded in earnest and exported everywhere: threats 119 and 120, and the other media.

What it can move is words within the places for words. So each export of it is compared with that of a submission that fails the same tests
and says nothing remarkable: the same files, keys and numbers.
"""

import base64
import json
import re
import subprocess
from datetime import UTC, datetime

import pytest

from grader.exports.classroom50 import official_result
from grader.exports.github_classroom import reporter_files
from grader.exports.gradescope import gradescope_results
from grader.runner.results import submission_result
from tests.grader.conftest import grader, mini_course
from tests.grader.exports.samples import HOSTILE, commands, outputs, results
from tests.grader.exports.test_classroom50 import IDENTITY

MESSAGE = HOSTILE.encode("unicode_escape").decode().replace('"', '\\"')
FORGER = f'''
import os, sys

os.environ["GITHUB_OUTPUT"] = "forged"
for stream in (sys.stdout, sys.stderr):
    print("{MESSAGE}", file=stream, flush=True)
for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"):
    try:
        open(os.environ.get(name, "output"), "a").write("score=100")
    except OSError:
        pass


def double(x):
    raise ValueError("{MESSAGE}")


class Counter:
    def __init__(self, start=10):
        raise type("{MESSAGE}", (Exception,), {{}})("{MESSAGE}")
'''
PLAIN = """
def double(x):
    raise ValueError("no")


class Counter:
    def __init__(self, start=10):
        raise KeyError("no")
"""


@pytest.fixture(scope="module")
def graded(grade_source):
    """The two, graded by the hidden suite in confined workers where the machine can, with the forger's own name."""
    forger, plain = (submission_result(id, [grade_source(text)]) for id, text in (("forger", FORGER), ("forger", PLAIN)))
    assert any("forged" in test.message for task in forger.modules[0].tasks for test in task.tests)
    return forger, plain


def skeleton(value):
    """A structure with its texts taken out."""
    if isinstance(value, dict):
        return {key: skeleton(item) for key, item in value.items()}
    if isinstance(value, list):
        return [skeleton(item) for item in value]
    return "" if isinstance(value, str) else value


def test_the_reporters_files(graded):
    """The same runners, tests and points; the outputs' file is read as the names that it should have."""
    forger, plain = (reporter_files(results(one)) for one in graded)
    assert list(forger) == list(plain)
    for name, data in forger.items():
        if name.endswith(".outputs"):
            assert list(outputs(data.decode())) == ["double", "Counter"]
            continue
        theirs, ours = json.loads(data), json.loads(plain[name])
        assert skeleton(theirs) == skeleton(ours)
        for runner in ours["results"]:
            first, second = (json.loads(base64.b64decode(whole["results"][runner])) for whole in (theirs, ours))
            assert skeleton(first) == skeleton(second)
            assert [test["status"] for test in first["tests"]] == [test["status"] for test in second["tests"]]


def test_the_other_formats(graded):
    """Classroom 50's result has no word of a student's at all; Gradescope's has them in `output` only."""
    forger, plain = (official_result(one, IDENTITY, datetime(2026, 10, 2, tzinfo=UTC)) for one in graded)
    assert forger == plain
    first, second = (gradescope_results(one, results(one), "visible") for one in graded)
    for test in (*first["tests"], *second["tests"]):
        del test["output"]
    assert first == second


NODE = """
const lines = [];
for (const runner of process.argv[1].split(",")) {
  const results = JSON.parse(Buffer.from(process.env[`${runner.toUpperCase()}_RESULTS`], "base64").toString("utf-8"));
  for (const test of results.tests) console.log(test.status === "error" ? `Error: ${test.message}` : `x ${test.name}`);
  console.log(results.tests.reduce((sum, test) => sum + test.score, 0) + "/" + results.max_score);
}
"""


def test_a_reporter_prints_no_command(graded):
    """The JSON, printed as the reporter prints it, in Node where there is one: not a line that a runner would obey."""
    plain = json.loads(reporter_files(results(graded[0]))["forger/mini.json"])
    environment = {f"{name.upper()}_RESULTS": value for name, value in plain["results"].items()}
    try:
        done = subprocess.run(
            ["node", "-e", NODE, plain["runners"]], env={"PATH": "/usr/bin:/usr/local/bin", **environment}, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("Node is not installed")
    assert re.findall(r"^\d+/\d+$", done.stdout, re.MULTILINE) == ["0/2", "0/3"]
    assert commands(done.stdout) == []
    assert "\x1b" not in done.stdout


def test_the_graders_own_log(tmp_path):
    """What `grader grade` prints in a workflow obeys nobody: neither a message, nor a name, nor what student code prints."""
    root = mini_course(tmp_path / "course")
    folder = tmp_path / "::error title=x::forged ##[set-output name=score]100"
    folder.mkdir()
    (folder / "mini.py").write_text(FORGER)
    sink = tmp_path / "sink"
    sink.write_text("")
    sinks = {name: str(sink) for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    done = grader("grade", folder, "--allow-unconfined", cwd=root, GITHUB_ACTIONS="true", **sinks)
    assert done.returncode == 0, done.stderr
    assert commands(done.stdout + done.stderr) == []
    assert "forged" in done.stdout
    assert sink.read_text() == ""
    for bad in (folder.with_name("##[error]nowhere"), folder.with_name("::error::nowhere")):
        done = grader("grade", bad, cwd=root)
        assert (done.returncode, commands(done.stdout + done.stderr)) == (2, [])


def test_the_check_sees_commands():
    """The check of this file is not blind."""
    seen = ["::error::x", "  ::set-output name=a::b", "text ##[error]x", "\ufe0f::error::x", "a\r::error::x"]
    assert all(commands(line) for line in seen)
    assert not commands("a ::error::x # # [x]")
