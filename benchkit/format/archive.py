"""An archive of code: a plain zip whose bytes depend on paths, contents and executable bits, and no more.

Members are stored, not compressed: what a compressor makes differs from library to library and version to
version, and code is small. Every tool opens it. Reading takes compressed zips of any maker too, and trusts
none: paths stay in their folder, members are plain files, and how much comes out is bounded beforehand.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from benchkit.errors import CorruptError, StoreError
from benchkit.format.digests import new_hasher
from benchkit.format.layout import is_object_name

MAX_FILES = 65_000
MAX_TOTAL_BYTES = 1 << 30
MAX_DIRECTORY_BYTES = 16 << 20
MAX_ARCHIVE_BYTES = MAX_TOTAL_BYTES + 4 * MAX_DIRECTORY_BYTES

_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_BLOCK_BYTES = 1 << 20
_END = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\5\6"
_LOCATOR_BYTES = 20
_LOCATOR_MARK = b"PK\6\7"
_MAX_COMMENT_BYTES = 65_535
_ENCRYPTED = 1
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    """One file of an archive.

    Attributes:
        path: Its POSIX path in the folder.
        size: Bytes.
        executable: Whether its owner may run it.
        digest: The BLAKE3 digest of its bytes; None where they have not been read.
    """

    path: str
    size: int
    executable: bool
    digest: str | None = None


def write_archive(output: BinaryIO, folder: Path, paths: Sequence[str]) -> tuple[ArchiveFile, ...]:
    """Write files of a folder as an archive, and return what they are.

    Args:
        output: A file that can seek.
        folder: Where the files are.
        paths: Their paths in it, at most `MAX_FILES`, in the order that they are to have.

    Raises:
        StoreError: A file changed meanwhile.
        OSError: One cannot be read, or the archive not be written.
    """
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        return tuple(_write_member(archive, folder, path) for path in paths)


class Archive:
    """An archive that is read: `files`, checked, and their bytes. `open_archive` makes it."""

    def __init__(self, source: zipfile.ZipFile, name: str, *, max_bytes: int) -> None:
        self._source = source
        self._name = name
        self._entries = [entry for entry in source.infolist() if not entry.filename.endswith("/")]
        self._members = {entry.filename: entry for entry in self._entries}
        self.files = tuple(sorted(self._check(max_bytes), key=lambda file: file.path))

    def read(self, file: ArchiveFile) -> Iterator[bytes]:
        """Yield a file's bytes in blocks.

        Raises:
            CorruptError: They are not as many as said, or not those that were written.
        """
        what, left, hasher = f"{file.path!r:.200} in {self._name}", file.size, new_hasher()
        try:
            with self._source.open(self._members[file.path]) as member:
                while block := member.read(min(_BLOCK_BYTES, left + 1)):
                    left -= len(block)
                    hasher.update(block)
                    yield block
        except _BROKEN as error:
            raise CorruptError(f"{what} cannot be read: {error}") from error
        if left or file.digest not in (None, hasher.hexdigest()):
            raise CorruptError(f"{what} is corrupt: it is not what was packed")

    def _check(self, max_bytes: int) -> Iterator[ArchiveFile]:
        total, folders = 0, {""}
        for path in self._members:
            parts = path.split("/")
            folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
        for seen, entry in enumerate(self._entries, start=1):
            total += entry.file_size
            kind, what = stat.S_IFMT(entry.external_attr >> 16), f"{entry.orig_filename!r:.200}"
            if entry.orig_filename != entry.filename or not is_object_name(entry.filename):
                reason = f"has the member {what}, which is no path in a folder"
            elif kind not in (0, stat.S_IFREG):
                reason = f"has the member {what}, which is no plain file"
            elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                reason = f"has the member {what} in a compression that is not read"
            elif entry.flag_bits & _ENCRYPTED:
                reason = f"has the member {what}, which is encrypted"
            elif entry.filename in folders:
                reason = f"has {what} as a file and as a folder"
            elif total > max_bytes:
                reason = f"would give over {max_bytes:,} bytes"
            elif seen > MAX_FILES:
                reason = f"has over {MAX_FILES:,} files"
            else:
                executable = bool(entry.external_attr >> 16 & stat.S_IXUSR)
                yield ArchiveFile(path=entry.filename, size=entry.file_size, executable=executable)
                continue
            raise CorruptError(f"{self._name} is refused: it {reason}")
        if len(self._entries) != len(self._members):
            raise CorruptError(f"{self._name} is refused: it has a member twice")


@contextmanager
def open_archive(file: BinaryIO, *, name: str, max_bytes: int = MAX_TOTAL_BYTES) -> Iterator[Archive]:
    """Open an archive, which need not be one that this project made.

    Args:
        file: It, able to seek.
        name: What messages call it.
        max_bytes: The most that its files may have together.

    Raises:
        CorruptError: It is no zip, or refused.
    """
    _check_directory(file, name)
    try:
        source = zipfile.ZipFile(file)
    except _BROKEN as error:
        raise CorruptError(f"{name} is no zip that can be read: {error}") from error
    with source:
        yield Archive(source, name, max_bytes=max_bytes)


def _write_member(archive: zipfile.ZipFile, folder: Path, path: str) -> ArchiveFile:
    with open(folder / path, "rb") as source:
        before = os.fstat(source.fileno())
        executable = bool(before.st_mode & stat.S_IXUSR)
        entry = zipfile.ZipInfo(path, date_time=_TIME)
        entry.create_system = _UNIX
        entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
        hasher, size = new_hasher(), 0
        with archive.open(entry, "w") as member:
            while size <= before.st_size and (block := source.read(_BLOCK_BYTES)):
                hasher.update(block)
                size += len(block)
                member.write(block)
        after = os.fstat(source.fileno())
    if size != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise StoreError(f"{folder / path} changed while it was packed: try again when it is at rest")
    return ArchiveFile(path=path, size=size, executable=executable, digest=hasher.hexdigest())


def _check_directory(file: BinaryIO, name: str) -> None:
    """Refuse a zip whose directory is larger than is parsed, before anything is made of it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LOCATOR_BYTES - _END.size - _MAX_COMMENT_BYTES))
    tail = file.read()
    file.seek(0)
    found = tail.rfind(_END_MARK)
    if found < 0 or len(tail) - found < _END.size:
        raise CorruptError(f"{name} is no zip, or its end is missing")
    # A zip64 says its size in another place, and only what is too large has to be one.
    is_large = tail[max(0, found - _LOCATOR_BYTES) : found].startswith(_LOCATOR_MARK)
    if is_large or _END.unpack_from(tail, found)[5] > MAX_DIRECTORY_BYTES:
        raise CorruptError(f"{name} is refused: it has over {MAX_FILES:,} files, or is a zip64")
