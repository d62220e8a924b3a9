"""The command `grader similar`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text as Words

from grader.base.exit_codes import EXIT_BAD_INPUT
from grader.base.text import without_commands
from grader.cli.terminal import CourseOption, JsonOption, ModuleOption, RosterOption, console, load, print_json, stop
from grader.course.manifest import ManifestError

__all__ = ["similar"]


def similar(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Submissions, as `grader grade` takes them.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("similar.html"),
    least: Annotated[float, typer.Option(min=0.05, max=1, help="Show pairs that share at least this part of what is their own.")] = 0.5,
    module: ModuleOption = None,
    roster: RosterOption = None,
    json: JsonOption = False,
    course: CourseOption = None,
) -> None:
    """Find hand-ins that look alike, and write a page that shows them side by side. Alike is not copied: look before you ask."""
    from grader.base.files import write_atomically
    from grader.course.stubs import handed_out
    from grader.similar.page import page
    from grader.similar.pairs import Text, alike
    from grader.submissions.find import find_submissions
    from grader.submissions.roster import Roster
    from grader.submissions.sources import BadInput

    loaded = load(course)
    try:
        names = [one.name for one in loaded.select(module or [], [])]
        submissions, notes = find_submissions(paths, loaded, Roster.read(roster) if roster else Roster())
    except (BadInput, ManifestError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    sources = [(one.id, name, one.sources[name]) for one in submissions for name in names if name in one.sources]
    texts = [Text(id, name, source.text) for id, name, source in sources if source.text]
    notes += [f"{id}: {source.problem}" for id, _, source in sources if source.problem and not source.missing]
    references = {name: loaded.solution(name) for name in names}
    given = {
        name: [handed_out(loaded, name) or "", path.read_text(encoding="utf-8") if path.is_file() else ""]
        for name, path in references.items()
    }
    pairs = alike(texts, given, least)
    if json:
        plain = ("module", "one", "other", "share")
        print_json([dict(zip(plain, (p.one.module, p.one.student, p.other.student, round(p.share, 3)), strict=True)) for p in pairs])
        return
    for sentence in notes:
        console.print(Words(without_commands(sentence), "yellow"), soft_wrap=True)
    try:
        write_atomically(out, page(pairs, len(texts), least).encode())
    except OSError as error:
        raise stop(f"{out} can't be written: {error.strerror}", EXIT_BAD_INPUT) from None
    table = Table("module", "one", "other", "shared")
    for pair in pairs[:20]:
        cells = (pair.one.module, pair.one.student, pair.other.student, f"{pair.share:.0%}")
        table.add_row(*(Words(without_commands(cell, wrapped=True)) for cell in cells))
    if pairs:
        Console().print(table)
    Console().print(Words(f"Pairs that look alike: {len(pairs)}, among {len(texts)} hand-ins. Side by side: {out}"), soft_wrap=True)
