"""What runs in a student's repository: public tests counted by function, whatever becomes of them, in the reporter's format."""

import base64
import json
import time
from pathlib import Path

import pytest

from grader.exports import advisory
from grader.exports.advisory import add_up, main, report
from grader.exports.runner_json import Check
from tests.grader.exports.samples import HOSTILE

SUITE = "import pytest\n\n\ndef helper(): ...\n\n\ndef test_one(): ...\n\n\ndef test_two(): ...\n\n\ndef test_three(): ...\n"
FAILURE = '<testcase name="test_one[b]"><failure message="1 is not 2">…</failure></testcase>'
CASES = {
    "all pass": ("".join(f'<testcase name="test_{n}"/>' for n in ("one", "two", "three")), ["pass", "pass", "pass"]),
    "one case of a test fails": (f'<testcase name="test_one[a]"/>{FAILURE}<testcase name="test_two"/>', ["fail", "pass", "error"]),
    "one is skipped": ('<testcase name="test_one"><skipped message="no GPU"/></testcase><testcase name="test_two"/>', ["pass", "error"]),
    "one ends in an error": ('<testcase name="test_one"><error message="x"/></testcase>', ["error", "error", "error"]),
}


@pytest.mark.parametrize("what", CASES)
def test_one_check_a_test_function(tmp_path, what):
    """A function passes where all its cases do; what pytest did not get to is an error; what it skipped is left out."""
    cases, statuses = CASES[what]
    (tmp_path / "test_x.py").write_text(SUITE)
    checks = report(tmp_path / "test_x.py", f"<testsuites><testsuite>{cases}</testsuite></testsuites>", "it ended early")
    assert [check.status for check in checks] == statuses


@pytest.mark.parametrize("junit", ["", "<testsuites>", "nonsense", f"<t>{HOSTILE}</t>"])
def test_no_report_means_no_test_passed(tmp_path, junit):
    """Where the module can't be imported, or the report is broken, every test counts, and says why."""
    (tmp_path / "test_x.py").write_text(SUITE)
    assert report(tmp_path / "test_x.py", junit, "why") == [Check(name, "error", "why") for name in ("test_one", "test_two", "test_three")]
    assert report(tmp_path / "test_y.py", junit, "why") == []


def test_adding_up_survives_anything():
    """A result that is missing, forged or broken costs its own module only."""

    def encoded(value: object) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    good = encoded({"max_score": 3, "tests": [{"score": 1}, {"score": 1}, {"score": 0}]})
    uncounted = encoded({"max_score": 0, "tests": [{"score": 9}]})
    bad = [
        "",
        "%",
        encoded([]),
        encoded({}),
        encoded({"max_score": "3", "tests": []}),
        encoded({"max_score": 1, "tests": [{"score": "1"}]}),
    ]
    results = {"good": good, "uncounted": uncounted, **{str(number): text for number, text in enumerate(bad)}}
    assert add_up(results) == (2, 3, [str(number) for number in range(len(bad))])


LOOP = """
import subprocess

with open("pid", "w") as file:
    file.write(str(subprocess.Popen(["sleep", "600"]).pid))
print("::error::forged", flush=True)
while True:
    pass


def test_one(): ...
"""


def test_it_ends(tmp_path, monkeypatch, capfd):
    """A module that loops at its import ends with its time; so does what it has started; and every test counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advisory, "_SECONDS", 3)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    (tmp_path / "tests" / "public").mkdir(parents=True)
    (tmp_path / "tests" / "public" / "test_x.py").write_text(LOOP)
    assert main(["x"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "x: 0 of 1 public tests passed (advisory)."
    output = (tmp_path / "output").read_text().splitlines()[1]
    result = json.loads(base64.b64decode(output))
    assert (result["status"], result["max_score"]) == ("error", 1)
    assert "did not end within 3 seconds" in result["tests"][0]["message"]
    left_behind = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    for _ in range(500):  # the kernel may take a moment
        if not left_behind.exists() or left_behind.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.01)
    else:
        pytest.fail("a process was left behind")
