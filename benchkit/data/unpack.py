"""Unpacking: stored bytes become a chunk's plain tar, checked in one pass with bounded memory.

Nothing from a store is trusted: the stored bytes are cut off behind the size that the manifest gives,
decompression stops at the manifest's size, and both digests are compared before the tar counts as whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, cast

import zstandard

from benchkit.format.digests import new_hasher
from benchkit.format.manifest import ChunkEntry
from benchkit.store.base import BLOCK_BYTES

MAX_WINDOW_BYTES = 128 << 20
"""What a frame may ask the decompressor to remember: the most that `zstd` itself accepts unasked."""
_WRITE_BYTES = 256 << 10
"""Written at once. More at once gets larger pieces of free memory, which a virtual machine often has to ask
its host for (1 MiB at once took up to ten times as long there); less at once is slower to read again."""


def unpack_chunk(blocks: Iterator[bytes], chunk: ChunkEntry, fd: int) -> str | None:
    """Write a chunk's plain tar to an open file, from offset 0 on.

    Args:
        blocks: The stored bytes, as they come.
        chunk: What the manifest says of them.
        fd: A file opened for writing; at most `chunk.tar_bytes` bytes are written.

    Returns:
        What is wrong with the bytes, so that the file is of no use; None when all is right.
    """
    stored = _StoredBytes(blocks, limit=chunk.stored_bytes)
    compressed = chunk.codec == "zstd"
    tar_hasher, written, fault = new_hasher(), 0, None
    try:
        for piece in _decompress(stored) if compressed else stored:
            if written + len(piece) > chunk.tar_bytes:
                fault = f"it unpacks to more than the {chunk.tar_bytes} bytes of the manifest"
                break
            if compressed:
                tar_hasher.update(piece)
            _write(fd, piece, written)
            written += len(piece)
    except zstandard.ZstdError as error:
        fault = f"it does not unpack: {error}"
    # What the stored bytes are says more than what became of them: the rest is read where unpacking failed.
    if stored_fault := stored.drain_and_check(chunk.stored):
        return stored_fault
    if fault is None and written != chunk.tar_bytes:
        fault = f"it unpacks to {written} bytes, expected {chunk.tar_bytes}"
    tar_digest = tar_hasher.hexdigest() if compressed else chunk.stored
    return fault or _compare("the plain tar's digest", chunk.tar, tar_digest)


def _compare(noun: str, expected: str, got: str) -> str | None:
    return None if got == expected else f"{noun}: expected {expected[:12]}…, got {got[:12]}…"


def _decompress(stored: _StoredBytes) -> Iterator[memoryview]:
    """Yield the plain bytes of a row of frames; each view is good until the next one."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    buffer = bytearray(BLOCK_BYTES)
    source = cast("IO[bytes]", stored)  # only `read` is asked of it
    reader = decompressor.stream_reader(source, read_size=BLOCK_BYTES, read_across_frames=True, closefd=False)
    with memoryview(buffer) as view, reader:
        while count := reader.readinto(buffer):
            yield view[:count]


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Return bytes of an open file, fewer only where it ends; Linux gives no more than 2 GiB at once."""
    data = os.pread(fd, length, offset)
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data


def _write(fd: int, data: bytes | memoryview, offset: int) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done : done + _WRITE_BYTES], offset + done)


class _StoredBytes:
    """The stored bytes on their way in: counted, digested, and cut off behind the size they should have."""

    def __init__(self, blocks: Iterator[bytes], *, limit: int) -> None:
        self._blocks = blocks
        self._limit = limit
        self._count = 0
        self._hasher = new_hasher()
        self._rest = memoryview(b"")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block = b""
        while not block:
            block = next(self._blocks)
        self._count += len(block)
        if self._count > self._limit:
            raise StopIteration
        self._hasher.update(block)
        return block

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end: what a decompressor asks of a file."""
        if not self._rest:
            self._rest = memoryview(next(self, b""))
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def drain_and_check(self, digest: str) -> str | None:
        """Take what is left, and return how the bytes differ from those of this digest, or None."""
        for _ in self:
            pass
        if self._count != self._limit:
            got = "more" if self._count > self._limit else str(self._count)
            return f"stored bytes: expected {self._limit}, got {got}"
        return _compare("the stored digest", digest, self._hasher.hexdigest())
