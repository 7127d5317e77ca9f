"""Arrays as `.npy` bytes, NumPy's own format, read without trusting them: no objects, never pickle.

The header is written here, because it is part of a chunk's digest and no NumPy version promises its bytes; a
reader takes only headers that this writer gives, so a hostile one is not interpreted at all.
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from benchkit.errors import FormatError

_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_HEADER_BYTES = (1 << 16) - 1
_ALIGN = 64
_GROWTH_DIGITS = 21  # NumPy leaves room for the first dimension to grow
_EXTENDED_BYTES = 10  # what an x87 long double has; its item has 12 or 16

_HEADER = re.compile(r"\{'descr': (.+), 'fortran_order': False, 'shape': (\([0-9, ]*\)), \} *\n")
_LITERAL = re.compile(
    r"(?:[\[\](), 0-9]"
    r"|'(?:[^'\\]|\\[\\'\"ntr]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})*'"
    r'|"(?:[^"\\]|\\[\\\'"ntr]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})*")+'
)
_TYPE = re.compile(r"[<>|][biufcmMSUV][0-9]+(?:\[[0-9A-Za-z]+\])?")


def encode_array(array: npt.NDArray[Any]) -> bytes:
    """Return the array as `.npy` bytes in C order; padding inside its items is zero.

    Raises:
        ValueError: Its dtype holds objects, or is not the same after it has been written and read.
    """
    header = _header(array.dtype, array.shape)
    if array.dtype.names is not None or array.dtype.type in (np.longdouble, np.clongdouble):
        clean = np.zeros(array.shape, array.dtype)
        _copy_values(array, clean)
        array = clean
    return header + array.tobytes()


def decode_array(data: bytes, *, what: object) -> npt.NDArray[Any]:
    """Return a new, writable array in C order from `.npy` bytes.

    Raises:
        FormatError: The bytes are not as `encode_array` writes them.
    """
    try:
        array = _parse(data)
    except (ValueError, TypeError, SyntaxError, IndexError, OverflowError, MemoryError) as error:
        raise FormatError(f"{what} is no array: {error}") from error
    # A few bytes can tell of any number of empty items, each of which a copy would visit.
    copy: npt.NDArray[Any] = array.copy() if array.nbytes else np.ndarray(array.shape, array.dtype)
    return copy


def _parse(data: bytes) -> npt.NDArray[Any]:
    """Return a read-only array over the bytes."""
    start = 10 + int.from_bytes(data[8:10], "little")
    dtype, shape = _parse_header(data[:start])
    size = math.prod(shape) * dtype.itemsize
    if len(data) - start != size:
        raise ValueError(f"it has {len(data) - start} bytes of items, expected {size}")
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=data, offset=start)
    return array


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return what stands before the items: format version 1.0, ASCII, a multiple of 64 bytes."""
    descr = _describe(dtype)
    text = f"{{'descr': {descr!a}, 'fortran_order': False, 'shape': {shape!r}, }}"
    if shape:
        text += " " * (_GROWTH_DIGITS - len(str(shape[0])))
    text += " " * (_ALIGN - (len(_MAGIC) + 2 + len(text) + 1) % _ALIGN) + "\n"
    if len(text) > _MAX_HEADER_BYTES:
        raise ValueError(f"the dtype has a description of {len(text)} characters: {descr!a:.60}…")
    return _MAGIC + len(text).to_bytes(2, "little") + text.encode("ascii")


def _describe(dtype: np.dtype[Any]) -> Any:
    """Return the dtype as a string, or as a list of fields, from which it comes back."""
    descr = dtype.descr if dtype.names is not None else dtype.str
    if not dtype.hasobject:
        back = np.lib.format.descr_to_dtype(_check_description(descr))
        if back == dtype and back.type is dtype.type:
            return descr
    raise ValueError(f"the dtype {dtype} cannot be told from its description {descr!a:.60}")


def _parse_header(data: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    match = _HEADER.fullmatch(data[10:].decode("ascii"))
    if not data.startswith(_MAGIC) or not match or not _LITERAL.fullmatch(match[1]):
        raise ValueError("its header is not one of .npy 1.0 in C order")
    descr = _check_description(ast.literal_eval(match[1]))
    dtype: np.dtype[Any] = np.lib.format.descr_to_dtype(descr)
    shape = tuple(int(size) for size in re.findall(r"[0-9]+", match[2]))
    if _header(dtype, shape) != data:
        raise ValueError("its header is not canonical")
    return dtype, shape


def _check_description(descr: Any) -> Any:
    """Return the description if every type in it is a plain one: NumPy knows many more spellings."""
    if not isinstance(descr, str):
        for field in descr:
            _check_description(field[1])
    elif not _TYPE.fullmatch(descr):
        raise ValueError(f"{descr!a:.60} is no type of plain items")
    return descr


def _copy_values(source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    """Copy items into zeros without the padding inside them, which holds whatever was in memory."""
    if source.dtype.names is not None:
        for name in source.dtype.names:
            _copy_values(source[name], target[name])
    elif source.dtype.type in (np.longdouble, np.clongdouble) and np.finfo(np.longdouble).nmant == 63:
        flat = np.array(source, order="C", copy=True).reshape(-1)
        item = np.dtype(np.longdouble).itemsize
        unused = slice(_EXTENDED_BYTES, item) if source.dtype.isnative else slice(item - _EXTENDED_BYTES)
        flat.view(np.uint8).reshape(-1, item)[:, unused] = 0
        target[...] = flat.reshape(source.shape)
    else:
        target[...] = source
