"""The command line: exit statuses, what is printed, what is kept, what is left behind."""

import ast
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.grader.conftest import COUNTER, RIGHT, grader, mini_course


@pytest.fixture
def root(tmp_path):
    """A course, and beside it a folder of two submissions."""
    for name, text in {"anna": RIGHT, "ben": COUNTER}.items():
        (tmp_path / "hand-in" / name).mkdir(parents=True)
        (tmp_path / "hand-in" / name / "mini.py").write_text(text)
    return mini_course(tmp_path / "course")


def scores(root: Path) -> dict[str, float]:
    """Scores by submission."""
    plain = json.loads((root / "results" / "results.json").read_text())
    return {submission["id"]: submission["score"] for submission in plain["submissions"]}


def entries(root: Path) -> dict[str, int]:
    """The store's files, with the times they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (root / "results" / ".store").glob("*.json")}


def test_a_full_disk_is_said_and_costs_nothing(root):
    """Where a file can't be written, the run ends with status 3 and a sentence; what is finished is kept, and the next run goes on."""
    limit = 1400  # more than an entry of the store, less than junit.xml
    command = [sys.executable, "-m", "grader", "grade", "../hand-in", "--seed", "5", "--jobs", "1"]
    full = subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # or else it would leave cut files in the cache
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
    assert (full.returncode, "Traceback" in full.stderr) == (3, False), full.stderr
    assert "The grader can't use its own files: File too large" in " ".join(full.stderr.split())
    before = entries(root)
    assert len(before) == 2
    assert not (root / "results" / "results.json").exists()
    assert grader("grade", "../hand-in", "--seed", 5, cwd=root).returncode == 0
    assert entries(root) == before
    assert scores(root) == {"anna": 5, "ben": 3}


def test_grading_again_grades_only_what_changed(root):
    """The same seed and number of jobs or not: byte-identical results, nothing graded twice; a changed module is."""
    first = grader("grade", "../hand-in", "--seed", 5, "--jobs", 2, "--json", cwd=root)
    results = root / "results" / "results.json"
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == results.read_text()
    assert scores(root) == {"anna": 5, "ben": 3}
    assert sorted(path.name for path in (root / "results").iterdir()) == [
        ".store",
        "junit.xml",
        "problems.csv",
        "results.csv",
        "results.json",
        "timings.json",
    ]
    before = entries(root)
    again = grader("grade", "../hand-in", "--seed", 5, "--jobs", 1, cwd=root)
    assert entries(root) == before
    assert (again.returncode, results.read_text()) == (0, first.stdout)
    assert "ben" in again.stdout
    (root.parent / "hand-in" / "ben" / "mini.py").write_text(RIGHT + "\n# now\n")
    assert grader("grade", "../hand-in", "--seed", 5, cwd=root).returncode == 0
    assert scores(root) == {"anna": 5, "ben": 5}
    after = entries(root)
    assert len(after) == 3
    assert before.items() <= after.items()
    apart = grader("grade", "../hand-in", "--seed", 5, "--jobs", 1, "--out", "apart", cwd=root)
    assert (apart.returncode, (root / "apart" / "results.json").read_text()) == (0, results.read_text())


BAD = {
    "a missing path": (["grade", "nowhere"], "nowhere does not exist"),
    "an empty folder": (["grade", "../empty"], "holds no submission"),
    "no path": (["grade"], "Missing argument"),
    "an unknown module": (["grade", "../hand-in", "--module", "maxi"], "no module 'maxi'"),
    "an unknown task": (["grade", "../hand-in", "--task", "triple"], "no task 'triple'"),
    "an unknown option": (["grade", "../hand-in", "--nonsense"], "No such option"),
    "an unknown command": (["grad"], "No such command"),
    "a negative seed": (["grade", "../hand-in", "--seed", "-1"], "Invalid value"),
    "a huge seed": (["grade", "../hand-in", "--seed", str(2**70)], "Invalid value"),
    "no jobs": (["grade", "../hand-in", "--jobs", "0"], "Invalid value"),
    "an output that is a file": (["grade", "../hand-in", "--out", "course.toml"], "course.toml"),
    "an output below a file": (["grade", "../hand-in", "--out", "course.toml/x"], "course.toml"),
    "no course": (["list", "--course", "../empty"], "is missing: run from a course's folder"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_2_and_a_sentence(root, what):
    """Status 2, one sentence, no traceback, nothing on standard output."""
    (root.parent / "empty").mkdir()
    arguments, sentence = BAD[what]
    done = grader(*arguments, cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_manifest_is_2(root):
    """A wrong course.toml stops every command, in words."""
    (root / "course.toml").write_text("title = 3")
    for command in (["list"], ["grade", "../hand-in"], ["check"], ["stubs"]):
        done = grader(*command, cwd=root)
        assert done.returncode == 2
        assert "course.toml: in title: Expected `str`, got `int`: give it a value of that kind" in done.stderr


@pytest.mark.parametrize("suite", ["def broken(:\n", "import nonsense_or_so\n", "def test_x(): pass\n", ""])
def test_a_broken_suite_is_3_and_the_results_say_so(root, suite):
    """The grader's own fault: status 3, and whole results in which every task is a grader_error."""
    (root / "tests/hidden/test_mini.py").write_text(suite)
    done = grader("grade", "../hand-in/anna", "--seed", 1, cwd=root)
    assert done.returncode == 3
    assert "The grader itself failed: anna, double: " in done.stderr
    plain = json.loads((root / "results" / "results.json").read_text())
    assert {task["status"] for task in plain["submissions"][0]["modules"][0]["tasks"]} == {"grader_error"}
    assert entries(root) == {}


def test_pytests_environment_has_no_say(root):
    """Options that a user keeps for pytest change no score."""
    done = grader("grade", "../hand-in", "--seed", 1, cwd=root, PYTEST_ADDOPTS="-x -k doubles", PYTEST_PLUGINS="nonsense_or_so")
    assert (done.returncode, scores(root)) == (0, {"anna": 5, "ben": 3}), done.stderr


def test_only_a_task(root):
    """--task leaves the rest out of the sums."""
    assert grader("grade", "../hand-in", "--task", "Counter", "--seed", 1, cwd=root).returncode == 0
    plain = json.loads((root / "results" / "results.json").read_text())
    assert [submission["max_score"] for submission in plain["submissions"]] == [3, 3]


def scratch() -> set[str]:
    """Scratch folders of the grader's on this machine."""
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("grader-")}


def members(group: int) -> list[str]:
    """Live processes of a session or, told by their command, zygotes whose environment names this test's course."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == group and fields[0] != "Z":
                found.append(name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished(root, tmp_path, how):
    """Ctrl-C and kill -9 in the middle: the first submission's result stays, the next run goes on with the same seed."""
    (root.parent / "hand-in" / "zoe").mkdir()
    (root.parent / "hand-in" / "zoe" / "mini.py").write_text(f"import time\n\n\ndef double(x):\n    time.sleep(60)\n\n\n{COUNTER}")
    command = [sys.executable, "-m", "grader", "grade", "../hand-in", "--jobs", "1"]
    (tmp_path / "scratch").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    process = subprocess.Popen(
        command,
        cwd=root,
        start_new_session=True,
        stderr=subprocess.PIPE,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 120
    while len(entries(root)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    kept = entries(root)
    assert len(kept) == 2
    os.killpg(process.pid, how)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == (-how if how == signal.SIGKILL else 130), errors
    assert b"Traceback" not in errors
    deadline = time.monotonic() + 60
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(process.pid) == []
    if how != signal.SIGKILL:
        assert list((tmp_path / "scratch").iterdir()) == []
    seed = json.loads((root / "results" / ".unfinished.json").read_text())
    assert not (root / "results" / "results.json").exists()
    assert grader("grade", "../hand-in", cwd=root).returncode == 0
    assert kept.items() <= entries(root).items()
    assert json.loads((root / "results" / "results.json").read_text())["seed"] == seed
    assert scores(root) == {"anna": 5, "ben": 3, "zoe": 3}
    assert not (root / "results" / ".unfinished.json").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["hint", "double"], ["grade", "--help"]])
def test_students_commands_start_quickly(root, arguments):
    """They import neither torch nor what grades and exports: that would take longer than the command itself."""
    program = (
        "import sys\nfrom grader.cli.app import app\napp(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith(('torch', 'numpy', 'grader.'))}))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    imported = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert {"grader.base", "grader.cli", "grader.course"} <= imported <= {"grader.base", "grader.cli", "grader.course", "grader.practice"}


@pytest.mark.parametrize(("more", "hints"), [([], 1), (["--more"], 2), (["-mm"], 3)])
def test_hints_come_one_after_another(root, more, hints):
    """The first alone, and one more for each --more."""
    shown = ["What is twice a number?", "A product has two factors.", "One factor is the argument."]
    assert grader("hint", "double", *more, cwd=root).stdout.splitlines() == shown[:hints]


def test_exports_are_known_by_name(root):
    """The group's commands are loaded late, yet it lists them, and finds the one that was meant."""
    assert "gradescope-autograder" in grader("export", "--help", cwd=root).stdout
    wrong = grader("export", "feedbak", cwd=root)
    assert (wrong.returncode, "Did you mean 'feedback'?" in wrong.stderr) == (2, True)


def test_list(root):
    """Modules and tasks with points and minutes, for people and for programs."""
    assert "double" in grader("list", cwd=root).stdout
    plain = json.loads(grader("list", "--json", cwd=root / "tests").stdout)
    assert plain["modules"][0]["tasks"] == [
        {"name": "double", "points": 2.0, "minutes": 1, "mark": "open"},
        {"name": "Counter", "points": 3.0, "minutes": 2, "mark": "open"},
    ]


def test_regrading_shows_before_it_writes(root):
    """Who changes and why; results stay until --write; with the same seed, and only what changed."""
    assert grader("grade", "../hand-in", cwd=root).returncode == 0
    before = (root / "results" / "results.json").read_bytes()
    same = grader("regrade", "../hand-in", cwd=root)
    assert (same.returncode, "The results are equal." in same.stdout) == (0, True), same.stdout + same.stderr
    manifest = root / "course.toml"
    manifest.write_text(manifest.read_text().replace("points = 2", "points = 4"))
    shown = grader("regrade", "../hand-in", cwd=root, COLUMNS="200")
    assert shown.returncode == 1, shown.stdout + shown.stderr
    assert "the task was worth 2 points, and is worth 4" in shown.stdout
    assert "Nothing was written." in shown.stderr
    assert (root / "results" / "results.json").read_bytes() == before
    assert grader("regrade", "../hand-in", "--write", cwd=root).returncode == 0
    after = json.loads((root / "results" / "results.json").read_bytes())
    assert after["seed"] == json.loads(before)["seed"]
    assert scores(root) == {"anna": 7, "ben": 3}
    assert grader("compare", "results", "results", cwd=root).returncode == 0
    assert grader("regrade", "../hand-in", "--out", "nowhere", cwd=root).returncode == 2
    for part in (("../hand-in/anna",), ("../hand-in", "--task", "double")):
        partly = grader("regrade", *part, "--write", cwd=root)
        assert (partly.returncode, "results would be lost" in partly.stderr) == (2, True)
    assert scores(root) == {"anna": 7, "ben": 3}


def with_second_module(root: Path) -> Path:
    """A course in miniature with another module, whose tasks have other names."""
    names = {"mini": "second", "double": "twice", "Counter": "Tally"}
    pattern = re.compile("|".join(names))
    for path in [path for path in root.rglob("*mini*.py") if "grader" not in path.parts]:
        path.with_name(path.name.replace("mini", "second")).write_text(pattern.sub(lambda match: names[match[0]], path.read_text()))
    manifest = root / "course.toml"
    head, modules, tail = manifest.read_text().partition("[[modules]]")
    manifest.write_text(f"{head}{modules}{tail}\n{pattern.sub(lambda match: names[match[0]], modules + tail)}")
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    return root


def test_a_path(tmp_path):
    """What is listed, what comes next, what is graded and what students get are the path's modules alone, in its order."""
    root = with_second_module(mini_course(tmp_path))
    manifest = root / "course.toml"
    path = '[[paths]]\nname = "back"\ntitle = "Backwards"\nstory = "B"\nmodules = ["second"]\n\n[[modules]]'
    manifest.write_text(manifest.read_text().replace("[[modules]]", path, 1))
    assert "--path back: Backwards, about 0 hours: second." in grader("list", cwd=root).stdout
    listed = json.loads(grader("list", "--path", "back", "--json", cwd=root).stdout)
    assert [module["name"] for module in listed["modules"]] == ["second"]
    assert "exercises/second.py" in grader("next", "--path", "back", cwd=root).stdout
    assert grader("export", "student", "out", "--path", "back", cwd=root).returncode == 0
    assert [path.name for path in (root / "out" / "exercises").iterdir()] == ["second.py"]
    for command in (("list",), ("export", "nbgrader", "nb"), ("grade", "exercises")):
        refused = grader(*command, "--path", "forth", cwd=root)
        assert (refused.returncode, refused.stderr) == (2, "no path 'forth' in course.toml; it has back\n")


def test_stubs(root):
    """--check says which are out of date and writes nothing; without it they are written, once."""
    stub = root / "exercises" / "mini.py"
    whole = stub.read_text()
    assert "tests/public/mistakes.json is out of date for mini" in grader("stubs", "--check", cwd=root).stderr
    assert "wrote tests/public/mistakes.json" in grader("stubs", "--jobs", 1, cwd=root).stdout
    assert grader("stubs", "--check", cwd=root).returncode == 0
    stub.write_text("")
    check = grader("stubs", "--check", cwd=root)
    assert (check.returncode, stub.read_text()) == (1, "")
    assert "exercises/mini.py is out of date: run `grader stubs`" in check.stderr
    assert grader("stubs", cwd=root).stdout == "wrote exercises/mini.py\n"
    assert stub.read_text() == whole
    assert grader("stubs", cwd=root).stdout == ""


def test_schema_and_doctor(root):
    """Both print JSON; the doctor's verdict is its exit status."""
    assert json.loads(grader("schema", cwd=root).stdout)["title"] == "pytorch-exercises/results/v1"
    done = grader("doctor", "--json", cwd=root)
    report = json.loads(done.stdout)
    assert report["official"] == all(protection["holds"] for protection in report["protections"])
    assert done.returncode == (0 if report["official"] else 1)


def test_trusted_code_is_not_confined(root):
    """Code of one's own may do what a student's may not, such as open a device; the results say that nothing confined it."""
    source = root / "open" / "mini.py"
    source.parent.mkdir()
    source.write_text(f"open({str(root / 'course.toml')!r}).read()\n{RIGHT}")
    assert grader("grade", "open", cwd=root).returncode == 0
    assert scores(root) == {"open": 0}
    done = grader("grade", "open", "--trusted", cwd=root)
    assert scores(root) == {"open": 5}
    assert json.loads((root / "results" / "results.json").read_text())["isolation"]["confined"] is False
    assert "not confined" in done.stderr
