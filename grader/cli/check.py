"""The command `grader check`."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypedDict

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_GRADER_FAILED, EXIT_INTERRUPTED, EXIT_PROBLEMS
from grader.cli.terminal import (
    CourseOption,
    JsonOption,
    ModuleOption,
    TaskOption,
    TrustedOption,
    UnconfinedOption,
    console,
    load,
    print_json,
    progress_bar,
    stop,
)
from grader.course.manifest import ManifestError

if TYPE_CHECKING:
    from grader.check.evidence import ModuleEvidence
    from grader.check.mutants import MutantReport
    from grader.check.naming import NamingReport
    from grader.check.report import Report
    from grader.protocol.confinement import Layers

__all__ = ["check"]


def check(
    module: ModuleOption = None,
    task: TaskOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many fresh seeds references and alternatives are graded with.")] = 20,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**53, help="The number that the fresh seeds are made from (default: a random one).")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many grading processes run at once.")] = min(4, os.cpu_count() or 1),
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Grade nothing; show what points rest on that need no work, or only the student's honesty.")
    ] = False,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Only make small changes to the references, and show those that no test notices.")
    ] = False,
    diagnosis: Annotated[
        bool, typer.Option("--diagnosis", help="Only grade the banks' answers, and show which known mistake each of them is taken for.")
    ] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="With --mutants: judge so many of them, chosen by the course's files.")] = None,
    json: JsonOption = False,
    allow_unconfined: UnconfinedOption = False,
    trusted: TrustedOption = False,
    course: CourseOption = None,
) -> None:
    """Check that the suites reject every known wrong answer and accept every right one, and that files and manifest agree."""
    from grader.check.gate import check as run_check
    from grader.check.gate import weigh
    from grader.check.mutants import judge_mutants
    from grader.check.naming import judge_naming
    from grader.runner.jobs import Refused
    from grader.sandbox.supervisor.isolation import NotConfined, choose_layers, draw_seed

    loaded = load(course)
    seed = draw_seed() if seed is None else seed
    if evidence + mutants + diagnosis > 1:
        raise stop("--evidence, --mutants and --diagnosis are different checks: give one of them.", EXIT_BAD_INPUT)
    if sample is not None and not mutants:
        raise stop("--sample chooses among mutants: add --mutants.", EXIT_BAD_INPUT)
    try:
        modules = loaded.select(module or [], task or [])
        if evidence:
            _show_evidence(weigh(loaded, modules, seed=seed), seed, json=json)
            return
        layers = choose_layers(allow_unconfined=allow_unconfined, trusted=trusted)
        with progress_bar() as progress:
            bar = progress.add_task("checking", total=None)

            def on_progress(done: int, total: int, what: str) -> None:
                progress.update(bar, completed=done, total=total, description=what[:60])

            common: _Common = {"seed": seed, "jobs": jobs, "layers": layers, "on_progress": on_progress}
            if mutants:
                judged = judge_mutants(loaded, modules, sample=sample, **common)
            elif diagnosis:
                naming = judge_naming(loaded, modules, **common)
            else:
                report = run_check(loaded, modules, seeds=seeds, **common)
    except ManifestError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except (NotConfined, Refused) as error:
        raise stop(str(error), EXIT_GRADER_FAILED) from None
    except KeyboardInterrupt:
        raise stop("Interrupted: nothing was checked to its end.", EXIT_INTERRUPTED) from None
    if mutants:
        _show_mutants(judged, seed, json=json)
    elif diagnosis:
        _show_naming(naming, seed, json=json)
    else:
        _show(report, seed, seeds, json=json)


class _Common(TypedDict):
    """What all checks that grade are told."""

    seed: int
    jobs: int
    layers: "Layers | None"
    on_progress: Callable[[int, int, str], None]


def _show(report: "Report", seed: int, seeds: int, *, json: bool) -> None:
    """Print what the gate found. Raises: typer.Exit if something has to be mended."""
    if json:
        print_json(msgspec.to_builtins(report))
    else:
        for name in report.survived:
            console.print(Text(f"survived: {name}", "red"), soft_wrap=True)
        for sentence in report.warnings:
            console.print(Text(f"warning: {sentence}", "yellow"), soft_wrap=True)
        for name in report.unjudged:
            console.print(Text(f"unjudged: {name}: this machine skips all tests of the task", "yellow"), soft_wrap=True)
        _print_problems(report.problems)
        rejected = f"{len(report.rejected)} of {report.misconceptions} misconceptions rejected"
        _print_table(report)
        Console().print(
            f"{report.modules} modules, {report.tasks} tasks, {report.tests} hidden tests; {rejected}, {report.alternatives} alternatives, "
            f"{seeds} seeds (from {seed}); {len(report.problems)} problems, {len(report.unjudged)} misconceptions unjudged",
            soft_wrap=True,
        )
    if report.survived or report.problems:
        raise typer.Exit(EXIT_PROBLEMS)


def _show_mutants(report: "MutantReport", seed: int, *, json: bool) -> None:
    """Print which mutants survived, and the table. Raises: typer.Exit if too many did, or if the list of equivalent ones is wrong."""
    from grader.check.mutants import LEAST_KILLED

    if json:
        print_json(msgspec.to_builtins(report))
    else:
        for mutant in report.survived:
            place = f"solutions/{mutant.module}.py:{mutant.line}"
            console.print(Text(f"survived: {place}: {mutant.task}: {mutant.what}", "red"), soft_wrap=True)
        _print_problems(report.problems)
        table = Table(
            "module",
            *(Column(name, justify="right") for name in ("mutants", "killed", "equivalent", "survived", "share", "need a GPU", "unjudged")),
        )
        for row in report.modules:
            numbers = row.mutants, row.killed, row.equivalent, row.mutants - row.killed - row.equivalent
            table.add_row(row.module, *map(str, numbers), f"{row.share:.1%}", str(row.needs_gpu), str(row.unjudged))
        out = Console()
        out.print(table)
        out.print(
            f"{report.mutants} mutants, {report.killed} killed, {report.equivalent} equivalent, {len(report.survived)} survived, "
            f"{report.needs_gpu} more need a GPU, {report.unjudged} more are unjudged "
            f"({report.share:.1%} killed of those that are not equivalent; at least {LEAST_KILLED:.0%} are due); seed {seed}",
            soft_wrap=True,
        )
    if report.problems or report.share < LEAST_KILLED:
        raise typer.Exit(EXIT_PROBLEMS)


def _show_naming(report: "NamingReport", seed: int, *, json: bool) -> None:
    """Print what known mistakes were taken for. Raises: typer.Exit if one was named wrongly, or if too few were named."""
    from grader.check.naming import LEAST_NAMED

    if json:
        print_json(msgspec.to_builtins(report))
    else:
        out = Console()
        for kind, names, style in (
            ("named wrongly", report.wrong, "red"),
            ("a right answer is named", report.alternatives_named, "red"),
            ("not named, behaves like another", report.alike, ""),
            ("not named, differs from itself", report.unknown, ""),
            ("without its own entry, named as another", report.as_another, ""),
        ):
            for name in names:
                out.print(Text(f"{kind}: {name}", style), soft_wrap=True)
        columns = ("mistakes", "named", "like another", "unknown", "wrongly", "without its entry")
        table = Table("module", *(Column(name, justify="right") for name in columns))
        for row in report.modules:
            table.add_row(row.module, *map(str, (row.mistakes, row.named, row.alike, row.unknown, row.wrong, row.as_another)))
        out.print(table)
        out.print(
            f"{report.named} of {report.mistakes} mistakes named ({report.share:.1%}; at least {LEAST_NAMED:.0%} are due), "
            f"{len(report.wrong)} wrongly; {len(report.as_another)} would be named as another without their own entry; "
            f"{len(report.alternatives_named)} of {report.alternatives} right answers named; seed {seed}",
            soft_wrap=True,
        )
    if report.wrong or report.alternatives_named or report.share < LEAST_NAMED:
        raise typer.Exit(EXIT_PROBLEMS)


def _print_problems(problems: list[str]) -> None:
    for problem in problems:
        console.print(Text(f"problem: {problem}", "red"), soft_wrap=True)


def _show_evidence(report: "Report", seed: int, *, json: bool) -> None:
    """Print the tests that rest on honesty, with their points, and the table. Raises: typer.Exit if something has to be mended."""
    if json:
        print_json(msgspec.to_builtins(report))
    else:
        out = Console()
        for module in report.evidence:
            for test in module.tests:
                if test.measured:
                    out.print(Text(f"{module.name}: {test.id} ({test.points:.2f} points) rests on {test.measured}"), soft_wrap=True)
        _print_problems(report.problems)
        _print_table(report)
        out.print(f"{report.modules} modules, {report.tasks} tasks, {report.tests} hidden tests, seed {seed}", soft_wrap=True)
    if report.problems:
        raise typer.Exit(EXIT_PROBLEMS)


def _print_table(report: "Report") -> None:
    """What points rest on, by module and in all."""
    if not report.evidence:
        return
    table = Table("module", *(Column(name, justify="right") for name in ("points", "replayed", "constant", "by luck", "on honesty")))
    rows = [(part.name, _figures(part)) for part in report.evidence]
    if len(rows) > 1:
        rows.append(("all", [sum(column) for column in zip(*(figures for _, figures in rows), strict=True)]))
    for name, (points, replayed, constant, luck, measured) in rows:
        if points:  # else every test needs a GPU
            shares = [f"{part:.2f} ({part / points:.1%})" for part in (replayed, measured)]
            table.add_row(name, f"{points:g}", shares[0], f"{constant:.2f}", f"{luck:.2f}", shares[1])
    Console().print(table)


def _figures(part: "ModuleEvidence") -> list[float]:
    return [part.points, part.replayed, part.constant, part.once - part.replayed, part.measured]
