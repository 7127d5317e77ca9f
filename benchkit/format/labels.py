"""Labels: numeric data of any nesting as JSON and arrays, with their exact types in a small tree, the kind.

A label becomes a text (`.cls` or `.json`, what a stranger would expect), a list of arrays (`.npy`), and a
kind, which says what the text cannot: that a list was a tuple, or a number a NumPy scalar. Kinds are few; a
chunk stores each once. A kind is one of

    "cls"                        an int, alone; the text is its decimal digits
    "json"                       what JSON gives back by itself: None, bool, int, float, str, list, dict
    "float"                      a float without a JSON number: the text "NaN", "Infinity" or "-Infinity"
    "array"                      a numpy.ndarray: null in the text, the array in the next member
    "scalar"                     a NumPy scalar: null in the text, a 0-d array in the next member
    {"scalar": dtype}            a NumPy bool, integer, float up to 64 bits, or str: its value in the text
    {"tensor": dtype}            a torch.Tensor: null in the text, its values (or bits) in the next member
    {"list": K}, {"tuple": K}    K is one kind for all items, or a list of kinds, one for each
    {"dict": [[key, kind], …]}   the keys, str or int, in the dict's own order
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchkit.errors import FormatError, LabelTypeError
from benchkit.format import canonical
from benchkit.format.arrays import decode_array, encode_array
from benchkit.format.tensors import TENSOR_DTYPES, array_dtype, array_to_tensor, is_tensor, tensor_to_array

MAX_TEXT_BYTES = 1 << 30
_STORABLE = (
    "int, float, bool, str, None, NumPy scalars and arrays, torch tensors, lists, tuples and dicts of these"
)
_TEXT_SCALARS = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "float32", "float64", "str"}
)
_SCALAR_TYPES = frozenset(np.sctypeDict.values()) - {np.object_}
_SIMPLE_KINDS = ("json", "float", "array", "scalar")
_FLOAT_TEXTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class EncodedLabel:
    """A label as a chunk holds it: kind, text of `.cls` or `.json` member, `.npy` members in order."""

    kind: Any
    text: bytes
    arrays: list[bytes]


def encode_label(label: object) -> EncodedLabel:
    """Return the label as members and kind; `decode_label` gives back the same value, type for type.

    Raises:
        LabelTypeError: A value in it is of a type that is not stored; the message says where and which.
    """
    arrays: list[bytes] = []
    try:
        if type(label) is int:
            return EncodedLabel("cls", b"%d" % label, [])
        value, kind = _encode(label, arrays, "label", 1)
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise LabelTypeError(f"the label holds a str that is not Unicode text: {error}") from error
    except ValueError as error:
        if isinstance(error, LabelTypeError):
            raise
        raise LabelTypeError(f"the label holds a number that is too long to be stored: {error}") from error
    return EncodedLabel(kind, text, arrays)


def decode_label(kind: Any, text: bytes, next_array: Callable[[], bytes], *, what: str) -> Any:
    """Return the label.

    Args:
        kind: The tree that `encode_label` gave, checked by `check_kind`.
        text: Contents of the `.cls` or `.json` member.
        next_array: Returns the bytes of the sample's next `.npy` member.
        what: The sample, for messages.

    Raises:
        FormatError: Text, arrays and kind do not fit each other.
    """
    if kind == "cls":
        try:
            return int(text)
        except ValueError as error:
            raise FormatError(f"the label of {what} is no integer: {error}") from error
    value = canonical.decode(text, what=f"the label of {what}", max_bytes=MAX_TEXT_BYTES)
    return value if kind == "json" else _decode(value, kind, next_array, what)


def check_kind(kind: Any, *, what: str, depth: int = 1) -> None:
    """Raise `FormatError` unless the value, which is not trusted, is a kind as described at the top."""
    if depth > canonical.MAX_DEPTH:
        raise FormatError(f"a kind in {what} is nested more than {canonical.MAX_DEPTH} deep")
    if isinstance(kind, str) and (kind in _SIMPLE_KINDS or (kind == "cls" and depth == 1)):
        return
    name, inner = next(iter(kind.items())) if isinstance(kind, dict) and len(kind) == 1 else ("", None)
    if isinstance(inner, str) and inner in {"scalar": _TEXT_SCALARS, "tensor": TENSOR_DTYPES}.get(name, ()):
        return
    children = None
    if name in ("list", "tuple"):
        children = inner if isinstance(inner, list) else [inner]
    elif name == "dict" and isinstance(inner, list):
        children = [pair[1] for pair in inner if _is_key_pair(pair)]
    if inner is None or children is None or (name == "dict" and len(children) != len(inner)):
        raise FormatError(f"{what} has a label of unknown kind {kind!r:.60}: upgrade benchkit")
    for child in children:
        check_kind(child, what=what, depth=depth + 1)


def _is_key_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)


def _encode(value: Any, arrays: list[bytes], path: str, depth: int) -> tuple[Any, Any]:
    if depth > canonical.MAX_DEPTH:
        raise LabelTypeError(f"{path[:80]}… is nested more than {canonical.MAX_DEPTH} deep")
    cls = type(value)
    if value is None or cls in (bool, int, str):
        return value, "json"
    if cls is float:
        return (value, "json") if math.isfinite(value) else (_float_text(value), "float")
    if cls in (list, tuple):
        return _encode_items(value, arrays, path, depth)
    if cls is dict:
        return _encode_dict(value, arrays, path, depth)
    if cls is np.ndarray or (isinstance(value, np.generic) and cls in _SCALAR_TYPES):
        return _encode_numpy(value, arrays, path)
    if is_tensor(value):
        array, dtype = tensor_to_array(value)
        arrays.append(encode_array(array))
        return None, {"tensor": dtype}
    raise LabelTypeError(
        f"{path} is of type {cls.__module__}.{cls.__qualname__}; what can be stored: {_STORABLE}"
    )


def _encode_items(value: Any, arrays: list[bytes], path: str, depth: int) -> tuple[Any, Any]:
    pairs = [_encode(item, arrays, f"{path}[{n}]", depth + 1) for n, item in enumerate(value)]
    kinds = [kind for _, kind in pairs]
    same = all(kind == kinds[0] for kind in kinds)
    if type(value) is list and same and (not kinds or kinds[0] == "json"):
        return [item for item, _ in pairs], "json"
    inner = (kinds[0] if kinds else "json") if same else kinds
    return [item for item, _ in pairs], {type(value).__name__: inner}


def _encode_dict(value: dict[Any, Any], arrays: list[bytes], path: str, depth: int) -> tuple[Any, Any]:
    values: dict[str, Any] = {}
    kinds: list[list[Any]] = []
    for key, item in value.items():
        if type(key) not in (str, int):
            raise LabelTypeError(
                f"{path} has the key {key!r:.60} of type {type(key).__name__}; keys are str or int"
            )
        if str(key) in values:
            raise LabelTypeError(
                f"{path} has the keys {str(key)!r} and {key!r}, which JSON cannot tell apart"
            )
        values[str(key)], kind = _encode(item, arrays, f"{path}[{key!r:.60}]", depth + 1)
        kinds.append([key, kind])
    plain = all(kind == "json" and type(key) is str for key, kind in kinds)
    return values, "json" if plain else {"dict": kinds}


def _encode_numpy(value: Any, arrays: list[bytes], path: str) -> tuple[Any, Any]:
    if value.dtype.hasobject:
        raise LabelTypeError(
            f"{path} is an array of Python objects ({value.dtype}); what can be stored: {_STORABLE}"
        )
    name = _scalar_name(value) if isinstance(value, np.generic) else None
    if name is None:
        arrays.append(encode_array(np.asarray(value)))
        return None, "array" if type(value) is np.ndarray else "scalar"
    item = value.item()
    if isinstance(item, float) and not math.isfinite(item):
        item = _float_text(item)
    return item, {"scalar": name}


def _scalar_name(value: np.generic) -> str | None:
    """Return the dtype of a scalar whose value JSON holds exactly, else None."""
    name = "str" if type(value) is np.str_ else value.dtype.name
    native = value.dtype.newbyteorder("=") == value.dtype
    return name if name in _TEXT_SCALARS and native else None


def _float_text(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(value: Any, kind: Any, next_array: Callable[[], bytes], what: str) -> Any:
    if isinstance(kind, str):
        if kind == "json":
            return value
        if kind == "float":
            return _float_of(value, what)
        array = decode_array(next_array(), what=f"an array of the label of {what}")
        return array if kind == "array" else array[()]
    ((name, inner),) = kind.items()
    if name == "tensor":
        array = decode_array(next_array(), what=f"an array of the label of {what}")
        if array.dtype.name != array_dtype(inner):
            raise FormatError(
                f"the label of {what} has an array of {array.dtype} where its kind says {inner}"
            )
        return array_to_tensor(array, inner)
    if name == "scalar":
        return _scalar_of(value, inner, what)
    if name == "dict":
        if (
            not isinstance(value, dict)
            or len(value) != len(inner)
            or any(str(key) not in value for key, _ in inner)
        ):
            raise FormatError(f"the label of {what} is no dict with the keys its kind has")
        return {key: _decode(value[str(key)], child, next_array, what) for key, child in inner}
    if not isinstance(value, list) or (isinstance(inner, list) and len(inner) != len(value)):
        raise FormatError(f"the label of {what} is no list of the length its kind has")
    children = inner if isinstance(inner, list) else [inner] * len(value)
    items = [_decode(item, child, next_array, what) for item, child in zip(value, children, strict=True)]
    return tuple(items) if name == "tuple" else items


def _float_of(value: Any, what: str) -> float:
    if isinstance(value, str) and value in _FLOAT_TEXTS:
        return _FLOAT_TEXTS[value]
    raise FormatError(f"the label of {what} has {value!r:.60} where its kind says a float")


def _scalar_of(value: Any, dtype: str, what: str) -> Any:
    wanted = (
        str if dtype == "str" else bool if dtype == "bool" else float if dtype.startswith("float") else int
    )
    if wanted is float and isinstance(value, str):
        value = _float_of(value, what)
    if type(value) is not wanted:
        raise FormatError(f"the label of {what} has {value!r:.60} where its kind says {dtype}")
    try:
        return np.str_(value) if dtype == "str" else np.dtype(dtype).type(value)
    except OverflowError as error:
        raise FormatError(f"the label of {what} has {value!r:.60}, too large for {dtype}") from error
