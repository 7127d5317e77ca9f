"""The store's clock: the one by which ages are told, since everybody else's differ."""

from __future__ import annotations

from benchkit.errors import ObjectNotFoundError
from benchkit.store.base import Store


def read_clock(store: Store, name: str, data: bytes = b"") -> float:
    """Return the store's time, seconds since 1970: that of an object which is written now, and removed."""
    store.write(name, data)
    try:
        info = store.stat(name)
        if info is None:
            raise ObjectNotFoundError(f"{store.url} has lost {name}, which was written just now")
        return info.modified
    finally:
        store.delete(name)
