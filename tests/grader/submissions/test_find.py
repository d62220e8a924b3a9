"""What was handed in: every form of it, and every bad form with its sentence; nothing is extracted, followed or written."""

import gzip
import io
import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from grader.protocol.cells import cells_of
from grader.submissions.find import find_submissions, read_submission
from grader.submissions.notebooks import notebook_source
from grader.submissions.sources import BadInput

TEXT = "def double(x):\n    return x + x\n"


def zipped(path: Path, members: dict[str, str | bytes]) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    """Write a gzipped tar archive."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def notebook(*cells: str, kind: str = "code") -> str:
    """A notebook's JSON, sources as lists of lines as Jupyter writes them."""
    listed = [{"cell_type": kind, "metadata": {}, "outputs": [], "source": cell.splitlines(keepends=True)} for cell in cells]
    return json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def problem_of(path: Path, course) -> str:
    """The sentence for the student."""
    return read_submission(path, course).sources["mini"].problem


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
    """Each child that holds a module is a submission called as the child; the rest is passed over, in words."""
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
    assert [submission.id for submission in submissions] == ["anna", "ben", "carl"]
    assert [sentence.split("/")[-1] for sentence in passed_over] == [
        "dora: holds no mini.py.",
        "emil.zip: is neither a file nor a folder.",
        "link: a link is not followed.",
    ]


def git(folder: Path, *arguments: str) -> None:
    """Run git, with no configuration of the user's."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *names, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    """A repository with two commits; the older one has the tag `first`."""
    folder = tmp_path / "anna"
    (folder / "exercises").mkdir(parents=True)
    git(folder, "init")
    (folder / "exercises" / "mini.py").write_text(TEXT)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "one")
    git(folder, "tag", "first")
    (folder / "exercises" / "mini.py").write_text("x = 2\n")
    git(folder, "commit", "-am", "two")
    return folder


def test_a_git_ref(repository, course):
    """REPOSITORY@REF reads the commit, not the working tree; the id says which."""
    (repository / "exercises" / "mini.py").write_text("x = 3\n")
    first = read_submission(Path(f"{repository}@first"), course)
    assert (first.id, first.sources["mini"].text) == ("anna@first", TEXT)
    assert read_submission(Path(f"{repository}@main"), course).sources["mini"].text == "x = 2\n"


@pytest.mark.parametrize("ref", ["nonsense", "--help", "", "HEAD:exercises"])
def test_a_git_ref_that_is_none(repository, course, ref):
    """An unknown ref, or an option in its place, is bad input."""
    with pytest.raises(BadInput, match=r"has no commit, branch or tag called|does not exist"):
        read_submission(Path(f"{repository}@{ref}"), course)


def test_a_git_ref_without_modules(repository, course):
    """A commit that holds no module is bad input, as a folder would be."""
    git(repository, "rm", "-rfq", "exercises")
    git(repository, "commit", "-m", "three", "--allow-empty")
    with pytest.raises(BadInput, match=r"holds no mini\.py"):
        read_submission(Path(f"{repository}@main"), course)


def test_links_in_git_are_not_followed(repository, course):
    """A link in a commit is no module."""
    (repository / "exercises" / "mini.py").unlink()
    (repository / "exercises" / "mini.py").symlink_to("/etc/passwd")
    (repository / "keep.py").write_text("")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "link")
    with pytest.raises(BadInput, match=r"holds no mini\.py"):
        read_submission(Path(f"{repository}@main"), course)


# ---- notebooks

CELLS = {
    "a magic": ("%matplotlib inline\nx = 1", {"x": 1}),
    "a shell line": ("!pip install torch\nx = 1", {"x": 1}),
    "help": ("?print\nx = 1", {"x": 1}),
    "help behind": ("print?\nx = 1\nprint??", {"x": 1}),
    "in a block": ("if True:\n    %time 1\nx = 1", {"x": 1}),
    "a magic's value": ("files = !ls\nwhere = %pwd\nx = 1", {"x": 1}),
    "a whole cell of another language": ("%%bash\nrm -rf /", {}),
    "a timed cell": ("%%time\nx = 1", {"x": 1}),
    "a captured cell": ("\n%%capture out\nx = 1", {"x": 1}),
    "a remainder on a line of its own": ("x = (7\n  % 4)", {"x": 3}),
    "a percent in a text": ('x = """\n%d\n!no\n"""', {"x": "\n%d\n!no\n"}),
    "a remainder beside a magic": ("%load_ext autoreload\nx = (7\n     % 4)\ny = '''\n%s'''", {"x": 3, "y": "\n%s"}),
}


@pytest.mark.parametrize("what", CELLS)
def test_a_notebooks_code_runs_without_jupyter(tmp_path, course, what):
    """Magics and shell lines do nothing; everything that is Python stays."""
    cell, expected = CELLS[what]
    path = tmp_path / "mini.ipynb"
    path.write_text(notebook(cell, "done = True"))
    values: dict[str, object] = {}
    exec(read_submission(path, course).sources["mini"].text, values)
    assert values["done"]
    assert {name: values.get(name) for name in expected} == expected


def test_only_code_cells_count(tmp_path, course):
    """Markdown and raw cells are left out."""
    path = tmp_path / "mini.ipynb"
    path.write_text(notebook("# Title\nx =", kind="markdown"))
    assert read_submission(path, course).sources["mini"].text.strip() == ""


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"cells": 3}', b'{"cells": [{"source": 4}]}', b"\xff", b"null", b"[" * 100_000])
def test_a_notebook_that_is_none(tmp_path, course, data):
    """Whatever the bytes, the sentence is the same."""
    path = tmp_path / "mini.ipynb"
    path.write_bytes(data)
    assert problem_of(path, course) == "mini.ipynb can't be read: it is not a Jupyter notebook."


MARKS = {
    "a locked cell": ({"nbgrader": {"locked": True, "grade": False, "solution": False}}, False),
    "a graded cell": ({"nbgrader": {"locked": True, "grade": True, "solution": False}}, False),
    "a solution cell": ({"nbgrader": {"locked": False, "grade": False, "solution": True}}, True),
    "a cell that is both": ({"nbgrader": {"locked": False, "grade": True, "solution": True}}, True),
    "a cell of their own": ({}, True),
    "a copy": ({"nbgrader": {}}, True),
    "no mark": ({"nbgrader": 3}, True),
    "no metadata": ([], True),
}


@pytest.mark.parametrize("what", MARKS)
def test_cells_that_nbgrader_locks_are_not_the_students(what):
    """What was handed out locked is left out, whatever stands in it; everything else stays."""
    metadata, stays = MARKS[what]
    cell = {"cell_type": "code", "metadata": metadata, "source": "import public_tests"}
    source = notebook_source(json.dumps({"cells": [cell]}).encode(), "mini.ipynb")
    assert source.problem == ""
    assert (source.text.strip() == "import public_tests") is stays


def test_the_lines_at_which_cells_begin():
    """Every cell is found again at its lines, however its lines end; a notebook without code has none."""
    sources = ["a = 1", "", "b = 2\nc = 3\n", "%%bash\nls", "d = 4\r\ne = 5\rf = 6", "g = 7"]
    source = notebook_source(notebook(*sources).encode(), "mini.ipynb")
    assert [text.strip() for _, text in cells_of(source.text, source.cells)] == [
        "a = 1",
        "",
        "b = 2\nc = 3",
        "",
        "d = 4\ne = 5\nf = 6",
        "g = 7",
    ]
    lines = source.text.split("\n")
    assert [lines[first - 1] for first, _ in cells_of(source.text, source.cells)] == ["a = 1", "", "b = 2", "", "d = 4", "g = 7"]
    assert notebook_source(notebook().encode(), "mini.ipynb").cells == (1,)


def test_a_module_and_a_notebook_of_it(tmp_path, course):
    """Two files for one module are a problem of that module."""
    (tmp_path / "mini.py").write_text(TEXT)
    (tmp_path / "mini.ipynb").write_text(notebook(TEXT))
    assert "both hold the module mini: keep one." in problem_of(tmp_path, course)


# ---- texts

TEXTS = {
    "BOM": (b"\xef\xbb\xbf" + TEXT.encode(), TEXT),
    "CRLF": (TEXT.replace("\n", "\r\n").encode(), TEXT),
    "latin-1 with a coding line": ("# coding: latin-1\ns = 'ä'\n".encode("latin-1"), "# coding: latin-1\ns = 'ä'\n"),
    "another coding line": ("# -*- coding: cp1252 -*-\ns = '€'\n".encode("cp1252"), "# -*- coding: cp1252 -*-\ns = '€'\n"),
    "empty": (b"", ""),
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


# ---- hostile archives

HOSTILE_ZIPS = {
    "a way out": {"../mini.py": TEXT},
    "a way out in the middle": {"a/../../mini.py": TEXT},
    "an absolute name": {"/mini.py": TEXT},
    "another system's name": {"..\\mini.py": TEXT},
    "too deep": {"a/b/c/mini.py": TEXT},
    "another case": {"Mini.py": TEXT},
    "a look-alike": {"m\u0456ni.py": TEXT},
    "a control character": {"mini.py\x07": TEXT},
    "nothing": {},
    "a folder": {"mini.py/": ""},
}


@pytest.mark.parametrize("what", HOSTILE_ZIPS)
def test_what_a_zip_holds_elsewhere_is_no_module(tmp_path, course, what):
    """Members outside, too deep, or not quite called so are as good as missing."""
    path = zipped(tmp_path / "anna.zip", HOSTILE_ZIPS[what])
    assert read_submission(path, course).sources == {}
    assert os.listdir(tmp_path) == ["anna.zip"]


def test_the_outer_member_does_not_hide_the_inner(tmp_path, course):
    """A hostile member is passed over, the honest one is taken."""
    path = zipped(tmp_path / "anna.zip", {"../mini.py": "x = 1", "exercises/mini.py": TEXT})
    assert read_submission(path, course).sources["mini"].text == TEXT


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_a_tars_special_members_are_no_modules(tmp_path, course, kind):
    """Links, pipes, folders and devices."""
    path = tarred(tmp_path / "anna.tar.gz", [special("mini.py", kind, "/etc/passwd")])
    assert read_submission(path, course).sources == {}


def test_a_member_without_a_name(tmp_path, course):
    """A zip's member may be called nothing, which is no module and no fault."""
    path = zipped(tmp_path / "anna.zip", {"x": "y", "mini.py": TEXT})
    path.write_bytes(path.read_bytes().replace(b"x", b"\0"))
    assert read_submission(path, course).sources["mini"].text.startswith("def double")


def test_a_zips_link_is_no_module(tmp_path, course):
    """A symbolic link in a zip is an entry with a mode."""
    path = tmp_path / "anna.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("mini.py")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert read_submission(path, course).sources == {}


def test_a_member_twice(tmp_path, course):
    """Which of two members of a name counts is not guessed."""
    with zipfile.ZipFile(tmp_path / "anna.zip", "w") as archive:
        archive.writestr("mini.py", "x = 1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("mini.py", "x = 2")
    assert "both hold the module mini: keep one." in problem_of(tmp_path / "anna.zip", course)


def test_an_encrypted_zip(tmp_path, course):
    """An encrypted member says so."""
    path = zipped(tmp_path / "anna.zip", {"mini.py": TEXT})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the local header's flags
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the directory's
    path.write_bytes(data)
    assert problem_of(path, course) == "anna.zip can't be read: it is encrypted: hand it in without a password."


def test_what_does_not_matter_may_be_odd(tmp_path, course):
    """An encrypted or strangely packed member that is no module does no harm."""
    path = zipped(tmp_path / "anna.zip", {"aaaa.bin": "x", "mini.py": TEXT})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert read_submission(path, course).sources["mini"].text == TEXT


def test_damaged_archives(tmp_path, course):
    """Cut off, overwritten, or something else by name: a problem of that student's, in words."""
    whole = zipped(tmp_path / "w.zip", {"mini.py": TEXT * 100}).read_bytes()
    tar = tarred(tmp_path / "w.tar.gz", [("mini.py", os.urandom(20_000))]).read_bytes()
    for name, data in {
        "cut.zip": whole[:-30],
        "spoiled.zip": whole[:40] + bytes(20) + whole[60:],
        "text.zip": b"hello",
        "empty.zip": b"",
        "cut.tar.gz": tar[: len(tar) // 2],
        "text.tar.gz": b"hello",
        "empty.tgz": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
        assert problem_of(tmp_path / name, course).startswith(f"{name} can't be read: it is damaged"), name


def test_bombs(tmp_path, course):
    """A gigabyte of zeros as a module, as something else, and in many modules is refused or passed over without being unpacked."""
    zeros = bytes(1 << 20)
    zipped(tmp_path / "one.zip", {"mini.py": 200 * zeros})
    assert problem_of(tmp_path / "one.zip", course) == "mini.py can't be read: it is larger than 256 KiB."
    zipped(tmp_path / "many.zip", {f"a{i}/mini.py": b"" for i in range(100)})
    assert "the same modules many times over" in problem_of(tmp_path / "many.zip", course)
    zipped(tmp_path / "crowd.zip", {f"{i}": b"" for i in range(20_001)})
    assert "more than 20000 members" in problem_of(tmp_path / "crowd.zip", course)
    with tarfile.open(tmp_path / "big.tar.gz", "w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 2 << 30
        tar.addfile(info)
    assert "unpacks to more than" in problem_of(tmp_path / "big.tar.gz", course)
    with tarfile.open(tmp_path / "head.tar.gz", "w:gz", compresslevel=1) as tar:
        info = special("long", tarfile.GNUTYPE_LONGNAME)
        info.size = 2 << 30
        tar.addfile(info)
        for _ in range(1100):
            tar.fileobj.write(zeros)
    assert "unpacks to more than" in problem_of(tmp_path / "head.tar.gz", course)


# ---- hostile folders


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
    """A name is a student."""
    for folder in ("a", "b"):
        (tmp_path / folder / "anna").mkdir(parents=True)
        (tmp_path / folder / "anna" / "mini.py").write_text(TEXT)
    with pytest.raises(BadInput, match="two submissions are called 'anna': rename one"):
        find_submissions([tmp_path / "a", tmp_path / "b"], course)


def test_names_are_harmless(tmp_path, course):
    """Control characters, escapes and bytes that are no text reach neither an id nor a sentence."""
    for name in (b"a\x1b[31mb", b"c\xffd", "e\u202ef".encode()):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)
        os.mkdir(folder + b"-empty")
        with open(folder + b"/mini.py", "w") as file:
            file.write(TEXT)
    submissions, passed_over = find_submissions([tmp_path], course)
    assert sorted(submission.id for submission in submissions) == ["ab", "cd", "ef"]
    assert len(passed_over) == 3
    for text in passed_over:
        assert text.encode().decode().isprintable()


# ---- what is small to hand in and large to take


def headed(name: str, kind: bytes, data: bytes) -> bytes:
    """A tar's member, header and all."""
    info = special(name, kind)
    info.size = len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


COSTLY_TARS = {
    "digits without end": (headed("x", b"x", b"9" * 60_000), "it is damaged"),
    "a header without end": (headed("x", b"x", b"11 path=aa\n" * 10_000), "a name that is too long"),
    "a name without end": (headed("x", b"L", b"a" * 100_000), "a name that is too long"),
    "headers without end": (headed("x", b"g", b"") * 70_000, "more than 20000 members"),
    "a sparse file": (headed("mini.py", b"S", b"x"), "it is damaged"),
}


@pytest.mark.parametrize("what", COSTLY_TARS)
def test_costly_tars(tmp_path, course, what):
    """Headers that would take a tar reader quadratic time or all memory."""
    content, sentence = COSTLY_TARS[what]
    (tmp_path / "anna.tar.gz").write_bytes(gzip.compress(content + headed("mini.py", b"0", TEXT.encode())))
    assert sentence in problem_of(tmp_path / "anna.tar.gz", course)


def test_a_sparse_member_is_passed_over(tmp_path, course):
    """A file with holes, as pax writes it, is no module."""
    content = headed("x", b"x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + headed("mini.py", b"0", b"1000000\n" + b"0\n" * 1000)
    (tmp_path / "anna.tar.gz").write_bytes(gzip.compress(content + headed("exercises/mini.py", b"0", TEXT.encode())))
    assert read_submission(tmp_path / "anna.tar.gz", course).sources["mini"].text == TEXT


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_in_a_tar(tmp_path, course, form):
    """Each form of tar says long names in its own way; a directory's entry and a comment in front do no harm."""
    top = "ä" * 60 if form != tarfile.USTAR_FORMAT else "a" * 90
    with tarfile.open(tmp_path / "anna.tar.gz", "w:gz", format=form, pax_headers={"comment": "0123"}) as archive:
        archive.addfile(special(top, tarfile.DIRTYPE))
        info = tarfile.TarInfo(f"{top}/exercises/mini.py")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT.encode()))
    assert read_submission(tmp_path / "anna.tar.gz", course).sources["mini"].text == TEXT


def test_a_tar_that_ends_early(tmp_path, course):
    """A gzip file may be whole where the tar in it is not."""
    content = headed("mini.py", b"0", TEXT.encode() * 100)
    (tmp_path / "anna.tar.gz").write_bytes(gzip.compress(content[:1000]))
    assert "it is damaged" in problem_of(tmp_path / "anna.tar.gz", course)


def test_a_zip_with_an_endless_directory(tmp_path, course):
    """The list of members is not read beyond its cap."""
    entry = b"PK\1\2" + bytes(24) + (1).to_bytes(2, "little") + bytes(16) + b"a"
    count = 100_000
    end = b"PK\5\6" + bytes(8) + (len(entry) * count).to_bytes(4, "little") + bytes(6)
    (tmp_path / "anna.zip").write_bytes(entry * count + end)
    assert "more than 20000 members, or very long names" in problem_of(tmp_path / "anna.zip", course)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_unusual_packing(tmp_path, course, method):
    """LZMA's header asks for the memory to unpack it with; only the usual way of packing is taken."""
    with zipfile.ZipFile(tmp_path / "anna.zip", "w", method) as archive:
        archive.writestr("mini.py", TEXT)
    assert "make an ordinary .zip" in problem_of(tmp_path / "anna.zip", course)


@pytest.mark.parametrize("cell", [" " * 200_000, "a " * 100_000, "a." * 100_000, "\t" * 200_000])
def test_a_long_line_is_read_once(tmp_path, course, cell):
    """A line that could be a magic to its end is no quadratic time."""
    (tmp_path / "mini.ipynb").write_text(notebook(cell))
    assert read_submission(tmp_path / "mini.ipynb", course).sources["mini"].text.strip() == cell.strip()


@pytest.mark.parametrize("cells", [["(" * 300_000], ["x = 1\n" * 20_000] * 3])
def test_code_beyond_the_cap_is_not_read_through(tmp_path, course, cells):
    """One cell or all cells together."""
    (tmp_path / "mini.ipynb").write_text(notebook(*cells))
    assert "its code is larger than 256 KiB" in problem_of(tmp_path / "mini.ipynb", course)


def test_a_folder_that_links_to_nowhere(tmp_path, course):
    """A link whose target is longer than a name can be does not end the batch."""
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "within").symlink_to("x" * 300)
    with pytest.raises(BadInput, match="holds no"):
        read_submission(tmp_path / "anna", course)
