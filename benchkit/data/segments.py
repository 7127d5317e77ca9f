"""Segments: what one worker packs at a time, written as chunks into staging or kept as they stand there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchkit.data.journal import Segment
from benchkit.data.samples import Samples
from benchkit.data.sizes import CHUNK_OVERHEAD, file_bytes, overhead_bytes
from benchkit.data.sources import FileFacts, check_unchanged, open_source, source_name, stat_source
from benchkit.data.staged import StagedLabels, staged_index
from benchkit.errors import SampleError
from benchkit.format.chunk import ChunkWriter, Codec, SourceFile
from benchkit.format.digests import Hasher, digest_key, new_hasher
from benchkit.format.labels import EncodedLabel
from benchkit.format.layout import chunk_name
from benchkit.format.manifest import ChunkEntry
from benchkit.store.local import LocalStore

AT_ONCE_BYTES = 1 << 20
"""A file of at most this size is read in one go, until those of its sample fill four times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackJob:
    """What all workers share.

    Attributes:
        samples: The dataset.
        name: Its name.
        staging: Where chunks go.
        chunk_bytes: The size of a chunk, bytes of plain tar.
        codec: The codec asked for.
    """

    samples: Samples
    name: str
    staging: LocalStore
    chunk_bytes: int
    codec: Codec


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
    """A segment whose chunks are in staging.

    Attributes:
        number: Where it stands among the segments.
        segment: What the journal is to say of it.
        samples: How many samples it has.
        kept: Whether its chunks were there already.
        source_bytes: The sizes of its files together.
    """

    number: int
    segment: Segment
    samples: int
    kept: bool
    source_bytes: int


@dataclass(frozen=True, slots=True)
class _Row:
    """A sample ready to be written; `size` is what it takes in a chunk."""

    key: bytes
    files: list[SourceFile]
    label: EncodedLabel
    size: int


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
    source_bytes = _find_current(job, task, task.known) if task.known else None
    if task.known and source_bytes is not None:
        segment, kept = task.known, True
    else:
        reader = _RowReader(job.samples, task)
        chunks = tuple(_write_chunks(job, reader.rows()))
        segment = Segment(segment=task.segment, sources=reader.sources.hexdigest(), chunks=chunks)
        source_bytes, kept = reader.source_bytes, False
    return PackedSegment(
        number=task.number,
        segment=segment,
        samples=len(task.indices),
        kept=kept,
        source_bytes=source_bytes,
    )


class _RowReader:
    """Reads the rows of a segment, and digests the facts of the files it reads."""

    def __init__(self, samples: Samples, task: SegmentTask) -> None:
        self._samples = samples
        self._task = task
        self.sources = new_hasher()
        self.source_bytes = 0

    def rows(self) -> Iterator[_Row]:
        """Yield the samples in written order, each once."""
        for index, key, paths in _list_rows(self._samples, self._task):
            files, found, at_once, size = [], [], 4 * AT_ONCE_BYTES, 0
            for path in paths:
                file, facts = open_source(index, path, at_once=min(at_once, AT_ONCE_BYTES))
                at_once -= file.size
                size += file_bytes(file.size)
                _digest_facts(self.sources, path, facts)
                self.source_bytes += file.size
                files.append(file)
                found.append((path, facts))
            label = self._samples.label(index)
            for path, facts in found:  # the label may have been made of what they hold
                check_unchanged(index, path, facts)
            size += overhead_bytes(key, [file.name for file in files], label)
            yield _Row(key, files, label, size)


def _list_rows(samples: Samples, task: SegmentTask) -> Iterator[tuple[int, bytes, Sequence[str]]]:
    """Yield index, key and paths of the segment's samples, which must be those of the walk."""
    # A view gives its numbers one by one, where a list would hold them all.
    columns = (task.indices.data, task.repeats.data, task.checks.data)
    for index, repeat, check in zip(*columns, strict=True):
        paths = samples.paths(index)
        key = samples.key(index, paths, repeat)
        if int.from_bytes(digest_key(key)[:4], "little") != check:
            raise SampleError(
                f"sample {index}: its key is now {key.decode('utf-8', 'replace')!r:.200} and was another one "
                "before: get_file and get_key must return the same whenever they are called"
            )
        yield index, key, paths


def _write_chunks(job: PackJob, rows: Iterator[_Row]) -> Iterator[ChunkEntry]:
    """Write rows into chunks, as many into each as fit, at least one."""
    room = job.chunk_bytes - CHUNK_OVERHEAD
    row = next(rows, None)
    while row is not None:
        with job.staging.temporary() as temporary:
            writer, left = ChunkWriter(temporary.file, codec=job.codec), room
            while row is not None and (row.size <= left or not writer.samples):
                writer.add_sample(row.key, row.files, row.label)
                left -= row.size
                row = next(rows, None)
            entry = writer.finish()
            job.staging.adopt(temporary, chunk_name(job.name, entry.stored, entry.codec))
        yield entry


def _find_current(job: PackJob, task: SegmentTask, known: Segment) -> int | None:
    """Return the bytes of the segment's files if packing it again would give the journal's chunks, else None.

    Files are known by their facts; labels are made anew, for they can change while no file does.
    """
    if sum(chunk.samples for chunk in known.chunks) != len(task.indices):
        return None
    sources, source_bytes = new_hasher(), 0
    rows = _list_rows(job.samples, task)
    for chunk in known.chunks:
        index = staged_index(job.staging, job.name, chunk)
        if index is None:
            return None
        labels = StagedLabels(index)
        for row, (number, _, paths) in enumerate(itertools.islice(rows, chunk.samples)):
            for path in paths:
                facts = stat_source(number, path)
                _digest_facts(sources, path, facts)
                source_bytes += facts.size
            if not labels.match(row, job.samples.label(number)):
                return None
    return source_bytes if sources.hexdigest() == known.sources else None


def _digest_facts(hasher: Hasher, path: str, facts: FileFacts) -> None:
    # A path has no null byte, so that no two rows of facts give the same bytes.
    hasher.update(b"%s\0%d %d\n" % (path.encode("utf-8", "surrogateescape"), facts.size, facts.mtime_ns))
