"""Comparison of the base with the samples: which rows of a chunk live on, found out from its index.

Samples are known by their keys. A worker compares one chunk at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from benchkit.data.rows import PackedRows
from benchkit.data.segments import PackJob
from benchkit.data.shuffle import search
from benchkit.data.staged import find_index
from benchkit.data.walk import Walk
from benchkit.format.digests import digest_key
from benchkit.format.index import ChunkIndex
from benchkit.format.manifest import ChunkEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareJob:
    """What all workers share: the job, and what the walk found."""

    job: PackJob
    walk: Walk


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareTask:
    """One chunk of the base: its number there, its entry, and what the journal knows of its rows."""

    number: int
    chunk: ChunkEntry
    known: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedChunk:
    """What has become of a chunk of the base.

    Attributes:
        number: Its number in the base.
        chunk: Its entry there.
        dead: The bitmap of the rows that do not live on.
        lost: Whether neither store has it whole, so that nothing is known of its rows.
        live: How many rows live on.
        found: How many of its live rows are samples still, with the same contents or others.
        positions: Where the samples of the rows that live on stand in written order, uint32, shape (live,).
        facts: What the journal is to know of its rows; empty where it knows that already.
        bytes_read: Bytes of source files that were read.
        source_bytes: The sizes of the files of the rows that live on.
    """

    number: int
    chunk: ChunkEntry
    dead: bytes
    lost: bool = False
    live: int = 0
    found: int = 0
    positions: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    facts: bytes = b""
    bytes_read: int = 0
    source_bytes: int = 0

    @property
    def entry(self) -> ChunkEntry:
        """Its entry in the new version."""
        return replace(self.chunk, dead=self.dead)


def compare_chunk(shared: CompareJob, task: CompareTask) -> ComparedChunk:
    """Return which rows of a chunk are what their samples are now.

    Raises:
        SampleError: A sample cannot be read, or changes meanwhile.
        LabelTypeError: A label is of a type that cannot be stored.
        StoreError: The remote failed.
    """
    job, walk, chunk = shared.job, shared.walk, task.chunk
    index = find_index(job.staging, job.remote, job.name, chunk)
    if index is None:
        return ComparedChunk(
            number=task.number, chunk=chunk, lost=True, dead=_mark_dead(chunk.samples, np.empty(0, "i8"))
        )
    rows = chunk.live_rows()
    positions = search(walk.digests, walk.order, _digest_keys(index, rows))
    rows, positions = rows[positions >= 0], positions[positions >= 0]
    packed = PackedRows(index, task.known, contents=job.checksum)
    same = np.zeros(len(rows), dtype=bool)
    samples = job.samples.walked(*walk.describe(walk.order[positions]))
    for number, (row, (sample, _, _, paths)) in enumerate(zip(rows.tolist(), samples, strict=True)):
        same[number] = packed.match(row, job.samples, sample, paths)
    return ComparedChunk(
        number=task.number,
        chunk=chunk,
        dead=_mark_dead(chunk.samples, rows[same]),
        live=int(same.sum()),
        found=len(rows),
        positions=positions[same].astype(np.uint32),
        facts=packed.facts if packed.facts != task.known else b"",
        bytes_read=packed.bytes_read,
        source_bytes=packed.source_bytes,
    )


def _digest_keys(index: ChunkIndex, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return the digests of rows' keys, uint8, shape (rows, 16)."""
    keys, ends = index.keys.tobytes(), [0, *index.key_end.tolist()]
    digests = b"".join(digest_key(keys[ends[row] : ends[row + 1]]) for row in rows.tolist())
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 16)


def _mark_dead(samples: int, live: npt.NDArray[np.int64]) -> bytes:
    """Return the bitmap of dead rows of a chunk, as a manifest has it."""
    dead = np.ones(samples, dtype=np.uint8)
    dead[live] = 0
    return np.packbits(dead, bitorder="little").tobytes().rstrip(b"\0")
