"""Ballast: free memory is filled with page cache before a measurement, as on a machine in use.

A virtual machine gives memory that is free back to its host, and takes long to get it again. Where memory is
full, who needs a page gets one whose contents nobody waits for, in a tenth of that time.
"""

from __future__ import annotations

from pathlib import Path

import psutil

LEFT_BYTES = 384 << 20
_PIECE_BYTES = 8 << 20


class Ballast:
    """A file without contents, read to fill memory; it takes no room on the disk.

    Args:
        path: Where it is made.
        left_bytes: How much memory may stay free.
    """

    def __init__(self, path: Path, *, left_bytes: int = LEFT_BYTES) -> None:
        self._path = path
        self._left_bytes = left_bytes
        self._size = psutil.virtual_memory().total
        self._at = 0
        with path.open("wb") as file:
            file.truncate(self._size)

    def fill(self) -> None:
        """Read on where the last call stopped, until little memory is free, or all of the file was read."""
        with self._path.open("rb", buffering=0) as file:
            for _ in range(0, self._size, _PIECE_BYTES):
                if psutil.virtual_memory().free <= self._left_bytes:
                    break
                file.seek(self._at)
                self._at += len(file.read(_PIECE_BYTES))
                self._at %= self._size

    def remove(self) -> None:
        """Remove the file, and give the memory back."""
        self._path.unlink()
