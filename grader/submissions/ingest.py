"""What was handed in, reduced to the source text of the modules that the manifest names. Nothing else of a submission survives.

Data only: no archive is extracted, no link is followed, nothing is imported, sizes and counts are capped before anything is read.
"""

import codecs
import io
import os
import re
import stat
import struct
import subprocess
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, Self

import msgspec

from grader.base.text import one_line
from grader.course.manifest import Course

__all__ = ["BadInput", "Source", "Submission", "committed_files", "find_submissions", "notebook_source", "read_submission"]

MAX_SOURCE_BYTES = 256 << 10
MAX_NOTEBOOK_BYTES = 32 << 20  # outputs with pictures are large; only the code is kept
MAX_ARCHIVE_BYTES = 256 << 20
MAX_UNPACKED_BYTES = 1 << 30
MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 4 << 20  # a zip's list of members, which is read as a whole
MAX_HEADER_BYTES = 64 << 10  # a tar's header of a long name
MAX_MATCHES = 64
MAX_MATCHED_BYTES = 128 << 20
_ARCHIVES = (".zip", ".tar.gz", ".tgz")


class BadInput(Exception):
    """A path that can't be graded; the text says why and what to do."""


@dataclass(frozen=True)
class Source:
    """A student's module: its text, or the sentence that says why there is none."""

    text: str = ""
    problem: str = ""
    missing: bool = False
    cells: tuple[int, ...] = ()
    """The lines at which a notebook's cells begin, counted from 1: each runs although another fails. Empty for an ordinary module."""

    @classmethod
    def not_handed_in(cls, module: str) -> Self:
        """Stands for a module that a submission does not hold."""
        return cls(problem=f"{module}.py was not handed in.", missing=True)


@dataclass(frozen=True)
class Submission:
    """One student's modules."""

    id: str
    sources: dict[str, Source]
    only: tuple[str, ...] = ()
    """The modules to grade, where the submission is a single file that names one; all of the course's where empty."""


@dataclass(frozen=True)
class _Entry:
    """A regular file of a submission: where it is, and how to read at most so many bytes of it."""

    path: PurePosixPath
    read: Callable[[int], bytes]


class _Unreadable(Exception):
    """One file that can't be taken; the text is for the student."""


def find_submissions(paths: Iterable[Path], course: Course) -> tuple[list[Submission], list[str]]:
    """Read every submission that the paths name, a path being a submission or a folder of submissions.

    Returns: the submissions, and a sentence for each thing that was passed over. Raises: BadInput.
    """
    found: list[Submission] = []
    passed_over: list[str] = []
    for path in paths:
        if not path.is_dir() or _hold_modules(_folder(path), course):
            found.append(read_submission(path, course))
            continue
        children = [child for child in sorted(path.iterdir()) if not child.name.startswith(".")]
        before = len(found)
        for child in children:
            named = child.name.lower().endswith(_ARCHIVES) or _module_of(child.name, course)
            if child.is_symlink():
                passed_over.append(f"{_shown(child)}: a link is not followed.")
            elif child.is_dir() and not _hold_modules(_wrapped_folder(child), course):
                passed_over.append(f"{_shown(child)}: holds no {' or '.join(_file_names(course))}.")
            elif named and not child.is_dir() and not child.is_file():
                passed_over.append(f"{_shown(child)}: is neither a file nor a folder.")
            elif named or child.is_dir():
                found.append(read_submission(child, course))
        if len(found) == before:
            raise BadInput(
                f"{_shown(path)} holds no submission: expected {', '.join(_file_names(course))}, or folders or archives that hold them"
            )
    ids = [submission.id for submission in found]
    for name in sorted({name for name in ids if ids.count(name) > 1}):
        raise BadInput(f"two submissions are called {name!r}: rename one, since a name is a student")
    return found, passed_over


def read_submission(path: Path, course: Course) -> Submission:
    """Read one submission: a folder, a module's .py or .ipynb, a .zip, a .tar.gz, or REPOSITORY@REF.

    An archive that can't be read becomes a submission whose every module has a problem, so that a batch goes on. Raises: BadInput.
    """
    name = path.name
    if not path.exists():
        repository, at, ref = str(path).rpartition("@")
        if at and Path(repository).is_dir():
            sources = _take(_git(Path(repository), ref), course)
            if not sources:
                raise BadInput(f"{_shown(path)} holds no {' or '.join(_file_names(course))}")
            return Submission(_identify(f"{Path(repository).resolve().name}@{ref}"), sources)
        raise BadInput(f"{_shown(path)} does not exist: give a folder, a .py, .ipynb, .zip or .tar.gz file, or REPOSITORY@REF")
    if path.is_dir():
        sources = _take(_wrapped_folder(path), course)
        if not sources:
            raise BadInput(f"{_shown(path)} holds no {' or '.join(_file_names(course))}")
        return Submission(_identify(path.resolve().name), sources)
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadInput(f"{_shown(path)} is neither a file nor a folder")
    if name.lower().endswith(_ARCHIVES):
        stem = re.sub(r"(\.zip|\.tar\.gz|\.tgz)$", "", name, flags=re.IGNORECASE)
        try:
            return Submission(_identify(stem), _take(_archive(path, course), course))
        except _Unreadable as error:
            problem = Source(problem=f"{one_line(name)} can't be read: {error}")
            return Submission(_identify(stem), {module.name: problem for module in course.modules})
    module = _module_of(name, course)
    if module is None:
        raise BadInput(f"{_shown(path)}: expected a file called {' or '.join(_file_names(course))}, or a .zip or .tar.gz")
    return Submission(_identify(path.stem), _take([_Entry(PurePosixPath(name), _reader(path))], course), only=(module,))


def _shown(path: Path) -> str:
    return one_line(str(path), 400)


def _identify(name: str) -> str:
    return one_line(name, 100) or "unnamed"


def _file_names(course: Course) -> list[str]:
    return [f"{module.name}.py" for module in course.modules]


def _module_of(name: str, course: Course) -> str | None:
    """The module that a file of this name holds."""
    names = {f"{module.name}{suffix}": module.name for module in course.modules for suffix in (".py", ".ipynb")}
    return names.get(name)


# ---- choosing files


def _take(entries: list[_Entry], course: Course) -> dict[str, Source]:
    """For each module, the one file that holds it: at the top or in exercises/, of the submission or of the folder that wraps it."""
    sources = {}
    for module in course.modules:
        candidates = _best([entry for entry in entries if _module_of(entry.path.name, course) == module.name])
        if len(candidates) > 1:
            names = " and ".join(one_line(str(entry.path), 80) for entry in candidates[:3])
            sources[module.name] = Source(problem=f"{names} both hold the module {module.name}: keep one.")
        elif candidates:
            sources[module.name] = _source(candidates[0])
    return sources


def _best(entries: list[_Entry]) -> list[_Entry]:
    """The entries at the most expected place."""

    def place(entry: _Entry) -> int | None:
        folders = entry.path.parts[:-1]
        inside = folders[-1:] == ("exercises",)
        depth = len(folders) - inside
        return 2 * depth + inside if depth <= 1 else None

    ranked = [(rank, entry) for entry in entries if (rank := place(entry)) is not None]
    best = min((rank for rank, _ in ranked), default=None)
    return [entry for rank, entry in ranked if rank == best]


def _hold_modules(entries: list[_Entry], course: Course) -> bool:
    return any(_module_of(entry.path.name, course) for entry in entries)


def _source(entry: _Entry) -> Source:
    name = one_line(entry.path.name)
    notebook = entry.path.suffix == ".ipynb"
    limit = MAX_NOTEBOOK_BYTES if notebook else MAX_SOURCE_BYTES
    try:
        data = entry.read(limit + 1)
        if len(data) > limit:
            raise _Unreadable(f"it is larger than {limit >> 10} KiB.")
        if notebook:
            return notebook_source(data, name)
        text = _text(data)
        if len(text) > MAX_SOURCE_BYTES:
            raise _Unreadable(_TOO_LONG)
    except _Unreadable as error:
        return Source(problem=f"{name} can't be read: {error}")
    return Source(text)


def notebook_source(data: bytes, name: str) -> Source:
    """The student's code cells of a notebook, in order, as Python; the cells that nbgrader hands out locked are not the student's."""
    try:
        cells = _notebook_cells(data)
        text = "\n\n".join(cells) + "\n"
        if len(text) > MAX_SOURCE_BYTES:
            raise _Unreadable(_TOO_LONG)
        if "\0" in text:
            raise _Unreadable("its code holds null bytes.")
    except _Unreadable as error:
        return Source(problem=f"{name} can't be read: {error}")
    starts = accumulate((cell.count("\n") + 2 for cell in cells[:-1]), initial=1)
    return Source(text, cells=tuple(starts))


_ENCODINGS = ("utf-8", "ascii", "iso8859", "cp", "koi8", "mac", "big5", "gb", "euc", "shift_jis", "iso2022", "tis")
"""The codecs that a source may name: others take quadratic time (punycode, idna) or are no encodings of text."""


def _text(data: bytes) -> str:
    """Decode Python source as Python does: UTF-8, unless its first lines say otherwise."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if not codecs.lookup(encoding).name.startswith(_ENCODINGS):
            raise LookupError
        text = data.decode(encoding)
    except (SyntaxError, UnicodeError, LookupError):
        raise _Unreadable("it is not Python text in UTF-8.") from None
    if "\0" in text:
        raise _Unreadable("it is not Python text: it holds null bytes.")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


_TOO_LONG = f"its code is larger than {MAX_SOURCE_BYTES >> 10} KiB."


class _Cell(msgspec.Struct):
    cell_type: str = ""
    source: str | list[str] = ""
    metadata: Any = None

    @property
    def handed_out(self) -> bool:
        """True for a cell that nbgrader locks: it holds tests of the course's, or only a place for the points."""
        mark = self.metadata.get("nbgrader") if isinstance(self.metadata, dict) else None
        return isinstance(mark, dict) and mark.get("solution") is not True and True in (mark.get("locked"), mark.get("grade"))


class _Notebook(msgspec.Struct):
    cells: list[_Cell]


def _notebook_cells(data: bytes) -> list[str]:
    """The student's code cells in order, as Python."""
    try:
        notebook = msgspec.json.decode(data, type=_Notebook)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _Unreadable("it is not a Jupyter notebook.") from None
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.handed_out]
    sources = [source if isinstance(source, str) else "".join(source) for source in code]
    if sum(map(len, sources)) > MAX_SOURCE_BYTES:
        raise _Unreadable(_TOO_LONG)
    return [_without_magics(source.replace("\r\n", "\n").replace("\r", "\n")) for source in sources]


_CELL_MAGIC = re.compile(r"\s*%%(\w*)[^\n]*")
_TRANSPARENT = ("time", "timeit", "capture", "prun")
"""Magics of a whole cell that run it as Python."""
_MAGIC = re.compile(r"(?P<indent>[ \t]*+)(?:(?P<target>[\w.,\[\] ]++)=[ \t]*+[%!]|[%!?]|[\w.]++\?\??[ \t]*+$)[^\n]*", re.MULTILINE)
"""Possessive, so that a long line of blanks takes no quadratic time."""
_LEXEME = re.compile(
    r"""\#[^\n]* | (?P<quote>\'{3}|"{3})(?:\\.|(?!(?P=quote)).)*(?:(?P=quote)|\Z) | "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'?
    | (?P<open>[(\[{]) | (?P<close>[)\]}]) | \\. | [^\#"'()\[\]{}\\\n]+ | .""",
    re.DOTALL | re.VERBOSE,
)


def _without_magics(cell: str) -> str:
    """A cell's code; magics, shell lines and questions become comments where a statement could stand, and nowhere else.

    A magic of the whole cell leaves the cell out, unless it runs it as Python.
    """
    if start := _CELL_MAGIC.match(cell):
        if start[1] not in _TRANSPARENT:
            return ""
        cell = cell[start.end() :]
    if len(cell) > MAX_SOURCE_BYTES:
        raise _Unreadable(_TOO_LONG)
    parts, at, depth, fresh = [], 0, 0, True
    while at < len(cell):
        magic = _MAGIC.match(cell, at) if fresh and not depth else None
        if magic:
            action = f"{magic['target'].strip()} = None" if magic["target"] else "pass"
            parts.append(f"{magic['indent']}{action}  # {magic[0].strip()}")
            at = magic.end()
        elif lexeme := _LEXEME.match(cell, at):
            depth = max(0, depth + bool(lexeme["open"]) - bool(lexeme["close"]))
            parts.append(lexeme[0])
            at = lexeme.end()
        fresh = parts[-1] == "\n"
    return "".join(parts)


# ---- where entries come from


def _reader(path: Path) -> Callable[[int], bytes]:
    def read(limit: int) -> bytes:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _Unreadable(f"{error.strerror}.") from None
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _Unreadable("it is not a regular file.")
            return file.read(limit)

    return read


def _folder(root: Path) -> list[_Entry]:
    """The regular files at the top of a folder and in its exercises/; links are not followed."""
    return _files(root, (root, root / "exercises"))


def _wrapped_folder(root: Path) -> list[_Entry]:
    """The same, of the one folder within where there is nothing but that, as in an archive of GitHub's."""
    inner = [child for child in root.iterdir() if not child.name.startswith((".", "__MACOSX"))]
    if len(inner) == 1 and inner[0].name != "exercises" and not inner[0].is_symlink() and inner[0].is_dir():
        return _files(root, (inner[0], inner[0] / "exercises"))
    return _folder(root)


def _files(root: Path, folders: Iterable[Path]) -> list[_Entry]:
    entries = []
    for folder in folders:
        if folder.is_symlink() and folder != root:
            continue
        try:
            children = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError:
            continue
        for child in children[:MAX_MEMBERS]:
            if child.is_file(follow_symlinks=False):
                path = Path(child.path)
                entries.append(_Entry(PurePosixPath(path.relative_to(root).as_posix()), _reader(path)))
    return entries


_BAD_ARCHIVE: tuple[type[Exception], ...] = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, OSError, EOFError)
_BAD_ARCHIVE += (ValueError, LookupError, ArithmeticError, RuntimeError, MemoryError)
"""What reading a damaged archive raises: zipfile lets through what its parts raise."""


def _archive(path: Path, course: Course) -> list[_Entry]:
    """The regular files of an archive that are called like modules. Raises: _Unreadable."""
    if path.stat().st_size > MAX_ARCHIVE_BYTES:
        raise _Unreadable(f"it is larger than {MAX_ARCHIVE_BYTES >> 20} MiB.")
    try:
        entries, total = [], 0
        for member, read in (_zip_members if path.name.lower().endswith(".zip") else _tar_members)(path):
            if _plain(member) and _module_of(PurePosixPath(member).name, course):
                data = read((MAX_NOTEBOOK_BYTES if member.endswith(".ipynb") else MAX_SOURCE_BYTES) + 1)  # now: a tar is read in one pass
                entries.append(_Entry(PurePosixPath(member), lambda limit, data=data: data[:limit]))  # type: ignore[misc]
                total += len(data)
                if len(entries) > MAX_MATCHES or total > MAX_MATCHED_BYTES:
                    raise _Unreadable("it holds the same modules many times over.")
    except _BAD_ARCHIVE:
        raise _Unreadable("it is damaged, or not the kind of archive that its name says.") from None
    return entries


def _zip_members(path: Path) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    with open(path, "rb", buffering=0) as raw, _Reluctant(raw) as file, zipfile.ZipFile(file) as archive:
        file.most = MAX_ARCHIVE_BYTES
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise _Unreadable(f"it has more than {MAX_MEMBERS} members.")
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if not member.filename.endswith("/") and kind in (0, stat.S_IFREG):  # is_dir fails on an empty name
                yield member.filename, partial(_zip_member, archive, member)


class _Reluctant(io.BufferedReader):
    """A file that refuses to be read by more than so much at a time."""

    most = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise _Unreadable(f"it has more than {MAX_MEMBERS} members, or very long names.")
        return super().read(size)


def _zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    if member.flag_bits & 1:
        raise _Unreadable("it is encrypted: hand it in without a password.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # of others, a few bytes can ask for gigabytes of memory
        raise _Unreadable("it is packed in an unusual way: make an ordinary .zip.")
    with archive.open(member) as file:
        return file.read(limit)


_TOO_MUCH = f"it has more than {MAX_MEMBERS} members, or unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB."
_BLOCK = tarfile.BLOCKSIZE


class _Unpacked:
    """The content of a gzip file, read in one pass and never kept."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._zlib = file, zlib.decompressobj(wbits=31)
        self._ready = bytearray()
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end. Raises: EOFError where the file is cut off, zlib.error, _Unreadable."""
        while len(self._ready) < size and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail or self._file.read(1 << 16)
            if not packed:
                raise EOFError
            self._ready += self._zlib.decompress(packed, 1 << 20)
        data = bytes(self._ready[:size])
        del self._ready[:size]
        self._left -= len(data)
        if self._left < 0:
            raise _Unreadable(_TOO_MUCH)
        return data

    def skip(self, size: int) -> None:
        """Pass over so many bytes. Raises: EOFError where there are fewer."""
        while size > 0:
            part = self.read(min(size, 1 << 20))
            if not part:
                raise EOFError
            size -= len(part)


def _tar_members(path: Path) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """The regular files, header by header: tarfile itself takes quadratic time, or all memory, over headers that are made for it."""
    with open(path, "rb") as file:
        content = _Unpacked(file)
        name, sparse = "", False  # what a header before the file's own says of it
        for _ in range(3 * MAX_MEMBERS):
            block = content.read(_BLOCK)
            if not block.strip(b"\0"):
                return
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if header.size < 0 or header.type == tarfile.GNUTYPE_SPARSE:
                raise tarfile.ReadError
            held = -(-header.size // _BLOCK) * _BLOCK
            if held > MAX_UNPACKED_BYTES:
                raise _Unreadable(_TOO_MUCH)
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
                if header.size > MAX_HEADER_BYTES:
                    raise _Unreadable("it holds a name that is too long.")
                data = content.read(held)[: header.size]
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    name = data.partition(b"\0")[0].decode(errors="replace")
                else:
                    records = _pax_records(data)
                    name = records.get(b"path", b"").decode(errors="replace") or name
                    sparse = any(key.startswith(b"GNU.sparse.") for key in records)
                continue
            if header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not sparse:
                left = [held]
                yield name or header.name, partial(_tar_member, content, header.size, left)
                content.skip(left[0])
            elif header.type not in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
                content.skip(held)
            if header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                name, sparse = "", False
        raise _Unreadable(_TOO_MUCH)


def _tar_member(content: _Unpacked, size: int, left: list[int], limit: int) -> bytes:
    """At most `limit` bytes of the file that begins here; `left` then holds how much of the archive still belongs to it."""
    data = content.read(min(size, limit))
    if len(data) < min(size, limit):
        raise EOFError
    left[0] -= len(data)
    return data


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records "LENGTH KEY=VALUE", each ended by a line feed and all of it counted."""
    records, at = {}, 0
    while at < len(data):
        space = data.index(b" ", at, at + 8)
        end = at + int(data[at:space])
        if not space < end <= len(data):
            raise tarfile.ReadError
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    if b"size" in records:  # stands in for a size that the header has no room for
        raise _Unreadable(_TOO_MUCH)
    return records


def _plain(name: str) -> bool:
    """True for a relative path that stays inside."""
    return not name.startswith("/") and "\\" not in name and ".." not in PurePosixPath(name).parts


def _git(repository: Path, ref: str) -> list[_Entry]:
    """The files of a commit of a local repository, read by plumbing that runs no filter, hook or external program. Raises: BadInput."""
    commit = _run_git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if commit is None:
        raise BadInput(f"{repository} has no commit, branch or tag called {one_line(ref)!r}")
    listing = _run_git(repository, "ls-tree", "-r", "-l", "-z", commit.decode().strip()) or b""
    entries = []
    for line in listing.decode(errors="replace").split("\0")[:MAX_MEMBERS]:
        fields, _, name = line.partition("\t")
        if fields.startswith("100") and PurePosixPath(name).suffix in (".py", ".ipynb"):
            _, _, blob, size = fields.split()
            if size.isdigit() and int(size) <= MAX_NOTEBOOK_BYTES:  # BAD where the object is missing
                entries.append(_Entry(PurePosixPath(name), partial(_blob, repository, blob)))
    return entries


def committed_files(repository: Path, commit: str, course: Course) -> dict[str, bytes]:
    """The files of a commit from which a submission is read, by path.

    Of a file that is too long, no more is read than shows that.
    """
    names = [f"{module.name}{suffix}" for module in course.modules for suffix in (".py", ".ipynb")]
    wanted = [*names, *(f"exercises/{name}" for name in names)]
    listing = _run_git(repository, "--literal-pathspecs", "ls-tree", "-r", "-z", commit, *wanted) or b""
    files = {}
    for line in filter(None, listing.decode(errors="replace").split("\0")):
        fields, _, name = line.partition("\t")
        if fields.startswith("100") and name in wanted:
            limit = MAX_NOTEBOOK_BYTES if name.endswith(".ipynb") else MAX_SOURCE_BYTES
            files[name] = _blob(repository, fields.split()[2], limit + 1)
    return files


def _blob(repository: Path, blob: str, limit: int) -> bytes:
    command, environment = _git_command(repository, "cat-file", "blob", blob)
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        data = process.stdout.read(limit)
        process.kill()  # the rest is not wanted
    return data


def _run_git(repository: Path, *arguments: str) -> bytes | None:
    command, environment = _git_command(repository, *arguments)
    try:
        done = subprocess.run(command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=60, check=False)
    except FileNotFoundError:
        raise BadInput("git is not installed: install it, or hand in a folder") from None
    return done.stdout if done.returncode == 0 else None


def _git_command(repository: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    settings = ("core.fsmonitor=false", "safe.directory=*", "core.hooksPath=/dev/null")
    command = ["git", *(part for setting in settings for part in ("-c", setting)), "-C", str(repository), *arguments]
    return command, {"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
