"""The engine: as pytest would run the suite, each suite collected once, and each question asked once for a seed."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import grader.grading.engine
from grader.base.outcome import Status
from grader.course.manifest import Course
from grader.grading import case as cases
from grader.grading.engine import Engine
from grader.submissions.sources import Source
from tests.grader.conftest import COUNTER, DOUBLE, HIDDEN, RIGHT, forget_suites, mini_course

ROOT = Path(__file__).parents[3]

WRONG = {
    "right": RIGHT,
    "wrong": f"def double(x):\n    return x * 3\n\n\n{COUNTER}",
    "a known mistake": f"def double(x):\n    return x * x\n\n\n{COUNTER}",
    "raises": f"def double(x):\n    return x.nonsense\n\n\n{COUNTER}",
    "malformed": f"def double(x):\n    return 'six'\n\n\n{COUNTER}",
    "banned": f"import torch\n\n\ndef double(x):\n    return torch.softmax(x, 0)\n\n\n{COUNTER}",
    "a stub": f"def double(x):\n    raise NotImplementedError\n\n\n{COUNTER}",
    "one class only": COUNTER,
    "an endless loop": f"{DOUBLE}\n\nclass Counter:\n    def __init__(self, start=10):\n        while True:\n            pass\n",
}


@pytest.fixture(autouse=True)
def _forget_suites():
    yield
    forget_suites()


def by_engine(engine: Engine, course: Course, text: str, seed: int = 1) -> dict[str, str]:
    """Status and message of each test, as pytest gives them too: known mistakes are named by the engine alone."""
    graded = engine.grade(course.modules[0], Source(text), seed, explain=False)
    return {record.test.id: _said(record.outcome.status, record.outcome.message) for record in graded.records}


def by_pytest(root: Path, suite: str, submission: str) -> dict[str, str]:
    """The same, from pytest's own report."""
    report = root / "report.xml"
    command = [sys.executable, "-m", "pytest", suite, "--submission", submission, "--seed", "1", f"--junitxml={report}", "-q"]
    subprocess.run([*command, "-p", "no:cacheprovider"], cwd=root, capture_output=True, timeout=120, check=False)
    outcomes = {}
    for test in ElementTree.parse(report).iter("testcase"):
        owner = test.get("classname", "").rpartition(".")[2]
        name = f"{owner}::{test.get('name')}" if owner.startswith("Test") else test.get("name", "")
        failure, skipped = test.find("failure"), test.find("skipped")
        if skipped is not None:
            outcomes[name] = _said("skipped", skipped.get("message", ""))
        else:
            outcomes[name] = "passed" if failure is None else " ".join((failure.text or "").split())
    return outcomes


def _said(status: str, message: str) -> str:
    return " ".join(f"{status}: {message}".split()) if message else str(status)


@pytest.mark.parametrize("what", WRONG)
def test_pytest_and_the_engine_agree(tmp_path, zygote, what):
    """Both give each test the same outcome, to the last word."""
    root = mini_course(tmp_path)
    (root / "handed in").mkdir()
    (root / "handed in" / "mini.py").write_text(WRONG[what])
    course = Course.read(root)
    expected = by_engine(Engine(course, zygote), course, WRONG[what])
    assert by_pytest(root, "tests/hidden", "handed in") == expected
    assert len(expected) == 5


def test_pytest_and_the_engine_agree_on_a_real_suite(tmp_path, zygote):
    """All of devices, with tests that need a GPU, on a file with right and wrong answers."""
    course = Course.read(ROOT)
    (module,) = course.select(["devices"], [])
    text = course.solution("devices").read_text().replace("return ", "return None or ", 3)
    (tmp_path / "devices.py").write_text(text)
    graded = Engine(course, zygote).grade(module, Source(text), 1)
    expected = {record.test.id: _said(record.outcome.status, record.outcome.message) for record in graded.records}
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "tests/hidden/test_devices.py", "--submission", str(tmp_path / "devices.py"), "--seed", "1"]
    subprocess.run(
        [*command, f"--junitxml={report}", "-q", "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, timeout=200, check=False
    )
    counts = {status: sum(said.startswith(status) for said in expected.values()) for status in ("passed", "skipped", "failed")}
    suite = next(ElementTree.parse(report).iter("testsuite"))
    assert counts["skipped"] > 0
    assert counts["failed"] == int(suite.get("failures", 0))
    assert counts["skipped"] == int(suite.get("skipped", 0))
    assert len(expected) == int(suite.get("tests", 0))


def test_a_question_is_asked_once_for_a_seed(course, zygote, monkeypatch):
    """What only compares is drawn and pickled for the first right answer, and done again without; a new seed begins anew."""
    engine, frozen = Engine(course, zygote), []
    monkeypatch.setattr(cases, "freeze", lambda probe, freeze=cases.freeze: frozen.append(probe) or freeze(probe))
    counts, outcomes = [], []
    for text, seed in ((WRONG["wrong"], 1), (RIGHT, 1), (RIGHT, 1), (WRONG["wrong"], 1), (RIGHT, 2)):
        outcomes.append(by_engine(engine, course, text, seed))
        counts.append(len(frozen))
        frozen.clear()
    assert counts == [5, 3, 1, 1, 5]  # test_sum_is_doubled uses `student`, so its steps could depend on what came back
    assert outcomes[0] == outcomes[3]
    assert outcomes[1] == outcomes[2] == outcomes[4] == dict.fromkeys(outcomes[1], "passed")


def test_a_suite_is_collected_once(course, zygote, monkeypatch):
    """However many submissions there are."""
    collected = []
    collect = grader.grading.engine.collect
    monkeypatch.setattr(grader.grading.engine, "collect", lambda *arguments: collected.append(arguments) or collect(*arguments))
    engine = Engine(course, zygote)
    for text in WRONG.values():
        by_engine(engine, course, text)
    assert len(collected) == 1


HANGS = {
    "a loop": """
    while True:
        draw.normal(1)
""",
    "a loop that catches errors": """
    while True:
        try:
            draw.normal(1)
        except Exception:
            pass
""",
    "a loop behind one that was interrupted": """
    try:
        while True:
            draw.normal(1)
    except BaseException:
        pass
    while True:
        draw.normal(1)
""",
}


@pytest.mark.parametrize("how", HANGS)
def test_a_test_that_hangs_on_the_trusted_side_is_the_graders_fault(tmp_path, zygote, monkeypatch, how):
    """It ends, and the tests behind it run."""
    monkeypatch.setattr(grader.grading.engine, "TRUSTED_SECONDS", 0.5)
    root = mini_course(tmp_path)
    hangs = f'@task("double")\ndef test_hangs(draw, student):\n    """Never ends."""\n    student(lambda m: 1)\n{HANGS[how]}\n\n'
    suite = HIDDEN.replace('@task("double", weight=2)', f'{hangs}@task("double", weight=2)')
    (root / "tests/hidden/test_mini.py").write_text(suite)
    course = Course.read(root)
    outcomes = by_engine(Engine(course, zygote), course, RIGHT)
    assert outcomes.pop("test_hangs").startswith(f"{Status.GRADER_ERROR}: TrustedSideHangs: the test took more than 0.5 s outside")
    assert set(outcomes.values()) == {"passed"}


def test_a_test_may_change_what_it_gets(tmp_path, zygote):
    """Values of the reference are copies: a test that changes them in place judges the next student as it judged the first."""
    root = mini_course(tmp_path)
    changes = '''

@task("double")
def test_changes_what_it_gets(student, reference, draw):
    """The values are the reference's."""
    x = draw.normal(5)
    due, got = reference(lambda m: m.double(x)), student(lambda m: m.double(x))
    assert torch.equal(due, got), "other values"
    due.add_(1)
    got.add_(1)
'''
    (root / "tests/hidden/test_mini.py").write_text(HIDDEN + changes)
    course = Course.read(root)
    engine = Engine(course, zygote)
    for _ in range(3):
        assert set(by_engine(engine, course, RIGHT).values()) == {"passed"}


def test_a_test_that_goes_on_after_a_disagreement_asks_everybody(tmp_path, zygote):
    """Its next steps depend on the student's values, so they are not kept for the next student."""
    root = mini_course(tmp_path)
    goes_on = '''

@task("double")
def test_goes_on(agree, draw):
    """Twice at 1, or at 2."""
    x = draw.integers(1, 2, 1).float() + 1
    try:
        agree(lambda m: m.double(x * 0), rtol=0, atol=0)
    except Exception:
        return
    agree(lambda m: m.double(x), rtol=0, atol=0)
'''
    (root / "tests/hidden/test_mini.py").write_text(HIDDEN + goes_on)
    course = Course.read(root)
    engine = Engine(course, zygote)
    wrong = f"import torch\n\n\ndef double(x):\n    return x * 2 if x.any() else x + 1\n\n\n{COUNTER}"
    assert by_engine(engine, course, wrong)["test_goes_on"] == "passed"
    assert by_engine(engine, course, WRONG["wrong"])["test_goes_on"].startswith("failed: values")


def test_parameters_are_fresh_for_every_student(tmp_path, zygote):
    """A test may change its parameters in place."""
    root = mini_course(tmp_path)
    changes = '''

@task("double")
@pytest.mark.parametrize("sizes", [[1, 2]])
def test_changes_its_parameters(student, sizes):
    """There are two sizes."""
    sizes.append(3)
    student(lambda m: 1)
    assert len(sizes) == 3, "more sizes"
'''
    (root / "tests/hidden/test_mini.py").write_text(HIDDEN + changes)
    course = Course.read(root)
    engine = Engine(course, zygote)
    for _ in range(2):
        assert set(by_engine(engine, course, RIGHT).values()) == {"passed"}


FORMS = {
    "another shape": ("return x.repeat(1000)", "failed: shape: expected (5,), got (5000,)."),
    "another dtype": ("return (x + x).double()", "failed: dtype: expected torch.float32, got torch.float64."),
    "another kind": ("return [1.0]", "failed: type: expected a tensor of shape (5,), got a list of 1 items."),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_value_has_the_references_form_before_a_test_computes_with_it(tmp_path, zygote, form):
    """What would broadcast to any size never reaches the test's own code."""
    answer, sentence = FORMS[form]
    computes = '''

@task("double")
def test_computes(student, draw):
    """A product."""
    x = draw.normal(5)
    raise RuntimeError(student(lambda m: m.double(x)))
'''
    root = mini_course(tmp_path)
    (root / "tests/hidden/test_mini.py").write_text(HIDDEN + computes)
    course = Course.read(root)
    text = RIGHT.replace("return x + x", answer)
    assert (
        by_engine(Engine(course, zygote), course, text)["test_computes"] == f"{sentence} Called: double(x=float32 (5,)) Checked: A product."
    )


@pytest.mark.parametrize("like", ["torch.zeros(5)", "None"])
def test_a_test_may_say_what_form_is_due(tmp_path, zygote, like):
    """A value of that form, or nothing where it checks for itself; whole numbers stay within their bounds."""
    says = f'''

@task("double")
def test_says(student, draw):
    """A form."""
    x = draw.integers(1, 9, 5)
    got = student(lambda m: m.double(x.float() if {like} is not None else x), like={like}, within=(0, 20))
    assert len(got) == 5, "five"
'''
    root = mini_course(tmp_path)
    (root / "tests/hidden/test_mini.py").write_text(HIDDEN + says)
    course = Course.read(root)
    engine = Engine(course, zygote)
    assert by_engine(engine, course, RIGHT)["test_says"] == "passed"
    outcome = by_engine(engine, course, RIGHT.replace("return x + x", "return torch.full((5,), 2**40)"))["test_says"]
    due = "values: 1099511627776 is not within 0 to 20" if like == "None" else "dtype: expected torch.float32, got torch.int64"
    called = f"double(x={'int64' if like == 'None' else 'float32'} (5,))"
    assert outcome == f"failed: {due}. Called: {called} Checked: A form."


def test_a_package_of_an_extra_that_is_missing_is_named(tmp_path, zygote):
    """A test that needs it is skipped and leaves the sum; one whose package is there runs. pytest says the same."""
    root = mini_course(tmp_path)
    suite = root / "tests" / "hidden" / "test_mini.py"
    text = HIDDEN.replace('@task("double", weight=2)', '@pytest.mark.needs("torch", "nonsense_or_so")\n@task("double", weight=2)')
    suite.write_text(text.replace('@task("double")\ndef test_refuses', '@pytest.mark.needs("torch")\n@task("double")\ndef test_refuses'))
    course = Course.read(root)
    outcomes = by_engine(Engine(course, zygote), course, RIGHT)
    assert outcomes.pop("test_doubles") == "skipped: needs nonsense_or_so, which the grader does not have"
    assert set(outcomes.values()) == {"passed"}
    (tmp_path / "hand-in").mkdir()
    (tmp_path / "hand-in" / "mini.py").write_text(RIGHT)
    assert by_pytest(root, str(suite), str(tmp_path / "hand-in")).items() >= outcomes.items()
