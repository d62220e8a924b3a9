"""Classes of students whose pages are tested: a plain one, and one that wants to do harm."""

import msgspec

from grader.base.outcome import Status
from grader.runner.results import Problem, Results
from tests.grader.exports.samples import HOSTILE, hostile_submission, outcome, results, submission

P, F, E, N = Status.PASSED, Status.FAILED, Status.ERROR, Status.NOT_IMPLEMENTED
FAULT = "the job died in /srv/grader/secret.py"
NAMED = (
    "values: 3 of 5 are wrong; expected 0.52556, got 1.\nIt looks like this: Divides by n.\nCalled: double(x=0.52556)\nChecked: It doubles."
)
RAISED = "ValueError: 0.52556 (line 3, in double)\nChecked: It doubles."
NAMES = (
    '"><script>window.ran = 1</script>',
    "' onmouseover='window.ran = 2",
    "</script><img src=x onerror=window.ran=3>",
    "../../etc/passwd",
    "Anna",
    "anna",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.annA\x1b[31m\x07",
    "w" * 300,
    "שָׁלוֹם",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "con",
)


def plain_class() -> Results:
    """Five students with a known mistake, an error, a fault of the grader, and one without a verdict; and one who handed in nothing."""
    graded = results(
        submission({"double": (2.0, [outcome(P), outcome(P)]), "Counter": (3.0, [outcome(P)])}, "anna", modules=2),
        submission(
            {"double": (2.0, [outcome(F, 1.0, NAMED, "test_secret"), outcome(P)]), "Counter": (3.0, [outcome(P)])}, "ben", modules=2
        ),
        submission(
            {"double": (2.0, [outcome(E, 1.0, RAISED)]), "Counter": (3.0, [outcome(N, 1.0, "not implemented yet")])}, "cleo", modules=2
        ),
        submission({"double": (2.0, [outcome(P)]), "Counter": (3.0, [outcome(Status.GRADER_ERROR, 1.0, FAULT)])}, "dora", modules=2),
        submission(
            {
                "double": (2.0, [outcome(E, 1.0, "eve.zip seems to hold the work of several students (anna, Zoe Roe).")]),
                "Counter": (3.0, [outcome(N, 1.0, "module1.py was not handed in. ben.py was.")]),
            },
            "eve",
            modules=2,
        ),
    )
    problems = [
        Problem("dora", ["module1"], "The grader itself failed. Grade again; what is done is kept."),
        Problem("eve", ["module0"], "eve.zip seems to hold the work of several students (anna, Zoe Roe)."),
        Problem("eve", ["module1"], "module1.py was not handed in. ben.py was."),
        Problem("finn", [], "Nothing was handed in under this id of the class list."),
    ]
    return msgspec.structs.replace(graded, problems=problems)


def hostile_class() -> Results:
    """Every status with hostile messages, names and reasons."""
    bad = "<script>window.ran = 4</script>'\"</script><!--\N{RIGHT-TO-LEFT OVERRIDE}\x1b[31m"
    named = outcome(F, 1.0, f"values: {bad}\nIt looks like this: {bad}{HOSTILE}\nCalled: f({'x' * 3000})")
    wrong = [submission({f"task{bad}": (2.0, [named]), "W" * 200: (3.0, [outcome(P)])}, name, modules=2) for name in NAMES]
    problems = [Problem(NAMES[0], [bad], bad + HOSTILE), Problem(bad, [], HOSTILE)]
    return msgspec.structs.replace(results(hostile_submission(), *wrong), problems=problems)
