"""Rows of a version's chunks, read through the cache; each process has a reader of its own."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.data.catalogue import Version
from benchkit.errors import CorruptError, DatasetError
from benchkit.format.digests import digest_bytes
from benchkit.format.index import ChunkIndex, decode_index
from benchkit.format.manifest import Manifest
from benchkit.format.pairs import open_samples
from benchkit.format.sample import ReadRange, Sample, SampleReader
from benchkit.store.base import Store
from benchkit.stream.cache import TIMEOUT_SECONDS, ChunkCache
from benchkit.stream.calls import CallListener
from benchkit.stream.early import NEAR_BYTES as EARLY_NEAR_BYTES
from benchkit.stream.early import Part, choose_early, read_early
from benchkit.stream.open_chunk import OpenChunk
from benchkit.stream.patience import call_patiently
from benchkit.stream.read_ahead import ReadAhead

AT_ONCE_BYTES = 4 << 20
"""So many samples are read at once that they have about these bytes together."""

_HEAP_BYTES = 16 << 20
_INDEX_BYTES = 16 << 20
"""So much of what indices say is remembered of chunks that are closed, which may soon be opened again: where
the cache is small, for every batch."""
_EACH_BYTES = 4 << 10
"""What each of them takes besides."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A chunk in use: cached tar, what reads it, and live rows (None: all are)."""

    tar: OpenChunk
    samples: SampleReader
    live: npt.NDArray[np.int64] | None


class ChunkReader:
    """Reads rows by chunk and live row, holding chunks open from one to the next.

    What is open and not being read is closed when another process calls for room.

    Args:
        store: Where the chunks are.
        cache: The machine's cache.
        manifest: What the version's chunks are.
        version: The version.
        scattered: Whether rows are read in no order, so that tars are better read whole ahead.

    Attributes:
        keep: The most chunks held open at once, but for the one in use; the least recently used is let go.
        timeout_seconds: The longest wait for a chunk without anything moving.
        rows_read: Rows sliced out of chunks so far, in this process.
        chunks_opened: Chunks opened for that so far.
    """

    def __init__(
        self,
        *,
        store: Store,
        cache: ChunkCache,
        manifest: Manifest,
        version: Version,
        keep: int,
        scattered: bool = False,
    ) -> None:
        self._store = store
        self._cache = cache
        self._manifest = manifest
        self._version = version
        self.keep = keep
        self._scattered = scattered
        self.timeout_seconds = TIMEOUT_SECONDS
        self._begin()
        self.rows_read = 0
        self.chunks_opened: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: a reader in another process opens its own."""
        gone = dict.fromkeys(
            ("_opened", "_known", "_new", "_read_ahead", "_refetched", "_in_use", "_listener")
        )
        return self.__dict__ | gone | {"_pid": -1}

    def _begin(self) -> None:
        """Hold nothing, as a process does that has just made, forked or unpickled the reader."""
        self._opened: OrderedDict[int, _Opened] = OrderedDict()
        self._known: OrderedDict[int, _Opened] = OrderedDict()  # open or not: their indices have been read
        self._known_bytes = 0
        self._new: list[OpenChunk] = []  # opened for what is being read, which is not to wait for all of them
        self._read_ahead = ReadAhead()
        self._refetched: set[int] = set()
        self._moved_bytes = 0  # at least about so many have come straight from the store
        self._in_use = threading.RLock()
        self._listener = CallListener(self)
        self._pid = os.getpid()
        # glibc keeps freed memory, up to twice the largest block freed so far (mallopt(3)). Else the pages of
        # every batch are given back and made anew, which takes longer than to read into them.
        bytes(_HEAP_BYTES)

    def read(
        self, chunks: Sequence[int], rows: Sequence[int], *, early: bool = False
    ) -> Iterator[list[Sample]]:
        """Yield samples in order, every byte checked, as many at a time as are read at once.

        Args:
            chunks: The chunk of each.
            rows: The live row of each in its chunk.
            early: Read from the store what can be, of chunks that are not in the cache.

        Raises:
            CorruptError: A chunk is corrupt in the store too: it was fetched again once.
        """
        found = self._read_early(chunks, rows) if early else {}
        for places in self._cut(chunks):
            samples = self._read_together(chunks, rows, places, found)
            self.rows_read += len(samples)
            yield samples

    def _cut(self, chunks: Sequence[int]) -> Iterator[range]:
        """Yield which samples, whose chunks these are, are read at once."""
        entries = self._manifest.chunks
        sizes = {chunk: entries[chunk].tar_bytes // entries[chunk].samples for chunk in set(chunks)}
        start, left = 0, AT_ONCE_BYTES
        if len(chunks) * max(sizes.values(), default=0) > left:
            for place, chunk in enumerate(chunks):
                if sizes[chunk] > left and place > start:
                    yield range(start, place)
                    start, left = place, AT_ONCE_BYTES
                left -= sizes[chunk]
        yield range(start, len(chunks))

    def _read_together(
        self, chunks: Sequence[int], rows: Sequence[int], places: range, found: dict[int, Sample]
    ) -> list[Sample]:
        """Return some of the samples, those of a chunk read together; found are some by their places."""
        part = slice(places.start, places.stop)
        together: list[Sample] = []
        with self._used():
            if self._new:
                if self.keep:
                    self._read_ahead.ask(tar for tar in self._new if not tar.closed)
                self._new.clear()
            if not found and len(set(chunks[part])) == 1:
                return self._read_rows(chunks[places.start], rows[part])
            groups = _group([place for place in places if place not in found], chunks)
            for chunk, here in groups.items():
                together += self._read_rows(chunk, [rows[place] for place in here])
        found.update(zip(chain.from_iterable(groups.values()), together, strict=True))
        return list(map(found.pop, places))

    def _read_rows(self, chunk: int, rows: Sequence[int]) -> list[Sample]:
        """Return the samples of a chunk's live rows out of the cache."""
        while True:
            opened = self._open(chunk)
            try:
                return opened.samples.read(rows if opened.live is None else opened.live[rows].tolist())
            except CorruptError as error:
                self._discard(chunk, error)

    def _read_early(self, chunks: Sequence[int], rows: Sequence[int]) -> dict[int, Sample]:
        """Return samples of chunks that are not in the cache, by their places."""
        entries, groups = self._manifest.chunks, _group(range(len(chunks)), chunks)
        with self._used():
            away = [
                (chunk, [rows[place] for place in places])
                for chunk, places in groups.items()
                if chunk not in self._opened and not self._cache.holds(entries[chunk])
            ]
        visits = choose_early(away, entries)
        samples = call_patiently(
            partial(read_early, visits, self._open_in_store),
            state=lambda: self._moved_bytes,
            seconds=self.timeout_seconds,
            what=f"reading rows of {self._version.label} from {self._store.url}",
        )
        found: dict[int, Sample] = {}
        for (chunk, _), some in zip(visits, samples, strict=True):
            if some:
                found.update(zip(groups[chunk], some, strict=True))
        return found

    def _open_in_store(self, chunk: int, live_rows: Sequence[int]) -> list[Part]:
        """Return what reads rows of a chunk where the store has it, those next to each other together."""
        entry = self._manifest.chunks[chunk]
        name = self._manifest.chunk_object(entry)

        read = partial(self._read_store, name)
        index = self._decode_index(read, chunk)
        rows = entry.live_rows()[live_rows].tolist() if entry.dead else live_rows
        reader = open_samples(index, read, what=self.describe_chunk(chunk), near_bytes=EARLY_NEAR_BYTES)
        return [partial(reader.read, run) for run in _cut_runs(rows)]

    def _read_store(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of an object in the store, each counted as it comes."""
        blocks = []
        for block in self._store.stream(name, start=offset, length=length):
            self._moved_bytes += len(block)
            blocks.append(block)
        return b"".join(blocks)

    def describe(self, chunk: int, live_row: int) -> str:
        """Return a row as people look for it: key, original files, chunk, dataset and version."""
        with self._used():
            opened = self._open(chunk)
            row = live_row if opened.live is None else int(opened.live[live_row])
            index = self._decode_index(opened.tar.read, chunk)
            files = ", ".join(repr(name) for name in index.file_names(row)) or "no files"
            return f"sample {index.key(row)!r} ({files}) in {self.describe_chunk(chunk)}"

    def describe_chunk(self, chunk: int) -> str:
        """Return a chunk as people look for it: the start of its name, dataset and version."""
        entry = self._manifest.chunks[chunk]
        suffix = ".tar.zst" if entry.codec == "zstd" else ".tar"
        return f"chunk {entry.stored[:12]}…{suffix} of {self._version.label}"

    def fetch(self, chunk: int) -> OpenChunk:
        """Return the cached tar of a chunk, fetched when missing; the caller closes it."""
        entry = self._manifest.chunks[chunk]
        name = self._manifest.chunk_object(entry)
        return self._cache.open(
            self._store,
            name,
            entry,
            what=self.describe_chunk(chunk),
            version=self._version,
            make_room=self._let_go,
            timeout_seconds=self.timeout_seconds,
        )

    def fetch_ahead(self, chunk: int) -> OpenChunk:
        """Return the cached tar of a chunk, from any thread, without waiting where there is no room."""
        entry = self._manifest.chunks[chunk]
        name = self._manifest.chunk_object(entry)
        what = self.describe_chunk(chunk)
        return self._cache.open(self._store, name, entry, what=what, version=self._version, timeout_seconds=0)

    def trim(self) -> None:
        """Let all chunks go but those to keep."""
        with self._used():
            while len(self._opened) > self.keep:
                self._let_go()
            if not self._opened:  # a worker's part of the pass is over
                self._read_ahead.stop()

    def let_go(self) -> None:
        """Let all chunks go, and forget their indices: the pass is over."""
        self.give_way()
        self._known.clear()
        self._known_bytes = 0
        self._read_ahead.stop()
        self._listener.stop()

    def last_call(self) -> int:
        """Return when somebody last called for room, nanoseconds since 1970."""
        return self._cache.last_call()

    def give_way(self) -> None:
        """Let all chunks go that are not being read."""
        with self._used():
            while self._let_go():
                pass

    def _used(self) -> AbstractContextManager[Any]:
        """Return the lock under which chunks are opened, read and closed."""
        if self._pid != os.getpid():  # after a fork the parent's files and its lock are not ours
            self._begin()
        return self._in_use

    def _open(self, chunk: int) -> _Opened:
        opened = self._opened.get(chunk)
        if opened is None:
            while len(self._opened) >= max(self.keep, 1):
                self._let_go()
            opened = self._opened[chunk] = self._load(chunk)
            self.chunks_opened.add(chunk)
            if self._scattered:
                self._new.append(opened.tar)
            self._listener.start()
        self._opened.move_to_end(chunk)
        return opened

    def _load(self, chunk: int) -> _Opened:
        entry = self._manifest.chunks[chunk]
        while True:
            tar = self.fetch(chunk)
            if known := self._known.get(chunk):
                self._known.move_to_end(chunk)
                return replace(known, tar=tar, samples=known.samples.reading(tar.read))
            try:
                index = self._decode_index(tar.read, chunk)
            except CorruptError as error:
                self._give_back(tar, chunk, error)
            else:
                samples = open_samples(index, tar.read, what=self.describe_chunk(chunk))
                live = entry.live_rows() if entry.dead else None
                opened = _Opened(tar, samples, live)
                self._remember(chunk, opened)
                return opened

    def _remember(self, chunk: int, opened: _Opened) -> None:
        """Keep what the chunk's index says, and forget what has not been asked for longest."""
        self._known[chunk] = opened
        self._known_bytes += self._index_bytes(chunk)
        while self._known_bytes > _INDEX_BYTES:
            self._known_bytes -= self._index_bytes(self._known.popitem(last=False)[0])

    def _index_bytes(self, chunk: int) -> int:
        """Return about what it takes to remember a chunk's index."""
        return self._manifest.chunks[chunk].index.tar_length + _EACH_BYTES

    def _decode_index(self, read: ReadRange, chunk: int) -> ChunkIndex:
        entry, what = self._manifest.chunks[chunk], self.describe_chunk(chunk)
        place = entry.index
        if place.tar_offset is not None:
            data = read(place.tar_offset, place.tar_length)
        else:
            data = call_patiently(
                partial(self._read_store, str(place.object), place.offset, place.length),
                state=lambda: self._moved_bytes,
                seconds=self.timeout_seconds,
                what=f"reading the index of {what} from {self._store.url}",
            )
        if digest_bytes(data) != place.digest:
            raise CorruptError(f"the index of {what} is not what the manifest says")
        return decode_index(data, tar_bytes=entry.tar_bytes, samples=entry.samples, what=what)

    def _let_go(self) -> bool:
        """Close the least recently used chunk; False when none is open."""
        if not self._opened:
            return False
        _, opened = self._opened.popitem(last=False)
        opened.tar.close()
        return True

    def _discard(self, chunk: int, error: CorruptError) -> None:
        opened = self._opened.pop(chunk)
        self._give_back(opened.tar, chunk, error)

    def _give_back(self, tar: OpenChunk, chunk: int, error: CorruptError) -> None:
        """Have the cache forget its copy, so that the next open fetches anew; once per chunk and process."""
        if chunk in self._refetched:
            tar.close()
            dataset = self._manifest.dataset
            raise CorruptError(
                f'{error} (fetched again once; run "bench-kit verify {dataset} --full", '
                "and --staged for staging)"
            ) from error
        self._refetched.add(chunk)
        self._cache.discard(tar)


def _group(places: Iterable[int], chunks: Sequence[int]) -> dict[int, list[int]]:
    """Return the places of samples by their chunks."""
    groups: dict[int, list[int]] = {}
    for place in places:
        groups.setdefault(chunks[place], []).append(place)
    return groups


def _cut_runs(rows: Sequence[int]) -> list[list[int]]:
    """Return the rows, cut where one is not next to the one before."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][-1] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def check_rows(manifest: Manifest, label: str) -> npt.NDArray[np.int64]:
    """Return the number of live rows of each chunk, shape (chunks,), int64.

    Raises:
        DatasetError: There is no live row at all.
    """
    rows = np.array([chunk.live for chunk in manifest.chunks], dtype=np.int64)
    if rows.sum() == 0:
        raise DatasetError(f"{label} has no samples: every one of its rows is dead; migrate it again")
    return rows
