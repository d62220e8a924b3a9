"""`grader items`: what a class's failures say about the tests, and nothing about a student."""

import msgspec

from grader.base.outcome import Status
from grader.reports.items import items
from tests.grader.conftest import grader
from tests.grader.exports.samples import outcome, results, submission

P, F, E, N = Status.PASSED, Status.FAILED, Status.ERROR, Status.NOT_IMPLEMENTED
NAMED = "values: 3 of 5 are wrong.\nIt looks like this: Divides by n.\nCalled: double()"


def one(id: str, *tests) -> object:
    """A submission of one task."""
    return submission({"double": (2.0, tests)}, id)


CLASS = results(
    one("anna", outcome(P, id="a"), outcome(P, id="b")),
    one("ben", outcome(F, 1.0, NAMED, "a"), outcome(F, 1.0, "values: 4 of 5 are wrong.", "b")),
    one("cy", outcome(F, 1.0, NAMED.replace("3", "2"), "a"), outcome(P, id="b")),
    one("dee", outcome(P, id="a"), outcome(F, 1.0, "value: expected the int 65, got the str 'Dee Zed'.", "b")),
    one("eve", outcome(P, id="a"), outcome(F, 1.0, "value: expected the int 7, got a EvesNet.", "b")),
    one("fay", outcome(E, 1.0, "ValueError: Fay was here (line 3, in double)", "a"), outcome(P, id="b")),
    *(one(f"g{i}", outcome(E, 1.0, f"TypeError: bad argument (line {i}, in double)", "a"), outcome(P, id="b")) for i in range(3)),
    one("hal", outcome(N, 1.0, "not implemented yet", "a"), outcome(N, 1.0, "not implemented yet", "b")),
)


def test_what_an_item_says():
    """Who did not try is not counted; numbers and quoted text are left out; an exception's text is shown only if several have it."""
    (item,) = items(CLASS)
    assert (item.module, item.task, item.tried, item.passed) == ("module0", "double", 9, 1)
    assert item.failed_tests == {"a": 6, "b": 3}
    assert item.mistakes == {"Divides by n.": 2}
    assert [(group.test, group.what, group.students) for group in item.unexplained] == [
        ("a", "TypeError: bad argument", 3),
        ("b", "value: expected the int #, got …", 2),
        ("a", "ValueError", 1),
    ]


def test_nothing_personal_is_in_it(tmp_path):
    """Neither ids nor words of a student's, for people and for programs."""
    (tmp_path / "results.json").write_bytes(msgspec.json.encode(CLASS))
    for options in ((), ("--json",)):
        done = grader("items", ".", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not any(word in done.stdout for word in ("anna", "ben", "Dee", "Eve", "Fay", "hal"))
        assert "Divides by n." in done.stdout
    assert grader("items", "nowhere", cwd=tmp_path).returncode == 2
