"""The local folder as a store: one file per object, written aside and renamed into place."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from benchkit.errors import ObjectNotFoundError, StoreError, UsageError
from benchkit.format.layout import is_object_name
from benchkit.store.base import BLOCK_BYTES, ObjectInfo, Unfinished, check_name
from benchkit.store.direct import DirectWriter
from benchkit.store.folders import make_folder, sync
from benchkit.store.locks import open_locked

TEMPORARY = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_PLACING_ATTEMPTS = 100


@dataclass(slots=True)
class TemporaryFile:
    """A file in the making, below the store's root, locked while its process lives.

    Attributes:
        path: Where it is.
        file: It, open for writing.
    """

    path: Path
    file: BinaryIO | DirectWriter
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A folder as a store; see `benchkit.store.base.Store` for what its methods promise."""

    root: Path

    @property
    def url(self) -> str:
        """The folder as a `file://` URL."""
        return self.root.absolute().as_uri()

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of the object."""
        return b"".join(self.stream(name, start=start, length=length))

    def stream(self, name: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a range of the object in blocks."""
        with self._translated(name), open(self._path(name), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            left = size - start if length is None else length
            if not 0 <= start <= start + left <= size:
                raise StoreError(f"{name} in {self.url} has no {length} bytes at {start}")
            file.seek(start)
            while left and (block := file.read(min(left, BLOCK_BYTES))):
                left -= len(block)
                yield block

    def write(self, name: str, source: bytes | Path) -> None:
        """Write the object aside, and rename it into place."""
        target = self._path(name)
        with self._translated(name, "written"), self.temporary() as temporary:
            if isinstance(source, bytes):
                temporary.file.write(source)
            else:
                with open(source, "rb", buffering=0) as file:
                    while block := file.read(BLOCK_BYTES):
                        temporary.file.write(block)
            _adopt(temporary, target)

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's size and time."""
        with self._translated(name), suppress(FileNotFoundError, NotADirectoryError):
            status = os.stat(self._path(name))
            if stat.S_ISREG(status.st_mode):
                return ObjectInfo(name=name, size=status.st_size, modified=status.st_mtime)
        return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects in order of name, folder by folder."""
        with self._translated(prefix):
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(f"{self.url} is a file, not a folder: name a folder as the store")
            yield from self._walk("", prefix)

    def delete(self, name: str) -> None:
        """Remove the object, and the folders that it leaves empty."""
        path = self._path(name)
        with self._translated(name, "removed"), suppress(*_NO_FILE):
            path.unlink()
            with suppress(OSError):  # the first folder that is not empty ends it
                for folder in list(path.relative_to(self.root).parents)[:-1]:
                    (self.root / folder).rmdir()

    @contextmanager
    def temporary(self, *, direct: bool = False) -> Iterator[TemporaryFile]:
        """Give a new file on the same disk; it is removed at the end unless `adopt` gave it a name.

        Args:
            direct: Write it past the page cache, as it is not read again soon.

        Raises:
            StoreError: It cannot be made, or the disk is full.
        """
        folder = self._temporary_folder()
        path = folder / secrets.token_hex(16)
        with self._translated(TEMPORARY, "written"):
            make_folder(folder)
            lock = open_locked(path, shared=False, create=True)
        if lock is None:
            raise StoreError(f"{path} is held by somebody else")
        with self._disk_full(path.name), lock:
            temporary = TemporaryFile(path, DirectWriter(lock) if direct else lock.writer(BLOCK_BYTES))
            try:
                yield temporary
            finally:
                if not temporary.adopted and lock.fd >= 0:  # a forked child leaves the file to its parent
                    with suppress(FileNotFoundError):
                        path.unlink()

    def adopt(self, temporary: TemporaryFile, name: str) -> None:
        """Make a finished temporary file the object of that name, durably."""
        with self._translated(name, "written"):
            _adopt(temporary, self._path(name))

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield the temporary files that dead processes left; what cannot be opened is left out."""
        folder = self._temporary_folder()
        for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
            left = None
            with suppress(OSError):
                left = open_locked(folder / name, shared=False, blocking=False)
            if left:
                with left:
                    status = os.fstat(left.fd)
                yield Unfinished(
                    key=name, name="", size=status.st_size, modified=status.st_mtime, abandoned=True
                )

    def discard(self, unfinished: Unfinished) -> None:
        """Remove a temporary file, unless a process has it."""
        path = self._temporary_folder() / unfinished.key
        with self._translated(TEMPORARY, "removed"), suppress(FileNotFoundError):
            left = open_locked(path, shared=False, blocking=False)
            if left:
                with left:
                    path.unlink()

    def sweep(self) -> None:
        """Remove the temporary files that dead processes left; what cannot be opened is left alone."""
        for unfinished in self.unfinished():
            self.discard(unfinished)

    def _path(self, name: str) -> Path:
        """Return the object's path; no part of it below the root may be a link: it could lead anywhere."""
        path = self.root
        for part in check_name(name).split("/"):
            path /= part
            if os.path.islink(path):
                raise StoreError(f"{name} in {self.url} lies behind a link; links are not followed")
        if name.split("/", 1)[0] == TEMPORARY:
            raise UsageError(f"{name!r} is no object name: {TEMPORARY} is the store's own")
        return path

    def _temporary_folder(self) -> Path:
        folder = self.root / TEMPORARY
        if os.path.islink(folder):
            raise StoreError(f"{folder} is a link; links are not followed: remove it")
        return folder

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(self.root / folder) as found:
                names = sorted(
                    name
                    for entry in found
                    if is_object_name(entry.name)  # no other file could be read by its name
                    and (name := folder + entry.name + "/" * entry.is_dir(follow_symlinks=False))
                    and (name.startswith(prefix) or prefix.startswith(name))
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if name == TEMPORARY + "/":
                continue
            if name.endswith("/"):
                yield from self._walk(name, prefix)
            elif name.startswith(prefix):
                with suppress(FileNotFoundError):
                    status = os.stat(self.root / name, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield ObjectInfo(name=name, size=status.st_size, modified=status.st_mtime)

    @contextmanager
    def _translated(self, name: str, done: Literal["read", "written", "removed"] = "read") -> Iterator[None]:
        """Turn the operating system's errors into the store's."""
        try:
            with self._disk_full(name):
                yield
        except StoreError:
            raise
        except OSError as error:
            if isinstance(error, _NO_FILE) and done == "read":
                raise ObjectNotFoundError(f"{self.url} has no object {name}") from error
            raise StoreError(f"{name} in {self.url} cannot be {done}: {error}") from error

    @contextmanager
    def _disk_full(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise StoreError(f"the disk of {self.url} is full: {name} was not written; make room") from error


def _adopt(temporary: TemporaryFile, target: Path) -> None:
    temporary.file.flush()
    os.fchmod(temporary.file.fileno(), 0o644)
    os.fsync(temporary.file.fileno())
    for attempt in range(_PLACING_ATTEMPTS):
        try:
            make_folder(target.parent)
            os.utime(temporary.file.fileno())  # an object's time is when it came to be there
            os.replace(temporary.path, target)
            break
        except (FileNotFoundError, FileExistsError):  # somebody removed the empty folder just now
            if attempt == _PLACING_ATTEMPTS - 1:
                raise
    temporary.adopted = True
    with suppress(FileNotFoundError):  # somebody removed the object, and its folder with it, just now
        sync(target.parent)
