"""What hostile sources can cost the trusted process when it reads them for bans: CPU seconds and memory.

    python benchmarks/parsing.py

Each source is read once at the greatest length that is read in the grading process itself, and once at the greatest that may be handed in,
which is read in a process of its own. For comparison: an ordinary source.
"""

import os
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from grader.grading.source_reading import NotReadable, ReadingLimits, read_uses
from grader.submissions.sources import MAX_SOURCE_BYTES

ORDINARY = Path(__file__).parents[1] / "solutions" / "attention.py"
SOURCES: dict[str, Callable[[int], str]] = {
    "ordinary code": lambda size: (text := ORDINARY.read_text()) * (size // len(text)),
    "fields of an f-string": lambda size: f'x = f"{"{a}" * (size // 3 - 5)}"',
    "fields with =": lambda size: f'x = f"{"{a=}" * (size // 4 - 5)}"',
    "fields in four levels": lambda size: "x = f\"\"\"{f'''{f'{f\"" + "{a}" * (size // 3 - 12) + "\"}'}'''}\"\"\"",
    "f-strings": lambda size: 'f"{a}";' * (size // 7),
    "names": lambda size: "a;" * (size // 2),
    "a tuple": lambda size: f"x = {'a,' * (size // 2 - 5)}",
    "assignments": lambda size: "a=" * (size // 2 - 5) + "a",
    "parentheses": lambda size: ("(" * 190 + "1" + ")" * 190 + "\n") * (size // 382),
    "parentheses, too deep": lambda size: "(" * (size // 2) + ")" * (size // 2),
    "minus": lambda size: f"x = {'-' * (size - 5)}1",
    "not": lambda size: f"x = {'not ' * (size // 4 - 5)}1",
    "a sum": lambda size: f"x = 1{'+1' * (size // 2 - 5)}",
    "a chain of calls": lambda size: f"x = a{'()' * (size // 2 - 5)}",
    "comparisons": lambda size: f"x = 1{'<1' * (size // 2 - 5)}",
    "lambdas": lambda size: f"x = [{'lambda:0,' * (size // 9 - 5)}]",
    "lambdas in lambdas": lambda size: f"x = {'lambda:' * (size // 7 - 5)}1",
    "a number": lambda size: f"x = {'9' * (size - 5)}",
    "functions": lambda size: "def f():0\n" * (size // 10),
    "imports": lambda size: "import a\n" * (size // 9),
    "a chain of functions": lambda size: "".join(f"def f{n}():f{n + 1}\n" for n in range(size // 18)),
}
BANS = {f"f{task}": ("torch.softmax",) for task in range(15)}


def _measure(text: str, limits: ReadingLimits) -> tuple[float, float, float, str]:
    """CPU seconds of this process and of the reading process, their greatest memory beyond the start in MiB, and how it ended."""
    start, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_uses(text, BANS, (), limits)
        end = "read"
    except NotReadable as error:
        end = str(error).split(":")[0]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    apart = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    most = max(after.ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) - before
    return time.process_time() - start, apart, most / 1024, end


def main() -> None:
    """Print a line for each source and length, each measured in a process of its own."""
    warnings.simplefilter("ignore")
    limits = ReadingLimits()
    print(f"{'source':24}{'characters':>11}{'here':>8}{'apart':>8}{'MiB':>6}  end", flush=True)
    for name, make in SOURCES.items():
        for size in (limits.short, MAX_SOURCE_BYTES):
            if not (process := os.fork()):
                text = make(size)[:size]
                here, apart, most, end = _measure(text, limits)
                print(f"{name:24}{len(text):>11,}{here:>7.2f}s{apart:>7.2f}s{most:>6.0f}  {end}", flush=True)
                os._exit(0)
            os.waitpid(process, 0)


if __name__ == "__main__":
    main()
