"""Archives: hostile, damaged, unusual, and costly to read. Nothing is extracted."""

import gzip
import io
import os
import tarfile
import warnings
import zipfile

import pytest

from grader.submissions import archives
from grader.submissions.find import find_submissions, read_submission
from tests.grader.submissions.samples import TEXT, handed_in, headed, problem_of, special, tarred, zipped

HOSTILE_ZIPS = {
    "a way out": {"../mini.py": TEXT},
    "a way out in the middle": {"a/../../mini.py": TEXT},
    "another system's name": {"..\\mini.py": TEXT},
    "too deep": {"a/b/c/d/e/f/g/h/mini.txt": TEXT},
    "a look-alike": {"m\u0456ni.py": TEXT},
    "a control character": {"mini.py\x07": TEXT},
    "nothing": {},
    "a folder": {"mini.py/": ""},
}


@pytest.mark.parametrize("what", HOSTILE_ZIPS)
def test_what_a_zip_holds_elsewhere_is_no_module(tmp_path, course, what):
    """Members outside, too deep, or not quite called so are as good as missing."""
    path = zipped(tmp_path / "anna.zip", HOSTILE_ZIPS[what])
    assert handed_in(path, course) == {}
    assert os.listdir(tmp_path) == ["anna.zip"]


@pytest.mark.parametrize("name", ["/home/li/mini.py", "C:\\Users\\li\\mini.py", "//server/mini.py"])
def test_a_zip_with_absolute_names_is_read(tmp_path, course, name):
    """Some programs write them. Nothing is written anywhere, so the rest of the name is where the file lies."""
    assert handed_in(zipped(tmp_path / "anna.zip", {name: TEXT}), course) == {"mini": TEXT}
    assert os.listdir(tmp_path) == ["anna.zip"]


def test_the_outer_member_does_not_hide_the_inner(tmp_path, course):
    """A hostile member is passed over, the honest one is taken."""
    path = zipped(tmp_path / "anna.zip", {"../mini.py": "x = 1", "exercises/mini.py": TEXT})
    assert read_submission(path, course).sources["mini"].text == TEXT


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_a_tars_special_members_are_no_modules(tmp_path, course, kind):
    """Links, pipes, folders and devices."""
    path = tarred(tmp_path / "anna.tar.gz", [special("mini.py", kind, "/etc/passwd")])
    assert handed_in(path, course) == {}


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
    assert handed_in(path, course) == {}


def test_a_member_twice(tmp_path, course):
    """Which of two members of a name counts is not guessed."""
    with zipfile.ZipFile(tmp_path / "anna.zip", "w") as archive:
        archive.writestr("mini.py", "double = 1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("mini.py", "double = 2")
    assert "both hold the module mini, with different answers: keep one." in problem_of(tmp_path / "anna.zip", course)


def test_a_member_many_times(tmp_path, course):
    """Copies of one text are one answer, but many of them are not even looked at: reading takes long for some texts."""
    for count, refused in ((4, False), (5, True)):
        with zipfile.ZipFile(tmp_path / f"{count}.zip", "w") as archive, warnings.catch_warnings(action="ignore"):
            for _ in range(count):
                archive.writestr("mini.py", "double = 1")
        problem = read_submission(tmp_path / f"{count}.zip", course).sources["mini"].problem
        assert ("and others hold the module mini: keep one." in problem) == refused


def test_an_encrypted_zip(tmp_path, course):
    """An encrypted member says so."""
    path = zipped(tmp_path / "anna.zip", {"mini.py": TEXT})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the local header's flags
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the directory's
    path.write_bytes(data)
    assert problem_of(path, course) == "mini.py can't be read: it is encrypted: hand it in without a password."


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
    zipped(tmp_path / "many.zip", {f"a{i}/mini.py": b"" for i in range(5001)})
    assert "others hold the module mini: keep one" in problem_of(tmp_path / "many.zip", course)
    inner = zipped(tmp_path / "inner.zip", {f"{i}/mini.py": TEXT for i in range(501)}).read_bytes()
    zipped(tmp_path / "class.zip", {"ann_1_2_hw.zip": inner, "ben_2_3_mini.py": TEXT})
    ann, ben = find_submissions([tmp_path / "class.zip"], course)[0]  # one student's bomb is nobody else's trouble
    assert ann.sources["mini"].problem == "ann_1_2_hw.zip can't be read: it holds the same modules many times over."
    assert ben.sources["mini"].text == TEXT
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


# ---- what is small to hand in and costly to read


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


def test_many_inner_archives_share_a_budget(tmp_path, course):
    """What archives in an archive hold is kept in memory: together they may hold no more than the whole may."""
    inner = zipped(tmp_path / "inner.zip", {"mini.py": "#" * 100_000}).read_bytes()
    outer = zipped(tmp_path / "outer.zip", {f"s{i}.zip": inner for i in range(4)})
    with open(outer, "rb", buffering=0) as raw:
        entries = archives._files(raw, "outer.zip", course, archives._Budget(kept=250_000), inner=False)
    assert [bool(entry.load().text) for entry in entries] == [True, True, False, False]
    assert entries[3].load().problem == "s3.zip can't be read: it holds the same modules many times over."


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
