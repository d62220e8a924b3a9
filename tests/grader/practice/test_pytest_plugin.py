"""`pytest` in a student's repository: which tests run, which modules are imported, and what one broken module does to the others."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from grader.practice import pytest_plugin
from grader.practice.unseen import unseen

MANIFEST = """
title = "Two modules"
[[modules]]
name = "first"
title = "First"
story = "One."
tasks = [
  { name = "add", points = 1, minutes = 1, hints = ["a", "b", "c"] },
  { name = "add_all", points = 1, minutes = 1, hints = ["a", "b", "c"] },
]
[[modules]]
name = "second"
title = "Second"
story = "Two."
tasks = [{ name = "Box", points = 1, minutes = 1, hints = ["a", "b", "c"] }]
"""
FILES = {
    "course.toml": MANIFEST,
    "pyproject.toml": '[tool.pytest.ini_options]\ntestpaths = ["tests/public"]\n'
    'addopts = "-p grader.practice.pytest_plugin --import-mode=importlib"\n',
    "exercises/first.py": "print('first is imported')\n\n\ndef add(a, b):\n    return a + b\n\n\ndef add_all(xs):\n    return sum(xs)\n",
    "exercises/second.py": "print('second is imported')\n\n\nclass Box:\n    size = 1\n",
    "tests/public/test_first.py": "from first import add, add_all\n\n\ndef test_add():\n    assert add(1, 2) == 3\n\n\n"
    "def test_add_of_zero():\n    assert add(0, 2) == 2\n\n\ndef test_add_all_of_three():\n    assert add_all([1, 2, 3]) == 6\n",
    "tests/public/test_second.py": "import pytest\nfrom second import Box\n\n\ndef test_Box_has_a_size():\n    assert Box().size == 1\n\n\n"
    "def test_Box_refuses():\n    with pytest.raises(AttributeError):\n        Box().lid\n",
}


@pytest.fixture
def root(tmp_path):
    """A course of two small modules without torch, with right answers."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(root: Path, *arguments: str) -> str:
    """The output of pytest."""
    command = [sys.executable, "-P", "-m", "pytest", "-s", "-p", "no:cacheprovider", "--color=no", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False).stdout


def test_a_task_alone(root):
    """--task runs the tests of that task, not those of one whose name begins alike, and imports its module alone."""
    output = run(root, "--task", "add")
    assert "2 passed" in output
    assert "second is imported" not in output
    assert "1 passed" in run(root, "--task", "add_all")
    both = run(root, "--task", "add_all", "--task", "Box")
    assert "3 passed" in both


def test_a_misspelt_task(root):
    """A task that does not exist is an error, with the one that looks like it."""
    command = [sys.executable, "-P", "-m", "pytest", "--task", "add_al"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no task 'add_al': do you mean add_all?" in done.stderr


@pytest.mark.parametrize(("text", "what"), [(None, "is missing"), ("title =", "can't be read"), ("title = 'x'", "can't be read")])
def test_without_a_manifest(tmp_path, text, what):
    """Not the task is said to be missing, but the file that names it."""
    if text is not None:
        (tmp_path / "course.toml").write_text(text)
    config = SimpleNamespace(rootpath=tmp_path, option=SimpleNamespace(task=["add"]))
    with pytest.raises(pytest.UsageError, match=rf"course.toml {what}: fetch it from where you got the exercises"):
        pytest_plugin.pytest_configure(config)
    (tmp_path / "course.toml").write_bytes(b"\xef\xbb\xbf" + MANIFEST.encode())
    pytest_plugin.pytest_configure(config)
    config.option.task = ["ADD"]
    with pytest.raises(pytest.UsageError, match="do you mean add\\?"):
        pytest_plugin.pytest_configure(config)


@pytest.mark.parametrize(
    ("keyword", "passed", "imported"),
    [
        ("Box", 2, "second"),
        ("add and zero", 1, "first"),
        ("test_second", 2, "second"),
        ("zero or size", 2, "first, second"),
        ("not Box", 3, "first, second"),
        ("not add", 2, "first, second"),
    ],
)
def test_only_needed_modules_are_imported(root, keyword, passed, imported):
    """-k imports the modules whose tests can match, and runs what it would run without this plugin."""
    output = run(root, "-k", keyword)
    assert f"{passed} passed" in output
    assert [name for name in ("first", "second") if f"{name} is imported" in output] == imported.split(", ")


def test_words_that_no_file_has(root):
    """What -k makes of them is left to pytest."""
    assert "5 deselected" in run(root, "-k", "nothing_like_it")


BROKEN = {
    "a syntax error": ("def add(a, b:\n", "first.py can't be imported: '(' was never closed in line 1"),
    "an error at import": ("import sys\nx = 1 / 0\n", "first.py can't be imported: ZeroDivisionError: division by zero in line 2"),
    "an error at its end": (
        "def add(a, b):\n    return a + b\n\n\nx.y\n",
        "first.py can't be imported: NameError: name 'x' is not defined",
    ),
    "an exit at import": ("raise SystemExit(0)\n", "first.py can't be imported: SystemExit: 0 in line 1"),
    "a missing package": ("import not_there\n", "first.py can't be imported: ModuleNotFoundError: No module named 'not_there' in line 1"),
    "an empty file": ("", "first.py has no add"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_module_fails_alone(root, what):
    """Its tests fail, each with the reason; those of other modules pass."""
    text, reason = BROKEN[what]
    (root / "exercises" / "first.py").write_text(text)
    output = run(root)
    assert "3 failed, 2 passed" in output
    assert reason in output


def test_a_missing_name_fails_alone(root):
    """A function that is called by another name, or a class that is gone, fails its own tests."""
    (root / "exercises" / "first.py").write_text("def add(a, b):\n    return a + b\n\n\ndef addall(xs):\n    return sum(xs)\n")
    (root / "exercises" / "second.py").unlink()
    output = run(root)
    assert "first.py has no add_all" in output
    assert "second.py can't be imported: there is no such file. `grader reset second` makes it" in output
    assert "3 failed, 2 passed" in output


def test_a_file_cannot_take_a_librarys_place(root):
    """exercises/pytest.py and exercises/random.py shadow nothing."""
    for name in ("pytest", "random"):
        (root / "exercises" / f"{name}.py").write_text("raise RuntimeError('shadowed')\n")
    assert "5 passed" in run(root)


@pytest.mark.parametrize("alarm", [True, False], ids=["by alarm", "by thread"])
def test_an_endless_loop_fails_alone(root, alarm):
    """The test that loops fails, and the next ones run, with and without SIGALRM; a bare except does not keep it alive."""
    loop = "def add(a, b):\n    while True:\n        try:\n            a += 1\n        except:\n            pass\n"
    (root / "exercises" / "first.py").write_text(loop + "\n\ndef add_all(xs):\n    return sum(xs)\n")
    hide = "" if alarm else "import signal\ndel signal.SIGALRM\n"
    (root / "impatient.py").write_text(f"{hide}import grader.practice.pytest_plugin as plugin\nplugin.TEST_SECONDS = 0.3\n")
    command = [sys.executable, "-c", "import impatient, pytest, sys; sys.exit(pytest.main(sys.argv[1:]))", "-p", "no:timeout"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert "2 failed, 3 passed" in done.stdout
    assert "OutOfTime: it did not end within the time limit" in done.stdout


UNSEEN = {
    "a copy at the top": ("first.py", "There is a first.py beside exercises/, too."),
    "a helper file": ("exercises/helpers.py", "exercises/helpers.py is not graded."),
    "a helper package": ("exercises/helpers/__init__.py", "exercises/helpers.py is not graded."),
    "a notebook of the module": ("exercises/first.ipynb", "exercises/ holds first.py and first.ipynb. Keep one"),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_what_official_grading_would_not_see_is_said(root, what):
    """A sentence behind the tests; without such a file there is none."""
    path, sentence = UNSEEN[what]
    assert sentence not in run(root)
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text("")
    assert sentence in run(root)


@pytest.mark.parametrize("line", ["import second", "from second import Box", "def add_all(xs):\n    import second"])
def test_an_import_of_a_sibling_is_said(root, line):
    """It works while one practises, and not when it counts."""
    with (root / "exercises" / "first.py").open("a") as file:
        file.write(f"\n\n{line}\n")
    assert "exercises/first.py imports second, which the official grading does not have" in run(root)


def test_an_import_through_the_folder_is_said(tmp_path):
    """The official grading has no folder exercises/, either."""
    for line in ("from exercises.second import Box", "import exercises.second"):
        (tmp_path / "exercises").mkdir(exist_ok=True)
        (tmp_path / "exercises" / "first.py").write_text(f"{line}\n")
        assert unseen(tmp_path, "exercises", ["first", "second"]) == [
            "exercises/first.py imports exercises, which the official grading does not have: each module is graded alone."
        ]


STUB = 'def add(a, b):\n    """Add."""\n    raise NotImplementedError("add")\n'
LEFT = {
    "an answer": ("%%task add\ndef add(a, b):\n    return a + b\n", True),
    "the stub": (f"%%task add\n# TODO\n{STUB}", False),
    "a cell of no task": ("def add(a, b):\n    return a + b\n", False),
    "another task": ("%%task add_all\ndef add(a, b):\n    return a + b\n", False),
    "unfinished code": ("%%task add\ndef add(a, b:\n", False),
}


@pytest.mark.parametrize("what", LEFT)
def test_an_answer_that_was_left_in_a_notebook_is_said(tmp_path, what):
    """A cell that was changed and not run is graded as the stub, which the file still holds."""
    cell, left = LEFT[what]
    for name, text in {
        "exercises/first.py": STUB,
        "notebooks/first.ipynb": json.dumps({"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)}]}),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    sentence = "notebooks/first.ipynb has code for add that exercises/first.py lacks: run its %%task cell, else it is not graded."
    assert unseen(tmp_path, "exercises", ["first", "second"]) == [sentence] * left
    (tmp_path / "exercises" / "first.py").write_text("def add(a, b):\n    return b + a\n")
    assert unseen(tmp_path, "exercises", ["first", "second"]) == []


@pytest.mark.parametrize("text", ["", "[]", '{"cells": [3]}', '{"cells": [{}]}', '{"cells": 3}'])
def test_a_damaged_notebook_says_nothing(tmp_path, text):
    """It is the student's own business."""
    (tmp_path / "exercises").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "exercises" / "first.py").write_text(STUB)
    (tmp_path / "notebooks" / "first.ipynb").write_text(text)
    assert unseen(tmp_path, "exercises", ["first"]) == []


def test_other_suites_are_left_alone(root):
    """Tests outside of tests/public have neither the time limit nor the student's modules."""
    (root / "tests" / "other").mkdir()
    (root / "tests" / "other" / "test_first.py").write_text(
        "def test_it():\n    import importlib.util\n    assert importlib.util.find_spec('first') is None\n"
    )
    assert "1 passed" in run(root, "tests/other")
