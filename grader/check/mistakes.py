"""Makes tests/public/mistakes.json, from which a student learns at home which known mistake a wrong answer behaves like.

Every misconception is run against the public tests, as a student's answer would be (grader.practice). What it does there stands in the file
as a digest, and its sentence is encrypted with that behaviour: neither answers nor mistakes can be read from it.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from msgspec import Struct

from grader.course.banks import BankEntry, answer_with, read_bank
from grader.course.manifest import Course, Module
from grader.course.source import without_docstrings
from grader.practice.diagnosis import Mistakes, ModuleMistakes, lock, read_mistakes
from grader.practice.outcome import Request
from grader.practice.process_handle import PracticeProcess

__all__ = ["HomeNaming", "made_from", "make_mistakes", "outdated_mistakes"]


class HomeNaming(Struct):
    """What becomes of a module's mistakes on the public inputs."""

    module: str
    mistakes: int = 0
    named: int = 0
    """Found by its behaviour, which no other known mistake has."""
    one_of_two: int = 0
    """Named together with the one other that behaves the same."""
    alike: int = 0
    """Not named, because several others behave the same."""
    unseen: int = 0
    """Passes the public tests."""
    unsteady: int = 0
    """Takes too long, ends the process, or fails before a value can be looked at."""


def outdated_mistakes(course: Course) -> list[str]:
    """The modules whose part of the file was made from other files than those that are there now."""
    known = read_mistakes(course).modules
    return [
        module.name for module in course.modules if module.name not in known or known[module.name].made_from != made_from(course, module)
    ]


def made_from(course: Course, module: Module) -> str:
    """Stands for the files that a module's part is made from. A statement is no part of it."""
    code = without_docstrings(course.solution(module.name).read_text()).encode()
    others = course.misconceptions(module.name), course.public_suite(module.name)
    return hashlib.sha256(b"\0".join([code, *(path.read_bytes() for path in others)])).hexdigest()[:16]


def make_mistakes(
    course: Course, modules: Sequence[Module], *, jobs: int, on_progress: Callable[[int, int, str], None]
) -> tuple[Mistakes, list[HomeNaming]]:
    """Run every misconception of the modules against the public tests.

    Returns: the content of the file, in which the other modules stay as they were, and figures for each module.
    """
    banks = {module.name: read_bank(course.misconceptions(module.name).read_text(), "misconception") for module in modules}
    # Code that the stub itself shows is no news to a student, and its sentence would be the answer.
    entries = {name: [entry for entry in bank.entries if not entry.stub] for name, bank in banks.items()}
    pending = [(module, entry) for module in modules for entry in entries[module.name]]
    pool: SimpleQueue[PracticeProcess] = SimpleQueue()
    processes = [PracticeProcess(course.root) for _ in range(jobs)]
    for process in processes:
        pool.put(process)
    done = 0

    def behaviour(pair: tuple[Module, BankEntry]) -> str:
        """The fingerprint of a mistake; "passes" or empty where it has none."""
        nonlocal done
        module, entry = pair
        text = answer_with(course.solution(module.name).read_text(), banks[module.name], [entry])
        process = pool.get()
        with tempfile.TemporaryDirectory(prefix="grader-mistake-") as folder:
            Path(folder, f"{module.name}.py").write_text(text)
            run = process.run(Request(module.name, entry.task, folder))
        pool.put(process)
        done += 1
        on_progress(done, len(pending), f"{module.name}.{entry.name}")
        return "passes" if run.passed else run.fingerprint

    try:
        with ThreadPoolExecutor(jobs) as threads:
            found = dict(zip([(module.name, entry.name) for module, entry in pending], threads.map(behaviour, pending), strict=True))
    finally:
        for process in processes:
            process.close()
    parts, rows = dict(read_mistakes(course).modules), []
    for module in modules:
        part, row = _judge(module, entries[module.name], {name: value for (of, name), value in found.items() if of == module.name})
        parts[module.name] = ModuleMistakes(made_from(course, module), part)
        rows.append(row)
    return Mistakes({module.name: parts[module.name] for module in course.modules if module.name in parts}), rows


def _judge(module: Module, entries: Iterable[BankEntry], found: dict[str, str]) -> tuple[dict[str, dict[str, str]], HomeNaming]:
    """A module's part of the file, and its figures."""
    tasks: dict[str, dict[str, str]] = {}
    row = HomeNaming(module.name)
    entries = list(entries)
    for entry in entries:
        row.mistakes += 1
        same = [other for other in entries if other.task == entry.task and found[other.name] == found[entry.name]]
        if found[entry.name] == "passes":
            row.unseen += 1
        elif not found[entry.name]:
            row.unsteady += 1
        elif len(same) > 2:
            row.alike += 1
        else:
            row.named += len(same) == 1
            row.one_of_two += len(same) == 2
            name, sentence = lock(entry.task, found[entry.name], " Or: ".join(other.why for other in same))
            tasks.setdefault(entry.task, {})[name] = sentence
    return {task: dict(sorted(found.items())) for task, found in tasks.items()}, row
