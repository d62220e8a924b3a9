"""The command `grader grade`."""

import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_GRADER_FAILED, EXIT_INTERRUPTED
from grader.base.files import write_atomically
from grader.base.outcome import Status
from grader.base.text import without_commands
from grader.cli.terminal import (
    CourseOption,
    JsonOption,
    ModuleOption,
    TaskOption,
    TrustedOption,
    UnconfinedOption,
    console,
    load,
    progress_bar,
    stop,
)
from grader.course.manifest import Course, ManifestError, Module
from grader.protocol.confinement import Layers
from grader.reports import scoreboard as reports
from grader.runner.jobs import Refused, grade_units
from grader.runner.results import SCHEMA as RESULTS_SCHEMA
from grader.runner.results import Results, environment, submission_result
from grader.runner.store import Entry, Store
from grader.runner.units import Unit, units_of
from grader.sandbox.supervisor.isolation import (
    NotConfined,
    choose_layers,
    draw_seed,
    isolation,
)
from grader.submissions.find import find_submissions
from grader.submissions.sources import BadInput, Submission

__all__ = ["grade"]


def grade(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Submissions, or folders whose children are submissions.")],
    out: Annotated[Path, typer.Option(help="Where results are written.")] = Path("results"),
    module: ModuleOption = None,
    task: TaskOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**53, help="The run's seed (default: fresh, or that of an unfinished run in --out).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Grading processes.")] = min(4, os.cpu_count() or 1),
    data: Annotated[Path | None, typer.Option(help="The digits: a folder that holds MNIST/raw (default: the course's data/).")] = None,
    json: JsonOption = False,
    allow_unconfined: UnconfinedOption = False,
    trusted: TrustedOption = False,
    course: CourseOption = None,
) -> None:
    """Grade submissions with the hidden suites, and write results.json, results.csv and junit.xml."""
    loaded = load(course)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is an interrupt
    try:
        loaded = loaded.with_data(data) if data else loaded
        modules = loaded.select(module or [], task or [])
        submissions, passed_over = find_submissions(paths, loaded)
        layers = choose_layers(allow_unconfined=allow_unconfined, trusted=trusted)
        out.mkdir(parents=True, exist_ok=True)
    except (BadInput, ManifestError, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except NotConfined as error:
        raise stop(str(error), EXIT_GRADER_FAILED) from None
    for sentence in passed_over:
        console.print(Text(without_commands(f"Passed over: {sentence}"), "yellow"), soft_wrap=True)
    results, timings = _grade(loaded, modules, submissions, out, seed, jobs, layers)
    write_atomically(out / "results.json", msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    write_atomically(out / "timings.json", msgspec.json.format(msgspec.json.encode(timings), indent=1) + b"\n")
    write_atomically(out / "results.csv", reports.csv_report(results).encode())
    write_atomically(out / "junit.xml", reports.junit_report(results))
    (out / _UNFINISHED).unlink(missing_ok=True)
    if json:
        sys.stdout.buffer.write((out / "results.json").read_bytes())
    else:
        Console().print(reports.scoreboard(results))
        if layers is None:
            console.print(Text("The code was not confined, so these scores can't be trusted.", "yellow"))
        console.print(Text(f"Written to {out}. With --seed {results.seed}, a second run grades only what changed."))
    if faults := _faults(results):
        raise stop(
            f"The grader itself failed: {faults[0]}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""), EXIT_GRADER_FAILED
        )


_UNFINISHED = ".unfinished.json"
"""The seed of a run that has not written its results yet, so that the next run can go on with it."""


def _grade(
    course: Course,
    modules: tuple[Module, ...],
    submissions: list[Submission],
    out: Path,
    seed: int | None,
    jobs: int,
    layers: Layers | None,
) -> tuple[Results, dict[str, Any]]:
    started, clock = datetime.now(UTC), time.monotonic()
    seed = _settle_seed(out, seed)
    record = isolation(layers)
    here = environment()
    store = Store(out / ".store", course, here, record, seed)
    units = units_of(submissions, modules, seed)
    entries: dict[tuple[str, str], Entry] = {}
    todo = []
    for unit in units:
        entry = store.get(store.key(unit.module, unit.source))
        if entry is None:
            todo.append(unit)
        else:
            entries[unit.submission, unit.module.name] = entry

    with progress_bar() as progress:
        bar = progress.add_task("grading", total=len(units), completed=len(entries))

        def on_done(unit: Unit, entry: Entry) -> None:
            entries[unit.submission, unit.module.name] = entry
            if not any(task.status is Status.GRADER_ERROR for task in entry.result.tasks):
                store.put(store.key(unit.module, unit.source), entry)
            progress.update(bar, advance=1, description=f"{unit.submission}: {unit.module.name}")

        try:
            grade_units(todo, course, jobs=min(jobs, max(1, len(todo))), layers=layers, on_done=on_done)
        except Refused as error:
            raise stop(str(error), EXIT_GRADER_FAILED) from None
        except KeyboardInterrupt:
            raise stop(
                f"Interrupted: {len(entries)} of {len(units)} are done and kept. The same command goes on from here.", EXIT_INTERRUPTED
            ) from None

    graded = []
    for submission in submissions:
        own = [entries[unit.submission, unit.module.name] for unit in units if unit.submission == submission.id]
        graded.append(submission_result(submission.id, [entry.result for entry in own]))
    results = Results(RESULTS_SCHEMA, seed, here, record, graded)
    timings = {
        "host": platform.node(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        "submissions": {
            submission.id: {
                unit.module.name: entries[unit.submission, unit.module.name].timing for unit in units if unit.submission == submission.id
            }
            for submission in submissions
        },
    }
    return results, timings


def _settle_seed(out: Path, seed: int | None) -> int:
    """The given seed, else that of an unfinished run here, else a fresh one; noted until the results are written."""
    note = out / _UNFINISHED
    if seed is None:
        try:
            seed = msgspec.json.decode(note.read_bytes(), type=int)
        except (OSError, msgspec.DecodeError):
            seed = draw_seed()
    write_atomically(note, msgspec.json.encode(seed))
    return seed


def _faults(results: Results) -> list[str]:
    return [
        f"{submission.id}, {task.name}: {test.message}"
        for submission in results.submissions
        for module in submission.modules
        for task in module.tasks
        for test in task.tests
        if test.status is Status.GRADER_ERROR
    ]
