"""Segments: what one worker packs at a time, written as chunks into staging or kept as they were written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchkit.data.journal import Segment
from benchkit.data.rows import FACTS_BYTES, PackedRows, digest_facts
from benchkit.data.samples import Samples
from benchkit.data.sizes import CHUNK_OVERHEAD, file_bytes, overhead_bytes
from benchkit.data.sources import Source, source_name
from benchkit.data.staged import find_index
from benchkit.format import canonical
from benchkit.format.chunk import FRAME_BYTES, PROBE_RATIO, ZSTD_LEVEL, ChunkWriter, Codec
from benchkit.format.digests import digest_bytes
from benchkit.format.index import INDEX_FORMAT
from benchkit.format.labels import EncodedLabel
from benchkit.format.layout import chunk_name
from benchkit.format.manifest import ChunkEntry
from benchkit.store.base import Store
from benchkit.store.local import LocalStore

_KEPT_OPEN = 64
"""So many files of a sample are held open while its label is made."""

_SEGMENT_FORMAT = 2
"""Part of a segment's digest: raised when packing would write other chunks from the same samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackJob:
    """What all workers share.

    Attributes:
        samples: The dataset.
        name: Its name.
        staging: Where chunks go.
        remote: Where chunks are that staging need not have; None is nowhere.
        chunk_bytes: The size of a chunk, bytes of plain tar.
        codec: The codec asked for.
        checksum: Compare contents even where sizes and times are what the journal knows.
    """

    samples: Samples
    name: str
    staging: LocalStore
    remote: Store | None
    chunk_bytes: int
    codec: Codec
    checksum: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTask:
    """One segment to pack.

    Attributes:
        number: Where it stands among the segments.
        segment: Digest of the options and of its keys.
        indices: Its samples in written order, uint32, shape (n,).
        repeats: How often their default keys came before, uint32, shape (n,).
        checks: The first 4 bytes of their keys' digests as the walk found them, uint32, shape (n,).
        known: What the journal says of this segment, if anything.
    """

    number: int
    segment: str
    indices: npt.NDArray[np.uint32]
    repeats: npt.NDArray[np.uint32]
    checks: npt.NDArray[np.uint32]
    known: Segment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSegment:
    """A segment whose chunks are in staging, or in the remote.

    Attributes:
        number: Where it stands among the segments.
        segment: What the journal is to say of it.
        samples: How many samples it has.
        kept: Whether its chunks were there already.
        source_bytes: The sizes of its files together.
        bytes_read: Bytes of its files that were read, to compare and to pack them.
    """

    number: int
    segment: Segment
    samples: int
    kept: bool
    source_bytes: int
    bytes_read: int


class _Row(NamedTuple):
    """A sample ready to be written; `size` is what it takes in a chunk, `facts` tells its files."""

    key: bytes
    digest: bytes
    files: list[Source]
    label: EncodedLabel
    size: int
    facts: int


def digest_options(job: PackJob) -> bytes:
    """Return the digest of all that decides, beside the samples themselves, what their chunks are."""
    options = [
        _SEGMENT_FORMAT,
        INDEX_FORMAT,
        FRAME_BYTES,
        ZSTD_LEVEL,
        PROBE_RATIO,
        job.chunk_bytes,
        job.codec,
    ]
    return digest_bytes(canonical.encode(options)).encode()


def measure_overhead(job: PackJob, index: int) -> int:
    """Return the bytes that a sample takes in a chunk beside its files."""
    paths = job.samples.paths(index)
    names = [source_name(index, path) for path in paths]
    return overhead_bytes(job.samples.key(index, paths), names, job.samples.label(index))


def pack_segment(job: PackJob, task: SegmentTask) -> PackedSegment:
    """Write the segment's chunks into staging, unless those that the journal names are what it would be.

    Raises:
        SampleError: A sample cannot be packed, or changed meanwhile.
        LabelTypeError: A label is of a type that cannot be stored.
        StoreError: Staging cannot be written.
    """
    segment, source_bytes, bytes_read = _find_current(job, task, task.known) if task.known else (None, 0, 0)
    kept = segment is not None
    if segment is None:
        reader = _RowReader(job.samples, task)
        written = list(_write_chunks(job, reader.rows()))
        segment = Segment(
            segment=task.segment,
            chunks=tuple(entry for entry, _ in written),
            facts=tuple(facts for _, facts in written),
        )
        source_bytes, bytes_read = reader.source_bytes, bytes_read + reader.source_bytes
    return PackedSegment(
        number=task.number,
        segment=segment,
        samples=len(task.indices),
        kept=kept,
        source_bytes=source_bytes,
        bytes_read=bytes_read,
    )


class _RowReader:
    """Reads the rows of a segment."""

    def __init__(self, samples: Samples, task: SegmentTask) -> None:
        self._samples = samples
        self._task = task
        self.source_bytes = 0

    def rows(self) -> Iterator[_Row]:
        """Yield the samples in written order, each once; the files of one are closed with the next."""
        task = self._task
        for index, key, digest, paths in self._samples.walked(task.indices, task.repeats, task.checks):
            sources: list[Source] = []
            try:
                # What is found before the label is made must still be so once a file has been read: the label
                # may be made of what the files hold.
                for path in paths:
                    sources.append(Source(index, path, keep_open=len(sources) < _KEPT_OPEN))
                label = self._samples.label(index)
                size = overhead_bytes(key, [source.name for source in sources], label)
                for source in sources:
                    size += file_bytes(source.size)
                    self.source_bytes += source.size
                facts = digest_facts(paths, [source.status for source in sources])
                yield _Row(key, digest, sources, label, size, facts)
            finally:
                for source in sources:
                    source.close()


def _write_chunks(job: PackJob, rows: Iterator[_Row]) -> Iterator[tuple[ChunkEntry, bytes]]:
    """Write rows into chunks, as many into each as fit, at least one; yield each with its rows' facts."""
    room = job.chunk_bytes - CHUNK_OVERHEAD
    row = next(rows, None)
    while row is not None:
        facts = bytearray()
        with (
            job.staging.temporary(direct=True) as temporary,
            ChunkWriter(temporary.file, codec=job.codec) as writer,
        ):
            left = room
            while row is not None and (row.size <= left or not writer.samples):
                writer.add_sample(row.key, row.files, row.label, digest=row.digest)
                facts += row.facts.to_bytes(FACTS_BYTES, "little")
                left -= row.size
                row = next(rows, None)
            entry = writer.finish()
            job.staging.adopt(temporary, chunk_name(job.name, entry.stored, entry.codec))
        yield entry, bytes(facts)


def _find_current(job: PackJob, task: SegmentTask, known: Segment) -> tuple[Segment | None, int, int]:
    """Compare a segment's samples with the chunks that the journal names.

    Returns:
        The segment if packing it again would give these chunks, else None; the sizes of its files together;
        and how many bytes of them were read.
    """
    source_bytes = bytes_read = 0
    rows = job.samples.walked(task.indices, task.repeats, task.checks)
    facts = []
    if sum(chunk.samples for chunk in known.chunks) != len(task.indices):
        return None, 0, 0
    for chunk, told in zip(known.chunks, known.facts, strict=True):
        index = find_index(job.staging, job.remote, job.name, chunk)
        if index is None:
            return None, 0, bytes_read
        packed = PackedRows(index, told, contents=job.checksum)
        current = all(
            packed.match(row, job.samples, number, paths)
            for row, (number, _, _, paths) in zip(range(chunk.samples), rows, strict=False)
        )
        bytes_read += packed.bytes_read
        if not current:
            return None, 0, bytes_read
        source_bytes += packed.source_bytes
        facts.append(packed.facts)
    return replace(known, facts=tuple(facts)), source_bytes, bytes_read
