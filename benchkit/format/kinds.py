"""The kind: the exact types of a label, a small tree beside its text and arrays.

Kinds follow types, not values, so they are few; a chunk stores each once. A kind is one of

    "cls"                        an int, alone; the text is its decimal digits
    "json"                       what JSON gives back by itself: None, bool, int, float, str, list, dict
    "float"                      a float: a number, or the text "NaN", "Infinity" or "-Infinity"
    "array"                      a numpy.ndarray: null in the text, the array in the next member
    "scalar"                     a NumPy scalar: null in the text, a 0-d array in the next member
    {"scalar": dtype}            a NumPy bool, integer, float of at most 64 bits, str or bytes: its value in
                                 the text (a float as above, bytes as Latin-1)
    {"tensor": dtype}            a torch.Tensor: null in the text, its values (or bits) in the next member
    {"list": K}, {"tuple": K}    K is one kind for all items, or a list of kinds, one for each
    {"dict": K}, {"int_dict": K} all keys are str, or all int; K is one kind for all values
    {"dict": [[key, kind], …]}   the keys, str or int, in the dict's own order
"""

from __future__ import annotations

from typing import Any

from benchkit.errors import FormatError
from benchkit.format.canonical import MAX_DEPTH
from benchkit.format.tensors import TENSOR_DTYPES

TEXT_SCALARS = (
    "bool", "int8", "int16", "int32", "int64", "longlong", "uint8", "uint16", "uint32", "uint64", "ulonglong",
    "float16", "float32", "float64", "str", "bytes",
)  # fmt: skip
"""The NumPy scalars whose values stand in the text, by the names of their dtypes."""

_SIMPLE = ("json", "float", "array", "scalar")
_CONTAINERS = ("list", "tuple", "dict", "int_dict")


def check_kind(kind: Any, *, what: str, depth: int = 1) -> None:
    """Raise `FormatError` unless the value, which is not trusted, is a kind as described at the top."""
    if isinstance(kind, str) and (kind in _SIMPLE or (kind == "cls" and depth == 1)):
        return
    name, inner = next(iter(kind.items())) if isinstance(kind, dict) and len(kind) == 1 else ("", None)
    if isinstance(inner, str) and inner in {"scalar": TEXT_SCALARS, "tensor": TENSOR_DTYPES}.get(name, ()):
        return
    children = _children(name, inner)
    if children is None:
        raise FormatError(f"{what} has a label of unknown kind {kind!r:.60}: upgrade benchkit")
    if depth > MAX_DEPTH:
        raise FormatError(f"a kind in {what} is nested more than {MAX_DEPTH} deep")
    for child in children:
        check_kind(child, what=what, depth=depth + 1)


def _children(name: str, inner: Any) -> list[Any] | None:
    """Return what stands in the kind of a container, or None where it is no such kind."""
    if name not in _CONTAINERS:
        return None
    if not isinstance(inner, list):
        return [inner]
    if name in ("list", "tuple"):
        return inner
    if name == "int_dict" or not all(_is_key_pair(pair) for pair in inner):
        return None
    unique = len({str(key) for key, _ in inner}) == len(inner)
    return [child for _, child in inner] if unique else None


def _is_key_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and type(pair[0]) in (str, int)
