"""The digests: BLAKE3 for whole objects and names, XXH3 for members."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import BinaryIO, Protocol

import blake3
import xxhash

_BLOCK_BYTES = 1 << 20
DIGEST_CHARACTERS = 64
NAME_CHARACTERS = 32


class Hasher(Protocol):
    """An object that digests bytes as they come."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far, in hexadecimal."""


def new_hasher() -> Hasher:
    """Return a BLAKE3 hasher: 32 bytes, about 5 GB/s a core."""
    return blake3.blake3()


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the BLAKE3 digest of the bytes as 64 lower-case hexadecimal digits."""
    return blake3.blake3(data).hexdigest()


def digest_blocks(blocks: Iterable[bytes]) -> str:
    """Return the digest, as `digest_bytes` does, of bytes that come in blocks."""
    hasher = new_hasher()
    for block in blocks:
        hasher.update(block)
    return hasher.hexdigest()


def digest_file(file: BinaryIO) -> str:
    """Return the digest, as `digest_bytes` does, of what an open file still has to read."""
    return digest_blocks(iter(partial(file.read, _BLOCK_BYTES), b""))


def digest_key(key: bytes) -> bytes:
    """Return 16 bytes of BLAKE3 of a sample's key; in hexadecimal, the sample's name in a chunk."""
    return blake3.blake3(key).digest(length=16)


checksum: Callable[[bytes | bytearray | memoryview], int] = xxhash.xxh3_64_intdigest
"""Return the XXH3 checksum of a member's bytes: 64 bits, seed 0."""


def new_checksum() -> xxhash.xxh3_64:
    """Return a hasher whose `intdigest()` is the checksum of the bytes given to it."""
    return xxhash.xxh3_64()


def is_digest(text: str) -> bool:
    """Return whether the text is a BLAKE3 digest as this project writes it."""
    return len(text) == DIGEST_CHARACTERS and all(character in "0123456789abcdef" for character in text)
