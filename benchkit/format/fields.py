"""The fields of a JSON object that is not trusted, read key by key."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from benchkit.errors import FormatError
from benchkit.format.digests import is_digest

_MAX_COUNT = (1 << 62) - 1


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON value that should be an object; every method raises `FormatError` where it is not as asked.

    Attributes:
        fields: The value.
        what: What it is, for messages.
    """

    fields: Any
    what: str

    def only(self, *names: str) -> None:
        """Refuse anything but an object with exactly these keys."""
        if not isinstance(self.fields, dict):
            raise FormatError(f"{self.what} is no object")
        unknown, missing = set(self.fields) - set(names), set(names) - set(self.fields)
        if unknown:
            raise FormatError(f"{self.what} has the unknown key {min(unknown)!r:.60}: upgrade benchkit")
        if missing:
            raise FormatError(f"{self.what} lacks the key {min(missing)!r}")

    def value(self, name: str, kind: type) -> Any:
        """Return a value of exactly this type."""
        value = self.fields[name]
        if type(value) is not kind:
            raise FormatError(f"{name!r} of {self.what} is {value!r:.60}, not of type {kind.__name__}")
        return value

    def optional(self, name: str, kind: type) -> Any:
        """Return a value of exactly this type, or None."""
        return None if self.fields[name] is None else self.value(name, kind)

    def count(self, name: str) -> int:
        """Return an integer from 0 on that fits into 62 bits."""
        value: int = self.value(name, int)
        if not 0 <= value <= _MAX_COUNT:
            raise FormatError(f"{name!r} of {self.what} is {value!r:.60}, not a count")
        return value

    def choice(self, name: str, *known: str) -> str:
        """Return one of the known texts."""
        value: str = self.value(name, str)
        if value not in known:
            raise FormatError(
                f"{name!r} of {self.what} is {value!r:.60}, not one of {', '.join(known)}: upgrade benchkit"
            )
        return value

    def digest(self, name: str) -> str:
        """Return a digest."""
        value: str = self.value(name, str)
        if not is_digest(value):
            raise FormatError(f"{name!r} of {self.what} is {value!r:.60}, not a digest")
        return value

    def bitmap(self, name: str) -> bytes:
        """Return the bytes that base64 holds."""
        try:
            return base64.b64decode(self.value(name, str), validate=True)
        except ValueError as error:
            raise FormatError(f"{name!r} of {self.what} is not base64: {error}") from error
