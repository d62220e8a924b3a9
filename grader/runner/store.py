"""Finished results by content, so that a second run grades only what changed and a killed one goes on where it stopped."""

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from grader.base.files import write_atomically
from grader.course.manifest import Course, Module
from grader.runner.results import Environment, ModuleResult, ModuleTiming
from grader.sandbox.supervisor.isolation import Isolation
from grader.submissions.sources import Source

__all__ = ["Entry", "Store", "package_digest"]


class Entry(Struct, frozen=True):
    """One graded module of one submission."""

    result: ModuleResult
    timing: ModuleTiming
    alike: dict[str, list[str]] = {}
    """Known mistakes that behave like the answer, by task. A result names one where it is the only one."""


class Store:
    """A folder of entries. A key is a hash over everything that a result depends on."""

    def __init__(self, folder: Path, course: Course, environment: Environment, isolation: Isolation, seed: int) -> None:
        self._folder = folder
        self._course = course
        data = [path.read_bytes() for path in sorted(course.data.glob("MNIST/raw/*-ubyte"))]
        self._common = [package_digest().encode(), *(hashlib.blake2b(part).digest() for part in data)]
        self._common.append(msgspec.json.encode((environment, isolation, seed, course.limits)))

    def key(self, module: Module, source: Source) -> str:
        """The name of the entry for this source under this module's suite and reference."""
        digest = hashlib.blake2b(digest_size=16)
        suite = self._course.hidden_suite(module.name)
        files = [suite, suite.with_name("conftest.py"), self._course.solution(module.name), self._course.misconceptions(module.name)]
        parts = [
            *self._common,
            *(path.read_bytes() if path.exists() else b"" for path in files),
            msgspec.json.encode(module),
            msgspec.json.encode((source.text, source.problem, source.missing, source.cells)),
        ]
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def get(self, key: str) -> Entry | None:
        """The entry, or None if there is none that can be read."""
        try:
            return msgspec.json.decode((self._folder / f"{key}.json").read_bytes(), type=Entry)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / f"{key}.json", msgspec.json.encode(entry))


def package_digest() -> str:
    """A digest of the grader's own code, on which results depend too."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        text = path.read_bytes()
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()
