"""Named arrays as safetensors bytes, byte for byte the same whatever library version is installed.

The layout is the safetensors format (8 bytes of header length, a JSON header, the arrays' data). It is
written here because its key order and padding are part of a chunk's digest, and no library promises those.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import FormatError
from benchkit.format import canonical

MAX_HEADER_BYTES = 64 << 20
METADATA_KEY = "benchkit"
_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("<u1"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def encode_table(arrays: dict[str, npt.NDArray[Any]], metadata: Any) -> bytes:
    """Return the arrays and one metadata entry, canonical JSON, as safetensors bytes.

    Args:
        arrays: Contiguous little-endian arrays of uint8, uint32 or uint64. Larger items come first in the
            data, names ascending among equals, so that every array is aligned.
        metadata: A JSON value.
    """
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: canonical.encode(metadata).decode()}}
    blocks: list[bytes] = []
    offset = 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        block = arrays[name].tobytes()
        header[name] = {
            "dtype": _NAMES[arrays[name].dtype],
            "shape": list(arrays[name].shape),
            "data_offsets": [offset, offset + len(block)],
        }
        offset += len(block)
        blocks.append(block)
    text = canonical.encode(header)
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *blocks])


def decode_table(data: bytes, *, what: str) -> tuple[dict[str, npt.NDArray[Any]], Any]:
    """Return read-only arrays over the bytes, and the metadata value.

    Raises:
        FormatError: The bytes are no safetensors file of the form that `encode_table` writes.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise FormatError(f"{what} is no safetensors file: its header has {length} bytes of {len(data)}")
    header = canonical.decode(data[8 : 8 + length], what=f"the header of {what}", max_bytes=MAX_HEADER_BYTES)
    try:
        metadata_text = header.pop("__metadata__")[METADATA_KEY].encode()
        body = memoryview(data)[8 + length :]
        arrays = {name: _array(body, entry) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{what} is no table of this project: {error!r}") from error
    return arrays, canonical.decode(metadata_text, what=f"the metadata of {what}", max_bytes=MAX_HEADER_BYTES)


def _array(body: memoryview, entry: Any) -> npt.NDArray[Any]:
    start, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    if not 0 <= start <= end <= len(body) or any(size < 0 for size in shape):
        raise ValueError(f"an array stands at {start}..{end} of {len(body)} bytes")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"an array of shape {shape} has {end - start} bytes")
    values: npt.NDArray[Any] = np.frombuffer(body[start:end], dtype=dtype)
    return values.reshape(shape)
