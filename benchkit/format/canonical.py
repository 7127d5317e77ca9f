"""Canonical JSON: one way to write a value, and a bounded way to read one that is not trusted."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from benchkit.errors import FormatError

MAX_DEPTH = 64

# Brackets outside of strings: a string is one token, so what stands in it does not count.
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def encode(value: Any) -> bytes:
    """Return the value as JSON in UTF-8: keys sorted, no white space, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def decode(data: bytes, *, what: str, max_bytes: int) -> Any:
    """Return the JSON value that the bytes hold.

    Args:
        data: UTF-8 text, nested at most 64 deep, without NaN, infinities or repeated keys.
        what: The thing being read, for the message.
        max_bytes: The most that is taken.

    Raises:
        FormatError: The bytes are longer, deeper, or not JSON.
    """
    if len(data) > max_bytes:
        raise FormatError(f"{what} has {len(data)} bytes; at most {max_bytes} are read")
    _check_depth(data, what)
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is no JSON: {error}") from error


def _check_depth(data: bytes, what: str) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(data):
        token = match[0]
        depth += (token in (b"[", b"{")) - (token in (b"]", b"}"))
        if depth > MAX_DEPTH:
            raise FormatError(f"{what} is nested more than {MAX_DEPTH} deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
