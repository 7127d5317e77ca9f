"""The shuffle: the order in which samples are written, a pure function of their keys.

Neighbours in a chunk are unrelated, whatever the order of the indices: a dataset that is sorted by class, or
listed in another order on another machine, is written the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SEED = 0x9E3779B97F4A7C15
"""Makes the written order another one than that of the digests themselves."""


def shuffle(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the samples in written order: sorted by a mix of key digest and a fixed seed.

    Samples of one digest stand together, in ascending order.

    Args:
        digests: The keys' digests, uint8, shape (N, 16).

    Returns:
        Indices, uint32, shape (N,).
    """
    words = digests.view("<u8")
    return np.lexsort((words[:, 1], _mix(words[:, 0]))).astype(np.uint32)


def search(
    digests: npt.NDArray[np.uint8], order: npt.NDArray[np.uint32], wanted: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """Return where in the written order samples of these digests stand.

    It is a binary search for all of them at once, which needs no copy of the digests.

    Args:
        digests: The samples' key digests, each once, uint8, shape (N, 16).
        order: What `shuffle` made of them, uint32, shape (N,).
        wanted: Key digests, uint8, shape (n, 16).

    Returns:
        Positions in the order, -1 where there is no such sample, int64, shape (n,).
    """
    words, others = digests.view("<u8"), wanted.view("<u8")
    high, low = _mix(others[:, 0]), others[:, 1]
    first, end = np.zeros(len(wanted), dtype=np.int64), np.full(len(wanted), len(order), dtype=np.int64)
    for _ in range(len(order).bit_length()):
        middle = (first + end) // 2
        found = words[order[np.minimum(middle, len(order) - 1)]]
        mixed = _mix(found[:, 0])
        before = (first < end) & ((mixed < high) | ((mixed == high) & (found[:, 1] < low)))
        first, end = np.where(before, middle + 1, first), np.where(before, end, middle)
    there = np.minimum(first, len(order) - 1)
    return np.where((digests[order[there]] == wanted).all(axis=1), there, -1)


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the words mixed with the seed: SplitMix64's finalizer (Steele, Lea, Flood 2014), a bijection."""
    mixed: npt.NDArray[np.uint64] = words ^ np.uint64(SEED)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
