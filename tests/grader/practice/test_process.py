"""What the practice process says about a student's code, in a real one that all tests share."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from grader.course.manifest import Show
from grader.practice.describe import describe
from grader.practice.failure import message_of
from grader.practice.outcome import ALIVE, DrawRequest, PublicTest, Request, TaskRun, TestStatus
from grader.practice.process_handle import _GRACE, PracticeProcess
from tests.grader.conftest import COUNTER, DOUBLE, PUBLIC, RIGHT, mini_course

STUB = '\n\ndef double(x):\n    """Twice."""\n    # TODO: about 1 line.\n    raise NotImplementedError("double")\n'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course in miniature, in a folder whose name pytest could take for the parameter of a test."""
    return mini_course(tmp_path_factory.mktemp("course") / "week [1]")


@pytest.fixture(scope="module")
def process(root: Path) -> Iterator[PracticeProcess]:
    """One process for all tests."""
    with PracticeProcess(root) as process:
        yield process


@pytest.fixture
def run(root, process):
    """`run(source, task="double")`: the outcome with this source."""

    def run(source: str, task: str = "double") -> TaskRun:
        (root / "exercises" / "mini.py").write_text(source)
        return process.run(Request("mini", task))

    yield run
    (root / "tests" / "public" / "test_mini.py").write_text(PUBLIC)


def said(outcome: TaskRun) -> str:
    """The outcome in words."""
    return describe(outcome, failures=9).plain


def test_brackets_in_the_path_and_another_folder(run):
    """The tests are found, also after the student's code went elsewhere."""
    assert run("import os\nos.chdir('/')\n" + RIGHT).passed
    assert run(RIGHT).passed


STUBS = {
    "as it was handed out": (STUB, "double: not written yet"),
    "without a message": ("def double(x):\n    raise NotImplementedError\n", "double: not written yet"),
    "in a method": (
        "class double:\n    def __init__(self, x):\n        self.x = x\n\n"
        '    def item(self):\n        raise NotImplementedError("double.item")\n',
        "double: not written yet",
    ),
}


@pytest.mark.parametrize("what", STUBS)
def test_a_stub_is_not_written_yet(run, what):
    """The stub's own line says so."""
    source, sentence = STUBS[what]
    assert said(run(source)) == sentence


WRITTEN = {
    "torch's own error": (
        "import torch\n\n\ndef double(x):\n    return torch.softmax(x.long(), -1)\n",
        ["NotImplementedError: ", "exercises/mini.py:5"],
    ),
    "a module without forward": (
        "import torch\n\n\nclass Double(torch.nn.Module):\n    pass\n\n\ndef double(x):\n    return Double()(x)\n",
        ['NotImplementedError: Module [Double] is missing the required "forward" function', "exercises/mini.py:9"],
    ),
    "another task's stub": (
        'class Counter:\n    def add(self, n):\n        raise NotImplementedError("Counter.add")\n\n\n'
        "def double(x):\n    return Counter().add(x)\n",
        ["This calls Counter, which is not written yet: write that first.", "exercises/mini.py:7\n    return Counter().add(x)"],
    ),
    "code below the stub's": (f"{STUB}    return x + x\n", ["Line 6 still raises NotImplementedError: delete it."]),
    "code above the stub's": (STUB.replace("# TODO: about 1 line.", "y = x + x"), ["Line 6 still raises NotImplementedError: delete it."]),
    "the student's own error": (
        "def double(x):\n    raise NotImplementedError('only for floats')\n",
        ["NotImplementedError: only for floats", "exercises/mini.py:2"],
    ),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_written_code_is_said_to_be_wrong(run, what):
    """Not every NotImplementedError is a stub's."""
    source, sentences = WRITTEN[what]
    outcome = run(source)
    assert [test.status for test in outcome.tests] == [TestStatus.ERROR]
    for sentence in sentences:
        assert sentence in said(outcome)


def test_a_picture_of_a_stub(root, process):
    """`grader show` makes the same difference."""
    show = DrawRequest("mini", "double", Show("lines", "double(torch.tensor([1.0, 2.0]))"))
    path = root / "exercises" / "mini.py"
    path.write_text(STUB)
    assert process.draw(show).problem == "double is not written yet."
    path.write_text(f"{STUB}    return x\n")
    assert process.draw(show).problem == "Line 6 still raises NotImplementedError: delete it."
    path.write_text(WRITTEN["torch's own error"][0])
    assert process.draw(show).problem.startswith("The call raised NotImplementedError: ")


@pytest.mark.parametrize("call", ["exit()", "sys.exit(0)", "raise SystemExit"])
def test_exit_is_said_with_its_line(run, call):
    """The tests go on, and so does the process."""
    outcome = run(f"import sys\n\n\ndef double(x):\n    {call}\n")
    assert "Your code calls exit(), which ends Python: use `return`.\n  exercises/mini.py:5" in said(outcome)
    assert outcome.fingerprint


def test_exit_behind_an_answer(run, root):
    """Also where a test fails before the call."""
    (root / "tests" / "public" / "test_mini.py").write_text(
        "from mini import double\n\n\ndef test_double():\n    try:\n        assert double(1) == 2\n    finally:\n        double(2)\n"
    )
    assert "Your code calls exit()" in said(run("def double(x):\n    return 0 if x < 2 else exit()\n"))


def test_a_keyboard_interrupt_of_the_students(run):
    """A sentence and the line, in place of pytest's banner."""
    raises = "def double(x):\n    raise KeyboardInterrupt\n"
    assert run(raises).problem == "Your code raised KeyboardInterrupt in exercises/mini.py:2, which ends Python: raise another exception."
    assert "KeyboardInterrupt in exercises/mini.py:1," in run("raise KeyboardInterrupt\n").problem


def test_input_is_refused_in_words(run):
    """In a function, and at the top of the file."""
    assert "Your code asks for input(), and tests give none: use the arguments." in said(run("def double(x):\n    return float(input())\n"))
    assert "mini.py can't be imported: it asks for input(), and tests give none" in said(run("n = input('n? ')\n" + RIGHT))


NOTHING = "It returned None: is a `return` missing?"
NONE = {
    "pass": ("pass", f"{NOTHING}\n"),
    "return None": ("return None", f"{NOTHING}\n"),
    "no return": ("y = x + x", f"{NOTHING}\n"),
    "print": ("print(x + x)", f"{NOTHING} Printing is not returning.\n"),
}


@pytest.mark.parametrize("what", NONE)
def test_none_where_a_value_is_expected(run, what):
    """The commonest mistake of beginners is named before what the test says."""
    body, sentence = NONE[what]
    assert sentence in said(run(f"def double(x):\n    {body}\n"))


def test_none_that_is_meant_or_passes(run, root):
    """A function that is declared to return None, a right answer, a wrong value and an exception say nothing of it."""
    (root / "tests" / "public" / "test_mini.py").write_text(
        "from mini import double\n\n\ndef test_double():\n"
        "    x = []\n    try:\n        double(x)\n    except ValueError:\n        pass\n    assert x\n"
    )
    for body in (") -> None:\n    pass", "):\n    return 1", "):\n    raise ValueError", "):\n    yield"):
        outcome = run(f"def double(x{body}\n")
        assert not outcome.passed
        assert "returned None" not in said(outcome), body
    assert run("def double(x):\n    x.append(1)\n").passed


SUITES = {
    "missing": (None, "tests/public/test_mini.py is missing: fetch tests/ from where you got the exercises."),
    "empty": ("", "tests/public/test_mini.py has no test of double: fetch tests/ from where you got the exercises."),
    "other tests": ("def test_Counter():\n    pass\n", "tests/public/test_mini.py has no test of double: fetch tests/"),
    "a syntax error": (
        "def test_double(:\n",
        "tests/public/test_mini.py can't be read: SyntaxError: invalid syntax. To mend it, fetch tests/",
    ),
    "a missing package": (
        "import not_there\n",
        "can't be read: ModuleNotFoundError: No module named 'not_there'. To mend it, fetch tests/",
    ),
}


@pytest.mark.parametrize("what", SUITES)
def test_a_damaged_suite(run, root, what):
    """One sentence, and what to do."""
    text, sentence = SUITES[what]
    suite = root / "tests" / "public" / "test_mini.py"
    suite.unlink() if text is None else suite.write_text(text)
    problem = run(RIGHT).problem
    assert sentence in problem
    assert "\n" not in problem


def test_each_test_restarts_the_clock():
    """So slow tests, which end within their own limits, are no endless loop; the last answer is the one that counts."""
    answer = b'{"module":"mini","task":"double"}\n'
    lines, waited = [b'{"ready":true}\n', ALIVE, ALIVE, ALIVE, answer], []

    class Process(PracticeProcess):
        def warm_up(self):
            self._process = SimpleNamespace(stdin=io.BytesIO(), kill=lambda: None, wait=lambda: 0)

        def _next(self, seconds):
            waited.append(seconds)
            return lines.pop(0)

    with Process(Path()) as process:
        assert process.run(Request("mini", "double")) == TaskRun("mini", "double")
    assert not lines
    assert all(seconds > _GRACE for seconds in waited)


def test_the_process_says_that_it_lives(run, process, monkeypatch):
    """After each test."""
    lines, following = [], process._next
    monkeypatch.setattr(process, "_next", lambda seconds: lines.append(following(seconds)) or lines[-1])
    run(f"{DOUBLE}\n\n{COUNTER}")
    assert [line == ALIVE for line in lines] == [True, False]


def test_a_test_that_ran_out_of_time_is_said():
    """The tests after it were not begun: their number would mislead."""
    timed_out = TaskRun("mini", "double", [PublicTest("a", "A.", TestStatus.PASSED), PublicTest("b", "B.", TestStatus.TIMED_OUT)])
    assert said(timed_out).startswith("double: stopped after the first public test that ran out of time\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("expected 2, got 3\nassert 3 == 2", "expected 2, got 3"),
        ("two\nlines\nassert False\n +  where False = isinstance(3, str)", "two\nlines"),
        ("assert 3 == 2\nassert 1", "assert 3 == 2\nassert 1"),
        ("assert 3 == 2", "assert 3 == 2"),
    ],
)
def test_a_message_of_its_own_is_enough(text, said):
    """Where a test says in words what it expected, the expression that pytest adds is left out."""
    assert message_of(AssertionError(text), "double", None) == said
