"""Mutants of the references: which are made, and what becomes of them."""

import ast
import json

import pytest
import torch

from grader.check.mutants import _limited, equivalents_problems
from grader.check.mutate import mutants_of
from grader.course.manifest import Course
from tests.grader.conftest import grader as command
from tests.grader.conftest import mini_course

HEAD = '"""A module."""\n\nimport math\n\nimport torch\n\n\n'


def _changes(body: str, head: str = "def f(x, y):") -> set[str]:
    """What the mutants of a function make of the line that they change."""
    return {mutant.after for mutant in mutants_of(f'{HEAD}{head}\n    """Do it."""\n{body}', ["f"])}


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("return x + y", {"return x - y"}),
        ("return x // (y - 1)", {"return x / (y - 1)", "return x // (y + 1)", "return x // (y - 2)", "return x // (y - 0)"}),
        ("return x < y", {"return x <= y"}),
        ("return 1.5", {"return 3.0"}),
        ("return x and not y", {"return x or not y", "return x and (y)"}),
        ("return -x", {"return (x)"}),
        ("return x if y else 0", {"return x if not (y) else 0", "return x if y else 1"}),
        ("return x.float()", {"return (x)", "return x.double()"}),
        ("return math.floor(x)", {"return (x)", "return math.ceil(x)"}),
        ("return x[y:]", {"return x[:]"}),
        ("return f(y, x)", {"return f(x, y)", "return (y)"}),
        ("return max(x, y)", {"return min(x, y)", "return (x)"}),
        ("return f(x, y=True)", {"return f(x)", "return f(x, y=False)", "return (x)"}),
        ("return [z for z in x if z]", {"return [z for z in x if not (z)]"}),
        ("return f'{x + 1} of 3'", set()),
    ],
)
def test_changes_of_an_expression(line, after):
    """Operators, constants, comparisons, keywords, swapped arguments, calls whose result is ignored; messages stay."""
    assert _changes(f"    {line}\n") == after


def test_changes_of_statements():
    """Calls, second assignments and guards are dropped; a first assignment is not, because what follows could not run."""
    body = """
    z = x
    z = z @ y
    if x:
        raise ValueError('no ' + x)
    y.append(z)
    z += x
    with torch.no_grad():
        return z
"""
    changes = _changes(body)
    assert {"pass", "if not (x):", "z -= x", "with __import__('contextlib').nullcontext():"} <= changes
    mutants = mutants_of(f'{HEAD}def f(x, y):\n    """Do it."""\n{body}', ["f"])
    assert {mutant.before for mutant in mutants if mutant.after == "pass"} == {
        "z = z @ y",
        "if x: raise ValueError('no ' + x)",
        "raise ValueError('no ' + x)",
        "y.append(z)",
        "z += x",
    }


def test_defaults_and_decorators_are_changed():
    """They are part of the answer; annotations and docstrings are not."""
    changes = _changes("    return x\n", "@torch.no_grad()\ndef f(x: 'list[3]', y: float = 0.5):")
    assert changes == {"@(lambda decorated: decorated)", "def f(x: 'list[3]', y: float = 1.0):"}


def test_a_mutant_is_a_module_with_its_task_alone():
    """Lines keep their numbers; a helper's mutant has all tasks that use the helper; bytes and characters are not mixed up."""
    solution = (
        f'{HEAD}def _half(x):\n    return x / 2  # ½\n\n\ndef f(x):\n    return _half(x), "½", x + 1\n\n\ndef g(x):\n    return _half(x)\n'
    )
    mutants = mutants_of(solution, ["f", "g"])
    assert {mutant.tasks for mutant in mutants if "_half" not in mutant.before and "/" in mutant.before} == {("f", "g")}
    for mutant in mutants:
        tree = ast.parse(mutant.text)
        assert {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} == {"_half", *mutant.tasks}
        assert mutant.text.count("\n") == solution.count("\n")
    (own,) = [mutant for mutant in mutants if mutant.after == 'return _half(x), "½", x - 1']
    assert own.text.splitlines()[own.line - 1].strip() == own.after
    assert (own.tasks, own.what) == (("f",), "x + 1 becomes x - 1")


def _check(root, *options) -> tuple[int, dict]:
    done = command("check", "--mutants", "--json", "--seed", 1, "--jobs", 1, "--task", "double", *options, cwd=root)
    return done.returncode, json.loads(done.stdout)


LINE = "return x + x if x.sum() < 1e30 else x * 2"
EQUIVALENT = """
[[equivalent]]
task = "{}"
line = "{}"
becomes = "{}"
why = "{}"
"""

GPU_TEST = """

@task("{0}")
@pytest.mark.gpu
def test_{0}_on_a_gpu(agree, draw):
    \"\"\"On CUDA.\"\"\"
    x = draw.normal(3).cuda()
    agree(lambda m: m.{0}(x), rtol=0, atol=0)
"""


def test_what_no_test_notices_survives(tmp_path):
    """By the real command, with lines; a sample is always the same; what is listed as equivalent counts as such, unless it is killed."""
    root = mini_course(tmp_path)
    solution = root / "solutions/mini.py"
    solution.write_text(solution.read_text().replace("return torch.mul(x, _TWO)", LINE))
    status, report = _check(root)
    assert status == 1
    survivors = {mutant["what"]: mutant for mutant in report["survived"]}
    assert {"x * 2 becomes x / 2", "1e30 becomes 2e+30"} <= survivors.keys()
    assert survivors["x * 2 becomes x / 2"]["line"] == 1 + solution.read_text().split("\n").index(
        "    return x + x if x.sum() < 1e30 else x * 2"
    )
    assert report["mutants"] == report["killed"] + report["equivalent"] + len(report["survived"])
    sampled = _check(root, "--sample", 5)
    assert (sampled[1]["mutants"], sampled) == (5, _check(root, "--sample", 5))

    entries = [
        EQUIVALENT.format(mutant["task"], mutant["before"], mutant["after"], "No test has numbers of this size.")
        for mutant in report["survived"]
    ]
    path = root / "tests/equivalents/mini.toml"
    path.parent.mkdir()
    path.write_text("".join(entries))
    status, report = _check(root)
    assert (status, report["survived"], report["problems"], report["equivalent"]) == (0, [], [], len(entries))

    killed = LINE.replace("x + x", "x - x")
    path.write_text("".join([*entries, EQUIVALENT.format("double", LINE, killed, "It is.")]))
    status, report = _check(root)
    assert (status, len(report["problems"])) == (1, 1)
    assert report["problems"][0] == f"tests/equivalents/mini.toml: a test kills {killed!r} (double): take it out of the list"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the mutants are judged")
def test_what_needs_a_gpu_is_not_counted(tmp_path):
    """A mutant that only a GPU test can kill is counted apart, if the task has such a test; else it survives."""
    root = mini_course(tmp_path)
    solution = root / "solutions/mini.py"
    solution.write_text(solution.read_text().replace("return torch.mul(x, _TWO)", LINE))
    _, before = _check(root)
    entries = [EQUIVALENT.format(m["task"], m["before"], m["after"], "The way to CUDA.") for m in before["survived"]]
    path = root / "tests/equivalents/mini.toml"
    path.parent.mkdir()
    path.write_text("".join(f"{entry}needs_gpu = true\n" for entry in entries))
    assert _check(root)[1]["survived"] == before["survived"]

    suite = root / "tests/hidden/test_mini.py"
    tasks = {mutant["task"] for mutant in before["survived"]}
    suite.write_text(suite.read_text() + "".join(GPU_TEST.format(task) for task in sorted(tasks)))
    status, report = _check(root)
    assert (status, report["survived"], report["problems"], report["equivalent"]) == (0, [], [], 0)
    assert (report["needs_gpu"], report["mutants"]) == (len(entries), before["mutants"] - len(entries))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            EQUIVALENT.format("double", "return torch.mul(x, _TWO)", "return x", "It is."),
            "there is no mutant 'return x' of 'return torch.mul(x, _TWO)' in double any more",
        ),
        (EQUIVALENT.format("treble", "return torch.mul(x, _TWO)", "return (x)", "It is."), "there is no mutant"),
        (EQUIVALENT.format("double", "return torch.mul(x, _TWO)", "return (x)", " "), "has no reason"),
        ("[[equivalent]]\ntask = 3", "tests/equivalents/mini.toml can't be read: "),
        ("[[equivalent", "tests/equivalents/mini.toml can't be read: "),
    ],
)
def test_a_list_that_is_out_of_date(tmp_path, text, problem):
    """The gate complains of it, also where no mutant is judged."""
    course = Course.read(mini_course(tmp_path))
    path = course.equivalents("mini")
    path.parent.mkdir()
    path.write_text(text)
    (found,) = equivalents_problems(course, course.modules[0])
    assert problem in found


def test_checks_that_exclude_each_other(tmp_path):
    """A clear sentence, and nothing is graded."""
    root = mini_course(tmp_path)
    both = command("check", "--mutants", "--evidence", cwd=root)
    assert (both.returncode, "are different checks" in both.stderr) == (2, True)
    alone = command("check", "--sample", 3, cwd=root)
    assert (alone.returncode, "add --mutants" in alone.stderr) == (2, True)


def test_a_busy_machine_kills_no_mutant(course):
    """The wall clock that ends a mutant leaves room for a machine that gives it a tenth of its time; CPU time ends its loops."""
    module = course.modules[0]
    mutant = mutants_of(course.solution(module.name).read_text(), ["double"])[0]
    (task,) = _limited(module, mutant).tasks
    assert task.limits.test_seconds >= 10 * task.limits.test_cpu_seconds
