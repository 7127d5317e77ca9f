"""Sizes: the bytes that samples take in a chunk, known before it is written."""

from __future__ import annotations

from collections.abc import Sequence

from benchkit.format import tar
from benchkit.format.labels import EncodedLabel

CHUNK_OVERHEAD = 4096
"""Room in a chunk for the index's own header, the kinds of its labels, and the end of the tar."""

_MEMBER_COLUMNS = 24
_SAMPLE_COLUMNS = 20
_NAME_COLUMNS = 8


def file_bytes(size: int) -> int:
    """Return the bytes that a file of this size takes in a tar."""
    return tar.BLOCK + tar.padded(size)


def overhead_bytes(key: bytes, names: Sequence[bytes], label: EncodedLabel) -> int:
    """Return the bytes that a sample takes in a chunk beside its files: label, and row of the index."""
    _, text, arrays = label
    columns = _SAMPLE_COLUMNS + _NAME_COLUMNS * len(names) + _MEMBER_COLUMNS * (len(names) + 1 + len(arrays))
    size = file_bytes(len(text)) + columns + len(key) + len(b"".join(names))
    for data in arrays:
        size += file_bytes(len(data))
    return size
