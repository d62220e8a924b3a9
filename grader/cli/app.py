"""The command `grader`. Input and output live here; what is done lives in the other modules."""

import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_GRADER_FAILED, EXIT_INTERRUPTED, EXIT_PROBLEMS
from grader.base.outcome import Status
from grader.base.text import without_commands
from grader.cli.check import check
from grader.cli.exports import app as exports
from grader.cli.terminal import (
    CourseOption,
    JsonOption,
    ModuleOption,
    TrustedOption,
    UnconfinedOption,
    console,
    load,
    print_json,
    progress_bar,
    stop,
)
from grader.course.content import make_stub
from grader.course.manifest import Course, ManifestError, Module
from grader.exports.escape import log_line
from grader.protocol.confinement import Layers
from grader.reports import scoreboard as reports
from grader.runner.jobs import Refused, Unit, grade_units, units_of
from grader.runner.results import SCHEMA as RESULTS_SCHEMA
from grader.runner.results import Results, environment, json_schema, submission_result, write_atomically
from grader.runner.store import Entry, Store
from grader.sandbox.supervisor.isolation import (
    Isolation,
    NotConfined,
    choose_layers,
    describe_machine,
    draw_seed,
    isolation,
    machine_layers,
)
from grader.sandbox.worker.confine import supported
from grader.submissions.collect import RECORD, collect, read_list
from grader.submissions.ingest import BadInput, Submission, find_submissions

if TYPE_CHECKING:  # its import takes torch along
    from grader.sandbox.supervisor.self_test import Protection

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Exercises in PyTorch, and their grader."
)
app.add_typer(exports, name="export")

TaskOption = Annotated[list[str] | None, typer.Option("--task", "-t", help="Only this task; can be given again.")]


@app.command("list")
def list_(course: CourseOption = None, json: JsonOption = False) -> None:
    """Show the modules and tasks, with points and minutes."""
    loaded = load(course)
    if json:
        print_json({"title": loaded.title, "modules": [_plain(module) for module in loaded.modules]})
        return
    for module in loaded.modules:
        Console().print(Text(f"{module.title}: {module.story}"))
        table = Table(module.name, "points", "minutes")
        for task in module.tasks:
            table.add_row(Text(task.name), f"{task.points:g}", str(task.minutes))
        table.add_section()
        table.add_row("all", f"{module.points:g}", str(module.minutes))
        Console().print(table)


@app.command()
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


@app.command("collect")
def collect_(
    list_: Annotated[
        Path, typer.Argument(metavar="LIST", help="A CSV file with the columns repository,commit[,student], or the same as JSON.")
    ],
    out: Annotated[Path, typer.Option(help="A new or empty folder: becomes a folder of submissions.")] = Path("submissions"),
    server: Annotated[str, typer.Option(help="Where OWNER/NAME.git is fetched from.")] = "https://github.com",
    course: CourseOption = None,
) -> None:
    """Fetch students' repositories at given commits, as data. A token for private ones is read from GRADER_GIT_TOKEN."""
    loaded = load(course)
    try:
        rows = read_list(list_)
        with progress_bar() as progress:
            bar = progress.add_task("collecting", total=len(rows))
            record = collect(
                rows,
                loaded,
                out,
                server=server,
                token=os.environ.get("GRADER_GIT_TOKEN", ""),
                on_done=lambda _: progress.update(bar, advance=1),
            )
    except BadInput as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    failed = [entry for entry in record if entry.problem]
    for entry in failed:
        console.print(Text(log_line(f"{entry.student} ({entry.repository}): {entry.problem}"), "red"), soft_wrap=True)
    Console().print(
        Text(f"{len(record) - len(failed)} of {len(record)} submissions are in {out}; {RECORD} there says where they came from.")
    )
    if failed:
        raise typer.Exit(EXIT_PROBLEMS)


app.command()(check)


@app.command()
def stubs(
    check: Annotated[bool, typer.Option("--check", help="Only say which stubs are out of date.")] = False, course: CourseOption = None
) -> None:
    """Make exercises/ from solutions/."""
    loaded = load(course)
    outdated = 0
    for module in loaded.modules:
        path = loaded.stub(module.name)
        try:
            text = make_stub(loaded.solution(module.name).read_text(), [task.name for task in module.tasks])
        except (OSError, SyntaxError) as error:
            raise stop(f"solutions/{module.name}.py can't be read: {error}", EXIT_BAD_INPUT) from None
        if path.is_file() and path.read_text() == text:
            continue
        outdated += 1
        if check:
            console.print(Text(f"{path.relative_to(loaded.root)} is out of date: run `grader stubs`", "red"))
        else:
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, text.encode())
            Console().print(f"wrote {path.relative_to(loaded.root)}")
    if check and outdated:
        raise typer.Exit(EXIT_PROBLEMS)


@app.command()
def hint(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    more: Annotated[int, typer.Option("--more", "-m", count=True, help="One hint more; can be given twice.")] = 0,
    course: CourseOption = None,
) -> None:
    """Give a nudge; with --more the idea; with --more --more the shape of the answer."""
    loaded = load(course)
    try:
        (module,) = loaded.select([], [task])
    except ManifestError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for text in module.task(task).hints[: more + 1]:
        Console().print(Text(text))


@app.command()
def schema() -> None:
    """Print the JSON Schema of results.json."""
    print_json(json_schema())


@app.command()
def doctor(json: JsonOption = False) -> None:
    """Show what confines students' code on this machine, and what came of trying, from inside a worker, what it must not be able to do."""
    from grader.sandbox.supervisor.self_test import inspect_protections
    from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteHandle

    reason, layers = supported(), machine_layers()
    try:
        with ZygoteHandle(layers) as zygote:
            protections = inspect_protections(zygote)
    except ZygoteError as error:
        raise stop(str(error), EXIT_GRADER_FAILED) from None
    official = layers is not None and all(protection.holds for protection in protections if protection.required)
    record = isolation(layers)
    if json:
        report = {"machine": describe_machine(), "official": official, "reason": reason, "layers": record, "protections": protections}
        print_json(msgspec.to_builtins(report))
    else:
        Console().print(_layers_table(record), _protections_table(protections))
        Console().print(
            "Official grading is possible here."
            if official
            else f"Only practice is possible here: {reason or 'a protection does not hold'}."
        )
    if not official:
        raise typer.Exit(EXIT_PROBLEMS)


def _layers_table(record: Isolation) -> Table:
    table = Table("layer", "in force", "keeps student code from", title=describe_machine(), title_justify="left")
    version = f"yes, version {record.landlock_abi}" if record.landlock_abi else ""
    table.add_row("Landlock", _yes(version), "files outside its scratch folder; TCP from version 4, signals and abstract sockets from 6")
    table.add_row("system-call filter", _yes("yes" * record.seccomp), "sockets, processes, tracing, changes of mode, owner and time")
    table.add_row("no capabilities", _yes("yes" * record.confined), "what root may do")
    table.add_row("namespaces", _yes("yes" * record.namespaces, "no (optional)"), "seeing which files exist outside; the network once more")
    table.add_row("limits", _yes("yes"), "endless time, memory, files, threads, output")
    return table


def _protections_table(protections: "list[Protection]") -> Table:
    table = Table("student code can't", "holds", "what came of trying", title="Tried from inside a worker", title_justify="left")
    for protection in protections:
        holds = _yes("yes" * protection.holds, "NO" if protection.required else "no (optional)")
        table.add_row(protection.name, holds, Text(protection.detail))
    return table


def _yes(text: str, otherwise: str = "NO") -> Text:
    return Text(text, "green") if text else Text(otherwise, "bold red" if otherwise.isupper() else "yellow")


# ---- shared


def _plain(module: Module) -> dict[str, Any]:
    tasks = [{"name": task.name, "points": task.points, "minutes": task.minutes} for task in module.tasks]
    return {"name": module.name, "title": module.title, "points": module.points, "minutes": module.minutes, "tasks": tasks}
