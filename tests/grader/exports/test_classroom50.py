"""Classroom 50: the official result, and the autograder run as its contract says, on good, partial and hostile repositories."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import msgspec
import pytest

from grader.base.outcome import Status
from grader.course.manifest import Course, ManifestError
from grader.exports import autograder
from grader.exports.classroom50 import autograder_files, official_result, public_tests_of
from grader.exports.classroom50_result import BadIdentity, Identity
from grader.sandbox.worker.confine import supported
from tests.grader.conftest import RIGHT, grader, mini_course
from tests.grader.exports.samples import commands, hostile_submission, outcome, outputs, results, submission

OWN_SCHEMA = Path(__file__).with_name("classroom50-result.schema.json")
THEIR_SCHEMA = Path(__file__).parents[4] / "shared" / "formats" / "classroom50-result-v1.schema.json"
NOW = datetime(2026, 10, 2, 9, 30, tzinfo=UTC)
URL = "https://github.com/uni/course-week1-anna"
IDENTITY = Identity(
    "course",
    "week1",
    "individual",
    "anna",
    "submit/2026-10-01T12-00-00Z-a1b2c3d",
    f"{URL}/commit/a",
    f"{URL}/r",
    f"{URL}/c",
    "2026-10-01T11:59:58Z",
)


def accepted(record: dict, identity: Identity = IDENTITY) -> dict:
    """The record, after what Classroom 50 demands of it, in its schema and in code."""
    jsonschema.validate(record, json.loads(OWN_SCHEMA.read_text()), jsonschema.Draft202012Validator)
    if THEIR_SCHEMA.is_file():
        jsonschema.validate(record, json.loads(THEIR_SCHEMA.read_text()), jsonschema.Draft202012Validator)
    assert (record["classroom"], record["assignment"], record["owner"]) == (identity.classroom, identity.assignment, identity.owner)
    for part in (record, *record["tests"]):
        assert type(part["score"]) is type(part["max-score"]) is int
        assert part["score"] <= part["max-score"]
    assert sum(test["score"] for test in record["tests"]) == record["score"]
    assert sum(test["max-score"] for test in record["tests"]) == record["max-score"]
    return record


@pytest.mark.skipif(not THEIR_SCHEMA.is_file(), reason="Classroom 50's own schema is not kept beside this repository")
def test_the_schemas_agree_on_what_is_wrong():
    """Whatever one field's absence or wrong type is to theirs, it is to ours."""
    good = official_result(hostile_submission(), IDENTITY, NOW)
    ours, theirs = (jsonschema.Draft202012Validator(json.loads(path.read_text())) for path in (OWN_SCHEMA, THEIR_SCHEMA))
    for name in good:
        for value in (None, "", 1, -1, "x", "submit/x", [], [{}], {"username": "a"}, 1.5, True, "2026-10-01T25:00:00Z"):
            assert ours.is_valid({**good, name: value}) == theirs.is_valid({**good, name: value}), (name, value)
        missing = {key: good[key] for key in good if key != name}
        assert ours.is_valid(missing) == theirs.is_valid(missing), name


def test_the_times_are_the_commits_and_the_runs():
    """`datetime` stays on every regrade, `graded_at` is when this was graded."""
    record = official_result(submission({"double": (2.0, [outcome(Status.PASSED)])}), IDENTITY, NOW)
    assert (record["datetime"], record["graded_at"]) == ("2026-10-01T11:59:58Z", "2026-10-02T09:30:00Z")


@pytest.mark.parametrize(
    ("field", "value"),
    [("classroom", ""), ("owner", ""), ("submission", "v1"), ("datetime", "yesterday"), ("assignment_type", "team"), ("commit", "")],
)
def test_an_identity_that_would_be_refused_is_refused_here(field, value):
    """With the name of what is wrong."""
    fields = {name: getattr(IDENTITY, name) for name in Identity.__dataclass_fields__}
    with pytest.raises(BadIdentity, match=field):
        Identity(**{**fields, field: value})


def test_older_runners_and_missing_history():
    """REVIEW_URL falls back to the commit's address, the commit's time to the tag's."""
    identity = Identity.from_environment({name: value for name, value in contract().items() if name != "REVIEW_URL"}, None)
    assert (identity.review, identity.datetime) == (contract()["COMMIT_URL"], "2026-10-01T12:00:00Z")
    assert Identity.from_environment({**contract(), "ASSIGNMENT_TYPE": "team"}, NOW).assignment_type == "group"
    with pytest.raises(BadIdentity, match="submission is missing"):
        Identity.from_environment({name: value for name, value in contract().items() if name != "SUBMISSION_TAG"}, None)


def test_the_command(tmp_path):
    """By options or by an earlier result.json; what is missing is named."""
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(results(submission({"double": (2.0, [outcome(Status.PASSED)])}))))
    command = ["export", "classroom50", "results.json", "--submission", "anna"]
    options = [
        "--classroom",
        "course",
        "--assignment",
        "week1",
        "--owner",
        "anna",
        "--repository",
        "uni/course-week1-anna",
        "--commit",
        "a" * 40,
    ]
    times = ["--committed", "2026-10-01T11:59:58Z", "--tag", IDENTITY.submission]
    done = grader(*command, *options, *times, "--out", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = accepted(json.loads((tmp_path / "first/result.json").read_text()))
    assert first["commit"] == first["review"] == f"{URL}/commit/{'a' * 40}"
    assert first["release"] == f"{URL}/releases/tag/submit%2F2026-10-01T12-00-00Z-a1b2c3d"
    assert grader(*command, "--record", "first/result.json", "--out", "second", cwd=tmp_path).returncode == 0
    second = json.loads((tmp_path / "second/result.json").read_text())
    assert {**second, "graded_at": ""} == {**first, "graded_at": ""}
    for bad, sentence in ((options, "datetime is missing"), (["--record", "results.json"], "no result.json of classroom50")):
        done = grader(*command, *bad, *times[2:], cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert sentence.split()[0] in done.stderr


# ---- the autograder


def contract() -> dict[str, str]:
    """What Classroom 50's runner sets."""
    return {
        "CLASSROOM": "course",
        "ASSIGNMENT": "week1",
        "ASSIGNMENT_TYPE": "individual",
        "USERNAME": "anna",
        "OWNER": "anna",
        "SUBMISSION_TAG": IDENTITY.submission,
        "COMMIT_URL": f"{URL}/commit/a",
        "RELEASE_URL": f"{URL}/releases/tag/x",
        "REVIEW_URL": f"{URL}/compare/b...a",
        "PAGES_BASE_URL": "https://uni.github.io/classroom50",
        "GITHUB_TOKEN": "secret-of-the-runner",
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The bundle of the course in miniature, where the runner would have unpacked it."""
    root = mini_course(tmp_path_factory.mktemp("course"))
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    folder = tmp_path_factory.mktemp("runtime") / "week1"
    done = grader("export", "classroom50-autograder", "--out", folder, cwd=root)
    assert done.returncode == 0, done.stderr
    return folder


def grade(bundle: Path, checkout: Path) -> tuple[dict, dict[str, str], str]:
    """Run the autograder as the runner does. Returns: result.json, the step's outputs, the log."""
    sink = checkout.parent / "output"
    sink.write_text("base-sha=1\n")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **contract(), "GITHUB_OUTPUT": str(sink)}
    done = subprocess.run(
        [sys.executable, str(bundle / "autograder.py")], cwd=checkout, env=environment, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads((checkout / "result.json").read_text()), outputs(sink.read_text()), done.stdout.decode()


def contents(folder: Path) -> dict[Path, bytes]:
    """The files below a folder, without what Python compiles them to."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def repository(folder: Path, source: str, **others: str) -> Path:
    """A student's checkout, committed at a known time."""
    checkout = folder / "checkout"
    (checkout / "exercises").mkdir(parents=True)
    (checkout / "exercises" / "mini.py").write_text(source)
    for name, text in others.items():
        (checkout / name.replace("__", "/").replace("_dot_", ".")).write_text(text)
    when = {"GIT_COMMITTER_DATE": "2026-10-01T11:59:58Z", "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z"}
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "work"]):
        subprocess.run(["git", *command], cwd=checkout, env={**os.environ, **when}, check=True, timeout=60)
    return checkout


def test_a_right_submission(bundle, tmp_path):
    """Full marks, labelled as advice, at the commit's time."""
    record, written, log = grade(bundle, repository(tmp_path, RIGHT))
    accepted(record)
    assert [(test["test-name"], test["score"], test["max-score"]) for test in record["tests"]] == [
        ("double (advisory: public tests)", 200, 200),
        ("Counter (advisory: public tests)", 300, 300),
    ]
    assert record["datetime"] == "2026-10-01T11:59:58Z"
    assert written == {"base-sha": "1", "status": "success", "summary": "Advisory, from the public tests: 5.00 of 5.00 points"}
    assert "2 passed" in log
    body = (tmp_path / "checkout/release-body.md").read_text()
    assert "This is advice." in body
    assert ("without confinement" in body) == bool(supported())


def test_a_partial_submission(bundle, tmp_path):
    """What passes counts; the first message is in the release's text."""
    record, written, _ = grade(bundle, repository(tmp_path, RIGHT.replace("x + x", "x")))
    assert (accepted(record)["score"], written["status"]) == (300, "failure")
    assert "assert 3\\.0 \\=\\= 6" in (tmp_path / "checkout/release-body.md").read_text()


def test_nothing_handed_in(bundle, tmp_path):
    """Zero, and a reason."""
    checkout = repository(tmp_path, RIGHT)
    (checkout / "exercises/mini.py").unlink()
    (checkout / "exercises/mini.py").symlink_to("/etc/passwd")
    record, _, _ = grade(bundle, checkout)
    assert accepted(record)["score"] == 0
    assert "no regular file" in (checkout / "release-body.md").read_text()


FORGED = '{"schema": "classroom50/result/v1", "score": 99999, "max-score": 99999}'
HOSTILE = """
import os, sys
FORGED = %r
print("::set-output name=summary::forged")
print("::error::forged" + chr(13) + "::warning::forged")
print("##[error]forged", file=sys.stderr)
print(FORGED)
for path in %r:
    try:
        open(path, "a").write(FORGED + chr(10) + "status=success" + chr(10))
    except OSError as error:
        print("refused", error)
print("environment", sorted(os.environ), os.environ.get("GITHUB_OUTPUT"))
try:
    print("token", "secret-of-the-runner" in open("/proc/%%d/environ" %% os.getppid()).read())
except OSError:
    print("token refused")
%s
"""
CONFTEST = "import pytest\n\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_runtest_makereport(item, call):\n    call.excinfo = None\n"
STUB = """

def double(x):
    raise ValueError(f"seen: {[name for name in os.environ if name.lower().startswith(('github', 'classroom', 'submission'))]}")


class Counter:
    pass
"""


@pytest.mark.skipif(bool(supported()), reason="needs confinement")
@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.kill(os.getppid(), 9); os.fork()"])
def test_a_hostile_submission(bundle, tmp_path, end):
    """Prints forged commands and results, writes files, brings a conftest.py, dies: no output changes, and it earns nothing."""
    checkout, sink = tmp_path / "checkout", tmp_path / "output"
    targets = [checkout / "result.json", checkout / "release-body.md", sink, bundle / "assignment.json", bundle / "autograder.py"]
    code = HOSTILE % (FORGED, list(map(str, targets)), end) + STUB
    plugins = {"conftest_dot_py": CONFTEST, "pytest_dot_ini": "[pytest]\naddopts = -p evil\n", "sitecustomize_dot_py": "raise SystemExit\n"}
    repository(tmp_path, code, **plugins)
    (checkout / "pytest.py").write_text("raise SystemExit(0)\n")
    (checkout / "tests/public").mkdir(parents=True)
    (checkout / "tests/public/test_mini.py").write_text("def test_double_of_three():\n    pass\n")
    (checkout / "result.json").mkdir()
    (checkout / "result.json" / "x").write_text(FORGED)
    (checkout / "release-body.md").symlink_to(bundle / "autograder.py")
    before = contents(bundle)
    record, written, log = grade(bundle, checkout)
    assert accepted(record)["score"] == 0
    assert written == {"base-sha": "1", "status": "failure", "summary": "Advisory, from the public tests: 0.00 of 5.00 points"}
    assert contents(bundle) == before
    assert not commands(log)
    assert "secret-of-the-runner" not in log
    assert "token True" not in log
    assert bool(end) or "ValueError: seen: []" in log
    assert "forged" not in (checkout / "release-body.md").read_text()
    assert not (checkout / "release-body.md").is_symlink()


def test_tests_that_do_not_end_are_ended(bundle, tmp_path, monkeypatch):
    """A module that never comes back costs the limit and its points, and the reason is told."""
    (tmp_path / "mini.py").write_text("while True:\n    pass\n")
    monkeypatch.setattr(autograder, "SECONDS", 2)
    found = autograder.run_public_tests(bundle, tmp_path, "mini")
    assert (list(found), found[""].message) == ([""], "the tests of mini took longer than 2 seconds")


def test_reports_that_are_no_reports():
    """Lines of another form are left out; a test that failed once has failed."""
    lines = [
        b'{"name": "a", "outcome": "passed", "message": ""}',
        b'{"name": "a", "outcome": "failed", "message": "x"}',
        b"",
        b"[]",
        b"{}",
        b"\xff",
    ]
    lines += [b'{"name": "a", "outcome": "passed", "message": ""}', b'{"name": 3, "outcome": "passed", "message": ""}', b"[" * 100_000]
    found = autograder.read_report(b"\n".join(lines))
    assert list(found) == ["a"]
    assert (found["a"].passed, found["a"].message) == (False, "x")


def test_the_bundle_holds_nothing_hidden():
    """Of the real course: public tests and code of the grader that is public anyway; no hidden test, solution, misconception or hint."""
    course = Course.read(Path(__file__).parents[3])
    files = autograder_files(course, course.modules)
    assert sum(map(len, files.values())) < 10 << 20  # Classroom 50 takes 10 MiB
    assert not [name for name in files if any(word in name for word in ("hidden", "solutions", "misconception", "alternative"))]
    public = {name for name in files if name.startswith("tests/")}
    assert public == {f"tests/public/test_{module.name}.py" for module in course.modules}
    text = b"\n".join(files.values()).decode(errors="replace")
    assert not [task.name for module in course.modules for task in module.tasks if any(hint in text for hint in task.hints)]
    tasks = json.loads(files["assignment.json"])["tasks"]
    assert [task["name"] for task in tasks] == [task.name for module in course.modules for task in module.tasks]
    assert all(task["tests"] for task in tasks)


def test_a_task_without_public_tests_is_named(course):
    """The bundle is not written without it."""
    with pytest.raises(ManifestError, match="no test called test_Counter"):
        public_tests_of(course.modules[0], b"def test_double_of_three():\n    pass\n")


def test_a_real_module(tmp_path):
    """The reference of a module that trains on the digits gets full marks from the bundle's own data."""
    course = Course.read(Path(__file__).parents[3])
    for name, data in autograder_files(course, (course.module("training"),)).items():
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_bytes(data)
    checkout = repository(tmp_path, "")
    shutil.copy(course.solution("training"), checkout / "training.py")
    record, written, log = grade(tmp_path / "bundle", checkout)
    assert (written["status"], record["score"]) == ("success", record["max-score"]), log
