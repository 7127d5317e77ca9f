"""Arrays as `.npy` bytes, NumPy's own format, read without trusting them: no objects, never pickle."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import FormatError


def encode_array(array: npt.NDArray[Any]) -> bytes:
    """Return the array, which must hold no objects, as `.npy` bytes in C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def decode_array(data: bytes, *, what: str) -> npt.NDArray[Any]:
    """Return a new, writable array from `.npy` bytes.

    Raises:
        FormatError: The bytes are no `.npy` file, hold objects, or do not have the length their header says.
    """
    stream = io.BytesIO(data)
    try:
        array: npt.NDArray[Any] = np.lib.format.read_array(
            stream, allow_pickle=False, max_header_size=1 << 16
        )
    except (ValueError, SyntaxError, EOFError, TypeError, OSError, MemoryError) as error:
        raise FormatError(f"{what} is no array: {error}") from error
    if stream.tell() != len(data):
        raise FormatError(f"{what} is no array: {len(data) - stream.tell()} bytes follow it")
    return array
