"""The chunk writer: samples in, a deterministic tar out, in one pass with bounded memory.

The tar is cut into frames of 4 MiB. Parts of the first are compressed as a probe: where that does not pay,
the chunk is stored as a plain tar, else every frame is compressed by itself, the index in a frame of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO, Literal, NamedTuple

import zstandard

from benchkit.format import tar
from benchkit.format.digests import checksum, digest_bytes, digest_key, new_checksum, new_hasher
from benchkit.format.index import INDEX_NAME, IndexBuilder
from benchkit.format.labels import EncodedLabel
from benchkit.format.manifest import ChunkEntry, CodecName, IndexPlace

Codec = Literal["auto", "zstd", "none"]
CODECS: tuple[Codec, ...] = ("auto", "zstd", "none")

FRAME_BYTES = 4 << 20
ZSTD_LEVEL = 1
PROBE_RATIO = 0.9
"""Compression pays when the probe shrinks below this share of itself."""
PROBE_PARTS = (256 << 10, 1 << 20)
"""The probe is the first bytes, so many, of every so many of the first frame."""

_PLAIN_BYTES = 1 << 20
"""A plain chunk is digested and written so much at a time, while it is in the processor's cache."""


class SourceFile(NamedTuple):
    """A file on its way into a chunk: original base name, size in bytes, and its bytes in blocks."""

    name: bytes
    size: int
    blocks: Iterable[bytes | memoryview]


def file_extension(name: bytes) -> bytes:
    """Return the extension of a file's member: the last suffix in lower case if it is plain, else `bin`."""
    stem, _, suffix = name.rpartition(b".")
    plain = stem and 1 <= len(suffix) <= 16 and suffix.isalnum()
    return suffix.lower() if plain else b"bin"


def sample_bytes(file_sizes: Iterable[int], label: EncodedLabel) -> int:
    """Return the bytes that a sample takes in a tar."""
    sizes = [*file_sizes, len(label.text), *(len(data) for data in label.arrays)]
    return sum(tar.BLOCK + tar.padded(size) for size in sizes)


def zstd_library() -> str:
    """Return name and version of the compression library, as the manifest records it."""
    return "zstd " + ".".join(str(part) for part in zstandard.ZSTD_VERSION)


class ChunkWriter:
    """Writes one chunk to a binary file.

    Args:
        sink: Where the stored bytes go, from its current position on; never read or sought.
        codec: `auto` decides by a probe; `zstd` and `none` do not ask.
    """

    def __init__(self, sink: BinaryIO, *, codec: Codec = "auto") -> None:
        self._sink = sink
        self._asked = codec
        self._compressor: zstandard.ZstdCompressor | None = None
        self._decided = codec == "none"
        self._unit = _PLAIN_BYTES if self._decided else FRAME_BYTES
        self._buffer = bytearray()
        self._tar_hasher = new_hasher()
        self._stored_hasher = new_hasher()
        self._tar_bytes = 0
        self._stored_bytes = 0
        self._index = IndexBuilder()

    @property
    def samples(self) -> int:
        """The number of samples so far."""
        return self._index.samples

    @property
    def tar_bytes(self) -> int:
        """The bytes of tar so far, without the index."""
        return self._tar_bytes + len(self._buffer)

    def add_sample(self, key: bytes, files: Sequence[SourceFile], label: EncodedLabel) -> None:
        """Add one sample.

        Args:
            key: UTF-8 (undecodable file names as they are on disk).
            files: Its files, in the order `get_file` gave them.
            label: What `encode_label` made of its label.

        Raises:
            ValueError: A file's blocks are not of its size together; the chunk is of no use any more.
        """
        name = digest_key(key).hex().encode()
        for number, file in enumerate(files):
            self._add_member(b"%s.%d.%s" % (name, number, file_extension(file.name)), file.size, file.blocks)
        suffix = b"cls" if label.kind == "cls" else b"json"
        self._add_member(b"%s.%s" % (name, suffix), len(label.text), (label.text,))
        for number, data in enumerate(label.arrays):
            self._add_member(b"%s.label.%d.npy" % (name, number), len(data), (data,))
        self._index.end_sample(key, [file.name for file in files], label.kind)

    def finish(self) -> ChunkEntry:
        """Write the index and the end of the tar, and return the chunk's entry for the manifest.

        Raises:
            DatasetError: The kinds of its labels are too many for an index.
        """
        samples = self._index.samples
        data = self._index.encode()
        self._buffer += tar.header(INDEX_NAME, len(data))
        self._flush(len(self._buffer))
        tar_offset, stored_offset = self._tar_bytes, self._stored_bytes
        self._emit(data)
        stored_length = self._stored_bytes - stored_offset
        self._emit(tar.padding(len(data)) + tar.END)
        compressed = self._compressor is not None
        codec: CodecName = "zstd" if compressed else "none"
        tar_digest = self._tar_hasher.hexdigest()
        return ChunkEntry(
            stored=self._stored_hasher.hexdigest() if compressed else tar_digest,
            stored_bytes=self._stored_bytes,
            tar=tar_digest,
            tar_bytes=self._tar_bytes,
            codec=codec,
            level=ZSTD_LEVEL if compressed else 0,
            library=zstd_library() if compressed else "",
            samples=samples,
            dead=b"",
            index=IndexPlace(
                object=None,
                offset=stored_offset,
                length=stored_length,
                tar_offset=tar_offset,
                tar_length=len(data),
                digest=digest_bytes(data),
            ),
        )

    def _add_member(self, name: bytes, size: int, blocks: Iterable[bytes | memoryview]) -> None:
        buffer = self._buffer
        buffer += tar.header(name, size)
        offset = self._tar_bytes + len(buffer)
        if isinstance(blocks, tuple) and len(blocks) == 1:
            (data,) = blocks
            buffer += data
            taken, digest = len(data), checksum(data)
        else:
            taken, digest = self._add_blocks(blocks)
        if taken != size:
            raise ValueError(f"a file of {size} bytes gave {taken}")
        buffer += tar.padding(size)
        self._index.add_member(offset, size, digest)
        if len(buffer) >= self._unit:
            self._flush(len(buffer) - len(buffer) % self._unit)

    def _add_blocks(self, blocks: Iterable[bytes | memoryview]) -> tuple[int, int]:
        """Add a member's data as it comes; return its size and checksum."""
        hasher, taken = new_checksum(), 0
        for block in blocks:
            hasher.update(block)
            taken += len(block)
            self._buffer += block
            if len(self._buffer) >= self._unit:
                self._flush(len(self._buffer) - len(self._buffer) % self._unit)
        return taken, hasher.intdigest()

    def _flush(self, count: int) -> None:
        """Send the first `count` bytes of the buffer on, frame by frame."""
        with memoryview(self._buffer) as view:
            for start in range(0, count, self._unit):
                self._emit(view[start : min(start + self._unit, count)])
        del self._buffer[:count]

    def _emit(self, frame: bytes | memoryview) -> None:
        """Send one frame of tar on, compressed or not."""
        if not self._decided:
            self._decide(frame)
        self._tar_hasher.update(frame)
        self._tar_bytes += len(frame)
        stored: bytes | memoryview = frame
        if self._compressor:
            stored = self._compressor.compress(frame)
            self._stored_hasher.update(stored)
        self._stored_bytes += len(stored)
        self._sink.write(stored)

    def _decide(self, frame: bytes | memoryview) -> None:
        """Choose the codec by the first frame."""
        self._decided = True
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)
        if self._asked == "auto":
            length, step = PROBE_PARTS
            parts = [frame[start : start + length] for start in range(0, len(frame), step)]
            shrunk = sum(len(compressor.compress(part)) for part in parts)
            if shrunk >= PROBE_RATIO * sum(map(len, parts)):
                return
        self._compressor = compressor
