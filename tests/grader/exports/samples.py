"""What the tests of the exports share: results made by hand, random results, and what a hostile student would put into them."""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import floor
from typing import Any

from hypothesis import strategies

from grader.base.outcome import Status
from grader.course.manifest import Module, Task
from grader.runner.results import SCHEMA, Environment, Results, SubmissionResult, TestResult, score_module, submission_result
from grader.sandbox.supervisor.isolation import Isolation

HOSTILE = (
    "::error::forged\n::set-output name=result::forged\r\n::add-mask::1\n##[set-env name=PATH]/evil\n"
    "\x1b[31mred\x1b]0;title\x07 result=forged\nscore<<EOF\n1\nEOF\n"
    '"}],"score":100,"max_score":100,"tests":[{"name":"\\" \\\\ \' `id` $(id) ${{ github.token }} %0A::error::x\n'
    "<script>alert(1)</script><img src=x onerror=alert(1)> & &lt; | a | b |\n```\n# Heading\n[link](javascript:alert(1)) @octocat #1 GH-1 "
    "https://example.com www.example.com \N{PILE OF POO}\N{RIGHT-TO-LEFT OVERRIDE}\N{ZERO WIDTH SPACE}:\N{ZERO WIDTH SPACE}:error::y =1+1"
)
"""Commands to a runner, terminal escapes, ends of JSON, HTML, Markdown, shell and YAML, all in one string."""


def outcome(status: Status, weight: float = 1.0, message: str = "", id: str = "test_one") -> TestResult:
    """A test's result."""
    return TestResult(id, status, weight, message)


def submission(tasks: dict[str, tuple[float, Sequence[TestResult]]], id: str = "anna", modules: int = 1) -> SubmissionResult:
    """A submission from its tasks' points and tests, spread over so many modules."""
    names = list(tasks)
    graded = []
    for number in range(modules):
        own = [name for index, name in enumerate(names) if index * modules // len(names) == number]
        module = Module(f"module{number}", "M", "S", tuple(Task(name, tasks[name][0], 1, ("a", "b", "c")) for name in own))
        graded.append(score_module(module, {name: list(tasks[name][1]) for name in own}))
    return submission_result(id, graded)


def results(*submissions: SubmissionResult) -> Results:
    """A results.json."""
    here = Environment(python="3.11.7", torch="2.13.0", numpy="2.3.0", grader="0.1.0", system="Linux x86_64", cpu="avx2")
    return Results(SCHEMA, 7, here, Isolation(True, 6, True, True), list(submissions))


def hostile_submission(id: str = "mallory") -> SubmissionResult:
    """Every status, each with a hostile message and a hostile parameter in the test's name."""
    tests = [outcome(status, 1.0, HOSTILE, f"test_one[{HOSTILE}]") for status in Status if status is not Status.BANNED]
    banned = [outcome(Status.PASSED), outcome(Status.BANNED, 1.0, HOSTILE)]
    return submission({"double": (2.0, tests), "Counter": (3.0, banned), "triple": (1.0, [outcome(Status.PASSED)])}, id, modules=2)


_POINTS = strategies.sampled_from([1.0, 2.0, 3.0, 5.0, 0.5, 0.01, *(hundredths / 100 for hundredths in range(1000))])
_STATUSES = [*[Status.PASSED] * 8, *[Status.FAILED] * 4, *Status]
_WEIGHTS = [1.0, 1.0, 1.0, 2.0, 3.0, 0.5, 0.25, 1.5, 0.1]
_TESTS = strategies.lists(strategies.sampled_from([outcome(s, w) for s in _STATUSES for w in _WEIGHTS]), min_size=1, max_size=8)


@strategies.composite
def submissions(draw: strategies.DrawFn) -> SubmissionResult:
    """Random results: up to 12 tasks in up to 4 modules; weights, points with two decimals, skips, bans, faults."""
    tasks = draw(strategies.lists(strategies.tuples(_POINTS, _TESTS), min_size=1, max_size=12))
    return submission({f"task{index}": task for index, task in enumerate(tasks)}, modules=draw(strategies.integers(1, 4)))


def half_up(points: float) -> Fraction:
    """A double, exactly, rounded half up to hundredths."""
    return Fraction(floor(Fraction(points) * 100 + Fraction(1, 2)), 100)


# ---- what the consumers do with what they are given


def recorded(payloads: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Points and maximum as the reporter's notify-classroom.js adds them up, in doubles as JavaScript has them."""
    points = most = 0.0
    for payload in payloads:
        if not payload["max_score"]:
            continue
        most += payload["max_score"]
        for test in payload["tests"]:
            points += test["score"]
    return points, most


def displayed(payload: dict[str, Any]) -> float:
    """Points of one runner as the reporter has shown them: passed ÷ number of tests × max_score."""
    tests = payload["tests"]
    return sum(test["status"] == "pass" for test in tests) / len(tests) * payload["max_score"]


def commands(log: str) -> list[str]:
    """The lines of a log in which a runner of GitHub Actions could see a command, even if it overlooks what is not ASCII."""
    plain = [re.sub(r"[^ -~]", "", line) for line in re.split(r"[\n\r]", log)]
    return [line for line in plain if line.lstrip().startswith("::") or "##[" in line]


def outputs(text: str) -> dict[str, str]:
    """What a runner reads from GITHUB_OUTPUT: name=value, or name<<delimiter up to the delimiter."""
    read, lines = {}, iter(text.splitlines())
    for line in lines:
        if "<<" in line and ("=" not in line or line.index("<<") < line.index("=")):
            name, delimiter = line.split("<<", 1)
            value = []
            for inner in lines:
                if inner == delimiter:
                    break
                value.append(inner)
            read[name] = "\n".join(value)
        elif line:
            name, value = line.split("=", 1)
            read[name] = value
    return read
