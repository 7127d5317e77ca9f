"""The chunk writer: samples in, a deterministic tar out, in one pass with bounded memory.

The tar is cut into frames of 4 MiB. Parts of the first are compressed as a probe: where that does not pay,
the chunk is stored as a plain tar, else every frame is compressed by itself, the index in a frame of its own.
A thread writes one frame while the next is put together.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import zstandard

from benchkit.format import tar
from benchkit.format.digests import checksum, digest_bytes, digest_key, new_checksum, new_hasher
from benchkit.format.index import INDEX_NAME, IndexBuilder
from benchkit.format.labels import EncodedLabel
from benchkit.format.manifest import ChunkEntry, CodecName, IndexPlace

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


class SourceFile(Protocol):
    """A file on its way into a chunk."""

    @property
    def name(self) -> bytes:
        """Its original base name."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer with its next bytes, and return how many those are."""


def file_extension(name: bytes) -> bytes:
    """Return the extension of a file's member: the last suffix in lower case if it is plain, else `bin`."""
    stem, _, suffix = name.rpartition(b".")
    plain = stem and len(suffix) <= 16 and suffix.isalnum()
    return suffix.lower() if plain else b"bin"


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
        # Memory in whole pages, as a sink that writes past the page cache needs it.
        self._room, self._other_room = (_new_room() for _ in range(2))
        self._used = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[object] | None = None
        # Members in the room whose headers are still to be written: whose, which suffix, where, how long, for
        # each; samples and suffixes by their numbers.
        self._members: list[int] = []
        self._digests: list[bytes] = []
        self._suffixes: dict[bytes, int] = {}
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

    def add_sample(
        self, key: bytes, files: Sequence[SourceFile], label: EncodedLabel, *, digest: bytes | None = None
    ) -> None:
        """Add one sample.

        Args:
            key: UTF-8 (undecodable file names as they are on disk).
            files: Its files, in the order `get_file` gave them.
            label: What `encode_label` made of its label.
            digest: What `digest_key` makes of the key, if that is known.

        Raises:
            ValueError: A file gives fewer bytes than its size; the chunk is of no use any more.
        """
        self._digests.append(digest or digest_key(key))
        names = []
        for number, file in enumerate(files):
            name = file.name
            names.append(name)
            self._add_member(b".%d.%s" % (number, file_extension(name)), file.size, file.readinto)
        kind, text, arrays = label
        self._add_data(b".cls" if kind == "cls" else b".json", text)
        for number, data in enumerate(arrays):
            self._add_data(b".label.%d.npy" % number, data)
        self._index.add_sample(key, names, len(names) + 1 + len(arrays), kind)
        if self._used >= FRAME_BYTES:
            self._flush()

    def finish(self) -> ChunkEntry:
        """Write the index and the end of the tar, and return the chunk's entry for the manifest.

        Raises:
            DatasetError: The kinds of its labels are too many for an index.
        """
        self._seal()
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

    def _add_member(self, suffix: bytes, size: int, readinto: Callable[[memoryview], int]) -> None:
        """Read a member into its place; its header is made together with those of others, by `_seal`."""
        if size > _WHOLE_BYTES:
            self._add_large(suffix, size, readinto)
        elif readinto(self._take_place(suffix, size)) != size:
            raise _too_short(size)

    def _add_data(self, suffix: bytes, data: bytes) -> None:
        """Add a member of these bytes."""
        if len(data) > _WHOLE_BYTES:
            self._add_large(suffix, len(data), io.BytesIO(data).readinto)
        else:
            self._take_place(suffix, len(data))[:] = data

    def _take_place(self, suffix: bytes, size: int) -> memoryview:
        """Return where a member goes that fits into the room."""
        if self._used + size > FRAME_BYTES + _WHOLE_BYTES:
            self._flush()
        start = self._used + tar.BLOCK
        end = start + size
        self._used = end
        self._put(tar.padding(size))
        chosen = self._suffixes.setdefault(suffix, len(self._suffixes))
        self._members += (len(self._digests) - 1, chosen, start, size)
        return self._room[start:end]

    def _add_large(self, suffix: bytes, size: int, readinto: Callable[[memoryview], int]) -> None:
        """Add a member that need not fit into the room, a frame at a time."""
        self._flush()
        self._put(tar.header(self._digests[-1].hex().encode() + suffix, size))
        offset, left, hasher = self._tar_bytes + self._used, size, new_checksum()
        while left:
            piece = self._room[self._used : min(self._used + left, FRAME_BYTES)]
            if readinto(piece) != len(piece):
                raise _too_short(size)
            hasher.update(piece)
            self._used += len(piece)
            left -= len(piece)
            self._flush()
        self._put(tar.padding(size))
        self._index.add_members(*(np.array([n], np.uint64) for n in (offset, size, hasher.intdigest())))

    def _put(self, data: bytes) -> None:
        """Put bytes into the room, which has place for them."""
        self._room[self._used : self._used + len(data)] = data
        self._used += len(data)

    def _seal(self) -> None:
        """Write the headers of the members that are in the room, and their rows of the index."""
        if self._members:
            owners, chosen, starts, sizes = np.array(self._members, dtype=np.uint64).reshape(-1, 4).T
            names = np.frombuffer(b"".join(self._digests).hex().encode(), dtype=np.uint8)
            names = names.reshape(len(self._digests), -1)[owners]
            blocks = np.frombuffer(self._room, dtype=np.uint8).reshape(-1, tar.BLOCK)
            blocks[starts // tar.BLOCK - 1] = tar.headers(names, list(self._suffixes), chosen, sizes)
            room, places = self._room, zip(self._members[2::4], self._members[3::4], strict=True)
            checksums = np.array([checksum(room[at : at + size]) for at, size in places], dtype=np.uint64)
            self._index.add_members(starts + np.uint64(self._tar_bytes), sizes, checksums)
            self._members.clear()
        del self._digests[:-1]  # the last sample may have more members

    def _flush(self) -> None:
        """Have a whole frame written, and go on in the other room with what is behind it."""
        self._seal()
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


def _too_short(size: int) -> ValueError:
    return ValueError(f"a file of {size} bytes gave fewer")


def _new_room() -> memoryview:
    return memoryview(mmap.mmap(-1, _ROOM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
