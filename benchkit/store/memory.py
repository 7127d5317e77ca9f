"""A store in memory, for tests and trials: the contract's smallest implementation."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchkit.errors import ObjectNotFoundError, StoreError
from benchkit.store.base import BLOCK_BYTES, ObjectInfo, check_name


class MemoryStore:
    """A dict as a store; see `benchkit.store.base.Store` for what its methods promise."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """Leave the lock behind; a pickled store is a copy."""
        return {"_objects": dict(self._objects)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def url(self) -> str:
        """A name that no other store can be opened by."""
        return "memory://"

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of the object."""
        return self._range(name, start, length)

    def stream(self, name: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a range of the object in blocks."""
        data = self._range(name, start, length)
        for begin in range(0, len(data), BLOCK_BYTES):
            yield data[begin : begin + BLOCK_BYTES]

    def write(self, name: str, source: bytes | Path) -> None:
        """Store the object."""
        check_name(name)
        try:
            data = source if isinstance(source, bytes) else source.read_bytes()
        except OSError as error:
            raise StoreError(f"{name} in {self.url} cannot be written: {error}") from error
        with self._lock:
            self._objects[name] = data, time.time()

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's size and time."""
        found = self._objects.get(check_name(name))
        return ObjectInfo(name=name, size=len(found[0]), modified=found[1]) if found else None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects in order of name."""
        with self._lock:
            found = sorted((name, entry) for name, entry in self._objects.items() if name.startswith(prefix))
        for name, (data, modified) in found:
            yield ObjectInfo(name=name, size=len(data), modified=modified)

    def delete(self, name: str) -> None:
        """Remove the object."""
        with self._lock:
            self._objects.pop(check_name(name), None)

    def _range(self, name: str, start: int, length: int | None) -> bytes:
        data, _ = self._get(name)
        end = len(data) if length is None else start + length
        if not 0 <= start <= end <= len(data):
            raise StoreError(f"{name} in {self.url} has no {length} bytes at {start}")
        return data[start:end]

    def _get(self, name: str) -> tuple[bytes, float]:
        found = self._objects.get(check_name(name))
        if found is None:
            raise ObjectNotFoundError(f"{self.url} has no object {name}")
        return found
