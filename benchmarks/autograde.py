"""What `nbgrader autograde` takes with our workers in the kernel's place, against stock nbgrader on the same students' notebooks.

Stock means nbgrader as installed: it starts a kernel for each notebook and runs every cell; its graded cells hold the public tests of
their task as plain assertions, as somebody who knows nbgrader would write them. Ours grades with the hidden suites, which are many more
tests, in confined workers. Both run in this process, one after the other. Prints wall clock, and where it goes.

Usage: python benchmarks/autograde.py [--module M] [--submissions N]; needs the extra `nbgrader`
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbgrader import preprocessors
from nbgrader.api import Gradebook
from nbgrader.apps import AutogradeApp, GenerateAssignmentApp
from nbgrader.converters.autograde import Autograde

from grader.course.manifest import Course, Module, load_course
from grader.exports.nbgrader.notebooks import graded_id, make_notebook, solution_id


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="tensor_ops")
    parser.add_argument("--submissions", type=int, default=40)
    parser.add_argument("--seed", type=int, help="the seed of the inputs (default: a fresh one)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # nbgrader's use of its database
    course = load_course()
    module = course.module(options.module)
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # nbgrader calls alembic
    public, hidden = _public_tests(course, module), _hidden_tests(course, module)
    print(f"{options.submissions} submissions of {module.name}, which has {len(module.tasks)} tasks; {os.cpu_count()} processors")
    print(f"stock nbgrader runs {public} public tests on each, our workers {hidden} hidden tests")
    with tempfile.TemporaryDirectory() as scratch:
        measured = []
        for name, prepare in (("stock nbgrader", _stock_course), ("our workers", _our_course)):
            folder = Path(scratch, name)
            prepare(course, module, folder)
            if options.seed is not None:
                with (folder / "nbgrader_config.py").open("a") as config:
                    config.write(f"c.GradeInWorkers.seed = {options.seed}\n")
            _submit(course, module, folder, options.submissions)
            measured.append(_measure(name, module, folder, options.submissions))
    stock, ours = measured
    print(f"\nstock ÷ ours: {stock / ours:.1f}")


# ---- the two courses


def _our_course(course: Course, module: Module, folder: Path) -> None:
    command = [sys.executable, "-m", "grader", "export", "nbgrader", str(folder), "--module", module.name, "--course", str(course.root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    _run(GenerateAssignmentApp, module, folder)


def _stock_course(course: Course, module: Module, folder: Path) -> None:
    """The same notebook; its test cells give way to assertions in the graded cells, and nothing of ours is configured."""
    notebook = make_notebook(course, module)
    suite = ast.parse(course.public_suite(module.name).read_text())
    tests = [node for node in suite.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    rest = [node for node in suite.body[1:] if node not in tests and getattr(node, "module", "") != module.name]
    notebook.cells = [cell for cell in notebook.cells if not _names(cell).startswith(("tests-", "setup"))]
    notebook.cells.insert(1, nbformat.v4.new_code_cell("\n".join(map(ast.unparse, rest)), id="helpers"))
    for cell in notebook.cells:
        for task in module.tasks:
            if _names(cell) == graded_id(task.name):
                own = [test for test in tests if _task_of(test.name, module) == task.name]
                cell.source = "\n".join(["### BEGIN HIDDEN TESTS", *map(_as_assertions, own), "### END HIDDEN TESTS"])
    path = folder / "source" / module.name / f"{module.name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    quiet = '["--HistoryManager.hist_file=:memory:", "--IPKernelApp.log_level=ERROR"]'  # the first is nbgrader's own
    (folder / "nbgrader_config.py").write_text(f"c = get_config()\nc.Execute.extra_arguments = {quiet}\n")
    _run(GenerateAssignmentApp, module, folder)


def _names(cell: Any) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def _task_of(test: str, module: Module) -> str:
    return max((task.name for task in module.tasks if f"{test}_".startswith(f"test_{task.name}_")), key=len, default="")


def _as_assertions(test: ast.FunctionDef) -> str:
    arguments = "__import__('pathlib').Path(__import__('tempfile').mkdtemp())" if test.args.args else ""  # tmp_path is the only fixture
    return f"{ast.unparse(test)}\n\n{test.name}({arguments})\n"


def _submit(course: Course, module: Module, folder: Path, count: int) -> None:
    """Hand in what students' notebooks look like: each has left out other tasks, from none to all."""
    solved = {_names(cell): cell.source for cell in make_notebook(course, module).cells}
    released = folder / "release" / module.name
    for number in range(count):
        target = folder / "submitted" / f"student{number:02}" / module.name
        shutil.copytree(released, target)
        notebook = nbformat.read(target / f"{module.name}.ipynb", as_version=4)
        for position, task in enumerate(module.tasks):
            for cell in notebook.cells:
                if _names(cell) == solution_id(task.name) and (position * 7 + number) % 5:
                    cell.source = f"# student {number}\n{solved[_names(cell)]}"
        nbformat.write(notebook, target / f"{module.name}.ipynb")


# ---- measuring


def _measure(name: str, module: Module, folder: Path, count: int) -> float:
    """Autograde everything that was handed in. Returns the seconds that it took."""
    with _stopwatch() as parts:
        start = time.perf_counter()
        _run(AutogradeApp, module, folder)
        seconds = time.perf_counter() - start
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        submissions = gradebook.assignment_submissions(module.name)
        scores = [submission.score for submission in submissions]
    assert len(scores) == count, f"{name} graded {len(scores)} of {count}"
    print(f"\n{name:24s} {seconds:8.2f} s, {seconds / count:6.3f} s a notebook; mean score {sum(scores) / count:.2f} of {module.points:g}")
    for part, value in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {part:24s} {value:8.2f} s, {value / count:6.3f} s")
    print(f"  {'the rest':24s} {seconds - sum(parts.values()):8.2f} s, {(seconds - sum(parts.values())) / count:6.3f} s")
    return seconds


def _run(app_class: Any, module: Module, folder: Path) -> None:
    """Run one of nbgrader's commands in this process, in the course's folder."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        app = app_class(log_level="ERROR")
        app.initialize([module.name])
        app.start()
        app.reset()
    finally:
        os.chdir(here)


@contextmanager
def _stopwatch() -> Iterator[dict[str, float]]:
    """Adds up the time spent in the parts of an autograding."""
    seconds: dict[str, float] = defaultdict(float)
    originals = []

    def watch(owner: Any, attribute: str, part: str) -> None:
        original = getattr(owner, attribute)
        originals.append((owner, attribute, original))

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                seconds[part] += time.perf_counter() - start

        setattr(owner, attribute, timed)

    watch(Autograde, "init_assignment", "database: submission")
    for name, part in _PARTS.items():
        watch(getattr(preprocessors, name), "preprocess", part)
    from grader.exports.nbgrader.preprocessor import GradeInWorkers

    watch(GradeInWorkers, "preprocess", "grading")
    try:
        yield seconds
    finally:
        for owner, attribute, original in originals:
            setattr(owner, attribute, original)


_PARTS = {
    "Execute": "grading",
    "OverwriteCells": "database: cells",
    "SaveAutoGrades": "database: grades",
    "AssignLatePenalties": "database: penalties",
}


def _public_tests(course: Course, module: Module) -> int:
    return sum(line.startswith("def test_") for line in course.public_suite(module.name).read_text().splitlines())


def _hidden_tests(course: Course, module: Module) -> int:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(course.hidden_suite(module.name)), "--submission", "solutions"]
    done = subprocess.run(command, cwd=course.root, capture_output=True, text=True, check=True)
    return sum("::" in line for line in done.stdout.splitlines())


if __name__ == "__main__":
    main()
