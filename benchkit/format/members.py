"""The members of samples: what the tar of a chunk has of them, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from benchkit.format.labels import EncodedLabel


class SourceFiles(Protocol):
    """Files on their way into a chunk: each is read once, one after the other."""

    def read(self, places: Sequence[memoryview], /) -> None:
        """Fill each place with the whole of the next file."""

    def read_part(self, place: memoryview, /) -> None:
        """Fill the place with the next bytes of the file that is next until all of it has been read."""


class Rows(NamedTuple):
    """Samples on their way into a chunk.

    Attributes:
        keys: UTF-8 (undecodable file names as they are on disk), for each sample.
        digests: What `digest_key` makes of the keys.
        labels: What `encode_label` made of their labels.
        counts: How many files each has.
        names: The original base names of all files, those of a sample in the order `get_file` gave them.
        sizes: The sizes of all files in bytes.
    """

    keys: Sequence[bytes]
    digests: Sequence[bytes]
    labels: Sequence[EncodedLabel]
    counts: Sequence[int]
    names: Sequence[bytes]
    sizes: Sequence[int]

    def take(self, part: slice, files: slice) -> Rows:
        """Return some of them, whose files are these."""
        return Rows(
            keys=self.keys[part],
            digests=self.digests[part],
            labels=self.labels[part],
            counts=self.counts[part],
            names=self.names[files],
            sizes=self.sizes[files],
        )


class Members(NamedTuple):
    """Members of the tar, in order.

    Attributes:
        names: What their names begin with, uint8, shape (n, length).
        suffixes: What names end with.
        chosen: Which of those each member's does, int64, shape (n,).
        sizes: Their sizes in bytes, int64, shape (n,).
        contents: What they hold; None is the next file.
    """

    names: npt.NDArray[np.uint8]
    suffixes: list[bytes]
    chosen: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    contents: list[bytes | None]

    def take(self, start: int, stop: int) -> Members:
        """Return some of them."""
        part = slice(start, stop)
        return self._replace(
            names=self.names[part],
            chosen=self.chosen[part],
            sizes=self.sizes[part],
            contents=self.contents[part],
        )


def list_members(rows: Rows) -> tuple[Members, list[int]]:
    """Return all members of samples, and how many each sample has: its files, its label's text and arrays."""
    contents: list[bytes | None] = []
    for count, label in zip(rows.counts, rows.labels, strict=True):
        contents += [None] * count
        contents += label.parts
    is_file = np.array([content is None for content in contents], dtype=bool)
    sizes, chosen = np.empty((2, len(contents)), dtype=np.int64)
    sizes[is_file] = rows.sizes
    sizes[~is_file] = [len(part) for label in rows.labels for part in label.parts]
    suffixes: dict[bytes, int] = {}
    numbers = [number for count in rows.counts for number in range(count)]
    chosen[is_file] = [
        suffixes.setdefault(b".%d.%s" % (number, file_extension(name)), len(suffixes))
        for number, name in zip(numbers, rows.names, strict=True)
    ]
    chosen[~is_file] = [
        suffixes.setdefault(suffix, len(suffixes))
        for label in rows.labels
        for suffix in _label_suffixes(label.kind == "cls", len(label.parts))
    ]
    counts = [count + len(label.parts) for count, label in zip(rows.counts, rows.labels, strict=True)]
    names = np.frombuffer(b"".join(rows.digests).hex().encode(), dtype=np.uint8).reshape(len(counts), -1)
    names = np.repeat(names, counts, axis=0)
    return Members(names, list(suffixes), chosen, sizes, contents), counts


def file_extension(name: bytes) -> bytes:
    """Return the extension of a file's member: the last suffix in lower case if it is plain, else `bin`."""
    stem, _, suffix = name.rpartition(b".")
    plain = stem and len(suffix) <= 16 and suffix.isalnum()
    return suffix.lower() if plain else b"bin"


@lru_cache
def _label_suffixes(is_int: bool, parts: int) -> tuple[bytes, ...]:
    """Return what the names of the members of a label, so many, end with."""
    arrays = [b".label.%d.npy" % number for number in range(parts - 1)]
    return (b".cls" if is_int else b".json", *arrays)
