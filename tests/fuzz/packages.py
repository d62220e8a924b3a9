"""Fuzz of ingest: archives, notebooks, sources and folders as a student could hand them in.

The property: a package is a `Submission` or `BadInput`, and the same one at a second look; source texts are within the cap and texts
that can be sent on; sentences are harmless; nothing is opened for writing, nothing is opened outside the package, no program, import or
code of it is run. No other exception, no more than some seconds of CPU time and some hundred MiB of memory for one package.

A package is written as bytes: its kind (`zip`, `tar.gz`, `ipynb`, `py` or `folder`), a line feed, and its content. A folder's content
is JSON: a list of [path, what it is, text or target].

Usage: python -m tests.fuzz.packages [--packages N] [--engine mutator|hypothesis|atheris|both|all] [--seed N] [--replay FILE]
"""

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import struct
import sys
import sysconfig
import tarfile
import tempfile
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from grader.course.manifest import Course, Limits, Module, Task
from grader.submissions.find import find_submissions, read_submission
from grader.submissions.sources import MAX_SOURCE_BYTES, BadInput, Submission
from tests.fuzz.engines import Target, Violation, command

__all__ = ["TARGET", "check"]

_SECRET = "a text outside of every package"
_NAMES = {"zip": "anna.zip", "tar.gz": "anna.tar.gz", "ipynb": "mini.ipynb", "py": "mini.py", "folder": "anna"}
_TEXT = "def double(x):\n    return x + x\n"
_COURSE = Course(
    root=Path("/nonexistent"),
    title="A course",
    limits=Limits(),
    modules=tuple(Module(name, name, "", (Task("double", 1.0, 1, ()),)) for name in ("mini", "other")),
    data=Path("/nonexistent"),
)


# ---- a place for packages, and a watch over what is done there


class _Area:
    """A folder for one package at a time, beside things that may not be touched."""

    def __init__(self) -> None:
        place = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=place)
        self.root = Path(self._folder.name).resolve()
        self.inside = self.root / "in"
        self.inside.mkdir()
        (self.root / "mini.py").write_text(f"# {_SECRET}\n")
        self._before = self._state()

    def put(self, package: bytes) -> Path:
        """Write a package; returns its path."""
        kind, _, content = package.partition(b"\n")
        path = self.inside / _NAMES.get(kind.decode(errors="replace"), "anna.zip")
        if path.name == "anna":
            path.mkdir()
            for entry in _entries(content):
                with contextlib.suppress(OSError, ValueError):
                    _place(path, *entry)
        else:
            path.write_bytes(content)
        return path

    def clear(self) -> None:
        """Remove the package. Raises: Violation where something else was changed."""
        shutil.rmtree(self.inside)
        self.inside.mkdir()
        if self._state() != self._before:
            raise Violation("something outside of the package was changed")

    def _state(self) -> list[tuple[str, int]]:
        return sorted((entry.name, entry.stat(follow_symlinks=False).st_size) for entry in os.scandir(self.root) if entry.name != "in")


def _entries(content: bytes) -> list[tuple[str, str, str]]:
    """A folder's entries, as far as they are any."""
    with contextlib.suppress(ValueError, RecursionError):
        listed = json.loads(content)
        if isinstance(listed, list):
            rows = [row for row in listed if isinstance(row, list) and len(row) == 3 and all(isinstance(part, str) for part in row)]
            return [tuple(row) for row in rows[:50]]
    return []


def _place(root: Path, name: str, what: str, text: str) -> None:
    """Put one entry into a folder, never outside of it."""
    path = root / name
    if ".." in path.parts or not path.is_relative_to(root):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    match what:
        case "link":
            path.symlink_to(text)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _ if path.parent.resolve().is_relative_to(root) and not os.path.lexists(path):  # a pipe would block
            path.write_bytes(text.encode("utf-8", "surrogatepass"))


class _Watch:
    """An audit hook that says what ingest did that it may not do."""

    _WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    _HARMLESS = ("open", "os.listdir", "os.scandir", "import", "exec", "object.__getattr__", "object.__setattr__", "code.__new__")
    _HARMLESS += ("marshal.loads", "marshal.load", "sys._getframe", "builtins.id", "gc.get_objects", "mmap.__new__")

    def __init__(self) -> None:
        self.on = False
        self.inside = Path()
        self.seen: list[str] = []
        self._library = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)})
        sys.dont_write_bytecode = True
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on:
            self.on = False
            try:
                if not self._is_allowed(event, arguments):
                    self.seen.append(f"{event}{arguments!r}"[:300])
            finally:
                self.on = True

    def _is_allowed(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or path == "<unknown>":  # where Python looks for the line of a SyntaxError in ast.parse
                return True
            real = os.path.realpath(path)
            return not flags & self._WRITES and (real.startswith((f"{self.inside}/", *self._library)))
        if event == "import":  # of a codec that the source names
            return arguments[0].startswith(("encodings.", "_codecs", "_multibytecodec", "unicodedata", "stringprep"))
        if event == "compile":  # ast.parse, which runs nothing; running what was compiled is an "exec"
            return arguments[1] == "<unknown>"
        if event == "exec":
            return arguments[0].co_filename.startswith((*self._library, "<frozen", "<string>"))
        if event in ("os.listdir", "os.scandir"):
            real = os.path.realpath(arguments[0] or ".")
            return f"{real}/".startswith((f"{self.inside}/", *self._library))
        return event in self._HARMLESS or event.startswith(("cpython.", "sys.", "time.", "warnings."))


@cache
def _surroundings() -> tuple[_Area, _Watch]:
    return _Area(), _Watch()


# ---- the property


def check(package: bytes) -> str:
    """Name what becomes of a package. Raises: Violation."""
    area, watch = _surroundings()
    kind, path = package.partition(b"\n")[0].decode(errors="replace"), area.put(package)
    watch.inside, watch.seen = area.inside, []
    try:
        watch.on = True
        try:
            looks = [_look(path) for _ in range(2)]
        finally:
            watch.on = False
        if looks[0] != looks[1]:
            raise Violation(f"a second look sees something else: {looks[0]!r} and {looks[1]!r}"[:1000])
        if watch.seen:
            raise Violation(f"it does what it may not: {watch.seen[:3]}")
        return f"{_judge(*looks[0])} ({kind if kind in _NAMES else 'zip'})"
    finally:
        area.clear()


def _look(path: Path) -> tuple[Submission | str, list[Submission] | str]:
    """The package as a submission, and as something that holds submissions."""
    try:
        one: Submission | str = read_submission(path, _COURSE)
    except BadInput as error:
        one = f"BadInput: {error}"
    try:
        several, passed_over = find_submissions([path], _COURSE)
    except BadInput as error:
        return one, f"BadInput: {error}"
    for sentence in passed_over:
        _demand(_harmless(sentence), f"{sentence!r} would be shown")
    return one, several


def _judge(one: Submission | str, several: list[Submission] | str) -> str:
    """Demand that what came of a package is as it must be; name it."""
    outcomes = []
    for seen in [one, *(several if isinstance(several, list) else [several])]:
        if isinstance(seen, str):
            _demand(_harmless(seen), f"{seen!r} would be shown")
            outcomes.append("refused: bad input")
            continue
        _demand(_harmless(seen.id) and 0 < len(seen.id) <= 100, f"the id is {seen.id!r}")
        _demand(set(seen.sources) <= {"mini", "other"}, f"modules {list(seen.sources)}")
        for source in seen.sources.values():
            _demand(not (source.text and source.problem), "a text and a problem")
            _demand(_harmless(source.file) and _harmless(source.note), f"{source.file!r} or {source.note!r} would be shown")
            _demand(_harmless(source.problem) and len(source.problem) <= 500, f"{source.problem!r} would be shown")
            _demand(len(source.text) <= MAX_SOURCE_BYTES and "\0" not in source.text, "a text beyond the caps")
            _demand(_SECRET not in source.text, "a text from outside of the package")
            source.text.encode()
        found = [source for source in seen.sources.values() if not source.missing]
        outcomes.append("refused: a problem" if any(s.problem for s in found) else "accepted" if found else "accepted: no modules")
    return outcomes[0]


def _demand(holds: bool, problem: str) -> None:
    if not holds:
        raise Violation(problem[:1000])


def _harmless(text: str) -> bool:
    return text == "" or not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


# ---- a corpus


def _notebook(*cells: Any, **more: Any) -> bytes:
    listed = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": cell} for cell in cells]
    return json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, **more}).encode()


def _zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names may stand twice
            for name, data in members:
                archive.writestr(name.replace("\0", "") or " ", data)
        return file.getvalue()


def _tarred(members: list[tuple[str, bytes, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, kind, data in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
                info.size = 0 if info.linkname else len(data)
                archive.addfile(info, io.BytesIO(data))
        return file.getvalue()


def _packed(tar: bytes, level: int = 1) -> bytes:
    return b"tar.gz\n" + gzip.compress(tar, level, mtime=0)


_CODECS = ["rot13", "undefined", "utf-16", "utf-7", "unicode_escape", "punycode", "idna", "zlib", "hex", "mac", "cp037", "cp1252", "big5"]
_CODECS += ["shift_jis", "iso2022_jp", "gb18030", "hz"]
_SOURCES = [_TEXT.encode(), b"", b"\xef\xbb\xbfx = 1\r\n", "# coding: latin-1\ns = 'ä'\n".encode("latin-1"), b"\0", b"\xff\xfe"]
_SOURCES += [b"x" * 300_000, *(f"# coding: {codec}\nx = 1\n".encode() for codec in _CODECS), b"# coding: unicode_escape\n\\ud800"]


def corpus() -> list[bytes]:
    """Packages of every kind, honest and not."""
    places = ["mini.py", "exercises/mini.py", "anna-main/mini.py", "anna-main/exercises/mini.py", "../mini.py", "/mini.py", "a/b/c/mini.py"]
    packages = [b"py\n" + source for source in _SOURCES]
    packages += [b"zip\n" + _zipped([(place, _TEXT.encode()), ("README.md", b"hello")]) for place in places]
    packages += [b"zip\n" + _zipped([("mini.py", source), ("other.ipynb", _notebook(_TEXT))], zipfile.ZIP_STORED) for source in _SOURCES]
    packages += [b"zip\n" + _zipped([("mini.py", b"x" * 5000)], method) for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]
    packages += [b"zip\n", b"zip\n" + _zipped([]), b"tar.gz\n", _packed(b""), _packed(_tarred([]))]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        packages += [_packed(_tarred([(place, tarfile.REGTYPE, _TEXT.encode())], form)) for place in places]
        hidden = "a" * 90 + "/" + "b" * 60 + "/mini.py"
        packages.append(_packed(_tarred([(hidden, tarfile.REGTYPE, b"x"), ("mini.py", tarfile.SYMTYPE, b"")], form)))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE):
        packages.append(_packed(_tarred([("mini.py", kind, b""), ("exercises/mini.py", tarfile.REGTYPE, _TEXT.encode())])))
    cells: list[Any] = ["%matplotlib inline\nx = 1", "!pip install x", "%%bash\nrm", "%%time\nx = 1", "x = (7\n  % 4)", "print?", "\0"]
    cells.append(["a = '''\n", "%s'''"])
    packages += [b"ipynb\n", b"ipynb\n[]", *(b"ipynb\n" + _notebook(*listed) for listed in ([], cells, *([cell] for cell in cells)))]
    folders = [[["mini.py", "file", _TEXT]], [["exercises/mini.py", "file", _TEXT], ["mini.ipynb", "file", _notebook(_TEXT).decode()]]]
    folders += [[["anna-main/exercises/mini.py", "file", _TEXT]], [["mini.py", "link", "../../mini.py"]], [["exercises", "link", "../.."]]]
    folders += [[["mini.py", "pipe", ""], ["other.py", "folder", ""]], [["in", "link", "../.."]], [], [["a/b/c/mini.py", "file", ""]]]
    folders += [[["sub/mini.py", "link", "../../../mini.py"], ["x.zip", "file", "PK"]], [["a\x1b[31m/mini.py", "file", _TEXT]]]
    return packages + [b"folder\n" + json.dumps(folder).encode() for folder in folders]


# ---- changing a package

_WORDS = ["mini.py", "other.py", "mini.ipynb", "exercises", "exercises/mini.py", "..", "../mini.py", "../../mini.py", "/etc/passwd", ""]
_WORDS += [".", "a/b", "a\\b", "MINI.PY", "m\u0456ni.py", "mini.py\x1b[2J", "\u202emini.py", "\ud800", "\0", "file", "link", "pipe"]
_WORDS += ["folder", "code", "markdown", "cells", "%%time\n", "%%bash\n", "%x", "!ls", "a = !ls", "'''", '"""', "\\", "(" * 50]
_WORDS += ["x" * 300, " " * 3000, "# coding: utf-7\n", _TEXT]
_KINDS = [bytes([kind]) for kind in b"01234567xgLKSVNDM\0"]


def mutate(rng: random.Random, package: bytes, packages: list[bytes]) -> bytes:
    """Another package: one with changed bytes, members, headers or cells, or (rarely) a large one."""
    choice = rng.random()
    if choice < 0.0005:
        return rng.choice(_LARGE)(rng)
    kind, _, content = package.partition(b"\n")
    if choice < 0.03:
        return rng.choice(sorted(_NAMES)).encode() + b"\n" + content
    if choice < 0.25:
        return kind + b"\n" + _mutate_bytes(rng, content)
    match kind:
        case b"zip":
            return b"zip\n" + (_fresh_zip(rng) if choice < 0.6 else _mutate_zip(rng, content))
        case b"tar.gz":
            return _packed(_fresh_tar(rng)) if choice < 0.6 else _mutate_tar(rng, content)
        case b"ipynb" | b"folder":
            return kind + b"\n" + _mutate_json(rng, content)
        case b"py" if choice < 0.5:
            codec = rng.choice([*_CODECS, "utf-8", "latin-1"])
            return b"py\n" + rng.choice([b"", b"\n", b"\xef\xbb\xbf"]) + f"# coding: {codec}\n".encode() + content
        case _:
            return b"py\n" + _mutate_bytes(rng, content)


def _mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 | 1 if at < len(changed):
                changed[at] = rng.choice((changed[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255))
            case 2:
                del changed[at : at + rng.choice((1, 2, 8, 512))]
            case 3:
                changed[at:at] = changed[at : at + rng.choice((1, 4, 30, 512))]
            case _:
                changed[at:at] = rng.choice([rng.randbytes(4), rng.choice(_WORDS).encode(errors="replace"), b"\xff\xff\xff\xff"])
    return bytes(changed)


def _member_data(rng: random.Random) -> bytes:
    data = rng.choice([*_SOURCES[:6], _notebook(_TEXT), _notebook(rng.choice(_WORDS).replace("\ud800", "?"))])
    return _mutate_bytes(rng, data) if rng.random() < 0.3 else data


def _member_name(rng: random.Random) -> str:
    return "/".join(rng.choice(_WORDS) for _ in range(rng.choice((1, 1, 1, 2, 3)))).replace("\ud800", "?")


def _fresh_zip(rng: random.Random) -> bytes:
    members = [(_member_name(rng), _member_data(rng)) for _ in range(rng.randrange(4))]
    return _zipped(members, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))


_ZIP_FIELDS = {b"PK\1\2": (46, "<H", "<I"), b"PK\3\4": (30, "<H", "<I"), b"PK\5\6": (22, "<H", "<I")}


def _mutate_zip(rng: random.Random, content: bytes) -> bytes:
    """Change a field of a zip's local header, directory entry or end."""
    changed = bytearray(content)
    signature, (size, *forms) = rng.choice(sorted(_ZIP_FIELDS.items()))
    at = changed.find(signature)
    if at < 0 or len(changed) < at + size:
        return _mutate_bytes(rng, content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        form = rng.choice(forms)
        width = struct.calcsize(form)
        wide = (1 << 30, 0xFFFFFFFF) if width == 4 else ()
        value = rng.choice((0, 1, 2, 8, 9, 12, 14, 93, 0x7FFF, 0xFFFF, 0xA1FF, rng.randrange(1 << 16), *wide))
        struct.pack_into(form, changed, at + rng.randrange(4, size - width), value)
    return bytes(changed)


def _fresh_tar(rng: random.Random) -> bytes:
    """Members of any kind with headers that lie."""
    blocks = b""
    for _ in range(rng.randrange(5)):
        info = tarfile.TarInfo(_member_name(rng)[:90])
        info.type, info.mode = rng.choice([b"0", b"0", *_KINDS]), 0o644
        data = _pax(rng) if info.type in b"xg" else _member_data(rng)
        info.size = rng.choice((len(data), len(data), len(data), 0, len(data) + 700, 1 << 31, (1 << 33) - 1))
        with contextlib.suppress(ValueError):
            header = info.tobuf(rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT)), errors="replace")
            blocks += (_mutate_header(rng, header) if rng.random() < 0.3 else header) + data + bytes(-len(data) % 512)
    return blocks + bytes(rng.choice((0, 512, 1024, 9000)))


def _mutate_header(rng: random.Random, header: bytes) -> bytes:
    """Change a tar header, its check sum put right."""
    changed = bytearray(_mutate_bytes(rng, header)[-512:].ljust(512, b"\0"))
    if rng.random() < 0.9:
        changed[148:156] = b" " * 8
        changed[148:156] = b"%06o\0 " % (sum(changed) % (1 << 18))
    return bytes(changed)


def _pax(rng: random.Random) -> bytes:
    data = b""
    for _ in range(rng.randrange(4)):
        key = rng.choice(["path", "size", "linkpath", "GNU.sparse.major", "GNU.sparse.map", "hdrcharset", "comment", "mtime"])
        body = f" {key}={rng.choice([*_WORDS, '1', '-1', '9' * 20, 'BINARY'])}\n".encode(errors="replace")
        length = len(body) + 2 + rng.choice((0, 0, 0, 1, -1, 500))
        data += str(length).encode() + body
    return _mutate_bytes(rng, data) if rng.random() < 0.3 else data


def _mutate_tar(rng: random.Random, content: bytes) -> bytes:
    """Change a tar within its gzip, or what is around it."""
    try:
        tar = zlib.decompressobj(wbits=31).decompress(content, 1 << 20)
    except zlib.error:
        return b"tar.gz\n" + _mutate_bytes(rng, content)
    if tar and rng.random() < 0.6:
        at = 512 * rng.randrange(max(1, len(tar) // 512))
        tar = tar[:at] + _mutate_header(rng, tar[at : at + 512]) + tar[at + 512 :]
    else:
        tar = _mutate_bytes(rng, tar)
    packed = _packed(tar)
    return packed if rng.random() < 0.8 else packed[: rng.randrange(len(packed))] + rng.choice([b"", b"\0", packed[7:]])


def _mutate_json(rng: random.Random, content: bytes) -> bytes:
    """Change one place of a notebook or of a folder's list."""
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        return _mutate_bytes(rng, content)
    places: list[tuple[Any, Any]] = []
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            places += [(node, key) for key in keys]
            pending += [node[key] for key in keys]
    for node, key in rng.sample(places, min(len(places), rng.choice((1, 1, 2)))):
        with contextlib.suppress(KeyError, IndexError):
            match rng.randrange(5):
                case 0:
                    del node[key]
                case 1:
                    node[key] = rng.choice([None, 0, 1.5, [], {}, [1], "x", "x = 1\n"])
                case 2 if isinstance(node[key], str):
                    node[key] = node[key] + rng.choice(_WORDS)
                case 3 if isinstance(node[key], str):
                    at = rng.randrange(len(node[key]) + 1)
                    node[key] = node[key][:at] + rng.choice(_WORDS) + node[key][at:]
                case _:
                    node[key] = rng.choice(_WORDS)
    return json.dumps(root, ensure_ascii=rng.random() < 0.7).encode(errors="replace")


# ---- large packages: what is small to hand in and could be large to take


def _many_zip_members(rng: random.Random) -> bytes:
    count = rng.choice((64, 65, 20_000, 20_001, 200_000))
    name = rng.choice([b"mini.py", b"a"])
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(entry) * count, 0, 0)
    return b"zip\n" + entry * count + end


def _zip_bomb(rng: random.Random) -> bytes:
    zeros = bytes(rng.choice((1 << 18, (1 << 18) + 1, 1 << 25)))
    return b"zip\n" + _zipped([(rng.choice(["mini.py", "mini.ipynb", "zeros"]), zeros) for _ in range(rng.choice((1, 8)))])


def _tar_bomb(rng: random.Random) -> bytes:
    size = rng.choice((1 << 20, 1 << 26, (1 << 30) + 1))
    info = tarfile.TarInfo("mini.py")
    info.type, info.size = rng.choice(_KINDS), size
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(info.tobuf(tarfile.GNU_FORMAT))]
    filler = rng.choice([bytes(1 << 20), b"1" * (1 << 20), b"0\n" * (1 << 19), b"11 path=aa\n" * 95_325])
    parts += [packer.compress(filler) for _ in range(min(size >> 20, 64))]
    return b"tar.gz\n" + b"".join([*parts, packer.flush()])


def _tar_headers(rng: random.Random) -> bytes:
    info = tarfile.TarInfo("mini.py")
    info.type = rng.choice([b"x", b"g", b"L", b"K", b"0", b"5"])
    data = rng.choice([b"", b"9" * 60_000, b"11 path=aa\n" * 5000, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"])
    info.size = len(data)
    block = info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)
    return _packed(block * rng.choice((100, 20_001) if len(data) < 1000 else (10, 500)))


def _large_notebook(rng: random.Random) -> bytes:
    count = rng.choice((10_000, 255 << 10, 257 << 10, 4 << 20))
    unit = rng.choice([" ", "(", "'''", "\\", "\n", "%", "a.", "a ", '"""a', "%%time ", "x = !", "?", "\t"])
    if rng.random() < 0.2:
        return b"ipynb\n" + b'{"cells":[' + b"{}," * count + b"{}]}"
    return b"ipynb\n" + _notebook(unit * (count // len(unit)))


def _large_source(rng: random.Random) -> bytes:
    unit = rng.choice([b"a", b"\\", b"~{", b"\x1b$B", b"\xff", b"\n"])
    return b"py\n# coding: " + rng.choice(_CODECS).encode() + b"\n" + unit * rng.choice((60_000, 250_000))


def _deep_json(rng: random.Random) -> bytes:
    return b"ipynb\n" + rng.choice([b"[", b'{"cells":', b'{"cells":[{"source":[']) * rng.choice((500, 100_000))


def _gzip_header(rng: random.Random) -> bytes:
    """A name without end in the gzip header, or many empty gzip files in a row."""
    endless = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"a" * (20 << 20)
    return b"tar.gz\n" + rng.choice([endless, gzip.compress(b"", mtime=0) * 500_000])


_LARGE: list[Callable[[random.Random], bytes]] = [_many_zip_members, _zip_bomb, _tar_bomb, _tar_headers, _large_notebook, _large_source]
_LARGE += [_deep_json, _gzip_header]


# ---- strategies


def strategy() -> st.SearchStrategy[bytes]:
    """Packages built member by member, some with bytes changed afterwards."""
    words = st.sampled_from([word for word in _WORDS if word != "\ud800"]) | st.text(max_size=10).filter(lambda t: "\ud800" not in t)
    names = st.lists(words, min_size=1, max_size=3).map("/".join)
    cells = st.lists(words, max_size=4).map("".join) | st.lists(words, max_size=3)
    notebooks = st.lists(cells, max_size=4).map(lambda listed: _notebook(*listed))
    data = st.sampled_from(_SOURCES) | notebooks | st.binary(max_size=40)
    kinds = st.sampled_from(_KINDS[:8])
    zips = st.lists(st.tuples(names, data), max_size=4).map(_zipped)
    tars = st.lists(st.tuples(names, kinds, data), max_size=4).map(lambda members: _packed(_tarred(members))[7:])
    rows = st.tuples(names, st.sampled_from(["file", "file", "link", "pipe", "folder"]), words)
    folders = st.lists(rows, max_size=5).map(lambda listed: json.dumps(listed).encode())
    changes = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=3)

    @st.composite
    def packages(draw: st.DrawFn) -> bytes:
        kind = draw(st.sampled_from(sorted(_NAMES)))
        content = bytearray(draw({"zip": zips, "tar.gz": tars, "ipynb": notebooks, "py": data, "folder": folders}[kind]))
        for place, value in draw(changes) if content and draw(st.booleans()) else []:
            content[place % len(content)] = value
        return kind.encode() + b"\n" + bytes(content)

    return packages()


TARGET = Target(
    name="packages",
    check=check,
    corpus=corpus,
    mutate=mutate,
    strategy=strategy,
    instrumented=(
        "grader.submissions.archives",
        "grader.submissions.find",
        "grader.submissions.folders",
        "grader.submissions.notebooks",
        "grader.submissions.sources",
        "grader.base.text",
        "tarfile",
        "zipfile",
    ),
    cpu_seconds=15.0,
    memory_mib=1024,
)


if __name__ == "__main__":
    sys.exit(command(TARGET))
