"""The commands `grader grade` and `grader regrade`."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_GRADER_FAILED, EXIT_INTERRUPTED, EXIT_PROBLEMS
from grader.cli.report import FOLDER, require_charts, write_report
from grader.cli.terminal import (
    CourseOption,
    JsonOption,
    ModuleOption,
    PathOption,
    RosterOption,
    TaskOption,
    TrustedOption,
    UnconfinedOption,
    console,
    load,
    progress_bar,
    stop,
)
from grader.course.manifest import Course, ManifestError

if TYPE_CHECKING:
    from grader.runner.flow import Finished

__all__ = ["grade", "regrade"]

PathsArgument = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Submissions, or folders of submissions.")]
OutOption = Annotated[Path, typer.Option(help="Where results are written.")]
EachIsOneOption = Annotated[bool, typer.Option("--each-is-one", help="Each PATH is one student's, whatever it looks like.")]
JobsOption = Annotated[int, typer.Option(min=1, help="How many grading processes run at once.")]
DataOption = Annotated[Path | None, typer.Option(help="The folder that holds MNIST/raw (default: the course's data/).")]
_SAFE_ADDRESSES = ("tls://", "tcp://127.", "127.", "localhost", "tcp://localhost", "inproc://")
_RESULTS = Path("results")
_JOBS = min(4, os.cpu_count() or 1)


def grade(
    paths: PathsArgument,
    out: OutOption = _RESULTS,
    module: ModuleOption = None,
    path: PathOption = None,
    task: TaskOption = None,
    roster: RosterOption = None,
    each_is_one: EachIsOneOption = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**53, help="The run's seed (default: that of an unfinished run in --out, or a fresh one).")
    ] = None,
    jobs: JobsOption = _JOBS,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Grade on the machines of a Dask cluster, whose scheduler is there (docs/scale.md)."),
    ] = None,
    data: DataOption = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also write HTML pages for students and staff, as `grader report` does.")
    ] = False,
    json: JsonOption = False,
    allow_unconfined: UnconfinedOption = False,
    trusted: TrustedOption = False,
    course: CourseOption = None,
) -> None:
    """Grade submissions with the hidden suites, and write results.json, results.csv, problems.csv and junit.xml."""
    from grader.reports.scoreboard import problem_table, scoreboard

    loaded = load(course, path)
    if report:
        require_charts()
    finished = _run(
        loaded,
        paths,
        out,
        module=module,
        task=task,
        roster=roster,
        each_is_one=each_is_one,
        seed=seed,
        jobs=jobs,
        cluster=cluster,
        data=data,
        allow_unconfined=allow_unconfined,
        trusted=trusted,
    )
    results = finished.results
    _keep(finished, out)
    if json:
        sys.stdout.buffer.write((out / "results.json").read_bytes())
    else:
        Console().print(scoreboard(results))
        if results.problems:
            Console().print(problem_table(results))
        if not results.isolation.confined:
            console.print(Text("The code was not confined, so these scores can't be trusted.", "yellow"))
        console.print(Text(f"Written to {out}. With --seed {results.seed}, a second run grades only what changed."))
    if report:
        write_report(results, out / FOLDER)
    _stop_at_faults(finished)


def regrade(
    paths: PathsArgument,
    out: OutOption = _RESULTS,
    write: Annotated[bool, typer.Option("--write", help="Write the new results in place of the old ones.")] = False,
    module: ModuleOption = None,
    task: TaskOption = None,
    roster: RosterOption = None,
    each_is_one: EachIsOneOption = False,
    jobs: JobsOption = _JOBS,
    data: DataOption = None,
    allow_unconfined: UnconfinedOption = False,
    trusted: TrustedOption = False,
    course: CourseOption = None,
) -> None:
    """Grade again, for instance with a mended suite, and say whose scores change and why. Without --write, nothing else happens.

    The seed and, unless some are named, the modules are those of the results in --out. What has not changed is not graded anew.
    """
    from grader.cli.results import print_difference, read_from
    from grader.reports.compare import compared
    from grader.runner.flow import discard

    loaded, before = load(course), read_from(out)
    graded = dict.fromkeys(one.name for submission in before.submissions for one in submission.modules)
    finished = _run(
        loaded,
        paths,
        out,
        module=module or list(graded),
        task=task,
        roster=roster,
        each_is_one=each_is_one,
        seed=before.seed,
        jobs=jobs,
        data=data,
        allow_unconfined=allow_unconfined,
        trusted=trusted,
    )
    difference = compared(before, finished.results)
    print_difference(difference)
    if write and difference.lost:
        discard(out)
        raise stop(
            "Nothing was written, because results would be lost: name all submissions, modules and tasks again, with the same --roster, or "
            "grade into another folder.",
            EXIT_BAD_INPUT,
        )
    if write:
        _keep(finished, out)
        console.print(Text(f"Written to {out}."))
    else:
        discard(out)
        console.print(Text("Nothing was written. With --write, these results take the place of the old ones."), soft_wrap=True)
    _stop_at_faults(finished)
    if difference.any and not write:
        raise typer.Exit(EXIT_PROBLEMS)


def _run(
    loaded: Course,
    paths: list[Path],
    out: Path,
    *,
    module: list[str] | None,
    task: list[str] | None,
    roster: Path | None,
    each_is_one: bool,
    seed: int | None,
    jobs: int,
    data: Path | None,
    allow_unconfined: bool,
    trusted: bool,
    cluster: str | None = None,
) -> "Finished":
    """Find the submissions and grade them. Raises: typer.Exit."""
    from grader.base.text import without_commands
    from grader.runner.cluster import grade_on_cluster
    from grader.runner.flow import Interrupted, run
    from grader.runner.jobs import Refused
    from grader.sandbox.supervisor.isolation import NotConfined, choose_layers
    from grader.submissions.collect import not_collected
    from grader.submissions.find import find_submissions
    from grader.submissions.roster import Roster
    from grader.submissions.sources import BadInput

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends a run like Ctrl-C
    try:
        loaded = loaded.with_data(data) if data else loaded
        modules = loaded.select(module or [], task or [])
        known = Roster.read(roster) if roster else Roster()
        submissions, notes = find_submissions(paths, loaded, known, each_is_one=each_is_one)
        found = [submission.id for submission in submissions]
        absent = {known.id_of(id) or id: why for path in paths for id, why in not_collected(path).items()}
        absent = {id: why for id, why in absent.items() if id not in found}
        absent |= dict.fromkeys(known.absent([*found, *absent]), "Nothing was handed in under this id of the class list.")
        layers = choose_layers(allow_unconfined=allow_unconfined, trusted=trusted)
        out.mkdir(parents=True, exist_ok=True)
    except (BadInput, ManifestError, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except NotConfined as error:
        raise stop(str(error), EXIT_GRADER_FAILED) from None
    for sentence in notes:
        _say(without_commands(sentence))
    elsewhere = partial(grade_on_cluster, cluster, on_refusal=_say) if cluster else None
    if cluster and not cluster.startswith(_SAFE_ADDRESSES):
        _say(f"Whoever can listen on the network between here and {cluster} can read hand-ins and change scores: use TLS (docs/scale.md).")
    try:
        with _own_files(out), progress_bar() as progress:
            bar = progress.add_task("grading", total=None)
            return run(
                loaded,
                modules,
                submissions,
                out,
                seed=seed,
                jobs=jobs,
                layers=layers,
                absent=absent,
                elsewhere=elsewhere,
                on_progress=lambda now: progress.update(bar, completed=now.done, total=now.total, description=now.what or "grading"),
            )
    except Refused as error:
        raise stop(str(error), EXIT_GRADER_FAILED) from None
    except Interrupted as error:
        raise stop(str(error), EXIT_INTERRUPTED) from None


def _say(sentence: str) -> None:
    console.print(Text(sentence, "yellow"), soft_wrap=True)


def _keep(finished: "Finished", out: Path) -> None:
    """Write the results, results.json last. Raises: typer.Exit."""
    from grader.base.files import write_atomically
    from grader.reports.csv_report import csv_problems, csv_report
    from grader.reports.junit import junit_report
    from grader.runner.flow import write

    with _own_files(out):
        write_atomically(out / "results.csv", csv_report(finished.results).encode())
        write_atomically(out / "problems.csv", csv_problems(finished.results).encode())
        write_atomically(out / "junit.xml", junit_report(finished.results))
        write(finished, out)


def _stop_at_faults(finished: "Finished") -> None:
    """Raises: typer.Exit if the grader itself failed somewhere."""
    from grader.runner.flow import faults

    if found := faults(finished.results):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise stop(f"The grader itself failed: {found[0]}{more}", EXIT_GRADER_FAILED)


@contextlib.contextmanager
def _own_files(out: Path) -> Iterator[None]:
    """Say what to do where the grader can't use its own files, such as on a full disk."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        sentence = f"The grader can't use its own files: {error.strerror or error}{place}. "
        what_to_do = f"What is finished is kept in {out}. Mend this, for example by making room, and the same command goes on from there."
        raise stop(sentence + what_to_do, EXIT_GRADER_FAILED) from None
