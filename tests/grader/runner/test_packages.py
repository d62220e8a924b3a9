"""The packages that results.json records: those that a student's code can import in a worker."""

import importlib.metadata
import json
import re
import site
from pathlib import Path

import msgspec

from grader.course.manifest import Limits
from grader.protocol.probes import freeze
from grader.runner import packages
from grader.runner.packages import importable_packages, packages_in
from grader.runner.results import environment
from grader.runner.store import Store
from grader.sandbox.supervisor.isolation import isolation
from grader.sandbox.supervisor.worker_handle import WorkerHandle
from grader.submissions.sources import Source


def install(folder: Path, *names: str) -> str:
    """A folder with what an installer writes."""
    for name in names:
        (folder / name).mkdir(parents=True)
    return str(folder)


def test_names_and_versions_are_read_from_the_folders(tmp_path):
    """Wheels and old eggs, sorted by normalised name; the first folder wins; nothing else counts."""
    first = install(tmp_path / "a", "Zope.Interface-7.0.dist-info", "numpy-2.3.0.dist-info", "numpy", "old_one-1.0-py3.11.egg-info")
    second = install(tmp_path / "b", "numpy-1.0.dist-info", "bare.egg-info", "typing_extensions-4.1.dist-info")
    found = packages_in([first, second, str(tmp_path / "absent")])
    assert list(found.items()) == [
        ("bare", ""),
        ("numpy", "2.3.0"),
        ("old-one", "1.0"),
        ("typing-extensions", "4.1"),
        ("zope-interface", "7.0"),
    ]


def test_they_are_what_importlib_finds():
    """In this environment, the names of folders say the same as the metadata in them."""
    expected = {}
    for found in importlib.metadata.distributions(path=site.getsitepackages()):
        expected.setdefault(re.sub(r"[-_.]+", "-", found.name).lower(), found.version)
    assert importable_packages() == dict(sorted(expected.items()))


def test_only_what_a_worker_can_read_counts(tmp_path, monkeypatch, zygote):
    """The folders that are looked at are among those where a worker looks for modules; one that it can't read is left out."""
    with WorkerHandle(zygote, Limits()) as worker:
        worker.load("mini", "import sys", [], [])
        searched = worker.call(freeze(lambda m: list(m.sys.path)), 0, (), Limits()).value
    assert set(site.getsitepackages()) <= set(searched)
    unreadable = install(tmp_path, "secret-1.0.dist-info")
    before = importable_packages()
    monkeypatch.setattr(packages.site, "getsitepackages", lambda: [unreadable])
    assert "torch" in before
    assert importable_packages() == {}


def test_another_package_is_another_key(course, tmp_path, monkeypatch):
    """A result that was kept while a package was there is not taken when it is gone, or another version."""
    sets = [{}, {"plots": "1.0"}, {"plots": "1.1"}]
    keys = []
    for some in sets:
        monkeypatch.setattr("grader.runner.results.importable_packages", lambda some=some: some)
        here = environment()
        assert json.loads(msgspec.json.encode(here))["packages"] == some
        keys.append(Store(tmp_path, course, here, isolation(None), 1).key(course.modules[0], Source("x = 1")))
    assert len(set(keys)) == 3
