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


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the words mixed with the seed: SplitMix64's finalizer (Steele, Lea, Flood 2014), a bijection."""
    mixed: npt.NDArray[np.uint64] = words ^ np.uint64(SEED)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
