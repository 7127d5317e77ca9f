"""Segments: what one worker packs at a time, written as chunks into staging or kept as they were written."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchkit.data.journal import Segment
from benchkit.data.rows import PackedRows, digest_facts
from benchkit.data.samples import Samples
from benchkit.data.sizes import CHUNK_OVERHEAD, file_bytes, overhead_bytes, sum_each
from benchkit.data.sources import KEPT_OPEN, Sources, source_names
from benchkit.data.staged import find_index
from benchkit.format import canonical
from benchkit.format.chunk import FRAME_BYTES, PROBE_RATIO, ZSTD_LEVEL, ChunkWriter, Codec
from benchkit.format.digests import digest_bytes
from benchkit.format.index import INDEX_FORMAT
from benchkit.format.labels import EncodedLabel
from benchkit.format.layout import chunk_name
from benchkit.format.manifest import ChunkEntry
from benchkit.format.members import Rows
from benchkit.store.base import Store
from benchkit.store.local import LocalStore

_GROUP_SAMPLES = 128
"""So many samples at most are got ready together."""
_GROUP_LABEL_BYTES = 1 << 20
"""Fewer are where their labels take more than this."""

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


class _Group(NamedTuple):
    """Some samples ready to be written, one after the other.

    Attributes:
        rows: The samples.
        sizes: What each takes in a chunk, int64, shape (n,).
        facts: What tells the files of each.
        sources: Their files, and after them those of the rest of the group.
    """

    rows: Rows
    sizes: npt.NDArray[np.int64]
    facts: list[int]
    sources: Sources

    def split(self, count: int) -> tuple[_Group, _Group | None]:
        """Return the first so many, and the rest if there is any."""
        if count == len(self.sizes):
            return self, None
        files = sum(self.rows.counts[:count])
        return self._slice(slice(count), slice(files)), self._slice(slice(count, None), slice(files, None))

    def _slice(self, part: slice, files: slice) -> _Group:
        return _Group(self.rows.take(part, files), self.sizes[part], self.facts[part], self.sources)


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


def measure_overheads(job: PackJob, indices: Sequence[int]) -> list[int]:
    """Return the bytes that each of these samples takes in a chunk beside its files."""
    overheads = []
    for index in indices:  # one after the other: a label may take much memory
        [paths] = owned = job.samples.paths([index])
        keys, names = job.samples.keys([index], owned), source_names([index], owned)
        overheads.append(int(overhead_bytes(keys, [len(paths)], names, [job.samples.label(index)])[0]))
    return overheads


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
        reader = _GroupReader(job.samples, task)
        written = list(_write_chunks(job, reader.groups()))
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


class _GroupReader:
    """Reads the samples of a segment, some at once."""

    def __init__(self, samples: Samples, task: SegmentTask) -> None:
        self._samples = samples
        self._task = task
        self.source_bytes = 0

    def groups(self) -> Iterator[_Group]:
        """Yield the samples in written order, each once; the files of a group are closed with the next."""
        task = self._task
        walked = self._samples.walked(task.indices, task.repeats, task.checks)
        waiting: list[tuple[int, bytes, bytes, Sequence[str]]] = []
        while True:
            waiting += islice(walked, _GROUP_SAMPLES - len(waiting))
            if not waiting:
                return
            ends = list(accumulate(len(paths) for *_, paths in waiting))
            indices, keys, digests, paths = zip(
                *waiting[: max(1, bisect_right(ends, KEPT_OPEN))], strict=True
            )
            # What is found before labels are made must still be so once a file has been read: a label may be
            # made of what the files hold.
            with closing(Sources(indices, paths)) as sources:
                done, files = 0, 0
                for labels in self._make_labels(indices):
                    part = slice(done, done + len(labels))
                    counts = [*map(len, paths[part])]
                    owned = slice(files, files + sum(counts))
                    rows = Rows(
                        keys=keys[part],
                        digests=digests[part],
                        labels=labels,
                        counts=counts,
                        names=sources.names[owned],
                        sizes=sources.sizes[owned],
                    )
                    self.source_bytes += sum(rows.sizes)
                    sizes = overhead_bytes(rows.keys, counts, rows.names, labels)
                    sizes += sum_each(counts, file_bytes(np.array(rows.sizes, dtype=np.int64)))
                    facts = digest_facts(counts, sources.paths[owned], sources.statuses[owned])
                    yield _Group(rows, sizes, facts, sources)
                    done, files = part.stop, owned.stop
            del waiting[: len(indices)]

    def _make_labels(self, indices: Sequence[int]) -> Iterator[list[EncodedLabel]]:
        """Yield the labels of the samples, of all at once unless those take much memory."""
        labels: list[EncodedLabel] = []
        size = 0
        for index in indices:
            label = self._samples.label(index)
            labels.append(label)
            size += sum(map(len, label.parts))
            if size > _GROUP_LABEL_BYTES:
                yield labels
                labels, size = [], 0
        if labels:
            yield labels


def _write_chunks(job: PackJob, groups: Iterator[_Group]) -> Iterator[tuple[ChunkEntry, bytes]]:
    """Write samples into chunks, as many into each as fit, at least one; yield each with their facts."""
    group = next(groups, None)
    while group:
        facts = bytearray()
        with (
            job.staging.temporary(direct=True) as temporary,
            ChunkWriter(temporary.file, codec=job.codec) as writer,
        ):
            left = job.chunk_bytes - CHUNK_OVERHEAD
            while group:
                count = _count_fitting(group.sizes, left, least=0 if writer.samples else 1)
                if not count:
                    break
                taken, group = group.split(count)
                writer.add_samples(taken.rows, taken.sources)
                facts += np.array(taken.facts, dtype="<u8").tobytes()
                left -= int(taken.sizes.sum())
                group = group or next(groups, None)
            entry = writer.finish()
            job.staging.adopt(temporary, chunk_name(job.name, entry.stored, entry.codec))
        yield entry, bytes(facts)


def _count_fitting(sizes: npt.NDArray[np.int64], room: int, *, least: int) -> int:
    """Return how many of the first go into this room together, or the least."""
    return max(least, int(np.searchsorted(np.cumsum(sizes), room, "right")))


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
