"""Says which known mistake a wrong answer behaves like, on the public inputs, without giving answers or mistakes away.

tests/public/mistakes.json holds, for each task, the digests of how known mistakes behave (grader.practice.behaviour) and a sentence for
each. A sentence is encrypted with the behaviour as its key: only somebody who made the mistake can read what it is called.
`grader stubs` writes the file.
"""

import contextlib
import functools
import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from grader.course.manifest import Course
from grader.practice.outcome import TaskRun

__all__ = ["Mistakes", "ModuleMistakes", "known_mistake", "lock", "read_mistakes"]


class ModuleMistakes(Struct, frozen=True):
    """A module's known mistakes: for each task the locked sentences, under the names by which behaviours find them."""

    made_from: str
    """Stands for the files from which this was made."""
    tasks: dict[str, dict[str, str]] = {}


class Mistakes(Struct, frozen=True):
    """The known mistakes of all modules."""

    modules: dict[str, ModuleMistakes] = {}


def known_mistake(course: Course, run: TaskRun) -> str:
    """The sentence for the mistake that a run behaves like; empty where none is known."""
    if run.passed or not run.fingerprint:
        return ""
    module = read_mistakes(course).modules.get(run.module)
    locked = module.tasks.get(run.task, {}).get(_name(run.task, run.fingerprint), "") if module else ""
    with contextlib.suppress(ValueError):  # a damaged file
        return _stream(bytes.fromhex(locked), run.task, run.fingerprint).decode()
    return ""


def read_mistakes(course: Course) -> Mistakes:
    """Read the file. A missing or damaged one knows no mistakes."""
    path = course.mistakes
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Mistakes()


def lock(task: str, fingerprint: str, sentence: str) -> tuple[str, str]:
    """The entry of a mistake: the name by which its behaviour is found, and its sentence, which only that behaviour opens."""
    return _name(task, fingerprint), _stream(sentence.encode(), task, fingerprint).hex()


@functools.lru_cache(maxsize=1)
def _read(path: Path, _: int) -> Mistakes:
    return msgspec.json.decode(path.read_bytes(), type=Mistakes)


def _name(task: str, fingerprint: str) -> str:
    return hashlib.sha256(f"name {task} {fingerprint}".encode()).hexdigest()[:16]


def _stream(data: bytes, task: str, fingerprint: str) -> bytes:
    """Encrypt or decrypt: the data, XORed with a stream that the behaviour determines."""
    key = hashlib.shake_256(f"key {task} {fingerprint}".encode()).digest(len(data))
    return bytes(a ^ b for a, b in zip(data, key, strict=True))
