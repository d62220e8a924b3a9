"""Lets the public tests import your modules: `pytest` tests exercises/, `pytest --code FOLDER` tests the modules in another folder."""

import contextlib
import sys

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --code."""
    parser.addoption("--code", default="exercises", metavar="FOLDER", help="the folder of the modules under test")


def pytest_configure(config: pytest.Config) -> None:
    """Put that folder first on the import path."""
    sys.path.insert(0, str(config.rootpath / config.option.code))


def pytest_make_collect_report(collector: pytest.Collector) -> None:
    """Where a module uses torchvision, import that first: beside a CPU build of torch it needs a hand (and always a second or two)."""
    if isinstance(collector, pytest.Module):
        code = collector.config.rootpath / collector.config.option.code / collector.path.name.removeprefix("test_")
        with contextlib.suppress(OSError, ImportError):
            if any("torchvision" in path.read_text(encoding="utf-8") for path in (collector.path, code)):
                from grader.torchvision_compat import import_torchvision

                import_torchvision()
