"""The content gate: content with the course in miniature, and not with any way of breaking it."""

import json
from pathlib import Path

import msgspec
import pytest

import grader.check.gate
from grader.check.public import public_problems
from grader.course.manifest import Course
from grader.course.stubs import module_stub
from grader.grading.engine import Engine
from grader.practice.pytest_plugin import owner_of
from grader.runner.job import grade
from tests.grader.conftest import RIGHT, forget_suites, mini_course
from tests.grader.conftest import grader as command

ROOT = Path(__file__).parents[3]


@pytest.fixture
def report_of(zygote, monkeypatch):
    """`report_of(root)`: what the gate finds, graded in this process; public tests and replays are run only where the way concerns them."""

    def run(root, *, public: bool, replay: bool) -> dict:
        course = Course.read(root)
        engine = Engine(course, zygote)

        def grade_here(units, course, *, jobs, layers, on_done):
            for unit in units:
                on_done(unit, grade(unit, engine))

        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setattr(grader.check.gate, "grade_units", grade_here)
        if not public:
            monkeypatch.setattr(grader.check.gate, "public_problems", lambda course, modules: [])
        if not replay:
            monkeypatch.setattr(grader.check.gate, "evidence_of", lambda course, modules, seed: ([], []))
        try:
            found = grader.check.gate.check(
                course, course.modules, seeds=1, jobs=1, seed=1, layers=zygote.layers, on_progress=lambda done, total, what: None
            )
        finally:
            forget_suites()
        return msgspec.to_builtins(found)

    return run


def test_the_course_in_miniature_is_in_order(tmp_path):
    """Counts, names, nothing to complain of, by the real command."""
    done = command("check", "--json", "--seeds", 1, "--jobs", 1, cwd=mini_course(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["problems"] == report["survived"] == []
    counts = {key: report[key] for key in ("modules", "tasks", "tests", "misconceptions", "alternatives")}
    assert counts == {"modules": 1, "tasks": 2, "tests": 5, "misconceptions": 6, "alternatives": 4}
    assert "mini.double.squares" in report["rejected"]


H, M, A, S, E, P = (
    "tests/hidden/test_mini.py",
    "tests/misconceptions/mini.py",
    "tests/alternatives/mini.py",
    "solutions/mini.py",
    "exercises/mini.py",
    "tests/public/test_mini.py",
)
USES = '''

@task("Counter")
def test_uses(agree):
    """Both."""
    agree(lambda m: [m.Counter(1).add(1), m.double(torch.ones(2))], rtol=0, atol=0)
'''
SLACK = '''

@task("double")
def test_slack(student, draw):
    """Nothing at all."""
    x = draw.normal(1)
    student(lambda m: m.double(x))
'''
CONSTANT = '''

@task("double")
def test_of_three(agree):
    """Twice three is six."""
    agree(lambda m: m.double(torch.tensor([3.0])), rtol=0, atol=0)
'''
LISTENER = '''

@task("Counter")
def test_is_itself(agree, draw):
    """A counter is an object."""
    n = draw.integer(1, 999)

    def probe(m):
        counter = m.Counter(n)
        return counter is counter, counter.add(n)

    agree(probe, rtol=0, atol=0)
'''
WAYS = {
    "a test that earns without work": ((H, None, "+" + CONSTANT), "mini: test_of_three (0.40 points) has the same answer under every seed"),
    "a measurement without a mark": (
        (H, None, "+" + LISTENER),
        "test_is_itself measures the student's process: mark it @measured('object identity')",
    ),
    "a misconception that is right": (
        (M, "return x * x", "if len(x) == 0:\n        raise ValueError\n    return x + x"),
        "mini.double.squares",
    ),
    "an alternative that is wrong": ((A, "return x / 0.5", "return x / 0.25"), "alternative divides, seed"),
    "an alternative that raises": ((A, "return x / 0.5", "return x.nonsense()"), "alternative divides, seed"),
    "a stub that is solved": ((E, None, RIGHT), "the stub of double is passed, not not_implemented"),
    "a stub out of date": ((E, "Return twice x.", "Return x twice."), "exercises/mini.py: the docstring of double differs"),
    "a stub that does not parse": ((E, None, "def double(:"), "exercises/mini.py"),
    "a reference that does not parse": ((S, None, "def double(:"), "solutions/mini.py"),
    "a bank that does not parse": ((M, None, "def squares(:"), "tests/misconceptions/mini.py"),
    "a reference that fails": ((S, "torch.mul(x, _TWO)", "torch.mul(x, None)"), "double is not accepted"),
    "a stray file": (("solutions/maxi.py", None, ""), "solutions/maxi.py belongs to no module of course.toml"),
    "a missing file": ((P, None, None), "tests/public/test_mini.py is missing"),
    "a hint with the solution": (
        ("course.toml", "A product has two factors.", "`return torch.mul(x, _TWO)`"),
        "holds a line of the solution",
    ),
    "a missing public test": ((P, "def test_Counter_sums_up", "def test_sums_up"), "has no test called test_Counter"),
    "a public test that fails": ((P, "== 6", "== 7"), "test_double_of_three fails on the reference"),
    "a public test that stubs pass": (
        (P, "assert double(torch.tensor([3.0])).item() == 6", "pass"),
        "test_double_of_three passes on the stub",
    ),
    "a public suite that does not parse": ((P, None, "def test_double(:"), "tests/public/test_mini.py"),
    "a test that uses another task": ((H, None, "+" + USES), "the tests of Counter use another task"),
    "a slack test": ((H, None, "+" + SLACK), "an answer that returns zeros passes test_slack"),
    "two misconceptions": ((M, '@misconception("double", "Halves.")\n', ""), "double has 2 misconceptions, and needs 3"),
    "a misconception without a reason": ((M, '"Halves."', '" "'), "halves does not say why"),
    "a misconception of no task": ((M, '@misconception("double", "Halves.")', '@misconception("triple", "Halves.")'), "which is no task"),
    "two entries of a name": ((M, "def halves(x)", "def squares(x)"), "two misconceptions are called squares: rename one"),
    "a ban that names nothing": (("course.toml", "torch.nn.Linear", "torch.nn.Linaer"), "torch.nn.Linaer"),
    "a ban that the statement hides": ((S, "    Not allowed: torch.softmax, torch.nn.Linear.\n", ""), "double bans something"),
    "a statement that bans for nothing": (
        ("course.toml", 'bans = ["torch.softmax", "torch.nn.Linear"]\n', ""),
        "double says `Not allowed:`, and bans nothing",
    ),
    "a hidden test of no task": ((H, '@task("Counter")', '@task("Countre")'), "@task('Countre') names no task of the module"),
    "a hidden test without a sentence": ((H, '    """Every element is doubled."""\n', ""), "test_doubles has no docstring"),
    "an assert without a sentence": ((H, ', "the sum is not doubled"', ""), "this assert has no message, and students would see none"),
    "a public test with a longer task's name": (
        (P, "def test_Counter_sums_up", "def test_double_Counter_sums_up"),
        "has no test called test_Counter",
    ),
    "a hidden test with a fixture of pytest's": (
        (H, "def test_doubles(agree, draw)", "def test_doubles(agree, draw, tmp_path)"),
        "test_doubles asks for the fixture 'tmp_path': hidden tests have agree, student, reference, draw, digits",
    ),
    "a hidden test with an unknown mark": (
        (H, '@task("double", weight=2)', '@pytest.mark.skipif(True, reason="")\n@task("double", weight=2)'),
        "test_doubles is marked 'skipif'",
    ),
    "a hidden suite with a set-up of its own": (
        (H, None, "+\n\n@pytest.fixture(autouse=True)\ndef seeded():\n    torch.manual_seed(0)\n"),
        "is set up by 'seeded'",
    ),
    "a README with other numbers": (
        (
            "README.md",
            None,
            "| module | about | tasks | points | minutes |\n| --- | --- | --- | --- | --- |\n| `mini` | Miniature | 2 | 6 | 3 |\n",
        ),
        "README.md: the table of modules is out of date: run `grader stubs`",
    ),
    "a weight of nothing": ((H, "weight=2", "weight=0"), "a test of double has weight 0"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_course_is_noticed(tmp_path, report_of, way):
    """One thing is broken, and named."""
    (name, old, new), sentence = WAYS[way]
    root = mini_course(tmp_path)
    path = root / name
    if new is None:
        path.unlink()
    elif old is None:
        path.write_text(path.read_text() + new[1:] if new.startswith("+") else new)
    else:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
    report = report_of(root, public=name == P, replay=new == "+" + CONSTANT)
    assert any(sentence in text for text in report["problems"] + report["survived"]), "\n".join(report["problems"] + report["survived"])


def test_a_single_task_is_checked_alone(tmp_path):
    """`--task` grades and counts that task only; another task's fault is not looked for."""
    root = mini_course(tmp_path)
    path = root / A
    path.write_text(path.read_text().replace("return x / 0.5", "return x / 0.25"))
    done = command("check", "--json", "--seeds", 1, "--jobs", 1, "--task", "Counter", cwd=root)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    counts = {key: report[key] for key in ("modules", "tasks", "tests", "misconceptions", "alternatives")}
    assert counts == {"modules": 1, "tasks": 1, "tests": 2, "misconceptions": 3, "alternatives": 2}
    assert command("check", "--json", "--seeds", 1, "--jobs", 1, "--task", "double", cwd=root).returncode == 1


def test_what_no_test_could_judge_is_counted_apart(tmp_path):
    """Where a package that all tests of a task need is missing, its mistakes are neither rejected nor survivors, and nothing is wrong."""
    root = mini_course(tmp_path)
    path = root / H
    path.write_text(path.read_text().replace('@task("double"', '@pytest.mark.needs("nonsense_or_so")\n@task("double"'))
    path = root / P
    skip = 'import pytest\n\n\n@pytest.mark.skipif(True, reason="needs nonsense_or_so")\ndef test_double'
    path.write_text(path.read_text().replace("def test_double", skip, 1))
    done = command("check", "--json", "--seed", 1, "--seeds", 1, "--jobs", 1, cwd=root)
    report = json.loads(done.stdout)
    assert (done.returncode, report["problems"], report["survived"]) == (0, [], [])
    assert report["unjudged"] == ["mini.double.halves", "mini.double.squares", "mini.double.takes_nothing"]
    assert len(report["rejected"]) == report["misconceptions"] - 3
    done = command("check", "--seed", 1, "--seeds", 1, "--jobs", 1, "--task", "double", cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(
        "0 of 3 misconceptions rejected, 2 alternatives, 1 seeds (from 1); 0 problems, 3 misconceptions unjudged"
    )


def test_a_mutant_that_no_test_could_judge_is_counted_apart(tmp_path):
    """It is no survivor, and not killed; the share is that of the others."""
    root = mini_course(tmp_path)
    path = root / H
    path.write_text(path.read_text().replace('@task("double"', '@pytest.mark.needs("nonsense_or_so")\n@task("double"'))
    options = ("--mutants", "--seed", 1, "--jobs", 1, "--task", "double")
    done = command("check", *options, "--json", cwd=root)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (report["mutants"], report["survived"], report["modules"][0]["unjudged"]) == (0, [], report["unjudged"])
    assert report["unjudged"] > 3
    done = command("check", *options, cwd=root)
    assert f"0 more need a GPU, {report['unjudged']} more are unjudged" in done.stdout.replace("\n", " ")


def test_a_public_test_belongs_to_the_longest_name():
    """Of `quantize` and `quantize_bias`."""
    tasks = [task.name for task in Course.read(ROOT).module("quantization").tasks]
    assert owner_of("test_quantize_per_channel_of_rows", tasks) == "quantize_per_channel"
    assert owner_of("test_quantize_rounds", tasks) == "quantize"
    assert owner_of("test_nothing", tasks) is None


def test_public_tests_do_not_depend_on_the_shell(tmp_path, monkeypatch):
    """Pytest's variables could select other tests."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    course = Course.read(mini_course(tmp_path))
    assert public_problems(course, course.modules) == []


# ---- code to mend


def course_to_mend(folder: Path, mark: str = "stub=True") -> Path:
    """The course in miniature, where the task double is to mend code that squares."""
    root = mini_course(folder)
    bank = root / "tests" / "misconceptions" / "mini.py"
    bank.write_text(bank.read_text().replace('"Squares.")', f'"Squares.", {mark})'))
    (root / "exercises" / "mini.py").write_text(module_stub(Course.read(root), "mini"))
    return root


def test_code_to_mend(tmp_path, report_of):
    """The stub shows the marked misconception; as it was handed out it is not implemented, and with any other change it is judged."""
    root = course_to_mend(tmp_path)
    stub = (root / "exercises" / "mini.py").read_text()
    assert "return x * x" in stub
    assert report_of(root, public=False, replay=False)["problems"] == []
    for name, text in {"same": stub, "comment": f"# mine\n{stub}", "renamed": stub.replace("(x", "(y").replace("x * x", "y * y")}.items():
        (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.py").rename(tmp_path / name / "mini.py")
    done = command("grade", *(tmp_path / name for name in ("same", "comment", "renamed")), "--seed", 1, "--json", cwd=root)
    results = {result["id"]: result["modules"][0]["tasks"][0]["tests"][0] for result in json.loads(done.stdout)["submissions"]}
    assert results["same"]["message"] == results["comment"]["message"] == "double is as it was handed out: find its mistake and mend it."
    assert {name: test["status"] for name, test in results.items()} == {
        "same": "not_implemented",
        "comment": "not_implemented",
        "renamed": "failed",
    }


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("def squares(x):", "def squares(y, z=0):", "has other parameters than double: (x) are due"),
        ('"Halves.")', '"Halves.", stub=True)', "two misconceptions of double are marked stub=True"),
        ("    return x * x", "    if not x.numel():\n        raise ValueError\n    return x + x if x.numel() == 1 else x", "passes"),
    ],
)
def test_code_to_mend_that_can_not_be(tmp_path, report_of, before, after, sentence):
    """Other parameters, two of them, and one that earns points as it is."""
    root = course_to_mend(tmp_path)
    bank = root / "tests" / "misconceptions" / "mini.py"
    bank.write_text(bank.read_text().replace(before, after))
    (root / "exercises" / "mini.py").write_text(module_stub(Course.read(root), "mini"))
    assert any(sentence in problem for problem in report_of(root, public=False, replay=False)["problems"])
