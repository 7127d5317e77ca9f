"""Packed chunks where they stand: their indices, read by range from staging or the remote store."""

from __future__ import annotations

from contextlib import suppress

import zstandard

from benchkit.errors import FormatError, ObjectNotFoundError, StoreError
from benchkit.format.digests import digest_bytes
from benchkit.format.index import ChunkIndex, decode_index
from benchkit.format.layout import chunk_name
from benchkit.format.manifest import ChunkEntry
from benchkit.store.base import Store

_READINGS = 2
"""Bytes that turn out wrong may be right in the store."""


def find_index(staging: Store, remote: Store | None, dataset: str, chunk: ChunkEntry) -> ChunkIndex | None:
    """Return the index of a chunk that packing wrote; None where neither store has the chunk whole.

    A chunk of the right size whose index has its digest counts as whole: uploading checks every byte. What
    staging has of a chunk that is whole in the remote alone is removed, or it would be taken for the chunk.

    Raises:
        StoreError: The remote failed; it is not known what it has.
    """
    try:
        index = _read_index(staging, dataset, chunk)
    except StoreError:
        index = None  # what staging cannot read is written again, which says what is wrong with it
    if index is None and remote:
        try:
            index = _read_index(remote, dataset, chunk)
        except ObjectNotFoundError:
            return None  # removed since it was looked at
        name = chunk_name(dataset, chunk.stored, chunk.codec)
        if index is not None and staging.stat(name):
            staging.delete(name)
    return index


def _read_index(store: Store, dataset: str, chunk: ChunkEntry) -> ChunkIndex | None:
    name, place = chunk_name(dataset, chunk.stored, chunk.codec), chunk.index
    info = store.stat(name)
    if info is None or info.size != chunk.stored_bytes or place.object is not None:
        return None
    for _ in range(_READINGS):
        data = _unpack(store.read(name, start=place.offset, length=place.length), chunk)
        if digest_bytes(data) == place.digest:
            with suppress(FormatError):
                return decode_index(data, tar_bytes=chunk.tar_bytes, samples=chunk.samples, what=name)
    return None


def _unpack(data: bytes, chunk: ChunkEntry) -> bytes:
    """Return the plain bytes of an index; none where they are not what the manifest says."""
    if chunk.codec == "none":
        return data
    with suppress(zstandard.ZstdError, MemoryError):
        # Decompression takes what a frame says of its size for granted.
        if zstandard.frame_content_size(data) == chunk.index.tar_length:
            return zstandard.ZstdDecompressor().decompress(data)
    return b""
