"""Three ways to make inputs for a property, the count of what came of them, and the command line of tests/fuzz/.

- mutator: `random.Random` changes inputs of a corpus; needs nothing, is the fastest, and makes up the number.
- hypothesis: inputs built from strategies; what it finds it also makes small.
- atheris: libFuzzer guided by the coverage of the modules under test, where it is installed (`pip install .[fuzz]`).

An input that breaks the property is saved to a file, and `--replay FILE` tries it again.
"""

import argparse
import atexit
import contextlib
import faulthandler
import hashlib
import importlib
import importlib.util
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType, ModuleType

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

__all__ = ["Target", "Violation", "command", "run_hypothesis", "run_mutator"]

_MIB = 1 << 20
_HANGS_AFTER = 600
"""Seconds without a thousand inputs done after which the engine is taken to hang: its stack is shown and it ends."""
_HYPOTHESIS_CHUNK = 5000


class Violation(Exception):
    """An input did what it may not; the text says what."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed."""

    name: str
    """Of one input, in the plural."""
    check: Callable[[bytes], str]
    """Names what became of an input. Raises: Violation."""
    corpus: Callable[[], list[bytes]]
    mutate: Callable[[random.Random, bytes, list[bytes]], bytes]
    strategy: Callable[[], st.SearchStrategy[bytes]]
    instrumented: tuple[str, ...]
    """Modules whose coverage guides atheris."""
    cpu_seconds: float
    """Most that one input may take."""
    memory_mib: int
    """Most that the address space may grow by."""


@dataclass
class Tally:
    """What became of the inputs of one engine."""

    target: Target
    watched: bool = False
    """Whether this process ends where an input seems to hang."""
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    start: float = field(default_factory=time.monotonic)
    first_kib: int = field(default_factory=lambda: _peak_kib())

    def try_one(self, data: bytes) -> None:
        """Check the property on one input, time and memory included. Raises: Violation."""
        start = time.process_time()
        try:
            outcome = self.target.check(data)
        except Violation:
            raise
        except MemoryError:
            raise Violation(f"it needs more than {self.target.memory_mib} MiB") from None
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {error}") from error
        seconds = time.process_time() - start
        if seconds > self.target.cpu_seconds:
            raise Violation(f"it takes {seconds:.1f} s of CPU time, more than {self.target.cpu_seconds:g}")
        self.slowest = max(self.slowest, seconds)
        self.outcomes[outcome] += 1
        if self.watched and self.total % 1000 == 0:
            faulthandler.dump_traceback_later(_HANGS_AFTER, exit=True)

    @property
    def total(self) -> int:
        """Inputs done."""
        return self.outcomes.total()

    def report(self, engine: str) -> None:
        """Print what there is to know."""
        faulthandler.cancel_dump_traceback_later()
        seconds, peak = time.monotonic() - self.start, _peak_kib()
        print(
            f"{engine}: {self.total} {self.target.name} in {seconds:.0f} s; slowest {self.slowest:.2f} s of CPU time; "
            f"peak memory {peak / 1024:.0f} MiB, {(peak - self.first_kib) / 1024:.0f} more than at the start"
        )
        for outcome, count in sorted(self.outcomes.items(), key=lambda item: (not item[0].startswith("accepted"), -item[1])):
            print(f"  {count:>9}  {outcome}")
        sys.stdout.flush()


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def _capped_memory(mib: int):
    """Let the address space grow by so much, beyond which there is a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + mib * _MIB, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ---- engines


def run_mutator(target: Target, count: int, seed: int, tally: Tally | None = None) -> Tally:
    """Change inputs of the corpus at random. Raises: Violation, with the input as its second argument."""
    rng, corpus = random.Random(seed), target.corpus()
    tally = tally or Tally(target)
    for number in range(count):
        data = corpus[number] if number < len(corpus) else target.mutate(rng, rng.choice(corpus), corpus)
        try:
            tally.try_one(data)
        except Violation as violation:
            raise Violation(str(violation), data) from violation
    return tally


def run_hypothesis(target: Target, count: int, seed: int | None = None, tally: Tally | None = None) -> Tally:
    """Build inputs from strategies, always the same where there is no seed. Raises: Violation, with the input as its second argument."""
    tally = tally or Tally(target)
    phases = (Phase.generate, Phase.shrink)
    while tally.total < count:
        done = tally.total

        @settings(
            max_examples=min(_HYPOTHESIS_CHUNK, count - done),
            derandomize=seed is None,
            phases=phases,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        @given(target.strategy())
        def holds(data: bytes) -> None:
            try:
                tally.try_one(data)
            except Violation as violation:
                raise Violation(str(violation), data) from violation

        if seed is not None:
            holds = hypothesis.seed(seed + done)(holds)
        holds()
        if seed is None or tally.total == done:
            break
    return tally


def _run_atheris(target: Target, count: int, seed: int) -> None:
    """Let libFuzzer choose; ends the process, as libFuzzer does."""
    import atheris

    for name in target.instrumented:
        for function in _functions_of(importlib.import_module(name)):
            atheris.instrument_func(function)
    corpus = target.corpus()
    tally = Tally(target, watched=True)

    def leave(status: int) -> None:
        atexit._run_exitfuncs()  # libFuzzer has no end of its own that runs them
        os._exit(status)

    def test_one_input(data: bytes) -> None:
        try:
            tally.try_one(data)
        except Violation as violation:
            _save(target, "atheris", Violation(str(violation), data))
            leave(1)
        if tally.total >= count:
            tally.report("atheris")
            leave(0)

    def mutate(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        return atheris.Mutate(data, max_size) if rng.random() < 0.5 else target.mutate(rng, data, corpus)[:max_size]

    folder = tempfile.mkdtemp(prefix="fuzz-corpus-")
    atexit.register(shutil.rmtree, folder)
    for number, data in enumerate(corpus):
        Path(folder, str(number)).write_bytes(data)
    limits = ["-timeout=120", "-rss_limit_mb=0", "-detect_leaks=0", "-max_len=65536", "-verbosity=0", "-print_final_stats=0"]
    limits.append(f"-artifact_prefix={folder}/")  # libFuzzer keeps slow inputs; what the property forbids is kept by _save
    atheris.Setup([sys.argv[0], *limits, f"-seed={seed}", folder], test_one_input, custom_mutator=mutate)
    atheris.Fuzz()


def _functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """The functions and methods that a module defines."""
    for value in vars(module).values():
        inner = vars(value).values() if isinstance(value, type) else [value]
        for function in inner if getattr(value, "__module__", "") == module.__name__ else []:
            plain = function.__func__ if isinstance(function, classmethod | staticmethod) else function
            if isinstance(plain, FunctionType):
                yield plain


def _save(target: Target, engine: str, violation: Violation) -> None:
    """Keep the input, and say what it did."""
    data = violation.args[1]
    path = Path(f"fuzz-{target.name}-{hashlib.sha256(data).hexdigest()[:8]}.bin")
    path.write_bytes(data)
    print(f"{engine}: violation: {violation.args[0]}\n  the input is saved: --replay {path}", flush=True)


# ---- command line


def command(target: Target, arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 where the property does not hold."""
    parser = argparse.ArgumentParser(description=f"Fuzz {target.name}.")
    parser.add_argument(f"--{target.name}", type=int, default=100_000, dest="count", help="how many, over all engines")
    parser.add_argument("--engine", choices=["mutator", "hypothesis", "atheris", "both", "all"], default="all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--any-time", action="store_true", help="do not judge how long an input takes, only what comes of it")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="try this one input and nothing else")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # torch's, about odd dtypes
    if options.any_time:
        target = replace(target, cpu_seconds=math.inf)
    if options.replay:
        print(target.check(options.replay.read_bytes()))
        return 0
    shares = _shares(options.engine, options.count)
    if len(shares) > 1:  # each in a process of its own, so that each has its own peak of memory
        module = ["-m", f"tests.fuzz.{target.name}", "--seed", str(options.seed), *(["--any-time"] if options.any_time else [])]
        runs = [[sys.executable, *module, "--engine", name, f"--{target.name}", str(count)] for name, count in shares.items()]
        return max(subprocess.run(run, check=False).returncode != 0 for run in runs)
    ((engine, count),) = shares.items()
    with _capped_memory(target.memory_mib):
        if engine == "atheris":
            _run_atheris(target, count, options.seed)
        tally = Tally(target, watched=True)
        try:
            {"mutator": run_mutator, "hypothesis": run_hypothesis}[engine](target, count, options.seed, tally)
        except Violation as violation:
            _save(target, engine, violation)
            return 1
    tally.report(engine)
    return 0


def _shares(engine: str, count: int) -> dict[str, int]:
    """Inputs by engine: hypothesis a twentieth and atheris a fifth of all; what is not installed leaves its share to the mutator."""
    installed = importlib.util.find_spec("atheris") is not None
    if engine == "atheris" and not installed:
        raise SystemExit("atheris is not installed: pip install atheris (Python 3.11 to 3.14, Linux x86-64)")
    if engine == "both":
        return {"hypothesis": count // 2, "atheris": count - count // 2} if installed else {"hypothesis": count}
    if engine != "all":
        return {engine: count}
    shares = {"hypothesis": count // 20} | ({"atheris": count // 5} if installed else {})
    return {"mutator": count - sum(shares.values()), **shares}
