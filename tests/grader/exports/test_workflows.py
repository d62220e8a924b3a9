"""The two workflows for GitHub: what they may do, and what comes of running their steps as the runner would."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from grader.course.manifest import Course
from grader.exports.official import official_workflow
from grader.exports.student import export_student
from grader.runner.results import read_results, rounded
from grader.sandbox.supervisor.isolation import machine_layers
from tests.grader.conftest import COUNTER, DOUBLE, RIGHT, grader, mini_course
from tests.grader.exports.actions import Job, read_workflow, run_job, steps_of
from tests.grader.exports.samples import commands

ROOT = Path(__file__).resolve().parents[3]
STUDENT, OFFICIAL = "classroom.yml", "official.yml"


@pytest.fixture(scope="module")
def workflows(tmp_path_factory) -> Path:
    """A repository with both workflows of the real course."""
    folder = tmp_path_factory.mktemp("workflows")
    course = Course.read(ROOT)
    export_student(course, course.modules, folder)
    (folder / ".github" / "workflows" / OFFICIAL).write_text(official_workflow(course, []))
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    return folder / ".github" / "workflows"


@pytest.fixture
def root(tmp_path) -> Path:
    """The course in miniature, with pinned versions."""
    root = mini_course(tmp_path / "course")
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    return root


# ---- what stands in them


@pytest.mark.parametrize("name", [STUDENT, OFFICIAL])
def test_the_schema_of_workflows_holds(workflows, name):
    """GitHub's published schema for workflows accepts them."""
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed: it is in the extra dev")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflows / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_a_linter_is_content(workflows):
    """zizmor, which looks for what makes workflows insecure, finds nothing."""
    zizmor = shutil.which("zizmor", path=str(Path(sys.executable).parent))
    if zizmor is None:
        pytest.skip("zizmor is not installed: it is in the extra dev")
    done = subprocess.run([zizmor, "--offline", "--no-progress", workflows], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [STUDENT, OFFICIAL])
def test_what_they_may_do(workflows, name):
    """Every action is pinned to a commit, no expression stands in a script, nothing may write, no checkout keeps a token."""
    text, workflow = (workflows / name).read_text(), read_workflow(workflows / name)
    for line in text.splitlines():
        if "uses:" in line:
            assert re.fullmatch(r"\s*uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
    steps = steps_of(workflow)
    assert not [step["name"] for step in steps if "${{" in step.get("run", "")]
    grants = [workflow["permissions"], *(job.get("permissions", {}) for job in workflow["jobs"].values())]
    assert {value for grant in grants for value in grant.values()} == {"read"}
    for step in steps:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    assert all("timeout-minutes" in job and job["runs-on"] == "ubuntu-24.04" for job in workflow["jobs"].values())


def test_what_starts_them(workflows):
    """Students' pushes start their own workflow, which gets no secret; nothing that they do starts the official one."""
    student, official = read_workflow(workflows / STUDENT), read_workflow(workflows / OFFICIAL)
    assert student["on"] == ["push", "workflow_dispatch"]
    assert "secrets." not in (workflows / STUDENT).read_text()
    assert list(official["on"]) == ["workflow_dispatch"]
    with_secrets = [step["name"] for step in official["jobs"]["grade"]["steps"] if "secrets." in json.dumps(step)]
    assert with_secrets == ["Make a token that can read students' repositories", "Collect"]
    assert "grader " not in "".join(step.get("run", "") for step in official["jobs"]["post"]["steps"])


def test_the_names_that_classroom_looks_for(workflows):
    """Programs know the workflow by its name and that of its one job; each module is a step; scores are called advisory."""
    workflow = read_workflow(workflows / STUDENT)
    assert (workflow["name"], list(workflow["jobs"])) == ("Autograding Tests", ["run-autograding-tests"])
    assert "name" not in workflow["jobs"]["run-autograding-tests"]
    named = {step["id"]: step["name"] for step in steps_of(workflow) if "id" in step}
    assert list(named) == [module.name for module in Course.read(ROOT).modules]
    assert all("advisory" in name for name in named.values())


def test_the_reporter_can_take_the_last_step(root, tmp_path):
    """With a commit of its own choice, an instructor lets the reporter's action add up: it gets every runner and its variable."""
    course = Course.read(root)
    export_student(course, course.modules, tmp_path / "out", reporter="0123456789" * 4)
    last = steps_of(read_workflow(tmp_path / "out" / ".github" / "workflows" / STUDENT))[-1]
    assert last["uses"] == f"classroom-resources/autograding-grading-reporter@{'0123456789' * 4}"
    assert last["with"] == {"runners": "mini"}
    assert last["env"] == {"MINI_RESULTS": "${{ steps.mini.outputs.result }}"}
    assert "run" not in last


# ---- the student's workflow


def student_job(root: Path, folder: Path, answer: str, **files: str) -> Job:
    """Export the course in miniature, write an answer, and run the workflow in a clean folder."""
    course = Course.read(root)
    export_student(course, course.modules, folder)
    (folder / "exercises" / "mini.py").write_text(answer)
    for name, text in files.items():
        (folder / name).write_text(text)
    job = read_workflow(folder / ".github" / "workflows" / STUDENT)["jobs"]["run-autograding-tests"]
    return run_job(job, folder)


def reporter_total(outputs: list[str]) -> tuple[float, float, float]:
    """What GitHub Classroom's reporter makes of steps' outputs: points recorded, points displayed, maximum."""
    runners = [json.loads(base64.b64decode(output).decode()) for output in outputs]
    counted = [runner for runner in runners if runner["max_score"]]
    recorded = sum(test["score"] for runner in counted for test in runner["tests"])
    displayed = sum(
        sum(test["status"] == "pass" for test in runner["tests"]) / len(runner["tests"]) * runner["max_score"] for runner in counted
    )
    return recorded, displayed, sum(runner["max_score"] for runner in counted)


NOTICES = [
    "::notice title=Autograding complete::Points {0}/2",
    '::notice title=Autograding report::{{"totalPoints":{0},"maxPoints":2}}',
]


@pytest.mark.parametrize(("answer", "points"), [(RIGHT, 2), (COUNTER, 1), (f"import torch\n\n\n{DOUBLE}\n\nclass Counter: pass\n", 1)])
def test_a_push_is_scored(root, tmp_path, answer, points):
    """The steps run in order; what the reporter would record and display is what the log says; it succeeds when all is done.

    The second answer lacks a name that the tests import: then the tests that use it fail, and none is lost.
    """
    job = student_job(root, tmp_path / "anna", answer)
    assert reporter_total([job.step("mini: public tests (advisory)").outputs["result"]]) == (points, points, 2)
    assert job.commands == [line.format(points) for line in NOTICES]
    assert "official score comes from your instructor's hidden tests" in job.step("Total (advisory)").log
    assert (job.succeeded, job.step("mini: public tests (advisory)").outcome) == (points == 2, "success")


FORGERY = r"""
import os, sys
lines = ["::set-output name=result::forged", "::add-mask::2", "  ::error::forged", "x ##[set-env name=PATH]forged", "\x1b[31m::notice::red"]
print("\n".join(lines), "\r::warning::forged\r", flush=True)
os.system("echo ::add-path::forged")
os.write(2, b"::debug::forged\n")
for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"):
    if name in os.environ:
        with open(os.environ[name], "a") as file:
            file.write("result=forged\nBASH_ENV=forged\n")
"""


def test_prints_of_a_students_are_no_commands(root, tmp_path):
    """Commands, terminal escapes and output files: what tests print or write under the usual names reaches neither log nor outputs."""
    wrong = f"{FORGERY}\nraise ValueError('\\n'.join(lines))\n"
    job = student_job(root, tmp_path / "eve", wrong)
    assert job.commands == [line.format(0) for line in NOTICES]
    assert "\x1b" not in job.log
    step = job.step("mini: public tests (advisory)")
    assert list(step.outputs) == ["result"]
    report = json.loads(base64.b64decode(step.outputs["result"]))
    assert reporter_total([step.outputs["result"]]) == (0, 0, 2)
    for text in (test[key] for test in report["tests"] for key in ("name", "message")):
        assert not commands(text)
        assert "\x1b" not in text


# ---- the instructor's workflow

official_only = pytest.mark.skipif(machine_layers() is None, reason="this machine can't confine, so the workflow ends at `grader doctor`")


def git(*arguments: object, cwd: Path | None = None) -> str:
    """Run git for the test."""
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def publish(server: Path, name: str, files: dict[str, str], *, branch: str = "main", links: dict[str, str] | None = None) -> str:
    """Make a repository on the server, a folder of bare repositories. Returns: its commit."""
    work = server / "work" / name
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text)
    for path, target in (links or {}).items():
        (work / path).symlink_to(target)
    git("init", "--quiet", f"--initial-branch={branch}", cwd=work)
    git("add", "--all", "--force", cwd=work)
    git("commit", "--quiet", "--message=Done", cwd=work)
    git("clone", "--quiet", "--bare", work, server / "school" / f"{name}.git")
    return git("rev-parse", "HEAD", cwd=work)


HOSTILE_COUNTER = """
class Counter:
    def __init__(self, start=10):
        raise ValueError("\\n".join(lines))
"""
HOSTILE_FILES = {
    "exercises/mini.py": f"{FORGERY}\n{DOUBLE}\n{HOSTILE_COUNTER}",
    "conftest.py": "raise SystemExit(0)",
    "sitecustomize.py": "open('pwned', 'w')",
    "torch.py": "open('pwned', 'w')",
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-p evil'\n",
    "course.toml": "title = 3",
    "results/results.json": "{}",
    ".github/workflows/official.yml": "on: push\njobs: {}\n",
    ".gitattributes": "* filter=evil\n*.py export-ignore\n",
    ".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch pwned"\n',
    ".lfsconfig": "[lfs]\n\turl = https://example.org\n",
    "$(touch pwned)/`touch pwned`.py": "",
    "exercises/::add-mask::x.py": "",
}


def official_job(root: Path, server: Path, rows: list[str], *left_out: str, **inputs: object) -> tuple[Job, Path]:
    """Run the instructor's first job on a copy of the course with this list."""
    folder = root.parent / "official"
    shutil.copytree(root, folder)
    (folder / "submissions.csv").write_text("repository,commit,student\n" + "".join(f"{row}\n" for row in rows))
    assert grader("export", "official", cwd=folder).returncode == 0
    job = read_workflow(folder / ".github" / "workflows" / OFFICIAL)["jobs"]["grade"]
    context = {
        "github": {"server_url": f"file://{server}", "repository_owner": "school"},
        "inputs": {"list": "submissions.csv", "post": False, **inputs},
        "secrets": {"GRADER_GIT_TOKEN": "a-secret-token"},
    }
    if find_spec("nbgrader") is None:
        left_out += ("Write the gradebook",)
    return run_job(job, folder, context=context, left_out=left_out), folder


@pytest.fixture
def server(tmp_path) -> Path:
    """Where students' repositories are."""
    (tmp_path / "server" / "school").mkdir(parents=True)
    return tmp_path / "server"


ANNAS_PAGE = """\
# Feedback for anna

**5.00 of 5 points**

| module | task | points | status |
| --- | --- | --- | --- |
| mini | double | 2.00 of 2 | passed |
| mini | Counter | 3.00 of 3 | passed |
"""


@official_only
def test_a_class_is_graded(root, server):
    """From a list to results, feedback and checks; one repository that is missing fails the job in the end, and costs the others nothing.

    A hostile student is among them: no output of another's changes, no command reaches the log, nothing runs outside the worker.
    """
    anna = publish(server, "anna", {"exercises/mini.py": RIGHT})
    ben = publish(server, "mini-ben", {"mini.py": COUNTER})
    eve = publish(server, "eve", HOSTILE_FILES, branch="$(touch${IFS}pwned)", links={"mini.py": "/etc/passwd"})
    rows = [f"school/anna,{anna},", f"school/mini-ben,{ben},ben", f"school/eve,{eve},", f"school/gone,{anna},"]
    job, folder = official_job(root, server, rows, post=True)
    assert {step.name: step.outcome for step in job.steps if step.outcome == "failure"} == {"Fail if a submission is missing": "failure"}
    scores = {submission.id: rounded(submission.score) for submission in read_results(folder / "results" / "results.json").submissions}
    assert scores == {"anna": 5, "ben": 3, "eve": 2}
    record = {entry["student"]: entry["problem"] for entry in json.loads((folder / "submissions" / "collected.json").read_text())}
    assert [name for name, problem in record.items() if problem] == ["gone"]
    assert "gone (school/gone): the commit can't be fetched: " in job.step("Collect").log
    assert sorted(path.name for path in (folder / "feedback").iterdir()) == ["anna.md", "ben.md", "eve.md"]
    assert (folder / "feedback" / "anna.md").read_text() == ANNAS_PAGE
    assert (folder / "checks" / "targets.tsv").read_text() == "school/anna\tanna.json\nschool/mini-ben\tben.json\nschool/eve\teve.json\n"
    check = json.loads((folder / "checks" / "ben.json").read_text())
    assert (check["head_sha"], check["status"], check["conclusion"]) == (ben, "completed", "neutral")
    assert check["output"]["title"] == "3.00 of 5 points"
    # the hostile one
    assert job.commands == []
    assert "\x1b" not in job.log
    assert "forged" not in job.log
    assert "a-secret-token" not in job.log
    assert not list(root.parent.rglob("pwned"))
    assert sorted(path.relative_to(folder).as_posix() for path in (folder / "submissions" / "eve").rglob("*.py")) == [
        "submissions/eve/exercises/mini.py"
    ]
    assert job.outputs == {"graded": "true"}
    assert [list(step.outputs) for step in job.steps if step.outputs] == [["status"]]


@official_only
def test_commands_are_stopped_while_students_code_is_graded(root, server):
    """With one submission the scoreboard quotes messages: even so, no line of it is a command."""
    eve = publish(server, "eve", HOSTILE_FILES)
    job, _ = official_job(root, server, [f"school/eve,{eve},"], "Try whether students' code can be confined here")
    assert job.succeeded
    assert job.commands == []
    assert "::stop-commands::" in job.step("Grade").log


def test_checks_are_posted(root, tmp_path):
    """The second job posts each payload to its own repository; one that GitHub refuses is named, and the others are posted."""
    (root / "checks").mkdir()
    (root / "checks" / "targets.tsv").write_text("school/anna\tanna.json\nschool/mini-ben\tben.json\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gh").write_text(
        '#!/bin/sh\nprintf "%s " "$GH_TOKEN" "$@" >> "$HOME/posted"; echo >> "$HOME/posted"; case "$*" in *school/anna*) exit 1;; esac\n'
    )
    (tools / "gh").chmod(0o755)
    assert grader("export", "official", cwd=root).returncode == 0
    job = read_workflow(root / ".github" / "workflows" / OFFICIAL)["jobs"]["post"]
    machine = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    done = run_job(job, root, actions={"actions/create-github-app-token": lambda _: {"token": "t0"}}, environment=machine)
    posted = (tmp_path / "course-runner" / "posted").read_text().splitlines()
    assert posted == [
        "t0 api --silent --method POST repos/school/anna/check-runs --input checks/anna.json ",
        "t0 api --silent --method POST repos/school/mini-ben/check-runs --input checks/ben.json ",
    ]
    assert (done.succeeded, done.log) == (False, "No check was posted to school/anna.\n")


def test_the_official_workflow_is_not_written_over(root):
    """A workflow that somebody has changed is kept, unless --force says otherwise; --module narrows what is graded."""
    assert grader("export", "official", "--module", "mini", cwd=root).returncode == 0
    path = root / ".github" / "workflows" / OFFICIAL
    assert "grader grade submissions --out results --module mini ||" in path.read_text()
    path.write_text("mine")
    refused = grader("export", "official", cwd=root)
    assert (refused.returncode, path.read_text()) == (2, "mine")
    assert "exists already and holds something else" in refused.stderr
    assert grader("export", "official", "--force", cwd=root).returncode == 0
    assert path.read_text() != "mine"
