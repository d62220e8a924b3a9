"""Downloads of a class: whose each file is, in every layout that we know, and in those where nobody can tell."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from grader.submissions.find import find_submissions, read_submission
from grader.submissions.roster import Roster
from grader.submissions.sources import BadInput
from tests.grader.conftest import SOLUTION, grader, mini_course
from tests.grader.submissions.samples import TEXT, notebook, tarred, zipped

METADATA = """---
submission_1:
  :submitters:
  - :name: Anna Lee
    :sid: s1
    :email: anna@example.org
  :created_at: 2026-11-26 10:00:00.000000000 Z
  :score: !ruby/object:BigDecimal 18:0.1e1
submission_2:
  :submitters:
  - :name: Ben Ott
    :sid: s2
  - :name: Cy Poe
    :sid: s3
  :history:
  - :id: 5
"""
"""What Gradescope writes beside the folders of an export: the second was handed in by a group."""

DOWNLOADS = {
    "Canvas": {"leeanna_1_21_mini.py": "a", "ottben_LATE_2_22_mini-1.ipynb": "b", "poecy_3_23_mini (2).py": "c"},
    "Canvas, several files of a student": {"leeanna_1_21_mini.py": "a", "leeanna_1_24_notes.pdf": "-", "ottben_2_22_mini.py": "b"},
    "Canvas, archives": {"leeanna_1_21_hand-in.zip": {"x/y/mini.py": "a"}, "ottben_2_22_b.tar.gz": {"exercises/mini.py": "b"}},
    "Moodle, folders": {"Lee, Anna_1_assignsubmission_file_/mini.py": "a", "Ott, Ben_2_assignsubmission_file_/week1/mini.ipynb": "b"},
    "Moodle, without folders": {"Anna Lee_1_assignsubmission_file_mini.py": "a", "Ben Ott_2_assignsubmission_file_mini.py": "b"},
    "Moodle, archives": {"Anna Lee_1_assignsubmission_file/mini.zip": {"a/b/mini.py": "a"}, "Ben Ott_2_assignsubmission_file/mini.py": "b"},
    "Gradescope": {
        "assignment_9_export/submission_metadata.yml": METADATA,
        "assignment_9_export/submission_1/mini.py": "a",
        "assignment_9_export/submission_2/hw/mini.py": "b",
    },
    "loose notebooks": {"Anna Lee - mini.ipynb": "a", "Ben Ott - Copy of mini.ipynb": "b", "mini - Cy Poe.ipynb": "c"},
}
IDS = {
    "Canvas": {"leeanna": "a", "ottben": "b", "poecy": "c"},
    "Canvas, several files of a student": {"leeanna": "a", "ottben": "b"},
    "Canvas, archives": {"leeanna": "a", "ottben": "b"},
    "Moodle, folders": {"Lee, Anna": "a", "Ott, Ben": "b"},
    "Moodle, without folders": {"Anna Lee": "a", "Ben Ott": "b"},
    "Moodle, archives": {"Anna Lee": "a", "Ben Ott": "b"},
    "Gradescope": {"Anna Lee": "a", "Ben Ott": "b", "Cy Poe": "b"},
    "loose notebooks": {"Anna Lee": "a", "Ben Ott": "b", "Cy Poe": "c"},
}
BOMB = "a: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
BOMB += "submission_1:\n  :submitters:\n  - :name: *a11\n"
"""A list of aliases whose text would have 9**11 words."""
ROSTER = "id,name,number\nal,Anna Lee,1\nbo,Ben Ott,2\ncp,Cy Poe,3\ndz,Dee Zed,4\n"


def text_of(who: str) -> str:
    """A module that says whose it is."""
    return f"{TEXT}# {who}\n"


def content(name: str, who: str) -> str:
    """The file's content: a module's text, a notebook, or what is given."""
    return notebook(text_of(who)) if name.endswith(".ipynb") else text_of(who) if len(who) < 20 else who


def filled(path: Path, members: dict) -> Path:
    """Write a download: as a zip if the path says so, else as a folder."""
    flat = {}
    for name, value in members.items():
        if isinstance(value, dict):
            inner = path.parent / "inner"
            files = {inside: content(inside, who) for inside, who in value.items()}
            made = zipped(inner, files) if name.endswith(".zip") else tarred(inner, [(n, t.encode()) for n, t in files.items()])
            flat[name] = made.read_bytes()
            inner.unlink()
        else:
            flat[name] = content(name, value).encode()
    if path.suffix == ".zip":
        return zipped(path, flat)
    for name, data in flat.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def owners(path: Path, course, roster: Roster | None = None) -> dict[str, str]:
    """Whose text each submission holds, by id. None if it has no text."""
    submissions, _ = find_submissions([path], course, roster or Roster())
    texts = {one.id: one.sources["mini"].text.strip() for one in submissions if "mini" in one.sources}
    return {id: text.rpartition("# ")[2] for id, text in texts.items()}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("layout", DOWNLOADS)
def test_every_download_gives_each_student_a_row(tmp_path, course, layout, kind):
    """A folder and a zip alike; each student has the own text, and a sentence says what was recognised and whose each file is."""
    path = filled(tmp_path / ("download" if kind == "folder" else "download.zip"), DOWNLOADS[layout])
    assert owners(path, course) == IDS[layout]
    _, notes = find_submissions([path], course)
    what = {"Gradescope": "an export of Gradescope", "loose notebooks": "files with a student's name each"}
    expected = what.get(layout, f"a download of {layout.partition(',')[0]}")
    assert notes[0].startswith(f"{path} is {expected}, with {len(IDS[layout])} students: ")
    assert all(id in notes[0] for id in IDS[layout])


@pytest.mark.parametrize("layout", DOWNLOADS)
def test_a_roster_gives_the_ids(tmp_path, course, layout):
    """Names in either order, Canvas's names and numbers: each finds the id of its student. Who is not there is named."""
    (tmp_path / "roster.csv").write_text(ROSTER)
    roster = Roster.read(tmp_path / "roster.csv")
    found = owners(filled(tmp_path / "download", DOWNLOADS[layout]), course, roster)
    texts = sorted(IDS[layout].values())
    assert found == dict(zip(["al", "bo", "cp"], texts, strict=False))
    assert roster.absent(found) == ["al", "bo", "cp", "dz"][len(found) :]


def test_what_is_nobodys_module_is_a_students_file(tmp_path, course):
    """In Canvas's download, a file that Colab named is handed in, too; among clones, so is a folder without a repository."""
    path = filled(tmp_path / "canvas", {"leeanna_1_21_mini.py": "a", "ottben_LATE_2_22_Untitled0.ipynb": "b", "poecy_3_23_hw.py": "c"})
    assert owners(path, course) == {"leeanna": "a", "ottben": "", "poecy": ""}
    root = filled(tmp_path / "lab-submissions", {"lab-anna/mini.py": "a", "lab-ben/notes.txt": "-"})
    (root / "lab-anna" / ".git").mkdir()
    assert owners(root, course) == {"anna": "a", "ben": ""}


def test_a_first_name_alone_is_nobody(tmp_path, course):
    """Nor is a last name; and where two may be one student of the list, neither is. What the list made of names is said."""
    (tmp_path / "roster.csv").write_text("id,First name,Last name,login\nal,Anna,Lee,lee22\nbo,Ben,Ott,ott\n")
    members = {f"lab-{name}/mini.py": name[0] for name in ("anna", "lee22", "ott", "Ben Ott")}
    root = filled(tmp_path / "lab-submissions", members)
    for name in members:
        (root / name).with_name(".git").mkdir()
    roster = Roster.read(tmp_path / "roster.csv")
    submissions, notes = find_submissions([root], course, roster)
    assert sorted(one.id for one in submissions) == ["Ben Ott", "al", "anna", "ott"]
    assert "By the class list: lee22 is al." in notes
    assert "Ben Ott, ott may each be bo of the class list, so each keeps the name that it has." in notes


def test_names_that_are_as_they_should_be_are_not_blamed(tmp_path, course):
    """A file with the student's name in it is what a folder of Drive needs; a copy by Windows is not."""
    root = filled(tmp_path / "drive", {"Anna Lee - mini.ipynb": "a", "Ben Ott - mini.ipynb": "b"})
    _, notes = find_submissions([root], course)
    assert not any("give it that name" in note for note in notes)
    (tmp_path / "anna").mkdir()
    copy = read_submission(filled(tmp_path / "anna", {"mini - Copy.py": "a"}), course).sources["mini"]
    assert copy.note == "mini - Copy.py was taken for mini.py: give it that name."


def test_clones_beside_a_list(tmp_path, course):
    """The instructor's own file in the folder of clones changes nobody's id, and is named."""
    root = filled(tmp_path / "lab-submissions", {"lab-anna/mini.py": "a", "lab-ben/mini.py": "b", "grades.csv": "-"})
    for name in ("lab-anna", "lab-ben"):
        (root / name / ".git").mkdir()
    assert owners(root, course) == {"anna": "a", "ben": "b"}
    _, notes = find_submissions([root], course)
    assert notes[-1] == f"Not read in {root}: grades.csv."


def test_how_a_roster_may_write_names(tmp_path):
    """First and last name in two columns, and letters that platforms write in their own ways. A stranger is nobody in the list."""
    (tmp_path / "roster.csv").write_text("id,First name,Last name,points\nam,Anna,Müller,3\nøs,Jörg,Østby,3\nli,李,Lee,3\n")
    roster = Roster.read(tmp_path / "roster.csv")
    written = ("Anna Müller", "Müller, Anna", "mulleranna", "muelleranna", "mlleranna", "Anna Mu\u0308ller")
    assert {roster.id_of(name) for name in written} == {"am"}
    assert {roster.id_of(name) for name in ("Jörg Østby", "oestbyjoerg", "stbyjrg")} == {"øs"}
    assert roster.id_of("Lee 李") == "li"
    for stranger in ("Anna Möller", "王 Lee", "3", "Jörg Östby"):
        assert not roster.id_of(stranger), stranger


def test_a_class_in_folders_or_archives(tmp_path, course):
    """A zip of folders, or of archives, has a student in each, if they hold the same module."""
    for name, members in {
        "folders.zip": {"class/anna/mini.py": "a", "class/ben/hw/exercises/mini.py": "b", "class/cy/notes.txt": "-"},
        "archives.zip": {"anna.zip": {"mini.py": "a"}, "ben.tar.gz": {"x/mini.py": "b"}},
    }.items():
        found = owners(filled(tmp_path / name, members), course)
        assert {id: who for id, who in found.items() if who} == {"anna": "a", "ben": "b"}
    assert read_submission(tmp_path / "folders.zip", course).sources["mini"].problem.startswith("class/anna/mini.py and ")


def test_clones_of_github_classroom(tmp_path, course):
    """The assignment's name is left out of the students', whatever the folder is called."""
    for folder in ("warmup-submissions", "clones"):
        for student in ("anna", "ben-x"):
            root = filled(tmp_path / folder / f"warmup-{student}", {"exercises/mini.py": student})
            subprocess.run(["git", "init", "-q", root], check=True)
        assert owners(tmp_path / folder, course) == {"anna": "anna", "ben-x": "ben-x"}
    (tmp_path / "warmup-submissions" / "other").mkdir()
    assert set(owners(tmp_path / "warmup-submissions", course)) == {"other", "warmup-anna", "warmup-ben-x"}


def test_loose_files_that_are_nobodys(tmp_path, course):
    """Where nothing says whose the files are, nothing is graded, and all are named; a roster can say it."""
    members = {"Anna Lee - mini.ipynb": "a", "Copy of mini.ipynb": "b", "mini (1).ipynb": "c", "mini.ipynb": "d"}
    path = filled(tmp_path / "drive", members)
    with pytest.raises(BadInput) as caught:
        find_submissions([path], course)
    assert all(name in str(caught.value) for name in list(members)[1:])
    assert "begin each name with the student" in str(caught.value)
    (tmp_path / "roster.csv").write_text("id,file\nal,Anna Lee\nbo,Copy of mini.ipynb\ncp,mini (1).ipynb\ndz,mini.ipynb\n")
    assert owners(path, course, Roster.read(tmp_path / "roster.csv")) == {"al": "a", "bo": "b", "cp": "c", "dz": "d"}


def test_a_download_beside_others(tmp_path, course):
    """In a folder of submissions, each child is one student's. One that seems to be several students' is a problem that names them."""
    filled(tmp_path / "canvas.zip", DOWNLOADS["Canvas"])
    filled(tmp_path / "moodle", DOWNLOADS["Moodle, folders"])
    filled(tmp_path / "sections", {"anna/mini.py": "a", "ben/mini.py": "b"})
    filled(tmp_path / "drive", {"Anna Lee - mini.ipynb": "a", "Ben Ott - mini.ipynb": "d"})
    filled(tmp_path / "dora", {"mini.py": "e", "mini (1).py": "f"})
    submissions, notes = find_submissions([tmp_path], course)
    assert [one.id for one in submissions] == ["canvas", "dora", "drive", "moodle", "sections"]
    said = "seems to hold the work of several students ("
    problems = {one.id: one.sources["mini"].problem.partition(said)[2].partition(")")[0] for one in submissions}
    assert problems == {
        "canvas": "leeanna, ottben, poecy",
        "dora": "",
        "drive": "Anna Lee, Ben Ott",
        "moodle": "Lee, Anna, Ott, Ben",
        "sections": "anna, ben",
    }
    assert submissions[1].sources["mini"].text.endswith("# e\n")
    assert notes == ["dora: not read, because mini is in its place already: mini (1).py."]


def test_nobody_is_given_the_name_of_another(tmp_path, course):
    """What a student packs, such as another one's files as a platform would call them, is that student's own trouble."""
    filled(tmp_path / "anna.zip", {"ben_1_2_mini.py": "x", "cy_3_4_mini.py": "y"})
    filled(tmp_path / "dora", {"submission_metadata.yml": METADATA, "submission_1/mini.py": "x", "submission_2/mini.py": "y"})
    filled(tmp_path / "ben", {"mini.py": "b"})
    submissions, _ = find_submissions([tmp_path], course)
    assert [one.id for one in submissions] == ["anna", "ben", "dora"]
    assert submissions[1].sources["mini"].text == text_of("b")
    assert "several students" in submissions[0].sources["mini"].problem
    assert "several students" in submissions[2].sources["mini"].problem


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_a_layout_does_not_know_is_a_row(tmp_path, course, kind):
    """Folders, archives and files beside a download are students', too; nobody is dropped."""
    members = {**DOWNLOADS["Canvas"], "carol/mini.py": "d", "dave.zip": {"mini.py": "e"}, "eve.rar": "-", "grades.csv": "-"}
    path = filled(tmp_path / ("all" if kind == "folder" else "all.zip"), members)
    submissions, notes = find_submissions([path], course)
    assert [one.id for one in submissions] == ["leeanna", "ottben", "poecy", "carol", "dave", "eve"]
    assert [one.sources["mini"].text.strip()[-1:] for one in submissions] == ["a", "b", "c", "d", "e", ""]
    assert submissions[-1].sources["mini"].problem
    assert notes[-1] == f"Not read in {path}: grades.csv."


def test_a_class_beside_a_stub(tmp_path, course):
    """A module at the top and folders that hold modules: one student's or a class? Nothing is graded, and the sentence says what to do."""
    path = filled(tmp_path / "all", {"mini.py": "s", "anna/mini.py": "a", "ben/mini.py": "b"})
    with pytest.raises(BadInput, match=r"holds mini\.py and folders that do, too"):
        find_submissions([path], course)
    submissions, _ = find_submissions([path], course, each_is_one=True)
    assert [one.id for one in submissions] == ["all"]


def test_folders_that_look_like_names_of_canvas(tmp_path, course):
    """Canvas downloads files: a folder with two numbers in its name is called as it is."""
    path = filled(tmp_path / "all", {"ml_2025_01_anna/mini.py": "a", "ml_2025_02_ben/mini.py": "b"})
    assert owners(path, course) == {"ml_2025_01_anna": "a", "ml_2025_02_ben": "b"}


def test_an_answer_in_an_archive_beside_the_stub(tmp_path, course):
    """A stub is no answer, wherever the answer is; a damaged archive is said."""
    (tmp_path / "all").mkdir()
    root = filled(tmp_path / "all" / "anna", {"hand-in.zip": {"mini.py": "a"}})
    (root / "exercises").mkdir()
    (root / "exercises" / "mini.py").write_text(course.stub("mini").read_text())
    filled(tmp_path / "all" / "ben", {"hand-in.zip": "-"})
    anna, ben = find_submissions([tmp_path / "all"], course)[0]
    assert anna.sources["mini"].text == text_of("a")
    assert ben.sources["mini"].problem.startswith("hand-in.zip can't be read: it is damaged")


def test_students_without_names(tmp_path, course):
    """Two students of a name, or of none, are told apart by the platform's number, which a roster knows, too."""
    path = filled(tmp_path / "x", {"leeanna_1_21_mini.py": "a", "leeanna_2_22_mini.py": "b"})
    assert owners(path, course) == {"leeanna 1": "a", "leeanna 2": "b"}
    path = filled(
        tmp_path / "y", {"Participant_120_assignsubmission_file_/mini.py": "a", "Participant_7_assignsubmission_file_/mini.py": "b"}
    )
    assert owners(path, course) == {"Participant 120": "a", "Participant 7": "b"}
    (tmp_path / "roster.csv").write_text("id;Identifier\nal;Participant 120\nbo;Participant 7\n")
    assert owners(path, course, Roster.read(tmp_path / "roster.csv")) == {"al": "a", "bo": "b"}


def test_two_answers_of_a_student(tmp_path, course):
    """Which of two counts is not guessed, and nobody else is touched."""
    path = filled(tmp_path / "x", {"leeanna_1_21_mini.py": "a", "leeanna_1_22_mini-1.py": "b", "ottben_2_22_mini.py": "c"})
    submissions, _ = find_submissions([path], course)
    assert "may each be mini.py. Keep one" in submissions[0].sources["mini"].problem
    assert submissions[1].sources["mini"].text.endswith("# c\n")


@pytest.mark.parametrize(
    "data", ["", "{", "[1, 2]", "submission_1: 3", "submission_1:\n  :submitters: 4", "? [a]\n: b", "&a [*a, *a]", BOMB]
)
def test_a_list_of_gradescopes_that_says_nothing(tmp_path, course, data):
    """Whatever it holds, each folder is a student."""
    path = filled(tmp_path / "x", {"submission_1/mini.py": "a", "submission_2/mini.py": "b"})
    (path / "submission_metadata.yml").write_text(data)
    assert owners(path, course) == {"submission_1": "a", "submission_2": "b"}


NAMED_OTHERWISE = {
    "another case": ("Mini.py", "Mini.py was taken for mini.py: give it that name."),
    "a browser's copy": ("mini (1).py", "mini (1).py was taken for mini.py: give it that name."),
    "deep down": ("hw/week1/exercises/mini.py", "hw/week1/exercises/mini.py was found deep down: put it at the top or into exercises/."),
    "backslashes": ("hw\\week1\\mini.py", "hw/week1/mini.py was found deep down: put it at the top or into exercises/."),
}


@pytest.mark.parametrize("what", NAMED_OTHERWISE)
def test_a_name_or_place_that_is_nearly_right(tmp_path, course, what):
    """A module that is alone and unambiguous is taken, and a sentence says what to do; so for a folder, a zip and a commit."""
    name, sentence = NAMED_OTHERWISE[what]
    zipped(tmp_path / "anna.zip", {name: text_of("a"), "README.md": "hello"})
    submissions, notes = find_submissions([tmp_path / "anna.zip"], course)
    assert submissions[0].sources["mini"].text == text_of("a")
    assert notes == [f"anna: {sentence}"]
    root = filled(tmp_path / "ben", {name.replace("\\", "/"): "b", "README.md": "hello"})
    subprocess.run(["git", "init", "-q", root], check=True)
    subprocess.run(["git", "-C", root, "add", "."], check=True)
    subprocess.run(["git", "-C", root, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"], check=True)
    for path, id in ((root, "ben"), (Path(f"{root}@HEAD"), "ben@HEAD")):
        submissions, notes = find_submissions([path], course)
        assert submissions[0].sources["mini"].text == text_of("b")
        assert notes == [f"{id}: {sentence}"]


def test_two_near_misses(tmp_path, course):
    """Two files that may each be the module, with different answers, are a problem; with equal ones they are not."""
    assert (
        "may each be mini.py" in read_submission(filled(tmp_path / "a", {"Mini.py": "a", "mini-1.py": "b"}), course).sources["mini"].problem
    )
    assert read_submission(filled(tmp_path / "b", {"Mini.py": "a", "mini-1.py": "a"}), course).sources["mini"].text == text_of("a")


def test_a_solved_copy_beside_the_stub(tmp_path, course):
    """What was handed out is no answer: the copy with one is."""
    root = filled(tmp_path / "a", {"mini (1).py": "a"})
    (root / "mini.py").write_text(course.stub("mini").read_text())
    assert read_submission(root, course).sources["mini"].text == text_of("a")


SEEN = {
    "looks like it": ({"my_mini_final.py": "a"}, "mini.py was not handed in. my_mini_final.py looks like it: give it the name mini.py."),
    "an archive of another kind": ({"all.rar": "a"}, "No module was found. all.rar is not read: pack a .zip or a .tar.gz instead."),
    "a submodule": ({".gitmodules": "a"}, "No module was found. A part of the repository is a submodule, "),
    "something else": ({"a.pdf": "a", "b.docx": "a"}, "No module was found. What there is: a.pdf, b.docx."),
    "nothing": ({}, "No module was found. There is nothing in it."),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_was_seen_instead(tmp_path, course, what):
    """A student without a module has a row that says what was seen, and what to do."""
    members, sentence = SEEN[what]
    (tmp_path / "all" / "ben").mkdir(parents=True)
    filled(tmp_path / "all" / "ben", members)
    filled(tmp_path / "all" / "anna", {"mini.py": "a"})
    submissions, _ = find_submissions([tmp_path / "all"], course)
    source = submissions[1].sources["mini"]
    assert source.problem.startswith(sentence)
    assert source.missing


SPOILT = {
    "mini.py": {
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n": "it is a pointer of Git LFS, not the file.",
        b"x = 1\ns = '\xe9'\n": "Line 2 holds a sign of another encoding, such as Windows-1252: save the file as UTF-8.",
        TEXT.encode("utf-16"): "It is UTF-16: save it as UTF-8.",
        b"": "mini.py is empty (0 bytes). Was it saved before it was handed in?",
    },
    "mini.ipynb": {
        b"version https://git-lfs.github.com/spec/v1\n": "it is a pointer of Git LFS",
        b"": "mini.ipynb is empty (0 bytes)",
    },
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, some in SPOILT.items() for data in some])
def test_a_file_that_is_spoilt(tmp_path, course, name, data):
    """Each kind has its own sentence."""
    (tmp_path / name).write_bytes(data)
    assert SPOILT[name][data] in read_submission(tmp_path, course).sources["mini"].problem


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no column of ids: call one `id`"),
        ("name,mail\na,b\n", "has no column of ids: call one `id`"),
        ("id,name\nanna,A\nAnna,B\n", "line 3: the id Anna stands there twice"),
        ('id,name\n"a', "can't be read"),
        ("id,name\nal,Lee, Anna\n", "more cells than columns"),
        ("id,id\nal,bo\n", "a column twice"),
        ("id\n" + "x" * 200, "can't be an id: use at most 100 characters"),
    ],
)
def test_a_roster_that_is_none(tmp_path, text, sentence):
    """Each fault has its sentence."""
    (tmp_path / "roster.csv").write_text(text)
    with pytest.raises(BadInput, match=r"roster\.csv") as caught:
        Roster.read(tmp_path / "roster.csv")
    assert sentence in str(caught.value)
    with pytest.raises(BadInput, match="can't be read"):
        Roster.read(tmp_path / "missing.csv")


def test_a_name_that_two_share_is_nobodys(tmp_path):
    """A name of two students in a roster gives neither's id."""
    (tmp_path / "roster.csv").write_text("Identifier,Name\n1a,Anna Lee\n2b,Anna Lee\n3c,Lee Anna\n\n,Nobody\n")
    roster = Roster.read(tmp_path / "roster.csv")
    assert [roster.id_of(name) for name in ("Anna Lee", "Lee Anna", "1A", "leeanna", "Nobody", "")] == ["", "3c", "1a", "", "", ""]


# ---- a semester


PARTS = {
    "right": SOLUTION,
    "one task": SOLUTION.replace("_TWO = 2", "_TWO = 3"),
    "the other": SOLUTION.replace("class Counter", "class Gone"),
    "broken": "def double(x:\n",
}


def test_a_semester(tmp_path):
    """Forty students over every layout at once: each has a row, with the score that the same file gets alone."""
    course = mini_course(tmp_path / "course")
    students = [f"S{number:02}" for number in range(40)]
    texts = {id: list(PARTS.values())[index % 4] + f"\n# {id}\n" for index, id in enumerate(students)}
    drop = tmp_path / "all"
    drop.mkdir()
    groups = [students[start : start + 5] for start in range(0, 40, 5)]
    zipped(drop / "canvas.zip", {f"{id.lower()}_{9}{i}_{8}{i}_mini.py": texts[id] for i, id in enumerate(groups[0])})
    for i, id in enumerate(groups[1]):
        folder = drop / "moodle" / f"{id}_{7}{i}_assignsubmission_file_"
        folder.mkdir(parents=True)
        zipped(folder / "work.zip", {f"w/{id}/mini.py": texts[id]})
    listed = {f"submission_{i}": {":submitters": [{":name": id, ":sid": f"n{i}"}]} for i, id in enumerate(groups[2])}
    with zipfile.ZipFile(drop / "gradescope.zip", "w") as archive:
        archive.writestr("assignment_3_export/submission_metadata.yml", json.dumps(listed))
        for i, id in enumerate(groups[2]):
            archive.writestr(f"assignment_3_export/submission_{i}/mini.ipynb", notebook(texts[id]))
    for id in groups[3]:
        filled(drop / "hw-submissions" / f"hw-{id}", {"exercises/mini.py": texts[id]})
        subprocess.run(["git", "init", "-q", drop / "hw-submissions" / f"hw-{id}"], check=True)
    (drop / "drive").mkdir()
    for id in groups[4]:
        (drop / "drive" / f"{id} - mini.ipynb").write_text(notebook(texts[id]))
    for id in groups[5]:
        zipped(drop / f"{id}.zip", {f"{id}-main/exercises/mini.py": texts[id]})
    for id in groups[6]:
        filled(drop / "deep" / id, {"hw/week1/Mini.py": texts[id]})
    zipped(drop / "nested.zip", {f"{id}\\mini (1).py": texts[id] for id in groups[7]})
    alone = tmp_path / "alone"
    for id, text in texts.items():
        filled(alone / id, {"mini.py": text})
    (tmp_path / "roster.csv").write_text("id,canvas\n" + "".join(f"{id},{id.lower()}\n" for id in [*students, "S99"]))
    scores = {}
    for name, paths in {"all": [drop / "nested.zip", drop], "alone": [alone]}.items():
        if name == "all":
            paths = [drop / "nested.zip", *sorted(path for path in drop.iterdir() if path.name != "nested.zip")]
        options = ["--roster", tmp_path / "roster.csv", "--seed", 3, "--allow-unconfined", "--out", tmp_path / name]
        done = grader("grade", *paths, *options, cwd=course, timeout=300)
        assert done.returncode == 0, done.stderr
        results = json.loads((tmp_path / name / "results.json").read_text())
        scores[name] = {one["id"]: one["score"] for one in results["submissions"]}
        *broken, absent = results["problems"]
        does_not_run = {id for id in students if "def double(x:\n" in texts[id]}  # in a notebook, only a cell does not
        assert set() < {one["submission"] for one in broken} <= does_not_run
        assert absent["submission"] == "S99"
    assert scores["all"] == scores["alone"]
    assert set(scores["all"]) == set(students)
    assert len(set(scores["all"].values())) == 4
    assert "S99" in done.stdout
