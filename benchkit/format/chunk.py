"""The chunk writer: samples in, a deterministic tar out, in one pass with bounded memory.

The tar is cut into frames of 4 MiB. Parts of the first are compressed as a probe: where that does not pay,
the chunk is stored as a plain tar, else every frame is compressed by itself, the index in a frame of its own.
A thread writes one frame while the next is put together.
"""

from __future__ import annotations

import io
import mmap
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import zstandard

from benchkit.format import tar
from benchkit.format.digests import checksum, digest_bytes, new_checksum, new_hasher
from benchkit.format.index import INDEX_NAME, IndexBuilder
from benchkit.format.manifest import ChunkEntry, CodecName, IndexPlace
from benchkit.format.members import Members, Rows, SourceFiles, list_members

if TYPE_CHECKING:
    from typing_extensions import Self

Codec = Literal["auto", "zstd", "none"]
CODECS: tuple[Codec, ...] = ("auto", "zstd", "none")

FRAME_BYTES = 4 << 20
ZSTD_LEVEL = 1
PROBE_RATIO = 0.9
"""Compression pays when the probe shrinks below this share of itself."""
PROBE_PARTS = (256 << 10, 1 << 20)
"""The probe is the first bytes, so many, of every so many of the first frame."""

_WHOLE_BYTES = 1 << 20
"""A member of at most this size is put into the room at once, a larger one piece by piece."""
_ROOM_BYTES = FRAME_BYTES + _WHOLE_BYTES + 4096
"""Where the tar is put together: a frame, and a member that reaches beyond it with its header."""


class Sink(Protocol):
    """Where stored bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of the bytes; they may change once it returns."""


def zstd_library() -> str:
    """Return name and version of the compression library, as the manifest records it."""
    return "zstd " + ".".join(str(part) for part in zstandard.ZSTD_VERSION)


class ChunkWriter:
    """Writes one chunk to a binary file.

    Args:
        sink: Where the stored bytes go, from its current position on; never read or sought.
        codec: `auto` decides by a probe; `zstd` and `none` do not ask.
    """

    def __init__(self, sink: Sink, *, codec: Codec = "auto") -> None:
        self._sink = sink
        self._asked = codec
        self._compressor: zstandard.ZstdCompressor | None = None
        self._decided = codec == "none"
        self._room, self._other_room = (_new_room() for _ in range(2))
        self._used = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[object] | None = None
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
        return self._tar_bytes + self._used

    def add_samples(self, rows: Rows, files: SourceFiles) -> None:
        """Add samples, whose files are the next of these."""
        members, counts = list_members(rows)
        self._add_members(members, files)
        kinds = [label.kind for label in rows.labels]
        self._index.add_samples(rows.keys, rows.counts, rows.names, counts, kinds)

    def finish(self) -> ChunkEntry:
        """Write the index and the end of the tar, and return the chunk's entry for the manifest.

        Raises:
            DatasetError: The kinds of its labels are too many for an index.
        """
        samples = self._index.samples
        data = self._index.encode()
        self._put(tar.header(INDEX_NAME, len(data)))
        last = self._store(self._room[: self._used])
        tar_offset, stored_offset = self.tar_bytes, self._stored_bytes
        index = self._store(data)
        end = tar.padding(len(data)) + tar.END
        parts = (last, index, self._store(end))
        self._wait()
        self.close()
        for part in parts:
            self._sink.write(part)
        compressed = self._compressor is not None
        codec: CodecName = "zstd" if compressed else "none"
        tar_digest = self._tar_hasher.hexdigest()
        return ChunkEntry(
            stored=self._stored_hasher.hexdigest() if compressed else tar_digest,
            stored_bytes=self._stored_bytes,
            tar=tar_digest,
            tar_bytes=tar_offset + len(data) + len(end),
            codec=codec,
            level=ZSTD_LEVEL if compressed else 0,
            library=zstd_library() if compressed else "",
            samples=samples,
            dead=b"",
            index=IndexPlace(
                object=None,
                offset=stored_offset,
                length=len(index),
                tar_offset=tar_offset,
                tar_length=len(data),
                digest=digest_bytes(data),
            ),
        )

    def close(self) -> None:
        """Wait until nothing more goes to the sink; what was not finished is of no use."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _add_members(self, members: Members, files: SourceFiles) -> None:
        """Add members, as many at a time as fill a frame."""
        sizes = members.sizes
        ends = np.cumsum(tar.BLOCK + tar.padded(sizes))
        larges = [*np.flatnonzero(sizes > _WHOLE_BYTES).tolist(), len(sizes)]
        start = 0
        while start < len(sizes):
            full = FRAME_BYTES - self._used + (ends[start - 1] if start else 0)
            stop = min(int(np.searchsorted(ends, full)) + 1, larges[0])
            if start < stop:
                self._add_whole(members.take(start, stop), files)
                self._flush()
            if stop == larges[0] < len(sizes):
                self._add_large(members.take(stop, stop + 1), files)
                del larges[0]
                stop += 1
            start = stop

    def _add_whole(self, members: Members, files: SourceFiles) -> None:
        """Add members that fit into the room together."""
        room, sizes = self._room, members.sizes
        ends = self._used + np.cumsum(tar.BLOCK + tar.padded(sizes))
        starts = ends - tar.padded(sizes)
        blocks = np.frombuffer(room, dtype=np.uint8).reshape(-1, tar.BLOCK)
        blocks[starts // tar.BLOCK - 1] = tar.headers(members.names, members.suffixes, members.chosen, sizes)
        blocks[ends[sizes % tar.BLOCK > 0] // tar.BLOCK - 1] = 0  # where a member does not end with its block
        places = [
            room[start:end] for start, end in zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
        ]
        filled = list(zip(places, members.contents, strict=True))
        files.read([place for place, content in filled if content is None])
        for place, content in filled:
            if content is not None:
                place[:] = content
        self._index.add_members(starts + self._tar_bytes, sizes, [*map(checksum, places)])
        self._used = int(ends[-1])

    def _add_large(self, member: Members, files: SourceFiles) -> None:
        """Add a member that need not fit into the room, a frame at a time."""
        [size], [content] = member.sizes.tolist(), member.contents
        read_part = files.read_part if content is None else io.BytesIO(content).readinto
        self._put(tar.header(member.names.tobytes() + member.suffixes[member.chosen[0]], size))
        offset, left, hasher = self._tar_bytes + self._used, size, new_checksum()
        while left:
            piece = self._room[self._used : min(self._used + left, FRAME_BYTES)]
            read_part(piece)
            hasher.update(piece)
            self._used += len(piece)
            left -= len(piece)
            self._flush()
        self._put(tar.padding(size))
        self._flush()
        self._index.add_members([offset], [size], [hasher.intdigest()])

    def _put(self, data: bytes) -> None:
        """Put bytes into the room, which has place for them."""
        self._room[self._used : self._used + len(data)] = data
        self._used += len(data)

    def _flush(self) -> None:
        """Have a whole frame written, and go on in the other room with what is behind it."""
        if self._used >= FRAME_BYTES:
            self._wait()
            room, self._room, self._other_room = self._room, self._other_room, self._room
            self._room[: self._used - FRAME_BYTES] = room[FRAME_BYTES : self._used]
            self._used -= FRAME_BYTES
            self._tar_bytes += FRAME_BYTES
            self._writing = self._thread.submit(self._sink.write, self._store(room[:FRAME_BYTES]))

    def _wait(self) -> None:
        """Wait until the other room is free."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _store(self, frame: bytes | memoryview) -> bytes | memoryview:
        """Return what is stored of a frame of tar, compressed or not."""
        if not self._decided:
            self._decide(frame)
        self._tar_hasher.update(frame)
        stored: bytes | memoryview = frame
        if self._compressor:
            stored = self._compressor.compress(frame)
            self._stored_hasher.update(stored)
        self._stored_bytes += len(stored)
        return stored

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


def _new_room() -> memoryview:
    """Return memory in whole pages, as a sink that writes past the page cache needs it, huge ones at best."""
    room = mmap.mmap(-1, _ROOM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel may have none
            room.madvise(mmap.MADV_HUGEPAGE)  # fewer to make, to hash and to hand to the disk
    return memoryview(room)
