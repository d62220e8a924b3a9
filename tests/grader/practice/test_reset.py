"""`grader reset`: the stub comes back, the rest of the file stays, and nothing is lost."""

import errno
import os

import pytest

from grader.course.manifest import Course
from grader.practice.reset import CannotReset, reset_module, reset_task, statement_of
from tests.grader.conftest import RIGHT, mini_course


@pytest.fixture
def course(tmp_path):
    """The course in miniature."""
    return Course.read(mini_course(tmp_path))


ANSWER = (
    "import torch\nfrom torch import Tensor\n\n\ndef helper(x):\n    return x\n\n\n"
    "def double(x):\n    return x + x\n\n\n# mine\nclass Counter:\n    n = 1\n"
)


def test_one_task_is_put_back(course):
    """Its definition is the stub's, the rest is as it was, and the file as it was is kept."""
    path, module = course.stub("mini"), course.module("mini")
    path.write_text(ANSWER)
    kept = reset_task(course, module, "double")
    assert kept is not None
    assert kept.read_text() == ANSWER
    before, after = ANSWER.split("def double(x):\n    return x + x\n")
    assert path.read_text() == before + statement_of(course, module, "double") + "\n" + after
    assert reset_task(course, module, "double") is None


def test_a_definition_that_is_gone_comes_back(course):
    """It is added at the end."""
    path, module = course.stub("mini"), course.module("mini")
    path.write_text("x = 1\n")
    assert reset_task(course, module, "Counter") is not None
    assert path.read_text() == f"x = 1\n\n\n{statement_of(course, module, 'Counter')}\n"


def test_a_stub_comes_with_its_imports(course):
    """A file that lost them would not be importable."""
    path, module = course.stub("mini"), course.module("mini")
    stub = statement_of(course, module, "double")
    path.write_text('"""Mine."""\n\nfrom __future__ import annotations\n\nimport math\n\n\ndef double(x):\n    return x\n')
    assert reset_task(course, module, "double") is not None
    assert path.read_text() == (f'"""Mine."""\n\nfrom __future__ import annotations\n\nfrom torch import Tensor\nimport math\n\n\n{stub}\n')
    path.write_text(f"# mine\n{stub}\n")
    assert reset_task(course, module, "double") is not None
    assert path.read_text() == f"# mine\nfrom torch import Tensor\n\n\n{stub}\n"
    assert reset_task(course, module, "double") is None


@pytest.mark.parametrize("text", ["", "# nothing\n", '"""Mine."""\n\nimport torch\n'])
def test_of_an_emptied_file_everything_comes_back(course, text):
    """So it can be imported, and no other task is missing."""
    path, module = course.stub("mini"), course.module("mini")
    stub = path.read_text()
    path.write_text(text)
    kept = reset_task(course, module, "double")
    assert kept is not None
    assert (kept.read_text(), path.read_text()) == (text, stub)


@pytest.mark.parametrize("reset", [lambda *given: reset_task(*given, "double"), reset_module])
def test_a_link_stays_one(course, reset, tmp_path):
    """The file that it leads to gets the stub, and keeps its mode."""
    path, module = course.stub("mini"), course.module("mini")
    elsewhere = path.rename(tmp_path / "answers.py")
    elsewhere.write_text(RIGHT)
    elsewhere.chmod(0o600)
    path.symlink_to(elsewhere)
    assert reset(course, module) is not None
    assert path.is_symlink()
    assert "raise NotImplementedError" in elsewhere.read_text()
    assert elsewhere.stat().st_mode & 0o777 == 0o600


def test_what_stands_in_the_way_is_said(course):
    """Which file, and what to do; no temporary file, and no number of an error."""
    path, module = course.stub("mini"), course.module("mini")
    path.unlink()
    path.mkdir()
    with pytest.raises(
        CannotReset, match=r"^exercises/mini\.py can't be read or written\. A folder stands in its place: move that away\.$"
    ):
        reset_module(course, module)
    path.rmdir()
    path.write_text(RIGHT)
    (course.root / ".grader").write_text("")
    with pytest.raises(
        CannotReset, match=r"^\.grader/backups can't be read or written\. A file stands in the place of a folder: move that away"
    ):
        reset_task(course, module, "double")
    assert path.read_text() == RIGHT


ADVICE = {"EACCES": "You have no right to", "EROFS": "The disk can only be read", "ENOSPC": "The disk is full", "EIO": "Input/output error"}


@pytest.mark.parametrize("reason", ADVICE)
def test_a_folder_that_cannot_be_written(course, monkeypatch, reason):
    """The sentence names the student's file."""

    def refuse(*_, **__):
        raise OSError(getattr(errno, reason), os.strerror(getattr(errno, reason)), "/somewhere/temporary")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    course.stub("mini").write_text(RIGHT)
    with pytest.raises(CannotReset) as caught:
        reset_module(course, course.module("mini"))
    assert str(caught.value).startswith(f"exercises/mini.py can't be read or written. {ADVICE[reason]}")


def test_lines_are_counted_as_python_counts_them(course):
    """A form feed and a line separator in a string are no ends of lines."""
    path, module = course.stub("mini"), course.module("mini")
    text = 'from torch import Tensor\na = "\u2028\x0c"\n\n\ndef double(x):\n    return x + x\n\n\nb = 2\n'
    path.write_text(text)
    reset_task(course, module, "double")
    assert path.read_text() == f'from torch import Tensor\na = "\u2028\x0c"\n\n\n{statement_of(course, module, "double")}\n\n\nb = 2\n'


def test_a_file_that_cannot_be_read(course):
    """A syntax error is said; the whole module can be reset, and a missing file is made anew."""
    path, module = course.stub("mini"), course.module("mini")
    stub = path.read_text()
    path.write_text("def double(x:\n")
    with pytest.raises(CannotReset, match=r"mini\.py has a syntax error.*grader reset mini"):
        reset_task(course, module, "double")
    kept = reset_module(course, module)
    assert kept is not None
    assert (kept.read_text(), path.read_text()) == ("def double(x:\n", stub)
    path.unlink()
    assert reset_task(course, module, "double") is None
    assert path.read_text() == stub


def test_backups_of_one_second_do_not_meet(course):
    """Each has a name of its own."""
    module = course.module("mini")
    kept = set()
    for number in range(3):
        course.stub("mini").write_text(f"{RIGHT}\n# {number}\n")
        kept.add(reset_module(course, module))
    assert len(kept) == 3
    assert {path.read_text().strip()[-1] for path in kept if path} == {"0", "1", "2"}


def test_without_reference_and_copy(course):
    """Nothing is written, and a sentence says what is missing."""
    course.solution("mini").unlink()
    course.stub("mini").write_text(ANSWER)
    with pytest.raises(CannotReset, match=r"tools/stubs/mini\.py is missing"):
        reset_task(course, course.module("mini"), "double")
    assert course.stub("mini").read_text() == ANSWER


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_files_form_stays(course, bom, end):
    """A byte order mark and Windows' line ends are kept; of two definitions, the one that counts is put back."""
    path, module = course.stub("mini"), course.module("mini")
    text = "from torch import Tensor\n\n\ndef double(x):\n    return 1\n\n\ndef double(x):\n    return 2\n"
    path.write_bytes(bom + text.replace("\n", end).encode())
    assert reset_task(course, module, "double") is not None
    expected = f"from torch import Tensor\n\n\ndef double(x):\n    return 1\n\n\n{statement_of(course, module, 'double')}\n"
    assert path.read_bytes() == bom + expected.replace("\n", end).encode()


def test_a_carriage_return_ends_a_line(course):
    """Python sees it so, also where it stands alone; so the definition is cut where it stands."""
    path, module = course.stub("mini"), course.module("mini")
    path.write_bytes(b"from torch import Tensor\rb = 2\n\n\ndef double(x):\n    return x\n\n\nc = 3\n")
    reset_task(course, module, "double")
    assert path.read_bytes().decode() == f"from torch import Tensor\nb = 2\n\n\n{statement_of(course, module, 'double')}\n\n\nc = 3\n"


def test_another_encoding_loses_nothing(course):
    """A file that is not in UTF-8 is left as it is, with a sentence."""
    path, data = course.stub("mini"), b"def double(x):\n    return x  # caf\xe9\n"
    path.write_bytes(data)
    with pytest.raises(CannotReset, match=r"mini\.py is not in UTF-8"):
        reset_task(course, course.module("mini"), "double")
    assert path.read_bytes() == data
