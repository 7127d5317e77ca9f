"""Labels: numeric data of any nesting as JSON and arrays, and back with the same values and types.

A label becomes a text (`.cls` or `.json`, what a stranger would expect), a list of arrays (`.npy`), and a
kind, which says what the text cannot: that a list was a tuple, or a number a NumPy scalar.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchkit.errors import FormatError, LabelTypeError
from benchkit.format import canonical
from benchkit.format.arrays import decode_array, encode_array
from benchkit.format.kinds import TEXT_SCALARS
from benchkit.format.tensors import array_to_tensor, is_tensor, tensor_to_array

MAX_TEXT_BYTES = 64 << 20
MAX_INT_DIGITS = 4300
"""The most digits that Python reads unless it is told otherwise."""

_STORABLE = (
    "int, float, bool, str, None, NumPy scalars and arrays, torch tensors, lists, tuples and dicts of these"
)
_INT_LIMIT = 10**MAX_INT_DIGITS
_INT_TEXT = re.compile(rf"0|-?[1-9][0-9]{{0,{MAX_INT_DIGITS - 1}}}")
_SCALAR_NAMES = {np.dtype(name).type: name for name in reversed(TEXT_SCALARS)}
_SCALAR_TYPES = frozenset(np.sctypeDict.values()) - {np.object_}
_FLOAT_TEXTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

# Where a value stands in its label: the place of its container, and its number or key there.
_Place = tuple[Any, ...]


class EncodedLabel(NamedTuple):
    """A label as a chunk holds it: kind, and its members: text of `.cls` or `.json`, each `.npy` in order."""

    kind: Any
    parts: tuple[bytes, ...]


def encode_label(label: object) -> EncodedLabel:
    """Return the label as members and kind; `decode_label` gives back the same value, type for type.

    Raises:
        LabelTypeError: A value in it is of a type that is not stored; the message says where and which.
    """
    if type(label) is int:
        return EncodedLabel("cls", (b"%d" % _check_int(label, ()),))
    encoder = _Encoder(float_kind="json")
    value, kind = encoder.encode(label, (), 1)
    if encoder.met_odd_float:
        # All floats are marked, not the odd ones alone: else every pattern of NaN would be a kind of its own.
        encoder = _Encoder(float_kind="float")
        value, kind = encoder.encode(label, (), 1)
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise LabelTypeError(f"the label holds a str that is not Unicode text: {error}") from error
    if len(text) > MAX_TEXT_BYTES:
        raise LabelTypeError(
            f"the label has {len(text)} bytes of JSON, at most {MAX_TEXT_BYTES} are stored: "
            "use NumPy arrays for its numbers, or a file"
        )
    return EncodedLabel(kind, (text, *encoder.arrays))


def decode_label(kind: Any, text: bytes, arrays: Sequence[bytes], *, what: object) -> Any:
    """Return the label.

    Args:
        kind: The tree that `encode_label` gave, checked by `check_kind`.
        text: Contents of the `.cls` or `.json` member.
        arrays: Contents of the sample's `.npy` members.
        what: The sample, for messages.

    Raises:
        FormatError: Text, arrays and kind do not fit each other.
    """
    rest = iter(arrays)
    if kind == "cls":
        label: Any = _int_of(text.decode("ascii", "replace"), what)
    else:
        value = canonical.decode(text, what=what, max_bytes=MAX_TEXT_BYTES)
        label = value if kind == "json" else _decode(value, kind, rest, what)
    if next(rest, None) is not None:
        raise FormatError(f"the label of {what} has more arrays than its kind says")
    return label


def decode_int(text: bytes) -> int | None:
    """Return the label that a `.cls` member holds, or None where it is not as `encode_label` writes it."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if b"%d" % number == text else None


class _Encoder:
    """One pass over a label: gives every value's text and kind, and collects the arrays."""

    def __init__(self, *, float_kind: str) -> None:
        self.arrays: list[bytes] = []
        self.met_odd_float = False
        self._float_kind = float_kind

    def encode(self, value: Any, place: _Place, depth: int) -> tuple[Any, Any]:
        cls = type(value)
        if value is None or cls is bool or cls is str:
            return value, "json"
        if cls is int:
            return _check_int(value, place), "json"
        if cls is float:
            odd = not math.isfinite(value)
            self.met_odd_float |= odd
            return _float_text(value) if odd else value, self._float_kind
        if cls in (list, tuple, dict):
            if depth > canonical.MAX_DEPTH:
                raise LabelTypeError(f"the label is nested more than {canonical.MAX_DEPTH} deep")
            return (
                self._encode_dict(value, place, depth)
                if cls is dict
                else self._encode_items(value, place, depth)
            )
        if cls is np.ndarray or (isinstance(value, np.generic) and cls in _SCALAR_TYPES):
            return self._encode_numpy(value, place)
        if is_tensor(value):
            return self._encode_tensor(value, place)
        raise LabelTypeError(
            f"{_describe(place)} is of type {cls.__module__}.{cls.__qualname__}; "
            f"what can be stored: {_STORABLE}"
        )

    def _encode_items(self, value: Any, place: _Place, depth: int) -> tuple[Any, Any]:
        pairs = [self.encode(item, (place, n), depth + 1) for n, item in enumerate(value)]
        items, kinds = [item for item, _ in pairs], [kind for _, kind in pairs]
        kind = _common(kinds)
        if type(value) is list and kind == "json":
            return items, "json"
        return items, {type(value).__name__: kinds if kind is None else kind}

    def _encode_dict(self, value: dict[Any, Any], place: _Place, depth: int) -> tuple[Any, Any]:
        values: dict[str, Any] = {}
        kinds: list[Any] = []
        for key, item in value.items():
            if type(key) not in (str, int):
                raise LabelTypeError(
                    f"{_describe(place)} has the key {key!r:.60} of type {type(key).__name__}; "
                    "keys are str or int"
                )
            name = str(_check_int(key, place)) if type(key) is int else key
            if name in values:
                raise LabelTypeError(
                    f"{_describe(place)} has the keys {name!r:.60} and {int(name)}, "
                    "which JSON cannot tell apart"
                )
            values[name], kind = self.encode(item, (place, key), depth + 1)
            kinds.append(kind)
        key_types = {type(key) for key in value} or {str}
        common = _common(kinds)
        if common is None or len(key_types) > 1:
            return values, {"dict": [[key, kind] for key, kind in zip(value, kinds, strict=True)]}
        if key_types == {int}:
            return values, {"int_dict": common}
        return values, "json" if common == "json" else {"dict": common}

    def _encode_numpy(self, value: Any, place: _Place) -> tuple[Any, Any]:
        name = _SCALAR_NAMES.get(type(value))
        if name is not None:
            return _scalar_text(value, name), {"scalar": name}
        try:
            self.arrays.append(encode_array(np.asarray(value)))
        except ValueError as error:
            raise LabelTypeError(f"{_describe(place)}: {error}; what can be stored: {_STORABLE}") from error
        return None, "array" if type(value) is np.ndarray else "scalar"

    def _encode_tensor(self, value: Any, place: _Place) -> tuple[Any, Any]:
        try:
            array, dtype = tensor_to_array(value)
        except LabelTypeError as error:
            raise LabelTypeError(f"{_describe(place)}: {error}") from error
        self.arrays.append(encode_array(array))
        return None, {"tensor": dtype}


def _common(kinds: list[Any]) -> Any:
    """Return the kind that all have, `json` where there is none, or None where they differ."""
    first = kinds[0] if kinds else "json"
    return first if all(kind == first for kind in kinds) else None


def _check_int(value: int, place: _Place) -> int:
    if not -_INT_LIMIT < value < _INT_LIMIT:
        raise LabelTypeError(f"{_describe(place)} holds an int of more than {MAX_INT_DIGITS} digits")
    return value


def _describe(place: _Place) -> str:
    parts: list[str] = []
    while place:
        place, part = place
        parts.append(f"[{part!r:.60}]")
    return "label" + "".join(reversed(parts))


def _scalar_text(value: Any, name: str) -> Any:
    if name == "str":
        return "".join(value)  # NumPy's own conversions drop zeros at the end
    if name == "bytes":
        return value.decode("latin-1")
    item = value.item()
    return item if name[:5] != "float" or math.isfinite(item) else _float_text(item)


def _float_text(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(value: Any, kind: Any, arrays: Iterator[bytes], what: object) -> Any:
    if kind == "json":
        return value
    if kind == "float":
        return _float_of(value, "float", what)
    name, inner = (kind, "") if isinstance(kind, str) else next(iter(kind.items()))
    if name == "scalar" and inner:
        return _scalar_of(value, inner, what)
    if name in ("list", "tuple"):
        return _decode_items(value, name, inner, arrays, what)
    if name in ("dict", "int_dict"):
        return _decode_dict(value, name, inner, arrays, what)
    if value is not None:
        raise FormatError(f"the label of {what} has {value!r:.60} where its kind says an array")
    data = next(arrays, None)
    if data is None:
        raise FormatError(f"the label of {what} has fewer arrays than its kind says")
    array = decode_array(data, what=what)
    if name == "tensor":
        return array_to_tensor(array, inner, what=what)
    if name == "scalar" and array.ndim:
        raise FormatError(f"the label of {what} has an array of {array.ndim} dimensions for a scalar")
    return array if name == "array" else array[()]


def _decode_items(value: Any, name: str, inner: Any, arrays: Iterator[bytes], what: object) -> Any:
    if not isinstance(value, list) or (isinstance(inner, list) and len(inner) != len(value)):
        raise FormatError(f"the label of {what} is no list of the length its kind has")
    kinds = inner if isinstance(inner, list) else [inner] * len(value)
    items = [_decode(item, kind, arrays, what) for item, kind in zip(value, kinds, strict=True)]
    return tuple(items) if name == "tuple" else items


def _decode_dict(value: Any, name: str, inner: Any, arrays: Iterator[bytes], what: object) -> Any:
    if not isinstance(value, dict):
        raise FormatError(f"the label of {what} is no dict where its kind says one")
    if not isinstance(inner, list):
        return {
            _int_of(key, what) if name == "int_dict" else key: _decode(item, inner, arrays, what)
            for key, item in value.items()
        }
    if [str(key) for key, _ in inner] != list(value):
        raise FormatError(f"the label of {what} is no dict with the keys its kind has")
    return {key: _decode(value[str(key)], kind, arrays, what) for key, kind in inner}


def _int_of(text: str, what: object) -> int:
    if not _INT_TEXT.fullmatch(text):
        raise _misfit(text, "int", what)
    return int(text)


def _float_of(value: Any, dtype: str, what: object) -> float:
    if type(value) is float:
        return value
    if isinstance(value, str) and value in _FLOAT_TEXTS:
        return _FLOAT_TEXTS[value]
    raise _misfit(value, dtype, what)


def _scalar_of(value: Any, dtype: str, what: object) -> Any:
    letter = np.dtype(dtype).kind
    if letter == "f":
        value = _float_of(value, dtype, what)
    if not _fits(value, dtype, letter):
        raise _misfit(value, dtype, what)
    return np.bytes_(value.encode("latin-1")) if letter == "S" else np.dtype(dtype).type(value)


def _fits(value: Any, dtype: str, letter: str) -> bool:
    """Return whether a NumPy scalar of the dtype holds the value exactly."""
    if letter == "f":
        with np.errstate(over="ignore"):
            return math.isnan(value) or float(np.dtype(dtype).type(value)) == value
    if letter in "US":
        return type(value) is str and (letter == "U" or max(value, default="") <= "\xff")
    if letter == "b":
        return type(value) is bool
    return type(value) is int and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _misfit(value: Any, kind: str, what: object) -> FormatError:
    return FormatError(f"the label of {what} has {value!r:.60} where its kind says {kind}")
