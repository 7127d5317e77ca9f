"""The store protocol: six methods over named objects, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchkit.errors import UsageError

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """One object: name, size in bytes, and when it was written (seconds since 1970, the store's clock)."""

    name: str
    size: int
    modified: float


class Store(Protocol):
    """Where objects live. Names are POSIX paths without empty, `.` or `..` components (see `check_name`).

    Implementations translate every failure to `StoreError`; a missing object is `ObjectNotFoundError`.
    They hold no open connections when pickled or forked.
    """

    @property
    def url(self) -> str:
        """The URL that opens this store again; free of secrets."""
        ...

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start` (None: all that follow); past the end is an error."""
        ...

    def stream(self, name: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield what `read` returns, in blocks of at most a few MiB as they come."""
        ...

    def write(self, name: str, source: bytes | Path) -> None:
        """Store bytes, or a file's contents, under the name: whole or not at all, replacing the old."""
        ...

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's size and time, or None where there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose names begin with the prefix, in order of name."""
        ...

    def delete(self, name: str) -> None:
        """Remove the object; removing what is not there is no error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A write that has not ended: its key in the store, the object it was for, and when it was begun.

    Attributes:
        key: What `discard` takes.
        name: The object's name, or empty where the store does not know it.
        size: Bytes that it holds so far; 0 where the store does not tell.
        modified: Seconds since 1970, the store's clock.
        abandoned: Whether its writer is known to be dead, so that its age does not matter.
    """

    key: str
    name: str
    size: int
    modified: float
    abandoned: bool = False


@runtime_checkable
class Sweepable(Protocol):
    """A store in which killed writers leave something that is no object."""

    def unfinished(self) -> Iterator[Unfinished]:
        """Yield the writes that have not ended and whose writers are not known to live."""
        ...

    def discard(self, unfinished: Unfinished) -> None:
        """Remove what such a write has left; what is gone already is no error."""
        ...


def check_name(name: str) -> str:
    """Return the object name if it is one, else raise `UsageError`.

    Args:
        name: Components of printable characters joined by `/`; none empty, `.`, `..` or with a backslash.
    """
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
        raise UsageError(
            f"{name!r} is no object name: components of printable characters joined by single slashes"
        )
    return name
