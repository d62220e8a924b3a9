"""Chooses among the files of one submission the one that holds each module. What was seen instead is said."""

import ast
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from grader.base.text import one_line
from grader.course.definitions import defined_by
from grader.course.manifest import Course, Module
from grader.course.source import Definition
from grader.course.stubs import handed_out
from grader.submissions.archives import ARCHIVES
from grader.submissions.names import meant, resembled, without_platform
from grader.submissions.sources import Entry, Source

__all__ = ["UNPACKED_ELSEWHERE", "answers", "choose", "module_entries"]

UNPACKED_ELSEWHERE = (".rar", ".7z", ".tar", ".gz", ".bz2", ".xz", ".zst", ".tbz", ".txz", ".z")
"""Archives that are not read."""


def module_entries(entries: Iterable[Entry], course: Course) -> list[Entry]:
    """Those that are called like a module, or nearly."""
    return [entry for entry in entries if entry.load and meant(without_platform(entry.path.name), course)]


def answers(entries: list[Entry], course: Course) -> bool:
    """Whether a module is among the files that is more than the stub."""
    sources = choose(entries, course)
    found = [(module, source) for module in course.modules if (source := sources.get(module.name)) and not source.missing]
    return any(source.problem or _answers_a_task(source.text, module, course) for module, source in found)


def choose(entries: list[Entry], course: Course) -> dict[str, Source]:
    """Choose one file for each module that the files hold.

    A file at the top or in exercises/ comes before one in other folders, and a name as it should be before one that is nearly so. What has
    no name or place of its own counts only if it answers a task and is alone in that.
    """
    sources = {}
    for module in course.modules:
        if tiers := _tiers(entries, module.name, course):
            sources[module.name] = _chosen(tiers, module, course)
    unread = [entry.load() for entry in entries if entry.load and entry.path.name.lower().endswith(ARCHIVES)]
    if unread:  # any module may be in it
        return {module.name: sources.get(module.name, unread[0]) for module in course.modules}
    seen = [entry.path for entry in entries]
    if not sources and not any(resembled(path.name, course) for path in seen):
        return {module.name: Source.nothing(_instead(seen)) for module in course.modules}
    for module in course.modules:
        alike = [path for path in seen if resembled(path.name, course) == module.name and not meant(path.name, course)]
        if module.name not in sources and alike:
            what = f"{one_line(str(alike[0]), 120)} looks like it: give it the name {module.name}.py."
            sources[module.name] = Source(problem=f"{module.name}.py was not handed in. {what}", missing=True)
    return sources


# ---- which file


@dataclass(frozen=True)
class _Candidates:
    """Files of one module that are equally well placed, those in exercises/ first."""

    entries: list[Entry]
    expected: bool
    """Whether name and place are as they should be."""


def _tiers(entries: list[Entry], module: str, course: Course) -> list[_Candidates]:
    """The files that may hold a module, the best placed first."""
    by_rank: dict[tuple[bool, bool, int], list[Entry]] = {}
    for entry in entries:
        found = meant(without_platform(entry.path.name), course) if entry.load else None
        if found and found.module == module:
            depth = len(_folders(entry.path))
            exact = found.exact and entry.path.name == without_platform(entry.path.name)
            by_rank.setdefault((depth > 1, not exact, depth), []).append(entry)
    return [
        _Candidates(sorted(some, key=lambda entry: entry.path.parts[-2:-1] != ("exercises",)), expected=not deep and not inexact)
        for (deep, inexact, _), some in sorted(by_rank.items(), key=lambda item: item[0])
    ]


def _folders(path: PurePosixPath) -> tuple[str, ...]:
    """The folders that a file lies in, without its exercises/."""
    folders = path.parts[:-1]
    return folders[:-1] if folders[-1:] == ("exercises",) else folders


_MOST_CANDIDATES, _MOST_PARSED = 4, 64 << 10
"""How many files of one module are looked at, and up to which size. Parsing hostile text takes quadratic time: 0.7 s for 64 KiB."""


def _chosen(tiers: list[_Candidates], module: Module, course: Course) -> Source:
    """The best placed file with an answer. If there is none, the best placed one."""
    first = _answered(tiers[0].entries, module, course)
    others = [entry for tier in tiers[tiers[0].expected :] for entry in tier.entries]
    if tiers[0].expected and (first.problem or not others or _answers_a_task(first.text, module, course)):
        return replace(first, note=_left(others, module)) if others and not first.problem else first
    answers = _different(others[: _MOST_CANDIDATES + 1], module, course)
    if len(answers) > 1 or len(others) > _MOST_CANDIDATES:
        names = " and ".join(one_line(str(entry.path), 80) for entry in others[:3])
        return Source(problem=f"{names} may each be {module.name}.py. Keep one, and give it that name.")
    return replace(answers[0], note=_misplaced(PurePosixPath(answers[0].file), module, course)) if answers else first


def _left(others: list[Entry], module: Module) -> str:
    """What to tell about files that were passed over for one with a better name or place."""
    names = [one_line(str(entry.path), 80) for entry in others]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"not read, because {module.name} is in its place already: {', '.join(names[:3])}{more}."


def _misplaced(path: PurePosixPath, module: Module, course: Course) -> str:
    """What to do about the name or the place of a file that was taken all the same."""
    if path.name not in (f"{module.name}.py", f"{module.name}.ipynb"):
        found = meant(path.name, course)
        if path.name != without_platform(path.name) or (found and found.person):
            return ""  # as the platform, or the course, wants it
        suffix = ".ipynb" if ".ipynb" in path.name.lower() else ".py"
        return f"{one_line(str(path))} was taken for {module.name}{suffix}: give it that name."
    return f"{one_line(str(path))} was found deep down: put it at the top or into exercises/."


def _answered(candidates: list[Entry], module: Module, course: Course) -> Source:
    """The one of several files that answers a task: a copy of the stub is no answer. Two different answers are a problem."""
    if len(candidates) == 1:
        return _load(candidates[0])
    names = " and ".join(one_line(str(entry.path), 80) for entry in candidates[:3])
    if len(candidates) > _MOST_CANDIDATES:
        return Source(problem=f"{names} and others hold the module {module.name}: keep one.")
    answers = _different(candidates, module, course)
    if len(answers) > 1:
        return Source(problem=f"{names} both hold the module {module.name}, with different answers: keep one.")
    return answers[0] if answers else _load(candidates[0])


def _different(entries: list[Entry], module: Module, course: Course) -> list[Source]:
    """The different answers that the files hold."""
    texts: dict[str, Source] = {}
    for entry in entries:
        source = _load(entry)
        texts.setdefault(source.text.rstrip() or source.problem, source)
    return [source for source in texts.values() if not source.missing and (source.problem or _answers_a_task(source.text, module, course))]


def _load(entry: Entry) -> Source:
    assert entry.load
    return replace(entry.load(), file=one_line(str(entry.path), 300))


def _answers_a_task(source: str, module: Module, course: Course) -> bool:
    """Whether a file defines more for a task than the stub does, of this or an older version. One that can't be read may."""
    if source.rstrip() == (handed_out(course, module.name) or "").rstrip():  # whose code may be there to be mended
        return False
    if len(source) > _MOST_PARSED:
        return True
    names = {task.name for task in module.tasks}
    try:
        with warnings.catch_warnings(action="ignore"):
            nodes = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return any(name in source for name in names)
    return any(_is_answer(node) for node in nodes if names & set(defined_by(node)))


def _is_answer(node: ast.stmt) -> bool:
    """Whether a statement that defines a task is more than a stub."""
    if not isinstance(node, Definition):
        return True
    functions = [part for part in (node, *node.body) if isinstance(part, ast.FunctionDef)]
    return not functions or not all(_is_stub(function) for function in functions)


def _is_stub(function: ast.FunctionDef) -> bool:
    """Whether a function's body does nothing but raise NotImplementedError, if that, behind its docstring."""
    *before, last = function.body
    raises = isinstance(last, ast.Raise) and last.exc is not None and "NotImplementedError" in ast.unparse(last.exc).split("(")[0]
    return all(isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in before) and (
        raises or isinstance(last, ast.Pass) or (isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant))
    )


# ---- what there is instead


def _instead(seen: list[PurePosixPath]) -> str:
    """What was seen in a submission without modules, and what to do about it."""
    if packed := [path for path in seen if path.name.lower().endswith(UNPACKED_ELSEWHERE)]:
        return f"{one_line(str(packed[0]), 120)} is not read: pack a .zip or a .tar.gz instead."
    if PurePosixPath(".gitmodules") in seen:
        return "A part of the repository is a submodule, whose files lie elsewhere: put the files themselves into the repository."
    if not seen:
        return "There is nothing in it."
    names = ", ".join(one_line(str(path), 60) for path in seen[:3])
    return f"What there is: {names}{f' and {len(seen) - 3} more' if len(seen) > 3 else ''}."
