"""Canonical JSON: one way to write a value, and a bounded way to read one that is not trusted."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np

from benchkit.errors import FormatError

MAX_DEPTH = 64

# What a byte outside of strings does to the depth, as int8: one deeper, one back (255 is -1), or nothing.
_STEPS = bytes(1 if byte in b"[{" else 255 if byte in b"]}" else 0 for byte in range(256))
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def encode(value: Any) -> bytes:
    """Return the value as JSON in UTF-8: keys sorted, no white space, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def decode(data: bytes, *, what: object, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """Return the JSON value that the bytes hold.

    Args:
        data: UTF-8 text without NaN, infinities, repeated keys, or halves of surrogate pairs.
        what: The thing being read, for the message.
        max_bytes: The most that is taken.
        max_depth: How deep arrays and objects may be nested.

    Raises:
        FormatError: The bytes are longer, deeper, or not JSON.
    """
    if len(data) > max_bytes:
        raise FormatError(f"{what} has {len(data)} bytes; at most {max_bytes} are read")
    if _is_deeper(data, max_depth):
        raise FormatError(f"{what} is nested more than {max_depth} deep")
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if b"\\ud" in data or b"\\uD" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is no JSON: {error}") from error
    return value


def _is_deeper(data: bytes, max_depth: int) -> bool:
    """Return whether brackets are nested deeper, in time that grows with the length alone."""
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return False
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(unescaped.split(b'"')[::2])
    steps = np.frombuffer(outside.translate(_STEPS, _NO_BRACKETS), dtype=np.int8)
    return bool(steps.size and steps.cumsum(dtype=np.int64).max() > max_depth)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
