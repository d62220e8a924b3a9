"""`grader collect`: lists as data, repositories as data, tokens out of sight."""

import base64
import json
import os
import subprocess

import pytest

from grader.course.manifest import Course
from grader.submissions.collect import Row, collect, not_collected, read_list, read_record
from grader.submissions.find import find_submissions
from grader.submissions.sources import MAX_SOURCE_BYTES, BadInput
from tests.grader.conftest import RIGHT, grader, mini_course
from tests.grader.exports.test_workflows import publish

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def root(tmp_path):
    """The course in miniature, and a folder for repositories."""
    (tmp_path / "server" / "school").mkdir(parents=True)
    return mini_course(tmp_path / "course")


LISTS = {
    "list.csv": f"\ufeffcommit, repository ,student\r\n{COMMIT},school/mini-ben,ben\r\n\r\n {COMMIT} , school/anna,\r\n",
    "list.json": json.dumps(
        [{"repository": "school/mini-ben", "commit": COMMIT, "student": "ben"}, {"repository": "school/anna", "commit": COMMIT}]
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(tmp_path, name):
    """CSV as spreadsheets write it, and JSON; a student who is not named is called like the repository."""
    (tmp_path / name).write_text(LISTS[name])
    assert read_list(tmp_path / name) == [Row("school/mini-ben", COMMIT, "ben"), Row("school/anna", COMMIT, "anna")]


def test_students_have_the_names_that_they_have(root):
    """Letters of any script, in Unicode's form NFC: the list, the folder and the graded id agree."""
    server = root.parent / "server"
    commit = publish(server, "one", {"mini.py": RIGHT})
    names = ["Jose\u0301 Núñez", "王小明", "o'neil-smith"]
    (root / "list.csv").write_text("repository,commit,student\n" + "".join(f"school/one,{commit},{name}\n" for name in names))
    rows = read_list(root / "list.csv")
    assert [row.student for row in rows] == ["José Núñez", "王小明", "o'neil-smith"]
    record = collect(rows, Course.read(root), root / "out", server=f"file://{server}", token="")
    submissions, notes = find_submissions([root / "out"], Course.read(root))
    assert sorted(submission.id for submission in submissions) == sorted(entry.student for entry in record)
    assert notes == []
    assert read_record(root / "out" / "collected.json") == record


BAD = {
    "no header": (f"school/anna,{COMMIT}\n", "must begin with the line `repository,commit`"),
    "an unknown column": (f"repository,commit,name\nschool/anna,{COMMIT},x\n", "must begin with the line"),
    "nothing": ("repository,commit\n", "lists no repository"),
    "too many cells": (f"repository,commit\nschool/anna,{COMMIT},x\n", "line 2: it has more cells"),
    "a branch": ("repository,commit\nschool/anna,main\n", "line 2: 'main' is not a commit: write its 40 hexadecimal digits"),
    "an option for a commit": ("repository,commit\nschool/anna,--upload-pack=x\n", "is not a commit"),
    "an address": (f"repository,commit\nhttps://github.com/school/anna,{COMMIT}\n", "is not a repository: write OWNER/NAME"),
    "a command": (f"repository,commit\nschool/$(touch pwned),{COMMIT}\n", "is not a repository"),
    "an option": (f"repository,commit\n--upload-pack=x/y,{COMMIT}\n", "is not a repository"),
    "a way out": (f"repository,commit\nschool/..,{COMMIT}\n", "is not a repository"),
    "a protocol": (f"repository,commit\next::sh/x,{COMMIT}\n", "is not a repository"),
    "a path for a student": (f"repository,commit,student\nschool/anna,{COMMIT},../anna\n", "can't name a student"),
    "a folder of ours for a student": (f"repository,commit\nschool/exercises,{COMMIT}\n", "can't name a student"),
    "a student in disguise": (f"repository,commit,student\na/x,{COMMIT},anna\nb/x,{COMMIT},an\u200bna\n", "line 3: anna is also in line 2"),
    "a student's twin": (f"repository,commit,student\na/x,{COMMIT},anna\nb/x,{COMMIT},аnna\n", "line 3: аnna is also in line 2"),
    "an option for a student": (
        f"repository,commit,student\na/x,{COMMIT},-anna\n",
        "can't name a student: use letters, digits, spaces and",
    ),
    "a student twice": (f"repository,commit,student\na/x,{COMMIT},anna\nb/x,{COMMIT},Anna\n", "line 3: Anna is also in line 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_lists_are_2_and_a_sentence(root, what):
    """Status 2, the line that is wrong and what to write, and nothing is fetched."""
    text, sentence = BAD[what]
    (root / "list.csv").write_text(text)
    done = grader("collect", "list.csv", "--server", f"file://{root.parent}/server", cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert not (root / "submissions").exists()


@pytest.mark.parametrize("server", ["http://github.com", "ext::sh", "ssh://github.com", "https://u:p@github.com", "--x"])
def test_only_safe_servers(root, server):
    """Encrypted addresses without a password, or folders."""
    with pytest.raises(BadInput, match="is not a server"):
        collect([Row("school/anna", COMMIT, "anna")], Course.read(root), root / "out", server=server, token="")


def test_what_is_in_the_way_is_kept(root):
    """A folder that holds something is refused, since all of it would be graded."""
    (root / "out").mkdir()
    (root / "out" / "old.py").write_text("")
    with pytest.raises(BadInput, match="is not empty"):
        collect([Row("school/anna", COMMIT, "anna")], Course.read(root), root / "out", server="https://github.com", token="")
    assert [path.name for path in (root / "out").iterdir()] == ["old.py"]


def test_hostile_repositories(root, monkeypatch):
    """Links, huge files, folders called like files, packs without end: each costs its own student only."""
    monkeypatch.setattr("grader.submissions.collect.MOST_BYTES", 1 << 20)
    server = root.parent / "server"
    commits = {
        "anna": publish(server, "anna", {"mini.py": RIGHT}),
        "linked": publish(server, "linked", {"README": "x"}, links={"mini.py": "/etc/passwd", "exercises": "/etc"}),
        "huge": publish(server, "huge", {"mini.py": "#" * 3 * MAX_SOURCE_BYTES}),
        "folder": publish(server, "folder", {"mini.py/mini.py": RIGHT}),
        "endless": publish(server, "endless", {"noise": os.urandom(3 << 20).hex(), "mini.py": RIGHT}),
    }
    rows = [Row(f"school/{name}", commit, name) for name, commit in commits.items()]
    rows += [Row("school/empty", "", "empty"), Row("school/gone", COMMIT, "gone")]
    record = collect(rows, Course.read(root), root / "out", server=f"file://{server}", token="")
    problems = {entry.student: entry.problem for entry in record if entry.problem}
    assert set(problems) == {"linked", "endless", "empty", "gone"}
    assert problems["endless"].endswith("it takes more than 1 MiB: take large files out of the repository and its last commit")
    assert problems["empty"].startswith("the list names no commit for it: its repository is empty")
    assert not_collected(root / "out") == {student: f"school/{student}: {problem}" for student, problem in problems.items()}
    assert problems["linked"] == "the commit holds no module of the course"
    assert read_record(root / "out" / "collected.json") == record
    submissions, _ = find_submissions([root / "out"], Course.read(root))
    assert {submission.id: submission.sources["mini"].problem for submission in submissions} == {
        "anna": "",
        "folder": "",
        "huge": "mini.py can't be read: it is larger than 256 KiB.",
    }


def test_what_is_not_needed_is_not_fetched(root, monkeypatch):
    """Where the server can leave large files out, as GitHub can, they cost nothing; a module that is too large is named."""
    monkeypatch.setattr("grader.submissions.collect.MOST_BYTES", 1 << 20)
    monkeypatch.setattr("grader.submissions.collect._FILTER", "--filter=blob:limit=100000")
    server, noise = root.parent / "server", os.urandom(2 << 20).hex()
    rows = []
    for name, files in {"anna": {"noise": noise, "mini.py": RIGHT}, "ben": {"mini.py": RIGHT, "exercises/mini.py": noise}}.items():
        rows.append(Row(f"school/{name}", publish(server, name, files), name))
        subprocess.run(["git", "-C", server / "school" / f"{name}.git", "config", "uploadpack.allowFilter", "true"], check=True)
    record = collect(rows, Course.read(root), root / "out", server=f"file://{server}", token="")
    assert [entry.problem for entry in record] == [
        "",
        "the commit can't be read: exercises/mini.py was not fetched: it is larger than 32 MiB.",
    ]
    assert (root / "out" / "anna" / "mini.py").read_text() == RIGHT


def test_git_is_told_nothing_but_what_is_needed(root, tmp_path):
    """The token is for one server, in git's environment and on no command line; settings of the user's and hooks have no say."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "git").write_text(f'#!/bin/sh\n{{ echo "$@"; /usr/bin/env; }} >> {tmp_path}/seen\necho "fatal: ::error::no" >&2\nexit 1\n')
    (tools / "git").chmod(0o755)
    (root / "list.csv").write_text(f"repository,commit\nschool/anna,{COMMIT}\n")
    done = grader("collect", "list.csv", cwd=root, PATH=str(tools), GRADER_GIT_TOKEN="t0ken", GIT_SSH_COMMAND="evil", GIT_TRACE="1")
    assert done.returncode == 1
    assert "anna (school/anna): the commit can't be fetched: fatal: ::error::no" in done.stderr
    seen = (tmp_path / "seen").read_text()
    secret = base64.b64encode(b"x-access-token:t0ken").decode()
    header = next(line for line in seen.splitlines() if secret in line)
    number = header.partition("=")[0].removeprefix("GIT_CONFIG_VALUE_")
    assert f"GIT_CONFIG_KEY_{number}=http.https://github.com/.extraHeader" in seen
    assert seen.count(secret) == 1
    assert "t0ken" not in seen.replace(secret, "")
    for setting in ("core.hooksPath", "protocol.allow", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"):
        assert setting in seen
    assert "GIT_TRACE" not in seen
    assert "evil" not in seen
    assert "t0ken" not in done.stderr + done.stdout + json.dumps((root / "submissions" / "collected.json").read_text())


def test_records_are_checked(tmp_path):
    """What a record says goes into addresses: a forged one is refused."""
    (tmp_path / "collected.json").write_text(json.dumps([{"student": "anna", "repository": "../x", "commit": COMMIT}]))
    with pytest.raises(BadInput, match="is not a repository"):
        read_record(tmp_path / "collected.json")
    with pytest.raises(BadInput, match="can't be read"):
        read_record(tmp_path / "nothing.json")
