"""The plan: which samples go into which segment, a pure function of keys and sizes.

Samples are laid down in a seeded shuffle of their keys, so that neighbours in a chunk are unrelated whatever
the order of the indices; the sequence is cut into segments of about the chunk size by what is known before a
file is read. A worker writes a segment as one chunk, or as several where the labels need more room.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchkit.format import tar
from benchkit.format.chunk import sample_bytes
from benchkit.format.labels import EncodedLabel
from benchkit.format.manifest import MAX_CHUNK_SAMPLES

SEED = 0x9E3779B97F4A7C15
"""Makes the written order another one than that of the digests themselves."""

CHUNK_OVERHEAD = 4096
"""Room in a chunk for the index's own header, the kinds of its labels, and the end of the tar."""

PROBED_LABELS = 64
_ALLOWANCE_STEP = 256


def file_bytes(size: int) -> int:
    """Return the bytes that a file of this size takes in a tar."""
    return tar.BLOCK + tar.padded(size)


def overhead_bytes(key: bytes, names: Sequence[bytes], label: EncodedLabel) -> int:
    """Return the bytes that a sample takes in a chunk beside its files: label, and row of the index."""
    members = len(names) + 1 + len(label.arrays)
    return sample_bytes((), label) + 24 * members + 20 + len(key) + 8 * len(names) + sum(map(len, names))


def shuffle(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the samples in written order: sorted by a mix of key digest and a fixed seed.

    The order of the indices does not matter, except for samples of one and the same digest.

    Args:
        digests: The keys' digests, uint8, shape (N, 16).

    Returns:
        Indices, uint32, shape (N,).
    """
    words = digests.view("<u8")
    return np.lexsort((words[:, 1], _mix(words[:, 0]))).astype(np.uint32)


def choose_allowance(overheads: Sequence[int]) -> int:
    """Return the bytes to allow a sample beside its files, from what some samples take.

    It is a tenth above their mean, so that few segments need a second chunk, in steps, so that a label more
    or less does not cut the whole dataset anew.
    """
    mean = sum(overheads) / len(overheads)
    return -(-int(1.1 * mean) // _ALLOWANCE_STEP) * _ALLOWANCE_STEP


def cut(
    sizes: npt.NDArray[np.uint64], *, chunk_bytes: int, max_samples: int = MAX_CHUNK_SAMPLES
) -> list[range]:
    """Return the segments of a sequence of samples: as many in each as fit, at least one.

    Args:
        sizes: Bytes that each sample is expected to take, in written order, uint64, shape (N,).
        chunk_bytes: What a segment's samples take together at most.
        max_samples: How many samples a segment has at most.
    """
    ends = np.cumsum(sizes, dtype=np.uint64)
    segments: list[range] = []
    start, before = 0, 0
    while start < len(sizes):
        fit = int(np.searchsorted(ends, np.uint64(before + chunk_bytes), side="right"))
        stop = min(max(fit, start + 1), start + max_samples)
        segments.append(range(start, stop))
        start, before = stop, int(ends[stop - 1])
    return segments


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the words mixed with the seed: SplitMix64's finalizer (Steele, Lea, Flood 2014), a bijection."""
    mixed: npt.NDArray[np.uint64] = words ^ np.uint64(SEED)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
