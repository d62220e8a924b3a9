"""What students hand in: archives, notebooks, and the text of a module."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

from grader.submissions.find import read_submission

TEXT = "def double(x):\n    return x + x\n"


def zipped(path: Path, members: dict[str, str | bytes]) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> Path:
    """Write a gzipped tar archive."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def headed(name: str, kind: bytes, data: bytes) -> bytes:
    """A tar's member, header and all."""
    info = special(name, kind)
    info.size = len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def notebook(*cells: str, kind: str = "code") -> str:
    """A notebook's JSON, sources as lists of lines as Jupyter writes them."""
    listed = [{"cell_type": kind, "metadata": {}, "outputs": [], "source": cell.splitlines(keepends=True)} for cell in cells]
    return json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def handed_in(path: Path, course) -> dict[str, str]:
    """The texts of the modules that were found."""
    return {name: source.text for name, source in read_submission(path, course).sources.items() if not source.missing}


def problem_of(path: Path, course) -> str:
    """The sentence for the student."""
    return read_submission(path, course).sources["mini"].problem
