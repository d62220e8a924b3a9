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

__all__ = ["MISTAKES", "Mistakes", "known_mistake", "lock"]

MISTAKES = "tests/public/mistakes.json"
"""Relative to the course's folder."""


class Mistakes(Struct, frozen=True):
    """The known mistakes, by task, and by the part of the digest that finds them."""

    made_from: str
    """Stands for the banks and the public tests from which this was made."""
    tasks: dict[str, dict[str, str]] = {}


def known_mistake(course: Course, run: TaskRun) -> str:
    """The sentence for the mistake that a run behaves like; empty where none is known."""
    path = course.root / MISTAKES
    if run.passed or not run.fingerprint or not path.is_file():
        return ""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError):
        known = _read(path, path.stat().st_mtime_ns).tasks.get(run.task, {})
        entry = known.get(_name(run.task, run.fingerprint))
        return _stream(bytes.fromhex(entry), run.task, run.fingerprint).decode() if entry else ""
    return ""


def lock(task: str, fingerprint: str, sentence: str) -> tuple[str, str]:
    """The entry of a mistake: the name under which its behaviour is found, and its sentence, which only that behaviour opens."""
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
