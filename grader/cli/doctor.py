"""The command `grader doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grader.base.exit_codes import EXIT_GRADER_FAILED, EXIT_PROBLEMS
from grader.cli.terminal import CourseOption, JsonOption, print_json, stop
from grader.course.manifest import load_course

if TYPE_CHECKING:
    from grader.practice.doctor import Finding
    from grader.sandbox.supervisor.isolation import Isolation
    from grader.sandbox.supervisor.self_test import Protection

__all__ = ["doctor"]


GradingOption = Annotated[bool, typer.Option("--grading", help="Test what confines students' code, also where there are no hidden tests.")]


def doctor(grading: GradingOption = False, json: JsonOption = False, course: CourseOption = None) -> None:
    """Say whether one can practise here, with torch and a GPU; and where there are hidden tests, whether one can grade."""
    from grader.practice.doctor import can_practise, collect, examine

    facts = collect(course)
    findings = examine(facts)
    works = can_practise(findings)
    report: dict[str, Any] = {"practice": {"possible": works, "findings": findings}}
    if not json:
        _print_findings(findings, works=works)
    wanted = grading or _has_hidden_tests(facts.course)
    official = _grading(report, json=json) if works and wanted else works
    if json:
        print_json(report)
    if not official:
        raise typer.Exit(EXIT_PROBLEMS)


def _has_hidden_tests(root: str) -> bool:
    """Whether this is an instructor's course."""
    if not root:
        return False
    course = load_course(Path(root))
    return any(course.hidden_suite(module.name).is_file() for module in course.modules)


def _print_findings(findings: "list[Finding]", *, works: bool) -> None:
    """A sentence for each, and what to do."""
    from grader.practice.doctor import Level

    out = Console()
    good, bad, arrow = ("✓", "✗", "→") if out.encoding.startswith("utf") else ("+", "X", "->")
    signs = {Level.OK: (good, "green"), Level.NOTE: ("!", "yellow"), Level.PROBLEM: (bad, "bold red")}
    for finding in findings:
        sign, style = signs[finding.level]
        lines = Text.assemble((sign, style), f" {finding.sentence}")
        if finding.advice:
            lines.append(f"\n  {arrow} {finding.advice}", "dim" if finding.level is Level.NOTE else "")
        out.print(lines, soft_wrap=True)
    out.print(Text("You can practise here." if works else f"You can't practise here yet: do what stands below the {bad}.", "bold"))


def _grading(report: dict[str, Any], *, json: bool) -> bool:
    """Test the sandbox, and print it or add it to the report. Returns: whether official grading is possible. Raises: typer.Exit."""
    from grader.sandbox.supervisor.isolation import describe_machine, isolation, machine_layers
    from grader.sandbox.supervisor.self_test import inspect_protections
    from grader.sandbox.supervisor.zygote_handle import ZygoteError, ZygoteHandle
    from grader.sandbox.worker.confine import supported

    reason, layers = supported(), machine_layers()
    try:
        with ZygoteHandle(layers) as zygote:
            protections = inspect_protections(zygote)
    except ZygoteError as error:
        raise stop(str(error), EXIT_GRADER_FAILED) from None
    official = layers is not None and all(protection.holds for protection in protections if protection.required)
    record = isolation(layers)
    if json:
        machine = describe_machine()
        report |= {"machine": machine, "official": official, "reason": reason, "layers": record, "protections": protections}
    else:
        Console().print(_layers_table(record, describe_machine()), _protections_table(protections))
        Console().print(
            "Official grading is possible here."
            if official
            else f"Only practice is possible here: {reason or 'a protection does not hold'}."
        )
    return official


def _layers_table(record: "Isolation", machine: str) -> Table:
    table = Table("layer", "active", "keeps student code from", title=machine, title_justify="left")
    version = f"yes, version {record.landlock_abi}" if record.landlock_abi else ""
    table.add_row("Landlock", _yes(version), "files outside its scratch folder; from version 4 TCP, from 6 signals and abstract sockets")
    table.add_row(
        "system-call filter", _yes("yes" * record.seccomp), "sockets, new processes, tracing, changing a file's mode, owner or time"
    )
    table.add_row("no capabilities", _yes("yes" * record.confined), "using the powers of root")
    table.add_row(
        "namespaces", _yes("yes" * record.namespaces, "no (optional)"), "seeing which files exist outside, and the network (a second time)"
    )
    table.add_row("limits", _yes("yes"), "using too much time, memory, disk, threads or output")
    return table


def _protections_table(protections: "list[Protection]") -> Table:
    table = Table("student code can't", "holds", "what happened", title="Tested from inside a worker", title_justify="left")
    for protection in protections:
        holds = _yes("yes" * protection.holds, "NO" if protection.required else "no (optional)")
        table.add_row(protection.name, holds, Text(protection.detail))
    return table


def _yes(text: str, otherwise: str = "NO") -> Text:
    return Text(text, "green") if text else Text(otherwise, "bold red" if otherwise.isupper() else "yellow")
