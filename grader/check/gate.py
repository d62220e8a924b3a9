"""The content gate: proves that suites reject what they must, accept what they must, and that files and manifest agree.

Everything is graded as a student's submission would be, in confined workers; the banks never run in this process.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from grader.check.evidence import ModuleEvidence, replay_problems
from grader.check.form import course_problems, module_problems, unreadable_files, warnings_of
from grader.check.public import public_problems
from grader.check.replay_process import evidence_of
from grader.check.report import Report
from grader.check.trials import Trial, trials_of
from grader.course.manifest import Course, Module
from grader.protocol.confinement import Layers
from grader.runner.jobs import grade_units
from grader.runner.store import Entry
from grader.runner.units import Unit

__all__ = ["check", "weigh"]


def check(
    course: Course,
    modules: tuple[Module, ...],
    *,
    seed: int,
    seeds: int,
    jobs: int,
    layers: Layers | None,
    on_progress: Callable[[int, int, str], None],
) -> Report:
    """Check the tasks of these modules, references and alternatives under `seeds` seeds that come from `seed`.

    `on_progress` is told how many trials are done, how many there are, and what the last one was. Raises: Refused.
    """
    report = Report(modules=len(modules), tasks=sum(len(module.tasks) for module in modules), warnings=warnings_of(course))
    trials: list[Trial] = []
    readable: list[Module] = []
    for module in modules:
        problems = unreadable_files(course, module)
        report.problems += problems
        if not problems:
            readable.append(module)
            trials += trials_of(course, module, report, seed, seeds)
    verdicts = {(trial.unit.submission, trial.unit.module.name): trial.judge for trial in trials}
    done = 0

    def on_done(unit: Unit, entry: Entry) -> None:
        nonlocal done
        done += 1
        verdicts[unit.submission, unit.module.name](entry.result)
        on_progress(done, len(trials), f"{unit.module.name}: {unit.submission}")

    beside = ThreadPoolExecutor(1)  # what needs no job is done while jobs grade
    try:
        public = beside.submit(public_problems, course, readable)
        replayed = beside.submit(evidence_of, course, tuple(readable), seed)
        read = beside.submit(_read_problems, course, modules, readable)
        grade_units([trial.unit for trial in trials], course, jobs=jobs, layers=layers, on_done=on_done)
        report.problems += public.result() + read.result()
        _add_evidence(report, *replayed.result())
    finally:
        beside.shutdown(cancel_futures=True)  # after a refusal or an interrupt, don't wait for the rest
    for found in (report.survived, report.rejected, report.unjudged, report.problems):
        found.sort()
    return report


def weigh(course: Course, modules: tuple[Module, ...], *, seed: int) -> Report:
    """Only what the points of these tasks rest on. Nothing is graded."""
    report = Report(modules=len(modules), tasks=sum(len(module.tasks) for module in modules))
    report.problems = [problem for module in modules for problem in unreadable_files(course, module)]
    if not report.problems:
        _add_evidence(report, *evidence_of(course, modules, seed))
        report.tests = sum(len(module.tests) for module in report.evidence)
    return report


def _add_evidence(report: Report, evidence: list[ModuleEvidence], problems: list[str]) -> None:
    """Take up what was found, and what is wrong with it."""
    report.evidence = evidence
    report.problems += problems + [problem for module in evidence for problem in replay_problems(module)]


def _read_problems(course: Course, modules: tuple[Module, ...], readable: list[Module]) -> list[str]:
    problems = course_problems(course) if modules == course.modules else []
    for module in readable:
        problems += module_problems(course, module)
    return problems
