"""The chunk writer: samples in, a deterministic tar out, in one pass with bounded memory.

The tar is cut into frames of 4 MiB. The first frame is compressed as a probe: where that does not pay, the
chunk is stored as a plain tar, else every frame is compressed by itself, the index in a frame of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import zstandard

from benchkit.format import tar
from benchkit.format.digests import digest_bytes, digest_key, new_checksum, new_hasher
from benchkit.format.index import INDEX_NAME, IndexBuilder
from benchkit.format.labels import EncodedLabel
from benchkit.format.manifest import ChunkEntry, CodecName, IndexPlace

Codec = Literal["auto", "zstd", "none"]
CODECS: tuple[Codec, ...] = ("auto", "zstd", "none")

FRAME_BYTES = 4 << 20
ZSTD_LEVEL = 3
PROBE_RATIO = 0.9
"""Compression pays when a frame shrinks below this share of itself."""


@dataclass(frozen=True, slots=True)
class SourceFile:
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
        self._decided = False
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
        self._buffer += tar.header(name, size)
        offset = self.tar_bytes
        hasher, taken = new_checksum(), 0
        for block in blocks:
            hasher.update(block)
            taken += len(block)
            self._buffer += block
            if len(self._buffer) >= FRAME_BYTES:
                self._flush(len(self._buffer) - len(self._buffer) % FRAME_BYTES)
        if taken != size:
            raise ValueError(f"a file of {size} bytes gave {taken}")
        self._buffer += tar.padding(size)
        self._index.add_member(offset, size, hasher.intdigest())

    def _flush(self, count: int) -> None:
        """Send the first `count` bytes of the buffer on, frame by frame."""
        with memoryview(self._buffer) as view:
            for start in range(0, count, FRAME_BYTES):
                self._emit(view[start : min(start + FRAME_BYTES, count)])
        del self._buffer[:count]

    def _emit(self, frame: bytes | memoryview) -> None:
        """Send one frame of tar on, compressed or not."""
        self._tar_hasher.update(frame)
        self._tar_bytes += len(frame)
        stored: bytes | memoryview = self._compressor.compress(frame) if self._compressor else frame
        if not self._decided:
            stored = self._decide(frame)
        if self._compressor:
            self._stored_hasher.update(stored)
        self._stored_bytes += len(stored)
        self._sink.write(stored)

    def _decide(self, frame: bytes | memoryview) -> bytes | memoryview:
        """Choose the codec by the first frame, and return that frame as it is stored."""
        self._decided = True
        if self._asked == "none":
            return frame
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)
        stored = compressor.compress(frame)
        if self._asked == "auto" and len(stored) >= PROBE_RATIO * len(frame):
            return frame
        self._compressor = compressor
        return stored
