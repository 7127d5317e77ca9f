"""Tars read into the page cache whole, ahead of rows that are read from them in no order.

A disk gives a tar in less time than its rows one after the other, and what comes in one go lies there in
larger pieces, which take less to copy from.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchkit.stream.open_chunk import OpenChunk

MOST_BYTES = 128 << 20
"""Larger tars are left alone: the many that are open may be more together than the memory there is."""
_PLACES = 8


class ReadAhead:
    """Reads tars one after the other, in a thread that lives as long as there are any.

    Each is read once until `stop`: where there is too little room to keep chunks open, or too little
    memory, rows are better read by themselves than with their whole chunks again and again.
    """

    def __init__(self) -> None:
        self._asked: set[Path] = set()
        self._waiting: deque[Path] = deque()
        self._lock = threading.Lock()
        self._reading = False

    def ask(self, tars: Iterable[OpenChunk]) -> None:
        """Have tars read, those that are not in memory yet."""
        new = [tar for tar in tars if tar.path not in self._asked]
        self._asked.update(tar.path for tar in new)
        absent = [tar.path for tar in new if tar.size <= MOST_BYTES and not _is_in_memory(tar)]
        with self._lock:
            self._waiting.extend(absent)
            if not self._waiting or self._reading:
                return
            self._reading = True
        threading.Thread(target=self._read, name="benchkit-read-ahead", daemon=True).start()

    def stop(self) -> None:
        """Read none but the one that is being read, and any again when asked: the pass is over."""
        with self._lock:
            self._waiting.clear()
        self._asked.clear()

    def _read(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._reading = False
                    return
                path = self._waiting.popleft()
            with suppress(OSError), path.open("rb") as tar, open(os.devnull, "wb") as nowhere:
                # Nothing is copied: see sendfile(2).
                os.sendfile(nowhere.fileno(), tar.fileno(), 0, MOST_BYTES)


def _is_in_memory(tar: OpenChunk) -> bool:
    """Return whether the page cache has what stands at a few places of the tar, or cannot be asked."""
    if not hasattr(os, "RWF_NOWAIT"):  # Linux alone has it
        return True
    byte = [bytearray(1)]
    try:
        for place in range(_PLACES):
            os.preadv(tar.file.fd, byte, tar.size * place // _PLACES, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # some file systems do not tell
        return True
    return True
