"""Staging before the remote: chunks that staging need not hold are read from where it is uploaded to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchkit.format.layout import is_chunk_name
from benchkit.settings import Settings
from benchkit.store.base import ObjectInfo, Store
from benchkit.store.local import LocalStore
from benchkit.store.urls import open_remote


@dataclass(frozen=True)
class LayeredStore:
    """Two stores as one; see `benchkit.store.base.Store` for what its methods promise.

    A chunk that the front lacks is looked for behind. All else is the front's alone: the other store has
    versions of its own, and nothing is listed, written or deleted there.

    Attributes:
        front: The store that comes first.
        open_behind: Opens the other one; called when a chunk is missing from the front, and not before.
    """

    front: Store
    open_behind: Callable[[], Store]
    _opened: list[Store] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def url(self) -> str:
        """The URL of the front."""
        return self.front.url

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of the object."""
        return self._holder(name).read(name, start=start, length=length)

    def stream(self, name: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a range of the object in blocks."""
        yield from self._holder(name).stream(name, start=start, length=length)

    def write(self, name: str, source: bytes | Path) -> None:
        """Store the object in the front."""
        self.front.write(name, source)

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's size and time."""
        return self._holder(name).stat(name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects of the front in order of name."""
        return self.front.list(prefix)

    def delete(self, name: str) -> None:
        """Remove the object from the front."""
        self.front.delete(name)

    @property
    def _behind(self) -> Store:
        if not self._opened:  # no lock: one that a thread holds during a fork is never free in the child
            self._opened.append(self.open_behind())
        return self._opened[0]

    def _holder(self, name: str) -> Store:
        return self._behind if is_chunk_name(name) and not self.front.stat(name) else self.front


def open_staging(settings: Settings) -> LayeredStore:
    """Return the staging of a project; chunks that it need not hold are read from the project's remote."""
    return LayeredStore(LocalStore(settings.staging), partial(open_remote, settings))
