"""Every kind of bad submission has its status and one clear sentence, and the other task keeps its points."""

import json

import pytest
import torch

from grader.base.outcome import Status
from grader.submissions.notebooks import notebook_source
from grader.submissions.sources import Source
from tests.grader.conftest import COUNTER, DOUBLE, RIGHT, SOLUTION, mini_course, tasks_of

HEAD = "import ctypes, os, sys, time\nimport torch\n\n\n"

DOUBLES = {
    "missing": ("", Status.NOT_IMPLEMENTED, "mini.py has no function called double"),
    "none": ("double = None", Status.NOT_IMPLEMENTED, "no function called double"),
    "a class": ("class double:\n    pass", Status.ERROR, "double has to be a function, but it is a class"),
    "a number": ("double = 3", Status.ERROR, "double has to be a function, but it is a int"),
    "torch's own": (
        "import torch\ndef double(x):\n    return torch.empty(3, device='meta').cpu()",
        Status.ERROR,
        "NotImplementedError in torch: Cannot copy out of meta tensor",
    ),
    "the stub": ("def double(x):\n    raise NotImplementedError('double')", Status.NOT_IMPLEMENTED, "not implemented yet"),
    "returns nothing": ("def double(x):\n    x + x", Status.FAILED, "expected a tensor of shape (5,), got None"),
    "a wrong dtype": ("def double(x):\n    return (x + x).double()", Status.FAILED, "dtype: expected torch.float32, got torch.float64"),
    "a wrong shape": ("def double(x):\n    return (x + x)[None]", Status.FAILED, "shape: expected (5,), got (1, 5)"),
    "NaN": ("def double(x):\n    return x * float('nan')", Status.FAILED, "NaN: 5 of 5 are wrong"),
    "inf": ("def double(x):\n    return x * float('inf')", Status.FAILED, "inf: 5 of 5 are wrong"),
    "changes its argument": (
        "def double(x):\n    return x.mul_(2)",
        Status.FAILED,
        "changes x: arguments, modes and generators are left as they were found.",
    ),
    "wrong, and changes its argument": (
        "def double(x):\n    return x.mul_(3)",
        Status.FAILED,
        ". It also changes x: arguments, modes and generators are left as they were found.",
    ),
    "draws": ("def double(x):\n    torch.rand(1)\n    return x + x", Status.FAILED, "changes the state of torch's generator (drawing"),
    "switches gradients off": (
        "def double(x):\n    torch.set_grad_enabled(False)\n    return x + x",
        Status.FAILED,
        "changes the gradient mode",
    ),
    "a float": ("def double(x):\n    return float(x.sum())", Status.FAILED, "type: expected a tensor"),
    "a list": ("def double(x):\n    return (x + x).tolist()", Status.FAILED, "got a list of 5 items"),
    "its own class": ("class Mine:\n    pass\n\n\ndef double(x):\n    return Mine()", Status.FAILED, "an object of class Mine"),
    "a tensor of its own": (
        "class Equal(torch.Tensor):\n    def __eq__(self, other):\n        return True\n\n\n"
        "def double(x):\n    return (x * 3).as_subclass(Equal)",
        Status.FAILED,
        "an object of class Equal",
    ),
    "itself": ("def double(x):\n    value = []\n    value.append(value)\n    return value", Status.FAILED, "got a list"),
    "half a character": ("def double(x):\n    return '\\ud800'", Status.FAILED, "type: expected a tensor"),
    "a huge key": ("def double(x):\n    return {2**80: x}", Status.FAILED, "type: expected a tensor"),
    "an exception": ("def double(x):\n    return x.nonsense()", Status.ERROR, "AttributeError: 'Tensor' object has no attribute"),
    "an exception's line": ("def double(x):\n    return 1 / 0", Status.ERROR, "ZeroDivisionError: division by zero (line 6, in double)"),
    "half a character raised": ("def double(x):\n    raise ValueError('bad \\ud800')", Status.ERROR, "ValueError: bad"),
    "an error that can't be shown": (
        "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n\n\ndef double(x):\n    raise Odd",
        Status.ERROR,
        "Odd",
    ),
    "recursion": ("def double(x):\n    return double(x)", Status.ERROR, "RecursionError"),
    "sys.exit": ("def double(x):\n    sys.exit(0)", Status.ERROR, "called exit (line 6, in double): take it out"),
    "os._exit": ("def double(x):\n    os._exit(0)", Status.ERROR, "ended the process (exit status 0)"),
    "KeyboardInterrupt": ("def double(x):\n    raise KeyboardInterrupt", Status.ERROR, "called exit"),
    "abort": ("def double(x):\n    os.abort()", Status.ERROR, "crashed the process (SIGABRT) while the test ran"),
    "segfault": ("def double(x):\n    ctypes.string_at(8)", Status.ERROR, "crashed the process (SIGSEGV) while the test ran"),
    "loops": ("def double(x):\n    while True:\n        pass", Status.TIMED_OUT, "took more than 1 s of CPU time"),
    "loops in C": ("def double(x):\n    return sum(iter(int, 1))", Status.TIMED_OUT, "took more than 1 s of CPU time"),
    "sleeps": ("def double(x):\n    time.sleep(1000)", Status.TIMED_OUT, "took more than 4 s"),
    "allocates a list": ("def double(x):\n    return [0] * 10**9", Status.OUT_OF_MEMORY, "asked for more memory than a test may have"),
    "allocates a tensor": ("def double(x):\n    return torch.ones(10**9)", Status.OUT_OF_MEMORY, "asked for more memory than"),
    "allocates without end": (
        "def double(x):\n    kept = []\n    while True:\n        kept.append(bytes(10**7))",
        Status.OUT_OF_MEMORY,
        "asked for more memory than a test may have",
    ),
    "returns too much": ("def double(x):\n    return torch.ones(4 << 20)", Status.ERROR, "returned too much"),
    "prints": ("def double(x):\n    print('x' * 10**6)\n    return x + x", Status.ERROR, "printed more than 64 KiB while the test ran"),
    "needs a package": (
        "def double(x):\n    import pandas_or_so\n    return x + x",
        Status.ERROR,
        "No module named 'pandas_or_so' (line 6, in double). Here are Python's standard library, numpy, torch and torchvision;",
    ),
    "a ban in the source": ("def double(x):\n    return torch.softmax(x, 0)", Status.BANNED, "uses torch.softmax, line 6"),
    "a ban at run time": (
        "def double(x):\n    return getattr(x, 'soft' + 'max')(0)",
        Status.BANNED,
        "torch.softmax is not allowed in this task",
    ),
    "too many threads": (
        "import threading\n\n\ndef double(x):\n    for _ in range(50):\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n        time.sleep(0.1)\n"
        "    time.sleep(9)",
        Status.ERROR,
        "threads",
    ),
    "the wrong number of arguments": ("def double():\n    return 1", Status.ERROR, "TypeError: double() takes 0 positional arguments"),
    "closes its channel": ("def double(x):\n    os.closerange(0, 100)\n    time.sleep(1000)", Status.ERROR, "not well-formed"),
}


@pytest.mark.parametrize("name", DOUBLES)
def test_a_bad_function(grade_source, name):
    """A bad function has its status and a sentence, and the class keeps its points."""
    text, status, sentence = DOUBLES[name]
    tasks = tasks_of(grade_source(f"{HEAD}{text}\n\n\n{COUNTER}"))
    double = tasks["double"]
    assert (double.status, tasks["Counter"].score) == (status, 3.0), [test.message for test in double.tests]
    assert double.score < double.max_score
    first = next(test.message for test in double.tests if test.status is status)
    assert sentence in first
    told = first.split("\n")[1:]
    tried = status not in (Status.BANNED, Status.NOT_IMPLEMENTED) and "has to be a function" not in first
    assert [line.split(": ")[0] for line in told] == (["Called", "Checked"] if tried else [])
    assert not tried or told[1] == "Checked: Every element is doubled."


@pytest.mark.parametrize(("text", "said"), [("return x / 2", True), ("return x * 3", False), ("return x.relu() / 2", False)])
def test_a_known_mistake_is_named(grade_source, text, said):
    """Where the value is that of a misconception, its sentence is told, and nowhere else."""
    tasks = tasks_of(grade_source(f"def double(x):\n    {text}\n\n\n{COUNTER}"))
    messages = [test.message for test in tasks["double"].tests if test.id == "test_doubles"]
    assert len(messages) == 1
    assert ("It looks like this: Halves." in messages[0]) is said
    assert ("looks like" in messages[0]) is said


def test_a_mistake_that_could_be_two_is_not_named(tmp_path, grade_source):
    """Two misconceptions give this value: neither is told."""
    root = mini_course(tmp_path)
    bank = root / "tests/misconceptions/mini.py"
    bank.write_text(f'{bank.read_text()}\n\n@misconception("double", "Divides.")\ndef divides(x):\n    return x * 0.5\n')
    tasks = tasks_of(grade_source(f"def double(x):\n    return x / 2\n\n\n{COUNTER}", root=root))
    assert not any("looks like" in test.message for test in tasks["double"].tests)


def test_a_class_that_is_a_function(grade_source):
    """A function where a class is due is an error of that task alone."""
    tasks = tasks_of(grade_source(f"{DOUBLE}\n\ndef Counter(start=10):\n    return 1\n"))
    assert (tasks["Counter"].status, tasks["double"].score) == (Status.ERROR, 2.0)
    assert tasks["Counter"].tests[0].message == "Counter has to be a class, but it is a function."


IMPORTS = {
    "a syntax error": ("def double(x:\n", Status.ERROR, "mini.py does not run: SyntaxError"),
    "an indentation error": ("def double(x):\nreturn x", Status.ERROR, "mini.py does not run: IndentationError"),
    "deep nesting": ("(" * 1000 + ")" * 1000, Status.ERROR, "mini.py does not run: "),
    "an exception": ("1 / 0", Status.ERROR, "mini.py does not run: ZeroDivisionError: division by zero (line 1, in <module>)"),
    "exits": ("import sys\nsys.exit(1)", Status.ERROR, "mini.py does not run: called exit (line 2, in <module>): take it out"),
    "ends": ("import os\nos._exit(7)", Status.ERROR, "ended the process (exit status 7)"),
    "segfaults": ("import ctypes\nctypes.string_at(8)", Status.ERROR, "crashed the process (SIGSEGV) while the import of mini.py ran"),
    "loops": ("while True:\n    pass", Status.TIMED_OUT, "the import of mini.py took more than 2 s"),
    "prints": ("print('x' * 10**6)", Status.ERROR, "printed more than 64 KiB while the import of mini.py ran"),
    "allocates": ("x = bytes(10**10)", Status.OUT_OF_MEMORY, "mini.py does not run: asked for more memory"),
    "asks": ("input('Your name? ')", Status.ERROR, "mini.py does not run: EOFError"),
    "is empty": ("", Status.NOT_IMPLEMENTED, "mini.py has no"),
    "is not implemented": ("raise NotImplementedError", Status.NOT_IMPLEMENTED, "not implemented yet"),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_bad_import(grade_source, name):
    """What goes wrong at import is said for every task, and earns nothing."""
    text, status, sentence = IMPORTS[name]
    result = grade_source(f"{text}\n")
    assert (result.score, result.max_score) == (0, 5)
    assert {test.status for task in result.tasks for test in task.tests} == {status}
    assert all(sentence in task.tests[0].message for task in result.tasks), result.tasks[0].tests[0].message


def test_a_file_that_was_not_handed_in_or_can_not_be_read(grade_source):
    """A missing file is not implemented, an unreadable one is an error; both say so."""
    missing = grade_source("", source=Source(problem="mini.py was not handed in.", missing=True))
    assert {(task.status, task.tests[0].message) for task in missing.tasks} == {("not_implemented", "mini.py was not handed in.")}
    damaged = grade_source("", source=Source(problem="mini.py can't be read."))
    assert {(task.status, task.score, task.max_score) for task in damaged.tasks} == {("error", 0.0, 2.0), ("error", 0.0, 3.0)}


CELLS = {
    "does not parse": ("def double(x)\n    return 2 * x", "error", "SyntaxError: expected ':' (line 1 of its cell)"),
    "does not compile": ("def double(x):\n    pass\nreturn 1", "error", "SyntaxError: 'return' outside function (line 3 of its cell)"),
    "raises": (
        "def double(x: Tensor):\n    return 2 * x",
        "error",
        "NameError: name 'Tensor' is not defined (line 1 of its cell, in <module>)",
    ),
    "exits": (
        "import sys\nsys.exit()\ndef double(x):\n    return 2 * x",
        "error",
        "called exit (line 2 of its cell, in <module>): take it out.",
    ),
    "raises when it is called": ("\ndef double(x):\n    return x.two", "error", "no attribute 'two' (line 3 of its cell, in double)"),
    "defines before it raises": (f"import torch\n{DOUBLE}\nraise ValueError", "passed", ""),
    "is a stub": ("def double(x):\n    raise NotImplementedError", "not_implemented", ""),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_notebooks_cell_costs_only_what_it_defines(grade_source, what):
    """As in Jupyter where errors are allowed: the other cells run, and what a failed cell should have defined says why it is not there."""
    cell, status, sentence = CELLS[what]
    document = {"cells": [{"cell_type": "code", "source": source} for source in ("import nothing_like_it", cell, COUNTER)]}
    double, counter = grade_source("", source=notebook_source(json.dumps(document).encode(), "mini.ipynb")).tasks
    assert (double.status, counter.status) == (status, "passed"), double.tests[0].message
    assert sentence in double.tests[0].message


def test_a_cell_that_fails_after_the_stub(grade_source):
    """The stub was given out, so what the task gets is why the answer's cell failed. An answer from before stays."""
    stub, broken = "def double(x):\n    raise NotImplementedError", "def double(x)\n    return 2 * x"
    for first, status in ((stub, "error"), (DOUBLE, "passed")):
        document = {"cells": [{"cell_type": "code", "source": source} for source in (first, broken, COUNTER)]}
        double, counter = grade_source("", source=notebook_source(json.dumps(document).encode(), "mini.ipynb")).tasks
        assert (double.status, counter.status) == (status, "passed"), double.tests[0].message
    stubs = "class Counter:\n    def __init__(self):\n        raise NotImplementedError"
    document = {"cells": [{"cell_type": "code", "source": source} for source in (DOUBLE, stubs, f"nonsense\n{COUNTER}")]}
    double, counter = grade_source("", source=notebook_source(json.dumps(document).encode(), "mini.ipynb")).tasks
    assert (double.status, counter.status) == ("passed", "error")
    assert "nonsense" in counter.tests[0].message


PLEASANT = {
    "show": f"{DOUBLE}\ndisplay(double)\nget_ipython().run_line_magic('matplotlib', 'inline')",
    "print a lot": f"print('x' * 60_000_000)\nimport sys\nprint('x' * 60_000_000, file=sys.stderr)\n{DOUBLE}",
    "await": f"import asyncio\n{DOUBLE}\nasync def three():\n    await asyncio.sleep(0.001)\n    return 3\n\nassert await three() == 3",
    "await in vain": f"{DOUBLE}\nimport asyncio\nasync def wait():\n    await asyncio.get_running_loop().create_future()\nawait wait()",
    "gather": f"import asyncio\n{DOUBLE}\nassert await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0.01, 2)) == [1, 2]",
    "import what is missing": f"import matplotlib_or_so.pyplot as plt\nfrom seaborn_or_so import *\nimport torch\n{DOUBLE}",
    "use what is missing": f"import matplotlib_or_so as plt\n{DOUBLE}\nplt.plot([1, 2])",
}


@pytest.mark.parametrize("what", PLEASANT)
def test_what_people_do_in_notebooks(grade_source, what):
    """What Jupyter gives for nothing, long prints, and packages that are not here harm no task."""
    document = {"cells": [{"cell_type": "code", "source": source} for source in ("import torch", PLEASANT[what], COUNTER)]}
    double, counter = grade_source("", source=notebook_source(json.dumps(document).encode(), "mini.ipynb")).tasks
    assert double.status == "passed", double.tests[0].message
    assert counter.status == "passed", counter.tests[0].message


USES = {
    "calls it": "def double(x):\n    return pd.twice(x)",
    "is decorated with it": "@pd.fast\ndef double(x):\n    return 2 * x",
    "needs what it made": "two = pd.two\ndef double(x):\n    return two * x",
}


@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.parametrize("use", USES)
def test_a_package_that_is_missing_costs_what_uses_it(grade_source, cells, use):
    """In a module as in a notebook: what stands behind it counts, and the task that uses it says which package it is."""
    imports = "import pandas_or_so as pd\nfrom seaborn_or_so import heat\nimport torch\n\nheat(pd.read(3))\n"
    text = f"{imports}{COUNTER}\n{USES[use]}\n"
    source = notebook_source(json.dumps({"cells": [{"cell_type": "code", "source": text}]}).encode(), "mini.ipynb")
    double, counter = grade_source("", source=source if cells else Source(text)).tasks
    assert counter.status == "passed", counter.tests[0].message
    assert double.tests[0].message.startswith("ModuleNotFoundError: No module named 'pandas_or_so' (line 1")
    assert "Here are Python's standard library, numpy, torch and torchvision; a file beside the module can't be imported." in (
        double.tests[0].message
    )


NOT_HERE = {
    "workers of a DataLoader": (
        "from torch.utils.data import DataLoader",
        "next(iter(DataLoader([1, 2], num_workers=1)))",
        "num_workers=0",
    ),
    "a pool": ("import multiprocessing", "multiprocessing.Pool(1)", "No processes can be started here"),
    "a program": ("import subprocess", "subprocess.run(['ls'])", "No processes can be started here"),
    "a GPU": ("", "x.cuda()", "There is no such device here: take the device from an input (x.device)"),
    "the network": ("import urllib.request", "urllib.request.urlopen('http://example.org')", "There is no network here"),
}


@pytest.mark.parametrize("what", NOT_HERE)
def test_what_works_elsewhere(grade_source, what):
    """The message says why it does not work here, and what to do."""
    before, line, sentence = NOT_HERE[what]
    if what == "a GPU" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    double, _ = grade_source(f"{before}\ndef double(x):\n    {line}\n    return x + x\n\n\n{COUNTER}").tasks
    assert sentence in double.tests[0].message


def test_a_class_whose_cell_failed(grade_source):
    """It says so whether it is called or one of its attributes is used."""
    cells = [DOUBLE, "class Counter(Missing):\n    pass"]
    document = {"cells": [{"cell_type": "code", "source": source} for source in cells]}
    _, counter = grade_source("", source=notebook_source(json.dumps(document).encode(), "mini.ipynb")).tasks
    assert {test.message.split("\n")[0] for test in counter.tests} == {
        "NameError: name 'Missing' is not defined (line 1 of its cell, in <module>)"
    }


def test_a_cell_that_computes_for_too_long(grade_source):
    """It is interrupted, and the cells behind it still run."""
    endless = "def double(x):\n    return x + x\n\nwhile True:\n    pass"
    document = {"cells": [{"cell_type": "code", "source": source} for source in (endless, "while True:\n    pass", COUNTER)]}
    double, counter = grade_source("", source=notebook_source(json.dumps(document).encode(), "mini.ipynb")).tasks
    assert counter.status == "passed", counter.tests[0].message
    assert double.tests[0].status == "passed", double.tests[0].message


def test_after_a_time_out_the_tasks_other_tests_are_not_tried(grade_source):
    """One time-out costs its limit once; the later tests say why they were not tried."""
    result = tasks_of(grade_source(f"def double(x):\n    while True:\n        pass\n\n\n{COUNTER}"))
    first, *others = result["double"].tests
    assert first.message.split("\n")[0] == "ran out of time: the test took more than 1 s of CPU time."
    assert {test.message for test in others} == {"not tried: an earlier test of this task ran out of time."}
    assert {test.status for test in others} == {Status.TIMED_OUT}


def test_a_task_has_a_budget(grade_source, tmp_path):
    """A task that is slow in each of its tests is stopped when they have taken the budget together."""
    root = mini_course(tmp_path)
    manifest = root / "course.toml"
    manifest.write_text(
        manifest.read_text().replace("task_seconds = 6", "task_seconds = 1").replace("test_seconds = 4", "test_seconds = 1")
    )
    slow = DOUBLE.replace("return", "import time; time.sleep(0.7); return")
    tasks = tasks_of(grade_source(f"{slow}\n\n{COUNTER}", root=root))
    messages = [test.message for test in tasks["double"].tests]
    assert "the tests of this task took more than 1 s together." in messages
    assert messages[-1].startswith("not tried: ")
    assert tasks["Counter"].score == 3


def test_a_task_has_limits_of_its_own(grade_source, tmp_path):
    """Memory and import time, which hold for a worker as a whole, can be given to one task: the other keeps the course's."""
    root = mini_course(tmp_path)
    manifest = root / "course.toml"
    manifest.write_text(
        manifest.read_text().replace("points = 2\n", "points = 2\nlimits = { memory_mib = 2048, import_seconds = 9, test_seconds = 9 }\n")
    )
    hungry = "torch.empty(1 << 30, dtype=torch.uint8);"  # 1 GiB of address space; the course gives 512 MiB
    both = f"import torch\n\n\n{DOUBLE.replace('return', f'{hungry} return')}\n\n{COUNTER.replace('return', f'{hungry} return')}"
    tasks = tasks_of(grade_source(both, root=root))
    assert (tasks["double"].status, tasks["Counter"].status) == (Status.PASSED, Status.OUT_OF_MEMORY)
    tasks = tasks_of(grade_source(f"import time\ntime.sleep(2.3)\n\n\n{DOUBLE}\n\n{COUNTER}", root=root))
    assert (tasks["double"].status, tasks["Counter"].status) == (Status.PASSED, Status.TIMED_OUT)


def test_an_import_after_a_crash_counts_for_the_task_that_needs_it(grade_source, tmp_path):
    """A module that imports slowly and kills its worker in every test of a task takes that task's time, and no other's."""
    root = mini_course(tmp_path)
    manifest, suite = root / "course.toml", root / "tests/hidden/test_mini.py"
    changed = manifest.read_text().replace("import_seconds = 2", "import_seconds = 1.5").replace("task_seconds = 6", "task_seconds = 3.5")
    manifest.write_text(changed.replace("test_seconds = 4", "test_seconds = 3"))
    many = '@task("double")\n@pytest.mark.parametrize("n", range(8))\ndef test_many(agree, n):\n    """Many."""\n'
    suite.write_text(f"import pytest\n{suite.read_text()}\n\n{many}    agree(lambda m: m.double(torch.ones(3)), rtol=0, atol=0)\n")
    text = f"import os, time\ntime.sleep(1.2)\n\n\ndef double(x):\n    os._exit(0)\n\n\n{COUNTER}"
    tasks = tasks_of(grade_source(text, root=root))
    messages = [test.message for test in tasks["double"].tests]
    assert messages[0].startswith("ended the process")
    assert "the tests of this task took more than 3.5 s together." in messages  # the third import is cut
    assert len([message for message in messages if message.startswith("ended")]) <= 4  # the first, that of Counter, and two more
    assert tasks["Counter"].score == 3


def test_a_value_of_another_kind_in_a_trusted_check_is_the_students_failure(grade_source):
    """A check never sees it, so it can't trip over it; the student is told what was due."""
    tasks = tasks_of(grade_source(f"def double(x):\n    return 'six'\n\n\n{COUNTER}"))
    test = {test.id: test for test in tasks["double"].tests}["test_sum_is_doubled"]
    assert test.status is Status.FAILED
    wrong, called, checked = test.message.split("\n")
    assert wrong == "type: expected a tensor of shape (5,), got the string 'six'."
    assert (called, checked) == ("Called: double(x=float32 (5,))", "Checked: The sum is twice the sum.")


BROKEN = '''

@task("double")
def test_own_fault(student):
    """The test's own fault."""
    student(lambda m: m.double(torch.ones(3)))
    raise KeyError("mine")


@task("double")
def test_fault_before_the_student_is_asked():
    """The test's own fault."""
    raise KeyError("mine, early")


@task("double")
def test_unknown_fixture(nonsense):
    """No such fixture."""
'''


def test_the_tests_own_fault_is_a_grader_error(grade_source, tmp_path):
    """A test that fails of itself is a grader_error, whatever the student handed in, and the task's status says so."""
    root = mini_course(tmp_path)
    suite = root / "tests/hidden/test_mini.py"
    suite.write_text(suite.read_text() + BROKEN)
    for text in (RIGHT, f"def double(x):\n    return x * 3\n\n\n{COUNTER}"):
        double = tasks_of(grade_source(text, root=root))["double"]
        status = {test.id: test.status for test in double.tests}
        assert double.status is Status.GRADER_ERROR
        assert status["test_own_fault"] is status["test_fault_before_the_student_is_asked"] is Status.GRADER_ERROR
        assert status["test_unknown_fixture"] is Status.GRADER_ERROR
    assert status["test_doubles"] is Status.FAILED


LEFT_ON = {
    "dtype": "torch.set_default_dtype(torch.float64)",
    "device": "torch.set_default_device('meta')",
    "no_grad": "torch.set_grad_enabled(False)",
    "inference mode": "KEPT.append(torch.inference_mode()); KEPT[-1].__enter__()",
    "autocast": "KEPT.append(torch.autocast('cpu', torch.bfloat16)); KEPT[-1].__enter__()",
    "function mode": "KEPT.append(Double()); KEPT[-1].__enter__()",
    "dispatch mode": "KEPT.append(Spoil()); KEPT[-1].__enter__()",
    "forward hook": "torch.nn.modules.module.register_module_forward_hook(lambda module, args, out: out * 0)",
    "forward pre hook": "torch.nn.modules.module.register_module_forward_pre_hook(lambda module, args: (args[0] * 0,))",
    "kwargs hook": "torch.nn.modules.module.register_module_forward_hook(lambda module, args, kwargs, out: out * 0, with_kwargs=True)",
    "parameter hook": "torch.nn.modules.module.register_module_parameter_registration_hook(lambda m, name, p: torch.nn.Parameter(p * 0))",
    "backward hook": "torch.nn.modules.module.register_module_full_backward_hook(lambda module, i, o: (i[0] * 0 + 1,))",
    "backward pre hook": "torch.nn.modules.module.register_module_full_backward_pre_hook(lambda module, o: (o[0] * 0 + 1,))",
    "saved tensors hook": "KEPT.append(torch.autograd.graph.saved_tensors_hooks(lambda t: t * 0, lambda t: t)); KEPT[-1].__enter__()",
    "anomaly": "torch.autograd.set_detect_anomaly(True)",
    "deterministic": "torch.use_deterministic_algorithms(True)",
    "seed": "torch.manual_seed(5)",
    "recursion limit": "sys.setrecursionlimit(60)",
    "numpy errors": "np.seterr(all='raise')",
}
LEAVER = """
import sys
import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
KEPT = []
class Double(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return torch.zeros(3) if func is torch.Tensor.add else func(*args, **(kwargs or {}))
class Spoil(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 0 if isinstance(out, torch.Tensor) and out.is_floating_point() else out
def double(x):
    LEAVE
    if not x.numel():
        raise ValueError
    return x + x
class Counter:
    def __init__(self, start=10):
        self.n = start
    def add(self, n):
        self.n += n
        return self.n
"""
SENSITIVE = '''

@task("Counter")
def test_state_is_clean(agree):
    """Gradients, hooks, dtypes, devices and random numbers are as at the beginning."""

    def probe(m):
        import random

        import numpy as np

        m.Counter()
        np.array([1.0]) / np.array([0.0])
        layer = torch.nn.Linear(3, 1)
        x = torch.ones(2, 3, requires_grad=True)
        layer(x).square().sum().backward()
        deep = lambda n: n and deep(n - 1)
        deep(100)
        other = torch.zeros(2) + 1.5, torch.mm(torch.full((2, 2), 1.0009765625), torch.eye(2)), torch.tensor([1.0, 2.0]).add(1)
        return layer.weight, layer.weight.grad, x.grad, torch.rand(2), random.random(), other, torch.tensor([1.5]).device.type

    agree(probe, rtol=1e-6, atol=1e-6)
'''


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("what", LEFT_ON)
def test_what_one_task_leaves_on_does_not_disturb_the_next(grade_source, tmp_path, what):
    """Process-wide state that one task forgets is put back before the next probe."""
    root = mini_course(tmp_path)
    suite = root / "tests/hidden/test_mini.py"
    suite.write_text(suite.read_text() + SENSITIVE)
    tasks = tasks_of(grade_source(LEAVER.replace("LEAVE", LEFT_ON[what]), root=root))
    assert (tasks["Counter"].score, tasks["Counter"].max_score) == (3.0, 3.0), [test.message for test in tasks["Counter"].tests]


def test_the_reference_is_worth_everything_under_any_seed(grade_source):
    """The reference, and a right answer in another style, earn every point."""
    for seed in range(3):
        assert grade_source(SOLUTION, seed=seed).score == grade_source(RIGHT, seed=seed).score == 5


def test_a_banned_call_while_a_probe_is_unpickled_is_seen(grade_source):
    """The watch begins before the student's arguments are made: what makes them, a module may have replaced."""
    spy = """import torch

KEPT, REAL = [], torch.empty


def spy(*shape, **options):
    KEPT.append(torch.softmax(torch.ones(3), 0))
    return REAL(*shape, **options)


torch.empty = spy
"""
    tasks = tasks_of(grade_source(f"{spy}\n\n{DOUBLE}\n\n{COUNTER}"))
    assert tasks["double"].status is Status.BANNED
    assert tasks["double"].score == 0


def test_threads_are_counted_after_each_answer(grade_source):
    """A worker that answers before anybody looks can't collect threads over its answers."""
    text = f"""
import _thread, threading, time, torch
threading.stack_size(1 << 15)
LOCK = _thread.allocate_lock()
LOCK.acquire()

def double(x):
    for _ in range(20):
        _thread.start_new_thread(LOCK.acquire, ())
    return x + x


{COUNTER}"""
    tasks = tasks_of(grade_source(text))
    assert "started more than 4 threads." in [test.message.split("\n")[0] for test in tasks["double"].tests]
    assert tasks["Counter"].score == 3


def test_the_name_of_a_class_is_a_string_from_a_student(grade_source):
    """It is capped, and without control characters."""
    name = "A\\x1b[2J\\x07" + "A" * 5000
    double, _ = grade_source(f"double = type('{name}', (), {{}})()\n\n\n{COUNTER}").tasks
    for test in double.tests:
        assert test.message.startswith("double has to be a function, but it is a A")
        assert len(test.message) < 200
        assert test.message.isprintable()
