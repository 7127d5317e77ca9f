"""Rows of a chunk, read as a loader reads them."""

from __future__ import annotations

from collections.abc import Sequence

from benchkit.format.index import ChunkIndex
from benchkit.format.pairs import open_samples
from benchkit.format.sample import ReadRange, Sample


def read_rows(index: ChunkIndex, rows: Sequence[int], read: ReadRange, *, what: str) -> list[Sample]:
    """Return the samples of these rows; messages call them by their keys."""
    return open_samples(index, read, what=what, name=index.name).read(rows)
