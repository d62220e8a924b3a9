"""Finding submissions: every form of them, every bad path with its sentence, and which file holds a module."""

import ast
import os

import pytest

from grader.course.manifest import Course
from grader.course.stubs import module_stub
from grader.submissions.find import find_submissions, read_submission
from grader.submissions.sources import BadInput, Source
from tests.grader.conftest import mini_course
from tests.grader.submissions.samples import TEXT, notebook, problem_of, tarred, zipped

# ---- forms


@pytest.mark.parametrize("place", ["mini.py", "exercises/mini.py", "anna-main/mini.py", "anna-main/exercises/mini.py"])
@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz", "tgz", "ZIP"])
def test_every_form_gives_the_same_text(tmp_path, course, place, kind):
    """A folder and an archive, with or without exercises/, wrapped in one folder (as GitHub's archives are) or not."""
    path = tmp_path / ("anna" if kind == "folder" else f"anna.{kind}")
    if kind == "folder":
        (path / place).parent.mkdir(parents=True)
        (path / place).write_text(TEXT)
    elif kind.lower() == "zip":
        zipped(path, {"anna-main/": "", place: TEXT, "anna-main/README.md": "hello"})
    else:
        tarred(path, [(place, TEXT.encode()), ("anna-main/README.md", b"hello")])
    submission = read_submission(path, course)
    assert (submission.id, submission.sources["mini"].text) == ("anna", TEXT)
    assert find_submissions([tmp_path], course) == ([submission], [])


def test_a_single_file(tmp_path, course):
    """A .py and an .ipynb are submissions of their module alone."""
    (tmp_path / "mini.py").write_text(TEXT)
    (tmp_path / "mini.ipynb").write_text(notebook(TEXT))
    for name in ("mini.py", "mini.ipynb"):
        submission = read_submission(tmp_path / name, course)
        assert submission.only == ("mini",)
        assert submission.sources["mini"].text.strip() == TEXT.strip()


def test_a_folder_of_submissions(tmp_path, course):
    """Each folder and archive is a submission called as it is; the rest is passed over, in words."""
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mini.py").write_text(TEXT)
    zipped(tmp_path / "carl.zip", {"mini.py": TEXT})
    (tmp_path / "dora").mkdir()
    (tmp_path / "link").symlink_to("anna")
    (tmp_path / "grades.csv").write_text("")
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / "emil.zip")
    submissions, passed_over = find_submissions([tmp_path], course)
    assert [submission.id for submission in submissions] == ["anna", "ben", "carl", "dora"]
    assert submissions[3].sources["mini"] == Source(problem="No module was found. There is nothing in it.", missing=True)
    assert [sentence.split("/")[-1] for sentence in passed_over[:2]] == [
        "emil.zip: is neither a file nor a folder.",
        "link: a link is not followed.",
    ]
    assert passed_over[2:] == [f"Not read in {tmp_path}: grades.csv."]


def test_a_link_that_leads_elsewhere_is_a_row(tmp_path, course):
    """Somebody may have put a student's work there. It is not followed, and nobody is dropped."""
    for name in ("class/anna", "else/ben"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mini.py").write_text(TEXT)
    (tmp_path / "class" / "ben").symlink_to(tmp_path / "else" / "ben")
    submissions, _ = find_submissions([tmp_path / "class"], course)
    problems = {one.id: one.sources["mini"].problem for one in submissions}
    assert problems == {
        "anna": "",
        "ben": "ben can't be read: it is a link, which is not followed. Put a copy of what it leads to in its place.",
    }


def test_a_folder_of_very_many_files(tmp_path, course, monkeypatch):
    """A module is found among them; and where it is too deep behind them, that is said."""
    monkeypatch.setattr("grader.submissions.folders.MAX_MEMBERS", 20)
    for number in range(40):
        (tmp_path / f"image{number}.png").write_text("")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mini.py").write_text(TEXT)
    assert "it holds more than 20 files, and none of the first is a module." in problem_of(tmp_path, course)
    (tmp_path / "mini.py").write_text(TEXT)
    assert read_submission(tmp_path, course).sources["mini"].text == TEXT


def test_a_module_and_a_notebook_of_it(tmp_path, course):
    """Two files for one module are a problem of that module."""
    (tmp_path / "mini.py").write_text(TEXT)
    (tmp_path / "mini.ipynb").write_text(notebook(TEXT.replace("x + x", "2 * x")))
    assert "both hold the module mini, with different answers: keep one." in problem_of(tmp_path, course)


ANSWERED = "def double(x):\n    return x + x\n"


@pytest.mark.parametrize(
    ("top", "inside", "taken"),
    [
        ("stub", ANSWERED, "exercises"),
        (ANSWERED, "stub", "top"),
        ("stub", "stub", "exercises"),
        (f"# mine\n{ANSWERED}", f"# mine\n{ANSWERED}", "exercises"),
        ("def double(x:", "stub", "top"),
        ("double = abs", "stub", "top"),
        ("from exercises.mini import *", ANSWERED, "exercises"),
        ("not python (", ANSWERED, "exercises"),
        ("", ANSWERED, "exercises"),
        ("def helper():\n    return 1\n", ANSWERED, "exercises"),
        ("def double(x):\n    ...\n", ANSWERED, "exercises"),
        (f"{ANSWERED}\n\n", ANSWERED, "exercises"),
        (ANSWERED, "def double(x):\n    return 2 * x\n", None),
        (ANSWERED, "def double(x:", None),
    ],
)
def test_a_copy_of_the_stub_is_no_answer(tmp_path, course, top, inside, taken):
    """Of a file at the top and one in exercises/, the one with an answer counts; two different answers are a problem of the module."""
    texts = {}
    for place, text in (("top", top), ("exercises", inside)):
        texts[place] = course.stub("mini").read_text().replace("Double", "Twice") if text == "stub" else text
    path = tmp_path / "anna"
    (path / "exercises").mkdir(parents=True)
    (path / "mini.py").write_text(texts["top"])
    (path / "exercises" / "mini.py").write_text(texts["exercises"])
    source = read_submission(path, course).sources["mini"]
    if taken:
        assert (source.text, source.problem) == (texts[taken], "")
    else:
        assert source.problem == "exercises/mini.py and mini.py both hold the module mini, with different answers: keep one."


def test_a_copy_of_a_stub_with_code_is_no_answer(tmp_path):
    """Where code is to be mended, the copy that was handed out is known by its text."""
    root = mini_course(tmp_path / "course")
    bank = root / "tests" / "misconceptions" / "mini.py"
    bank.write_text(bank.read_text().replace('"Squares.")', '"Squares.", stub=True)'))
    course, path = Course.read(root), tmp_path / "anna"
    (path / "exercises").mkdir(parents=True)
    (path / "mini.py").write_text(ANSWERED)
    (path / "exercises" / "mini.py").write_text(module_stub(course, "mini"))
    assert read_submission(path, course).sources["mini"].text == ANSWERED


def test_a_large_copy_is_not_parsed(tmp_path, course, monkeypatch):
    """Python's parser takes quadratic time for some texts: a large file counts as an answer, unread."""
    large = "# " + "x" * (65 << 10) + "\n"
    (tmp_path / "exercises").mkdir()
    (tmp_path / "mini.py").write_text(large)
    (tmp_path / "exercises" / "mini.py").write_text(course.stub("mini").read_text())
    parse = ast.parse

    def parse_short(source, *rest, **more):
        assert len(source) < 65 << 10
        return parse(source, *rest, **more)

    monkeypatch.setattr(ast, "parse", parse_short)
    assert read_submission(tmp_path, course).sources["mini"].text == large


# ---- texts


TEXTS = {
    "BOM": (b"\xef\xbb\xbf" + TEXT.encode(), TEXT),
    "CRLF": (TEXT.replace("\n", "\r\n").encode(), TEXT),
    "latin-1 with a coding line": ("# coding: latin-1\ns = 'ä'\n".encode("latin-1"), "# coding: latin-1\ns = 'ä'\n"),
    "another coding line": ("# -*- coding: cp1252 -*-\ns = '€'\n".encode("cp1252"), "# -*- coding: cp1252 -*-\ns = '€'\n"),
    "blank": (b"\n", "\n"),
    "no line feed at the end": (b"x = 1", "x = 1"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_text_is_decoded_as_python_does(tmp_path, course, what):
    """Marks, line ends and coding lines."""
    data, text = TEXTS[what]
    (tmp_path / "mini.py").write_bytes(data)
    assert read_submission(tmp_path, course).sources["mini"].text == text


NO_TEXTS = {
    "latin-1 without a coding line": "s = 'ä'\n".encode("latin-1"),
    "NUL bytes": b"x = 1\0\n",
    "UTF-16": TEXT.encode("utf-16"),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "an unknown coding": b"# coding: klingon\n",
    "a coding that is no text": b"# coding: rot13\nx = 1\n",
    "a coding that always fails": b"# coding: undefined\nx = 1\n",
    "a coding that takes for ever": b"# coding: punycode\n" + b"a" * 300_000 + b"-" + b"b" * 300_000,
    "another one": b"# coding: idna\n" + b"a" * 300_000,
    "two codings": b"\xef\xbb\xbf# coding: latin-1\n",
    "too long": b"# " + b"x" * (5 << 20),
}


@pytest.mark.parametrize("what", NO_TEXTS)
def test_what_is_no_python_text(tmp_path, course, what):
    """One sentence, and the batch goes on."""
    (tmp_path / "anna").mkdir()
    (tmp_path / "ben").mkdir()
    (tmp_path / "anna" / "mini.py").write_bytes(NO_TEXTS[what])
    (tmp_path / "ben" / "mini.py").write_text(TEXT)
    anna, ben = find_submissions([tmp_path], course)[0]
    assert anna.sources["mini"].problem.startswith("mini.py can't be read: it ")
    assert ben.sources["mini"].text == TEXT


# ---- hostile folders, and paths that hold nothing to grade


def test_special_files_in_a_folder_are_no_modules(tmp_path, course):
    """A pipe, a folder and a link that are called like a module are as good as missing."""
    for index, make in enumerate((os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path))):
        folder = tmp_path / str(index)
        folder.mkdir()
        make(folder / "mini.py")
        with pytest.raises(BadInput, match=r"holds no submission"):
            find_submissions([folder], course)


def test_a_folder_that_is_a_link_is_not_followed(tmp_path, course):
    """exercises/ as a link to elsewhere is passed over."""
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mini.py").write_text(TEXT)
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "exercises").symlink_to(tmp_path / "else")
    with pytest.raises(BadInput, match="holds no"):
        read_submission(tmp_path / "anna", course)


def test_paths_that_can_not_be_graded(tmp_path, course):
    """Missing, empty, of the wrong kind: each says what to do."""
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "other.py").write_text("")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, sentence in {
        "missing": "does not exist: give a folder, a .py, .ipynb, .zip or .tar.gz file, or REPOSITORY@REF",
        "empty": "holds no submission: expected mini.py, or folders or archives that hold them",
        "notes.txt": "expected a file called mini.py, or a .zip or .tar.gz",
        "other.py": "expected a file called mini.py",
        "pipe": "is neither a file nor a folder",
    }.items():
        with pytest.raises(BadInput) as caught:
            find_submissions([tmp_path / name], course)
        assert sentence in str(caught.value)


def test_two_submissions_of_a_name(tmp_path, course):
    """Both are graded, the second with a number, and a sentence says so."""
    for folder in ("a", "b"):
        (tmp_path / folder / "anna").mkdir(parents=True)
        (tmp_path / folder / "anna" / "mini.py").write_text(TEXT)
    submissions, notes = find_submissions([tmp_path / "a", tmp_path / "b"], course)
    assert [submission.id for submission in submissions] == ["anna", "anna (2)"]
    assert [note.partition("/b/")[2] for note in notes] == [
        "anna is called 'anna (2)' in all reports, because another submission has that name or looks like it."
    ]


def test_one_of_several_paths_holds_nothing(tmp_path, course):
    """What a student left empty ends no batch; a path that does not exist is a slip of whoever typed it."""
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
    (tmp_path / "anna" / "mini.py").write_text(TEXT)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    paths = [tmp_path / name for name in ("anna", "ben", "notes.txt", "link")]
    submissions, notes = find_submissions(paths, course)
    assert [submission.id for submission in submissions] == ["anna", "ben"]
    assert [note.startswith(f"Passed over: {path}") for note, path in zip(notes, paths[2:], strict=True)] == [True] * 2
    for bad, sentence in (("missing", "does not exist"), ("x" * 300, "can't be read")):
        with pytest.raises(BadInput, match=sentence):
            find_submissions([*paths, tmp_path / bad], course)


def test_names_are_harmless(tmp_path, course):
    """Control characters, escapes and bytes that are no text reach neither an id nor a sentence."""
    for name in (b"a\x1b[31mb", b"c\xffd", "e\u202ef".encode()):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        os.mkdir(folder + b"-empty")
        with open(folder + b"/mini.py", "w") as file:
            file.write(TEXT)
    submissions, passed_over = find_submissions([tmp_path], course)
    assert sorted(submission.id for submission in submissions) == ["ab", "ab-empty", "cd", "cd-empty", "ef", "ef-empty"]
    assert passed_over == []
    for text in [source.problem for submission in submissions for source in submission.sources.values()]:
        assert text.encode().decode().isprintable()


def test_a_folder_that_links_to_nowhere(tmp_path, course):
    """A link whose target is longer than a name can be does not end the batch."""
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "within").symlink_to("x" * 300)
    with pytest.raises(BadInput, match="holds no"):
        read_submission(tmp_path / "anna", course)
