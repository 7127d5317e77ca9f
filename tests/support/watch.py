"""A watch over a cache folder, in a process of its own: the most that it is seen to hold."""

from __future__ import annotations

import mmap
import os
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from benchkit.store.locks import open_locked

if TYPE_CHECKING:
    from typing_extensions import Self


class Watch:
    """Adds up all files of a folder again and again, whatever they are; a context manager.

    It does so under the folder's lock: while nobody else has that, nothing comes or goes.

    Attributes:
        looks: How often it has looked.
        peak_bytes: The most that it saw.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._told = mmap.mmap(-1, 16)  # shared with the process that watches

    @property
    def looks(self) -> int:
        return int.from_bytes(self._told[:8], "big")

    @property
    def peak_bytes(self) -> int:
        return int.from_bytes(self._told[8:], "big")

    def __enter__(self) -> Self:
        self._child = os.fork()
        if self._child == 0:
            try:
                self._watch()
            finally:
                os._exit(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self._child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(self._child, 0)[1]), "the watch had ended by itself"

    def _watch(self) -> None:
        while True:
            if self._cache.exists():
                with open_locked(self._cache / "cache.lock", shared=False, create=True):
                    held = sum(path.stat().st_size for path in self._cache.rglob("*") if path.is_file())
                self._told[:8] = (self.looks + 1).to_bytes(8, "big")
                self._told[8:] = max(self.peak_bytes, held).to_bytes(8, "big")
            time.sleep(0.002)
