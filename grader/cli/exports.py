"""The commands `grader export …`."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from fractions import Fraction
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from grader.base.exit_codes import EXIT_BAD_INPUT, EXIT_GRADER_FAILED
from grader.base.outcome import Status
from grader.cli.terminal import CourseOption, ModuleOption, PathOption, console, load, stop
from grader.course.manifest import MANIFEST, Course, ManifestError, Module
from grader.exports import classroom50, gradescope
from grader.exports.classroom50_result import BadIdentity, Identity
from grader.exports.escape import file_name, log_line
from grader.exports.files import WouldOverwrite, chosen, write_files
from grader.exports.github_classroom import reporter_files
from grader.exports.gradebooks import Sheet, days_late, filled, plain_sheet
from grader.reports.detail import for_students
from grader.reports.rules import mark
from grader.runner.results import Results, ResultsError, read_results, rounded
from grader.submissions.roster import Roster
from grader.submissions.sources import BadInput

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write files that other programs read: nbgrader, GitHub, Classroom 50, Gradescope.")

ResultsArgument = Annotated[Path, typer.Argument(metavar="RESULTS.JSON", help="The results.json that `grader grade` wrote.")]
OutOption = Annotated[Path, typer.Option(help="The folder to write to.")]
SubmissionOption = Annotated[list[str] | None, typer.Option("--submission", "-s", help="Only this submission; can be given again.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing files.")]


@app.callback()
def export() -> None:
    """Write files that other programs read: nbgrader, GitHub, Classroom 50, Gradescope."""


@app.command("github-classroom")
def github_classroom(
    results: ResultsArgument, out: OutOption = Path("github-classroom"), submission: SubmissionOption = None, force: ForceOption = False
) -> None:
    """Write JSON for GitHub Classroom's reporter, one file for each submission and module."""
    try:
        files = reporter_files(_for_students(results), submission or ())
    except ResultsError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(out, files, force)


@app.command()
def student(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder, or a clone of an empty repository.")],
    module: ModuleOption = None,
    path: PathOption = None,
    update: Annotated[bool, typer.Option("--update", help="Update an earlier export. Existing exercises are kept.")] = False,
    reporter_commit: Annotated[
        str | None,
        typer.Option(
            "--reporter",
            metavar="COMMIT",
            help="End the workflow with this commit of classroom-resources/autograding-grading-reporter instead of our own total.",
        ),
    ] = None,
    course: CourseOption = None,
) -> None:
    """Write the repository for students: stubs, public tests, first hints and a workflow. It holds no answers."""
    from grader.exports.student import CannotExport, export_student

    loaded = load(course)
    try:
        modules = _chosen(loaded, module, path)
        kept = export_student(loaded, modules, folder, update=update, reporter=reporter_commit)
    except (ManifestError, CannotExport) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for file in kept:
        console.print(Text(f"Kept {file} as it was.", "yellow"), soft_wrap=True)
    Console().print(Text(f"Written to {folder}: {', '.join(module.name for module in modules)}"), soft_wrap=True)


@app.command()
def official(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The private repository of the course.")] = Path(),
    module: ModuleOption = None,
    path: PathOption = None,
    force: ForceOption = False,
    course: CourseOption = None,
) -> None:
    """Write a workflow for the course's private repository that grades students' repositories."""
    from grader.exports.official import WORKFLOW, official_workflow
    from grader.exports.student import CannotExport

    loaded = load(course)
    try:
        text = official_workflow(loaded, [one.name for one in _chosen(loaded, module, path)] if module or path else [])
    except (ManifestError, CannotExport) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(folder, {WORKFLOW: text.encode()}, force)


@app.command()
def feedback(results: ResultsArgument, out: OutOption = Path("feedback"), force: ForceOption = False) -> None:
    """Write one Markdown file for each student, with the score and, for each task, what went wrong."""
    from grader.exports.markdown import feedback_files

    _write(out, feedback_files(_for_students(results)), force)


@app.command()
def checks(
    results: ResultsArgument,
    collected: Annotated[Path, typer.Option(help="The collected.json that `grader collect` wrote. It says which commit belongs to whom.")],
    out: OutOption = Path("checks"),
    force: ForceOption = False,
) -> None:
    """Write check runs for GitHub's API, which show each score beside its commit. Nothing is posted."""
    from grader.exports.github_checks import check_files
    from grader.submissions.collect import read_record

    try:
        files, unknown = check_files(_for_students(results), read_record(collected))
    except BadInput as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(out, files, force)
    for id in unknown:
        console.print(Text(f"{log_line(id, 100)} is not in {collected}: no check was written for it.", "yellow"), soft_wrap=True)


@app.command("classroom50")
def classroom50_result(
    results: ResultsArgument,
    submission: Annotated[str, typer.Option("--submission", "-s", help="The submission.")],
    out: OutOption = Path("classroom50"),
    record: Annotated[Path | None, typer.Option(help="An earlier result.json of this submission; replaces the options below.")] = None,
    classroom: Annotated[str, typer.Option(help="The classroom's short name.")] = "",
    assignment: Annotated[str, typer.Option(help="The assignment's short name.")] = "",
    kind: Annotated[str, typer.Option("--type", help="individual or group.")] = "individual",
    owner: Annotated[str, typer.Option(help="The student or group that owns the repository, as in its name.")] = "",
    repository: Annotated[str, typer.Option(help="OWNER/NAME on GitHub.")] = "",
    commit: Annotated[str, typer.Option(help="The graded commit.")] = "",
    committed: Annotated[str, typer.Option(help="The commit's time, such as 2026-10-01T12:00:00Z.")] = "",
    tag: Annotated[str, typer.Option(help="The submission's tag: submit/…")] = "",
    review: Annotated[str, typer.Option(help="The address of the comparison with the starter code (default: the commit's address).")] = "",
    server: Annotated[str, typer.Option(help="GitHub's address.")] = "https://github.com",
    force: ForceOption = False,
) -> None:
    """Write Classroom 50's result.json for one submission, with the official score in hundredths of a point."""
    try:
        if record:
            identity = Identity.from_record(_json(record))
        else:
            at = f"{server}/{repository}" if repository else ""
            link = f"{at}/commit/{commit}" if at and commit else ""
            release = f"{at}/releases/tag/{quote(tag, safe='')}" if at and tag else ""
            identity = Identity(classroom, assignment, kind, owner, tag, link, release, review or link, committed)
        (graded,) = chosen(_for_students(results), [submission])
        plain = classroom50.official_result(graded, identity, datetime.now(UTC))
    except BadIdentity as error:
        where = f"{record}: " if record else ""
        raise stop(f"{where}{error}", EXIT_BAD_INPUT) from None
    except ResultsError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(out, {"result.json": msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"}, force)


@app.command("classroom50-autograder")
def classroom50_autograder(
    out: OutOption = Path("autograder"),
    module: ModuleOption = None,
    path: PathOption = None,
    force: ForceOption = False,
    course: CourseOption = None,
) -> None:
    """Write an autograder for Classroom 50. It runs the public tests only, because everybody can read its files."""
    loaded = load(course)
    try:
        files = classroom50.autograder_files(loaded, _chosen(loaded, module, path))
    except ManifestError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(out, files, force)


VisibilityOption = Annotated[gradescope.Visibility, typer.Option(help="When students see the tests.", case_sensitive=True)]


@app.command()
def marks(
    results: ResultsArgument,
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("marks.csv"),
    sheet: Annotated[
        Path | None, typer.Option(help="What Canvas (gradebook) or Moodle (grading worksheet) exports: it is filled in for import.")
    ] = None,
    column: Annotated[str, typer.Option(help="The assignment's column in Canvas's gradebook, such as Warmup.")] = "",
    out_of: Annotated[float | None, typer.Option(min=0.01, help="The platform's full points (default: points as they are).")] = None,
    roster: Annotated[Path | None, typer.Option(help="The class list that `grader grade --roster` was given.")] = None,
    late: Annotated[Path | None, typer.Option(help="A CSV file with the columns id and days, for the rule about lateness.")] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Enter students without a full verdict, too.")] = False,
    force: ForceOption = False,
    course: CourseOption = None,
) -> None:
    """Write marks by the rules of the course, as a table of their own or into a gradebook of Canvas or Moodle."""
    read, loaded = _read(results), load(course)
    try:
        if late and not loaded.rules.late_per_day:
            raise BadInput("course.toml has no rule about lateness: add late_per_day under [rules], or leave --late out")
        days = days_late(late) if late else {}
        unfinished = {one.submission: one.sentence for one in read.problems} if not incomplete else {}
        made = {one.id: mark(one, loaded.rules, days) for one in read.submissions}
        if sheet is None:
            text = plain_sheet(made, {one.id: (rounded(one.score), one.max_score) for one in read.submissions}, unfinished)
        else:
            made = {id: one for id, one in made.items() if id not in unfinished}
            done = filled(
                Sheet.read(sheet), column, made, Fraction(repr(out_of)) if out_of else None, Roster.read(roster) if roster else Roster()
            )
            text = done.text
            for what, names in (("Nobody in the gradebook is", done.without_row), ("No result, so no mark, for", done.without_result)):
                if names:
                    console.print(Text(log_line(f"{what}: {'; '.join(names)}.", 2000), "yellow"), soft_wrap=True)
    except BadInput as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    if unfinished:
        sentence = f"Without a full verdict, so without a mark (problems.csv says why): {', '.join(sorted(unfinished))}."
        console.print(Text(log_line(sentence, 2000), "yellow"), soft_wrap=True)
    if unknown := [id for id in days if id not in {one.id for one in read.submissions}]:
        console.print(Text(log_line(f"Late, but without a result: {', '.join(unknown)}.", 2000), "yellow"), soft_wrap=True)
    _write(out.parent, {out.name: text.encode()}, force)


@app.command("gradescope")
def gradescope_results(
    results: ResultsArgument,
    out: OutOption = Path("gradescope"),
    visibility: VisibilityOption = "after_due_date",
    submission: SubmissionOption = None,
    force: ForceOption = False,
) -> None:
    """Write Gradescope's results.json for each submission."""
    try:
        read = _for_students(results)
        made = {
            f"{file_name(graded.id)}/results.json": gradescope.gradescope_results(graded, read, visibility)
            for graded in chosen(read, submission or ())
        }
    except ResultsError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(out, {name: msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n" for name, plain in made.items()}, force)


@app.command("gradescope-autograder")
def gradescope_autograder(
    out: Annotated[Path, typer.Option(help="The zip file to write.")] = Path("gradescope-autograder.zip"),
    module: ModuleOption = None,
    path: PathOption = None,
    visibility: VisibilityOption = "after_due_date",
    practice: Annotated[
        bool,
        typer.Option("--practice", help="Grade even if the container can't confine students' code, which can then read the hidden tests."),
    ] = False,
    force: ForceOption = False,
    course: CourseOption = None,
) -> None:
    """Write the zip of an autograder for Gradescope. It holds the hidden suites and the solutions, so give it to nobody but Gradescope."""
    loaded = load(course)
    try:
        modules = _chosen(loaded, module, path)
        settings = gradescope.Settings([chosen.name for chosen in modules], visibility, practice)
        files = gradescope.autograder_files(loaded, modules, settings)
    except ManifestError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    _write(out.parent, {out.name: gradescope.zipped(files)}, force)


@app.command()
def nbgrader(
    folder: Annotated[
        Path, typer.Argument(metavar="COURSE_DIR", help="The folder for nbgrader's course. It is made if it does not exist.")
    ],
    module: ModuleOption = None,
    path: PathOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite notebooks and files that differ.")] = False,
    course: CourseOption = None,
) -> None:
    """Write a course for nbgrader: notebooks, public tests, and a configuration that grades in our confined workers."""
    from grader.exports.nbgrader.course import ExportError, write_course

    loaded = load(course)
    try:
        modules = _chosen(loaded, module, path)
        located = str(course) if course and course.is_absolute() else None
        written = write_course(loaded, modules, folder, located=located, force=force)
    except (ExportError, ManifestError, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for sentence in written.kept:
        console.print(Text(sentence, "yellow"), soft_wrap=True)
    Console().print(f"wrote {len(written.files)} files to {folder}", soft_wrap=True)
    Console().print(f"next: cd {folder} && nbgrader generate_assignment {modules[0].name}", soft_wrap=True)


@app.command()
def gradebook(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The results.json that `grader grade` wrote.")],
    course: Annotated[
        Path | None, typer.Option(help="nbgrader's course folder, or the folder of the exercises, which holds course.toml.")
    ] = None,
    course_dir: Annotated[
        Path | None, typer.Option(help="nbgrader's course folder, if --course names the folder of the exercises.")
    ] = None,
    replace: Annotated[bool, typer.Option(help="Replace scores that nbgrader's autograding gave.")] = False,
) -> None:
    """Write scores into nbgrader's gradebook, for work handed in as files. Manual scores stay, and a second run changes nothing."""
    if course is not None and course_dir is None and not (course / MANIFEST).is_file():
        course, course_dir = None, course  # nbgrader's users call that folder the course
    if course_dir is None:
        raise stop("name nbgrader's course folder with --course-dir (it may be empty)", EXIT_BAD_INPUT)
    if not course_dir.is_dir():
        raise stop(f"{course_dir} is not a folder: make it first, or name nbgrader's course folder", EXIT_BAD_INPUT)
    from grader.exports.nbgrader.course import ExportError, needs_nbgrader

    try:
        needs_nbgrader()
    except ExportError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    from grader.exports.nbgrader.gradebook import GradebookError, export_gradebook

    try:
        exported = export_gradebook(for_students(read_results(results), date.today()), load(course), course_dir, replace=replace)
    except (GradebookError, ResultsError, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    for sentence in exported.skipped:
        console.print(Text(sentence, "yellow"), soft_wrap=True)
    for sentence in exported.faults:
        console.print(Text(sentence, "red"), soft_wrap=True)
    Console().print(f"grades in {course_dir}: {exported.written}, of them new or changed: {exported.changed}", soft_wrap=True)
    if exported.faults:
        raise typer.Exit(EXIT_GRADER_FAILED)


def _json(path: Path) -> object:
    """Read a file of JSON. Raises: typer.Exit."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise stop(f"{path} can't be read: {error}", EXIT_BAD_INPUT) from None


def _for_students(path: Path) -> Results:
    """Read results.json with as much of its messages as students may see today. Raises: typer.Exit."""
    return for_students(_read(path), date.today())


def _read(path: Path) -> Results:
    """Read results.json, and warn about anything that makes its scores doubtful. Raises: typer.Exit."""
    try:
        results = read_results(path)
    except ResultsError as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    if not results.isolation.confined:
        console.print(Text("Practice mode: students' code was not confined, so these scores can't be trusted.", "yellow"), soft_wrap=True)
    for submission in results.submissions:
        faults = [task.name for module in submission.modules for task in module.tasks if task.status is Status.GRADER_ERROR]
        if faults:
            sentence = f"{submission.id}: the grader itself failed on {', '.join(faults)}. These points are missing: grade again."
            console.print(Text(log_line(sentence, 1000), "yellow"), soft_wrap=True)
    return results


def _write(out: Path, files: Mapping[str, bytes], force: bool) -> None:
    """Write the files and say so. Raises: typer.Exit."""
    try:
        write_files(out, files, replace=force)
    except (WouldOverwrite, OSError) as error:
        raise stop(str(error), EXIT_BAD_INPUT) from None
    console.print(Text(f"Written to {out}: {len(files)} file{'s' * (len(files) != 1)}."), soft_wrap=True)


def _chosen(course: Course, modules: list[str] | None, path: str | None) -> tuple[Module, ...]:
    """The modules that are named, or those of a path, or all. Raises: ManifestError."""
    return (course.along(path) if path else course).select(modules or [], [])
