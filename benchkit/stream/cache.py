"""The chunk cache: plain tars that all processes of a machine share, each fetched once and verified whole.

A tar that is open cannot be evicted, so holding it open is how a process announces that it needs it next.
What the folder holds stays within a hard limit, tars on their way in included.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EDQUOT, EMFILE, ENFILE, ENOSPC
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchkit.data.catalogue import Version
from benchkit.errors import BenchKitError, CacheError, StallError, UsageError
from benchkit.format.manifest import ChunkEntry
from benchkit.store.base import Store
from benchkit.store.locks import LockedFile, open_locked
from benchkit.stream.cache_folder import OTHER_FOLDER, CacheFolder, allocate, unlink_same
from benchkit.stream.eviction import smallest_limit
from benchkit.stream.fetch import fetch_tar
from benchkit.stream.open_chunk import OpenChunk
from benchkit.stream.patience import Patience, call_patiently, dump_stacks

TIMEOUT_SECONDS = 300.0
_NO_SPACE = {ENOSPC, EDQUOT}
_TOO_MANY_FILES = {EMFILE, ENFILE}
_MORE_FILES = "raise the limit of open files (ulimit -n), or lower open_chunks"
_SET_LIMIT = "set BENCHKIT_CACHE_LIMIT_BYTES, or limit_bytes under [cache] of benchkit.toml, to at least"
_IDLE_SECONDS = 0.1
"""How long a fetch may wait for room before others are asked to give up what they could spare for it."""
_SPARE_SECONDS = 2.0
"""How long others are asked to give up what they can spare when the disk is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One chunk that somebody waits for."""

    store: Store
    name: str
    chunk: ChunkEntry
    what: str
    version: Version | None
    make_room: Callable[[], bool]
    patience: Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCache:
    """The cache in a folder; it can be pickled, and holds nothing open itself.

    Processes with different limits may share a folder: each keeps to its own when it brings something in.

    Attributes:
        folder: Where the tars lie; made with mode 0700 on first use.
        limit_bytes: The most bytes that the folder may come to hold.
    """

    folder: Path
    limit_bytes: int

    def __post_init__(self) -> None:
        if self.limit_bytes < 1:
            raise UsageError(f"the cache limit of {self.limit_bytes} bytes is less than 1")

    def check_limit(self, *, lanes: int, largest_tar_bytes: int) -> None:
        """Make sure before reading that the cache can work, and remove what dead processes left in it.

        Args:
            lanes: Tars that are open at once on this machine, all processes together.
            largest_tar_bytes: Bytes of the largest tar among them.

        Raises:
            CacheError: The limit is too small, with the number that would do, or the folder cannot be used.
        """
        needed = smallest_limit(lanes=lanes, largest_tar_bytes=largest_tar_bytes)
        if self.limit_bytes < needed:
            raise CacheError(
                f"the cache limit of {self.limit_bytes} bytes is too small for {lanes} open chunks of up to "
                f"{largest_tar_bytes} bytes and one on its way: {_SET_LIMIT} {needed}, or lower open_chunks"
            )
        with self._translated():
            folder = CacheFolder(self.folder)
            folder.prepare()
            folder.sweep()

    def used_bytes(self) -> int:
        """Return the bytes in the folder, tars on their way in at their full size."""
        return CacheFolder(self.folder).used_bytes()

    def holds(self, chunk: ChunkEntry) -> bool:
        """Return whether the machine has the chunk's tar now, without a promise that it stays."""
        return CacheFolder(self.folder).tar_path(chunk.tar).exists()

    def open(
        self,
        store: Store,
        name: str,
        chunk: ChunkEntry,
        *,
        what: str,
        version: Version | None = None,
        make_room: Callable[[], bool] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> OpenChunk:
        """Return the chunk's tar, fetched first where the machine does not have it.

        However many processes ask at once, one fetches and the others wait for it.

        Args:
            store: Where the chunk is.
            name: The name of its object.
            chunk: What the manifest says of it.
            what: The chunk in words, for messages: `chunk 3f9a….tar.zst of train@3`.
            version: The version that is read, to be looked for where the chunk is missing.
            make_room: Called when there is no room, here or in a process that fetches this chunk: closes an
                open chunk that the caller can spare for now, and returns whether there was one.
            timeout_seconds: The longest wait, for other processes or the store, without anything moving; 0
                waits for no other process, and for the store as long as it takes.

        Raises:
            NotFoundError: The chunk is missing, and the version too: it has been deleted.
            CorruptError: The store does not hold the bytes that the manifest names.
            CacheError: The limit leaves no room, the disk is full, or the folder cannot be used.
            StallError: The store gives nothing, or another process has the chunk or the folder locked and
                gets nowhere.
            StoreError: The store failed.
        """
        wanted = _Wanted(
            store=store,
            name=name,
            chunk=chunk,
            what=what,
            version=version,
            make_room=make_room or _keep_all,
            patience=Patience(timeout_seconds),
        )
        folder = CacheFolder(self.folder)
        with self._translated():
            while (opened := self._try_to_open(folder, wanted)) is None:
                pass
        return opened

    def discard(self, opened: OpenChunk) -> None:
        """Close a chunk whose cached bytes turned out bad, and remove them; opening it fetches it again.

        A file that has taken its place since is left alone.
        """
        with self._translated(), opened:
            CacheFolder(self.folder).remove(opened.path, opened.file)

    def last_call(self) -> int:
        """Return when a process last called for room that others hold, nanoseconds since 1970; 0 is never."""
        with self._translated():
            return CacheFolder(self.folder).last_call()

    def _try_to_open(self, folder: CacheFolder, wanted: _Wanted) -> OpenChunk | None:
        """Open the chunk or fetch it; None when it is time to look again."""
        try:
            folder.prepare()
            if opened := _open_cached(folder, wanted):
                return opened
            part = open_locked(folder.part_path(wanted.chunk.tar), shared=False, create=True, blocking=False)
            if part is not None:
                return self._fetch_in_time(folder, part, wanted)
            _await_fetch(folder, wanted)
        except BenchKitError:
            raise
        except FileNotFoundError:  # somebody has removed the whole folder
            if not wanted.patience.pause():
                raise
        return None

    def _fetch_in_time(self, folder: CacheFolder, part: LockedFile, wanted: _Wanted) -> OpenChunk | None:
        """Fetch as `_fetch` does, and give up when nothing comes."""
        fetch, seconds = partial(self._fetch, folder, part, wanted), wanted.patience.seconds
        if not seconds:
            return fetch()
        return call_patiently(
            fetch,
            state=partial(_part_state, folder, wanted),
            seconds=seconds,
            what=f"the fetch of {wanted.what} from {wanted.store.url}",
        )

    def _fetch(self, folder: CacheFolder, part: LockedFile, wanted: _Wanted) -> OpenChunk | None:
        """Fill the `.part`, which is ours, and publish it; None when that is needless or was undone."""
        digest, published = wanted.chunk.tar, False
        try:
            # The last fetch may have ended between our look for the tar and our hold on a new `.part`.
            if not folder.tar_path(digest).exists():
                os.ftruncate(part.fd, 0)  # a dead process may have begun it
                self._fill(folder, part, wanted)
                published = folder.publish(part, digest)
        finally:
            if not published:
                with part:
                    unlink_same(folder.part_path(digest), part)
        if not published:
            return None
        return OpenChunk(part, folder.tar_path(digest), size=wanted.chunk.tar_bytes, what=wanted.what)

    def _fill(self, folder: CacheFolder, part: LockedFile, wanted: _Wanted) -> None:
        """Make room and fetch; a full disk costs other tars, then what others can spare, then is an error."""
        chunk = wanted.chunk
        # Who waits for this fetch sees it stand still, and gives up what it holds.
        spare = Patience(
            min(wanted.patience.seconds, _SPARE_SECONDS), longest_pause_seconds=2 * _IDLE_SECONDS
        )
        while True:
            self._reserve(folder, part, wanted)
            try:
                allocate(part.fd, chunk.tar_bytes)
                fetch_tar(wanted.store, wanted.name, chunk, part.fd, what=wanted.what, version=wanted.version)
            except BenchKitError:
                raise
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                wanted.patience.renew()
                os.ftruncate(part.fd, 0)
                if folder.free(chunk.tar_bytes) or wanted.make_room():
                    spare.renew()
                    continue
                folder.call_for_room()
                if not spare.pause():
                    raise CacheError(
                        f"no space for {wanted.what} ({chunk.tar_bytes} bytes) in the cache {self.folder}: "
                        f"{error.strerror}, and nothing is left to evict; free space on that disk, or choose "
                        "another folder with BENCHKIT_CACHE_DIR"
                    ) from error
            else:
                wanted.patience.renew()
                return

    def _reserve(self, folder: CacheFolder, part: LockedFile, wanted: _Wanted) -> None:
        size, patience = wanted.chunk.tar_bytes, wanted.patience
        if size > self.limit_bytes:
            raise CacheError(
                f"{wanted.what} has {size} bytes, the cache only {self.limit_bytes}: {_SET_LIMIT} {size}"
            )
        while excess := folder.reserve(part, size=size, limit_bytes=self.limit_bytes):
            if wanted.make_room():
                continue
            if patience.idle_seconds > _IDLE_SECONDS:
                folder.call_for_room()
            if not patience.pause():
                held = self.limit_bytes + excess - size
                raise CacheError(
                    f"no room for {wanted.what} ({size} bytes) in the cache {self.folder}: of its limit of "
                    f"{self.limit_bytes} bytes, running processes held {held} for {patience.seconds:g} s; "
                    f"{_SET_LIMIT} {self.limit_bytes + excess}, lower open_chunks, or end other jobs"
                )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except BenchKitError:
            raise
        except OSError as error:
            advice = _MORE_FILES if error.errno in _TOO_MANY_FILES else OTHER_FOLDER
            raise CacheError(f"the cache {self.folder} cannot be used ({error}): {advice}") from error


def _open_cached(folder: CacheFolder, wanted: _Wanted) -> OpenChunk | None:
    """Return the chunk if the machine has it; a file of a wrong size is removed."""
    digest, size = wanted.chunk.tar, wanted.chunk.tar_bytes
    file = folder.open_tar(digest)
    if file is None:
        return None
    opened = OpenChunk(file, folder.tar_path(digest), size=size, what=wanted.what)
    if os.fstat(file.fd).st_size == size:
        return opened
    with opened:
        folder.remove(opened.path, file)
    return None


def _await_fetch(folder: CacheFolder, wanted: _Wanted) -> None:
    """Wait a moment for the process that fetches the chunk."""
    patience, state = wanted.patience, _part_state(folder, wanted)
    if state is None:
        return
    patience.see(state)
    waits_for_room = state.size == 0 and patience.idle_seconds > _IDLE_SECONDS
    if waits_for_room and wanted.make_room():  # what this process holds may be in its way
        patience.renew()
    if not patience.pause():
        if patience.seconds:
            dump_stacks()
        raise StallError(
            f"{wanted.what} is being fetched by another process or thread, which has got nothing from "
            f"{wanted.store.url} for {patience.seconds:g} s: see whether that answers, or end the process "
            f"(lslocks shows who holds {folder.part_path(wanted.chunk.tar)})"
        )


class _PartState(NamedTuple):
    """What changes as long as a fetch moves."""

    inode: int
    size: int
    changed_ns: int


def _part_state(folder: CacheFolder, wanted: _Wanted) -> _PartState | None:
    """Return how far the fetch of the chunk is, whoever makes it; None where there is no `.part`."""
    try:
        status = folder.part_path(wanted.chunk.tar).stat()
    except FileNotFoundError:
        return None
    return _PartState(status.st_ino, status.st_size, status.st_mtime_ns)


def _keep_all() -> bool:
    return False
