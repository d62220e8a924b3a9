"""The content gate: proves that suites reject what they must, accept what they must, and that files and manifest agree.

Everything is graded as a student's submission would be, in confined workers; the banks never run in this process.
"""

import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from xml.etree import ElementTree

import msgspec
from msgspec import Struct

from grader.base.outcome import Status
from grader.course.content import (
    Bank,
    BankEntry,
    answer_only,
    answer_with,
    docstrings,
    make_stub,
    read_bank,
    solution_lines,
    trivial_answers,
)
from grader.course.manifest import Course, Module
from grader.grading.draw import derive_seed
from grader.protocol.confinement import Layers
from grader.protocol.watch import exists
from grader.runner.jobs import grade_units
from grader.runner.units import Unit
from grader.runner.results import ModuleResult, TaskResult
from grader.runner.store import Entry
from grader.submissions.ingest import Source

__all__ = ["MINIMUM_ALTERNATIVES", "MINIMUM_MISCONCEPTIONS", "Report", "check"]

MINIMUM_MISCONCEPTIONS, MINIMUM_ALTERNATIVES = 3, 2
_FOLDERS = ("solutions", "exercises", "tests/public", "tests/hidden", "tests/misconceptions", "tests/alternatives")


class Report(Struct):
    """What the gate counted and found. It is content where `survived` and `problems` are empty."""

    modules: int = 0
    tasks: int = 0
    tests: int = 0
    misconceptions: int = 0
    alternatives: int = 0
    survived: list[str] = []
    """Misconceptions that no test of their task rejects."""
    rejected: list[str] = []
    """Misconceptions that are rejected."""
    problems: list[str] = []
    """Everything else that has to be mended, a sentence each."""


def check(
    course: Course,
    modules: tuple[Module, ...],
    *,
    seed: int,
    seeds: int,
    jobs: int,
    layers: Layers | None,
    on_progress: Callable[[int, int], None],
) -> Report:
    """Check these modules, references and alternatives under `seeds` seeds that come from `seed`. Raises: Refused."""
    report = Report(modules=len(modules), tasks=sum(len(module.tasks) for module in modules))
    if modules == course.modules:
        report.problems += _stray_files(course)
    trials: list[_Trial] = []
    readable: list[Module] = []
    for module in modules:
        problems = _unreadable_files(course, module)
        report.problems += problems
        if not problems:
            readable.append(module)
            report.problems += _static_problems(course, module)
            trials += _trials(course, module, report, seed, seeds)
    verdicts = {(trial.unit.submission, trial.unit.module.name): trial.judge for trial in trials}
    done = 0

    def on_done(unit: Unit, entry: Entry) -> None:
        nonlocal done
        done += 1
        verdicts[unit.submission, unit.module.name](entry.result)
        on_progress(done, len(trials))

    beside = ThreadPoolExecutor(1)  # the public tests run in a process of their own, and need no job
    try:
        public = [beside.submit(_public_problems, course, module) for module in readable]
        grade_units([trial.unit for trial in trials], course, jobs=jobs, layers=layers, on_done=on_done)
        report.problems += [problem for problems in public for problem in problems.result()]
    finally:
        beside.shutdown(cancel_futures=True)  # a refusal or an interrupt does not wait for those that are left
    for name in (report.survived, report.rejected, report.problems):
        name.sort()
    return report


_Judge = Callable[[ModuleResult], None]


class _Trial:
    """One source to grade, and what is expected of its result."""

    def __init__(
        self, module: Module, name: str, text: str, seed: int, judge: _Judge, *, shuffled: bool = False, until_failure: bool = False
    ) -> None:
        self.unit = Unit(name, module, Source(text), seed, shuffled, until_failure)
        self.judge = judge


# ---- what is graded


def _trials(course: Course, module: Module, report: Report, seed: int, seeds: int) -> Iterable[_Trial]:
    solution = course.solution(module.name).read_text()
    fresh = [derive_seed(seed, number) for number in range(seeds)]
    wrong = read_bank(course.misconceptions(module.name).read_text(), "misconception")
    right = read_bank(course.alternatives(module.name).read_text(), "alternative")
    report.misconceptions += len(wrong.entries)
    report.alternatives += len(right.entries)
    report.problems += _bank_problems(module, wrong, right)

    def count_tests(result: ModuleResult) -> None:
        report.tests += sum(len(task.tests) for task in result.tasks)

    yield _Trial(module, "the stub", course.stub(module.name).read_text(), seed, _expect_unimplemented(module, report))
    yield _Trial(module, "the reference, in order", solution, seed, count_tests)
    for number in fresh:
        name = f"the reference, seed {number}"
        yield _Trial(module, name, solution, number, _expect_full(module, name, report), shuffled=True)
    for column in _columns(module, right):
        text = answer_with(solution, right, column)
        answered = _only(module, [entry.task for entry in column])
        for number in fresh:
            name = f"alternatives {', '.join(entry.name for entry in column)}, seed {number}"
            names = {entry.task: f"alternative {entry.name}, seed {number}" for entry in column}
            yield _Trial(answered, name, text, number, _expect_full(module, name, report, names))
    for task in module.tasks:  # its tests alone: what a misconception could do to another task's is settled by "on its own"
        only = _only(module, [task.name])
        text = answer_only(solution, task.name, [other.name for other in module.tasks if other != task])
        name = f"{task.name} on its own"
        yield _Trial(only, name, text, seed, _expect_full(module, name, report))
        for entry in (entry for entry in wrong.entries if entry.task == task.name):
            text = answer_with(solution, wrong, [entry])
            yield _Trial(only, f"misconception {entry.name}", text, seed, _expect_rejection(module, entry, report), until_failure=True)
    for name, text in trivial_answers(solution, [task.name for task in module.tasks]).items():
        yield _Trial(module, f"trivial: {name}", text, seed, _expect_nothing(module, name, report))


def _only(module: Module, tasks: list[str]) -> Module:
    return msgspec.structs.replace(module, tasks=tuple(task for task in module.tasks if task.name in tasks))


def _columns(module: Module, bank: Bank) -> list[list[BankEntry]]:
    """The first alternatives of all tasks, the second ones, and so on: each list is one submission."""
    rows = [[entry for entry in bank.entries if entry.task == task.name] for task in module.tasks]
    return [[entry for entry in column if entry is not None] for column in zip_longest(*rows)]


# ---- what is expected


def _expect_full(module: Module, name: str, report: Report, by_task: dict[str, str] | None = None) -> _Judge:
    def judge(result: ModuleResult) -> None:
        for task in result.tasks:
            if bad := _first_bad(task):
                who = by_task[task.name] if by_task else name
                report.problems.append(f"{module.name}: {who}: {task.name} is not accepted: {bad}")

    return judge


def _first_bad(task: TaskResult) -> str | None:
    return next((f"{t.id}: {t.status}: {t.message}" for t in task.tests if t.status not in (Status.PASSED, Status.SKIPPED)), None)


def _expect_unimplemented(module: Module, report: Report) -> _Judge:
    def judge(result: ModuleResult) -> None:
        for task in result.tasks:
            for test in task.tests:
                if test.status not in (Status.NOT_IMPLEMENTED, Status.SKIPPED):
                    problem = f"{module.name}: the stub of {task.name} is {test.status}, not not_implemented, in {test.id}: {test.message}"
                    report.problems.append(problem.removesuffix(": "))

    return judge


def _expect_rejection(module: Module, entry: BankEntry, report: Report) -> _Judge:
    name = f"{module.name}.{entry.task}.{entry.name}"

    def judge(result: ModuleResult) -> None:
        rejecting = 0
        for task in result.tasks:
            for test in task.tests:
                if test.status in (Status.FAILED, Status.ERROR, Status.OUT_OF_MEMORY):
                    rejecting += 1
                elif test.status not in (Status.PASSED, Status.SKIPPED):
                    report.problems.append(f"{name} is {test.status} in {test.id}, which is no verdict on the mistake: {test.message}")
        (report.rejected if rejecting else report.survived).append(name)

    return judge


def _expect_nothing(module: Module, name: str, report: Report) -> _Judge:
    def judge(result: ModuleResult) -> None:
        for task in result.tasks:
            passed = [test.id for test in task.tests if test.status is Status.PASSED]
            if passed:
                report.problems.append(f"{module.name}: an answer that {name} passes {passed[0]}")
            if any(test.status is Status.GRADER_ERROR for test in task.tests):
                report.problems.append(f"{module.name}: an answer that {name} is a grader_error in {task.name}: {_first_bad(task)}")

    return judge


# ---- what is read


def _stray_files(course: Course) -> list[str]:
    """Files that the manifest does not know."""
    problems = []
    for folder in _FOLDERS:
        expected = {f"{module.name}.py" for module in course.modules} | {f"test_{module.name}.py" for module in course.modules}
        for path in sorted((course.root / folder).glob("*.py")):
            if path.name not in expected | {"conftest.py", "__init__.py"}:
                problems.append(f"{folder}/{path.name} belongs to no module of course.toml: add the module, or take the file out")
    return problems


def _unreadable_files(course: Course, module: Module) -> list[str]:
    """What stands in the way of checking a module: files that are missing or do not parse."""
    name = module.name
    paths = [course.solution(name), course.stub(name), course.public_suite(name), course.hidden_suite(name)]
    paths += [course.misconceptions(name), course.alternatives(name)]
    problems = []
    for path in paths:
        place = path.relative_to(course.root)
        try:
            ast.parse(path.read_text())
        except FileNotFoundError:
            problems.append(f"{place} is missing: write it, or make it with `grader stubs`")
        except (SyntaxError, ValueError, OSError) as error:
            problems.append(f"{place} can't be read: {error}")
    return problems


def _static_problems(course: Course, module: Module) -> list[str]:
    solution, stub = course.solution(module.name).read_text(), course.stub(module.name).read_text()
    tasks = [task.name for task in module.tasks]
    ours, theirs = docstrings(solution, tasks), docstrings(stub, tasks)
    problems = [f"solutions/{module.name}.py: {name} is missing or has no docstring" for name in tasks if not ours.get(name)]
    if ours != theirs:
        different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        problems.append(f"exercises/{module.name}.py: the docstring of {different[0]} differs from the reference's: run `grader stubs`")
    if stub != make_stub(solution, tasks):
        problems.append(f"exercises/{module.name}.py is out of date: run `grader stubs`")
    for task in module.tasks:
        problems += [
            f"{module.name}: {ban}, a ban of {task.name}, names nothing: mend its spelling" for ban in task.bans if not exists(ban)
        ]
        squeezed = [_squeeze(hint) for hint in task.hints]
        for line in solution_lines(solution, task.name):
            if len(_squeeze(line)) >= 10 and any(_squeeze(line) in hint for hint in squeezed):
                problems.append(f"{module.name}: a hint of {task.name} holds a line of the solution: {line}")
    return problems


def _squeeze(text: str) -> str:
    return re.sub(r"[\s`]+", "", text)


def _bank_problems(module: Module, wrong: Bank, right: Bank) -> list[str]:
    problems = []
    tasks = [task.name for task in module.tasks]
    for bank, kind, minimum in ((wrong, "misconception", MINIMUM_MISCONCEPTIONS), (right, "alternative", MINIMUM_ALTERNATIVES)):
        names = [entry.name for entry in bank.entries]
        problems += [f"{module.name}: two {kind}s are called {name}: rename one" for name in sorted(set(names)) if names.count(name) > 1]
        for entry in bank.entries:
            if entry.task not in tasks:
                problems.append(f"{module.name}: the {kind} {entry.name} is for {entry.task}, which is no task of the module")
            if kind == "misconception" and not entry.why.strip():
                problems.append(f"{module.name}: the misconception {entry.name} does not say why it is wrong")
        for task in tasks:
            count = sum(entry.task == task for entry in bank.entries)
            if count < minimum:
                problems.append(f"{module.name}: {task} has {count} {kind}s, and needs {minimum}")
    return problems


def _public_problems(course: Course, module: Module) -> list[str]:
    """The public tests pass on the reference, fail on the stub, and leave no task out."""
    problems = []
    passed, failed = _run_public(course, module, "solutions")
    problems += [f"tests/public/test_{module.name}.py: {name} fails on the reference" for name in failed]
    for task in module.tasks:
        if not any(name.startswith(f"test_{task.name}") for name in passed + failed):
            problems.append(f"tests/public/test_{module.name}.py has no test called test_{task.name}…")
    passed, _ = _run_public(course, module, "exercises")
    problems += [f"tests/public/test_{module.name}.py: {name} passes on the stub" for name in passed]
    return problems


def _run_public(course: Course, module: Module, code: str) -> tuple[list[str], list[str]]:
    """Names of the public tests that pass and fail with the modules in this folder."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(course.public_suite(module.name)), "--code", code, f"--junitxml={report}"]
        command += ["-q", "-p", "no:cacheprovider", "--rootdir", str(course.root), "-c", str(course.root / "pyproject.toml")]
        subprocess.run(command, cwd=course.root, capture_output=True, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad = {case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None}
    skipped = {case.get("name", "") for case in cases if case.find("skipped") is not None}
    return sorted({case.get("name", "") for case in cases} - bad - skipped), sorted(bad)
