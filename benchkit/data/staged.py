"""Staged chunks: whether those that the journal names still are what packing would write."""

from __future__ import annotations

import zstandard

from benchkit.errors import FormatError, StoreError
from benchkit.format.digests import checksum, digest_bytes
from benchkit.format.index import ChunkIndex, decode_index
from benchkit.format.labels import EncodedLabel
from benchkit.format.layout import chunk_name
from benchkit.format.manifest import ChunkEntry
from benchkit.store.base import Store


def staged_index(staging: Store, dataset: str, chunk: ChunkEntry) -> ChunkIndex | None:
    """Return the index of a chunk that packing wrote, read by range; None where the chunk is not whole.

    A chunk of the right size whose index has its digest counts as whole: uploading checks every byte.
    """
    name = chunk_name(dataset, chunk.stored, chunk.codec)
    place = chunk.index
    try:
        info = staging.stat(name)
        if info is None or info.size != chunk.stored_bytes or place.object is not None:
            return None
        data = staging.read(name, start=place.offset, length=place.length)
        if chunk.codec == "zstd":
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=place.tar_length)
        if digest_bytes(data) != place.digest:
            return None
        return decode_index(data, tar_bytes=chunk.tar_bytes, samples=chunk.samples, what=name)
    except (StoreError, FormatError, zstandard.ZstdError):
        return None


class StagedLabels:
    """The labels of a staged chunk, known by their kinds, sizes and checksums."""

    def __init__(self, index: ChunkIndex) -> None:
        files = index.sample_file[1:] - index.sample_file[:-1]
        self._first = (index.sample_member[:-1] + files).tolist()
        self._end = index.sample_member[1:].tolist()
        self._sizes = index.member_size.tolist()
        self._checksums = index.member_checksum.tolist()
        self._kinds = [index.kinds[kind] for kind in index.kind.tolist()]

    def match(self, row: int, label: EncodedLabel) -> bool:
        """Return whether the row's label is this one."""
        members = range(self._first[row], self._end[row])
        parts = (label.text, *label.arrays)
        return (
            self._kinds[row] == label.kind
            and len(members) == len(parts)
            and all(
                self._sizes[member] == len(part) and self._checksums[member] == checksum(part)
                for member, part in zip(members, parts, strict=True)
            )
        )
