"""References cut into the parts of a notebook."""

import re
from pathlib import Path

import pytest

from grader.course.manifest import Course
from grader.course.parts import cut_up
from grader.course.stubs import make_stub


def cleared(cell: str) -> str:
    """What nbgrader makes of a cell for students, with the words that make_stub uses."""
    return re.sub(r"( *)### BEGIN SOLUTION.*?### END SOLUTION", r"\1raise NotImplementedError()", cell, flags=re.DOTALL)


@pytest.mark.parametrize("module", Course.read(Path(__file__).resolve().parents[3]).modules, ids=lambda module: module.name)
def test_parts_are_the_reference_and_without_their_answers_the_stub(module):
    """Every module's parts hold each line of the reference once, and what nbgrader leaves of a task is what exercises/ has."""
    text = Course.read(Path(__file__).resolve().parents[3]).solution(module.name).read_text()
    names = [task.name for task in module.tasks]
    parts = cut_up(text, names)
    stub = re.sub(r"raise NotImplementedError\(.*\)", "raise NotImplementedError()", make_stub(text, names))
    for name, cell in parts.tasks.items():
        assert f"\n{cleared(cell)}\n" in stub, name
    together = "\n".join([parts.preamble, *parts.tasks.values()])
    code = [line for line in together.splitlines() if line.strip() and line.strip()[0] != "#"]
    body = text.partition('"""')[2].partition('"""')[2]
    assert sorted(code) == sorted(line for line in body.splitlines() if line.strip() and line.strip()[0] != "#")


HELPERS = '''\
"""About it."""

import math

_SHARED = 2
_SQUARES = [i * i for i in range(3)]
LIMIT = 7


def first(x: int) -> int:
    """Double."""
    i = x
    return _also(i)


def _also(x):
    return _SHARED * x


class Second:
    """Remembers."""

    _hidden = 1
    shown = 2

    def __init__(self):
        """Begin."""
        self.n = _SHARED + _SQUARES[0]

    def _step(self):
        return self._hidden

    def go(self) -> int:
        """Go on."""
        return self._step()
'''


def test_private_parts_stand_behind_the_marks():
    """Helpers go with the first task that needs them, a class's own behind one of its methods; the cells together run."""
    parts = cut_up(HELPERS, ["first", "Second"])
    assert parts.docstring == "About it."
    assert parts.preamble == "import math\n\nLIMIT = 7"
    assert "_SQUARES = " in parts.tasks["Second"]
    assert "_SHARED = 2" in parts.tasks["first"] and "def _also" in parts.tasks["first"]
    left = cleared("\n".join(parts.tasks.values()))
    assert not any(name in left for name in ("_SHARED", "_also", "_hidden", "_step"))
    assert left.count("raise NotImplementedError()") == 3 and "shown = 2" in left
    values: dict[str, object] = {}
    exec("\n".join([parts.preamble, *parts.tasks.values()]), values)
    assert values["first"](3) == 6 and values["Second"]().go() == 1 and values["Second"]().n == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("class T:\n    _secret = 1\n", "add one"),
        ("class T:\n    def go(self):\n        return _two\n\n    shown = 2\n\n\n_two = 2\n", "put its methods last"),
    ],
)
def test_what_can_not_be_hidden(text, sentence):
    """The sentence says what to change in the reference."""
    with pytest.raises(ValueError, match=sentence):
        cut_up(text, ["T"])


def test_code_to_mend_stands_behind_the_marks():
    """The instructor's notebook runs the reference; the students' raises, and behind that stands what they mend."""
    source = 'def f(x):\n    """Double."""\n    return 2 * x\n\n\nclass C:\n    def one(self):\n        return 1\n\n'
    source += "    def two(self):\n        return 2\n"
    cells = cut_up(source, ["f", "C"], {"f": "    return x", "C.one": "        return 3"}).tasks
    values: dict[str, object] = {}
    exec("\n".join(cells.values()), values)
    assert values["f"](3) == 6 and values["C"]().one() == 1
    left = cleared(cells["f"])
    assert left.endswith("Delete the next line, then find the mistake and mend it.\n    raise NotImplementedError()\n    return x")
    assert "return 3" in cleared(cells["C"]) and "return 1" not in cleared(cells["C"])
