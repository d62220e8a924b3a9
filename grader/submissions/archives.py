"""Reads the files of a .zip or .tar.gz as data. Nothing is extracted, and memory and time are capped."""

import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from grader.base.text import one_line
from grader.course.manifest import Course
from grader.submissions.reading import is_read, read_source
from grader.submissions.sources import MAX_MEMBERS, Entry, Source, Unreadable

__all__ = ["ARCHIVES", "archived_files"]

MAX_ARCHIVE_BYTES = 256 << 20
MAX_INNER_BYTES = 64 << 20  # an archive in an archive, which is unpacked to memory
MAX_UNPACKED_BYTES = 1 << 30
MAX_MATCHES = MAX_MEMBERS
MAX_INNER_MATCHES = 500
MAX_INNER_KEPT_BYTES = 16 << 20
MAX_MATCHED_BYTES = 1 << 30
MAX_KEPT_BYTES = 256 << 20
MAX_DIRECTORY_BYTES = 4 << 20  # a zip's list of members, which zipfile reads as a whole
MAX_HEADER_BYTES = 64 << 10  # a tar's header that holds a long name
ARCHIVES = (".zip", ".tar.gz", ".tgz")

_BAD_ARCHIVE: tuple[type[Exception], ...] = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, OSError, EOFError)
_BAD_ARCHIVE += (ValueError, LookupError, ArithmeticError, RuntimeError, MemoryError)
"""What reading a damaged archive can raise. zipfile passes on the errors of the modules that it uses."""


def archived_files(path: Path, course: Course) -> list[Entry]:
    """The regular files of an archive. The files of an archive in it, one deep, are as if in a folder of its name. Raises: Unreadable."""
    if path.stat().st_size > MAX_ARCHIVE_BYTES:
        raise Unreadable(f"it is larger than {MAX_ARCHIVE_BYTES >> 20} MiB.")
    try:
        with open(path, "rb", buffering=0) as raw:
            return _files(raw, path.name, course, _Budget(), inner=False)
    except PermissionError as error:
        raise Unreadable(f"{error.strerror}. Give the grader the right to read it.") from None


@dataclass
class _Budget:
    """What reading one archive may still cost."""

    matches: int = MAX_MATCHES
    read: int = MAX_MATCHED_BYTES
    kept: int = MAX_KEPT_BYTES

    def spend(self, source: Source) -> None:
        """Raises: Unreadable."""
        self.matches -= 1
        self.kept -= len(source.text)
        self.check()

    def check(self) -> None:
        """Raises: Unreadable if it is used up."""
        if min(self.matches, self.read, self.kept) < 0:
            raise Unreadable("it holds the same modules many times over.")

    def counting(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        """The same function, paid for."""

        def counted(limit: int) -> bytes:
            data = read(limit)
            self.read -= len(data)
            return data

        return counted


def _files(raw: io.RawIOBase | io.BytesIO, name: str, course: Course, budget: _Budget, *, inner: bool) -> list[Entry]:
    """Read what matters at once, because a tar is read in one pass. Of a module only the code is kept. Raises: Unreadable."""
    entries: list[Entry] = []
    try:
        for member, read in (_zip_members if name.lower().endswith(".zip") else _tar_members)(raw):
            path = PurePosixPath(_ANCHOR.sub("", member.replace("\\", "/")))  # as some programs for Windows write names
            if not _plain(path) or any(part.startswith((".", "__MACOSX")) for part in path.parts):
                continue
            if path.name.lower().endswith(ARCHIVES) and not inner:
                entries += _inner(path, read, course, budget)
            elif is_read(path.name, course):
                source = read_source(path.name, budget.counting(read))
                budget.spend(source)
                entries.append(Entry.holding(path, source))
            else:
                entries.append(Entry(path))
    except PermissionError:
        raise
    except _BAD_ARCHIVE:
        raise Unreadable("it is damaged, or not the kind of archive that its name says.") from None
    return entries


def _inner(path: PurePosixPath, read: Callable[[int], bytes], course: Course, budget: _Budget) -> list[Entry]:
    """The files of an archive in an archive. If it can't be read, that is what it stands for, and the others go on."""
    try:
        budget.check()
        data = budget.counting(read)(MAX_INNER_BYTES + 1)
        if len(data) > MAX_INNER_BYTES:
            raise Unreadable(f"it is larger than {MAX_INNER_BYTES >> 20} MiB.")
        own = _Budget(MAX_INNER_MATCHES, MAX_INNER_BYTES, MAX_INNER_KEPT_BYTES)  # so that nobody's archive uses up what others need
        try:
            files = _files(io.BytesIO(data), path.name, course, own, inner=True)
        finally:
            budget.read -= MAX_INNER_BYTES - own.read
        if not files:
            raise Unreadable("it holds no file.")
        budget.kept -= MAX_INNER_KEPT_BYTES - own.kept
        budget.check()
        return [Entry(path / entry.path, entry.load) for entry in files]
    except Unreadable as error:
        return [Entry.holding(path, Source(problem=f"{one_line(path.name)} can't be read: {error}"))]


def _zip_members(raw: io.RawIOBase | io.BytesIO) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    with _Reluctant(raw) as file, zipfile.ZipFile(file) as archive:
        file.most = MAX_ARCHIVE_BYTES
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise Unreadable(f"it has more than {MAX_MEMBERS} members.")
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if not member.filename.endswith("/") and kind in (0, stat.S_IFREG):  # is_dir() fails on an empty name
                yield member.filename, partial(_zip_member, archive, member)


class _Reluctant(io.BufferedReader):
    """A file that refuses to read more than `most` bytes at a time."""

    most = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise Unreadable(f"it has more than {MAX_MEMBERS} members, or very long names.")
        return super().read(size)


def _zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    if member.flag_bits & 1:
        raise Unreadable("it is encrypted: hand it in without a password.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # in others, a few bytes can request gigabytes of memory
        raise Unreadable("it is packed in an unusual way: make an ordinary .zip.")
    with archive.open(member) as file:
        return file.read(limit)


_TOO_MUCH = f"it has more than {MAX_MEMBERS} members, or unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB."
_BLOCK = tarfile.BLOCKSIZE


class _Unpacked:
    """The content of a gzip file, unpacked in one pass. What was read is not kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._zlib = file, zlib.decompressobj(wbits=31)
        self._ready = bytearray()
        self._left = MAX_UNPACKED_BYTES

    def read(self, size: int) -> bytes:
        """The next `size` bytes, or fewer at the end. Raises: EOFError if the file is cut off, zlib.error, Unreadable."""
        while len(self._ready) < size and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail or self._file.read(1 << 16)
            if not packed:
                raise EOFError
            self._ready += self._zlib.decompress(packed, 1 << 20)
        data = bytes(self._ready[:size])
        del self._ready[:size]
        self._left -= len(data)
        if self._left < 0:
            raise Unreadable(_TOO_MUCH)
        return data

    def skip(self, size: int) -> None:
        """Skip `size` bytes. Raises: EOFError if there are fewer."""
        while size > 0:
            part = self.read(min(size, 1 << 20))
            if not part:
                raise EOFError
            size -= len(part)


def _tar_members(raw: io.RawIOBase | io.BytesIO) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """The regular files of a tar, header by header.

    tarfile only parses single headers here. Its own reader takes quadratic time, or all memory, over headers that are made for it.
    """
    with io.BufferedReader(raw) as file:
        content = _Unpacked(file)
        name, sparse = "", False  # what an extra header says about the next file
        for _ in range(3 * MAX_MEMBERS):
            block = content.read(_BLOCK)
            if not block.strip(b"\0"):
                return
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if header.size < 0 or header.type == tarfile.GNUTYPE_SPARSE:
                raise tarfile.ReadError
            held = -(-header.size // _BLOCK) * _BLOCK
            if held > MAX_UNPACKED_BYTES:
                raise Unreadable(_TOO_MUCH)
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
                if header.size > MAX_HEADER_BYTES:
                    raise Unreadable("it holds a name that is too long.")
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
        raise Unreadable(_TOO_MUCH)


def _tar_member(content: _Unpacked, size: int, left: list[int], limit: int) -> bytes:
    """Read at most `limit` bytes of the file that begins here. `left` then says how many bytes of the tar still belong to it."""
    data = content.read(min(size, limit))
    if len(data) < min(size, limit):
        raise EOFError
    left[0] -= len(data)
    return data


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Parse the records "LENGTH KEY=VALUE". Each ends in a line feed, and LENGTH counts the whole record."""
    records, at = {}, 0
    while at < len(data):
        space = data.index(b" ", at, at + 8)
        end = at + int(data[at:space])
        if not space < end <= len(data):
            raise tarfile.ReadError
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    if b"size" in records:  # used for a size that does not fit into the header
        raise Unreadable(_TOO_MUCH)
    return records


_ANCHOR = re.compile(r"^(?:[A-Za-z]:)?/*")
"""What makes a name absolute. Nothing is written, so the rest says where the file lay."""


def _plain(path: PurePosixPath) -> bool:
    """True for a relative path that stays inside the archive."""
    return bool(path.parts) and ".." not in path.parts
