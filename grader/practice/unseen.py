"""Finds what works while one practises and is not seen by the official grading, which takes each module's one file and nothing else."""

import ast
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["unseen"]

_HARMLESS = ("__init__", "conftest", "setup")
_LIBRARIES = {"torch", "torchvision", "numpy", "pytest", "grader"}


def unseen(root: Path, code: str, modules: Sequence[str]) -> list[str]:
    """A sentence for each thing that the official grading would not see, or would refuse.

    Args:
        root: the folder of course.toml.
        code: the folder with the student's modules, relative to `root`.
        modules: the names of the course's modules.
    """
    return list(_sentences(root, code, modules))


def _sentences(root: Path, code: str, modules: Sequence[str]) -> Iterator[str]:
    folder = root / code
    for name in modules:
        here = folder / f"{name}.py"
        if code != "." and (root / f"{name}.py").is_file() and here.is_file():
            yield (
                f"There is a {name}.py beside {code}/, too. The tests run {code}/{name}.py. Keep that one: "
                "two different answers are not graded."
            )
        if here.is_file() and (folder / f"{name}.ipynb").is_file():
            yield f"{code}/ holds {name}.py and {name}.ipynb. Keep one: of two, neither is graded."
    own = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.glob("*") if (path / "__init__.py").is_file()}
    shadows = own & (set(sys.stdlib_module_names) | _LIBRARIES)
    for name in sorted(shadows):
        yield f"{code}/{name}.py has the name of a library: give it another."
    own -= shadows
    for name in sorted(own - set(modules) - set(_HARMLESS)):
        yield f"{code}/{name}.py is not graded. Only the modules' own files are: move what you need into the module that uses it."
    for name in modules:
        for other in sorted(_imported(folder / f"{name}.py") & (own | set(modules)) - {name}):
            yield f"{code}/{name}.py imports {other}, which the official grading does not have: each module is graded alone."


def _imported(path: Path) -> set[str]:
    """The top-level names that a file imports, anywhere in it."""
    found: set[str] = set()
    with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {(node.module or "").partition(".")[0]} if node.module else {alias.name for alias in node.names}
    return found
