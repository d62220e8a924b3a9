"""The watcher of the folder: every way of saving is noticed."""

import os
import threading

import pytest

from grader.practice.watch.files import watch_folder
from tests.grader.practice.watch.conftest import wait_for


@pytest.fixture
def looked(tmp_path):
    """A watched folder with a file, and a function that says what was seen in the file."""
    path, seen, stop = tmp_path / "work" / "mini.py", [], threading.Event()
    path.parent.mkdir()
    path.write_text("0")
    thread = threading.Thread(
        target=watch_folder, args=(path.parent, lambda: seen.append(path.read_text() if path.exists() else None), stop)
    )
    thread.start()
    wait_for(lambda: seen)
    yield path, seen
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_sees_a_write_a_replacement_a_deletion_and_a_renaming(looked):
    """In place, by another file as editors do, away, and back under its name."""
    path, seen = looked
    path.write_text("1")
    wait_for(lambda: seen[-1] == "1")
    new = path.with_name("mini.py.tmp")
    new.write_text("2")
    os.replace(new, path)
    wait_for(lambda: seen[-1] == "2")
    path.unlink()
    wait_for(lambda: seen[-1] is None)
    path.with_name("other.py").write_text("3")
    path.with_name("other.py").rename(path)
    wait_for(lambda: seen[-1] == "3")


def test_sees_a_folder_that_was_made_again(looked):
    """The watch on a deleted folder is dead; a new one is begun."""
    path, seen = looked
    path.unlink()
    path.parent.rmdir()
    wait_for(lambda: seen[-1] is None)
    path.parent.mkdir()
    path.write_text("1")
    wait_for(lambda: seen[-1] == "1")
    path.write_text("2")
    wait_for(lambda: seen[-1] == "2")


def test_looks_where_nothing_is_reported(looked, monkeypatch):
    """Some folders, such as those of a network, report no changes: what is in them is looked at once a second all the same."""
    _, seen = looked
    count = len(seen)
    wait_for(lambda: len(seen) >= count + 2)
