"""The walk: every sample's key and file sizes, found without reading a file, in 32 bytes a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchkit.data.samples import Samples
from benchkit.data.shuffle import shuffle
from benchkit.data.sizes import file_bytes, sum_each
from benchkit.data.sources import source_names, stat_sources
from benchkit.errors import SampleError
from benchkit.format.digests import digest_key

RANGE_SAMPLES = 2048
"""How many samples one task of the walk looks at."""

_NAMED_TOGETHER = 128
"""How many samples' file names are made at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkedRange:
    """What a walk over some samples in a row found.

    Attributes:
        start: The first sample.
        digests: The keys' digests, 16 bytes each, one after the other.
        sizes: Bytes that each sample's files take in a tar, uint64, shape (n,).
        source_bytes: The sizes of all files together.
    """

    start: int
    digests: bytes
    sizes: npt.NDArray[np.uint64]
    source_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What the walk over all N samples found.

    Attributes:
        digests: The keys' digests, uint8, shape (N, 16).
        sizes: Bytes that each sample's files take in a tar, uint64, shape (N,).
        repeats: How many samples before have the same default key, uint32, shape (N,).
        order: The samples in the order in which they are written, uint32, shape (N,).
        source_bytes: The sizes of all files together.
    """

    digests: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.uint64]
    repeats: npt.NDArray[np.uint32]
    order: npt.NDArray[np.uint32]
    source_bytes: int

    def describe(self, indices: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], ...]:
        """Return what `Samples.walked` is told of samples: their indices, repeats and checks, each (n,)."""
        return indices, self.repeats[indices], self.digests.view("<u4")[indices, 0]


def split_walk(count: int) -> Iterator[range]:
    """Yield the samples 0 to count - 1 in ranges, a task each."""
    for start in range(0, count, RANGE_SAMPLES):
        yield range(start, min(start + RANGE_SAMPLES, count))


def walk_range(samples: Samples, indices: range) -> WalkedRange:
    """Look at some samples in a row.

    Raises:
        SampleError: A sample cannot be packed: a file is missing, or a method of the dataset fails.
    """
    paths = samples.paths(indices)
    digests = b"".join(map(digest_key, samples.keys(indices, paths)))
    for start in range(0, len(paths), _NAMED_TOGETHER):
        part = slice(start, start + _NAMED_TOGETHER)
        source_names(indices[part], paths[part])
    found = np.array([status.st_size for status in stat_sources(indices, paths)], dtype=np.int64)
    sizes = sum_each([*map(len, paths)], file_bytes(found)).astype(np.uint64)
    return WalkedRange(start=indices.start, digests=digests, sizes=sizes, source_bytes=int(found.sum()))


class WalkBuilder:
    """A walk in the making: ranges come in any order."""

    def __init__(self, count: int) -> None:
        self._digests = np.zeros((count, 16), dtype=np.uint8)
        self._sizes = np.zeros(count, dtype=np.uint64)
        self._source_bytes = 0

    def add(self, found: WalkedRange) -> None:
        """Add what was found in one range."""
        rows = slice(found.start, found.start + len(found.sizes))
        self._digests[rows] = np.frombuffer(found.digests, dtype=np.uint8).reshape(-1, 16)
        self._sizes[rows] = found.sizes
        self._source_bytes += found.source_bytes

    def finish(self, samples: Samples) -> Walk:
        """Return the walk, all keys told apart.

        Raises:
            SampleError: Two samples have the same key and the dataset has a `get_key` of its own, or a
                numbered repeat of a default key is the key of yet another sample.
        """
        repeats = np.zeros(len(self._sizes), dtype=np.uint32)
        order = shuffle(self._digests)
        repeated = _find_repeats(self._digests, order)
        if len(repeated):
            if samples.own_keys:
                raise _clash(samples, repeats, repeated[0])
            _number_repeats(samples, self._digests, repeats, repeated)
            order = shuffle(self._digests)
            repeated = _find_repeats(self._digests, order)
            if len(repeated):
                raise _clash(samples, repeats, repeated[0])
        return Walk(
            digests=self._digests,
            sizes=self._sizes,
            repeats=repeats,
            order=order,
            source_bytes=self._source_bytes,
        )


def _find_repeats(digests: npt.NDArray[np.uint8], order: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return each sample that has the key of another before it, with that other: (sample before, sample).

    The rows are in the order of the digests; the samples of one key stand together in ascending order.
    """
    words = digests.view(np.uint64)
    low, high = words[order, 0], words[order, 1]
    same = np.flatnonzero((low[1:] == low[:-1]) & (high[1:] == high[:-1]))
    return np.stack([order[same], order[same + 1]], axis=1)


def _number_repeats(
    samples: Samples,
    digests: npt.NDArray[np.uint8],
    repeats: npt.NDArray[np.uint32],
    repeated: npt.NDArray[np.uint32],
) -> None:
    """Give every repeat its number, and the digest of its key with that number."""
    for before, index in repeated.tolist():
        number = int(repeats[before]) + 1
        repeats[index] = number
        [key] = samples.keys([index], samples.paths([index]), [number])
        digests[index] = np.frombuffer(digest_key(key), dtype=np.uint8)


def _clash(samples: Samples, repeats: npt.NDArray[np.uint32], pair: npt.NDArray[np.uint32]) -> SampleError:
    first, second = sorted(pair.tolist())
    [key] = samples.keys([first], samples.paths([first]), [int(repeats[first])])
    text = key.decode("utf-8", "replace")
    advice = (
        "get_key must give every sample a key of its own"
        if samples.own_keys
        else "give the dataset a get_key that tells them apart"
    )
    return SampleError(f"samples {first} and {second} have the same key {text!r:.200}: {advice}")
