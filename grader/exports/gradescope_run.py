"""Grade the submission in Gradescope's container with the hidden suites, and write results.json. `run_autograder` calls this.

It fails closed: if the grader can't confine student code, or fails itself, it writes no results.json, and Gradescope reports that the
autograder failed. A submission that can't be graded because of its files gets zero points and the reason.

    python -P -m grader.exports.gradescope_run /autograder
"""

import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from grader.base.exit_codes import EXIT_GRADER_FAILED
from grader.base.files import write_atomically
from grader.course.manifest import Course
from grader.exports.gradescope import Settings, gradescope_results, refusal
from grader.reports.detail import for_students
from grader.runner.results import read_results
from grader.submissions.find import find_submissions
from grader.submissions.sources import BadInput

__all__ = ["main"]

_NO_SCORE = (
    "No score was given: the grader stopped for the reason above. If this container can't confine student code, "
    "grade elsewhere and upload the scores, or read docs/exports.md and export the autograder again with --practice."
)


def main(root: Path) -> int:
    """Grade `root`/submission. Returns: the exit status, which is 0 if results.json was written."""
    settings = msgspec.json.decode((root / "source" / "settings.json").read_bytes(), type=Settings)
    try:
        submissions, _ = find_submissions([root / "submission"], Course.read(root / "source" / "course"), each_is_one=True)
    except BadInput as error:
        return _write(root, refusal(f"Nothing was graded: {error}"))
    if len(submissions) != 1:
        names = ", ".join(submission.id for submission in submissions)
        return _write(root, refusal(f"Nothing was graded: several folders hold modules ({names}). Hand in one set of files."))
    with tempfile.TemporaryDirectory(prefix="gradescope-") as folder:
        out = Path(folder)
        if subprocess.run(_command(root, out, settings), cwd=folder, check=False).returncode:
            print(_NO_SCORE, file=sys.stderr)
            return EXIT_GRADER_FAILED
        results = for_students(read_results(out / "results.json"), date.today())
    return _write(root, gradescope_results(results.submissions[0], results, settings.visibility))


def _command(root: Path, out: Path, settings: Settings) -> list[str]:
    chosen = [part for name in settings.modules for part in ("--module", name)]
    practice = ["--allow-unconfined"] if settings.practice else []
    places = [str(root / "submission"), "--course", str(root / "source" / "course"), "--out", str(out)]
    return [sys.executable, "-P", "-m", "grader", "grade", "--each-is-one", *places, *chosen, *practice]


def _write(root: Path, results: dict[str, Any]) -> int:
    (root / "results").mkdir(parents=True, exist_ok=True)
    write_atomically(root / "results" / "results.json", msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
