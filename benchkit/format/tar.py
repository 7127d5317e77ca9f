"""Tar headers that depend on name and size alone (POSIX ustar, as in IEEE Std 1003.1-2017, pax, "ustar")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Size = TypeVar("Size", int, npt.NDArray[np.int64])
"""Bytes of a member, or of each of many."""

BLOCK = 512
END = bytes(2 * BLOCK)
"""Two empty blocks: the end of a tar."""

_MAX_NAME_BYTES = 100
_MAX_OCTAL_SIZE = 8**11
_MODE = b"0000644\0"
_OWNER = b"0000000\0"
_TIME = b"00000000000\0"
_BLANK_CHECKSUM = b" " * 8
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32) + _OWNER + _OWNER + bytes(155 + 12)
_SIZE_FIELD = slice(124, 135)
_CHECKSUM_FIELD = slice(148, 154)
_FIXED_SUM = sum(_MODE + _OWNER + _OWNER + _TIME + _BLANK_CHECKSUM + _REST)


def header(name: bytes, size: int) -> bytes:
    """Return the 512 bytes that stand before a member: a regular file, mode 0644, owner 0, time 0.

    Args:
        name: At most 100 bytes.
        size: Bytes of the member; from 8 GiB on in GNU's base-256 form.
    """
    if len(name) > _MAX_NAME_BYTES:
        raise ValueError(f"{name!r} has {len(name)} bytes; a tar name has at most {_MAX_NAME_BYTES}")
    field = b"%011o\0" % size if size < _MAX_OCTAL_SIZE else b"\x80" + size.to_bytes(11, "big")
    total = _FIXED_SUM + sum(name) + sum(field)
    return b"".join((name.ljust(100, b"\0"), _MODE, _OWNER, _OWNER, field, _TIME, b"%06o\0 " % total, _REST))


def headers(
    names: npt.NDArray[np.uint8],
    suffixes: Sequence[bytes],
    chosen: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint8]:
    """Return what `header` does for many members, uint8, shape (n, 512).

    Args:
        names: What their names begin with, all of one length, uint8, shape (n, length).
        suffixes: What names end with.
        chosen: Which of those each member's does, int64, shape (n,).
        sizes: Bytes of the members, fewer than 8 GiB each, int64, shape (n,).
    """
    length = names.shape[1]
    blank = [header(bytes(length) + suffix, 0) for suffix in suffixes]
    templates = np.frombuffer(b"".join(blank), dtype=np.uint8).reshape(-1, BLOCK)
    found = templates[chosen]
    digits = _octal(sizes, 11)
    found[:, :length] = names
    found[:, _SIZE_FIELD] = digits
    # The sum of a template is that of its own name, and of a size of 0.
    sums = np.array([int(text[_CHECKSUM_FIELD], 8) for text in blank])[chosen]
    sums += names.sum(axis=1, dtype=np.int64) + digits.sum(axis=1, dtype=np.int64) - 11 * ord("0")
    found[:, _CHECKSUM_FIELD] = _octal(sums, 6)
    return found


def _octal(numbers: npt.NDArray[np.int64], digits: int) -> npt.NDArray[np.uint8]:
    """Return the numbers' octal digits as text, uint8, shape (n, digits)."""
    shifts = 3 * np.arange(digits - 1, -1, -1, dtype=np.int64)
    return ((numbers[:, None] >> shifts & 7) + ord("0")).astype(np.uint8)


def padding(size: int) -> bytes:
    """Return the zeros that fill a member of this size up to whole blocks."""
    return bytes(-size % BLOCK)


def padded(size: Size) -> Size:
    """Return the bytes that a member's data takes in a tar."""
    return size + -size % BLOCK
