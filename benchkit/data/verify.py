"""Verification: whether a version's objects are there and, where asked, whether every byte is right."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchkit.data.catalogue import Version, find_version, open_catalogue, read_manifest
from benchkit.data.unpack import read_at, unpack_chunk
from benchkit.errors import CorruptError, FormatError, ObjectNotFoundError, StoreError
from benchkit.format.digests import digest_bytes
from benchkit.format.index import ChunkIndex, decode_index
from benchkit.format.layout import MARKER_NAME, chunks_prefix
from benchkit.format.manifest import ChunkEntry, Manifest
from benchkit.format.pairs import open_samples
from benchkit.format.sample import SampleReader
from benchkit.store.base import Store

ATTEMPTS = 2
"""How often bytes that turn out wrong are fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyProgress:
    """How far a verification has come: chunks and their stored bytes, done and in all."""

    chunks: int
    total_chunks: int
    bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        version: What was verified.
        full: Whether every byte was read, or presence and sizes looked at.
        chunks: Chunks of the version.
        samples: Live samples of the version.
        bytes: Stored bytes of its chunks.
        problems: What is wrong, a line each; empty when nothing is.
        damaged: The chunks whose objects are missing, of a wrong size, or twice gave wrong bytes.
    """

    version: Version
    full: bool
    chunks: int
    samples: int
    bytes: int
    problems: tuple[str, ...]
    damaged: tuple[ChunkEntry, ...]


def verify(
    store: Store,
    dataset: str,
    number: int | None = None,
    *,
    full: bool,
    on_progress: Callable[[VerifyProgress], None] | None = None,
) -> VerifyReport:
    """Look for everything that is wrong with a version; problems are reported, not raised.

    Args:
        store: Where it is.
        dataset: Name of the dataset.
        number: Number of the version; None is the newest.
        full: Check every digest and index, and read every sample; else presence and size of its objects.
            Wrong bytes are fetched once more, since they may be right in the store.
        on_progress: Is told how far it has come.

    Raises:
        NotFoundError: There is no such dataset or version.
        StoreError: The store failed.
    """
    problems: list[str] = []
    try:
        open_catalogue(store)
        if store.stat(MARKER_NAME) is None:
            problems.append(f"{store.url} lacks {MARKER_NAME}: migrate any dataset to write it again")
    except FormatError as error:
        problems.append(str(error))
    version = find_version(store, dataset, number=number)
    manifest = Manifest(dataset=dataset, chunk_bytes=0, codec="auto", chunks=())
    try:
        manifest = read_manifest(store, version)
    except (CorruptError, FormatError) as error:
        problems.append(str(error))
    checker = _Checker(store, version, manifest)
    done = 0
    for count, chunk in enumerate(manifest.chunks, start=1):
        problems.extend(checker.check(chunk, full=full))
        done += chunk.stored_bytes
        if on_progress:
            on_progress(
                VerifyProgress(
                    chunks=count,
                    total_chunks=len(manifest.chunks),
                    bytes=done,
                    total_bytes=manifest.stored_bytes,
                )
            )
    return VerifyReport(
        version=version,
        full=full,
        chunks=len(manifest.chunks),
        samples=manifest.samples,
        bytes=manifest.stored_bytes,
        problems=tuple(problems),
        damaged=tuple(checker.damaged),
    )


class _Checker:
    """Checks the chunks of one version, and collects those whose objects are damaged."""

    def __init__(self, store: Store, version: Version, manifest: Manifest) -> None:
        self._store = store
        self._version = version
        self._manifest = manifest
        self._sizes = {info.name: info.size for info in store.list(chunks_prefix(version.dataset))}
        self.damaged: list[ChunkEntry] = []

    def check(self, chunk: ChunkEntry, *, full: bool) -> list[str]:
        """Return what is wrong with a chunk."""
        name = self._manifest.chunk_object(chunk)
        what = f"chunk {name.rpartition('/')[2]} of {self._version.label}"
        size = self._sizes.get(name)
        if size is None and (info := self._store.stat(name)):  # staging does not list what the remote has
            size = info.size
        fault = ""
        if size is None:
            fault = f"{what} is missing from {self._store.url}"
        elif size != chunk.stored_bytes:
            fault = f"{what} has {size} bytes in {self._store.url}, expected {chunk.stored_bytes}"
        elif full:
            fault, problems = self._check_bytes(name, chunk, what)
            if not fault:
                return problems
        if fault:
            self.damaged.append(chunk)
        return [fault] if fault else []

    def _check_bytes(self, name: str, chunk: ChunkEntry, what: str) -> tuple[str, list[str]]:
        """Return what is wrong with a chunk's object, or else with its samples."""
        try:
            with tempfile.TemporaryFile(buffering=0) as tar:
                for _ in range(ATTEMPTS):
                    index, why = self._fetch(name, chunk, tar.fileno(), what)
                    if index:
                        return "", list(_check_samples(chunk, index, tar.fileno(), what))
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"{what} cannot be unpacked: {error}; make room in {tempfile.gettempdir()}, or set TMPDIR to "
                "another folder"
            ) from error
        return f"{what} in {self._store.url} is corrupt: {why}", []

    def _fetch(self, name: str, chunk: ChunkEntry, tar: int, what: str) -> tuple[ChunkIndex | None, str]:
        """Write the chunk's tar to an open file; return its index, or None and what is wrong with it."""
        try:
            fault = unpack_chunk(self._store.stream(name), chunk, tar)
            return (None, fault) if fault else (self._read_index(chunk, tar, what), "")
        except ObjectNotFoundError:
            return None, "it has just been removed"
        except (CorruptError, FormatError) as error:
            return None, str(error)

    def _read_index(self, chunk: ChunkEntry, tar: int, what: str) -> ChunkIndex:
        place = chunk.index
        if place.tar_offset is not None:
            data = read_at(tar, place.tar_offset, place.tar_length)
        else:
            data = self._store.read(str(place.object), start=place.offset, length=place.length)
        if digest_bytes(data) != place.digest:
            raise CorruptError(f"the index of {what} is not the one that the manifest names")
        return decode_index(data, tar_bytes=chunk.tar_bytes, samples=chunk.samples, what=what)


def _check_samples(chunk: ChunkEntry, index: ChunkIndex, tar: int, what: str) -> Iterator[str]:
    """Yield what is wrong with a chunk's live samples, each read as a loader reads it."""
    reader = open_samples(index, partial(read_at, tar), what=what, name=index.name)
    for row in chunk.live_rows().tolist():
        fault = _find_fault(reader, row)
        if fault:
            yield fault


def _find_fault(reader: SampleReader, row: int) -> str | None:
    try:
        reader.read([row])
    except (CorruptError, FormatError) as error:
        return str(error)
    return None
