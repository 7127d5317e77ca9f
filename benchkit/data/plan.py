"""The plan: which samples go into which segment, a pure function of what the walk found.

The samples in written order are cut into segments of about the chunk size by what is known before a file is
read. A worker writes a segment as one chunk, or as several where the labels need more room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchkit.data.sizes import CHUNK_OVERHEAD
from benchkit.data.walk import Walk
from benchkit.format.digests import digest_bytes
from benchkit.format.manifest import MAX_CHUNK_SAMPLES

PROBED_SAMPLES = 64
"""How many samples' labels are looked at to choose the allowance."""

_ALLOWANCE_STEP = 256


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """A segment: positions `start` to `stop` of the written order, and the digest of options and keys."""

    start: int
    stop: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes where, in at most 12 bytes a sample.

    Attributes:
        order: The samples to pack, in written order, uint32, shape (n,).
        checks: The first 4 bytes of each key's digest in that order, uint32, shape (n,).
        repeats: How many samples before each have the same default key, by index, uint32, shape (N,).
        segments: The segments in written order.
        source_bytes: The sizes of all their files together; estimated where not all samples are packed.
    """

    order: npt.NDArray[np.uint32]
    checks: npt.NDArray[np.uint32]
    repeats: npt.NDArray[np.uint32]
    segments: tuple[PlannedSegment, ...]
    source_bytes: int


def make_plan(
    walk: Walk, order: npt.NDArray[np.uint32], *, allowance: int, chunk_bytes: int, options: bytes
) -> Plan:
    """Return the plan of samples that a walk found.

    Args:
        walk: All samples.
        order: Those to pack, in written order, uint32, shape (n,).
        allowance: Bytes that a sample is expected to take beside its files.
        chunk_bytes: The size of a chunk.
        options: Digest of all that decides, beside the samples, what their chunks are.
    """
    expected = walk.sizes[order]
    share = float(expected.sum()) / max(float(walk.sizes.sum()), 1.0)
    expected += np.uint64(allowance)
    segments = tuple(
        PlannedSegment(part.start, part.stop, digest_bytes(options + walk.digests[order[part]].tobytes()))
        for part in cut(expected, chunk_bytes=max(1, chunk_bytes - CHUNK_OVERHEAD))
    )
    return Plan(
        order=order,
        checks=walk.digests.view("<u4")[order, 0],
        repeats=walk.repeats,
        segments=segments,
        source_bytes=round(walk.source_bytes * share),
    )


def choose_allowance(overheads: Sequence[int]) -> int:
    """Return the bytes to allow a sample beside its files, from what some samples take.

    It is a tenth above their mean, so that few segments need a second chunk, in steps, so that a label more
    or less does not cut the whole dataset anew.
    """
    mean = sum(overheads) / len(overheads)
    return -(-int(1.1 * mean) // _ALLOWANCE_STEP) * _ALLOWANCE_STEP


def cut(
    sizes: npt.NDArray[np.uint64], *, chunk_bytes: int, max_samples: int = MAX_CHUNK_SAMPLES
) -> Iterator[slice]:
    """Yield the segments of a sequence of samples: as many in each as fit, at least one.

    Args:
        sizes: Bytes that each sample is expected to take, in written order, uint64, shape (N,).
        chunk_bytes: What a segment's samples take together at most.
        max_samples: How many samples a segment has at most.
    """
    ends = np.cumsum(sizes, dtype=np.uint64)
    start, before = 0, 0
    while start < len(sizes):
        fit = int(np.searchsorted(ends, np.uint64(before + chunk_bytes), side="right"))
        stop = min(max(fit, start + 1), start + max_samples)
        yield slice(start, stop)
        start, before = stop, int(ends[stop - 1])
