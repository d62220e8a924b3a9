"""Writes a new course, module or task. What it writes is a small example that passes `grader check`, to be replaced."""

import builtins
import keyword
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from grader.base.files import write_atomically
from grader.course.manifest import MANIFEST, Course, Limits, ManifestError

__all__ = ["new_course", "new_module", "new_task"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LIBRARIES = ("torch", "torchvision", "numpy", "pytest", "grader", "tests", "exercises", "solutions")
_TASK = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def new_course(folder: Path, title: str) -> list[Path]:
    """Write a course with one module of one task. Returns: the files. Raises: ManifestError if something is there already."""
    if not title.isprintable() or not title.strip():
        raise ManifestError("the title must be one line of text that can be seen")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ManifestError(f"{folder} is not empty: name a new folder")
    values = {"title": msgspec.json.encode(title).decode(), "name": title, "torch": _plain("torch"), "torchvision": _plain("torchvision")}
    files = {name: _fill(text, values) for name, text in _COURSE.items()}
    written = _write(folder, files)
    empty = Course(root=folder, title=title, limits=Limits(), modules=(), data=folder / "data")
    return list(dict.fromkeys([*written, *new_module(empty, "warmup")]))


def new_module(course: Course, name: str) -> list[Path]:
    """Write a module of one task, last in the course. Returns: the files that were written or changed. Raises: ManifestError."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ManifestError(f"{name!r} can't name a module: use small letters, digits and _, with a letter first, as in tensor_ops")
    if name in sys.stdlib_module_names or name in _LIBRARIES:
        raise ManifestError(f"{name!r} is the name of a library, which the module would hide: choose another")
    if name in [module.name for module in course.modules]:
        raise ManifestError(f"there is a module {name} already: `grader new task {name} TASK` adds a task to it")
    task = f"first_of_{name}"
    paths = _paths(course, name)
    if present := [path for path in paths.values() if path.exists()]:
        raise ManifestError(f"{present[0]} exists, and belongs to no module: move it away, or choose another name")
    values = {"module": name, "title": name.replace("_", " ").capitalize(), "task": task, "Task": _camel(task)}
    manifest = (course.root / MANIFEST).read_text().rstrip() + "\n\n" + _fill(_MODULE, values) + "\n" + _fill(_TASK_TABLE, values)
    files = {path.relative_to(course.root).as_posix(): _fill(_HEADS[kind] + _PARTS[kind], values) for kind, path in paths.items()}
    return _write(course.root, {MANIFEST: manifest, **files})


def new_task(course: Course, module: str, task: str) -> list[Path]:
    """Write a task, last in its module. Returns: the files that were changed. Raises: ManifestError."""
    course.module(module)
    if not _TASK.fullmatch(task) or keyword.iskeyword(task):
        raise ManifestError(f"{task!r} can't name a task: it becomes a function, as in masked_mean, or a class, as in Dropout")
    if task in _LIBRARIES or task in dir(builtins):
        raise ManifestError(f"{task!r} is a name that Python or a library uses: choose another")
    for known in [known.name for other in course.modules for known in other.tasks]:
        if known == task:
            raise ManifestError(f"there is a task {task} already: choose another name")
        if _camel(known).lower() == _camel(task).lower():
            raise ManifestError(f"{task} can be taken for the task {known}: choose another name")
    values = {"module": module, "task": task, "Task": _camel(task)}
    before, after = _split(course, module)
    files = {MANIFEST: f"{before.rstrip()}\n\n{_fill(_TASK_TABLE, values)}" + (f"\n{after}" if after else "")}
    for kind, path in _paths(course, module).items():
        try:
            text = path.read_text()
        except OSError as error:
            raise ManifestError(f"{path} can't be read ({error.strerror}): `grader check --module {module}` says what is missing") from None
        files[path.relative_to(course.root).as_posix()] = f"{text.rstrip()}\n{_fill(_PARTS[kind], values)}"
    return _write(course.root, files)


def _paths(course: Course, module: str) -> dict[str, Path]:
    """The files that an author writes, by what they hold."""
    return {
        "solution": course.solution(module),
        "public": course.public_suite(module),
        "hidden": course.hidden_suite(module),
        "misconceptions": course.misconceptions(module),
        "alternatives": course.alternatives(module),
    }


def _split(course: Course, module: str) -> tuple[str, str]:
    """The manifest up to the end of a module, and the rest. Raises: ManifestError if it is not written in the usual way."""
    text = (course.root / MANIFEST).read_text()
    starts = [match.start() for match in re.finditer(r"^\[\[modules\]\]", text, re.MULTILINE)]
    names = re.findall(r'^\[\[modules\]\]\s*\nname\s*=\s*["\']([^"\']+)', text, re.MULTILINE)
    if len(names) != len(starts) or module not in names:
        raise ManifestError(
            f"{MANIFEST}: each module must begin with the lines [[modules]] and name = …, so that a task can be put into it"
        )
    end = [*starts[1:], len(text)][names.index(module)]
    return text[:end], text[end:]


def _write(root: Path, files: Mapping[str, str]) -> list[Path]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(root / name, text.encode())
    return [root / name for name in files]


def _fill(template: str, values: Mapping[str, str]) -> str:
    return re.sub(r"<<(\w+)>>", lambda match: values[match[1]], template)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _plain(package: str) -> str:
    """The version of a package without the mark of its build, such as +cpu."""
    return version(package).partition("+")[0]


# ---- a task

_TASK_TABLE = """\
[[modules.tasks]]
name = "<<task>>"
points = 1
minutes = 5
hints = [
  "A nudge: a question that leads to the idea.",
  "The idea, without its code.",
  "The shape of the answer, such as the steps in their order. Never a line of the solution.",
]
"""
_MODULE = """\
[[modules]]
name = "<<module>>"
title = "<<title>>"
story = "What one learns here, in one sentence."
"""
_HEADS = {
    "solution": '"""<<title>>: what the tasks of this module have in common."""\n\nimport torch\nfrom torch import Tensor\n',
    "public": '"""Public tests of <<module>>: examples with literal values."""\n\nimport <<module>>\nimport torch\n',
    "hidden": '"""Hidden tests of <<module>>."""\n\nimport pytest\nimport torch\n\nfrom grader.testing import LAYOUTS, task\n',
    "misconceptions": '"""Wrong answers to <<module>>."""\n\nimport torch\n\nfrom grader.testing import misconception\n',
    "alternatives": '"""Right answers to <<module>>."""\n\nimport torch\n\nfrom grader.testing import alternative\n',
}
_PARTS = {
    "solution": '''

def <<task>>(x: Tensor, factor: float) -> Tensor:
    """Multiply every entry of x by factor. Replace this example: the docstring is the statement, and the body is the reference.

        <<task>>(torch.tensor([1.0, 2.0]), 3.0)     # [3.0, 6.0]

    Args:
        x: (N,), float32.
        factor: any number.

    Returns: a new tensor, (N,), float32.
    """
    return torch.mul(x, factor)
''',
    "public": '''

def test_<<task>>_multiplies():
    """Three times 1 and 2 are 3 and 6."""
    assert <<module>>.<<task>>(torch.tensor([1.0, 2.0]), 3.0).tolist() == [3.0, 6.0]
''',
    "hidden": '''

@task("<<task>>")
class Test<<Task>>:
    @pytest.mark.parametrize("n", [1, 7])
    def test_every_entry(self, agree, draw, n):
        """Every entry is multiplied by the factor."""
        x, factor = draw.normal(n), float(draw.normal(1, dtype=torch.float64))
        agree(lambda m: m.<<task>>(x, factor), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The tensor may be non-contiguous."""
        x = draw.normal(6, 2, layout=layout)[:, 0]
        agree(lambda m: m.<<task>>(x, 2.5), rtol=1e-6, atol=1e-7)
''',
    "misconceptions": """

@misconception("<<task>>", "Adds the factor instead of multiplying by it.")
def <<task>>_adds(x, factor):
    return x + factor


@misconception("<<task>>", "Divides by the factor.")
def <<task>>_divides(x, factor):
    return x / factor


@misconception("<<task>>", "Rounds the factor to a whole number.")
def <<task>>_rounds(x, factor):
    return x * round(factor)
""",
    "alternatives": """

@alternative("<<task>>")
def <<task>>_operator(x, factor):
    return x * factor


@alternative("<<task>>")
def <<task>>_loop(x, factor):
    return torch.stack([entry * factor for entry in x])
""",
}

# ---- a course

_COURSE = {
    MANIFEST: """\
title = <<title>>

# How many entries the banks must have for each task. A suite is worth what it rejects: fewer than these is a warning.
[gate]
misconceptions = 3
alternatives = 2

# What student code may use besides Python's standard library, numpy, torch and torchvision.
[environment]
packages = []
""",
    "pyproject.toml": """\
# Settings of pytest.
[tool.pytest.ini_options]
testpaths = ["tests/public"]
addopts = "-p grader.practice.pytest_plugin --import-mode=importlib --strict-markers --tb=short"
timeout = 600
""",
    "constraints.txt": "# Scores depend on these two, so everybody has the same.\ntorch==<<torch>>\ntorchvision==<<torchvision>>\n",
    "tests/hidden/conftest.py": """\
\"\"\"Loads the grader's fixtures and options, for the hidden suites only.\"\"\"

pytest_plugins = ["grader.grading.plugin"]
""",
    ".gitignore": "__pycache__/\n.pytest_cache/\n.ipynb_checkpoints/\n.venv/\nvenv/\n.env\n.DS_Store\n.grader/\nresults/\n",
    "README.md": """\
# <<name>>
A course of programming exercises for PyTorch. `grader` reads it; the package and its documentation are separate.

| file | what you write there |
| --- | --- |
| `course.toml` | modules and tasks in teaching order: points, minutes, hints, bans |
| `solutions/MODULE.py` | the reference of each task; its docstring is the statement |
| `tests/public/test_MODULE.py` | one to three examples a task, `test_TASK_…`, which students can read |
| `tests/hidden/test_MODULE.py` | the tests that count, `@task("TASK")`; each says in its docstring what it checks |
| `tests/misconceptions/MODULE.py` | wrong answers as learners write them, with the sentence that explains the mistake |
| `tests/alternatives/MODULE.py` | right answers in other styles |
| `exercises/MODULE.py` | the stubs, made by `grader stubs` |

The module `warmup` is an example that works. Change it step by step, and check as you go:

```console
$ grader new task warmup row_means     # a further task, again as an example that works
$ grader new module attention          # a further module
$ grader stubs                         # writes exercises/ anew after a change in solutions/
$ grader check --module warmup         # grades the reference, the banks, the stub and trivial answers; names what is wrong
$ grader check --mutants --task row_means
$ grader grade hand-ins/ --out results
$ grader export student ../for-students
```
In a hidden test, `agree(lambda m: m.row_means(x))` runs the call on the student's module in a confined process and on the reference, and
compares. `draw.normal(2, 3)` makes fresh inputs for each run. `grader check --help` and `grader grade --help` say more.

## Modules
| module | about | tasks | points | minutes |
| --- | --- | --- | --- | --- |
""",
}
