"""What a run is told, as JSON: metrics as lines, a configuration as a tree; pure functions."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from benchkit.errors import FormatError, UsageError
from benchkit.format import canonical

MAX_LINE_BYTES = 1 << 20
"""The most that one call logs."""

_MAX_NAME_CHARACTERS = 200
_MAX_TEXT_CHARACTERS = 10_000
_MAX_CONFIGURATION_DEPTH = 32
_INTEGERS = range(-(1 << 63), 1 << 64)
_STEPS = range(1 << 63)
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Scalar = int | float | str

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Logged:
    """What one call logged: step, time in seconds since 1970, and values by name."""

    step: int
    time: float
    values: dict[str, Scalar]


def check_step(step: object) -> int:
    """Return the step as an integer, else raise `UsageError`."""
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(step, bool) or number not in _STEPS:
        raise UsageError(f"the step {step!r:.60} is no whole number from 0 on")
    return number


def encode_logged(values: Mapping[str, Any], step: int, now: float) -> bytes:
    """Return a line of metrics; mappings within become names with a slash.

    Raises:
        UsageError: A name or value that cannot be logged; it is named.
    """
    if not isinstance(values, Mapping):
        raise UsageError(
            f"what is logged is {_kind(values)}, not values by name: log({{'loss': 0.5}}, step=1)"
        )
    plain: dict[str, Scalar] = {}
    for name, value in values.items():
        _add(plain, name, value)
    try:
        line = f'{{"step":{step},"time":{now:.3f},"values":{_encode(plain)}}}\n'.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"a text that is logged at step {step} has characters that are none") from error
    if len(line) > MAX_LINE_BYTES:
        raise UsageError(
            f"step {step} would log {len(line)} bytes, a call takes {MAX_LINE_BYTES}; save large data as "
            "a file in path_model_checkpoints()"
        )
    return line


def decode_logged(line: bytes) -> Logged:
    """Return what a line of metrics says; it is not trusted.

    Raises:
        FormatError: It is no such line.
    """
    fields = canonical.decode(line, what="a line of metrics", max_bytes=MAX_LINE_BYTES, max_depth=2)
    if not isinstance(fields, dict) or set(fields) != {"step", "time", "values"}:
        raise FormatError("a line of metrics has other keys than step, time and values")
    step, moment, values = fields["step"], fields["time"], fields["values"]
    if (
        type(step) is not int
        or step not in _STEPS
        or type(moment) not in (int, float)
        or not isinstance(values, dict)
    ):
        raise FormatError("a line of metrics has a step, time or values of another type")
    read: dict[str, Scalar] = {}
    for name, value in values.items():
        if type(value) is str:
            read[name] = _NOT_FINITE.get(value, value)
        elif type(value) is float or (type(value) is int and value in _INTEGERS):
            read[name] = value
        else:
            raise FormatError(f"a line of metrics has {name!r:.60}: {value!r:.60}")
    return Logged(step, moment, read)


def plain_configuration(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON: mappings, lists, texts, numbers, bools and None.

    Tuples become lists, paths texts, numbers of NumPy and tensors of one element numbers; what is not finite
    becomes a text.

    Raises:
        UsageError: A value of another type; it is named.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"a configuration is {_kind(values)}, not values by name")
    plain: dict[str, Any] = _plain(values, "")
    return plain


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration as one level, names joined by dots; lists stay as they are.

    >>> flatten({"lr": 0.1, "model": {"depth": 2, "sizes": [1, 2]}})
    {'lr': 0.1, 'model.depth': 2, 'model.sizes': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _add(plain: dict[str, Scalar], name: object, value: object) -> None:
    """Add one value, checked and made plain."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > _MAX_NAME_CHARACTERS:
        raise UsageError(
            f"{name!r:.60} is no name of a metric: 1 to {_MAX_NAME_CHARACTERS} printable characters"
        )
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _add(plain, f"{name}/{key}", inner)
        return
    value = _number(value)
    if isinstance(value, str) and len(value) <= _MAX_TEXT_CHARACTERS:
        plain[name] = value
    elif isinstance(value, int) and value in _INTEGERS:
        plain[name] = int(value)
    elif isinstance(value, float):
        plain[name] = float(value) if math.isfinite(value) else _name_of(value)
    else:
        raise UsageError(
            f"{name!r} is {_kind(value)}, which cannot be logged: a number, a tensor or array of one "
            f"element, or a text of up to {_MAX_TEXT_CHARACTERS:,} characters can"
        )


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    if depth > _MAX_CONFIGURATION_DEPTH:
        raise UsageError(
            f"the configuration is nested more than {_MAX_CONFIGURATION_DEPTH} deep at {where[:60]!r}…"
        )
    if isinstance(value, Mapping):
        dot = "." if where else ""
        return {
            _key(key, where): _plain(inner, f"{where}{dot}{key}", depth + 1) for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{where}[{number}]", depth + 1) for number, inner in enumerate(value)]
    value = str(value) if isinstance(value, PurePath) else _number(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value).encode(errors="backslashreplace").decode()
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_of(value)
    if isinstance(value, int) and value in _INTEGERS:
        return int(value)
    raise UsageError(
        f"{where!r:.80} of the configuration is {_kind(value)}: use numbers, texts, bools, None, lists, dicts"
    )


def _key(key: object, where: str) -> str:
    if isinstance(key, str | int) and not isinstance(key, bool) and str(key).isprintable():
        return str(key)
    raise UsageError(f"the configuration has the key {key!r:.60} in {where or 'it'!r}: write printable texts")


def _number(value: Any) -> Any:
    """Return the number in a tensor, array or NumPy scalar of one element; other values as they are."""
    if isinstance(value, int | float | str) or not callable(getattr(value, "item", None)):
        return value
    numel = getattr(value, "numel", None)
    size = numel() if callable(numel) else getattr(value, "size", None)
    return value.item() if size == 1 else value


def _name_of(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _kind(value: object) -> str:
    """Return what a value is, in a few words."""
    shape = getattr(value, "shape", None)
    if shape is not None and shape != ():
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, str):
        return f"a text of {len(value):,} characters"
    if isinstance(value, int):
        return f"an integer of {value.bit_length()} bits"
    return f"{value!r:.60} ({type(value).__name__})"
