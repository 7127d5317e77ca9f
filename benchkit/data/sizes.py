"""Sizes: the bytes that samples take in a chunk, known before it is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchkit.format import tar
from benchkit.format.labels import EncodedLabel

CHUNK_OVERHEAD = 4096
"""Room in a chunk for the index's own header, the kinds of its labels, and the end of the tar."""

_MEMBER_COLUMNS = 24
_SAMPLE_COLUMNS = 20
_NAME_COLUMNS = 8


def file_bytes(size: tar.Size) -> tar.Size:
    """Return the bytes that a file of this size takes in a tar."""
    return tar.BLOCK + tar.padded(size)


def sum_each(counts: Sequence[int], values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the sums of the first so many values, of the next so many, and so on, int64, shape (n,).

    Args:
        counts: How many each time, 0 or more, shape (n,).
        values: As many as those are together.
    """
    sums: npt.NDArray[np.int64] = np.cumsum(np.append(0, values))[np.cumsum([0, *counts])]
    return sums[1:] - sums[:-1]


def overhead_bytes(
    keys: Sequence[bytes], counts: Sequence[int], names: Sequence[bytes], labels: Sequence[EncodedLabel]
) -> npt.NDArray[np.int64]:
    """Return the bytes that samples take in a chunk beside their files: labels, and rows of the index.

    Args:
        keys: Their keys.
        counts: How many files each has.
        names: The names of all files.
        labels: Their labels.

    Returns:
        int64, shape (n,).
    """
    members = [len(label.parts) for label in labels]
    sizes = np.array([len(part) for label in labels for part in label.parts], dtype=np.int64)
    columns = _SAMPLE_COLUMNS + (_NAME_COLUMNS + _MEMBER_COLUMNS) * np.array(counts, dtype=np.int64)
    columns += _MEMBER_COLUMNS * np.array(members) + np.array([*map(len, keys)])
    columns += sum_each(counts, np.array([*map(len, names)], dtype=np.int64))
    return columns + sum_each(members, file_bytes(sizes))
