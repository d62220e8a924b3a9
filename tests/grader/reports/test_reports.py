"""JUnit, CSV and the scoreboard: they agree with the results, and nothing of a student's gets out of its cell."""

import csv
import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

from grader.base.outcome import Status
from grader.base.text import clean, one_line
from grader.course.manifest import Module, Task
from grader.reports.csv_report import csv_cell, csv_report
from grader.reports.junit import junit_report
from grader.reports.scoreboard import scoreboard
from grader.runner.results import SCHEMA, Results, TestResult, environment, score_module, submission_result
from grader.sandbox.supervisor.isolation import Isolation
from tests.grader.conftest import COUNTER

MODULE = Module("mini", "M", "S", (Task("double", 2.0, 1, ("a", "b", "c")), Task("Counter", 3.0, 1, ("a", "b", "c"))))


def results_with(message: str, id: str = "anna", copies: int = 1) -> Results:
    """Results with every status, and this message."""
    double = [TestResult(f"t{i}", status, 1.0, "" if status is Status.PASSED else message) for i, status in enumerate(Status)]
    module = score_module(MODULE, {"double": double, "Counter": [TestResult("c[a-b]", Status.PASSED, 1.0, "")]})
    submissions = [submission_result(f"{id}{i or ''}", [module]) for i in range(copies)]
    return Results(SCHEMA, 7, environment(), Isolation(True, 6, True, True), submissions)


def test_junit_counts_agree():
    """A testsuite a submission and module, whose counts are those of its testcases."""
    root = ElementTree.fromstring(junit_report(results_with('wrong <&> "quoted" ]]>', copies=2)))
    assert [suite.get("name") for suite in root] == ["anna.mini", "anna1.mini"]
    for suite in root:
        cases = suite.findall("testcase")
        count = {kind: len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error", "skipped")}
        assert suite.attrib == {
            "name": suite.get("name"),
            "tests": str(len(cases)),
            "failures": str(count["failure"]),
            "errors": str(count["error"]),
            "skipped": str(count["skipped"]),
        }
        assert (len(cases), count) == (10, {"failure": 3, "error": 4, "skipped": 1})
        assert {p.get("name"): p.get("value") for p in suite.iter("property")} == {"score": "3.0", "max_score": "5.0", "seed": "7"}
        assert cases[1].find("failure").get("message") == 'failed: wrong <&> "quoted" ]]>'


def rows_of(text: str) -> list[list[str]]:
    """The rows of a CSV report."""
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True))


def test_csv_is_what_spreadsheets_read():
    """A byte order mark, CRLF, a header, as many cells in every row."""
    text = csv_report(results_with('a, "b";\nc', copies=3))
    assert text.startswith("\ufeffsubmission,module,task,score,max_score,status,tests_passed,tests,message\r\n")
    assert text.count("\n") == text.count("\r\n") == 7
    rows = rows_of(text)
    assert {len(row) for row in rows} == {9}
    assert rows[1] == ["anna", "mini", "double", "0.00", "2", "grader_error", "1", "9", 'a, "b"; c']
    assert rows[2] == ["anna", "mini", "Counter", "3.00", "3", "passed", "1", "1", ""]


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(start):
    """Neither a message nor a student's name begins as a formula does."""
    for row in rows_of(csv_report(results_with(start, id=start))):
        assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in row)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m",
        "\x1b]8;;https://example.org\x07link\x1b]8;;\x07",
        "\x9b31mred",
        "\u202egpj.exe",
        "zero\u200bwidth",
        "null\x00byte",
        "bell\x07",
        "\ud800",
        "not a character \uffff \ufffe \U0001ffff",
        "tab\tand\nline",
        "back\rover",
    ],
)
def test_what_a_student_wrote_is_harmless_in_every_report(grade_source, text):
    """Terminal escapes, direction marks and what XML can't carry are gone; JUnit parses."""
    source = f"def double(x):\n    raise ValueError({text!a})\n\n\n{COUNTER}"
    results = Results(
        SCHEMA, 7, environment(), Isolation(True, 6, True, True), [submission_result(one_line(f"id {text}"), [grade_source(source)])]
    )
    message = results.submissions[0].modules[0].tasks[0].tests[0].message
    assert message.startswith("ValueError: ")
    buffer = io.StringIO()
    Console(file=buffer, width=200).print(scoreboard(results))
    junit = junit_report(results)
    ElementTree.fromstring(junit)
    for report in (message, csv_report(results)[1:], junit.decode(), buffer.getvalue()):
        assert not set("\x1b\x9b\u202e\u200b\x00\x07\uffff\ufffe\ufeff") & set(report)
        assert "\r" not in report.replace("\r\n", "")
        report.encode()


def test_the_scoreboard_takes_no_markup():
    """Square brackets of a student's are shown, not obeyed."""
    buffer = io.StringIO()
    Console(file=buffer, width=300).print(scoreboard(results_with("[bold]loud[/bold] [/nonsense]", id="[red]anna[/red]")))
    assert "[bold]loud[/bold] [/nonsense]" in buffer.getvalue()
    assert "[red]anna[/red]" in buffer.getvalue()


def test_the_scoreboard_sums_up():
    """One row a submission; details only where there is one."""
    buffer = io.StringIO()
    Console(file=buffer, width=300).print(scoreboard(results_with("why", copies=2)))
    assert "3.00 / 5" in buffer.getvalue()
    assert "1 passed, 1 grader error" in buffer.getvalue()
    assert "why" not in buffer.getvalue()


def test_many_modules_are_listed_below_each_other():
    """In 80 characters every score stays legible, and modules that were not begun are left out."""
    begun = [TestResult("t", Status.PASSED, 1.0, "")]
    modules = []
    for number in range(8):
        module = Module(f"module_{number}", "M", "S", MODULE.tasks)
        tests = {name: begun if number < 5 else [TestResult("t", Status.NOT_IMPLEMENTED, 1.0, "")] for name in ("double", "Counter")}
        modules.append(score_module(module, tests))
    results = Results(SCHEMA, 7, environment(), Isolation(True, 6, True, True), [submission_result(id, modules) for id in ("anna", "ben")])
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(scoreboard(results))
    assert all(buffer.getvalue().count(f"module_{number} 5.00 / 5") == 2 for number in range(5))
    assert "module_5" not in buffer.getvalue()
    assert "25.00 / 40" in buffer.getvalue()


def test_clean_hides_what_differs_from_run_to_run_and_caps():
    """Addresses are masked, long texts end in an ellipsis."""
    assert clean("<object at 0x7f0012abcdef>") == "<object at 0x…>"
    assert len(clean("x" * 10_000)) == 400
    assert one_line(" a \n\t b ") == "a b"


@pytest.mark.parametrize("sign", "=+-@＝＋－＠﹦﹢﹣﹫−")
def test_a_cell_is_no_formula(sign):
    """Signs of every width, behind blanks, control characters and separators too; elsewhere they stay."""
    for text in (f"{sign}1+1", f"  {sign}1", f"\ufeff{sign}1", f"\x00{sign}1"):
        assert csv_cell(text).startswith("'")
    assert csv_cell(f"\t{sign}1") == f"\t'{sign}1"
    assert csv_cell(f"a; {sign}1") == f"a; '{sign}1"
    assert csv_cell(f"a{sign}b") == f"a{sign}b"
