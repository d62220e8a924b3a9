"""Tests of `grader show`: what is computed, where it differs, and how it is drawn."""

from pathlib import Path

import msgspec
import pytest

from grader.check.pictures import CannotDraw, outdated_pictures, pictures_text
from grader.course.manifest import Course, ManifestError, Show, Task, load_course
from grader.exports.leaks import find_leaks
from grader.practice.figures import CannotSave, check_destination
from grader.practice.outcome import Drawing, DrawRequest
from grader.practice.pictures import Picture, Style, differences, read_pictures, render, scale, verdict
from grader.practice.process_handle import PracticeProcess
from tests.grader.conftest import grader, mini_course

PICTURES = "tests/public/pictures.json"
ROOT = Path(__file__).parents[3]
SHOW = '\n[modules.tasks.show]\nkind = "heatmap"\ncall = "double(x)"\nsetup = "x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])"\n'
RIGHT = "def double(x):\n    return x + x\n"
PLAIN = Style(60, ascii=True, colour=False)
CURVE = """\
4 ▀▄
    ▀▄
      ▀▄▄
         ▀▄
           ▀▄
             ▀▀▄▄
                 ▀▀▀▄▄
                      ▀▀

0
                       ×
  0                    2
Expected
"""


def with_show(folder: Path, table: str = SHOW, student: str | None = None) -> Course:
    """The course in miniature, where the task `double` has a picture, and the student's file has this text."""
    mini_course(folder)
    path = folder / "course.toml"
    text = path.read_text()
    end = text.index('\n[[modules.tasks]]\nname = "Counter"')
    path.write_text(text[:end] + table + text[end:])
    if student is not None:
        (folder / "exercises" / "mini.py").write_text(student)
    return load_course(folder)


def task(kind: str = "heatmap", **keys: object) -> Task:
    """A task with a picture."""
    return Task("double", 1.0, 1, ("a", "b", "c"), show=msgspec.convert({"kind": kind, "call": "double(x)", **keys}, Show))


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Draws the picture of `double` for a student's file, in one process for all tests here."""
    folder = tmp_path_factory.mktemp("course")
    course = with_show(folder)
    with PracticeProcess(folder) as process:

        def draw(student: str | None, show: Show | None = None) -> Drawing:
            file = folder / "exercises" / "mini.py"
            file.unlink(missing_ok=True)
            if student is not None:
                file.write_text(student)
            return process.draw(DrawRequest("mini", "double", show or course.modules[0].tasks[0].show))

        yield draw


# ---- course.toml


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('kind = "pie"\ncall = "f()"', ["'double'", "show", "heatmap, lines, steps or points"]),
        ('kind = "heatmap"', ["'double'", "add the key `call`"]),
        ('kind = "heatmap"\ncall = "f("', ["'double'", "`call` is not an expression"]),
        ('kind = "heatmap"\ncall = "f()"\nsetup = "x ="', ["'double'", "`setup` is not statements"]),
        ('kind = "lines"\ncall = "f()"\nover = "1 2"', ["'double'", "`over` is not an expression"]),
        ('kind = "heatmap"\ncall = "f()"\nover = "x"', ["'double'", "for lines and steps only"]),
        ('kind = "heatmap"\ncall = "f()"\ncolour = "red"', ["'double'", "remove the key `colour`"]),
    ],
)
def test_a_wrong_table_is_refused_with_the_fix(tmp_path, table, words):
    """The sentence names the task, the key and what to do."""
    with pytest.raises(ManifestError) as caught:
        with_show(tmp_path, f"\n[modules.tasks.show]\n{table}\n")
    assert all(word in str(caught.value) for word in words), str(caught.value)


# ---- the practice process


def test_draws_what_the_call_gives(processes):
    """Numbers are rounded to four digits, and infinities are words."""
    assert processes(RIGHT).rows == [[2, 4], [6, 8]]
    shown = processes("def double(x):\n    return x / 3 * 1e-4 - float('inf') * (x == 4)\n".replace("- float('inf') * (x == 4)", ""))
    assert shown.rows[0] == [3.333e-05, 6.667e-05]
    assert processes("def double(x):\n    return x / (x - 1)\n").rows[0][0] == "inf"


@pytest.mark.parametrize(
    ("student", "sentence"),
    [
        ("def double(x):\n    raise NotImplementedError('double')\n", "double is not written yet."),
        ("def double(x):\n    return x @ x[:, 0:1].T\n", "The call raised RuntimeError"),
        ("def double(x):\n    return None\n", "The call gave None, not a matrix."),
        ("def double(x):\n    return x[0]\n", "The call gave a tensor of shape (2,), not a matrix."),
        ("def double(x):\n    return x.repeat(99, 99)\n", "more than the 4,000 numbers"),
        ("def double(x:\n", "can't be imported"),
        ("def half(x):\n    return x\n", "mini.py has no double."),
        ("def double(x):\n    raise SystemExit(3)\n", "The call raised SystemExit: 3 in exercises/mini.py:2."),
        ("import os\ndef double(x):\n    os._exit(3)\n", "ended Python itself (status 3)"),
        (None, "exercises/mini.py is missing."),
    ],
)
def test_says_why_there_is_nothing_to_draw(processes, student, sentence):
    """Whatever the student's code does gives one sentence, and the next picture is drawn as ever."""
    drawing = processes(student)
    assert sentence in drawing.problem
    assert not drawing.rows
    assert processes(RIGHT).rows == [[2, 4], [6, 8]]


def test_generators_are_seeded(processes):
    """Random numbers are the same in every picture, whatever ran before."""
    show = Show("lines", "double(torch.rand(3))")
    first = processes(f"import torch\ntorch.rand(5)\n{RIGHT}", show)
    assert first.rows
    assert processes(RIGHT, show) == first


def test_curves_have_places(processes):
    """`over` gives the places along the axis, and a vector is one curve."""
    drawing = processes(RIGHT, Show("steps", "double(x)", setup="x = torch.tensor([0.0, 5.0])", over="x - 1"))
    assert (drawing.rows, drawing.over) == ([[0, 10]], [-1, 4])


# ---- differences


def test_only_visible_differences_count():
    """A thousandth of the largest expected number can't be seen; nan is like nan, and inf is not like -inf."""
    assert differences([[100.0, 1.05]], [[100.0, 1.0]]) == set()
    assert differences([[100.0, 1.2]], [[100.0, 1.0]]) == {(0, 1)}
    assert differences([["nan", "inf", "inf", 1.0]], [["nan", "inf", "-inf", "nan"]]) == {(0, 2), (0, 3)}


def test_the_verdict_says_what_differs():
    """It names the place and both numbers, or both sizes, or says that all is well."""
    expected = Picture("", [[1.0, 0.0], [2.0, 0.0]], [5.0, 6.0])
    assert verdict(task(), Drawing([[1.0, 3.0], [2.0, 0.0]]), expected).startswith(
        "1 of 4 numbers differ. The first is at row 0, column 1: "
    )
    assert "yours is 3, expected 0" in verdict(task(), Drawing([[1.0, 3.0], [2.0, 0.0]]), expected)
    assert "at 6 of b:" in verdict(task("lines", labels=["a", "b"]), Drawing([[1.0, 0.0], [2.0, 1.0]]), expected)
    assert verdict(task(), Drawing([[1.0]]), expected) == "Yours is 1 × 1, expected is 2 × 2."
    assert "looks as expected" in verdict(task(), Drawing(expected.rows), expected)
    assert "`grader stubs` makes it" in verdict(task(), Drawing(expected.rows), None)


# ---- the terminal


def test_a_heatmap_marks_what_differs():
    """Two characters a number, yours beside the expected one, with a mark where they differ."""
    text = render(task(title="A mask", x="key"), Drawing([[1, 0, 1], [1, 1, "nan"]]), Picture("", [[1, 0, 0], [1, 1, 0]]), PLAIN).plain
    assert text.splitlines() == [
        "A mask",
        "columns: key",
        "Yours                          Expected",
        "  0 1 2                          0 1 2",
        "0 ##. #x                       0 ##. .",
        "1 ####?x                       1 ####.",
        ". 0   # 1   ?? nan   x differs",
        "2 of 6 numbers differ. The first is at row 0, column 2: yours is 1, expected 0.",
    ]


def test_a_terminal_that_can_gets_shades_and_colours():
    """With more than ASCII there are shades, and what differs is red."""
    text = render(task(), Drawing([[0, 1, 2, 3, 3.5]]), Picture("", [[0, 1, 2, 3, 4]]), Style(80))
    assert "0 · ░░▒▒▓▓█×" in text.plain
    assert any(span.style == "bold red" and "×" in text.plain[span.start : span.end] for span in text.spans)


def test_curves_go_from_end_to_end():
    """A line falls from the upper left to the lower right, and a mark stands below what differs."""
    lines = render(task("lines"), Drawing([[4, 2, 1]]), Picture("", [[4, 2, 0]]), Style(24, colour=False)).plain.splitlines()
    assert lines[2:15] == CURVE.splitlines()


def test_a_huge_number_leaves_the_expected_ones_visible():
    """The scale goes at most one width of the expected numbers beyond them, and the legend says so."""
    assert scale([[1e9, -3.0]], [[0.0, 2.0]]) == (-2.0, 4.0)
    assert scale([[0.5, 1.0]], [[0.0, 2.0]]) == (0.0, 2.0)
    assert "numbers beyond are drawn like the nearest" in render(task(), Drawing([[1e9, 0]]), Picture("", [[0, 1]]), PLAIN).plain


def test_curves_without_colour_are_letters():
    """Two curves can be told apart, and the legend says which is which."""
    text = render(task("steps", labels=["up", "down"]), Drawing([[0, 1], [1, 0]]), None, Style(60, colour=False)).plain
    assert "a up   b down" in text
    assert text.splitlines()[2].count("b") > 10
    assert text.splitlines()[2].count("a") > 10


def test_points_are_numbered():
    """Few points are drawn as their numbers, where they lie."""
    lines = render(task("points"), Drawing([[0, 0], [1, 1], [0, 1]]), None, PLAIN).plain.splitlines()
    assert lines[2].split() == ["1", "2", "1"]
    assert next(line for line in lines if line.startswith("0 "))[2] == "0"


@pytest.mark.parametrize("kind", ["heatmap", "lines", "steps", "points"])
@pytest.mark.parametrize("rows", [[], [[1.0, 1.0]], [["nan", "inf"], ["-inf", 0.0]], [[1e9, -1e9]], [[0.0, 0.0]] * 12])
def test_whatever_comes_is_drawn_within_the_width(kind, rows):
    """No picture fails or is wider than the terminal, but for the legend and the verdict, which are words."""
    for width in (20, 60, 80):
        for expected in (None, Picture("", [[0.0, 1.0], [2.0, 3.0]])):
            yours = Drawing(rows, problem="" if rows else "It is not written yet.")
            lines = render(task(kind, title="t"), yours, expected, Style(width)).plain.splitlines()
            assert all(len(line) <= width for line in lines[:-2]), lines


# ---- pictures.json


def test_stubs_writes_pictures_and_sees_when_they_are_old(tmp_path):
    """`grader stubs` writes the file, and `--check` fails when the reference or the call is another."""
    with_show(tmp_path)
    assert "pictures.json is out of date for double" in grader("stubs", "--check", cwd=tmp_path).stderr
    assert grader("stubs", cwd=tmp_path).returncode == 0
    assert read_pictures(load_course(tmp_path))["double"].rows == [[2, 4], [6, 8]]
    assert grader("stubs", "--check", cwd=tmp_path).returncode == 0
    path = tmp_path / "course.toml"
    path.write_text(path.read_text().replace('call = "double(x)"', 'call = "double(x + 1)"'))
    assert grader("stubs", "--check", cwd=tmp_path).returncode == 1
    grader("stubs", cwd=tmp_path)
    assert read_pictures(load_course(tmp_path))["double"].rows == [[4, 6], [8, 10]]
    (tmp_path / PICTURES).write_text("{")
    assert outdated_pictures(load_course(tmp_path)) == ["double"]


def test_a_picture_that_is_up_to_date_is_not_drawn_again(tmp_path):
    """So another machine's last digits don't change the file."""
    course = with_show(tmp_path)
    text = pictures_text(course)
    (tmp_path / PICTURES).write_text(text.replace("[2,4]", "[2.001,4]").replace("[2.0,4.0]", "[2.001,4.0]"))
    assert "2.001" in pictures_text(course)


def test_a_reference_without_a_picture_is_an_error(tmp_path):
    """The author hears which task it is and why."""
    with pytest.raises(CannotDraw, match=r"task 'double', show: the reference gives no picture. mini.py has no toorch"):
        pictures_text(with_show(tmp_path, SHOW.replace("torch.tensor", "toorch.tensor")))


def test_the_courses_pictures_are_what_the_references_give():
    """Every task that has a picture has an up-to-date one, which this machine's reference matches; each takes below the limit."""
    course = load_course(ROOT)
    known = read_pictures(course)
    assert outdated_pictures(course) == []
    assert len(known) >= 15
    assert len({module.name for module in course.modules for task in module.tasks if task.name in known}) == len(course.modules)
    with PracticeProcess(ROOT) as process:
        for module in course.modules:
            for one in module.tasks:
                if one.show:
                    drawing = process.draw(DrawRequest(module.name, one.name, one.show, "solutions"))
                    assert "looks as expected" in verdict(one, drawing, known[one.name]), one.name


def test_pictures_give_no_secret_away(tmp_path):
    """The file may be exported to students."""
    (tmp_path / "pictures.json").write_bytes((ROOT / PICTURES).read_bytes())
    assert find_leaks(tmp_path, load_course(ROOT)) == []


# ---- files


@pytest.mark.parametrize(
    ("name", "words"), [("a.jpg", "neither a .png nor a .svg"), ("no/a.png", "does not exist"), ("d.png", "is a folder")]
)
def test_a_bad_destination_is_refused_before_anything_runs(tmp_path, name, words):
    """The sentence says what to do."""
    (tmp_path / "d.png").mkdir()
    with pytest.raises(CannotSave, match=words):
        check_destination(tmp_path / name)


def test_without_matplotlib_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    """It names the command."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CannotSave, match=r"python -m pip install matplotlib"):
        check_destination(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["heatmap", "lines", "steps", "points"])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_saves_pictures(tmp_path, kind, ending):
    """Both formats, the same bytes each time, and an SVG's words can be read."""
    pytest.importorskip("matplotlib")
    from grader.practice.figures import save_figure

    one = task(kind, title="A picture", x="the axis")
    beginnings = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{ending}"
        save_figure(path, one, Drawing([[0, 1], ["inf", 3]]), Picture("", [[0, 1], [2, "nan"]]))
        beginnings.append(path.read_bytes())
    assert beginnings[0] == beginnings[1]
    if ending == "png":
        assert beginnings[0].startswith(b"\x89PNG")
    else:
        assert all(word in beginnings[0].decode() for word in ("A picture", "the axis", "Yours", "Expected"))


def test_saves_what_is_expected_when_nothing_is_written(tmp_path):
    """The expected picture alone is a picture, too."""
    pytest.importorskip("matplotlib")
    from grader.practice.figures import save_figure

    save_figure(tmp_path / "a.svg", task(), Drawing(problem="double is not written yet."), Picture("", [[1.0]]))
    text = (tmp_path / "a.svg").read_text()
    assert "double is not written yet." in text
    assert "Expected" in text
    assert "Yours" not in text


# ---- the command


def test_show_draws_and_saves(tmp_path):
    """`grader show` draws in the terminal, with --save to a file; a task without a picture is refused with those that have one."""
    with_show(tmp_path, student="def double(x):\n    return x * x\n")
    (tmp_path / PICTURES).write_text('{"double": {"made_from": "", "rows": [[2, 4], [6, 8]]}}')
    done = grader("show", "double", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert "3 of 4 numbers differ. The first is at row 0, column 0: yours is 1, expected 2." in done.stdout
    assert "x differs" in done.stdout
    assert done.stdout.isascii()
    refused = grader("show", "Counter", cwd=tmp_path)
    assert refused.returncode == 2
    assert "These have: double." in refused.stderr
    assert "neither a .png nor a .svg" in grader("show", "double", "--save", "a.gif", cwd=tmp_path).stderr
    pytest.importorskip("matplotlib")
    saved = grader("show", "double", "--save", "a.svg", cwd=tmp_path)
    assert "The picture is in a.svg." in saved.stdout
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
