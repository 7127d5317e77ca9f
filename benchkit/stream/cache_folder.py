"""The cache's folder: what lies in it, who holds it, and how room is made.

    cache.lock             held for the moments in which files are counted, come or go; its time of change
                           is when somebody last called for room that others hold
    chunks/<digest>.tar    a whole, verified tar, read-only; under a shared lock while it is in use
    chunks/<digest>.part   a tar on its way in, at its full size; under an exclusive lock while that goes on

All locks are flocks: a process that dies holds nothing. A `.part` is locked before `cache.lock`, and whoever
holds `cache.lock` waits for nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EINVAL, EOPNOTSUPP
from pathlib import Path

from benchkit.errors import CacheError, StallError
from benchkit.store.locks import LockedFile, names_file, open_locked
from benchkit.stream.eviction import CacheEntry, choose_evictions
from benchkit.stream.patience import Patience

_FILE_NAME = re.compile(r"[0-9a-f]{64}\.(tar|part)")
OTHER_FOLDER = "choose another folder with BENCHKIT_CACHE_DIR"


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """One folder that all processes of a user on a machine share.

    Attributes:
        path: Where it is.
        lock_seconds: The longest wait for a lock that is held for moments: only a stopped process is slower.
    """

    path: Path
    lock_seconds: float = 60.0

    @property
    def chunks(self) -> Path:
        """The folder of the tars."""
        return self.path / "chunks"

    def tar_path(self, digest: str) -> Path:
        """Return where the tar of this digest lies."""
        return self.chunks / f"{digest}.tar"

    def part_path(self, digest: str) -> Path:
        """Return where the tar of this digest is written until it is whole."""
        return self.chunks / f"{digest}.part"

    def prepare(self) -> None:
        """Make the folder where it is missing, and make sure that it is the user's alone.

        Raises:
            CacheError: It is no folder, belongs to someone else, or others may enter it.
        """
        if not os.path.lexists(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
        _check_private(self.path)
        self.chunks.mkdir(mode=0o700, exist_ok=True)

    def used_bytes(self) -> int:
        """Return the bytes of all tars, those on their way in at their full size; 0 without a folder."""
        return sum(entry.size for entry in self._entries())

    def sweep(self) -> None:
        """Remove what processes that are gone had begun to fetch."""
        with self._locked():
            _sweep(self.chunks, self._entries())

    def reserve(self, part: LockedFile, *, size: int, limit_bytes: int) -> int:
        """Give a fetch its bytes: unused tars are evicted, and the `.part` takes its full size.

        Args:
            part: The `.part`, empty.
            size: Bytes it will take.
            limit_bytes: The most that the folder may hold then.

        Returns:
            0 when that worked, else the bytes by which the limit would have been exceeded.
        """
        with self._locked():
            entries = _sweep(self.chunks, self._entries())
            excess = sum(entry.size for entry in entries) + size - limit_bytes
            excess -= self._evict(entries, excess)
            if excess <= 0:
                os.ftruncate(part.fd, size)
        return max(excess, 0)

    def free(self, size: int) -> int:
        """Evict unused tars of at least `size` bytes whatever the limit is; return the bytes that went."""
        with self._locked():
            return self._evict(self._entries(), size)

    def publish(self, part: LockedFile, digest: str) -> bool:
        """Make a whole `.part` the tar of its digest, and keep it under a shared lock.

        Returns:
            False when it is gone, because somebody emptied the folder by hand.
        """
        path = self.part_path(digest)
        with self._locked():  # so that no eviction slips in between the two locks
            if not names_file(path, part):
                return False
            path.rename(self.tar_path(digest))
            _set_time(part.fd)
            os.fchmod(part.fd, 0o400)
            part.downgrade()
        return True

    def open_tar(self, digest: str) -> LockedFile | None:
        """Return the tar of this digest, under a shared lock and marked as just used, or None."""
        try:
            file = self._acquire(self.tar_path(digest), shared=True)
        except FileNotFoundError:
            return None
        _set_time(file.fd)
        return file

    def remove(self, path: Path, file: LockedFile) -> None:
        """Remove the path if it still names this open file."""
        with self._locked():
            unlink_same(path, file)

    def call_for_room(self) -> None:
        """Ask every process to close what it has open and does not read at the moment."""
        _set_time(self._lock_path)

    def last_call(self) -> int:
        """Return when room was last called for, nanoseconds since 1970; 0 is never."""
        try:
            return self._lock_path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    @property
    def _lock_path(self) -> Path:
        return self.path / "cache.lock"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            lock = self._acquire(self._lock_path, shared=False)
        except FileNotFoundError:  # somebody has removed the whole folder
            self.prepare()
            lock = self._acquire(self._lock_path, shared=False)
        with lock:
            yield

    def _acquire(self, path: Path, *, shared: bool) -> LockedFile:
        """Return a file under a lock that is only ever held for moments; an exclusive one makes the file."""
        patience = Patience(self.lock_seconds, longest_pause_seconds=0.005)
        while (file := open_locked(path, shared=shared, create=not shared, blocking=False)) is None:
            if not patience.pause():
                raise StallError(
                    f"{path} has been locked by another process for {self.lock_seconds:g} s: "
                    "end the process that holds it (lslocks shows it)"
                )
        return file

    def _entries(self) -> list[CacheEntry]:
        entries: list[CacheEntry] = []
        try:
            with os.scandir(self.chunks) as found:
                for item in found:
                    with contextlib.suppress(FileNotFoundError):
                        if _FILE_NAME.fullmatch(item.name):
                            status = item.stat(follow_symlinks=False)
                            entries.append(
                                CacheEntry(name=item.name, size=status.st_size, used_ns=status.st_mtime_ns)
                            )
        except FileNotFoundError:
            return []
        return entries

    def _evict(self, entries: list[CacheEntry], excess_bytes: int) -> int:
        """Remove unused tars, least recently used first, until so many bytes are free or none is left."""
        tars, freed = [entry for entry in entries if not _is_part(entry)], 0
        while victims := choose_evictions(tars, excess_bytes=excess_bytes - freed):
            freed += sum(victim.size for victim in victims if _remove_unheld(self.chunks / victim.name))
            tars = [tar for tar in tars if tar not in victims]
        return freed


def allocate(fd: int, size: int) -> None:
    """Take disk blocks for the file's first `size` bytes, where the file system can.

    Raises:
        OSError: The disk is full (ENOSPC, EDQUOT), before anything was fetched.
    """
    if sys.platform != "linux" or size == 0:
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in {EINVAL, EOPNOTSUPP}:
            raise


def unlink_same(path: Path, file: LockedFile) -> None:
    """Remove the path if it names this open file."""
    if names_file(path, file):
        path.unlink(missing_ok=True)


def _set_time(file: int | Path) -> None:
    """Set the file's times: on many mounts reading does not, and the kernel's clock is too coarse."""
    now = time.time_ns()
    with contextlib.suppress(OSError):  # a time that cannot be set makes sharing less apt, nothing else
        os.utime(file, ns=(now, now))


def _check_private(path: Path) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) and status.st_uid in {0, os.geteuid()}:
        status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise CacheError(f"the cache {path} is no folder: {OTHER_FOLDER}")
    if status.st_uid != os.geteuid():
        raise CacheError(f"the cache {path} belongs to another user (uid {status.st_uid}): {OTHER_FOLDER}")
    if status.st_mode & 0o077:
        mode, advice = stat.S_IMODE(status.st_mode), OTHER_FOLDER
        if set(os.listdir(path)) <= {"chunks", "cache.lock"}:  # nobody has anything else there, as in /tmp
            advice = f'run "chmod 700 {path}", or {OTHER_FOLDER}'
        raise CacheError(f"the cache {path} is open to other users (mode {mode:04o}): {advice}")


def _is_part(entry: CacheEntry) -> bool:
    return entry.name.endswith(".part")


def _sweep(folder: Path, entries: list[CacheEntry]) -> list[CacheEntry]:
    """Remove every `.part` that nobody holds, and return the entries that are left."""
    return [entry for entry in entries if not (_is_part(entry) and _remove_unheld(folder / entry.name))]


def _remove_unheld(path: Path) -> bool:
    """Remove the file unless somebody holds it; return whether it is gone."""
    try:
        file = open_locked(path, shared=False, blocking=False, writable=False)
        if file is None:
            return False
        with file:
            path.unlink()
    except FileNotFoundError:
        return True
    return True
