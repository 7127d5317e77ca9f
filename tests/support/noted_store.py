"""A store that notes every fetch of a chunk, in a file that all processes share, and can be slow about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from benchkit.format.layout import is_chunk_name
from benchkit.store.local import LocalStore


class NotedStore:
    """A local store that notes the name of every chunk streamed whole in a file, and can be slow about it."""

    def __init__(self, folder: Path, *, pause_seconds: float = 0.0, block_bytes: int = 1 << 20) -> None:
        self._inner = LocalStore(folder)
        self._notes = folder.parent / f"{folder.name}.notes"
        self._pause_seconds = pause_seconds
        self._block_bytes = block_bytes
        self.url = self._inner.url
        for method in ("read", "write", "stat", "list", "delete"):
            setattr(self, method, getattr(self._inner, method))

    def stream(self, name: str, **part: int | None) -> Iterator[bytes]:
        if part.get("length") is not None:
            yield from self._inner.stream(name, **part)
            return
        if is_chunk_name(name):
            with self._notes.open("a") as notes:
                notes.write(name + "\n")
        for block in self._inner.stream(name, **part):
            for start in range(0, len(block), self._block_bytes):
                time.sleep(self._pause_seconds)
                yield block[start : start + self._block_bytes]

    def fetches(self) -> list[str]:
        return self._notes.read_text().splitlines() if self._notes.exists() else []
