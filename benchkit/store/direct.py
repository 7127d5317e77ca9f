"""Files written past the page cache, where the file system does that (`O_DIRECT`, open(2)).

What is packed is not read again soon: in the page cache it would take the place of what is, and filling it
costs more than putting the bytes together. Whole blocks go straight to the disk; what is left at the end, and
all where that is not to be had, goes through the cache as ever.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import Protocol

import numpy as np

_BLOCK_BYTES = 4096
"""Places in the file and in memory, and lengths, are multiples of it: enough for every common disk."""
_BUFFER_BYTES = 1 << 20
_DIRECT = getattr(os, "O_DIRECT", 0)
_REFUSALS = {errno.EINVAL, errno.EOPNOTSUPP}


class _Open(Protocol):
    """An open file; its descriptor is -1 once it is closed."""

    fd: int


class DirectWriter:
    """Writes a file from its beginning to its end.

    Args:
        file: The file, open for writing, at its beginning. Nothing is written once it is closed.
    """

    def __init__(self, file: _Open) -> None:
        self._file = file
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        self._used = 0
        self._direct = bool(_DIRECT) and self._switch(_DIRECT)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._file.fd

    def write(self, data: bytes | memoryview) -> int:
        """Take all of the bytes."""
        view = memoryview(data)
        if not self._used and _address(view) % _BLOCK_BYTES == 0:
            whole = len(view) - len(view) % _BLOCK_BYTES
            self._send(view[:whole])
            view = view[whole:]
        while view:
            taken = min(len(view), _BUFFER_BYTES - self._used)
            self._buffer[self._used : self._used + taken] = view[:taken]
            self._used += taken
            view = view[taken:]
            if self._used == _BUFFER_BYTES:
                self._send(self._buffer)
                self._used = 0
        return len(data)

    def flush(self) -> None:
        """Write out what was taken; nothing is written past the cache from then on."""
        whole = self._used - self._used % _BLOCK_BYTES
        self._send(self._buffer[:whole])
        self._write_cached()
        self._send(self._buffer[whole : self._used])
        self._used = 0

    def _send(self, view: memoryview) -> None:
        while view:
            try:
                written = os.write(self._file.fd, view)
            except OSError as error:
                if error.errno not in _REFUSALS or not self._direct:
                    raise
                self._write_cached()  # a file system that only then says that it cannot, or has larger blocks
                continue
            view = view[written:]
            if written % _BLOCK_BYTES:
                self._write_cached()

    def _write_cached(self) -> None:
        if self._direct:
            self._direct = False
            self._switch(0)

    def _switch(self, direct: int) -> bool:
        """Write past the cache or not; return whether the file system does as it is told."""
        flags = fcntl.fcntl(self._file.fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._file.fd, fcntl.F_SETFL, flags & ~_DIRECT | direct)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            return False
        return True


def _address(view: memoryview) -> int:
    address: int = np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0]
    return address
