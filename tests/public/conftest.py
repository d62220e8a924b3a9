"""Lets the public tests import your modules: `pytest` tests exercises/, `pytest --code FOLDER` tests the modules in another folder."""

import contextlib
import sys

import pytest

with contextlib.suppress(ImportError):  # a CPU build of torch beside PyPI's torchvision needs a hand: see that module
    from grader.torchvision_compat import import_torchvision

    import_torchvision()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --code."""
    parser.addoption("--code", default="exercises", metavar="FOLDER", help="the folder of the modules under test")


def pytest_configure(config: pytest.Config) -> None:
    """Put that folder first on the import path."""
    sys.path.insert(0, str(config.rootpath / config.option.code))
