"""The command `grader doctor`."""

from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grader.base.exit_codes import EXIT_GRADER_FAILED, EXIT_PROBLEMS
from grader.cli.terminal import JsonOption, print_json, stop

if TYPE_CHECKING:
    from grader.sandbox.supervisor.isolation import Isolation
    from grader.sandbox.supervisor.self_test import Protection

__all__ = ["doctor"]


def doctor(json: JsonOption = False) -> None:
    """Show which sandbox layers are active on this machine, and test them from inside a worker."""
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
        report = {"machine": describe_machine(), "official": official, "reason": reason, "layers": record, "protections": protections}
        print_json(msgspec.to_builtins(report))
    else:
        Console().print(_layers_table(record, describe_machine()), _protections_table(protections))
        Console().print(
            "Official grading is possible here."
            if official
            else f"Only practice is possible here: {reason or 'a protection does not hold'}."
        )
    if not official:
        raise typer.Exit(EXIT_PROBLEMS)


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
