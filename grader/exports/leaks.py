"""Search an exported folder for anything that students must not see: solutions, hidden tests, banks of answers, later hints.

The search looks for content, not for names: every secret line and sentence, in every file. It ignores white space, so that it also finds
lines that were indented, wrapped or commented out.
"""

import ast
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grader
from grader.course.manifest import MANIFEST, Course, Module
from grader.course.released import cut_to
from grader.course.stubs import module_stub

__all__ = ["MINIMUM", "Leak", "find_leaks", "secrets_of"]

_LATER_HINTS = "the later hints of"
MINIMUM = 16
"""The shortest secret, in characters without white space. `return torch.mul(` is long enough to be one, `return x` is not."""


@dataclass(frozen=True)
class Leak:
    """A secret in an exported file."""

    file: Path
    secret: str
    source: str

    def __str__(self) -> str:
        return f"{self.file} holds a line of {self.source}: {self.secret}"


def find_leaks(folder: Path, course: Course) -> list[Leak]:
    """Every file of the folder that holds a secret, with the first secret in it. Wheels are searched file by file.

    Unchanged files of this package are not searched: they hold no secrets of a course, even if a hidden test has a line in common. The
    later hints of a task may stand in course.toml, from which `grader hint` gives them one at a time, and nowhere else.
    """
    secrets = secrets_of(course)
    package = Path(grader.__file__).parent
    ours = {path.read_bytes() for path in package.rglob("*") if path.is_file()}
    by_beginning: dict[str, list[str]] = {}
    for secret in secrets:
        by_beginning.setdefault(secret[:MINIMUM], []).append(secret)
    leaks = []
    for path, data in _contents(folder):
        if data not in ours:
            found = (secrets[secret] for secret in _occurrences(_squeeze(data.decode(errors="replace")), by_beginning))
            leak = next((where for where in found if path != Path(MANIFEST) or not where[1].startswith(_LATER_HINTS)), None)
            if leak:
                leaks.append(Leak(path, *leak))
    return leaks


def _contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The files of a folder, and those in its wheels."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield path.relative_to(folder) / name, archive.read(name)
        elif path.is_file():
            yield path.relative_to(folder), path.read_bytes()


def _occurrences(text: str, by_beginning: dict[str, list[str]]) -> Iterator[str]:
    for at in range(len(text) - MINIMUM + 1):
        for secret in by_beginning.get(text[at : at + MINIMUM], ()):
            if text.startswith(secret, at):
                yield secret


def secrets_of(course: Course) -> dict[str, tuple[str, str]]:
    """The course's secrets without white space. Each has its original text and the file that it comes from.

    Lines of stubs and public tests are not secret.
    """
    secrets: dict[str, tuple[str, str]] = {}
    for module in course.modules:
        for text, source in _secret_texts(course, module):
            squeezed = _squeeze(text)
            if len(squeezed) >= MINIMUM:
                secrets.setdefault(squeezed, (text.strip(), source))
    public = _squeeze("\n".join(_public_texts(course)))
    return {secret: where for secret, where in secrets.items() if secret not in public}


def _secret_texts(course: Course, module: Module) -> Iterator[tuple[str, str]]:
    hidden = course.hidden_suite(module.name)
    paths = [course.solution(module.name), hidden, hidden.with_name("conftest.py")]
    paths += [course.misconceptions(module.name), course.alternatives(module.name)]
    for path in paths:
        if not path.is_file():
            continue
        text, place = path.read_text(), path.relative_to(course.root).as_posix()
        for line in text.splitlines():
            yield line, place
        if path != course.solution(module.name):
            for node in ast.walk(ast.parse(text)):  # finds explanations that were copied without their code
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield from ((line, place) for line in node.value.splitlines())
    for task in module.tasks:
        for hint in task.hints[1:]:
            for sentence in re.split(r"(?<=[.?!:;])\s", hint):
                yield sentence, f"{_LATER_HINTS} {task.name}"


def _public_texts(course: Course) -> Iterator[str]:
    """Texts that students may see: task names, stubs, public tests, first hints, bans, released solutions. Stubs are made anew, in case
    a file was edited.
    """
    yield "\n".join(course.bans)
    for module in course.modules:
        yield cut_to(course.solution(module.name).read_text(), [task.name for task in module.tasks if task.released])
        yield module_stub(course, module.name)
        yield course.public_suite(module.name).read_text()
        for task in module.tasks:
            yield f'"{task.name}",\n{task.hints[0]}\n# {task.name}\n'
            if task.show:  # what `grader show` calls
                yield f"{task.show.setup}\n{task.show.call}\n{task.show.over}"


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)
