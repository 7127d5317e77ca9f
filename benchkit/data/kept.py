"""What is kept of the base: which of its chunks the new version has too, and which samples are to be packed.

A pure function of what comparing its chunks with the samples has found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchkit.data.compare import ComparedChunk
from benchkit.format.manifest import MAX_CHUNK_SAMPLES, ChunkEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the new version has of the base.

    Attributes:
        chunks: The base's chunks, in its order, as they are now.
        flags: Whether each is kept.
        order: The samples to pack, in written order, uint32, shape (n,).
        added: Samples that the base does not have; those of lost chunks are taken for what was there.
        changed: Samples whose contents are others than in the base.
        removed: Samples that the base alone has.
        bytes_read: Bytes of source files that were read.
    """

    chunks: tuple[ComparedChunk, ...]
    flags: tuple[bool, ...]
    order: npt.NDArray[np.uint32]
    added: int
    changed: int
    removed: int
    bytes_read: int

    def merge(self, written: Iterable[ChunkEntry]) -> tuple[ChunkEntry, ...]:
        """Return the chunks of the new version: those that are kept, in the base's order, then those written.

        What was written and is the very chunk that it was in the base has its old place.
        """
        new = {chunk.stored: chunk for chunk in written}
        merged = []
        for chunk, keep in zip(self.chunks, self.flags, strict=True):
            entry = chunk.entry if keep else new.pop(chunk.chunk.stored, None)
            if entry:
                merged.append(entry)
        return (*merged, *new.values())


class KeptBuilder:
    """What is kept, in the making: chunks come in any order.

    Args:
        order: All samples in written order, uint32, shape (N,).
        chunk_bytes: The size of a chunk.
    """

    def __init__(self, order: npt.NDArray[np.uint32], *, chunk_bytes: int) -> None:
        self._order = order
        self._chunk_bytes = chunk_bytes
        self._lives = np.zeros(len(order), dtype=bool)
        self._chunks: dict[int, ComparedChunk] = {}
        self._clash = False

    def add(self, chunk: ComparedChunk) -> None:
        """Add what has become of one chunk."""
        self._clash |= bool(self._lives[chunk.positions].any())
        self._lives[chunk.positions] = True
        self._clash |= len(np.unique(chunk.positions)) < chunk.live
        positions = chunk.positions
        if not (is_crumbling(chunk) or is_small(chunk, self._chunk_bytes)):
            positions = np.empty(0, dtype=np.uint32)  # it is kept whatever comes
        self._chunks[chunk.number] = replace(chunk, positions=positions, facts=b"")

    def finish(self) -> Kept:
        """Return what is kept."""
        compared = [self._chunks[number] for number in range(len(self._chunks))]
        # Packing writes no sample twice into a version: nothing of one that has is worth keeping.
        chunks = () if self._clash else tuple(compared)
        flags = choose_kept(chunks, samples=len(self._order), chunk_bytes=self._chunk_bytes)
        lives = np.zeros_like(self._lives) if self._clash else self._lives
        for chunk, keep in zip(chunks, flags, strict=True):
            if not keep:
                lives[chunk.positions] = False
        found = sum(chunk.found for chunk in chunks)
        lost = sum(chunk.chunk.live for chunk in chunks if chunk.lost)
        unknown = len(self._order) - found
        return Kept(
            chunks=chunks,
            flags=flags,
            order=self._order[~lives],
            added=max(unknown - lost, 0),
            changed=found - sum(chunk.live for chunk in chunks),
            removed=sum(chunk.chunk.live for chunk in chunks) - found - min(lost, unknown),
            bytes_read=sum(chunk.bytes_read for chunk in compared),
        )


def choose_kept(chunks: Sequence[ComparedChunk], *, samples: int, chunk_bytes: int) -> tuple[bool, ...]:
    """Return for each chunk of the base whether the new version keeps it.

    A chunk over half dead is packed again from its samples. So is one that is small, but only together with
    new samples or those of such a chunk: where nothing but the rows of lost chunks is packed again, these are
    likely to become what they were.

    Args:
        chunks: The chunks of the base as they are now.
        samples: How many samples there are.
        chunk_bytes: The size of a chunk.
    """
    fresh = samples - sum(chunk.chunk.live if chunk.lost else chunk.live for chunk in chunks)
    gathers = fresh > 0 or any(map(is_crumbling, chunks))
    return tuple(
        chunk.live > 0 and not is_crumbling(chunk) and not (gathers and is_small(chunk, chunk_bytes))
        for chunk in chunks
    )


def is_crumbling(chunk: ComparedChunk) -> bool:
    """Return whether a chunk has live rows, but over half of its rows are dead."""
    return 0 < 2 * chunk.live < chunk.chunk.samples


def is_small(chunk: ComparedChunk, chunk_bytes: int) -> bool:
    """Return whether a chunk is less than half of what one can be."""
    return 2 * chunk.chunk.tar_bytes < chunk_bytes and 2 * chunk.chunk.samples < MAX_CHUNK_SAMPLES
