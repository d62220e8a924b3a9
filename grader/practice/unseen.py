"""Finds what works while one practises and is not seen by the official grading, which takes each module's one file and nothing else."""

import ast
import contextlib
import json
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
        for other in sorted(_imported(folder / f"{name}.py") & (own | set(modules) | {Path(code).name}) - {name}):
            yield f"{code}/{name}.py imports {other}, which the official grading does not have: each module is graded alone."
        for task in _left_in_notebook(root / "notebooks" / f"{name}.ipynb", folder / f"{name}.py"):
            yield f"notebooks/{name}.ipynb has code for {task} that {code}/{name}.py lacks: run its %%task cell, else it is not graded."


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


def _left_in_notebook(notebook: Path, module: Path) -> Iterator[str]:
    """The tasks whose %%task cell was changed, while the module's file still holds the stub."""
    with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):  # of a damaged notebook
        stubs = {name: dump for name, node, dump in _definitions(module.read_bytes()) if _is_stub(node)}
        for cell in json.loads(notebook.read_bytes())["cells"] if stubs else ():
            magic, _, code = "".join(cell["source"]).partition("\n")
            task = magic.removeprefix("%%task").strip()
            if magic.startswith("%%task") and any(name == task and dump != stubs.get(name, dump) for name, _, dump in _definitions(code)):
                yield task


def _definitions(source: bytes | str) -> list[tuple[str, ast.stmt, str]]:
    """The name of each function and class of a source, with its code. Comments and layout don't count. None if it is no Python."""
    with contextlib.suppress(SyntaxError):  # such as code that is not finished, or other magics
        return [(node.name, node, ast.dump(node)) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return []


def _is_stub(node: ast.stmt) -> bool:
    """Whether a definition, or a method of it, only raises NotImplementedError, as a stub does."""
    functions = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef)]
    bodies = [function.body[ast.get_docstring(function) is not None :] for function in functions]
    return any(len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.dump(body[0]) for body in bodies)
