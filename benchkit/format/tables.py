"""Named arrays as safetensors bytes, byte for byte the same whatever library version is installed.

The layout is the safetensors format (8 bytes of header length, a JSON header, the arrays' data). It is
written here because its key order and padding are part of a chunk's digest, and no library promises those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import FormatError
from benchkit.format import canonical

MAX_HEADER_BYTES = 64 << 20
METADATA_KEY = "benchkit"
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("<u1"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode_table(arrays: Mapping[str, npt.NDArray[Any]], metadata: Any) -> bytes:
    """Return the arrays and one metadata entry, canonical JSON, as safetensors bytes.

    Args:
        arrays: One-dimensional little-endian arrays of uint8, uint32 or uint64. Larger items come first in
            the data, names ascending among equals, so that every array is aligned.
        metadata: A JSON value.

    Raises:
        ValueError: The header is longer than a reader takes.
    """
    entries = _lay_out({name: (_NAMES[array.dtype], len(array)) for name, array in arrays.items()})
    header = {"__metadata__": {METADATA_KEY: canonical.encode(metadata).decode()}, **entries}
    text = canonical.encode(header)
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(text)} bytes; at most {MAX_HEADER_BYTES} are read")
    return b"".join([len(text).to_bytes(8, "little"), text, *(arrays[name].tobytes() for name in entries)])


def decode_table(data: bytes, *, what: str, max_depth: int) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    """Return read-only arrays over the bytes, and the metadata value, nested at most `max_depth` deep.

    Raises:
        FormatError: The bytes are no safetensors file of the form that `encode_table` writes.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise FormatError(f"{what} is no safetensors file: its header has {length} bytes of {len(data)}")
    header = canonical.decode(data[8 : 8 + length], what=f"the header of {what}", max_bytes=MAX_HEADER_BYTES)
    try:
        ((key, text),) = header.pop("__metadata__").items()
        shapes = {name: (entry["dtype"], *entry["shape"]) for name, entry in header.items()}
        entries = _lay_out({name: (dtype, count) for name, (dtype, count) in shapes.items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{what} is no table of this project: {error!r:.100}") from error
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if key != METADATA_KEY or not isinstance(text, str) or entries != header or 8 + length + end != len(data):
        raise FormatError(f"{what} is no table of this project: its arrays stand elsewhere than they should")
    metadata = canonical.decode(
        text.encode(), what=f"the metadata of {what}", max_bytes=MAX_HEADER_BYTES, max_depth=max_depth
    )
    body = memoryview(data)[8 + length :]
    return {name: _view(body, entry) for name, entry in entries.items()}, metadata


def _lay_out(shapes: dict[str, tuple[str, int]]) -> dict[str, dict[str, Any]]:
    """Return the header's entries, in the order of the data, for arrays of these types and lengths."""
    entries = {}
    offset = 0
    for name in sorted(shapes, key=lambda name: (-_DTYPES[shapes[name][0]].itemsize, name)):
        dtype, count = shapes[name]
        if type(count) is not int or count < 0:
            raise ValueError(f"{name!r:.60} has {count!r:.60} items")
        end = offset + count * _DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": [count], "data_offsets": [offset, end]}
        offset = end
    return entries


def _view(body: memoryview, entry: dict[str, Any]) -> npt.NDArray[Any]:
    start, end = entry["data_offsets"]
    return np.frombuffer(body[start:end], dtype=_DTYPES[entry["dtype"]])
