"""Tar headers that depend on name and size alone (POSIX ustar, as in IEEE Std 1003.1-2017, pax, "ustar")."""

from __future__ import annotations

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


def padding(size: int) -> bytes:
    """Return the zeros that fill a member of this size up to whole blocks."""
    return bytes(-size % BLOCK)


def padded(size: int) -> int:
    """Return the bytes that a member's data takes in a tar."""
    return size + -size % BLOCK
