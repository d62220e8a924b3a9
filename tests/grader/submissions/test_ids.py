"""Ids of submissions: honest ones stay, hostile ones become harmless, and each submission has its own."""

import os
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grader.base.outcome import Status
from grader.exports.markdown import feedback_files
from grader.submissions.find import find_submissions
from grader.submissions.ids import can_name_a_student, distinct_ids, look, submission_id
from tests.grader.conftest import RIGHT, grader, mini_course
from tests.grader.exports.samples import outcome, results, submission
from tests.grader.submissions.samples import TEXT, zipped

HONEST = [
    "José_Núñez 王小明 o'neil-smith",
    "anna",
    "Anna.B-2@v1",
    "a+b@example.org",
    "Łukasz Ångström",
    "Nguyễn Văn Đức",
    "Анна Каренина",
    "Ελένη",
    "محمد",
    "אבגד",
    "नमस्ते",
    "田中 太郎",
    "김철수",
    "0xdeadbeef tmpabcdefgh",
    "s12345678",
    "…",
]


@pytest.mark.parametrize("name", HONEST)
def test_honest_ids_stay(tmp_path, course, name):
    """Letters of any script, digits, spaces and ordinary signs."""
    assert submission_id(name) == name
    (tmp_path / name).mkdir()
    (tmp_path / name / "mini.py").write_text(TEXT)
    submissions, notes = find_submissions([tmp_path], course)
    assert ([one.id for one in submissions], notes) == ([name], [])


HOSTILE = {
    "an\u200bna": "anna",
    "\u3164anna": "anna",
    "an\u034fna": "anna",
    "an\u00adna\ufe0f": "anna",
    "\u202eanna": "anna",
    "\x1b[31manna\x1b[0m\x07": "anna",
    "anna\udcff": "anna",
    "anna\ue000\U000e0041": "anna",
    "an\n\tna": "an na",
    "anna\u2003\u2800b": "anna b",
    "Jose\u0301": "José",
    "": "unnamed",
    "..": "unnamed",
    "\u3164": "unnamed",
    "\u200b\u2060": "unnamed",
    "x" * 101: "x" * 99 + "…",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_nobody_sees_is_in_no_id(name):
    """An id is what a reader sees of a name, in one form of Unicode."""
    assert submission_id(name) == HOSTILE[name]
    assert submission_id(HOSTILE[name]) == HOSTILE[name]


TWINS = {
    "no difference": ("anna", "anna"),
    "case": ("Anna", "anna"),
    "full width": ("anna", "ａｎｎａ"),
    "another alphabet": ("anna", "аnnа"),
    "two forms of Unicode": ("José", "Jose\u0301"),
    "zero width": ("anna", "an\u200bna"),
    "a filler": ("anna", "anna\u3164"),
    "a joiner": ("anna", "an\u034fna"),
    "bytes that are no text": ("anna", "anna\udcff"),
    "a long name": ("x" * 101, "x" * 102),
    "a wide blank": ("anna b", "anna\u3000b"),
}


@pytest.mark.parametrize("what", TWINS)
def test_twins_get_a_number(what):
    """The later one is called otherwise, visibly."""
    first, second = distinct_ids(TWINS[what])
    assert first == submission_id(TWINS[what][0])
    assert second.endswith(" (2)")
    assert len(second) <= 100
    assert look(first) != look(second)


def test_a_disguise_takes_nobodys_id():
    """A name that had to be changed comes last, wherever it stands; a name that looks like a number's stays."""
    assert distinct_ids(["\x01anna", "anna", "anna (2)", "Anna"]) == ["anna (4)", "anna", "anna (2)", "Anna (3)"]


def test_many_twins_take_no_time():
    """Numbers are not counted from 2 again for each."""
    ids = distinct_ids(["anna"] * 5000)
    assert (ids[0], ids[-1], len(set(ids))) == ("anna", "anna (5000)", 5000)


def test_different_names_are_no_twins():
    """Accents, alphabets and ß tell people apart."""
    names = ["Jose", "José", "Weiß", "Weiss", "Anna", "Анна", "l1", "ll", "o", "0"]
    assert distinct_ids(names) == names


@contextmanager
def somebody_without_rights() -> Iterator[Path]:
    """A folder of somebody who is not root, and their rights: root may read everything."""
    folder, before = Path(tempfile.mkdtemp()), os.geteuid()
    try:
        if before == 0:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        os.seteuid(before)
        if before:
            for path in folder.rglob("*"):
                path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize("locked", ["ben", "ben/exercises", "ben/inner", "ben/mini.py", "ben.zip"])
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_what_may_not_be_read_is_a_row(course, locked, mode):
    """A folder or file without rights, at any depth and named in any way, has a problem that says what to do; the others are read."""
    with somebody_without_rights() as root:
        (root / "all" / "anna").mkdir(parents=True)
        (root / "all" / "anna" / "mini.py").write_text(TEXT)
        path = root / "all" / locked
        ben = root / "all" / Path(locked).parts[0]
        if not ben.suffix:
            ben.mkdir()
        if path.suffix:
            path.write_text(TEXT)
            mode = 0o000
        else:
            path.mkdir(exist_ok=True)
            (path / "mini.py").write_text(TEXT)
        path.chmod(mode)
        found = [find_submissions(paths, course) for paths in ([root / "all"], [root / "all" / "anna", ben])]
        path.chmod(0o700)
    for submissions, notes in found:
        assert [one.id for one in submissions] in (["anna", "ben"], ["anna", "inner"])  # a folder may wrap one, or hold several
        assert submissions[0].sources["mini"].text == TEXT
        assert "can't be read: " in submissions[1].sources["mini"].problem
        assert "Permission denied" in submissions[1].sources["mini"].problem
        assert notes == []


def test_every_way_in_shares_the_rule(tmp_path, course):
    """A folder, an archive, a file and a commit of one name are four submissions, with a note for each that is not called so."""
    for name in ("a/mini", "b/MINI", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/mini/mini.py").write_text(TEXT)
    (tmp_path / "b/MINI/mini.py").write_text(TEXT)
    (tmp_path / "c/mini.py").write_text(TEXT)
    zipped(tmp_path / "mi\u200bni.zip", {"mini.py": TEXT})
    paths = [tmp_path / "a/mini", tmp_path / "mi\u200bni.zip", tmp_path / "b/MINI", tmp_path / "c/mini.py"]
    submissions, notes = find_submissions(paths, course)
    assert [one.id for one in submissions] == ["mini", "mini (4)", "MINI (2)", "mini (3)"]
    assert len(notes) == 3
    assert notes[1].endswith("b/MINI is called 'MINI (2)' in all reports, because another submission has that name or looks like it.")
    assert all(note.isprintable() for note in notes)


def test_a_batch_with_clashes_is_graded(tmp_path):
    """Each submission has a row, and the terminal says which is called otherwise."""
    root = mini_course(tmp_path / "course")
    for name in ("x/anna", "y/anna", "y/an\u200bna", "y/ANNA"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mini.py").write_text(RIGHT)
    (tmp_path / "empty").mkdir()
    done = grader("grade", tmp_path / "x", tmp_path / "y", tmp_path / "empty", "--allow-unconfined", cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" in all reports, because another submission has that name or looks like it.") == 3
    rows = (root / "results" / "results.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    assert {row.partition(",")[0] for row in rows} == {"anna", "ANNA (2)", "anna (3)", "anna (4)", "empty"}
    done = grader("export", "feedback", "results/results.json", cwd=root)
    assert "5 files" in done.stderr


def test_every_id_has_a_page_of_its_own():
    """A page's name is nobody else's: not of an id that is spelled like it, and not where case is ignored."""
    ids = ["é", "Anna", "anna", "ANNA", "con", "x" * 150, "x" * 160]
    for _ in range(3):
        ids += [
            name.removesuffix(".md")
            for name in feedback_files(results(*(submission({"a": (1, [outcome(Status.PASSED)])}, id=i) for i in ids)))
        ]
        ids = list(dict.fromkeys(ids))
    files = feedback_files(results(*(submission({"a": (1, [outcome(Status.PASSED)])}, id=id) for id in ids)))
    assert len({name.lower() for name in files}) == len(ids)


NAMES = ["anna", "José", "王小明", "नमस्ते", "o'neil-smith", "a+b@c", "Anna B. C"]


def test_who_can_stand_in_a_list():
    """The names of people can; paths, options and what is too long for a folder can't."""
    assert [name for name in NAMES if not can_name_a_student(name)] == []
    bad = [
        "",
        "..",
        ".anna",
        "-anna",
        "a/b",
        "a\\b",
        "=1",
        "a\u200bb",
        unicodedata.normalize("NFD", "José"),
        "王" * 90,
        "_a",
        "$(x)",
        "a\nb",
    ]
    assert [name for name in bad if can_name_a_student(name)] == []
