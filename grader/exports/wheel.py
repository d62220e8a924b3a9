"""Packs this package into a wheel, so that a repository for students can bring its own `grader`. It holds the engine and no course.

Source of the format: the packaging guide's "Binary distribution format". The same package always gives the same bytes.
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import grader

__all__ = ["build_wheel"]

_NAME = "pytorch-exercises"
_TIME = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip file can hold. A real one would make every export differ."""
_WHEEL = "Wheel-Version: 1.0\nGenerator: grader\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel() -> tuple[str, bytes]:
    """The file name and the content of the wheel. Raises: PackageNotFoundError if this package is not installed."""
    installed = distribution(_NAME)
    stem = f"{_NAME.replace('-', '_')}-{installed.version}"
    files = dict(_package_files()) | dict(_about(installed, f"{stem}.dist-info"))
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_DEFLATED)
    return f"{stem}-py3-none-any.whl", out.getvalue()


def _package_files() -> Iterator[tuple[str, bytes]]:
    root = Path(grader.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path.relative_to(root.parent).as_posix(), path.read_bytes()


def _about(installed: Distribution, folder: str) -> Iterator[tuple[str, bytes]]:
    for name in ("METADATA", "entry_points.txt"):
        text = installed.read_text(name)
        if text is None:
            raise PackageNotFoundError(_NAME)
        if name == "METADATA":  # its body is the README, which shows an exercise and its answer
            text = text.partition("\n\n")[0] + "\n"
        yield f"{folder}/{name}", text.encode()
    yield f"{folder}/WHEEL", _WHEEL.encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
