"""The command `grader check`."""

import os
from typing import TYPE_CHECKING, Annotated

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
    from grader.check.report import Report

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
    json: JsonOption = False,
    allow_unconfined: UnconfinedOption = False,
    trusted: TrustedOption = False,
    course: CourseOption = None,
) -> None:
    """Check that the suites reject every known wrong answer and accept every right one, and that files and manifest agree."""
    from grader.check.gate import check as run_check
    from grader.check.gate import weigh
    from grader.runner.jobs import Refused
    from grader.sandbox.supervisor.isolation import NotConfined, choose_layers, draw_seed

    loaded = load(course)
    seed = draw_seed() if seed is None else seed
    try:
        modules = loaded.select(module or [], task or [])
        if evidence:
            _show_evidence(weigh(loaded, modules, seed=seed), seed, json=json)
            return
        layers = choose_layers(allow_unconfined=allow_unconfined, trusted=trusted)
        with progress_bar() as progress:
            bar = progress.add_task("checking", total=None)
            report = run_check(
                loaded,
                modules,
                seed=seed,
                seeds=seeds,
                jobs=jobs,
                layers=layers,
                on_progress=lambda done, total, what: progress.update(bar, completed=done, total=total, description=what[:60]),
            )
    except ManifestError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    except (NotConfined, Refused) as error:
        raise stop(str(error), EXIT_GRADER_FAILED) from None
    except KeyboardInterrupt:
        raise stop("Interrupted: nothing was checked to its end.", EXIT_INTERRUPTED) from None
    if json:
        print_json(msgspec.to_builtins(report))
    else:
        for name in report.survived:
            console.print(Text(f"survived: {name}", "red"), soft_wrap=True)
        for problem in report.problems:
            console.print(Text(f"problem: {problem}", "red"), soft_wrap=True)
        rejected = f"{len(report.rejected)} of {report.misconceptions} misconceptions rejected"
        _print_table(report)
        Console().print(
            f"{report.modules} modules, {report.tasks} tasks, {report.tests} hidden tests; {rejected}, {report.alternatives} alternatives, "
            f"{seeds} seeds (from {seed}); {len(report.problems)} problems",
            soft_wrap=True,
        )
    if report.survived or report.problems:
        raise typer.Exit(EXIT_PROBLEMS)


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
        for problem in report.problems:
            console.print(Text(f"problem: {problem}", "red"), soft_wrap=True)
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
