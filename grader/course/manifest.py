"""Reads course.toml, the one ordered manifest, into frozen data classes.

Modules, tasks, points, limits, bans, hints and the paths of a module's files come from here. Knows nothing of what is in those files.
"""

import ast
import codecs
import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_type_hints

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "MANIFEST",
    "PACKAGES",
    "Course",
    "Detail",
    "Feedback",
    "Gate",
    "LearningPath",
    "Limits",
    "ManifestError",
    "Module",
    "Overrides",
    "Rules",
    "Show",
    "Task",
    "find_root",
    "load_course",
]

MANIFEST = "course.toml"

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(gt=0)]

PACKAGES = ("numpy", "torch", "torchvision")
"""What student code may use in every course, besides Python's standard library."""


class ManifestError(Exception):
    """course.toml is missing or wrong. The text names the file, the key and the fix."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a submission may use. Seconds are wall-clock time unless the name says CPU. Sizes are in MiB or KiB.

    A test that exceeds a time limit is `timed_out`, and one that exceeds the memory limit is `out_of_memory`. Other limits give an `error`.
    """

    test_seconds: Seconds = 10.0
    """One test's wall clock."""
    test_cpu_seconds: Seconds = 5.0
    """One test's CPU time, over all threads."""
    task_seconds: Seconds = 20.0
    """All tests of one task together."""
    import_seconds: Seconds = 10.0
    """Running the module's top level."""
    memory_mib: Count = 2048
    """Address space, in addition to what Python with torch takes."""
    scratch_mib: Count = 256
    """Files in the private scratch folder."""
    reply_mib: Count = 64
    """Tensors that one test returns."""
    output_kib: Count = 1024
    """What one test prints."""
    threads: Count = 64
    """Threads alive at a time."""


if TYPE_CHECKING:
    Overrides = Limits
else:  # the same fields, all optional
    Overrides = msgspec.defstruct(
        "Overrides",
        [(name, kind | msgspec.UnsetType, msgspec.UNSET) for name, kind in get_type_hints(Limits, include_extras=True).items()],
        module=__name__,
        frozen=True,
        forbid_unknown_fields=True,
        omit_defaults=True,
    )
    """The limits that one task changes, under the same names."""


class Show(Struct, frozen=True, forbid_unknown_fields=True):
    """What `grader show` draws of a task: the numbers that a call gives, with the student's answer and with the reference.

    A heatmap draws a matrix. Lines and steps draw each row of a matrix (or one vector) as a curve. Points draws an (N, 2) matrix as places
    in the plane.
    """

    kind: Literal["heatmap", "lines", "steps", "points"]
    call: Annotated[str, Meta(min_length=1)]
    """An expression of Python, in which the module's public names and `torch` are known."""
    setup: str = ""
    """Statements that run before the call, in the same names."""
    over: str = ""
    """For lines and steps, an expression for the places along the horizontal axis. Without it they are 0, 1, 2, …"""
    title: str = ""
    x: str = ""
    """What the horizontal axis means; of a heatmap, its columns."""
    y: str = ""
    """What the vertical axis means; of a heatmap, its rows."""
    labels: tuple[str, ...] = ()
    """For lines and steps, the name of each curve."""


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """One function or class that a student fills in."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]*\Z")]
    points: Annotated[float, Meta(gt=0, le=1_000_000)]
    minutes: Count
    hints: tuple[str, ...]
    bans: tuple[Annotated[str, Meta(pattern=r"^torch(\.[A-Za-z_][A-Za-z0-9_]*)+\Z")], ...] = ()
    limits: Overrides = Overrides()
    released: bool = False
    """Whether students may see the reference, by `grader solution`."""
    show: Show | None = None
    """A picture of the answer, by `grader show`."""

    def limits_within(self, course: Limits) -> Limits:
        """The course's limits, except where this task has its own."""
        own = {name: value for name, value in msgspec.structs.asdict(self.limits).items() if value is not msgspec.UNSET}
        merged = msgspec.structs.replace(course, **own)
        return msgspec.structs.replace(merged, task_seconds=max(merged.task_seconds, merged.test_seconds))


class Module(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of tasks, in teaching order."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*\Z")]
    title: str
    story: str
    tasks: tuple[Task, ...]

    @property
    def points(self) -> float:
        """The points of all tasks."""
        return sum(task.points for task in self.tasks)

    @property
    def minutes(self) -> int:
        """The minutes of all tasks."""
        return sum(task.minutes for task in self.tasks)

    def task(self, name: str) -> Task:
        """The task of this name. Raises: KeyError."""
        return {task.name: task for task in self.tasks}[name]


class LearningPath(Struct, frozen=True, forbid_unknown_fields=True):
    """Some of the modules, in an order of their own, for one aim."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]*\Z")]
    title: str
    story: str
    modules: Annotated[tuple[str, ...], Meta(min_length=1)]


class _Environment(Struct, frozen=True, forbid_unknown_fields=True):
    packages: tuple[Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")], ...] = ()


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """How many entries of each bank `grader check` wants for every task."""

    misconceptions: Annotated[int, Meta(ge=0)] = 3
    alternatives: Annotated[int, Meta(ge=0)] = 2


Detail = Literal["full", "sentence", "points"]
"""What students are told of a hidden test that they failed: everything; a sentence without inputs and values; the points alone."""


class Feedback(Struct, frozen=True, forbid_unknown_fields=True):
    """How much students are told, and from the day after a date."""

    detail: Detail = "full"
    after: date | None = None
    detail_after: Detail = "full"


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """How marks are made of scores. Shares are between 0 and 1. Scores themselves never change."""

    late_per_day: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """What each day that has begun takes of the score."""
    late_most: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """What lateness takes at most."""
    drop_lowest: Annotated[int, Meta(ge=0)] = 0
    """How many modules don't count: those of which the smallest share was earned."""
    cap: Annotated[float, Meta(gt=0)] | None = None
    """What a mark is at most, as a share of the maximum."""
    extra: tuple[str, ...] = ()
    """The tasks whose points count beyond the maximum."""


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    modules: tuple[Module, ...]
    paths: tuple[LearningPath, ...] = ()
    limits: Limits = Limits()
    environment: _Environment = _Environment()
    gate: Gate = Gate()
    rules: Rules = Rules()
    feedback: Feedback = Feedback()


class Course(Struct, frozen=True):
    """The manifest together with the folder that it describes."""

    root: Path
    title: str
    limits: Limits
    modules: tuple[Module, ...]
    data: Path
    """Where the digits are: a folder that `torchvision.datasets.MNIST` reads."""
    own_packages: tuple[str, ...] = ()
    """What student code may use besides `PACKAGES`, by the names under which it is installed."""
    gate: Gate = Gate()
    paths: tuple[LearningPath, ...] = ()
    rules: Rules = Rules()
    feedback: Feedback = Feedback()

    @property
    def packages(self) -> tuple[str, ...]:
        """What student code may use besides Python's standard library."""
        return (*PACKAGES, *self.own_packages)

    def unpinned(self, pins: Iterable[str]) -> list[str]:
        """The course's own packages that these requirements, such as torch==2.13.0, do not name."""
        pinned = {re.split(r"[^A-Za-z0-9._-]", pin)[0].lower() for pin in pins}
        return [name for name in self.own_packages if name.lower() not in pinned]

    @property
    def bans(self) -> tuple[str, ...]:
        """The functions that at least one task bans."""
        return tuple(sorted({ban for module in self.modules for task in module.tasks for ban in task.bans}))

    def module(self, name: str) -> Module:
        """The module of this name. Raises: ManifestError, which lists the modules that exist."""
        for module in self.modules:
            if module.name == name:
                return module
        raise ManifestError(f"no module {name!r} in {MANIFEST}; it has {', '.join(m.name for m in self.modules)}")

    def along(self, path: str) -> Self:
        """The course with the modules of a path only, in its order. Raises: ManifestError, which lists the paths that exist."""
        for one in self.paths:
            if one.name == path:
                return msgspec.structs.replace(self, modules=tuple(self.module(name) for name in one.modules))
        has = f"it has {', '.join(one.name for one in self.paths)}" if self.paths else "it has none"
        raise ManifestError(f"no path {path!r} in {MANIFEST}; {has}")

    def select(self, modules: list[str], tasks: list[str]) -> tuple[Module, ...]:
        """Keep only the named modules, and in them only the named tasks. An empty list keeps everything.

        Raises: ManifestError if a name is unknown.
        """
        chosen = tuple(self.module(name) for name in dict.fromkeys(modules)) or self.modules
        if not tasks:
            return chosen
        known = {task.name for module in chosen for task in module.tasks}
        for name in tasks:
            if name not in known:
                raise ManifestError(f"no task {name!r} in {', '.join(m.name for m in chosen)}; `grader list` shows the tasks")
        kept = (msgspec.structs.replace(module, tasks=tuple(task for task in module.tasks if task.name in tasks)) for module in chosen)
        return tuple(module for module in kept if module.tasks)

    def with_data(self, folder: Path) -> Self:
        """The course with the digits of another folder. Raises: ManifestError if that folder holds none."""
        if not (folder / "MNIST" / "raw").is_dir():
            raise ManifestError(f"no digits in {folder}: it must hold MNIST/raw/ with MNIST's four IDX files, unpacked")
        return msgspec.structs.replace(self, data=folder.resolve())

    def stub(self, module: str) -> Path:
        """The file that students fill in."""
        return self.root / "exercises" / f"{module}.py"

    def untouched_stub(self, module: str) -> Path:
        """A copy of the stub, which only a repository for students has: there is no reference to make it from."""
        return self.root / "tools" / "stubs" / f"{module}.py"

    def solution(self, module: str) -> Path:
        """The reference."""
        return self.root / "solutions" / f"{module}.py"

    def public_suite(self, module: str) -> Path:
        """The tests that students can read."""
        return self.root / "tests" / "public" / f"test_{module}.py"

    def hidden_suite(self, module: str) -> Path:
        """The graded tests."""
        return self.root / "tests" / "hidden" / f"test_{module}.py"

    def misconceptions(self, module: str) -> Path:
        """The named wrong answers."""
        return self.root / "tests" / "misconceptions" / f"{module}.py"

    def alternatives(self, module: str) -> Path:
        """The other right answers."""
        return self.root / "tests" / "alternatives" / f"{module}.py"

    def equivalents(self, module: str) -> Path:
        """The mutants of the reference that no test can tell from it. A module without such mutants needs no file."""
        return self.root / "tests" / "equivalents" / f"{module}.toml"

    @property
    def pictures(self) -> Path:
        """What `grader show` expects. `grader stubs` writes it."""
        return self.root / "tests" / "public" / "pictures.json"

    @property
    def mistakes(self) -> Path:
        """How known mistakes behave on the public inputs, locked. `grader stubs` writes it."""
        return self.root / "tests" / "public" / "mistakes.json"

    @classmethod
    def read(cls, root: Path) -> Self:
        """Read course.toml in `root`. Raises: ManifestError."""
        path = root / MANIFEST
        try:
            parsed = msgspec.toml.decode(_content(path), type=_File)
        except FileNotFoundError:
            raise ManifestError(f"{path} is missing: run from a course's folder, or name it with --course") from None
        except msgspec.ValidationError as error:
            raise ManifestError(f"{path}: {_locate(str(error), path)}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path} is not valid TOML: {error}") from None
        except OSError as error:
            raise ManifestError(f"{path} can't be read: {error.strerror}") from None
        _check(parsed, path)
        return cls(
            root=root,
            title=parsed.title,
            limits=parsed.limits,
            modules=parsed.modules,
            data=root / "data",
            own_packages=parsed.environment.packages,
            gate=parsed.gate,
            paths=parsed.paths,
            rules=parsed.rules,
            feedback=parsed.feedback,
        )


def find_root(start: Path) -> Path:
    """The nearest folder, from `start` upwards, that holds a course.toml. Raises: ManifestError."""
    for folder in (start, *start.parents):
        if (folder / MANIFEST).is_file():
            return folder
    raise ManifestError(
        f"there is no course here: no {MANIFEST} in {start} or above. A course is a folder with that file, exercises/ and tests/. "
        "Change into one, or name it with --course."
    )


def load_course(folder: Path | None = None) -> Course:
    """Read the course in `folder`, or the one around the current directory. Raises: ManifestError."""
    return Course.read(folder.resolve() if folder else find_root(Path.cwd()))


def _content(path: Path) -> bytes:
    """A file, without the byte order mark that some editors of Windows put before it."""
    return path.read_bytes().removeprefix(codecs.BOM_UTF8)


def _locate(message: str, path: Path) -> str:
    """Rewrite msgspec's "... - at `$.modules[0].tasks[2]`": name the module and task instead, and add the fix."""
    match = re.search(r"^(.*?)(?: - at `\$(.*)`)?$", message, re.DOTALL)
    what, place = (match[1], match[2] or "") if match else (message, "")
    node = msgspec.toml.decode(_content(path))
    words: list[str] = []
    for key, index in re.findall(r"\.([\w-]+)|\[(\d+)\]", place):
        try:
            node = node[key] if key else node[int(index)]
        except (KeyError, IndexError, TypeError):
            node = {}
        if key:
            words.append(key)
        elif isinstance(node, dict) and "name" in node:
            words[-1] = f"{words[-1].removesuffix('s')} {node['name']!r}"
        else:
            words[-1] = f"{words[-1]}[{index}]"
    where = ", ".join(words) or "top level"
    fixes = {
        r"missing required field `(\w+)`": "add the key `{0}`",
        r"contains unknown field `(\w+)`": "remove the key `{0}` or correct its spelling",
        r"Invalid enum value": (
            'say "full", "sentence" or "points"' if where.startswith("feedback") else "a picture is a heatmap, lines, steps or points"
        ),
        r"Expected (.*), got (.*)": "give it a value of that kind",
    }
    fix = next((text.format(*found.groups()) for pattern, text in fixes.items() if (found := re.search(pattern, what))), "correct it")
    return f"in {where}: {what}: {fix}"


def _check(parsed: _File, path: Path) -> None:
    """Check the rules that types can't express: unique names, three hints, pictures. Raises: ManifestError."""
    modules = [module.name for module in parsed.modules]
    tasks = [task.name for module in parsed.modules for task in module.tasks]
    for kind, names in (("module", modules), ("task", tasks), ("path", [one.name for one in parsed.paths])):
        for name in {name for name in names if names.count(name) > 1}:
            raise ManifestError(f"{path}: two {kind}s are called {name!r}: rename one")
    if not modules:
        raise ManifestError(f"{path} has no modules: add [[modules]]")
    for name in parsed.rules.extra:
        if name not in tasks:
            raise ManifestError(f"{path}: rules, extra: there is no task {name!r}: correct it")
    for one in parsed.paths:
        for name in one.modules:
            if name not in modules or one.modules.count(name) > 1:
                what = "which is no module" if name not in modules else "more than once"
                raise ManifestError(f"{path}: path {one.name!r} names {name!r}, {what}: correct it")
    for module in parsed.modules:
        if not module.tasks:
            raise ManifestError(f"{path}: module {module.name!r} has no tasks: add a [[modules.tasks]] below it")
        for task in module.tasks:
            if len(task.hints) != 3 or not all(hint.strip() for hint in task.hints):
                raise ManifestError(f"{path}: task {task.name!r} needs `hints` with three texts, none of them empty")
            if task.show:
                _check_show(task.name, task.show, path)


def _check_show(task: str, show: Show, path: Path) -> None:
    """Check that the code of a picture is Python, and that its keys fit its kind. Raises: ManifestError."""
    for key, code, mode in (("setup", show.setup, "exec"), ("call", show.call, "eval"), ("over", show.over, "eval")):
        try:
            if code:
                ast.parse(code.strip(), mode=mode)
        except (SyntaxError, ValueError) as error:
            what = "an expression" if mode == "eval" else "statements"
            raise ManifestError(f"{path}: task {task!r}, show: `{key}` is not {what} of Python ({error}): correct it") from None
    if show.kind not in ("lines", "steps") and (show.over or show.labels):
        raise ManifestError(f"{path}: task {task!r}, show: `over` and `labels` are for lines and steps only: remove them")
